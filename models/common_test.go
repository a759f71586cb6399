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
	law := map[string]string{}
	people := cgd(t, "cgd_patient.csv")
	for _, r := range people.rows {
		law[r[people.index("id")]] = r[people.index("law")]
	}
	every := cgd(t, "cgd.csv")
	every.names = append(every.names, "law")
	for i, r := range every.rows {
		every.rows[i] = append(r, law[r[every.index("id")]])
	}
	for key, w := range all {
		name, ok := strings.CutPrefix(key, "joined_")
		if !ok {
			continue
		}
		how := strings.Split(name, "_") // ties, strata, rows
		a := consilium.AnalysisSpec{Name: "cox", Type: consilium.AnalysisCox, Response: survCGD, Terms: multi, Ties: how[0], Cluster: "id", PHCheck: "identity", Concordance: true,
			Baseline: &consilium.Baseline{Kind: "common", Grid: &consilium.Grid{Step: 30, Max: 450}}}
		if how[1] == "law" {
			a.Strata, a.Terms = []string{"law"}, []string{"treat", "sex", "age", "inherit"}
		}
		f := patients(t, a)
		if how[2] == "all" {
			a.Response = &consilium.Response{Start: "tstart", Stop: "tstop", Event: "status"}
			spec := specCGD(a)
			f = newFederation(t, spec, split(t, spec, every, "center", "id"))
		}
		f.facts.Permits = []string{PermitCommon}
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
		if out := r["suppressed"].([]any); (len(out) > 0) != (w["n"].(float64) < float64(map[string]int{"first": 128, "all": 203}[how[2]])) {
			t.Errorf("%s: %v of %v rows are in the fit, and the result says %v", key, w["n"], how[2], out)
		} else {
			t.Logf("%s: %v rows, %v events; left out %v", key, r["rows"], r["events"], out)
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
