package models

import (
	"fmt"
	"strings"

	"consilium"
)

// Disclosure says what one analysis makes every hospital send, and what the
// opened sums tell the hospitals of the study. `study check` prints it.
type Disclosure struct {
	Name, Type string
	Columns    []string // that the analysis reads
	Rounds     int      // at most
	// Layouts of the kinds of rounds, in order: the first round, and where
	// there are any the repeated ones and the last.
	Layouts []consilium.Layout
	Sends   []string // sentences: what each hospital adds to the sum
	Result  string   // sentence: what the result publishes
}

// Describe lists, per analysis of the study, what would leave each hospital.
func Describe(facts consilium.Facts, extra map[string]Constructor) ([]Disclosure, error) {
	a, err := New(facts, extra)
	if err != nil {
		return nil, err
	}
	var out []Disclosure
	for i, part := range a.(*sequence).parts {
		spec := &facts.Spec.Analyses[i]
		d := Disclosure{Name: spec.Name, Type: spec.Type, Rounds: 1}
		s, err := part.Start(facts)
		if err != nil {
			return nil, err
		}
		first, err := part.Layout(s)
		if err != nil {
			return nil, err
		}
		d.Layouts = []consilium.Layout{first}
		switch p := part.(type) {
		case interface{ disclose(*Disclosure) error }:
			err = p.disclose(&d)
		case interface{ Disclose(*Disclosure) error }: // of a type that another room owns
			err = p.Disclose(&d)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

const sendsCohort = "counts of rows, patients, events, and rows left out by reason (missing value, consent, ledger, cohort)"

func (g *regression) disclose(d *Disclosure) error {
	d.Columns = unique(append(append([]string{}, g.reads.numeric...), g.reads.factors...)...)
	d.Rounds = g.facts.Spec.Rounds.Max
	s, err := g.Start(g.facts)
	if err != nil {
		return err
	}
	phases := []uint32{phaseFit}
	if g.finalLen() > 0 {
		phases = append(phases, phaseFinal)
	}
	countsLevels := g.common() && g.cox.common.join && len(g.d.checks) > 0 && !g.facts.Permitted(PermitSmallLevels)
	if g.common() {
		// How many stretches have an event is known after the first round; at
		// most this many.
		n := g.cox.common.strata.n * (g.cox.common.grid.cells + 1)
		m := momentsLen(g.p())
		phases = phases[1:]
		later := []consilium.Block{exactBlock("fit", coxFitLen), exactBlock("score", g.p()), exactBlock("risk", n*m)}
		if g.cox.efron {
			later = append(later, exactBlock("tied", n*m))
		}
		if g.phCheck != "" {
			later = append(later, exactBlock("score-time", g.p()))
		}
		once := []consilium.Block{later[0], exactBlock("fitted", fittedFixed)}
		if countsLevels {
			d.Layouts = append(d.Layouts, consilium.Layout{Blocks: []consilium.Block{once[1], exactBlock("levels", 2*n*len(g.d.checks))}})
		}
		d.Layouts = append(d.Layouts, consilium.Layout{Blocks: append(once, later[1:]...)}, consilium.Layout{Blocks: later})
	}
	for _, p := range phases {
		s.Phase = p
		l, err := g.Layout(s)
		if err != nil {
			return err
		}
		d.Layouts = append(d.Layouts, l)
	}
	var levels string
	if len(g.d.checks) > 0 {
		var names []string
		for _, c := range g.d.checks {
			names = append(names, c.what)
		}
		levels = "the number of patients with " + strings.Join(names, ", ")
	}
	if g.common() {
		d.Sends = append(d.Sends, "counts of patients, and of rows left out by reason (missing value, consent, ledger, cohort)")
	} else {
		d.Sends = append(d.Sends, sendsCohort)
	}
	if levels != "" && !(g.common() && g.cox.common.join) {
		d.Sends = append(d.Sends, levels)
	}
	if g.p() > 0 && !g.common() {
		d.Sends = append(d.Sends, fmt.Sprintf("sums and sums of squares of %d model columns", g.p()))
	}
	what := "log-likelihood"
	switch {
	case g.pieces != nil:
		what = "log-likelihood"
		d.Sends = append(d.Sends, fmt.Sprintf("events, time at risk and patients at risk in %d public pieces of time", g.pieces.n()))
	case g.common():
		d.Sends = append(d.Sends, fmt.Sprintf("rows and patients who leave with and without the event, in each cell of the public grid (%v up to %v)", g.cox.common.grid.step, g.cox.common.grid.max))
		d.Sends = append(d.Sends, "once, rows, patients and events of the fit")
		if countsLevels {
			d.Sends = append(d.Sends, "before any sum, "+levels+" who leave in each stretch of the grid, with the event and without")
		}
		d.Sends = append(d.Sends, fmt.Sprintf("in every round, for each stretch of the grid with an event, sums over its rows at risk: the weights, %d weighted columns and %d of their products; differences of these sums describe those who left in between",
			g.p(), packedLen(g.p())))
		if g.cox.efron {
			d.Sends = append(d.Sends, "with ties efron the same sums over the rows with the event, for each stretch with more than one")
		}
	case g.family == familyCox:
		what = "log partial likelihood within the hospital"
	}
	if !g.common() {
		d.Sends = append(d.Sends, fmt.Sprintf("in every round its %s with %d first and %d second derivatives; no times, no rows", what, g.q(), packedLen(g.q())))
	}
	if g.absorb {
		d.Sends = append(d.Sends, "nothing about its own intercept, which it estimates itself")
	}
	if g.phCheck != "" && !g.common() {
		d.Sends = append(d.Sends, fmt.Sprintf("in the last round %d sums of Schoenfeld residuals and of the information, times public functions of the event times", g.q()+2*packedLen(g.q())))
	}
	if g.concordance {
		d.Sends = append(d.Sends, fmt.Sprintf("in the last round %d counts and sums over pairs of its own patients", concordanceLen))
	}
	if g.evaluate > 0 {
		d.Sends = append(d.Sends, fmt.Sprintf("in the last round rows with and without the event, patients and summed probability in %d cells of fitted probability", g.evaluate))
	}
	if g.robust {
		d.Sends = append(d.Sends, fmt.Sprintf("in the last round %d sums of products of score residuals, and the number of clusters", packedLen(g.q())))
	}
	d.Result = "coefficients, their covariance, likelihoods, tests, and counts of the whole study"
	return nil
}

func (a *single) disclose(d *Disclosure) error {
	spec := a.spec
	r := spec.Response
	if r != nil {
		d.Columns = append(d.Columns, r.Start, r.Stop, r.Event)
	}
	d.Columns = unique(append(append(append(d.Columns, spec.Variables...), spec.By...), spec.Rows, spec.Columns)...)
	for _, s := range spec.Strata {
		if s != "site" {
			d.Columns = unique(append(d.Columns, s)...)
		}
	}
	d.Sends = append(d.Sends, sendsCohort)
	if a.levels > 0 && len(spec.By) > 0 {
		d.Sends = append(d.Sends, "the number of patients of each group of "+strings.Join(spec.By, ", "))
	}
	switch spec.Type {
	case consilium.AnalysisKaplanMeier:
		d.Sends = append(d.Sends, fmt.Sprintf("events and censorings per group in each cell of the public grid (%v up to %v)", spec.Grid.Step, spec.Grid.Max))
		d.Result = fmt.Sprintf("survival curves on the grid, while at least %d are at risk", a.facts.MinCohort)
		if a.facts.Permitted(PermitTail) {
			d.Result = "survival curves on the whole grid (the board permits " + PermitTail + ")"
		}
	case consilium.AnalysisLogrank:
		if spec.Grid == nil {
			d.Sends = append(d.Sends, "observed and expected events per group and their covariance, summed over its own event times; no times")
		} else {
			d.Sends = append(d.Sends, fmt.Sprintf("events and censorings per group in each cell of the public grid (%v up to %v)", spec.Grid.Step, spec.Grid.Max))
		}
		d.Result = "observed and expected events per group, chi-square, p"
	case consilium.AnalysisDescribe:
		d.Sends = append(d.Sends, "per variable and group: rows, missing values, patients, sum and sum of squares", "counts of rows and patients per level or histogram cell")
		d.Result = fmt.Sprintf("means, variances and counts; cells of fewer than %d patients are hidden", a.facts.MinCohort)
	case consilium.AnalysisCrosstab:
		d.Sends = append(d.Sends, "counts of rows and patients per cell of the table")
		if len(spec.Strata) > 0 && contains(spec.Strata, "site") {
			d.Sends = append(d.Sends, fmt.Sprintf("%d Mantel-Haenszel sums over its own strata", mhLen))
		} else if len(spec.Strata) > 0 {
			d.Sends = append(d.Sends, "the table's counts per stratum")
		}
		d.Result = fmt.Sprintf("the table with cells of fewer than %d patients hidden, and its tests", a.facts.MinCohort)
	}
	return nil
}
