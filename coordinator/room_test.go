package coordinator

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"consilium"
	"consilium/internal/blob"
	"consilium/internal/durable"
)

// smallDisk is a blob store that has no room while it is full.
type smallDisk struct {
	blob.Store
	full    *atomic.Bool
	refused *atomic.Int32
}

var errNoRoom = durable.Full(&fs.PathError{Op: "write", Path: "blobs", Err: syscall.ENOSPC})

func (s smallDisk) Put(ctx context.Context, r io.Reader, limit int64) (consilium.Digest, int64, error) {
	if s.full.Load() {
		s.refused.Add(1)
		return consilium.Digest{}, 0, errNoRoom
	}
	return s.Store.Put(ctx, r, limit)
}

func (s smallDisk) PutExpect(ctx context.Context, want consilium.Digest, size int64, r io.Reader) error {
	if s.full.Load() {
		s.refused.Add(1)
		return errNoRoom
	}
	return s.Store.PutExpect(ctx, want, size, r)
}

// runSmall runs all nodes, each with a disk that can be full.
func (c *cluster) runSmall() map[consilium.NodeID]smallDisk {
	c.t.Helper()
	disks := map[consilium.NodeID]smallDisk{}
	for _, m := range c.roster.Coordinators {
		n, err := Open(context.Background(), c.config(m.ID))
		if err != nil {
			c.t.Fatal(err)
		}
		room := n.blobs.local.(roomStore)
		disk := smallDisk{room.Store, new(atomic.Bool), new(atomic.Int32)}
		room.Store = disk
		n.blobs.local, disks[m.ID] = room, disk
		done := make(chan error, 1)
		go func() { done <- n.Run(context.Background()) }()
		c.mu.Lock()
		c.nodes[m.ID], c.ended[m.ID] = n, done
		c.mu.Unlock()
	}
	return disks
}

// TestLeaderWithoutRoom: a leader whose disk fills in mid-study hands over, and the
// study goes on to its end with every hospital, none of which is told of a full disk,
// which would be its own.
func TestLeaderWithoutRoom(t *testing.T) {
	c := newCluster(t, 3, 4, true, false)
	ctx := limit(t, 5*time.Minute)
	disks := c.runSmall()
	p := c.proposal("one")
	c.submit(ctx, p)
	var full atomic.Pointer[Node]
	c.take(ctx, p, 2, func(h *actor) {
		if h.at.Round == 1 && full.Load() == nil {
			n := c.leader(ctx)
			if full.CompareAndSwap(nil, n) {
				disks[n.ID()].full.Store(true)
			}
		}
	})
	n := full.Load()
	if disks[n.ID()].refused.Load() == 0 {
		t.Fatal("the full disk was not asked")
	}
	// Another node sums, or the study had not ended. The full one serves what it has
	// and says of the rest that it is not to be had here.
	if n.broken() != nil {
		t.Errorf("the node broke down: %v", n.broken())
	}
	b := []byte("a state")
	site := c.client("site/h01", n.ID())
	d, err := site.PutBlob(ctx, bytes.NewReader(b), uint64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := n.blobs.local.Has(d); ok {
		t.Error("the full disk has room")
	}
	if err := n.blobs.fill(ctx, BlobRef{Digest: d, Size: uint64(len(b))}); !errors.Is(err, consilium.ErrUnavailable) || consilium.CodeOf(err) != consilium.ErrUnavailable.Code {
		t.Errorf("a node without room is asked for a blob that it lacks: %v", err)
	}
	// With room again it keeps blobs as before.
	disks[n.ID()].full.Store(false)
	if err := n.blobs.fill(ctx, BlobRef{Digest: d, Size: uint64(len(b))}); err != nil {
		t.Error(err)
	}
}

// TestLeadWithoutRoom: a node whose disk was full before it led hands over, and does
// so again when the lead comes back to it: neither makes a study wait.
func TestLeadWithoutRoom(t *testing.T) {
	c := newCluster(t, 3, 4, true, false)
	ctx := limit(t, 5*time.Minute)
	disks := c.runSmall()
	full := c.alive()[0]
	disks[full.ID()].full.Store(true)
	lead := func() {
		for !full.IsLeader() {
			from := c.leader(ctx)
			if r, ok := from.raftNode().(*raft.Raft); ok && from != full {
				await(ctx, r.LeadershipTransferToServer(full.self, raft.ServerAddress(full.self)))
			}
			if err := pause(ctx, 10*time.Millisecond); err != nil {
				t.Fatal(err)
			}
		}
	}
	lead()
	await(ctx, full.raftNode().LeadershipTransfer())
	full.outOfRoom(errNoRoom) // a copy of another node's blob
	p := c.proposal("one")
	c.submit(ctx, p)
	lead()
	var back sync.Once
	c.take(ctx, p, 2, func(h *actor) {
		if h.at.Round == 2 {
			back.Do(lead)
		}
	})
	if disks[full.ID()].refused.Load() == 0 {
		t.Fatal("the full disk was not asked")
	}
}

// TestTwoWithoutRoom: of two nodes without room each would be the first to take over
// from the other. They do not pass the lead between them: the study goes on at one of
// the three with room.
func TestTwoWithoutRoom(t *testing.T) {
	c := newCluster(t, 5, 3, true, false)
	c.timing.Heartbeat = time.Second // five nodes on a busy machine
	ctx := limit(t, 5*time.Minute)
	disks := c.runSmall()
	conf, err := c.leader(ctx).cluster()
	if err != nil {
		t.Fatal(err)
	}
	p := c.proposal("one")
	c.submit(ctx, p)
	var once sync.Once
	c.take(ctx, p, 2, func(h *actor) {
		if h.at.Round == 1 {
			once.Do(func() {
				lead := c.leader(ctx).self
				disks[nodeOf(lead)].full.Store(true)
				for _, s := range conf.Servers { // the one that raft would choose
					if s.ID != lead {
						disks[nodeOf(s.ID)].full.Store(true)
						return
					}
				}
			})
		}
	})
}

// TestYielding: a node without room hands over when it leads, and again after pauses
// that double, so that nodes without room do not pass the lead round.
func TestYielding(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	var y yielding
	var at []time.Duration
	for d := time.Duration(0); d < 5*time.Minute; d += time.Second / 2 {
		if y.due(now.Add(d), 2*time.Second) {
			at = append(at, d/time.Second)
		}
	}
	if want := []time.Duration{0, 2, 6, 14, 30, 62, 122, 182, 242}; !slices.Equal(at, want) {
		t.Errorf("it hands over after %v s, want %v", at, want)
	}
	if !y.due(now.Add(time.Hour), 2*time.Second) || !y.due(now.Add(time.Hour+2*time.Second), 2*time.Second) {
		t.Error("a disk that had room for long begins with a long pause")
	}
}

// TestNobodyHasRoom: where no node has room, what waited for room goes on when there
// is some.
func TestNobodyHasRoom(t *testing.T) {
	c := newCluster(t, 3, 3, true, false)
	ctx := limit(t, 5*time.Minute)
	disks := c.runSmall()
	lead := c.leader(ctx)
	for _, d := range disks {
		d.full.Store(true)
	}
	put := make(chan error, 1)
	b := []byte("a state")
	go func() {
		_, err := c.client("site/h01", lead.ID()).PutBlob(ctx, bytes.NewReader(b), uint64(len(b)))
		put <- err
	}()
	asked := func() (n int32) {
		for _, d := range disks {
			n += d.refused.Load()
		}
		return n
	}
	for asked() < 6 {
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range disks {
		d.full.Store(false)
	}
	if err := <-put; err != nil {
		t.Error(err)
	}
}
