package worker

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"consilium"
	"consilium/internal/durable"
	"consilium/internal/hybrid"
	"consilium/internal/trail"
)

// TestTrailIsStorage: a statement whose trail entry cannot be written is not
// made, and the failure is the gate's own storage, which ends the gate; it is
// no reason to leave the study.
func TestTrailIsStorage(t *testing.T) {
	dir := t.TempDir()
	key, err := hybrid.Generate()
	if err != nil {
		t.Fatal(err)
	}
	g := &Gate{cfg: Config{Site: "hospital", Signer: key, Now: time.Now, Crash: func(string) {}}, log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if g.journal, err = openJournal(durable.OS, filepath.Join(dir, "journal")); err != nil {
		t.Fatal(err)
	}
	defer g.journal.close()
	if g.trail, err = trail.Open(filepath.Join(dir, "trail"), "hospital", key, time.Now); err != nil {
		t.Fatal(err)
	}
	if err := g.trail.Close(); err != nil { // what a dead disk looks like
		t.Fatal(err)
	}
	a := &actor{gate: g, study: "s-aaaaaaaaaaaaaaaa", log: g.log}
	_, err = a.promised("vote/1/1", consilium.KindVote, func() ([]byte, error) {
		return []byte("a vote"), a.note(1, "vote", map[string]any{"set": "u"})
	})
	if !errors.Is(err, errDisk) {
		t.Errorf("%v is not a failure of the gate's storage", err)
	}
	if _, ok := g.journal.promise(a.study, "vote/1/1"); ok {
		t.Error("the vote was promised without its trail entry")
	}
	// So it is where the statement is made by a function of its own.
	at := consilium.At{Charter: consilium.Digest{1}, Round: 1, Attempt: 1, Position: 1}
	if err := a.renounce(context.Background(), at, "a reason"); !errors.Is(err, errDisk) {
		t.Errorf("renounce: %v is not a failure of the gate's storage", err)
	}
}
