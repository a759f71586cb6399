package did

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/hybrid"
)

// Names of signature algorithms in a JOSE header.
const (
	// AlgHybrid is ours: internal/hybrid under DomainCredential, over the JWS
	// signing input. The composite algorithms of the JOSE working group are a
	// draft and sign something else; RFC 7515 §4.1.1 lets a private name be used
	// that cannot collide.
	AlgHybrid = "consilium.ed25519+ml-dsa-65"

	AlgEdDSA = "EdDSA"
	AlgES256 = "ES256"
	AlgES384 = "ES384"
	AlgES512 = "ES512"
)

// Key is a public key. The zero Key verifies nothing.
type Key struct {
	curve string // "hybrid", "Ed25519", "X25519", "P-256", "P-384" or "P-521"
	raw   []byte // the hybrid key, the 32 bytes of OKP, or the uncompressed point
}

// Hybrid is the Key of one of our own identities.
func Hybrid(k consilium.PublicKey) Key { return Key{"hybrid", append([]byte(nil), k[:]...)} }

// HybridKey is the inverse of Hybrid; false for any other kind.
func (k Key) HybridKey() (consilium.PublicKey, bool) {
	var out consilium.PublicKey
	if k.curve != "hybrid" {
		return out, false
	}
	copy(out[:], k.raw)
	return out, true
}

// IsZero reports whether k is no key.
func (k Key) IsZero() bool { return k.curve == "" }

// Equal compares kind and value.
func (k Key) Equal(o Key) bool { return k.curve == o.curve && string(k.raw) == string(o.raw) }

func (k Key) String() string {
	if k.IsZero() {
		return "no key"
	}
	return k.curve + " " + k.Thumbprint()[:12]
}

var curves = map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}

func newEC(name string, point []byte) (Key, error) {
	// ParseUncompressedPublicKey refuses a point off the curve: with one, a
	// shared secret would leak the other side's key (invalid-curve attack).
	if _, err := ecdsa.ParseUncompressedPublicKey(curves[name], point); err != nil {
		return Key{}, fmt.Errorf("%s key: %w", name, err)
	}
	return Key{name, point}, nil
}

func newOKP(name string, raw []byte) (Key, error) {
	if len(raw) != 32 {
		return Key{}, fmt.Errorf("%s key: %d bytes, want 32", name, len(raw))
	}
	if name == "X25519" {
		if _, err := ecdh.X25519().NewPublicKey(raw); err != nil {
			return Key{}, err
		}
	}
	return Key{name, append([]byte(nil), raw...)}, nil
}

// members are the required members of the key's JWK, the ones that RFC 7638
// hashes.
func (k Key) members() map[string]string {
	b64 := base64.RawURLEncoding.EncodeToString
	switch k.curve {
	case "hybrid":
		return map[string]string{"kty": "AKP", "alg": AlgHybrid, "pub": b64(k.raw)}
	case "Ed25519", "X25519":
		return map[string]string{"kty": "OKP", "crv": k.curve, "x": b64(k.raw)}
	case "":
		return map[string]string{}
	}
	n := (len(k.raw) - 1) / 2
	return map[string]string{"kty": "EC", "crv": k.curve, "x": b64(k.raw[1 : 1+n]), "y": b64(k.raw[1+n:])}
}

// JWK is the key as a JSON Web Key with its required members only, in the
// form that RFC 7638 hashes.
func (k Key) JWK() json.RawMessage {
	b, err := canon.Marshal(k.members())
	if err != nil {
		panic("did: " + err.Error()) // a map of plain strings
	}
	return b
}

// MarshalJSON implements json.Marshaler.
func (k Key) MarshalJSON() ([]byte, error) { return k.JWK(), nil }

// Thumbprint is the RFC 7638 thumbprint with SHA-256, in base64url.
func (k Key) Thumbprint() string {
	h := sha256.Sum256(k.JWK())
	return base64.RawURLEncoding.EncodeToString(h[:])
}

