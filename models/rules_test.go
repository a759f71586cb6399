package models

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand"
	"sort"
	"strings"
	"testing"

	"consilium"
	"consilium/internal/canon"
)

var coxSpecCGD = consilium.AnalysisSpec{Name: "cox", Type: consilium.AnalysisCox, Response: &consilium.Response{Stop: "tstop", Event: "status"}, Terms: multi, Strata: []string{"site"}}
var kmSpecCGD = consilium.AnalysisSpec{Name: "km", Type: consilium.AnalysisKaplanMeier, Response: &consilium.Response{Stop: "tstop", Event: "status"}, By: []string{"treat"}, Grid: &consilium.Grid{Step: 30, Max: 450}}

// TestDifferencingAttack plays the reviewer's attack: subtract consecutive rows
// of what was opened, and see whether a difference is one patient's covariates.
// The naive twin opens pooled risk-set sums on a public grid, as an
// unstratified Cox model would.
func TestDifferencingAttack(t *testing.T) {
	f := patients(t, coxSpecCGD)
	type person struct {
		x    [7]float64 // 1 and the covariates
		stop float64
	}
	var people []person
	a, err := newCox(f.facts, &coxSpecCGD)
	if err != nil {
		t.Fatal(err)
	}
	d := a.(*regression).d
	zero, one := make([]float64, len(d.columns)), make([]float64, len(d.columns))
	for j := range one {
		one[j] = 1
	}
	for _, h := range f.sites {
		data, err := readFrame(f.facts.Spec, h.rows, a.(*regression).reads)
		if err != nil {
			t.Fatal(err)
		}
		x, err := d.matrix(data, zero, one)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < data.n; i++ {
			p := person{stop: data.num["tstop"][i]}
			p.x[0] = 1
			for j := range x {
				p.x[j+1] = x[j][i]
			}
			people = append(people, p)
		}
	}
	// attack returns how many differences of consecutive windows, at any
	// alignment, are exactly a patient.
	attack := func(blocks [][]float64) int {
		found := map[string]bool{}
		for _, b := range blocks {
			for at := 0; at+14 <= len(b); at++ {
				var diff [7]float64
				for k := range diff {
					diff[k] = b[at+k] - b[at+7+k]
				}
				if diff[0] != 1 {
					continue
				}
				for _, p := range people {
					same := true
					for k := range diff {
						same = same && math.Abs(diff[k]-p.x[k]) < 1e-6
					}
					if same {
						found[fmt.Sprint(at, p.x)] = true
						break
					}
				}
			}
		}
		return len(found)
	}
	twin := func(step float64) [][]float64 {
		var rows []float64
		for at := 0.0; at < 450; at += step {
			var sum [7]float64
			for _, p := range people {
				if p.stop > at {
					for k := range sum {
						sum[k] += p.x[k]
					}
				}
			}
			rows = append(rows, sum[:]...)
		}
		return [][]float64{rows}
	}
	if n := attack(twin(1)); n != 79 {
		t.Errorf("the daily twin gives away %d patients, want 79 of 128", n)
	}
	if n := attack(twin(30)); n != 0 {
		t.Errorf("the monthly twin gives away %d patients, want none", n)
	}
	both := patients(t, coxSpecCGD, kmSpecCGD)
	must(t, both)
	var seen [][]float64
	last := map[string][]float64{}
	for _, round := range both.opened {
		for name, v := range round {
			seen = append(seen, v)
			if prev := last[name]; len(prev) == len(v) {
				diff := make([]float64, len(v)) // between rounds
				for i := range v {
					diff[i] = v[i] - prev[i]
				}
				seen = append(seen, diff)
			}
			last[name] = v
		}
	}
	if n := attack(seen); n != 0 {
		t.Errorf("what the default opens gives away %d patients", n)
	}
}

// TestFineGridAttack: on a daily grid a cell that one patient of an arm leaves
// tells that patient's day; without the board's permission no such grid runs.
func TestFineGridAttack(t *testing.T) {
	days := func(f *federation, step float64) (found int) {
		for _, round := range f.opened {
			for i, e := range round["km/events"] {
				if e+round["km/censored"][i] == 1 && step <= 1 {
					found++
				}
			}
		}
		return found
	}
	fine := kmSpecCGD
	fine.Grid = &consilium.Grid{Step: 1, Max: 450}
	twin := patients(t, fine)
	twin.facts.Permits = []string{PermitFineGrid, PermitTail}
	must(t, twin)
	if n := days(twin, 1); n < 79 {
		t.Errorf("the unguarded twin tells the days of %d patients, want at least 79", n)
	}
	for _, step := range []float64{1, 7, 29.9} {
		fine.Grid = &consilium.Grid{Step: step, Max: 450}
		if _, err := New(patients(t, fine).facts, nil); !errors.Is(err, consilium.ErrInvalid) || !strings.Contains(err.Error(), PermitFineGrid) {
			t.Errorf("a grid of %v days is not refused: %v", step, err)
		}
	}
	// A derived time column is a daily grid in disguise, or one with other edges.
	// The harness derives nothing, so that the column stands in the table: as a
	// derived one it is refused, wherever times meet public cells.
	scaled := func(tab *table, by, plus float64) *table {
		out := &table{names: append(append([]string{}, tab.names...), "t30")}
		for _, r := range tab.rows {
			var v float64
			fmt.Sscan(r[tab.index("tstop")], &v)
			out.rows = append(out.rows, append(append([]string{}, r...), fmt.Sprint(by*v+plus)))
		}
		return out
	}
	disguised := kmSpecCGD
	disguised.Response = &consilium.Response{Stop: "t30", Event: "status"}
	disguised.Grid = &consilium.Grid{Step: 30, Max: 13500}
	spec := specCGD(disguised)
	spec.Columns = append(spec.Columns, consilium.Column{Name: "t30", Type: consilium.TypeNumber, Unit: "d"})
	naive := newFederation(t, spec, split(t, spec, scaled(cgd(t, "cgd_patient.csv"), 30, 0), "site", "id"))
	naive.facts.Permits = []string{PermitTail}
	must(t, naive)
	if n := days(naive, 1); n < 79 {
		t.Errorf("the twin that takes 30*tstop for days tells the days of %d patients, want at least 79", n)
	}
	for _, expr := range []string{"30 * tstop", "tstop + 1", "tstop"} {
		for _, a := range []consilium.AnalysisSpec{
			disguised,
			{Name: "r", Type: consilium.AnalysisLogrank, Response: disguised.Response, By: []string{"treat"}, Grid: disguised.Grid},
			{Name: "p", Type: consilium.AnalysisCox, Response: disguised.Response, Terms: multi, Baseline: &consilium.Baseline{Kind: "piecewise", Cuts: []float64{30, 60}}},
			{Name: "c", Type: consilium.AnalysisCox, Response: disguised.Response, Terms: multi, Baseline: &consilium.Baseline{Kind: "common", Grid: disguised.Grid}},
		} {
			spec := specCGD(a)
			spec.Derive = []consilium.Derived{{Name: "t30", Expr: expr}}
			facts := consilium.Facts{Spec: spec, MinCohort: 11, Permits: []string{PermitCommon}}
			if _, err := New(facts, nil); !errors.Is(err, consilium.ErrInvalid) || !strings.Contains(err.Error(), "t30 is derived") {
				t.Errorf("%s on %q is not refused: %v", a.Type, expr, err)
			}
			facts.Permits = append(facts.Permits, PermitFineGrid)
			if _, err := New(facts, nil); err != nil {
				t.Errorf("%s on %q with the board's permission: %v", a.Type, expr, err)
			}
		}
	}
	f := patients(t, kmSpecCGD)
	r := must(t, f)
	if n := days(f, 30); n != 0 {
		t.Errorf("the default tells the days of %d patients", n)
	}
	for g := 0; g < 2; g++ {
		for i, n := range vec(get(r, "groups", g, "curve", "n_risk")) {
			if n < 11 {
				t.Errorf("group %d: a point with %v at risk is published (cell %d)", g, n, i)
			}
		}
	}
	if len(r["suppressed"].([]any)) != 2 {
		t.Errorf("suppressed: %v", r["suppressed"])
	}
	f.facts.Permits = []string{PermitTail}
	r = must(t, f)
	if len(r["suppressed"].([]any)) != 0 || len(vec(get(r, "groups", 0, "curve", "time"))) < 13 {
		t.Errorf("with the board's permission the 12-month tail is missing: %v", r["suppressed"])
	}
}

