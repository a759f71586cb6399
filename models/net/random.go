package net

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"math"

	"consilium"
)

// source is a deterministic stream of random bits: AES-256 in counter mode
// under a seed that the charter determines. The same seed gives the same
// stream on every processor and in every version of the standard library,
// which math/rand does not promise.
type source struct {
	stream cipher.Stream
	buf    [512]byte
	left   []byte
}

func newSource(seed consilium.Digest) *source {
	block, err := aes.NewCipher(seed[:])
	if err != nil {
		panic("net: a digest is not an AES-256 key: " + err.Error()) // 32 bytes always are
	}
	// Every seed is used for one stream, so the counter starts at zero.
	return &source{stream: cipher.NewCTR(block, make([]byte, aes.BlockSize))}
}

func (s *source) uint64() uint64 {
	if len(s.left) == 0 {
		clear(s.buf[:])
		s.stream.XORKeyStream(s.buf[:], s.buf[:])
		s.left = s.buf[:]
	}
	v := binary.BigEndian.Uint64(s.left)
	s.left = s.left[8:]
	return v
}

// uniform is in [-1, 1): a multiple of 2^-52.
func (s *source) uniform() float64 {
	return float64(int64(s.uint64())>>11) / (1 << 52)
}

// intn is uniform in [0, n) without bias: values past the largest multiple of
// n are thrown away.
func (s *source) intn(n int) int {
	m := uint64(n)
	limit := math.MaxUint64 - math.MaxUint64%m
	for {
		if v := s.uint64(); v < limit {
			return int(v % m)
		}
	}
}

// shuffle permutes list (Fisher and Yates).
func (s *source) shuffle(list []int) {
	for i := len(list) - 1; i > 0; i-- {
		j := s.intn(i + 1)
		list[i], list[j] = list[j], list[i]
	}
}

func u64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

// RoundSeed is the seed of one site's randomness in one round (Rows.Seed): it
// depends on the study's seed, the site and the round, never on the attempt,
// so a repeated round repeats its steps.
func RoundSeed(seed uint64, site consilium.SiteID, round uint32) consilium.Digest {
	return consilium.DomainSeed.Digest([]byte("round"), u64(seed), []byte(site), u64(uint64(round)))
}

// initial draws the first weights of a network. Weights are uniform within
// ±sqrt(6/(in+out)) (Glorot and Bengio, AISTATS 2010, eq. 16), or within
// ±sqrt(6/in) before a relu (He et al., ICCV 2015, eq. 10); biases are zero.
// Square root and division are exact to the last bit by IEEE 754, so the
// weights are the same on every processor.
func (n *network) initial(seed consilium.Digest) []float64 {
	out := make([]float64, n.params)
	src := newSource(seed)
	for i := range n.layers {
		before := i+1 < len(n.layers) && n.layers[i+1].kind == relu
		for _, t := range n.layers[i].tensors {
			if t.fans == [2]int{} {
				continue
			}
			limit := math.Sqrt(6 / float64(t.fans[0]+t.fans[1]))
			if before {
				limit = math.Sqrt(6 / float64(t.fans[0]))
			}
			for j := range t.size() {
				out[t.at+j] = float64(limit * src.uniform())
			}
		}
	}
	return out
}
