//go:build unix

package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"consilium/internal/hatch"
)

// vaultOf lets a shell script be the vault.
func vaultOf(t *testing.T, script string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vault")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	vaultProgram = func() (string, error) { return path, nil }
	t.Cleanup(func() { vaultProgram = os.Executable })
}

// TestVaultStandsStill: a worker that is told to stop stops, wherever its vault
// stands still: before it took its settings, before it greeted, or with the gate's
// call in a full pipe.
func TestVaultStandsStill(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	vaultOf(t, "kill -STOP $$")
	for name, s := range map[string]*vaultSettings{
		"before it took its settings": {Policies: strings.Repeat("x", 4<<20)},
		"before it greeted":           {},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(200*time.Millisecond, cancel)
		if _, err := startVault(ctx, s, "best", io.Discard, quiet); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c, err := spawnVault(false, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c.killAfter(ctx, 100*time.Millisecond)
	calls := newVaultCalls(c)
	time.AfterFunc(200*time.Millisecond, cancel)
	// Of the caller's context the write into the pipe knows nothing.
	if _, err := calls.Admit(t.Context(), hatch.AdmitRequest{Submission: make([]byte, 4<<20)}); err == nil {
		t.Error("a vault that stands still answers")
	}
	<-calls.dead
	<-c.ended
}

// TestVaultDiesAtItsStart: a vault that is killed while it starts is started again
// once a gate has run, and before that is a trouble of the start; one that says why
// it cannot go on ends the worker at any time.
func TestVaultDiesAtItsStart(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	w := &runningWorker{hospital: &hospital{log: quiet}}
	vaultOf(t, "kill -KILL $$")
	killed := func(ctx context.Context) error {
		_, err := startVault(ctx, &vaultSettings{}, "best", io.Discard, quiet)
		return err
	}
	if err := w.again(t.Context(), killed); !errors.Is(err, errVaultEnded) || w.restarts.Load() != 0 {
		t.Errorf("the first vault was killed: %v after %d restarts", err, w.restarts.Load())
	}
	n, said := 0, errors.New("it said why")
	err := w.again(t.Context(), func(ctx context.Context) error {
		switch n++; n {
		case 1:
			w.up.Store(true)
			return errVaultEnded
		case 2, 3:
			return killed(ctx)
		}
		return said
	})
	if !errors.Is(err, said) || n != 4 || w.restarts.Load() != 3 {
		t.Errorf("%v after %d starts and %d restarts", err, n, w.restarts.Load())
	}
}
