package hybrid

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"

	"consilium"
)

// memo remembers signatures that hold. Verify is a pure function, so whoever
// asks again about the same key, domain, message and signature gets the same
// answer without the work: a node that checks a message on arrival and once
// more in its archive, and above all a process that runs many hospitals, each
// of which verifies every message itself. What does not hold is never
// remembered; an equal digest of something else would be a collision of SHA-256.
type memo struct {
	mu       sync.Mutex
	new, old map[[sha256.Size]byte]struct{}
}

// maxMemo bounds each of the two generations: 1 MiB of digests.
const maxMemo = 1 << 15

var verified memo

// question is the digest of everything that a verification reads.
func question(key *consilium.PublicKey, domain consilium.Domain, message []byte, sig *consilium.Signature) (d [sha256.Size]byte) {
	h := sha256.New()
	h.Write(key[:])
	h.Write(sig[:])
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(domain)))
	h.Write(n[:])
	h.Write([]byte(domain))
	h.Write(message)
	h.Sum(d[:0])
	return d
}

func (m *memo) holds(d [sha256.Size]byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.new[d]; ok {
		return true
	}
	_, ok := m.old[d]
	if ok {
		m.put(d)
	}
	return ok
}

func (m *memo) add(d [sha256.Size]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.put(d)
}

func (m *memo) put(d [sha256.Size]byte) {
	if m.new == nil || len(m.new) >= maxMemo {
		m.new, m.old = make(map[[sha256.Size]byte]struct{}), m.new
	}
	m.new[d] = struct{}{}
}
