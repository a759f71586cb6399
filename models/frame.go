package models

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"consilium"
)

// frame is what one analysis reads of a hospital's rows: the columns it uses,
// decoded once, without the rows that lack a value in one of them.
type frame struct {
	n        int
	patient  []int32 // of each row
	patients int     // distinct, with at least one row
	ordinals int     // Rows.Patients: bound of patient
	missing  int64   // rows left out for a missing value
	num      map[string][]float64
	code     map[string][]int32 // of factors: index into levels
}

// maxFactor bounds the levels of a bounded integer column that is used as a
// factor: more is a table that nobody reads and a vector that nobody wants.
const maxFactor = 64

// factorLevels lists the public levels of a column that can group rows.
func factorLevels(spec *consilium.Spec, name string) ([]string, bool) {
	c, ok := spec.Column(name)
	if !ok {
		return nil, false
	}
	switch c.Type {
	case consilium.TypeLevels:
		return c.Levels, true
	case consilium.TypeFlag:
		return []string{"0", "1"}, true
	case consilium.TypeInteger:
		if c.Bounds == nil || c.Bounds[1]-c.Bounds[0] >= maxFactor {
			return nil, false
		}
		var out []string
		for v := math.Ceil(c.Bounds[0]); v <= c.Bounds[1]; v++ {
			out = append(out, strconv.FormatFloat(v, 'f', -1, 64))
		}
		return out, len(out) > 1
	}
	return nil, false
}

// isNumeric reports whether a column has values that can be added.
func isNumeric(spec *consilium.Spec, name string) bool {
	if c, ok := spec.Column(name); ok {
		return c.Type == consilium.TypeNumber || c.Type == consilium.TypeInteger || c.Type == consilium.TypeFlag || c.Type == consilium.TypeDate
	}
	for _, d := range spec.Derive {
		if d.Name == name {
			return true
		}
	}
	return false
}

// want says how an analysis reads its columns.
type want struct {
	numeric []string
	factors []string
	keep    bool // keep rows with missing values, as NaN and code -1
}

