package party

import (
	"bytes"
	"context"
	"fmt"
	"io"
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

// textbookModulus holds a sum of 128 lanes of 24 bits: 33 bits, 1 mod 2^17.
const textbookModulus = 0x1fff60001

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

// encrypt puts up to as many lanes as there are slots into a ciphertext.
func (b *textbook) encrypt(t *testing.T, lanes []int32) *rlwe.Ciphertext {
	t.Helper()
	slots := make([]int64, len(lanes))
	for i, x := range lanes {
		slots[i] = int64(x)
	}
	pt := heint.NewPlaintext(b.p, b.p.MaxLevel())
	if err := heint.NewEncoder(b.p).Encode(slots, pt); err != nil {
		t.Fatal(err)
	}
	ct, err := rlwe.NewEncryptor(b.p, b.pk).EncryptNew(pt)
	if err != nil {
		t.Fatal(err)
	}
	return ct
}

// open switches a sum to the zero key with the shares of the last t parties.
func (b *textbook) open(t *testing.T, acc *rlwe.Ciphertext, lanes int) []int64 {
	t.Helper()
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
	if err := heint.NewEncoder(b.p).Decode(rlwe.NewDecryptor(b.p, zero).DecryptNew(res), slots); err != nil {
		t.Fatal(err)
	}
	return slots[:lanes]
}

func (b *textbook) add(t *testing.T, acc, ct *rlwe.Ciphertext) *rlwe.Ciphertext {
	t.Helper()
	if acc == nil {
		return ct
	}
	if err := heint.NewEvaluator(b.p, nil).Add(acc, ct, acc); err != nil {
		t.Fatal(err)
	}
	return acc
}

func (b *textbook) sum(t *testing.T, vectors [][]int32) []int64 {
	t.Helper()
	out := make([]int64, 0, len(vectors[0]))
	for at := 0; at < len(vectors[0]); at += b.p.MaxSlots() {
		var acc *rlwe.Ciphertext
		end := min(at+b.p.MaxSlots(), len(vectors[0]))
		for _, v := range vectors {
			acc = b.add(t, acc, b.encrypt(t, v[at:end]))
		}
		out = append(out, b.open(t, acc, end-at)...)
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

// TestEverySum: for every profile and every number of contributions that it
// holds, 2 to 128, the opened integers are the plain sums and the textbook
// protocol's, bit for bit. Contribution and key of hospital n are added to the
// sums of the first n-1, so every n is a sum of n real contributions; the sum
// over n readers at once is TestSumIsModular's and TestFullHouse's.
func TestEverySum(t *testing.T) {
	if raceEnabled {
		return // arithmetic of one goroutine
	}
	const lanes, most = 300, 128
	vectors, want := map[int][][]int32{}, map[int][][]int64{}
	b := newTextbook(t, 12, 3, 2)
	for _, bits := range []int{16, 24} {
		r := rand.New(rand.NewPCG(7, uint64(bits)))
		var acc *rlwe.Ciphertext
		plain := make([]int64, lanes)
		for n := range most {
			// In front the extremes and the alternation, then random lanes.
			v := fill(lanes, bits, 3, r)
			for i := range 30 {
				v[i] = []int32{-1 << (bits - 1), 1<<(bits-1) - 1, int32(n%2)*(1<<bits-1) - 1<<(bits-1)}[i%3]
			}
			for i, x := range v {
				plain[i] += int64(x)
			}
			acc = b.add(t, acc, b.encrypt(t, v))
			vectors[bits] = append(vectors[bits], v)
			want[bits] = append(want[bits], b.open(t, acc, lanes))
			equal(t, want[bits][n], plain)
		}
	}
	for _, p := range he.Profiles() {
		t.Run(fmt.Sprintf("logN%d/%dbit/max%d", p.LogN, p.Bits, p.MaxN), func(t *testing.T) {
			t.Parallel()
			f := newFederation(t, p, lanes, 3, 3)
			e, err := engineFor(p)
			if err != nil {
				t.Fatal(err)
			}
			s, total := make([]int64, p.N()), []byte(nil)
			for n := 1; n <= p.MaxN; n++ {
				in := f.encryption(t, 1, vectors[p.Bits][n-1])
				addKey(s, in)
				var c, next bytes.Buffer
				if err := e.encryptStream(context.Background(), in, e.newKey(keyOf(in)), &Dealing{}, &c); err != nil {
					t.Fatal(err)
				}
				readers := []io.Reader{&c}
				if n > 1 {
					readers = append(readers, bytes.NewReader(total))
				}
				if err := he.Sum(p, lanes, readers, &next); err != nil {
					t.Fatal(err)
				}
				total = next.Bytes()
				set := &consilium.Contributors{Charter: f.charter, Round: 1, Attempt: 1, Members: make([]consilium.Contributor, n)}
				var got []int64
				d := (&Decryption{Profile: p, Lanes: lanes, Set: set, Group: f.group}).newDrainer(e)
				d.out = func(v []int64) error { got = append(got, v...); return nil }
				if err := d.in.openStream(context.Background(), e, e.newKey(s), bytes.NewReader(total), d); err != nil {
					t.Fatalf("%d contributions: %v", n, err)
				}
				equal(t, got, want[p.Bits][n-1])
			}
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
