package models

import (
	"fmt"
	"math"
	"math/rand"
	"strings"
	"testing"

	"consilium"
	"consilium/internal/dp"
)

// privateCohort is a generated cohort of six hospitals, large enough for noise:
// logistic, counts with follow-up, and times, from known coefficients.
func privateCohort(t testing.TB, n int, epsilon float64, a consilium.AnalysisSpec) *federation {
	spec := &consilium.Spec{Data: consilium.DataRef{Dataset: "d", Patient: "id"}, Columns: []consilium.Column{
		{Name: "id", Type: consilium.TypeID}, {Name: "arm", Type: consilium.TypeFlag}, {Name: "age", Type: consilium.TypeNumber, Bounds: &[2]float64{20, 80}},
		{Name: "y", Type: consilium.TypeFlag}, {Name: "count", Type: consilium.TypeInteger, Bounds: &[2]float64{0, 8}}, {Name: "fu", Type: consilium.TypeNumber, Bounds: &[2]float64{1, 4}},
		{Name: "time", Type: consilium.TypeNumber, Unit: "d", Bounds: &[2]float64{0, 900}}, {Name: "event", Type: consilium.TypeFlag}},
		Sites: consilium.SiteRule{Min: 5, Faults: 1}, Privacy: consilium.Privacy{MinCohort: 11}, Rounds: consilium.Rounds{Max: 25, Tolerance: 1e-9, Deadline: 60}}
	if epsilon > 0 {
		spec.Privacy.DP = &consilium.DP{Epsilon: epsilon, Delta: 1e-6, Clip: 1}
	}
	a.Name = "main"
	spec.Analyses = []consilium.AnalysisSpec{a}
	rnd := rand.New(rand.NewSource(11))
	tab := &table{names: []string{"site", "id", "arm", "age", "y", "count", "fu", "time", "event"}}
	for i := range n {
		arm, age := float64(rnd.Intn(2)), 20+60*rnd.Float64()
		eta := -0.4 + 0.8*arm + 0.02*(age-50)
		y := 0
		if rnd.Float64() < 1/(1+math.Exp(-eta)) {
			y = 1
		}
		fu := 1 + 3*rnd.Float64()
		count := 0 // Poisson (Knuth), cut at its bound
		for p, least := rnd.Float64(), math.Exp(-fu*math.Exp(-0.7-0.5*arm+0.01*(age-50))); p > least && count < 8; p *= rnd.Float64() {
			count++
		}
		stop := -math.Log(1-rnd.Float64()) / (math.Exp(0.7*arm+0.015*(age-50)) / 400)
		event := 1
		if stop > 850 {
			stop, event = 850, 0
		}
		tab.rows = append(tab.rows, []string{fmt.Sprint("h", i%6), fmt.Sprint(i), fmt.Sprint(arm), fmt.Sprint(age), fmt.Sprint(y), fmt.Sprint(count), fmt.Sprint(fu), fmt.Sprint(stop), fmt.Sprint(event)})
	}
	f := newFederation(t, spec, split(t, spec, tab, "site", "id"))
	seedNoise(f, 0)
	return f
}

// privateFits are the three likelihoods that are sums over patients.
func privateFits() map[string]consilium.AnalysisSpec {
	terms := []string{"arm", "age"}
	return map[string]consilium.AnalysisSpec{
		"binomial": {Type: consilium.AnalysisGLM, Family: "binomial", Response: &consilium.Response{Column: "y"}, Terms: terms},
		"poisson":  {Type: consilium.AnalysisGLM, Family: "poisson", Response: &consilium.Response{Column: "count"}, Terms: terms, Offset: &consilium.Offset{Column: "fu", Log: true}},
		"cox": {Type: consilium.AnalysisCox, Response: &consilium.Response{Stop: "time", Event: "event"}, Terms: terms,
			Baseline: &consilium.Baseline{Kind: "piecewise", Cuts: []float64{300}}},
	}
}

