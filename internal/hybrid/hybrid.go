// Package hybrid promises that a signature counts only when both of its
// halves verify: Ed25519 (RFC 8032) and ML-DSA-65 (FIPS 204). Whoever breaks
// one of the two schemes forges nothing.
package hybrid

import (
	"crypto"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/cloudflare/circl/sign/mldsa/mldsa65"

	"consilium"
)

// SeedSize is the size of the one secret from which an identity derives.
const SeedSize = 32

// Key is an identity's secret. It prints as Key(redacted).
type Key struct {
	seed   [SeedSize]byte
	ed     ed25519.PrivateKey
	ml     *mldsa65.PrivateKey
	public consilium.PublicKey
}

var _ consilium.Signer = (*Key)(nil)

// Generate makes a fresh identity from system randomness.
func Generate() (*Key, error) {
	var seed [SeedSize]byte
	if _, err := io.ReadFull(rand.Reader, seed[:]); err != nil {
		return nil, err
	}
	return FromSeed(seed[:])
}

// FromSeed derives an identity from its 32-byte secret: one HKDF-SHA256
// output for each scheme, so neither key says anything about the other.
func FromSeed(seed []byte) (*Key, error) {
	if len(seed) != SeedSize {
		return nil, fmt.Errorf("identity seed: %d bytes, want %d", len(seed), SeedSize)
	}
	k := &Key{}
	copy(k.seed[:], seed)
	edSeed, err := hkdf.Key(sha256.New, seed, nil, "consilium identity ed25519", ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	mlSeed, err := hkdf.Key(sha256.New, seed, nil, "consilium identity ml-dsa-65", mldsa65.SeedSize)
	if err != nil {
		return nil, err
	}
	k.ed = ed25519.NewKeyFromSeed(edSeed)
	pub, private := mldsa65.NewKeyFromSeed((*[mldsa65.SeedSize]byte)(mlSeed))
	k.ml = private
	copy(k.public[:32], k.ed.Public().(ed25519.PublicKey))
	copy(k.public[32:], pub.Bytes())
	return k, nil
}

// Public is the identity's public key.
func (k *Key) Public() consilium.PublicKey { return k.public }

// Seed returns the secret for storage. The caller keeps it as it would keep
// the key.
func (k *Key) Seed() []byte { return append([]byte(nil), k.seed[:]...) }

// Equal compares in constant time.
func (k *Key) Equal(other *Key) bool {
	return other != nil && subtle.ConstantTimeCompare(k.seed[:], other.seed[:]) == 1
}

func (k Key) String() string       { return "Key(redacted)" }
func (k Key) GoString() string     { return "Key(redacted)" }
func (k Key) LogValue() slog.Value { return slog.StringValue("Key(redacted)") }

// Format keeps %+v and %x from printing the secret.
func (k Key) Format(f fmt.State, _ rune) { io.WriteString(f, "Key(redacted)") }

// Sign signs message under domain with both schemes. ML-DSA binds the domain
// a second time as its context string.
func (k *Key) Sign(domain consilium.Domain, message []byte) (consilium.Signature, error) {
	var sig consilium.Signature
	m := domain.Message(message)
	ed, err := k.ed.Sign(rand.Reader, m, crypto.Hash(0))
	if err != nil {
		return sig, err
	}
	copy(sig[:64], ed)
	if err := mldsa65.SignTo(k.ml, m, []byte(domain), true, sig[64:]); err != nil {
		return sig, err
	}
	return sig, nil
}

// parsed keeps expanded ML-DSA public keys: expanding one costs most of a
// verification, and a federation has few of them. maxParsed bounds what a peer
// with many keys could make it hold.
var (
	parsedMu sync.RWMutex
	parsed   = map[consilium.PublicKey]*mldsa65.PublicKey{}
)

const maxParsed = 1024

func expand(key consilium.PublicKey) (*mldsa65.PublicKey, error) {
	parsedMu.RLock()
	pub := parsed[key]
	parsedMu.RUnlock()
	if pub != nil {
		return pub, nil
	}
	pub = &mldsa65.PublicKey{}
	if err := pub.UnmarshalBinary(key[32:]); err != nil {
		return nil, err
	}
	parsedMu.Lock()
	defer parsedMu.Unlock()
	if len(parsed) >= maxParsed {
		clear(parsed)
	}
	parsed[key] = pub
	return pub, nil
}

var errVerify = errors.New("hybrid signature does not verify")

// Verify reports whether both halves of sig hold for message under domain.
// The error matches consilium.ErrSignature and does not say which half failed.
func Verify(key consilium.PublicKey, domain consilium.Domain, message []byte, sig *consilium.Signature) error {
	asked := question(&key, domain, message, sig)
	if _, ok := verified.Get(asked); ok {
		return nil
	}
	m := domain.Message(message)
	if !ed25519.Verify(ed25519.PublicKey(key[:32]), m, sig[:64]) {
		return consilium.ErrSignature.With(errVerify)
	}
	pub, err := expand(key)
	if err != nil {
		return consilium.ErrSignature.With(errVerify)
	}
	if !mldsa65.Verify(pub, m, []byte(domain), sig[64:]) {
		return consilium.ErrSignature.With(errVerify)
	}
	verified.Put(asked, struct{}{})
	return nil
}

// VerifyThreshold checks that at least threshold different members of keys
// signed doc.Payload under domain. A signature by a stranger, a repeated
// signer or one that does not verify fails the document: a valid document
// carries only valid signatures.
func VerifyThreshold(keys map[string]consilium.PublicKey, threshold int, domain consilium.Domain, doc *consilium.Signed) error {
	if threshold < 1 {
		return consilium.ErrSignature.Withf("threshold %d", threshold)
	}
	seen := map[string]bool{}
	for i := range doc.Signatures {
		s := &doc.Signatures[i]
		key, ok := keys[s.By]
		if !ok || seen[s.By] {
			return consilium.ErrSignature.Withf("signer %q is unknown or signed twice", s.By)
		}
		seen[s.By] = true
		if err := Verify(key, domain, doc.Payload, &s.Signature); err != nil {
			return err
		}
	}
	if len(seen) < threshold {
		return consilium.ErrSignature.Withf("%d signatures, %d are needed", len(seen), threshold)
	}
	return nil
}
