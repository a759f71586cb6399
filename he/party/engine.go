package party

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/big"
	"math/bits"
	"runtime"
	"sync"

	"github.com/tuneinsight/lattigo/v5/ring"

	"consilium"
	"consilium/he"
	"consilium/internal/vec"
)

// maxWords holds a coefficient of the widest profile: 411 bits and the carry
// room of the reconstruction.
const maxWords = 8

// engine is what a profile precomputes. But for its spare memory it is read-only
// once made.
type engine struct {
	p     he.Profile
	limbs []limb
	words int   // 64-bit words of a packed coefficient
	wide  *wide // nil where there are no vector instructions

	// Reconstruction from residues: X = sum y_i·Q/q_i - alpha·Q, with
	// y_i = x_i·(Q/q_i)^-1 mod q_i.
	crtWords int
	modulus  [maxWords]uint64 // Q

	lanes *sync.Pool // *[]uint32 for a chunk's lanes, all zero
	kept  *sync.Pool // *[]uint32 for the lanes of all chunks of a vector, all zero
}

// stride is the room of a chunk's lanes, with what may be overwritten behind them.
func (e *engine) stride() int { return e.p.ChunkLanes() + vec.CutSlack }

// getKept is one block of memory for the lanes of so many chunks.
func (e *engine) getKept(chunks int) *[]uint32 {
	n := chunks * e.stride()
	if p, ok := e.kept.Get().(*[]uint32); ok && cap(*p) >= n {
		*p = (*p)[:n]
		return p
	}
	block := make([]uint32, n)
	return &block
}

// chunkOf is a chunk's lanes in a block from getKept.
func (e *engine) chunkOf(block []uint32, j int) []uint32 {
	at := j * e.stride()
	return block[at : at+e.p.ChunkLanes() : at+e.stride()]
}

// getLanes is memory for a chunk's lanes.
func (e *engine) getLanes() []uint32 {
	if p, ok := e.lanes.Get().(*[]uint32); ok {
		return *p
	}
	return make([]uint32, e.stride())[:e.p.ChunkLanes()]
}

// putLanes overwrites what getLanes gave and gives it back.
func (e *engine) putLanes(lanes []uint32) {
	if lanes != nil {
		clear(lanes[:cap(lanes)])
		e.lanes.Put(&lanes)
	}
}

type limb struct {
	ring   *ring.SubRing
	q      uint64
	qInv   uint64 // q·qInv = 1 mod 2^64
	width  int
	words  [maxWords]uint64 // 2^(64w)·2^64 mod q: Montgomery form of a word's weight
	inv    uint64           // (Q/q)^-1 mod q, in Montgomery form
	cof    [maxWords]uint64 // Q/q
	recip  uint64           // floor(2^(63+width)/q)
	rshift uint
}

var (
	enginesMu sync.Mutex
	engines   = map[[3]int]*engine{}
)

func engineFor(p he.Profile) (*engine, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	enginesMu.Lock()
	defer enginesMu.Unlock()
	key := [3]int{p.LogN, p.Bits, p.MaxN}
	if e := engines[key]; e != nil {
		return e, nil
	}
	e, err := newEngine(p)
	if err != nil {
		return nil, err
	}
	e.wide = newWide(e)
	engines[key] = e
	return e, nil
}

func newEngine(p he.Profile) (*engine, error) {
	r, err := ring.NewRing(p.N(), p.Primes)
	if err != nil {
		return nil, fmt.Errorf("ring of degree %d: %w", p.N(), err)
	}
	e := &engine{p: p, limbs: make([]limb, len(p.Primes)), words: (p.W*p.K + p.Delta + 63) / 64, lanes: new(sync.Pool), kept: new(sync.Pool)}
	big64 := new(big.Int).Lsh(big.NewInt(1), 64)
	Q := r.Modulus()
	e.crtWords = (Q.BitLen() + bits.Len(uint(len(p.Primes))) + 63) / 64
	setWords(e.modulus[:], Q)
	for i := range e.limbs {
		s := r.SubRings[i]
		l := &e.limbs[i]
		l.ring, l.q, l.qInv, l.width = s, s.Modulus, s.MRedConstant, bits.Len64(s.Modulus)
		q := new(big.Int).SetUint64(l.q)
		for w := range l.words[:e.words] {
			l.words[w] = new(big.Int).Exp(big64, big.NewInt(int64(w+1)), q).Uint64()
		}
		cof := new(big.Int).Div(Q, q)
		setWords(l.cof[:], cof)
		inv := new(big.Int).ModInverse(cof, q)
		if inv == nil {
			return nil, fmt.Errorf("the primes of logN %d are not distinct", p.LogN)
		}
		l.inv = inv.Mul(inv, big64).Mod(inv, q).Uint64()
		recip := new(big.Int).Lsh(big.NewInt(1), uint(63+l.width))
		l.recip = recip.Div(recip, q).Uint64()
		l.rshift = uint(l.width - 1 - 32)
	}
	return e, nil
}

