package models

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/det"
	"consilium/internal/dp"
)

// privateFit is a logistic or Poisson regression, or a Cox model with a
// piecewise baseline, under a budget: the likelihoods that are sums over
// patients. (A partial likelihood is not: taking one patient away changes what
// all others of the risk set add.)
//
// The first round opens counts, from which the fit without terms follows. Then
// privateSteps rounds each open a noisy score and information, of columns that
// are centred and scaled by their declared bounds, and take a Newton step. Near
// the maximum every step lands at the estimate plus noise of its own, so that
// the mean of the last steps is the answer, and the noise of several rounds
// averages out.
type privateFit struct {
	g            *regression
	centre, half []float64 // public, of each column
	yScale       float64   // largest response
	counts, step *mechanism
}

const (
	privateSteps = 6 // Newton steps
	privateBurn  = 2 // of them that are not averaged
	// privateReach is the longest step of a coefficient, in units of half its
	// column's declared range: a step past it follows noise, or a maximum far away.
	privateReach = 2
)

// publicRange is the middle and half the width of every design column, by
// declared bounds.
func publicRange(spec *consilium.Spec, d *design, intercept bool) (centre, half []float64, err error) {
	p := len(d.columns)
	centre, half = make([]float64, p), make([]float64, p)
	for j := range d.columns {
		half[j] = 1
		c := &d.columns[j]
		if len(c.parts) == 1 && c.parts[0].fn == "" && c.parts[0].level < 0 {
			b, err := PublicBounds(spec, c.parts[0].column)
			if err != nil {
				return nil, nil, err
			}
			centre[j], half[j] = float64(0.5*(b[0]+b[1])), float64(0.5*(b[1]-b[0]))
			continue
		}
		if !c.indicator(spec) {
			return nil, nil, consilium.ErrInvalid.Withf("privacy.dp: term %s; a private model takes columns and levels, not transforms or products with numbers", c.name)
		}
	}
	if !intercept {
		for j := range centre {
			half[j] = math.Max(math.Abs(centre[j]-half[j]), math.Abs(centre[j]+half[j]))
			centre[j] = 0
		}
	}
	return centre, half, nil
}

// PublicBounds are a column's declared bounds; those of a flag are 0 and 1.
func PublicBounds(spec *consilium.Spec, name string) ([2]float64, error) {
	c, ok := spec.Column(name)
	if ok && c.Type == consilium.TypeFlag {
		return [2]float64{0, 1}, nil
	}
	if !ok || c.Bounds == nil || !(c.Bounds[1] > c.Bounds[0]) {
		return [2]float64{}, consilium.ErrInvalid.Withf("privacy.dp: column %s needs bounds, which decide how much noise hides one patient", name)
	}
	return *c.Bounds, nil
}

func newPrivateFit(facts consilium.Facts, g *regression) (Analysis, error) {
	if g.absorb || g.robust || g.evaluate > 0 || g.ridge > 0 {
		return nil, consilium.ErrInvalid.Withf("privacy.dp: a private model has no site, robust errors, evaluation or ridge; leave them out")
	}
	if g.base() == 0 {
		return nil, consilium.ErrInvalid.Withf("privacy.dp: a private model needs its intercept")
	}
	f := &privateFit{g: g, yScale: 1}
	var err error
	if f.centre, f.half, err = publicRange(facts.Spec, g.d, true); err != nil {
		return nil, err
	}
	q := g.q()
	var tallies []float64 // largest exposure and event of one row, by intercept
	switch {
	case g.pieces != nil:
		b, err := PublicBounds(facts.Spec, g.pieces.stop)
		if err != nil {
			return nil, err
		}
		for k := 0; k < g.pieces.n(); k++ {
			from, to := g.pieces.limits(k)
			if !(b[1] > from) {
				return nil, consilium.ErrInvalid.Withf("privacy.dp: the bounds of column %s end at %v, before the last piece begins at %v", g.pieces.stop, b[1], from)
			}
			tallies = append(tallies, math.Min(to, b[1])-from)
		}
	default:
		if g.family == "poisson" {
			b, err := PublicBounds(facts.Spec, g.glm.response)
			if err != nil {
				return nil, err
			}
			f.yScale = math.Max(1, b[1])
		}
		exposure := 1.0
		if g.glm.offset != "" {
			if g.family != "poisson" || !g.glm.logOffset {
				return nil, consilium.ErrInvalid.Withf("privacy.dp: an offset is log(column) of a Poisson model; leave it out")
			}
			b, err := PublicBounds(facts.Spec, g.glm.offset)
			if err != nil {
				return nil, err
			}
			exposure = b[1]
		}
		tallies = []float64{exposure}
	}
	base := g.base()
	scale := append(ones(cohortFixed), tallies...)
	for range base {
		scale = append(scale, f.yScale)
	}
	if f.counts, err = newMechanism(facts, g.spec.Type, scale, float64(cohortNorm2+2*base)); err != nil {
		return nil, err
	}
	// A column is at most one in magnitude, a row's residual at most the largest
	// response, its weight that or a quarter. What is beyond is clipped.
	residual, weight := f.yScale, f.yScale
	switch {
	case g.family == "binomial":
		weight = 0.25
	case g.pieces != nil:
		// A patient's expected events are about one where there is one event, and
		// above two for one in seven of them: exponential, as residuals of Cox and
		// Snell are.
		residual, weight = 2, 2
	}
	scale = nil
	for range q {
		scale = append(scale, residual)
	}
	for range packedLen(q) {
		scale = append(scale, weight)
	}
	f.step, err = newMechanism(facts, g.spec.Type, scale, float64(len(scale)))
	return f, err
}

