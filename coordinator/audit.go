package coordinator

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"consilium"
	"consilium/internal/durable"
	"consilium/provenance"
)

// auditLog is this node's face of the federation's transparency log: one leaf
// for each event, hashed as RFC 6962 does. It runs behind the state machine and
// derives everything from the recorded events, so every node shows the same tree,
// and each signs it with its own key, outside Apply: signatures differ, trees do
// not. A node whose tree differs from its state's stops.
//
// On disk it keeps hash tiles in the c2sp.org/tlog-tiles layout and the latest
// checkpoint. They can be made again from the events, so nothing is lost with
// them. The leaves are longer than that layout's entry bundles allow (65535
// bytes); the Entries call serves them.
type auditLog struct {
	events *eventLog
	origin string
	key    *provenance.NoteKey
	dir    string // "" in memory

	mu      sync.RWMutex // guards the fields below
	hashes  []tlog.Hash  // in tlog's stored order
	size    uint64
	note    []byte
	partial map[int]string // level -> path of the last partial tile written
}

// tileHeight is fixed by c2sp.org/tlog-tiles.
const tileHeight = 8

func newAuditLog(events *eventLog, origin string, key *provenance.NoteKey, dir string) (*auditLog, error) {
	a := &auditLog{events: events, origin: origin, key: key, dir: dir, partial: map[int]string{}}
	if dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, durable.Full(err)
		}
	}
	return a, nil
}

// auditPause batches checkpoints: signing each event apart would cost more
// than recording it.
const auditPause = 20 * time.Millisecond

// run follows the state machine until ctx ends or the trees disagree.
func (a *auditLog) run(ctx context.Context, f *fsm) error {
	for {
		changed := f.watch()
		var size uint64
		var root consilium.Digest
		f.read(func(s *State) { size, root = s.NextSeq(), s.Root() })
		if err := a.advance(size, root); err != nil {
			return fmt.Errorf("audit log: %w", err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
		if err := pause(ctx, auditPause); err != nil {
			return nil
		}
	}
}

// advance grows the tree to size, which must then have the given root, and
// signs it.
func (a *auditLog) advance(size uint64, root consilium.Digest) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if size < a.size || size == a.size && a.note != nil {
		return nil
	}
	for seq := a.size; seq < size; seq++ {
		leaf, err := a.events.read(seq)
		if err != nil {
			return err
		}
		more, err := tlog.StoredHashes(int64(seq), leaf, tlog.HashReaderFunc(a.readHashes))
		if err != nil {
			return err
		}
		a.hashes = append(a.hashes, more...)
	}
	got, err := tlog.TreeHash(int64(size), tlog.HashReaderFunc(a.readHashes))
	if err != nil {
		return err
	}
	if consilium.Digest(got) != root {
		return fmt.Errorf("the recorded events have root %s at size %d, the state has %s", consilium.Digest(got), size, root)
	}
	note, err := provenance.SignCheckpoint(a.origin, size, root, a.key)
	if err != nil {
		return err
	}
	if err := a.publish(a.size, size, note); err != nil {
		return err
	}
	a.size, a.note = size, note
	return nil
}

// publish writes the tiles that are new between two sizes, then the checkpoint
// that needs them.
func (a *auditLog) publish(old, size uint64, note []byte) error {
	if a.dir == "" {
		return nil
	}
	for _, t := range tlog.NewTiles(tileHeight, int64(old), int64(size)) {
		data, err := tlog.ReadTileData(t, tlog.HashReaderFunc(a.readHashes))
		if err != nil {
			return err
		}
		path := filepath.Join(a.dir, filepath.FromSlash(tilePath(t)))
		if err := writeCache(path, data); err != nil {
			return err
		}
		if last := a.partial[t.L]; last != "" && last != path {
			os.Remove(last) // its hashes are in the tile just written or were never wider
		}
		delete(a.partial, t.L)
		if t.W < 1<<tileHeight {
			a.partial[t.L] = path
		}
	}
	return writeCache(filepath.Join(a.dir, "checkpoint"), note)
}

// tilePath is the tile's path of c2sp.org/tlog-tiles: as tlog's, which has the
// tile height in front.
func tilePath(t tlog.Tile) string {
	return "tile/" + strings.TrimPrefix(t.Path(), fmt.Sprintf("tile/%d/", tileHeight))
}

// writeCache replaces a file that can be made again: a reader sees the old or
// the new one, and power loss may cost it.
func writeCache(path string, data []byte) error {
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, data) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return durable.Full(err)
	}
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return durable.Full(err)
	}
	return durable.Full(os.Rename(path+".new", path))
}

// readHashes is called with mu held.
func (a *auditLog) readHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x < 0 || x >= int64(len(a.hashes)) {
			return nil, consilium.ErrInvalid.Withf("hash %d of %d", x, len(a.hashes))
		}
		out[i] = a.hashes[x]
	}
	return out, nil
}

// Checkpoint implements wire.Audit.
func (a *auditLog) Checkpoint(context.Context) ([]byte, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.note == nil {
		return nil, consilium.ErrUnavailable.Withf("no checkpoint is signed yet")
	}
	return a.note, nil
}

// Tile implements wire.Audit.
func (a *auditLog) Tile(_ context.Context, level int, index uint64, width int) ([]byte, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	t := tlog.Tile{H: tileHeight, L: level, N: int64(index), W: width}
	// The hashes of a tile are whole subtrees of 256^level leaves.
	if have := a.size >> (tileHeight * uint(level)); index >= have>>tileHeight+1 || index<<tileHeight+uint64(width) > have {
		return nil, consilium.ErrInvalid.Withf("tile level %d, index %d, width %d is not complete at size %d", level, index, width, a.size)
	}
	return tlog.ReadTileData(t, tlog.HashReaderFunc(a.readHashes))
}

// Entries implements wire.Audit. It serves leaves that a checkpoint covers.
func (a *auditLog) Entries(_ context.Context, start, count uint64, send func(uint64, []byte) error) error {
	a.mu.RLock()
	size := a.size
	a.mu.RUnlock()
	for seq := start; seq < start+count && seq < size; seq++ {
		leaf, err := a.events.read(seq)
		if err != nil {
			return err
		}
		if err := send(seq, leaf); err != nil {
			return err
		}
	}
	return nil
}

// Inclusion implements wire.Audit (RFC 6962 §2.1.1).
func (a *auditLog) Inclusion(_ context.Context, index, size uint64) ([]consilium.Digest, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if size > a.size {
		return nil, consilium.ErrInvalid.Withf("a tree of %d leaves, the log has %d", size, a.size)
	}
	p, err := tlog.ProveRecord(int64(size), int64(index), tlog.HashReaderFunc(a.readHashes))
	return digests(p), err
}

// Consistency implements wire.Audit (RFC 6962 §2.1.2).
func (a *auditLog) Consistency(_ context.Context, old, size uint64) ([]consilium.Digest, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if size > a.size {
		return nil, consilium.ErrInvalid.Withf("a tree of %d leaves, the log has %d", size, a.size)
	}
	p, err := tlog.ProveTree(int64(size), int64(old), tlog.HashReaderFunc(a.readHashes))
	return digests(p), err
}

func digests(p []tlog.Hash) []consilium.Digest {
	out := make([]consilium.Digest, len(p))
	for i, h := range p {
		out[i] = consilium.Digest(h)
	}
	return out
}
