package evm

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"math/big"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/rawdb"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/ethclient"
	"github.com/ethereum/go-ethereum/ethclient/simulated"
	"github.com/ethereum/go-ethereum/ethdb/memorydb"
	"github.com/ethereum/go-ethereum/rpc"
	"github.com/ethereum/go-ethereum/trie"
	"github.com/ethereum/go-ethereum/triedb"

	"consilium"
	"consilium/provenance"
	"consilium/provenance/chain"
)

type world struct {
	*testing.T
	chain    *simulated.Backend
	key      *ecdsa.PrivateKey
	stranger *ecdsa.PrivateKey
	contract common.Address
	a        *Anchorer
	cfg      Config
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t}
	var err error
	if w.key, err = crypto.GenerateKey(); err != nil {
		t.Fatal(err)
	}
	if w.stranger, err = crypto.GenerateKey(); err != nil {
		t.Fatal(err)
	}
	rich := types.Account{Balance: new(big.Int).Lsh(big.NewInt(1), 100)}
	w.chain = simulated.NewBackend(types.GenesisAlloc{crypto.PubkeyToAddress(w.key.PublicKey): rich, crypto.PubkeyToAddress(w.stranger.PublicKey): rich})
	t.Cleanup(func() { w.chain.Close() })
	if w.contract, _, err = Deploy(t.Context(), w.chain.Client(), w.key); err != nil {
		t.Fatal(err)
	}
	w.chain.Commit()
	w.cfg = Config{Chain: w.chain.Client(), Key: w.key, Contract: w.contract, Dir: t.TempDir(), Depth: 3}
	w.reopen()
	return w
}

// reopen starts the program anew: what it knows, it reads from its directory.
func (w *world) reopen() {
	w.Helper()
	var err error
	if w.a, err = New(w.cfg); err != nil {
		w.Fatal(err)
	}
}

func heads(n byte) []provenance.Head {
	return []provenance.Head{{Origin: "a.example/ledger", Size: 10 + uint64(n), Root: consilium.Digest{n}}, {Origin: "b.example/ledger", Size: 20, Root: consilium.Digest{n, 1}}}
}

