package models

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"consilium"
)

// A plain federation: every hospital's vector is written as 128-bit fixed
// point, the integers are added, and the sum is rounded once, as the encrypted
// path does, but in the open.

// table is a small table of text cells; "" and NA are missing.
type table struct {
	names []string
	rows  [][]string
}

func (t *table) index(name string) int {
	for i, n := range t.names {
		if n == name {
			return i
		}
	}
	return -1
}

func readTable(t testing.TB, path string) *table {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return &table{names: all[0], rows: all[1:]}
}

// cgd reads a file of the trial that ships with the project.
func cgd(t testing.TB, name string) *table {
	t.Helper()
	for _, dir := range []string{"../examples/cgd", "../../shared/data/cgd"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return readTable(t, filepath.Join(dir, name))
		}
	}
	t.Skip("skipped: needs ../examples/cgd/" + name)
	return nil
}

// truth reads a reference result of R on the pooled trial.
func truth(t testing.TB, out any, path ...string) {
	t.Helper()
	b, err := os.ReadFile("testdata/truth.json")
	if err != nil {
		t.Fatal(err)
	}
	raw := json.RawMessage(b)
	for _, p := range path {
		var m map[string]json.RawMessage
		if err := json.Unmarshal(raw, &m); err != nil {
			t.Fatal(err)
		}
		raw = m[p]
		if raw == nil {
			t.Fatalf("truth.json has no %v", path)
		}
	}
	if err := json.Unmarshal(raw, out); err != nil {
		t.Fatalf("%v: %v", path, err)
	}
}

// record builds the Arrow record of some rows, with slack rows around them so
// that offsets matter.
func record(t testing.TB, spec *consilium.Spec, tab *table, rows [][]string) arrow.Record {
	t.Helper()
	pool := memory.NewGoAllocator()
	var fields []arrow.Field
	var cols []arrow.Array
	padded := append(append([][]string{nil, nil}, rows...), nil)
	for _, c := range spec.Columns {
		at := tab.index(c.Name)
		if at < 0 || c.Type == consilium.TypeID {
			continue
		}
		cell := func(r []string) (string, bool) {
			if r == nil || r[at] == "" || r[at] == "NA" {
				return "", false
			}
			return r[at], true
		}
		num := func(s string) float64 {
			v, err := strconv.ParseFloat(s, 64)
			if err != nil {
				t.Fatalf("column %s: %v", c.Name, err)
			}
			return v
		}
		var arr arrow.Array
		switch c.Type {
		case consilium.TypeNumber:
			b := array.NewFloat64Builder(pool)
			for _, r := range padded {
				if s, ok := cell(r); ok {
					b.Append(num(s))
				} else {
					b.AppendNull()
				}
			}
			arr = b.NewArray()
		case consilium.TypeInteger:
			b := array.NewInt64Builder(pool)
			for _, r := range padded {
				if s, ok := cell(r); ok {
					b.Append(int64(num(s)))
				} else {
					b.AppendNull()
				}
			}
			arr = b.NewArray()
		case consilium.TypeFlag:
			b := array.NewBooleanBuilder(pool)
			for _, r := range padded {
				if s, ok := cell(r); ok {
					b.Append(num(s) == 1)
				} else {
					b.AppendNull()
				}
			}
			arr = b.NewArray()
		case consilium.TypeDate:
			b := array.NewDate32Builder(pool)
			for _, r := range padded {
				if s, ok := cell(r); ok {
					d, err := time.Parse("2006-01-02", s)
					if err != nil {
						t.Fatal(err)
					}
					b.Append(arrow.Date32FromTime(d))
				} else {
					b.AppendNull()
				}
			}
			arr = b.NewArray()
		case consilium.TypeLevels:
			dict := array.NewStringBuilder(pool)
			index := map[string]int32{}
			for i, l := range c.Levels {
				dict.Append(l)
				index[l] = int32(i)
			}
			idx := array.NewInt32Builder(pool)
			for _, r := range padded {
				s, ok := cell(r)
				if !ok {
					idx.AppendNull()
					continue
				}
				k, known := index[s]
				if !known {
					t.Fatalf("column %s: level %q", c.Name, s)
				}
				idx.Append(k)
			}
			typ := &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: arrow.BinaryTypes.String}
			arr = array.NewDictionaryArray(typ, idx.NewArray(), dict.NewArray())
		}
		fields = append(fields, arrow.Field{Name: c.Name, Type: arr.DataType(), Nullable: true})
		cols = append(cols, arr)
	}
	rec := array.NewRecord(arrow.NewSchema(fields, nil), cols, int64(len(padded)))
	return rec.NewSlice(2, int64(2+len(rows)))
}

