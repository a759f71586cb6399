package models

import (
	"context"
	"errors"
	"fmt"
	"math"

	"consilium"
)

// regression fits Cox and generalised linear models by Newton's method on
// summed log-likelihood, score and information. Cox and GLM differ in what a
// hospital computes (local) and in how the result is told.
type regression struct {
	facts     consilium.Facts
	spec      *consilium.AnalysisSpec
	d         *design
	intercept bool // theta[0] is the intercept
	absorb    bool // each hospital has its own intercept, profiled there
	robust    bool
	bySite    bool // clusters are hospitals, not patients
	ridge     float64
	family    string // "cox" or that of the GLM
	cox       *coxSpec
	glm       *glmSpec
	pieces    *pieces
	reads     want

	phCheck     string // Cox: time transform of the test of proportional hazards
	concordance bool   // Cox
	evaluate    int    // binomial: cells of the histograms of fitted probabilities
}

const familyCox = "cox"

// Phases of a fit.
const (
	phaseFirst = iota // cohort, moments, first step
	phaseFit          // Newton steps
	phaseFinal        // what needs the estimate
	phaseDone
	phaseLevels // common baseline: patients per level, between the first round and the fit
)

// p is the number of design columns, q that of coefficients.
func (g *regression) p() int { return len(g.d.columns) }
func (g *regression) q() int { return g.base() + g.p() }

// base is the number of coefficients before those of the columns: an
// intercept, or one for each piece of the baseline.
func (g *regression) base() int {
	switch {
	case g.pieces != nil:
		return g.pieces.n()
	case g.intercept:
		return 1
	}
	return 0
}

// fit is the state of a regression. Coefficients are those of the columns
// (x - mean) / scale, which keeps the information well conditioned; the scale
// is a power of two, so it costs no digit.
type fit struct {
	cohort                 []float64
	mean, scale            []float64 // per design column
	theta, prev            []float64
	steps                  float64 // Newton steps taken
	halvings               float64 // of the current step
	ll, prevLL             float64 // penalised
	rawLL                  float64
	decrement              float64 // squared Newton decrement of the last step
	slow                   float64 // steps in a row that shrank too little
	stepSE                 float64 // last step in standard errors
	ll0, score0            float64 // at theta 0 (Cox)
	alpha                  float64 // null model (GLM): its intercept
	alphaPrev              float64
	alphaSteps             float64
	nullLL                 float64
	nullDone               float64
	saturated              float64 // log-likelihood of the saturated model
	pearson                float64
	vcov                   []float64 // packed, of theta, without dispersion
	final                  []float64 // the blocks of the last round
	tau, tauPrev, tauSE    float64   // negative binomial: log theta, and its error
	deviance, nullDeviance float64   // negative binomial
	intervals              []float64 // common baseline: see interval
	hazard                 []float64 // and the pooled steps of the hazard at theta
	fitted                 []float64 // and who is in the fit: see fittedRows
	ph                     []float64 // and the sums of the check of proportional hazards
	floor                  float64   // 1: the step stopped shrinking at the floor of the arithmetic
}

func (f *fit) tape(t *tape, g *regression) {
	p, q := g.p(), g.q()
	t.vec(&f.cohort, cohortFixed+len(g.d.checks))
	t.vec(&f.mean, p)
	t.vec(&f.scale, p)
	t.vec(&f.theta, q)
	t.vec(&f.prev, q)
	for _, v := range []*float64{&f.steps, &f.halvings, &f.ll, &f.prevLL, &f.rawLL, &f.decrement, &f.slow, &f.stepSE, &f.ll0, &f.score0,
		&f.alpha, &f.alphaPrev, &f.alphaSteps, &f.nullLL, &f.nullDone, &f.saturated, &f.pearson, &f.floor} {
		t.num(v)
	}
	t.vec(&f.vcov, packedLen(q))
	t.vec(&f.final, g.finalLen())
	if g.family == familyNegBin {
		for _, v := range []*float64{&f.tau, &f.tauPrev, &f.tauSE, &f.deviance, &f.nullDeviance} {
			t.num(v)
		}
	}
	if g.common() {
		t.list(&f.intervals)
		t.list(&f.hazard)
		t.list(&f.fitted)
		t.list(&f.ph)
	}
}

