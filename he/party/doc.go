// Package party is the secret half of the encryption of one round: the group
// key, round keys and their dealing, opening shares and the opening of a sum.
// Only a hospital's gate may import it; the coordinator never does. What is
// computed, against whom it holds, what it does not protect and the reading
// list are in package he.
//
// A round, from one hospital's side:
//
//	Combine          once per charter: the group key of round 1; Ratchet after each round
//	Fingerprint      of the one vector of the round: its digest, journalled, and to know it again
//	NewSeed          for one attempt, journalled
//	Contribute       encrypts and deals;  Dealing.Header  completes the header to sign
//	OpenBox          for every dealer whose header verifies
//	NewOpeningShare  for the one certified set;  Seal  once, journalled, sent
//	UnsealOpening, Open  the sum, or consilium.ErrAggregateRejected
//
// # Duties of the caller
//
// This package cannot see the past. The caller verifies signatures, keeps one
// vector per round, journals a header before it leaves and never signs a
// second one for an attempt, opens only one set in a round and only against a
// certificate of t votes, and re-sends journalled bytes instead of making them
// again. Breaking any of these gives a contribution away; the tests show how.
//
// # Secrets
//
// Every secret type prints as its name and "(redacted)", has no exported
// fields, and leaves memory by Wipe or when its round ends. Secret returns
// bytes for the journal and is the only way out.
//
// The security argument is a sketch that no cryptographer outside the project
// has read.
package party
