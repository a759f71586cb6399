package coordinator

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/sync/errgroup"

	"consilium"
	"consilium/internal/blob"
	"consilium/internal/durable"
	"consilium/internal/wire"
	"consilium/provenance"
)

// settle waits until all living nodes have recorded the same events, at least
// some, and returns them encoded.
func (c *cluster) settle(ctx context.Context, least int) [][]byte {
	c.t.Helper()
	for {
		var sizes []uint64
		nodes := c.alive()
		for _, n := range nodes {
			size, _ := n.events.len()
			sizes = append(sizes, size)
		}
		same := sizes[0] >= uint64(least)
		for _, s := range sizes {
			same = same && s == sizes[0]
		}
		if same {
			var first [][]byte
			for i, n := range nodes {
				var all [][]byte
				for seq := range sizes[0] {
					b, err := n.events.read(seq)
					if err != nil {
						c.t.Fatal(err)
					}
					all = append(all, b)
				}
				if i == 0 {
					first = all
				} else if !bytes.Equal(bytes.Join(all, nil), bytes.Join(first, nil)) {
					c.t.Fatalf("nodes %s and %s recorded different events", nodes[0].ID(), n.ID())
				}
			}
			return first
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			c.t.Fatalf("nodes recorded %v events: %v", sizes, err)
		}
	}
}

// take lets all hospitals take part until the study is done.
func (c *cluster) take(ctx context.Context, p *proposal, rounds uint32, uploaded func(*actor)) []*actor {
	c.t.Helper()
	g, gctx := errgroup.WithContext(ctx)
	var all []*actor
	for _, s := range c.roster.Sites {
		h := c.actor(string(s.ID), p, rounds)
		h.uploaded = uploaded
		all = append(all, h)
		g.Go(func() error { return h.follow(gctx) })
	}
	if err := g.Wait(); err != nil {
		c.t.Fatal(err)
	}
	sums := 0
	for _, h := range all {
		if len(h.sum) > 0 {
			sums++
		}
		if len(h.sum) > 0 && len(all[0].sum) > 0 && !bytes.Equal(h.sum, all[0].sum) {
			c.t.Error("hospitals fetched different aggregates")
		}
	}
	if sums < all[0].charter.Threshold {
		c.t.Errorf("%d hospitals fetched an aggregate", sums)
	}
	return all
}

// TestWholeStudyOverLoopback runs a study over TCP and disks, kills the leader
// in mid-round, restarts it from its disk, and compares what all nodes hold.
func TestWholeStudyOverLoopback(t *testing.T) {
	c := newCluster(t, 3, 5, false, true)
	ctx := limit(t, 5*time.Minute)
	c.runAll()
	p := c.proposal("one")
	c.submit(ctx, p)
	var once sync.Once
	var dead consilium.NodeID
	killed := make(chan struct{})
	c.take(ctx, p, 2, func(h *actor) {
		if h.at.Round == 2 && h.position == 2 {
			// Acknowledged by the leader that dies now: it must be there for the next.
			once.Do(func() {
				n := c.leader(ctx)
				dead = n.ID()
				c.kill(dead)
				close(killed)
			})
		}
	})
	<-killed
	want := c.settle(ctx, 1)
	restarted := c.run(dead)
	if restarted.incarnation == "" {
		t.Error("no incarnation")
	}
	got := c.settle(ctx, len(want))
	if !bytes.Equal(bytes.Join(got, nil), bytes.Join(want, nil)) {
		t.Error("the restarted node has other events")
	}
	// The sealed result is there for the team, from any node, and for no other.
	for _, n := range c.alive() {
		cl := c.client("researcher/team", n.ID())
		st, err := cl.Status(ctx, p.id)
		if err != nil || st.Phase != consilium.PhaseDone {
			t.Fatalf("status at %s: %+v, %v", n.ID(), st, err)
		}
		var info StudyInfo
		n.fsm.read(func(s *State) { info, _ = s.Study(p.id) })
		b, err := cl.FetchBlob(ctx, info.Result, 1<<20)
		if err != nil || !strings.HasPrefix(string(b), "a sealed result") {
			t.Errorf("result at %s: %q, %v", n.ID(), b, err)
		}
		if _, err := c.client("researcher/rivals", n.ID()).Fetch(ctx, info.Result, 0, 0); !errors.Is(err, consilium.ErrBlobMissing) {
			t.Errorf("another team fetches the result: %v", err)
		}
	}
	// The round's blobs are collected everywhere, the result stays.
	for _, n := range c.alive() {
		if n.ID() == dead {
			continue // it may hold what was collected while it was away; maintenance removes that
		}
		var live []BlobRef
		for {
			n.fsm.read(func(s *State) { live = s.LiveBlobs() })
			list, err := n.blobs.local.List()
			if err != nil {
				t.Fatal(err)
			}
			if len(list) <= len(live) {
				break
			}
			if err := pause(ctx, 10*time.Millisecond); err != nil {
				t.Fatalf("node %s keeps %d blobs, %d are live", n.ID(), len(list), len(live))
			}
		}
	}
	c.checkAudit(ctx, got)
	// A graceful stop and a start of all: everything is still there.
	for _, n := range c.alive() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if err := <-c.ended[n.ID()]; err != nil {
			t.Errorf("%s ended with %v", n.ID(), err)
		}
	}
	c.runAll()
	c.leader(ctx)
	if again := c.settle(ctx, len(got)); len(again) > len(got) {
		t.Fatalf("%d events after a restart, %d before", len(again), len(got))
	}
}

