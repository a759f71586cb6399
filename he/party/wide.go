package party

import (
	"encoding/binary"
	"math/big"
	"math/bits"

	"consilium/he"
	"consilium/internal/vec"
)

// wide is the engine on a processor with vector instructions. It computes what
// encrypt and decrypt of engine.go compute, bit for bit, in another order:
// without dense words of a coefficient on the way in, by mixed radix on the way
// out.
type wide struct {
	limbs []wideLimb

	// Sending: a coefficient is noise and the first lanes in one word, the
	// other lanes in words of their own, each with its weight modulo every
	// prime.
	first, per, words int

	narrow bool // lanes are sent from words of 16 bits

	// Receiving: the words of a coefficient, and where its lanes lie in them.
	sumWords int
	join3    *vec.Join // nil where the digits are put together one by one
	cut      *vec.Cut
	half     uint64
}

type wideLimb struct {
	ring    *vec.Ring
	field   *vec.Field
	weights vec.Weights4
	inverse []uint64 // of each earlier prime
}

// newWide returns nil where the processor or the profile does not fit: the
// portable engine serves them.
func newWide(e *engine) *wide {
	p := e.p
	for _, q := range p.Primes {
		if !vec.Fits(q) {
			return nil
		}
	}
	if p.K > 8 {
		return nil
	}
	w := &wide{per: 62 / p.W, half: 1 << (p.Delta - 1), cut: vec.NewCut(p.Delta, p.W, p.K)}
	least := p.Primes[0]
	for _, q := range p.Primes {
		least = min(least, q)
	}
	for w.first < p.K-1 && p.Delta+(w.first+1)*p.W < bits.Len64(least) {
		w.first++
	}
	w.words = (p.K - w.first + w.per - 1) / w.per
	total := big.NewInt(1)
	for i, q := range p.Primes {
		s := e.limbs[i].ring
		plain := func(v []uint64) []uint64 {
			out := make([]uint64, len(v))
			s.IMForm(v, out)
			return out
		}
		l := wideLimb{field: vec.NewField(q)}
		l.ring = vec.NewRing(q, plain(s.RootsForward), plain(s.RootsBackward), plain([]uint64{s.NInv, 0, 0, 0, 0, 0, 0, 0})[0])
		bq := new(big.Int).SetUint64(q)
		for j := range w.words {
			at := big.NewInt(int64(p.Delta + p.W*(w.first+j*w.per)))
			x := new(big.Int).Exp(big.NewInt(2), at, bq).Uint64()
			l.weights[j] = [2]uint64{x, vec.Constant(x, q)}
		}
		for _, earlier := range p.Primes[:i] {
			x := new(big.Int).SetUint64(earlier)
			l.inverse = append(l.inverse, x.ModInverse(x, bq).Uint64())
		}
		w.limbs = append(w.limbs, l)
		total.Mul(total, bq)
	}
	w.sumWords = (total.BitLen() + 63) / 64
	if w.words > 4 || w.sumWords > 4 {
		return nil
	}
	w.narrow = p.Bits == 16 && p.K == 8 && w.first == 2 && w.per == 3
	if top := p.W*p.K + p.Delta; len(w.limbs) == 3 && w.sumWords == 3 && top > 128 {
		w.join3 = vec.NewJoin([3]uint64(p.Primes), w.limbs[1].inverse[0], w.limbs[2].inverse[0], w.limbs[2].inverse[1], p.Delta, top)
	}
	return w
}

// tileResidues is how many residues share one piece of keystream, 4 KiB: it is
// made and used within the processor's first cache, as whatever else happens tile by
// tile.
const tileResidues = 512

