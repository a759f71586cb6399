package provenance

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/bitutil"

	"consilium"
)

// PatientColumn is the column that every anchored record has: FixedSizeBinary
// of 16 bytes, the hospital's pseudonym of the row's patient, never null.
const PatientColumn = "patient"

// Column is what a leaf binds of a column beside its values: a value of
// another unit or code is another record. Type is the logical type; how Arrow
// happens to hold it (dictionary or plain, 32 or 64 bit offsets) does not count.
type Column struct {
	Name string `json:"name"`
	Type string `json:"type"`
	Unit string `json:"unit,omitempty"` // UCUM
	Code string `json:"code,omitempty"` // LOINC, SNOMED CT, …
	View string `json:"view,omitempty"` // the view the column was extracted by
}

// Columns describes an Arrow schema, or says which column cannot be anchored.
func Columns(schema *arrow.Schema) ([]Column, error) {
	cols := make([]Column, 0, schema.NumFields())
	seen := map[string]bool{}
	patient := false
	for _, f := range schema.Fields() {
		if f.Name == "" || !utf8.ValidString(f.Name) || seen[f.Name] {
			return nil, consilium.ErrData.Withf("column name %q is empty, not UTF-8 or stands twice", clip(f.Name))
		}
		seen[f.Name] = true
		typ, err := logicalType(f.Type)
		if err != nil {
			return nil, consilium.ErrData.Withf("column %s: %w", clip(f.Name), err)
		}
		c := Column{Name: f.Name, Type: typ}
		meta := func(key string) string {
			if i := f.Metadata.FindKey(key); i >= 0 {
				return f.Metadata.Values()[i]
			}
			return ""
		}
		c.Unit, c.Code, c.View = meta("unit"), meta("code"), meta("view")
		if !utf8.ValidString(c.Unit + c.Code + c.View) {
			return nil, consilium.ErrData.Withf("column %s: unit, code or view is not UTF-8", clip(f.Name))
		}
		patient = patient || f.Name == PatientColumn && typ == "fixed(16)"
		cols = append(cols, c)
	}
	if !patient {
		return nil, consilium.ErrData.Withf("no column %s of 16 bytes: every record names its patient by pseudonym", PatientColumn)
	}
	return cols, nil
}

// Fingerprint names the columns: it is part of every leaf, so that no bytes
// can be read again as other columns, types or units.
func Fingerprint(cols []Column) consilium.Digest {
	w := enc{}
	w.u32(uint32(len(cols)))
	for _, c := range cols {
		for _, s := range []string{c.Name, c.Type, c.Unit, c.Code, c.View} {
			w.bytes([]byte(s))
		}
	}
	return consilium.DomainSchema.Digest(w.b)
}

func logicalType(t arrow.DataType) (string, error) {
	switch t := t.(type) {
	case *arrow.BooleanType:
		return "bool", nil
	case *arrow.Int8Type, *arrow.Int16Type, *arrow.Int32Type, *arrow.Int64Type,
		*arrow.Uint8Type, *arrow.Uint16Type, *arrow.Uint32Type, *arrow.Uint64Type:
		return t.Name(), nil
	case *arrow.Float32Type:
		return "float32", nil
	case *arrow.Float64Type:
		return "float64", nil
	case *arrow.Date32Type:
		return "date32", nil
	case *arrow.Date64Type:
		return "date64", nil
	case *arrow.TimestampType:
		return "timestamp(" + t.Unit.String() + "," + t.TimeZone + ")", nil
	case *arrow.StringType, *arrow.LargeStringType:
		return "utf8", nil
	case *arrow.BinaryType, *arrow.LargeBinaryType:
		return "binary", nil
	case *arrow.FixedSizeBinaryType:
		return "fixed(" + strconv.Itoa(t.ByteWidth) + ")", nil
	case *arrow.DictionaryType:
		switch v := t.ValueType.(type) {
		case *arrow.StringType, *arrow.LargeStringType, *arrow.BinaryType, *arrow.LargeBinaryType:
			return logicalType(v)
		}
	}
	return "", fmt.Errorf("type %s cannot be anchored", t)
}

type colKind uint8

const (
	kindBool colKind = iota
	kindWord         // fixed width, big-endian in the row
	kindFloat32
	kindFloat64
	kindFixed // bytes as they are
	kindVar   // 32 bit offsets
	kindVarLarge
	kindDict
)

// coder reads one column's buffers. data, valid and offsets are what the
// analysis reads too: there is no copy between hashing and use.
type coder struct {
	kind    colKind
	width   int
	signed  bool // kindDict
	off     int  // arrow's offset of row 0
	valid   []byte
	data    []byte
	offsets []byte
	dict    [][]byte // kindDict; nil is a null value
}

