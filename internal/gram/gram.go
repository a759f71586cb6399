// Package gram sums weighted products of columns, Σ_i w_i z_ia z_ib, which is
// where a regression spends its time.
//
// A sum has a definition and not only a bound, so that every processor gives
// the same bits: with t_i = round(w_i·z_ia), eight partial sums
//
//	s_l = Σ round(t_i·z_ib) over i ≡ l mod 8, in the order of i
//
// and of these, with q_l = s_l + s_{l+4}, the sum (q_0 + q_1) + (q_2 + q_3).
// Nothing is fused. The eight lanes of AVX-512 are the eight partial sums, AVX2 adds
// them in two halves; the portable code adds the same.
//
// Besides, it holds the other passes of a Newton step: standardised columns and
// linear predictors (Standard), the logistic likelihood, running sums over risk
// sets (Scan), all with the bits of the scalar definitions beside them.
//
// Rows stand in two ways. In memory they are panels: groups of Lanes rows, and in each
// group one column after the other, so that a sweep reads memory once from its
// beginning to its end. While they are worked on they are pieces: PieceRows rows,
// one whole column after the other, which stay in the first cache.
package gram

import "math"

// Lanes is the rows of a group, and the partial sums of a sum.
const Lanes = 8

// PieceRows is how many rows are worked on at a time: some twenty columns of them stay
// in the first cache.
const PieceRows = 128

// Up rounds n rows up to whole groups.
func Up(n int) int { return (n + Lanes - 1) &^ (Lanes - 1) }

// fold adds up eight partial sums.
func fold(s []float64) float64 {
	_ = s[7]
	return ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]))
}

// Sum adds up v by the package's definition, weights and second columns being 1.
func Sum(v []float64) float64 {
	if fast && len(v) >= Lanes && len(v)%Lanes == 0 {
		return sumOf(v)
	}
	var s [Lanes]float64
	for ; len(v) >= Lanes; v = v[Lanes:] {
		for l, x := range v[:Lanes] {
			s[l] += x
		}
	}
	for l, x := range v {
		s[l] += x
	}
	return fold(s[:])
}

// Subtract writes y - x to r, and returns the sum of its squares by the package's
// definition.
func Subtract(r, y, x []float64) (squares float64) {
	n := len(r)
	y, x = y[:n], x[:n]
	if fast && n >= Lanes && n%Lanes == 0 {
		return subtract(r, y, x)
	}
	var s [Lanes]float64
	for i := range r {
		r[i] = y[i] - x[i]
		s[i%Lanes] += float64(r[i] * r[i])
	}
	return fold(s[:])
}

// Within reports whether all of v are numbers from -limit to limit.
func Within(v []float64, limit float64) bool {
	if whole := len(v) &^ (Lanes - 1); fast && whole > 0 {
		if !within(v[:whole], limit) {
			return false
		}
		v = v[whole:]
	}
	for _, x := range v {
		if !(math.Abs(x) <= limit) {
			return false
		}
	}
	return true
}
