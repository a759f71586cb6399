package provenance

import (
	"encoding/json"
	"fmt"
	"time"

	"consilium"
	"consilium/provenance/did"
	"consilium/provenance/sdjwt"
	"consilium/provenance/status"
)

// A consent is a verifiable credential (SD-JWT VC) with two signatures. The
// hospital issues it: it says that this form was explained, and names the key of
// who decides. The patient, or who acts for the patient, signs the key binding:
// that is the consent. Neither alone is one.
//
// Everything that tells something of the patient is disclosed selectively: a
// patient can show a researcher that a consent is in force for a purpose without
// showing that it covers HIV. The hospital's own copy has all disclosures.

// VCTConsent is the type of consent credentials.
const VCTConsent = "urn:consilium:consent:1"

// hiddenClaims are the disclosures of a consent credential, each a list or a
// text that may say something of the patient's health.
type hiddenClaims struct {
	Form       string           `json:"form"`
	Evidence   consilium.Digest `json:"evidence"`
	Studies    []string         `json:"studies"`
	Scopes     []string         `json:"scopes"`
	Purposes   []string         `json:"purposes"`
	Diseases   []string         `json:"diseases"`
	Countries  []string         `json:"countries"`
	Objections []string         `json:"objections"`
}

// plainClaims are visible in every presentation, beside those of the format
// itself: iss, iat (given), nbf (from), exp (until), vct and cnf (the key).
type plainClaims struct {
	JTI      ID               `json:"jti"`
	Sub      consilium.Digest `json:"sub"`
	Site     consilium.SiteID `json:"site"`
	Level    string           `json:"level"`
	Explicit bool             `json:"explicit"`
	Informed bool             `json:"informed"`
	GivenBy  string           `json:"givenBy"`
	Assent   bool             `json:"assent"`
}

// consentDecoys hides how many of the hidden claims a reader of the ledger's
// documents would find; all consents have the same ones, so a few suffice.
const consentDecoys = 2

// ConsentAudience is whom the key binding of a consent is for.
func ConsentAudience(site consilium.SiteID) string { return "consilium:site:" + string(site) }

// OfferConsent issues the credential that a patient will sign: it completes c
// as SignConsent does, for the patient p, whose key is key. Until the key
// binding is there it permits nothing.
func OfferConsent(hospital consilium.Signer, c Consent, key consilium.PublicKey, p Pseudonym, entry *status.Entry) (string, error) {
	c.APIVersion, c.Kind, c.Key = consilium.APIVersion, "Consent", key
	if c.ID.IsZero() {
		c.ID = NewID()
	}
	c.Subject = ConsentSubject(c.ID, c.Site, p)
	for _, l := range []*[]string{&c.Studies, &c.Scopes, &c.Purposes, &c.Diseases, &c.Countries, &c.Objections} {
		*l = sorted(*l)
	}
	if err := c.validate(); err != nil {
		return "", consilium.ErrInvalid.Withf("consent: %w", err)
	}
	plain, err := asMap(plainClaims{c.ID, c.Subject, c.Site, c.Level, c.Explicit, c.Informed, c.GivenBy, c.Assent})
	if err != nil {
		return "", err
	}
	hidden, err := asMap(hiddenClaims{c.Form, c.Evidence, c.Studies, c.Scopes, c.Purposes, c.Diseases, c.Countries, c.Objections})
	if err != nil {
		return "", err
	}
	if entry != nil {
		plain["credentialStatus"] = *entry
	}
	claims := sdjwt.Claims{VCT: VCTConsent, Holder: did.Hybrid(key), Issued: time.Unix(c.Given, 0), From: time.Unix(c.From, 0), Plain: plain, Hidden: hidden, Decoys: consentDecoys}
	if c.Until != 0 {
		claims.Until = time.Unix(c.Until, 0)
	}
	return sdjwt.Issue(hospital, claims)
}

// AcceptConsent is the patient's signature on an offered credential.
func AcceptConsent(offer string, patient consilium.Signer, at time.Time) (*SignedDoc, error) {
	t, err := sdjwt.Parse(offer)
	if err != nil {
		return nil, consilium.ErrInvalid.With(err)
	}
	claims, err := t.Unverified()
	if err != nil {
		return nil, consilium.ErrInvalid.With(err)
	}
	c, _, err := consentOf(claims)
	if err != nil {
		return nil, consilium.ErrInvalid.With(err)
	}
	if c.Key != patient.Public() {
		return nil, consilium.ErrForbidden.Withf("the consent was offered to another key")
	}
	shown, err := sdjwt.Present(offer, nil, patient, sdjwt.Binding{Audience: ConsentAudience(c.Site), Nonce: c.ID.String()}, at)
	if err != nil {
		return nil, err
	}
	return ParseSignedDoc([]byte(shown))
}

// IssueConsent is OfferConsent and AcceptConsent at one desk.
func IssueConsent(hospital, patient consilium.Signer, c Consent, p Pseudonym, entry *status.Entry) (*SignedDoc, error) {
	offer, err := OfferConsent(hospital, c, patient.Public(), p, entry)
	if err != nil {
		return nil, err
	}
	return AcceptConsent(offer, patient, time.Unix(c.Given, 0))
}

func asMap(v any) (map[string]any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	return out, json.Unmarshal(b, &out)
}

