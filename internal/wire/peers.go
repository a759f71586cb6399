package wire

import (
	"context"
	"io"

	"google.golang.org/grpc"

	"consilium"
	"consilium/api/v1"
)

// PeerClient calls the other coordinator nodes. It does not retry: whether a
// node answered is what its caller counts.
type PeerClient struct{ pool *pool }

// NewPeerClient connects lazily.
func NewPeerClient(o ClientOptions) *PeerClient {
	return &PeerClient{newPool(o.Certificate, o.Book, o.Dial, o.Trace)}
}

// Close ends all connections.
func (p *PeerClient) Close() error { return p.pool.close() }

// Hello asks node who it is, and says who asks.
func (p *PeerClient) Hello(ctx context.Context, node consilium.NodeID, incarnation string) (Hello, error) {
	cc, err := p.pool.conn(node)
	if err != nil {
		return Hello{}, err
	}
	r, err := apiv1.NewPeerServiceClient(cc).Hello(ctx, &apiv1.HelloRequest{Incarnation: incarnation})
	if err != nil {
		return Hello{}, classify(err)
	}
	return toHello(r)
}

// Store returns once node holds the size bytes of r durably under digest.
func (p *PeerClient) Store(ctx context.Context, node consilium.NodeID, digest consilium.Digest, size uint64, r io.Reader) error {
	cc, err := p.pool.conn(node)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, streamTimeout(size))
	defer cancel()
	ss, err := apiv1.NewPeerServiceClient(cc).Store(ctx)
	if err != nil {
		return classify(err)
	}
	if err := sendBlob(ss.Send, digest, size, r); err != nil && err != io.EOF {
		return classify(err)
	}
	_, err = ss.CloseAndRecv()
	return classify(err)
}

// Load streams a range of what node itself holds under digest.
func (p *PeerClient) Load(ctx context.Context, node consilium.NodeID, digest consilium.Digest, offset, length uint64) (io.ReadCloser, error) {
	cc, err := p.pool.conn(node)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ss, err := apiv1.NewPeerServiceClient(cc).Load(ctx, &apiv1.FetchRequest{Digest: digest[:], Offset: offset, Length: length})
	if err != nil {
		cancel()
		return nil, classify(err)
	}
	r := &loadReader{ss: ss, cancel: cancel}
	// The first chunk says whether the node has it at all.
	if err := r.fill(); err != nil && err != io.EOF {
		cancel()
		return nil, err
	}
	return r, nil
}

// Holds asks whether node itself holds digest whole.
func (p *PeerClient) Holds(ctx context.Context, node consilium.NodeID, digest consilium.Digest, size uint64) (bool, error) {
	cc, err := p.pool.conn(node)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, unaryTimeout)
	defer cancel()
	r, err := apiv1.NewPeerServiceClient(cc).Holds(ctx, &apiv1.HoldsRequest{Digest: digest[:], Size: size})
	if err != nil {
		return false, classify(err)
	}
	return r.GetHeld(), nil
}

type loadReader struct {
	ss     grpc.ServerStreamingClient[apiv1.Chunk]
	cancel context.CancelFunc
	buf    []byte
	err    error
}

func (r *loadReader) fill() error {
	if r.err != nil {
		return r.err
	}
	m, err := r.ss.Recv()
	if err == nil {
		r.buf, err = toChunk(m)
	} else if err != io.EOF {
		err = classify(err)
	}
	r.err = err
	return err
}

func (r *loadReader) Read(p []byte) (int, error) {
	for len(r.buf) == 0 {
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.buf)
	r.buf = r.buf[n:]
	return n, nil
}

func (r *loadReader) Close() error {
	r.cancel()
	if r.err == nil {
		r.err = io.ErrClosedPipe
	}
	return nil
}
