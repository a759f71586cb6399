package gram

// Block adds up the products of one block of rows in a panel, some rows at a
// time, by the package's definition.
type Block struct {
	p     int // columns
	score bool
	width int
	acc   []float64 // four partial sums for every pair: row a of weighted columns, column b
	t     []float64 // a group of weighted columns

	kernel kernel
}

// NewBlock makes room for the products of p columns, and of all with a residual
// if score is true.
func NewBlock(p int, score bool) *Block {
	b := &Block{p: p, score: score, width: Width(p)}
	b.acc = make([]float64, b.rows()*b.width*Lanes)
	return b
}

func (b *Block) rows() int {
	if b.score {
		return b.p + 1
	}
	return b.p
}

// Len is the number of sums.
func (b *Block) Len() int {
	n := b.p * (b.p + 1) / 2
	if b.score {
		n += b.p
	}
	return n
}

// Reset begins another block.
func (b *Block) Reset() { clear(b.acc) }

// Add adds the rows of the panel z, of width Width(p), with their weights and,
// with a score, residuals r. All calls for a block but the last have a multiple of four
// rows. What stands at ahead is fetched into the cache meanwhile, if anything.
func (b *Block) Add(z, w, r, ahead []float64) {
	n := len(w)
	steps := n / Lanes
	if n == 0 {
		return
	}
	_ = z[Len(n, b.width)-1]
	if b.score {
		r = r[:n]
	}
	if steps > 0 {
		if need := steps * 4 * Lanes; len(b.t) < need {
			b.t = make([]float64, need)
		}
		b.tiles(steps, z, w, r, ahead)
	}
	// The last n mod 4 rows belong to the first partial sum.
	for i := steps * Lanes; i < n; i++ {
		for a := range b.rows() {
			t, last := 0.0, a
			if a < b.p {
				t = float64(w[i] * z[At(i, a, b.width)])
			} else {
				t, last = r[i], b.p-1
			}
			for c := 0; c <= last; c++ {
				b.acc[(a*b.width+c)*Lanes] += float64(t * z[At(i, c, b.width)])
			}
		}
	}
}

// Sums writes the block's sums: the triangle, packed by rows, and then the score.
func (b *Block) Sums(out []float64) {
	k := 0
	for a := range b.rows() {
		for c := 0; c <= min(a, b.p-1); c++ {
			s := b.acc[(a*b.width+c)*Lanes:][:Lanes]
			out[k] = (s[0] + s[1]) + (s[2] + s[3])
			k++
		}
	}
}

// portableTiles is the definition of tiles.
func (b *Block) portableTiles(steps int, z, w, r []float64) {
	for g := range steps {
		for a := range b.rows() {
			var t [Lanes]float64
			last := a
			if a < b.p {
				for l := range t {
					t[l] = float64(w[g*Lanes+l] * z[(g*b.width+a)*Lanes+l])
				}
			} else {
				copy(t[:], r[g*Lanes:])
				last = b.p - 1
			}
			for c := 0; c <= last; c++ {
				s, x := b.acc[(a*b.width+c)*Lanes:][:Lanes], z[(g*b.width+c)*Lanes:][:Lanes]
				for l := range s {
					s[l] += float64(t[l] * x[l])
				}
			}
		}
	}
}
