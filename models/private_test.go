package models

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"

	"consilium"
	"consilium/internal/dp"
)

// privateStudy is a study of the trial's patients under a budget, with bounds.
func privateStudy(t testing.TB, epsilon float64, analyses ...consilium.AnalysisSpec) *federation {
	f := patients(t, analyses...)
	f.facts.Spec.Privacy.DP = &consilium.DP{Epsilon: epsilon, Delta: 1e-6, Clip: 1}
	f.facts.Spec.Sites.Min = 10
	f.facts.Permits = []string{PermitTail, PermitSmallCells, PermitSmallLevels}
	for i := range f.facts.Spec.Columns {
		switch c := &f.facts.Spec.Columns[i]; c.Name {
		case "weight":
			c.Bounds = &[2]float64{0, 150}
		case "height":
			c.Bounds = &[2]float64{50, 220}
		}
	}
	seedNoise(f, 0)
	return f
}

func seedNoise(f *federation, n uint64) {
	for i, h := range f.sites {
		var b [16]byte
		binary.BigEndian.PutUint64(b[:], n)
		binary.BigEndian.PutUint64(b[8:], uint64(i))
		h.rows.Noise = consilium.DomainNoise.Digest(b[:])
	}
}

func privateAnalyses() []consilium.AnalysisSpec {
	return []consilium.AnalysisSpec{
		{Name: "tab", Type: consilium.AnalysisCrosstab, Rows: "treat", Columns: "any"},
		{Name: "desc", Type: consilium.AnalysisDescribe, Variables: []string{"age", "sex"}, By: []string{"treat"}},
		{Name: "km", Type: consilium.AnalysisKaplanMeier, Response: survCGD, By: []string{"treat"}, Grid: &consilium.Grid{Step: 60, Max: 420}},
		{Name: "lin", Type: consilium.AnalysisGLM, Family: "gaussian", Response: &consilium.Response{Column: "height"}, Terms: []string{"age", "sex"}},
	}
}

func parts(t testing.TB, f *federation) []*private {
	t.Helper()
	a, err := New(f.facts, nil)
	if err != nil {
		t.Fatal(err)
	}
	var out []*private
	for _, p := range a.(*sequence).parts {
		out = append(out, p.(*private))
	}
	return out
}

// TestPrivateSensitivity: taking any patient away changes a hospital's sums by
// a vector of integers whose norms are at most what the accountant was told.
func TestPrivateSensitivity(t *testing.T) {
	f := privateStudy(t, 1, privateAnalyses()...)
	// Every patient has ten rows, most of them with the extremes of the bounds.
	for _, p := range parts(t, f) {
		largest := 0.0
		for _, h := range f.sites {
			for _, one := range byPatient(h.rows) {
				for _, many := range []int{1, 10} {
					rows := &Rows{Site: one.Site, Patients: 1}
					for range many {
						rows.Batches = append(rows.Batches, one.Batches...)
					}
					v, err := p.local(rows)
					if err != nil {
						t.Fatal(err)
					}
					var l1, l2 float64
					part, err := p.clipped(v)
					if err != nil {
						t.Fatal(err)
					}
					for _, x := range part {
						l1, l2 = l1+math.Abs(float64(x)), l2+float64(x)*float64(x)
					}
					if l1 > p.release.L1 || math.Sqrt(l2) > p.release.L2 {
						t.Fatalf("%s: a patient adds norms %v and %v, the accountant counts %v and %v", p.name, l1, math.Sqrt(l2), p.release.L1, p.release.L2)
					}
					if many == 1 {
						largest = math.Max(largest, math.Sqrt(l2))
					}
				}
			}
		}
		if largest < p.release.L2/4 {
			t.Errorf("%s: the largest contribution is %v of %v: the noise is larger than it need be", p.name, largest, p.release.L2)
		}
	}
}