// checkAudit verifies every node's audit log with another implementation of
// RFC 6962 than the one that serves it.
func (c *cluster) checkAudit(ctx context.Context, events [][]byte) {
	c.t.Helper()
	size := uint64(len(events))
	for _, n := range c.alive() {
		cl := c.client("auditor/eve", n.ID())
		var cp *provenance.Checkpoint
		for cp == nil || cp.Size < size {
			if err := pause(ctx, 5*time.Millisecond); err != nil {
				c.t.Fatal(err)
			}
			note, err := cl.Checkpoint(ctx)
			if err != nil {
				c.t.Fatal(err)
			}
			if cp, err = provenance.ParseCheckpoint(note); err != nil {
				c.t.Fatal(err)
			}
		}
		if cp.Origin != AuditOrigin(c.roster) || cp.Size != size {
			c.t.Fatalf("checkpoint of %s, size %d of %d", cp.Origin, cp.Size, size)
		}
		leaves := [][]byte{}
		if err := cl.Entries(ctx, 0, size, func(_ uint64, leaf []byte) error { leaves = append(leaves, leaf); return nil }); err != nil {
			c.t.Fatal(err)
		}
		if !bytes.Equal(bytes.Join(leaves, nil), bytes.Join(events, nil)) {
			c.t.Error("the audit log's leaves are not the events")
		}
		for _, index := range []uint64{0, size / 2, size - 1} {
			p, err := cl.Inclusion(ctx, index, size)
			if err != nil {
				c.t.Fatal(err)
			}
			if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, size, rfc6962.DefaultHasher.HashLeaf(leaves[index]), slice(p), cp.Root[:]); err != nil {
				c.t.Errorf("leaf %d: %v", index, err)
			}
			if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, size, rfc6962.DefaultHasher.HashLeaf([]byte("other")), slice(p), cp.Root[:]); err == nil {
				c.t.Error("another leaf is included")
			}
		}
		old := size/3 + 1
		p, err := cl.Consistency(ctx, old, size)
		if err != nil {
			c.t.Fatal(err)
		}
		oldRoot := provenanceRoot(leaves[:old])
		if err := proof.VerifyConsistency(rfc6962.DefaultHasher, old, size, slice(p), oldRoot, cp.Root[:]); err != nil {
			c.t.Errorf("consistency: %v", err)
		}
		width := int(min(size, 256))
		tile, err := cl.Tile(ctx, 0, 0, width)
		if err != nil {
			c.t.Fatal(err)
		}
		for i := range width {
			if !bytes.Equal(tile[32*i:32*i+32], rfc6962.DefaultHasher.HashLeaf(leaves[i])) {
				c.t.Fatalf("tile hash %d", i)
			}
		}
		if _, err := cl.Tile(ctx, 0, size/256, int(size%256)+1); !errors.Is(err, consilium.ErrInvalid) {
			c.t.Errorf("a tile beyond the tree: %v", err)
		}
		if n.dir != nil {
			path := "tile/0/000"
			if width < 256 {
				path += ".p/" + itoa(width)
			}
			b, err := os.ReadFile(filepath.Join(n.dir.Join("audit"), filepath.FromSlash(path)))
			if err != nil || !bytes.Equal(b, tile) {
				c.t.Errorf("tile on disk: %d bytes, %v", len(b), err)
			}
		}
	}
}

func itoa(n int) string {
	return strings.TrimLeft(string([]byte{byte('0' + n/100), byte('0' + n/10%10), byte('0' + n%10)}), "0")
}

