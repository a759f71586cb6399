//go:build linux

package vec

import (
	"math/bits"
	"math/rand/v2"
	"syscall"
	"testing"
)

// TestAddStaysInside reads strings whose last byte is the last of the memory that
// may be read.
func TestAddStaysInside(t *testing.T) {
	needs(t)
	page := syscall.Getpagesize()
	m, err := syscall.Mmap(-1, 0, 3*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Munmap(m)
	if err := syscall.Mprotect(m[2*page:], syscall.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	for _, c := range primes {
		f, width := NewField(c.q), bits.Len64(c.q)
		for _, n := range []int{8, 16, 512} {
			v := values(rand.New(rand.NewPCG(15, 1)), n, c.q)
			b := m[2*page-n/8*width : 2*page]
			copy(b, packed(v, width))
			acc := make([]uint64, n)
			if !f.Add(acc, &[4][]byte{b, b, b, b}, false) {
				t.Fatalf("q %#x: Add refuses", c.q)
			}
			for i := range v {
				v[i] *= 4
			}
			same(t, "sum", acc, v)
		}
	}
}
