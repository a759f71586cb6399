package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// lawTable is the part of docs/law.md that follows from law/rules.json.
func lawTable(rules []Rule) string {
	var b strings.Builder
	b.WriteString("| code | regime | asked at | what denies | kind | article | source | text |\n|---|---|---|---|---|---|---|---|\n")
	status := map[string]string{"read": "read", "secondary": "secondary source", "memory": "**unverified**", "policy": "house rule"}
	for _, r := range rules {
		var points []string
		for _, p := range r.Points {
			points = append(points, string(p))
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s | %s | %s |\n", r.Code, strings.ReplaceAll(r.Regime, "*", "all"), strings.Join(points, ", "),
			r.Message, r.Kind, r.Article, r.Source, status[r.Mark])
	}
	return b.String()
}

// TestLawTable keeps docs/law.md and the table of rules the same.
func TestLawTable(t *testing.T) {
	b, err := os.ReadFile("../docs/law.md")
	if err != nil {
		t.Fatal(err)
	}
	want := lawTable(Default().Rules())
	_, rest, ok := strings.Cut(string(b), "<!-- rules -->\n")
	got, _, end := strings.Cut(rest, "<!-- end -->")
	if !ok || !end || got != want {
		path := filepath.Join(t.TempDir(), "table.md")
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Errorf("docs/law.md does not hold the table of law/rules.json between its marks; it should be:\n%s", want)
	}
	_, list, _ := strings.Cut(string(b), "## What is not verified")
	list, _, _ = strings.Cut(list, "\n## ")
	marks := map[string]int{}
	for _, r := range Default().Rules() {
		marks[r.Mark]++
		if named := strings.Contains(list, "`"+r.Code+"`"); named != (r.Mark == "memory") {
			t.Errorf("docs/law.md: %s is marked %s, and named among the unverified: %v", r.Code, r.Mark, named)
		}
	}
	if counts := fmt.Sprintf("Of %d rules, %d state law whose text was read, %d law that was read about, %d law", len(Default().Rules()), marks["read"], marks["secondary"], marks["memory"]); !strings.Contains(list, counts) {
		t.Errorf("docs/law.md: want %q", counts)
	}
	regimes, _, _ := strings.Cut(string(b), "## How regimes compose")
	for _, r := range Default().Regimes() {
		if !strings.Contains(regimes, r) {
			t.Errorf("docs/law.md: the table of regimes lacks %s", r)
		}
	}
	if !strings.Contains(string(b), "not legal advice") {
		t.Error("docs/law.md does not say that it is not legal advice")
	}
}

