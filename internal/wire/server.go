package wire

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"math"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"

	"consilium"
	"consilium/api/v1"
	"consilium/internal/span"
)

// Deadlines of calls as the server enforces them; a client may set less.
const (
	unaryTimeout = 30 * time.Second
	// idleTimeout is how long a stream may wait for the peer's next chunk.
	idleTimeout = 60 * time.Second
	// slowest is the least mean rate, in bytes per second, that an upload or a
	// download may have: hospital links are slow, but not slower.
	slowest = 64 << 10
	// recheck is how often a quiet stream looks up its peer's pin again.
	recheck = 15 * time.Second
)

// streamTimeout is the deadline of a stream of size bytes.
func streamTimeout(size uint64) time.Duration {
	return 2*time.Minute + time.Duration(min(size/slowest, math.MaxInt32))*time.Second
}

// Server is a node's gRPC side.
type Server struct {
	grpc *grpc.Server
	book *Book
	log  *slog.Logger
	span *span.Tracer
	stop context.CancelFunc // ends streams that would last for ever
}

// ServerOptions say what a Server offers, and as whom.
type ServerOptions struct {
	Certificate tls.Certificate
	Book        *Book
	Members     Members
	Peers       Peers
	Audit       Audit
	Logger      *slog.Logger
	Trace       *span.Tracer // nil: none
}

// NewServer makes a server that Serve runs.
func NewServer(o ServerOptions) *Server {
	stopping, stop := context.WithCancel(context.Background())
	s := &Server{book: o.Book, log: o.Logger, span: o.Trace, stop: stop}
	s.grpc = grpc.NewServer(
		grpc.Creds(serverCredentials{credentials.NewTLS(ServerConfig(o.Certificate, o.Book)), o.Logger}),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage+16<<20), // a list of studies is longer than any message
		grpc.MaxConcurrentStreams(128),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.MaxHeaderListSize(8<<10),
		grpc.WaitForHandlers(true), // after Stop nothing runs that could touch what is being closed
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
	)
	apiv1.RegisterStudyServiceServer(s.grpc, &studyServer{m: o.Members, s: s, stopping: stopping})
	apiv1.RegisterSiteServiceServer(s.grpc, &siteServer{m: o.Members, s: s, stopping: stopping})
	apiv1.RegisterPeerServiceServer(s.grpc, &peerServer{p: o.Peers, s: s})
	apiv1.RegisterAuditServiceServer(s.grpc, &auditServer{a: o.Audit})
	return s
}

// Serve answers on l until Drain or Stop.
func (s *Server) Serve(l net.Listener) error { return s.grpc.Serve(l) }

// Drain refuses new calls, ends Follow streams and lets the others finish
// until ctx ends.
func (s *Server) Drain(ctx context.Context) {
	s.stop()
	done := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.grpc.Stop()
		<-done
	}
}

// Stop cuts every connection.
func (s *Server) Stop() {
	s.stop()
	s.grpc.Stop()
}

type identityKey struct{}

// identity is who calls; the interceptors put it there.
func identity(ctx context.Context) Identity {
	id, _ := ctx.Value(identityKey{}).(Identity)
	return id
}

// admit authenticates the peer by the roster in force now and checks its role.
func (s *Server) admit(ctx context.Context, method string) (context.Context, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, consilium.ErrUnauthenticated.Withf("no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return nil, consilium.ErrUnauthenticated.Withf("no TLS")
	}
	id, err := verify(s.book, info.State)
	if err != nil {
		return nil, err
	}
	if err := authorize(method, id); err != nil {
		return nil, err
	}
	return context.WithValue(ctx, identityKey{}, id), nil
}

func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	defer func() { err = s.edge(ctx, info.FullMethod, recover(), err) }()
	admitted, err := s.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(admitted, unaryTimeout)
	defer cancel()
	traced, end := s.span.Serve(limited, info.FullMethod, header(ctx))
	defer func() { end(err) }()
	return handler(traced, req)
}

type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s stream) Context() context.Context { return s.ctx }

func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	ctx := ss.Context()
	defer func() { err = s.edge(ctx, info.FullMethod, recover(), err) }()
	admitted, err := s.admit(ctx, info.FullMethod)
	if err != nil {
		return err
	}
	traced, end := s.span.Serve(admitted, info.FullMethod, header(ctx))
	defer func() { end(err) }()
	return handler(srv, stream{ss, traced})
}

