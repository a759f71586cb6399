package consent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"consilium/policy"
)

// CredentialType is the type that a consent credential carries beside
// VerifiableCredential.
const CredentialType = "ConsentCredential"

// ParseCredential reads the claims of a W3C verifiable credential (data model
// 1.1 or 2.0) whose proof, issuer and status were verified before. The subject
// carries one claim, consent:
//
//	{"decision": "deny", "givenBy": "self", "purposes": [{"id": "DUO:0000042"}],
//	 "rules": [{"decision": "permit", "codes": ["http://loinc.org|2339-0"]},
//	           {"decision": "deny", "categories": ["mental"]}]}
//
// decision holds where no rule matches, and a rule that denies wins. Everything
// in the claim must be known; a credential may carry other claims, and any
// field that the data model lets change its meaning (termsOfUse) denies. The times
// of the token that carried it (nbf and exp, RFC 7519 §4.1) narrow its own, and
// do not stand for them.
func ParseCredential(doc []byte) (*Form, error) {
	if len(doc) > MaxDocument {
		return nil, fmt.Errorf("credential: %d bytes, at most %d", len(doc), MaxDocument)
	}
	if err := unique(json.NewDecoder(bytes.NewReader(doc)), 0); err != nil {
		return nil, fmt.Errorf("credential: %w", err)
	}
	var c struct {
		Type           stringList      `json:"type"`
		IssuanceDate   string          `json:"issuanceDate"`
		ExpirationDate string          `json:"expirationDate"`
		ValidFrom      string          `json:"validFrom"`
		ValidUntil     string          `json:"validUntil"`
		NotBefore      *int64          `json:"nbf"` // Unix seconds
		Expires        *int64          `json:"exp"`
		TermsOfUse     json.RawMessage `json:"termsOfUse"`
		Subject        json.RawMessage `json:"credentialSubject"`
	}
	if err := json.Unmarshal(doc, &c); err != nil {
		return nil, fmt.Errorf("credential: %w", err)
	}
	if !slices.Contains(c.Type, "VerifiableCredential") || !slices.Contains(c.Type, CredentialType) {
		return nil, fmt.Errorf("credential: type: want VerifiableCredential and %s", CredentialType)
	}
	var subject struct {
		ID      string          `json:"id"`
		Consent json.RawMessage `json:"consent"`
	}
	if err := json.Unmarshal(c.Subject, &subject); err != nil {
		return nil, fmt.Errorf("credential: credentialSubject: want one subject: %w", err)
	}
	if len(subject.Consent) == 0 {
		return nil, errors.New("credential: the subject carries no consent claim")
	}
	f := &Form{Source: "W3C", Status: StatusActive, Until: Never, Patient: subject.ID}
	if len(c.TermsOfUse) > 0 {
		f.deny("the credential has terms of use, which are not known here")
	}
	// Whichever of the two vocabularies is used, the narrower time holds.
	for _, s := range []string{c.IssuanceDate, c.ValidFrom} {
		if s != "" {
			t, err := time.Parse(time.RFC3339, s)
			if err != nil {
				return nil, fmt.Errorf("credential: %q is not a time", clip(s))
			}
			f.From = max(f.From, t.Unix())
		}
	}
	for _, s := range []string{c.ExpirationDate, c.ValidUntil} {
		if s != "" {
			t, err := time.Parse(time.RFC3339, s)
			if err != nil {
				return nil, fmt.Errorf("credential: %q is not a time", clip(s))
			}
			f.Until = min(f.Until, t.Unix())
		}
	}
	if f.From == 0 {
		f.deny("the credential does not say from when it holds")
	}
	if c.NotBefore != nil {
		f.From = max(f.From, *c.NotBefore)
	}
	if c.Expires != nil {
		f.Until = min(f.Until, *c.Expires)
	}
	var claim struct {
		Decision string `json:"decision"`
		GivenBy  string `json:"givenBy"`
		Purposes []struct {
			ID   string   `json:"id"`
			Args []string `json:"args"`
		} `json:"purposes"`
		Rules []struct {
			Decision   string   `json:"decision"`
			Categories []string `json:"categories"`
			Codes      []string `json:"codes"`
			Purposes   []string `json:"purposes"`
			Actors     []string `json:"actors"`
			From       string   `json:"from"`
			Until      string   `json:"until"`
		} `json:"rules"`
	}
	dec := json.NewDecoder(bytes.NewReader(subject.Consent))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&claim); err != nil {
		return nil, fmt.Errorf("credential: consent: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("credential: consent: bytes after the claim")
	}
	switch claim.Decision {
	case "permit":
		f.Base = true
	case "deny":
	default:
		return nil, fmt.Errorf("credential: consent: decision %q, want permit or deny", clip(claim.Decision))
	}
	if !slices.Contains([]string{"self", "parent", "representative"}, claim.GivenBy) {
		return nil, fmt.Errorf("credential: consent: givenBy %q, want self, parent or representative", clip(claim.GivenBy))
	}
	f.GivenBy = claim.GivenBy
	var codes []Code
	for _, p := range claim.Purposes {
		codes = append(codes, Code{ID: p.ID, Args: p.Args})
	}
	d := FromDUO(codes, claim.GivenBy)
	f.Uses, f.Area, f.Until = d.Uses, d.Area, min(f.Until, d.Until)
	if d.Denied != "" {
		f.deny("%s", d.Denied)
	}
	for i, r := range claim.Rules {
		if r.Decision != "permit" && r.Decision != "deny" {
			return nil, fmt.Errorf("credential: consent: rule %d: decision %q", i+1, clip(r.Decision))
		}
		s, err := (&fhirPeriod{Start: r.From, End: r.Until}).span()
		if err != nil {
			return nil, fmt.Errorf("credential: rule %d: %w", i+1, err)
		}
		for _, c := range r.Categories {
			if !slices.Contains(policy.Categories(), c) {
				return nil, fmt.Errorf("credential: consent: rule %d: category %q, want one of %s", i+1, clip(c), strings.Join(policy.Categories(), ", "))
			}
		}
		rule := Rule{Permit: r.Decision == "permit", Branch: i + 1, Depth: 1, When: []span{s}}
		for _, x := range []criterion{{"category", r.Categories}, {"code", r.Codes}, {"purpose", r.Purposes}, {"actor", r.Actors}} {
			if len(x.values) > 0 {
				rule.Match = append(rule.Match, x)
			}
		}
		f.Rules = append(f.Rules, rule)
	}
	return f, nil
}

// stringList is a string or a list of strings.
type stringList []string

func (l *stringList) UnmarshalJSON(b []byte) error {
	if strings.HasPrefix(strings.TrimSpace(string(b)), `"`) {
		var s string
		err := json.Unmarshal(b, &s)
		*l = stringList{s}
		return err
	}
	return json.Unmarshal(b, (*[]string)(l))
}
