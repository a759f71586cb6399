package epcis

import (
	"regexp"
	"strings"
)

const link = "https://id.gs1.org/"

// digitalLink turns any spelling of a GS1 key into its canonical Digital Link
// (GS1 Digital Link standard §4; EPC Tag Data Standard §6 and §7): the finest
// level of identification, no attributes. It is false for what is no GS1 key.
func digitalLink(uri string) (string, bool) {
	for _, prefix := range []string{"urn:epc:id:", "urn:epc:class:", "urn:epc:idpat:"} {
		if rest, ok := strings.CutPrefix(uri, prefix); ok {
			scheme, body, ok := strings.Cut(rest, ":")
			if !ok {
				return "", false
			}
			return fromURN(prefix[len("urn:epc:"):len(prefix)-1], scheme, body)
		}
	}
	return fromWeb(uri)
}

// urnScheme says how an EPC URN's parts make a key: digits of company prefix
// and reference together, without the check digit, and what follows.
type urnScheme struct {
	ai     string
	digits int  // 0: a reference of any characters, no check digit
	first  bool // the reference's first digit leads the key
	zero   bool // a 0 leads the key
	key    bool // the serial is part of the key itself
	serial string
}

var urnSchemes = map[string]urnScheme{
	"sgtin": {ai: "01", digits: 13, first: true, serial: "21"},
	"lgtin": {ai: "01", digits: 13, first: true, serial: "10"},
	"upui":  {ai: "01", digits: 13, first: true, serial: "235"},
	"itip":  {ai: "8006", digits: 13, first: true, serial: "21"},
	"sscc":  {ai: "00", digits: 17, first: true},
	"sgln":  {ai: "414", digits: 12, serial: "254"},
	"pgln":  {ai: "417", digits: 12},
	"grai":  {ai: "8003", digits: 12, zero: true, key: true},
	"gdti":  {ai: "253", digits: 12, key: true},
	"sgcn":  {ai: "255", digits: 12, key: true},
	"gsrn":  {ai: "8018", digits: 17},
	"gsrnp": {ai: "8017", digits: 17},
	"gsin":  {ai: "402", digits: 16},
	"giai":  {ai: "8004"},
	"ginc":  {ai: "401"},
	"cpi":   {ai: "8010", serial: "8011"},
}

var (
	digitsOnly = regexp.MustCompile(`^[0-9]*$`)
	serialText = regexp.MustCompile(`^([!'()*+,\-./0-9:;<=>?"A-Z_a-z]|%[0-9A-Fa-f]{2})+$`)
)

func fromURN(kind, scheme, body string) (string, bool) {
	s, ok := urnSchemes[scheme]
	if !ok || (kind == "class") != (scheme == "lgtin") {
		return "", false
	}
	company, body, ok := strings.Cut(body, ".")
	if !ok || len(company) < 6 || len(company) > 12 || !digitsOnly.MatchString(company) {
		return "", false
	}
	pattern := kind == "idpat"
	if s.digits == 0 {
		return anyReference(s, scheme, company, body, pattern)
	}
	reference, serial, hasSerial := strings.Cut(body, ".")
	if len(company)+len(reference) != s.digits || !digitsOnly.MatchString(reference) {
		return "", false
	}
	raw := company + reference
	if s.first {
		if reference == "" {
			return "", false
		}
		raw = reference[:1] + company + reference[1:]
	}
	if s.zero {
		raw = "0" + raw
	}
	key := link + s.ai + "/" + raw + check(raw)
	if scheme == "itip" {
		parts := strings.SplitN(serial, ".", 3)
		if len(parts) != 3 || len(parts[0]) != 2 || len(parts[1]) != 2 || !digitsOnly.MatchString(parts[0]+parts[1]) {
			return "", false
		}
		key, serial = key+parts[0]+parts[1], parts[2]
	}
	switch {
	case s.serial == "" && !s.key:
		return key, !hasSerial && !pattern
	case !hasSerial:
		return "", false
	case pattern:
		return key, serial == "*"
	case !serialText.MatchString(serial) || scheme == "sgcn" && !digitsOnly.MatchString(serial):
		return "", false
	case s.key:
		return key + encode(serial), true
	case scheme == "sgln" && serial == "0": // no extension
		return key, true
	}
	return key + "/" + s.serial + "/" + encode(serial), true
}

// anyReference is for keys whose reference is not of digits alone.
func anyReference(s urnScheme, scheme, company, body string, pattern bool) (string, bool) {
	serial := ""
	if scheme == "cpi" {
		i := strings.LastIndexByte(body, '.')
		if i < 0 {
			return "", false
		}
		body, serial = body[:i], body[i+1:]
	} else if pattern {
		return "", false
	}
	if !serialText.MatchString(body) {
		return "", false
	}
	key := link + s.ai + "/" + company + encode(body)
	switch {
	case scheme != "cpi":
		return key, true
	case pattern:
		return key, serial == "*"
	}
	return key + "/8011/" + serial, serial != "" && len(serial) <= 12 && digitsOnly.MatchString(serial)
}

