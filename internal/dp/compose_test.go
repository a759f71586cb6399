package dp

import (
	"math"
	"testing"
)

// lossStep is the grid on which privacy losses are counted. Every loss is rounded
// up, so that what is computed is no less than the true delta.
const lossStep = 1e-3

// losses is a distribution of privacy losses: of[i] is the chance of a loss of
// (first+i) steps, infinite that of an output that one world alone can give.
type losses struct {
	first    int
	of       []float64
	infinite float64
}

// lossesOf computes them for one coordinate that is shifted by d, from the
// distribution of the noise.
func lossesOf(s *Skellam, d int) losses {
	p := func(k int) float64 {
		if k < 0 {
			k = -k
		}
		switch {
		case k >= len(s.cum):
			return 0
		case k == 0:
			return s.pmf(0)
		}
		return s.pmf(k) / 2
	}
	out := map[int]float64{}
	infinite, low, high := 0.0, math.MaxInt, math.MinInt
	for k := -len(s.cum) - d; k < len(s.cum)+d; k++ {
		with, without := p(k-d), p(k)
		switch {
		case with < 1e-25: // together below 1e-18
			infinite += with
		case without < 1e-35:
			infinite += with
		default:
			at := int(math.Ceil(math.Log(with/without) / lossStep))
			out[at] += with
			low, high = min(low, at), max(high, at)
		}
	}
	l := losses{first: low, of: make([]float64, high-low+1), infinite: infinite}
	for at, w := range out {
		l.of[at-low] = w
	}
	return l
}

// and is the loss of two independent releases. Far tails are moved to infinity.
func (l losses) and(o losses) losses {
	out := losses{l.first + o.first, make([]float64, len(l.of)+len(o.of)-1), l.infinite + o.infinite}
	for i, a := range l.of {
		if a == 0 {
			continue
		}
		to := out.of[i:]
		for k, b := range o.of {
			to[k] += a * b
		}
	}
	cut, from, to := 0.0, 0, len(out.of)
	for ; to > 1 && cut+out.of[to-1] < 1e-12; to-- {
		cut += out.of[to-1]
	}
	out.infinite += cut
	for cut = 0; from < to-1 && cut+out.of[from] < 1e-12; from++ {
		cut += out.of[from]
	}
	out.of = out.of[from:to]
	out.of[0] += cut // a loss of less counts as this one
	out.first += from
	return out
}

func (l losses) times(n int) losses {
	switch {
	case n == 1:
		return l
	case n%2 == 1:
		return l.and(l.times(n - 1))
	}
	half := l.times(n / 2)
	return half.and(half)
}

func (l losses) delta(epsilon float64) float64 {
	d := l.infinite
	for i, w := range l.of {
		if loss := float64(l.first+i) * lossStep; loss > epsilon {
			d += w * (1 - math.Exp(epsilon-loss))
		}
	}
	return d
}

// TestComposedClaimHolds computes the privacy loss of whole trainings from the
// distribution of the noise: every round and coordinate is convolved with the
// others, and the claim of the accountant must not be exceeded. A contribution
// stands in one coordinate, or is one in each of 64, where its taxicab norm is
// the largest for its length. A quarter of the variance breaks the claim.
func TestComposedClaimHolds(t *testing.T) {
	const delta = 1e-6
	for _, c := range []struct {
		epsilon             float64
		shift, coordinates  int
		rounds, parts, last int // the last release gets as many parts
	}{
		{1, 20, 1, 8, 10, 2},
		{4, 20, 1, 30, 38, 8},
		{2, 1, 64, 4, 4, 0},
	} {
		l2 := float64(c.shift) * math.Sqrt(float64(c.coordinates))
		l1 := float64(c.shift * c.coordinates)
		var all []Release
		compose := func(less float64) losses {
			var out *losses
			add := func(parts, times int) {
				mu, err := CalibrateShare(c.epsilon, delta, l1, l2, parts, c.parts)
				if err != nil {
					t.Fatal(err)
				}
				s, err := NewSkellam(mu * less)
				if err != nil {
					t.Fatal(err)
				}
				for range times {
					all = append(all, Release{l1, l2, mu})
				}
				l := lossesOf(s, c.shift).times(c.coordinates * times)
				if out != nil {
					l = out.and(l)
				}
				out = &l
			}
			add(1, c.rounds)
			if c.last > 0 {
				add(c.last, 1)
			}
			return *out
		}
		l := compose(1)
		claimed := Epsilon(all, delta)
		if claimed > c.epsilon {
			t.Errorf("calibrated to %v, claims %v", c.epsilon, claimed)
		}
		got := l.delta(claimed)
		if got > delta {
			t.Errorf("%d rounds, %d coordinates, epsilon %v: delta is %.3g, more than %g", c.rounds, c.coordinates, claimed, got, delta)
		}
		t.Logf("%d rounds, %d coordinates, epsilon %.3f: delta is %.3g of %g", c.rounds, c.coordinates, claimed, got, delta)
		if got := compose(0.25).delta(claimed); got <= delta {
			t.Errorf("%d rounds: a quarter of the variance still gives delta %.3g", c.rounds, got)
		}
	}
}
