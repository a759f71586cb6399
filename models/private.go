package models

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"

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
	name    string
	scale   []float64 // public, of each value of the vector, a power of two
	grain   float64   // what one integer stands for in units of scale, a power of two so that sums stay exact
	release dp.Release
	share   float64 // variance of one hospital's noise, in integers squared
	noise   func() (*dp.Skellam, error)
}

// dpUnits bounds the norm of a contribution in integers; it is more than half of
// it. A coordinate is rounded by at most half a unit, 0.1% of the norm.
const dpUnits = 1024

func ones(n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = 1
	}
	return out
}

// dpReleases is how many vectors a study opens under one budget: one for each
// of its analyses.
func dpReleases(spec *consilium.Spec) int { return len(spec.Analyses) }

// honestShares is how many hospitals' noise is left at the least.
func honestShares(facts consilium.Facts) int {
	f := facts.Spec.Sites.Faults
	if f == 0 {
		f = consilium.DefaultFaults(max(len(facts.Sites), facts.Spec.Sites.Min), facts.Spec.Sites.Min)
	}
	return facts.Spec.Sites.Min - max(f, 1)
}

func newPrivate(facts consilium.Facts, a *consilium.AnalysisSpec, inner Analysis) (Analysis, error) {
	if g, ok := inner.(*regression); ok && g.family == "gaussian" {
		s, err := newPrivateLinear(facts, g)
		if err != nil {
			return nil, err
		}
		inner = s
	}
	s, ok := inner.(*single)
	if !ok || s.scale == nil {
		return nil, consilium.ErrInvalid.Withf("privacy.dp: %s has no differentially private form yet; describe, crosstab, kaplan-meier and glm of family gaussian have", a.Type)
	}
	d := facts.Spec.Privacy.DP
	if !(d.Clip > 0 && d.Clip <= 1e6) {
		return nil, consilium.ErrInvalid.Withf("privacy.dp: clip %v, want above 0: the number of rows that a patient counts for at most", d.Clip)
	}
	share := honestShares(facts)
	if share < 1 {
		return nil, consilium.ErrInvalid.Withf("privacy.dp: sites.min leaves no honest hospital's noise; raise it above the faults")
	}
	rest, norm2, err := s.scale()
	if err != nil {
		return nil, err
	}
	p := &private{single: s, name: a.Name}
	p.scale = append(ones(cohortFixed+s.levels), rest...)
	if len(p.scale) != s.layout().Values() {
		return nil, consilium.ErrInvalid.Withf("privacy.dp: %s has %d values and %d scales", a.Type, s.layout().Values(), len(p.scale))
	}
	for i := range p.scale {
		if v := p.scale[i]; !(v >= 0x1p-60 && v <= 0x1p60) {
			return nil, consilium.ErrInvalid.Withf("privacy.dp: one row can add %v to a value of %s, want 2^-60 to 2^60; declare bounds in a unit nearer to one", v, a.Type)
		}
		p.scale[i] = powerOfTwo(float64(p.scale[i] * 1.9999999)) // at or above the magnitude
	}
	// A row counts as row, patient, event and hospital, and in one level.
	norm2 += 4
	if s.levels > 0 {
		norm2++
	}
	norm := float64(d.Clip * math.Sqrt(norm2))
	if p.grain = powerOfTwo(float64(norm / dpUnits)); p.grain < float64(norm/dpUnits) {
		p.grain = float64(2 * p.grain)
	}
	l2 := norm / p.grain
	l1 := float64(l2 * math.Min(math.Sqrt(float64(len(p.scale))), l2)) // an integer is at most its square
	mu, err := dp.Calibrate(d.Epsilon, d.Delta, l1, l2, dpReleases(facts.Spec))
	if err != nil {
		return nil, consilium.ErrInvalid.With(err)
	}
	p.release = dp.Release{L1: l1, L2: l2, Mu: mu}
	p.share = math.Ceil(mu / float64(share))
	if p.share > dp.MaxMu {
		return nil, consilium.ErrInvalid.Withf("privacy.dp: epsilon %v needs more noise than can be drawn; raise it", d.Epsilon)
	}
	p.noise = sync.OnceValues(func() (*dp.Skellam, error) { return dp.NewSkellam(p.share) })
	return p, nil
}

// Releases lists what a study costs of a patient's budget, before anything is
// computed.
func Releases(facts consilium.Facts, extra map[string]Constructor) ([]dp.Release, error) {
	a, err := New(facts, extra)
	if err != nil {
		return nil, err
	}
	var out []dp.Release
	for _, part := range a.(*sequence).parts {
		if p, ok := part.(*private); ok {
			out = append(out, p.release)
		}
	}
	return out, nil
}

