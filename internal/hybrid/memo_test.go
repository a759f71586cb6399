package hybrid

import (
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
	if _, ok := verified.Get(question(new(k.Public()), consilium.DomainHeader, message, &sig)); !ok {
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
