# METADATA
# title: Rules of every study, whatever the regime
package consilium.law

import rego.v2

import data.consilium.facts

ok["PURPOSE_KNOWN"] if input.study.purpose.class in data.law.purposeClasses

duo_known contains d if some d in data.law.duo.permissions

duo_known contains d if some d in data.law.duo.modifiers

duo_known contains d if some d in data.law.duo.investigations

ok["PURPOSE_DUO"] if {
	count(input.study.purpose.duo) > 0
	every d in input.study.purpose.duo {
		d in duo_known
		not d in data.law.duo.deprecated
	}
	disease_named
}

disease_named if input.study.purpose.disease != ""

disease_named if not data.law.duo.permissions.DS in input.study.purpose.duo

ok["STUDY_WINDOW"] if facts.within_window

keep_until(e) := e.keepUntil if e.keepUntil != null

keep_until(e) := 0 if e.keepUntil == null

ok["RETENTION"] if {
	some w in input.study.legal.retention
	w.object == "working_copies"
	every e in input.study.legal.retention {
		every other in input.study.legal.retention {
			compatible(e, other)
		}
	}
}

compatible(e, other) if e.object != other.object

compatible(e, other) if e.deleteBy >= keep_until(other)

justified if {
	every c in input.study.columns {
		c.name in input.study.legal.protocolColumns
	}
}

ok["COLUMNS_JUSTIFIED"] if justified

ok["PERMIT_GRANTED"] if {
	every p in input.study.permits {
		p in facts.permits
	}
}

known_site contains s.id if {
	some s in input.federation.sites
	count(s.regimes) > 0
	every r in s.regimes {
		r in data.regimes
	}
}

ok["QUORUM"] if count(known_site) >= facts.min_sites

# The federal government of the United States accepts neither the clauses nor
# a European court; what reaches it from European sites must be anonymous.
guarded contains s.id if {
	some s in input.federation.sites
	some r in s.regimes
	r in {"GDPR", "CH_HRA", "CH_FADP"}
}

unbound contains s.id if {
	some s in input.federation.sites
	"US_PRIVACY_ACT" in s.regimes
}

ok["ASSESSMENT"] if count(guarded) == 0

ok["ASSESSMENT"] if count(unbound) == 0

ok["ASSESSMENT"] if {
	every class in facts.to_site {
		class in facts.anonymous
	}
}
