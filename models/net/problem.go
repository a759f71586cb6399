package net

import (
	"fmt"

	"consilium"
	"consilium/internal/canon"
	"consilium/models"
)

// phaseFailed is the phase of a finished state that holds no model but a
// problem's code and an index.
const phaseFailed = 1 << 16

// Why training may end without a model. All follow from opened sums, so they
// travel in the sealed result and not in an error.
const (
	problemPatients = 1 + iota // fewer than k to train on
	problemConstant            // the response does not vary
	problemFeature             // index: known for fewer than k patients
	problemDiverged            // weights or scores left the numbers
	problemRows                // no contributor of a round had a row
	problemEvents              // a partial likelihood without an event
)

func failed(iteration uint32, code, index int) *models.State {
	return &models.State{Phase: phaseFailed, Iteration: iteration, Done: true, F64: []float64{float64(code), float64(index)}}
}

// failure is the result of a failed state.
func (a *train) failure(s *models.State) (*models.Result, error) {
	if !s.Done || len(s.F64) != 2 || len(s.F32) != 0 || len(s.Sub) != 0 {
		return nil, fmt.Errorf("training state: a failed one with %d values", len(s.F64))
	}
	var p models.Problem
	k := max(a.facts.MinCohort, 1)
	switch code, index := s.F64[0], s.F64[1]; code {
	case problemPatients:
		p = models.Problem{Code: "analysis.patients", Message: fmt.Sprintf("fewer than %d patients to train on, the least that this study may speak about", k),
			Next: "widen the cohort, ask more hospitals, or lower holdout"}
	case problemConstant:
		p = models.Problem{Code: "analysis.events", Message: "every training row has the same " + a.response.name + ", so there is nothing to learn",
			Next: "choose another response, or widen the cohort"}
	case problemFeature:
		if !(index >= 0 && index < float64(len(a.scales))) {
			return nil, fmt.Errorf("training state: problem at input %v", index)
		}
		p = models.Problem{Code: "analysis.feature", Message: fmt.Sprintf("%s is known for fewer than %d patients, and the model would publish its mean", a.scales[int(index)].name, k),
			Next: "leave it out of features"}
	case problemDiverged:
		p = models.Problem{Code: "analysis.diverged", Message: fmt.Sprintf("training diverged in round %d", s.Iteration+1),
			Next: "lower strategy.rate, or check the units of the features"}
	case problemRows:
		p = models.Problem{Code: "analysis.rows", Message: "no contributing hospital had a row to train on", Next: "check the cohort condition and missing values"}
	case problemEvents:
		p = models.Problem{Code: "analysis.events", Message: "no training row has the event " + a.response.name + ", so there is nothing to learn",
			Next: "choose another event, or widen the cohort"}
	default:
		return nil, fmt.Errorf("training state: unknown problem %v", code)
	}
	doc, err := canon.Marshal(struct {
		Analysis    string          `json:"analysis"`
		Name        string          `json:"name"`
		Error       *models.Problem `json:"error"`
		Assumptions []string        `json:"assumptions"`
		Warnings    []string        `json:"warnings"`
		Suppressed  []Suppressed    `json:"suppressed"`
	}{consilium.AnalysisTrain, a.spec.Name, &p, []string{}, []string{}, []Suppressed{}})
	if err != nil {
		return nil, err
	}
	return &models.Result{JSON: doc, Problem: &p}, nil
}
