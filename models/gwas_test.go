package models

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"consilium"
)

func gwasSpec(n int, a consilium.AnalysisSpec) *consilium.Spec {
	spec := specCGD(a)
	spec.Data = consilium.DataRef{Dataset: "genotypes", Patient: "patient"}
	spec.Columns = []consilium.Column{{Name: "patient", Type: consilium.TypeID}, {Name: "age", Type: consilium.TypeNumber, Bounds: &[2]float64{0, 120}},
		{Name: "sex", Type: consilium.TypeLevels, Levels: []string{"female", "male"}}, {Name: "pc1", Type: consilium.TypeNumber},
		{Name: "affected", Type: consilium.TypeFlag}, {Name: "marker", Type: consilium.TypeNumber}}
	for i := 1; i <= n; i++ {
		spec.Columns = append(spec.Columns, consilium.Column{Name: fmt.Sprintf("rs%03d", i), Type: consilium.TypeInteger, Bounds: &[2]float64{0, 2}})
	}
	for i := 1; i <= n; i++ {
		spec.Analyses[0].Variants = append(spec.Analyses[0].Variants, fmt.Sprintf("rs%03d", i))
	}
	return spec
}

// TestGWASReference scans generated genotypes and holds every score test,
// frequency, call rate and exact Hardy-Weinberg test against R's.
func TestGWASReference(t *testing.T) {
	tab := readTable(t, "../examples/gwas/genotypes.csv")
	all := reference(t)["gwas"].(map[string]any)
	for family, y := range map[string]string{"binomial": "affected", "gaussian": "marker"} {
		spec := gwasSpec(60, consilium.AnalysisSpec{Name: "scan", Type: consilium.AnalysisGWAS, Family: family, Response: &consilium.Response{Column: y}, Terms: []string{"age", "sex", "pc1"}})
		f := newFederation(t, spec, split(t, spec, tab, "hospital", "patient"))
		f.facts.MinCohort = 1 // every variant that has both alleles
		r := must(t, f)
		seen := map[string]map[string]any{}
		for _, v := range r["variants"].([]any) {
			seen[get(v, "name").(string)] = v.(map[string]any)
		}
		for i, v := range all[family].([]any) {
			w := v.(map[string]any)
			name := fmt.Sprintf("rs%03d", i+1)
			got := seen[name]
			if c := vec(w["counts"]); c[0]+c[1] == 0 || c[1]+c[2] == 0 {
				if got != nil {
					t.Errorf("%s has one allele and is tested", name)
				}
				continue
			}
			if got == nil {
				t.Errorf("%s is not tested", name)
				continue
			}
			for ours, theirs := range map[string]string{"freq": "af", "call_rate": "call", "hwe": "hwe", "variance": "var", "chisq": "chisq", "p": "p"} {
				near(t, ours+" "+name, got[ours].(float64), w[theirs].(float64))
			}
		}
		if family == "binomial" {
			near(t, "rao", seen["rs007"]["chisq"].(float64), all["rao"].(float64))
		}
		t.Logf("%d rounds, lambda %v", len(f.opened), r["lambda_gc"])
		// What a variant sends: p + 2 values.
		if n := len(f.opened[len(f.opened)-1]["scan/variants"]); n != 6*len(seen) {
			t.Errorf("%d values for %d variants", n, len(seen))
		}
	}
}

// TestGWASFilters: each filter leaves out the variant that was made for it,
// and rare alleles never reach the scan.
func TestGWASFilters(t *testing.T) {
	tab := readTable(t, "../examples/gwas/genotypes.csv")
	spec := gwasSpec(60, consilium.AnalysisSpec{Name: "scan", Type: consilium.AnalysisGWAS, Family: "binomial", Response: &consilium.Response{Column: "affected"},
		Terms: []string{"age", "sex", "pc1", "site"}, Quality: &consilium.Quality{MAF: 0.005, HWE: 1e-6, CallRate: 0.9}})
	f := newFederation(t, spec, split(t, spec, tab, "hospital", "patient"))
	r := must(t, f)
	left := r["left_out"].(map[string]any)
	if left["call_rate"] != 1.0 || left["hwe"] != 1.0 || left["carriers"].(float64)+left["maf"].(float64) < 3 || r["tested"].(float64)+left["maf"].(float64)+left["carriers"].(float64) != 58 {
		t.Errorf("tested %v, left out %v", r["tested"], left)
	}
	for _, v := range r["variants"].([]any) {
		if name := get(v, "name"); name == "rs057" || name == "rs058" {
			t.Errorf("%v is tested", name)
		}
	}
}

