package party

import (
	"encoding/binary"

	"consilium"
	"consilium/he"
	"consilium/internal/seal"
)

// KeyShare is a holder's share of one dealer's round key, opened under a
// header whose signature was verified. It prints as KeyShare(redacted).
type KeyShare struct {
	p        he.Profile
	at       consilium.At // of the dealer
	header   consilium.Digest
	holder   consilium.Position
	elements []uint64
}

// OpenBox opens the box that the dealer of header sealed to this hospital and
// checks it: against the box digest and the commitment of the header, and
// against the published check polynomials, so that all holders' shares lie on
// one polynomial. header is the exact body whose signature the caller has
// verified as the hospital at dealer.Position; a box without such a header is
// worth nothing, since the coordinator can seal boxes too.
//
// Any error is fit for a Complaint: it names no secret.
func OpenBox(p he.Profile, lanes, members, threshold int, dealer consilium.At, header []byte, holder consilium.Position, box []byte, key *seal.Key) (*KeyShare, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	h, err := consilium.ParseHeader(header)
	if err != nil {
		return nil, consilium.ErrInvalid.With(err)
	}
	if h.At != dealer {
		return nil, consilium.ErrInvalid.Withf("the header is for another charter, round, attempt or position")
	}
	if err := p.CheckHeader(h, lanes, members, threshold); err != nil {
		return nil, err
	}
	if holder < 1 || int(holder) > members {
		return nil, consilium.ErrInvalid.Withf("position %d of %d members", holder, members)
	}
	if len(box) != p.BoxSize() {
		return nil, consilium.ErrInvalid.Withf("box of %d bytes: want %d", len(box), p.BoxSize())
	}
	if consilium.DomainBox.Digest(box) != h.Boxes[holder-1] {
		return nil, consilium.ErrInvalid.Withf("the box is not the one that the header lists")
	}
	plain, err := key.Open(consilium.DomainBox, boxContext(dealer, holder), box)
	if err != nil {
		return nil, consilium.ErrInvalid.Withf("the box of position %d to position %d: %w", dealer.Position, holder, err)
	}
	defer clear(plain)
	elements, err := checkPlain(p, threshold, h, holder, plain)
	if err != nil {
		return nil, err
	}
	return &KeyShare{p: p, at: dealer, header: consilium.HeaderDigest(header), holder: holder, elements: elements}, nil
}

// checkPlain checks salt and share, as they lie in a box, against a header,
// and returns the share's elements without its masks.
func checkPlain(p he.Profile, threshold int, h *consilium.Header, holder consilium.Position, plain []byte) ([]uint64, error) {
	dealer := h.At
	if commitment(dealer, holder, plain) != h.Commitments[holder-1] {
		return nil, consilium.ErrInvalid.Withf("the share of position %d to position %d does not match its commitment", dealer.Position, holder)
	}
	share := make([]uint64, p.Elements()+he.MaskElements)
	if len(plain) != he.SaltSize+p.ShareSize() || !parseF(share, plain[he.SaltSize:]) {
		return nil, consilium.ErrInvalid.Withf("the share of position %d to position %d is malformed", dealer.Position, holder)
	}
	if !checkShare(p, threshold, h, holder, share) {
		return nil, consilium.ErrInvalid.Withf("the share of position %d to position %d is not on the published check polynomials", dealer.Position, holder)
	}
	clear(share[p.Elements():])
	return share[:p.Elements()], nil
}

// checkShare reports whether v(x) = R(x) + sum r_e·P_e(x) at the holder's
// point, for all check polynomials.
func checkShare(p he.Profile, threshold int, h *consilium.Header, holder consilium.Position, share []uint64) bool {
	elements := p.Elements()
	v := make([]uint64, he.MaskElements*threshold)
	if !parseF(v, h.Check) {
		return false
	}
	var diff uint64
	for i := range he.MaskElements {
		r := challenge(h, i)
		sum := share[elements+i]
		for _, y := range share[:elements] {
			sum = addF(sum, mulF(r.field(), y))
		}
		want := uint64(0)
		for c := threshold - 1; c >= 0; c-- {
			want = addF(mulF(want, uint64(holder)), v[i*threshold+c])
		}
		diff |= sum ^ want
	}
	return diff == 0
}

// Dealer says whose key this is a share of, and from which header.
func (k *KeyShare) Dealer() (consilium.At, consilium.Digest) { return k.at, k.header }

// Wipe overwrites the share, best effort.
func (k *KeyShare) Wipe() { clear(k.elements) }

// OpeningShare is a hospital's sum of the key shares of one certified set. It
// prints as OpeningShare(redacted).
type OpeningShare struct {
	p        he.Profile
	at       consilium.At // of the hospital that opens
	set      consilium.Digest
	elements []uint64
}

