package consilium

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
)

// Domain separates every use of a hash, a signature and a key derivation from
// every other: what is made under one domain means nothing under another.
type Domain string

// The table of domain strings. A test fails when a value stands here twice or
// when a string of this form appears anywhere else in the code.
const (
	DomainRoster       Domain = "consilium/roster/v1"
	DomainSubmission   Domain = "consilium/submission/v1"
	DomainSpec         Domain = "consilium/spec/v1"
	DomainApproval     Domain = "consilium/approval/v1"
	DomainPolicy       Domain = "consilium/policy/v1"
	DomainDecision     Domain = "consilium/decision/v1"
	DomainStop         Domain = "consilium/stop/v1"
	DomainEnrol        Domain = "consilium/enrol/v1"
	DomainDecline      Domain = "consilium/decline/v1"
	DomainReveal       Domain = "consilium/reveal/v1"
	DomainCharter      Domain = "consilium/charter/v1"
	DomainHeader       Domain = "consilium/header/v1"
	DomainSealing      Domain = "consilium/sealing-keys/v1"
	DomainCiphertext   Domain = "consilium/ciphertext/v1"
	DomainBox          Domain = "consilium/box/v1"
	DomainCommitment   Domain = "consilium/commitment/v1"
	DomainAck          Domain = "consilium/ack/v1"
	DomainComplaint    Domain = "consilium/complaint/v1"
	DomainContributors Domain = "consilium/contributors/v1"
	DomainVote         Domain = "consilium/vote/v1"
	DomainOpening      Domain = "consilium/opening/v1"
	DomainRenounce     Domain = "consilium/renounce/v1"
	DomainAggregate    Domain = "consilium/aggregate/v1"
	DomainState        Domain = "consilium/state/v1"
	DomainStateVote    Domain = "consilium/state-vote/v1"
	DomainRelease      Domain = "consilium/release/v1"
	DomainResult       Domain = "consilium/result/v1"
	DomainWithdraw     Domain = "consilium/withdraw/v1"
	DomainCancel       Domain = "consilium/cancel/v1"
	DomainAnswer       Domain = "consilium/answer/v1"
	DomainSuspect      Domain = "consilium/suspect/v1"
	DomainShow         Domain = "consilium/show/v1"
	DomainDepart       Domain = "consilium/depart/v1"
	DomainRequest      Domain = "consilium/request/v1"
	DomainEvent        Domain = "consilium/event/v1"
	DomainBlob         Domain = "consilium/blob/v1"

	DomainGroupKey     Domain = "consilium/group-key/v1"
	DomainGroupRatchet Domain = "consilium/group-ratchet/v1"
	DomainGroupConfirm Domain = "consilium/group-confirm/v1"
	DomainGroupSalt    Domain = "consilium/group-salt/v1"
	DomainTagKey       Domain = "consilium/tag-key/v1"
	DomainOpeningKey   Domain = "consilium/opening-key/v1"
	DomainStateKey     Domain = "consilium/state-key/v1"
	DomainAnswerKey    Domain = "consilium/answer-key/v1"
	DomainShowKey      Domain = "consilium/show-key/v1"
	DomainPublicMask   Domain = "consilium/a/v1"
	DomainRoundKey     Domain = "consilium/round-key/v1"
	DomainCheck        Domain = "consilium/check/v1"
	DomainSeed         Domain = "consilium/seed/v1"
	DomainVector       Domain = "consilium/vector/v1"
	DomainRowSet       Domain = "consilium/row-set/v1"
	DomainCohort       Domain = "consilium/cohort/v1"
	DomainHoldout      Domain = "consilium/holdout/v1"
	DomainNoise        Domain = "consilium/noise/v1"

	DomainSchema       Domain = "consilium/schema/v1"
	DomainRowSalt      Domain = "consilium/row-salt/v1"
	DomainBatch        Domain = "consilium/batch/v1"
	DomainSource       Domain = "consilium/source/v1"
	DomainDeviceBatch  Domain = "consilium/device-batch/v1"
	DomainPseudonym    Domain = "consilium/pseudonym/v1"
	DomainConsent      Domain = "consilium/consent/v1"
	DomainWithdrawal   Domain = "consilium/consent-withdrawal/v1"
	DomainReceipt      Domain = "consilium/receipt/v1"
	DomainManifest     Domain = "consilium/manifest/v1"
	DomainSaltStore    Domain = "consilium/salt-store/v1"
	DomainSubject      Domain = "consilium/subject/v1"
	DomainModel        Domain = "consilium/model/v1"
	DomainArchive      Domain = "consilium/archive/v1"
	DomainAuditMask    Domain = "consilium/audit-mask/v1"
	DomainAuditRecord  Domain = "consilium/audit-record/v1"
	DomainTrail        Domain = "consilium/trail/v1"
	DomainLineage      Domain = "consilium/lineage/v1"
	DomainSpan         Domain = "consilium/span/v1"
	DomainTransfer     Domain = "consilium/transfer/v1"
	DomainAssessment   Domain = "consilium/assessment/v1"
	DomainTeamEnvelope Domain = "consilium/team-envelope/v1"
	DomainSealedBox    Domain = "consilium/sealed-box/v1"
	DomainSealedState  Domain = "consilium/sealed-state/v1"
	DomainSealedReveal Domain = "consilium/sealed-reveal/v1"
	DomainHandover     Domain = "consilium/handover/v1"

	DomainCredential  Domain = "consilium/credential/v1"
	DomainKeyEvent    Domain = "consilium/key-event/v1"
	DomainNextKey     Domain = "consilium/next-key/v1"
	DomainGuardian    Domain = "consilium/guardian/v1"
	DomainMandate     Domain = "consilium/mandate/v1"
	DomainAccess      Domain = "consilium/access/v1"
	DomainDIDDocument Domain = "consilium/did-document/v1"
	DomainSuperRoot   Domain = "consilium/super-root/v1"
	DomainAnchor      Domain = "consilium/anchor/v1"
)

