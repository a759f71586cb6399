package provenance

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/hybrid"
)

// MaxEntrySize is the most bytes of one ledger entry (C2SP tlog-tiles).
const MaxEntrySize = 1<<16 - 1

// Entry is one entry of a hospital's ledger: a canonical JSON document and
// the hospital's hybrid signature under the domain that says what it is. Its
// encoding is three lines: domain, document, signature in unpadded base64url.
// RFC 8785 text holds no line feed, so the encoding is unique.
type Entry struct {
	Domain    consilium.Domain // DomainBatch or DomainAuditRecord
	Payload   []byte
	Signature consilium.Signature
}

// Encode is the entry's one encoding.
func (e *Entry) Encode() []byte { return encodeLines(e.Domain, e.Payload, &e.Signature) }

func encodeLines(domain consilium.Domain, payload []byte, signature *consilium.Signature) []byte {
	sig, _ := signature.MarshalText() // never fails
	b := make([]byte, 0, len(domain)+len(payload)+len(sig)+3)
	b = append(append(b, domain...), '\n')
	b = append(append(b, payload...), '\n')
	return append(append(b, sig...), '\n')
}

// ParseEntry is the inverse of Encode. It checks the form, not the signature.
func ParseEntry(b []byte) (*Entry, error) {
	e := &Entry{}
	var err error
	e.Domain, e.Payload, e.Signature, err = parseLines(b, consilium.DomainBatch, consilium.DomainAuditRecord)
	if err != nil {
		return nil, fmt.Errorf("ledger entry: %w", err)
	}
	return e, nil
}

func parseLines(b []byte, domains ...consilium.Domain) (domain consilium.Domain, payload []byte, sig consilium.Signature, err error) {
	if len(b) > MaxEntrySize {
		return "", nil, sig, fmt.Errorf("%d bytes, at most %d", len(b), MaxEntrySize)
	}
	lines := bytes.Split(b, []byte{'\n'})
	if len(lines) != 4 || len(lines[3]) != 0 {
		return "", nil, sig, errors.New("want three lines")
	}
	domain, payload = consilium.Domain(lines[0]), bytes.Clone(lines[1])
	if !slices.Contains(domains, domain) {
		return "", nil, sig, fmt.Errorf("domain %q", clip(string(lines[0])))
	}
	if err := canon.Check(payload); err != nil {
		return "", nil, sig, err
	}
	return domain, payload, sig, sig.UnmarshalText(lines[2])
}

// Verify checks the hospital's signature, both halves.
func (e *Entry) Verify(site consilium.PublicKey) error {
	return hybrid.Verify(site, e.Domain, e.Payload, &e.Signature)
}

func signEntry(s consilium.Signer, domain consilium.Domain, payload []byte) (*Entry, error) {
	sig, err := s.Sign(domain, payload)
	if err != nil {
		return nil, err
	}
	e := &Entry{Domain: domain, Payload: payload, Signature: sig}
	if n := len(e.Encode()); n > MaxEntrySize {
		return nil, consilium.ErrTooLarge.Withf("a ledger entry of %d bytes, at most %d", n, MaxEntrySize)
	}
	return e, nil
}

// RecordType says what an audit record is about.
type RecordType string

const (
	RecordAccess       RecordType = "access"       // a patient or auditor looked
	RecordConsent      RecordType = "consent"      // Refs: salted digests of consents
	RecordContribution RecordType = "contribution" // a round's contribution left the hospital
	RecordDecision     RecordType = "decision"     // policy decided
	RecordEnrolment    RecordType = "enrolment"    // the hospital signed a charter
	RecordErasure      RecordType = "erasure"      // Refs: of what was erased
	RecordIntegrity    RecordType = "integrity"    // Refs: salted names of rows that failed
	RecordKey          RecordType = "keyrotation"  // Refs: salted digests of key events
	RecordMandate      RecordType = "mandate"      // Refs: salted digests of mandates
	RecordRelease      RecordType = "release"      // a result was released or denied
	RecordTransfer     RecordType = "transfer"     // something left the jurisdiction
	RecordUse          RecordType = "use"          // verified rows were read
	RecordWithdrawal   RecordType = "withdrawal"   // Refs: salted digests of withdrawals
)

