package models

import (
	"context"
	"errors"
	"math"
	"sort"

	"consilium/internal/det"
)

// A Cox model with one baseline hazard for all hospitals. Its risk sets reach
// across hospitals, so that sums over them are opened at public times.
// Differences of consecutive sums describe whoever left in between: on a daily
// grid of the CGD trial they gave away 79 of 128 patients exactly. So the board
// must permit it by name (PermitCommon), and unless it also permits fine grids
// the first round counts how many patients leave in each cell and joins cells
// until at least k leave in each. Then no risk set is about fewer than k
// patients, and no difference of two is.
//
// Events divide a stretch: Efron's ties ask for sums over the rows with the event,
// what is left of the difference is those who leave without, and the score sums
// the columns of all events. So in each stretch nobody or at least k patients have
// the event, and nobody or at least k leave without. Entry times would divide it
// further, by when rows begin: they need the permission for fine grids.
//
// Levels divide it once more: the products of a level's column with the others are
// sums over its patients alone. So the second round counts patients per level of
// each stretch, and stretches are joined until each has nobody or at least three of
// every level, with the event and without (minLevelPatients; PermitSmallLevels).
//
// Rows of a stratum without such a stretch are not in the fit, and by design these
// are few. So nothing is opened over everybody that is opened again over the fit:
// the first round counts patients by stratum and cell, sums are of risk sets only.

// fewStretches is where a result warns: with seven stretches the treatment's
// coefficient of the CGD trial is -0.99 (Breslow), with three -0.85, with one (and
// four terms, not six) -0.72, on exact times -1.12.
const fewStretches = 10

// PermitCommon is the board's exception for a baseline hazard that hospitals
// share.
const PermitCommon = "cox-common-baseline"

// maxCommon bounds strata times cells, whose sums of squares travel.
const maxCommon = 1 << 14

// commonSpec is a public grid with strata that reach across hospitals.
type commonSpec struct {
	grid   *timeGrid
	strata *grouping
	join   bool // cells, see joinCells
}

// cells counts positions of the first round's tallies: the cells of every
// stratum, 0 to grid.cells, and beyond.
func (c *commonSpec) width() int { return c.grid.cells + 2 }

// interval is a stretch of joined cells up to and with cell `end`, of one
// stratum, in which deaths events happened over all hospitals.
type interval struct{ stratum, end, deaths float64 }

const intervalLen = 3

func (f *fit) interval(i int) interval {
	return interval{f.intervals[intervalLen*i], f.intervals[intervalLen*i+1], f.intervals[intervalLen*i+2]}
}

// deadly lists the intervals with an event: only their risk sets are summed.
func (f *fit) deadly() []int {
	var out []int
	for i := 0; i < len(f.intervals)/intervalLen; i++ {
		if f.interval(i).deaths > 0 {
			out = append(out, i)
		}
	}
	return out
}

// momentsLen of one risk set: sum of weights, of weighted columns, of their
// products.
func momentsLen(p int) int { return 1 + p + packedLen(p) }

// commonTally is the first round's counts, by stratum and cell.
type commonTally struct {
	leaving  []float64 // patients by the cell of their last time
	events   []float64
	falling  []float64 // patients by the cell of their last event
	censored []float64 // rows without
	staying  []float64 // patients by the cell of their last row without
}

// blocks lists the counts as they travel.
func (t *commonTally) blocks() []struct {
	name string
	to   *[]float64
} {
	return []struct {
		name string
		to   *[]float64
	}{{"leaving", &t.leaving}, {"events", &t.events}, {"falling", &t.falling}, {"censored", &t.censored}, {"staying", &t.staying}}
}

