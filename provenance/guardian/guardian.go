// Package guardian splits a patient's next key among people the patient
// trusts, so that any t of n of them give it back and fewer learn nothing.
//
// It is Feldman's verifiable secret sharing over ristretto255: with the share
// comes a commitment to the dealer's polynomial, and a guardian checks at once
// that the share fits the others', instead of finding out when the key is lost.
//
// Feldman's commitments hide the secret only while discrete logarithms are
// hard, and a key that is made to outlive quantum computers must not hang on
// that. So two secrets are shared: one with Feldman's commitments, and one with
// Shamir's scheme alone, of which hashes are committed to. The seed is a hash of
// both: fewer than t guardians lack the second, whatever they can compute.
// Whether what comes back is the right seed is decided by neither: the key event
// log holds the digest of the next public key.
//
// # Threat model
//
// Up to t-1 guardians pool what they hold: they learn nothing of the seed. Any
// guardian hands in a forged share: it is named and left out. The dealer, which
// is the patient's own card program, is trusted to forget the seed.
//
// Not protected: t guardians who agree to take the key over; they are chosen by
// the patient, and what they do is an entry in the hospital's ledger.
//
// Reading: Feldman, FOCS 1987; Shamir, CACM 1979; RFC 9496 (ristretto255).
package guardian

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/secretsharing"

	"consilium"
)

// SeedSize is the size of the seed that is shared: that of an identity.
const SeedSize = 32

// MaxGuardians bounds n; nobody asks twenty people.
const MaxGuardians = 20

var ristretto = group.Ristretto255

// Share is what one guardian keeps. It is secret, and worthless without t-1
// others.
type Share struct {
	APIVersion  string             `json:"apiVersion"`
	Kind        string             `json:"kind"` // "GuardianShare"
	Set         consilium.Digest   `json:"set"`  // random: tells the shares of one dealing
	Index       int                `json:"index"`
	Threshold   int                `json:"threshold"`
	Guardians   int                `json:"guardians"`
	Next        consilium.Digest   `json:"next"`        // digest of the public key that comes back
	Value       []byte             `json:"value"`       // of the committed secret
	Blind       []byte             `json:"blind"`       // of the other
	Commitments [][]byte           `json:"commitments"` // to the dealer's polynomial; t points
	Checks      []consilium.Digest `json:"checks"`      // of every guardian's two values
}

func (s Share) String() string   { return fmt.Sprintf("Share %d of %d (redacted)", s.Index, s.Guardians) }
func (s Share) GoString() string { return s.String() }

// Format keeps %+v and %x from printing the secret.
func (s Share) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.String()) }

func random() group.Scalar { return ristretto.RandomNonZeroScalar(rand.Reader) }

func scalarBytes(s group.Scalar) []byte {
	b, err := s.MarshalBinary()
	if err != nil {
		panic("guardian: " + err.Error()) // a scalar of ours always encodes
	}
	return b
}

func parseScalar(b []byte) (group.Scalar, error) {
	s := ristretto.NewScalar()
	if len(b) != 32 {
		return nil, errors.New("want 32 bytes")
	}
	if err := s.UnmarshalBinary(b); err != nil || !bytes.Equal(scalarBytes(s), b) {
		return nil, errors.New("not a scalar below the group's order")
	}
	return s, nil
}

func seedOf(value, blind group.Scalar) []byte {
	d := consilium.DomainGuardian.Digest([]byte("seed"), scalarBytes(value), scalarBytes(blind))
	return d[:]
}

func checkOf(set consilium.Digest, index int, value, blind []byte) consilium.Digest {
	return consilium.DomainGuardian.Digest([]byte("check"), set[:], []byte{byte(index)}, value, blind)
}

// Deal draws a seed and shares it: any t of n guardians give it back. next is
// called with the seed for the digest of its public key; the caller then
// forgets the seed.
func Deal(t, n int, next func(seed []byte) (consilium.Digest, error)) ([]Share, error) {
	if t < 2 || t > n || n > MaxGuardians {
		return nil, fmt.Errorf("guardians: %d of %d; at least 2 must be needed, and at most %d are asked", t, n, MaxGuardians)
	}
	value, blind := random(), random()
	digest, err := next(seedOf(value, blind))
	if err != nil {
		return nil, err
	}
	var set consilium.Digest
	rand.Read(set[:])
	committed := secretsharing.New(rand.Reader, uint(t-1), value)
	plain := secretsharing.New(rand.Reader, uint(t-1), blind)
	var commitments [][]byte
	for _, e := range committed.CommitSecret() {
		b, err := e.MarshalBinaryCompress()
		if err != nil {
			return nil, err
		}
		commitments = append(commitments, b)
	}
	shares := make([]Share, n)
	checks := make([]consilium.Digest, n)
	for i := range shares {
		id := ristretto.NewScalar().SetUint64(uint64(i + 1))
		shares[i] = Share{APIVersion: consilium.APIVersion, Kind: "GuardianShare", Set: set, Index: i + 1, Threshold: t, Guardians: n, Next: digest,
			Value: scalarBytes(committed.ShareWithID(id).Value), Blind: scalarBytes(plain.ShareWithID(id).Value), Commitments: commitments}
		checks[i] = checkOf(set, i+1, shares[i].Value, shares[i].Blind)
	}
	for i := range shares {
		shares[i].Checks = checks
	}
	return shares, nil
}

