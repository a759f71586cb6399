package party

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"math/rand/v2"
	"testing"

	"consilium"
	"consilium/he"
	"consilium/internal/hybrid"
	"consilium/internal/seal"
)

// Every attack here has a naive twin, a protocol without one of the rules, in
// which it succeeds. If a twin stops being broken, the test no longer shows
// what the rule is for, and fails.

// small5 is a federation of five, t = 4, in which all have contributed.
func small5(t *testing.T) (*federation, []consilium.Position) {
	t.Helper()
	const lanes = 12
	p, err := he.Choose(lanes, 16, 5)
	if err != nil {
		t.Fatal(err)
	}
	f := newFederation(t, p, lanes, 5, 4)
	r := rand.New(rand.NewPCG(5, 5))
	for _, pos := range positions(5) {
		f.contribute(t, pos, fill(lanes, 16, 3, r))
	}
	return f, positions(5)
}

func (f *federation) openings(t *testing.T, u, by []consilium.Position) []*OpeningShare {
	t.Helper()
	var out []*OpeningShare
	for _, pos := range by {
		out = append(out, f.opening(t, u, pos))
	}
	return out
}

// rejected wants the one verdict, in exactly its own words.
func rejected(t *testing.T, name string, got []int64, err error) {
	t.Helper()
	if !errors.Is(err, consilium.ErrAggregateRejected) || err.Error() != consilium.ErrAggregateRejected.Error() {
		t.Errorf("%s: %v", name, err)
	}
	if len(got) != 0 {
		t.Errorf("%s: %d sums were delivered before the verdict", name, len(got))
	}
}

// TestSubstitutedDealings: the coordinator holds every hospital's sealing key,
// so it can deal keys of its own in everyone's name but the victim's. Opened,
// the sum minus what the coordinator knows is the victim's vector.
func TestSubstitutedDealings(t *testing.T) {
	f, u := small5(t)
	victim := consilium.Position(2)
	forged := *f
	forged.bodies, forged.boxes = append([][]byte(nil), f.bodies...), append([][][]byte(nil), f.boxes...)
	forged.cipher, forged.headers = append([][]byte(nil), f.cipher...), append([]*consilium.Header(nil), f.headers...)
	forged.vectors = append([][]int32(nil), f.vectors...)
	zero := make([]int32, f.lanes)
	// The colluding coordinator needs the group's tag key for its ciphertexts;
	// one colluding hospital has it.
	for _, pos := range u {
		if pos != victim {
			forged.contribute(t, pos, zero)
		}
	}
	// Naive twin: holders open any box that fits any header, signed or not.
	got, err := forged.open(u, forged.openings(t, u, u), forged.sum(t, u))
	if err != nil {
		t.Fatalf("naive twin: %v", err)
	}
	for i, m := range f.vectors[victim-1] {
		if got[i] != int64(m) {
			t.Fatal("naive twin: the victim's vector did not come out")
		}
	}
	// Ours: a forged header has no signature ...
	honest, err := hybrid.Generate()
	if err != nil {
		t.Fatal(err)
	}
	coordinator, err := hybrid.Generate()
	if err != nil {
		t.Fatal(err)
	}
	sig, err := coordinator.Sign(consilium.DomainHeader, forged.bodies[0])
	if err != nil {
		t.Fatal(err)
	}
	if hybrid.Verify(honest.Public(), consilium.DomainHeader, forged.bodies[0], &sig) == nil {
		t.Error("a header signed by the coordinator verifies")
	}
	// ... and under the signed header its boxes are refused.
	for _, dealer := range u {
		if dealer == victim {
			continue
		}
		for _, holder := range u {
			if _, err := OpenBox(f.p, f.lanes, f.n, f.t, f.at(dealer), f.bodies[dealer-1], holder, forged.boxes[dealer-1][holder-1], f.keys[holder-1]); err == nil {
				t.Errorf("position %d accepts a substituted box of %d", holder, dealer)
			}
		}
	}
}