// common reports whether hospitals share one baseline hazard.
func (g *regression) common() bool { return g.cox != nil && g.cox.common != nil }

func (g *regression) load(s *State) (*fit, error) {
	t := &tape{f: s.F64, reading: true}
	f := &fit{}
	f.tape(t, g)
	if t.short || t.at != len(t.f) || len(s.F32) != 0 || len(s.Sub) != 0 {
		return nil, errors.New("state: not of this regression")
	}
	if n := len(f.fitted); n != 0 && n != fittedFixed || len(f.intervals)%intervalLen != 0 {
		return nil, errors.New("state: not of this regression")
	}
	for _, v := range f.scale {
		if !(v > 0) || math.IsInf(v, 0) {
			return nil, errors.New("state: a scale is not above 0")
		}
	}
	return f, nil
}

func (g *regression) save(f *fit, phase, round uint32) (*State, error) {
	t := &tape{}
	f.tape(t, g)
	if t.short {
		return nil, errors.New("state: a vector has the wrong length")
	}
	for _, v := range t.f {
		if v != v {
			return nil, errors.New("state: a value is not a number")
		}
	}
	return &State{Phase: phase, Iteration: round, Done: phase == phaseDone, F64: t.f}, nil
}

// Start implements Analysis.
func (g *regression) Start(consilium.Facts) (*State, error) {
	p, q := g.p(), g.q()
	return g.save(&fit{cohort: make([]float64, cohortFixed+len(g.d.checks)), mean: make([]float64, p), scale: g.d.publicScale(),
		theta: make([]float64, q), prev: make([]float64, q), vcov: make([]float64, packedLen(q)), final: make([]float64, g.finalLen())}, phaseFirst, 0)
}

// Layout implements Analysis.
func (g *regression) Layout(s *State) (consilium.Layout, error) {
	q := g.q()
	var l consilium.Layout
	add := func(name string, n int) {
		l.Blocks = append(l.Blocks, consilium.Block{Name: name, Kind: consilium.Exact, Length: n})
	}
	switch s.Phase {
	case phaseFirst:
		add("cohort", cohortFixed+len(g.d.checks))
		if g.common() {
			n := g.cox.common.strata.n * g.cox.common.width()
			for _, b := range new(commonTally).blocks() {
				add(b.name, n)
			}
			break
		}
		if g.p() > 0 {
			add("moments", 2*g.p())
		}
		if g.pieces != nil {
			add("pieces", piecesLen*g.pieces.n())
			break
		}
		if g.family == familyCox {
			add("fit", coxFitLen)
		} else {
			add("start", glmStartLen)
		}
		add("score", q)
		add("information", packedLen(q))
	case phaseLevels:
		f, err := g.load(s)
		if err != nil {
			return l, err
		}
		add("fitted", fittedFixed)
		add("levels", 2*len(f.intervals)/intervalLen*len(g.d.checks))
	case phaseFit:
		if g.common() {
			f, err := g.load(s)
			if err != nil {
				return l, err
			}
			n := momentsLen(g.p())
			add("fit", coxFitLen)
			if len(f.fitted) == 0 { // asked once
				add("fitted", fittedFixed)
			}
			add("score", g.p())
			add("risk", len(f.deadly())*n)
			if k := g.tiedIntervals(f); k > 0 {
				add("tied", k*n)
			}
			if g.phCheck != "" {
				add("score-time", g.p())
			}
			break
		}
		switch g.family {
		case familyCox:
			add("fit", coxFitLen)
		case familyPiecewise:
			add("fit", coxFitLen+1)
		case familyNegBin:
			add("fit", nbFitLen)
			add("score", q)
			add("information", packedLen(q))
			add("observed", packedLen(q))
			add("cross", q)
			return l, nil
		default:
			add("fit", glmFitLen)
		}
		add("score", q)
		add("information", packedLen(q))
	case phaseFinal:
		l.Blocks = g.finals()
	default:
		return l, errors.New("state: the regression is done")
	}
	return l, nil
}

