// Package epcis computes the GS1 event hash of supply-chain events: one name
// for an EPCIS 2.0 event, the same whether it arrived as XML or as JSON-LD, so
// that a ledger can commit to where a medicine, a sample or a device has been.
//
// The hash is that of GS1 CBV 2.0 §8.9 ("EPCIS event hash ID"): the event's
// fields in one order, each value in one spelling, hashed with SHA-256. Two
// spellings of a GS1 key (EPC URN, Digital Link of any domain) are one, and so
// are two spellings of a moment or a number.
//
// The suite of RalphTro/epcis-event-hash-generator (MIT), the algorithm's
// reference, is the truth that the tests hold this package against. Where the
// standard's text and those vectors differ, the vectors win: fields outside
// the common order (business transactions, sources, destinations, ilmd,
// extensions) follow sorted at the end.
//
// It does not validate an event against the EPCIS schema, and it does not know
// whether an event happened. recordTime, eventID, errorDeclaration, comments
// and the document's ignoreFields are not part of the hash. A moment with more
// than milliseconds is rounded, half up.
package epcis
