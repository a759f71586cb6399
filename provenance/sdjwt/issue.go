package sdjwt

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"consilium"
	"consilium/internal/canon"
	"consilium/provenance/did"
)

// saltSize is 128 bits, as RFC 9901 §9.3 recommends: a claim with few possible
// values must not be guessed from its digest.
const saltSize = 16

// Claims are what a credential says.
type Claims struct {
	VCT    string
	Holder did.Key
	Issued time.Time
	From   time.Time // zero: no nbf
	Until  time.Time // zero: no exp
	Plain  map[string]any
	Hidden map[string]any // disclosed at the holder's choice

	// Decoys is how many digests of nothing are added, so that the number of
	// digests does not say which claims there are.
	Decoys int
}

// Issue signs a credential with a hybrid key and returns it with all its
// disclosures and no key binding. The issuer is named by the thumbprint of its
// key (RFC 9278): who that is, a roster or a document says.
func Issue(s consilium.Signer, c Claims) (string, error) {
	issuer := did.Hybrid(s.Public())
	payload := map[string]any{"iss": issuer.ThumbprintURI(), "iat": c.Issued.Unix(), "_sd_alg": "sha-256"}
	if c.VCT == "" || c.Issued.IsZero() {
		return "", errors.New("credential: type and time are needed")
	}
	payload["vct"] = c.VCT
	if !c.From.IsZero() {
		payload["nbf"] = c.From.Unix()
	}
	if !c.Until.IsZero() {
		payload["exp"] = c.Until.Unix()
	}
	if !c.Holder.IsZero() {
		payload["cnf"] = map[string]any{"jwk": c.Holder}
	}
	for name, v := range c.Plain {
		if _, there := payload[name]; there || name == "_sd" || name == "..." {
			return "", fmt.Errorf("credential: claim %q is the credential's own", name)
		}
		payload[name] = v
	}
	var disclosures, digests []string
	hash := hashes["sha-256"]
	for _, name := range slices.Sorted(maps.Keys(c.Hidden)) {
		if _, there := payload[name]; there || slices.Contains(undisclosable, name) {
			return "", fmt.Errorf("credential: claim %q may not be hidden", name)
		}
		b, err := json.Marshal([]any{newSalt(), name, c.Hidden[name]})
		if err != nil {
			return "", err
		}
		enc := b64.EncodeToString(b)
		disclosures = append(disclosures, enc)
		digests = append(digests, b64.EncodeToString(hash([]byte(enc))))
	}
	for range c.Decoys {
		digests = append(digests, b64.EncodeToString(hash([]byte(newSalt()))))
	}
	if len(digests) > 0 {
		slices.Sort(digests) // the order must not say which is which
		payload["_sd"] = digests
	}
	token, err := sign(s, map[string]any{"typ": TypVC, "alg": did.AlgHybrid}, payload)
	if err != nil {
		return "", err
	}
	return token + "~" + strings.Join(append(disclosures, ""), "~"), nil
}

func newSalt() string {
	b := make([]byte, saltSize)
	rand.Read(b) // never fails, see crypto/rand
	return b64.EncodeToString(b)
}

func sign(s consilium.Signer, header, payload map[string]any) (string, error) {
	h, err := canon.Marshal(header)
	if err != nil {
		return "", err
	}
	p, err := canon.Marshal(payload)
	if err != nil {
		return "", err
	}
	input := b64.EncodeToString(h) + "." + b64.EncodeToString(p)
	sig, err := s.Sign(consilium.DomainCredential, []byte(input))
	if err != nil {
		return "", err
	}
	return input + "." + b64.EncodeToString(sig[:]), nil
}

// Present chooses which claims to show and, with a holder's key, signs that
// choice for one audience. show returns whether a claim is shown; nil shows all.
func Present(token string, show func(name string) bool, holder consilium.Signer, b Binding, at time.Time) (string, error) {
	t, err := Parse(token)
	if err != nil {
		return "", err
	}
	if t.binding != nil {
		return "", errors.New("SD-JWT: present the credential itself, not another presentation")
	}
	parts := []string{strings.SplitN(token, "~", 2)[0]}
	for _, d := range t.disclosures {
		if show == nil || show(d.name) {
			parts = append(parts, d.encoded)
		}
	}
	bound := strings.Join(append(parts, ""), "~")
	if holder == nil {
		return bound, nil
	}
	if b.Audience == "" || b.Nonce == "" {
		return "", errors.New("SD-JWT: a key binding is for one audience and one nonce")
	}
	kb, err := sign(holder, map[string]any{"typ": TypKB, "alg": did.AlgHybrid},
		map[string]any{"iat": at.Unix(), "aud": b.Audience, "nonce": b.Nonce, "sd_hash": b64.EncodeToString(t.hash([]byte(bound)))})
	if err != nil {
		return "", err
	}
	return bound + kb, nil
}

// Credential is the presentation without its key binding: what the issuer
// gave.
func (t *Token) Credential() string { return t.bound }

// Issuer is what the credential says of its issuer, unverified: to look the
// key up.
func (t *Token) Issuer() string { s, _ := t.Payload["iss"].(string); return s }

func strictInto(b []byte, dst any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return d.Decode(dst)
}

// SignJWT signs a JWT of a type with a hybrid key.
func SignJWT(s consilium.Signer, typ string, payload map[string]any) (string, error) {
	return sign(s, map[string]any{"typ": typ, "alg": did.AlgHybrid}, payload)
}

// VerifyJWT checks the signature and type of a JWT and returns its payload;
// what the payload means in time is the caller's to judge.
func VerifyJWT(token string, key did.Key, typ string) (map[string]any, error) {
	if len(token) > maxJWT {
		return nil, consilium.ErrTooLarge.Withf("a JWT of %d bytes", len(token))
	}
	j, err := parseJWS(token)
	if err != nil {
		return nil, consilium.ErrSignature.Withf("JWT: %w", err)
	}
	if j.header["typ"] != typ {
		return nil, consilium.ErrSignature.Withf("JWT: type %.40v, want %s", j.header["typ"], typ)
	}
	if err := verifyJWS(key, j.header, j.input, j.sig); err != nil {
		return nil, consilium.ErrSignature.Withf("JWT: %w", err)
	}
	// RFC 7519 §5.3: a claim that the header repeats says the same there. One that
	// stood only in the header would bind nobody, since callers read the payload.
	for _, claim := range restricting {
		if h, there := j.header[claim]; there && !reflect.DeepEqual(h, j.payload[claim]) {
			return nil, consilium.ErrSignature.Withf("JWT: the header says another %s than the claims", claim)
		}
	}
	return j.payload, nil
}

// restricting are the claims for which a JWT must be refused (RFC 7519 §4.1.3 to
// 4.1.5), where they stand.
var restricting = []string{"aud", "exp", "nbf"}

const maxJWT = 1 << 25 // a status list of MaxBits at its most random