// edge is where an error is logged once and becomes a status. A panic is a
// defect of ours that a peer's bytes reached; it costs that peer its call and
// nobody else anything.
func (s *Server) edge(ctx context.Context, method string, panicked any, err error) error {
	remote := ""
	if p, ok := peer.FromContext(ctx); ok {
		remote = p.Addr.String()
	}
	if panicked != nil {
		s.log.Error("panic in a call", "method", method, "remote", remote, "panic", panicked, "stack", string(debug.Stack()))
		return Status(errPanic{})
	}
	if err == nil {
		return nil
	}
	if consilium.CodeOf(err) == consilium.ErrDiskFull.Code {
		// This node's disk, not the caller's: a hospital that is told so would leave
		// its study, as it must when its own disk is full.
		err = consilium.ErrUnavailable.With(err)
	}
	level := slog.LevelDebug
	if code := consilium.CodeOf(err); code == "internal" && ctx.Err() == nil || code == consilium.ErrUnauthenticated.Code || code == consilium.ErrForbidden.Code {
		level = slog.LevelWarn
	}
	s.log.Log(ctx, level, "call failed", "method", method, "remote", remote, "code", string(consilium.CodeOf(err)), "error", err.Error())
	return Status(err)
}

type errPanic struct{}

func (errPanic) Error() string { return "panic" }

type studyServer struct {
	apiv1.UnimplementedStudyServiceServer
	m        Members
	s        *Server
	stopping context.Context
}

func (s *studyServer) Submit(ctx context.Context, r *apiv1.SubmitRequest) (*apiv1.SubmitResponse, error) {
	m, err := toMessage(r.GetMessage())
	if err != nil {
		return nil, err
	}
	if err := s.m.Post(ctx, identity(ctx), m); err != nil {
		return nil, err
	}
	return &apiv1.SubmitResponse{}, nil
}

func (s *studyServer) List(ctx context.Context, _ *apiv1.ListRequest) (*apiv1.ListResponse, error) {
	list, err := s.m.List(ctx, identity(ctx))
	if err != nil {
		return nil, err
	}
	out := &apiv1.ListResponse{}
	for _, st := range list {
		out.Studies = append(out.Studies, fromStatus(st))
	}
	return out, nil
}

func (s *studyServer) Status(ctx context.Context, r *apiv1.StatusRequest) (*apiv1.StatusResponse, error) {
	study, err := toStudy(r.GetStudy())
	if err != nil {
		return nil, err
	}
	st, err := s.m.Status(ctx, identity(ctx), study)
	if err != nil {
		return nil, err
	}
	return &apiv1.StatusResponse{Status: fromStatus(st)}, nil
}

func (s *studyServer) Follow(r *apiv1.FollowRequest, ss grpc.ServerStreamingServer[apiv1.FollowResponse]) error {
	return s.s.follow(s.m, s.stopping, r, ss)
}

func (s *studyServer) Fetch(r *apiv1.FetchRequest, ss grpc.ServerStreamingServer[apiv1.Chunk]) error {
	return fetch(s.m, r, ss)
}

type siteServer struct {
	apiv1.UnimplementedSiteServiceServer
	m        Members
	s        *Server
	stopping context.Context
}

func (s *siteServer) Post(ctx context.Context, r *apiv1.PostRequest) (*apiv1.PostResponse, error) {
	m, err := toMessage(r.GetMessage())
	if err != nil {
		return nil, err
	}
	if m.Kind == consilium.KindHeader {
		return nil, consilium.ErrInvalid.Withf("a header comes with its contribution: upload it")
	}
	if err := s.m.Post(ctx, identity(ctx), m); err != nil {
		return nil, err
	}
	return &apiv1.PostResponse{}, nil
}

func (s *siteServer) Upload(ss grpc.ClientStreamingServer[apiv1.UploadRequest, apiv1.UploadResponse]) error {
	in := receive(ss.Context(), ss.Recv)
	first, err := in.next()
	if err != nil {
		return early(err)
	}
	u, err := toUpload(first)
	if err != nil {
		return err
	}
	boxes := uint64(u.BoxCount) * uint64(u.BoxSize)
	ctx, cancel := context.WithTimeout(ss.Context(), streamTimeout(boxes+u.Header.Size))
	defer cancel()
	in.ctx = ctx
	b := &exactly{what: "the sealed boxes", left: boxes, next: in.part(toBoxes)}
	u.Boxes = b
	u.Ciphertext = &exactly{what: "the encrypted vector", left: u.Header.Size, next: in.part(toCiphertext), last: true}
	if err := s.m.Upload(ctx, identity(ctx), u); err != nil {
		return err
	}
	return ss.SendAndClose(&apiv1.UploadResponse{})
}

