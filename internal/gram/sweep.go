package gram

import (
	"math"

	"consilium/internal/det"
)

// Exp writes det.Exp of x to y, element by element. They may not overlap.
func Exp(y, x []float64) {
	y = y[:len(x)]
	n := 0
	if fast {
		n = len(x) &^ 3
	}
	if n > 0 && exp(y[:n], x[:n]) {
		for i, v := range x[:n] { // what the fast range leaves out
			if !(math.Abs(v) <= 700) {
				y[i] = det.Exp(v)
			}
		}
	}
	for i := n; i < len(x); i++ {
		y[i] = det.Exp(x[i])
	}
}

// Log writes det.Log of x to y, element by element. They may not overlap.
func Log(y, x []float64) {
	y = y[:len(x)]
	n := 0
	if fast {
		n = len(x) &^ 3
	}
	if n > 0 && log(y[:n], x[:n]) {
		for i, v := range x[:n] {
			if !(v >= 0x1p-1022 && v <= math.MaxFloat64) {
				y[i] = det.Log(v)
			}
		}
	}
	for i := n; i < len(x); i++ {
		y[i] = det.Log(x[i])
	}
}

// Logistic is a row of a logistic model at the linear predictor eta: mean,
// variance and log-likelihood of the response y, 0 or 1.
func Logistic(y, eta float64) (mu, w, ll float64) {
	e := det.Exp(-math.Abs(eta)) // in (0, 1]
	mu = 1 / (1 + e)
	w = e / float64((1+e)*(1+e))
	ll = -det.Log1p(e)
	if eta < 0 {
		mu = e / (1 + e)
		ll += float64(y * eta)
	} else {
		ll -= float64((1 - y) * eta)
	}
	return mu, w, ll
}

// Logistics writes for every row the weight w, the residual r = y - mu, the
// log-likelihood and r²/w. Nothing may overlap.
func Logistics(w, r, ll, pearson, eta, y []float64) {
	n := len(eta)
	w, r, ll, pearson, y = w[:n], r[:n], ll[:n], pearson[:n], y[:n]
	one := func(i int) {
		var mu float64
		mu, w[i], ll[i] = Logistic(y[i], eta[i])
		r[i] = y[i] - mu
		pearson[i] = float64(r[i]*r[i]) / w[i]
	}
	done := 0
	if fast {
		done = n &^ 3
	}
	if done > 0 && logistic(w[:done], r, ll, pearson, eta, y) {
		for i, v := range eta[:done] {
			// Everywhere else the fast range holds: exp(-0.88) is just above √2-1,
			// exp(-20) above 2^-29.
			if a := math.Abs(v); !(a > 1e-11 && a < 0.8813 || a > 0.8814 && a < 20) {
				one(i)
			}
		}
	}
	for i := done; i < n; i++ {
		one(i)
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
