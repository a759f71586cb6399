package models

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"consilium"
)

// seen is what an attacker combines: of everybody and of the fit.
type seen struct {
	levels, moments []float64 // of everybody
	fit             []float64 // levels of the fit, at its beginning
	risk            []float64 // first risk set, at coefficients zero
}

// TestLeftOutAttack takes the patient of a stratum of one, who has no part in a
// common baseline's fit, from the difference between everybody and the fit. The
// naive twin opens levels and moments of everybody and levels of the fit, as an
// exact model usually does.
func TestLeftOutAttack(t *testing.T) {
	a := consilium.AnalysisSpec{Name: "cox", Type: consilium.AnalysisCox, Response: survCGD, Terms: []string{"treat", "sex", "age", "inherit", "height"},
		Strata: []string{"law"}, Baseline: &consilium.Baseline{Kind: "common", Grid: &consilium.Grid{Step: 30, Max: 450}}}
	spec := specCGD(a)
	tab := cgd(t, "cgd_patient.csv")
	for _, r := range tab.rows {
		r[tab.index("law")] = "HIPAA"
	}
	tab.rows[40][tab.index("law")] = "FADP"
	f := newFederation(t, spec, split(t, spec, tab, "site", "id"))
	f.facts.Permits = []string{PermitCommon}
	must(t, f)

	made, err := newCox(f.facts, &a)
	if err != nil {
		t.Fatal(err)
	}
	g := made.(*regression)
	p, m := g.p(), momentsLen(g.p())
	fit := fitOf(t, g, f.states[2])
	naive := seen{levels: make([]float64, len(g.d.checks)), moments: make([]float64, 2*p), fit: make([]float64, len(g.d.checks)), risk: f.opened[2]["cox/risk"][:m]}
	var his, z []float64 // his levels and columns, as only his hospital knows them
	add := func(to, v []float64) {
		for i := range v {
			to[i] += v[i]
		}
	}
	for _, h := range f.sites {
		data, err := readFrame(spec, h.rows, g.reads)
		if err != nil {
			t.Fatal(err)
		}
		x, err := g.d.matrix(data, fit.mean, fit.scale)
		if err != nil {
			t.Fatal(err)
		}
		add(naive.levels, g.d.levelCounts(data))
		for j := range x {
			for _, v := range x[j] {
				naive.moments[j] += v
				naive.moments[p+j] += v * v
			}
		}
		for i := 0; i < data.n; i++ {
			if data.code["law"][i] == 0 {
				one := &frame{n: 1, patient: data.patient[i : i+1], ordinals: data.ordinals, num: map[string][]float64{}, code: map[string][]int32{}}
				for k, v := range data.num {
					one.num[k] = v[i : i+1]
				}
				for k, v := range data.code {
					one.code[k] = v[i : i+1]
				}
				his = g.d.levelCounts(one)
				for j := range x {
					z = append(z, x[j][i])
				}
			}
		}
		data.keep(g.cox.common.inFit(fit, data, nil, data.num[g.cox.stop]))
		add(naive.fit, g.d.levelCounts(data))
	}
	if len(z) != p {
		t.Fatal("the patient is not the only one of the stratum")
	}
	less := func(a, b []float64) []float64 {
		if len(a) != len(b) {
			return nil
		}
		out := make([]float64, len(a))
		for i := range a {
			out[i] = a[i] - b[i]
		}
		return out
	}
	equal := func(a, b []float64) bool {
		return len(a) == len(b) && slices.EqualFunc(a, b, func(x, y float64) bool { return math.Abs(x-y) < 1e-6 })
	}
	// attack says what of him comes out.
	attack := func(s seen) (levels, columns bool) {
		began := make([]float64, len(g.d.checks)) // levels in the first risk set
		for k, c := range g.d.checks {
			began[k] = s.risk[0]
			for j := range g.d.columns {
				if q := g.d.columns[j].parts[0]; q.level >= 0 && q.column == c.parts[0].column {
					if v := s.risk[1+j] * fit.scale[j]; c.parts[0].level == q.level {
						began[k] = v
					} else if c.parts[0].level == 0 {
						began[k] -= v
					}
				}
			}
		}
		levels = equal(less(s.levels, s.fit), his) || equal(less(s.levels, began), his) || equal(less(s.fit, began), his)
		if len(s.moments) == 2*p {
			columns = equal(less(s.moments[:p], s.risk[1:1+p]), z)
		}
		return levels, columns
	}
	if levels, columns := attack(naive); !levels || !columns {
		t.Errorf("the naive twin hides the patient: levels %v, columns %v", levels, columns)
	}
	// As it is: levels are counted of the fit alone.
	first, second := f.opened[0], f.opened[1]
	guarded := seen{levels: first["cox/cohort"][cohortFixed:], moments: first["cox/moments"], fit: make([]float64, len(g.d.checks)), risk: naive.risk}
	per := len(second["cox/levels"]) / len(g.d.checks)
	for k := range guarded.fit {
		guarded.fit[k] = sumOf(second["cox/levels"], k*per, (k+1)*per)
	}
	if !equal(guarded.fit, naive.fit) {
		t.Errorf("levels of the fit %v, counted as %v", naive.fit, guarded.fit)
	}
	if levels, columns := attack(guarded); levels || columns {
		t.Errorf("the patient is given away: levels %v, columns %v", levels, columns)
	}
	if n := first["cox/cohort"]; n[cohortRows] != 0 || n[cohortEvents] != 0 || n[cohortPatients] != 128 {
		t.Errorf("the first round counts %v", n)
	}
	for _, later := range f.opened[3:] {
		for _, block := range []string{"cox/fitted", "cox/levels", "cox/moments"} {
			if later[block] != nil {
				t.Errorf("%s is opened again", block)
			}
		}
	}
	// Entry times would set rows apart by when they begin.
	a.Response = &consilium.Response{Start: "tstart", Stop: "tstop", Event: "status"}
	if _, err := newCox(f.facts, &a); err == nil || !strings.Contains(err.Error(), PermitFineGrid) {
		t.Errorf("entry times on joined cells: %v", err)
	}
}

