package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/hybrid"
	"consilium/internal/pinned"
	"consilium/provenance"
)

// network is four validators in four processes.
type network struct {
	*testing.T
	program, dir, genesis string
	p2p, rpc              [4]string
	ids                   [4]string
	procs                 [4]*exec.Cmd
}

func (n *network) command(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(n.Context(), 4*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, n.program, args...).CombinedOutput()
	return string(out), err
}

func (n *network) must(args ...string) string {
	n.Helper()
	out, err := n.command(args...)
	if err != nil {
		n.Fatalf("%v: %v\n%s", args, err, out)
	}
	return out
}

func (n *network) path(name string) string { return filepath.Join(n.dir, name) }

// nextPort starts somewhere below the ports that the system gives to outgoing
// connections: a port of that range can be taken again between the look and the
// use.
var nextPort atomic.Uint32

func init() { nextPort.Store(uint32(os.Getpid() * 64 % 20000)) }

func freePort(t *testing.T) string {
	t.Helper()
	for range 2000 {
		address := fmt.Sprintf("127.0.0.1:%d", 10000+nextPort.Add(1)%20000)
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal("no free port")
	return ""
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{T: t, dir: t.TempDir()}
	n.program, n.genesis = n.path("bft"), n.path("genesis.json")
	if out, err := exec.Command("go", "build", "-o", n.program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	args := []string{"genesis", "-chain", "hospitals", "-genesis", n.genesis, "-submitter", strings.TrimSpace(n.must("submitter", "-key", n.path("submitter")))}
	for i := range n.procs {
		n.p2p[i], n.rpc[i] = freePort(t), freePort(t)
		out := n.must("init", "-home", n.path(fmt.Sprint(i)), "-name", fmt.Sprintf("hospital-%d", i))
		var c card
		if err := json.Unmarshal([]byte(out), &c); err != nil {
			t.Fatal(err)
		}
		n.ids[i] = string(c.NodeID)
		file := n.path(fmt.Sprintf("card-%d", i))
		if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-validator", file)
	}
	n.must(args...)
	for i := range n.procs {
		n.start(i)
	}
	t.Cleanup(func() {
		for i := range n.procs {
			n.stop(i)
		}
	})
	return n
}

func (n *network) start(i int) {
	n.Helper()
	args := []string{"run", "-home", n.path(fmt.Sprint(i)), "-genesis", n.genesis, "-listen", n.p2p[i], "-rpc", n.rpc[i]}
	for k := range n.procs {
		if k != i {
			args = append(args, "-peer", n.ids[k]+"@"+n.p2p[k])
		}
	}
	cmd := exec.Command(n.program, args...)
	log, err := os.OpenFile(n.path(fmt.Sprintf("log-%d", i)), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		n.Fatal(err)
	}
	log.Close()
	n.procs[i] = cmd
}

// stop kills a validator: nothing is said, as when the power fails.
func (n *network) stop(i int) {
	if n.procs[i] == nil {
		return
	}
	n.procs[i].Process.Signal(syscall.SIGKILL)
	n.procs[i].Wait()
	n.procs[i] = nil
}

func (n *network) anchor(epoch uint64) string {
	n.Helper()
	a := provenance.Anchor{APIVersion: consilium.APIVersion, Kind: "Anchor", Chain: provenance.ChainComet, Epoch: epoch, Status: provenance.AnchorPending,
		Heads: []provenance.Head{{Origin: "a.example/ledger", Size: epoch, Root: consilium.Digest{byte(epoch)}}}}
	var err error
	if a.SuperRoot, err = provenance.SuperRoot(epoch, a.Heads); err != nil {
		n.Fatal(err)
	}
	b, _ := json.Marshal(a)
	file := n.path(fmt.Sprintf("epoch-%d.json", epoch))
	if err := os.WriteFile(file, b, 0o600); err != nil {
		n.Fatal(err)
	}
	return file
}

// put waits for an epoch to be final through validator i, at most so long.
func (n *network) put(i int, file string, within time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(n.Context(), within)
	defer cancel()
	var out []byte
	var err error
	for ctx.Err() == nil { // a validator that is starting refuses
		out, err = exec.CommandContext(ctx, n.program, "put", "-rpc", n.rpc[i], "-genesis", n.genesis, "-key", n.path("submitter"), "-anchor", file).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "connection refused") && !strings.Contains(string(out), "catching up") {
			break
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return string(out), err
}

// One of four down: anchors go on. Two down: none is made, and none is lost:
// the one that waited becomes final when a third is back.
func TestValidators(t *testing.T) {
	n := newNetwork(t)
	const patient = 3 * time.Minute
	first := n.anchor(1)
	if out, err := n.put(0, first, patient); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	n.must("verify", "-anchor", first, "-genesis", n.genesis)
	if out, err := n.put(1, first, patient); err != nil { // again, through another validator
		t.Errorf("%v %s", err, out)
	}

	n.stop(3)
	second := n.anchor(2)
	if out, err := n.put(0, second, patient); err != nil {
		t.Fatalf("one down: %v %s", err, out)
	}
	n.must("verify", "-anchor", second, "-genesis", n.genesis)

	n.stop(2)
	third := n.anchor(3)
	if out, err := n.put(0, third, 8*time.Second); err == nil {
		t.Fatalf("two of four made an anchor: %s", out)
	}
	if out, err := n.command("verify", "-anchor", third, "-genesis", n.genesis); err == nil {
		t.Errorf("an anchor that is not final verifies: %s", out)
	}
	n.start(2) // replays its blocks, and catches up
	if out, err := n.put(0, third, patient); err != nil {
		t.Fatalf("back again: %v %s", err, out)
	}
	n.must("verify", "-anchor", third, "-genesis", n.genesis)
	n.start(3) // was down for all of it
	if out, err := n.put(3, third, patient); err != nil {
		t.Errorf("the last one back: %v %s", err, out)
	}

	// What the validators refuse, and what a verifier refuses.
	if out, err := n.command("put", "-rpc", n.rpc[0], "-genesis", n.genesis, "-key", n.path("mistyped"), "-anchor", n.anchor(4)); err == nil || !strings.Contains(out, "the genesis must name") {
		t.Errorf("a mistyped key: %v %s", err, out)
	}
	n.must("submitter", "-key", n.path("stranger"))
	if out, err := n.command("put", "-rpc", n.rpc[0], "-genesis", n.genesis, "-key", n.path("stranger"), "-anchor", n.anchor(4)); err == nil || !strings.Contains(out, "nobody whom the genesis names") {
		t.Errorf("a stranger: %v %s", err, out)
	}
	back := n.anchor(2)
	os.Remove(back + ".tx")
	b, _ := os.ReadFile(back)
	other := strings.Replace(string(b), `"size":2`, `"size":7`, 1)
	a := provenance.Anchor{}
	if err := json.Unmarshal([]byte(other), &a); err != nil {
		t.Fatal(err)
	}
	a.SuperRoot, _ = provenance.SuperRoot(2, a.Heads)
	b, _ = json.Marshal(a)
	os.WriteFile(back, b, 0o600)
	if out, err := n.put(0, back, patient); err == nil || !strings.Contains(out, "another root") {
		t.Errorf("two roots for an epoch: %v %s", err, out)
	}
	g, err := os.ReadFile(n.genesis)
	if err != nil {
		t.Fatal(err)
	}
	good, err := readAnchor(third)
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*provenance.Anchor){
		"epoch": func(a *provenance.Anchor) { a.Epoch = 4; a.SuperRoot, _ = provenance.SuperRoot(4, a.Heads) },
		"heads": func(a *provenance.Anchor) {
			a.Heads = []provenance.Head{{Origin: "x", Size: 1}}
			a.SuperRoot, _ = provenance.SuperRoot(3, a.Heads)
		},
		"chain":    func(a *provenance.Anchor) { a.ChainID = "other" },
		"kind":     func(a *provenance.Anchor) { a.Chain = provenance.ChainEVM },
		"height":   func(a *provenance.Anchor) { a.Height++ },
		"no proof": func(a *provenance.Anchor) { a.Proof = nil },
		"a signature fewer than two thirds": func(a *provenance.Anchor) {
			a.Proof = json.RawMessage(strings.Replace(string(a.Proof), `"signature":"`, `"signature":"A`, 2))
		},
	} {
		x := *good
		edit(&x)
		if err := verify(&x, g); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	// Another federation's validators, with all their signatures, are not ours.
	liar := newNetwork(t)
	lie := liar.anchor(3)
	if out, err := liar.put(0, lie, patient); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	liar.must("verify", "-anchor", lie, "-genesis", liar.genesis)
	if out, err := n.command("verify", "-anchor", lie, "-genesis", n.genesis); err == nil {
		t.Errorf("other validators: %s", out)
	}
}

// The file of a new epoch is made of checkpoints that verify under a roster of
// the board that is pinned, and of nothing else.
func TestBegin(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, v any) string {
		b, ok := v.([]byte)
		if !ok {
			var err error
			if b, err = json.Marshal(v); err != nil {
				t.Fatal(err)
			}
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	witness, err := provenance.NewWitnessKey("witness.example")
	if err != nil {
		t.Fatal(err)
	}
	log, err := provenance.NewLogKey("ledger.example/one")
	if err != nil {
		t.Fatal(err)
	}
	board, _ := hybrid.Generate()
	site, _ := hybrid.Generate()
	r := consilium.Roster{APIVersion: consilium.APIVersion, Kind: "Roster", Name: "bft.example", Version: 1, NotBefore: 1, NotAfter: 2,
		Board: consilium.Board{Name: "board", Members: []consilium.BoardMember{{ID: "b1", Key: board.Public(), TLS: []consilium.Digest{{9}}}}, Threshold: 1, Witness: witness.Verifier()},
		Sites: []consilium.Site{{ID: "one", Name: "One", Operator: "one", Country: "NL", Regimes: []string{"GDPR"}, Key: site.Public(), TLS: []consilium.Digest{{1}}, Ledger: log.Verifier()}}}
	payload, err := canon.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := board.Sign(consilium.DomainRoster, payload)
	if err != nil {
		t.Fatal(err)
	}
	roster := file("roster.json", consilium.Signed{Payload: payload, Signatures: []consilium.Countersign{{By: "b1", Signature: sig}}})
	unsigned := file("unsigned.json", consilium.Signed{Payload: payload})
	pin := file("board.json", pinned.BoardOf(&r))
	leaf := provenance.LeafHash([]byte("x"))
	whole, err := provenance.SignCheckpoint(log.Name(), 1, leaf, log, witness)
	if err != nil {
		t.Fatal(err)
	}
	alone, err := provenance.SignCheckpoint(log.Name(), 1, leaf, log)
	if err != nil {
		t.Fatal(err)
	}
	cp, lonely := file("checkpoint", whole), file("lonely", alone)
	at := filepath.Join(dir, "epoch-1.json")
	for name, try := range map[string]func() error{
		"no file":              func() error { return begin("", 1, roster, pin, []string{cp}) },
		"no epoch":             func() error { return begin(at, 0, roster, pin, []string{cp}) },
		"no board":             func() error { return begin(at, 1, roster, "", []string{cp}) },
		"no checkpoint":        func() error { return begin(at, 1, roster, pin, nil) },
		"an unsigned roster":   func() error { return begin(at, 1, unsigned, pin, []string{cp}) },
		"without its witness":  func() error { return begin(at, 1, roster, pin, []string{lonely}) },
		"nothing to put again": func() error { return begin(at, 0, "", "", nil) },
	} {
		if err := try(); err == nil {
			t.Errorf("%s: begun", name)
		}
		if _, err := os.Stat(at); err == nil {
			t.Fatalf("%s: written", name)
		}
	}
	for range 2 { // again after a crash
		if err := begin(at, 1, roster, pin, []string{cp}); err != nil {
			t.Fatal(err)
		}
	}
	if err := begin(at, 0, "", "", nil); err != nil {
		t.Error(err)
	}
	if err := begin(at, 2, roster, pin, []string{cp}); err == nil {
		t.Error("another epoch in the same file")
	}
	a, err := readAnchor(at)
	if err != nil || a.Epoch != 1 || len(a.Heads) != 1 || a.Heads[0].Root != leaf || a.Status != provenance.AnchorPending {
		t.Errorf("%+v %v", a, err)
	}
}

// A proposer that means ill puts something else into a block: the others refuse.
func TestProposals(t *testing.T) {
	k, err := hybrid.Generate()
	if err != nil {
		t.Fatal(err)
	}
	a := newApp()
	g, _ := json.Marshal(appState{Submitters: []consilium.PublicKey{k.Public()}})
	if _, err := a.InitChain(t.Context(), &abci.InitChainRequest{ChainId: "c", AppStateBytes: g}); err != nil {
		t.Fatal(err)
	}
	tx := func(chain string, epoch uint64, s *hybrid.Key) []byte {
		b, err := signPut(s, chain, epoch, consilium.Digest{byte(epoch)})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	stranger, _ := hybrid.Generate()
	forged := []byte(strings.Replace(string(tx("c", 2, k)), `"epoch":2`, `"epoch":3`, 1))
	for name, txs := range map[string][][]byte{
		"other chain": {tx("d", 1, k)}, "stranger": {tx("c", 1, stranger)}, "backwards": {tx("c", 2, k), tx("c", 1, k)},
		"twice": {tx("c", 1, k), tx("c", 1, k)}, "forged": {forged}, "noise": {[]byte("x")}, "epoch 0": {tx("c", 0, k)},
	} {
		r, err := a.ProcessProposal(t.Context(), &abci.ProcessProposalRequest{Txs: txs})
		if err != nil || r.Status != abci.PROCESS_PROPOSAL_STATUS_REJECT {
			t.Errorf("%s: %v %v", name, r, err)
		}
		p, err := a.PrepareProposal(t.Context(), &abci.PrepareProposalRequest{Txs: txs, MaxTxBytes: 1 << 20})
		if err != nil || len(p.Txs) >= len(txs) {
			t.Errorf("%s: proposed", name)
		}
	}
	// Two replicas agree.
	b := newApp()
	b.InitChain(t.Context(), &abci.InitChainRequest{ChainId: "c", AppStateBytes: g})
	txs := [][]byte{tx("c", 1, k), tx("c", 5, k)}
	for _, x := range []*app{a, b} {
		if _, err := x.FinalizeBlock(t.Context(), &abci.FinalizeBlockRequest{Height: 1, Txs: txs}); err != nil {
			t.Fatal(err)
		}
		x.Commit(t.Context(), nil)
	}
	if string(a.committed.hash()) != string(b.committed.hash()) || a.committed.last != 5 {
		t.Error("two replicas differ")
	}
}
