package net

import (
	"math"

	"consilium/internal/det"
)

// calibration joins neighbouring cells of risk until each is about at least k
// patients, so that no published cell describes fewer.
func (a *train) calibration(v view, split int) []CalibrationCell {
	e := v.final[split]
	if e[evalRows] == 0 {
		return nil
	}
	name := [2]string{"training", "holdout"}[split]
	c := e[evalHist+2*bins:]
	k := float64(max(a.facts.MinCohort, 1))
	people := a.distinct(v, split)
	type cell struct {
		from, to          int
		no, yes, who, sum float64
	}
	var list []cell
	open := cell{}
	for i := range cells {
		open.to = i + 1
		open.no, open.yes, open.who, open.sum = open.no+c[i], open.yes+c[cells+i], people(open.who, c[2*cells+i]), open.sum+c[3*cells+i]
		if open.who >= k {
			list = append(list, open)
			open = cell{from: i + 1}
		}
	}
	if len(list) == 0 {
		return nil
	}
	last := &list[len(list)-1] // what is left over joins it
	last.to = cells
	last.no, last.yes, last.who, last.sum = last.no+open.no, last.yes+open.yes, people(last.who, open.who), last.sum+open.sum
	var out []CalibrationCell
	for _, c := range list {
		n := c.no + c.yes
		out = append(out, CalibrationCell{Split: name, Lower: float64(c.from) / cells, Upper: float64(c.to) / cells, Patients: int64(c.who),
			Expected: number(c.sum / n), Observed: number(c.yes / n)})
	}
	return out
}

// distinct adds the patients of two groups of cells. A patient with rows in
// several cells would count several times; then the larger group is all that is
// certain.
func (a *train) distinct(v view, split int) func(a, b float64) float64 {
	if v.head[headRows+split] == v.head[headPatients+split] {
		return func(a, b float64) float64 { return a + b }
	}
	return func(a, b float64) float64 { return max(a, b) }
}

// shares are those for which thresholds are given.
var shares = []float64{0.5, 0.9, 0.95, 0.99}

// thresholds reads scores off the grid: the first edge of a cell that the
// share of the training rows stays below, while at least k patients stand
// above. Which share of the rows with and without the label it would flag is
// said of the holdout, if there is one, unless hidden or a count below k follows
// from it.
func (a *train) thresholds(v view, hidden bool) []Threshold {
	e := v.final[0]
	zero, one, patients := e[evalHist:], e[evalHist+bins:], e[evalHist+2*bins:]
	k := float64(max(a.facts.MinCohort, 1))
	people := a.distinct(v, 0)
	judge := v.final[1]
	if judge[evalRows] == 0 {
		judge = e
	}
	share := func(from []float64, b int) *float64 {
		below, above := 0.0, 0.0
		for i, n := range from[:bins] {
			if i < b {
				below += n
			} else {
				above += n
			}
		}
		if hidden || !a.classes() || below > 0 && below < k || above > 0 && above < k {
			return nil
		}
		return number(above / (below + above))
	}
	var out []Threshold
	b, below := 0, 0.0
	for _, s := range shares {
		for b < bins && below < float64(s*e[evalRows]) {
			below += zero[b] + one[b]
			b++
		}
		who := 0.0
		for _, n := range patients[b:bins] {
			who = people(who, n)
		}
		if who < k {
			break
		}
		t := Threshold{Share: below / e[evalRows], Score: math.Ldexp(det.Exp(float64(b%binScale)*ln2/binScale), binFirst+b/binScale),
			Sensitivity: share(judge[evalHist+bins:], b), FalseAlarms: share(judge[evalHist:], b)}
		if len(out) == 0 || out[len(out)-1].Score != t.Score {
			out = append(out, t)
		}
	}
	return out
}
