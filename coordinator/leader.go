package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/raft"

	"consilium"
	"consilium/he"
	"consilium/internal/wire"
)

// applyTimeout bounds how long a command waits to enter the log.
const applyTimeout = 10 * time.Second

// propose puts an operation into the log and returns how it was applied. A
// rejection comes back as its error. consilium.ErrUnavailable means that it is
// unknown whether the command was committed; proposing it again is safe.
func (n *Node) propose(op Op) error {
	r := n.raftNode()
	if r == nil {
		return consilium.ErrUnavailable.Withf("this node is starting")
	}
	f := r.Apply(EncodeCommand(Command{At: n.cfg.Now().UnixMilli(), Op: op}), applyTimeout)
	// Not longer than this node lives: a command that enters the queue while raft
	// shuts down is never answered.
	err := await(n.life, f)
	n.transferring(err)
	switch {
	case err == nil:
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return n.notLeader()
	default:
		return consilium.ErrUnavailable.With(err)
	}
	switch res := f.Response().(type) {
	case nil:
		return nil
	case *Rejection:
		return res.AsError()
	case error:
		return consilium.ErrUnavailable.With(res)
	default:
		return fmt.Errorf("apply answered with %T", res)
	}
}

// longTransfer is how long a leader may refuse everything because it hands over. Raft
// answers a transfer after one election time-out, and keeps its flag until the call to
// the chosen node has ended: a connection and an answer.
func (t Timing) longTransfer() time.Duration { return 2*t.Peer + 10*t.Heartbeat }

var errTransferring = errors.New("coordinator: this node leads and refuses everything, because it has not ended a transfer of its leadership; nothing acknowledged is lost: start it again")

// handing is since when a leader refuses everything because it hands over.
type handing struct {
	since time.Time
	term  uint64
}

// transferring ends a node that hands over and does not come to the end of it. In raft
// v1.8.0 the flag that says so may stay set for ever (github.com/hashicorp/raft, issue
// 696): the node can be elected again, its heartbeats keep the others from electing
// anyone else, and no command is taken. Started again, it has no such flag. It is told
// of every answer to a command and to a transfer: a flag of an ended transfer counts no
// further, and one that stays is noticed where nobody sends commands.
func (n *Node) transferring(err error) {
	r := n.raftNode()
	term := r.CurrentTerm()
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case !errors.Is(err, raft.ErrLeadershipTransferInProgress) || r.State() != raft.Leader:
		n.handing = handing{}
	case n.handing.since.IsZero() || n.handing.term != term:
		n.handing = handing{time.Now(), term}
	case time.Since(n.handing.since) > n.cfg.Timing.longTransfer():
		n.fail(errTransferring)
	}
}

// handOver passes the lead to the voter that has most of the log.
func (n *Node) handOver(ctx context.Context) error {
	err := await(ctx, n.raftNode().LeadershipTransfer())
	n.transferring(err)
	return err
}

// abreast returns once this node, which leads, has applied what was committed when it
// was asked. Followers may be ahead of it there, and tell their clients so: a leader
// commits an entry, and another node can have applied it first.
func (n *Node) abreast(ctx context.Context) error {
	r := n.raftNode()
	if committed := r.CommitIndex(); max(n.fsm.applied.Load(), n.barred.Load()) >= committed {
		return nil
	}
	f := r.Barrier(applyTimeout)
	err := await(ctx, f)
	if ctx.Err() == nil { // else the caller ended, and raft has said nothing
		n.transferring(err)
	}
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return n.notLeader()
	case err != nil:
		return consilium.ErrUnavailable.With(err)
	}
	// The log may end in entries that are no commands: the next call need not wait.
	if at, ok := f.(raft.IndexFuture); ok {
		for old := n.barred.Load(); old < at.Index() && !n.barred.CompareAndSwap(old, at.Index()); old = n.barred.Load() {
		}
	}
	return nil
}

// notLeader says where the leader is, if this node knows.
func (n *Node) notLeader() error {
	leader, _ := n.Leader()
	return &wire.NotLeaderError{Leader: leader}
}

