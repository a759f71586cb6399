package coordinator

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"consilium"
	"consilium/internal/blob"
	"consilium/internal/durable"
	"consilium/internal/wire"
)

// Node is one coordinator node: the replicated state machine with its network
// and its disk.
type Node struct {
	cfg         Config
	log         *slog.Logger
	incarnation string
	self        raft.ServerID

	dir    *durable.Dir // nil in memory
	stores *raftStores
	starts *starts
	events *eventLog
	fsm    *fsm
	blobs  *replicator
	peers  peers
	audit  *auditLog
	server *server
	grpc   *wire.Server

	members, replication, metrics net.Listener // metrics is nil without one

	raft   atomic.Pointer[consensus] // nil until the cluster is formed
	barred atomic.Uint64             // index of a barrier up to which everything is applied, commands or not
	leads  atomic.Uint64             // the term in which this node leads and has applied all that was committed before it; 0 if none
	nudge  chan struct{}

	// naming is held shared from the last count of a blob's holders until the
	// command that names it is in the log, and alone while a node is taken out of
	// the cluster: no command can name a blob that was counted on a node that
	// left meanwhile. Who waits for it stops when its call ends.
	naming *semaphore.Weighted

	layer atomic.Pointer[streamLayer]

	halt  context.Context // ends when the node shall stop, with the reason
	end   context.CancelCauseFunc
	life  context.Context // ends when calls have had their time to finish
	die   context.CancelFunc
	spawn func(func(context.Context)) // runs beside, and is waited for
	wg    sync.WaitGroup

	mu       sync.Mutex // guards the five below
	ran      bool
	abrupt   bool
	saidFull time.Time // when the log last said that this node's disk is full
	yielding yielding
	handing  handing
	done     chan struct{} // closed when everything is released
	once     sync.Once
}

// namingAlone is a weight of naming that leaves nothing for others.
const namingAlone = 1 << 30

var (
	errClosed = errors.New("coordinator: closed")
	errKilled = errors.New("coordinator: killed")
	errLeft   = errors.New("coordinator: the roster in force does not name this node any more: it has left the cluster, and its directory can be removed once the others run without it")
)

// Open takes the data directory, recovers what it holds, and listens. Nothing
// is served before Run.
func Open(ctx context.Context, c Config) (_ *Node, err error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	n := newNode(c)
	defer func() {
		if err != nil {
			n.end(err)
			n.die()
			n.release()
		}
	}()
	var local blob.Store
	var raftDir, auditDir, eventsPath string
	if c.InMemory {
		var id [16]byte
		if _, err := rand.Read(id[:]); err != nil {
			return nil, err
		}
		n.incarnation = hex.EncodeToString(id[:])
		local = blob.NewMemory()
	} else {
		if n.dir, err = durable.Prepare(c.Dir, "coordinator",
			"raft/       the replicated log, votes and snapshots; never restore it from a copy",
			"events.log  the federation's events, derived from the log",
			"blobs/      encrypted vectors, sealed boxes, aggregates, sealed results",
			"audit/      hash tiles and checkpoint of the audit log, derived from the events",
			"joined      this directory belongs to a cluster",
			"starts      the names of this directory's starts; peers: those of the others, by which an older copy is found",
		); err != nil {
			return nil, fmt.Errorf("coordinator: %w", err)
		}
		n.incarnation = n.dir.ID()
		raftDir, auditDir, eventsPath = n.dir.Join("raft"), n.dir.Join("audit"), n.dir.Join("events.log")
		if local, err = blob.OpenDisk(n.dir.Join("blobs")); err != nil {
			return nil, err
		}
	}
	n.self = serverID(c.ID, n.incarnation)
	if n.starts, err = openStarts(n.dir, n.self); err != nil {
		return nil, fmt.Errorf("coordinator: %w", err)
	}
	if n.events, err = openEvents(durable.OS, eventsPath); err != nil {
		return nil, err
	}
	if n.stores, err = openRaftStores(raftDir, &n.cfg, n.fail); err != nil {
		return nil, err
	}
	if err := n.checkMember(); err != nil {
		return nil, err
	}
	roster := c.Book.Roster()
	if n.audit, err = newAuditLog(n.events, AuditOrigin(roster), c.NoteKey, auditDir); err != nil {
		return nil, err
	}
	n.assemble(local, wire.NewPeerClient(wire.ClientOptions{Certificate: c.Certificate, Book: c.Book, Dial: c.Dial, Trace: c.Trace}))
	n.grpc = wire.NewServer(wire.ServerOptions{Certificate: c.Certificate, Book: c.Book, Members: n.server, Peers: n.server, Audit: n.audit, Logger: c.Logger, Trace: c.Trace})
	me, _ := roster.Coordinator(c.ID)
	if n.members, err = c.Listen(me.Address); err != nil {
		return nil, fmt.Errorf("coordinator: %w", err)
	}
	if n.replication, err = c.Listen(me.Raft); err != nil {
		return nil, fmt.Errorf("coordinator: %w", err)
	}
	if c.Metrics != "" {
		if n.metrics, err = net.Listen("tcp", c.Metrics); err != nil {
			return nil, fmt.Errorf("coordinator: metrics: %w", err)
		}
	}
	return n, ctx.Err()
}

