package provenance

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"consilium"
	"consilium/provenance/did"
	"consilium/provenance/sdjwt"
)

// A credential whose token has lapsed, or is not yet in force, or is meant for
// somebody else, becomes a consent: it says nothing of its own end, so the consent
// would hold until it is withdrawn. The naive twin looks at type and signature, as
// sdjwt.VerifyJWT does, and takes every one of them.
func TestLapsedCredential(t *testing.T) {
	seed := ed25519.NewKeyFromSeed([]byte("an issuer of consents, 32 bytes!"))
	key := did.FromEd25519([32]byte(seed.Public().(ed25519.PublicKey)))
	issuer := key.KeyDID()
	token := func(header, claims string) string {
		b64 := base64.RawURLEncoding
		in := b64.EncodeToString([]byte(fmt.Sprintf(`{"alg":%q,"typ":%q%s}`, key.Algorithm(), TypImportedVC, header))) + "." +
			b64.EncodeToString([]byte(`{"type":["VerifiableCredential","ConsentCredential"],"issuer":"`+issuer+`","validFrom":"2020-01-01T00:00:00Z"`+claims+
				`,"credentialSubject":{"id":"Patient/1","consent":{"decision":"permit","givenBy":"self","purposes":[{"id":"DUO:0000042"}],"rules":[]}}}`))
		return in + "." + b64.EncodeToString(ed25519.Sign(seed, []byte(in)))
	}
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	year := int64(365 * 24 * 3600)
	for _, c := range []struct {
		name, header, claims string
		code                 *consilium.Error // nil: accepted
		says                 string
	}{
		{"no time of the token", "", "", nil, ""},
		{"in force", "", fmt.Sprintf(`,"nbf":%d,"exp":%d,"iat":%d,"iss":%q`, now.Unix()-year, now.Unix()+year, now.Unix()-year, issuer), nil, ""},
		{"lapsed a year ago", "", fmt.Sprintf(`,"exp":%d`, now.Unix()-year), consilium.ErrStale, "expired"},
		{"lapsed now", "", fmt.Sprintf(`,"exp":%d`, now.Unix()-60), consilium.ErrStale, "expired"},
		{"begins in a year", "", fmt.Sprintf(`,"nbf":%d`, now.Unix()+year), consilium.ErrStale, "valid only from"},
		{"signed in the future", "", fmt.Sprintf(`,"iat":%d`, now.Unix()+year), consilium.ErrStale, "future"},
		{"an end that is no number", "", `,"exp":"2099-01-01"`, consilium.ErrSignature, "no number"},
		{"an end that is nothing", "", `,"exp":null`, consilium.ErrSignature, "no number"},
		{"for another reader", "", `,"aud":"https://other.example"`, consilium.ErrSignature, "certain reader"},
		{"of another issuer", "", `,"iss":"did:key:other"`, consilium.ErrSignature, "names the issuer"},
	} {
		jwt := token(c.header, c.claims)
		if _, err := sdjwt.VerifyJWT(jwt, key, TypImportedVC); err != nil {
			t.Errorf("%s: the naive twin noticed: %v", c.name, err)
		}
		_, by, err := VerifyImported(jwt, TypImportedVC, []string{issuer}, now)
		switch {
		case c.code == nil && (err != nil || by != issuer):
			t.Errorf("%s: %v", c.name, err)
		case c.code != nil && (!errors.Is(err, c.code) || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: %v", c.name, err)
		}
	}
	// A claim that stands in the header alone binds nobody who reads the payload.
	for _, header := range []string{fmt.Sprintf(`,"exp":%d`, now.Unix()-year), fmt.Sprintf(`,"nbf":%d`, now.Unix()+year), `,"aud":"https://other.example"`} {
		if _, _, err := VerifyImported(token(header, ""), TypImportedVC, []string{issuer}, now); !errors.Is(err, consilium.ErrSignature) || !strings.Contains(err.Error(), "header") {
			t.Errorf("%s in the header: %v", header, err)
		}
	}
}
