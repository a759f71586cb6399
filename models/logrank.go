package models

import (
	"fmt"
	"math"
	"sort"

	"consilium"
	"consilium/internal/det"
)

// newLogrank makes the log-rank test. Stratified by hospital (the default) it
// uses exact times inside each hospital, which sends observed, expected and
// their covariance only. With a grid and without strata(site) it pools counts
// on the public grid.
func newLogrank(facts consilium.Facts, a *consilium.AnalysisSpec) (Analysis, error) {
	spec := facts.Spec
	if err := needResponse(spec, a.Response, a.Grid == nil); err != nil {
		return nil, err
	}
	if len(a.By) == 0 {
		return nil, consilium.ErrInvalid.Withf("by: the groups to compare")
	}
	by, err := newGrouping(spec, "by", a.By)
	if err != nil {
		return nil, err
	}
	bySite := a.Grid == nil
	var extra []string
	for _, s := range a.Strata {
		if s == "site" {
			if a.Grid != nil {
				return nil, consilium.ErrInvalid.Withf("grid: a test stratified by site uses exact times inside each hospital; drop grid, or site from strata")
			}
			continue
		}
		extra = append(extra, s)
	}
	strata, err := newGrouping(spec, "strata", extra)
	if err != nil {
		return nil, err
	}
	for _, c := range by.columns {
		if contains(strata.columns, c) {
			return nil, consilium.ErrInvalid.Withf("strata: %s is also compared", c)
		}
	}
	if w := a.Weights; w != nil && !(w.Rho >= 0 && w.Rho <= 10 && w.Gamma >= 0 && w.Gamma <= 10) {
		return nil, consilium.ErrInvalid.Withf("weights: rho %v and gamma %v; want 0 to 10 each (rho 1 is Peto's test, both 0 the log-rank test)", w.Rho, w.Gamma)
	}
	r := a.Response
	reads := want{numeric: unique(r.Start, r.Stop, r.Event), factors: unique(append(append([]string{}, by.columns...), strata.columns...)...)}
	s := &single{facts: facts, spec: a, levels: by.n, name: func(_, i int) string { return by.name(i) }}
	judgeLevels := func(v map[string][]float64) (int, int) {
		c := v["cohort"]
		if c[cohortEvents] == 0 {
			return failEvents, 0
		}
		if !facts.Permitted(PermitSmallLevels) {
			for g := 0; g < by.n; g++ {
				if c[cohortFixed+g] < minLevelPatients {
					return failLevel, g
				}
			}
		}
		return 0, 0
	}
	if bySite {
		s.blocks = []consilium.Block{exactBlock("rows", by.n), exactBlock("observed", by.n), exactBlock("expected", by.n), exactBlock("variance", packedLen(by.n))}
		s.local = func(rows *Rows) ([][]float64, error) {
			f, err := readFrame(spec, rows, reads)
			if err != nil {
				return nil, err
			}
			l, err := logrankLocal(f, r, by, strata, a.Weights)
			if err != nil {
				return nil, err
			}
			return [][]float64{cohortBlock(f, rows, l.events, by.patients(f)), l.rows, values(l.observed), values(l.expected), values(l.variance)}, nil
		}
		s.judge = func(v map[string][]float64) (int, int) {
			if code, i := judgeLevels(v); code != 0 {
				return code, i
			}
			if _, _, ok := logrankTest(v["observed"], v["expected"], unpack(v["variance"], by.n)); !ok {
				return failNothing, 0
			}
			return 0, 0
		}
		s.render = func(v map[string][]float64) (any, error) {
			return renderLogrank(facts, a, by, v["cohort"], v["rows"], v["observed"], v["expected"], unpack(v["variance"], by.n), "stratified by hospital, exact times"), nil
		}
		return s, nil
	}
	grid, err := newTimeGrid(facts, a.Grid, r.Stop)
	if err != nil {
		return nil, err
	}
	w, cells := grid.cells+1, strata.n*by.n
	if cells*w > 1<<20 {
		return nil, consilium.ErrInvalid.Withf("grid: %d groups on %d cells are too many", cells, w)
	}
	s.blocks = []consilium.Block{exactBlock("events", cells*w), exactBlock("censored", cells*w), exactBlock("beyond", cells)}
	s.local = func(rows *Rows) ([][]float64, error) {
		f, err := readFrame(spec, rows, reads)
		if err != nil {
			return nil, err
		}
		events, censored, beyond, total, err := grid.counts(f, r.Stop, r.Event, cells, func(i int) int { return strata.of(f, i)*by.n + by.of(f, i) })
		if err != nil {
			return nil, err
		}
		return [][]float64{cohortBlock(f, rows, total, by.patients(f)), events, censored, beyond}, nil
	}
	pooled := func(v map[string][]float64) (rows []float64, sums *logrankSums) {
		rows = make([]float64, by.n)
		sums = newLogrankSums(by.n)
		for st := 0; st < strata.n; st++ {
			n := make([][]float64, by.n)
			for g := range n {
				at := st*by.n + g
				n[g] = atRisk(v["events"][at*w:(at+1)*w], v["censored"][at*w:(at+1)*w], v["beyond"][at])
				rows[g] += n[g][0]
			}
			risk, died := make([]float64, by.n), make([]float64, by.n)
			f := newHarrington(a.Weights)
			for c := 0; c < w; c++ {
				for g := range n {
					risk[g], died[g] = n[g][c], v["events"][(st*by.n+g)*w+c]
				}
				sums.add(risk, died, f.next(risk, died))
			}
		}
		return rows, sums
	}
	s.judge = func(v map[string][]float64) (int, int) {
		if code, i := judgeLevels(v); code != 0 {
			return code, i
		}
		_, sums := pooled(v)
		if _, _, ok := logrankTest(values(sums.observed), values(sums.expected), unpack(values(sums.variance), by.n)); !ok {
			return failNothing, 0
		}
		return 0, 0
	}
	s.render = func(v map[string][]float64) (any, error) {
		rows, sums := pooled(v)
		return renderLogrank(facts, a, by, v["cohort"], rows, values(sums.observed), values(sums.expected), unpack(values(sums.variance), by.n),
			fmt.Sprintf("one baseline for all hospitals; times are rounded up to the next multiple of %v", grid.step)), nil
	}
	return s, nil
}

