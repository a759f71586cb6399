package sha

import (
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"hash"
)

// Lanes is how many messages are hashed at a time.
const Lanes = 16

const blockSize = sha256.BlockSize

// State is the chaining value after some whole blocks.
type State struct {
	h [8]uint32
	n uint64 // bytes so far, a multiple of 64
}

// initial is FIPS 180-4 §5.3.3.
var initial = State{h: [8]uint32{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}}

// The encoding of a crypto/sha256 hash: a magic of four bytes, the chaining
// value, the bytes of the unfinished block, the length. crypto/sha256 keeps it
// readable across releases, and a test holds it.
const (
	magic    = "sha\x03"
	chainEnd = len(magic) + sha256.Size
	wholeEnd = chainEnd + blockSize + 8
)

// Absorb is the state after prefix, whose length is a multiple of 64.
func Absorb(prefix []byte) State {
	if len(prefix)%blockSize != 0 {
		panic("sha: a prefix of whole blocks is needed")
	}
	h := sha256.New()
	h.Write(prefix)
	b, err := h.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil || len(b) != wholeEnd {
		panic("sha: the state of crypto/sha256 has another form")
	}
	s := State{n: uint64(len(prefix))}
	for i := range s.h {
		s.h[i] = binary.BigEndian.Uint32(b[len(magic)+4*i:])
	}
	return s
}

// Sum is the digest of what s has absorbed followed by message.
func (s *State) Sum(message []byte) [32]byte {
	var o one
	return o.sum(s, message)
}

// one is crypto/sha256 with a state put into it.
type one struct {
	h   hash.Hash
	buf [wholeEnd]byte
}

func (o *one) sum(from *State, message []byte) (out [32]byte) {
	if o.h == nil {
		o.h = sha256.New()
		copy(o.buf[:], magic)
	}
	for i, v := range from.h {
		binary.BigEndian.PutUint32(o.buf[len(magic)+4*i:], v)
	}
	binary.BigEndian.PutUint64(o.buf[wholeEnd-8:], from.n)
	if err := o.h.(encoding.BinaryUnmarshaler).UnmarshalBinary(o.buf[:]); err != nil {
		panic("sha: the state of crypto/sha256 has another form")
	}
	o.h.Write(message)
	o.h.Sum(o.buf[len(magic):len(magic)])
	copy(out[:], o.buf[len(magic):])
	return out
}

// Batch hashes messages of equal length. It is working memory and nothing
// else: one for each goroutine.
type Batch struct {
	state [8][Lanes]uint32
	tail  [Lanes * 2 * blockSize]byte
	one   one
}

// Sum hashes len(out) messages of size bytes, message i from data[i*stride],
// each after what from has absorbed; nil is nothing.
func (b *Batch) Sum(out [][32]byte, from *State, data []byte, stride, size int) {
	b.check(len(out), data, stride, size)
	if from == nil {
		from = &initial
	}
	for Enabled && len(out) >= Lanes {
		for j, v := range from.h {
			for i := range b.state[j] {
				b.state[j][i] = v
			}
		}
		b.sixteen(out[:Lanes], from.n, data, stride, size)
		out, data = out[Lanes:], data[min(Lanes*stride, len(data)):]
	}
	for i := range out {
		out[i] = b.one.sum(from, data[i*stride:i*stride+size])
	}
}

// SumEach is Sum after a chaining value for each message, in its big-endian
// form, all after the same number of bytes, a multiple of 64.
func (b *Batch) SumEach(out [][32]byte, after []*[32]byte, before uint64, data []byte, stride, size int) {
	b.check(len(out), data, stride, size)
	if before%blockSize != 0 {
		panic("sha: a chaining value stands between blocks")
	}
	after = after[:len(out)]
	for Enabled && len(out) >= Lanes {
		for i, v := range after[:Lanes] {
			for j := range b.state {
				b.state[j][i] = binary.BigEndian.Uint32(v[4*j:])
			}
		}
		b.sixteen(out[:Lanes], before, data, stride, size)
		out, after, data = out[Lanes:], after[Lanes:], data[min(Lanes*stride, len(data)):]
	}
	for i := range out {
		s := State{n: before}
		for j := range s.h {
			s.h[j] = binary.BigEndian.Uint32(after[i][4*j:])
		}
		out[i] = b.one.sum(&s, data[i*stride:i*stride+size])
	}
}

