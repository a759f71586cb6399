package models

import (
	"context"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"

	"consilium"
	"consilium/internal/det"
)

// TestPiecesAreSummedRowByRow: the blocks' sums of a piecewise model are those of its
// textbook score and information, a row and a piece at a time, and the same bits on any number of
// processors.
func TestPiecesAreSummedRowByRow(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	r := rand.New(rand.NewPCG(31, 32))
	for _, n := range []int{1, 130, 9000} {
		spec, rows := drawn(r, n, 5, 400)
		spec.Analyses = []consilium.AnalysisSpec{{Name: "pieces", Type: consilium.AnalysisCox, Terms: []string{"x1", "x2", "ward", "x4"},
			Response: &consilium.Response{Start: "start", Stop: "time", Event: "died"}, Baseline: &consilium.Baseline{Kind: "piecewise", Cuts: []float64{90, 300}}}}
		g, at := begun(t, spec, rows)
		for j := range at.theta {
			at.theta[j] = r.NormFloat64() / 50
		}
		data, err := readFrame(g.facts.Spec, rows, g.reads)
		if err != nil {
			t.Fatal(err)
		}
		x, err := g.d.matrix(data, at.mean, at.scale)
		if err != nil {
			t.Fatal(err)
		}
		k, q := g.pieces.n(), g.q()
		want := g.newLocal(coxFitLen + 1)
		eta := g.linear(at, x, data.n)
		for i := range data.n {
			g.eachPiece(data, i, func(b int, exposure, event float64) {
				row := make([]float64, q)
				row[b] = 1
				for a := range x {
					row[k+a] = x[a][i]
				}
				m := exposure * det.Exp(eta[i]+at.theta[b])
				want.fit[0].add(event*(eta[i]+at.theta[b]) - m)
				for a := range row {
					want.score[a].add((event - m) * row[a])
					for c := 0; c <= a; c++ {
						want.information[packedLen(a)+c].add(m * row[a] * row[c])
					}
				}
			})
		}
		var first []float64
		for _, processors := range []int{1, 2, 7} {
			runtime.GOMAXPROCS(processors)
			l, err := g.piecesLocal(context.Background(), data, x, at, phaseFit)
			if err != nil {
				t.Fatal(err)
			}
			got := append(append(values(l.fit), values(l.score)...), values(l.information)...)
			if first == nil {
				first = got
			}
			most := 0.0 // sums of a score cancel: their errors are of the largest sum's size
			for _, v := range got {
				most = math.Max(most, math.Abs(v))
			}
			for i, v := range append(append(values(want.fit), values(want.score)...), values(want.information)...) {
				if !(math.Abs(got[i]-v) <= 1e-13*most) {
					t.Fatalf("%d rows: value %d is %v, row by row %v", n, i, got[i], v)
				}
				if math.Float64bits(got[i]) != math.Float64bits(first[i]) {
					t.Fatalf("%d rows: value %d is %x on %d processors, %x on one", n, i, got[i], processors, first[i])
				}
			}
		}
	}
}
