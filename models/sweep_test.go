package models

import (
	"context"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"consilium"
	"consilium/internal/det"
)

// drawn makes rows with every kind of column, in two batches, some of them left
// out or without a value; times tie as often as days does.
func drawn(r *rand.Rand, n, p, days int) (*consilium.Spec, *Rows) {
	spec := specCGD(consilium.AnalysisSpec{Name: "drawn"})
	spec.Columns = []consilium.Column{{Name: "id", Type: consilium.TypeID}, {Name: "y", Type: consilium.TypeFlag}, {Name: "count", Type: consilium.TypeInteger},
		{Name: "value", Type: consilium.TypeNumber}, {Name: "time", Type: consilium.TypeNumber, Unit: "d"}, {Name: "start", Type: consilium.TypeNumber, Unit: "d"},
		{Name: "died", Type: consilium.TypeFlag}, {Name: "ward", Type: consilium.TypeLevels, Levels: []string{"a", "b", "c"}}, {Name: "fu", Type: consilium.TypeNumber},
		{Name: "pair", Type: consilium.TypeInteger}, {Name: "five", Type: consilium.TypeInteger}, {Name: "set", Type: consilium.TypeInteger}, {Name: "mixed", Type: consilium.TypeInteger}}
	for j := range p {
		spec.Columns = append(spec.Columns, consilium.Column{Name: fmt.Sprintf("x%d", j), Type: consilium.TypeNumber})
	}
	pool := memory.NewGoAllocator()
	rows := &Rows{Site: 1, Patients: n}
	for at, n := range []int{n / 3, n - n/3} {
		var fields []arrow.Field
		var cols []arrow.Array
		add := func(name string, a arrow.Array) {
			fields = append(fields, arrow.Field{Name: name, Type: a.DataType(), Nullable: true})
			cols = append(cols, a)
		}
		numbers := func(name string, gaps bool, draw func(i int) float64) {
			b := array.NewFloat64Builder(pool)
			for i := range n {
				if v := draw(i); gaps && r.IntN(50) == 0 {
					b.AppendNull()
				} else {
					b.Append(v)
				}
			}
			add(name, b.NewArray())
		}
		flags := func(name string, p float64) {
			b := array.NewBooleanBuilder(pool)
			for range n {
				b.Append(r.Float64() < p)
			}
			add(name, b.NewArray())
		}
		flags("y", 0.4)
		flags("died", 0.7)
		counts := array.NewInt64Builder(pool)
		for range n {
			counts.Append(int64(r.IntN(4)))
		}
		add("count", counts.NewArray())
		for name, of := range map[string]func(i int) int{"pair": func(i int) int { return i / 2 }, "five": func(i int) int { return i / 5 }, "set": func(i int) int { return i / 140 },
			"mixed": func(i int) int { return bits.Len(uint(i)) }} { // 1, 1, 2, 4, …
			b := array.NewInt64Builder(pool)
			for i := range n {
				b.Append(int64(of(i) + at*1_000_000))
			}
			add(name, b.NewArray())
		}
		stop := make([]float64, n)
		numbers("value", false, func(int) float64 { return r.NormFloat64() })
		numbers("time", false, func(i int) float64 {
			stop[i] = 10 + math.Ceil(r.ExpFloat64()*float64(days))
			return stop[i]
		})
		numbers("start", false, func(i int) float64 { return math.Floor(stop[i] * r.Float64() * 0.999) })
		numbers("fu", false, func(int) float64 { return 0.5 + r.Float64() })
		words := array.NewStringBuilder(pool)
		words.AppendValues([]string{"a", "b", "c"}, nil)
		index := array.NewInt32Builder(pool)
		for range n {
			index.Append(int32(r.IntN(3)))
		}
		add("ward", array.NewDictionaryArray(&arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: arrow.BinaryTypes.String}, index.NewArray(), words.NewArray()))
		for j := range p {
			numbers(fmt.Sprintf("x%d", j), j == 0, func(int) float64 { return 5 + float64(1+j)*r.NormFloat64() })
		}
		b := Batch{Record: array.NewRecord(arrow.NewSchema(fields, nil), cols, int64(n)), Selected: make([]bool, n), Patient: make([]int32, n), Holdout: make([]float64, n)}
		for i := range n {
			b.Selected[i], b.Patient[i] = at == 1 || r.IntN(20) > 0, int32(i)
		}
		rows.Batches = append(rows.Batches, b)
	}
	return spec, rows
}