// unit is what one integer stands for, in the units of value i.
func (p *private) unit(i int) float64 { return float64(p.scale[i] * p.grain) }

// Local implements Analysis.
func (p *private) Local(ctx context.Context, s *State, _ []byte, rows *Rows, w Writer) ([]byte, error) {
	l, err := p.Layout(s)
	if err != nil {
		return nil, err
	}
	if rows.Noise == (consilium.Digest{}) {
		return nil, consilium.ErrData.Withf("privacy.dp: no secret for the noise")
	}
	sums := make([]int64, len(p.scale))
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
	noise, err := p.noise()
	if err != nil {
		return nil, err
	}
	src := rand.NewChaCha8(consilium.DomainNoise.Digest(rows.Noise[:], []byte(p.name)))
	at := 0
	for _, b := range l.Blocks {
		out := make([]float64, b.Length)
		for i := range out {
			out[i] = float64(float64(sums[at]+noise.Draw(src)) * p.unit(at))
			at++
		}
		if err := write(w, b.Name, out); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// clipped is one patient's contribution in integers of norm at most release.L2.
// What has no norm has no share of the budget: it is refused.
func (p *private) clipped(blocks [][]float64) ([]int64, error) {
	x := make([]float64, 0, len(p.scale))
	norm2 := total{}
	for _, b := range blocks {
		for _, v := range b {
			if len(x) == len(p.scale) {
				return nil, fmt.Errorf("private: a contribution of more than %d values", len(p.scale))
			}
			v = float64(v / p.unit(len(x)))
			x = append(x, v)
			norm2.add(float64(v * v))
		}
	}
	if len(x) != len(p.scale) {
		return nil, fmt.Errorf("private: a contribution of %d values, want %d", len(x), len(p.scale))
	}
	limit := p.release.L2
	n := math.Sqrt(norm2.value())
	if n-n != 0 {
		return nil, consilium.ErrData.Withf("analysis %s: a patient's contribution is not finite, so that it cannot be clipped; declare bounds or a larger unit for the columns", p.name)
	}
	shrink := 1.0
	if !(n <= limit) {
		shrink = limit / n
	}
	out := make([]int64, len(x))
	sum := 0.0
	for i, v := range x {
		out[i] = int64(math.RoundToEven(float64(v * shrink)))
		sum += float64(float64(out[i]) * float64(out[i]))
	}
	if sum <= float64(limit*limit) {
		return out, nil
	}
	for i, v := range x { // towards zero never grows the norm
		out[i] = int64(math.Trunc(float64(v * shrink)))
	}
	return out, nil
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

type dpResult struct {
	Epsilon    float64            `json:"epsilon"` // of the whole study
	Delta      float64            `json:"delta"`
	Clip       float64            `json:"clip"`
	Unit       string             `json:"unit"`
	Releases   int                `json:"releases"`
	NoiseSD    map[string]float64 `json:"noise_sd"` // least standard deviation of the noise of a block's first value
	Mechanism  string             `json:"mechanism"`
	HonestLeft int                `json:"honest_shares"`
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
	d := p.facts.Spec.Privacy.DP
	out := dpResult{Epsilon: d.Epsilon, Delta: d.Delta, Clip: d.Clip, Unit: "patient", Releases: dpReleases(p.facts.Spec), NoiseSD: map[string]float64{},
		Mechanism: "skellam", HonestLeft: honestShares(p.facts)}
	at := 0
	for _, b := range p.layout().Blocks {
		out.NoiseSD[b.Name] = float64(math.Sqrt(p.release.Mu) * p.unit(at))
		at += b.Length
	}
	if doc["dp"], err = canon.Marshal(out); err != nil {
		return nil, err
	}
	if err := p.admit(doc); err != nil {
		return nil, err
	}
	if r.JSON, err = canon.Marshal(doc); err != nil {
		return nil, err
	}
	return r, nil
}

// admit says in the result what the noise makes of its numbers, and takes out
// those that nobody counted.
func (p *private) admit(doc map[string]json.RawMessage) error {
	if doc["excluded_rows"] == nil {
		return nil // a problem
	}
	var excluded map[string]any
	if err := json.Unmarshal(doc["excluded_rows"], &excluded); err != nil {
		return err
	}
	for _, k := range []string{"consent", "integrity", "cohort"} {
		excluded[k] = nil
	}
	var warnings []string
	if err := json.Unmarshal(doc["warnings"], &warnings); err != nil {
		return err
	}
	warnings = append([]string{"every count and sum carries the noise that was added for privacy; errors, limits, tests and p-values take them for exact"}, warnings...)
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