// TestSmallCells: counts of 1 to k-1 patients are hidden, also from
// subtraction, and no statistic that would give them back is published.
func TestSmallCells(t *testing.T) {
	f := patients(t,
		consilium.AnalysisSpec{Name: "d", Type: consilium.AnalysisDescribe, Variables: []string{"age", "steroids"}, Histogram: map[string][]float64{"age": {0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50}}},
		consilium.AnalysisSpec{Name: "c", Type: consilium.AnalysisCrosstab, Rows: "treat", Columns: "steroids"},
		consilium.AnalysisSpec{Name: "c2", Type: consilium.AnalysisCrosstab, Rows: "treat", Columns: "any"})
	r := must(t, f)
	hist := get(r, "analyses", 0, "variables", 0, "groups", 0, "histogram", "counts").([]any)
	hidden := 0
	for _, c := range hist {
		if c == nil {
			hidden++
		} else if v := c.(float64); v > 0 && v < 11 {
			t.Errorf("a cell of %v is published", v)
		}
	}
	if hidden < 2 {
		t.Errorf("%d cells are hidden: one could be had by subtraction", hidden)
	}
	for _, l := range get(r, "analyses", 0, "variables", 1, "groups", 0, "counts").([]any) {
		if get(l, "count") != nil {
			t.Errorf("steroids: %v is published beside a hidden one", get(l, "count"))
		}
	}
	c := get(r, "analyses", 1).(map[string]any)
	if c["expected"] != nil || c["odds_ratio"] != nil || get(c, "tests").(map[string]any)["chisq"] != nil {
		t.Errorf("statistics beside hidden cells: %v", c)
	}
	if get(r, "analyses", 2, "counts", 1, 1) != 14.0 {
		t.Errorf("a table without small cells: %v", get(r, "analyses", 2, "counts"))
	}
}

func TestMask(t *testing.T) {
	rnd := rand.New(rand.NewSource(3))
	for n := 0; n < 2000; n++ {
		c := make([]float64, 1+rnd.Intn(8))
		all := 0.0
		for i := range c {
			c[i] = float64(rnd.Intn(30))
			all += c[i]
		}
		m := mask(c, c, 11)
		hidden, sum, cells := 0, 0.0, 0
		for i, v := range m {
			if v == nil {
				hidden++
				sum += c[i]
			} else if *v != c[i] || *v > 0 && *v < 11 {
				t.Fatalf("%v masked to show %v", c, *v)
			}
			if c[i] > 0 {
				cells++
			}
		}
		if hidden > 0 && cells > 1 && (hidden == 1 || sum < 11 && hidden < cells) {
			t.Fatalf("%v: %d hidden cells of %v in all", c, hidden, sum)
		}
	}
}