// rowCoder turns the rows of one record into canonical bytes.
type rowCoder struct {
	cols    []coder
	rows    int
	patient *coder
	columns []Column
	schema  consilium.Digest
}

func newRowCoder(rec arrow.Record) (*rowCoder, error) {
	columns, err := Columns(rec.Schema())
	if err != nil {
		return nil, err
	}
	rc := &rowCoder{cols: make([]coder, len(columns)), rows: int(rec.NumRows()), columns: columns, schema: Fingerprint(columns)}
	for i, c := range columns {
		if err := rc.cols[i].init(rec.Column(i), rec.Schema().Field(i).Type, rc.rows); err != nil {
			return nil, consilium.ErrData.Withf("column %s: %w", clip(c.Name), err)
		}
		if c.Name == PatientColumn {
			rc.patient = &rc.cols[i]
		}
	}
	for r := 0; r < rc.rows; r++ {
		if rc.patient.null(r) || rc.patientOf(r).IsZero() {
			return nil, consilium.ErrData.Withf("row %d names no patient", r)
		}
	}
	return rc, nil
}

// init checks every length and index that append relies on, so that a
// malformed record is an error here and never a panic or a read past a buffer.
func (c *coder) init(a arrow.Array, t arrow.DataType, rows int) error {
	d := a.Data()
	if !arrow.TypeEqual(a.DataType(), t) || a.Len() != rows {
		return fmt.Errorf("array does not fit the schema")
	}
	c.off = d.Offset()
	end := c.off + rows
	if c.off < 0 || rows < 0 || end < c.off {
		return fmt.Errorf("offset %d", c.off)
	}
	bufs := d.Buffers()
	buf := func(i int) []byte {
		if i < len(bufs) && bufs[i] != nil {
			return bufs[i].Bytes()
		}
		return nil
	}
	if c.valid = buf(0); len(c.valid) == 0 {
		c.valid = nil
	} else if len(c.valid) < (end+7)/8 {
		return fmt.Errorf("validity bitmap of %d bytes", len(c.valid))
	}
	// Some readers look at the bitmap, some at the count: both must say the same.
	if n := d.NullN(); n >= 0 {
		set := rows
		if c.valid != nil {
			set = bitutil.CountSetBits(c.valid, c.off, rows)
		}
		if n != rows-set {
			return fmt.Errorf("%d nulls by count, %d by bitmap", n, rows-set)
		}
	}
	c.data = buf(1)
	fixed := func(kind colKind, width int) error {
		c.kind, c.width = kind, width
		if width > 0 && len(c.data)/width < end {
			return fmt.Errorf("%d bytes for %d values of %d bytes", len(c.data), end, width)
		}
		return nil
	}
	switch t := t.(type) {
	case *arrow.BooleanType:
		c.kind = kindBool
		if len(c.data) < (end+7)/8 {
			return fmt.Errorf("%d bytes for %d bits", len(c.data), end)
		}
		return nil
	case *arrow.Float32Type:
		return fixed(kindFloat32, 4)
	case *arrow.Float64Type:
		return fixed(kindFloat64, 8)
	case *arrow.FixedSizeBinaryType:
		return fixed(kindFixed, t.ByteWidth)
	case *arrow.StringType, *arrow.BinaryType:
		c.kind, c.offsets, c.data = kindVar, buf(1), buf(2)
		return c.checkOffsets(rows)
	case *arrow.LargeStringType, *arrow.LargeBinaryType:
		c.kind, c.offsets, c.data = kindVarLarge, buf(1), buf(2)
		return c.checkOffsets(rows)
	case *arrow.DictionaryType:
		width := t.IndexType.(arrow.FixedWidthDataType).Bytes()
		if err := fixed(kindDict, width); err != nil {
			return err
		}
		c.signed = arrow.IsSignedInteger(t.IndexType.ID())
		dict, ok := a.(*array.Dictionary)
		if !ok {
			return fmt.Errorf("%T is no dictionary", a)
		}
		var values coder
		da := dict.Dictionary()
		if err := values.init(da, t.ValueType, da.Len()); err != nil {
			return fmt.Errorf("dictionary: %w", err)
		}
		c.dict = make([][]byte, da.Len())
		for i := range c.dict {
			if !values.null(i) {
				v := values.slice(i)
				c.dict[i] = v[:len(v):len(v)]
				if c.dict[i] == nil {
					c.dict[i] = []byte{}
				}
			}
		}
		for r := 0; r < rows; r++ {
			if !c.bitmapNull(r) && c.index(r) >= uint64(len(c.dict)) {
				return fmt.Errorf("row %d points outside the dictionary", r)
			}
		}
		return nil
	case arrow.FixedWidthDataType:
		return fixed(kindWord, t.Bytes())
	}
	return fmt.Errorf("type %s cannot be anchored", t)
}

