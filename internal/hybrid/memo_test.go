package hybrid

import (
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"consilium"
)

// TestMemo: what was verified once is verified again only for the same key,
// domain, message and signature, and what failed fails every time.
func TestMemo(t *testing.T) {
	k, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	other, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	message := []byte("a message")
	sig, err := k.Sign(consilium.DomainHeader, message)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Verify(k.Public(), consilium.DomainHeader, message, &sig); err != nil {
			t.Fatal(err)
		}
	}
	if !verified.holds(question(new(k.Public()), consilium.DomainHeader, message, &sig)) {
		t.Error("a signature that holds was not remembered")
	}
	for range 2 {
		bad := sig
		bad[len(bad)-1] ^= 1
		for name, err := range map[string]error{
			"signature": Verify(k.Public(), consilium.DomainHeader, message, &bad),
			"message":   Verify(k.Public(), consilium.DomainHeader, []byte("a messagf"), &sig),
			"domain":    Verify(k.Public(), consilium.DomainAck, message, &sig),
			"key":       Verify(other.Public(), consilium.DomainHeader, message, &sig),
		} {
			if err == nil {
				t.Errorf("another %s verifies", name)
			}
		}
	}
	// The border between domain and message counts.
	if question(new(k.Public()), "ab", []byte("c"), &sig) == question(new(k.Public()), "a", []byte("bc"), &sig) {
		t.Error("two questions have one digest")
	}
}

// TestMemoBounded: old entries go, entries in use stay.
func TestMemoBounded(t *testing.T) {
	var m memo
	var used, d [sha256.Size]byte
	used[31] = 1
	m.add(used)
	for i := range 3*maxMemo + 7 {
		binary.BigEndian.PutUint64(d[:], uint64(i)+1)
		m.add(d)
		if i%1000 == 0 && !m.holds(used) {
			t.Fatalf("an entry in use was forgotten after %d", i)
		}
	}
	if len(m.new)+len(m.old) > 2*maxMemo {
		t.Errorf("%d entries", len(m.new)+len(m.old))
	}
	binary.BigEndian.PutUint64(d[:], 1)
	if m.holds(d) {
		t.Error("the oldest entry is still there")
	}
}
