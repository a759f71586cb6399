package party

import (
	"context"
	"encoding/binary"
	"io"
	"math"
	"math/big"
	"slices"
	"strings"
	"testing"

	"consilium"
	"consilium/he"
)

// bigExp is e^-x to 300 bits, by its series on x/2^k.
func bigExp(x *big.Float) *big.Float {
	const k = 12
	y := new(big.Float).SetPrec(400).SetMantExp(x, -k)
	y.Neg(y)
	term, sum := new(big.Float).SetPrec(400).SetInt64(1), new(big.Float).SetPrec(400).SetInt64(1)
	for i := int64(1); i < 60; i++ {
		term.Mul(term, y).Quo(term, new(big.Float).SetInt64(i))
		sum.Add(sum, term)
	}
	for range k {
		sum.Mul(sum, sum)
	}
	return sum
}

// exactGaussian returns the probabilities of 0, ±1, ±2 … (both signs
// together) under the discrete Gaussian of the round key.
func exactGaussian() []*big.Float {
	rho := make([]*big.Float, 130)
	total := new(big.Float).SetPrec(400)
	for k := range rho {
		x := new(big.Float).SetPrec(400).SetInt64(int64(k * k * 100)) // k²/(2·20.48) = 100k²/4096
		rho[k] = bigExp(x.Quo(x, new(big.Float).SetInt64(4096)))
		if k > 0 {
			rho[k].Mul(rho[k], big.NewFloat(2))
		}
		total.Add(total, rho[k])
	}
	for k := range rho {
		rho[k].Quo(rho[k], total)
	}
	return rho
}

// TestGaussianTable recomputes every entry, and that nothing is cut which 63
// bits could show.
func TestGaussianTable(t *testing.T) {
	if d := math.Abs(keyVariance - 20.48); d > 1e-12 {
		t.Fatalf("variance %v", float64(keyVariance))
	}
	rho := exactGaussian()
	cum := new(big.Float).SetPrec(400)
	one := new(big.Float).SetPrec(400).SetMantExp(big.NewFloat(1), 63)
	for k := range gaussCDT {
		cum.Add(cum, rho[k])
		want, _ := new(big.Float).SetPrec(400).Mul(cum, one).Int(nil)
		if d := new(big.Int).Sub(want, new(big.Int).SetUint64(gaussCDT[k])); d.CmpAbs(big.NewInt(1)) > 0 {
			t.Errorf("entry %d: %#x, want %#x", k, gaussCDT[k], want)
		}
	}
	rest := new(big.Float).Sub(big.NewFloat(1).SetPrec(400), cum)
	rest.Sub(rest, rho[len(gaussCDT)])
	if f, _ := rest.Float64(); f > math.Ldexp(1, -64) {
		t.Errorf("beyond the tail cut lies %g", f)
	}
	if noiseOffset <= tailCut {
		t.Errorf("noise of magnitude %d does not stay positive over an offset of %d", tailCut, noiseOffset)
	}
}

// TestGaussianEdges: the sample changes exactly at the table's entries.
func TestGaussianEdges(t *testing.T) {
	for k, v := range gaussCDT {
		if got := gaussian(v - 1); got != int64(k) {
			t.Errorf("just below entry %d: %d", k, got)
		}
		if got := gaussian(v); got != int64(k+1) {
			t.Errorf("at entry %d: %d", k, got)
		}
		if got := gaussian(v | 1<<63); got != -int64(k+1) {
			t.Errorf("at entry %d with sign: %d", k, got)
		}
	}
	if gaussian(0) != 0 || gaussian(1<<63) != 0 || gaussian(1<<63-1) != int64(tailCut) {
		t.Error("ends of the table")
	}
}

// TestGaussiansAreGaussian: four at a time or one by one, the sample is the same
// function of the stream.
func TestGaussiansAreGaussian(t *testing.T) {
	var s stream
	for i := range len(s.buf) / 8 {
		u := gaussCDT[i%len(gaussCDT)] + uint64(i/len(gaussCDT)%3) - 1
		binary.LittleEndian.PutUint64(s.buf[8*i:], u|uint64(i&1)<<63)
	}
	for _, n := range []int{1, 3, 4, 7, 41, 123, len(s.buf) / 8} {
		v := make([]int64, n)
		s.off = 0
		s.gaussians(v)
		for i, x := range v {
			if want := gaussian(binary.LittleEndian.Uint64(s.buf[8*i:])); x != want {
				t.Fatalf("sample %d of %d: %d, want %d", i, n, x, want)
			}
		}
	}
}

