package consent

import "slices"

// purposeOf gives each purpose of use its wider one: the part of HL7 v3
// PurposeOfUse that a consent to research needs.
var purposeOf = map[string]string{
	"BIORCH": "HRESCH", "CLINTRCH": "HRESCH", "CLINTRCHNPC": "CLINTRCH", "CLINTRCHPC": "CLINTRCH", "PRECLINTRCH": "CLINTRCH",
	"DSRCH": "HRESCH", "POARCH": "HRESCH", "TRANSRCH": "HRESCH", "ETREAT": "TREAT", "BTG": "ETREAT",
}

func widens(narrow, wide string) bool {
	for c := narrow; c != ""; c = purposeOf[c] {
		if c == wide {
			return true
		}
	}
	return false
}

// purposeFit: a wider or equal code is met; a narrower one cannot be told.
func purposeFit(code, asked string) fit {
	switch {
	case asked == "":
		return unknown
	case widens(asked, code):
		return yes
	case widens(code, asked):
		return unknown
	case purposeOf[code] == "" && !slices.Contains(knownPurposes, code):
		return unknown
	}
	return no
}

var knownPurposes = []string{"HRESCH", "TREAT", "HOPERAT", "HPAYMT", "PUBHLTH", "HMARKT", "PATRQT", "FAMRQT", "COVERAGE", "PATADMIN"}

// labelOf says which categories of this software a security label speaks of
// (v3-ActCode and v3-Confidentiality, by code alone: their codes do not clash).
var labelOf = map[string][]string{
	"PSY": {"mental"}, "MH": {"mental"}, "PSYTHPN": {"mental"}, "BH": {"mental", "substance"},
	"ETH": {"substance"}, "SUD": {"substance"}, "ETHUD": {"substance"}, "OPIOIDUD": {"substance"},
	"HIV": {"hiv"}, "SEX": {"sexual"}, "STD": {"sexual", "hiv"}, "SDV": {"sexual"}, "SICKLE": {"genetic"},
	"GDIS": {"genetic"}, "SPI": {"genetic", "mental", "substance", "hiv", "sexual", "biometric"},
	"N": {"general"}, "L": {"general"}, "M": {"general"}, "U": {"general"},
	"R": {"genetic", "mental", "substance", "hiv", "sexual", "biometric"}, "V": {"genetic", "mental", "substance", "hiv", "sexual", "biometric"},
}

func labelFit(label, category string) fit {
	of, ok := labelOf[label]
	switch {
	case !ok:
		return unknown
	case slices.Contains(of, category):
		return yes
	}
	return no
}

// codeCategory is a value set of what patients name most: a code of LOINC or
// SNOMED CT and the category that it belongs to.
var codeCategory = map[string]string{
	"http://loinc.org|2339-0":          "general", // glucose in blood
	"http://loinc.org|2345-7":          "general", // glucose in serum or plasma
	"http://loinc.org|15074-8":         "general", // glucose in blood, moles
	"http://loinc.org|4548-4":          "general", // hemoglobin A1c
	"http://loinc.org|718-7":           "general", // hemoglobin
	"http://loinc.org|8480-6":          "general", // systolic blood pressure
	"http://loinc.org|8462-4":          "general", // diastolic blood pressure
	"http://loinc.org|29463-7":         "general", // body weight
	"http://loinc.org|8302-2":          "general", // body height
	"http://loinc.org|44249-1":         "mental",  // PHQ-9
	"http://loinc.org|69737-5":         "mental",  // GAD-7
	"http://loinc.org|75626-2":         "substance",
	"http://loinc.org|75622-1":         "hiv",
	"http://loinc.org|81247-9":         "genetic", // master HL7 genetic variant report
	"http://snomed.info/sct|413307004": "mental",
}

// codeFit: an item that carries the code is met. An item that states no codes
// may hold it, unless the code belongs to another category.
func codeFit(code string, it *Item) fit {
	switch {
	case len(it.Codes) == 0:
		if c, ok := codeCategory[code]; ok && c != it.Category {
			return no
		}
		return unknown
	case !slices.Contains(it.Codes, code):
		return no
	case len(it.Codes) == 1:
		return yes
	}
	return unknown // the column holds other things too
}
