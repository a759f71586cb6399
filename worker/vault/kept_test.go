package vault

import (
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"consilium"
)

// TestKeptEndsWithItsRows: what was made of some rows is never read for others, be
// it one row more or less, other bytes in a row, or another choice of rows.
func TestKeptEndsWithItsRows(t *testing.T) {
	b := array.NewFloat64Builder(memory.NewGoAllocator())
	b.AppendValues([]float64{1, 2, 3}, nil)
	rec := array.NewRecord(arrow.NewSchema([]arrow.Field{{Name: "x", Type: arrow.PrimitiveTypes.Float64}}, nil), []arrow.Array{b.NewArray()}, 3)
	st := &study{spec: &consilium.Spec{Columns: []consilium.Column{{Name: "x", Type: consilium.TypeNumber}}}, record: rec}
	use := func(rowSet byte, selected ...bool) *kept {
		t.Helper()
		if err := st.keep(&usable{rowSet: consilium.Digest{rowSet}, selected: selected}); err != nil {
			t.Fatal(err)
		}
		return st.kept
	}
	first := use(1, true, true, false)
	if again := use(1, true, true, false); again != first {
		t.Error("the same rows were not kept")
	}
	fewer := use(2, true, false, false)
	if fewer == first || fewer.made == first.made || fewer.selected[1] {
		t.Error("kept for fewer rows")
	}
	other := use(3, true, false, false)
	if other.made == fewer.made {
		t.Error("kept for rows of another content")
	}
	if moved := use(3, false, true, false); moved.made == other.made || !moved.selected[1] {
		t.Error("kept for other rows")
	}
	if err := st.keep(&usable{rowSet: consilium.Digest{4}, selected: []bool{true}}); err == nil || st.kept != nil {
		t.Errorf("a choice of another table: %v, kept %v", err, st.kept)
	}
}
