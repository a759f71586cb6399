// Package gram sums weighted products of columns, Σ_i w_i z_ia z_ib, which is
// where a regression spends its time.
//
// A sum has a definition and not only a bound, so that every processor gives
// the same bits: with t_i = round(w_i·z_ia), four partial sums
//
//	s_l = Σ round(t_i·z_ib) over i ≡ l mod 4, in the order of i
//
// with the last n mod 4 products added to s_0, and (s_0 + s_1) + (s_2 + s_3).
// Nothing is fused. Four lanes of AVX2 are the four partial sums, eight of AVX-512
// those of two columns; the portable code adds the same.
//
// Besides, it holds the other passes of a Newton step over rows that stand in
// panels: standardised columns and linear predictors (Standard), the logistic
// likelihood, sums over risk sets (RiskSet), all with the bits of the scalar
// definitions beside them.
package gram

// Triangle writes Σ_i w_i z_ia z_ib for b <= a to sum, packed by rows:
// len(z)·(len(z)+1)/2 values. Columns and w have one length, w's; scratch has
// room for twice as many.
func Triangle(sum []float64, z [][]float64, w, scratch []float64) {
	n := len(w)
	for a := 0; a < len(z); a += 2 {
		// Two rows of the triangle at once, a and a+1.
		t0, t1 := scratch[:n], scratch[n:2*n]
		scaled(t0, w, z[a])
		if a+1 < len(z) {
			scaled(t1, w, z[a+1])
		} else {
			t1 = t0
		}
		row0, row1 := sum[a*(a+1)/2:], sum[min((a+1)*(a+2)/2, len(sum)):]
		for b := 0; b <= min(a+1, len(z)-1); b += 4 {
			var c [4][]float64
			for k := range c {
				c[k] = z[min(b+k, len(z)-1)]
			}
			d := dots(t0, t1, c)
			for k := range c {
				if b+k <= a {
					row0[b+k] = d[k]
				}
				if b+k <= a+1 && a+1 < len(z) {
					row1[b+k] = d[4+k]
				}
			}
		}
	}
}

// Score writes Σ_i r_i z_ia to sum, len(z) values.
func Score(sum []float64, z [][]float64, r []float64) {
	for a := 0; a < len(z); a += 4 {
		var c [4][]float64
		for k := range c {
			c[k] = z[min(a+k, len(z)-1)]
		}
		d := dots(r, r, c)
		copy(sum[a:min(a+4, len(z))], d[:4])
	}
}

func scaled(t, w, x []float64) {
	x, t = x[:len(w)], t[:len(w)]
	for i, v := range w {
		t[i] = float64(v * x[i])
	}
}

// dots are the products of t0 (first four) and t1 with the four columns.
func dots(t0, t1 []float64, c [4][]float64) (out [8]float64) {
	n := len(t0)
	t1 = t1[:n]
	for k := range c {
		c[k] = c[k][:n]
	}
	var s [8][4]float64
	if n >= 4 {
		partial(&s, t0, t1, &c)
	}
	for i := n &^ 3; i < n; i++ {
		for k, z := range c {
			s[k][0] += float64(t0[i] * z[i])
			s[4+k][0] += float64(t1[i] * z[i])
		}
	}
	for k := range out {
		out[k] = (s[k][0] + s[k][1]) + (s[k][2] + s[k][3])
	}
	return out
}

// portable computes the partial sums of the first n &^ 3 rows.
func portable(s *[8][4]float64, t0, t1 []float64, c *[4][]float64) {
	for k, z := range c {
		s[k] = quarters(t0, z)
		s[4+k] = quarters(t1, z)
	}
}

func quarters(a, b []float64) [4]float64 {
	b = b[:len(a)]
	var s0, s1, s2, s3 float64
	for i := 0; i+4 <= len(a); i += 4 {
		x, y := a[i:i+4:i+4], b[i:i+4:i+4]
		s0 += float64(x[0] * y[0])
		s1 += float64(x[1] * y[1])
		s2 += float64(x[2] * y[2])
		s3 += float64(x[3] * y[3])
	}
	return [4]float64{s0, s1, s2, s3}
}
