package party

import (
	"encoding/binary"
	"math/bits"

	"consilium/he"
)

// The field of 2^61-1 elements, in which round keys are shared and tags are
// computed. All functions are free of secret-dependent branches; inputs are
// reduced unless stated.

const fieldPrime = he.FieldPrime

// fold brings any 64-bit value below p + 8.
func fold(x uint64) uint64 { return x&fieldPrime + x>>61 }

// canon reduces a value below 2p.
func canon(x uint64) uint64 {
	d := x - fieldPrime
	return d + fieldPrime&-(d>>63)
}

func addF(a, b uint64) uint64 { return canon(a + b) }

func subF(a, b uint64) uint64 { return canon(a + fieldPrime - b) }

func mulF(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return reduceF(hi, lo)
}

// reduceF is (hi·2^64 + lo) mod p.
func reduceF(hi, lo uint64) uint64 {
	// Bits 0 to 60, 61 to 121 and 122 to 127, since 2^61 = 1 mod p.
	return canon(fold(lo&fieldPrime + (hi<<3|lo>>61)&fieldPrime + hi>>58))
}

func powF(a, e uint64) uint64 {
	r := uint64(1)
	for ; e > 0; e >>= 1 {
		if e&1 == 1 {
			r = mulF(r, a)
		}
		a = mulF(a, a)
	}
	return r
}

func invF(a uint64) uint64 { return powF(a, fieldPrime-2) }

// small maps a signed integer to the field without a branch.
func small(x int64) uint64 { return canon(uint64(x) + fieldPrime&uint64(x>>63)) }

// lagrange returns the coefficients that, applied to the values of a
// polynomial of degree below len(points) at points, give its value at x. The
// points are distinct and not x mod p: they are positions, from the charter.
func lagrange(points []uint64, x uint64) []uint64 {
	out := make([]uint64, len(points))
	for i, xi := range points {
		num, den := uint64(1), uint64(1)
		for j, xj := range points {
			if i == j {
				continue
			}
			num = mulF(num, subF(x, xj))
			den = mulF(den, subF(xi, xj))
		}
		out[i] = mulF(num, invF(den))
	}
	return out
}

// appendF writes elements as eight bytes each, big-endian.
func appendF(b []byte, v []uint64) []byte {
	for _, x := range v {
		b = binary.BigEndian.AppendUint64(b, x)
	}
	return b
}

// parseF reads exactly len(v) reduced elements.
func parseF(v []uint64, b []byte) bool {
	if len(b) != 8*len(v) {
		return false
	}
	var bad uint64
	for i := range v {
		v[i] = binary.BigEndian.Uint64(b[8*i:])
		bad |= (fieldPrime - 1 - v[i]) | v[i]
	}
	return bad>>63 == 0
}
