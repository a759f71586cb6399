package coordinator

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"consilium"
	"consilium/internal/durable"
)

// raftStores are Raft's log, votes and snapshots.
type raftStores struct {
	log    raft.LogStore
	stable raft.StableStore
	snaps  raft.SnapshotStore
	close  func() error
}

// openRaftStores opens them under dir, or in memory if dir is "". fatal ends the node.
func openRaftStores(dir string, c *Config, fatal func(error)) (*raftStores, error) {
	if dir == "" {
		m := raft.NewInmemStore()
		return &raftStores{log: m, stable: m, snaps: raft.NewInmemSnapshotStore(), close: func() error { return nil }}, nil
	}
	logDir := filepath.Join(dir, "log")
	if err := os.MkdirAll(logDir, 0o700); err != nil {
		return nil, durable.Full(err)
	}
	// One B+tree file, fsynced at every append. A federation's log is small:
	// ciphertexts stay out of it.
	w, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(logDir, "raft.db"), BoltOptions: &bbolt.Options{Timeout: 10 * time.Second, FreelistType: bbolt.FreelistMapType}})
	if err != nil {
		return nil, fmt.Errorf("raft log in %s: %w", logDir, durable.Full(err))
	}
	shut := w.Close
	firm := &firmLog{BoltStore: w, fatal: fatal}
	cache, err := raft.NewLogCache(256, firm)
	if err != nil {
		shut()
		return nil, err
	}
	snaps := &snapshotStore{dir: filepath.Join(dir, "snapshots"), open: map[string]bool{}}
	snaps.sweep() // what a crash left; before anything asks for room
	if snaps.SnapshotStore, err = raft.NewFileSnapshotStoreWithLogger(dir, 2, raftLogger(c.Logger)); err != nil {
		shut()
		return nil, fmt.Errorf("raft snapshots in %s: %w", dir, durable.Full(err))
	}
	return &raftStores{log: cache, stable: firm, snaps: snaps, close: shut}, nil
}

// eventLog keeps the federation's events by sequence number, for those who
// follow and for the audit log. It is written only from the replicated log, so
// it is a cache of it that outlives the log's truncation: snapshots carry it.
//
// Appending is idempotent by sequence number. A replay after a restart writes
// again what is there; other bytes under the same number are an error that
// stops the node.
type eventLog struct {
	mu      sync.RWMutex
	file    durable.File // nil in memory
	size    int64        // of the file
	entries []eventEntry
	recent  int           // first entry whose bytes are kept beside the file
	kept    int           // bytes of those that are
	grown   chan struct{} // closed and replaced when entries are added
}

type eventEntry struct {
	offset int64 // of the encoded event in the file
	length uint32
	study  consilium.StudyID
	kind   consilium.EventKind
	bytes  []byte // in memory always, else of the latest events only
}

// A record of the file is the event's length, a CRC-32C of its bytes, and the
// bytes.
const eventHeader = 8

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openEvents opens the file at path, cutting off a torn last record: the
// replicated log writes it again. path "" keeps events in memory.
func openEvents(fsys durable.FS, path string) (*eventLog, error) {
	l := &eventLog{grown: make(chan struct{})}
	if path == "" {
		return l, nil
	}
	f, err := fsys.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, durable.Full(err)
	}
	l.file = f
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("events in %s: %w", path, err)
	}
	r := bufio.NewReaderSize(f, int(min(info.Size(), 1<<20)))
	var head [eventHeader]byte
	for {
		b, err := readEvent(r, &head)
		if err != nil {
			break // torn or absent; what follows is not in order any more
		}
		ev, err := consilium.ParseEvent(b)
		if err != nil || ev.Seq != uint64(len(l.entries)) {
			break
		}
		l.add(ev, l.size+eventHeader, b)
		l.size += eventHeader + int64(len(b))
	}
	if err := f.Truncate(l.size); err != nil {
		f.Close()
		return nil, fmt.Errorf("events in %s: %w", path, durable.Full(err))
	}
	return l, nil
}

var errTorn = errors.New("torn event record")

