package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"consilium/internal/archive"
	"consilium/internal/federation"
)

const simulateData = "testdata/simulate"

// simulateReference is what R says of the tables in testdata/simulate.
type simulateReference struct {
	Column   string
	Sites    int
	Analyses map[string]struct {
		Coef, SE, Robust, Loglik []float64
		LRT, Score               *float64
		Rows, Events, Missing    *float64
		Deviance, DF, Chisq      *float64
		Observed, Expected       []float64
		Curves                   []struct{ Surv, Risk, Error []float64 }
	}
}

func readReference(t *testing.T) map[string]simulateReference {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(simulateData, "reference.json"))
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]simulateReference
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// simulateResult is one analysis of a result.
type simulateResult struct {
	Name  string
	Rows  float64
	Event float64 `json:"events"`
	Terms []struct {
		Name     string
		Coef, SE float64
		RobustSE float64 `json:"robust_se"`
	}
	Loglik   []float64
	Deviance float64
	DF       float64 `json:"df_residual"`
	Chisq    float64
	Tests    struct{ LRT, Score struct{ Statistic float64 } }
	Excluded struct{ Missing float64 } `json:"excluded_rows"`
	Groups   []struct {
		Observed, Expected float64
		Curve              struct {
			Surv   []float64
			Risk   []float64 `json:"n_risk"`
			StdErr []float64 `json:"std_err"`
		}
	}
	Error *struct{ Code, Message string }
}

// compareWithR holds the analyses of a result against R's, to 1e-9 relative.
func compareWithR(t *testing.T, result []byte, ref simulateReference) {
	t.Helper()
	var doc struct {
		Analyses []simulateResult
		simulateResult
	}
	if err := json.Unmarshal(result, &doc); err != nil {
		t.Fatal(err)
	}
	for name, want := range ref.Analyses {
		i := slices.IndexFunc(doc.Analyses, func(a simulateResult) bool { return a.Name == name })
		if i < 0 {
			t.Errorf("no analysis %s", name)
			continue
		}
		got := doc.Analyses[i]
		if got.Error != nil {
			t.Errorf("%s: %s", name, got.Error.Message)
			continue
		}
		equal := func(what string, a, b float64) {
			t.Helper()
			if !(math.Abs(a-b) <= 1e-9*math.Abs(b)+1e-12) {
				t.Errorf("%s: %s is %v, R says %v", name, what, a, b)
			}
		}
		one := func(what string, a float64, b *float64) {
			t.Helper()
			if b != nil {
				equal(what, a, *b)
			}
		}
		if len(got.Terms) != len(want.Coef) {
			t.Errorf("%s: %d terms, R has %d", name, len(got.Terms), len(want.Coef))
			continue
		}
		for k, term := range got.Terms {
			equal(term.Name, term.Coef, want.Coef[k])
			equal("se of "+term.Name, term.SE, want.SE[k])
			if want.Robust != nil {
				equal("robust se of "+term.Name, term.RobustSE, want.Robust[k])
			}
		}
		for k := range want.Loglik {
			equal("loglik", got.Loglik[k], want.Loglik[k])
		}
		one("likelihood ratio test", got.Tests.LRT.Statistic, want.LRT)
		one("score test", got.Tests.Score.Statistic, want.Score)
		one("rows", got.Rows, want.Rows)
		one("events", got.Event, want.Events)
		one("rows left out", got.Excluded.Missing, want.Missing)
		one("deviance", got.Deviance, want.Deviance)
		one("degrees of freedom", got.DF, want.DF)
		one("chisq", got.Chisq, want.Chisq)
		for g := range want.Observed {
			equal("observed", got.Groups[g].Observed, want.Observed[g])
			equal("expected", got.Groups[g].Expected, want.Expected[g])
		}
		for g, c := range want.Curves {
			have := got.Groups[g].Curve
			if len(have.Surv) != len(c.Surv) {
				t.Errorf("%s: a curve of %d points, R has %d", name, len(have.Surv), len(c.Surv))
				continue
			}
			for k := range c.Surv {
				equal("survival", have.Surv[k], c.Surv[k])
				equal("at risk", have.Risk[k], c.Risk[k])
				equal("error", have.StdErr[k], c.Error[k])
			}
		}
	}
}

