package party

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"slices"

	"consilium"
	"consilium/internal/sha"
	"consilium/internal/vec"
)

// Source yields the lanes of one vector in order, like io.Reader: Read fills
// at most len(lanes) and returns io.EOF at the end.
type Source interface {
	Read(lanes []int32) (int, error)
}

// Lender is a Source that can give out its next lanes where they lie, at most most
// of them, as Read would. They are read before the next call.
type Lender interface {
	Source
	Next(most int) ([]int32, error)
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
	lent, err := l.Next(len(lanes))
	return copy(lanes, lent), err
}

// Next implements Lender.
func (l *Lanes) Next(most int) ([]int32, error) {
	if len(*l) == 0 {
		return nil, io.EOF
	}
	n := min(most, len(*l))
	lent := (*l)[:n:n]
	*l = (*l)[n:]
	return lent, nil
}

// VectorHash computes Header.Vector, the salted digest of a round's lanes,
// while they stream through it. A vector has one digest in all attempts of its
// round, whatever the pieces it came in. The salt is the hospital's own: nobody
// else ever checks the digest, and under a salt that the group shares one
// dishonest hospital would find a small table again by trying all.
//
// It is a tree hash of package sha with the domain DomainVector: a piece is 2048
// lanes, little-endian in two bytes each if all of them fit (its leaf has the kind
// of an ordinary one), and else in four (sha.KindWide); the last may be shorter.
// The context is the salt, the length the number of lanes. Learned vectors hash
// twice as fast for it.
type VectorHash struct {
	tree         *sha.Tree
	narrow, wide sha.State
	salt         [32]byte
	lanes        uint64
	buf          [vectorPiece]int32 // of an unfinished piece
	n            int
	out          []byte // whole pieces of one kind, less than a batch
	width        int    // of a lane in out: 2 or 4
}

const vectorPiece = sha.LeafSize / 2

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
	const domain = string(consilium.DomainVector)
	return &VectorHash{
		tree: sha.NewTree(domain), narrow: sha.Prefix(domain, sha.KindLeaf), wide: sha.Prefix(domain, sha.KindWide),
		salt: salt, out: make([]byte, 0, sha.Lanes*4*vectorPiece),
	}
}

// Write continues with lanes.
func (v *VectorHash) Write(lanes []int32) {
	v.lanes += uint64(len(lanes))
	for len(lanes) > 0 {
		if v.n == 0 && len(lanes) >= vectorPiece {
			v.piece(lanes[:vectorPiece])
			lanes = lanes[vectorPiece:]
			continue
		}
		n := copy(v.buf[v.n:], lanes)
		v.n += n
		lanes = lanes[n:]
		if v.n == vectorPiece {
			v.piece(v.buf[:])
			v.n = 0
		}
	}
}

// write16 is Write of lanes of 16 bits, little-endian. Whole pieces are hashed where
// they lie.
func (v *VectorHash) write16(b []byte) {
	if v.n == 0 && len(v.out) == 0 {
		whole := len(b) - len(b)%sha.LeafSize
		v.tree.Leaves(&v.narrow, b[:whole], sha.LeafSize)
		v.lanes += uint64(whole / 2)
		b = b[whole:]
	}
	var part [64]int32
	for len(b) > 0 {
		n := min(len(b)/2, len(part))
		for i := range part[:n] {
			part[i] = int32(int16(binary.LittleEndian.Uint16(b[2*i:])))
		}
		v.Write(part[:n])
		b = b[2*n:]
	}
	clear(part[:])
}

// piece appends a whole piece to those that wait, or hashes them first if it is
// of another kind.
func (v *VectorHash) piece(lanes []int32) {
	out, width := encodeLanes(v.out, lanes)
	if len(v.out) > 0 && width != v.width {
		v.flush(v.tree)
		out, width = encodeLanes(v.out, lanes)
	}
	v.out, v.width = out, width
	if len(out) == sha.Lanes*width*vectorPiece {
		v.flush(v.tree)
	}
}

func (v *VectorHash) flush(t *sha.Tree) {
	if len(v.out) > 0 {
		t.Leaves(v.kind(v.width), v.out, v.width*vectorPiece)
	}
	if t == v.tree {
		v.out = v.out[:0]
	}
}

func (v *VectorHash) kind(width int) *sha.State {
	if width == 2 {
		return &v.narrow
	}
	return &v.wide
}

// narrow writes lanes as 16 bits each, little-endian, and reports whether all fit.
func narrow(b []byte, lanes []int32) bool {
	ok := true
	if whole := len(lanes) &^ 15; vec.Enabled && whole > 0 {
		ok = vec.Narrow(b[:2*whole], lanes[:whole])
		b, lanes = b[2*whole:], lanes[whole:]
	}
	var wide uint32
	for _, m := range lanes {
		wide |= uint32(m+1<<15) >> 16
	}
	for ; len(lanes) >= 4 && len(b) >= 8; lanes, b = lanes[4:], b[8:] {
		binary.LittleEndian.PutUint64(b, uint64(uint16(lanes[0]))|uint64(uint16(lanes[1]))<<16|
			uint64(uint16(lanes[2]))<<32|uint64(uint16(lanes[3]))<<48)
	}
	for i, m := range lanes {
		binary.LittleEndian.PutUint16(b[2*i:], uint16(m))
	}
	return ok && wide == 0
}

// encodeLanes appends a piece to out and says how many bytes a lane takes.
func encodeLanes(out []byte, lanes []int32) ([]byte, int) {
	at, n := len(out), len(lanes)
	out = slices.Grow(out, 4*n)
	if narrow(out[at:at+2*n], lanes) {
		return out[:at+2*n], 2
	}
	b := out[at : at+4*len(lanes)]
	for ; len(lanes) >= 2 && len(b) >= 8; lanes, b = lanes[2:], b[8:] {
		binary.LittleEndian.PutUint64(b, uint64(uint32(lanes[0]))|uint64(uint32(lanes[1]))<<32)
	}
	for i, m := range lanes {
		binary.LittleEndian.PutUint32(b[4*i:], uint32(m))
	}
	return out[:at+4*n], 4
}

// Wipe overwrites the lanes that were held, best effort.
func (v *VectorHash) Wipe() {
	clear(v.buf[:])
	clear(v.out[:cap(v.out)])
	v.tree.Wipe()
}

// Digest names the lanes written so far; Write can go on.
func (v *VectorHash) Digest() consilium.Digest {
	t := v.tree.Clone()
	v.flush(t)
	if v.n > 0 || v.lanes == 0 {
		last, width := encodeLanes(nil, v.buf[:v.n])
		t.Leaf(v.kind(width), last)
		clear(last)
	}
	root := sha.RootPrefix(string(consilium.DomainVector))
	return t.Digest(&root, v.salt[:], v.lanes)
}

// VectorDigest is the digest of lanes in memory.
func VectorDigest(salt [32]byte, lanes []int32) consilium.Digest {
	v := NewVectorHash(salt)
	v.Write(lanes)
	return v.Digest()
}
