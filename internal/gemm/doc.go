// Package gemm multiplies matrices for training, as fast as a tuned BLAS on one
// core and with one result everywhere: every path (AVX-512, AVX2, portable; any
// number of threads; arm64) gives the same bits, since the result is defined
// and not only bounded.
//
// # Definition
//
// For C ← αAB + βC, every element of C is one chain of fused multiply-adds in
// the order of the inner dimension:
//
//	s = +0 if β = 0 (C is not read), C if β = 1, else round(β·C)
//	s = fma(round(α·A[i,l]), B[l,j], s)   for l = 0 .. k-1
//	C[i,j] = s
//
// with A and B after transposition, and without skipping zeros. α = 0 or k = 0
// leaves s, and A and B are not read. What the sign and the payload of a NaN
// are is not defined.
//
// # How
//
// Tiles of C stay in registers while the inner dimension runs: 8 rows by two
// vectors with AVX-512, 6 by two with AVX2 (Goto and van de Geijn, Anatomy of
// high-performance matrix multiplication, ACM TOMS 34, 2008). A is read in
// place, transposed or not. B is read in place where that is cheap and copied
// into panels of a tile's width otherwise. The inner dimension is cut into
// blocks; a later block loads C and goes on with the same chain. Tile loops are
// in Go, because assembly cannot be preempted: one call runs at most blockK
// steps.
package gemm
