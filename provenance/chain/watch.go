package chain

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"consilium"
	"consilium/provenance"
)

// Watch says which anchors must stand behind a ledger before a row of it is
// used. A reader who watches is safe even from a history on which the hospital
// and all its witnesses agree, as far as it was anchored.
type Watch struct {
	Dir      string        // holds the anchors with their proofs, *.json, as `consilium-anchor prove` writes them
	Contract Address       // the federation's
	Blocks   string        // file of trusted block hashes, one a line; # begins a comment
	MaxAge   time.Duration // of the newest anchor's block
}

// DefaultMaxAge is for a federation that anchors once a week.
const DefaultMaxAge = 8 * 24 * time.Hour

// maxSkew is how far a block's time may be ahead of ours. The chain bounds it to
// seconds; the rest is our own clock.
const maxSkew = 15 * time.Minute

// Bounds of what is read.
const (
	maxAnchors = 10_000 // files: two centuries of weeks
	maxBlocks  = 1 << 20
)

// Report is what the anchors say of a ledger.
type Report struct {
	Anchors int    // that name the ledger
	Newest  Facts  // of these
	Size    uint64 // entries that it fixes; those behind them rest on the witnesses
}

// Check verifies every anchor in w.Dir and that the ledger in view, at the
// checkpoint cp that the caller has verified, continues each. Everything that is
// not as it must be is an error, a consilium.ErrLedger around
// provenance.ErrAnchor: no anchor, one that is not proven, one of another history,
// a newest one that is too old or that leaves this ledger out.
func (w Watch) Check(ctx context.Context, view provenance.View, cp *provenance.Checkpoint, now time.Time) (*Report, error) {
	bad := func(format string, args ...any) (*Report, error) {
		return nil, consilium.ErrLedger.Withf("%w: "+format, append([]any{provenance.ErrAnchor}, args...)...)
	}
	trust, err := w.trust()
	if err != nil {
		return bad("%w", err)
	}
	anchors, err := w.read()
	if err != nil {
		return bad("%w", err)
	}
	r := &Report{}
	for i, a := range anchors {
		f, err := Verify(a, *trust)
		if err != nil {
			return bad("%w", err)
		}
		head, ok := a.Head(cp.Origin)
		if !ok {
			if i == len(anchors)-1 || r.Anchors > 0 {
				return bad("epoch %d leaves the ledger %s out", a.Epoch, cp.Origin)
			}
			continue // from before the hospital joined
		}
		if err := provenance.VerifyContinues(ctx, head, view, cp); err != nil {
			return nil, fmt.Errorf("epoch %d: %w", a.Epoch, err)
		}
		r.Anchors, r.Newest, r.Size = r.Anchors+1, *f, head.Size
	}
	maxAge := w.MaxAge
	if maxAge == 0 {
		maxAge = DefaultMaxAge
	}
	switch age := now.Sub(r.Newest.Time); {
	case age > maxAge:
		return bad("%w: the newest anchor, epoch %d, is of %s, more than %v ago; anchor a new epoch and put its proof into %s", provenance.ErrAnchorAge, r.Newest.Epoch, r.Newest.Time.Format(time.RFC3339), maxAge, w.Dir)
	case age < -maxSkew:
		return bad("%w: epoch %d is in a block of %s, which is in the future: is this machine's clock right?", provenance.ErrAnchorAge, r.Newest.Epoch, r.Newest.Time.Format(time.RFC3339))
	}
	return r, nil
}

// NewestAnchor reads the anchor of the highest epoch, proven under w, with what it
// says.
func (w Watch) NewestAnchor() (*provenance.Anchor, error) {
	trust, err := w.trust()
	if err != nil {
		return nil, err
	}
	anchors, err := w.read()
	if err != nil {
		return nil, err
	}
	a := anchors[len(anchors)-1]
	_, err = Verify(a, *trust)
	return a, err
}

func (w Watch) trust() (*Trust, error) {
	f, err := os.Open(w.Blocks)
	if err != nil {
		return nil, fmt.Errorf("the trusted blocks: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() > maxBlocks {
		return nil, errors.Join(err, fmt.Errorf("%s: too large for a list of blocks", w.Blocks))
	}
	t := &Trust{Contract: w.Contract}
	in := bufio.NewScanner(f)
	for line := 1; in.Scan(); line++ {
		text, _, _ := strings.Cut(in.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		h, err := ParseHash(text)
		if err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", w.Blocks, line, err)
		}
		t.Blocks = append(t.Blocks, h)
	}
	if err := in.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", w.Blocks, err)
	}
	if len(t.Blocks) == 0 {
		return nil, fmt.Errorf("%s names no block; write there the hash of the newest anchor's block, as a node of your own choice tells it", w.Blocks)
	}
	return t, nil
}

// read returns the anchors in the order of their epochs.
func (w Watch) read() ([]*provenance.Anchor, error) {
	names, err := filepath.Glob(filepath.Join(strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(w.Dir), "*.json"))
	if err != nil {
		return nil, err
	}
	if len(names) == 0 || len(names) > maxAnchors {
		return nil, fmt.Errorf("%d anchors in %s; put there what `consilium-anchor prove` writes", len(names), w.Dir)
	}
	var out []*provenance.Anchor
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		a, err := provenance.ParseAnchor(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b *provenance.Anchor) int {
		switch {
		case a.Epoch < b.Epoch:
			return -1
		case a.Epoch > b.Epoch:
			return 1
		}
		return 0
	})
	for i := 1; i < len(out); i++ {
		if out[i].Epoch == out[i-1].Epoch {
			return nil, fmt.Errorf("epoch %d stands twice in %s", out[i].Epoch, w.Dir)
		}
	}
	return out, nil
}
