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

// TestNothingBehind: no path reads behind the panel, the piece or the weights that it is
// given, least of all where the last group is not full.
func TestNothingBehind(t *testing.T) {
	paths(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(8, 9))
		put := func(v []float64) []float64 {
			out := guarded(t, len(v))
			copy(out, v)
			return out
		}
		for p := 1; p <= 21; p++ {
			for _, n := range []int{4, 8, 61, 128} {
				columns := columnsOf(r, p, n)
				for kind := 1; kind < 4; kind++ {
					b := NewBlock(p, kind&1 != 0, kind&2 != 0)
					b.Add(put(piece(columns, 0, n)), put(draw(r, n)), put(draw(r, n)), nil)
				}
				s := &Standard{put(draw(r, p)), put(draw(r, p)), put(draw(r, p))}
				raw, z := put(panel(columns, n)), guarded(t, (p-1)*PieceRows+Up(n))
				s.Both(put(draw(r, Up(n))), z, raw, n)
				s.Values(z, raw, n)
			}
			m := Marks{1, 255, 3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}
			s := Scan{put(draw(r, p))}
			w := put(draw(r, PieceRows))
			s.Step(guarded(t, p*PieceRows), put(draw(r, p*PieceRows)), w, w, &m)
			Expose(guarded(t, PieceRows), guarded(t, PieceRows), w, w, &m, &m, 1)
		}
	})
}
