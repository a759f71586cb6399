package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"consilium"
)

// TestRosterInstalledBeforeTheWatch: what was installed after the process read
// its roster and before it began to watch the file is taken all the same.
func TestRosterInstalledBeforeTheWatch(t *testing.T) {
	path := filepath.Join(t.TempDir(), kitRoster)
	if err := os.WriteFile(path, []byte("no roster, and offered all the same"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	looked := make(chan string, 1)
	log := slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
		select {
		case looked <- string(b):
		default:
		}
		return len(b), nil
	}), nil))
	go watchRoster(ctx, path, time.Millisecond, log, func(*consilium.Signed, *consilium.Roster) error { return nil })
	select {
	case s := <-looked:
		if !strings.Contains(s, "not taken") {
			t.Error(s)
		}
	case <-ctx.Done():
		t.Fatal("the file that was there from the beginning was never looked at")
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// TestOutcome: a roster starts the gate again however slowly the vault let go,
// and only a vault that ended by itself counts as one.
func TestOutcome(t *testing.T) {
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	slow := errors.New("the vault did not end in time and was killed")
	unavailable := consilium.ErrUnavailable.Withf("no coordinator answers")
	for name, c := range map[string]struct {
		cause, err, vault error
		stopped           bool
		is, not           error
	}{
		"the next roster":                       {cause: errNewRoster, is: errNewRoster},
		"the next roster, a slow vault":         {cause: errNewRoster, vault: slow, is: errNewRoster},
		"the vault ended":                       {cause: errVaultEnded, vault: fmt.Errorf("killed"), is: errVaultEnded, not: errNewRoster},
		"the gate ended, unavailable":           {err: unavailable, is: consilium.ErrUnavailable, not: errVaultEnded},
		"stopped while the vault ended":         {cause: errVaultEnded, stopped: true, not: errVaultEnded},
		"stopped while a roster was on its way": {cause: errNewRoster, stopped: true, not: errNewRoster},
	} {
		err := outcome(c.cause, c.err, c.vault, c.stopped, log)
		if c.is != nil && !errors.Is(err, c.is) || c.not != nil && errors.Is(err, c.not) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
