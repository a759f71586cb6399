package net

import (
	"fmt"
	"math"

	"consilium/models"
)

// Phases of training. Their numbers stand in states.
const (
	phasePrepare  = 0 // counts and moments, one round
	phaseTrain    = 1 // strategy.rounds rounds
	phaseEvaluate = 2 // of the last model, one round
)

// Places in the head of State.F64.
const (
	headRows     = 0  // training, holdout
	headPatients = 2  // training, holdout
	headEvents   = 4  // training, holdout
	headLeft     = 6  // rows left out because a value is missing
	headExcluded = 7  // consent, integrity, cohort
	headMean     = 10 // of the response among training rows
	headSD       = 11
	headClipped  = 12 // values of updates that the clip cut, over all rounds and sites
	headBest     = 13 // strategy.patience: the point of the curve with the best loss
	headBestLoss = 14 // its loss
	headRestored = 15 // 1: the weights are those of headBest again
	headLength   = 16
)

// Per scale, after the head.
const (
	inMean   = 0
	inSD     = 1
	inKnown  = 2 // values of training rows
	inMiss   = 3 // missing values of both splits
	inLength = 4
)

// curveLength values per evaluated model: loss, AUC and Brier score (or R² and
// mean absolute error, or C and nothing) of training and holdout, and the norm
// of the step from it to the next model.
const curveLength = 7

// view is a State with names. Its slices alias the state.
type view struct {
	head    []float64
	inputs  []float64
	moments []float64 // fedadam, fedyogi: m then v; scaffold: c
	double  []float64 // float64 weights
	single  []float32 // float32 weights
	best    []float64 // strategy.patience: the weights of headBest (under privacy: the mean of weights), as float64 …
	best32  []float32 // … or float32
	curve   []float64
	final   [2][]float64 // of a finished state: the opened evaluation of training and holdout
}

func (a *train) momentLength() int {
	switch a.strategy.name {
	case "fedadam", "fedyogi":
		return 2 * a.net.params
	case "scaffold":
		return a.net.params
	}
	return 0
}

// copies of the weights in a state: with patience the best ones too, under
// privacy their mean.
func (a *train) copies() int {
	if a.strategy.patience > 0 || a.private != nil {
		return 2
	}
	return 1
}

// stateBytes is the length of what a state holds for each parameter.
func (a *train) stateBytes() int {
	weight := 4
	if a.net.double {
		weight = 8
	}
	return 8*a.momentLength() + weight*a.copies()*a.net.params
}

// view checks every length, so that a state of another model is an error and
// not a panic.
func (a *train) view(s *models.State) (view, error) {
	var v view
	if s == nil {
		return v, fmt.Errorf("training state: missing")
	}
	weights64, weights32 := 0, a.net.params
	if a.net.double {
		weights64, weights32 = a.net.params, 0
	}
	copies := a.copies()
	fixed := headLength + inLength*len(a.scales) + a.momentLength() + copies*weights64
	final := 0
	if s.Done {
		final = a.evalLength(phaseEvaluate)
	}
	points := len(s.F64) - fixed - 2*final
	if points < 0 || points%curveLength != 0 || len(s.F32) != copies*weights32 || len(s.Sub) != 0 || s.Phase > phaseEvaluate {
		return v, fmt.Errorf("training state: phase %d with %d and %d values is not of model %s", s.Phase, len(s.F64), len(s.F32), a.net.digest.Short())
	}
	points /= curveLength
	f := s.F64
	cut := func(n int) []float64 {
		part := f[:n:n]
		f = f[n:]
		return part
	}
	v.head = cut(headLength)
	v.inputs = cut(inLength * len(a.scales))
	v.moments = cut(a.momentLength())
	v.double = cut(weights64)
	v.single = s.F32[:weights32:weights32]
	if copies > 1 {
		v.best, v.best32 = cut(weights64), s.F32[weights32:]
	}
	v.curve = cut(points * curveLength)
	v.final = [2][]float64{cut(final), cut(final)}
	// A step follows every point of the curve but that of the last model.
	restored := v.head[headRestored] == 1
	want := 0
	switch s.Phase {
	case phaseTrain:
		want = int(s.Iteration)
	case phaseEvaluate:
		want = int(s.Iteration)
		if s.Done || restored {
			want++
		}
	}
	switch {
	case points != want || s.Iteration > uint32(a.strategy.rounds),
		restored && (a.strategy.patience == 0 || s.Phase != phaseEvaluate),
		s.Phase == phaseEvaluate && !restored && s.Iteration != uint32(a.strategy.rounds),
		s.Done && s.Phase != phaseEvaluate:
		return v, fmt.Errorf("training state: %d points of the curve in phase %d, iteration %d", points, s.Phase, s.Iteration)
	}
	return v, nil
}

// clone copies what Update changes.
func clone(s *models.State) *models.State {
	return &models.State{Phase: s.Phase, Iteration: s.Iteration, Done: s.Done,
		F64: append([]float64(nil), s.F64...), F32: append([]float32(nil), s.F32...)}
}

// weight and setWeight hide where the weights stand.
func (v view) weight(i int) float64 {
	if len(v.single) > 0 {
		return float64(v.single[i])
	}
	return v.double[i]
}

func (v view) setWeight(i int, w float64) {
	if len(v.single) > 0 {
		v.single[i] = float32(w)
		return
	}
	v.double[i] = w
}

// load copies the weights into a machine's parameters.
func load[T real](v view, params []T) {
	for i := range params {
		params[i] = T(v.weight(i))
	}
}

// keepBest remembers the weights as they are; restore takes them back.
func (v view) keepBest() {
	copy(v.best, v.double)
	copy(v.best32, v.single)
}

func (v view) restore() {
	copy(v.double, v.best)
	copy(v.single, v.best32)
}

// scale is where the standardisation of input j stands.
func (v view) scale(j int) []float64 {
	c := j % (len(v.inputs) / inLength)
	return v.inputs[inLength*c : inLength*(c+1)]
}

// standardise is (x - mean) / sd of input j; a missing value becomes 0: the
// mean of a number, the middle of a flag or level.
func (v view) standardise(j int, x float64) float64 {
	if math.IsNaN(x) {
		return 0
	}
	in := v.scale(j)
	return (x - in[inMean]) / in[inSD]
}
