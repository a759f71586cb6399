package main

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"consilium"
	"consilium/internal/wire"
)

// running is a federation of processes: a witness, the coordinators, the
// hospitals with their vaults.
type running struct {
	*kits
	t       *testing.T
	nodes   map[string]*process
	workers map[string]*process
	study   string // a study file
}

// bring provisions a federation, anchors every table, issues consents and
// starts everything.
func bring(t *testing.T) *running {
	t.Helper()
	return bringWith(t, provisionAll(t))
}

func bringWith(t *testing.T, k *kits) *running {
	t.Helper()
	start(t, "witness runs", "ledger", "witness", "--config", k.config("board-1"))
	nodes := map[string]*process{}
	for id := range k.health {
		nodes[id] = k.startNode(t, id)
	}
	var wg sync.WaitGroup
	for i := range testSites {
		wg.Go(func() {
			id := site(i)
			for _, args := range [][]string{
				{"ledger", "anchor", "--config", k.config(id)},
				{"consent", "issue", "--config", k.config(id), "--patients", filepath.Join(k.kit(id), "patients.txt"), "--keys", filepath.Join(k.kit(id), "patients"),
					"--form", "research consent 1", "--level", "general", "--scopes", "general", "--purposes", "DUO:0000042", "--given-by", "self", "--answers", "explicit,informed"},
			} {
				// A process of its own, as at the desk: the vault is a child of it.
				if out, err := exec.Command(program(t), args...).CombinedOutput(); err != nil {
					t.Errorf("%s: %v\n%s", strings.Join(args, " "), err, out)
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	k.inChain(t)
	workers := map[string]*process{}
	for i := range testSites {
		workers[site(i)] = k.startSite(t, site(i))
	}
	study := filepath.Join(k.dir, "study.yaml")
	write(t, study, testStudy)
	return &running{kits: k, t: t, nodes: nodes, workers: workers, study: study}
}

// stopAll ends everything in order; each process drains.
func (r *running) stopAll() {
	r.t.Helper()
	for _, p := range r.workers {
		p.stop()
	}
	for _, p := range r.nodes {
		p.stop()
	}
}

// watch follows a study as a board member until fn says errSeen.
func (r *running) watch(id string, fn func(*consilium.Event) error) {
	r.t.Helper()
	board, _, err := openMemberKit(r.kit("board-3"))
	if err != nil {
		r.t.Fatal(err)
	}
	var c *wire.Client = board.wire(&env{stderr: io.Discard})
	defer c.Close()
	// A study that does not go on is a failure with every log, not the test
	// binary's own time-out.
	ctx, cancel := context.WithTimeout(r.t.Context(), 3*time.Minute)
	defer cancel()
	if err := c.FollowStudy(ctx, consilium.StudyID(id), 0, fn); !errors.Is(err, errSeen) {
		r.t.Fatalf("study %s does not go on: %v", id, err)
	}
}

// done waits for a study's end, and wants it done unless withdrawals are
// expected.
func (r *running) done(id string) {
	r.t.Helper()
	r.watch(id, func(ev *consilium.Event) error {
		switch ev.Kind {
		case consilium.EventDone:
			return errSeen
		case consilium.EventAborted, consilium.EventRefused, consilium.EventCancelled:
			r.t.Errorf("%s: %s", ev.Kind, ev.Body)
			return errSeen
		}
		return nil
	})
}

// says waits for a line of a process's log.
func (r *running) says(p *process, text string) string {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 3*time.Minute)
	defer cancel()
	line, err := p.log.await(ctx, text, p.done)
	if err != nil {
		r.t.Fatalf("%s: %v\n%s", p.name, err, p.log)
	}
	return line
}
