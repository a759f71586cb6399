// Package memo remembers what a pure function returned, within bounds. What
// has not been asked about for a while is forgotten: a Memo has two generations,
// and when the newer is full it becomes the older, whose entries are gone unless
// they were asked for since (the second chance of a page cache, a generation at a
// time).
package memo

import "sync"

// Memo maps questions to answers. Its methods may be called from several
// goroutines. The zero Memo remembers nothing.
type Memo[K comparable, V any] struct {
	max      int
	mu       sync.Mutex
	new, old map[K]V
}

// New returns a Memo of at most 2*max answers.
func New[K comparable, V any](max int) *Memo[K, V] { return &Memo[K, V]{max: max} }

// Get returns the answer to k, if it is remembered.
func (m *Memo[K, V]) Get(k K) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v, ok := m.new[k]; ok {
		return v, true
	}
	v, ok := m.old[k]
	if ok {
		m.put(k, v)
	}
	return v, ok
}

// Put remembers v as the answer to k.
func (m *Memo[K, V]) Put(k K, v V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.put(k, v)
}

func (m *Memo[K, V]) put(k K, v V) {
	if m.max <= 0 {
		return
	}
	if m.new == nil || len(m.new) >= m.max {
		m.new, m.old = make(map[K]V), m.new
	}
	m.new[k] = v
}

// Len is how many answers are remembered, those of the older generation that
// were asked for again counted twice.
func (m *Memo[K, V]) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.new) + len(m.old)
}
