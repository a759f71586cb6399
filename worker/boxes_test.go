package worker

import (
	"bytes"
	"log/slog"
	"os"
	"testing"

	"consilium"
)

// TestBoxShelf: boxes outlive a restart, a torn or changed one is not found,
// and what is added after a torn end is found again.
func TestBoxShelf(t *testing.T) {
	g := &Gate{cfg: Config{Dir: t.TempDir()}}
	open := func() *actor { return &actor{gate: g, study: "s-aaaaaaaaaaaaaaaa", log: slog.New(slog.DiscardHandler)} }
	box := func(i byte) ([]byte, consilium.Digest) {
		b := bytes.Repeat([]byte{i}, 100+int(i))
		return b, consilium.DomainBox.Digest(b)
	}
	keep := func(a *actor, i byte) {
		t.Helper()
		b, d := box(i)
		if err := a.keepBox(d, b); err != nil {
			t.Fatal(err)
		}
	}
	has := func(a *actor, i byte, want bool) {
		t.Helper()
		b, d := box(i)
		if got := a.keptBox(d); (got != nil) != want || want && !bytes.Equal(got, b) {
			t.Errorf("box %d: %d bytes, want it %v", i, len(got), want)
		}
	}
	a := open()
	has(a, 1, false)
	keep(a, 1)
	keep(a, 2)
	keep(a, 3)
	a = open()
	for i := byte(1); i <= 3; i++ {
		has(a, i, true)
	}
	raw, err := os.ReadFile(a.boxesPath())
	if err != nil {
		t.Fatal(err)
	}
	raw[4+101+4] ^= 1 // in the second box
	if err := os.WriteFile(a.boxesPath(), raw[:len(raw)-5], 0o600); err != nil {
		t.Fatal(err)
	}
	a = open()
	has(a, 1, true)
	has(a, 2, false)
	has(a, 3, false)
	keep(a, 4)
	a = open()
	has(a, 1, true)
	has(a, 4, true)
	a.dropSpool()
	has(a, 1, false)
	if _, err := os.Stat(a.boxesPath()); !os.IsNotExist(err) {
		t.Error("the file stays")
	}
}
