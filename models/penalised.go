package models

import (
	"context"
	"errors"
	"fmt"
	"math"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/det"
)

// penalised fits ridge, lasso and elastic net at every lambda of a path:
//
//	minimise  -loglik/n + lambda ((1-alpha)/2 |b|² + alpha |b|_1)
//
// glmnet's objective (Friedman, Hastie and Tibshirani 2010), where b are the
// coefficients of columns divided by their standard deviation (with 1/n), and
// the intercept is free. Hospitals add up log-likelihood, score and information
// at the current coefficients of all lambdas side by side, since rounds are
// what costs; each update is a proximal Newton step, solved by coordinate
// descent and then exactly on the set of coefficients that are not zero.
//
// The keys lasso and ridge ask for one fit with penalties in the units of the
// study: loglik - lasso |beta|_1 - ridge/2 |beta|².
type penalised struct {
	g *regression
}

// Phases of a path.
const (
	pathFirst = iota // cohort, moments
	pathNull         // the fit without terms
	pathFit
	pathDone
)

const (
	maxLambdas   = 200
	defaultSteps = 20
	defaultRatio = 0.01
)

// newPenalised wraps a regression whose specification asks for a penalty.
func newPenalised(g *regression) (Analysis, error) {
	a := g.spec
	if g.p() == 0 {
		return nil, consilium.ErrInvalid.Withf("penalty: a model without terms has nothing to shrink")
	}
	if g.robust || g.phCheck != "" || g.concordance || g.evaluate > 0 || g.common() || g.pieces != nil || g.family == familyNegBin || len(a.TimeTerms) > 0 {
		return nil, consilium.ErrInvalid.Withf("penalty: not together with robust or cluster, phCheck, concordance, evaluate, timeTerms, another baseline, or family negative-binomial")
	}
	if !(a.Lasso >= 0) || math.IsInf(a.Lasso, 0) {
		return nil, consilium.ErrInvalid.Withf("lasso %v: want 0 or more", a.Lasso)
	}
	p := a.Penalty
	if p == nil {
		return &penalised{g}, nil
	}
	if a.Lasso != 0 || a.Ridge != 0 {
		return nil, consilium.ErrInvalid.Withf("penalty: keep either it or lasso and ridge")
	}
	if !(p.Alpha >= 0 && p.Alpha <= 1) {
		return nil, consilium.ErrInvalid.Withf("penalty: alpha %v, want 0 (ridge) to 1 (lasso)", p.Alpha)
	}
	if len(p.Lambda) > maxLambdas || p.Steps < 0 || p.Steps > maxLambdas {
		return nil, consilium.ErrInvalid.Withf("penalty: at most %d values of lambda", maxLambdas)
	}
	for i, l := range p.Lambda {
		if !(l > 0) || math.IsInf(l, 0) || i > 0 && !(l < p.Lambda[i-1]) {
			return nil, consilium.ErrInvalid.Withf("penalty: lambda %v, want values above 0 that fall", l)
		}
	}
	if len(p.Lambda) == 0 {
		if p.Alpha < 1e-3 {
			return nil, consilium.ErrInvalid.Withf("penalty: with alpha %v no lambda leaves every term out; list lambda", p.Alpha)
		}
		if p.Ratio != 0 && !(p.Ratio > 0 && p.Ratio < 1) {
			return nil, consilium.ErrInvalid.Withf("penalty: ratio %v, want above 0 and below 1", p.Ratio)
		}
	} else if p.Steps != 0 || p.Ratio != 0 {
		return nil, consilium.ErrInvalid.Withf("penalty: lambda is listed, so steps and ratio say nothing; leave them out")
	}
	return &penalised{g}, nil
}

// pathState is what travels: the underlying fit (cohort, scales, null model)
// and for each lambda its own coefficients.
type pathState struct {
	fit                       *fit
	sd                        []float64 // of the columns, in units of their scale
	lambda                    []float64
	theta, prev               []float64 // q by lambda
	ll, objective             []float64
	done, halvings, stepped   []float64
	size                      []float64 // of the last step
	nullLL, nullSteps, nullSE float64
}

