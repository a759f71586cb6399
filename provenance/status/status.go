// Package status keeps and reads the published list that says which
// credentials still count: W3C Bitstring Status List 1.0.
//
// One bit stands for each credential, and the whole list is public: who looks a
// bit up tells nobody which one. Indices are drawn at random, so neighbours say
// nothing about one another, and the list never has fewer than 2^17 bits.
//
// A verifier that has no list, an old one or one of another issuer refuses the
// credential: what cannot be looked up does not count.
package status

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strconv"
	"time"

	"consilium"
	"consilium/internal/canon"
	"consilium/provenance/did"
	"consilium/provenance/sdjwt"
)

// MinBits is the least length (§6.1: 131,072, so that a credential hides among
// others). MaxBits bounds what an encoded list may unpack to: 16 KiB of gzip
// can claim to be gigabytes.
const (
	MinBits = 1 << 17
	MaxBits = 1 << 27
)

// Purpose is why a bit is set.
const (
	Revocation = "revocation" // for good
	Suspension = "suspension" // until it is cleared
)

// List is a bitstring. Bit 0 is the leftmost, the highest of the first byte.
type List struct{ bits []byte }

// NewList makes a list of n bits, none set; n is raised to MinBits.
func NewList(n int) (*List, error) {
	n = max(n, MinBits)
	if n > MaxBits {
		return nil, fmt.Errorf("status list: %d bits, at most %d", n, MaxBits)
	}
	return &List{make([]byte, (n+7)/8)}, nil
}

// Len is the number of bits.
func (l *List) Len() int { return 8 * len(l.bits) }

// Get reads bit i. An index off the list is an error: it must not read as
// "still counts".
func (l *List) Get(i int) (bool, error) {
	if i < 0 || i >= l.Len() {
		return false, fmt.Errorf("status list: index %d of %d", i, l.Len())
	}
	return l.bits[i/8]&(0x80>>(i%8)) != 0, nil
}

// Set writes bit i.
func (l *List) Set(i int, v bool) error {
	if _, err := l.Get(i); err != nil {
		return err
	}
	if v {
		l.bits[i/8] |= 0x80 >> (i % 8)
	} else {
		l.bits[i/8] &^= 0x80 >> (i % 8)
	}
	return nil
}

// Draw picks a random index that taken does not hold.
func (l *List) Draw(taken func(int) bool) (int, error) {
	for range 1000 {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(l.Len())))
		if err != nil {
			return 0, err
		}
		if i := int(n.Int64()); !taken(i) {
			return i, nil
		}
	}
	return 0, errors.New("status list: full; begin another one")
}

// Encode is the list's encodedList: multibase base64url of its gzip (§3.3).
func (l *List) Encode() string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(l.bits) // to memory: never fails
	z.Close()
	return "u" + base64.RawURLEncoding.EncodeToString(b.Bytes())
}

// Decode is the inverse of Encode (§3.4).
func Decode(s string) (*List, error) {
	if len(s) > 1<<25 || len(s) == 0 || s[0] != 'u' {
		return nil, errors.New("status list: want multibase base64url, which begins with u")
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s[1:])
	if err != nil {
		return nil, errors.New("status list: not base64url")
	}
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("status list: %w", err)
	}
	bits, err := io.ReadAll(io.LimitReader(z, MaxBits/8+1))
	if err != nil {
		return nil, fmt.Errorf("status list: %w", err)
	}
	if n := 8 * len(bits); n < MinBits || n > MaxBits {
		return nil, fmt.Errorf("status list: %d bits, want %d to %d", n, MinBits, MaxBits)
	}
	return &List{bits}, nil
}

// Entry is a credential's place in a list, its claim credentialStatus (§3.1).
type Entry struct {
	Type    string `json:"type"` // "BitstringStatusListEntry"
	Purpose string `json:"statusPurpose"`
	Index   string `json:"statusListIndex"` // a decimal number in a string, as the standard wants it
	List    string `json:"statusListCredential"`
}

// NewEntry places a credential.
func NewEntry(list string, index int) Entry {
	return Entry{Type: "BitstringStatusListEntry", Purpose: Revocation, Index: strconv.Itoa(index), List: list}
}

// EntryOf reads the claim credentialStatus.
func EntryOf(claim any) (Entry, error) {
	var e Entry
	if err := sdjwt.Decode(claim, &e); err != nil {
		return e, fmt.Errorf("credentialStatus: %w", err)
	}
	if _, err := e.index(); err != nil || e.Type != "BitstringStatusListEntry" || e.List == "" || e.Purpose != Revocation && e.Purpose != Suspension {
		return e, fmt.Errorf("credentialStatus: %.200v is not understood", claim)
	}
	return e, nil
}

