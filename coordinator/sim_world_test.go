package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"

	"consilium"
	"consilium/internal/blob"
	"consilium/internal/canon"
	"consilium/internal/hybrid"
	"consilium/internal/memo"
	"consilium/internal/seal"
	"consilium/internal/wire"
	"consilium/provenance"
	"consilium/worker"
)

// sim is one whole federation in a bubble of its own time: three to five
// coordinator nodes and some hospitals, everything of production but the vaults,
// the Raft underneath and the gRPC between, which are seams. One goroutine, the
// scheduler's, decides what happens next; all others wait for it.
type sim struct {
	fed    *simFederation
	p      *program
	dir    string
	start  time.Time
	life   context.Context
	end    context.CancelFunc
	log    *simLog
	net    *simNet
	liar   *simLiar
	rng    *rand.Rand
	rounds int
	trace  func(string, ...any)
	traces bool // somebody reads what is traced

	nodes map[consilium.NodeID]*simNode
	sites map[consilium.SiteID]*simSite
	team  *simClient
	board []*simClient
	slots []consilium.SiteID // every hospital that may ever take part has its place in a vector
	plans []*simPlan         // what the team has in mind
	fresh *simPlan           // and what it asks last

	rosters []*simRoster // by version, from 1
	tasks   sync.WaitGroup

	applied map[uint64][]byte // committed commands by index, as the first node that applied them saw them
	last    string            // the last fault, for the table of coverage
	cover   *coverage
	steps   int
	looks   int

	mu      sync.Mutex // guards what follows
	err     error      // the first thing that must never happen
	acked   []*consilium.Message
	saids   map[string]consilium.Digest // what an honest hospital said in each slot
	sums    map[string][]consilium.SiteID
	history []porcupine.Operation
}

// simFederation is a first roster with everybody's keys, also of those whom later
// rosters may name. Sequences share it.
type simFederation struct {
	first *simRoster
	keys  map[string]*hybrid.Key
	notes map[consilium.NodeID]*provenance.NoteKey
	board map[string]consilium.PublicKey
}

var simFederations = struct {
	sync.Mutex
	of map[int]*simFederation
}{of: map[int]*simFederation{}}

// simNodes are the coordinators of every simulated federation's first roster.
var simNodes = []consilium.NodeID{"c1", "c2", "c3"}

// Machines that later rosters may name.
const (
	simMachines = 8 // coordinators in all
	simSpare    = 2 // and those that replace what is lost at the end
	simGuests   = 2 // hospitals that are not in the first roster
	simKeys     = 3 // identity keys that a hospital may have, one after another
)

func simNodeID(i int) consilium.NodeID { return consilium.NodeID(fmt.Sprintf("c%d", i)) }
func simSiteID(i int) consilium.SiteID { return consilium.SiteID(fmt.Sprintf("h%02d", i)) }

// siteKey names the i-th identity key of a hospital.
func siteKey(id consilium.SiteID, i int) string { return fmt.Sprintf("site/%s#%d", id, i) }

func simFederationOf(t testing.TB, sites int) *simFederation {
	simFederations.Lock()
	defer simFederations.Unlock()
	if f := simFederations.of[sites]; f != nil {
		return f
	}
	f := &simFederation{keys: map[string]*hybrid.Key{}, notes: map[consilium.NodeID]*provenance.NoteKey{}, board: map[string]consilium.PublicKey{}}
	key := func(name string) consilium.PublicKey {
		f.keys[name] = identityOf(t, name)
		return f.keys[name].Public()
	}
	r := &consilium.Roster{APIVersion: consilium.APIVersion, Kind: "Roster", Name: "simulation", Version: 1, NotBefore: 1, NotAfter: 4_000_000_000,
		Board: consilium.Board{Name: "board", Threshold: 2}}
	for i := 1; i <= 2; i++ {
		id := fmt.Sprintf("ethics-%d", i)
		r.Board.Members = append(r.Board.Members, consilium.BoardMember{ID: id, Key: key("board/" + id)})
		f.board[id] = f.keys["board/"+id].Public()
	}
	for i := 1; i <= sites+simGuests; i++ {
		for k := range simKeys {
			key(siteKey(simSiteID(i), k))
		}
		if i <= sites {
			r.Sites = append(r.Sites, f.site(simSiteID(i)))
		}
	}
	for i := 1; i <= simMachines+simSpare; i++ {
		id := simNodeID(i)
		note, err := provenance.NewLogKey("simulation/" + string(id))
		if err != nil {
			t.Fatal(err)
		}
		f.notes[id] = note
		key("coordinator/" + string(id))
		if slices.Contains(simNodes, id) {
			r.Coordinators = append(r.Coordinators, f.coordinator(id))
		}
	}
	sealing, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	r.Researchers = []consilium.Researcher{{ID: "team", Name: "team", Country: "NL", Key: key("researcher/team"), Sealing: sealing.Public()}}
	if f.first, err = f.sign(r); err != nil {
		t.Fatal(err)
	}
	simFederations.of[sites] = f
	return f
}

// simSigner signs what it has signed before with the same signature: what teams and
// boards say is the same in every sequence.
type simSigner struct{ *hybrid.Key }

// simSignatures are the signatures by key, domain and message: 14 MB in each of its
// two generations.
var simSignatures = memo.New[consilium.Digest, consilium.Signature](1 << 12)

