package provenance

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"consilium"
)

// The canonical bytes of one row, written out by hand.
func TestCanonicalBytes(t *testing.T) {
	rec := record(t, []row{{"p1", 12, "male", true, 300}, {"p2", math.Copysign(0, -1), "", false, -1}})
	p1, p2 := pseudonym(t, "p1"), pseudonym(t, "p2")
	for r, want := range []string{
		"01" + p1.String() + "01" + "4028000000000000" + "01" + "00000004" + hex.EncodeToString([]byte("male")) + "01" + "01" + "01" + "0000012c",
		"01" + p2.String() + "01" + "0000000000000000" + "00" + "01" + "00" + "01" + "ffffffff",
	} {
		got, err := CanonicalRow(rec, r)
		if err != nil {
			t.Fatal(err)
		}
		if hex.EncodeToString(got) != want {
			t.Errorf("row %d: %x, want %s", r, got, want)
		}
	}
}

// Every type, with nulls, through slices at every offset; and back.
func TestAllTypesAndSlices(t *testing.T) {
	md := func(k, v string) arrow.Metadata { return arrow.NewMetadata([]string{k}, []string{v}) }
	schema := arrow.NewSchema([]arrow.Field{
		{Name: "b", Type: arrow.FixedWidthTypes.Boolean, Nullable: true},
		{Name: "i8", Type: arrow.PrimitiveTypes.Int8, Nullable: true},
		{Name: "u16", Type: arrow.PrimitiveTypes.Uint16, Nullable: true},
		{Name: "i32", Type: arrow.PrimitiveTypes.Int32, Nullable: true, Metadata: md("unit", "d")},
		{Name: "i64", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
		{Name: "f32", Type: arrow.PrimitiveTypes.Float32, Nullable: true},
		{Name: "f64", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
		{Name: "d32", Type: arrow.FixedWidthTypes.Date32, Nullable: true},
		{Name: "ts", Type: &arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "UTC"}, Nullable: true},
		{Name: "s", Type: arrow.BinaryTypes.String, Nullable: true},
		{Name: "ls", Type: arrow.BinaryTypes.LargeString, Nullable: true},
		{Name: "bin", Type: arrow.BinaryTypes.Binary, Nullable: true},
		{Name: "fsb", Type: &arrow.FixedSizeBinaryType{ByteWidth: 3}, Nullable: true},
		{Name: "d", Type: &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: arrow.BinaryTypes.String}, Nullable: true},
		{Name: PatientColumn, Type: &arrow.FixedSizeBinaryType{ByteWidth: 16}},
	}, nil)
	const n = 41
	cell := func(col, r int) string { // JSON of a cell, or null
		if (r*7+col*5)%4 == 0 && col != 14 {
			return "null"
		}
		switch col {
		case 0:
			return fmt.Sprint(r%3 == 0)
		case 1, 2, 3, 4, 7:
			return fmt.Sprint(r)
		case 5, 6:
			return fmt.Sprint(float64(r) / 4)
		case 8:
			return fmt.Sprintf(`"2024-01-%02dT00:00:00Z"`, r%28+1)
		case 9, 10:
			return fmt.Sprintf(`"%s"`, strings.Repeat("ä", r%5))
		case 11:
			return `"AAECAw=="`
		case 12:
			return `"AQID"`
		case 13:
			return fmt.Sprintf(`"level %d"`, r%3)
		default:
			return `"AAECAwQFBgcICQoLDA0ODw=="`
		}
	}
	var js strings.Builder
	for r := 0; r < n; r++ {
		js.WriteByte('{')
		for c, f := range schema.Fields() {
			if c > 0 {
				js.WriteByte(',')
			}
			fmt.Fprintf(&js, "%q:%s", f.Name, cell(c, r))
		}
		js.WriteString("}\n")
	}
	rec, _, err := array.RecordFromJSON(memory.DefaultAllocator, schema, strings.NewReader(js.String()), array.WithMultipleDocs())
	if err != nil {
		t.Fatal(err)
	}
	whole, err := newRowCoder(rec)
	if err != nil {
		t.Fatal(err)
	}
	rows := make([][]byte, n)
	for r := range rows {
		rows[r] = whole.append(nil, r)
		values, err := DecodeRow(whole.columns, rows[r])
		if err != nil {
			t.Fatalf("row %d does not decode: %v", r, err)
		}
		for c, v := range values {
			if want := cell(c, r); v.Null != (want == "null") {
				t.Errorf("row %d column %s: null %v, want %s", r, v.Column.Name, v.Null, want)
			} else if (c == 3 || c == 9) && !v.Null && v.Text != strings.Trim(want, `"`) {
				t.Errorf("row %d column %s: %q, want %s", r, v.Column.Name, v.Text, want)
			}
		}
	}
	for lo := 0; lo <= n; lo++ {
		s := rec.NewSlice(int64(lo), n)
		rc, err := newRowCoder(s)
		if err != nil {
			t.Fatal(err)
		}
		for r := 0; r < n-lo; r++ {
			if got := rc.append(nil, r); !slices.Equal(got, rows[lo+r]) {
				t.Fatalf("slice at %d, row %d: %x, want %x", lo, r, got, rows[lo+r])
			}
		}
	}
}

