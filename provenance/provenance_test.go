package provenance

import (
	"context"
	"crypto/rand"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"consilium"
	"consilium/internal/hybrid"
)

// row is one row of the test table.
type row struct {
	patient string
	age     float64
	sex     string // "" is null
	status  bool
	stop    int32
}

func testSchema(unit string) *arrow.Schema {
	return arrow.NewSchema([]arrow.Field{
		{Name: PatientColumn, Type: &arrow.FixedSizeBinaryType{ByteWidth: 16}},
		{Name: "age", Type: arrow.PrimitiveTypes.Float64, Nullable: true, Metadata: arrow.NewMetadata([]string{"unit"}, []string{unit})},
		{Name: "sex", Type: &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: arrow.BinaryTypes.String}, Nullable: true},
		{Name: "status", Type: arrow.FixedWidthTypes.Boolean},
		{Name: "stop", Type: arrow.FixedWidthTypes.Date32},
	}, nil)
}

func pseudonym(t testing.TB, patient string) Pseudonym {
	t.Helper()
	p, err := NewPseudonym(make([]byte, 32), patient)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func record(t testing.TB, rows []row) arrow.Record {
	t.Helper()
	return recordOf(t, testSchema("a"), rows)
}

func recordOf(t testing.TB, schema *arrow.Schema, rows []row) arrow.Record {
	t.Helper()
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	for _, r := range rows {
		p := pseudonym(t, r.patient)
		b.Field(0).(*array.FixedSizeBinaryBuilder).Append(p[:])
		b.Field(1).(*array.Float64Builder).Append(r.age)
		if sex := b.Field(2).(*array.BinaryDictionaryBuilder); r.sex == "" {
			sex.AppendNull()
		} else if err := sex.AppendString(r.sex); err != nil {
			t.Fatal(err)
		}
		b.Field(3).(*array.BooleanBuilder).Append(r.status)
		b.Field(4).(*array.Date32Builder).Append(arrow.Date32(r.stop))
	}
	return b.NewRecord()
}

func testRows() []row {
	return []row{
		{"p1", 12, "male", false, 100},
		{"p1", 12, "male", true, 200},
		{"p1", 12, "male", true, 300},
		{"p2", 44, "female", false, 330},
		{"p3", 7, "", true, 20},
		{"p3", 7, "", false, 331},
		{"p4", 25.5, "male", false, 400},
	}
}

// hospital is one hospital with its ledger and the board's witness.
type hospital struct {
	t       testing.TB
	dir     string
	key     *hybrid.Key
	log     *NoteKey
	witness *Witness
	board   *NoteKey
	server  *httptest.Server
	ledger  *Ledger
	salts   *Salts
	stream  ID
	batches []Batch
}

func newHospital(t testing.TB) *hospital {
	t.Helper()
	h := &hospital{t: t, dir: t.TempDir(), salts: NewSalts(), stream: NewID()}
	var err error
	if h.key, err = hybrid.Generate(); err != nil {
		t.Fatal(err)
	}
	if h.log, err = NewLogKey("consilium.test/site/amsterdam"); err != nil {
		t.Fatal(err)
	}
	if h.board, err = NewWitnessKey("board.test/witness"); err != nil {
		t.Fatal(err)
	}
	if h.witness, err = OpenWitness(WitnessConfig{Key: h.board, Dir: t.TempDir(), Logs: []string{h.log.Verifier()}}); err != nil {
		t.Fatal(err)
	}
	h.server = httptest.NewServer(h.witness)
	t.Cleanup(h.server.Close)
	h.open()
	return h
}

func (h *hospital) policy() WitnessPolicy { return SingleWitness(h.board.Verifier(), h.server.URL) }

func (h *hospital) open() {
	h.t.Helper()
	var err error
	h.ledger, err = OpenLedger(h.t.Context(), LedgerConfig{Dir: h.dir, Key: h.log, Site: h.key.Public(), Witnesses: h.policy()})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { h.ledger.Close() })
}

func (h *hospital) gate(seen []byte) *Gate {
	h.t.Helper()
	g, err := NewGate(GateConfig{Ledger: h.log.Verifier(), Site: h.key.Public(), Witnesses: h.policy(), Seen: seen})
	if err != nil {
		h.t.Fatal(err)
	}
	return g
}

// draft makes and signs a batch without logging it.
func (h *hospital) draft(rows []row, supersedes ...LeafRef) Batch {
	h.t.Helper()
	var after *SignedHeader
	if n := len(h.batches); n > 0 {
		after = h.batches[n-1].Header
	}
	d, err := NewBatch(record(h.t, rows), h.salts, BatchOptions{Origin: h.log.Name(), Stream: h.stream, After: after, From: 1, To: 2, Supersedes: supersedes})
	if err != nil {
		h.t.Fatal(err)
	}
	sh, err := SignHeader(h.key, d.Payload)
	if err != nil {
		h.t.Fatal(err)
	}
	return Batch{Header: sh, Manifest: d.Manifest}
}

func (h *hospital) anchor(rows []row, supersedes ...LeafRef) Batch {
	h.t.Helper()
	b := h.draft(rows, supersedes...)
	h.append(b.Header.Entry())
	h.batches = append(h.batches, b)
	return b
}

func (h *hospital) append(entries ...[]byte) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 2*time.Minute)
	defer cancel()
	at, err := h.ledger.AppendAll(ctx, entries)
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.ledger.Await(ctx, at[len(at)-1]); err != nil {
		h.t.Fatal(err)
	}
}

func (h *hospital) input(records ...arrow.Record) Input {
	return Input{Stream: h.stream, Batches: h.batches, Records: records, Salts: h.salts}
}

func (h *hospital) verify(g *Gate, records ...arrow.Record) *Verified {
	h.t.Helper()
	v, err := g.Verify(h.t.Context(), DirView(h.dir), h.input(records...))
	if err != nil {
		h.t.Fatal(err)
	}
	return v
}

func randomDigest() (d consilium.Digest) { rand.Read(d[:]); return d }

func newHospitalKey(t testing.TB) *hybrid.Key {
	t.Helper()
	k, err := hybrid.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return k
}
