package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/hybrid"
)

// world is a roster with everybody's secrets.
type world struct {
	roster  *consilium.Roster
	payload []byte
	keys    map[string]*hybrid.Key
	certs   map[string]tls.Certificate
}

func newKey(t testing.TB) *hybrid.Key {
	t.Helper()
	k, err := hybrid.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{keys: map[string]*hybrid.Key{}, certs: map[string]tls.Certificate{}}
	who := func(name string) (consilium.PublicKey, []consilium.Digest) {
		k := newKey(t)
		c, err := NewCertificate(name, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		pin, err := CertificatePin(c)
		if err != nil {
			t.Fatal(err)
		}
		w.keys[name], w.certs[name] = k, c
		return k.Public(), []consilium.Digest{pin}
	}
	r := &consilium.Roster{APIVersion: consilium.APIVersion, Kind: "Roster", Name: "test", Version: 1,
		NotBefore: time.Now().Add(-time.Hour).Unix(), NotAfter: time.Now().Add(time.Hour).Unix()}
	r.Board = consilium.Board{Name: "board", Threshold: 2}
	for _, id := range []string{"ada", "bea", "cyn"} {
		k, tls := who("board/" + id)
		r.Board.Members = append(r.Board.Members, consilium.BoardMember{ID: id, Key: k, TLS: tls})
	}
	for _, id := range []consilium.SiteID{"amsterdam", "london"} {
		k, tls := who("site/" + string(id))
		r.Sites = append(r.Sites, consilium.Site{ID: id, Name: string(id), Operator: string(id), Country: "NL", Regimes: []string{}, Key: k, TLS: tls})
	}
	for _, id := range []consilium.NodeID{"c1", "c2", "c3"} {
		k, tls := who("coordinator/" + string(id))
		r.Coordinators = append(r.Coordinators, consilium.Coordinator{ID: id, Country: "NL", Address: string(id), Raft: string(id) + "-raft", Key: k, TLS: tls})
	}
	k, tls := who("researcher/team")
	r.Researchers = append(r.Researchers, consilium.Researcher{ID: "team", Name: "team", Country: "NL", Key: k, Sealing: consilium.SealingKey{1}, TLS: tls})
	k, tls = who("auditor/eve")
	r.Auditors = append(r.Auditors, consilium.Auditor{ID: "eve", Key: k, TLS: tls})
	w.roster = r
	var err error
	if w.payload, err = canon.Marshal(r); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) book(t testing.TB) *Book {
	t.Helper()
	b, err := NewBook(w.payload)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (w *world) sign(t testing.TB, name string, kind consilium.MessageKind, study consilium.StudyID, body []byte) *consilium.Message {
	t.Helper()
	sig, err := w.keys[name].Sign(kind.Domain(), body)
	if err != nil {
		t.Fatal(err)
	}
	_, by, _ := strings.Cut(name, "/")
	if strings.HasPrefix(name, "board/") {
		by = name
	}
	return &consilium.Message{Kind: kind, Study: study, By: by, Body: body, Signature: sig}
}

var testStudy = consilium.NewStudyID(consilium.Digest{1})

// fakeNode is a coordinator in memory that behaves: it keeps what is posted.
type fakeNode struct {
	mu       sync.Mutex
	cond     *sync.Cond
	leader   consilium.NodeID
	me       consilium.NodeID
	posts    []*consilium.Message
	events   []*consilium.Event
	blobs    map[consilium.Digest][]byte
	uploads  [][]byte
	breakAt  uint64        // Follow fails once before this event
	fetchCut int           // Fetch fails once after this many bytes
	hold     chan struct{} // PutBlob reads nothing until it is closed
}

func newFake(me, leader consilium.NodeID) *fakeNode {
	f := &fakeNode{me: me, leader: leader, blobs: map[consilium.Digest][]byte{}}
	f.cond = sync.NewCond(&f.mu)
	return f
}

func (f *fakeNode) lead() error {
	if f.leader != f.me {
		return &NotLeaderError{Leader: f.leader}
	}
	return nil
}

func (f *fakeNode) Post(_ context.Context, from Identity, m *consilium.Message) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.lead(); err != nil {
		return err
	}
	if from.By() != m.By {
		return consilium.ErrForbidden.Withf("%s posts for %s", from, m.By)
	}
	f.posts = append(f.posts, m)
	f.events = append(f.events, &consilium.Event{Seq: uint64(len(f.events)), Study: m.Study, Kind: consilium.EventMessage, Body: m.Encode()})
	f.cond.Broadcast()
	return nil
}

func (f *fakeNode) Upload(_ context.Context, _ Identity, u *Upload) error {
	if err := f.lead(); err != nil {
		return err
	}
	boxes, err := io.ReadAll(u.Boxes)
	if err != nil {
		return err
	}
	ct, err := io.ReadAll(u.Ciphertext)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.uploads = append(f.uploads, append(boxes, ct...))
	return nil
}

func (f *fakeNode) List(context.Context, Identity) ([]StudyStatus, error) {
	return []StudyStatus{{Study: testStudy, Team: "team", Name: "n", Phase: consilium.PhaseDone, Round: 3, Attempt: 1, Members: 5, Contributed: 4, Deadline: 7, Reason: "r"}}, nil
}

func (f *fakeNode) Status(_ context.Context, _ Identity, s consilium.StudyID) (StudyStatus, error) {
	if s != testStudy {
		return StudyStatus{}, consilium.ErrUnknownStudy
	}
	return StudyStatus{Study: s, Team: "team", Phase: consilium.PhaseSubmitted}, nil
}

func (f *fakeNode) Follow(ctx context.Context, _ Identity, study consilium.StudyID, seq uint64, send func([]byte) error) error {
	defer context.AfterFunc(ctx, f.cond.Broadcast)()
	for {
		f.mu.Lock()
		for uint64(len(f.events)) <= seq && ctx.Err() == nil {
			f.cond.Wait()
		}
		if ctx.Err() != nil {
			f.mu.Unlock()
			return ctx.Err()
		}
		if f.breakAt != 0 && seq >= f.breakAt {
			f.breakAt = 0
			f.mu.Unlock()
			return consilium.ErrUnavailable.Withf("broken on purpose")
		}
		ev := f.events[seq]
		f.mu.Unlock()
		seq++
		if study != "" && ev.Study != study {
			continue
		}
		if err := send(ev.Encode()); err != nil {
			return err
		}
	}
}

type cutReader struct {
	io.Reader
	err error
}

func (c cutReader) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	if err == io.EOF {
		err = c.err
	}
	return n, err
}

