// Package sdjwt issues and verifies selectively disclosable credentials:
// SD-JWT (RFC 9901) in its compact form, with key binding, and the rules of
// SD-JWT-based verifiable credentials (draft-ietf-oauth-sd-jwt-vc).
//
// A credential is a JSON document that an issuer signs with some of its claims
// replaced by salted digests. The holder shows the claims that a verifier needs
// and signs, with the key that the credential names, that it is he who shows
// them, to whom, and which: a copied credential shows nothing without the key.
//
// What is ours is signed with the hybrid algorithm (did.AlgHybrid). Ed25519 and
// ECDSA are verified, never made, for credentials of others.
//
// # Threat model
//
// The attacker writes any byte of what is presented. He may be a holder who
// wants to show what he was not given, a verifier who passes on what it was
// shown, or a stranger with a copy. Accepted means: this issuer key signed
// these claims, of this type, valid now, and this holder shows them here.
//
// It does not protect against a verifier that remembers what it was shown, nor
// unlinkability: the issuer's signature is the same in every presentation.
package sdjwt