func (g *regression) coxCommonTally(data *frame) commonTally {
	c := g.cox
	w := c.common.width()
	n := c.common.strata.n * w
	var t commonTally
	for _, b := range t.blocks() {
		*b.to = make([]float64, n)
	}
	type who struct{ patient, stratum int32 }
	last, fell, stayed := map[who]int{}, map[who]int{}, map[who]int{}
	latest := func(of map[who]int, p who, cell int) {
		if at, ok := of[p]; !ok || cell > at {
			of[p] = cell
		}
	}
	for i, stop := range data.num[c.stop] {
		s, cell := c.common.strata.of(data, i), c.common.grid.cell(stop)
		p := who{data.patient[i], int32(s)}
		latest(last, p, cell)
		if cell > c.common.grid.cells || data.num[c.event][i] == 0 {
			t.censored[s*w+cell]++
			latest(stayed, p, cell)
		} else {
			t.events[s*w+cell]++
			latest(fell, p, cell)
		}
	}
	// Counts: any order gives the same bits.
	for p, cell := range last {
		t.leaving[int(p.stratum)*w+cell]++
	}
	for p, cell := range fell {
		t.falling[int(p.stratum)*w+cell]++
	}
	for p, cell := range stayed {
		t.staying[int(p.stratum)*w+cell]++
	}
	return t
}

// joinCells makes the intervals from the opened tallies: in each at least k
// patients leave, nobody or at least k with the event, and nobody or at least k
// without. Whoever stays beyond the grid leaves with its end. A stratum whose cells
// may not be told even together takes no part.
func (c *commonSpec) joinCells(t commonTally, k float64) []float64 {
	var out []float64
	w := c.width()
	for s := 0; s < c.strata.n; s++ {
		at := s * w
		told := func(from, to int) bool {
			if to == w-1 {
				to = w
			}
			sum := func(v []float64) float64 { return sumOf(v[at:], from, to) }
			return !c.join || sum(t.leaving) >= k && (sum(t.events) == 0 || sum(t.falling) >= k) && (sum(t.censored) == 0 || sum(t.staying) >= k)
		}
		for _, v := range join(c.grid.cells+1, told) {
			out = append(out, float64(s), float64(v[1]-1), sumOf(t.events[at:], v[0], v[1]))
		}
	}
	return out
}

// inFit reports whether a row is at risk in any interval.
func (c *commonSpec) inFit(f *fit, data *frame, start, stop []float64) func(row int) bool {
	first, end := c.bounds(f)
	return func(i int) bool {
		s := c.strata.of(data, i)
		if first[s] == end[s] {
			return false
		}
		entry := 0.0
		if start != nil {
			entry = start[i]
		}
		from, to, _ := c.span(f, first[s], end[s], entry, stop[i], start != nil)
		return from <= to
	}
}

// The block "fitted": rows, patients and events of the fit, and with the counts of
// levels of what it was then.
const (
	fittedRows = iota
	fittedPatients
	fittedEvents
	fittedFixed
)

// writeTally writes the first round: patients, no levels where cells are joined,
// and who leaves where (which also says how many rows and events there are).
func (g *regression) writeTally(w Writer, data *frame, rows *Rows) error {
	if err := g.cox.checkTimes(data); err != nil {
		return err
	}
	levels := make([]float64, len(g.d.checks))
	if !g.cox.common.join {
		levels = g.d.levelCounts(data)
	}
	cohort := cohortBlock(data, rows, 0, levels)
	cohort[cohortRows] = 0
	if err := write(w, "cohort", cohort); err != nil {
		return err
	}
	t := g.coxCommonTally(data)
	for _, b := range t.blocks() {
		if err := write(w, b.name, *b.to); err != nil {
			return err
		}
	}
	return nil
}