// lead does a leader's work whenever this node is the leader: what Pending
// says, derived from the state, so it goes on where another left off.
func (n *Node) lead(ctx context.Context) error {
	for {
		if err := n.awaitLeadership(ctx); err != nil {
			return err
		}
		term, stop := context.WithCancel(ctx)
		err := n.leadTerm(term)
		stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			n.log.Warn("leadership interrupted", "error", err)
			if err := pause(ctx, 50*time.Millisecond); err != nil {
				return err
			}
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *Node) awaitLeadership(ctx context.Context) error {
	for n.raftNode().State() != raft.Leader {
		select {
		case <-n.raftNode().LeaderCh():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// task is a piece of work that runs beside the loop. A failed one is tried
// again after a growing pause.
type task struct {
	running bool
	failed  int
	after   time.Time
}

// await waits for what raft promises, and no longer than ctx: a leader whose
// peers are gone is not answered until it is shut down, and it is shut down only
// after its work has ended.
func await(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *Node) leadTerm(ctx context.Context) error {
	// Everything committed by earlier leaders is applied before we look. Who
	// loses the lead and wins it back between two looks has a new term, and other
	// entries to apply before it.
	term := n.raftNode().CurrentTerm()
	err := await(ctx, n.raftNode().Barrier(applyTimeout))
	n.transferring(err)
	if err != nil {
		return consilium.ErrUnavailable.With(err)
	}
	if err := n.proposeRoster(); err != nil {
		return err
	}
	n.leads.Store(term)
	defer n.leads.Store(0)
	n.log.Info("leading")
	defer n.log.Info("no longer leading")
	if err := n.restoreMajorities(ctx); err != nil {
		return err
	}
	tasks := map[string]*task{}
	finished := make(chan func(), 16)
	running := 0
	ctx, stop := context.WithCancel(ctx)
	defer func() { // no task outlives the term
		stop()
		for running > 0 {
			(<-finished)()
		}
	}()
	start := func(key string, run func(context.Context) error) {
		t := tasks[key]
		if t == nil {
			t = &task{}
			tasks[key] = t
		}
		if t.running || time.Now().Before(t.after) { // not the cluster's clock, which may be set back
			return
		}
		t.running = true
		running++
		ctx, cancel := context.WithCancel(ctx)
		n.spawn(func(life context.Context) {
			defer context.AfterFunc(life, cancel)()
			defer cancel()
			err := run(ctx)
			finished <- func() {
				running--
				t.running = false
				if err == nil {
					delete(tasks, key)
					return
				}
				t.failed++
				t.after = time.Now().Add(min(time.Duration(1<<min(t.failed, 8))*50*time.Millisecond, 10*time.Second))
				if ctx.Err() == nil {
					n.log.Warn("work failed, it is tried again", "work", key, "attempt", t.failed, "error", err)
				}
			}
		})
	}
	for {
		if n.raftNode().State() != raft.Leader || n.raftNode().CurrentTerm() != term {
			return nil
		}
		changed := n.fsm.watch()
		if err := n.proposeRoster(); err != nil {
			return err
		}
		var work []Work
		n.fsm.read(func(s *State) { work = s.Pending() })
		wake := time.Hour
		now := n.cfg.Now()
		for _, w := range work {
			switch w.Kind {
			case WorkTick:
				if due := time.UnixMilli(w.Due); due.After(now) {
					wake = min(wake, due.Sub(now)+time.Millisecond)
					continue
				}
				if err := n.settle(&Tick{}); err != nil {
					return err
				}
				wake = min(wake, 10*time.Millisecond)
			case WorkCollect:
				if err := n.settle(&Collect{Blobs: w.Blobs}); err != nil {
					return err
				}
			case WorkDecide:
				start("decide "+string(w.Study), func(ctx context.Context) error { return n.decide(ctx, w.Study) })
			case WorkSum:
				start("sum "+string(w.Study)+" "+w.Set.String(), func(ctx context.Context) error { return n.sum(ctx, w) })
			}
		}
		for _, t := range tasks {
			if !t.running {
				wake = min(wake, max(time.Until(t.after), time.Millisecond))
			}
		}
		if n.membersDiffer() {
			start("members", n.reconcileMembers)
		}
		timer := time.NewTimer(wake)
		select {
		case <-changed:
		case <-timer.C:
		case f := <-finished:
			f()
		case <-n.nudge:
		case <-n.raftNode().LeaderCh():
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		timer.Stop()
	}
}

// settle proposes a command of the leader's own. That the state refuses it is
// no failure: what made it owed is gone, or another leader was faster.
func (n *Node) settle(op Op) error {
	return settled(n.propose(op))
}

// settled is the outcome of a command of the leader's own. fsm logs a refusal.
func settled(err error) error {
	if r := (*Rejection)(nil); errors.As(err, &r) {
		return nil
	}
	return err
}

// proposeRoster brings the roster in force here into the log when the state
// has an older one.
func (n *Node) proposeRoster() error {
	var have *consilium.Roster
	n.fsm.read(func(s *State) { have, _ = s.Roster() })
	mine := n.cfg.Book.Roster()
	if have != nil && have.Version >= mine.Version {
		return nil
	}
	err := n.propose(&RosterSet{Payload: n.cfg.Book.Payload()})
	if r := (*Rejection)(nil); errors.As(err, &r) {
		return fmt.Errorf("the state refuses roster version %d: %w", mine.Version, err)
	}
	return err
}

// restoreMajorities runs until every live blob that can be found is on a
// majority again.
func (n *Node) restoreMajorities(ctx context.Context) error {
	for {
		var live []BlobRef
		n.fsm.read(func(s *State) { live = s.LiveBlobs() })
		lost, err := n.blobs.restore(ctx, live)
		if err == nil {
			if len(live) > 0 {
				n.log.Info("live blobs are on a majority", "blobs", len(live), "lost", lost)
			}
			return nil
		}
		if ctx.Err() != nil || n.raftNode().State() != raft.Leader {
			return err
		}
		n.log.Warn("live blobs are not on a majority yet", "error", err)
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// decide asks the admission policy about one study.
func (n *Node) decide(ctx context.Context, study consilium.StudyID) error {
	req := AdmissionRequest{Study: study}
	ok := false
	n.fsm.read(func(s *State) {
		req.Submission, req.Approvals, ok = s.Submission(study)
		req.Roster, _ = s.Roster()
	})
	if !ok {
		return nil // it ended meanwhile
	}
	allow, record, err := n.cfg.Admission(ctx, req)
	if err != nil {
		return fmt.Errorf("admission of %s: %w", study, n.outOfRoom(err))
	}
	if len(record) > consilium.MaxDocumentSize {
		return consilium.ErrTooLarge.Withf("a decision record of %d bytes", len(record))
	}
	return n.settle(&Decide{Study: study, Allow: allow, Record: record})
}

// profileOf is the parameter set that an upload names.
func profileOf(u Upload) (he.Profile, error) {
	for _, p := range he.Profiles() {
		if p.LogN == int(u.LogN) && p.Bits == int(u.Bits) && p.MaxN == int(u.Capacity) {
			return p, nil
		}
	}
	return he.Profile{}, consilium.ErrInvalid.Withf("no parameter set logN %d, %d bits, %d hospitals", u.LogN, u.Bits, u.Capacity)
}

// sum adds the ciphertexts of a certified set and records the sum. It reads
// the stored bytes once, in step, and checks each against the digest that its
// hospital signed: what does not match is dropped here and fetched from a peer
// on the next try.
func (n *Node) sum(ctx context.Context, w Work) (err error) {
	ctx, end := n.cfg.Trace.Step(ctx, w.Study, w.Round, w.Attempt, "sum")
	defer func() { end(err) }()
	if len(w.Parts) == 0 {
		return fmt.Errorf("sum over an empty set of %s", w.Study)
	}
	first := w.Parts[0].Upload
	p, err := profileOf(first)
	if err != nil {
		return err
	}
	readers := make([]io.Reader, len(w.Parts))
	inputs := make([]*he.Input, len(w.Parts))
	for i, part := range w.Parts {
		u := part.Upload
		if u.LogN != first.LogN || u.Bits != first.Bits || u.Capacity != first.Capacity || u.Lanes != first.Lanes {
			return consilium.ErrInvalid.Withf("position %d used another parameter set or length than position %d", part.Position, w.Parts[0].Position)
		}
		f, err := n.blobs.open(ctx, u.Ciphertext)
		if err != nil {
			return fmt.Errorf("contribution of position %d: %w", part.Position, err)
		}
		defer f.Close()
		inputs[i] = he.NewInput(contextReader{ctx, f})
		readers[i] = inputs[i]
	}
	ref, err := n.blobs.produce(ctx, vectorSize(p, int(first.Lanes)), func(out io.Writer) error {
		if err := sumVectors(p, int(first.Lanes), readers, out); err != nil {
			if !errors.Is(err, consilium.ErrUnavailable) { // else the sum had no room
				n.doubtParts(w.Parts)
			}
			return err
		}
		for i, part := range w.Parts {
			if got := inputs[i].Digest(); got != part.Ciphertext {
				n.blobs.doubt(part.Upload.Ciphertext.Digest)
				return consilium.ErrBlobCorrupt.Withf("stored contribution of position %d", part.Position)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("sum of %s, set %s: %w", w.Study, w.Set.Short(), err)
	}
	err = settled(n.proposeStored(ctx, &RecordSum{Study: w.Study, Set: w.Set, Blob: ref}, ref))
	if err == nil {
		n.log.Info("summed", "study", string(w.Study), "set", w.Set.Short(), "contributions", len(w.Parts), "bytes", ref.Size)
	}
	return err
}

func (n *Node) doubtParts(parts []Part) {
	for _, p := range parts {
		n.blobs.doubt(p.Upload.Ciphertext.Digest)
	}
}

// contextReader ends reading when ctx ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}

// produce stores what write writes, at most limit bytes, and only if it
// succeeds.
func (r *replicator) produce(ctx context.Context, limit uint64, write func(io.Writer) error) (BlobRef, error) {
	pr, pw := io.Pipe()
	done := make(chan struct{})
	var written error
	go func() {
		defer close(done)
		written = write(pw)
		pw.CloseWithError(written) // nil ends the blob with EOF
	}()
	d, size, err := r.local.Put(ctx, pr, int64(limit))
	pr.CloseWithError(err)
	<-done
	if written != nil && !errors.Is(written, io.ErrClosedPipe) {
		return BlobRef{}, written
	}
	if err != nil {
		return BlobRef{}, err
	}
	if written != nil {
		return BlobRef{}, written
	}
	r.stage(d)
	return BlobRef{Digest: d, Size: uint64(size)}, r.keep(d)
}