// NewOpeningShare adds the key shares of exactly the members of set, each from
// the header that the set names. The caller has verified the certificate,
// min_sites, the round lock and the freeze, and opens one set in a round; the
// only thing refused here is a set of one.
func NewOpeningShare(set *consilium.Contributors, opener consilium.Position, shares []*KeyShare) (*OpeningShare, error) {
	if len(set.Members) < 2 {
		return nil, consilium.ErrBelowMinimum.Withf("a set of %d: its sum would be one hospital's vector", len(set.Members))
	}
	if len(shares) != len(set.Members) {
		return nil, consilium.ErrInvalid.Withf("%d key shares for a set of %d", len(shares), len(set.Members))
	}
	o := &OpeningShare{
		p:   shares[0].p,
		at:  consilium.At{Charter: set.Charter, Round: set.Round, Attempt: set.Attempt, Position: opener},
		set: set.Digest(),
	}
	o.elements = make([]uint64, o.p.Elements())
	for i, m := range set.Members {
		if i > 0 && m.Position <= set.Members[i-1].Position {
			return nil, consilium.ErrInvalid.Withf("the set's positions are not ascending at %d", m.Position)
		}
		s := shares[i]
		want := o.at
		want.Position = m.Position
		if s.at != want || s.header != m.Header || s.holder != opener || len(s.elements) != len(o.elements) {
			return nil, consilium.ErrInvalid.Withf("key share %d is not this hospital's share of position %d's certified contribution", i, m.Position)
		}
		for j, v := range s.elements {
			o.elements[j] = addF(o.elements[j], v)
		}
	}
	return o, nil
}

// place is what a sealed opening share is bound to besides its key.
func (o *OpeningShare) place() []byte { return append(o.at.Encode(), o.set[:]...) }

// Seal encrypts the share to the group of its round. Each call gives other
// bytes: the caller journals one result and only ever sends that.
func (o *OpeningShare) Seal(g *GroupKey) ([]byte, error) {
	if g.round != o.at.Round {
		return nil, consilium.ErrInvalid.Withf("group key of round %d for an opening in round %d", g.round, o.at.Round)
	}
	plain := appendF(make([]byte, 0, len(o.elements)*he.ElementSize), o.elements)
	defer clear(plain)
	return g.seal(consilium.DomainOpeningKey, o.place(), plain)
}

// Wipe overwrites the share, best effort.
func (o *OpeningShare) Wipe() { clear(o.elements) }

// Position is the hospital that opened.
func (o *OpeningShare) Position() consilium.Position { return o.at.Position }

// UnsealOpening reads what the hospital at from.Position sealed for set. The
// caller has verified the signature of the Opening that carried it.
func UnsealOpening(p he.Profile, g *GroupKey, from consilium.At, set consilium.Digest, sealed []byte) (*OpeningShare, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if g.round != from.Round {
		return nil, consilium.ErrInvalid.Withf("group key of round %d for an opening in round %d", g.round, from.Round)
	}
	if len(sealed) != p.OpeningSize() {
		return nil, consilium.ErrInvalid.Withf("opening share of %d bytes: want %d", len(sealed), p.OpeningSize())
	}
	o := &OpeningShare{p: p, at: from, set: set, elements: make([]uint64, p.Elements())}
	plain, err := g.unseal(consilium.DomainOpeningKey, o.place(), sealed)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	if !parseF(o.elements, plain) {
		return nil, consilium.ErrInvalid.Withf("opening share of position %d is malformed", from.Position)
	}
	return o, nil
}

// Secret returns the share for the journal.
func (k *KeyShare) Secret() []byte {
	out := append([]byte(nil), k.at.Encode()...)
	out = append(out, k.header[:]...)
	out = binary.BigEndian.AppendUint16(out, uint16(k.holder))
	return appendF(out, k.elements)
}

const atSize = 32 + 4 + 4 + 2

// ParseKeyShare restores Secret's bytes for a share in profile p.
func ParseKeyShare(p he.Profile, b []byte) (*KeyShare, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if len(b) != atSize+32+2+p.Elements()*he.ElementSize {
		return nil, consilium.ErrInvalid.Withf("key share of %d bytes", len(b))
	}
	k := &KeyShare{p: p, elements: make([]uint64, p.Elements())}
	copy(k.at.Charter[:], b)
	k.at.Round = binary.BigEndian.Uint32(b[32:])
	k.at.Attempt = binary.BigEndian.Uint32(b[36:])
	k.at.Position = consilium.Position(binary.BigEndian.Uint16(b[40:]))
	copy(k.header[:], b[atSize:])
	k.holder = consilium.Position(binary.BigEndian.Uint16(b[atSize+32:]))
	if k.at.Round == 0 || k.at.Attempt == 0 || k.at.Position == 0 || k.holder == 0 || !parseF(k.elements, b[atSize+34:]) {
		return nil, consilium.ErrInvalid.Withf("key share is malformed")
	}
	return k, nil
}
