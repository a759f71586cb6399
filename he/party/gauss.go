package party

import (
	"math"
	"math/bits"

	"consilium/internal/vec"
)

// keyVariance is the variance of the round key and of the error. Opening a
// round reveals the sum of both over at least two honest hospitals, which
// costs a factor sqrt(2) (Hint-RLWE, Kim et al., CRYPTO 2023): 3.2·sqrt(2)
// leaves the 3.2 that the 128-bit table (ePrint 2024/463) assumes. Ternary
// keys would be revealed wherever their sum is extreme.
const keyVariance = 2 * 3.2 * 3.2

// tailCut is the largest magnitude the sampler returns: beyond it less than
// 2^-64 of the distribution lies.
const tailCut = len(gaussCDT)

// gaussCDT[k] is 2^63 times the probability that the magnitude of the discrete
// Gaussian over the integers with variance keyVariance is at most k, rounded.
// A test recomputes it with 300-bit floats.
var gaussCDT = [...]uint64{
	0xb48a69229a1242b, 0x214e9cc9915ef9fd, 0x35c665b17fd23762, 0x47e40edfa3a0f2e1,
	0x57292cfc2fb03570, 0x636b2c8d1bd48dba, 0x6cca1f4fe8806827, 0x739cae6ffc4d6e9b,
	0x7857ab672ec9fa6a, 0x7b774d748f027997, 0x7d6e26418926b584, 0x7e9b4b42fbfd67e4,
	0x7f470c732bf97d86, 0x7fa456bfb9f7d634, 0x7fd4987a1120f1f2, 0x7fec5e3a33656cd0,
	0x7ff785591a02e72e, 0x7ffc80fd9c082b83, 0x7ffe9fc68cb508ac, 0x7fff7bb95517cb23,
	0x7fffd09abda01d36, 0x7fffefccbd9d3cf1, 0x7ffffab7e3aff686, 0x7ffffe5b96265896,
	0x7fffff8358993691, 0x7fffffdcc222ecf6, 0x7ffffff68032cdb0, 0x7ffffffd8f1b69df,
	0x7fffffff66ed8af4, 0x7fffffffdc423d93, 0x7ffffffff80bb5f5, 0x7ffffffffe501530,
	0x7fffffffffa8b052, 0x7fffffffffef2e11, 0x7ffffffffffce984, 0x7fffffffffff75b7,
	0x7fffffffffffe8f3, 0x7ffffffffffffc57, 0x7fffffffffffff72, 0x7fffffffffffffec,
	0x7ffffffffffffffd,
}

var gaussTree = vec.NewSampler(gaussCDT[:])

// gaussian turns 64 uniform bits into one sample. It reads the whole table
// and takes no branch, so its time says nothing about the sample.
func gaussian(u uint64) int64 {
	magnitude := u & (1<<63 - 1)
	var below, b uint64
	for k := range gaussCDT {
		_, b = bits.Sub64(magnitude, gaussCDT[k], 0)
		below, _ = bits.Add64(below, 0, b)
	}
	return signed(uint64(len(gaussCDT))-below, u)
}

// gaussians fills v from s. Four samples share each entry of the table that is
// loaded.
func (s *stream) gaussians(v []int64) {
	for vec.Enabled && len(v) >= streamBlock/8 && s.off == streamBlock {
		s.refill()
		s.off = streamBlock
		gaussTree.Fill(v[:streamBlock/8], s.buf[:])
		v = v[streamBlock/8:]
	}
	const all = uint64(len(gaussCDT))
	for ; len(v) >= 4; v = v[4:] {
		a, b, c, d := s.uint64(), s.uint64(), s.uint64(), s.uint64()
		u0, u1, u2, u3 := a&(1<<63-1), b&(1<<63-1), c&(1<<63-1), d&(1<<63-1)
		var n0, n1, n2, n3, f uint64
		for k := range gaussCDT {
			t := gaussCDT[k]
			_, f = bits.Sub64(u0, t, 0)
			n0, _ = bits.Add64(n0, 0, f)
			_, f = bits.Sub64(u1, t, 0)
			n1, _ = bits.Add64(n1, 0, f)
			_, f = bits.Sub64(u2, t, 0)
			n2, _ = bits.Add64(n2, 0, f)
			_, f = bits.Sub64(u3, t, 0)
			n3, _ = bits.Add64(n3, 0, f)
		}
		v[0] = signed(all-n0, a)
		v[1] = signed(all-n1, b)
		v[2] = signed(all-n2, c)
		v[3] = signed(all-n3, d)
	}
	for i := range v {
		v[i] = gaussian(s.uint64())
	}
}

// signed gives x the sign of u's top bit.
func signed(x, u uint64) int64 {
	s := int64(u) >> 63
	return (int64(x) ^ s) - s
}

// sumBound is 9 standard deviations of a sum of n samples, rounded down: a
// correct sum of 2^14 coefficients exceeds it with probability below 2^-44.
func sumBound(n int) int64 { return int64(math.Sqrt(81 * keyVariance * float64(n))) }
