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
	headNoAnswer = 6  // rows without a response
	headExcluded = 7  // consent, integrity, cohort
	headMean     = 10 // of the response among training rows
	headSD       = 11
	headClipped  = 12 // values of updates that the clip cut, over all rounds and sites
	headLength   = 13
)

// Per input, after the head.
const (
	inMean   = 0
	inSD     = 1
	inKnown  = 2 // training rows that have a value
	inMiss   = 3 // rows of both splits that have none
	inLength = 4
)

// curveLength values per evaluated model: loss, AUC and Brier score (or R² and
// mean absolute error) of training and holdout, and the norm of the step from
// it to the next model.
const curveLength = 7

// view is a State with names. Its slices alias the state.
type view struct {
	head    []float64
	inputs  []float64
	moments []float64 // fedadam, fedyogi: m then v; scaffold: c
	double  []float64 // float64 weights
	single  []float32 // float32 weights
	curve   []float64
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
	fixed := headLength + inLength*len(a.inputs) + a.momentLength() + weights64
	if len(s.F64) < fixed || (len(s.F64)-fixed)%curveLength != 0 || len(s.F32) != weights32 || len(s.Sub) != 0 || s.Phase > phaseEvaluate {
		return v, fmt.Errorf("training state: phase %d with %d and %d values is not of model %s", s.Phase, len(s.F64), len(s.F32), a.net.digest.Short())
	}
	f := s.F64
	cut := func(n int) []float64 {
		part := f[:n:n]
		f = f[n:]
		return part
	}
	v.head = cut(headLength)
	v.inputs = cut(inLength * len(a.inputs))
	v.moments = cut(a.momentLength())
	v.double = cut(weights64)
	v.single = s.F32
	v.curve = f
	points := len(f) / curveLength
	want := 0
	switch s.Phase {
	case phaseTrain:
		want = int(s.Iteration)
	case phaseEvaluate:
		want = a.strategy.rounds
		if s.Done {
			want++
		}
	}
	if points != want || s.Iteration > uint32(a.strategy.rounds) {
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

// standardise is (x - mean) / sd of input j; a missing value becomes 0: the
// mean of a number, the middle of a flag or level.
func (v view) standardise(j int, x float64) float64 {
	if math.IsNaN(x) {
		return 0
	}
	return (x - v.inputs[inLength*j+inMean]) / v.inputs[inLength*j+inSD]
}
