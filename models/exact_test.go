package models

import (
	"math"
	"strings"
	"testing"

	"consilium"
)

// The rest of truth.json: which key which test uses is listed in
// TestEveryTruthKey.

var daily = &consilium.Grid{Step: 1, Max: 500}

// coxTruth are the Cox models of the truth file, by key without ties.
var coxTruth = []struct {
	key       string
	intervals bool
	spec      consilium.AnalysisSpec
}{
	{"cox_treat", false, consilium.AnalysisSpec{Terms: []string{"treat"}, Baseline: &consilium.Baseline{Kind: "common", Grid: daily}}},
	{"cox_multi", false, consilium.AnalysisSpec{Terms: multi, Baseline: &consilium.Baseline{Kind: "common", Grid: daily}}},
	{"cox_full", false, consilium.AnalysisSpec{Terms: []string{"treat", "sex", "age", "height", "weight", "inherit", "steroids", "propylac"}, Baseline: &consilium.Baseline{Kind: "common", Grid: daily}}},
	{"cox_treat_strat_law", false, consilium.AnalysisSpec{Terms: []string{"treat"}, Strata: []string{"law"}, Baseline: &consilium.Baseline{Kind: "common", Grid: daily}}},
	{"cox_multi_strat_law", false, consilium.AnalysisSpec{Terms: multi, Strata: []string{"law"}, Baseline: &consilium.Baseline{Kind: "common", Grid: daily}}},
	{"cox_treat_strat_site", false, consilium.AnalysisSpec{Terms: []string{"treat"}}},
	{"cox_multi_strat_site", false, consilium.AnalysisSpec{Terms: multi}},
	{"ag_treat", true, consilium.AnalysisSpec{Terms: []string{"treat"}, Cluster: "id", Baseline: &consilium.Baseline{Kind: "common", Grid: daily}}},
	{"ag_multi", true, consilium.AnalysisSpec{Terms: multi, Cluster: "id", Baseline: &consilium.Baseline{Kind: "common", Grid: daily}}},
	{"ag_multi_cluster_site", true, consilium.AnalysisSpec{Terms: multi, Cluster: "site", Baseline: &consilium.Baseline{Kind: "common", Grid: daily}}},
	{"ag_multi_strat_site", true, consilium.AnalysisSpec{Terms: multi, Cluster: "id"}},
	{"pwp_strat_enum", true, consilium.AnalysisSpec{Terms: []string{"treat"}, Strata: []string{"enum"}, Cluster: "id", Baseline: &consilium.Baseline{Kind: "common", Grid: daily}}},
}

func TestCoxTruth(t *testing.T) {
	var all map[string]any
	truth(t, &all)
	surv := &consilium.Response{Stop: "tstop", Event: "status"}
	ag := &consilium.Response{Start: "tstart", Stop: "tstop", Event: "status"}
	for _, c := range coxTruth {
		for _, ties := range []string{"breslow", "efron"} {
			key := c.key + "_" + ties
			want, ok := all[key].(map[string]any)
			if !ok {
				t.Logf("truth.json has no %s", key)
				continue
			}
			t.Run(key, func(t *testing.T) {
				a := c.spec
				a.Name, a.Type, a.Ties, a.Response, a.PHCheck, a.Concordance = "main", consilium.AnalysisCox, ties, surv, "identity", true
				make := patients
				if c.intervals {
					a.Response, make = ag, intervals
				}
				f := make(t, a)
				if c.key == "pwp_strat_enum" {
					// The truth leaves out what follows the third infection, at the
					// least strata that have events of both arms.
					f = pwp(t, a, int(want["n"].(float64)))
				}
				f.facts.Permits = []string{PermitCommon, PermitFineGrid}
				compareCox(t, must(t, f), want, a.Baseline == nil)
			})
		}
	}
}