// Sign implements consilium.Signer.
func (k simSigner) Sign(domain consilium.Domain, message []byte) (consilium.Signature, error) {
	public := k.Public()
	what := domain.Digest(public[:], message)
	if sig, ok := simSignatures.Get(what); ok {
		return sig, nil
	}
	sig, err := k.Key.Sign(domain, message)
	if err == nil {
		simSignatures.Put(what, sig)
	}
	return sig, err
}

// simNode is a coordinator's machine. What it runs may be dead.
type simNode struct {
	id      consilium.NodeID
	blobs   *simBlobs
	files   simFiles
	dir     string
	skew    time.Duration
	node    *Node // nil while dead
	group   *errgroup.Group
	disk    int       // how many directories it has had: each is another incarnation
	roster  int       // the version that is installed
	install time.Time // when its operator installs the next
	lost    bool      // its disk was lost as a member: it never votes again under this id
	left    bool      // the roster dropped it, and it has ended
}

func (m *simNode) incarnation() string { return fmt.Sprintf("sim%d", m.disk) }

// simSite is a hospital's machine.
type simSite struct {
	id       consilium.SiteID
	dir      string
	fs       *simFS
	skew     time.Duration
	declines bool
	dry      uint32 // has nothing to contribute from this round on, or 0
	hostile  bool
	roster   int       // the version that is installed; 0 if it was never provisioned
	install  time.Time // when its operator installs the next
	again    time.Time // when it is started again
	client   *simClient
	gate     *worker.Gate // nil while dead
	ctx      context.Context
	stop     context.CancelFunc
	done     chan error

	mu   sync.Mutex
	halt string // the crash point at which it dies
	dead bool   // it has
}

// simBlobs is a node's blob store, with errors on demand. What was stored
// survives the node.
type simBlobs struct {
	blob.Store
	mu   sync.Mutex
	fail diskFault
}

// simStore keeps blobs in memory, where bytes do not rot: a check is not worth
// hashing them again.
type simStore struct{ *blob.Memory }

func newSimStore() simStore { return simStore{blob.NewMemory()} }

// Check implements blob.Store.
func (s simStore) Check(_ context.Context, d consilium.Digest) error {
	if _, ok := s.Has(d); !ok {
		return consilium.ErrBlobMissing.Withf("%s", d.Short())
	}
	return nil
}

func (b *simBlobs) arm(fault diskFault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail = fault
}

func (b *simBlobs) take() diskFault {
	b.mu.Lock()
	defer b.mu.Unlock()
	fault := b.fail
	b.fail = diskFine
	return fault
}

func newSim(t testing.TB, p *program) *sim {
	s := &sim{fed: simFederationOf(t, p.Sites), p: p, nodes: map[consilium.NodeID]*simNode{}, sites: map[consilium.SiteID]*simSite{},
		rounds: min(max(p.Rounds, 1), simRounds), start: time.Now(), applied: map[uint64][]byte{}, saids: map[string]consilium.Digest{}, sums: map[string][]consilium.SiteID{},
		trace: func(string, ...any) {}, rng: rand.New(rand.NewPCG(p.Seed, 1)), last: "none"}
	s.rosters = []*simRoster{s.fed.first}
	var err error
	if s.dir, err = os.MkdirTemp(simDir(), "consilium-sim-"); err != nil {
		t.Fatal(err)
	}
	s.life, s.end = context.WithCancel(context.Background())
	s.net = newSimNet(s)
	s.liar = newSimLiar(s)
	s.log = &simLog{disks: map[consilium.NodeID]*simDisk{}, up: map[consilium.NodeID]*simRaft{}, cut: s.apart,
		bad: func(err error) { s.violate("%v", err) }}
	var servers []raft.Server
	for _, id := range simNodes {
		m := s.machine(id, 1)
		sid := serverID(id, m.incarnation())
		servers = append(servers, raft.Server{ID: sid, Address: raft.ServerAddress(sid), Suffrage: raft.Voter})
	}
	s.log.bootstrap(servers)
	for i := 1; i <= p.Sites+simGuests; i++ {
		s.slots = append(s.slots, simSiteID(i))
		if i <= p.Sites {
			s.hospital(simSiteID(i), 1)
		}
	}
	s.team = s.client(wire.Identity{Role: wire.RoleResearcher, Name: "team"}, "researcher/team")
	for _, m := range s.fed.first.parsed.Board.Members {
		s.board = append(s.board, s.client(wire.Identity{Role: wire.RoleBoard, Name: m.ID}, "board/"+m.ID))
	}
	return s
}

// simDir is where simulated disks are: in memory where the machine has such a
// place, since they wait for no disk anyway.
func simDir() string {
	const shm = "/dev/shm"
	if f, err := os.CreateTemp(shm, "consilium-"); err == nil {
		f.Close()
		os.Remove(f.Name())
		return shm
	}
	return os.TempDir()
}

func (s *sim) client(id wire.Identity, key string) *simClient {
	return &simClient{n: s.net, id: id, name: id.Name, key: simSigner{s.fed.keys[key]}, target: simNodes[0],
		nodes: func() []consilium.NodeID { return s.rosters[len(s.rosters)-1].nodes }}
}

// machine sets up a coordinator's machine.
func (s *sim) machine(id consilium.NodeID, version int) *simNode {
	m := &simNode{id: id, blobs: &simBlobs{Store: newSimStore()}, dir: filepath.Join(s.dir, string(id)), roster: version}
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	s.log.order = append(slices.Clone(s.log.order), id)
	s.log.disks[id] = &simDisk{}
	s.nodes[id] = m
	return m
}

