package consent

import (
	"regexp"
	"slices"
	"strings"

	"consilium/policy"
)

// Systems of codes, by the last part of their address: HL7 moved them more than
// once and kept the names. A coding without a system is read as of the system that
// the element is bound to.
var (
	purposeSystems = []string{"v3-ActReason", "v3-PurposeOfUse"}
	actionSystems  = []string{"consentaction"}
	labelSystems   = []string{"v3-ActCode", "v3-Confidentiality", "v3-InformationSensitivityPolicy"}
)

// in is a coding's code, or unread where it has none or is of another system.
func (k coding) in(systems []string) string {
	at := strings.LastIndexByte(k.System, '/')
	if k.Code == "" || k.System != "" && !(strings.Contains(k.System, "hl7.org/") && slices.Contains(systems, k.System[at+1:])) {
		return unread
	}
	return k.Code
}

// knownActions are the codes of http://terminology.hl7.org/CodeSystem/consentaction.
var knownActions = []string{"collect", "access", "use", "disclose", "correct"}

// organization is a reference that can be told from another of its kind: an id on
// the hospital's own server. An address, a group, a role or a person may stand for
// the hospital itself.
var organization = regexp.MustCompile(`^Organization/[A-Za-z0-9.-]{1,64}$`)

func isOrganization(s string) bool { return organization.MatchString(s) }

// What a document's category says (R4 and R5): a kind that is not listed is a
// consent to something else.
var (
	neutralCategories = []string{
		"http://loinc.org|59284-0", "http://loinc.org|57016-8", "http://loinc.org|64292-6", // consent document, privacy policy acknowledgement, release of information
		"http://terminology.hl7.org/CodeSystem/v3-ActCode|IDSCL", "http://terminology.hl7.org/CodeSystem/v3-ActCode|INFA",
	}
	researchCategories = []string{
		"http://terminology.hl7.org/CodeSystem/consentcategorycodes|research", "http://terminology.hl7.org/CodeSystem/consentcategorycodes|rsdid",
		"http://terminology.hl7.org/CodeSystem/consentcategorycodes|rsreid",
		"http://terminology.hl7.org/CodeSystem/v3-ActCode|RESEARCH", "http://terminology.hl7.org/CodeSystem/v3-ActCode|RSDID", "http://terminology.hl7.org/CodeSystem/v3-ActCode|RSREID",
	}
)

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

// confidentiality codes are of documents: which of them an item carries, its
// category suggests and does not settle.
var confidentiality = []string{"N", "L", "M", "U", "R", "V"}

func labelFit(label, category string) fit {
	of, ok := labelOf[label]
	switch {
	case !ok || !slices.Contains(policy.Categories(), category):
		return unknown
	case slices.Contains(of, category):
		return yes
	case slices.Contains(confidentiality, label):
		return unknown
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

// codeFit: an item that carries the code and nothing else is met. A code is ruled
// out only by what the table knows: it belongs to another category, or the item
// states its codes, and the table knows all of them for others. A code that is not
// in the table may be a panel or a wider term that covers the item.
func codeFit(code string, it *Item) fit {
	category, known := codeCategory[code]
	switch {
	case slices.Contains(it.Codes, code):
		if len(it.Codes) == 1 {
			return yes
		}
		return unknown // the column holds other things too
	case !known:
		return unknown
	case category != it.Category:
		return no
	case len(it.Codes) == 0:
		return unknown
	case slices.ContainsFunc(it.Codes, func(c string) bool { return codeCategory[c] == "" || system(c) != system(code) }):
		return unknown
	}
	return no
}

func system(code string) string {
	s, _, _ := strings.Cut(code, "|")
	return s
}
