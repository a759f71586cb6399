package coordinator

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"consilium/internal/durable"
)

// simFiles is a machine's disk in memory. What was written stays when the machine
// dies; who wants less than that tears it off.
type simFiles struct {
	mu    sync.Mutex
	files map[string]*simInode
}

// simInode is a file's bytes, whatever its name is by now.
type simInode struct {
	mu sync.Mutex
	b  []byte
}

var _ durable.FS = (*simFiles)(nil)

// OpenFile implements durable.FS.
func (d *simFiles) OpenFile(name string, flag int, _ fs.FileMode) (durable.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	node := d.files[name]
	switch {
	case node != nil && flag&(os.O_CREATE|os.O_EXCL) == os.O_CREATE|os.O_EXCL:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrExist}
	case node == nil && flag&os.O_CREATE == 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	case node == nil:
		node = &simInode{}
		if d.files == nil {
			d.files = map[string]*simInode{}
		}
		d.files[name] = node
	case flag&os.O_TRUNC != 0:
		node.truncate(0)
	}
	return &simHandle{simInode: node, name: name}, nil
}

// Rename implements durable.FS.
func (d *simFiles) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	node := d.files[from]
	if node == nil {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	delete(d.files, from)
	d.files[to] = node
	return nil
}

// Remove implements durable.FS.
func (d *simFiles) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.files[name] == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	delete(d.files, name)
	return nil
}

// SyncDir implements durable.FS.
func (d *simFiles) SyncDir(string) error { return nil }

// tear cuts the last bytes off a file.
func (d *simFiles) tear(name string, bytes int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if node := d.files[name]; node != nil {
		node.mu.Lock()
		size := len(node.b)
		node.mu.Unlock()
		node.truncate(int64(max(size-bytes, 0)))
	}
}

func (n *simInode) truncate(size int64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if have := int64(len(n.b)); size <= have {
		n.b = n.b[:size:size] // what is written next does not show in what was read
	} else {
		n.b = append(n.b, make([]byte, size-have)...)
	}
	return nil
}

// simHandle is one opening of a file.
type simHandle struct {
	*simInode
	name   string
	offset int64
	closed bool
}

func (h *simHandle) ReadAt(b []byte, off int64) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return 0, fs.ErrClosed
	}
	if off >= int64(len(h.b)) {
		return 0, io.EOF
	}
	n := copy(b, h.b[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (h *simHandle) Read(b []byte) (int, error) {
	n, err := h.ReadAt(b, h.offset)
	h.offset += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

func (h *simHandle) WriteAt(b []byte, off int64) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return 0, fs.ErrClosed
	}
	if end := off + int64(len(b)); end > int64(len(h.b)) {
		h.b = slices.Grow(h.b, int(end)-len(h.b))[:end]
	}
	return copy(h.b[off:], b), nil
}

func (h *simHandle) Write(b []byte) (int, error) {
	n, err := h.WriteAt(b, h.offset)
	h.offset += int64(n)
	return n, err
}

func (h *simHandle) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += h.offset
	case io.SeekEnd:
		h.mu.Lock()
		offset += int64(len(h.b))
		h.mu.Unlock()
	}
	if offset < 0 {
		return 0, errors.New("seek before the beginning")
	}
	h.offset = offset
	return offset, nil
}

func (h *simHandle) Truncate(size int64) error { return h.truncate(size) }
func (h *simHandle) Sync() error               { return nil }

func (h *simHandle) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return fs.ErrClosed
	}
	h.closed = true
	return nil
}

func (h *simHandle) Stat() (fs.FileInfo, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return simInfo{filepath.Base(h.name), int64(len(h.b))}, nil
}

type simInfo struct {
	name string
	size int64
}

func (i simInfo) Name() string       { return i.name }
func (i simInfo) Size() int64        { return i.size }
func (i simInfo) Mode() fs.FileMode  { return 0o600 }
func (i simInfo) ModTime() time.Time { return time.Time{} }
func (i simInfo) IsDir() bool        { return false }
func (i simInfo) Sys() any           { return nil }

// TestSimFiles holds the disk in memory against the machine's: any sequence of
// calls has the same results.
func TestSimFiles(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	script := func(d durable.FS) (out []any) {
		note := func(v ...any) {
			for i := range v {
				if err, ok := v[i].(error); ok {
					for _, known := range []error{fs.ErrNotExist, fs.ErrExist, fs.ErrClosed, io.EOF} {
						if errors.Is(err, known) {
							v[i] = known
						}
					}
				}
			}
			out = append(out, v...)
		}
		open := func(name string, flag int) durable.File {
			f, err := d.OpenFile(name, flag, 0o600)
			note(err)
			return f
		}
		read := func(f durable.File, n int, off int64) {
			buf := make([]byte, n)
			got, err := f.ReadAt(buf, off)
			note(string(buf[:got]), err)
		}
		open(a, os.O_RDWR)
		note(d.Rename(a, b), d.Remove(a))
		f := open(a, os.O_RDWR|os.O_CREATE)
		open(a, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
		n, err := f.Write([]byte("hello"))
		note(n, err)
		n, err = f.Write([]byte(", world"))
		note(n, err)
		read(f, 5, 7)
		read(f, 50, 7)
		read(f, 5, 70)
		n, err = f.WriteAt([]byte("W"), 7)
		note(n, err)
		n, err = f.WriteAt([]byte("far"), 20) // a hole is zeros
		note(n, err)
		read(f, 50, 0)
		note(f.Truncate(5), f.Truncate(8))
		read(f, 50, 0)
		at, err := f.Seek(-6, io.SeekEnd)
		note(at, err)
		all, err := io.ReadAll(f)
		note(string(all), err)
		at, err = f.Seek(-1, io.SeekCurrent)
		note(at, err)
		info, err := f.Stat()
		note(info.Size(), info.Name(), err)
		note(d.Rename(a, b), d.SyncDir(dir))
		n, err = f.WriteAt([]byte("J"), 0) // under its new name
		note(n, err, f.Sync(), f.Close(), f.Close())
		g := open(b, os.O_RDWR)
		read(g, 8, 0)
		note(g.Close())
		g = open(b, os.O_RDWR|os.O_TRUNC)
		read(g, 8, 0)
		note(g.Close(), d.Remove(b), d.Remove(b))
		return out
	}
	want, have := script(durable.OS), script(&simFiles{})
	for i := range max(len(want), len(have)) {
		if i >= len(want) || i >= len(have) || want[i] != have[i] {
			t.Fatalf("call %d of %d and %d: the machine's disk says %v, the one in memory %v", i, len(want), len(have), want[i:min(i+1, len(want))], have[i:min(i+1, len(have))])
		}
	}
	d := &simFiles{}
	f, _ := d.OpenFile(a, os.O_RDWR|os.O_CREATE, 0o600)
	f.Write([]byte("12345"))
	d.tear(a, 2)
	if left, _ := io.ReadAll(io.NewSectionReader(f, 0, 9)); string(left) != "123" {
		t.Errorf("of 12345, two bytes torn off, is left %s", left)
	}
	d.tear(a, 9)
	d.tear(b, 1)
}
