# METADATA
# title: German and French law beside the GDPR
package consilium.law

import rego.v2

import data.consilium.facts

# Germany. Three ways: the person's consent, a weighing of interests (BDSG
# § 27(1)), or research of a health-care provider with its own data (GDNG § 6),
# which hands nothing personal to others.
ok["DE-BDSG-27"] if {
	input.site.de.route == "consent"
	input.site.gdpr.art9 == "9.2.a"
}

ok["DE-BDSG-27"] if {
	input.site.de.route == "bdsg27"
	input.site.de.necessary
	input.site.de.outweighs
	input.site.de.safeguards
}

ok["DE-BDSG-27"] if {
	input.site.de.route == "gdng6"
	input.site.de.ownData
	input.site.de.safeguards
	count(facts.concerned) == 0
}

# Medical secrecy and the Land's hospital act are keys of their own.
ok["DE-STGB-203"] if {
	input.site.de.secrecy == "consent"
	input.site.consent == "required"
}

ok["DE-STGB-203"] if {
	input.site.de.secrecy == "land_law"
	input.site.de.landLaw != ""
}

ok["DE-STGB-203"] if {
	input.site.de.secrecy == "anonymous"
	count(facts.concerned) == 0
}

ok["DE-STGB-203-ROW"] if input.site.de.secrecy in {"land_law", "anonymous"}

ok["DE-STGB-203-ROW"] if facts.standing

# France.
ok["FR-LIL-72"] if {
	input.site.fr.basis in {"MR-001", "MR-003", "MR-004"}
	input.site.fr.document != ""
	facts.reached(input.site.fr.since)
	input.site.fr.publicInterest
	input.site.fr.registered
}

ok["FR-LIL-72"] if {
	input.site.fr.basis == "CNIL"
	input.site.fr.document != ""
	facts.reached(input.site.fr.since)
}

ok["FR-LIL-69"] if input.site.fr.informed

ok["FR-CC-16-10"] if not facts.uses_genetic

ok["FR-CC-16-10"] if {
	input.site.fr.genetic == "consent"
	facts.standing
	input.record.explicit
	"genetic" in input.record.categories
}

ok["FR-CC-16-10"] if {
	input.site.fr.genetic == "informed"
	input.record.objected == false
}
