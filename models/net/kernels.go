package net

import (
	"gorgonia.org/gorgonia"

	"consilium/internal/gemm"
)

// Every product of matrices in this process is package gemm's: faster than
// gonum's, and the same bits on every processor. gorgonia keeps one choice for
// the whole process, and this package alone uses gorgonia.
func init() { gorgonia.Use(gemm.BLAS{}) }
