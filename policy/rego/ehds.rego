# METADATA
# title: European Health Data Space, secondary use
# description: >
#   In force from the day in the dated law; before that day NOT_YET_APPLICABLE
#   refuses, so that a permit of before permits nothing. The rules of the GDPR
#   and of the member state hold beside these.
package consilium.law

import rego.v2

import data.consilium.facts

permit_holds if {
	input.site.ehds.issued <= input.now
	input.now < input.site.ehds.until
}

ok["EHDS-68"] if {
	input.site.ehds.id != ""
	input.site.ehds.body != ""
	permit_holds
	permit_length
}

# Ten years, and ten more after one extension (Art. 68(12)).
permit_length if input.site.ehds.until <= input.site.ehds.issued + (data.law.ehds.permitDays * facts.day)

permit_length if {
	input.site.ehds.extended
	input.site.ehds.until <= input.site.ehds.issued + ((2 * data.law.ehds.permitDays) * facts.day)
}

ok["EHDS-53"] if {
	input.study.purpose.class in data.law.ehds.purposes[input.site.ehds.purpose]
	user_may
}

user_may if not input.site.ehds.purpose in data.law.ehds.publicBodyPurposes

user_may if input.site.ehds.publicBody

ok["EHDS-54"] if {
	not input.study.purpose.class in data.law.ehds.prohibited
	input.study.legal.commercial == false
}

ok["EHDS-54"] if {
	not input.study.purpose.class in data.law.ehds.prohibited
	facts.research
}

ok["EHDS-51"] if data.law.ehds.laterCategories <= input.now

ok["EHDS-51"] if {
	every category in facts.used_categories {
		not category in data.law.ehds.later
	}
}

ok["EHDS-61"] if input.study.legal.safeguards.noReidentification

ok["EHDS-66"] if input.site.ehds.form == "anonymised"

ok["EHDS-66"] if {
	input.site.ehds.kind == "permit"
	input.site.ehds.pseudonymisedReason != ""
}

# Art. 71(3): an opting-out does not reach a permit that was issued before it.
ok["EHDS-71"] if input.site.ehds.form == "anonymised"

ok["EHDS-71"] if input.site.ehds.issued < input.record.opted_out_at

# Art. 71(4), where the member state provides for it.
ok["EHDS-71"] if {
	o := input.site.ehds.optOutOverride
	o.nationalLaw != ""
	o.noAlternative
	o.justification != ""
	input.site.ehds.publicBody
	input.study.purpose.class in {"public_health", "policy_making", "statistics", "scientific_research"}
}

ok["EHDS-73"] if {
	input.site.ehds.environment in {"access_body", "trusted_holder"}
	input.site.ehds.logYears >= data.law.ehds.logYears
}

# Only what is not personal leaves the environment.
ok["EHDS-73-2"] if count(facts.concerned) == 0

ok["EHDS-68-12"] if {
	input.site.ehds.deleteBy <= input.site.ehds.until + (data.law.ehds.deleteDays * facts.day)
	every e in input.study.legal.retention {
		retained_within(e)
	}
}

retained_within(e) if e.object != "working_copies"

retained_within(e) if e.deleteBy <= input.site.ehds.deleteBy
