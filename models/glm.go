package models

import (
	"math"

	"consilium"
	"consilium/internal/det"
	"consilium/internal/gram"
)

// glmSpec is what only generalised linear models have.
type glmSpec struct {
	response  string
	levels    bool // response has two levels; the second counts as 1
	offset    string
	logOffset bool
}

// The block "start": weights and working response of the null model, and the
// saturated log-likelihood.
const (
	startWeight = iota
	startWorking
	startSaturated
	glmStartLen
)

// The block "fit" of later rounds.
const (
	fitDiverged = iota // hospitals at which a fitted mean left the range
	fitLoglik
	fitPearson
	fitNullLoglik
	fitNullScore
	fitNullInformation
	glmFitLen
)

// newGLM makes a generalised linear model with the canonical link: gaussian,
// binomial or poisson. A term "site" (or strata: [site]) gives every hospital
// an intercept of its own, which it profiles itself: the other coefficients
// and their errors are those of the pooled model with a factor of hospitals,
// and no hospital's effect is ever sent.
func newGLM(facts consilium.Facts, a *consilium.AnalysisSpec) (Analysis, error) {
	spec := facts.Spec
	families := []string{"gaussian", "binomial", "poisson", "negative-binomial"}
	switch a.Family {
	case "gaussian", "binomial", "poisson", familyNegBin:
	case "":
		return nil, consilium.ErrInvalid.Withf("family: want gaussian, binomial, poisson or negative-binomial")
	default:
		return nil, consilium.ErrInvalid.Withf("family %q%s; want gaussian, binomial, poisson or negative-binomial", a.Family, suggest(a.Family, families))
	}
	r := a.Response
	if r == nil || r.Column == "" || r.Start != "" || r.Stop != "" || r.Event != "" {
		return nil, consilium.ErrInvalid.Withf("response: want one column")
	}
	m := &glmSpec{response: r.Column}
	var numeric, factors []string
	if levels, ok := levelsColumn(spec, r.Column); ok {
		if a.Family != "binomial" || len(levels) != 2 {
			return nil, consilium.ErrInvalid.Withf("response: column %s has %d levels; want a number, or two levels and family binomial", r.Column, len(levels))
		}
		m.levels = true
		factors = append(factors, r.Column)
	} else {
		if err := needNumeric(spec, "response", r.Column); err != nil {
			return nil, err
		}
		numeric = append(numeric, r.Column)
	}
	if a.Offset != nil {
		if err := needNumeric(spec, "offset", a.Offset.Column); err != nil {
			return nil, err
		}
		m.offset, m.logOffset = a.Offset.Column, a.Offset.Log
		numeric = append(numeric, m.offset)
	}
	if err := needRidge(a); err != nil {
		return nil, err
	}
	absorb := false
	for _, s := range a.Strata {
		if s != "site" {
			return nil, consilium.ErrInvalid.Withf("strata: %s; a glm is stratified by site only, use a term", s)
		}
		absorb = true
	}
	d, err := newDesign(spec, a.Terms, !a.NoIntercept || absorb)
	if err != nil {
		return nil, err
	}
	absorb = absorb || d.site
	if a.Family == familyNegBin && absorb {
		return nil, consilium.ErrInvalid.Withf("terms: site is not available with family negative-binomial; use poisson with site and robust errors, or leave site out")
	}
	if a.Family == familyNegBin && a.Ridge > 0 {
		return nil, consilium.ErrInvalid.Withf("ridge is not available with family negative-binomial; use poisson")
	}
	g := &regression{facts: facts, spec: a, d: d, family: a.Family, glm: m, ridge: a.Ridge,
		absorb: absorb, intercept: !a.NoIntercept && !absorb}
	if g.evaluate = a.Evaluate; g.evaluate != 0 && (g.evaluate < 2 || g.evaluate > maxEvaluate || a.Family != "binomial") {
		return nil, consilium.ErrInvalid.Withf("evaluate %d: want 2 to %d cells of fitted probabilities, of family binomial", g.evaluate, maxEvaluate)
	}
	if g.q() == 0 {
		return nil, consilium.ErrInvalid.Withf("terms: a model without coefficients")
	}
	if contains(append(d.numeric, d.factors...), r.Column) {
		return nil, consilium.ErrInvalid.Withf("terms: %s is also the response", r.Column)
	}
	if err := g.setCluster(a); err != nil {
		return nil, err
	}
	g.reads = want{numeric: unique(append(numeric, d.numeric...)...), factors: unique(append(factors, d.factors...)...)}
	if a.Lasso != 0 || a.Penalty != nil {
		return newPenalised(g)
	}
	return g, nil
}

