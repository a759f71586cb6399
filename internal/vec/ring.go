package vec

import "math/bits"

// Ring transforms polynomials of degree n modulo X^n+1 and q, in the order of
// the roots that it is given.
type Ring struct {
	n      int
	blocks int
	q      uint64
	fwd    roots
	inv    roots
	scale  uint64 // 1/n
	scaleP uint64
	last   uint64 // 1/n times the root of the last inverse layer
	lastP  uint64
}

// roots are the powers of a 2n-th root of unity, or of its inverse, in
// bit-reversed order, with Shoup's constants. The last layer's are permuted to
// the order in which fwdTail and invHead meet them.
type roots struct{ w, p, w1, p1 []uint64 }

func newRoots(w []uint64, q uint64) roots {
	r := roots{w: w, p: make([]uint64, len(w)), w1: make([]uint64, len(w)/2), p1: make([]uint64, len(w)/2)}
	for i, x := range w {
		r.p[i] = Constant(x, q)
	}
	for i := range r.w1 {
		from := len(w)/2 + i&^7 + int([8]byte{0, 1, 4, 5, 2, 3, 6, 7}[i&7])
		r.w1[i], r.p1[i] = w[from], r.p[from]
	}
	return r
}

// NewRing takes the powers of a root and of its inverse, reduced and in
// bit-reversed order (forward[1] is the root's power n/2), and 1/n modulo q. n
// is a power of two of at least 64, q a prime of at most 60 bits.
func NewRing(q uint64, forward, backward []uint64, scale uint64) *Ring {
	r := &Ring{n: len(forward), blocks: 1, q: q, fwd: newRoots(forward, q), inv: newRoots(backward, q), scale: scale, scaleP: Constant(scale, q)}
	hi, lo := bits.Mul64(backward[1], scale)
	_, r.last = bits.Div64(hi, lo, q)
	r.lastP = Constant(r.last, q)
	if odd(r.n) {
		r.blocks = 2
	}
	for r.n/r.blocks > part {
		r.blocks *= 4
	}
	return r
}

// part is the most elements of a block. Transforms go two layers at a time: a few
// layers over the whole polynomial, all others block by block, within the
// processor's first cache. A caller who has more to do with a block does it while
// the block is there.
const part = 2048

// Blocks is how many blocks of equal length a polynomial has.
func (r *Ring) Blocks() int { return r.blocks }

// Forward transforms x in place. In and out below 16q.
func (r *Ring) Forward(x []uint64) {
	r.ForwardHead(x)
	for b := range r.blocks {
		r.ForwardBlock(x, b)
	}
}

// ForwardHead is the layers that join blocks.
func (r *Ring) ForwardHead(x []uint64) {
	r.check(x)
	f := &r.fwd
	m := 1 // blocks so far
	if odd(r.n) {
		fwd2(&x[0], r.n/2, &f.w[1], &f.p[1], r.q)
		m = 2
	}
	for ; m < r.blocks; m *= 4 {
		fwd4(&x[0], r.n/(4*m), m, &f.w[m], &f.p[m], &f.w[2*m], &f.p[2*m], r.q)
	}
}

// ForwardBlock is, after ForwardHead, the other layers over block b.
func (r *Ring) ForwardBlock(x []uint64, b int) {
	r.check(x)
	f, size := &r.fwd, r.n/r.blocks
	at := b * size
	k, i := r.blocks, b // i: the block's first at level k
	for ; r.n/k > 8; k, i = 4*k, 4*i {
		fwd4(&x[at], r.n/(4*k), k/r.blocks, &f.w[k+i], &f.p[k+i], &f.w[2*(k+i)], &f.p[2*(k+i)], r.q)
	}
	fwdTail(&x[at], size, &f.w[k+i], &f.p[k+i], &f.w[2*(k+i)], &f.p[2*(k+i)], &f.w1[at/2], &f.p1[at/2], r.q)
}

// Inverse undoes Forward and adds add, below q, to every coefficient. In below
// 4q, out below 5q.
func (r *Ring) Inverse(x []uint64, add uint64) {
	for b := range r.blocks {
		r.InverseBlock(x, b)
	}
	r.InverseLast(x, add)
}

// InverseBlock is the layers within block b. In and out below 4q.
func (r *Ring) InverseBlock(x []uint64, b int) {
	r.check(x)
	f, size := &r.inv, r.n/r.blocks
	at, k := b*size, r.n/8
	i := at / 8
	invHead(&x[at], size, &f.w[k+i], &f.p[k+i], &f.w[2*(k+i)], &f.p[2*(k+i)], &f.w1[at/2], &f.p1[at/2], r.q)
	for k > r.blocks {
		k, i = k/4, i/4
		inv4(&x[at], r.n/(4*k), k/r.blocks, &f.w[k+i], &f.p[k+i], &f.w[2*(k+i)], &f.p[2*(k+i)], r.q)
	}
}

