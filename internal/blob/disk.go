package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"sync/atomic"

	"consilium"
	"consilium/internal/durable"
)

// Disk keeps blobs as files, in 256 directories by the first byte of the
// digest. Unfinished ones are in "staging", damaged ones in "damaged".
type Disk struct {
	fsys durable.FS
	dir  string
	temp atomic.Uint64
	mu   sync.RWMutex // write-locked while names change, so List sees no half
}

var _ Store = (*Disk)(nil)

// OpenDisk opens or creates a store in dir and removes what an earlier process
// left unfinished there.
func OpenDisk(dir string) (*Disk, error) { return OpenDiskFS(durable.OS, dir) }

// OpenDiskFS is OpenDisk on a given file system.
func OpenDiskFS(fsys durable.FS, dir string) (*Disk, error) {
	s := &Disk{fsys: fsys, dir: dir}
	// If we crashed in Put, the staged bytes were acknowledged to nobody.
	if err := os.RemoveAll(filepath.Join(dir, "staging")); err != nil {
		return nil, fmt.Errorf("blob store: %w", err)
	}
	for _, sub := range []string{"staging", "damaged"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("blob store: %w", durable.Full(err))
		}
	}
	for i := 0; i < 256; i++ {
		if err := os.MkdirAll(filepath.Join(dir, fmt.Sprintf("%02x", i)), 0o700); err != nil {
			return nil, fmt.Errorf("blob store: %w", durable.Full(err))
		}
	}
	if err := fsys.SyncDir(dir); err != nil {
		return nil, fmt.Errorf("blob store: %w", err)
	}
	return s, nil
}

func (s *Disk) path(d consilium.Digest) string {
	name := d.String()
	return filepath.Join(s.dir, name[:2], name)
}

// stage writes r into a staged file that is durable under its temporary name.
func (s *Disk) stage(ctx context.Context, r io.Reader, limit int64) (name string, d consilium.Digest, n int64, err error) {
	name = filepath.Join(s.dir, "staging", fmt.Sprintf("%d", s.temp.Add(1)))
	f, err := s.fsys.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", d, 0, durable.Full(err)
	}
	h := NewHash()
	n, err = copyLimited(ctx, f, h, r, limit)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		s.fsys.Remove(name)
		return "", d, 0, durable.Full(err)
	}
	return name, sum(h), n, nil
}

// commit gives staged bytes their name. A blob that is there already is
// replaced by the same bytes, which heals it if it was damaged.
func (s *Disk) commit(name string, d consilium.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := s.path(d)
	if err := s.fsys.Rename(name, path); err != nil {
		s.fsys.Remove(name)
		return durable.Full(err)
	}
	// If we crash here, the blob may be there without having been
	// acknowledged; nothing refers to it, and it is collected.
	return durable.Full(s.fsys.SyncDir(filepath.Dir(path)))
}

// Put implements Store.
func (s *Disk) Put(ctx context.Context, r io.Reader, limit int64) (consilium.Digest, int64, error) {
	name, d, n, err := s.stage(ctx, r, limit)
	if err == nil {
		err = s.commit(name, d)
	}
	if err != nil {
		return consilium.Digest{}, 0, fmt.Errorf("store blob: %w", err)
	}
	return d, n, nil
}

// PutExpect implements Store.
func (s *Disk) PutExpect(ctx context.Context, want consilium.Digest, size int64, r io.Reader) error {
	name, d, n, err := s.stage(ctx, r, size)
	if err != nil {
		return fmt.Errorf("store blob: %w", err)
	}
	if d != want || n != size {
		s.fsys.Remove(name)
		return corrupt(want, d, size, n)
	}
	if err := s.commit(name, d); err != nil {
		return fmt.Errorf("store blob: %w", err)
	}
	return nil
}

// Open implements Store.
func (s *Disk) Open(d consilium.Digest) (File, int64, error) {
	f, err := s.fsys.OpenFile(s.path(d), os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, missing(d)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open blob: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("open blob: %w", err)
	}
	return f, info.Size(), nil
}

// Has implements Store.
func (s *Disk) Has(d consilium.Digest) (int64, bool) {
	info, err := os.Stat(s.path(d))
	if err != nil {
		return 0, false
	}
	return info.Size(), true
}

// Check implements Store.
func (s *Disk) Check(ctx context.Context, d consilium.Digest) error {
	f, size, err := s.Open(d)
	if err != nil {
		return err
	}
	defer f.Close()
	h := NewHash()
	n, err := copyLimited(ctx, io.Discard, h, f, size)
	if err != nil && ctx.Err() != nil {
		return err
	}
	if err == nil && sum(h) == d {
		return nil
	}
	bad := corrupt(d, sum(h), size, n)
	if err != nil {
		bad = consilium.ErrBlobCorrupt.Withf("%s cannot be read: %w", d.Short(), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Moved aside, not deleted: somebody may want to learn why.
	if err := s.fsys.Rename(s.path(d), filepath.Join(s.dir, "damaged", d.String())); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(bad, err)
	}
	if err := s.fsys.SyncDir(filepath.Dir(s.path(d))); err != nil {
		return errors.Join(bad, err)
	}
	return bad
}

// Delete implements Store.
func (s *Disk) Delete(d consilium.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fsys.Remove(s.path(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete blob: %w", err)
	}
	return nil
}

// List implements Store.
func (s *Disk) List() ([]Info, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []Info
	for i := 0; i < 256; i++ {
		entries, err := os.ReadDir(filepath.Join(s.dir, fmt.Sprintf("%02x", i)))
		if err != nil {
			return nil, fmt.Errorf("list blobs: %w", err)
		}
		for _, e := range entries {
			d, err := consilium.ParseDigest(e.Name())
			if err != nil || !strings.HasPrefix(e.Name(), fmt.Sprintf("%02x", i)) {
				continue // not ours: a file that somebody put here
			}
			info, err := e.Info()
			if err != nil {
				return nil, fmt.Errorf("list blobs: %w", err)
			}
			out = append(out, Info{d, info.Size()})
		}
	}
	return out, nil
}

// Scrub implements Store.
func (s *Disk) Scrub(ctx context.Context) ([]Info, error) { return scrub(ctx, s) }

func scrub(ctx context.Context, s Store) ([]Info, error) {
	all, err := s.List()
	if err != nil {
		return nil, err
	}
	var bad []Info
	for _, b := range all {
		switch err := s.Check(ctx, b.Digest); {
		case err == nil, errors.Is(err, consilium.ErrBlobMissing): // deleted meanwhile
		case errors.Is(err, consilium.ErrBlobCorrupt):
			bad = append(bad, b)
		default:
			return bad, err
		}
	}
	sort.Slice(bad, func(i, k int) bool { return string(bad[i].Digest[:]) < string(bad[k].Digest[:]) })
	return bad, nil
}
