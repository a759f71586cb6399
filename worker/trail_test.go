package worker

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
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
	a := &actor{gate: g, study: "s-aaaaaaaaaaaaaaaa", log: g.log, rep: &replica{charter: &consilium.Charter{Epoch: 1}}}
	_, err = a.promised("vote/1/1", consilium.KindVote, func() ([]byte, error) {
		return []byte("a vote"), a.note(1, "vote", map[string]any{"set": "u"})
	})
	if !errors.Is(err, errDisk) {
		t.Errorf("%v is not a failure of the gate's storage", err)
	}
	if _, ok := g.journal.promise(a.study, "vote/1/1"); ok {
		t.Error("the vote was promised without its trail entry")
	}
	// The same for what a hospital says when a round goes wrong.
	err = a.renounce(t.Context(), consilium.At{Round: 1, Attempt: 1, Position: 1}, "a test")
	if !errors.Is(err, errDisk) {
		t.Errorf("a renouncement: %v is not a failure of the gate's storage", err)
	}
	if _, ok := g.journal.promise(a.study, "renounce/1/1"); ok {
		t.Error("the renouncement was promised without its trail entry")
	}
}

// TestOneWayToTheTrail: every entry goes through note, which says that a failure
// is the gate's storage. A bare write would make a hospital leave a study because
// its disk is full.
func TestOneWayToTheTrail(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	writes := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(b), "trail.Write("); n > 0 {
			if writes += n; name != "actor.go" {
				t.Errorf("%s writes to the trail itself", name)
			}
		}
	}
	if writes != 1 {
		t.Errorf("%d places write to the trail, note is one", writes)
	}
}

// TestDecisionLogOfTrail: the vault is told the head of its decision log as of the
// newest use of rows, whatever came after it.
func TestDecisionLogOfTrail(t *testing.T) {
	key, err := hybrid.Generate()
	if err != nil {
		t.Fatal(err)
	}
	g := &Gate{}
	if g.trail, err = trail.Open(filepath.Join(t.TempDir(), "trail"), "hospital", key, time.Now); err != nil {
		t.Fatal(err)
	}
	defer g.trail.Close()
	if d, err := g.decisionLog(); err != nil || !d.IsZero() {
		t.Errorf("a trail without a use: %s, %v", d, err)
	}
	one, two := consilium.DomainTrail.Digest([]byte("1")), consilium.DomainTrail.Digest([]byte("2"))
	for _, e := range []struct {
		kind string
		body map[string]any
	}{{"use", map[string]any{"log": one}}, {"use", map[string]any{"log": two}}, {"vote", map[string]any{"log": one}}} {
		if err := g.trail.Write("s-aaaaaaaaaaaaaaaa", 1, e.kind, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if d, err := g.decisionLog(); err != nil || d != two {
		t.Errorf("%s, %v", d, err)
	}
}
