package party

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"

	"consilium"
)

// NewContribution takes a fresh contribution from system randomness.
func NewContribution() (*Contribution, error) {
	c := &Contribution{}
	return c, c.fill()
}

// ParseContribution restores a contribution from Secret's bytes, or from what
// a Reveal carries.
func ParseContribution(b []byte) (*Contribution, error) {
	if len(b) != 32 {
		return nil, consilium.ErrInvalid.Withf("group contribution of %d bytes: want 32", len(b))
	}
	c := &Contribution{}
	copy(c.b[:], b)
	return c, nil
}

// Commitment is what Enrol publishes before any contribution is revealed. It
// binds the site and its nonce, so nobody can repeat another's.
func (c *Contribution) Commitment(study consilium.StudyID, site consilium.SiteID, nonce consilium.Digest) consilium.Digest {
	return consilium.DomainCommitment.Digest([]byte("group"), []byte(study), []byte(site), nonce[:], c.b[:])
}

// GroupKey is K_r, the secret that all members of a charter share in round r
// and the coordinator never has. It prints as GroupKey(redacted).
type GroupKey struct {
	secret
	charter consilium.Digest // of the draft
	round   uint32
}

// Combine computes K of the charter's first round, which is 1 in the first
// epoch, from every member's contribution, in position order, over the digest of the draft that all of them saw. It refuses a
// contribution that its member did not commit to.
func Combine(draft consilium.Digest, c *consilium.Charter, contributions []*Contribution) (*GroupKey, error) {
	if len(contributions) != len(c.Members) || len(contributions) == 0 {
		return nil, consilium.ErrInvalid.Withf("%d contributions to the group key, %d members", len(contributions), len(c.Members))
	}
	var ikm []byte
	for i, m := range c.Members {
		s := contributions[i]
		if s == nil || s.Commitment(c.Study, m.Site, m.Nonce) != m.Commitment {
			return nil, consilium.ErrInvalid.Withf("the group contribution of %s is not the one it committed to", m.Site)
		}
		ikm = append(ikm, s.b[:]...)
	}
	prk, err := hkdf.Extract(sha256.New, ikm, draft[:])
	clear(ikm)
	if err != nil {
		return nil, err
	}
	g := &GroupKey{charter: draft, round: c.FirstRound()}
	g.b = derive(prk, consilium.DomainGroupKey, draft[:])
	clear(prk)
	return g, nil
}

// Confirmation goes into the final charter: all who sign it hold the same key.
func (g *GroupKey) Confirmation() consilium.Digest {
	k := g.derive(consilium.DomainGroupConfirm)
	return consilium.DomainGroupConfirm.Digest(g.charter[:], k[:])
}

// Round is the round the key serves.
func (g *GroupKey) Round() uint32 { return g.round }

// Ratchet destroys the key and returns the next round's. Nobody comes back
// from there: what a closed round sealed stays closed.
func (g *GroupKey) Ratchet() *GroupKey {
	next := &GroupKey{charter: g.charter, round: g.round + 1}
	next.b = g.derive(consilium.DomainGroupRatchet)
	g.Wipe()
	g.round = 0
	return next
}

// Equal compares in constant time.
func (g *GroupKey) Equal(o *GroupKey) bool {
	return o != nil && g.round == o.round && g.charter == o.charter && g.equal(&o.secret)
}

const groupKeySize = 32 + 32 + 4

// Secret returns the key with its round, for the journal.
func (g *GroupKey) Secret() []byte {
	out := append([]byte(nil), g.b[:]...)
	out = append(out, g.charter[:]...)
	return binary.BigEndian.AppendUint32(out, g.round)
}

// ParseGroupKey restores Secret's bytes.
func ParseGroupKey(b []byte) (*GroupKey, error) {
	if len(b) != groupKeySize {
		return nil, consilium.ErrInvalid.Withf("group key of %d bytes: want %d", len(b), groupKeySize)
	}
	g := &GroupKey{round: binary.BigEndian.Uint32(b[64:])}
	copy(g.b[:], b)
	copy(g.charter[:], b[32:])
	if g.round == 0 {
		return nil, consilium.ErrInvalid.Withf("group key of round 0")
	}
	return g, nil
}

func (g *GroupKey) derive(domain consilium.Domain, parts ...[]byte) [32]byte {
	var r [4]byte
	binary.BigEndian.PutUint32(r[:], g.round)
	return derive(g.b[:], domain, append([][]byte{g.charter[:], r[:]}, parts...)...)
}

// attemptOf encodes what all members of an attempt share: At without the
// position.
func attemptOf(at consilium.At) []byte {
	at.Position = 0
	return at.Encode()
}

