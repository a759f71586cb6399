package coordinator

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

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
	ctx := limit(t, 60*time.Second)
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

// TestNobodyHasRoom: where no node has room, they do not pass the lead round, and
// what waited for room goes on when there is some.
func TestNobodyHasRoom(t *testing.T) {
	c := newCluster(t, 3, 3, true, false)
	ctx := limit(t, 60*time.Second)
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
	for _, n := range c.alive() {
		n.mu.Lock()
		yielded := n.yielded
		n.mu.Unlock()
		if time.Since(yielded) > yieldPause {
			continue
		}
		if err := n.outOfRoom(errNoRoom); consilium.CodeOf(err) != consilium.ErrUnavailable.Code {
			t.Error(err)
		}
		n.mu.Lock()
		if n.yielded != yielded {
			t.Error("it hands over again")
		}
		n.mu.Unlock()
	}
	for _, d := range disks {
		d.full.Store(false)
	}
	if err := <-put; err != nil {
		t.Error(err)
	}
}