func (c *coder) checkOffsets(rows int) error {
	if rows == 0 {
		return nil
	}
	w := 4
	if c.kind == kindVarLarge {
		w = 8
	}
	if len(c.offsets)/w < c.off+rows+1 {
		return fmt.Errorf("%d bytes of offsets", len(c.offsets))
	}
	last := c.offset(0)
	for r := 1; r <= rows; r++ {
		o := c.offset(r)
		if o < last {
			return fmt.Errorf("offsets run backwards at row %d", r)
		}
		if o-last > math.MaxUint32 {
			return fmt.Errorf("row %d holds more than 4 GiB", r)
		}
		last = o
	}
	if c.offset(0) < 0 || last > int64(len(c.data)) {
		return fmt.Errorf("offsets point outside the data")
	}
	return nil
}

func (c *coder) offset(r int) int64 {
	if c.kind == kindVarLarge {
		return int64(binary.NativeEndian.Uint64(c.offsets[8*(c.off+r):]))
	}
	return int64(int32(binary.NativeEndian.Uint32(c.offsets[4*(c.off+r):])))
}

func (c *coder) slice(r int) []byte { return c.data[c.offset(r):c.offset(r+1)] }

func (c *coder) bitmapNull(r int) bool {
	i := c.off + r
	return c.valid != nil && c.valid[i/8]>>(i%8)&1 == 0
}

func (c *coder) null(r int) bool {
	return c.bitmapNull(r) || c.kind == kindDict && c.dict[c.index(r)] == nil
}

// index is a dictionary index; a negative one becomes larger than any
// dictionary.
func (c *coder) index(r int) uint64 {
	v := c.word(r)
	if c.signed {
		shift := 64 - 8*c.width
		return uint64(int64(v<<shift) >> shift)
	}
	return v
}

func (c *coder) word(r int) uint64 {
	i := c.off + r
	switch c.width {
	case 1:
		return uint64(c.data[i])
	case 2:
		return uint64(binary.NativeEndian.Uint16(c.data[2*i:]))
	case 4:
		return uint64(binary.NativeEndian.Uint32(c.data[4*i:]))
	default:
		return binary.NativeEndian.Uint64(c.data[8*i:])
	}
}

func (rc *rowCoder) patientOf(r int) (p Pseudonym) {
	i := rc.patient.off + r
	copy(p[:], rc.patient.data[16*i:16*i+16])
	return p
}

const (
	nan64 = 0x7ff8000000000000
	nan32 = 0x7fc00000
)

// append writes the row's canonical bytes: for each column in schema order 0
// for null, or 1 and the value. Integers are big-endian; floats are their
// IEEE 754 bits big-endian, with one NaN and one zero; text and bytes follow
// their length in four bytes.
func (rc *rowCoder) append(b []byte, r int) []byte {
	for i := range rc.cols {
		c := &rc.cols[i]
		if c.bitmapNull(r) {
			b = append(b, 0)
			continue
		}
		switch c.kind {
		case kindFloat64:
			v := c.word(r)
			switch {
			case v<<1 > 0x7ff<<53:
				v = nan64
			case v<<1 == 0:
				v = 0
			}
			b = binary.BigEndian.AppendUint64(append(b, 1), v)
		case kindFloat32:
			v := uint32(c.word(r))
			switch {
			case v<<1 > 0xff<<24:
				v = nan32
			case v<<1 == 0:
				v = 0
			}
			b = binary.BigEndian.AppendUint32(append(b, 1), v)
		case kindWord:
			v := c.word(r)
			b = append(b, 1)
			switch c.width {
			case 1:
				b = append(b, byte(v))
			case 2:
				b = binary.BigEndian.AppendUint16(b, uint16(v))
			case 4:
				b = binary.BigEndian.AppendUint32(b, uint32(v))
			default:
				b = binary.BigEndian.AppendUint64(b, v)
			}
		case kindBool:
			i := c.off + r
			b = append(b, 1, c.data[i/8]>>(i%8)&1)
		case kindFixed:
			i := (c.off + r) * c.width
			b = append(append(b, 1), c.data[i:i+c.width]...)
		case kindDict:
			v := c.dict[c.index(r)]
			if v == nil {
				b = append(b, 0)
				continue
			}
			b = binary.BigEndian.AppendUint32(append(b, 1), uint32(len(v)))
			b = append(b, v...)
		default:
			v := c.slice(r)
			b = binary.BigEndian.AppendUint32(append(b, 1), uint32(len(v)))
			b = append(b, v...)
		}
	}
	return b
}

