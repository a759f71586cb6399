package did

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"consilium"
	"consilium/internal/hybrid"
)

// vectors is testdata/did-key.json; testdata/SOURCES.md says where each comes
// from.
type vectors struct {
	Keys []struct {
		DID string          `json:"did"`
		JWK json.RawMessage `json:"jwk"`
	} `json:"keys"`
	Seeds   map[string]string `json:"seeds"`   // byte 31 of an Ed25519 seed -> did:key
	X25519  []string          `json:"x25519"`  // key agreement only
	Refused map[string]string `json:"refused"` // did:key -> kind that we name and refuse
	JWKDIDs []struct {
		DID string          `json:"did"`
		JWK json.RawMessage `json:"jwk"`
	} `json:"jwkDIDs"`
	Thumbprints []struct {
		JWK        json.RawMessage `json:"jwk"`
		Thumbprint string          `json:"thumbprint"`
	} `json:"thumbprints"`
}

func readVectors(t *testing.T) *vectors {
	t.Helper()
	b, err := os.ReadFile("testdata/did-key.json")
	if err != nil {
		t.Fatal(err)
	}
	v := &vectors{}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestDIDKeyVectors(t *testing.T) {
	v := readVectors(t)
	if len(v.Keys) != 6 || len(v.Seeds) != 5 || len(v.X25519) != 3 || len(v.Refused) == 0 {
		t.Fatal("vectors are missing")
	}
	for _, x := range v.Keys {
		k, err := ParseKey(x.DID)
		if err != nil {
			t.Errorf("%s: %v", x.DID, err)
			continue
		}
		want, err := ParseJWK(x.JWK)
		if err != nil {
			t.Fatal(err)
		}
		if !k.Equal(want) {
			t.Errorf("%s: %s, want %s", x.DID, k.JWK(), x.JWK)
		}
		if want.KeyDID() != x.DID {
			t.Errorf("back: %s, want %s", want.KeyDID(), x.DID)
		}
	}
	for last, want := range v.Seeds {
		seed := make([]byte, 32)
		seed[31] = last[0] - '0'
		k := FromEd25519([32]byte(ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)))
		if k.KeyDID() != want {
			t.Errorf("seed %s: %s, want %s", last, k.KeyDID(), want)
		}
		if d, err := Resolve(want, nil); err != nil || len(d.Methods) != 1 || !d.Methods[0].Assertion || !d.Methods[0].Key.Equal(k) {
			t.Errorf("seed %s: %+v %v", last, d, err)
		}
	}
	for _, name := range v.X25519 {
		k, err := ParseKey(name)
		if err != nil || k.Algorithm() != "" || k.KeyDID() != name {
			t.Errorf("%s: %v %v", name, k, err)
		}
		if d, err := Resolve(name, nil); err != nil {
			t.Error(err)
		} else if _, err := d.Find(""); err == nil {
			t.Errorf("%s: a key for agreement issues credentials", name)
		}
	}
	for name, kind := range v.Refused {
		if _, err := ParseKey(name); err == nil || !strings.Contains(err.Error(), kind) {
			t.Errorf("%s: %v, want a refusal that names %s", name, err, kind)
		}
	}
}

func TestDIDJWKVectors(t *testing.T) {
	for _, x := range readVectors(t).JWKDIDs {
		k, err := ParseJWKDID(x.DID)
		if err != nil {
			t.Errorf("%s: %v", x.DID, err)
			continue
		}
		if want, err := ParseJWK(x.JWK); err != nil || !k.Equal(want) {
			t.Errorf("%s: %s, want %s (%v)", x.DID, k.JWK(), x.JWK, err)
		}
	}
}

func TestThumbprints(t *testing.T) {
	for _, x := range readVectors(t).Thumbprints {
		if got, err := ThumbprintOf(x.JWK); err != nil || got != x.Thumbprint {
			t.Errorf("%.60s: %s %v, want %s", x.JWK, got, err, x.Thumbprint)
		}
		if k, err := ParseJWK(x.JWK); err == nil && k.Thumbprint() != x.Thumbprint {
			t.Errorf("%.60s: %s, want %s", x.JWK, k.Thumbprint(), x.Thumbprint)
		}
	}
}

