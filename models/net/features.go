package net

import (
	"fmt"
	"math"
	"slices"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"consilium"
	"consilium/models"
)

// input is one value of the network's input vector: a numeric column, or one
// level of a column of levels (1 if the row has it; the first level, the
// reference, is all zeros).
type input struct {
	name   string // "age", "treat:rIFN-g", "age:missing"
	field  field
	level  int  // of a column of levels, from 1; 0 for a numeric column
	absent bool // 1 where the column has no value
}

// binary inputs are flags and levels: 0 or 1.
func (in input) binary() bool {
	return in.level > 0 || in.absent || in.field.kind == consilium.TypeFlag
}

// scale is what one standardisation is for: an input of its own, or all inputs
// of one channel of a series or image.
type scale struct {
	name   string
	binary bool
}

// newScales says how inputs are standardised: input j belongs to scale
// j % len(scales).
func newScales(inputs []input, in shape) []scale {
	out := make([]scale, len(inputs))
	for j, v := range inputs {
		out[j] = scale{v.name, v.binary()}
	}
	if in.rank == 1 {
		return out
	}
	for j, v := range inputs[in.channels:] {
		c := &out[j%in.channels]
		c.binary = c.binary && v.binary()
	}
	out = out[:in.channels]
	for c := range out {
		out[c].name = fmt.Sprintf("channel %d (%s, …)", c+1, inputs[c].name)
	}
	return out
}

// field is how a column of the study is read.
type field struct {
	name   string
	kind   consilium.ColumnType // TypeNumber for a derived column
	levels []string
}

// findField looks a column or derived column up.
func findField(s *consilium.Spec, role, name string) (field, error) {
	if c, ok := s.Column(name); ok {
		if c.Type == consilium.TypeID {
			return field{}, consilium.ErrInvalid.Withf("%s %s: patient identifiers cannot enter a model", role, name)
		}
		return field{name: name, kind: c.Type, levels: c.Levels}, nil
	}
	for _, d := range s.Derive {
		if d.Name == name {
			return field{name: name, kind: consilium.TypeNumber}, nil
		}
	}
	if name == "site" {
		return field{}, consilium.ErrInvalid.Withf("%s site: a model that reads the hospital does not carry over to others; leave it out", role)
	}
	var words []string
	for _, c := range s.Columns {
		if c.Type != consilium.TypeID {
			words = append(words, c.Name)
		}
	}
	for _, d := range s.Derive {
		words = append(words, d.Name)
	}
	return field{}, consilium.ErrInvalid.Withf("%s %s is not a declared column: %s", role, quote(name), suggest(name, words))
}

// expand turns the features of a study into inputs.
// With indicators every feature has one more, which is 1 where it is missing.
func expand(s *consilium.Spec, features []string, response *consilium.Response, indicators bool) ([]input, error) {
	if len(features) == 0 {
		return nil, consilium.ErrInvalid.Withf("features is empty: list the columns that the model reads")
	}
	var out []input
	seen := map[string]bool{}
	for _, name := range features {
		if seen[name] {
			return nil, consilium.ErrInvalid.Withf("feature %s stands twice", quote(name))
		}
		seen[name] = true
		if r := response; r != nil && (name == r.Column || name == r.Event || name == r.Stop) {
			return nil, consilium.ErrInvalid.Withf("feature %s is the response: the model would read its own answer", name)
		}
		f, err := findField(s, "feature", name)
		if err != nil {
			return nil, err
		}
		if f.kind != consilium.TypeLevels {
			out = append(out, input{name: name, field: f})
		}
		for l := 1; l < len(f.levels); l++ {
			out = append(out, input{name: name + ":" + f.levels[l], field: f, level: l})
		}
		if indicators {
			out = append(out, input{name: name + ":missing", field: f, absent: true})
		}
		if len(out) > maxInputs {
			return nil, consilium.ErrInvalid.Withf("features make more than %d input values", maxInputs)
		}
	}
	return out, nil
}

// reader returns the numeric value of a row, and false where it is missing. A
// column of levels gives the level's index.
type reader func(row int) (float64, bool)

