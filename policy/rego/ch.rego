# METADATA
# title: Switzerland
package consilium.law

import rego.v2

import data.consilium.facts

ok["HRA-45"] if input.site.hra.authorisation != ""

ok["HRO-26"] if input.site.hra.coding == "uncoded"

ok["HRO-26"] if input.site.hra.keyManagement != ""

ok["HRA-34"] if input.site.hra.substitute == null

ok["HRA-34"] if substitute

substitute if {
	s := input.site.hra.substitute
	s.impossible
	s.interestOutweighs
	s.authorisation != ""
}

# Art. 34 gives way to a documented refusal.
substituted if {
	substitute
	input.record.hra_dissent == false
}

ok["HRA-32"] if not facts.uses_genetic

ok["HRA-32"] if substituted

ok["HRA-32"] if {
	input.site.hra.coding == "coded"
	hra_consent
	input.record.hra_dissent == false
}

ok["HRA-32"] if {
	input.site.hra.coding == "uncoded"
	facts.standing
	input.record.hra_project
	input.record.hra_dissent == false
}

hra_consent if {
	facts.standing
	input.record.hra_general
}

hra_consent if {
	facts.standing
	input.record.hra_genetic
}

ok["HRA-33"] if not facts.uses_other

ok["HRA-33"] if substituted

ok["HRA-33"] if {
	input.site.hra.coding == "coded"
	input.site.hra.informed
	input.record.hra_informed
	input.record.hra_dissent == false
}

ok["HRA-33"] if {
	input.site.hra.coding == "uncoded"
	facts.standing
	input.record.hra_general
	input.record.hra_dissent == false
}

ok["HRA-42"] if not facts.uses_genetic

ok["HRA-42"] if count(abroad) == 0

ok["HRA-42"] if {
	facts.standing
	input.record.hra_genetic
}

abroad contains r if {
	some r in facts.concerned
	r.country != "CH"
}

ok["HRA-42-2"] if {
	every r in facts.concerned {
		ch_transfer(r)
	}
}

ch_transfer(r) if r.country == "CH"

ch_transfer(r) if facts.adequate_ch(r.country)

ch_transfer(r) if facts.tool_holds(input.site.hra.transfers, r.id)

ok["ZH-IDG"] if {
	input.site.zhIdg.review != ""
	facts.reached(input.site.zhIdg.reviewed)
}
