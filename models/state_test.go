package models

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

// plainEncoding is the state's encoding, written down once more.
func plainEncoding(s *State) []byte {
	var b bytes.Buffer
	put := func(v any) { binary.Write(&b, binary.BigEndian, v) }
	put(s.Phase)
	put(s.Iteration)
	put(s.Done)
	put(uint64(len(s.F64)))
	for _, v := range s.F64 {
		if math.IsNaN(v) {
			put(uint64(0x7ff8000000000001))
			continue
		}
		put(v)
	}
	put(uint64(len(s.F32)))
	for _, v := range s.F32 {
		if math.IsNaN(float64(v)) {
			put(uint32(0x7fc00000))
			continue
		}
		put(v)
	}
	sub := s.Sub
	if s.Parts != nil {
		var nested bytes.Buffer
		binary.Write(&nested, binary.BigEndian, uint32(len(s.Parts)))
		for _, p := range s.Parts {
			e := plainEncoding(p)
			binary.Write(&nested, binary.BigEndian, uint64(len(e)))
			nested.Write(e)
		}
		sub = nested.Bytes()
	}
	put(uint64(len(sub)))
	b.Write(sub)
	return b.Bytes()
}

func randomState(r *rand.Rand, depth int) *State {
	s := &State{Phase: r.Uint32(), Iteration: r.Uint32(), Done: r.IntN(2) == 0}
	for range r.IntN(5) {
		s.F64 = append(s.F64, math.Float64frombits(r.Uint64()))
	}
	for range r.IntN(5) {
		s.F32 = append(s.F32, math.Float32frombits(r.Uint32()))
	}
	if r.IntN(3) == 0 {
		s.F64, s.F32 = append(s.F64, math.NaN()), append(s.F32, float32(math.NaN()))
	}
	if depth > 0 && r.IntN(2) == 0 {
		for range 1 + r.IntN(3) {
			s.Parts = append(s.Parts, randomState(r, depth-1))
		}
	} else {
		for range r.IntN(9) {
			s.Sub = append(s.Sub, byte(r.Uint32()))
		}
	}
	return s
}

// The encoding is the same whether what is nested is parsed or not, and from
// every byte on.
func TestStateEncoding(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		s := randomState(r, 2)
		want := plainEncoding(s)
		if got := s.Append([]byte("before")); !bytes.Equal(got[6:], want) || string(got[:6]) != "before" {
			t.Fatalf("%+v: %x, want %x", s, got, want)
		}
		if s.Size() != len(want) || !s.Is(want) || s.Is(want[1:]) {
			t.Fatalf("size %d of %d", s.Size(), len(want))
		}
		at := r.IntN(len(want))
		want[at] ^= 1
		if s.Is(want) {
			t.Fatalf("it is also another state: byte %d", at)
		}
		want[at] ^= 1
		for from := range len(want) + 2 {
			p := make([]byte, r.IntN(len(want)+2))
			n, err := s.ReadAt(p, int64(from))
			rest := want[min(from, len(want)):]
			if n != min(len(p), len(rest)) || !bytes.Equal(p[:n], rest[:n]) || (err == io.EOF) != (n < len(p)) {
				t.Fatalf("%d bytes from %d of %d: %d, %v", len(p), from, len(want), n, err)
			}
		}
		if err := iotest.TestReader(io.NewSectionReader(s, 0, int64(s.Size())), want); err != nil {
			t.Fatal(err)
		}
		back, err := ParseState(want)
		if err != nil || !back.Is(want) {
			t.Fatalf("%v: not what was written", err)
		}
	}
}

// A long state has room for what rounds add.
func TestStateRoom(t *testing.T) {
	s := &State{F64: make([]float64, 1<<17)}
	back, err := ParseState(s.Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	if free := cap(back.F64) - len(back.F64); free < 1<<12 || free > 1<<13 {
		t.Errorf("room for %d values beside %d", free, len(back.F64))
	}
}
