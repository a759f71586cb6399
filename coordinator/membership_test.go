package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"

	"consilium"
)

// voters waits until the cluster's voters are these nodes.
func (c *cluster) voters(ctx context.Context, want ...consilium.NodeID) {
	c.t.Helper()
	var have []consilium.NodeID
	for {
		have = have[:0]
		for _, n := range c.alive() {
			if !n.IsLeader() {
				continue
			}
			conf, err := n.cluster()
			if err != nil {
				continue
			}
			for _, s := range conf.Servers {
				if s.Suffrage == raft.Voter {
					have = append(have, nodeOf(s.ID))
				} else {
					have = append(have, "learner "+nodeOf(s.ID))
				}
			}
		}
		slices.Sort(have)
		if slices.Equal(have, want) {
			return
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			c.t.Fatalf("the cluster is %v, want %v", have, want)
		}
	}
}

func (c *cluster) without(r *consilium.Roster, ids ...consilium.NodeID) {
	r.Coordinators = slices.DeleteFunc(r.Coordinators, func(o consilium.Coordinator) bool { return slices.Contains(ids, o.ID) })
}

// gone waits until nodes that the roster dropped have ended, and forgets them.
func (c *cluster) gone(ids ...consilium.NodeID) {
	c.t.Helper()
	for _, id := range ids {
		select {
		case err := <-c.ended[id]:
			if !errors.Is(err, errLeft) {
				c.t.Errorf("%s, which left, ended with %v", id, err)
			}
		case <-time.After(2 * time.Minute):
			c.t.Fatalf("%s does not leave", id)
		}
		c.mu.Lock()
		delete(c.nodes, id)
		c.mu.Unlock()
	}
}

// TestMembersUnderLoad takes a cluster from three nodes to five and back to
// three others while studies run, and wants every study done and the same events
// everywhere.
func TestMembersUnderLoad(t *testing.T) {
	c := newCluster(t, 3, 3, false, true)
	c.timing.Heartbeat = 1500 * time.Millisecond // five nodes on a busy machine: none shall be lost for being slow
	ctx := limit(t, 5*time.Minute)
	c.runAll()
	first := c.proposal("one")
	c.submit(ctx, first)
	// Load: one study all along, whose rounds wait for the changes, since its last
	// round is the last one of the test.
	stop := make(chan struct{})
	g, gctx := errgroup.WithContext(ctx)
	c.chartered(ctx, first) // enrolment binds the roster; it is over
	g.Go(func() error {
		cl := c.client("board/ethics-1", "")
		for i := 0; ; i++ {
			select {
			case <-stop:
				return nil
			default:
			}
			b := []byte(fmt.Sprintf("load %d", i))
			if _, err := cl.PutBlob(gctx, bytes.NewReader(b), uint64(len(b))); err != nil && !errors.Is(err, consilium.ErrForbidden) {
				return fmt.Errorf("under load: %w", err)
			}
			if _, err := cl.Status(gctx, first.id); err != nil {
				return fmt.Errorf("under load: %w", err)
			}
		}
	})
	rounds := make(chan struct{})
	go func() {
		defer close(rounds)
		c.take(ctx, first, 25, nil)
	}()

	c4, c5 := c.coordinator("c4"), c.coordinator("c5")
	c.install(c.nextRoster(func(r *consilium.Roster) { r.Coordinators = append(r.Coordinators, c4, c5) }))
	c.run("c4")
	c.run("c5")
	c.voters(ctx, "c1", "c2", "c3", "c4", "c5")
	leader := c.leader(ctx).ID()
	go2 := slices.DeleteFunc([]consilium.NodeID{"c1", "c2", "c3"}, func(id consilium.NodeID) bool { return id == leader })[0]
	c.install(c.nextRoster(func(r *consilium.Roster) { c.without(r, leader, go2) })) // the leader among them
	c.gone(leader, go2)
	stays := slices.DeleteFunc([]consilium.NodeID{"c1", "c2", "c3", "c4", "c5"}, func(id consilium.NodeID) bool { return id == leader || id == go2 })
	c.voters(ctx, stays...)
	close(stop)
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	<-rounds
	events := c.settle(ctx, 1)
	c.checkAudit(ctx, events)
	// A whole study on the new cluster, and a restart of a node that was added.
	second := c.proposal("two")
	c.submit(ctx, second)
	c.take(ctx, second, 2, nil)
	want := c.settle(ctx, len(events)+1)
	c.kill("c4")
	c.run("c4")
	c.settle(ctx, len(want))
}

