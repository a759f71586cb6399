package provenance

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"consilium"
)

// GateConfig says which ledger a vault believes.
type GateConfig struct {
	Ledger    string              // verifier key of the hospital's ledger, from the roster
	Site      consilium.PublicKey // the hospital's identity key, from the roster; it never changes
	Witnesses WitnessPolicy
	Seen      []byte // from Gate.Seen of the last run, nil for the first
	Now       func() time.Time
}

// Gate stands before a hospital's rows: it follows the hospital's own ledger
// as a stranger would, and lets through only rows that re-derive to a batch
// root in it. It reads every entry once, so it also knows what is missing. It
// is safe for concurrent use.
type Gate struct {
	checkpoint *checkpointVerifier
	seenPolicy *checkpointVerifier // the same, any age
	own        *checkpointVerifier // the log's own signature: enough against a ledger, never for it
	site       consilium.PublicKey
	now        func() time.Time

	mu   sync.Mutex // guards seen and know
	seen *Checkpoint
	know *knowledge
}

// knowledge is what the entries of the ledger say, up to edge.Size().
type knowledge struct {
	edge    *Edge
	streams map[ID][]*knownBatch // in the order of seq
	batches map[ID]*knownBatch
	refs    map[consilium.Digest]RecordType // of consents, withdrawals and erasures
}

type knownBatch struct {
	header Header
	digest consilium.Digest
	index  uint64
	key    consilium.PublicKey
}

func (k *knowledge) clone() *knowledge {
	c := &knowledge{edge: k.edge.Clone(), streams: make(map[ID][]*knownBatch, len(k.streams)),
		batches: make(map[ID]*knownBatch, len(k.batches)), refs: make(map[consilium.Digest]RecordType, len(k.refs))}
	for id, s := range k.streams {
		c.streams[id] = s[:len(s):len(s)]
	}
	for id, b := range k.batches {
		c.batches[id] = b
	}
	for r, t := range k.refs {
		c.refs[r] = t
	}
	return c
}

// NewGate checks cfg. A Seen that the log did not sign is an error: whoever
// replaced it wants something forgotten.
func NewGate(cfg GateConfig) (*Gate, error) {
	if cfg.Ledger == "" || cfg.Site.IsZero() {
		return nil, consilium.ErrInvalid.Withf("gate: the ledger's and the hospital's key are needed")
	}
	g := &Gate{now: cfg.Now, site: cfg.Site,
		know: &knowledge{edge: &Edge{}, streams: map[ID][]*knownBatch{}, batches: map[ID]*knownBatch{}, refs: map[consilium.Digest]RecordType{}}}
	if g.now == nil {
		g.now = time.Now
	}
	var err error
	if g.checkpoint, err = (CheckpointPolicy{Log: cfg.Ledger, Witnesses: cfg.Witnesses}).compile(); err != nil {
		return nil, consilium.ErrInvalid.Withf("gate: %w", err)
	}
	if g.seenPolicy, err = (CheckpointPolicy{Log: cfg.Ledger, Witnesses: cfg.Witnesses.AnyAge()}).compile(); err != nil {
		return nil, consilium.ErrInvalid.Withf("gate: %w", err)
	}
	if g.own, err = (CheckpointPolicy{Log: cfg.Ledger, Unwitnessed: true}).compile(); err != nil {
		return nil, consilium.ErrInvalid.Withf("gate: %w", err)
	}
	if cfg.Seen != nil {
		g.seen, err = g.seenPolicy.verify(cfg.Seen, g.now())
		if errors.Is(err, ErrQuorum) {
			// The witnesses of its time are not those of this roster. What was seen
			// is a floor and lets no row through, so the log's own signature will do:
			// whoever could put another one here could as well put an older one.
			g.seen, err = g.own.verify(cfg.Seen, g.now())
		}
		if err != nil {
			return nil, fmt.Errorf("gate: the checkpoint seen last: %w", err)
		}
	}
	return g, nil
}

