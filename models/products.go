package models

import (
	"runtime"
	"sync"
)

// Weighted products of columns, Σ_i w_i z_ia z_ib for b <= a, are where a
// regression spends its time. They are summed in blocks of rows that stay in
// the cache, in four partial sums each, and the blocks' sums are added with
// their rounding errors kept (total). Blocks are fixed by the row's number, so
// the bits depend on neither the number of goroutines nor the processor.
const blockRows = 512

// products adds Σ w z_a z_b to out (packed, lower triangle by rows) and Σ r z_a
// to score; r may be nil. Columns are read less their mean; nil means zero.
func products(out, score []total, z [][]float64, mean, w, r []float64) {
	p, n := len(z), len(w)
	if p == 0 || n == 0 {
		return
	}
	blocks := (n + blockRows - 1) / blockRows
	width := packedLen(p)
	if r != nil {
		width += p
	}
	// One slot for each block of a wave: waves bound the memory.
	const wave = 256
	sums := make([]float64, min(wave, blocks)*width)
	workers := min(runtime.GOMAXPROCS(0), blocks)
	for first := 0; first < blocks; first += wave {
		last := min(first+wave, blocks)
		var group sync.WaitGroup
		for k := range workers {
			group.Add(1)
			go func() {
				defer group.Done()
				scratch := make([]float64, (p+1)*blockRows)
				for b := first + k; b < last; b += workers {
					from, to := b*blockRows, min((b+1)*blockRows, n)
					block(sums[(b-first)*width:(b-first+1)*width], z, mean, w, r, from, to, scratch)
				}
			}()
		}
		group.Wait()
		for b := first; b < last; b++ {
			s := sums[(b-first)*width : (b-first+1)*width]
			for i := range out {
				out[i].add(s[i])
			}
			for a := range score {
				if r != nil {
					score[a].add(s[packedLen(p)+a])
				}
			}
		}
	}
}

// block computes one block's sums.
func block(sum []float64, z [][]float64, mean, w, r []float64, from, to int, scratch []float64) {
	p, n := len(z), to-from
	row := scratch[p*blockRows : p*blockRows+n]
	var cols [][]float64
	if mean == nil {
		cols = make([][]float64, p)
		for a := range cols {
			cols[a] = z[a][from:to]
		}
	} else {
		cols = make([][]float64, p)
		for a := range cols {
			c := scratch[a*blockRows : a*blockRows+n]
			for i, v := range z[a][from:to] {
				c[i] = v - mean[a]
			}
			cols[a] = c
		}
	}
	k := 0
	for a := 0; a < p; a++ {
		x, weight := cols[a][:n], w[from:to][:n]
		for i := range row {
			row[i] = float64(weight[i] * x[i])
		}
		b := 0
		for ; b+1 <= a; b += 2 {
			sum[k], sum[k+1] = dot2(row, cols[b], cols[b+1])
			k += 2
		}
		if b <= a {
			sum[k] = dot1(row, cols[b])
			k++
		}
	}
	if r != nil {
		for a := 0; a < p; a++ {
			sum[k] = dot1(r[from:to], cols[a])
			k++
		}
	}
}

// dot1 is Σ a b in four partial sums.
func dot1(a, b []float64) float64 {
	b = b[:len(a)]
	var s0, s1, s2, s3 float64
	i := 0
	for ; i+4 <= len(a); i += 4 {
		x, y := a[i:i+4:i+4], b[i:i+4:i+4]
		s0 += float64(x[0] * y[0])
		s1 += float64(x[1] * y[1])
		s2 += float64(x[2] * y[2])
		s3 += float64(x[3] * y[3])
	}
	for ; i < len(a); i++ {
		s0 += float64(a[i] * b[i])
	}
	return (s0 + s1) + (s2 + s3)
}

// dot2 is dot1 of a with two columns at once: a is loaded once.
func dot2(a, b, c []float64) (float64, float64) {
	b, c = b[:len(a)], c[:len(a)]
	var s0, s1, s2, s3, t0, t1, t2, t3 float64
	i := 0
	for ; i+4 <= len(a); i += 4 {
		x, y, z := a[i:i+4:i+4], b[i:i+4:i+4], c[i:i+4:i+4]
		s0 += float64(x[0] * y[0])
		s1 += float64(x[1] * y[1])
		s2 += float64(x[2] * y[2])
		s3 += float64(x[3] * y[3])
		t0 += float64(x[0] * z[0])
		t1 += float64(x[1] * z[1])
		t2 += float64(x[2] * z[2])
		t3 += float64(x[3] * z[3])
	}
	for ; i < len(a); i++ {
		s0 += float64(a[i] * b[i])
		t0 += float64(a[i] * c[i])
	}
	return (s0 + s1) + (s2 + s3), (t0 + t1) + (t2 + t3)
}

// inBlocks runs visit over stretches of rows on all processors. Each stretch
// fills sums of its own, which are added up in the order of the rows.
func inBlocks(n int, out []total, visit func(from, to int, out []total)) {
	const stretch = 16 * blockRows
	blocks := (n + stretch - 1) / stretch
	if blocks <= 1 {
		visit(0, n, out)
		return
	}
	sums := make([][]total, blocks)
	workers := min(runtime.GOMAXPROCS(0), blocks)
	var group sync.WaitGroup
	for k := range workers {
		group.Add(1)
		go func() {
			defer group.Done()
			for b := k; b < blocks; b += workers {
				sums[b] = make([]total, len(out))
				visit(b*stretch, min((b+1)*stretch, n), sums[b])
			}
		}()
	}
	group.Wait()
	for _, s := range sums {
		for i, t := range s {
			out[i].add(t.hi)
			out[i].add(t.lo)
		}
	}
}