// firstTally joins the cells from the first round's counts.
func (g *regression) firstTally(f *fit, o Opened, round uint32) (*State, error) {
	c := g.cox.common
	n := c.strata.n * c.width()
	var err error
	if f.cohort, err = o.take("cohort", cohortFixed+len(g.d.checks)); err != nil {
		return nil, err
	}
	var t commonTally
	for _, b := range t.blocks() {
		if *b.to, err = o.take(b.name, n); err != nil {
			return nil, err
		}
	}
	k := float64(g.facts.MinCohort)
	switch {
	case f.cohort[cohortPatients] < 1:
		return failed(round, failRows, 0), nil
	case f.cohort[cohortPatients] < k:
		return failed(round, failPatients, 0), nil
	case sumOf(t.events, 0, n) == 0:
		return failed(round, failEvents, 0), nil
	}
	if f.intervals = c.joinCells(t, k); len(f.deadly()) == 0 {
		return failed(round, failStretch, 0), nil
	}
	if g.facts.Permitted(PermitSmallLevels) || len(g.d.checks) == 0 {
		return g.save(f, phaseFit, round)
	}
	if c.join {
		return g.save(f, phaseLevels, round)
	}
	for i, n := range f.cohort[cohortFixed:] {
		if n < minLevelPatients {
			return failed(round, failLevel, i), nil
		}
	}
	return g.save(f, phaseFit, round)
}

// stretchLevels counts the patients of each level who leave in each interval
// without the event, then with it: by check, kind and interval. A patient with
// several rows may count in several of them.
func (g *regression) stretchLevels(data *frame, f *fit) []float64 {
	c := g.cox
	first, end := c.common.bounds(f)
	n := len(f.intervals) / intervalLen
	at := make([]int, data.n) // kind and interval of each row
	for i := range at {
		s := c.common.strata.of(data, i)
		_, to, inside := c.common.span(f, first[s], end[s], 0, data.num[c.stop][i], false)
		if at[i] = to; inside && data.num[c.event][i] == 1 {
			at[i] += n
		}
	}
	out := make([]float64, 2*n*len(g.d.checks))
	for k := range g.d.checks {
		seen := map[[2]int]bool{}
		for i, v := range at {
			if who := [2]int{v, int(data.patient[i])}; g.d.checks[k].holds(data, i) && !seen[who] {
				seen[who] = true
				out[2*n*k+v]++
			}
		}
	}
	return out
}

// joinLevels joins intervals until each has nobody or at least minLevelPatients
// of every level, without the event and with it. Strata whose intervals may not be
// told even together take no part. once says that every patient has one row.
func (g *regression) joinLevels(f *fit, levels []float64, once bool) (intervals []float64) {
	n := len(f.intervals) / intervalLen
	first, end := g.cox.common.bounds(f)
	for s := range first {
		told := func(from, to int) bool {
			for at := first[s]; at < len(levels); at += n {
				if v := levels[at+from : at+to]; sumOf(v, 0, len(v)) > 0 && atLeast(v, once) < minLevelPatients {
					return false
				}
			}
			return true
		}
		for _, v := range join(end[s]-first[s], told) {
			deaths := 0.0
			for i := v[0]; i < v[1]; i++ {
				deaths += f.interval(first[s] + i).deaths
			}
			intervals = append(intervals, float64(s), f.interval(first[s]+v[1]-1).end, deaths)
		}
	}
	return intervals
}

// secondTally judges the counts of levels.
func (g *regression) secondTally(f *fit, o Opened, round uint32) (*State, error) {
	n := 2 * len(f.intervals) / intervalLen
	fitted, err := o.take("fitted", fittedFixed)
	if err != nil {
		return nil, err
	}
	levels, err := o.take("levels", n*len(g.d.checks))
	if err != nil {
		return nil, err
	}
	once := fitted[fittedRows] == fitted[fittedPatients]
	for k := range g.d.checks {
		if atLeast(levels[n*k:n*(k+1)], once) < minLevelPatients {
			return failed(round, failLevel, k), nil
		}
	}
	if f.intervals = g.joinLevels(f, levels, once); len(f.deadly()) == 0 {
		return failed(round, failStretch, 0), nil
	}
	return g.save(f, phaseFit, round)
}

// checkFitted applies the rules on counts to what is left after strata that take
// no part.
func (g *regression) checkFitted(f *fit) (code int) {
	switch {
	case f.fitted[fittedRows] < 1:
		return failRows
	case f.fitted[fittedPatients] < float64(g.facts.MinCohort):
		return failPatients
	}
	return 0
}