// TestSweepIsTheDefinition: a Newton step over prepared rows has the bits of the
// same sums taken column by column, on any number of processors, with rows that
// are kept and without.
func TestSweepIsTheDefinition(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	r := rand.New(rand.NewPCG(21, 22))
	for _, n := range []int{1, 5, 40, 700, 3000, 20_000} {
		for _, p := range []int{1, 4, 7} {
			for _, days := range []int{3, 400, 1_000_000} {
				if n == 20_000 && (p != 7 || testing.Short()) {
					continue
				}
				spec, rows := drawn(r, n, p, days)
				terms := []string{"x0", "ward"}
				for j := 1; j < p; j++ {
					terms = append(terms, fmt.Sprintf("x%d", j))
				}
				terms = append(terms, "x0:ward")
				glm := func(family, y string, offset *consilium.Offset) consilium.AnalysisSpec {
					return consilium.AnalysisSpec{Name: family, Type: consilium.AnalysisGLM, Family: family, Response: &consilium.Response{Column: y}, Terms: terms, Offset: offset}
				}
				cox := func(ties, start string, strata ...string) consilium.AnalysisSpec {
					return consilium.AnalysisSpec{Name: "cox", Type: consilium.AnalysisCox, Ties: ties, Response: &consilium.Response{Start: start, Stop: "time", Event: "died"}, Terms: terms, Strata: strata}
				}
				fu := &consilium.Offset{Column: "fu", Log: true}
				bare := glm("gaussian", "value", nil)
				bare.NoIntercept = true
				for _, a := range []consilium.AnalysisSpec{glm("gaussian", "value", nil), glm("binomial", "y", nil), glm("poisson", "count", fu), glm("binomial", "y", &consilium.Offset{Column: "fu"}), bare,
					cox("efron", ""), cox("breslow", ""), cox("efron", "start"), cox("breslow", "start", "ward"), cox("efron", "", "ward"),
					cox("efron", "", "pair"), cox("efron", "start", "five"), cox("breslow", "", "mixed"), cox("efron", "start", "mixed"), cox("efron", "", "mixed")} {
					if slices.Contains(a.Strata, "ward") {
						a.Terms = slices.DeleteFunc(slices.Clone(a.Terms), func(s string) bool { return s == "ward" || s == "x0:ward" })
					}
					spec.Analyses = []consilium.AnalysisSpec{a}
					compareSweep(t, r, spec, rows, fmt.Sprintf("%s %s %v by %v, %d rows, %d columns, %d days", a.Name, a.Ties, a.Response, a.Strata, n, p, days))
				}
			}
		}
	}
}

// begun is a regression at its first state, at a federation of one hospital.
func begun(t *testing.T, spec *consilium.Spec, rows *Rows) (*regression, *fit) {
	t.Helper()
	f := newFederation(t, spec, []hospital{{"one", rows}})
	made, err := New(f.facts, nil)
	if err != nil {
		t.Fatal(err)
	}
	g := made.(*sequence).parts[0].(*regression)
	s, err := g.Start(f.facts)
	if err != nil {
		t.Fatal(err)
	}
	at, err := g.load(s)
	if err != nil {
		t.Fatal(err)
	}
	return g, at
}

func compareSweep(t *testing.T, r *rand.Rand, spec *consilium.Spec, rows *Rows, what string) {
	t.Helper()
	g, at := begun(t, spec, rows)
	for j := range at.mean {
		at.mean[j], at.scale[j] = r.NormFloat64(), math.Ldexp(1, r.IntN(4))
	}
	for j := range at.theta {
		at.theta[j] = r.NormFloat64() / 4
	}
	at.alpha = 0.3
	for _, phase := range []uint32{phaseFirst, phaseFit} {
		s, err := g.save(at, phase, 1)
		if err != nil {
			t.Fatal(err)
		}
		want := definedStep(t, g, rows, at, phase)
		layout, err := g.Layout(s)
		if err != nil {
			t.Fatal(err)
		}
		kept := new(Kept)
		for k, keep := range []*Kept{nil, kept, kept} {
			runtime.GOMAXPROCS([]int{1, 2, 7}[k])
			mine := *rows
			mine.Kept = keep
			got := &vector{layout: layout, values: map[string][]float64{}}
			if _, err := g.Local(context.Background(), s, nil, &mine, got); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			for name, v := range want {
				for i := range v {
					if math.Float64bits(v[i]) != math.Float64bits(got.values[name][i]) {
						t.Fatalf("%s, phase %d, run %d: %s value %d is %x, by definition %x", what, phase, k, name, i, got.values[name][i], v[i])
					}
				}
			}
		}
	}
}

