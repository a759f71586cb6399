package federation

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"consilium"
	"consilium/he"
	"consilium/he/party"
)

// TestWithdrawnPatient: a patient's consent is withdrawn between two rounds of
// an exact study. The hospital takes itself out rather than compute the next
// round without the patient, because the difference would be that patient's
// values. The naive twin computes it: what the others see of round 2 and what
// round 1 said of the same values differ by exactly the patient.
func TestWithdrawnPatient(t *testing.T) {
	h, ctx := hostile(t, 5)
	h.PauseAt(1)
	if err := h.StartAll(); err != nil {
		t.Fatal(err)
	}
	id, err := h.Submit("withdrawn", 2, "")
	if err != nil {
		t.Fatal(err)
	}
	patient := []int32{3, -5, 7, 11}
	before := tallyValues(1)
	after := make([]int32, len(before))
	for i := range after {
		after[i] = before[i] - patient[i]
	}
	if err := h.await(ctx, "the first opening", func() bool { c := h.courses[id]; return len(c.openings) == 5 }); err != nil {
		t.Fatal(err)
	}
	v := h.sites[h.victim()].vault
	v.mu.Lock()
	v.values = after
	v.mu.Unlock()
	if err := h.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	if err := h.await(ctx, "the withdrawal", func() bool {
		return slices.ContainsFunc(h.posts, func(p Post) bool { return p.Site == h.victim() && p.Message.Kind == consilium.KindWithdraw })
	}); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(h.blames(t, h.victim(), id, "withdraw"), func(e string) bool { return strings.Contains(e, "study.frozen") }) {
		t.Errorf("the trail does not say why: %q", h.blames(t, h.victim(), id, "withdraw"))
	}
	for _, p := range h.Posts() {
		if hd, err := consilium.ParseHeader(p.Message.Body); p.Message.Kind == consilium.KindHeader && err == nil && hd.Round == 2 && p.Site == h.victim() {
			t.Error("it contributes to round 2 without the patient")
		}
	}
	// The twin: both rounds, with everybody's values as they are.
	st := tallyOf(5, 1, upTo(5))
	first, second := tallyLanes(st, 5, 2, before)[5:], tallyLanes(st, 5, 2, after)[5:]
	for k := range patient {
		if first[k]-second[k] != patient[k] {
			t.Fatalf("value %d: %d, the patient's is %d: the twin is not broken", k, first[k]-second[k], patient[k])
		}
	}
}

// TestContributorGone: a contributor that dies right after its upload and never
// comes back is in the sum, and the round ends without it.
func TestContributorGone(t *testing.T) {
	h, ctx := hostile(t, 5)
	gone := h.ids[2]
	dead := h.HaltAt(gone, "contribute/after-upload")
	if err := h.StartAll(); err != nil {
		t.Fatal(err)
	}
	id, err := h.Submit("gone", 1, "")
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-dead:
	case <-ctx.Done():
		t.Fatal("the crash point was not reached")
	}
	if err := h.Stop(gone); err != nil {
		t.Fatal(err)
	}
	finished(t, h, ctx, id)
	wantResult(t, h, id, tallyOf(5, 1, upTo(5)))
}

// TestDisksAfterClose: when a round has closed, all hospitals' disks and the
// coordinator's whole store together open nothing of it: not its openings, not a
// box, and no seed is left. The naive twin is the same store a moment earlier.
func TestDisksAfterClose(t *testing.T) {
	h, ctx := hostile(t, 5)
	h.PauseAt(1)
	if err := h.StartAll(); err != nil {
		t.Fatal(err)
	}
	id, err := h.Submit("disks", 2, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.await(ctx, "the first openings", func() bool { c := h.courses[id]; return len(c.openings) == 5 }); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	c := h.courses[id]
	openings, set, parts := c.openings, c.set, c.parts()
	h.mu.Unlock()
	p, err := he.Choose(parts[0].shape.Lanes, parts[0].shape.Bits, 5)
	if err != nil {
		t.Fatal(err)
	}
	// opens counts the openings of round 1 that the keys on the disks unseal.
	opens := func() (n, seeds int) {
		for _, site := range h.ids {
			b, err := os.ReadFile(filepath.Join(h.Dir(site), "secrets", string(id)+".json"))
			if err != nil {
				t.Fatal(err)
			}
			var disk struct {
				Group []byte            `json:"group"`
				Dealt map[string][]byte `json:"dealt"`
			}
			if err := json.Unmarshal(b, &disk); err != nil {
				t.Fatal(err)
			}
			if _, ok := disk.Dealt["header/1/1"]; ok {
				seeds++
			}
			g, err := party.ParseGroupKey(disk.Group)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range openings {
				o, err := consilium.ParseOpening(m.Body)
				if err != nil {
					t.Fatal(err)
				}
				at := o.At
				at.Round = g.Round()
				for _, place := range []consilium.At{o.At, at} {
					if _, err := party.UnsealOpening(p, g, place, set.Digest(), o.Sealed); err == nil {
						n++
					}
				}
			}
		}
		return n, seeds
	}
	if n, seeds := opens(); n == 0 || seeds != 5 {
		t.Fatalf("while the round is open %d openings unseal and %d seeds are there: the twin is not broken", n, seeds)
	}
	h.PauseAt(2)
	h.mu.Lock()
	c = h.paused
	h.paused = nil
	err = c.sum()
	h.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.await(ctx, "round 2 to be certified", func() bool { return h.paused != nil }); err != nil {
		t.Fatal(err)
	}
	if n, seeds := opens(); n != 0 || seeds != 0 {
		t.Errorf("after the round closed %d openings unseal and %d seeds are there", n, seeds)
	}
	for _, site := range h.ids {
		left, err := filepath.Glob(filepath.Join(h.Dir(site), "spool", string(id), "*-1-1"))
		if err != nil || len(left) != 0 {
			t.Errorf("%s still has %v", site, left)
		}
	}
	if err := h.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	finished(t, h, ctx, id)
}
