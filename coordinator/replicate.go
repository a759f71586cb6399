package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/singleflight"

	"consilium"
	"consilium/internal/blob"
)

// replicator keeps blobs on a majority of nodes. The log names a blob only
// after that, so no committed reference is without a holder.
type replicator struct {
	n     *Node
	local blob.Store
	peers peers

	// voters is configuration; tests move the configuration under a count.
	voters func() ([]raft.ServerID, error)

	filling singleflight.Group

	mu      sync.Mutex
	checked map[consilium.Digest]time.Time // when a local blob was last re-hashed
	staged  map[consilium.Digest]time.Time // local blobs that no command names yet
}

func newReplicator(n *Node, local blob.Store, p peers) *replicator {
	r := &replicator{n: n, local: local, peers: p, checked: map[consilium.Digest]time.Time{}, staged: map[consilium.Digest]time.Time{}}
	r.voters = r.configuration
	return r
}

// configuration is the voters of the cluster. Their ids tell configurations apart,
// since they carry the incarnations of data directories; the index of the future is
// always 0 (raft v1.8.0, Raft.GetConfiguration).
func (r *replicator) configuration() (voters []raft.ServerID, err error) {
	rf := r.n.raftNode()
	if rf == nil {
		return nil, consilium.ErrUnavailable.Withf("this node is starting")
	}
	f := rf.GetConfiguration()
	if err := f.Error(); err != nil {
		return nil, consilium.ErrUnavailable.With(err)
	}
	for _, s := range f.Configuration().Servers {
		if s.Suffrage == raft.Voter {
			voters = append(voters, s.ID)
		}
	}
	return voters, nil
}

// majority returns once a majority of one configuration holds the blob whole,
// and this node among them. If the configuration moves while it counts, it
// counts again: a majority of the old one may be a minority of the new.
func (r *replicator) majority(ctx context.Context, ref BlobRef) error {
	if err := r.fill(ctx, ref); err != nil {
		return err
	}
	for {
		voters, err := r.voters()
		if err != nil {
			return err
		}
		if err := r.spread(ctx, ref, voters); err != nil {
			return err
		}
		again, err := r.voters()
		if err != nil {
			return err
		}
		if slices.Equal(again, voters) {
			return nil
		}
	}
}

// here reports whether this node holds blobs, by name and size.
func (r *replicator) here(refs []BlobRef) bool {
	return !slices.ContainsFunc(refs, func(ref BlobRef) bool {
		size, ok := r.local.Has(ref.Digest)
		return !ok || uint64(size) != ref.Size
	})
}

// spread hands the blob to the voters that lack it, until a majority has it.
// The others get it too, in the background.
func (r *replicator) spread(ctx context.Context, ref BlobRef, voters []raft.ServerID) error {
	held, asked := 0, 0
	answers := make(chan error, len(voters))
	for _, id := range voters {
		if id == r.n.self {
			held++
			continue
		}
		asked++
		node := nodeOf(id)
		// The node's lifetime, not the call's: a slow follower gets its copy even
		// after the majority answered.
		r.n.spawn(func(life context.Context) {
			err := r.offer(life, node, ref)
			if err != nil && life.Err() == nil {
				r.n.log.Debug("blob not replicated", "blob", ref.Digest.Short(), "to", string(node), "error", err)
			}
			answers <- err
		})
	}
	need := len(voters)/2 + 1
	var last error
	for held < need {
		if asked == 0 {
			return consilium.ErrUnavailable.Withf("%d of %d nodes hold blob %s, %d are needed: %w", held, len(voters), ref.Digest.Short(), need, last)
		}
		select {
		case err := <-answers:
			asked--
			if err == nil {
				held++
			} else {
				last = err
			}
		case <-ctx.Done():
			return fmt.Errorf("replicate blob %s: %w", ref.Digest.Short(), ctx.Err())
		case <-r.n.life.Done():
			return consilium.ErrUnavailable.Withf("this node is stopping")
		}
	}
	return nil
}

