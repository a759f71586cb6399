package party

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"

	"consilium"
	"consilium/internal/vec"
)

// streamBlock is how many bytes of keystream are made at once; a multiple of
// the cipher's own eight-block stride.
const streamBlock = 4096

var zeros [streamBlock]byte

// stream is the AES-256-CTR keystream of one key and one nonce. All large
// randomness comes from it: it is uniform, seekable by nonce, and several
// times faster than a hash-based generator.
type stream struct {
	ctr   cipher.Stream // if block has no vector form
	block *block
	nonce uint64
	next  uint64 // block number of the next refill
	buf   [streamBlock]byte
	off   int
}

// block is an AES-256 key: the standard library's cipher, or where the
// processor has the instructions an expanded key that takes no memory of its
// own for a stream.
type block struct {
	std cipher.Block
	aes vec.AES
}

func newBlock(key *[32]byte) *block {
	b := &block{}
	b.set(key)
	return b
}

func (b *block) set(key *[32]byte) {
	if vec.Enabled {
		b.aes.Expand(key)
		return
	}
	var err error
	if b.std, err = aes.NewCipher(key[:]); err != nil {
		panic("party: a 32-byte key is a valid AES-256 key: " + err.Error())
	}
}

// open points s at the keystream of nonce: its blocks are numbered
// nonce·2^64 and on, so two nonces never share one.
func (s *stream) open(b *block, nonce uint64) {
	s.block, s.nonce, s.next, s.off = b, nonce, 0, streamBlock
	if b.std != nil {
		var iv [16]byte
		binary.BigEndian.PutUint64(iv[:8], nonce)
		s.ctr = cipher.NewCTR(b.std, iv[:])
	}
}

func (s *stream) refill() {
	s.off = 0
	if s.block.std != nil {
		s.ctr.XORKeyStream(s.buf[:], zeros[:])
		return
	}
	s.block.aes.Stream(s.buf[:], s.nonce, s.next)
	s.next += streamBlock / 16
}

// uint64 is the next eight bytes, little-endian.
func (s *stream) uint64() uint64 {
	if s.off == streamBlock {
		s.refill()
	}
	v := binary.LittleEndian.Uint64(s.buf[s.off:])
	s.off += 8
	return v
}

// field is the next uniform element of the sharing field, by rejection of
// 61-bit values.
func (s *stream) field() uint64 {
	for {
		if v := s.uint64() & fieldPrime; v != fieldPrime {
			return v
		}
	}
}

// uniform fills v with residues uniform below q, which has the given width:
// each is the low bits of eight bytes, little-endian; values not below q are
// skipped.
func (s *stream) uniform(v []uint64, q uint64, width int) {
	mask := uint64(1)<<width - 1
	for i := 0; i < len(v); {
		if s.off == streamBlock {
			s.refill()
		}
		n := min(len(v)-i, (streamBlock-s.off)/8)
		in := s.buf[s.off : s.off+8*n]
		s.off += 8 * n
		for len(in) >= 8 {
			x := binary.LittleEndian.Uint64(in) & mask
			in = in[8:]
			if x < q {
				v[i] = x
				i++
			}
		}
	}
}

// derive is HKDF-SHA256-Expand of a uniform secret for one purpose. Its info
// is the length-prefixed domain followed by each part with its length.
func derive(secret []byte, domain consilium.Domain, parts ...[]byte) (out [32]byte) {
	b, err := hkdf.Expand(sha256.New, secret, info(domain, parts...), len(out))
	if err != nil {
		panic("party: HKDF of 32 bytes: " + err.Error())
	}
	copy(out[:], b)
	clear(b)
	return out
}

func info(domain consilium.Domain, parts ...[]byte) string {
	b := domain.Message(nil)
	for _, p := range parts {
		b = binary.BigEndian.AppendUint64(b, uint64(len(p)))
		b = append(b, p...)
	}
	return string(b)
}
