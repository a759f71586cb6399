package coordinator

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"consilium"
	"consilium/policy"
)

// fill makes every further write to the open files for which is holds fail with "no
// space left", until undo. The files are those that the code under test opened: their
// descriptors are led to /dev/full.
func fill(t *testing.T, is func(path string) bool) (undo func()) {
	t.Helper()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	kept := map[int]int{}
	for _, e := range list {
		path, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name()))
		fd, nerr := strconv.Atoi(e.Name())
		if err != nil || nerr != nil || !is(path) {
			continue
		}
		old, err := syscall.Dup(fd)
		if err != nil {
			t.Fatal(err)
		}
		kept[fd] = old
		if err := syscall.Dup3(int(full.Fd()), fd, syscall.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
	}
	if len(kept) == 0 {
		t.Fatal("no such file is open")
	}
	return func() {
		for fd, old := range kept {
			if path, err := os.Readlink(filepath.Join("/proc/self/fd", strconv.Itoa(fd))); err == nil && path == "/dev/full" {
				syscall.Dup3(old, fd, syscall.O_CLOEXEC)
			}
			syscall.Close(old)
		}
	}
}

// TestAdmissionAfterFullDisk: a decision that could not be logged is none, and the
// next one is logged, in the same process, once there is room.
func TestAdmissionAfterFullDisk(t *testing.T) {
	req, find := admissible(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "decisions.jsonl")
	log := NewDecisions(dir, []byte("the node's secret"))
	t.Cleanup(func() { log.Close() })
	admit := func() (bool, error) {
		allow, _, err := PolicyAdmission("c1", find, log, time.Now)(t.Context(), req)
		return allow, err
	}
	if allow, err := admit(); err != nil || !allow {
		t.Fatal(err)
	}
	undo := fill(t, func(p string) bool { return p == path })
	if allow, err := admit(); !errors.Is(err, syscall.ENOSPC) || allow {
		t.Fatalf("a full disk: %t, %v", allow, err)
	}
	undo()
	// What got onto the disk of the record that failed.
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"seq":2,"prev":"`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if allow, err := admit(); err != nil || !allow {
		t.Fatalf("there is room again: %t, %v", allow, err)
	}
	if f, err = os.Open(path); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, n, err := policy.VerifyAudit(f); err != nil || n != 2 {
		t.Errorf("%d decisions: %v", n, err)
	}
}

// TestSnapshotWithoutRoom: a snapshot that does not fit leaves nothing behind, and
// what a crash left of one goes at the next start. The naive twin, Raft's own store,
// keeps every half.
func TestSnapshotWithoutRoom(t *testing.T) {
	state := bytes.Repeat([]byte("state"), 1<<18)
	persist := func(store raft.SnapshotStore) (raft.SnapshotSink, error) {
		sink, err := store.Create(1, 10, 2, raft.Configuration{}, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		return sink, (&nodeSnapshot{state: state}).Persist(sink)
	}
	halves := func(dir string) (n int) {
		list, err := os.ReadDir(filepath.Join(dir, "snapshots"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if strings.HasSuffix(e.Name(), halfSnapshot) {
				n++
			}
		}
		return n
	}
	full := func(dir string, store raft.SnapshotStore) {
		t.Helper()
		sink, err := store.Create(1, 10, 2, raft.Configuration{}, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer fill(t, func(p string) bool { return strings.HasPrefix(p, dir) && strings.HasSuffix(p, "state.bin") })()
		if err := (&nodeSnapshot{state: state}).Persist(sink); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("a full disk: %v", err)
		}
	}
	dir := t.TempDir()
	open := func() *raftStores {
		s, err := openRaftStores(dir, &Config{Logger: slog.New(slog.DiscardHandler)}, func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	other, err := s.snaps.Create(1, 9, 2, raft.Configuration{}, 1, nil) // one that comes from a leader meanwhile
	if err != nil {
		t.Fatal(err)
	}
	full(dir, s.snaps)
	if n := halves(dir); n != 1 {
		t.Errorf("%d halves beside one that is being written", n-1)
	}
	if _, err := other.Write(state); err != nil {
		t.Fatal(err)
	}
	if err := other.Close(); err != nil {
		t.Errorf("the other one: %v", err)
	}
	if _, err := persist(s.snaps); err != nil {
		t.Errorf("there is room again: %v", err)
	}
	if _, err := s.snaps.Create(1, 11, 2, raft.Configuration{}, 1, nil); err != nil { // a crash
		t.Fatal(err)
	}
	s.close()
	s = open()
	t.Cleanup(func() { s.close() })
	if n := halves(dir); n != 0 {
		t.Errorf("%d halves after a start", n)
	}
	if list, err := s.snaps.List(); err != nil || len(list) != 2 {
		t.Errorf("%d whole ones: %v", len(list), err)
	}

	twin := t.TempDir()
	naive, err := raft.NewFileSnapshotStore(twin, 2, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	full(twin, naive)
	if n := halves(twin); n != 1 {
		t.Errorf("the naive twin keeps %d", n)
	}
}

// TestLogWithoutRoom: a leader that cannot write its log ends with the reason, and
// after it has come back nothing that was acknowledged is missing.
func TestLogWithoutRoom(t *testing.T) {
	c := newCluster(t, 3, 3, false, false)
	ctx := limit(t, 5*time.Minute)
	c.runAll()
	one := c.proposal("one")
	c.submit(ctx, one)
	n := c.leader(ctx)
	undo := fill(t, func(p string) bool { return strings.HasPrefix(p, c.dirs[n.ID()]) && filepath.Base(p) == "raft.db" })
	two := c.proposal("two")
	c.submit(ctx, two)
	select {
	case err := <-c.ended[n.ID()]:
		if !errors.Is(err, consilium.ErrDiskFull) {
			t.Errorf("it ended with %v", err)
		}
	case <-ctx.Done():
		t.Fatal("it goes on without a log")
	}
	undo()
	c.mu.Lock()
	delete(c.nodes, n.ID())
	c.mu.Unlock()
	c.run(n.ID())
	events := c.settle(ctx, 6)
	c.take(ctx, two, 1, nil)
	c.settle(ctx, len(events))
}
