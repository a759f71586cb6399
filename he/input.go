package he

import (
	"io"

	"consilium"
	"consilium/internal/sha"
)

// Lender is a reader that can give out its next n bytes where they lie. They are read
// before the next call. Next fails where io.ReadFull would, and with the same errors.
type Lender interface {
	io.Reader
	Next(n int) ([]byte, error)
}

// Input is an encrypted vector on its way from where it is kept into a sum: it is read
// ahead into a buffer, digested while the cache holds it, and lent. What goes into the sum is
// what Digest names, read once.
//
// The buffer holds ciphertext, which nobody needs to wipe.
type Input struct {
	r    io.Reader
	hash *CiphertextHash // nil if nobody asks for the digest
	room []byte
	left []byte // of room: read, and not given out
	err  error  // of r, behind left
}

var _ Lender = (*Input)(nil)

// inputSize is how much is read at a time: what the digest takes in one step, so that
// it copies nothing.
const inputSize = sha.Lanes * sha.LeafSize

// NewInput takes what r has until its end.
func NewInput(r io.Reader) *Input { return &Input{r: r, hash: NewCiphertextHash()} }

// Next implements Lender.
func (in *Input) Next(n int) ([]byte, error) {
	if len(in.left) < n {
		if in.fill(n); len(in.left) < n {
			if in.err == io.EOF && len(in.left) > 0 {
				return nil, io.ErrUnexpectedEOF
			}
			return nil, in.err
		}
	}
	b := in.left[:n:n]
	in.left = in.left[n:]
	return b, nil
}

// Read implements io.Reader.
func (in *Input) Read(b []byte) (int, error) {
	if len(in.left) == 0 && len(b) > 0 {
		if in.fill(1); len(in.left) == 0 {
			return 0, in.err
		}
	}
	n := copy(b, in.left)
	in.left = in.left[n:]
	return n, nil
}

// fill reads on until n bytes are left, or r has no more.
func (in *Input) fill(n int) {
	if len(in.room) < n+inputSize {
		in.room = append(make([]byte, 0, n+inputSize), in.left...)[:n+inputSize]
	} else {
		copy(in.room, in.left)
	}
	have := len(in.left)
	for have < n && in.err == nil {
		k, err := io.ReadFull(in.r, in.room[have:have+inputSize])
		if in.err = err; err == io.ErrUnexpectedEOF {
			in.err = io.EOF
		}
		if in.hash != nil {
			in.hash.Write(in.room[have : have+k])
		}
		have += k
	}
	in.left = in.room[:have]
}

// Digest names what was read, which after Sum is the whole.
func (in *Input) Digest() consilium.Digest { return in.hash.Digest() }
