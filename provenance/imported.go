package provenance

import (
	"encoding/json"
	"slices"
	"strings"

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
// otherwise. A credential must name that issuer, and one with a status is refused:
// whether it was revoked cannot be told here.
func VerifyImported(token, typ string, issuers []string) (doc []byte, issuer string, err error) {
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
	if slices.ContainsFunc([]string{"credentialStatus", "status"}, func(k string) bool { _, ok := vc[k]; return ok }) {
		return consilium.ErrSignature.Withf("imported consent: the credential has a status, which cannot be looked up here; ask its issuer for one without, or take the consent at the desk")
	}
	return nil
}
