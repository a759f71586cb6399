# METADATA
# title: United Kingdom
# description: >
#   UK GDPR and Data Protection Act 2018 as amended by the Data (Use and Access)
#   Act 2025, common law of confidentiality, National Data Opt-Out.
package consilium.law

import rego.v2

import data.consilium.facts

uk := input.site.uk

# Art. 84A-84D are in force since the day in the dated law.
ok["UK-84B"] if {
	data.law.uk.researchFrom <= input.now
	facts.research
	facts.safeguarded
	uk.noDamage
	no_decision
}

no_decision if uk.noIndividualDecision

no_decision if uk.approvedMedicalResearch

ok["UK-6"] if {
	uk.art6 == "6.1.a"
	input.site.consent == "required"
}

ok["UK-6"] if {
	uk.art6 == "6.1.e"
	uk_task_law
}

ok["UK-6"] if {
	uk.art6 == "6.1.f"
	uk.legitimateInterests != ""
	uk.publicAuthority == false
}

uk_task_law if {
	some l in data.law.taskLaws
	l.id == uk.taskLaw
	l.country == "GB"
	l.from <= input.now
	input.now < l.until
}

ok["UK-9"] if {
	uk.art9 == "9.2.a"
	uk.ethicsApproval != ""
	input.site.consent == "required"
}

ok["UK-9"] if {
	uk.art9 == "9.2.j"
	uk.publicInterest
}

ok["UK-9-ROW"] if uk.art9 == "9.2.j"

ok["UK-9-ROW"] if {
	facts.standing
	input.record.explicit
	input.record.evidence
}

# Unlike the Union's, Art. 13 knows the exception for effort in research since
# s. 77 of the Act of 2025.
ok["UK-13"] if facts.reached(uk.notice)

ok["UK-13"] if {
	uk.noticeReason != ""
	facts.reached(uk.publicNotice)
}

ok["UK-28"] if {
	every c in input.federation.coordinators {
		uk_contracted(c.id)
	}
}

uk_contracted(node) if {
	some p in uk.processors
	p.node == node
}

ok["UK-30"] if uk.record != ""

ok["UK-35"] if {
	uk.dpia != ""
	uk.highRiskConsulted
}

ok["UK-44"] if {
	every r in facts.concerned {
		uk_transfer(r)
	}
}

uk_transfer(r) if r.country == "GB"

uk_transfer(r) if {
	some a in data.law.adequacyUK
	a.country == r.country
	a.covers == "all"
	a.from <= input.now
	input.now < a.until
}

uk_transfer(r) if {
	some t in uk.transfers
	t.to == r.id
	t.tool in {"idta", "uk_addendum"}
	t.importer == "private"
	facts.recent(t.assessed)
}

uk_transfer(r) if {
	some t in uk.transfers
	t.to == r.id
	t.tool == "public_body_instrument"
	t.importer != "private"
	facts.recent(t.assessed)
}

ok["UK-CONFIDENTIALITY"] if {
	uk.confidentiality == "consent"
	input.site.consent == "required"
}

ok["UK-CONFIDENTIALITY"] if {
	uk.confidentiality == "s251"
	uk.support != ""
	input.now < uk.supportUntil
}

ok["UK-CONFIDENTIALITY-ROW"] if {
	uk.confidentiality == "s251"
	input.record.objected == false
}

ok["UK-CONFIDENTIALITY-ROW"] if {
	uk.confidentiality == "consent"
	facts.standing
}

ok["UK-NDO"] if uk.nation in {"Wales", "Scotland", "Northern Ireland"}

ok["UK-NDO"] if input.record.nhs_opt_out == false

# The opt-out does not reach what the person consented to.
ok["UK-NDO"] if {
	uk.confidentiality == "consent"
	facts.standing
}

ok["UK-21"] if input.record.objected == false

ok["UK-7.3"] if input.now < input.record.withdrawn_at

ok["UK-17"] if input.event.consentWasSoleGround == false

ok["UK-17"] if input.event.impairmentDocumented != ""
