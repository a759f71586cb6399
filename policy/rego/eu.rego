# METADATA
# title: GDPR with Dutch and Danish law; other member states in files of their own
package consilium.law

import rego.v2

import data.consilium.facts

member_states := {r | some r in input.site.regimes; data.law.memberStates[r]}

ok["GDPR-MS"] if {
	count(member_states) == 1
	input.site.country in member_states
}

ok["GDPR-5.1.b"] if {
	facts.research
	facts.safeguarded
}

ok["GDPR-89"] if input.study.legal.safeguards.pseudonymised

ok["GDPR-89"] if "identifiable-records" in facts.permits

ok["GDPR-5.1.c"] if justified

ok["GDPR-5.1.e"] if {
	facts.within_window
	some e in input.study.legal.retention
	e.object == "working_copies"
	e.deleteBy < 9007199254740991
}

ok["GDPR-6-ONE"] if count(input.site.gdpr.art6) == 5

ok["GDPR-6"] if {
	startswith(input.site.gdpr.art6, "6.1.a")
	input.site.consent == "required"
}

ok["GDPR-6"] if {
	startswith(input.site.gdpr.art6, "6.1.e")
	task_law
}

ok["GDPR-6"] if {
	startswith(input.site.gdpr.art6, "6.1.c")
	task_law
}

ok["GDPR-6"] if {
	startswith(input.site.gdpr.art6, "6.1.f")
	input.site.gdpr.legitimateInterests != ""
	input.site.gdpr.publicAuthority == false
}

# Art. 6(3): a task needs a basis in law that is in force.
task_law if {
	some l in data.law.taskLaws
	l.id == input.site.gdpr.taskLaw
	l.country == input.site.country
	l.from <= input.now
	input.now < l.until
}

ok["GDPR-9"] if input.site.gdpr.art9 in {"9.2.a", "9.2.j"}

ok["GDPR-9.2.a"] if input.site.gdpr.art9 != "9.2.a"

ok["GDPR-9.2.a"] if {
	input.site.gdpr.ethicsApproval != ""
	input.study.purpose.disease != ""
	input.site.consent == "required"
}

ok["GDPR-9.2.j"] if input.site.gdpr.art9 != "9.2.j"

ok["GDPR-9.2.j"] if {
	facts.safeguarded
	some l in data.law.memberStates[input.site.country].research
	l.from <= input.now
	input.now < l.until
}

ok["GDPR-13"] if facts.reached(input.site.gdpr.notice.given)

# Only data that others collected: 13(3) knows no exception for effort.

ok["GDPR-13"] if {
	input.site.gdpr.notice.source == "third"
	input.site.gdpr.notice.art14_5b != ""
	facts.reached(input.site.gdpr.notice.publicNotice)
	facts.safeguarded
}

ok["GDPR-13-RECIPIENTS"] if {
	every r in {"hospitals", "coordinator", "team"} {
		r in input.site.gdpr.notice.recipients
	}
}

ok["GDPR-26"] if input.site.gdpr.jointControllers != ""

ok["GDPR-28"] if {
	every c in input.federation.coordinators {
		contracted(c.id)
	}
}

contracted(node) if {
	some p in input.site.gdpr.processors
	p.node == node
}

ok["GDPR-30"] if {
	every item in ["id", "controller", "purposes", "categories", "recipients", "transfers", "retention", "security"] {
		input.site.gdpr.record[item] != ""
	}
}

ok["GDPR-35"] if {
	input.site.gdpr.dpia.id != ""
	input.site.gdpr.dpia.approved
	risk_handled
}

risk_handled if input.site.gdpr.dpia.risk in {"low", "medium"}

risk_handled if input.site.gdpr.dpia.priorConsultation

ok["GDPR-35-AGE"] if facts.recent(input.site.gdpr.dpia.reviewed)

ok["GDPR-44"] if {
	every r in facts.concerned {
		eu_transfer(r)
	}
}

eu_transfer(r) if facts.in_eea(r.country)

eu_transfer(r) if facts.adequate_eu(r.country)

eu_transfer(r) if facts.tool_holds(input.site.gdpr.transfers, r.id)

ok["GDPR-49"] if {
	every t in input.site.gdpr.transfers {
		t.tool != "derogation_49"
	}
}