func TestProblems(t *testing.T) {
	run := func(f *federation) *Problem {
		t.Helper()
		r, err := f.run()
		if err != nil {
			t.Fatal(err)
		}
		if r.Problem == nil {
			t.Fatalf("an answer: %s", r.JSON)
		}
		if err := canon.Check(r.JSON); err != nil {
			t.Error(err)
		}
		if r.Problem.Next == "" {
			t.Errorf("%v has no next step", r.Problem)
		}
		return r.Problem
	}
	expect := func(p *Problem, code, text string) {
		t.Helper()
		if string(p.Code) != code || !strings.Contains(p.Message, text) {
			t.Errorf("got %s: %v; want %s naming %q", p.Code, p, code, text)
		}
	}
	with := func(terms ...string) consilium.AnalysisSpec {
		s := coxSpecCGD
		s.Terms = terms
		return s
	}
	// age and its copy in months.
	spec := specCGD(with("treat", "age", "months"))
	spec.Columns = append(spec.Columns, consilium.Column{Name: "months", Type: consilium.TypeNumber})
	tab := cgd(t, "cgd_patient.csv")
	wide := &table{names: append(append([]string{}, tab.names...), "months")}
	for _, r := range tab.rows {
		var age float64
		fmt.Sscan(r[tab.index("age")], &age)
		wide.rows = append(wide.rows, append(append([]string{}, r...), fmt.Sprint(12*age+3)))
	}
	expect(run(newFederation(t, spec, split(t, spec, wide, "site", "id"))), "analysis.estimable", "months")
	lin := consilium.AnalysisSpec{Name: "lin", Type: consilium.AnalysisGLM, Family: "gaussian", Response: &consilium.Response{Column: "height"}, Terms: []string{"age", "months"}}
	spec2 := *spec
	spec2.Analyses = []consilium.AnalysisSpec{lin}
	expect(run(newFederation(t, &spec2, split(t, &spec2, wide, "site", "id"))), "analysis.estimable", "months")
	// A level that two patients have.
	few := &table{names: tab.names}
	for _, r := range tab.rows {
		if r[tab.index("sex")] == "male" || len(few.rows) < 2 {
			few.rows = append(few.rows, r)
		}
	}
	spec3 := specCGD(with("treat", "sex"))
	expect(run(newFederation(t, spec3, split(t, spec3, few, "site", "id"))), "analysis.level", "sex:female")
	// No events; too few patients; nobody at all.
	quiet := &table{names: tab.names}
	for _, r := range tab.rows {
		if r[tab.index("status")] == "0" {
			quiet.rows = append(quiet.rows, r)
		}
	}
	spec4 := specCGD(with("age"))
	expect(run(newFederation(t, spec4, split(t, spec4, quiet, "site", "id"))), "analysis.events", "no events")
	tiny := &table{names: tab.names, rows: tab.rows[:8]}
	expect(run(newFederation(t, spec4, split(t, spec4, tiny, "site", "id"))), "analysis.patients", "fewer than 11")
	f := patients(t, with("age"))
	for _, h := range f.sites {
		for i := range h.rows.Batches {
			clear(h.rows.Batches[i].Selected)
		}
	}
	expect(run(f), "analysis.rows", "no hospital")
	// Separation in a logistic model: any infection against the count of them.
	sep := consilium.AnalysisSpec{Name: "l", Type: consilium.AnalysisGLM, Family: "binomial", Response: &consilium.Response{Column: "any"}, Terms: []string{"sex", "ninf"}}
	expect(run(patients(t, sep)), "analysis.separation", "ninf")
	// Ridge makes it answer.
	sep.Ridge = 1
	must(t, patients(t, sep))
	slow := patients(t, with(multi...))
	slow.facts.Spec.Rounds.Max = 2
	expect(run(slow), "analysis.convergence", "2 rounds")
	// rounds.max covers the round of the robust errors too: a study never
	// opens more sums than it declares.
	robust := with("treat")
	robust.Robust = true
	exact := patients(t, robust)
	must(t, exact)
	rounds := len(exact.opened)
	enough := patients(t, robust)
	enough.facts.Spec.Rounds.Max = rounds
	if must(t, enough); len(enough.opened) != rounds {
		t.Errorf("%d rounds, before %d", len(enough.opened), rounds)
	}
	short := patients(t, robust)
	short.facts.Spec.Rounds.Max = rounds - 1
	expect(run(short), "analysis.convergence", "rounds")
	if len(short.opened) >= rounds {
		t.Errorf("%d rounds of at most %d", len(short.opened), rounds-1)
	}
}

// TestRidge: at the ridge estimate the score equals the penalty's slope.
func TestRidge(t *testing.T) {
	for _, s := range []consilium.AnalysisSpec{
		{Name: "r", Type: consilium.AnalysisGLM, Family: "binomial", Response: &consilium.Response{Column: "any"}, Terms: []string{"age", "steroids"}, Ridge: 2.5},
		{Name: "r", Type: consilium.AnalysisGLM, Family: "poisson", Response: &consilium.Response{Column: "ninf"}, Terms: []string{"age", "steroids"}, Ridge: 0.7},
	} {
		beta := terms(must(t, patients(t, s)), "coef")
		tab := cgd(t, "cgd_patient.csv")
		score := make([]float64, 3)
		for _, r := range tab.rows {
			num := func(n string) (v float64) { fmt.Sscan(r[tab.index(n)], &v); return v }
			x := []float64{1, num("age"), num("steroids")}
			mu := math.Exp(dot(beta, x))
			if s.Family == "binomial" {
				mu /= 1 + mu
			}
			for j := range score {
				score[j] += (num(s.Response.Column) - mu) * x[j]
			}
		}
		for j := range score {
			want := s.Ridge * beta[j]
			if j == 0 {
				want = 0 // the intercept is not penalised
			}
			if math.Abs(score[j]-want) > 1e-8 {
				t.Errorf("%s: score %d is %v, the penalty's slope %v", s.Family, j, score[j], want)
			}
		}
	}
}

// TestCoding compares the columns of a model with those that R's model.matrix
// makes of the same formula.
func TestCoding(t *testing.T) {
	spec := &consilium.Spec{Columns: []consilium.Column{
		{Name: "f", Type: consilium.TypeLevels, Levels: []string{"a", "b", "c"}}, {Name: "g", Type: consilium.TypeLevels, Levels: []string{"u", "v"}},
		{Name: "x", Type: consilium.TypeNumber}, {Name: "y", Type: consilium.TypeNumber}}}
	for _, c := range []struct {
		terms     string
		intercept bool
		want      string
	}{
		{"f", true, "f:b f:c"},
		{"f", false, "f:a f:b f:c"},
		{"f g", false, "f:a f:b f:c g:v"},
		{"f g f:g", true, "f:b f:c g:v f:b*g:v f:c*g:v"},
		{"f f:g", true, "f:b f:c f:a*g:v f:b*g:v f:c*g:v"}, // ~ f + f:g
		{"f:x", true, "f:a*x f:b*x f:c*x"},
		{"x f:x", true, "x f:b*x f:c*x"},
		{"x y x:y", true, "x y x*y"},
		{"log(x) x^2 sqrt(y)", true, "log(x) x^2 sqrt(y)"},
	} {
		d, err := newDesign(spec, strings.Fields(c.terms), c.intercept)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, col := range d.columns {
			got = append(got, col.name)
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s (intercept %v): %s, R has %s", c.terms, c.intercept, s, c.want)
		}
	}
}

