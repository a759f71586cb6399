//go:build amd64 && !purego

package gram

func partial(s *[8][4]float64, t0, t1 []float64, c *[4][]float64) {
	if !fast {
		portable(s, t0, t1, c)
		return
	}
	partialAVX2(s, len(t0)/4, &t0[0], &t1[0], &c[0][0], &c[1][0], &c[2][0], &c[3][0])
}

// partialAVX2 writes the partial sums of 4·n rows, n at least 1.
//
//go:noescape
func partialAVX2(s *[8][4]float64, n int, t0, t1, c0, c1, c2, c3 *float64)