func (f *privateFit) at(s *State) *mechanism {
	if s.Phase == phaseFirst {
		return f.counts
	}
	return f.step
}

func (f *privateFit) Releases(s *State) []dp.Release { return []dp.Release{f.at(s).release} }

func (f *privateFit) AllReleases() []dp.Release {
	out := []dp.Release{f.counts.release}
	for range privateSteps {
		out = append(out, f.step.release)
	}
	return out
}

// privateState is what a private fit carries on.
type privateState struct {
	cohort   []float64
	theta    []float64
	mean     []float64 // sum of the thetas after the burn-in
	info     []float64 // packed, sum of the informations after it
	averaged float64
	steps    float64
	sites    float64 // hospitals whose noise is in the last sums
}

func (f *privateFit) load(s *State) (*privateState, error) {
	t := &tape{f: s.F64, reading: true}
	o := &privateState{}
	o.tape(t, f.g.q())
	if t.short || t.at != len(t.f) || len(s.F32) != 0 || len(s.Sub) != 0 {
		return nil, errors.New("state: not of this private fit")
	}
	return o, nil
}

func (o *privateState) tape(t *tape, q int) {
	t.vec(&o.cohort, cohortFixed)
	t.vec(&o.theta, q)
	t.vec(&o.mean, q)
	t.vec(&o.info, packedLen(q))
	for _, v := range []*float64{&o.averaged, &o.steps, &o.sites} {
		t.num(v)
	}
}

func (f *privateFit) save(o *privateState, phase, round uint32) (*State, error) {
	t := &tape{}
	o.tape(t, f.g.q())
	if t.short {
		return nil, errors.New("state: a vector has the wrong length")
	}
	return &State{Phase: phase, Iteration: round, Done: phase == phaseDone, F64: t.f}, nil
}

// Start implements Analysis.
func (f *privateFit) Start(consilium.Facts) (*State, error) {
	q := f.g.q()
	return f.save(&privateState{cohort: make([]float64, cohortFixed), theta: make([]float64, q), mean: make([]float64, q), info: make([]float64, packedLen(q))}, phaseFirst, 0)
}

// Layout implements Analysis.
func (f *privateFit) Layout(s *State) (consilium.Layout, error) {
	q, base := f.g.q(), f.g.base()
	switch s.Phase {
	case phaseFirst:
		return consilium.Layout{Blocks: []consilium.Block{exactBlock("cohort", cohortFixed), exactBlock("exposure", base), exactBlock("events", base)}}, nil
	case phaseFit:
		return consilium.Layout{Blocks: []consilium.Block{exactBlock("score", q), exactBlock("information", packedLen(q))}}, nil
	}
	return consilium.Layout{}, errors.New("state: the private fit is done")
}

