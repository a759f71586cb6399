package coordinator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"consilium"
	"consilium/internal/wire"
)

// A server id is a roster id, a dot and the incarnation of a data directory.
// Raft knows nodes, and addresses them, only by server ids: a directory that was
// emptied has another incarnation, so its node can neither answer nor vote for the
// one that the others remember, even from the same host with the same certificate.
func serverID(node consilium.NodeID, incarnation string) raft.ServerID {
	return raft.ServerID(string(node) + "." + incarnation)
}

// nodeOf is the roster id within a server id.
func nodeOf[T ~string](id T) consilium.NodeID {
	name, _, _ := strings.Cut(string(id), ".")
	return consilium.NodeID(name)
}

// raftProtocol keeps replication connections apart from gRPC ones, and from
// those of a release that begins them otherwise.
const raftProtocol = "consilium-raft/2"

// streamLayer carries Raft over TLS pinned by the roster, post-quantum as all
// else. It implements raft.StreamLayer.
type streamLayer struct {
	net.Listener
	self raft.ServerID
	cert tls.Certificate
	book *wire.Book
	dial wire.Dialer
	log  *slog.Logger

	starts *starts
	fatal  func(error) // ends the node

	conns  chan net.Conn
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	open   map[*tls.Conn]struct{} // so that closing the layer, or a new roster, cuts them
}

func newStreamLayer(l net.Listener, names *starts, c *Config, fatal func(error)) *streamLayer {
	ctx, cancel := context.WithCancel(context.Background())
	s := &streamLayer{Listener: l, self: names.self, starts: names, fatal: fatal, cert: c.Certificate, book: c.Book, dial: c.Dial, log: c.Logger,
		conns: make(chan net.Conn), ctx: ctx, cancel: cancel, open: map[*tls.Conn]struct{}{}}
	s.wg.Add(1)
	go s.listen()
	return s
}

type serverAddr raft.ServerID

func (serverAddr) Network() string  { return "raft" }
func (a serverAddr) String() string { return string(a) }

// Addr is how Raft addresses this node: by its server id.
func (s *streamLayer) Addr() net.Addr { return serverAddr(s.self) }

func (s *streamLayer) listen() {
	defer s.wg.Done()
	for {
		conn, err := s.Listener.Accept()
		if err != nil {
			if s.ctx.Err() == nil {
				s.log.Error("replication listener stopped", "error", err)
			}
			return
		}
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			c, err := s.welcome(conn)
			if err != nil {
				conn.Close()
				if s.ctx.Err() == nil {
					s.log.Warn("replication connection refused", "remote", conn.RemoteAddr().String(), "reason", err.Error())
				}
				return
			}
			select {
			case s.conns <- c:
			case <-s.ctx.Done():
				c.Close()
			}
		}()
	}
}

// requestStall is how long the next bytes of a request may take. A leader that has not
// sent them by then has been given up by the others.
const requestStall = 10 * time.Second

// preambleTimeout bounds how long a caller may take to say whom it wants.
const preambleTimeout = 10 * time.Second

// welcome admits a coordinator of the roster that wants exactly this
// incarnation of this node.
func (s *streamLayer) welcome(conn net.Conn) (net.Conn, error) {
	cfg := wire.ServerConfig(s.cert, s.book)
	cfg.NextProtos = []string{raftProtocol}
	t := tls.Server(conn, cfg)
	if err := wire.Handshake(s.ctx, t); err != nil {
		return nil, err
	}
	id, err := wire.PeerIdentity(s.book, t)
	if err != nil {
		return nil, err
	}
	if id.Role != wire.RoleCoordinator || t.ConnectionState().NegotiatedProtocol != raftProtocol {
		return nil, consilium.ErrForbidden.Withf("%s wants to replicate", id)
	}
	t.SetDeadline(time.Now().Add(preambleTimeout))
	want, err := readName(t)
	if err != nil {
		return nil, err
	}
	from, err := readName(t)
	if err != nil {
		return nil, err
	}
	if want != s.self {
		return nil, consilium.ErrStale.Withf("%s wants %q, this data directory is %q", id, want, s.self)
	}
	if nodeOf(from) != consilium.NodeID(id.Name) {
		return nil, consilium.ErrForbidden.Withf("%s calls itself %q", id, from)
	}
	if _, err := t.Write(s.starts.said(from)); err != nil {
		return nil, err
	}
	if err := s.hear(from, t); err != nil {
		return nil, err
	}
	t.SetDeadline(time.Time{})
	return s.track(t, true)
}

// readName reads a server id: one byte of length, then the bytes.
func readName(r io.Reader) (raft.ServerID, error) {
	var n [1]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return "", err
	}
	name := make([]byte, n[0])
	_, err := io.ReadFull(r, name)
	return raft.ServerID(name), err
}

// hear ends the node if the other end knows it better than its own directory.
func (s *streamLayer) hear(other raft.ServerID, r io.Reader) error {
	err := s.starts.hear(other, r)
	if errors.Is(err, errOlderCopy) {
		s.fatal(err)
	}
	return err
}

