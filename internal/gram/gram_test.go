package gram

import (
	"math"
	"math/rand/v2"
)

// defined is the package comment's definition of one sum.
func defined(w, a, b []float64) float64 {
	var s [8]float64
	for i := range w {
		t := float64(w[i] * a[i])
		s[i%8] += float64(t * b[i])
	}
	var q [4]float64
	for l := range q {
		q[l] = s[l] + s[l+4]
	}
	return (q[0] + q[1]) + (q[2] + q[3])
}

func ones(n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = 1
	}
	return out
}

func draw(r *rand.Rand, n int) []float64 {
	v := make([]float64, n)
	for i := range v {
		v[i] = math.Ldexp(r.NormFloat64(), r.IntN(40)-20)
	}
	return v
}
