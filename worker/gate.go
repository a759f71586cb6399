package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"consilium"
	"consilium/internal/durable"
	"consilium/internal/hatch"
	"consilium/internal/hybrid"
	"consilium/internal/span"
	"consilium/internal/trail"
	"consilium/internal/wire"

	"golang.org/x/sync/errgroup"
)

// Coordinator is what a gate asks of the coordinators: internal/wire's Client.
// Every call retries and follows redirects until its context ends.
type Coordinator interface {
	// Follow delivers every event that concerns this hospital from a sequence
	// number on, in order, until ctx ends or fn fails.
	Follow(ctx context.Context, from uint64, fn func(*consilium.Event) error) error
	// Post offers a signed statement. nil means that it is durable on a
	// majority; posting the same bytes again is nil again.
	Post(ctx context.Context, m *consilium.Message) error
	// Upload offers a contribution. nil means the same as for Post.
	Upload(ctx context.Context, header *consilium.Message, boxes [][]byte, shape wire.Shape, size uint64, ciphertext func() (io.ReadCloser, error)) error
	// Fetch reads a blob, or one sealed box by its digest, from offset;
	// length 0 reads to the end.
	Fetch(ctx context.Context, digest consilium.Digest, offset, length uint64) (io.ReadCloser, error)
	// PutBlob stores bytes on a majority and returns their digest.
	PutBlob(ctx context.Context, r io.ReadSeeker, size uint64) (consilium.Digest, error)
}

// Ledger is the hospital's own transparency log, as far as a gate writes it.
type Ledger interface {
	// Append adds an entry that is durable when it returns.
	Append(ctx context.Context, entry []byte) (uint64, error)
}

// Config makes a gate.
type Config struct {
	Site        consilium.SiteID
	Dir         string // the gate's own directory
	Signer      consilium.Signer
	Secret      []byte // 32 bytes, this hospital's, for deriving round keys beside system randomness
	Roster      *consilium.Signed
	BoardKeys   map[string]consilium.PublicKey // pinned when the hospital was provisioned
	Threshold   int
	Coordinator Coordinator
	Vault       hatch.Vault
	Ledger      Ledger
	Now         func() time.Time
	Log         *slog.Logger
	Trace       *span.Tracer // nil: no spans
	Limits      Limits
	// Anchored is the head of this hospital's trail that its own ledger named
	// last, or zero. A trail without it is older than the ledger.
	Anchored consilium.Digest
	// FS holds what must outlive a crash: journal, trail and secrets. nil is
	// the operating system's; tests put one in front of it that fails.
	FS durable.FS
	// Crash, if set, is called at every named crash point; tests kill there.
	Crash func(point string)
}

// CrashPoints lists the names that Config.Crash is called with. A test kills
// at each of them and finds every promise kept.
var CrashPoints = []string{
	"enrol/before-secret", "enrol/after-secret", "enrol/after-promise",
	"charter/before-secret", "charter/after-promise",
	"contribute/before-spool", "contribute/before-promise", "contribute/after-promise", "contribute/after-upload",
	"vote/before-promise", "vote/after-promise",
	"open/before-lock", "open/before-promise", "open/after-promise",
	"update/in-sums", "update/before-secret", "update/before-promise", "update/after-promise",
	"close/before-secret", "close/after-secret",
	"release/after-promise",
}

// TroubleCrashPoints lists those that only a round in trouble comes to: another
// attempt, a complaint, a rejected sum.
var TroubleCrashPoints = []string{
	"complaint/after-promise", "answer/after-promise", "suspect/after-promise", "show/after-promise",
	"join/before-binding", "renounce/after-promise", "release-lock/after-thaw",
}

// EpochCrashPoints lists those that only a new epoch comes to. The points of the
// enrolment are passed again then.
var EpochCrashPoints = []string{"depart/after-promise", "epoch/before-journal", "epoch/after-journal", "epoch/after-secret"}

// Gate runs one hospital's side of every study.
type Gate struct {
	cfg     Config
	roster  *consilium.Roster
	rosterD consilium.Digest
	journal *journal
	secrets secretStore
	salt    []byte // of digests that other hospitals see or that the journal keeps; it outlives the identity key
	trail   *trail.Writer
	dir     *durable.Dir
	log     *slog.Logger
	memory  *capacity
	paused  atomic.Bool

	mu     sync.Mutex // guards the rest
	actors map[consilium.StudyID]*actor
	last   time.Time // when the last event came
	live   bool      // history has been replayed
	stale  string    // why the directory is not the newest, or ""
	barred error     // why the coordinators do not let this hospital in, or nil
}