func setWords(dst []uint64, x *big.Int) {
	b := x.FillBytes(make([]byte, 8*len(dst)))
	for i := range dst {
		dst[i] = binary.BigEndian.Uint64(b[len(b)-8*(i+1):])
	}
}

// csub subtracts q from x once unless x is below it, without a branch; both
// are below 2^63.
func csub(x, q uint64) uint64 {
	d := x - q
	return d + q&-(d>>63)
}

// key is a round key, or a sum of such, in the form that multiplies: for each
// limb its transform in Montgomery form, or for the wide engine its transform
// and then, for each limb, Shoup's constants.
type key [][]uint64

// newKey transforms small coefficients.
func (e *engine) newKey(s []int64) key {
	if e.wide != nil {
		return e.wide.newKey(e.p, s)
	}
	k := make(key, len(e.limbs))
	for i := range e.limbs {
		l := &e.limbs[i]
		v := residuesOf(s, l.q)
		l.ring.NTT(v, v)
		l.ring.MForm(v, v)
		k[i] = v
	}
	return k
}

// residuesOf is small coefficients modulo q.
func residuesOf(s []int64, q uint64) []uint64 {
	v := make([]uint64, len(s))
	for c, x := range s {
		v[c] = uint64(x) + q&uint64(x>>63)
	}
	return v
}

func (k key) wipe() {
	for _, v := range k {
		clear(v)
	}
}

// maskBlock is the cipher that expands a_j: AES-256 keyed by
// SHA-256 over the domain, charter, round and attempt, state, parameter set
// and chunk number, each with its length. Limb i takes the keystream of nonce
// i and is the transform itself.
func maskBlock(p []byte, at consilium.At, state consilium.Digest, chunk int) *block {
	b := &block{}
	newMasks(p, at, state).block(b, chunk)
	return b
}

// masks derives the cipher of every chunk of one attempt. The key's preimage
// is kept and differs from chunk to chunk in its last eight bytes.
type masks struct{ preimage []byte }

func newMasks(p []byte, at consilium.At, state consilium.Digest) *masks {
	var ra [8]byte
	binary.BigEndian.PutUint32(ra[:4], at.Round)
	binary.BigEndian.PutUint32(ra[4:], at.Attempt)
	return &masks{preimage: []byte(info(consilium.DomainPublicMask, at.Charter[:], ra[:], state[:], p, make([]byte, 8)))}
}

// block sets b to the cipher of a chunk. Several goroutines may call it.
func (m *masks) block(b *block, chunk int) {
	var buf [256]byte
	in := append(buf[:0], m.preimage...)
	binary.BigEndian.PutUint64(in[len(in)-8:], uint64(chunk))
	k := sha256.Sum256(in)
	b.set(&k)
}

// slot is the scratch memory of one chunk in flight. Where there are vector
// instructions packed and noise are of one tile.
type slot struct {
	lanes  []uint32 // unsigned lanes, or their sums
	narrow []byte   // in their place, if not nil: lanes as vec.Gather16 takes them
	packed []uint64 // words of coefficients
	noise  []int64
	limb   []uint64   // portable
	mask   []uint64   // portable, or when a keystream had to be taken again
	res    [][]uint64 // receiver, and vector instructions: residues of all limbs
	bytes  []byte
	rand   stream
	cipher block                  // of a_j
	tile   [8 * tileResidues]byte // wide: a piece of keystream
	err    error
}

