package party

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	"consilium"
	"consilium/he"
)

// answerable is one hospital's contribution with what it journalled.
func answerable(t testing.TB, n, threshold int) (*federation, *Encryption, []byte) {
	t.Helper()
	p, err := he.Choose(20, 16, n)
	if err != nil {
		t.Fatal(err)
	}
	f := newFederation(t, p, 20, n, threshold)
	lanes := fill(20, 16, 3, rand.New(rand.NewPCG(1, 2)))
	in := f.encryption(t, 2, lanes)
	var buf bytes.Buffer
	d, err := Contribute(context.Background(), in, &buf)
	if err != nil {
		t.Fatal(err)
	}
	h := &consilium.Header{NextSealing: f.holders[1]}
	f.boxes[1] = d.Boxes
	if err := d.Header(h); err != nil {
		t.Fatal(err)
	}
	f.headers[1], f.bodies[1], f.cipher[1], f.vectors[1] = h, h.Encode(), buf.Bytes(), lanes
	return f, in, d.Record()
}

// TestAnswer: what a dealer answers is the share that it dealt, for every
// holder; nobody else's, nothing changed, and nothing else opens in its place.
func TestAnswer(t *testing.T) {
	f, in, record := answerable(t, 5, 4)
	for to := consilium.Position(1); to <= 5; to++ {
		sealed, err := Answer(in, record, f.bodies[1], to)
		if to == 2 {
			if err == nil {
				t.Error("an answer to the dealer itself")
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(sealed) != AnswerSize(f.p) {
			t.Fatalf("answer of %d bytes, AnswerSize is %d", len(sealed), AnswerSize(f.p))
		}
		got, err := CheckAnswer(f.p, f.lanes, 5, 4, f.group, f.bodies[1], to, sealed)
		if err != nil {
			t.Fatal(err)
		}
		want, err := OpenBox(f.p, f.lanes, 5, 4, f.at(2), f.bodies[1], to, f.boxes[1][to-1], f.keys[to-1])
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Secret(), want.Secret()) {
			t.Errorf("the answer to %d is not the share in its box", to)
		}
		for name, bad := range map[string]func() error{
			"another place": func() error {
				_, err := CheckAnswer(f.p, f.lanes, 5, 4, f.group, f.bodies[1], 1+to%5, sealed)
				return err
			},
			"changed": func() error {
				b := bytes.Clone(sealed)
				b[len(b)-20] ^= 1
				_, err := CheckAnswer(f.p, f.lanes, 5, 4, f.group, f.bodies[1], to, b)
				return err
			},
			"another group": func() error {
				_, err := CheckAnswer(f.p, f.lanes, 5, 4, testGroup("others"), f.bodies[1], to, sealed)
				return err
			},
			"short": func() error {
				_, err := CheckAnswer(f.p, f.lanes, 5, 4, f.group, f.bodies[1], to, sealed[:len(sealed)-1])
				return err
			},
		} {
			if bad() == nil {
				t.Errorf("answer to %d, %s: accepted", to, name)
			}
		}
	}
	// A false share, rightly sealed by a member of the group, fails the
	// commitment; one with a commitment of its own fails the check polynomials.
	plain := make([]byte, he.SaltSize+f.p.ShareSize())
	sealed, err := f.group.seal(consilium.DomainAnswerKey, answerPlace(f.at(2), consilium.HeaderDigest(f.bodies[1]), 1), plain)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CheckAnswer(f.p, f.lanes, 5, 4, f.group, f.bodies[1], 1, sealed); err == nil {
		t.Error("a share of zeros is accepted")
	}
	h := *f.headers[1]
	h.Commitments = slices.Clone(h.Commitments)
	h.Commitments[0] = commitment(f.at(2), 1, plain)
	body := h.Encode()
	sealed, err = f.group.seal(consilium.DomainAnswerKey, answerPlace(f.at(2), consilium.HeaderDigest(body), 1), plain)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CheckAnswer(f.p, f.lanes, 5, 4, f.group, body, 1, sealed); err == nil {
		t.Error("a committed share off the check polynomials is accepted")
	}
	// Another record does not answer under this header.
	other := bytes.Clone(record)
	other[63] ^= 1
	if _, err := Answer(in, other, f.bodies[1], 1); err == nil {
		t.Error("another record gives the committed share")
	}
}

// framing makes the opening shares of 13 hospitals with t = 9, of whom the
// last three lie together.
func framing(t *testing.T) (f *federation, u []consilium.Position, all []*OpeningShare) {
	t.Helper()
	p, err := he.Choose(20, 16, 13)
	if err != nil {
		t.Fatal(err)
	}
	f = newFederation(t, p, 20, 13, 9)
	u = positions(3)
	r := rand.New(rand.NewPCG(3, 4))
	for _, pos := range u {
		f.contribute(t, pos, fill(20, 16, 3, r))
	}
	return f, u, f.openings(t, u, positions(13))
}

// off adds to each share a polynomial of degree below t, at its position: the
// shares that get it lie on another polynomial together.
func off(shares []*OpeningShare, poly []uint64) {
	for _, o := range shares {
		o.elements[0] = addF(o.elements[0], evalF(poly, uint64(o.at.Position)))
	}
}

// TestSuspects: up to (m - t)/2 liars of m are told apart, whoever they are;
// more are not, and then nobody is named.
func TestSuspects(t *testing.T) {
	_, _, all := framing(t)
	if odd, ok := Suspects(all, 9); !ok || odd != nil {
		t.Fatalf("honest shares: %v %v", odd, ok)
	}
	if odd, ok := Suspects(all[:9], 9); !ok || odd != nil {
		t.Fatalf("t shares say something about one another: %v %v", odd, ok)
	}
	copies := func(n int) []*OpeningShare {
		out := make([]*OpeningShare, n)
		for i, o := range all[:n] {
			c := *o
			c.elements = slices.Clone(o.elements)
			out[i] = &c
		}
		return out
	}
	for i := range 13 {
		for j := i; j < 13; j++ {
			c := copies(13)
			c[i].elements[5] = addF(c[i].elements[5], 1)
			c[j].elements[7] = addF(c[j].elements[7], 12345)
			want := []consilium.Position{c[i].at.Position}
			if j != i {
				want = append(want, c[j].at.Position)
			}
			if odd, ok := Suspects(c, 9); ok || !slices.Equal(odd, want) {
				t.Fatalf("liars %v: %v %v", want, odd, ok)
			}
		}
	}
	c := copies(13)
	for i := range 3 {
		c[i].elements[0] = addF(c[i].elements[0], uint64(i+1))
	}
	if odd, ok := Suspects(c, 9); ok || len(odd) != 0 {
		t.Errorf("three liars of 13: %v %v", odd, ok)
	}
	c = copies(10)
	c[0].elements[0] = addF(c[0].elements[0], 1)
	if odd, ok := Suspects(c, 9); ok || len(odd) != 0 {
		t.Errorf("one liar of t + 1: %v %v", odd, ok)
	}
}

// TestFramedHolder: three liars, with eleven shares on the table, choose theirs
// so that they lie on one polynomial with seven honest ones, and an eighth looks
// odd. The naive twin names it. It shows the shares that it received, each of
// them committed to by its dealer, and they add up to what it opened: innocent.
func TestFramedHolder(t *testing.T) {
	f, u, all := framing(t)
	// A difference that vanishes at positions 1 to 7, so not at 8 and 11 to 13.
	poly := []uint64{1}
	for x := uint64(1); x <= 7; x++ {
		next := make([]uint64, len(poly)+1)
		for i, c := range poly {
			next[i+1] = addF(next[i+1], c)
			next[i] = subF(next[i], mulF(c, x))
		}
		poly = next
	}
	shares := append(slices.Clone(all[:8]), all[10:13]...)
	off(shares[8:], poly)
	odd, ok := Suspects(shares, 9)
	if ok || !slices.Equal(odd, []consilium.Position{8}) {
		t.Fatalf("the liars frame %v: the twin, which believes the odd one out to be the liar, is not broken", odd)
	}
	set := f.set(u)
	show := func(p consilium.Position) *OpeningShare {
		var headers, boxes [][]byte
		for _, m := range set.Members {
			headers, boxes = append(headers, f.bodies[m.Position-1]), append(boxes, f.boxes[m.Position-1][p-1])
		}
		answers := make([][]byte, len(boxes))
		sealed, err := ShowShares(f.p, f.group, f.at(p), set, headers, boxes, answers, f.keys[p-1])
		if err != nil {
			t.Fatal(err)
		}
		// The same where a dealer's box held nothing and its answer served.
		plain, err := f.keys[p-1].Open(consilium.DomainBox, boxContext(f.at(set.Members[1].Position), p), boxes[1])
		if err != nil {
			t.Fatal(err)
		}
		place := answerPlace(f.at(set.Members[1].Position), set.Members[1].Header, p)
		if answers[1], err = f.group.seal(consilium.DomainAnswerKey, place, plain); err != nil {
			t.Fatal(err)
		}
		boxes[1] = bytes.Repeat([]byte{7}, len(boxes[1]))
		if _, err := ShowShares(f.p, f.group, f.at(p), set, headers, boxes, make([][]byte, len(boxes)), f.keys[p-1]); err == nil {
			t.Error("a box that holds nothing is shown")
		}
		again, err := ShowShares(f.p, f.group, f.at(p), set, headers, boxes, answers, f.keys[p-1])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := CheckShow(f.p, f.lanes, f.n, f.t, f.group, f.at(p), set, headers, again); err != nil {
			t.Errorf("a share that came as an answer is not shown: %v", err)
		}
		if len(sealed) != ShowSize(f.p, len(set.Members)) {
			t.Fatalf("%d bytes shown, ShowSize is %d", len(sealed), ShowSize(f.p, len(set.Members)))
		}
		got, err := CheckShow(f.p, f.lanes, f.n, f.t, f.group, f.at(p), set, headers, sealed)
		if err != nil {
			t.Fatal(err)
		}
		sealed[40] ^= 1
		if _, err := CheckShow(f.p, f.lanes, f.n, f.t, f.group, f.at(p), set, headers, sealed); err == nil {
			t.Error("changed bytes are taken for shares")
		}
		return got
	}
	if !show(8).Equal(shares[7]) {
		t.Error("the framed hospital cannot show that it opened what it had")
	}
	if show(11).Equal(shares[8]) {
		t.Error("a liar can show that it opened what it had")
	}
	// What was shown stays below t: t - 1 - f with the f liars' own.
	c := &consilium.Charter{Threshold: 9, Faults: 3}
	if c.MaxAccused()+c.Faults >= c.Threshold {
		t.Errorf("%d may be asked to show, %d dishonest hold their own: %d open a key", c.MaxAccused(), c.Faults, c.Threshold)
	}
	// Nor can a liar show shares that its dealers did not give it.
	var headers [][]byte
	for _, m := range set.Members {
		headers = append(headers, f.bodies[m.Position-1])
	}
	fake, err := f.group.seal(consilium.DomainShowKey, showPlace(f.at(11), set.Digest()), make([]byte, len(set.Members)*(he.SaltSize+f.p.ShareSize())))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CheckShow(f.p, f.lanes, f.n, f.t, f.group, f.at(11), set, headers, fake); err == nil {
		t.Error("invented shares are shown")
	}
}

// TestTooManyShown is why the list of accused is bounded: the naive twin, in
// which every hospital shows its shares when one asks, gives away each round key
// of the set, and with it each hospital's vector alone.
func TestTooManyShown(t *testing.T) {
	f, u, _ := framing(t)
	victim := u[0]
	shown := make([]*OpeningShare, 0, f.t)
	set := &consilium.Contributors{Charter: f.charter, Round: f.round, Attempt: f.attempt, Members: f.set(u).Members[:1]}
	for p := consilium.Position(1); int(p) <= f.t; p++ {
		s, err := OpenBox(f.p, f.lanes, f.n, f.t, f.at(victim), f.bodies[victim-1], p, f.boxes[victim-1][p-1], f.keys[p-1])
		if err != nil {
			t.Fatal(err)
		}
		shown = append(shown, &OpeningShare{p: f.p, at: f.at(p), set: set.Digest(), elements: s.elements})
	}
	got, err := f.open(u[:1], shown, f.cipher[victim-1])
	if err != nil {
		t.Fatal(err)
	}
	equal(t, got, f.plain(u[:1]))
	if _, err := f.open(u[:1], shown[:f.t-1], f.cipher[victim-1]); err == nil {
		t.Error("fewer than t shares open a key")
	}
}

// FuzzBlame: nothing that a dealer or an accused hospital sends makes a check
// panic, and nothing is accepted that was not dealt.
func FuzzBlame(f *testing.F) {
	fed, in, record := answerable(f, 3, 3)
	keys := keysFor(f, 3)
	sealed, err := Answer(in, record, fed.bodies[1], 1)
	if err != nil {
		f.Fatal(err)
	}
	set := fed.set([]consilium.Position{2, 2})
	shown, err := ShowShares(fed.p, fed.group, fed.at(1), set, [][]byte{fed.bodies[1], fed.bodies[1]}, [][]byte{fed.boxes[1][0], fed.boxes[1][0]}, make([][]byte, 2), keys[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed, fed.bodies[1], uint8(1))
	f.Add(shown, fed.bodies[1], uint8(1))
	f.Add([]byte{}, []byte{}, uint8(0))
	f.Fuzz(func(t *testing.T, b, header []byte, to uint8) {
		p := consilium.Position(to)
		if k, err := CheckAnswer(fed.p, fed.lanes, 3, 3, fed.group, header, p, b); err == nil && (!bytes.Equal(b, sealed) || k.holder != 1) {
			t.Error("an answer that nobody gave")
		}
		// Whatever the group's members seal, in whatever place.
		place, err := fed.group.seal(consilium.DomainAnswerKey, answerPlace(fed.at(2), consilium.HeaderDigest(fed.bodies[1]), 1), b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := CheckAnswer(fed.p, fed.lanes, 3, 3, fed.group, fed.bodies[1], 1, place); err == nil {
			t.Error("an invented share is accepted")
		}
		CheckShow(fed.p, fed.lanes, 3, 3, fed.group, fed.at(1), set, [][]byte{header, header}, b)
		if _, err := Answer(in, b, header, p); err == nil && !bytes.Equal(b, record) {
			t.Error("another record answers")
		}
	})
}