// response reads y and the offset, and refuses values outside the family.
func (g *regression) glmData(data *frame) (y, offset []float64, events float64, err error) {
	m := g.glm
	if m.levels {
		y = make([]float64, data.n)
		for i, c := range data.code[m.response] {
			y[i] = float64(c)
		}
	} else {
		y = data.num[m.response]
	}
	for _, v := range y {
		switch {
		case g.family == "binomial" && v != 0 && v != 1:
			return nil, nil, 0, consilium.ErrData.Withf("column %s: a response of family binomial that is neither 0 nor 1", m.response)
		case g.family == familyNegBin && (v < 0 || v != math.Trunc(v)):
			return nil, nil, 0, consilium.ErrData.Withf("column %s: a response of family negative-binomial that is not a count", m.response)
		case g.family == "poisson" && (v < 0 || v != math.Trunc(v)):
			return nil, nil, 0, consilium.ErrData.Withf("column %s: a response of family poisson that is not a count", m.response)
		}
		if !(math.Abs(v) < largest) {
			return nil, nil, 0, tooLarge("response " + m.response)
		}
		if g.family != "gaussian" {
			events += v
		}
	}
	offset = make([]float64, data.n)
	if m.offset != "" {
		for i, v := range data.num[m.offset] {
			if m.logOffset {
				if !(v > 0) {
					return nil, nil, 0, consilium.ErrData.Withf("offset: column %s has a value that is not above 0, so it has no logarithm", m.offset)
				}
				v = det.Log(v)
			}
			if limit := 500.0; g.family != "gaussian" && !(math.Abs(v) < limit) {
				return nil, nil, 0, consilium.ErrData.Withf("offset: column %s has a value beyond %v on the scale of the linear predictor; is the unit right, or is log missing?", m.offset, limit)
			} else if !(math.Abs(v) < largest) {
				return nil, nil, 0, tooLarge("offset " + m.offset)
			}
			offset[i] = v
		}
	}
	return y, offset, events, nil
}

// member is the family at one row: mean, variance and log-likelihood at the
// linear predictor eta.
func member(family string, y, eta float64) (mu, w, ll float64) {
	switch family {
	case "binomial":
		mu, w, _, ll, d := gram.Logistic(y, eta)
		return mu, w, ll - det.Log(d)
	case "poisson":
		mu = det.Exp(eta)
		return mu, mu, float64(y*eta) - mu - det.Lgamma(y+1)
	}
	d := y - eta
	return eta, 1, -float64(0.5 * float64(d*d))
}

// startMean is R's: the data themselves, kept off the border.
func startMean(family string, y float64) (mu, eta, w float64) {
	switch family {
	case "binomial":
		mu = float64((y + 0.5) / 2)
		return mu, det.Log(mu / (1 - mu)), float64(mu * (1 - mu))
	case familyNegBin: // MASS: 1/6 for a zero
		mu = math.Max(y, 1.0/6)
		return mu, det.Log(mu), mu
	case "poisson":
		mu = y + 0.1
		return mu, det.Log(mu), mu
	}
	return y, y, 1
}

