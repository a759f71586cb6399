package federation

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"

	"consilium"
	"consilium/internal/hybrid"
	"consilium/internal/wire"
	"consilium/policy"
	"consilium/provenance"
	"consilium/worker"
	"consilium/worker/vault"
)

// SiteOptions describe one hospital.
type SiteOptions struct {
	ID       consilium.SiteID
	Name     string
	Operator string
	Country  string
	Facts    *policy.SiteFacts
	Register func(patient string) vault.Register
	Datasets []vault.Dataset // Path is filled in from CSV where that is set
	CSV      map[string][]byte
	Budget   *vault.Budget // nil for the vault's default
	// Consent makes the consent of one patient, or nil for none.
	Consent func(site consilium.SiteID, patient string) *provenance.Consent

	ledgerKey *provenance.NoteKey
}

// Site is one hospital of the federation.
type Site struct {
	o     SiteOptions
	f     *Federation
	entry consilium.Site
	cert  tls.Certificate
	key   *hybrid.Key
	kek   *provenance.KEK
	alias []byte // key of the pseudonyms
	dir   string

	ledger   *provenance.Ledger
	patients map[string]*patient // by the hospital's own patient number

	mu    sync.Mutex // guards the rest
	gate  *worker.Gate
	vault *vault.Vault
	wire  *wire.Client
	stop  context.CancelFunc
	done  chan struct{}

	running  atomic.Pointer[context.Context]
	crashing sync.Mutex    // guards what follows
	halt     string        // crash point at which the gate is to die
	dead     chan struct{} // closed when it has
}

type patient struct {
	key     *hybrid.Key
	name    provenance.Pseudonym
	consent consilium.Digest
}

// ID is the hospital's id.
func (s *Site) ID() consilium.SiteID { return s.o.ID }

// Dir is where the hospital's files are.
func (s *Site) Dir() string { return s.dir }

// Ledger is the hospital's own transparency log.
func (s *Site) Ledger() *provenance.Ledger { return s.ledger }

// Gate is the running gate, or nil.
func (s *Site) Gate() *worker.Gate {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gate
}

func (f *Federation) newSite(o SiteOptions) (*Site, error) {
	s := &Site{o: o, f: f, dir: filepath.Join(f.o.Dir, "sites", string(o.ID)), patients: map[string]*patient{}}
	var pin consilium.Digest
	var err error
	if s.key, s.cert, pin, err = identity(string(o.ID)); err != nil {
		return nil, err
	}
	s.kek = provenance.GenerateKEK()
	s.alias = make([]byte, 32)
	if _, err := rand.Read(s.alias); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	for i := range s.o.Datasets {
		d := &s.o.Datasets[i]
		if b, ok := o.CSV[d.Name]; ok {
			d.Path = filepath.Join(s.dir, d.Name+".csv")
			if err := os.WriteFile(d.Path, b, 0o600); err != nil {
				return nil, err
			}
		}
		if d.Stream.IsZero() {
			d.Stream = provenance.NewID()
		}
	}
	s.entry = consilium.Site{
		ID: o.ID, Name: o.Name, Operator: o.Operator, Country: o.Country, Regimes: o.Facts.Regimes,
		Key: s.key.Public(), TLS: []consilium.Digest{pin}, Ledger: o.ledgerKey.Verifier(),
	}
	return s, nil
}

// boardKeys are the keys that a hospital pins when it is provisioned.
func (f *Federation) boardKeys() map[string]consilium.PublicKey {
	out := map[string]consilium.PublicKey{}
	for _, m := range f.Roster.Board.Members {
		out[m.ID] = m.Key
	}
	return out
}

// witnessClient reaches the witness over the federation's network.
func (f *Federation) witnessClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return f.dial(ctx, f.url[len("http://"):])
	}}}
}

func (s *Site) vaultConfig() vault.Config {
	return vault.Config{
		Site: s.o.ID, Dir: filepath.Join(s.dir, "vault"), Datasets: s.o.Datasets, Pseudonym: s.alias, KEK: s.kek,
		LedgerDir: s.ledgerDir(), Witnesses: s.f.Witnesses(), BoardKeys: s.f.boardKeys(), Threshold: s.f.Roster.Board.Threshold,
		Facts: s.o.Facts, Register: s.o.Register, Policies: s.f.policyByDigest, Learned: learned(), Budget: s.o.Budget, Assume: s.f.o.Assume, Now: s.f.o.Now, Log: s.f.o.Log,
	}
}

func (s *Site) ledgerDir() string { return filepath.Join(s.dir, "ledger") }

