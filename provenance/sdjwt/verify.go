package sdjwt

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"consilium"
	"consilium/provenance/did"
)

// TypVC is the type of a verifiable credential, TypKB of a key binding.
const (
	TypVC = "dc+sd-jwt"
	TypKB = "kb+jwt"
)

// DefaultSkew is how far another's clock may be off.
const DefaultSkew = time.Minute

// Options say what a verifier demands.
type Options struct {
	Issuer did.Key // whose signature counts: resolved beforehand, never taken from the token
	Typ    string  // the header's type; "" means TypVC
	VCT    string  // the credential's type; "" demands none (a plain SD-JWT)
	Now    time.Time
	Skew   time.Duration // 0 means DefaultSkew

	// NeedExpiry refuses a credential without exp: one that nobody can outlive.
	NeedExpiry bool

	// HybridOnly refuses classical issuers and holders: for what is ours.
	HybridOnly bool

	// Binding is what the key binding must say; nil demands none, and then one
	// that is there is still checked against the credential's key and refused
	// for want of an audience.
	Binding *Binding
}

// Binding is what a verifier asked the holder to sign.
type Binding struct {
	Audience string
	Nonce    string
	MaxAge   time.Duration // 0 means any age: the nonce is fresh, or the moment does not matter
}

// Verified is what a presentation proves.
type Verified struct {
	Claims  map[string]any // with what was disclosed
	Issuer  did.Key
	Holder  did.Key // of cnf; zero without one
	BoundAt int64   // Unix seconds of the key binding; 0 without one
	Issued  int64   // iat; 0 without one
	From    int64   // nbf; 0 without one
	Until   int64   // exp; 0 without one
}

// undisclosable claims control validity: a holder may not choose to hide one
// (RFC 9901 §9.7, SD-JWT VC §2.2.2.3).
var undisclosable = []string{"iss", "nbf", "exp", "cnf", "vct", "vct#integrity", "status", "credentialStatus", "_sd_alg", "_sd", "..."}

// Verify checks a presentation (RFC 9901 §7.1 and §7.3) and returns what it
// proves. Every error matches consilium.ErrSignature, or ErrStale for one that
// is out of its time.
func (t *Token) Verify(o Options) (*Verified, error) {
	fail := func(format string, args ...any) (*Verified, error) {
		return nil, consilium.ErrSignature.Withf("credential: "+format, args...)
	}
	if o.Now.IsZero() || o.Issuer.IsZero() {
		return fail("the verifier has neither clock nor issuer")
	}
	skew := o.Skew
	if skew == 0 {
		skew = DefaultSkew
	}
	if o.HybridOnly && o.Issuer.Algorithm() != did.AlgHybrid {
		return fail("a classical signature where a hybrid one is demanded")
	}
	want := o.Typ
	if want == "" {
		want = TypVC
	}
	if t.Header["typ"] != want {
		return fail("type %.40v, want %s", t.Header["typ"], want)
	}
	if err := verifyJWS(o.Issuer, t.Header, t.issuerInput, t.issuerSig); err != nil {
		return fail("the issuer's signature: %w", err)
	}
	for _, d := range t.disclosures {
		if slices.Contains(undisclosable, d.name) {
			return fail("claim %q may not be disclosed selectively", d.name)
		}
	}
	claims, err := t.process()
	if err != nil {
		return fail("%w", err)
	}
	if o.VCT != "" && claims["vct"] != o.VCT {
		return fail("of type %.80v, want %s", claims["vct"], o.VCT)
	}
	v := &Verified{Claims: claims, Issuer: o.Issuer}
	if v.Issued, v.From, v.Until, err = Times(claims, o.Now, skew); err != nil {
		return nil, err
	}
	if _, has := claims["exp"]; !has && o.NeedExpiry {
		return fail("it never expires")
	}
	if cnf, ok := claims["cnf"]; ok {
		m, _ := cnf.(map[string]any)
		jwk, ok := m["jwk"].(map[string]any)
		if !ok {
			return fail("cnf: want a jwk")
		}
		if v.Holder, err = did.KeyOf(jwk); err != nil {
			return fail("cnf: %w", err)
		}
		if o.HybridOnly && v.Holder.Algorithm() != did.AlgHybrid {
			return fail("cnf: a classical key where a hybrid one is demanded")
		}
	}
	if err := t.verifyBinding(v, o, skew); err != nil {
		return nil, err
	}
	return v, nil
}

