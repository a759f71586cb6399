package chain_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"consilium"
	"consilium/provenance"
	"consilium/provenance/chain"
	"consilium/provenance/chain/chaintest"
)

const origin = "ledger.example/a"

// book is a ledger of leaves that proves what it is asked.
type book struct {
	provenance.View
	leaves []consilium.Digest
}

func newBook(words ...string) *book {
	b := &book{}
	for _, w := range words {
		b.leaves = append(b.leaves, provenance.LeafHash([]byte(w)))
	}
	return b
}

func (b *book) head(n int) provenance.Head {
	return provenance.Head{Origin: origin, Size: uint64(n), Root: provenance.TreeRoot(b.leaves[:n])}
}

func (b *book) checkpoint() *provenance.Checkpoint {
	return &provenance.Checkpoint{Origin: origin, Size: uint64(len(b.leaves)), Root: provenance.TreeRoot(b.leaves)}
}

func (b *book) Consistency(_ context.Context, from, to uint64) ([]consilium.Digest, error) {
	return consistency(b.leaves[:to], from, true), nil
}

// consistency is SUBPROOF of RFC 6962 §2.1.2.
func consistency(leaves []consilium.Digest, m uint64, whole bool) []consilium.Digest {
	n := uint64(len(leaves))
	if m == n {
		if whole {
			return nil
		}
		return []consilium.Digest{provenance.TreeRoot(leaves)}
	}
	k := uint64(1)
	for 2*k < n {
		k *= 2
	}
	if m <= k {
		return append(consistency(leaves[:k], m, whole), provenance.TreeRoot(leaves[k:]))
	}
	return append(consistency(leaves[k:], m-k, false), provenance.TreeRoot(leaves[:k]))
}

var (
	contract = chain.Address{0xc0}
	now      = time.Unix(1_800_000_000, 0)
)

// yard is a directory of anchors with its list of trusted blocks.
type yard struct {
	*testing.T
	w chain.Watch
}

func newYard(t *testing.T) *yard {
	y := &yard{t, chain.Watch{Dir: t.TempDir(), Contract: contract, MaxAge: 10 * 24 * time.Hour}}
	y.w.Blocks = filepath.Join(t.TempDir(), "blocks")
	y.write(y.w.Blocks, "# from two nodes of our own choice\n")
	return y
}

func (y *yard) write(path, text string) {
	y.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		y.Fatal(err)
	}
}

func (y *yard) anchor(in chain.Address, epoch uint64, age time.Duration, trusted bool, heads ...provenance.Head) *provenance.Anchor {
	y.Helper()
	a, block, err := chaintest.Anchor(in, epoch, heads, 100*epoch, now.Add(-age))
	if err != nil {
		y.Fatal(err)
	}
	b, err := json.Marshal(a)
	if err != nil {
		y.Fatal(err)
	}
	y.write(filepath.Join(y.w.Dir, fmt.Sprintf("epoch-%d.json", epoch)), string(b))
	if trusted {
		old, _ := os.ReadFile(y.w.Blocks)
		y.write(y.w.Blocks, string(old)+block.String()+" # epoch\n")
	}
	return a
}