// fitOf reads the state of a study of one regression.
func fitOf(t *testing.T, g *regression, state []byte) *fit {
	t.Helper()
	seq, err := ParseState(state)
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
	f, err := g.load(inner)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestSingleEventAttack takes a single event of a stretch from Efron's sums: the
// score adds the columns of all events, and the sums over tied ones say which
// part of it the stretches with several are. The naive twin lets a stretch have
// one event.
func TestSingleEventAttack(t *testing.T) {
	a := consilium.AnalysisSpec{Name: "cox", Type: consilium.AnalysisCox, Response: survCGD, Terms: []string{"treat", "sex", "age", "inherit"},
		Baseline: &consilium.Baseline{Kind: "common", Grid: &consilium.Grid{Step: 30, Max: 450}}}
	spec := specCGD(a)
	tab := cgd(t, "cgd_patient.csv")
	early := 0
	for _, r := range tab.rows {
		if stop, _ := strconv.Atoi(r[tab.index("tstop")]); stop <= 210 && r[tab.index("status")] == "1" {
			if early++; early > 1 {
				r[tab.index("status")] = "0"
			}
		}
	}
	f := newFederation(t, spec, split(t, spec, tab, "site", "id"))
	f.facts.Permits = []string{PermitCommon, PermitSmallLevels}
	must(t, f)
	made, err := newCox(f.facts, &a)
	if err != nil {
		t.Fatal(err)
	}
	g := made.(*regression)
	p, m := g.p(), momentsLen(g.p())
	fit := fitOf(t, g, f.states[1])
	// left is the score less the sums over tied events: of those who stand alone.
	left := func(score, tied []float64) []float64 {
		out := append([]float64(nil), score...)
		for ; len(tied) >= m; tied = tied[m:] {
			for j := range out {
				out[j] -= tied[1+j]
			}
		}
		return out
	}
	// The twin's stretches, and the sums that it would ask for.
	leaving, events := f.opened[0]["cox/leaving"], f.opened[0]["cox/events"]
	stretches := join(g.cox.common.grid.cells+1, func(from, to int) bool {
		return sumOf(leaving, from, to) >= 11 && (sumOf(events, from, to) <= 1 || sumOf(events, from, to) >= 11)
	})
	score, tied := make([]float64, p), make([]float64, m*len(stretches))
	var alone []float64
	for _, h := range f.sites {
		data, err := readFrame(spec, h.rows, g.reads)
		if err != nil {
			t.Fatal(err)
		}
		x, err := g.d.matrix(data, fit.mean, fit.scale)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < data.n; i++ {
			if data.num["status"][i] == 0 {
				continue
			}
			cell := g.cox.common.grid.cell(data.num["tstop"][i])
			for n, s := range stretches {
				if cell < s[0] || cell >= s[1] {
					continue
				}
				several := sumOf(events, s[0], s[1]) > 1
				for j := range x {
					score[j] += x[j][i]
					if several {
						tied[n*m+1+j] += x[j][i]
					} else {
						alone = append(alone, x[j][i])
					}
				}
			}
		}
	}
	if len(alone) != p {
		t.Fatalf("the twin has %d single events, want one", len(alone)/p)
	}
	for j, v := range left(score, tied) {
		if math.Abs(v-alone[j]) > 1e-6 {
			t.Errorf("the naive twin hides column %d of the single event", j)
		}
	}
	for j, v := range left(f.opened[1]["cox/score"], f.opened[1]["cox/tied"]) {
		if math.Abs(v) > 1e-9 {
			t.Errorf("column %d: %v is left of the score", j, v)
		}
	}
}

// TestLevelAloneAttack reads a patient off the products of a level's column, where
// nobody else of a stretch has the level: sums over one patient. The naive twin
// joins cells by who leaves alone; with the counts of levels nobody stands alone.
func TestLevelAloneAttack(t *testing.T) {
	a := consilium.AnalysisSpec{Name: "cox", Type: consilium.AnalysisCox, Response: survCGD, Terms: []string{"treat", "age", "propylac"},
		Baseline: &consilium.Baseline{Kind: "common", Grid: &consilium.Grid{Step: 30, Max: 450}}}
	for _, permits := range [][]string{{PermitCommon, PermitSmallLevels}, {PermitCommon}} {
		f := patients(t, a)
		f.facts.Permits, f.facts.MinCohort = permits, 5
		must(t, f)
		made, err := newCox(f.facts, &a)
		if err != nil {
			t.Fatal(err)
		}
		g := made.(*regression)
		p, m := g.p(), momentsLen(g.p())
		at := slices.IndexFunc(f.opened, func(o map[string][]float64) bool { return o["cox/risk"] != nil })
		fit := fitOf(t, g, f.states[at])
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
				people = append(people, []float64{x[0][i], x[1][i], x[2][i]})
			}
		}
		// At coefficients zero: who leaves in each stretch with the event, and who
		// without. Several stretches with the event have their own sums each.
		risk, tied := f.opened[at]["cox/risk"], f.opened[at]["cox/tied"]
		sets, recovered, least := 0, 0, math.Inf(1)
		look := func(v []float64) {
			if v[0] == 0 {
				return
			}
			sets++
			for j := 0; j < p; j += 2 { // treat and propylac
				for level, n := range []float64{v[0] - v[1+j], v[1+j]} {
					if n < 0.5 {
						continue
					}
					if least = math.Min(least, math.Round(n)); n > 1.5 {
						continue
					}
					z := make([]float64, p) // the row of products is the patient's columns
					for b := range z {
						i, k := max(j, b), min(j, b)
						if z[b] = v[1+p+i*(i+1)/2+k]; level == 0 {
							z[b] = v[1+b] - z[b]
						}
					}
					if slices.ContainsFunc(people, func(who []float64) bool {
						return slices.EqualFunc(who, z, func(a, b float64) bool { return math.Abs(a-b) < 1e-9 })
					}) {
						recovered++
					}
				}
			}
		}
		for i := 0; i < len(risk); i += m {
			rest := append([]float64(nil), risk[i:i+m]...)
			for k := range rest {
				if i+m < len(risk) {
					rest[k] -= risk[i+m+k]
				}
				rest[k] -= tied[i+k]
			}
			look(tied[i : i+m])
			look(rest)
		}
		if len(permits) == 2 { // the board's exception is the naive twin
			if recovered == 0 {
				t.Errorf("the naive twin gives nobody away in %d sets", sets)
			}
			continue
		}
		if recovered != 0 || least < minLevelPatients || sets < 3 {
			t.Errorf("%d patients are recovered from %d sets, the least level has %v", recovered, sets, least)
		}
	}
}