func (f *fakeNode) Fetch(_ context.Context, _ Identity, d consilium.Digest, offset, length uint64) (io.ReadCloser, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, ok := f.blobs[d]
	if !ok {
		return nil, consilium.ErrBlobMissing.Withf("%s", d.Short())
	}
	b = b[min(offset, uint64(len(b))):]
	if length > 0 {
		b = b[:min(length, uint64(len(b)))]
	}
	if cut := f.fetchCut; cut > 0 && cut < len(b) {
		f.fetchCut = 0
		return io.NopCloser(cutReader{strings.NewReader(string(b[:cut])), consilium.ErrUnavailable.Withf("cut")}), nil
	}
	return io.NopCloser(strings.NewReader(string(b))), nil
}

func (f *fakeNode) PutBlob(_ context.Context, _ Identity, d consilium.Digest, size uint64, r io.Reader) error {
	if f.hold != nil {
		<-f.hold
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if blobSum(b) != d {
		return consilium.ErrBlobCorrupt
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.blobs[d] = b
	return nil
}

func (f *fakeNode) Hello(_ context.Context, _ Identity, inc string) (Hello, error) {
	return Hello{Incarnation: inc, Started: true, Members: []string{"c1." + inc}}, nil
}

func (f *fakeNode) Store(ctx context.Context, from Identity, d consilium.Digest, size uint64, r io.Reader) error {
	return f.PutBlob(ctx, from, d, size, r)
}

func (f *fakeNode) Load(ctx context.Context, from Identity, d consilium.Digest, offset, length uint64) (io.ReadCloser, error) {
	return f.Fetch(ctx, from, d, offset, length)
}

func (f *fakeNode) Holds(_ context.Context, _ Identity, d consilium.Digest, size uint64) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return uint64(len(f.blobs[d])) == size, nil
}

var errNoLog = errors.New("no log here")

func (f *fakeNode) Checkpoint(context.Context) ([]byte, error) { return []byte("note"), nil }
func (f *fakeNode) Tile(_ context.Context, _ int, _ uint64, width int) ([]byte, error) {
	return make([]byte, 32*width), nil
}
func (f *fakeNode) Entries(_ context.Context, start, count uint64, send func(uint64, []byte) error) error {
	for i := range count {
		if err := send(start+i, []byte{byte(i)}); err != nil {
			return err
		}
	}
	return nil
}
func (f *fakeNode) Inclusion(context.Context, uint64, uint64) ([]consilium.Digest, error) {
	return []consilium.Digest{{1}}, nil
}
func (f *fakeNode) Consistency(context.Context, uint64, uint64) ([]consilium.Digest, error) {
	return nil, errNoLog
}

// logs collects log lines.
type logs struct {
	mu sync.Mutex
	b  strings.Builder
	ch chan string
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ch != nil {
		select {
		case l.ch <- string(b):
		default:
		}
	}
	return l.b.Write(b)
}

// serve runs fake nodes for the whole roster on one network.
func serve(t testing.TB, w *world, book *Book, log *slog.Logger, leader consilium.NodeID) (*Network, map[consilium.NodeID]*fakeNode) {
	t.Helper()
	n := NewNetwork()
	fakes := map[consilium.NodeID]*fakeNode{}
	for _, c := range w.roster.Coordinators {
		f := newFake(c.ID, leader)
		fakes[c.ID] = f
		s := NewServer(ServerOptions{Certificate: w.certs["coordinator/"+string(c.ID)], Book: book, Members: f, Peers: f, Audit: f, Logger: log})
		l, err := n.Listen(c.Address)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { s.Serve(l); close(done) }()
		t.Cleanup(func() { s.Stop(); <-done })
	}
	return n, fakes
}

func (w *world) client(t testing.TB, book *Book, n *Network, name string) *Client {
	t.Helper()
	c := NewClient(ClientOptions{Certificate: w.certs[name], Book: book, Dial: n.Dial})
	t.Cleanup(func() { c.Close() })
	return c
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