var recordTypes = map[RecordType]bool{RecordAccess: true, RecordConsent: true, RecordContribution: true, RecordDecision: true,
	RecordEnrolment: true, RecordErasure: true, RecordIntegrity: true, RecordRelease: true, RecordTransfer: true, RecordUse: true,
	RecordWithdrawal: true, RecordKey: true, RecordMandate: true}

// MaxRefs is the most references of one audit record: what fits an entry.
const MaxRefs = 500

// AuditRecord is one event of a hospital's ledger. It holds no personal data
// and no count of rows or patients: subjects appear as salted commitments
// (Refs), documents as digests.
type AuditRecord struct {
	V       int                         `json:"v"`
	Type    RecordType                  `json:"type"`
	Time    int64                       `json:"time"` // Unix milliseconds, by the hospital's clock
	Actor   string                      `json:"actor,omitempty"`
	Study   consilium.StudyID           `json:"study,omitempty"`
	Round   uint32                      `json:"round,omitempty"`
	Outcome string                      `json:"outcome,omitempty"`
	Rule    string                      `json:"rule,omitempty"` // rule and article that decided
	Reason  string                      `json:"reason,omitempty"`
	Digests map[string]consilium.Digest `json:"digests,omitempty"` // by name: charter, policy, decision, input, cohort, ciphertext, model, …
	Roots   []consilium.Digest          `json:"roots,omitempty"`   // of the batches used
	Refs    []consilium.Digest          `json:"refs,omitempty"`    // salted commitments
}

const recordVersion = 1

func (r *AuditRecord) validate() error {
	switch {
	case r.V != recordVersion:
		return fmt.Errorf("version %d", r.V)
	case !recordTypes[r.Type]:
		return fmt.Errorf("type %q", clip(string(r.Type)))
	case r.Time <= 0 || r.Time > 1<<52:
		return fmt.Errorf("time %d", r.Time)
	case len(r.Refs) > MaxRefs || len(r.Roots) > MaxRefs || len(r.Digests) > 64:
		return fmt.Errorf("%d refs, %d roots, %d digests: at most %d, %d and 64", len(r.Refs), len(r.Roots), len(r.Digests), MaxRefs, MaxRefs)
	}
	for _, s := range []string{r.Actor, r.Outcome, r.Rule, r.Reason} {
		if len(s) > 1024 {
			return fmt.Errorf("a text of %d bytes, at most 1024", len(s))
		}
	}
	return nil
}

// SignRecord makes a ledger entry of r, signed by the hospital. It sets r.V.
func SignRecord(s consilium.Signer, r *AuditRecord) ([]byte, error) {
	r.V = recordVersion
	if err := r.validate(); err != nil {
		return nil, consilium.ErrInvalid.Withf("audit record: %w", err)
	}
	payload, err := canon.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("audit record: %w", err)
	}
	e, err := signEntry(s, consilium.DomainAuditRecord, payload)
	if err != nil {
		return nil, err
	}
	return e.Encode(), nil
}

// ParseRecord decodes the payload of an entry under DomainAuditRecord.
func ParseRecord(payload []byte) (*AuditRecord, error) {
	var r AuditRecord
	if err := strictJSON(payload, &r); err != nil {
		return nil, fmt.Errorf("audit record: %w", err)
	}
	if err := r.validate(); err != nil {
		return nil, fmt.Errorf("audit record: %w", err)
	}
	return &r, nil
}

// strictJSON decodes a canonical document without unknown fields.
func strictJSON(b []byte, v any) error {
	if len(b) > 1<<20 {
		return fmt.Errorf("a document of %d bytes", len(b))
	}
	if err := canon.Check(b); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("bytes after the JSON value")
	}
	// encoding/json matches names without regard to case and drops nulls; a
	// document that is not exactly what its value encodes to is refused.
	again, err := canon.Marshal(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, b) {
		return errors.New("not the encoding of its value")
	}
	return nil
}

func checkName(what, s string) error {
	if s == "" || len(s) > 255 || strings.ContainsAny(s, "+ \t\n\r") {
		return fmt.Errorf("%s %q: want 1 to 255 characters without blanks or plus signs", what, clip(s))
	}
	for _, r := range s {
		if r < 0x21 || r > 0x7e {
			return fmt.Errorf("%s %q: only visible ASCII characters", what, clip(s))
		}
	}
	return nil
}

func decodeBase64(s string, size int) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != size || base64.StdEncoding.EncodeToString(b) != s {
		return nil, fmt.Errorf("want %d bytes of base64", size)
	}
	return b, nil
}
