package models

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// State is what an analysis carries from one round to the next. It is flat,
// so that it has one binary encoding and a digest means the same everywhere.
type State struct {
	Phase     uint32 // of the analysis: fitting, robust errors, evaluation, …
	Iteration uint32
	Done      bool
	F64       []float64
	F32       []float32
	Sub       []byte // nested encoding, for analyses made of others
}

// Append writes the state's one encoding. NaN has one pattern.
func (s *State) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, s.Phase)
	b = binary.BigEndian.AppendUint32(b, s.Iteration)
	if s.Done {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(len(s.F64)))
	for _, v := range s.F64 {
		if v != v {
			v = math.NaN()
		}
		b = binary.BigEndian.AppendUint64(b, math.Float64bits(v))
	}
	b = binary.BigEndian.AppendUint64(b, uint64(len(s.F32)))
	for _, v := range s.F32 {
		if v != v {
			v = float32(math.NaN())
		}
		b = binary.BigEndian.AppendUint32(b, math.Float32bits(v))
	}
	b = binary.BigEndian.AppendUint64(b, uint64(len(s.Sub)))
	return append(b, s.Sub...)
}

// ParseState is the inverse of Append.
func ParseState(b []byte) (*State, error) {
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
		s.F64 = make([]float64, n)
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
		s.Sub = append([]byte(nil), b...)
	}
	return s, nil
}