// TestGWASSiteEqualsPooled: with a term site, every score equals that of the
// pooled model with a factor of hospitals.
func TestGWASSiteEqualsPooled(t *testing.T) {
	tab := readTable(t, "../examples/gwas/genotypes.csv")
	spec := gwasSpec(12, consilium.AnalysisSpec{Name: "scan", Type: consilium.AnalysisGWAS, Family: "binomial", Response: &consilium.Response{Column: "affected"}, Terms: []string{"age", "site"}})
	within := must(t, newFederation(t, spec, split(t, spec, tab, "hospital", "patient")))
	pooled := gwasSpec(12, consilium.AnalysisSpec{Name: "scan", Type: consilium.AnalysisGWAS, Family: "binomial", Response: &consilium.Response{Column: "affected"}, Terms: []string{"age", "hospital"}})
	var levels []string
	for _, r := range tab.rows {
		levels = unique(append(levels, r[tab.index("hospital")])...)
	}
	pooled.Columns = append(pooled.Columns, consilium.Column{Name: "hospital", Type: consilium.TypeLevels, Levels: levels})
	plain := must(t, newFederation(t, pooled, split(t, pooled, tab, "hospital", "patient")))
	for i := range within["variants"].([]any) {
		near(t, "site_chisq", get(within, "variants", i, "chisq").(float64), get(plain, "variants", i, "chisq").(float64))
	}
}

// TestGenotypeAttack gets the counts of genotypes back from what a scan tells of
// a variant: the frequency gives the alleles, the call rate who was called, and
// the exact test or the variance tells the rest. The naive twin, which tells them
// in full, gives half of the small counts at once; what is published fits many counts.
func TestGenotypeAttack(t *testing.T) {
	tab := readTable(t, "../examples/gwas/genotypes.csv")
	type told struct{ freq, call, hwe, variance *float64 }
	// fits lists the counts that agree with what is told, of n rows.
	fits := func(v told, n float64, w *gwas) (out [][3]float64) {
		same := func(a, b float64) bool { return math.Abs(a-b) <= 1e-12*math.Max(1, math.Abs(b)) }
		for called := n - 20; called <= n; called++ {
			if v.call != nil && !same(*v.call, called/n) && !(v.hwe == nil && same(*v.call, w.steps(called/n, n))) {
				continue
			}
			for c2 := 0.0; c2 < 60; c2++ {
				for c1 := 0.0; c1+c2 <= called; c1++ {
					q := (c1 + 2*c2) / (2 * called)
					if v.hwe == nil && !same(*v.freq, w.steps(q, 2*n)) || v.hwe != nil && !same(*v.freq, q) {
						continue
					}
					if v.hwe != nil && math.Abs(hardyWeinberg(called-c1-c2, c1, c2)-*v.hwe) > 1e-9 {
						continue
					}
					out = append(out, [3]float64{called - c1 - c2, c1, c2})
				}
			}
		}
		return out
	}
	read := func(v any) told {
		m := v.(map[string]any)
		get := func(k string) *float64 {
			if x, ok := m[k].(float64); ok {
				return &x
			}
			return nil
		}
		return told{get("freq"), get("call_rate"), get("hwe"), get("variance")}
	}
	for _, terms := range [][]string{{"age", "sex", "pc1"}, nil} {
		spec := gwasSpec(20, consilium.AnalysisSpec{Name: "scan", Type: consilium.AnalysisGWAS, Family: "binomial", Response: &consilium.Response{Column: "affected"}, Terms: terms})
		f := newFederation(t, spec, split(t, spec, tab, "hospital", "patient"))
		made, err := newGWAS(f.facts, &spec.Analyses[0])
		if err != nil {
			t.Fatal(err)
		}
		w := made.(*gwas)
		guarded := must(t, f)
		counts := f.opened[0]["scan/genotypes"]
		f.facts.Permits = []string{PermitSmallCells}
		naive := must(t, f)
		exact := map[string]any{}
		for _, v := range naive["variants"].([]any) {
			exact[get(v, "name").(string)] = v
		}
		back, hidden := 0, 0
		for _, v := range guarded["variants"].([]any) {
			name := get(v, "name").(string)
			var i int
			fmt.Sscanf(name, "rs%d", &i)
			c := counts[genotypes*(i-1) : genotypes*(i-1)+3]
			missing := 600 - c[0] - c[1] - c[2]
			small := missing > 0 && missing < 11
			for _, n := range c {
				small = small || n > 0 && n < 11
			}
			p := read(v)
			if small != (p.hwe == nil) {
				t.Errorf("%s with counts %v of 600: hwe is %v", name, c, p.hwe)
			}
			if get(v, "p") != get(exact[name], "p") {
				t.Errorf("%s: what is hidden changed the test", name)
			}
			if !small {
				continue
			}
			hidden++
			if n := fits(read(exact[name]), 600, w); len(n) == 1 && n[0] == [3]float64(c) {
				back++
			}
			if n := fits(p, 600, w); len(n) < 20 {
				t.Errorf("%s: only %d triples of counts fit what is published", name, len(n))
			}
			if terms == nil && p.variance != nil {
				t.Errorf("%s: the variance of a model without covariates is a function of the counts", name)
			}
		}
		if back < 5 {
			t.Errorf("the naive twin gives back %d of %d variants with small counts", back, hidden)
		}
		if !strings.Contains(fmt.Sprint(guarded["suppressed"]), fmt.Sprintf("of %d variants", hidden)) {
			t.Errorf("suppressed: %v", guarded["suppressed"])
		}
	}
}
