package party

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/tuneinsight/lattigo/v5/core/rlwe"
	"github.com/tuneinsight/lattigo/v5/he/heint"
	"github.com/tuneinsight/lattigo/v5/mhe"
	"github.com/tuneinsight/lattigo/v5/ring"
	"github.com/tuneinsight/lattigo/v5/utils/sampling"

	"consilium"
	"consilium/he"
)

// textbook sums vectors with lattigo's own threshold protocol over BGV: a
// collective public key, Shamir-shared secret keys, and a key switch of the
// summed ciphertext by t of the parties. It is here to disagree with: nothing
// of it is used outside tests.
type textbook struct {
	p      heint.Parameters
	points []mhe.ShamirPublicPoint
	shares []mhe.ShamirSecretShare
	pk     *rlwe.PublicKey
	t      int
}

const textbookModulus = 0x3ee0001 // 26 bits, 1 mod 2^17

func newTextbook(t *testing.T, logN, n, threshold int) *textbook {
	t.Helper()
	p, err := heint.NewParametersFromLiteral(heint.ParametersLiteral{LogN: logN, LogQ: []int{54, 54}, LogP: []int{55}, PlaintextModulus: textbookModulus})
	if err != nil {
		t.Fatal(err)
	}
	b := &textbook{p: p, t: threshold}
	prng, err := sampling.NewKeyedPRNG([]byte("oracle"))
	if err != nil {
		t.Fatal(err)
	}
	ckg, thr, kgen := mhe.NewPublicKeyGenProtocol(p), mhe.NewThresholdizer(p), rlwe.NewKeyGenerator(p)
	crp := ckg.SampleCRP(prng)
	sum := ckg.AllocateShare()
	for i := range n {
		b.points = append(b.points, mhe.ShamirPublicPoint(i+1))
		b.shares = append(b.shares, thr.AllocateThresholdSecretShare())
	}
	for range n {
		sk := kgen.GenSecretKeyNew()
		share := ckg.AllocateShare()
		ckg.GenShare(sk, crp, &share)
		ckg.AggregateShares(share, sum, &sum)
		poly, err := thr.GenShamirPolynomial(threshold, sk)
		if err != nil {
			t.Fatal(err)
		}
		for j, point := range b.points {
			s := thr.AllocateThresholdSecretShare()
			thr.GenShamirSecretShare(point, poly, &s)
			if err := thr.AggregateShares(b.shares[j], s, &b.shares[j]); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.pk = rlwe.NewPublicKey(p)
	ckg.GenPublicKey(sum, crp, b.pk)
	return b
}

func (b *textbook) sum(t *testing.T, vectors [][]int32) []int64 {
	t.Helper()
	ecd, enc, eval := heint.NewEncoder(b.p), rlwe.NewEncryptor(b.p, b.pk), heint.NewEvaluator(b.p, nil)
	out := make([]int64, 0, len(vectors[0]))
	for at := 0; at < len(vectors[0]); at += b.p.MaxSlots() {
		var acc *rlwe.Ciphertext
		end := min(at+b.p.MaxSlots(), len(vectors[0]))
		for _, v := range vectors {
			slots := make([]int64, end-at)
			for i, x := range v[at:end] {
				slots[i] = int64(x)
			}
			pt := heint.NewPlaintext(b.p, b.p.MaxLevel())
			if err := ecd.Encode(slots, pt); err != nil {
				t.Fatal(err)
			}
			ct, err := enc.EncryptNew(pt)
			if err != nil {
				t.Fatal(err)
			}
			if acc == nil {
				acc = ct
			} else if err := eval.Add(acc, ct, acc); err != nil {
				t.Fatal(err)
			}
		}
		cks, err := mhe.NewKeySwitchProtocol(b.p, ring.DiscreteGaussian{Sigma: 1 << 20, Bound: 6 << 20})
		if err != nil {
			t.Fatal(err)
		}
		zero := rlwe.NewSecretKey(b.p)
		active := b.points[len(b.points)-b.t:]
		total := cks.AllocateShare(acc.Level())
		for _, own := range active {
			var others []mhe.ShamirPublicPoint
			for _, x := range active {
				if x != own {
					others = append(others, x)
				}
			}
			cmb := mhe.NewCombiner(*b.p.GetRLWEParameters(), own, others, b.t)
			sk := rlwe.NewSecretKey(b.p)
			if err := cmb.GenAdditiveShare(active, own, b.shares[own-1], sk); err != nil {
				t.Fatal(err)
			}
			share := cks.AllocateShare(acc.Level())
			cks.GenShare(sk, zero, acc, &share)
			if err := cks.AggregateShares(share, total, &total); err != nil {
				t.Fatal(err)
			}
		}
		res := rlwe.NewCiphertext(b.p, 1, acc.Level())
		cks.KeySwitch(acc, total, res)
		slots := make([]int64, b.p.MaxSlots())
		if err := ecd.Decode(rlwe.NewDecryptor(b.p, zero).DecryptNew(res), slots); err != nil {
			t.Fatal(err)
		}
		out = append(out, slots[:end-at]...)
	}
	return out
}

// TestAgainstTheTextbook: both protocols give the identical integers.
func TestAgainstTheTextbook(t *testing.T) {
	for _, c := range []struct{ logN, lanes, n, threshold int }{{12, 5000, 3, 3}, {12, 3000, 7, 5}, {13, 70000, 4, 4}} {
		if raceEnabled && c.logN > 12 {
			continue
		}
		t.Run(fmt.Sprintf("n%d", c.n), func(t *testing.T) {
			t.Parallel()
			p := mustProfile(t, c.logN, 16, 16)
			f := newFederation(t, p, c.lanes, c.n, c.threshold)
			r := rand.New(rand.NewPCG(6, uint64(c.n)))
			u := positions(c.n)
			for i, pos := range u {
				f.contribute(t, pos, fill(c.lanes, 16, i, r))
			}
			got, err := f.open(u, f.openings(t, u, u[:c.threshold]), f.sum(t, u))
			if err != nil {
				t.Fatal(err)
			}
			equal(t, got, newTextbook(t, c.logN, c.n, c.threshold).sum(t, f.vectors))
			equal(t, got, f.plain(u))
		})
	}
}

// TestForeignBytes: what kills a process that gives it to lattigo's decoders (a
// truncated or hostile message makes them overflow the stack or fill the
// memory, which recover cannot catch) is an ordinary error here. The decoders
// are not run: the point is that nothing of a peer's reaches them.
func TestForeignBytes(t *testing.T) {
	b := newTextbook(t, 12, 3, 3)
	ct := rlwe.NewCiphertext(b.p, 1, b.p.MaxLevel())
	whole, err := ct.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	p, _ := he.Choose(10, 16, 3)
	f := newFederation(t, p, 10, 3, 3)
	f.contribute(t, 1, make([]int32, 10))
	hostile := bytes.Clone(whole)
	for i := range 64 {
		hostile[i] = 0xff // lengths of 2^64-1
	}
	for name, x := range map[string][]byte{"whole": whole, "truncated": whole[:len(whole)/2], "its head": whole[:40], "hostile lengths": hostile, "nothing": nil} {
		if _, err := he.Check(p, 10, bytes.NewReader(x)); err == nil {
			t.Errorf("%s: Check accepts", name)
		}
		if _, err := OpenBox(p, 10, 3, 3, f.at(1), f.bodies[0], 1, x, f.keys[0]); err == nil {
			t.Errorf("%s: OpenBox accepts a box", name)
		}
		if _, err := OpenBox(p, 10, 3, 3, f.at(1), x, 1, f.boxes[0][0], f.keys[0]); err == nil {
			t.Errorf("%s: OpenBox accepts a header", name)
		}
		if _, err := UnsealOpening(p, f.group, f.at(1), consilium.Digest{}, x); err == nil {
			t.Errorf("%s: UnsealOpening accepts", name)
		}
		if _, err := ParseKeyShare(p, x); err == nil {
			t.Errorf("%s: ParseKeyShare accepts", name)
		}
		if _, err := ParseGroupKey(x); err == nil {
			t.Errorf("%s: ParseGroupKey accepts", name)
		}
	}
}