// newNode is a node that has nothing yet.
func newNode(c Config) *Node {
	n := &Node{cfg: c, log: c.Logger, nudge: make(chan struct{}, 1), done: make(chan struct{}), naming: semaphore.NewWeighted(namingAlone)}
	n.halt, n.end = context.WithCancelCause(context.Background())
	n.life, n.die = context.WithCancel(context.Background())
	n.spawn = func(f func(context.Context)) { n.wg.Go(func() { f(n.life) }) }
	return n
}

// assemble puts the state machine and the services over what the node stores
// and whom it can call.
func (n *Node) assemble(local blob.Store, p peers) {
	n.peers = p
	n.blobs = newReplicator(n, roomStore{local, n}, p)
	n.fsm = newFSM(n.events, local, n.log, n.fail)
	n.server = &server{n: n}
}

// fail ends the node: what it holds is unknown until it is opened again.
func (n *Node) fail(err error) {
	n.log.Error("this node cannot go on", "error", err)
	n.end(err)
}

// checkMember refuses a directory that has voted and lost its log: with an
// empty one it could vote a second time in a term.
func (n *Node) checkMember() error {
	if n.dir == nil {
		return nil
	}
	_, err := os.Stat(n.dir.Join("joined"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	have, err := raft.HasExistingState(n.stores.log, n.stores.stable, n.stores.snaps)
	if err != nil {
		return err
	}
	if !have {
		return consilium.ErrStale.Withf("%s belongs to a cluster but its log is gone; this node must not vote under its old identity", n.dir.Path())
	}
	return nil
}

// ID is the node's roster id.
func (n *Node) ID() consilium.NodeID { return n.cfg.ID }

// Address is where the node serves members, for a roster address with port 0.
func (n *Node) Address() string { return n.members.Addr().String() }

func (n *Node) raftNode() consensus {
	if p := n.raft.Load(); p != nil {
		return *p
	}
	return nil
}

func (n *Node) setRaft(r consensus) { n.raft.Store(&r) }

// IsLeader reports whether this node leads, as far as it knows.
func (n *Node) IsLeader() bool {
	r := n.raftNode()
	return r != nil && r.State() == raft.Leader
}

// Leader is the node that leads, as far as this one knows.
func (n *Node) Leader() (consilium.NodeID, bool) {
	r := n.raftNode()
	if r == nil {
		return "", false
	}
	_, id := r.LeaderWithID()
	return nodeOf(id), id != ""
}

// WaitLeader returns the leader once this node knows one.
func (n *Node) WaitLeader(ctx context.Context) (consilium.NodeID, error) {
	for {
		if id, ok := n.Leader(); ok {
			return id, nil
		}
		select {
		case <-n.halt.Done():
			return "", context.Cause(n.halt)
		default:
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return "", err
		}
	}
}

// UpdateRoster puts the next roster in force here and, once this node leads or
// the leader has it too, in the log. Every node needs it.
//
// It refuses a roster that does not keep more than half of the nodes: those that
// go could not vote for their own replacement, and new ones without an old one
// among them would begin again with nothing. ErrUnavailable says that the roster
// before has not been carried out yet: the same call may succeed later.
func (n *Node) UpdateRoster(next *consilium.Signed) error {
	if n.cfg.Book.Digest() != consilium.RosterDigest(next.Payload) { // nodes of one process may share a book
		if err := n.takeRoster(next); err != nil {
			return err
		}
	}
	if l := n.layer.Load(); l != nil {
		l.recheck()
	}
	if _, stays := n.cfg.Book.Roster().Coordinator(n.cfg.ID); !stays {
		n.end(errLeft) // hands leadership over first
	}
	select {
	case n.nudge <- struct{}{}:
	default:
	}
	return nil
}

// keeps counts the voters of the cluster, as this node knows it, and those of
// them that a roster names. A node that is starting knows none.
func (n *Node) keeps(r *consilium.Roster) (kept, voters int, err error) {
	if n.raftNode() == nil {
		return 0, 0, nil
	}
	conf, err := n.cluster()
	if err != nil {
		return 0, 0, err
	}
	for _, s := range conf.Servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if _, ok := r.Coordinator(nodeOf(s.ID)); ok {
			kept++
		}
	}
	return kept, voters, nil
}

// takeRoster puts the next roster into the book.
func (n *Node) takeRoster(next *consilium.Signed) error {
	r, err := consilium.ParseRoster(next.Payload) // Update checks the signatures
	if err != nil {
		return consilium.ErrInvalid.With(err)
	}
	if err := r.KeepsCoordinators(n.cfg.Book.Roster()); err != nil {
		return err
	}
	if kept, voters, err := n.keeps(r); err != nil {
		return err
	} else if 2*kept <= voters && voters > 0 {
		return consilium.ErrUnavailable.Withf("of the %d nodes that vote now roster version %d keeps %d: the changes of the version before are not carried out yet", voters, r.Version, kept)
	}
	return n.cfg.Book.Update(next)
}

// broken is why this node can apply nothing any more, or nil.
func (n *Node) broken() error {
	n.fsm.mu.RLock()
	defer n.fsm.mu.RUnlock()
	return n.fsm.broken
}

// Run serves until ctx ends, then drains: leadership is handed over, calls
// finish, and everything that was acknowledged is on disk. It returns nil after
// a drain or Close, and otherwise why the node stopped.
func (n *Node) Run(ctx context.Context) error {
	n.mu.Lock()
	if n.ran {
		n.mu.Unlock()
		return errors.New("coordinator: Run is called once")
	}
	n.ran = true
	n.mu.Unlock()
	defer context.AfterFunc(ctx, func() { n.end(errClosed) })()

	g, gctx := errgroup.WithContext(n.life)
	serving := make(chan struct{})
	go func() {
		defer close(serving)
		if err := n.grpc.Serve(n.members); err != nil {
			n.end(fmt.Errorf("coordinator: serve: %w", err))
		}
	}()
	if n.metrics != nil {
		g.Go(func() error { return n.serveMetrics(gctx, n.metrics) })
	}
	g.Go(func() error {
		if err := n.start(gctx); err != nil {
			return err
		}
		n.work(gctx, g)
		return nil
	})
	failed := make(chan error, 1)
	go func() {
		err := g.Wait()
		if err != nil {
			n.end(err)
		}
		failed <- err
	}()
	<-n.halt.Done()
	cause := context.Cause(n.halt)

	n.mu.Lock()
	abrupt := n.abrupt
	n.mu.Unlock()
	n.stop(abrupt || !errors.Is(cause, errClosed) && !errors.Is(cause, errLeft))
	<-serving
	<-failed
	n.wg.Wait()
	n.release()
	if errors.Is(cause, errClosed) {
		return nil
	}
	return cause
}

// work runs what a node does by itself once it has a log.
func (n *Node) work(ctx context.Context, g *errgroup.Group) {
	g.Go(func() error { return n.lead(ctx) })
	g.Go(func() error { return n.audit.run(ctx, n.fsm) })
	g.Go(func() error { return n.maintain(ctx) })
}

// stop ends service. The reverse of the start order, unless it is abrupt.
func (n *Node) stop(abrupt bool) {
	r := n.raftNode()
	if abrupt {
		n.die()
	} else {
		if r != nil && r.State() == raft.Leader {
			ctx, cancel := context.WithTimeout(context.Background(), n.cfg.Timing.Drain)
			if err := await(ctx, r.LeadershipTransfer()); err != nil {
				n.log.Debug("leadership not handed over", "error", err)
			}
			cancel()
		}
		ctx, cancel := context.WithTimeout(context.Background(), n.cfg.Timing.Drain)
		n.grpc.Drain(ctx)
		if r != nil && !n.cfg.InMemory {
			// The next start, perhaps of another release, reads the state and
			// replays no command. Without it nothing is lost: the log is there.
			if err := await(ctx, r.Snapshot()); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
				n.log.Debug("no snapshot on stopping", "error", err)
			}
		}
		cancel()
		n.die()
	}
	var down raft.Future
	if r != nil {
		down = r.Shutdown() // fails the commands that calls still wait for
	}
	n.grpc.Stop()
	if down != nil {
		if err := down.Error(); err != nil {
			n.log.Warn("replication did not stop cleanly", "error", err)
		}
	}
}

