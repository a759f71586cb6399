package table

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"consilium"
)

// The two columns that every record begins with.
const (
	PatientColumn = "patient" // FixedSizeBinary(16): keyed pseudonym of the patient
	SourceColumn  = "source"  // FixedSizeBinary(32): digest of the row's raw bytes
)

// minKey is the least length of a pseudonym key. Identifiers are few and
// guessable, so whoever guesses the key reads them all.
const minKey = 16

// Options says how to read a table.
type Options struct {
	Spec *consilium.Spec
	// Bind maps a study's column to this hospital's header. A column that is
	// absent is bound to the header of its own name.
	Bind map[string]string
	// Key is the site's secret for pseudonyms, at least 16 bytes.
	Key []byte
	// File is the table's name in errors.
	File string
	// RowPatients says that the table has no patient column: every row is a
	// patient of its own, named by its place in the table.
	RowPatients bool
}

// Table is a hospital's table as a study declares it. Rows keep their order.
type Table struct {
	// Record holds patient, source and the declared columns in their order;
	// data.patient is left out, other id columns are pseudonyms.
	Record arrow.Record
	// IDs are the patients' own identifiers, row by row. They never leave the
	// hospital; consents are matched by them.
	IDs []string
	// Lines are the rows' lines in the file.
	Lines []int
}

// Pseudonym is the keyed name of a patient inside one hospital.
func Pseudonym(key []byte, id string) [16]byte {
	m := hmac.New(sha256.New, key)
	m.Write(consilium.DomainPseudonym.Message([]byte(id)))
	var out [16]byte
	copy(out[:], m.Sum(nil))
	return out
}

// pseudonymOf names a cell of another id column. The column's name is part of
// it, so family 7 is not patient 7; a NUL separates them, which no cell holds.
func pseudonymOf(key []byte, column, id string) [16]byte { return Pseudonym(key, column+"\x00"+id) }

// Schema is the shape of Table.Record for a study.
func Schema(spec *consilium.Spec) *arrow.Schema {
	fields := []arrow.Field{
		{Name: PatientColumn, Type: &arrow.FixedSizeBinaryType{ByteWidth: 16}},
		{Name: SourceColumn, Type: &arrow.FixedSizeBinaryType{ByteWidth: sha256.Size}},
	}
	for i := range spec.Columns {
		c := &spec.Columns[i]
		if c.Name == spec.Data.Patient {
			continue
		}
		f := arrow.Field{Name: c.Name, Type: arrowType(c.Type), Nullable: true}
		if c.Unit != "" {
			f.Metadata = arrow.NewMetadata([]string{"unit"}, []string{c.Unit})
		}
		fields = append(fields, f)
	}
	return arrow.NewSchema(fields, nil)
}

func arrowType(t consilium.ColumnType) arrow.DataType {
	switch t {
	case consilium.TypeNumber:
		return arrow.PrimitiveTypes.Float64
	case consilium.TypeInteger:
		return arrow.PrimitiveTypes.Int64
	case consilium.TypeFlag:
		return arrow.FixedWidthTypes.Boolean
	case consilium.TypeLevels:
		return &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: arrow.BinaryTypes.String}
	case consilium.TypeDate:
		return arrow.FixedWidthTypes.Date32
	default: // TypeID
		return &arrow.FixedSizeBinaryType{ByteWidth: 16}
	}
}

// Read reads a CSV table. Every error is consilium.ErrData and holds an *Error.
func Read(r io.Reader, o Options) (*Table, error) {
	if len(o.Key) < minKey {
		return nil, consilium.ErrData.Withf("the pseudonym key has %d bytes, want at least %d", len(o.Key), minKey)
	}
	src, err := io.ReadAll(r)
	if err != nil {
		return nil, consilium.ErrData.With(fmt.Errorf("%s: %w", o.File, err))
	}
	rows, err := lines(o.File, src)
	if err != nil {
		return nil, err
	}
	where, err := bind(o, rows[0])
	if err != nil {
		return nil, err
	}
	rows = rows[1:]
	t := &Table{IDs: make([]string, len(rows)), Lines: make([]int, len(rows))}
	schema := Schema(o.Spec)
	mem := memory.NewGoAllocator()
	patients := array.NewFixedSizeBinaryBuilder(mem, &arrow.FixedSizeBinaryType{ByteWidth: 16})
	sources := array.NewFixedSizeBinaryBuilder(mem, &arrow.FixedSizeBinaryType{ByteWidth: sha256.Size})
	same := map[consilium.Digest]uint64{}
	for i, row := range rows {
		t.Lines[i] = row.line
		id := "row " + strconv.Itoa(i+1)
		if !o.RowPatients {
			id = strings.TrimSpace(row.cells[where[o.Spec.Data.Patient]])
			if id == "" {
				return nil, refuse(&Error{File: o.File, Line: row.line, Column: o.Spec.Data.Patient, Rule: "the patient is missing",
					Next: "every row belongs to a patient: fill it in or remove the row"})
			}
		}
		t.IDs[i] = id
		p := Pseudonym(o.Key, id)
		patients.Append(p[:])
		s := source(row.raw, same)
		sources.Append(s[:])
	}
	arrays := []arrow.Array{patients.NewArray(), sources.NewArray()}
	for i := range o.Spec.Columns {
		c := &o.Spec.Columns[i]
		if c.Name == o.Spec.Data.Patient {
			continue
		}
		a, err := readColumn(mem, o, c, rows, where[c.Name])
		if err != nil {
			return nil, err
		}
		arrays = append(arrays, a)
	}
	t.Record = array.NewRecord(schema, arrays, int64(len(rows)))
	return t, nil
}

