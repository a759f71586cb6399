package provenance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"

	"consilium"
)

// Tiles keeps the hashes of a log as C2SP tlog-tiles files (tile/<level>/<n>
// with 256 hashes each): proofs are read from them and anybody can serve them
// as they are. The entries themselves stay with the caller. It is safe for
// concurrent use.
type Tiles struct {
	dir string

	mu   sync.RWMutex         // guards edge and open
	edge *Edge                // what the state file says
	open [][]consilium.Digest // by level: the tile that is being filled
}

const (
	tileWidth     = layout.TileWidth
	tileStateFile = "edge"
)

// OpenTiles opens or makes dir and checks that the tiles on the right edge
// hash to the root that the state file says.
func OpenTiles(dir string) (*Tiles, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("tiles: %w", err)
	}
	t := &Tiles{dir: dir, edge: &Edge{}}
	b, err := os.ReadFile(filepath.Join(dir, tileStateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	} else if err != nil {
		return nil, fmt.Errorf("tiles: %w", err)
	}
	if t.edge, err = ParseEdge(b); err != nil {
		return nil, consilium.ErrLedger.Withf("tiles: %w", err)
	}
	for level, n := uint64(0), t.edge.Size(); n > 0; level, n = level+1, n/tileWidth {
		var row []consilium.Digest
		if part := n % tileWidth; part > 0 {
			raw, err := t.read(level, n/tileWidth, uint8(part))
			if err != nil {
				return nil, consilium.ErrLedger.Withf("tiles: %w", err)
			}
			if row, err = parseTile(raw, int(part)); err != nil {
				return nil, consilium.ErrLedger.Withf("tiles: %w", err)
			}
		}
		t.open = append(t.open, row)
	}
	if edgeOf(t.open).Root() != t.edge.Root() {
		return nil, consilium.ErrLedger.Withf("tiles: the files in %s do not hash to their root", dir)
	}
	return t, nil
}

// edgeOf joins the open tiles to the tree's right edge: the hashes of level k
// are roots of 256^k leaves.
func edgeOf(open [][]consilium.Digest) *Edge {
	e := &Edge{}
	for level := len(open) - 1; level >= 0; level-- {
		sub := &Edge{}
		for _, h := range open[level] {
			sub.Append(h)
		}
		e.nodes = append(e.nodes, sub.nodes...)
		e.size = e.size*tileWidth + sub.size
	}
	return e
}

func parseTile(raw []byte, want int) ([]consilium.Digest, error) {
	if len(raw) != 32*want {
		return nil, fmt.Errorf("a tile of %d bytes, want %d", len(raw), 32*want)
	}
	out := make([]consilium.Digest, want)
	for i := range out {
		copy(out[i][:], raw[32*i:])
	}
	return out, nil
}

func encodeTile(row []consilium.Digest) []byte {
	out := make([]byte, 0, 32*len(row))
	for _, h := range row {
		out = append(out, h[:]...)
	}
	return out
}

// Append adds leaf hashes. When it returns, they are on disk; if it fails or
// the process dies, the tree is as it was.
func (t *Tiles) Append(leaves ...consilium.Digest) error {
	if len(leaves) == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	edge := t.edge.Clone()
	open := make([][]consilium.Digest, len(t.open))
	for i := range open {
		open[i] = append([]consilium.Digest(nil), t.open[i]...)
	}
	full := make([]uint64, len(open)) // by level: index of the open tile
	for i, n := 0, edge.Size(); i < len(full); i, n = i+1, n/tileWidth {
		full[i] = n / tileWidth
	}
	for _, leaf := range leaves {
		edge.Append(leaf)
		h := leaf
		for level := 0; ; level++ {
			if level == len(open) {
				open, full = append(open, nil), append(full, 0)
			}
			open[level] = append(open[level], h)
			if len(open[level]) < tileWidth {
				break
			}
			if err := t.write(uint64(level), full[level], 0, open[level]); err != nil {
				return err
			}
			h = rootOf(open[level])
			full[level]++
			open[level] = nil
		}
	}
	for level, row := range open {
		if len(row) > 0 {
			if err := t.write(uint64(level), full[level], uint8(len(row)), row); err != nil {
				return err
			}
		}
	}
	// If we crash here, the tiles hold hashes beyond the state, which the same
	// Append writes again.
	if err := writeFile(filepath.Join(t.dir, tileStateFile), edge.Marshal()); err != nil {
		return fmt.Errorf("tiles: %w", err)
	}
	t.edge, t.open = edge, open
	return nil
}

func (t *Tiles) write(level, index uint64, part uint8, row []consilium.Digest) error {
	path := filepath.Join(t.dir, filepath.FromSlash(layout.TilePath(level, index, part)))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("tiles: %w", err)
	}
	if err := writeFile(path, encodeTile(row)); err != nil {
		return fmt.Errorf("tiles: %w", err)
	}
	return nil
}