// Close drains and waits until Run has returned. Without a Run it releases
// what Open took.
func (n *Node) Close() error {
	n.end(errClosed)
	n.mu.Lock()
	ran := n.ran
	n.ran = true
	n.mu.Unlock()
	if !ran {
		n.release()
	}
	<-n.done
	return nil
}

// Kill stops the node as a power cut would, as far as a process can do that to
// itself: nothing is handed over, no call finishes, nothing more is written.
// It returns when the data directory can be opened again.
func (n *Node) Kill() {
	n.mu.Lock()
	n.abrupt = true
	n.mu.Unlock()
	n.end(errKilled)
	n.mu.Lock()
	ran := n.ran
	n.ran = true
	n.mu.Unlock()
	if !ran {
		n.release()
	}
	<-n.done
}

// release closes what Open opened.
func (n *Node) release() {
	n.once.Do(func() {
		for _, l := range []net.Listener{n.members, n.replication, n.metrics} {
			if l != nil {
				l.Close()
			}
		}
		if n.grpc != nil {
			n.grpc.Stop()
		}
		if n.peers != nil {
			n.peers.Close()
		}
		if n.stores != nil {
			if err := n.stores.close(); err != nil {
				n.log.Warn("replicated log did not close cleanly", "error", err)
			}
		}
		if n.events != nil {
			if err := n.events.close(); err != nil {
				n.log.Warn("events did not close cleanly", "error", err)
			}
		}
		if n.dir != nil {
			n.dir.Close()
		}
		close(n.done)
	})
}