// Local implements Analysis.
func (f *privateFit) Local(ctx context.Context, s *State, _ []byte, rows *Rows, w Writer) ([]byte, error) {
	o, err := f.load(s)
	if err != nil {
		return nil, err
	}
	l, err := f.Layout(s)
	if err != nil {
		return nil, err
	}
	data, err := readFrame(f.g.facts.Spec, rows, f.g.reads)
	if err != nil {
		return nil, err
	}
	m := f.at(s)
	each := make([][]float64, data.ordinals) // patients' contributions
	of := func(row int) []float64 {
		p := data.patient[row]
		if each[p] == nil {
			each[p] = make([]float64, len(m.scale))
			if s.Phase == phaseFirst {
				each[p][cohortPatients], each[p][cohortSites] = 1, 1
			}
		}
		return each[p]
	}
	if s.Phase == phaseFirst {
		err = f.tally(data, of)
	} else {
		err = f.derivatives(ctx, data, o.theta, of)
	}
	if err != nil {
		return nil, err
	}
	sums := make([]int64, len(m.scale))
	for _, x := range each {
		if x == nil {
			continue
		}
		part, err := m.clip(x)
		if err != nil {
			return nil, err
		}
		for i, v := range part {
			sums[i] += v
		}
	}
	// The secret is the round's already; the number says so once more, since the
	// mean over rounds is worth nothing if they share their noise.
	noisy, err := m.noisy(sums, rows.Noise, fmt.Sprintf("%s/%d", f.g.spec.Name, s.Iteration))
	if err != nil {
		return nil, err
	}
	for _, b := range l.Blocks {
		if err := write(w, b.Name, noisy[:b.Length]); err != nil {
			return nil, err
		}
		noisy = noisy[b.Length:]
	}
	return nil, nil
}

// tally adds every row's counts: itself, its events, and its exposure by
// intercept.
func (f *privateFit) tally(data *frame, of func(row int) []float64) error {
	g := f.g
	base := g.base()
	if g.pieces != nil {
		if _, err := g.checkPieceTimes(data); err != nil {
			return err
		}
	}
	var y, offset []float64
	if g.pieces == nil {
		var err error
		if y, offset, _, err = g.glmData(data); err != nil {
			return err
		}
	}
	for i := 0; i < data.n; i++ {
		to := of(i)
		to[cohortRows]++
		add := func(b int, exposure, event float64) {
			to[cohortFixed+b] += exposure
			to[cohortFixed+base+b] += event
			if event > 0 {
				to[cohortEvents]++
			}
		}
		if g.pieces != nil {
			g.eachPiece(data, i, add)
			continue
		}
		add(0, det.Exp(offset[i]), y[i])
	}
	return nil
}

// derivatives adds every row's score and information at theta.
func (f *privateFit) derivatives(ctx context.Context, data *frame, theta []float64, of func(row int) []float64) error {
	g := f.g
	x, err := g.d.matrix(data, f.centre, f.half)
	if err != nil {
		return err
	}
	q, base := g.q(), g.base()
	var y, offset []float64
	if g.pieces == nil {
		if y, offset, _, err = g.glmData(data); err != nil {
			return err
		}
	}
	z := make([]float64, q)
	for i := 0; i < data.n; i++ {
		if i%4096 == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		to := of(i)
		eta := 0.0
		for j := range x {
			z[base+j] = x[j][i]
			eta += float64(theta[base+j] * x[j][i])
		}
		add := func(b int, r, weight float64) {
			z[b] = 1
			k := q
			for a := 0; a < q; a++ {
				to[a] += float64(r * z[a])
				for c := 0; c <= a; c++ {
					to[k] += float64(float64(weight*z[a]) * z[c])
					k++
				}
			}
			z[b] = 0
		}
		if g.pieces != nil {
			g.eachPiece(data, i, func(b int, exposure, event float64) {
				w := float64(exposure * det.Exp(math.Min(eta+theta[b], 50)))
				add(b, event-w, w)
			})
			continue
		}
		mu, v, _ := member(g.family, y[i], math.Min(eta+theta[0]+offset[i], 50))
		add(0, y[i]-mu, v)
	}
	return nil
}

