package vault

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"consilium"
)

// A site's memory across restarts: it counts if and only if the round in which
// it was computed was opened with this hospital in the set.
func TestSiteMemory(t *testing.T) {
	dir := t.TempDir()
	id := consilium.NewStudyID(consilium.Digest{7})
	load := func() *siteMemory {
		t.Helper()
		m, err := loadMemory(dir, id)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	path := filepath.Join(dir, "memory", string(id))
	m := load()
	// Analyses that remember nothing leave no file.
	if err := m.put(1, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a file for nothing")
	}
	m.settle(1)
	if err := m.put(2, []byte("two")); err != nil {
		t.Fatal(err)
	}
	// Restarted before the round is opened: the round is computed again, from
	// the same memory.
	m = load()
	m.settle(1)
	if len(m.opened) != 0 {
		t.Errorf("memory %q of a round that was not opened", m.opened)
	}
	if err := m.put(2, []byte("two")); err != nil {
		t.Fatal(err)
	}
	// Restarted after it, told or not told of the opening.
	for range 2 {
		m = load()
		m.settle(2)
		m.settle(2)
		if string(m.opened) != "two" {
			t.Errorf("memory %q after round 2", m.opened)
		}
	}
	if err := m.put(3, []byte("three")); err != nil {
		t.Fatal(err)
	}
	// Round 3 was opened without this hospital.
	m = load()
	m.settle(2)
	if string(m.opened) != "two" {
		t.Errorf("memory %q, round 3 was opened without this hospital", m.opened)
	}
	if err := m.put(4, []byte("four")); err != nil {
		t.Fatal(err)
	}
	m = load()
	m.settle(4)
	if string(m.opened) != "four" {
		t.Errorf("memory %q after round 4", m.opened)
	}

	// Every flipped byte and every cut is refused.
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		for _, bad := range [][]byte{good[:i], append(append(bytes.Clone(good[:i]), good[i]^1), good[i+1:]...)} {
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := loadMemory(dir, id); err == nil || !strings.Contains(err.Error(), "damaged") {
				t.Fatalf("byte %d of %d: %v", i, len(bad), err)
			}
		}
	}
	if err := forgetMemory(dir, id); err != nil {
		t.Fatal(err)
	}
	if err := forgetMemory(dir, id); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the memory of an ended study is still there")
	}
	if _, err := loadMemory(dir, "../../etc/passwd"); err == nil {
		t.Error("a path is accepted as a study")
	}
}