func (e *engine) newSlot(receive bool) *slot {
	s := &slot{lanes: e.getLanes(), bytes: he.LimbBuffer(e.p.ChunkSize())}
	if e.wide != nil {
		s.packed = make([]uint64, tileResidues*max(1+e.wide.words, e.wide.sumWords)+vec.CutSlack)
		s.noise = make([]int64, tileResidues)
	} else {
		s.limb, s.mask = make([]uint64, e.p.N()), make([]uint64, e.p.N())
		if !receive {
			s.packed, s.noise = make([]uint64, e.p.N()*e.words), make([]int64, e.p.N())
		}
	}
	if receive || e.wide != nil {
		s.res = make([][]uint64, len(e.limbs))
		for i := range s.res {
			s.res[i] = make([]uint64, e.p.N())
		}
	}
	return s
}

// release overwrites what was secret in slots, which are not used again.
func (e *engine) release(slots []*slot) {
	for _, s := range slots {
		s.wipe()
		e.putLanes(s.lanes)
		s.lanes = nil
	}
}

func (s *slot) wipe() {
	clear(s.narrow)
	clear(s.packed)
	clear(s.noise)
	clear(s.limb)
	for _, v := range s.res {
		clear(v)
	}
	clear(s.tile[:])
	clear(s.rand.buf[:])
}

// noiseOffset makes packed coefficients non-negative; it is above the
// sampler's largest magnitude and subtracted again modulo each prime.
const noiseOffset = 64

// pack gathers K lanes above Delta bits of noise into the words of each
// coefficient.
func (e *engine) pack(s *slot) {
	n, k, w := e.p.N(), e.p.K, uint(e.p.W)
	for c := 0; c < n; c++ {
		out := s.packed[c*e.words : (c+1)*e.words]
		acc := uint64(s.noise[c] + noiseOffset)
		fill := uint(e.p.Delta)
		o := 0
		for _, x := range s.lanes[c*k : (c+1)*k] {
			u := uint64(x)
			acc |= u << (fill & 63)
			fill += w
			if fill >= 64 {
				out[o] = acc
				o++
				fill -= 64
				acc = u >> ((w - fill) & 63)
			}
		}
		if o < len(out) {
			out[o] = acc
		}
	}
}

// residues writes the packed coefficients modulo one prime to dst, below 2q.
// It is a Montgomery reduction of sum word·weight, which is below words·q·2^64,
// plus (q - noiseOffset)·2^64.
func (l *limb) residues(dst, packed []uint64, words int) {
	q, q2, q4, qInv := l.q, 2*l.q, 4*l.q, l.qInv
	start := q - noiseOffset
	switch words {
	case 3:
		w0, w1, w2 := l.words[0], l.words[1], l.words[2]
		for c := range dst {
			in := packed[:3:3]
			packed = packed[3:]
			hi, lo := bits.Mul64(in[0], w0)
			h, y := bits.Mul64(in[1], w1)
			lo, f := bits.Add64(lo, y, 0)
			hi, _ = bits.Add64(hi, h, f)
			h, y = bits.Mul64(in[2], w2)
			lo, f = bits.Add64(lo, y, 0)
			hi, _ = bits.Add64(hi, h, f)
			h, _ = bits.Mul64(lo*qInv, q)
			dst[c] = csub(csub(start+hi+q-h, q4), q2) // below 5q
		}
	default:
		for c := range dst {
			hi, lo := start, uint64(0)
			for w, x := range packed[:words] {
				h, y := bits.Mul64(x, l.words[w])
				var f uint64
				lo, f = bits.Add64(lo, y, 0)
				hi, _ = bits.Add64(hi, h, f)
			}
			packed = packed[words:]
			h, _ := bits.Mul64(lo*qInv, q)
			// Below (words+2)·q, at most 9q.
			dst[c] = csub(csub(csub(hi+q-h, q4), q4), q2)
		}
	}
}