// hospital is one site's rows.
type hospital struct {
	name string
	rows *Rows
}

// split makes one hospital per value of a column, in order of appearance, each
// with its rows in two batches.
func split(t testing.TB, spec *consilium.Spec, tab *table, site, patient string) []hospital {
	t.Helper()
	var names []string
	by := map[string][][]string{}
	for _, r := range tab.rows {
		s := r[tab.index(site)]
		if by[s] == nil {
			names = append(names, s)
		}
		by[s] = append(by[s], r)
	}
	var out []hospital
	for i, s := range names {
		rows := by[s]
		h := hospital{name: s, rows: &Rows{Site: consilium.Position(i + 1)}}
		ordinal := map[string]int32{}
		half := len(rows) / 2
		for _, part := range [][][]string{rows[:half], rows[half:]} {
			b := Batch{Record: record(t, spec, tab, part)}
			for _, r := range part {
				id := r[tab.index(patient)]
				if _, ok := ordinal[id]; !ok {
					ordinal[id] = int32(len(ordinal))
				}
				b.Patient = append(b.Patient, ordinal[id])
				b.Selected = append(b.Selected, true)
				b.Holdout = append(b.Holdout, 0.5)
			}
			h.rows.Batches = append(h.rows.Batches, b)
		}
		h.rows.Patients = len(ordinal)
		out = append(out, h)
	}
	return out
}

// vector is a Writer that keeps the blocks and checks their order and lengths.
type vector struct {
	layout consilium.Layout
	at     int
	values map[string][]float64
}

func (v *vector) Block(name string) error {
	if v.at > 0 {
		if err := v.full(); err != nil {
			return err
		}
	}
	if v.at >= len(v.layout.Blocks) || v.layout.Blocks[v.at].Name != name {
		return fmt.Errorf("block %s is not the layout's next", name)
	}
	v.at++
	return nil
}

func (v *vector) full() error {
	b := v.layout.Blocks[v.at-1]
	if n := len(v.values[b.Name]); n != b.Length {
		return fmt.Errorf("block %s has %d values, the layout says %d", b.Name, n, b.Length)
	}
	return nil
}

func (v *vector) Write(x []float64) error {
	name := v.layout.Blocks[v.at-1].Name
	v.values[name] = append(v.values[name], x...)
	return nil
}

func (v *vector) Write32([]float32) error { return fmt.Errorf("exact blocks are float64") }

// fixed is x as an integer with 64 fractional bits, rounded to nearest.
func fixed(x float64) (*big.Int, error) {
	if !(math.Abs(x) < 0x1p62) {
		return nil, fmt.Errorf("%v does not fit", x)
	}
	f := new(big.Float).SetPrec(200).SetFloat64(x)
	f.SetMantExp(f, 64)
	if f.Signbit() {
		f.Sub(f, big.NewFloat(0.5))
	} else {
		f.Add(f, big.NewFloat(0.5))
	}
	i, _ := f.Int(nil)
	return i, nil
}

func unfixed(i *big.Int) float64 {
	f := new(big.Float).SetPrec(200).SetInt(i)
	f.SetMantExp(f, -64)
	v, _ := f.Float64()
	return v
}

