# METADATA
# title: United States
package consilium.law

import rego.v2

import data.consilium.facts

ok contains "HIPAA-CE" if input.site.hipaa.status in {"covered_entity", "hybrid_component"}

path := input.site.hipaa.path

# Limited data set.
ok contains "HIPAA-514e-PURPOSE" if path != "lds"

ok contains "HIPAA-514e-PURPOSE" if {
	facts.research
	input.site.hipaa.dua.uses == "research"
}

ok contains "HIPAA-514e-PURPOSE" if {
	input.study.purpose.class == "public_health"
	input.site.hipaa.dua.uses == "public_health"
}

ok contains "HIPAA-514e-PURPOSE" if {
	input.study.purpose.class == "operations"
	input.site.hipaa.dua.uses == "operations"
}

ok contains "HIPAA-514e-DUA" if path != "lds"

ok contains "HIPAA-514e-DUA" if {
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
ok contains "HIPAA-512i" if path != "waiver"

ok contains "HIPAA-512i" if {
	w := input.site.hipaa.waiver
	facts.reached(w.approved)
	w.planProtect
	destroyed_or_justified
	w.assuranceNoReuse
	w.impracticableWithoutWaiver
	w.impracticableWithoutRecords
	w.review in {"full", "expedited"}
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

ok contains "HIPAA-528" if path != "waiver"

ok contains "HIPAA-528" if input.site.hipaa.disclosuresLogged

# Authorization. Plain language and a copy for the person are duties, not
# conditions of validity (164.508(b)(1) names (c)(1) and (c)(2) only).
ok contains "HIPAA-508" if path != "authorization"

ok contains "HIPAA-508" if {
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

ok contains "HIPAA-508-ROW" if path != "authorization"

ok contains "HIPAA-508-ROW" if facts.standing

# 508(a)(2) holds "notwithstanding any provision of this subpart": no waiver
# and no limited data set reaches psychotherapy notes.
ok contains "HIPAA-508a2" if input.record.psychotherapy == false

ok contains "HIPAA-508a2" if path in {"safe_harbor", "expert"}

ok contains "HIPAA-508a2" if {
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

ok contains "HIPAA-514b2-KNOWLEDGE" if path != "safe_harbor"

ok contains "HIPAA-514b2-KNOWLEDGE" if input.site.hipaa.actualKnowledge == false

ok contains "HIPAA-514b1" if path != "expert"

ok contains "HIPAA-514b1" if {
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

ok contains "HIPAA-504e" if input.site.hipaa.coordinator in {"named", "associate"}

# Common Rule.
ok contains "CR-ASSURANCE" if input.site.commonRule.assurance != ""

determination := input.site.commonRule.determination

ok contains "CR-46.104" if {
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
ok contains "PA-552a" if {
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

ok contains "PA-552a-ROW" if input.site.privacyAct.ground != "consent"

ok contains "PA-552a-ROW" if input.record.citizen_or_lpr == false

ok contains "PA-552a-ROW" if facts.standing

# Certificates of confidentiality.
ok contains "COC-301d" if input.site.confidentiality.applies == false

ok contains "COC-301d" if input.site.confidentiality.ground == "required_by_law"

ok contains "COC-301d" if {
	input.site.confidentiality.ground == "consent"
	input.site.consent == "required"
}

ok contains "COC-301d" if {
	input.site.confidentiality.ground == "other_research"
	input.site.confidentiality.humanSubjectRules
}

# Bulk sensitive data. Encryption and de-identification change nothing
# (202.206), so assessments do not count here.
dsp := input.site.dataSecurity

ok contains "DSP-202.301" if dsp.exempt in data.law.dataSecurity.exempt

ok contains "DSP-202.301" if input.now < data.law.dataSecurity.from

ok contains "DSP-202.301" if {
	dsp.coveredPersons == 0
	every r in facts.recipients {
		not r.country in data.law.dataSecurity.countries
	}
}

ok contains "DSP-202.301" if not_bulk

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

ok contains "DSP-202.302" if dsp.brokerage == false

ok contains "DSP-202.302" if dsp.onwardBan

ok contains "DSP-202.302" if {
	every r in facts.recipients {
		r.country == "US"
	}
}

# States, by the dated table.
ok contains input.site.state.code if {
	conditions := data.law.usStates[input.site.state.code].conditions
	count(conditions) > 0
	every c in conditions {
		c in input.site.state.conditions
	}
}

ok contains "US-MN-ROW" if input.record.mn_objected == false
