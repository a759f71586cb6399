package models

import (
	"fmt"
	"math"
	"testing"

	"consilium"
)

// tenths are probabilities so fine that each of n values has one of its own.
func tenths(n int) []float64 {
	var out []float64
	for i := range n {
		out = append(out, (float64(i)+0.5)/float64(n))
	}
	return out
}

// TestQuantileAttack reads counts off the quantiles: with one for each of n
// values, how many fall into a cell is its count. The naive twin brackets by
// the raw cells and gives every hidden count back, and the smallest value; the
// joined stretches give nothing that the histogram hides.
func TestQuantileAttack(t *testing.T) {
	edges := []float64{0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50}
	a := consilium.AnalysisSpec{Name: "d", Type: consilium.AnalysisDescribe, Variables: []string{"age"}, Histogram: map[string][]float64{"age": edges}, Quantiles: tenths(128)}
	f := patients(t, a)
	r := must(t, f)
	g := get(r, "variables", 0, "groups", 0)
	raw := f.opened[0]["d/cells-0"]
	shown := get(g, "histogram", "counts").([]any)
	naive := map[float64]float64{} // by upper edge
	each := make([][2]int, len(raw))
	for c := range each {
		each[c] = [2]int{c, c + 1}
	}
	for _, p := range a.Quantiles {
		if q := bracket(p, 128, raw, edges, each); q.Upper != nil {
			naive[*q.Upper]++
		}
	}
	back := 0
	for c, v := range shown {
		if n := raw[c+1]; v == nil && n > 0 && n < 11 && naive[edges[c+1]] == n {
			back++
		}
	}
	if back < 2 {
		t.Errorf("the naive twin gives %d hidden counts back, want at least 2", back)
	}
	// What is published: the stretch of every quantile, and null for the ends.
	type stretch struct{ lower, upper float64 }
	told := map[stretch]float64{}
	var order []stretch
	edge := func(v any, open float64) float64 {
		if v == nil {
			return open
		}
		return v.(float64)
	}
	nothing := 0
	for _, q := range get(g, "quantiles").([]any) {
		m := q.(map[string]any)
		if m["lower"] == nil && m["upper"] == nil {
			nothing++
			if p := m["p"].(float64); p*128 >= 11 && (1-p)*128 >= 11 {
				t.Errorf("the quantile of %v is withheld", p)
			}
			continue
		}
		s := stretch{edge(m["lower"], math.Inf(-1)), edge(m["upper"], math.Inf(1))}
		if told[s] == 0 {
			order = append(order, s)
		}
		told[s]++
	}
	if nothing != 22 || len(order) < 3 {
		t.Errorf("%d quantiles are withheld, want the 11 at each end; %d stretches", nothing, len(order))
	}
	for _, s := range order {
		// What the shown counts leave of a stretch is hidden, and must be of k.
		rest, count := 0.0, 0.0
		for c, v := range shown {
			if edges[c] >= s.lower && edges[c+1] <= s.upper {
				count += raw[c+1]
				if v == nil {
					rest += raw[c+1]
				}
			}
		}
		if count < 11 || rest > 0 && rest < 11 {
			t.Errorf("stretch %v holds %v patients, of whom subtraction leaves %v", s, count, rest)
		}
	}
	// The smallest value, on fine edges.
	var fine []float64
	for x := 0.0; x <= 50; x += 0.25 {
		fine = append(fine, x)
	}
	a.Histogram, a.Quantiles = map[string][]float64{"age": fine}, []float64{1e-9, 1 - 1e-9, 0.5}
	f = patients(t, a)
	r = must(t, f)
	raw = f.opened[0]["d/cells-0"]
	each = make([][2]int, len(raw))
	for c := range each {
		each[c] = [2]int{c, c + 1}
	}
	if q := bracket(1e-9, 128, raw, fine, each); *q.Upper-*q.Lower > 0.25 || *q.Lower != 1 {
		t.Errorf("the naive twin brackets the youngest patient, of 1 year, as %v to %v", *q.Lower, *q.Upper)
	}
	for i := range 2 {
		if q := get(r, "variables", 0, "groups", 0, "quantiles", i).(map[string]any); q["lower"] != nil || q["upper"] != nil {
			t.Errorf("an extreme is told: %v", q)
		}
	}
	// R's quantile lies in the wider stretch.
	var want float64
	truth(t, &want, "desc", "age", "quantile_type1", "50%")
	q := get(r, "variables", 0, "groups", 0, "quantiles", 2).(map[string]any)
	if lo, hi := q["lower"].(float64), q["upper"].(float64); want < lo || want >= hi || hi-lo > 10 {
		t.Errorf("R's median %v, told as %v to %v", want, lo, hi)
	}
}

