package models

import "math"

// fallingOrder returns rows by falling value, equal values in the order given:
// a radix sort of the numbers' bits, byte by byte from the lowest. No value may
// be NaN.
func fallingOrder(rows []int, value []float64) []int {
	type item struct {
		key uint64
		row int
	}
	from, to := make([]item, len(rows)), make([]item, len(rows))
	var count [8][256]int
	for k, i := range rows {
		key := math.Float64bits(value[i] + 0) // no negative zero
		if key>>63 == 1 {
			key = ^key
		} else {
			key |= 1 << 63
		}
		key = ^key // falling
		from[k] = item{key, i}
		for b := range count {
			count[b][byte(key>>(8*b))]++
		}
	}
	for b := range count {
		if len(from) == 0 || count[b][byte(from[0].key>>(8*b))] == len(from) {
			continue // all have this byte in common
		}
		at := 0
		var place [256]int
		for v, n := range count[b] {
			place[v] = at
			at += n
		}
		for _, it := range from {
			v := byte(it.key >> (8 * b))
			to[place[v]] = it
			place[v]++
		}
		from, to = to, from
	}
	out := make([]int, len(rows))
	for k, it := range from {
		out[k] = it.row
	}
	return out
}