// pack gathers noise and lanes into base and words.
func (w *wide) pack(e *engine, base, words []uint64, noise []int64, lanes []uint32) {
	n, k, width, delta := len(base), e.p.K, uint(e.p.W)&63, uint(e.p.Delta)&63
	noise, words = noise[:n], words[:w.words*n]
	if k == 8 && w.first == 2 && w.per == 3 {
		vec.Gather8(base, words[:n], words[n:2*n], lanes, noise, noiseOffset, e.p.W, e.p.Delta)
		return
	}
	for i := range base {
		u := lanes[k*i : k*i+k]
		x, at := uint64(noise[i]+noiseOffset), delta
		for _, v := range u[:w.first] {
			x += uint64(v) << (at & 63)
			at += width
		}
		base[i] = x
		u = u[w.first:]
		for j := range w.words {
			x, at := uint64(0), uint(0)
			part := u[:min(w.per, len(u))]
			for _, v := range part {
				x += uint64(v) << (at & 63)
				at += width
			}
			words[j*n+i] = x
			u = u[len(part):]
		}
	}
}

func (w *wide) encrypt(e *engine, s *slot, k key, errors, mask *block, chunk int) {
	const tile = tileResidues
	base, words := s.packed[:tile], s.packed[tile:tile*(1+w.words)]
	noise := s.noise[:tile]
	for at := 0; at < e.p.N(); at += tile {
		errors.aes.Stream(s.tile[:], uint64(chunk), uint64(at/2))
		gaussTree.Fill(noise, s.tile[:])
		if s.narrow != nil {
			vec.Gather16(base, words[:tile], words[tile:], s.narrow[16*at:16*(at+tile)], noise, noiseOffset, e.p.W, e.p.Delta)
		} else {
			w.pack(e, base, words, noise, s.lanes[e.p.K*at:e.p.K*(at+tile)])
		}
		for i := range w.limbs {
			l := &w.limbs[i]
			l.ring.Residues(s.res[i][at:at+tile], base, words, w.words, &l.weights, e.p.Primes[i]-noiseOffset)
		}
	}
	b := s.bytes
	for i := range w.limbs {
		l, msg := &w.limbs[i], s.res[i]
		size, n := e.p.LimbSize(i), e.p.N()
		l.ring.ForwardHead(msg)
		w.eachTile(e, s, mask, i, l.ring.Blocks(),
			func(block int) { l.ring.ForwardBlock(msg, block) },
			func(at, to int) bool {
				return l.field.MulAddPack(b[at*size/n:to*size/n], msg[at:to], k[i][at:to], k[len(w.limbs)+i][at:to], s.tile[:8*(to-at)])
			}, nil)
		b = b[size:]
	}
}

func (w *wide) decrypt(e *engine, s *slot, k key, mask *block, bound int64) bool {
	n := e.p.N()
	b := s.bytes
	ok := true
	for i := range w.limbs {
		l := &w.limbs[i]
		size, res := e.p.LimbSize(i), s.res[i]
		w.eachTile(e, s, mask, i, l.ring.Blocks(), nil,
			func(at, to int) bool {
				random, reduced := l.field.UnpackMulSub(res[at:to], b[at*size/n:to*size/n], k[i][at:to], k[len(w.limbs)+i][at:to], s.tile[:8*(to-at)])
				ok = ok && reduced
				return random
			},
			func(block int) { l.ring.InverseBlock(res, block) })
		b = b[size:]
		// Raised by half, a coefficient with its noise is not negative.
		l.ring.InverseLast(res, w.half)
	}
	return w.join(e, s, bound) && ok
}