// Local implements Analysis.
func (g *regression) Local(ctx context.Context, s *State, _ []byte, rows *Rows, w Writer) ([]byte, error) {
	f, err := g.load(s)
	if err != nil {
		return nil, err
	}
	if g.sweeps(s.Phase) {
		return nil, g.sweepLocal(ctx, s.Phase, f, rows, w)
	}
	data, err := readFrame(g.facts.Spec, rows, g.reads)
	if err != nil {
		return nil, err
	}
	if g.common() && s.Phase != phaseFirst {
		data.keep(g.cox.common.inFit(f, data, data.num[g.cox.start], data.num[g.cox.stop]))
	}
	x, err := g.d.matrix(data, f.mean, f.scale)
	if err != nil {
		return nil, err
	}
	if err := g.d.checkSize(x); err != nil {
		return nil, err
	}
	var l *localFit
	if g.common() && s.Phase == phaseFirst {
		return nil, g.writeTally(w, data, rows)
	} else if g.common() && s.Phase == phaseLevels {
		if err := write(w, "fitted", g.cox.fitted(data)); err != nil {
			return nil, err
		}
		return nil, write(w, "levels", g.stretchLevels(data, f))
	} else if g.common() {
		l, err = g.coxCommonLocal(ctx, data, x, f, s.Phase)
	} else if g.pieces != nil {
		var events float64
		if events, err = g.checkPieceTimes(data); err != nil {
			return nil, err
		}
		if s.Phase == phaseFirst {
			l = g.newLocal(0)
		} else {
			l, err = g.piecesLocal(ctx, data, x, f, s.Phase)
		}
		if l != nil {
			l.events = events
		}
	} else if g.family == familyCox {
		l, err = g.coxLocal(ctx, data, x, f, s.Phase)
	} else {
		l, err = g.glmLocal(data, x, f, s.Phase)
	}
	if err != nil {
		return nil, err
	}
	if s.Phase == phaseFinal {
		for _, b := range g.finals() {
			if err := write(w, b.Name, l.final(b.Name)); err != nil {
				return nil, err
			}
		}
		return nil, nil
	}
	if s.Phase == phaseFirst {
		if err := write(w, "cohort", cohortBlock(data, rows, l.events, g.d.levelCounts(data))); err != nil {
			return nil, err
		}
		if len(x) > 0 {
			m := make([]total, 2*len(x))
			for j, col := range x {
				for _, v := range col {
					m[j].add(v)
					m[len(x)+j].add(float64(v * v))
				}
			}
			if err := write(w, "moments", values(m)); err != nil {
				return nil, err
			}
		}
	}
	if g.pieces != nil && s.Phase == phaseFirst {
		return nil, write(w, "pieces", g.piecesTally(data))
	}
	if g.common() {
		return nil, g.writeCommon(w, data, x, f, l)
	}
	name := "fit"
	if s.Phase == phaseFirst && g.family != familyCox {
		name = "start"
	}
	if err := write(w, name, values(l.fit)); err != nil {
		return nil, err
	}
	if g.family == familyNegBin && s.Phase == phaseFit {
		return nil, g.writeNegbin(w, l)
	}
	if err := write(w, "score", values(l.score)); err != nil {
		return nil, err
	}
	return nil, write(w, "information", values(l.information))
}