func (a *penalised) tape(t *tape, s *pathState) {
	s.fit.tape(t, a.g)
	t.vec(&s.sd, a.g.p())
	t.list(&s.lambda)
	k := len(s.lambda)
	t.vec(&s.theta, k*a.g.q())
	t.vec(&s.prev, k*a.g.q())
	for _, v := range []*[]float64{&s.ll, &s.objective, &s.done, &s.halvings, &s.stepped, &s.size} {
		t.vec(v, k)
	}
	for _, v := range []*float64{&s.nullLL, &s.nullSteps, &s.nullSE} {
		t.num(v)
	}
}

func (a *penalised) load(s *State) (*pathState, error) {
	t := &tape{f: s.F64, reading: true}
	p := &pathState{fit: &fit{}}
	a.tape(t, p)
	if t.short || t.at != len(t.f) || len(s.F32) != 0 || len(s.Sub) != 0 {
		return nil, errors.New("state: not of this penalised regression")
	}
	for _, v := range p.fit.scale {
		if !(v > 0) || math.IsInf(v, 0) {
			return nil, errors.New("state: a scale is not above 0")
		}
	}
	return p, nil
}

func (a *penalised) save(p *pathState, phase, round uint32) (*State, error) {
	t := &tape{}
	a.tape(t, p)
	if t.short {
		return nil, errors.New("state: a vector has the wrong length")
	}
	for _, v := range t.f {
		if v != v {
			return nil, errors.New("state: a value is not a number")
		}
	}
	return &State{Phase: phase, Iteration: round, Done: phase == pathDone, F64: t.f}, nil
}

// Start implements Analysis.
func (a *penalised) Start(f consilium.Facts) (*State, error) {
	inner, err := a.g.Start(f)
	if err != nil {
		return nil, err
	}
	own, err := a.g.load(inner)
	if err != nil {
		return nil, err
	}
	return a.save(&pathState{fit: own, sd: make([]float64, a.g.p())}, pathFirst, 0)
}

// inner is the state of the regression at some coefficients.
func (a *penalised) inner(p *pathState, theta []float64, phase uint32) (*State, error) {
	f := *p.fit
	f.theta = theta
	return a.g.save(&f, phase, 0)
}

// open lists the lambdas that still move.
func (p *pathState) open() []int {
	var out []int
	for k, d := range p.done {
		if d == 0 {
			out = append(out, k)
		}
	}
	return out
}

// Layout implements Analysis.
func (a *penalised) Layout(s *State) (consilium.Layout, error) {
	p, err := a.load(s)
	if err != nil {
		return consilium.Layout{}, err
	}
	phase, times := uint32(phaseFit), 1
	switch s.Phase {
	case pathFirst:
		phase = phaseFirst
	case pathNull:
	case pathFit:
		times = len(p.open())
	default:
		return consilium.Layout{}, errors.New("state: the path is done")
	}
	inner, err := a.inner(p, p.fit.theta, phase)
	if err != nil {
		return consilium.Layout{}, err
	}
	l, err := a.g.Layout(inner)
	if err != nil {
		return l, err
	}
	for i := range l.Blocks {
		l.Blocks[i].Length *= times
	}
	return l, nil
}

// gather keeps blocks in memory, so that the lambdas' can be joined.
type gather struct {
	names  []string
	blocks map[string][]float64
	at     string
}

func (w *gather) Block(name string) error {
	if _, ok := w.blocks[name]; !ok {
		w.names = append(w.names, name)
	}
	w.at = name
	return nil
}
func (w *gather) Write(v []float64) error {
	w.blocks[w.at] = append(w.blocks[w.at], v...)
	return nil
}
func (w *gather) Write32([]float32) error { return errors.New("exact blocks are float64") }

