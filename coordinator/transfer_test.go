package coordinator

import (
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// stuck is a leader's log whose transfer of leadership never ends.
type stuck struct{ consensus }

func (stuck) Apply([]byte, time.Duration) raft.ApplyFuture {
	return failed(raft.ErrLeadershipTransferInProgress)
}

func (stuck) Barrier(time.Duration) raft.Future {
	return failed(raft.ErrLeadershipTransferInProgress)
}

// TestStuckTransfer: a leader that hands over and takes commands again goes on; one
// that refuses them for ever ends, and leads again after a start.
func TestStuckTransfer(t *testing.T) {
	c := newCluster(t, 1, 3, false, false)
	c.timing.Heartbeat, c.timing.Peer = 20*time.Millisecond, 100*time.Millisecond
	ctx := limit(t, 5*time.Minute)
	c.runAll()
	n := c.leader(ctx)
	real := n.raftNode()
	for range 3 {
		n.setRaft(stuck{real})
		if err := n.propose(&Tick{}); err == nil {
			t.Fatal("a log that is stuck takes a command")
		}
		n.setRaft(real)
		if err := n.propose(&Tick{}); err != nil {
			t.Fatal(err)
		}
		n.mu.Lock()
		if n.handing != (handing{}) {
			t.Error("a transfer that has ended counts on")
		}
		n.mu.Unlock()
	}
	// Transfers that ended, each with a refused command in it and long ago, are no
	// transfer that does not.
	for range 3 {
		n.setRaft(stuck{real})
		if err := n.propose(&Tick{}); err == nil {
			t.Fatal("a log that is stuck takes a command")
		}
		n.mu.Lock()
		if n.handing.since.IsZero() {
			t.Error("a refused command does not count")
		}
		n.handing.since = n.handing.since.Add(-2 * n.cfg.Timing.longTransfer())
		n.mu.Unlock()
		if err := n.handOver(ctx); err == nil {
			t.Error("there is nobody to hand over to")
		}
	}
	n.setRaft(real)
	if err := n.propose(&Tick{}); err != nil {
		t.Fatalf("a node whose transfers ended: %v", err)
	}
	select {
	case err := <-c.ended[n.ID()]:
		t.Fatalf("a node whose transfers ended has ended: %v", err)
	default:
	}
	n.setRaft(stuck{real})
	for ended := false; !ended; {
		n.propose(&Tick{})
		select {
		case err := <-c.ended[n.ID()]:
			if !errors.Is(err, errTransferring) {
				t.Errorf("it ended with %v", err)
			}
			ended = true
		case <-ctx.Done():
			t.Fatal("it refuses everything for ever")
		case <-time.After(5 * time.Millisecond):
		}
	}
	c.mu.Lock()
	delete(c.nodes, n.ID())
	c.mu.Unlock()
	c.run(n.ID())
	p := c.proposal("one")
	c.submit(ctx, p)
	c.take(ctx, p, 1, nil)
}