// far is how many standard deviations a column's mean, and how many powers of
// two its spread, may be off before its sums of squares lose digits that the
// result shows.
const far = 16

// measure moves the state to mean and spread of the columns among the first who
// are at risk, if some column is far from its public scale, and says whether it
// did. Nothing else is opened for it: at coefficients zero the risk sets are
// moments. Coefficients zero are zero on every scale.
func (g *regression) measure(f *fit, risk []float64) bool {
	p := g.p()
	m := momentsLen(p)
	sum := make([]float64, m)
	stratum := -1.0
	for n, i := range f.deadly() {
		if v := f.interval(i); v.stratum != stratum {
			stratum = v.stratum
			for k := range sum {
				sum[k] += risk[n*m+k]
			}
		}
	}
	if !(sum[0] > 0) {
		return false
	}
	mean, ratio := make([]float64, p), make([]float64, p)
	off := false
	k := 1 + p
	for j := range mean {
		mean[j] = sum[1+j] / sum[0]
		square := sum[k+j] / sum[0] // packed: the diagonal ends each row
		k += j + 1
		sd := spread(mean[j], square)
		ratio[j] = powerOfTwo(sd)
		off = off || math.Abs(mean[j]) > float64(far*sd) || ratio[j] < 1/float64(1<<far) || ratio[j] > 1<<far
	}
	if !off {
		return false
	}
	for j := range mean {
		f.mean[j] += float64(mean[j] * f.scale[j])
		f.scale[j] = float64(f.scale[j] * ratio[j])
	}
	return true
}

// fitted is a hospital's part of the block.
func (c *coxSpec) fitted(data *frame) []float64 {
	return []float64{float64(data.n), float64(data.patients), c.eventsOf(data)}
}

// leftOut names the strata that take no part.
func (c *commonSpec) leftOut(f *fit) []string {
	var out []string
	first, end := c.bounds(f)
	for s := range first {
		if first[s] == end[s] {
			out = append(out, c.strata.name(s))
		}
	}
	return out
}

// span is the half-open range of a row's intervals: at risk in those after
// `from` up to and with `to`. Times round up, entries down.
func (c *commonSpec) span(f *fit, first, end int, start, stop float64, hasStart bool) (from, to int, inside bool) {
	cell := c.grid.cell(stop)
	to = first + sort.Search(end-first, func(i int) bool { return int(f.interval(first+i).end) >= cell })
	inside = to < end
	if !inside {
		to = end - 1
	}
	from = first
	if hasStart {
		entry := int(math.Floor(start / c.grid.step))
		for entry > 0 && float64(float64(entry)*c.grid.step) > start {
			entry--
		}
		for float64(float64(entry+1)*c.grid.step) <= start {
			entry++
		}
		if start >= 0 {
			from = first + sort.Search(end-first, func(i int) bool { return int(f.interval(first+i).end) > entry })
		}
	}
	return from, to, inside
}

// bounds finds each stratum's intervals.
func (c *commonSpec) bounds(f *fit) (first, end []int) {
	first, end = make([]int, c.strata.n), make([]int, c.strata.n)
	n := len(f.intervals) / intervalLen
	at := 0
	for s := range first {
		first[s] = at
		for at < n && int(f.interval(at).stratum) == s {
			at++
		}
		end[s] = at
	}
	return first, end
}

