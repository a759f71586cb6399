package models

import (
	"fmt"
	"math"
	"testing"

	"consilium"
)

func columnsCGD() []consilium.Column {
	levels := func(name string, l ...string) consilium.Column {
		return consilium.Column{Name: name, Type: consilium.TypeLevels, Levels: l}
	}
	number := func(name, unit string) consilium.Column {
		return consilium.Column{Name: name, Type: consilium.TypeNumber, Unit: unit}
	}
	flag := func(name string) consilium.Column { return consilium.Column{Name: name, Type: consilium.TypeFlag} }
	return []consilium.Column{
		{Name: "id", Type: consilium.TypeID},
		levels("treat", "placebo", "rIFN-g"), levels("sex", "male", "female"), levels("inherit", "X-linked", "autosomal"),
		levels("law", "FADP", "GDPR", "HIPAA"),
		{Name: "age", Type: consilium.TypeNumber, Unit: "a", Bounds: &[2]float64{0, 120}},
		number("height", "cm"), number("weight", "kg"), flag("steroids"), flag("propylac"),
		number("tstart", "d"), number("tstop", "d"), flag("status"), number("fu", "d"), flag("any"),
		{Name: "ninf", Type: consilium.TypeInteger, Bounds: &[2]float64{0, 7}},
		{Name: "enum", Type: consilium.TypeInteger},
		{Name: "random", Type: consilium.TypeDate},
	}
}

func specCGD(analyses ...consilium.AnalysisSpec) *consilium.Spec {
	return &consilium.Spec{APIVersion: consilium.APIVersion, Kind: "Study", Name: "cgd", Question: "Does gamma interferon reduce serious infections?",
		Data: consilium.DataRef{Dataset: "cgd", Patient: "id"}, Sites: consilium.SiteRule{Min: 3, Missing: "wait"}, Columns: columnsCGD(),
		Analyses: analyses, Privacy: consilium.Privacy{MinCohort: 11}, Rounds: consilium.Rounds{Max: 25, Tolerance: 1e-9, Deadline: 60}}
}

func patients(t testing.TB, analyses ...consilium.AnalysisSpec) *federation {
	spec := specCGD(analyses...)
	return newFederation(t, spec, split(t, spec, cgd(t, "cgd_patient.csv"), "site", "id"))
}

func intervals(t testing.TB, analyses ...consilium.AnalysisSpec) *federation {
	spec := specCGD(analyses...)
	return newFederation(t, spec, split(t, spec, cgd(t, "cgd.csv"), "center", "id"))
}

var multi = []string{"treat", "sex", "age", "inherit", "steroids", "propylac"}

// vec reads a number or a list of numbers.
func vec(v any) []float64 {
	switch v := v.(type) {
	case float64:
		return []float64{v}
	case []any:
		var out []float64
		for _, x := range v {
			out = append(out, x.(float64))
		}
		return out
	}
	return nil
}

func mat(v any) [][]float64 {
	var out [][]float64
	for _, r := range v.([]any) {
		out = append(out, vec(r))
	}
	return out
}

func terms(r map[string]any, key string) []float64 {
	var out []float64
	for _, t := range r["terms"].([]any) {
		if v, ok := t.(map[string]any)[key].(float64); ok {
			out = append(out, v)
		}
	}
	return out
}

func same(t testing.TB, what string, got []float64, want any) {
	t.Helper()
	w := vec(want)
	if len(got) != len(w) || len(w) == 0 {
		t.Errorf("%s: %d values, R has %d", what, len(got), len(w))
		return
	}
	for i := range w {
		near(t, fmt.Sprintf("%s %d", what, i), got[i], w[i])
	}
}

func statistic(r map[string]any, test, key string) float64 {
	return r["tests"].(map[string]any)[test].(map[string]any)[key].(float64)
}