type logrankSums struct {
	rows                         []float64
	observed, expected, variance []total
	events                       float64
}

func newLogrankSums(groups int) *logrankSums {
	return &logrankSums{rows: make([]float64, groups), observed: make([]total, groups), expected: make([]total, groups), variance: make([]total, packedLen(groups))}
}

// add takes one event time: the numbers at risk and with the event by group,
// and the time's weight.
func (l *logrankSums) add(risk, died []float64, w float64) {
	n, d := 0.0, 0.0
	for g := range risk {
		n += risk[g]
		d += died[g]
	}
	if d == 0 {
		return
	}
	k := 0
	for g := range risk {
		l.observed[g].add(float64(w * died[g]))
		l.expected[g].add(float64(w * (float64(d*risk[g]) / n)))
		for h := 0; h <= g; h++ {
			if n > 1 {
				v := -float64((risk[g] / n) * (risk[h] / n))
				if h == g {
					v = float64((risk[g] / n) * ((n - risk[g]) / n))
				}
				l.variance[k].add(float64(float64(w*w) * float64(v*(float64(d*(n-d))/(n-1)))))
			}
			k++
		}
	}
}

func logrankLocal(f *frame, r *consilium.Response, by, strata *grouping, weights *consilium.Weights) (*logrankSums, error) {
	l := newLogrankSums(by.n)
	stop, event := f.num[r.Stop], f.num[r.Event]
	groups := make([][]int, strata.n)
	for i := 0; i < f.n; i++ {
		if event[i] != 0 && event[i] != 1 {
			return nil, consilium.ErrData.Withf("column %s: an event that is neither 0 nor 1", r.Event)
		}
		if stop[i] < 0 || r.Start != "" && !(f.num[r.Start][i] < stop[i]) {
			return nil, consilium.ErrData.Withf("column %s: a time below 0, or an interval that does not end after it starts", r.Stop)
		}
		l.rows[by.of(f, i)]++
		l.events += event[i]
		s := strata.of(f, i)
		groups[s] = append(groups[s], i)
	}
	for _, rows := range groups {
		byStop := append([]int(nil), rows...)
		sort.SliceStable(byStop, func(a, b int) bool { return stop[byStop[a]] > stop[byStop[b]] })
		var byStart []int
		if r.Start != "" {
			byStart = append([]int(nil), rows...)
			sort.SliceStable(byStart, func(a, b int) bool { return f.num[r.Start][byStart[a]] > f.num[r.Start][byStart[b]] })
		}
		risk, died := make([]float64, by.n), make([]float64, by.n)
		var history [][2][]float64 // at risk and with the event, by falling time
		out := 0
		for i := 0; i < len(byStop); {
			t := stop[byStop[i]]
			clear(died)
			for ; i < len(byStop) && stop[byStop[i]] == t; i++ {
				g := by.of(f, byStop[i])
				risk[g]++
				died[g] += event[byStop[i]]
			}
			for ; out < len(byStart) && f.num[r.Start][byStart[out]] >= t; out++ {
				risk[by.of(f, byStart[out])]--
			}
			if weights == nil {
				l.add(risk, died, 1)
				continue
			}
			history = append(history, [2][]float64{append([]float64(nil), risk...), append([]float64(nil), died...)})
		}
		// The weights follow the survival curve forwards.
		f := newHarrington(weights)
		for i := len(history) - 1; i >= 0; i-- {
			l.add(history[i][0], history[i][1], f.next(history[i][0], history[i][1]))
		}
	}
	return l, nil
}