// patiently asks again while the node says that it still indexes: on a busy
// machine the simulated one does so for its first moments.
func (w *world) patiently(ask func() (*provenance.Anchor, error)) *provenance.Anchor {
	w.Helper()
	for {
		a, err := ask()
		if err == nil {
			return a
		}
		if !errors.Is(err, ErrIndexing) {
			w.Fatal(err)
		}
		select {
		case <-w.Context().Done():
			w.Fatal(err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (w *world) put(epoch uint64, n byte) *provenance.Anchor {
	w.Helper()
	return w.patiently(func() (*provenance.Anchor, error) { return w.a.Put(w.Context(), epoch, heads(n)) })
}

func (w *world) poll(epoch uint64, want provenance.AnchorStatus) *provenance.Anchor {
	w.Helper()
	a := w.patiently(func() (*provenance.Anchor, error) { return w.a.Poll(w.Context(), epoch) })
	if a.Status != want {
		w.Errorf("epoch %d: %s, want %s", epoch, a.Status, want)
	}
	return a
}

func (w *world) rpc() *rpc.Client {
	w.Helper()
	// The simulated chain hides the client's method behind a field of its name.
	c, ok := reflect.ValueOf(w.chain.Client()).FieldByName("Client").Interface().(*ethclient.Client)
	if !ok {
		w.Fatal("the simulated chain has no RPC client")
	}
	return c.Client()
}

func TestLifecycle(t *testing.T) {
	w := newWorld(t)
	w.put(1, 1)
	w.poll(1, provenance.AnchorPending)
	w.chain.Commit()
	a := w.poll(1, provenance.AnchorIncluded)
	if a.Block == "" || a.Height == 0 {
		t.Errorf("%+v", a)
	}
	w.chain.Commit()
	w.chain.Commit()
	w.poll(1, provenance.AnchorIncluded) // depth 2 of 3
	w.reopen()
	w.chain.Commit()
	w.poll(1, provenance.AnchorFinal)
	// Sent again after a crash: the same transaction, nothing new in the chain.
	again := w.put(1, 1)
	if again.Tx != a.Tx {
		t.Errorf("another transaction: %s and %s", again.Tx, a.Tx)
	}
	w.chain.Commit()
	w.poll(1, provenance.AnchorFinal)
	// Other heads for the same epoch are refused before anything is sent.
	if _, err := w.a.Put(t.Context(), 1, heads(9)); !errors.Is(err, consilium.ErrInvalid) {
		t.Errorf("two roots for an epoch: %v", err)
	}
	w.put(5, 5) // epochs may skip
	w.chain.Commit()
	w.poll(5, provenance.AnchorIncluded)
}

// The chain replaces the block: the anchor falls out, is sent again unchanged,
// and becomes final. The naive twin, which remembers the receipt, says final.
func TestReorganisation(t *testing.T) {
	w := newWorld(t)
	parent, err := w.chain.Client().HeaderByNumber(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	first := w.put(1, 1)
	w.chain.Commit()
	before := w.poll(1, provenance.AnchorIncluded)
	if err := w.chain.Fork(parent.Hash()); err != nil {
		t.Fatal(err)
	}
	for range 4 { // a longer branch, without the anchor
		w.chain.Rollback()
		w.chain.Commit()
	}
	now, err := w.chain.Client().HeaderByNumber(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if now.Number.Uint64() < before.Height+w.cfg.Depth {
		t.Fatal("the branch is too short for the naive twin to be wrong")
	}
	at, err := w.chain.Client().HeaderByNumber(t.Context(), new(big.Int).SetUint64(before.Height))
	if err != nil {
		t.Fatal(err)
	}
	if at.Hash().Hex() == before.Block {
		t.Fatal("the block was not replaced")
	}
	a := w.poll(1, provenance.AnchorReorged) // which sends it again
	if a.Tx != first.Tx {
		t.Error("another transaction was sent")
	}
	w.chain.Commit()
	w.poll(1, provenance.AnchorIncluded)
	for range 3 {
		w.chain.Commit()
	}
	a = w.poll(1, provenance.AnchorFinal)
	if a.Block == before.Block {
		t.Error("final in the block that was replaced")
	}
}

// What the contract refuses, by itself: nobody asks our program.
func TestContractRefuses(t *testing.T) {
	w := newWorld(t)
	w.put(4, 4)
	w.chain.Commit()
	root, _ := provenance.SuperRoot(4, heads(4))
	for name, x := range map[string]struct {
		key   *ecdsa.PrivateKey
		epoch uint64
		root  consilium.Digest
		good  bool
	}{
		"the same again": {w.key, 4, root, true},
		"another root":   {w.key, 4, consilium.Digest{9}, false},
		"an epoch back":  {w.key, 3, consilium.Digest{9}, false},
		"epoch 0":        {w.key, 0, consilium.Digest{9}, false},
		"no root":        {w.key, 5, consilium.Digest{}, false},
		"a stranger":     {w.stranger, 5, consilium.Digest{9}, false},
		"the next":       {w.key, 5, consilium.Digest{9}, true},
	} {
		data, err := putData(x.epoch, x.root)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := sign(t.Context(), w.chain.Client(), x.key, &w.contract, data); (err == nil) != x.good {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A stranger's anchor, forced into a block, reverts and is reported.
	cfg := w.cfg
	cfg.Key, cfg.Dir = w.stranger, t.TempDir()
	other, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Put(t.Context(), 6, heads(6)); err == nil || !strings.Contains(err.Error(), "refuse") {
		t.Errorf("a stranger's anchor: %v", err)
	}
}

func TestOfflineProof(t *testing.T) {
	w := newWorld(t)
	w.put(1, 1)
	w.put(2, 2)
	w.chain.Commit()
	for range 3 {
		w.chain.Commit()
	}
	a := w.poll(2, provenance.AnchorFinal)
	proven, err := Prove(t.Context(), w.chain.Client(), w.rpc(), a, a.Height)
	if err != nil {
		t.Fatal(err)
	}
	trusted := w.trust(a.Block)
	if f, err := chain.Verify(proven, trusted); err != nil {
		t.Fatal(err)
	} else if head, err := w.chain.Client().HeaderByHash(t.Context(), common.HexToHash(a.Block)); err != nil || f.Number != head.Number.Uint64() || f.Time.Unix() != int64(head.Time) || f.Number != a.Height {
		t.Errorf("%+v, the chain's header says %d at %d: %v", f, head.Number, head.Time, err)
	}
	b, err := json.Marshal(proven)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("anchor with proof: %d bytes", len(b))
	read, err := provenance.ParseAnchor(b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := chain.Verify(read, trusted); err != nil {
		t.Errorf("from its file: %v", err)
	}
	// The anchor holds in later blocks too.
	if later, err := Prove(t.Context(), w.chain.Client(), w.rpc(), a, a.Height+2); err != nil {
		t.Error(err)
	} else if _, err := chain.Verify(later, trusted); err == nil {
		t.Error("a proof under another block than the trusted one")
	} else if f, err := chain.Verify(later, w.trust(later.Block, a.Block)); err != nil || f.Number != a.Height+2 {
		t.Errorf("under a later block that is trusted too: %v", err)
	}
	refused := func(name string, edit func(*provenance.Anchor, *chain.Proof)) {
		t.Helper()
		x := *proven
		x.Heads = append([]provenance.Head(nil), proven.Heads...)
		var p chain.Proof
		if err := json.Unmarshal(proven.Proof, &p); err != nil {
			t.Fatal(err)
		}
		edit(&x, &p)
		x.Proof, _ = json.Marshal(&p)
		if _, err := chain.Verify(&x, trusted); !errors.Is(err, consilium.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	refused("other heads", func(x *provenance.Anchor, _ *chain.Proof) { x.Heads[0].Size++ })
	refused("other heads, with their root", func(x *provenance.Anchor, _ *chain.Proof) {
		x.Heads[0].Size++
		x.SuperRoot, _ = provenance.SuperRoot(x.Epoch, x.Heads)
	})
	refused("another epoch", func(x *provenance.Anchor, _ *chain.Proof) {
		x.Epoch, x.Heads = 1, heads(2)
		x.SuperRoot, _ = provenance.SuperRoot(1, x.Heads)
	})
	refused("an epoch that is not there", func(x *provenance.Anchor, _ *chain.Proof) {
		x.Epoch = 9
		x.SuperRoot, _ = provenance.SuperRoot(9, x.Heads)
	})
	refused("another contract", func(x *provenance.Anchor, _ *chain.Proof) { x.Contract = common.Address{1}.Hex() })
	refused("another header", func(_ *provenance.Anchor, p *chain.Proof) { p.Header[40] ^= 1 })
	refused("an account off the root", func(_ *provenance.Anchor, p *chain.Proof) { p.Account[0][9] ^= 1 })
	refused("a value off the root", func(_ *provenance.Anchor, p *chain.Proof) { p.Storage[len(p.Storage)-1][9] ^= 1 })
	refused("no path", func(_ *provenance.Anchor, p *chain.Proof) { p.Storage = nil })
	refused("another height", func(x *provenance.Anchor, _ *chain.Proof) { x.Height++ })
	refused("another block", func(x *provenance.Anchor, _ *chain.Proof) { x.Block = common.Hash{1}.Hex() })
	refused("another chain", func(x *provenance.Anchor, _ *chain.Proof) { x.Chain = provenance.ChainComet })
	// Who controls the node makes a chain of his own, in which everything is
	// proven: without a block hash from elsewhere, the naive twin believes it.
	liar := newWorld(t)
	liar.put(2, 7)
	liar.chain.Commit()
	lie := liar.poll(2, provenance.AnchorIncluded)
	forged, err := Prove(t.Context(), liar.chain.Client(), liar.rpc(), lie, lie.Height)
	if err != nil {
		t.Fatal(err)
	}
	naive := liar.trust(forged.Block) // what the file itself says
	if _, err := chain.Verify(forged, naive); err != nil {
		t.Errorf("the naive twin noticed: %v", err)
	}
	if _, err := chain.Verify(forged, chain.Trust{Contract: naive.Contract, Blocks: trusted.Blocks}); err == nil {
		t.Error("a private chain's proof under the trusted block")
	}
}

func (w *world) trust(blocks ...string) chain.Trust {
	w.Helper()
	out := chain.Trust{Contract: chain.Address(w.contract)}
	for _, b := range blocks {
		out.Blocks = append(out.Blocks, chain.Hash(common.HexToHash(b)))
	}
	return out
}

// A hospital rewrites its ledger and anchors the new history in a contract of
// its own, on the very chain of the federation: the block is real and final. A
// naive verifier, which takes the contract from the anchor's file, is content.
func TestContractOfOnesOwn(t *testing.T) {
	w := newWorld(t)
	w.put(2, 2)
	own, _, err := Deploy(t.Context(), w.chain.Client(), w.stranger)
	if err != nil {
		t.Fatal(err)
	}
	w.chain.Commit()
	cfg := w.cfg
	cfg.Key, cfg.Contract, cfg.Dir = w.stranger, own, t.TempDir()
	liar, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := liar.Put(t.Context(), 2, heads(7)); err != nil {
		t.Fatal(err)
	}
	w.chain.Commit()
	a, err := liar.Poll(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := Prove(t.Context(), w.chain.Client(), w.rpc(), a, a.Height)
	if err != nil {
		t.Fatal(err)
	}
	naive := w.trust(a.Block)
	if naive.Contract, err = chain.ParseAddress(forged.Contract); err != nil {
		t.Fatal(err)
	}
	if _, err := chain.Verify(forged, naive); err != nil {
		t.Errorf("the naive twin noticed: %v", err)
	}
	if _, err := chain.Verify(forged, w.trust(a.Block)); !errors.Is(err, consilium.ErrSignature) {
		t.Errorf("an anchor in a contract of one's own: %v", err)
	}
	// Naming the federation's contract does not move the proof there.
	forged.Contract = w.contract.Hex()
	if _, err := chain.Verify(forged, w.trust(a.Block)); !errors.Is(err, consilium.ErrSignature) {
		t.Errorf("a proof of another contract: %v", err)
	}
	for name, trust := range map[string]chain.Trust{"no block": w.trust(), "no contract": {Blocks: naive.Blocks}, "the zero block": w.trust(common.Hash{}.Hex())} {
		if _, err := chain.Verify(forged, trust); err == nil {
			t.Errorf("%s to trust, and verified", name)
		}
	}
}

// Trees of many accounts and slots, as no chain on this machine has: what
// go-ethereum's own trie proves, package chain reads the same, and what is
// absent is absent.
func TestPathsAsGoEthereum(t *testing.T) {
	for _, size := range []int{1, 2, 3, 17, 300, 5000} {
		tr := trie.NewEmpty(triedb.NewDatabase(rawdb.NewMemoryDatabase(), nil))
		want := map[[4]byte][]byte{}
		for i := range size {
			key := [4]byte{byte(i >> 8), byte(i), 7}
			value := bytes.Repeat([]byte{byte(i), 1}, 1+i%40) // small ones are embedded in their parents
			want[key] = value
			tr.MustUpdate(crypto.Keccak256(key[:]), value)
		}
		root := tr.Hash()
		for i := range size + 20 {
			key := [4]byte{byte(i >> 8), byte(i), 7}
			db := memorydb.New()
			if err := tr.Prove(crypto.Keccak256(key[:]), db); err != nil {
				t.Fatal(err)
			}
			var nodes [][]byte
			it := db.NewIterator(nil, nil)
			for it.Next() {
				nodes = append(nodes, bytes.Clone(it.Value()))
			}
			it.Release()
			theirs, err := trie.VerifyProof(root, crypto.Keccak256(key[:]), db)
			if err != nil {
				t.Fatal(err)
			}
			ours, err := chain.Lookup(root, key[:], nodes)
			if (err == nil) != (theirs != nil) || !bytes.Equal(ours, theirs) || !bytes.Equal(theirs, want[key]) {
				t.Fatalf("%d of %d: %x and %x: %v", i, size, ours, theirs, err)
			}
			// A path that lacks a node proves nothing, present or absent.
			for drop := range nodes {
				less := append(append([][]byte{}, nodes[:drop]...), nodes[drop+1:]...)
				if v, err := chain.Lookup(root, key[:], less); err == nil || v != nil {
					t.Fatalf("%d of %d without node %d: %x", i, size, drop, v)
				}
			}
			if i > 60 && i < size-5 {
				continue
			}
			for at := range nodes {
				for flip := range nodes[at] {
					nodes[at][flip] ^= 1
					if v, err := chain.Lookup(root, key[:], nodes); err == nil {
						t.Fatalf("%d of %d with a bit of node %d flipped: %x", i, size, at, v)
					}
					nodes[at][flip] ^= 1
				}
			}
		}
	}
}

// A node that cannot be reached leaves the signed transaction behind; later it
// is sent, the same.
func TestCrashBeforeSending(t *testing.T) {
	w := newWorld(t)
	cfg := w.cfg
	cfg.Chain = deaf{w.chain.Client()}
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Put(t.Context(), 1, heads(1)); err == nil {
		t.Fatal("sent to a deaf node")
	}
	s, err := a.read(1)
	if err != nil {
		t.Fatal(err)
	}
	w.poll(1, provenance.AnchorPending) // which sends it
	w.chain.Commit()
	if got := w.poll(1, provenance.AnchorIncluded); got.Tx != s.Anchor.Tx {
		t.Error("another transaction")
	}
	if _, err := New(Config{}); err == nil {
		t.Error("without chain and key")
	}
	if _, err := w.a.Poll(t.Context(), 77); err == nil {
		t.Error("an epoch that was never sent")
	}
	if p := w.a.path(1); filepath.Dir(p) != w.cfg.Dir {
		t.Error(p)
	}
}

type deaf struct{ Chain }

func (deaf) SendTransaction(context.Context, *types.Transaction) error {
	return errors.New("connection refused")
}

// A node that refuses a transaction while it still indexes is asked again, and what it
// refused for is told: without money in the account, asking again would not end.
func TestRefusedWhileIndexing(t *testing.T) {
	w := newWorld(t)
	cfg := w.cfg
	cfg.Chain = indexes{w.chain.Client()}
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"the first time", "kept, and sent again"} {
		_, err := a.Put(t.Context(), 1, heads(1))
		if !errors.Is(err, ErrIndexing) || !errors.Is(err, errPoor) || !strings.Contains(err.Error(), "epoch 1") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

var errPoor = errors.New("insufficient funds for gas * price + value")

// indexes is a node that still indexes and refuses what it is sent.
type indexes struct{ Chain }

func (indexes) SendTransaction(context.Context, *types.Transaction) error { return errPoor }

func (indexes) TransactionByHash(context.Context, common.Hash) (*types.Transaction, bool, error) {
	return nil, false, errors.New("transaction indexing is in progress")
}
