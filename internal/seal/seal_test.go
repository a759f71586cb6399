package seal

import (
	"bytes"
	"fmt"
	"testing"

	"consilium"
)

func TestOpensOnlyInItsPlace(t *testing.T) {
	k, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	other, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := Seal(k.Public(), consilium.DomainSealedBox, []byte("round 1"), []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if len(sealed) != len("secret")+Overhead {
		t.Errorf("envelope of %d bytes, want %d", len(sealed), len("secret")+Overhead)
	}
	got, err := k.Open(consilium.DomainSealedBox, []byte("round 1"), sealed)
	if err != nil || string(got) != "secret" {
		t.Fatalf("Open = %q, %v", got, err)
	}
	b, err := k.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Open(consilium.DomainSealedBox, []byte("round 1"), sealed); err != nil || string(got) != "secret" {
		t.Fatalf("restored key: Open = %q, %v", got, err)
	}
	flipped := bytes.Clone(sealed)
	flipped[len(flipped)-1] ^= 1
	for name, try := range map[string]func() ([]byte, error){
		"another key":     func() ([]byte, error) { return other.Open(consilium.DomainSealedBox, []byte("round 1"), sealed) },
		"another domain":  func() ([]byte, error) { return k.Open(consilium.DomainSealedState, []byte("round 1"), sealed) },
		"another context": func() ([]byte, error) { return k.Open(consilium.DomainSealedBox, []byte("round 2"), sealed) },
		"a flipped bit":   func() ([]byte, error) { return k.Open(consilium.DomainSealedBox, []byte("round 1"), flipped) },
		"too short":       func() ([]byte, error) { return k.Open(consilium.DomainSealedBox, []byte("round 1"), sealed[:40]) },
		"empty":           func() ([]byte, error) { return k.Open(consilium.DomainSealedBox, []byte("round 1"), nil) },
	} {
		if got, err := try(); err == nil {
			t.Errorf("%s: opened %q", name, got)
		}
	}
	if s := fmt.Sprintf("%v %+v %#v %x %s", k, k, k, k, k); bytes.Contains([]byte(s), b[:4]) || len(s) > 100 {
		t.Errorf("prints as %q", s)
	}
}