func TestCoxEqualsR(t *testing.T) {
	surv := &consilium.Response{Stop: "tstop", Event: "status"}
	ag := &consilium.Response{Start: "tstart", Stop: "tstop", Event: "status"}
	for _, c := range []struct {
		key  string
		make func(testing.TB, ...consilium.AnalysisSpec) *federation
		spec consilium.AnalysisSpec
	}{
		{"cox_treat_strat_site", patients, consilium.AnalysisSpec{Response: surv, Terms: []string{"treat"}}},
		{"cox_multi_strat_site", patients, consilium.AnalysisSpec{Response: surv, Terms: multi, Strata: []string{"site"}}},
		{"ag_multi_strat_site", intervals, consilium.AnalysisSpec{Response: ag, Terms: multi, Strata: []string{"site"}, Cluster: "id"}},
	} {
		for _, ties := range []string{"breslow", "efron"} {
			key := c.key + "_" + ties
			t.Run(key, func(t *testing.T) {
				c.spec.Name, c.spec.Type, c.spec.Ties = "main", consilium.AnalysisCox, ties
				f := c.make(t, c.spec)
				r := must(t, f)
				var w map[string]any
				truth(t, &w, key)
				robust := w["robust_se"] != nil
				same(t, "coef", terms(r, "coef"), w["coef"])
				same(t, "se", terms(r, "se"), w["se"])
				same(t, "hr", terms(r, "exp_coef"), w["hr"])
				same(t, "z", terms(r, "z"), w["z"])
				same(t, "p", terms(r, "p"), w["p"])
				same(t, "lower", terms(r, "lower"), w["ci_low"])
				same(t, "upper", terms(r, "upper"), w["ci_high"])
				same(t, "loglik", vec(r["loglik"]), []any{w["loglik0"], w["loglik"]})
				near(t, "lrt", statistic(r, "lrt", "statistic"), w["lrt"].(float64))
				near(t, "score", statistic(r, "score", "statistic"), w["score"].(float64))
				near(t, "wald", statistic(r, "wald", "statistic"), w["wald"].(float64))
				for i, row := range mat(r["vcov"]) {
					same(t, "vcov", row, w["vcov"].([]any)[i])
				}
				if robust {
					same(t, "robust_se", terms(r, "robust_se"), w["robust_se"])
					for i, row := range mat(r["robust_vcov"]) {
						same(t, "robust_vcov", row, w["robust_vcov"].([]any)[i])
					}
				}
				if r["rows"] != w["n"] || r["events"] != w["nevent"] || r["patients"] != 128.0 {
					t.Errorf("rows %v, events %v, patients %v", r["rows"], r["events"], r["patients"])
				}
				t.Logf("%d rounds; largest relative differences so far: %v", len(f.opened), worst)
			})
		}
	}
}

func TestGLMEqualsR(t *testing.T) {
	fu := &consilium.Offset{Column: "fu", Log: true}
	for _, c := range []struct {
		key    string
		family string
		y      string
		terms  []string
		offset *consilium.Offset
	}{
		{"logistic_treat", "binomial", "any", []string{"treat"}, nil},
		{"logistic_multi", "binomial", "any", multi, nil},
		{"poisson_treat", "poisson", "ninf", []string{"treat"}, fu},
		{"poisson_multi", "poisson", "ninf", multi, fu},
		{"linear_weight", "gaussian", "weight", []string{"treat", "sex", "age", "height"}, nil},
		{"linear_height", "gaussian", "height", []string{"age", "sex"}, nil},
	} {
		t.Run(c.key, func(t *testing.T) {
			f := patients(t, consilium.AnalysisSpec{Name: "main", Type: consilium.AnalysisGLM, Family: c.family,
				Response: &consilium.Response{Column: c.y}, Terms: c.terms, Offset: c.offset})
			r := must(t, f)
			var w map[string]any
			truth(t, &w, c.key)
			same(t, "coef", terms(r, "coef"), w["coef"])
			same(t, "se", terms(r, "se"), w["se"])
			for i, row := range mat(r["vcov"]) {
				same(t, "vcov", row, w["vcov"].([]any)[i])
			}
			num := func(name, key string) { near(t, name, r[name].(float64), w[key].(float64)) }
			if c.family == "gaussian" {
				same(t, "t", terms(r, "t"), w["t"])
				same(t, "p", terms(r, "p"), w["p"])
				num("sigma", "sigma")
				num("deviance", "rss")
				num("r_squared", "r2")
				num("adj_r_squared", "adj_r2")
				near(t, "f", statistic(r, "f", "statistic"), w["f"].(float64))
				same(t, "fdf", []float64{statistic(r, "f", "df"), statistic(r, "f", "df2")}, w["fdf"])
				near(t, "loglik", vec(r["loglik"])[1], w["loglik"].(float64))
			} else {
				same(t, "z", terms(r, "z"), w["z"])
				same(t, "p", terms(r, "p"), w["p"])
				num("deviance", "deviance")
				num("null_deviance", "null_deviance")
				num("aic", "aic")
				num("pearson_chisq", "pearson_chisq")
				num("df_residual", "df_residual")
				near(t, "loglik", vec(r["loglik"])[1], w["loglik"].(float64))
			}
			if c.key == "poisson_multi" {
				var quasi float64
				truth(t, &quasi, "quasipoisson_multi_dispersion")
				near(t, "quasipoisson", r["pearson_chisq"].(float64)/r["df_residual"].(float64), quasi)
			}
			t.Logf("%d rounds; largest relative differences so far: %v", len(f.opened), worst)
		})
	}
}

