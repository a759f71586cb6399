package coordinator

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"consilium"
)

// simLog is a replicated log in memory with the faults of a real one and
// without its time: terms and votes (Raft §5.2), appending with truncation of
// conflicts (§5.3), commitment only through an entry of the own term (§5.4.2),
// snapshots (§7), reads that ask a majority first (§8), and changes of members one
// at a time (sim_members_test.go). What happens next is the scheduler's choice, one
// step at a time.
type simLog struct {
	mu    sync.Mutex
	order []consilium.NodeID // every machine that there is
	disks map[consilium.NodeID]*simDisk
	up    map[consilium.NodeID]*simRaft
	cut   func(a, b consilium.NodeID) bool // whether a cannot reach b
	bad   func(error)                      // reports what a log may never do
	since time.Time                        // when a majority last had a leader; the scheduler's
}

// simDisk is what a node keeps through a crash.
type simDisk struct {
	term  uint64
	voted consilium.NodeID
	base  uint64 // entries up to it are in the snapshot
	baseT uint64 // term of the entry at base
	log   []simEntry
	snap  []byte
	fail  diskFault // of the next write
	confs []simConf // of the snapshot, if there is one, and of the entries after it
}

type simEntry struct {
	term uint64
	kind raft.LogType
	data []byte
	conf []raft.Server // of a LogConfiguration
}

// diskFault says what the next write to a disk does.
type diskFault uint8

const (
	diskFine diskFault = iota
	diskLost           // an error, and nothing was written
	diskKept           // an error, and everything was written
)

var errSimDisk = errors.New("input/output error")

func (d *simDisk) last() uint64 { return d.base + uint64(len(d.log)) }

func (d *simDisk) termAt(i uint64) uint64 {
	switch {
	case i == 0:
		return 0
	case i == d.base:
		return d.baseT
	}
	return d.log[i-d.base-1].term
}

// write appends entries, unless the disk fails.
func (d *simDisk) write(entries ...simEntry) error {
	fault := d.fail
	d.fail = diskFine
	if fault != diskLost {
		d.append(entries...)
	}
	if fault != diskFine {
		return errSimDisk
	}
	return nil
}

// simRaft is one running node's view of the log. simLog.mu guards it.
type simRaft struct {
	c        *simLog
	id       consilium.NodeID
	self     raft.ServerID
	disk     *simDisk
	node     *Node
	role     raft.RaftState
	leader   consilium.NodeID
	commit   uint64
	applied  uint64
	watched  uint64 // the scheduler has looked at what was applied up to it
	match    map[consilium.NodeID]uint64
	told     map[consilium.NodeID]uint64 // the commit index that each follower knows
	futures  map[uint64]*simFuture
	verifies []*simVerify
	notify   chan bool
}

type simVerify struct {
	*simFuture
	yes map[consilium.NodeID]bool
}

var _ consensus = (*simRaft)(nil)

type simFuture struct {
	done  chan struct{}
	err   error
	index uint64
	resp  any
}

func newSimFuture() *simFuture { return &simFuture{done: make(chan struct{})} }

func failed(err error) *simFuture {
	f := newSimFuture()
	f.resolve(nil, err)
	return f
}

func (f *simFuture) resolve(resp any, err error) {
	f.resp, f.err = resp, err
	close(f.done)
}

func (f *simFuture) Error() error  { <-f.done; return f.err }
func (f *simFuture) Index() uint64 { return f.index }
func (f *simFuture) Response() any { return f.resp }
func (f *simFuture) Open() (*raft.SnapshotMeta, io.ReadCloser, error) {
	return nil, nil, errors.New("not kept")
}

type simConfiguration struct {
	*simFuture
	conf raft.Configuration
}

func (f simConfiguration) Configuration() raft.Configuration { return f.conf }

// start runs a node's part of the log from its disk.
func (c *simLog) start(id consilium.NodeID, n *Node) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.disks[id]
	r := &simRaft{c: c, id: id, self: n.self, disk: d, node: n, commit: d.base, applied: d.base, futures: map[uint64]*simFuture{}, notify: make(chan bool, 1)}
	if d.snap != nil {
		if err := n.fsm.Restore(io.NopCloser(bytes.NewReader(d.snap))); err != nil {
			return err
		}
	}
	c.up[id] = r
	n.setRaft(r)
	return nil
}

