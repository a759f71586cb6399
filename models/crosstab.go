package models

import (
	"fmt"
	"math"

	"consilium"
	"consilium/internal/det"
)

// newCrosstab makes a contingency table with its tests. strata: [site] adds the
// Mantel-Haenszel test by hospital, whose sums each hospital adds up itself:
// no hospital's table is sent.
func newCrosstab(facts consilium.Facts, a *consilium.AnalysisSpec) (Analysis, error) {
	spec := facts.Spec
	for _, c := range []struct{ what, name string }{{"rows", a.Rows}, {"columns", a.Columns}} {
		if c.name == "" {
			return nil, consilium.ErrInvalid.Withf("%s names no column", c.what)
		}
	}
	if a.Rows == a.Columns {
		return nil, consilium.ErrInvalid.Withf("columns: %s also stands under rows", a.Columns)
	}
	rg, err := newGrouping(spec, "rows", []string{a.Rows})
	if err != nil {
		return nil, err
	}
	cg, err := newGrouping(spec, "columns", []string{a.Columns})
	if err != nil {
		return nil, err
	}
	bySite := false
	var extra []string
	for _, s := range a.Strata {
		if s == "site" {
			bySite = true
			continue
		}
		if s == a.Rows || s == a.Columns {
			return nil, consilium.ErrInvalid.Withf("strata: %s is also in the table", s)
		}
		extra = append(extra, s)
	}
	st, err := newGrouping(spec, "strata", extra)
	if err != nil {
		return nil, err
	}
	table := &grouping{columns: []string{a.Rows, a.Columns}, levels: [][]string{rg.levels[0], cg.levels[0]}, n: rg.n * cg.n}
	if table.n*st.n > 1<<16 {
		return nil, consilium.ErrInvalid.Withf("strata: %d tables of %d cells are too many", st.n, table.n)
	}
	if len(a.Strata) > 0 && (rg.n != 2 || cg.n != 2) {
		return nil, consilium.ErrInvalid.Withf("strata: the Mantel-Haenszel test needs two levels each; %s has %d and %s has %d", a.Rows, rg.n, a.Columns, cg.n)
	}
	s := &single{facts: facts, spec: a, blocks: []consilium.Block{exactBlock("cells", table.n), exactBlock("cell-patients", table.n)}}
	if len(a.Strata) > 0 {
		s.blocks = append(s.blocks, exactBlock("mantel-haenszel", mhLen))
	}
	s.local = func(rows *Rows) ([][]float64, error) {
		f, err := readFrame(spec, rows, want{factors: unique(append([]string{a.Rows, a.Columns}, st.columns...)...)})
		if err != nil {
			return nil, err
		}
		tables := make([][]float64, st.n)
		for i := range tables {
			tables[i] = make([]float64, table.n)
		}
		cells := make([]float64, table.n)
		for i := 0; i < f.n; i++ {
			k := table.of(f, i)
			cells[k]++
			tables[st.of(f, i)][k]++
		}
		out := [][]float64{cohortBlock(f, rows, 0, nil), cells, table.patients(f)}
		if len(a.Strata) > 0 {
			mh := make([]total, mhLen)
			if bySite {
				for _, t := range tables {
					mantelHaenszel(mh, t)
				}
			}
			out = append(out, values(mh))
		}
		return out, nil
	}
	// Strata that are not hospitals reach across them: their tables are summed.
	if len(a.Strata) > 0 && !bySite {
		s.blocks[2] = exactBlock("stratum-cells", table.n*st.n)
		inner := s.local
		s.local = func(rows *Rows) ([][]float64, error) {
			out, err := inner(rows)
			if err != nil {
				return nil, err
			}
			f, err := readFrame(spec, rows, want{factors: unique(append([]string{a.Rows, a.Columns}, st.columns...)...)})
			if err != nil {
				return nil, err
			}
			all := make([]float64, table.n*st.n)
			for i := 0; i < f.n; i++ {
				all[st.of(f, i)*table.n+table.of(f, i)]++
			}
			out[2+1] = all
			return out, nil
		}
	}
	s.scale = func() ([]float64, float64, error) {
		if len(a.Strata) > 0 {
			return nil, 0, consilium.ErrInvalid.Withf("strata: the Mantel-Haenszel test has no differentially private form here; leave strata out")
		}
		return ones(2 * table.n), 2, nil // its cell, as a row and as a patient
	}
	s.render = func(v map[string][]float64) (any, error) {
		var mh []total
		if len(a.Strata) > 0 {
			mh = make([]total, mhLen)
			if bySite {
				for i, x := range v["mantel-haenszel"] {
					mh[i].hi = x
				}
			} else {
				for i := 0; i < st.n; i++ {
					mantelHaenszel(mh, v["stratum-cells"][i*table.n:(i+1)*table.n])
				}
			}
		}
		return renderCrosstab(facts, a, rg.levels[0], cg.levels[0], v, mh), nil
	}
	return s, nil
}