// TestPrivateNoise: the opened sums carry at least the calibrated variance even
// without the noise of every hospital but the honest minimum, are whole
// multiples of the public unit, and are right on average.
func TestPrivateNoise(t *testing.T) {
	f := privateStudy(t, 2, privateAnalyses()[0])
	p := parts(t, f)[0]
	exact := make([]float64, 4)
	for _, h := range f.sites {
		v, err := p.local(h.rows)
		if err != nil {
			t.Fatal(err)
		}
		for i, x := range v[1] {
			exact[i] += x
		}
	}
	honest := honestShares(f.facts)
	if honest != 10-max(1, consilium.DefaultFaults(13, 10)) {
		t.Errorf("%d honest shares", honest)
	}
	const n = 100
	var sum, square float64
	count := 0.0
	for seed := range uint64(n) {
		seedNoise(f, seed)
		noise := make([]float64, 4)
		for k, h := range f.sites {
			if k >= honest {
				break // the others know their own noise
			}
			w := &vector{layout: p.layout(), values: map[string][]float64{}}
			if _, err := p.Local(context.Background(), &State{}, nil, h.rows, w); err != nil {
				t.Fatal(err)
			}
			own, err := p.local(h.rows)
			if err != nil {
				t.Fatal(err)
			}
			for i, x := range w.values["cells"] {
				noise[i] += x - own[1][i]
				if k := x / p.grain; k != math.Trunc(k) {
					t.Fatalf("%v is not a multiple of the unit %v", x, p.grain)
				}
			}
		}
		for _, x := range noise {
			x /= p.grain
			sum, square, count = sum+x, square+x*x, count+1
		}
	}
	if m := sum / count; math.Abs(m) > 5*math.Sqrt(p.release.Mu/count) {
		t.Errorf("the noise has mean %v units", m)
	}
	if v := square / count; v < p.release.Mu*(1-5*math.Sqrt(2/count)) {
		t.Errorf("variance %v is left with %d honest hospitals, the accountant counts %v", v, honest, p.release.Mu)
	}
}

// TestPrivateAttack asks whether one patient is in the cohort, knowing all the
// others: from exact sums the answer is certain; under the budget it is no
// better than the budget allows.
func TestPrivateAttack(t *testing.T) {
	const epsilon = 0.5
	tab := privateAnalyses()[0]
	f := privateStudy(t, epsilon, tab)
	p := parts(t, f)[0]
	target := f.sites[0].rows
	without := *target
	without.Batches = append([]Batch(nil), target.Batches...)
	first := without.Batches[0]
	first.Selected = append([]bool(nil), first.Selected...)
	first.Selected[0] = false
	without.Batches[0] = first
	with, err := p.local(target)
	if err != nil {
		t.Fatal(err)
	}
	less, err := p.local(&without)
	if err != nil {
		t.Fatal(err)
	}
	moved := 0.0
	for b := range with {
		for i := range with[b] {
			moved += math.Abs(with[b][i] - less[b][i])
		}
	}
	if moved < 3 {
		t.Fatalf("the naive twin: exact sums move by %v, so that the patient's presence is certain", moved)
	}
	// The best linear test under the noise: project on the difference.
	score := func(rows *Rows, seed uint64) float64 {
		s := 0.0
		for k := range f.sites[:honestShares(f.facts)] {
			var b [16]byte
			binary.BigEndian.PutUint64(b[:], seed)
			binary.BigEndian.PutUint64(b[8:], uint64(k))
			r := *rows
			if k > 0 {
				r = *f.sites[k].rows
			}
			r.Noise = consilium.DomainNoise.Digest(b[:])
			w := &vector{layout: p.layout(), values: map[string][]float64{}}
			if _, err := p.Local(context.Background(), &State{}, nil, &r, w); err != nil {
				t.Fatal(err)
			}
			for i, name := range []string{"cohort", "cells", "cell-patients"} {
				for j := range with[i] {
					s += w.values[name][j] * (with[i][j] - less[i][j])
				}
			}
		}
		return s
	}
	const n = 60
	var a, b []float64
	for seed := range uint64(n) {
		a, b = append(a, score(target, 2*seed)), append(b, score(&without, 2*seed+1))
	}
	middle := 0.0
	for i := range a {
		middle += (a[i] + b[i]) / (2 * n)
	}
	right := 0.0
	for i := range a {
		if a[i] > middle {
			right++
		}
		if b[i] <= middle {
			right++
		}
	}
	// (epsilon, delta) allows at most e^eps/(1+e^eps); five standard errors on top.
	if most := math.Exp(epsilon)/(1+math.Exp(epsilon)) + 5*math.Sqrt(0.25/(2*n)); right/(2*n) > most {
		t.Errorf("the attacker is right %v of the time, the budget allows %v", right/(2*n), most)
	}
}

