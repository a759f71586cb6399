package models

import (
	"fmt"

	"consilium"
)

// Streamed is an analysis whose next state may be as long as the model that it
// trains. It takes an opened sum piece by piece and writes into the state that it
// has, so that neither the sums nor a second state are in memory beside it.
//
// Only Advance changes a state. All other methods leave theirs as it is, and
// Advance is not called before the whole sum has been verified.
type Streamed interface {
	Analysis
	// Advance returns the state that Update would have made of s and the same sum,
	// to the last bit. It may be s itself: after Advance s is the next state or, if
	// Advance failed, of no more use, and whoever called has kept what it was.
	Advance(s *State, o Stream) (*State, error)
}

// Stream is an opened sum that is read, not held.
type Stream struct {
	Opened // whose Values are of the Exact blocks only
	// Each gives the values of one Learned block to piece, in order, some at a
	// time and as often as it is called. It overwrites what piece was given.
	Each func(block string, piece func(values []float64) error) error
}

// Whole reads a stream into memory: for rounds and analyses of few values.
func (o Stream) Whole(l consilium.Layout) (Opened, error) {
	out := Opened{Round: o.Round, Contributors: o.Contributors, Values: make(map[string][]float64, len(l.Blocks))}
	for _, b := range l.Blocks {
		if b.Kind == consilium.Exact {
			out.Values[b.Name] = o.Values[b.Name]
			continue
		}
		values := make([]float64, 0, b.Length)
		if err := o.Each(b.Name, func(piece []float64) error {
			values = append(values, piece...)
			return nil
		}); err != nil {
			return Opened{}, fmt.Errorf("opened block %s: %w", b.Name, err)
		}
		out.Values[b.Name] = values
	}
	return out, nil
}

// Stream is the inverse of Whole: an opened sum that is in memory, as a stream of
// one piece a block. Its Values are o's.
func (o Opened) Stream() Stream {
	return Stream{Opened: o, Each: func(block string, piece func([]float64) error) error {
		values, ok := o.Values[block]
		if !ok {
			return fmt.Errorf("the opened sum has no block %s", block)
		}
		return piece(values)
	}}
}
