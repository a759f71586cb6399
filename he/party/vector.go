package party

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"io"

	"consilium"
	"consilium/internal/vec"
)

// Source yields the lanes of one vector in order, like io.Reader: Read fills
// at most len(lanes) and returns io.EOF at the end.
type Source interface {
	Read(lanes []int32) (int, error)
}

// Sink takes the opened sums in order. The slice is reused after Write
// returns.
type Sink interface {
	Write(sums []int64) error
}

// SinkFunc is a function as a Sink.
type SinkFunc func(sums []int64) error

func (f SinkFunc) Write(sums []int64) error { return f(sums) }

// Lanes is a vector in memory, as a Source.
type Lanes []int32

func (l *Lanes) Read(lanes []int32) (int, error) {
	if len(*l) == 0 {
		return 0, io.EOF
	}
	n := copy(lanes, *l)
	*l = (*l)[n:]
	return n, nil
}

// VectorHash computes Header.Vector, the salted digest of a round's lanes,
// while they stream through it. A vector has one digest in all attempts of its
// round, whatever the pieces it came in. The salt is the hospital's own: nobody
// else ever checks the digest, and under a salt that the group shares one
// dishonest hospital would find a small table again by trying all.
//
// It is SHA-256 over the length-prefixed DomainVector, the salt, and the lanes
// in blocks of 1024 (the last may be shorter): one byte that says how many
// bytes a lane takes, 2 if all of the block fit and else 4, then the lanes,
// little-endian. Learned vectors hash twice as fast for it.
type VectorHash struct {
	h   hash.Hash
	buf [vectorBlock]int32
	n   int
	out []byte
}

const vectorBlock = 1024

// VectorSalt is the salt of a hospital's vector in one round of a study, for all
// attempts: from its identity secret, of at least 32 bytes, which nobody else has.
func VectorSalt(identity []byte, study consilium.StudyID, round uint32) ([32]byte, error) {
	if len(identity) < 32 {
		return [32]byte{}, consilium.ErrInvalid.Withf("identity secret of %d bytes: want at least 32", len(identity))
	}
	prk, err := hkdf.Extract(sha256.New, identity, consilium.DomainVector.Message(nil))
	if err != nil {
		return [32]byte{}, err
	}
	defer clear(prk)
	return derive(prk, consilium.DomainVector, []byte(study), binary.BigEndian.AppendUint32(nil, round)), nil
}

// NewVectorHash starts a digest under a salt from VectorSalt.
func NewVectorHash(salt [32]byte) *VectorHash {
	v := &VectorHash{h: sha256.New(), out: make([]byte, 0, 1+4*vectorBlock)}
	v.h.Write(consilium.DomainVector.Message(nil))
	v.h.Write(salt[:])
	return v
}

// Write continues with lanes.
func (v *VectorHash) Write(lanes []int32) {
	for len(lanes) > 0 {
		if v.n == 0 && len(lanes) >= vectorBlock {
			v.block(lanes[:vectorBlock])
			lanes = lanes[vectorBlock:]
			continue
		}
		n := copy(v.buf[v.n:], lanes)
		v.n += n
		lanes = lanes[n:]
		if v.n == vectorBlock {
			v.block(v.buf[:])
			v.n = 0
		}
	}
}

func (v *VectorHash) block(lanes []int32) { v.h.Write(v.encode(lanes)) }

func (v *VectorHash) encode(lanes []int32) []byte {
	if vec.Enabled && len(lanes) == vectorBlock {
		out := v.out[:1+2*vectorBlock]
		if out[0] = 2; vec.Narrow(out[1:], lanes) {
			return out
		}
	}
	var wide uint32
	for _, m := range lanes {
		wide |= uint32(m+1<<15) >> 16
	}
	if wide == 0 {
		out := v.out[:1+2*len(lanes)]
		out[0] = 2
		b := out[1:]
		for ; len(lanes) >= 4 && len(b) >= 8; lanes, b = lanes[4:], b[8:] {
			binary.LittleEndian.PutUint64(b, uint64(uint16(lanes[0]))|uint64(uint16(lanes[1]))<<16|
				uint64(uint16(lanes[2]))<<32|uint64(uint16(lanes[3]))<<48)
		}
		for i, m := range lanes {
			binary.LittleEndian.PutUint16(b[2*i:], uint16(m))
		}
		return out
	}
	out := v.out[:1+4*len(lanes)]
	out[0] = 4
	for i, m := range lanes {
		binary.LittleEndian.PutUint32(out[1+4*i:], uint32(m))
	}
	return out
}

// Digest names the lanes written so far.
func (v *VectorHash) Digest() (d consilium.Digest) {
	if v.n == 0 {
		v.h.Sum(d[:0])
		return d
	}
	// The last block is hashed in a copy, so that Write can go on.
	h, err := v.h.(hash.Cloner).Clone()
	if err != nil {
		panic("party: SHA-256 can be cloned: " + err.Error())
	}
	h.Write(v.encode(v.buf[:v.n]))
	h.Sum(d[:0])
	return d
}

// VectorDigest is the digest of lanes in memory.
func VectorDigest(salt [32]byte, lanes []int32) consilium.Digest {
	v := NewVectorHash(salt)
	v.Write(lanes)
	return v.Digest()
}
