package policy

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/hybrid"
)

const testNow = int64(1795262400) // 2026-11-21 12:00 UTC, as in the base documents

// testSpec is a study like the base documents' one.
func testSpec(t testing.TB, change func(*consilium.Spec)) (*consilium.Spec, []byte) {
	t.Helper()
	bounds := [2]float64{0, 89}
	s := &consilium.Spec{
		APIVersion: consilium.APIVersion, Kind: "Study", Name: "interferon", Question: "Does it help?",
		Purpose: consilium.Purpose{DUO: []string{"DUO:0000007"}, Disease: "MONDO:0018305", Class: "scientific_research"},
		Data:    consilium.DataRef{Dataset: "cgd", Patient: "id"},
		Sites:   consilium.SiteRule{Min: 5, Missing: "wait"},
		Columns: []consilium.Column{
			{Name: "id", Type: consilium.TypeID, Tag: "R"},
			{Name: "treat", Type: consilium.TypeLevels, Levels: []string{"placebo", "rIFN-g"}},
			{Name: "age", Type: consilium.TypeInteger, Bounds: &bounds},
			{Name: "inherit", Type: consilium.TypeLevels, Levels: []string{"X-linked", "autosomal"}, Category: "genetic"},
			{Name: "tstop", Type: consilium.TypeInteger},
			{Name: "status", Type: consilium.TypeFlag},
		},
		Seed: 1,
		Analyses: []consilium.AnalysisSpec{{Name: "first", Type: consilium.AnalysisCox, Ties: "efron", Strata: []string{"site"},
			Response: &consilium.Response{Stop: "tstop", Event: "status"}, Terms: []string{"treat", "treat:log(age)", "inherit"}}},
		Privacy: consilium.Privacy{MinCohort: 11, Permits: []string{}},
		Rounds:  consilium.Rounds{Max: 25, Tolerance: 1e-9, Deadline: 120},
	}
	s.Legal = DefaultLegal(s)
	if change != nil {
		change(s)
	}
	b, err := canon.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return s, b
}

// testInput is a whole question at one hospital of the demonstration.
func testInput(t testing.TB, site string, change func(*consilium.Spec)) Input {
	t.Helper()
	_, payload := testSpec(t, func(s *consilium.Spec) {
		var legal map[string]any
		if err := json.Unmarshal(s.Legal, &legal); err != nil {
			t.Fatal(err)
		}
		legal["assessment"] = "cgd-2026-1"
		s.Legal, _ = canon.Marshal(legal)
		if change != nil {
			change(s)
		}
	})
	study, err := NewStudy("", payload)
	if err != nil {
		t.Fatal(err)
	}
	in := Input{Now: testNow, Study: study, Federation: &Federation{
		Coordinators: []FederationNode{{"c1", "NL"}, {"c2", "NL"}, {"c3", "NL"}}, Team: FederationNode{DefaultTeam, "NL"},
	}}
	for _, f := range demoSites(t) {
		in.Federation.Sites = append(in.Federation.Sites, FederationSite{ID: string(f.Site), Country: f.Country, Operator: string(f.Site), Regimes: f.Regimes})
		if string(f.Site) == site {
			in.Site = f
		}
	}
	return in
}

