// Package seal promises that only the holder of one key reads an envelope and
// that it opens only in the place it was made for. It is HPKE base mode
// (RFC 9180) with X25519 and ML-KEM-768 together (KEM id 0x647a, as in
// draft-ietf-hpke-pq), HKDF-SHA256 and AES-256-GCM. The place, a domain and
// the caller's context, goes into HPKE's info: an envelope moved elsewhere
// does not open.
package seal

import (
	"crypto/hpke"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"consilium"
)

// Overhead is how many bytes an envelope is longer than what it holds:
// the encapsulated key (32 + 1088) and the AES-GCM tag.
const Overhead = 32 + 1088 + 16

// ErrOpen says that an envelope is not for this key, not for this place, or
// damaged; which of them is deliberately not said.
var ErrOpen = errors.New("sealed envelope does not open")

// Key is the secret half of a sealing key. It prints as Key(redacted).
type Key struct {
	private hpke.PrivateKey
	public  consilium.SealingKey
}

// Generate makes a fresh key from system randomness.
func Generate() (*Key, error) {
	k, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return nil, err
	}
	return newKey(k)
}

// Parse restores a key from Bytes.
func Parse(b []byte) (*Key, error) {
	k, err := hpke.MLKEM768X25519().NewPrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	return newKey(k)
}

func newKey(k hpke.PrivateKey) (*Key, error) {
	out := &Key{private: k}
	pub := k.PublicKey().Bytes()
	if len(pub) != len(out.public) {
		return nil, fmt.Errorf("sealing key: public key of %d bytes, want %d", len(pub), len(out.public))
	}
	copy(out.public[:], pub)
	return out, nil
}

// Public is the half that others seal to.
func (k *Key) Public() consilium.SealingKey { return k.public }

// Bytes returns the secret for storage.
func (k *Key) Bytes() ([]byte, error) { return k.private.Bytes() }

func (k Key) String() string             { return "Key(redacted)" }
func (k Key) GoString() string           { return "Key(redacted)" }
func (k Key) LogValue() slog.Value       { return slog.StringValue("Key(redacted)") }
func (k Key) Format(f fmt.State, _ rune) { io.WriteString(f, "Key(redacted)") }

// Seal encrypts plaintext to a key for one place.
func Seal(to consilium.SealingKey, domain consilium.Domain, context, plaintext []byte) ([]byte, error) {
	pk, err := hpke.MLKEM768X25519().NewPublicKey(to[:])
	if err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	return hpke.Seal(pk, hpke.HKDFSHA256(), hpke.AES256GCM(), domain.Message(context), plaintext)
}

// Open decrypts an envelope that was sealed to k for this place.
func (k *Key) Open(domain consilium.Domain, context, sealed []byte) ([]byte, error) {
	b, err := hpke.Open(k.private, hpke.HKDFSHA256(), hpke.AES256GCM(), domain.Message(context), sealed)
	if err != nil {
		return nil, ErrOpen
	}
	return b, nil
}
