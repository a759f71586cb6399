package sha

import (
	"crypto/sha256"
	"encoding/binary"
)

// A tree hash, so that a long string is hashed sixteen pieces at a time and each
// piece can be checked by itself. It is the Merkle tree of RFC 6962 §2.1 over
// pieces of LeafSize bytes, the last of them shorter, with a first block that
// says of which domain and kind a hash is, in the place of RFC 6962's first byte:
//
//	prefix(kind) = len8(domain) ‖ domain ‖ kind, and zeros up to 64 bytes
//	leaf         = SHA-256(prefix(kind of the leaf) ‖ piece)
//	node         = SHA-256(prefix(1) ‖ left ‖ right)
//	digest       = SHA-256(prefix(2) ‖ context ‖ length in eight bytes ‖ root)
//
// An empty string is one empty piece. Whole blocks as prefixes cost nothing: their
// state is computed once. The length is bound, and so is the kind, so no string
// has the digest of another, of a part of it, or of a list of hashes.
const (
	LeafSize = 4096

	KindLeaf byte = 0
	kindNode byte = 1
	kindRoot byte = 2
	// KindWide and above are for callers whose leaves are of several kinds.
	KindWide byte = 3
)

// Prefix is the state after the first block of a kind. domain has at most 55
// bytes.
func Prefix(domain string, kind byte) State {
	if len(domain) > blockSize-9 {
		panic("sha: a domain longer than a block")
	}
	b := make([]byte, blockSize)
	binary.BigEndian.PutUint64(b, uint64(len(domain)))
	copy(b[8:], domain)
	b[8+len(domain)] = kind
	return Absorb(b)
}

// pending is how many nodes of a level wait for their parents: two batches.
const pending = 2 * Lanes

// Tree is the inner part of a tree hash: leaves in, root out. It holds a few
// kilobytes, whatever the number of leaves.
type Tree struct {
	batch  Batch
	node   State
	leaves [Lanes][32]byte
	levels []level
}

type level struct {
	n     int
	nodes [pending * sha256.Size]byte
	up    [Lanes][32]byte // their parents, on the way to the next level
}

// NewTree starts a tree.
func NewTree(domain string) *Tree { return &Tree{node: Prefix(domain, kindNode)} }

// Clone is a copy that goes on by itself.
func (t *Tree) Clone() *Tree {
	c := *t
	c.batch.one.h = nil
	c.levels = append([]level(nil), t.levels...)
	return &c
}

// Wipe overwrites the working memory of hashing, best effort.
func (t *Tree) Wipe() { t.batch.Wipe() }

// Leaves hashes len(data)/size pieces of size bytes into the tree.
func (t *Tree) Leaves(kind *State, data []byte, size int) {
	for len(data) > 0 {
		n := min(len(data)/size, Lanes)
		t.batch.Sum(t.leaves[:n], kind, data, size, size)
		t.push(0, t.leaves[:n])
		data = data[n*size:]
	}
}

// Leaf hashes one piece into the tree.
func (t *Tree) Leaf(kind *State, data []byte) {
	t.leaves[0] = t.batch.one.sum(kind, data)
	t.push(0, t.leaves[:1])
}

// push appends nodes to a level. Parents are made sixteen at a time.
func (t *Tree) push(at int, nodes [][32]byte) {
	if at == len(t.levels) {
		t.levels = append(t.levels, level{})
	}
	for i := range nodes {
		l := &t.levels[at]
		copy(l.nodes[l.n*sha256.Size:], nodes[i][:])
		if l.n++; l.n < pending {
			continue
		}
		l.n = 0
		t.batch.Sum(l.up[:], &t.node, l.nodes[:], 2*sha256.Size, 2*sha256.Size)
		t.push(at+1, l.up[:])
	}
}

// Root is the hash of the tree so far. There must have been a leaf. Leaves can
// be added afterwards.
func (t *Tree) Root() (root [32]byte) {
	var last []byte // from the level below: the end of this one
	spare, other := make([]byte, 0, 2*pending*sha256.Size), make([]byte, 0, 2*pending*sha256.Size)
	for i := range t.levels {
		l := &t.levels[i]
		row := append(append(spare[:0], l.nodes[:l.n*sha256.Size]...), last...)
		// All but the top level are paired up; whoever has no pair goes up as it is.
		for len(row) > sha256.Size && i == len(t.levels)-1 {
			row = t.parents(row)
		}
		if i == len(t.levels)-1 {
			copy(root[:], row)
			return root
		}
		last = t.parents(row)
		spare, other = other, spare
	}
	panic("sha: the root of a tree without leaves")
}

// parents replaces a row of nodes by the row above.
func (t *Tree) parents(row []byte) []byte {
	out := row[:0]
	for len(row) >= 2*sha256.Size {
		h := t.batch.one.sum(&t.node, row[:2*sha256.Size])
		out, row = append(out, h[:]...), row[2*sha256.Size:]
	}
	return append(out, row...)
}

// Stream is the tree hash of what is written to it. It implements hash.Hash.
type Stream struct {
	domain     string
	context    []byte
	leaf, root State
	tree       *Tree
	buf        []byte // less than Lanes leaves
	length     uint64
}

// NewStream starts a tree hash of a domain. context is bound by the digest.
func NewStream(domain string, context ...byte) *Stream {
	return &Stream{domain: domain, context: context, leaf: Prefix(domain, KindLeaf), root: Prefix(domain, kindRoot), tree: NewTree(domain)}
}

// Write never fails.
func (s *Stream) Write(b []byte) (int, error) {
	const group = Lanes * LeafSize
	n := len(b)
	s.length += uint64(n)
	if len(s.buf) > 0 {
		m := min(group-len(s.buf), len(b))
		s.buf = append(s.buf, b[:m]...)
		if b = b[m:]; len(s.buf) < group {
			return n, nil
		}
		s.tree.Leaves(&s.leaf, s.buf, LeafSize)
		s.buf = s.buf[:0]
	}
	if whole := len(b) / group * group; whole > 0 {
		s.tree.Leaves(&s.leaf, b[:whole], LeafSize)
		b = b[whole:]
	}
	if len(b) > 0 {
		s.buf = append(s.buf, b...)
	}
	return n, nil
}

// Sum appends the digest of what was written so far; Write can go on.
func (s *Stream) Sum(b []byte) []byte {
	t := s.tree.Clone()
	whole := len(s.buf) / LeafSize * LeafSize
	t.Leaves(&s.leaf, s.buf[:whole], LeafSize)
	if whole < len(s.buf) || s.length == 0 {
		t.Leaf(&s.leaf, s.buf[whole:])
	}
	d := t.Digest(&s.root, s.context, s.length)
	return append(b, d[:]...)
}

// Digest ends the tree: root is RootPrefix of the domain.
func (t *Tree) Digest(root *State, context []byte, length uint64) [32]byte {
	r := t.Root()
	end := append(append([]byte(nil), context...), make([]byte, 8)...)
	binary.BigEndian.PutUint64(end[len(context):], length)
	return root.Sum(append(end, r[:]...))
}

// RootPrefix is Prefix of the last hash of a tree.
func RootPrefix(domain string) State { return Prefix(domain, kindRoot) }

func (s *Stream) Reset()         { *s = *NewStream(s.domain, s.context...) }
func (s *Stream) Size() int      { return sha256.Size }
func (s *Stream) BlockSize() int { return blockSize }
