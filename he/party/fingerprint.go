package party

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"slices"

	"consilium"
	"consilium/internal/vec"
)

// Fingerprint names a vector and recognises it: it takes the lanes that VectorHash
// takes, gives the same digest, and beside it a fingerprint, by which Contribute, which
// reads the vector once more and must not encrypt another, knows it again at a quarter
// of what the digest costs. Both are of one object, so that a digest of one vector and the
// fingerprint of another never meet.
//
// The fingerprint is NH (RFC 4418 §5.2.2; Black, Halevi, Krawczyk, Krovetz, Rogaway:
// UMAC, CRYPTO 1999) of pieces of 1024 lanes, with neighbouring lanes as pairs, three times
// with the key moved on by 16 bytes (RFC 4418 §5.1), and SHA-256 of that and the number
// of lanes. Two vectors that were chosen without the key have one fingerprint with
// probability at most 2^-96.
//
// The key is fresh and stays in this process. For everybody else, and in the journal, a
// vector's name is its digest: who knows the key finds two vectors with one fingerprint.
//
// Write and Digest are not for concurrent use. After Digest nothing changes until Wipe, and
// several contributions may use it at once.
type Fingerprint struct {
	lanes  universal
	vector *VectorHash // nil once it has ended
	salt   [32]byte
	state  fingerprintState
	of     consilium.Digest // of the vector, once it has ended
	sum    [32]byte
}

type fingerprintState uint8

const (
	fingerprintVoid  fingerprintState = iota // zero, or wiped: recognises nothing
	fingerprintOpen                          // lanes come
	fingerprintEnded                         // of and sum are there
)

// NewFingerprint starts one, with the digest of a vector under a salt from VectorSalt
// and the fingerprint under a key of its own.
func NewFingerprint(salt [32]byte) (*Fingerprint, error) {
	var seed secret
	if err := seed.fill(); err != nil {
		return nil, err
	}
	defer seed.Wipe()
	f := &Fingerprint{vector: NewVectorHash(salt), salt: salt, state: fingerprintOpen}
	f.lanes.outer = sha256.New()
	var s stream
	s.open(newBlock(&seed.b), 0)
	for key := f.lanes.key[:]; len(key) > 0; key = key[2:] {
		x := s.uint64()
		key[0], key[1] = uint32(x), uint32(x>>32)
	}
	clear(s.buf[:])
	return f, nil
}

// Write continues with lanes.
func (f *Fingerprint) Write(lanes []int32) {
	if f.state != fingerprintOpen {
		panic("party: a fingerprint goes on after its end")
	}
	for part := range slices.Chunk(lanes, vectorPiece) { // the first cache holds it for the second reader
		f.vector.Write(part)
		f.lanes.write(part)
	}
}

// Digest ends the vector: no lanes come after it. It is VectorDigest of the lanes, and
// can be asked for again until Wipe.
func (f *Fingerprint) Digest() consilium.Digest {
	switch f.state {
	case fingerprintOpen:
		f.of, f.sum = f.vector.Digest(), f.lanes.sum()
		f.vector.Wipe()
		f.vector, f.state = nil, fingerprintEnded
	case fingerprintVoid:
		panic("party: the digest of a fingerprint that was wiped")
	}
	return f.of
}

// again begins the fingerprint of lanes that shall be the vector that in names, under
// the same key.
func (f *Fingerprint) again(in *Encryption) (*universal, error) {
	switch {
	case f.state != fingerprintEnded:
		return nil, consilium.ErrInvalid.Withf("the fingerprint of a vector is used before its Digest or after Wipe")
	case f.salt != in.Salt || f.of != in.Vector:
		return nil, consilium.ErrInvalid.Withf("the fingerprint is of another vector, %s, than that of this round, %s", f.of.Short(), in.Vector.Short())
	}
	return f.lanes.again(), nil
}

// Wipe overwrites key and lanes, best effort. What was wiped recognises no vector.
func (f *Fingerprint) Wipe() {
	f.lanes.wipe()
	if f.vector != nil {
		f.vector.Wipe()
	}
	clear(f.salt[:])
	clear(f.sum[:])
	f.of, f.vector, f.state = consilium.Digest{}, nil, fingerprintVoid
}

func (f Fingerprint) String() string             { return "Fingerprint" + redacted }
func (f Fingerprint) GoString() string           { return f.String() }
func (f Fingerprint) LogValue() slog.Value       { return slog.StringValue(f.String()) }
func (f Fingerprint) Format(s fmt.State, _ rune) { io.WriteString(s, f.String()) }

// universal is the hash of a fingerprint.
type universal struct {
	key   [fingerprintLanes + 16]uint32
	outer hash.Hash
	n     uint64
	buf   [fingerprintLanes]int32 // an unfinished piece
	have  int
}

// fingerprintLanes are the lanes of a piece.
const fingerprintLanes = 1024

// again is an empty one under the same key.
func (f *universal) again() *universal { return &universal{key: f.key, outer: sha256.New()} }

// write continues with lanes.
func (f *universal) write(lanes []int32) {
	f.n += uint64(len(lanes))
	for len(lanes) > 0 {
		if f.have == 0 && len(lanes) >= len(f.buf) {
			f.piece(lanes[:len(f.buf)])
			lanes = lanes[len(f.buf):]
			continue
		}
		k := copy(f.buf[f.have:], lanes)
		lanes = lanes[k:]
		if f.have += k; f.have == len(f.buf) {
			f.piece(f.buf[:])
			f.have = 0
		}
	}
}

func (f *universal) piece(lanes []int32) {
	var sums [3]uint64
	if vec.Enabled {
		sums = vec.NH(lanes, f.key[:])
	} else {
		sums = nh(lanes, f.key[:])
	}
	var b [24]byte
	for i, x := range sums {
		binary.BigEndian.PutUint64(b[8*i:], x)
	}
	f.outer.Write(b[:])
}

// nh is vec.NH where there are no vector instructions.
func nh(lanes []int32, key []uint32) (sums [3]uint64) {
	for i := range sums {
		k := key[4*i : 4*i+len(lanes)]
		for j := 0; j < len(lanes); j += 2 {
			sums[i] += uint64(uint32(lanes[j])+k[j]) * uint64(uint32(lanes[j+1])+k[j+1])
		}
	}
	return sums
}

// sum ends it: nothing is written afterwards.
func (f *universal) sum() (sum [32]byte) {
	if f.have > 0 {
		clear(f.buf[f.have:])
		f.piece(f.buf[:])
	}
	f.outer.Write(binary.BigEndian.AppendUint64(nil, f.n))
	f.outer.Sum(sum[:0])
	return sum
}

func (f *universal) wipe() {
	clear(f.key[:])
	clear(f.buf[:])
	f.outer, f.n, f.have = nil, 0, 0
}
