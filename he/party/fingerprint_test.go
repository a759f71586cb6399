package party

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"consilium"
	"consilium/he"
	"consilium/internal/vec"
)

// fingerprintOf is an ended one.
func fingerprintOf(t testing.TB, salt [32]byte, lanes []int32) *Fingerprint {
	t.Helper()
	f, err := NewFingerprint(salt)
	if err != nil {
		t.Fatal(err)
	}
	f.Write(lanes)
	f.Digest()
	return f
}

// sumOf is the fingerprint of lanes under f's key.
func (f *universal) sumOf(lanes []int32) [32]byte {
	g := f.again()
	g.write(lanes)
	return g.sum()
}

// TestFingerprint: a vector has one fingerprint under one key, whatever the pieces it
// comes in; every other vector has another, longer and shorter ones by zeros too.
func TestFingerprint(t *testing.T) {
	r := rand.New(rand.NewPCG(20, 20))
	for _, n := range []int{0, 1, 2, 1023, 1024, 1025, 4096, 5000} {
		v := fill(n, 16, 3, r)
		f := fingerprintOf(t, [32]byte{1}, v)
		if f.Digest() != VectorDigest([32]byte{1}, v) {
			t.Fatalf("%d lanes: another digest", n)
		}
		pieces := f.lanes.again()
		for rest := v; len(rest) > 0; {
			k := min(1+r.IntN(1<<r.IntN(12)), len(rest))
			pieces.write(rest[:k])
			rest = rest[k:]
		}
		if pieces.sum() != f.sum {
			t.Fatalf("%d lanes: another fingerprint in pieces", n)
		}
		if n > 0 && fingerprintOf(t, [32]byte{1}, v).sum == f.sum {
			t.Fatalf("%d lanes: two keys, one fingerprint", n)
		}
		others := [][]int32{append(slices.Clone(v), 0), append(slices.Clone(v), 1)}
		if n > 0 {
			others = append(others, v[:n-1])
		}
		for range 200 {
			if n == 0 {
				break
			}
			other := slices.Clone(v)
			other[r.IntN(n)] ^= 1 << r.IntN(32)
			others = append(others, other)
		}
		if n > 1 {
			other := slices.Clone(v)
			other[0], other[n-1] = other[n-1]+1, other[0]
			others = append(others, other)
		}
		for i, other := range others {
			if f.lanes.sumOf(other) == f.sum {
				t.Fatalf("%d lanes: other vector %d has the same fingerprint", n, i)
			}
		}
	}
}

// TestFingerprintNeedsItsKey: whoever knows the key finds two vectors with one
// fingerprint, as with the naive twin's key of zeros; to a fresh key they differ.
func TestFingerprintNeedsItsKey(t *testing.T) {
	v, w := []int32{0, 5}, []int32{0, 7}
	naive := &universal{}
	if naive.sumOf(v) != naive.sumOf(w) {
		t.Error("the attack does not work on a known key")
	}
	f := fingerprintOf(t, [32]byte{1}, v)
	if f.sum != f.lanes.sumOf(v) || f.sum == f.lanes.sumOf(w) {
		t.Error("two vectors have one fingerprint")
	}
}

// TestFingerprintIsPortable holds both ways of computing it to the definition.
func TestFingerprintIsPortable(t *testing.T) {
	r := rand.New(rand.NewPCG(21, 21))
	f := &fingerprintOf(t, [32]byte{1}, nil).lanes
	for range 100 {
		lanes := fill(fingerprintLanes, 24, r.IntN(4), r)
		var want [3]uint64
		for i := range want {
			for j := 0; j < len(lanes); j += 2 {
				want[i] += uint64(uint32(lanes[j])+f.key[4*i+j]) * uint64(uint32(lanes[j+1])+f.key[4*i+j+1])
			}
		}
		if got := nh(lanes, f.key[:]); got != want {
			t.Fatalf("portable: %x, want %x", got, want)
		}
		if vec.Enabled && vec.NH(lanes, f.key[:]) != want {
			t.Fatal("with vector instructions another sum")
		}
	}
}

// TestContributeRecognisesItsVector: under a fingerprint Contribute makes the bytes that
// it makes without, more than once, and refuses every other source and every other
// vector's fingerprint, even where source and fingerprint are of one: the header would
// name a vector that nobody encrypted. It also refuses one that has not ended, one that was
// wiped, and the zero one.
func TestContributeRecognisesItsVector(t *testing.T) {
	for _, bits := range []int{16, 24} {
		const lanes = 5000
		p, err := he.Choose(lanes, bits, 3)
		if err != nil {
			t.Fatal(err)
		}
		f := newFederation(t, p, lanes, 3, 3)
		r := rand.New(rand.NewPCG(22, 22))
		v := fill(lanes, bits, 3, r)
		in := f.encryption(t, 1, v)
		run := func(source []int32, fp *Fingerprint) ([]byte, error) {
			again, src, out := *in, Lanes(source), bytes.Buffer{}
			again.Source, again.Fingerprint = &src, fp
			_, err := Contribute(context.Background(), &again, &out)
			return out.Bytes(), err
		}
		want, err := run(v, nil)
		if err != nil {
			t.Fatal(err)
		}
		fp := fingerprintOf(t, in.Salt, v)
		for range 2 {
			if got, err := run(v, fp); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%d bits: %v, or other bytes", bits, err)
			}
		}
		trickled := *in
		var out bytes.Buffer
		trickled.Source, trickled.Fingerprint = &trickle{v: v}, fp
		if _, err := Contribute(context.Background(), &trickled, &out); err != nil || !bytes.Equal(out.Bytes(), want) {
			t.Fatalf("%d bits, in pieces: %v, or other bytes", bits, err)
		}
		for _, at := range []int{0, 1, 1023, 1024, lanes - 1} {
			other := slices.Clone(v)
			other[at] ^= 1
			if _, err := run(other, fp); !errors.Is(err, consilium.ErrInvalid) {
				t.Errorf("%d bits: another lane %d: %v", bits, at, err)
			}
			if _, err := run(v, fingerprintOf(t, in.Salt, other)); !errors.Is(err, consilium.ErrInvalid) {
				t.Errorf("%d bits: the fingerprint of another lane %d: %v", bits, at, err)
			}
			if _, err := run(other, fingerprintOf(t, in.Salt, other)); !errors.Is(err, consilium.ErrInvalid) {
				t.Errorf("%d bits: lanes and fingerprint of another lane %d than the header's: %v", bits, at, err)
			}
		}
		for _, n := range []int{0, lanes - 1, lanes + 1} {
			if _, err := run(v, fingerprintOf(t, in.Salt, slices.Grow(v, 1)[:n])); !errors.Is(err, consilium.ErrInvalid) {
				t.Errorf("%d bits: the fingerprint of %d lanes: %v", bits, n, err)
			}
		}
		salted := [32]byte{1}
		if _, err := run(v, fingerprintOf(t, salted, v)); !errors.Is(err, consilium.ErrInvalid) {
			t.Errorf("%d bits: a fingerprint under another salt: %v", bits, err)
		}
		open, err := NewFingerprint(in.Salt)
		if err != nil {
			t.Fatal(err)
		}
		open.Write(v)
		fp.Wipe()
		for name, fp := range map[string]*Fingerprint{"zero": {}, "not ended": open, "wiped": fp} {
			for _, source := range [][]int32{v, make([]int32, lanes)} {
				if _, err := run(source, fp); !errors.Is(err, consilium.ErrInvalid) {
					t.Errorf("%d bits: a fingerprint that is %s: %v", bits, name, err)
				}
			}
		}
	}
}
