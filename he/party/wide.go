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

	// Receiving: the words of a coefficient, and where its lanes lie in them.
	sumWords int
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
	return w
}

// tileResidues is how many residues share one piece of keystream, 8 KiB: it is
// made and used within the processor's first cache.
const tileResidues = 1024

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
	n := e.p.N()
	for at := 0; at < n; at += tileResidues {
		errors.aes.Stream(s.tile[:], uint64(chunk), uint64(at/2))
		gaussTree.Fill(s.noise[at:at+tileResidues], s.tile[:])
	}
	base, words := s.packed[:n], s.packed[n:]
	w.pack(e, base, words, s.noise, s.lanes)
	b := s.bytes
	for i := range w.limbs {
		l := &w.limbs[i]
		l.ring.Residues(s.limb, base, words, w.words, &l.weights, e.p.Primes[i]-noiseOffset)
		l.ring.Forward(s.limb)
		size := e.p.LimbSize(i)
		w.eachTile(e, s, mask, i, func(at, to int) bool {
			return l.field.MulAddPack(b[at*size/n:to*size/n], s.limb[at:to], k[i][at:to], k[len(w.limbs)+i][at:to], s.tile[:8*(to-at)])
		})
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
		w.eachTile(e, s, mask, i, func(at, to int) bool {
			random, reduced := l.field.UnpackMulSub(res[at:to], b[at*size/n:to*size/n], k[i][at:to], k[len(w.limbs)+i][at:to], s.tile[:8*(to-at)])
			ok = ok && reduced
			return random
		})
		b = b[size:]
		// Raised by half, a coefficient with its noise is not negative.
		l.ring.Inverse(res, w.half)
	}
	// Mixed radix (Knuth, TAOCP 2, §4.3.2): the coefficient is
	// v_0 + q_0·(v_1 + q_1·(v_2 + …)).
	for i := range w.limbs {
		for j := range i {
			w.limbs[i].ring.SubMul(s.res[i], s.res[j], w.limbs[i].inverse[j])
		}
	}
	return w.join(e, s, bound) && ok
}

// eachTile passes the residues of a_j modulo prime i, in order, to use, a tile
// at a time. use reports false when a value of the keystream is not below the
// prime, which happens once in millions of tiles: then all tiles come again, by
// the rule of stream.uniform. All of this is public.
func (w *wide) eachTile(e *engine, s *slot, mask *block, i int, use func(at, to int) bool) {
	n := e.p.N()
	for at := 0; at < n; at += tileResidues {
		mask.aes.Stream(s.tile[:], uint64(i), uint64(at/2))
		if !use(at, at+tileResidues) {
			s.rand.open(mask, uint64(i))
			s.rand.uniform(s.mask, e.limbs[i].q, e.limbs[i].width)
			for at := 0; at < n; at += tileResidues {
				for c, x := range s.mask[at : at+tileResidues] {
					binary.LittleEndian.PutUint64(s.tile[8*c:], x)
				}
				use(at, at+tileResidues)
			}
			return
		}
	}
}

// join makes the words of every coefficient, checks noise and range, and cuts
// the lanes.
func (w *wide) join(e *engine, s *slot, bound int64) bool {
	n, words := e.p.N(), w.sumWords
	out := s.packed[:n*words]
	mask, half := uint64(1)<<e.p.Delta-1, int64(w.half)
	top := uint(e.p.W*e.p.K + e.p.Delta)
	var bad uint64
	if len(w.limbs) == 3 && words == 3 && top > 128 {
		q0, q1 := e.p.Primes[0], e.p.Primes[1]
		r0, r1, r2 := s.res[0][:n], s.res[1][:n], s.res[2][:n]
		top -= 128
		for c := range r0 {
			h, l := bits.Mul64(r2[c], q1)
			l, f := bits.Add64(l, r1[c], 0)
			h += f
			m, t0 := bits.Mul64(l, q0)
			t2, t1 := bits.Mul64(h, q0)
			t0, f = bits.Add64(t0, r0[c], 0)
			t1, f = bits.Add64(t1, m, f)
			t2 += f
			noise := int64(t0&mask) - half
			over := t2 >> (top & 63)
			bad |= uint64(bound-noise) | uint64(bound+noise) | over | -over
			o := out[3*c : 3*c+3 : 3*c+3]
			o[0], o[1], o[2] = t0, t1, t2
		}
	} else {
		for c := range n {
			var x [5]uint64
			last := len(w.limbs) - 1
			x[0] = s.res[last][c]
			for i := last - 1; i >= 0; i-- {
				q, carry := e.p.Primes[i], s.res[i][c]
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
	}
	w.cut.Lanes(s.lanes, out, words)
	return bad>>63 == 0
}

// wideKey are the rows that follow a key's transforms: Shoup's constants.
func (w *wide) wideKey(p he.Profile, k key) key {
	for i, q := range p.Primes {
		c := make([]uint64, len(k[i]))
		for j, x := range k[i] {
			c[j] = vec.Constant(x, q)
		}
		k = append(k, c)
	}
	return k
}
