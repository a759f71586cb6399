package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"consilium"
	"consilium/internal/span"
	"consilium/internal/wire"
	"consilium/policy"
	"consilium/provenance"
	"consilium/provenance/chain"
	"consilium/worker"
	"consilium/worker/vault"
)

// hospital is a worker's loaded config.
type hospital struct {
	path     string
	config   workerConfig
	kit      *kit
	site     consilium.SiteID
	facts    *policy.SiteFacts
	register *register
	budget   *vault.Budget
	datasets []vault.Dataset
	streamed []streamSource
	anchors  *chain.Watch // nil demands none
	limits   worker.Limits
	log      *slog.Logger
}

// openHospital loads everything that the hospital's commands share, and says
// what is missing before anything starts.
func openHospital(path string, stderr io.Writer) (*hospital, error) {
	h := &hospital{path: path}
	if err := readConfig(path, "Worker", &h.config); err != nil {
		return nil, err
	}
	var err error
	if h.log, err = logger(path, h.config.Log, stderr); err != nil {
		return nil, err
	}
	switch h.config.Isolation {
	case "":
		h.config.Isolation = "best"
	case "best", "required":
	default:
		return nil, configError(path, nil, "use best or required", "isolation: %q", h.config.Isolation)
	}
	if h.site, err = consilium.ParseSiteID(h.config.Site); err != nil {
		return nil, configError(path, nil, "correct site:", "%w", err)
	}
	if h.anchors, err = h.config.Anchors.watch(path); err != nil {
		return nil, err
	}
	if h.budget, err = h.config.Privacy.budget(path); err != nil {
		return nil, err
	}
	if h.limits, err = h.config.Limits.limits(path); err != nil {
		return nil, err
	}
	if _, _, err := net.SplitHostPort(h.config.Health); err != nil && h.config.Health != "" {
		return nil, configError(path, nil, `write health: as host:port, or "" for none`, "health: %w", err)
	}
	spans := h.config.spans(path)
	if err := spans.Check(); err != nil {
		return nil, configError(path, nil, "correct tracing:", "%w", err)
	}
	seen := map[string]bool{}
	for i := range h.config.Datasets {
		d, err := h.config.Datasets[i].dataset(path)
		if err != nil {
			return nil, err
		}
		if seen[d.Name] {
			return nil, configError(path, &h.config.Datasets[i].Columns, "give one of them another name", "dataset %s stands twice", d.Name)
		}
		seen[d.Name] = true
		h.datasets = append(h.datasets, d)
	}
	for i := range h.config.Streams {
		d, err := h.config.Streams[i].source(path)
		if err != nil {
			return nil, err
		}
		if seen[d.Name] {
			return nil, configError(path, nil, "give one of them another name", "%s stands twice under datasets and streams", d.Name)
		}
		seen[d.Name] = true
		h.streamed = append(h.streamed, d)
	}
	if h.kit, err = openKit(h.config.Keys, h.config.Roster, h.config.Board, "site/"+h.config.Site); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(h.config.Facts)
	if err != nil {
		return nil, fmt.Errorf("%w; write there what this hospital has filed: facts.example.json shows the form", err)
	}
	if h.facts, err = policy.ParseSiteFacts(b); err != nil {
		return nil, fmt.Errorf("%s: %w", h.config.Facts, err)
	}
	if h.facts.Site != h.site {
		return nil, consilium.ErrInvalid.Withf("%s is of %s, this is the worker of %s", h.config.Facts, h.facts.Site, h.site)
	}
	if b, err = os.ReadFile(h.config.Register); err != nil {
		return nil, err
	}
	if h.register, err = parseRegister(b); err != nil {
		return nil, fmt.Errorf("%s: %w", h.config.Register, err)
	}
	return h, nil
}

