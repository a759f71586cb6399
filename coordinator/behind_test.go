package coordinator

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"consilium"
	"consilium/internal/wire"
)

// behind is the log of a leader that has committed more than it has applied: what it
// lacks, it has after a barrier.
type behind struct {
	consensus
	commit uint64
	apply  func()
}

func (b behind) CommitIndex() uint64 { return b.commit }

func (b behind) Barrier(limit time.Duration) raft.Future {
	b.apply()
	return b.consensus.Barrier(limit)
}

// TestLeaderBehindFollower: a hospital reads at a follower that its study is
// chartered and a round open, and its upload reaches a leader that has committed so
// and not yet applied it. The leader looks again before it refuses, and a read there
// is no older than what the follower told. A leader that answers from what it has
// turns the hospital away from its round.
func TestLeaderBehindFollower(t *testing.T) {
	for _, naive := range []bool{false, true} {
		c := newCluster(t, 3, 4, true, false)
		ctx := limit(t, 5*time.Minute)
		c.runAll()
		p := c.proposal("one")
		c.submit(ctx, p)
		n := c.leader(ctx)
		var earlier []byte
		n.fsm.mu.Lock() // the encoder stores what it reads
		earlier = n.fsm.state.Snapshot()
		at := n.fsm.applied.Load()
		n.fsm.mu.Unlock()
		h := c.chartered(ctx, p)[0]
		n = c.leader(ctx)                                                      // the log is the same, whoever leads
		if err := await(ctx, n.raftNode().Barrier(applyTimeout)); err != nil { // what hospitals read elsewhere is applied here
			t.Fatal(err)
		}
		old, err := Restore(earlier)
		if err != nil {
			t.Fatal(err)
		}
		var current *State
		swap := func(s *State, index uint64) {
			n.fsm.mu.Lock()
			defer n.fsm.mu.Unlock()
			current, n.fsm.state = n.fsm.state, s
			n.fsm.applied.Store(index)
		}
		now := n.fsm.applied.Load()
		swap(old, at)
		back := func() {
			if current != nil {
				swap(current, now)
				current = nil
			}
		}
		real := n.raftNode()
		commit := now
		if naive {
			commit = at
		}
		n.setRaft(behind{real, commit, back})
		m, boxes, _, packed := h.contribution()
		hd, err := consilium.ParseHeader(m.Body)
		if err != nil {
			t.Fatal(err)
		}
		bundle := bytes.Join(boxes, nil)
		err = n.server.Upload(ctx, wire.Identity{Role: wire.RoleSite, Name: string(c.roster.Sites[0].ID)}, &wire.Upload{Message: m, Header: hd,
			Shape: wire.Shape{Lanes: testLanes, Bits: testBits}, BoxSize: len(boxes[0]), Boxes: bytes.NewReader(bundle), Ciphertext: io.Reader(bytes.NewReader(packed))})
		refused := errors.Is(err, consilium.ErrWrongPhase)
		if err != nil && !refused {
			t.Error(err)
		}
		if refused != naive {
			t.Errorf("naive %v: %v", naive, err)
		}
		back()
		n.setRaft(real)
	}
}