func (g *regression) writeCommon(w Writer, data *frame, x [][]float64, f *fit, l *localFit) error {
	risk, tied := g.coxCommonBlocks(l, f)
	if err := write(w, "fit", values(l.fit)); err != nil {
		return err
	}
	if len(f.fitted) == 0 {
		if err := write(w, "fitted", g.cox.fitted(data)); err != nil {
			return err
		}
	}
	if err := write(w, "score", values(l.score)); err != nil {
		return err
	}
	if err := write(w, "risk", risk); err != nil {
		return err
	}
	if len(tied) > 0 {
		if err := write(w, "tied", tied); err != nil {
			return err
		}
	}
	if g.phCheck == "" {
		return nil
	}
	return write(w, "score-time", g.scoreTime(data, x, f))
}

// localFit is what one hospital adds up.
type localFit struct {
	events      float64
	fit         []total
	score       []total
	information []total // packed; in phaseFinal the meat
	clusters    float64
	ph          *phSums
	concord     []total
	evaluate    []total
	risk, tied  [][]total // common baseline, by interval
	observed    []total   // negative binomial: information, and with tau
	tauCross    []total
}

func (l *localFit) final(name string) []float64 {
	switch name {
	case blockClusters:
		return []float64{l.clusters}
	case blockMeat:
		return values(l.information)
	case blockPHScore:
		return values(l.ph.score)
	case blockPHCross:
		return values(l.ph.cross)
	case blockPHSquare:
		return values(l.ph.square)
	case blockConcordance:
		return values(l.concord)
	case blockEvaluate:
		return values(l.evaluate)
	}
	return nil
}

func (g *regression) newLocal(fitLen int) *localFit {
	return &localFit{fit: make([]total, fitLen), score: make([]total, g.q()), information: make([]total, packedLen(g.q()))}
}

// clusterMeat sums the outer products of the clusters' score sums.
func (g *regression) clusterMeat(l *localFit, data *frame, residual [][]float64) {
	q := g.q()
	n := data.ordinals
	if g.bySite {
		n = 1
	}
	sums := make([][]total, n)
	for i := 0; i < data.n; i++ {
		c := 0
		if !g.bySite {
			c = int(data.patient[i])
		}
		if sums[c] == nil {
			sums[c] = make([]total, q)
			l.clusters++
		}
		for j := 0; j < q; j++ {
			sums[c][j].add(residual[j][i])
		}
	}
	for _, s := range sums {
		if s == nil {
			continue
		}
		v := values(s)
		k := 0
		for i := 0; i < q; i++ {
			for j := 0; j <= i; j++ {
				l.information[k].add(float64(v[i] * v[j]))
				k++
			}
		}
	}
}