// streams are the ledger's names of the datasets, drawn at the first anchoring.
func (h *hospital) streams() (map[string]provenance.ID, error) {
	out := map[string]provenance.ID{}
	b, err := os.ReadFile(h.streamsFile())
	if errors.Is(err, os.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	if err := strictJSON(b, &out); err != nil {
		return nil, fmt.Errorf("%s: %w; restore it from its backup", h.streamsFile(), err)
	}
	return out, nil
}

func (h *hospital) streamsFile() string { return filepath.Join(h.config.Data, "streams.json") }

// settings is what the vault is told.
func (h *hospital) settings(task string) (*vaultSettings, error) {
	streams, err := h.streams()
	if err != nil {
		return nil, err
	}
	witnesses, err := provenance.WitnessesOf(h.kit.roster)
	if err != nil {
		return nil, err
	}
	s := &vaultSettings{Task: task, Site: h.site, Dir: h.config.vaultDir(), LedgerDir: h.config.ledgerDir(), Witnesses: witnesses,
		Anchors: h.anchors, BoardKeys: h.kit.board.Keys, Threshold: h.kit.board.Threshold, Facts: h.facts.JSON(), Register: h.register, Policies: h.config.Policies, Budget: h.budget, Log: slog.LevelInfo}
	if keep := h.config.Retention.Replays; keep != nil {
		if s.Keep = *keep; s.Keep <= 0 {
			s.Keep = -1
		}
	}
	for _, d := range h.datasets {
		id, ok := streams[d.Name]
		if !ok {
			return nil, consilium.ErrLedger.Withf("dataset %s is not anchored; run `consilium ledger anchor --config %s`", d.Name, h.path)
		}
		d.Stream = id
		s.Datasets = append(s.Datasets, d)
	}
	if task != "serve" {
		if s.Streams, err = h.streamSources(streams); err != nil {
			return nil, err
		}
	}
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if h.log.Enabled(context.Background(), level) {
			s.Log = level
			break
		}
	}
	if s.KEK, err = readSecret(h.config.Keys, kekFile); err != nil {
		return nil, err
	}
	if s.Pseudonym, err = readSecret(h.config.Keys, pseudonymFile); err != nil {
		return nil, err
	}
	key, err := readNoteKey(h.config.Keys, ledgerFile)
	if err != nil {
		return nil, err
	}
	s.Origin, s.Ledger, s.SiteKey = key.Name(), key.Verifier(), h.kit.signer.Public()
	return s, nil
}

func runWorker(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	path := flags.String("config", "", "config `file`")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usagef("unexpected %q", rest[0])
	}
	h, err := openHospital(*path, e.stderr)
	if err != nil {
		return err
	}
	slog.SetDefault(h.log.With("room", "ledger"))
	settings, err := h.settings("serve")
	if err != nil {
		return err
	}
	d, err := openDesk(ctx, h.kit, &h.config)
	if err != nil {
		return err
	}
	defer d.Close()
	w := &runningWorker{hospital: h, settings: settings, desk: d, stderr: e.stderr}
	if w.trace, err = h.config.tracer(ctx, *path, "site/"+string(h.site)); err != nil {
		return err
	}
	defer w.trace.Close()
	w.wire = wire.NewClient(wire.ClientOptions{Certificate: h.kit.cert, Book: h.kit.book, Logger: h.log, Trace: w.trace, Accepted: w.accepted})
	defer w.wire.Close()
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error { return d.serve(gctx, &h.config, w.busyNow, h.log) })
	if h.config.Health != "" {
		group.Go(func() error { return serveHealth(gctx, h.config.Health, w) })
	}
	group.Go(func() error { return w.watchPause(gctx) })
	group.Go(func() error {
		return watchRoster(gctx, h.config.Roster, rosterEvery, h.log, w.takeRoster)
	})
	group.Go(func() error {
		if err := w.run(gctx); err != nil {
			return err
		}
		return errDrained
	})
	if err := group.Wait(); !errors.Is(err, errDrained) {
		return err
	}
	return nil
}

// errDrained ends the group of a worker that was asked to stop.
var errDrained = errors.New("drained")

// runningWorker is a gate with its vault, again and again.
type runningWorker struct {
	*hospital
	settings *vaultSettings
	desk     *desk
	wire     *wire.Client
	trace    *span.Tracer
	stderr   io.Writer
	up       atomic.Bool
	gate     atomic.Pointer[worker.Gate] // the last one that was opened
	restarts atomic.Uint64

	mu        sync.Mutex // guards the two below
	next      *consilium.Signed
	interrupt context.CancelCauseFunc // of the gate that runs
}

// accepted passes on to the gate that runs that a coordinator lets it follow.
func (w *runningWorker) accepted() {
	if g := w.gate.Load(); g != nil {
		g.Accepted()
	}
}

// errNewRoster ends a gate that shall start again under the next roster.
var errNewRoster = errors.New("the next roster is in force")

// takeRoster puts a roster in force for connections at once, and for the gate
// by starting it again: its journal holds every promise, so a restart costs
// nothing but a moment.
func (w *runningWorker) takeRoster(next *consilium.Signed, r *consilium.Roster) error {
	if r.Version == w.kit.book.Roster().Version {
		return errSameRoster
	}
	if err := w.kit.book.Update(next); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next = next
	if w.interrupt != nil {
		w.interrupt(errNewRoster)
	}
	return nil
}

