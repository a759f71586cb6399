package consent

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

func duo(n int) string { return fmt.Sprintf("DUO:%07d", n) }

const (
	cgd    = "MONDO:0018305"
	parent = "MONDO:0003778"
	cancer = "MONDO:0004992"
)

// TestMatchingTable holds every row of the public matching table, and every
// code of the ontology, against Match.
func TestMatchingTable(t *testing.T) {
	st := func(change ...func(*Study)) *Study {
		s := &Study{Research: true, Disease: cgd, Ancestors: []string{parent}, Now: now, Countries: []string{"NL"}, Institutions: []string{"amc"}, Users: []string{"team"}, Project: "cgd"}
		for _, c := range change {
			c(s)
		}
		return s
	}
	uses := func(n ...int) func(*Study) {
		return func(s *Study) {
			for _, x := range n {
				s.Uses = append(s.Uses, duo(x))
			}
		}
	}
	commercial := func(s *Study) { s.Commercial = true }
	c := func(n int, args ...string) Code { return Code{ID: duo(n), Args: args} }
	for _, v := range []struct {
		name  string
		codes []Code
		s     *Study
		ok    bool
	}{
		// Disease-focused research sees GRU, HMB, the disease itself and its parents.
		{"DS-X sees GRU", []Code{c(42)}, st(), true}, {"DS-X sees NRES", []Code{c(4)}, st(), true}, {"DS-X sees HMB", []Code{c(6)}, st(), true},
		{"DS-X sees DS-X", []Code{c(7, cgd)}, st(), true}, {"DS-X sees its parent", []Code{c(7, parent)}, st(), true},
		{"DS-X does not see another", []Code{c(7, cancer)}, st(), false},
		{"a parent does not see its child", []Code{c(7, cgd)}, st(func(s *Study) { s.Disease, s.Ancestors = parent, nil }), false},
		{"no disease does not see DS", []Code{c(7, cgd)}, st(func(s *Study) { s.Disease = "" }), false},
		{"no disease does not see HMB", []Code{c(6)}, st(func(s *Study) { s.Disease = "" }), false},
		{"nothing", nil, st(), false}, {"a modifier alone", []Code{c(45)}, st(), false},
		// Methods.
		{"methods see GRU", []Code{c(42)}, st(uses(31)), true}, {"methods see no NMDS", []Code{c(42), c(15)}, st(uses(31)), false},
		{"methods see NMDS with the disease", []Code{c(7, cgd), c(15)}, st(uses(31)), true}, {"others see NMDS", []Code{c(42), c(15)}, st(), true},
		// Populations and ancestry.
		{"ancestry sees GRU", []Code{c(42)}, st(uses(33)), true}, {"ancestry does not see HMB", []Code{c(6)}, st(uses(33)), false},
		{"ancestry does not see DS", []Code{c(7, cgd)}, st(uses(33)), false}, {"ancestry sees POA", []Code{c(11)}, st(uses(33)), true},
		{"others do not see POA", []Code{c(11)}, st(), false}, {"ancestry does not see NPOA", []Code{c(42), c(44)}, st(uses(33)), false}, {"others see NPOA", []Code{c(42), c(44)}, st(), true},
		// Commercial use.
		{"commercial sees GRU", []Code{c(42)}, st(commercial), true}, {"commercial does not see NPU", []Code{c(42), c(45)}, st(commercial), false},
		{"commercial does not see NCU", []Code{c(42), c(46)}, st(commercial), false}, {"commercial does not see NPUNCU", []Code{c(42), c(18)}, st(commercial), false},
		{"for profit, not commercial, sees NCU", []Code{c(42), c(46)}, st(func(s *Study) { s.ForProfit = true }), true},
		{"for profit does not see NPU", []Code{c(42), c(45)}, st(func(s *Study) { s.ForProfit = true }), false}, {"others see all three", []Code{c(42), c(45), c(46), c(18)}, st(), true},
		// Research types: pediatric and so on.
		{"RS stated", []Code{c(42), c(12, duo(34))}, st(uses(34)), true}, {"RS not stated", []Code{c(42), c(12, duo(34))}, st(), false}, {"RS without a type", []Code{c(42), c(12)}, st(), false},
		{"GSO genetic", []Code{c(42), c(16)}, st(uses(38)), true}, {"GSO other", []Code{c(42), c(16)}, st(), false},
		// Undertakings.
		{"IRB undertaken", []Code{c(42), c(21)}, st(uses(21)), true}, {"IRB not", []Code{c(42), c(21)}, st(), false},
		{"PUB not", []Code{c(42), c(19)}, st(), false}, {"COL not", []Code{c(42), c(20)}, st(), false}, {"RTN not", []Code{c(42), c(29)}, st(), false},
		// Places, institutions, users, projects, times.
		{"GS inside", []Code{c(42), c(22, "NL", "DE")}, st(), true}, {"GS outside", []Code{c(42), c(22, "NL")}, st(func(s *Study) { s.Countries = []string{"NL", "US"} }), false},
		{"GS unknown place", []Code{c(42), c(22, "NL")}, st(func(s *Study) { s.Countries = nil }), false},
		{"IS inside", []Code{c(42), c(28, "amc")}, st(), true}, {"IS outside", []Code{c(42), c(28, "umc")}, st(), false},
		{"US inside", []Code{c(42), c(26, "team")}, st(), true}, {"US outside", []Code{c(42), c(26, "other")}, st(), false},
		{"PS this", []Code{c(42), c(27, "cgd")}, st(), true}, {"PS other", []Code{c(42), c(27, "pbc")}, st(), false},
		{"TS before", []Code{c(42), c(25, "2026-11-21")}, st(), true}, {"TS after", []Code{c(42), c(25, "2025-10")}, st(), false}, {"TS without date", []Code{c(42), c(25)}, st(), false},
		{"MOR over", []Code{c(42), c(24, "2026-11-21")}, st(), true}, {"MOR not over", []Code{c(42), c(24, "2026-11-22")}, st(), false}, {"MOR without date", []Code{c(42), c(24)}, st(), false},
		{"clinical care too", []Code{c(42), c(43)}, st(), true},
		{"deprecated", []Code{c(42), c(3)}, st(), false}, {"unknown", []Code{c(42), c(47)}, st(), false}, {"an investigation", []Code{c(42), c(38)}, st(), false},
		{"not research", []Code{c(42)}, st(func(s *Study) { s.Research = false }), false},
	} {
		if bad := Match(v.codes, "", v.s); (len(bad) == 0) != v.ok {
			t.Errorf("%s: %v", v.name, bad)
		}
	}
}

