package net

import (
	"context"
	"fmt"

	"consilium"
	"consilium/internal/fixed"
	"consilium/models"
)

// Run is a finished training in plain sums.
type Run struct {
	Result  *models.Result
	Outcome *Outcome      // Result.JSON, decoded
	State   *models.State // the last one
}

// Simulate trains in plain, unencrypted sums: the same Local, the same
// quantisation to integers and the same Update as in a federation, so with
// the same rows and seeds it gives the same bits. A study that ends without a model
// is an error here, a *models.Problem. rows[i] belongs to
// facts.Sites[i]; a nil entry is a site that contributes nothing. Their Seed
// fields are not read: each round's is RoundSeed.
//
// It is for tests and comparisons. It protects nothing: whoever calls it
// holds everybody's rows.
func Simulate(ctx context.Context, facts consilium.Facts, spec *consilium.AnalysisSpec, rows []*models.Rows) (*Run, error) {
	a, err := newTrain(facts, spec)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 || len(rows) != len(facts.Sites) {
		return nil, consilium.ErrInvalid.Withf("simulate: rows of %d sites for %d sites of the facts", len(rows), len(facts.Sites))
	}
	s, err := a.Start(facts)
	if err != nil {
		return nil, err
	}
	memory := make([][]byte, len(rows))
	for round := uint32(1); !s.Done; round++ {
		if s, err = a.round(ctx, s, round, memory, rows); err != nil {
			return nil, fmt.Errorf("round %d: %w", round, err)
		}
	}
	return a.finish(s)
}

func (a *train) finish(s *models.State) (*Run, error) {
	r, err := a.Result(s)
	if err != nil {
		return nil, err
	}
	if r.Problem != nil {
		return nil, r.Problem
	}
	o, err := ParseOutcome(r.JSON)
	if err != nil {
		return nil, err
	}
	return &Run{Result: r, Outcome: o, State: s}, nil
}

// round is one round over all sites, in plain sums of the integers that a
// federation encrypts.
func (a *train) round(ctx context.Context, s *models.State, round uint32, memory [][]byte, rows []*models.Rows) (*models.State, error) {
	layout, err := a.Layout(s)
	if err != nil {
		return nil, err
	}
	sums := make([]int64, layout.Lanes())
	var contributors []consilium.Position
	for i, r := range rows {
		site := a.facts.Sites[i]
		var own models.Rows
		if r != nil {
			own = *r
		}
		own.Site = consilium.Position(i + 1)
		own.Seed = RoundSeed(a.facts.Spec.Seed, site, round)
		own.Noise = consilium.DomainNoise.Digest(own.Seed[:], own.Noise[:])
		w, err := fixed.NewWriter(layout)
		if err != nil {
			return nil, err
		}
		if memory[i], err = a.Local(ctx, s, memory[i], &own, w); err != nil {
			return nil, fmt.Errorf("site %s: %w", site, err)
		}
		lanes, err := w.Lanes()
		if err != nil {
			return nil, fmt.Errorf("site %s: %w", site, err)
		}
		if err := fixed.Add(sums, lanes); err != nil {
			return nil, err
		}
		contributors = append(contributors, own.Site)
	}
	values, err := fixed.Open(layout, sums, len(rows))
	if err != nil {
		return nil, err
	}
	return a.Update(s, models.Opened{Round: round, Contributors: contributors, Values: values})
}

// Pool puts the rows of several sites into one table, as if one hospital held
// all patients: the centralised twin of a federation.
func Pool(rows []*models.Rows) *models.Rows {
	all := &models.Rows{Site: 1}
	for _, r := range rows {
		if r == nil {
			continue
		}
		for _, b := range r.Batches {
			shifted := b
			shifted.Patient = make([]int32, len(b.Patient))
			for i, p := range b.Patient {
				shifted.Patient[i] = p + int32(all.Patients)
			}
			all.Batches = append(all.Batches, shifted)
		}
		all.Patients += r.Patients
		all.Excluded.Consent += r.Excluded.Consent
		all.Excluded.Integrity += r.Excluded.Integrity
		all.Excluded.Cohort += r.Excluded.Cohort
	}
	return all
}