ok["GDPR-7.3"] if input.now < input.record.withdrawn_at

ok["GDPR-9.2.a-ROW"] if input.site.gdpr.art9 == "9.2.j"

ok["GDPR-9.2.a-ROW"] if {
	facts.standing
	input.record.explicit
	input.record.evidence
	facts.covers_area
}

ok["GDPR-21"] if input.record.objected == false

ok["GDPR-21"] if {
	facts.research
	some l in data.law.memberStates[input.site.country].art89
	"21" in l.articles
	l.from <= input.now
	input.now < l.until
	derogates(l.condition)
}

derogates("none")

derogates("impairment") if input.site.de.impairment != ""

ok["GDPR-17"] if input.event.consentWasSoleGround == false

ok["GDPR-17"] if input.event.impairmentDocumented != ""

obligations contains "retain_and_exclude" if input.event.impairmentDocumented != ""

# The Netherlands.
ok["NL-UAVG-24"] if input.site.gdpr.art9 == "9.2.a"

ok["NL-UAVG-24"] if {
	u := input.site.nl.uavg24
	u.servesResearch
	u.publicInterest
	u.consentImpossible
	u.safeguards
}

keep["NL-UAVG-28"] contains c.name if {
	some c in input.study.columns
	c.category != "genetic"
}

keep["NL-UAVG-28"] contains c.name if {
	some c in input.study.columns
	genetic_law_nl
	input.site.nl.uavg28.ownSubject
}

keep["NL-UAVG-28"] contains c.name if {
	some c in input.study.columns
	genetic_law_nl
	input.site.nl.uavg28.publicInterest
	input.site.nl.uavg28.safeguards
}

genetic_law_nl if {
	some l in data.law.memberStates.NL.genetic
	l.from <= input.now
	input.now < l.until
}

ok["NL-UAVG-28-ROW"] if not facts.uses_genetic

ok["NL-UAVG-28-ROW"] if input.site.nl.uavg28.ownSubject

ok["NL-UAVG-28-ROW"] if input.site.nl.uavg28.consentImpossible

ok["NL-UAVG-28-ROW"] if {
	facts.standing
	input.record.explicit
	"genetic" in input.record.categories
}

ok["NL-WGBO-458"] if {
	input.site.nl.wgbo.route == "consent"
	input.site.consent == "required"
}

ok["NL-WGBO-458"] if {
	w := input.site.nl.wgbo
	w.consentNotReasonable
	w.publicInterest
	w.needsData
	w.objectionRegister
	w.noteInFile
	wgbo_route
}

wgbo_route if {
	input.site.nl.wgbo.route == "a"
	input.site.nl.wgbo.safeguards
}

wgbo_route if {
	input.site.nl.wgbo.route == "b"
	input.site.nl.wgbo.coded
}

ok["NL-WGBO-458-ROW"] if {
	input.record.wgbo_objected == false
	wgbo_row
}

wgbo_row if input.site.nl.wgbo.route in {"a", "b"}

wgbo_row if facts.standing

# Denmark.
ok["DK-DBL-10"] if input.site.gdpr.art9 == "9.2.a"

ok["DK-DBL-10"] if {
	d := input.site.dk.dbl10
	d.solelyScience
	d.significant
	d.necessary
	d.otherPurpose == false
}

# Adequacy does not help here: § 10(3) asks whether the recipient stands under
# the GDPR.
ok["DK-DBL-10.3"] if input.site.gdpr.art9 == "9.2.a"

ok["DK-DBL-10.3"] if input.site.dk.permission != ""

ok["DK-DBL-10.3"] if {
	input.site.dk.biologicalMaterial == false
	input.site.dk.publishesPersonal == false
	every r in facts.concerned {
		facts.in_eea(r.country)
	}
}

ok["DK-SHL-46"] if {
	input.site.dk.secrecy.ground in {"43(1)", "46(1)", "46(2)"}
	input.site.dk.secrecy.approval != ""
}

ok["DK-KL-14"] if input.site.dk.committee.notified

ok["DK-KL-14"] if {
	input.site.dk.biologicalMaterial == false
	input.site.dk.committee.healthDataScience == false
}
