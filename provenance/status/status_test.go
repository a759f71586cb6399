package status

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"consilium"
	"consilium/internal/hybrid"
	"consilium/provenance/did"
)

// The example of Bitstring Status List 1.0 (W3C Recommendation), §2.2 "Example
// BitstringStatusListCredential", and the entry of its example credential.
const exampleCredential = `{
  "@context": ["https://www.w3.org/ns/credentials/v2"],
  "id": "https://example.com/credentials/status/3",
  "type": ["VerifiableCredential", "BitstringStatusListCredential"],
  "issuer": "did:example:12345",
  "validFrom": "2021-04-05T14:27:40Z",
  "credentialSubject": {
    "id": "https://example.com/status/3#list",
    "type": "BitstringStatusList",
    "statusPurpose": "revocation",
    "encodedList": "uH4sIAAAAAAAAA-3BMQEAAADCoPVPbQwfoAAAAAAAAAAAAAAAAAAAAIC3AYbSVKsAQAAA"
  }
}`

func TestStandardExample(t *testing.T) {
	p, err := ParseCredential([]byte(exampleCredential))
	if err != nil {
		t.Fatal(err)
	}
	if p.List.Len() != 131072 || p.ID != "https://example.com/credentials/status/3" || p.From.Unix() != 1617632860 {
		t.Errorf("%d bits, %s, %s", p.List.Len(), p.ID, p.From)
	}
	for i := range p.List.bits {
		if p.List.bits[i] != 0 {
			t.Fatalf("byte %d is %x", i, p.List.bits[i])
		}
	}
	e, err := EntryOf(map[string]any{"type": "BitstringStatusListEntry", "statusPurpose": "revocation", "statusListIndex": "94567", "statusListCredential": "https://example.com/credentials/status/3"})
	if err != nil {
		t.Fatal(err)
	}
	if set, err := p.Set(e); err != nil || set {
		t.Errorf("%v %v", set, err)
	}
	if err := p.List.Set(94567, true); err != nil {
		t.Fatal(err)
	}
	if set, err := p.Set(e); err != nil || !set {
		t.Errorf("%v %v", set, err)
	}
}

func TestBits(t *testing.T) {
	l, err := NewList(0)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{0, 7, 8, 131071} {
		if err := l.Set(i, true); err != nil {
			t.Fatal(err)
		}
	}
	if l.bits[0] != 0x81 || l.bits[1] != 0x80 || l.bits[16383] != 1 { // leftmost first
		t.Errorf("%x %x %x", l.bits[0], l.bits[1], l.bits[16383])
	}
	again, err := Decode(l.Encode())
	if err != nil || !bytes.Equal(again.bits, l.bits) {
		t.Errorf("%v", err)
	}
	for _, i := range []int{-1, 131072} {
		if _, err := l.Get(i); err == nil {
			t.Errorf("bit %d read as clear", i)
		}
	}
	seen := map[int]bool{}
	for range 100 {
		i, err := l.Draw(func(i int) bool { return seen[i] })
		if err != nil || seen[i] {
			t.Fatal(i, err)
		}
		seen[i] = true
	}
}

func TestDecodeRefuses(t *testing.T) {
	pack := func(n int) string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		z.Write(make([]byte, n))
		z.Close()
		return "u" + base64.RawURLEncoding.EncodeToString(b.Bytes())
	}
	for name, s := range map[string]string{
		"empty": "", "not multibase": pack(16384)[1:], "another base": "z" + pack(16384)[1:], "short": pack(16383), "a bomb": pack(MaxBits/8 + 1),
		"no gzip": "uAAAA", "cut": pack(16384)[:40], "padded": pack(16384) + "=",
	} {
		if l, err := Decode(s); err == nil {
			t.Errorf("%s: %d bits", name, l.Len())
		}
	}
}

func TestPublished(t *testing.T) {
	k, err := hybrid.Generate()
	if err != nil {
		t.Fatal(err)
	}
	issuer := did.Hybrid(k.Public())
	now := time.Unix(1_700_000_000, 0)
	l, _ := NewList(0)
	old, err := Sign(k, Published{ID: "urn:list", Purpose: Revocation, From: now, Until: now.Add(time.Hour), List: l})
	if err != nil {
		t.Fatal(err)
	}
	l.Set(5, true)
	fresh, err := Sign(k, Published{ID: "urn:list", Purpose: Revocation, From: now.Add(2 * time.Hour), Until: now.Add(3 * time.Hour), List: l})
	if err != nil {
		t.Fatal(err)
	}
	e := NewEntry("urn:list", 5)
	p, err := Open(fresh, issuer, now.Add(2*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if set, err := p.Set(e); err != nil || !set {
		t.Errorf("%v %v", set, err)
	}
	// The holder of a revoked credential shows the list of before. A verifier
	// without a clock would believe it.
	if _, err := Open(old, issuer, now.Add(2*time.Hour)); !errors.Is(err, consilium.ErrStale) {
		t.Errorf("an old list: %v", err)
	}
	naive, err := Open(old, issuer, now)
	if err != nil {
		t.Fatal(err)
	}
	if set, err := naive.Set(e); err != nil || set {
		t.Error("the naive twin noticed")
	}
	other, _ := hybrid.Generate()
	if _, err := Open(fresh, did.Hybrid(other.Public()), now.Add(2*time.Hour)); !errors.Is(err, consilium.ErrSignature) {
		t.Errorf("another issuer: %v", err)
	}
	if _, err := Open(strings.Replace(fresh, ".", ".A", 1), issuer, now); err == nil {
		t.Error("a changed list")
	}
	for _, bad := range []Entry{NewEntry("urn:other", 5), {e.Type, Suspension, e.Index, e.List}, NewEntry("urn:list", MinBits)} {
		if _, err := p.Set(bad); err == nil {
			t.Errorf("%+v has an answer", bad)
		}
	}
	for _, bad := range []any{nil, map[string]any{}, map[string]any{"type": "BitstringStatusListEntry", "statusPurpose": "revocation", "statusListIndex": 5, "statusListCredential": "x"},
		map[string]any{"type": "BitstringStatusListEntry", "statusPurpose": "revocation", "statusListIndex": "-1", "statusListCredential": "x"},
		map[string]any{"type": "StatusList2021Entry", "statusPurpose": "revocation", "statusListIndex": "5", "statusListCredential": "x"}} {
		if e, err := EntryOf(bad); err == nil {
			t.Errorf("%v: %+v", bad, e)
		}
	}
}
