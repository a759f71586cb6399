package net

import (
	"context"
	"fmt"
	"math"

	"consilium"
	"consilium/models"
)

// train is the analysis.
type train struct {
	facts    consilium.Facts
	spec     *consilium.AnalysisSpec
	inputs   []input
	response field
	net      *network
	strategy strategy
	holdout  float64
}

var _ models.Constructor = New

// New makes the analysis of type train. It refuses keys that training does
// not use, unknown layers and shapes that do not fit, before anything is
// allocated.
func New(facts consilium.Facts, spec *consilium.AnalysisSpec) (models.Analysis, error) {
	a, err := newTrain(facts, spec)
	if err != nil {
		return nil, err
	}
	return a, nil
}

func newTrain(facts consilium.Facts, spec *consilium.AnalysisSpec) (*train, error) {
	if facts.Spec == nil || spec == nil {
		return nil, consilium.ErrInvalid.Withf("train: no study specification")
	}
	if spec.Type != consilium.AnalysisTrain {
		return nil, consilium.ErrInvalid.Withf("analysis %s is of type %s, want train", spec.Name, quote(spec.Type))
	}
	if err := checkKeys(spec); err != nil {
		return nil, err
	}
	if facts.Spec.Privacy.DP != nil {
		return nil, consilium.ErrInvalid.Withf("analysis %s: differential privacy is not available for train in this version: remove privacy.dp", spec.Name)
	}
	r := spec.Response
	if r == nil || r.Column == "" || r.Start != "" || r.Stop != "" || r.Event != "" {
		return nil, consilium.ErrInvalid.Withf("analysis %s: train explains one column: response: {column: …}", spec.Name)
	}
	a := &train{facts: facts, spec: spec, holdout: spec.Holdout}
	var err error
	if a.response, err = findField(facts.Spec, "response", r.Column); err != nil {
		return nil, err
	}
	if a.inputs, err = expand(facts.Spec, spec.Features, r.Column); err != nil {
		return nil, err
	}
	if a.net, err = newNetwork(spec.Model, len(a.inputs)); err != nil {
		return nil, err
	}
	if a.response.kind == consilium.TypeLevels && (a.net.loss != logistic || len(a.response.levels) != 2) {
		return nil, consilium.ErrInvalid.Withf("response %s has %d levels: want two levels and the logistic loss", r.Column, len(a.response.levels))
	}
	if a.strategy, err = newStrategy(spec.Strategy); err != nil {
		return nil, err
	}
	if need := a.strategy.rounds + 2; facts.Spec.Rounds.Max < need {
		return nil, consilium.ErrInvalid.Withf("analysis %s needs %d rounds (%d of training, one before and one after), rounds.max is %d",
			spec.Name, need, a.strategy.rounds, facts.Spec.Rounds.Max)
	}
	return a, nil
}

// Rounds is the number of rounds that a training study takes, for `study
// check`: one for counts and moments, strategy.rounds, one to evaluate.
func Rounds(spec *consilium.AnalysisSpec) (int, error) {
	s, err := newStrategy(spec.Strategy)
	if err != nil {
		return 0, err
	}
	return s.rounds + 2, nil
}

// Start draws the first weights from the study's seed, the analysis's name
// and the model's digest.
func (a *train) Start(consilium.Facts) (*models.State, error) {
	s := &models.State{Phase: phasePrepare}
	weights := a.net.initial(consilium.DomainSeed.Digest([]byte("initial weights"), u64(a.facts.Spec.Seed), []byte(a.spec.Name), a.net.digest[:]))
	s.F64 = make([]float64, headLength+inLength*len(a.inputs)+a.momentLength())
	if a.net.double {
		s.F64 = append(s.F64, weights...)
	} else {
		s.F32 = make([]float32, len(weights))
		for i, w := range weights {
			s.F32[i] = float32(w)
		}
	}
	v, err := a.view(s)
	if err != nil {
		return nil, err
	}
	v.head[headSD] = 1
	for j := range a.inputs {
		v.inputs[inLength*j+inSD] = 1
	}
	if a.strategy.name == "fedadam" || a.strategy.name == "fedyogi" {
		second := v.moments[a.net.params:]
		for i := range second {
			second[i] = adaptivity * adaptivity
		}
	}
	return s, nil
}

