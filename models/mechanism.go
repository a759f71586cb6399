package models

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync"

	"consilium"
	"consilium/internal/dp"
)

// mechanism turns patients' contributions to one vector into noisy sums. Each
// contribution, in units of what one row can add to each value, is clipped to
// the norm of `clip` rows and rounded to integers without passing that norm;
// a hospital adds its patients up, and Skellam noise. The noise left after
// min_sites hospitals contributed and f of them took theirs away is what the
// budget asks for.
type mechanism struct {
	what    string
	scale   []float64 // public, of each value of the vector, a power of two
	grain   float64   // what one integer stands for in units of scale, a power of two so that sums stay exact
	release dp.Release
	share   float64 // variance of one hospital's noise, in integers squared
	noise   func() (*dp.Skellam, error)
}

// dpUnits bounds the norm of a contribution in integers; it is more than half of
// it. A coordinate is rounded by at most half a unit, 0.1% of the norm.
const dpUnits = 1024

// cohortNorm2 is the squared norm of what a row adds to the fixed part of a
// cohort block: it counts as row, patient, event and hospital.
const cohortNorm2 = 4

func ones(n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = 1
	}
	return out
}

// dpReleases is how many vectors a study opens under one budget.
func dpReleases(spec *consilium.Spec) int {
	n := 0
	for i := range spec.Analyses {
		switch a := &spec.Analyses[i]; {
		case a.Type == consilium.AnalysisTrain:
			n += 2 + trainRounds(a)
		case a.Type == consilium.AnalysisCox, a.Type == consilium.AnalysisGLM && a.Family != "gaussian":
			n += 1 + privateSteps
		default:
			n++
		}
	}
	return n
}

// dpParts is into how many equal parts the budget is divided: one for each
// release, and more for the evaluation of a trained model.
func dpParts(spec *consilium.Spec) int {
	n := dpReleases(spec)
	for i := range spec.Analyses {
		if a := &spec.Analyses[i]; a.Type == consilium.AnalysisTrain {
			n += EvaluationParts(trainRounds(a)) - 1
		}
	}
	return n
}

// DefaultTrainRounds are those of a training strategy that names none.
const DefaultTrainRounds = 30

func trainRounds(a *consilium.AnalysisSpec) int {
	if a.Strategy == nil || a.Strategy.Rounds <= 0 {
		return DefaultTrainRounds
	}
	return a.Strategy.Rounds
}

// EvaluationParts is how many times the budget of one round of training the
// evaluation of its model gets: about a fifth of the training's, since it is opened
// once and the noise of gradients averages out over rounds.
func EvaluationParts(rounds int) int { return (rounds + 3) / 4 }

// honestShares is how many hospitals' noise is left at the least.
func honestShares(facts consilium.Facts) int {
	f := facts.Spec.Sites.Faults
	if f == 0 {
		f = consilium.DefaultFaults(max(len(facts.Sites), facts.Spec.Sites.Min), facts.Spec.Sites.Min)
	}
	return facts.Spec.Sites.Min - max(f, 1)
}

// newMechanism takes the largest magnitude that one row adds to each value and
// the largest squared norm of one row in these units.
func newMechanism(facts consilium.Facts, what string, scale []float64, norm2 float64) (*mechanism, error) {
	return makeMechanism(facts, what, scale, float64(facts.Spec.Privacy.DP.Clip*math.Sqrt(norm2)), 1)
}

// makeMechanism takes the largest norm of a patient's contribution in units of
// scale, and how many parts of the budget the release gets.
func makeMechanism(facts consilium.Facts, what string, scale []float64, norm float64, parts int) (*mechanism, error) {
	d := facts.Spec.Privacy.DP
	if !(d.Clip > 0 && d.Clip <= 1e6) {
		return nil, consilium.ErrInvalid.Withf("privacy.dp: clip %v, want above 0: the number of rows that a patient counts for at most", d.Clip)
	}
	if facts.Spec.Sites.Faults == 0 && !facts.Spec.FixedContributors() {
		// The default of f grows with hospitals that join, and each one's noise with
		// it: a round in flight would be computed to another vector, and the rounds
		// before would have had too little.
		return nil, consilium.ErrInvalid.Withf("privacy.dp: with sites.missing: continue hospitals may join a study that runs; set sites.faults, on which the noise depends")
	}
	honest := honestShares(facts)
	if honest < 1 {
		return nil, consilium.ErrInvalid.Withf("privacy.dp: sites.min leaves no honest hospital's noise; raise it above the faults")
	}
	m := &mechanism{what: what, scale: append([]float64(nil), scale...)}
	for i, v := range m.scale {
		if !(v >= 0x1p-60 && v <= 0x1p60) {
			return nil, consilium.ErrInvalid.Withf("privacy.dp: one row can add %v to a value of %s, want 2^-60 to 2^60; declare bounds in a unit nearer to one", v, what)
		}
		m.scale[i] = powerOfTwo(float64(v * 1.9999999)) // at or above the magnitude
	}
	if m.grain = powerOfTwo(float64(norm / dpUnits)); m.grain < float64(norm/dpUnits) {
		m.grain = float64(2 * m.grain)
	}
	l2 := norm / m.grain
	l1 := float64(l2 * math.Min(math.Sqrt(float64(len(m.scale))), l2)) // an integer is at most its square
	mu, err := dp.CalibrateShare(d.Epsilon, d.Delta, l1, l2, parts, dpParts(facts.Spec))
	if err != nil {
		return nil, consilium.ErrInvalid.With(err)
	}
	m.release = dp.Release{L1: l1, L2: l2, Mu: mu}
	m.share = math.Ceil(mu / float64(honest))
	if m.share > dp.MaxMu {
		return nil, consilium.ErrInvalid.Withf("privacy.dp: epsilon %v needs more noise than can be drawn; raise it", d.Epsilon)
	}
	m.noise = sync.OnceValues(func() (*dp.Skellam, error) { return dp.NewSkellam(m.share) })
	return m, nil
}

// unit is what one integer stands for, in the units of value i.
func (m *mechanism) unit(i int) float64 { return float64(m.scale[i] * m.grain) }

// clip is one patient's contribution in integers of norm at most release.L2.
// What has no norm has no share of the budget: it is refused.
func (m *mechanism) clip(values []float64) ([]int64, error) {
	if len(values) != len(m.scale) {
		return nil, fmt.Errorf("private: a contribution of %d values, want %d", len(values), len(m.scale))
	}
	x := make([]float64, len(values))
	norm2 := total{}
	for i, v := range values {
		x[i] = float64(v / m.unit(i))
		norm2.add(float64(x[i] * x[i]))
	}
	limit := m.release.L2
	n := math.Sqrt(norm2.value())
	if n-n != 0 {
		return nil, consilium.ErrData.Withf("%s: a patient's contribution is not finite, so that it cannot be clipped; declare bounds or a larger unit for the columns", m.what)
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

// noisy adds a hospital's noise to its sums and gives them in the units of the
// values. The noise follows from a secret of the hospital, the round and its
// rows; analyses draw from streams of their own.
func (m *mechanism) noisy(sums []int64, secret consilium.Digest, name string) ([]float64, error) {
	if secret == (consilium.Digest{}) {
		return nil, consilium.ErrData.Withf("privacy.dp: no secret for the noise")
	}
	noise, err := m.noise()
	if err != nil {
		return nil, err
	}
	src := rand.NewChaCha8(consilium.DomainNoise.Digest(secret[:], []byte(name)))
	out := make([]float64, len(sums))
	for i, s := range sums {
		out[i] = float64(float64(s+noise.Draw(src)) * m.unit(i))
	}
	return out, nil
}