// Salt is 32 bytes for digests of one kind in this round, the same at every
// member and unknown outside the group.
func (g *GroupKey) Salt(domain consilium.Domain) [32]byte {
	return g.derive(consilium.DomainGroupSalt, []byte(domain))
}

// Salted digests secret content so that its digest says nothing to those
// outside the group: a table of a few counts can be found again from a plain
// hash by trying all of them.
func (g *GroupKey) Salted(domain consilium.Domain, content []byte) consilium.Digest {
	salt := g.Salt(domain)
	return domain.Digest(salt[:], content)
}

// SealState encrypts a state to the group of this round for one place, for
// members that missed the round; at is in the round of the key, and its
// position does not matter. The overhead is StateOverhead.
func (g *GroupKey) SealState(at consilium.At, plaintext []byte) ([]byte, error) {
	if at.Round != g.round {
		return nil, consilium.ErrInvalid.Withf("group key of round %d for a state of round %d", g.round, at.Round)
	}
	return g.seal(consilium.DomainStateKey, attemptOf(at), plaintext)
}

// OpenState is the inverse of SealState.
func (g *GroupKey) OpenState(at consilium.At, sealed []byte) ([]byte, error) {
	if at.Round != g.round {
		return nil, consilium.ErrInvalid.Withf("group key of round %d for a state of round %d", g.round, at.Round)
	}
	return g.unseal(consilium.DomainStateKey, attemptOf(at), sealed)
}

// SealHandover encrypts to the group of an epoch's first round the state that
// the epoch before certified, with the salt of its digest: whoever opens it checks
// both against what that epoch's members signed. The overhead is HandoverOverhead.
func (g *GroupKey) SealHandover(at consilium.At, salt [32]byte, state []byte) ([]byte, error) {
	if at.Round != g.round {
		return nil, consilium.ErrInvalid.Withf("group key of round %d for a handover to round %d", g.round, at.Round)
	}
	return g.seal(consilium.DomainHandover, attemptOf(at), append(salt[:], state...))
}

// OpenHandover is the inverse of SealHandover. It refuses a state whose salted
// digest is another than certified.
func (g *GroupKey) OpenHandover(at consilium.At, certified consilium.Digest, sealed []byte) (salt [32]byte, state []byte, err error) {
	if at.Round != g.round {
		return salt, nil, consilium.ErrInvalid.Withf("group key of round %d for a handover to round %d", g.round, at.Round)
	}
	b, err := g.unseal(consilium.DomainHandover, attemptOf(at), sealed)
	if err != nil {
		return salt, nil, err
	}
	if len(b) < len(salt) || consilium.DomainState.Digest(b[:len(salt)], b[len(salt):]) != certified {
		return salt, nil, consilium.ErrInvalid.Withf("the state handed over is not the certified one")
	}
	copy(salt[:], b)
	return salt, b[len(salt):], nil
}

// HandoverOverhead is how much longer a sealed handover is than its state.
const HandoverOverhead = StateOverhead + 32

// StateOverhead is how much longer a sealed state is: salt and AES-GCM tag.
const StateOverhead = 32 + 16

// errUnseal does not say whether key, place or bytes are wrong.
var errUnseal = errors.New("does not open with this round's group key in this place")

// seal is AES-256-GCM under a key that no two calls share: it is derived from
// the group key, the place and a fresh random salt, which leads the bytes. So
// the nonce is zero, and two attempts or two senders cannot collide.
func (g *GroupKey) seal(domain consilium.Domain, place, plaintext []byte) ([]byte, error) {
	out := make([]byte, 32, 32+len(plaintext)+16)
	if _, err := io.ReadFull(rand.Reader, out); err != nil {
		return nil, err
	}
	aead := g.aead(domain, place, out)
	return aead.Seal(out, make([]byte, aead.NonceSize()), plaintext, place), nil
}

func (g *GroupKey) unseal(domain consilium.Domain, place, sealed []byte) ([]byte, error) {
	if len(sealed) < 32+16 {
		return nil, consilium.ErrInvalid.With(errUnseal)
	}
	aead := g.aead(domain, place, sealed[:32])
	b, err := aead.Open(nil, make([]byte, aead.NonceSize()), sealed[32:], place)
	if err != nil {
		return nil, consilium.ErrInvalid.With(errUnseal)
	}
	return b, nil
}

func (g *GroupKey) aead(domain consilium.Domain, place, salt []byte) cipher.AEAD {
	k := g.derive(domain, place, salt)
	b, err := aes.NewCipher(k[:])
	if err != nil {
		panic("party: a 32-byte key is a valid AES-256 key: " + err.Error())
	}
	aead, err := cipher.NewGCM(b)
	if err != nil {
		panic("party: AES has GCM's block size: " + err.Error())
	}
	return aead
}