// glmStart fills the weights and weights times working responses of the first
// step, and their sums.
func (g *regression) glmStart(l *localFit, y, offset, w, r []float64) {
	saturated := make([]float64, len(y))
	inParallel(len(y), func(from, to int) {
		last, mu, eta, v := math.NaN(), 0.0, 0.0, 0.0
		for i := from; i < to; i++ {
			if y[i] != last {
				last = y[i]
				mu, eta, v = startMean(g.family, last)
			}
			at := eta
			if offset != nil {
				at -= offset[i]
			}
			w[i] = v
			r[i] = float64(v*at) + (y[i] - mu)
			if g.family == "poisson" {
				s := -y[i] - det.Lgamma(y[i]+1)
				if y[i] > 0 {
					s += float64(y[i] * det.Log(y[i]))
				}
				saturated[i] = s
			}
		}
	})
	var sum gram.Totals
	for from := 0; from < len(w); { // a kernel cannot be interrupted
		to := min(from+stretchRows, len(w))
		sum.Add(w[from:to], r[from:to], saturated[from:to], saturated[from:to])
		from = to
	}
	l.fit[startWeight] = total{sum.Hi[0], sum.Lo[0]}
	l.fit[startWorking] = total{sum.Hi[1], sum.Lo[1]}
	l.fit[startSaturated] = total{sum.Hi[2], sum.Lo[2]}
}

// glmLocal computes a hospital's vector where it is no sweep over prepared rows:
// with an intercept of its own, in the last round, of negative-binomial models. Of
// the others it is the definition.
func (g *regression) glmLocal(data *frame, x [][]float64, f *fit, phase uint32) (*localFit, error) {
	y, offset, events, err := g.glmData(data)
	if err != nil {
		return nil, err
	}
	n := data.n
	var l *localFit
	off := g.q() - g.p()
	w, r := make([]float64, n), make([]float64, n) // weight; residual or w times working response
	if phase == phaseFirst {
		l = g.newLocal(glmStartLen)
		l.events = events
		g.glmStart(l, y, offset, w, r)
		if g.absorb {
			// Weighted residuals from the hospital's own mean working response.
			own := l.fit[startWorking].value() / l.fit[startWeight].value()
			for i := range r {
				r[i] -= float64(w[i] * own)
			}
		}
		g.moments(l, x, w, r, off)
		return l, nil
	}
	if g.family == familyNegBin {
		return g.negbinLocal(data, x, f, y, offset, phase)
	}
	l = g.newLocal(glmFitLen)
	if g.evaluate > 0 {
		l.evaluate = make([]total, evaluateLen(g.evaluate))
	}
	if n == 0 {
		return l, nil
	}
	eta := make([]float64, n)
	for i := range eta {
		if eta[i] = offset[i]; g.intercept {
			eta[i] += f.theta[0]
		}
	}
	addColumns(eta, x, f.theta[off:])
	diverged := false
	if g.absorb && g.family != "gaussian" {
		for _, v := range eta {
			diverged = diverged || math.Abs(v) > 500
		}
	}
	degenerate := false
	if g.absorb && !diverged {
		var own float64
		own, degenerate = profile(g.family, y, eta)
		for i := range eta {
			eta[i] += own
		}
	}
	sums := newLikelihoods(n)
	if g.glm.offset == "" {
		offset = nil
	}
	if !diverged {
		inParallel(n, func(from, to int) {
			weigh := g.newWeigher(f, y, offset)
			weigh.without = degenerate
			for ; from < to; from += pieceRows {
				end := min(from+pieceRows, to)
				weigh.piece(&sums[from/stretchRows], from, eta[from:end], w[from:end], r[from:end])
			}
		})
		diverged = !g.addLikelihoods(l, f, sums)
	}
	if diverged {
		out := g.diverged()
		out.evaluate = l.evaluate
		return out, nil
	}
	if phase == phaseFinal {
		out := g.newLocal(0)
		if g.robust {
			residual := make([][]float64, g.q())
			mean := g.weightedMeans(x, w)
			for k := range residual {
				residual[k] = make([]float64, n)
				for i := range y {
					switch {
					case k < off:
						residual[k][i] = r[i]
					default:
						residual[k][i] = float64(r[i] * (x[k-off][i] - mean[k-off]))
					}
				}
			}
			g.clusterMeat(out, data, residual)
		}
		if g.evaluate > 0 {
			out.evaluate = evaluateLocal(g.evaluate, data, y, eta)
		}
		return out, nil
	}
	g.moments(l, x, w, r, off)
	return l, nil
}

