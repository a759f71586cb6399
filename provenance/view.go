package provenance

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"

	"consilium"
)

// CheckTiles reads a whole ledger directory and compares every entry and every
// hash tile with a checkpoint: what `ledger verify` does, and an operator after
// a disk fault. It needs 32 bytes of memory an entry. It checks no signature.
func CheckTiles(ctx context.Context, dir string, c *Checkpoint) error {
	v := dirView{dir: dir, files: client.FileFetcher{Root: dir}}
	level := make([]consilium.Digest, 0, min(c.Size, 1<<20))
	for from := uint64(0); from < c.Size; from += entriesAtOnce {
		entries, err := v.Entries(ctx, from, min(from+entriesAtOnce, c.Size), c.Size)
		if err != nil {
			return consilium.ErrLedger.With(err)
		}
		for _, e := range entries {
			level = append(level, LeafHash(e))
		}
	}
	if TreeRoot(level) != c.Root {
		return consilium.ErrLedger.Withf("%w at size %d", ErrCorrupt, c.Size)
	}
	for k := uint64(0); len(level) > 0; k++ {
		var up []consilium.Digest
		for i := 0; i < len(level); i += layout.TileWidth {
			row := level[i:min(i+layout.TileWidth, len(level))]
			index := uint64(i / layout.TileWidth)
			got, err := v.files.ReadTile(ctx, k, index, uint8(len(row)%layout.TileWidth))
			if err != nil {
				return consilium.ErrLedger.With(err)
			}
			// A partial tile may have been replaced by the full one since.
			if want := encodeTile(row); len(got) < len(want) || !bytes.Equal(got[:len(want)], want) {
				return consilium.ErrLedger.Withf("%w: tile %d of level %d", ErrCorrupt, index, k)
			}
			if len(row) == layout.TileWidth {
				up = append(up, TreeRoot(row))
			}
		}
		level = up
	}
	return nil
}

// View reads one ledger. What it returns is checked by whoever uses it, and
// believed by nobody.
type View interface {
	// Checkpoint is the latest published signed tree head.
	Checkpoint(ctx context.Context) ([]byte, error)
	// Entries are the entries from, from+1, … to-1 of the tree of a size that
	// was published.
	Entries(ctx context.Context, from, to, size uint64) ([][]byte, error)
	// Inclusion is the audit path of an entry in the tree of a size.
	Inclusion(ctx context.Context, index, size uint64) ([]consilium.Digest, error)
	// Consistency shows that the tree of size to extends the tree of size from.
	Consistency(ctx context.Context, from, to uint64) ([]consilium.Digest, error)
}

// DirView reads a ledger's directory (C2SP tlog-tiles): files only, no key, no
// network, so a vault may hold it.
func DirView(dir string) View { return dirView{dir: dir, files: client.FileFetcher{Root: dir}} }

type dirView struct {
	dir   string
	files client.FileFetcher
}

func (v dirView) Checkpoint(context.Context) ([]byte, error) {
	f, err := os.Open(filepath.Join(v.dir, layout.CheckpointPath))
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxCheckpoint+1))
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	return b, nil
}

func (v dirView) Entries(ctx context.Context, from, to, size uint64) ([][]byte, error) {
	if from > to || to > size || size > MaxTreeSize {
		return nil, fmt.Errorf("ledger: entries %d to %d of %d", from, to, size)
	}
	var out [][]byte
	for i := from; i < to; {
		bundle := i / layout.EntryBundleWidth
		b, err := client.GetEntryBundle(ctx, v.files.ReadEntryBundle, bundle, size)
		if err != nil {
			return nil, fmt.Errorf("ledger: %w", err)
		}
		end := min((bundle+1)*layout.EntryBundleWidth, to)
		first := bundle * layout.EntryBundleWidth
		if uint64(len(b.Entries)) < end-first {
			return nil, fmt.Errorf("ledger: bundle %d holds %d entries, want %d", bundle, len(b.Entries), end-first)
		}
		out = append(out, b.Entries[i-first:end-first]...)
		i = end
	}
	return out, nil
}

func (v dirView) Inclusion(ctx context.Context, index, size uint64) ([]consilium.Digest, error) {
	if index >= size || size > MaxTreeSize {
		return nil, fmt.Errorf("ledger: entry %d of %d", index, size)
	}
	pb, err := client.NewProofBuilder(ctx, size, v.files.ReadTile)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	path, err := pb.InclusionProof(ctx, index)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	return digestPath(path)
}

func (v dirView) Consistency(ctx context.Context, from, to uint64) ([]consilium.Digest, error) {
	if from > to || to > MaxTreeSize {
		return nil, fmt.Errorf("ledger: consistency from %d to %d", from, to)
	}
	if from == 0 || from == to {
		return nil, nil
	}
	pb, err := client.NewProofBuilder(ctx, to, v.files.ReadTile)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	path, err := pb.ConsistencyProof(ctx, from, to)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	return digestPath(path)
}