// InverseLast is, after InverseBlock of every block, the layers that join them,
// the division by n and the addition.
func (r *Ring) InverseLast(x []uint64, add uint64) {
	r.check(x)
	f, m := &r.inv, r.blocks
	for m > 4 {
		m /= 4
		inv4(&x[0], r.n/(4*m), m, &f.w[m], &f.p[m], &f.w[2*m], &f.p[2*m], r.q)
	}
	if m == 4 {
		inv4Last(&x[0], r.n/4, r.last, r.lastP, &f.w[2], &f.p[2], r.scale, r.scaleP, add, r.q)
		return
	}
	if m == 2 {
		inv2(&x[0], r.n/2, &f.w[1], &f.p[1], r.q)
	}
	scaleAdd(&x[0], r.n, r.scale, r.scaleP, add, r.q)
}

func (r *Ring) check(x []uint64) {
	if len(x) != r.n {
		panic("vec: a polynomial of another degree")
	}
}

// odd reports whether the layers above distance 4 are odd in number.
func odd(n int) bool {
	layers := 0
	for ; n > 8; n /= 2 {
		layers++
	}
	return layers%2 == 1
}

// SubMul is x = (x - y)·w, reduced, with x below 12q and y below 4q.
func (r *Ring) SubMul(x, y []uint64, w uint64) {
	if len(x) == 0 || len(x)%8 != 0 || len(y) != len(x) {
		panic("vec: lengths do not fit")
	}
	subMul(&x[0], &y[0], len(x), w, Constant(w, r.q), r.q)
}

// Weights4 are up to four constants with Shoup's of each.
type Weights4 [4][2]uint64

// Residues is dst = base + add + sum of words[j·len(dst) + c]·weights[j] over
// the count words of coefficient c, below 16q. base and words are below 2^62,
// base also below 2q, add below q.
func (r *Ring) Residues(dst, base, words []uint64, count int, weights *Weights4, add uint64) {
	n := len(dst)
	if n == 0 || n%8 != 0 || len(base) != n || count < 1 || count > 4 || len(words) < count*n {
		panic("vec: lengths do not fit")
	}
	if count == 2 {
		residues2(&dst[0], &base[0], &words[0], n, n, &weights[0], add, r.q)
		return
	}
	residues(&dst[0], &base[0], &words[0], n, count, n, &weights[0], add, r.q)
}

// Join puts numbers together from their residues modulo three primes of at most 60
// bits. The .s files know its layout.
type Join struct {
	q0, q1, q2    [3]uint64 // q, 2q, 4q
	w01, w02, w12 [3]uint64 // 1/q0 mod q1, …; and Shoup's constant in two parts
	low           uint64    // 2^delta - 1
	half          uint64    // 2^(delta-1)
	bound         int64
	top           uint64
}

// NewJoin takes the primes, the inverses of the first modulo the second and the
// third, and of the second modulo the third, and the places of noise and lanes: delta
// bits of noise, raised by half of 2^delta, and nothing from bit top on, which is above
// 128.
func NewJoin(q [3]uint64, w01, w02, w12 uint64, delta, top int) *Join {
	if delta < 1 || delta > 52 || top <= 128 || top >= 192 {
		panic("vec: no such coefficients")
	}
	multiples := func(q uint64) [3]uint64 { return [3]uint64{q, 2 * q, 4 * q} }
	split := func(w, q uint64) [3]uint64 {
		p := Constant(w, q)
		return [3]uint64{w, p >> 12, p << 40}
	}
	return &Join{
		q0: multiples(q[0]), q1: multiples(q[1]), q2: multiples(q[2]),
		w01: split(w01, q[1]), w02: split(w02, q[2]), w12: split(w12, q[2]),
		low: 1<<delta - 1, half: 1 << (delta - 1), top: uint64(top - 128),
	}
}

// Words writes the numbers whose residues are r0, r1 and r2, each below 5q, to dst,
// three words each. It reports false if the noise of one is above bound, or one has a
// bit from top on. There are a multiple of 16.
func (j *Join) Words(dst, r0, r1, r2 []uint64, bound int64) bool {
	n := len(r0)
	if n == 0 || n%16 != 0 || len(r1) != n || len(r2) != n || len(dst) != 3*n {
		panic("vec: lengths do not fit")
	}
	c := *j
	c.bound = bound
	return join3(&dst[0], &r0[0], &r1[0], &r2[0], n, &c) == 0
}
