package coordinator

import (
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"consilium/internal/durable"
)

// firmLog is Raft's log and votes on a disk. After the first write that fails it takes
// no more, and the node ends: what is on the disk is known again only when it is
// opened, and a node that can neither vote nor store should not look like a member.
type firmLog struct {
	*raftboltdb.BoltStore
	fatal func(error)

	mu  sync.Mutex
	bad error
}

func (l *firmLog) write(f func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bad != nil {
		return l.bad
	}
	if err := durable.Full(f()); err != nil {
		l.bad = err
		l.fatal(err)
	}
	return l.bad
}

// StoreLog implements raft.LogStore.
func (l *firmLog) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs implements raft.LogStore.
func (l *firmLog) StoreLogs(e []*raft.Log) error {
	return l.write(func() error { return l.BoltStore.StoreLogs(e) })
}

// DeleteRange implements raft.LogStore.
func (l *firmLog) DeleteRange(min, max uint64) error {
	return l.write(func() error { return l.BoltStore.DeleteRange(min, max) })
}

// Set implements raft.StableStore.
func (l *firmLog) Set(key, value []byte) error {
	return l.write(func() error { return l.BoltStore.Set(key, value) })
}

// SetUint64 implements raft.StableStore. Raft panics when it cannot store its term
// (raft v1.8.0, setCurrentTerm), where this node shall end with the reason. To be
// silent about it promises nothing: a vote, and an entry, in that term would have to
// be stored here too, and nothing is any more.
func (l *firmLog) SetUint64(key []byte, value uint64) error {
	err := l.write(func() error { return l.BoltStore.SetUint64(key, value) })
	if string(key) == "CurrentTerm" {
		return nil
	}
	return err
}

// snapshotStore keeps no half of a snapshot. In raft v1.8.0 one that fails for want of
// room stays in the directory (FileSnapshotSink.Cancel flushes what it will throw away,
// and leaves when that fails), and with each further try a disk that is nearly full
// has less room.
type snapshotStore struct {
	raft.SnapshotStore
	dir string

	mu   sync.Mutex // guards open, and whether a directory is named in it
	open map[string]bool
}

// halfSnapshot ends the name of the directory of a snapshot that is not whole.
const halfSnapshot = ".tmp"

// sweep removes what nobody is writing. What cannot be removed wastes space and
// harms nothing.
func (s *snapshotStore) sweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweepLocked()
}

func (s *snapshotStore) sweepLocked() {
	list, err := os.ReadDir(s.dir)
	if err != nil {
		return
	}
	for _, e := range list {
		id, half := strings.CutSuffix(e.Name(), halfSnapshot)
		if !half || !e.IsDir() || s.open[id] {
			continue
		}
		path := filepath.Join(s.dir, e.Name())
		// Its file may be open still, and would keep its bytes.
		os.Truncate(filepath.Join(path, "state.bin"), 0)
		os.RemoveAll(path)
	}
}

// Create implements raft.SnapshotStore.
func (s *snapshotStore) Create(version raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sink, err := s.SnapshotStore.Create(version, index, term, conf, confIndex, trans)
	if err != nil {
		s.sweepLocked()
		return nil, durable.Full(err)
	}
	s.open[sink.ID()] = true
	return &snapshotSink{sink, s}, nil
}

type snapshotSink struct {
	raft.SnapshotSink
	s *snapshotStore
}

func (k *snapshotSink) ended(err error) error {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	delete(k.s.open, k.ID())
	k.s.sweepLocked()
	return durable.Full(err)
}

// Close implements raft.SnapshotSink.
func (k *snapshotSink) Close() error { return k.ended(k.SnapshotSink.Close()) }

// Cancel implements raft.SnapshotSink.
func (k *snapshotSink) Cancel() error { return k.ended(k.SnapshotSink.Cancel()) }
