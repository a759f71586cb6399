//go:build !amd64 || purego

package gemm

// The paths of this processor, the fastest first.
var (
	paths32 = []*path[float32]{{}}
	paths64 = []*path[float64]{{}}
)
