package models

import (
	"context"
	"math"
	"slices"
	"sort"

	"consilium"
	"consilium/internal/det"
)

// coxSpec is what only Cox models have.
type coxSpec struct {
	start, stop, event string
	strata             []string // besides the hospital
	efron              bool
	common             *commonSpec // one baseline for all hospitals, or nil
	varying            []string    // time function of each column, "" for none; nil if none has one
}

// coxFitLen: the log partial likelihood.
const coxFitLen = 1

// newCox makes a proportional hazards model, stratified by hospital: every
// hospital has a baseline hazard of its own, so that its risk sets never meet
// another's and no time leaves it.
func newCox(facts consilium.Facts, a *consilium.AnalysisSpec) (Analysis, error) {
	spec := facts.Spec
	if err := needResponse(spec, a.Response, true); err != nil {
		return nil, err
	}
	if len(a.Terms) == 0 {
		return nil, consilium.ErrInvalid.Withf("terms: a Cox model needs at least one")
	}
	c := &coxSpec{start: a.Response.Start, stop: a.Response.Stop, event: a.Response.Event}
	switch a.Ties {
	case "", "efron":
		c.efron = true
	case "breslow":
	default:
		return nil, consilium.ErrInvalid.Withf("ties %q%s; want efron or breslow", a.Ties, suggest(a.Ties, []string{"efron", "breslow"}))
	}
	if b := a.Baseline; b != nil {
		switch b.Kind {
		case "", "stratified":
		case "piecewise":
			return newPiecewise(facts, a)
		case "common":
			if !facts.Permitted(PermitCommon) {
				return nil, consilium.ErrInvalid.Withf("baseline common opens sums over risk sets, from which patients can be recovered: ask the board to permit %s, or use the default (stratified by hospital) or piecewise",
					PermitCommon)
			}
			grid, err := newTimeGrid(facts, b.Grid, a.Response.Stop)
			if err != nil {
				return nil, err
			}
			strata, err := newGrouping(spec, "strata", a.Strata)
			if err != nil {
				return nil, err
			}
			if strata.n*(grid.cells+2) > maxCommon {
				return nil, consilium.ErrInvalid.Withf("baseline: %d strata on %d cells are too many", strata.n, grid.cells)
			}
			if c.start != "" && !facts.Permitted(PermitFineGrid) {
				return nil, consilium.ErrInvalid.Withf("response.start: with entry times the sums of a common baseline tell single rows apart by when they begin: ask the board to permit %s, analyse the first interval of each patient, or use the default baseline (stratified by hospital) or piecewise",
					PermitFineGrid)
			}
			c.common = &commonSpec{grid: grid, strata: strata, join: !facts.Permitted(PermitFineGrid)}
		default:
			return nil, consilium.ErrInvalid.Withf("baseline %q%s; want stratified, piecewise or common", b.Kind, suggest(b.Kind, []string{"stratified", "piecewise", "common"}))
		}
	}
	for _, s := range a.Strata {
		if c.common != nil {
			break // factors, read below
		}
		if s == "site" {
			continue
		}
		if col, ok := spec.Column(s); !ok || col.Type == consilium.TypeID || col.Type == consilium.TypeNumber {
			return nil, consilium.ErrInvalid.Withf("strata: %s; want levels, a flag, an integer or site", unknownColumn(spec, s))
		}
		c.strata = append(c.strata, s)
	}
	if err := needRidge(a); err != nil {
		return nil, err
	}
	d, err := newDesign(spec, a.Terms, true)
	if err != nil {
		return nil, err
	}
	if d.site {
		return nil, consilium.ErrInvalid.Withf("terms: site cannot be a term of a Cox model that is stratified by hospital; leave it out, the strata already allow for it")
	}
	if err := c.addTimeTerms(spec, d, a); err != nil {
		return nil, err
	}
	g := &regression{facts: facts, spec: a, d: d, family: familyCox, cox: c, ridge: a.Ridge, phCheck: a.PHCheck, concordance: a.Concordance}
	if kinds := []string{"identity", "log"}; a.PHCheck != "" && !contains(kinds, a.PHCheck) {
		return nil, consilium.ErrInvalid.Withf("phCheck %q%s; want identity or log (other transforms of R need times from every hospital)", a.PHCheck, suggest(a.PHCheck, kinds))
	}
	if err := g.setCluster(a); err != nil {
		return nil, err
	}
	numeric := unique(append([]string{c.start, c.stop, c.event}, d.numeric...)...)
	factors := unique(d.factors...)
	for _, s := range c.strata {
		if _, ok := levelsColumn(spec, s); ok {
			factors = unique(append(factors, s)...)
		} else {
			numeric = unique(append(numeric, s)...)
		}
	}
	if c.common != nil {
		factors = unique(append(factors, c.common.strata.columns...)...)
	}
	g.reads = want{numeric: numeric, factors: factors}
	if a.Lasso != 0 || a.Penalty != nil {
		return newPenalised(g)
	}
	return g, nil
}

