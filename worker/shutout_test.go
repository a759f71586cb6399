package worker_test

import (
	"testing"

	"consilium"
	"consilium/internal/federation"
)

// TestShutOut: a hospital that all coordinators refuse for a while, since a clock
// jumped, knocks again, says so, and leaves no study.
func TestShutOut(t *testing.T) {
	h, ctx := start(t, needed)
	h.ShutOut(victim, 2, 3)
	must(t, h.StartAll())
	id := submit(t, h, rounds, "")
	done(t, ctx, h, id)
	onePromise(t, h)
	for _, p := range h.Posts() {
		if p.Message.Kind == consilium.KindWithdraw {
			t.Errorf("%s left the study", p.Site)
		}
	}
	said := 0
	must(t, h.Until(ctx, "the log", func(_ []federation.Post, notes []federation.Note) bool {
		said = 0
		for _, n := range notes {
			if n.Site == victim && len(n.Text) > 20 && n.Text[:20] == "the coordinators do " {
				said++
			}
		}
		return true
	}))
	if said != 2 {
		t.Errorf("the hospital said %d times that it is shut out, want 2", said)
	}
}