// ThumbprintURI names the key in one line (RFC 9278).
func (k Key) ThumbprintURI() string {
	return "urn:ietf:params:oauth:jwk-thumbprint:sha-256:" + k.Thumbprint()
}

// maxJWK bounds a JWK: a hybrid one has 2.8 kB.
const maxJWK = 8 << 10

// ParseJWK reads a public JSON Web Key. A private one is refused: whoever
// sent it has published a secret. Kinds that are not understood are refused by
// name.
func ParseJWK(b []byte) (Key, error) {
	if len(b) > maxJWK {
		return Key{}, fmt.Errorf("JWK: %d bytes, at most %d", len(b), maxJWK)
	}
	m, err := canon.DecodeObject(b)
	if err != nil {
		return Key{}, fmt.Errorf("JWK: %w", err)
	}
	return KeyOf(m)
}

// forUse holds a key to what its owner published it for (RFC 7517 §4.2, §4.3):
// one for encryption verifies nothing.
func forUse(m map[string]any, k Key) error {
	agrees := k.curve == "X25519"
	if use, ok := m["use"]; ok && use != "sig" && !(agrees && use == "enc") || ok && agrees && use == "sig" {
		return fmt.Errorf("JWK: a %s key with use %.20q", k.curve, use)
	}
	ops, ok := m["key_ops"]
	if !ok {
		return nil
	}
	list, _ := ops.([]any)
	want := []any{"verify"}
	if agrees {
		want = []any{"deriveKey", "deriveBits"}
	}
	for _, op := range list {
		if slices.Contains(want, op) {
			return nil
		}
	}
	return fmt.Errorf("JWK: a %s key with key_ops %.80v", k.curve, ops)
}

// KeyOf is ParseJWK for a decoded object.
func KeyOf(m map[string]any) (Key, error) {
	for _, secret := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"} {
		if _, ok := m[secret]; ok {
			return Key{}, errors.New("JWK: holds a private key; its owner must replace it")
		}
	}
	text := func(name string) string { s, _ := m[name].(string); return s }
	bytes := func(name string, size int) ([]byte, error) {
		s := text(name)
		b, err := base64.RawURLEncoding.Strict().DecodeString(s)
		if err != nil || len(b) != size {
			return nil, fmt.Errorf("JWK: %s: want %d bytes of unpadded base64url", name, size)
		}
		return b, nil
	}
	var k Key
	var err error
	switch kty, crv := text("kty"), text("crv"); {
	case kty == "AKP":
		if alg := text("alg"); alg != AlgHybrid {
			return Key{}, fmt.Errorf("JWK: algorithm %.40q, want %s", alg, AlgHybrid)
		}
		var raw []byte
		if raw, err = bytes("pub", consilium.PublicKeySize); err == nil {
			k = Key{"hybrid", raw}
		}
	case kty == "OKP" && (crv == "Ed25519" || crv == "X25519"):
		var raw []byte
		if raw, err = bytes("x", 32); err == nil {
			k, err = newOKP(crv, raw)
		}
	case kty == "EC" && curves[crv] != nil:
		n := (curves[crv].Params().BitSize + 7) / 8
		var x, y []byte
		if x, err = bytes("x", n); err != nil {
			break
		}
		if y, err = bytes("y", n); err != nil {
			break
		}
		k, err = newEC(crv, append(append([]byte{4}, x...), y...))
	default:
		return Key{}, fmt.Errorf("JWK: kty %.20q crv %.20q is not understood; Ed25519, P-256, P-384, P-521 and hybrid keys are", kty, crv)
	}
	if err != nil {
		return Key{}, err
	}
	if err := forUse(m, k); err != nil {
		return Key{}, err
	}
	if alg := text("alg"); alg != "" && alg != k.Algorithm() {
		return Key{}, fmt.Errorf("JWK: a %s key for algorithm %.40q", k.curve, alg)
	}
	return k, nil
}

