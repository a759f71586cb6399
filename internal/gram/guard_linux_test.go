package gram

import (
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"unsafe"
)

// guarded is n numbers that end where memory ends: a kernel that reads past them
// ends the process.
func guarded(t *testing.T, n int) []float64 {
	t.Helper()
	page := os.Getpagesize()
	size := (8*n + page - 1) / page * page
	b, err := syscall.Mmap(-1, 0, size+page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Skipf("skipped: no memory of its own: %v", err)
	}
	t.Cleanup(func() { syscall.Munmap(b) })
	if err := syscall.Mprotect(b[size:], syscall.PROT_NONE); err != nil {
		t.Skipf("skipped: no page can be closed: %v", err)
	}
	return unsafe.Slice((*float64)(unsafe.Pointer(&b[size-8*n])), n)
}

// TestNothingBehindAPanel: no path reads behind the panel that it is given, least
// of all where the columns fill their width and a residual asks for the last alone.
func TestNothingBehindAPanel(t *testing.T) {
	paths(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(8, 9))
		for p := 1; p <= 21; p++ {
			for _, n := range []int{4, 61, 64} {
				for _, score := range []bool{false, true} {
					b := NewBlock(p, score)
					columns := make([][]float64, p)
					for a := range columns {
						columns[a] = draw(r, n)
					}
					whole := append(make([]float64, Lead), panel(columns, n, b.width)...)
					z, w, res := guarded(t, len(whole)), guarded(t, n), guarded(t, n)
					copy(z, whole)
					copy(w, draw(r, n))
					copy(res, draw(r, n))
					b.Add(z, w, res, nil)
				}
			}
		}
	})
}
