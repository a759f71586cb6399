package wire

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"consilium"
)

// Network is an in-memory network for federations within one process: names
// instead of ports, buffered pipes instead of sockets. TLS runs over it as over
// any other.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*memoryListener
}

// NewNetwork makes an empty network.
func NewNetwork() *Network { return &Network{listeners: map[string]*memoryListener{}} }

type memoryAddr string

func (memoryAddr) Network() string  { return "memory" }
func (a memoryAddr) String() string { return string(a) }

// Listen opens the named address, which must be free.
func (n *Network) Listen(address string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.listeners[address]; ok {
		return nil, fmt.Errorf("listen memory %s: address in use", address)
	}
	l := &memoryListener{net: n, addr: memoryAddr(address), queue: make(chan net.Conn), done: make(chan struct{})}
	n.listeners[address] = l
	return l, nil
}

// Dial connects to a listener of the network.
func (n *Network) Dial(ctx context.Context, address string) (net.Conn, error) {
	n.mu.Lock()
	l := n.listeners[address]
	n.mu.Unlock()
	if l == nil {
		return nil, consilium.ErrUnavailable.Withf("dial memory %s: nobody listens", address)
	}
	ours, theirs := pipe(memoryAddr("dialer"), l.addr)
	select {
	case l.queue <- theirs:
		return ours, nil
	case <-l.done:
		return nil, consilium.ErrUnavailable.Withf("dial memory %s: closed", address)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type memoryListener struct {
	net   *Network
	addr  memoryAddr
	queue chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.net.mu.Lock()
		delete(l.net.listeners, string(l.addr))
		l.net.mu.Unlock()
	})
	return nil
}

func (l *memoryListener) Addr() net.Addr { return l.addr }

// pipeBuffer is how much one direction of a pipe holds before its writer
// waits. TLS over an unbuffered pipe can deadlock when both ends write first.
const pipeBuffer = 64 << 10

// pipe makes the two ends of a buffered connection.
func pipe(a, b net.Addr) (net.Conn, net.Conn) {
	x, y := newHalf(), newHalf()
	return &pipeConn{r: x, w: y, local: a, remote: b}, &pipeConn{r: y, w: x, local: b, remote: a}
}

type pipeConn struct {
	r, w          *half
	local, remote net.Addr
}

func (c *pipeConn) Read(b []byte) (int, error)  { return c.r.read(b) }
func (c *pipeConn) Write(b []byte) (int, error) { return c.w.write(b) }
func (c *pipeConn) LocalAddr() net.Addr         { return c.local }
func (c *pipeConn) RemoteAddr() net.Addr        { return c.remote }

// Close ends both directions: the other end reads what is buffered, then EOF.
func (c *pipeConn) Close() error {
	c.r.close(true)
	c.w.close(false)
	return nil
}

func (c *pipeConn) SetDeadline(t time.Time) error {
	c.r.readDeadline.set(c.r, t)
	c.w.writeDeadline.set(c.w, t)
	return nil
}

func (c *pipeConn) SetReadDeadline(t time.Time) error {
	c.r.readDeadline.set(c.r, t)
	return nil
}

func (c *pipeConn) SetWriteDeadline(t time.Time) error {
	c.w.writeDeadline.set(c.w, t)
	return nil
}

// half is one direction. mu guards all fields.
type half struct {
	mu                          sync.Mutex
	cond                        sync.Cond
	buf                         []byte
	closed                      bool // no more is written
	gone                        bool // the reader left: writes fail
	readDeadline, writeDeadline deadline
}

func newHalf() *half {
	h := &half{}
	h.cond.L = &h.mu
	return h
}

func (h *half) read(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.gone:
			return 0, io.ErrClosedPipe
		case h.readDeadline.expired:
			return 0, os.ErrDeadlineExceeded
		case len(h.buf) > 0:
			n := copy(b, h.buf)
			h.buf = h.buf[:copy(h.buf, h.buf[n:])]
			h.cond.Broadcast()
			return n, nil
		case h.closed:
			return 0, io.EOF
		case len(b) == 0:
			return 0, nil
		}
		h.cond.Wait()
	}
}

func (h *half) write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	done := 0
	for {
		switch {
		case h.closed || h.gone:
			return done, io.ErrClosedPipe
		case h.writeDeadline.expired:
			return done, os.ErrDeadlineExceeded
		case done == len(b):
			return done, nil
		case len(h.buf) < pipeBuffer:
			n := min(pipeBuffer-len(h.buf), len(b)-done)
			h.buf = append(h.buf, b[done:done+n]...)
			done += n
			h.cond.Broadcast()
			continue
		}
		h.cond.Wait()
	}
}

func (h *half) close(reader bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if reader {
		h.gone, h.buf = true, nil
	}
	h.closed = true
	h.cond.Broadcast()
}

// deadline is one side's time limit; half.mu guards it.
type deadline struct {
	timer   *time.Timer
	version uint64
	expired bool
}

func (d *deadline) set(h *half, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.version++
	d.expired = false
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	if wait <= 0 {
		d.expired = true
		h.cond.Broadcast()
		return
	}
	version := d.version
	d.timer = time.AfterFunc(wait, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if d.version == version {
			d.expired = true
			h.cond.Broadcast()
		}
	})
}
