package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"consilium"
)

func fromRecord(r Record) Subject {
	return Subject{Status: r.Status, Explicit: r.Explicit, Evidence: r.Evidence, Categories: r.Categories, Purposes: r.Purposes, Area: r.Area,
		ValidFrom: r.ValidFrom, ValidTo: r.ValidTo, WithdrawnAt: r.WithdrawnAt, Objected: r.Objected, GivenBy: r.GivenBy, IsAdultNow: r.IsAdultNow,
		Deceased: r.Deceased, MNObjected: r.MNObjected, Part2: r.Part2, Psychotherapy: r.Psychotherapy, CitizenOrLPR: r.CitizenOrLPR,
		WGBOObjected: r.WGBOObjected, HRAGeneral: r.HRAGeneral, HRAGenetic: r.HRAGenetic, HRAProject: r.HRAProject, HRAInformed: r.HRAInformed, HRADissent: r.HRADissent, Part2Consent: r.Part2Consent, NHSOptOut: r.NHSOptOut, OptedOutAt: r.OptedOutAt}
}

// TestFilterRows compares the filter with plain OPA, asked row by row with
// every patient's own times: no row is in that OPA leaves out, and none is out
// that it lets in.
func TestFilterRows(t *testing.T) {
	e := demoEngine(t)
	rng := rand.New(rand.NewPCG(7, 7))
	for _, site := range []string{"minnesota", "amsterdam", "copenhagen", "zurich", "nih"} {
		in := testInput(t, site, nil)
		var subjects []Subject
		for i := range 40 {
			r := generate(rng, testNow)
			if i%2 == 0 { // half of them nearly fit, so that both answers occur
				spec, _ := testSpec(t, nil)
				s := DefaultSubject([16]byte{}, spec, testNow)
				base, _ := s.record()
				base.ValidFrom, base.ValidTo, base.WithdrawnAt, base.Objected, base.IsAdultNow = r.ValidFrom, r.ValidTo, r.WithdrawnAt, r.Objected, r.IsAdultNow
				if i%4 == 0 {
					base.ValidFrom, base.ValidTo, base.WithdrawnAt = testNow-1000, Never, Never
				}
				r = base
			}
			subjects = append(subjects, fromRecord(r))
		}
		got, err := e.FilterRows(t.Context(), in, SubjectRecord(subjects))
		if err != nil || !got.Decision.Allow {
			t.Fatal(err, Explain(got.Decision))
		}
		counts := map[string]int{}
		allowed := 0
		for i, s := range subjects {
			r, code := s.record()
			if code != "" {
				t.Fatal(code)
			}
			q := in
			q.Record = &r
			d, err := e.Decide(t.Context(), PointRows, q)
			if err != nil {
				t.Fatal(err)
			}
			if got.Allowed[i] && !d.Allow {
				t.Errorf("%s: row %d is in and OPA leaves it out:\n%s%+v", site, i, Explain(d), r)
			} else if got.Allowed[i] != d.Allow {
				t.Errorf("%s: row %d is out and OPA lets it in: %+v", site, i, r)
			}
			if d.Allow {
				allowed++
			}
			for _, c := range codes(d) {
				counts[c]++
			}
		}
		if allowed == 0 || allowed == len(subjects) {
			t.Errorf("%s: %d of %d rows are in: the comparison shows nothing", site, allowed, len(subjects))
		}
		if got.In != 40 || got.Out != 40-allowed || got.Count() != allowed {
			t.Errorf("%s: in %d, out %d, allowed %d", site, got.In, got.Out, allowed)
		}
		for _, c := range got.Reasons {
			if counts[c.Code] != c.Rows {
				t.Errorf("%s: %s counted %d times, want %d", site, c.Code, c.Rows, counts[c.Code])
			}
			delete(counts, c.Code)
		}
		if len(counts) > 0 {
			t.Errorf("%s: not counted: %v", site, counts)
		}
		again, _ := e.FilterRows(t.Context(), in, SubjectRecord(subjects))
		a, _ := got.Digest()
		if b, _ := again.Digest(); a != b {
			t.Errorf("%s: the same question has two digests", site)
		}
	}
}

