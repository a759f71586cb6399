package models

import (
	"math"
	"sort"

	"consilium/internal/det"
)

// The definition of a Cox model's Newton step, column by column in the open: what
// history.go must equal to the last bit.
//
// Where nothing but likelihood, score and information is wanted, the sums over
// risk sets are turned round: a row adds its products once, weighted by the
// hazard it was exposed to, Σ_t S2(t)/S0(t) = Σ_i w_i z_i z_i' Λ_i, and the
// means' products come off at the end. Moments then run column by column, so
// that a step costs a few passes over the table instead of one visit of every
// pair of columns at every event.

// eventTime is a moment at which somebody has the event.
type eventTime struct {
	time      float64
	in, out   int // rows that have entered, by falling stop, and left, by falling start
	from, to  int // rows that end here
	first     int // of its deaths, in the order they are met
	deaths    int
	h, hEvent float64 // hazard for a row at risk, and for one that has the event (Efron)
}

// exposure is one risk-set history, its rows by falling stop time.
type exposure struct {
	eta, w []float64 // less the largest eta; risk
	start  []float64 // nil without start times
	stop   []float64
	event  []float64
	out    []int // rows by falling start time
	times  []eventTime
	r0     []float64 // of every death: the risk of those at risk, less the share of its ties (Efron)
	efron  bool
}

// coxExposure adds one stratum's likelihood, score and information.
func (g *regression) coxExposure(l *localFit, s *stratum, x [][]float64, eta, start, stop, event []float64) {
	n, p := len(s.rows), len(x)
	e := &exposure{efron: g.cox.efron, stop: pick(stop, s.rows), event: pick(event, s.rows), eta: pick(eta, s.rows), w: make([]float64, n)}
	if start != nil {
		e.start = pick(start, s.rows)
		at := make([]int, len(eta))
		for r, i := range s.rows {
			at[i] = r
		}
		e.out = make([]int, n)
		for k, i := range s.starts {
			e.out[k] = at[i]
		}
	}
	shift := math.Inf(-1)
	for _, v := range e.eta {
		shift = math.Max(shift, v)
	}
	inParallel(n, func(from, to int) {
		for r := from; r < to; r++ {
			e.eta[r] -= shift
			e.w[r] = det.Exp(e.eta[r])
		}
	})
	e.likelihood(&l.fit[0])
	if len(e.times) == 0 {
		return
	}
	z, means := make([][]float64, p), make([][]float64, p)
	inColumns(p, func(a int) {
		z[a] = pick(x[a], s.rows)
		// Score and information do not change when a covariate moves by a
		// constant; near its centre the second moments keep their digits.
		centre := 0.0
		for _, v := range z[a] {
			centre += v
		}
		centre /= float64(n)
		for r := range z[a] {
			z[a][r] -= centre
		}
		means[a] = e.means(z[a], &l.score[a])
	})
	products(l.information, nil, z, nil, e.weights(), nil)
	minus := make([]float64, len(e.r0))
	for i := range minus {
		minus[i] = -1
	}
	products(l.information, nil, means, nil, minus, nil)
}

// share is the part of the tied rows that has left the risk set before death m
// of a time.
func (e *exposure) share(m, deaths int) float64 {
	if !e.efron {
		return 0
	}
	return float64(m) / float64(deaths)
}

// likelihood finds the times of events and adds the log partial likelihood.
func (e *exposure) likelihood(fit *total) {
	var s0 total
	in, out := 0, 0
	for from := 0; from < len(e.stop); {
		t := eventTime{time: e.stop[from], from: from, to: from, first: len(e.r0)}
		for ; t.to < len(e.stop) && e.stop[t.to] == t.time; t.to++ {
			if e.event[t.to] == 1 {
				t.deaths++
			}
		}
		from = t.to
		if t.deaths == 0 {
			continue
		}
		for ; in < t.to; in++ {
			s0.add(e.w[in])
		}
		for ; out < len(e.out) && e.start[e.out[out]] >= t.time; out++ {
			s0.add(-e.w[e.out[out]])
		}
		t.in, t.out = in, out
		d0 := 0.0
		for r := t.from; r < t.to; r++ {
			if e.event[r] == 1 {
				d0 += e.w[r]
				fit.add(e.eta[r])
			}
		}
		for m := range t.deaths {
			share := e.share(m, t.deaths)
			r0 := s0.value() - float64(share*d0)
			fit.add(-det.Log(r0))
			t.h += 1 / r0
			t.hEvent += (1 - share) / r0
			e.r0 = append(e.r0, r0)
		}
		e.times = append(e.times, t)
	}
}

// means returns a column's mean over the risk set of every death, and adds the
// column's score.
func (e *exposure) means(z []float64, score *total) []float64 {
	out := make([]float64, len(e.r0))
	var s1 total
	in, gone := 0, 0
	for k := range e.times {
		t := &e.times[k]
		for ; in < t.in; in++ {
			s1.add(float64(e.w[in] * z[in]))
		}
		for ; gone < t.out; gone++ {
			r := e.out[gone]
			s1.add(-float64(e.w[r] * z[r]))
		}
		d1 := 0.0
		for r := t.from; r < t.to; r++ {
			if e.event[r] == 1 {
				score.add(z[r])
				d1 += float64(e.w[r] * z[r])
			}
		}
		for m := range t.deaths {
			mean := (s1.value() - float64(e.share(m, t.deaths)*d1)) / e.r0[t.first+m]
			score.add(-mean)
			out[t.first+m] = mean
		}
	}
	return out
}

// weights returns every row's risk times the hazard that it met.
func (e *exposure) weights() []float64 {
	n := len(e.times)            // by falling time
	hazard := make([]total, n+1) // over the last k of them, that is the earliest
	for k := 1; k <= n; k++ {
		hazard[k] = hazard[k-1]
		hazard[k].add(e.times[n-k].h)
	}
	// upTo counts the times at or before t.
	upTo := func(t float64) int { return n - sort.Search(n, func(k int) bool { return e.times[k].time <= t }) }
	out := make([]float64, len(e.w))
	at := 0 // rows fall in time, as the times do
	for r, w := range e.w {
		for at < n && e.times[at].time > e.stop[r] {
			at++
		}
		h := hazard[n-at].value()
		if e.start != nil {
			h -= hazard[upTo(e.start[r])].value()
		}
		if e.event[r] == 1 && at < n && e.times[at].time == e.stop[r] {
			h += e.times[at].hEvent - e.times[at].h
		}
		out[r] = float64(w * h)
	}
	return out
}
