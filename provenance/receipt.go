package provenance

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/apache/arrow/go/v17/arrow"

	"consilium"
	"consilium/internal/canon"
)

// Receipt proves to a patient or an auditor, offline and for as long as the
// schemes hold, that one row was in a hospital's witnessed ledger. It opens
// that row and no other, and is personal data.
type Receipt struct {
	APIVersion string              `json:"apiVersion"`
	Kind       string              `json:"kind"` // "Receipt"
	Columns    []Column            `json:"columns"`
	Row        []byte              `json:"row"`  // canonical bytes
	Salt       consilium.Digest    `json:"salt"` // of this leaf only
	Leaf       uint32              `json:"leaf"` // index in the batch
	Path       []consilium.Digest  `json:"path"` // from the leaf to the batch root
	Header     []byte              `json:"header"`
	Signature  consilium.Signature `json:"signature"` // the hospital's, on Header
	Entry      uint64              `json:"entry"`     // index in the ledger
	Proof      []consilium.Digest  `json:"proof"`     // from the entry to the checkpoint's root
	Checkpoint string              `json:"checkpoint"`
}

// Receipt makes a receipt for a row that verifies, at the checkpoint that g
// saw last.
func (g *Gate) Receipt(ctx context.Context, view View, b Batch, rec arrow.Record, row int, salts *Salts) (*Receipt, error) {
	rc, err := newRowCoder(rec)
	if err != nil {
		return nil, err
	}
	if row < 0 || row >= rc.rows {
		return nil, consilium.ErrData.Withf("row %d of %d", row, rc.rows)
	}
	g.mu.Lock()
	seen, know := g.seen, g.know
	g.mu.Unlock()
	if seen == nil || b.Header == nil || b.Manifest == nil {
		return nil, consilium.ErrLedger.Withf("receipt: the ledger was not read yet, or the batch is incomplete")
	}
	kb := know.batches[b.Header.Header.Batch]
	if kb == nil || kb.digest != b.Header.Digest() {
		return nil, consilium.ErrLedger.Withf("receipt: the batch is not in the ledger")
	}
	p := rc.patientOf(row)
	key := salts.get(p)
	if key == nil {
		return nil, consilium.ErrLedger.Withf("receipt: the patient's key was erased")
	}
	for _, l := range b.Manifest.LeavesOf(p) {
		salt := key.rowSalt(b.Manifest.batch, l)
		got, buf := rc.leaf(nil, &salt, row)
		if got != b.Manifest.leaves[l] {
			continue
		}
		proof, err := view.Inclusion(ctx, kb.index, seen.Size)
		if err != nil {
			return nil, consilium.ErrLedger.With(err)
		}
		r := &Receipt{APIVersion: consilium.APIVersion, Kind: "Receipt", Columns: rc.columns, Row: buf[1+32+32:], Salt: salt, Leaf: l,
			Path: inclusionProof(b.Manifest.leaves, int(l)), Header: b.Header.Payload(), Signature: b.Header.entry.Signature,
			Entry: kb.index, Proof: proof, Checkpoint: string(seen.Raw)}
		return r, nil
	}
	return nil, consilium.ErrLedger.Withf("receipt: the row is not as it was anchored")
}

// Marshal is the receipt's one encoding, RFC 8785 JSON.
func (r *Receipt) Marshal() ([]byte, error) { return canon.Marshal(r) }

// ParseReceipt is the inverse of Marshal. It checks no proof.
func ParseReceipt(b []byte) (*Receipt, error) {
	var r Receipt
	if err := strictJSON(b, &r); err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	if r.APIVersion != consilium.APIVersion || r.Kind != "Receipt" {
		return nil, fmt.Errorf("receipt: apiVersion %q kind %q", clip(r.APIVersion), clip(r.Kind))
	}
	if len(r.Path) > 64 || len(r.Proof) > 64 {
		return nil, errors.New("receipt: a proof of more than 64 hashes")
	}
	return &r, nil
}

// ReceiptPolicy says whom a reader of receipts believes; all of it comes from
// rosters.
type ReceiptPolicy struct {
	Ledger    string                // verifier key of the hospital's ledger
	Sites     []consilium.PublicKey // the hospital's keys, of now and before
	Witnesses WitnessPolicy         // any age
}

// ReceiptFacts is what a receipt proves.
type ReceiptFacts struct {
	Origin     string
	Header     Header
	Values     []Value
	Checkpoint *Checkpoint
}

// Verify checks the whole chain: row to leaf, leaf to batch root, the
// hospital's signature, batch header to ledger, log key and witnesses.
func (r *Receipt) Verify(p ReceiptPolicy) (*ReceiptFacts, error) {
	c, err := VerifyCheckpoint([]byte(r.Checkpoint), CheckpointPolicy{Log: p.Ledger, Witnesses: p.Witnesses.AnyAge()}, time.Time{})
	if err != nil {
		return nil, err
	}
	entry := Entry{Domain: consilium.DomainBatch, Payload: r.Header, Signature: r.Signature}
	err = consilium.ErrSignature.Withf("no key of the hospital")
	for _, key := range p.Sites {
		if err = entry.Verify(key); err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	if err := VerifyInclusion(LeafHash(entry.Encode()), r.Entry, c.Size, r.Proof, c.Root); err != nil {
		return nil, consilium.ErrLedger.Withf("receipt: ledger: %w", err)
	}
	h, err := ParseHeader(r.Header)
	if err != nil {
		return nil, consilium.ErrLedger.With(err)
	}
	if h.Origin != c.Origin {
		return nil, consilium.ErrLedger.Withf("receipt: a batch of %s in the ledger %s", clip(h.Origin), c.Origin)
	}
	if Fingerprint(r.Columns) != h.Schema {
		return nil, consilium.ErrLedger.Withf("receipt: other columns than the batch has")
	}
	pre := make([]byte, 0, 65+len(r.Row))
	pre = append(pre, h.Schema[:]...)
	pre = append(pre, r.Salt[:]...)
	pre = append(pre, r.Row...)
	if err := VerifyInclusion(LeafHash(pre), uint64(r.Leaf), uint64(h.N), r.Path, h.Root); err != nil {
		return nil, consilium.ErrLedger.Withf("receipt: batch: %w", err)
	}
	values, err := DecodeRow(r.Columns, r.Row)
	if err != nil {
		return nil, consilium.ErrLedger.With(err)
	}
	return &ReceiptFacts{Origin: c.Origin, Header: *h, Values: values, Checkpoint: c}, nil
}

// TLogProof is the part of the receipt that says that the batch header stands
// in the ledger, in the form that other verifiers read (c2sp.org/tlog-proof).
// The entry that it is about is Entry's.
func (r *Receipt) TLogProof() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "c2sp.org/tlog-proof@v1\nindex %d\n", r.Entry)
	for _, h := range r.Proof {
		b.WriteString(base64.StdEncoding.EncodeToString(h[:]) + "\n")
	}
	b.WriteString("\n" + r.Checkpoint)
	return b.Bytes()
}

// LedgerEntry is the entry of the ledger that TLogProof is about: the signed
// batch header.
func (r *Receipt) LedgerEntry() []byte {
	e := Entry{Domain: consilium.DomainBatch, Payload: r.Header, Signature: r.Signature}
	return e.Encode()
}
