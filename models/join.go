package models

import "slices"

// join cuts n neighbouring cells into stretches [from, to) that are each fit to
// be told: it closes a stretch as soon as ok says so, and what is left over at
// the end, or makes the last one unfit, goes to its neighbour before. No stretch
// at all if the cells together are not fit.
func join(n int, ok func(from, to int) bool) [][2]int {
	var out [][2]int
	from := 0
	for to := 1; to <= n; to++ {
		if ok(from, to) {
			out = append(out, [2]int{from, to})
			from = to
		}
	}
	for from < n {
		if len(out) == 0 {
			return nil
		}
		last := len(out) - 1
		if from = out[last][0]; ok(from, n) {
			out[last][1] = n
			return out
		}
		out = out[:last]
	}
	return out
}

// sumOf adds a stretch of cells.
func sumOf(v []float64, from, to int) float64 {
	s := 0.0
	for _, x := range v[from:to] {
		s += x
	}
	return s
}

// Stretches joins neighbouring cells, in which so many patients were counted
// apart, until each stretch is about at least k. Where a patient has several rows
// (once is false), one may stand in many cells, and all that is known of a stretch
// is that it has as many patients as its fullest cell. Where no cut will do, all
// cells are one stretch, about as many patients as the analysis is about: see that
// these are k.
func Stretches(patients []float64, k float64, once bool) [][2]int {
	out := join(len(patients), func(from, to int) bool { return atLeast(patients[from:to], once) >= k })
	if out == nil {
		out = [][2]int{{0, len(patients)}}
	}
	return out
}

// atLeast is how many patients some cells are known to hold.
func atLeast(patients []float64, once bool) float64 {
	if once {
		return sumOf(patients, 0, len(patients))
	}
	return slices.Max(patients)
}
