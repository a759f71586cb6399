package coordinator

import (
	"context"
	"io"
	"time"

	"github.com/hashicorp/raft"

	"consilium"
	"consilium/internal/wire"
)

// consensus is what a node asks of the replicated log. In production it is
// *raft.Raft and nothing else; the simulation puts in its place a log in memory
// that elects, forgets what no majority has, and fails on purpose.
type consensus interface {
	Apply(cmd []byte, timeout time.Duration) raft.ApplyFuture
	Barrier(timeout time.Duration) raft.Future
	// VerifyLeader fails unless a majority follows this node in its term now.
	VerifyLeader() raft.Future
	State() raft.RaftState
	CurrentTerm() uint64
	CommitIndex() uint64
	LeaderCh() <-chan bool
	LeaderWithID() (raft.ServerAddress, raft.ServerID)
	LeadershipTransfer() raft.Future
	LeadershipTransferToServer(id raft.ServerID, address raft.ServerAddress) raft.Future
	GetConfiguration() raft.ConfigurationFuture
	AddVoter(id raft.ServerID, address raft.ServerAddress, prevIndex uint64, timeout time.Duration) raft.IndexFuture
	AddNonvoter(id raft.ServerID, address raft.ServerAddress, prevIndex uint64, timeout time.Duration) raft.IndexFuture
	RemoveServer(id raft.ServerID, prevIndex uint64, timeout time.Duration) raft.IndexFuture
	Snapshot() raft.SnapshotFuture
	Shutdown() raft.Future
}

var _ consensus = (*raft.Raft)(nil)

// peers is how a node calls the others: internal/wire's PeerClient.
type peers interface {
	Hello(ctx context.Context, node consilium.NodeID, incarnation string) (wire.Hello, error)
	Store(ctx context.Context, node consilium.NodeID, digest consilium.Digest, size uint64, r io.Reader) error
	Load(ctx context.Context, node consilium.NodeID, digest consilium.Digest, offset, length uint64) (io.ReadCloser, error)
	Holds(ctx context.Context, node consilium.NodeID, digest consilium.Digest, size uint64) (bool, error)
	Close() error
}

var _ peers = (*wire.PeerClient)(nil)
