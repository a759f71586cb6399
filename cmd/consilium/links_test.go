package main

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// links are the wires of a federation on one machine: every address of the
// roster is a proxy, and a wire between two processes can be cut, held or slowed
// without a word to either.
type links struct {
	t  *testing.T
	mu sync.Mutex
	// who owns a connection is what the system says of its socket.
	owner func(pid int) string
	rules map[[2]string]rule // from, to; "*" is anybody
	conns map[*wired]bool
}

// rule is what a wire does.
type rule struct {
	cut  bool // refuses, and breaks what stands
	held bool // keeps what it has, and passes nothing on
	rate int  // bytes a second; 0 for no limit
}

type wired struct {
	from, to string
	a, b     net.Conn
}

func newLinks(t *testing.T, owner func(pid int) string) *links {
	return &links{t: t, owner: owner, rules: map[[2]string]rule{}, conns: map[*wired]bool{}}
}

// proxy listens on address for the node to, which listens itself on the address
// that is returned.
func (l *links) proxy(address, to string) string {
	l.t.Helper()
	real := freePort(l.t)
	listener, err := net.Listen("tcp", address)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go l.join(c, real, to)
		}
	}()
	return real
}

func (l *links) rule(from, to string) rule {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out rule
	for _, k := range [][2]string{{from, to}, {"*", to}, {from, "*"}} {
		r := l.rules[k]
		out.cut, out.held = out.cut || r.cut, out.held || r.held
		if r.rate > 0 && (out.rate == 0 || r.rate < out.rate) {
			out.rate = r.rate
		}
	}
	return out
}

// set changes one wire, both ways of it: from's calls to to.
func (l *links) set(from, to string, r rule) {
	l.mu.Lock()
	l.rules[[2]string{from, to}] = r
	var broken []*wired
	for w := range l.conns {
		if r.cut && (from == "*" || from == w.from) && (to == "*" || to == w.to) {
			broken = append(broken, w)
		}
	}
	l.mu.Unlock()
	for _, w := range broken {
		w.a.Close()
		w.b.Close()
	}
}

// isolate cuts or holds every wire of one node, whoever calls.
func (l *links) isolate(node string, r rule) {
	l.set("*", node, r)
	l.set(node, "*", r)
}

func (l *links) join(a net.Conn, real, to string) {
	defer a.Close()
	from := l.caller(a)
	if l.rule(from, to).cut {
		return
	}
	b, err := net.DialTimeout("tcp", real, 5*time.Second)
	if err != nil {
		return
	}
	defer b.Close()
	w := &wired{from, to, a, b}
	l.mu.Lock()
	l.conns[w] = true
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.conns, w)
		l.mu.Unlock()
	}()
	var both sync.WaitGroup
	pump := func(dst, src net.Conn) {
		defer dst.(*net.TCPConn).CloseWrite()
		buf := make([]byte, 16<<10)
		for {
			n, err := src.Read(buf)
			for l.rule(from, to).held {
				time.Sleep(5 * time.Millisecond)
			}
			if r := l.rule(from, to); n > 0 && r.rate > 0 {
				time.Sleep(time.Duration(n) * time.Second / time.Duration(r.rate))
			}
			if n > 0 {
				if _, err := dst.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					dst.Close()
				}
				return
			}
		}
	}
	both.Go(func() { pump(b, a) })
	both.Go(func() { pump(a, b) })
	both.Wait()
}

// caller finds whose process is at the other end: the system's table of
// connections names the socket, and the process that has it open is its owner.
func (l *links) caller(c net.Conn) string {
	peer := c.RemoteAddr().(*net.TCPAddr)
	inode := socketOf(peer)
	if inode == "" {
		return ""
	}
	pids, err := os.ReadDir("/proc")
	if err != nil {
		return ""
	}
	for _, p := range pids {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		name := l.owner(pid)
		if name == "" {
			continue
		}
		fds, err := os.ReadDir("/proc/" + p.Name() + "/fd")
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if s, err := os.Readlink("/proc/" + p.Name() + "/fd/" + fd.Name()); err == nil && s == "socket:["+inode+"]" {
				return name
			}
		}
	}
	return ""
}

// socketOf is the inode of the socket bound to a loopback address.
func socketOf(a *net.TCPAddr) string {
	f, err := os.Open("/proc/net/tcp")
	if err != nil {
		return ""
	}
	defer f.Close()
	ip := a.IP.To4()
	if ip == nil {
		return ""
	}
	want := fmt.Sprintf("%s:%04X", strings.ToUpper(hex.EncodeToString([]byte{ip[3], ip[2], ip[1], ip[0]})), a.Port)
	for in := bufio.NewScanner(f); in.Scan(); {
		cells := strings.Fields(in.Text())
		if len(cells) > 9 && cells[1] == want && cells[9] != "0" {
			return cells[9]
		}
	}
	return ""
}

// echo is a server that answers one byte with the same.
type echo struct{ net.Listener }

func (n *echo) listen(address string) (*echo, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	return &echo{l}, nil
}

// ask sends a byte and wants it back within a time.
func (n *echo) ask(address string, within time.Duration) error {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(within))
	if _, err := c.Write([]byte{7}); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	return err
}
