package models

import (
	"math"

	"consilium"
	"consilium/internal/det"
)

// Negative-binomial regression with log link, mean mu and variance
// mu + mu²/theta; coefficients and theta by maximum likelihood together
// (MASS: glm.nb). tau = log theta is one more parameter of Newton's method, on
// the observed information; the errors of the coefficients are, as in MASS,
// those of the expected information at theta, that of theta from the observed.

const familyNegBin = "negative-binomial"

// The blocks of a round besides score and information (expected, of the
// coefficients): sums for tau, and the observed information.
const (
	nbDiverged = iota
	nbLoglik
	nbPearson
	nbDeviance
	nbTauScore
	nbTauInformation // observed, of tau
	nbNullLoglik
	nbNullScore
	nbNullInformation
	nbNullDeviance
	nbFitLen
)

// maxCount bounds a count, whose sums of 1/(theta+k) run over k below it.
const maxCount = 10_000_000

// rising tables sums over k < y of log(theta+k), 1/(theta+k) and its square.
type rising struct{ log, one, two []float64 }

func newRising(theta, most float64) *rising {
	n := int(most) + 1
	t := &rising{make([]float64, n), make([]float64, n), make([]float64, n)}
	var a, b, c total
	for k := 1; k < n; k++ {
		v := theta + float64(k-1)
		a.add(det.Log(v))
		b.add(1 / v)
		c.add(1 / float64(v*v))
		t.log[k], t.one[k], t.two[k] = a.value(), b.value(), c.value()
	}
	return t
}

// nbMember is one row at linear predictor eta.
type nbMember struct {
	mu, ll, deviance, pearson float64
	score                     float64 // d ll / d eta
	expected, observed        float64 // information of eta
	tau, tauTau, tauEta       float64 // score of tau, its information, and the cross one
}

func (t *rising) at(theta, logTheta, y, eta float64) nbMember {
	mu := det.Exp(eta)
	sum := theta + mu
	logSum := det.Log(sum)
	var m nbMember
	m.mu = mu
	m.ll = t.log[int(y)] - det.Lgamma(y+1) + float64(theta*(logTheta-logSum)) + float64(y*(eta-logSum))
	// 2 (y log(y/mu) - (y+theta) log((y+theta)/(mu+theta)))
	d := -float64((y + theta) * (det.Log(y+theta) - logSum))
	if y > 0 {
		d += float64(y * (det.Log(y) - eta))
	}
	m.deviance = float64(2 * d)
	r := y - mu
	m.score = float64(theta*r) / sum
	m.expected = float64(mu*theta) / sum
	m.observed = float64(m.expected * ((y + theta) / sum))
	m.pearson = float64(r*r) / float64(mu*(1+mu/theta))
	ratio := (y + theta) / sum
	first := t.one[int(y)] + (logTheta - logSum) + (1 - ratio) // d ll / d theta
	second := -t.two[int(y)] + 1/theta - 2/sum + ratio/sum     // d² ll / d theta²
	m.tau = float64(theta * first)
	m.tauTau = -(float64(float64(theta*theta)*second) + m.tau)
	m.tauEta = -float64(theta * (float64(r*mu) / float64(sum*sum)))
	return m
}

// negbinLocal is one hospital's sums in a round after the first.
func (g *regression) negbinLocal(data *frame, x [][]float64, f *fit, y, offset []float64, phase uint32) (*localFit, error) {
	l := g.newLocal(nbFitLen)
	off, q, n := g.base(), g.q(), data.n
	l.tauCross, l.observed = make([]total, q), make([]total, packedLen(q))
	if n == 0 {
		return l, nil
	}
	theta := det.Exp(f.tau)
	most := 0.0
	for _, v := range y {
		most = math.Max(most, v)
	}
	if most > maxCount {
		return nil, consilium.ErrData.Withf("column %s: a count above %d; declare bounds, or count in larger units", g.glm.response, maxCount)
	}
	t := newRising(theta, most)
	eta := g.linear(f, x, n)
	w, r, o, cross := make([]float64, n), make([]float64, n), make([]float64, n), make([]float64, n)
	far := false
	for i := range y {
		at, null := eta[i]+offset[i], offset[i]
		if g.intercept {
			at += f.theta[0]
			null += f.alpha
		}
		far = far || math.Abs(at) > 300 || math.Abs(null) > 300 || math.Max(at, null) > 34 // a mean above 2^49
		if far {
			break
		}
		m := t.at(theta, f.tau, y[i], at)
		w[i], r[i], o[i], cross[i] = m.expected, m.score, m.observed, m.tauEta
		if m.pearson > 0x1p50 {
			far = true
		}
		l.fit[nbLoglik].add(m.ll)
		l.fit[nbPearson].add(m.pearson)
		l.fit[nbDeviance].add(m.deviance)
		l.fit[nbTauScore].add(m.tau)
		l.fit[nbTauInformation].add(m.tauTau)
		m = t.at(theta, f.tau, y[i], null)
		l.fit[nbNullLoglik].add(m.ll)
		l.fit[nbNullScore].add(m.score)
		l.fit[nbNullInformation].add(m.expected)
		l.fit[nbNullDeviance].add(m.deviance)
	}
	if far {
		out := g.newLocal(nbFitLen)
		out.tauCross, out.observed = make([]total, q), make([]total, packedLen(q))
		out.fit[nbDiverged] = total{hi: 1}
		return out, nil
	}
	if phase == phaseFinal {
		residual := make([][]float64, q)
		for k := range residual {
			residual[k] = make([]float64, n)
			for i := range y {
				if k < off {
					residual[k][i] = r[i]
				} else {
					residual[k][i] = float64(r[i] * x[k-off][i])
				}
			}
		}
		out := g.newLocal(0)
		g.clusterMeat(out, data, residual)
		return out, nil
	}
	g.moments(l, x, w, r, off)
	// The observed information, with the cross information as its score.
	also := &localFit{score: l.tauCross, information: l.observed}
	g.moments(also, x, o, cross, off)
	return l, nil
}

