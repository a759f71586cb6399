package he

import (
	"fmt"
	"go/token"
	"go/types"
	"math/big"
	"math/bits"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/tuneinsight/lattigo/v5/ring"

	"consilium"
)

// TestTable recomputes everything the table promises. The last part makes each
// profile one bit wider, in every way there is, and wants it refused: a test
// that cannot fail would not protect the table.
func TestTable(t *testing.T) {
	seen := map[[3]int]bool{}
	for _, p := range Profiles() {
		key := [3]int{p.LogN, p.Bits, p.MaxN}
		if seen[key] {
			t.Errorf("%v stands twice", key)
		}
		seen[key] = true
		if err := p.check(); err != nil {
			t.Errorf("%v: %v", key, err)
		}
		if err := p.Validate(); err != nil {
			t.Errorf("%v: %v", key, err)
		}
		for i, q := range p.Primes {
			if !new(big.Int).SetUint64(q).ProbablyPrime(40) || q%(2<<p.LogN) != 1 {
				t.Errorf("%v: %#x is not a prime that is 1 mod 2N", key, q)
			}
			if bits.Len64(q) > 60 {
				t.Errorf("%v: %#x is too long for the lazy arithmetic", key, q)
			}
			if slices.Contains(p.Primes[:i], q) {
				t.Errorf("%v: %#x stands twice", key, q)
			}
			// The largest of its size that is not yet used.
			for x := uint64(1)<<bits.Len64(q) - 2<<p.LogN + 1; x > q; x -= 2 << p.LogN {
				if ring.IsPrime(x) && !slices.Contains(p.Primes, x) {
					t.Errorf("%v: %#x is larger than %#x", key, x, q)
					break
				}
			}
		}
		// Noise of MaxN errors within nine standard deviations lies below
		// 2^(Delta-1): 81·20.48·MaxN < 2^(2·Delta-2).
		if 81*20.48*float64(p.MaxN) >= float64(uint64(1)<<(2*p.Delta-2)) {
			t.Errorf("%v: %d bits do not hold the noise of %d hospitals", key, p.Delta, p.MaxN)
		}
		// Nine standard deviations of a summed key fit ten bits with sign.
		if 81*20.48*float64(p.MaxN) >= 1<<18 {
			t.Errorf("%v: a summed key does not fit ten bits", key)
		}
		if p.OpeningSize() > consilium.MaxOpeningSize || p.BoxSize() > consilium.MaxBoxSize || p.CheckSize(p.MaxN) > consilium.MaxCheckSize {
			t.Errorf("%v: opening %d, box %d, check %d bytes", key, p.OpeningSize(), p.BoxSize(), p.CheckSize(p.MaxN))
		}

		slackBits := 0 // how many bits the moduli exceed the rule by
		q := big.NewInt(1)
		for _, m := range p.Primes {
			q.Mul(q, new(big.Int).SetUint64(m))
		}
		slackBits = q.BitLen() - 1 - (p.W*p.K + p.Delta + 1)
		for name, change := range map[string]func(*Profile){
			"a wider noise":      func(p *Profile) { p.Delta += slackBits + 1 },
			"a lane more":        func(p *Profile) { p.K += slackBits/p.W + 1 },
			"twice as many":      func(p *Profile) { p.MaxN *= 2 },
			"a bit more a lane":  func(p *Profile) { p.Bits++ },
			"a larger modulus":   func(p *Profile) { p.Primes = append(p.Primes, 1<<(logQLimit[p.LogN]-q.BitLen()+2)) },
			"the ring below":     func(p *Profile) { p.LogN-- },
			"an unlisted number": func(p *Profile) { p.Primes[0]++ },
		} {
			bad := p
			bad.Primes = slices.Clone(p.Primes)
			change(&bad)
			if bad.Validate() == nil {
				t.Errorf("%v with %s: accepted", key, name)
			}
			switch name {
			case "an unlisted number":
			case "the ring below":
				// Only a table that fills the ring fails here: at logN 11 and
				// 12 small moduli would be safe below as well.
				if p.LogN > 13 && bad.check() == nil {
					t.Errorf("%v with %s: the rule holds", key, name)
				}
			default:
				if bad.check() == nil {
					t.Errorf("%v with %s: the rule holds", key, name)
				}
			}
		}
	}
	if len(seen) != 24 {
		t.Errorf("%d profiles", len(seen))
	}
}

