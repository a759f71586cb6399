package provenance

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"

	"consilium"
	"consilium/internal/canon"
)

const (
	headerVersion = 1
	// algorithm names everything that a verifier must know to check a batch.
	algorithm = "sha256-rfc6962-hmac-salt+ed25519+ml-dsa-65"

	// DefaultMinLeaves is the least number of leaves of a batch. A batch of one
	// row would publish the row's leaf hash as its root, which is personal data
	// while the salt exists; decoys fill it up.
	DefaultMinLeaves = 16

	// MaxBatchLeaves bounds one batch.
	MaxBatchLeaves = 1 << 26
)

// Header is what the ledger holds of a batch. It travels as RFC 8785 JSON,
// signed by the hospital, and names nobody.
type Header struct {
	V          int              `json:"v"`
	Alg        string           `json:"alg"`
	Origin     string           `json:"origin"` // of the hospital's ledger
	Stream     ID               `json:"stream"` // random: it says nothing about the data
	Batch      ID               `json:"batch"`
	Seq        uint64           `json:"seq"`        // in the stream, from 0
	Prev       consilium.Digest `json:"prev"`       // of the header before; zero at seq 0
	Schema     consilium.Digest `json:"schema"`     // fingerprint of the columns
	N          uint32           `json:"n"`          // leaves, decoys included
	Root       consilium.Digest `json:"root"`       // RFC 6962
	From       int64            `json:"from"`       // Unix seconds: the period the rows cover
	To         int64            `json:"to"`         // not before From
	Supersedes consilium.Digest `json:"supersedes"` // of the list of leaves that this batch replaces; zero for none
}

func (h *Header) validate() error {
	switch {
	case h.V != headerVersion || h.Alg != algorithm:
		return fmt.Errorf("version %d, algorithm %q: want %d, %s", h.V, clip(h.Alg), headerVersion, algorithm)
	case h.Stream.IsZero() || h.Batch.IsZero():
		return errors.New("no stream or batch id")
	case (h.Seq == 0) != h.Prev.IsZero() || h.Seq > MaxTreeSize:
		return fmt.Errorf("seq %d and prev do not fit", h.Seq)
	case h.Schema.IsZero() || h.Root.IsZero():
		return errors.New("no schema or root")
	case h.N == 0 || h.N > MaxBatchLeaves:
		return fmt.Errorf("%d leaves, want 1 to %d", h.N, MaxBatchLeaves)
	case h.From > h.To || h.From < -(1<<52) || h.To > 1<<52:
		return fmt.Errorf("from %d to %d", h.From, h.To)
	}
	return checkName("origin", h.Origin)
}

// ParseHeader decodes and validates a header's payload.
func ParseHeader(payload []byte) (*Header, error) {
	var h Header
	if err := strictJSON(payload, &h); err != nil {
		return nil, fmt.Errorf("batch header: %w", err)
	}
	if err := h.validate(); err != nil {
		return nil, fmt.Errorf("batch header: %w", err)
	}
	return &h, nil
}

// SignedHeader is a header with the hospital's signature: one ledger entry.
type SignedHeader struct {
	Header Header
	entry  *Entry
}

// SignHeader checks a header's payload and signs it for the hospital.
func SignHeader(s consilium.Signer, payload []byte) (*SignedHeader, error) {
	h, err := ParseHeader(payload)
	if err != nil {
		return nil, consilium.ErrInvalid.With(err)
	}
	e, err := signEntry(s, consilium.DomainBatch, bytes.Clone(payload))
	if err != nil {
		return nil, err
	}
	return &SignedHeader{Header: *h, entry: e}, nil
}

// ParseSignedHeader reads a ledger entry that is a batch header. It checks the
// form, not the signature.
func ParseSignedHeader(entry []byte) (*SignedHeader, error) {
	e, err := ParseEntry(entry)
	if err != nil {
		return nil, err
	}
	return headerOf(e)
}

func headerOf(e *Entry) (*SignedHeader, error) {
	if e.Domain != consilium.DomainBatch {
		return nil, fmt.Errorf("ledger entry of %s is no batch header", e.Domain)
	}
	h, err := ParseHeader(e.Payload)
	if err != nil {
		return nil, err
	}
	return &SignedHeader{Header: *h, entry: e}, nil
}

// Entry is the header's ledger entry.
func (h *SignedHeader) Entry() []byte { return h.entry.Encode() }

// Payload is the exact bytes that were signed.
func (h *SignedHeader) Payload() []byte { return bytes.Clone(h.entry.Payload) }

