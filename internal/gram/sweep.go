package gram

import (
	"math"

	"consilium/internal/det"
)

// Exp writes det.Exp of x to y, element by element. They may not overlap.
func Exp(y, x []float64) {
	y = y[:len(x)]
	done := 0
	if fast && Within(x, 700) {
		done = exp(y, x)
	}
	for i := done; i < len(x); i++ {
		y[i] = det.Exp(x[i])
	}
}

// Logistic is a row of a logistic model at the linear predictor eta, with the
// response y, 0 or 1: mean, variance, and the squared residual over the variance. Of its
// log-likelihood, ll - log(d), d is between 1 and 2: rows' logarithms add up to
// that of their product.
func Logistic(y, eta float64) (mu, w, pearson, ll, d float64) {
	a := math.Abs(eta)
	e := det.Exp(-a) // in (0, 1]
	d = 1 + e
	mu = 1 / d
	w = float64(float64(e*mu) * mu)
	if eta < 0 {
		mu = float64(e * mu)
	}
	if (eta < 0) == (y == 1) { // the less probable of the two, or as probable
		return mu, w, 1 / e, -a, d
	}
	return mu, w, e, 0, d
}

// Logistics writes for every row its weight, its residual y - mu and what else Logistic
// says of it, but multiplies the factors
// d into product, row i into i mod Lanes, in the order of the rows. Nothing may overlap.
func Logistics(w, r, ll, pearson []float64, product *[Lanes]float64, eta, y []float64) {
	n := len(eta)
	w, r, ll, pearson, y = w[:n], r[:n], ll[:n], pearson[:n], y[:n]
	done := 0
	if fast && Within(eta, 700) {
		done = n &^ (Lanes - 1)
	}
	if done > 0 {
		logistic(w[:done], r, ll, pearson, product, eta, y)
	}
	for i := done; i < n; i++ {
		var mu, d float64
		mu, w[i], pearson[i], ll[i], d = Logistic(y[i], eta[i])
		r[i] = y[i] - mu
		product[i%Lanes] = float64(product[i%Lanes] * d)
	}
}

// Totals are four sums, each with its rounding error kept apart (Knuth's two-sum).
type Totals struct{ Hi, Lo [4]float64 }

// Add adds the rows of a, b, c and d to the four sums, in their order.
func (t *Totals) Add(a, b, c, d []float64) {
	n := len(a)
	b, c, d = b[:n], c[:n], d[:n]
	done := 0
	if fast {
		done = n &^ 3
	}
	if done > 0 {
		totals(t, a[:done], b, c, d)
	}
	for i := done; i < n; i++ {
		for k, v := range [4]float64{a[i], b[i], c[i], d[i]} {
			t.Hi[k], t.Lo[k] = twoSum(t.Hi[k], t.Lo[k], v)
		}
	}
}

// AddEach adds v to hi + lo, element by element, with the rounding errors in lo.
func AddEach(hi, lo, v []float64) {
	hi, lo = hi[:len(v)], lo[:len(v)]
	done := 0
	if fast {
		done = len(v) &^ 3
	}
	if done > 0 {
		addEach(hi, lo, v[:done])
	}
	for i := done; i < len(v); i++ {
		hi[i], lo[i] = twoSum(hi[i], lo[i], v[i])
	}
}

func twoSum(hi, lo, v float64) (float64, float64) {
	s := hi + v
	b := s - hi
	return s, lo + ((hi - (s - b)) + (v - b))
}
