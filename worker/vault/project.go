package vault

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"slices"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"consilium"
	"consilium/internal/table"
	"consilium/provenance"
)

func readTable(def Dataset, spec *consilium.Spec, key []byte) (*table.Table, error) {
	f, err := os.Open(def.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, consilium.ErrData.Withf("dataset %s: no file %s; correct the path in the worker's configuration", def.Name, def.Path)
	}
	if err != nil {
		return nil, consilium.ErrData.With(err)
	}
	defer f.Close()
	return table.Read(f, table.Options{Spec: spec, Bind: def.Bind, Key: key, File: def.Path, RowPatients: def.RowPatients})
}

// project gives the columns that a study declares, in its order, out of a
// dataset's record. Numeric buffers are shared, not copied: what was verified
// is what the analysis reads. Levels are recoded where the study lists them in
// another order.
func project(d *dataset, study *consilium.Spec) (arrow.Record, error) {
	rec := d.rows.Record
	if study.Data.Patient != d.def.Patient && !d.def.RowPatients {
		return nil, consilium.ErrData.Withf("the study tells patients apart by %q, dataset %s by %q", study.Data.Patient, d.def.Name, d.def.Patient)
	}
	schema := rec.Schema()
	var fields []arrow.Field
	var columns []arrow.Array
	for _, name := range []string{provenance.PatientColumn, "source"} {
		idx := schema.FieldIndices(name)
		if len(idx) != 1 {
			return nil, consilium.ErrData.Withf("dataset %s has no %s column", d.def.Name, name)
		}
		fields = append(fields, schema.Field(idx[0]))
		columns = append(columns, rec.Column(idx[0]))
	}
	want := table.Schema(study)
	for i := range study.Columns {
		c := &study.Columns[i]
		if c.Name == study.Data.Patient {
			continue
		}
		have, ok := d.spec.Column(c.Name)
		if !ok {
			names := make([]string, len(d.spec.Columns))
			for k := range d.spec.Columns {
				names[k] = d.spec.Columns[k].Name
			}
			return nil, consilium.ErrData.Withf("dataset %s has no column %q, only %q", d.def.Name, c.Name, names)
		}
		if have.Type != c.Type {
			return nil, consilium.ErrData.Withf("column %s is %s in dataset %s and %s in the study", c.Name, have.Type, d.def.Name, c.Type)
		}
		if err := sameUnit(study, c, have, d.def.Name); err != nil {
			return nil, err
		}
		col := rec.Column(schema.FieldIndices(c.Name)[0])
		if c.Type == consilium.TypeLevels && !slices.Equal(have.Levels, c.Levels) {
			var err error
			if col, err = recode(col, c); err != nil {
				return nil, err
			}
		}
		if err := checkBounds(col, c); err != nil {
			return nil, err
		}
		field, ok := want.FieldsByName(c.Name)
		if !ok || len(field) != 1 {
			return nil, consilium.ErrData.Withf("column %s stands twice", c.Name)
		}
		fields = append(fields, field[0])
		columns = append(columns, col)
	}
	return array.NewRecord(arrow.NewSchema(fields, nil), columns, rec.NumRows()), nil
}

// sameUnit holds the study's unit against the hospital's own dictionary. What the
// study states, the dictionary must state too. For times no unit means days on
// both sides: the widths of public cells of time are judged by the study's word.
func sameUnit(study *consilium.Spec, c, have *consilium.Column, dataset string) error {
	a, b := c.Unit, have.Unit
	if isTime(study, c.Name) {
		a, b = cmp.Or(a, "d"), cmp.Or(b, "d")
	}
	if a == b || a == "" {
		return nil
	}
	return consilium.ErrData.Withf("column %s is in %s in the study and in %s in dataset %s; state the unit of the table in both", c.Name, a, cmp.Or(b, "no unit"), dataset)
}

// isTime reports whether an analysis of the study uses a column as a time.
func isTime(study *consilium.Spec, name string) bool {
	for i := range study.Analyses {
		if r := study.Analyses[i].Response; r != nil && (r.Start == name || r.Stop == name) {
			return true
		}
	}
	return false
}

// recode maps a dictionary column to the study's list of levels. A value that
// the study does not list is an error: silently dropping it would change the
// cohort.
func recode(col arrow.Array, c *consilium.Column) (arrow.Array, error) {
	d, ok := col.(*array.Dictionary)
	if !ok {
		return nil, consilium.ErrData.Withf("column %s holds no levels", c.Name)
	}
	values, ok := d.Dictionary().(*array.String)
	if !ok {
		return nil, consilium.ErrData.Withf("column %s holds no text levels", c.Name)
	}
	to := make([]int, values.Len())
	for i := range to {
		to[i] = slices.Index(c.Levels, values.Value(i))
	}
	index := array.NewInt32Builder(memory.DefaultAllocator)
	for i := range d.Len() {
		if d.IsNull(i) {
			index.AppendNull()
			continue
		}
		k := to[d.GetValueIndex(i)]
		if k < 0 {
			return nil, consilium.ErrData.Withf("column %s: the table has a level that the study does not list; the study lists %q", c.Name, c.Levels)
		}
		index.Append(int32(k))
	}
	levels := array.NewStringBuilder(memory.DefaultAllocator)
	levels.AppendValues(c.Levels, nil)
	return array.NewDictionaryArray(&arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: arrow.BinaryTypes.String},
		index.NewArray(), levels.NewArray()), nil
}

// checkBounds holds the study's bounds against every present value. The error
// names the column and the row's number, never the value.
func checkBounds(col arrow.Array, c *consilium.Column) error {
	if c.Bounds == nil {
		return nil
	}
	at := func(i int) (float64, bool) { return 0, false }
	switch a := col.(type) {
	case *array.Float64:
		at = func(i int) (float64, bool) { return a.Value(i), !a.IsNull(i) }
	case *array.Int64:
		at = func(i int) (float64, bool) { return float64(a.Value(i)), !a.IsNull(i) }
	}
	for i := range col.Len() {
		if x, ok := at(i); ok && !(x >= c.Bounds[0] && x <= c.Bounds[1]) {
			return consilium.ErrData.Withf("column %s: row %d is outside the study's bounds %v to %v; correct the row or the bounds", c.Name, i+1, c.Bounds[0], c.Bounds[1])
		}
	}
	return nil
}