// How Arrow holds a text does not count; what it says does.
func TestRepresentationDoesNotCount(t *testing.T) {
	dict := record(t, testRows())
	plainSchema := func() *arrow.Schema {
		f := slices.Clone(testSchema("a").Fields())
		f[2].Type = arrow.BinaryTypes.LargeString
		return arrow.NewSchema(f, nil)
	}()
	b := array.NewRecordBuilder(memory.DefaultAllocator, plainSchema)
	for _, r := range testRows() {
		p := pseudonym(t, r.patient)
		b.Field(0).(*array.FixedSizeBinaryBuilder).Append(p[:])
		b.Field(1).(*array.Float64Builder).Append(r.age)
		if r.sex == "" {
			b.Field(2).AppendNull()
		} else {
			b.Field(2).(*array.LargeStringBuilder).Append(r.sex)
		}
		b.Field(3).(*array.BooleanBuilder).Append(r.status)
		b.Field(4).(*array.Date32Builder).Append(arrow.Date32(r.stop))
	}
	one, err := newRowCoder(dict)
	if err != nil {
		t.Fatal(err)
	}
	two, err := newRowCoder(b.NewRecord())
	if err != nil {
		t.Fatal(err)
	}
	if one.schema != two.schema {
		t.Error("the fingerprint depends on the representation")
	}
	for r := range testRows() {
		if !slices.Equal(one.append(nil, r), two.append(nil, r)) {
			t.Errorf("row %d depends on the representation", r)
		}
	}
	units, err := newRowCoder(recordOf(t, testSchema("mo"), testRows()))
	if err != nil {
		t.Fatal(err)
	}
	if units.schema == one.schema {
		t.Error("ages in years and in months have one fingerprint")
	}
}

func TestOneNaNAndOneZero(t *testing.T) {
	a := record(t, []row{{"p1", math.NaN(), "", false, 0}, {"p1", 0, "", false, 0}})
	b := record(t, []row{{"p1", math.Float64frombits(0xfff0000000000123), "", false, 0}, {"p1", math.Copysign(0, -1), "", false, 0}})
	for r := 0; r < 2; r++ {
		x, err := CanonicalRow(a, r)
		if err != nil {
			t.Fatal(err)
		}
		y, err := CanonicalRow(b, r)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(x, y) {
			t.Errorf("row %d: %x and %x", r, x, y)
		}
	}
	inf, _ := CanonicalRow(record(t, []row{{"p1", math.Inf(1), "", false, 0}}), 0)
	nan, _ := CanonicalRow(a, 0)
	if slices.Equal(inf, nan) {
		t.Error("infinity and NaN have one encoding")
	}
}