// encrypt turns the slot's lanes into bytes:
// c = a·s + transform(2^Delta·lanes + e), one polynomial for each limb.
func (e *engine) encrypt(s *slot, k key, errors, mask *block, chunk int) {
	if e.wide != nil {
		e.wide.encrypt(e, s, k, errors, mask, chunk)
		return
	}
	s.rand.open(errors, uint64(chunk))
	s.rand.gaussians(s.noise)
	e.pack(s)
	b := s.bytes
	for i := range e.limbs {
		l := &e.limbs[i]
		l.residues(s.limb, s.packed, e.words)
		l.ring.NTTLazy(s.limb, s.limb)
		s.rand.open(mask, uint64(i))
		s.rand.uniform(s.mask, l.q, l.width)
		// The lazy transform leaves values below 6q, the product is below 2q.
		q, q2, q4, qInv := l.q, 2*l.q, 4*l.q, l.qInv
		key, msg := k[i][:len(s.limb)], s.limb
		for c, a := range s.mask[:len(s.limb)] {
			hi, lo := bits.Mul64(a, key[c])
			h, _ := bits.Mul64(lo*qInv, q)
			msg[c] = csub(csub(csub(msg[c]+hi+q-h, q4), q2), q)
		}
		n := e.p.LimbSize(i)
		he.PackLimb(b[:n], s.limb, l.width)
		b = b[n:]
	}
}

// decrypt turns the slot's bytes, a summed chunk, into summed lanes. It
// reports false when a residue is not reduced, the noise is above bound or
// bits lie above the lanes.
func (e *engine) decrypt(s *slot, k key, mask *block, bound int64) bool {
	if e.wide != nil {
		return e.wide.decrypt(e, s, k, mask, bound)
	}
	b := s.bytes
	ok := true
	for i := range e.limbs {
		l := &e.limbs[i]
		n := e.p.LimbSize(i)
		res := s.res[i]
		if !he.UnpackLimb(res, b[:n], l.width, l.q) {
			ok = false
		}
		b = b[n:]
		s.rand.open(mask, uint64(i))
		s.rand.uniform(s.mask, l.q, l.width)
		q, q2, qInv := l.q, 2*l.q, l.qInv
		key := k[i][:len(res)]
		for c, a := range s.mask[:len(res)] {
			hi, lo := bits.Mul64(a, key[c])
			h, _ := bits.Mul64(lo*qInv, q)
			res[c] = csub(csub(res[c]+q+h-hi, q2), q)
		}
		l.ring.INTTLazy(res, res)
	}
	return e.unpack(s, bound) && ok
}

// unpack reconstructs every coefficient from its residues, checks its noise
// and cuts it into lanes.
func (e *engine) unpack(s *slot, bound int64) bool {
	half := uint64(1) << (e.p.Delta - 1)
	c := cutter{k: e.p.K, w: uint(e.p.W), delta: uint(e.p.Delta), top: uint(e.p.W*e.p.K + e.p.Delta), bound: bound}
	if len(e.limbs) == 3 && e.crtWords == 3 {
		e.unpack3(s, &c, half)
	} else {
		e.unpackAny(s, &c, half)
	}
	return c.bad>>63 == 0
}

// scaled is y_i = x·(Q/q_i)^-1 mod q_i and its share of alpha, in 2^-32.
func (l *limb) scaled(x uint64) (y, alpha uint64) {
	hi, lo := bits.Mul64(x, l.inv)
	h, _ := bits.Mul64(lo*l.qInv, l.q)
	y = csub(hi+l.q-h, l.q)
	f, _ := bits.Mul64(y, l.recip)
	return y, f >> l.rshift
}

// alpha is floor(sum y_i/q_i) of a value whose fraction is between -2^-20
// (noise below zero) and 1/2 (the table's rule): rounded by a quarter.
func roundAlpha(sum uint64) uint64 { return (sum + 1<<30) >> 32 }

