package models

import (
	"context"
	"encoding/json"
	"errors"
	"math"

	"github.com/apache/arrow/go/v17/arrow"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/dp"
)

// private makes an analysis of one round differentially private for patients.
// Each hospital computes every patient's own contribution to the vector, in
// units of what one row can add to each value, clips it to the norm of `clip`
// rows, rounds it to integers without passing that norm, adds its patients up,
// and adds Skellam noise. The noise left after min_sites hospitals contributed and
// f of them took theirs away is what the budget asks for.
type private struct {
	*single
	*mechanism
	name string
}

func newPrivate(facts consilium.Facts, a *consilium.AnalysisSpec, inner Analysis) (Analysis, error) {
	if g, ok := inner.(*regression); ok && (g.family == "binomial" || g.family == "poisson" || g.pieces != nil) {
		return newPrivateFit(facts, g)
	}
	if g, ok := inner.(*regression); ok && g.family == "gaussian" {
		s, err := newPrivateLinear(facts, g)
		if err != nil {
			return nil, err
		}
		inner = s
	}
	s, ok := inner.(*single)
	if !ok || s.scale == nil {
		return nil, consilium.ErrInvalid.Withf("privacy.dp: %s has no differentially private form; describe, crosstab (without strata), kaplan-meier, glm of family gaussian, binomial and poisson, cox with a piecewise baseline, and train have", a.Type)
	}
	rest, norm2, err := s.scale()
	if err != nil {
		return nil, err
	}
	scale := append(ones(cohortFixed+s.levels), rest...)
	if len(scale) != s.layout().Values() {
		return nil, consilium.ErrInvalid.Withf("privacy.dp: %s has %d values and %d scales", a.Type, s.layout().Values(), len(scale))
	}
	norm2 += cohortNorm2
	if s.levels > 0 {
		norm2++
	}
	m, err := newMechanism(facts, a.Type, scale, norm2)
	if err != nil {
		return nil, err
	}
	return &private{single: s, mechanism: m, name: a.Name}, nil
}

// Releaser is an analysis under a budget: what it opens in the round of a state,
// or from the beginning to the end.
type Releaser interface {
	Releases(*State) []dp.Release
	AllReleases() []dp.Release
}

func (p *private) Releases(*State) []dp.Release { return []dp.Release{p.release} }
func (p *private) AllReleases() []dp.Release    { return []dp.Release{p.release} }

// Releases lists what a study costs of a patient's budget from beginning to
// end, before anything is computed.
func Releases(facts consilium.Facts, extra map[string]Constructor) ([]dp.Release, error) {
	a, err := New(facts, extra)
	if err != nil {
		return nil, err
	}
	return a.(*sequence).AllReleases(), nil
}

func (q *sequence) AllReleases() []dp.Release {
	var out []dp.Release
	for _, part := range q.parts {
		if p, ok := part.(Releaser); ok {
			out = append(out, p.AllReleases()...)
		}
	}
	return out
}

// RoundReleases lists what the round of s costs of a patient's budget.
func RoundReleases(a Analysis, s *State) ([]dp.Release, error) {
	q, ok := a.(*sequence)
	if !ok {
		return nil, errors.New("not an analysis of New")
	}
	states, active, err := q.active(s)
	if err != nil {
		return nil, err
	}
	var out []dp.Release
	for _, i := range active {
		if p, ok := q.parts[i].(Releaser); ok {
			out = append(out, p.Releases(states[i])...)
		}
	}
	return out, nil
}

// Local implements Analysis.
func (p *private) Local(ctx context.Context, s *State, _ []byte, rows *Rows, w Writer) ([]byte, error) {
	l, err := p.Layout(s)
	if err != nil {
		return nil, err
	}
	sums := make([]int64, len(p.mechanism.scale))
	for who, part := range byPatient(rows) {
		if who%256 == 0 {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
		}
		v, err := p.local(part)
		if err != nil {
			return nil, err
		}
		part, err := p.clipped(v)
		if err != nil {
			return nil, err
		}
		for i, x := range part {
			sums[i] += x
		}
	}
	noisy, err := p.noisy(sums, rows.Noise, p.name)
	if err != nil {
		return nil, err
	}
	for _, b := range l.Blocks {
		if err := write(w, b.Name, noisy[:b.Length]); err != nil {
			return nil, err
		}
		noisy = noisy[b.Length:]
	}
	return nil, nil
}

// clipped is one patient's contribution, clipped.
func (p *private) clipped(blocks [][]float64) ([]int64, error) {
	var x []float64
	for _, b := range blocks {
		x = append(x, b...)
	}
	return p.clip(x)
}

// byPatient splits rows into one set for each patient, in the order of their
// ordinals. What never reached the analysis is nobody's contribution and is not
// counted.
func byPatient(rows *Rows) []*Rows {
	out := make([]*Rows, rows.Patients)
	for _, b := range rows.Batches {
		for i := 0; i < len(b.Selected); i++ {
			if !b.Selected[i] {
				continue
			}
			at := b.Patient[i]
			if at < 0 || int(at) >= len(out) {
				continue // refused by readFrame in the plain analyses, and never selected here
			}
			if out[at] == nil {
				out[at] = &Rows{Site: rows.Site, Patients: 1}
			}
			one := Batch{Record: slice(b.Record, i), Selected: []bool{true}, Patient: []int32{0}}
			if len(b.Holdout) > i {
				one.Holdout = b.Holdout[i : i+1]
			}
			out[at].Batches = append(out[at].Batches, one)
		}
	}
	kept := out[:0]
	for _, r := range out {
		if r != nil {
			kept = append(kept, r)
		}
	}
	return kept
}

