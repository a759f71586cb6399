# METADATA
# title: United States
package consilium.law

import rego.v2

import data.consilium.facts

ok["HIPAA-CE"] if input.site.hipaa.status in {"covered_entity", "hybrid_component"}

path := input.site.hipaa.path

# Limited data set.
ok["HIPAA-514e-PURPOSE"] if path != "lds"

ok["HIPAA-514e-PURPOSE"] if {
	facts.research
	input.site.hipaa.dua.uses == "research"
}

ok["HIPAA-514e-PURPOSE"] if {
	input.study.purpose.class == "public_health"
	input.site.hipaa.dua.uses == "public_health"
}

ok["HIPAA-514e-PURPOSE"] if {
	input.study.purpose.class == "operations"
	input.site.hipaa.dua.uses == "operations"
}

ok["HIPAA-514e-DUA"] if path != "lds"

ok["HIPAA-514e-DUA"] if {
	dua := input.site.hipaa.dua
	facts.reached(dua.signed)
	dua.noFurtherUse
	dua.safeguards
	dua.report
	dua.agents
	dua.noIdentifyContact
	input.federation.team.id in dua.users
}

# The sixteen direct identifiers: A (names), the postal address of B, and D to
# Q. Dates (C), town, state and zip code (B below street) and study codes (R)
# may stay.
direct := {"A", "D", "E", "F", "G", "H", "I", "J", "K", "L", "M", "N", "O", "P", "Q"}

keep["HIPAA-514e"] contains c.name if {
	some c in input.study.columns
	path != "lds"
}

keep["HIPAA-514e"] contains c.name if {
	some c in input.study.columns
	not c.tag in direct
}

# Waiver.
ok["HIPAA-512i"] if path != "waiver"

ok["HIPAA-512i"] if {
	w := input.site.hipaa.waiver
	facts.reached(w.approved)
	w.planProtect
	destroyed_or_justified
	w.assuranceNoReuse
	w.impracticableWithoutWaiver
	w.impracticableWithoutRecords
	w.signedBy in {"chair", "designee"}
}

destroyed_or_justified if input.site.hipaa.waiver.planDestroy

destroyed_or_justified if input.site.hipaa.waiver.retentionJustification != ""

keep["HIPAA-502b"] contains c.name if {
	some c in input.study.columns
	path != "waiver"
}

keep["HIPAA-502b"] contains c.name if {
	some c in input.study.columns
	c.name in input.site.hipaa.waiver.columns
}

ok["HIPAA-528"] if path in {"lds", "authorization", "safe_harbor", "expert"}

ok["HIPAA-528"] if input.site.hipaa.disclosuresLogged

# Preparatory to research: what a protocol needs to be written, and nothing
# leaves that counts as personal.
ok["HIPAA-512ii"] if path != "preparatory"

ok["HIPAA-512ii"] if {
	w := input.site.hipaa.preparatory
	facts.reached(w.represented)
	w.preparesProtocol
	w.nothingRemoved
	w.necessary
	input.study.purpose.class == "preparatory"
	count(facts.concerned) == 0
}

ok["HIPAA-512ii-COUNTS"] if path != "preparatory"

ok["HIPAA-512ii-COUNTS"] if {
	every a in input.study.analyses {
		a.type in {"describe", "crosstab"}
	}
}

# Decedents.
ok["HIPAA-512iii"] if path != "decedents"

ok["HIPAA-512iii"] if {
	w := input.site.hipaa.decedents
	facts.reached(w.represented)
	w.solelyDecedents
	w.deathDocumented
	w.necessary
}

ok["HIPAA-512iii-ROW"] if path != "decedents"

ok["HIPAA-512iii-ROW"] if input.record.deceased

# Authorization. Plain language and a copy for the person are duties, not
# conditions of validity (164.508(b)(1) names (c)(1) and (c)(2) only).
ok["HIPAA-508"] if path != "authorization"

ok["HIPAA-508"] if {
	a := input.site.hipaa.authorization
	a.description
	a.discloser
	a.recipient
	a.purpose
	a.expires in {"none", "end_of_study", "date"}
	input.now < a.expiresOn
	a.signature
	a.revocable
	a.conditioning
	a.redisclosure
	not_compound
	a.conditioned == false
	a.knownFalse == false
	input.site.consent == "required"
}

not_compound if input.site.hipaa.authorization.compound == false

not_compound if input.site.hipaa.authorization.researchCompound

obligations contains "give_copy_of_authorization" if {
	input.point == "site"
	path == "authorization"
	input.site.hipaa.authorization.copyGiven == false
}

obligations contains "rewrite_authorization_in_plain_language" if {
	input.point == "site"
	path == "authorization"
	input.site.hipaa.authorization.plainLanguage == false
}

ok["HIPAA-508-ROW"] if path != "authorization"

ok["HIPAA-508-ROW"] if facts.standing

# 508(a)(2) holds "notwithstanding any provision of this subpart": no waiver
# and no limited data set reaches psychotherapy notes.
ok["HIPAA-508a2"] if input.record.psychotherapy == false

ok["HIPAA-508a2"] if path in {"safe_harbor", "expert"}

ok["HIPAA-508a2"] if {
	path == "authorization"
	input.site.hipaa.authorization.psychotherapy
	facts.standing
}

# Safe Harbor. Tag B needs the zip table and is dropped; tag C stays for a
# plain age whose bounds end at 89; tag R stays for the pseudonym that tells
# patients apart inside the hospital.
keep["HIPAA-514b2"] contains c.name if {
	some c in input.study.columns
	path != "safe_harbor"
}

