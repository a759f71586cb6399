package models

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
