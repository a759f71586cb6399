package consilium

import (
	"encoding/base64"
	"fmt"
)

// Sizes of the hybrid identity keys and signatures: Ed25519 (RFC 8032)
// followed by ML-DSA-65 (FIPS 204), and of the hybrid KEM key X25519 with
// ML-KEM-768 (HPKE KEM id 0x647a).
const (
	PublicKeySize  = 32 + 1952
	SignatureSize  = 64 + 3309
	SealingKeySize = 1184 + 32
)

// PublicKey is a hybrid identity key: Ed25519, then ML-DSA-65. Both halves
// must verify; internal/hybrid does it.
type PublicKey [PublicKeySize]byte

// Signature is a hybrid signature: Ed25519, then ML-DSA-65.
type Signature [SignatureSize]byte

// SealingKey is a hybrid HPKE public key to which envelopes are sealed.
type SealingKey [SealingKeySize]byte

// Signer holds one identity. Sign covers domain.Message(message).
type Signer interface {
	Public() PublicKey
	Sign(domain Domain, message []byte) (Signature, error)
}

// Signed is a document with its signatures. Payload is the exact bytes that
// were signed; nothing ever re-encodes them.
type Signed struct {
	Payload    []byte        `json:"payload"`
	Signatures []Countersign `json:"signatures"`
}

// Countersign is one identity's signature on a Signed document.
type Countersign struct {
	By        string    `json:"by"`
	Signature Signature `json:"signature"`
}

func (k PublicKey) MarshalText() ([]byte, error)  { return marshalBytes(k[:]), nil }
func (k *PublicKey) UnmarshalText(b []byte) error { return unmarshalBytes("public key", k[:], b) }
func (k PublicKey) IsZero() bool                  { return k == PublicKey{} }

// Short names the key for people: the first eight hexadecimal characters of
// its Ed25519 half.
func (k PublicKey) Short() string { return fmt.Sprintf("%x", k[:4]) }

func (s Signature) MarshalText() ([]byte, error)  { return marshalBytes(s[:]), nil }
func (s *Signature) UnmarshalText(b []byte) error { return unmarshalBytes("signature", s[:], b) }

func (k SealingKey) MarshalText() ([]byte, error)  { return marshalBytes(k[:]), nil }
func (k *SealingKey) UnmarshalText(b []byte) error { return unmarshalBytes("sealing key", k[:], b) }
func (k SealingKey) IsZero() bool                  { return k == SealingKey{} }

func marshalBytes(b []byte) []byte {
	out := make([]byte, base64.RawURLEncoding.EncodedLen(len(b)))
	base64.RawURLEncoding.Encode(out, b)
	return out
}

func unmarshalBytes(what string, dst, text []byte) error {
	enc := base64.RawURLEncoding.Strict()
	if len(text) != enc.EncodedLen(len(dst)) {
		return fmt.Errorf("%s: %d characters, want %d of unpadded base64url", what, len(text), enc.EncodedLen(len(dst)))
	}
	if _, err := enc.Decode(dst, text); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