func TestWatch(t *testing.T) {
	l := newBook("a", "b", "c", "d", "e", "f", "g")
	other := provenance.Head{Origin: "ledger.example/z", Size: 4, Root: consilium.Digest{4}}
	day := 24 * time.Hour
	y := newYard(t)
	y.anchor(contract, 1, 30*day, true, other) // before the hospital joined
	y.anchor(contract, 2, 9*day, true, l.head(3), other)
	y.anchor(contract, 5, 2*day, true, l.head(6), other)
	r, err := y.w.Check(t.Context(), l, l.checkpoint(), now)
	if err != nil || r.Anchors != 2 || r.Size != 6 || r.Newest.Epoch != 5 || r.Newest.Number != 500 {
		t.Fatalf("%+v %v", r, err)
	}
	// Everybody agrees on another past: the hospital, its witnesses, the checkpoint.
	// The naive twin looks at the ledger alone.
	rewritten := newBook("a", "X", "c", "d", "e", "f", "g")
	if path, _ := rewritten.Consistency(t.Context(), 3, 7); provenance.VerifyConsistency(3, rewritten.head(3).Root, 7, rewritten.checkpoint().Root, path) != nil {
		t.Error("the naive twin noticed")
	}
	for name, x := range map[string]struct {
		set  func(y *yard)
		book *book
		want string
	}{
		"rewritten":            {func(*yard) {}, rewritten, "another root"},
		"cut off":              {func(*yard) {}, newBook("a", "b", "c", "d"), "are left"},
		"rewritten at the end": {func(*yard) {}, newBook("a", "b", "c", "d", "e", "X", "g"), "another root"},
		"no anchor": {func(y *yard) {
			for _, n := range []int{1, 2, 5} {
				os.Remove(filepath.Join(y.w.Dir, fmt.Sprintf("epoch-%d.json", n)))
			}
		}, l, "0 anchors"},
		"no directory":                {func(y *yard) { y.w.Dir += "-gone" }, l, "0 anchors"},
		"no list of blocks":           {func(y *yard) { os.Remove(y.w.Blocks) }, l, "trusted blocks"},
		"an empty list of blocks":     {func(y *yard) { y.write(y.w.Blocks, "# none\n\n") }, l, "names no block"},
		"a list that is none":         {func(y *yard) { y.write(y.w.Blocks, "0x12\n") }, l, "line 1"},
		"an untrusted block":          {func(y *yard) { y.anchor(contract, 6, day, false, l.head(7)) }, l, "not among those that you trust"},
		"a contract of one's own":     {func(y *yard) { y.anchor(chain.Address{0xbad & 0xff}, 6, day, true, l.head(7)) }, l, "the federation's is"},
		"the newest leaves us out":    {func(y *yard) { y.anchor(contract, 6, day, true, other) }, l, "leaves the ledger"},
		"a later one left us out":     {func(y *yard) { y.anchor(contract, 3, 5*day, true, other) }, l, "leaves the ledger"},
		"too old":                     {func(y *yard) { y.w.MaxAge = day }, l, "the newest anchor, epoch 5"},
		"from the future":             {func(y *yard) { y.anchor(contract, 6, -day, true, l.head(7)) }, l, "in the future"},
		"an epoch that stands twice":  {func(y *yard) { copyFile(y, "epoch-5.json", "again.json") }, l, "stands twice"},
		"a file that is no anchor":    {func(y *yard) { y.write(filepath.Join(y.w.Dir, "x.json"), "{}") }, l, "x.json"},
		"an anchor without its proof": {func(y *yard) { strip(y) }, l, "no proof"},
	} {
		y := newYard(t)
		y.anchor(contract, 1, 30*day, true, other)
		y.anchor(contract, 2, 9*day, true, l.head(3), other)
		y.anchor(contract, 5, 2*day, true, l.head(6), other)
		x.set(y)
		r, err := y.w.Check(t.Context(), x.book, x.book.checkpoint(), now)
		if !errors.Is(err, consilium.ErrLedger) || !errors.Is(err, provenance.ErrAnchor) || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %+v %v", name, r, err)
		}
	}
}

func copyFile(y *yard, from, to string) {
	b, err := os.ReadFile(filepath.Join(y.w.Dir, from))
	if err != nil {
		y.Fatal(err)
	}
	y.write(filepath.Join(y.w.Dir, to), string(b))
}

func strip(y *yard) {
	path := filepath.Join(y.w.Dir, "epoch-5.json")
	b, err := os.ReadFile(path)
	if err != nil {
		y.Fatal(err)
	}
	a, err := provenance.ParseAnchor(b)
	if err != nil {
		y.Fatal(err)
	}
	a.Proof = nil
	b, _ = json.Marshal(a)
	y.write(path, string(b))
}