// Position is the entry's index.
func (e Entry) Position() (int, error) { return e.index() }

func (e Entry) index() (int, error) {
	i, err := strconv.Atoi(e.Index)
	if err != nil || i < 0 || i >= MaxBits || strconv.Itoa(i) != e.Index {
		return 0, fmt.Errorf("statusListIndex %.20q", e.Index)
	}
	return i, nil
}

// Published is a status list as its issuer signs it.
type Published struct {
	ID      string // the address, which entries name
	Purpose string
	From    time.Time
	Until   time.Time
	List    *List
}

// typ is the type of a W3C credential secured as a JWT (VC-JOSE-COSE §3.1).
const typ = "vc+jwt"

// Sign publishes a list: a BitstringStatusListCredential in a JWT under the
// issuer's hybrid signature.
func Sign(s consilium.Signer, p Published) (string, error) {
	if p.ID == "" || p.List == nil || !p.Until.After(p.From) || p.Purpose != Revocation && p.Purpose != Suspension {
		return "", errors.New("status list: address, purpose, list and validity are needed")
	}
	issuer := did.Hybrid(s.Public()).ThumbprintURI()
	return sdjwt.SignJWT(s, typ, map[string]any{
		"@context": []string{"https://www.w3.org/ns/credentials/v2"}, "id": p.ID, "type": []string{"VerifiableCredential", "BitstringStatusListCredential"},
		"issuer": issuer, "iss": issuer, "iat": p.From.Unix(), "exp": p.Until.Unix(),
		"validFrom": p.From.UTC().Format(time.RFC3339), "validUntil": p.Until.UTC().Format(time.RFC3339),
		"credentialSubject": map[string]any{"id": p.ID + "#list", "type": "BitstringStatusList", "statusPurpose": p.Purpose, "encodedList": p.List.Encode()},
	})
}

// Open verifies a published list. Its time must fit: a list held back would
// hide a revocation.
func Open(token string, issuer did.Key, now time.Time) (*Published, error) {
	payload, err := sdjwt.VerifyJWT(token, issuer, typ)
	if err != nil {
		return nil, fmt.Errorf("status list: %w", err)
	}
	p, err := parse(payload)
	if err != nil {
		return nil, err
	}
	if !p.From.IsZero() && now.Before(p.From.Add(-sdjwt.DefaultSkew)) || p.Until.IsZero() || !now.Before(p.Until.Add(sdjwt.DefaultSkew)) {
		return nil, consilium.ErrStale.Withf("status list %.80s: valid from %s until %s", p.ID, p.From.Format(time.RFC3339), p.Until.Format(time.RFC3339))
	}
	return p, nil
}

// ParseCredential reads the JSON of a BitstringStatusListCredential without
// its proof.
func ParseCredential(b []byte) (*Published, error) {
	m, err := canon.DecodeObject(b)
	if err != nil {
		return nil, fmt.Errorf("status list: %w", err)
	}
	return parse(m)
}

func parse(m map[string]any) (*Published, error) {
	text := func(m map[string]any, name string) string { s, _ := m[name].(string); return s }
	types, _ := m["type"].([]any)
	ok := false
	for _, t := range types {
		ok = ok || t == "BitstringStatusListCredential"
	}
	subject, _ := m["credentialSubject"].(map[string]any)
	if !ok || text(subject, "type") != "BitstringStatusList" {
		return nil, errors.New("status list: no BitstringStatusListCredential")
	}
	p := &Published{ID: text(m, "id"), Purpose: text(subject, "statusPurpose")}
	if size, there := subject["statusSize"]; there && size != json.Number("1") {
		return nil, errors.New("status list: more than one bit for a credential is not understood")
	}
	var err error
	for name, at := range map[string]*time.Time{"validFrom": &p.From, "validUntil": &p.Until} {
		if s := text(m, name); s != "" {
			if *at, err = time.Parse(time.RFC3339, s); err != nil {
				return nil, fmt.Errorf("status list: %s: %w", name, err)
			}
		}
	}
	if p.List, err = Decode(text(subject, "encodedList")); err != nil {
		return nil, err
	}
	return p, nil
}

// Set reports whether an entry's bit is set: whether the credential no longer
// counts. A list of another purpose or address answers nothing.
func (p *Published) Set(e Entry) (bool, error) {
	if e.List != p.ID || e.Purpose != p.Purpose {
		return false, fmt.Errorf("status list: the entry is about %s in %.80q, this is %s in %.80q", e.Purpose, e.List, p.Purpose, p.ID)
	}
	i, err := e.index()
	if err != nil {
		return false, err
	}
	return p.List.Get(i)
}
