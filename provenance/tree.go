package provenance

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"sync"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"consilium"
)

// MaxTreeSize bounds every tree: sizes stay exact in JSON and in int64.
const MaxTreeSize = 1 << 52

// LeafHash is the hash of a log entry (RFC 6962 §2.1): SHA-256(0x00 || b).
func LeafHash(b []byte) consilium.Digest {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(b)
	var out consilium.Digest
	h.Sum(out[:0])
	return out
}

// NodeHash is the hash of an inner node (RFC 6962 §2.1): SHA-256(0x01 || l || r).
func NodeHash(l, r consilium.Digest) consilium.Digest {
	var b [65]byte
	b[0] = 1
	copy(b[1:], l[:])
	copy(b[33:], r[:])
	return sha256.Sum256(b[:])
}

// EmptyRoot is the root of the tree without leaves: SHA-256 of nothing.
func EmptyRoot() consilium.Digest { return sha256.Sum256(nil) }

// TreeRoot is the RFC 6962 root over leaf hashes. It works level by level: an
// odd node at the end of a level moves up unchanged, which gives the tree of
// §2.1 (split at the largest power of two below n).
func TreeRoot(leaves []consilium.Digest) consilium.Digest {
	if len(leaves) == 0 {
		return EmptyRoot()
	}
	const serial = 1 << 12
	if len(leaves) < 2*serial {
		return rootAbove(leaves)
	}
	// Perfect subtrees of 2^k leaves have no effect on each other: one
	// goroutine a core hashes them, and their roots are the leaves of the rest.
	size := 1 << (bits.Len(uint(len(leaves)/(2*runtime.GOMAXPROCS(0)))) - 1)
	size = min(max(size, serial), 1<<16) // what a core's cache holds while it works upwards
	tops := make([]consilium.Digest, (len(leaves)+size-1)/size)
	parallel(len(tops), func(lo, hi int) {
		level := make([]consilium.Digest, size/2)
		for i := lo; i < hi; i++ {
			tops[i] = rootOf(pairUp(level, leaves[i*size:min((i+1)*size, len(leaves))]))
		}
	})
	return rootOf(tops)
}

// rootAbove is the root over leaves, which stay as they are.
func rootAbove(leaves []consilium.Digest) consilium.Digest {
	return rootOf(pairUp(make([]consilium.Digest, (len(leaves)+1)/2), leaves))
}

// pairUp writes the level above to up, which may be the start of level.
func pairUp(up, level []consilium.Digest) []consilium.Digest {
	n := len(level) / 2
	var b [65]byte
	b[0] = 1
	for i := pairUpMany(up, level); i < n; i++ {
		copy(b[1:], level[2*i][:])
		copy(b[33:], level[2*i+1][:])
		up[i] = sha256.Sum256(b[:])
	}
	if len(level)%2 == 1 {
		up[n] = level[len(level)-1]
		n++
	}
	return up[:n]
}

// rootOf overwrites level.
func rootOf(level []consilium.Digest) consilium.Digest {
	for len(level) > 1 {
		level = pairUp(level, level)
	}
	return level[0]
}

// inclusionProof is the audit path of leaf index (RFC 6962 §2.1.1).
func inclusionProof(leaves []consilium.Digest, index int) []consilium.Digest {
	var path []consilium.Digest
	level := append([]consilium.Digest(nil), leaves...)
	for len(level) > 1 {
		if sibling := index ^ 1; sibling < len(level) {
			path = append(path, level[sibling])
		}
		n := len(level) / 2
		for i := 0; i < n; i++ {
			level[i] = NodeHash(level[2*i], level[2*i+1])
		}
		if len(level)%2 == 1 {
			level[n] = level[len(level)-1]
			n++
		}
		level, index = level[:n], index/2
	}
	return path
}

// VerifyInclusion checks an audit path (RFC 6962 §2.1.1).
func VerifyInclusion(leaf consilium.Digest, index, size uint64, path []consilium.Digest, root consilium.Digest) error {
	if size > MaxTreeSize || index >= size {
		return fmt.Errorf("inclusion: leaf %d of %d", index, size)
	}
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, size, leaf[:], rawPath(path), root[:]); err != nil {
		return fmt.Errorf("inclusion: %w", err)
	}
	return nil
}

