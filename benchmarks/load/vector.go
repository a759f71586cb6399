//go:build unix

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"consilium"
	"consilium/he/party"
)

// work is what a hospital computes in the rounds of one study.
type work interface {
	// local makes the vector of a round.
	local(ctx context.Context, study consilium.StudyID, round uint32) error
	lanes() int // of the vector that local made
	bits() int  // of one lane
	source() party.Source
	// sums takes the opened sums in order.
	sums(offset int, sums []int64) error
	// update ends the round and returns the next state.
	update(ctx context.Context, round uint32, members []consilium.Position) (state []byte, done bool, err error)
}

// synthetic is a vector of 16-bit lanes that costs next to nothing to make, and
// whose sum anybody can tell.
type synthetic struct {
	size     int
	position consilium.Position
	rounds   uint32
	want     []consilium.Position // those whose sum is expected; nil: not checked
	salt     uint32
	model    int64 // of all sums
	taken    int
}

// lane is lane i of the hospital at p: within 13 bits, and others in every round
// of every study. In the open the same numbers would be the same blob.
func (s *synthetic) lane(p consilium.Position, i int) int32 {
	return int32((uint32(i)^s.salt)*2654435761>>20) - 2048 + int32(p)
}

func (s *synthetic) local(_ context.Context, study consilium.StudyID, round uint32) error {
	d := consilium.DomainState.Digest([]byte(study), []byte{byte(round)})
	s.salt, s.taken, s.model = binary.BigEndian.Uint32(d[:]), 0, 0
	return nil
}

func (s *synthetic) lanes() int           { return s.size }
func (s *synthetic) bits() int            { return 16 }
func (s *synthetic) source() party.Source { return &syntheticSource{s: s} }

type syntheticSource struct {
	s  *synthetic
	at int
}

func (r *syntheticSource) Read(dst []int32) (int, error) {
	n := min(len(dst), r.s.size-r.at)
	if n == 0 {
		return 0, io.EOF
	}
	for i := range dst[:n] {
		dst[i] = r.s.lane(r.s.position, r.at+i)
	}
	r.at += n
	return n, nil
}

func (s *synthetic) sums(offset int, sums []int64) error {
	if offset != s.taken {
		return fmt.Errorf("sums from %d, want %d", offset, s.taken)
	}
	s.taken += len(sums)
	if s.want == nil {
		for _, x := range sums {
			s.model += x
		}
		return nil
	}
	n, all := int64(len(s.want)), int64(0)
	for _, p := range s.want {
		all += int64(p)
	}
	for i, x := range sums {
		if want := n*int64(s.lane(0, offset+i)) + all; x != want {
			return fmt.Errorf("lane %d: the sum is %d, want %d", offset+i, x, want)
		}
		s.model += x
	}
	return nil
}

func (s *synthetic) update(_ context.Context, round uint32, _ []consilium.Position) ([]byte, bool, error) {
	if s.taken != s.size {
		return nil, false, fmt.Errorf("%d of %d sums", s.taken, s.size)
	}
	return binary.BigEndian.AppendUint64([]byte{byte(round)}, uint64(s.model)), round == s.rounds, nil
}

// plainReader is a vector as float32, little-endian: what the twin adds. Lanes
// of 16 bits and sums of 128 of them are exact.
type plainReader struct {
	src  party.Source
	buf  [1 << 12]int32
	out  [4 << 12]byte
	left []byte
}

func (r *plainReader) Read(b []byte) (int, error) {
	if len(r.left) == 0 {
		n, err := r.src.Read(r.buf[:])
		if n == 0 {
			return 0, err
		}
		for i, x := range r.buf[:n] {
			binary.LittleEndian.PutUint32(r.out[4*i:], math.Float32bits(float32(x)))
		}
		r.left = r.out[:4*n]
	}
	n := copy(b, r.left)
	r.left = r.left[n:]
	return n, nil
}

// openPlain is the counterpart of party.Open: it reads the sums of the twin.
func openPlain(r io.Reader, lanes int, sink func([]int64) error) error {
	in, out := make([]byte, 4<<12), make([]int64, 1<<12)
	for left := lanes; left > 0; {
		n := min(left, len(out))
		if _, err := io.ReadFull(r, in[:4*n]); err != nil {
			return err
		}
		for i := range out[:n] {
			out[i] = int64(math.Float32frombits(binary.LittleEndian.Uint32(in[4*i:])))
		}
		if err := sink(out[:n]); err != nil {
			return err
		}
		left -= n
	}
	if n, err := r.Read(in[:1]); n != 0 || err != io.EOF {
		return errors.New("the sum is longer than the vector")
	}
	return nil
}
