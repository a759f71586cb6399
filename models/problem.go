package models

import (
	"fmt"

	"consilium"
)

// Problem says why an analysis ended without estimates. It depends on the
// opened sums, so it travels to the study's team inside the sealed result and
// nowhere else: an error in Update would tell the coordinator.
type Problem struct {
	Code    consilium.Code `json:"code"`
	Message string         `json:"message"`
	Next    string         `json:"next"`
}

func (p *Problem) Error() string { return p.Message + "; " + p.Next }

// phaseFailed is the phase of a state whose F64 is {problem code, index}.
const phaseFailed = 1 << 16

// Codes of problems inside states.
const (
	failRows = 1 + iota
	failPatients
	failLevel
	failEvents
	failAllEvents
	failEstimable
	failSeparation
	failConverge
	failDegrees
	failNothing
	failPiece       // too few patients at risk in a piece of the baseline
	failPieceEvents // no event in one
	failDispersion  // negative binomial without overdispersion
	failVariants    // no variant passes
	failStretch     // no stretch of a common baseline may be told
	failNoise       // the noise of differential privacy is larger than the signal
)

func failed(round uint32, code int, index int) *State {
	return &State{Phase: phaseFailed, Iteration: round, Done: true, F64: []float64{float64(code), float64(index)}}
}

// problem turns a failed state into words. what names index for the code.
func problem(s *State, minCohort int, rounds int, what func(code, index int) string) (*Problem, error) {
	if len(s.F64) != 2 {
		return nil, fmt.Errorf("state: a failed analysis has %d values, want 2", len(s.F64))
	}
	code, index := int(s.F64[0]), int(s.F64[1])
	name := what(code, index)
	switch code {
	case failRows:
		return &Problem{"analysis.rows", "no hospital has a row that the analysis can use", "check the cohort condition and missing values"}, nil
	case failPatients:
		return &Problem{"analysis.patients", fmt.Sprintf("fewer than %d patients remain, the least that this study may speak about", minCohort),
			"widen the cohort, drop a column with many missing values, or ask more hospitals"}, nil
	case failLevel:
		return &Problem{"analysis.level", fmt.Sprintf("%s has fewer than %d patients", name, minLevelPatients),
			"merge the level with another, drop the term, or restrict the cohort to the other levels"}, nil
	case failEvents:
		return &Problem{"analysis.events", "no events among the rows", "extend follow-up, or choose another response"}, nil
	case failAllEvents:
		return &Problem{"analysis.events", "every row has the event, so nothing can be estimated", "choose another response"}, nil
	case failEstimable:
		return &Problem{"analysis.estimable", name + " is not estimable: it does not vary where events happen, or it follows from the terms before it",
			"drop the term, or one of those that it depends on"}, nil
	case failSeparation:
		return &Problem{"analysis.separation", name + " separates rows with and without the event: its coefficient grows without limit and has no finite estimate",
			"drop the term, merge levels, or set `ridge`"}, nil
	case failConverge:
		return &Problem{"analysis.convergence", fmt.Sprintf("no convergence after %d rounds", rounds),
			"raise rounds.max, simplify the model, or set `ridge`"}, nil
	case failDegrees:
		return &Problem{"analysis.degrees", "there are not more rows than coefficients", "drop terms or widen the cohort"}, nil
	case failNothing:
		return &Problem{"analysis.compare", "fewer than two groups can be compared: the others have nobody at risk at an event", "choose another grouping"}, nil
	case failPiece:
		return &Problem{"analysis.piece", fmt.Sprintf("%s has fewer than %d patients at risk", name, minCohort), "move the cuts of the baseline so that the piece joins its neighbour"}, nil
	case failPieceEvents:
		return &Problem{"analysis.piece", name + " has no event, so that its hazard cannot be estimated", "move the cuts of the baseline so that the piece joins its neighbour"}, nil
	case failDispersion:
		return &Problem{"analysis.dispersion", "the counts vary no more than Poisson's: theta grows without limit", "use family poisson"}, nil
	case failVariants:
		return &Problem{"analysis.variants", "no variant passes the quality filters and the least number of carriers", "lower quality.maf, or choose other variants"}, nil
	case failStretch:
		return &Problem{"analysis.stretch", fmt.Sprintf("no stretch of time is left in which at least %d patients leave with the event or nobody does, and at least %d without it or nobody does, and at least %d of every level of the terms or nobody", minCohort, minCohort, minLevelPatients),
			"drop strata, merge or drop rare levels, or use the default baseline (stratified by hospital)"}, nil
	case failNoise:
		return &Problem{"analysis.noise", "the noise of differential privacy is larger than what it hides", "raise privacy.dp.epsilon, tighten the bounds of the columns, drop terms, or ask more hospitals"}, nil
	}
	return nil, fmt.Errorf("state: unknown problem %d", code)
}
