package coordinator

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/bits"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"consilium"
	"consilium/he"
	"consilium/internal/blob"
	"consilium/internal/canon"
	"consilium/internal/hybrid"
	"consilium/internal/wire"
	"consilium/provenance"
)

// cluster is real nodes with everybody's keys: hospitals, a team, a board.
type cluster struct {
	t       testing.TB
	roster  *consilium.Roster
	payload []byte
	keys    map[string]*hybrid.Key
	certs   map[string]tls.Certificate
	notes   map[consilium.NodeID]*provenance.NoteKey
	net     *wire.Network // nil: TCP on loopback
	dirs    map[consilium.NodeID]string
	memory  bool
	timing  Timing
	log     *slog.Logger

	mu      sync.Mutex
	nodes   map[consilium.NodeID]*Node
	books   []*wire.Book // of clients: they follow the roster as nodes do
	ended   map[consilium.NodeID]chan error
	refuse  bool // admission
	consult int
}

// identities are costly to make under the race detector, and no test changes
// them.
var identities struct {
	sync.Mutex
	keys map[string]*hybrid.Key
}

func identityOf(t testing.TB, name string) *hybrid.Key {
	identities.Lock()
	defer identities.Unlock()
	if identities.keys == nil {
		identities.keys = map[string]*hybrid.Key{}
	}
	if identities.keys[name] == nil {
		seed := sha256.Sum256([]byte(name))
		k, err := hybrid.FromSeed(seed[:])
		if err != nil {
			t.Fatal(err)
		}
		identities.keys[name] = k
	}
	return identities.keys[name]
}

func newCluster(t testing.TB, nodes, sites int, memory, tcp bool) *cluster {
	t.Helper()
	c := &cluster{t: t, keys: map[string]*hybrid.Key{}, certs: map[string]tls.Certificate{}, notes: map[consilium.NodeID]*provenance.NoteKey{},
		dirs: map[consilium.NodeID]string{}, memory: memory, timing: FastTiming(), nodes: map[consilium.NodeID]*Node{}, ended: map[consilium.NodeID]chan error{},
		log: slog.New(slog.DiscardHandler)}
	if os.Getenv("CONSILIUM_TEST_LOG") != "" {
		c.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if !tcp {
		c.net = wire.NewNetwork()
	}
	who := c.who
	r := &consilium.Roster{APIVersion: consilium.APIVersion, Kind: "Roster", Name: "cluster", Version: 1,
		NotBefore: time.Now().Add(-time.Hour).Unix(), NotAfter: time.Now().Add(time.Hour).Unix(), Board: consilium.Board{Name: "board", Threshold: 2}}
	for i := 1; i <= 2; i++ {
		id := fmt.Sprintf("ethics-%d", i)
		k, pins := who("board/" + id)
		r.Board.Members = append(r.Board.Members, consilium.BoardMember{ID: id, Key: k, TLS: pins})
	}
	for i := 1; i <= sites; i++ {
		id := fmt.Sprintf("h%02d", i)
		k, pins := who("site/" + id)
		r.Sites = append(r.Sites, consilium.Site{ID: consilium.SiteID(id), Name: id, Operator: id, Country: "NL", Regimes: []string{}, Key: k, TLS: pins})
	}
	for i := 1; i <= nodes; i++ {
		id := consilium.NodeID(fmt.Sprintf("c%d", i))
		r.Coordinators = append(r.Coordinators, c.coordinator(id))
	}
	k, pins := who("researcher/team")
	r.Researchers = append(r.Researchers, consilium.Researcher{ID: "team", Name: "team", Country: "NL", Key: k, Sealing: consilium.SealingKey{1}, TLS: pins})
	k, pins = who("researcher/rivals")
	r.Researchers = append(r.Researchers, consilium.Researcher{ID: "rivals", Name: "rivals", Country: "NL", Key: k, Sealing: consilium.SealingKey{2}, TLS: pins})
	k, pins = who("auditor/eve")
	r.Auditors = append(r.Auditors, consilium.Auditor{ID: "eve", Key: k, TLS: pins})
	c.roster = r
	var err error
	if c.payload, err = canon.Marshal(r); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.stop)
	return c
}