// Update implements Analysis.
func (g *regression) Update(s *State, o Opened) (*State, error) {
	f, err := g.load(s)
	if err != nil {
		return nil, err
	}
	round := s.Iteration + 1
	q := g.q()
	if s.Phase == phaseFinal {
		f.final = nil
		for _, b := range g.finals() {
			v, err := o.take(b.Name, b.Length)
			if err != nil {
				return nil, err
			}
			f.final = append(f.final, v...)
		}
		return g.save(f, phaseDone, round)
	}
	if g.common() && s.Phase == phaseFit {
		return g.advanceCommon(f, o, round)
	}
	if s.Phase == phaseFirst && g.common() {
		return g.firstTally(f, o, round)
	}
	if s.Phase == phaseLevels {
		return g.secondTally(f, o, round)
	}
	if s.Phase == phaseFirst && g.pieces != nil {
		return g.firstCounts(f, o, round)
	}
	score, err := o.take("score", q)
	if err != nil {
		return nil, err
	}
	packed, err := o.take("information", packedLen(q))
	if err != nil {
		return nil, err
	}
	info := unpack(packed, q)
	switch s.Phase {
	case phaseFirst:
		if f.cohort, err = o.take("cohort", cohortFixed+len(g.d.checks)); err != nil {
			return nil, err
		}
		if code, index := g.checkCohort(f.cohort); code != 0 {
			return failed(round, code, index), nil
		}
		shift, ratio, err := g.rescale(f, o)
		if err != nil {
			return nil, err
		}
		if g.family != familyCox {
			start, err := o.take("start", glmStartLen)
			if err != nil {
				return nil, err
			}
			g.firstGLM(f, start, score, info, shift, ratio)
			return g.save(f, phaseFit, round)
		}
		v, err := o.take("fit", coxFitLen)
		if err != nil {
			return nil, err
		}
		for _, r := range ratio {
			// The public scale was so far off that the sums of squares have
			// few digits above 2^-64: begin again in the measured scale.
			if r < 0x1p-10 {
				return g.save(f, phaseFit, round)
			}
		}
		for i := range score {
			score[i] /= ratio[i]
			for j := range score {
				info[i][j] /= float64(ratio[i] * ratio[j])
			}
		}
		return g.advance(f, v[0], score, info, 1, round)
	case phaseFit:
		if g.family == familyCox {
			v, err := o.take("fit", coxFitLen)
			if err != nil {
				return nil, err
			}
			return g.advance(f, v[0], score, info, 1, round)
		}
		if g.pieces != nil {
			v, err := o.take("fit", coxFitLen+1)
			if err != nil {
				return nil, err
			}
			if v[1] > 0 {
				if _, code, _ := g.halve(f); code != 0 || g.last(round) {
					return failed(round, failConverge, 0), nil
				}
				return g.save(f, phaseFit, round)
			}
			return g.advance(f, v[0], score, info, 1, round)
		}
		if g.family == familyNegBin {
			v, err := o.take("fit", nbFitLen)
			if err != nil {
				return nil, err
			}
			return g.advanceNegbin(f, v, score, info, o, round)
		}
		v, err := o.take("fit", glmFitLen)
		if err != nil {
			return nil, err
		}
		return g.advanceGLM(f, v, score, info, round)
	}
	return nil, errors.New("state: the regression is done")
}

// firstCounts judges the first round of a piecewise baseline: its counts decide
// what is summed later.
func (g *regression) firstCounts(f *fit, o Opened, round uint32) (*State, error) {
	var err error
	if f.cohort, err = o.take("cohort", cohortFixed+len(g.d.checks)); err != nil {
		return nil, err
	}
	if code, index := g.checkCohort(f.cohort); code != 0 {
		return failed(round, code, index), nil
	}
	if _, _, err = g.rescale(f, o); err != nil {
		return nil, err
	}
	return g.firstPieces(f, o, round)
}

// checkCohort applies the rules on counts.
func (g *regression) checkCohort(c []float64) (code, index int) {
	switch {
	case c[cohortRows] < 1:
		return failRows, 0
	case c[cohortPatients] < float64(g.facts.MinCohort):
		return failPatients, 0
	}
	if !g.facts.Permitted(PermitSmallLevels) {
		for i, n := range c[cohortFixed:] {
			if n < minLevelPatients {
				return failLevel, i
			}
		}
	}
	switch {
	case g.family == "gaussian":
		if c[cohortRows] <= float64(g.q())+g.sites(c) {
			return failDegrees, 0
		}
	case c[cohortEvents] == 0:
		return failEvents, 0
	case g.family == "binomial" && c[cohortEvents] == c[cohortRows]:
		return failAllEvents, 0
	}
	return 0, 0
}

// sites is the number of profiled intercepts.
func (g *regression) sites(cohort []float64) float64 {
	if g.absorb {
		return cohort[cohortSites]
	}
	return 0
}