// TestSetDifferencing: U, then U minus one. The difference of the two sums is
// one hospital's vector, exactly; nothing in the arithmetic prevents it.
func TestSetDifferencing(t *testing.T) {
	f, u := small5(t)
	without := u[:4]
	// Naive twin: hospitals open whatever set they are asked for.
	a, err := f.open(u, f.openings(t, u, u), f.sum(t, u))
	if err != nil {
		t.Fatal(err)
	}
	b, err := f.open(without, f.openings(t, without, u), f.sum(t, without))
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range f.vectors[4] {
		if a[i]-b[i] != int64(m) {
			t.Fatal("naive twin: the difference is not the vector")
		}
	}
	// What this layer adds to the lock: an opening for one set is no opening
	// for another, so one opening each cannot be combined, ...
	mixed := append(f.openings(t, u, u[:2]), f.openings(t, without, u[2:])...)
	if _, err := f.open(u, mixed, f.sum(t, u)); err == nil {
		t.Error("openings of two sets are combined")
	}
	for _, o := range mixed[2:] {
		o.set = mixed[0].set // a colluder lies about what its share sums
	}
	got, err := f.open(u, mixed, f.sum(t, u))
	rejected(t, "openings of two sets under one name", got, err)
	// ... a share counts only under the header that the set names, ...
	set := f.set(u)
	var shares []*KeyShare
	for _, dealer := range u {
		s, err := OpenBox(f.p, f.lanes, f.n, f.t, f.at(dealer), f.bodies[dealer-1], 1, f.boxes[dealer-1][0], f.keys[0])
		if err != nil {
			t.Fatal(err)
		}
		shares = append(shares, s)
	}
	if _, err := NewOpeningShare(set, 1, shares[:4]); err == nil {
		t.Error("an opening without one member's share")
	}
	if _, err := NewOpeningShare(set, 2, shares); err == nil {
		t.Error("an opening of another holder's shares")
	}
	if _, err := NewOpeningShare(set, 1, append([]*KeyShare{shares[0], shares[0]}, shares[2:]...)); err == nil {
		t.Error("one member's share counted twice")
	}
	alone := *set
	alone.Members = alone.Members[:1]
	if _, err := NewOpeningShare(&alone, 1, shares[:1]); !errors.Is(err, consilium.ErrBelowMinimum) {
		t.Errorf("one hospital alone: %v", err)
	}
	set.Members[3].Header[0]++
	if _, err := NewOpeningShare(set, 1, shares); err == nil {
		t.Error("an opening under a header that the set does not name")
	}
	// ... and t-1 openings are refused before anything is computed.
	if _, err := f.open(u, f.openings(t, u, u[:3]), f.sum(t, u)); err == nil || errors.Is(err, consilium.ErrAggregateRejected) {
		t.Errorf("three openings of t = 4: %v", err)
	}
}

// addConstant adds x·2^Delta·2^(W·lane) to coefficient 0 of one chunk of a
// packed ciphertext: anyone can, since a constant polynomial is the same
// constant at every point.
func addConstant(p he.Profile, b []byte, x int64, lane int) []byte {
	out := bytes.Clone(b)
	for i, q := range p.Primes {
		size := p.LimbSize(i)
		buf := he.LimbBuffer(size)
		copy(buf, out)
		v := make([]uint64, p.N())
		w := bits.Len64(q)
		he.UnpackLimb(v, buf, w, q)
		c := uint64(1)
		for range p.Delta + p.W*lane {
			c = c * 2 % q
		}
		if x < 0 {
			c = q - c
		}
		for j := range v {
			v[j] = (v[j] + c) % q
		}
		he.PackLimb(out[:size], v, w)
		out = append(out[size:len(out):len(out)], out[:size]...) // rotate: limb by limb
	}
	return out
}