// TestRowNulls: a null in any control cell, one at a time, leaves the row out.
// The naive twin reads the cell's bytes as Arrow has them and lets rows in.
func TestRowNulls(t *testing.T) {
	e := demoEngine(t)
	in := testInput(t, "utah", nil)
	spec, _ := testSpec(t, nil)
	good := SubjectRecord([]Subject{DefaultSubject([16]byte{1}, spec, testNow)})
	out, err := e.FilterRows(t.Context(), in, good)
	if err != nil || out.Count() != 1 {
		t.Fatal(err, out)
	}
	naive := 0
	for col := range int(good.NumCols()) {
		b := array.NewRecordBuilder(memory.DefaultAllocator, SubjectSchema())
		for j := range int(good.NumCols()) {
			switch f := b.Field(j).(type) {
			case *array.FixedSizeBinaryBuilder:
				f.Append(good.Column(j).(*array.FixedSizeBinary).Value(0))
			case *array.BinaryDictionaryBuilder:
				d := good.Column(j).(*array.Dictionary)
				if err := f.AppendString(d.Dictionary().(*array.String).Value(d.GetValueIndex(0))); err != nil {
					t.Fatal(err)
				}
			case *array.Int64Builder:
				f.Append(good.Column(j).(*array.Int64).Value(0))
			case *array.BooleanBuilder:
				f.Append(good.Column(j).(*array.Boolean).Value(0))
			}
		}
		whole := b.NewRecord()
		data := whole.Column(col).Data()
		holed := array.NewData(data.DataType(), 1, append([]*memory.Buffer{memory.NewBufferBytes([]byte{0})}, data.Buffers()[1:]...), nil, 1, 0)
		cols := slices.Clone(whole.Columns())
		if d, ok := whole.Column(col).(*array.Dictionary); ok {
			cols[col] = array.NewDictionaryArray(d.DataType(), array.MakeFromData(
				array.NewData(d.Indices().DataType(), 1, append([]*memory.Buffer{memory.NewBufferBytes([]byte{0})}, d.Indices().Data().Buffers()[1:]...), nil, 1, 0)), d.Dictionary())
		} else {
			cols[col] = array.MakeFromData(holed)
		}
		rec := array.NewRecord(SubjectSchema(), cols, 1)
		out, err := e.FilterRows(t.Context(), in, rec)
		if err != nil || out.Count() != 0 || len(out.Reasons) != 1 || out.Reasons[0] != (Count{CodeRowNull, 1}) {
			t.Errorf("null in %s: %v %+v", rec.ColumnName(col), err, out.Reasons)
		}
		if unmasked, err := e.FilterRows(t.Context(), in, whole); err == nil && unmasked.Count() == 1 {
			naive++ // what is behind the null would have let the row in
		}
	}
	if naive == 0 {
		t.Error("no null hides a value that lets a row in: the test shows nothing")
	}
}

