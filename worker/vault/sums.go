package vault

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"runtime"

	"consilium"
	"consilium/internal/durable"
	"consilium/internal/fixed"
)

// openedSums are the opened sums of one round, in the order in which they come.
// The sums of a long vector go to a file: an update checks all of them, and then takes
// them again piece by piece, while the state is the one long thing in memory. Every
// piece, whenever it is read, is held against the digest that was taken when it was
// written: what was checked is what enters the state. The file has no name: what
// becomes of the process, nothing of it is left.
type openedSums struct {
	want   int     // lanes
	memory []int32 // a sum of 128 lanes of 24 bits fits
	file   sumsFile
	have   int        // lanes so far
	pieces [][32]byte // SHA-256 of each sumsBuffer bytes of the file, the last fewer
	buf    []byte     // what is not written yet; after open, a piece as it was read
	held   int        // the number of that piece, or -1
}

// sumsFile is an *os.File, or one that fails in a test.
type sumsFile interface {
	io.ReaderAt
	io.WriteCloser
}

const (
	// memorySums is the longest vector whose sums are kept in memory: 4 MiB.
	memorySums = 1 << 20
	// sumsBuffer is how many bytes are written, read and digested at a time: what
	// the digests take is a two-thousandth of the file.
	sumsBuffer = 1 << 16
)

// newOpenedSums makes room for as many lanes; dir is the vault's.
func newOpenedSums(dir string, lanes int) (*openedSums, error) {
	s := &openedSums{want: lanes}
	if lanes <= memorySums {
		s.memory = make([]int32, 0, lanes)
		return s, nil
	}
	f, err := os.CreateTemp(dir, durable.TempPrefix+"sums-*")
	if err != nil {
		return nil, stored(err)
	}
	// If we crash before this, Prepare of the next vault finds an empty file, and removes it.
	if err := os.Remove(f.Name()); err != nil {
		return nil, stored(errors.Join(err, f.Close()))
	}
	s.file, s.buf = f, make([]byte, 0, sumsBuffer)
	s.pieces = make([][32]byte, 0, (4*lanes+sumsBuffer-1)/sumsBuffer)
	return s, nil
}

// add appends sums that belong at offset; none of them is more than lanes can sum
// to, and there are no more than the round asks for.
func (s *openedSums) add(offset int, sums []int64) error {
	if offset != s.have {
		return consilium.ErrInvalid.Withf("sums from %d, want from %d", offset, s.have)
	}
	if len(sums) > s.want-s.have {
		return consilium.ErrInvalid.Withf("%d sums, the round asks for %d", s.have+len(sums), s.want)
	}
	for _, x := range sums {
		if x != int64(int32(x)) {
			return consilium.ErrInvalid.Withf("a sum of %d: no lanes sum to this", x)
		}
	}
	s.have += len(sums)
	if s.file == nil {
		for _, x := range sums {
			s.memory = append(s.memory, int32(x))
		}
		return nil
	}
	for _, x := range sums {
		s.buf = binary.LittleEndian.AppendUint32(s.buf, uint32(x))
		if len(s.buf) == sumsBuffer {
			if err := s.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *openedSums) flush() error {
	if len(s.buf) == 0 {
		return nil
	}
	s.pieces = append(s.pieces, sha256.Sum256(s.buf))
	_, err := s.file.Write(s.buf)
	s.buf = s.buf[:0]
	if err != nil {
		return stored(err)
	}
	return nil
}

// complete reports whether all sums have come.
func (s *openedSums) complete() bool { return s != nil && s.have == s.want }

// open checks all sums. Nothing is added afterwards.
func (s *openedSums) open(layout consilium.Layout, contributors int) (*fixed.Sum, error) {
	if s.file != nil {
		if err := s.flush(); err != nil {
			return nil, err
		}
		s.held = -1
	}
	return fixed.NewSum(layout, contributors, s.read)
}

// read fills dst with the sums from at on, all of which exist, once open has begun.
func (s *openedSums) read(dst []int32, at int) error {
	if s.file == nil {
		copy(dst, s.memory[at:at+len(dst)])
		return nil
	}
	for len(dst) > 0 {
		b, err := s.piece(4 * at / sumsBuffer)
		if err != nil {
			return err
		}
		b = b[4*at%sumsBuffer:]
		n := min(len(dst), len(b)/4)
		for i := range dst[:n] {
			dst[i] = int32(binary.LittleEndian.Uint32(b[4*i:]))
		}
		dst, at = dst[n:], at+n
	}
	return nil
}

// piece reads a piece of the file, as it was written or not at all.
func (s *openedSums) piece(i int) ([]byte, error) {
	if s.held != i {
		s.held = -1
		s.buf = s.buf[:min(sumsBuffer, 4*s.want-i*sumsBuffer)]
		if _, err := s.file.ReadAt(s.buf, int64(i)*sumsBuffer); err != nil {
			return nil, stored(err)
		}
		if sha256.Sum256(s.buf) != s.pieces[i] {
			return nil, stored(errors.New("the file of the opened sums gives other bytes than were written to it"))
		}
		s.held = i
	}
	return s.buf, nil
}

// tidier runs the collector while something long passes. Left to itself it waits
// until the garbage of passing it is as long as all that is live: as another state. Here it runs when a sixteenth of that may have gathered;
// a run is short, since neither a state nor a vector holds a pointer.
type tidier struct{ passed int }

// garbage is how many bytes are left of each that passes, at most: a copy at
// each end of the pipe.
const garbage = 2

// pass notes that n bytes of something long passed; state is the length of the
// study's state.
func (t *tidier) pass(n, state int) {
	if state < leastTidy {
		return
	}
	if t.passed += garbage * n; t.passed >= state/16 {
		t.passed = 0
		runtime.GC()
	}
}

// leastTidy is the length of the shortest state that is worth it.
const leastTidy = 16 << 20

func (s *openedSums) close() {
	if s != nil && s.file != nil {
		s.file.Close()
	}
}