func get(v any, path ...any) any {
	for _, p := range path {
		switch k := p.(type) {
		case string:
			v = v.(map[string]any)[k]
		case int:
			v = v.([]any)[k]
		}
	}
	return v
}

func TestKaplanMeierEqualsR(t *testing.T) {
	spec := consilium.AnalysisSpec{Name: "km", Type: consilium.AnalysisKaplanMeier, Response: &consilium.Response{Stop: "tstop", Event: "status"},
		By: []string{"treat"}, Grid: &consilium.Grid{Step: 1, Max: 440}}
	f := patients(t, spec)
	f.facts.Permits = []string{PermitTail, PermitFineGrid}
	r := must(t, f)
	for g, arm := range []string{"treat=placebo", "treat=rIFN-g"} {
		var w struct {
			Time, Surv, Lower, Upper, CumHaz []float64
			NRisk                            []float64 `json:"n_risk"`
			NEvent                           []float64 `json:"n_event"`
			SE                               []float64 `json:"std_err_log"`
		}
		truth(t, &w, "km_first_infection_by_treat", "curves", arm)
		c := get(r, "groups", g, "curve")
		time := vec(get(c, "time"))
		for i, at := range w.Time {
			k := int(at)
			if time[k] != at {
				t.Fatalf("grid point %d is %v", k, time[k])
			}
			near(t, "surv", vec(get(c, "surv"))[k], w.Surv[i])
			near(t, "cumhaz", vec(get(c, "cumhaz"))[k], w.CumHaz[i])
			near(t, "n_risk", vec(get(c, "n_risk"))[k], w.NRisk[i])
			near(t, "n_event", vec(get(c, "n_event"))[k], w.NEvent[i])
			if w.SE[i] > 0 {
				near(t, "std_err", get(c, "std_err", k).(float64), w.SE[i])
			}
		}
	}
	if m := get(r, "groups", 0, "median"); m != 304.0 {
		t.Errorf("median %v, R has 304", m)
	}
	if m := get(r, "groups", 1, "median"); m != nil {
		t.Errorf("median %v, R has none", m)
	}
}

