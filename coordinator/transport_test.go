package coordinator

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
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
	follower := newTransport(layer(), hclog.NewNullLogger())
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
	ours := newTransport(layer(), hclog.NewNullLogger())
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
