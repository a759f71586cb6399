package models

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
)

// State is what an analysis carries from one round to the next. It is flat,
// so that it has one binary encoding and a digest means the same everywhere.
type State struct {
	Phase     uint32 // of the analysis: fitting, robust errors, evaluation, …
	Iteration uint32
	Done      bool
	F64       []float64
	F32       []float32
	Sub       []byte   // nested encoding, for analyses made of others
	Parts     []*State // instead of Sub: what is nested in it, so that a long state is in memory once. The encoding is the same
}

const (
	headSize = 4 + 4 + 1 + 8 // phase, iteration, done, number of F64
	listSize = 8             // a length
)

// Size is the length of the state's encoding in bytes.
func (s *State) Size() int {
	n := headSize + 8*len(s.F64) + listSize + 4*len(s.F32) + listSize
	if s.Parts == nil {
		return n + len(s.Sub)
	}
	return n + s.nested()
}

// nested is the length of the parts' encoding, as joinParts makes it.
func (s *State) nested() int {
	n := 4
	for _, p := range s.Parts {
		n += listSize + p.Size()
	}
	return n
}

// Append writes the state's one encoding. NaN has one pattern.
func (s *State) Append(b []byte) []byte {
	n := s.Size()
	b = slices.Grow(b, n)
	s.read(b[len(b):len(b)+n], 0)
	return b[:len(b)+n]
}

// ReadAt reads the encoding from any byte on, so that a long state passes in
// pieces. It implements io.ReaderAt.
func (s *State) ReadAt(p []byte, off int64) (int, error) {
	size := int64(s.Size())
	if off < 0 {
		return 0, fmt.Errorf("state: read at %d", off)
	}
	n := int(min(int64(len(p)), max(size-off, 0)))
	if n > 0 {
		s.read(p[:n], int(off))
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Is reports whether b is the state's encoding.
func (s *State) Is(b []byte) bool {
	if len(b) != s.Size() {
		return false
	}
	var buf [1 << 12]byte
	for off := 0; off < len(b); off += len(buf) {
		part := b[off:min(off+len(buf), len(b))]
		s.read(buf[:len(part)], off)
		if !bytes.Equal(buf[:len(part)], part) {
			return false
		}
	}
	return true
}

// read fills p with the encoding from off on; that much of it exists.
func (s *State) read(p []byte, off int) {
	var head [headSize]byte
	binary.BigEndian.PutUint32(head[:], s.Phase)
	binary.BigEndian.PutUint32(head[4:], s.Iteration)
	if s.Done {
		head[8] = 1
	}
	binary.BigEndian.PutUint64(head[9:], uint64(len(s.F64)))
	p, off = span(p, off, head[:])
	p, off = spans(p, off, 8, len(s.F64), func(b []byte, i int) {
		v := s.F64[i]
		if v != v {
			v = math.NaN()
		}
		binary.BigEndian.PutUint64(b, math.Float64bits(v))
	})
	var n [listSize]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(s.F32)))
	p, off = span(p, off, n[:])
	p, off = spans(p, off, 4, len(s.F32), func(b []byte, i int) {
		v := s.F32[i]
		if v != v {
			v = float32(math.NaN())
		}
		binary.BigEndian.PutUint32(b, math.Float32bits(v))
	})
	if s.Parts == nil {
		binary.BigEndian.PutUint64(n[:], uint64(len(s.Sub)))
		p, off = span(p, off, n[:])
		span(p, off, s.Sub)
		return
	}
	binary.BigEndian.PutUint64(n[:], uint64(s.nested()))
	p, off = span(p, off, n[:])
	p, off = span(p, off, binary.BigEndian.AppendUint32(nil, uint32(len(s.Parts))))
	for _, part := range s.Parts {
		size := part.Size()
		binary.BigEndian.PutUint64(n[:], uint64(size))
		p, off = span(p, off, n[:])
		if off >= size {
			off -= size
			continue
		}
		m := min(len(p), size-off)
		part.read(p[:m], off)
		p, off = p[m:], 0
	}
}

// span writes what p takes of b from off on, and returns what is left of p and
// where the next part of the encoding begins in it.
func span(p []byte, off int, b []byte) ([]byte, int) {
	if off >= len(b) {
		return p, off - len(b)
	}
	return p[copy(p, b[off:]):], 0
}

// spans is span for n values of some width, of which put writes one.
func spans(p []byte, off, width, n int, put func(b []byte, i int)) ([]byte, int) {
	if off >= width*n {
		return p, off - width*n
	}
	var b [8]byte
	i := off / width
	if from := off % width; from > 0 {
		put(b[:], i)
		p = p[copy(p, b[from:width]):]
		i++
	}
	for ; i < n && len(p) >= width; i++ {
		put(p, i)
		p = p[width:]
	}
	if i < n && len(p) > 0 {
		put(b[:], i)
		p = p[copy(p, b[:width]):]
	}
	return p, 0
}

// Parse is ParseState for a whole study's analysis: what is nested is parsed too,
// so that a long state is in memory once.
func Parse(a Analysis, b []byte) (*State, error) {
	q, ok := a.(*sequence)
	if !ok {
		return ParseState(b)
	}
	s, err := parseState(b)
	if err != nil {
		return nil, err
	}
	if s.Parts, err = q.split(s); err != nil {
		return nil, err
	}
	s.Sub = nil
	return s, nil
}

// ParseState is the inverse of Append.
func ParseState(b []byte) (*State, error) {
	s, err := parseState(b)
	if err != nil {
		return nil, err
	}
	s.Sub = slices.Clone(s.Sub)
	return s, nil
}

// parseState is ParseState but for Sub, which is a part of b.
func parseState(b []byte) (*State, error) {
	bad := errors.New("state: too short")
	if len(b) < 17 {
		return nil, bad
	}
	s := &State{Phase: binary.BigEndian.Uint32(b), Iteration: binary.BigEndian.Uint32(b[4:])}
	if b[8] > 1 {
		return nil, fmt.Errorf("state: flag %d", b[8])
	}
	s.Done = b[8] == 1
	n := binary.BigEndian.Uint64(b[9:])
	b = b[17:]
	if n > uint64(len(b))/8 {
		return nil, bad
	}
	if n > 0 {
		s.F64 = make([]float64, n, Room(int(n)))
	}
	for i := range s.F64 {
		s.F64[i] = math.Float64frombits(binary.BigEndian.Uint64(b[8*i:]))
	}
	b = b[8*n:]
	if len(b) < 8 {
		return nil, bad
	}
	n, b = binary.BigEndian.Uint64(b), b[8:]
	if n > uint64(len(b))/4 {
		return nil, bad
	}
	if n > 0 {
		s.F32 = make([]float32, n)
	}
	for i := range s.F32 {
		s.F32[i] = math.Float32frombits(binary.BigEndian.Uint32(b[4*i:]))
	}
	b = b[4*n:]
	if len(b) < 8 {
		return nil, bad
	}
	n, b = binary.BigEndian.Uint64(b), b[8:]
	if n != uint64(len(b)) {
		return nil, fmt.Errorf("state: %d bytes for a nested state of %d", len(b), n)
	}
	if n > 0 {
		s.Sub = b
	}
	return s, nil
}

// Room is the capacity of a list of n values to which every round adds a few: a
// long one that had none would be copied, and be in memory twice.
func Room(n int) int {
	if n < 1<<16 {
		return n
	}
	return n + n/32
}
