//go:build unix

package main

import (
	"context"
	"crypto/tls"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"

	"consilium"
	"consilium/coordinator"
	"consilium/internal/canon"
	"consilium/internal/hybrid"
	"consilium/internal/wire"
	"consilium/provenance"
)

const (
	nodeCount  = 3
	boardCount = 2
)

// identity is a member's keys.
type identity struct {
	key  *hybrid.Key
	cert tls.Certificate
}

// cluster is three coordinator nodes, each a process with a directory of its
// own, and the keys of everybody who talks to them.
type cluster struct {
	dir     string
	plain   bool // the nodes are twins that add float32 in the open
	roster  *consilium.Roster
	payload []byte
	who     map[string]identity // "site/h001", "researcher/team", "board/ethics-1", "coordinator/c1"
	notes   map[consilium.NodeID]*provenance.NoteKey
	nodes   []*process
	wires   []*wire.Client
	dial    map[string]wire.Dialer // of members whose link is slow
}

// process is one node.
type process struct {
	id   consilium.NodeID
	cmd  *exec.Cmd          // nil in this process
	stop context.CancelFunc // in this process
	done chan error
}

// usage is what a node took.
type usage struct {
	cpu  time.Duration
	peak float64 // MiB, as the operating system saw it
}

// nodeConfig is what a node's process reads. Keys pass in a file, which a
// federation never does.
type nodeConfig struct {
	ID                 consilium.NodeID
	Roster, Seed       []byte
	Cert, Key          []byte
	Note, Dir, Profile string
}

func (c *cluster) identity(name string) (identity, consilium.Digest, error) {
	key, err := hybrid.Generate()
	if err != nil {
		return identity{}, consilium.Digest{}, err
	}
	cert, err := wire.NewCertificate(strings.ReplaceAll(name, "/", "-"), 24*time.Hour)
	if err != nil {
		return identity{}, consilium.Digest{}, err
	}
	pin, err := wire.CertificatePin(cert)
	c.who[name] = identity{key, cert}
	return c.who[name], pin, err
}

func siteID(i int) consilium.SiteID { return consilium.SiteID(fmt.Sprintf("h%03d", i)) }

