package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"consilium"
	"consilium/api/v1"
	"consilium/internal/span"
)

// Dialer opens a connection to a roster address.
type Dialer func(ctx context.Context, address string) (net.Conn, error)

// ClientOptions say who calls, and how nodes are reached.
type ClientOptions struct {
	Certificate tls.Certificate
	Book        *Book
	Dial        Dialer       // nil: TCP
	Logger      *slog.Logger // nil: discard
	Prefer      consilium.NodeID
	Trace       *span.Tracer // nil: none
	Accepted    func()       // called whenever a node lets the caller follow, before the first event; nil: nothing
}

// pool keeps one connection for each node and address.
type pool struct {
	cert tls.Certificate
	book *Book
	dial Dialer
	span *span.Tracer

	mu     sync.Mutex
	conns  map[string]*grpc.ClientConn
	closed bool
}

func newPool(cert tls.Certificate, book *Book, dial Dialer, t *span.Tracer) *pool {
	if dial == nil {
		d := &net.Dialer{Timeout: 5 * time.Second}
		dial = func(ctx context.Context, address string) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }
	}
	return &pool{cert: cert, book: book, dial: dial, span: t, conns: map[string]*grpc.ClientConn{}}
}

// conn is the connection to a node at the address that the roster in force
// gives it: a redirect can lead nowhere else.
func (p *pool) conn(node consilium.NodeID) (*grpc.ClientConn, error) {
	c, ok := p.book.Roster().Coordinator(node)
	if !ok {
		return nil, consilium.ErrUnauthenticated.Withf("node %q is not in the roster", node)
	}
	address := c.Address
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, consilium.ErrUnavailable.Withf("the client is closed")
	}
	key := string(node) + " " + address
	if cc, ok := p.conns[key]; ok {
		return cc, nil
	}
	cc, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(credentials.NewTLS(ClientConfig(p.cert, p.book, node))),
		grpc.WithContextDialer(p.dial),
		grpc.WithUnaryInterceptor(p.unary),
		grpc.WithStreamInterceptor(p.stream),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage+16<<20), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}, MinConnectTimeout: 5 * time.Second}),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 15 * time.Second, Timeout: 10 * time.Second, PermitWithoutStream: true}),
	)
	if err != nil {
		return nil, consilium.ErrUnavailable.With(err)
	}
	p.conns[key] = cc
	return cc, nil
}

func (p *pool) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	var errs []error
	for _, cc := range p.conns {
		errs = append(errs, cc.Close())
	}
	clear(p.conns)
	return errors.Join(errs...)
}

// Client speaks to whichever coordinator node can answer. Its calls retry with
// backoff until their context ends: give them one with a deadline. Repeating
// is safe, since the same statement twice gets the same answer. Where a deadline ends
// a call, the next one begins at another node: one try at a node that stands still may
// take as long as the caller gives the whole call. A Client may be used by several
// goroutines.
type Client struct {
	pool     *pool
	book     *Book
	log      *slog.Logger
	accepted func()

	mu     sync.Mutex
	leader consilium.NodeID // where the last call succeeded, a redirect led, or who comes after one that stood still
}

// NewClient connects lazily, so it does not fail when no node answers yet.
func NewClient(o ClientOptions) *Client {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Accepted == nil {
		o.Accepted = func() {}
	}
	return &Client{pool: newPool(o.Certificate, o.Book, o.Dial, o.Trace), book: o.Book, log: o.Logger, accepted: o.Accepted, leader: o.Prefer}
}

// Close ends all connections and with them all calls.
func (c *Client) Close() error { return c.pool.close() }

// nodes lists the roster's coordinators, starting with first.
func (c *Client) nodes(first consilium.NodeID) []consilium.NodeID {
	var out []consilium.NodeID
	for _, n := range c.book.Roster().Coordinators {
		out = append(out, n.ID)
	}
	if i := slices.Index(out, first); i > 0 {
		out = append(append([]consilium.NodeID{}, out[i:]...), out[:i]...)
	}
	return out
}

