package wire

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"consilium"
	"consilium/internal/canon"
)

// TestStandstill: one try at a node that takes a call and stands still may last as
// long as the caller gives the whole call. Who calls again begins at the next node:
// a client that began where it broke off would give up before two sound nodes.
func TestStandstill(t *testing.T) {
	w := newWorld(t)
	book := w.book(t)
	n, fakes := serve(t, w, book, discard(), "c2")
	still := make(chan struct{})
	defer close(still) // before the nodes are stopped, which waits for their calls
	fakes["c1"].hold = still
	c := NewClient(ClientOptions{Certificate: w.certs["site/london"], Book: book, Dial: n.Dial, Prefer: "c1"})
	defer c.Close()
	blob := []byte("a sealed state")
	put := func(ctx context.Context) error {
		_, err := c.PutBlob(ctx, bytes.NewReader(blob), uint64(len(blob)))
		return err
	}
	called, cancel := context.WithCancel(testContext(t))
	cancel()
	if err := put(called); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if at := c.target(); at != "c1" {
		t.Errorf("after a call that the caller called off the next begins at %s", at)
	}
	once, cancel := context.WithTimeout(testContext(t), 100*time.Millisecond)
	defer cancel()
	if err := put(once); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a node that stands still: %v", err)
	}
	again, cancel := context.WithTimeout(testContext(t), 20*time.Second)
	defer cancel()
	if err := put(again); err != nil {
		t.Fatalf("called again while two nodes are sound: %v", err)
	}
	if fakes["c2"].mu.Lock(); !bytes.Equal(fakes["c2"].blobs[blobSum(blob)], blob) {
		t.Error("the next node does not have it")
	}
	fakes["c2"].mu.Unlock()
}

// TestAccepted: a caller that is let in is told so though there be no event; one that
// is refused, in the handshake or by its role, is not.
func TestAccepted(t *testing.T) {
	w := newWorld(t)
	roster := *w.roster
	roster.Sites = roster.Sites[1:]
	payload, err := canon.Marshal(&roster)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := NewBook(payload) // which does not have the first hospital
	if err != nil {
		t.Fatal(err)
	}
	n, _ := serve(t, w, theirs, discard(), "c1")
	for name, want := range map[string]error{
		"site/london": context.Canceled, "researcher/team": context.Canceled,
		"site/amsterdam": consilium.ErrUnauthenticated, "auditor/eve": consilium.ErrForbidden,
	} {
		ctx, cancel := context.WithTimeout(testContext(t), 20*time.Second)
		in := false
		c := NewClient(ClientOptions{Certificate: w.certs[name], Book: w.book(t), Dial: n.Dial, Accepted: func() {
			in = true
			cancel()
		}})
		if err := c.Follow(ctx, 0, func(*consilium.Event) error { return errors.New("there is no event") }); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		if in != (want == context.Canceled) {
			t.Errorf("%s is told that it is let in: %t", name, in)
		}
		cancel()
		c.Close()
	}
}
