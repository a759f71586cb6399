package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"consilium"
	"consilium/api/v1"
)

// fullNode is a node without room: whatever needs a write fails with what its disk
// says.
type fullNode struct {
	*fakeNode
	asked atomic.Int32
}

var errFull = consilium.ErrDiskFull.With(syscall.ENOSPC)

func (f *fullNode) Post(context.Context, Identity, *consilium.Message) error {
	f.asked.Add(1)
	return errFull
}

func (f *fullNode) Upload(context.Context, Identity, *Upload) error {
	f.asked.Add(1)
	return errFull
}

func (f *fullNode) Fetch(context.Context, Identity, consilium.Digest, uint64, uint64) (io.ReadCloser, error) {
	f.asked.Add(1)
	return nil, errFull
}

func (f *fullNode) PutBlob(context.Context, Identity, consilium.Digest, uint64, io.Reader) error {
	f.asked.Add(1)
	return errFull
}

func (f *fullNode) Store(ctx context.Context, id Identity, d consilium.Digest, size uint64, r io.Reader) error {
	return f.PutBlob(ctx, id, d, size, r)
}

// TestFullNode: a node's full disk does not look like the caller's own. Members find
// a node that has room, and "disk.full" crosses no wire.
func TestFullNode(t *testing.T) {
	w := newWorld(t)
	book := w.book(t)
	n := NewNetwork()
	full := &fullNode{fakeNode: newFake("c1", "c1")}
	rest := newFake("c2", "c2")
	for address, m := range map[string]interface {
		Members
		Peers
		Audit
	}{"c1": full, "c2": rest} {
		s := NewServer(ServerOptions{Certificate: w.certs["coordinator/"+address], Book: book, Members: m, Peers: m, Audit: m, Logger: discard()})
		l, err := n.Listen(address)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { s.Serve(l); close(done) }()
		t.Cleanup(func() { s.Stop(); <-done })
	}
	ctx := testContext(t)
	b := []byte("ten bytes.")
	rest.blobs[blobSum(b)] = b
	m := uploadHeader(t, w, 3)
	for what, call := range map[string]func(c *Client) error{
		"post": func(c *Client) error {
			return c.Post(ctx, w.sign(t, "site/london", consilium.KindAck, testStudy, []byte("x")))
		},
		"upload": func(c *Client) error {
			return c.Upload(ctx, m, [][]byte{{1}, {2}, {3}}, Shape{Lanes: 2, Bits: 16}, 10, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
		},
		"put":   func(c *Client) error { _, err := c.PutBlob(ctx, bytes.NewReader(b), uint64(len(b))); return err },
		"fetch": func(c *Client) error { _, err := c.FetchBlob(ctx, blobSum(b), 100); return err },
	} {
		c := w.client(t, book, n, "site/london")
		c.aim("c1")
		before := full.asked.Load()
		if err := call(c); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if full.asked.Load() == before {
			t.Errorf("%s: the node without room was not asked", what)
		}
	}
	p := NewPeerClient(ClientOptions{Certificate: w.certs["coordinator/c2"], Book: book, Dial: n.Dial})
	t.Cleanup(func() { p.Close() })
	if err := p.Store(ctx, "c1", blobSum(b), uint64(len(b)), bytes.NewReader(b)); consilium.CodeOf(err) != consilium.ErrUnavailable.Code {
		t.Errorf("a peer hears %v", err)
	}
	// A node of a release that still says so is asked again, or another one is.
	if err := classify(Status(errFull)); !errors.Is(err, consilium.ErrDiskFull) || !retryable(err) {
		t.Errorf("an older node's full disk: %v", err)
	}
}

// TestIdleUpload: an upload that stands still ends as something to try again: the
// link's fault is no reason for a hospital to leave its study.
func TestIdleUpload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		in := receive(ctx, func() (*apiv1.UploadRequest, error) { <-ctx.Done(); return nil, ctx.Err() })
		if _, err := in.next(); !retryable(FromStatus(Status(err))) {
			t.Errorf("nothing came: %v", err)
		}
	})
}
