package sdjwt

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"consilium/internal/canon"
	"consilium/provenance/did"
)

// Examples of RFC 9901; testdata/SOURCES.md.

func example(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(b)), "")
}

func rfcIssuer(t testing.TB) did.Key {
	t.Helper()
	k, err := did.ParseJWK([]byte(`{"kty":"EC","crv":"P-256","x":"b28d4MwZMjw8-00CG4xfnn9SLMVMM19SlqZpVb_uNtQ","y":"Xv5zWwuoaTgdS6hV43yI6gBwTnjukmFQQnJ_kCxzqk8"}`))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var rfcNow = time.Unix(1748361941, 0)

var rfcBinding = &Binding{Audience: "https://verifier.example.org", Nonce: "1234567890", MaxAge: time.Hour}

const rfcCnf = `"cnf":{"jwk":{"kty":"EC","crv":"P-256","x":"TCAER19Zvu3OHF4j4W4vfSVoHIP1ILilDls7vCeGemc","y":"ZxjiWWbZMQGHVWKVQ4hbSIirsVfuecCE6t4jT9F2HZQ"}}`

func flatPresentation(t testing.TB) string {
	p := strings.Split(example(t, "flat.txt"), "~")
	return strings.Join([]string{p[0], p[2], p[6], p[1], p[9], example(t, "flat-kb.txt")}, "~")
}

func TestRFCExamples(t *testing.T) {
	for _, x := range []struct {
		name, token, typ, vct string
		binding               *Binding
		want                  string
	}{
		{"5.1", example(t, "flat.txt"), "example+sd-jwt", "", nil, `{"iss":"https://issuer.example.com","iat":1683000000,"exp":1883000000,"sub":"user_42","nationalities":["US","DE"],
			"given_name":"John","family_name":"Doe","email":"johndoe@example.com","phone_number":"+1-202-555-0101","phone_number_verified":true,
			"address":{"street_address":"123 Main St","locality":"Anytown","region":"Anystate","country":"US"},"birthdate":"1940-01-01","updated_at":1570000000,` + rfcCnf + `}`},
		{"5.2", flatPresentation(t), "example+sd-jwt", "", rfcBinding, `{"iss":"https://issuer.example.com","iat":1683000000,"exp":1883000000,"sub":"user_42","nationalities":["US"],
			"given_name":"John","family_name":"Doe","address":{"street_address":"123 Main St","locality":"Anytown","region":"Anystate","country":"US"},` + rfcCnf + `}`},
		{"A.1", example(t, "structured.txt"), "example+sd-jwt", "", nil, `{"iss":"https://issuer.example.com","iat":1683000000,"exp":1883000000,"address":{"region":"港区","country":"JP"}}`},
		{"A.2", example(t, "complex.txt"), "example+sd-jwt", "", nil, `{"iss":"https://issuer.example.com","iat":1683000000,"exp":1883000000,
			"verified_claims":{"verification":{"trust_framework":"de_aml","evidence":[{"method":"pipp"}],"time":"2012-04-23T18:25Z"},
			"claims":{"given_name":"Max","family_name":"Müller","address":{"locality":"Maxstadt","postal_code":"12344","country":"DE","street_address":"Weidenstraße 22"}}}}`},
		{"A.3", example(t, "pid-kb.txt"), "", "urn:eudi:pid:de:1", rfcBinding, `{"iss":"https://pid-issuer.bund.de.example","iat":1683000000,"exp":1883000000,"vct":"urn:eudi:pid:de:1",
			"age_equal_or_over":{"18":true},"nationalities":["DE"],` + rfcCnf + `}`},
	} {
		tok, err := Parse(x.token)
		if err != nil {
			t.Errorf("%s: %v", x.name, err)
			continue
		}
		v, err := tok.Verify(Options{Issuer: rfcIssuer(t), Typ: x.typ, VCT: x.vct, Now: rfcNow, Binding: x.binding, NeedExpiry: true})
		if err != nil {
			t.Errorf("%s: %v", x.name, err)
			continue
		}
		want, err := canon.DecodeObject([]byte(x.want))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(v.Claims, want) {
			got, _ := json.Marshal(v.Claims)
			t.Errorf("%s: %s", x.name, got)
		}
	}
}

// Each byte of a presentation counts: changed, it is refused.
func TestRFCExampleBytes(t *testing.T) {
	token := flatPresentation(t)
	o := Options{Issuer: rfcIssuer(t), Typ: "example+sd-jwt", Now: rfcNow, Binding: rfcBinding}
	for i := 0; i < len(token); i += 7 {
		b := []byte(token)
		if b[i] ^= 2; b[i] == token[i] {
			continue
		}
		tok, err := Parse(string(b))
		if err != nil {
			continue
		}
		if _, err := tok.Verify(o); err == nil {
			t.Errorf("byte %d may change", i)
		}
	}
}

// What RFC 9901 forbids, made out of its examples.
func TestRFCNegative(t *testing.T) {
	issuer := rfcIssuer(t)
	p := strings.Split(example(t, "flat.txt"), "~")
	kb := example(t, "flat-kb.txt")
	complexParts := strings.Split(example(t, "complex.txt"), "~")
	o := Options{Issuer: issuer, Typ: "example+sd-jwt", Now: rfcNow, Binding: rfcBinding}
	for name, x := range map[string]struct {
		token string
		edit  func(*Options)
	}{
		"another audience":        {flatPresentation(t), func(o *Options) { o.Binding = &Binding{Audience: "https://other.example", Nonce: "1234567890"} }},
		"another nonce":           {flatPresentation(t), func(o *Options) { o.Binding = &Binding{Audience: "https://verifier.example.org", Nonce: "2"} }},
		"stale binding":           {flatPresentation(t), func(o *Options) { o.Now = o.Now.Add(3 * time.Hour) }},
		"binding from the future": {flatPresentation(t), func(o *Options) { o.Now = o.Now.Add(-3 * time.Hour) }},
		"expired": {flatPresentation(t), func(o *Options) {
			o.Now = time.Unix(1883000061, 0)
			o.Binding = &Binding{Audience: rfcBinding.Audience, Nonce: rfcBinding.Nonce}
		}},
		"issued in the future":          {example(t, "structured.txt"), func(o *Options) { o.Now = time.Unix(1682999000, 0); o.Binding = nil }},
		"another type":                  {flatPresentation(t), func(o *Options) { o.Typ = "" }},
		"a credential type":             {flatPresentation(t), func(o *Options) { o.VCT = "urn:eudi:pid:de:1" }},
		"another issuer's key":          {flatPresentation(t), func(o *Options) { o.Issuer = did.FromEd25519([32]byte{1}) }},
		"hybrid demanded":               {flatPresentation(t), func(o *Options) { o.HybridOnly = true }},
		"no binding":                    {strings.Join(p[:3], "~") + "~", nil},
		"binding nobody asked for":      {flatPresentation(t), func(o *Options) { o.Binding = nil }},
		"one more claim than bound":     {strings.Join([]string{p[0], p[2], p[6], p[1], p[9], p[3], kb}, "~"), nil},
		"one claim fewer than bound":    {strings.Join([]string{p[0], p[2], p[6], p[1], kb}, "~"), nil},
		"claims in another order":       {strings.Join([]string{p[0], p[1], p[2], p[6], p[9], kb}, "~"), nil},
		"a claim of another credential": {strings.Join([]string{p[0], complexParts[4], ""}, "~"), func(o *Options) { o.Binding = nil }},
		// Without the disclosure that leads to it, an inner one hangs in the air (§4.2.6).
		"an inner disclosure alone": {strings.Join([]string{complexParts[0], complexParts[3], ""}, "~"), func(o *Options) { o.Binding = nil }},
		"no clock":                  {flatPresentation(t), func(o *Options) { o.Now = time.Time{} }},
	} {
		tok, err := Parse(x.token)
		if err != nil {
			t.Errorf("%s: does not parse: %v", name, err)
			continue
		}
		opt := o
		if x.edit != nil {
			x.edit(&opt)
		}
		if _, err := tok.Verify(opt); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, token := range map[string]string{
		"a disclosure twice":  strings.Join([]string{p[0], p[1], p[1], ""}, "~"),
		"no tilde":            p[0],
		"padding":             p[0] + "=~",
		"an empty disclosure": p[0] + "~~",
		"two parts":           "a.b~",
		"alg in the clear":    "e30.e30.~",
		"blank":               p[0] + "~ ~",
	} {
		if _, err := Parse(token); err == nil {
			t.Errorf("%s: parsed", name)
		}
	}
}
