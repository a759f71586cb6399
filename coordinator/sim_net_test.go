package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"consilium"
	"consilium/internal/wire"
)

// simNet carries every call between hospitals, teams and nodes, and every
// event to a hospital. Nothing passes until the scheduler lets it: all who want
// something wait here, in an order that does not depend on goroutines.
type simNet struct {
	lies sync.Map // name and encoded statement: what a hostile member said beside its gate

	s       *sim
	mu      sync.Mutex
	waiting []*simCall
	faults  map[string]*linkFault // by the caller
	cuts    map[[2]string]bool    // both directions
	done    []simCopy             // what was delivered, for replays
}

// linkFault is what happens to the next calls of one caller.
type linkFault struct{ drop, lose, twice, hold int }

type simCall struct {
	from, to, what string
	key            string
	verdict        chan verdict
}

// simCopy is a delivered statement that the network may deliver again at any
// later time.
type simCopy struct {
	id         wire.Identity
	from, what string
	run        func(context.Context, *Node) error
}

type verdict uint8

const (
	deliver verdict = iota
	dropRequest
	loseReply
	deliverTwice
)

func newSimNet(s *sim) *simNet {
	return &simNet{s: s, faults: map[string]*linkFault{}, cuts: map[[2]string]bool{}}
}

func (n *simNet) fault(who string) *linkFault {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.faults[who] == nil {
		n.faults[who] = &linkFault{}
	}
	return n.faults[who]
}

func pair(a, b string) [2]string {
	if a > b {
		a, b = b, a
	}
	return [2]string{a, b}
}

func (n *simNet) isCut(a, b string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cuts[pair(a, b)]
}

// await parks the caller until the scheduler has decided.
func (n *simNet) await(ctx context.Context, from, to, what string) (verdict, error) {
	c := &simCall{from, to, what, from + " " + to + " " + what, make(chan verdict, 1)}
	n.mu.Lock()
	n.waiting = append(n.waiting, c)
	n.mu.Unlock()
	select {
	case v := <-c.verdict:
		return v, nil
	case <-ctx.Done():
		n.mu.Lock()
		n.waiting = slices.DeleteFunc(n.waiting, func(o *simCall) bool { return o == c })
		n.mu.Unlock()
		return 0, ctx.Err()
	}
}

// ready lists the calls that may go, in an order of their own.
func (n *simNet) ready() []*simCall {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []*simCall
	for _, c := range n.waiting {
		if f := n.faults[c.from]; f == nil || f.hold == 0 {
			out = append(out, c)
		}
	}
	slices.SortStableFunc(out, func(a, b *simCall) int { return strings.Compare(a.key, b.key) })
	return out
}

// tick lets held calls come nearer.
func (n *simNet) tick(all bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, f := range n.faults {
		if all {
			f.hold = 0
		} else if f.hold > 0 {
			f.hold--
		}
	}
}

// release lets one call go.
func (n *simNet) release(c *simCall) {
	n.mu.Lock()
	n.waiting = slices.DeleteFunc(n.waiting, func(o *simCall) bool { return o == c })
	v := deliver
	if f := n.faults[c.from]; f != nil && !strings.HasPrefix(c.what, "event") {
		switch {
		case f.drop > 0:
			f.drop--
			v = dropRequest
		case f.lose > 0:
			f.lose--
			v = loseReply
		case f.twice > 0:
			f.twice--
			v = deliverTwice
		}
	}
	n.mu.Unlock()
	c.verdict <- v
}

// apart reports whether nothing passes between two nodes: the network does not
// let it, or one of them does not know the other by its roster (the pins of TLS).
func (s *sim) apart(a, b consilium.NodeID) bool {
	return s.net.isCut(string(a), string(b)) || !knows(s.running(a), b) || !knows(s.running(b), a)
}

// knows reports whether a node that runs has another in its roster.
func knows(n *Node, id consilium.NodeID) bool {
	if n == nil {
		return false
	}
	_, ok := n.cfg.Book.Roster().Coordinator(id)
	return ok
}

