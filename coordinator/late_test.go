package coordinator

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"consilium"
	"consilium/he"
	"consilium/internal/durable"
	"consilium/internal/wire"
)

// TestUploadEndsWithItsStudy: an upload over a slow link ends as soon as the log
// can take it no more, not when its last byte has come, and nothing of it stays.
func TestUploadEndsWithItsStudy(t *testing.T) {
	c := newCluster(t, 3, 4, false, true)
	ctx := limit(t, 5*time.Minute)
	c.runAll()
	p := c.proposal("slow")
	c.submit(ctx, p)
	h := c.chartered(ctx, p)[0]
	const lanes = 60_000 // one chunk of the default ring: several messages
	var err error
	if h.profile, err = he.Choose(lanes, testBits, len(h.charter.Members)); err != nil {
		t.Fatal(err)
	}
	m, boxes, _, packed := h.contribution()
	out, in := io.Pipe()
	const piece = 1 << 10
	sent := len(packed) / 2
	result := make(chan error, 1)
	go func() {
		result <- h.client.Upload(ctx, m, boxes, wire.Shape{Lanes: lanes, Bits: testBits}, uint64(len(packed)), func() (io.ReadCloser, error) { return out, nil })
	}()
	if _, err := in.Write(packed[:sent]); err != nil {
		t.Fatal(err)
	}
	cancel := c.sign("researcher/team", consilium.KindCancel, p.id, (&consilium.Cancel{Study: p.id, Reason: "enough"}).Encode())
	if err := c.client("researcher/team", "").Post(ctx, cancel); err != nil {
		t.Fatal(err)
	}
	// Little by little, and never the last byte: only the node can end this.
	var ended error
	for ended == nil {
		select {
		case ended = <-result:
		default:
			if sent+piece < len(packed) {
				if _, err := in.Write(packed[sent : sent+piece]); err != nil {
					ended = <-result
					continue
				}
				sent += piece
			}
			if err := pause(ctx, time.Millisecond); err != nil {
				t.Fatalf("the upload outlives its study with %d of %d bytes sent", sent, len(packed))
			}
		}
	}
	in.Close()
	if !errors.Is(ended, consilium.ErrStudyEnded) {
		t.Errorf("the upload ended with %v", ended)
	}
	for _, n := range c.alive() {
		for {
			list, err := n.blobs.local.List()
			if err != nil {
				t.Fatal(err)
			}
			if len(list) == 0 {
				break
			}
			if err := pause(ctx, 10*time.Millisecond); err != nil {
				t.Fatalf("node %s keeps %d blobs of an upload that came to nothing", n.ID(), len(list))
			}
		}
	}
}

// TestTakes holds the look before the bytes against Apply: what it refuses, Apply
// refuses too, for good; a header that is recorded is answered in any phase.
func TestTakes(t *testing.T) {
	w := newWorld(t, options{n: 5, min: 3, learned: true, missing: "continue"})
	takes := func(post *Post) error {
		m, err := consilium.ParseMessage(post.Message)
		if err != nil {
			t.Fatal(err)
		}
		h, err := consilium.ParseHeader(m.Body)
		if err != nil {
			t.Fatal(err)
		}
		return w.s.Takes(m, h.At)
	}
	w.start()
	first, other := w.contribution(1, "a"), w.contribution(1, "b")
	second := w.contribution(2, "a")
	for name, p := range map[string]*Post{"first": first, "other": other, "second": second} {
		if err := takes(p); err != nil {
			t.Errorf("%s in an open round: %v", name, err)
		}
	}
	if unknown := (&consilium.Message{Study: consilium.NewStudyID(dig("none"))}); !errors.Is(w.s.Takes(unknown, consilium.At{}), consilium.ErrUnknownStudy) {
		t.Error("an unknown study is taken")
	}
	w.must(first)
	for p := consilium.Position(2); p <= 5; p++ {
		w.must(w.contribution(p, "c"))
	}
	w.ackAll(1, 2, 3, 4, 5) // the set is proposed
	check := func(when string) {
		t.Helper()
		if err := takes(first); err != nil {
			t.Errorf("%s, a recorded header: %v", when, err)
		}
		for name, p := range map[string]*Post{"another header": other, "a late one": second} {
			if err := takes(p); err == nil {
				t.Errorf("%s: %s is taken", when, name)
			}
			if _, r := w.do(p); r == nil {
				t.Errorf("%s: Apply takes %s", when, name)
			}
		}
	}
	check("proposed")
	w.voteAll()
	w.openAll()
	w.stateAll("next", false, false)
	check("in the next round")
	w.must(w.cancelling("team"))
	if err := takes(second); !errors.Is(err, consilium.ErrStudyEnded) {
		t.Errorf("after the end: %v", err)
	}
}

// TestEventsRead: what is kept in memory of the latest events and what is read
// again from the file are the same bytes, and memory is bounded.
func TestEventsRead(t *testing.T) {
	l, err := openEvents(durable.OS, t.TempDir()+"/events.log")
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	const count = 40
	var want [][]byte
	for i := range count {
		ev := consilium.Event{Seq: uint64(i), Study: consilium.NewStudyID(dig("s")), Kind: consilium.EventWaiting, Body: bytes.Repeat([]byte{byte(i)}, 1<<20)}
		want = append(want, ev.Encode())
		if err := l.append([]consilium.Event{ev}); err != nil {
			t.Fatal(err)
		}
	}
	kept := 0
	for seq := range want {
		kept += len(l.entries[seq].bytes)
		got, err := l.encoded(uint64(seq))
		if err != nil || !bytes.Equal(got, want[seq]) {
			t.Errorf("event %d: %d bytes, %v", seq, len(got), err)
		}
	}
	if kept == 0 || kept > keepRecent || l.entries[0].bytes != nil || l.entries[count-1].bytes == nil {
		t.Errorf("%d bytes are kept, of at most %d", kept, keepRecent)
	}
	// A byte of the file that is not an event any more is not handed on.
	if _, err := l.file.WriteAt([]byte{0xff, 0xff}, l.entries[0].offset+int64(8+8)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.encoded(0); err == nil {
		t.Error("a damaged event is handed on")
	}
}

// TestSettled: a statement that the log has is answered from it when its blob is
// gone. Its hospital may not have got the answer: the leader died, the next round
// closed meanwhile. Looking for the blob first, a node says "unavailable" for as
// long as one of the others is down, and the hospital asks for ever.
func TestSettled(t *testing.T) {
	w := newWorld(t, options{n: 3, min: 3})
	w.start()
	w.round(1, false, 1, 2, 3)
	post := w.sealing(1)
	m, err := consilium.ParseMessage(post.Message)
	if err != nil {
		t.Fatal(err)
	}
	if settled, _ := w.s.Settled(m); settled {
		t.Fatal("settled before it came")
	}
	w.must(post)
	w.round(2, false, 1, 2, 3)
	if slices.ContainsFunc(w.s.LiveBlobs(), func(b BlobRef) bool { return b.Digest == post.Blob.Digest }) {
		t.Fatal("the blob is kept: the test shows nothing")
	}
	if settled, err := w.s.Settled(m); !settled || err != nil {
		t.Errorf("settled %t, %v", settled, err)
	}
	if _, r := w.do(post); r != nil {
		t.Errorf("Apply says %v", r)
	}
	w.must(w.cancelling("team"))
	settled, err := w.s.Settled(m)
	_, r := w.do(post)
	if !settled || !errors.Is(err, consilium.ErrStudyEnded) || !errors.Is(r.AsError(), consilium.ErrStudyEnded) {
		t.Errorf("settled %t, %v; Apply says %v", settled, err, r)
	}
}
