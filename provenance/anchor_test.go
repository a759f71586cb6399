package provenance

import (
	"encoding/json"
	"errors"
	"testing"

	"consilium"
)

func TestSuperRoot(t *testing.T) {
	leaves := []consilium.Digest{LeafHash([]byte("a")), LeafHash([]byte("b")), LeafHash([]byte("c"))}
	heads := []Head{{"a.example/ledger", 2, TreeRoot(leaves[:2])}, {"b.example/ledger", 7, consilium.Digest{7}}}
	root, err := SuperRoot(3, heads)
	if err != nil {
		t.Fatal(err)
	}
	// Everything is under it.
	for name, edit := range map[string]func(*uint64, []Head){
		"epoch":  func(e *uint64, _ []Head) { *e = 4 },
		"size":   func(_ *uint64, h []Head) { h[0].Size++ },
		"root":   func(_ *uint64, h []Head) { h[1].Root[0]++ },
		"origin": func(_ *uint64, h []Head) { h[1].Origin += "x" },
	} {
		e, h := uint64(3), append([]Head(nil), heads...)
		edit(&e, h)
		if other, err := SuperRoot(e, h); err != nil || other == root {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, h := range map[string][]Head{"none": nil, "order": {heads[1], heads[0]}, "twice": {heads[0], heads[0]}, "empty": {{"a", 0, root}}, "blank": {{"a b", 1, root}}} {
		if _, err := SuperRoot(3, h); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := SuperRoot(0, heads); err == nil {
		t.Error("epoch 0")
	}
	a := &Anchor{APIVersion: consilium.APIVersion, Kind: "Anchor", Chain: ChainEVM, Epoch: 3, SuperRoot: root, Heads: heads, Status: AnchorFinal, Block: "0x01", Height: 7}
	b, _ := json.Marshal(a)
	if a, err = ParseAnchor(b); err != nil {
		t.Fatal(err)
	}
	if err := VerifyAnchored(a, "a.example/ledger", leaves); err != nil {
		t.Error(err)
	}
	// Every witness and the hospital agree on another past: the anchor does not.
	rewritten := []consilium.Digest{leaves[1], leaves[0], leaves[2]}
	for name, l := range map[string][]consilium.Digest{"rewritten": rewritten, "shorter": leaves[:1]} {
		if err := VerifyAnchored(a, "a.example/ledger", l); !errors.Is(err, ErrAnchor) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := VerifyAnchored(a, "c.example/ledger", leaves); !errors.Is(err, ErrAnchor) {
		t.Errorf("not named: %v", err)
	}
	a.Heads[0].Size = 1
	b, _ = json.Marshal(a)
	if _, err := ParseAnchor(b); !errors.Is(err, consilium.ErrLedger) {
		t.Errorf("heads off their super-root: %v", err)
	}
	a.Heads[0].Size = 2
	for name, edit := range map[string]func(*Anchor){
		"unknown status":        func(a *Anchor) { a.Status = "certain" },
		"no status":             func(a *Anchor) { a.Status = "" },
		"final in no block":     func(a *Anchor) { a.Block, a.Height = "", 0 },
		"pending with a proof":  func(a *Anchor) { a.Status, a.Proof = AnchorPending, json.RawMessage("{}") },
		"chain of another kind": func(a *Anchor) { a.Chain = "paper" },
	} {
		x := *a
		edit(&x)
		b, _ := json.Marshal(&x)
		if _, err := ParseAnchor(b); !errors.Is(err, consilium.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b, _ = json.Marshal(a)
	if _, err := ParseAnchor(append(b, " {}"...)); !errors.Is(err, consilium.ErrInvalid) {
		t.Errorf("two records in a file: %v", err)
	}
}