// TestGate: every profile of the table stands in gate.go, where the compiler
// refuses it if it is one bit over. The lines are compiled here as they stand,
// and again with one bit more, which must not compile.
func TestGate(t *testing.T) {
	source, err := os.ReadFile("gate.go")
	if err != nil {
		t.Fatal(err)
	}
	builds := func(expr string) bool {
		_, err := types.Eval(token.NewFileSet(), nil, token.NoPos, expr)
		return err == nil
	}
	lines := 0
	for _, p := range Profiles() {
		var primes []string
		for _, q := range p.Primes {
			primes = append(primes, fmt.Sprintf("%#x", q))
		}
		q := strings.Join(primes, "*")
		product := big.NewInt(1)
		for _, m := range p.Primes {
			product.Mul(product, new(big.Int).SetUint64(m))
		}
		room := fmt.Sprintf("uint64((%s)>>(%d*%d+%d+1) - 1)", q, p.W, p.K, p.Delta)
		limit := fmt.Sprintf("uint64(0 - (%s)>>%d)", q, logQLimit[p.LogN])
		for _, line := range []string{room, limit} {
			lines++
			if !strings.Contains(string(source), "\t_ = "+line+"\n") {
				t.Errorf("gate.go lacks: _ = %s", line)
			}
			if !builds(line) {
				t.Errorf("does not build: %s", line)
			}
		}
		over := product.BitLen() - 1 - (p.W*p.K + p.Delta + 1) + 1 // one bit more than there is room for
		if builds(fmt.Sprintf("uint64((%s)>>(%d*%d+%d+1) - 1)", q, p.W, p.K, p.Delta+over)) {
			t.Errorf("%d bits over the noise of logN %d build", over, p.LogN)
		}
		if builds(fmt.Sprintf("uint64(0 - (%s)>>%d)", q, product.BitLen()-1)) {
			t.Errorf("a modulus at the limit of logN %d builds", p.LogN)
		}
	}
	if got := strings.Count(string(source), "\t_ = "); got != lines {
		t.Errorf("gate.go has %d lines, the table makes %d", got, lines)
	}
}

func TestChoose(t *testing.T) {
	for _, c := range []struct{ lanes, bits, n, logN, maxN int }{
		{1, 16, 3, 11, 16},
		{4096 - TagLanes, 16, 16, 11, 16},
		{4097 - TagLanes, 16, 16, 12, 16},
		{4096, 16, 17, 12, 64},
		{2048, 24, 128, 12, 128},
		{65536 - TagLanes, 16, 13, 13, 16},
		{65537 - TagLanes, 16, 13, 13, 16}, // two chunks of the default are smaller than one of logN 14
		{300000, 16, 13, 14, 16},           // five are not
		{1e8, 16, 13, 13, 16},
		{1e8, 24, 100, 13, 128},
	} {
		p, err := Choose(c.lanes, c.bits, c.n)
		if err != nil || p.LogN != c.logN || p.MaxN != c.maxN || p.Bits != c.bits {
			t.Errorf("Choose(%d, %d, %d) = logN %d, max %d, %v; want %d, %d", c.lanes, c.bits, c.n, p.LogN, p.MaxN, err, c.logN, c.maxN)
		}
	}
	for _, c := range []struct{ lanes, bits, n int }{{0, 16, 3}, {-1, 16, 3}, {10, 17, 3}, {10, 32, 3}, {10, 16, 0}, {10, 16, 129}, {MaxLanes + 1, 16, 3}} {
		if p, err := Choose(c.lanes, c.bits, c.n); err == nil {
			t.Errorf("Choose(%d, %d, %d) = %+v", c.lanes, c.bits, c.n, p)
		}
	}
	// The caller's copy is the caller's.
	p, _ := Choose(1, 16, 3)
	p.Primes[0] = 1
	if q, _ := Choose(1, 16, 3); q.Validate() != nil {
		t.Error("Choose hands out the table itself")
	}
}

// TestBytesPerLane holds the page's promise on upload size.
func TestBytesPerLane(t *testing.T) {
	for _, c := range []struct {
		bits, n int
		most    float64
	}{{16, 16, 2.70}, {16, 64, 2.95}, {16, 128, 3.2}, {24, 16, 3.77}, {24, 64, 4.02}, {24, 128, 4.2}} {
		p, err := Choose(1e8, c.bits, c.n)
		if err != nil {
			t.Fatal(err)
		}
		if b := float64(p.Size(1e8)) / 1e8; b > c.most {
			t.Errorf("%d bit, %d hospitals: %.3f bytes a lane, want at most %.2f", c.bits, c.n, b, c.most)
		}
	}
}

func TestSizesAddUp(t *testing.T) {
	for _, p := range Profiles() {
		n := 0
		for i := range p.Primes {
			n += p.LimbSize(i)
		}
		if n != p.ChunkSize() || p.Size(p.ChunkLanes()-TagLanes) != uint64(n) || p.Size(p.ChunkLanes()-TagLanes+1) != uint64(2*n) {
			t.Errorf("logN %d, %d bits: chunk of %d bytes, Size %d and %d", p.LogN, p.Bits, n, p.Size(p.ChunkLanes()-TagLanes), p.Size(p.ChunkLanes()-TagLanes+1))
		}
	}
}
