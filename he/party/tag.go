package party

import (
	"encoding/binary"
	"math/bits"

	"consilium"
	"consilium/he"
	"consilium/internal/vec"
)

// The linear tags. Neighbouring lanes, as many as fit 60 bits at the width W of
// a summed lane, are read as one number z_k = u_0 + 2^W·u_1 + …; tag i of a
// vector is the sum over k of rho_i^(k+1)·z_k modulo 2^61-1, with rho_i from the
// group key. That is a linear function of the lanes, so the sum of the tags is
// the tag of the sum. Summed lanes are below 2^W, or the range check fails: two
// different sums differ in some z_k, by less than the modulus. So a sum that was
// changed by anyone who does not know rho passes one tag with probability at
// most lanes/2^61, both with the square of that.
const (
	tags     = 2
	tagLimbs = he.TagLanes / tags
	// tagBlock is how many numbers z_k are added up before a reduction.
	tagBlock = 128
)

type tagger struct {
	powers [tags][tagBlock]uint64 // rho^0 …
	step   [tags]uint64           // rho^tagBlock
	scale  [tags]uint64           // rho^(tagBlock·block + 1)
	total  [tags]uint64
	group  int  // lanes in a number: 1, 2 or 3
	w      uint // W
	buf    [3 * tagBlock]uint32
	n      int

	// A block as one sum over lanes, with rho^k·2^(W·place) for each: nil where
	// there are no vector instructions for it, or lanes may have more bits than
	// they take.
	weights *vec.Weights

	// The same for add16, with signed lanes, so that what they are short of unsigned
	// ones is added: 2^15 times the sum of all constants.
	limbs  *vec.Limbs
	raised [tags]uint64
}

// newTagger derives rho for one attempt; every member of the group has the same.
func newTagger(p he.Profile, g *GroupKey, at consilium.At) *tagger {
	k := g.derive(consilium.DomainTagKey, attemptOf(at))
	var s stream
	s.open(newBlock(&k), 0)
	t := &tagger{w: uint(p.W), group: 60 / p.W}
	for i := range t.powers {
		rho := s.field()
		for rho < 2 {
			rho = s.field()
		}
		p := uint64(1)
		for j := range t.powers[i] {
			t.powers[i][j] = p
			p = mulF(p, rho)
		}
		t.step[i], t.scale[i] = p, rho
	}
	return t
}

// below says that lanes will have at most bits bits.
func (t *tagger) below(bits int) *tagger {
	if vec.Enabled && t.group*tagBlock<<bits <= 1<<32 {
		t.weights = &vec.Weights{}
		for i := range t.group * tagBlock {
			place := uint64(1) << (t.w * uint(i%t.group))
			t.weights.Set(i, mulF(t.powers[0][i/t.group], place), mulF(t.powers[1][i/t.group], place))
		}
	}
	return t
}

// signed16 says that lanes will come to add16.
func (t *tagger) signed16() *tagger {
	t.limbs = &vec.Limbs{}
	for i := range t.group * tagBlock {
		place := uint64(1) << (t.w * uint(i%t.group))
		a, b := mulF(t.powers[0][i/t.group], place), mulF(t.powers[1][i/t.group], place)
		t.limbs.Set(i, a, b)
		t.raised[0], t.raised[1] = addF(t.raised[0], mulF(a, 1<<15)), addF(t.raised[1], mulF(b, 1<<15))
	}
	return t
}

// add continues the tags over u.
func (t *tagger) add(u []uint32) {
	size := t.group * tagBlock
	if t.n > 0 {
		n := copy(t.buf[t.n:size], u)
		u = u[n:]
		if t.n += n; t.n < size {
			return
		}
		t.block(t.buf[:size])
		t.n = 0
	}
	for len(u) >= size {
		t.block(u[:size])
		u = u[size:]
	}
	t.n = copy(t.buf[:], u)
}

// block16 is how many bytes add16 best takes, a multiple of which leaves nothing
// over.
func (t *tagger) block16() int { return 2 * t.group * tagBlock }

