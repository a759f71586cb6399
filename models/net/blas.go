package net

import (
	"gonum.org/v1/gonum/blas"
	"gorgonia.org/gorgonia"
)

// matmul is C = A·B + beta·C with A of m × k (or its transpose, if ta) and B of
// k × n (or its transpose, if tb), all row by row with the given distances
// between rows. It is gorgonia's BLAS, looked up when a graph is compiled.
type matmul[T real] func(ta, tb bool, m, n, k int, a []T, lda int, b []T, ldb int, beta T, c []T, ldc int)

func newMatmul[T real]() matmul[T] {
	trans := func(t bool) blas.Transpose {
		if t {
			return blas.Trans
		}
		return blas.NoTrans
	}
	use := gorgonia.WhichBLAS()
	var mul any
	var zero T
	switch any(zero).(type) {
	case float32:
		mul = matmul[float32](func(ta, tb bool, m, n, k int, a []float32, lda int, b []float32, ldb int, beta float32, c []float32, ldc int) {
			use.Sgemm(trans(ta), trans(tb), m, n, k, 1, a, lda, b, ldb, beta, c, ldc)
		})
	default:
		mul = matmul[float64](func(ta, tb bool, m, n, k int, a []float64, lda int, b []float64, ldb int, beta float64, c []float64, ldc int) {
			use.Dgemm(trans(ta), trans(tb), m, n, k, 1, a, lda, b, ldb, beta, c, ldc)
		})
	}
	return mul.(matmul[T])
}