// Seen is the checkpoint seen last, to be kept for the next run; nil if none.
func (g *Gate) Seen() []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.seen == nil {
		return nil
	}
	return append([]byte(nil), g.seen.Raw...)
}

// entriesAtOnce bounds the entries in memory: at most 64 MiB.
const entriesAtOnce = 1024

// Update reads what the ledger published since the last look. An error is a
// consilium.ErrLedger, and nothing that was seen is forgotten.
func (g *Gate) Update(ctx context.Context, view View) (*Checkpoint, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c, _, err := g.update(ctx, view)
	return c, err
}

func (g *Gate) update(ctx context.Context, view View) (*Checkpoint, *knowledge, error) {
	raw, err := view.Checkpoint(ctx)
	if err != nil {
		return nil, nil, consilium.ErrLedger.With(err)
	}
	c, err := g.checkpoint.verify(raw, g.now())
	if errors.Is(err, ErrStaleCheckpoint) || errors.Is(err, ErrQuorum) {
		// These may pass. What contradicts the ledger as it was seen does not: no
		// witness will ever cosign it, however long one waits.
		if bad := g.denied(ctx, view, raw); bad != nil {
			return nil, nil, bad
		}
	}
	if err != nil {
		return nil, nil, err
	}
	if err := g.against(c); err != nil {
		return nil, nil, err
	}
	// The stored tree is extended entry by entry. That proves consistency with
	// what was seen and inclusion of every entry at once, and it is complete.
	k := g.know
	if c.Size > k.edge.Size() {
		k = k.clone()
		for k.edge.Size() < c.Size {
			from := k.edge.Size()
			to := min(from+entriesAtOnce, c.Size)
			entries, err := view.Entries(ctx, from, to, c.Size)
			if err != nil {
				return nil, nil, consilium.ErrLedger.With(err)
			}
			if uint64(len(entries)) != to-from {
				return nil, nil, consilium.ErrLedger.Withf("the ledger returned %d entries, want %d", len(entries), to-from)
			}
			if err := g.learn(ctx, view, k, entries, c); err != nil {
				return nil, nil, err
			}
		}
	}
	if k.edge.Root() != c.Root {
		return nil, nil, g.explain(ctx, view, c)
	}
	g.seen, g.know = c, k
	return c, k, nil
}

// against compares a checkpoint with the one that was seen last.
func (g *Gate) against(c *Checkpoint) error {
	switch {
	case g.seen == nil:
		return nil
	case c.Size < g.seen.Size:
		return consilium.ErrLedger.Withf("%w: size %d, was %d", ErrRollback, c.Size, g.seen.Size)
	case c.Size == g.seen.Size && c.Root != g.seen.Root:
		return consilium.ErrLedger.Withf("%w: two roots at size %d", ErrSplitView, c.Size)
	}
	return nil
}

// denied holds a checkpoint that lacks witnesses, which is raw, against what was
// seen: the log's own signature is enough to convict it. A larger tree is convicted
// by its own proof alone; one that gives none lets no row through either.
func (g *Gate) denied(ctx context.Context, view View, raw []byte) error {
	c, err := g.own.verify(raw, g.now())
	if err != nil {
		return nil // not the log's word at all: verify has said what is wrong
	}
	if err := g.against(c); err != nil || g.seen == nil || g.seen.Size == 0 {
		return err
	}
	path, err := view.Consistency(ctx, g.seen.Size, c.Size)
	if err != nil {
		return nil
	}
	if err := VerifyConsistency(g.seen.Size, g.seen.Root, c.Size, c.Root, path); err != nil {
		return consilium.ErrLedger.Withf("%w: sizes %d and %d: %w", ErrSplitView, g.seen.Size, c.Size, err)
	}
	return nil
}