// TestGaussianSamples compares 2^21 samples of one fixed stream with the exact
// probabilities. The chi-square statistic over the 41 values of magnitude at
// most 20 (each expected at least 10 times) and the rest has 41 degrees of
// freedom: a right sampler exceeds 90 with probability below 2e-5. The stream
// is fixed, so the test passes always or never.
func TestGaussianSamples(t *testing.T) {
	const n = 1 << 21
	k := consilium.DomainRoundKey.Digest([]byte("samples"))
	var s stream
	s.open(newBlock((*[32]byte)(&k)), 0)
	v := make([]int64, 4096)
	count := map[int64]int{}
	var sum, square float64
	for range n / len(v) {
		s.gaussians(v)
		for _, x := range v {
			count[x]++
			sum += float64(x)
			square += float64(x * x)
		}
	}
	rho := exactGaussian()
	chi, rest, seen := 0.0, 1.0, 0
	for x := int64(-20); x <= 20; x++ {
		p, _ := rho[max(x, -x)].Float64()
		if x != 0 {
			p /= 2
		}
		rest -= p
		seen += count[x]
		e := p * n
		chi += (float64(count[x]) - e) * (float64(count[x]) - e) / e
	}
	e := rest * n
	chi += (float64(n-seen) - e) * (float64(n-seen) - e) / e
	if chi > 90 {
		t.Errorf("chi-square %.1f over 41 degrees of freedom", chi)
	}
	// Mean: standard error sigma/sqrt(n). Variance: sqrt(2/n) relative.
	if m := sum / n; math.Abs(m) > 5*math.Sqrt(keyVariance/n) {
		t.Errorf("mean %v", m)
	}
	if r := square / n / keyVariance; math.Abs(r-1) > 5*math.Sqrt(2.0/n) {
		t.Errorf("variance is %v of what it should be", r)
	}
	// lattigo's sampler, which rounds a continuous normal, has a variance
	// larger by 1/12, four standard errors from ours.
	if r := square / n; math.Abs(r-20.48) > math.Abs(r-(20.48+1.0/12)) {
		t.Errorf("variance %v is nearer to a rounded normal's", r)
	}
}

// TestNoiseOfASum: the noise of an opened sum of n contributions has variance
// n·sigma², no less (or the keys are weaker than claimed) and no more (or lanes
// break). Relative standard error of the variance over M coefficients is
// sqrt(2/M); five of them are allowed.
func TestNoiseOfASum(t *testing.T) {
	p := mustProfile(t, 11, 16, 16)
	for _, n := range []int{2, 5, 16} {
		f := newFederation(t, p, 1, n, 2)
		e, err := engineFor(p)
		if err != nil {
			t.Fatal(err)
		}
		l := &e.limbs[0]
		s := make([]int64, p.N())
		const chunks = 20
		sums := make([][]uint64, chunks)
		for _, pos := range positions(n) {
			in := f.encryption(t, pos, []int32{int32(pos)})
			seed := consilium.DomainSeed.Digest([]byte{byte(pos), byte(n)})
			in.Seed = &Seed{secret{seed}}
			addKey(s, in)
			k := in.Seed.sub(p, in.At, "error")
			rk, slot := e.newKey(keyOf(in)), e.newSlot(false)
			v := make([]uint64, p.N())
			for j := range chunks {
				e.encrypt(slot, rk, newBlock(&k), maskBlock(p.Encode(), in.At, f.state, j), j)
				if !he.UnpackLimb(v, slot.bytes, l.width, l.q) {
					t.Fatal("not reduced")
				}
				if sums[j] == nil {
					sums[j] = make([]uint64, p.N())
				}
				for c, x := range v {
					sums[j][c] = (sums[j][c] + x) % l.q
				}
			}
		}
		rk := (&engine{p: p, limbs: e.limbs}).newKey(s) // in Montgomery form
		var square float64
		a := make([]uint64, p.N())
		for j := range chunks {
			var r stream
			r.open(maskBlock(p.Encode(), f.at(1), f.state, j), 0)
			r.uniform(a, l.q, l.width)
			l.ring.MulCoeffsMontgomery(a, rk[0], a)
			l.ring.Sub(sums[j], a, a)
			l.ring.INTT(a, a)
			for _, x := range a {
				v := int64(x)
				if x > l.q/2 {
					v -= int64(l.q)
				}
				square += float64(v * v)
			}
		}
		m := float64(chunks * p.N())
		if r := square / m / (float64(n) * keyVariance); math.Abs(r-1) > 5*math.Sqrt(2/m) {
			t.Errorf("n = %d: variance is %.4f of n·sigma²", n, r)
		}
	}
}

