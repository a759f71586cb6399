package sdjwt

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"consilium"
	"consilium/internal/hybrid"
	"consilium/provenance/did"
)

func key(t testing.TB) *hybrid.Key {
	t.Helper()
	k, err := hybrid.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var (
	at      = time.Unix(1_700_000_000, 0)
	binding = Binding{Audience: "hospital", Nonce: "n"}
)

const vct = "urn:consilium:test:1"

func issued(t testing.TB, issuer, holder *hybrid.Key) string {
	t.Helper()
	tok, err := Issue(issuer, Claims{VCT: vct, Holder: did.Hybrid(holder.Public()), Issued: at, From: at, Until: at.Add(time.Hour), Decoys: 3,
		Plain: map[string]any{"level": "project"}, Hidden: map[string]any{"scopes": []string{"general", "hiv"}, "form": "F1"}})
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func options(issuer *hybrid.Key) Options {
	return Options{Issuer: did.Hybrid(issuer.Public()), VCT: vct, Now: at, NeedExpiry: true, HybridOnly: true, Binding: &binding}
}

func TestIssuePresentVerify(t *testing.T) {
	issuer, holder := key(t), key(t)
	tok := issued(t, issuer, holder)
	shown, err := Present(tok, func(name string) bool { return name == "form" }, holder, binding, at)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Parse(shown)
	if err != nil {
		t.Fatal(err)
	}
	v, err := p.Verify(options(issuer))
	if err != nil {
		t.Fatal(err)
	}
	if v.Claims["form"] != "F1" || v.Claims["level"] != "project" || v.BoundAt != at.Unix() {
		t.Errorf("%+v", v)
	}
	if _, ok := v.Claims["scopes"]; ok || strings.Contains(shown, "hiv") {
		t.Error("a claim that was not shown is there")
	}
	// Once more: a token may be verified again.
	if _, err := p.Verify(options(issuer)); err != nil {
		t.Error(err)
	}
	if p.Credential()+strings.TrimPrefix(shown, p.Credential()) != shown || p.Issuer() != did.Hybrid(issuer.Public()).ThumbprintURI() {
		t.Error("the parts do not make the whole")
	}
	// A thief has a copy, not the key: he cannot bind it to another audience.
	// The naive twin, which asks for no binding, lets him in.
	thief := key(t)
	stolen, err := Present(tok, nil, thief, binding, at)
	if err != nil {
		t.Fatal(err)
	}
	p, err = Parse(stolen)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Verify(options(issuer)); !errors.Is(err, consilium.ErrSignature) {
		t.Errorf("the thief is the holder: %v", err)
	}
	naive := options(issuer)
	naive.Binding = nil
	bare, err := Parse(p.Credential())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bare.Verify(naive); err != nil {
		t.Errorf("the naive twin noticed: %v", err)
	}
	for name, edit := range map[string]func(*Options){
		"before":     func(o *Options) { o.Now = at.Add(-2 * time.Minute) },
		"after":      func(o *Options) { o.Now = at.Add(time.Hour + time.Minute) },
		"other vct":  func(o *Options) { o.VCT = "urn:consilium:other:1" },
		"classical":  func(o *Options) { o.Issuer = ed25519Of(issuer) },
		"other key":  func(o *Options) { o.Issuer = did.Hybrid(thief.Public()) },
		"no options": func(o *Options) { *o = Options{} },
	} {
		o := options(issuer)
		edit(&o)
		q, _ := Parse(shown)
		if _, err := q.Verify(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// What an issuer that means ill, or another implementation, may sign.
func TestMalformedCredentials(t *testing.T) {
	issuer := key(t)
	hash := hashes["sha-256"]
	disclose := func(v ...any) (string, string) {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		enc := b64.EncodeToString(b)
		return enc, b64.EncodeToString(hash([]byte(enc)))
	}
	aEnc, a := disclose("salt", "a", 1)
	bEnc, b := disclose("salt", "b", map[string]any{"_sd": []string{a}})
	elEnc, el := disclose("salt", 7)
	expEnc, exp := disclose("salt", "exp", at.Add(99*time.Hour).Unix())
	_, decoy := disclose("nobody", "x", 0)
	dotsEnc, _ := disclose("salt", "...", 1)
	sdEnc, _ := disclose("salt", "_sd", []string{})
	type m = map[string]any
	valid := m{"vct": vct, "iss": "x", "iat": at.Unix(), "exp": at.Add(time.Hour).Unix()}
	for name, x := range map[string]struct {
		header, payload m
		disclosures     []string
		good            bool
	}{
		"plain":                        {nil, m{}, nil, true},
		"a claim":                      {nil, m{"_sd": []string{a, decoy}}, []string{aEnc}, true},
		"a claim in a claim":           {nil, m{"_sd": []string{b}}, []string{bEnc, aEnc}, true},
		"an element":                   {nil, m{"l": []any{m{"...": el}, m{"...": decoy}, 1}}, []string{elEnc}, true},
		"sha-512, by name":             {nil, m{"_sd_alg": "sha-512"}, nil, true},
		"a digest twice":               {nil, m{"_sd": []string{a, a}}, []string{aEnc}, false},
		"a digest twice, apart":        {nil, m{"_sd": []string{a}, "o": m{"_sd": []string{a}}}, []string{aEnc}, false},
		"a digest twice, a decoy":      {nil, m{"_sd": []string{decoy, decoy}}, nil, false},
		"a digest twice, by a claim":   {nil, m{"_sd": []string{a, b}}, []string{bEnc, aEnc}, false},
		"a claim that is there":        {nil, m{"a": 2, "_sd": []string{a}}, []string{aEnc}, false},
		"an element as a claim":        {nil, m{"_sd": []string{el}}, []string{elEnc}, false},
		"a claim as an element":        {nil, m{"l": []any{m{"...": a}}}, []string{aEnc}, false},
		"an element with company":      {nil, m{"l": []any{m{"...": el, "x": 1}}}, []string{elEnc}, false},
		"three dots outside":           {nil, m{"o": m{"...": el}}, nil, false},
		"_sd is no array":              {nil, m{"_sd": a}, nil, false},
		"_sd of numbers":               {nil, m{"_sd": []int{1}}, nil, false},
		"_sd_alg below":                {nil, m{"o": m{"_sd_alg": "sha-256"}}, nil, false},
		"hidden expiry":                {nil, m{"exp": nil, "_sd": []string{exp}}, []string{expEnc}, false},
		"expiry in words":              {nil, m{"exp": "never"}, nil, false},
		"nothing refers to it":         {nil, m{}, []string{aEnc}, false},
		"a holder with a private key":  {nil, m{"cnf": m{"jwk": m{"kty": "OKP", "crv": "Ed25519", "x": strings.Repeat("A", 43), "d": "x"}}}, nil, false},
		"a holder by reference":        {nil, m{"cnf": m{"kid": "x"}}, nil, false},
		"alg none":                     {m{"alg": "none"}, m{}, nil, false},
		"alg of another key":           {m{"alg": "EdDSA"}, m{}, nil, false},
		"another typ":                  {m{"typ": "JWT"}, m{}, nil, false},
		"never expires":                {nil, m{"exp": nil}, nil, false},
		"not yet":                      {nil, m{"nbf": at.Add(time.Hour).Unix()}, nil, false},
		"expiry before the millennium": {nil, m{"exp": 5}, nil, false},
	} {
		header, payload := m{"typ": TypVC, "alg": did.AlgHybrid}, m{}
		for k, v := range valid {
			payload[k] = v
		}
		for k, v := range x.payload {
			if payload[k] = v; v == nil {
				delete(payload, k)
			}
		}
		for k, v := range x.header {
			header[k] = v
		}
		tok, err := sign(issuer, header, payload)
		if err != nil {
			t.Fatal(err)
		}
		p, err := Parse(tok + "~" + strings.Join(append(x.disclosures, ""), "~"))
		if err == nil {
			o := options(issuer)
			o.Binding = nil
			_, err = p.Verify(o)
		}
		if (err == nil) != x.good {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, x := range map[string]struct {
		header, payload m
		disclosure      string
	}{
		"an algorithm of no repute": {nil, m{"_sd_alg": "md5"}, ""},
		"in capitals":               {nil, m{"_sd_alg": "SHA-256"}, ""},
		"crit":                      {m{"crit": []string{"exp"}}, m{}, ""},
		"b64":                       {m{"b64": false}, m{}, ""},
		"a claim called _sd":        {nil, m{}, sdEnc},
		"a claim called ...":        {nil, m{}, dotsEnc},
		"a disclosure of one":       {nil, m{}, b64.EncodeToString([]byte(`["salt"]`))},
		"a salt of 1":               {nil, m{}, b64.EncodeToString([]byte(`[1,"a",2]`))},
		"a name of 1":               {nil, m{}, b64.EncodeToString([]byte(`["s",1,2]`))},
		"an object":                 {nil, m{}, b64.EncodeToString([]byte(`{}`))},
	} {
		header := m{"typ": TypVC, "alg": did.AlgHybrid}
		for k, v := range x.header {
			header[k] = v
		}
		tok, err := sign(issuer, header, x.payload)
		if err != nil {
			t.Fatal(err)
		}
		tok += "~"
		if x.disclosure != "" {
			tok += x.disclosure + "~"
		}
		if _, err := Parse(tok); err == nil {
			t.Errorf("%s: parsed", name)
		}
	}
	// A payload that names a member twice: two readers, two beliefs.
	h := b64.EncodeToString([]byte(`{"typ":"dc+sd-jwt","alg":"` + did.AlgHybrid + `"}`))
	if _, err := Parse(h + "." + b64.EncodeToString([]byte(`{"exp":1,"exp":99999999999}`)) + ".AAAA~"); err == nil {
		t.Error("a member stands twice")
	}
}

func TestIssueRefuses(t *testing.T) {
	k := key(t)
	for name, c := range map[string]Claims{
		"no type":       {Issued: at},
		"no time":       {VCT: vct},
		"own claim":     {VCT: vct, Issued: at, Plain: map[string]any{"exp": 1}, Until: at},
		"digests":       {VCT: vct, Issued: at, Plain: map[string]any{"_sd": 1}},
		"hidden expiry": {VCT: vct, Issued: at, Hidden: map[string]any{"exp": 1}},
		"hidden status": {VCT: vct, Issued: at, Hidden: map[string]any{"status": 1}},
	} {
		if _, err := Issue(k, c); err == nil {
			t.Errorf("%s: issued", name)
		}
	}
	if !slices.Contains(undisclosable, "cnf") {
		t.Error("the holder's key may be hidden")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(flatPresentation(f))
	f.Add(example(f, "complex.txt"))
	f.Add("e30.e30.AA~WyJhIiwxXQ~")
	issuer := rfcIssuer(f)
	f.Fuzz(func(t *testing.T, s string) {
		p, err := Parse(s)
		if err != nil {
			return
		}
		if p.bound+strings.TrimPrefix(p.raw, p.bound) != s {
			t.Error("parsed into something else")
		}
		p.Verify(Options{Issuer: issuer, Typ: "example+sd-jwt", Now: rfcNow, Binding: rfcBinding})
	})
}

// A classical holder is refused where all is hybrid, also by who asks for no key
// binding: what reads the holder out of the credential later relies on it.
func TestClassicalHolder(t *testing.T) {
	issuer, holder := key(t), key(t)
	now := time.Unix(1_700_000_000, 0)
	for _, hybridHolder := range []bool{true, false} {
		k := did.Hybrid(holder.Public())
		if !hybridHolder {
			k = ed25519Of(holder)
		}
		raw, err := Issue(issuer, Claims{VCT: "urn:test", Holder: k, Issued: now, From: now, Until: now.Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		tok, err := Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tok.Verify(Options{Issuer: did.Hybrid(issuer.Public()), VCT: "urn:test", Now: now, HybridOnly: true}); (err == nil) != hybridHolder {
			t.Errorf("hybrid %v: %v", hybridHolder, err)
		}
	}
}

// ed25519Of is the classical half of an identity, alone.
func ed25519Of(k *hybrid.Key) did.Key {
	p := k.Public()
	return did.FromEd25519([32]byte(p[:32]))
}
