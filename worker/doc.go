// Package worker is a hospital's gate: it holds the network, the identity
// keys and the journal, follows the studies that concern its hospital, and
// makes every statement that the protocol asks for. It holds no row: those are
// behind internal/hatch in the vault.
//
// Threat model. The coordinator's cluster may lie about everything, at any
// time, together with up to f hospitals of a study. The gate therefore takes
// from the coordinator only order, deadlines and proposals, rebuilds each study
// from hospitals' signatures, and keeps these promises across crashes:
//
//   - one vector per study and round, one header per attempt, one vote per
//     attempt, one opening per attempt: the bytes are journalled before they are
//     sent and only those bytes are ever sent again;
//   - nothing is opened but a set certified by t votes, with at least min_sites
//     operators, that the hospital itself verified member by member;
//   - the first opening of a round locks its members for all attempts;
//   - without differential privacy the first opening of a study freezes its
//     members and their row sets;
//   - an opened sum is never followed by one of the same lineage whose
//     contributors differ by fewer than f + 2 hospitals.
//
// Not protected: a hospital's own machine and administrators; denial of
// service by the coordinator or by more than n - t hospitals; poisoning of a
// sum within the clip by a dishonest member; a journal that is rolled back to an
// earlier copy (such a hospital counts among the f). DESIGN.md says what is
// durable when, and what a crash at each point means.
package worker