// TestCheck is the table of study files that no analysis can run on.
func TestCheck(t *testing.T) {
	surv := &consilium.Response{Stop: "tstop", Event: "status"}
	grid := &consilium.Grid{Step: 30, Max: 450}
	for _, c := range []struct {
		spec consilium.AnalysisSpec
		want string // "" for accepted
	}{
		{consilium.AnalysisSpec{Type: "coxx"}, "did you mean cox?"},
		{consilium.AnalysisSpec{Type: "train"}, "type \"train\" is unknown"},
		{consilium.AnalysisSpec{Type: "cox", Response: surv, Terms: []string{"agee"}}, "did you mean age?"},
		{consilium.AnalysisSpec{Type: "cox", Response: surv, Terms: []string{"age+sex"}}, "term"},
		{consilium.AnalysisSpec{Type: "cox", Response: surv, Terms: []string{"log(sex)"}}, "has levels"},
		{consilium.AnalysisSpec{Type: "cox", Response: surv, Terms: []string{"age", "age"}}, "stands twice"},
		{consilium.AnalysisSpec{Type: "cox", Response: surv, Terms: []string{"site"}}, "stratified by hospital"},
		{consilium.AnalysisSpec{Type: "cox", Response: surv, Terms: []string{"treat:site"}}, "site may only be a term of its own"},
		{consilium.AnalysisSpec{Type: "cox", Response: surv}, "terms"},
		{consilium.AnalysisSpec{Type: "cox", Response: surv, Terms: multi, Ties: "efronn"}, "did you mean efron?"},
		{consilium.AnalysisSpec{Type: "cox", Response: surv, Terms: multi, Grid: grid}, "key grid is not used by cox"},
		{consilium.AnalysisSpec{Type: "cox", Response: surv, Terms: multi, Ridge: -1}, "ridge"},
		{consilium.AnalysisSpec{Type: "cox", Response: surv, Terms: multi, Cluster: "law"}, "cluster"},
		{consilium.AnalysisSpec{Type: "cox", Response: surv, Terms: multi, Strata: []string{"age"}}, "strata"},
		{consilium.AnalysisSpec{Type: "cox", Response: surv, Terms: multi, Baseline: &consilium.Baseline{Kind: "common"}}, "common-baseline"},
		{consilium.AnalysisSpec{Type: "cox", Response: &consilium.Response{Stop: "tstop", Event: "age"}, Terms: multi}, "must be a flag"},
		{consilium.AnalysisSpec{Type: "cox", Response: &consilium.Response{Column: "age"}, Terms: multi}, "want a time with an event"},
		{consilium.AnalysisSpec{Type: "cox", Response: surv, Terms: []string{"id"}}, "cannot be used here"},
		{consilium.AnalysisSpec{Type: "glm", Response: &consilium.Response{Column: "any"}, Terms: multi, Family: "binomal"}, "did you mean binomial?"},
		{consilium.AnalysisSpec{Type: "glm", Response: &consilium.Response{Column: "law"}, Terms: multi, Family: "binomial"}, "3 levels"},
		{consilium.AnalysisSpec{Type: "glm", Response: &consilium.Response{Column: "age"}, Terms: multi, Family: "gaussian"}, "also the response"},
		{consilium.AnalysisSpec{Type: "glm", Response: &consilium.Response{Column: "sex"}, Terms: []string{"age", "site"}, Family: "binomial"}, ""},
		{consilium.AnalysisSpec{Type: "kaplan-meier", Response: surv, By: []string{"treat"}}, "grid"},
		{consilium.AnalysisSpec{Type: "kaplan-meier", Response: surv, By: []string{"site"}, Grid: grid}, "each hospital's own counts"},
		{consilium.AnalysisSpec{Type: "kaplan-meier", Response: surv, By: []string{"age"}, Grid: grid}, "want levels"},
		{consilium.AnalysisSpec{Type: "kaplan-meier", Response: surv, By: []string{"enum"}, Grid: grid}, "needs bounds"},
		{consilium.AnalysisSpec{Type: "kaplan-meier", Response: surv, Grid: grid, Strata: []string{"sex"}}, "under `by`"},
		{consilium.AnalysisSpec{Type: "kaplan-meier", Response: &consilium.Response{Start: "tstart", Stop: "tstop", Event: "status"}, Grid: grid}, "entry times"},
		{consilium.AnalysisSpec{Type: "logrank", Response: surv, By: []string{"treat"}, Strata: []string{"site"}, Grid: grid}, "drop grid"},
		{consilium.AnalysisSpec{Type: "logrank", Response: surv}, "by"},
		{consilium.AnalysisSpec{Type: "describe", Variables: []string{"age"}, Quantiles: []float64{0.5}}, "histogram"},
		{consilium.AnalysisSpec{Type: "describe", Variables: []string{"age"}, Histogram: map[string][]float64{"age": {1, 1}}}, "do not rise"},
		{consilium.AnalysisSpec{Type: "crosstab", Rows: "treat", Columns: "law", Strata: []string{"site"}}, "two levels"},
		{consilium.AnalysisSpec{Type: "crosstab", Rows: "treat"}, "columns names no column"},
	} {
		c.spec.Name = "main"
		err := Check(specCGD(c.spec), nil)
		if c.want == "" {
			if err != nil {
				t.Errorf("%+v: %v", c.spec, err)
			}
			continue
		}
		if !errors.Is(err, consilium.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("type %s: got %v, want it to say %q", c.spec.Type, err, c.want)
		}
	}
}

// TestBadRows: what one hospital's table can get wrong ends in one error there
// that names a column and never a value.
func TestBadRows(t *testing.T) {
	tab := cgd(t, "cgd_patient.csv")
	for _, c := range []struct{ column, value, want string }{
		{"tstop", "-12345", "time below 0"},
		{"weight", "Inf", "infinite"},
		{"age", "-12345", "logarithm"},
	} {
		bad := &table{names: tab.names}
		for i, r := range tab.rows {
			r = append([]string{}, r...)
			if i == 5 {
				r[tab.index(c.column)] = c.value
			}
			bad.rows = append(bad.rows, r)
		}
		spec := specCGD(consilium.AnalysisSpec{Name: "cox", Type: consilium.AnalysisCox, Response: coxSpecCGD.Response, Terms: []string{"log(age)", "weight"}})
		_, err := newFederation(t, spec, split(t, spec, bad, "site", "id")).run()
		if !errors.Is(err, consilium.ErrData) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "12345") {
			t.Errorf("%s = %s: %v", c.column, c.value, err)
		}
	}
}