func slice(r arrow.Record, i int) arrow.Record { return r.NewSlice(int64(i), int64(i+1)) }

// counted reports whether a block holds counts, which are known to be whole
// numbers of zero or more: saying so costs no privacy.
func counted(block string) bool {
	switch {
	case block == "xx" || block == "xy" || block == "yy":
		return false
	case len(block) > 8 && block[:8] == "moments-":
		return false // counts and sums together
	}
	return true
}

// Update implements Analysis.
func (p *private) Update(s *State, o Opened) (*State, error) {
	l, err := p.Layout(s)
	if err != nil {
		return nil, err
	}
	whole := Opened{Round: o.Round, Contributors: o.Contributors, Values: map[string][]float64{}}
	for _, b := range l.Blocks {
		v, err := o.take(b.Name, b.Length)
		if err != nil {
			return nil, err
		}
		v = append([]float64(nil), v...)
		for i := range v {
			if counted(b.Name) || p.counts(b.Name, i, b.Length) {
				v[i] = math.Max(0, math.RoundToEven(v[i]))
			}
		}
		whole.Values[b.Name] = v
	}
	// The hospitals that took part are known.
	whole.Values["cohort"][cohortSites] = float64(len(o.Contributors))
	// Nobody counted what never reached the analysis: these are noise alone.
	for _, i := range []int{cohortConsent, cohortIntegrity, cohortOutside} {
		whole.Values["cohort"][i] = 0
	}
	return p.single.Update(s, whole)
}

// counts reports whether value i of a block of moments is a count: the first
// three fifths are rows, missing values and patients.
func (p *private) counts(block string, i, n int) bool {
	return len(block) > 8 && block[:8] == "moments-" && i < n/5*3
}

// Spent is `dp` of a result.
type Spent struct {
	Epsilon    float64            `json:"epsilon"` // of the whole study
	Delta      float64            `json:"delta"`
	Clip       float64            `json:"clip"`
	Unit       string             `json:"unit"`
	Releases   int                `json:"releases"`
	NoiseSD    map[string]float64 `json:"noise_sd"` // least standard deviation of the noise of a block's first value
	Mechanism  string             `json:"mechanism"`
	HonestLeft int                `json:"honest_shares"`
}

// NewSpent says what a study under a budget spends.
func NewSpent(facts consilium.Facts, noise map[string]float64) Spent {
	d := facts.Spec.Privacy.DP
	return Spent{Epsilon: d.Epsilon, Delta: d.Delta, Clip: d.Clip, Unit: "patient", Releases: dpReleases(facts.Spec), NoiseSD: noise,
		Mechanism: "skellam", HonestLeft: honestShares(facts)}
}

// Result implements Analysis.
func (p *private) Result(s *State) (*Result, error) {
	r, err := p.single.Result(s)
	if err != nil {
		return nil, err
	}
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(r.JSON, &doc); err != nil {
		return nil, err
	}
	out := NewSpent(p.facts, map[string]float64{})
	at := 0
	for _, b := range p.layout().Blocks {
		out.NoiseSD[b.Name] = float64(math.Sqrt(p.release.Mu) * p.unit(at))
		at += b.Length
	}
	if doc["dp"], err = canon.Marshal(out); err != nil {
		return nil, err
	}
	if err := admitNoise(doc, noisyWarning); err != nil {
		return nil, err
	}
	if r.JSON, err = canon.Marshal(doc); err != nil {
		return nil, err
	}
	return r, nil
}

const noisyWarning = "every count and sum carries the noise that was added for privacy; errors, limits, tests and p-values take them for exact"

// admitNoise says in the result what the noise makes of its numbers, and takes
// out those that nobody counted.
func admitNoise(doc map[string]json.RawMessage, warning string, uncounted ...string) error {
	if doc["excluded_rows"] == nil {
		return nil // a problem
	}
	var excluded map[string]any
	if err := json.Unmarshal(doc["excluded_rows"], &excluded); err != nil {
		return err
	}
	for _, k := range append(uncounted, "consent", "integrity", "cohort") {
		excluded[k] = nil
	}
	var warnings []string
	if err := json.Unmarshal(doc["warnings"], &warnings); err != nil {
		return err
	}
	warnings = append([]string{warning}, warnings...)
	var err error
	if doc["excluded_rows"], err = canon.Marshal(excluded); err != nil {
		return err
	}
	doc["warnings"], err = canon.Marshal(warnings)
	return err
}

func (p *private) disclose(d *Disclosure) error {
	if err := p.single.disclose(d); err != nil {
		return err
	}
	d.Sends = append(d.Sends, "each patient's contribution is clipped, and noise is added at the hospital before anything leaves it; what was left out by consent, ledger or cohort is not counted")
	d.Result += "; differentially private for patients"
	return nil
}