// TestTamperedAggregates: whatever the coordinator does to the sum, there is
// one verdict and not one delivered lane.
func TestTamperedAggregates(t *testing.T) {
	f, u := small5(t)
	openings := f.openings(t, u, u)
	agg := f.sum(t, u)
	sum := func(parts ...[]byte) []byte {
		var readers []io.Reader
		for _, b := range parts {
			readers = append(readers, bytes.NewReader(b))
		}
		var out bytes.Buffer
		if err := he.Sum(f.p, f.lanes, readers, &out); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	c := f.cipher
	next := *f
	next.attempt = 2
	next.boxes, next.bodies, next.headers = make([][][]byte, 5), make([][]byte, 5), make([]*consilium.Header, 5)
	next.cipher, next.vectors = make([][]byte, 5), make([][]int32, 5)
	for _, pos := range u {
		next.contribute(t, pos, f.vectors[pos-1])
	}
	flipped := bytes.Clone(agg)
	flipped[100] ^= 1
	unreduced := bytes.Clone(agg)
	for i := range 16 {
		unreduced[i] = 0xff
	}
	shifted := addConstant(f.p, agg, 1, 0)
	for name, b := range map[string][]byte{
		"shifted up":              shifted,
		"shifted down":            addConstant(f.p, agg, -1, 1),
		"the next lane shifted":   addConstant(f.p, agg, 1, 1),
		"dropped":                 sum(c[0], c[1], c[2], c[3]),
		"doubled":                 sum(c[0], c[1], c[2], c[3], c[4], c[4]),
		"one for another":         sum(c[0], c[1], c[2], c[3], c[3]),
		"replayed":                sum(c[0], c[1], c[2], c[3], next.cipher[4]),
		"all of another attempt":  sum(next.cipher...),
		"one alone":               c[0],
		"a flipped bit":           flipped,
		"a residue not reduced":   unreduced,
		"zeros":                   make([]byte, len(agg)),
		"short":                   agg[:len(agg)-1],
		"empty":                   nil,
		"long":                    append(bytes.Clone(agg), 0),
		"the sum and its own sum": sum(agg, agg),
	} {
		got, err := f.open(u, openings, b)
		rejected(t, name, got, err)
	}

	// Naive twin without tags: the shift passes the noise and range checks
	// and changes the result by exactly one.
	e, err := engineFor(f.p)
	if err != nil {
		t.Fatal(err)
	}
	in := &Decryption{Profile: f.p, Lanes: f.lanes, Threshold: f.t, Members: f.n, Set: f.set(u), Group: f.group, Openings: openings}
	s := make([]int64, f.p.N())
	if !in.reconstruct(s, sumBound(5)) {
		t.Fatal("the key does not reconstruct")
	}
	slot := e.newSlot(true)
	copy(slot.bytes, shifted)
	if !e.decrypt(slot, e.newKey(s), maskBlock(f.p.Encode(), f.at(1), f.state, 0), sumBound(5)) {
		t.Fatal("naive twin: the shift does not pass the noise check")
	}
	want := f.plain(u)
	if got := int64(slot.lanes[0]) - 5<<15; got != want[0]+1 {
		t.Errorf("naive twin: lane 0 is %d, shifted from %d", got, want[0])
	}

	// Swapped and transplanted chunks need a vector of several chunks.
	long := f.p.ChunkLanes() + 9
	g := newFederation(t, f.p, long, 3, 3)
	r := rand.New(rand.NewPCG(8, 8))
	v := positions(3)
	for _, pos := range v {
		g.contribute(t, pos, fill(long, 16, 3, r))
	}
	gopen, gagg := g.openings(t, v, v), g.sum(t, v)
	half := len(gagg) / 2
	if got, err := g.open(v, gopen, gagg); err != nil || len(got) != long {
		t.Fatal(err)
	}
	got, err := g.open(v, gopen, append(bytes.Clone(gagg[half:]), gagg[:half]...))
	rejected(t, "swapped chunks", got, err)
	got, err = g.open(v, gopen, append(bytes.Clone(gagg[:half]), gagg[:half]...))
	rejected(t, "a repeated chunk", got, err)
	got, err = g.open(v, gopen, append(bytes.Clone(gagg[:half]), g.cipher[0][half:]...))
	rejected(t, "a transplanted chunk", got, err)
}

// TestRelatedContribution: a colluder who uploads minus another's ciphertext
// cancels it. In the textbook protocol, where one collective key decrypts any
// sum, the victim then stands alone. Here the sum's key is the sum of what was
// dealt, and nobody can deal a key they do not know.
func TestRelatedContribution(t *testing.T) {
	f, u := small5(t)
	minus := func(c []byte) []byte {
		out := make([]byte, 0, len(c))
		for i, q := range f.p.Primes {
			size := f.p.LimbSize(i)
			buf := he.LimbBuffer(size)
			copy(buf, c[len(out):])
			v := make([]uint64, f.p.N())
			he.UnpackLimb(v, buf, bits.Len64(q), q)
			for j := range v {
				v[j] = (q - v[j]) % q
			}
			b := make([]byte, size)
			he.PackLimb(b, v, bits.Len64(q))
			out = append(out, b...)
		}
		return out
	}
	// Naive twin: someone who holds the key of whatever is summed.
	e, err := engineFor(f.p)
	if err != nil {
		t.Fatal(err)
	}
	g := *f
	in := g.encryption(t, 1, f.vectors[0])
	var c bytes.Buffer
	if err := e.encryptStream(context.Background(), in, e.newKey(keyOf(in)), &Dealing{}, &c); err != nil {
		t.Fatal(err)
	}
	var sum bytes.Buffer
	if err := he.Sum(f.p, f.lanes, []io.Reader{&c, bytes.NewReader(f.cipher[1]), bytes.NewReader(minus(f.cipher[1]))}, &sum); err != nil {
		t.Fatal(err)
	}
	slot := e.newSlot(true)
	copy(slot.bytes, sum.Bytes())
	if !e.decrypt(slot, e.newKey(keyOf(in)), maskBlock(f.p.Encode(), f.at(1), f.state, 0), sumBound(1)) {
		t.Fatal("naive twin: does not decrypt")
	}
	for i, m := range f.vectors[0] {
		if int64(slot.lanes[i])-1<<15 != int64(m) {
			t.Fatal("naive twin: the victim's vector did not come out")
		}
	}
	// Ours: position 5 replaces its ciphertext by minus position 2's.
	was := f.cipher[4]
	f.cipher[4] = minus(f.cipher[1])
	f.headers[4].Ciphertext, _ = he.Check(f.p, f.lanes, bytes.NewReader(f.cipher[4]))
	got, err := f.open(u, f.openings(t, u, u), f.sum(t, u))
	rejected(t, "a related contribution", got, err)
	f.cipher[4] = was
}

// TestBadDealings: what a dishonest dealer can send, and what the holder says.
func TestBadDealings(t *testing.T) {
	f, _ := small5(t)
	const dealer, holder = 1, 3
	in := f.encryption(t, dealer, f.vectors[0])
	make1 := func(change func(d *Dealing, plain []byte) []byte) ([]byte, []byte) {
		d, err := Contribute(context.Background(), in, io.Discard)
		src := Lanes(f.vectors[0])
		in.Source = &src
		if err != nil {
			t.Fatal(err)
		}
		plain, err := f.keys[holder-1].Open(consilium.DomainBox, boxContext(in.At, holder), d.Boxes[holder-1])
		if err != nil {
			t.Fatal(err)
		}
		plain = change(d, plain)
		if d.Boxes[holder-1], err = seal.Seal(f.holders[holder-1], consilium.DomainBox, boxContext(in.At, holder), plain); err != nil {
			t.Fatal(err)
		}
		var h consilium.Header
		if err := d.Header(&h); err != nil {
			t.Fatal(err)
		}
		if d.Header(&h) == nil {
			t.Fatal("two headers from one dealing")
		}
		return h.Encode(), d.Boxes[holder-1]
	}
	try := func(body, box []byte) error {
		_, err := OpenBox(f.p, f.lanes, f.n, f.t, f.at(dealer), body, holder, box, f.keys[holder-1])
		return err
	}
	recommit := func(d *Dealing, plain []byte) []byte {
		d.Commitments[holder-1] = commitment(in.At, holder, plain)
		return plain
	}
	if err := try(make1(func(d *Dealing, plain []byte) []byte { return plain })); err != nil {
		t.Fatalf("an honest dealing, sealed again: %v", err)
	}
	for name, change := range map[string]func(d *Dealing, plain []byte) []byte{
		"another share than committed": func(_ *Dealing, plain []byte) []byte { plain[he.SaltSize+7] ^= 1; return plain },
		"another salt":                 func(_ *Dealing, plain []byte) []byte { plain[0] ^= 1; return plain },
		"off the polynomial":           func(d *Dealing, plain []byte) []byte { plain[he.SaltSize+7] ^= 1; return recommit(d, plain) },
		"a mask off the polynomial":    func(d *Dealing, plain []byte) []byte { plain[len(plain)-1] ^= 1; return recommit(d, plain) },
		"an element not reduced": func(d *Dealing, plain []byte) []byte {
			binary.BigEndian.PutUint64(plain[he.SaltSize:], fieldPrime)
			return recommit(d, plain)
		},
		"a short share": func(d *Dealing, plain []byte) []byte { return recommit(d, plain[:len(plain)-8]) },
		"a long share":  func(d *Dealing, plain []byte) []byte { return recommit(d, append(plain, make([]byte, 8)...)) },
	} {
		if err := try(make1(change)); !errors.Is(err, consilium.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}

	// Naive twin without check polynomials: one share off the polynomial, and
	// which sum comes out depends on who opens.
	body, box := f.bodies[0], f.boxes[0][holder-1]
	plain, err := f.keys[holder-1].Open(consilium.DomainBox, boxContext(in.At, holder), box)
	if err != nil {
		t.Fatal(err)
	}
	share := make([]uint64, f.p.Elements())
	if !parseF(share, plain[he.SaltSize:][:8*len(share)]) {
		t.Fatal("share")
	}
	share[0] = addF(share[0], 1)
	bad := &KeyShare{elements: share}
	var good []*KeyShare
	for _, pos := range []consilium.Position{1, 2, 4, 5} {
		s, err := OpenBox(f.p, f.lanes, f.n, f.t, f.at(dealer), body, pos, f.boxes[0][pos-1], f.keys[pos-1])
		if err != nil {
			t.Fatal(err)
		}
		good = append(good, s)
	}
	at0 := func(points []uint64, shares []*KeyShare) uint64 {
		v := uint64(0)
		for i, w := range lagrange(points, 0) {
			v = addF(v, mulF(w, shares[i].elements[0]))
		}
		return v
	}
	if at0([]uint64{1, 2, 4, 5}, good) == at0([]uint64{3, 2, 4, 5}, append([]*KeyShare{bad}, good[1:]...)) {
		t.Error("naive twin: a wrong share changes nothing")
	}

	// The same box elsewhere.
	at := f.at(dealer)
	at.Attempt++
	if _, err := OpenBox(f.p, f.lanes, f.n, f.t, at, body, holder, box, f.keys[holder-1]); err == nil {
		t.Error("a header of another attempt")
	}
	if _, err := OpenBox(f.p, f.lanes, f.n, f.t, f.at(dealer), body, holder-1, box, f.keys[holder-2]); err == nil {
		t.Error("another holder's box")
	}
	if _, err := OpenBox(f.p, f.lanes, f.n, f.t-1, f.at(dealer), body, holder, box, f.keys[holder-1]); err == nil {
		t.Error("another threshold")
	}
	if _, err := OpenBox(f.p, f.lanes, f.n, f.t, f.at(2), f.bodies[1], holder, box, f.keys[holder-1]); err == nil {
		t.Error("one dealer's box under another's header")
	}
}

// TestForgedOpenings: a member who lies about its share spoils the attempt and
// learns nothing from the verdict; one who is not a member is not read.
func TestForgedOpenings(t *testing.T) {
	f, u := small5(t)
	agg := f.sum(t, u)
	for _, with := range []int{4, 5} { // exactly t, and one surplus share
		for liar := range with {
			openings := f.openings(t, u, u[:with])
			openings[liar].elements[7] = addF(openings[liar].elements[7], 1)
			got, err := f.open(u, openings, agg)
			rejected(t, fmt.Sprintf("%d shares, position %d lies", with, liar+1), got, err)
		}
	}
	o := f.openings(t, u, u[:1])[0]
	sealed, err := o.Seal(f.group)
	if err != nil {
		t.Fatal(err)
	}
	set := f.set(u).Digest()
	try := func(name string, g *GroupKey, at consilium.At, set consilium.Digest, b []byte) {
		t.Helper()
		if _, err := UnsealOpening(f.p, g, at, set, b); !errors.Is(err, consilium.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := UnsealOpening(f.p, f.group, f.at(1), set, sealed); err != nil {
		t.Fatal(err)
	}
	try("another sender", f.group, f.at(2), set, sealed)
	try("another set", f.group, f.at(1), consilium.Digest{1}, sealed)
	try("another group", testGroup("other"), f.at(1), set, sealed)
	try("short", f.group, f.at(1), set, sealed[1:])
	try("empty", f.group, f.at(1), set, nil)
	at := f.at(1)
	at.Attempt = 2
	try("another attempt", f.group, at, set, sealed)
	at.Attempt, at.Round = 1, 2
	try("another round", f.group, at, set, sealed)
	flipped := bytes.Clone(sealed)
	flipped[40] ^= 1
	try("a flipped bit", f.group, f.at(1), set, flipped)
	again, err := o.Seal(f.group)
	if err != nil || bytes.Equal(again, sealed) {
		t.Errorf("two seals are equal: %v", err)
	}
	next, err := ParseGroupKey(f.group.Secret())
	if err != nil {
		t.Fatal(err)
	}
	next = next.Ratchet()
	try("the next round's key", next, f.at(1), set, sealed)
	dup := f.openings(t, u, []consilium.Position{1, 2, 3, 3})
	if _, err := f.open(u, dup, agg); err == nil {
		t.Error("one position opens twice")
	}
}

// TestFewSharesSayNothing: t-1 holders, with everything they hold and every
// published check polynomial, are consistent with any key at all. Naive twin:
// check polynomials without masks publish linear equations of the key.
func TestFewSharesSayNothing(t *testing.T) {
	f, _ := small5(t)
	const dealer = 1
	h := f.headers[0]
	total := f.p.Elements() + he.MaskElements
	held := make([][]uint64, f.t-1) // by t-1 colluding holders 1, 2, 3, with masks
	for i := range held {
		plain, err := f.keys[i].Open(consilium.DomainBox, boxContext(f.at(dealer), consilium.Position(i+1)), f.boxes[0][i])
		if err != nil {
			t.Fatal(err)
		}
		held[i] = make([]uint64, total)
		if !parseF(held[i], plain[he.SaltSize:]) {
			t.Fatal("share")
		}
	}
	v := make([]uint64, he.MaskElements*f.t)
	if !parseF(v, h.Check) {
		t.Fatal("check")
	}
	eval := func(poly []uint64, x uint64) (y uint64) {
		for c := len(poly) - 1; c >= 0; c-- {
			y = addF(mulF(y, x), poly[c])
		}
		return y
	}
	r := rand.New(rand.NewPCG(4, 4))
	for trial := range 3 {
		// Any key at all, element by element: the value at 0 is free, and the
		// value at the fourth holder follows.
		s := make([]uint64, f.p.Elements())
		for i := range s {
			s[i] = r.Uint64N(fieldPrime)
		}
		fourth := make([]uint64, total)
		w := lagrange([]uint64{0, 1, 2, 3}, 4)
		for i, x := range s {
			fourth[i] = mulF(w[0], x)
			for k := range held {
				fourth[i] = addF(fourth[i], mulF(w[k+1], held[k][i]))
			}
		}
		// Masks that make the published polynomials true for this key. They
		// agree with the masks that the colluders hold: no contradiction.
		for c := range he.MaskElements {
			for x := uint64(1); x <= 4; x++ {
				row := fourth
				if x < 4 {
					row = held[x-1]
				}
				ch := challenge(h, c)
				mask := eval(v[c*f.t:(c+1)*f.t], x)
				for i := range s {
					mask = subF(mask, mulF(ch.field(), row[i]))
				}
				if x == 4 {
					fourth[f.p.Elements()+c] = mask
				} else if mask != row[f.p.Elements()+c] {
					t.Fatalf("trial %d: key excluded by holder %d's mask", trial, x)
				}
			}
		}
		if !checkShare(f.p, f.t, h, 4, fourth) {
			t.Fatalf("trial %d: the fourth share of an invented key does not check", trial)
		}
	}
	// Naive twin: with R = 0 the constant term of v is sum r_e·s_e, which the
	// right key fulfils and an invented one does not.
	in := f.encryption(t, dealer, f.vectors[0])
	key := keyOf(in)
	d := &Dealing{p: f.p, threshold: f.t, at: in.At}
	if err := d.deal(in, key); err != nil {
		t.Fatal(err)
	}
	for i := range he.MaskElements {
		clear(d.poly[f.p.Elements()+i])
	}
	var bare consilium.Header
	if err := d.Header(&bare); err != nil {
		t.Fatal(err)
	}
	parseF(v, bare.Check)
	relation := func(key []int64) (sum uint64) {
		ch := challenge(&bare, 0)
		for i := range f.p.Elements() {
			sum = addF(sum, mulF(ch.field(), packKey(key, i)))
		}
		return sum
	}
	if relation(key) != v[0] {
		t.Error("naive twin: the equation does not hold for the key")
	}
	key[0]++
	if relation(key) == v[0] {
		t.Error("naive twin: the equation holds for another key")
	}
}

// TestWhyKeysAreGaussian: given the sum of two honest keys, what is left of
// one? Of ternary keys nothing wherever the sum is +-2, one coefficient in
// eight. Of ours a distribution of standard deviation 3.2 for every sum that
// occurs, by exact enumeration.
func TestWhyKeysAreGaussian(t *testing.T) {
	revealed := 0
	for a := -1; a <= 1; a++ {
		for b := -1; b <= 1; b++ {
			ways := 0
			for x := -1; x <= 1; x++ {
				if y := a + b - x; y >= -1 && y <= 1 {
					ways++
				}
			}
			if ways == 1 {
				revealed++
			}
		}
	}
	if revealed != 2 {
		t.Errorf("naive twin: %d of 9 pairs of ternary coefficients are revealed", revealed)
	}
	rho := func(x int) float64 { return math.Exp(-float64(x*x) / (2 * keyVariance)) }
	for sum := 0; sum <= int(sumBound(2)); sum++ {
		var weight, mean, square float64
		for x := -200; x <= 200; x++ {
			p := rho(x) * rho(sum-x)
			weight += p
			mean += p * float64(x)
			square += p * float64(x*x)
		}
		mean /= weight
		if sd := math.Sqrt(square/weight - mean*mean); sd < 3.199 || sd > 3.201 {
			t.Errorf("given a sum of %d a key coefficient keeps a standard deviation of %.4f", sum, sd)
		}
	}
}

// TestDigestInversion: a table of counts is found again from its plain
// SHA-256 by trying every table; under the group's salt no try fits for who is
// outside the group. A member of the group is one who may be dishonest: what a
// header says of one hospital's vector is under that hospital's own salt.
func TestDigestInversion(t *testing.T) {
	const patients = 40
	table := func(a, b, c, d uint64) []byte {
		var out []byte
		for _, x := range []uint64{a, b, c, d} {
			out = binary.BigEndian.AppendUint64(out, x)
		}
		return out
	}
	secret := table(11, 3, 19, 7)
	g := testGroup("salt")
	plain, salted := sha256.Sum256(secret), g.Salted(consilium.DomainState, secret)
	foundPlain, foundSalted := false, false
	for a := uint64(0); a <= patients; a++ {
		for b := uint64(0); a+b <= patients; b++ {
			for c := uint64(0); a+b+c <= patients; c++ {
				try := table(a, b, c, patients-a-b-c)
				foundPlain = foundPlain || sha256.Sum256(try) == plain
				foundSalted = foundSalted || consilium.DomainState.Digest(try) == salted || consilium.DomainState.Digest(make([]byte, 32), try) == salted
			}
		}
	}
	// The coalition's try of every table against a header's digest of a vector.
	invert := func(header consilium.Digest, salt [32]byte) bool {
		for a := int32(0); a <= patients; a++ {
			for b := int32(0); a+b <= patients; b++ {
				for c := int32(0); a+b+c <= patients; c++ {
					if VectorDigest(salt, []int32{a, b, c, patients - a - b - c}) == header {
						return true
					}
				}
			}
		}
		return false
	}
	vector := []int32{11, 3, 19, 7}
	own, err := VectorSalt(bytes.Repeat([]byte{9}, 32), "study", 1)
	if err != nil {
		t.Fatal(err)
	}
	if known := g.Salt(consilium.DomainVector); !invert(VectorDigest(known, vector), known) {
		t.Error("naive twin: under the group's salt a member does not find the vector")
	} else if invert(VectorDigest(own, vector), known) || invert(VectorDigest(own, vector), [32]byte{}) {
		t.Error("a member of the group finds the vector")
	}
	if other, err := VectorSalt(bytes.Repeat([]byte{9}, 32), "study", 2); err != nil || other == own {
		t.Error("two rounds share a salt", err)
	}
	if other, err := VectorSalt(bytes.Repeat([]byte{9}, 32), "another", 1); err != nil || other == own {
		t.Error("two studies share a salt", err)
	}
	if _, err := VectorSalt(make([]byte, 31), "study", 1); err == nil {
		t.Error("a short identity secret")
	}
	if !foundPlain {
		t.Error("naive twin: the table was not found")
	}
	if foundSalted {
		t.Error("a salted digest was inverted")
	}
	if g.Salted(consilium.DomainState, secret) != salted || g.Salted(consilium.DomainRowSet, secret) == salted {
		t.Error("salts are one per round and kind")
	}
	if g.Ratchet().Salted(consilium.DomainState, secret) == salted {
		t.Error("two rounds share a salt")
	}
}

// TestAggregatesLookUniform: what the coordinator stores, one contribution or a
// sum of constant vectors, has uniform residues, even though all lanes are
// zero. Chi-square over 64 classes of the top six bits has 63 degrees of
// freedom; uniform residues exceed 150 with probability below 1e-8. Naive
// twin: without a key the same lanes fall into one class.
func TestAggregatesLookUniform(t *testing.T) {
	p := mustProfile(t, 11, 16, 16)
	lanes := 4*p.ChunkLanes() - he.TagLanes
	f := newFederation(t, p, lanes, 3, 3)
	u := positions(3)
	for _, pos := range u {
		f.contribute(t, pos, make([]int32, lanes))
	}
	chi := func(b []byte) float64 {
		var count [64]float64
		v := make([]uint64, p.N())
		buf := he.LimbBuffer(p.ChunkSize())
		total := 0.0
		for ; len(b) > 0; b = b[len(buf):] {
			copy(buf, b)
			if !he.UnpackLimb(v, buf, 52, p.Primes[0]) {
				t.Fatal("not reduced")
			}
			for _, x := range v {
				count[x>>46]++
				total++
			}
		}
		x, e := 0.0, total/64
		for _, c := range count {
			x += (c - e) * (c - e) / e
		}
		return x
	}
	for name, b := range map[string][]byte{"a contribution": f.cipher[0], "the sum": f.sum(t, u)} {
		if x := chi(b); x > 150 {
			t.Errorf("%s: chi-square %.0f over 63 degrees of freedom", name, x)
		}
	}
	e, err := engineFor(p)
	if err != nil {
		t.Fatal(err)
	}
	e = portableEngine(e)
	s := e.newSlot(false)
	for i := range s.lanes {
		s.lanes[i] = 1 << 15
	}
	e.pack(s)
	e.limbs[0].residues(s.limb, s.packed, e.words)
	for i, x := range s.limb {
		s.limb[i] = x % p.Primes[0]
	}
	he.PackLimb(s.bytes, s.limb, 52)
	if x := chi(s.bytes); x < 1000 {
		t.Errorf("naive twin: chi-square %.0f", x)
	}
}

// TestNothingSecretIsStored: the coordinator's whole store of a round, headers,
// bundles, ciphertexts, aggregate and sealed openings, holds no key, share or
// group secret in the clear.
func TestNothingSecretIsStored(t *testing.T) {
	f, u := small5(t)
	var store []byte
	for i := range u {
		store = append(store, f.bodies[i]...)
		store = append(store, f.cipher[i]...)
		store = append(store, bytes.Join(f.boxes[i], nil)...)
	}
	store = append(store, f.sum(t, u)...)
	secrets := map[string][]byte{"group key": f.group.Secret()[:32]}
	for _, pos := range u {
		o := f.opening(t, u, pos)
		sealed, err := o.Seal(f.group)
		if err != nil {
			t.Fatal(err)
		}
		store = append(store, sealed...)
		secrets[fmt.Sprintf("opening share of %d", pos)] = appendF(nil, o.elements)
		for _, dealer := range u {
			s, err := OpenBox(f.p, f.lanes, f.n, f.t, f.at(dealer), f.bodies[dealer-1], pos, f.boxes[dealer-1][pos-1], f.keys[pos-1])
			if err != nil {
				t.Fatal(err)
			}
			secrets[fmt.Sprintf("share of %d at %d", dealer, pos)] = appendF(nil, s.elements)
		}
	}
	have := map[[8]byte]bool{}
	for i := 0; i+8 <= len(store); i++ {
		have[[8]byte(store[i:])] = true
	}
	for name, s := range secrets {
		for i := 0; i+8 <= len(s); i += 8 {
			if have[[8]byte(s[i:])] {
				t.Fatalf("eight bytes of the %s are in the store", name)
			}
		}
	}
	if !have[[8]byte(f.cipher[2][40:])] {
		t.Error("the search finds nothing at all")
	}
}