// pwp keeps the intervals that the truth has: `enum` up to the value that
// leaves n rows.
func pwp(t *testing.T, a consilium.AnalysisSpec, n int) *federation {
	tab := cgd(t, "cgd.csv")
	at := tab.index("enum")
	for most := 1; most <= 8; most++ {
		cut := &table{names: tab.names}
		for _, r := range tab.rows {
			if int(r[at][0]-'0') <= most {
				cut.rows = append(cut.rows, r)
			}
		}
		if len(cut.rows) == n {
			spec := specCGD(a)
			for i := range spec.Columns {
				if spec.Columns[i].Name == "enum" {
					spec.Columns[i].Bounds = &[2]float64{1, float64(most)}
				}
			}
			return newFederation(t, spec, split(t, spec, cut, "center", "id"))
		}
	}
	t.Fatalf("no number of intervals leaves %d rows", n)
	return nil
}

func compareCox(t *testing.T, r, w map[string]any, within bool) {
	t.Helper()
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
	if w["robust_se"] != nil {
		same(t, "robust_se", terms(r, "robust_se"), w["robust_se"])
		for i, row := range mat(r["robust_vcov"]) {
			same(t, "robust_vcov", row, w["robust_vcov"].([]any)[i])
		}
	}
	if r["rows"] != w["n"] || r["events"] != w["nevent"] {
		t.Errorf("rows %v, events %v", r["rows"], r["events"])
	}
	var chisq, p []float64
	for _, v := range get(r, "ph_check", "terms").([]any) {
		chisq, p = append(chisq, get(v, "chisq").(float64)), append(p, get(v, "p").(float64))
	}
	chisq, p = append(chisq, get(r, "ph_check", "global", "chisq").(float64)), append(p, get(r, "ph_check", "global", "p").(float64))
	same(t, "zph", chisq, get(w, "zph_identity", "chisq"))
	same(t, "zph_p", p, get(w, "zph_identity", "p"))
	// Within hospitals the concordance is R's of the model stratified by them.
	if within {
		c := w["concordance_counts"].(map[string]any)
		for ours, theirs := range map[string]string{"concordant": "concordant", "discordant": "discordant", "tied_score": "tied.x", "tied_time": "tied.y", "tied_both": "tied.xy", "concordance": "concordance"} {
			near(t, ours, get(r, "concordance", ours).(float64), c[theirs].(float64))
		}
		// With clusters R sums the influence by cluster; ours is by row.
		if w["robust_se"] == nil {
			near(t, "concordance_se", get(r, "concordance", "se").(float64), c["std"].(float64))
		}
		return
	}
	// basehaz() is at R's means: those of a column, but zero for columns of 0 and 1.
	b, ok := w["basehaz"].(map[string]any)
	if !ok {
		t.Error("no basehaz")
		return
	}
	time, hazard := vec(b["time"]), vec(b["hazard"])
	strata, _ := b["strata"].([]any)
	shift := math.NaN()
	for i := range time {
		k := 0
		if strata != nil {
			for k = range r["baseline"].([]any) {
				name, _ := get(r, "baseline", k, "stratum").(string)
				if i2 := strings.IndexByte(name, ':'); strings.HasSuffix(strata[i].(string), "="+name[i2+1:]) || strata[i] == name[i2+1:] {
					break
				}
			}
		}
		have := math.NaN()
		for j, at := range vec(get(r, "baseline", k, "time")) {
			if at <= time[i] {
				have = vec(get(r, "baseline", k, "cumhaz"))[j]
			}
		}
		if hazard[i] == 0 {
			if have == have {
				t.Errorf("a baseline hazard %v before the first event", have)
			}
			continue
		}
		if shift != shift {
			shift = hazard[i] / have
		}
		near(t, "basehaz", have*shift, hazard[i])
	}
}

func TestPetoTruth(t *testing.T) {
	f := patients(t, consilium.AnalysisSpec{Name: "lr", Type: consilium.AnalysisLogrank, Response: &consilium.Response{Stop: "tstop", Event: "status"},
		By: []string{"treat"}, Grid: daily, Weights: &consilium.Weights{Rho: 1}})
	f.facts.Permits = []string{PermitFineGrid}
	r := must(t, f)
	var w map[string]any
	truth(t, &w, "peto")
	near(t, "chisq", r["chisq"].(float64), w["chisq"].(float64))
	near(t, "p", r["p"].(float64), w["p"].(float64))
	for g := 0; g < 2; g++ {
		near(t, "observed", get(r, "groups", g, "observed").(float64), vec(w["observed"])[g])
		near(t, "expected", get(r, "groups", g, "expected").(float64), vec(w["expected"])[g])
		same(t, "var", mat(r["var"])[g], w["var"].([]any)[g])
	}
}

