package wire

import (
	"bytes"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// counted counts what is sent: the first pass over a blob is for its digest.
type counted struct {
	*bytes.Reader
	passes, n atomic.Int64
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	if c.passes.Load() > 0 {
		c.n.Add(int64(n))
	}
	return n, err
}

func (c *counted) Seek(offset int64, whence int) (int64, error) {
	c.passes.Add(1)
	return c.Reader.Seek(offset, whence)
}

// TestBackPressure: a member that sends faster than a node reads is held back
// after a window, on both sides of the link, and goes on when the node does.
func TestBackPressure(t *testing.T) {
	w := newWorld(t)
	book := w.book(t)
	n, fakes := serve(t, w, book, discard(), "c1")
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	t.Cleanup(release) // before the nodes' own: they wait for their handlers
	for _, f := range fakes {
		f.hold = hold
	}
	ctx := testContext(t)
	c := w.client(t, book, n, "site/london")
	const size = 24 << 20
	src := &counted{Reader: bytes.NewReader(make([]byte, size))}
	done := make(chan error, 1)
	go func() {
		_, err := c.PutBlob(ctx, src, size)
		done <- err
	}()
	// Until nothing moves any more. A machine that is too slow for this passes:
	// the bound is an upper one.
	for last := int64(-1); last != src.n.Load() || last == 0; {
		last = src.n.Load()
		time.Sleep(100 * time.Millisecond)
		if ctx.Err() != nil {
			t.Fatal("nothing was sent")
		}
	}
	// The window, gRPC's 64 KiB of writes, and a message that is being made.
	if got := src.n.Load(); got > streamWindow+8*maxChunk {
		t.Errorf("%d bytes went to a node that reads none; the window is %d", got, streamWindow)
	}
	release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := src.n.Load(); got != size {
		t.Errorf("%d of %d bytes", got, size)
	}
}

// TestFollowersSpread: members that know no node yet follow different ones, and
// each the same one again.
func TestFollowersSpread(t *testing.T) {
	w := newWorld(t)
	seen := map[string]int{}
	for range 60 {
		cert, err := NewCertificate("member", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		c := NewClient(ClientOptions{Certificate: cert, Book: w.book(t)})
		first := c.share()
		seen[string(first)]++
		if c.share() != first {
			t.Error("a member's node changes")
		}
		c.Close()
	}
	// One of three is missed with a chance of 3·(2/3)^60.
	if len(seen) != 3 {
		t.Errorf("sixty members follow %v", seen)
	}
}

var _ io.ReadSeeker = (*counted)(nil)
