package provenance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/storage/posix"
	"k8s.io/klog/v2"

	"consilium"
)

// LedgerConfig describes a hospital's own ledger.
type LedgerConfig struct {
	Dir       string
	Key       *NoteKey            // Ed25519; its name is the origin
	Site      consilium.PublicKey // entries that it did not sign are refused
	Witnesses WitnessPolicy       // every witness with its URL
	Client    *http.Client        // to the witnesses; nil makes one with a time limit and without redirects

	// Interval is the least time between two checkpoints: 0 means 100 ms, the
	// least that the storage allows.
	Interval time.Duration
	// Republish is how often an unchanged tree is cosigned again, which keeps it
	// fresh: 0 means one minute.
	Republish time.Duration
}

const (
	// witnessTimeout bounds one round of cosignatures.
	witnessTimeout = 5 * time.Second
	// awaitPoll is how often Await looks; a checkpoint takes 100 ms at least.
	awaitPoll = 10 * time.Millisecond
)

// Ledger is a hospital's own transparency log: an append-only Merkle tree on
// disk (C2SP tlog-tiles, written by Tessera) whose every published checkpoint
// the witnesses cosigned. It is safe for concurrent use. It also is a View.
type Ledger struct {
	View
	site     consilium.PublicKey
	origin   string
	appender *tessera.Appender
	shutdown func(context.Context) error
	cancel   context.CancelFunc
	close    sync.Once
	closeErr error
}

// OpenLedger opens or makes the ledger in cfg.Dir. A new ledger publishes its
// empty tree at once, so the witnesses must answer.
func OpenLedger(ctx context.Context, cfg LedgerConfig) (*Ledger, error) {
	quietTessera.Do(quiet)
	switch {
	case cfg.Key == nil || !isLogKey(cfg.Key):
		return nil, consilium.ErrInvalid.Withf("ledger: its key is an Ed25519 note key (type 0x01)")
	case cfg.Site.IsZero():
		return nil, consilium.ErrInvalid.Withf("ledger: no key of the hospital")
	}
	if _, err := cfg.Witnesses.compile(); err != nil {
		return nil, consilium.ErrInvalid.With(err)
	}
	for _, w := range cfg.Witnesses.Witnesses {
		if w.URL == "" || strings.ContainsAny(w.URL, " \t\r\n#") {
			return nil, consilium.ErrInvalid.Withf("ledger: witness %s has no usable URL", w.Name)
		}
	}
	group, err := tessera.NewWitnessGroupFromPolicy([]byte(cfg.Witnesses.text()))
	if err != nil {
		return nil, consilium.ErrInvalid.Withf("ledger: %w", err)
	}
	interval, republish := cfg.Interval, cfg.Republish
	if interval == 0 {
		interval = 100 * time.Millisecond
	}
	if republish == 0 {
		republish = time.Minute
	}
	client := http.Client{Timeout: witnessTimeout}
	if cfg.Client != nil {
		client = *cfg.Client
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	client.Transport = limitBody{client.Transport}
	if err := presentCheckpoint(cfg.Dir, republish); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	driver, err := posix.New(ctx, posix.Config{Path: cfg.Dir, HTTPClient: &client})
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	// The background work outlives ctx, which bounds only the opening.
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	appender, shutdown, _, err := tessera.NewAppender(run, driver, tessera.NewAppendOptions().
		WithCheckpointSigner(cfg.Key.signer).
		WithBatching(512, time.Millisecond).
		WithCheckpointInterval(interval).
		WithCheckpointRepublishInterval(max(republish, interval)).
		WithShutdownTimeout(2*witnessTimeout).
		WithWitnesses(group, &tessera.WitnessOptions{Timeout: witnessTimeout}))
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		return nil, consilium.ErrLedger.Withf("open %s: %w; is every witness running?", cfg.Dir, err)
	}
	go keepPresent(run, cfg.Dir, republish)
	return &Ledger{View: DirView(cfg.Dir), site: cfg.Site, origin: cfg.Key.Name(), appender: appender, shutdown: shutdown, cancel: cancel}, nil
}

// Tessera takes the modification time of the published checkpoint for the moment
// at which it was published, and publishes nothing before that moment has passed
// (storage/posix, publishCheckpoint). After the system's clock was set back that
// would be for as long as it was set back.

// presentCheckpoint makes a checkpoint that lies in the future one that is due to
// be cosigned again. Its bytes, and so what it says, stay.
func presentCheckpoint(dir string, republish time.Duration) error {
	path := filepath.Join(dir, layout.CheckpointPath)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	// A file server's clock may be a little ahead of ours.
	now := time.Now()
	if !info.ModTime().After(now.Add(time.Second)) {
		return nil
	}
	slog.Warn("the ledger was published in the future: this machine's clock was set back; it is cosigned again now", "published", info.ModTime())
	due := now.Add(-republish)
	return os.Chtimes(path, due, due)
}

