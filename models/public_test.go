package models

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"consilium"
)

// Trials that are not the one the package was built on: more hospitals, some of
// one patient; missing values; two endpoints a patient; 4028 rows.

func publicSpec(patient string, columns []consilium.Column, a ...consilium.AnalysisSpec) *consilium.Spec {
	s := specCGD(a...)
	s.Data = consilium.DataRef{Dataset: "public", Patient: patient}
	s.Columns = append([]consilium.Column{{Name: patient, Type: consilium.TypeID}}, columns...)
	return s
}

func TestPublicTrials(t *testing.T) {
	b, err := os.ReadFile("testdata/public/public.json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]map[string]any
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	number := func(name, unit string) consilium.Column {
		return consilium.Column{Name: name, Type: consilium.TypeNumber, Unit: unit}
	}
	flag := func(name string) consilium.Column { return consilium.Column{Name: name, Type: consilium.TypeFlag} }
	levels := func(name string, l ...string) consilium.Column {
		return consilium.Column{Name: name, Type: consilium.TypeLevels, Levels: l}
	}
	whole := func(name string, lo, hi float64) consilium.Column {
		return consilium.Column{Name: name, Type: consilium.TypeInteger, Bounds: &[2]float64{lo, hi}}
	}
	lung := []consilium.Column{number("time", "d"), flag("status"), number("age", "a"), levels("sex", "male", "female"), whole("ph_ecog", 0, 3), number("ph_karno", ""), number("wt_loss", "")}
	dnase := []consilium.Column{flag("trt"), number("fev", ""), number("tstart", "d"), number("tstop", "d"), flag("infect")}
	person := []consilium.Column{flag("trt"), number("fev", ""), whole("infect", 0, 60), number("time", "d"), flag("any")}
	wilms := []consilium.Column{levels("histol", "favourable", "unfavourable"), levels("stage", "1", "2", "3", "4"), whole("study", 3, 4), flag("rel"), number("edrel", "d"), number("age", "mo")}
	colon := []consilium.Column{levels("rx", "Obs", "Lev", "Lev+5FU"), number("age", "a"), flag("sex"), flag("obstruct"), number("nodes", ""), levels("differ", "1", "2", "3"), whole("etype", 1, 2), number("time", "d"), flag("status")}
	surv := func(start, stop, event string) *consilium.Response {
		return &consilium.Response{Start: start, Stop: stop, Event: event}
	}
	common := func(max float64) *consilium.Baseline {
		return &consilium.Baseline{Kind: "common", Grid: &consilium.Grid{Step: 1, Max: max}}
	}
	y := func(c string) *consilium.Response { return &consilium.Response{Column: c} }
	rate := &consilium.Offset{Column: "time", Log: true}
	cox, glm := consilium.AnalysisCox, consilium.AnalysisGLM
	for _, c := range []struct {
		key, file, patient string
		columns            []consilium.Column
		a                  consilium.AnalysisSpec
	}{
		{"lung_site", "lung", "id", lung, consilium.AnalysisSpec{Type: cox, Response: surv("", "time", "status"), Terms: []string{"age", "sex", "ph_karno"}}},
		{"lung_common", "lung", "id", lung, consilium.AnalysisSpec{Type: cox, Response: surv("", "time", "status"), Terms: []string{"age", "sex", "ph_karno", "wt_loss"}, Cluster: "id", Baseline: common(1100)}},
		{"dnase_site", "rhdnase", "id", dnase, consilium.AnalysisSpec{Type: cox, Response: surv("tstart", "tstop", "infect"), Terms: []string{"trt", "fev"}, Cluster: "id"}},
		{"dnase_common", "rhdnase", "id", dnase, consilium.AnalysisSpec{Type: cox, Response: surv("tstart", "tstop", "infect"), Terms: []string{"trt", "fev"}, Cluster: "id", Baseline: common(200)}},
		{"wilms_site", "wilms", "seqno", wilms, consilium.AnalysisSpec{Type: cox, Response: surv("", "edrel", "rel"), Terms: []string{"histol", "stage", "age"}, Strata: []string{"site", "study"}}},
		{"colon_site", "colon", "id", colon, consilium.AnalysisSpec{Type: cox, Response: surv("", "time", "status"), Terms: []string{"rx", "age", "obstruct", "nodes", "differ"}, Strata: []string{"site", "etype"}, Cluster: "id"}},
		{"dnase_poisson", "rhdnase_patient", "id", person, consilium.AnalysisSpec{Type: glm, Family: "poisson", Response: y("infect"), Terms: []string{"trt", "fev"}, Offset: rate, Robust: true}},
		{"dnase_poisson_site", "rhdnase_patient", "id", person, consilium.AnalysisSpec{Type: glm, Family: "poisson", Response: y("infect"), Terms: []string{"trt", "fev", "site"}, Offset: rate}},
		{"dnase_logit", "rhdnase_patient", "id", person, consilium.AnalysisSpec{Type: glm, Family: "binomial", Response: y("any"), Terms: []string{"trt", "fev", "trt:fev"}, Robust: true}},
		{"dnase_nb", "rhdnase_patient", "id", person, consilium.AnalysisSpec{Type: glm, Family: "negative-binomial", Response: y("infect"), Terms: []string{"trt", "fev"}, Offset: rate}},
		{"dnase_mh", "rhdnase_patient", "id", person, consilium.AnalysisSpec{Type: consilium.AnalysisCrosstab, Rows: "trt", Columns: "any", Strata: []string{"site"}}},
		{"wilms_logit", "wilms", "seqno", wilms, consilium.AnalysisSpec{Type: glm, Family: "binomial", Response: y("rel"), Terms: []string{"histol", "stage", "age", "histol:stage"}}},
		{"wilms_piece", "wilms", "seqno", wilms, consilium.AnalysisSpec{Type: cox, Response: surv("", "edrel", "rel"), Terms: []string{"histol", "stage", "age"}, Baseline: &consilium.Baseline{Kind: "piecewise", Cuts: []float64{180, 360, 720, 1800}}}},
		{"lung_linear", "lung", "id", lung, consilium.AnalysisSpec{Type: glm, Family: "gaussian", Response: y("wt_loss"), Terms: []string{"age", "sex", "ph_ecog"}}},
		{"lung_rank", "lung", "id", lung, consilium.AnalysisSpec{Type: consilium.AnalysisLogrank, Response: surv("", "time", "status"), By: []string{"sex"}}},
		{"colon_rank", "colon", "id", colon, consilium.AnalysisSpec{Type: consilium.AnalysisLogrank, Response: surv("", "time", "status"), By: []string{"rx"}, Strata: []string{"site", "etype"}}},
		{"lung_km", "lung", "id", lung, consilium.AnalysisSpec{Type: consilium.AnalysisKaplanMeier, Response: surv("", "time", "status"), By: []string{"sex"}, Grid: &consilium.Grid{Step: 1, Max: 1100}}},
		{"lung_table", "lung", "id", lung, consilium.AnalysisSpec{Type: consilium.AnalysisCrosstab, Rows: "sex", Columns: "ph_ecog"}},
		{"colon_table", "colon", "id", colon, consilium.AnalysisSpec{Type: consilium.AnalysisCrosstab, Rows: "rx", Columns: "differ"}},
		{"lung_t", "lung", "id", lung, consilium.AnalysisSpec{Type: consilium.AnalysisDescribe, Variables: []string{"age"}, By: []string{"sex"}}},
		{"colon_anova", "colon", "id", colon, consilium.AnalysisSpec{Type: consilium.AnalysisDescribe, Variables: []string{"nodes"}, By: []string{"rx"}}},
	} {
		tab := readTable(t, "testdata/public/"+c.file+".csv")
		ties := []string{""}
		if c.a.Type == cox && c.key != "wilms_piece" {
			ties = []string{"efron", "breslow"}
		}
		for _, tie := range ties {
			key := strings.TrimSuffix(c.key+"_"+tie, "_")
			w := all[key]
			if w == nil {
				t.Fatalf("public.json has no %s", key)
			}
			t.Run(key, func(t *testing.T) {
				a := c.a
				a.Name, a.Ties = "main", tie
				if tie != "" {
					a.PHCheck = "identity"
				}
				spec := publicSpec(c.patient, c.columns, a)
				f := newFederation(t, spec, split(t, spec, tab, "site", c.patient))
				f.facts.Permits = []string{PermitCommon, PermitFineGrid, PermitTail, PermitSmallCells, PermitSmallLevels}
				r := must(t, f)
				switch {
				case w["coef"] != nil && a.Type == cox && tie != "":
					same(t, "coef", terms(r, "coef"), w["coef"])
					same(t, "se", terms(r, "se"), w["se"])
					same(t, "p", terms(r, "p"), w["p"])
					same(t, "loglik", vec(r["loglik"]), w["loglik"])
					near(t, "score", statistic(r, "score", "statistic"), w["score"].(float64))
					var chisq []float64
					for _, v := range get(r, "ph_check", "terms").([]any) {
						chisq = append(chisq, get(v, "chisq").(float64))
					}
					same(t, "zph", append(chisq, get(r, "ph_check", "global", "chisq").(float64)), w["zph"])
					if v := vec(w["robust"]); len(v) > 0 {
						same(t, "robust", terms(r, "robust_se"), w["robust"])
					}
					if r["rows"] != w["n"] || r["events"] != w["events"] {
						t.Errorf("%v rows and %v events, R has %v and %v", r["rows"], r["events"], w["n"], w["events"])
					}
				case w["coef"] != nil:
					n := len(terms(r, "coef"))
					skip := 0
					if key == "dnase_poisson_site" {
						skip = 1 // R's intercept is that of its first hospital
					}
					same(t, "coef", terms(r, "coef"), anys(vec(w["coef"])[skip:]))
					same(t, "se", terms(r, "se"), anys(vec(w["se"])[skip:]))
					if v := vec(w["robust"]); len(v) == n {
						same(t, "robust", terms(r, "robust_se"), w["robust"])
					}
					if w["deviance"] != nil && key != "wilms_piece" {
						near(t, "deviance", r["deviance"].(float64), w["deviance"].(float64))
						near(t, "df", r["df_residual"].(float64), w["df"].(float64))
						if key != "dnase_poisson_site" { // R's null model has no hospitals
							near(t, "null_deviance", r["null_deviance"].(float64), w["null"].(float64))
						}
					}
					if w["theta"] != nil {
						near(t, "theta", r["theta"].(float64), w["theta"].(float64))
					}
					if w["r2"] != nil {
						near(t, "r2", r["r_squared"].(float64), w["r2"].(float64))
						near(t, "f", statistic(r, "f", "statistic"), w["f"].(float64))
						same(t, "p", terms(r, "p"), w["p"])
					}
				case w["surv"] != nil:
					k := 0
					for g := range 2 {
						for _, at := range vec(w["time"])[4*g : 4*g+4] {
							for _, what := range []string{"surv", "lower", "upper"} {
								near(t, what, get(r, "groups", g, "curve", what, int(at)).(float64), vec(w[what])[k])
							}
							k++
						}
						near(t, "median", get(r, "groups", g, "median").(float64), vec(w["median"])[g])
					}
				case w["expected"] != nil:
					near(t, "chisq", r["chisq"].(float64), w["chisq"].(float64))
					for g, e := range vec(w["expected"]) {
						near(t, "expected", get(r, "groups", g, "expected").(float64), e)
					}
				case w["or"] != nil:
					near(t, "mh", get(r, "tests", "mantel_haenszel", "statistic").(float64), w["chisq"].(float64))
					near(t, "mh_or", get(r, "tests", "mantel_haenszel", "odds_ratio").(float64), w["or"].(float64))
				case w["chisq"] != nil:
					near(t, "chisq", get(r, "tests", "chisq", "statistic").(float64), w["chisq"].(float64))
					if w["fisher"] != nil {
						near(t, "fisher", get(r, "tests", "fisher", "p").(float64), w["fisher"].(float64))
					}
				case w["df"] != nil:
					for _, k := range []string{"t", "df", "p"} {
						near(t, k, get(r, "variables", 0, "welch", k).(float64), w[k].(float64))
					}
				default:
					for _, k := range []string{"f", "p"} {
						near(t, k, get(r, "variables", 0, "anova", k).(float64), w[k].(float64))
					}
				}
			})
		}
	}
}

func anys(v []float64) []any {
	out := make([]any, len(v))
	for i := range v {
		out[i] = v[i]
	}
	return out
}
