package did

import (
	"crypto/elliptic"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"strings"

	"consilium"
	"consilium/internal/canon"
)

// Document is what a DID says: the keys that may sign for it.
type Document struct {
	ID      string
	Methods []Method
	Digest  consilium.Digest // of the document's bytes; zero where the DID itself is the document
}

// Method is a verification method.
type Method struct {
	ID        string
	Key       Key
	Assertion bool // may issue credentials (assertionMethod)
}

// Find returns the key of a method that may issue credentials. "" takes the
// only one.
func (d *Document) Find(id string) (Key, error) {
	var found []Key
	for _, m := range d.Methods {
		if m.Assertion && (id == "" || m.ID == id || d.ID+id == m.ID || d.ID+"#"+id == m.ID) {
			found = append(found, m.Key)
		}
	}
	if len(found) != 1 {
		return Key{}, fmt.Errorf("%s: %d keys named %.60q may issue credentials, want one", clip(d.ID), len(found), id)
	}
	return found[0], nil
}

// Pin is a did:web document that was looked at once and is believed from
// then on.
type Pin struct {
	DID      string           `json:"did"`
	Digest   consilium.Digest `json:"digest"`
	Document []byte           `json:"document"`
}

// PinDigest is the digest under which a document is pinned.
func PinDigest(document []byte) consilium.Digest { return consilium.DomainDIDDocument.Digest(document) }

// Resolve reads a DID. did:key and did:jwk carry their key; a did:web is
// answered from pins only.
func Resolve(did string, pins []Pin) (*Document, error) {
	switch {
	case len(did) > maxJWK:
		return nil, errors.New("DID: too long")
	case strings.HasPrefix(did, "did:key:"):
		k, err := ParseKey(did)
		if err != nil {
			return nil, err
		}
		id := did + "#" + strings.TrimPrefix(did, "did:key:")
		return &Document{ID: did, Methods: []Method{{id, k, k.Algorithm() != ""}}}, nil
	case strings.HasPrefix(did, "did:jwk:"):
		k, err := ParseJWKDID(did)
		if err != nil {
			return nil, err
		}
		return &Document{ID: did, Methods: []Method{{did + "#0", k, k.Algorithm() != ""}}}, nil
	case strings.HasPrefix(did, "did:web:"):
		for _, p := range pins {
			if p.DID == did {
				return ParseWeb(p)
			}
		}
		return nil, fmt.Errorf("%s: not pinned; look at the document once and pin its digest", clip(did))
	}
	return nil, fmt.Errorf("DID %.40q: want did:key, did:jwk or did:web", did)
}

// JWKDID is the did:jwk of a key.
func (k Key) JWKDID() string {
	return "did:jwk:" + base64.RawURLEncoding.EncodeToString(k.JWK())
}

