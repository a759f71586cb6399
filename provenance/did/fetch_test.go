package did

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"consilium"
)

// Whoever takes the host over publishes a document with a key of his own. The
// naive twin believes what the web says; the pin does not.
func TestFetchWeb(t *testing.T) {
	var document string
	s := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/user/alice/did.json" {
			http.NotFound(rw, r)
			return
		}
		rw.Write([]byte(document))
	}))
	defer s.Close()
	name := "did:web:" + strings.Replace(strings.TrimPrefix(s.URL, "https://"), ":", "%3A", 1) + ":user:alice"
	with := func(x string) string {
		return `{"@context":"https://www.w3.org/ns/did/v1","id":"` + name + `","verificationMethod":[{"id":"` + name + `#k","type":"JsonWebKey","controller":"` + name +
			`","publicKeyJwk":{"kty":"OKP","crv":"Ed25519","x":"` + x + `"}}],"assertionMethod":["` + name + `#k"]}`
	}
	document = with("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo") // RFC 8037, appendix A
	digest := PinDigest([]byte(document))
	d, pin, err := FetchWeb(t.Context(), s.Client(), name, digest)
	if err != nil {
		t.Fatal(err)
	}
	key, err := d.Find("k")
	if err != nil {
		t.Fatal(err)
	}
	// What was fetched once answers later without the web.
	if again, err := Resolve(name, []Pin{pin}); err != nil || again.Methods[0].Key.Equal(key) != true {
		t.Errorf("%+v %v", again, err)
	}
	document = with("O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik")
	naive, err := ParseWeb(Pin{DID: name, Digest: PinDigest([]byte(document)), Document: []byte(document)})
	if err != nil || naive.Methods[0].Key.Equal(key) {
		t.Errorf("the naive twin noticed: %v", err)
	}
	if _, _, err := FetchWeb(t.Context(), s.Client(), name, digest); !errors.Is(err, consilium.ErrSignature) {
		t.Errorf("another key: %v", err)
	}
	document = strings.Repeat(" ", maxWeb+1)
	for name, x := range map[string]struct {
		did    string
		digest consilium.Digest
	}{
		"too large": {name, digest}, "no pin": {name, consilium.Digest{}}, "no did:web": {"did:key:z6Mk", digest}, "not there": {strings.Replace(name, "alice", "bob", 1), digest},
	} {
		if _, _, err := FetchWeb(t.Context(), s.Client(), x.did, x.digest); err == nil {
			t.Errorf("%s: fetched", name)
		}
	}
}