func hybridKey(t *testing.T) *hybrid.Key {
	t.Helper()
	k, err := hybrid.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestHybridDID(t *testing.T) {
	s := hybridKey(t)
	k := Hybrid(s.Public())
	d, err := Resolve(k.JWKDID(), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := d.Find("#0")
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := got.HybridKey(); !ok || p != s.Public() || k.KeyDID() != "" {
		t.Error("another key came back")
	}
	msg := []byte("x")
	sig, err := s.Sign(consilium.DomainCredential, msg)
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Verify(consilium.DomainCredential, msg, sig[:]); err != nil {
		t.Error(err)
	}
	if err := got.Verify(consilium.DomainConsent, msg, sig[:]); err == nil {
		t.Error("a signature counts under another domain")
	}
	for _, i := range []int{0, 64 + 9} { // one half of it is not enough
		bad := sig
		bad[i] ^= 1
		if err := got.Verify(consilium.DomainCredential, msg, bad[:]); err == nil {
			t.Errorf("byte %d may change", i)
		}
	}
}

func TestClassicalVerify(t *testing.T) {
	msg := []byte("message")
	pub, priv, _ := ed25519.GenerateKey(rand.Reader)
	k := FromEd25519([32]byte(pub))
	sig := ed25519.Sign(priv, msg)
	if err := k.Verify("", msg, sig); err != nil {
		t.Error(err)
	}
	if k.Verify("", append(msg, 'x'), sig) == nil || k.Verify("", msg, sig[:63]) == nil {
		t.Error("Ed25519 verifies too much")
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := ec.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	e, err := newEC("P-256", raw)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.Sum256(msg)
	r, s, err := ecdsa.Sign(rand.Reader, ec, h[:])
	if err != nil {
		t.Fatal(err)
	}
	sig = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	if err := e.Verify("", msg, sig); err != nil {
		t.Error(err)
	}
	if e.Verify("", []byte("other"), sig) == nil || e.Verify("", msg, make([]byte, 64)) == nil || (Key{}).Verify("", msg, sig) == nil {
		t.Error("P-256 verifies too much")
	}
}

func TestJWKRefuses(t *testing.T) {
	for name, bad := range map[string]string{
		"private":        `{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}`,
		"symmetric":      `{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}`,
		"off the curve":  `{"kty":"EC","crv":"P-256","x":"igrFmi0whuihKnj9R3Om1SoMph72wUGeFaBbzG2vzns","y":"efsX5b10x8yjyrj4ny3pGfLcY7Xby1KzgqOdqnsrJIA"}`,
		"short":          `{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHUQ"}`,
		"padded":         `{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo="}`,
		"twice":          `{"kty":"OKP","kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
		"another's alg":  `{"kty":"OKP","crv":"Ed25519","alg":"ES256","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
		"composite, not": `{"kty":"AKP","alg":"ML-DSA-65","pub":"AA"}`,
		"nothing":        `{}`,
		// A key that its owner published to be encrypted to, or to sign with, verifies
		// nothing that he did not mean to sign.
		"to encrypt to":     `{"kty":"OKP","crv":"Ed25519","use":"enc","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
		"of no known use":   `{"kty":"OKP","crv":"Ed25519","use":"tls","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
		"use is no text":    `{"kty":"OKP","crv":"Ed25519","use":1,"x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
		"only to encrypt":   `{"kty":"OKP","crv":"Ed25519","key_ops":["encrypt"],"x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
		"no operation":      `{"kty":"OKP","crv":"Ed25519","key_ops":[],"x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
		"ops are no list":   `{"kty":"OKP","crv":"Ed25519","key_ops":"verify","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
		"agrees, and signs": `{"kty":"OKP","crv":"X25519","use":"sig","x":"3p7bfXt9wbTTW2HC7OQ1Nz-DQ8hbeGdNrfx-FG-IK08"}`,
	} {
		if k, err := ParseJWK([]byte(bad)); err == nil {
			t.Errorf("%s: %v", name, k)
		}
	}
}

func TestJWKUse(t *testing.T) {
	for _, good := range []string{
		`{"kty":"OKP","crv":"Ed25519","use":"sig","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
		`{"kty":"OKP","crv":"Ed25519","key_ops":["verify"],"x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
		`{"kty":"OKP","crv":"X25519","use":"enc","x":"3p7bfXt9wbTTW2HC7OQ1Nz-DQ8hbeGdNrfx-FG-IK08"}`,
		`{"kty":"OKP","crv":"X25519","key_ops":["deriveBits"],"x":"3p7bfXt9wbTTW2HC7OQ1Nz-DQ8hbeGdNrfx-FG-IK08"}`,
	} {
		if _, err := ParseJWK([]byte(good)); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
}

func TestWebURL(t *testing.T) {
	// did-method-web §2.5 and §3.2.
	for in, want := range map[string]string{
		"did:web:w3c-ccg.github.io":            "https://w3c-ccg.github.io/.well-known/did.json",
		"did:web:w3c-ccg.github.io:user:alice": "https://w3c-ccg.github.io/user/alice/did.json",
		"did:web:example.com%3A3000":           "https://example.com:3000/.well-known/did.json",
		"did:web:example.com%3A3000:user:bob":  "https://example.com:3000/user/bob/did.json",
	} {
		if got, err := WebURL(in); err != nil || got != want {
			t.Errorf("%s: %s %v, want %s", in, got, err, want)
		}
	}
	for _, bad := range []string{"did:web:", "did:web:a:", "did:web:a/b", "did:web:a%2Fb", "did:web:a:..:b", "did:web:a:%2e%2e", "did:web:u@h", "did:web:A.example", "did:key:z6Mk", "did:web:a%3A", "did:web:a?b"} {
		if got, err := WebURL(bad); err == nil {
			t.Errorf("%s: %s", bad, got)
		}
	}
}

func TestWebDocumentsArePinned(t *testing.T) {
	const name = "did:web:hospital.example:research"
	key := FromEd25519([32]byte{1})
	doc := []byte(`{"@context":["https://www.w3.org/ns/did/v1"],"id":"` + name + `","verificationMethod":[
	 {"id":"` + name + `#a","type":"JsonWebKey2020","controller":"` + name + `","publicKeyJwk":` + string(key.JWK()) + `},
	 {"id":"#b","type":"Multikey","controller":"` + name + `","publicKeyMultibase":"zDnaerx9CtbPJ1q36T5Ln5wYt3MQYeGRG5ehnPAmxcf5mDZpv"},
	 {"id":"#rsa","type":"JsonWebKey2020","controller":"` + name + `","publicKeyJwk":{"kty":"RSA","n":"AQAB","e":"AQAB"}},
	 {"id":"did:web:other.example#c","type":"Multikey","controller":"did:web:other.example","publicKeyMultibase":"zDnaerDaTF5BXEavCrfRZEk316dpbLsfPDZ3WJ5hRTPFU2169"}],
	 "assertionMethod":["#a"],"authentication":["#b"]}`)
	pin := Pin{DID: name, Digest: PinDigest(doc), Document: doc}
	d, err := Resolve(name, []Pin{pin})
	if err != nil {
		t.Fatal(err)
	}
	if k, err := d.Find("#a"); err != nil || !k.Equal(key) {
		t.Errorf("%v %v", k, err)
	}
	for _, id := range []string{"#b", "#rsa", "did:web:other.example#c"} {
		if k, err := d.Find(id); err == nil {
			t.Errorf("%s may issue: %v", id, k)
		}
	}
	// The web server is taken over and shows another key. The naive twin, which
	// believes what the server shows, takes the thief's key.
	thief := FromEd25519([32]byte{2})
	forged := []byte(strings.Replace(string(doc), string(key.JWK()), string(thief.JWK()), 1))
	if naive, err := ParseWeb(Pin{DID: name, Digest: PinDigest(forged), Document: forged}); err != nil {
		t.Fatal(err)
	} else if k, _ := naive.Find("#a"); !k.Equal(thief) {
		t.Fatal("the attack is not what it says")
	}
	pin.Document = forged
	if _, err := Resolve(name, []Pin{pin}); err == nil {
		t.Error("a document off its pin is believed")
	}
	if _, err := Resolve(name, nil); err == nil {
		t.Error("a document without a pin is believed")
	}
	if _, err := Resolve("did:web:somebody.example", []Pin{{DID: "did:web:somebody.example", Digest: PinDigest(doc), Document: doc}}); err == nil {
		t.Error("a document of somebody else is believed")
	}
}

func FuzzParseJWK(f *testing.F) {
	f.Add([]byte(`{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`))
	f.Add([]byte(`{"kty":"EC","crv":"P-256","x":"igrFmi0whuihKnj9R3Om1SoMph72wUGeFaBbzG2vzns","y":"efsX5b10x8yjyrj4ny3pGfLcY7Xby1KzgqOdqnsrJIM"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParseJWK(b)
		if err != nil {
			return
		}
		again, err := ParseJWK(k.JWK())
		if err != nil || !again.Equal(k) {
			t.Errorf("%s: %v", k.JWK(), err)
		}
	})
}
