package vault

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"consilium"
	"consilium/models"
)

// TestUnits: the width of a public cell of time is judged by the unit that the
// study states, so that a study whose unit is not the table's is refused before
// a row is read. The naive twin, which takes an unstated unit for any, lets a
// quarter of a day through as a quarter of a year.
func TestUnits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t.csv")
	if err := os.WriteFile(path, []byte("id,tstop,status,age\n1,7,1,44\n2,9,0,12\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	columns := func(time, age string) []consilium.Column {
		return []consilium.Column{{Name: "id", Type: consilium.TypeID}, {Name: "tstop", Type: consilium.TypeNumber, Unit: time},
			{Name: "status", Type: consilium.TypeFlag}, {Name: "age", Type: consilium.TypeNumber, Unit: age}}
	}
	study := func(time, age string, step float64) *consilium.Spec {
		return &consilium.Spec{Data: consilium.DataRef{Dataset: "t", Patient: "id"}, Columns: columns(time, age), Privacy: consilium.Privacy{MinCohort: 11},
			Analyses: []consilium.AnalysisSpec{{Name: "km", Type: consilium.AnalysisKaplanMeier, Response: &consilium.Response{Stop: "tstop", Event: "status"},
				Grid: &consilium.Grid{Step: step, Max: 8 * step}}}}
	}
	for _, c := range []struct {
		table, study string  // unit of the time
		step         float64 // of the grid
		accepted     bool
	}{
		{"d", "d", 30, true}, {"", "", 30, true}, {"", "d", 30, true}, {"d", "", 30, true}, {"a", "a", 0.25, true},
		{"", "a", 0.25, false}, {"d", "a", 0.25, false}, {"min", "", 30, false}, {"h", "d", 30, false}, {"a", "", 30, false},
	} {
		def := Dataset{Name: "t", Path: path, Patient: "id", Columns: columns(c.table, "")}
		d := &dataset{def: def, spec: def.dictionary()}
		var err error
		if d.rows, err = readTable(def, d.spec, make([]byte, 32)); err != nil {
			t.Fatal(err)
		}
		s := study(c.study, "", c.step)
		if err := models.Check(s, nil); err != nil {
			t.Fatalf("the study alone looks wide enough: %v", err)
		}
		_, err = project(d, s)
		if c.accepted && err != nil || !c.accepted && (!errors.Is(err, consilium.ErrData) || !strings.Contains(err.Error(), "tstop")) {
			t.Errorf("table in %q, study in %q: %v", c.table, c.study, err)
		}
		if twin := c.table == "" || c.study == "" || c.table == c.study; c.table == "" && c.study == "a" || c.table == "min" {
			if !twin {
				t.Errorf("the naive twin refuses table in %q, study in %q", c.table, c.study)
			}
		}
	}
	// Columns that are no times: what the study states, the table must state.
	for _, c := range []struct {
		table, study string
		accepted     bool
	}{{"a", "a", true}, {"a", "", true}, {"", "", true}, {"", "a", false}, {"mo", "a", false}} {
		def := Dataset{Name: "t", Path: path, Patient: "id", Columns: columns("d", c.table)}
		d := &dataset{def: def, spec: def.dictionary()}
		var err error
		if d.rows, err = readTable(def, d.spec, make([]byte, 32)); err != nil {
			t.Fatal(err)
		}
		if _, err := project(d, study("d", c.study, 30)); (err == nil) != c.accepted {
			t.Errorf("age: table in %q, study in %q: %v", c.table, c.study, err)
		}
	}
}
