package consent_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"consilium/policy"
	"consilium/policy/consent"
)

const moment = int64(1795262400) // 2026-11-21

// letIn says for each document whether the row rules of a hospital that asks for
// consent only where one was given let the patient's rows in.
func letIn(t *testing.T, docs map[string]string) map[string]bool {
	t.Helper()
	base, err := os.ReadFile("../testdata/base/us.json")
	if err != nil {
		t.Fatal(err)
	}
	b, _, err := (&policy.Vector{Point: policy.PointRows}).Question(base)
	if err != nil {
		t.Fatal(err)
	}
	_, in, err := policy.ParseQuestion(b)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(base), `"consent": "where_given"`) {
		t.Fatal("the hospital asks for consent from everyone")
	}
	in.Record = nil
	e, err := policy.Compile(policy.DemoBundle())
	if err != nil {
		t.Fatal(err)
	}
	r := &consent.Request{Now: moment, Purpose: "HRESCH", Actors: []string{"Organization/f001"},
		Items: []consent.Item{{Name: "age", Category: "general"}, {Name: "inherit", Category: "genetic"}}}
	var names []string
	var subjects []policy.Subject
	for name, doc := range docs {
		f := &consent.Form{}
		if doc != "" {
			if f, err = consent.ParseFHIR([]byte(doc)); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		s := f.Subject([16]byte{byte(len(names) + 1)}, r)
		s.IsAdultNow, s.CitizenOrLPR = true, true
		names, subjects = append(names, name), append(subjects, s)
	}
	rows, err := e.FilterRows(t.Context(), in, policy.SubjectRecord(subjects))
	if err != nil {
		t.Fatal(err)
	}
	if err := rows.Decision.Err(); err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for i, name := range names {
		out[name] = rows.Allowed[i]
	}
	return out
}

// TestDenialIsNotSilence: at a hospital that uses records of patients who were not
// asked, a document that denies, or that cannot be read, keeps the row out.
func TestDenialIsNotSilence(t *testing.T) {
	research := `"category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/consentcategorycodes","code":"research"}]}]`
	r5 := func(more string) string {
		return `{"resourceType":"Consent","status":"active",` + research + `,` + more + `}`
	}
	want := map[string]bool{"nothing on file": true, "permits": true, "draft": true}
	docs := map[string]string{
		"nothing on file":        "",
		"permits":                r5(`"decision":"permit"`),
		"draft":                  strings.Replace(r5(`"decision":"deny"`), "active", "draft", 1),
		"denies":                 r5(`"decision":"deny"`),
		"denies, and more":       r5(`"decision":"deny","modifierExtension":[{"url":"x"}]`),
		"permits, and more":      r5(`"decision":"permit","modifierExtension":[{"url":"x"}]`),
		"neither":                r5(`"decision":"maybe"`),
		"an unknown status":      strings.Replace(r5(`"decision":"deny"`), "active", "unknown", 1),
		"unknown element":        r5(`"decision":"permit","only":{"purpose":"TREAT"}`),
		"rejected":               strings.Replace(r5(`"decision":"permit"`), "active", "rejected", 1),
		"ended":                  r5(`"decision":"permit","period":{"end":"2025"}`),
		"genetic denied":         r5(`"decision":"permit","provision":[{"securityLabel":[{"code":"GDIS"}]}]`),
		"not to a role, or f002": r5(`"decision":"permit","provision":[{"actor":[{"role":{"coding":[{"code":"PRCP"}]}},{"reference":{"reference":"Organization/f002"}}]}]`),
		"of no known purpose":    `{"resourceType":"Consent","status":"active","decision":"permit"}`,
	}
	got := letIn(t, docs)
	var names []string
	for name := range docs {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if got[name] != want[name] {
			t.Errorf("%s: the row is let in %t, want %t", name, got[name], want[name])
		}
	}
}
