package models

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"consilium"
)

// bigRows makes one hospital of n rows and p covariates.
func bigRows(n, p int) (*consilium.Spec, *Rows) {
	spec := specCGD(consilium.AnalysisSpec{Name: "big"})
	spec.Columns = []consilium.Column{{Name: "id", Type: consilium.TypeID}, {Name: "y", Type: consilium.TypeNumber}, {Name: "time", Type: consilium.TypeNumber, Unit: "d"}, {Name: "died", Type: consilium.TypeFlag},
		{Name: "pair", Type: consilium.TypeInteger}}
	r := rand.New(rand.NewPCG(1, 2))
	pool := memory.NewGoAllocator()
	x := make([][]float64, p)
	eta := make([]float64, n)
	fields := []arrow.Field{}
	var cols []arrow.Array
	add := func(name string, a arrow.Array) {
		fields = append(fields, arrow.Field{Name: name, Type: a.DataType(), Nullable: true})
		cols = append(cols, a)
	}
	numbers := func(v []float64) arrow.Array {
		b := array.NewFloat64Builder(pool)
		b.AppendValues(v, nil)
		return b.NewArray()
	}
	for j := range x {
		x[j] = make([]float64, n)
		for i := range x[j] {
			x[j][i] = r.NormFloat64()
			eta[i] += x[j][i] / 10
		}
		name := fmt.Sprintf("x%d", j)
		spec.Columns = append(spec.Columns, consilium.Column{Name: name, Type: consilium.TypeNumber})
		add(name, numbers(x[j]))
	}
	y, at := make([]float64, n), make([]float64, n)
	died := array.NewBooleanBuilder(pool)
	for i := range y {
		if r.Float64() < 1/(1+math.Exp(-eta[i])) {
			y[i] = 1
		}
		at[i] = r.ExpFloat64() * math.Exp(-eta[i]) * 1000
		died.Append(at[i] < 1500)
		at[i] = min(at[i], 1500)
	}
	add("y", numbers(y))
	add("time", numbers(at))
	add("died", died.NewArray())
	pairs := array.NewInt64Builder(pool)
	for i := range n {
		pairs.Append(int64(i / 2))
	}
	add("pair", pairs.NewArray())
	b := Batch{Record: array.NewRecord(arrow.NewSchema(fields, nil), cols, int64(n)), Selected: make([]bool, n), Patient: make([]int32, n), Holdout: make([]float64, n)}
	for i := range b.Selected {
		b.Selected[i], b.Patient[i] = true, int32(i)
	}
	return spec, &Rows{Site: 1, Patients: n, Batches: []Batch{b}}
}

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkFit is the whole fit of one hospital's 1e6 rows and 20 covariates,
// from the first round to the result, on all processors: the fastest in seconds
// by the clock, and what it took of the processors. benchmarks/peers/fit.R does
// the same in R.
func BenchmarkFit(b *testing.B) {
	benchFits(b, 1_000_000, bigAnalyses(20)[1:]...)
}

// BenchmarkPairs is the same of a Cox model with 100,000 pairs for strata.
func BenchmarkPairs(b *testing.B) {
	a := bigAnalyses(20)[2]
	a.Strata = []string{"pair"}
	benchFits(b, 200_000, a)
}

func benchFits(b *testing.B, n int, analyses ...consilium.AnalysisSpec) {
	spec, rows := bigRows(n, 20)
	for _, a := range analyses {
		b.Run(a.Name, func(b *testing.B) {
			spec.Analyses = []consilium.AnalysisSpec{a}
			f := newFederation(b, spec, []hospital{{"one", rows}})
			clock, processor := math.Inf(1), math.Inf(1)
			for range b.N {
				at, used := time.Now(), cpu()
				if _, err := f.run(); err != nil {
					b.Fatal(err)
				}
				clock, processor = min(clock, time.Since(at).Seconds()), min(processor, (cpu()-used).Seconds())
			}
			b.ReportMetric(clock, "least-s")
			b.ReportMetric(processor, "least-cpu-s")
		})
	}
}

// bigAnalyses are fitted to the rows of bigRows.
func bigAnalyses(p int) []consilium.AnalysisSpec {
	var names []string
	for j := range p {
		names = append(names, fmt.Sprintf("x%d", j))
	}
	return []consilium.AnalysisSpec{
		{Name: "linear", Type: consilium.AnalysisGLM, Family: "gaussian", Response: &consilium.Response{Column: "y"}, Terms: names},
		{Name: "logistic", Type: consilium.AnalysisGLM, Family: "binomial", Response: &consilium.Response{Column: "y"}, Terms: names},
		{Name: "cox", Type: consilium.AnalysisCox, Response: &consilium.Response{Stop: "time", Event: "died"}, Terms: names},
	}
}

// BenchmarkNewtonStep compares a hospital's Newton step on 1e6 rows and 20
// covariates with a copy of the same bytes, both in CPU time of the same run.
func BenchmarkNewtonStep(b *testing.B) {
	const n, p = 1_000_000, 20
	spec, rows := bigRows(n, p)
	for _, a := range bigAnalyses(p) {
		b.Run(a.Name, func(b *testing.B) {
			spec.Analyses = []consilium.AnalysisSpec{a}
			f := newFederation(b, spec, []hospital{{"one", rows}})
			made, err := New(f.facts, nil)
			if err != nil {
				b.Fatal(err)
			}
			part := made.(*sequence).parts[0]
			rows.Kept = new(Kept)
			s, err := part.Start(f.facts)
			if err != nil {
				b.Fatal(err)
			}
			step := func() *State {
				l, err := part.Layout(s)
				if err != nil {
					b.Fatal(err)
				}
				w := &vector{layout: l, values: map[string][]float64{}}
				if _, err := part.Local(context.Background(), s, nil, rows, w); err != nil {
					b.Fatal(err)
				}
				next, err := part.Update(s, Opened{Round: 1, Contributors: []consilium.Position{1}, Values: w.values})
				if err != nil {
					b.Fatal(err)
				}
				return next
			}
			s = step()
			step() // the rows are laid out by now
			from, to := make([]float64, n*p), make([]float64, n*p)
			copy(to, from)
			// The least of each: what else the machine does only adds.
			own, copied := math.Inf(1), math.Inf(1)
			b.ResetTimer()
			for range b.N {
				at := cpu()
				step()
				own = min(own, (cpu() - at).Seconds())
				for range 5 {
					at = cpu()
					copy(to, from)
					copied = min(copied, (cpu() - at).Seconds())
				}
			}
			b.ReportMetric(own/copied, "copies")
			b.ReportMetric(1000*own, "cpu-ms/step")
			b.ReportMetric(1000*copied, "cpu-ms/copy")
		})
	}
}