// federation runs a study over hospitals in the open.
type federation struct {
	facts  consilium.Facts
	sites  []hospital
	opened []map[string][]float64 // what every hospital saw, round by round
	states [][]byte
}

func newFederation(t testing.TB, spec *consilium.Spec, sites []hospital) *federation {
	f := &federation{facts: consilium.Facts{Spec: spec, MinCohort: spec.Privacy.MinCohort, Permits: spec.Privacy.Permits}, sites: sites}
	for i := range sites {
		f.facts.Sites = append(f.facts.Sites, consilium.SiteID(fmt.Sprintf("site-%d", i+1)))
	}
	return f
}

func (f *federation) run() (*Result, error) {
	a, err := New(f.facts, nil)
	if err != nil {
		return nil, err
	}
	s, err := a.Start(f.facts)
	if err != nil {
		return nil, err
	}
	for _, h := range f.sites {
		h.rows.Kept = new(Kept) // as a vault does for as long as the rows are the same
	}
	for round := uint32(1); !s.Done; round++ {
		if round > 200 {
			return nil, fmt.Errorf("no end after 200 rounds")
		}
		// The state travels: what is decoded must say the same.
		enc := s.Append(nil)
		f.states = append(f.states, enc)
		if s, err = ParseState(enc); err != nil {
			return nil, err
		}
		layout, err := a.Layout(s)
		if err != nil {
			return nil, err
		}
		sums := map[string][]*big.Int{}
		for _, b := range layout.Blocks {
			sums[b.Name] = make([]*big.Int, b.Length)
			for i := range sums[b.Name] {
				sums[b.Name][i] = new(big.Int)
			}
		}
		o := Opened{Round: round, Values: map[string][]float64{}}
		for _, h := range f.sites {
			v := &vector{layout: layout, values: map[string][]float64{}}
			if _, err := a.Local(context.Background(), s, nil, h.rows, v); err != nil {
				return nil, fmt.Errorf("%s: %w", h.name, err)
			}
			if v.at != len(layout.Blocks) {
				return nil, fmt.Errorf("%d blocks written, want %d", v.at, len(layout.Blocks))
			}
			if err := v.full(); err != nil {
				return nil, err
			}
			for name, xs := range v.values {
				for i, x := range xs {
					k, err := fixed(x)
					if err != nil {
						return nil, err
					}
					sums[name][i].Add(sums[name][i], k)
				}
			}
			o.Contributors = append(o.Contributors, h.rows.Site)
		}
		for name, is := range sums {
			for _, i := range is {
				o.Values[name] = append(o.Values[name], unfixed(i))
			}
		}
		f.opened = append(f.opened, o.Values)
		if s, err = a.Update(s, o); err != nil {
			return nil, err
		}
	}
	f.states = append(f.states, s.Append(nil))
	return a.Result(s)
}

// decode reads a result's JSON into a map.
func decode(t testing.TB, r *Result) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(r.JSON, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// must runs a federation that has an answer.
func must(t testing.TB, f *federation) map[string]any {
	t.Helper()
	r, err := f.run()
	if err != nil {
		t.Fatal(err)
	}
	if r.Problem != nil {
		t.Fatal(r.Problem)
	}
	return decode(t, r)
}

// near fails unless got is want to a relative 1e-9, R's own tolerance.
func near(t testing.TB, what string, got, want float64) {
	t.Helper()
	if got == want {
		return
	}
	if e := math.Abs(got-want) / math.Max(math.Abs(want), 1e-300); !(e <= 1e-9) {
		t.Errorf("%s: got %.17g, R has %.17g (relative difference %.2g)", what, got, want, e)
	} else if e > worst[what0(what)] {
		worst[what0(what)] = e
	}
}

// worst collects the largest relative difference by kind of value.
var worst = map[string]float64{}

func what0(s string) string {
	for i, c := range s {
		if c == ' ' {
			return s[:i]
		}
	}
	return s
}
