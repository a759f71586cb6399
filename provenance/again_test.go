package provenance

import (
	"reflect"
	"slices"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"consilium"
)

// TestVerifyAgain: a table that was verified is found to be what Gate.Verify finds
// it to be after every change of what that depends on, one at a time: a value, a null,
// a dictionary, the rows' order, a manifest, a signature, a patient's key, the ledger.
// A memory that believes the table to be the same reads an altered row.
func TestVerifyAgain(t *testing.T) {
	h := newHospital(t)
	h.anchor(testRows())
	g := h.gate(nil)
	var a Again
	clean := func() Input { return h.input(record(t, testRows())) }
	look := func(in Input) (*Verified, bool) {
		t.Helper()
		before := a.was
		got, err := a.Verify(t.Context(), g, h.ledger, in)
		if err != nil {
			t.Fatal(err)
		}
		want, err := g.Verify(t.Context(), h.ledger, in)
		if err != nil {
			t.Fatal(err)
		}
		for i := range got.Findings { // a row without a leaf has a name of chance
			if got.Findings[i].Kind == FindAdded {
				got.Findings[i].Name, want.Findings[i].Name = consilium.Digest{}, consilium.Digest{}
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%+v\nwhere the gate finds\n%+v", got, want)
		}
		return got, before != nil && a.was == before
	}
	remembered := func(what string) {
		t.Helper()
		look(clean())
		if v, kept := look(clean()); !kept || v.Counts.Verified != 7 {
			t.Fatalf("%s: the same table again: kept %v, %+v", what, kept, v.Counts)
		}
	}
	buffer := func(rec arrow.Record, col, i int) []byte { return rec.Column(col).Data().Buffers()[i].Bytes() }
	for name, change := range map[string]func(*Input){
		"a value":        func(in *Input) { buffer(in.Records[0], 1, 1)[8] ^= 1 },
		"a flag":         func(in *Input) { buffer(in.Records[0], 3, 1)[0] ^= 4 },
		"a level":        func(in *Input) { buffer(in.Records[0], 2, 1)[0] ^= 1 },
		"the dictionary": func(in *Input) { dictionary(in.Records[0], 2).Buffers()[2].Bytes()[0] ^= 1 },
		"a pseudonym":    func(in *Input) { buffer(in.Records[0], 0, 1)[16*3] ^= 1 },
		"rows in another order": func(in *Input) {
			rows := testRows()
			rows[0], rows[1] = rows[1], rows[0]
			in.Records = []arrow.Record{record(t, rows)}
		},
		"a row less":      func(in *Input) { in.Records[0] = in.Records[0].NewSlice(0, 6) },
		"the table twice": func(in *Input) { in.Records = append(in.Records, in.Records[0]) },
		"no table":        func(in *Input) { in.Records = nil },
		"another stream":  func(in *Input) { in.Stream = NewID() },
		"no batch":        func(in *Input) { in.Batches = nil },
		"a batch twice":   func(in *Input) { in.Batches = append(slices.Clone(in.Batches), in.Batches[0]) },
		"a lost manifest": func(in *Input) { in.Batches = []Batch{{Header: in.Batches[0].Header}} },
		"no header":       func(in *Input) { in.Batches = []Batch{{Manifest: in.Batches[0].Manifest}} },
		"a leaf":          func(in *Input) { in.Batches = altered(in.Batches[0], func(m *Manifest) { m.leaves[0][0] ^= 1 }) },
		"a leaf's kind":   func(in *Input) { in.Batches = altered(in.Batches[0], func(m *Manifest) { m.kinds[0] = leafErased }) },
		"whose leaf it is": func(in *Input) {
			in.Batches = altered(in.Batches[0], func(m *Manifest) { m.patients[0] = m.patients[5] })
		},
		"what it replaces": func(in *Input) { in.Batches = altered(in.Batches[0], func(m *Manifest) { m.refs = []LeafRef{{}} }) },
		"the batch's name": func(in *Input) { in.Batches = altered(in.Batches[0], func(m *Manifest) { m.batch[0] ^= 1 }) },
		"its schema":       func(in *Input) { in.Batches = altered(in.Batches[0], func(m *Manifest) { m.schema[0] ^= 1 }) },
		"other keys":       func(in *Input) { in.Salts = NewSalts() },
		"a patient's key less": func(in *Input) {
			in.Salts = &Salts{keys: map[Pseudonym]*patientKey{}}
			for p, k := range h.salts.keys {
				if p != pseudonym(t, "p2") {
					in.Salts.keys[p] = k
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			remembered(name)
			in := clean()
			change(&in)
			before := a.was
			v, kept := look(in)
			if kept {
				t.Errorf("%s: not looked at", name)
			}
			if name != "a pseudonym" && reflect.DeepEqual(v.Counts, before.Counts) && len(v.Findings) == 0 {
				t.Errorf("%s changes nothing: the test shows nothing", name)
			}
		})
	}
	// The twin looks at the ledger and at which table it is, not at its bytes.
	in := clean()
	twin := map[arrow.Record]*Verified{}
	twin[in.Records[0]], _ = look(in)
	buffer(in.Records[0], 1, 1)[8] ^= 1
	if v, _ := look(in); v.Rows[0][1] {
		t.Error("an altered row may be read")
	}
	if !twin[in.Records[0]].Rows[0][1] {
		t.Error("the twin sees it: the test shows nothing")
	}
	// A header's signature, which no digest of a header covers.
	remembered("signature")
	in = clean()
	header, err := SignHeader(newHospitalKey(t), in.Batches[0].Header.Payload())
	if err != nil {
		t.Fatal(err)
	}
	in.Batches = []Batch{{Header: header, Manifest: in.Batches[0].Manifest}}
	if v, kept := look(in); kept || v.Batches[0].OK {
		t.Error("a forged signature passes", kept)
	}
	// An erased key in the same store, and a ledger that has grown.
	remembered("key")
	before := a.was
	h.append(h.record("flush"))
	if look(clean()); a.was == before {
		t.Error("the ledger has grown and nobody looked")
	}
	remembered("grown")
	if _, err := h.salts.Erase(pseudonym(t, "p4")); err != nil {
		t.Fatal(err)
	}
	if v, kept := look(clean()); kept || v.Rows[0][6] {
		t.Error("a row whose key is erased may be read", kept)
	}
	// What a caller does with an answer changes no later one.
	h2 := newHospital(t)
	h2.anchor(testRows())
	h, g, a = h2, h2.gate(nil), Again{}
	for range 3 {
		v, _ := look(clean())
		clear(v.Rows[0])
		clear(v.Class[0])
		clear(v.Roots)
		clear(v.Batches)
	}
	// A ledger that cannot be read lets nothing through, whatever is remembered.
	if _, err := a.Verify(t.Context(), g, DirView(t.TempDir()), clean()); err == nil {
		t.Error("verified without a ledger")
	}
	if _, err := a.Verify(t.Context(), g, h.ledger, Input{}); err == nil {
		t.Error("verified without salts")
	}
}

func dictionary(rec arrow.Record, col int) arrow.ArrayData {
	return rec.Column(col).(*array.Dictionary).Dictionary().Data()
}

// altered is a batch with a changed copy of its manifest.
func altered(b Batch, change func(*Manifest)) []Batch {
	m := *b.Manifest
	m.refs, m.kinds, m.leaves, m.patients = slices.Clone(m.refs), slices.Clone(m.kinds), slices.Clone(m.leaves), slices.Clone(m.patients)
	change(&m)
	return []Batch{{Header: b.Header, Manifest: &m}}
}

// BenchmarkAgain is a table of 10,000 rows that is verified in every round.
func BenchmarkAgain(b *testing.B) {
	h := newHospital(b)
	var rows []row
	for i := range 10_000 {
		rows = append(rows, row{"p" + string(rune('a'+i/1000)), float64(i), "male", i%2 == 0, int32(i)})
	}
	h.anchor(rows)
	g, in := h.gate(nil), h.input(record(b, rows))
	for name, verify := range map[string]func() (*Verified, error){
		"gate": func() (*Verified, error) { return g.Verify(b.Context(), h.ledger, in) },
		"again": func() func() (*Verified, error) {
			var a Again
			return func() (*Verified, error) { return a.Verify(b.Context(), g, h.ledger, in) }
		}(),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if v, err := verify(); err != nil || v.Counts.Verified != len(rows) {
					b.Fatal(err)
				}
			}
		})
	}
}
