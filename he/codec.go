package he

import (
	"encoding/binary"
	"errors"
	"io"
	"math/bits"
	"sync"

	"consilium"
	"consilium/internal/sha"
	"consilium/internal/vec"
)

// CiphertextHash computes Header.Ciphertext while bytes stream through it: the
// tree hash of package sha, with the domain DomainCiphertext, over the raw bytes.
type CiphertextHash struct{ h *sha.Stream }

// NewCiphertextHash starts a digest.
func NewCiphertextHash() *CiphertextHash {
	return &CiphertextHash{sha.NewStream(string(consilium.DomainCiphertext))}
}

// Write never fails.
func (c *CiphertextHash) Write(b []byte) (int, error) { return c.h.Write(b) }

// Digest names what was written so far.
func (c *CiphertextHash) Digest() (d consilium.Digest) {
	c.h.Sum(d[:0])
	return d
}

// The codec. A polynomial modulo one prime of b bits is N residues of b bits,
// one after the other, least significant bit first: eight residues take b
// bytes, so there is no padding and every accepted string has one meaning.

// slack is what the readers below may touch past the end of a packed
// polynomial; buffers for UnpackLimb must have that capacity.
const slack = vec.Slack

// fields holds a *vec.Field for every prime that the vector codec can take.
var fields sync.Map

// fieldOf is nil where the portable codec serves q.
func fieldOf(q uint64) *vec.Field {
	if f, ok := fields.Load(q); ok {
		return f.(*vec.Field)
	}
	if !vec.Fits(q) {
		return nil
	}
	f, _ := fields.LoadOrStore(q, vec.NewField(q))
	return f.(*vec.Field)
}

// LimbBuffer allocates a buffer for a packed polynomial of size bytes.
func LimbBuffer(size int) []byte { return make([]byte, size+slack)[:size] }

// PackLimb writes v, each below 2^width, to dst, whose length is
// len(v)/8·width. len(v) is a multiple of 64.
func PackLimb(dst []byte, v []uint64, width int) {
	if len(v)%64 != 0 || len(dst) != len(v)/8*width {
		panic("he: PackLimb: lengths do not fit")
	}
	if f := fieldOf(1<<width - 1); f != nil && len(v) > 0 {
		f.Pack(dst, v)
		return
	}
	var acc uint64
	fill := uint(0)
	w := uint(width)
	o := 0
	for _, x := range v {
		acc |= x << (fill & 63)
		fill += w
		if fill >= 64 {
			binary.LittleEndian.PutUint64(dst[o:], acc)
			o += 8
			fill -= 64
			acc = x >> ((w - fill) & 63)
			if fill == 0 {
				acc = 0
			}
		}
	}
}

// UnpackLimb reads len(v) residues of width bits from src and reports whether
// every one is below q. src comes from LimbBuffer.
func UnpackLimb(v []uint64, src []byte, width int, q uint64) bool {
	if f := fieldOf(q); f != nil && bits.Len64(q) == width && len(v) > 0 {
		return f.Unpack(v, src)
	}
	return unpack(v, src, width, q, false)
}

// unpack writes or, for add, adds the residues of src to v.
func unpack(v []uint64, src []byte, width int, q uint64, add bool) bool {
	if len(v)%8 != 0 || len(src) != len(v)/8*width || cap(src) < len(src)+slack {
		panic("he: unpack: lengths do not fit")
	}
	src = src[:len(src)+slack]
	mask := uint64(1)<<width - 1
	if width > 58 && width%4 != 0 {
		return unpackLong(v, src, width, q, add)
	}
	if width == 57 {
		return unpack57(v, src, q, add)
	}
	// Up to 58 bits, and at 60, a residue and its shift fit one 64-bit load.
	// Residue r of a group starts at bit r·width; the places repeat with
	// every group.
	w := uint(width)
	o1, o2, o3, o4, o5, o6, o7 := w>>3, 2*w>>3, 3*w>>3, 4*w>>3, 5*w>>3, 6*w>>3, 7*w>>3
	s1, s2, s3, s4, s5, s6, s7 := w&7, 2*w&7, 3*w&7, 4*w&7, 5*w&7, 6*w&7, 7*w&7
	top := q - 1
	// bad collects a borrow for every residue that is not below q.
	var bad uint64
	for len(v) >= 8 {
		out := v[:8:8]
		x0 := binary.LittleEndian.Uint64(src) & mask
		x1 := binary.LittleEndian.Uint64(src[o1:]) >> s1 & mask
		x2 := binary.LittleEndian.Uint64(src[o2:]) >> s2 & mask
		x3 := binary.LittleEndian.Uint64(src[o3:]) >> s3 & mask
		x4 := binary.LittleEndian.Uint64(src[o4:]) >> s4 & mask
		x5 := binary.LittleEndian.Uint64(src[o5:]) >> s5 & mask
		x6 := binary.LittleEndian.Uint64(src[o6:]) >> s6 & mask
		x7 := binary.LittleEndian.Uint64(src[o7:]) >> s7 & mask
		bad |= (top - x0) | (top - x1) | (top - x2) | (top - x3) | (top - x4) | (top - x5) | (top - x6) | (top - x7)
		if add {
			out[0] += x0
			out[1] += x1
			out[2] += x2
			out[3] += x3
			out[4] += x4
			out[5] += x5
			out[6] += x6
			out[7] += x7
		} else {
			out[0], out[1], out[2], out[3] = x0, x1, x2, x3
			out[4], out[5], out[6], out[7] = x4, x5, x6, x7
		}
		v = v[8:]
		src = src[width:]
	}
	return bad>>63 == 0
}

