package det

import "math"

// NormalTail is P(Z > z) for a standard normal Z.
func NormalTail(z float64) float64 {
	// z/sqrt(2) in two parts: erfc's relative error is 2x² times that of its
	// argument, too much at x = 25 for a rounded one.
	const (
		hi = 0.70710678118654757     // 1/sqrt(2) rounded
		lo = -4.8336466567264567e-17 // the rest
	)
	x := float64(z * hi)
	rest := math.FMA(z, hi, -x) + float64(z*lo)
	e := Erfc(x)
	if e == 0 || e == 2 {
		return float64(0.5 * e)
	}
	// erfc(x+d) = erfc(x) - 2/sqrt(pi) exp(-x²) (d - x d² + …)
	d := float64(float64(1.1283791670955126*Exp(-float64(x*x))) * rest)
	return float64(0.5 * (e - d))
}

// ChiSquareTail is P(X > x) for a chi-square X with df degrees of freedom, a
// whole number above 0: the regularised upper incomplete gamma function
// Q(df/2, x/2). NaN if df is not above 0 or x is NaN.
func ChiSquareTail(x float64, df int) float64 {
	switch {
	case df < 1 || x != x:
		return math.NaN()
	case x <= 0:
		return 1
	case math.IsInf(x, 1):
		return 0
	}
	// Q(a+1, h) = Q(a, h) + h^a e^-h / Γ(a+1), all terms positive, from
	// Q(0, h) = 0 or Q(1/2, h) = erfc(sqrt(h)) (DLMF 8.8.6, 8.4.6).
	h := float64(0.5 * x)
	var q, a float64
	n := df / 2
	if df%2 == 1 {
		q = float64(2 * NormalTail(math.Sqrt(x)))
		a = 0.5
	}
	if h < 600 {
		term := Exp(-h)
		if df%2 == 1 {
			term = float64(float64(term*math.Sqrt(h)) / 0.886226925452758) // Γ(3/2)
		}
		for i := 0; i < n; i++ {
			q += term
			a++
			term = float64(term*h) / a
		}
		return math.Min(q, 1)
	}
	// e^-h alone would lose digits or vanish: each term by the saddle point.
	for i := 0; i < n; i++ {
		q += poisson(a, h)
		a++
	}
	return math.Min(q, 1)
}

// poisson is h^a e^-h / Γ(a+1) by Loader's saddle-point expansion (C. Loader,
// "Fast and accurate computation of binomial probabilities", 2000).
func poisson(a, h float64) float64 {
	if a == 0 {
		return Exp(-h)
	}
	return Exp(-stirlingError(a)-deviance(a, h, a-h)) / math.Sqrt(float64(2*math.Pi*a))
}

// StudentTail is P(|T| > |t|), both tails, for Student's T with df > 0
// degrees of freedom, whole or not.
func StudentTail(t, df float64) float64 {
	if t != t || !(df > 0) {
		return math.NaN()
	}
	if math.IsInf(t, 0) {
		return 0
	}
	t2 := float64(t * t)
	if math.IsInf(t2, 1) {
		t2 = math.MaxFloat64
	}
	return betaTail(float64(df/2), 0.5, df, t2)
}

// FTail is P(F > f) for an F with df1 and df2 degrees of freedom.
func FTail(f, df1, df2 float64) float64 {
	switch {
	case f != f || !(df1 > 0) || !(df2 > 0):
		return math.NaN()
	case f <= 0:
		return 1
	case math.IsInf(f, 1):
		return 0
	}
	return betaTail(float64(df2/2), float64(df1/2), df2, float64(df1*f))
}

// betaTail is the regularised incomplete beta function I_x(a, b) at
// x = p/(p+q), 1-x = q/(p+q).
func betaTail(a, b, p, q float64) float64 {
	s := p + q
	x, y := p/s, q/s
	switch {
	case x <= 0:
		return 0
	case y <= 0:
		return 1
	}
	// a - (a+b)x = (aq - bp)/s, where each product keeps its rounding error:
	// at thousands of degrees of freedom x itself is not precise enough.
	aq, bp := float64(a*q), float64(b*p)
	d := (aq - bp + (math.FMA(a, q, -aq) - math.FMA(b, p, -bp))) / s
	if float64(x*(a+b+2)) < a+1 {
		return math.Min(1, betaFraction(a, b, x, y, d))
	}
	return math.Max(0, 1-betaFraction(b, a, y, x, -d))
}

