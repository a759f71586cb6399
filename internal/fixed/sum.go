package fixed

import (
	"fmt"

	"consilium"
)

// Sum is the sum of some contributions, read piece by piece from wherever it is
// kept. A long one is never in memory as a whole.
type Sum struct {
	layout consilium.Layout
	n      int
	read   func(dst []int32, at int) error
}

// pieceLanes is how many lanes are read at a time: 64 KiB of them and 128 KiB of values
// stay in the second cache, and what a read costs besides does not show. A vault's file is
// read by as much.
const pieceLanes = 1 << 14

// NewSum reads a sum of n contributions once, from its first lane to its last,
// and refuses what n contributions cannot sum to, as Open does. read fills dst
// with the summed lanes from at on: the same whenever it is asked, or it fails, for what
// was checked here is read again, and not checked again, by Exact and Each.
func NewSum(layout consilium.Layout, n int, read func(dst []int32, at int) error) (*Sum, error) {
	if err := layout.Validate(); err != nil {
		return nil, err
	}
	if err := checkNumber(n); err != nil {
		return nil, err
	}
	s := &Sum{layout, n, read}
	buf, at := make([]int32, pieceLanes), 0
	for _, b := range layout.Blocks {
		for i, end := 0, lanesOf(b); i < end; i += len(buf) {
			part := buf[:min(len(buf), end-i)]
			if err := read(part, at+i); err != nil {
				return nil, err
			}
			if err := checkLanes(b, i, part, n); err != nil {
				return nil, err
			}
		}
		at += lanesOf(b)
	}
	return s, nil
}

// Exact opens all Exact blocks, by name.
func (s *Sum) Exact() (map[string][]float64, error) {
	out := map[string][]float64{}
	at := 0
	for _, b := range s.layout.Blocks {
		if b.Kind == consilium.Exact {
			lanes := make([]int32, lanesOf(b))
			if err := s.read(lanes, at); err != nil {
				return nil, err
			}
			values := make([]float64, b.Length)
			openBlock(values, b, lanes, s.n)
			out[b.Name] = values
		}
		at += lanesOf(b)
	}
	return out, nil
}

// Each opens one Learned block, some values at a time and in order. piece must
// not keep them.
func (s *Sum) Each(block string, piece func(values []float64) error) error {
	at := 0
	for _, b := range s.layout.Blocks {
		if b.Name != block {
			at += lanesOf(b)
			continue
		}
		if b.Kind == consilium.Exact {
			return fmt.Errorf("fixed: block %s is exact and not read in pieces", block)
		}
		lanes, values := make([]int32, pieceLanes), make([]float64, pieceLanes)
		for i := 0; i < b.Length; i += len(lanes) {
			n := min(len(lanes), b.Length-i)
			if err := s.read(lanes[:n], at+i); err != nil {
				return err
			}
			openBlock(values[:n], b, lanes[:n], s.n)
			if err := piece(values[:n]); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("fixed: the layout has no block %s", block)
}

func lanesOf(b consilium.Block) int {
	if b.Kind == consilium.Exact {
		return b.Length * consilium.ExactLanes
	}
	return b.Length
}