// VerifyConsistency checks that the tree of newSize extends the tree of
// oldSize (RFC 6962 §2.1.2). Size 0 is the empty root and needs no path.
func VerifyConsistency(oldSize uint64, oldRoot consilium.Digest, newSize uint64, newRoot consilium.Digest, path []consilium.Digest) error {
	switch {
	case oldSize > newSize || newSize > MaxTreeSize:
		return fmt.Errorf("consistency: from %d to %d", oldSize, newSize)
	case oldSize == 0 && oldRoot != EmptyRoot(), newSize == 0 && newRoot != EmptyRoot():
		return errors.New("consistency: the empty tree has another root")
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, oldSize, newSize, rawPath(path), oldRoot[:], newRoot[:]); err != nil {
		return fmt.Errorf("consistency: %w", err)
	}
	return nil
}

func rawPath(path []consilium.Digest) [][]byte {
	out := make([][]byte, len(path))
	for i := range path {
		out[i] = path[i][:]
	}
	return out
}

func digestPath(path [][]byte) ([]consilium.Digest, error) {
	out := make([]consilium.Digest, len(path))
	for i, h := range path {
		if len(h) != len(out[i]) {
			return nil, fmt.Errorf("a proof hash of %d bytes", len(h))
		}
		copy(out[i][:], h)
	}
	return out, nil
}

// Edge is the right edge of a growing RFC 6962 tree: the roots of its perfect
// subtrees, largest first. It is all that is needed to append and to know the
// root, and its size is logarithmic. The zero value is the empty tree. An Edge
// is a value of the caller's state machine: no locks, no clock.
type Edge struct {
	size  uint64
	nodes []consilium.Digest
}

// Size is the number of leaves.
func (e *Edge) Size() uint64 { return e.size }

// Append adds one leaf hash.
func (e *Edge) Append(leaf consilium.Digest) {
	for s := e.size; s&1 == 1; s >>= 1 {
		leaf = NodeHash(e.nodes[len(e.nodes)-1], leaf)
		e.nodes = e.nodes[:len(e.nodes)-1]
	}
	e.nodes = append(e.nodes, leaf)
	e.size++
}

// AppendData adds one entry by its bytes.
func (e *Edge) AppendData(entry []byte) { e.Append(LeafHash(entry)) }

// Root is the root of the tree so far.
func (e *Edge) Root() consilium.Digest {
	if e.size == 0 {
		return EmptyRoot()
	}
	root := e.nodes[len(e.nodes)-1]
	for i := len(e.nodes) - 2; i >= 0; i-- {
		root = NodeHash(e.nodes[i], root)
	}
	return root
}

// Clone copies e.
func (e *Edge) Clone() *Edge {
	return &Edge{size: e.size, nodes: append([]consilium.Digest(nil), e.nodes...)}
}

// Equal reports whether both are the same tree.
func (e *Edge) Equal(o *Edge) bool { return bytes.Equal(e.Marshal(), o.Marshal()) }

const edgeVersion = 1

// Marshal is the edge's one encoding.
func (e *Edge) Marshal() []byte {
	w := enc{make([]byte, 0, 9+32*len(e.nodes))}
	w.u8(edgeVersion)
	w.u64(e.size)
	for _, n := range e.nodes {
		w.digest(n)
	}
	return w.b
}

// ParseEdge is the inverse of Marshal.
func ParseEdge(b []byte) (*Edge, error) {
	d := dec{b: b}
	if v := d.u8(); d.err == nil && v != edgeVersion {
		d.fail("version %d", v)
	}
	e := &Edge{size: d.u64()}
	if d.err == nil && e.size > MaxTreeSize {
		d.fail("size %d", e.size)
	}
	for i := 0; d.err == nil && i < bits.OnesCount64(e.size); i++ {
		e.nodes = append(e.nodes, d.digest())
	}
	if err := d.done("edge"); err != nil {
		return nil, err
	}
	return e, nil
}

// parallel splits [0, n) into one run a core.
func parallel(n int, f func(lo, hi int)) {
	workers := min(runtime.GOMAXPROCS(0), n)
	if workers <= 1 {
		if n > 0 {
			f(0, n)
		}
		return
	}
	var wg sync.WaitGroup
	for w := 0; w < workers; w++ {
		lo, hi := n*w/workers, n*(w+1)/workers
		wg.Go(func() { f(lo, hi) })
	}
	wg.Wait()
}
