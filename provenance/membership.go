package provenance

import (
	"fmt"
	"slices"
	"time"

	"consilium"
	"consilium/provenance/did"
	"consilium/provenance/sdjwt"
	"consilium/provenance/status"
)

// VCTMember is the type of credentials of researchers and hospitals.
const VCTMember = "urn:consilium:member:1"

// Roles of a member.
const (
	MemberResearcher = "researcher"
	MemberHospital   = "hospital"
)

// Membership says who somebody is, in the words of an issuer: a board, a
// university, a hospital. Attributes (training, ethics number, …) are shown one by
// one, as the holder chooses.
type Membership struct {
	Role        string            `json:"role"`
	ID          string            `json:"id"` // as rosters write it
	Name        string            `json:"name"`
	Institution string            `json:"institution"`
	Country     string            `json:"country"` // ISO 3166
	Attributes  map[string]string `json:"-"`       // hidden unless shown
}

var memberPlain = []string{"role", "id", "name", "institution", "country"}

func (m *Membership) validate() error {
	switch {
	case m.Role != MemberResearcher && m.Role != MemberHospital:
		return fmt.Errorf("role %q: want researcher or hospital", clip(m.Role))
	case m.ID == "" || len(m.ID) > 128 || m.Name == "" || len(m.Name) > 256 || len(m.Institution) > 256:
		return fmt.Errorf("id, name and institution: want short texts")
	case len(m.Country) != 2:
		return fmt.Errorf("country %q: want two letters", clip(m.Country))
	case len(m.Attributes) > 32:
		return fmt.Errorf("%d attributes, at most 32", len(m.Attributes))
	}
	for name, v := range m.Attributes {
		if len(name) < 1 || len(name) > 64 || len(v) > 512 || slices.Contains(memberPlain, name) {
			return fmt.Errorf("attribute %q", clip(name))
		}
	}
	return nil
}

// IssueMembership signs a membership for the holder of a key. It must end:
// nobody is a researcher somewhere for good.
func IssueMembership(issuer consilium.Signer, m Membership, holder consilium.PublicKey, from, until time.Time, entry *status.Entry) (string, error) {
	if err := m.validate(); err != nil {
		return "", consilium.ErrInvalid.Withf("membership: %w", err)
	}
	if !until.After(from) {
		return "", consilium.ErrInvalid.Withf("membership: it must end after it begins")
	}
	plain, err := asMap(m)
	if err != nil {
		return "", err
	}
	if entry != nil {
		plain["credentialStatus"] = *entry
	}
	hidden := map[string]any{}
	for name, v := range m.Attributes {
		hidden[name] = v
	}
	return sdjwt.Issue(issuer, sdjwt.Claims{VCT: VCTMember, Holder: did.Hybrid(holder), Issued: from, From: from, Until: until, Plain: plain, Hidden: hidden, Decoys: 4})
}

// VerifyMembership checks what a member presents: issued by one of issuers, in
// force, shown by its holder to this audience in answer to nonce, and, where the
// credential has a place in a list, not revoked in lists. These are published
// lists as they were fetched: one that the credential's own issuer has not
// signed, or that has run out, is passed over, for anybody could publish a list
// in which nothing is revoked, and an old one hides what was revoked since.
func VerifyMembership(presentation string, issuers []did.Key, b sdjwt.Binding, now time.Time, lists []string) (*Membership, consilium.PublicKey, error) {
	var none consilium.PublicKey
	t, err := sdjwt.Parse(presentation)
	if err != nil {
		return nil, none, consilium.ErrSignature.With(err)
	}
	at := slices.IndexFunc(issuers, func(k did.Key) bool { return k.ThumbprintURI() == t.Issuer() })
	if at < 0 {
		return nil, none, consilium.ErrSignature.Withf("membership: issued by %s, who is not trusted here", clip(t.Issuer()))
	}
	v, err := t.Verify(sdjwt.Options{Issuer: issuers[at], VCT: VCTMember, Now: now, NeedExpiry: true, HybridOnly: true, Binding: &b})
	if err != nil {
		return nil, none, err
	}
	holder, _ := v.Holder.HybridKey() // HybridOnly
	claims := v.Claims
	if s, ok := claims["credentialStatus"]; ok {
		e, err := status.EntryOf(s)
		if err != nil {
			return nil, none, consilium.ErrSignature.With(err)
		}
		known := false
		var why error
		for _, token := range lists {
			l, err := status.Open(token, issuers[at], now)
			if err != nil {
				why = err
				continue
			}
			if l.ID != e.List || l.Purpose != e.Purpose {
				continue
			}
			set, err := l.Set(e)
			if err != nil {
				return nil, none, consilium.ErrSignature.With(err)
			}
			if set {
				return nil, none, consilium.ErrForbidden.Withf("membership: revoked")
			}
			known = true
		}
		if !known {
			return nil, none, consilium.ErrSignature.Withf("membership: its status list %s is not at hand; without it nobody knows whether it was revoked; the last one that was passed over: %w", clip(e.List), why)
		}
	}
	m := &Membership{Attributes: map[string]string{}}
	part := map[string]any{}
	for name, v := range claims {
		switch {
		case slices.Contains(memberPlain, name):
			part[name] = v
		case slices.Contains([]string{"iss", "iat", "nbf", "exp", "vct", "cnf", "credentialStatus"}, name):
		default:
			s, ok := v.(string)
			if !ok {
				return nil, none, consilium.ErrSignature.Withf("membership: attribute %q is no text", clip(name))
			}
			m.Attributes[name] = s
		}
	}
	if err := sdjwt.Decode(part, m); err != nil {
		return nil, none, consilium.ErrSignature.Withf("membership: %w", err)
	}
	if err := m.validate(); err != nil {
		return nil, none, consilium.ErrSignature.Withf("membership: %w", err)
	}
	return m, holder, nil
}