// unpack3 is unpackAny for three primes of up to 61 bits, the default.
func (e *engine) unpack3(s *slot, cut *cutter, half uint64) {
	l0, l1, l2 := &e.limbs[0], &e.limbs[1], &e.limbs[2]
	r0, r1, r2 := s.res[0], s.res[1], s.res[2]
	r1, r2 = r1[:len(r0)], r2[:len(r0)]
	a0, a1, a2 := l0.cof[0], l0.cof[1], l0.cof[2]
	b0, b1, b2 := l1.cof[0], l1.cof[1], l1.cof[2]
	c0, c1, c2 := l2.cof[0], l2.cof[1], l2.cof[2]
	q0, q1, q2 := e.modulus[0], e.modulus[1], e.modulus[2]
	lanes := s.lanes
	delta, w := cut.delta&63, cut.w&63
	deltaUp, wUp := (64-delta)&63, (64-w)&63
	deltaMask, laneMask := uint64(1)<<delta-1, uint64(1)<<w-1
	bound, bad := cut.bound, uint64(0)
	for c := range r0 {
		y0, f0 := l0.scaled(r0[c])
		y1, f1 := l1.scaled(r1[c])
		y2, f2 := l2.scaled(r2[c])
		alpha := roundAlpha(f0 + f1 + f2)
		// Column by column; what overflows the third word is above 2^192.
		t1, t0 := bits.Mul64(y0, a0)
		h, m := bits.Mul64(y1, b0)
		t0, f := bits.Add64(t0, m, 0)
		t1, g := bits.Add64(t1, h, f)
		t2 := g
		h, m = bits.Mul64(y2, c0)
		t0, f = bits.Add64(t0, m, 0)
		t1, g = bits.Add64(t1, h, f)
		t2 += g
		t0, f = bits.Add64(t0, half, 0)
		t1, g = bits.Add64(t1, 0, f)
		t2 += g
		h, m = bits.Mul64(y0, a1)
		t1, f = bits.Add64(t1, m, 0)
		t2, _ = bits.Add64(t2, h, f)
		h, m = bits.Mul64(y1, b1)
		t1, f = bits.Add64(t1, m, 0)
		t2, _ = bits.Add64(t2, h, f)
		h, m = bits.Mul64(y2, c1)
		t1, f = bits.Add64(t1, m, 0)
		t2, _ = bits.Add64(t2, h, f)
		t2 += y0*a2 + y1*b2 + y2*c2
		// Minus alpha·Q.
		h, m = bits.Mul64(alpha, q0)
		t0, f = bits.Sub64(t0, m, 0)
		t1, g = bits.Sub64(t1, h, f)
		t2 -= g
		h, m = bits.Mul64(alpha, q1)
		t1, f = bits.Sub64(t1, m, 0)
		t2, _ = bits.Sub64(t2, h, f)
		t2 -= alpha * q2
		// The three words are one register that is shifted out lane by lane;
		// what is left in the end must be nothing.
		noise := int64(t0&deltaMask) - int64(half)
		bad |= uint64(bound-noise) | uint64(bound+noise)
		t0, t1, t2 = t0>>delta|t1<<deltaUp, t1>>delta|t2<<deltaUp, t2>>delta
		out := lanes[:cut.k]
		for i := range out {
			out[i] = uint32(t0 & laneMask)
			t0, t1, t2 = t0>>w|t1<<wUp, t1>>w|t2<<wUp, t2>>w
		}
		over := t0 | t1 | t2
		bad |= over | -over
		lanes = lanes[cut.k:]
	}
	cut.bad |= bad
}

func (e *engine) unpackAny(s *slot, cut *cutter, half uint64) {
	words := e.crtWords
	lanes := s.lanes
	for c := range s.res[0] {
		var x [maxWords]uint64
		var alpha uint64
		for i := range e.limbs {
			l := &e.limbs[i]
			y, f := l.scaled(s.res[i][c])
			alpha += f
			var carry uint64
			for j := range x[:words] {
				h, m := bits.Mul64(y, l.cof[j])
				var f uint64
				m, f = bits.Add64(m, carry, 0)
				h += f
				x[j], f = bits.Add64(x[j], m, 0)
				carry = h + f
			}
		}
		alpha = roundAlpha(alpha)
		carry := uint64(0)
		borrow := uint64(0)
		for j := range x[:words] {
			h, m := bits.Mul64(alpha, e.modulus[j])
			var f uint64
			m, f = bits.Add64(m, carry, 0)
			carry = h + f
			x[j], borrow = bits.Sub64(x[j], m, borrow)
		}
		x[0], carry = bits.Add64(x[0], half, 0)
		for j := 1; j < words; j++ {
			x[j], carry = bits.Add64(x[j], 0, carry)
		}
		cut.lanes(lanes[:cut.k], &x, words)
		lanes = lanes[cut.k:]
	}
}

