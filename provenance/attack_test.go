package provenance

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"consilium"
	"consilium/internal/canon"
)

// copyDir makes a second copy of a directory: what a backup, or an attacker
// who turns back time, would have.
func copyDir(t testing.TB, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(filepath.Join(to, "copy"), os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(to, "copy")
}

// A ledger that shrinks is refused by whoever saw it larger, although every
// signature on the old checkpoint holds.
func TestRollbackIsRefused(t *testing.T) {
	h := newHospital(t)
	first := h.anchor(testRows()[:4])
	old := copyDir(t, h.dir)
	h.anchor(testRows()[4:])
	g := h.gate(nil)
	if v := h.verify(g, record(t, testRows())); v.Counts.Verified != 7 {
		t.Fatalf("counts %+v", v.Counts)
	}
	in := Input{Stream: h.stream, Batches: []Batch{first}, Records: h.input(record(t, testRows()[:4])).Records, Salts: h.salts}
	for name, gate := range map[string]*Gate{"in memory": g, "after a restart": h.gate(g.Seen())} {
		if _, err := gate.Verify(t.Context(), DirView(old), in); !errors.Is(err, ErrRollback) || !errors.Is(err, consilium.ErrLedger) {
			t.Errorf("%s: %v, want rollback", name, err)
		}
	}
	// The naive twin remembers nothing: the later rows are simply gone.
	if v, err := h.gate(nil).Verify(t.Context(), DirView(old), in); err != nil || v.Counts.Missing != 0 {
		t.Errorf("the naive twin noticed: %+v %v", v, err)
	}
	// What was refused is not forgotten.
	if _, err := g.Update(t.Context(), h.ledger); err != nil {
		t.Errorf("the true ledger is refused afterwards: %v", err)
	}
}

// A second history, signed by the log's own key: the board's witness does not
// cosign it; and even with a witness that does, whoever saw the first refuses.
func TestSplitViewIsRefused(t *testing.T) {
	h := newHospital(t)
	h.anchor(testRows())
	g := h.gate(nil)
	h.verify(g, record(t, testRows()))

	fork := *h
	fork.dir, fork.stream, fork.batches, fork.salts = t.TempDir(), h.stream, nil, NewSalts()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if l, err := OpenLedger(ctx, LedgerConfig{Dir: fork.dir, Key: h.log, Site: h.key.Public(), Witnesses: h.policy()}); err == nil {
		l.Close()
		t.Fatal("the witness cosigned a second history")
	}
	// A corrupt witness with the same key and no memory.
	var err error
	if fork.witness, err = OpenWitness(WitnessConfig{Key: h.board, Dir: t.TempDir(), Logs: []string{h.log.Verifier()}}); err != nil {
		t.Fatal(err)
	}
	fork.server.Config.Handler = fork.witness // the same server now answers for it
	fork.dir = t.TempDir()
	fork.open()
	rows := testRows()
	rows[3].status = true
	fork.anchor(rows)
	same := fork.input(record(t, rows))
	for name, gate := range map[string]*Gate{"in memory": g, "after a restart": h.gate(g.Seen())} {
		if _, err := gate.Verify(t.Context(), DirView(fork.dir), same); !errors.Is(err, ErrSplitView) {
			t.Errorf("%s: %v, want split view", name, err)
		}
	}
	fork.append(fork.record("more"))
	for name, gate := range map[string]*Gate{"in memory": g, "after a restart": h.gate(g.Seen())} {
		if _, err := gate.Verify(t.Context(), DirView(fork.dir), same); !errors.Is(err, ErrSplitView) {
			t.Errorf("%s, larger: %v, want split view", name, err)
		}
	}
	if v, err := h.gate(nil).Verify(t.Context(), DirView(fork.dir), same); err != nil || v.Counts.Verified != 7 {
		t.Errorf("the naive twin, which remembers nothing, noticed: %v", err)
	}
}

// What contradicts the ledger as it was seen is told from what no witness has
// cosigned yet or lately: the second may pass and is waited for, the first never
// does, since no witness will cosign it.
func TestContradictionNeedsNoWitness(t *testing.T) {
	h := newHospital(t)
	h.anchor(testRows()[:4])
	old := copyDir(t, h.dir)
	h.anchor(testRows()[4:])
	now := time.Now()
	gate := func() *Gate {
		t.Helper()
		g, err := NewGate(GateConfig{Ledger: h.log.Verifier(), Site: h.key.Public(), Witnesses: h.policy(), Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.Update(t.Context(), DirView(h.dir)); err != nil {
			t.Fatal(err)
		}
		return g
	}
	g := gate()
	// A corrupt witness without memory lets the log's key write another history; its
	// word is taken off again below.
	fork := *h
	var err error
	if fork.witness, err = OpenWitness(WitnessConfig{Key: h.board, Dir: t.TempDir(), Logs: []string{h.log.Verifier()}}); err != nil {
		t.Fatal(err)
	}
	fork.server.Config.Handler = fork.witness
	fork.dir, fork.batches, fork.salts = t.TempDir(), nil, NewSalts()
	fork.open()
	fork.append(fork.record("one"))
	fork.append(fork.record("two"))
	alone := func(dir string, edit func(*Checkpoint)) string {
		t.Helper()
		to := copyDir(t, dir)
		raw, err := os.ReadFile(filepath.Join(to, "checkpoint"))
		if err != nil {
			t.Fatal(err)
		}
		c, err := ParseCheckpoint(raw)
		if err != nil {
			t.Fatal(err)
		}
		if edit != nil {
			edit(c)
		}
		if raw, err = SignCheckpoint(c.Origin, c.Size, c.Root, h.log); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, "checkpoint"), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		return to
	}
	same := alone(fork.dir, nil)
	fork.append(fork.record("three"))
	larger := alone(fork.dir, nil)
	h.server.Config.Handler = h.witness
	h.append(h.record("more"))
	stranger := copyDir(t, old)
	raw, err := os.ReadFile(filepath.Join(stranger, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	board := bytes.Index(raw, []byte("\n\n— "+h.log.Name())) // the log's line stands first
	if board < 0 {
		t.Fatalf("a checkpoint of another form:\n%s", raw)
	}
	end := board + 2 + bytes.IndexByte(raw[board+2:], '\n') + 1
	if err := os.WriteFile(filepath.Join(stranger, "checkpoint"), slices.Concat(raw[:board+2], raw[end:]), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		dir  string
		late time.Duration
		want error
	}{
		"an old copy":                            {old, 0, ErrRollback},
		"yesterday's copy":                       {old, 24 * time.Hour, ErrRollback},
		"an old copy that the log signs anew":    {alone(old, nil), 0, ErrRollback},
		"another history":                        {same, 0, ErrSplitView},
		"another history, larger":                {larger, 0, ErrSplitView},
		"the same ledger, late":                  {copyDir(t, h.dir), 20 * time.Minute, ErrStaleCheckpoint},
		"the same ledger, not cosigned":          {alone(h.dir, nil), 0, ErrQuorum},
		"a larger one that gives no proof of it": {alone(h.dir, func(c *Checkpoint) { c.Size += 1000 }), 0, ErrQuorum},
	} {
		now = time.Now().Add(c.late)
		_, err := g.Update(t.Context(), DirView(c.dir))
		if !errors.Is(err, c.want) || !errors.Is(err, consilium.ErrLedger) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if passes := c.want == ErrStaleCheckpoint || c.want == ErrQuorum; !passes && (errors.Is(err, ErrStaleCheckpoint) || errors.Is(err, ErrQuorum)) {
			t.Errorf("%s would be waited for: %v", name, err)
		}
	}
	now = time.Now()
	if _, err := g.Update(t.Context(), DirView(stranger)); err == nil || errors.Is(err, ErrRollback) {
		t.Errorf("a rollback that the log did not sign: %v", err)
	}
	// What was refused is not forgotten, and changed nothing.
	if _, err := g.Update(t.Context(), DirView(h.dir)); err != nil {
		t.Errorf("the true ledger is refused afterwards: %v", err)
	}
}

// A ledger that no witness saw for long is refused: somebody may be holding
// back what came after.
func TestStaleCheckpointIsRefused(t *testing.T) {
	h := newHospital(t)
	h.anchor(testRows())
	for _, late := range []time.Duration{DefaultMaxAge - time.Minute, DefaultMaxAge + time.Minute} {
		g, err := NewGate(GateConfig{Ledger: h.log.Verifier(), Site: h.key.Public(), Witnesses: h.policy(), Now: func() time.Time { return time.Now().Add(late) }})
		if err != nil {
			t.Fatal(err)
		}
		_, err = g.Verify(t.Context(), DirView(h.dir), h.input(record(t, testRows())))
		if want := late > DefaultMaxAge; errors.Is(err, ErrStaleCheckpoint) != want {
			t.Errorf("after %v: %v", late, err)
		}
		// The naive twin takes any checkpoint that is signed, however old.
		naive, err := NewGate(GateConfig{Ledger: h.log.Verifier(), Site: h.key.Public(), Witnesses: h.policy().AnyAge(), Now: func() time.Time { return time.Now().Add(1000 * late) }})
		if err != nil {
			t.Fatal(err)
		}
		if v, err := naive.Verify(t.Context(), DirView(h.dir), h.input(record(t, testRows()))); err != nil || v.Counts.Verified != 7 {
			t.Errorf("the naive twin noticed: %v", err)
		}
	}
}

// Whoever can write the hospital's disk, but not sign for it, changes a row
// and makes everything around it fit. A check of the rows against the manifest
// alone is content.
func TestForgedManifest(t *testing.T) {
	h := newHospital(t)
	h.anchor(testRows())
	rows := testRows()
	rows[3].status = true
	forged, err := NewBatch(record(t, rows), h.salts, BatchOptions{Origin: h.log.Name(), Stream: h.stream, From: 1, To: 2})
	if err != nil {
		t.Fatal(err)
	}
	// The naive twin: rows hash to the leaves, leaves to the root, done.
	naive := func(m *Manifest, root consilium.Digest) bool {
		rc, err := newRowCoder(record(t, rows))
		if err != nil {
			t.Fatal(err)
		}
		for r := range rows {
			salt := h.salts.get(rc.patientOf(r)).rowSalt(m.batch, uint32(r))
			if leaf, _ := rc.leaf(nil, &salt, r); leaf != m.leaves[r] {
				return false
			}
		}
		return m.Root() == root
	}
	if !naive(forged.Manifest, forged.Header.Root) {
		t.Fatal("the naive twin noticed")
	}
	// The manifest under the true header: its leaves are off the root.
	under := *forged.Manifest
	under.batch = h.batches[0].Header.Header.Batch
	stranger := newHospitalKey(t)
	header, err := SignHeader(stranger, forged.Payload)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]Batch{
		"leaves off the root":  {Header: h.batches[0].Header, Manifest: &under},
		"header of a stranger": {Header: header, Manifest: forged.Manifest},
		"no manifest":          {Header: h.batches[0].Header},
		"no header":            {Manifest: forged.Manifest},
		"nothing":              {},
	} {
		in := h.input(record(t, rows))
		in.Batches = []Batch{b}
		v, err := h.gate(nil).Verify(t.Context(), DirView(h.dir), in)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if v.Counts.Verified != 0 || len(v.Roots) != 0 || slices.Contains(v.Rows[0], true) {
			t.Errorf("%s: rows were let through: %+v", name, v.Counts)
		}
		if !slices.Contains(kinds(v), FindBatch) {
			t.Errorf("%s: not reported: %v", name, kinds(v))
		}
	}
}

// A batch off its root takes no other with it.
func TestBadBatchIsExcludedAlone(t *testing.T) {
	h := newHospital(t)
	h.anchor(testRows()[:3])
	b := h.anchor(testRows()[3:])
	b.Manifest.leaves[15][0] ^= 1 // a decoy: no row fails, the root does
	for name, records := range map[string][]int{"one table": {7}, "a record for each batch": {3, 7}} {
		in := h.input()
		for i, lo := 0, 0; i < len(records); i++ {
			in.Records = append(in.Records, record(t, testRows()[lo:records[i]]))
			lo = records[i]
		}
		v, err := h.gate(nil).Verify(t.Context(), DirView(h.dir), in)
		if err != nil {
			t.Fatal(err)
		}
		if v.Counts.Verified != 3 || v.Counts.InBadBatch != 4 || v.Batches[0].OK == false || v.Batches[1].OK || len(v.Roots) != 1 {
			t.Errorf("%s: %+v %+v", name, v.Counts, v.Batches)
		}
	}
}

// A batch that the ledger lists and the hospital does not have is reported.
func TestMissingBatchIsReported(t *testing.T) {
	h := newHospital(t)
	h.anchor(testRows()[:3])
	h.anchor(testRows()[3:])
	in := h.input(record(t, testRows()[:3]))
	in.Batches = in.Batches[:1]
	v, err := h.gate(nil).Verify(t.Context(), DirView(h.dir), in)
	if err != nil {
		t.Fatal(err)
	}
	if v.Counts.Verified != 3 || !slices.Equal(kinds(v), []FindingKind{FindBatch}) || v.Findings[0].Batch != h.batches[1].Header.Header.Batch {
		t.Errorf("%+v %+v", v.Counts, v.Findings)
	}
}

// Corrections come as new batches: the new row counts, the old one no longer.
func TestCorrection(t *testing.T) {
	h := newHospital(t)
	first := h.anchor(testRows())
	fixed := testRows()[3]
	fixed.age = 45
	h.anchor([]row{fixed}, LeafRef{Batch: first.Header.Header.Batch, Leaf: first.Manifest.LeavesOf(pseudonym(t, "p2"))[0]})
	rows := testRows()
	rows[3] = fixed
	v := h.verify(h.gate(nil), record(t, rows))
	if v.Counts.Verified != 7 || v.Counts.Missing != 0 || v.Counts.Superseded != 0 {
		t.Errorf("corrected table: %+v", v.Counts)
	}
	v = h.verify(h.gate(nil), record(t, testRows()))
	if v.Counts.Verified != 6 || v.Counts.Superseded != 1 || v.Counts.Missing != 1 || v.Class[0][3] != RowSuperseded || v.Rows[0][3] {
		t.Errorf("table as it was: %+v", v.Counts)
	}
	// A list of superseded leaves that was changed spoils the batch, not the rows
	// that it would have taken out.
	tampered := *h.batches[1].Manifest
	tampered.refs = append(slices.Clone(tampered.refs), LeafRef{Batch: first.Header.Header.Batch, Leaf: 0})
	in := h.input(record(t, rows))
	in.Batches = []Batch{first, {Header: h.batches[1].Header, Manifest: &tampered}}
	v, err := h.gate(nil).Verify(t.Context(), DirView(h.dir), in)
	if err != nil {
		t.Fatal(err)
	}
	if v.Counts.Verified != 6 || v.Counts.InBadBatch != 1 || v.Batches[1].OK {
		t.Errorf("tampered correction: %+v %+v", v.Counts, v.Batches)
	}
}

// Erasure leaves hashes: the root re-derives, the patient's rows do not, and a
// key made anew for the same patient does not bring them back.
func TestErasureKeepsTheRoot(t *testing.T) {
	for name, erase := range map[string]func(h *hospital, p Pseudonym){
		"key and manifest": func(h *hospital, p Pseudonym) {
			if ok, err := h.salts.Erase(p); !ok || err != nil {
				h.t.Fatal(ok, err)
			}
			if n := h.batches[0].Manifest.Erase(p); n != 3 {
				h.t.Fatalf("%d stubs", n)
			}
		},
		"key alone": func(h *hospital, p Pseudonym) {
			if ok, err := h.salts.Erase(p); !ok || err != nil {
				h.t.Fatal(ok, err)
			}
		},
		"then a new key": func(h *hospital, p Pseudonym) {
			h.batches[0].Manifest.Erase(p)
			if _, err := h.salts.Erase(p); err != nil {
				h.t.Fatal(err)
			}
			if err := h.salts.Ensure(p); err != nil {
				h.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHospital(t)
			h.anchor(testRows())
			p := pseudonym(t, "p1")
			erase(h, p)
			v := h.verify(h.gate(nil), record(t, testRows()[3:]))
			want := Counts{Verified: 4, Erased: 3, Decoys: 9}
			if v.Counts != want || len(v.Findings) != 0 || v.Roots[0] != h.batches[0].Header.Header.Root {
				t.Errorf("%+v %+v, want %+v", v.Counts, v.Findings, want)
			}
			if v := h.verify(h.gate(nil), record(t, testRows())); v.Counts.Added != 3 || v.Counts.Verified != 4 {
				t.Errorf("rows of an erased patient: %+v", v.Counts)
			}
			if bytes.Contains(h.batches[0].Manifest.Marshal(), p[:]) && name != "key alone" {
				t.Error("the manifest still names the patient")
			}
		})
	}
}

// One flipped byte anywhere in what is stored is noticed.
func TestEveryStoredByteCounts(t *testing.T) {
	h := newHospital(t)
	kek := GenerateKEK()
	b := h.anchor(testRows())
	h.append(h.record("x"))
	if err := h.ledger.Close(); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(3, 4))

	dir := t.TempDir()
	bd, err := OpenBatchDir(dir, kek)
	if err != nil {
		t.Fatal(err)
	}
	if err := bd.Put(b); err != nil {
		t.Fatal(err)
	}
	salts, err := OpenSalts(filepath.Join(dir, "salts"), kek)
	if err != nil {
		t.Fatal(err)
	}
	if err := salts.Ensure(pseudonym(t, "p1"), pseudonym(t, "p2")); err != nil {
		t.Fatal(err)
	}
	flips := func(path string, n int, noticed func() bool) {
		t.Helper()
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for k := 0; k < n; k++ {
			i := rng.IntN(len(good))
			bad := bytes.Clone(good)
			bad[i] ^= byte(1 + rng.IntN(255))
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if !noticed() {
				t.Errorf("%s: byte %d of %d may change", filepath.Base(path), i, len(good))
			}
		}
		if err := os.WriteFile(path, good[:len(good)-1], 0o600); err != nil {
			t.Fatal(err)
		}
		if !noticed() {
			t.Errorf("%s may be cut", filepath.Base(path))
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
		if noticed() {
			t.Errorf("%s: refused although whole", filepath.Base(path))
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 3 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		flips(path, 60, func() bool {
			if f.Name() == "salts" {
				_, err := OpenSalts(path, kek)
				return err != nil
			}
			// A header may still parse; then the gate tells it from the one in the ledger.
			kept, err := bd.List()
			if err != nil {
				return true
			}
			v, err := h.gate(nil).Verify(t.Context(), DirView(h.dir), Input{Stream: h.stream, Batches: kept, Records: h.input(record(t, testRows())).Records, Salts: h.salts})
			return err != nil || v.Counts.Verified != 7
		})
	}
	// Of the ledger, the gate reads entries and the checkpoint.
	for _, path := range h.files() {
		if !strings.Contains(path, "entries") && !strings.HasSuffix(path, "checkpoint") || !strings.HasSuffix(path, "2") && strings.Contains(path, "entries") {
			continue
		}
		flips(path, 60, func() bool {
			_, err := h.gate(nil).Update(t.Context(), DirView(h.dir))
			return err != nil
		})
	}
	// The hash tiles serve proofs; a full check reads them too.
	c, err := h.gate(nil).Update(t.Context(), DirView(h.dir))
	if err != nil {
		t.Fatal(err)
	}
	tile := filepath.Join(h.dir, "tile", "0", "000.p", "2")
	flips(tile, 60, func() bool { return CheckTiles(t.Context(), h.dir, c) != nil })
}

// Entries that were changed under an unchanged checkpoint are told from a log
// that shows two histories.
func TestCorruptEntriesAreNotASplitView(t *testing.T) {
	h := newHospital(t)
	h.anchor(testRows())
	g := h.gate(nil)
	if _, err := g.Update(t.Context(), h.ledger); err != nil {
		t.Fatal(err)
	}
	h.append(h.record("later"))
	view := fakeView{View: h.ledger, entries: func(es [][]byte) [][]byte { return [][]byte{h.record("forged")} }}
	if _, err := g.Update(t.Context(), view); !errors.Is(err, ErrCorrupt) {
		t.Errorf("%v, want corrupt", err)
	}
	unsigned := fakeView{View: h.ledger, entries: func(es [][]byte) [][]byte { return [][]byte{[]byte("x")} }}
	if _, err := g.Update(t.Context(), unsigned); !errors.Is(err, ErrForgedEntry) && !errors.Is(err, ErrCorrupt) {
		t.Errorf("%v", err)
	}
	short := fakeView{View: h.ledger, entries: func(es [][]byte) [][]byte { return nil }}
	if _, err := g.Update(t.Context(), short); !errors.Is(err, consilium.ErrLedger) {
		t.Errorf("%v", err)
	}
	if _, err := g.Update(t.Context(), h.ledger); err != nil {
		t.Errorf("the true ledger is refused afterwards: %v", err)
	}
}

type fakeView struct {
	View
	entries func([][]byte) [][]byte
}

func (v fakeView) Entries(ctx context.Context, from, to, size uint64) ([][]byte, error) {
	es, err := v.View.Entries(ctx, from, to, size)
	if err != nil {
		return nil, err
	}
	return v.entries(es), nil
}

// Two headers at one place of a stream, both signed and in the ledger: the
// hospital told two stories about its data, and no row is read.
func TestForkedStreamIsRefused(t *testing.T) {
	for name, edit := range map[string]func(*Header){
		"same place":    func(h *Header) { h.Batch = NewID() },
		"same batch id": func(h *Header) { h.Root = randomDigest() },
		"gap":           func(h *Header) { h.Batch, h.Seq, h.Prev = NewID(), 5, randomDigest() },
		"other origin":  func(h *Header) { h.Batch, h.Stream, h.Origin = NewID(), NewID(), "consilium.test/other" },
	} {
		h := newHospital(t)
		b := h.anchor(testRows())
		twin := b.Header.Header
		edit(&twin)
		payload, err := canon.Marshal(&twin)
		if err != nil {
			t.Fatal(err)
		}
		sh, err := SignHeader(h.key, payload)
		if err != nil {
			t.Fatal(err)
		}
		h.append(sh.Entry())
		if _, err := h.gate(nil).Verify(t.Context(), DirView(h.dir), h.input(record(t, testRows()))); !errors.Is(err, consilium.ErrLedger) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The same header twice is a retry, not a fork.
	h := newHospital(t)
	b := h.anchor(testRows())
	h.append(b.Header.Entry())
	if v := h.verify(h.gate(nil), record(t, testRows())); v.Counts.Verified != 7 {
		t.Errorf("after a retry: %+v", v.Counts)
	}
}

// A hospital's identity key is not replaced in place: whoever brings another one
// is another hospital, and the ledger that it writes on is not believed.
func TestIdentityKeyStays(t *testing.T) {
	h := newHospital(t)
	h.anchor(testRows()[:4])
	if err := h.ledger.Close(); err != nil {
		t.Fatal(err)
	}
	h.key = newHospitalKey(t)
	h.open()
	h.anchor(testRows()[4:])
	if _, err := h.gate(nil).Update(t.Context(), h.ledger); !errors.Is(err, ErrForgedEntry) {
		t.Errorf("%v", err)
	}
}

// What a hostile disk can hand over never panics, and lets no row through that
// is not the hospital's.
func TestHostileManifests(t *testing.T) {
	h := newHospital(t)
	b := h.anchor(testRows())
	g := h.gate(nil)
	rng := rand.New(rand.NewPCG(5, 6))
	good := b.Manifest.Marshal()
	tried := 0
	for i := 0; i < 1200; i++ {
		bad := bytes.Clone(good)
		for k := 0; k <= rng.IntN(3); k++ {
			bad[rng.IntN(len(bad))] ^= byte(1 << rng.IntN(8))
		}
		m, err := ParseManifest(bad)
		if err != nil {
			continue
		}
		tried++
		in := h.input(record(t, testRows()))
		in.Batches = []Batch{{Header: b.Header, Manifest: m}}
		v, err := g.Verify(t.Context(), DirView(h.dir), in)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(bad, good) && v.Counts.Verified == 7 && v.Counts.Decoys == 9 {
			t.Fatalf("try %d: a changed manifest went unnoticed", i)
		}
	}
	if tried < 200 {
		t.Errorf("only %d of 1200 parsed", tried)
	}
}