// offer makes sure that one node holds the blob.
func (r *replicator) offer(ctx context.Context, node consilium.NodeID, ref BlobRef) error {
	has, err := r.peers.Holds(ctx, node, ref.Digest, ref.Size)
	if err != nil || has {
		return err
	}
	f, size, err := r.local.Open(ref.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	if uint64(size) != ref.Size {
		return consilium.ErrBlobCorrupt.Withf("%d bytes of blob %s, want %d", size, ref.Digest.Short(), ref.Size)
	}
	return r.peers.Store(ctx, node, ref.Digest, ref.Size, f)
}

// recheckAfter is how long a re-hash of a local blob counts.
const recheckAfter = 10 * time.Minute

// holds re-hashes a local blob unless that was done lately. A corrupt blob is
// a missing one.
func (r *replicator) holds(ctx context.Context, ref BlobRef) bool {
	size, ok := r.local.Has(ref.Digest)
	if !ok || uint64(size) != ref.Size {
		return false
	}
	r.mu.Lock()
	fresh := time.Since(r.checked[ref.Digest]) < recheckAfter
	r.mu.Unlock()
	if fresh {
		return true
	}
	if err := r.local.Check(ctx, ref.Digest); err != nil {
		if ctx.Err() == nil {
			r.n.log.Warn("local blob is lost", "blob", ref.Digest.Short(), "error", err)
		}
		return false
	}
	r.mark(ref.Digest)
	return true
}

func (r *replicator) mark(d consilium.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.checked[d] = time.Now()
}

// doubt makes the next use of a local blob re-hash it.
func (r *replicator) doubt(d consilium.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.checked, d)
}