// Records with buffers that do not fit are errors, never a panic.
func TestMalformedRecords(t *testing.T) {
	good := record(t, testRows())
	column := func(i int) arrow.ArrayData { return good.Column(i).Data() }
	with := func(i int, d arrow.ArrayData) arrow.Record {
		cols := slices.Clone(good.Columns())
		cols[i] = array.MakeFromData(d)
		return fakeRecord{good, cols}
	}
	buffers := func(i int) []*memory.Buffer { return slices.Clone(column(i).Buffers()) }
	short := func(i, buf, n int) []*memory.Buffer {
		bs := buffers(i)
		bs[buf] = memory.NewBufferBytes(bs[buf].Bytes()[:n])
		return bs
	}
	outside := memory.NewBufferBytes([]byte{0xff, 0xff, 0xff, 0xff})
	for name, rec := range map[string]arrow.Record{
		"short floats": with(1, array.NewData(arrow.PrimitiveTypes.Float64, 7, short(1, 1, 55), nil, 0, 0)),
		"short bits":   with(3, array.NewData(arrow.FixedWidthTypes.Boolean, 7, short(3, 1, 0), nil, 0, 0)),
		"other type":   with(1, array.NewData(arrow.PrimitiveTypes.Int64, 7, buffers(1), nil, 0, 0)),
		"other length": with(1, array.NewData(arrow.PrimitiveTypes.Float64, 6, buffers(1), nil, 0, 0)),
		"null count":   with(1, array.NewData(arrow.PrimitiveTypes.Float64, 7, []*memory.Buffer{memory.NewBufferBytes([]byte{0x7e}), buffers(1)[1]}, nil, 0, 0)),
		"dictionary index": with(2, array.NewDataWithDictionary(good.Column(2).DataType(), 7,
			[]*memory.Buffer{buffers(2)[0], memory.NewBufferBytes(append(outside.Bytes(), buffers(2)[1].Bytes()[4:28]...))}, array.UnknownNullCount, 0, column(2).Dictionary().(*array.Data))),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := CanonicalRow(rec, 0); err == nil {
				t.Error("accepted")
			}
		})
	}
	nobody := make([]byte, 16)
	b := array.NewRecordBuilder(memory.DefaultAllocator, arrow.NewSchema([]arrow.Field{{Name: PatientColumn, Type: &arrow.FixedSizeBinaryType{ByteWidth: 16}}}, nil))
	b.Field(0).(*array.FixedSizeBinaryBuilder).Append(nobody)
	if _, err := CanonicalRow(b.NewRecord(), 0); err == nil {
		t.Error("a row of nobody was accepted")
	}
}

type fakeRecord struct {
	arrow.Record
	cols []arrow.Array
}

func (r fakeRecord) Column(i int) arrow.Array { return r.cols[i] }

// A leaf without a salt gives its content away to whoever can list the
// candidates; with one, the same search finds nothing.
func TestUnsaltedLeafIsGuessed(t *testing.T) {
	rec := record(t, []row{{"p3", 44, "female", true, 71}})
	rc, err := newRowCoder(rec)
	if err != nil {
		t.Fatal(err)
	}
	guess := func(target consilium.Digest, salt consilium.Digest) (int32, bool) {
		buf := []byte(nil)
		for age := 0.0; age < 60; age++ {
			for stop := int32(0); stop < 120; stop++ {
				c, err := newRowCoder(record(t, []row{{"p3", age, "female", true, stop}}))
				if err != nil {
					t.Fatal(err)
				}
				var got consilium.Digest
				if got, buf = c.leaf(buf, &salt, 0); got == target {
					return stop, true
				}
			}
		}
		return 0, false
	}
	naive, _ := rc.leaf(nil, &consilium.Digest{}, 0)
	if stop, ok := guess(naive, consilium.Digest{}); !ok || stop != 71 {
		t.Errorf("the naive twin kept its secret: %d %v", stop, ok)
	}
	salts := NewSalts()
	p := pseudonym(t, "p3")
	if err := salts.Ensure(p); err != nil {
		t.Fatal(err)
	}
	salt := salts.get(p).rowSalt(NewID(), 0)
	real, _ := rc.leaf(nil, &salt, 0)
	if _, ok := guess(real, consilium.Digest{}); ok {
		t.Error("a salted leaf was guessed")
	}
}

// The HMAC on the stack is the HMAC of the standard library.
func TestSaltIsHMAC(t *testing.T) {
	for i := 0; i < 100; i++ {
		key, batch := randomDigest(), NewID()
		m := hmac.New(sha256.New, key[:])
		m.Write(consilium.DomainRowSalt.Message(append(slices.Clone(batch[:]), 0, 0, 1, byte(i))))
		if got := newPatientKey(key).rowSalt(batch, 256+uint32(i)); !hmac.Equal(got[:], m.Sum(nil)) {
			t.Fatalf("salt %v, want %x", got, m.Sum(nil))
		}
	}
}
