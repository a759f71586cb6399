package sdjwt

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"consilium"
	"consilium/internal/canon"
	"consilium/provenance/did"
)

// MaxSize bounds a presentation: a consent with its two hybrid signatures has
// some 15 kB.
const MaxSize = 48 << 10

// Token is a presentation taken apart, its form checked, no signature yet.
type Token struct {
	Header  map[string]any
	Payload map[string]any // of the issuer, digests still in place

	raw         string // all of it
	issuerInput string // header.payload
	issuerSig   []byte
	disclosures []disclosure
	binding     *jws // nil without key binding
	bound       string
	hash        func([]byte) []byte
}

type jws struct {
	header, payload map[string]any
	input           string
	sig             []byte
}

type disclosure struct {
	encoded string
	digest  string
	salt    string
	name    string // "" for an array element
	isArray bool
	value   any
	used    bool
}

var b64 = base64.RawURLEncoding.Strict()

func decodeSegment(s string) ([]byte, error) {
	b, err := b64.DecodeString(s)
	if err != nil || b64.EncodeToString(b) != s {
		return nil, errors.New("want unpadded base64url")
	}
	return b, nil
}

func parseJWS(s string) (*jws, error) {
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		return nil, errors.New("want header.payload.signature")
	}
	j := &jws{input: parts[0] + "." + parts[1]}
	h, err := decodeSegment(parts[0])
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if j.header, err = canon.DecodeObject(h); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	p, err := decodeSegment(parts[1])
	if err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	if j.payload, err = canon.DecodeObject(p); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	if j.sig, err = decodeSegment(parts[2]); err != nil || len(j.sig) == 0 {
		return nil, errors.New("signature: want unpadded base64url, not empty")
	}
	// RFC 7515 §4.1.11: what says that it must be understood, and is not, is
	// refused; we understand no extension.
	if _, ok := j.header["crit"]; ok {
		return nil, errors.New("header: crit names an extension that is not understood")
	}
	if _, ok := j.header["b64"]; ok {
		return nil, errors.New("header: b64 is not understood")
	}
	return j, nil
}

// hashes are the algorithms of _sd_alg that we accept (IANA Named Information
// Hash Algorithm Registry; case-sensitive). Anything else is refused.
var hashes = map[string]func([]byte) []byte{
	"sha-256": func(b []byte) []byte { h := sha256.Sum256(b); return h[:] },
	"sha-384": func(b []byte) []byte { h := sha512.Sum384(b); return h[:] },
	"sha-512": func(b []byte) []byte { h := sha512.Sum512(b); return h[:] },
}

// Parse takes a compact SD-JWT or SD-JWT+KB apart (RFC 9901 §4). It checks the
// form, nothing else.
func Parse(s string) (*Token, error) {
	bad := func(err error) (*Token, error) { return nil, fmt.Errorf("SD-JWT: %w", err) }
	if len(s) > MaxSize {
		return bad(fmt.Errorf("%d bytes, at most %d", len(s), MaxSize))
	}
	parts := strings.Split(s, "~")
	if len(parts) < 2 {
		return bad(errors.New("want issuer-signed JWT, then a tilde"))
	}
	issuer, err := parseJWS(parts[0])
	if err != nil {
		return bad(err)
	}
	t := &Token{Header: issuer.header, Payload: issuer.payload, raw: s, issuerInput: issuer.input, issuerSig: issuer.sig}
	last := parts[len(parts)-1]
	t.bound = strings.TrimSuffix(s, last)
	if last != "" {
		if t.binding, err = parseJWS(last); err != nil {
			return bad(fmt.Errorf("key binding: %w", err))
		}
	}
	alg := "sha-256"
	if v, ok := t.Payload["_sd_alg"]; ok {
		if alg, ok = v.(string); !ok {
			return bad(errors.New("_sd_alg is no string"))
		}
	}
	if t.hash = hashes[alg]; t.hash == nil {
		return bad(fmt.Errorf("_sd_alg %.40q is not accepted; sha-256, sha-384 and sha-512 are", alg))
	}
	seen := map[string]bool{}
	for i, enc := range parts[1 : len(parts)-1] {
		d, err := parseDisclosure(enc)
		if err != nil {
			return bad(fmt.Errorf("disclosure %d: %w", i, err))
		}
		d.digest = b64.EncodeToString(t.hash([]byte(enc)))
		if seen[d.digest] {
			return bad(fmt.Errorf("disclosure %d stands twice", i))
		}
		seen[d.digest] = true
		t.disclosures = append(t.disclosures, d)
	}
	return t, nil
}

func parseDisclosure(enc string) (disclosure, error) {
	d := disclosure{encoded: enc}
	b, err := decodeSegment(enc)
	if err != nil {
		return d, err
	}
	v, err := canon.Decode(b)
	if err != nil {
		return d, err
	}
	list, ok := v.([]any)
	if !ok || len(list) != 2 && len(list) != 3 {
		return d, errors.New("want an array of two or three")
	}
	if d.salt, ok = list[0].(string); !ok {
		return d, errors.New("the salt is no string")
	}
	d.value, d.isArray = list[len(list)-1], len(list) == 2
	if d.isArray {
		return d, nil
	}
	if d.name, ok = list[1].(string); !ok {
		return d, errors.New("the claim's name is no string")
	}
	if d.name == "_sd" || d.name == "..." {
		return d, fmt.Errorf("a claim may not be called %q", d.name)
	}
	return d, nil
}