// who makes the keys and certificate of a member.
func (c *cluster) who(name string) (consilium.PublicKey, []consilium.Digest) {
	k := identityOf(c.t, name)
	cert, err := wire.NewCertificate(name, time.Hour)
	if err != nil {
		c.t.Fatal(err)
	}
	pin, err := wire.CertificatePin(cert)
	if err != nil {
		c.t.Fatal(err)
	}
	c.keys[name], c.certs[name] = k, cert
	return k.Public(), []consilium.Digest{pin}
}

// coordinator makes a node's entry of the roster, and its directory.
func (c *cluster) coordinator(id consilium.NodeID) consilium.Coordinator {
	k, pins := c.who("coordinator/" + string(id))
	note, err := provenance.NewWitnessKey("test/" + string(id))
	if err != nil {
		c.t.Fatal(err)
	}
	c.notes[id] = note
	address, replication := string(id), string(id)+"-raft"
	if c.net == nil {
		address, replication = freePort(c.t), freePort(c.t)
	}
	if !c.memory {
		c.dirs[id] = filepath.Join(c.t.TempDir(), string(id))
	}
	return consilium.Coordinator{ID: id, Country: "NL", Address: address, Raft: replication, Key: k, TLS: pins, Ledger: note.Verifier()}
}

// nextRoster signs the next roster.
func (c *cluster) nextRoster(change func(*consilium.Roster)) *consilium.Signed {
	next := *c.roster
	next.Version, next.Previous = c.roster.Version+1, consilium.RosterDigest(c.payload)
	next.Coordinators = slices.Clone(next.Coordinators)
	change(&next)
	payload := mustCanon(c.t, &next)
	signed := &consilium.Signed{Payload: payload}
	for _, m := range c.roster.Board.Members {
		sig, err := c.keys["board/"+m.ID].Sign(consilium.DomainRoster, payload)
		if err != nil {
			c.t.Fatal(err)
		}
		signed.Signatures = append(signed.Signatures, consilium.Countersign{By: m.ID, Signature: sig})
	}
	return signed
}

// install puts a roster in force everywhere, nodes and clients in no
// particular order.
func (c *cluster) install(signed *consilium.Signed) {
	c.t.Helper()
	next, err := consilium.ParseRoster(signed.Payload)
	if err != nil {
		c.t.Fatal(err)
	}
	nodes := c.alive()
	c.mu.Lock()
	c.roster, c.payload = next, signed.Payload
	books := slices.Clone(c.books)
	c.mu.Unlock()
	for _, n := range nodes {
		// A node that has not yet heard of the last step refuses the next; its
		// operator tries again.
		err := n.UpdateRoster(signed)
		for try := 0; errors.Is(err, consilium.ErrUnavailable) && try < 6000; try++ {
			time.Sleep(10 * time.Millisecond)
			err = n.UpdateRoster(signed)
		}
		if err != nil {
			c.t.Fatal(err)
		}
	}
	for _, b := range books {
		if err := b.Update(signed); err != nil {
			c.t.Fatal(err)
		}
	}
}

// nextPort starts somewhere below the ports that the system gives to outgoing
// connections: a port of that range can be taken again between the look and the
// use.
var nextPort atomic.Uint32

func init() { nextPort.Store(uint32(10000 + os.Getpid()*64%20000)) }

