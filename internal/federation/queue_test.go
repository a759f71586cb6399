package federation

import (
	"slices"
	"testing"

	"consilium"
)

// TestQueuedStudyGoesOn: a hospital has memory for one study. The second waits and
// is chartered without it; when the first ends, the third is let in, though the
// second still runs elsewhere. So it is after a restart in between.
func TestQueuedStudyGoesOn(t *testing.T) {
	for name, restart := range map[string]bool{"in one run": false, "after a restart": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, ctx := hostile(t, 5)
			small := h.ids[2]
			h.Limit(small, 1)
			if err := h.StartAll(); err != nil {
				t.Fatal(err)
			}
			submit := func(name, lie string) *course {
				t.Helper()
				id, err := h.Submit(name, 1, lie)
				if err != nil {
					t.Fatal(err)
				}
				return h.course(id)
			}
			await := func(what string, cond func() bool) {
				t.Helper()
				if err := h.await(ctx, what, cond); err != nil {
					t.Fatal(err)
				}
			}
			// Studies of this kind stop when all have contributed.
			first := submit("first", "epoch-in-flight")
			await("the first study", func() bool { return len(first.uploads) == 5 })
			second := submit("second", "epoch-in-flight")
			await("the second to wait", func() bool {
				return len(second.enrols) == 4 && slices.ContainsFunc(h.notes, func(n Note) bool {
					return n.Site == small && n.Study == second.id && n.Text == "the study waits for memory"
				})
			})
			h.mu.Lock()
			second.asked = h.others(small)
			err := second.answered()
			h.mu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			await("the second study", func() bool { return len(second.uploads) == 4 })
			if restart {
				if err := h.Stop(small); err != nil {
					t.Fatal(err)
				}
				if err := h.Start(small); err != nil {
					t.Fatal(err)
				}
			}
			third := submit("third", "")
			await("the others' enrolment in the third", func() bool { return len(third.enrols) >= 4 })
			h.mu.Lock()
			if third.enrols[small] != nil {
				t.Error("it takes part in two studies at once")
			}
			first.end(consilium.PhaseAborted, consilium.EventAborted, []byte("a test"))
			h.mu.Unlock()
			await("the third study", func() bool { return third.ended != 0 })
			if third.ended != consilium.PhaseDone || third.enrols[small] == nil {
				t.Errorf("the third study ended as %s", third.ended)
			}
		})
	}
}

// TestMemoryCrossesEpochs: a study that went on in another epoch has its memory
// after a restart: the next one waits.
func TestMemoryCrossesEpochs(t *testing.T) {
	t.Parallel()
	h, ctx := hostile(t, 5)
	small := h.ids[2]
	h.Limit(small, 1)
	h.RenewAfter(1)
	if err := h.StartAll(); err != nil {
		t.Fatal(err)
	}
	first, err := h.Submit("first", 2, learnedStudy)
	if err != nil {
		t.Fatal(err)
	}
	h.PauseAt(2)
	if err := h.Renew(ctx, nil, []consilium.SiteID{"hospital-05"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := h.await(ctx, "round 2", func() bool { return h.paused != nil }); err != nil {
		t.Fatal(err)
	}
	if err := h.Stop(small); err != nil {
		t.Fatal(err)
	}
	if err := h.Start(small); err != nil {
		t.Fatal(err)
	}
	second, err := h.Submit("second", 1, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.await(ctx, "the second to wait", func() bool {
		return h.courses[second].enrols[small] != nil || slices.ContainsFunc(h.notes, func(n Note) bool {
			return n.Site == small && n.Study == second && n.Text == "the study waits for memory"
		})
	}); err != nil {
		t.Fatal(err)
	}
	if h.sent(small, consilium.KindEnrol) != 2 { // in two epochs of the first
		t.Error("it takes part in two studies at once")
	}
	if err := h.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	for _, id := range []consilium.StudyID{first, second} {
		if phase, err := h.Wait(ctx, id); err != nil || phase != consilium.PhaseDone {
			t.Fatal(id, phase, err)
		}
	}
}