// source names a row by its raw bytes and by how many equal rows stand before
// it. Its place in the file is not part of it: a row that is added, removed or
// made longer would otherwise change the digest of every row after it, and all
// of them would look altered.
func source(raw []byte, same map[consilium.Digest]uint64) consilium.Digest {
	key := consilium.DomainSource.Digest(raw)
	n := same[key]
	same[key] = n + 1
	return consilium.DomainSource.Digest(raw, binary.BigEndian.AppendUint64(nil, n))
}

// bind finds each study column's place in the header.
func bind(o Options, head row) (map[string]int, error) {
	at := make(map[string]int, len(head.cells))
	for i, h := range head.cells {
		at[h] = i
	}
	names := make([]string, len(o.Spec.Columns))
	for i := range o.Spec.Columns {
		names[i] = o.Spec.Columns[i].Name
	}
	for _, study := range sorted(o.Bind) {
		if _, ok := o.Spec.Column(study); !ok {
			return nil, refuse(&Error{File: o.File, Column: study, Rule: "a header is bound to it, but the study does not declare it",
				Next: suggest(study, names)})
		}
	}
	where := make(map[string]int, len(names))
	for _, name := range names {
		if o.RowPatients && name == o.Spec.Data.Patient {
			continue
		}
		local, bound := o.Bind[name]
		if !bound {
			local = name
		}
		i, ok := at[local]
		if !ok {
			e := &Error{File: o.File, Line: head.line, Column: name, note: suggest(local, head.cells)}
			if bound {
				e.Rule = fmt.Sprintf("it is bound to the header %s, which the table does not have", clip(local))
				e.Next = "correct the binding"
			} else {
				e.Rule = "the table has no such header"
				e.Next = "bind one of the table's headers to it, or rename the header"
			}
			return nil, refuse(e)
		}
		where[name] = i
	}
	return where, nil
}