// coxCommonLocal sums the risk sets of the intervals with an event.
func (g *regression) coxCommonLocal(ctx context.Context, data *frame, x [][]float64, f *fit, phase uint32) (*localFit, error) {
	c := g.cox
	l := g.newLocal(coxFitLen)
	if err := c.checkTimes(data); err != nil {
		return nil, err
	}
	stop, event, start := data.num[c.stop], data.num[c.event], data.num[c.start]
	first, end := c.common.bounds(f)
	eta := g.linear(f, x, data.n)
	p := len(x)
	n := len(f.intervals) / intervalLen
	diverged := false
	for _, v := range eta {
		diverged = diverged || math.Abs(v) > 500
	}
	if phase == phaseFinal {
		if g.robust {
			g.coxCommonResiduals(l, data, x, f, eta, first, end)
		}
		if g.concordance {
			l.concord = make([]total, concordanceLen)
			for _, rows := range c.groups(data) {
				s := c.stratum(data, rows)
				concord(l.concord, &s, eta, start, stop, event)
			}
		}
		return l, nil
	}
	l.risk, l.tied = make([][]total, n), make([][]total, n)
	for i := range l.risk {
		l.risk[i], l.tied[i] = make([]total, momentsLen(p)), make([]total, momentsLen(p))
	}
	if diverged {
		l.fit[0] = total{hi: 1}
		return l, nil
	}
	z := make([]float64, p)
	moment := func(to []total, w float64) {
		to[0].add(w)
		k := 1 + p
		for a := 0; a < p; a++ {
			wz := float64(w * z[a])
			to[1+a].add(wz)
			for b := 0; b <= a; b++ {
				to[k].add(float64(wz * z[b]))
				k++
			}
		}
	}
	// Each row is added where it leaves and taken away where it enters; the
	// sums from the last interval down are the risk sets.
	change := make([][]total, n)
	for i := range change {
		change[i] = make([]total, momentsLen(p))
	}
	for i := 0; i < data.n; i++ {
		if i%4096 == 0 {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
		}
		s := c.common.strata.of(data, i)
		var entry float64
		if start != nil {
			entry = start[i]
		}
		from, to, inside := c.common.span(f, first[s], end[s], entry, stop[i], start != nil)
		for a := range z {
			z[a] = x[a][i]
		}
		w := det.Exp(eta[i])
		moment(change[to], w)
		if from > first[s] {
			moment(change[from-1], -w)
		}
		if event[i] == 1 && inside {
			moment(l.tied[to], w)
			for a := range z {
				l.score[a].add(z[a])
			}
		}
	}
	for s := range first {
		for i := end[s] - 1; i >= first[s]; i-- {
			for k := range change[i] {
				if l.risk[i][k] = change[i][k]; i+1 < end[s] {
					l.risk[i][k].add(l.risk[i+1][k].hi)
					l.risk[i][k].add(l.risk[i+1][k].lo)
				}
			}
		}
	}
	return l, nil
}

// coxCommonBlocks are a hospital's values in the order of the layout.
func (g *regression) coxCommonBlocks(l *localFit, f *fit) (risk, tied []float64) {
	for _, i := range f.deadly() {
		risk = append(risk, values(l.risk[i])...)
		if f.interval(i).deaths > 1 && g.cox.efron {
			tied = append(tied, values(l.tied[i])...)
		}
	}
	return risk, tied
}

// tiedIntervals counts the intervals whose events' own sums are needed.
func (g *regression) tiedIntervals(f *fit) int {
	n := 0
	for _, i := range f.deadly() {
		if f.interval(i).deaths > 1 && g.cox.efron {
			n++
		}
	}
	return n
}