// definedStep is the vector column by column.
func definedStep(t *testing.T, g *regression, rows *Rows, f *fit, phase uint32) map[string][]float64 {
	t.Helper()
	data, err := readFrame(g.facts.Spec, rows, g.reads)
	if err != nil {
		t.Fatal(err)
	}
	x, err := g.d.matrix(data, f.mean, f.scale)
	if err != nil {
		t.Fatal(err)
	}
	name := "fit"
	var l *localFit
	if g.cox != nil {
		l = g.newLocal(coxFitLen)
		plain, one := make([]float64, len(x)), make([]float64, len(x))
		for j := range one {
			one[j] = 1
		}
		table, err := g.d.matrix(data, plain, one)
		if err != nil {
			t.Fatal(err)
		}
		var small [][]int
		for _, rows := range g.cox.groups(data) {
			if len(rows) <= pieceRows {
				small = append(small, rows)
				continue
			}
			s := g.cox.stratum(data, rows)
			g.coxExposure(l, &s, table, f, data.num[g.cox.start], data.num[g.cox.stop], data.num[g.cox.event])
		}
		g.coxSmall(l, small, table, f, data.num[g.cox.start], data.num[g.cox.stop], data.num[g.cox.event])
	} else {
		if phase == phaseFirst {
			name = "start"
		}
		if l, err = g.glmLocal(data, x, f, phase); err != nil {
			t.Fatal(err)
		}
	}
	if name == "start" {
		copy(l.fit, definedStart(t, g, data))
	}
	out := map[string][]float64{name: values(l.fit), "score": values(l.score), "information": values(l.information)}
	if phase == phaseFirst {
		m := make([]total, 2*len(x))
		for j, col := range x {
			for _, v := range col {
				m[j].add(v)
				m[len(x)+j].add(float64(v * v))
			}
		}
		out["moments"] = values(m)
	}
	return out
}

// definedStart sums the null model's first step and the saturated log-likelihood row after
// row, from the families' formulas.
func definedStart(t *testing.T, g *regression, data *frame) []total {
	t.Helper()
	y, offset, _, err := g.glmData(data)
	if err != nil {
		t.Fatal(err)
	}
	sum := make([]total, glmStartLen)
	for i, v := range y {
		mu, link, w := v, v, 1.0 // R's starting mean, its linear predictor, the variance there
		switch g.family {
		case "binomial":
			mu = float64((v + 0.5) / 2)
			link, w = det.Log(mu/(1-mu)), float64(mu*(1-mu))
		case "poisson":
			mu = v + 0.1
			link, w = det.Log(mu), mu
			s := -v - det.Lgamma(v+1) // of a count that is its own mean
			if v > 0 {
				s += float64(v * det.Log(v))
			}
			sum[startSaturated].add(s)
		}
		sum[startWeight].add(w)
		sum[startWorking].add(float64(w*(link-offset[i])) + (v - mu))
	}
	return sum
}

// TestKeptBytes: what a hospital is told a study keeps is what it keeps, or somewhat less; strata
// of just above a piece keep the most.
func TestKeptBytes(t *testing.T) {
	r := rand.New(rand.NewPCG(23, 24))
	const n = 5000
	spec, rows := drawn(r, n, 6, 400)
	terms := []string{"x0", "x1", "x2", "x3", "x4", "x5", "ward"}
	cox := func(name, start string, terms []string, strata ...string) consilium.AnalysisSpec {
		return consilium.AnalysisSpec{Name: name, Type: consilium.AnalysisCox, Response: &consilium.Response{Start: start, Stop: "time", Event: "died"}, Terms: terms, Strata: strata}
	}
	for _, c := range []struct {
		consilium.AnalysisSpec
		least float64 // of what it is told
	}{
		{consilium.AnalysisSpec{Name: "logistic", Type: consilium.AnalysisGLM, Family: "binomial", Response: &consilium.Response{Column: "y"}, Terms: terms, Offset: &consilium.Offset{Column: "fu"}}, 0.6},
		{cox("cox", "", terms), 0.6},
		{cox("entry", "start", terms), 0.6},
		{cox("pairs", "", terms, "pair"), 0.25},
		{cox("pairs, entry", "start", terms, "pair"), 0.25},
		{cox("fives", "", terms, "five"), 0.25},
		{cox("sets", "", terms[1:], "set"), 0.6},
		{cox("sets, entry", "start", terms[1:], "set"), 0.6},
		{consilium.AnalysisSpec{Name: "absorbed", Type: consilium.AnalysisGLM, Family: "binomial", Response: &consilium.Response{Column: "y"}, Terms: append([]string{"site"}, terms...)}, 0},
	} {
		spec.Analyses = []consilium.AnalysisSpec{c.AnalysisSpec}
		f := newFederation(t, spec, []hospital{{"one", rows}})
		must(t, f)
		kept := 0
		for _, p := range rows.Kept.of {
			kept += held(reflect.ValueOf(p).Elem())
		}
		told, err := KeptBytes(f.facts, nil)
		if err != nil {
			t.Fatal(err)
		}
		if perRow := float64(kept) / n; perRow > float64(told) || perRow < c.least*float64(told) {
			t.Errorf("%s keeps %.1f bytes a row, told %d", c.Name, perRow, told)
		}
	}
}

// held is the memory behind a value: of slices to their capacity, of all that is pointed at.
func held(v reflect.Value) int {
	n := 0
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			n = int(v.Elem().Type().Size()) + held(v.Elem())
		}
	case reflect.Slice:
		n = v.Cap() * int(v.Type().Elem().Size())
		if k := v.Type().Elem().Kind(); k != reflect.Pointer && k != reflect.Slice && k != reflect.Struct {
			break
		}
		for i := range v.Len() {
			n += held(v.Index(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			n += held(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			n += held(v.Field(i))
		}
	}
	return n
}