func slice(p []consilium.Digest) [][]byte {
	out := make([][]byte, len(p))
	for i := range p {
		out[i] = p[i][:]
	}
	return out
}

// provenanceRoot is the RFC 6962 §2.1 recursion, as plain as it stands there.
func provenanceRoot(leaves [][]byte) []byte {
	if len(leaves) == 1 {
		return rfc6962.DefaultHasher.HashLeaf(leaves[0])
	}
	k := 1
	for 2*k < len(leaves) {
		k *= 2
	}
	return rfc6962.DefaultHasher.HashChildren(provenanceRoot(leaves[:k]), provenanceRoot(leaves[k:]))
}

// TestWholeStudyInMemory is the same code without disk and sockets, with a
// leader that dies after it took an upload.
func TestWholeStudyInMemory(t *testing.T) {
	c := newCluster(t, 3, 4, true, false)
	ctx := limit(t, 5*time.Minute)
	c.runAll()
	p := c.proposal("one")
	c.submit(ctx, p)
	var once sync.Once
	c.take(ctx, p, 2, func(h *actor) {
		if h.at.Round == 1 && h.position == 1 {
			once.Do(func() { c.kill(c.leader(ctx).ID()) })
		}
	})
	c.checkAudit(ctx, c.settle(ctx, 1))
}

func TestSingleNode(t *testing.T) {
	c := newCluster(t, 1, 3, true, false)
	ctx := limit(t, 5*time.Minute)
	c.runAll()
	p := c.proposal("one")
	c.submit(ctx, p)
	c.take(ctx, p, 1, nil)
}

func TestRefusedByPolicy(t *testing.T) {
	c := newCluster(t, 1, 3, true, false)
	c.refuse = true
	ctx := limit(t, 5*time.Minute)
	c.runAll()
	p := c.proposal("one")
	c.submit(ctx, p)
	err := c.client("researcher/team", "").FollowStudy(ctx, p.id, 0, func(ev *consilium.Event) error {
		if ev.Kind == consilium.EventRefused {
			return errDone
		}
		return nil
	})
	if !errors.Is(err, errDone) {
		t.Fatal(err)
	}
	if c.consult < 2 {
		t.Error("a failing policy engine was not asked again")
	}
}

