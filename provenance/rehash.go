package provenance

import (
	"encoding/binary"
	"sync"

	"consilium"
	"consilium/internal/sha"
)

// Most of what a check of a table does is SHA-256 of short messages: two for a
// row's salt, one for its leaf, one for each node above. Where the processor can,
// sixteen of them are hashed at a time (package sha); the digests are the same.

// rehashRows is how many rows are hashed together: few enough for a core's first
// cache, many enough that rows of one length meet.
const rehashRows = 128

// leafOf asks for the leaf of row r of a record.
type leafOf struct {
	rc    *rowCoder
	r     int
	key   *patientKey
	batch *ID
	index uint32
}

// rehasher computes leaves. It is working memory: one for each goroutine.
type rehasher struct {
	chain    *chain
	buf      []byte
	batch    sha.Batch
	pack     sha.Packer
	after    [rehashRows]*[32]byte
	messages []byte
	macs     [rehashRows][32]byte
}

func newRehasher() *rehasher { return &rehasher{chain: newChain(), buf: make([]byte, 0, 512)} }

// leaves computes out[i], the leaf of rows[i], for at most rehashRows rows.
func (h *rehasher) leaves(out []consilium.Digest, rows []leafOf) {
	if !sha.Enabled {
		for i := range rows {
			x := &rows[i]
			salt := x.key.saltWith(h.chain, x.batch, x.index)
			out[i], h.buf = x.rc.leaf(h.buf, &salt, x.r)
		}
		return
	}
	// The salt is patientKey.mac: an inner and an outer block.
	size := len(rowSaltPrefix) + len(ID{}) + 4
	h.messages = h.messages[:0]
	for i := range rows {
		x := &rows[i]
		h.messages = append(append(h.messages, rowSaltPrefix...), x.batch[:]...)
		h.messages = binary.BigEndian.AppendUint32(h.messages, x.index)
		h.after[i] = &x.key.inner
	}
	macs, after := h.macs[:len(rows)], h.after[:len(rows)]
	h.batch.SumEach(macs, after, 64, h.messages, size, size)
	h.messages = h.messages[:0]
	for i := range rows {
		h.messages = append(h.messages, macs[i][:]...)
		after[i] = &rows[i].key.outer
	}
	h.batch.SumEach(macs, after, 64, h.messages, len(macs[0]), len(macs[0]))
	for i := range rows {
		x := &rows[i]
		h.buf = x.rc.leafBytes(h.buf, (*consilium.Digest)(&macs[i]), x.r)
		h.pack.Add(h.buf, (*[32]byte)(&out[i]))
	}
	h.pack.Flush()
	clear(after)
}

// nodes is what hashing a level of a tree needs.
type nodes struct {
	batch sha.Batch
	flat  [sha.Lanes * 65]byte
	up    [sha.Lanes][32]byte
}

var nodePool = sync.Pool{New: func() any { return new(nodes) }}

// pairUpMany is the part of pairUp that whole batches take: it returns how many
// pairs it hashed. up may be the start of level.
func pairUpMany(up, level []consilium.Digest) int {
	n := len(level) / 2 / sha.Lanes * sha.Lanes
	if !sha.Enabled || n == 0 {
		return 0
	}
	w := nodePool.Get().(*nodes)
	defer nodePool.Put(w)
	for at := 0; at < n; at += sha.Lanes {
		for i := range sha.Lanes {
			b := w.flat[65*i:]
			b[0] = 1
			copy(b[1:], level[2*(at+i)][:])
			copy(b[33:], level[2*(at+i)+1][:])
		}
		w.batch.Sum(w.up[:], nil, w.flat[:], 65, 65)
		for i := range w.up {
			up[at+i] = w.up[i]
		}
	}
	return n
}