func demoSites(t testing.TB) []*SiteFacts {
	t.Helper()
	b, err := os.ReadFile("../examples/cgd/sites.json")
	if err != nil {
		t.Fatal(err)
	}
	out, err := ParseSiteFactsList(b)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestThirteenHospitals: every hospital of the trial takes part with the
// board's assessment; without it the study is refused, and so is each European
// and Swiss hospital by its own law.
func TestThirteenHospitals(t *testing.T) {
	e := demoEngine(t)
	sites := demoSites(t)
	if len(sites) != 13 {
		t.Fatalf("%d hospitals", len(sites))
	}
	for _, f := range sites {
		in := testInput(t, string(f.Site), nil)
		for _, p := range []Point{PointStudy, PointSite, PointColumns} {
			q := in
			if p == PointStudy {
				q.Site = nil
			}
			d, err := e.Decide(t.Context(), p, q)
			if err != nil || !d.Allow || d.MinCohort != 11 {
				t.Errorf("%s: %v\n%s", f.Site, err, Explain(d))
			}
		}
		var legal map[string]any
		if err := json.Unmarshal(in.Study.Legal, &legal); err != nil {
			t.Fatal(err)
		}
		legal["assessment"] = ""
		in.Study.Legal, _ = canon.Marshal(legal)
		d, _ := e.Decide(t.Context(), PointSite, in)
		if d.Allow || !d.Has("ASSESSMENT") {
			t.Errorf("%s admits the study without the board's assessment:\n%s", f.Site, Explain(d))
		}
		want := map[consilium.SiteID]string{"amsterdam": "GDPR-44", "copenhagen": "GDPR-44", "zurich": "HRA-42-2"}[f.Site]
		if want != "" && !d.Has(want) {
			t.Errorf("%s: not refused by %s:\n%s", f.Site, want, Explain(d))
		}
	}
}

// TestSimulationDefaults: what simulate assumes admits anybody's table.
func TestSimulationDefaults(t *testing.T) {
	e := Default()
	spec, _ := testSpec(t, func(s *consilium.Spec) {
		s.Purpose = DefaultPurpose()
		s.Columns = append(s.Columns, consilium.Column{Name: "entry", Type: consilium.TypeDate}, consilium.Column{Name: "clinic", Type: consilium.TypeID})
		s.Analyses[0].Terms = append(s.Analyses[0].Terms, "entry")
		if got := AssumeTags(s); len(got) != 2 {
			t.Fatalf("assumed %v", got)
		}
		s.Legal = DefaultLegal(s)
	})
	payload, err := canon.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	study, err := NewStudy("", payload)
	if err != nil {
		t.Fatal(err)
	}
	in := Input{Now: testNow, Study: study, Federation: &Federation{Team: FederationNode{DefaultTeam, DefaultCountry},
		Coordinators: []FederationNode{{"c1", DefaultCountry}}}}
	for i := range 5 {
		in.Federation.Sites = append(in.Federation.Sites, FederationSite{ID: fmt.Sprintf("s%d", i), Country: DefaultCountry, Operator: fmt.Sprint(i), Regimes: DefaultRegimes()})
	}
	if d, _ := e.Decide(t.Context(), PointStudy, in); !d.Allow {
		t.Fatal(Explain(d))
	}
	for i := range 5 {
		f, err := DefaultSite(consilium.SiteID(fmt.Sprintf("s%d", i)))
		if err != nil {
			t.Fatal(err)
		}
		in.Site = f
		d, _ := e.Decide(t.Context(), PointSite, in)
		if !d.Allow || len(d.Dropped()) != 0 {
			t.Fatal(Explain(d), d.Columns)
		}
	}
	rows, err := e.FilterRows(t.Context(), in, SubjectRecord([]Subject{DefaultSubject([16]byte{1}, spec, testNow)}))
	if err != nil || rows.Count() != 1 {
		t.Fatal(err, rows)
	}
	if len(Assumptions()) == 0 || CheckLegal(DefaultLegal(spec)) != nil {
		t.Fatal("the defaults are not documented or not valid")
	}
}

// TestDigest recomputes the digest from its definition.
func TestDigest(t *testing.T) {
	b := DemoBundle()
	var lines []byte
	for _, p := range b.Paths() {
		f, _ := b.File(p)
		lines = fmt.Appendf(lines, "%s\x00%x\n", p, sha256.Sum256(f))
	}
	h := sha256.New()
	for _, part := range [][]byte{[]byte("consilium/policy/v1"), lines} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write(part)
	}
	if want := fmt.Sprintf("%x", h.Sum(nil)); b.Digest().String() != want {
		t.Errorf("digest %s, want %s", b.Digest(), want)
	}
	if e := demoEngine(t); e.Digest() != b.Digest() {
		t.Error("the engine has another digest than its bundle")
	}
	enc, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseBundle(enc)
	if err != nil || back.Digest() != b.Digest() {
		t.Fatalf("the bundle does not survive its encoding: %v", err)
	}
	for _, bad := range [][]byte{nil, []byte("{}"), append(enc, '\n'), []byte(" " + string(enc)), enc[:len(enc)-1]} {
		if _, err := ParseBundle(bad); err == nil {
			t.Errorf("%.20q is taken for a bundle", bad)
		}
	}
}

// TestDecisionEncoding: the zero decision denies, and what is encoded reads
// back as it was.
func TestDecisionEncoding(t *testing.T) {
	var zero Decision
	if zero.Allow || zero.Err() == nil || !errors.Is(zero.Err(), consilium.ErrPolicy) || zero.Code() == "" {
		t.Fatal("the zero decision does not deny")
	}
	e := demoEngine(t)
	in := testInput(t, "amsterdam", func(s *consilium.Spec) { s.Purpose.Class = "insurance" })
	d, err := e.Decide(t.Context(), PointSite, in)
	if err != nil || d.Allow {
		t.Fatal(err)
	}
	if d.Reasons[0].Kind != Law || d.Reasons[len(d.Reasons)-1].Regime != "BOARD" {
		t.Errorf("law does not come first, or the board not last:\n%s", Explain(d))
	}
	b, err := d.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseDecision(b)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := back.Encode(); string(again) != string(b) {
		t.Error("a decision changes when it is read")
	}
	if x, _ := d.Digest(); x != consilium.DomainDecision.Digest(b) {
		t.Error("digest")
	}
	for i := 0; i < 3; i++ {
		again, _ := e.Decide(t.Context(), PointSite, in)
		if c, _ := again.Encode(); string(c) != string(b) {
			t.Fatal("the same question has two answers")
		}
	}
	for _, bad := range []string{"{}", "", string(b[:len(b)-1]), strings.Replace(string(b), `"allow":false`, `"allow":true`, 1), strings.Replace(string(b), `"point":"site"`, `"point":"sight"`, 1)} {
		if _, err := ParseDecision([]byte(bad)); err == nil {
			t.Errorf("%.30q is taken for a decision", bad)
		}
	}
}

