package worker

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestSalt: rows are recognised after the identity key was replaced, and in a
// directory of a release that salted with it.
func TestSalt(t *testing.T) {
	identity, next := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	old := filepath.Join(t.TempDir(), "salt")
	for _, key := range [][]byte{identity, next} {
		if b, err := openSalt(old, key, false); err != nil || !bytes.Equal(b, identity) {
			t.Fatalf("%x: %v", b, err)
		}
	}
	path := filepath.Join(t.TempDir(), "salt")
	first, err := openSalt(path, identity, true)
	if err != nil || bytes.Equal(first, identity) {
		t.Fatal("a new directory salts with the identity secret", err)
	}
	if b, err := openSalt(path, next, false); err != nil || !bytes.Equal(b, first) {
		t.Fatal("the salt changes with the identity key", err)
	}
	if err := os.WriteFile(path, first[:31], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openSalt(path, identity, false); err == nil {
		t.Error("a damaged salt is replaced in silence")
	}
}