// add16 is add of lanes as vec.Gather16 takes them, with the vector instructions.
func (t *tagger) add16(b []byte) {
	size := t.group * tagBlock
	if t.n > 0 || len(b) < 2*size {
		n := min(size-t.n, len(b)/2)
		for i := range n {
			t.buf[t.n+i] = uint32(binary.LittleEndian.Uint16(b[2*i:]) ^ 1<<15)
		}
		b = b[2*n:]
		if t.n += n; t.n < size {
			return
		}
		t.block(t.buf[:size])
		t.n = 0
	}
	for len(b) >= 2*size {
		hi, lo := t.limbs.Dot(b[:2*size])
		var sum [tags]uint64
		for i := range sum {
			sum[i] = addF(t.raised[i], addF(small(lo[i]), mulF(small(hi[i]), 1<<33)))
		}
		t.advance(sum[0], sum[1])
		b = b[2*size:]
	}
	if len(b) > 0 {
		t.add16(b)
	}
}

// block adds tagBlock numbers.
func (t *tagger) block(u []uint32) {
	if t.weights != nil {
		hi, lo := t.weights.Dot(u)
		var sum [tags]uint64
		for i := range sum {
			sum[i] = addF(canon(fold(lo[i])), mulF(canon(fold(hi[i])), 1<<32))
		}
		t.advance(sum[0], sum[1])
		return
	}
	var z [tagBlock]uint64
	w := t.w & 63
	switch t.group {
	case 3:
		for j := range z {
			if len(u) < 3 {
				break
			}
			z[j] = uint64(u[0]) + uint64(u[1])<<w + uint64(u[2])<<(2*w&63)
			u = u[3:]
		}
	case 2:
		for j := range z {
			if len(u) < 2 {
				break
			}
			z[j] = uint64(u[0]) + uint64(u[1])<<w
			u = u[2:]
		}
	default:
		for j := range z {
			z[j] = uint64(u[j])
		}
	}
	p0, p1 := &t.powers[0], &t.powers[1]
	var sum [tags]uint64
	// Half of the products, of 60 and 61 bits, stay below 2^127.
	for half := 0; half < tagBlock; half += tagBlock / 2 {
		var h0, l0, h1, l1, c uint64
		for j := half; j < half+tagBlock/2; j++ {
			h, l := bits.Mul64(z[j], p0[j])
			l0, c = bits.Add64(l0, l, 0)
			h0, _ = bits.Add64(h0, h, c)
			h, l = bits.Mul64(z[j], p1[j])
			l1, c = bits.Add64(l1, l, 0)
			h1, _ = bits.Add64(h1, h, c)
		}
		sum[0], sum[1] = addF(sum[0], reduceF(h0, l0)), addF(sum[1], reduceF(h1, l1))
	}
	t.advance(sum[0], sum[1])
}

// advance adds one block's sums at their place.
func (t *tagger) advance(a, b uint64) {
	t.total[0] = addF(t.total[0], mulF(a, t.scale[0]))
	t.total[1] = addF(t.total[1], mulF(b, t.scale[1]))
	t.scale[0] = mulF(t.scale[0], t.step[0])
	t.scale[1] = mulF(t.scale[1], t.step[1])
}

// sum ends the vector and returns its tags.
func (t *tagger) sum() [tags]uint64 {
	if t.n > 0 {
		clear(t.buf[t.n:])
		t.block(t.buf[:t.group*tagBlock])
		t.n = 0
	}
	clear(t.buf[:]) // a short vector stands in it whole
	return t.total
}

// tagLanes writes the tags as unsigned lanes of 16 bits, lowest first.
func tagLanes(out []uint32, v [tags]uint64) {
	for i, x := range v {
		for l := range tagLimbs {
			out[i*tagLimbs+l] = uint32(x >> (16 * l) & 0xffff)
		}
	}
}

// parseTagLanes reads the sums of tag lanes, which may exceed 16 bits, back
// into the sum of the tags.
func parseTagLanes(in []uint32) (v [tags]uint64) {
	for i := range v {
		for l := tagLimbs - 1; l >= 0; l-- {
			v[i] = addF(mulF(v[i], 1<<16), uint64(in[i*tagLimbs+l]))
		}
	}
	return v
}
