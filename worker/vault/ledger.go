package vault

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/apache/arrow/go/v17/arrow"

	"consilium"
	"consilium/internal/durable"
	"consilium/provenance"
	"consilium/provenance/chain"
)

// SeenFile, in a vault's directory, is the last checkpoint of the hospital's
// ledger that the vault saw. It must never be restored from an older copy.
const SeenFile = "ledger-seen"

// ledgerGate follows the hospital's own ledger and remembers, durably, the
// last checkpoint it saw: a ledger that is rolled back or forked is refused.
type ledgerGate struct {
	gate *provenance.Gate
	view provenance.View
	path string
	seen []byte
}

func (v *Vault) openLedgerGate(site *consilium.Site) (*ledgerGate, error) {
	if v.ledger != nil {
		return v.ledger, nil
	}
	l := &ledgerGate{view: provenance.DirView(v.cfg.LedgerDir), path: filepath.Join(v.cfg.Dir, SeenFile)}
	seen, err := os.ReadFile(l.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l.seen = seen
	l.gate, err = provenance.NewGate(provenance.GateConfig{Ledger: site.Ledger, Site: site.Key, Witnesses: v.cfg.Witnesses, Seen: seen, Now: v.cfg.Now})
	if err != nil {
		return nil, err
	}
	v.ledger = l
	return l, nil
}

// remember keeps the last checkpoint seen.
func (l *ledgerGate) remember() error {
	seen := l.gate.Seen()
	if string(seen) == string(l.seen) {
		return nil
	}
	if err := durable.WriteFile(l.path, seen, 0o600); err != nil {
		return stored(err)
	}
	l.seen = seen
	return nil
}

// passing are the troubles with a ledger that are no word against it, and what
// ends them. No row is used while one of them lasts.
var passing = []struct {
	err  error
	next string
}{
	{provenance.ErrStaleCheckpoint, "start the board's witness, and set this machine's clock: the ledger is cosigned again within a minute"},
	{provenance.ErrQuorum, "start every witness that the roster names: the ledger is cosigned again within a minute"},
	{provenance.ErrAnchorAge, "put the proof of the newest anchor where anchors: says, and set this machine's clock"},
}

// waiting tells the troubles that pass from those that do not. A gate asks again
// for what is consilium.ErrUnavailable, and its study waits: a witness that is
// down, or a clock, is no reason to leave one. A ledger that was rolled back,
// split or forged stays what it is.
func waiting(err error) error {
	for _, p := range passing {
		if errors.Is(err, p.err) {
			return &consilium.Error{Code: consilium.ErrUnavailable.Code, Msg: "the hospital's ledger cannot be relied on now, and its studies wait", Next: p.next, Err: err}
		}
	}
	return err
}

// witnessed refuses, before anything is decided or written down, a ledger that
// must be waited for.
func (v *Vault) witnessed(ctx context.Context, site *consilium.Site) error {
	l, err := v.openLedgerGate(site)
	if err != nil {
		return err
	}
	c, err := l.gate.Update(ctx, l.view)
	if err != nil {
		return waiting(err)
	}
	if v.cfg.Anchors != nil {
		if _, err := v.cfg.Anchors.Check(ctx, l.view, c, v.cfg.Now()); err != nil {
			return waiting(err)
		}
	}
	return l.remember()
}

// verify holds the study's table against the ledger: every row of the very
// buffers that project shares with the analysis.
// Where anchors are demanded, the ledger must also continue every anchored one.
func (v *Vault) verify(ctx context.Context, st *study) (*provenance.Verified, *chain.Report, error) {
	l, err := v.openLedgerGate(st.site)
	if err != nil {
		return nil, nil, err
	}
	batches, err := v.batches.List()
	if err != nil {
		return nil, nil, err
	}
	// A hospital's tables are streams of their own in one ledger.
	batches = slices.DeleteFunc(batches, func(b provenance.Batch) bool { return b.Header.Header.Stream != st.data.def.Stream })
	verified, err := st.data.verified.Verify(ctx, l.gate, l.view, provenance.Input{
		Stream: st.data.def.Stream, Batches: batches, Records: []arrow.Record{st.data.rows.Record}, Salts: v.salts,
	})
	if err != nil {
		return nil, nil, waiting(err)
	}
	var anchored *chain.Report
	if v.cfg.Anchors != nil {
		if anchored, err = v.cfg.Anchors.Check(ctx, l.view, verified.Checkpoint, v.cfg.Now()); err != nil {
			return nil, nil, waiting(err)
		}
	}
	if err := v.openConsents(st.site, l.gate); err != nil {
		return nil, nil, err
	}
	return verified, anchored, l.remember()
}
