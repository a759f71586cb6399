// Package consilium is the vocabulary that two rooms of the house exchange:
// identifiers, digests and their domain strings, the roster, the study
// specification, the charter, layouts, the signed messages of a round and the
// sentinel errors.
//
// It parses, validates and digests, and does nothing else. It imports only the
// standard library, so reading it teaches the system without any foreign
// library in the way.
//
// The order to read it in: id.go, domain.go, key.go, roster.go, spec.go,
// charter.go, layout.go, message.go, event.go, errors.go.
package consilium
