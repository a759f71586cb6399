package models

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
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
		{Name: "died", Type: consilium.TypeFlag}, {Name: "ward", Type: consilium.TypeLevels, Levels: []string{"a", "b", "c"}}, {Name: "fu", Type: consilium.TypeNumber}}
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
					cox("efron", ""), cox("breslow", ""), cox("efron", "start"), cox("breslow", "start", "ward"), cox("efron", "", "ward")} {
					if a.Type == consilium.AnalysisCox && a.Strata != nil {
						a.Terms = slices.DeleteFunc(slices.Clone(a.Terms), func(s string) bool { return s == "ward" || s == "x0:ward" })
					}
					spec.Analyses = []consilium.AnalysisSpec{a}
					compareSweep(t, r, spec, rows, fmt.Sprintf("%s %s %v, %d rows, %d columns, %d days", a.Name, a.Ties, a.Response, n, p, days))
				}
			}
		}
	}
}

func compareSweep(t *testing.T, r *rand.Rand, spec *consilium.Spec, rows *Rows, what string) {
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
		for _, rows := range g.cox.groups(data) {
			s := g.cox.stratum(data, rows)
			g.coxExposure(l, &s, table, f, data.num[g.cox.start], data.num[g.cox.stop], data.num[g.cox.event])
		}
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

// TestKeptBytes: what a hospital is told a study keeps is what it keeps.
func TestKeptBytes(t *testing.T) {
	r := rand.New(rand.NewPCG(23, 24))
	const n = 5000
	spec, rows := drawn(r, n, 6, 400)
	terms := []string{"x0", "x1", "x2", "x3", "x4", "x5", "ward"}
	for _, a := range []consilium.AnalysisSpec{
		{Name: "logistic", Type: consilium.AnalysisGLM, Family: "binomial", Response: &consilium.Response{Column: "y"}, Terms: terms, Offset: &consilium.Offset{Column: "fu"}},
		{Name: "cox", Type: consilium.AnalysisCox, Response: &consilium.Response{Stop: "time", Event: "died"}, Terms: terms},
		{Name: "entry", Type: consilium.AnalysisCox, Response: &consilium.Response{Start: "start", Stop: "time", Event: "died"}, Terms: terms},
		{Name: "absorbed", Type: consilium.AnalysisGLM, Family: "binomial", Response: &consilium.Response{Column: "y"}, Terms: append([]string{"site"}, terms...)},
	} {
		spec.Analyses = []consilium.AnalysisSpec{a}
		f := newFederation(t, spec, []hospital{{"one", rows}})
		must(t, f)
		kept := 0
		for _, p := range rows.Kept.of {
			kept += 8 * (cap(p.y) + cap(p.offset))
			if p.columns != nil {
				kept += 8 * cap(p.columns.raw)
			}
			for _, h := range p.histories {
				kept += 8*(cap(h.columns.raw)+cap(h.tied)) + 16*(cap(h.ties)+cap(h.dead)+cap(h.times))
				for _, v := range [][]int32{h.moves, h.before, h.falling, h.until, h.since} {
					kept += 4 * cap(v)
				}
				for _, v := range h.room {
					kept += 8 * cap(v)
				}
			}
		}
		told, err := KeptBytes(f.facts, nil)
		if err != nil {
			t.Fatal(err)
		}
		if perRow := float64(kept) / n; perRow > float64(told) || perRow < 0.6*float64(told) {
			t.Errorf("%s keeps %.1f bytes a row, told %d", a.Name, perRow, told)
		}
	}
}