func (t *Token) verifyBinding(v *Verified, o Options, skew time.Duration) error {
	fail := func(format string, args ...any) error {
		return consilium.ErrSignature.Withf("key binding: "+format, args...)
	}
	switch {
	case t.binding == nil && o.Binding == nil:
		return nil
	case t.binding == nil:
		return fail("none; the holder must sign what it shows")
	case o.Binding == nil:
		return fail("there is one, and nobody here asked for it")
	case v.Holder.IsZero():
		return fail("the credential names no key of its holder")
	case o.Binding.Audience == "" || o.Binding.Nonce == "":
		return fail("the verifier has no audience or no nonce")
	}
	b := t.binding
	if b.header["typ"] != TypKB {
		return fail("type %.40v, want %s", b.header["typ"], TypKB)
	}
	if err := verifyJWS(v.Holder, b.header, b.input, b.sig); err != nil {
		return fail("%w", err)
	}
	at, has, err := number(b.payload, "iat")
	if err != nil || !has {
		return fail("iat: %w", errors.Join(err, errors.New("needed")))
	}
	if at > o.Now.Add(skew).Unix() {
		return consilium.ErrStale.Withf("key binding: signed in the future, %s", date(at))
	}
	if o.Binding.MaxAge > 0 && at < o.Now.Add(-o.Binding.MaxAge-skew).Unix() {
		return consilium.ErrStale.Withf("key binding: signed %s, too long ago", date(at))
	}
	text := func(name string) string { s, _ := b.payload[name].(string); return s }
	if text("aud") != o.Binding.Audience {
		return fail("for %.80q, this is %q", text("aud"), o.Binding.Audience)
	}
	if subtle.ConstantTimeCompare([]byte(text("nonce")), []byte(o.Binding.Nonce)) != 1 {
		return fail("answers another question")
	}
	if text("sd_hash") != b64.EncodeToString(t.hash([]byte(t.bound))) {
		return fail("covers other claims than are shown")
	}
	v.BoundAt = at
	return nil
}

// Times are the iat, nbf and exp of a token's claims in Unix seconds (RFC 7519
// §4.1.4 to 4.1.6), 0 for one that is not there. A token that is out of its time at
// now, by more than skew, is an error that matches ErrStale.
func Times(claims map[string]any, now time.Time, skew time.Duration) (issued, from, until int64, err error) {
	var has bool
	if issued, _, err = number(claims, "iat"); err == nil {
		if from, _, err = number(claims, "nbf"); err == nil {
			until, has, err = number(claims, "exp")
		}
	}
	early, late := now.Add(skew).Unix(), now.Add(-skew).Unix()
	switch {
	case err != nil:
		return 0, 0, 0, consilium.ErrSignature.Withf("credential: %w", err)
	case from > early:
		return 0, 0, 0, consilium.ErrStale.Withf("credential: valid only from %s", date(from))
	case issued > early:
		return 0, 0, 0, consilium.ErrStale.Withf("credential: issued in the future, %s", date(issued))
	case has && until <= late:
		return 0, 0, 0, consilium.ErrStale.Withf("credential: expired %s", date(until))
	}
	return issued, from, until, nil
}

func date(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }

// Decode reads a claim into dst. Unknown members are an error.
func Decode(claim, dst any) error {
	b, err := json.Marshal(claim)
	if err != nil {
		return err
	}
	return strictInto(b, dst)
}

// Unverified is what the token says, with what is disclosed put in its place.
// Nothing of it is proven: it serves to look keys up and to show a document to
// its owner.
func (t *Token) Unverified() (map[string]any, error) { return t.process() }
