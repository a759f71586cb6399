package memo

import (
	"sync"
	"testing"
)

// TestBounded: old entries go, entries in use stay.
func TestBounded(t *testing.T) {
	const max = 1 << 10
	m := New[int, string](max)
	m.Put(-1, "in use")
	for i := range 3*max + 7 {
		m.Put(i, "other")
		if i%100 == 0 {
			if v, ok := m.Get(-1); !ok || v != "in use" {
				t.Fatalf("an entry in use was forgotten after %d", i)
			}
		}
	}
	if n := m.Len(); n > 2*max {
		t.Errorf("%d entries, want at most %d", n, 2*max)
	}
	if _, ok := m.Get(0); ok {
		t.Error("the oldest entry is still there")
	}
	if v, ok := m.Get(3*max + 6); !ok || v != "other" {
		t.Error("the newest entry is not there")
	}
}

// TestZero: the zero Memo knows nothing, and learns nothing.
func TestZero(t *testing.T) {
	var m Memo[string, int]
	m.Put("a", 1)
	if _, ok := m.Get("a"); ok || m.Len() != 0 {
		t.Error("the zero Memo remembers")
	}
}

// TestTogether is for the race detector, and wants no answer to another question.
func TestTogether(t *testing.T) {
	m := New[int, int](16)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 1000 {
				k := i % 40
				if v, ok := m.Get(k); ok && v != 2*k {
					t.Errorf("%d: %d", k, v)
				}
				m.Put(k, 2*k)
			}
		})
	}
	all.Wait()
}
