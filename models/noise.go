package models

import (
	"math"

	"consilium"
	"consilium/internal/dp"
)

// Noise makes sums of patients' vectors differentially private, for analyses
// that other rooms own: each vector is clipped to a Euclidean norm and rounded
// to integers within it, a hospital adds its patients up, and Skellam noise, of
// which every hospital adds a share.
//
// Integers are added exactly, in whatever order: leaving one patient out changes
// a hospital's sums by that patient's vector and by nothing else, so that its
// norm bounds the sensitivity. (A sum of floating-point numbers does not have
// this property: Casacuberta et al., CCS 2022.)
type Noise struct{ m *mechanism }

// NewNoise is for vectors of the given length and norm. The release gets as many
// parts of the study's budget.
func NewNoise(facts consilium.Facts, what string, values int, norm float64, parts int) (*Noise, error) {
	if !(norm >= 0x1p-40 && norm <= 0x1p40) {
		return nil, consilium.ErrInvalid.Withf("privacy.dp: a patient adds a norm of %v to %s, want 2^-40 to 2^40", norm, what)
	}
	m, err := makeMechanism(facts, what, ones(values), norm, parts)
	if err != nil {
		return nil, err
	}
	if slack := float64(0.5 * math.Sqrt(float64(values))); !(slack <= float64(0.5*m.release.L2)) {
		return nil, consilium.ErrInvalid.Withf("privacy.dp: %d values of %s are too many: rounding them to integers would add more than the clip lets through", values, what)
	}
	return &Noise{m}, nil
}

// Release is what one opened sum costs.
func (n *Noise) Release() dp.Release { return n.m.release }

// SD is the least standard deviation of the noise of one opened value.
func (n *Noise) SD() float64 { return float64(math.Sqrt(n.m.release.Mu) * n.m.grain) }

// SDOf is the standard deviation of the noise that this many hospitals added.
func (n *Noise) SDOf(sites int) float64 {
	return float64(math.Sqrt(float64(float64(sites)*n.m.share)) * n.m.grain)
}

// Clip writes one patient's vector to out, in integers of norm at most
// Release().L2. It depends on x alone. A vector that has no finite norm becomes
// zeros: an error would tell about one patient.
func (n *Noise) Clip(x []float64, out []int64) {
	if len(x) != len(n.m.scale) || len(out) != len(x) {
		panic("models: a vector of another length than its noise") // of the caller's own making
	}
	var norm2 total
	for _, v := range x {
		v = float64(v / n.m.grain)
		norm2.add(float64(v * v))
	}
	norm := math.Sqrt(norm2.value())
	if norm-norm != 0 {
		clear(out)
		return
	}
	// Rounding to nearest adds at most half a unit to every value.
	limit := n.m.release.L2
	inner := limit - float64(0.5*math.Sqrt(float64(len(x))))
	shrink := 1.0
	if norm > inner {
		shrink = inner / norm
	}
	sum := 0.0
	for i, v := range x {
		out[i] = int64(math.RoundToEven(float64(float64(v/n.m.grain) * shrink)))
		sum += float64(float64(out[i]) * float64(out[i])) // exact: below 2^53
	}
	if sum <= float64(limit*limit) {
		return
	}
	clear(out) // cannot happen; if it does, nothing passes the clip
}

// Add gives a hospital's sums the hospital's share of noise, in the units of the
// vectors. The noise follows from the secret (Rows.Noise) and the name, which no
// two releases of a study may share.
func (n *Noise) Add(sums []int64, secret consilium.Digest, name string) ([]float64, error) {
	return n.m.noisy(sums, secret, name)
}