keep["HIPAA-514b2"] contains c.name if {
	some c in input.study.columns
	c.tag == ""
	c.type in {"number", "integer", "flag", "levels"}
}

keep["HIPAA-514b2"] contains c.name if {
	some c in input.study.columns
	c.tag == "C"
	c.type in {"number", "integer"}
	c.upper <= 89
}

keep["HIPAA-514b2"] contains c.name if {
	some c in input.study.columns
	c.patient
}

ok["HIPAA-514b2-KNOWLEDGE"] if path != "safe_harbor"

ok["HIPAA-514b2-KNOWLEDGE"] if input.site.hipaa.actualKnowledge == false

ok["HIPAA-514b1"] if path != "expert"

ok["HIPAA-514b1"] if {
	e := input.site.hipaa.expert
	e.verySmallRisk
	input.now < e.until
	e.dataset == input.study.dataset
	every name in facts.used {
		name in e.columns
	}
	every r in facts.recipients {
		r.id in e.recipients
	}
}

ok["HIPAA-504e"] if input.site.hipaa.coordinator in {"named", "associate"}

# Common Rule.
ok["CR-ASSURANCE"] if input.site.commonRule.assurance != ""

determination := input.site.commonRule.determination

ok["CR-46.104"] if {
	facts.reached(input.site.commonRule.decided)
	determined
}

determined if {
	determination == "46.116"
	input.site.commonRule.consentDocumented
	input.site.consent == "required"
}

determined if {
	determination == "46.116(f)"
	input.site.commonRule.waiverCriteria
}

determined if {
	determination == "46.104(d)(4)(i)"
	input.site.commonRule.publiclyAvailable
}

determined if {
	determination == "46.104(d)(4)(ii)"
	input.site.commonRule.recordedWithoutIdentity
	input.site.commonRule.noContact
	input.site.commonRule.noReidentification
}

# (iii) exempts only what HIPAA itself regulates.
determined if {
	determination == "46.104(d)(4)(iii)"
	"HIPAA" in input.site.regimes
	input.site.hipaa.status in {"covered_entity", "hybrid_component"}
	facts.research
}

# (iv) needs information that the government obtained for something else.
determined if {
	determination == "46.104(d)(4)(iv)"
	input.site.commonRule.federal
	input.site.commonRule.origin == "government_non_research"
}

# Privacy Act.
ok["PA-552a"] if {
	count(input.site.privacyAct.notices) > 0
	privacy_ground
}

privacy_ground if {
	input.site.privacyAct.ground == "552a(b)(1)"
	input.site.privacyAct.needToKnow
}

privacy_ground if {
	input.site.privacyAct.ground == "552a(b)(3)"
	input.site.privacyAct.routineUse != ""
}

privacy_ground if {
	input.site.privacyAct.ground == "552a(b)(5)"
	input.site.privacyAct.statisticalAssurance
}

privacy_ground if {
	input.site.privacyAct.ground == "consent"
	input.site.consent == "required"
}

ok["PA-552a-ROW"] if input.site.privacyAct.ground != "consent"

ok["PA-552a-ROW"] if input.record.citizen_or_lpr == false

ok["PA-552a-ROW"] if facts.standing

# Certificates of confidentiality.
ok["COC-301d"] if input.site.confidentiality.applies == false

ok["COC-301d"] if input.site.confidentiality.ground == "required_by_law"

ok["COC-301d"] if {
	input.site.confidentiality.ground == "consent"
	input.site.consent == "required"
}

ok["COC-301d"] if {
	input.site.confidentiality.ground == "other_research"
	input.site.confidentiality.humanSubjectRules
}

# Bulk sensitive data. Encryption and de-identification change nothing
# (202.206), so assessments do not count here.
dsp := input.site.dataSecurity

ok["DSP-202.301"] if dsp.exempt in data.law.dataSecurity.exempt

ok["DSP-202.301"] if input.now < data.law.dataSecurity.from

ok["DSP-202.301"] if {
	dsp.coveredPersons == 0
	every r in facts.recipients {
		not r.country in data.law.dataSecurity.countries
	}
}

ok["DSP-202.301"] if not_bulk

# Kinds that are present together count together, against the lowest of their
# limits.
present := {kind | some kind, n in dsp.persons; n > 0}

limits := {data.law.dataSecurity.moreThan[kind] | some kind in present}

total := sum([n | some n in dsp.persons])

not_bulk if total == 0

not_bulk if {
	count(present) == count({kind | some kind in present; data.law.dataSecurity.moreThan[kind]})
	total <= min(limits)
}

ok["DSP-202.302"] if dsp.brokerage == false

ok["DSP-202.302"] if dsp.onwardBan

ok["DSP-202.302"] if {
	every r in facts.recipients {
		r.country == "US"
	}
}

# States, by the dated table.
conditions_of(state) if {
	input.site.state.code == state
	conditions := data.law.usStates[state].conditions
	count(conditions) > 0
	every c in conditions {
		c in input.site.state.conditions
	}
}

ok["US-CA"] if conditions_of("US-CA")

ok["US-MA"] if conditions_of("US-MA")

ok["US-MI"] if conditions_of("US-MI")

ok["US-MN"] if conditions_of("US-MN")

ok["US-NY"] if conditions_of("US-NY")

ok["US-TX"] if conditions_of("US-TX")

ok["US-UT"] if conditions_of("US-UT")

ok["US-WA"] if conditions_of("US-WA")

ok["US-MN-ROW"] if input.record.mn_objected == false