// TestEvaluations checks encrypt against the definition, without any
// transform: at the point psi^(2·rev(i)+1) the ciphertext is
// a_i·s(point) + message(point), with big integers. psi is the one the ring
// derives from its smallest generator; vectors in testdata pin it.
func TestEvaluations(t *testing.T) {
	for _, p := range []he.Profile{mustProfile(t, 11, 16, 16), mustProfile(t, 12, 24, 64), mustProfile(t, 13, 16, 16)} {
		f := newFederation(t, p, 100, 3, 3)
		in := f.encryption(t, 1, fill(100, p.Bits, 2, nil))
		e, err := engineFor(p)
		if err != nil {
			t.Fatal(err)
		}
		s, slot := keyOf(in), e.newSlot(false)
		for i := range slot.lanes {
			slot.lanes[i] = uint32(i*i) % (1 << p.Bits)
		}
		k := in.Seed.sub(p, in.At, "error")
		e.encrypt(slot, e.newKey(s), newBlock(&k), maskBlock(p.Encode(), in.At, f.state, 3), 3)
		noise := make([]int64, p.N())
		var er stream
		er.open(newBlock(&k), 3)
		er.gaussians(noise)
		b := slot.bytes
		for i := range e.limbs {
			l := &e.limbs[i]
			got, a := make([]uint64, p.N()), make([]uint64, p.N())
			buf := he.LimbBuffer(p.LimbSize(i))
			copy(buf, b)
			b = b[p.LimbSize(i):]
			he.UnpackLimb(got, buf, l.width, l.q)
			var r stream
			r.open(maskBlock(p.Encode(), in.At, f.state, 3), uint64(i))
			r.uniform(a, l.q, l.width)
			q := new(big.Int).SetUint64(l.q)
			psi := new(big.Int).Exp(new(big.Int).SetUint64(l.ring.PrimitiveRoot), big.NewInt(int64((l.q-1)/uint64(2*p.N()))), q)
			for _, c := range []int{0, 1, 2, p.N() / 2, p.N() - 1} {
				rev := 0
				for bit := range p.LogN {
					rev |= c >> bit & 1 << (p.LogN - 1 - bit)
				}
				x := new(big.Int).Exp(psi, big.NewInt(int64(2*rev+1)), q)
				key, msg := new(big.Int), new(big.Int)
				for j := p.N() - 1; j >= 0; j-- {
					key.Mul(key, x).Add(key, big.NewInt(s[j])).Mod(key, q)
					m := new(big.Int)
					for lane := p.K - 1; lane >= 0; lane-- {
						m.Lsh(m, uint(p.W)).Add(m, big.NewInt(int64(slot.lanes[j*p.K+lane])))
					}
					m.Lsh(m, uint(p.Delta)).Add(m, big.NewInt(noise[j]))
					msg.Mul(msg, x).Add(msg, m).Mod(msg, q)
				}
				want := key.Mul(key, new(big.Int).SetUint64(a[c]))
				want.Add(want, msg).Mod(want, q)
				if want.Uint64() != got[c] {
					t.Fatalf("logN %d, limb %d, point %d: %d, want %d", p.LogN, i, c, got[c], want)
				}
			}
		}
	}
}

// TestSourceInPieces: a source may return its lanes in pieces of any size.
func TestSourceInPieces(t *testing.T) {
	for _, lanes := range []int{3000, 70001} {
		p, err := he.Choose(lanes, 16, 3)
		if err != nil {
			t.Fatal(err)
		}
		f := newFederation(t, p, lanes, 3, 3)
		v := fill(lanes, 16, 2, nil)
		in := f.encryption(t, 1, v)
		whole, err := Contribute(context.Background(), in, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		again := *in
		again.Source = &trickle{v: v}
		pieces, err := Contribute(context.Background(), &again, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if whole.Ciphertext != pieces.Ciphertext {
			t.Errorf("%d lanes: the pieces in which lanes come change the ciphertext", lanes)
		}
		for _, at := range []int{0, 15, lanes - 1} {
			for _, x := range []int32{1 << 15, -1<<15 - 1} {
				wrong := slices.Clone(v)
				wrong[at] = x
				src := Lanes(wrong)
				again.Source = &src
				if _, err := Contribute(context.Background(), &again, io.Discard); err == nil || !strings.Contains(err.Error(), "does not fit") {
					t.Errorf("%d lanes, %d at %d: %v", lanes, x, at, err)
				}
			}
		}
	}
}

type trickle struct {
	v []int32
	n int
}

func (s *trickle) Read(lanes []int32) (int, error) {
	if len(s.v) == 0 {
		return 0, io.EOF
	}
	s.n = s.n%97 + 1
	n := copy(lanes, s.v[:min(s.n, len(s.v))])
	s.v = s.v[n:]
	if len(s.v) == 0 {
		return n, io.EOF
	}
	return n, nil
}