// newCluster makes keys and a roster of some hospitals, and prepares the nodes'
// directories below dir.
func newCluster(dir string, sites int, plain bool) (*cluster, error) {
	c := &cluster{dir: dir, plain: plain, who: map[string]identity{}, notes: map[consilium.NodeID]*provenance.NoteKey{}, dial: map[string]wire.Dialer{}}
	now := time.Now()
	r := &consilium.Roster{APIVersion: consilium.APIVersion, Kind: "Roster", Name: "load", Version: 1,
		NotBefore: now.Add(-time.Hour).Unix(), NotAfter: now.Add(24 * time.Hour).Unix(), Board: consilium.Board{Name: "board", Threshold: boardCount}}
	for i := range boardCount {
		id := fmt.Sprintf("ethics-%d", i+1)
		who, pin, err := c.identity("board/" + id)
		if err != nil {
			return nil, err
		}
		r.Board.Members = append(r.Board.Members, consilium.BoardMember{ID: id, Key: who.key.Public(), TLS: []consilium.Digest{pin}})
	}
	for i := range sites {
		id := siteID(i + 1)
		who, pin, err := c.identity("site/" + string(id))
		if err != nil {
			return nil, err
		}
		r.Sites = append(r.Sites, consilium.Site{ID: id, Name: string(id), Operator: string(id), Country: "NL", Regimes: []string{}, Key: who.key.Public(), TLS: []consilium.Digest{pin}})
	}
	for i := range nodeCount {
		id := consilium.NodeID(fmt.Sprintf("c%d", i+1))
		who, pin, err := c.identity("coordinator/" + string(id))
		if err != nil {
			return nil, err
		}
		if c.notes[id], err = provenance.NewLogKey("consilium-audit/load"); err != nil {
			return nil, err
		}
		n := consilium.Coordinator{ID: id, Country: "NL", Key: who.key.Public(), TLS: []consilium.Digest{pin}, Ledger: c.notes[id].Verifier()}
		if n.Address, err = freePort(); err != nil {
			return nil, err
		}
		if n.Raft, err = freePort(); err != nil {
			return nil, err
		}
		r.Coordinators = append(r.Coordinators, n)
	}
	who, pin, err := c.identity("researcher/team")
	if err != nil {
		return nil, err
	}
	r.Researchers = append(r.Researchers, consilium.Researcher{ID: "team", Name: "team", Country: "NL", Key: who.key.Public(), Sealing: consilium.SealingKey{1}, TLS: []consilium.Digest{pin}})
	c.roster = r
	c.payload, err = canon.Marshal(r)
	return c, err
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// config is what a node needs, and its directory.
func (c *cluster) config(id consilium.NodeID) (nodeConfig, error) {
	who := c.who["coordinator/"+string(id)]
	cert, key, err := wire.EncodeCertificate(who.cert)
	if err != nil {
		return nodeConfig{}, err
	}
	dir := filepath.Join(c.dir, string(id))
	return nodeConfig{ID: id, Roster: c.payload, Seed: who.key.Seed(), Cert: cert, Key: key, Note: c.notes[id].Secret(), Dir: dir}, os.MkdirAll(dir, 0o700)
}

// start runs the nodes as processes of binary and waits for a leader.
func (c *cluster) start(ctx context.Context, binary, profile string) error {
	for _, n := range c.roster.Coordinators {
		cfg, err := c.config(n.ID)
		if err != nil {
			return err
		}
		if profile != "" {
			cfg.Profile = fmt.Sprintf("%s-%s", profile, n.ID)
		}
		path := filepath.Join(c.dir, string(n.ID)+".gob")
		if err := save(path, cfg); err != nil {
			return err
		}
		cmd := exec.Command(binary, "-node", path)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Start(); err != nil {
			return err
		}
		p := &process{id: n.ID, cmd: cmd, done: make(chan error, 1)}
		go func() { p.done <- cmd.Wait() }()
		c.nodes = append(c.nodes, p)
	}
	return c.led(ctx)
}

// startHere runs the nodes in this process, with the timing of
// internal/federation.
func (c *cluster) startHere(ctx context.Context) error {
	for _, r := range c.roster.Coordinators {
		cfg, err := c.config(r.ID)
		if err != nil {
			return err
		}
		n, err := cfg.open(ctx, coordinator.FastTiming())
		if err != nil {
			return err
		}
		running, stop := context.WithCancel(ctx)
		p := &process{id: r.ID, stop: stop, done: make(chan error, 1)}
		go func() { p.done <- n.Run(running) }()
		c.nodes = append(c.nodes, p)
	}
	return c.led(ctx)
}

// led makes the first call that only a leader answers.
func (c *cluster) led(ctx context.Context) error {
	team, err := c.client("researcher/team")
	if err != nil {
		return err
	}
	_, err = team.List(ctx)
	return err
}

func (c *cluster) book() (*wire.Book, error) { return wire.NewBook(c.payload) }

// client is a member's connection.
func (c *cluster) client(name string) (*wire.Client, error) {
	book, err := c.book()
	if err != nil {
		return nil, err
	}
	w := wire.NewClient(wire.ClientOptions{Certificate: c.who[name].cert, Book: book, Dial: c.dial[name]})
	c.wires = append(c.wires, w)
	return w, nil
}

// signed is a member's statement.
func (c *cluster) signed(name string, kind consilium.MessageKind, study consilium.StudyID, body []byte) (*consilium.Message, error) {
	sig, err := c.who[name].key.Sign(kind.Domain(), body)
	if err != nil {
		return nil, err
	}
	_, by, _ := strings.Cut(name, "/")
	if strings.HasPrefix(name, "board/") {
		by = name
	}
	return &consilium.Message{Kind: kind, Study: study, By: by, Body: body, Signature: sig}, nil
}

// stop ends the nodes and says what each took, the whole of its life.
func (c *cluster) stop() ([]usage, error) {
	var errs []error
	for _, w := range c.wires {
		errs = append(errs, w.Close())
	}
	c.wires = nil
	for _, p := range c.nodes {
		if p.cmd == nil {
			p.stop()
			continue
		}
		p.cmd.Process.Signal(syscall.SIGTERM)
	}
	var out []usage
	for _, p := range c.nodes {
		select {
		case err := <-p.done:
			if err != nil {
				errs = append(errs, fmt.Errorf("node %s: %w", p.id, err))
			}
		case <-time.After(time.Minute):
			if p.cmd == nil {
				return nil, fmt.Errorf("node %s did not stop", p.id)
			}
			p.cmd.Process.Kill()
			errs = append(errs, fmt.Errorf("node %s did not stop: %w", p.id, <-p.done))
		}
		if p.cmd == nil {
			continue
		}
		s := p.cmd.ProcessState
		out = append(out, usage{s.UserTime() + s.SystemTime(), peakMiB(s)})
	}
	c.nodes = nil
	return out, errors.Join(errs...)
}

// remove deletes what the nodes stored.
func (c *cluster) remove() error { return os.RemoveAll(c.dir) }

// runNode is a node's process: what the coordinator command runs, with an
// admission that is always granted.
func runNode(path string) error {
	var cfg nodeConfig
	if err := load(path, &cfg); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	n, err := cfg.open(ctx, coordinator.Timing{})
	if err != nil {
		return err
	}
	if cfg.Profile != "" {
		f, err := os.Create(cfg.Profile + ".cpu")
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		go watchHeap(ctx, cfg.Profile+".heap")
		defer func() {
			pprof.StopCPUProfile()
			if f, err := os.Create(cfg.Profile + ".mem"); err == nil {
				pprof.Lookup("allocs").WriteTo(f, 0)
				f.Close()
			}
		}()
	}
	return n.Run(ctx)
}

// open makes the node.
func (cfg *nodeConfig) open(ctx context.Context, timing coordinator.Timing) (*coordinator.Node, error) {
	book, err := wire.NewBook(cfg.Roster)
	if err != nil {
		return nil, err
	}
	key, err := hybrid.FromSeed(cfg.Seed)
	if err != nil {
		return nil, err
	}
	cert, err := wire.DecodeCertificate(cfg.Cert, cfg.Key)
	if err != nil {
		return nil, err
	}
	note, err := provenance.ParseNoteKey(cfg.Note)
	if err != nil {
		return nil, err
	}
	return coordinator.Open(ctx, coordinator.Config{
		ID: cfg.ID, Book: book, Certificate: cert, Signer: key, NoteKey: note, Dir: cfg.Dir, Timing: timing,
		Admission: func(context.Context, coordinator.AdmissionRequest) (bool, []byte, error) {
			return true, []byte("{}"), nil
		},
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: logLevel()})),
	})
}