func freePort(t testing.TB) string {
	t.Helper()
	for range 2000 {
		address := fmt.Sprintf("127.0.0.1:%d", 10000+nextPort.Add(1)%20000)
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal("no free port")
	return ""
}

func (c *cluster) book() *wire.Book {
	b, err := wire.NewBook(c.payload)
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}

func (c *cluster) config(id consilium.NodeID) Config {
	cfg := Config{ID: id, Book: c.book(), Certificate: c.certs["coordinator/"+string(id)], Signer: c.keys["coordinator/"+string(id)], NoteKey: c.notes[id],
		Dir: c.dirs[id], InMemory: c.memory, Timing: c.timing, Logger: c.log,
		Admission: func(_ context.Context, r AdmissionRequest) (bool, []byte, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.consult++
			if c.consult == 1 {
				return false, nil, errors.New("the policy engine is not ready") // asked again
			}
			return !c.refuse, []byte(`{"study":"` + string(r.Study) + `"}`), nil
		}}
	if c.net != nil {
		cfg.Listen, cfg.Dial = c.net.Listen, c.net.Dial
	}
	return cfg
}

// run opens and runs a node.
func (c *cluster) run(id consilium.NodeID) *Node {
	c.t.Helper()
	n, err := Open(context.Background(), c.config(id))
	if err != nil {
		c.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- n.Run(context.Background()) }()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[id], c.ended[id] = n, done
	return n
}

func (c *cluster) runAll() {
	c.t.Helper()
	for _, n := range c.roster.Coordinators {
		c.run(n.ID)
	}
}

func (c *cluster) kill(id consilium.NodeID) {
	c.mu.Lock()
	n := c.nodes[id]
	delete(c.nodes, id)
	c.mu.Unlock()
	n.Kill()
}

func (c *cluster) alive() (out []*Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.roster.Coordinators {
		if n := c.nodes[r.ID]; n != nil {
			out = append(out, n)
		}
	}
	return out
}

// leader waits until some node leads.
func (c *cluster) leader(ctx context.Context) *Node {
	c.t.Helper()
	for {
		for _, n := range c.alive() {
			if n.IsLeader() {
				return n
			}
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			c.t.Fatalf("no leader: %v", err)
		}
	}
}

func (c *cluster) stop() {
	for _, n := range c.alive() {
		n.Close()
	}
}

func (c *cluster) client(name string, prefer consilium.NodeID) *wire.Client {
	c.mu.Lock()
	book := c.book() // with the roster of this moment; install sees it
	c.books = append(c.books, book)
	c.mu.Unlock()
	o := wire.ClientOptions{Certificate: c.certs[name], Book: book, Prefer: prefer, Logger: c.log}
	if c.net != nil {
		o.Dial = c.net.Dial
	}
	cl := wire.NewClient(o)
	c.t.Cleanup(func() { cl.Close() })
	return cl
}

func (c *cluster) sign(name string, kind consilium.MessageKind, study consilium.StudyID, body []byte) *consilium.Message {
	sig, err := c.keys[name].Sign(kind.Domain(), body)
	if err != nil {
		c.t.Fatal(err)
	}
	_, by, _ := strings.Cut(name, "/")
	if strings.HasPrefix(name, "board/") {
		by = name
	}
	return &consilium.Message{Kind: kind, Study: study, By: by, Body: body, Signature: sig}
}

func limit(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// proposal is a study and what is needed to post it.
type proposal struct {
	id         consilium.StudyID
	submission *consilium.Message
	approvals  []*consilium.Message
	digest     consilium.Digest
}

func (c *cluster) proposal(token string) *proposal {
	spec := consilium.Spec{APIVersion: consilium.APIVersion, Kind: "Study", Name: "cgd", Question: "Does it help?",
		Data:    consilium.DataRef{Dataset: "cgd", Patient: "id"},
		Sites:   consilium.SiteRule{Min: 3, Missing: "wait"},
		Columns: []consilium.Column{{Name: "id", Type: consilium.TypeID}}, Legal: []byte("{}"),
		Analyses: []consilium.AnalysisSpec{{Name: "main", Type: consilium.AnalysisCox}},
		Privacy:  consilium.Privacy{MinCohort: 11}, Rounds: consilium.Rounds{Max: 25, Tolerance: 1e-9, Deadline: 600}}
	specB, err := canon.Marshal(&spec)
	if err != nil {
		c.t.Fatal(err)
	}
	sub, err := canon.Marshal(&consilium.Submission{APIVersion: consilium.APIVersion, Kind: "Submission", Team: "team", Token: token, SpecBytes: specB,
		Policy: dig("policy"), NotAfter: time.Now().Unix() + 3600})
	if err != nil {
		c.t.Fatal(err)
	}
	p := &proposal{digest: consilium.DomainSubmission.Digest(sub)}
	p.id = consilium.NewStudyID(p.digest)
	p.submission = c.sign("researcher/team", consilium.KindSubmission, p.id, sub)
	app, err := canon.Marshal(&consilium.Approval{APIVersion: consilium.APIVersion, Kind: "Approval", Study: p.id, Spec: consilium.SpecDigest(specB), Policy: dig("policy"),
		NotBefore: time.Now().Unix() - 60, NotAfter: time.Now().Unix() + 3600})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, m := range c.roster.Board.Members {
		p.approvals = append(p.approvals, c.sign("board/"+m.ID, consilium.KindApproval, p.id, app))
	}
	return p
}

// submit posts a study and the board's approvals.
func (c *cluster) submit(ctx context.Context, p *proposal) {
	c.t.Helper()
	if err := c.client("researcher/team", "").Post(ctx, p.submission); err != nil {
		c.t.Fatal(err)
	}
	for i, m := range p.approvals {
		if err := c.client("board/"+c.roster.Board.Members[i].ID, "").Post(ctx, m); err != nil {
			c.t.Fatal(err)
		}
	}
}

const testLanes, testBits = 100, 16

// vector makes a strict encrypted vector: random residues, which is what a
// ciphertext looks like to the coordinator.
func vector(p he.Profile, rng *rand.Rand) (residues [][]uint64, packed []byte) {
	for range p.Chunks(testLanes) {
		for i, q := range p.Primes {
			v := make([]uint64, p.N())
			for k := range v {
				v[k] = rng.Uint64N(q)
			}
			b := he.LimbBuffer(p.LimbSize(i))
			he.PackLimb(b, v, bits.Len64(q))
			residues = append(residues, v)
			packed = append(packed, b...)
		}
	}
	return residues, packed
}

// actor is a hospital that answers every event as an honest member would, without any
// cryptography inside its messages: the coordinator reads none of it.
type actor struct {
	c        *cluster
	name     string // "site/h01"
	p        *proposal
	rounds   uint32
	client   *wire.Client
	charter  *consilium.Charter
	digest   consilium.Digest
	position consilium.Position
	profile  he.Profile

	draft    []byte
	reveals  int
	signed   bool
	at       consilium.At
	state    consilium.Digest
	sealing  consilium.Digest
	headers  map[consilium.Position]consilium.Digest // of the open attempt
	vectors  map[consilium.Digest]consilium.Digest   // header -> ciphertext digest
	acked    bool
	set      *consilium.Contributors
	released int
	openings int
	total    *consilium.Event
	sum      []byte

	uploaded func(h *actor) // called after each upload
}

func (c *cluster) actor(id string, p *proposal, rounds uint32) *actor {
	return &actor{c: c, name: "site/" + id, p: p, rounds: rounds, client: c.client("site/"+id, ""), headers: map[consilium.Position]consilium.Digest{}, vectors: map[consilium.Digest]consilium.Digest{}}
}

var errDone = errors.New("the study is done")

// follow takes part until the study ends.
func (h *actor) follow(ctx context.Context) error {
	err := h.client.FollowStudy(ctx, h.p.id, 0, func(ev *consilium.Event) error { return h.on(ctx, ev) })
	if errors.Is(err, errDone) {
		return nil
	}
	return fmt.Errorf("%s: %w", h.name, err)
}

// post ignores what became pointless: an event of long ago was answered
// before, or others were enough.
func (h *actor) post(ctx context.Context, kind consilium.MessageKind, body []byte) error {
	err := h.client.Post(ctx, h.c.sign(h.name, kind, h.p.id, body))
	if errors.Is(err, consilium.ErrWrongPhase) || errors.Is(err, consilium.ErrRoundClosed) || errors.Is(err, consilium.ErrStudyEnded) {
		return nil
	}
	return err
}

func (h *actor) on(ctx context.Context, ev *consilium.Event) error {
	switch ev.Kind {
	case consilium.EventMessage:
		m, err := consilium.ParseMessage(ev.Body)
		if err != nil {
			return err
		}
		if _, err := h.c.book().Verify(m); err != nil {
			return err
		}
		return h.message(ctx, m)
	case consilium.EventAdmitted:
		id := strings.TrimPrefix(h.name, "site/")
		e := consilium.Enrol{Study: h.p.id, Submission: h.p.digest, Roster: consilium.RosterDigest(h.c.payload), Sealing: sealkey("seal", id),
			Nonce: dig("nonce", id), Commitment: dig("commitment", id), Decision: dig("decision", id)}
		return h.post(ctx, consilium.KindEnrol, e.Encode())
	case consilium.EventDrafted:
		h.draft = ev.Body
		c, err := consilium.ParseDraft(ev.Body)
		if err != nil {
			return err
		}
		r := consilium.Reveal{Draft: consilium.CharterDigest(ev.Body)}
		for i := range c.Members {
			r.Boxes = append(r.Boxes, consilium.SealedBox{To: consilium.Position(i + 1), Sealed: []byte("sealed")})
		}
		return h.post(ctx, consilium.KindReveal, r.Encode())
	case consilium.EventChartered:
		c, err := consilium.ParseCharter(ev.Body)
		if err != nil {
			return err
		}
		h.charter, h.digest = c, consilium.CharterDigest(ev.Body)
		h.position, _ = c.Position(consilium.SiteID(strings.TrimPrefix(h.name, "site/")))
		h.profile, err = he.Choose(testLanes, testBits, len(c.Members))
		return err
	case consilium.EventOpened:
		o, err := consilium.ParseRoundOpened(ev.Body)
		if err != nil {
			return err
		}
		h.at = consilium.At{Charter: h.digest, Round: o.Round, Attempt: o.Attempt, Position: h.position}
		h.state, h.sealing, h.acked, h.set, h.openings, h.total = o.State, o.SealingDigest(), false, nil, 0, nil
		clear(h.headers)
		if err := h.upload(ctx); err != nil {
			return err
		}
		if h.uploaded != nil {
			h.uploaded(h)
		}
	case consilium.EventProposed:
		set, err := consilium.ParseContributors(ev.Body)
		if err != nil {
			return err
		}
		h.set = set
		return h.post(ctx, consilium.KindVote, (&consilium.Vote{At: h.at, Set: set.Digest()}).Encode())
	case consilium.EventCertified:
		return h.post(ctx, consilium.KindOpening, (&consilium.Opening{At: h.at, Set: h.set.Digest(), Sealed: []byte("share")}).Encode())
	case consilium.EventSummed:
		h.total = ev
		return h.update(ctx)
	case consilium.EventReleasing:
		return h.post(ctx, consilium.KindRelease, (&consilium.Release{At: h.at, Result: dig("result"), Decision: dig("decision"), Allow: true}).Encode())
	case consilium.EventDone:
		return errDone
	case consilium.EventAborted, consilium.EventRefused, consilium.EventCancelled:
		return fmt.Errorf("the study ended with %s: %s", ev.Kind, ev.Body)
	}
	return nil
}

func (h *actor) message(ctx context.Context, m *consilium.Message) error {
	switch m.Kind {
	case consilium.KindReveal:
		h.reveals++
		c, err := consilium.ParseDraft(h.draft)
		if err != nil {
			return err
		}
		if h.reveals < len(c.Members) || h.signed {
			return nil
		}
		h.signed = true
		c.Confirmation = dig("confirmation")
		b, err := canon.Marshal(c)
		if err != nil {
			return err
		}
		return h.post(ctx, consilium.KindCharter, b)
	case consilium.KindHeader:
		hd, err := consilium.ParseHeader(m.Body)
		if err != nil {
			return err
		}
		if hd.Round != h.at.Round || hd.Attempt != h.at.Attempt {
			return nil
		}
		d := consilium.HeaderDigest(m.Body)
		h.headers[hd.Position], h.vectors[d] = d, hd.Ciphertext
		if len(h.headers) < len(h.charter.Members) || h.acked {
			return nil
		}
		h.acked = true
		a := consilium.Ack{At: h.at}
		for p := 1; p <= len(h.charter.Members); p++ {
			a.Good = append(a.Good, consilium.Contributor{Position: consilium.Position(p), Header: h.headers[consilium.Position(p)]})
		}
		if h.at.Round == 1 {
			// Its own box of the first dealer, fetched by its digest.
			if err := h.checkBox(ctx, hd); err != nil {
				return err
			}
		}
		return h.post(ctx, consilium.KindAck, a.Encode())
	case consilium.KindOpening:
		h.openings++
		return h.update(ctx)
	case consilium.KindRelease:
		h.released++
		if h.released != h.charter.Threshold || h.position != 1 {
			return nil
		}
		sealed := []byte("a sealed result of study " + string(h.p.id))
		d, err := h.client.PutBlob(ctx, bytes.NewReader(sealed), uint64(len(sealed)))
		if err != nil {
			return err
		}
		return h.post(ctx, consilium.KindPublish, (&consilium.Publish{At: h.at, Result: dig("result"), Blob: d}).Encode())
	}
	return nil
}

func (h *actor) checkBox(ctx context.Context, hd *consilium.Header) error {
	r, err := h.client.Fetch(ctx, hd.Boxes[h.position-1], 0, 0)
	if errors.Is(err, consilium.ErrBlobMissing) {
		return nil // as with the aggregate
	}
	if err != nil {
		return err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if consilium.DomainBox.Digest(b) != hd.Boxes[h.position-1] {
		return errors.New("a fetched box is not the one that the header names")
	}
	return nil
}

// contribution is deterministic: a repeat is the same header.
func (h *actor) contribution() (*consilium.Message, [][]byte, [][]uint64, []byte) {
	study := binary.BigEndian.Uint64(h.p.digest[:]) // other bytes in every study, as keys make them
	rng := rand.New(rand.NewPCG(study+uint64(h.position), uint64(h.at.Round)<<32|uint64(h.at.Attempt)))
	residues, packed := vector(h.profile, rng)
	hash := he.NewCiphertextHash()
	hash.Write(packed)
	n := len(h.charter.Members)
	if h.sealing.IsZero() { // no event was read: round 1, where all use the charter's keys
		h.sealing = consilium.SealingDigest(make([]consilium.Digest, n))
	}
	hd := &consilium.Header{At: h.at, State: h.state, Sealing: h.sealing, Layout: dig("layout"), Vector: dig("vector", h.position), RowSet: dig("rows", h.position), Decision: dig("decision"),
		Ledger: dig("ledger"), Ciphertext: hash.Digest(), Size: uint64(len(packed)), NextSealing: sealkey(h.position, h.at.Round), Check: make([]byte, h.profile.CheckSize(h.charter.Threshold))}
	var boxes [][]byte
	for i := range n {
		box := make([]byte, h.profile.BoxSize())
		binary.BigEndian.PutUint32(box, uint32(h.position))
		binary.BigEndian.PutUint32(box[4:], uint32(i))
		binary.BigEndian.PutUint32(box[8:], h.at.Round)
		copy(box[12:], h.p.digest[:])
		boxes = append(boxes, box)
		hd.Boxes = append(hd.Boxes, consilium.DomainBox.Digest(box))
		hd.Commitments = append(hd.Commitments, dig("share", h.position, i))
	}
	// Ed25519 and hedged ML-DSA: another signature each time, the same statement.
	return h.c.sign(h.name, consilium.KindHeader, h.p.id, hd.Encode()), boxes, residues, packed
}

func (h *actor) upload(ctx context.Context) error {
	m, boxes, _, packed := h.contribution()
	_, err := h.whileOpen(ctx, func() error {
		return h.client.Upload(ctx, m, boxes, wire.Shape{Lanes: testLanes, Bits: testBits}, uint64(len(packed)), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed)), nil })
	})
	if errors.Is(err, consilium.ErrRoundClosed) || errors.Is(err, consilium.ErrWrongPhase) || errors.Is(err, consilium.ErrStudyEnded) {
		return nil // a retry that came after its round
	}
	return err
}

