package hybrid

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"filippo.io/mldsa"
	"github.com/cloudflare/circl/sign/mldsa/mldsa65"

	"consilium"
)

func TestBothHalvesMustVerify(t *testing.T) {
	k, err := FromSeed(bytes.Repeat([]byte{7}, SeedSize))
	if err != nil {
		t.Fatal(err)
	}
	m := []byte("message")
	sig, err := k.Sign(consilium.DomainVote, m)
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(k.Public(), consilium.DomainVote, m, &sig); err != nil {
		t.Fatal(err)
	}
	for name, broken := range map[string]func() error{
		"the Ed25519 half": func() error { s := sig; s[0] ^= 1; return Verify(k.Public(), consilium.DomainVote, m, &s) },
		"the ML-DSA half":  func() error { s := sig; s[200] ^= 1; return Verify(k.Public(), consilium.DomainVote, m, &s) },
		"another domain":   func() error { return Verify(k.Public(), consilium.DomainHeader, m, &sig) },
		"another message":  func() error { return Verify(k.Public(), consilium.DomainVote, []byte("massage"), &sig) },
		"another key": func() error {
			o, err := Generate()
			if err != nil {
				t.Fatal(err)
			}
			return Verify(o.Public(), consilium.DomainVote, m, &sig)
		},
		"no key": func() error { return Verify(consilium.PublicKey{}, consilium.DomainVote, m, &sig) },
	} {
		if err := broken(); !errors.Is(err, consilium.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A naive either-or would accept a forgery of one scheme: here one half is
	// right each time, and both must be.
}

// TestSecondImplementation holds keys and signatures against another
// implementation of FIPS 204, both ways.
func TestSecondImplementation(t *testing.T) {
	k, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := hkdf.Key(sha256.New, k.Seed(), nil, "consilium identity ml-dsa-65", mldsa.PrivateKeySize)
	if err != nil {
		t.Fatal(err)
	}
	other, err := mldsa.NewPrivateKey(mldsa.MLDSA65(), seed)
	if err != nil {
		t.Fatal(err)
	}
	pub := k.Public()
	if !bytes.Equal(other.PublicKey().Bytes(), pub[32:]) {
		t.Fatal("the two implementations derive different public keys from one seed")
	}
	m := consilium.DomainVote.Message([]byte("m"))
	sig, err := k.Sign(consilium.DomainVote, []byte("m"))
	if err != nil {
		t.Fatal(err)
	}
	if err := mldsa.Verify(other.PublicKey(), m, sig[64:], &mldsa.Options{Context: string(consilium.DomainVote)}); err != nil {
		t.Error("the second implementation refuses our signature:", err)
	}
	theirs, err := other.Sign(rand.Reader, m, &mldsa.Options{Context: string(consilium.DomainVote)})
	if err != nil {
		t.Fatal(err)
	}
	copy(sig[64:], theirs)
	if err := Verify(pub, consilium.DomainVote, []byte("m"), &sig); err != nil {
		t.Error("we refuse the second implementation's signature:", err)
	}
}

func TestThreshold(t *testing.T) {
	keys := map[string]consilium.PublicKey{}
	doc := &consilium.Signed{Payload: []byte("{}")}
	var sigs []consilium.Countersign
	for _, id := range []string{"a", "b", "c"} {
		k, err := Generate()
		if err != nil {
			t.Fatal(err)
		}
		keys[id] = k.Public()
		s, err := k.Sign(consilium.DomainRoster, doc.Payload)
		if err != nil {
			t.Fatal(err)
		}
		sigs = append(sigs, consilium.Countersign{By: id, Signature: s})
	}
	try := func(threshold int, list ...consilium.Countersign) error {
		d := *doc
		d.Signatures = list
		return VerifyThreshold(keys, threshold, consilium.DomainRoster, &d)
	}
	if err := try(2, sigs[0], sigs[2]); err != nil {
		t.Error(err)
	}
	stranger := sigs[0]
	stranger.By = "d"
	swapped := sigs[1]
	swapped.By = "a"
	for name, err := range map[string]error{
		"too few":           try(2, sigs[0]),
		"one signer twice":  try(2, sigs[0], sigs[0]),
		"a stranger":        try(1, stranger),
		"another's":         try(1, swapped),
		"a threshold of 0":  try(0, sigs[0]),
		"valid and invalid": try(1, sigs[0], swapped),
	} {
		if !errors.Is(err, consilium.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPrintsNothing(t *testing.T) {
	k, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	secret := fmt.Sprintf("%x", k.Seed()[:4])
	for _, s := range []string{fmt.Sprintf("%v %+v %#v %s %x", k, k, k, k, k), fmt.Sprintf("%v %+v %#v %s %x", *k, *k, *k, *k, *k)} {
		if bytes.Contains([]byte(s), []byte(secret)) || len(s) > 120 {
			t.Errorf("prints %q", s)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	k, err := Generate()
	if err != nil {
		b.Fatal(err)
	}
	sig, err := k.Sign(consilium.DomainVote, []byte("m"))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := Verify(k.Public(), consilium.DomainVote, []byte("m"), &sig); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	k, err := Generate()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := k.Sign(consilium.DomainVote, []byte("m")); err != nil {
			b.Fatal(err)
		}
	}
}

// An attacker who has broken one of the two schemes, here by holding its key,
// forges that half for a message of his own. The naive twin, content with one
// valid half, believes him either way.
func TestForgedHalf(t *testing.T) {
	k, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	genuine, err := k.Sign(consilium.DomainVote, []byte("the set of eleven"))
	if err != nil {
		t.Fatal(err)
	}
	forged := []byte("the set of two")
	m := consilium.DomainVote.Message(forged)
	either := func(sig *consilium.Signature) bool {
		pub, err := expand(k.Public())
		key := k.Public()
		return err == nil && (ed25519.Verify(key[:32], m, sig[:64]) || mldsa65.Verify(pub, m, []byte(consilium.DomainVote), sig[64:]))
	}
	for name, forge := range map[string]func(sig *consilium.Signature){
		"Ed25519 broken": func(sig *consilium.Signature) { copy(sig[:64], ed25519.Sign(k.ed, m)) },
		"ML-DSA-65 broken": func(sig *consilium.Signature) {
			if err := mldsa65.SignTo(k.ml, m, []byte(consilium.DomainVote), true, sig[64:]); err != nil {
				t.Fatal(err)
			}
		},
	} {
		sig := genuine
		forge(&sig)
		if err := Verify(k.Public(), consilium.DomainVote, forged, &sig); !errors.Is(err, consilium.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
		if !either(&sig) {
			t.Errorf("%s: the naive twin noticed, so the forgery is none", name)
		}
	}
	both := genuine
	copy(both[:64], ed25519.Sign(k.ed, m))
	if err := mldsa65.SignTo(k.ml, m, []byte(consilium.DomainVote), true, both[64:]); err != nil {
		t.Fatal(err)
	}
	if err := Verify(k.Public(), consilium.DomainVote, forged, &both); err != nil {
		t.Errorf("with both keys it is a signature: %v", err)
	}
}