func needRidge(a *consilium.AnalysisSpec) error {
	if !(a.Ridge >= 0) || math.IsInf(a.Ridge, 0) {
		return consilium.ErrInvalid.Withf("ridge %v: want 0 or more", a.Ridge)
	}
	return nil
}

// setCluster reads `cluster` and `robust`. Clusters lie within one hospital,
// so only its patients and the hospital itself can be one.
func (g *regression) setCluster(a *consilium.AnalysisSpec) error {
	g.robust = a.Robust || a.Cluster != ""
	switch a.Cluster {
	case "", g.facts.Spec.Data.Patient:
	case "site":
		g.bySite = true
	default:
		return consilium.ErrInvalid.Withf("cluster %s: want %s (the patient) or site, since a cluster may not reach across hospitals", a.Cluster, g.facts.Spec.Data.Patient)
	}
	return nil
}

// stratum is one risk-set history at one hospital.
type stratum struct {
	rows   []int // by falling stop time
	starts []int // by falling start time; nil without start times
}

func sortBy(rows []int, less func(i, j int) bool) {
	slices.SortStableFunc(rows, func(a, b int) int {
		switch {
		case less(a, b):
			return -1
		case less(b, a):
			return 1
		}
		return 0
	})
}

// strata groups rows by the extra strata columns, in the order of their values.
func (c *coxSpec) groups(data *frame) [][]int {
	rows := make([]int, data.n)
	for i := range rows {
		rows[i] = i
	}
	value := func(name string, i int) float64 {
		if v, ok := data.code[name]; ok {
			return float64(v[i])
		}
		return data.num[name][i]
	}
	names := c.strata
	if c.common != nil {
		names = c.common.strata.columns
	}
	if len(names) == 0 && data.n > 0 {
		return [][]int{rows}
	}
	compare := func(i, j int) int {
		for _, s := range names {
			switch a, b := value(s, i), value(s, j); {
			case a < b:
				return -1
			case a > b:
				return 1
			}
		}
		return 0
	}
	sort.SliceStable(rows, func(a, b int) bool { return compare(rows[a], rows[b]) < 0 })
	var out [][]int
	for k := 0; k < len(rows); {
		e := k + 1
		for e < len(rows) && compare(rows[k], rows[e]) == 0 {
			e++
		}
		out = append(out, rows[k:e])
		k = e
	}
	return out
}

// stratum sorts the rows of one risk-set history.
func (c *coxSpec) stratum(data *frame, rows []int) stratum {
	stop, start := data.num[c.stop], data.num[c.start]
	s := stratum{rows: fallingOrder(rows, stop)}
	if start != nil {
		s.starts = fallingOrder(rows, start)
	}
	return s
}

// checkTimes refuses times and events that mean nothing.
func (c *coxSpec) checkTimes(data *frame) error {
	stop, event, start := data.num[c.stop], data.num[c.event], data.num[c.start]
	for i := range stop {
		if event[i] != 0 && event[i] != 1 {
			return consilium.ErrData.Withf("column %s: an event that is neither 0 nor 1", c.event)
		}
		if start != nil && !(start[i] < stop[i]) {
			return consilium.ErrData.Withf("columns %s and %s: an interval does not end after it starts", c.start, c.stop)
		}
		if stop[i] < 0 {
			return consilium.ErrData.Withf("column %s: a time below 0", c.stop)
		}
	}
	return nil
}

func (c *coxSpec) eventsOf(data *frame) float64 {
	n := 0.0
	for i, e := range data.num[c.event] {
		if c.common == nil || c.common.grid.cell(data.num[c.stop][i]) <= c.common.grid.cells {
			n += e
		}
	}
	return n
}