// whileOpen calls again while a blob is missing and the round is open. It reports
// false once the round is closed: its blobs are gone then.
func (h *actor) whileOpen(ctx context.Context, call func() error) (bool, error) {
	for {
		err := call()
		if !errors.Is(err, consilium.ErrBlobMissing) {
			return true, err
		}
		at, err := h.client.Status(ctx, h.p.id)
		if err != nil {
			return false, err
		}
		if at.Phase < consilium.PhaseContributing || at.Phase > consilium.PhaseUpdating || at.Round != h.at.Round || at.Attempt != h.at.Attempt {
			return false, nil
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return false, err
		}
	}
}

// update runs once the sum and t openings are there, as a hospital needs both
// for the next state. It compares the aggregate with a plain modular sum.
func (h *actor) update(ctx context.Context) error {
	ev := h.total
	if ev == nil || h.openings < h.charter.Threshold {
		return nil
	}
	h.total = nil
	s, err := consilium.ParseSummed(ev.Body)
	if err != nil {
		return err
	}
	h.sum = nil
	var got []byte
	open, err := h.whileOpen(ctx, func() (err error) {
		got, err = h.client.FetchBlob(ctx, s.Blob, 1<<24)
		return err
	})
	if err != nil || !open {
		return err // or enough others were faster
	}
	if blob.Sum(got) != s.Blob || uint64(len(got)) != s.Size {
		return errors.New("the aggregate is not what the event names")
	}
	if h.position == 1 {
		want := make([]byte, 0, len(got))
		var acc [][]uint64
		for _, m := range h.set.Members {
			other := *h
			other.position, other.at.Position = m.Position, m.Position
			_, _, res, _ := other.contribution()
			if acc == nil {
				acc = res
				continue
			}
			for i := range acc {
				q := h.profile.Primes[i%len(h.profile.Primes)]
				for k := range acc[i] {
					acc[i][k] = (acc[i][k] + res[i][k]) % q
				}
			}
		}
		for i := range acc {
			q := h.profile.Primes[i%len(h.profile.Primes)]
			b := he.LimbBuffer(h.profile.LimbSize(i % len(h.profile.Primes)))
			he.PackLimb(b, acc[i], bits.Len64(q))
			want = append(want, b...)
		}
		if !bytes.Equal(got, want) {
			return errors.New("the aggregate is not the sum of the contributions")
		}
	}
	h.sum = got
	done := h.at.Round == h.rounds
	return h.post(ctx, consilium.KindStateVote, (&consilium.StateVote{At: h.at, Set: h.set.Digest(), Next: dig("state", h.at.Round), Done: done}).Encode())
}

func mustCanon(t testing.TB, v any) []byte {
	t.Helper()
	b, err := canon.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