// open binds f to one record. The record's types are the vault's promise; a
// record that breaks it is refused, never guessed at.
func (f field) open(r arrow.Record) (reader, error) {
	at := r.Schema().FieldIndices(f.name)
	if len(at) != 1 {
		return nil, consilium.ErrData.Withf("column %s stands %d times in the table, want once", f.name, len(at))
	}
	col := r.Column(at[0])
	var value func(int) float64
	switch c := col.(type) {
	case *array.Float64:
		if f.kind == consilium.TypeNumber {
			value = c.Value
		}
	case *array.Int64:
		if f.kind == consilium.TypeInteger {
			value = func(i int) float64 { return float64(c.Value(i)) }
		}
	case *array.Boolean:
		if f.kind == consilium.TypeFlag {
			value = func(i int) float64 {
				if c.Value(i) {
					return 1
				}
				return 0
			}
		}
	case *array.Date32:
		if f.kind == consilium.TypeDate {
			value = func(i int) float64 { return float64(c.Value(i)) }
		}
	case *array.Dictionary:
		if f.kind == consilium.TypeLevels {
			words, ok := c.Dictionary().(*array.String)
			if !ok || words.Len() != len(f.levels) {
				return nil, consilium.ErrData.Withf("column %s: its dictionary is not the declared levels", f.name)
			}
			for i, l := range f.levels {
				if words.IsNull(i) || words.Value(i) != l {
					return nil, consilium.ErrData.Withf("column %s: its dictionary is not the declared levels in their order", f.name)
				}
			}
			value = func(i int) float64 { return float64(c.GetValueIndex(i)) }
		}
	}
	if value == nil {
		return nil, consilium.ErrData.Withf("column %s: a table column of type %s where the study declares %s", f.name, col.DataType(), f.kind)
	}
	return func(i int) (float64, bool) {
		if col.IsNull(i) {
			return 0, false
		}
		v := value(i)
		return v, !math.IsNaN(v) // CSV readers also spell missing as NaN
	}, nil
}

// table is one site's permitted rows as numbers. It is the only copy that a
// local step makes.
type table struct {
	inputs   int
	x        []float64 // rows × inputs, NaN where missing
	y        []float64 // response (event, class or value), before standardisation; 0 where the model has none
	start    []float64 // of a partial likelihood; -Inf without entry times
	stop     []float64 // of a partial likelihood
	holdout  []bool
	patient  []int32  // ordinal of each row's patient
	ordinals int      // above every ordinal
	patients [2]int64 // distinct, in training and in holdout
	left     int64    // rows left out because a value is missing
}

func (t *table) rows() int { return len(t.y) }

// count returns the rows of one split.
func (t *table) count(holdout bool) (n int64) {
	for _, h := range t.holdout {
		if h == holdout {
			n++
		}
	}
	return n
}

// rowReader reads one record's rows.
type rowReader struct {
	answer, start, stop reader // nil where the model has none
	inputs              []reader
}

func (a *train) open(r arrow.Record) (*rowReader, error) {
	out := &rowReader{inputs: make([]reader, len(a.inputs))}
	for _, f := range []struct {
		field field
		to    *reader
	}{{a.response, &out.answer}, {a.start, &out.start}, {a.stop, &out.stop}} {
		if f.field.name == "" {
			continue
		}
		var err error
		if *f.to, err = f.field.open(r); err != nil {
			return nil, err
		}
	}
	opened := map[string]reader{}
	for j, in := range a.inputs {
		get, ok := opened[in.field.name]
		if !ok {
			var err error
			if get, err = in.field.open(r); err != nil {
				return nil, err
			}
			opened[in.field.name] = get
		}
		out.inputs[j] = get
	}
	return out, nil
}

