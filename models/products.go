package models

import (
	"runtime"
	"sync"

	"consilium/internal/gram"
)

// Weighted products of columns, Σ_i w_i z_ia z_ib for b <= a, are where a
// regression spends its time. They are summed in blocks of rows, in eight partial sums
// (package gram), and the blocks' sums are added with their rounding errors kept (total). Blocks are fixed by the row's number, so the bits depend
// on neither the number of goroutines nor the processor.
const blockRows = 1024

// products adds Σ w z_a z_b to out (packed, lower triangle by rows) and Σ r z_a
// to score; r may be nil. Columns are read less their mean; nil means zero.
func products(out, score []total, z [][]float64, mean, w, r []float64) {
	p, n := len(z), len(w)
	if p == 0 || n == 0 {
		return
	}
	width := packedLen(p)
	if r != nil {
		width += p
	}
	sums := newSums(width)
	inStretches(n, width, sums, func() func(stretch, from, to int, blocks []float64) {
		block := gram.NewBlock(p, true, r != nil)
		piece := make([]float64, p*gram.PieceRows)
		return func(_, from, to int, blocks []float64) {
			for b := 0; from < to; b++ {
				block.Reset()
				for end := min(from+blockRows, to); from < end; {
					k := min(gram.PieceRows, end-from)
					for a := range z {
						c := piece[a*gram.PieceRows:][:k]
						if copy(c, z[a][from:]); mean != nil {
							for i := range c {
								c[i] -= mean[a]
							}
						}
					}
					var rs []float64
					if r != nil {
						rs = r[from : from+k]
					}
					block.Add(piece, w[from:from+k], rs, nil)
					from += k
				}
				block.Sums(blocks[b*width : (b+1)*width])
			}
		}
	})
	for i := range out {
		out[i].add(sums.hi[i])
		out[i].add(sums.lo[i])
	}
	for a := range score {
		if r != nil {
			score[a].add(sums.hi[packedLen(p)+a])
			score[a].add(sums.lo[packedLen(p)+a])
		}
	}
}

// addColumns adds Σ_j beta_j x_j to eta, column after column at every row.
func addColumns(eta []float64, x [][]float64, beta []float64) {
	inParallel(len(eta), func(from, to int) {
		for ; from < to; from += blockRows {
			sum := eta[from:min(from+blockRows, to)]
			for j := range x {
				b, column := beta[j], x[j][from:][:len(sum)]
				for i, v := range column {
					sum[i] += float64(b * v)
				}
			}
		}
	})
}

// inParallel runs visit over stretches of rows on all processors; what it does
// at one row may not depend on another.
func inParallel(n int, visit func(from, to int)) {
	const stretch = stretchRows
	workers := min(runtime.GOMAXPROCS(0), (n+stretch-1)/stretch)
	if workers <= 1 {
		// In stretches too: what visit hands to one kernel cannot be interrupted.
		for from := 0; from < n; from += stretch {
			visit(from, min(from+stretch, n))
		}
		return
	}
	var group sync.WaitGroup
	for k := range workers {
		group.Add(1)
		go func() {
			defer group.Done()
			for from := k * stretch; from < n; from += workers * stretch {
				visit(from, min(from+stretch, n))
			}
		}()
	}
	group.Wait()
}

// pick returns v at the given rows.
func pick(v []float64, rows []int) []float64 {
	out := make([]float64, len(rows))
	for r, i := range rows {
		out[r] = v[i]
	}
	return out
}

// inColumns runs visit for every column on all processors; what it does for one
// may not depend on another.
func inColumns(p int, visit func(a int)) {
	workers := min(runtime.GOMAXPROCS(0), p)
	var group sync.WaitGroup
	for k := range workers {
		group.Add(1)
		go func() {
			defer group.Done()
			for a := k; a < p; a += workers {
				visit(a)
			}
		}()
	}
	group.Wait()
}
