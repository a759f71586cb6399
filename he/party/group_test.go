package party

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"consilium"
	"consilium/he"
)

func testCharter(t *testing.T, n int) (*consilium.Charter, []*Contribution, consilium.Digest) {
	t.Helper()
	c := &consilium.Charter{Study: "s-abcdefghijklmnop"}
	var all []*Contribution
	for i := range n {
		s, err := NewContribution()
		if err != nil {
			t.Fatal(err)
		}
		m := consilium.Member{Site: consilium.SiteID(fmt.Sprintf("site-%d", i)), Nonce: consilium.DomainEnrol.Digest([]byte{byte(i)})}
		m.Commitment = s.Commitment(c.Study, m.Site, m.Nonce)
		c.Members, all = append(c.Members, m), append(all, s)
	}
	return c, all, consilium.DomainCharter.Digest([]byte("draft"))
}

func TestGroupKey(t *testing.T) {
	c, all, draft := testCharter(t, 4)
	g, err := Combine(draft, c, all)
	if err != nil {
		t.Fatal(err)
	}
	var again []*Contribution
	for _, s := range all {
		x, err := ParseContribution(s.Secret())
		if err != nil {
			t.Fatal(err)
		}
		again = append(again, x)
	}
	h, err := Combine(draft, c, again)
	if err != nil || !h.Equal(g) || h.Confirmation() != g.Confirmation() || g.Round() != 1 {
		t.Fatalf("two members compute two keys: %v", err)
	}
	other, err := Combine(consilium.DomainCharter.Digest([]byte("other draft")), c, all)
	if err != nil || other.Equal(g) || other.Confirmation() == g.Confirmation() {
		t.Error("the draft is not in the key")
	}

	// Every member's contribution counts, and only the committed one.
	for i := range all {
		fresh, err := NewContribution()
		if err != nil {
			t.Fatal(err)
		}
		bad := append([]*Contribution(nil), all...)
		bad[i] = fresh
		if _, err := Combine(draft, c, bad); !errors.Is(err, consilium.ErrInvalid) || !strings.Contains(err.Error(), string(c.Members[i].Site)) {
			t.Errorf("member %d reveals another contribution: %v", i, err)
		}
		changed := *c
		changed.Members = append([]consilium.Member(nil), c.Members...)
		changed.Members[i].Commitment = fresh.Commitment(c.Study, c.Members[i].Site, c.Members[i].Nonce)
		x, err := Combine(draft, &changed, bad)
		if err != nil || x.Equal(g) {
			t.Errorf("member %d's contribution does not count: %v", i, err)
		}
	}
	// A rushing member repeats another's commitment to cancel or to copy it:
	// the site's name is in the commitment.
	copied := *c
	copied.Members = append([]consilium.Member(nil), c.Members...)
	copied.Members[3].Commitment, copied.Members[3].Nonce = c.Members[0].Commitment, c.Members[0].Nonce
	if _, err := Combine(draft, &copied, []*Contribution{all[0], all[1], all[2], all[0]}); err == nil {
		t.Error("a repeated commitment is accepted")
	}
	for name, list := range map[string][]*Contribution{"short": all[:3], "empty": nil, "nil": {all[0], all[1], all[2], nil}} {
		if _, err := Combine(draft, c, list); err == nil {
			t.Errorf("%s list: accepted", name)
		}
	}

	// The ratchet goes one way and both copies take the same step.
	stored, err := ParseGroupKey(g.Secret())
	if err != nil || !stored.Equal(g) {
		t.Fatal("journal", err)
	}
	sealed, err := g.SealState(consilium.At{Round: 1, Attempt: 1, Position: 1}, []byte("state"))
	if err != nil || len(sealed) != len("state")+StateOverhead {
		t.Fatal(err)
	}
	at := consilium.At{Round: 1, Attempt: 1, Position: 3} // any member's position
	if b, err := stored.OpenState(at, sealed); err != nil || string(b) != "state" {
		t.Fatalf("%q, %v", b, err)
	}
	n1, n2 := g.Ratchet(), stored.Ratchet()
	if !n1.Equal(n2) || n1.Round() != 2 || n1.Equal(h) {
		t.Error("ratchet")
	}
	if g.b != [32]byte{} || g.Round() != 0 {
		t.Error("the old key is still there")
	}
	if _, err := n1.OpenState(at, sealed); err == nil {
		t.Error("the next round's key opens this round's state")
	}
	if _, err := h.OpenState(consilium.At{Round: 1, Attempt: 2}, sealed); err == nil {
		t.Error("a state opens in another attempt")
	}
	for _, n := range []int{0, 31, 33, 67, 69} {
		if _, err := ParseGroupKey(make([]byte, n)); err == nil {
			t.Errorf("group key of %d bytes", n)
		}
	}
	if _, err := ParseGroupKey(make([]byte, 68)); err == nil {
		t.Error("group key of round 0")
	}
}

