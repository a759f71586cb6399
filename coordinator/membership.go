package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"consilium"
	"consilium/internal/durable"
)

// The roster says which nodes there shall be; the leader brings the cluster
// there, one node at a time, and loses no blob on the way:
//
//   - A new node first becomes a learner, which neither votes nor counts. It gets
//     the log and every live blob, and votes only then.
//   - A node that the roster dropped goes after every new one votes, and only while
//     each live blob is on a majority of those that stay. Nothing is named in the
//     log meanwhile (Node.naming), so no count includes the node that goes.
//   - One task of the leader takes all steps, one after the other, in a term that
//     began with a barrier; a step that finds other servers than it was decided on
//     is decided again. (Raft takes the index of that configuration too, and never
//     tells it: raft v1.8.0, Raft.GetConfiguration.)
//
// Replacing a node without this order leaves committed references without a
// holder: TestReplacedNodeLosesNoBlob does it both ways.

// learnerLag is how many log entries a learner may be behind when it becomes a
// voter. A voter that is far behind makes every commit wait for it.
const learnerLag = 64

// changeTimeout bounds one change of the configuration.
const changeTimeout = 30 * time.Second

// cluster is the configuration, committed or about to be.
func (n *Node) cluster() (conf raft.Configuration, err error) {
	f := n.raftNode().GetConfiguration()
	if err := f.Error(); err != nil {
		return conf, consilium.ErrUnavailable.With(err)
	}
	return f.Configuration(), nil
}

// still fails unless the cluster is the one that a change was decided on.
func (n *Node) still(conf raft.Configuration) error {
	now, err := n.cluster()
	if err == nil && !slices.Equal(now.Servers, conf.Servers) {
		err = consilium.ErrStale.Withf("the cluster has changed meanwhile")
	}
	return err
}

// membersDiffer reports whether the cluster is not the one that the roster
// names.
func (n *Node) membersDiffer() bool {
	conf, err := n.cluster()
	if err != nil {
		return false
	}
	roster := n.cfg.Book.Roster()
	voters := 0
	for _, s := range conf.Servers {
		if _, ok := roster.Coordinator(nodeOf(s.ID)); !ok || s.Suffrage != raft.Voter {
			return true
		}
		voters++
	}
	return voters != len(roster.Coordinators)
}

// reconcileMembers takes the next step from the cluster to the roster. The
// leader's loop calls it until they agree.
func (n *Node) reconcileMembers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute) // a learner may need many blobs
	defer cancel()
	if err := await(ctx, n.raftNode().Barrier(applyTimeout)); err != nil {
		return consilium.ErrUnavailable.With(err)
	}
	conf, err := n.cluster()
	if err != nil {
		return err
	}
	roster := n.cfg.Book.Roster()
	known := map[consilium.NodeID]raft.Server{}
	for _, s := range conf.Servers {
		known[nodeOf(s.ID)] = s
	}
	for _, c := range roster.Coordinators {
		s, ok := known[c.ID]
		switch {
		case !ok:
			return n.addLearner(ctx, c.ID, conf)
		case s.Suffrage != raft.Voter:
			return n.promote(ctx, s, conf)
		}
	}
	for _, s := range conf.Servers {
		if _, ok := roster.Coordinator(nodeOf(s.ID)); ok {
			continue
		}
		if s.ID == n.self {
			return n.handOver(ctx) // the next leader goes on
		}
		return n.remove(ctx, s, conf)
	}
	return nil
}

func (n *Node) addLearner(ctx context.Context, id consilium.NodeID, conf raft.Configuration) error {
	h, err := n.peers.Hello(ctx, id, n.incarnation)
	if err != nil {
		return fmt.Errorf("new node %s does not answer: %w", id, err)
	}
	sid := serverID(id, h.Incarnation)
	if h.Started && !added(h.Members, sid, conf) {
		return consilium.ErrStale.Withf("new node %s belongs to another cluster; give it an empty directory", id)
	}
	if err := n.still(conf); err != nil {
		return err
	}
	if err := await(ctx, n.raftNode().AddNonvoter(sid, raft.ServerAddress(sid), 0, changeTimeout)); err != nil {
		return fmt.Errorf("add %s: %w", id, err)
	}
	n.log.Info("node added as a learner", "id", string(id))
	return nil
}

// added reports whether a node that has begun was added to this very cluster by a
// leader that died before that was committed: it knows itself as a member, under the
// name of its directory, and beside it a node of ours under the name of its. A
// directory belongs to one cluster, so the members of another know none of ours.
func added(members []string, sid raft.ServerID, conf raft.Configuration) bool {
	return slices.Contains(members, string(sid)) && slices.ContainsFunc(conf.Servers, func(s raft.Server) bool {
		return s.ID != sid && slices.Contains(members, string(s.ID))
	})
}

