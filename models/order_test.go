package models

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestFallingOrder holds the radix sort against the library's stable one.
func TestFallingOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 2, 7, 300, 5000} {
		for _, kind := range []string{"few", "many", "signed", "extreme"} {
			value := make([]float64, n)
			rows := r.Perm(n)
			for i := range value {
				switch kind {
				case "few":
					value[i] = float64(r.IntN(9))
				case "many":
					value[i] = r.ExpFloat64()
				case "signed":
					value[i] = math.Copysign(float64(r.IntN(4)), r.NormFloat64())
				case "extreme":
					value[i] = []float64{math.MaxFloat64, -math.MaxFloat64, math.Inf(1), math.Inf(-1), math.SmallestNonzeroFloat64, 0, math.Copysign(0, -1)}[r.IntN(7)]
				}
			}
			want := slices.Clone(rows)
			slices.SortStableFunc(want, func(a, b int) int { return cmp.Compare(value[b], value[a]) })
			if got := fallingOrder(rows, value); !slices.Equal(got, want) {
				t.Fatalf("%d %s values: %v, want %v", n, kind, got, want)
			}
		}
	}
}