// chartered brings a study to its first open round and returns its hospitals,
// which do not go on by themselves.
func (c *cluster) chartered(ctx context.Context, p *proposal) []*actor {
	c.t.Helper()
	stop := errors.New("opened")
	g, gctx := errgroup.WithContext(ctx)
	var all []*actor
	for _, s := range c.roster.Sites {
		h := c.actor(string(s.ID), p, 1)
		all = append(all, h)
		g.Go(func() error {
			err := h.client.FollowStudy(gctx, p.id, 0, func(ev *consilium.Event) error {
				if ev.Kind == consilium.EventOpened {
					o, err := consilium.ParseRoundOpened(ev.Body)
					if err != nil {
						return err
					}
					h.at = consilium.At{Charter: h.digest, Round: o.Round, Attempt: o.Attempt, Position: h.position}
					h.state = o.State
					return stop
				}
				return h.on(gctx, ev)
			})
			if errors.Is(err, stop) {
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		c.t.Fatal(err)
	}
	return all
}

// TestGates posts and uploads what must not get in, and checks that a node
// that was asked first at a follower is led to the leader.
func TestGates(t *testing.T) {
	c := newCluster(t, 3, 4, true, false)
	ctx := limit(t, 5*time.Minute)
	c.runAll()
	p := c.proposal("one")
	c.submit(ctx, p)
	all := c.chartered(ctx, p)
	h := all[1]
	leader := c.leader(ctx)
	var follower consilium.NodeID
	for _, n := range c.alive() {
		if n != leader {
			follower = n.ID()
		}
	}
	h.client = c.client(h.name, follower)

	m, boxes, _, packed := h.contribution()
	shape := wire.Shape{Lanes: testLanes, Bits: testBits}
	up := func(m *consilium.Message, boxes [][]byte, shape wire.Shape, packed []byte) error {
		return h.client.Upload(ctx, m, boxes, shape, uint64(len(packed)), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed)), nil })
	}
	resign := func(change func(*consilium.Header)) *consilium.Message {
		hd, err := consilium.ParseHeader(m.Body)
		if err != nil {
			t.Fatal(err)
		}
		change(hd)
		return c.sign(h.name, consilium.KindHeader, p.id, hd.Encode())
	}
	altered := bytes.Clone(packed)
	altered[7] ^= 1
	unreduced := bytes.Repeat([]byte{0xff}, len(packed))
	otherBoxes := append([][]byte{bytes.Repeat([]byte{1}, len(boxes[0]))}, boxes[1:]...)
	badSignature := *m
	badSignature.Signature[0] ^= 1
	stranger := *m
	stranger.By = "h01"
	for name, tt := range map[string]struct {
		err  error
		want *consilium.Error
	}{
		"signature":         {up(&badSignature, boxes, shape, packed), consilium.ErrSignature},
		"another's name":    {up(&stranger, boxes, shape, packed), consilium.ErrForbidden},
		"altered vector":    {up(m, boxes, shape, altered), consilium.ErrInvalid},
		"unreduced vector":  {up(m, boxes, shape, unreduced), consilium.ErrInvalid},
		"altered box":       {up(m, otherBoxes, shape, packed), consilium.ErrInvalid},
		"other lane count":  {up(m, boxes, wire.Shape{Lanes: 1 << 20, Bits: 16}, packed), consilium.ErrInvalid},
		"other lane width":  {up(m, boxes, wire.Shape{Lanes: testLanes, Bits: 24}, packed), consilium.ErrInvalid},
		"another charter":   {up(resign(func(x *consilium.Header) { x.Charter[0] ^= 1 }), boxes, shape, packed), consilium.ErrInvalid},
		"another position":  {up(resign(func(x *consilium.Header) { x.Position++ }), boxes, shape, packed), consilium.ErrNotMember},
		"another digest":    {up(resign(func(x *consilium.Header) { x.Ciphertext[0] ^= 1 }), boxes, shape, packed), consilium.ErrInvalid},
		"other keys":        {up(resign(func(x *consilium.Header) { x.Sealing[0] ^= 1 }), boxes, shape, packed), consilium.ErrInvalid},
		"a later round":     {up(resign(func(x *consilium.Header) { x.Round = 9 }), boxes, shape, packed), nil},
		"header by post":    {h.client.Post(ctx, m), consilium.ErrInvalid},
		"unknown study":     {h.client.Post(ctx, c.sign(h.name, consilium.KindWithdraw, consilium.NewStudyID(dig("x")), (&consilium.Withdraw{Study: consilium.NewStudyID(dig("x"))}).Encode())), consilium.ErrUnknownStudy},
		"unknown blob":      {h.client.Post(ctx, c.sign(h.name, consilium.KindSealedState, p.id, (&consilium.SealedState{At: h.at, Next: dig("s"), Blob: dig("nothing")}).Encode())), consilium.ErrBlobMissing},
		"researcher's kind": {h.client.Post(ctx, c.sign(h.name, consilium.KindCancel, p.id, (&consilium.Cancel{Study: p.id}).Encode())), consilium.ErrForbidden},
	} {
		if tt.err == nil {
			t.Errorf("%s was accepted", name)
		} else if tt.want != nil && !errors.Is(tt.err, tt.want) {
			t.Errorf("%s: %v, want %s", name, tt.err, tt.want.Code)
		}
	}
	if err := up(m, boxes, shape, packed); err != nil {
		t.Fatalf("the honest upload: %v", err)
	}
	if err := up(m, boxes, shape, packed); err != nil {
		t.Errorf("the same upload again: %v", err)
	}
	again := c.sign(h.name, consilium.KindHeader, p.id, m.Body)
	if err := up(again, boxes, shape, packed); err != nil {
		t.Errorf("the same header under a fresh signature: %v", err)
	}
	if err := up(resign(func(x *consilium.Header) { x.Vector[0] ^= 1 }), boxes, shape, packed); !errors.Is(err, consilium.ErrConflictingContribution) {
		t.Errorf("another header: %v", err)
	}
	// The team may see the study, and none of its ciphertexts; another team sees
	// nothing; the site that was not asked for a range gets an error.
	hd, _ := consilium.ParseHeader(m.Body)
	if _, err := c.client("researcher/team", "").Fetch(ctx, hd.Ciphertext, 0, 0); !errors.Is(err, consilium.ErrForbidden) {
		t.Errorf("the team fetches a ciphertext: %v", err)
	}
	if _, err := c.client("researcher/rivals", "").Status(ctx, p.id); !errors.Is(err, consilium.ErrUnknownStudy) {
		t.Errorf("another team's status: %v", err)
	}
	if list, err := c.client("researcher/rivals", "").List(ctx); err != nil || len(list) != 0 {
		t.Errorf("another team's list: %v, %v", list, err)
	}
	if _, err := h.client.Fetch(ctx, hd.Ciphertext, hd.Size, 1); !errors.Is(err, consilium.ErrInvalid) {
		t.Errorf("a range beyond the end: %v", err)
	}
	r, err := h.client.Fetch(ctx, hd.Ciphertext, 10, 20)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, packed[10:30]) {
		t.Errorf("range: %x, %v", b, err)
	}
	r.Close()

	// A corrupt copy is a missing one, and comes back from a peer.
	n := c.leader(ctx)
	var loc Location
	n.fsm.read(func(s *State) { loc, _ = s.Locate(hd.Ciphertext) })
	if err := n.blobs.local.Delete(loc.Blob.Digest); err != nil {
		t.Fatal(err)
	}
	r, err = c.client(h.name, n.ID()).Fetch(ctx, hd.Ciphertext, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, packed) {
		t.Errorf("after the local copy was lost: %d bytes, %v", len(b), err)
	}
	r.Close()
	if size, ok := n.blobs.local.Has(loc.Blob.Digest); !ok || uint64(size) != loc.Blob.Size {
		t.Error("the lost copy was not filled in")
	}

	// Well-signed noise of every kind changes nothing and breaks nothing.
	rng := rand.New(rand.NewPCG(3, 4))
	before := c.settle(ctx, 1)
	for kind := consilium.KindSubmission; kind <= consilium.KindCancel; kind++ {
		for _, who := range []string{"site/h01", "researcher/team", "board/ethics-1"} {
			for _, size := range []int{0, 1, 42, 300, 5000} {
				body := make([]byte, size)
				for i := range body {
					body[i] = byte(rng.Uint32())
				}
				msg := c.sign(who, kind, p.id, body)
				if err := c.client(who, "").Post(ctx, msg); err == nil {
					t.Errorf("%d bytes of noise as %s by %s were accepted", size, kind, who)
				} else if errors.Is(err, consilium.ErrUnavailable) || consilium.CodeOf(err) == "internal" {
					t.Errorf("%d bytes of noise as %s by %s: %v", size, kind, who, err)
				}
			}
		}
	}
	if after := c.settle(ctx, 1); len(after) != len(before) {
		t.Errorf("noise recorded %d events", len(after)-len(before))
	}
	for _, n := range c.alive() {
		if err := n.broken(); err != nil {
			t.Errorf("%s: %v", n.ID(), err)
		}
	}
}

