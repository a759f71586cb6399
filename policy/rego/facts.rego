# METADATA
# title: Facts
# description: >
#   What several rules ask: who receives what, which artefacts count as
#   personal, which k is in force. Every set here is built from positive
#   evidence, so a missing fact makes a set smaller and a rule deny.
package consilium.facts

import rego.v2

used contains c.name if {
	some c in input.study.columns
	c.used
}

used_categories contains c.category if {
	some c in input.study.columns
	c.used
	not c.patient
}

uses_genetic if "genetic" in used_categories

uses_other if {
	some category in used_categories
	category != "genetic"
}

research if input.study.purpose.class in data.law.researchClasses

safeguarded if {
	s := input.study.legal.safeguards
	s.minimised
	s.accessLogged
	s.noReidentification
	pseudonymised_or_reason
}

pseudonymised_or_reason if input.study.legal.safeguards.pseudonymised

pseudonymised_or_reason if input.study.legal.identifiableReason != ""

within_window if {
	input.study.legal.start <= input.now
	input.now < input.study.legal.end
}

regimes contains r if some r in input.site.regimes

# k: the strictest of the core, the study and every board.
default_cohort := data.law.minCohort.default

cohorts contains default_cohort

cohorts contains input.study.min_cohort

cohorts contains b.minCohort if some b in data.boards

min_cohort := max(cohorts)

site_minima contains input.study.min_sites

site_minima contains b.minSites if some b in data.boards

min_sites := max(site_minima)

# A permit counts if the core knows it, the study asks for it and a board
# grants it.
permits contains p if {
	some p in input.study.permits
	data.law.permits[p]
	some b in data.boards
	p in b.permits
}

# The board's assessments that cover this study.
assessments contains a if {
	some b in data.boards
	some a in b.assessments
	a.id == input.study.legal.assessment
	input.study.dataset in a.datasets
	a.from <= input.now
	input.now < a.until
	count(input.study.analyses) > 0
	every x in input.study.analyses {
		x.type in a.analyses
	}
	every name in used {
		name in a.columns
	}
	input.study.min_sites >= a.minSites
	min_cohort >= a.minCohort
}

anonymous contains "anonymous_result"

anonymous contains artefact if {
	some a in assessments
	some artefact in a.artefacts
}

# Who receives what. Coordinators see ciphertexts; hospitals see key shares,
# opening shares, opened sums and states; the team sees the released result.
to_site := {"key_share", "opening_share", "aggregate", "round_state"}

to_coordinator := {"ciphertext_update", "key_share", "opening_share", "sealed_state"}

to_team := {"anonymous_result"}

recipients contains {"id": s.id, "country": s.country, "role": "site"} if {
	some s in input.federation.sites
	s.id != input.site.site
}

recipients contains {"id": c.id, "country": c.country, "role": "coordinator"} if some c in input.federation.coordinators

recipients contains {"id": input.federation.team.id, "country": input.federation.team.country, "role": "team"}

classes := {"site": to_site, "coordinator": to_coordinator, "team": to_team}

# Those who would get something that counts as personal.
personal_recipients contains r if {
	some r in recipients
	some class in classes[r.role]
	not class in anonymous
}

# The recipient of one message, at the transfer point.
addressee contains r if {
	some r in recipients
	r.id == input.artefact.to
	r.role == input.artefact.role
}

# All that the law of transfers must look at, at this point.
concerned contains r if {
	input.point != "transfer"
	some r in personal_recipients
}

concerned contains r if {
	not input.artefact.class in anonymous
	some r in addressee
}

in_eea(country) if country in data.law.eea.members

# An adequacy decision counts only if it covers every kind of recipient: which
# commercial or academic bodies a partial decision covers is not in the roster.
adequate_eu(country) if {
	some a in data.law.adequacyEU
	a.country == country
	a.covers == "all"
	a.from <= input.now
	input.now < a.until
}

adequate_ch(country) if {
	some a in data.law.adequacyCH.countries
	a.country == country
	a.covers == "all"
	a.from <= input.now
	input.now < a.until
}

# Contract clauses bind private importers only: federal agencies and state
# universities can accept neither the audit nor the foreign court.
tool_holds(tools, id) if {
	some t in tools
	t.to == id
	t.tool == "scc"
	t.module in {1, 2}
	t.importer == "private"
	recent(t.assessed)
}

tool_holds(tools, id) if {
	some t in tools
	t.to == id
	t.tool == "bcr"
	t.importer == "private"
	recent(t.assessed)
}

tool_holds(tools, id) if {
	some t in tools
	t.to == id
	t.tool == "public_body_instrument"
	t.importer != "private"
	recent(t.assessed)
}

tool_holds(tools, id) if {
	some t in tools
	t.to == id
	t.tool == "dpf"
	t.importer == "private"
	t.dpfListed
	t.dpfCoversData
	t.fallback != ""
}

day := 86400

recent(when) if {
	when != null
	when <= input.now
	input.now < when + (data.law.limits.reviewDays * day)
}

reached(when) if {
	when != null
	when <= input.now
}

# A parent's consent ends with the child's majority.
lapsed if {
	input.record.given_by == "parent"
	input.record.is_adult_now
}

# standing: a consent of the person (or of who acts for it) that holds now.
standing if {
	input.record.status == "active"
	input.record.given_by in {"self", "parent", "representative"}
	not lapsed
	input.record.valid_from <= input.now
	input.now < input.record.valid_to
	input.now < input.record.withdrawn_at
}

covers_area if {
	input.record.area == input.study.purpose.disease
	input.study.purpose.disease != ""
}

covers_area if input.record.area in data.law.diseases[input.study.purpose.disease].ancestors