// Sums over strata of the Mantel-Haenszel test and of the common odds ratio
// with the variance of Robins, Breslow and Greenland (Biometrics 1986).
const (
	mhDelta    = iota // a - E(a)
	mhVariance        // of a
	mhR               // a d / n
	mhS               // b c / n
	mhPR
	mhPSQR
	mhQS
	mhLen
)

func mantelHaenszel(sum []total, t []float64) {
	a, b, c, d := t[0], t[1], t[2], t[3]
	n := a + b + c + d
	if n < 2 {
		return // as R's mantelhaen.test: a stratum of one says nothing
	}
	r1, r2, c1, c2 := a+b, c+d, a+c, b+d
	sum[mhDelta].add(a - float64(r1*c1)/n)
	sum[mhVariance].add(float64(float64(r1*r2)*float64(c1*c2)) / float64(float64(n*n)*(n-1)))
	r, s := float64(a*d)/n, float64(b*c)/n
	p, q := (a+d)/n, (b+c)/n
	sum[mhR].add(r)
	sum[mhS].add(s)
	sum[mhPR].add(float64(p * r))
	sum[mhPSQR].add(float64(p*s) + float64(q*r))
	sum[mhQS].add(float64(q * s))
}

// mhTest holds the test without and with the continuity correction (R's
// mantelhaen.test with correct = FALSE and TRUE).
type mhTest struct {
	Statistic float64  `json:"statistic"`
	DF        float64  `json:"df"`
	P         float64  `json:"p"`
	Corrected test     `json:"corrected"`
	OddsRatio *float64 `json:"odds_ratio"`
	Lower     *float64 `json:"lower"`
	Upper     *float64 `json:"upper"`
}

type fisherTest struct {
	P         float64  `json:"p"`
	OddsRatio *float64 `json:"odds_ratio,omitempty"` // conditional maximum likelihood, 2x2 only
	Lower     *float64 `json:"lower,omitempty"`
	Upper     *float64 `json:"upper,omitempty"`
}

type tableTests struct {
	Chisq  *test       `json:"chisq,omitempty"`
	Yates  *test       `json:"chisq_yates,omitempty"`
	Fisher *fisherTest `json:"fisher,omitempty"`
	MH     *mhTest     `json:"mantel_haenszel,omitempty"`
	// Of an integer under `columns`, whose values are ordered:
	Wilcoxon *rankTest `json:"wilcoxon,omitempty"`
	Kruskal  *rankTest `json:"kruskal,omitempty"`
}