// TestTooLarge: what fixed point cannot sum is an error at its hospital that names
// the term, variable, response or offset, and never a value that is not a number.
func TestTooLarge(t *testing.T) {
	tab := cgd(t, "cgd_patient.csv")
	glm := func(family, y string, terms ...string) consilium.AnalysisSpec {
		return consilium.AnalysisSpec{Name: "a", Type: consilium.AnalysisGLM, Family: family, Response: &consilium.Response{Column: y}, Terms: terms}
	}
	off := glm("poisson", "ninf", "age")
	off.Offset = &consilium.Offset{Column: "weight"}
	net := glm("binomial", "any", "weight", "age")
	net.Penalty = &consilium.Penalty{Alpha: 0.5, Steps: 3}
	cox := coxSpecCGD
	cox.Terms = []string{"age", "weight^2"}
	common := cox
	common.Strata, common.Baseline = nil, &consilium.Baseline{Kind: "common", Grid: &consilium.Grid{Step: 30, Max: 450}}
	piece := cox
	piece.Strata, piece.Baseline = nil, &consilium.Baseline{Kind: "piecewise", Cuts: []float64{60}}
	for _, c := range []struct {
		a    consilium.AnalysisSpec
		want string
	}{
		{glm("gaussian", "height", "age", "weight"), "term weight"}, {glm("gaussian", "weight", "age"), "response weight"}, {glm("binomial", "any", "weight"), "term weight"},
		{off, "column weight"}, {net, "term weight"}, {cox, "term weight^2"}, {common, "term weight^2"}, {piece, "term weight^2"},
		{consilium.AnalysisSpec{Name: "d", Type: consilium.AnalysisDescribe, Variables: []string{"weight"}, By: []string{"treat"}}, "variable weight"},
	} {
		for _, value := range []string{"1e15", "1e30", "1e200", "-1e300"} {
			bad := &table{names: tab.names}
			for i, r := range tab.rows {
				r = append([]string{}, r...)
				if i == 5 {
					r[tab.index("weight")] = value
				}
				bad.rows = append(bad.rows, r)
			}
			spec := specCGD(c.a)
			f := newFederation(t, spec, split(t, spec, bad, "site", "id"))
			f.facts.Permits = []string{PermitCommon}
			_, err := f.run()
			if !errors.Is(err, consilium.ErrData) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "unit") || strings.Contains(err.Error(), "e+") {
				t.Errorf("%s %s with %s: %v", c.a.Type, c.a.Family, value, err)
			}
		}
	}
}

// TestUpdateRefuses: sums that are not of the round's layout, and states that
// are not of this study, are errors, never a panic.
func TestUpdateRefuses(t *testing.T) {
	f := patients(t, coxSpecCGD, kmSpecCGD)
	must(t, f)
	a, err := New(f.facts, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseState(f.states[0])
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range f.opened[0] {
		for _, bad := range [][]float64{nil, v[:len(v)-1], append(append([]float64{}, v...), 0), append(append([]float64{}, v[1:]...), math.NaN())} {
			o := Opened{Round: 1, Values: map[string][]float64{}}
			for n, x := range f.opened[0] {
				o.Values[n] = x
			}
			o.Values[name] = bad
			if _, err := a.Update(s, o); err == nil {
				t.Errorf("block %s with %d values is accepted", name, len(bad))
			}
		}
	}
	// Cut or flipped states never panic.
	rnd := rand.New(rand.NewSource(1))
	for _, enc := range f.states {
		for k := 0; k < 400; k++ {
			b := append([]byte{}, enc...)
			switch k % 3 {
			case 0:
				b = b[:rnd.Intn(len(b))]
			default:
				b[rnd.Intn(min(len(b), 200))] ^= 1 << rnd.Intn(8)
			}
			s, err := ParseState(b)
			if err != nil {
				continue
			}
			l, err := a.Layout(s)
			if err == nil {
				v := &vector{layout: l, values: map[string][]float64{}}
				_, _ = a.Local(context.Background(), s, nil, f.sites[0].rows, v)
			}
			for _, o := range f.opened {
				_, _ = a.Update(s, Opened{Round: 1, Values: o})
			}
			_, _ = a.Result(s)
		}
	}
}

// FuzzState: what is accepted encodes to the same bytes.
func FuzzState(f *testing.F) {
	f.Add((&State{}).Append(nil))
	f.Add((&State{Phase: 3, Iteration: 7, Done: true, F64: []float64{1, math.Inf(1)}, F32: []float32{2}, Sub: []byte("x")}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseState(b)
		if err != nil {
			return
		}
		out := s.Append(nil)
		again, err := ParseState(out)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again.Append(nil), out) {
			t.Fatal("two encodings of one state")
		}
		nan := false
		for _, v := range s.F64 {
			nan = nan || v != v
		}
		for _, v := range s.F32 {
			nan = nan || v != v
		}
		if !nan && !bytes.Equal(out, b) {
			t.Fatalf("accepted %x, encodes %x", b, out)
		}
	})
}

// goldenResult pins the bits of a study of every type: last state and result.
const goldenResult = "42a09d2be81483b9c9e86ad1311bbe6329f5f6d2480e0618691ac4bd9c93084f"

