package models

import (
	"encoding/json"
	"math"
	"os"
	"slices"
	"testing"

	"consilium"
)

// reference reads testdata/exact.json, which testdata/exact.R makes.
func reference(t testing.TB) map[string]any {
	t.Helper()
	b, err := os.ReadFile("testdata/exact.json")
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

var survCGD = &consilium.Response{Stop: "tstop", Event: "status"}

func TestNegativeBinomialReference(t *testing.T) {
	w := reference(t)["negbin"].(map[string]any)
	r := must(t, patients(t, consilium.AnalysisSpec{Name: "nb", Type: consilium.AnalysisGLM, Family: "negative-binomial", Response: &consilium.Response{Column: "ninf"},
		Terms: multi, Offset: &consilium.Offset{Column: "fu", Log: true}, Robust: true}))
	same(t, "coef", terms(r, "coef"), w["coef"])
	same(t, "nb_robust", terms(r, "robust_se"), w["robust"])
	near(t, "theta", r["theta"].(float64), w["theta"].(float64))
	near(t, "se_theta", r["se_theta"].(float64), w["se_theta"].(float64))
	near(t, "null_deviance", r["null_deviance"].(float64), w["null_deviance"].(float64))
}

func TestPiecewiseReference(t *testing.T) {
	w := reference(t)["piecewise"].(map[string]any)
	f := intervals(t, consilium.AnalysisSpec{Name: "pe", Type: consilium.AnalysisCox, Response: &consilium.Response{Start: "tstart", Stop: "tstop", Event: "status"},
		Terms: multi, Cluster: "id", Baseline: &consilium.Baseline{Kind: "piecewise", Cuts: vec(w["cuts"])}})
	r := must(t, f)
	same(t, "coef", terms(r, "coef"), w["coef"])
	same(t, "se", terms(r, "se"), w["se"])
	same(t, "robust", terms(r, "robust_se"), w["robust"])
	near(t, "lrt", statistic(r, "lrt", "statistic"), w["lrt"].(float64))
	// Within a tenth of a standard error of the Cox model.
	var cox map[string]any
	truth(t, &cox, "ag_multi_efron")
	for i, b := range terms(r, "coef")[6:] {
		if d := math.Abs(b-vec(cox["coef"])[i]) / vec(cox["se"])[i]; d > 0.15 {
			t.Errorf("coefficient %d is %.2f standard errors from Cox's", i, d)
		}
	}
}

func TestVaryingReference(t *testing.T) {
	for _, ties := range []string{"efron", "breslow"} {
		w := reference(t)["varying_"+ties].(map[string]any)
		r := must(t, patients(t, consilium.AnalysisSpec{Name: "tt", Type: consilium.AnalysisCox, Response: survCGD, Terms: []string{"treat", "age"}, Ties: ties, Cluster: "id",
			TimeTerms: []consilium.TimeTerm{{Term: "treat", Func: "log"}, {Term: "age", Func: "identity"}}}))
		same(t, "coef", terms(r, "coef"), w["coef"])
		same(t, "se", terms(r, "se"), w["se"])
		same(t, "robust", terms(r, "robust_se"), w["robust"])
		same(t, "loglik", vec(r["loglik"]), w["loglik"])
	}
}

func TestProportionalLogReference(t *testing.T) {
	w := reference(t)["zph_log"].(map[string]any)
	r := must(t, patients(t, consilium.AnalysisSpec{Name: "ph", Type: consilium.AnalysisCox, Response: survCGD, Terms: []string{"treat", "age", "sex"}, PHCheck: "log"}))
	var chisq, p []float64
	for _, v := range get(r, "ph_check", "terms").([]any) {
		chisq, p = append(chisq, get(v, "chisq").(float64)), append(p, get(v, "p").(float64))
	}
	same(t, "zph", append(chisq, get(r, "ph_check", "global", "chisq").(float64)), w["chisq"])
	same(t, "zph_p", append(p, get(r, "ph_check", "global", "p").(float64)), w["p"])
}

func TestHarringtonReference(t *testing.T) {
	all := reference(t)
	for _, v := range all["harrington"].([]any) {
		w := v.(map[string]any)
		f := patients(t, consilium.AnalysisSpec{Name: "lr", Type: consilium.AnalysisLogrank, Response: survCGD, By: []string{"treat"}, Grid: daily,
			Weights: &consilium.Weights{Rho: w["rho"].(float64), Gamma: w["gamma"].(float64)}})
		f.facts.Permits = []string{PermitFineGrid}
		r := must(t, f)
		near(t, "chisq", r["chisq"].(float64), w["chisq"].(float64))
		near(t, "observed", get(r, "groups", 0, "observed").(float64), w["observed"].(float64))
		near(t, "expected", get(r, "groups", 0, "expected").(float64), w["expected"].(float64))
		near(t, "var", mat(r["var"])[0][0], w["var"].(float64))
	}
	w := all["peto_site"].(map[string]any)
	r := must(t, patients(t, consilium.AnalysisSpec{Name: "lr", Type: consilium.AnalysisLogrank, Response: survCGD, By: []string{"treat"}, Weights: &consilium.Weights{Rho: 1}}))
	near(t, "chisq", r["chisq"].(float64), w["chisq"].(float64))
	for g := 0; g < 2; g++ {
		near(t, "observed", get(r, "groups", g, "observed").(float64), vec(w["observed"])[g])
		near(t, "expected", get(r, "groups", g, "expected").(float64), vec(w["expected"])[g])
	}
}

func TestLimitsReference(t *testing.T) {
	all := reference(t)
	for _, kind := range []string{"log", "log-log", "plain"} {
		w := all["limits_"+kind].(map[string]any)
		f := patients(t, consilium.AnalysisSpec{Name: "km", Type: consilium.AnalysisKaplanMeier, Response: survCGD, By: []string{"treat"},
			Grid: &consilium.Grid{Step: 30, Max: 450}, ConfType: kind, Restricted: 300})
		f.facts.Permits = []string{PermitTail}
		r := must(t, f)
		for g := 0; g < 2; g++ {
			time := vec(get(r, "groups", g, "curve", "time"))
			for i, at := range vec(get(w, "groups", g, "time")) {
				k := slices.Index(time, at)
				for _, what := range []string{"surv", "lower", "upper"} {
					if got := get(r, "groups", g, "curve", what, k); got != nil {
						near(t, what+" "+kind, got.(float64), vec(get(w, "groups", g, what))[i])
					}
				}
			}
			for ours, theirs := range map[string]string{"median": "median", "median_lower": "lower", "median_upper": "upper"} {
				if got, want := get(r, "groups", g, ours), get(w, theirs, g); got != want {
					t.Errorf("%s, group %d: %s %v, R has %v", kind, g, ours, got, want)
				}
			}
			near(t, "rmean", get(r, "groups", g, "rmean").(float64), vec(get(all, "rmean", "rmean"))[g])
			near(t, "rmean_se", get(r, "groups", g, "rmean_se").(float64), vec(get(all, "rmean", "se"))[g])
		}
	}
}

func TestEvaluationReference(t *testing.T) {
	w := reference(t)["auc"].(map[string]any)
	f := patients(t, consilium.AnalysisSpec{Name: "l", Type: consilium.AnalysisGLM, Family: "binomial", Response: &consilium.Response{Column: "any"}, Terms: multi, Evaluate: 20})
	f.facts.Permits = []string{PermitSmallCells}
	e := must(t, f)["evaluation"].(map[string]any)
	near(t, "auc", e["auc"].(float64), w["binned"].(float64))
	near(t, "brier", e["brier"].(float64), w["brier"].(float64))
	if x := w["exact"].(float64); x < e["auc_lower"].(float64) || x > e["auc_upper"].(float64) {
		t.Errorf("R's exact AUC %v is outside [%v, %v]", x, e["auc_lower"], e["auc_upper"])
	}
	var n, observed, expected []float64
	for _, c := range e["calibration"].([]any) {
		n, observed, expected = append(n, get(c, "n").(float64)), append(observed, get(c, "observed").(float64)), append(expected, get(c, "expected").(float64))
	}
	same(t, "calibration_n", n, get(w, "cells", "n"))
	same(t, "calibration_observed", observed, get(w, "cells", "observed"))
	same(t, "calibration_expected", expected, get(w, "cells", "expected"))
	// Without the board's permission no published cell is about fewer than k patients.
	g := patients(t, f.facts.Spec.Analyses[0])
	for _, c := range must(t, g)["evaluation"].(map[string]any)["calibration"].([]any) {
		if v := get(c, "n").(float64); v < 11 {
			t.Errorf("a calibration cell of %v", v)
		}
	}
}

// TestNetReference holds the path against glmnet's, to glmnet's own precision,
// and against the conditions of its objective, to ours.
func TestNetReference(t *testing.T) {
	all := reference(t)["net"].(map[string]any)
	glm := func(family, y string, p consilium.Penalty) consilium.AnalysisSpec {
		return consilium.AnalysisSpec{Name: "net", Type: consilium.AnalysisGLM, Family: family, Response: &consilium.Response{Column: y}, Terms: multi, Penalty: &p}
	}
	poisson := glm("poisson", "ninf", consilium.Penalty{Alpha: 1})
	poisson.Offset = &consilium.Offset{Column: "fu", Log: true}
	for key, a := range map[string]consilium.AnalysisSpec{
		"gaussian": glm("gaussian", "weight", consilium.Penalty{Alpha: 1}),
		"binomial": glm("binomial", "any", consilium.Penalty{Alpha: 0.5}),
		"ridge":    glm("binomial", "any", consilium.Penalty{Alpha: 0}),
		"raw":      glm("binomial", "any", consilium.Penalty{Alpha: 1, Raw: true}),
		"poisson":  poisson,
		"cox":      {Name: "net", Type: consilium.AnalysisCox, Ties: "breslow", Response: survCGD, Terms: multi, Penalty: &consilium.Penalty{Alpha: 0.7}},
	} {
		t.Run(key, func(t *testing.T) {
			w := all[key].(map[string]any)
			a.Penalty.Lambda = vec(w["lambda"])
			f := patients(t, a)
			if names, ok := w["sites"].([]any); ok {
				f.sites = slices.DeleteFunc(f.sites, func(h hospital) bool { return !slices.Contains(names, any(h.name)) })
			}
			f.facts.Permits = []string{PermitSmallLevels}
			r := must(t, f)
			precision := 2e-7
			if key == "cox" {
				precision = 2e-4 // see exact.R; the conditions below are what is exact
			}
			for k, want := range w["coef"].([]any) {
				got := vec(get(r, "path", k, "coef"))
				for j, b := range vec(want) {
					if math.Abs(got[j]-b) > precision*math.Max(1, math.Abs(b)) || key != "cox" && (b == 0) != (got[j] == 0) {
						t.Errorf("lambda %v, coefficient %d: %.12g, glmnet has %.12g", a.Penalty.Lambda[k], j, got[j], b)
					}
				}
			}
			if dev, ok := w["dev"]; ok {
				for k, want := range vec(dev) {
					if got := get(r, "path", k, "dev_ratio").(float64); math.Abs(got-want) > 1e-7 {
						t.Errorf("dev ratio %v, glmnet has %v", got, want)
					}
				}
			}
			t.Logf("%d rounds for %d values of lambda", len(f.opened), len(a.Penalty.Lambda))
			checkKKT(t, f, r)
		})
	}
	// The path's own beginning: the least lambda that leaves no term.
	for key, a := range map[string]consilium.AnalysisSpec{"binomial": glm("binomial", "any", consilium.Penalty{Alpha: 0.5, Steps: 12}), "gaussian": glm("gaussian", "weight", consilium.Penalty{Alpha: 1, Steps: 12})} {
		f := patients(t, a)
		r := must(t, f)
		near(t, "lambda_max", get(r, "path", 0, "lambda").(float64), get(all, "max", key).(float64))
		if get(r, "path", 0, "nonzero") != 0.0 || get(r, "path", 1, "nonzero") == 0.0 {
			t.Errorf("%s: the path begins with %v and %v terms", key, get(r, "path", 0, "nonzero"), get(r, "path", 1, "nonzero"))
		}
	}
}

// checkKKT holds every point of a path against the conditions of its objective
// on the pooled rows, computed without the package's numerics: the slope of the
// log-likelihood per row equals lambda (alpha sign(b) + (1-alpha) b) where b is
// not zero, and is at most lambda alpha where it is.
func checkKKT(t *testing.T, f *federation, r map[string]any) {
	t.Helper()
	a := f.facts.Spec.Analyses[0]
	made, err := New(f.facts, nil)
	if err != nil {
		t.Fatal(err)
	}
	g := made.(*sequence).parts[0].(*penalised).g
	type row struct {
		site              int
		y, off, time, evt float64
		x                 []float64
	}
	var rows []row
	zero, one := make([]float64, g.p()), make([]float64, g.p())
	for j := range one {
		one[j] = 1
	}
	for s, h := range f.sites {
		data, err := readFrame(f.facts.Spec, h.rows, g.reads)
		if err != nil {
			t.Fatal(err)
		}
		x, err := g.d.matrix(data, zero, one)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < data.n; i++ {
			one := row{site: s}
			for j := range x {
				one.x = append(one.x, x[j][i])
			}
			if a.Type == consilium.AnalysisCox {
				one.time, one.evt = data.num["tstop"][i], data.num["status"][i]
			} else {
				one.y = data.num[a.Response.Column][i]
				if a.Offset != nil {
					one.off = math.Log(data.num["fu"][i])
				}
			}
			rows = append(rows, one)
		}
	}
	n := float64(len(rows))
	p := g.p()
	sd := make([]float64, p)
	for j := range sd {
		var s, q float64
		for _, v := range rows {
			s, q = s+v.x[j], q+v.x[j]*v.x[j]
		}
		if sd[j] = math.Sqrt(q/n - s/n*s/n); a.Penalty.Raw {
			sd[j] = 1
		}
	}
	for k := range r["path"].([]any) {
		lambda := get(r, "path", k, "lambda").(float64)
		coef := vec(get(r, "path", k, "coef"))
		slope := make([]float64, len(coef))
		base := len(coef) - p
		eta := make([]float64, len(rows))
		for i, v := range rows {
			eta[i] = v.off
			if base == 1 {
				eta[i] += coef[0]
			}
			for j := range v.x {
				eta[i] += coef[base+j] * v.x[j]
			}
		}
		for i, v := range rows {
			if a.Type == consilium.AnalysisCox {
				if v.evt != 1 {
					continue
				}
				var s0 float64
				s1 := make([]float64, p)
				for l, u := range rows {
					if u.site == v.site && u.time >= v.time {
						s0 += math.Exp(eta[l])
						for j := range s1 {
							s1[j] += math.Exp(eta[l]) * u.x[j]
						}
					}
				}
				for j := range s1 {
					slope[j] += v.x[j] - s1[j]/s0
				}
				continue
			}
			mu := eta[i]
			switch a.Family {
			case "binomial":
				mu = 1 / (1 + math.Exp(-eta[i]))
			case "poisson":
				mu = math.Exp(eta[i])
			}
			if base == 1 {
				slope[0] += v.y - mu
			}
			for j := range v.x {
				slope[base+j] += (v.y - mu) * v.x[j]
			}
		}
		spread := 1.0
		if a.Family == "gaussian" {
			spread = 22
		}
		for j := range slope {
			at := slope[j] / n
			if j < base {
				if math.Abs(at) > 1e-10*spread {
					t.Errorf("lambda %v: the intercept's slope is %.3g", lambda, at)
				}
				continue
			}
			at /= sd[j-base]
			b := coef[j] * sd[j-base]
			want := lambda * (a.Penalty.Alpha*math.Copysign(1, b) + (1-a.Penalty.Alpha)*b)
			if b == 0 && math.Abs(at) > lambda*a.Penalty.Alpha*(1+1e-9) || b != 0 && math.Abs(at-want) > 1e-10*spread {
				t.Errorf("lambda %v, term %d: slope %.12g, want %.12g", lambda, j, at, want)
			}
		}
	}
}

// TestLasso: the plain keys, in the units of the study.
func TestLasso(t *testing.T) {
	a := consilium.AnalysisSpec{Name: "l", Type: consilium.AnalysisGLM, Family: "binomial", Response: &consilium.Response{Column: "any"}, Terms: []string{"age", "steroids", "treat"}, Lasso: 2, Ridge: 0.5}
	r := must(t, patients(t, a))
	if len(r["path"].([]any)) != 1 || len(r["terms"].([]any)) != 4 {
		t.Errorf("%v", r)
	}
}
