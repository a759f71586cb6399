package consent

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Visa is the payload of a GA4GH Passport visa whose signature and issuer were
// verified before.
type Visa struct {
	Issuer   string // iss
	Subject  string // sub
	Expires  int64  // exp, Unix seconds
	Type     string
	Asserted int64
	Value    string
	Source   string
	By       string // "" where the visa does not say

	conditions [][]map[string]string
	broken     string // why the visa must be ignored, or ""
}

// Types of visas that the standard defines.
const (
	VisaAffiliation = "AffiliationAndRole"
	VisaTerms       = "AcceptedTermsAndPolicies"
	VisaResearcher  = "ResearcherStatus"
	VisaGrant       = "ControlledAccessGrants"
	VisaLinked      = "LinkedIdentities"
)

// RegisteredAccess is the value of the two visas that together stand for
// registered access.
const RegisteredAccess = "https://doi.org/10.1038/s41431-018-0219-y"

// ParseVisa reads a visa's payload. Unknown fields are ignored, as the standard
// asks; a visa whose conditions cannot be read is never met.
func ParseVisa(payload []byte) (*Visa, error) {
	if len(payload) > MaxDocument {
		return nil, fmt.Errorf("visa: %d bytes, at most %d", len(payload), MaxDocument)
	}
	var raw struct {
		Iss  string `json:"iss"`
		Sub  string `json:"sub"`
		Exp  *int64 `json:"exp"`
		Visa *struct {
			Type       string          `json:"type"`
			Asserted   *int64          `json:"asserted"`
			Value      string          `json:"value"`
			Source     string          `json:"source"`
			By         string          `json:"by"`
			Conditions json.RawMessage `json:"conditions"`
		} `json:"ga4gh_visa_v1"`
	}
	if err := json.Unmarshal(payload, &raw); err != nil {
		return nil, fmt.Errorf("visa: %w", err)
	}
	switch {
	case raw.Visa == nil:
		return nil, fmt.Errorf("visa: no ga4gh_visa_v1 claim")
	case raw.Exp == nil || raw.Visa.Asserted == nil || raw.Visa.Type == "" || raw.Visa.Value == "" || raw.Visa.Source == "":
		return nil, fmt.Errorf("visa: exp, type, asserted, value and source are all required")
	}
	v := &Visa{Issuer: raw.Iss, Subject: raw.Sub, Expires: *raw.Exp, Type: raw.Visa.Type, Asserted: *raw.Visa.Asserted, Value: raw.Visa.Value,
		Source: raw.Visa.Source, By: raw.Visa.By}
	if c := strings.TrimSpace(string(raw.Visa.Conditions)); c != "" && c != "null" && c != "[]" {
		if err := json.Unmarshal(raw.Visa.Conditions, &v.conditions); err != nil {
			v.broken = "its conditions cannot be read"
		}
	}
	return v, nil
}

// Clearinghouse is what a hospital trusts of passports.
type Clearinghouse struct {
	Issuers []string // of visas
	Sources []string // of assertions; empty accepts every source of a trusted issuer
	Now     int64    // Unix seconds
	For     int64    // seconds for which access is asked; a visa must outlast it
	MaxAge  int64    // seconds since the assertion; 0 = no limit
}

// byRequired lists the types whose visas must say by whom.
var byRequired = []string{VisaTerms, VisaGrant}

// usable is "" or why a visa counts for nothing, its conditions apart.
func (h *Clearinghouse) usable(v *Visa) string {
	switch {
	case v.broken != "":
		return v.broken
	case !slices.Contains(h.Issuers, v.Issuer):
		return "its issuer is not trusted"
	case len(h.Sources) > 0 && !slices.Contains(h.Sources, v.Source):
		return "its source is not trusted"
	case h.Now+h.For >= v.Expires:
		return "it expires before the access would end"
	case v.Asserted > h.Now:
		return "it was asserted in the future"
	case h.MaxAge > 0 && h.Now+h.For >= v.Asserted+h.MaxAge:
		return "it was asserted too long ago"
	case slices.Contains(byRequired, v.Type) && v.By == "":
		return "it does not say who asserted it"
	}
	return ""
}

