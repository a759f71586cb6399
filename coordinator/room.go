package coordinator

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"consilium"
	"consilium/internal/blob"
	"consilium/internal/durable"
)

// A node without room takes no blob, and whatever it cannot take another node may.
// So its full disk is nobody's failure but its own: who calls hears
// consilium.ErrUnavailable and asks again or elsewhere, and a leader hands over,
// since contributions and sums go through the leader alone. A node whose replicated
// log or events do not fit any more ends; those two it cannot do without.

// roomStore is a node's blobs, with errors that say whose disk is full.
type roomStore struct {
	blob.Store
	n *Node
}

// Put implements blob.Store.
func (s roomStore) Put(ctx context.Context, r io.Reader, limit int64) (consilium.Digest, int64, error) {
	d, size, err := s.Store.Put(ctx, r, limit)
	return d, size, s.n.outOfRoom(err)
}

// PutExpect implements blob.Store.
func (s roomStore) PutExpect(ctx context.Context, want consilium.Digest, size int64, r io.Reader) error {
	return s.n.outOfRoom(s.Store.PutExpect(ctx, want, size, r))
}

// A leader that got the lead back with its disk still full hands over again, after a
// pause that doubles from yieldFirst election time-outs to yieldLast: if no node has
// room, they would pass the lead round.
const (
	yieldFirst = 4
	yieldLast  = time.Minute
)

// yielding is when a node without room hands over again, should it lead.
type yielding struct {
	next  time.Time
	pause time.Duration
	times int
}

// due reports whether a leader without room hands over now, and counts that it does.
func (y *yielding) due(now time.Time, first time.Duration) bool {
	switch {
	case now.Before(y.next):
		return false
	case now.Sub(y.next) > yieldLast:
		y.pause = first
	default:
		y.pause = min(2*y.pause, yieldLast)
	}
	y.next = now.Add(y.pause)
	y.times++
	return true
}

// outOfRoom turns "no space left" on this node's disk into consilium.ErrUnavailable,
// and makes a leader hand over. Every other error stays what it is.
func (n *Node) outOfRoom(err error) error {
	err = durable.Full(err)
	if !errors.Is(err, consilium.ErrDiskFull) {
		return err
	}
	r, now := n.raftNode(), time.Now()
	leads := r != nil && r.State() == raft.Leader
	n.mu.Lock()
	says := now.Sub(n.saidFull) > yieldLast
	if says {
		n.saidFull = now
	}
	yields := leads && n.yielding.due(now, yieldFirst*n.cfg.Timing.Heartbeat)
	times := n.yielding.times
	n.mu.Unlock()
	if says {
		n.log.Error("no space left in this node's data directory: it keeps no further blobs until there is room again", "error", err)
	}
	if yields {
		n.spawn(func(life context.Context) {
			if err := n.yield(life, times); err != nil && life.Err() == nil {
				n.log.Warn("no other node takes over from this one, which has no space left", "error", err)
			}
		})
	}
	return consilium.ErrUnavailable.With(err)
}

// yield hands over to the voter behind this one, the next time to the one behind that,
// and so on. Raft would choose the first of those that have caught up: two full nodes
// would pass the lead between them while a majority has room.
func (n *Node) yield(ctx context.Context, times int) error {
	conf, err := n.cluster()
	if err != nil {
		return err
	}
	voters := slices.DeleteFunc(slices.Clone(conf.Servers), func(s raft.Server) bool { return s.Suffrage != raft.Voter })
	at := slices.IndexFunc(voters, func(s raft.Server) bool { return s.ID == n.self })
	if at < 0 || len(voters) < 2 {
		return n.handOver(ctx)
	}
	to := voters[(at+1+(times-1)%(len(voters)-1))%len(voters)]
	err = await(ctx, n.raftNode().LeadershipTransferToServer(to.ID, to.Address))
	n.transferring(err)
	return err
}