// TestPrivateAnswers: with a generous budget the answers are near the exact
// ones, and every result says what was spent.
func TestPrivateAnswers(t *testing.T) {
	f := privateStudy(t, 4000, privateAnalyses()...)
	r := must(t, f)
	if n := get(r, "analyses", 0, "counts", 0, 1).(float64); math.Abs(n-30) > 1 {
		t.Errorf("%v, without noise 30", n)
	}
	if m := get(r, "analyses", 1, "variables", 0, "groups", 0, "mean").(float64); math.Abs(m-14.98) > 0.5 {
		t.Errorf("mean %v, without noise 14.98", m)
	}
	if s := vec(get(r, "analyses", 2, "groups", 0, "curve", "surv")); math.Abs(s[1]-0.846)+math.Abs(s[3]-0.72) > 0.06 {
		t.Errorf("curve %v", s)
	}
	var w map[string]any
	truth(t, &w, "linear_height")
	for k, b := range terms(get(r, "analyses", 3).(map[string]any), "coef") {
		if want := vec(w["coef"])[k]; math.Abs(b-want) > 0.1*math.Abs(want) {
			t.Errorf("coefficient %d: %v, without noise %v", k, b, want)
		}
	}
	for i := range 4 {
		if get(r, "analyses", i, "dp", "epsilon") != 4000.0 || get(r, "analyses", i, "dp", "releases") != 4.0 {
			t.Errorf("analysis %d says it spent %v", i, get(r, "analyses", i, "dp"))
		}
	}
	rel, err := Releases(f.facts, nil)
	if err != nil || len(rel) != 4 || dp.Epsilon(rel, 1e-6) > 4000 {
		t.Errorf("%d releases of epsilon %v: %v", len(rel), dp.Epsilon(rel, 1e-6), err)
	}
	// A small budget on 128 patients leaves no linear model: said, not faked.
	small := privateStudy(t, 0.05, privateAnalyses()[3])
	res, err := small.run()
	if err != nil {
		t.Fatal(err)
	}
	if res.Problem == nil {
		t.Errorf("an answer under hopeless noise: %s", res.JSON)
	}
}

func TestPrivateRefusals(t *testing.T) {
	for _, c := range []struct {
		a    consilium.AnalysisSpec
		text string
	}{
		{coxSpecCGD, "no differentially private form"},
		{consilium.AnalysisSpec{Name: "d", Type: consilium.AnalysisDescribe, Variables: []string{"fu"}}, "fu needs bounds"},
		{consilium.AnalysisSpec{Name: "l", Type: consilium.AnalysisGLM, Family: "gaussian", Response: &consilium.Response{Column: "fu"}, Terms: []string{"age"}}, "fu needs bounds"},
		{consilium.AnalysisSpec{Name: "t", Type: consilium.AnalysisCrosstab, Rows: "treat", Columns: "any", Strata: []string{"site"}}, "strata"},
	} {
		if _, err := New(privateStudy(t, 1, c.a).facts, nil); !errors.Is(err, consilium.ErrInvalid) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want it to say %q", c.a.Name, err, c.text)
		}
	}
	f := privateStudy(t, 1, privateAnalyses()[0])
	for _, h := range f.sites {
		h.rows.Noise = consilium.Digest{}
	}
	if _, err := f.run(); err == nil || !strings.Contains(err.Error(), "secret") {
		t.Errorf("a vector without noise left a hospital: %v", err)
	}
}

// TestUtilityCurve prints what privacy costs: the mean error of the four counts
// of treatment by infection, for the table in docs/analyses.md. More epsilon
// never means more error, beyond chance.
func TestUtilityCurve(t *testing.T) {
	want := []float64{35, 30, 49, 14}
	last := math.Inf(1)
	for _, epsilon := range []float64{0.25, 0.5, 1, 2, 4, 8} {
		f := privateStudy(t, epsilon, privateAnalyses()[0])
		const n = 60
		p := parts(t, f)[0]
		e := 0.0
		for seed := range uint64(n) {
			seedNoise(f, seed)
			sums := make([]float64, 4)
			for _, h := range f.sites {
				w := &vector{layout: p.layout(), values: map[string][]float64{}}
				if _, err := p.Local(context.Background(), &State{}, nil, h.rows, w); err != nil {
					t.Fatal(err)
				}
				for i, x := range w.values["cells"] {
					sums[i] += x
				}
			}
			for i := range want {
				e += math.Abs(sums[i]-want[i]) / (4 * n)
			}
		}
		t.Logf("| %v | %.1f | %.1f |", epsilon, e, math.Sqrt(p.release.Mu)*p.grain)
		if e > 1.3*last {
			t.Errorf("epsilon %v: error %v, more than %v with less", epsilon, e, last)
		}
		last = e
	}
}