// without drops the value of a column in the first n rows.
func without(tab *table, column string, n int) *table {
	out := &table{names: tab.names}
	for i, r := range tab.rows {
		r = append([]string{}, r...)
		if i < n {
			r[tab.index(column)] = "NA"
		}
		out.rows = append(out.rows, r)
	}
	return out
}

// denominator is the least denominator, up to 200, of a fraction of whole
// numbers that equals v to its last digits: n, for a mean of whole numbers.
func denominator(v float64) int {
	for d := 1; d <= 200; d++ {
		if x := v * float64(d); math.Abs(x-math.Round(x)) < 1e-9*math.Max(1, math.Abs(x)) {
			return d
		}
	}
	return 0
}

// TestMissingAttack: a hidden number of missing values is not had from n, the
// other counts, the tests, or the digits of a mean of whole numbers.
func TestMissingAttack(t *testing.T) {
	tab := without(cgd(t, "cgd_patient.csv"), "age", 3)
	for _, c := range []struct {
		by      []string
		edges   []float64
		permits []string
	}{{nil, nil, nil}, {nil, []float64{0, 10, 20, 50}, nil}, {[]string{"sex"}, nil, nil}, {nil, nil, []string{PermitSmallCells}}} {
		a := consilium.AnalysisSpec{Name: "d", Type: consilium.AnalysisDescribe, Variables: []string{"age"}, By: c.by}
		if c.edges != nil {
			a.Histogram = map[string][]float64{"age": c.edges}
		}
		spec := specCGD(a)
		f := newFederation(t, spec, split(t, spec, tab, "site", "id"))
		f.facts.Permits = c.permits
		r := must(t, f)
		v := get(r, "variables", 0).(map[string]any)
		g := get(v, "groups", 0).(map[string]any) // all, or the men
		n := f.opened[0]["d/moments-0"][0]
		exact := f.opened[0]["d/moments-0"]
		groups := len(exact) / 5
		mean := 60 + exact[3*groups]/n
		if len(c.permits) > 0 {
			if g["missing"] != 3.0 || g["n"] != 125.0 || denominator(g["mean"].(float64)) != 125 {
				t.Errorf("with permission: %v", g)
			}
			continue
		}
		if d := denominator(mean); d == 0 || int(n)%d != 0 {
			t.Errorf("the naive twin: the mean %v of %v ages has denominator %d", mean, n, d)
		}
		if g["missing"] != nil || g["n"] != nil || v["welch"] != nil || v["student"] != nil {
			t.Errorf("by %v: %v", c.by, v)
		}
		if m := g["mean"].(float64); math.Abs(m-mean) > 0.1 || denominator(m) > 0 && int(n)%denominator(m) == 0 && denominator(m) > 10 {
			t.Errorf("mean %v of %v, the full one is %v", m, n, mean)
		}
		if c.edges != nil {
			shown := 0.0
			hidden := 0
			for _, x := range get(g, "histogram", "counts").([]any) {
				if x == nil {
					hidden++
				} else {
					shown += x.(float64)
				}
			}
			if hidden == 0 {
				t.Errorf("the counts add up to %v of 128 rows", shown)
			}
		}
	}
}

