package federation

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"consilium"
	"consilium/coordinator"
	"consilium/internal/canon"
	"consilium/internal/client"
	"consilium/internal/hybrid"
	"consilium/internal/seal"
	"consilium/internal/wire"
	"consilium/policy"
	"consilium/provenance"
)

// Options describe a federation.
type Options struct {
	Name         string
	Dir          string // everything durable lives below it
	Coordinators int    // 1, 3 or 5
	Sites        []SiteOptions
	Loopback     bool // TCP on 127.0.0.1 instead of memory
	Volatile     bool // coordinators keep nothing on disk
	Policies     []*policy.Engine
	Country      string // of the coordinators
	TeamCountry  string
	Assume       []string
	Now          func() time.Time
	Log          *slog.Logger
}

// Federation is a running federation.
type Federation struct {
	o      Options
	ctx    context.Context
	cancel context.CancelFunc
	group  *errgroup.Group
	net    *wire.Network

	Roster  *consilium.Roster
	signed  *consilium.Signed
	Book    *wire.Book
	Team    *client.Team
	Board   []*client.Member
	board   []*hybrid.Key
	witness *http.Server
	url     string
	vkey    string

	mu    sync.Mutex // guards the rest
	nodes map[consilium.NodeID]*node
	sites map[consilium.SiteID]*Site
	order []consilium.SiteID
	wires []*wire.Client
	errs  []error
}

type node struct {
	id      consilium.NodeID
	cert    tls.Certificate
	signer  *hybrid.Key
	note    *provenance.NoteKey
	running *coordinator.Node
	stop    context.CancelFunc
	done    chan struct{}
}