func TestRankTruth(t *testing.T) {
	f := patients(t, consilium.AnalysisSpec{Name: "tab", Type: consilium.AnalysisCrosstab, Rows: "treat", Columns: "ninf"})
	f.facts.Permits = []string{PermitSmallCells}
	r := must(t, f)
	var w, k map[string]float64
	truth(t, &w, "wilcoxon_ninf_by_treat")
	truth(t, &k, "kruskal_ninf_by_treat")
	near(t, "wilcoxon", get(r, "tests", "wilcoxon", "statistic").(float64), w["w"])
	near(t, "wilcoxon_p", get(r, "tests", "wilcoxon", "p").(float64), w["p"])
	near(t, "kruskal", get(r, "tests", "kruskal", "statistic").(float64), k["h"])
	near(t, "kruskal_p", get(r, "tests", "kruskal", "p").(float64), k["p"])
}

func TestHospitalsTruth(t *testing.T) {
	f := patients(t, consilium.AnalysisSpec{Name: "d", Type: consilium.AnalysisDescribe, Variables: []string{"age"}, By: []string{"site"}})
	r := must(t, f)
	var w map[string]any
	truth(t, &w, "anova_age_by_site")
	a := get(r, "variables", 0, "anova")
	near(t, "anova_f", get(a, "f").(float64), w["f"].(float64))
	near(t, "anova_p", get(a, "p").(float64), w["p"].(float64))
	same(t, "anova_df", vec(get(a, "df")), w["df"])
	same(t, "anova_ss", vec(get(a, "ss")), w["ss"])
	if g := get(r, "variables", 0, "groups").([]any); len(g) != 1 {
		t.Errorf("%d groups are published, want the pooled one alone", len(g))
	}
}

// TestKaplanMeierTruth: R's default limits (conf.type log), the error of the
// cumulative hazard, medians and restricted means.
func TestKaplanMeierTruth(t *testing.T) {
	for key, by := range map[string][]string{"km_first_infection_by_treat": {"treat"}, "km_first_infection_all": nil} {
		var w map[string]any
		truth(t, &w, key)
		groups := []string{"all"}
		if by != nil {
			groups = []string{"treat=placebo", "treat=rIFN-g"}
		}
		last := 0.0
		for _, g := range groups {
			time := vec(get(w, "curves", g, "time"))
			last = math.Max(last, time[len(time)-1])
		}
		f := patients(t, consilium.AnalysisSpec{Name: "km", Type: consilium.AnalysisKaplanMeier, Response: &consilium.Response{Stop: "tstop", Event: "status"},
			By: by, Grid: &consilium.Grid{Step: 1, Max: 440}, ConfType: "log", Restricted: last})
		f.facts.Permits = []string{PermitTail, PermitFineGrid}
		r := must(t, f)
		for g, name := range groups {
			c, have := get(w, "curves", name), get(r, "groups", g, "curve")
			for i, at := range vec(get(c, "time")) {
				k := int(at)
				for ours, theirs := range map[string]string{"surv": "surv", "lower": "lower", "upper": "upper", "n_risk": "n_risk", "n_event": "n_event", "n_censor": "n_censor", "cumhaz": "cumhaz", "std_chaz": "std_chaz"} {
					near(t, ours, vec(get(have, ours))[k], vec(get(c, theirs))[i])
				}
				if se := vec(get(c, "std_err_log"))[i]; se > 0 {
					near(t, "std_err", get(have, "std_err", k).(float64), se)
				}
			}
			for ours, theirs := range map[string]string{"median": "median", "median_lower": "median_lcl", "median_upper": "median_ucl", "events": "events", "rmean": "rmean"} {
				want := get(w, theirs, name)
				if got := get(r, "groups", g, ours); want == nil || got == nil {
					if want != got {
						t.Errorf("%s %s: %v, R has %v", name, ours, got, want)
					}
				} else {
					near(t, ours, got.(float64), want.(float64))
				}
			}
		}
	}
}