// rescale moves the state to the measured mean and spread of every column. It
// returns the mean in the old coordinates and new scale over old scale.
func (g *regression) rescale(f *fit, o Opened) (shift, ratio []float64, err error) {
	p := g.p()
	if p == 0 {
		return nil, nil, nil
	}
	m, err := o.take("moments", 2*p)
	if err != nil {
		return nil, nil, err
	}
	n := f.cohort[cohortRows]
	shift, ratio = make([]float64, p), make([]float64, p)
	for j := 0; j < p; j++ {
		mean := m[j] / n
		ratio[j] = powerOfTwo(spread(mean, m[p+j]/n))
		if g.base() == 0 && !g.absorb && g.family != familyCox {
			mean = 0 // without an intercept the origin matters
		}
		shift[j] = mean
		f.mean[j] = float64(mean * f.scale[j])
		f.scale[j] = float64(f.scale[j] * ratio[j])
	}
	return shift, ratio, nil
}

// spread is the standard deviation of a column with this mean and mean square.
func spread(mean, square float64) float64 {
	variance := square - float64(mean*mean)
	// Below this the difference is rounding: a constant column, which the
	// information shows as not estimable.
	if !(variance > float64(1e-12*square)) {
		return 1
	}
	return math.Sqrt(variance)
}

// collinear is how much of a column's information, given the columns before
// it, must remain. R's coxph uses 1.8e-12, lm 1e-14 on the same scale.
const collinear = 1e-11

// penalty adds the ridge: lambda/2 times the squared coefficients in the
// units of the study, the intercept left out.
func (g *regression) penalty(f *fit, ll float64, score []float64, info [][]float64) float64 {
	if g.ridge == 0 {
		return ll
	}
	off := g.q() - g.p()
	for j := 0; j < g.p(); j++ {
		k := off + j
		w := g.ridge / float64(f.scale[j]*f.scale[j])
		ll -= float64(float64(0.5*w) * float64(f.theta[k]*f.theta[k]))
		score[k] -= float64(w * f.theta[k])
		info[k][k] += w
	}
	return ll
}

// advance takes a Newton step from the values at theta, halves the last one,
// or ends. sigma is the residual standard deviation, 1 where there is none.
func (g *regression) advance(f *fit, ll float64, score []float64, info [][]float64, sigma float64, round uint32) (*State, error) {
	done, code, index := g.newton(f, ll, score, info, sigma)
	switch {
	case code != 0:
		return failed(round, code, index), nil
	case done:
		return g.finish(f, round)
	case g.last(round):
		return failed(round, failConverge, 0), nil
	}
	return g.save(f, phaseFit, round)
}

// last reports whether no other step may follow: what is summed at the estimate, such as
// robust errors, takes one more round, which rounds.max covers too.
func (g *regression) last(round uint32) bool {
	left := g.facts.Spec.Rounds.Max - int(round)
	if g.finalLen() > 0 {
		left--
	}
	return left <= 0
}

func (g *regression) finish(f *fit, round uint32) (*State, error) {
	if g.finalLen() > 0 {
		return g.save(f, phaseFinal, round)
	}
	return g.save(f, phaseDone, round)
}

