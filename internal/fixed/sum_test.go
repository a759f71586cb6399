package fixed

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"consilium"
)

// A sum that is read in pieces opens to what the whole sum does, whatever the
// lengths of its blocks, and is refused where that is.
func TestSumInPieces(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, long := range []int{1, pieceLanes - 1, pieceLanes, pieceLanes + 1, 3*pieceLanes + 7} {
		l := consilium.Layout{Blocks: []consilium.Block{
			{Name: "first", Kind: consilium.Exact, Length: 3}, {Name: "update", Kind: consilium.Learned16, Length: long, Clip: 0.1},
			{Name: "control", Kind: consilium.Learned16, Length: long, Clip: 3}, {Name: "last", Kind: consilium.Exact, Length: 2},
		}}
		const n = 5
		sums := make([]int32, l.Lanes())
		for i := range sums {
			sums[i] = int32(r.IntN(2*n*32767+1) - n*32767)
		}
		read := func(dst []int32, at int) error { copy(dst, sums[at:at+len(dst)]); return nil }
		want, err := Open(l, sums, n)
		if err != nil {
			t.Fatal(err)
		}
		s, err := NewSum(l, n, read)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Exact()
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 2 {
			t.Fatalf("%d exact blocks", len(got))
		}
		for range 2 { // as often as it is asked
			for _, name := range []string{"update", "control"} {
				got[name] = nil
				if err := s.Each(name, func(v []float64) error { got[name] = append(got[name], v...); return nil }); err != nil {
					t.Fatal(err)
				}
			}
		}
		for name, v := range want {
			if !slices.Equal(got[name], v) {
				t.Errorf("blocks of %d: block %s differs", long, name)
			}
		}
		for _, name := range []string{"first", "nobody's"} {
			if err := s.Each(name, func([]float64) error { return nil }); err == nil {
				t.Errorf("block %s was read in pieces", name)
			}
		}
		stop := errors.New("stop")
		if err := s.Each("update", func([]float64) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("error %v", err)
		}
		// Every lane is looked at, before anything is opened.
		for _, at := range []int{0, 23, 24, 24 + long/2, 23 + long, 24 + long, 23 + 2*long, 24 + 2*long, len(sums) - 1} {
			was := sums[at]
			sums[at] = 1 << 30
			if _, err := NewSum(l, n, read); err == nil {
				t.Errorf("lane %d of %d holds what no contributions sum to, and it was accepted", at, len(sums))
			}
			sums[at] = was
		}
		broken := errors.New("disk")
		if _, err := NewSum(l, n, func(_ []int32, at int) error {
			if at > 24 {
				return broken
			}
			return nil
		}); !errors.Is(err, broken) {
			t.Errorf("error %v", err)
		}
		for _, n := range []int{0, consilium.MaxSites + 1} {
			if _, err := NewSum(l, n, read); err == nil {
				t.Errorf("a sum of %d contributions", n)
			}
		}
	}
}