// negbinBlocks are written after the block "fit".
func (g *regression) writeNegbin(w Writer, l *localFit) error {
	if err := write(w, "score", values(l.score)); err != nil {
		return err
	}
	if err := write(w, "information", values(l.information)); err != nil {
		return err
	}
	if err := write(w, "observed", values(l.observed)); err != nil {
		return err
	}
	return write(w, "cross", values(l.tauCross))
}

// advanceNegbin takes a joint Newton step of coefficients and tau.
func (g *regression) advanceNegbin(f *fit, v, score []float64, expected [][]float64, o Opened, round uint32) (*State, error) {
	q := g.q()
	packed, err := o.take("observed", packedLen(q))
	if err != nil {
		return nil, err
	}
	cross, err := o.take("cross", q)
	if err != nil {
		return nil, err
	}
	limit := g.last(round)
	back := func() (*State, error) {
		f.halvings++
		if f.halvings > 40 || limit {
			return failed(round, failConverge, 0), nil
		}
		for j := range f.theta {
			f.theta[j] = float64(0.5 * (f.theta[j] + f.prev[j]))
		}
		f.tau = float64(0.5 * (f.tau + f.tauPrev))
		f.alpha = float64(0.5 * (f.alpha + f.alphaPrev))
		return g.save(f, phaseFit, round)
	}
	ll := v[nbLoglik]
	if v[nbDiverged] > 0 || f.steps > 0 && ll < f.prevLL-float64(1e-11*(1+math.Abs(f.prevLL))) {
		return back()
	}
	f.halvings = 0
	f.pearson, f.rawLL, f.deviance = v[nbPearson], ll, v[nbDeviance]
	// The model with an intercept alone, at the same theta (as MASS has it).
	nullSize := 0.0
	f.alphaPrev, f.nullLL, f.nullDeviance = f.alpha, v[nbNullLoglik], v[nbNullDeviance]
	if g.intercept {
		step := v[nbNullScore] / v[nbNullInformation]
		nullSize = float64(math.Abs(step) * math.Sqrt(v[nbNullInformation]))
		f.alpha += math.Max(-5, math.Min(5, step))
	}
	vcov, bad := invert(expected, collinear)
	if bad >= 0 {
		return failed(round, failEstimable, bad), nil
	}
	joint := newMatrix(q + 1)
	u := append(append([]float64(nil), score...), v[nbTauScore])
	observed := unpack(packed, q)
	for i := 0; i < q; i++ {
		copy(joint[i], observed[i])
		joint[i][q], joint[q][i] = cross[i], cross[i]
	}
	joint[q][q] = v[nbTauInformation]
	var step []float64
	inv, bad := invert(joint, collinear)
	switch {
	case bad < 0:
		step = apply(inv, u)
		f.tauSE = math.Sqrt(1 / v[nbTauInformation])
	default:
		// Away from the maximum the likelihood may curve upwards in tau: a short
		// step uphill, and the coefficients on their own.
		step = append(apply(vcov, score), math.Copysign(0.7, v[nbTauScore]))
	}
	// The quadratic model reaches no further than this; columns have spread 1.
	longest := math.Abs(step[q])
	for _, d := range step {
		longest = math.Max(longest, math.Abs(d))
	}
	if longest > 2 {
		for j := range step {
			step[j] = float64(step[j] * 2 / longest)
		}
	}
	if f.tau > 18 && v[nbTauScore] > 0 || f.tau > 25 {
		return failed(round, failDispersion, 0), nil
	}
	largest, reach, far := 0.0, -1.0, 0
	for j := 0; j < q; j++ {
		largest = math.Max(largest, math.Abs(step[j])/math.Sqrt(vcov[j][j]))
		if a := math.Abs(step[j]); a > reach && j >= g.base() {
			reach, far = a, j
		}
	}
	if bad < 0 {
		largest = math.Max(largest, math.Abs(step[q])/math.Sqrt(inv[q][q]))
	}
	decrement := dot(step, u)
	done := bad < 0 && largest < g.facts.Spec.Rounds.Tolerance/1000
	if !done && bad < 0 && f.steps > 0 && largest < 1e-6 && largest >= float64(0.5*f.stepSE) {
		done, f.floor = true, 1
	}
	if !done && bad < 0 && f.steps > 0 && decrement < 0.1 && decrement > 1e-14 && decrement > float64(0.15*f.decrement) {
		if f.slow++; f.slow >= 3 {
			return failed(round, failSeparation, far), nil
		}
	} else {
		f.slow = 0
	}
	copy(f.prev, f.theta)
	f.tauPrev = f.tau
	for j := 0; j < q; j++ {
		f.theta[j] += step[j]
	}
	f.tau += step[q]
	f.ll, f.prevLL = ll, ll
	f.decrement, f.stepSE = decrement, largest
	f.steps++
	f.vcov = pack(vcov)
	switch {
	case done && nullSize < math.Max(g.facts.Spec.Rounds.Tolerance, 1e-9):
		return g.finish(f, round)
	case limit:
		return failed(round, failConverge, 0), nil
	}
	return g.save(f, phaseFit, round)
}
