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

// MaxMu bounds the variance whose table is built.
const MaxMu = 0x1p40

const precision = 256 // bits of the recurrence

// NewSkellam builds the table of a variance.
func NewSkellam(mu float64) (*Skellam, error) {
	if !(mu > 0) || mu > MaxMu {
		return nil, fmt.Errorf("dp: noise of variance %v, want above 0 and at most 2^40", mu)
	}
	// Past this the tail is below 2^-120 (Chernoff for sub-exponential sums).
	most := int(math.Ceil(float64(14*math.Sqrt(mu)))) + 200
	// Probabilities are exp(-mu) I_k(mu); I_{k-1} = I_{k+1} + (2k/mu) I_k, begun
	// far in the tail (Miller), and their sum is one, so that no exponential is
	// needed.
	start := most + 60
	twoOver := new(big.Float).SetPrec(precision).Quo(new(big.Float).SetPrec(precision).SetInt64(2), new(big.Float).SetPrec(precision).SetFloat64(mu))
	p := make([]*big.Float, start+2)
	p[start+1] = new(big.Float).SetPrec(precision)
	p[start] = new(big.Float).SetPrec(precision).SetMantExp(big.NewFloat(1), -4000)
	f := new(big.Float).SetPrec(precision)
	for k := start; k > 0; k-- {
		f.SetInt64(int64(k))
		f.Mul(f, twoOver)
		f.Mul(f, p[k])
		p[k-1] = new(big.Float).SetPrec(precision).Add(p[k+1], f)
	}
	sum := new(big.Float).SetPrec(precision)
	for k := start; k > 0; k-- {
		sum.Add(sum, p[k])
	}
	sum.Add(sum, sum)
	sum.Add(sum, p[0])
	scale := new(big.Float).SetPrec(precision).SetMantExp(big.NewFloat(1), 128)
	scale.Quo(scale, sum)
	s := &Skellam{mu: mu}
	at := new(big.Float).SetPrec(precision)
	top := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 128), big.NewInt(1))
	for k := 0; k <= most; k++ {
		q := new(big.Float).SetPrec(precision).Mul(p[k], scale)
		if k > 0 {
			q.Add(q, q) // both signs
		}
		at.Add(at, q)
		i, _ := at.Int(nil)
		if i.Cmp(top) > 0 || k == most {
			i = top
		}
		s.cum = append(s.cum, word{new(big.Int).Rsh(i, 64).Uint64(), i.Uint64()})
	}
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