// hospital sets up a hospital's machine.
func (s *sim) hospital(id consilium.SiteID, version int) *simSite {
	h := &simSite{id: id, dir: filepath.Join(s.dir, string(id)), fs: &simFS{}, roster: version,
		client: s.client(wire.Identity{Role: wire.RoleSite, Name: string(id)}, siteKey(id, 0))}
	h.client.nodes = func() []consilium.NodeID { return s.rosters[max(h.roster, 1)-1].nodes }
	s.sites[id] = h
	return h
}

func (s *sim) violate(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = fmt.Errorf(format, args...)
		s.trace("VIOLATION: %v", s.err)
	}
}

func (s *sim) violated() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// running is the node that runs at a machine now, or nil.
func (s *sim) running(id consilium.NodeID) *Node {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	return s.nodes[id].node
}

func (s *sim) setRunning(m *simNode, n *Node) {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	m.node = n
}

// startNode runs a coordinator from its disks, as Open and Run do.
func (s *sim) startNode(id consilium.NodeID) {
	m := s.nodes[id]
	if m.node != nil || m.left {
		return
	}
	roster := s.rosters[m.roster-1]
	if _, ok := roster.parsed.Coordinator(id); !ok {
		m.left = true // it would say so and end
		return
	}
	book, err := wire.NewBook(roster.signed.Payload)
	if err != nil {
		s.violate("roster of %s: %v", id, err)
		return
	}
	cfg := Config{ID: id, Book: book, Signer: s.fed.keys["coordinator/"+string(id)], NoteKey: s.fed.notes[id], Logger: slog.New(slog.DiscardHandler),
		MaxContribution: 1 << 20, MaxBlob: 1 << 20, Timing: Timing{Leaderless: simLeaderless},
		Now: func() time.Time { return time.Now().Add(m.skew) },
		Admission: func(_ context.Context, r AdmissionRequest) (bool, []byte, error) {
			return !s.plan(r.Study).refused, []byte(`{"study":"` + string(r.Study) + `"}`), nil
		}}
	n := newNode(cfg)
	n.incarnation = m.incarnation()
	n.self = serverID(id, n.incarnation)
	if n.events, err = openEvents(&m.files, m.dir+".events"); err != nil {
		s.violate("events of %s: %v", id, err)
		return
	}
	if n.audit, err = newAuditLog(n.events, AuditOrigin(roster.parsed), cfg.NoteKey, ""); err != nil {
		s.violate("audit log of %s: %v", id, err)
		return
	}
	n.assemble(m.blobs, simPeers{s.net, n})
	m.group = &errgroup.Group{}
	if s.log.empty(id) { // a new node, or one whose disk is new
		s.setRunning(m, n)
		m.group.Go(func() error { s.join(m, n); return nil })
		return
	}
	if err := s.log.start(id, n); err != nil {
		s.violate("%s does not start from its disk: %v", id, err)
		return
	}
	n.work(n.life, m.group)
	s.setRunning(m, n)
}

// join is what a node with an empty directory does: it asks the others who they
// are, as production does, and waits to be added.
func (s *sim) join(m *simNode, n *Node) {
	first, _, err := n.meet(n.life)
	switch {
	case n.life.Err() != nil:
	case err != nil:
		n.end(err) // tend judges it
	case first != nil:
		s.violate("%s forms a cluster of its own beside the one that there is", m.id)
	default:
		if err := s.log.start(m.id, n); err != nil {
			s.violate("%s does not start from its disk: %v", m.id, err)
			return
		}
		n.spawn(n.awaitJoined)
		n.work(n.life, m.group)
	}
}

// simLeaderless is longer than in production: time passes in days here, and every
// look costs.
const simLeaderless = 2 * time.Minute

// killNode is a power cut. The end of the event file, which is not synced, may
// be gone.
func (s *sim) killNode(id consilium.NodeID, tear int) {
	m := s.nodes[id]
	n := m.node
	if n == nil {
		return
	}
	s.setRunning(m, nil)
	n.end(errKilled)
	n.die()
	s.log.crash(id)
	m.group.Wait()
	n.wg.Wait()
	if cause := context.Cause(n.halt); !errors.Is(cause, errKilled) && !m.ends(cause) {
		s.violate("%s stopped by itself: %v", id, cause)
	}
	n.events.close()
	m.files.tear(m.dir+".events", tear)
}

// startSite runs a hospital's gate from its disk.
func (s *sim) startSite(id consilium.SiteID) {
	h := s.sites[id]
	if h.gate != nil || h.roster == 0 {
		return
	}
	roster := s.rosters[h.roster-1]
	ctx, stop := context.WithCancel(s.life)
	key := s.fed.keys[roster.keys[id]]
	if key == nil {
		stop()
		return // the roster does not name it
	}
	h.client.key = key
	secret := dig("secret", id)
	h.ctx, h.stop, h.done, h.dead = ctx, stop, make(chan error, 1), false
	gate, err := worker.Open(worker.Config{
		Site: id, Dir: h.dir, Signer: key, Secret: secret[:], Roster: roster.signed, BoardKeys: s.fed.board, Threshold: 2,
		Coordinator: h.client, Vault: newSimVault(s, h), Ledger: simLedger{}, FS: h.fs, Log: s.gateLog(id),
		Now: func() time.Time { return time.Now().Add(h.skew) }, Crash: h.crash,
	})
	if err != nil {
		stop()
		s.trace("%s does not start: %v", id, err)
		return // its disk failed once more: somebody starts it again
	}
	h.gate = gate
	done := h.done
	go func() { done <- gate.Run(ctx) }()
	time.Sleep(time.Microsecond) // see step
}