func (s *siteServer) Follow(r *apiv1.FollowRequest, ss grpc.ServerStreamingServer[apiv1.FollowResponse]) error {
	return s.s.follow(s.m, s.stopping, r, ss)
}

func (s *siteServer) Fetch(r *apiv1.FetchRequest, ss grpc.ServerStreamingServer[apiv1.Chunk]) error {
	return fetch(s.m, r, ss)
}

func (s *siteServer) PutBlob(ss grpc.ClientStreamingServer[apiv1.PutBlobRequest, apiv1.PutBlobResponse]) error {
	if err := put(ss.Context(), ss.Recv, s.m.PutBlob); err != nil {
		return err
	}
	return ss.SendAndClose(&apiv1.PutBlobResponse{})
}

type peerServer struct {
	apiv1.UnimplementedPeerServiceServer
	p Peers
	s *Server
}

func (s *peerServer) Hello(ctx context.Context, r *apiv1.HelloRequest) (*apiv1.HelloResponse, error) {
	inc, err := toIncarnation(r.GetIncarnation())
	if err != nil {
		return nil, err
	}
	h, err := s.p.Hello(ctx, identity(ctx), inc)
	if err != nil {
		return nil, err
	}
	return fromHello(h), nil
}

func (s *peerServer) Store(ss grpc.ClientStreamingServer[apiv1.PutBlobRequest, apiv1.StoreResponse]) error {
	if err := put(ss.Context(), ss.Recv, s.p.Store); err != nil {
		return err
	}
	return ss.SendAndClose(&apiv1.StoreResponse{})
}

func (s *peerServer) Load(r *apiv1.FetchRequest, ss grpc.ServerStreamingServer[apiv1.Chunk]) error {
	digest, offset, length, err := toFetch(r)
	if err != nil {
		return err
	}
	ctx := ss.Context()
	rc, err := s.p.Load(ctx, identity(ctx), digest, offset, length)
	if err != nil {
		return err
	}
	return sendChunks(rc, ss)
}

func (s *peerServer) Holds(ctx context.Context, r *apiv1.HoldsRequest) (*apiv1.HoldsResponse, error) {
	digest, size, err := toHolds(r)
	if err != nil {
		return nil, err
	}
	held, err := s.p.Holds(ctx, identity(ctx), digest, size)
	if err != nil {
		return nil, err
	}
	return &apiv1.HoldsResponse{Held: held}, nil
}

type auditServer struct {
	apiv1.UnimplementedAuditServiceServer
	a Audit
}

func (s *auditServer) Checkpoint(ctx context.Context, _ *apiv1.CheckpointRequest) (*apiv1.CheckpointResponse, error) {
	n, err := s.a.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	return &apiv1.CheckpointResponse{Note: n}, nil
}

func (s *auditServer) Tile(ctx context.Context, r *apiv1.TileRequest) (*apiv1.TileResponse, error) {
	level, index, width, err := toTile(r)
	if err != nil {
		return nil, err
	}
	b, err := s.a.Tile(ctx, level, index, width)
	if err != nil {
		return nil, err
	}
	return &apiv1.TileResponse{Hashes: b}, nil
}

func (s *auditServer) Entries(r *apiv1.EntriesRequest, ss grpc.ServerStreamingServer[apiv1.EntriesResponse]) error {
	start, count, err := toEntries(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ss.Context(), streamTimeout(count*4096))
	defer cancel()
	return s.a.Entries(ctx, start, count, func(index uint64, leaf []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return ss.Send(&apiv1.EntriesResponse{Index: index, Leaf: leaf})
	})
}

func (s *auditServer) Inclusion(ctx context.Context, r *apiv1.InclusionRequest) (*apiv1.ProofResponse, error) {
	index, size, err := toInclusion(r)
	if err != nil {
		return nil, err
	}
	p, err := s.a.Inclusion(ctx, index, size)
	if err != nil {
		return nil, err
	}
	return fromProof(p), nil
}

func (s *auditServer) Consistency(ctx context.Context, r *apiv1.ConsistencyRequest) (*apiv1.ProofResponse, error) {
	old, size, err := toConsistency(r)
	if err != nil {
		return nil, err
	}
	p, err := s.a.Consistency(ctx, old, size)
	if err != nil {
		return nil, err
	}
	return fromProof(p), nil
}