// unpack57 is unpack for the primes of the default profile, with every place a
// constant.
func unpack57(v []uint64, src []byte, q uint64, add bool) bool {
	const mask = 1<<57 - 1
	top := q - 1
	var bad uint64
	for len(v) >= 8 && len(src) >= 57+slack {
		out, in := v[:8:8], src[:57+slack]
		x0 := binary.LittleEndian.Uint64(in) & mask
		x1 := binary.LittleEndian.Uint64(in[7:]) >> 1 & mask
		x2 := binary.LittleEndian.Uint64(in[14:]) >> 2 & mask
		x3 := binary.LittleEndian.Uint64(in[21:]) >> 3 & mask
		x4 := binary.LittleEndian.Uint64(in[28:]) >> 4 & mask
		x5 := binary.LittleEndian.Uint64(in[35:]) >> 5 & mask
		x6 := binary.LittleEndian.Uint64(in[42:]) >> 6 & mask
		x7 := binary.LittleEndian.Uint64(in[49:]) >> 7 & mask
		bad |= (top - x0) | (top - x1) | (top - x2) | (top - x3) | (top - x4) | (top - x5) | (top - x6) | (top - x7)
		if add {
			out[0] += x0
			out[1] += x1
			out[2] += x2
			out[3] += x3
			out[4] += x4
			out[5] += x5
			out[6] += x6
			out[7] += x7
		} else {
			out[0], out[1], out[2], out[3] = x0, x1, x2, x3
			out[4], out[5], out[6], out[7] = x4, x5, x6, x7
		}
		v = v[8:]
		src = src[57:]
	}
	return bad>>63 == 0
}

// unpackLong is unpack where a residue may reach into a ninth byte.
func unpackLong(v []uint64, src []byte, width int, q uint64, add bool) bool {
	mask := uint64(1)<<width - 1
	var bad uint64
	for i := range v {
		at := i * width
		sh := uint(at & 7)
		x := binary.LittleEndian.Uint64(src[at>>3:])>>sh | uint64(src[at>>3+8])<<(64-sh)
		x &= mask
		bad |= q - 1 - x
		if add {
			v[i] += x
		} else {
			v[i] = x
		}
	}
	return bad>>63 == 0
}

var errResidue = errors.New("a residue is not below its modulus")

// Check reads one encrypted vector of exactly p.Size(lanes) bytes and no more,
// checks every residue, and returns its digest. What it accepts re-encodes to
// the same bytes. Memory is one packed polynomial.
func Check(p Profile, lanes int, r io.Reader) (consilium.Digest, error) {
	if err := p.Validate(); err != nil {
		return consilium.Digest{}, err
	}
	if lanes < 1 || lanes > MaxLanes {
		return consilium.Digest{}, consilium.ErrInvalid.Withf("%d lanes: want 1 to %d", lanes, MaxLanes)
	}
	return p.checkStream(p.Chunks(lanes), r)
}

func (p Profile) checkStream(chunks int, r io.Reader) (consilium.Digest, error) {
	h := NewCiphertextHash()
	size := 0
	for i := range p.Primes {
		size = max(size, p.LimbSize(i))
	}
	buf := LimbBuffer(size)
	v := make([]uint64, p.N())
	for j := 0; j < chunks; j++ {
		for i, q := range p.Primes {
			b := buf[:p.LimbSize(i)]
			if _, err := io.ReadFull(r, b); err != nil {
				return consilium.Digest{}, inLimb(err, j, i)
			}
			h.Write(b)
			if !UnpackLimb(v, b, bits.Len64(q), q) {
				return consilium.Digest{}, inLimb(errResidue, j, i)
			}
		}
	}
	if err := atEnd(r, tooLong); err != nil {
		return consilium.Digest{}, err
	}
	return h.Digest(), nil
}

// inLimb says where it was that a vector ended early or held no residue.
func inLimb(err error, chunk, limb int) error {
	switch err {
	case io.EOF, io.ErrUnexpectedEOF:
		return consilium.ErrInvalid.Withf("encrypted vector ends early, in chunk %d, limb %d", chunk, limb)
	case errResidue:
		return consilium.ErrInvalid.Withf("encrypted vector, chunk %d, limb %d: %w", chunk, limb, err)
	}
	return err
}

const tooLong = "encrypted vector is longer than the study's layout"

// atEnd fails with what when r holds another byte.
func atEnd(r io.Reader, what string) error {
	var b [1]byte
	for range 100 {
		n, err := r.Read(b[:])
		if n > 0 {
			return consilium.ErrInvalid.Withf("%s", what)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}
