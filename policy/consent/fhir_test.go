package consent

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
)

const now = int64(1795262400) // 2026-11-21

const (
	glucose = "http://loinc.org|2339-0"
	phq9    = "http://loinc.org|44249-1"
)

func research() *Request {
	return &Request{Now: now, Purpose: "HRESCH", Actors: []string{"Organization/f001"}, Items: []Item{
		{Name: "glucose", Category: "general", Codes: []string{glucose}},
		{Name: "age", Category: "general"},
		{Name: "phq9", Category: "mental", Codes: []string{phq9}},
		{Name: "drugs", Category: "substance"},
		{Name: "variant", Category: "genetic"},
	}, Study: Study{Research: true, Disease: "MONDO:0018305", Ancestors: []string{"MONDO:0003778"}, Now: now}}
}

func permitted(t testing.TB, doc string, r *Request) string {
	t.Helper()
	f, err := ParseFHIR([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(f.Decide(r).Permitted, " ")
}

// TestHL7Examples: none of the specification's own examples consents to
// research, so none may permit it, whatever their outermost provision means.
func TestHL7Examples(t *testing.T) {
	b, err := os.ReadFile("testdata/fhir-r4-examples.json")
	if err != nil {
		t.Fatal(err)
	}
	var list []json.RawMessage
	if err := json.Unmarshal(b, &list); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"consent-example-Emergency": "cannot be told", "consent-example-Out": "cannot be told", "consent-example-grantor": "cannot be told",
		"consent-example-notAuthor": "cannot be told", "consent-example-notOrg": "contradict", "consent-example-notThem": "cannot be told",
		"consent-example-notThis": "cannot be told", "consent-example-notTime": "cannot be told", "consent-example-pkb": "cannot be told",
	}
	if len(list) != len(want) {
		t.Fatalf("%d examples", len(list))
	}
	for _, doc := range list {
		var head struct{ ID string }
		if err := json.Unmarshal(doc, &head); err != nil {
			t.Fatal(err)
		}
		f, err := ParseFHIR(doc)
		if err != nil {
			t.Fatal(err)
		}
		if a := f.Decide(research()); len(a.Permitted) > 0 || !strings.Contains(f.Denied, want[head.ID]) {
			t.Errorf("%s: permitted %v, denied because %q, want %q", head.ID, a.Permitted, f.Denied, want[head.ID])
		}
	}
}

func r4(rule, provision string) string {
	s := `{"resourceType":"Consent","status":"active","scope":{"coding":[{"code":"research"}]}`
	if rule != "" {
		s += `,"policyRule":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/v3-ActCode","code":"` + rule + `"}]}`
	}
	if provision != "" {
		s += `,"provision":` + provision
	}
	return s + "}"
}

func r5(decision, provision string) string {
	s := `{"resourceType":"Consent","status":"active","decision":"` + decision + `"`
	if provision != "" {
		s += `,"provision":[` + provision + `]`
	}
	return s + "}"
}

const everything = "glucose age phq9 drugs variant"

func TestFHIR(t *testing.T) {
	psy, sud := `"securityLabel":[{"code":"PSY"}]`, `"securityLabel":[{"code":"ETH"}]`
	code := func(c string) string {
		system, id, _ := strings.Cut(c, "|")
		return `"code":[{"coding":[{"system":"` + system + `","code":"` + id + `"}]}]`
	}
	for _, c := range []struct{ name, doc, want string }{
		// Who says permit or deny, release 4: all four ways.
		{"R4 policy rule alone", r4("OPTIN", ""), everything},
		{"R4 policy rule denies", r4("OPTOUT", ""), ""},
		{"R4 outermost type alone", r4("", `{"type":"permit"}`), everything},
		{"R4 both agree", r4("OPTIN", `{"type":"permit"}`), everything},
		{"R4 neither", r4("", `{}`), ""},
		{"R4 both, contradicting", r4("OPTIN", `{"type":"deny"}`), ""},
		{"R4 outermost type bounds", r4("", `{"type":"permit",`+code(glucose)+`}`), "glucose"},
		{"R4 nested without a type", r4("OPTIN", `{"provision":[{`+psy+`}]}`), ""},
		// What patients mean.
		{"R4 glucose yes, the rest no", r4("OPTOUT", `{"provision":[{"type":"permit",`+code(glucose)+`}]}`), "glucose"},
		{"R4 all but mental health", r4("OPTIN", `{"provision":[{"type":"deny",`+psy+`}]}`), "glucose age drugs variant"},
		{"R5 glucose yes, mental health no", r5("deny", `{`+code(glucose)+`}`), "glucose"},
		{"R5 all but mental health", r5("permit", `{`+psy+`}`), "glucose age drugs variant"},
		{"R5 all but what PHQ-9 measures", r5("permit", `{`+code(phq9)+`}`), "glucose age drugs variant"},
		// A column without codes may hold what is denied, if its category may.
		{"R5 all but glucose", r5("permit", `{`+code(glucose)+`}`), "phq9 drugs variant"},
		// A code that the table lacks may be a panel that covers an item.
		{"R5 all but an unknown code", r5("permit", `{`+code("http://loinc.org|99999-9")+`}`), ""},
		{"R5 all but a code of another system", r5("permit", `{`+code("http://snomed.info/sct|33747003")+`}`), ""},
		{"R5 all but a known code of another category in another system", r5("permit", `{`+code("http://snomed.info/sct|413307004")+`}`), "glucose age drugs variant"},
		{"R5 all but what is named in words", r5("permit", `{"code":[{}]}`), ""},
		{"R5 all but another code of the same category", r5("permit", `{`+code("http://loinc.org|718-7")+`}`), "glucose phq9 drugs variant"},
		{"R5 an unknown code only", r5("deny", `{`+code("http://loinc.org|99999-9")+`}`), ""},
		// Nesting turns around.
		{"R5 permit, but not mental health, but that to f001", r5("permit", `{`+psy+`,"provision":[{"actor":[{"reference":{"reference":"Organization/f001"}}]}]}`), everything},
		{"R5 the same for another actor", r5("permit", `{`+psy+`,"provision":[{"actor":[{"reference":{"reference":"Organization/f002"}}]}]}`), "glucose age drugs variant"},
		// Any branch that ends in deny denies: mental health to f001 is permitted
		// two deep, and a sibling denies mental health and addiction.
		{"R5 a sibling denies", r5("permit", `{`+psy+`,"provision":[{"actor":[{"reference":{"reference":"Organization/f001"}}]}]},{"securityLabel":[{"code":"PSY"},{"code":"ETH"}]}`), "glucose age variant"},
		// Two exceptions side by side inside of a denial: both must be met,
		// since each leaves the other's branch denied.
		{"R5 two exceptions of one denial", r5("permit", `{`+psy+`,"provision":[{"actor":[{"reference":{"reference":"Organization/f001"}}]},{"purpose":[{"code":"TREAT"}]}]}`), "glucose age drugs variant"},
		{"R4 permit and deny at one depth", r4("OPTOUT", `{"provision":[{"type":"permit"},{"type":"deny",`+sud+`}]}`), "glucose age phq9 variant"},
		// Children inherit.
		{"R4 child is bound by its parent", r4("OPTOUT", `{"type":"deny","provision":[{"type":"permit",`+psy+`,"provision":[{"type":"permit",`+sud+`}]}]}`), "phq9"},
		// Purposes.
		{"R5 research", r5("deny", `{"purpose":[{"code":"HRESCH"}]}`), everything},
		{"R5 clinical trials are not all research", r5("deny", `{"purpose":[{"code":"CLINTRCH"}]}`), ""},
		{"R5 treatment", r5("deny", `{"purpose":[{"code":"TREAT"}]}`), ""},
		{"R5 treatment or research", r5("deny", `{"purpose":[{"code":"TREAT"},{"code":"HRESCH"}]}`), everything},
		{"R5 not for trials: this may be one", r5("permit", `{"purpose":[{"code":"CLINTRCH"}]}`), ""},
		{"R5 not for payment", r5("permit", `{"purpose":[{"code":"HPAYMT"}]}`), everything},
		{"R5 not for an unknown purpose", r5("permit", `{"purpose":[{"code":"XYZ"}]}`), ""},
		{"R5 for an unknown purpose", r5("deny", `{"purpose":[{"code":"XYZ"}]}`), ""},
		// Actors, actions.
		{"R5 for f001", r5("deny", `{"actor":[{"reference":{"reference":"Organization/f001"}}]}`), everything},
		{"R5 for another", r5("deny", `{"actor":[{"reference":{"reference":"Organization/f002"}}]}`), ""},
		{"R5 for a role", r5("deny", `{"actor":[{"role":{"coding":[{"code":"PRCP"}]}}]}`), ""},
		{"R5 not for a role", r5("permit", `{"actor":[{"role":{"coding":[{"code":"PRCP"}]}}]}`), ""},
		{"R5 not for a role or another", r5("permit", `{"actor":[{"role":{"coding":[{"code":"PRCP"}]}},{"reference":{"reference":"Organization/f002"}}]}`), ""},
		{"R5 for a role or f001", r5("deny", `{"actor":[{"role":{"coding":[{"code":"PRCP"}]}},{"reference":{"reference":"Organization/f001"}}]}`), everything},
		{"R5 not for another", r5("permit", `{"actor":[{"reference":{"reference":"Organization/f002"}}]}`), everything},
		{"R5 not for an address", r5("permit", `{"actor":[{"reference":{"reference":"https://fhir.example.org/Organization/f002"}}]}`), ""},
		{"R5 not for a group", r5("permit", `{"actor":[{"reference":{"reference":"Group/all"}}]}`), ""},
		{"R5 an action without a code", r5("permit", `{"action":[{"text":"any"}]}`), ""},
		{"R5 an action of another system", r5("permit", `{"action":[{"coding":[{"system":"urn:x","code":"correct"}]}]}`), ""},
		{"R5 an unknown action", r5("permit", `{"action":[{"coding":[{"code":"mine"}]}]}`), ""},
		{"R5 for an action of another system", r5("deny", `{"action":[{"coding":[{"system":"urn:x","code":"access"},{"system":"urn:x","code":"use"}]}]}`), ""},
		{"R5 a purpose of another system", r5("permit", `{"purpose":[{"system":"urn:x","code":"HPAYMT"}]}`), ""},
		{"R5 a label of another system", r5("permit", `{"securityLabel":[{"system":"urn:x","code":"PSY"}]}`), ""},
		{"R5 nothing confidential", r5("permit", `{"securityLabel":[{"code":"R"}]}`), ""},
		{"R5 access only", r5("deny", `{"action":[{"coding":[{"code":"access"}]}]}`), ""},
		{"R5 access and use", r5("deny", `{"action":[{"coding":[{"code":"access"}]},{"coding":[{"code":"use"}]}]}`), everything},
		{"R5 no use", r5("permit", `{"action":[{"coding":[{"code":"use"}]}]}`), ""},
		{"R5 no correction", r5("permit", `{"action":[{"coding":[{"code":"correct"}]}]}`), everything},
		// Kinds of documents and times of data are not known here.
		{"R5 observations only", r5("deny", `{"resourceType":[{"code":"Observation"}]}`), ""},
		{"R5 no observations", r5("permit", `{"resourceType":[{"code":"Observation"}]}`), ""},
		{"R5 data of 2015 only", r5("deny", `{"dataPeriod":{"start":"2015","end":"2015"}}`), ""},
		{"R5 no data of 2015", r5("permit", `{"dataPeriod":{"start":"2015","end":"2015"}}`), ""},
		// Times.
		{"R5 until today, inclusive", r5("deny", `{"period":{"end":"2026-11-21"}}`), everything},
		{"R5 until yesterday", r5("deny", `{"period":{"end":"2026-11-20"}}`), ""},
		{"R5 from tomorrow", r5("deny", `{"period":{"start":"2026-11-22"}}`), ""},
		{"R5 denied last year", r5("permit", `{"period":{"start":"2025","end":"2025"}}`), everything},
		{"R5 denied this year", r5("permit", `{"period":{"start":"2026","end":"2026"}}`), ""},
		{"R4 in force to 2027", r4("", `{"type":"permit","period":{"end":"2027"}}`), everything},
		{"R4 in force to 2025", r4("", `{"type":"permit","period":{"end":"2025"}}`), ""},
		{"R5 whole document to 2025", `{"resourceType":"Consent","status":"active","decision":"permit","period":{"end":"2025"}}`, ""},
		// As German consent modules write it: deny at the root with the period,
		// permits inside.
		{"R4 modules", r4("", `{"type":"deny","period":{"start":"2020-09-01","end":"2050-08-31"},"provision":[{"type":"permit","period":{"start":"2020-09-01","end":"2025-08-31"},`+psy+`},{"type":"permit","period":{"start":"2020-09-01","end":"2050-08-31"},`+code(glucose)+`}]}`), "glucose"},
		// What cannot be read.
		{"status inactive", strings.Replace(r5("permit", ""), "active", "inactive", 1), ""},
		{"status draft", strings.Replace(r5("permit", ""), "active", "draft", 1), ""},
		{"status proposed", strings.Replace(r4("OPTIN", ""), "active", "proposed", 1), ""},
		{"status entered-in-error", strings.Replace(r5("permit", ""), "active", "entered-in-error", 1), ""},
		{"status of another release", strings.Replace(r5("permit", ""), "active", "Active", 1), ""},
		{"scope treatment", strings.Replace(r4("OPTIN", ""), `"research"`, `"treatment"`, 1), ""},
		{"R5 no decision", `{"resourceType":"Consent","status":"active","provision":[{}]}`, ""},
		{"status of no release", strings.Replace(r5("permit", ""), "active", "unknown", 1), ""},
		{"a kind of consent that is not known", strings.Replace(r5("permit", ""), `"status"`, `"category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/consentcategorycodes","code":"dnr"}]}],"status"`, 1), ""},
		{"a kind of consent in words", strings.Replace(r5("permit", ""), `"status"`, `"category":[{"text":"x"}],"status"`, 1), ""},
		{"a consent document", strings.Replace(r5("permit", ""), `"status"`, `"category":[{"coding":[{"system":"http://loinc.org","code":"59284-0"}]}],"status"`, 1), everything},
		{"an element that is not known", strings.Replace(r5("permit", ""), `"status"`, `"periods":{"end":"2020"},"status"`, 1), ""},
		{"a condition that is not known", r5("deny", `{"purposes":[{"code":"TREAT"}]}`), ""},
		{"modifier extension", strings.Replace(r5("permit", ""), `"status"`, `"modifierExtension":[{"url":"x"}],"status"`, 1), ""},
		{"modifier extension inside", r5("permit", `{"modifierExtension":[{"url":"x"}],"purpose":[{"code":"HPAYMT"}]}`), ""},
		{"expression", r5("permit", `{"expression":{"language":"text/cql"},"purpose":[{"code":"HPAYMT"}]}`), ""},
		{"single data", r5("permit", `{"data":[{"meaning":"instance"}],"purpose":[{"code":"HPAYMT"}]}`), ""},
		{"too deep", r5("permit", strings.Repeat(`{"purpose":[{"code":"HPAYMT"}],"provision":[`, 12)+`{}`+strings.Repeat(`]}`, 12)), ""},
		{"too many", r5("permit", strings.Repeat(`{"purpose":[{"code":"HPAYMT"}]},`, 600)+`{"purpose":[{"code":"HPAYMT"}]}`), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := permitted(t, c.doc, research()); got != c.want {
				t.Errorf("permitted %q, want %q", got, c.want)
			}
		})
	}
	for _, bad := range []string{``, `[]`, `{"resourceType":"Patient"}`, `{"resourceType":"Consent","status":"active","decision":"permit","provision":[{"period":{"start":"yesterday"}}]}`,
		`{"resourceType":"Consent","status":"active","decision":"deny","Decision":"permit"}`,
		`{"resourceType":"Consent","status":"active","decision":"deny","provision":[{"purpose":[{"code":"TREAT"}],"purpose":[{"code":"HRESCH"}]}]}`,
		r5("permit", "") + r5("deny", "")} {
		if _, err := ParseFHIR([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", bad)
		}
	}
}

// TestMoreDenies: whatever the rest of a document says, one provision more that
// denies, or one condition more on a provision that permits, never permits an
// item that was not permitted before.
func TestMoreDenies(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	kinds := map[string][]string{
		"purpose": {"HRESCH", "CLINTRCH", "TREAT", "XYZ", unread}, "actor": {"Organization/f001", "Organization/f002", "Group/x", unread},
		"action": {"use", "access", "correct", "mine", unread}, "category": {"general", "mental", "genetic", "psychiatry"},
		"label": {"PSY", "N", "R", "ETH", "ZZZ", unread}, "code": {glucose, phq9, "http://loinc.org|99999-9", "http://snomed.info/sct|1", "x|y", unread}, "other": {"?"},
	}
	names := []string{"purpose", "actor", "action", "category", "label", "code", "other"}
	some := func() criterion {
		k := names[rng.IntN(len(names))]
		v := kinds[k]
		out := []string{v[rng.IntN(len(v))]}
		if rng.IntN(3) == 0 {
			out = append(out, v[rng.IntN(len(v))])
		}
		return criterion{k, out}
	}
	grants, wider := 0, 0
	for range 20000 {
		f := Form{Status: StatusActive, Until: Never, Base: rng.IntN(2) == 0}
		for i := range rng.IntN(5) {
			r := Rule{Permit: rng.IntN(2) == 0, Branch: i/2 + 1, Depth: rng.IntN(3)}
			for range rng.IntN(3) {
				r.Match = append(r.Match, some())
			}
			f.Rules = append(f.Rules, r)
		}
		before := f.Decide(research()).Permitted
		grants += len(before)
		g := f
		if i := slices.IndexFunc(f.Rules, func(r Rule) bool { return !r.Permit && len(r.Match) > 0 }); i >= 0 && rng.IntN(3) == 0 {
			// One more alternative on a denial makes it wider.
			g.Rules = slices.Clone(f.Rules)
			g.Rules[i].Match = slices.Clone(g.Rules[i].Match)
			m := &g.Rules[i].Match[rng.IntN(len(g.Rules[i].Match))]
			v := kinds[m.kind]
			m.values = append(slices.Clone(m.values), v[rng.IntN(len(v))])
			if deeper := func(r Rule) bool { return r.Permit && r.Branch == f.Rules[i].Branch }; slices.ContainsFunc(f.Rules, deeper) {
				continue // it may have bounded a permission inside of it
			}
			wider++
		} else if rng.IntN(2) == 0 {
			g.Rules = append(slices.Clone(f.Rules), Rule{Branch: 99, Depth: 1, Match: []criterion{some()}})
		} else if i := slices.IndexFunc(f.Rules, func(r Rule) bool { return r.Permit }); i >= 0 && !f.Base && !slices.ContainsFunc(f.Rules, func(r Rule) bool { return !r.Permit && r.Branch == f.Rules[i].Branch }) {
			g.Rules = slices.Clone(f.Rules)
			g.Rules[i].Match = append(slices.Clone(g.Rules[i].Match), some())
		}
		for _, item := range g.Decide(research()).Permitted {
			if !slices.Contains(before, item) {
				t.Fatalf("%s is permitted by saying less: %+v, then %+v", item, f, g)
			}
		}
	}
	if grants == 0 || wider == 0 {
		t.Fatal("nothing was ever permitted: the test shows nothing")
	}
}

func TestSubject(t *testing.T) {
	f, err := ParseFHIR([]byte(r4("OPTIN", `{"provision":[{"type":"deny","securityLabel":[{"code":"PSY"}]}]}`)))
	if err != nil {
		t.Fatal(err)
	}
	s := f.Subject([16]byte{1}, research())
	if s.Status != "active" || fmt.Sprint(s.Categories) != "[general genetic substance]" || fmt.Sprint(s.Purposes) != "[DUO:0000042]" || s.GivenBy != "self" {
		t.Errorf("%+v", s)
	}
	// One denied item takes its category with it.
	f, _ = ParseFHIR([]byte(r5("deny", `{"code":[{"coding":[{"system":"http://loinc.org","code":"2339-0"}]}]}`)))
	if s = f.Subject([16]byte{1}, research()); len(s.Categories) != 0 || len(s.Purposes) != 0 {
		t.Errorf("age is not permitted, general is: %+v", s)
	}
	r := research()
	r.Items = r.Items[:1]
	if s = f.Subject([16]byte{1}, r); fmt.Sprint(s.Categories) != "[general]" {
		t.Errorf("glucose alone: %+v", s)
	}
	f, _ = ParseFHIR([]byte(strings.Replace(r5("permit", ""), "active", "inactive", 1)))
	if s = f.Subject([16]byte{1}, research()); s.Status != "withdrawn" || s.WithdrawnAt > now {
		t.Errorf("inactive: %+v", s)
	}
	var zero Form
	if s = zero.Subject([16]byte{1}, research()); s.Status != "none" || len(s.Categories) != 0 {
		t.Errorf("the zero form: %+v", s)
	}
}

// TestPurposeOfAConsent: only a document that is about research, or whose
// permissions name the purpose, becomes a permission for research.
func TestPurposeOfAConsent(t *testing.T) {
	code := `{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/consentcategorycodes","code":"research"}]}`
	privacy := strings.Replace(r4("OPTIN", ""), `"research"`, `"patient-privacy"`, 1)
	for _, c := range []struct{ name, doc, want string }{
		{"R4 research", r4("OPTIN", ""), "DUO:0000042"},
		{"R4 privacy", privacy, ""},
		{"R4 privacy, for research", strings.Replace(r4("OPTOUT", `{"provision":[{"type":"permit","purpose":[{"code":"HRESCH"}]}]}`), `"research"`, `"patient-privacy"`, 1), "DUO:0000042"},
		{"R4 privacy, of the kind research", strings.Replace(privacy, `"status"`, `"category":[`+code+`],"status"`, 1), "DUO:0000042"},
		{"R4 of two minds", strings.Replace(r4("OPTIN", ""), `{"code":"research"}`, `{"code":"research"},{"code":"patient-privacy"}`, 1), ""},
		{"R4 without a scope", `{"resourceType":"Consent","status":"active","policyRule":{"coding":[{"code":"OPTIN"}]}}`, ""},
		{"R5 permit", r5("permit", ""), ""},
		{"R5 of the kind research", strings.Replace(r5("permit", ""), `"status"`, `"category":[`+code+`],"status"`, 1), "DUO:0000042"},
		{"R5 for research", r5("deny", `{"purpose":[{"code":"HRESCH"}]}`), "DUO:0000042"},
		{"R5 for all that is not payment", r5("permit", `{"purpose":[{"code":"HPAYMT"}]}`), ""},
		{"R5 some for research, the rest for anything", r5("deny", `{"purpose":[{"code":"HRESCH"}],"securityLabel":[{"code":"PSY"}]},{"securityLabel":[{"code":"ETH"}]}`), ""},
	} {
		f, err := ParseFHIR([]byte(c.doc))
		if err != nil {
			t.Fatal(err)
		}
		s := f.Subject([16]byte{1}, research())
		if got := strings.Join(s.Purposes, " "); got != c.want || len(s.Categories) == 0 {
			t.Errorf("%s: purposes %q of categories %v, want %q (%s)", c.name, got, s.Categories, c.want, f.Denied)
		}
	}
}

// TestManyProvisions: a document at the limit of its size is read in a moment.
func TestManyProvisions(t *testing.T) {
	flat := strings.Repeat(`{},`, MaxDocument/3-100) + `{}`
	nested := `{"provision":[` + strings.Repeat(`{},`, MaxDocument/3-100) + `{}]}`
	for name, list := range map[string]string{"flat": flat, "nested": nested} {
		f, err := ParseFHIR([]byte(r5("permit", list)))
		if err != nil {
			t.Fatal(err)
		}
		if f.Denied == "" || len(f.Rules) > maxRules*(maxDepth+1) {
			t.Errorf("%s: %d rules, denied %q", name, len(f.Rules), f.Denied)
		}
	}
}

// FuzzFHIR: no document panics or takes long, and what is denied as a whole
// permits nothing.
func FuzzFHIR(f *testing.F) {
	f.Add([]byte(r4("OPTIN", `{"provision":[{"type":"deny"}]}`)))
	f.Add([]byte(r5("deny", `{"provision":[{"purpose":[{"code":"HRESCH"}]}]}`)))
	f.Fuzz(func(t *testing.T, doc []byte) {
		c, err := ParseFHIR(doc)
		if err != nil {
			return
		}
		if a := c.Decide(research()); len(a.Permitted) > 0 && (c.Denied != "" || c.Status != StatusActive) {
			t.Fatalf("%s permits %v", doc, a.Permitted)
		}
	})
}