// take moves the named members of from into a value of their own.
func take(from map[string]any, names []string, dst any) error {
	part := map[string]any{}
	for _, n := range names {
		v, ok := from[n]
		if !ok {
			return fmt.Errorf("no %s", n)
		}
		part[n] = v
		delete(from, n)
	}
	return sdjwt.Decode(part, dst)
}

// consentOf reads the claims of a whole consent credential. Anything more or
// less than they should be is an error: what is not understood could be a
// restriction.
func consentOf(claims map[string]any) (*Consent, *status.Entry, error) {
	rest := map[string]any{}
	for k, v := range claims {
		rest[k] = v
	}
	var p plainClaims
	if err := take(rest, []string{"jti", "sub", "site", "level", "explicit", "informed", "givenBy", "assent"}, &p); err != nil {
		return nil, nil, err
	}
	var h hiddenClaims
	if err := take(rest, []string{"form", "evidence", "studies", "scopes", "purposes", "diseases", "countries", "objections"}, &h); err != nil {
		return nil, nil, err
	}
	var format struct {
		ISS string                     `json:"iss"`
		VCT string                     `json:"vct"`
		IAT int64                      `json:"iat"`
		NBF int64                      `json:"nbf"`
		CNF map[string]json.RawMessage `json:"cnf"`
	}
	if err := take(rest, []string{"iss", "vct", "iat", "nbf", "cnf"}, &format); err != nil {
		return nil, nil, err
	}
	if format.VCT != VCTConsent {
		return nil, nil, fmt.Errorf("a credential of type %q", clip(format.VCT))
	}
	var until struct {
		EXP int64 `json:"exp"`
	}
	if _, ok := rest["exp"]; ok {
		if err := take(rest, []string{"exp"}, &until); err != nil {
			return nil, nil, err
		}
	}
	key, err := did.ParseJWK(format.CNF["jwk"])
	if err != nil {
		return nil, nil, err
	}
	hybrid, ok := key.HybridKey()
	if !ok || len(format.CNF) != 1 {
		return nil, nil, fmt.Errorf("cnf: want one hybrid key")
	}
	var entry *status.Entry
	if v, ok := rest["credentialStatus"]; ok {
		e, err := status.EntryOf(v)
		if err != nil {
			return nil, nil, err
		}
		entry = &e
		delete(rest, "credentialStatus")
	}
	for name := range rest {
		return nil, nil, fmt.Errorf("claim %q is not understood", clip(name))
	}
	c := &Consent{APIVersion: consilium.APIVersion, Kind: "Consent", ID: p.JTI, Subject: p.Sub, Site: p.Site, Form: h.Form, Evidence: h.Evidence, Level: p.Level,
		Studies: h.Studies, Scopes: h.Scopes, Purposes: h.Purposes, Diseases: h.Diseases, Countries: h.Countries, Explicit: p.Explicit, Informed: p.Informed,
		GivenBy: p.GivenBy, Assent: p.Assent, Objections: h.Objections, Given: format.IAT, From: format.NBF, Until: until.EXP, Key: hybrid}
	return c, entry, c.validate()
}

// parseConsentCredential reads a consent with its key binding and all its
// disclosures. It checks the form, not the signatures.
func parseConsentCredential(s string) (*SignedDoc, error) {
	t, err := sdjwt.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("consent: %w", err)
	}
	if !t.Bound() {
		return nil, fmt.Errorf("consent: the hospital offered it, and nobody has signed it yet")
	}
	claims, err := t.Unverified()
	if err != nil {
		return nil, fmt.Errorf("consent: %w", err)
	}
	d := &SignedDoc{domain: consilium.DomainConsent, payload: []byte(s), token: t}
	if d.Consent, d.status, err = consentOf(claims); err != nil {
		return nil, fmt.Errorf("consent: %w", err)
	}
	return d, nil
}

// Credential is the credential without the key binding, for its owner to
// keep; "" for a document of our own form.
func (d *SignedDoc) Credential() string {
	if d.token == nil {
		return ""
	}
	return d.token.Credential()
}

// Status is where the credential stands in the hospital's status list; nil
// where it has no place.
func (d *SignedDoc) Status() *status.Entry { return d.status }

// VerifyCredential checks both signatures of a consent credential: the
// hospital's, under one of its keys, and the key binding for this hospital.
// arrived is when the hospital got it. Whether it is in force at some moment is
// not asked here: that is what Claims say.
func (d *SignedDoc) VerifyCredential(hospital []consilium.PublicKey, arrived time.Time) error {
	if d.token == nil {
		return consilium.ErrSignature.Withf("no credential")
	}
	moment := arrived
	if from := time.Unix(d.Consent.From, 0); from.After(moment) {
		moment = from // given for later
	}
	for _, k := range hospital {
		issuer := did.Hybrid(k)
		if d.token.Issuer() != issuer.ThumbprintURI() {
			continue
		}
		_, err := d.token.Verify(sdjwt.Options{Issuer: issuer, VCT: VCTConsent, Now: moment, HybridOnly: true,
			Binding: &sdjwt.Binding{Audience: ConsentAudience(d.Consent.Site), Nonce: d.Consent.ID.String()}})
		return err
	}
	return consilium.ErrSignature.Withf("consent: issued by %s, who is not this hospital", clip(d.token.Issuer()))
}
