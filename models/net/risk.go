package net

import (
	"cmp"
	"math"
	"slices"

	"consilium/internal/det"
)

// riskSets computes Cox's partial likelihood of rows of one hospital and its
// derivative by every row's score (Katzman et al., DeepSurv, BMC Med Res
// Methodol 2018, eq. 4; ties as Breslow or Efron; rows enter after their start
// and leave at their stop).
type riskSets struct {
	rows   []riskRow
	order  []int // of rows, by falling stop
	starts []int // of rows, by falling start
	times  []riskTime
	shift  float64
}

type riskRow struct {
	at                  int // the caller's number
	start, stop         float64
	event               bool
	score, weight, risk float64 // risk: exp(score - shift)
}

// riskTime is one distinct event time: what its events take from every row at
// risk, and give back to a row of these events (Efron).
type riskTime struct {
	time, hazard, back float64
}

func newRiskSets(n int) *riskSets { return &riskSets{rows: make([]riskRow, 0, n)} }

func (r *riskSets) reset() {
	clear(r.rows[:cap(r.rows)])
	r.rows = r.rows[:0]
}

func (r *riskSets) add(at int, start, stop float64, event bool, score, weight float64) {
	r.rows = append(r.rows, riskRow{at: at, start: start, stop: stop, event: event, score: score, weight: weight})
}

// likelihood is the negative log partial likelihood, every event times its
// row's weight. slope, unless nil, is told the derivative by each row's score.
func (r *riskSets) likelihood(efron bool, slope func(at int, d float64)) float64 {
	r.order, r.starts, r.times = r.order[:0], r.starts[:0], r.times[:0]
	r.shift = math.Inf(-1)
	late := false
	for i := range r.rows {
		r.order, r.starts = append(r.order, i), append(r.starts, i)
		r.shift = max(r.shift, r.rows[i].score)
		late = late || r.rows[i].start != r.rows[0].start
	}
	for i := range r.rows {
		r.rows[i].risk = det.Exp(r.rows[i].score - r.shift)
	}
	// Ties in the order in which rows were added: sums have one order.
	slices.SortStableFunc(r.order, func(a, b int) int { return cmp.Compare(r.rows[b].stop, r.rows[a].stop) })
	slices.SortStableFunc(r.starts, func(a, b int) int { return cmp.Compare(r.rows[b].start, r.rows[a].start) })
	cost, in, out, gone := 0.0, 0.0, 0.0, 0
	for k := 0; k < len(r.order); {
		t := r.rows[r.order[k]].stop
		e := k
		var d int
		var dead, weight float64
		for ; e < len(r.order) && r.rows[r.order[e]].stop == t; e++ {
			row := &r.rows[r.order[e]]
			in += row.risk
			if row.event {
				d++
				dead += row.risk
				weight += row.weight
				cost -= float64(row.weight * (row.score - r.shift))
			}
		}
		for ; gone < len(r.starts) && r.rows[r.starts[gone]].start >= t; gone++ {
			out += r.rows[r.starts[gone]].risk
		}
		if d > 0 {
			at := in - out
			if late && !(at > float64(1e-8*in)) {
				at = r.atRisk(t) // the difference has lost its digits
			}
			step := riskTime{time: t}
			mean := weight / float64(d)
			for l := range d {
				share := 0.0
				if efron {
					share = float64(l) / float64(d)
				}
				sum := at - float64(share*dead)
				cost += float64(mean * det.Log(sum))
				step.hazard += mean / sum
				step.back += float64(share*mean) / sum
			}
			r.times = append(r.times, step)
		}
		k = e
	}
	if slope != nil {
		r.slopes(slope)
	}
	return cost
}

// atRisk adds up the risk set of t row by row.
func (r *riskSets) atRisk(t float64) float64 {
	sum := 0.0
	for i := range r.rows {
		if r.rows[i].start < t && t <= r.rows[i].stop {
			sum += r.rows[i].risk
		}
	}
	return sum
}

// slopes walks the event times, which fall, with running sums of the hazard
// from the latest on: a row's own is the difference between start and stop.
func (r *riskSets) slopes(slope func(at int, d float64)) {
	slices.Reverse(r.times) // rising
	total := make([]float64, len(r.times)+1)
	for i, s := range r.times {
		total[i+1] = total[i] + s.hazard
	}
	until := func(t float64, inclusive bool) int {
		i, found := slices.BinarySearchFunc(r.times, t, func(s riskTime, t float64) int { return cmp.Compare(s.time, t) })
		if found && inclusive {
			i++
		}
		return i
	}
	for i := range r.rows {
		row := &r.rows[i]
		to := until(row.stop, true)
		hazard := total[to] - total[until(row.start, true)]
		d := float64(row.risk * hazard)
		if row.event {
			d -= float64(row.risk*r.times[to-1].back) + row.weight
		}
		slope(row.at, d)
	}
}