// betaFraction is I_x(a, b) for x < (a+1)/(a+b+2), with y = 1-x and
// d = a - (a+b)x: the continued fraction of A. R. DiDonato and A. H. Morris,
// "Significant digit computation of the incomplete beta function ratios"
// (ACM TOMS 18, 1992, algorithm 708), which stays accurate near d = 0.
func betaFraction(a, b, x, y, d float64) float64 {
	// x^a y^b / B(a,b), by the saddle point: the logarithms of the parts are
	// large and of opposite sign.
	n := a + b
	front := Exp(stirlingError(n) - stirlingError(a) - stirlingError(b) - deviance(a, float64(n*x), d) - deviance(b, float64(n*y), -d))
	front = float64(front * math.Sqrt(float64(a*b)/float64(2*math.Pi*n)))

	c, c0, c1 := d+1, b/a, 1/a+1
	p, s := 1.0, a+1
	an, bn, an1, bn1 := 0.0, 1.0, 1.0, c/c1
	r := c1 / c
	for k := 1.0; k <= 100000; k++ {
		t := k / a
		w := float64(float64(k*(b-k)) * x)
		e := a / s
		alpha := float64(float64(float64(p*(p+c0))*float64(e*e)) * float64(w*x))
		e = (t + 1) / (c1 + t + t)
		beta := k + w/s + float64(e*(c+float64(k*(y+1))))
		p, s = t+1, s+2
		an, an1 = an1, float64(alpha*an)+float64(beta*an1)
		bn, bn1 = bn1, float64(alpha*bn)+float64(beta*bn1)
		last := r
		r = an1 / bn1
		if math.Abs(r-last) <= float64(1e-16*r) {
			break
		}
		an, bn, an1, bn1 = an/bn1, bn/bn1, r, 1
	}
	return float64(front * r)
}

// stirlingError is log Γ(a+1) - log(sqrt(2πa) (a/e)^a), the error of
// Stirling's formula.
func stirlingError(a float64) float64 {
	if a <= 15 {
		if k := float64(2 * a); k == math.Trunc(k) {
			return stirlingHalves[int(k)]
		}
		if a < 1 {
			return Lgamma(a+1) - float64((a+0.5)*Log(a)) + a - 0.91893853320467274
		}
		// Lift a past 15 with error(a) = error(a+1) + (a+1/2) log((a+1)/a) - 1.
		var lift float64
		for ; a <= 15; a++ {
			lift += logRatioExcess(a)
		}
		return lift + stirlingSeries(a)
	}
	return stirlingSeries(a)
}

// logRatioExcess is (a+1/2) log(1+1/a) - 1, by 2 atanh(1/(2a+1)) =
// log(1+1/a): the series of its rest, all positive.
func logRatioExcess(a float64) float64 {
	v := 1 / (float64(2*a) + 1)
	v2 := float64(v * v)
	sum, pow := 0.0, v2
	for k := 3.0; k < 400; k += 2 {
		t := pow / k
		sum += t
		if t < float64(1e-18*sum) {
			break
		}
		pow = float64(pow * v2)
	}
	return sum
}

// stirlingSeries is the asymptotic series (DLMF 5.11.1) for a > 15.
func stirlingSeries(a float64) float64 {
	const (
		s0 = 1.0 / 12
		s1 = 1.0 / 360
		s2 = 1.0 / 1260
		s3 = 1.0 / 1680
		s4 = 1.0 / 1188
		s5 = 691.0 / 360360
		s6 = 1.0 / 156
	)
	w := 1 / float64(a*a)
	t := s5 - float64(s6*w)
	t = s4 - float64(t*w)
	t = s3 - float64(t*w)
	t = s2 - float64(t*w)
	t = s1 - float64(t*w)
	t = s0 - float64(t*w)
	return t / a
}

// deviance is x log(x/m) + m - x for d = x - m, without cancellation for small
// d (after Loader's bd0, which takes m alone and so loses a small d).
func deviance(x, m, d float64) float64 {
	if d > float64(0.5*x) {
		return float64(x*Log(x/m)) - d
	}
	if math.Abs(d) >= float64(0.1*(x+m)) {
		return -float64(x*Log1p(-d/x)) - d
	}
	v := d / (x + m)
	s := float64(d * v)
	if math.Abs(s) < 0x1p-1022 {
		return s
	}
	e := float64(2 * float64(x*v))
	v2 := float64(v * v)
	for j := 3.0; j < 2000; j += 2 {
		e = float64(e * v2)
		next := s + e/j
		if next == s {
			break
		}
		s = next
	}
	return s
}

// StudentQuantile is the t with P(|T| > t) = p for 0 < p < 1.
func StudentQuantile(p, df float64) float64 {
	if !(p > 0) || !(p < 1) || !(df > 0) {
		return math.NaN()
	}
	lo, hi := 0.0, 1.0
	for StudentTail(hi, df) > p {
		lo, hi = hi, float64(2*hi)
		if hi > 1e300 {
			return math.Inf(1)
		}
	}
	for i := 0; i < 2000; i++ {
		mid := lo + float64(0.5*(hi-lo))
		if mid <= lo || mid >= hi {
			break
		}
		if StudentTail(mid, df) > p {
			lo = mid
		} else {
			hi = mid
		}
	}
	return hi
}