// TestSecretsDoNotPrint: no verb shows any byte of a secret.
func TestSecretsDoNotPrint(t *testing.T) {
	f, u := small5(t)
	in := f.encryption(t, 1, f.vectors[0])
	ks, err := OpenBox(f.p, f.lanes, f.n, f.t, f.at(1), f.bodies[0], 1, f.boxes[0][0], f.keys[0])
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewContribution()
	if err != nil {
		t.Fatal(err)
	}
	d := &Dealing{p: f.p, threshold: f.t, at: in.At}
	if err := d.deal(in, keyOf(in)); err != nil {
		t.Fatal(err)
	}
	opening := f.openings(t, u, u[:1])[0]
	fp := fingerprintOf(t, in.Salt, []int32{1, 2, 3})
	in.Fingerprint = fp
	key := make([]byte, 32)
	for i := range 8 {
		binary.BigEndian.PutUint32(key[4*i:], fp.lanes.key[i])
	}
	secrets := map[string][]byte{
		"fingerprint": key, "seed": in.Seed.Secret(), "group": f.group.Secret()[:32], "contribution": c.Secret(),
		"share": appendF(nil, ks.elements[:4]), "opening": appendF(nil, opening.elements[:4]), "polynomial": appendF(nil, d.poly[0]),
	}
	var log bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&log, nil))
	type holder struct {
		In *Encryption
		X  any
	}
	for _, v := range []any{in.Seed, f.group, c, ks, opening, d, fp, *fp, *in.Seed, *f.group, *c, *ks, *opening, *d, *in, in.Seed.secret} {
		h := holder{in, v}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d"} {
			fmt.Fprintf(&log, verb+"\n", v)
			fmt.Fprintf(&log, verb+"\n", h)
		}
		logger.Info("x", "v", v)
	}
	out := log.String()
	for name, s := range secrets {
		for i := 0; i+8 <= len(s); i += 8 {
			if part := s[i : i+8]; bytes.Contains(log.Bytes(), part) || strings.Contains(strings.ToLower(out), hex.EncodeToString(part)) ||
				strings.Contains(out, strings.Trim(fmt.Sprint(part), "[]")) {
				t.Fatalf("bytes of the %s are printed", name)
			}
		}
	}
	for _, name := range []string{"Seed", "GroupKey", "Contribution", "KeyShare", "OpeningShare", "Dealing", "Fingerprint"} {
		if !strings.Contains(out, name+"(redacted)") {
			t.Errorf("%s does not print its name", name)
		}
	}
}