// eachTile passes the residues of a_j modulo prime i, in order, to use, a tile
// at a time, and calls before and after for every block of which use sees the tiles.
// use reports false when a value of the keystream is not below the prime, which
// happens once in two thousand tiles with the smallest primes and in hundreds of
// millions with the default ones: then all tiles come again, by the rule of
// stream.uniform. All of this is public.
func (w *wide) eachTile(e *engine, s *slot, mask *block, i, blocks int, before func(block int), use func(at, to int) bool, after func(block int)) {
	size := e.p.N() / blocks
	done, reduced := 0, true // blocks that before has seen
	for ; done < blocks && reduced; done++ {
		if before != nil {
			before(done)
		}
		for at := done * size; at < (done+1)*size && reduced; at += tileResidues {
			mask.aes.Stream(s.tile[:], uint64(i), uint64(at/2))
			reduced = use(at, at+tileResidues)
		}
		if after != nil && reduced {
			after(done)
		}
	}
	if reduced {
		return
	}
	for ; done < blocks && before != nil; done++ {
		before(done)
	}
	if s.mask == nil {
		s.mask = make([]uint64, e.p.N())
	}
	s.rand.open(mask, uint64(i))
	s.rand.uniform(s.mask, e.limbs[i].q, e.limbs[i].width)
	for at := 0; at < e.p.N(); at += tileResidues {
		for c, x := range s.mask[at : at+tileResidues] {
			binary.LittleEndian.PutUint64(s.tile[8*c:], x)
		}
		use(at, at+tileResidues)
	}
	for block := 0; block < blocks && after != nil; block++ {
		after(block)
	}
}

// join makes the words of every coefficient by mixed radix (Knuth, TAOCP 2,
// §4.3.2), v_0 + q_0·(v_1 + q_1·(v_2 + …)), checks noise and range, and cuts the
// lanes.
func (w *wide) join(e *engine, s *slot, bound int64) bool {
	const tile = tileResidues
	words, k := w.sumWords, e.p.K
	out := s.packed[:tile*words]
	ok := true
	if w.join3 == nil {
		w.digits(s)
	}
	for at := 0; at < e.p.N(); at += tile {
		if w.join3 != nil {
			ok = w.join3.Words(out, s.res[0][at:at+tile], s.res[1][at:at+tile], s.res[2][at:at+tile], bound) && ok
		} else {
			ok = w.one(e, s, out, at, bound) && ok
		}
		w.cut.Lanes(s.lanes[k*at:k*(at+tile)], out, words)
	}
	return ok
}

// digits replaces the residues by the digits of mixed radix.
func (w *wide) digits(s *slot) {
	w.limbs[0].field.Reduce(s.res[0])
	for i := range w.limbs {
		for j := range i {
			w.limbs[i].ring.SubMul(s.res[i], s.res[j], w.limbs[i].inverse[j])
		}
	}
}

// one makes the words of a tile of coefficients from their digits, one
// coefficient at a time.
func (w *wide) one(e *engine, s *slot, out []uint64, at int, bound int64) bool {
	mask, half := uint64(1)<<e.p.Delta-1, int64(w.half)
	top := uint(e.p.W*e.p.K + e.p.Delta)
	words := w.sumWords
	var bad uint64
	for c := range len(out) / words {
		var x [5]uint64
		last := len(w.limbs) - 1
		x[0] = s.res[last][at+c]
		for i := last - 1; i >= 0; i-- {
			q, carry := e.p.Primes[i], s.res[i][at+c]
			for j := range words {
				h, l := bits.Mul64(x[j], q)
				var f uint64
				x[j], f = bits.Add64(l, carry, 0)
				carry = h + f
			}
		}
		noise := int64(x[0]&mask) - half
		over := x[top>>6&3] >> (top & 63)
		for j := int(top>>6) + 1; j < words; j++ {
			over |= x[j&3]
		}
		bad |= uint64(bound-noise) | uint64(bound+noise) | over | -over
		copy(out[words*c:], x[:words])
	}
	return bad>>63 == 0
}

// newKey is the transforms of a key and, in the rows after them, Shoup's constants.
func (w *wide) newKey(p he.Profile, s []int64) key {
	k := make(key, 2*len(w.limbs))
	for i := range w.limbs {
		l := &w.limbs[i]
		v := residuesOf(s, p.Primes[i])
		l.ring.Forward(v)
		l.field.Reduce(v)
		k[i], k[len(w.limbs)+i] = v, make([]uint64, len(v))
		l.field.Constants(k[len(w.limbs)+i], v)
	}
	return k
}
