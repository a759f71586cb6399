package models

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"consilium"
)

// TestJoinedReference: a common baseline without permission for fine grids is
// R's coxph on times that are moved to the ends of the joined cells; strata
// that take no part are left out of the counts as well as of the fit.
func TestJoinedReference(t *testing.T) {
	b, err := os.ReadFile("testdata/common.json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]map[string]any
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	for key, w := range all {
		name, ok := strings.CutPrefix(key, "joined_")
		if !ok {
			continue
		}
		how := strings.Split(name, "_") // ties, strata
		a := consilium.AnalysisSpec{Name: "cox", Type: consilium.AnalysisCox, Response: survCGD, Ties: how[0], Cluster: "id", PHCheck: "identity", Concordance: true,
			Baseline: &consilium.Baseline{Kind: "common", Grid: &consilium.Grid{Step: 30, Max: 450}}}
		switch how[1] {
		case "none":
			a.Terms = []string{"treat", "age", "sex", "inherit"}
		case "free": // the board permits small levels
			a.Terms = []string{"treat", "age", "sex", "inherit", "steroids", "propylac"}
		case "sex":
			a.Terms, a.Strata = []string{"treat", "age", "inherit"}, []string{"sex"}
		case "five": // k is 5
			a.Terms = []string{"treat", "age", "propylac"}
		case "law":
			a.Terms, a.Strata = []string{"treat", "age"}, []string{"law"}
		}
		f := patients(t, a)
		f.facts.Permits = []string{PermitCommon}
		if how[1] == "five" {
			f.facts.MinCohort = 5
		}
		if how[1] == "free" {
			f.facts.Permits = append(f.facts.Permits, PermitSmallLevels)
		}
		r := must(t, f)
		same(t, key+" coef", terms(r, "coef"), w["coef"])
		same(t, key+" se", terms(r, "se"), w["se"])
		same(t, key+" robust", terms(r, "robust_se"), w["robust"])
		same(t, key+" loglik", vec(r["loglik"]), w["loglik"])
		for ours, theirs := range map[string]string{"rows": "n", "patients": "patients", "events": "events", "clusters": "clusters"} {
			if r[ours] != w[theirs] {
				t.Errorf("%s: %v %s, R has %v", key, r[ours], ours, w[theirs])
			}
		}
		if out := r["suppressed"].([]any); (len(out) > 0) != (w["n"].(float64) < 128) {
			t.Errorf("%s: %v of %v rows are in the fit, and the result says %v", key, w["n"], how[2], out)
		} else {
			t.Logf("%s: %v rows, %v events; left out %v", key, r["rows"], r["events"], out)
		}
		times := 0.0
		for _, b := range r["baseline"].([]any) {
			times += float64(len(b.(map[string]any)["time"].([]any)))
		}
		if times != w["stretches"] {
			t.Errorf("%s: %v stretches, R has %v", key, times, w["stretches"])
		}
	}
	for _, by := range []string{"law", "sex"} {
		a := consilium.AnalysisSpec{Name: "cox", Type: consilium.AnalysisCox, Response: survCGD, Terms: []string{"treat", "age"}, Strata: []string{by}, Concordance: true,
			Baseline: &consilium.Baseline{Kind: "common", Grid: daily}}
		if by == "law" {
			a.Terms = append(a.Terms, "sex")
		}
		f := patients(t, a)
		f.facts.Permits = []string{PermitCommon, PermitFineGrid}
		r := must(t, f)
		w := all["concordance_"+by]
		same(t, "concordance", vec(get(r, "concordance", "concordance")), w["concordance"])
		count := vec(w["count"])
		for i, k := range []string{"concordant", "discordant", "tied_score", "tied_time", "tied_both"} {
			near(t, k, get(r, "concordance", k).(float64), count[i])
		}
	}
}