// linear is the linear predictor of every row, without a baseline.
func (g *regression) linear(f *fit, x [][]float64, n int) []float64 {
	eta := make([]float64, n)
	addColumns(eta, x, f.theta[g.q()-g.p():])
	return eta
}

// coxLocal computes what a hospital adds in the last round or where effects change
// with time; every other step is coxStep.
func (g *regression) coxLocal(ctx context.Context, data *frame, x [][]float64, f *fit, phase uint32) (*localFit, error) {
	c := g.cox
	stop, event := data.num[c.stop], data.num[c.event]
	var start []float64
	if c.start != "" {
		start = data.num[c.start]
	}
	l := g.newLocal(coxFitLen)
	if err := c.checkTimes(data); err != nil {
		return nil, err
	}
	l.events = c.eventsOf(data)
	eta := g.linear(f, x, data.n)
	var residual [][]float64
	if phase == phaseFinal {
		if g.phCheck != "" {
			l.ph = &phSums{g.phCheck, make([]total, g.q()), make([]total, packedLen(g.q())), make([]total, packedLen(g.q()))}
			for i := range stop {
				if g.phCheck == "log" && event[i] == 1 && !(stop[i] > 0) {
					return nil, consilium.ErrData.Withf("column %s: an event at time 0 has no logarithm; use phCheck identity", c.stop)
				}
			}
		}
		if g.concordance {
			l.concord = make([]total, concordanceLen)
		}
	}
	if phase == phaseFinal && g.robust {
		residual = make([][]float64, len(x))
		for j := range residual {
			residual[j] = make([]float64, data.n)
		}
	}
	for _, rows := range c.groups(data) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		s := c.stratum(data, rows)
		if c.varying != nil {
			if err := g.coxStratumVarying(l, &s, x, f.theta, start, stop, event, residual); err != nil {
				return nil, err
			}
			continue
		}
		if residual != nil || l.ph != nil {
			g.coxStratum(l, &s, x, eta, start, stop, event, residual)
		}
		if l.concord != nil {
			concord(l.concord, &s, eta, start, stop, event)
		}
	}
	if residual != nil {
		g.clusterMeat(l, data, residual)
	}
	return l, nil
}

// hazardStep is what one event time adds to the score residuals: the summed
// hazard increments h and h times the mean covariates, for rows at risk and
// (Efron) for the rows that have the event.
type hazardStep struct {
	time        float64
	h, hEvent   float64
	hx, hxEvent []float64
	mean        []float64 // of the covariates, averaged over the tied events
}