// Domains returns the whole table, in no particular order of meaning.
func Domains() []Domain {
	return []Domain{
		DomainRoster, DomainSubmission, DomainSpec, DomainApproval, DomainPolicy, DomainDecision, DomainStop, DomainEnrol, DomainDecline, DomainReveal,
		DomainCharter, DomainHeader, DomainSealing, DomainCiphertext, DomainBox, DomainCommitment, DomainAck, DomainComplaint,
		DomainContributors, DomainVote, DomainOpening, DomainRenounce, DomainAggregate, DomainState, DomainStateVote,
		DomainRelease, DomainResult, DomainWithdraw, DomainCancel, DomainAnswer, DomainSuspect, DomainShow, DomainDepart, DomainRequest, DomainEvent, DomainBlob,
		DomainGroupKey, DomainGroupRatchet, DomainGroupConfirm, DomainGroupSalt, DomainTagKey, DomainOpeningKey,
		DomainStateKey, DomainAnswerKey, DomainShowKey, DomainPublicMask, DomainRoundKey, DomainCheck, DomainSeed, DomainVector, DomainRowSet,
		DomainCohort, DomainHoldout, DomainNoise, DomainSchema, DomainRowSalt, DomainBatch, DomainSource, DomainDeviceBatch, DomainPseudonym,
		DomainConsent, DomainWithdrawal, DomainReceipt, DomainManifest, DomainSaltStore, DomainSubject, DomainModel, DomainArchive, DomainAuditMask, DomainAuditRecord,
		DomainTrail, DomainLineage, DomainSpan, DomainTransfer, DomainAssessment, DomainTeamEnvelope, DomainSealedBox, DomainSealedState, DomainSealedReveal, DomainHandover,
		DomainCredential, DomainKeyEvent, DomainNextKey, DomainGuardian, DomainMandate, DomainAccess, DomainDIDDocument, DomainSuperRoot, DomainAnchor,
	}
}

// Digest hashes parts under d with SHA-256. Every part, and the domain
// itself, is preceded by its length in eight bytes, so no two different lists
// of parts hash the same bytes.
func (d Domain) Digest(parts ...[]byte) Digest {
	h := sha256.New()
	var n [8]byte
	write := func(b []byte) {
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	write([]byte(d))
	for _, p := range parts {
		write(p)
	}
	var out Digest
	h.Sum(out[:0])
	return out
}

// DigestReader is Digest of one part that is read, of size bytes.
func (d Domain) DigestReader(r io.Reader, size uint64) (Digest, error) {
	h := sha256.New()
	h.Write(d.Message(nil))
	h.Write(binary.BigEndian.AppendUint64(nil, size))
	if n, err := io.Copy(h, r); err != nil || uint64(n) != size {
		return Digest{}, fmt.Errorf("%d bytes of %d: %w", n, size, cmp.Or(err, io.ErrUnexpectedEOF))
	}
	var out Digest
	h.Sum(out[:0])
	return out, nil
}

// Message is what a signature under d covers: the length-prefixed domain
// followed by the exact bytes that travel.
func (d Domain) Message(b []byte) []byte {
	out := make([]byte, 0, 8+len(d)+len(b))
	out = binary.BigEndian.AppendUint64(out, uint64(len(d)))
	out = append(out, d...)
	return append(out, b...)
}