func renderCrosstab(facts consilium.Facts, a *consilium.AnalysisSpec, rows, cols []string, v map[string][]float64, mh []total) any {
	type axis struct {
		Column string   `json:"column"`
		Levels []string `json:"levels"`
	}
	k := float64(facts.MinCohort)
	if facts.Permitted(PermitSmallCells) {
		k = 0
	}
	out := struct {
		head
		Rows      axis         `json:"table_rows"`
		Columns   axis         `json:"table_columns"`
		Counts    [][]*float64 `json:"counts"`
		Expected  [][]float64  `json:"expected,omitempty"`
		OddsRatio *float64     `json:"odds_ratio,omitempty"`
		RiskRatio *float64     `json:"risk_ratio,omitempty"`
		Tests     tableTests   `json:"tests"`
	}{head: newHead(a, v["cohort"], false), Rows: axis{a.Rows, rows}, Columns: axis{a.Columns, cols}}
	cells := v["cells"]
	shown := mask(cells, v["cell-patients"], k)
	hidden := 0
	for _, c := range shown {
		if c == nil {
			hidden++
		}
	}
	for i := range rows {
		out.Counts = append(out.Counts, shown[i*len(cols):(i+1)*len(cols)])
	}
	// Levels that nobody has do not enter the tests, as in R's table of a
	// factor without unused levels.
	var t [][]float64
	colSum := make([]float64, len(cols))
	for i := range rows {
		for j := range cols {
			colSum[j] += cells[i*len(cols)+j]
		}
	}
	for i := range rows {
		var line []float64
		sum := 0.0
		for j := range cols {
			if colSum[j] > 0 {
				line = append(line, cells[i*len(cols)+j])
				sum += cells[i*len(cols)+j]
			}
		}
		if sum > 0 {
			t = append(t, line)
		}
	}
	if hidden > 0 {
		out.Suppressed = append(out.Suppressed, suppressed{fmt.Sprintf("%d cells", hidden), small(facts)},
			suppressed{"expected counts, ratios and tests of the table", "they would allow to compute the hidden cells"})
	} else if len(t) > 1 && len(t[0]) > 1 {
		out.Expected = chiSquare(t, &out.Tests)
		out.Tests.Fisher = fisher(t)
		if c, ok := facts.Spec.Column(a.Columns); ok && c.Type == consilium.TypeInteger {
			out.Tests.Wilcoxon, out.Tests.Kruskal = rankTests(t)
		}
		if len(t) == 2 && len(t[0]) == 2 {
			out.OddsRatio = finite(float64(t[0][0]*t[1][1]) / float64(t[0][1]*t[1][0]))
			out.RiskRatio = finite((t[1][1] / (t[1][0] + t[1][1])) / (t[0][1] / (t[0][0] + t[0][1])))
		}
		if out.Tests.Fisher == nil {
			out.Warnings = append(out.Warnings, "the table is too large for Fisher's exact test")
		}
	} else {
		out.Warnings = append(out.Warnings, "fewer than two levels are present, so that nothing can be tested")
	}
	if mh != nil {
		s := values(mh)
		if s[mhVariance] > 0 {
			m := &mhTest{DF: 1}
			m.Statistic = float64(s[mhDelta]*s[mhDelta]) / s[mhVariance]
			m.P = det.ChiSquareTail(m.Statistic, 1)
			x := math.Max(0, math.Abs(s[mhDelta])-0.5)
			stat := float64(x*x) / s[mhVariance]
			m.Corrected = test{Statistic: stat, DF: 1, P: det.ChiSquareTail(stat, 1)}
			if r, q := s[mhR], s[mhS]; r > 0 && q > 0 {
				or := r / q
				sd := math.Sqrt(s[mhPR]/float64(2*float64(r*r)) + s[mhPSQR]/float64(2*float64(r*q)) + s[mhQS]/float64(2*float64(q*q)))
				half := det.Exp(float64(normal95 * sd))
				m.OddsRatio, m.Lower, m.Upper = finite(or), finite(or/half), finite(float64(or*half))
			}
			out.Tests.MH = m
		} else {
			out.Warnings = append(out.Warnings, "no stratum has both levels of both columns, so that the Mantel-Haenszel test says nothing")
		}
	}
	return out
}

// chiSquare adds Pearson's test, with Yates' correction too for a 2x2 table,
// and returns the expected counts.
func chiSquare(t [][]float64, tests *tableTests) [][]float64 {
	r, c, n := margins(t)
	df := float64((len(r) - 1) * (len(c) - 1))
	var plain, least total
	expected := make([][]float64, len(r))
	yates := 0.5
	for i := range t {
		for j := range t[i] {
			e := float64(r[i]*c[j]) / n
			expected[i] = append(expected[i], e)
			yates = math.Min(yates, math.Abs(t[i][j]-e))
		}
	}
	for i := range t {
		for j := range t[i] {
			d := math.Abs(t[i][j] - expected[i][j])
			plain.add(float64(d*d) / expected[i][j])
			least.add(float64((d-yates)*(d-yates)) / expected[i][j])
		}
	}
	x := plain.value()
	tests.Chisq = &test{Statistic: x, DF: df, P: det.ChiSquareTail(x, int(df))}
	if len(r) == 2 && len(c) == 2 {
		y := least.value()
		tests.Yates = &test{Statistic: y, DF: df, P: det.ChiSquareTail(y, int(df))}
	}
	return expected
}