// TestInputs: whatever is not exactly of the schema's form denies, and says
// where.
func TestInputs(t *testing.T) {
	e := demoEngine(t)
	f := readVectors(t)["nl.json"]
	base := question(t, f, &f.Cases[0])
	if d := e.ask(t.Context(), t, PointSite, base); !d.Allow {
		t.Fatal(Explain(d))
	}
	for _, c := range []struct{ name, from, to, says string }{
		{"missing field", `"art6":"6.1.e",`, ``, `"art6" is missing`},
		{"misspelt field", `"art6":`, `"art_6":`, `did you mean "art6"`},
		{"extra field", `"art6":`, `"note":"x","art6":`, "unknown field"},
		{"null field", `"art6":"6.1.e"`, `"art6":null`, "is null"},
		{"number as string", `"now":1795262400`, `"now":"1795262400"`, "want an integer"},
		{"string as number", `"art6":"6.1.e"`, `"art6":6`, "want a string"},
		{"date as number", `"start":"2026-01-01"`, `"start":1767225600`, "want a string"},
		{"no date", `"start":"2026-01-01"`, `"start":"2026-02-30"`, "want a date"},
		{"true as string", `"minimised":true`, `"minimised":"true"`, "want true or false"},
		{"true as number", `"minimised":true`, `"minimised":1`, "want true or false"},
		{"fraction", `"min_cohort":11`, `"min_cohort":11.5`, "want an integer"},
		{"exponent", `"min_cohort":11`, `"min_cohort":11e0`, "plain digits"},
		{"beyond exact integers", `"min_cohort":11`, `"min_cohort":9007199254740993`, "2^53"},
		{"negative", `"now":1795262400`, `"now":-1`, "out of its range"},
		{"unknown word", `"art9":"9.2.j"`, `"art9":"9.2.z"`, "is not one of"},
		{"twice", `"now":1795262400`, `"now":1795262400,"now":1`, "stands twice"},
		{"list for object", `"nl":{`, `"nl":[],"xx":{`, "unknown field"},
		{"other point", `"point":"site"`, `"point":"sight"`, "is not one of"},
	} {
		text := strings.Replace(string(base), c.from, c.to, 1)
		if text == string(base) {
			t.Fatalf("%s: nothing replaced", c.name)
		}
		p := e.p.Load()
		_, _, bad := p.read(PointSite, []byte(text), testNow)
		if bad == nil {
			t.Errorf("%s: accepted", c.name)
		} else if bad.Allow || bad.Code() != CodeInput || !strings.Contains(bad.Reasons[0].Message, c.says) {
			t.Errorf("%s: %s", c.name, Explain(*bad))
		}
	}
	in := testInput(t, "amsterdam", nil)
	for name, q := range map[string]Input{
		"no study": {Now: in.Now, Federation: in.Federation, Site: in.Site}, "no federation": {Now: in.Now, Study: in.Study, Site: in.Site},
		"no site": {Now: in.Now, Study: in.Study, Federation: in.Federation}, "nothing": {}, "an artefact too many": {Now: in.Now, Study: in.Study,
			Federation: in.Federation, Site: in.Site, Artefact: &Artefact{Class: ClassAggregate, To: "utah", Role: "site", Threshold: 9}},
	} {
		if d, err := e.Decide(t.Context(), PointSite, q); err != nil || d.Code() != CodeInput || d.Allow {
			t.Errorf("%s: %v %s", name, err, Explain(d))
		}
	}
	q := in
	q.Study = &Study{}
	if d, _ := e.Decide(t.Context(), PointSite, q); d.Code() != CodeInput {
		t.Errorf("an empty study: %s", Explain(d))
	}
	if _, err := e.Decide(t.Context(), "somewhere", in); err == nil {
		t.Error("an unknown point is answered")
	}
	if _, err := e.Decide(t.Context(), PointRows, in); err == nil {
		t.Error("a row question without a row is answered")
	}
	big := in
	s := *in.Study
	s.Name = strings.Repeat("x", MaxInput)
	big.Study = &s
	if d, _ := e.Decide(t.Context(), PointSite, big); d.Code() != CodeInput {
		t.Errorf("a huge question: %s", d.Code())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if d, err := e.Decide(ctx, PointSite, in); err == nil || d.Allow {
		t.Error("a cancelled question is answered")
	}
}

// overlay is the core with one board that files nothing but rules.
func overlay(rules string) Bundle {
	b := DefaultBundle().With("board/x/board.json", []byte(`{"apiVersion":"consilium/v1","kind":"BoardPolicy","board":"x","permits":[],"minCohort":1,"minSites":1,"assessments":[]}`))
	if rules == "" {
		return b
	}
	return b.With("board/x/rules.rego", []byte(rules))
}

const head = "package consilium.board.x\nimport rego.v2\n"

// TestOverlayRefused: what a board may not write does not compile.
func TestOverlayRefused(t *testing.T) {
	if _, err := Compile(overlay(head + "deny contains {\"code\": \"X\"} if input.study.dp\n")); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ rules, says string }{
		"core package":        {"package consilium.law\nimport rego.v2\nok contains \"GDPR-6\"\n", "package"},
		"decision package":    {"package consilium.decision\nimport rego.v2\nallow := true\n", "package"},
		"another board":       {"package consilium.board.y\nimport rego.v2\n", "package"},
		"below its own":       {"package consilium.board.x.y\nimport rego.v2\n", "package"},
		"no rego.v2":          {"package consilium.board.x\ndeny contains 1 if not input.a in {1}\n", "rego.v2"},
		"reads the core":      {head + "deny contains data.consilium.law.ok\n", "an overlay reads"},
		"reads other boards":  {head + "row_include if data.consilium.board.y.row_include\n", "an overlay reads"},
		"reads all data":      {head + "deny contains data\n", "an overlay reads"},
		"computed reference":  {head + "deny contains 1 if {some k; data[k]}\n", "an overlay reads"},
		"imports the core":    {head + "import data.consilium.law\n", "imports rego.v2"},
		"with":                {head + "deny contains 1 if p with input.study.dp as true\np if input.study.dp\n", "with"},
		"default allows rows": {head + "default row_include := true\n", "only default"},
		"default deny":        {head + "default deny := set()\n", "only default"},
		"deny is not a set":   {head + "deny := {}\n", "contains"},
		"deny is an object":   {head + "deny[x] := 1 if {x := input.now}\n", ""},
		"rows as a function":  {head + "row_include(x) if x\n", "row_include"},
		"rows as a set":       {head + "row_include contains 1\n", "row_include"},
		"recursion":           {head + "row_include if p\np if q\nq if p\n", "recursive"},
		"unsafe variable":     {head + "deny contains x if not input.study.dp\n", "unsafe"},
		"unused variable":     {head + "deny contains 1 if {x := 1}\n", "x"},
		"no syntax":           {head + "deny contains\n", ""},
		"empty":               {"", ""},
		"clock":               {head + "deny contains 1 if time.now_ns() > 1\n", "undefined function"},
		"network":             {head + "deny contains 1 if http.send({\"method\": \"get\", \"url\": \"http://localhost\"})\n", "undefined function"},
		"environment":         {head + "deny contains 1 if opa.runtime()\n", "undefined function"},
		"randomness":          {head + "deny contains 1 if rand.intn(\"x\", 2) == 1\n", "undefined function"},
		"identifiers":         {head + "deny contains 1 if uuid.rfc4122(\"x\") == \"\"\n", "undefined function"},
		"names":               {head + "deny contains 1 if net.lookup_ip_addr(\"localhost\")\n", "undefined function"},
		"tokens":              {head + "deny contains 1 if io.jwt.decode(\"\")\n", "undefined function"},
		"slow shift":          {head + "deny contains bits.lsh(1, 2000000)\n", "undefined function"},
		"growing string":      {head + "deny contains concat(\"\", [\"a\", \"b\"])\n", "undefined function"},
		"growing list":        {head + "deny contains array.concat([1], [2])\n", "undefined function"},
		"formatted string":    {head + "deny contains sprintf(\"%1000000d\", [1])\n", "undefined function"},
		"patterns":            {head + "deny contains 1 if regex.match(\"a\", input.study.name)\n", "undefined function"},
		"ranges":              {head + "deny contains numbers.range(1, 1000000000)\n", "undefined function"},
		"addresses":           {head + "deny contains net.cidr_expand(\"0.0.0.0/0\")\n", "undefined function"},
		"parsing":             {head + "deny contains json.unmarshal(\"{}\")\n", "undefined function"},
		"trace":               {head + "deny contains 1 if trace(\"x\")\n", "undefined function"},
		"row rule that fails": {head + "row_include := true if input.record.objected\nrow_include := false if input.record.explicit\n", "row_include"},
	} {
		_, err := Compile(overlay(c.rules).With("board/x/rules.rego", []byte(c.rules)))
		if err == nil {
			t.Errorf("%s: compiled", name)
		} else if !errors.Is(err, consilium.ErrPolicy) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	good := overlay("")
	for name, b := range map[string]Bundle{
		"changed core":      DefaultBundle().With("rego/us.rego", []byte("package consilium.law\n")),
		"changed rules":     DefaultBundle().With("law/rules.json", []byte(`{"rules":[]}`)),
		"core left out":     DefaultBundle().Without("rego/us.rego"),
		"core added":        DefaultBundle().With("rego/more.rego", []byte("package consilium.law\nimport rego.v2\nok contains \"GDPR-6\"\n")),
		"no board.json":     good.Without("board/x/board.json").With("board/x/rules.rego", []byte(head)),
		"other board":       good.With("board/x/board.json", []byte(strings.Replace(`{"apiVersion":"consilium/v1","kind":"BoardPolicy","board":"y","permits":[],"minCohort":1,"minSites":1,"assessments":[]}`, "x", "x", 1))),
		"unknown field":     good.With("board/x/board.json", []byte(`{"apiVersion":"consilium/v1","kind":"BoardPolicy","board":"x","permits":[],"minCohort":1,"minSites":1,"assessments":[],"allow":true}`)),
		"weak assessment":   good.With("board/x/board.json", []byte(`{"apiVersion":"consilium/v1","kind":"BoardPolicy","board":"x","permits":[],"minCohort":1,"minSites":1,"assessments":[{"id":"a","datasets":["cgd"],"analyses":["cox"],"columns":[],"artefacts":["aggregate"],"minSites":1,"minCohort":1,"from":"2026-01-01","until":null,"reviewedBy":"a","report":"r"}]}`)),
		"path climbs":       good.With("board/../law/x.rego", []byte(head)),
		"strange path":      good.With("board/x/.signatures.json", []byte("{}")),
		"absolute path":     good.With("/board/x/a.rego", []byte(head)),
		"huge":              good.With("board/x/a.rego", []byte(head+"# "+strings.Repeat("x", MaxBundleSize))),
		"law with holes":    good.With("law/law.json", []byte(`{}`)),
		"law not JSON":      good.With("law/law.json", []byte(`x`)),
		"law with k of one": good.With("law/law.json", lawWith(t, "minCohort", map[string]any{"default": 1, "mark": "policy"})),
	} {
		if _, err := Compile(b); err == nil {
			t.Errorf("%s: compiled", name)
		}
	}
	many := good
	for i := range MaxModules {
		many = many.With(fmt.Sprintf("board/x/m%d.rego", i), []byte(head))
	}
	if _, err := Compile(many); err == nil {
		t.Error("too many modules: compiled")
	}
}

func lawWith(t testing.TB, key string, value any) []byte {
	t.Helper()
	b, _ := DefaultBundle().File("law/law.json")
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	m[key] = value
	out, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestOverlayFails: an overlay that compiles and then misbehaves denies, with
// the engine's code, and in time.
func TestOverlayFails(t *testing.T) {
	in := testInput(t, "utah", nil)
	for name, c := range map[string]struct{ rules, code string }{
		"conflict":           {"p := 1 if input.now > 0\np := 2 if input.now > 1\ndeny contains p\n", CodeError},
		"error of a builtin": {"deny contains {\"code\": \"X\"} if not startswith(input.now, \"x\")\n", CodeError},
		"a bare string":      {"deny contains \"no\"\n", CodeError},
		"a number as code":   {"deny contains {\"code\": 7}\n", CodeShape},
		"a long message":     {"deny contains {\"code\": \"X\", \"message\": input.study.columns}\n", CodeShape},
		"obligation":         {"obligations contains {\"x\": 1}\n", CodeShape},
		"endless": {"s := {[x.name, y.id] | some x in input.study.columns; some y in input.federation.sites}\n" +
			"deny contains {\"code\": \"X\"} if {some a in s; some b in s; some c in s; some d in s; some e in s; count([a, b, c, d, e]) == 99}\n", CodeTimeout},
	} {
		e, err := CompileLimited(overlay(head+c.rules), 2*time.Second)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if name != "endless" {
			e.p.Load().timeout = DefaultTimeout
		}
		d, err := e.Decide(t.Context(), PointSite, in)
		if err != nil || d.Allow || d.Code() != c.code {
			t.Errorf("%s: %v, want %s:\n%s", name, err, c.code, Explain(d))
		}
	}
	e, err := Compile(overlay(head + "deny contains {\"article\": \"Art. 1\"}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if d, _ := e.Decide(t.Context(), PointSite, in); d.Allow || !d.Has("BOARD") {
		t.Errorf("a denial without a code is lost:\n%s", Explain(d))
	}
}

// TestOverlayCannotWiden asks half of the questions that the core denies again under
// an overlay that tries to allow everything, and finds the same codes.
func TestOverlayCannotWiden(t *testing.T) {
	wide := DemoBundle().With("board/zz/board.json", []byte(`{"apiVersion":"consilium/v1","kind":"BoardPolicy","board":"zz","permits":[],"minCohort":1,"minSites":1,"assessments":[]}`)).
		With("board/zz/rules.rego", []byte(`package consilium.board.zz
import rego.v2
allow := true
ok contains c if some c in ["GDPR-6", "REGIME_KNOWN", "HIPAA-508a2"]
decision := {"allow": true, "reasons": [], "obligations": [], "min_cohort": 1, "permits": ["small-cells"], "columns": {}}
in_force := {"none": true}
reasons := ["none"]
min_cohort := 1
permits contains "small-cells"
keep["HIPAA-514b2"] contains "x"
row_include if true
# A rule that nothing uses is refused; these are used and never hold.
obligations contains "never" if {
	allow
	"none" in ok
	decision.allow
	in_force.none
	"none" in reasons
	min_cohort > 99
	"none" in permits
	keep.none
}
`))
	e, err := Compile(wide)
	if err != nil {
		t.Fatal(err)
	}
	files := readVectors(t)
	for _, name := range sortedKeys(files) {
		f := files[name]
		for i := range f.Cases {
			c := &f.Cases[i]
			if len(c.Codes) == 0 || c.NoBoard || len(c.Board)+len(c.Law) > 0 || i%2 == 1 && f.Point != PointRelease {
				continue
			}
			if d := e.ask(t.Context(), t, f.Point, question(t, f, c)); c.check(d) != nil {
				t.Errorf("%s: %s: %v", name, c.ID, c.check(d))
			}
		}
	}
}

// TestOverlayNarrows: a second board's refusals, duties and row rule all
// count.
func TestOverlayNarrows(t *testing.T) {
	b := DemoBundle().With("board/ethics-2/board.json", []byte(`{"apiVersion":"consilium/v1","kind":"BoardPolicy","board":"ethics-2","permits":[],"minCohort":17,"minSites":1,"assessments":[]}`)).
		With("board/ethics-2/rules.rego", []byte(`package consilium.board["ethics-2"]
import rego.v2
deny contains {"code": "E2", "message": "no network", "article": "bylaw 7"} if {
	input.point in {"study", "site"}
	some a in input.study.analyses
	a.type == "train"
}
obligations contains "tell-ethics-2"
row_include if input.record.evidence
`))
	e, err := Compile(b)
	if err != nil {
		t.Fatal(err)
	}
	in := testInput(t, "utah", nil)
	d, _ := e.Decide(t.Context(), PointSite, in)
	if !d.Allow || !slices.Contains(d.Obligations, "tell-ethics-2") || d.MinCohort != 17 {
		t.Errorf("k %d, obligations %v\n%s", d.MinCohort, d.Obligations, Explain(d))
	}
	in.Study.Analyses[0].Type = "train"
	if d, _ = e.Decide(t.Context(), PointSite, in); d.Allow || !d.Has("E2") {
		t.Error(Explain(d))
	}
	spec, _ := testSpec(t, nil)
	s := DefaultSubject([16]byte{}, spec, testNow)
	u := s
	u.Evidence = false
	rows, err := e.FilterRows(t.Context(), in, SubjectRecord([]Subject{s, u}))
	if err != nil || !slices.Equal(rows.Allowed, []bool{true, false}) || rows.Reasons[0] != (Count{"ROW_BOARD", 1}) {
		t.Errorf("%v %+v", err, rows)
	}
}

// TestReadBundle reads the directory that a board edits.
func TestReadBundle(t *testing.T) {
	dir := fstest.MapFS{"board/x/board.json": {Data: []byte(`{}`)}, "board/x/rules.rego": {Data: []byte(head)}, ".git/config": {Data: []byte("x")}}
	b, err := ReadBundle(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := b.File("board/x/rules.rego"); !ok {
		t.Error("the board's rules are not read")
	}
	dir["notes.txt"] = &fstest.MapFile{Data: []byte("x")}
	if _, err := ReadBundle(dir); err == nil {
		t.Error("a stray file is accepted")
	}
}

// TestGrant: only k members' signatures over this digest, study and time make
// a bundle valid.
func TestGrant(t *testing.T) {
	keys := map[string]consilium.PublicKey{}
	signers := map[string]*hybrid.Key{}
	for _, id := range []string{"a", "b", "c"} {
		k, err := hybrid.Generate()
		if err != nil {
			t.Fatal(err)
		}
		keys[id], signers[id] = k.Public(), k
	}
	stranger, err := hybrid.Generate()
	if err != nil {
		t.Fatal(err)
	}
	b := DemoBundle()
	sign := func(payload []byte, domain consilium.Domain, by ...string) *consilium.Signed {
		doc := &consilium.Signed{Payload: payload}
		for _, id := range by {
			k := signers[id]
			if k == nil {
				k = stranger
			}
			sig, err := k.Sign(domain, payload)
			if err != nil {
				t.Fatal(err)
			}
			doc.Signatures = append(doc.Signatures, consilium.Countersign{By: id, Signature: sig})
		}
		return doc
	}
	payload, err := NewGrant(b.Digest(), AnyStudy, testNow-10, testNow+10)
	if err != nil {
		t.Fatal(err)
	}
	study := consilium.StudyID("s")
	one, err := NewGrant(b.Digest(), string(study), testNow-10, testNow+10)
	if err != nil {
		t.Fatal(err)
	}
	trust := Trust{Keys: keys, Threshold: 2, Grant: sign(payload, consilium.DomainPolicy, "a", "b"), Now: testNow}
	e, err := Load(b, trust)
	if err != nil || e.Digest() != b.Digest() {
		t.Fatal(err)
	}
	trust.Grant, trust.Study = sign(one, consilium.DomainPolicy, "a", "c"), study
	if _, err := Load(b, trust); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		grant *consilium.Signed
		study consilium.StudyID
		now   int64
		b     Bundle
	}{
		"none":             {nil, "", testNow, b},
		"one signature":    {sign(payload, consilium.DomainPolicy, "a"), "", testNow, b},
		"the same twice":   {sign(payload, consilium.DomainPolicy, "a", "a"), "", testNow, b},
		"a stranger":       {sign(payload, consilium.DomainPolicy, "a", "z"), "", testNow, b},
		"a stranger more":  {sign(payload, consilium.DomainPolicy, "a", "b", "z"), "", testNow, b},
		"another domain":   {sign(payload, consilium.DomainApproval, "a", "b"), "", testNow, b},
		"too early":        {sign(payload, consilium.DomainPolicy, "a", "b"), "", testNow - 11, b},
		"too late":         {sign(payload, consilium.DomainPolicy, "a", "b"), "", testNow + 10, b},
		"another study":    {sign(one, consilium.DomainPolicy, "a", "b"), "other", testNow, b},
		"no study":         {sign(one, consilium.DomainPolicy, "a", "b"), "", testNow, b},
		"another bundle":   {sign(payload, consilium.DomainPolicy, "a", "b"), "", testNow, b.Without("board/cgd/rules.rego")},
		"not canonical":    {sign(append([]byte(" "), payload...), consilium.DomainPolicy, "a", "b"), "", testNow, b},
		"something signed": {sign([]byte(`{"kind":"PolicyGrant"}`), consilium.DomainPolicy, "a", "b"), "", testNow, b},
	} {
		if _, err := Load(c.b, Trust{Keys: keys, Threshold: 2, Grant: c.grant, Study: c.study, Now: c.now}); err == nil {
			t.Errorf("%s: loaded", name)
		}
	}
	if err := e.Replace(b.Without("board/cgd/rules.rego"), trust); err == nil || e.Digest() != b.Digest() {
		t.Error("an unsigned bundle replaced the policy")
	}
	for _, g := range []Grant{{}, {APIVersion: consilium.APIVersion, Kind: "PolicyGrant", Policy: b.Digest(), NotAfter: 1}} {
		if _, err := NewGrant(g.Policy, g.Study, g.NotBefore, g.NotAfter); err == nil {
			t.Error("an empty grant is made")
		}
	}
}

// TestReplaceWhileDeciding runs questions while policies are swapped; every
// answer names the policy that gave it.
func TestReplaceWhileDeciding(t *testing.T) {
	key, err := hybrid.Generate()
	if err != nil {
		t.Fatal(err)
	}
	narrow := DemoBundle().With("board/cgd/board.json", []byte(`{"apiVersion":"consilium/v1","kind":"BoardPolicy","board":"cgd","permits":[],"minCohort":11,"minSites":14,"assessments":[]}`))
	trust := func(b Bundle) Trust {
		payload, err := NewGrant(b.Digest(), AnyStudy, 0, Never)
		if err != nil {
			t.Fatal(err)
		}
		sig, err := key.Sign(consilium.DomainPolicy, payload)
		if err != nil {
			t.Fatal(err)
		}
		return Trust{Keys: map[string]consilium.PublicKey{"a": key.Public()}, Threshold: 1, Now: testNow,
			Grant: &consilium.Signed{Payload: payload, Signatures: []consilium.Countersign{{By: "a", Signature: sig}}}}
	}
	e := demoEngine(t)
	in := testInput(t, "utah", nil)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for range 6 {
				d, err := e.Decide(t.Context(), PointStudy, Input{Now: in.Now, Study: in.Study, Federation: in.Federation})
				if err != nil || d.Allow != (d.PolicyDigest != narrow.Digest()) {
					t.Errorf("%v: %s", err, Explain(d))
				}
			}
		})
	}
	for i := range 4 {
		b := narrow
		if i%2 == 1 {
			b = DemoBundle()
		}
		if err := e.Replace(b, trust(b)); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}

// evalRaw runs one module as plain OPA would, without this package's
// settings.
func evalRaw(t *testing.T, src string, input any, options ...func(*rego.Rego)) (rego.ResultSet, error) {
	t.Helper()
	return rego.New(append([]func(*rego.Rego){rego.Query("data.p.allow"), rego.Module("p.rego", src), rego.Input(input)}, options...)...).Eval(t.Context())
}

// TestTraps keeps the twin of every trap of the language that this package
// relies on being closed: left side, the trap; right side, what closes it. If a
// release of OPA changes one of them, this says so.
func TestTraps(t *testing.T) {
	empty := map[string]any{}
	allows := func(src string, input any, o ...func(*rego.Rego)) bool {
		rs, err := evalRaw(t, src, input, o...)
		if err != nil {
			return false
		}
		return rs.Allowed()
	}
	v1 := "package p\ndefault allow := false\ndeny contains 1 if not input.a in {1}\nallow if count(deny) == 0\n"
	if !allows(v1, empty) {
		t.Error("v1: `not … in` with a missing field no longer lets through; the core can be simpler")
	}
	v2 := strings.Replace(v1, "package p\n", "package p\nimport rego.v2\n", 1)
	if allows(v2, empty) {
		t.Error("rego.v2: `not … in` with a missing field lets through")
	}
	// Still open in v2: a comparison with something missing. Our rules need
	// positive evidence instead.
	open := "package p\nimport rego.v2\ndefault allow := false\ndeny contains 1 if input.n < 10\nallow if count(deny) == 0\n"
	if !allows(open, empty) {
		t.Error("v2: a denial by comparison now fires without the field")
	}
	closed := "package p\nimport rego.v2\ndefault allow := false\nok contains 1 if input.n >= 10\nallow if count({c | some c in {1}; not c in ok}) == 0\n"
	if allows(closed, empty) || !allows(closed, map[string]any{"n": 10}) {
		t.Error("positive evidence does not decide")
	}
	// An error of a built-in inside `not` reads as "it does not hold".
	swallowed := "package p\ndefault allow := false\nexpired if time.parse_rfc3339_ns(input.until) < 0\nallow if not expired\n"
	bad := map[string]any{"until": "yesterday"}
	if !allows(swallowed, bad) {
		t.Error("errors of built-ins are no longer swallowed by default")
	}
	if allows(swallowed, bad, rego.StrictBuiltinErrors(true)) {
		t.Error("StrictBuiltinErrors lets an error through")
	}
	// A string is larger than every number, and null is not true.
	types := "package p\ndefault allow := false\nallow if input.withdrawn_at > 1790000000\n"
	if !allows(types, map[string]any{"withdrawn_at": "2020-01-01T00:00:00Z"}) {
		t.Error("comparison across types has changed")
	}
	// No package: no result and no error.
	if rs, err := rego.New(rego.Query("data.q.allow"), rego.Module("p.rego", v1)).Eval(t.Context()); err != nil || len(rs) != 0 {
		t.Error("a missing package is no longer silent")
	}
	var nothing rego.ResultSet
	if d := demoEngine(t).p.Load().result(PointSite, nothing); d.Allow || d.Code() != CodeUndefined {
		t.Error(Explain(d))
	}
	for name, v := range map[string]any{
		"a word": "yes", "true": true, "null": nil, "empty": map[string]any{}, "allow alone": map[string]any{"allow": true},
		"allow with a reason": map[string]any{"allow": true, "reasons": []any{map[string]any{"code": "X", "message": "", "article": "", "kind": "LAW", "regime": "*"}}, "obligations": []any{}, "min_cohort": json.Number("11"), "permits": []any{}, "columns": map[string]any{}},
		"denial without":      map[string]any{"allow": false, "reasons": []any{}, "obligations": []any{}, "min_cohort": json.Number("11"), "permits": []any{}, "columns": map[string]any{}},
		"k of zero":           map[string]any{"allow": true, "reasons": []any{}, "obligations": []any{}, "min_cohort": json.Number("0"), "permits": []any{}, "columns": map[string]any{}},
		"one field more":      map[string]any{"allow": true, "also": 1, "reasons": []any{}, "obligations": []any{}, "min_cohort": json.Number("11"), "permits": []any{}, "columns": map[string]any{}},
	} {
		rs := rego.ResultSet{{Expressions: []*rego.ExpressionValue{{Value: v}}}}
		if d := demoEngine(t).p.Load().result(PointSite, rs); d.Allow || d.Code() != CodeShape {
			t.Errorf("%s: %s", name, Explain(d))
		}
		if d := demoEngine(t).p.Load().result(PointSite, append(rs, rs...)); d.Allow || d.Code() != CodeShape {
			t.Errorf("two answers: %s", Explain(d))
		}
	}
}

// TestBuiltins: every built-in that the capabilities keep is on the list and
// deterministic; every name on the list exists.
func TestBuiltins(t *testing.T) {
	for _, names := range [][]string{coreBuiltins, boardBuiltins} {
		caps := capabilities(names)
		if len(caps.Builtins) != len(names) || caps.AllowNet == nil || len(caps.AllowNet) != 0 {
			t.Errorf("%d built-ins of %d names", len(caps.Builtins), len(names))
		}
		for _, b := range caps.Builtins {
			if b.IsNondeterministic() || !slices.Contains(coreBuiltins, b.Name) {
				t.Errorf("%s may be called", b.Name)
			}
		}
	}
	if len(ast.CapabilitiesForThisVersion().Builtins) < 100 {
		t.Error("the full list is short: the test compares with nothing")
	}
}