// explain tells a log that shows two histories from one whose stored entries
// were changed: in the second case its own proof of consistency still holds.
func (g *Gate) explain(ctx context.Context, view View, c *Checkpoint) error {
	if g.seen != nil && g.seen.Size > 0 {
		path, err := view.Consistency(ctx, g.seen.Size, c.Size)
		if err != nil {
			return consilium.ErrLedger.Withf("%w: no proof from size %d to %d: %w", ErrSplitView, g.seen.Size, c.Size, err)
		}
		if err := VerifyConsistency(g.seen.Size, g.seen.Root, c.Size, c.Root, path); err != nil {
			return consilium.ErrLedger.Withf("%w: sizes %d and %d: %w", ErrSplitView, g.seen.Size, c.Size, err)
		}
	}
	return consilium.ErrLedger.Withf("%w at size %d", ErrCorrupt, c.Size)
}

// learn appends entries to k, checking each.
func (g *Gate) learn(ctx context.Context, view View, k *knowledge, entries [][]byte, c *Checkpoint) error {
	type checked struct {
		entry *Entry
		err   error
	}
	out := make([]checked, len(entries))
	parallel(len(entries), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			out[i].entry, out[i].err = checkEntry(entries[i], g.site)
		}
	})
	for i := range out {
		at := k.edge.Size()
		k.edge.AppendData(entries[i])
		// The prefix that was seen must hash to what was seen, before any word of
		// it is believed.
		if g.seen != nil && k.edge.Size() == g.seen.Size && k.edge.Root() != g.seen.Root {
			return g.explain(ctx, view, c)
		}
		if err := out[i].err; err != nil {
			return consilium.ErrLedger.Withf("%w: entry %d: %w", ErrForgedEntry, at, err)
		}
		if err := k.apply(g.checkpoint.origin, out[i].entry, at, g.site); err != nil {
			return consilium.ErrLedger.Withf("entry %d: %w", at, err)
		}
	}
	return nil
}

func (k *knowledge) apply(origin string, e *Entry, at uint64, key consilium.PublicKey) error {
	if e.Domain == consilium.DomainBatch {
		sh, err := headerOf(e)
		if err != nil {
			return err
		}
		h, digest := sh.Header, sh.Digest()
		if h.Origin != origin {
			return fmt.Errorf("batch %s is made for the ledger %s", h.Batch, clip(h.Origin))
		}
		if b := k.batches[h.Batch]; b != nil {
			if b.digest == digest {
				return nil // the same header again: an append that was retried
			}
			return fmt.Errorf("batch %s has two headers", h.Batch)
		}
		stream := k.streams[h.Stream]
		switch {
		case h.Seq != uint64(len(stream)):
			return fmt.Errorf("stream %s goes from seq %d to %d", h.Stream, len(stream), h.Seq)
		case h.Seq > 0 && h.Prev != stream[h.Seq-1].digest:
			return fmt.Errorf("stream %s forks at seq %d", h.Stream, h.Seq)
		}
		b := &knownBatch{header: h, digest: digest, index: at, key: key}
		k.batches[h.Batch] = b
		k.streams[h.Stream] = append(stream, b)
		return nil
	}
	r, err := ParseRecord(e.Payload)
	if err != nil {
		return err
	}
	switch r.Type {
	case RecordConsent, RecordWithdrawal, RecordKey, RecordMandate:
		for _, ref := range r.Refs {
			if _, ok := k.refs[ref]; !ok {
				k.refs[ref] = r.Type
			}
		}
	case RecordErasure:
		for _, ref := range r.Refs {
			k.refs[ref] = RecordErasure
		}
	}
	return nil
}

// ledgerRefs is what the ledger says of consents, at the last look.
func (g *Gate) ledgerRefs() (map[consilium.Digest]RecordType, *Checkpoint) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.know.refs, g.seen // know is replaced, never changed
}

// Batches is how many batches of a stream the ledger held at the last Update.
func (g *Gate) Batches(stream ID) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.know == nil {
		return 0
	}
	return len(g.know.streams[stream])
}

// BatchIndex is where the ledger holds a batch's header, for receipts.
func (g *Gate) BatchIndex(batch ID) (uint64, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	b, ok := g.know.batches[batch]
	if !ok {
		return 0, false
	}
	return b.index, true
}