// promote gives a learner its vote once it has the log and every live blob.
// What is stored between the two counts on a majority of the old voters, and any
// majority of n voters outlives the loss of a minority of n+1.
func (n *Node) promote(ctx context.Context, s raft.Server, conf raft.Configuration) error {
	node := nodeOf(s.ID)
	err := handOver(n.liveBlobs(), func(ref BlobRef) error { return n.blobs.fill(ctx, ref) }, func(ref BlobRef) error { return n.blobs.offer(ctx, node, ref) },
		func(ref BlobRef, err error) {
			n.log.Warn("a live blob is lost, and the new node begins without it", "blob", ref.Digest.Short(), "error", err)
		})
	if err != nil {
		return fmt.Errorf("new node %s: %w", node, err)
	}
	for {
		h, err := n.peers.Hello(ctx, node, n.incarnation)
		if err != nil {
			return fmt.Errorf("new node %s does not answer: %w", node, err)
		}
		if h.Applied+learnerLag >= n.fsm.applied.Load() {
			break
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("node %s is at log index %d of %d: %w", node, h.Applied, n.fsm.applied.Load(), err)
		}
	}
	if err := n.still(conf); err != nil {
		return err
	}
	if err := await(ctx, n.raftNode().AddVoter(s.ID, s.Address, 0, changeTimeout)); err != nil {
		return fmt.Errorf("give %s its vote: %w", node, err)
	}
	n.log.Info("node votes", "id", string(node))
	return nil
}

// handOver fetches each blob that is missing here and gives it to a learner. A
// blob that every node lacks is lost to the others too, and holds nobody up; any
// other failure does: a voter that lacks a live blob must not count.
func handOver(live []BlobRef, fill, offer func(BlobRef) error, lost func(BlobRef, error)) error {
	for _, ref := range live {
		if err := fill(ref); errors.Is(err, consilium.ErrBlobMissing) {
			lost(ref, err)
			continue
		} else if err != nil {
			return fmt.Errorf("fetch blob %s: %w", ref.Digest.Short(), err)
		}
		if err := offer(ref); err != nil {
			return fmt.Errorf("hand over blob %s: %w", ref.Digest.Short(), err)
		}
	}
	return nil
}

// remove takes a node out of the cluster.
func (n *Node) remove(ctx context.Context, s raft.Server, conf raft.Configuration) error {
	var stay []raft.ServerID
	for _, o := range conf.Servers {
		if o.Suffrage == raft.Voter && o.ID != s.ID {
			stay = append(stay, o.ID)
		}
	}
	node := nodeOf(s.ID)
	if s.Suffrage == raft.Voter && !slices.Contains(stay, n.self) {
		return fmt.Errorf("the leader is not among those that stay when %s goes", node)
	}
	keep := func() error {
		for _, ref := range n.liveBlobs() {
			if err := n.blobs.fill(ctx, ref); err != nil {
				return fmt.Errorf("node %s stays: blob %s: %w", node, ref.Digest.Short(), err)
			}
			if err := n.blobs.spread(ctx, ref, stay); err != nil {
				return fmt.Errorf("node %s stays: %w", node, err)
			}
		}
		return nil
	}
	// Most copies are made while the log goes on; what came meanwhile is copied
	// while nothing can be named.
	if err := keep(); err != nil {
		return err
	}
	if err := n.naming.Acquire(ctx, namingAlone); err != nil {
		return err
	}
	defer n.naming.Release(namingAlone)
	if err := await(ctx, n.raftNode().Barrier(applyTimeout)); err != nil {
		return consilium.ErrUnavailable.With(err)
	}
	if err := keep(); err != nil {
		return err
	}
	if err := n.still(conf); err != nil {
		return err
	}
	if err := await(ctx, n.raftNode().RemoveServer(s.ID, 0, changeTimeout)); err != nil {
		return fmt.Errorf("remove %s: %w", node, err)
	}
	n.log.Info("node removed", "id", string(node))
	return nil
}

func (n *Node) liveBlobs() (live []BlobRef) {
	n.fsm.read(func(s *State) { live = s.LiveBlobs() })
	return live
}

// proposeStored proposes a command that names blobs, once a majority of the
// configuration in force holds each of them.
func (n *Node) proposeStored(ctx context.Context, op Op, refs ...BlobRef) error {
	for {
		before, err := n.blobs.voters()
		if err != nil {
			return err
		}
		for _, ref := range refs {
			if err := n.blobs.majority(ctx, ref); err != nil {
				return err
			}
		}
		if err := n.naming.Acquire(ctx, 1); err != nil {
			return err
		}
		now, err := n.blobs.voters()
		if err == nil && slices.Equal(now, before) && n.blobs.here(refs) {
			err = n.propose(op)
			n.naming.Release(1)
			return err
		}
		n.naming.Release(1)
		if err != nil {
			return err
		}
	}
}

// markJoined records that this directory may have voted.
func (n *Node) markJoined() error {
	if n.dir == nil {
		return nil
	}
	if err := durable.WriteFile(n.dir.Join("joined"), []byte(string(n.self)+"\n"), 0o600); err != nil {
		return fmt.Errorf("coordinator: %w", err)
	}
	return nil
}

// awaitJoined marks the directory of a node that was added to a running
// cluster. If we crash before, the log that it got says the same, or is empty
// and has voted in nothing.
func (n *Node) awaitJoined(ctx context.Context) {
	for {
		conf, err := n.cluster()
		if err == nil && slices.ContainsFunc(conf.Servers, func(s raft.Server) bool { return s.ID == n.self }) {
			break
		}
		if pause(ctx, 100*time.Millisecond) != nil {
			return
		}
	}
	if err := n.markJoined(); err != nil {
		n.end(err)
		return
	}
	n.log.Info("added to the cluster")
}