// Disclosed lists the names of the claims shown, in the order of the
// presentation; an array element has none.
func (t *Token) Disclosed() []string {
	var out []string
	for _, d := range t.disclosures {
		if d.name != "" {
			out = append(out, d.name)
		}
	}
	return out
}

// Bound reports whether the presentation carries a key binding.
func (t *Token) Bound() bool { return t.binding != nil }

// process replaces digests by what is disclosed (RFC 9901 §7.1, step 3). It
// fails on a digest that stands twice, a claim that is there already, and a
// disclosure that nothing refers to.
func (t *Token) process() (map[string]any, error) {
	byDigest := map[string]*disclosure{}
	for i := range t.disclosures {
		t.disclosures[i].used = false
		byDigest[t.disclosures[i].digest] = &t.disclosures[i]
	}
	p := processor{byDigest: byDigest, seen: map[string]bool{}}
	out, err := p.object(t.Payload, true)
	if err != nil {
		return nil, err
	}
	for _, d := range t.disclosures {
		if !d.used {
			return nil, errors.New("a disclosure that the credential does not refer to")
		}
	}
	return out, nil
}

type processor struct {
	byDigest map[string]*disclosure
	seen     map[string]bool
}

func (p *processor) digest(v any) (*disclosure, error) {
	s, ok := v.(string)
	if !ok {
		return nil, errors.New("a digest is no string")
	}
	if p.seen[s] {
		return nil, errors.New("a digest stands twice")
	}
	p.seen[s] = true
	return p.byDigest[s], nil
}

func (p *processor) object(in map[string]any, top bool) (map[string]any, error) {
	out := make(map[string]any, len(in))
	for name, v := range in {
		switch name {
		case "_sd":
			continue
		case "...":
			return nil, errors.New(`a member "..." outside an array`)
		case "_sd_alg":
			if top {
				continue
			}
			return nil, errors.New("_sd_alg below the top")
		}
		w, err := p.value(v)
		if err != nil {
			return nil, err
		}
		out[name] = w
	}
	sd, ok := in["_sd"]
	if !ok {
		return out, nil
	}
	list, ok := sd.([]any)
	if !ok {
		return nil, errors.New("_sd is no array")
	}
	for _, x := range list {
		d, err := p.digest(x)
		if err != nil {
			return nil, err
		}
		if d == nil {
			continue // not shown, or a decoy
		}
		if d.isArray {
			return nil, errors.New("an array element is disclosed as a claim")
		}
		if _, there := out[d.name]; there {
			return nil, fmt.Errorf("claim %.40q is there twice", d.name)
		}
		if d.used {
			return nil, errors.New("a disclosure is used twice")
		}
		d.used = true
		if out[d.name], err = p.value(d.value); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (p *processor) value(v any) (any, error) {
	switch v := v.(type) {
	case map[string]any:
		return p.object(v, false)
	case []any:
		out := []any{}
		for _, x := range v {
			if m, ok := x.(map[string]any); ok {
				if ref, ok := m["..."]; ok {
					if len(m) != 1 {
						return nil, errors.New("a digest of an array element has other members")
					}
					d, err := p.digest(ref)
					if err != nil {
						return nil, err
					}
					if d == nil {
						continue
					}
					if !d.isArray {
						return nil, errors.New("a claim is disclosed as an array element")
					}
					if d.used {
						return nil, errors.New("a disclosure is used twice")
					}
					d.used = true
					w, err := p.value(d.value)
					if err != nil {
						return nil, err
					}
					out = append(out, w)
					continue
				}
			}
			w, err := p.value(x)
			if err != nil {
				return nil, err
			}
			out = append(out, w)
		}
		return out, nil
	}
	return v, nil
}

// number reads a NumericDate of whole seconds.
func number(m map[string]any, name string) (int64, bool, error) {
	v, ok := m[name]
	if !ok {
		return 0, false, nil
	}
	n, ok := v.(json.Number)
	if !ok {
		return 0, false, fmt.Errorf("%s is no number", name)
	}
	i, err := n.Int64()
	if err != nil || i < 0 || i > 1<<40 {
		return 0, false, fmt.Errorf("%s %.40s: want whole seconds since 1970", name, n)
	}
	return i, true, nil
}

func verifyJWS(key did.Key, header map[string]any, input string, sig []byte) error {
	if alg, _ := header["alg"].(string); alg == "" || alg != key.Algorithm() {
		return consilium.ErrSignature.Withf("algorithm %.40v, the key is for %s", header["alg"], key.Algorithm())
	}
	return key.Verify(consilium.DomainCredential, []byte(input), sig)
}