func TestLogrankEqualsR(t *testing.T) {
	surv := &consilium.Response{Stop: "tstop", Event: "status"}
	for _, c := range []struct {
		key    string
		strata []string
		grid   *consilium.Grid
	}{
		{"logrank_strat_site", []string{"site"}, nil},
		{"logrank", nil, &consilium.Grid{Step: 1, Max: 500}},
		{"logrank_strat_law", []string{"law"}, &consilium.Grid{Step: 1, Max: 500}},
	} {
		f := patients(t, consilium.AnalysisSpec{Name: "lr", Type: consilium.AnalysisLogrank, Response: surv, By: []string{"treat"}, Strata: c.strata, Grid: c.grid})
		f.facts.Permits = []string{PermitFineGrid}
		r := must(t, f)
		var w map[string]any
		truth(t, &w, c.key)
		near(t, "chisq", r["chisq"].(float64), w["chisq"].(float64))
		near(t, "p", r["p"].(float64), w["p"].(float64))
		for g := 0; g < 2; g++ {
			near(t, "observed", get(r, "groups", g, "observed").(float64), vec(w["observed"])[g])
			near(t, "expected", get(r, "groups", g, "expected").(float64), vec(w["expected"])[g])
			near(t, "n", get(r, "groups", g, "n").(float64), vec(w["n"])[g])
			same(t, "var", mat(r["var"])[g], w["var"].([]any)[g])
		}
	}
}

func TestDescribeEqualsR(t *testing.T) {
	hist := map[string][]float64{}
	vars := []string{"age", "height", "weight", "fu", "ninf"}
	for _, v := range vars {
		var b []float64
		truth(t, &b, "desc", v, "hist_left_closed", "breaks")
		hist[v] = b
	}
	probs := []float64{0.05, 0.25, 0.5, 0.75, 0.95}
	all := consilium.AnalysisSpec{Name: "all", Type: consilium.AnalysisDescribe, Variables: append(vars, "sex"), Histogram: hist, Quantiles: probs}
	arms := consilium.AnalysisSpec{Name: "arms", Type: consilium.AnalysisDescribe, Variables: []string{"age", "weight", "height"}, By: []string{"treat"}}
	f := patients(t, all, arms)
	f.facts.Permits = []string{PermitSmallCells}
	r := must(t, f)
	if len(f.opened) != 1 {
		t.Errorf("%d rounds for two summaries, want one", len(f.opened))
	}
	for i, v := range vars {
		var w map[string]any
		truth(t, &w, "desc", v)
		g := get(r, "analyses", 0, "variables", i, "groups", 0)
		for _, k := range []string{"n", "mean", "var", "sd"} {
			near(t, k, get(g, k).(float64), w[k].(float64))
		}
		same(t, "hist", vec(get(g, "histogram", "counts")), get(w, "hist_left_closed", "counts"))
		for q, key := range []string{"5%", "25%", "50%", "75%", "95%"} {
			want := get(w, "quantile_type1", key).(float64)
			lo, hi := get(g, "quantiles", q, "lower").(float64), get(g, "quantiles", q, "upper").(float64)
			if want < lo || want >= hi {
				t.Errorf("%s %s: R has %v, outside [%v, %v)", v, key, want, lo, hi)
			}
		}
	}
	for i, v := range []string{"age", "weight", "height"} {
		for g, arm := range []string{"placebo", "rIFN-g"} {
			var w map[string]any
			truth(t, &w, "desc_by_arm", arm, v)
			got := get(r, "analyses", 1, "variables", i, "groups", g)
			for _, k := range []string{"n", "mean", "var", "sd"} {
				near(t, k, get(got, k).(float64), w[k].(float64))
			}
		}
		if v == "height" {
			continue
		}
		var w map[string]any
		truth(t, &w, "ttest", v+"_by_treat")
		for _, kind := range []string{"welch", "student"} {
			got := get(r, "analyses", 1, "variables", i, kind)
			for _, k := range []string{"t", "df", "p"} {
				near(t, kind+"_"+k, get(got, k).(float64), get(w, kind, k).(float64))
			}
		}
		same(t, "ci", []float64{get(r, "analyses", 1, "variables", i, "welch", "lower").(float64), get(r, "analyses", 1, "variables", i, "welch", "upper").(float64)}, get(w, "welch", "ci"))
	}
}

