package provenance

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"consilium"
	"consilium/internal/hybrid"
)

func (h *hospital) record(reason string) []byte {
	h.t.Helper()
	e, err := SignRecord(h.key, &AuditRecord{Type: RecordDecision, Time: 1700000000000, Outcome: "deny", Reason: reason,
		Digests: map[string]consilium.Digest{"policy": randomDigest(), "charter": randomDigest()}})
	if err != nil {
		h.t.Fatal(err)
	}
	return e
}

// A ledger keeps its entries over restarts, and its proofs verify.
func TestLedger(t *testing.T) {
	h := newHospital(t)
	ctx := t.Context()
	var entries [][]byte
	for i := 0; i < 5; i++ {
		entries = append(entries, h.record(fmt.Sprint(i)))
	}
	h.append(entries[:2]...)
	first, err := h.ledger.Checkpoint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.ledger.Close(); err != nil {
		t.Fatal(err)
	}
	h.open()
	h.append(entries[2:]...)
	policy := CheckpointPolicy{Log: h.log.Verifier(), Witnesses: h.policy()}
	old, err := VerifyCheckpoint(first, policy, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := h.ledger.Checkpoint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c, err := VerifyCheckpoint(raw, policy, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if old.Size != 2 || c.Size != 5 {
		t.Fatalf("sizes %d and %d", old.Size, c.Size)
	}
	path, err := h.ledger.Consistency(ctx, 2, 5)
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyConsistency(2, old.Root, 5, c.Root, path); err != nil {
		t.Error(err)
	}
	got, err := h.ledger.Entries(ctx, 0, 5, 5)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range entries {
		if string(got[i]) != string(e) {
			t.Errorf("entry %d is another", i)
		}
		path, err := h.ledger.Inclusion(ctx, uint64(i), 5)
		if err != nil {
			t.Fatal(err)
		}
		if err := VerifyInclusion(LeafHash(e), uint64(i), 5, path, c.Root); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range [][3]uint64{{0, 6, 5}, {3, 2, 5}, {0, 6, 6}} {
		if _, err := h.ledger.Entries(ctx, bad[0], bad[1], bad[2]); err == nil {
			t.Errorf("entries %v were there", bad)
		}
	}
	if _, err := h.ledger.Inclusion(ctx, 5, 5); err == nil {
		t.Error("a proof of an entry beyond the end")
	}
}

// An entry that no verifier would accept never gets in: it would spoil the
// ledger for ever.
func TestLedgerRefusesWhatNobodyWouldBelieve(t *testing.T) {
	h := newHospital(t)
	stranger, err := hybrid.Generate()
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := SignRecord(stranger, &AuditRecord{Type: RecordUse, Time: 1})
	if err != nil {
		t.Fatal(err)
	}
	own := h.record("x")
	for name, e := range map[string][]byte{"empty": nil, "text": []byte("hello"), "of another hospital": foreign,
		"changed": []byte(strings.Replace(string(own), `"deny"`, `"okay"`, 1)), "cut": own[:len(own)-1]} {
		if _, err := h.ledger.Append(t.Context(), e); !errors.Is(err, consilium.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	h.append(own)
	if c, err := h.gate(nil).Update(t.Context(), h.ledger); err != nil || c.Size != 1 {
		t.Errorf("the ledger holds %+v, %v", c, err)
	}
}

// Without the witness nothing is published, nothing is lost, and it goes on
// when the witness is back.
func TestLedgerWaitsForItsWitness(t *testing.T) {
	h := newHospital(t)
	h.append(h.record("before"))
	h.server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	at, err := h.ledger.Append(t.Context(), h.record("during"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.ledger.Await(ctx, at); !errors.Is(err, consilium.ErrLedger) {
		t.Fatalf("published without a witness: %v", err)
	}
	h.ledger.cancel() // as if the process died
	h.server = httptest.NewServer(h.witness)
	defer h.server.Close()
	h.open()
	wait, cancel2 := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel2()
	if _, err := h.ledger.Await(wait, at); err != nil {
		t.Fatal(err)
	}
	if c, err := h.gate(nil).Update(t.Context(), h.ledger); err != nil || c.Size != 2 {
		t.Errorf("after the outage: %+v, %v", c, err)
	}
}

func TestLedgerConfigIsChecked(t *testing.T) {
	w := witnessKeys(t, 1)[0]
	log, err := NewLogKey("log.test/a")
	if err != nil {
		t.Fatal(err)
	}
	key, err := hybrid.Generate()
	if err != nil {
		t.Fatal(err)
	}
	good := LedgerConfig{Dir: t.TempDir(), Key: log, Site: key.Public(), Witnesses: SingleWitness(w.Verifier(), "http://127.0.0.1:1/")}
	for name, edit := range map[string]func(*LedgerConfig){
		"no key":         func(c *LedgerConfig) { c.Key = nil },
		"witness key":    func(c *LedgerConfig) { c.Key = w },
		"no hospital":    func(c *LedgerConfig) { c.Site = consilium.PublicKey{} },
		"no witness":     func(c *LedgerConfig) { c.Witnesses = WitnessPolicy{} },
		"no URL":         func(c *LedgerConfig) { c.Witnesses = SingleWitness(w.Verifier(), "") },
		"witness is off": func(c *LedgerConfig) {},
	} {
		cfg := good
		edit(&cfg)
		if l, err := OpenLedger(t.Context(), cfg); err == nil {
			l.Close()
			t.Errorf("%s: opened", name)
		}
	}
}

// Many writers at once: every entry once, and one order.
func TestLedgerConcurrent(t *testing.T) {
	h := newHospital(t)
	const writers, each = 8, 5
	entries := make([][][]byte, writers)
	for w := range entries {
		for i := 0; i < each; i++ {
			entries[w] = append(entries[w], h.record(fmt.Sprint(w, i)))
		}
	}
	var wg sync.WaitGroup
	at := make([][]uint64, writers)
	for w := range entries {
		wg.Go(func() {
			var err error
			if at[w], err = h.ledger.AppendAll(t.Context(), entries[w]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := h.ledger.Await(ctx, writers*each-1); err != nil {
		t.Fatal(err)
	}
	got, err := h.ledger.Entries(ctx, 0, writers*each, writers*each)
	if err != nil {
		t.Fatal(err)
	}
	for w := range entries {
		for i := range entries[w] {
			if i > 0 && at[w][i] <= at[w][i-1] {
				t.Errorf("writer %d: order lost", w)
			}
			if string(got[at[w][i]]) != string(entries[w][i]) {
				t.Errorf("writer %d: entry %d is not where it was put", w, i)
			}
		}
	}
}

// files lists the ledger's public files.
func (h *hospital) files() []string {
	h.t.Helper()
	var out []string
	err := filepath.WalkDir(h.dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.Contains(p, ".state") {
			out = append(out, p)
		}
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// TestClockSetBack: a ledger whose checkpoint lies in the future, since the
// system's clock was set back, goes on: at the next start, and while it is open.
// Without presentCheckpoint it publishes nothing until the clock is where it was.
func TestClockSetBack(t *testing.T) {
	h := newHospital(t)
	h.append(h.record("before"))
	future := func() {
		t.Helper()
		at := time.Now().Add(time.Hour)
		if err := os.Chtimes(filepath.Join(h.dir, "checkpoint"), at, at); err != nil {
			t.Fatal(err)
		}
	}
	published := func(l *Ledger, what string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		at, err := l.Append(ctx, h.record(what))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Await(ctx, at); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	h.ledger.Close()
	future()
	h.open()
	published(h.ledger, "at the next start")
	h.ledger.Close()
	l, err := OpenLedger(t.Context(), LedgerConfig{Dir: h.dir, Key: h.log, Site: h.key.Public(), Witnesses: h.policy(), Republish: 150 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	future()
	published(l, "while it is open")
}

// TestSeenUnderOtherWitnesses: the checkpoint that a gate saw last is a floor
// under the witnesses of the next roster too. A ledger that they have not cosigned
// yet is waited for, a smaller one is refused.
func TestSeenUnderOtherWitnesses(t *testing.T) {
	h := newHospital(t)
	h.append(h.record("one"))
	early, err := h.ledger.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h.append(h.record("two"))
	g := h.gate(nil)
	if _, err := g.Update(t.Context(), h.ledger); err != nil {
		t.Fatal(err)
	}
	old := h.policy()
	if h.board, err = NewWitnessKey("other.test/board"); err != nil {
		t.Fatal(err)
	}
	next := h.gate(g.Seen())
	if _, err := next.Update(t.Context(), h.ledger); !errors.Is(err, ErrQuorum) {
		t.Errorf("a ledger that the next witness has not cosigned: %v", err)
	}
	// The old witness's word counts again: the floor does too.
	back, err := NewGate(GateConfig{Ledger: h.log.Verifier(), Site: h.key.Public(), Witnesses: old, Seen: next.Seen()})
	if err != nil {
		t.Fatal(err)
	}
	h.ledger.Close()
	if err := os.WriteFile(filepath.Join(h.dir, "checkpoint"), early, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := back.Update(t.Context(), DirView(h.dir)); !errors.Is(err, ErrRollback) {
		t.Errorf("a smaller ledger: %v", err)
	}
	if _, err := NewGate(GateConfig{Ledger: h.log.Verifier(), Site: h.key.Public(), Witnesses: old, Seen: []byte(strings.Replace(string(g.Seen()), "\n2\n", "\n1\n", 1))}); err == nil {
		t.Error("a checkpoint that the log did not sign passes for the one seen last")
	}
}