// read returns the first part hashes (0 means all) of a tile, from whichever
// file holds them.
func (t *Tiles) read(level, index uint64, part uint8) ([]byte, error) {
	have := t.edge.Size() >> (8 * level)
	if index > have/tileWidth {
		return nil, fmt.Errorf("tile %d/%d: %w", level, index, fs.ErrNotExist)
	}
	width := uint8(0)
	if index == have/tileWidth {
		width = uint8(have % tileWidth)
	}
	if index == have/tileWidth && (width == 0 || part == 0 || part > width) {
		return nil, fmt.Errorf("tile %d/%d has %d hashes: %w", level, index, width, fs.ErrNotExist)
	}
	b, err := os.ReadFile(filepath.Join(t.dir, filepath.FromSlash(layout.TilePath(level, index, width))))
	if err != nil {
		return nil, err
	}
	want := int(width)
	if width == 0 {
		want = tileWidth
	}
	if len(b) != 32*want {
		return nil, fmt.Errorf("tile %d/%d: %d bytes, want %d", level, index, len(b), 32*want)
	}
	if part > 0 {
		b = b[:32*int(part)]
	}
	return b, nil
}

// Size is the number of leaves.
func (t *Tiles) Size() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.edge.Size()
}

// Edge is the right edge of the tree.
func (t *Tiles) Edge() *Edge {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.edge.Clone()
}

// Root is the root of the tree of an earlier or the present size.
func (t *Tiles) Root(ctx context.Context, size uint64) (consilium.Digest, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	switch {
	case size > t.edge.Size():
		return consilium.Digest{}, fmt.Errorf("tiles: size %d of %d", size, t.edge.Size())
	case size == 0:
		return EmptyRoot(), nil
	}
	nodes, err := client.FetchRangeNodes(ctx, size, t.fetch)
	if err != nil {
		return consilium.Digest{}, fmt.Errorf("tiles: %w", err)
	}
	hs, err := digestPath(nodes)
	if err != nil {
		return consilium.Digest{}, err
	}
	return (&Edge{size: size, nodes: hs}).Root(), nil
}

func (t *Tiles) fetch(_ context.Context, level, index uint64, part uint8) ([]byte, error) {
	return t.read(level, index, part)
}

// Inclusion is the audit path of a leaf in the tree of a size.
func (t *Tiles) Inclusion(ctx context.Context, index, size uint64) ([]consilium.Digest, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if size > t.edge.Size() || index >= size {
		return nil, fmt.Errorf("tiles: leaf %d of %d, the tree has %d", index, size, t.edge.Size())
	}
	pb, err := client.NewProofBuilder(ctx, size, t.fetch)
	if err != nil {
		return nil, fmt.Errorf("tiles: %w", err)
	}
	path, err := pb.InclusionProof(ctx, index)
	if err != nil {
		return nil, fmt.Errorf("tiles: %w", err)
	}
	return digestPath(path)
}

// Consistency shows that the tree of size to extends the tree of size from.
func (t *Tiles) Consistency(ctx context.Context, from, to uint64) ([]consilium.Digest, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if to > t.edge.Size() || from > to {
		return nil, fmt.Errorf("tiles: from %d to %d, the tree has %d", from, to, t.edge.Size())
	}
	if from == 0 || from == to {
		return nil, nil
	}
	pb, err := client.NewProofBuilder(ctx, to, t.fetch)
	if err != nil {
		return nil, fmt.Errorf("tiles: %w", err)
	}
	path, err := pb.ConsistencyProof(ctx, from, to)
	if err != nil {
		return nil, fmt.Errorf("tiles: %w", err)
	}
	return digestPath(path)
}

// WriteCheckpoint publishes a checkpoint of this tree beside the tiles. One
// whose root the tiles do not have is refused.
func (t *Tiles) WriteCheckpoint(ctx context.Context, checkpoint []byte) error {
	c, err := ParseCheckpoint(checkpoint)
	if err != nil {
		return err
	}
	root, err := t.Root(ctx, c.Size)
	if err != nil {
		return err
	}
	if root != c.Root {
		return consilium.ErrLedger.Withf("tiles: another root at size %d", c.Size)
	}
	if err := writeFile(filepath.Join(t.dir, layout.CheckpointPath), checkpoint); err != nil {
		return fmt.Errorf("tiles: %w", err)
	}
	return nil
}

// Checkpoint is the one published last; fs.ErrNotExist if none.
func (t *Tiles) Checkpoint(context.Context) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(t.dir, layout.CheckpointPath))
	if err != nil {
		return nil, fmt.Errorf("tiles: %w", err)
	}
	return b, nil
}