// start forms the cluster or rejoins it.
func (n *Node) start(ctx context.Context) error {
	existing, err := raft.HasExistingState(n.stores.log, n.stores.stable, n.stores.snaps)
	if err != nil {
		return fmt.Errorf("coordinator: replicated log: %w", err)
	}
	var first *raft.Configuration
	added := true
	if !existing {
		if first, added, err = n.meet(ctx); err != nil {
			return err
		}
	}
	layer := newStreamLayer(n.replication, n.starts, &n.cfg, n.end)
	n.layer.Store(layer)
	layer.recheck() // the roster may have changed in between
	logger := raftLogger(n.log)
	transport := newTransport(layer, n.cfg.Timing.Peer, logger)
	context.AfterFunc(n.life, func() { transport.Close() })

	rc := raft.DefaultConfig()
	rc.LocalID = n.self
	rc.HeartbeatTimeout, rc.ElectionTimeout = n.cfg.Timing.Heartbeat, n.cfg.Timing.Heartbeat
	rc.LeaderLeaseTimeout = n.cfg.Timing.Heartbeat / 2
	rc.CommitTimeout = n.cfg.Timing.Commit
	rc.SnapshotThreshold = n.cfg.Timing.Snapshots
	rc.TrailingLogs = n.cfg.Timing.Snapshots / 2
	rc.SnapshotInterval = 30 * time.Second
	rc.NoLegacyTelemetry = true
	rc.Logger = logger
	if first != nil {
		if err := raft.BootstrapCluster(rc, n.stores.log, n.stores.stable, n.stores.snaps, transport, *first); err != nil {
			return fmt.Errorf("coordinator: form the cluster: %w", err)
		}
	}
	joining := !existing && first == nil
	if !joining {
		// The log has a configuration already. One who joins has an empty log until
		// the leader writes into it, even if the leader was faster than we.
		if err := n.markJoined(); err != nil {
			return err
		}
	}
	r, err := raft.NewRaft(rc, n.fsm, n.stores.log, n.stores.stable, n.stores.snaps, transport)
	if err != nil {
		if broken := n.broken(); broken != nil {
			err = broken
		}
		return fmt.Errorf("coordinator: %w", err)
	}
	n.setRaft(r)
	// A node that was down while the cluster changed step by step gets to know
	// the steps from the leader, so this is no reason to stop.
	if roster := n.cfg.Book.Roster(); existing {
		if kept, voters, err := n.keeps(roster); err == nil && 2*kept <= voters {
			n.log.Error("the roster keeps too few of the nodes that voted when this one last knew: unless the others went on step by step there will be no leader; install the roster before it everywhere and replace fewer nodes at once",
				"roster", roster.Version, "voters", voters, "kept", kept)
		}
	}
	if joining {
		if !added {
			n.log.Info("waiting to be added by the leader")
		}
		n.spawn(n.awaitJoined)
	}
	if n.life.Err() != nil {
		// stop may have looked before there was anything to shut down.
		r.Shutdown().Error()
	}
	return nil
}