// Open recovers a gate from its directory. It refuses a roster that the
// pinned board did not sign.
func Open(cfg Config) (*Gate, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.FS == nil {
		cfg.FS = durable.OS
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Crash == nil {
		cfg.Crash = func(string) {}
	}
	switch {
	case cfg.Signer == nil, cfg.Coordinator == nil, cfg.Vault == nil, cfg.Ledger == nil, cfg.Roster == nil:
		return nil, errors.New("worker: signer, coordinator, vault, ledger and roster are all needed: a gate without one of them would open")
	case len(cfg.Secret) != 32:
		return nil, fmt.Errorf("worker: secret of %d bytes, want 32", len(cfg.Secret))
	}
	if err := hybrid.VerifyThreshold(cfg.BoardKeys, cfg.Threshold, consilium.DomainRoster, cfg.Roster); err != nil {
		return nil, fmt.Errorf("roster: %w", err)
	}
	roster, err := consilium.ParseRoster(cfg.Roster.Payload)
	if err != nil {
		return nil, err
	}
	if now := cfg.Now().Unix(); now < roster.NotBefore || now >= roster.NotAfter {
		return nil, consilium.ErrStale.Withf("roster version %d is valid from %s to %s", roster.Version,
			time.Unix(roster.NotBefore, 0).UTC().Format(time.DateOnly), time.Unix(roster.NotAfter, 0).UTC().Format(time.DateOnly))
	}
	site, ok := roster.Site(cfg.Site)
	if !ok {
		return nil, consilium.ErrUnauthenticated.Withf("%s is not in roster version %d", cfg.Site, roster.Version)
	}
	if site.Key != cfg.Signer.Public() {
		return nil, consilium.ErrUnauthenticated.Withf("the roster has another key for %s", cfg.Site)
	}
	dir, err := durable.Prepare(cfg.Dir, "worker-gate")
	if err != nil {
		return nil, err
	}
	g := &Gate{
		cfg: cfg, roster: roster, rosterD: consilium.RosterDigest(cfg.Roster.Payload), dir: dir,
		log:    cfg.Log.With("site", string(cfg.Site)),
		memory: newCapacity(cfg.Limits.Memory),
		actors: map[consilium.StudyID]*actor{},
	}
	if g.secrets, err = newSecretStore(cfg.FS, filepath.Join(cfg.Dir, "secrets")); err != nil {
		dir.Close()
		return nil, err
	}
	if err := os.MkdirAll(g.spoolDir(), 0o700); err != nil {
		dir.Close()
		return nil, err
	}
	if g.journal, err = openJournal(cfg.FS, filepath.Join(cfg.Dir, "journal")); err != nil {
		dir.Close()
		return nil, err
	}
	if g.salt, err = openSalt(filepath.Join(cfg.Dir, "salt"), cfg.Secret, g.journal); err != nil {
		g.journal.close()
		dir.Close()
		return nil, err
	}
	if g.trail, err = trail.OpenFS(cfg.FS, filepath.Join(cfg.Dir, "trail"), cfg.Site, cfg.Signer, cfg.Now); err != nil {
		g.journal.close()
		dir.Close()
		return nil, err
	}
	if g.stale = g.journal.stale; g.stale == "" && !cfg.Anchored.IsZero() && !g.trail.Has(cfg.Anchored) {
		if err := g.setStale("the hospital's ledger names an entry of the trail that the trail does not hold"); err != nil {
			return nil, errors.Join(err, g.Close())
		}
	}
	return g, nil
}

// Close releases the directory. The gate must not be running.
func (g *Gate) Close() error {
	return errors.Join(g.journal.close(), g.trail.Close(), g.dir.Close())
}

// decisionLog is the head of the vault's decision log as of the last use of rows
// that the trail holds: the vault's log must still hold it.
func (g *Gate) decisionLog() (consilium.Digest, error) {
	e, ok, err := g.trail.Last("use")
	if err != nil || !ok {
		return consilium.Digest{}, err
	}
	var use struct {
		Log consilium.Digest `json:"log"`
	}
	if err := json.Unmarshal(e.Body, &use); err != nil {
		return consilium.Digest{}, fmt.Errorf("trail: entry %d: %w", e.Seq, err)
	}
	return use.Log, nil
}

// Run follows the federation until ctx ends or the gate's own disk fails. A
// failing study never stops the others.
func (g *Gate) Run(ctx context.Context) error {
	g.touch()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		wait := firstKnock
		for {
			err := g.cfg.Coordinator.Follow(ctx, 0, func(ev *consilium.Event) error {
				g.touch()
				wait = firstKnock
				g.bar(nil)
				if ev.Study == "" || g.journal.hasEnded(ev.Study) {
					return nil
				}
				a, fresh := g.actor(ev.Study)
				if fresh {
					group.Go(func() error { return a.run(ctx) })
				}
				if a.enqueue(ev) {
					return errMissed
				}
				return nil
			})
			if ctx.Err() != nil {
				return ctx.Err()
			}
			switch {
			case errors.Is(err, errMissed):
			case shutOut(err):
				g.bar(err)
				g.log.Error("the coordinators do not let this hospital in; it knocks again: is this machine's clock right, is the certificate valid and in the roster? `consilium worker check` tells", "err", err, "wait", wait)
				select {
				case <-time.After(wait):
				case <-ctx.Done():
					return ctx.Err()
				}
				wait = min(2*wait, lastKnock)
			default:
				return err
			}
			g.mu.Lock()
			for _, a := range g.actors {
				a.again()
			}
			g.mu.Unlock()
		}
	})
	err := group.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// shutOut tells that the coordinators and this hospital do not trust each other's
