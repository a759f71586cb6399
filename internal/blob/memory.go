package blob

import (
	"bytes"
	"context"
	"io"
	"sort"
	"sync"

	"consilium"
)

// Memory keeps blobs in memory, for runs in one process.
type Memory struct {
	mu    sync.RWMutex
	blobs map[consilium.Digest][]byte
}

var _ Store = (*Memory)(nil)

// NewMemory returns an empty store.
func NewMemory() *Memory { return &Memory{blobs: map[consilium.Digest][]byte{}} }

type memoryFile struct{ *bytes.Reader }

func (memoryFile) Close() error { return nil }

// Put implements Store.
func (s *Memory) Put(ctx context.Context, r io.Reader, limit int64) (consilium.Digest, int64, error) {
	var b bytes.Buffer
	h := NewHash()
	n, err := copyLimited(ctx, &b, h, r, limit)
	if err != nil {
		return consilium.Digest{}, 0, err
	}
	d := sum(h)
	s.mu.Lock()
	s.blobs[d] = b.Bytes()
	s.mu.Unlock()
	return d, n, nil
}

// PutExpect implements Store.
func (s *Memory) PutExpect(ctx context.Context, want consilium.Digest, size int64, r io.Reader) error {
	var b bytes.Buffer
	h := NewHash()
	n, err := copyLimited(ctx, &b, h, r, size)
	if err != nil {
		return err
	}
	if d := sum(h); d != want || n != size {
		return corrupt(want, d, size, n)
	}
	s.mu.Lock()
	s.blobs[want] = b.Bytes()
	s.mu.Unlock()
	return nil
}

// Open implements Store.
func (s *Memory) Open(d consilium.Digest) (File, int64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b, ok := s.blobs[d]
	if !ok {
		return nil, 0, missing(d)
	}
	return memoryFile{bytes.NewReader(b)}, int64(len(b)), nil
}

// Has implements Store.
func (s *Memory) Has(d consilium.Digest) (int64, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b, ok := s.blobs[d]
	return int64(len(b)), ok
}

// Check implements Store.
func (s *Memory) Check(_ context.Context, d consilium.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.blobs[d]
	if !ok {
		return missing(d)
	}
	if have := Sum(b); have != d {
		delete(s.blobs, d)
		return corrupt(d, have, int64(len(b)), int64(len(b)))
	}
	return nil
}

// Delete implements Store.
func (s *Memory) Delete(d consilium.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.blobs, d)
	return nil
}

// List implements Store.
func (s *Memory) List() ([]Info, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]Info, 0, len(s.blobs))
	for d, b := range s.blobs {
		out = append(out, Info{d, int64(len(b))})
	}
	sort.Slice(out, func(i, k int) bool { return bytes.Compare(out[i].Digest[:], out[k].Digest[:]) < 0 })
	return out, nil
}

// Scrub implements Store.
func (s *Memory) Scrub(ctx context.Context) ([]Info, error) { return scrub(ctx, s) }