// Grant finds visas of one person that hold now, with value compared whole and
// with case, and their conditions met by other visas. all is the person's whole
// passport. It returns the first that holds, or why each candidate does not.
func (h *Clearinghouse) Grant(all []*Visa, typ, value string) (*Visa, []string) {
	var why []string
	for _, v := range all {
		if v.Type != typ || v.Value != value {
			continue
		}
		if bad := h.usable(v); bad != "" {
			why = append(why, bad)
			continue
		}
		if len(v.conditions) > 0 && !slices.ContainsFunc(v.conditions, func(and []map[string]string) bool { return h.met(all, v, and) }) {
			why = append(why, "its conditions are not met")
			continue
		}
		return v, nil
	}
	if why == nil {
		why = []string{"no visa of type " + typ + " with this value"}
	}
	return nil, why
}

// met reports whether every clause matches some visa that has no conditions
// itself. Nothing met by no clause: an empty list is not met.
func (h *Clearinghouse) met(all []*Visa, of *Visa, and []map[string]string) bool {
	if len(and) == 0 {
		return false
	}
	for _, clause := range and {
		if !slices.ContainsFunc(all, func(v *Visa) bool {
			return v != of && len(v.conditions) == 0 && h.usable(v) == "" && h.same(all, of, v) && v.matches(clause)
		}) {
			return false
		}
	}
	return true
}

func (v *Visa) matches(clause map[string]string) bool {
	if clause["type"] != v.Type || len(clause) < 2 {
		return false
	}
	for field, want := range clause {
		if field == "type" {
			continue
		}
		var have string
		switch field {
		case "value":
			have = v.Value
		case "source":
			have = v.Source
		case "by":
			have = v.By
		default:
			return false // a time, conditions, or a field that is not known
		}
		kind, arg, ok := strings.Cut(want, ":")
		if !ok || have == "" {
			return false
		}
		switch kind {
		case "const":
			if have != arg {
				return false
			}
		case "pattern":
			if !glob(arg, have) {
				return false
			}
		case "split_pattern":
			if !slices.ContainsFunc(strings.Split(have, ";"), func(s string) bool { return glob(arg, s) }) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// glob matches the whole of s; ? is any one character, * any number. It takes
// time in proportion to the product of the lengths at worst.
func glob(pattern, s string) bool {
	p, t := []rune(pattern), []rune(s)
	i, k, star, mark := 0, 0, -1, 0
	for k < len(t) {
		switch {
		case i < len(p) && p[i] == '*':
			star, mark = i, k
			i++
		case i < len(p) && (p[i] == '?' || p[i] == t[k]):
			i++
			k++
		case star >= 0:
			mark++
			i, k = star+1, mark
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}

// same reports whether two visas speak of one person: the same account, or two
// that a usable LinkedIdentities visa joins.
func (h *Clearinghouse) same(all []*Visa, a, b *Visa) bool {
	if a.Issuer == b.Issuer && a.Subject == b.Subject {
		return true
	}
	for _, l := range all {
		if l.Type != VisaLinked || len(l.conditions) > 0 || h.usable(l) != "" {
			continue
		}
		links := func(v *Visa) bool {
			if v.Issuer == l.Issuer && v.Subject == l.Subject {
				return true
			}
			for _, pair := range strings.Split(l.Value, ";") {
				sub, iss, ok := strings.Cut(pair, ",")
				sub, e1 := url.PathUnescape(sub)
				iss, e2 := url.PathUnescape(iss)
				if ok && e1 == nil && e2 == nil && sub == v.Subject && iss == v.Issuer {
					return true
				}
			}
			return false
		}
		if links(a) && links(b) {
			return true
		}
	}
	return false
}

// Registered reports whether a passport stands for registered access: both
// visas, of one person.
func (h *Clearinghouse) Registered(all []*Visa) bool {
	for _, a := range all {
		if a.Type != VisaTerms {
			continue
		}
		if v, _ := h.Grant([]*Visa{a}, VisaTerms, RegisteredAccess); v == nil {
			continue
		}
		for _, b := range all {
			if b.Type != VisaResearcher || !h.same(all, a, b) {
				continue
			}
			if v, _ := h.Grant([]*Visa{b}, VisaResearcher, RegisteredAccess); v != nil {
				return true
			}
		}
	}
	return false
}
