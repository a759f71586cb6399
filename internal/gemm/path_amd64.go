//go:build amd64 && !purego

package gemm

import (
	"unsafe"

	"golang.org/x/sys/cpu"
)

var (
	wide = cpu.X86.HasFMA && cpu.X86.HasAVX512F && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL
	half = cpu.X86.HasAVX2 && cpu.X86.HasFMA
)

// The paths of this processor, the fastest first.
var (
	paths32 = available(
		path[float32]{rows: 8, cols: 32, full: wide32x[:], edge: wide32x[:], column: column32x[:]},
		path[float32]{rows: 6, cols: 16, full: half32x[:], edge: edge32x[:], column: column32x[:], panels: true, masks: unsafe.Pointer(&masks32)})
	paths64 = available(
		path[float64]{rows: 8, cols: 16, full: wide64x[:], edge: wide64x[:], column: column64x[:]},
		path[float64]{rows: 6, cols: 8, full: half64x[:], edge: edge64x[:], column: column64x[:], panels: true, masks: unsafe.Pointer(&masks64)})
)

// masks32 and masks64 are ones and then zeros: the mask of the first c columns
// of a tile starts at place cols - c.
var (
	masks32 = [32]int32{-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1}
	masks64 = [16]int64{-1, -1, -1, -1, -1, -1, -1, -1}
)

func available[T Float](avx512, avx2 path[T]) (p []*path[T]) {
	if wide {
		p = append(p, &avx512)
	}
	if half {
		p = append(p, &avx2)
	}
	return append(p, &path[T]{})
}
