package net

import (
	"fmt"

	"consilium/models"
)

// Disclose says for `study check` what a hospital adds to the sums, and what
// the result publishes.
func (a *train) Disclose(d *models.Disclosure) error {
	d.Rounds = a.strategy.needs()
	d.Columns = nil
	for _, f := range []field{a.start, a.stop, a.response} {
		if f.name != "" {
			d.Columns = append(d.Columns, f.name)
		}
	}
	d.Columns = append(d.Columns, a.spec.Features...)
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
		"per input of the network (per channel of a series or image): values and patients that have one, sum and sum of squares; missing values",
		fmt.Sprintf("in each of %d rounds how far training on its own rows moved the network's %d parameters, clipped to %v and scaled with its share of all training rows",
			a.strategy.rounds, a.net.params, a.strategy.clip),
	}
	if a.private != nil {
		a.disclosePrivate(d)
		return nil
	}
	if a.strategy.name == "scaffold" {
		d.Sends = append(d.Sends, fmt.Sprintf("in each of these rounds also the change of its control variate, %d values, clipped to %v", a.net.params, a.controlClip()))
	}
	how := "in every round how the network does on its training rows, and on its holdout rows unless these are of fewer than the least cohort: "
	switch a.net.loss {
	case logistic:
		how += "sums of losses, and counts of scores per class; in the last round also rows per class, patients and summed risk per cell of risk"
	case squared:
		how += "sums of squared and of absolute errors"
	case partial:
		how += "the log partial likelihood within the hospital, events, and counts of concordant, discordant and tied pairs within the hospital; no times"
	case reconstruction:
		how += "sums of anomaly scores, and counts of rows per cell of scores; in the last round also patients per cell"
	}
	d.Sends = append(d.Sends, how)
	d.Result = "the network's weights, means and standard deviations of its numeric inputs, training curves, calibration or thresholds over cells of at least the least cohort, and counts of the whole study"
	return nil
}