// Lengths of the prepare phase's blocks.
const (
	countLength  = 10 // rows, patients, events (training, holdout each); no response; consent, integrity, cohort
	answerLength = 2  // sum and sum of squares of the response among training rows
	momentWidth  = 5  // per input: known, sum, sum of squares, patients known (training); missing (both splits)
)

// Layout is the shape of the round that s asks for.
func (a *train) Layout(s *models.State) (consilium.Layout, error) {
	if _, err := a.view(s); err != nil {
		return consilium.Layout{}, err
	}
	exact := func(name string, n int) consilium.Block {
		return consilium.Block{Name: name, Kind: consilium.Exact, Length: n}
	}
	switch s.Phase {
	case phasePrepare:
		return consilium.Layout{Blocks: []consilium.Block{exact("counts", countLength), exact("response", answerLength),
			exact("moments", momentWidth*len(a.inputs))}}, nil
	case phaseTrain:
		blocks := []consilium.Block{{Name: "update", Kind: a.strategy.kind, Length: a.net.params, Clip: a.strategy.clip}}
		if a.strategy.name == "scaffold" {
			blocks = append(blocks, consilium.Block{Name: "control", Kind: a.strategy.kind, Length: a.net.params, Clip: a.controlClip()})
		}
		return consilium.Layout{Blocks: append(blocks, exact("weight", 3), exact("training", a.evalLength()), exact("holdout", a.evalLength()))}, nil
	default:
		return consilium.Layout{Blocks: []consilium.Block{exact("training", a.evalLength()), exact("holdout", a.evalLength())}}, nil
	}
}

// Local is one site's part of a round.
func (a *train) Local(ctx context.Context, s *models.State, memory []byte, rows *models.Rows, w models.Writer) ([]byte, error) {
	v, err := a.view(s)
	if err != nil {
		return nil, err
	}
	if s.Done {
		return nil, consilium.ErrWrongPhase.Withf("training is finished")
	}
	t, err := a.read(rows)
	if err != nil {
		return nil, err
	}
	if s.Phase == phasePrepare {
		return memory, a.prepare(t, rows, w)
	}
	if a.net.double {
		return local[float64](ctx, a, s, v, memory, t, rows, w)
	}
	return local[float32](ctx, a, s, v, memory, t, rows, w)
}

// prepare writes counts and moments.
func (a *train) prepare(t *table, rows *models.Rows, w models.Writer) error {
	counts := make([]float64, countLength)
	answer := make([]float64, answerLength)
	moments := make([]float64, momentWidth*len(a.inputs))
	known := make([][]bool, len(a.inputs)) // by patient
	for j := range known {
		known[j] = make([]bool, t.ordinals)
	}
	for i, y := range t.y {
		h := split(t.holdout[i])
		counts[headRows+h]++
		if a.net.loss == logistic {
			counts[headEvents+h] += y
		}
		if h == 0 {
			answer[0] += y
			answer[1] += float64(y * y)
		}
		for j := range a.inputs {
			m := moments[momentWidth*j:]
			x := t.x[i*t.inputs+j]
			switch {
			case math.IsNaN(x):
				m[4]++
			case h == 0:
				m[0]++
				m[1] += x
				m[2] += float64(x * x)
				if p := t.patient[i]; !known[j][p] {
					known[j][p] = true
					m[3]++
				}
			}
		}
	}
	for h, p := range t.patients {
		counts[headPatients+h] = float64(p)
	}
	counts[headNoAnswer] = float64(t.noAnswer)
	if rows != nil {
		counts[headExcluded], counts[headExcluded+1], counts[headExcluded+2] =
			float64(rows.Excluded.Consent), float64(rows.Excluded.Integrity), float64(rows.Excluded.Cohort)
	}
	return write(w, []string{"counts", "response", "moments"}, counts, answer, moments)
}

func write(w models.Writer, names []string, blocks ...[]float64) error {
	for i, name := range names {
		if err := w.Block(name); err != nil {
			return err
		}
		if err := w.Write(blocks[i]); err != nil {
			return err
		}
	}
	return nil
}