// TestEveryTruthKey says which test uses which key of truth.json, and what is
// no analysis of ours.
func TestEveryTruthKey(t *testing.T) {
	var all map[string]any
	truth(t, &all)
	used := map[string]string{
		"desc": "TestDescribeEqualsR", "desc_by_arm": "TestDescribeEqualsR", "ttest": "TestDescribeEqualsR", "tables": "TestCrosstabEqualsR",
		"negbin_treat": "TestNegativeBinomialTruth", "negbin_multi": "TestNegativeBinomialTruth",
		"mantel_haenszel_by_site": "TestCrosstabEqualsR", "mantel_haenszel_by_law": "TestCrosstabEqualsR",
		"anova_age_by_site": "TestHospitalsTruth", "wilcoxon_ninf_by_treat": "TestRankTruth", "kruskal_ninf_by_treat": "TestRankTruth",
		"km_first_infection_by_treat": "TestKaplanMeierTruth", "km_first_infection_all": "TestKaplanMeierTruth",
		"logrank": "TestLogrankEqualsR", "logrank_strat_site": "TestLogrankEqualsR", "logrank_strat_law": "TestLogrankEqualsR", "peto": "TestPetoTruth",
		"logistic_treat": "TestGLMEqualsR", "logistic_multi": "TestGLMEqualsR", "poisson_treat": "TestGLMEqualsR", "poisson_multi": "TestGLMEqualsR",
		"linear_weight": "TestGLMEqualsR", "linear_height": "TestGLMEqualsR", "quasipoisson_multi_dispersion": "TestGLMEqualsR",
		"single_site_cox": "TestSingleHospitalCox",
	}
	for _, c := range coxTruth {
		for _, ties := range []string{"breslow", "efron"} {
			used[c.key+"_"+ties] = "TestCoxTruth"
		}
	}
	not := map[string]string{
		"patients": "a count, checked with every fit", "per_site": "one hospital's own counts are never opened", "per_law": "described by the table law_any",

		"cor": "no analysis publishes correlations", "meta_cox": "what federation replaces: a meta-analysis of hospitals' own fits",
		"published": "the trial's publication, quoted in the demonstration", "_meta": "versions",
	}
	for key := range all {
		if used[key] == "" && not[key] == "" {
			t.Errorf("truth.json: no test uses %s", key)
		}
	}
	for key, test := range used {
		if all[key] == nil && !strings.HasPrefix(test, "TestCox") {
			t.Errorf("%s reads %s, which truth.json does not have", test, key)
		}
	}
}

func TestNegativeBinomialTruth(t *testing.T) {
	for key, vars := range map[string][]string{"negbin_treat": {"treat"}, "negbin_multi": multi} {
		f := patients(t, consilium.AnalysisSpec{Name: "nb", Type: consilium.AnalysisGLM, Family: "negative-binomial", Response: &consilium.Response{Column: "ninf"},
			Terms: vars, Offset: &consilium.Offset{Column: "fu", Log: true}})
		r := must(t, f)
		var w map[string]any
		truth(t, &w, key)
		same(t, "coef", terms(r, "coef"), w["coef"])
		same(t, "se", terms(r, "se"), w["se"])
		same(t, "z", terms(r, "z"), w["z"])
		same(t, "p", terms(r, "p"), w["p"])
		near(t, "theta", r["theta"].(float64), w["theta"].(float64))
		// MASS tells the error of theta at its last iterate but one; at the
		// estimate itself TestNegativeBinomialReference holds it to 1e-9.
		if got, want := r["se_theta"].(float64), w["se_theta"].(float64); math.Abs(got/want-1) > 2e-6 {
			t.Errorf("se_theta %v, R has %v", got, want)
		}
		near(t, "twologlik", 2*vec(r["loglik"])[1], w["twologlik"].(float64))
		near(t, "deviance", r["deviance"].(float64), w["deviance"].(float64))
		t.Logf("%d rounds", len(f.opened))
	}
}
