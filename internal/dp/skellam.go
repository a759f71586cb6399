package dp

import (
	"fmt"
	"math"
	"math/big"
	"math/bits"
	"math/rand/v2"
)

// Skellam draws integers with the distribution of the difference of two Poisson
// variables of mean mu/2: variance mu, and sums of independent ones add their
// variances. It inverts a table of cumulated probabilities with 128 bits, so
// that what is drawn is within 2^-100 of the distribution in total variation;
// nothing is computed in floating point of a processor.
type Skellam struct {
	mu  float64
	cum []word // P(|X| < k) for k = 1, 2, …, the last one all ones
}

// word is a probability times 2^128.
type word struct{ hi, lo uint64 }

func (a word) below(b word) bool { return a.hi < b.hi || a.hi == b.hi && a.lo < b.lo }

// MaxMu bounds the variance whose table is built: it takes 14 standard
// deviations of 16 bytes, 28 MiB at the bound, and about two seconds. An epsilon
// of 0.05 at a delta of 1e-6 needs half of it, with one honest hospital.
const MaxMu = 0x1p34

const precision = 256 // bits of the recurrence

// NewSkellam builds the table of a variance.
func NewSkellam(mu float64) (*Skellam, error) {
	if !(mu > 0) || mu > MaxMu {
		return nil, fmt.Errorf("dp: noise of variance %v, want above 0 and at most 2^34", mu)
	}
	// Past this the tail is below 2^-120 (Chernoff for sub-exponential sums).
	most := int(math.Ceil(float64(14*math.Sqrt(mu)))) + 200
	// Probabilities are exp(-mu) I_k(mu); I_{k-1} = I_{k+1} + (2k/mu) I_k, begun
	// far in the tail (Miller), and their sum is one, so that no exponential is
	// needed. Twice from the tail down: for the sum, and for the table.
	start := most + 60
	number := func() *big.Float { return new(big.Float).SetPrec(precision) }
	twoOver := number().Quo(number().SetInt64(2), number().SetFloat64(mu))
	fall := func(visit func(k int, p *big.Float)) {
		above, at, next, f := number(), number().SetMantExp(big.NewFloat(1), -4000), number(), number()
		for k := start; ; k-- {
			visit(k, at)
			if k == 0 {
				return
			}
			f.SetInt64(int64(k))
			f.Mul(f, twoOver)
			f.Mul(f, at)
			next.Add(above, f)
			above, at, next = at, next, above
		}
	}
	sum := number()
	fall(func(k int, p *big.Float) {
		if sum.Add(sum, p); k > 0 {
			sum.Add(sum, p) // both signs
		}
	})
	scale := number().SetMantExp(big.NewFloat(1), 128)
	scale.Quo(scale, sum)
	s := &Skellam{mu: mu, cum: make([]word, most+1)}
	tail, rest := number(), number() // P(|X| > k), and what is left of the sum
	mask := new(big.Int).SetUint64(math.MaxUint64)
	hi, lo := new(big.Int), new(big.Int)
	fall(func(k int, p *big.Float) {
		if k <= most {
			rest.Sub(sum, tail)
			rest.Mul(rest, scale)
			lo, _ = rest.Int(lo)
			s.cum[k] = word{hi.Rsh(lo, 64).Uint64(), lo.And(lo, mask).Uint64()}
			if hi.BitLen() > 64 || k == most {
				s.cum[k] = word{math.MaxUint64, math.MaxUint64}
			}
		}
		tail.Add(tail, p)
		tail.Add(tail, p)
	})
	return s, nil
}

// Source is a stream of uniform 64-bit words, keyed so that nobody else can
// run it.
type Source = *rand.ChaCha8

// Draw is the next integer. Its time depends on the table's length only.
func (s *Skellam) Draw(src Source) int64 {
	u := word{src.Uint64(), src.Uint64()}
	sign := src.Uint64() & 1
	// The magnitude is the number of cumulated probabilities at or below u.
	lo, n := 0, len(s.cum)
	for steps := bits.Len(uint(n)); steps > 0; steps-- {
		mid := lo + (n-lo)/2
		if mid < n && !u.below(s.cum[mid]) {
			lo = mid + 1
		} else {
			n = mid
		}
	}
	k := int64(min(lo, len(s.cum)-1))
	if sign == 1 {
		return -k
	}
	return k
}