// Update makes the next state from the opened sum. It adds, multiplies,
// divides and takes square roots, each rounded on its own, so its bits are
// the same on every processor.
func (a *train) Update(s *models.State, o models.Opened) (*models.State, error) {
	if _, err := a.view(s); err != nil {
		return nil, err
	}
	if s.Done {
		return nil, consilium.ErrWrongPhase.Withf("training is finished")
	}
	layout, err := a.Layout(s)
	if err != nil {
		return nil, err
	}
	for _, b := range layout.Blocks {
		values, ok := o.Values[b.Name]
		if !ok || len(values) != b.Length {
			return nil, fmt.Errorf("opened block %s has %d values, want %d", b.Name, len(values), b.Length)
		}
		for _, x := range values {
			if math.IsNaN(x) || math.IsInf(x, 0) {
				return nil, fmt.Errorf("opened block %s holds a value that is not a number", b.Name)
			}
		}
	}
	n := clone(s)
	v, err := a.view(n)
	if err != nil {
		return nil, err
	}
	switch s.Phase {
	case phasePrepare:
		code, index, err := a.prepared(v, o)
		if err != nil {
			return nil, err
		}
		if code != 0 {
			return failed(s.Iteration, code, index), nil
		}
		n.Phase = phaseTrain
	case phaseTrain:
		norm, code := a.step(v, o)
		if code == 0 && o.Values["training"][evalBad]+o.Values["holdout"][evalBad] > 0 {
			code = problemDiverged
		}
		if code != 0 {
			return failed(s.Iteration, code, 0), nil
		}
		// The evaluation is of the model before this step.
		a.extend(n, o)
		n.F64[len(n.F64)-1] = norm
		n.Iteration++
		if int(n.Iteration) == a.strategy.rounds {
			n.Phase = phaseEvaluate
		}
	case phaseEvaluate:
		if o.Values["training"][evalBad]+o.Values["holdout"][evalBad] > 0 {
			return failed(s.Iteration, problemDiverged, 0), nil
		}
		a.extend(n, o)
		n.Done = true
	}
	return n, nil
}

// extend appends one point to the curve; its norm is zero.
func (a *train) extend(n *models.State, o models.Opened) {
	l1, s1, t1 := a.metrics(o.Values["training"])
	l2, s2, t2 := a.metrics(o.Values["holdout"])
	n.F64 = append(n.F64, l1, s1, t1, l2, s2, t2, 0)
}

// prepared turns the sums of the first round into the standardisation, or
// says by a problem's code why nothing can be learned.
func (a *train) prepared(v view, o models.Opened) (code, index int, err error) {
	counts, answer, moments := o.Values["counts"], o.Values["response"], o.Values["moments"]
	for i, c := range counts {
		if c < 0 || c != math.Trunc(c) {
			return 0, 0, fmt.Errorf("opened block counts, value %d: %v is not a count", i, c)
		}
	}
	copy(v.head, counts)
	n, k := counts[headRows], max(a.facts.MinCohort, 1)
	switch {
	case counts[headPatients] < float64(k):
		return problemPatients, 0, nil
	case a.net.loss == logistic && (counts[headEvents] == 0 || counts[headEvents] == n):
		return problemConstant, 0, nil
	}
	mean, sd := meanSD(n, answer[0], answer[1])
	if a.net.loss == squared {
		if sd == 0 {
			return problemConstant, 0, nil
		}
		v.head[headMean], v.head[headSD] = mean, sd
	} else {
		v.head[headMean], v.head[headSD] = mean, 1
	}
	for j, def := range a.inputs {
		m, in := moments[momentWidth*j:], v.inputs[inLength*j:]
		in[inKnown], in[inMiss] = m[0], m[4]
		if def.binary() {
			// Public constants, not moments: the mean of a flag that is
			// published with the model would tell how few patients have it.
			in[inMean], in[inSD] = 0.5, 0.5
			continue
		}
		if m[3] > 0 && m[3] < float64(k) {
			return problemFeature, j, nil
		}
		in[inMean], in[inSD] = meanSD(m[0], m[1], m[2])
		if in[inSD] == 0 {
			in[inSD] = 1 // constant or never known: the input is 0 everywhere
		}
	}
	return 0, 0, nil
}

// meanSD returns mean and population standard deviation from sums; 0 and 0
// for no value. A variance below 1e-12 of the mean square is rounding.
func meanSD(n, sum, sum2 float64) (mean, sd float64) {
	if n <= 0 {
		return 0, 0
	}
	mean = sum / n
	square := sum2 / n
	variance := square - float64(mean*mean)
	if !(variance > float64(square*1e-12)) {
		return mean, 0
	}
	return mean, math.Sqrt(variance)
}
