//go:build unix

package main

import (
	"bytes"
	"context"
	"io"
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
		{"slow", "rounds of "}, {"training", "signing and verifying statements"},
	} {
		t.Run(m.what, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
			defer cancel()
			j := job{dir: t.TempDir(), what: m.what, sites: 5, parameters: 3000, rounds: 1, repeats: 1, stored: 12, running: 2, rate: 8_000, rows: 100, hidden: 4, binary: binaries}
			if m.what == "slow" { // an upload of 20 s, so a deadline of ten, for enrolments too
				j.parameters, j.rate = 12_000, 4_000
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

// TestLeftOut: the measurement of a slow site fails where the short deadline left nobody
// out.
func TestLeftOut(t *testing.T) {
	for _, c := range []struct {
		name     string
		laps     []lap
		needs    float64
		deadline int64
		fails    bool
	}{
		{"left out of both rounds", []lap{{members: 4}, {members: 4}}, 10, 5, false},
		{"in the second round after all", []lap{{members: 4}, {members: 5}}, 10, 5, true},
		{"no round", nil, 10, 5, true},
		{"a deadline that is kept", []lap{{members: 5}}, 10, 30, false},
	} {
		if err := leftOut(c.laps, 5, c.needs, c.deadline); (err != nil) != c.fails {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	// A link that lets an upload through in less than any deadline measures nothing.
	j := &job{dir: t.TempDir(), sites: 5, parameters: 3000, rounds: 1, repeats: 1, rate: 1 << 30, out: io.Discard}
	if err := j.slow(t.Context()); err == nil || !strings.Contains(err.Error(), "lower -rate") {
		t.Errorf("a fast link: %v", err)
	}
}
