package models

import (
	"consilium/internal/det"
	"consilium/internal/gram"
)

// likelihood is what a stretch of rows adds to the likelihood of a generalised linear
// model and of its null model: sums of pieces of rows (gram.Sum), which are added
// with their rounding errors kept.
type likelihood struct {
	ll, pearson                   total
	nullLL, nullScore, nullWeight total
	diverged                      bool
	rows, events                  int // of a logistic null model without an offset: all rows have one of two values
	product                       [gram.Lanes]float64
	factors                       int // in each of product, at most
}

func newLikelihoods(n int) []likelihood {
	out := make([]likelihood, (n+stretchRows-1)/stretchRows)
	for k := range out {
		out[k].emptyProduct()
	}
	return out
}

// A log-likelihood is less the logarithm of rows' factors, which are between 1 and 2:
// as many as the exponent of a number holds are multiplied, and have one logarithm.
func (s *likelihood) logs() {
	v := 1.0
	for _, x := range s.product {
		v = float64(v * x)
	}
	s.ll.add(-det.Log(v))
	s.emptyProduct()
}

func (s *likelihood) emptyProduct() {
	s.factors = 0
	for l := range s.product {
		s.product[l] = 1
	}
}

// weigher writes the weights and residuals of rows at their linear predictors.
type weigher struct {
	family    string
	y, offset []float64 // offset may be nil
	alone     float64   // linear predictor of the null model, but for the offset
	null      bool      // is wanted
	without   bool      // the model itself has nothing to explain: weights and residuals stay
	scratch   [5][]float64
	one       []float64
	product   [gram.Lanes]float64
}

func (g *regression) newWeigher(f *fit, y, offset []float64) *weigher {
	k := &weigher{family: g.family, y: y, offset: offset, null: f.nullDone == 0}
	if g.intercept || g.absorb {
		k.alone += f.alpha
	}
	for i := range k.scratch {
		k.scratch[i] = make([]float64, pieceRows)
	}
	k.one = make([]float64, pieceRows)
	for i := range k.one {
		k.one[i] = 1
	}
	return k
}

// piece takes rows from one on, at most a piece, at their linear predictors.
func (k *weigher) piece(s *likelihood, from int, eta, w, r []float64) {
	n := len(eta)
	if !k.without {
		k.model(s, from, eta, w, r)
	}
	if k.null {
		k.nullPiece(s, from, k.y[from:from+n])
	}
}

func (k *weigher) model(s *likelihood, from int, eta, w, r []float64) {
	n := len(eta)
	ll, pearson := k.scratch[0][:n], k.scratch[1][:n]
	y := k.y[from : from+n]
	limit := 500.0
	switch k.family {
	case "gaussian":
		limit = 0x1p50
		copy(w, k.one)
		s.pearson.add(gram.Subtract(r, y, eta))
	case "binomial":
		gram.Logistics(w, r, ll, pearson, &s.product, eta, y)
		if s.factors += n / gram.Lanes; s.factors > 100 {
			s.logs()
		}
		s.ll.add(gram.Sum(ll))
		s.pearson.add(gram.Sum(pearson))
	default:
		for i, v := range eta {
			var m float64
			m, w[i], ll[i] = member(k.family, y[i], v)
			r[i] = y[i] - m
			pearson[i] = float64(r[i]*r[i]) / w[i]
			s.diverged = s.diverged || m > 0x1p50
		}
		s.ll.add(gram.Sum(ll))
		s.pearson.add(gram.Sum(pearson))
	}
	s.diverged = s.diverged || !gram.Within(eta, limit)
}

func (k *weigher) nullPiece(s *likelihood, from int, y []float64) {
	n := len(y)
	if k.family == "binomial" && k.offset == nil {
		s.rows += n
		s.events += int(gram.Sum(y)) // 0 or 1
		return
	}
	at, ll, weight, rest, pearson := k.scratch[0][:n], k.scratch[1][:n], k.scratch[2][:n], k.scratch[3][:n], k.scratch[4][:n]
	for i := range at {
		if at[i] = k.alone; k.offset != nil {
			at[i] += k.offset[from+i]
		}
	}
	switch k.family {
	case "gaussian":
		s.nullLL.add(float64(-0.5 * gram.Subtract(rest, y, at)))
		s.nullScore.add(gram.Sum(rest))
		s.nullWeight.add(float64(n))
		return
	case "binomial":
		for l := range k.product {
			k.product[l] = 1
		}
		gram.Logistics(weight, rest, ll, pearson, &k.product, at, y)
		v := 1.0
		for _, x := range k.product {
			v = float64(v * x)
		}
		s.nullLL.add(-det.Log(v))
	default:
		for i, v := range at {
			var m float64
			m, weight[i], ll[i] = member(k.family, y[i], v)
			rest[i] = y[i] - m
		}
	}
	s.nullLL.add(gram.Sum(ll))
	s.nullScore.add(gram.Sum(rest))
	s.nullWeight.add(gram.Sum(weight))
}

// addLikelihoods adds up the stretches in the rows' order; false says that the
// coefficients are too far off.
func (g *regression) addLikelihoods(l *localFit, f *fit, sums []likelihood) bool {
	rows, events := 0, 0
	for k := range sums {
		s := &sums[k]
		if s.diverged {
			return false
		}
		switch g.family {
		case "binomial":
			s.logs()
		case "gaussian":
			s.ll = total{float64(-0.5 * s.pearson.hi), float64(-0.5 * s.pearson.lo)}
		}
		l.fit[fitLoglik].join(s.ll)
		l.fit[fitPearson].join(s.pearson)
		l.fit[fitNullLoglik].join(s.nullLL)
		l.fit[fitNullScore].join(s.nullScore)
		l.fit[fitNullInformation].join(s.nullWeight)
		rows += s.rows
		events += s.events
	}
	if rows > 0 {
		alone := 0.0
		if g.intercept || g.absorb {
			alone += f.alpha
		}
		for y, n := range []int{rows - events, events} {
			mu, w, _, ll, d := gram.Logistic(float64(y), alone)
			l.fit[fitNullLoglik].add(float64(float64(n) * (ll - det.Log(d))))
			l.fit[fitNullScore].add(float64(float64(n) * (float64(y) - mu)))
			l.fit[fitNullInformation].add(float64(float64(n) * w))
		}
	}
	return true
}

// diverged is the vector of a hospital at which the coefficients are too far off.
func (g *regression) diverged() *localFit {
	l := g.newLocal(glmFitLen)
	l.fit[fitDiverged] = total{hi: 1}
	return l
}