// TestReplacedNodeLosesNoBlob: one node is replaced, and then the leader is
// lost with its disk. What was acknowledged must still be somewhere. The naive
// twin changes the configuration without looking at blobs, and loses it.
func TestReplacedNodeLosesNoBlob(t *testing.T) {
	for _, naive := range []bool{false, true} {
		t.Run(fmt.Sprintf("naive=%v", naive), func(t *testing.T) {
			c := newCluster(t, 3, 3, false, false)
			ctx := limit(t, 5*time.Minute)
			c.runAll()
			p := c.proposal("one")
			c.submit(ctx, p)
			all := c.chartered(ctx, p)
			lead := c.leader(ctx)
			var others []*Node
			for _, n := range c.alive() {
				if n != lead {
					others = append(others, n)
				}
			}
			leaves, slow := others[0], others[1]
			if err := all[0].upload(ctx); err != nil {
				t.Fatal(err)
			}
			live := lead.liveBlobs()
			if len(live) < 2 {
				t.Fatalf("%d live blobs", len(live))
			}
			// The copies on the slow node never arrived: the majority is the leader
			// and the node that leaves.
			c.settle(ctx, 1)
			for _, ref := range live {
				for {
					if err := slow.blobs.local.Delete(ref.Digest); err != nil {
						t.Fatal(err)
					}
					if err := pause(ctx, 20*time.Millisecond); err != nil {
						t.Fatal(err)
					}
					if _, ok := slow.blobs.local.Has(ref.Digest); !ok {
						break
					}
				}
				if held := leaves.blobs.holds(ctx, ref); !held {
					if err := leaves.blobs.fill(ctx, ref); err != nil {
						t.Fatal(err)
					}
				}
			}
			c4 := c.coordinator("c4")
			if naive {
				// The same two changes, straight away. Nobody learns of a roster, so
				// nobody reconciles.
				conf, err := lead.cluster()
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range conf.Servers {
					if s.ID == leaves.self {
						if err := lead.raftNode().RemoveServer(s.ID, 0, 0).Error(); err != nil {
							t.Fatal(err)
						}
					}
				}
				c.kill(leaves.ID())
				// A late copy or the first maintenance may have come in between.
				for _, ref := range live {
					if err := slow.blobs.local.Delete(ref.Digest); err != nil {
						t.Fatal(err)
					}
				}
			} else {
				c.install(c.nextRoster(func(r *consilium.Roster) {
					c.without(r, leaves.ID())
					r.Coordinators = append(r.Coordinators, c4)
				}))
				c.gone(leaves.ID())
				c.run("c4")
				want := []consilium.NodeID{lead.ID(), slow.ID(), "c4"}
				slices.Sort(want)
				c.voters(ctx, want...)
			}
			if err := os.RemoveAll(c.dirs[leaves.ID()]); err != nil {
				t.Fatal(err)
			}
			c.kill(lead.ID())
			if err := os.RemoveAll(c.dirs[lead.ID()]); err != nil {
				t.Fatal(err)
			}
			holders := 0
			for _, n := range c.alive() {
				whole := true
				for _, ref := range live {
					whole = whole && n.blobs.local.Check(ctx, ref.Digest) == nil
				}
				if whole {
					holders++
				}
			}
			if naive {
				if holders != 0 {
					t.Fatalf("%d holders: the twin shows nothing", holders)
				}
				return
			}
			if holders != 2 {
				t.Fatalf("%d of the remaining nodes hold what was acknowledged", holders)
			}
			// And the study goes on to its end.
			c.take(ctx, p, 1, nil)
		})
	}
}

