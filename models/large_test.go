package models

import (
	"encoding/json"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"

	"consilium"
)

// large are the rows of testdata/large.R at one hospital, more than one processor takes at a
// time, and what R has of them.
func large(t *testing.T, a consilium.AnalysisSpec) (*federation, map[string]any) {
	t.Helper()
	b, err := os.ReadFile("testdata/large.json")
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]any
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	spec := specCGD(a)
	spec.Columns = []consilium.Column{{Name: "id", Type: consilium.TypeID}, {Name: "x", Type: consilium.TypeNumber}, {Name: "z", Type: consilium.TypeNumber},
		{Name: "fu", Type: consilium.TypeNumber}, {Name: "count", Type: consilium.TypeInteger}, {Name: "set", Type: consilium.TypeInteger},
		{Name: "start", Type: consilium.TypeNumber}, {Name: "stop", Type: consilium.TypeNumber}, {Name: "died", Type: consilium.TypeFlag}}
	tab := &table{names: []string{"site", "id", "x", "z", "fu", "count", "set", "start", "stop", "died"}}
	v, sums := 1, map[string]int{}
	for i := range int(want["n"].(float64)) {
		var s [10]int // Park and Miller's generator
		for k := range s {
			v = 16807 * v % (1<<31 - 1)
			s[k] = v
		}
		x, z := s[0]%10, s[1]/1000%2
		count, died := 0, 0
		for _, u := range s[3:] {
			if u/1000%1000 < 50+40*x+30*z {
				count++
			}
		}
		set := i / 2
		if i >= 16_000 {
			set = 7000 + (i-16_000)/2000
		} else if i >= 12_000 {
			set = 6000 + (i-12_000)/50
		}
		stop := 1 + s[3]/1000%20
		if s[5]/1000%100 < 30+4*x {
			died = 1
		}
		row := []string{"one", strconv.Itoa(i)}
		for k, v := range []int{x, z, 1 + s[2]/1000%5, count, set, s[4] / 1000 % stop, stop, died} {
			row = append(row, strconv.Itoa(v))
			sums[tab.names[2+k]] += v
		}
		tab.rows = append(tab.rows, row)
	}
	for name, sum := range want["sums"].(map[string]any) {
		if float64(sums[name]) != sum {
			t.Fatalf("the rows are not R's: column %s adds up to %v, there to %v", name, sums[name], sum)
		}
	}
	return newFederation(t, spec, split(t, spec, tab, "site", "id")), want
}

// TestLargePoissonReference: the deviances of a hospital with more rows than a stretch has.
func TestLargePoissonReference(t *testing.T) {
	a := consilium.AnalysisSpec{Name: "p", Type: consilium.AnalysisGLM, Family: "poisson", Response: &consilium.Response{Column: "count"},
		Terms: []string{"x", "z"}, Offset: &consilium.Offset{Column: "fu", Log: true}}
	f, all := large(t, a)
	w, r := all["poisson"].(map[string]any), must(t, f)
	same(t, "coef", terms(r, "coef"), w["coef"])
	same(t, "se", terms(r, "se"), w["se"])
	near(t, "deviance", r["deviance"].(float64), w["deviance"].(float64))
	near(t, "null_deviance", r["null_deviance"].(float64), w["null_deviance"].(float64))

	net := all["net"].(map[string]any)
	a.Penalty = &consilium.Penalty{Alpha: 1, Lambda: vec(net["lambda"])}
	f, _ = large(t, a)
	r = must(t, f)
	for k, want := range vec(net["dev"]) {
		if got := get(r, "path", k, "dev_ratio").(float64); math.Abs(got-want) > 1e-7 {
			t.Errorf("dev ratio %v, glmnet has %v", got, want)
		}
	}
}

// TestLargeCoxReference: thousands of pairs, and strata of fifty and of two thousand rows.
func TestLargeCoxReference(t *testing.T) {
	for _, how := range []string{"efron", "breslow", "efron_late", "breslow_late"} {
		a := consilium.AnalysisSpec{Name: "c", Type: consilium.AnalysisCox, Response: &consilium.Response{Stop: "stop", Event: "died"}, Terms: []string{"x", "z"}, Strata: []string{"set"}}
		var late bool
		if a.Ties, late = strings.CutSuffix(how, "_late"); late {
			a.Response.Start = "start"
		}
		f, all := large(t, a)
		w, r := get(all, "cox", how), must(t, f)
		same(t, how+" coef", terms(r, "coef"), get(w, "coef"))
		same(t, how+" se", terms(r, "se"), get(w, "se"))
		same(t, how+" loglik", vec(r["loglik"]), get(w, "loglik"))
	}
}