// TestCommonScale: columns in a tiny unit and far from their origin, without
// bounds; the scale is measured in the first risk sets.
func TestCommonScale(t *testing.T) {
	run := func(change func(tab *table, r []string)) (map[string]any, int) {
		a := consilium.AnalysisSpec{Name: "cox", Type: consilium.AnalysisCox, Response: survCGD, Terms: []string{"treat", "height", "weight"}, Robust: true,
			Baseline: &consilium.Baseline{Kind: "common", Grid: &consilium.Grid{Step: 30, Max: 450}}}
		spec := specCGD(a)
		tab := cgd(t, "cgd_patient.csv")
		for _, r := range tab.rows {
			change(tab, r)
		}
		f := newFederation(t, spec, split(t, spec, tab, "site", "id"))
		f.facts.Permits = []string{PermitCommon}
		return must(t, f), len(f.opened)
	}
	number := func(tab *table, r []string, name string, to func(v float64) float64) {
		v, err := strconv.ParseFloat(r[tab.index(name)], 64)
		if err != nil {
			t.Fatal(err)
		}
		r[tab.index(name)] = strconv.FormatFloat(to(v), 'g', -1, 64)
	}
	plain, rounds := run(func(*table, []string) {})
	odd, more := run(func(tab *table, r []string) {
		number(tab, r, "height", func(v float64) float64 { return v * 0x1p-40 })
		number(tab, r, "weight", func(v float64) float64 { return v + 1e7 })
	})
	if more <= rounds {
		t.Errorf("%d rounds with odd columns and %d without: nothing was measured", more, rounds)
	}
	scale := []float64{1, 0x1p40, 1}
	for _, key := range []string{"coef", "se", "robust_se"} {
		for i, v := range terms(odd, key) {
			near(t, "odd "+key, v/scale[i], terms(plain, key)[i])
		}
	}
	near(t, "odd loglik", vec(odd["loglik"])[1], vec(plain["loglik"])[1])
}