// Local implements Analysis.
func (a *penalised) Local(ctx context.Context, s *State, _ []byte, rows *Rows, w Writer) ([]byte, error) {
	p, err := a.load(s)
	if err != nil {
		return nil, err
	}
	thetas, phase := [][]float64{p.fit.theta}, uint32(phaseFit)
	switch s.Phase {
	case pathFirst:
		phase = phaseFirst
	case pathFit:
		thetas = nil
		q := a.g.q()
		for _, k := range p.open() {
			thetas = append(thetas, p.theta[k*q:(k+1)*q])
		}
	}
	all := &gather{blocks: map[string][]float64{}}
	for _, theta := range thetas {
		inner, err := a.inner(p, theta, phase)
		if err != nil {
			return nil, err
		}
		if _, err := a.g.Local(ctx, inner, nil, rows, all); err != nil {
			return nil, err
		}
	}
	for _, name := range all.names {
		if err := write(w, name, all.blocks[name]); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// part is the k-th lambda's values of the opened blocks.
func (a *penalised) part(o Opened, k, of int) (ll float64, diverged bool, score []float64, info [][]float64, err error) {
	q := a.g.q()
	n, at := glmFitLen, fitLoglik
	if a.g.family == familyCox {
		n, at = coxFitLen, 0
	}
	fit, err := o.take("fit", n*of)
	if err != nil {
		return 0, false, nil, nil, err
	}
	s, err := o.take("score", q*of)
	if err != nil {
		return 0, false, nil, nil, err
	}
	m := packedLen(q)
	i, err := o.take("information", m*of)
	if err != nil {
		return 0, false, nil, nil, err
	}
	diverged = a.g.family != familyCox && fit[n*k+fitDiverged] > 0
	return fit[n*k+at], diverged, append([]float64(nil), s[q*k:q*(k+1)]...), unpack(i[m*k:m*(k+1)], q), nil
}

// Update implements Analysis.
func (a *penalised) Update(s *State, o Opened) (*State, error) {
	p, err := a.load(s)
	if err != nil {
		return nil, err
	}
	round := s.Iteration + 1
	limit := int(round) >= a.g.facts.Spec.Rounds.Max
	switch s.Phase {
	case pathFirst:
		return a.first(p, o, round)
	case pathNull:
		ll, diverged, score, info, err := a.part(o, 0, 1)
		if err != nil {
			return nil, err
		}
		if diverged {
			return failed(round, failConverge, 0), nil
		}
		for j := a.g.base(); j < a.g.q(); j++ {
			if !(info[j][j] > 0) {
				return failed(round, failEstimable, j), nil
			}
		}
		if a.g.intercept && (p.nullSteps == 0 || p.nullSE > 1e-10) {
			step := score[0] / info[0][0]
			last := p.nullSE
			p.nullSE = float64(math.Abs(step) * math.Sqrt(info[0][0]))
			p.fit.theta[0] += math.Max(-3, math.Min(3, step))
			p.nullSteps++
			// One more evaluation gives the score at the estimate, unless the step
			// no longer shrinks at the floor of the arithmetic.
			if p.nullSE > 1e-13 && !(p.nullSteps > 1 && p.nullSE < 1e-8 && p.nullSE >= last/2) {
				if limit {
					return failed(round, failConverge, 0), nil
				}
				return a.save(p, pathNull, round)
			}
		}
		return a.begin(p, ll, score, round)
	case pathFit:
		open := p.open()
		if limit {
			return failed(round, failConverge, 0), nil
		}
		for i, k := range open {
			ll, diverged, score, info, err := a.part(o, i, len(open))
			if err != nil {
				return nil, err
			}
			if code := a.step(p, k, ll, diverged, score, info); code != 0 {
				return failed(round, code, 0), nil
			}
		}
		if len(p.open()) == 0 {
			return a.save(p, pathDone, round)
		}
		return a.save(p, pathFit, round)
	}
	return nil, errors.New("state: the path is done")
}

// first applies the rules on counts and moves to the measured scale.
func (a *penalised) first(p *pathState, o Opened, round uint32) (*State, error) {
	g, f := a.g, p.fit
	var err error
	if f.cohort, err = o.take("cohort", cohortFixed+len(g.d.checks)); err != nil {
		return nil, err
	}
	if code, index := g.checkCohort(f.cohort); code != 0 && code != failDegrees {
		return failed(round, code, index), nil
	}
	n, m := f.cohort[cohortRows], g.p()
	moments, err := o.take("moments", 2*m)
	if err != nil {
		return nil, err
	}
	variance := make([]float64, m)
	for j := range variance {
		mean := moments[j] / n
		variance[j] = moments[m+j]/n - float64(mean*mean)
		if !(variance[j] > float64(1e-12*(moments[m+j]/n))) {
			return failed(round, failEstimable, g.base()+j), nil // a constant column
		}
	}
	_, ratio, err := g.rescale(f, o)
	if err != nil {
		return nil, err
	}
	for j := range variance {
		p.sd[j] = math.Sqrt(variance[j]) / ratio[j]
	}
	if g.family != familyCox {
		start, err := o.take("start", glmStartLen)
		if err != nil {
			return nil, err
		}
		f.saturated = start[startSaturated]
		if w := start[startWeight]; w > 0 {
			f.alpha = start[startWorking] / w
		}
		if g.intercept {
			f.theta[0] = f.alpha
		}
		f.nullDone = 1 // the null model is a phase of its own here
	}
	return a.save(p, pathNull, round)
}

// begin fixes the path at the fit without terms.
func (a *penalised) begin(p *pathState, ll float64, score []float64, round uint32) (*State, error) {
	g, pen := a.g, a.g.spec.Penalty
	n, off := p.fit.cohort[cohortRows], a.g.base()
	p.nullLL = ll
	switch {
	case pen == nil:
		p.lambda = []float64{1}
	case len(pen.Lambda) > 0:
		p.lambda = append([]float64(nil), pen.Lambda...)
	default:
		most := 0.0
		for j := 0; j < g.p(); j++ {
			most = math.Max(most, math.Abs(score[off+j])/float64(float64(n*pen.Alpha)*a.unit(p, j)))
		}
		if !(most > 0) {
			return failed(round, failEstimable, off), nil
		}
		steps, ratio := pen.Steps, pen.Ratio
		if steps == 0 {
			steps = defaultSteps
		}
		if ratio == 0 {
			ratio = defaultRatio
		}
		for k := 0; k < steps; k++ {
			// Just above the edge, where rounding would decide which term is in.
			l := float64(most * (1 + 0x1p-36))
			if k > 0 {
				l = float64(most * det.Exp(float64(det.Log(ratio)*(float64(k)/float64(steps-1)))))
			}
			p.lambda = append(p.lambda, l)
		}
	}
	k := len(p.lambda)
	for i := 0; i < k; i++ {
		p.theta = append(p.theta, p.fit.theta...)
	}
	p.prev = append([]float64(nil), p.theta...)
	zero := func() []float64 { return make([]float64, k) }
	p.ll, p.objective, p.done, p.halvings, p.stepped, p.size = zero(), zero(), zero(), zero(), zero(), zero()
	return a.save(p, pathFit, round)
}

// unit is the penalised coefficient per unit of theta: in standard deviations
// of the column, or in the units of the study.
func (a *penalised) unit(p *pathState, j int) float64 {
	if pen := a.g.spec.Penalty; pen != nil && !pen.Raw {
		return p.sd[j]
	}
	return 1 / p.fit.scale[j]
}

// weights are the penalties of theta_j: l1 |theta_j| + l2/2 theta_j².
func (a *penalised) weights(p *pathState, k, j int) (l1, l2 float64) {
	u := a.unit(p, j)
	if pen := a.g.spec.Penalty; pen != nil {
		w := float64(p.fit.cohort[cohortRows] * p.lambda[k])
		return float64(float64(w*pen.Alpha) * u), float64(float64(w*(1-pen.Alpha)) * float64(u*u))
	}
	return float64(a.g.spec.Lasso * u), float64(a.g.spec.Ridge * float64(u*u))
}

// step moves the coefficients of one lambda.
func (a *penalised) step(p *pathState, k int, ll float64, diverged bool, score []float64, info [][]float64) int {
	g := a.g
	q, off := g.q(), g.base()
	theta, prev := p.theta[k*q:(k+1)*q], p.prev[k*q:(k+1)*q]
	objective := ll
	l1, l2 := make([]float64, q), make([]float64, q)
	for j := 0; j < g.p(); j++ {
		l1[off+j], l2[off+j] = a.weights(p, k, j)
		t := theta[off+j]
		objective -= float64(l1[off+j]*math.Abs(t)) + float64(float64(0.5*l2[off+j])*float64(t*t))
	}
	if diverged || p.stepped[k] > 0 && objective < p.objective[k]-float64(1e-11*(1+math.Abs(p.objective[k]))) {
		if p.halvings[k]++; p.halvings[k] > 40 {
			return failConverge
		}
		for j := range theta {
			theta[j] = float64(0.5 * (theta[j] + prev[j]))
		}
		return 0
	}
	p.halvings[k], p.objective[k], p.ll[k] = 0, objective, ll
	next := proximal(theta, score, info, l1, l2)
	size := 0.0
	for j := range next {
		size = math.Max(size, float64(math.Abs(next[j]-theta[j])*math.Sqrt(info[j][j])))
	}
	if g.family == "gaussian" {
		if n := p.fit.cohort[cohortRows]; ll < 0 {
			size /= math.Sqrt(float64(-2*ll) / n)
		}
	}
	copy(prev, theta)
	copy(theta, next)
	if tol := g.facts.Spec.Rounds.Tolerance; size < tol/1000 || p.stepped[k] > 0 && size < 1e-6 && size >= float64(0.5*p.size[k]) {
		p.done[k] = 1
	}
	p.size[k] = size
	p.stepped[k]++
	return 0
}

// proximal minimises the quadratic model of -loglik at theta plus the penalty
// by coordinate descent, and then solves exactly for the coefficients that are
// not zero, if that keeps their signs.
func proximal(theta, score []float64, info [][]float64, l1, l2 []float64) []float64 {
	q := len(theta)
	x := append([]float64(nil), theta...)
	// slope of the quadratic model at x: score - info (x - theta)
	slope := append([]float64(nil), score...)
	for sweep := 0; sweep < 10000; sweep++ {
		moved := 0.0
		for j := 0; j < q; j++ {
			h := info[j][j] + l2[j]
			if !(h > 0) {
				continue
			}
			u := slope[j] + float64(info[j][j]*x[j])
			v := 0.0
			switch {
			case u > l1[j]:
				v = (u - l1[j]) / h
			case u < -l1[j]:
				v = (u + l1[j]) / h
			}
			d := v - x[j]
			if d == 0 {
				continue
			}
			x[j] = v
			for i := 0; i < q; i++ {
				slope[i] -= float64(info[i][j] * d)
			}
			moved = math.Max(moved, float64(math.Abs(d)*math.Sqrt(h)))
		}
		if moved < 1e-13 {
			break
		}
	}
	var keep []int
	for j := range x {
		if x[j] != 0 || l1[j] == 0 {
			keep = append(keep, j)
		}
	}
	n := len(keep)
	if n == 0 {
		return x
	}
	m, b := newMatrix(n), make([]float64, n)
	for i, j := range keep {
		for k, l := range keep {
			m[i][k] = info[j][l]
		}
		m[i][i] += l2[j]
		b[i] = score[j] - float64(l2[j]*theta[j])
		for k := range theta { // theta moves to zero where x is zero
			if x[k] == 0 && l1[k] != 0 {
				b[i] += float64(info[j][k] * theta[k])
			}
		}
		switch {
		case x[j] > 0:
			b[i] -= l1[j]
		case x[j] < 0:
			b[i] += l1[j]
		}
	}
	inv, bad := invert(m, 1e-13)
	if bad >= 0 {
		return x
	}
	out := append([]float64(nil), x...)
	for i, d := range apply(inv, b) {
		j := keep[i]
		out[j] = theta[j] + d
		if l1[j] > 0 && float64(out[j]*x[j]) <= 0 {
			return x
		}
	}
	return out
}

type pathFitted struct {
	Lambda   float64   `json:"lambda"`
	Nonzero  int       `json:"nonzero"` // terms, without the intercept
	Coef     []float64 `json:"coef"`
	Loglik   float64   `json:"loglik"`
	DevRatio *float64  `json:"dev_ratio,omitempty"` // share of the null deviance that is explained
	AIC      *float64  `json:"aic"`
	BIC      *float64  `json:"bic"`
}

type pathTerm struct {
	Name      string   `json:"name"`
	Column    string   `json:"column,omitempty"`
	Level     string   `json:"level,omitempty"`
	Reference string   `json:"reference,omitempty"`
	Coef      float64  `json:"coef"`
	ExpCoef   *float64 `json:"exp_coef,omitempty"`
}

// Result implements Analysis.
func (a *penalised) Result(s *State) (*Result, error) {
	g := a.g
	if s.Phase == phaseFailed {
		p, err := problem(s, g.facts.MinCohort, int(s.Iteration), g.name)
		if err != nil {
			return nil, err
		}
		return problemResult(g.spec, p)
	}
	p, err := a.load(s)
	if err != nil {
		return nil, err
	}
	if s.Phase != pathDone {
		return nil, errors.New("state: the path is not done")
	}
	type out struct {
		head
		Family  string       `json:"family,omitempty"`
		Ties    string       `json:"ties,omitempty"`
		Penalty any          `json:"penalty"`
		Names   []string     `json:"names"`
		Path    []pathFitted `json:"path"`
		Chosen  int          `json:"chosen"` // index of the least BIC
		Terms   []pathTerm   `json:"terms"`  // at the chosen lambda
		NullLL  float64      `json:"null_loglik"`
	}
	r := out{head: newHead(g.spec, p.fit.cohort, g.family != "gaussian")}
	if g.family == familyCox {
		r.Ties = "breslow"
		if g.cox.efron {
			r.Ties = "efron"
		}
	} else {
		r.Family = g.family
	}
	switch pen := g.spec.Penalty; {
	case pen != nil:
		r.Penalty = pen
		if !pen.Raw {
			r.Assumptions = append(r.Assumptions, "the penalty is on coefficients of columns divided by their standard deviation (with 1/n); the coefficients told are in the units of the study")
		}
	default:
		r.Penalty = struct {
			Lasso float64 `json:"lasso"`
			Ridge float64 `json:"ridge"`
		}{g.spec.Lasso, g.spec.Ridge}
	}
	r.Assumptions = append(r.Assumptions, "penalised coefficients are shrunken and come without errors or p-values; the path's AIC and BIC count the coefficients that are not zero")
	n, q, off := p.fit.cohort[cohortRows], g.q(), g.base()
	for k := 0; k < q; k++ {
		r.Names = append(r.Names, g.name(failEstimable, k))
	}
	loglik := func(ll float64) float64 {
		if g.family == "gaussian" {
			return float64(-0.5 * n * (det.Log(float64(2*math.Pi*float64(-2*ll))/n) + 1))
		}
		return ll
	}
	for k := range p.lambda {
		f := *p.fit
		f.theta = p.theta[k*q : (k+1)*q]
		one := pathFitted{Lambda: p.lambda[k], Coef: g.beta(&f)}
		for j := 0; j < g.p(); j++ {
			if f.theta[off+j] != 0 {
				one.Nonzero++
			}
		}
		// A coefficient of zero stays zero in the units of the study.
		one.Loglik = loglik(p.ll[k])
		if top := p.fit.saturated; g.family != familyCox && top > p.nullLL {
			one.DevRatio = finite((p.ll[k] - p.nullLL) / (top - p.nullLL))
		}
		df := float64(one.Nonzero + off)
		one.AIC = finite(float64(2*df) - float64(2*one.Loglik))
		one.BIC = finite(float64(df*det.Log(n)) - float64(2*one.Loglik))
		if k == 0 || one.BIC != nil && r.Path[r.Chosen].BIC != nil && *one.BIC < *r.Path[r.Chosen].BIC {
			r.Chosen = k
		}
		r.Path = append(r.Path, one)
	}
	r.NullLL = loglik(p.nullLL)
	for k, b := range r.Path[r.Chosen].Coef {
		t := pathTerm{Name: r.Names[k], Coef: b}
		if j := k - off; j >= 0 {
			c := &g.d.columns[j]
			t.Column, t.Level, t.Reference = c.source, c.level, c.reference
		}
		if g.family != "gaussian" {
			t.ExpCoef = finite(det.Exp(b))
		}
		r.Terms = append(r.Terms, t)
	}
	b, err := canon.Marshal(r)
	if err != nil {
		return nil, err
	}
	return &Result{JSON: b}, nil
}

func (a *penalised) disclose(d *Disclosure) error {
	g := a.g
	d.Columns = unique(append(append([]string{}, g.reads.numeric...), g.reads.factors...)...)
	d.Rounds = g.facts.Spec.Rounds.Max
	times := 1
	if pen := g.spec.Penalty; pen != nil {
		if times = len(pen.Lambda); times == 0 {
			if times = pen.Steps; times == 0 {
				times = defaultSteps
			}
		}
	}
	s, err := g.Start(g.facts)
	if err != nil {
		return err
	}
	s.Phase = phaseFit
	l, err := g.Layout(s)
	if err != nil {
		return err
	}
	d.Layouts = append(d.Layouts, l)
	many := consilium.Layout{Blocks: append([]consilium.Block(nil), l.Blocks...)}
	for i := range many.Blocks {
		many.Blocks[i].Length *= times
	}
	d.Layouts = append(d.Layouts, many)
	d.Sends = append(d.Sends, sendsCohort, fmt.Sprintf("sums and sums of squares of %d model columns", g.p()),
		fmt.Sprintf("in every round its log-likelihood with %d first and %d second derivatives at each of %d values of lambda; no times, no rows", g.q(), packedLen(g.q()), times))
	d.Result = "coefficients along the path, likelihoods, and counts of the whole study"
	return nil
}