// Update implements Analysis.
func (f *privateFit) Update(s *State, opened Opened) (*State, error) {
	o, err := f.load(s)
	if err != nil {
		return nil, err
	}
	g := f.g
	q, base := g.q(), g.base()
	round := s.Iteration + 1
	o.sites = float64(len(opened.Contributors))
	switch s.Phase {
	case phaseFirst:
		cohort, err := opened.take("cohort", cohortFixed)
		if err != nil {
			return nil, err
		}
		exposure, err := opened.take("exposure", base)
		if err != nil {
			return nil, err
		}
		events, err := opened.take("events", base)
		if err != nil {
			return nil, err
		}
		o.cohort = append([]float64(nil), cohort...)
		for i := range o.cohort {
			o.cohort[i] = math.Max(0, math.RoundToEven(o.cohort[i]))
		}
		// The hospitals that took part are known; nobody counted what was left out.
		o.cohort[cohortSites] = o.sites
		for _, i := range []int{cohortMissing, cohortConsent, cohortIntegrity, cohortOutside} {
			o.cohort[i] = 0
		}
		if o.cohort[cohortPatients] < float64(g.facts.MinCohort) {
			return failed(round, failPatients, 0), nil
		}
		for b := range events {
			// The fit without terms; where noise leaves nothing, a public guess.
			rate := math.Max(events[b], 1) / math.Max(exposure[b], f.counts.scale[cohortFixed+b])
			if o.theta[b] = det.Log(rate); g.family == "binomial" {
				share := math.Min(math.Max(rate, 0.02), 0.98)
				o.theta[b] = det.Log(share / (1 - share))
			}
		}
		return f.save(o, phaseFit, round)
	case phaseFit:
		score, err := opened.take("score", q)
		if err != nil {
			return nil, err
		}
		info, err := opened.take("information", packedLen(q))
		if err != nil {
			return nil, err
		}
		use := append([]float64(nil), info...)
		if o.steps >= privateBurn {
			for i := range use {
				o.info[i] += info[i]
				use[i] = o.info[i] / (o.averaged + 1)
			}
		}
		step, ok := f.newton(o, score, use)
		if !ok {
			return failed(round, failNoise, 0), nil
		}
		for j := range o.theta {
			o.theta[j] += step[j]
		}
		if o.steps++; o.steps > privateBurn {
			o.averaged++
			for j := range o.mean {
				o.mean[j] += o.theta[j]
			}
		}
		if o.steps < privateSteps {
			return f.save(o, phaseFit, round)
		}
		if _, ok := f.covariance(o); !ok {
			return failed(round, failNoise, 0), nil
		}
		return f.save(o, phaseDone, round)
	}
	return nil, errors.New("state: the private fit is done")
}

// noiseVariance is that of the opened score's value j, from all hospitals.
func (f *privateFit) noiseVariance(j int, sites float64) float64 {
	u := f.step.unit(j)
	return float64(float64(sites*f.step.share) * float64(u*u))
}

// newton solves for the step, with the information lifted by its noise:
// that slows a step down and does not move the point where it is zero.
func (f *privateFit) newton(o *privateState, score, packed []float64) ([]float64, bool) {
	q := f.g.q()
	info := unpack(packed, q)
	lift := math.Sqrt(f.noiseVariance(q, o.sites) / (o.averaged + 1))
	for j := 0; j < q; j++ {
		info[j][j] = math.Max(info[j][j], 0) + lift
	}
	inv, bad := invert(info, 1e-9)
	if bad >= 0 {
		return nil, false
	}
	step := apply(inv, score)
	longest := 0.0
	for _, v := range step {
		longest = math.Max(longest, math.Abs(v))
	}
	if longest-longest != 0 {
		return nil, false
	}
	if longest > privateReach {
		for j := range step {
			step[j] = float64(step[j] * privateReach / longest)
		}
	}
	return step, true
}

// covariance of the mean of the last steps: the inverse information, and what
// the noise of their scores adds.
func (f *privateFit) covariance(o *privateState) ([][]float64, bool) {
	q := f.g.q()
	mean := make([]float64, len(o.info))
	for i, v := range o.info {
		mean[i] = v / o.averaged
	}
	inv, bad := invert(unpack(mean, q), 1e-6)
	if bad >= 0 {
		return nil, false
	}
	least := float64(2 * math.Sqrt(f.noiseVariance(q, o.sites)/o.averaged))
	for j := 0; j < q; j++ {
		// What is known about a coefficient given the others, beside the noise of
		// the information; below 0 noise made it indefinite.
		if !(inv[j][j] > 0 && 1/inv[j][j] > least) {
			return nil, false
		}
	}
	noise := newMatrix(q)
	for j := 0; j < q; j++ {
		noise[j][j] = f.noiseVariance(j, o.sites) / o.averaged
	}
	more := multiply(multiply(inv, noise), inv)
	for i := range more {
		for j := range more {
			more[i][j] += inv[i][j]
		}
	}
	return more, true
}

