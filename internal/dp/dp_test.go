package dp

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"math/rand/v2"
	"testing"
)

// pmf is a table's probability of magnitude k (both signs).
func (s *Skellam) pmf(k int) float64 {
	f := func(w word) float64 { return (float64(w.hi) + float64(w.lo)*0x1p-64) * 0x1p-64 }
	if k == 0 {
		return f(s.cum[0])
	}
	a, b := s.cum[k], s.cum[k-1]
	lo, hi := a.lo-b.lo, a.hi-b.hi
	if a.lo < b.lo {
		hi--
	}
	return f(word{hi, lo})
}

// TestTable holds the probabilities against exp(-mu) I_k(mu) from R's besselI.
func TestTable(t *testing.T) {
	for mu, want := range map[float64][]float64{
		10:  {0.12783333716342865, 0.12126268138445555, 0.10358080088653754, 0.079830361029840535},
		100: {0.039944379299096687, 0.039744153025130256, 0.039149496238594081, 0.038178173175586493},
	} {
		s, err := NewSkellam(mu)
		if err != nil {
			t.Fatal(err)
		}
		for k, w := range want {
			got := s.pmf(k)
			if k > 0 {
				got /= 2
			}
			if math.Abs(got/w-1) > 1e-13 {
				t.Errorf("mu %v, k %d: %.17g, R has %.17g", mu, k, got, w)
			}
		}
	}
	for _, mu := range []float64{0, -1, math.NaN(), math.Inf(1), 0x1p35} {
		if _, err := NewSkellam(mu); err == nil {
			t.Errorf("a table of variance %v", mu)
		}
	}
}

// TestDraws: mean, variance and cells of the draws, and that sums of shares
// have the variance of the whole.
func TestDraws(t *testing.T) {
	for _, mu := range []float64{0.5, 7, 400, 250000} {
		s, err := NewSkellam(mu / 5)
		if err != nil {
			t.Fatal(err)
		}
		src := rand.NewChaCha8([32]byte{1, byte(mu)})
		const n = 40000
		var sum, square float64
		for range n {
			x := 0.0
			for range 5 {
				x += float64(s.Draw(src))
			}
			sum, square = sum+x, square+x*x
		}
		// Five standard errors: a false alarm once in a million.
		if m := sum / n; math.Abs(m) > 5*math.Sqrt(mu/n) {
			t.Errorf("mu %v: mean %v", mu, m)
		}
		if v := square / n; math.Abs(v/mu-1) > 5*math.Sqrt((2+1/mu)/n) {
			t.Errorf("mu %v: variance %v", mu, v)
		}
	}
}

// TestGolden pins the very draws: hospitals on any processor draw the same from
// the same key.
func TestGolden(t *testing.T) {
	h := sha256.New()
	for _, mu := range []float64{0.3, 12, 1e4, 3e7} {
		s, err := NewSkellam(mu)
		if err != nil {
			t.Fatal(err)
		}
		src := rand.NewChaCha8([32]byte{7})
		for range 500 {
			var b [8]byte
			binary.BigEndian.PutUint64(b[:], uint64(s.Draw(src)))
			h.Write(b[:])
		}
	}
	mu, err := Calibrate(1, 1e-6, 1024*math.Sqrt(50), 1024, 3)
	if err != nil {
		t.Fatal(err)
	}
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], math.Float64bits(mu))
	h.Write(b[:])
	const want = "1fea0af08737d4f5fa6c56f5ce221295747fe6f0adb50509f10653522c6c0cbb"
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		t.Errorf("the draws changed: %s", got)
	}
}

// exactDelta is delta(epsilon) of one coordinate under Skellam noise shifted by
// d, from the distribution itself: the sum of what one world exceeds e^epsilon
// times the other.
func exactDelta(s *Skellam, d int, epsilon float64) float64 {
	p := func(k int) float64 {
		if k < 0 {
			k = -k
		}
		if k >= len(s.cum) {
			return 0
		}
		if k == 0 {
			return s.pmf(0)
		}
		return s.pmf(k) / 2
	}
	delta := 0.0
	for k := -len(s.cum) - d; k < len(s.cum)+d; k++ {
		if v := p(k-d) - math.Exp(epsilon)*p(k); v > 0 {
			delta += v
		}
	}
	return delta
}