func TestFromDUO(t *testing.T) {
	r := research()
	r.Study.Countries = []string{"NL"}
	f := FromDUO([]Code{{ID: duo(7), Args: []string{cgd}}, {ID: duo(22), Args: []string{"NL"}}, {ID: duo(25), Args: []string{"2027-01-01"}}, {ID: duo(45)}}, "self")
	s := f.Subject([16]byte{}, r)
	// What was settled here does not reach the row rules; the rest does.
	if fmt.Sprint(s.Purposes) != "[DUO:0000007 DUO:0000045]" || s.Area != cgd || s.ValidTo != 1798848000 || len(s.Categories) != 4 {
		t.Errorf("%+v", s)
	}
	r.Study.Countries = []string{"US"}
	if s = f.Subject([16]byte{}, r); len(s.Categories) != 0 {
		t.Errorf("outside the place: %+v", s)
	}
	for _, bad := range [][]Code{nil, {{ID: duo(7)}}, {{ID: duo(7), Args: []string{"DOID:1"}}}} {
		if a := FromDUO(bad, "self").Decide(research()); len(a.Permitted) > 0 {
			t.Errorf("%v permits", bad)
		}
	}
}

func passport(t testing.TB) []*Visa {
	t.Helper()
	b, err := os.ReadFile("testdata/passport-example.json")
	if err != nil {
		t.Fatal(err)
	}
	var raw []json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		t.Fatal(err)
	}
	var out []*Visa
	for _, r := range raw {
		v, err := ParseVisa(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, v)
	}
	return out
}