// TestPrivateNotFinite: a contribution that has no norm is refused, and so is a
// column of which no row has a bound that can be scaled. The naive clip lets an
// infinite one through: n > limit is false for what is not a number.
func TestPrivateNotFinite(t *testing.T) {
	f := privateStudy(t, 1, privateAnalyses()...)
	for _, p := range parts(t, f) {
		v, err := p.local(byPatient(f.sites[0].rows)[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range []float64{math.Inf(1), math.Inf(-1), math.NaN(), math.MaxFloat64} {
			v[len(v)-1][0] = bad
			if _, err := p.clipped(v); !errors.Is(err, consilium.ErrData) {
				t.Errorf("%s: a contribution of %v: %v", p.name, bad, err)
			}
		}
		v[len(v)-1][0] = 1e9 // large, but with a norm: clipped
		x, err := p.clipped(v)
		if err != nil {
			t.Fatal(err)
		}
		l2 := 0.0
		for _, k := range x {
			l2 += float64(k) * float64(k)
		}
		if math.Sqrt(l2) > p.release.L2 {
			t.Errorf("%s: norm %v of at most %v", p.name, math.Sqrt(l2), p.release.L2)
		}
		if _, err := p.clipped(v[1:]); err == nil {
			t.Errorf("%s: a contribution without its first block is clipped", p.name)
		}
	}
	naive := func(norm, limit float64) float64 {
		if norm > limit {
			return limit / norm
		}
		return 1
	}
	if naive(math.NaN(), 1) != 1 {
		t.Error("the naive clip notices")
	}
	for _, b := range [][2]float64{{0, 1e40}, {0, 1e-30}} {
		g := privateStudy(t, 1, privateAnalyses()[1])
		for i := range g.facts.Spec.Columns {
			if c := &g.facts.Spec.Columns[i]; c.Name == "age" {
				c.Bounds = &b
			}
		}
		if _, err := New(g.facts, nil); !errors.Is(err, consilium.ErrInvalid) || !strings.Contains(err.Error(), "2^-60") {
			t.Errorf("bounds %v: %v", b, err)
		}
	}
}

// TestPrivateSaysNothingUncounted: what never reached the analysis is nobody's
// contribution, so that the result has no number for it, and every type warns.
func TestPrivateSaysNothingUncounted(t *testing.T) {
	r := must(t, privateStudy(t, 4000, privateAnalyses()...))
	for i := range 4 {
		x := get(r, "analyses", i, "excluded_rows").(map[string]any)
		for _, k := range []string{"consent", "integrity", "cohort"} {
			if v, there := x[k]; !there || v != nil {
				t.Errorf("analysis %d: excluded_rows.%s is %v, want null", i, k, v)
			}
		}
		if w := get(r, "analyses", i, "warnings", 0).(string); !strings.Contains(w, "noise") {
			t.Errorf("analysis %d: %v", i, w)
		}
	}
}

// Where hospitals may join a study that runs, its noise must not depend on how many
// there are: f is then the study's own number.
func TestNoiseOfAJoinedStudy(t *testing.T) {
	facts := consilium.Facts{Spec: &consilium.Spec{Sites: consilium.SiteRule{Min: 5, Missing: "continue"}, Analyses: []consilium.AnalysisSpec{{Type: consilium.AnalysisTrain}}}}
	facts.Spec.Privacy.DP = &consilium.DP{Epsilon: 1, Delta: 1e-6, Clip: 1}
	share := func(hospitals, faults int) (float64, error) {
		facts.Spec.Sites.Faults = faults
		facts.Sites = make([]consilium.SiteID, hospitals)
		m, err := newMechanism(facts, "x", []float64{1}, 1)
		if err != nil {
			return 0, err
		}
		return m.share, nil
	}
	if _, err := share(7, 0); err == nil {
		t.Error("the default of f, which grows with the hospitals, is taken")
	}
	before, err := share(7, 2)
	if err != nil {
		t.Fatal(err)
	}
	if after, err := share(8, 2); err != nil || after != before {
		t.Errorf("a share of %v among 8, %v among 7: %v", after, before, err)
	}
}