// follow streams events. It ends when the server drains (the client goes on
// at another node) and when the roster no longer pins the peer.
func (s *Server) follow(m Members, stopping context.Context, r *apiv1.FollowRequest, ss grpc.ServerStreamingServer[apiv1.FollowResponse]) error {
	study, from, err := toFollow(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ss.Context())
	defer cancel(nil)
	defer context.AfterFunc(stopping, func() { cancel(consilium.ErrUnavailable.Withf("this node is stopping")) })()
	id := identity(ctx)
	// gRPC sends the header with the first message; who waits for an event wants to
	// know meanwhile whether it was let in.
	if err := ss.SendHeader(nil); err != nil {
		return err
	}
	var quiet *time.Timer
	var mu sync.Mutex // guards quiet: the timer may fire before it is assigned
	mu.Lock()
	quiet = time.AfterFunc(recheck, func() {
		if _, err := s.book.Lookup(id.Pin); err != nil {
			cancel(err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		quiet.Reset(recheck)
	})
	mu.Unlock()
	defer func() {
		mu.Lock()
		defer mu.Unlock()
		quiet.Stop()
	}()
	err = m.Follow(ctx, id, study, from, func(event []byte) error {
		if _, err := s.book.Lookup(id.Pin); err != nil {
			return err
		}
		return ss.Send(&apiv1.FollowResponse{Event: event})
	})
	if cause := context.Cause(ctx); cause != nil && ss.Context().Err() == nil {
		return cause
	}
	return err
}

func fetch(m Members, r *apiv1.FetchRequest, ss grpc.ServerStreamingServer[apiv1.Chunk]) error {
	digest, offset, length, err := toFetch(r)
	if err != nil {
		return err
	}
	ctx := ss.Context()
	rc, err := m.Fetch(ctx, identity(ctx), digest, offset, length)
	if err != nil {
		return err
	}
	return sendChunks(rc, ss)
}

// sendChunks streams r and closes it. gRPC's flow control makes Send wait for
// a slow reader; keepalive ends it when the reader is gone.
func sendChunks(r io.ReadCloser, ss grpc.ServerStreamingServer[apiv1.Chunk]) error {
	defer r.Close()
	for {
		// gRPC may still hold the last message after Send returns: a fresh buffer each.
		buf := make([]byte, chunkSize)
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if err := ss.Send(&apiv1.Chunk{Data: buf[:n]}); err != nil {
				return err
			}
		}
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return nil
		default:
			return err
		}
	}
}

// put receives one blob.
func put(ctx context.Context, recv func() (*apiv1.PutBlobRequest, error), store func(context.Context, Identity, consilium.Digest, uint64, io.Reader) error) error {
	in := receive(ctx, recv)
	first, err := in.next()
	if err != nil {
		return early(err)
	}
	digest, size, err := toBlobStart(first)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, streamTimeout(size))
	defer cancel()
	in.ctx = ctx
	return store(ctx, identity(ctx), digest, size, &exactly{what: "the blob", left: size, next: in.part(toBlobChunk), last: true})
}

func early(err error) error {
	if err == io.EOF {
		return consilium.ErrInvalid.Withf("the stream ends before it starts")
	}
	return err
}

// inbound receives a client's stream with an idle limit, which gRPC's Recv
// does not have.
type inbound[T any] struct {
	ctx  context.Context
	got  chan received[T]
	want chan struct{}
}

type received[T any] struct {
	m   T
	err error
}

// receive starts the goroutine that calls recv; it ends with the call, whose
// context ends when the handler returns.
func receive[T any](ctx context.Context, recv func() (T, error)) *inbound[T] {
	in := &inbound[T]{ctx: ctx, got: make(chan received[T]), want: make(chan struct{})}
	call := ctx
	go func() {
		for {
			select {
			case <-in.want:
			case <-call.Done():
				return
			}
			m, err := recv()
			select {
			case in.got <- received[T]{m, err}:
			case <-call.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return in
}

// next is the peer's next message, io.EOF at the end. After an error it must
// not be called again, except that EOF repeats.
func (in *inbound[T]) next() (m T, err error) {
	idle := time.NewTimer(idleTimeout)
	defer idle.Stop()
	select {
	case in.want <- struct{}{}:
	case <-in.ctx.Done():
		return m, in.ctx.Err()
	}
	select {
	case r := <-in.got:
		return r.m, r.err
	case <-idle.C:
		return m, consilium.ErrUnavailable.Withf("nothing received for %s", idleTimeout) // the link's fault: the caller tries again
	case <-in.ctx.Done():
		return m, in.ctx.Err()
	}
}

func (in *inbound[T]) part(get func(T) ([]byte, error)) func() ([]byte, error) {
	return func() ([]byte, error) {
		m, err := in.next()
		if err != nil {
			return nil, err
		}
		return get(m)
	}
}