func (f *Federation) policyByDigest(d consilium.Digest) (*policy.Engine, error) {
	for _, e := range f.o.Policies {
		if e.Digest() == d {
			return e, nil
		}
	}
	return nil, consilium.ErrPolicy.Withf("policy %s is not installed at this hospital", d.Short())
}

// prepare opens the ledger, anchors every table and enters every consent.
func (s *Site) prepare(ctx context.Context) error {
	var err error
	s.ledger, err = provenance.OpenLedger(ctx, provenance.LedgerConfig{
		Dir: s.ledgerDir(), Key: s.o.ledgerKey, Site: s.key.Public(), Witnesses: s.f.Witnesses(), Client: s.f.witnessClient(),
	})
	if err != nil {
		return err
	}
	v, err := vault.Open(s.vaultConfig())
	if err != nil {
		return err
	}
	defer v.Close()
	var last uint64
	for _, d := range s.o.Datasets {
		draft, err := v.Draft(d.Name, s.ledger.Origin())
		if err != nil {
			return err
		}
		signed, err := provenance.SignHeader(s.key, draft.Payload())
		if err != nil {
			return err
		}
		if last, err = s.ledger.Append(ctx, signed.Entry()); err != nil {
			return err
		}
		if err := v.Keep(draft, signed); err != nil {
			return err
		}
	}
	if err := s.enterConsents(ctx); err != nil {
		return err
	}
	_, err = s.ledger.Await(ctx, last)
	return err
}

// Start runs the hospital's gate and vault.
func (s *Site) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gate != nil {
		return errors.New("already running")
	}
	v, err := vault.Open(s.vaultConfig())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(s.f.ctx)
	s.running.Store(&ctx)
	var g *worker.Gate // which follows once it is open
	w := wire.NewClient(wire.ClientOptions{Certificate: s.cert, Book: s.f.Book, Dial: s.f.dial, Logger: s.f.o.Log, Accepted: func() { g.Accepted() }})
	g, err = worker.Open(worker.Config{
		Site: s.o.ID, Dir: filepath.Join(s.dir, "gate"), Signer: s.key, Secret: s.key.Seed(), Roster: s.f.signed,
		BoardKeys: s.f.boardKeys(), Threshold: s.f.Roster.Board.Threshold, Coordinator: w, Vault: v, Ledger: s.ledger,
		Now: s.f.o.Now, Log: s.f.o.Log, Crash: s.crash,
	})
	if err != nil {
		cancel()
		return errors.Join(err, v.Close(), w.Close())
	}
	done := make(chan struct{})
	s.gate, s.vault, s.wire, s.stop, s.done = g, v, w, cancel, done
	go func() {
		defer close(done)
		if err := g.Run(ctx); err != nil && ctx.Err() == nil {
			s.f.note(fmt.Errorf("site %s: %w", s.o.ID, err))
		}
	}()
	return nil
}

// Stop ends gate and vault at once, wherever they are; what they promised is
// in their journals.
func (s *Site) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gate == nil {
		return
	}
	s.stop()
	<-s.done
	if err := errors.Join(s.gate.Close(), s.vault.Close(), s.wire.Close()); err != nil {
		s.f.note(fmt.Errorf("site %s: %w", s.o.ID, err))
	}
	s.gate, s.vault, s.wire = nil, nil, nil
}

// HaltAt makes the gate die at a named crash point, once; the channel closes
// when it has. Stop and Start bring it back.
func (s *Site) HaltAt(point string) <-chan struct{} {
	s.crashing.Lock()
	defer s.crashing.Unlock()
	s.halt, s.dead = point, make(chan struct{})
	return s.dead
}

// crash is the gate's hook. A dying gate does nothing more: its goroutine
// waits for Stop and ends without another instruction of the gate.
func (s *Site) crash(point string) {
	s.crashing.Lock()
	if s.halt != point {
		s.crashing.Unlock()
		return
	}
	s.halt = ""
	close(s.dead)
	s.crashing.Unlock()
	<-(*s.running.Load()).Done()
	runtime.Goexit()
}

// Restart stops and starts the hospital; tables and consents are read anew.
func (s *Site) Restart() error {
	s.Stop()
	return s.Start()
}

// Replay runs a study again from what the hospital kept of it; the hospital must
// be running.
func (s *Site) Replay(ctx context.Context, id consilium.StudyID) (*vault.Replayed, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.vault == nil {
		return nil, errors.New("not running")
	}
	return s.vault.Replay(ctx, id)
}

func (s *Site) closeLedger() {
	if s.ledger != nil {
		if err := s.ledger.Close(); err != nil {
			s.f.note(fmt.Errorf("site %s: ledger: %w", s.o.ID, err))
		}
	}
}