// meet asks the other nodes of the roster who they are. It returns the first
// configuration once all of them are as empty as this one, and otherwise nil and
// whether the cluster that they form has this very directory already. If not, the
// leader adds it, provided that the cluster never knew the node by another one.
func (n *Node) meet(ctx context.Context) (first *raft.Configuration, added bool, err error) {
	met := map[consilium.NodeID]string{n.cfg.ID: n.incarnation}
	wait := 20 * time.Millisecond
	for {
		roster := n.cfg.Book.Roster()
		for _, c := range roster.Coordinators {
			if c.ID == n.cfg.ID {
				continue
			}
			asking, cancel := context.WithTimeout(ctx, 5*time.Second)
			h, err := n.peers.Hello(asking, c.ID, n.incarnation)
			cancel()
			if err != nil {
				delete(met, c.ID)
				n.log.Debug("waiting for a node", "peer", string(c.ID), "error", err)
				continue
			}
			if h.Started {
				if slices.Contains(h.Members, string(n.self)) {
					return nil, true, nil
				}
				if !slices.ContainsFunc(h.Members, func(m string) bool { return nodeOf(m) == n.cfg.ID }) {
					return nil, false, nil
				}
				return nil, false, consilium.ErrStale.Withf("node %s belongs to a cluster that knows %s by another data directory; restore that directory, or give this node a new id in the next roster", c.ID, n.cfg.ID)
			}
			met[c.ID] = h.Incarnation
		}
		if len(met) == len(roster.Coordinators) {
			first := &raft.Configuration{}
			for _, c := range roster.Coordinators {
				id := serverID(c.ID, met[c.ID])
				first.Servers = append(first.Servers, raft.Server{ID: id, Address: raft.ServerAddress(id), Suffrage: raft.Voter})
			}
			return first, true, nil
		}
		if err := pause(ctx, wait); err != nil {
			return nil, false, err
		}
		wait = min(2*wait, time.Second)
	}
}

// Intervals of maintenance.
const (
	firstMaintenance = 5 * time.Second
	maintenance      = 5 * time.Minute
)

// maintain fills in live blobs that this node lacks and removes those that no
// command named.
func (n *Node) maintain(ctx context.Context) error {
	wait := firstMaintenance
	for {
		if err := pause(ctx, wait); err != nil {
			return nil
		}
		wait = maintenance
		var live []BlobRef
		n.fsm.read(func(s *State) { live = s.LiveBlobs() })
		keep := make(map[consilium.Digest]bool, len(live))
		for _, ref := range live {
			keep[ref.Digest] = true
			if err := n.blobs.fill(ctx, ref); err != nil && ctx.Err() == nil {
				n.log.Warn("a live blob is missing here", "blob", ref.Digest.Short(), "error", err)
			}
		}
		n.blobs.sweep(keep)
	}
}