// certificates now. A clock that jumped, here or there, does that too, and passes;
// so it ends nothing. A hospital whose certificate is revoked knocks in vain, and
// Barred says so.
func shutOut(err error) bool {
	return errors.Is(err, consilium.ErrUnauthenticated) || errors.Is(err, consilium.ErrKeyExchange)
}

// How long a hospital that is shut out waits before it knocks again.
const (
	firstKnock = time.Second
	lastKnock  = time.Minute
)

func (g *Gate) bar(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.barred = err
}

// Accepted tells the gate that a coordinator lets this hospital follow: there may be
// no event for long to show it. Nothing else does: a coordinator that does not answer
// refuses nothing, and lets nobody in.
func (g *Gate) Accepted() { g.bar(nil) }

// Barred says why all coordinators refused this hospital when it last asked, or nil
// if one has let it in since. It takes no part in any study while they do, and leaves
// none.
func (g *Gate) Barred() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.barred
}

// errMissed reads the log again from its beginning: a study has become visible
// to this hospital in the middle.
var errMissed = errors.New("the beginning of a study was not shown")

func (g *Gate) touch() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last = time.Now()
}

// quiet is how long no event comes before a starting gate takes the replayed
// history for complete. Acting earlier would be harmless, only wasted: what is
// stale is refused as late.
const quiet = 150 * time.Millisecond

// replayed reports whether history has been replayed, or how much longer to
// wait for that.
func (g *Gate) replayed() (bool, time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.live {
		if wait := quiet - time.Since(g.last); wait > 0 {
			return false, wait
		}
		g.live = true
	}
	return true, 0
}

func (g *Gate) actor(study consilium.StudyID) (*actor, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if a, ok := g.actors[study]; ok {
		return a, false
	}
	a := newActor(g, study)
	g.actors[study] = a
	return a, true
}

// Studies counts the studies that this gate follows, by what it does in them.
func (g *Gate) Studies() map[string]int {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := map[string]int{Taking: 0, Watching: 0, Left: 0}
	for _, a := range g.actors {
		if doing := a.doing.Load(); doing != nil {
			out[*doing]++
		}
	}
	return out
}

// What a gate does in a study.
var (
	Taking   = "taking part"
	Watching = "watching" // not enrolled, or not yet
	Left     = "left"     // takes no further part
)

// Trail returns the hospital's signed trail of a study: every decision, use,
// contribution, opening and release, with the signature over its head.
func (g *Gate) Trail(study consilium.StudyID) (*trail.Signed, error) { return g.trail.Export(study) }