// TestPrivateFit: with a generous budget the private fits come to the exact ones,
// with a small one they are off by about the error that they state, which counts
// the noise, and with a hopeless one they say so.
func TestPrivateFit(t *testing.T) {
	for name, a := range privateFits() {
		exact := must(t, privateCohort(t, 3000, 0, a))
		want := terms(exact, "coef")
		open := privateCohort(t, 3000, 20000, a)
		open.facts.Spec.Privacy.DP.Clip = 3 // nothing is clipped
		r := must(t, open)
		for j, b := range terms(r, "coef") {
			if se := terms(exact, "se")[j]; math.Abs(b-want[j]) > 0.1*se {
				t.Errorf("%s, epsilon 20000: coefficient %d is %v, without noise %v (error %v)", name, j, b, want[j], se)
			}
			if got, se := terms(r, "se")[j], terms(exact, "se")[j]; math.Abs(got/se-1) > 0.05 {
				t.Errorf("%s, epsilon 20000: error %d is %v, without noise %v", name, j, got, se)
			}
		}
		if len(open.opened) != 1+privateSteps || get(r, "dp", "releases") != float64(1+privateSteps) || get(r, "excluded_rows", "missing") != nil {
			t.Errorf("%s: %d rounds, %v", name, len(open.opened), r["dp"])
		}
		// Stated errors hold: 20 draws, of every coefficient.
		far, all, wider := 0, 0, 0
		for seed := range uint64(20) {
			f := privateCohort(t, 3000, 4, a)
			seedNoise(f, seed)
			if name == "cox" {
				f.facts.Spec.Privacy.DP.Clip = 2
			}
			res, err := f.run()
			if err != nil {
				t.Fatal(err)
			}
			if res.Problem != nil {
				t.Errorf("%s, epsilon 4: %v", name, res.Problem)
				continue
			}
			m := decode(t, res)
			for j, b := range terms(m, "coef") {
				all++
				se := terms(m, "se")[j]
				own := terms(exact, "se")[j]
				if se > own {
					wider++
				}
				// The noise alone: what the stated variance has beyond the exact one.
				if math.Abs(b-want[j]) > 3*math.Sqrt(math.Max(se*se-own*own, 0))+0.2*own {
					far++
				}
			}
		}
		if far > all/20 || wider < all*9/10 {
			t.Errorf("%s, epsilon 4: %d of %d coefficients are further off than the stated noise, %d errors are wider than without noise", name, far, all, wider)
		}
		small := privateCohort(t, 60, 0.1, a)
		res, err := small.run()
		if err != nil {
			t.Fatal(err)
		}
		if res.Problem == nil {
			t.Errorf("%s: an answer under hopeless noise: %s", name, res.JSON)
		}
	}
}

