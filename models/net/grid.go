package net

import (
	"math"

	"consilium/internal/det"
	"consilium/models"
)

// calibration compares risks with events over stretches of cells that are each
// about at least k patients, so that no published cell describes fewer. A split
// with rows has k patients (see holds).
func (a *train) calibration(v view, split int) []CalibrationCell {
	e := v.final[split]
	if e[evalRows] == 0 {
		return nil
	}
	c := e[evalHist+2*bins:]
	people := a.distinct(v, split)
	sum := func(of, from, to int) (n float64) {
		for _, x := range c[of*cells+from : of*cells+to] {
			n += x
		}
		return n
	}
	var out []CalibrationCell
	stretches := models.Stretches(c[2*cells:3*cells], a.least(v), a.once(v, split))
	for _, s := range stretches {
		from, to := s[0], s[1]
		who := 0.0
		for _, n := range c[2*cells+from : 2*cells+to] {
			who = people(who, n)
		}
		if len(stretches) == 1 {
			who = v.head[headPatients+split]
		}
		yes := sum(1, from, to)
		n := sum(0, from, to) + yes
		out = append(out, CalibrationCell{Split: [2]string{"training", "holdout"}[split], Lower: float64(from) / cells, Upper: float64(to) / cells, Patients: int64(who),
			Expected: number(sum(3, from, to) / n), Observed: number(yes / n)})
	}
	return out
}

// once reports whether every patient has one row, or counts as if.
func (a *train) once(v view, split int) bool {
	return a.private != nil || v.head[headRows+split] == v.head[headPatients+split]
}

// distinct adds the patients of two groups of cells. A patient with rows in
// several cells would count several times; then the larger group is all that is
// certain.
func (a *train) distinct(v view, split int) func(a, b float64) float64 {
	if a.once(v, split) {
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
	k := a.least(v)
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