// TestBlobSurvivesItsLeader: what was acknowledged is on the followers when
// the leader's disk is gone for good.
func TestBlobSurvivesItsLeader(t *testing.T) {
	c := newCluster(t, 3, 3, false, false)
	ctx := limit(t, 5*time.Minute)
	c.runAll()
	p := c.proposal("one")
	c.submit(ctx, p)
	all := c.chartered(ctx, p)
	if err := all[0].upload(ctx); err != nil {
		t.Fatal(err)
	}
	m, _, _, packed := all[0].contribution()
	hd, err := consilium.ParseHeader(m.Body)
	if err != nil {
		t.Fatal(err)
	}
	dead := c.leader(ctx).ID()
	c.kill(dead)
	if err := os.RemoveAll(c.dirs[dead]); err != nil {
		t.Fatal(err)
	}
	lead := c.leader(ctx)
	for _, n := range c.alive() {
		r, err := c.client("site/h02", n.ID()).Fetch(ctx, hd.Ciphertext, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		r.Close()
		if err != nil || !bytes.Equal(b, packed) {
			t.Errorf("from %s: %d bytes, %v", n.ID(), len(b), err)
		}
	}
	// The new leader brings the blob back to a majority before it goes on.
	var ref BlobRef
	lead.fsm.read(func(s *State) {
		loc, _ := s.Locate(hd.Ciphertext)
		ref = loc.Blob
	})
	if err := lead.blobs.majority(ctx, ref); err != nil {
		t.Error(err)
	}

	// The node comes back with an empty directory: it must not vote or hold
	// replicas under the identity that the others remember.
	n, err := Open(ctx, c.config(dead))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Run(ctx); !errors.Is(err, consilium.ErrStale) {
		t.Errorf("an emptied node joined: %v", err)
	}
}

// TestMajorityIsRecounted: a count over a configuration that moved meanwhile
// does not stand. The naive twin counts once, and leaves the blob on one node.
func TestMajorityIsRecounted(t *testing.T) {
	c := newCluster(t, 3, 3, true, false)
	ctx := limit(t, 5*time.Minute)
	c.runAll()
	n := c.leader(ctx)
	holders := func(d consilium.Digest) (out int) {
		for _, m := range c.alive() {
			if _, ok := m.blobs.local.Has(d); ok {
				out++
			}
		}
		return out
	}
	store := func(text string) BlobRef {
		ref := BlobRef{Digest: blob.Sum([]byte(text)), Size: uint64(len(text))}
		if err := n.blobs.put(ctx, ref, strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		return ref
	}
	alone := func() ([]raft.ServerID, error) { return []raft.ServerID{n.self}, nil }
	calls := 0
	n.blobs.voters = func() ([]raft.ServerID, error) {
		if calls++; calls == 1 {
			return alone()
		}
		return n.blobs.configuration()
	}
	ref := store("a blob that must reach a majority")
	if err := n.blobs.majority(ctx, ref); err != nil {
		t.Fatal(err)
	}
	if got := holders(ref.Digest); got < 2 || calls < 4 {
		t.Errorf("%d nodes hold the blob after %d looks at the configuration", got, calls)
	}
	twin := store("a blob that was counted once")
	voters, _ := alone()
	if err := n.blobs.spread(ctx, twin, voters); err != nil {
		t.Fatal(err)
	}
	if got := holders(twin.Digest); got != 1 {
		t.Errorf("the naive twin reached %d nodes: this test shows nothing", got)
	}
}

// TestLostLogIsRefused: the directory says that it belongs to a cluster, and
// the votes are gone.
func TestLostLogIsRefused(t *testing.T) {
	c := newCluster(t, 1, 3, false, false)
	ctx := limit(t, 5*time.Minute)
	n := c.run("c1")
	c.leader(ctx)
	n.Close()
	if err := os.RemoveAll(filepath.Join(c.dirs["c1"], "raft")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(ctx, c.config("c1")); !errors.Is(err, consilium.ErrStale) {
		t.Errorf("opened: %v", err)
	}
}

// TestMinorityAcknowledgesNothing: with two of three nodes gone nothing is
// confirmed, and nothing is lost when they come back.
func TestMinorityAcknowledgesNothing(t *testing.T) {
	c := newCluster(t, 3, 3, false, false)
	ctx := limit(t, 5*time.Minute)
	c.runAll()
	lead := c.leader(ctx)
	for _, n := range c.alive() {
		if n != lead {
			c.kill(n.ID())
		}
	}
	p := c.proposal("one")
	short := limit(t, time.Second)
	if err := c.client("researcher/team", lead.ID()).Post(short, p.submission); err == nil {
		t.Fatal("a minority acknowledged a submission")
	}
	if _, err := c.client("site/h01", lead.ID()).PutBlob(limit(t, time.Second), strings.NewReader("blob"), 4); err == nil {
		t.Fatal("a minority acknowledged a blob")
	}
	for _, r := range c.roster.Coordinators {
		if r.ID != lead.ID() {
			c.run(r.ID)
		}
	}
	c.submit(ctx, p)
	if st, err := c.client("researcher/team", "").Status(ctx, p.id); err != nil || st.Study != p.id {
		t.Errorf("%+v, %v", st, err)
	}
}

// TestKilledWhileJoining: a node that the cluster has already, and that dies
// before the leader wrote anything into its log, has voted in nothing: it comes
// back as what it was.
func TestKilledWhileJoining(t *testing.T) {
	c := newCluster(t, 5, 3, false, false)
	ctx := limit(t, 5*time.Minute)
	c.runAll()
	lead := c.leader(ctx)
	var ids []consilium.NodeID
	for _, r := range c.roster.Coordinators {
		if r.ID != lead.ID() {
			ids = append(ids, r.ID)
		}
	}
	for _, id := range ids {
		c.kill(id)
	}
	// What a death at that moment leaves of the last one's directory.
	last := ids[len(ids)-1]
	dir := c.config(last).Dir
	for _, gone := range []string{"joined", "raft"} {
		if err := os.RemoveAll(filepath.Join(dir, gone)); err != nil {
			t.Fatal(err)
		}
	}
	// Two of five: there is no leader who would write.
	n := c.run(last)
	for n.raftNode() == nil {
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			t.Fatal("the node did not meet the other")
		}
	}
	c.kill(last)
	for _, id := range ids {
		c.run(id)
	}
	p := c.proposal("one")
	c.submit(ctx, p)
	c.settle(ctx, 1)
	for {
		if _, err := os.Stat(filepath.Join(dir, "joined")); err == nil {
			break
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			t.Fatal("the node is one of the cluster, and its directory does not say so")
		}
	}
}

// TestSnapshotInstall: a node that was away longer than the log reaches back
// gets a snapshot, events included.
func TestSnapshotInstall(t *testing.T) {
	c := newCluster(t, 3, 3, false, false)
	c.timing.Snapshots = 4
	ctx := limit(t, 5*time.Minute)
	c.runAll()
	lead := c.leader(ctx)
	var away consilium.NodeID
	for _, n := range c.alive() {
		if n != lead {
			away = n.ID()
		}
	}
	p := c.proposal("one")
	c.submit(ctx, p)
	c.settle(ctx, 1)
	c.kill(away)
	c.chartered(ctx, p)
	for _, n := range c.alive() {
		if err := n.raftNode().Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
			t.Fatal(err)
		}
	}
	want := c.settle(ctx, 1)
	n := c.run(away)
	c.settle(ctx, len(want))
	stateOf := func(n *Node) []byte {
		s, err := n.fsm.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		return s.(*nodeSnapshot).state
	}
	for !bytes.Equal(stateOf(n), stateOf(lead)) { // a command without events may be under way
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			t.Fatal("states differ after a snapshot was installed")
		}
	}
	// And from its own snapshot at a restart.
	if err := n.raftNode().Snapshot().Error(); err != nil && !strings.Contains(err.Error(), "nothing new") {
		t.Fatal(err)
	}
	c.kill(away)
	c.run(away)
	c.settle(ctx, len(want))
}

