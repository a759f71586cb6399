# METADATA
# title: Swiss Federal Act on Data Protection
# description: >
#   For private persons and federal bodies only (Art. 2(1)); cantonal and
#   university hospitals stand under their canton's act.
package consilium.law

import rego.v2

import data.consilium.facts

fadp := input.site.fadp

ok["FADP-2"] if input.site.body in {"private", "federal_agency"}

ok["FADP-31"] if {
	fadp.ground == "consent"
	input.site.consent == "required"
}

ok["FADP-31"] if {
	fadp.ground == "31.2.e"
	input.site.body == "private"
	fadp_research
}

ok["FADP-31"] if {
	fadp.ground == "39"
	input.site.body == "federal_agency"
	fadp_research
}

fadp_research if {
	facts.research
	fadp.anonymisedEarly
	fadp.notIdentifiableToOthers
	fadp.resultsNotIdentifying
}

ok["FADP-30-ROW"] if {
	input.record.objected == false
	input.record.hra_dissent == false
	fadp_row
}

fadp_row if fadp.ground in {"31.2.e", "39"}

fadp_row if facts.standing

ok["FADP-16"] if {
	every r in facts.concerned {
		fadp_transfer(r)
	}
}

fadp_transfer(r) if r.country == "CH"

fadp_transfer(r) if facts.adequate_ch(r.country)

fadp_transfer(r) if facts.tool_holds(fadp.transfers, r.id)

ok["FADP-19"] if facts.reached(fadp.notice)

ok["FADP-19"] if fadp.noticeException != ""

ok["FADP-9"] if {
	every c in input.federation.coordinators {
		fadp_contracted(c.id)
	}
}

fadp_contracted(node) if {
	some p in fadp.processors
	p.node == node
}

ok["FADP-12"] if fadp.register != ""

ok["FADP-22"] if fadp.dpia != ""
