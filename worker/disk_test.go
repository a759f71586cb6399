package worker_test

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"consilium"
	"consilium/internal/durable"
)

// fullSpool is a disk that has no space for a contribution, at first.
type fullSpool struct {
	durable.FS
	mu      sync.Mutex
	refuses int
	refused chan struct{} // closed when it has refused as often
}

func (d *fullSpool) OpenFile(name string, flag int, perm fs.FileMode) (durable.File, error) {
	f, err := d.FS.OpenFile(name, flag, perm)
	if err != nil || !strings.Contains(name, string(filepath.Separator)+"spool"+string(filepath.Separator)) {
		return f, err
	}
	return &fullFile{f, d}, nil
}

type fullFile struct {
	durable.File
	disk *fullSpool
}

func (f *fullFile) Write(b []byte) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.disk.refuses == 0 {
		return f.File.Write(b)
	}
	if f.disk.refuses--; f.disk.refuses == 0 {
		close(f.disk.refused)
	}
	n, _ := f.File.Write(b[:len(b)/2])
	return n, syscall.ENOSPC
}

// TestFullSpool: a hospital whose disk has no room for its contribution stops, says
// so, and leaves nothing: started again with room, it ends the study with all.
func TestFullSpool(t *testing.T) {
	h, ctx := start(t, needed)
	disk := &fullSpool{FS: durable.OS, refuses: 1, refused: make(chan struct{})}
	h.Disk(victim, disk)
	must(t, h.StartAll())
	id := submit(t, h, rounds, "")
	select {
	case <-disk.refused:
	case <-ctx.Done():
		t.Fatal("nothing was spooled")
	}
	must(t, h.Ended(ctx, victim))
	if err := h.Stop(victim); !errors.Is(err, consilium.ErrDiskFull) {
		t.Errorf("the gate ended with %v", err)
	}
	must(t, h.Start(victim))
	done(t, ctx, h, id)
	onePromise(t, h)
	for _, p := range h.Posts() {
		if p.Message.Kind == consilium.KindWithdraw {
			t.Errorf("%s left the study", p.Site)
		}
	}
}