func TestRosterUpdate(t *testing.T) {
	c := newCluster(t, 1, 3, true, false)
	ctx := limit(t, 5*time.Minute)
	n := c.run("c1")
	c.leader(ctx)
	signed := c.nextRoster(func(r *consilium.Roster) { r.Sites = r.Sites[:2] })
	if err := n.UpdateRoster(&consilium.Signed{Payload: signed.Payload}); !errors.Is(err, consilium.ErrSignature) {
		t.Errorf("an unsigned roster: %v", err)
	}
	if err := n.UpdateRoster(signed); err != nil {
		t.Fatal(err)
	}
	for {
		var r *consilium.Roster
		changed := n.fsm.watch()
		n.fsm.read(func(s *State) { r, _ = s.Roster() })
		if r != nil && r.Version == 2 {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatal("the roster never entered the log")
		}
	}
	if _, err := c.client("site/h03", "").List(ctx); !errors.Is(err, consilium.ErrUnauthenticated) {
		t.Errorf("a removed site: %v", err)
	}
}

func TestMetrics(t *testing.T) {
	c := newCluster(t, 1, 3, true, false)
	ctx := limit(t, 5*time.Minute)
	n := c.run("c1")
	s := httptest.NewServer(n.MetricsHandler())
	defer s.Close()
	get := func(path string) (int, string) {
		r, err := http.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, string(b)
	}
	c.leader(ctx)
	c.submit(ctx, c.proposal("one"))
	if code, body := get("/metrics"); code != 200 || !strings.Contains(body, "consilium_leader 1") || !strings.Contains(body, `consilium_studies{phase="submitted"}`) {
		t.Errorf("%d %s", code, body)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if code, _ := get(path); code != 200 {
			t.Errorf("%s: %d", path, code)
		}
	}
	n.fsm.breakDown(errors.New("disk on fire"))
	for _, path := range []string{"/healthz", "/readyz"} {
		if code, body := get(path); code != 503 || !strings.Contains(body, "disk on fire") {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	if err := <-c.ended["c1"]; err == nil || !strings.Contains(err.Error(), "disk on fire") {
		t.Errorf("Run returned %v", err)
	}
}

func TestConfigCheck(t *testing.T) {
	c := newCluster(t, 3, 3, true, false)
	for name, change := range map[string]func(*Config){
		"no admission":       func(f *Config) { f.Admission = nil },
		"no roster":          func(f *Config) { f.Book = nil },
		"dir and memory":     func(f *Config) { f.Dir = t.TempDir() },
		"neither":            func(f *Config) { f.InMemory = false },
		"unknown id":         func(f *Config) { f.ID = "c9" },
		"another's key":      func(f *Config) { f.Signer = c.keys["coordinator/c2"] },
		"another's note key": func(f *Config) { f.NoteKey = c.notes["c2"] },
		"another's cert":     func(f *Config) { f.Certificate = c.certs["coordinator/c2"] },
		"a site's cert":      func(f *Config) { f.Certificate = c.certs["site/h01"] },
		"no note key":        func(f *Config) { f.NoteKey = nil },
		"commit too slow":    func(f *Config) { f.Timing = Timing{Heartbeat: 10 * time.Millisecond, Commit: time.Second} },
	} {
		cfg := c.config("c1")
		change(&cfg)
		if n, err := Open(context.Background(), cfg); err == nil {
			n.Close()
			t.Errorf("%s: opened", name)
		}
	}
	if n, err := Open(context.Background(), newCluster(t, maxNodes+1, 3, true, false).config("c1")); err == nil {
		n.Close()
		t.Error("too many nodes: opened")
	}
}

func (l *eventLog) event(seq uint64) (*consilium.Event, error) {
	b, err := l.encoded(seq)
	if err != nil {
		return nil, err
	}
	return consilium.ParseEvent(b)
}

func TestEventLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.log")
	l, err := openEvents(durable.OS, path)
	if err != nil {
		t.Fatal(err)
	}
	id := consilium.NewStudyID(dig("s"))
	var events []consilium.Event
	for i := range 20 {
		events = append(events, consilium.Event{Seq: uint64(i), Time: int64(i), Study: id, Kind: consilium.EventWaiting, Body: bytes.Repeat([]byte{byte(i)}, i)})
	}
	if err := l.append(events[:10]); err != nil {
		t.Fatal(err)
	}
	if err := l.append(events[5:15]); err != nil {
		t.Errorf("an overlapping replay: %v", err)
	}
	if err := l.append(events[16:]); err == nil {
		t.Error("a gap was accepted")
	}
	changed := events[3]
	changed.Time++
	if err := l.append([]consilium.Event{changed}); err == nil {
		t.Error("another event under the same number was accepted")
	}
	if err := l.append(events); err != nil {
		t.Fatal(err)
	}
	l.close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := 0; cut <= len(whole); cut += 7 {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := openEvents(durable.OS, path)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		n, _ := l.len()
		for seq := range n {
			if ev, err := l.event(seq); err != nil || !bytes.Equal(ev.Encode(), events[seq].Encode()) {
				t.Fatalf("cut at %d, event %d: %v", cut, seq, err)
			}
		}
		if err := l.append(events); err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		l.close()
		if b, _ := os.ReadFile(path); !bytes.Equal(b, whole) {
			t.Fatalf("cut at %d: the file differs after the replay", cut)
		}
	}
	flipped := bytes.Clone(whole)
	flipped[len(flipped)/2] ^= 4
	os.WriteFile(path, flipped, 0o600)
	if l, err = openEvents(durable.OS, path); err != nil {
		t.Fatal(err)
	}
	if n, _ := l.len(); n >= 20 {
		t.Error("a damaged event was read")
	}
	if err := l.append(events); err != nil {
		t.Errorf("a replay does not mend it: %v", err)
	}
	l.close()
}

// TestNodeSnapshot: restore is the inverse, and refuses everything else.
func TestNodeSnapshot(t *testing.T) {
	w := newWorld(t, options{n: 5, min: 3})
	w.must(w.submission())
	events, _ := openEvents(durable.OS, "")
	if err := events.append(w.events); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	snap := &nodeSnapshot{state: w.s.Snapshot(), count: w.s.NextSeq(), events: events}
	if err := snap.write(&buf); err != nil {
		t.Fatal(err)
	}
	whole := buf.Bytes()
	fresh := func() *fsm {
		e, _ := openEvents(durable.OS, "")
		return newFSM(e, blob.NewMemory(), newCluster(t, 1, 3, true, false).log, func(error) {})
	}
	f := fresh()
	if err := f.Restore(io.NopCloser(bytes.NewReader(whole))); err != nil {
		t.Fatal(err)
	}
	if f.applied.Load() != f.state.index {
		t.Errorf("a node that came by a snapshot says that it is at index %d of %d: it would wait for its vote", f.applied.Load(), f.state.index)
	}
	if !bytes.Equal(f.state.Snapshot(), w.s.Snapshot()) {
		t.Error("the state differs")
	}
	if n, _ := f.events.len(); n != w.s.NextSeq() {
		t.Errorf("%d events", n)
	}
	f = fresh()
	for _, cut := range []int{0, 1, 28, 40, len(whole) / 2, len(whole) - 1} {
		if err := f.restore(bytes.NewReader(whole[:cut])); err == nil {
			t.Errorf("cut at %d was restored", cut)
		}
	}
	if err := f.restore(bytes.NewReader(append(bytes.Clone(whole), 0))); err == nil {
		t.Error("a byte too many was restored")
	}
	f = fresh()
	if err := f.Restore(io.NopCloser(strings.NewReader("noise"))); err == nil || f.broken == nil {
		t.Error("noise was restored")
	}
}