// cutter cuts coefficients, raised by half of 2^Delta, into lanes.
type cutter struct {
	k             int
	w, delta, top uint
	bound         int64
	bad           uint64 // its top bit: noise above bound, or bits above the lanes
}

func (c *cutter) lanes(out []uint32, x *[maxWords]uint64, words int) {
	noise := int64(x[0]&(1<<c.delta-1)) - int64(1)<<(c.delta-1)
	over := x[c.top>>6&7] >> (c.top & 63)
	for j := int(c.top>>6) + 1; j < words; j++ {
		over |= x[j&7]
	}
	c.bad |= uint64(c.bound-noise) | uint64(c.bound+noise) | over | -over
	mask := uint64(1)<<c.w - 1
	pos := c.delta
	for i := range out {
		// A lane is at most 31 bits: the two shifts leave its low bits
		// whatever the word boundary. A shift by 64 gives zero.
		j, sh := pos>>6, pos&63
		v := x[j&7]>>sh | x[(j+1)&7]<<(64-sh)
		out[i] = uint32(v & mask)
		pos += c.w
	}
}

// pipeline runs chunks through slots: fill in order on one goroutine, drain in
// order on this one, and work between them on as many goroutines as there are
// slots. With one slot or chunk everything happens here. The first error in
// the order of chunks ends it; when it returns, nothing of it runs any more.
func pipeline(ctx context.Context, chunks int, slots []*slot, fill, work, drain func(chunk int, s *slot) error) error {
	if len(slots) == 1 || chunks == 1 {
		for j := range chunks {
			if err := ctx.Err(); err != nil {
				return err
			}
			s := slots[0]
			if err := fill(j, s); err != nil {
				return err
			}
			if err := work(j, s); err != nil {
				return err
			}
			if err := drain(j, s); err != nil {
				return err
			}
		}
		return nil
	}
	// A slot goes round: free, filled, done, free. Each channel holds its one
	// slot's turn, so a send never blocks; receives end with stop.
	free, filled, done := make([]chan int, len(slots)), make([]chan int, len(slots)), make([]chan int, len(slots))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i, s := range slots {
		free[i], filled[i], done[i] = make(chan int, 1), make(chan int, 1), make(chan int, 1)
		free[i] <- 0
		wg.Go(func() {
			for {
				select {
				case j := <-filled[i]:
					if s.err == nil {
						s.err = work(j, s)
					}
					done[i] <- j
				case <-stop:
					return
				}
			}
		})
	}
	wg.Go(func() {
		for j := range chunks {
			i := j % len(slots)
			select {
			case <-free[i]:
			case <-stop:
				return
			}
			s := slots[i]
			if s.err = ctx.Err(); s.err == nil {
				s.err = fill(j, s)
			}
			// The slot is the worker's once it is in the channel.
			failed := s.err != nil
			filled[i] <- j
			if failed {
				return
			}
		}
	})
	defer wg.Wait()
	defer close(stop)
	for j := range chunks {
		i := j % len(slots)
		<-done[i]
		if err := slots[i].err; err != nil {
			return err
		}
		if err := drain(j, slots[i]); err != nil {
			return err
		}
		free[i] <- 0
	}
	return nil
}

// maxWorkers bounds the chunks in flight, of about a megabyte each: digests are
// computed in order, and more processors than these would wait for them.
const maxWorkers = 8

// newSlots makes as many slots as keep the processors busy.
func (e *engine) newSlots(chunks int, receive bool) []*slot {
	n := 1
	if p := runtime.GOMAXPROCS(0); p > 1 {
		n = min(p, maxWorkers) + 1
	}
	slots := make([]*slot, min(n, chunks))
	for i := range slots {
		slots[i] = e.newSlot(receive)
		if !receive && e.wide != nil && e.wide.narrow {
			e.putLanes(slots[i].lanes)
			slots[i].lanes, slots[i].narrow = nil, make([]byte, 2*e.p.ChunkLanes())
		}
	}
	return slots
}