func margins(t [][]float64) (r, c []float64, n float64) {
	r, c = make([]float64, len(t)), make([]float64, len(t[0]))
	for i := range t {
		for j, v := range t[i] {
			r[i] += v
			c[j] += v
			n += v
		}
	}
	return r, c, n
}

// maxFisher bounds the tables that Fisher's test visits.
const maxFisher = 2_000_000

// fisher is Fisher's exact test of a table with two rows or two columns: the
// probability of all tables with these margins that are no likelier than this
// one. nil if there are too many of them.
func fisher(t [][]float64) *fisherTest {
	if len(t) != 2 && len(t[0]) == 2 {
		u := make([][]float64, 2)
		for j := range u {
			for i := range t {
				u[j] = append(u[j], t[i][j])
			}
		}
		t = u
	}
	if len(t) != 2 {
		return nil
	}
	r, c, n := margins(t)
	// log C(c_j, x) by sums of logarithms.
	lf := make([]float64, int(n)+1)
	acc := total{}
	for i := 1; i <= int(n); i++ {
		acc.add(det.Log(float64(i)))
		lf[i] = acc.value()
	}
	choose := func(n, k int) float64 { return lf[n] - lf[k] - lf[n-k] }
	tables := 1.0
	for _, v := range c[1:] {
		if tables = float64(tables * (v + 1)); tables > maxFisher {
			return nil
		}
	}
	all := choose(int(n), int(r[0]))
	seen := -all
	for j := range c {
		seen += choose(int(c[j]), int(t[0][j]))
	}
	limit := seen + 1e-7 // R's tolerance for ties
	p := total{}
	var walk func(j, left int, ll float64)
	walk = func(j, left int, ll float64) {
		if j == len(c)-1 {
			if left <= int(c[j]) {
				if ll += choose(int(c[j]), left); ll <= limit {
					p.add(det.Exp(ll))
				}
			}
			return
		}
		for x := 0; x <= int(c[j]) && x <= left; x++ {
			walk(j+1, left-x, ll+choose(int(c[j]), x))
		}
	}
	walk(0, int(r[0]), -all)
	out := &fisherTest{P: math.Min(1, p.value())}
	if len(c) == 2 {
		out.conditional(t, choose)
	}
	return out
}

// conditional adds the conditional maximum likelihood odds ratio and its exact
// limits, roots of the non-central hypergeometric distribution.
func (f *fisherTest) conditional(t [][]float64, choose func(n, k int) float64) {
	r, c, _ := margins(t)
	m, n, k := int(c[0]), int(c[1]), int(r[0])
	lo, hi := max(0, k-n), min(k, m)
	x := int(t[0][0])
	base := make([]float64, hi-lo+1)
	for i := range base {
		base[i] = choose(m, lo+i) + choose(n, k-lo-i)
	}
	// moments of the distribution at log odds ratio b: mean, P(X<=x), P(X>=x).
	at := func(b float64) (mean, below, above float64) {
		top := math.Inf(-1)
		for i, v := range base {
			top = math.Max(top, v+float64(float64(lo+i)*b))
		}
		var s, sm, sb, sa total
		for i, v := range base {
			w := det.Exp(v + float64(float64(lo+i)*b) - top)
			s.add(w)
			sm.add(float64(w * float64(lo+i)))
			if lo+i <= x {
				sb.add(w)
			}
			if lo+i >= x {
				sa.add(w)
			}
		}
		return sm.value() / s.value(), sb.value() / s.value(), sa.value() / s.value()
	}
	root := func(rising func(b float64) float64) *float64 {
		a, b := -60.0, 60.0
		for i := 0; i < 200; i++ {
			mid := a + float64(0.5*(b-a))
			if mid <= a || mid >= b {
				break
			}
			if rising(mid) < 0 {
				a = mid
			} else {
				b = mid
			}
		}
		return finite(det.Exp(b))
	}
	zero := 0.0
	if x == lo {
		f.OddsRatio, f.Lower = &zero, &zero
	} else {
		f.Lower = root(func(b float64) float64 { _, _, above := at(b); return above - 0.025 })
	}
	if x < hi {
		f.Upper = root(func(b float64) float64 { _, below, _ := at(b); return 0.025 - below })
		if x > lo {
			f.OddsRatio = root(func(b float64) float64 { mean, _, _ := at(b); return mean - float64(x) })
		}
	}
}
