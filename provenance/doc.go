// Package provenance answers one question before a study reads a hospital's
// rows: are these the records that the hospital committed to, all of them and
// unchanged, and did their patients consent? It also keeps what shows
// afterwards who used what.
//
// # How it fits together
//
//	row        canonical bytes of an Arrow row (row.go)
//	leaf       SHA-256(0x00 || schema || salt || row); the salt derives from a
//	           random key of the patient (salt.go)
//	batch      RFC 6962 tree over leaves; only its root leaves the hospital, in a
//	           header that the hospital signs (batch.go)
//	ledger     the hospital's own append-only log of headers and audit records,
//	           a Merkle tree on disk (ledger.go, entry.go)
//	checkpoint the ledger's signed tree head, cosigned by witnesses, above all
//	           the ethics board's (checkpoint.go, witness.go)
//	gate       follows the ledger, remembers what it saw, and lets through only
//	           rows that re-derive (gate.go, verify.go)
//	streams    wearables' signed, chained batches and supply-chain events, as rows
//	           of the same ledger (device.go, streamtable.go, epcis)
//	receipt    one row's whole chain, for its patient or an auditor (receipt.go)
//	consent    verifiable credentials that the hospital issues and the patient signs
//	           (consentvc.go), withdrawals, mandates and the patient's line of keys
//	           (keyline.go); their salted digests are in the ledger (consent.go)
//	anchor     the heads of all ledgers under one hash, for a chain (anchor.go)
//
// Packages did, sdjwt, status and guardian hold the formats: names and keys,
// selectively disclosable credentials, status lists, shares of a lost key.
//
// Edge, Tiles and the checkpoint functions serve a second log as well: the
// audit log that the coordinators keep.
//
// # Threat model
//
// The attacker may write to every disk of the hospital but not use its
// identity key: rows, manifests, consents and ledger files may be changed,
// cut, swapped, rolled back or invented. The gate then excludes the rows, or
// the batch, or refuses the ledger, and says which. Altered, missing and added
// rows are told apart.
//
// The attacker may also be the hospital's own staff, with its keys. They can
// commit to false records before anybody asked; nothing here knows what is
// true of a patient. What they cannot do is change their story later: a
// witness cosigns one history, and a gate refuses another one than it saw
// (ErrRollback, ErrSplitView) even where a witness has been corrupted too.
//
// A reader of the ledger is anybody. He learns how many batches and leaves
// there are, when they came and what kind of event was recorded. He learns
// nothing of a patient: leaves are salted, stay at the hospital, and small
// batches are filled with decoys.
//
// Signatures of the hospital and of patients are hybrid (Ed25519 and
// ML-DSA-65). The log's own signature is Ed25519 alone, as C2SP assigns
// nothing else to logs; against a quantum computer a checkpoint rests on the
// witnesses' ML-DSA-44 cosignatures: a policy whose quorum Ed25519 cosignatures
// alone could meet is refused.
//
// # What it does not protect
//
//   - It does not know whether a record is true, only that it is what was
//     committed to.
//   - A gate that remembers nothing (a first run, or GateConfig.Seen lost) can
//     be shown an old ledger, as old as WitnessPolicy.MaxAge if witnesses are
//     honest, and any ledger if a quorum of them and the hospital collude.
//   - The guarantee holds for the buffers passed to Gate.Verify while nobody
//     writes to them. Whoever can write to the vault's memory is past it.
//   - Minus zero and zero, and the bit patterns of NaN, are one value.
//   - Reordered rows count as verified, and are reported.
//   - Erasure destroys keys and rows where they are kept now. Backups,
//     snapshots and worn flash blocks are the operator's to expire.
//   - While a patient's key exists, a leaf hash is pseudonymous personal data
//     (GDPR Art. 4(5)): manifests, receipts and findings' row numbers stay at
//     the hospital. Finding.Name may leave it.
//   - Whoever holds both the key-encryption key and the hospital's disk reads
//     consents and pseudonyms.
//   - The last batches of a wearable can be lost unnoticed until the next one
//     arrives; who holds a device's key can sign for it.
//   - Who holds a patient's card decides for the patient until that is noticed. A
//     recovery by guardians voids what was signed since a day that it names.
//   - A hospital can withdraw for a patient; it can give no consent for one.
//   - A witness whose state directory is rolled back vouches again for what it
//     forgot: keep it on its own disk, off the hospitals' backups.
//
// # Reading
//
// RFC 6962 (Merkle trees), RFC 8785 (canonical JSON), RFC 2104 (HMAC), FIPS 204
// (ML-DSA); c2sp.org/signed-note, tlog-checkpoint, tlog-cosignature,
// tlog-witness, tlog-policy and tlog-tiles; W3C CCG did-method-key
// and did-method-web; RFC 9901 and draft-ietf-oauth-sd-jwt-vc (SD-JWT); W3C
// Bitstring Status List 1.0; KERI (pre-rotation); EDPB
// Guidelines 02/2025 on ledgers and personal data.
package provenance
