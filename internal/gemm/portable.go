package gemm

import "math"

// portable is product on any processor.
func portable[T Float](m, n, k int, a, b matrix[T], c []T, ldc int, load bool) {
	for i := range m {
		row := c[i*ldc : i*ldc+n]
		if !load {
			clear(row)
		}
		for l := range k {
			x := a.data[i*a.row+l*a.col]
			if b.col == 1 {
				chain(row, x, b.data[l*b.row:l*b.row+n])
				continue
			}
			for j := range row {
				row[j] = fma(x, b.data[l*b.row+j*b.col], row[j])
			}
		}
	}
}

// chain adds x·y to s, element by element.
func chain[T Float](s []T, x T, y []T) {
	y = y[:len(s)]
	for j, v := range y {
		s[j] = fma(x, v, s[j])
	}
}

// fma is x·y + z with one rounding.
func fma[T Float](x, y, z T) T {
	switch x := any(x).(type) {
	case float64:
		return T(math.FMA(x, float64(y), float64(z)))
	case float32:
		return T(fma32(x, float32(y), float32(z)))
	}
	panic("gemm: no such type")
}

// fma32 is x·y + z with one rounding to float32. The product of two float32 is
// exact in float64. The sum is rounded to float64 and then to float32, and that
// is wrong only where the first rounding makes a tie of what was none: there it
// is rounded to odd instead (Boldo and Melquiond, Emulation of FMA and correctly
// rounded sums, IEEE Trans. Comput. 57, 2008).
func fma32(x, y, z float32) float32 {
	p, c := float64(x)*float64(y), float64(z)
	s := p + c
	bits := math.Float64bits(s)
	exponent := bits >> 52 & 0x7ff
	// A float32 keeps 29 bits fewer; below its normal range it keeps fewer
	// still, and every result there takes the careful way.
	if bits&(1<<29-1) != 1<<28 && exponent > 1023-126 || exponent == 0x7ff {
		return float32(s)
	}
	t := s - p
	if e := (p - (s - t)) + (c - t); e != 0 && bits&1 == 0 { // Knuth's two-sum: p + c = s + e
		if (e > 0) == (s > 0) {
			bits++
		} else {
			bits--
		}
		s = math.Float64frombits(bits)
	}
	return float32(s)
}