// advanceCommon makes likelihood, score and information from the opened risk
// sets, and keeps what the last round needs.
func (g *regression) advanceCommon(f *fit, o Opened, round uint32) (*State, error) {
	p := g.p()
	m := momentsLen(p)
	deadly := f.deadly()
	flag, err := o.take("fit", coxFitLen)
	if err != nil {
		return nil, err
	}
	if len(f.fitted) == 0 {
		if f.fitted, err = o.take("fitted", fittedFixed); err != nil {
			return nil, err
		}
		if code := g.checkFitted(f); code != 0 {
			return failed(round, code, 0), nil
		}
	}
	sum, err := o.take("score", p)
	if err != nil {
		return nil, err
	}
	risk, err := o.take("risk", len(deadly)*m)
	if err != nil {
		return nil, err
	}
	var tied []float64
	if n := g.tiedIntervals(f); n > 0 {
		if tied, err = o.take("tied", n*m); err != nil {
			return nil, err
		}
	}
	if flag[0] > 0 {
		if _, code, _ := g.halve(f); code != 0 || g.last(round) {
			return failed(round, failConverge, 0), nil
		}
		return g.save(f, phaseFit, round)
	}
	if f.steps == 0 && g.measure(f, risk) {
		if g.last(round) {
			return failed(round, failConverge, 0), nil
		}
		return g.save(f, phaseFit, round)
	}
	ll, score := total{}, make([]total, p)
	info := make([]total, packedLen(p))
	ph := &phSums{g.phCheck, make([]total, p), make([]total, packedLen(p)), make([]total, packedLen(p))}
	ll.add(dot(f.theta, sum))
	for a := range score {
		score[a].add(sum[a])
	}
	f.hazard = nil
	none := make([]float64, m)
	mean := make([]float64, p)
	for n, i := range deadly {
		v := f.interval(i)
		s, d := risk[n*m:(n+1)*m], none
		if v.deaths > 1 && g.cox.efron {
			d, tied = tied[:m], tied[m:]
		}
		if !(s[0] > 0) {
			return nil, errors.New("opened sum: nobody is at risk at an event")
		}
		step := hazardStep{hx: make([]float64, p), hxEvent: make([]float64, p), mean: make([]float64, p)}
		when := 0.0
		if g.phCheck != "" {
			when = g.cox.common.when(g.phCheck, v)
		}
		for e := 0.0; e < v.deaths; e++ {
			share := 0.0
			if g.cox.efron {
				share = e / v.deaths
			}
			r0 := s[0] - float64(share*d[0])
			if !(r0 > 0) {
				return nil, errors.New("opened sum: nobody is at risk at an event")
			}
			ll.add(-det.Log(r0))
			stay := 1 - share
			step.h += 1 / r0
			step.hEvent += stay / r0
			k := 0
			for a := 0; a < p; a++ {
				mean[a] = (s[1+a] - float64(share*d[1+a])) / r0
				score[a].add(-mean[a])
				step.hx[a] += mean[a] / r0
				step.hxEvent[a] += float64(stay*mean[a]) / r0
				step.mean[a] += mean[a] / v.deaths
				ph.score[a].add(-float64(when * mean[a]))
				for b := 0; b <= a; b++ {
					c := (s[1+p+k]-float64(share*d[1+p+k]))/r0 - float64(mean[a]*mean[b])
					info[k].add(c)
					ph.cross[k].add(float64(when * c))
					ph.square[k].add(float64(float64(when*when) * c))
					k++
				}
			}
		}
		f.hazard = append(append(f.hazard, step.h, step.hEvent), step.hx...)
		f.hazard = append(append(f.hazard, step.hxEvent...), step.mean...)
	}
	if g.phCheck != "" {
		// Sums of g(t) z over events are what is missing; the hospitals add them.
		when, err := o.take("score-time", p)
		if err != nil {
			return nil, err
		}
		for a := range when {
			ph.score[a].add(when[a])
		}
		f.ph = append(append(values(ph.score), values(ph.cross)...), values(ph.square)...)
	}
	return g.advance(f, ll.value(), values(score), unpack(values(info), p), 1, round)
}

// hazardLen is the numbers of one interval's step.
func hazardLen(p int) int { return 2 + 3*p }