// Pooled trains the same model with the same seed and the same first weights
// on the pooled table, through the same code.
func Pooled(ctx context.Context, facts consilium.Facts, spec *consilium.AnalysisSpec, rows []*models.Rows) (*Run, error) {
	facts.Sites = []consilium.SiteID{"pooled"}
	return Simulate(ctx, facts, spec, []*models.Rows{Pool(rows)})
}

// Evaluate measures the model of a finished state on other rows: on everybody's
// training and holdout rows, for a model that one hospital trained alone.
func Evaluate(ctx context.Context, facts consilium.Facts, spec *consilium.AnalysisSpec, s *models.State, rows []*models.Rows) (training, holdout Metrics, err error) {
	a, err := newTrain(facts, spec)
	if err != nil {
		return Metrics{}, Metrics{}, err
	}
	if _, err := a.view(s); err != nil {
		return Metrics{}, Metrics{}, err
	}
	if !s.Done {
		return Metrics{}, Metrics{}, consilium.ErrWrongPhase.Withf("training is not finished")
	}
	if a.private != nil {
		return a.exactly(ctx, s, Pool(rows))
	}
	// The final evaluation once more, over these rows.
	again := clone(s)
	again.Done = false
	again.F64 = again.F64[:len(again.F64)-2*a.evalLength(phaseEvaluate)]
	if s.F64[headRestored] == 0 {
		again.F64 = again.F64[:len(again.F64)-curveLength]
	}
	facts.Sites = []consilium.SiteID{"pooled"}
	a.facts = facts
	last := again
	for !last.Done { // twice, if an earlier model than the last was kept
		if last, err = a.round(ctx, last, uint32(a.strategy.needs()), make([][]byte, 1), []*models.Rows{Pool(rows)}); err != nil {
			return Metrics{}, Metrics{}, err
		}
		if last.Phase == phaseFailed {
			return Metrics{}, Metrics{}, consilium.ErrData.Withf("the model gives scores beyond all bounds on these rows")
		}
	}
	v, err := a.view(last)
	if err != nil {
		return Metrics{}, Metrics{}, err
	}
	return a.named(v.final[0]), a.named(v.final[1]), nil
}

// exactly evaluates a model that was trained under privacy.dp, without noise.
func (a *train) exactly(ctx context.Context, s *models.State, rows *models.Rows) (training, holdout Metrics, err error) {
	v, err := a.view(s)
	if err != nil {
		return Metrics{}, Metrics{}, err
	}
	t, err := a.read(rows)
	if err != nil {
		return Metrics{}, Metrics{}, err
	}
	var e [2][]float64
	if a.net.double {
		e, err = evaluate[float64](ctx, a, phaseEvaluate, v, t)
	} else {
		e, err = evaluate[float32](ctx, a, phaseEvaluate, v, t)
	}
	if err != nil {
		return Metrics{}, Metrics{}, err
	}
	if e[0][evalBad]+e[1][evalBad] > 0 {
		return Metrics{}, Metrics{}, consilium.ErrData.Withf("the model gives scores beyond all bounds on these rows")
	}
	return a.named(e[0]), a.named(e[1]), nil
}

// Alone is what one hospital learns from its own patients only.
type Alone struct {
	Site     consilium.SiteID
	Run      *Run    // nil if the hospital cannot train
	Reason   string  // why not
	Training Metrics // of its model on everybody's training rows
	Holdout  Metrics // of its model on everybody's holdout rows
}

// Singles trains the model at every hospital alone, without a least cohort,
// and measures each on everybody's rows.
func Singles(ctx context.Context, facts consilium.Facts, spec *consilium.AnalysisSpec, rows []*models.Rows) ([]Alone, error) {
	if len(rows) != len(facts.Sites) {
		return nil, consilium.ErrInvalid.Withf("singles: rows of %d sites for %d sites of the facts", len(rows), len(facts.Sites))
	}
	var out []Alone
	for i, site := range facts.Sites {
		one := facts
		one.Sites = []consilium.SiteID{site}
		one.MinCohort = 1
		alone := Alone{Site: site}
		run, err := Simulate(ctx, one, spec, []*models.Rows{rows[i]})
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			alone.Reason = err.Error()
		default:
			alone.Run = run
			if alone.Training, alone.Holdout, err = Evaluate(ctx, one, spec, run.State, rows); err != nil {
				return nil, fmt.Errorf("site %s: %w", site, err)
			}
		}
		out = append(out, alone)
	}
	return out, nil
}
