//go:build !amd64 || purego

package gram

func partial(s *[8][4]float64, t0, t1 []float64, c *[4][]float64) { portable(s, t0, t1, c) }