// crash is the gate's hook: it stops where it stands.
func (h *simSite) crash(point string) {
	h.mu.Lock()
	if h.halt != point {
		h.mu.Unlock()
		return
	}
	h.halt, h.dead = "", true
	h.mu.Unlock()
	<-h.ctx.Done()
	runtime.Goexit()
}

func (s *sim) killSite(id consilium.SiteID) {
	h := s.sites[id]
	if h.gate == nil {
		return
	}
	h.stop()
	<-h.done
	h.gate.Close()
	h.gate = nil
}

// simRestart is how long a gate that ended stays down.
const simRestart = 2 * time.Second

// tend is what operators do: a gate that ended by itself is started again, the
// roster that the board has published is installed.
func (s *sim) tend() {
	now := time.Now()
	for _, id := range s.log.order {
		s.tendNode(s.nodes[id], now)
	}
	for _, id := range sortedSiteIDs(s.sites) {
		h := s.sites[id]
		if h.roster < len(s.rosters) && !now.Before(h.install) {
			runs := h.gate != nil
			s.killSite(id)
			h.roster = len(s.rosters)
			if runs {
				s.startSite(id)
			}
		}
		if h.gate == nil {
			if !h.again.IsZero() && !now.Before(h.again) {
				h.again = time.Time{}
				s.startSite(id)
			}
			continue
		}
		select {
		case err := <-h.done:
			s.trace("%s ended: %v", id, err)
			h.done <- err
			s.killSite(id)
			h.again = now.Add(simRestart)
		default:
		}
	}
}