// read collects the selected rows of all batches, in order.
func (a *train) read(rows *models.Rows) (*table, error) {
	t := &table{inputs: len(a.inputs)}
	if rows == nil {
		return t, nil
	}
	seen := make([]bool, max(rows.Patients, 0))
	t.ordinals = len(seen)
	for _, b := range rows.Batches {
		n := int(b.Record.NumRows())
		if len(b.Selected) != n || len(b.Patient) != n || len(b.Holdout) != n {
			return nil, consilium.ErrData.Withf("a batch of %d rows comes with %d selections, %d patients and %d holdout values",
				n, len(b.Selected), len(b.Patient), len(b.Holdout))
		}
		get, err := a.open(b.Record)
		if err != nil {
			return nil, err
		}
		chosen := 0
		for _, in := range b.Selected {
			if in {
				chosen++
			}
		}
		t.x, t.y = slices.Grow(t.x, chosen*t.inputs), slices.Grow(t.y, chosen)
		for i := range n {
			if !b.Selected[i] {
				continue
			}
			p := int(b.Patient[i])
			if p < 0 || p >= len(seen) {
				return nil, consilium.ErrData.Withf("row %d: patient ordinal %d of %d", i, p, len(seen))
			}
			if !(b.Holdout[i] >= 0 && b.Holdout[i] < 1) {
				return nil, consilium.ErrData.Withf("row %d: holdout value outside [0, 1)", i)
			}
			whole, err := a.row(t, get, i)
			if err != nil {
				return nil, err
			}
			if !whole {
				t.left++
				continue
			}
			held := b.Holdout[i] < a.holdout
			if !seen[p] {
				seen[p] = true
				t.patients[split(held)]++
			}
			t.holdout = append(t.holdout, held)
			t.patient = append(t.patient, b.Patient[i])
		}
	}
	return t, nil
}

// row appends one row's numbers. It reports false, and appends nothing, where
// a value is missing that the model cannot do without.
func (a *train) row(t *table, get *rowReader, i int) (bool, error) {
	y, start, stop := 0.0, math.Inf(-1), 0.0
	for _, f := range []struct {
		name string
		get  reader
		to   *float64
	}{{a.response.name, get.answer, &y}, {a.start.name, get.start, &start}, {a.stop.name, get.stop, &stop}} {
		if f.get == nil {
			continue
		}
		v, ok := f.get(i)
		if !ok {
			return false, nil
		}
		if !(math.Abs(v) < maxMagnitude) {
			return false, consilium.ErrData.Withf("response %s: a value of 2^30 or more; derive a column in a larger unit", f.name)
		}
		*f.to = v
	}
	switch {
	case a.net.loss != squared && y != 0 && y != 1:
		return false, consilium.ErrData.Withf("response %s: a value other than 0 and 1; the loss %s needs a flag, two levels or 0/1", a.response.name, a.net.spec.Loss)
	case a.net.loss == partial && stop < 0:
		return false, consilium.ErrData.Withf("column %s: a time below 0", a.stop.name)
	case a.net.loss == partial && !(start < stop):
		return false, consilium.ErrData.Withf("columns %s and %s: an interval does not end after it starts", a.start.name, a.stop.name)
	}
	at := len(t.x)
	for j, in := range a.inputs {
		v, ok := get.inputs[j](i)
		switch {
		case in.absent:
			v = 1
			if ok {
				v = 0
			}
		case !ok && a.net.spec.Missing == "drop":
			t.x = t.x[:at]
			return false, nil
		case !ok:
			v = math.NaN()
		case in.level > 0:
			if int(v) == in.level {
				v = 1
			} else {
				v = 0
			}
		case !(math.Abs(v) < maxMagnitude):
			return false, consilium.ErrData.Withf("feature %s: a value of 2^30 or more; derive a column in a larger unit", in.name)
		}
		t.x = append(t.x, v)
	}
	t.y = append(t.y, y)
	if a.net.loss == partial {
		t.start, t.stop = append(t.start, start), append(t.stop, stop)
	}
	return true, nil
}

// maxMagnitude bounds a value, so that its square is below 2^60. The sums of
// squares are bounded by the writer of the exact block (2^62).
const maxMagnitude = 1 << 30

func split(holdout bool) int {
	if holdout {
		return 1
	}
	return 0
}