// TestLearnerIsNoVoter: a node that cannot take the blobs stays a learner, and
// commits do not depend on it.
func TestLearnerIsNoVoter(t *testing.T) {
	c := newCluster(t, 3, 3, true, false)
	ctx := limit(t, 5*time.Minute)
	c.runAll()
	lead := c.leader(ctx)
	p := c.proposal("one")
	c.submit(ctx, p)
	c4 := c.coordinator("c4")
	c.chartered(ctx, p) // enrolment binds the roster; it is over
	c.install(c.nextRoster(func(r *consilium.Roster) { r.Coordinators = append(r.Coordinators, c4) }))
	if !lead.membersDiffer() {
		t.Error("a missing node is not missed")
	}
	// It is in the roster and not there: everything goes on without it.
	if _, err := c.client("board/ethics-1", "").PutBlob(ctx, bytes.NewReader([]byte("b")), 1); err != nil && !errors.Is(err, consilium.ErrForbidden) {
		t.Error(err)
	}
	if conf, err := lead.cluster(); err != nil || len(conf.Servers) != 3 {
		t.Errorf("a node that never answered is in the cluster: %+v, %v", conf, err)
	}
	c.run("c4")
	c.voters(ctx, "c1", "c2", "c3", "c4")
	// A roster that drops it again, before or after it voted, takes it out.
	c.install(c.nextRoster(func(r *consilium.Roster) { c.without(r, "c4") }))
	c.gone("c4")
	c.voters(ctx, "c1", "c2", "c3")
	c.take(ctx, p, 1, nil)
}

