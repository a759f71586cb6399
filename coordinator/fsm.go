package coordinator

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"consilium"
	"consilium/internal/blob"
)

// fsm adapts the pure state machine to Raft: it decodes, applies, records the
// events and tells who waits. It decides nothing.
type fsm struct {
	log    *slog.Logger
	events *eventLog
	blobs  blob.Store
	fatal  func(error) // stops the node: its state is unknown from here on

	applied  atomic.Uint64 // last raft index handled
	rejected *counts       // rejections by code

	mu      sync.RWMutex // guards the fields below
	state   *State
	broken  error         // set once: nothing is applied any more
	changed chan struct{} // closed and replaced after every accepted command
}

func newFSM(events *eventLog, blobs blob.Store, log *slog.Logger, fatal func(error)) *fsm {
	return &fsm{log: log, events: events, blobs: blobs, fatal: fatal, state: NewState(), changed: make(chan struct{}), rejected: newCounts()}
}

// Apply is called by Raft, once for each committed entry in order. Its answer
// is nil, a *Rejection, or an error if this node cannot go on.
func (f *fsm) Apply(l *raft.Log) any {
	if l.Type != raft.LogCommand {
		return nil
	}
	cmd, err := DecodeCommand(l.Data)
	if err != nil {
		// Every node would fail alike: the entry was committed by software that
		// this one does not understand.
		return f.breakDown(fmt.Errorf("entry %d of the replicated log: %w", l.Index, err))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil {
		return f.broken
	}
	events, rejection := f.state.Apply(l.Index, cmd)
	f.applied.Store(l.Index)
	if rejection != nil {
		f.rejected.add(string(rejection.Err.Code))
		f.log.Info("rejected", "index", l.Index, "op", fmt.Sprintf("%T", cmd.Op), "code", string(rejection.Err.Code), "error", rejection.Error())
		return rejection
	}
	known, _ := f.events.len() // a replay after a restart logs nothing twice
	// If we crash here, the entry is replayed and its events are written then.
	if err := f.events.append(events); err != nil {
		return f.breakDownLocked(err)
	}
	if c, ok := cmd.Op.(*Collect); ok {
		f.collect(c.Blobs)
	}
	for i := range events {
		ev := &events[i]
		if ev.Seq < known {
			continue
		}
		level := slog.LevelInfo
		if ev.Kind == consilium.EventMessage {
			level = slog.LevelDebug
		}
		f.log.Log(context.Background(), level, "event", "seq", ev.Seq, "study", string(ev.Study), "kind", ev.Kind.String())
	}
	close(f.changed)
	f.changed = make(chan struct{})
	return nil
}

// collect deletes blobs that no live study needs. What cannot be deleted
// wastes space and harms nothing.
func (f *fsm) collect(blobs []consilium.Digest) {
	for _, d := range blobs {
		if err := f.blobs.Delete(d); err != nil {
			f.log.Warn("blob stays", "blob", d.Short(), "error", err)
		}
	}
}

func (f *fsm) breakDown(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.breakDownLocked(err)
}

func (f *fsm) breakDownLocked(err error) error {
	if f.broken == nil {
		f.broken = err
		f.fatal(err)
	}
	return f.broken
}

// read runs fn on the state while nothing is applied.
func (f *fsm) read(fn func(*State)) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	fn(f.state)
}

// watch returns a channel that is closed after the next accepted command.
func (f *fsm) watch() <-chan struct{} {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.changed
}

// A node snapshot is its magic, the state's snapshot preceded by its length in
// eight bytes, and the events from the first, each preceded by its length in
// four. The state says how many there are.
const nodeSnapshotMagic = "consilium coordinator node 1\x00"

type nodeSnapshot struct {
	state  []byte
	count  uint64
	events *eventLog
}

// Snapshot is called by Raft between two Apply calls. It excludes readers too:
// the state's encoder walks the same code as its decoder and stores every value
// that it reads.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil {
		return nil, f.broken
	}
	return &nodeSnapshot{state: f.state.Snapshot(), count: f.state.NextSeq(), events: f.events}, nil
}

func (s *nodeSnapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.write(sink); err != nil {
		sink.Cancel()
		return fmt.Errorf("snapshot: %w", err)
	}
	return sink.Close()
}

func (s *nodeSnapshot) write(w io.Writer) error {
	b := bufio.NewWriterSize(w, 1<<18)
	b.WriteString(nodeSnapshotMagic)
	b.Write(binary.BigEndian.AppendUint64(nil, uint64(len(s.state))))
	b.Write(s.state)
	for seq := range s.count {
		ev, err := s.events.read(seq)
		if err != nil {
			return err
		}
		b.Write(binary.BigEndian.AppendUint32(nil, uint32(len(ev))))
		if _, err := b.Write(ev); err != nil {
			return err
		}
	}
	return b.Flush()
}

func (s *nodeSnapshot) Release() {}

// maxStateSize bounds the state within a snapshot.
const maxStateSize = 1 << 32

// Restore is called by Raft at start and when the leader sends a snapshot.
func (f *fsm) Restore(rc io.ReadCloser) error {
	defer rc.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.restore(bufio.NewReaderSize(rc, 1<<18)); err != nil {
		return f.breakDownLocked(fmt.Errorf("restore: %w", err))
	}
	close(f.changed)
	f.changed = make(chan struct{})
	return nil
}

func (f *fsm) restore(r io.Reader) error {
	head := make([]byte, len(nodeSnapshotMagic)+8)
	if _, err := io.ReadFull(r, head); err != nil {
		return err
	}
	if string(head[:len(nodeSnapshotMagic)]) != nodeSnapshotMagic {
		return errors.New("these bytes are not a node's snapshot")
	}
	size := binary.BigEndian.Uint64(head[len(nodeSnapshotMagic):])
	if size > maxStateSize {
		return fmt.Errorf("a state of %d bytes", size)
	}
	b, err := io.ReadAll(io.LimitReader(r, int64(size)))
	if err != nil {
		return err
	}
	if uint64(len(b)) != size {
		return io.ErrUnexpectedEOF
	}
	state, err := Restore(b)
	if err != nil {
		return err
	}
	for seq := range state.NextSeq() {
		var n [4]byte
		if _, err := io.ReadFull(r, n[:]); err != nil {
			return fmt.Errorf("event %d: %w", seq, err)
		}
		length := binary.BigEndian.Uint32(n[:])
		if length > consilium.MaxEventSize {
			return fmt.Errorf("event %d of %d bytes", seq, length)
		}
		eb := make([]byte, length)
		if _, err := io.ReadFull(r, eb); err != nil {
			return fmt.Errorf("event %d: %w", seq, err)
		}
		ev, err := consilium.ParseEvent(eb)
		if err != nil {
			return err
		}
		if ev.Seq != seq {
			return fmt.Errorf("event %d at place %d", ev.Seq, seq)
		}
		if err := f.events.append([]consilium.Event{*ev}); err != nil {
			return err
		}
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return errors.New("bytes after the last event")
	}
	f.state = state
	f.applied.Store(max(f.applied.Load(), state.index)) // or a node that came by a snapshot would seem to have nothing
	return nil
}

// counts counts by name.
type counts struct {
	mu sync.Mutex
	m  map[string]uint64
}

func newCounts() *counts { return &counts{m: map[string]uint64{}} }

func (c *counts) add(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m[name]++
}

func (c *counts) each(f func(string, uint64)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, v := range c.m {
		f(k, v)
	}
}
