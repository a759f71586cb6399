package gram

// Block adds up the products of one block of rows in a panel, some rows at a
// time, by the package's definition.
type Block struct {
	p     int // columns
	score bool
	width int
	acc   []float64 // four partial sums for every row of weighted columns and column: see at
	t     []float64 // a group of weighted columns
	row   []float64 // a row of sums

	kernel kernel
}

// NewBlock makes room for the products of p columns, and of all with a residual
// if score is true.
func NewBlock(p int, score bool) *Block {
	b := &Block{p: p, score: score, width: Width(p)}
	b.acc = make([]float64, (b.rows()+1)/2*(b.width+1)*2*Lanes)
	return b
}

// Lead is how many values stand before the panel that Add reads. They are read, and
// what they are does not matter.
const Lead = Lanes

// at is the place of the partial sums of row a and column c. Beside those of an even
// row and a column stand those of the next row and the next column.
func (b *Block) at(a, c int) int {
	return (a/2*(b.width+1)+c+1-a%2)*2*Lanes + a%2*Lanes
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

// Add adds the rows of the panel that follows Lead other values in z, of width
// Width(p), with their weights and, with a score, residuals r. All calls for a block but the last have a multiple of four
// rows. What stands at ahead is fetched into the cache meanwhile, if anything.
func (b *Block) Add(z, w, r, ahead []float64) {
	n := len(w)
	steps := n / Lanes
	if n == 0 {
		return
	}
	_ = z[Lead+Len(n, b.width)-1]
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
				t = float64(w[i] * z[Lead+At(i, a, b.width)])
			} else {
				t, last = r[i], b.p-1
			}
			for c := 0; c <= last; c++ {
				b.acc[b.at(a, c)] += float64(t * z[Lead+At(i, c, b.width)])
			}
		}
	}
}

// Sums writes the block's sums: the triangle, packed by rows, and then the score.
func (b *Block) Sums(out []float64) {
	if len(b.row) < b.width {
		b.row = make([]float64, b.width)
	}
	for a := range b.rows() {
		n := min(a+1, b.p)
		addUp(b.row, b.acc[b.at(a, 0):], (n+3)/4)
		out = out[copy(out, b.row[:n]):]
	}
}

func portableAddUp(to, from []float64, groups int) {
	for k := range 4 * groups {
		s := from[2*k*Lanes:][:Lanes]
		to[k] = (s[0] + s[1]) + (s[2] + s[3])
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
					t[l] = float64(w[g*Lanes+l] * z[Lead+(g*b.width+a)*Lanes+l])
				}
			} else {
				copy(t[:], r[g*Lanes:])
				last = b.p - 1
			}
			for c := 0; c <= last; c++ {
				s, x := b.acc[b.at(a, c):][:Lanes], z[Lead+(g*b.width+c)*Lanes:][:Lanes]
				for l := range s {
					s[l] += float64(t[l] * x[l])
				}
			}
		}
	}
}