// TestLearnerOfDeadLeader: a leader adds a node, tells nobody else, and dies. The node
// has begun, and the next leader adds it all the same; one that belongs to another
// cluster it does not add.
func TestLearnerOfDeadLeader(t *testing.T) {
	c := newCluster(t, 3, 3, true, false)
	ctx := limit(t, 5*time.Minute)
	c.runAll()
	p := c.proposal("one")
	c.submit(ctx, p)
	c.chartered(ctx, p)
	c.settle(ctx, 1)
	lead := c.leader(ctx)
	var last uint64
	for all := false; !all; { // until everybody has the whole log
		var err error
		if last, err = lead.stores.log.LastIndex(); err != nil {
			t.Fatal(err)
		}
		all = true
		for _, o := range c.alive() {
			have, err := o.stores.log.LastIndex()
			all = all && err == nil && have == last
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	entries := make([]*raft.Log, last)
	for i := range entries {
		entries[i] = new(raft.Log)
		if err := lead.stores.log.GetLog(uint64(i+1), entries[i]); err != nil {
			t.Fatal(err)
		}
	}
	conf, err := lead.cluster()
	if err != nil {
		t.Fatal(err)
	}
	term := lead.raftNode().CurrentTerm()
	c.kill(lead.ID())
	for _, o := range c.alive() {
		var e raft.Log
		if o.stores.log.GetLog(last+1, &e) == nil && e.Term == term {
			t.Fatalf("%s has another entry %d of the dead leader", o.ID(), last+1)
		}
	}
	c4 := c.coordinator("c4")
	c.install(c.nextRoster(func(r *consilium.Roster) { r.Coordinators = append(r.Coordinators, c4) }))
	n, err := Open(ctx, c.config("c4"))
	if err != nil {
		t.Fatal(err)
	}
	// What the dead leader wrote into the new node's log, and into no other.
	conf.Servers = append(slices.Clone(conf.Servers), raft.Server{ID: n.self, Address: raft.ServerAddress(n.self), Suffrage: raft.Nonvoter})
	entries = append(entries, &raft.Log{Index: last + 1, Term: term, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(conf)})
	if err := n.stores.log.StoreLogs(entries); err != nil {
		t.Fatal(err)
	}
	if err := n.stores.stable.SetUint64([]byte("CurrentTerm"), term); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- n.Run(context.Background()) }()
	c.mu.Lock()
	c.nodes["c4"], c.ended["c4"] = n, done
	c.mu.Unlock()
	c.voters(ctx, "c1", "c2", "c3", "c4")
	c.take(ctx, p, 1, nil)

	mine := raft.Configuration{Servers: []raft.Server{{ID: "c1.a"}, {ID: "c2.b"}, {ID: "c3.c"}}}
	for members, want := range map[string]bool{"c1.a c2.b c3.c c4.d": true, "c3.c c4.d": true, "c1.x c2.y c4.d": false, "c1.a c2.b c4.x": false, "c4.d": false, "": false} {
		if added(strings.Fields(members), "c4.d", mine) != want {
			t.Errorf("a node that knows %q is taken: %v", members, !want)
		}
	}
}

// TestRosterKeepsMajority: a roster that keeps too few nodes is refused and
// changes nothing, the cluster goes on, and the same nodes are replaced one after
// another. The naive twin takes the roster: the node that is left has one vote of
// three, and no leader comes.
func TestRosterKeepsMajority(t *testing.T) {
	c := newCluster(t, 3, 3, false, false)
	ctx := limit(t, 5*time.Minute)
	c.runAll()
	p := c.proposal("one")
	c.submit(ctx, p)
	c.chartered(ctx, p)
	lead := c.leader(ctx)
	c4, c5 := c.coordinator("c4"), c.coordinator("c5")
	before := lead.cfg.Book.Digest()
	for _, drop := range [][]consilium.NodeID{{"c1", "c2"}, {"c1", "c2", "c3"}} {
		next := c.nextRoster(func(r *consilium.Roster) {
			c.without(r, drop...)
			r.Coordinators = append(r.Coordinators, c4, c5)
		})
		for _, n := range c.alive() {
			if err := n.UpdateRoster(next); !errors.Is(err, consilium.ErrStale) {
				t.Fatalf("a roster without %v: %v", drop, err)
			}
		}
	}
	if lead.cfg.Book.Digest() != before || c.leader(ctx) == nil {
		t.Fatal("a refused roster is in force")
	}
	// Two rosters at once are as bad as one: the first is not carried out yet.
	if kept, voters, err := lead.keeps(&consilium.Roster{Coordinators: []consilium.Coordinator{{ID: "c1"}, c4, c5}}); err != nil || kept != 1 || voters != 3 {
		t.Errorf("%d of %d voters kept: %v", kept, voters, err)
	}
	stay := slices.DeleteFunc([]consilium.NodeID{"c1", "c2", "c3"}, func(id consilium.NodeID) bool { return id == "c1" })
	c.install(c.nextRoster(func(r *consilium.Roster) {
		c.without(r, "c1")
		r.Coordinators = append(r.Coordinators, c4)
	}))
	c.run("c4")
	c.gone("c1")
	c.voters(ctx, append(stay, "c4")...)

	t.Run("naive", func(t *testing.T) {
		c := newCluster(t, 3, 3, false, false)
		c.timing.Heartbeat = 200 * time.Millisecond
		c.runAll()
		ctx := limit(t, 5*time.Minute)
		c.submit(ctx, c.proposal("one"))
		c.coordinator("c4")
		next := c.nextRoster(func(r *consilium.Roster) { c.without(r, "c1", "c2") })
		for _, n := range c.alive() {
			// What UpdateRoster did before it looked.
			if err := n.cfg.Book.Update(next); err != nil {
				t.Fatal(err)
			}
			if l := n.layer.Load(); l != nil { // it has begun
				l.recheck()
			}
			if n.ID() != "c3" {
				n.end(errLeft)
			}
		}
		c.gone("c1", "c2")
		if err := pause(ctx, 3*time.Second); err != nil {
			t.Fatal(err)
		}
		for _, n := range c.alive() {
			if n.IsLeader() {
				t.Error("one node of three leads: the twin is not broken")
			}
		}
	})
}

// TestHandOver: a learner gets no vote while a live blob could not be handed to
// it, unless the blob is lost to all. The naive twin goes on after any failure.
func TestHandOver(t *testing.T) {
	live := []BlobRef{{dig("one"), 1}, {dig("two"), 2}, {dig("three"), 3}}
	for name, tt := range map[string]struct {
		fill, offer error // of the second blob
		fails       bool
		offered     int
	}{
		"all there":           {nil, nil, false, 3},
		"lost everywhere":     {consilium.ErrBlobMissing, nil, false, 2},
		"a peer does not say": {consilium.ErrUnavailable, nil, true, 1},
		"time-out":            {context.DeadlineExceeded, nil, true, 1},
		"not taken":           {nil, consilium.ErrUnavailable, true, 1},
	} {
		offered := 0
		second := func(err error) func(BlobRef) error {
			return func(ref BlobRef) error {
				if ref == live[1] {
					return err
				}
				return nil
			}
		}
		err := handOver(live, second(tt.fill), func(ref BlobRef) error {
			err := second(tt.offer)(ref)
			if err == nil {
				offered++
			}
			return err
		}, func(BlobRef, error) {})
		if (err != nil) != tt.fails || offered != tt.offered {
			t.Errorf("%s: %v, %d of 3 handed over", name, err, offered)
		}
	}
}
