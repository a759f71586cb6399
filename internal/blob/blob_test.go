package blob_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"consilium"
	"consilium/internal/blob"
	"consilium/internal/durable"
)

func stores(t *testing.T, f func(t *testing.T, s blob.Store)) {
	t.Run("disk", func(t *testing.T) {
		s, err := blob.OpenDisk(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		f(t, s)
	})
	t.Run("memory", func(t *testing.T) { f(t, blob.NewMemory()) })
}

func content(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

// The name of a blob is what its comment says, computed another way: three pieces
// under one root, each of which can be checked by itself.
func TestDigest(t *testing.T) {
	raw := content(10_000)
	hash := func(kind byte, parts ...[]byte) []byte {
		first := binary.BigEndian.AppendUint64(nil, uint64(len(consilium.DomainBlob)))
		first = append(append(first, consilium.DomainBlob...), kind)
		first = append(first, make([]byte, 64-len(first))...)
		h := sha256.Sum256(append(first, bytes.Join(parts, nil)...))
		return h[:]
	}
	pair := hash(1, hash(0, raw[:4096]), hash(0, raw[4096:8192]))
	want := hash(2, binary.BigEndian.AppendUint64(nil, 10_000), hash(1, pair, hash(0, raw[8192:])))
	if d := blob.Sum(raw); !bytes.Equal(d[:], want) {
		t.Fatal("another digest")
	}
}

func TestPutOpen(t *testing.T) {
	stores(t, func(t *testing.T, s blob.Store) {
		ctx := context.Background()
		for _, n := range []int{0, 1, 65536, 200_001} {
			raw := content(n)
			d, size, err := s.Put(ctx, bytes.NewReader(raw), int64(n))
			if err != nil || size != int64(n) || d != blob.Sum(raw) {
				t.Fatalf("put %d bytes: %v, %d, %v", n, d, size, err)
			}
			if have, ok := s.Has(d); !ok || have != size {
				t.Fatal("not there")
			}
			f, size, err := s.Open(d)
			if err != nil || size != int64(n) {
				t.Fatal(size, err)
			}
			got, _ := io.ReadAll(f)
			if !bytes.Equal(got, raw) {
				t.Fatal("other bytes")
			}
			if n > 10 {
				f.Seek(3, io.SeekStart)
				one := make([]byte, 2)
				io.ReadFull(f, one)
				at := make([]byte, 2)
				f.ReadAt(at, 5)
				if one[0] != raw[3] || at[1] != raw[6] {
					t.Fatal("seek or read at an offset")
				}
			}
			if err := s.Delete(d); err != nil {
				t.Fatal(err)
			}
			f.Close()
			if _, _, err := s.Open(d); !errors.Is(err, consilium.ErrBlobMissing) {
				t.Fatal(err)
			}
			if err := s.Delete(d); err != nil {
				t.Fatal("deleting a missing blob:", err)
			}
		}
	})
}

func TestPutRefuses(t *testing.T) {
	stores(t, func(t *testing.T, s blob.Store) {
		ctx, raw := context.Background(), content(5000)
		if _, _, err := s.Put(ctx, bytes.NewReader(raw), 4999); !errors.Is(err, consilium.ErrTooLarge) {
			t.Fatal(err)
		}
		d := blob.Sum(raw)
		if err := s.PutExpect(ctx, d, 5001, bytes.NewReader(raw)); !errors.Is(err, consilium.ErrBlobCorrupt) {
			t.Fatal("short:", err)
		}
		if err := s.PutExpect(ctx, d, 4999, bytes.NewReader(raw)); !errors.Is(err, consilium.ErrTooLarge) {
			t.Fatal("long:", err)
		}
		if err := s.PutExpect(ctx, blob.Sum([]byte("else")), 5000, bytes.NewReader(raw)); !errors.Is(err, consilium.ErrBlobCorrupt) {
			t.Fatal("other digest:", err)
		}
		broken := io.MultiReader(bytes.NewReader(raw[:100]), errReader{})
		if _, _, err := s.Put(ctx, broken, 5000); !errors.Is(err, errCut) {
			t.Fatal(err)
		}
		stopped, cancel := context.WithCancel(ctx)
		cancel()
		if _, _, err := s.Put(stopped, bytes.NewReader(raw), 5000); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if all, _ := s.List(); len(all) != 0 {
			t.Fatalf("%d blobs left behind", len(all))
		}
		if err := s.PutExpect(ctx, d, 5000, bytes.NewReader(raw)); err != nil {
			t.Fatal(err)
		}
	})
}

var errCut = errors.New("the connection broke")

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errCut }

func TestListIsSorted(t *testing.T) {
	stores(t, func(t *testing.T, s blob.Store) {
		for i := 0; i < 50; i++ {
			if _, _, err := s.Put(context.Background(), bytes.NewReader([]byte{byte(i)}), 10); err != nil {
				t.Fatal(err)
			}
		}
		all, err := s.List()
		if err != nil || len(all) != 50 {
			t.Fatal(len(all), err)
		}
		for i := 1; i < len(all); i++ {
			if bytes.Compare(all[i-1].Digest[:], all[i].Digest[:]) >= 0 {
				t.Fatal("out of order")
			}
		}
	})
}

func blobPath(dir string, d consilium.Digest) string {
	return filepath.Join(dir, d.String()[:2], d.String())
}

// A damaged blob is reported, is missing from then on, and heals when its
// bytes come again.
func TestScrub(t *testing.T) {
	dir := t.TempDir()
	s, err := blob.OpenDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	var ds []consilium.Digest
	for i := 0; i < 4; i++ {
		d, _, err := s.Put(ctx, bytes.NewReader(content(1000+i)), 5000)
		if err != nil {
			t.Fatal(err)
		}
		ds = append(ds, d)
	}
	flip := func(d consilium.Digest) {
		b, _ := os.ReadFile(blobPath(dir, d))
		b[500] ^= 4
		os.WriteFile(blobPath(dir, d), b, 0o600)
	}
	flip(ds[1])
	os.Truncate(blobPath(dir, ds[2]), 10)
	bad, err := s.Scrub(ctx)
	if err != nil || len(bad) != 2 {
		t.Fatal(bad, err)
	}
	for _, d := range ds[1:3] {
		if _, ok := s.Has(d); ok {
			t.Fatal("a damaged blob is still offered")
		}
		if _, err := os.Stat(filepath.Join(dir, "damaged", d.String())); err != nil {
			t.Fatal("it was not kept aside:", err)
		}
		if err := s.Check(ctx, d); !errors.Is(err, consilium.ErrBlobMissing) {
			t.Fatal(err)
		}
	}
	if err := s.PutExpect(ctx, ds[1], 1001, bytes.NewReader(content(1001))); err != nil {
		t.Fatal(err)
	}
	if bad, err := s.Scrub(ctx); err != nil || len(bad) != 0 {
		t.Fatal(bad, err)
	}
	flip(ds[3])
	// Put heals even what nobody noticed.
	if _, _, err := s.Put(ctx, bytes.NewReader(content(1003)), 5000); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(ctx, ds[3]); err != nil {
		t.Fatal(err)
	}
	flip(ds[0])
	if err := s.Check(ctx, ds[0]); !errors.Is(err, consilium.ErrBlobCorrupt) {
		t.Fatal(err)
	}
}

// failing is a file system whose next operation of one kind fails.
type failing struct {
	durable.FS
	op  string
	err error
}

func (f *failing) OpenFile(name string, flag int, perm fs.FileMode) (durable.File, error) {
	if f.op == "open" {
		return nil, f.err
	}
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &failingFile{file, f}, nil
}

func (f *failing) Rename(from, to string) error {
	if f.op == "rename" {
		return f.err
	}
	return f.FS.Rename(from, to)
}

func (f *failing) SyncDir(name string) error {
	if f.op == "syncdir" {
		return f.err
	}
	return f.FS.SyncDir(name)
}

type failingFile struct {
	durable.File
	fs *failing
}

func (f *failingFile) Write(b []byte) (int, error) {
	if f.fs.op == "write" {
		n, _ := f.File.Write(b[:len(b)/2])
		return n, f.fs.err
	}
	return f.File.Write(b)
}

func (f *failingFile) Sync() error {
	if f.fs.op == "sync" {
		return f.fs.err
	}
	return f.File.Sync()
}

// Whatever fails, nothing is acknowledged, nothing half stays, and the store
// goes on afterwards. An acknowledged blob survives.
func TestDiskFaults(t *testing.T) {
	for _, op := range []string{"open", "write", "sync", "rename", "syncdir"} {
		dir := t.TempDir()
		f := &failing{FS: durable.OS}
		s, err := blob.OpenDiskFS(f, dir)
		if err != nil {
			t.Fatal(err)
		}
		ctx := context.Background()
		kept, _, err := s.Put(ctx, bytes.NewReader(content(10)), 10)
		if err != nil {
			t.Fatal(err)
		}
		f.op, f.err = op, syscall.ENOSPC
		if _, _, err := s.Put(ctx, bytes.NewReader(content(99)), 99); !errors.Is(err, consilium.ErrDiskFull) {
			t.Fatalf("%s: %v", op, err)
		}
		f.op = ""
		if staged, _ := os.ReadDir(filepath.Join(dir, "staging")); len(staged) != 0 {
			t.Fatalf("%s: %d staged files left", op, len(staged))
		}
		if _, _, err := s.Put(ctx, bytes.NewReader(content(99)), 99); err != nil {
			t.Fatalf("%s: after space was freed: %v", op, err)
		}
		if err := s.Check(ctx, kept); err != nil {
			t.Fatal(err)
		}
	}
}

// What a crash left half written is gone after reopening, and what was
// acknowledged is there.
func TestReopen(t *testing.T) {
	dir := t.TempDir()
	s, err := blob.OpenDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	d, _, err := s.Put(context.Background(), bytes.NewReader(content(77)), 77)
	if err != nil {
		t.Fatal(err)
	}
	os.WriteFile(filepath.Join(dir, "staging", "9"), []byte("half"), 0o600)
	os.WriteFile(filepath.Join(dir, d.String()[:2], "a stranger's file"), nil, 0o600)
	if s, err = blob.OpenDisk(dir); err != nil {
		t.Fatal(err)
	}
	if all, err := s.List(); err != nil || len(all) != 1 || all[0].Digest != d {
		t.Fatal(all, err)
	}
	if staged, _ := os.ReadDir(filepath.Join(dir, "staging")); len(staged) != 0 {
		t.Fatal("staged bytes survive")
	}
}

func TestConcurrent(t *testing.T) {
	stores(t, func(t *testing.T, s blob.Store) {
		var wg sync.WaitGroup
		for g := 0; g < 8; g++ {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for i := 0; i < 20; i++ {
					raw := content(100 + i) // the same blobs from everybody
					d, _, err := s.Put(context.Background(), bytes.NewReader(raw), 1000)
					if err != nil {
						t.Error(err)
						return
					}
					if f, _, err := s.Open(d); err == nil {
						f.Close()
					} else {
						t.Error(err)
					}
					s.List()
				}
			}()
		}
		wg.Wait()
		if bad, err := s.Scrub(context.Background()); err != nil || len(bad) != 0 {
			t.Fatal(bad, err)
		}
	})
}