// admits says whom a node turns away at the handshake: who is not in its roster.
func (s *sim) admits(n *Node, from wire.Identity) error {
	ok := true
	switch from.Role {
	case wire.RoleSite:
		_, ok = n.cfg.Book.Roster().Site(consilium.SiteID(from.Name))
	case wire.RoleCoordinator:
		ok = knows(n, consilium.NodeID(from.Name)) && knows(s.running(consilium.NodeID(from.Name)), n.cfg.ID)
	}
	if !ok {
		return consilium.ErrUnauthenticated.Withf("%s and %s do not know each other", from, n.cfg.ID)
	}
	return nil
}

// simTimeout is how long a caller waits for an answer that does not come.
const simTimeout = 2 * time.Second

var errSimGone = consilium.ErrUnavailable.Withf("no answer")

// call runs f at a node, if the network lets it.
func (n *simNet) call(ctx context.Context, id wire.Identity, from string, to consilium.NodeID, what string, f func(context.Context, *Node) error) error {
	v, err := n.await(ctx, from, string(to), what)
	if err != nil {
		return err
	}
	node := n.s.running(to)
	if v == dropRequest || node == nil || n.isCut(from, string(to)) {
		if err := pause(ctx, simTimeout); err != nil {
			return err
		}
		return errSimGone
	}
	if err := n.s.admits(node, id); err != nil {
		return err
	}
	// The node works on its own: a caller that is gone is not waited for.
	run := func() error {
		answer := make(chan error, 1)
		n.s.tasks.Go(func() {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			defer context.AfterFunc(node.life, cancel)()
			answer <- f(ctx, node)
		})
		select {
		case err := <-answer:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	err = run()
	if v == deliverTwice && ctx.Err() == nil {
		again := run()
		n.s.repeated(what, err, again)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if v == loseReply || n.s.running(to) != node || n.isCut(from, string(to)) {
		if err := pause(ctx, simTimeout); err != nil {
			return err
		}
		return errSimGone
	}
	return wire.FromStatus(wire.Status(err)) // as it comes out at the other end
}

// simPeers is how one node calls the others.
type simPeers struct {
	n    *simNet
	self *Node
}

func (p simPeers) id() wire.Identity {
	return wire.Identity{Role: wire.RoleCoordinator, Name: string(p.self.cfg.ID)}
}

func (p simPeers) call(ctx context.Context, to consilium.NodeID, what string, f func(context.Context, *Node) error) error {
	return p.n.call(ctx, p.id(), string(p.self.cfg.ID), to, what, f)
}

func (p simPeers) Hello(ctx context.Context, node consilium.NodeID, incarnation string) (h wire.Hello, err error) {
	err = p.call(ctx, node, "hello", func(ctx context.Context, n *Node) error {
		got, err := n.server.Hello(ctx, p.id(), incarnation)
		h = got
		return err
	})
	if err != nil {
		return wire.Hello{}, err
	}
	return h, nil
}

func (p simPeers) Store(ctx context.Context, node consilium.NodeID, digest consilium.Digest, size uint64, r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return p.call(ctx, node, fmt.Sprintf("store %d", size), func(ctx context.Context, n *Node) error {
		return n.server.Store(ctx, p.id(), digest, size, bytes.NewReader(b))
	})
}

func (p simPeers) Load(ctx context.Context, node consilium.NodeID, digest consilium.Digest, offset, length uint64) (io.ReadCloser, error) {
	var b []byte
	err := p.call(ctx, node, "load", func(ctx context.Context, n *Node) error {
		rc, err := n.server.Load(ctx, p.id(), digest, offset, length)
		if err != nil {
			return err
		}
		defer rc.Close()
		b, err = io.ReadAll(rc)
		return err
	})
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (p simPeers) Holds(ctx context.Context, node consilium.NodeID, digest consilium.Digest, size uint64) (held bool, err error) {
	err = p.call(ctx, node, fmt.Sprintf("holds %d", size), func(ctx context.Context, n *Node) error {
		got, err := n.server.Holds(ctx, p.id(), digest, size)
		held = got
		return err
	})
	if err != nil {
		return false, err
	}
	return held, nil
}

func (p simPeers) Close() error { return nil }

// simClient is a member's client: it finds the leader and repeats itself, as
// internal/wire's Client does over gRPC.
type simClient struct {
	n    *simNet
	id   wire.Identity
	name string // of its end of every link
	key  consilium.Signer

	nodes func() []consilium.NodeID // of the roster that its owner has

	mu     sync.Mutex
	target consilium.NodeID
	trick  int // of a hostile member, for the next statement that it fits; 0 is none
	seen   []*consilium.Message
}

func (c *simClient) aim(node consilium.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.target = node
}

// do is wire.Client.do without the gRPC.
func (c *simClient) do(ctx context.Context, what string, f func(context.Context, *Node) error) error {
	wait, misses, redirects := 25*time.Millisecond, 0, 0
	refused := map[consilium.NodeID]bool{}
	c.mu.Lock()
	at := c.target
	c.mu.Unlock()
	for {
		nodes := c.nodes()
		i := max(slices.Index(nodes, at), 0)
		at = nodes[i]
		err := c.n.call(ctx, c.id, c.name, at, what, f)
		if err == nil {
			c.aim(at)
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w: %w", what, ctx.Err(), err)
		}
		next := nodes[(i+1)%len(nodes)]
		var elsewhere *wire.NotLeaderError
		switch {
		case errors.As(err, &elsewhere):
			clear(refused)
			if slices.Contains(nodes, elsewhere.Leader) && elsewhere.Leader != at {
				at = elsewhere.Leader
				c.aim(at)
				if redirects++; redirects%4 != 0 {
					continue
				}
			} else if elsewhere.Leader == "" {
				at = next
			}
		case errors.Is(err, consilium.ErrUnauthenticated):
			if refused[at] = true; len(refused) >= len(nodes) {
				return fmt.Errorf("%s: %w", what, err)
			}
			at = next
		case errors.Is(err, consilium.ErrUnavailable), consilium.CodeOf(err) == "internal":
			at = next
		case errors.Is(err, consilium.ErrBlobMissing), errors.Is(err, consilium.ErrUnknownStudy):
			if misses++; misses >= len(nodes) {
				return fmt.Errorf("%s: %w", what, err)
			}
			at = next
		default:
			return fmt.Errorf("%s: %w", what, err)
		}
		if stop := pause(ctx, wait); stop != nil {
			return fmt.Errorf("%s: %w: %w", what, stop, err)
		}
		wait = min(2*wait, 500*time.Millisecond)
	}
}

// Post implements worker.Coordinator.
func (c *simClient) Post(ctx context.Context, m *consilium.Message) error {
	c.mu.Lock()
	after := c.trick == trickPublishes
	c.mu.Unlock()
	if !after {
		for _, other := range c.lie(m) {
			c.post(ctx, other) // whatever comes of it
		}
	}
	if c.id.Role == wire.RoleSite {
		c.n.s.said(c.id.Name, m)
	}
	if after {
		c.n.s.task(time.Minute, func(ctx context.Context) { c.overtake(ctx, m) })
	}
	return c.post(ctx, m)
}

func (c *simClient) post(ctx context.Context, m *consilium.Message) error {
	if c.n.s.liar.takes(m) {
		return nil
	}
	what := fmt.Sprintf("post %s %s", c.n.s.short(m.Study), m.Kind)
	run := func(ctx context.Context, n *Node) error { return n.server.Post(ctx, c.id, m) }
	err := c.do(ctx, what, run)
	if err == nil {
		c.n.delivered(simCopy{c.id, c.name, what, run})
		c.n.s.acknowledged(m)
	}
	return err
}

func (n *simNet) delivered(copy simCopy) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.done = append(n.done, copy)
}

// Upload implements worker.Coordinator.
func (c *simClient) Upload(ctx context.Context, header *consilium.Message, boxes [][]byte, shape wire.Shape, size uint64, ciphertext func() (io.ReadCloser, error)) error {
	c.n.s.said(c.id.Name, header)
	rc, err := ciphertext()
	if err != nil {
		return err
	}
	bytesOf := make([]byte, size)
	_, err = io.ReadFull(rc, bytesOf)
	rc.Close()
	if err != nil {
		return err
	}
	send := func(m *consilium.Message) error {
		h, err := consilium.ParseHeader(m.Body)
		if err != nil {
			return err
		}
		what := fmt.Sprintf("upload %s", c.n.s.short(m.Study))
		run := func(ctx context.Context, n *Node) error {
			return n.server.Upload(ctx, c.id, &wire.Upload{Message: m, Header: h, BoxCount: len(boxes), BoxSize: len(boxes[0]), Shape: shape,
				Boxes: bytes.NewReader(bytes.Join(boxes, nil)), Ciphertext: bytes.NewReader(bytesOf)})
		}
		err = c.do(ctx, what, run)
		if err == nil {
			c.n.delivered(simCopy{c.id, c.name, what, run})
			c.n.s.acknowledged(m)
		}
		return err
	}
	err = send(header)
	for _, other := range c.lie(header) {
		send(other)
	}
	return err
}

// Fetch implements worker.Coordinator.
func (c *simClient) Fetch(ctx context.Context, digest consilium.Digest, offset, length uint64) (io.ReadCloser, error) {
	var b []byte
	err := c.do(ctx, "fetch", func(ctx context.Context, n *Node) error {
		rc, err := n.server.Fetch(ctx, c.id, digest, offset, length)
		if err != nil {
			return err
		}
		defer rc.Close()
		b, err = io.ReadAll(rc)
		return err
	})
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

// PutBlob implements worker.Coordinator.
func (c *simClient) PutBlob(ctx context.Context, r io.ReadSeeker, size uint64) (consilium.Digest, error) {
	digest, err := wire.BlobDigest(r, size)
	if err != nil {
		return digest, err
	}
	b, err := func() ([]byte, error) {
		if _, err := r.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		return io.ReadAll(r)
	}()
	if err != nil {
		return digest, err
	}
	run := func(ctx context.Context, n *Node) error {
		return n.server.PutBlob(ctx, c.id, digest, size, bytes.NewReader(b))
	}
	return digest, c.do(ctx, fmt.Sprintf("put %d", size), run)
}

// Follow implements worker.Coordinator.
func (c *simClient) Follow(ctx context.Context, from uint64, fn func(*consilium.Event) error) error {
	refused := 0
	for at := int(from); ; at++ {
		nodes := c.nodes()
		to := nodes[at%len(nodes)]
		var failed error
		err := c.n.call(ctx, c.id, c.name, to, "follow", func(ctx context.Context, n *Node) error {
			return n.server.Follow(ctx, c.id, "", from, func(event []byte) error {
				ev, err := consilium.ParseEvent(event)
				if err != nil {
					return err
				}
				if _, err := c.n.await(ctx, string(to), c.name, "event"); err != nil {
					return err
				}
				if c.n.isCut(string(to), c.name) || c.n.s.running(to) != n || c.n.s.admits(n, c.id) != nil {
					return errSimGone
				}
				shown := c.n.s.liar.show(n, c, ev)
				// What was said beside it with its key is not shown to a hostile member's
				// own gate, which would find that it has promised nothing of the kind.
				if c.watch(ev) {
					from = ev.Seq + 1
					return nil
				}
				for _, ev := range shown {
					if failed = fn(ev); failed != nil {
						return failed
					}
				}
				from = ev.Seq + 1
				return nil
			})
		})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case failed != nil:
			return failed
		case errors.Is(err, consilium.ErrUnauthenticated):
			if refused++; refused >= len(nodes) {
				return err
			}
		case err == nil || errors.Is(err, consilium.ErrUnavailable) || errors.Is(err, context.Canceled):
			refused = 0
		default:
			return err
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// watch lets a hostile member keep what others say. It reports whether this is
// what it said itself, beside its gate.
func (c *simClient) watch(ev *consilium.Event) (lied bool) {
	if ev.Kind != consilium.EventMessage || !c.n.s.sites[consilium.SiteID(c.name)].hostile {
		return false
	}
	if m, err := consilium.ParseMessage(ev.Body); err == nil {
		c.mu.Lock()
		c.seen = append(c.seen, m)
		c.mu.Unlock()
	}
	_, lied = c.n.lies.Load(c.name + string(ev.Body))
	return lied
}
