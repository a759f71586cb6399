package consent

import (
	"slices"
	"strings"
	"testing"
)

// TestEntry: what is entered says no more than the document, for no longer than
// every provision of it stays as it is.
func TestEntry(t *testing.T) {
	research4 := func(provision string) string { return r4("OPTIN", provision) }
	day := func(s string) int64 {
		from, _, err := instant(s)
		if err != nil {
			t.Fatal(err)
		}
		return from
	}
	all := "general genetic mental substance"
	for _, c := range []struct {
		name, doc, scopes string
		until             int64
		refusal           bool
		says              string // the error
	}{
		{"everything", research4(""), all, Never, false, ""},
		{"until a day", strings.Replace(r5("deny", `{"purpose":[{"code":"HRESCH"}]}`), `"status"`, `"period":{"end":"2027-01-31"},"status"`, 1), all, day("2027-02-01"), false, ""},
		{"a provision that ends", r5("deny", `{"purpose":[{"code":"HRESCH"}],"period":{"end":"2027-01-31"}}`), all, day("2027-02-01"), false, ""},
		{"a denial that begins", research4(`{"provision":[{"type":"deny","period":{"start":"2027-03-01"}}]}`), all, day("2027-03-01"), false, ""},
		{"a denial that ended", research4(`{"provision":[{"type":"deny","period":{"end":"2025"}}]}`), all, Never, false, ""},
		{"not mental health", research4(`{"provision":[{"type":"deny","securityLabel":[{"code":"PSY"}]}]}`), "general genetic substance", Never, false, ""},
		{"one column of a category", r4("OPTOUT", `{"provision":[{"type":"permit","code":[{"coding":[{"system":"http://loinc.org","code":"2339-0"}]}]}]}`), "", 0, true, ""},
		{"a denial to somebody else", research4(`{"provision":[{"type":"deny","securityLabel":[{"code":"PSY"}],"actor":[{"role":{"coding":[{"code":"IRCP"}]},"reference":{"reference":"Organization/pharma"}}]}]}`), "general genetic substance", Never, false, ""},
		{"taken back, the rest unreadable", strings.NewReplacer("active", "inactive", `"status"`, `"modifierExtension":[{"url":"x"}],"status"`).Replace(research4("")), "", 0, true, ""},
		{"nothing", r4("OPTOUT", ""), "", 0, true, ""},
		{"taken back", strings.Replace(research4(""), "active", "inactive", 1), "", 0, true, ""},
		{"a draft", strings.Replace(research4(""), "active", "draft", 1), "", 0, false, "never in force"},
		{"over", strings.Replace(r5("permit", ""), `"status"`, `"period":{"end":"2025"},"status"`, 1), "", 0, false, "has ended"},
		{"of no known purpose", r5("permit", ""), "", 0, false, "is research"},
		{"unreadable", strings.Replace(research4(""), `"status"`, `"modifierExtension":[{"url":"x"}],"status"`, 1), "", 0, false, "modifier"},
	} {
		f, err := ParseFHIR([]byte(c.doc))
		if err != nil {
			t.Fatal(err)
		}
		e, err := f.Entry(research())
		if c.says != "" {
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %+v, %v", c.name, e, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if e.Refusal != c.refusal || strings.Join(e.Scopes, " ") != c.scopes || !c.refusal && e.Until != c.until {
			t.Errorf("%s: %+v", c.name, e)
		}
		// Nothing is entered that the document itself denies for some study.
		for _, it := range research().Items {
			r := research()
			if slices.Contains(e.Scopes, it.Category) && !slices.Contains(f.Decide(r).Permitted, it.Name) {
				t.Errorf("%s: %s is entered and not permitted", c.name, it.Name)
			}
		}
	}
	duo := func(doc string) *Entry {
		t.Helper()
		f, err := ParseDUO([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		e, err := f.Entry(research())
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	if e := duo(`{"codes":[{"id":"DUO:0000007","args":["MONDO:0018305"]},{"id":"DUO:0000025","args":["2027-06-30"]},{"id":"DUO:0000045"}],"givenBy":"self"}`); e.Until != day("2027-07-01") ||
		strings.Join(e.Purposes, " ") != "DUO:0000007 DUO:0000045" || strings.Join(e.Diseases, " ") != "MONDO:0018305" {
		t.Errorf("%+v", e)
	}
	// A code with a word that the store cannot say stays, and the row rules deny it.
	if e := duo(`{"codes":[{"id":"DUO:0000042"},{"id":"DUO:0000022","args":["NL"]}],"givenBy":"self"}`); strings.Join(e.Purposes, " ") != "DUO:0000022 DUO:0000042" {
		t.Errorf("%+v", e)
	}
	// A date that cannot be read limits nothing by itself, whatever else ends.
	if e := duo(`{"codes":[{"id":"DUO:0000042"},{"id":"DUO:0000025","args":["2030"]},{"id":"DUO:0000025","args":["June 2027"]}],"givenBy":"self"}`); strings.Join(e.Purposes, " ") != "DUO:0000025 DUO:0000042" {
		t.Errorf("%+v", e)
	}
	for _, bad := range []string{`{`, `{"codes":[],"givenBy":"x"}`, `{"codes":[{"id":"GRU"}],"givenBy":"self"}`, `{"codes":[],"givenBy":"self","more":1}`, `{"codes":[],"Codes":[],"givenBy":"self"}`, `{"codes":[],"givenBy":"self"}{}`} {
		if _, err := ParseDUO([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", bad)
		}
	}
	f, _ := ParseDUO([]byte(`{"codes":[],"givenBy":"self"}`))
	if _, err := f.Entry(research()); err == nil {
		t.Error("no code at all is entered")
	}
}
