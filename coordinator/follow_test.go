package coordinator

import (
	"context"
	"errors"
	"testing"
	"time"

	"consilium"
	"consilium/internal/wire"
)

// TestFollowAfterRestart: a node that has started again has its events before it
// has its state, which says who may see them. Who follows it in between gets them
// all the same, once it has found a leader; and is sent on to another node when it
// finds none.
func TestFollowAfterRestart(t *testing.T) {
	c := newCluster(t, 3, 3, false, false)
	ctx := limit(t, 5*time.Minute)
	c.runAll()
	c.leader(ctx)
	p := c.proposal("followed")
	c.submit(ctx, p)
	c.settle(ctx, 1)
	for _, id := range []consilium.NodeID{"c1", "c2", "c3"} {
		c.kill(id)
	}
	c.run("c1")
	errSeen := errors.New("seen")
	follow := func() error {
		return c.client("board/ethics-1", "c1").FollowStudy(ctx, p.id, 0, func(*consilium.Event) error { return errSeen })
	}
	got := make(chan error, 1)
	go func() { got <- follow() }()
	if err := pause(ctx, time.Second); err != nil { // it follows a node that knows nothing yet
		t.Fatal(err)
	}
	c.run("c2")
	select {
	case err := <-got:
		if !errors.Is(err, errSeen) {
			t.Error(err)
		}
	case <-ctx.Done():
		t.Fatal("the events of a finished study were skipped for good")
	}
	// Alone again, it lets go of who follows it.
	c.kill("c1")
	c.kill("c2")
	n := c.run("c1")
	err := (&server{n: n}).Follow(context.Background(), wire.Identity{Role: wire.RoleBoard, Name: "ethics-1"}, "", 0, func([]byte) error { return nil })
	if !errors.Is(err, consilium.ErrUnavailable) {
		t.Errorf("a node without a leader keeps its followers: %v", err)
	}
}