func sortedSiteIDs(m map[consilium.SiteID]*simSite) []consilium.SiteID {
	out := make([]consilium.SiteID, 0, len(m))
	for id := range m {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// siteAt is the i-th hospital.
func (s *sim) siteAt(i int) *simSite {
	ids := sortedSiteIDs(s.sites)
	return s.sites[ids[i%len(ids)]]
}

// simPlan is a study that the team may submit.
type simPlan struct {
	label   string
	id      consilium.StudyID
	token   string
	exact   bool
	refused bool
	body    []byte
	spec    []byte
	policy  consilium.Digest
}

func (s *sim) plan(id consilium.StudyID) *simPlan {
	for _, p := range append(slices.Clone(s.plans), s.fresh) {
		if p.id == id {
			return p
		}
	}
	return &simPlan{label: "?", id: id, exact: true}
}

func (s *sim) isExact(id consilium.StudyID) bool { return s.plan(id).exact }
func (s *sim) short(id consilium.StudyID) string { return s.plan(id).label }

// prepare makes the submissions that the program may use: two contents under
// each of two tokens.
func (s *sim) prepare(t testing.TB, p *program) {
	for i := range 5 {
		o := options{min: 3, missing: []string{"wait", "abort", "continue"}[p.Missing%3], learned: p.Missing%3 == 2}
		faults := 0 // what follows from the numbers: one
		if p.Second > 0 {
			o.min, faults = 4, 2
		}
		plan := &simPlan{label: fmt.Sprintf("s%d", i+1), token: fmt.Sprintf("token-%d", i/2), exact: !o.learned, policy: dig("policy")}
		spec := &consilium.Spec{
			APIVersion: consilium.APIVersion, Kind: "Study", Name: fmt.Sprintf("study-%d", i), Question: "Does it help?",
			Data: consilium.DataRef{Dataset: fmt.Sprintf("data-%d", i), Patient: "id"}, Sites: consilium.SiteRule{Min: o.min, Missing: o.missing, Faults: faults},
			Columns: []consilium.Column{{Name: "id", Type: consilium.TypeID}}, Legal: []byte("{}"),
			Analyses: []consilium.AnalysisSpec{{Name: "main", Type: map[bool]string{true: consilium.AnalysisTrain, false: consilium.AnalysisCox}[o.learned]}},
			Privacy:  consilium.Privacy{MinCohort: 11}, Rounds: consilium.Rounds{Max: 5, Tolerance: 1e-9, Deadline: 120},
		}
		plan.spec = mustCanon(t, spec)
		plan.body = mustCanon(t, &consilium.Submission{APIVersion: consilium.APIVersion, Kind: "Submission", Team: "team", Token: plan.token,
			SpecBytes: plan.spec, Policy: plan.policy, NotAfter: s.start.Unix() + 30*24*3600})
		plan.id = consilium.NewStudyID(consilium.DomainSubmission.Digest(plan.body))
		if s.fresh = plan; i < 4 {
			s.plans = append(s.plans, plan)
		}
	}
}

// task runs something of the team's or the board's beside the scheduler.
func (s *sim) task(limit time.Duration, f func(context.Context)) {
	s.tasks.Add(1)
	go func() {
		defer s.tasks.Done()
		ctx, cancel := context.WithTimeout(s.life, limit)
		defer cancel()
		f(ctx)
	}()
}

func (s *sim) sign(c *simClient, kind consilium.MessageKind, study consilium.StudyID, body []byte) *consilium.Message {
	sig, err := c.key.Sign(kind.Domain(), body)
	if err != nil {
		panic(err)
	}
	return &consilium.Message{Kind: kind, Study: study, By: c.id.By(), Body: body, Signature: sig}
}

// submit posts a study; the board approves it once it is there. then is called as
// soon as the team knows that it is.
func (s *sim) submit(p *simPlan, then ...func()) {
	s.task(5*time.Minute, func(ctx context.Context) {
		err := s.record(simInput{token: p.token, study: p.label, op: opSubmit}, func() (simOutput, error) {
			return simOutput{}, s.team.Post(ctx, s.sign(s.team, consilium.KindSubmission, p.id, p.body))
		})
		if err != nil {
			s.trace("submission of %s: %v", p.label, err)
			return
		}
		for _, f := range then {
			f()
		}
		body, err := canon.Marshal(&consilium.Approval{APIVersion: consilium.APIVersion, Kind: "Approval", Study: p.id, Spec: consilium.SpecDigest(p.spec),
			Policy: p.policy, NotBefore: 1, NotAfter: 4_000_000_000})
		if err != nil {
			panic(err)
		}
		for _, b := range s.board {
			if err := b.Post(ctx, s.sign(b, consilium.KindApproval, p.id, body)); err != nil {
				s.trace("approval of %s by %s: %v", p.label, b.name, err)
			}
		}
	})
}

// treason reports whether some hospital is hostile, or a node lies.
func (s *sim) treason() bool { return len(s.p.hostile()) > 0 || s.p.Liar > 0 }

// acknowledged remembers what a member was told is recorded.
func (s *sim) acknowledged(m *consilium.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked = append(s.acked, m)
}

// said holds an honest hospital to one statement in each slot.
func (s *sim) said(site string, m *consilium.Message) {
	h := s.sites[consilium.SiteID(site)]
	if h == nil || h.hostile {
		return
	}
	slot := fmt.Sprintf("%s %s %s %s", site, s.short(m.Study), m.Kind, slotOf(m))
	d := statement(m)
	s.mu.Lock()
	have, ok := s.saids[slot]
	s.saids[slot] = d
	s.mu.Unlock()
	if ok && have != d && m.Kind != consilium.KindAck {
		s.violate("%s says two things", slot)
	}
}

// slotOf is the round and attempt that a statement is about, and about whom.
func slotOf(m *consilium.Message) string {
	at := func(a consilium.At, more ...any) string {
		return fmt.Sprint(a.Charter.Short(), " ", a.Round, "/", a.Attempt, " ", more)
	}
	switch m.Kind {
	case consilium.KindEnrol:
		if v, err := consilium.ParseEnrol(m.Body); err == nil {
			if !v.Previous.IsZero() { // once for every time that it is asked, which is not in the message
				return v.Nonce.Short()
			}
			return v.Previous.Short()
		}
	case consilium.KindReveal:
		if v, err := consilium.ParseReveal(m.Body); err == nil {
			return v.Draft.Short()
		}
	case consilium.KindCharter:
		if v, err := consilium.ParseCharter(m.Body); err == nil {
			return fmt.Sprint("epoch ", v.Epoch)
		}
	case consilium.KindRelease:
		if v, err := consilium.ParseRelease(m.Body); err == nil {
			return at(v.At)
		}
	case consilium.KindPublish:
		if v, err := consilium.ParsePublish(m.Body); err == nil {
			return at(v.At)
		}
	case consilium.KindHeader:
		if v, err := consilium.ParseHeader(m.Body); err == nil {
			return at(v.At)
		}
	case consilium.KindVote:
		if v, err := consilium.ParseVote(m.Body); err == nil {
			return at(v.At)
		}
	case consilium.KindOpening:
		if v, err := consilium.ParseOpening(m.Body); err == nil {
			return at(v.At)
		}
	case consilium.KindStateVote:
		if v, err := consilium.ParseStateVote(m.Body); err == nil {
			return at(v.At)
		}
	case consilium.KindRenounce:
		if v, err := consilium.ParseRenounce(m.Body); err == nil {
			return at(v.At)
		}
	case consilium.KindSealedState:
		if v, err := consilium.ParseSealedState(m.Body); err == nil {
			return at(v.At)
		}
	case consilium.KindSuspect:
		if v, err := consilium.ParseSuspect(m.Body); err == nil {
			return at(v.At)
		}
	case consilium.KindShow:
		if v, err := consilium.ParseShow(m.Body); err == nil {
			return at(v.At)
		}
	case consilium.KindDepart:
		if v, err := consilium.ParseDepart(m.Body); err == nil {
			return fmt.Sprint(v.Charter)
		}
	case consilium.KindComplaint:
		if v, err := consilium.ParseComplaint(m.Body); err == nil {
			return at(v.At, v.Header)
		}
	case consilium.KindAnswer:
		if v, err := consilium.ParseAnswer(m.Body); err == nil {
			return at(v.At, v.To)
		}
	}
	return ""
}

// opened notes a sum that a hospital opened. All sums of a round are over one
// set, and all rounds of an exact study.
func (s *sim) opened(study consilium.StudyID, round uint32, sites []consilium.SiteID, exact bool) {
	keys := []string{fmt.Sprint(study, "/", round)}
	if exact {
		keys = append(keys, string(study))
	}
	for _, key := range keys {
		s.mu.Lock()
		have, ok := s.sums[key]
		s.sums[key] = sites
		s.mu.Unlock()
		if ok && !slices.Equal(have, sites) {
			s.violate("two sums are opened in round %d of %s: over %v and over %v", round, s.short(study), have, sites)
		}
	}
}

// repeated compares the two answers to one request that came twice: both are
// the same refusal or the same success, unless the world moved on in between.
func (s *sim) repeated(what string, first, second error) {
	if first == nil && second != nil && strings.HasPrefix(what, "upload") && errors.Is(second, consilium.ErrConflictingContribution) {
		s.violate("%s: a repeated contribution conflicts with itself", what)
	}
}

// step lets one thing happen. It reports false when nothing can.
func (s *sim) step() bool {
	synctest.Wait()
	s.net.tick(false)
	s.tend()
	synctest.Wait()
	s.watchLog()
	calls, rounds := s.net.ready(), s.log.steps()
	if len(calls)+len(rounds) == 0 {
		return false
	}
	s.steps++
	i := s.rng.IntN(len(calls) + len(rounds))
	if i < len(calls) {
		s.trace("%s", calls[i].key)
		s.observe(calls[i])
		s.net.release(calls[i])
	} else {
		r := rounds[i-len(calls)]
		lost := s.lossy(string(r[0]))
		s.trace("raft %s -> %s (answer lost: %v)", r[0], r[1], lost)
		s.log.replicate(r[0], r[1], lost)
	}
	// No two things happen at one instant: so no two hospitals wake at one, and
	// who draws which random numbers follows from the program too.
	time.Sleep(time.Microsecond)
	if s.steps%4 == 0 {
		time.Sleep(time.Millisecond)
	}
	return true
}

// lossy takes one lost answer from a node's faults.
func (s *sim) lossy(who string) bool {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	if f := s.net.faults[who]; f != nil && f.lose > 0 {
		f.lose--
		return true
	}
	return false
}

// run lets n things happen. Where nothing can, time passes until something
// can, but no more than patience in all.
func (s *sim) run(n int, patience time.Duration) {
	// Others wake at the instant at which the scheduler does. What it looks at, here
	// and when it returns, must not change meanwhile, or it follows from the load of
	// the machine.
	defer synctest.Wait()
	wait := 5 * time.Millisecond
	for i := 0; i < n && s.violated() == nil; i++ {
		synctest.Wait()
		if s.log.lapse(s.rng) || s.step() {
			wait = 5 * time.Millisecond
			continue
		}
		if patience -= wait; patience < 0 {
			return
		}
		time.Sleep(wait)
		wait = min(2*wait, 10*time.Minute)
	}
}

// watchLog compares what the nodes have: the same commands at the same index.
func (s *sim) watchLog() {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	for _, id := range s.log.order {
		r := s.log.up[id]
		if r == nil {
			continue
		}
		for i := max(r.disk.base, r.watched) + 1; i <= r.applied; i++ {
			e := r.disk.log[i-r.disk.base-1]
			if e.kind != raft.LogCommand {
				continue
			}
			if have, ok := s.applied[i]; !ok {
				s.applied[i] = e.data
			} else if !bytes.Equal(have, e.data) {
				s.violate("two commands are committed at index %d", i)
			}
		}
		r.watched = r.applied
		if cause := context.Cause(r.node.halt); cause != nil && !s.nodes[id].ends(cause) {
			s.violate("%s stopped by itself: %v", id, cause)
		}
	}
}

// ahead is the node that has applied most, which must not be changing.
func (s *sim) ahead() *simRaft {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	var best *simRaft
	for _, id := range s.log.order {
		if r := s.log.up[id]; r != nil && (best == nil || r.applied > best.applied) {
			best = r
		}
	}
	return best
}

// stored checks that every blob that the state names is whole on a majority
// of the disks, dead nodes' too.
func (s *sim) stored() {
	synctest.Wait()
	s.watchLog()
	r := s.ahead()
	if r == nil {
		return
	}
	// A node that was left behind still names what the others have collected.
	if known := sortedKeys(s.applied); len(known) == 0 || r.applied < known[len(known)-1] {
		return
	}
	var live []BlobRef
	r.node.fsm.read(func(st *State) { live = st.LiveBlobs() })
	if s.looks++; s.looks%3 == 0 {
		s.remembered(r.node)
	}
	// As many copies as outlive the loss of a minority; a disk that was lost has
	// counted among those already.
	s.log.mu.Lock()
	conf, _ := r.disk.conf()
	s.log.mu.Unlock()
	voters, lost := 0, 0
	for _, server := range conf {
		if server.Suffrage == raft.Voter {
			voters++
			if !s.holdsDisk(server.ID) {
				lost++
			}
		}
	}
	for _, ref := range live {
		n := 0
		for _, server := range conf {
			if server.Suffrage != raft.Voter || !s.holdsDisk(server.ID) {
				continue
			}
			if size, ok := s.nodes[nodeOf(server.ID)].blobs.Has(ref.Digest); ok && uint64(size) == ref.Size {
				n++
			}
		}
		if need := (voters-1)/2 + 1 - lost; n < need {
			s.violate("a blob of %d bytes that the log names is on %d of %d disks, %d of them lost", ref.Size, n, voters, lost)
		}
	}
}

// remembered checks that a node that comes by a snapshot now knows what the
// others know: where each study stands, and what its leader owes.
func (s *sim) remembered(n *Node) {
	n.fsm.mu.Lock() // the encoder stores what it reads
	defer n.fsm.mu.Unlock()
	have := n.fsm.state
	again, err := Restore(have.Snapshot())
	if err != nil {
		s.violate("a snapshot is not restored: %v", err)
		return
	}
	if !reflect.DeepEqual(again.Studies(), have.Studies()) || !reflect.DeepEqual(again.Pending(), have.Pending()) {
		s.violate("a snapshot forgets something: %+v, owed %v; the node had %+v, owed %v", again.Studies(), again.Pending(), have.Studies(), have.Pending())
	}
}

// heal ends every fault: all run, all reach each other, clocks are right.
func (s *sim) heal() {
	s.liar.arm(0, 0)
	s.net.mu.Lock()
	clear(s.net.cuts)
	clear(s.net.faults)
	s.net.mu.Unlock()
	s.replaceLost()
	for _, id := range s.log.order {
		m := s.nodes[id]
		m.skew = 0
		m.install = time.Time{}
		m.blobs.arm(diskFine)
		s.log.mu.Lock()
		s.log.disks[id].fail = diskFine
		s.log.mu.Unlock()
		s.startNode(id)
	}
	for _, id := range sortedSiteIDs(s.sites) {
		h := s.sites[id]
		h.skew = 0
		h.install = time.Time{}
		h.fs.arm(fileFine)
		h.mu.Lock()
		dead := h.dead
		h.halt = ""
		h.mu.Unlock()
		if dead || s.p.Liar > 0 { // what it was told it reads again
			s.killSite(id)
		}
		s.startSite(id)
	}
}

// live reports whether a study has not ended.
func (s *sim) alive() bool {
	r := s.ahead()
	n := 0
	r.node.fsm.read(func(st *State) { n = len(st.live()) })
	return n > 0
}

// cancel ends a study for its team. then is called if it has.
func (s *sim) cancel(p *simPlan, limit time.Duration, then ...func()) {
	s.task(limit, func(ctx context.Context) {
		err := s.team.Post(ctx, s.sign(s.team, consilium.KindCancel, p.id, (&consilium.Cancel{Study: p.id, Reason: "superseded"}).Encode()))
		for _, f := range then {
			if err == nil {
				f()
			}
		}
	})
}

// simReform is how long the cluster may take for what the roster says once all
// machines run.
const simReform = 15 * time.Minute

// finish heals everything, lets every study end, and looks at what is left.
func (s *sim) finish(p *program) {
	s.last = "none"
	cancel := p.Cancel
	ends := p.gentle() && !cancel && time.Since(s.start) < time.Minute
	s.heal()
	for _, plan := range s.plans {
		if cancel {
			s.cancel(plan, time.Hour)
		}
	}
	for healed := time.Now(); !s.reformed() && s.violated() == nil; {
		s.run(100, time.Minute)
		if time.Since(healed) > simReform {
			s.violate("long after everything was healed the cluster is not what roster version %d says", len(s.rosters))
		}
	}
	limit := 200
	for s.violated() == nil {
		s.run(100, 100*time.Hour)
		synctest.Wait()
		if limit--; limit == 0 {
			s.violate("after everything was healed a study does not end: %s", s.standing())
			return
		}
		if len(s.log.leaders()) == 1 && !s.alive() && s.reformed() {
			break
		}
	}
	s.settle()
	if s.violated() != nil {
		return
	}
	s.compare()
	if ends {
		s.done()
	}
	s.keptPromises()
	s.linearizable()
	if p.Afresh && len(s.rosters) > 1 && s.violated() == nil && !s.treason() {
		s.afresh()
	}
}

// settle lets all nodes apply all.
func (s *sim) settle() {
	for range 400 {
		s.run(25, time.Minute)
		synctest.Wait()
		nodes := s.members()
		s.log.mu.Lock()
		same := true
		for _, id := range nodes {
			r, first := s.log.up[id], s.log.up[nodes[0]]
			same = same && r != nil && first != nil && r.applied == first.applied && r.commit == r.applied && r.disk.last() == r.applied
		}
		s.log.mu.Unlock()
		if same && s.quiet() || s.violated() != nil {
			return
		}
	}
	s.violate("the nodes do not come to agree after everything was healed: %s", s.standing())
}

// quiet reports whether nobody waits for anything but the next event.
func (s *sim) quiet() bool { return len(s.net.ready()) == 0 && len(s.log.steps()) == 0 }

// done wants every study to have its result: nothing that went wrong was worse
// than machines that fail and come back in time.
func (s *sim) done() {
	s.nodes[s.members()[0]].node.fsm.read(func(st *State) {
		for _, i := range st.Studies() {
			if i.Phase != consilium.PhaseDone {
				s.violate("study %s is %s (%s), though nothing happened that should end it", s.short(i.ID), i.Phase, i.Reason)
			}
		}
	})
}

func (s *sim) standing() string {
	r := s.ahead()
	if r == nil {
		return "no node runs"
	}
	var out []string
	r.node.fsm.read(func(st *State) {
		for _, i := range st.Studies() {
			out = append(out, fmt.Sprintf("%s %s round %d/%d %s", s.short(i.ID), i.Phase, i.Round, i.Attempt, i.Reason))
		}
	})
	return strings.Join(out, "; ")
}

// compare holds the nodes against each other: the same state, the same events,
// the same tree, and the same again from the committed log.
func (s *sim) compare() {
	var state []byte
	var events []consilium.Event
	nodes := s.members()
	for _, id := range nodes {
		n := s.nodes[id].node
		var b []byte
		var root consilium.Digest
		n.fsm.read(func(st *State) { b, root = st.Snapshot(), st.Root() })
		size, _ := n.events.len()
		var own []consilium.Event
		var edge []consilium.Digest
		for seq := range size {
			leaf, err := n.events.read(seq)
			if err != nil {
				s.violate("%s: event %d: %v", id, seq, err)
				return
			}
			edge = appendLeaf(edge, seq, leaf)
			ev, err := consilium.ParseEvent(leaf)
			if err != nil {
				s.violate("%s: event %d: %v", id, seq, err)
				return
			}
			own = append(own, *ev)
		}
		if again := (&State{edge: edge}).Root(); again != root {
			s.violate("%s: the recorded events have another root than the state", id)
		}
		if events == nil {
			events = own
		} else if i := firstDifference(events, own); i >= 0 {
			s.violate("%s and %s differ in event %d of %d and %d", nodes[0], id, i, len(events), len(own))
			if i < min(len(events), len(own)) {
				s.trace("%+v\n%+v", events[i], own[i])
			}
			return
		}
		if state == nil {
			state = b
		} else if !bytes.Equal(state, b) {
			s.violate("%s and %s have different states after the same log", nodes[0], id)
			return
		}
	}
	if err := faithful(events); err != nil {
		s.violate("%v", err)
	}
	again := NewState()
	for _, i := range sortedKeys(s.applied) {
		cmd, err := DecodeCommand(s.applied[i])
		if err != nil {
			s.violate("command %d: %v", i, err)
			return
		}
		again.Apply(i, cmd)
	}
	if !bytes.Equal(again.Snapshot(), state) {
		s.violate("the log, replayed, gives another state")
	}
}

// firstDifference is the number of the first event that two lists do not have
// in common, or -1.
func firstDifference(a, b []consilium.Event) int {
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || !bytes.Equal(a[i].Encode(), b[i].Encode()) {
			return i
		}
	}
	return -1
}

// keptPromises checks that what was acknowledged is recorded.
func (s *sim) keptPromises() {
	recorded := map[consilium.Digest]bool{}
	n := s.nodes[s.members()[0]].node
	size, _ := n.events.len()
	for seq := range size {
		ev, err := n.events.event(seq)
		if err != nil {
			s.violate("event %d: %v", seq, err)
			return
		}
		if ev.Kind != consilium.EventMessage {
			continue
		}
		if m, err := consilium.ParseMessage(ev.Body); err == nil {
			recorded[statement(m)] = true
		}
	}
	for _, m := range s.acked {
		if m.Kind == consilium.KindAck || m.Kind == consilium.KindRenounce {
			continue // one that adds nothing is accepted without a record
		}
		if !recorded[statement(m)] {
			s.violate("%s of %s in %s was acknowledged and is lost", m.Kind, m.By, s.short(m.Study))
		}
	}
}

// close ends everything.
func (s *sim) close() {
	s.end()
	for _, id := range sortedSiteIDs(s.sites) {
		s.killSite(id)
	}
	for _, id := range s.log.order {
		s.killNode(id, 0)
	}
	s.tasks.Wait()
	os.RemoveAll(s.dir)
}

// gateLog is where a gate logs: into the trace.
func (s *sim) gateLog(id consilium.SiteID) *slog.Logger {
	return slog.New(&traceHandler{s: s, id: string(id)})
}

type traceHandler struct {
	s  *sim
	id string
}

func (h *traceHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h *traceHandler) Handle(_ context.Context, r slog.Record) error {
	leaves, unseen := r.Message == simLeaves, slices.Contains(simUnseen, r.Message)
	if !leaves && !unseen && !h.s.traces {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", h.id, r.Message)
	r.Attrs(func(a slog.Attr) bool { fmt.Fprintf(&b, " %s=%v", a.Key, a.Value); return true })
	h.s.trace("log %s", b.String())
	switch {
	case leaves && !h.s.sites[consilium.SiteID(h.id)].hostile && !h.s.mayLeave(consilium.SiteID(h.id), b.String()):
		h.s.violate("%s", b.String())
	case unseen && !h.s.treason():
		h.s.violate("%s", b.String())
	}
	return nil
}

// simLeaves is what a gate says when it gives a study up: an honest hospital does
// for no fault of machines or others.
const simLeaves = "this hospital takes no further part in the study"

// simUnseen is what nobody ever says where all are honest.
var simUnseen = []string{"the coordinator's sum is false", "this hospital's state is not the certified one", "a false opening share was left out", "aggregate rejected"}

func (h *traceHandler) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h *traceHandler) WithGroup(string) slog.Handler      { return h }

// Put implements blob.Store.
func (b *simBlobs) Put(ctx context.Context, r io.Reader, limit int64) (consilium.Digest, int64, error) {
	fault := b.take()
	if fault == diskLost {
		return consilium.Digest{}, 0, errSimDisk
	}
	d, n, err := b.Store.Put(ctx, r, limit)
	if fault == diskKept {
		return consilium.Digest{}, 0, errSimDisk
	}
	return d, n, err
}

// PutExpect implements blob.Store.
func (b *simBlobs) PutExpect(ctx context.Context, want consilium.Digest, size int64, r io.Reader) error {
	fault := b.take()
	if fault == diskLost {
		return errSimDisk
	}
	err := b.Store.PutExpect(ctx, want, size, r)
	if fault == diskKept {
		return errSimDisk
	}
	return err
}
