package worker_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"consilium"
	"consilium/internal/federation"
)

// TestLeavesBeforeContribution: a hospital that leaves in the first round
// before its contribution is not waited for. The round's deadline is an hour
// away: the others acknowledge what came because nothing else can come (this
// coordinator would wait for ever). And what goes out about the cause is its
// code.
func TestLeavesBeforeContribution(t *testing.T) {
	h, ctx := start(t, sites)
	must(t, h.StartAll())
	h.Break(victim, consilium.ErrData.Withf("column age: the value 117 of patient R-4711-K"))
	// No coordinator answers at first: it is said again, or the others would wait.
	h.Deaf(victim, consilium.KindWithdraw, 3)
	id := submit(t, h, rounds, "")
	must(t, h.Until(ctx, "the acknowledgements of the others", func(posts []federation.Post, _ []federation.Note) bool {
		acked := map[consilium.SiteID]bool{}
		for _, p := range posts {
			if p.Message.Kind != consilium.KindAck {
				continue
			}
			a, err := consilium.ParseAck(p.Message.Body)
			must(t, err)
			acked[p.Site] = acked[p.Site] || a.Round == 1 && len(a.Good) == sites-1
		}
		return len(acked) == sites-1
	}))
	onePromise(t, h)
	left := slices.IndexFunc(h.Posts(), func(p federation.Post) bool {
		return p.Site == victim && p.Message.Kind == consilium.KindWithdraw
	})
	if left < 0 {
		t.Fatal("the hospital did not say that it leaves")
	}
	w, err := consilium.ParseWithdraw(h.Posts()[left].Message.Body)
	must(t, err)
	if w.Reason != "data: the table does not fit the study" {
		t.Errorf("the hospital left with %q", w.Reason)
	}
	said := 0
	for _, n := range h.Notes() {
		if n.Site == victim && strings.Contains(n.Text+n.Err, "withdrawal not posted") {
			said++
		}
	}
	if said != 1 {
		t.Errorf("that nobody answers is said %d times, want once: it was tried three times in vain", said)
	}
	for _, p := range h.Posts() {
		if bytes.Contains(p.Message.Encode(), []byte("R-4711-K")) {
			t.Errorf("%s of %s names the patient", p.Message.Kind, p.Site)
		}
	}
	entries, err := h.Trail(victim, id)
	must(t, err)
	for _, e := range entries {
		if strings.Contains(string(e.Body), "R-4711-K") {
			t.Errorf("the trail, which goes into archives, names the patient: %s", e.Body)
		}
	}
}
