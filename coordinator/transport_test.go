package coordinator

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"consilium"
)

// plainLayer is a stream layer without TLS.
type plainLayer struct {
	net.Listener
}

func (l plainLayer) Dial(a raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", string(a), timeout)
}

// TestNoPipelining: replication waits for each answer. The naive twin, Raft's own
// default, sends on after the last reader of answers has gone, and stays there
// until somebody closes the pipeline, which only the sender itself would do.
func TestNoPipelining(t *testing.T) {
	layer := func() plainLayer {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return plainLayer{Listener: l}
	}
	follower := newTransport(layer(), 10*time.Second, hclog.NewNullLogger())
	t.Cleanup(func() { follower.Close() })
	got := make(chan struct{}, 16)
	go func() {
		for {
			select {
			case rpc := <-follower.Consumer():
				rpc.Respond(&raft.AppendEntriesResponse{Success: false}, nil)
				got <- struct{}{}
			case <-t.Context().Done():
				return
			}
		}
	}()
	ours := newTransport(layer(), 10*time.Second, hclog.NewNullLogger())
	t.Cleanup(func() { ours.Close() })
	to := follower.LocalAddr()
	if _, err := ours.AppendEntriesPipeline("f", to); !errors.Is(err, raft.ErrPipelineReplicationNotSupported) {
		t.Errorf("replication is pipelined: %v", err)
	}
	var resp raft.AppendEntriesResponse
	if err := ours.AppendEntries("f", to, &raft.AppendEntriesRequest{Term: 1}, &resp); err != nil || resp.Success {
		t.Fatal(resp, err)
	}
	<-got

	naive := raft.NewNetworkTransport(layer(), 3, 10*time.Second, nil)
	t.Cleanup(func() { naive.Close() })
	p, err := naive.AppendEntriesPipeline("f", to)
	if err != nil {
		t.Fatal(err)
	}
	// Of the first answer, which is a refusal, the reader takes leave.
	if _, err := p.AppendEntries(&raft.AppendEntriesRequest{Term: 1}, new(raft.AppendEntriesResponse)); err != nil {
		t.Fatal(err)
	}
	<-p.Consumer()
	stuck := make(chan error, 1)
	go func() {
		for {
			if _, err := p.AppendEntries(&raft.AppendEntriesRequest{Term: 1}, new(raft.AppendEntriesResponse)); err != nil {
				stuck <- err
				return
			}
		}
	}()
	for range 3 { // the first, one that decodes, and one that nobody takes over
		<-got
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-stuck; !errors.Is(err, raft.ErrPipelineShutdown) {
		t.Errorf("the naive twin was not stuck: %v", err)
	}
}

// restless is a stream layer whose accepted connections wait for ever.
type restless struct{ *streamLayer }

func (l restless) Accept() (net.Conn, error) {
	c, err := l.streamLayer.Accept()
	if a, ok := c.(*acceptedConn); ok {
		return &a.trackedConn, err
	}
	return c, err
}

// TestStalledSnapshot: a leader that stops while it sends a snapshot does not keep the
// receiver's main loop, and with it its vote, for longer than a request may stall. A
// connection that rests between two requests is kept. The naive twin still waits after
// a day.
func TestStalledSnapshot(t *testing.T) {
	for _, naive := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 2, 3, true, false)
			var dials atomic.Int32
			layer := func(id consilium.NodeID) *streamLayer {
				cfg := c.config(id)
				cfg.Dial = func(ctx context.Context, address string) (net.Conn, error) {
					dials.Add(1)
					return c.net.Dial(ctx, address)
				}
				names, err := openStarts(nil, serverID(id, "there"))
				if err != nil {
					t.Fatal(err)
				}
				l, err := c.net.Listen(string(id) + "-raft")
				if err != nil {
					t.Fatal(err)
				}
				return newStreamLayer(l, names, &cfg, func(err error) { t.Error(err) })
			}
			var receives raft.StreamLayer = layer("c2")
			if naive {
				receives = restless{receives.(*streamLayer)}
			}
			follower := newTransport(receives, 10*time.Second, hclog.NewNullLogger())
			defer follower.Close()
			leader := newTransport(layer("c1"), 10*time.Second, hclog.NewNullLogger())
			defer leader.Close()
			to := follower.LocalAddr()

			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			read := make(chan error, 1)
			go func() {
				for {
					select {
					case rpc := <-follower.Consumer():
						var err error
						if rpc.Reader != nil { // as raft's main loop does
							_, err = io.Copy(io.Discard, rpc.Reader)
							read <- err
						}
						rpc.Respond(&raft.AppendEntriesResponse{Success: err == nil}, err)
					case <-ctx.Done():
						return
					}
				}
			}()
			for range 2 {
				var resp raft.AppendEntriesResponse
				if err := leader.AppendEntries("c2", to, &raft.AppendEntriesRequest{Term: 1}, &resp); err != nil || !resp.Success {
					t.Fatal(resp, err)
				}
				time.Sleep(24 * time.Hour)
			}
			if n := dials.Load(); n != 1 {
				t.Errorf("%d connections: one that rested was cut", n)
			}
			stopped := make(chan struct{})
			defer close(stopped)
			go func() {
				half := io.MultiReader(bytes.NewReader(make([]byte, 1<<20)), readerFunc(func([]byte) (int, error) { <-stopped; return 0, io.EOF }))
				leader.InstallSnapshot("c2", to, &raft.InstallSnapshotRequest{SnapshotVersion: 1, Term: 1, Size: 2 << 20}, new(raft.InstallSnapshotResponse), half)
			}()
			select {
			case err := <-read:
				if naive || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("naive=%v: reading ended with %v", naive, err)
				}
			case <-time.After(24 * time.Hour):
				if !naive {
					t.Error("the receiver still waits")
				}
			}
		})
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }
