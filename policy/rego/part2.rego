# METADATA
# title: Substance use disorder records, 42 CFR 2
package consilium.law

import rego.v2

import data.consilium.facts

part2 := input.site.part2

ok["P2-2.16"] if {
	part2.security != ""
	data.law.part2.from <= input.now
}

ok["P2-2.31-2.52"] if {
	part2.ground == "2.31"
	input.site.consent == "required"
}

# Research without consent: the director determines that the recipient stands
# under HIPAA with an authorization or a waiver, under the Common Rule, or under
# the FDA's rules.
ok["P2-2.31-2.52"] if {
	part2.ground == "2.52"
	facts.research
	facts.reached(part2.determination)
	part2.recipientGround in {"hipaa", "common_rule", "fda"}
	part2.document != ""
	part2.bound
	part2.noRedisclosure
}

# Never in proceedings against the patient, whatever else holds.
ok["P2-2.12"] if not input.study.purpose.class in data.law.part2.refused

ok["P2-2.52-B3"] if {
	part2.aggregateDeidentified
	input.release.containsRecords == false
}

# A hospital without a programme has no ground for such a row at all.
ok["ROW_PART2"] if {
	"CFR42P2" in input.site.regimes
	part2_ground
}

part2_ground if part2.ground == "2.52"

part2_ground if {
	part2.ground == "2.31"
	input.record.part2_consent
	facts.standing
}