// Verify checks that a share fits the dealing it belongs to.
func (s *Share) Verify() error {
	bad := func(format string, args ...any) error {
		return consilium.ErrInvalid.Withf("guardian's share: "+format, args...)
	}
	if s.APIVersion != consilium.APIVersion || s.Kind != "GuardianShare" {
		return bad("apiVersion %.20q kind %.20q", s.APIVersion, s.Kind)
	}
	if s.Threshold < 2 || s.Threshold > s.Guardians || s.Guardians > MaxGuardians || s.Index < 1 || s.Index > s.Guardians ||
		len(s.Commitments) != s.Threshold || len(s.Checks) != s.Guardians {
		return bad("%d of %d with index %d, %d commitments and %d checks", s.Threshold, s.Guardians, s.Index, len(s.Commitments), len(s.Checks))
	}
	value, err := parseScalar(s.Value)
	if err != nil {
		return bad("value: %w", err)
	}
	if _, err := parseScalar(s.Blind); err != nil {
		return bad("blind: %w", err)
	}
	var commit secretsharing.SecretCommitment
	for _, b := range s.Commitments {
		e := ristretto.NewElement()
		if err := e.UnmarshalBinary(b); err != nil {
			return bad("commitment: %w", err)
		}
		if again, err := e.MarshalBinaryCompress(); err != nil || !bytes.Equal(again, b) {
			return bad("commitment: not a canonical point")
		}
		commit = append(commit, e)
	}
	id := ristretto.NewScalar().SetUint64(uint64(s.Index))
	if !secretsharing.Verify(uint(s.Threshold-1), secretsharing.Share{ID: id, Value: value}, commit) {
		return bad("it does not lie on the dealer's polynomial")
	}
	if checkOf(s.Set, s.Index, s.Value, s.Blind) != s.Checks[s.Index-1] {
		return bad("it is not the one that was dealt")
	}
	return nil
}

// sameDealing compares what all shares of a dealing have in common.
func (s *Share) sameDealing(o *Share) bool {
	if s.Set != o.Set || s.Threshold != o.Threshold || s.Guardians != o.Guardians || s.Next != o.Next || len(s.Commitments) != len(o.Commitments) || len(s.Checks) != len(o.Checks) {
		return false
	}
	for i := range s.Commitments {
		if !bytes.Equal(s.Commitments[i], o.Commitments[i]) {
			return false
		}
	}
	for i := range s.Checks {
		if s.Checks[i] != o.Checks[i] {
			return false
		}
	}
	return true
}

// Recover gives the seed back from t shares of one dealing. A share that does
// not verify, or of another dealing, is left out and named; check decides
// whether the seed is the one that was committed to.
func Recover(shares []Share, check func(seed []byte, next consilium.Digest) error) ([]byte, error) {
	// The dealing that most shares that verify agree on is the one meant.
	var best []*Share
	var wrong []error
	for i := range shares {
		if err := shares[i].Verify(); err != nil {
			wrong = append(wrong, fmt.Errorf("share %d: %w", i+1, err))
			continue
		}
		var same []*Share
		for j := range shares {
			if shares[j].sameDealing(&shares[i]) && shares[j].Verify() == nil {
				dup := false
				for _, s := range same {
					dup = dup || s.Index == shares[j].Index
				}
				if !dup {
					same = append(same, &shares[j])
				}
			}
		}
		if len(same) > len(best) {
			best = same
		}
	}
	if len(best) == 0 || len(best) < best[0].Threshold {
		need := "at least 2"
		if len(best) > 0 {
			need = fmt.Sprint(best[0].Threshold)
		}
		return nil, errors.Join(append([]error{consilium.ErrInvalid.Withf("guardians: %d good shares of one dealing, %s are needed", len(best), need)}, wrong...)...)
	}
	t := uint(best[0].Threshold - 1)
	var values, blinds []secretsharing.Share
	for _, s := range best[:best[0].Threshold] {
		id := ristretto.NewScalar().SetUint64(uint64(s.Index))
		v, _ := parseScalar(s.Value) // Verify read them
		b, _ := parseScalar(s.Blind)
		values = append(values, secretsharing.Share{ID: id, Value: v})
		blinds = append(blinds, secretsharing.Share{ID: id, Value: b})
	}
	value, err := secretsharing.Recover(t, values)
	if err != nil {
		return nil, err
	}
	blind, err := secretsharing.Recover(t, blinds)
	if err != nil {
		return nil, err
	}
	seed := seedOf(value, blind)
	if err := check(seed, best[0].Next); err != nil {
		return nil, err
	}
	return seed, nil
}

// Encode is the share as a guardian keeps it.
func (s *Share) Encode() ([]byte, error) { return json.MarshalIndent((*plainShare)(s), "", " ") }

type plainShare Share // without the methods that hide it

// Parse is the inverse of Encode, and verifies.
func Parse(b []byte) (*Share, error) {
	if len(b) > 1<<16 {
		return nil, consilium.ErrInvalid.Withf("guardian's share: %d bytes", len(b))
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	s := &Share{}
	if err := d.Decode((*plainShare)(s)); err != nil {
		return nil, consilium.ErrInvalid.Withf("guardian's share: %w", err)
	}
	return s, s.Verify()
}