// TestPassport runs the specification's own example, and what must not pass.
func TestPassport(t *testing.T) {
	const at = 1580000500
	house := func() *Clearinghouse {
		return &Clearinghouse{Now: at, Issuers: []string{"https://issuer.example1.org/oidc", "https://other.example2.org/oidc", "https://broker.example3.org/oidc"}}
	}
	ega, gap := "https://ega-archive.org/datasets/EGAD00000000432", "https://nih.gov/dbgap/phs000710"
	for _, c := range []struct {
		name   string
		change func(h *Clearinghouse, v []*Visa) []*Visa
		value  string
		ok     bool
	}{
		{"without conditions", nil, gap, true},
		{"condition met by the signing official", nil, ega, true},
		{"another data set", nil, "https://ega-archive.org/datasets/EGAD00000000433", false},
		{"another case of letters", nil, strings.ToUpper(gap), false},
		{"affiliation missing", func(_ *Clearinghouse, v []*Visa) []*Visa { return v[1:] }, ega, false},
		{"affiliation asserted by the person", func(_ *Clearinghouse, v []*Visa) []*Visa { v[0].By = "self"; return v }, ega, false},
		{"affiliation by the system", func(_ *Clearinghouse, v []*Visa) []*Visa { v[0].By = "system"; return v }, ega, true},
		{"affiliation of another person", func(_ *Clearinghouse, v []*Visa) []*Visa { v[0].Subject = "10002"; return v }, ega, false},
		{"affiliation of a linked account", func(_ *Clearinghouse, v []*Visa) []*Visa {
			v[0].Subject, v[0].Issuer = "abcd", "https://other.example2.org/oidc"
			return v
		}, ega, true},
		{"affiliation has expired", func(_ *Clearinghouse, v []*Visa) []*Visa { v[0].Expires = at; return v }, ega, false},
		{"affiliation is conditional itself", func(_ *Clearinghouse, v []*Visa) []*Visa {
			v[0].conditions = [][]map[string]string{{{"type": "ResearcherStatus", "by": "const:so"}}}
			return v
		}, ega, false},
		{"a prefix that is not known", func(_ *Clearinghouse, v []*Visa) []*Visa {
			v[2].conditions = [][]map[string]string{{{"type": "AffiliationAndRole", "value": "regexp:.*"}}}
			return v
		}, ega, false},
		{"a clause without a field", func(_ *Clearinghouse, v []*Visa) []*Visa {
			v[2].conditions = [][]map[string]string{{{"type": "AffiliationAndRole"}}}
			return v
		}, ega, false},
		{"an empty clause list", func(_ *Clearinghouse, v []*Visa) []*Visa { v[2].conditions = [][]map[string]string{{}}; return v }, ega, false},
		{"a condition on a time", func(_ *Clearinghouse, v []*Visa) []*Visa {
			v[2].conditions = [][]map[string]string{{{"type": "AffiliationAndRole", "asserted": "const:1549680000"}}}
			return v
		}, ega, false},
		{"a pattern", func(_ *Clearinghouse, v []*Visa) []*Visa {
			v[2].conditions = [][]map[string]string{{{"type": "AffiliationAndRole", "value": "pattern:faculty@*.stanford.ed?"}}}
			return v
		}, ega, true},
		{"a pattern that does not match the whole", func(_ *Clearinghouse, v []*Visa) []*Visa {
			v[2].conditions = [][]map[string]string{{{"type": "AffiliationAndRole", "value": "pattern:*.stanford"}}}
			return v
		}, ega, false},
		{"expires before the end", func(h *Clearinghouse, v []*Visa) []*Visa { h.For = 10 * 86400 * 30; return v }, gap, false},
		{"issuer not trusted", func(h *Clearinghouse, v []*Visa) []*Visa { h.Issuers = h.Issuers[1:]; return v }, gap, false},
		{"source not trusted", func(h *Clearinghouse, v []*Visa) []*Visa { h.Sources = []string{"https://no.organization"}; return v }, gap, false},
		{"asserted too long ago", func(h *Clearinghouse, v []*Visa) []*Visa { h.MaxAge = 86400; return v }, gap, false},
		{"asserted in the future", func(h *Clearinghouse, v []*Visa) []*Visa { v[1].Asserted = at + 1; return v }, gap, false},
		{"nobody says so", func(h *Clearinghouse, v []*Visa) []*Visa { v[1].By = ""; return v }, gap, false},
	} {
		h, all := house(), passport(t)
		if c.change != nil {
			all = c.change(h, all)
		}
		if v, why := h.Grant(all, VisaGrant, c.value); (v != nil) != c.ok {
			t.Errorf("%s: granted %v, %v", c.name, v != nil, why)
		}
	}
	if h, all := house(), passport(t); !h.Registered(all) {
		t.Error("the example stands for registered access")
	} else if h.Registered(slices.Delete(all, 5, 6)) {
		t.Error("two accounts that nothing links stand for registered access")
	}
	if h, all := house(), passport(t); h.Registered(all[:4]) {
		t.Error("one visa stands for registered access")
	}
	// The specification's example of split_pattern.
	v := &Visa{Type: VisaLinked, Value: "001,https::%2F%2Fexample1.org;123,https::%2F%2Fexample2.org;456,https::%2F%2Fexample3.org"}
	if !v.matches(map[string]string{"type": VisaLinked, "value": "split_pattern:123,https::%2F%2Fexample?.org"}) {
		t.Error("split_pattern does not match")
	}
	for _, bad := range []string{`{}`, `{"exp":1,"ga4gh_visa_v1":{"type":"ResearcherStatus","value":"x","source":"y"}}`, `{"ga4gh_visa_v1":{"type":"a","asserted":1,"value":"x","source":"y"}}`} {
		if _, err := ParseVisa([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", bad)
		}
	}
	w, err := ParseVisa([]byte(`{"exp":9999999999,"ga4gh_visa_v1":{"type":"ControlledAccessGrants","asserted":1,"value":"x","source":"y","by":"dac","conditions":{"a":1}}}`))
	if err != nil || w.broken == "" {
		t.Errorf("conditions of another form: %v, %+v", err, w)
	}
}

// TestGlobIsQuick: a pattern cannot make the comparison explode.
func TestGlobIsQuick(t *testing.T) {
	if glob(strings.Repeat("*a", 2000)+"b", strings.Repeat("a", 5000)) {
		t.Error("matches")
	}
	for _, c := range []struct {
		p, s string
		ok   bool
	}{{"*", "", true}, {"", "", true}, {"?", "", false}, {"a*c", "abc", true}, {"a*c", "ac", true}, {"a*c", "acd", false}, {"?b", "äb", true}, {"**", "x", true}} {
		if glob(c.p, c.s) != c.ok {
			t.Errorf("%q %q", c.p, c.s)
		}
	}
}

func credential(claim string) string {
	return `{"@context":["https://www.w3.org/ns/credentials/v2"],"type":["VerifiableCredential","ConsentCredential"],"issuer":"did:key:z6Mk","validFrom":"2026-01-01T00:00:00Z","validUntil":"2030-01-01T00:00:00Z","credentialSubject":{"id":"did:key:z6Mp","consent":` + claim + `}}`
}

func TestCredential(t *testing.T) {
	gru := `"purposes":[{"id":"DUO:0000042"}]`
	for _, c := range []struct{ name, doc, want string }{
		{"glucose yes, mental health no", credential(`{"decision":"deny","givenBy":"self",` + gru + `,"rules":[{"decision":"permit","codes":["` + glucose + `"]},{"decision":"deny","categories":["mental"]}]}`), "glucose"},
		{"all but mental health", credential(`{"decision":"permit","givenBy":"self",` + gru + `,"rules":[{"decision":"deny","categories":["mental"]}]}`), "glucose age drugs variant"},
		{"a denial wins over a permission", credential(`{"decision":"deny","givenBy":"self",` + gru + `,"rules":[{"decision":"permit"},{"decision":"deny","categories":["genetic"]}]}`), "glucose age phq9 drugs"},
		{"another disease", credential(`{"decision":"permit","givenBy":"self","purposes":[{"id":"DUO:0000007","args":["MONDO:0004992"]}],"rules":[]}`), ""},
		{"this disease", credential(`{"decision":"permit","givenBy":"self","purposes":[{"id":"DUO:0000007","args":["MONDO:0018305"]}],"rules":[]}`), everything},
		{"no purpose", credential(`{"decision":"permit","givenBy":"self","purposes":[],"rules":[]}`), ""},
		{"has ended", strings.Replace(credential(`{"decision":"permit","givenBy":"self",`+gru+`,"rules":[]}`), "2030", "2026", 1), ""},
		{"has not begun", strings.Replace(credential(`{"decision":"permit","givenBy":"self",`+gru+`,"rules":[]}`), `"2026-01`, `"2027-01`, 1), ""},
		{"both vocabularies, the narrower holds", strings.Replace(credential(`{"decision":"permit","givenBy":"self",`+gru+`,"rules":[]}`), `"validFrom"`, `"expirationDate":"2026-02-01T00:00:00Z","validFrom"`, 1), ""},
		{"its token has ended", strings.Replace(credential(`{"decision":"permit","givenBy":"self",`+gru+`,"rules":[]}`), `"issuer"`, fmt.Sprintf(`"exp":%d,"issuer"`, research().Now), 1), ""},
		{"its token has not begun", strings.Replace(credential(`{"decision":"permit","givenBy":"self",`+gru+`,"rules":[]}`), `"issuer"`, fmt.Sprintf(`"nbf":%d,"issuer"`, research().Now+1), 1), ""},
		{"a token's beginning is not the consent's", strings.Replace(credential(`{"decision":"permit","givenBy":"self",`+gru+`,"rules":[]}`), `"validFrom":"2026-01-01T00:00:00Z",`, `"nbf":1,`, 1), ""},
		{"never began", strings.Replace(credential(`{"decision":"permit","givenBy":"self",`+gru+`,"rules":[]}`), `"validFrom":"2026-01-01T00:00:00Z",`, "", 1), ""},
		{"terms of use", strings.Replace(credential(`{"decision":"permit","givenBy":"self",`+gru+`,"rules":[]}`), `"issuer"`, `"termsOfUse":{"type":"x"},"issuer"`, 1), ""},
	} {
		f, err := ParseCredential([]byte(c.doc))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := strings.Join(f.Decide(research()).Permitted, " "); got != c.want {
			t.Errorf("%s: permitted %q, want %q (%s)", c.name, got, c.want, f.Denied)
		}
	}
	for name, doc := range map[string]string{
		"another type":      strings.Replace(credential(`{"decision":"permit","givenBy":"self","purposes":[],"rules":[]}`), "ConsentCredential", "AlumniCredential", 1),
		"no claim":          `{"type":["VerifiableCredential","ConsentCredential"],"credentialSubject":{"id":"x"}}`,
		"an unknown field":  credential(`{"decision":"permit","givenBy":"self","purposes":[],"rules":[],"unless":1}`),
		"an unknown answer": credential(`{"decision":"maybe","givenBy":"self","purposes":[],"rules":[]}`),
		"given by nobody":   credential(`{"decision":"permit","givenBy":"","purposes":[],"rules":[]}`),
		"several subjects":  strings.Replace(credential(`{}`), `"credentialSubject":{`, `"credentialSubject":[{`, 1),
		"unknown category":  credential(`{"decision":"permit","givenBy":"self",` + gru + `,"rules":[{"decision":"deny","categories":["psychiatry"]}]}`),
		"decided twice":     credential(`{"decision":"deny","givenBy":"self",` + gru + `,"rules":[],"Decision":"permit"}`),
		"not JSON":          "{",
	} {
		if _, err := ParseCredential([]byte(doc)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
