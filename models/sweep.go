package models

import (
	"runtime"
	"sync"

	"consilium/internal/gram"
)

// A Newton step is one sweep over the rows. Each block of rows comes from memory
// once; its linear predictor, weights and products are computed while it is in
// the cache, a piece at a time, and the next piece is fetched meanwhile. Sums are
// defined as in products.go: blocks by the row's number, added in their order.

// pieceRows is how many rows of some twenty columns stay in the first cache.
const pieceRows = gram.PieceRows

// stretchRows is what one processor takes at a time.
const stretchRows = stretchBlocks * blockRows

const stretchBlocks = 8

// sums are totals side by side.
type sums struct{ hi, lo []float64 }

func newSums(n int) sums { return sums{make([]float64, n), make([]float64, n)} }

func (s sums) add(v []float64) { gram.AddEach(s.hi[:len(v)], s.lo[:len(v)], v) }

func (s sums) total(i int) total { return total{s.hi[i], s.lo[i]} }

// inStretches runs the visitor of every processor over stretches of n rows. It fills
// the sums of the stretch's blocks, width values each, which are added to out in
// the order of the rows.
func inStretches(n, width int, out sums, visitor func() func(stretch, from, to int, blocks []float64)) {
	const wave = 64 // stretches: bounds the memory
	stretches := (n + stretchRows - 1) / stretchRows
	slots := make([]float64, min(wave, stretches)*stretchBlocks*width)
	for first := 0; first < stretches; first += wave {
		last := min(first+wave, stretches)
		inTasks(last-first, func() func(int) {
			visit := visitor()
			return func(k int) {
				s := first + k
				visit(s, s*stretchRows, min((s+1)*stretchRows, n), slots[k*stretchBlocks*width:(k+1)*stretchBlocks*width])
			}
		})
		blocks := (min(last*stretchRows, n) - first*stretchRows + blockRows - 1) / blockRows
		for b := range blocks {
			out.add(slots[b*width : (b+1)*width])
		}
	}
}

// inTasks runs n tasks on all processors; they are begun in their order.
func inTasks(n int, worker func() func(task int)) {
	workers := min(runtime.GOMAXPROCS(0), n)
	if workers <= 1 {
		if n > 0 {
			do := worker()
			for k := range n {
				do(k)
			}
		}
		return
	}
	var mu sync.Mutex
	next := 0
	var group sync.WaitGroup
	for range workers {
		group.Add(1)
		go func() {
			defer group.Done()
			do := worker()
			for {
				mu.Lock()
				k := next
				next++
				mu.Unlock()
				if k >= n {
					return
				}
				do(k)
			}
		}()
	}
	group.Wait()
}

// ahead is the piece of the panels after the rows below to.
func (c *columns) ahead(to int) []float64 {
	from := gram.Len(to, c.p)
	return c.raw[min(from, len(c.raw)):min(from+gram.Len(pieceRows, c.p), len(c.raw))]
}

// from is the panel from a row on that begins a group.
func (c *columns) from(row int) []float64 { return c.raw[row*c.p:] }

// glmMoments adds the score Σ r x and the information Σ w x x' of given weights
// and residuals.
func (g *regression) glmMoments(l *localFit, p *prepared, f *fit, w, r []float64) {
	if p.n == 0 {
		return
	}
	g.glmSweep(l, p, f, func() func(from int, eta, ws, rs []float64) {
		return func(from int, eta, ws, rs []float64) {
			copy(ws, w[from:])
			copy(rs, r[from:])
		}
	})
}

// glmSweep sums score and information; weigh fills weights and residuals of the
// rows from one on, at their linear predictors.
func (g *regression) glmSweep(l *localFit, p *prepared, f *fit, weigh func() func(from int, eta, w, r []float64)) {
	c := p.columns
	off := g.base()
	q := off + c.p
	std := standard(f, f.theta[off:])
	width := gram.NewBlock(q, true, true).Len()
	out := newSums(width)
	inStretches(p.n, width, out, func() func(stretch, from, to int, blocks []float64) {
		block := gram.NewBlock(q, true, true)
		z := make([]float64, q*pieceRows)
		for i := range z[:off*pieceRows] {
			z[i] = 1
		}
		eta, w, r := make([]float64, pieceRows), make([]float64, pieceRows), make([]float64, pieceRows)
		fill := weigh()
		return func(_, from, to int, blocks []float64) {
			for b := 0; from < to; b++ {
				block.Reset()
				for end := min(from+blockRows, to); from < end; {
					n := min(pieceRows, end-from)
					start := 0.0
					if off == 1 {
						start += f.theta[0]
					}
					for i := range eta {
						eta[i] = start
					}
					if p.offset != nil {
						for i, v := range p.offset[from : from+n] {
							if eta[i] = v; off == 1 {
								eta[i] += f.theta[0]
							}
						}
					}
					std.Both(eta, z[off*pieceRows:], c.from(from), n)
					fill(from, eta[:n], w[:n], r[:n])
					block.Add(z, w[:n], r[:n], c.ahead(from+n))
					from += n
				}
				block.Sums(blocks[b*width : (b+1)*width])
			}
		}
	})
	n := packedLen(q)
	for i := range l.information {
		l.information[i] = out.total(i)
	}
	for i := range l.score {
		l.score[i] = out.total(n + i)
	}
}

// glmStep is a hospital's Newton step: likelihood, score and information at theta.
func (g *regression) glmStep(p *prepared, f *fit) *localFit {
	l := g.newLocal(glmFitLen)
	if p.n == 0 {
		return l
	}
	sums := newLikelihoods(p.n)
	g.glmSweep(l, p, f, func() func(from int, eta, w, r []float64) {
		weigh := g.newWeigher(f, p.y, p.offset)
		return func(from int, eta, w, r []float64) { weigh.piece(&sums[from/stretchRows], from, eta, w, r) }
	})
	if !g.addLikelihoods(l, f, sums) {
		return g.diverged()
	}
	return l
}