func (g *regression) coxStratum(l *localFit, s *stratum, x [][]float64, eta, start, stop, event []float64, residual [][]float64) {
	p := len(x)
	// Score and information do not change when all covariates move by a
	// constant; near their centre the second moments keep their digits.
	centre := make([]float64, p)
	shift := math.Inf(-1)
	for _, i := range s.rows {
		for j := range x {
			centre[j] += x[j][i]
		}
		shift = math.Max(shift, eta[i])
	}
	for j := range centre {
		centre[j] /= float64(len(s.rows))
	}
	risk := func(i int) float64 { return det.Exp(eta[i] - shift) }
	s0 := total{}
	s1, s2 := make([]total, p), make([]total, packedLen(p))
	z := make([]float64, p)
	move := func(i int, sign float64) {
		w := float64(sign * risk(i))
		s0.add(w)
		k := 0
		for a := 0; a < p; a++ {
			z[a] = x[a][i] - centre[a]
			wz := float64(w * z[a])
			s1[a].add(wz)
			for b := 0; b <= a; b++ {
				s2[k].add(float64(wz * z[b]))
				k++
			}
		}
	}
	var steps []hazardStep // by falling time
	in, out := 0, 0
	d1, d2 := make([]float64, p), make([]float64, packedLen(p))
	mean := make([]float64, p)
	for at := 0; at < len(s.rows); {
		t := stop[s.rows[at]]
		end := at
		deaths := 0
		for end < len(s.rows) && stop[s.rows[end]] == t {
			if event[s.rows[end]] == 1 {
				deaths++
			}
			end++
		}
		if deaths == 0 {
			at = end
			continue
		}
		for ; in < end; in++ {
			move(s.rows[in], 1)
		}
		for ; out < len(s.starts) && start[s.starts[out]] >= t; out++ {
			move(s.starts[out], -1)
		}
		when := 0.0
		if l.ph != nil {
			when = timeValue(l.ph.transform, t)
		}
		d0 := 0.0
		clear(d1)
		clear(d2)
		for _, i := range s.rows[at:end] {
			if event[i] != 1 {
				continue
			}
			w := risk(i)
			d0 += w
			l.fit[0].add(eta[i] - shift)
			k := 0
			for a := 0; a < p; a++ {
				z[a] = x[a][i] - centre[a]
				l.score[a].add(z[a])
				if l.ph != nil {
					l.ph.score[a].add(float64(when * z[a]))
				}
				d1[a] += float64(w * z[a])
				for b := 0; b <= a; b++ {
					d2[k] += float64(float64(w*z[a]) * z[b])
					k++
				}
			}
		}
		var step hazardStep
		if residual != nil {
			step = hazardStep{time: t, hx: make([]float64, p), hxEvent: make([]float64, p), mean: make([]float64, p)}
		}
		for m := 0; m < deaths; m++ {
			share := 0.0 // of the tied rows that already left the risk set
			if g.cox.efron {
				share = float64(m) / float64(deaths)
			}
			r0 := s0.value() - float64(share*d0)
			l.fit[0].add(-det.Log(r0))
			for a := 0; a < p; a++ {
				mean[a] = (s1[a].value() - float64(share*d1[a])) / r0
				l.score[a].add(-mean[a])
				if l.ph != nil {
					l.ph.score[a].add(-float64(when * mean[a]))
				}
			}
			if residual == nil || l.ph != nil {
				k := 0
				for a := 0; a < p; a++ {
					for b := 0; b <= a; b++ {
						v := (s2[k].value()-float64(share*d2[k]))/r0 - float64(mean[a]*mean[b])
						if l.ph != nil {
							l.ph.cross[k].add(float64(when * v))
							l.ph.square[k].add(float64(float64(when*when) * v))
						} else {
							l.information[k].add(v)
						}
						k++
					}
				}
			}
			if residual == nil {
				continue
			}
			stay := 1 - share
			step.h += 1 / r0
			step.hEvent += stay / r0
			for a := 0; a < p; a++ {
				step.hx[a] += mean[a] / r0
				step.hxEvent[a] += float64(stay*mean[a]) / r0
				step.mean[a] += mean[a] / float64(deaths)
			}
		}
		if residual != nil {
			steps = append(steps, step)
		}
		at = end
	}
	if residual != nil {
		scoreResiduals(steps, s.rows, x, centre, risk, start, stop, event, residual)
	}
}

// scoreResiduals fills the score residual of every row (Therneau and
// Grambsch, section 4.2): its own event's distance from the mean, less what its
// hazard was expected to contribute while it was at risk.
func scoreResiduals(steps []hazardStep, rows []int, x [][]float64, centre []float64, risk func(int) float64, start, stop, event []float64, residual [][]float64) {
	p := len(x)
	n := len(steps)
	sort.SliceStable(steps, func(a, b int) bool { return steps[a].time < steps[b].time })
	h := make([]total, n+1) // sums over the first k steps
	hx := make([][]total, p)
	for a := range hx {
		hx[a] = make([]total, n+1)
	}
	for k := range steps {
		h[k+1] = h[k]
		h[k+1].add(steps[k].h)
		for a := 0; a < p; a++ {
			hx[a][k+1] = hx[a][k]
			hx[a][k+1].add(steps[k].hx[a])
		}
	}
	for _, i := range rows {
		first := 0
		if start != nil {
			first = sort.Search(n, func(k int) bool { return steps[k].time > start[i] })
		}
		last := sort.Search(n, func(k int) bool { return steps[k].time > stop[i] })
		w := risk(i)
		dh := h[last].value() - h[first].value()
		for a := 0; a < p; a++ {
			z := x[a][i] - centre[a]
			dx := hx[a][last].value() - hx[a][first].value()
			e := float64(z*dh) - dx
			r := 0.0
			if event[i] == 1 {
				own := &steps[last-1]
				r = z - own.mean[a]
				e += float64(z*(own.hEvent-own.h)) - (own.hxEvent[a] - own.hx[a])
			}
			residual[a][i] = r - float64(w*e)
		}
	}
}
