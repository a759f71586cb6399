package party

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"consilium"
	"consilium/he"
	"consilium/internal/seal"
)

// federation is n hospitals with one group key in one attempt of one round,
// and what each of them would have on disk.
type federation struct {
	p       he.Profile
	lanes   int
	n, t    int
	charter consilium.Digest
	round   uint32
	attempt uint32
	state   consilium.Digest
	group   *GroupKey
	keys    []*seal.Key
	holders []consilium.SealingKey

	bodies  [][]byte // header bodies, by position
	headers []*consilium.Header
	boxes   [][][]byte
	cipher  [][]byte
	vectors [][]int32
}

var identity = bytes.Repeat([]byte{7}, 32)

// sealKeys caches sealing keys: their number, not their freshness, matters.
var sealKeys struct {
	sync.Mutex
	k []*seal.Key
}

func keysFor(t testing.TB, n int) []*seal.Key {
	sealKeys.Lock()
	defer sealKeys.Unlock()
	for len(sealKeys.k) < n {
		k, err := seal.Generate()
		if err != nil {
			t.Fatal(err)
		}
		sealKeys.k = append(sealKeys.k, k)
	}
	return sealKeys.k[:n:n]
}

func testGroup(tag string) *GroupKey {
	g := &GroupKey{round: 1, charter: consilium.DomainCharter.Digest([]byte(tag))}
	g.b = consilium.DomainGroupKey.Digest([]byte(tag))
	return g
}

func newFederation(tb testing.TB, p he.Profile, lanes, n, t int) *federation {
	tb.Helper()
	f := &federation{p: p, lanes: lanes, n: n, t: t, round: 1, attempt: 1, keys: keysFor(tb, n),
		charter: consilium.DomainCharter.Digest([]byte(tb.Name()), fmt.Appendf(nil, "%d %d", p.LogN, n)), group: testGroup(tb.Name())}
	for _, k := range f.keys {
		f.holders = append(f.holders, k.Public())
	}
	f.bodies, f.headers, f.boxes, f.cipher = make([][]byte, n), make([]*consilium.Header, n), make([][][]byte, n), make([][]byte, n)
	f.vectors = make([][]int32, n)
	return f
}

func (f *federation) at(p consilium.Position) consilium.At {
	return consilium.At{Charter: f.charter, Round: f.round, Attempt: f.attempt, Position: p}
}

// salt is that of one hospital's vectors.
func (f *federation) salt(tb testing.TB, pos consilium.Position) [32]byte {
	tb.Helper()
	salt, err := VectorSalt(bytes.Repeat([]byte{byte(pos)}, 32), "study", f.round)
	if err != nil {
		tb.Fatal(err)
	}
	return salt
}

func (f *federation) encryption(tb testing.TB, pos consilium.Position, lanes []int32) *Encryption {
	tb.Helper()
	at := f.at(pos)
	salt := f.salt(tb, pos)
	vector := VectorDigest(salt, lanes)
	seed, err := NewSeed(identity, at, vector)
	if err != nil {
		tb.Fatal(err)
	}
	src := Lanes(lanes)
	return &Encryption{Profile: f.p, Lanes: f.lanes, At: at, Threshold: f.t, State: f.state, Salt: salt, Vector: vector,
		Holders: f.holders, Group: f.group, Seed: seed, Source: &src}
}

// contribute makes position pos's contribution of lanes.
func (f *federation) contribute(tb testing.TB, pos consilium.Position, lanes []int32) {
	tb.Helper()
	var buf bytes.Buffer
	d, err := Contribute(context.Background(), f.encryption(tb, pos, lanes), &buf)
	if err != nil {
		tb.Fatal(err)
	}
	h := &consilium.Header{Layout: consilium.DomainState.Digest([]byte("layout")), NextSealing: f.holders[pos-1]}
	f.boxes[pos-1] = d.Boxes
	if err := d.Header(h); err != nil {
		tb.Fatal(err)
	}
	f.headers[pos-1], f.bodies[pos-1] = h, h.Encode()
	f.cipher[pos-1], f.vectors[pos-1] = buf.Bytes(), lanes
}