// TestSimulateAgreesWithR: every analysis on four tables, up to 60 hospitals.
// The hospitals' own steps and the sums are those of a run; only the
// encryption, which the next test has, is left out.
func TestSimulateAgreesWithR(t *testing.T) {
	for name, ref := range readReference(t) {
		t.Run(name, func(t *testing.T) {
			study, err := os.ReadFile(filepath.Join(simulateData, name+".yaml"))
			if err != nil {
				t.Fatal(err)
			}
			csv, err := os.ReadFile(filepath.Join(simulateData, name+".csv"))
			if err != nil {
				t.Fatal(err)
			}
			sim, err := newSimulation(study, csv, ref.Column)
			if err != nil {
				t.Fatal(err)
			}
			if len(sim.sites) != ref.Sites {
				t.Fatalf("%d hospitals, want %d", len(sim.sites), ref.Sites)
			}
			facts, sites := sim.plain()
			res, err := federation.Plain(t.Context(), facts, sites, sim.file.RowPatients)
			if err != nil {
				t.Fatal(err)
			}
			compareWithR(t, res.JSON, ref)
		})
	}
}

// consiliumRun runs a command line in this process.
func consiliumRun(args ...string) (code int, stdout, stderr string) {
	var out, problems bytes.Buffer
	code = run(context.Background(), args, strings.NewReader(""), &out, &problems)
	return code, out.String(), problems.String()
}

