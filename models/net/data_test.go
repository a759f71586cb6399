package net

import (
	"context"
	"encoding/binary"
	"encoding/csv"
	"math"
	"os"
	"sort"
	"strconv"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"consilium"
	"consilium/models"
)

// trialSpec declares the columns of the CGD trial, one row a patient.
func trialSpec() *consilium.Spec {
	return &consilium.Spec{
		Seed: 1, Rounds: consilium.Rounds{Max: 100},
		Data: consilium.DataRef{Dataset: "cgd", Patient: "id"},
		Columns: []consilium.Column{
			{Name: "id", Type: consilium.TypeID},
			{Name: "treat", Type: consilium.TypeLevels, Levels: []string{"placebo", "rIFN-g"}},
			{Name: "sex", Type: consilium.TypeLevels, Levels: []string{"male", "female"}},
			{Name: "age", Type: consilium.TypeInteger},
			{Name: "height", Type: consilium.TypeNumber},
			{Name: "weight", Type: consilium.TypeNumber},
			{Name: "inherit", Type: consilium.TypeLevels, Levels: []string{"X-linked", "autosomal"}},
			{Name: "steroids", Type: consilium.TypeFlag},
			{Name: "propylac", Type: consilium.TypeFlag},
			{Name: "any", Type: consilium.TypeFlag},
			{Name: "fu", Type: consilium.TypeNumber},
		},
	}
}

func trialAnalysis() *consilium.AnalysisSpec {
	return &consilium.AnalysisSpec{
		Name: "risk", Type: consilium.AnalysisTrain, Response: &consilium.Response{Column: "any"},
		Features: []string{"treat", "sex", "age", "height", "weight", "inherit", "steroids", "propylac"},
		Model: &consilium.ModelSpec{Layers: []consilium.Layer{{Kind: "dense", Units: 16}, {Kind: "tanh"}, {Kind: "dense", Units: 1}},
			Loss: "logistic", DType: "float32"},
		Strategy: &consilium.Strategy{},
		Holdout:  0.2,
	}
}

// trial reads the committed trial, one Rows per hospital in the order of
// their names.
func trial(t testing.TB) (consilium.Facts, *consilium.AnalysisSpec, []*models.Rows) {
	t.Helper()
	f, err := os.Open("../../examples/cgd/cgd_patient.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	spec := trialSpec()
	at := map[string]int{}
	for i, h := range lines[0] {
		at[h] = i
	}
	bySite := map[string][][]string{}
	for _, l := range lines[1:] {
		bySite[l[at["site"]]] = append(bySite[l[at["site"]]], l)
	}
	var names []string
	for s := range bySite {
		names = append(names, s)
	}
	sort.Strings(names)
	facts := consilium.Facts{Spec: spec, MinCohort: 11}
	var rows []*models.Rows
	for _, s := range names {
		facts.Sites = append(facts.Sites, consilium.SiteID(s))
		rows = append(rows, rowsOf(t, spec, bySite[s], at))
	}
	return facts, trialAnalysis(), rows
}

// rowsOf builds the record that the vault would, from text; "" and "NA" are
// missing. The holdout value is a hash of the patient.
func rowsOf(t testing.TB, spec *consilium.Spec, lines [][]string, at map[string]int) *models.Rows {
	t.Helper()
	var fields []arrow.Field
	var columns []arrow.Array
	for _, c := range spec.Columns {
		if c.Type == consilium.TypeID {
			continue
		}
		var dt arrow.DataType
		switch c.Type {
		case consilium.TypeNumber:
			dt = arrow.PrimitiveTypes.Float64
		case consilium.TypeInteger:
			dt = arrow.PrimitiveTypes.Int64
		case consilium.TypeFlag:
			dt = arrow.FixedWidthTypes.Boolean
		case consilium.TypeDate:
			dt = arrow.FixedWidthTypes.Date32
		case consilium.TypeLevels:
			dt = &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: arrow.BinaryTypes.String}
		}
		var col arrow.Array
		cell := func(l []string) (string, bool) {
			v := l[at[c.Name]]
			return v, v != "" && v != "NA"
		}
		number := func(s string) float64 {
			v, err := strconv.ParseFloat(s, 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		if c.Type == consilium.TypeLevels {
			index := array.NewInt32Builder(memory.DefaultAllocator)
			words := array.NewStringBuilder(memory.DefaultAllocator)
			words.AppendValues(c.Levels, nil)
			for _, l := range lines {
				v, ok := cell(l)
				if !ok {
					index.AppendNull()
					continue
				}
				found := false
				for i, level := range c.Levels {
					if level == v {
						index.Append(int32(i))
						found = true
					}
				}
				if !found {
					t.Fatalf("level %q of %s", v, c.Name)
				}
			}
			col = array.NewDictionaryArray(dt, index.NewArray(), words.NewArray())
		} else {
			b := array.NewBuilder(memory.DefaultAllocator, dt)
			for _, l := range lines {
				v, ok := cell(l)
				if !ok {
					b.AppendNull()
					continue
				}
				switch b := b.(type) {
				case *array.Float64Builder:
					b.Append(number(v))
				case *array.Int64Builder:
					b.Append(int64(number(v)))
				case *array.BooleanBuilder:
					b.Append(number(v) == 1)
				case *array.Date32Builder:
					b.Append(arrow.Date32(number(v)))
				}
			}
			col = b.NewArray()
		}
		fields = append(fields, arrow.Field{Name: c.Name, Type: dt, Nullable: true})
		columns = append(columns, col)
	}
	b := models.Batch{Record: array.NewRecord(arrow.NewSchema(fields, nil), columns, int64(len(lines)))}
	ordinals := map[string]int32{}
	for _, l := range lines {
		id := l[at["id"]]
		p, ok := ordinals[id]
		if !ok {
			p = int32(len(ordinals))
			ordinals[id] = p
		}
		h := consilium.DomainHoldout.Digest([]byte(id))
		b.Selected = append(b.Selected, true)
		b.Patient = append(b.Patient, p)
		b.Holdout = append(b.Holdout, float64(binary.BigEndian.Uint64(h[:])>>11)/(1<<53))
	}
	return &models.Rows{Batches: []models.Batch{b}, Patients: len(ordinals)}
}

func show(p *float64) string {
	if p == nil {
		return "undefined"
	}
	return strconv.FormatFloat(*p, 'f', 4, 64)
}

func simulate(t testing.TB, facts consilium.Facts, spec *consilium.AnalysisSpec, rows []*models.Rows) *Run {
	t.Helper()
	r, err := Simulate(context.Background(), facts, spec, rows)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func near(a, b, tolerance float64) bool { return math.Abs(a-b) <= tolerance }
