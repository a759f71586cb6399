package federation_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"consilium"
	"consilium/examples/cgd"
	"consilium/internal/federation"
	"consilium/internal/seal"
	"consilium/internal/studyfile"
	"consilium/internal/table"
	"consilium/policy"
)

// exactStudy holds one analysis of every type and option on the trial's
// patients.
var exactStudy = string(cgd.Read("every-type.yaml"))

func parseExact(t testing.TB, study string) *studyfile.File {
	t.Helper()
	purpose := policy.DefaultPurpose()
	file, err := studyfile.ParseWith([]byte(study), studyfile.Options{Simulate: true, Purpose: &purpose})
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func openSites(t testing.TB, src []byte, column string) (facts consilium.Facts, out []federation.PlainSite) {
	t.Helper()
	parts, err := table.Split(src, column)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		facts.Sites = append(facts.Sites, p.ID)
		out = append(out, federation.PlainSite{ID: p.ID, CSV: p.CSV})
	}
	return facts, out
}

// TestExactEncrypted: every type through encryption gives the same bytes as in
// the open.
func TestExactEncrypted(t *testing.T) {
	file := parseExact(t, exactStudy)
	facts, sites := openSites(t, cgd.Read("cgd_patient.csv"), "site")
	facts.Spec, facts.MinCohort, facts.Permits = file.Spec, file.Spec.Privacy.MinCohort, file.Spec.Privacy.Permits
	var keys []*seal.Key
	for range sites {
		k, err := seal.Generate()
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	open, err := federation.Plain(t.Context(), facts, sites, false)
	if err != nil {
		t.Fatal(err)
	}
	if open.Problem != nil {
		t.Fatal(open.Problem)
	}
	under, err := federation.PlainWith(t.Context(), facts, sites, false, newSealed(t, facts.Sites, keys).sum)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(open.JSON, under.JSON) {
		t.Error("encrypted sums give another result")
	}
}

// TestExactResplit: what does not depend on hospitals is the same, however the
// patients are spread over them, on 60 draws of the trial's patients.
func TestExactResplit(t *testing.T) {
	file := parseExact(t, exactStudy)
	var keep []consilium.AnalysisSpec
	for _, a := range file.Spec.Analyses {
		switch a.Name {
		case "nb", "net", "linear-net", "logit", "piece", "common", "km", "pooled-peto", "arms", "counts":
			keep = append(keep, a)
		}
	}
	file.Spec.Analyses = keep
	lines := strings.Split(strings.TrimSpace(string(cgd.Read("cgd_patient.csv"))), "\n")
	answered := 0
	for seed := range 60 {
		draws := make([][]string, 2)
		state := uint64(seed)*2862933555777941757 + 3037000493
		next := func(n int) int {
			state = state*6364136223846793005 + 1442695040888963407
			return int(state>>33) % n
		}
		for _, l := range lines[1:] {
			if next(5) == 0 {
				continue // another cohort in every draw
			}
			for k, n := range []int{3 + seed%9, 3} {
				draws[k] = append(draws[k], fmt.Sprintf("h%d,%s", next(n), l))
			}
		}
		var docs [2]any
		for k, rows := range draws {
			facts, sites := openSites(t, []byte("hospital,"+lines[0]+"\n"+strings.Join(rows, "\n")+"\n"), "hospital")
			facts.Spec, facts.MinCohort, facts.Permits = file.Spec, file.Spec.Privacy.MinCohort, file.Spec.Privacy.Permits
			res, err := federation.Plain(t.Context(), facts, sites, false)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if err := json.Unmarshal(res.JSON, &docs[k]); err != nil {
				t.Fatal(err)
			}
			if res.Problem == nil {
				answered++
			}
		}
		differ(t, fmt.Sprintf("seed %d", seed), docs[0], docs[1])
	}
	if answered < 60 {
		t.Errorf("only %d of 120 studies have every answer: the draw says little", answered)
	}
}

// differ reports where two documents differ by more than 1e-8 relative.
func differ(t *testing.T, at string, a, b any) {
	t.Helper()
	switch x := a.(type) {
	case map[string]any:
		y, _ := b.(map[string]any)
		if len(x) != len(y) {
			t.Errorf("%s: %d keys and %d", at, len(x), len(y))
			return
		}
		for k := range x {
			// Numbers of steps may differ by one at the floor of the arithmetic.
			if k != "iterations" && k != "warnings" {
				differ(t, at+"/"+k, x[k], y[k])
			}
		}
	case []any:
		y, _ := b.([]any)
		if len(x) != len(y) {
			t.Errorf("%s: %d items and %d", at, len(x), len(y))
			return
		}
		for i := range x {
			differ(t, fmt.Sprintf("%s/%d", at, i), x[i], y[i])
		}
	case float64:
		y, ok := b.(float64)
		if !ok || math.Abs(x-y) > 1e-8*math.Max(math.Abs(x), math.Abs(y))+1e-11 {
			t.Errorf("%s: %v and %v", at, a, b)
		}
	default:
		if a != b {
			t.Errorf("%s: %v and %v", at, a, b)
		}
	}
}

// TestScanExample runs the study of examples/gwas over its table, in plain sums,
// and holds the result against what its study file says to expect.
func TestScanExample(t *testing.T) {
	study, err := os.ReadFile("../../examples/gwas/scan.yaml")
	if err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile("../../examples/gwas/genotypes.csv")
	if err != nil {
		t.Fatal(err)
	}
	file := parseExact(t, string(study))
	facts, sites := openSites(t, src, "hospital")
	facts.Spec, facts.MinCohort, facts.Permits = file.Spec, file.Spec.Privacy.MinCohort, file.Spec.Privacy.Permits
	res, err := federation.Plain(t.Context(), facts, sites, false)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Analyses []struct {
			Name     string
			Tested   int
			Left     map[string]int `json:"left_out"`
			Variants []struct {
				Name string
				P    *float64
				Freq float64
			}
		}
	}
	if err := json.Unmarshal(res.JSON, &doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.Analyses) != 2 || doc.Analyses[0].Name != "affected" || doc.Analyses[1].Name != "marker" {
		t.Fatalf("want the scans affected and marker: %s", res.JSON)
	}
	for _, a := range doc.Analyses {
		if a.Tested < 49 || len(a.Variants) != a.Tested || a.Left["hwe"] != 1 || a.Left["call_rate"] != 1 || a.Left["carriers"]+a.Left["maf"] != 58-a.Tested || a.Left["carriers"]+a.Left["maf"] < 3 {
			t.Errorf("%s: %d tested, %d told, left out %v", a.Name, a.Tested, len(a.Variants), a.Left)
		}
		p := map[string]float64{}
		for _, v := range a.Variants {
			if v.P == nil {
				t.Errorf("%s: %s has no p", a.Name, v.Name)
				continue
			}
			p[v.Name] = *v.P
		}
		for _, v := range []string{"rs007", "rs023"} {
			if x, ok := p[v]; !ok || !(x < 0.05/60) {
				t.Errorf("%s: %s does not stand out: p %g", a.Name, v, x)
			}
		}
		for _, v := range []string{"rs057", "rs058"} {
			if x, ok := p[v]; ok {
				t.Errorf("%s: %s is tested, with p %g", a.Name, v, x)
			}
		}
		others := 0
		for name, x := range p {
			if name != "rs007" && name != "rs023" && x < 0.05/60 {
				others++
			}
		}
		if others > 1 {
			t.Errorf("%s: %d other variants stand out", a.Name, others)
		}
	}
}