// Algorithm is the one signature algorithm of the key, or "" if it signs
// nothing. The key chooses, never the message: that is what keeps a header from
// talking a verifier into a weaker check (RFC 8725 §3.1).
func (k Key) Algorithm() string {
	return map[string]string{"hybrid": AlgHybrid, "Ed25519": AlgEdDSA, "P-256": AlgES256, "P-384": AlgES384, "P-521": AlgES512}[k.curve]
}

// Verify checks a JWS signature over message under domain, which counts for
// hybrid keys only: the classical algorithms of JOSE have no room for it.
func (k Key) Verify(domain consilium.Domain, message, sig []byte) error {
	switch k.curve {
	case "hybrid":
		var s consilium.Signature
		if len(sig) != len(s) {
			return consilium.ErrSignature.Withf("%d bytes, want %d", len(sig), len(s))
		}
		copy(s[:], sig)
		return hybrid.Verify(consilium.PublicKey(k.raw), domain, message, &s)
	case "Ed25519":
		if !ed25519.Verify(k.raw, message, sig) {
			return consilium.ErrSignature
		}
		return nil
	case "P-256", "P-384", "P-521":
		curve := curves[k.curve]
		n := (curve.Params().BitSize + 7) / 8
		pub, err := ecdsa.ParseUncompressedPublicKey(curve, k.raw)
		if err != nil {
			return consilium.ErrSignature.With(err)
		}
		if len(sig) != 2*n { // RFC 7518 §3.4: r and s of full width
			return consilium.ErrSignature.Withf("%d bytes, want %d", len(sig), 2*n)
		}
		h := map[string]crypto.Hash{"P-256": crypto.SHA256, "P-384": crypto.SHA384, "P-521": crypto.SHA512}[k.curve]
		if !ecdsa.Verify(pub, hashOf(h, message), new(big.Int).SetBytes(sig[:n]), new(big.Int).SetBytes(sig[n:])) {
			return consilium.ErrSignature
		}
		return nil
	}
	return consilium.ErrSignature.Withf("a %s key signs nothing", k.curve)
}

func hashOf(h crypto.Hash, b []byte) []byte {
	switch h {
	case crypto.SHA256:
		d := sha256.Sum256(b)
		return d[:]
	case crypto.SHA384:
		d := sha512.Sum384(b)
		return d[:]
	}
	d := sha512.Sum512(b)
	return d[:]
}

// Ed25519 is the key's value if it is an Ed25519 key.
func (k Key) Ed25519() (out [32]byte, ok bool) {
	if k.curve != "Ed25519" {
		return out, false
	}
	copy(out[:], k.raw)
	return out, true
}

// FromEd25519 is the Key of an Ed25519 public key.
func FromEd25519(raw [32]byte) Key { return Key{"Ed25519", raw[:]} }

// ThumbprintOf is the RFC 7638 thumbprint of any public JWK, also of a kind
// whose signatures we do not verify: it hashes the required members and leaves
// the others out.
func ThumbprintOf(jwk []byte) (string, error) {
	m, err := canon.DecodeObject(jwk)
	if err != nil {
		return "", fmt.Errorf("JWK: %w", err)
	}
	kty, _ := m["kty"].(string)
	required := map[string][]string{"EC": {"crv", "kty", "x", "y"}, "OKP": {"crv", "kty", "x"}, "RSA": {"e", "kty", "n"}, "AKP": {"alg", "kty", "pub"}}[kty]
	if required == nil {
		return "", fmt.Errorf("JWK: kty %.20q", kty)
	}
	out := map[string]string{}
	for _, name := range required {
		s, ok := m[name].(string)
		if !ok {
			return "", fmt.Errorf("JWK: no %s", name)
		}
		out[name] = s
	}
	b, err := canon.Marshal(out)
	if err != nil {
		return "", err
	}
	h := sha256.Sum256(b)
	return base64.RawURLEncoding.EncodeToString(h[:]), nil
}
