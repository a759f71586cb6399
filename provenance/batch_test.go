package provenance

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"consilium"
)

func TestSmallBatchHidesItsLeaf(t *testing.T) {
	h := newHospital(t)
	b := h.draft(testRows()[3:4])
	if b.Manifest.Len() != DefaultMinLeaves || b.Header.Header.N != DefaultMinLeaves {
		t.Errorf("%d leaves", b.Manifest.Len())
	}
	if b.Header.Header.Root == b.Manifest.leaves[0] {
		t.Error("the root is the leaf of one patient")
	}
	rec := record(t, testRows()[3:4])
	for _, n := range []int{1, -1} {
		if _, err := NewBatch(rec, NewSalts(), BatchOptions{Origin: "x", Stream: NewID(), MinLeaves: n}); !errors.Is(err, consilium.ErrInvalid) {
			t.Errorf("at least %d leaves: %v", n, err)
		}
	}
	if _, err := NewBatch(record(t, nil), NewSalts(), BatchOptions{Origin: "x", Stream: NewID()}); !errors.Is(err, consilium.ErrData) {
		t.Errorf("a batch of nothing: %v", err)
	}
	other := h.draft(testRows()[3:4])
	if _, err := NewBatch(rec, NewSalts(), BatchOptions{Origin: h.log.Name(), Stream: NewID(), After: other.Header}); !errors.Is(err, consilium.ErrInvalid) {
		t.Errorf("after a batch of another stream: %v", err)
	}
}

// What goes into the ledger says nothing of a patient, and the same rows
// anchored twice share no hash.
func TestHeaderNamesNobody(t *testing.T) {
	h := newHospital(t)
	a, b := h.draft(testRows()), h.draft(testRows())
	for i := range a.Manifest.leaves {
		if a.Manifest.leaves[i] == b.Manifest.leaves[i] {
			t.Errorf("leaf %d is the same in two batches", i)
		}
	}
	for i, l := range a.Manifest.leaves {
		p := a.Manifest.patients[i]
		if a.Manifest.kinds[i] != leafRow {
			continue
		}
		for _, s := range [][]byte{l[:], []byte(l.String()), p[:], []byte(p.String())} {
			if bytes.Contains(a.Header.Entry(), s) {
				t.Fatalf("the header holds %x", s)
			}
		}
	}
}

func TestSaltsSurviveAndVanish(t *testing.T) {
	path := filepath.Join(t.TempDir(), "salts")
	kek := GenerateKEK()
	s, err := OpenSalts(path, kek)
	if err != nil {
		t.Fatal(err)
	}
	p, q := pseudonym(t, "p"), pseudonym(t, "q")
	if err := s.Ensure(p, q, p); err != nil {
		t.Fatal(err)
	}
	key := s.get(p).key
	again, err := OpenSalts(path, kek)
	if err != nil || again.get(p).key != key || again.Len() != 2 {
		t.Fatalf("not kept: %v", err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, key[:]) || bytes.Contains(b, p[:]) {
		t.Error("a key or a pseudonym rests in the clear")
	}
	if _, err := OpenSalts(path, GenerateKEK()); err == nil {
		t.Error("opened under another key-encryption key")
	}
	if ok, err := again.Erase(p); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if s, err = OpenSalts(path, kek); err != nil || s.Has(p) || !s.Has(q) {
		t.Errorf("not erased: %v", err)
	}
	if b, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	plain, err := kek.open(consilium.DomainSaltStore, nil, b)
	if err != nil || bytes.Contains(plain, key[:]) || bytes.Contains(plain, p[:]) {
		t.Errorf("the file still holds the key: %v", err)
	}
	if err := s.Ensure(Pseudonym{}); err == nil {
		t.Error("nobody has a key")
	}
	for _, v := range []any{s, kek, *kek, struct{ K *KEK }{kek}} {
		for _, f := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
			if out := fmt.Sprintf(f, v); strings.Contains(out, fmt.Sprintf("%x", kek.key[:4])) || !strings.Contains(out, "redacted") {
				t.Errorf("%T prints as %s", v, out)
			}
		}
	}
}

func TestBatchDir(t *testing.T) {
	h := newHospital(t)
	kek := GenerateKEK()
	dir := t.TempDir()
	bd, err := OpenBatchDir(dir, kek)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 3; i++ {
		b := h.draft(testRows())
		h.batches = append(h.batches, b)
		if err := bd.Put(b); err != nil {
			t.Fatal(err)
		}
	}
	got, err := bd.List()
	if err != nil || len(got) != 3 {
		t.Fatal(len(got), err)
	}
	for i, b := range got {
		if b.Header.Digest() != h.batches[i].Header.Digest() || !bytes.Equal(b.Manifest.Marshal(), h.batches[i].Manifest.Marshal()) {
			t.Errorf("batch %d is another", i)
		}
	}
	if n, err := bd.Erase(pseudonym(t, "p1")); n != 9 || err != nil {
		t.Errorf("erased %d, %v", n, err)
	}
	if got, err = bd.List(); err != nil || len(got[0].Manifest.LeavesOf(pseudonym(t, "p1"))) != 0 || got[0].Manifest.Root() != got[0].Header.Header.Root {
		t.Errorf("after erasure: %v", err)
	}
	if err := bd.Put(Batch{Header: got[0].Header, Manifest: got[1].Manifest}); !errors.Is(err, consilium.ErrInvalid) {
		t.Errorf("two halves of two batches: %v", err)
	}
	// Two manifests change places: each is bound to its batch.
	a, b := got[0].Header.Header.Batch.String(), got[1].Header.Header.Batch.String()
	if err := os.Rename(filepath.Join(dir, a+".manifest"), filepath.Join(dir, "x")); err != nil {
		t.Fatal(err)
	}
	if _, err := bd.List(); !errors.Is(err, consilium.ErrLedger) {
		t.Errorf("a manifest is gone: %v", err)
	}
	if err := os.Rename(filepath.Join(dir, b+".manifest"), filepath.Join(dir, a+".manifest")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "x"), filepath.Join(dir, b+".manifest")); err != nil {
		t.Fatal(err)
	}
	if _, err := bd.List(); !errors.Is(err, consilium.ErrLedger) {
		t.Errorf("manifests may change places: %v", err)
	}
}

func TestRecordsAreChecked(t *testing.T) {
	k := newHospitalKey(t)
	for name, r := range map[string]AuditRecord{
		"no type":       {Time: 1},
		"unknown type":  {Type: "gossip", Time: 1},
		"no time":       {Type: RecordUse},
		"too many refs": {Type: RecordUse, Time: 1, Refs: make([]consilium.Digest, MaxRefs+1)},
		"long text":     {Type: RecordUse, Time: 1, Reason: strings.Repeat("x", 2000)},
	} {
		if _, err := SignRecord(k, &r); !errors.Is(err, consilium.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	full := AuditRecord{Type: RecordConsent, Time: 1, Refs: make([]consilium.Digest, MaxRefs)}
	e, err := SignRecord(k, &full)
	if err != nil {
		t.Fatal(err)
	}
	if len(e) > MaxEntrySize {
		t.Errorf("%d bytes", len(e))
	}
}
