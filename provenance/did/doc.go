// Package did reads the names under which people and institutions sign:
// did:key, did:web and did:jwk, and the JSON Web Keys behind them.
//
// Our own identities are hybrid keys (Ed25519 with ML-DSA-65) and appear as
// did:jwk with kty AKP. Keys of one classical scheme are understood for one
// purpose, to verify what others issued under a public standard that has
// nothing else yet; nothing of ours is signed with them.
//
// Nothing here opens a socket. A did:web document is brought by the caller and
// believed only under the digest that was pinned: whoever takes over the web
// server afterwards changes nothing, and an old receipt stays checkable.
//
// Reading: W3C DID Core 1.0; W3C CCG did-method-key and did-method-web; did:jwk
// (quartzjer); RFC 7517 and 7638 (JWK and thumbprint), RFC 8037 (OKP), RFC 9278
// (thumbprint URI); draft-ietf-cose-dilithium (kty AKP).
package did
