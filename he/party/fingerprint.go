package party

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"log/slog"

	"consilium/internal/vec"
)

// Fingerprint recognises a vector that this process has just digested, at a fifth of
// what the digest costs: Contribute reads the vector once more, and must not encrypt
// another. It is NH (RFC 4418 §5.2.2; Black, Halevi, Krawczyk, Krovetz, Rogaway: UMAC,
// CRYPTO 1999) of pieces of 1024 lanes, with neighbouring lanes as pairs, three times
// with the key moved on by 16 bytes (RFC 4418 §5.1), and SHA-256 of that and the number
// of lanes. Two vectors that were chosen without the key have one fingerprint with
// probability at most 2^-96.
//
// The key is fresh and stays in this process. For everybody else, and in the journal, a
// vector's name is its digest: who knows the key finds two vectors with one fingerprint.
type Fingerprint struct {
	key   [fingerprintLanes + 16]uint32
	outer hash.Hash
	n     uint64
	buf   [fingerprintLanes]int32 // an unfinished piece
	have  int

	ended  bool
	digest [32]byte
}

// fingerprintLanes are the lanes of a piece.
const fingerprintLanes = 1024

// NewFingerprint starts one under a key of its own.
func NewFingerprint() (*Fingerprint, error) {
	var seed secret
	if err := seed.fill(); err != nil {
		return nil, err
	}
	defer seed.Wipe()
	f := &Fingerprint{outer: sha256.New()}
	var s stream
	s.open(newBlock(&seed.b), 0)
	for i := 0; i < len(f.key); i += 2 {
		x := s.uint64()
		f.key[i], f.key[i+1] = uint32(x), uint32(x>>32)
	}
	clear(s.buf[:])
	return f, nil
}

// again is an empty one under the same key.
func (f *Fingerprint) again() *Fingerprint { return &Fingerprint{key: f.key, outer: sha256.New()} }

// Write continues with lanes.
func (f *Fingerprint) Write(lanes []int32) {
	if f.ended {
		panic("party: a fingerprint goes on after its end")
	}
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

func (f *Fingerprint) piece(lanes []int32) {
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
func (f *Fingerprint) sum() [32]byte {
	if !f.ended {
		if f.have > 0 {
			clear(f.buf[f.have:])
			f.piece(f.buf[:])
		}
		f.outer.Write(binary.BigEndian.AppendUint64(nil, f.n))
		f.outer.Sum(f.digest[:0])
		f.ended = true
	}
	return f.digest
}

// Wipe overwrites key and lanes, best effort.
func (f *Fingerprint) Wipe() {
	clear(f.key[:])
	clear(f.buf[:])
}

func (f Fingerprint) String() string             { return "Fingerprint" + redacted }
func (f Fingerprint) GoString() string           { return f.String() }
func (f Fingerprint) LogValue() slog.Value       { return slog.StringValue(f.String()) }
func (f Fingerprint) Format(s fmt.State, _ rune) { io.WriteString(s, f.String()) }