func goldenAnalyses() []consilium.AnalysisSpec {
	surv := &consilium.Response{Stop: "tstop", Event: "status"}
	return []consilium.AnalysisSpec{coxSpecCGD, kmSpecCGD,
		{Name: "rank", Type: consilium.AnalysisLogrank, Response: surv, By: []string{"treat"}},
		{Name: "logit", Type: consilium.AnalysisGLM, Family: "binomial", Response: &consilium.Response{Column: "any"}, Terms: multi, Robust: true},
		{Name: "pois", Type: consilium.AnalysisGLM, Family: "poisson", Response: &consilium.Response{Column: "ninf"}, Terms: append([]string{"site"}, multi...), Offset: &consilium.Offset{Column: "fu", Log: true}},
		{Name: "lin", Type: consilium.AnalysisGLM, Family: "gaussian", Response: &consilium.Response{Column: "weight"}, Terms: []string{"treat", "age", "height", "treat:age"}},
		{Name: "nb", Type: consilium.AnalysisGLM, Family: "negative-binomial", Response: &consilium.Response{Column: "ninf"}, Terms: multi, Offset: &consilium.Offset{Column: "fu", Log: true}},
		{Name: "net", Type: consilium.AnalysisGLM, Family: "binomial", Response: &consilium.Response{Column: "any"}, Terms: multi, Penalty: &consilium.Penalty{Alpha: 0.5, Steps: 6}},
		{Name: "eval", Type: consilium.AnalysisGLM, Family: "binomial", Response: &consilium.Response{Column: "any"}, Terms: []string{"treat", "age"}, Evaluate: 20},
		{Name: "piece", Type: consilium.AnalysisCox, Response: surv, Terms: multi, Robust: true, Baseline: &consilium.Baseline{Kind: "piecewise", Cuts: []float64{60, 120, 240}}},
		{Name: "common", Type: consilium.AnalysisCox, Response: surv, Terms: []string{"treat", "sex", "age", "inherit"}, Robust: true, PHCheck: "log", Concordance: true, Baseline: &consilium.Baseline{Kind: "common", Grid: &consilium.Grid{Step: 30, Max: 450}}},
		{Name: "tt", Type: consilium.AnalysisCox, Response: surv, Terms: []string{"treat"}, TimeTerms: []consilium.TimeTerm{{Term: "treat", Func: "log"}}},
		{Name: "fh", Type: consilium.AnalysisLogrank, Response: surv, By: []string{"treat"}, Weights: &consilium.Weights{Rho: 0.5, Gamma: 0.5}},
		{Name: "rmst", Type: consilium.AnalysisKaplanMeier, Response: surv, Grid: &consilium.Grid{Step: 30, Max: 450}, ConfType: "log", Restricted: 300},
		{Name: "desc", Type: consilium.AnalysisDescribe, Variables: []string{"age", "sex", "weight"}, By: []string{"treat"}},
		{Name: "tab", Type: consilium.AnalysisCrosstab, Rows: "treat", Columns: "any", Strata: []string{"site"}}}
}

func TestGoldenResult(t *testing.T) {
	f := patients(t, goldenAnalyses()...)
	f.facts.Permits = []string{PermitCommon}
	r, err := f.run()
	if err != nil {
		t.Fatal(err)
	}
	if r.Problem != nil {
		t.Fatal(r.Problem)
	}
	if err := canon.Check(r.JSON); err != nil {
		t.Error(err)
	}
	h := sha256.New()
	for _, s := range f.states {
		h.Write(s)
	}
	h.Write(r.JSON)
	if got := hex.EncodeToString(h.Sum(nil)); got != goldenResult {
		t.Errorf("the bits changed: %s, pinned %s", got, goldenResult)
	}
	if len(f.opened) > 14 {
		t.Errorf("%d rounds: analyses side by side should take as many as the longest", len(f.opened))
	}
	// The order of the hospitals does not matter.
	g := patients(t, goldenAnalyses()...)
	g.facts.Permits = f.facts.Permits
	for i, j := 0, len(g.sites)-1; i < j; i, j = i+1, j-1 {
		g.sites[i], g.sites[j] = g.sites[j], g.sites[i]
	}
	r2, err := g.run()
	if err != nil || !bytes.Equal(r.JSON, r2.JSON) {
		t.Errorf("hospitals in another order: %v, equal %v", err, err == nil && bytes.Equal(r.JSON, r2.JSON))
	}
}