// harrington is the weight S(t-)^rho (1 - S(t-))^gamma of Fleming and
// Harrington, S being the Kaplan-Meier curve of all groups of a stratum
// together, just before each time.
type harrington struct {
	w    *consilium.Weights
	surv float64
}

func newHarrington(w *consilium.Weights) *harrington { return &harrington{w, 1} }

// next is the weight at the next time, in rising order.
func (h *harrington) next(risk, died []float64) float64 {
	if h.w == nil {
		return 1
	}
	w := float64(power(h.surv, h.w.Rho) * power(1-h.surv, h.w.Gamma))
	n, d := 0.0, 0.0
	for g := range risk {
		n += risk[g]
		d += died[g]
	}
	if n > 0 {
		h.surv = float64(h.surv * (n - d) / n)
	}
	return w
}

// power is x to the k, for x in [0, 1] and k at least 0.
func power(x, k float64) float64 {
	switch {
	case k == 0:
		return 1
	case x <= 0:
		return 0
	case k == math.Trunc(k):
		out := 1.0
		for ; k > 0; k-- {
			out = float64(out * x)
		}
		return out
	}
	return det.Exp(float64(k * det.Log(x)))
}

// logrankTest is the chi-square of observed against expected over the groups
// that have anything expected.
func logrankTest(observed, expected []float64, variance [][]float64) (stat float64, df int, ok bool) {
	var keep []int
	for g, e := range expected {
		if e > 0 {
			keep = append(keep, g)
		}
	}
	if len(keep) < 2 {
		return 0, 0, false
	}
	keep = keep[1:]
	diff, v := make([]float64, len(keep)), newMatrix(len(keep))
	for i, g := range keep {
		diff[i] = observed[g] - expected[g]
		for j, h := range keep {
			v[i][j] = variance[g][h]
		}
	}
	stat, ok = quadratic(diff, v)
	return stat, len(keep), ok
}

func renderLogrank(facts consilium.Facts, a *consilium.AnalysisSpec, by *grouping, cohort, rows, observed, expected []float64, variance [][]float64, how string) any {
	type group struct {
		Name     string            `json:"name"`
		Levels   map[string]string `json:"levels"`
		N        *float64          `json:"n"`
		Observed *float64          `json:"observed"`
		Expected *float64          `json:"expected"`
	}
	out := struct {
		head
		Groups  []group            `json:"groups"`
		Var     [][]float64        `json:"var"`
		Chisq   float64            `json:"chisq"`
		DF      int                `json:"df"`
		P       float64            `json:"p"`
		Weights *consilium.Weights `json:"weights,omitempty"`
	}{head: newHead(a, cohort, true), Var: variance, Weights: a.Weights}
	out.Assumptions = append(out.Assumptions, how)
	sizes := cohort[cohortFixed:]
	hidden := hiddenGroups(sizes, sizes, float64(facts.MinCohort))
	for g := 0; g < by.n; g++ {
		r := group{Name: by.name(g), Levels: by.values(g)}
		if hidden[g] && !facts.Permitted(PermitSmallCells) {
			out.Suppressed = append(out.Suppressed, suppressed{"counts of " + r.Name, small(facts)})
		} else {
			r.N, r.Observed, r.Expected = finite(rows[g]), finite(observed[g]), finite(expected[g])
		}
		out.Groups = append(out.Groups, r)
	}
	out.Chisq, out.DF, _ = logrankTest(observed, expected, variance)
	out.P = det.ChiSquareTail(out.Chisq, out.DF)
	return out
}
