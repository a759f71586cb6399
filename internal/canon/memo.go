package canon

import (
	"bytes"
	"crypto/sha256"
	"sync"

	"github.com/gowebpki/jcs"
)

// memo remembers encodings. Transform is a pure function, and the same few
// documents come again and again: a charter is held against its draft by every
// node, once for each hospital that signs it, and by every hospital in a process
// that runs many. Documents that are refused are not remembered.
type memo struct {
	mu       sync.Mutex
	new, old map[[sha256.Size]byte][]byte
}

// maxMemo bounds each of the two generations, and memoSize a document in it:
// 8 MiB in all.
const (
	maxMemo  = 64
	memoSize = 64 << 10
)

var encodings memo

// transform is jcs.Transform. The caller must not change what it returns.
func transform(b []byte) ([]byte, error) {
	if len(b) > memoSize {
		return jcs.Transform(b)
	}
	asked := sha256.Sum256(b)
	if out := encodings.get(asked); out != nil {
		return out, nil
	}
	out, err := jcs.Transform(b)
	if err == nil && len(out) <= memoSize {
		encodings.put(asked, bytes.Clone(out))
	}
	return out, err
}

func (m *memo) get(d [sha256.Size]byte) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if out := m.new[d]; out != nil {
		return out
	}
	out := m.old[d]
	if out != nil {
		m.keep(d, out)
	}
	return out
}

func (m *memo) put(d [sha256.Size]byte, out []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keep(d, out)
}

func (m *memo) keep(d [sha256.Size]byte, out []byte) {
	if m.new == nil || len(m.new) >= maxMemo {
		m.new, m.old = make(map[[sha256.Size]byte][]byte), m.new
	}
	m.new[d] = out
}