// TestSimulate is a whole run from the command line, against R.
func TestSimulate(t *testing.T) {
	dir := t.TempDir()
	code, stdout, stderr := consiliumRun("simulate", "--study", simulateData+"/heart.yaml", "--data", simulateData+"/heart.csv", "--site-column", "site", "--out", dir, "--json")
	if code != exitDone || stderr != "" {
		t.Fatalf("exit %d\n%s", code, stderr)
	}
	var doc struct{ Result json.RawMessage }
	if err := json.Unmarshal([]byte(stdout), &doc); err != nil {
		t.Fatal(err)
	}
	compareWithR(t, doc.Result, readReference(t)["heart"])
	var assumed struct{ Assumptions []string }
	if err := json.Unmarshal(doc.Result, &assumed); err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"law:", "purpose:", "consent:", "question:", "sites.min", "data.patient"} {
		if !slices.ContainsFunc(assumed.Assumptions, func(s string) bool { return strings.HasPrefix(s, word) }) {
			t.Errorf("nothing assumed about %s: %q", word, assumed.Assumptions)
		}
	}
	kept, err := os.ReadFile(filepath.Join(dir, "result.json"))
	if err != nil {
		t.Fatal(err)
	}
	var a, b map[string]any
	if json.Unmarshal(kept, &a) != nil || json.Unmarshal([]byte(stdout), &b) != nil || fmt.Sprint(a["result"]) != fmt.Sprint(b["result"]) {
		t.Error("result.json is not what --json printed")
	}
	if _, err := archive.Verify(filepath.Join(dir, "audit"), archive.Options{}); err != nil {
		t.Error(err)
	}
	replay := func(data string) (int, string) {
		code, stdout, stderr := consiliumRun("study", "replay", "--archive", filepath.Join(dir, "audit"), "--data", data, "--site-column", "site")
		return code, stdout + stderr
	}
	if code, says := replay(simulateData + "/heart.csv"); code != exitDone || !strings.Contains(says, "to the last bit") {
		t.Errorf("replay: %d %s", code, says)
	}
	rows, err := os.ReadFile(simulateData + "/heart.csv")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(rows)), "\n")
	other := filepath.Join(dir, "other.csv")
	if err := os.WriteFile(other, []byte(strings.Join(lines[:len(lines)-1], "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, says := replay(other); code != exitFailed || !strings.Contains(says, "differs") {
		t.Errorf("replay without the last row: %d %s", code, says)
	}
	if page, err := os.ReadFile(filepath.Join(dir, "report.html")); err != nil || !bytes.Contains(page, []byte("transplant")) {
		t.Errorf("report: %v", err)
	}
}

// simulateTable is a small trial at five hospitals. edit changes single rows.
func simulateTable(edit func(line int, cells []string) []string) string {
	var b strings.Builder
	b.WriteString("id,site,arm,age,time,died\n")
	for i := range 100 {
		cells := []string{fmt.Sprintf("p%d", i), fmt.Sprintf("Site %c", 'A'+i%5), []string{"placebo", "drug"}[(i/5+i/7)%2], fmt.Sprint(30 + i*37%41),
			fmt.Sprint(10 + i*71%300), fmt.Sprint((i*i/3 + i/4) % 2)}
		if edit != nil {
			cells = edit(i+2, cells)
		}
		b.WriteString(strings.Join(cells, ",") + "\n")
	}
	return b.String()
}

const simulateStudy = `apiVersion: consilium/v1
kind: Study
metadata: {name: trial}
spec:
  question: Does it work?
  columns:
    id: id
    arm: [placebo, drug]
    age: {type: number, bounds: [0, 120]}
    time: {type: number}
    died: flag
  analysis: {type: cox, formula: "Surv(time, died) ~ arm + age"}
`

// TestSimulateBadInput: each ends in one error that says where and what next.
func TestSimulateBadInput(t *testing.T) {
	cell := func(line, column int, value string) string {
		return simulateTable(func(l int, c []string) []string {
			if l == line {
				c[column] = value
			}
			return c
		})
	}
	all := func(f func(c []string)) string {
		return simulateTable(func(_ int, c []string) []string { f(c); return c })
	}
	study := func(old, new string) string {
		if !strings.Contains(simulateStudy, old) {
			t.Fatalf("no %q in the study", old)
		}
		return strings.Replace(simulateStudy, old, new, 1)
	}
	good := simulateTable(nil)
	for name, c := range map[string]struct {
		study, table, column string
		flags                []string
		code                 int
		says                 []string // all of them
		prints               string   // with --json
	}{
		"a word for a number":    {table: cell(9, 3, "old"), code: 1, says: []string{"data.csv:9", "column age", "not a number", `"old"`, "missing values"}},
		"a decimal comma":        {table: cell(9, 3, `"33,5"`), code: 1, says: []string{"data.csv:9", "decimal point"}},
		"out of bounds":          {table: cell(40, 3, "999"), code: 1, says: []string{"data.csv:40", "column age", "bounds [0, 120]", `"999"`}},
		"an unlisted level":      {table: cell(17, 2, "drugg"), code: 1, says: []string{"data.csv:17", "column arm", "did you mean drug?", "declare it"}},
		"no patient":             {table: cell(5, 0, ""), code: 1, says: []string{"data.csv:5", "column id", "patient is missing", "fill it in"}},
		"no hospital":            {table: cell(5, 1, ""), code: 1, says: []string{"data.csv:5", "column site", "no hospital is named"}},
		"a hospital twice":       {table: cell(5, 1, "site-a!"), code: 1, says: []string{"data.csv:5", "two hospitals would both be called site-a", `"Site A" and "site-a!"`, "rename one"}},
		"too few hospitals":      {table: all(func(c []string) { c[1] = "Site " + string('A'+c[0][len(c[0])-1]%2) }), code: 1, says: []string{"2 distinct values", "3 to 128", "lower sites.min"}},
		"fewer than asked for":   {study: study("  question", "  sites: {min: 30}\n  question"), code: 1, says: []string{"5 distinct values", "30 to 128"}},
		"a ragged row":           {table: simulateTable(func(l int, c []string) []string { return c[:6-b2i(l == 8)] }), code: 1, says: []string{"data.csv:8", "5 cells, but the header has 6"}},
		"semicolons":             {table: strings.ReplaceAll(good, ",", ";"), code: 1, says: []string{"data.csv:1", "semicolons", "save the table with commas"}},
		"not UTF-8":              {table: cell(9, 2, "dr\xfcg"), code: 1, says: []string{"data.csv:9", "save the table as UTF-8"}},
		"no rows":                {table: "id,site,arm,age,time,died\n", code: 1, says: []string{"data.csv", "no rows"}},
		"nothing":                {table: "-", code: 1, says: []string{"data.csv", "the table is empty"}},
		"no such column":         {table: strings.Replace(good, "age", "alter", 1), code: 1, says: []string{"data.csv:1", "column age", "no such header"}},
		"no such site column":    {column: "sit", code: 1, says: []string{"data.csv:1", "column sit", "did you mean site?"}},
		"a time below zero":      {table: cell(12, 4, "-3"), code: 1, says: []string{"data.csv:12", "column time: a time below 0", "cohort"}},
		"a logarithm of zero":    {study: study("arm + age", "arm + log(age)"), table: cell(30, 3, "0"), code: 1, says: []string{"data.csv:30", "log(age)", "above 0"}},
		"an interval backwards":  {study: study("Surv(time, died)", "Surv(age, time, died)"), table: all(func(c []string) { c[4] = "200" + c[4] }), code: 0},
		"an interval that ends":  {study: study("Surv(time, died)", "Surv(age, time, died)"), code: 1, says: []string{"does not end after it starts"}},
		"no event":               {table: all(func(c []string) { c[5] = "0" }), code: 1, says: []string{"no events among the rows", "extend follow-up"}},
		"every event missing":    {table: all(func(c []string) { c[5] = "NA" }), code: 1, says: []string{"no hospital has a row", "missing values"}},
		"separation":             {table: all(func(c []string) { c[5] = []string{"1", "0"}[b2i(c[2] == "drug")] }), code: 1, says: []string{"arm:drug separates", "ridge"}},
		"collinear terms":        {study: strings.Replace(study("arm + age", "arm + age + again"), "  columns:", "  derive: {again: \"age * 2\"}\n  columns:", 1), code: 1, says: []string{"again is not estimable", "drop the term"}},
		"a constant column":      {table: all(func(c []string) { c[3] = "50" }), code: 1, says: []string{"age is not estimable", "does not vary", "drop the term"}},
		"a level nobody has":     {study: study("[placebo, drug]", "[placebo, drug, other]"), code: 1, says: []string{"arm:other has fewer than 3 patients", "merge the level", "drop the term"}},
		"infinity":               {table: cell(9, 3, "Inf"), code: 1, says: []string{"data.csv:9", "column age", `"Inf"`}},
		"not a number":           {table: cell(9, 3, "NaN"), code: 1, says: []string{"data.csv:9", "column age", `"NaN"`}},
		"too large for a float":  {table: cell(9, 3, "1e400"), code: 1, says: []string{"data.csv:9", "column age", `"1e400"`}},
		"too large to be summed": {study: study("age: {type: number, bounds: [0, 120]}", "age: number"), table: cell(9, 3, "1e30"), code: 1, says: []string{"data.csv:9", "age", "too large to be summed", "larger unit"}},
		"a hospital outside": {study: study("  columns", "  cohort: {where: \"age > 20.0\"}\n  columns"), table: all(func(c []string) {
			if c[1] == "Site C" {
				c[3] = "10"
			}
		}), code: 0, prints: `"cohort":20`},
		"fewer than k patients":   {study: study("  columns", "  cohort: {where: \"age > 69.0\"}\n  columns"), code: 1, says: []string{"fewer than 11 patients", "widen the cohort"}},
		"a misspelt key":          {study: study("  columns:", "  colums:"), code: 1, says: []string{"study.yaml", "line 6", "did you mean columns?"}},
		"a key twice":             {study: study("    id: id", "    id: id\n    id: id"), code: 1, says: []string{"study.yaml", "line 8", "stands twice"}},
		"a tab":                   {study: study("  question", "\tquestion"), code: 1, says: []string{"study.yaml", "line 5", "spaces, not tabs"}},
		"an unknown term":         {study: study("arm + age", "arm + ages"), code: 1, says: []string{"line 12, column 60", "ages is not declared", "did you mean age?"}},
		"an unknown function":     {study: study("arm + age", "arm + exp(age)"), code: 1, says: []string{"line 12", "exp( )", "log, sqrt"}},
		"an unknown analysis":     {study: study("type: cox", "type: coxx"), code: 1, says: []string{"line 12", "did you mean cox?"}},
		"an unknown type":         {study: study("died: flag", "died: bool"), code: 1, says: []string{"line 11", "unknown type bool", "flag"}},
		"an event that is none":   {study: study("died: flag", "died: integer"), code: 1, says: []string{"study.yaml", "column died must be a flag", "recode it"}},
		"another version":         {study: study("consilium/v1", "consilium/v2"), code: 1, says: []string{"line 1", "write apiVersion: consilium/v1"}},
		"two hospitals allowed":   {study: study("  question", "  sites: {min: 2}\n  question"), code: 1, says: []string{"line 5", "sites.min is 2, want 3 to 128"}},
		"a cohort of no column":   {study: study("  question", "  cohort: {where: \"agee > 20\"}\n  question"), code: 1, says: []string{"study.yaml", "cohort, character 1", "did you mean age?"}},
		"an unknown permit":       {study: study("  question", "  privacy: {permits: [km-tial]}\n  question"), code: 1, says: []string{"study.yaml", `"km-tial"`, "km-tail"}},
		"no study at all":         {study: "-", code: 1, says: []string{"study.yaml", "consilium study new --from"}},
		"not YAML":                {study: "{{{", code: 1, says: []string{"study.yaml", "line 1", "not YAML"}},
		"a rule of a regime":      {study: study("  question", "  purpose: {duo: [DUO:0000007], disease: MONDO:0018305, class: marketing}\n  question"), code: 3, says: []string{"policy refuses the study"}},
		"an even number of nodes": {flags: []string{"--coordinators", "2"}, code: 2, says: []string{"want 1, 3 or 5"}},
		"no such policy":          {flags: []string{"--policy", "/nonexistent"}, code: 2, says: []string{"/nonexistent is not a directory"}},
		"patients for hospitals":  {study: study("  columns", "  data: {patient: id}\n  columns"), column: "id", code: 2, says: []string{"--site-column id", "tells patients apart", "name the column that tells hospitals apart"}},
		"too many hospitals":      {table: manyHospitals(), code: 1, says: []string{"more than 128 hospitals", "name the column that tells the hospitals apart"}},
		"an unknown flag":         {flags: []string{"--sites", "3"}, code: 2, says: []string{"-sites"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			put := func(file, content, otherwise string) string {
				switch content {
				case "":
					content = otherwise
				case "-":
					content = ""
				}
				path := filepath.Join(dir, file)
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
				return path
			}
			column := c.column
			if column == "" {
				column = "site"
			}
			args := append([]string{"simulate", "--study", put("study.yaml", c.study, simulateStudy), "--data", put("data.csv", c.table, good),
				"--site-column", column, "--out", filepath.Join(dir, "out"), "--json"}, c.flags...)
			code, stdout, stderr := consiliumRun(args...)
			if code != c.code {
				t.Errorf("exit %d, want %d", code, c.code)
			}
			if code != exitDone {
				wantFailure(t, code, stdout)
			}
			if !strings.Contains(strings.ReplaceAll(stdout, " ", ""), c.prints) {
				t.Errorf("nothing prints %s:\n%s", c.prints, stdout)
			}
			for _, s := range c.says {
				if !strings.Contains(stderr, s) {
					t.Errorf("nothing says %q:\n%s", s, stderr)
				}
			}
			if c.code == 1 && strings.Count(strings.TrimSpace(stderr), "\n") > 0 {
				t.Errorf("more than one line:\n%s", stderr)
			}
		})
	}
	if code, _, stderr := consiliumRun("simulate", "--study", "x.yaml"); code != exitUsage || !strings.Contains(stderr, "study new --from") {
		t.Errorf("missing flags: exit %d, %s", code, stderr)
	}
}

// manyHospitals is a table in which every row is at a hospital of its own.
func manyHospitals() string {
	var b strings.Builder
	b.WriteString("id,site,arm,age,time,died\n")
	for i := range 200 {
		fmt.Fprintf(&b, "p%d,s%d,drug,40,%d,%d\n", i, i, i+1, i%2)
	}
	return b.String()
}

func TestSimulateHint(t *testing.T) {
	for _, c := range []struct {
		site func(line int) string
		want bool
	}{
		{func(i int) string { return fmt.Sprint("h", i) }, true},
		{func(i int) string { return fmt.Sprint("h", i%25) }, false},
	} {
		study := strings.Replace(simulateStudy, "    id: id\n", "", 1)
		table := simulateTable(func(line int, cells []string) []string {
			cells[1] = c.site(line)
			return cells
		})
		sim, err := newSimulation([]byte(study), []byte(table), "site")
		if err != nil {
			t.Fatal(err)
		}
		if got := sim.hint(); (got != "") != c.want {
			t.Errorf("%d hospitals: %q", len(sim.sites), got)
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestSimulateDraft: a draft from a table runs with nothing edited but the
// formula.
func TestSimulateDraft(t *testing.T) {
	dir := t.TempDir()
	table, draft := filepath.Join(dir, "table.csv"), filepath.Join(dir, "draft.yaml")
	if err := os.WriteFile(table, []byte("\ufeff"+strings.ReplaceAll(simulateTable(nil), "\n", "\r\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := consiliumRun("study", "new", "--from", table, "--out", draft); code != exitDone {
		t.Fatal(stderr)
	}
	b, err := os.ReadFile(draft)
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{}, {"--out", draft + ".again"}} {
		code, stdout, stderr := consiliumRun(append([]string{"study", "new", "--json", "--from", table}, args...)...)
		var doc struct{ File, Study string }
		if err := json.Unmarshal([]byte(stdout), &doc); code != exitDone || err != nil || doc.Study != string(b) || doc.File != strings.Join(args[min(1, len(args)):], "") {
			t.Errorf("study new --json %q: %d %v %s%s", args, code, err, stdout, stderr)
		}
	}
	edited := strings.Replace(string(b), "Surv(time, died) ~ arm + age", "Surv(time, died) ~ arm*age", 1)
	if edited == string(b) {
		t.Fatalf("the draft has another formula:\n%s", b)
	}
	if err := os.WriteFile(draft, []byte(edited), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, stdout, stderr := consiliumRun("study", "check", "--simulate", draft); code != exitDone || !strings.Contains(stdout, "is sound") {
		t.Fatalf("exit %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, stderr := consiliumRun("simulate", "--study", draft, "--data", table, "--site-column", "site", "--out", filepath.Join(dir, "out"))
	if code != exitDone || !strings.Contains(stdout, "arm:drug*age") && !strings.Contains(stdout, "arm:placebo*age") {
		t.Fatalf("exit %d\n%s%s", code, stdout, stderr)
	}
}

// TestSimulateProblems: one analysis that cannot be fitted does not withhold
// the others; and a network trains.
func TestSimulateProblems(t *testing.T) {
	dir := t.TempDir()
	study := strings.Replace(simulateStudy, "  analysis: {type: cox, formula: \"Surv(time, died) ~ arm + age\"}\n", `  analyses:
    - {name: twice, type: cox, formula: "Surv(time, died) ~ age + again"}
    - {name: once, type: cox, formula: "Surv(time, died) ~ age"}
    - name: net
      type: train
      response: died
      features: [arm, age]
      model: {layers: [{dense: 4}, relu, {dense: 1}], loss: logistic, dtype: float32}
      strategy: {name: fedavg, rounds: 2, batch: 16, rate: 0.1, clip: 1, bits: 16}
`, 1)
	study = strings.Replace(study, "  columns:", "  derive: {again: \"age * 2\"}\n  columns:", 1)
	if err := os.WriteFile(filepath.Join(dir, "study.yaml"), []byte(study), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data.csv"), []byte(simulateTable(nil)), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := consiliumRun("simulate", "--study", filepath.Join(dir, "study.yaml"), "--data", filepath.Join(dir, "data.csv"), "--site-column", "site", "--out", filepath.Join(dir, "out"))
	if code != exitFailed || !strings.Contains(stderr, "twice: again is not estimable") {
		t.Errorf("exit %d\n%s", code, stderr)
	}
	for _, s := range []string{"once (cox): 100 rows", "net (train): 100 rows", "training AUC", "twice (cox): no estimates"} {
		if !strings.Contains(stdout, s) {
			t.Errorf("nothing says %q:\n%s", s, stdout)
		}
	}
}

// TestSimulatePrivate: a table and a network under a budget, through hospitals' vaults, which
// keep their accounts: the result says what was spent and holds no count that
// nobody made, and a study that asks for more than a hospital's budget sends
// nothing.
func TestSimulatePrivate(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	study := strings.Replace(simulateStudy, "  analysis: {type: cox, formula: \"Surv(time, died) ~ arm + age\"}\n", `  analyses:
    - {name: table, type: crosstab, rows: arm, columns: died}
    - name: net
      type: train
      response: died
      features: [arm, age]
      model: {layers: [{dense: 4}, tanh, {dense: 1}], loss: logistic}
      strategy: {rounds: 3}
      holdout: 0.4
  privacy: {min_cohort: 5, dp: {epsilon: 8, delta: 1e-6, clip: 1}}
`, 1)
	if !strings.Contains(study, "epsilon: 8") {
		t.Fatal("the study file has changed")
	}
	asked, data := file("study.yaml", []byte(study)), file("data.csv", []byte(simulateTable(nil)))
	code, stdout, stderr := consiliumRun("study", "check", "--simulate", asked)
	if code != exitDone || !strings.Contains(stdout, "noise is added at the hospital") || !strings.Contains(stdout, "counts of patients by class") {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	out := filepath.Join(dir, "out")
	code, stdout, stderr = consiliumRun("simulate", "--study", asked, "--data", data, "--site-column", "site", "--out", out)
	if code != exitDone {
		t.Fatalf("exit %d\n%s%s", code, stdout, stderr)
	}
	b, err := os.ReadFile(filepath.Join(out, "result.json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Result struct {
			Analyses []struct {
				Name     string
				Excluded map[string]*float64 `json:"excluded_rows"`
				DP       *struct {
					Epsilon, Releases float64
					Mechanism         string
				}
			}
		}
	}
	if err := json.Unmarshal(b, &doc); err != nil || len(doc.Result.Analyses) != 2 {
		t.Fatalf("%v\n%s", err, b)
	}
	for _, a := range doc.Result.Analyses {
		if a.DP == nil || a.DP.Epsilon != 8 || a.DP.Releases != 6 || a.DP.Mechanism != "skellam" {
			t.Errorf("%s: the result says that it spent %+v", a.Name, a.DP)
		}
		for _, k := range []string{"consent", "integrity", "cohort"} {
			if v, there := a.Excluded[k]; !there || v != nil {
				t.Errorf("%s: excluded_rows.%s is a number, which nobody counted", a.Name, k)
			}
		}
	}
	report, err := os.ReadFile(filepath.Join(out, "report.html"))
	if err != nil || !strings.Contains(string(report), "Differential privacy") {
		t.Errorf("the report does not say what was spent: %v", err)
	}

	greedy := file("greedy.yaml", []byte(strings.Replace(study, "epsilon: 8", "epsilon: 60", 1)))
	code, stdout, stderr = consiliumRun("simulate", "--study", greedy, "--data", data, "--site-column", "site", "--out", filepath.Join(dir, "greedy"))
	if code == exitDone || !strings.Contains(stdout+stderr, "privacy budget does not last") {
		t.Errorf("a study of epsilon 60, of a budget of 10: exit %d\n%s%s", code, stdout, stderr)
	}
	cox := file("cox.yaml", []byte(strings.Replace(strings.Replace(study, "response: died", "response: {time: time, event: died}", 1), "loss: logistic", "loss: cox", 1)))
	if code, stdout, stderr = consiliumRun("study", "check", "--simulate", cox); code == exitDone || !strings.Contains(stdout+stderr, "no sum over patients") {
		t.Errorf("a partial likelihood: exit %d\n%s%s", code, stdout, stderr)
	}
}
