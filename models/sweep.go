package models

import (
	"math"
	"runtime"
	"sync"

	"consilium/internal/gram"
)

// A Newton step is one sweep over the rows. Each block of rows comes from memory
// once; its linear predictor, weights and products are computed while it is in
// the cache, a piece at a time, and the next piece is fetched meanwhile. Sums are
// defined as in products.go: blocks by the row's number, added in their order.

// pieceRows is how many rows of some twenty columns stay in the first cache.
const pieceRows = 64

// stretchRows is what one processor takes at a time.
const stretchRows = 16 * blockRows

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
	slots := make([]float64, min(wave, stretches)*16*width)
	for first := 0; first < stretches; first += wave {
		last := min(first+wave, stretches)
		inTasks(last-first, func() func(int) {
			visit := visitor()
			return func(k int) {
				s := first + k
				visit(s, s*stretchRows, min((s+1)*stretchRows, n), slots[k*16*width:(k+1)*16*width])
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
	from := to / gram.Lanes * gram.Lanes * c.width
	return c.raw[min(from, len(c.raw)):min(from+gram.Len(pieceRows, c.width), len(c.raw))]
}

func (c *columns) from(row int) []float64 { return c.raw[row/gram.Lanes*gram.Lanes*c.width:] }

// up rounds n up to whole groups of rows.
func up(n int) int { return (n + gram.Lanes - 1) &^ (gram.Lanes - 1) }

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
	zWidth := gram.Width(q)
	std := standard(f, f.theta[off:], nil)
	width := gram.NewBlock(q, true).Len()
	out := newSums(width)
	inStretches(p.n, width, out, func() func(stretch, from, to int, blocks []float64) {
		block := gram.NewBlock(q, true)
		z := make([]float64, gram.Lead+gram.Len(pieceRows, zWidth))
		if off == 1 {
			for i := range pieceRows {
				z[gram.Lead+gram.At(i, 0, zWidth)] = 1
			}
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
					std.Both(eta[:up(n)], z[gram.Lead:], c.from(from), c.width, zWidth, off)
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
	stretches := (p.n + stretchRows - 1) / stretchRows
	fits, nulls := make([]gram.Totals, stretches), make([]gram.Totals, stretches)
	var mu sync.Mutex
	diverged := false
	alone := 0.0 // the linear predictor of the null model, but for the offset
	if g.intercept {
		alone += f.alpha
	}
	g.glmSweep(l, p, f, func() func(from int, eta, w, r []float64) {
		var scratch [7][pieceRows]float64
		var known [2][3]float64 // the null model, where it has but two rows
		if g.family == "binomial" && p.offset == nil {
			for y := range known {
				m, v, ll := gram.Logistic(float64(y), alone)
				known[y] = [3]float64{ll, float64(y) - m, v}
			}
		}
		return func(from int, eta, w, r []float64) {
			n := len(eta)
			ll, pearson, none := scratch[0][:n], scratch[1][:n], scratch[2][:n]
			y := p.y[from : from+n]
			far := false
			switch g.family {
			case "binomial":
				gram.Logistics(w, r, ll, pearson, eta, y)
			case "gaussian":
				for i, v := range eta {
					d := y[i] - v
					w[i], r[i], ll[i], pearson[i] = 1, d, -float64(0.5*float64(d*d)), float64(d*d)
					far = far || v > 0x1p50
				}
			default:
				for i, v := range eta {
					var m float64
					m, w[i], ll[i] = member(g.family, y[i], v)
					r[i] = y[i] - m
					pearson[i] = float64(r[i]*r[i]) / w[i]
					far = far || m > 0x1p50
				}
			}
			if g.family != "gaussian" {
				for _, v := range eta {
					far = far || math.Abs(v) > 500
				}
			}
			if far {
				mu.Lock()
				diverged = true
				mu.Unlock()
			}
			fits[from/stretchRows].Add(ll, pearson, none, none)
			if f.nullDone != 0 {
				return
			}
			at, weight, rest := scratch[6][:n], scratch[4][:n], scratch[5][:n]
			for i := range at {
				if at[i] = alone; p.offset != nil {
					if at[i] = p.offset[from+i]; g.intercept {
						at[i] += f.alpha
					}
				}
			}
			switch {
			case g.family == "binomial" && p.offset == nil:
				for i, v := range y {
					one := &known[int(v)&1] // responses are 0 or 1
					ll[i], rest[i], weight[i] = one[0], one[1], one[2]
				}
			case g.family == "gaussian":
				for i, v := range at {
					d := y[i] - v
					ll[i], rest[i], weight[i] = -float64(0.5*float64(d*d)), d, 1
				}
			case g.family == "binomial":
				gram.Logistics(weight, rest, ll, pearson, at, y)
			default:
				for i, v := range at {
					var m float64
					m, weight[i], ll[i] = member(g.family, y[i], v)
					rest[i] = y[i] - m
				}
			}
			nulls[from/stretchRows].Add(ll, rest, weight, none)
		}
	})
	if diverged {
		out := g.newLocal(glmFitLen)
		out.fit[fitDiverged] = total{hi: 1}
		return out
	}
	addStretches(l.fit[fitLoglik:fitPearson+1], fits)
	if f.nullDone == 0 {
		addStretches(l.fit[fitNullLoglik:], nulls)
	}
	return l
}

// addStretches adds up the first sums of every stretch, in the rows' order.
func addStretches(out []total, s []gram.Totals) {
	for i := range out {
		if len(s) == 1 {
			out[i] = total{s[0].Hi[i], s[0].Lo[i]}
			continue
		}
		for k := range s {
			out[i].add(s[k].Hi[i])
			out[i].add(s[k].Lo[i])
		}
	}
}