// TestGroupAttack subtracts the groups that are shown from the rows of the whole
// result. The naive twin hides only the group of too few; now what is left for
// the hidden ones is of at least two groups and k patients.
func TestGroupAttack(t *testing.T) {
	tab := cgd(t, "cgd_patient.csv")
	few := &table{names: tab.names} // eight of the 63 in the arm
	arm := 0
	for _, r := range tab.rows {
		if r[tab.index("treat")] == "rIFN-g" {
			if arm++; arm%7 != 0 || arm > 56 {
				continue
			}
		}
		few.rows = append(few.rows, r)
	}
	for _, by := range []string{"treat", "law"} {
		data := few
		if by == "law" { // eight under one law
			data = &table{names: tab.names}
			n := 0
			for _, r := range tab.rows {
				if r[tab.index("law")] == "FADP" {
					if n++; n > 8 {
						continue
					}
				}
				data.rows = append(data.rows, r)
			}
		}
		rank := consilium.AnalysisSpec{Name: "r", Type: consilium.AnalysisLogrank, Response: survCGD, By: []string{by}}
		if by == "law" { // one law in a hospital: nothing to compare there
			rank.Grid = &consilium.Grid{Step: 60, Max: 480}
		}
		spec := specCGD(rank,
			consilium.AnalysisSpec{Name: "d", Type: consilium.AnalysisDescribe, Variables: []string{"age"}, By: []string{by}},
			consilium.AnalysisSpec{Name: "km", Type: consilium.AnalysisKaplanMeier, Response: survCGD, By: []string{by}, Grid: &consilium.Grid{Step: 30, Max: 450}},
			consilium.AnalysisSpec{Name: "g", Type: consilium.AnalysisLogrank, Response: survCGD, By: []string{by}, Grid: &consilium.Grid{Step: 30, Max: 450}})
		r := must(t, newFederation(t, spec, split(t, spec, data, "site", "id")))
		const key = "n"
		for i := range 4 {
			doc := get(r, "analyses", i).(map[string]any)
			groups, _ := doc["groups"].([]any)
			if doc["name"] == "d" {
				groups = get(doc, "variables", 0, "groups").([]any)
			}
			rest, hidden, seen := doc["rows"].(float64), 0, 0
			for _, g := range groups {
				m := g.(map[string]any)
				if m[key] == nil {
					hidden++
					for _, k := range []string{"mean", "var", "events", "observed", "expected", "median"} {
						if m[k] != nil {
							t.Errorf("%s by %s: %s of a hidden group is told: %v", doc["name"], by, k, m[k])
						}
					}
					continue
				}
				seen++
				rest -= m[key].(float64)
			}
			if rest < 11 || hidden < 2 {
				t.Errorf("%s by %s: subtraction leaves %v patients in %d hidden groups", doc["name"], by, rest, hidden)
			}
			if by == "law" && seen == 0 {
				t.Errorf("%s by %s: everything is hidden", doc["name"], by)
			}
			if len(doc["suppressed"].([]any)) < hidden {
				t.Errorf("%s: %v", doc["name"], doc["suppressed"])
			}
		}
	}
}

func TestJoin(t *testing.T) {
	at := func(v []float64, k float64) string {
		return fmt.Sprint(join(len(v), func(from, to int) bool { return sumOf(v, from, to) >= k }))
	}
	for _, c := range []struct {
		v    []float64
		want string
	}{
		{nil, "[]"}, {[]float64{3}, "[]"}, {[]float64{12}, "[[0 1]]"}, {[]float64{6, 6, 3}, "[[0 3]]"}, {[]float64{6, 6, 12, 1, 2}, "[[0 2] [2 5]]"},
	} {
		if got := at(c.v, 11); got != c.want {
			t.Errorf("%v: %s, want %s", c.v, got, c.want)
		}
	}
	// Whatever the rule, the stretches are fit, adjoin, and cover everything.
	for seed := range 2000 {
		n := 1 + seed%9
		v := make([]float64, n)
		x := uint32(seed)*2654435761 + 12345
		for i := range v {
			x = x*1664525 + 1013904223
			v[i] = float64(x >> 28)
		}
		ok := func(from, to int) bool {
			s := sumOf(v, from, to)
			return s >= 11 && math.Mod(s, 3) != 1 // what is left over can spoil the last one
		}
		at := 0
		out := join(n, ok)
		for _, s := range out {
			if s[0] != at || !ok(s[0], s[1]) {
				t.Fatalf("%v: %v", v, out)
			}
			at = s[1]
		}
		if len(out) > 0 && at != n {
			t.Fatalf("%v: %v does not cover", v, out)
		}
		if len(out) == 0 && ok(0, n) {
			t.Fatalf("%v: nothing is told, though all together may be", v)
		}
	}
}