func (b *Batch) check(n int, data []byte, stride, size int) {
	if size < 0 || stride < size || n > 0 && len(data) < (n-1)*stride+size {
		panic("sha: lengths do not fit")
	}
}

// sixteen ends sixteen messages whose states are loaded.
func (b *Batch) sixteen(out [][32]byte, before uint64, data []byte, stride, size int) {
	whole := size / blockSize
	if whole > 0 {
		compress(&b.state, &data[0], stride, whole)
	}
	rest, blocks := size-whole*blockSize, 1
	if rest > blockSize-1-8 {
		blocks = 2
	}
	width := blocks * blockSize
	bits := (before + uint64(size)) * 8
	for i := range Lanes {
		row := b.tail[i*width : (i+1)*width]
		n := copy(row, data[i*stride+whole*blockSize:i*stride+size])
		row[n] = 0x80
		clear(row[n+1 : width-8])
		binary.BigEndian.PutUint64(row[width-8:], bits)
	}
	compress(&b.state, &b.tail[0], width, blocks)
	for i := range out {
		o := &out[i]
		for j := range 8 {
			binary.BigEndian.PutUint32(o[4*j:], b.state[j][i])
		}
	}
}

// mostBlocks is the longest message, in blocks with its padding, that a Packer
// keeps for others of its length.
const mostBlocks = 8

// Packer hashes messages of any length, sixteen of those that take equally many
// blocks at a time. A digest is there at the latest after Flush. It is working
// memory: one for each goroutine.
type Packer struct {
	batch Batch
	rows  [mostBlocks]packed
}

type packed struct {
	n   int
	to  [Lanes]*[32]byte
	buf []byte
}

// Add hashes message into to, now or later.
func (p *Packer) Add(message []byte, to *[32]byte) {
	blocks := (len(message) + 1 + 8 + blockSize - 1) / blockSize
	if !Enabled || blocks > mostBlocks {
		*to = sha256.Sum256(message)
		return
	}
	width, row := blocks*blockSize, &p.rows[blocks-1]
	if row.buf == nil {
		row.buf = make([]byte, Lanes*width)
	}
	slot := row.buf[row.n*width : (row.n+1)*width]
	n := copy(slot, message)
	slot[n] = 0x80
	clear(slot[n+1 : width-8])
	binary.BigEndian.PutUint64(slot[width-8:], uint64(n)*8)
	row.to[row.n] = to
	if row.n++; row.n == Lanes {
		p.run(row, blocks)
	}
}

// Flush hashes what is left.
func (p *Packer) Flush() {
	for i := range p.rows {
		if p.rows[i].n > 0 {
			p.run(&p.rows[i], i+1)
		}
	}
}

// run hashes a row. Lanes without a message hash what was there before.
func (p *Packer) run(row *packed, blocks int) {
	for j, v := range initial.h {
		for i := range p.batch.state[j] {
			p.batch.state[j][i] = v
		}
	}
	compress(&p.batch.state, &row.buf[0], blocks*blockSize, blocks)
	for i, to := range row.to[:row.n] {
		for j := range p.batch.state {
			binary.BigEndian.PutUint32(to[4*j:], p.batch.state[j][i])
		}
		row.to[i] = nil
	}
	row.n = 0
}

// Wipe overwrites the working memory, best effort.
func (p *Packer) Wipe() {
	p.batch.Wipe()
	for i := range p.rows {
		clear(p.rows[i].buf)
	}
}

// Wipe overwrites the working memory, best effort.
func (b *Batch) Wipe() {
	clear(b.tail[:])
	b.state = [8][Lanes]uint32{}
}
