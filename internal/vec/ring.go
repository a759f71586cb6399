package vec

// Ring transforms polynomials of degree n modulo X^n+1 and q, in the order of
// the roots that it is given.
type Ring struct {
	n      int
	q      uint64
	fwd    roots
	inv    roots
	scale  uint64 // 1/n
	scaleP uint64
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
	return &Ring{n: len(forward), q: q, fwd: newRoots(forward, q), inv: newRoots(backward, q), scale: scale, scaleP: Constant(scale, q)}
}

// Transforms go down to distance 8 two layers at a time, as far as possible
// in parts of the polynomial that stay in the processor's first cache.
const part = 2048

// Forward transforms x in place. In and out below 16q.
func (r *Ring) Forward(x []uint64) {
	if len(x) != r.n {
		panic("vec: a polynomial of another degree")
	}
	f := &r.fwd
	m := 1 // blocks so far
	if odd(r.n) {
		fwd2(&x[0], r.n/2, &f.w[1], &f.p[1], r.q)
		m = 2
	}
	for r.n/m > part {
		fwd4(&x[0], r.n/(4*m), m, &f.w[m], &f.p[m], &f.w[2*m], &f.p[2*m], r.q)
		m *= 4
	}
	size := r.n / m // of a block
	for b := range m {
		at := b * size
		k := m
		i := b // index of the part's first block at level k
		for ; r.n/k > 8; k, i = 4*k, 4*i {
			fwd4(&x[at], r.n/(4*k), k/m, &f.w[k+i], &f.p[k+i], &f.w[2*(k+i)], &f.p[2*(k+i)], r.q)
		}
		fwdTail(&x[at], size, &f.w[k+i], &f.p[k+i], &f.w[2*(k+i)], &f.p[2*(k+i)], &f.w1[at/2], &f.p1[at/2], r.q)
	}
}

// Inverse undoes Forward and adds add, below q, to every coefficient. In below
// 4q, out reduced.
func (r *Ring) Inverse(x []uint64, add uint64) {
	if len(x) != r.n {
		panic("vec: a polynomial of another degree")
	}
	f := &r.inv
	m := 1
	if odd(r.n) {
		m = 2
	}
	for r.n/m > part {
		m *= 4
	}
	size := r.n / m
	for b := range m {
		at := b * size
		k := r.n / 8
		i := b * size / 8
		invHead(&x[at], size, &f.w[k+i], &f.p[k+i], &f.w[2*(k+i)], &f.p[2*(k+i)], &f.w1[at/2], &f.p1[at/2], r.q)
		for k > m {
			k, i = k/4, i/4
			inv4(&x[at], r.n/(4*k), k/m, &f.w[k+i], &f.p[k+i], &f.w[2*(k+i)], &f.p[2*(k+i)], r.q)
		}
	}
	for m >= 4 {
		m /= 4
		inv4(&x[0], r.n/(4*m), m, &f.w[m], &f.p[m], &f.w[2*m], &f.p[2*m], r.q)
	}
	if m == 2 {
		inv2(&x[0], r.n/2, &f.w[1], &f.p[1], r.q)
	}
	scaleAdd(&x[0], r.n, r.scale, r.scaleP, add, r.q)
}

// odd reports whether the layers above distance 4 are odd in number.
func odd(n int) bool {
	layers := 0
	for ; n > 8; n /= 2 {
		layers++
	}
	return layers%2 == 1
}

// SubMul is x = (x - y)·w, reduced, with x below q and y below 4q.
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
	residues(&dst[0], &base[0], &words[0], n, count, n, &weights[0], add, r.q)
}