// TestRowValues: values that no rule knows, another schema and failures.
func TestRowValues(t *testing.T) {
	e := demoEngine(t)
	in := testInput(t, "utah", nil)
	spec, _ := testSpec(t, nil)
	good := DefaultSubject([16]byte{1}, spec, testNow)
	subjects := []Subject{good}
	for _, change := range []func(*Subject){
		func(s *Subject) { s.Status = "maybe" }, func(s *Subject) { s.Status = "" }, func(s *Subject) { s.GivenBy = "aunt" },
		func(s *Subject) { s.Area = "MONDO:1" }, func(s *Subject) { s.Purposes = []string{"GRU"} }, func(s *Subject) { s.Categories = []string{"all"} },
		func(s *Subject) { s.WithdrawnAt = Never + 1 }, func(s *Subject) { s.Area = "MONDO:001830\x00" },
	} {
		s := good
		change(&s)
		subjects = append(subjects, s)
	}
	out, err := e.FilterRows(t.Context(), in, SubjectRecord(subjects))
	if err != nil || out.Count() != 1 || !out.Allowed[0] || len(out.Reasons) != 1 || out.Reasons[0] != (Count{CodeRowValue, len(subjects) - 1}) {
		t.Errorf("%v %+v", err, out)
	}
	ob := array.NewRecordBuilder(memory.DefaultAllocator, arrow.NewSchema([]arrow.Field{{Name: "status", Type: arrow.BinaryTypes.String}}, nil))
	ob.Field(0).(*array.StringBuilder).AppendValues([]string{"active", "active", "active"}, nil)
	other := ob.NewRecord()
	if out, err = e.FilterRows(t.Context(), in, other); err != nil || out.Decision.Allow || out.Count() != 0 || len(out.Allowed) != 3 {
		t.Errorf("another schema: %v %+v", err, out)
	}
	noSite := in
	noSite.Site = nil
	if out, err = e.FilterRows(t.Context(), noSite, SubjectRecord(subjects)); err != nil || out.Decision.Code() != CodeInput || out.Count() != 0 {
		t.Errorf("no site: %v %+v", err, out)
	}
	stale := in
	stale.Now = testNow + 91*86400
	if out, err = e.FilterRows(t.Context(), stale, SubjectRecord(subjects)); err != nil || out.Decision.Code() != CodeLawDataStale || out.Count() != 0 {
		t.Errorf("stale law: %v %+v", err, out)
	}
	slow, err := CompileLimited(DemoBundle(), DefaultTimeout)
	if err != nil {
		t.Fatal(err)
	}
	slow.p.Load().timeout = 1 // a nanosecond
	if out, err = slow.FilterRows(t.Context(), in, SubjectRecord(subjects)); err != nil || out.Decision.Code() != CodeTimeout || out.Count() != 0 {
		t.Errorf("no time: %v %+v", err, out)
	}
	empty, err := e.FilterRows(t.Context(), in, SubjectRecord(nil))
	if err != nil || !empty.Decision.Allow || empty.In != 0 {
		t.Errorf("nobody: %v %+v", err, empty)
	}
}

// TestRowMemory: where a board's rule does not compile, many patients with few
// different consents ask the rules a few times; times near and far from now are
// one.
func TestRowMemory(t *testing.T) {
	e, err := Compile(DemoBundle().With("board/cgd/more.rego", []byte("package consilium.board.cgd\n\nimport rego.v2\n\nrow_include if count(input.record.purposes) > 0\n")))
	if err != nil {
		t.Fatal(err)
	}
	in := testInput(t, "utah", nil)
	spec, _ := testSpec(t, nil)
	var subjects []Subject
	for i := range 500 {
		s := DefaultSubject([16]byte{byte(i), byte(i >> 8)}, spec, testNow)
		s.ValidFrom = testNow - int64(i) - 1
		if i%5 == 0 {
			s.WithdrawnAt = testNow - int64(i)
		}
		subjects = append(subjects, s)
	}
	out, err := e.FilterRows(t.Context(), in, SubjectRecord(subjects))
	if err != nil || out.Count() != 400 || out.Distinct != 3 || // withdrawn before, at (i = 0) and never
		out.Path != PathMemoised || !strings.Contains(out.Why, "board/cgd/more.rego:5: ") {
		t.Errorf("%v: %d allowed, %d distinct, %s: %s", err, out.Count(), out.Distinct, out.Path, out.Why)
	}
}

// TestUsedColumns reads the columns out of every place where a specification
// can name one.
func TestUsedColumns(t *testing.T) {
	var spec consilium.Spec
	names := strings.Fields("a b c d e f g h i j k l m n o p q r unused")
	for _, n := range names {
		spec.Columns = append(spec.Columns, consilium.Column{Name: n})
	}
	spec.Cohort = "a >= 1 && size(b)>0"
	spec.Derive = []consilium.Derived{{Name: "x", Expr: "c/(d)^2"}, {Name: "y", Expr: "unused+1"}}
	spec.Analyses = []consilium.AnalysisSpec{{
		Response: &consilium.Response{Column: "e", Start: "f", Stop: "g", Event: "h"}, Terms: []string{"log(i):j^2", "x"}, Strata: []string{"site", "k"},
		Cluster: "l", Offset: &consilium.Offset{Column: "m"}, By: []string{"n"}, Variables: []string{"o"}, Histogram: map[string][]float64{"p": nil},
		Rows: "q", Columns: "r",
	}}
	if got, want := fmt.Sprint(UsedColumns(&spec)), fmt.Sprint(names[:18]); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	spec.Analyses[0].Features = []string{"y"}
	if !slices.Contains(UsedColumns(&spec), "unused") {
		t.Error("a column behind a used derived one is not seen")
	}
}