func readEvent(r io.Reader, head *[eventHeader]byte) ([]byte, error) {
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:4])
	if n > consilium.MaxEventSize {
		return nil, errTorn
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	if crc32.Checksum(b, castagnoli) != binary.BigEndian.Uint32(head[4:]) {
		return nil, errTorn
	}
	return b, nil
}

func (l *eventLog) add(ev *consilium.Event, offset int64, b []byte) {
	e := eventEntry{offset: offset, length: uint32(len(b)), study: ev.Study, kind: ev.Kind}
	if n := len(l.entries); n > 0 && l.entries[n-1].study == ev.Study {
		e.study = l.entries[n-1].study // one string for a run of events
	}
	e.bytes = b
	l.entries = append(l.entries, e)
	if l.file == nil {
		return
	}
	for l.kept += len(b); l.kept > keepRecent; l.recent++ {
		l.kept -= len(l.entries[l.recent].bytes)
		l.entries[l.recent].bytes = nil
	}
}

// keepRecent is how many bytes of the latest events stay in memory: every
// hospital follows the log, and most are at its end.
const keepRecent = 8 << 20

// append adds events in sequence. Those already there are compared.
func (l *eventLog) append(events []consilium.Event) error {
	if len(events) == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	grew := false
	for i := range events {
		ev := &events[i]
		b := ev.Encode()
		switch n := uint64(len(l.entries)); {
		case ev.Seq < n:
			have, err := l.readLocked(ev.Seq)
			if err != nil {
				return err
			}
			if !bytes.Equal(have, b) {
				return fmt.Errorf("event %d differs from the one recorded before", ev.Seq)
			}
			continue
		case ev.Seq > n:
			return fmt.Errorf("event %d after %d events", ev.Seq, n)
		}
		if l.file != nil {
			rec := make([]byte, eventHeader, eventHeader+len(b))
			binary.BigEndian.PutUint32(rec[:4], uint32(len(b)))
			binary.BigEndian.PutUint32(rec[4:], crc32.Checksum(b, castagnoli))
			if _, err := l.file.WriteAt(append(rec, b...), l.size); err != nil {
				return fmt.Errorf("record event %d: %w", ev.Seq, durable.Full(err))
			}
		}
		l.add(ev, l.size+eventHeader, b)
		l.size += eventHeader + int64(len(b))
		grew = true
	}
	if grew {
		close(l.grown)
		l.grown = make(chan struct{})
	}
	return nil
}

// len is the number of events; the channel is closed once there are more.
func (l *eventLog) len() (uint64, <-chan struct{}) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return uint64(len(l.entries)), l.grown
}

// at says of which study and kind event seq is.
func (l *eventLog) at(seq uint64) (consilium.StudyID, consilium.EventKind) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.entries[seq].study, l.entries[seq].kind
}

// read returns the encoded event seq.
func (l *eventLog) read(seq uint64) ([]byte, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.readLocked(seq)
}

func (l *eventLog) readLocked(seq uint64) ([]byte, error) {
	if seq >= uint64(len(l.entries)) {
		return nil, consilium.ErrInvalid.Withf("event %d of %d", seq, len(l.entries))
	}
	e := &l.entries[seq]
	if e.bytes != nil {
		return e.bytes, nil
	}
	b := make([]byte, e.length)
	if _, err := l.file.ReadAt(b, e.offset); err != nil {
		return nil, fmt.Errorf("read event %d: %w", seq, err)
	}
	return b, nil
}

// encoded returns event seq as it was recorded, shared with all who ask. What
// comes from the disk is checked for its form.
func (l *eventLog) encoded(seq uint64) ([]byte, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	b, err := l.readLocked(seq)
	if err != nil || l.entries[seq].bytes != nil {
		return b, err
	}
	if _, err := consilium.ParseEvent(b); err != nil {
		return nil, fmt.Errorf("event %d on disk: %w", seq, err)
	}
	return b, nil
}

func (l *eventLog) close() error {
	if l.file == nil {
		return nil
	}
	return errors.Join(l.file.Sync(), l.file.Close())
}