// share is the node that this member follows until it knows better. Any node
// tells the same, and if all members asked the first of the roster, that one would
// send everything.
func (c *Client) share() consilium.NodeID {
	pin, err := CertificatePin(c.pool.cert)
	nodes := c.nodes("")
	if err != nil || len(nodes) == 0 {
		return ""
	}
	return nodes[int(pin[0])%len(nodes)]
}

func (c *Client) target() consilium.NodeID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leader
}

func (c *Client) aim(node consilium.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leader = node
}

// pass aims at the next node if the caller's deadline, and not the caller, ended a
// call.
func (c *Client) pass(stop error, next consilium.NodeID) {
	if errors.Is(stop, context.DeadlineExceeded) {
		c.aim(next)
	}
}

// retryable says that another node, or the same one later, may answer
// differently. What fails for good on our own side is local.
func retryable(err error) bool {
	return errors.Is(err, consilium.ErrUnavailable) || errors.Is(err, consilium.ErrNotLeader) || errors.Is(err, consilium.ErrDiskFull) || consilium.CodeOf(err) == "internal"
}

// refusedUs says that the handshake failed for good at this node.
func refusedUs(err error) bool {
	return errors.Is(err, consilium.ErrUnauthenticated) || errors.Is(err, consilium.ErrKeyExchange)
}

// classify turns a gRPC error into a domain error. crypto/tls reports a peer's
// refusal only as an alert.
func classify(err error) error {
	err = FromStatus(err)
	if errors.Is(err, consilium.ErrUnavailable) {
		switch text := err.Error(); {
		case strings.Contains(text, consilium.ErrKeyExchange.Msg), strings.Contains(text, "tls: handshake failure"):
			return consilium.ErrKeyExchange.With(err)
		case strings.Contains(text, consilium.ErrUnauthenticated.Msg), strings.Contains(text, "tls: bad certificate"):
			return consilium.ErrUnauthenticated.With(err)
		}
	}
	return err
}

const (
	firstWait = 25 * time.Millisecond
	longWait  = 500 * time.Millisecond
)

// do runs call at the leader, or at the node that is most likely the leader,
// until it succeeds, fails for good or ctx ends.
func (c *Client) do(ctx context.Context, what string, call func(ctx context.Context, cc *grpc.ClientConn) error) error {
	wait := firstWait
	redirects, misses := 0, 0
	refused := map[consilium.NodeID]bool{} // nodes that turned us away since one last answered
	node := c.target()
	var said error // the last answer that says who leads: a call that ctx cuts off says nothing
	for {
		nodes := c.nodes(node)
		if len(nodes) == 0 {
			return fmt.Errorf("%s: %w", what, consilium.ErrUnavailable.Withf("the roster names no coordinator"))
		}
		node = nodes[0]
		next := nodes[min(1, len(nodes)-1)]
		cc, err := c.pool.conn(node)
		if err == nil {
			if err = call(ctx, cc); err == nil {
				c.aim(node)
				return nil
			}
			if errors.As(err, new(local)) {
				return fmt.Errorf("%s: %w", what, err)
			}
			err = classify(err)
		}
		if ctx.Err() != nil {
			c.pass(ctx.Err(), next)
			if said != nil {
				err = said
			}
			return fmt.Errorf("%s: %w: %w", what, ctx.Err(), err)
		}
		var elsewhere *NotLeaderError
		said = nil
		switch {
		case errors.As(err, &elsewhere):
			said = err
			clear(refused)
			if _, ok := c.book.Roster().Coordinator(elsewhere.Leader); ok && elsewhere.Leader != node {
				c.log.Debug("redirected", "from", node, "to", elsewhere.Leader)
				node = elsewhere.Leader
				c.aim(node)
				// A redirect is followed at once, unless nodes send us in circles.
				if redirects++; redirects%4 != 0 {
					continue
				}
			} else if elsewhere.Leader == "" {
				node = next
			}
		case refusedUs(err):
			if refused[node] = true; len(refused) >= len(nodes) {
				return fmt.Errorf("%s: %w", what, err)
			}
			node = next
		case retryable(err):
			node = next
		case errors.Is(err, consilium.ErrBlobMissing), errors.Is(err, consilium.ErrUnknownStudy):
			// A node that lags behind the log does not know it yet; the others may.
			if misses++; misses >= len(nodes) {
				return fmt.Errorf("%s: %w", what, err)
			}
			node = next
		default:
			return fmt.Errorf("%s: %w", what, err)
		}
		c.log.Debug("retrying", "call", what, "node", node, "error", err)
		if stop := sleep(ctx, &wait); stop != nil {
			c.pass(stop, node)
			return fmt.Errorf("%s: %w: %w", what, stop, err)
		}
	}
}