func (f *federation) set(u []consilium.Position) *consilium.Contributors {
	set := &consilium.Contributors{Charter: f.charter, Round: f.round, Attempt: f.attempt}
	for _, p := range u {
		set.Members = append(set.Members, consilium.Contributor{Position: p, Header: consilium.HeaderDigest(f.bodies[p-1])})
	}
	return set
}

// opening is holder's opening share for u, after sealing and unsealing.
func (f *federation) opening(tb testing.TB, u []consilium.Position, holder consilium.Position) *OpeningShare {
	tb.Helper()
	set := f.set(u)
	var shares []*KeyShare
	for _, dealer := range u {
		s, err := OpenBox(f.p, f.lanes, f.n, f.t, f.at(dealer), f.bodies[dealer-1], holder, f.boxes[dealer-1][holder-1], f.keys[holder-1])
		if err != nil {
			tb.Fatalf("position %d opens the box of %d: %v", holder, dealer, err)
		}
		shares = append(shares, s)
	}
	o, err := NewOpeningShare(set, holder, shares)
	if err != nil {
		tb.Fatal(err)
	}
	sealed, err := o.Seal(f.group)
	if err != nil {
		tb.Fatal(err)
	}
	if len(sealed) != f.p.OpeningSize() {
		tb.Fatalf("sealed opening of %d bytes, OpeningSize is %d", len(sealed), f.p.OpeningSize())
	}
	got, err := UnsealOpening(f.p, f.group, f.at(holder), set.Digest(), sealed)
	if err != nil {
		tb.Fatal(err)
	}
	return got
}

func (f *federation) sum(tb testing.TB, u []consilium.Position) []byte {
	tb.Helper()
	var readers []io.Reader
	for _, p := range u {
		d, err := he.Check(f.p, f.lanes, bytes.NewReader(f.cipher[p-1]))
		if err != nil {
			tb.Fatal(err)
		}
		if d != f.headers[p-1].Ciphertext {
			tb.Fatal("Check and Contribute disagree on the digest")
		}
		readers = append(readers, bytes.NewReader(f.cipher[p-1]))
	}
	var out bytes.Buffer
	if err := he.Sum(f.p, f.lanes, readers, &out); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func (f *federation) open(u []consilium.Position, openings []*OpeningShare, aggregate []byte) ([]int64, error) {
	var got []int64
	err := Open(context.Background(), &Decryption{Profile: f.p, Lanes: f.lanes, Threshold: f.t, Members: f.n, State: f.state,
		Set: f.set(u), Group: f.group, Openings: openings}, bytes.NewReader(aggregate),
		SinkFunc(func(v []int64) error { got = append(got, v...); return nil }))
	return got, err
}

func (f *federation) plain(u []consilium.Position) []int64 {
	out := make([]int64, f.lanes)
	for _, p := range u {
		for i, m := range f.vectors[p-1] {
			out[i] += int64(m)
		}
	}
	return out
}

func positions(n int) []consilium.Position {
	out := make([]consilium.Position, n)
	for i := range out {
		out[i] = consilium.Position(i + 1)
	}
	return out
}

func equal(tb testing.TB, got, want []int64) {
	tb.Helper()
	if len(got) != len(want) {
		tb.Fatalf("%d sums, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			tb.Fatalf("lane %d: %d, want %d", i, got[i], want[i])
		}
	}
}

// fill makes one vector: kind 0 lowest, 1 highest, 2 alternating, else random.
func fill(lanes, bits, kind int, r *rand.Rand) []int32 {
	lo, hi := int32(-1)<<(bits-1), int32(1)<<(bits-1)-1
	out := make([]int32, lanes)
	for i := range out {
		switch {
		case kind == 0 || kind == 2 && i%2 == 0:
			out[i] = lo
		case kind == 1 || kind == 2:
			out[i] = hi
		default:
			out[i] = lo + r.Int32N(hi-lo) + r.Int32N(2)
		}
	}
	return out
}