// TestPrivateEncrypted: noise and all, the encrypted sums are the plain ones.
func TestPrivateEncrypted(t *testing.T) {
	study := strings.Replace(strings.Replace(exactStudy[:strings.Index(exactStudy, "  analyses:")], "sites: {min: 5", "sites: {min: 8", 1), "permits: [cox-common-baseline, small-levels, small-cells]", "min_cohort: 11, dp: {epsilon: 400, delta: 1e-6, clip: 1}", 1) + `  analyses:
    - {name: counts, type: crosstab, rows: treat, columns: any}
    - {name: km, type: kaplan-meier, formula: "Surv(tstop, status) ~ treat", grid: {step: 60, max: 420}}
    - {name: arms, type: describe, variables: [age, weight], by: [treat]}
    - {name: lin, type: glm, family: gaussian, formula: weight ~ age}
    - {name: odds, type: glm, family: binomial, formula: any ~ treat}
    - {name: rate, type: glm, family: poisson, formula: ninf ~ treat + offset(log(fu))}
    - {name: hazard, type: cox, formula: "Surv(tstop, status) ~ treat", baseline: {piecewise: {cuts: [180]}}}
    - {name: network, type: train, response: any, features: [treat, age, weight], model: {layers: [{dense: 4}, tanh, {dense: 1}], loss: logistic}, strategy: {name: fedadam, rounds: 4}, holdout: 0.3}
`
	file := parseExact(t, study)
	facts, sites := openSites(t, cgd.Read("cgd_patient.csv"), "site")
	facts.Spec, facts.MinCohort, facts.Permits = file.Spec, file.Spec.Privacy.MinCohort, file.Spec.Privacy.Permits
	var keys []*seal.Key
	for range sites {
		k, err := seal.Generate()
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	open, err := federation.Plain(t.Context(), facts, sites, false)
	if err != nil {
		t.Fatal(err)
	}
	under, err := federation.PlainWith(t.Context(), facts, sites, false, newSealed(t, facts.Sites, keys).sum)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(open.JSON, under.JSON) {
		t.Error("encrypted sums give another result")
	}
	if n := bytes.Count(open.JSON, []byte(`"averaged":4`)); n != 3 {
		t.Errorf("%d of 3 private fits have an answer: %s", n, open.JSON)
	}
	if n := bytes.Count(open.JSON, []byte(`"mechanism":"skellam"`)); n != len(file.Spec.Analyses) {
		t.Errorf("%d of %d analyses say what was spent: %s", n, len(file.Spec.Analyses), open.JSON)
	}
}