// sleep waits a random time around *wait, which it doubles.
func sleep(ctx context.Context, wait *time.Duration) error {
	t := time.NewTimer(*wait/2 + rand.N(*wait))
	defer t.Stop()
	*wait = min(2**wait, longWait)
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Post hands over one signed message and returns once a majority of nodes has
// accepted it. A header is uploaded instead.
func (c *Client) Post(ctx context.Context, m *consilium.Message) error {
	b := m.Encode()
	return c.do(ctx, "post "+m.Kind.String(), func(ctx context.Context, cc *grpc.ClientConn) error {
		ctx, cancel := context.WithTimeout(ctx, unaryTimeout)
		defer cancel()
		var err error
		switch m.Kind {
		case consilium.KindSubmission, consilium.KindApproval, consilium.KindCancel:
			_, err = apiv1.NewStudyServiceClient(cc).Submit(ctx, &apiv1.SubmitRequest{Message: b})
		default:
			_, err = apiv1.NewSiteServiceClient(cc).Post(ctx, &apiv1.PostRequest{Message: b})
		}
		return err
	})
}

// Upload hands over one contribution: the signed header, its sealed boxes in
// position order, all of one length, and the encrypted vector, which
// ciphertext opens anew for every attempt. It returns once a majority holds
// the bytes and has recorded the header.
func (c *Client) Upload(ctx context.Context, header *consilium.Message, boxes [][]byte, shape Shape, size uint64, ciphertext func() (io.ReadCloser, error)) error {
	if header.Kind != consilium.KindHeader || len(boxes) == 0 {
		return consilium.ErrInvalid.Withf("an upload carries a header and its boxes")
	}
	bundle := make([]byte, 0, len(boxes)*len(boxes[0]))
	for i, b := range boxes {
		if len(b) == 0 || len(b) != len(boxes[0]) {
			return consilium.ErrInvalid.Withf("box %d has %d bytes, the first has %d", i+1, len(b), len(boxes[0]))
		}
		bundle = append(bundle, b...)
	}
	start := &apiv1.UploadStart{Message: header.Encode(), Boxes: uint32(len(boxes)), BoxSize: uint32(len(boxes[0])), Size: size,
		Bits: uint32(shape.Bits), Lanes: uint64(shape.Lanes)}
	return c.do(ctx, "upload", func(ctx context.Context, cc *grpc.ClientConn) error {
		ctx, cancel := context.WithTimeout(ctx, streamTimeout(size+uint64(len(bundle))))
		defer cancel()
		ss, err := apiv1.NewSiteServiceClient(cc).Upload(ctx)
		if err != nil {
			return err
		}
		err = ss.Send(&apiv1.UploadRequest{Part: &apiv1.UploadRequest_Start{Start: start}})
		for rest := bundle; err == nil && len(rest) > 0; {
			n := min(len(rest), chunkSize)
			err = ss.Send(&apiv1.UploadRequest{Part: &apiv1.UploadRequest_Boxes{Boxes: &apiv1.Chunk{Data: rest[:n]}}})
			rest = rest[n:]
		}
		if err == nil {
			var rc io.ReadCloser
			if rc, err = ciphertext(); err != nil {
				return local{fmt.Errorf("open the encrypted vector: %w", err)}
			}
			err = eachChunk(rc, size, func(b []byte) error {
				return ss.Send(&apiv1.UploadRequest{Part: &apiv1.UploadRequest_Ciphertext{Ciphertext: &apiv1.Chunk{Data: b}}})
			})
			rc.Close()
			if errors.As(err, new(local)) {
				return err
			}
		}
		// io.EOF from Send means that the server ended the call: its reason
		// comes with the response.
		if err != nil && err != io.EOF {
			return err
		}
		_, err = ss.CloseAndRecv()
		return err
	})
}

// local marks a failure on our own side: no other node can help.
type local struct{ error }

func (l local) Unwrap() error { return l.error }

// eachChunk reads exactly size bytes of r and hands them on in chunks. A fresh
// buffer each, since gRPC may still hold the last.
func eachChunk(r io.Reader, size uint64, send func([]byte) error) error {
	for left := size; left > 0; {
		buf := make([]byte, min(left, chunkSize))
		if _, err := io.ReadFull(r, buf); err != nil {
			return local{consilium.ErrInvalid.Withf("%d bytes before the announced end: %w", left, err)}
		}
		if err := send(buf); err != nil {
			return err
		}
		left -= uint64(len(buf))
	}
	var more [1]byte
	if n, err := r.Read(more[:]); n > 0 || err != nil && err != io.EOF {
		return local{consilium.ErrInvalid.Withf("bytes after the announced end (%v)", err)}
	}
	return nil
}

// PutBlob stores size bytes of r and returns the digest by which a later
// message names them, once a majority holds them. It reads r from its start
// for the digest and again for every attempt.
func (c *Client) PutBlob(ctx context.Context, r io.ReadSeeker, size uint64) (consilium.Digest, error) {
	digest, err := BlobDigest(r, size)
	if err != nil {
		return digest, err
	}
	return digest, c.do(ctx, "put blob", func(ctx context.Context, cc *grpc.ClientConn) error {
		if _, err := r.Seek(0, io.SeekStart); err != nil {
			return local{err}
		}
		ctx, cancel := context.WithTimeout(ctx, streamTimeout(size))
		defer cancel()
		ss, err := apiv1.NewSiteServiceClient(cc).PutBlob(ctx)
		if err != nil {
			return err
		}
		if err := sendBlob(ss.Send, digest, size, r); err != nil && err != io.EOF {
			return err
		}
		_, err = ss.CloseAndRecv()
		return err
	})
}

func sendBlob(send func(*apiv1.PutBlobRequest) error, digest consilium.Digest, size uint64, r io.Reader) error {
	err := send(&apiv1.PutBlobRequest{Part: &apiv1.PutBlobRequest_Start{Start: &apiv1.BlobStart{Size: size, Digest: digest[:]}}})
	if err != nil {
		return err
	}
	return eachChunk(r, size, func(b []byte) error {
		return send(&apiv1.PutBlobRequest{Part: &apiv1.PutBlobRequest_Chunk{Chunk: &apiv1.Chunk{Data: b}}})
	})
}

// List names the studies that the caller may see, by ascending id.
func (c *Client) List(ctx context.Context) (out []StudyStatus, err error) {
	err = c.do(ctx, "list", func(ctx context.Context, cc *grpc.ClientConn) error {
		ctx, cancel := context.WithTimeout(ctx, unaryTimeout)
		defer cancel()
		r, err := apiv1.NewStudyServiceClient(cc).List(ctx, &apiv1.ListRequest{})
		if err != nil {
			return err
		}
		out, err = toStatuses(r)
		return err
	})
	return out, err
}

// Status says where one study stands.
func (c *Client) Status(ctx context.Context, study consilium.StudyID) (out StudyStatus, err error) {
	err = c.do(ctx, "status", func(ctx context.Context, cc *grpc.ClientConn) error {
		ctx, cancel := context.WithTimeout(ctx, unaryTimeout)
		defer cancel()
		r, err := apiv1.NewStudyServiceClient(cc).Status(ctx, &apiv1.StatusRequest{Study: string(study)})
		if err != nil {
			return err
		}
		out, err = toStatus(r.GetStatus())
		return err
	})
	return out, err
}

// Follow calls fn for every event that the caller may see, from sequence number
// from on, in order, each once. It reconnects and resumes by itself, and returns
// when ctx ends or with the error of fn, or when the federation refuses the
// caller. The events' order is the coordinator's word; their messages'
// signatures are the caller's to verify.
func (c *Client) Follow(ctx context.Context, from uint64, fn func(*consilium.Event) error) error {
	return c.FollowStudy(ctx, "", from, fn)
}

// FollowStudy is Follow for the events of one study.
func (c *Client) FollowStudy(ctx context.Context, study consilium.StudyID, from uint64, fn func(*consilium.Event) error) error {
	wait := firstWait
	refused := map[consilium.NodeID]bool{}
	node := c.target()
	if node == "" {
		node = c.share()
	}
	for {
		nodes := c.nodes(node)
		if len(nodes) == 0 {
			return fmt.Errorf("follow: %w", consilium.ErrUnavailable.Withf("the roster names no coordinator"))
		}
		node = nodes[0]
		next := nodes[min(1, len(nodes)-1)]
		got, err := c.followOnce(ctx, node, study, &from, func() {
			clear(refused)
			c.accepted()
		}, fn)
		if got {
			wait = firstWait
		}
		if errors.As(err, new(local)) {
			return errors.Unwrap(err)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("follow: %w", ctx.Err())
		}
		switch {
		case refusedUs(err):
			if refused[node] = true; len(refused) >= len(nodes) {
				return fmt.Errorf("follow: %w", err)
			}
		case retryable(err):
		default:
			return fmt.Errorf("follow: %w", err)
		}
		c.log.Debug("follow reconnects", "node", next, "from", from, "error", err)
		node = next
		if err := sleep(ctx, &wait); err != nil {
			return fmt.Errorf("follow: %w", err)
		}
	}
}

// followOnce follows one stream until it breaks; *from moves on. It calls accepted
// once the node lets the caller follow, be there an event or not. An error of fn
// comes back as local.
func (c *Client) followOnce(ctx context.Context, node consilium.NodeID, study consilium.StudyID, from *uint64, accepted func(), fn func(*consilium.Event) error) (got bool, err error) {
	cc, err := c.pool.conn(node)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req := &apiv1.FollowRequest{Study: string(study), From: *from}
	id, err := CertificatePin(c.pool.cert)
	if err != nil {
		return false, local{err}
	}
	me, err := c.book.Lookup(id)
	if err != nil {
		return false, err
	}
	var ss grpc.ServerStreamingClient[apiv1.FollowResponse]
	if me.Role == RoleSite {
		ss, err = apiv1.NewSiteServiceClient(cc).Follow(ctx, req)
	} else {
		ss, err = apiv1.NewStudyServiceClient(cc).Follow(ctx, req)
	}
	if err != nil {
		return false, classify(err)
	}
	// A node that refuses sends no header: why, Recv says.
	if header, err := ss.Header(); err == nil && header != nil {
		accepted()
	}
	for {
		r, err := ss.Recv()
		if err == io.EOF {
			return got, consilium.ErrUnavailable.Withf("the stream ended")
		}
		if err != nil {
			return got, classify(err)
		}
		ev, err := toEvent(r)
		if err != nil {
			return got, consilium.ErrUnavailable.Withf("node %s sent a bad event: %w", node, err)
		}
		if ev.Seq < *from || study != "" && ev.Study != study {
			return got, consilium.ErrUnavailable.Withf("node %s sent event %d of %s, wanted %d or later", node, ev.Seq, ev.Study, *from)
		}
		if err := fn(ev); err != nil {
			return got, local{err}
		}
		got = true
		*from = ev.Seq + 1
	}
}

// Fetch streams length bytes from offset (length 0: up to the end) of what is
// stored under a digest: a blob, or a ciphertext or sealed box that a header
// names. A broken stream goes on at another node. The bytes are as the
// coordinator sent them: check them against the digest before use.
func (c *Client) Fetch(ctx context.Context, digest consilium.Digest, offset, length uint64) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	r := &fetchReader{c: c, ctx: ctx, cancel: cancel, digest: digest, offset: offset, bounded: length > 0, left: length}
	if err := r.fill(); err != nil && err != io.EOF {
		cancel()
		return nil, err
	}
	return r, nil
}

