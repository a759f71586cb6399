package dp

import (
	"fmt"
	"math"

	"consilium/internal/det"
)

// Release is one opened vector: sums of integers to which every patient adds at
// most L2 in Euclidean and L1 in taxicab norm, under noise of variance Mu.
type Release struct {
	L1 float64 `json:"l1"`
	L2 float64 `json:"l2"`
	Mu float64 `json:"mu"`
}

// Orders are the orders alpha of Rényi divergence that the accountant carries.
// The corollary is for integers above 1.
var Orders = orders()

func orders() []float64 {
	var out []float64
	for a := 2.0; a < 64; a++ {
		out = append(out, a)
	}
	for a := 64.0; a <= 1024; a += 16 {
		out = append(out, a)
	}
	return out
}

// RDP bounds the Rényi divergence of order alpha of one release.
func (r Release) RDP(alpha float64) float64 {
	s := float64(r.L2 * r.L2)
	small := (float64((float64(2*alpha)-1)*s) + float64(6*r.L1)) / float64(4*float64(r.Mu*r.Mu))
	large := float64(3*r.L1) / float64(2*r.Mu)
	return float64(alpha*s)/float64(2*r.Mu) + math.Min(small, large)
}

// Valid reports what makes a release unaccountable.
func (r Release) Valid() error {
	for _, v := range []float64{r.L1, r.L2, r.Mu} {
		if !(v > 0) || math.IsInf(v, 0) {
			return fmt.Errorf("dp: a release with sensitivities %v and %v under variance %v", r.L1, r.L2, r.Mu)
		}
	}
	return nil
}

// Epsilon is the least epsilon of the composition of releases at delta.
func Epsilon(releases []Release, delta float64) float64 {
	if len(releases) == 0 {
		return 0
	}
	best := math.Inf(1)
	for _, a := range Orders {
		sum := 0.0
		for _, r := range releases {
			sum += r.RDP(a)
		}
		e := sum + det.Log((a-1)/a) - (det.Log(delta)+det.Log(a))/(a-1)
		best = math.Min(best, e)
	}
	return math.Max(best, 0)
}

// Calibrate is the least variance, to one part in a thousand and a whole
// number, with which `times` releases of these sensitivities together are
// (epsilon, delta) differentially private.
func Calibrate(epsilon, delta, l1, l2 float64, times int) (float64, error) {
	if !(epsilon > 0) || !(delta > 0 && delta < 1) || !(l1 > 0) || !(l2 > 0) || times < 1 {
		return 0, fmt.Errorf("dp: cannot calibrate to epsilon %v and delta %v", epsilon, delta)
	}
	fits := func(mu float64) bool {
		all := make([]Release, times)
		for i := range all {
			all[i] = Release{l1, l2, mu}
		}
		return Epsilon(all, delta) <= epsilon
	}
	high := 1.0
	for !fits(high) {
		if high = float64(high * 2); high > 0x1p80 {
			return 0, fmt.Errorf("dp: epsilon %v at delta %v needs more noise than can be drawn", epsilon, delta)
		}
	}
	low := float64(0.5 * high)
	for high-low > float64(1e-3*high) && high-low > 1 {
		if mid := float64(0.5 * (low + high)); fits(mid) {
			high = mid
		} else {
			low = mid
		}
	}
	return math.Ceil(high), nil
}

// CalibrateShare is the least variance, as Calibrate has it, for one release
// that gets `parts` of `of` equal parts of the divergence at one order: releases
// of any sensitivities whose parts add up to `of` are (epsilon, delta)
// differentially private together, whatever the others are.
func CalibrateShare(epsilon, delta, l1, l2 float64, parts, of int) (float64, error) {
	if !(epsilon > 0) || !(delta > 0 && delta < 1) || !(l1 > 0) || !(l2 > 0) || parts < 1 || of < parts {
		return 0, fmt.Errorf("dp: cannot calibrate to epsilon %v and delta %v", epsilon, delta)
	}
	// The order that lets a Gaussian have the least variance: divergence there is
	// alpha times a constant.
	order, most := 0.0, 0.0
	for _, a := range Orders {
		left := epsilon - det.Log((a-1)/a) + (det.Log(delta)+det.Log(a))/(a-1)
		if rate := left / a; rate > most {
			order, most = a, rate
		}
	}
	if order == 0 {
		return 0, fmt.Errorf("dp: no order of divergence reaches epsilon %v at delta %v", epsilon, delta)
	}
	part := float64(float64(order*most)*float64(parts)) / float64(of)
	high := 1.0
	for (Release{l1, l2, high}).RDP(order) > part {
		if high = float64(high * 2); high > 0x1p80 {
			return 0, fmt.Errorf("dp: epsilon %v at delta %v needs more noise than can be drawn", epsilon, delta)
		}
	}
	low := float64(0.5 * high)
	for high-low > float64(1e-3*high) && high-low > 1 {
		if mid := float64(0.5 * (low + high)); (Release{l1, l2, mid}).RDP(order) <= part {
			high = mid
		} else {
			low = mid
		}
	}
	return math.Ceil(high), nil
}