// Digest names the header: what the next one's Prev holds.
func (h *SignedHeader) Digest() consilium.Digest {
	return consilium.DomainBatch.Digest(h.entry.Payload)
}

// Verify checks the hospital's signature.
func (h *SignedHeader) Verify(site consilium.PublicKey) error { return h.entry.Verify(site) }

// LeafRef names one leaf of an earlier batch.
type LeafRef struct {
	Batch ID
	Leaf  uint32
}

func encodeRefs(refs []LeafRef) []byte {
	w := enc{}
	w.u32(uint32(len(refs)))
	for _, r := range refs {
		w.raw(r.Batch[:])
		w.u32(r.Leaf)
	}
	return w.b
}

func refsDigest(refs []LeafRef) consilium.Digest {
	if len(refs) == 0 {
		return consilium.Digest{}
	}
	return consilium.DomainManifest.Digest(encodeRefs(refs))
}

type leafKind uint8

const (
	leafRow    leafKind = 0
	leafErased leafKind = 1 // the row's hash stays as a stub
	leafDecoy  leafKind = 2 // random, so that small batches hide their leaves
)

// Manifest is the hospital's private list of a batch's leaves and of whose
// they are. It never leaves the hospital.
type Manifest struct {
	batch    ID
	schema   consilium.Digest
	refs     []LeafRef
	kinds    []leafKind
	leaves   []consilium.Digest
	patients []Pseudonym // zero where the leaf is no row
}

// Batch is the batch's id.
func (m *Manifest) Batch() ID { return m.batch }

// Len is the number of leaves, decoys and stubs included.
func (m *Manifest) Len() int { return len(m.leaves) }

// Root is the RFC 6962 root over the leaves.
func (m *Manifest) Root() consilium.Digest { return TreeRoot(m.leaves) }

// Supersedes lists the leaves of earlier batches that this one replaces.
func (m *Manifest) Supersedes() []LeafRef { return slices.Clone(m.refs) }

// LeavesOf lists the indices of a patient's leaves, ascending: for Supersedes
// of a correction and for receipts.
func (m *Manifest) LeavesOf(p Pseudonym) []uint32 {
	var out []uint32
	for i, q := range m.patients {
		if q == p && m.kinds[i] == leafRow {
			out = append(out, uint32(i))
		}
	}
	return out
}

// PatientOf is whose row a leaf is; false for decoys, stubs and numbers beyond.
func (m *Manifest) PatientOf(leaf uint32) (Pseudonym, bool) {
	if uint64(leaf) >= uint64(len(m.kinds)) || m.kinds[leaf] != leafRow {
		return Pseudonym{}, false
	}
	return m.patients[leaf], true
}

// Erase turns a patient's leaves into stubs: their hashes stay, so that the
// root re-derives, and nothing says whose they were. It returns how many.
func (m *Manifest) Erase(p Pseudonym) int {
	n := 0
	for i, q := range m.patients {
		if q == p && m.kinds[i] == leafRow {
			m.kinds[i], m.patients[i] = leafErased, Pseudonym{}
			n++
		}
	}
	return n
}

const manifestVersion = 1

// Marshal is the manifest's one encoding. It is personal data.
func (m *Manifest) Marshal() []byte {
	w := enc{make([]byte, 0, 64+49*len(m.leaves)+20*len(m.refs))}
	w.u8(manifestVersion)
	w.raw(m.batch[:])
	w.digest(m.schema)
	w.raw(encodeRefs(m.refs))
	w.u32(uint32(len(m.leaves)))
	for i := range m.leaves {
		w.u8(uint8(m.kinds[i]))
		w.digest(m.leaves[i])
		if m.kinds[i] == leafRow {
			w.raw(m.patients[i][:])
		}
	}
	return w.b
}