// TestPrivateFitSensitivity: taking any patient away, whatever the rows and
// whatever the state, moves a hospital's sums by vectors of at most the norms that
// the accountant was told.
func TestPrivateFitSensitivity(t *testing.T) {
	for name, a := range privateFits() {
		f := privateCohort(t, 120, 1, a)
		made, err := New(f.facts, nil)
		if err != nil {
			t.Fatal(err)
		}
		p := made.(*sequence).parts[0].(*privateFit)
		if e := dp.Epsilon(p.AllReleases(), 1e-6); e > 1 || e < 0.8 {
			t.Errorf("%s: all rounds cost epsilon %v of 1", name, e)
		}
		for _, phase := range []uint32{phaseFirst, phaseFit} {
			for _, theta := range []float64{0, -3, 40} {
				s, err := p.Start(f.facts)
				if err != nil {
					t.Fatal(err)
				}
				o, err := p.load(s)
				if err != nil {
					t.Fatal(err)
				}
				for j := range o.theta {
					o.theta[j] = theta
				}
				if s, err = p.save(o, phase, 1); err != nil {
					t.Fatal(err)
				}
				m := p.at(s)
				for _, h := range f.sites[:2] {
					data, err := readFrame(f.facts.Spec, h.rows, p.g.reads)
					if err != nil {
						t.Fatal(err)
					}
					for i := range data.n {
						// A patient with 1, and one with 10 rows like this.
						for _, many := range []int{1, 10} {
							x := make([]float64, len(m.scale))
							one, err := readFrame(f.facts.Spec, h.rows, p.g.reads)
							if err != nil {
								t.Fatal(err)
							}
							one.keep(func(row int) bool { return row == i })
							for range many {
								if phase == phaseFirst {
									err = p.tally(one, func(int) []float64 { return x })
								} else {
									err = p.derivatives(t.Context(), one, o.theta, func(int) []float64 { return x })
								}
								if err != nil {
									t.Fatal(err)
								}
							}
							part, err := m.clip(x)
							if err != nil {
								t.Fatal(err)
							}
							var l1, l2 float64
							for _, v := range part {
								l1, l2 = l1+math.Abs(float64(v)), l2+float64(v)*float64(v)
							}
							if l1 > m.release.L1 || math.Sqrt(l2) > m.release.L2 {
								t.Fatalf("%s: a patient adds norms %v and %v of at most %v and %v", name, l1, math.Sqrt(l2), m.release.L1, m.release.L2)
							}
						}
						if i == 5 {
							break
						}
					}
				}
			}
		}
	}
}

func TestPrivateFitRefusals(t *testing.T) {
	base := privateFits()["binomial"]
	for text, edit := range map[string]func(a *consilium.AnalysisSpec){
		"no site, robust errors":         func(a *consilium.AnalysisSpec) { a.Terms = append([]string{"site"}, a.Terms...) },
		"robust":                         func(a *consilium.AnalysisSpec) { a.Robust = true },
		"intercept":                      func(a *consilium.AnalysisSpec) { a.NoIntercept = true },
		"takes columns and levels":       func(a *consilium.AnalysisSpec) { a.Terms = []string{"log(age)"} },
		"an offset is log":               func(a *consilium.AnalysisSpec) { a.Offset = &consilium.Offset{Column: "fu"} },
		"no differentially private form": func(a *consilium.AnalysisSpec) { a.Penalty = &consilium.Penalty{Alpha: 1, Steps: 3} },
	} {
		a := base
		edit(&a)
		if _, err := New(privateCohort(t, 60, 1, a).facts, nil); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v, want it to say %q", err, text)
		}
	}
}

// TestPrivateFitCurve prints what privacy costs a regression, for the table in
// docs/analyses.md: the root mean square distance of the coefficient of arm from
// the exact one, in exact standard errors.
func TestPrivateFitCurve(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped: -short")
	}
	for name, a := range privateFits() {
		exact := must(t, privateCohort(t, 3000, 0, a))
		at := len(terms(exact, "coef")) - 2
		last := math.Inf(1)
		for _, epsilon := range []float64{1, 2, 4, 8, 16} {
			square, answers := 0.0, 0
			const n = 20
			for seed := range uint64(n) {
				f := privateCohort(t, 3000, epsilon, a)
				seedNoise(f, seed)
				r, err := f.run()
				if err != nil {
					t.Fatal(err)
				}
				if r.Problem != nil {
					continue
				}
				answers++
				d := (terms(decode(t, r), "coef")[at] - terms(exact, "coef")[at]) / terms(exact, "se")[at]
				square += d * d
			}
			rms := math.Sqrt(square / float64(max(answers, 1)))
			t.Logf("| %s | %v | %.2f | %d of %d |", name, epsilon, rms, answers, n)
			if answers == n && rms > 1.5*last {
				t.Errorf("%s, epsilon %v: %v, more than %v with less", name, epsilon, rms, last)
			}
			if answers == n {
				last = rms
			}
		}
	}
}