func TestKeyShareJournal(t *testing.T) {
	f, _ := small5(t)
	ks, err := OpenBox(f.p, f.lanes, f.n, f.t, f.at(2), f.bodies[1], 4, f.boxes[1][3], f.keys[3])
	if err != nil {
		t.Fatal(err)
	}
	b := ks.Secret()
	again, err := ParseKeyShare(f.p, b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.Secret(), b) {
		t.Error("a restored share differs")
	}
	at, header := again.Dealer()
	if at != f.at(2) || header != consilium.HeaderDigest(f.bodies[1]) {
		t.Error("a restored share is of another dealing")
	}
	ks.Wipe()
	if ks.elements[0] != 0 || again.elements[0] == 0 {
		t.Error("wipe")
	}
}

// FuzzDecoders: nothing that a peer or a journal hands over makes a decoder
// panic, and what the journal decoders accept re-encodes identically.
func FuzzDecoders(f *testing.F) {
	p, _ := he.Choose(4, 16, 3)
	g := testGroup("fuzz")
	share := (&KeyShare{p: p, at: consilium.At{Round: 1, Attempt: 1, Position: 1}, holder: 1, elements: make([]uint64, p.Elements())}).Secret()
	o := &OpeningShare{p: p, at: consilium.At{Round: 1, Attempt: 1, Position: 1}, elements: make([]uint64, p.Elements())}
	sealed, err := o.Seal(g)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(share)
	f.Add(sealed)
	f.Add(g.Secret())
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, len(share)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := ParseKeyShare(p, b); err == nil && !bytes.Equal(k.Secret(), b) {
			t.Error("key share does not re-encode")
		}
		if k, err := ParseGroupKey(b); err == nil && !bytes.Equal(k.Secret(), b) {
			t.Error("group key does not re-encode")
		}
		if s, err := ParseSeed(b); err == nil && !bytes.Equal(s.Secret(), b) {
			t.Error("seed does not re-encode")
		}
		if s, err := ParseContribution(b); err == nil && !bytes.Equal(s.Secret(), b) {
			t.Error("contribution does not re-encode")
		}
		// Only a share of zeros was ever sealed under this key.
		if o, err := UnsealOpening(p, g, consilium.At{Round: 1, Attempt: 1, Position: 1}, consilium.Digest{}, b); err == nil {
			for _, x := range o.elements {
				if x != 0 {
					t.Fatal("opening forged")
				}
			}
		}
		if _, err := g.OpenState(consilium.At{Round: 1, Attempt: 1}, b); err == nil {
			t.Error("state forged")
		}
	})
}

// FuzzOpenBox: a dealer may seal anything under a header of any form. The
// input is cut into the box's content and the header's check polynomials.
func FuzzOpenBox(f *testing.F) {
	p, _ := he.Choose(4, 16, 3)
	keys := keysFor(f, 1)
	at := consilium.At{Round: 1, Attempt: 1, Position: 2}
	f.Add(make([]byte, he.SaltSize+p.ShareSize()), make([]byte, p.CheckSize(3)), p.Size(4))
	f.Add([]byte{}, []byte{}, uint64(0))
	f.Add(bytes.Repeat([]byte{0xff}, he.SaltSize+p.ShareSize()), bytes.Repeat([]byte{0xff}, p.CheckSize(3)), p.Size(4))
	f.Fuzz(func(t *testing.T, plain, check []byte, size uint64) {
		box, err := sealBox(keys[0].Public(), at, 1, plain)
		if err != nil {
			t.Fatal(err)
		}
		h := &consilium.Header{At: at, Size: size, Check: check, Boxes: make([]consilium.Digest, 3), Commitments: make([]consilium.Digest, 3)}
		h.Boxes[0], h.Commitments[0] = consilium.DomainBox.Digest(box), commitment(at, 1, plain)
		k, err := OpenBox(p, 4, 3, 3, at, h.Encode(), 1, box, keys[0])
		if err == nil {
			// All zeros is a sharing of the zero key, with zero masks.
			for _, x := range append(k.elements, uint64(len(bytes.Trim(check, "\x00")))) {
				if x != 0 {
					t.Fatal("an invented share passes the check polynomials")
				}
			}
		}
	})
}