// Start makes keys and roster, anchors every hospital's tables and starts all
// nodes. It returns when a leader is elected.
func Start(ctx context.Context, o Options) (*Federation, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Coordinators == 0 {
		o.Coordinators = 3
	}
	ctx, cancel := context.WithCancel(ctx)
	group, ctx := errgroup.WithContext(ctx)
	f := &Federation{o: o, ctx: ctx, cancel: cancel, group: group, net: wire.NewNetwork(),
		nodes: map[consilium.NodeID]*node{}, sites: map[consilium.SiteID]*Site{}}
	if err := f.start(); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (f *Federation) listen(address string) (net.Listener, error) {
	if f.o.Loopback {
		return net.Listen("tcp", address)
	}
	return f.net.Listen(address)
}

func (f *Federation) dial(ctx context.Context, address string) (net.Conn, error) {
	if f.o.Loopback {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", address)
	}
	return f.net.Dial(ctx, address)
}

// address reserves a place to listen: a name in memory, a free port on
// loopback.
func (f *Federation) address(name string) (string, error) {
	if !f.o.Loopback {
		return name, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

const boardMembers = 3

func (f *Federation) start() error {
	if err := f.startWitness(); err != nil {
		return err
	}
	now := f.o.Now()
	r := &consilium.Roster{
		APIVersion: consilium.APIVersion, Kind: "Roster", Name: f.o.Name, Version: 1,
		NotBefore: now.Add(-24 * time.Hour).Unix(), NotAfter: now.Add(365 * 24 * time.Hour).Unix(),
		Board: consilium.Board{Name: "Ethics board", Threshold: 2, Witness: f.vkey},
	}
	boardKeys := make([]*hybrid.Key, boardMembers)
	boardCerts := make([]tls.Certificate, boardMembers)
	for i := range boardMembers {
		key, cert, pin, err := identity(fmt.Sprintf("board-%d", i+1))
		if err != nil {
			return err
		}
		boardKeys[i], boardCerts[i] = key, cert
		r.Board.Members = append(r.Board.Members, consilium.BoardMember{ID: fmt.Sprintf("member-%d", i+1), Key: key.Public(), TLS: []consilium.Digest{pin}})
	}
	for i := range f.o.Coordinators {
		n := &node{id: consilium.NodeID(fmt.Sprintf("c%d", i+1))}
		var pin consilium.Digest
		var err error
		if n.signer, n.cert, pin, err = identity(string(n.id)); err != nil {
			return err
		}
		if n.note, err = provenance.NewLogKey("consilium-audit/" + f.o.Name); err != nil {
			return err
		}
		grpc, err := f.address(string(n.id))
		if err != nil {
			return err
		}
		raft, err := f.address(string(n.id) + "-raft")
		if err != nil {
			return err
		}
		r.Coordinators = append(r.Coordinators, consilium.Coordinator{
			ID: n.id, Country: f.o.Country, Address: grpc, Raft: raft, Key: n.signer.Public(), TLS: []consilium.Digest{pin}, Ledger: n.note.Verifier(),
		})
		f.nodes[n.id] = n
	}
	teamKey, teamCert, teamPin, err := identity("team")
	if err != nil {
		return err
	}
	teamSealing, err := seal.Generate()
	if err != nil {
		return err
	}
	r.Researchers = []consilium.Researcher{{ID: "team", Name: "Data-science team", Country: f.o.TeamCountry,
		Key: teamKey.Public(), Sealing: teamSealing.Public(), TLS: []consilium.Digest{teamPin}}}
	sites := make([]*Site, len(f.o.Sites))
	for i, so := range f.o.Sites {
		s, err := f.newSite(so)
		if err != nil {
			return fmt.Errorf("site %s: %w", so.ID, err)
		}
		sites[i] = s
		r.Sites = append(r.Sites, s.entry)
		f.sites[so.ID] = s
		f.order = append(f.order, so.ID)
	}
	payload, err := canon.Marshal(r)
	if err != nil {
		return err
	}
	if f.Roster, err = consilium.ParseRoster(payload); err != nil {
		return err
	}
	f.board = boardKeys
	if f.signed, err = f.sign(payload); err != nil {
		return err
	}
	if f.Book, err = wire.NewBook(payload); err != nil {
		return err
	}
	f.Team = &client.Team{ID: "team", Signer: teamKey, Sealing: teamSealing, Wire: f.client(teamCert), Book: f.Book}
	for i := range boardMembers {
		f.Board = append(f.Board, &client.Member{ID: r.Board.Members[i].ID, Signer: boardKeys[i], Wire: f.client(boardCerts[i]), Book: f.Book})
	}
	for _, n := range f.nodes {
		if err := f.startNode(n); err != nil {
			return err
		}
	}
	// The hospitals anchor their tables while the coordinators elect.
	anchor, ctx := errgroup.WithContext(f.ctx)
	anchor.SetLimit(4)
	for _, s := range sites {
		anchor.Go(func() error {
			if err := s.prepare(ctx); err != nil {
				return fmt.Errorf("site %s: %w", s.ID(), err)
			}
			return nil
		})
	}
	if err := anchor.Wait(); err != nil {
		return err
	}
	for _, s := range sites {
		if err := s.Start(); err != nil {
			return fmt.Errorf("site %s: %w", s.ID(), err)
		}
	}
	_, err = f.Leader(f.ctx)
	return err
}

// sign is a roster with the signatures of as many board members as it takes.
func (f *Federation) sign(payload []byte) (*consilium.Signed, error) {
	out := &consilium.Signed{Payload: payload}
	for i := range f.Roster.Board.Threshold {
		sig, err := f.board[i].Sign(consilium.DomainRoster, payload)
		if err != nil {
			return nil, err
		}
		out.Signatures = append(out.Signatures, consilium.Countersign{By: f.Roster.Board.Members[i].ID, Signature: sig})
	}
	return out, nil
}

// Revoke puts the next roster in force, which no longer has some hospitals:
// they are stopped, and everybody else installs it, the hospitals by starting their
// gates again as a worker does.
func (f *Federation) Revoke(ids ...consilium.SiteID) error {
	r := *f.Roster
	r.Version, r.Previous = r.Version+1, consilium.RosterDigest(f.signed.Payload)
	r.Sites = slices.DeleteFunc(slices.Clone(r.Sites), func(s consilium.Site) bool { return slices.Contains(ids, s.ID) })
	payload, err := canon.Marshal(&r)
	if err != nil {
		return err
	}
	signed, err := f.sign(payload)
	if err != nil {
		return err
	}
	next, err := consilium.ParseRoster(payload)
	if err != nil {
		return err
	}
	for _, s := range f.Sites() {
		s.Stop()
	}
	f.Roster, f.signed = next, signed
	for _, c := range f.Roster.Coordinators {
		if n := f.nodes[c.ID]; n.running != nil {
			if err := n.running.UpdateRoster(signed); err != nil {
				return fmt.Errorf("coordinator %s: %w", c.ID, err)
			}
		}
	}
	for _, s := range f.Sites() {
		if slices.Contains(ids, s.ID()) {
			continue
		}
		if err := s.Start(); err != nil {
			return fmt.Errorf("site %s: %w", s.ID(), err)
		}
	}
	return nil
}

func identity(name string) (*hybrid.Key, tls.Certificate, consilium.Digest, error) {
	key, err := hybrid.Generate()
	if err != nil {
		return nil, tls.Certificate{}, consilium.Digest{}, err
	}
	cert, err := wire.NewCertificate(name, 365*24*time.Hour)
	if err != nil {
		return nil, tls.Certificate{}, consilium.Digest{}, err
	}
	pin, err := wire.CertificatePin(cert)
	return key, cert, pin, err
}

func (f *Federation) client(cert tls.Certificate) *wire.Client {
	c := wire.NewClient(wire.ClientOptions{Certificate: cert, Book: f.Book, Dial: f.dial, Logger: f.o.Log})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wires = append(f.wires, c)
	return c
}

// startWitness runs the board's ledger witness over HTTP.
func (f *Federation) startWitness() error {
	key, err := provenance.NewWitnessKey(f.o.Name + "/board")
	if err != nil {
		return err
	}
	f.vkey = key.Verifier()
	var logs []string
	for i := range f.o.Sites {
		k, err := provenance.NewLogKey(f.o.Name + "/" + string(f.o.Sites[i].ID))
		if err != nil {
			return err
		}
		f.o.Sites[i].ledgerKey = k
		logs = append(logs, k.Verifier())
	}
	w, err := provenance.OpenWitness(provenance.WitnessConfig{Key: key, Dir: filepath.Join(f.o.Dir, "witness"), Logs: logs})
	if err != nil {
		return err
	}
	address, err := f.address("witness")
	if err != nil {
		return err
	}
	l, err := f.listen(address)
	if err != nil {
		return err
	}
	f.url = "http://" + address
	f.witness = &http.Server{Handler: w, ReadHeaderTimeout: 5 * time.Second}
	f.group.Go(func() error {
		if err := f.witness.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return nil
}

func (f *Federation) startNode(n *node) error {
	dir := ""
	if !f.o.Volatile {
		dir = filepath.Join(f.o.Dir, "coordinators", string(n.id))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	log, closeLog, err := n.decisionLog(dir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(f.ctx)
	running, err := coordinator.Open(ctx, coordinator.Config{
		ID: n.id, Book: f.Book, Certificate: n.cert, Signer: n.signer, NoteKey: n.note, Dir: dir, InMemory: f.o.Volatile,
		Listen: f.listen, Dial: f.dial, Admission: coordinator.PolicyAdmission(n.id, f.policyByDigest, log, f.o.Now), Logger: f.o.Log, Now: f.o.Now, Timing: coordinator.FastTiming(),
	})
	if err != nil {
		cancel()
		return errors.Join(fmt.Errorf("coordinator %s: %w", n.id, err), closeLog())
	}
	n.running, n.stop, n.done = running, cancel, make(chan struct{})
	f.group.Go(func() error {
		defer close(n.done)
		defer closeLog()
		if err := running.Run(ctx); err != nil && ctx.Err() == nil {
			f.note(fmt.Errorf("coordinator %s: %w", n.id, err))
		}
		return nil
	})
	return nil
}

// decisionLog is a node's log of decisions: in its directory, or nowhere for a node
// without one.
func (n *node) decisionLog(dir string) (coordinator.DecisionLog, func() error, error) {
	if dir != "" {
		d := coordinator.NewDecisions(dir, n.signer.Seed())
		return d, d.Close, nil
	}
	secret := consilium.DomainAuditMask.Digest(n.signer.Seed())
	a, err := policy.NewAudit(nowhere{}, secret[:], 0, consilium.Digest{})
	return a, func() error { return nil }, err
}

type nowhere struct{}

func (nowhere) Append([]byte) error { return nil }

func (f *Federation) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errs = append(f.errs, err)
	f.o.Log.Error("federation", "err", err)
}

// Leader waits for an elected leader.
func (f *Federation) Leader(ctx context.Context) (consilium.NodeID, error) {
	for {
		for _, c := range f.Roster.Coordinators {
			if n := f.nodes[c.ID]; n.running != nil && n.running.IsLeader() {
				return c.ID, nil
			}
		}
		select {
		case <-ctx.Done():
			return "", consilium.ErrUnavailable.Withf("no leader was elected: %w", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// KillNode stops a coordinator as a power cut would.
func (f *Federation) KillNode(id consilium.NodeID) error {
	n, ok := f.nodes[id]
	if !ok || n.running == nil {
		return fmt.Errorf("coordinator %s is not running", id)
	}
	n.running.Kill()
	n.stop()
	<-n.done
	n.running = nil
	return nil
}

// StartNode starts a killed coordinator again from its disk.
func (f *Federation) StartNode(id consilium.NodeID) error {
	n, ok := f.nodes[id]
	if !ok || n.running != nil {
		return fmt.Errorf("coordinator %s is running", id)
	}
	return f.startNode(n)
}

// Site finds a hospital.
func (f *Federation) Site(id consilium.SiteID) *Site { return f.sites[id] }

// Sites lists the hospitals in the order of Options.
func (f *Federation) Sites() []*Site {
	out := make([]*Site, len(f.order))
	for i, id := range f.order {
		out[i] = f.sites[id]
	}
	return out
}

// Witnesses is the policy under which everyone judges a hospital's ledger.
func (f *Federation) Witnesses() provenance.WitnessPolicy {
	return provenance.SingleWitness(f.vkey, f.url)
}

// SignedRoster is the roster with the board's signatures.
func (f *Federation) SignedRoster() *consilium.Signed { return f.signed }

// Approve lets the board's threshold approve a submitted study.
func (f *Federation) Approve(ctx context.Context, study consilium.StudyID) error {
	sub, err := client.Submitted(ctx, f.Board[0].Wire, f.Roster, study)
	if err != nil {
		return err
	}
	now := f.o.Now()
	payload, err := client.Approval(study, sub, now.Add(-time.Minute).Unix(), now.Add(90*24*time.Hour).Unix())
	if err != nil {
		return err
	}
	for _, m := range f.Board[:f.Roster.Board.Threshold] {
		if err := m.Approve(ctx, study, payload); err != nil {
			return fmt.Errorf("board member %s: %w", m.ID, err)
		}
	}
	return nil
}

// Close stops everything and waits for it.
func (f *Federation) Close() error {
	for _, s := range f.sites {
		s.Stop()
		s.closeLedger()
	}
	for _, n := range f.nodes {
		if n.running != nil {
			n.running.Kill()
		}
	}
	f.cancel()
	if f.witness != nil {
		f.witness.Close()
	}
	err := f.group.Wait()
	for _, c := range f.wires {
		err = errors.Join(err, c.Close())
	}
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(append(f.errs, err)...)
}