// Accept hands Raft the next admitted connection.
func (s *streamLayer) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Dial connects to a server id at the address that the roster in force gives
// its node.
func (s *streamLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	node := nodeOf(address)
	c, ok := s.book.Roster().Coordinator(node)
	if !ok || len(address) > 255 || len(s.self) > 255 {
		return nil, consilium.ErrUnauthenticated.Withf("node %q is not in the roster", node)
	}
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	conn, err := s.dial(ctx, c.Raft)
	if err != nil {
		return nil, err
	}
	cfg := wire.ClientConfig(s.cert, s.book, node)
	cfg.NextProtos = []string{raftProtocol}
	t := tls.Client(conn, cfg)
	if err := wire.Handshake(ctx, t); err != nil {
		return nil, fmt.Errorf("replication to %s: %w", node, err)
	}
	t.SetDeadline(time.Now().Add(timeout))
	hello := append([]byte{byte(len(address))}, address...)
	hello = append(append(hello, byte(len(s.self))), s.self...)
	if _, err := t.Write(append(hello, s.starts.said(raft.ServerID(address))...)); err != nil {
		t.Close()
		return nil, err
	}
	if err := s.hear(raft.ServerID(address), t); err != nil {
		t.Close()
		return nil, fmt.Errorf("replication to %s: %w", node, err)
	}
	t.SetDeadline(time.Time{})
	return s.track(t, false)
}

// recheck cuts connections to those whom the roster in force does not pin as
// the node that they were. Handshakes look at the roster themselves.
func (s *streamLayer) recheck() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		if id, err := wire.PeerIdentity(s.book, c); err != nil || id.Role != wire.RoleCoordinator {
			c.Close()
			delete(s.open, c)
		}
	}
}

func (s *streamLayer) track(c *tls.Conn, accepted bool) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		c.Close()
		return nil, net.ErrClosed
	}
	s.open[c] = struct{}{}
	if accepted {
		return &acceptedConn{trackedConn: trackedConn{c, s}}, nil
	}
	return &trackedConn{c, s}, nil
}

type trackedConn struct {
	*tls.Conn
	s *streamLayer
}

// acceptedConn is the answering end of a connection. A request that has begun must go
// on: Raft's main loop reads a snapshot itself (raft v1.8.0, Raft.installSnapshot), and
// while it waits for the rest from a leader that stands still, its node votes for no
// other. Between requests a connection may rest as long as it likes: the other end
// keeps it for its next one, which may be that for a vote.
type acceptedConn struct {
	trackedConn
	begun bool // a request has; owned by the goroutine that serves the connection, or the one to which it left the reading
}

func (c *acceptedConn) Read(b []byte) (int, error) {
	var until time.Time
	if c.begun {
		until = time.Now().Add(requestStall)
	}
	if err := c.SetReadDeadline(until); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(b)
	if err != nil && c.begun {
		c.Close() // what comes later would be taken for the next request
	}
	c.begun = c.begun || n > 0
	return n, err
}

// Write sends an answer, which ends the request.
func (c *acceptedConn) Write(b []byte) (int, error) {
	c.begun = false
	return c.Conn.Write(b)
}

func (c *trackedConn) Close() error {
	c.s.mu.Lock()
	delete(c.s.open, c.Conn)
	c.s.mu.Unlock()
	return c.Conn.Close()
}

// Close stops listening and cuts every connection.
func (s *streamLayer) Close() error {
	s.cancel()
	err := s.Listener.Close()
	s.mu.Lock()
	for c := range s.open {
		c.Close()
	}
	clear(s.open)
	s.mu.Unlock()
	s.wg.Wait()
	return err
}

// newTransport is Raft's transport over a stream layer, without pipelining. In
// raft v1.8.0 a pipelined leader that gets one refusal, or a newer term, may send
// once more when nobody reads the answers any longer. Then it waits for ever: the
// follower hears heartbeats and gets no more entries, and the leader's shutdown
// does not end (github.com/hashicorp/raft, issue 612). Entries go in batches, so
// little is lost.
func newTransport(layer raft.StreamLayer, timeout time.Duration, logger hclog.Logger) *raft.NetworkTransport {
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: layer, MaxPool: 3, MaxRPCsInFlight: 1, Timeout: timeout, Logger: logger, MsgpackUseNewTimeFormat: true})
}

// raftLogger lets Raft write to the node's log.
func raftLogger(log *slog.Logger) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: "raft", Level: hclog.Info, DisableTime: true, Output: hclogWriter{log}})
}

// hclogWriter takes the level from the line: hclog has no structured output
// that slog could take over.
type hclogWriter struct{ log *slog.Logger }

func (w hclogWriter) Write(b []byte) (int, error) {
	line := strings.TrimSpace(string(b))
	level := slog.LevelDebug
	for prefix, l := range map[string]slog.Level{"[ERROR]": slog.LevelWarn, "[WARN]": slog.LevelInfo} {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			line, level = strings.TrimSpace(rest), l
		}
	}
	w.log.Log(context.Background(), level, line)
	return len(b), nil
}