// fill makes sure that this node holds the blob, from a peer if need be.
func (r *replicator) fill(ctx context.Context, ref BlobRef) error {
	if r.holds(ctx, ref) {
		return nil
	}
	done := r.filling.DoChan(ref.Digest.String(), func() (any, error) {
		var last error = consilium.ErrBlobMissing.Withf("%s", ref.Digest.Short())
		for _, c := range r.n.cfg.Book.Roster().Coordinators {
			if c.ID == r.n.cfg.ID {
				continue
			}
			err := r.load(r.n.life, c.ID, ref)
			if err == nil {
				r.n.log.Info("blob filled from a peer", "blob", ref.Digest.Short(), "size", ref.Size, "peer", string(c.ID))
				return nil, nil
			}
			if !errors.Is(err, consilium.ErrBlobMissing) {
				last = err
			}
		}
		return nil, last
	})
	select {
	case res := <-done:
		return res.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *replicator) load(ctx context.Context, node consilium.NodeID, ref BlobRef) error {
	// A peer that hangs must not hold up those that have the blob.
	ctx, cancel := context.WithTimeout(ctx, time.Minute+time.Duration(ref.Size>>16)*time.Second)
	defer cancel()
	rc, err := r.peers.Load(ctx, node, ref.Digest, 0, 0)
	if err != nil {
		return err
	}
	defer rc.Close()
	if err := r.local.PutExpect(ctx, ref.Digest, int64(ref.Size), rc); err != nil {
		return err
	}
	r.mark(ref.Digest)
	return r.keep(ref.Digest)
}

// open opens a blob for reading, filling it from a peer if it is missing here.
func (r *replicator) open(ctx context.Context, ref BlobRef) (blob.File, error) {
	if err := r.fill(ctx, ref); err != nil {
		return nil, err
	}
	f, size, err := r.local.Open(ref.Digest)
	if err != nil {
		return nil, err
	}
	if uint64(size) != ref.Size {
		f.Close()
		return nil, consilium.ErrBlobCorrupt.Withf("%d bytes of blob %s, want %d", size, ref.Digest.Short(), ref.Size)
	}
	return f, nil
}

// stage records that a blob was stored before any command names it, so that
// it can go if none ever does.
func (r *replicator) stage(d consilium.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.checked[d] = time.Now() // just hashed while it was written
	r.staged[d] = time.Now()
}

// put stores exactly the bytes that ref names.
func (r *replicator) put(ctx context.Context, ref BlobRef, rd io.Reader) error {
	r.stage(ref.Digest)
	if err := r.local.PutExpect(ctx, ref.Digest, int64(ref.Size), rd); err != nil {
		return err
	}
	return r.keep(ref.Digest)
}

// keep drops a blob that was collected while it was on its way here: a slow
// follower's copy, a retry that came after its round. Collection is recorded
// before local copies are deleted, so either that deletion finds the blob or we
// find the record; without this the copy would lie here until the sweep.
func (r *replicator) keep(d consilium.Digest) error {
	gone := false
	r.n.fsm.read(func(s *State) { gone = s.Collected(d) })
	if !gone {
		return nil
	}
	if err := r.local.Delete(d); err != nil {
		r.n.log.Warn("blob stays", "blob", d.Short(), "error", err)
	}
	return consilium.ErrBlobMissing.Withf("%s was collected", d.Short())
}

// discard drops what was stored for a command that the log takes no more, unless
// another one named it: without this a hospital that misses round after round would
// leave its boxes of each here until the sweep. While it looks, no command that names
// blobs is on its way into the log; one whose blobs are counted already looks again
// whether they are here (proposeStored).
func (r *replicator) discard(d consilium.Digest) {
	ctx, cancel := context.WithTimeout(r.n.life, applyTimeout)
	defer cancel()
	if r.n.naming.Acquire(ctx, namingAlone) != nil {
		return // a node is being removed, or this one stops: the sweep finds it
	}
	defer r.n.naming.Release(namingAlone)
	if slices.ContainsFunc(r.n.liveBlobs(), func(b BlobRef) bool { return b.Digest == d }) {
		return
	}
	if err := r.local.Delete(d); err != nil {
		r.n.log.Warn("blob stays", "blob", d.Short(), "error", err)
	}
}

// orphanAge is how long a stored blob waits for a command that names it. An
// upload of the largest size at the slowest permitted rate takes less.
const orphanAge = 96 * time.Hour

// sweep deletes blobs that no command named in time, and forgets bookkeeping
// about blobs that are gone.
func (r *replicator) sweep(live map[consilium.Digest]bool) {
	list, err := r.local.List()
	if err != nil {
		r.n.log.Warn("blobs cannot be listed", "error", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	present := make(map[consilium.Digest]bool, len(list))
	for _, b := range list {
		present[b.Digest] = true
		since, known := r.staged[b.Digest]
		switch {
		case live[b.Digest]:
			delete(r.staged, b.Digest)
		case !known:
			r.staged[b.Digest] = time.Now()
		case time.Since(since) > orphanAge:
			if err := r.local.Delete(b.Digest); err != nil {
				r.n.log.Warn("blob stays", "blob", b.Digest.Short(), "error", err)
				continue
			}
			delete(present, b.Digest)
		}
	}
	for d := range r.staged {
		if !present[d] && time.Since(r.staged[d]) > orphanAge {
			delete(r.staged, d)
		}
	}
	for d := range r.checked {
		if !present[d] {
			delete(r.checked, d)
		}
	}
}

// restore brings every live blob back to a majority. A new leader does it
// before it lets anything be summed: the old one may have died between one copy
// and the next, and a committed reference must not be left with one holder. It
// returns the number of blobs that it could not restore.
func (r *replicator) restore(ctx context.Context, live []BlobRef) (lost int, err error) {
	for _, ref := range live {
		err := r.majority(ctx, ref)
		if ctx.Err() != nil {
			return lost, ctx.Err()
		}
		if errors.Is(err, consilium.ErrUnavailable) {
			return lost, err // no majority answers: try again later
		}
		if err != nil {
			lost++
			r.n.log.Error("no node can give a blob that the log names", "blob", ref.Digest.Short(), "size", ref.Size, "error", err)
		}
	}
	return lost, nil
}