func sorted(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// readColumn reads one column of all rows.
func readColumn(mem memory.Allocator, o Options, c *consilium.Column, rows []row, at int) (arrow.Array, error) {
	missing := map[string]bool{}
	for _, m := range c.Missing {
		missing[m] = true
	}
	if len(c.Missing) == 0 {
		missing[""] = true
	}
	var b array.Builder
	var put func(cell string) (rule, next string)
	switch c.Type {
	case consilium.TypeNumber:
		nb := array.NewFloat64Builder(mem)
		b = nb
		put = func(cell string) (string, string) {
			v, rule, next := parseNumber(cell)
			if rule == "" {
				rule, next = checkBounds(c, v)
			}
			if rule == "" {
				nb.Append(v)
			}
			return rule, next
		}
	case consilium.TypeInteger:
		ib := array.NewInt64Builder(mem)
		b = ib
		put = func(cell string) (string, string) {
			v, rule, next := parseInteger(cell)
			if rule == "" {
				rule, next = checkBounds(c, float64(v))
			}
			if rule == "" {
				ib.Append(v)
			}
			return rule, next
		}
	case consilium.TypeFlag:
		fb := array.NewBooleanBuilder(mem)
		b = fb
		put = func(cell string) (string, string) {
			switch strings.ToLower(cell) {
			case "1", "true":
				fb.Append(true)
			case "0", "false":
				fb.Append(false)
			default:
				return "a flag is 0, 1, true or false", "recode the column, or declare its levels"
			}
			return "", ""
		}
	case consilium.TypeLevels:
		return readLevels(mem, o, c, rows, at, missing)
	case consilium.TypeDate:
		db := array.NewDate32Builder(mem)
		b = db
		put = func(cell string) (string, string) {
			d, err := time.Parse("2006-01-02", cell)
			if err != nil || len(cell) != 10 {
				return "not a date", "write dates as 2006-01-31 (ISO 8601)"
			}
			db.Append(arrow.Date32FromTime(d))
			return "", ""
		}
	default: // TypeID
		pb := array.NewFixedSizeBinaryBuilder(mem, &arrow.FixedSizeBinaryType{ByteWidth: 16})
		b = pb
		put = func(cell string) (string, string) {
			p := pseudonymOf(o.Key, c.Name, cell)
			pb.Append(p[:])
			return "", ""
		}
	}
	for _, row := range rows {
		raw := row.cells[at]
		cell := strings.TrimSpace(raw)
		if missing[cell] {
			b.AppendNull()
			continue
		}
		if cell == "" {
			return nil, cellError(o, c, row, raw, "the cell is empty", `add "" to the column's missing values, or fill it in`)
		}
		if rule, next := put(cell); rule != "" {
			return nil, cellError(o, c, row, raw, rule, next)
		}
	}
	return b.NewArray(), nil
}

func cellError(o Options, c *consilium.Column, row row, cell, rule, next string) error {
	note := fmt.Sprintf("the cell is %q", clip(cell))
	// Which level is near is as telling as the cell.
	if near := nearest(strings.TrimSpace(cell), c.Levels); near != "" {
		note += ", did you mean " + near + "?"
	}
	return refuse(&Error{File: o.File, Line: row.line, Column: c.Name, Rule: rule, Next: next, note: note})
}

func readLevels(mem memory.Allocator, o Options, c *consilium.Column, rows []row, at int, missing map[string]bool) (arrow.Array, error) {
	index := map[string]int32{}
	words := array.NewStringBuilder(mem)
	for i, l := range c.Levels {
		index[l] = int32(i)
		words.Append(l)
	}
	codes := array.NewInt32Builder(mem)
	for _, row := range rows {
		cell := strings.TrimSpace(row.cells[at])
		if missing[cell] {
			codes.AppendNull()
			continue
		}
		code, ok := index[cell]
		if !ok {
			return nil, cellError(o, c, row, row.cells[at], "not a declared level ("+strings.Join(c.Levels, ", ")+")",
				"declare it in the study, correct it, or add it to the column's missing values")
		}
		codes.Append(code)
	}
	return array.NewDictionaryArray(arrowType(consilium.TypeLevels), codes.NewArray(), words.NewArray()), nil
}

// parseNumber accepts decimal numbers only: no infinity, NaN, hexadecimal or
// digit separators, which ParseFloat would take.
func parseNumber(s string) (v float64, rule, next string) {
	for _, c := range []byte(s) {
		if !(c >= '0' && c <= '9' || c == '+' || c == '-' || c == '.' || c == 'e' || c == 'E') {
			next = "correct it, or add it to the column's missing values"
			if strings.Count(s, ",") == 1 {
				next = "write numbers with a decimal point"
			}
			return 0, "not a number", next
		}
	}
	v, err := strconv.ParseFloat(s, 64)
	if math.IsInf(v, 0) {
		return 0, "a number too large for float64", "correct it, or add it to the column's missing values"
	}
	if err != nil {
		return 0, "not a number", "correct it, or add it to the column's missing values"
	}
	if v == 0 {
		v = 0 // -0 and 0 are one value
	}
	return v, "", ""
}

// parseInteger accepts 12 and 12.0, which some tools write once a column has a
// missing value.
func parseInteger(s string) (v int64, rule, next string) {
	if head, tail, ok := strings.Cut(s, "."); ok && strings.Trim(tail, "0") == "" && tail != "" {
		s = head
	}
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil || v > 1<<53 || v < -(1<<53) {
		if _, rule, next := parseNumber(s); rule != "" {
			return 0, "not a whole number", next
		}
		return 0, "not a whole number below 2^53", "declare the column as a number, or correct it"
	}
	return v, "", ""
}

func checkBounds(c *consilium.Column, v float64) (rule, next string) {
	if c.Bounds == nil || v >= c.Bounds[0] && v <= c.Bounds[1] {
		return "", ""
	}
	unit := ""
	if c.Unit != "" {
		unit = " " + c.Unit
	}
	return fmt.Sprintf("outside the bounds [%v, %v]%s", c.Bounds[0], c.Bounds[1], unit),
		"correct the value or its unit, or ask the team to widen the bounds"
}
