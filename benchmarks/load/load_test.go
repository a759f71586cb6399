//go:build unix

package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"
)

// TestLoad plays every measurement at a size that shows nothing but that it
// runs: real nodes, the twin that adds in the open, and every sum compared.
func TestLoad(t *testing.T) {
	binaries := map[bool]string{}
	dir := t.TempDir()
	for _, plain := range []bool{false, true} {
		b, err := build(t.Context(), dir, plain)
		if err != nil {
			t.Fatal(err)
		}
		binaries[plain] = b
	}
	for _, m := range []struct{ what, want string }{
		{"ratio", "ratio  "}, {"load", "write and sync on 3 nodes"}, {"studies", "12 studies known, 4 of them done"},
		{"slow", " uploads came late"}, {"training", "signing and verifying statements"},
	} {
		t.Run(m.what, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
			defer cancel()
			j := job{dir: t.TempDir(), what: m.what, sites: 5, parameters: 3000, rounds: 1, repeats: 1, stored: 12, running: 2, rate: 8_000, rows: 100, hidden: 4, binary: binaries}
			if m.what == "slow" { // a deadline of five seconds, for enrolments too
				j.parameters, j.rate = 12_000, 12_000
			}
			if m.what == "training" {
				j.sites, j.rounds = 4, 2
			}
			var out bytes.Buffer
			if err := j.run(ctx, &out); err != nil {
				t.Fatalf("%v\n%s", err, &out)
			}
			if !strings.Contains(out.String(), m.want) {
				t.Errorf("no %q in\n%s", m.want, &out)
			}
		})
	}
	// The nodes that hospitals use refuse what only the twin takes.
	t.Run("plain is refused", func(t *testing.T) {
		j := &job{dir: t.TempDir(), sites: 3, parameters: 3000, rounds: 1, repeats: 1, binary: map[bool]string{true: binaries[false]}}
		b, err := j.lay(t.Context(), 3, true, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer b.close()
		if _, err := j.study(t.Context(), b); err == nil || !strings.Contains(err.Error(), "header announces 12000 bytes") {
			t.Errorf("a vector in the open: %v", err)
		}
	})
}