// keepPresent looks after the clock for as long as the ledger is open.
func keepPresent(ctx context.Context, dir string, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := presentCheckpoint(dir, every); err != nil {
			slog.Warn("the ledger's checkpoint", "err", err)
		}
	}
}

// Origin is the ledger's name in its checkpoints.
func (l *Ledger) Origin() string { return l.origin }

// Append adds one entry. When it returns, the entry is on disk and in the
// tree; Await says when a cosigned checkpoint covers it.
func (l *Ledger) Append(ctx context.Context, entry []byte) (uint64, error) {
	at, err := l.AppendAll(ctx, [][]byte{entry})
	if err != nil {
		return 0, err
	}
	return at[0], nil
}

// AppendAll adds entries in order. On an error some of the first may have been
// added: appending the same batch header or record again is harmless.
func (l *Ledger) AppendAll(ctx context.Context, entries [][]byte) ([]uint64, error) {
	// An entry that no verifier accepts would spoil the ledger for ever.
	for i, b := range entries {
		if _, err := checkEntry(b, l.site); err != nil {
			return nil, consilium.ErrInvalid.Withf("ledger: entry %d: %w", i, err)
		}
	}
	futures := make([]tessera.IndexFuture, len(entries))
	for i, b := range entries {
		futures[i] = l.appender.Add(ctx, tessera.NewEntry(b))
	}
	out := make([]uint64, len(entries))
	for i, f := range futures {
		at, err := f()
		if err != nil {
			return nil, fmt.Errorf("ledger: append: %w", err)
		}
		out[i] = at.Index
	}
	return out, nil
}

// Await waits until a published checkpoint covers the entry at index, and
// returns it. Without enough witnesses that never happens, and ctx ends it.
func (l *Ledger) Await(ctx context.Context, index uint64) ([]byte, error) {
	tick := time.NewTicker(awaitPoll)
	defer tick.Stop()
	for {
		b, err := l.Checkpoint(ctx)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil {
			c, err := ParseCheckpoint(b)
			if err != nil {
				return nil, consilium.ErrLedger.With(err)
			}
			if c.Size > index {
				return b, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, consilium.ErrLedger.Withf("entry %d of %s is not published yet, do the witnesses answer? %w", index, l.origin, ctx.Err())
		case <-tick.C:
		}
	}
}

// Close waits, for ten seconds at most, until what was appended is published,
// and stops the background work. An error means that the last entries, which
// are on disk, will be published after the next OpenLedger.
func (l *Ledger) Close() error {
	l.close.Do(func() {
		if err := l.shutdown(context.Background()); err != nil {
			l.closeErr = fmt.Errorf("ledger: close: %w", err)
		}
		l.cancel()
	})
	return l.closeErr
}

// checkEntry parses an entry fully and checks the hospital's signature.
func checkEntry(b []byte, site consilium.PublicKey) (*Entry, error) {
	e, err := ParseEntry(b)
	if err != nil {
		return nil, err
	}
	if e.Domain == consilium.DomainBatch {
		_, err = ParseHeader(e.Payload)
	} else {
		_, err = ParseRecord(e.Payload)
	}
	if err != nil {
		return nil, err
	}
	return e, e.Verify(site)
}

// limitBody bounds what a witness may answer: a few signature lines.
type limitBody struct{ next http.RoundTripper }

func (l limitBody) RoundTrip(r *http.Request) (*http.Response, error) {
	next := l.next
	if next == nil {
		next = http.DefaultTransport
	}
	resp, err := next.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, 1<<14), resp.Body}
	}
	return resp, err
}

var quietTessera sync.Once

// quiet turns Tessera's log (klog, on standard error by default) into ours:
// errors, and checkpoints that could not be published, as warnings; nothing of
// its routine.
func quiet() { klog.SetSlogLogger(slog.New(tesseraLog{})) }

type tesseraLog struct{}

// A ledger without its witness tries ten times a second; it says so now and
// then.
const unpublishedEvery = 10 * time.Second

var unpublishedAt atomic.Int64

func (tesseraLog) Enabled(context.Context, slog.Level) bool { return true }
func (t tesseraLog) WithAttrs([]slog.Attr) slog.Handler     { return t }
func (t tesseraLog) WithGroup(string) slog.Handler          { return t }

func (tesseraLog) Handle(ctx context.Context, r slog.Record) error {
	// klog hands its warnings over as information; only the text tells.
	unpublished := strings.HasPrefix(r.Message, "publishCheckpoint: ") && !strings.Contains(r.Message, "skipping publish")
	if r.Level < slog.LevelWarn && !unpublished {
		return nil
	}
	if last := unpublishedAt.Load(); unpublished && (r.Time.UnixNano()-last < int64(unpublishedEvery) || !unpublishedAt.CompareAndSwap(last, r.Time.UnixNano())) {
		return nil
	}
	r.Level = max(r.Level, slog.LevelWarn)
	h := slog.Default().Handler()
	if !h.Enabled(ctx, r.Level) {
		return nil
	}
	return h.Handle(ctx, r)
}