// TestRules: every rule of the table has evidence in the rules, and every
// code that the rules give evidence for is in the table, so that a typing error
// in either is found.
func TestRules(t *testing.T) {
	b := DefaultBundle()
	var src bytes.Buffer
	for _, p := range b.Paths() {
		if strings.HasSuffix(p, ".rego") {
			f, _ := b.File(p)
			src.Write(f)
		}
	}
	found := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^(?:ok\["([^"]+)"\]|keep\["([^"]+)"\])`).FindAllStringSubmatch(src.String(), -1) {
		found[m[1]+m[2]] = true
	}
	e := Default()
	for _, r := range e.Rules() {
		if !found[r.Code] {
			t.Errorf("%s: no rule gives evidence for it", r.Code)
		}
		delete(found, r.Code)
		if r.Kind == Law && r.Article == "" {
			t.Errorf("%s: law without an article", r.Code)
		}
		if r.Kind == Law && !slices.Contains([]string{"read", "secondary", "memory"}, r.Mark) {
			t.Errorf("%s: law that is marked %s", r.Code, r.Mark)
		}
	}
	for code := range found {
		t.Errorf("%s is not in the table of rules", code)
	}
	for _, p := range Points() {
		if p != PointColumns && !slices.ContainsFunc(e.Rules(), func(r Rule) bool { return r.Regime == "*" && slices.Contains(r.Points, p) }) {
			t.Errorf("no rule for everyone at %s: a hospital of no regime would be let in", p)
		}
	}
}

// TestLawData compares the dated law with the shared tables that it was taken
// from.
func TestLawData(t *testing.T) {
	path := filepath.Join("..", "..", "shared", "data", "law", "law-data.json")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Skip("skipped: needs ../shared/data/law/law-data.json")
	}
	var src struct {
		File struct {
			AsOf string `json:"as_of"`
			Days int    `json:"max_age_days"`
		}
		EEA struct{ Members []string }
		EU  []struct{ C, Act, From string } `json:"adequacy_eu"`
		CH  struct{ List []string }         `json:"adequacy_ch"`
		Zip map[string]json.RawMessage      `json:"zip3_restricted"`
		DSP struct {
			Countries []string
			MoreThan  map[string]int `json:"more_than"`
		} `json:"us_dsp"`
		EHDS struct {
			IV string `json:"chapter_iv"`
		}
	}
	if err := json.Unmarshal(b, &src); err != nil {
		t.Fatal(err)
	}
	f, _ := DefaultBundle().File("law/law.json")
	var law struct {
		AsOf       string
		MaxAgeDays int
		EEA        struct{ Members []string }
		AdequacyEU []struct{ Country, Act, From string }
		AdequacyCH struct{ Countries []struct{ Country string } }
		Zip3       struct{ Restricted []string }
		DS         struct {
			Countries []string
			MoreThan  map[string]int
		} `json:"dataSecurity"`
		EHDS struct{ ChapterIV string }
	}
	if err := json.Unmarshal(f, &law); err != nil {
		t.Fatal(err)
	}
	if law.AsOf != src.File.AsOf || law.MaxAgeDays != src.File.Days || !slices.Equal(law.EEA.Members, src.EEA.Members) || law.EHDS.ChapterIV != src.EHDS.IV {
		t.Error("dates or the EEA differ")
	}
	i := 0
	for _, e := range src.EU {
		if e.C == "EPO" {
			continue // no country
		}
		if g := law.AdequacyEU[i]; g.Country != e.C || g.Act != e.Act || g.From != e.From {
			t.Errorf("adequacy %s: %v", e.C, g)
		}
		i++
	}
	for i, c := range src.CH.List {
		if law.AdequacyCH.Countries[i].Country != strings.TrimSuffix(c, "*") {
			t.Errorf("Annex 1: %s", c)
		}
	}
	var zip []string
	if err := json.Unmarshal(src.Zip["2020"], &zip); err != nil || !slices.Equal(zip, law.Zip3.Restricted) {
		t.Error("zip codes differ")
	}
	if !slices.Equal(src.DSP.Countries, law.DS.Countries) || fmt.Sprint(src.DSP.MoreThan) != fmt.Sprint(law.DS.MoreThan) {
		t.Error("28 CFR 202 differs")
	}
}

// TestConsentCodes: a record lets through exactly the ontology's permissions and
// modifiers, so that a code that no rule looks at cannot stand in one.
func TestConsentCodes(t *testing.T) {
	f, _ := DefaultBundle().File("law/law.json")
	var law struct {
		DUO struct {
			Permissions, Modifiers     map[string]string
			Deprecated, Investigations []string
		}
	}
	if err := json.Unmarshal(f, &law); err != nil {
		t.Fatal(err)
	}
	known := 0
	for _, m := range []map[string]string{law.DUO.Permissions, law.DUO.Modifiers} {
		for name, code := range m {
			known++
			if !consentCode(code) {
				t.Errorf("%s %s is refused", name, code)
			}
		}
	}
	for _, code := range append(law.DUO.Deprecated, law.DUO.Investigations...) {
		if consentCode(code) {
			t.Errorf("%s is let through", code)
		}
	}
	n := 0
	for i := range 200 {
		if consentCode(fmt.Sprintf("DUO:%07d", i)) {
			n++
		}
	}
	if n != known || consentCode("DUO:00000440") || consentCode("xDUO:0000044") {
		t.Errorf("%d codes are let through, the law knows %d", n, known)
	}
}