// adopt takes over a roster that came while the last gate ran.
func (w *runningWorker) adopt(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.next == nil {
		return nil
	}
	w.kit.signed, w.kit.roster, w.next = w.next, w.kit.book.Roster(), nil
	if err := w.desk.renew(ctx, w.kit.roster, &w.config); err != nil {
		return err
	}
	var err error
	w.settings, err = w.hospital.settings("serve")
	return err
}

const (
	firstRestart = 100 * time.Millisecond
	slowRestart  = 30 * time.Second
	healthyAfter = time.Minute // a vault that ran for so long starts the waits anew
)

// run keeps a gate and its vault running until ctx ends. When the vault dies
// both start again: the gate's journal and the vault's books hold every promise,
// and what was only in memory is recomputed to the same bytes.
func (w *runningWorker) run(ctx context.Context) error { return w.again(ctx, w.once) }

// again is run for a given once. Until a gate has run with its vault, a vault that
// ends is a trouble of the start, which whoever starts the worker must see;
// afterwards it is one that passes, wherever the next vault is by then.
func (w *runningWorker) again(ctx context.Context, once func(context.Context) error) error {
	wait, ran := firstRestart, false
	for {
		started := time.Now()
		err := w.adopt(ctx)
		if err != nil {
			return err
		}
		err = once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errNewRoster) {
			continue
		}
		if ran = w.up.Swap(false) || ran; !ran || !errors.Is(err, errVaultEnded) {
			return err
		}
		if time.Since(started) > healthyAfter {
			wait = firstRestart
		}
		w.restarts.Add(1)
		w.log.Error("the vault has ended; starting it again", "err", err, "wait", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
		wait = min(2*wait, slowRestart)
	}
}

// errVaultEnded ends a gate whose vault ended by itself. It is told apart from
// other troubles by identity: a code such as "unavailable" may come from anywhere.
var errVaultEnded = errors.New("the vault has ended")

// outcome is what the end of a gate means for the worker. cause is why its
// context ended, err what it said, vault how the vault's process ended, and
// stopped whether the worker itself was asked to stop.
func outcome(cause, err, vault error, stopped bool, log *slog.Logger) error {
	switch {
	case !stopped && cause == errVaultEnded:
		return fmt.Errorf("%w: %w", errVaultEnded, errors.Join(vault, err))
	case !stopped && cause == errNewRoster:
		// What was asked for. A vault that was slow to let go was killed, and the
		// next one recovers from what is durable.
		if err := errors.Join(err, vault); err != nil {
			log.Warn("the gate stopped for the next roster, not in order; it starts again from what is durable", "err", err)
		}
		return errNewRoster
	}
	return errors.Join(err, vault)
}

// once runs one gate with one vault. It returns errVaultEnded when the vault
// ended by itself.
func (w *runningWorker) once(ctx context.Context) error {
	c, err := startVault(ctx, w.settings, w.config.Isolation, w.stderr, w.log)
	if err != nil {
		return err
	}
	calls := newVaultCalls(c)
	anchored, err := w.anchoredTrail(ctx)
	if err != nil {
		return errors.Join(err, c.stop(5*time.Second))
	}
	gate, err := worker.Open(worker.Config{
		Anchored: anchored, Trace: w.trace, Limits: w.limits,
		Site: w.site, Dir: w.config.gateDir(), Signer: w.kit.signer, Secret: w.kit.signer.Seed(), Roster: w.kit.signed,
		BoardKeys: w.kit.board.Keys, Threshold: w.kit.board.Threshold, Coordinator: w.wire, Vault: calls, Ledger: w.desk.ledger(), Log: w.log,
	})
	if err != nil {
		return errors.Join(err, c.stop(5*time.Second))
	}
	running, cancel := context.WithCancelCause(ctx)
	w.mu.Lock()
	w.interrupt = cancel
	if w.next != nil {
		cancel(errNewRoster)
	}
	w.mu.Unlock()
	c.killAfter(running, 5*time.Second)
	go func() {
		<-calls.dead
		cancel(errVaultEnded)
	}()
	gate.Pause(w.config.isPaused()) // before it runs
	w.gate.Store(gate)
	w.up.Store(true)
	w.log.Info("worker runs", "site", string(w.site), "vault", c.cmd.Process.Pid, "roster", w.kit.roster.Version)
	err = gate.Run(running)
	cause, stopped := context.Cause(running), ctx.Err() != nil
	cancel(nil)
	err = errors.Join(err, gate.Close())
	return outcome(cause, err, c.stop(5*time.Second), stopped, w.log)
}
