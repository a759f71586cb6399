package coordinator

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"consilium"
	"consilium/internal/durable"
)

// TestOlderCopy puts a node's directory back from a copy that was taken before
// something was acknowledged. The node that comes with it finds out from the
// first peer that it meets, and ends before it votes. In the twin that peer has
// forgotten whom it met: the two elect a leader, and what was acknowledged is gone.
func TestOlderCopy(t *testing.T) {
	for _, naive := range []bool{false, true} {
		name := "kept"
		if naive {
			name = "forgotten"
		}
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 3, 3, false, false)
			ctx := limit(t, 5*time.Minute)
			c.runAll()
			c.leader(ctx)
			meet := func(of, by consilium.NodeID) {
				t.Helper()
				c.mu.Lock()
				n, peer := c.nodes[of], c.nodes[by]
				c.mu.Unlock()
				want := n.starts.own[len(n.starts.own)-1]
				for {
					peer.starts.mu.Lock()
					have := peer.starts.known[n.self]
					peer.starts.mu.Unlock()
					if have == want {
						return
					}
					if err := pause(ctx, 5*time.Millisecond); err != nil {
						t.Fatalf("%s does not meet %s", by, of)
					}
				}
			}
			c.mu.Lock()
			b := c.nodes["c2"]
			delete(c.nodes, "c2")
			c.mu.Unlock()
			b.Close()
			old := filepath.Join(t.TempDir(), "old")
			if err := os.CopyFS(old, os.DirFS(c.dirs["c2"])); err != nil {
				t.Fatal(err)
			}
			c.run("c2")
			// Only leaders call: the one that shall remember c2's start leads, or c2 does.
			knows, other := consilium.NodeID("c3"), consilium.NodeID("c1")
			if c.leader(ctx).ID() == other {
				knows, other = other, knows
			}
			meet("c2", knows)
			c.kill(knows)
			p := c.proposal("acknowledged")
			c.submit(ctx, p) // c2 and the other have it
			c.kill(other)
			c.kill("c2")
			if err := os.RemoveAll(c.dirs["c2"]); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(c.dirs["c2"], os.DirFS(old)); err != nil {
				t.Fatal(err)
			}
			if naive {
				for _, id := range []consilium.NodeID{"c2", knows} {
					if err := os.Remove(filepath.Join(c.dirs[id], peersFile)); err != nil {
						t.Fatal(err)
					}
				}
			}
			c.run(knows)
			n := c.run("c2")
			if naive {
				l := c.leader(ctx)
				if err := await(ctx, l.raftNode().Barrier(applyTimeout)); err != nil {
					t.Fatal(err)
				}
				l.fsm.read(func(s *State) {
					if len(s.Studies()) != 0 {
						t.Error("the study is not lost: the test shows nothing")
					}
				})
				return
			}
			select {
			case err := <-c.ended["c2"]:
				if !errors.Is(err, consilium.ErrStale) || !errors.Is(err, errOlderCopy) {
					t.Fatal(err)
				}
			case <-ctx.Done():
				t.Fatal("the older copy runs on")
			}
			if n.fsm.applied.Load() > 0 && n.IsLeader() {
				t.Error("it leads")
			}
			c.mu.Lock()
			delete(c.nodes, "c2")
			c.mu.Unlock()
			c.run(other)
			l := c.leader(ctx)
			if err := await(ctx, l.raftNode().Barrier(applyTimeout)); err != nil {
				t.Fatal(err)
			}
			l.fsm.read(func(s *State) {
				if len(s.Studies()) != 1 {
					t.Error("an acknowledged study is lost")
				}
			})
		})
	}
}

// A start that could not be written is not remembered: who comes again is written
// again, or not let in. Otherwise a restart forgets whom the node replicates with.
func TestStartNotWritten(t *testing.T) {
	path := t.TempDir()
	dir, err := durable.Prepare(path, "coordinator")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	s, err := openStarts(dir, "c1.x")
	if err != nil {
		t.Fatal(err)
	}
	theirs := startName{7}
	hello := append(theirs[:], make([]byte, len(theirs))...)
	// A directory of that name cannot be replaced by a file.
	if err := os.MkdirAll(filepath.Join(path, peersFile, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.hear("c2.x", bytes.NewReader(hello)); err == nil {
			t.Fatal("a peer was let in whose start was not written")
		}
	}
	if err := os.RemoveAll(filepath.Join(path, peersFile)); err != nil {
		t.Fatal(err)
	}
	if err := s.hear("c2.x", bytes.NewReader(hello)); err != nil {
		t.Fatal(err)
	}
	known := map[raft.ServerID]startName{}
	if err := readState(filepath.Join(path, peersFile), &known); err != nil || known["c2.x"] != theirs {
		t.Fatalf("%v %v", known, err)
	}
}
