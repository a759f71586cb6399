// Package wire promises that what crosses the network is validated: who speaks,
// over which key exchange, in which role, and what the bytes mean. It is the one
// place where protobuf becomes domain values (validate.go) and where errors become
// statuses and back (status.go); coordinator and worker see only domain values.
//
// # Who speaks
//
// TLS 1.3 only, both sides with a self-signed certificate whose public key the
// board's roster pins (SHA-256 of the SubjectPublicKeyInfo); there is no CA. A
// roster update takes effect at the next call of a connection that already stands,
// and ends streams. The key exchange is X25519MLKEM768 and nothing else: each side
// offers only that, and each checks after the handshake what was agreed, so a
// configuration mistake on one side cannot weaken a connection.
//
// # Threat model
//
// The network is the adversary's: it reads, drops, delays and replays. A peer may
// be any roster member gone bad: it may send any bytes. Recorded traffic may meet
// a quantum computer later; the hybrid key exchange keeps it closed.
//
// # What it does not protect
//
// The certificates' own signatures are classical (Ed25519), because TLS has no
// deployed post-quantum ones: whoever breaks Ed25519 during a handshake can pose
// as a member to the transport. Such an intruder still forges no message: these
// carry hybrid signatures that members check themselves. Traffic analysis (who
// talks when, how much) is not hidden. A member who floods is bounded per call, not
// in all.
package wire