// ParseJWKDID returns the key of a did:jwk.
func ParseJWKDID(did string) (Key, error) {
	body, ok := strings.CutPrefix(did, "did:jwk:")
	if !ok {
		return Key{}, errors.New("did:jwk: another method")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil {
		return Key{}, errors.New("did:jwk: want unpadded base64url")
	}
	k, err := ParseJWK(b)
	if err != nil {
		return Key{}, fmt.Errorf("did:jwk: %w", err)
	}
	return k, nil
}

// Multicodec prefixes of public keys (multiformats/multicodec table.csv).
const (
	codecSecp256k1 = 0xe7
	codecBLSG1     = 0xea
	codecBLSG2     = 0xeb
	codecX25519    = 0xec
	codecEd25519   = 0xed
	codecBLSG1G2   = 0xee
	codecP256      = 0x1200
	codecP384      = 0x1201
	codecP521      = 0x1202
	codecRSA       = 0x1205
)

var refusedCodecs = map[uint64]string{codecSecp256k1: "secp256k1", codecBLSG1: "BLS12-381", codecBLSG2: "BLS12-381", codecBLSG1G2: "BLS12-381", codecRSA: "RSA"}

// KeyDID is the did:key of a classical key; a hybrid key has no multicodec,
// and "" is returned for it.
func (k Key) KeyDID() string {
	var code uint64
	raw := k.raw
	switch k.curve {
	case "Ed25519":
		code = codecEd25519
	case "X25519":
		code = codecX25519
	case "P-256", "P-384", "P-521":
		code = map[string]uint64{"P-256": codecP256, "P-384": codecP384, "P-521": codecP521}[k.curve]
		n := (len(raw) - 1) / 2
		raw = elliptic.MarshalCompressed(curves[k.curve], new(big.Int).SetBytes(raw[1:1+n]), new(big.Int).SetBytes(raw[1+n:]))
	default:
		return ""
	}
	return "did:key:z" + encode58(append(binary.AppendUvarint(nil, code), raw...))
}

// ParseKey returns the key that a did:key names. Kinds that we do not verify
// are refused by name.
func ParseKey(did string) (Key, error) {
	body, ok := strings.CutPrefix(did, "did:key:z")
	if !ok || len(body) > 200 {
		return Key{}, errors.New("did:key: want did:key:z and base58btc")
	}
	b, err := decode58(body)
	if err != nil {
		return Key{}, err
	}
	code, n := binary.Uvarint(b)
	if n <= 0 || len(binary.AppendUvarint(nil, code)) != n {
		return Key{}, errors.New("did:key: no multicodec")
	}
	raw := b[n:]
	switch code {
	case codecEd25519:
		return newOKP("Ed25519", raw)
	case codecX25519:
		return newOKP("X25519", raw)
	case codecP256, codecP384, codecP521:
		name := map[uint64]string{codecP256: "P-256", codecP384: "P-384", codecP521: "P-521"}[code]
		x, y := elliptic.UnmarshalCompressed(curves[name], raw)
		if x == nil {
			return Key{}, fmt.Errorf("did:key: not a compressed point of %s", name)
		}
		size := (curves[name].Params().BitSize + 7) / 8
		return newEC(name, append(append([]byte{4}, x.FillBytes(make([]byte, size))...), y.FillBytes(make([]byte, size))...))
	}
	if name := refusedCodecs[code]; name != "" {
		return Key{}, fmt.Errorf("did:key: a %s key, which this federation does not verify; ask for Ed25519 or P-256", name)
	}
	return Key{}, fmt.Errorf("did:key: multicodec %#x is unknown", code)
}

// WebURL is where a did:web document is published (did-method-web §3.2).
func WebURL(did string) (string, error) {
	body, ok := strings.CutPrefix(did, "did:web:")
	if !ok || body == "" || len(did) > 1024 {
		return "", errors.New("did:web: want did:web:HOST or did:web:HOST:PATH")
	}
	parts := strings.Split(body, ":")
	for i, p := range parts {
		if p == "" || strings.ContainsAny(p, "/?#@ ") || p == "." || p == ".." {
			return "", fmt.Errorf("did:web: part %d of %.80q", i, did)
		}
		if i > 0 && strings.Contains(p, "%") {
			return "", fmt.Errorf("did:web: an escape in the path of %.80q", did)
		}
	}
	host, err := url.PathUnescape(parts[0]) // the port's colon is escaped
	if err != nil || strings.ContainsAny(host, "/?#@%\\ ") || strings.Count(host, ":") > 1 || strings.ToLower(host) != host {
		return "", fmt.Errorf("did:web: host %.80q", parts[0])
	}
	u, err := url.Parse("https://" + host)
	if err != nil || u.Host != host || u.Hostname() == "" || u.Port() == "" && strings.Contains(host, ":") {
		return "", fmt.Errorf("did:web: host %.80q", parts[0])
	}
	if len(parts) == 1 {
		return "https://" + host + "/.well-known/did.json", nil
	}
	return "https://" + host + "/" + strings.Join(parts[1:], "/") + "/did.json", nil
}

// ParseWeb reads a pinned did:web document. Methods with keys that we do not
// understand are left out; if none remains, the document is refused.
func ParseWeb(p Pin) (*Document, error) {
	if _, err := WebURL(p.DID); err != nil {
		return nil, err
	}
	if got := PinDigest(p.Document); got != p.Digest {
		return nil, consilium.ErrSignature.Withf("%s: the document has digest %s, pinned is %s", clip(p.DID), got.Short(), p.Digest.Short())
	}
	if len(p.Document) > 1<<16 {
		return nil, fmt.Errorf("%s: a document of %d bytes", clip(p.DID), len(p.Document))
	}
	m, err := canon.DecodeObject(p.Document)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", clip(p.DID), err)
	}
	if m["id"] != p.DID {
		return nil, fmt.Errorf("%s: the document is of %.80v", clip(p.DID), m["id"])
	}
	d := &Document{ID: p.DID, Digest: p.Digest}
	full := func(id string) string {
		if strings.HasPrefix(id, "#") {
			return p.DID + id
		}
		return id
	}
	add := func(v any, assertion bool) error {
		vm, ok := v.(map[string]any)
		if !ok {
			return fmt.Errorf("%s: a verification method is no object", clip(p.DID))
		}
		id, _ := vm["id"].(string)
		if id = full(id); !strings.HasPrefix(id, p.DID+"#") || vm["controller"] != p.DID {
			return nil // another subject's key: its own document speaks for it
		}
		for _, have := range d.Methods {
			if have.ID == id {
				return fmt.Errorf("%s: method %.80q stands twice", clip(p.DID), id)
			}
		}
		var k Key
		var err error
		if jwk, ok := vm["publicKeyJwk"].(map[string]any); ok {
			k, err = KeyOf(jwk)
		} else if mb, ok := vm["publicKeyMultibase"].(string); ok {
			k, err = ParseKey("did:key:" + mb)
		} else {
			return nil
		}
		if err == nil {
			d.Methods = append(d.Methods, Method{id, k, assertion})
		}
		return nil
	}
	list, _ := m["verificationMethod"].([]any)
	for _, v := range list {
		if err := add(v, false); err != nil {
			return nil, err
		}
	}
	assert, _ := m["assertionMethod"].([]any)
	for _, v := range assert {
		if ref, ok := v.(string); ok {
			for i := range d.Methods {
				if d.Methods[i].ID == full(ref) {
					d.Methods[i].Assertion = d.Methods[i].Key.Algorithm() != ""
				}
			}
			continue
		}
		if err := add(v, true); err != nil {
			return nil, err
		}
	}
	for _, m := range d.Methods {
		if m.Assertion {
			return d, nil
		}
	}
	return nil, fmt.Errorf("%s: no key that may issue credentials and that is understood", clip(p.DID))
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

const base58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

func encode58(b []byte) string {
	n, m, base := new(big.Int).SetBytes(b), new(big.Int), big.NewInt(58)
	var out []byte
	for n.Sign() > 0 {
		n.DivMod(n, base, m)
		out = append(out, base58[m.Int64()])
	}
	for i := 0; i < len(b) && b[i] == 0; i++ {
		out = append(out, base58[0])
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return string(out)
}

func decode58(s string) ([]byte, error) {
	n, base := new(big.Int), big.NewInt(58)
	for i := 0; i < len(s); i++ {
		d := strings.IndexByte(base58, s[i])
		if d < 0 {
			return nil, errors.New("did:key: not base58btc")
		}
		n.Add(n.Mul(n, base), big.NewInt(int64(d)))
	}
	zeros := 0
	for zeros < len(s) && s[zeros] == base58[0] {
		zeros++
	}
	return append(make([]byte, zeros), n.Bytes()...), nil
}
