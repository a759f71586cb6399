package net

import (
	"fmt"

	"consilium/models"
)

// Disclose says for `study check` what a hospital adds to the sums, and what
// the result publishes.
func (a *train) Disclose(d *models.Disclosure) error {
	d.Rounds = a.strategy.rounds + 2
	d.Columns = append([]string{a.response.name}, a.spec.Features...)
	s, err := a.Start(a.facts)
	if err != nil {
		return err
	}
	d.Layouts = nil
	for _, phase := range []uint32{phasePrepare, phaseTrain, phaseEvaluate} {
		s.Phase = phase
		if phase == phaseEvaluate {
			s.F64 = append(s.F64, make([]float64, curveLength*a.strategy.rounds)...)
			s.Iteration = uint32(a.strategy.rounds)
		}
		l, err := a.Layout(s)
		if err != nil {
			return err
		}
		d.Layouts = append(d.Layouts, l)
	}
	d.Sends = []string{
		"counts of rows, patients and events, of training and holdout, and of rows left out by reason",
		"per input of the network: rows and patients that have a value, sum and sum of squares; rows without one",
		fmt.Sprintf("in each of %d rounds how far training on its own rows moved the network's %d parameters, clipped to %v and scaled with its share of all training rows",
			a.strategy.rounds, a.net.params, a.strategy.clip),
		"in every round how the network does on its training and on its holdout rows: sums of losses, and counts of scores per class",
	}
	d.Result = "the network's weights, means and standard deviations of its numeric inputs, training curves, and counts of the whole study"
	return nil
}
