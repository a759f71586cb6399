package provenance

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"consilium"
	"consilium/provenance/did"
	"consilium/provenance/sdjwt"
)

// Types of the tokens in which consents of other systems travel.
const (
	TypImportedVC = "vc+jwt" // a W3C credential (VC-JOSE-COSE §3.1.1)
	TypImported   = "JOSE"   // another document in a compact JWS (RFC 7515 §4.1.9), as FHIR's Signature has it
)

// VerifyImported checks a document that another system signed: by a key of one of
// issuers, which the hospital trusts for this. It returns the document's JSON, with
// the issuer whose key it was. Classical signatures count, since nobody else signs
// otherwise. A credential must name that issuer and be within the time of its token;
// one with a status is refused, since whether it was revoked cannot be told here, and
// so is one for somebody else. What its token says of time stays among the claims of
// doc, which consent.ParseCredential reads.
func VerifyImported(token, typ string, issuers []string, now time.Time) (doc []byte, issuer string, err error) {
	if len(issuers) == 0 {
		return nil, "", consilium.ErrSignature.Withf("imported consent: no issuer is trusted; name one")
	}
	var why error
	for _, id := range issuers {
		d, err := did.Resolve(id, nil)
		if err != nil {
			return nil, "", consilium.ErrInvalid.Withf("issuer: %w", err)
		}
		for _, m := range d.Methods {
			if !m.Assertion {
				continue
			}
			payload, err := sdjwt.VerifyJWT(token, m.Key, typ)
			if err != nil {
				why = err
				continue
			}
			if typ == TypImportedVC {
				if err := fitsIssuer(payload, id); err != nil {
					return nil, "", err
				}
				if _, _, _, err := sdjwt.Times(payload, now, sdjwt.DefaultSkew); err != nil {
					return nil, "", &consilium.Error{Code: consilium.CodeOf(err), Msg: "imported consent: the credential's token is out of its time",
						Next: "ask its issuer for one that is in force; how long the consent holds, validFrom and validUntil say", Err: err}
				}
			}
			if doc, err = json.Marshal(payload); err != nil {
				return nil, "", err
			}
			return doc, id, nil
		}
	}
	if why == nil {
		why = consilium.ErrSignature.Withf("none of %s has a key that signs", strings.Join(issuers, ", "))
	}
	return nil, "", why
}

// fitsIssuer holds a credential against the one who signed it.
func fitsIssuer(vc map[string]any, id string) error {
	named, ok := vc["issuer"].(string)
	if o, isObject := vc["issuer"].(map[string]any); isObject {
		named, ok = o["id"].(string)
	}
	if !ok || named != id {
		return consilium.ErrSignature.Withf("imported consent: the credential names the issuer %s and %s signed it", clip(named), clip(id))
	}
	if iss, there := vc["iss"]; there && iss != id {
		return consilium.ErrSignature.Withf("imported consent: the token names the issuer %.80v and %s signed it", iss, clip(id))
	}
	if _, there := vc["aud"]; there {
		return consilium.ErrSignature.Withf("imported consent: the token is for a certain reader (aud, RFC 7519 §4.1.3), which this hospital cannot tell it is; ask its issuer for one without")
	}
	if slices.ContainsFunc([]string{"credentialStatus", "status"}, func(k string) bool { _, ok := vc[k]; return ok }) {
		return consilium.ErrSignature.Withf("imported consent: the credential has a status, which cannot be looked up here; ask its issuer for one without, or take the consent at the desk")
	}
	return nil
}
