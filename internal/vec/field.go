package vec

import "math/bits"

// Field says how residues modulo one prime lie in packed bytes. The .s files
// know its layout.
type Field struct {
	q        uint64
	mask     uint64 // 2^width - 1
	width    uint64
	shift    [8]uint64 // of residue r in its first byte
	gather   [64]byte  // the eight bytes from residue r's first on
	even     [64]byte  // where each packed byte comes from, of residues 0, 2, 4, 6
	odd      [64]byte  // and of the others
	evenMask uint64
	oddMask  uint64
}

// Fits reports whether residues modulo q can be packed and unpacked here:
// with its shift of up to seven bits a residue must fit one word, which up to
// 58 bits and at 60 it does; from 32 bits on, eight of them overhang the next
// eight only.
func Fits(q uint64) bool {
	w := bits.Len64(q)
	return Enabled && w >= 32 && w <= 60 && w != 59
}

// NewField prepares q, for which Fits holds.
func NewField(q uint64) *Field {
	w := bits.Len64(q)
	f := &Field{q: q, mask: 1<<w - 1, width: uint64(w)}
	for r := range 8 {
		at := r * w
		f.shift[r] = uint64(at & 7)
		to, mask := &f.even, &f.evenMask
		if r&1 == 1 {
			to, mask = &f.odd, &f.oddMask
		}
		for b := range 8 {
			f.gather[8*r+b] = byte(at>>3 + b)
			if 8*b < at&7+w {
				to[at>>3+b] = byte(8*r + b)
				*mask |= 1 << (at>>3 + b)
			}
		}
	}
	return f
}

// Slack is how many bytes past the end of packed residues these functions
// read, and MulAddPack overwrites.
const Slack = 64

func (f *Field) check(residues, packed, room int) {
	if residues == 0 || residues%8 != 0 || packed != residues/8*int(f.width) || room < packed+Slack {
		panic("vec: lengths do not fit")
	}
}

// Unpack reads len(dst) residues and reports whether all are reduced.
func (f *Field) Unpack(dst []uint64, src []byte) bool {
	f.check(len(dst), len(src), cap(src))
	return unpack(&dst[0], &src[0], len(dst), f) == 0
}

// UnpackAdd adds len(acc) residues to acc and reports whether all are reduced.
func (f *Field) UnpackAdd(acc []uint64, src []byte) bool {
	f.check(len(acc), len(src), cap(src))
	return unpackAdd(&acc[0], &src[0], len(acc), f) == 0
}

// Add sums len(acc) residues of each of four strings, added to acc or in its place,
// and reports whether all are reduced. The strings are read where they lie, and
// not past their ends: they need no room behind them.
func (f *Field) Add(acc []uint64, src *[4][]byte, add bool) bool {
	n := len(acc)
	var at, last [4]*byte
	// The last eight residues are read from a copy that has room behind it.
	var ends [4 * 128]byte
	for i, s := range src {
		f.check(n, len(s), len(s)+Slack)
		end := ends[128*i : 128*(i+1)]
		copy(end, s[len(s)-int(f.width):])
		at[i], last[i] = &s[0], &end[0]
	}
	var keep uint64
	if add {
		keep = ^keep
	}
	bad := uint64(0)
	if n > 8 {
		bad = addFour(&acc[0], &at, n-8, keep, f)
	}
	return bad|addFour(&acc[n-8], &last, 8, keep, f) == 0
}

// Pack writes src, reduced.
func (f *Field) Pack(dst []byte, src []uint64) {
	f.check(len(src), len(dst), len(dst)+Slack)
	pack(&dst[0], &src[0], len(src), f)
}

// MulAddPack packs msg + key·random modulo q. random is a keystream: the low
// bits of eight bytes, little-endian, are a residue. It reports false, and dst is void, if one
// of those is not reduced. msg is below 16q; key and keyP are a constant each.
func (f *Field) MulAddPack(dst []byte, msg, key, keyP []uint64, random []byte) bool {
	n := len(msg)
	f.check(n, len(dst), cap(dst))
	if len(key) != n || len(keyP) != n || len(random) != 8*n {
		panic("vec: lengths do not fit")
	}
	return mulAddPack(&dst[0], &msg[0], &key[0], &keyP[0], &random[0], n, f) == 0
}

// UnpackMulSub is src - key·random, below 4q. The first result says that the
// keystream's residues are reduced (else dst is void), the second that those
// of src are.
func (f *Field) UnpackMulSub(dst []uint64, src []byte, key, keyP []uint64, random []byte) (random0, src0 bool) {
	n := len(dst)
	f.check(n, len(src), cap(src))
	if len(key) != n || len(keyP) != n || len(random) != 8*n {
		panic("vec: lengths do not fit")
	}
	bad := unpackMulSub(&dst[0], &src[0], &key[0], &keyP[0], &random[0], n, f)
	return bad&1 == 0, bad&2 == 0
}

// Reduce brings any words below q.
func (f *Field) Reduce(x []uint64) {
	if len(x) == 0 || len(x)%8 != 0 {
		panic("vec: lengths do not fit")
	}
	reduce(&x[0], len(x), Constant(1, f.q), f.q)
}

// Constants is Shoup's constant of every element of w, reduced.
func (f *Field) Constants(dst, w []uint64) {
	// 2^(64+width)/q is 2^64 + e and a fraction. Without that the quotient may be short
	// by one; the remainder, below 2q then, tells.
	up := 64 - uint(f.width)
	e := Constant(f.mask+1-f.q, f.q)
	dst = dst[:len(w)]
	for i, x := range w {
		y := x << (up & 63)
		h, _ := bits.Mul64(y, e)
		p := y + h
		_, short := bits.Sub64(f.q-1, -p*f.q, 0)
		dst[i] = p + short
	}
}

// Constant is Shoup's constant of w modulo q: floor(w·2^64/q).
func Constant(w, q uint64) uint64 {
	p, _ := bits.Div64(w, 0, q)
	return p
}