// crash ends a node's part. Whoever waits for it learns nothing.
func (c *simLog) crash(id consilium.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.up[id]
	if r == nil {
		return // it was waiting to be added
	}
	delete(c.up, id)
	r.role = raft.Shutdown
	r.fail(raft.ErrRaftShutdown)
}

func (r *simRaft) fail(err error) {
	for _, i := range sortedKeys(r.futures) {
		r.futures[i].resolve(nil, err)
	}
	clear(r.futures)
	for _, v := range r.verifies {
		v.resolve(nil, err)
	}
	r.verifies = nil
}

func sortedKeys[K uint64 | string | consilium.NodeID, V any](m map[K]V) []K {
	out := make([]K, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func (r *simRaft) tell(leads bool) {
	select { // the last word counts, as in raft
	case r.notify <- leads:
	default:
		select {
		case <-r.notify:
		default:
		}
		r.notify <- leads
	}
}

// follow puts r under a term's leader, if it is known.
func (r *simRaft) follow(term uint64, leader consilium.NodeID) {
	if term > r.disk.term {
		r.disk.term, r.disk.voted = term, ""
	}
	r.leader = leader
	if r.role == raft.Leader {
		r.tell(false)
		r.role = raft.Follower
		r.fail(raft.ErrLeadershipLost)
	}
	r.role = raft.Follower
}

func (r *simRaft) propose(kind raft.LogType, data []byte) *simFuture {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	switch r.role {
	case raft.Shutdown:
		return failed(raft.ErrRaftShutdown)
	case raft.Leader:
	default:
		return failed(raft.ErrNotLeader)
	}
	f := r.append(simEntry{term: r.disk.term, kind: kind, data: data})
	r.count() // of one voter one is a majority
	return f
}

// append is called with mu held.
func (r *simRaft) append(e simEntry) *simFuture {
	if err := r.disk.write(e); err != nil {
		r.follow(r.disk.term, "")
		return failed(err)
	}
	f := newSimFuture()
	f.index = r.disk.last()
	r.futures[f.index] = f
	r.match[r.id] = f.index
	return f
}

func (r *simRaft) Apply(cmd []byte, _ time.Duration) raft.ApplyFuture {
	return r.propose(raft.LogCommand, cmd)
}
func (r *simRaft) Barrier(time.Duration) raft.Future { return r.propose(raft.LogBarrier, nil) }

func (r *simRaft) VerifyLeader() raft.Future {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	if r.role != raft.Leader {
		return failed(raft.ErrNotLeader)
	}
	v := &simVerify{newSimFuture(), map[consilium.NodeID]bool{r.id: true}}
	r.verifies = append(r.verifies, v)
	r.count()
	return v
}

func (r *simRaft) State() raft.RaftState {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	return r.role
}

func (r *simRaft) CurrentTerm() uint64 {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	return r.disk.term
}

func (r *simRaft) CommitIndex() uint64 {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	return r.commit
}

func (r *simRaft) LeaderCh() <-chan bool { return r.notify }

func (r *simRaft) LeaderWithID() (raft.ServerAddress, raft.ServerID) {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	if r.leader == "" {
		return "", ""
	}
	id := serverID(r.leader, "sim")
	if l := r.c.up[r.leader]; l != nil {
		id = l.self
	}
	return raft.ServerAddress(id), id
}

func (r *simRaft) Snapshot() raft.SnapshotFuture {
	return failed(errors.New("the scheduler takes snapshots"))
}
func (r *simRaft) Shutdown() raft.Future { return failed(nil) }

// count commits and verifies what a majority knows.
func (r *simRaft) count() {
	for i := r.disk.last(); i > r.commit && r.disk.termAt(i) == r.disk.term; i-- {
		if r.majority(func(id consilium.NodeID) bool { return r.match[id] >= i }) {
			r.commit = i
			break
		}
	}
	r.apply()
	r.verifies = slices.DeleteFunc(r.verifies, func(v *simVerify) bool {
		if !r.majority(func(id consilium.NodeID) bool { return v.yes[id] }) {
			return false
		}
		v.resolve(nil, nil)
		return true
	})
}

// apply hands committed entries to the state machine, in order.
func (r *simRaft) apply() {
	for r.applied < r.commit {
		r.applied++
		e := r.disk.log[r.applied-r.disk.base-1]
		var resp any
		if e.kind == raft.LogCommand {
			resp = r.applyOne(&raft.Log{Index: r.applied, Term: e.term, Type: e.kind, Data: e.data})
		}
		if f := r.futures[r.applied]; f != nil {
			delete(r.futures, r.applied)
			f.resolve(resp, nil)
		}
	}
}

func (r *simRaft) applyOne(l *raft.Log) (resp any) {
	defer func() {
		if p := recover(); p != nil {
			r.c.bad(fmt.Errorf("apply panics at index %d: %v", l.Index, p))
			resp = errSimDisk
		}
	}()
	return r.node.fsm.Apply(l)
}

// linked reports whether a message gets from a to b and its answer back.
func (c *simLog) linked(a, b consilium.NodeID) bool {
	return c.up[a] != nil && c.up[b] != nil && !c.cut(a, b) && !c.cut(b, a)
}

// owes reports whether a leader has something to tell a server of its
// configuration.
func (r *simRaft) owes(to raft.ServerID) bool {
	id := nodeOf(to)
	f := r.c.up[id]
	if r.role != raft.Leader || id == r.id || !r.c.linked(r.id, id) || f.self != to {
		return false
	}
	return f.leader != r.id || f.disk.term != r.disk.term || r.match[id] < r.disk.last() || r.told[id] < r.commit ||
		slices.ContainsFunc(r.verifies, func(v *simVerify) bool { return !v.yes[id] })
}

// replicate is one round trip from a leader to a follower. A lost answer
// leaves the leader ignorant of what the follower has.
func (c *simLog) replicate(from, to consilium.NodeID, lost bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, f := c.up[from], c.up[to]
	if r == nil || f == nil || !r.owes(f.self) {
		return
	}
	if f.disk.term > r.disk.term {
		r.follow(f.disk.term, "")
		return
	}
	f.follow(r.disk.term, r.id)
	asked := slices.Clone(r.verifies)
	commit := r.commit
	if base := r.disk.base; f.disk.last() < base || f.disk.base < base && f.disk.termAt(base) != r.disk.baseT {
		f.install(r.disk)
	}
	// The log matching property (§5.3): equal terms at an index mean equal
	// logs up to it.
	same := min(f.disk.last(), r.disk.last())
	for same > max(f.disk.base, r.disk.base) && f.disk.termAt(same) != r.disk.termAt(same) {
		same--
	}
	if same < f.commit {
		c.bad(fmt.Errorf("%s would lose entry %d, which is committed", to, f.commit))
		return
	}
	if same < r.disk.last() {
		f.disk.truncate(same)
		if err := f.disk.write(r.disk.log[same-r.disk.base:]...); err != nil {
			return // the leader sends it again
		}
	}
	f.commit = max(f.commit, min(commit, f.disk.last()))
	f.apply()
	if lost {
		return
	}
	r.match[to], r.told[to] = r.disk.last(), commit
	for _, v := range asked {
		v.yes[to] = true
	}
	r.count()
}

// install hands over a snapshot.
func (f *simRaft) install(from *simDisk) {
	f.disk.base, f.disk.baseT, f.disk.log, f.disk.snap = from.base, from.baseT, nil, from.snap
	f.disk.confs = slices.Clone(from.confs[:1])
	f.commit, f.applied = from.base, from.base
	f.node.fsm.Restore(io.NopCloser(bytes.NewReader(from.snap)))
}

// elect lets a node stand for election. It reports whether it won.
func (c *simLog) elect(id consilium.NodeID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.up[id]
	if r == nil || r.role == raft.Leader {
		return false
	}
	own, _ := r.disk.conf()
	if !votes(own, r.self) {
		return false
	}
	r.disk.term++
	r.disk.voted, r.leader, r.role = id, "", raft.Candidate
	yes := map[consilium.NodeID]bool{id: true}
	for _, server := range own {
		other := nodeOf(server.ID)
		o := c.up[other]
		if other == id || server.Suffrage != raft.Voter || !c.linked(id, other) || o.self != server.ID {
			continue
		}
		if theirs, _ := o.disk.conf(); len(theirs) > 0 && !votes(theirs, r.self) {
			continue // not a voter as that one knows: it does not even look at the term
		}
		if o.disk.term > r.disk.term {
			r.follow(o.disk.term, "")
			return false
		}
		if o.disk.term < r.disk.term {
			o.follow(r.disk.term, "")
		}
		last, mine := o.disk.last(), r.disk.last()
		newer := o.disk.termAt(last) > r.disk.termAt(mine) || o.disk.termAt(last) == r.disk.termAt(mine) && last > mine
		if o.disk.voted == "" && !newer {
			o.disk.voted = id
			yes[other] = true
		}
	}
	if !r.majority(func(id consilium.NodeID) bool { return yes[id] }) {
		r.role = raft.Follower
		return false
	}
	r.role, r.leader = raft.Leader, id
	r.match, r.told = map[consilium.NodeID]uint64{id: r.disk.last()}, map[consilium.NodeID]uint64{}
	r.tell(true)
	r.append(simEntry{term: r.disk.term, kind: raft.LogNoop})
	r.count()
	return r.role == raft.Leader
}

// depose lets a leader that reaches no majority notice it.
func (c *simLog) depose(id consilium.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.up[id]; r != nil && r.role == raft.Leader {
		r.follow(r.disk.term, "")
	}
}

// reaches reports whether a node can talk to a majority of the cluster as it
// knows it, with itself.
func (c *simLog) reaches(id consilium.NodeID) bool {
	r := c.up[id]
	if r == nil {
		return false
	}
	conf, _ := r.disk.conf()
	return votes(conf, r.self) && r.majority(func(other consilium.NodeID) bool {
		return other == id || c.linked(id, other) && slices.ContainsFunc(conf, func(s raft.Server) bool { return s.ID == c.up[other].self })
	})
}

// compact writes a node's snapshot and drops the entries that it covers but
// for a few.
func (c *simLog) compact(id consilium.NodeID, keep uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.up[id]
	if r == nil || r.applied <= r.disk.base+keep {
		return nil
	}
	s, err := r.node.fsm.Snapshot()
	if err != nil {
		return nil // the node is ending
	}
	var b bytes.Buffer
	if err := s.(*nodeSnapshot).write(&b); err != nil {
		return err
	}
	base := r.applied
	term := r.disk.termAt(base)
	r.disk.log = slices.Clone(r.disk.log[base-r.disk.base:])
	r.disk.base, r.disk.baseT, r.disk.snap = base, term, b.Bytes()
	for len(r.disk.confs) > 1 && r.disk.confs[1].index <= base {
		r.disk.confs = r.disk.confs[1:]
	}
	return nil
}

// leaders lists the nodes that believe they lead.
func (c *simLog) leaders() (out []*simRaft) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range c.order {
		if r := c.up[id]; r != nil && r.role == raft.Leader {
			out = append(out, r)
		}
	}
	return out
}

// steps lists the round trips that are owed.
func (c *simLog) steps() (out [][2]consilium.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, from := range c.order {
		r := c.up[from]
		if r == nil {
			continue
		}
		if r.role != raft.Leader {
			continue
		}
		conf, _ := r.disk.conf()
		for _, to := range conf {
			if r.owes(to.ID) {
				out = append(out, [2]consilium.NodeID{from, nodeOf(to.ID)})
			}
		}
	}
	return out
}

// simElection is how long the nodes do without a leader before they elect one.
const simElection = time.Second

// lapse is what the passing of time does: where a majority has no leader,
// somebody who can win stands for election; a leader that has no majority gives
// up, but only after the others have had time for a new one.
func (c *simLog) lapse(rng *rand.Rand) bool {
	var alone []consilium.NodeID
	leads := false
	for _, r := range c.leaders() {
		c.mu.Lock()
		can := c.reaches(r.id)
		c.mu.Unlock()
		if leads = leads || can; !can {
			alone = append(alone, r.id)
		}
	}
	if leads && len(alone) == 0 {
		c.since = time.Time{}
		return false
	}
	if c.since.IsZero() {
		c.since = time.Now()
	}
	if time.Since(c.since) < simElection {
		return false
	}
	c.since = time.Time{}
	if !leads {
		ids := slices.Clone(c.order)
		rng.Shuffle(len(ids), func(i, k int) { ids[i], ids[k] = ids[k], ids[i] })
		for _, id := range ids {
			c.mu.Lock()
			can := c.reaches(id)
			c.mu.Unlock()
			if can && c.elect(id) {
				return true
			}
		}
	}
	for _, id := range alone {
		c.depose(id)
	}
	return len(alone) > 0
}