func TestCrosstabEqualsR(t *testing.T) {
	for _, c := range []struct {
		key, rows, cols string
		strata          []string
		mh              string
	}{
		{"treat_any", "treat", "any", []string{"site"}, "mantel_haenszel_by_site"},
		{"treat_any", "treat", "any", []string{"law"}, "mantel_haenszel_by_law"},
		{"treat_sex", "treat", "sex", nil, ""},
		{"treat_inherit", "treat", "inherit", nil, ""},
		{"inherit_any", "inherit", "any", nil, ""},
		{"treat_ninf", "treat", "ninf", nil, ""},
		{"law_any", "law", "any", nil, ""},
	} {
		f := patients(t, consilium.AnalysisSpec{Name: "tab", Type: consilium.AnalysisCrosstab, Rows: c.rows, Columns: c.cols, Strata: c.strata})
		f.facts.Permits = []string{PermitSmallCells}
		r := must(t, f)
		var w map[string]any
		truth(t, &w, "tables", c.key)
		near(t, "chisq", get(r, "tests", "chisq", "statistic").(float64), w["chisq"].(float64))
		near(t, "p", get(r, "tests", "chisq", "p").(float64), w["p"].(float64))
		near(t, "fisher", get(r, "tests", "fisher", "p").(float64), w["fisher_p"].(float64))
		for i, row := range get(r, "expected").([]any) {
			same(t, "expected", vec(row), w["expected"].([]any)[i])
		}
		if w["chisq_yates"] != nil {
			near(t, "yates", get(r, "tests", "chisq_yates", "statistic").(float64), w["chisq_yates"].(float64))
			near(t, "yates_p", get(r, "tests", "chisq_yates", "p").(float64), w["p_yates"].(float64))
			near(t, "or", r["odds_ratio"].(float64), w["odds_ratio"].(float64))
			near(t, "rr", r["risk_ratio"].(float64), w["risk_ratio_row2_over_row1_col2"].(float64))
			// R finds these by uniroot with a tolerance of 1.2e-4.
			for key, want := range map[string]float64{"odds_ratio": w["fisher_or"].(float64), "lower": vec(w["fisher_ci"])[0], "upper": vec(w["fisher_ci"])[1]} {
				if got := get(r, "tests", "fisher", key).(float64); math.Abs(got/want-1) > 2e-4 {
					t.Errorf("%s: Fisher %s %v, R has %v", c.key, key, got, want)
				}
			}
		}
		if c.mh != "" {
			var m map[string]any
			truth(t, &m, c.mh)
			got := get(r, "tests", "mantel_haenszel")
			near(t, "mh", get(got, "statistic").(float64), m["chisq"].(float64))
			near(t, "mh_p", get(got, "p").(float64), m["p"].(float64))
			near(t, "mh_or", get(got, "odds_ratio").(float64), m["common_or"].(float64))
			same(t, "mh_ci", []float64{get(got, "lower").(float64), get(got, "upper").(float64)}, m["ci"])
		}
	}
}

func TestSingleHospitalCox(t *testing.T) {
	spec := consilium.AnalysisSpec{Name: "cox", Type: consilium.AnalysisCox, Response: &consilium.Response{Stop: "tstop", Event: "status"}, Terms: []string{"treat"}}
	all := patients(t, spec)
	for _, h := range all.sites {
		var w map[string]any
		truth(t, &w, "single_site_cox", h.name)
		f := newFederation(t, all.facts.Spec, []hospital{h})
		f.facts.MinCohort, f.facts.Permits = 1, []string{PermitSmallLevels}
		r, err := f.run()
		if err != nil {
			t.Fatal(err)
		}
		if w["cox_estimable"] == false {
			if r.Problem == nil {
				t.Errorf("%s: R finds no estimate, we did: %s", h.name, r.JSON)
			} else {
				t.Logf("%s: %v", h.name, r.Problem)
			}
			continue
		}
		if r.Problem != nil {
			t.Errorf("%s: %v", h.name, r.Problem)
			continue
		}
		// On a dozen patients R's coxph stops at its own tolerance (1e-9 of the
		// log-likelihood), some 3e-9 from the maximum in a coefficient.
		m := decode(t, r)
		for _, key := range []string{"coef", "se", "p"} {
			if got, want := terms(m, key)[0], w[key].(float64); math.Abs(got/want-1) > 1e-8 {
				t.Errorf("%s: %s %.17g, R has %.17g", h.name, key, got, want)
			}
		}
	}
}
