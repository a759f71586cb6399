package provenance

import (
	"errors"

	"consilium"
	"consilium/provenance/did"
)

// DIDKey is the did:key (W3C CCG did-method-key) of the key's Ed25519 half: a
// name to show to people. It identifies, it verifies nothing: signatures are
// checked against the whole hybrid key.
func DIDKey(k consilium.PublicKey) string {
	return did.FromEd25519([32]byte(k[:32])).KeyDID()
}

// ParseDIDKey returns the Ed25519 key that a did:key names.
func ParseDIDKey(name string) ([32]byte, error) {
	var out [32]byte
	k, err := did.ParseKey(name)
	if err != nil {
		return out, err
	}
	raw, ok := k.Ed25519()
	if !ok {
		return out, errors.New("did:key: no Ed25519 key")
	}
	return raw, nil
}