// watchHeap keeps a profile of the heap near its largest.
func watchHeap(ctx context.Context, path string) {
	var most uint64
	var m runtime.MemStats
	for ctx.Err() == nil {
		time.Sleep(50 * time.Millisecond)
		runtime.ReadMemStats(&m)
		if m.HeapInuse <= most+most/8 || m.HeapInuse < 32<<20 {
			continue
		}
		most = m.HeapInuse
		if f, err := os.Create(path); err == nil {
			pprof.Lookup("heap").WriteTo(f, 0)
			f.Close()
		}
	}
}

func logLevel() slog.Level {
	if os.Getenv("CONSILIUM_LOAD_LOG") != "" {
		return slog.LevelDebug
	}
	return slog.LevelError
}

// build compiles this program, and its twin whose coordinator adds in the open.
func build(ctx context.Context, dir string, plain bool) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	out := filepath.Join(dir, "encrypted")
	args := []string{"build", "-o", out}
	if plain {
		out = filepath.Join(dir, "plain")
		source := filepath.Join(dir, "twin.go")
		if err := os.WriteFile(source, twin, 0o600); err != nil {
			return "", err
		}
		overlay, err := canon.Marshal(map[string]map[string]string{"Replace": {filepath.Join(root, "coordinator", "vectors.go"): source}})
		if err != nil {
			return "", err
		}
		list := filepath.Join(dir, "overlay.json")
		if err := os.WriteFile(list, overlay, 0o600); err != nil {
			return "", err
		}
		args = []string{"build", "-overlay", list, "-o", out}
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./benchmarks/load")...)
	cmd.Dir = root
	if b, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", filepath.Base(out), err, b)
	}
	return out, nil
}

func moduleRoot() (string, error) {
	b, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("the go command is needed: %w", err)
	}
	mod := strings.TrimSpace(string(b))
	if filepath.Base(mod) != "go.mod" {
		return "", errors.New("run this inside the module")
	}
	return filepath.Dir(mod), nil
}

func save(path string, v any) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(gob.NewEncoder(f).Encode(v), f.Close())
}

func load(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return gob.NewDecoder(f).Decode(v)
}

// slowLink is a dialer whose connections send at most rate bytes a second.
func slowLink(rate int) wire.Dialer {
	return func(ctx context.Context, address string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		// What the system would buffer has not crossed the link.
		if err := c.(*net.TCPConn).SetWriteBuffer(16 << 10); err != nil {
			return nil, err
		}
		return &slowConn{Conn: c, rate: rate}, nil
	}
}

type slowConn struct {
	net.Conn
	rate int
}

func (c *slowConn) Write(b []byte) (int, error) {
	sent := 0
	for sent < len(b) {
		n := min(len(b)-sent, max(c.rate/50, 1))
		time.Sleep(time.Duration(n) * time.Second / time.Duration(c.rate))
		k, err := c.Conn.Write(b[sent : sent+n])
		sent += k
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

var _ io.Writer = (*slowConn)(nil)