func TestDescribeDisclosure(t *testing.T) {
	f := patients(t, goldenAnalyses()...)
	f.facts.Permits = []string{PermitCommon}
	d, err := Describe(f.facts, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(d) != 16 {
		t.Fatalf("%d disclosures, want 16", len(d))
	}
	for _, x := range d {
		if len(x.Sends) == 0 || x.Result == "" || len(x.Columns) == 0 {
			t.Errorf("%s says nothing: %+v", x.Name, x)
		}
		for _, l := range x.Layouts {
			if err := l.Validate(); err != nil {
				t.Errorf("%s: %v", x.Name, err)
			}
		}
	}
	// 28 numbers are a stratified Cox model of six terms.
	if n := d[0].Layouts[1].Values(); n != 28 {
		t.Errorf("a Cox round sends %d values, want 28", n)
	}
	b, err := json.Marshal(d)
	if err != nil || strings.Contains(string(b), "null,null") {
		t.Error(err)
	}
}

// TestScale: sixty hospitals, many of one row, a covariate in a tiny unit and
// one far from its origin; the answer is that of well-scaled columns.
func TestScale(t *testing.T) {
	spec := &consilium.Spec{Data: consilium.DataRef{Dataset: "d", Patient: "id"}, Columns: []consilium.Column{
		{Name: "id", Type: consilium.TypeID}, {Name: "x", Type: consilium.TypeNumber}, {Name: "tiny", Type: consilium.TypeNumber},
		{Name: "far", Type: consilium.TypeNumber}, {Name: "time", Type: consilium.TypeNumber}, {Name: "event", Type: consilium.TypeFlag}, {Name: "y", Type: consilium.TypeNumber}},
		Privacy: consilium.Privacy{MinCohort: 11}, Rounds: consilium.Rounds{Max: 30, Tolerance: 1e-9, Deadline: 60}}
	rnd := rand.New(rand.NewSource(5))
	tab := &table{names: []string{"site", "id", "x", "tiny", "far", "time", "event", "y"}}
	for s := 0; s < 60; s++ {
		n := 1
		if s%3 == 0 {
			n = 8
		}
		for i := 0; i < n; i++ {
			x := rnd.NormFloat64()
			tab.rows = append(tab.rows, []string{fmt.Sprint(s), fmt.Sprint(len(tab.rows)), fmt.Sprint(x), fmt.Sprint(x * 0x1p-24), fmt.Sprint(x*4 + 0x1p20),
				fmt.Sprint(1 + math.Floor(100*rnd.ExpFloat64())), fmt.Sprint(rnd.Intn(2)), fmt.Sprint(x + rnd.NormFloat64())})
		}
	}
	coefs := map[string][2]float64{}
	for _, name := range []string{"x", "tiny", "far"} {
		spec.Analyses = []consilium.AnalysisSpec{
			{Name: "cox", Type: consilium.AnalysisCox, Response: &consilium.Response{Stop: "time", Event: "event"}, Terms: []string{name}},
			{Name: "lin", Type: consilium.AnalysisGLM, Family: "gaussian", Response: &consilium.Response{Column: "y"}, Terms: []string{name}}}
		r := must(t, newFederation(t, spec, split(t, spec, tab, "site", "id")))
		coefs[name] = [2]float64{terms(get(r, "analyses", 0).(map[string]any), "coef")[0], terms(get(r, "analyses", 1).(map[string]any), "coef")[1]}
	}
	for k := 0; k < 2; k++ {
		near(t, "tiny", coefs["tiny"][k]*0x1p-24, coefs["x"][k])
		// x*4 + 2^20 keeps 31 of x's 52 bits: compare to what is left.
		if e := math.Abs(coefs["far"][k]*4/coefs["x"][k] - 1); e > 1e-7 {
			t.Errorf("far from the origin: relative difference %v", e)
		}
	}
}

// TestGridDifferencing subtracts two releases of one cohort on grids that do
// not share their edges: the cells in between are days wide. The ruler makes
// every pair of grids share them.
func TestGridDifferencing(t *testing.T) {
	release := func(step float64, permits ...string) *federation {
		a := kmSpecCGD
		a.Grid = &consilium.Grid{Step: step, Max: math.Floor(450/step) * step}
		f := patients(t, a)
		f.facts.Permits = permits
		must(t, f)
		return f
	}
	// left counts, per arm, who leaves up to a time.
	left := func(f *federation, arm int, step, until float64) float64 {
		v := f.opened[0]
		w := len(v["km/events"]) / 2
		n := 0.0
		for c := 0; c < w && float64(c)*step <= until; c++ {
			n += v["km/events"][arm*w+c] + v["km/censored"][arm*w+c]
		}
		return n
	}
	attack := func(a, b *federation, sa, sb float64) (single int) {
		var edges []float64
		for x := sa; x < 450; x += sa {
			edges = append(edges, x)
		}
		for x := sb; x < 450; x += sb {
			edges = append(edges, x)
		}
		sort.Float64s(edges)
		at := func(arm int, x float64) float64 {
			if math.Mod(x, sa) == 0 {
				return left(a, arm, sa, x)
			}
			return left(b, arm, sb, x)
		}
		for arm := 0; arm < 2; arm++ {
			for i := 1; i < len(edges); i++ {
				if w := edges[i] - edges[i-1]; w > 0 && w <= 7 && at(arm, edges[i])-at(arm, edges[i-1]) == 1 {
					single++ // one patient of this arm left in these few days
				}
			}
		}
		return single
	}
	if n := attack(release(30, PermitFineGrid, PermitTail), release(31, PermitFineGrid, PermitTail), 30, 31); n < 2 {
		t.Errorf("the unguarded twin tells the week of %d patients, want at least 2", n)
	}
	for _, step := range []float64{31, 45, 100, 30.5} {
		a := kmSpecCGD
		a.Grid = &consilium.Grid{Step: step, Max: 10 * step}
		if _, err := New(patients(t, a).facts, nil); !errors.Is(err, consilium.ErrInvalid) || !strings.Contains(err.Error(), "multiple of 30") {
			t.Errorf("a grid of %v days is not refused: %v", step, err)
		}
		p := coxSpecCGD
		p.Strata, p.Baseline = nil, &consilium.Baseline{Kind: "piecewise", Cuts: []float64{60, 60 + step}}
		if _, err := New(patients(t, p).facts, nil); err == nil {
			t.Errorf("a piece of %v days is not refused", step)
		}
	}
	if n := attack(release(30), release(60), 30, 60); n != 0 {
		t.Errorf("two permitted grids tell the week of %d patients", n)
	}
}

// TestTiedEventsAttack takes the sums that Efron's ties ask for apart: where two
// rows of a stretch have the event, sum and sum of squares give both values of
// every column, and their products say which go together; what is left of a
// difference of risk sets does the same for those who leave without the event. The
// naive twin joins cells until k patients leave and asks for the sums all the same;
// with the rule no stretch is about 1 to k-1 patients with the event, or without.
func TestTiedEventsAttack(t *testing.T) {
	a := coxSpecCGD
	a.Strata, a.Baseline = nil, &consilium.Baseline{Kind: "common", Grid: &consilium.Grid{Step: 30, Max: 450}}
	f := patients(t, a)
	f.facts.Permits = []string{PermitCommon, PermitSmallLevels}
	must(t, f)
	made, err := newCox(f.facts, &a)
	if err != nil {
		t.Fatal(err)
	}
	g := made.(*regression)
	first := f.opened[0]
	leaving, events := first["cox/leaving"], first["cox/events"]
	p := g.p()
	one := make([]float64, p)
	for j := range one {
		one[j] = 1
	}
	var people [][]float64 // who leaves, in which cell, with the event or without
	var cells []int
	var fell []bool
	for _, h := range f.sites {
		data, err := readFrame(f.facts.Spec, h.rows, g.reads)
		if err != nil {
			t.Fatal(err)
		}
		x, err := g.d.matrix(data, make([]float64, p), one)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < data.n; i++ {
			z := make([]float64, p)
			for j := range x {
				z[j] = x[j][i]
			}
			people, cells, fell = append(people, z), append(cells, g.cox.common.grid.cell(data.num["tstop"][i])), append(fell, data.num["status"][i] == 1)
		}
	}
	// attack solves those of one kind in the stretches where they are one or two,
	// from their sums alone.
	attack := func(stretches [][2]int, with bool) (solved int) {
		for _, s := range stretches {
			sum, square := make([]float64, p), make([]float64, p)
			var own [][]float64
			for k, z := range people {
				if cells[k] >= s[0] && cells[k] < s[1] && fell[k] == with {
					own = append(own, z)
					for j := range z {
						sum[j], square[j] = sum[j]+z[j], square[j]+z[j]*z[j]
					}
				}
			}
			n := float64(len(own))
			if n < 1 || n > 2 {
				continue
			}
			right := true
			for j := range sum {
				mean := sum[j] / n
				sd := math.Sqrt(math.Max(0, square[j]/n-mean*mean))
				low, high := math.Min(own[0][j], own[len(own)-1][j]), math.Max(own[0][j], own[len(own)-1][j])
				right = right && math.Abs(mean-sd-low) < 1e-6 && math.Abs(mean+sd-high) < 1e-6
			}
			if right {
				solved += len(own)
			}
		}
		return solved
	}
	cellsOf := g.cox.common.grid.cells + 1
	naive := join(cellsOf, func(from, to int) bool { return sumOf(leaving, from, to) >= 11 })
	if n := attack(naive, true); n < 2 {
		t.Errorf("the naive twin gives away %d patients with the event, want at least 2", n)
	} else {
		t.Logf("joined by who leaves alone: %d patients with the event recovered", n)
	}
	// A twin that minds only those with the event gives away those without.
	away := 0
	for k := 5.0; k <= 11; k++ {
		away += attack(join(cellsOf, func(from, to int) bool {
			n := sumOf(events, from, to)
			return sumOf(leaving, from, to) >= k && (n == 0 || n >= k)
		}), false)
	}
	if away < 2 {
		t.Errorf("the twin that joins by events gives away %d patients without the event, want at least 2", away)
	}
	joined := fitOf(t, g, f.states[1]).intervals
	var stretches [][2]int
	from := 0
	for i := 0; i < len(joined); i += intervalLen {
		stretches = append(stretches, [2]int{from, int(joined[i+1]) + 1})
		from = int(joined[i+1]) + 1
	}
	if n := attack(stretches, true) + attack(stretches, false); n != 0 {
		t.Errorf("with the rule %d patients are recovered", n)
	}
	// What the hospitals see: at coefficients zero the weights count patients.
	m := momentsLen(p)
	risk, tied := f.opened[1]["cox/risk"], f.opened[1]["cox/tied"]
	if len(risk) < 2*m || len(risk) != len(tied) {
		t.Fatalf("%d risk sets and %d of tied events: the rule is not tried", len(risk)/m, len(tied)/m)
	}
	for i := 0; i < len(risk); i += m {
		next := 0.0
		if i+m < len(risk) {
			next = risk[i+m]
		}
		if with, without := tied[i], risk[i]-next-tied[i]; with > 0 && with < 11 || without > 0 && without < 11 {
			t.Errorf("a stretch with %v events and %v others is opened", with, without)
		}
	}
	// Too few events for any stretch: said, with what to do.
	few := patients(t, a)
	few.facts.Permits, few.facts.MinCohort = []string{PermitCommon, PermitSmallLevels}, 60
	r, err := few.run()
	if err != nil {
		t.Fatal(err)
	}
	if r.Problem == nil || r.Problem.Code != "analysis.stretch" {
		t.Errorf("44 events of at least 60: %v", r.Problem)
	}
}

// TestCommonBaselineAttack recovers covariates from the risk sets that a Cox
// model with a common baseline opens: where one patient left between two of
// them, their difference is that patient's weight times (1, z, zz'), which is
// solved for z. On a daily grid it succeeds; with the joined cells of the
// default nobody is recovered.
func TestCommonBaselineAttack(t *testing.T) {
	run := func(ties string, step float64, permits ...string) (recovered, sets int, least float64) {
		a := coxSpecCGD
		a.Strata, a.Baseline = nil, &consilium.Baseline{Kind: "common", Grid: &consilium.Grid{Step: step, Max: 450}}
		a.Ties = ties
		f := patients(t, a)
		f.facts.Permits = permits
		must(t, f)
		p := len(multi)
		m := momentsLen(p)
		// The rows in the columns of the second round, as only the hospitals know them.
		made, err := newCox(f.facts, &a)
		if err != nil {
			t.Fatal(err)
		}
		g := made.(*regression)
		seq, err := ParseState(f.states[1])
		if err != nil {
			t.Fatal(err)
		}
		parts, err := splitParts(seq.Sub, 1)
		if err != nil {
			t.Fatal(err)
		}
		inner, err := ParseState(parts[0])
		if err != nil {
			t.Fatal(err)
		}
		fit, err := g.load(inner)
		if err != nil {
			t.Fatal(err)
		}
		var people [][]float64
		for _, h := range f.sites {
			data, err := readFrame(f.facts.Spec, h.rows, g.reads)
			if err != nil {
				t.Fatal(err)
			}
			x, err := g.d.matrix(data, fit.mean, fit.scale)
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i < data.n; i++ {
				one := make([]float64, p)
				for j := range x {
					one[j] = x[j][i]
				}
				people = append(people, one)
			}
		}
		risk := f.opened[1]["cox/risk"] // at coefficients zero: weights are one
		least = math.Inf(1)
		for i := 0; i+m <= len(risk); i += m {
			sets++
			least = math.Min(least, risk[i])
			next := make([]float64, m) // nobody after the last one
			if i+2*m <= len(risk) {
				next = risk[i+m : i+2*m]
			}
			w := risk[i] - next[0]
			if !(w > 0) {
				continue
			}
			z := make([]float64, p)
			alone := true
			k := 1 + p
			for a := 0; a < p; a++ {
				z[a] = (risk[i+1+a] - next[1+a]) / w
			}
			for a := 0; a < p; a++ { // one patient's products are the products of the means
				for b := 0; b <= a; b++ {
					alone = alone && math.Abs((risk[i+k]-next[k])/w-z[a]*z[b]) < 1e-6
					k++
				}
			}
			if !alone {
				continue
			}
			for _, q := range people {
				same := true
				for a := range q {
					same = same && math.Abs(q[a]-z[a]) < 1e-6
				}
				if same {
					recovered++
					break
				}
			}
		}
		return recovered, sets, least
	}
	for _, ties := range []string{"breslow", "efron"} {
		if n, _, _ := run(ties, 1, PermitCommon, PermitFineGrid); n < 20 {
			t.Errorf("the unguarded twin gives away %d patients, want at least 20", n)
		} else {
			t.Logf("%s, daily grid: %d patients recovered", ties, n)
		}
		n, sets, least := run(ties, 30, PermitCommon, PermitSmallLevels)
		if n != 0 || sets < 3 || least < 11 {
			t.Errorf("%s: with the guard %d patients are recovered from %d risk sets, the smallest of %v", ties, n, sets, least)
		}
	}
	a := coxSpecCGD
	a.Strata, a.Baseline = nil, &consilium.Baseline{Kind: "common", Grid: &consilium.Grid{Step: 30, Max: 450}}
	if _, err := New(patients(t, a).facts, nil); err == nil || !strings.Contains(err.Error(), PermitCommon) {
		t.Errorf("a common baseline without permission: %v", err)
	}
}