// ParseManifest is the inverse of Marshal.
func ParseManifest(b []byte) (*Manifest, error) {
	d := dec{b: b}
	if v := d.u8(); d.err == nil && v != manifestVersion {
		d.fail("version %d", v)
	}
	m := &Manifest{batch: d.id(), schema: d.digest()}
	for i, n := 0, d.count(20); i < n; i++ {
		m.refs = append(m.refs, LeafRef{Batch: d.id(), Leaf: d.u32()})
	}
	n := d.count(33)
	if n > MaxBatchLeaves {
		d.fail("%d leaves", n)
		n = 0
	}
	m.kinds, m.leaves, m.patients = make([]leafKind, n), make([]consilium.Digest, n), make([]Pseudonym, n)
	for i := 0; i < n && d.err == nil; i++ {
		m.kinds[i], m.leaves[i] = leafKind(d.u8()), d.digest()
		switch {
		case m.kinds[i] > leafDecoy:
			d.fail("leaf %d of kind %d", i, m.kinds[i])
		case m.kinds[i] == leafRow:
			if m.patients[i] = Pseudonym(d.id()); d.err == nil && m.patients[i].IsZero() {
				d.fail("leaf %d is nobody's", i)
			}
		}
	}
	if err := d.done("manifest"); err != nil {
		return nil, err
	}
	return m, nil
}

// BatchOptions describes a new batch.
type BatchOptions struct {
	Origin     string        // of the hospital's ledger (NoteKey.Name)
	Stream     ID            // of the table; from NewID when it is set up
	After      *SignedHeader // the stream's last header, nil for its first batch
	From, To   int64         // Unix seconds: the period the rows cover
	MinLeaves  int           // 0 means DefaultMinLeaves; below 2 is refused
	Supersedes []LeafRef     // a correction replaces these leaves of earlier batches
}

// Draft is a batch before the hospital signed its header.
type Draft struct {
	Header   Header
	Payload  []byte
	Manifest *Manifest
}

// NewBatch hashes every row of rec into salted leaves and drafts the header.
// It makes salts for patients that have none. The rows keep their order: row i
// is leaf i.
func NewBatch(rec arrow.Record, salts *Salts, o BatchOptions) (*Draft, error) {
	rc, err := newRowCoder(rec)
	if err != nil {
		return nil, err
	}
	minLeaves := o.MinLeaves
	if minLeaves == 0 {
		minLeaves = DefaultMinLeaves
	}
	switch {
	case minLeaves < 2:
		return nil, consilium.ErrInvalid.Withf("batch: at least 2 leaves, or its root is a leaf")
	case rc.rows == 0:
		return nil, consilium.ErrData.Withf("batch: no rows")
	case max(rc.rows, minLeaves) > MaxBatchLeaves:
		return nil, consilium.ErrTooLarge.Withf("batch of %d rows, at most %d: split the table by period", rc.rows, MaxBatchLeaves)
	}
	patients := make([]Pseudonym, rc.rows)
	for r := range patients {
		patients[r] = rc.patientOf(r)
	}
	if err := salts.Ensure(patients...); err != nil {
		return nil, err
	}
	n := max(rc.rows, minLeaves)
	m := &Manifest{batch: NewID(), schema: rc.schema, refs: slices.Clone(o.Supersedes),
		kinds: make([]leafKind, n), leaves: make([]consilium.Digest, n), patients: make([]Pseudonym, n)}
	copy(m.patients, patients)
	keys, err := salts.all(patients)
	if err != nil {
		return nil, err
	}
	parallel(rc.rows, func(lo, hi int) {
		h, rows := newRehasher(), make([]leafOf, 0, rehashRows)
		for ; lo < hi; lo += len(rows) {
			rows = rows[:0]
			for r := lo; r < min(lo+rehashRows, hi); r++ {
				rows = append(rows, leafOf{rc, r, keys[r], &m.batch, uint32(r)})
			}
			h.leaves(m.leaves[lo:], rows)
		}
	})
	for i := rc.rows; i < n; i++ {
		m.kinds[i] = leafDecoy
		rand.Read(m.leaves[i][:])
	}
	h := Header{V: headerVersion, Alg: algorithm, Origin: o.Origin, Stream: o.Stream, Batch: m.batch, Schema: rc.schema,
		N: uint32(n), Root: m.Root(), From: o.From, To: o.To, Supersedes: refsDigest(m.refs)}
	if o.After != nil {
		if o.After.Header.Stream != o.Stream || o.After.Header.Origin != o.Origin {
			return nil, consilium.ErrInvalid.Withf("batch: the header before is of another stream")
		}
		h.Seq, h.Prev = o.After.Header.Seq+1, o.After.Digest()
	}
	if err := h.validate(); err != nil {
		return nil, consilium.ErrInvalid.Withf("batch: %w", err)
	}
	payload, err := canon.Marshal(&h)
	if err != nil {
		return nil, fmt.Errorf("batch: %w", err)
	}
	return &Draft{Header: h, Payload: payload, Manifest: m}, nil
}