func (g *regression) newton(f *fit, ll float64, score []float64, info [][]float64, sigma float64) (done bool, code, index int) {
	raw := ll
	ll = g.penalty(f, ll, score, info)
	if f.steps > 0 && ll < f.prevLL-float64(1e-11*(1+math.Abs(f.prevLL))) {
		return g.halve(f)
	}
	f.halvings = 0
	vcov, bad := invert(info, collinear)
	if bad >= 0 {
		return false, failEstimable, bad
	}
	if f.steps == 0 {
		f.ll0 = raw
	}
	step := apply(vcov, score)
	decrement := dot(step, score)
	if f.steps == 0 {
		f.score0 = decrement
	}
	largest, far := 0.0, 0
	reach := -1.0
	for j := range step {
		if s := math.Abs(step[j]) / math.Sqrt(vcov[j][j]); s > largest {
			largest = s
		}
		if a := math.Abs(step[j]); a > reach && j >= g.base() {
			reach, far = a, j
		}
	}
	if sigma > 0 {
		largest /= sigma
	} else {
		largest = 0 // a perfect fit: there is no error to measure steps by
	}
	// The covariance belongs to theta before this step. A step just below the
	// tolerance would show in its tenth digit, so that one more round is worth it.
	done = largest < g.facts.Spec.Rounds.Tolerance/1000
	if !done && f.steps > 0 && largest < 1e-6 && largest >= float64(0.5*f.stepSE) {
		done, f.floor = true, 1
	}
	// Newton squares its error near a maximum. Where the likelihood only
	// approaches its supremum, the decrement falls by a constant factor (1/e)
	// instead: a coefficient is on its way to infinity.
	if !done && g.family != "gaussian" && f.steps > 0 && decrement < 0.1 && decrement > 1e-14 && decrement > float64(0.15*f.decrement) {
		f.slow++
		if f.slow >= 3 {
			return false, failSeparation, far
		}
	} else {
		f.slow = 0
	}
	copy(f.prev, f.theta)
	for j := range step {
		f.theta[j] += step[j]
	}
	f.ll, f.prevLL, f.rawLL = ll, ll, raw
	f.decrement, f.stepSE = decrement, largest
	f.steps++
	f.vcov = pack(vcov)
	return done, 0, 0
}

// halve goes back half of the last step.
func (g *regression) halve(f *fit) (bool, int, int) {
	f.halvings++
	if f.halvings > 30 {
		return false, failConverge, 0
	}
	for j := range f.theta {
		f.theta[j] = float64(0.5 * (f.theta[j] + f.prev[j]))
	}
	return false, 0, 0
}

// beta are the coefficients in the units of the study.
func (g *regression) beta(f *fit) []float64 {
	off := g.base()
	out := append([]float64(nil), f.theta...)
	for j := 0; j < g.p(); j++ {
		out[off+j] = f.theta[off+j] / f.scale[j]
		for b := 0; b < off; b++ {
			out[b] -= float64(f.theta[off+j] * (f.mean[j] / f.scale[j]))
		}
	}
	return out
}

// raw turns theta and its covariance into the units of the study.
func (g *regression) raw(f *fit) (beta []float64, vcov, robust [][]float64) {
	p, q := g.p(), g.q()
	off := q - p
	t := newMatrix(q)
	for j := 0; j < p; j++ {
		t[off+j][off+j] = 1 / f.scale[j]
		for b := 0; b < off; b++ {
			t[b][off+j] = -(f.mean[j] / f.scale[j])
		}
	}
	for b := 0; b < off; b++ {
		t[b][b] = 1
	}
	beta = apply(t, f.theta)
	v := unpack(f.vcov, q)
	vcov = multiply(multiply(t, v), transpose(t))
	if g.robust {
		robust = multiply(multiply(v, unpack(g.final(f, blockMeat), q)), v)
		robust = multiply(multiply(t, robust), transpose(t))
	}
	for _, m := range [][][]float64{vcov, robust} {
		for i := range m {
			for j := 0; j < i; j++ {
				a := float64(0.5 * (m[i][j] + m[j][i]))
				m[i][j], m[j][i] = a, a
			}
		}
	}
	return beta, vcov, robust
}

// name is that of coefficient k, of a level check, for problems.
func (g *regression) name(code, index int) string {
	if code == failLevel {
		if index >= 0 && index < len(g.d.checks) {
			return g.d.checks[index].what
		}
		return fmt.Sprintf("level %d", index)
	}
	if code == failPiece || code == failPieceEvents || g.pieces != nil && index < g.base() {
		return g.pieces.name(index)
	}
	if g.intercept && index == 0 {
		return "(Intercept)"
	}
	index -= g.base()
	if index >= 0 && index < len(g.d.columns) {
		return g.d.columns[index].name
	}
	return fmt.Sprintf("coefficient %d", index)
}