// readFrame decodes the selected rows. Errors name columns, never values.
func readFrame(spec *consilium.Spec, rows *Rows, w want) (*frame, error) {
	f := &frame{num: map[string][]float64{}, code: map[string][]int32{}, ordinals: rows.Patients}
	total := 0
	for i := range rows.Batches {
		b := &rows.Batches[i]
		n := int(b.Record.NumRows())
		if len(b.Selected) != n || len(b.Patient) != n {
			return nil, consilium.ErrData.Withf("batch %d: %d rows with %d selections and %d patients", i, n, len(b.Selected), len(b.Patient))
		}
		total += n
	}
	for _, name := range w.numeric {
		f.num[name] = nil
	}
	for _, name := range w.factors {
		f.code[name] = make([]int32, 0, total)
	}
	seen := make([]bool, rows.Patients)
	for i := range rows.Batches {
		if err := f.batch(spec, &rows.Batches[i], w, seen); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func (f *frame) batch(spec *consilium.Spec, b *Batch, w want, seen []bool) error {
	n := int(b.Record.NumRows())
	find := func(name string) (arrow.Array, error) {
		at := b.Record.Schema().FieldIndices(name)
		if len(at) != 1 {
			return nil, consilium.ErrData.Withf("column %s stands %d times in the table, want once", name, len(at))
		}
		return b.Record.Column(at[0]), nil
	}
	missing := make([]bool, n)
	nums, gaps := make([][]float64, len(w.numeric)), make([][]int32, len(w.numeric))
	faults := make([]error, len(w.numeric))
	inColumns(len(w.numeric), func(i int) {
		a, err := find(w.numeric[i])
		if err == nil {
			nums[i], err = numbers(w.numeric[i], a)
		}
		if err != nil {
			faults[i] = err
			return
		}
		for r, v := range nums[i] {
			if v-v == 0 {
				continue
			}
			if math.IsInf(v, 0) && b.Selected[r] {
				faults[i] = consilium.ErrData.Withf("column %s: an infinite value", w.numeric[i])
				return
			}
			gaps[i] = append(gaps[i], int32(r))
		}
	})
	for i := range w.numeric {
		if faults[i] != nil {
			return faults[i]
		}
		for _, r := range gaps[i] {
			missing[r] = true
		}
	}
	codes := make([][]int32, len(w.factors))
	for i, name := range w.factors {
		a, err := find(name)
		if err != nil {
			return err
		}
		get, err := codeReader(spec, name, a)
		if err != nil {
			return err
		}
		codes[i] = make([]int32, n)
		for r := range codes[i] {
			if !b.Selected[r] {
				continue
			}
			if codes[i][r], err = get(r); err != nil {
				return err
			}
			missing[r] = missing[r] || codes[i][r] < 0
		}
	}
	kept := make([]int32, 0, n)
	f.patient = slices.Grow(f.patient, n)
	for r := 0; r < n; r++ {
		if !b.Selected[r] {
			continue
		}
		p := b.Patient[r]
		if p < 0 || int(p) >= len(seen) {
			return consilium.ErrData.Withf("a row's patient ordinal is outside 0 to %d", len(seen)-1)
		}
		if missing[r] && !w.keep {
			f.missing++
			continue
		}
		kept = append(kept, int32(r))
		f.patient = append(f.patient, p)
		if !seen[p] {
			seen[p] = true
			f.patients++
		}
	}
	f.n += len(kept)
	for i, name := range w.numeric {
		if to := f.num[name]; len(to) == 0 && len(kept) == n {
			f.num[name] = nums[i]
			continue
		} else {
			for _, r := range kept {
				to = append(to, nums[i][r])
			}
			f.num[name] = to
		}
	}
	for i, name := range w.factors {
		to := f.code[name]
		for _, r := range kept {
			to = append(to, codes[i][r])
		}
		f.code[name] = to
	}
	return nil
}

// numbers decodes an Arrow column as float64; NaN means missing. Where it can it
// is the table's own memory: nobody writes to it.
func numbers(name string, a arrow.Array) ([]float64, error) {
	if d, ok := a.(*array.Float64); ok && d.NullN() == 0 {
		return slices.Clip(d.Float64Values()), nil
	}
	get, err := numberReader(name, a)
	if err != nil {
		return nil, err
	}
	out := make([]float64, a.Len())
	for i := range out {
		out[i] = get(i)
	}
	return out, nil
}

// numberReader reads an Arrow column as float64; NaN means missing.
func numberReader(name string, a arrow.Array) (func(int) float64, error) {
	null := func(get func(int) float64) func(int) float64 {
		return func(i int) float64 {
			if a.IsNull(i) {
				return math.NaN()
			}
			return get(i)
		}
	}
	switch a := a.(type) {
	case *array.Float64:
		return null(a.Value), nil
	case *array.Int64:
		return null(func(i int) float64 { return float64(a.Value(i)) }), nil
	case *array.Boolean:
		return null(func(i int) float64 {
			if a.Value(i) {
				return 1
			}
			return 0
		}), nil
	case *array.Date32:
		return null(func(i int) float64 { return float64(a.Value(i)) }), nil
	}
	return nil, consilium.ErrData.Withf("column %s has Arrow type %s, want float64, int64, bool or date32", name, a.DataType())
}

// codeReader reads a column as the index of its public level, -1 for missing.
func codeReader(spec *consilium.Spec, name string, a arrow.Array) (func(int) (int32, error), error) {
	levels, ok := factorLevels(spec, name)
	if !ok {
		return nil, consilium.ErrData.Withf("column %s has no levels", name)
	}
	outside := consilium.ErrData.Withf("column %s: a value that the study does not declare", name)
	if d, ok := a.(*array.Dictionary); ok {
		text, ok := d.Dictionary().(*array.String)
		if !ok {
			return nil, consilium.ErrData.Withf("column %s: a dictionary of %s, want strings", name, d.Dictionary().DataType())
		}
		index := map[string]int32{}
		for i, l := range levels {
			index[l] = int32(i)
		}
		table := make([]int32, text.Len())
		for i := range table {
			table[i] = -2
			if v, ok := index[text.Value(i)]; ok && text.IsValid(i) {
				table[i] = v
			}
		}
		return func(i int) (int32, error) {
			if d.IsNull(i) {
				return -1, nil
			}
			k := d.GetValueIndex(i)
			if k < 0 || k >= len(table) || table[k] < 0 {
				return 0, outside
			}
			return table[k], nil
		}, nil
	}
	first, err := strconv.ParseFloat(levels[0], 64)
	if err != nil {
		return nil, consilium.ErrData.Withf("column %s has Arrow type %s, want a dictionary of its levels", name, a.DataType())
	}
	get, err := numberReader(name, a)
	if err != nil {
		return nil, err
	}
	return func(i int) (int32, error) {
		v := get(i)
		if v != v {
			return -1, nil
		}
		k := v - first
		if k < 0 || k >= float64(len(levels)) || k != math.Trunc(k) {
			return 0, outside
		}
		return int32(k), nil
	}, nil
}

// unique keeps the first of equal names.
func unique(names ...string) []string {
	var out []string
	seen := map[string]bool{}
	for _, n := range names {
		if n != "" && !seen[n] {
			seen[n] = true
			out = append(out, n)
		}
	}
	return out
}

// keep leaves out the rows for which in is false.
func (f *frame) keep(in func(row int) bool) {
	keep := 0
	seen := map[int32]bool{}
	for name, v := range f.num { // the table's own memory stays as it is
		f.num[name] = slices.Clone(v)
	}
	f.patients = 0
	for i := 0; i < f.n; i++ {
		if !in(i) {
			continue
		}
		for _, v := range f.num {
			v[keep] = v[i]
		}
		for _, v := range f.code {
			v[keep] = v[i]
		}
		f.patient[keep] = f.patient[i]
		if !seen[f.patient[i]] {
			seen[f.patient[i]] = true
			f.patients++
		}
		keep++
	}
	f.n = keep
	f.patient = f.patient[:keep]
	for name, v := range f.num {
		f.num[name] = v[:keep]
	}
	for name, v := range f.code {
		f.code[name] = v[:keep]
	}
}

// patientsWith counts distinct patients over the rows for which in is true.
func (f *frame) patientsWith(in func(row int) bool) float64 {
	seen := make([]bool, f.ordinals)
	n := 0
	for i := 0; i < f.n; i++ {
		if in(i) && !seen[f.patient[i]] {
			seen[f.patient[i]] = true
			n++
		}
	}
	return float64(n)
}

// Every analysis sums, in its first round, who is in it. The positions of the
// values in the block "cohort":
const (
	cohortRows      = iota // rows that the analysis uses
	cohortPatients         // distinct patients of those rows
	cohortEvents           // events among those rows
	cohortMissing          // rows left out for a missing value
	cohortConsent          // rows left out by consent or policy
	cohortIntegrity        // rows left out because they fail the ledger
	cohortOutside          // rows outside the study's cohort
	cohortSites            // hospitals with at least one row
	cohortFixed            // patients per level follow
)

func cohortBlock(f *frame, rows *Rows, events float64, levels []float64) []float64 {
	sites := 0.0
	if f.n > 0 {
		sites = 1
	}
	out := []float64{float64(f.n), float64(f.patients), events, float64(f.missing), float64(rows.Excluded.Consent),
		float64(rows.Excluded.Integrity), float64(rows.Excluded.Cohort), sites}
	return append(out, levels...)
}

// checkFinite refuses at its site what cannot be summed: fixed point holds
// magnitudes below 2^62.
func checkFinite(block string, v []float64) error {
	for _, x := range v {
		if !(math.Abs(x) < 0x1p62) {
			return consilium.ErrData.Withf("block %s: a value is not below 2^62; declare bounds or a larger unit for the columns of the model", block)
		}
	}
	return nil
}

func write(w Writer, name string, v []float64) error {
	if err := checkFinite(name, v); err != nil {
		return err
	}
	if err := w.Block(name); err != nil {
		return err
	}
	return w.Write(v)
}

// take fetches a block of the opened sum and checks its length and that every
// value is a number.
func (o Opened) take(name string, n int) ([]float64, error) {
	v, ok := o.Values[name]
	if !ok || len(v) != n {
		return nil, fmt.Errorf("opened sum: block %s has %d values, want %d", name, len(v), n)
	}
	for _, x := range v {
		if x != x || math.IsInf(x, 0) {
			return nil, fmt.Errorf("opened sum: block %s holds a value that is not a number", name)
		}
	}
	return v, nil
}
