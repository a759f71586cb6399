// Package coordinator runs a federation's studies: it orders what members say,
// keeps deadlines, stores ciphertexts, sums them and keeps the audit log. It is
// replicated with Raft on three or five nodes.
//
// # Purpose and shape
//
// State is the pure half: Apply executes one command of the replicated log and
// returns the events that every replica records. It has no clock, no randomness
// and no I/O, does not evaluate policy and does not touch ciphertexts; what
// varies enters the log as data. Pending says what a leader owes, and follows
// from the state alone, so a new leader goes on where the old one died. The
// shell around it holds raft, the network, the blobs and the leader's loop.
//
// # Threat model
//
// Hospitals do not trust this package. They rebuild every study from one
// another's signatures and take from here order, deadlines and proposals only;
// safety is theirs. What Apply refuses (a second contribution of one hospital, a
// second vote, a set below min_sites, another set after the first opening) it
// refuses so that an honest coordinator loses no study to a dishonest member and
// so that its log is evidence; a dishonest coordinator gains nothing by not
// refusing. Raft tolerates crashed nodes, not lying ones.
//
// Coordinator time may end, delay or refuse; it never permits. Whether consent,
// approvals and rosters are in force is judged by each hospital's clock.
//
// # What it does not protect
//
// Liveness against its own operators, or against more than n - t hospitals of a
// study. At small N every hospital's vote is needed (N = 3 or 4), so a single one
// can stall a round or have a dealer left out by complaining about it; the log
// names it. Who takes part in which study, and when, is visible to the nodes.
//
// DESIGN.md tells who moves each phase, what is durable by then and what a crash
// at each point means.
package coordinator