// check is the GS1 check digit (GS1 General Specifications §7.9).
func check(digits string) string {
	sum := 0
	for i := range digits {
		d := int(digits[len(digits)-1-i] - '0')
		if i%2 == 0 {
			d *= 3
		}
		sum += d
	}
	return string(rune('0' + (10-sum%10)%10))
}

// encode percent-encodes what an EPC URN may hold and a Digital Link may not.
func encode(s string) string {
	return strings.NewReplacer("!", "%21", "(", "%28", ")", "%29", "*", "%2A", "+", "%2B", ",", "%2C", ":", "%3A").Replace(s)
}

// shortNames of keys and qualifiers in Digital Links.
var shortNames = map[string]string{"gtin": "01", "itip": "8006", "cpid": "8010", "gln": "414", "party": "417", "gsrnp": "8017",
	"gsrn": "8018", "gcn": "255", "sscc": "00", "gdti": "253", "ginc": "401", "gsin": "402", "grai": "8003", "giai": "8004",
	"cpv": "22", "lot": "10", "ser": "21"}

const text = `([!'()*+,\-.0-9:;<=>?"A-Z_a-z]|%[0-9A-Fa-f]{2})`

// keyForms are the keys and their lengths; qualifiers says which of them make
// the identification finer, finest first.
var keyForms = map[string]*regexp.Regexp{
	"00": regexp.MustCompile(`^[0-9]{18}$`), "01": regexp.MustCompile(`^[0-9]{14}$`),
	"253": regexp.MustCompile(`^[0-9]{13}` + text + `{0,17}$`), "255": regexp.MustCompile(`^[0-9]{13,25}$`),
	"401": regexp.MustCompile(`^` + text + `{1,30}$`), "402": regexp.MustCompile(`^[0-9]{17}$`),
	"414": regexp.MustCompile(`^[0-9]{13}$`), "417": regexp.MustCompile(`^[0-9]{13}$`),
	"8003": regexp.MustCompile(`^[0-9]{14}` + text + `{0,16}$`), "8004": regexp.MustCompile(`^` + text + `{1,30}$`),
	"8006": regexp.MustCompile(`^[0-9]{18}$`), "8010": regexp.MustCompile(`^([#\-/0-9A-Z]|%[0-9A-Fa-f]{2}){1,30}$`),
	"8017": regexp.MustCompile(`^[0-9]{18}$`), "8018": regexp.MustCompile(`^[0-9]{18}$`),
}

var qualifiers = map[string][]string{"01": {"21", "235", "10"}, "8006": {"21", "10"}, "414": {"254"}, "8010": {"8011"}}

var qualifierText = regexp.MustCompile(`^` + text + `{1,28}$`)

func fromWeb(uri string) (string, bool) {
	rest, ok := strings.CutPrefix(uri, "https://")
	if !ok {
		if rest, ok = strings.CutPrefix(uri, "http://"); !ok {
			return "", false
		}
	}
	if i := strings.IndexAny(rest, "?#"); i >= 0 {
		rest = rest[:i]
	}
	parts := strings.Split(strings.TrimSuffix(rest, "/"), "/")[1:]
	for i, p := range parts {
		if ai, ok := shortNames[p]; ok {
			parts[i] = ai
		}
	}
	for i := 0; i+1 < len(parts); i++ {
		form, ok := keyForms[parts[i]]
		if !ok || len(parts[i+1]) < 5 || !digitsOnly.MatchString(parts[i+1][:4]) {
			continue
		}
		ai, key := parts[i], parts[i+1]
		if ai == "01" && digitsOnly.MatchString(key) && (len(key) == 8 || len(key) == 12 || len(key) == 13) {
			key = strings.Repeat("0", 14-len(key)) + key
		}
		if !form.MatchString(key) || len(parts[i+2:])%2 != 0 {
			return "", false
		}
		out := link + ai + "/" + key
		have := map[string]string{}
		for q := i + 2; q < len(parts); q += 2 {
			have[parts[q]] = parts[q+1]
		}
		delete(have, "22") // a variant of the product, not of the item
		for _, q := range qualifiers[ai] {
			if v, ok := have[q]; ok {
				if !qualifierText.MatchString(v) {
					return "", false
				}
				return out + "/" + q + "/" + v, true
			}
		}
		return out, len(have) == 0
	}
	return "", false
}
