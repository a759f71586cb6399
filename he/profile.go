package he

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/big"
	"math/bits"
	"slices"

	"consilium"
	"consilium/internal/seal"
)

// Profile is one parameter set: ring, moduli and how lanes lie in a
// coefficient. Only the profiles of the table below exist; there is no way to
// run with other numbers.
type Profile struct {
	LogN   int      // the ring is Z_q[X]/(X^N+1), N = 2^LogN
	Bits   int      // of one contributed lane: 16 or 24, signed
	MaxN   int      // most hospitals in one sum: 16, 64 or 128
	W      int      // bits of one summed lane: Bits + log2(MaxN)
	Delta  int      // bits below the lanes, where the noise lives
	K      int      // lanes in a coefficient
	Primes []uint64 // q is their product; each is 1 mod 2N
}

// profiles is the whole table. Its rule, which a test recomputes:
// W·K + Delta + 1 <= log2(q), so a sum of MaxN contributions with its noise
// stays below q/2, and log2(q) stays under logQLimit, so the ring is hard.
// Primes are the largest of their size, in descending order.
//
// With 16 bits and 16 hospitals, LogN 13 takes three primes of 57 bits rather
// than four of 48: the same bytes per lane and a quarter fewer transforms.
var profiles = []Profile{
	{11, 16, 16, 20, 9, 2, []uint64{0xffffffffff001}},
	{11, 16, 64, 22, 10, 1, []uint64{0xfffffd001}},
	{11, 16, 128, 23, 11, 1, []uint64{0xfffffd001}},
	{11, 24, 16, 28, 9, 1, []uint64{0xffffff7001}},
	{11, 24, 64, 30, 10, 1, []uint64{0x3ffffffa001}},
	{11, 24, 128, 31, 11, 1, []uint64{0xfffffffc001}},
	{12, 16, 16, 20, 9, 4, []uint64{0x3ffffff84001, 0x3ffffff70001}},
	{12, 16, 64, 22, 10, 4, []uint64{0x3ffffffffc001, 0x3fffffffcc001}},
	{12, 16, 128, 23, 11, 3, []uint64{0x1ffffff0001, 0x1fffffb0001}},
	{12, 24, 16, 28, 9, 3, []uint64{0xffffffffc001, 0x7ffffffec001}},
	{12, 24, 64, 30, 10, 3, []uint64{0x7fffffffe0001, 0x7fffffffce001}},
	{12, 24, 128, 31, 11, 2, []uint64{0x3ffffea001, 0x1ffffe0001}},
	{13, 16, 16, 20, 9, 8, []uint64{0x1fffffffffc0001, 0x1fffffffff50001, 0x1fffffffff14001}},
	{13, 16, 64, 22, 10, 8, []uint64{0x7ffffffec001, 0x7ffffffc8001, 0x7ffffffb4001, 0x7ffffff00001}},
	{13, 16, 128, 23, 11, 8, []uint64{0x3ffffffffc001, 0x1fffffff74001, 0x1fffffff68001, 0x1fffffff50001}},
	{13, 24, 16, 28, 9, 6, []uint64{0xfffffffffffc001, 0xffffffffffe8001, 0xffffffffffd8001}},
	{13, 24, 64, 30, 10, 6, []uint64{0xffffffffc001, 0xfffffffd8001, 0xfffffffa0001, 0xfffffff00001}},
	{13, 24, 128, 31, 11, 6, []uint64{0x3ffffffffc001, 0x3fffffffcc001, 0x3ffffffef4001, 0x3ffffffe94001}},
	{14, 16, 16, 20, 9, 20, []uint64{0x7fffffffff18001, 0x7ffffffffeb8001, 0x7ffffffffe70001, 0x7ffffffffe10001, 0x7ffffffffde8001, 0x3ffffffffef8001, 0x3ffffffffe58001}},
	{14, 16, 64, 22, 10, 18, []uint64{0x7fffffffe0001, 0x7ffffffdd0001, 0x7ffffffd20001, 0x7ffffffd10001, 0x7ffffffc68001, 0x7ffffffc60001, 0x7ffffffc48001, 0x7ffffffbe8001}},
	{14, 16, 128, 23, 11, 17, []uint64{0x3ffffffffef8001, 0x3ffffffffe58001, 0x3ffffffffc10001, 0x3ffffffffbe0001, 0x3ffffffffbd0001, 0x3ffffffffa08001, 0x3ffffffff930001}},
	{14, 24, 16, 28, 9, 14, []uint64{0x3ffffffffef8001, 0x3ffffffffe58001, 0x3ffffffffc10001, 0x3ffffffffbe0001, 0x3ffffffffbd0001, 0x3ffffffffa08001, 0x3ffffffff930001}},
	{14, 24, 64, 30, 10, 13, []uint64{0x3ffffffffef8001, 0x3ffffffffe58001, 0x3ffffffffc10001, 0x3ffffffffbe0001, 0x3ffffffffbd0001, 0x3ffffffffa08001, 0x3ffffffff930001}},
	{14, 24, 128, 31, 11, 12, []uint64{0x7fffffffe90001, 0x7fffffffd58001, 0x7fffffffbf0001, 0x7fffffffbd0001, 0x7fffffffba0001, 0x7fffffffb58001, 0x7fffffffaa0001}},
}

