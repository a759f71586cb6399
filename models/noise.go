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

// Clip adds one patient's vector to sums, in integers of norm at most
// Release().L2. What it adds depends on x alone. A vector that has no finite norm
// adds nothing: an error would tell about one patient. room is of the vector's
// length and is overwritten.
func (n *Noise) Clip(x []float64, room, sums []int64) {
	if len(x) != len(n.m.scale) || len(room) != len(x) || len(sums) != len(x) {
		panic("models: a vector of another length than its noise") // of the caller's own making
	}
	units := 1 / n.m.grain // a power of two, as grain is
	var part [4]float64    // four chains, which the processor runs side by side; their order is fixed
	for i, v := range x {
		v = float64(v * units)
		part[i%4] += float64(v * v)
	}
	norm := math.Sqrt((part[0] + part[1]) + (part[2] + part[3]))
	if norm-norm != 0 {
		return
	}
	// Rounding to nearest adds at most half a unit to every value.
	limit := n.m.release.L2
	inner := limit - float64(0.5*math.Sqrt(float64(len(x))))
	if norm > inner {
		units = float64(units * (inner / norm))
	}
	var square int64
	for i, v := range x {
		k := int64(math.RoundToEven(float64(v * units)))
		room[i] = k
		square += k * k
	}
	if !(float64(square) <= float64(limit*limit)) {
		return // cannot happen; if it does, nothing passes the clip
	}
	for i, k := range room {
		sums[i] += k
	}
}

// Add gives a hospital's sums the hospital's share of noise, in the units of the
// vectors. The noise follows from the secret (Rows.Noise) and the name, which no
// two releases of a study may share.
func (n *Noise) Add(sums []int64, secret consilium.Digest, name string) ([]float64, error) {
	return n.m.noisy(sums, secret, name)
}