// TestClaimHolds computes the privacy loss from the distribution and compares
// it with the accountant's claim.
func TestClaimHolds(t *testing.T) {
	for _, d := range []int{1, 3, 20, 200} {
		for _, epsilon := range []float64{0.2, 1, 4} {
			const delta = 1e-6
			mu, err := Calibrate(epsilon, delta, float64(d), float64(d), 1)
			if err != nil {
				t.Fatal(err)
			}
			s, err := NewSkellam(mu)
			if err != nil {
				t.Fatal(err)
			}
			claimed := Epsilon([]Release{{float64(d), float64(d), mu}}, delta)
			if claimed > epsilon {
				t.Errorf("calibrated to %v, claims %v", epsilon, claimed)
			}
			if got := exactDelta(s, d, claimed); got > delta {
				t.Errorf("shift %d, epsilon %v: delta is %.3g, more than %g", d, claimed, got, delta)
			}
			// The check can fail: half the noise breaks the claim.
			half, err := NewSkellam(mu / 4)
			if err != nil {
				t.Fatal(err)
			}
			if got := exactDelta(half, d, claimed); d > 1 && got <= delta {
				t.Errorf("shift %d, epsilon %v: a quarter of the variance still gives delta %.3g", d, epsilon, got)
			}
		}
	}
}

// TestGaussianLimit: with fine integers the accountant comes near the analytic
// Gaussian mechanism (Balle and Wang 2018, theorem 8), from above.
func TestGaussianLimit(t *testing.T) {
	phi := func(x float64) float64 { return math.Erfc(-x/math.Sqrt2) / 2 }
	for _, sigma := range []float64{0.7, 2, 5, 20} {
		const l2, delta = 1 << 14, 1e-5
		claimed := Epsilon([]Release{{l2 * 10, l2, math.Pow(sigma*l2, 2)}}, delta)
		lo, hi := 0.0, 100.0
		for range 100 {
			e := (lo + hi) / 2
			if phi(1/(2*sigma)-e*sigma)-math.Exp(e)*phi(-1/(2*sigma)-e*sigma) > delta {
				lo = e
			} else {
				hi = e
			}
		}
		if claimed < hi || claimed > 1.2*hi {
			t.Errorf("sigma %v: epsilon %v, the analytic Gaussian has %v", sigma, claimed, hi)
		}
	}
}

// TestComposition: more releases never cost less, and k of them less than k
// times one.
func TestComposition(t *testing.T) {
	one := Release{1024 * 5, 1024, 1e8}
	last := 0.0
	var all []Release
	for k := 1; k <= 30; k++ {
		all = append(all, one)
		e := Epsilon(all, 1e-6)
		if e <= last {
			t.Errorf("%d releases cost %v, one less %v", k, e, last)
		}
		last = e
	}
	if last >= 30*Epsilon(all[:1], 1e-6) {
		t.Errorf("30 releases cost %v, no better than adding up", last)
	}
}

// TestLargestTable: the largest variance is drawn from a table of bounded size.
func TestLargestTable(t *testing.T) {
	s, err := NewSkellam(MaxMu)
	if err != nil {
		t.Fatal(err)
	}
	if n := 16 * len(s.cum); n > 32<<20 {
		t.Errorf("a table of %d bytes", n)
	}
	src := rand.NewChaCha8([32]byte{9})
	square := 0.0
	const n = 20000
	for range n {
		x := float64(s.Draw(src))
		square += x * x
	}
	if v := square / n / MaxMu; math.Abs(v-1) > 5*math.Sqrt(2.0/n) {
		t.Errorf("variance %v of 2^34", v)
	}
}

// TestShares: releases of different sensitivities, each calibrated as one of
// them, are within the budget together, and waste little of it.
func TestShares(t *testing.T) {
	for _, epsilon := range []float64{0.3, 1, 4, 20} {
		for _, norms := range [][][2]float64{{{1024 * 7, 1024}}, {{1024 * 7, 1024}, {600 * 3, 600}}, {{1024, 1024}, {1024 * 1024, 1024}, {513 * 20, 513}, {900 * 9, 900}, {900 * 9, 900}, {5, 5}, {30, 7}}} {
			var all []Release
			for _, n := range norms {
				mu, err := CalibrateShare(epsilon, 1e-6, n[0], n[1], 1, len(norms))
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, Release{n[0], n[1], mu})
			}
			if e := Epsilon(all, 1e-6); e > epsilon || e < 0.7*epsilon {
				t.Errorf("%d releases of epsilon %v cost %v", len(all), epsilon, e)
			}
		}
	}
}