// logQLimit is the largest log2(q) for 128-bit security against known quantum
// attacks with Gaussian secrets of standard deviation 3.2 (ePrint 2024/463).
var logQLimit = map[int]int{11: 53, 12: 103, 13: 206, 14: 412}

// defaultLogN is the ring for vectors of more than one chunk.
const defaultLogN = 13

// TagLanes is how many lanes the two linear tags take after the vector's own:
// each tag is a residue mod 2^61-1 in four limbs of 16 bits.
const TagLanes = 8

// The sharing of a round key: its coefficients, six to an element of the field
// of 2^61-1 elements, and the mask elements that hide the published check
// polynomials. Elements travel as eight bytes, big-endian.
const (
	CoefficientsPerElement = 6
	MaskElements           = 3
	ElementSize            = 8
	SaltSize               = 32
)

// Profiles returns the table.
func Profiles() []Profile {
	out := make([]Profile, len(profiles))
	for i, p := range profiles {
		out[i] = p
		out[i].Primes = slices.Clone(p.Primes)
	}
	return out
}

// Choose picks the profile for a vector of lanes lanes of bits bits (16 or 24)
// summed over at most n hospitals: the smallest ring whose one chunk holds the
// lanes and their tags, or LogN 13 where that is larger or no ring holds them.
func Choose(lanes, bits, n int) (Profile, error) {
	if lanes < 1 || lanes > MaxLanes {
		return Profile{}, consilium.ErrInvalid.Withf("%d lanes: want 1 to %d", lanes, MaxLanes)
	}
	if n < 1 || n > consilium.MaxSites {
		return Profile{}, consilium.ErrInvalid.Withf("%d hospitals: want 1 to %d", n, consilium.MaxSites)
	}
	var standard *Profile
	maxN := 0
	for i := range profiles {
		p := &profiles[i]
		if p.Bits != bits || p.MaxN < n || (maxN != 0 && p.MaxN != maxN) {
			continue
		}
		maxN = p.MaxN
		if p.LogN == defaultLogN {
			standard = p
		}
	}
	if standard == nil {
		return Profile{}, consilium.ErrInvalid.Withf("lanes of %d bits: want 16 or 24", bits)
	}
	best := standard
	for i := range profiles {
		p := &profiles[i]
		if p.Bits == bits && p.MaxN == maxN && p.Chunks(lanes) == 1 {
			if p.Size(lanes) < standard.Size(lanes) {
				best = p
			}
			break
		}
	}
	out := *best
	out.Primes = slices.Clone(best.Primes)
	return out, nil
}

// MaxLanes bounds the lanes of one vector: consilium.MaxValues exact values.
const MaxLanes = consilium.MaxValues * consilium.ExactLanes

// Validate accepts the profiles of the table and nothing else.
func (p Profile) Validate() error {
	for i := range profiles {
		t := &profiles[i]
		if p.LogN == t.LogN && p.Bits == t.Bits && p.MaxN == t.MaxN {
			if p.W != t.W || p.Delta != t.Delta || p.K != t.K || !slices.Equal(p.Primes, t.Primes) {
				break
			}
			return nil
		}
	}
	return consilium.ErrInvalid.Withf("no such encryption profile: logN %d, %d bits, %d hospitals", p.LogN, p.Bits, p.MaxN)
}

// check is the rule of the table, over the real product of the primes.
func (p Profile) check() error {
	q := big.NewInt(1)
	for _, m := range p.Primes {
		q.Mul(q, new(big.Int).SetUint64(m))
	}
	if need := new(big.Int).Lsh(big.NewInt(1), uint(p.W*p.K+p.Delta+1)); q.Cmp(need) < 0 {
		return fmt.Errorf("q has %d bits, %d lanes of %d bits over %d bits of noise need %d", q.BitLen(), p.K, p.W, p.Delta, need.BitLen())
	}
	if limit := new(big.Int).Lsh(big.NewInt(1), uint(logQLimit[p.LogN])); q.Cmp(limit) >= 0 {
		return fmt.Errorf("q has %d bits, the limit at logN %d is %d", q.BitLen(), p.LogN, logQLimit[p.LogN])
	}
	if 1<<(p.W-p.Bits) != p.MaxN {
		return fmt.Errorf("a sum of %d lanes of %d bits does not fill %d bits", p.MaxN, p.Bits, p.W)
	}
	return nil
}

// N is the ring's degree.
func (p Profile) N() int { return 1 << p.LogN }

// Encode is the profile's one encoding, which every derivation binds.
func (p Profile) Encode() []byte {
	out := []byte{byte(p.LogN), byte(p.Bits), byte(p.MaxN), byte(p.W), byte(p.Delta), byte(p.K), byte(len(p.Primes))}
	for _, q := range p.Primes {
		out = binary.BigEndian.AppendUint64(out, q)
	}
	return out
}

