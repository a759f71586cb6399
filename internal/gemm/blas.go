package gemm

import (
	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/gonum"
)

// BLAS is gonum's BLAS with the matrix products of this package:
//
//	gorgonia.Use(gemm.BLAS{})
type BLAS struct{ gonum.Implementation }

// Sgemm computes C ← α·op(A)·op(B) + β·C in float32, see the package comment.
// It panics where gonum's does.
func (BLAS) Sgemm(tA, tB blas.Transpose, m, n, k int, alpha float32, a []float32, lda int, b []float32, ldb int, beta float32, c []float32, ldc int) {
	general(paths32[0], tA, tB, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)
}

// Dgemm computes C ← α·op(A)·op(B) + β·C in float64, see the package comment.
// It panics where gonum's does.
func (BLAS) Dgemm(tA, tB blas.Transpose, m, n, k int, alpha float64, a []float64, lda int, b []float64, ldb int, beta float64, c []float64, ldc int) {
	general(paths64[0], tA, tB, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)
}

func general[T Float](p *path[T], tA, tB blas.Transpose, m, n, k int, alpha T, a []T, lda int, b []T, ldb int, beta T, c []T, ldc int) {
	rowsA, colsA, rowsB, colsB := m, k, k, n
	switch tA {
	case blas.NoTrans:
	case blas.Trans, blas.ConjTrans:
		rowsA, colsA = k, m
	default:
		panic("blas: illegal transpose")
	}
	switch tB {
	case blas.NoTrans:
	case blas.Trans, blas.ConjTrans:
		rowsB, colsB = n, k
	default:
		panic("blas: illegal transpose")
	}
	switch {
	case m < 0:
		panic("blas: m < 0")
	case n < 0:
		panic("blas: n < 0")
	case k < 0:
		panic("blas: k < 0")
	case lda < max(1, colsA):
		panic("blas: bad leading dimension of A")
	case ldb < max(1, colsB):
		panic("blas: bad leading dimension of B")
	case ldc < max(1, n):
		panic("blas: bad leading dimension of C")
	case m == 0 || n == 0:
		return
	case len(a) < lda*(rowsA-1)+colsA:
		panic("blas: insufficient length of a")
	case len(b) < ldb*(rowsB-1)+colsB:
		panic("blas: insufficient length of b")
	case len(c) < ldc*(m-1)+n:
		panic("blas: insufficient length of c")
	}
	if alpha == 0 || k == 0 || beta != 0 && beta != 1 {
		for i := range m {
			row := c[i*ldc : i*ldc+n]
			switch beta {
			case 0:
				clear(row)
			case 1:
			default:
				for j := range row {
					row[j] *= beta
				}
			}
		}
		if alpha == 0 || k == 0 {
			return
		}
	}
	if alpha != 1 {
		scaled := room[T](rowsA * colsA)
		defer giveBack(scaled)
		s := scaled.values[:rowsA*colsA]
		for i := range rowsA {
			for j, v := range a[i*lda : i*lda+colsA] {
				s[i*colsA+j] = alpha * v
			}
		}
		a, lda = s, colsA
	}
	viewA, viewB := matrix[T]{a, lda, 1}, matrix[T]{b, ldb, 1}
	if tA != blas.NoTrans {
		viewA.row, viewA.col = 1, lda
	}
	if tB != blas.NoTrans {
		viewB.row, viewB.col = 1, ldb
	}
	product(p, m, n, k, viewA, viewB, c, ldc, beta != 0)
}