// coxCommonResiduals are the score residuals against the pooled hazard, which
// came back with the state.
func (g *regression) coxCommonResiduals(l *localFit, data *frame, x [][]float64, f *fit, eta []float64, first, end []int) {
	c := g.cox
	p := len(x)
	stop, event, start := data.num[c.stop], data.num[c.event], data.num[c.start]
	n := len(f.intervals) / intervalLen
	step := make([]*hazardStep, n)
	h := make([]total, n+1) // sums over the first k intervals
	hx := make([][]total, p)
	for a := range hx {
		hx[a] = make([]total, n+1)
	}
	w := hazardLen(p)
	at := 0
	for i := 0; i < n; i++ {
		h[i+1] = h[i]
		for a := range hx {
			hx[a][i+1] = hx[a][i]
		}
		if f.interval(i).deaths == 0 {
			continue
		}
		v := f.hazard[at*w : (at+1)*w]
		at++
		step[i] = &hazardStep{h: v[0], hEvent: v[1], hx: v[2 : 2+p], hxEvent: v[2+p : 2+2*p], mean: v[2+2*p:]}
		h[i+1].add(v[0])
		for a := range hx {
			hx[a][i+1].add(v[2+a])
		}
	}
	residual := make([][]float64, p)
	for a := range residual {
		residual[a] = make([]float64, data.n)
	}
	for i := 0; i < data.n; i++ {
		s := c.common.strata.of(data, i)
		var entry float64
		if start != nil {
			entry = start[i]
		}
		from, to, inside := c.common.span(f, first[s], end[s], entry, stop[i], start != nil)
		weight := det.Exp(eta[i])
		dh := h[to+1].value() - h[from].value()
		for a := 0; a < p; a++ {
			z := x[a][i]
			e := float64(z*dh) - (hx[a][to+1].value() - hx[a][from].value())
			r := 0.0
			if event[i] == 1 && inside && step[to] != nil {
				own := step[to]
				r = z - own.mean[a]
				e += float64(z*(own.hEvent-own.h)) - (own.hxEvent[a] - own.hx[a])
			}
			residual[a][i] = r - float64(weight*e)
		}
	}
	g.clusterMeat(l, data, residual)
}

// baselineCurve is the cumulative baseline hazard at the end of every interval
// with an event, for a row whose columns are all zero.
type baselineCurve struct {
	Stratum string     `json:"stratum,omitempty"`
	Time    []float64  `json:"time"`
	CumHaz  []*float64 `json:"cumhaz"` // null where zero is so far from the data that no number holds it
}

func (g *regression) baselineCurves(f *fit) []baselineCurve {
	p := g.p()
	centre := 0.0 // of the linear predictor
	for j := range f.theta {
		centre += float64(f.theta[j] * (f.mean[j] / f.scale[j]))
	}
	level := det.Exp(-centre)
	var out []baselineCurve
	deadly := f.deadly()
	for s := 0; s < g.cox.common.strata.n; s++ {
		b := baselineCurve{Time: []float64{}, CumHaz: []*float64{}}
		if g.cox.common.strata.n > 1 {
			b.Stratum = g.cox.common.strata.name(s)
		}
		h := total{}
		for n, i := range deadly {
			if v := f.interval(i); int(v.stratum) == s {
				h.add(f.hazard[n*hazardLen(p)])
				b.Time = append(b.Time, float64(v.end*g.cox.common.grid.step))
				b.CumHaz = append(b.CumHaz, finite(float64(level*h.value())))
			}
		}
		out = append(out, b)
	}
	return out
}

// scoreTime sums g(t) z over the events, t being the end of the interval.
func (g *regression) scoreTime(data *frame, x [][]float64, f *fit) []float64 {
	c := g.cox
	out := make([]total, len(x))
	first, end := c.common.bounds(f)
	for i, e := range data.num[c.event] {
		s := c.common.strata.of(data, i)
		if e != 1 {
			continue
		}
		_, to, inside := c.common.span(f, first[s], end[s], 0, data.num[c.stop][i], false)
		if !inside {
			continue
		}
		when := c.common.when(g.phCheck, f.interval(to))
		for a := range x {
			out[a].add(float64(when * x[a][i]))
		}
	}
	return values(out)
}

// when is g(t) at the end of an interval; the cell at time 0 counts as the
// first one, which has a logarithm.
func (c *commonSpec) when(transform string, v interval) float64 {
	return timeValue(transform, math.Max(float64(v.end*c.grid.step), c.grid.step))
}