// leaf hashes row r of a record: SHA-256(0x00 || schema || salt || row). buf
// is scratch space, returned for the next call.
func (rc *rowCoder) leaf(buf []byte, salt *consilium.Digest, r int) (consilium.Digest, []byte) {
	buf = rc.leafBytes(buf, salt, r)
	return sha256.Sum256(buf), buf
}

// leafBytes is what leaf hashes.
func (rc *rowCoder) leafBytes(buf []byte, salt *consilium.Digest, r int) []byte {
	buf = append(buf[:0], 0)
	buf = append(buf, rc.schema[:]...)
	buf = append(buf, salt[:]...)
	return rc.append(buf, r)
}

// CanonicalRow returns the canonical bytes of one row, for receipts, tests and
// second implementations.
func CanonicalRow(rec arrow.Record, row int) ([]byte, error) {
	rc, err := newRowCoder(rec)
	if err != nil {
		return nil, err
	}
	if row < 0 || row >= rc.rows {
		return nil, consilium.ErrData.Withf("row %d of %d", row, rc.rows)
	}
	return rc.append(nil, row), nil
}

// Value is one cell of a decoded row. Text is for people; "" and Null for a
// missing value.
type Value struct {
	Column Column
	Null   bool
	Text   string
}

// DecodeRow reads canonical bytes back. It accepts exactly what append makes.
func DecodeRow(cols []Column, row []byte) ([]Value, error) {
	d := dec{b: row}
	out := make([]Value, 0, len(cols))
	for _, c := range cols {
		v := Value{Column: c}
		switch tag := d.u8(); {
		case d.err != nil:
		case tag == 0:
			v.Null = true
		case tag != 1:
			d.fail("column %s: tag %d", clip(c.Name), tag)
		default:
			v.Text = d.value(c.Type)
		}
		out = append(out, v)
	}
	if err := d.done("row"); err != nil {
		return nil, err
	}
	return out, nil
}

func (d *dec) value(typ string) string {
	be := func(n int) (v uint64) {
		for _, b := range d.take(n) {
			v = v<<8 | uint64(b)
		}
		return v
	}
	if rest, ok := strings.CutPrefix(typ, "fixed("); ok {
		n, err := strconv.Atoi(strings.TrimSuffix(rest, ")"))
		if err != nil || n < 0 || typ != "fixed("+strconv.Itoa(n)+")" {
			d.fail("unknown type %s", clip(typ))
			return ""
		}
		return fmt.Sprintf("%x", d.take(n))
	}
	if rest, ok := strings.CutPrefix(typ, "timestamp("); ok {
		unit, zone, ok := strings.Cut(strings.TrimSuffix(rest, ")"), ",")
		if !ok || !strings.HasSuffix(rest, ")") {
			d.fail("unknown type %s", clip(typ))
		}
		return strings.TrimSpace(strconv.FormatInt(int64(be(8)), 10) + " " + unit + " " + zone)
	}
	switch typ {
	case "bool":
		v := be(1)
		if v > 1 {
			d.fail("bool %d", v)
		}
		return strconv.FormatBool(v == 1)
	case "int8", "int16", "int32", "int64":
		n, _ := strconv.Atoi(typ[3:])
		shift := 64 - n
		return strconv.FormatInt(int64(be(n/8)<<shift)>>shift, 10)
	case "uint8", "uint16", "uint32", "uint64":
		n, _ := strconv.Atoi(typ[4:])
		return strconv.FormatUint(be(n/8), 10)
	case "float32":
		v := uint32(be(4))
		if f := math.Float32frombits(v); f != f && v != nan32 || bits.TrailingZeros32(v) == 31 {
			d.fail("float32 %08x is not canonical", v)
		}
		return strconv.FormatFloat(float64(math.Float32frombits(v)), 'g', -1, 32)
	case "float64":
		v := be(8)
		if f := math.Float64frombits(v); f != f && v != nan64 || bits.TrailingZeros64(v) == 63 {
			d.fail("float64 %016x is not canonical", v)
		}
		return strconv.FormatFloat(math.Float64frombits(v), 'g', -1, 64)
	case "date32":
		return time.Unix(int64(int32(be(4)))*86400, 0).UTC().Format("2006-01-02")
	case "date64":
		return time.UnixMilli(int64(be(8))).UTC().Format(time.RFC3339)
	case "utf8":
		return string(d.bytes(math.MaxInt32))
	case "binary":
		return fmt.Sprintf("%x", d.bytes(math.MaxInt32))
	}
	d.fail("unknown type %s", clip(typ))
	return ""
}