// all returns each patient's key, in order.
func (s *Salts) all(patients []Pseudonym) ([]*patientKey, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*patientKey, len(patients))
	for i, p := range patients {
		if out[i] = s.keys[p]; out[i] == nil {
			return nil, errors.New("salts: a patient was erased meanwhile")
		}
	}
	return out, nil
}

// Batch is a signed header with the manifest that it commits to.
type Batch struct {
	Header   *SignedHeader
	Manifest *Manifest
}

// BatchDir is where a vault keeps its batches: for each a header, which is
// public, and a manifest, sealed under the KEK.
type BatchDir struct {
	dir string
	kek *KEK
}

// OpenBatchDir opens or makes dir.
func OpenBatchDir(dir string, kek *KEK) (*BatchDir, error) {
	if kek == nil {
		return nil, errors.New("batches: no key-encryption key")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("batches: %w", err)
	}
	return &BatchDir{dir: dir, kek: kek}, nil
}

// Put stores b, or replaces its manifest after an erasure.
func (d *BatchDir) Put(b Batch) error {
	id := b.Header.Header.Batch
	if b.Manifest.batch != id {
		return consilium.ErrInvalid.Withf("batches: header and manifest are of two batches")
	}
	sealed, err := d.kek.seal(consilium.DomainManifest, id[:], b.Manifest.Marshal())
	if err != nil {
		return fmt.Errorf("batches: %w", err)
	}
	if err := writeFile(filepath.Join(d.dir, id.String()+".manifest"), sealed); err != nil {
		return fmt.Errorf("batches: %w", err)
	}
	// If we crash here, List does not see the manifest without its header.
	if err := writeFile(filepath.Join(d.dir, id.String()+".header"), b.Header.Entry()); err != nil {
		return fmt.Errorf("batches: %w", err)
	}
	return nil
}

// List reads all batches, ordered by stream and sequence number. A damaged
// file fails it: the vault then reads nothing until it is restored.
func (d *BatchDir) List() ([]Batch, error) {
	files, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, fmt.Errorf("batches: %w", err)
	}
	var out []Batch
	for _, f := range files {
		name, ok := strings.CutSuffix(f.Name(), ".header")
		if !ok {
			continue
		}
		id, err := ParseID(name)
		if err != nil {
			return nil, consilium.ErrLedger.Withf("batches: file %s: %w", f.Name(), err)
		}
		entry, err := os.ReadFile(filepath.Join(d.dir, f.Name()))
		if err != nil {
			return nil, fmt.Errorf("batches: %w", err)
		}
		h, err := ParseSignedHeader(entry)
		if err != nil {
			return nil, consilium.ErrLedger.Withf("batches: file %s: %w", f.Name(), err)
		}
		if h.Header.Batch != id {
			return nil, consilium.ErrLedger.Withf("batches: file %s holds another batch", f.Name())
		}
		sealed, err := os.ReadFile(filepath.Join(d.dir, name+".manifest"))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, consilium.ErrLedger.Withf("batches: the manifest of batch %s is gone", name)
		} else if err != nil {
			return nil, fmt.Errorf("batches: %w", err)
		}
		plain, err := d.kek.open(consilium.DomainManifest, id[:], sealed)
		if err != nil {
			return nil, consilium.ErrLedger.Withf("batches: manifest %s %w", name, err)
		}
		m, err := ParseManifest(plain)
		if err != nil {
			return nil, consilium.ErrLedger.Withf("batches: manifest %s: %w", name, err)
		}
		out = append(out, Batch{Header: h, Manifest: m})
	}
	slices.SortFunc(out, func(a, b Batch) int {
		ha, hb := &a.Header.Header, &b.Header.Header
		if c := bytes.Compare(ha.Stream[:], hb.Stream[:]); c != 0 {
			return c
		}
		switch {
		case ha.Seq < hb.Seq:
			return -1
		case ha.Seq > hb.Seq:
			return 1
		}
		return bytes.Compare(ha.Batch[:], hb.Batch[:])
	})
	return out, nil
}

// Erase turns the patient's leaves of every batch into stubs and returns how
// many there were. The caller also erases the rows and the patient's salt key.
func (d *BatchDir) Erase(p Pseudonym) (int, error) {
	batches, err := d.List()
	if err != nil {
		return 0, err
	}
	total := 0
	for _, b := range batches {
		n := b.Manifest.Erase(p)
		if n == 0 {
			continue
		}
		if err := d.Put(b); err != nil {
			return total, err
		}
		total += n
	}
	return total, nil
}