// ChunkLanes is how many lanes one ring element carries.
func (p Profile) ChunkLanes() int { return p.N() * p.K }

// Chunks is how many ring elements carry lanes lanes and the tags.
func (p Profile) Chunks(lanes int) int {
	return (lanes + TagLanes + p.ChunkLanes() - 1) / p.ChunkLanes()
}

// LimbSize is the length in bytes of one packed polynomial modulo Primes[i].
func (p Profile) LimbSize(i int) int { return p.N() / 8 * bits.Len64(p.Primes[i]) }

// ChunkSize is the length in bytes of one encrypted ring element.
func (p Profile) ChunkSize() int {
	n := 0
	for i := range p.Primes {
		n += p.LimbSize(i)
	}
	return n
}

// Size is the exact length in bytes of an encrypted vector or a sum of such.
func (p Profile) Size(lanes int) uint64 { return uint64(p.Chunks(lanes)) * uint64(p.ChunkSize()) }

// Elements is how many field elements carry the coefficients of a round key.
func (p Profile) Elements() int {
	return (p.N() + CoefficientsPerElement - 1) / CoefficientsPerElement
}

// ShareSize is the length of one key share with its mask elements.
func (p Profile) ShareSize() int { return (p.Elements() + MaskElements) * ElementSize }

// BoxSize is the length of one sealed key share.
func (p Profile) BoxSize() int { return SaltSize + p.ShareSize() + seal.Overhead }

// BundleSize is the length of the box bundle for n hospitals.
func (p Profile) BundleSize(n int) uint64 { return uint64(n) * uint64(p.BoxSize()) }

// CheckSize is the length of Header.Check for threshold t.
func (p Profile) CheckSize(t int) int { return MaskElements * t * ElementSize }

// OpeningSize is the length of a sealed opening share: salt, elements and the
// AES-GCM tag.
func (p Profile) OpeningSize() int { return SaltSize + p.Elements()*ElementSize + 16 }

// SplitBundle cuts a box bundle into its n boxes.
func (p Profile) SplitBundle(bundle []byte, n int) ([][]byte, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if n < 1 || n > consilium.MaxSites || uint64(len(bundle)) != p.BundleSize(n) {
		return nil, consilium.ErrInvalid.Withf("box bundle of %d bytes for %d hospitals: want %d", len(bundle), n, p.BundleSize(n))
	}
	out := make([][]byte, n)
	for i := range out {
		out[i] = bundle[i*p.BoxSize() : (i+1)*p.BoxSize() : (i+1)*p.BoxSize()]
	}
	return out, nil
}

// VerifyBundle reads a bundle to its end and checks every box against the
// digests of a header. Memory is one box.
func (p Profile) VerifyBundle(bundle io.Reader, h *consilium.Header) error {
	if err := p.Validate(); err != nil {
		return err
	}
	if n := len(h.Boxes); n < 1 || n > consilium.MaxSites {
		return consilium.ErrInvalid.Withf("a header that lists %d boxes", n)
	}
	box := make([]byte, p.BoxSize())
	for i, want := range h.Boxes {
		if _, err := io.ReadFull(bundle, box); err == io.EOF || err == io.ErrUnexpectedEOF {
			return consilium.ErrInvalid.Withf("the box bundle ends in the box for position %d", i+1)
		} else if err != nil {
			return err
		}
		if consilium.DomainBox.Digest(box) != want {
			return consilium.ErrInvalid.Withf("box for position %d is not the one that the header lists", i+1)
		}
	}
	return atEnd(bundle, "the box bundle is longer than its header says")
}

// CheckHeader checks what anyone can check in a header for a charter of n
// members with threshold t: lengths, sizes and the form of the check
// polynomials. Its signature and its digests are the caller's to check.
func (p Profile) CheckHeader(h *consilium.Header, lanes, n, t int) error {
	if err := p.Validate(); err != nil {
		return err
	}
	switch {
	case len(h.Boxes) != n || len(h.Commitments) != n || int(h.Position) > n || h.Position < 1:
		return consilium.ErrInvalid.Withf("header of position %d with %d boxes and %d commitments, the study has %d members", h.Position, len(h.Boxes), len(h.Commitments), n)
	case h.Size != p.Size(lanes):
		return consilium.ErrInvalid.Withf("header announces %d bytes, %d lanes take %d", h.Size, lanes, p.Size(lanes))
	case len(h.Check) != p.CheckSize(t):
		return consilium.ErrInvalid.Withf("check polynomials of %d bytes: want %d", len(h.Check), p.CheckSize(t))
	}
	for i := 0; i < len(h.Check); i += ElementSize {
		if binary.BigEndian.Uint64(h.Check[i:]) >= FieldPrime {
			return consilium.ErrInvalid.Withf("check polynomials: element %d is not reduced", i/ElementSize)
		}
	}
	return nil
}

// FieldPrime is the order of the field in which keys are shared: 2^61 - 1.
const FieldPrime = 1<<61 - 1
