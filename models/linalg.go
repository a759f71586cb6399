package models

import (
	"math"

	"consilium/internal/det"
)

// Matrices here are small (the coefficients of one model), dense and square.
// Every product is rounded before it is added, see package det.

func newMatrix(n int) [][]float64 {
	flat := make([]float64, n*n)
	m := make([][]float64, n)
	for i := range m {
		m[i] = flat[i*n : (i+1)*n]
	}
	return m
}

func packedLen(n int) int { return n * (n + 1) / 2 }

// unpack reads a symmetric matrix from its lower triangle by rows.
func unpack(v []float64, n int) [][]float64 {
	m := newMatrix(n)
	k := 0
	for i := 0; i < n; i++ {
		for j := 0; j <= i; j++ {
			m[i][j], m[j][i] = v[k], v[k]
			k++
		}
	}
	return m
}

func pack(m [][]float64) []float64 {
	var out []float64
	for i := range m {
		out = append(out, m[i][:i+1]...)
	}
	return out
}

// cholesky factors a symmetric matrix after scaling it to a unit diagonal. It
// returns the first index at which less than tol of the diagonal remains, or
// -1: that row depends on the ones before it.
func cholesky(a [][]float64, tol float64) (l [][]float64, d []float64, bad int) {
	n := len(a)
	l, d = newMatrix(n), make([]float64, n)
	for i := range a {
		if !(a[i][i] > 0) || math.IsInf(a[i][i], 0) {
			return nil, nil, i
		}
		d[i] = math.Sqrt(a[i][i])
	}
	for i := 0; i < n; i++ {
		for j := 0; j <= i; j++ {
			s := a[i][j] / float64(d[i]*d[j])
			if i == j {
				s = 1
			}
			for k := 0; k < j; k++ {
				s -= float64(l[i][k] * l[j][k])
			}
			if i == j {
				if !(s > tol) {
					return nil, nil, i
				}
				l[i][i] = math.Sqrt(s)
			} else {
				l[i][j] = s / l[j][j]
			}
		}
	}
	return l, d, -1
}

// invert is the inverse of a symmetric positive definite matrix, or the index
// that is not estimable.
func invert(a [][]float64, tol float64) ([][]float64, int) {
	l, d, bad := cholesky(a, tol)
	if bad >= 0 {
		return nil, bad
	}
	n := len(a)
	inv := newMatrix(n) // of l, lower
	for j := 0; j < n; j++ {
		inv[j][j] = 1 / l[j][j]
		for i := j + 1; i < n; i++ {
			s := 0.0
			for k := j; k < i; k++ {
				s -= float64(l[i][k] * inv[k][j])
			}
			inv[i][j] = s / l[i][i]
		}
	}
	out := newMatrix(n)
	for i := 0; i < n; i++ {
		for j := 0; j <= i; j++ {
			s := 0.0
			for k := i; k < n; k++ {
				s += float64(inv[k][i] * inv[k][j])
			}
			s /= float64(d[i] * d[j])
			out[i][j], out[j][i] = s, s
		}
	}
	return out, -1
}

func multiply(a, b [][]float64) [][]float64 {
	n := len(a)
	out := newMatrix(n)
	for i := 0; i < n; i++ {
		for j := 0; j < n; j++ {
			s := 0.0
			for k := 0; k < n; k++ {
				s += float64(a[i][k] * b[k][j])
			}
			out[i][j] = s
		}
	}
	return out
}

func transpose(a [][]float64) [][]float64 {
	out := newMatrix(len(a))
	for i := range a {
		for j := range a {
			out[j][i] = a[i][j]
		}
	}
	return out
}

func apply(a [][]float64, x []float64) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		s := 0.0
		for j := range x {
			s += float64(a[i][j] * x[j])
		}
		out[i] = s
	}
	return out
}

func dot(a, b []float64) float64 {
	s := 0.0
	for i := range a {
		s += float64(a[i] * b[i])
	}
	return s
}

// quadratic is x' v^-1 x, or false if v has no inverse.
func quadratic(x []float64, v [][]float64) (float64, bool) {
	inv, bad := invert(v, 1e-13)
	if bad >= 0 {
		return 0, false
	}
	return dot(x, apply(inv, x)), true
}

// total sums with the rounding error kept apart (Knuth's two-sum), so that
// adding and later removing a row leaves nothing behind.
type total struct{ hi, lo float64 }

func (t *total) add(v float64) {
	s := t.hi + v
	b := s - t.hi
	t.lo += (t.hi - (s - b)) + (v - b)
	t.hi = s
}

// join adds another sum.
func (t *total) join(s total) {
	t.add(s.hi)
	t.add(s.lo)
}

func (t total) value() float64 { return t.hi + t.lo }

func values(ts []total) []float64 {
	out := make([]float64, len(ts))
	for i, t := range ts {
		out[i] = t.value()
	}
	return out
}

// normal95 is the 0.975 quantile of the standard normal distribution.
const normal95 = 1.959963984540054

// twoSided is the p-value of a z statistic.
func twoSided(z float64) float64 { return float64(2 * det.NormalTail(math.Abs(z))) }

// tape writes a struct's numbers to State.F64 and reads them back with the
// same code, so that the two cannot disagree.
type tape struct {
	f       []float64
	at      int
	reading bool
	short   bool
}

func (t *tape) num(v *float64) {
	if !t.reading {
		t.f = append(t.f, *v)
		return
	}
	if t.at >= len(t.f) {
		t.short = true
		return
	}
	*v = t.f[t.at]
	t.at++
}

func (t *tape) vec(v *[]float64, n int) {
	if t.reading {
		*v = make([]float64, n)
	}
	if len(*v) != n {
		t.short = true
		return
	}
	for i := range *v {
		t.num(&(*v)[i])
	}
}

// list is a vec of any length, which is written before it.
func (t *tape) list(v *[]float64) {
	n := float64(len(*v))
	t.num(&n)
	if t.reading {
		if t.short || !(n >= 0 && n <= float64(len(t.f)-t.at)) || n != math.Trunc(n) {
			t.short = true
			return
		}
		if *v = nil; n == 0 {
			return
		}
	}
	t.vec(v, int(n))
}
