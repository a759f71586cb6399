package main

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"consilium/examples/cgd"
	"consilium/internal/federation"
)

// TestSimulateEveryType runs one analysis of every exact type from the command
// line, through gates, policy, ledger and encryption of thirteen hospitals: it
// is the same as in plain sums to the last bit, and as R on the pooled table.
func TestSimulateEveryType(t *testing.T) {
	dir := t.TempDir()
	code, stdout, stderr := consiliumRun("simulate", "--study", "../../examples/cgd/every-type.yaml", "--data", "../../examples/cgd/cgd_patient.csv",
		"--site-column", "site", "--out", dir, "--json")
	if code != exitDone {
		t.Fatalf("exit %d\n%s", code, stderr)
	}
	type object = map[string]any
	var doc struct{ Result struct{ Analyses []object } }
	if err := json.Unmarshal([]byte(stdout), &doc); err != nil {
		t.Fatal(err)
	}
	sim, err := newSimulation(cgd.Read("every-type.yaml"), cgd.Read("cgd_patient.csv"), "site")
	if err != nil {
		t.Fatal(err)
	}
	facts, sites := sim.plain()
	plain, err := federation.Plain(t.Context(), facts, sites, sim.file.RowPatients)
	if err != nil {
		t.Fatal(err)
	}
	var open struct{ Analyses []object }
	if err := json.Unmarshal(plain.JSON, &open); err != nil {
		t.Fatal(err)
	}
	if len(doc.Result.Analyses) != len(sim.file.Spec.Analyses) || !reflect.DeepEqual(doc.Result.Analyses, open.Analyses) {
		t.Errorf("%d analyses, %d in plain sums, and they differ", len(doc.Result.Analyses), len(open.Analyses))
	}
	got := map[string]object{}
	for _, a := range doc.Result.Analyses {
		if a["error"] != nil {
			t.Errorf("%v: %v", a["name"], a["error"])
		}
		got[a["name"].(string)] = a
	}
	page, err := os.ReadFile(filepath.Join(dir, "report.html"))
	if err != nil {
		t.Fatal(err)
	}
	for name := range got {
		if !strings.Contains(string(page), name) {
			t.Errorf("the report has no %s", name)
		}
	}
	for _, name := range []string{"coefficients.csv", "coefficients.arrow", "survival.csv", "survival.arrow", "cox-vcov.npy", "rate-robust-vcov.npy"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || len(b) == 0 || !strings.Contains(string(page), name) {
			t.Errorf("%s: %d bytes, %v; named in the report: %v", name, len(b), err, strings.Contains(string(page), name))
		}
	}
	var truth map[string]any
	if err := json.Unmarshal(cgd.Read("truth.json"), &truth); err != nil {
		t.Fatal(err)
	}
	compared := 0
	near := func(what string, a, b any) {
		t.Helper()
		x, ok := a.(float64)
		y, fine := b.(float64)
		if compared++; !ok || !fine || math.Abs(x-y) > 1e-9*math.Abs(y) {
			t.Errorf("%s: %v, R has %v", what, a, b)
		}
	}
	field := func(v any, path ...any) any {
		for _, p := range path {
			switch p := p.(type) {
			case string:
				m, _ := v.(object)
				v = m[p]
			case int:
				l, _ := v.([]any)
				if p >= len(l) {
					return nil
				}
				v = l[p]
			}
		}
		return v
	}
	for name, key := range map[string]string{"weights": "linear_weight", "odds": "logistic_multi", "rate": "poisson_multi", "nb": "negbin_multi",
		"cox": "cox_multi_strat_site_efron", "breslow": "cox_multi_strat_site_breslow"} {
		want := truth[key]
		list, _ := field(want, "coef").([]any)
		terms, _ := got[name]["terms"].([]any)
		if len(list) != len(terms) || len(list) == 0 {
			t.Errorf("%s: %d terms, R has %d", name, len(terms), len(list))
			continue
		}
		for i := range list {
			for ours, theirs := range map[string]string{"coef": "coef", "se": "se", "p": "p"} {
				if name == "rate" && ours == "p" || name == "nb" && ours == "p" || name == "breslow" && ours == "p" {
					continue // by robust errors, which R's fit does not have
				}
				near(name+" "+ours, field(terms, i, ours), field(want, theirs, i))
			}
		}
	}
	near("chi-square", field(got["compare"], "chisq"), field(truth, "logrank_strat_site", "chisq"))
	near("table", field(got["table"], "tests", "chisq", "statistic"), field(truth, "tables", "treat_any", "chisq"))
	near("Mantel-Haenszel", field(got["table"], "tests", "mantel_haenszel", "statistic"), field(truth, "mantel_haenszel_by_site", "chisq"))
	near("Kruskal-Wallis", field(got["counts"], "tests", "kruskal", "statistic"), field(truth, "kruskal_ninf_by_treat", "h"))
	near("t", field(got["arms"], "variables", 0, "welch", "t"), field(truth, "ttest", "age_by_treat", "welch", "t"))
	near("F", field(got["hospitals"], "variables", 0, "anova", "f"), field(truth, "anova_age_by_site", "f"))
	near("theta", field(got["nb"], "theta"), field(truth, "negbin_multi", "theta"))
	t.Logf("%d analyses, %d numbers compared with R", len(got), compared)
}