// FetchBlob reads a whole blob of at most limit bytes and checks its digest.
func (c *Client) FetchBlob(ctx context.Context, digest consilium.Digest, limit uint64) ([]byte, error) {
	r, err := c.Fetch(ctx, digest, 0, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if uint64(len(b)) > limit {
		return nil, consilium.ErrTooLarge.Withf("blob %s has more than %d bytes", digest.Short(), limit)
	}
	h := NewBlobHash()
	h.Write(b)
	if consilium.Digest(h.Sum(nil)) != digest {
		return nil, consilium.ErrBlobCorrupt.Withf("blob %s as fetched", digest.Short())
	}
	return b, nil
}

// fetchReader reads one stream after another from where the last broke off.
type fetchReader struct {
	c       *Client
	ctx     context.Context
	cancel  context.CancelFunc
	digest  consilium.Digest
	offset  uint64
	left    uint64
	bounded bool
	stop    context.CancelFunc // of the current stream
	ss      grpc.ServerStreamingClient[apiv1.Chunk]
	buf     []byte
	err     error
}

func (r *fetchReader) Read(p []byte) (int, error) {
	if len(r.buf) == 0 {
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.buf)
	r.buf = r.buf[n:]
	return n, nil
}

// fill gets the next chunk.
func (r *fetchReader) fill() error {
	if r.err != nil {
		return r.err
	}
	if r.bounded && r.left == 0 {
		r.err = io.EOF
		return io.EOF
	}
	err := r.c.do(r.ctx, "fetch", func(_ context.Context, cc *grpc.ClientConn) error {
		if r.ss == nil {
			ctx, stop := context.WithCancel(r.ctx)
			req := &apiv1.FetchRequest{Digest: r.digest[:], Offset: r.offset, Length: r.left}
			ss, err := r.c.openFetch(ctx, cc, req)
			if err != nil {
				stop()
				return err
			}
			r.ss, r.stop = ss, stop
		}
		m, err := r.ss.Recv()
		if err == nil {
			r.buf, err = toChunk(m)
			if err == nil && r.bounded && uint64(len(r.buf)) > r.left {
				err = consilium.ErrInvalid.Withf("more bytes than asked for")
			}
		}
		if err == io.EOF {
			r.err = io.EOF
			if r.bounded {
				r.err = consilium.ErrInvalid.Withf("%d bytes beyond the end of %s were asked for", r.left, r.digest.Short())
			}
			r.end()
			return nil
		}
		if err != nil {
			r.end()
			r.buf = nil
			return err
		}
		return nil
	})
	if err != nil {
		r.err = err
		return err
	}
	if r.err != nil {
		return r.err
	}
	r.offset += uint64(len(r.buf))
	if r.bounded {
		r.left -= uint64(len(r.buf))
	}
	return nil
}

func (r *fetchReader) end() {
	if r.stop != nil {
		r.stop()
	}
	r.ss, r.stop = nil, nil
}

// Close ends the stream.
func (r *fetchReader) Close() error {
	r.end()
	r.cancel()
	if r.err == nil {
		r.err = io.ErrClosedPipe
	}
	return nil
}

func (c *Client) openFetch(ctx context.Context, cc *grpc.ClientConn, req *apiv1.FetchRequest) (grpc.ServerStreamingClient[apiv1.Chunk], error) {
	pin, err := CertificatePin(c.pool.cert)
	if err != nil {
		return nil, local{err}
	}
	me, err := c.book.Lookup(pin)
	if err != nil {
		return nil, err
	}
	if me.Role == RoleSite {
		return apiv1.NewSiteServiceClient(cc).Fetch(ctx, req)
	}
	return apiv1.NewStudyServiceClient(cc).Fetch(ctx, req)
}

// Checkpoint is the latest signed tree head of one node's audit log.
func (c *Client) Checkpoint(ctx context.Context) (note []byte, err error) {
	err = c.do(ctx, "checkpoint", func(ctx context.Context, cc *grpc.ClientConn) error {
		ctx, cancel := context.WithTimeout(ctx, unaryTimeout)
		defer cancel()
		r, err := apiv1.NewAuditServiceClient(cc).Checkpoint(ctx, &apiv1.CheckpointRequest{})
		if err != nil {
			return err
		}
		note, err = toNote(r)
		return err
	})
	return note, err
}

// Inclusion proves that leaf index is in the tree of the given size
// (RFC 6962 §2.1.1).
func (c *Client) Inclusion(ctx context.Context, index, size uint64) (proof []consilium.Digest, err error) {
	err = c.do(ctx, "inclusion", func(ctx context.Context, cc *grpc.ClientConn) error {
		ctx, cancel := context.WithTimeout(ctx, unaryTimeout)
		defer cancel()
		r, err := apiv1.NewAuditServiceClient(cc).Inclusion(ctx, &apiv1.InclusionRequest{Index: index, Size: size})
		if err != nil {
			return err
		}
		proof, err = toProof(r)
		return err
	})
	return proof, err
}

// Consistency proves that the tree of the given size extends the one of size
// old (RFC 6962 §2.1.2).
func (c *Client) Consistency(ctx context.Context, old, size uint64) (proof []consilium.Digest, err error) {
	err = c.do(ctx, "consistency", func(ctx context.Context, cc *grpc.ClientConn) error {
		ctx, cancel := context.WithTimeout(ctx, unaryTimeout)
		defer cancel()
		r, err := apiv1.NewAuditServiceClient(cc).Consistency(ctx, &apiv1.ConsistencyRequest{OldSize: old, Size: size})
		if err != nil {
			return err
		}
		proof, err = toProof(r)
		return err
	})
	return proof, err
}

// Tile is one tile of hashes of the audit log, 32 bytes each.
func (c *Client) Tile(ctx context.Context, level int, index uint64, width int) (hashes []byte, err error) {
	err = c.do(ctx, "tile", func(ctx context.Context, cc *grpc.ClientConn) error {
		ctx, cancel := context.WithTimeout(ctx, unaryTimeout)
		defer cancel()
		r, err := apiv1.NewAuditServiceClient(cc).Tile(ctx, &apiv1.TileRequest{Level: uint32(level), Index: index, Width: uint32(width)})
		if err != nil {
			return err
		}
		hashes, err = toHashes(r, width)
		return err
	})
	return hashes, err
}

// Entries streams count leaves of the audit log from start.
func (c *Client) Entries(ctx context.Context, start, count uint64, fn func(index uint64, leaf []byte) error) error {
	end := start + count
	for start < end {
		n := min(end-start, 4096)
		err := c.do(ctx, "entries", func(ctx context.Context, cc *grpc.ClientConn) error {
			ctx, cancel := context.WithTimeout(ctx, streamTimeout(n*4096))
			defer cancel()
			last := start + n
			ss, err := apiv1.NewAuditServiceClient(cc).Entries(ctx, &apiv1.EntriesRequest{Start: start, Count: last - start})
			if err != nil {
				return err
			}
			for start < last {
				r, err := ss.Recv()
				if err == io.EOF {
					return consilium.ErrInvalid.Withf("the log ends at %d", start)
				}
				if err != nil {
					return err
				}
				leaf, err := toLeaf(r, start)
				if err != nil {
					return err
				}
				if err := fn(start, leaf); err != nil {
					return local{err}
				}
				start++
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