// weightedMeans are the hospital's own when it profiles its intercept, else
// zero.
func (g *regression) weightedMeans(x [][]float64, w []float64) []float64 {
	out := make([]float64, len(x))
	if !g.absorb {
		return out
	}
	sum := total{}
	for _, v := range w {
		sum.add(v)
	}
	if !(sum.value() > 0) {
		return out
	}
	for j := range x {
		s := total{}
		for i, v := range x[j] {
			s.add(float64(w[i] * v))
		}
		out[j] = s.value() / sum.value()
	}
	return out
}

// moments adds the score Σ r x and the information Σ w x x'. With a profiled
// intercept the information is that of the columns around their weighted
// means, its Schur complement.
func (g *regression) moments(l *localFit, x [][]float64, w, r []float64, off int) {
	mean := g.weightedMeans(x, w)
	z := x
	if off == 1 {
		one := make([]float64, len(w))
		for i := range one {
			one[i] = 1
		}
		z = append([][]float64{one}, x...)
		mean = append([]float64{0}, mean...)
	}
	if !g.absorb {
		mean = nil
	}
	products(l.information, l.score, z, mean, w, r)
}

// profile finds the intercept at which the hospital's fitted total is its
// observed one. degenerate: it is infinite (no events, or nothing but), or
// there is nothing to find.
func profile(family string, y, eta []float64) (own float64, degenerate bool) {
	sum := total{}
	for _, v := range y {
		sum.add(v)
	}
	s := sum.value()
	switch family {
	case "gaussian":
		d := total{}
		for i := range y {
			d.add(y[i] - eta[i])
		}
		return d.value() / float64(len(y)), false
	case "poisson":
		if s == 0 {
			return 0, true
		}
		top := math.Inf(-1)
		for _, v := range eta {
			top = math.Max(top, v)
		}
		e := total{}
		for _, v := range eta {
			e.add(det.Exp(v - top))
		}
		return det.Log(s) - det.Log(e.value()) - top, false
	}
	if s == 0 || s == float64(len(y)) {
		return 0, true
	}
	// Between these the fitted total passes the observed one; Newton inside,
	// halving when it would leave.
	lo, hi := math.Inf(1), math.Inf(-1)
	middle := det.Log(s) - det.Log(float64(len(y))-s)
	for _, v := range eta {
		lo, hi = math.Min(lo, middle-v), math.Max(hi, middle-v)
	}
	own = lo + float64(0.5*(hi-lo))
	for k := 0; k < 200; k++ {
		u, info := total{}, total{}
		for i := range y {
			mu, w, _ := member(family, y[i], eta[i]+own)
			u.add(y[i] - mu)
			info.add(w)
		}
		if u.value() > 0 {
			lo = own
		} else {
			hi = own
		}
		next := own + u.value()/info.value()
		if !(next >= lo && next <= hi) {
			next = lo + float64(0.5*(hi-lo))
		}
		if next == own || hi <= lo || math.Abs(next-own) <= float64(1e-16*math.Abs(own)) {
			return next, false
		}
		own = next
	}
	return own, false
}

