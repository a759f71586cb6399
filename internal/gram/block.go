package gram

// Block adds up the products of one block of rows, a piece at a time, by the
// package's definition.
type Block struct {
	p        int // columns
	products bool
	score    bool
	acc      []float64 // eight partial sums for every pair of columns: see at
	t        []float64 // some weighted columns; memory of their own begins with a cache line
	last     []float64 // weights and residuals of a group that is not full
	row      []float64 // of sums
	kernel   kernel
}

// NewBlock makes room for the products of p columns with each other, if products is
// true, and of all with a residual, if score is true.
func NewBlock(p int, products, score bool) *Block {
	b := &Block{p: p, products: products, score: score, t: make([]float64, 4*PieceRows), last: make([]float64, 2*Lanes), row: make([]float64, (p+4)&^3)}
	b.acc = make([]float64, b.at(p, (p+3)&^3))
	b.kernel.plan(b)
	return b
}

// at is the place of the partial sums of columns a and c <= a; row p is the
// residual's. Four rows have room for as many columns, so that they are equally far apart.
func (b *Block) at(a, c int) int {
	if !b.products {
		return c * Lanes
	}
	k := a / 4
	return (8*k*(k+1) + a%4*(4*k+4) + c) * Lanes
}

// Len is the number of sums.
func (b *Block) Len() int {
	n := 0
	if b.products {
		n = b.p * (b.p + 1) / 2
	}
	if b.score {
		n += b.p
	}
	return n
}

// Reset begins another block.
func (b *Block) Reset() { clear(b.acc) }

// Add adds len(w) rows of the piece z, at most PieceRows, with their weights and, with a
// score, residuals r; where there are no products w says but how many they are. The first is of the
// first partial sum. Rows that fill up the last group are read and must hold numbers.
// What stands at ahead is fetched into the cache meanwhile, if anything.
func (b *Block) Add(z, w, r, ahead []float64) {
	n := len(w)
	if n == 0 || b.p == 0 {
		return
	}
	// The kernels write weighted columns to memory of a piece's length, and check nothing.
	if n > PieceRows {
		panic("gram: more rows than a piece has")
	}
	_ = z[(b.p-1)*PieceRows+Up(n)-1]
	if b.score {
		_ = r[n-1]
	}
	if whole := n / Lanes; whole > 0 {
		b.tiles(whole, z, w, r, ahead)
	}
	if from := n &^ (Lanes - 1); from < n {
		w0, r0 := b.last[:Lanes], b.last[Lanes:]
		clear(b.last)
		copy(w0, w[from:])
		if b.score {
			copy(r0, r[from:])
		}
		b.tiles(1, z[from:], w0, r0, nil)
	}
}

// Sums writes the block's sums: the triangle, packed by rows, and then the score.
func (b *Block) Sums(out []float64) {
	if b.products {
		for a := range b.p {
			addUp(b.row, b.acc[b.at(a, 0):], (a+4)/4)
			out = out[copy(out, b.row[:a+1]):]
		}
	}
	if b.score {
		addUp(b.row, b.acc[b.at(b.p, 0):], (b.p+3)/4)
		copy(out, b.row[:b.p])
	}
}

// addUp adds up four sums at a time.
func portableAddUp(to, from []float64, fours int) {
	for k := range 4 * fours {
		to[k] = fold(from[k*Lanes:][:Lanes])
	}
}

// portableTiles is the definition of tiles. A row whose weight is zero adds zero, which
// changes no bit of a sum that began at zero.
func (b *Block) portableTiles(groups int, z, w, r []float64) {
	row := func(g, a, columns int, t *[Lanes]float64) {
		acc := b.acc[b.at(a, 0):]
		for c := range columns {
			s, x := acc[c*Lanes:][:Lanes:Lanes], z[c*PieceRows+g*Lanes:][:Lanes:Lanes]
			for l := range s {
				s[l] += float64(t[l] * x[l])
			}
		}
	}
	var t [Lanes]float64
	for g := range groups {
		for a := 0; a < b.p && b.products; a++ {
			x := z[a*PieceRows+g*Lanes:][:Lanes]
			for l := range t {
				t[l] = float64(w[g*Lanes+l] * x[l])
			}
			row(g, a, a+1, &t)
		}
		if b.score {
			copy(t[:], r[g*Lanes:])
			row(g, b.p, b.p, &t)
		}
	}
}
