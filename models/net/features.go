package net

import (
	"math"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"consilium"
	"consilium/models"
)

// input is one value of the network's input vector: a numeric column, or one
// level of a column of levels (1 if the row has it; the first level, the
// reference, is all zeros).
type input struct {
	name  string // "age", "treat:rIFN-g"
	field field
	level int // of a column of levels, from 1; 0 for a numeric column
}

// binary inputs are flags and levels: 0 or 1.
func (in input) binary() bool { return in.level > 0 || in.field.kind == consilium.TypeFlag }

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
func expand(s *consilium.Spec, features []string, response string) ([]input, error) {
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
		if name == response {
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
	y        []float64 // response, before standardisation
	holdout  []bool
	patient  []int32  // ordinal of each row's patient
	ordinals int      // above every ordinal
	patients [2]int64 // distinct, in training and in holdout
	noAnswer int64    // rows left out because their response is missing
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
		answer, err := a.response.open(b.Record)
		if err != nil {
			return nil, err
		}
		readers := make([]reader, len(a.inputs))
		for j, in := range a.inputs {
			if readers[j], err = in.field.open(b.Record); err != nil {
				return nil, err
			}
		}
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
			y, ok := answer(i)
			if !ok {
				t.noAnswer++
				continue
			}
			if a.net.loss == logistic && y != 0 && y != 1 {
				return nil, consilium.ErrData.Withf("response %s: a value other than 0 and 1; a logistic loss needs a flag, two levels or 0/1", a.response.name)
			}
			if math.Abs(y) >= maxMagnitude {
				return nil, consilium.ErrData.Withf("response %s: a value of 2^30 or more; derive a column in a larger unit", a.response.name)
			}
			held := b.Holdout[i] < a.holdout
			if !seen[p] {
				seen[p] = true
				t.patients[split(held)]++
			}
			t.y = append(t.y, y)
			t.holdout = append(t.holdout, held)
			t.patient = append(t.patient, b.Patient[i])
			for j, in := range a.inputs {
				v, ok := readers[j](i)
				switch {
				case !ok:
					v = math.NaN()
				case in.level > 0:
					if int(v) == in.level {
						v = 1
					} else {
						v = 0
					}
				case !(math.Abs(v) < maxMagnitude):
					return nil, consilium.ErrData.Withf("feature %s: a value of 2^30 or more; derive a column in a larger unit", in.name)
				}
				t.x = append(t.x, v)
			}
		}
	}
	return t, nil
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