// firstGLM takes the first step of iteratively reweighted least squares, from
// R's start. A direction without information waits for the next round, whose
// columns are centred.
func (g *regression) firstGLM(f *fit, start, b []float64, a [][]float64, shift, ratio []float64) {
	q := g.q()
	off := q - g.p()
	for j := 0; j < g.p() && g.ridge > 0; j++ {
		s := f.scale[j] / ratio[j] // the scale of this round
		a[off+j][off+j] += g.ridge / float64(s*s)
	}
	keep := make([]int, q)
	for i := range keep {
		keep[i] = i
	}
	theta := make([]float64, q)
	for len(keep) > 0 {
		sub := newMatrix(len(keep))
		rhs := make([]float64, len(keep))
		for i, k := range keep {
			rhs[i] = b[k]
			for j, m := range keep {
				sub[i][j] = a[k][m]
			}
		}
		inv, bad := invert(sub, 1e-13)
		if bad >= 0 {
			keep = append(keep[:bad], keep[bad+1:]...)
			continue
		}
		for i, v := range apply(inv, rhs) {
			theta[keep[i]] = v
		}
		break
	}
	for j := 0; j < g.p(); j++ {
		f.theta[off+j] = float64(theta[off+j] * ratio[j])
	}
	if g.intercept {
		f.theta[0] = theta[0]
		for j := 0; j < g.p(); j++ {
			f.theta[0] += float64(theta[1+j] * shift[j])
		}
	}
	if w := start[startWeight]; w > 0 && (g.intercept || g.absorb) {
		f.alpha = start[startWorking] / w
	}
	f.saturated = start[startSaturated]
	if g.intercept {
		f.prev[0] = f.alpha // where halving a first step that overflows leads
	}
}

func (g *regression) advanceGLM(f *fit, v, score []float64, info [][]float64, round uint32) (*State, error) {
	limit := g.last(round)
	if v[fitDiverged] > 0 {
		if _, code, _ := g.halve(f); code != 0 || limit {
			return failed(round, failConverge, 0), nil
		}
		return g.save(f, phaseFit, round)
	}
	g.nullStep(f, v)
	sigma := 1.0
	if g.family == "gaussian" {
		sigma = g.sigma(f, v[fitPearson])
	}
	f.pearson = v[fitPearson]
	done, code, index := g.newton(f, v[fitLoglik], score, info, sigma)
	switch {
	case code != 0:
		return failed(round, code, index), nil
	case done && f.nullDone == 1:
		return g.finish(f, round)
	case limit:
		return failed(round, failConverge, 0), nil
	}
	return g.save(f, phaseFit, round)
}

// sigma is the residual standard deviation of a gaussian fit.
func (g *regression) sigma(f *fit, rss float64) float64 {
	return math.Sqrt(rss / (f.cohort[cohortRows] - float64(g.q()) - g.sites(f.cohort)))
}

// nullStep fits the model with an intercept alone beside the other, for the
// null deviance.
func (g *regression) nullStep(f *fit, v []float64) {
	if f.nullDone == 1 {
		return
	}
	ll := v[fitNullLoglik]
	if !g.intercept && !g.absorb {
		f.nullLL, f.nullDone = ll, 1
		return
	}
	if f.alphaSteps > 0 && ll < f.nullLL-float64(1e-11*(1+math.Abs(f.nullLL))) {
		f.alpha = float64(0.5 * (f.alpha + f.alphaPrev))
		return
	}
	step := v[fitNullScore] / v[fitNullInformation]
	scale := 1.0
	if g.family == "gaussian" {
		if scale = math.Sqrt(-2 * ll / f.cohort[cohortRows]); scale == 0 {
			scale = 1
		}
	}
	size := float64(math.Abs(step)*math.Sqrt(v[fitNullInformation])) / scale
	f.alphaPrev, f.nullLL = f.alpha, ll
	f.alpha += step
	f.alphaSteps++
	if size < math.Max(g.facts.Spec.Rounds.Tolerance, 1e-9) {
		f.nullDone = 1
	}
}