// Result implements Analysis.
func (f *privateFit) Result(s *State) (*Result, error) {
	g := f.g
	if s.Phase == phaseFailed {
		p, err := problem(s, g.facts.MinCohort, int(s.Iteration), g.name)
		if err != nil {
			return nil, err
		}
		return problemResult(g.spec, p)
	}
	o, err := f.load(s)
	if err != nil {
		return nil, err
	}
	vcov, ok := f.covariance(o)
	if !s.Done || !ok {
		return nil, errors.New("state: the private fit is not done")
	}
	q, p := g.q(), g.p()
	theta := make([]float64, q)
	for j := range theta {
		theta[j] = o.mean[j] / o.averaged
	}
	beta, raw, _ := g.raw(&fit{theta: theta, mean: f.centre, scale: f.half, vcov: pack(vcov)})
	type out struct {
		head
		Family   string      `json:"family"`
		Terms    []term      `json:"terms"`
		Vcov     [][]float64 `json:"vcov"`
		Steps    int         `json:"steps"`
		Averaged int         `json:"averaged"`
	}
	r := out{head: newHead(g.spec, o.cohort, true), Family: g.family, Vcov: raw, Steps: privateSteps, Averaged: privateSteps - privateBurn}
	for k := range beta {
		t := term{Name: g.name(failEstimable, k), Coef: beta[k], SE: math.Sqrt(raw[k][k])}
		if j := k - (q - p); j >= 0 {
			c := &g.d.columns[j]
			t.Column, t.Level, t.Reference = c.source, c.level, c.reference
		} else if g.pieces != nil {
			t.Column = "baseline"
		}
		if z := beta[k] / t.SE; finite(z) != nil {
			pv := twoSided(z)
			t.Z, t.P = &z, &pv
			t.ExpCoef = finite(det.Exp(beta[k]))
			half := float64(normal95 * t.SE)
			t.Lower, t.Upper = finite(det.Exp(beta[k]-half)), finite(det.Exp(beta[k]+half))
		}
		r.Terms = append(r.Terms, t)
	}
	r.Assumptions = append(r.Assumptions, fmt.Sprintf("the mean of the last %d of %d noisy Newton steps, in columns scaled by their declared bounds", r.Averaged, r.Steps))
	if g.pieces != nil {
		r.Assumptions = append(r.Assumptions, "one baseline hazard for all hospitals, constant between the cuts; its coefficients are log hazards per unit of time where every column is zero")
	}
	b, err := canon.Marshal(r)
	if err != nil {
		return nil, err
	}
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, err
	}
	d := NewSpent(g.facts, map[string]float64{"cohort": float64(math.Sqrt(f.counts.release.Mu) * f.counts.unit(0)), "score": float64(math.Sqrt(f.step.release.Mu) * f.step.unit(0)),
		"information": float64(math.Sqrt(f.step.release.Mu) * f.step.unit(q))})
	if doc["dp"], err = canon.Marshal(d); err != nil {
		return nil, err
	}
	if err := admitNoise(doc, "every count carries the noise that was added for privacy; errors, limits and p-values count the noise of the scores, not that of the information, nor what clipping took", "missing"); err != nil {
		return nil, err
	}
	if b, err = canon.Marshal(doc); err != nil {
		return nil, err
	}
	return &Result{JSON: b}, nil
}

func (f *privateFit) disclose(d *Disclosure) error {
	g := f.g
	d.Columns = unique(append(append([]string{}, g.reads.numeric...), g.reads.factors...)...)
	d.Rounds = 1 + privateSteps
	second, err := f.Layout(&State{Phase: phaseFit})
	if err != nil {
		return err
	}
	d.Layouts = append(d.Layouts, second)
	d.Sends = append(d.Sends, "each patient's contribution is clipped, and noise is added at the hospital before anything leaves it; what was left out by missing values, consent, ledger or cohort is not counted",
		"in the first round counts of rows, patients, events and exposure", fmt.Sprintf("in %d rounds %d first and %d second derivatives of its log-likelihood", privateSteps, g.q(), packedLen(g.q())))
	d.Result = "coefficients and their covariance; differentially private for patients"
	return nil
}
