package worker_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"consilium"
	"consilium/internal/federation"
	"consilium/worker"
)

// TestTroubleCrashPoints kills a gate at every point that only a round in
// trouble comes to, opens it again from its directory with a fresh vault, and
// wants the round to get out of its trouble as it does without the crash.
func TestTroubleCrashPoints(t *testing.T) {
	const (
		second = consilium.SiteID("hospital-02") // whom complaints and secret certificates are about
		last   = consilium.SiteID("hospital-07") // the colluder, of seven
	)
	kinds := map[string]consilium.MessageKind{
		"complaint/after-promise": consilium.KindComplaint, "answer/after-promise": consilium.KindAnswer,
		"suspect/after-promise": consilium.KindSuspect, "show/after-promise": consilium.KindShow,
		"renounce/after-promise": consilium.KindRenounce,
	}
	cases := map[string]struct {
		n     int
		trick string
		site  consilium.SiteID
		ends  bool
	}{
		"complaint/after-promise": {5, "bad-box", victim, false},
		"answer/after-promise":    {5, "false-complaint", second, true},
		"suspect/after-promise":   {7, "accused", victim, true},
		"show/after-promise":      {7, "accused", last, true},
		"join/before-binding":     {4, "secret-certificate", victim, true},
		"renounce/after-promise":  {4, "secret-certificate", victim, true},
		"release-lock/after-thaw": {4, "secret-certificate", second, true},
	}
	for _, point := range worker.TroubleCrashPoints {
		c, ok := cases[point]
		if !ok {
			t.Errorf("nothing kills a gate at %s", point)
			continue
		}
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			h, ctx := start(t, c.n)
			dead := h.HaltAt(c.site, point)
			must(t, h.StartAll())
			id := submit(t, h, rounds, c.trick)
			select {
			case <-dead:
			case <-ctx.Done():
				t.Fatal("the crash point was not reached")
			}
			must(t, h.Stop(c.site))
			kind, announces := kinds[point]
			if announces && sentBy(h, c.site)[kind] != 0 {
				t.Errorf("%s was sent before the crash at %s", kind, point)
			}
			must(t, h.Start(c.site))
			if c.ends {
				done(t, ctx, h, id)
			} else {
				must(t, h.WaitLie(ctx, id))
				r, err := h.Report(id)
				must(t, err)
				if r.Opened {
					t.Errorf("%+v", r)
				}
			}
			if announces && kind != consilium.KindShow { // by then the round may have gone on without the accused
				must(t, h.Until(ctx, kind.String()+" after the crash", func(posts []federation.Post, _ []federation.Note) bool {
					return slices.ContainsFunc(posts, func(p federation.Post) bool { return p.Site == c.site && p.Message.Kind == kind })
				}))
			}
			sent := map[string][]byte{}
			for _, p := range h.Posts() {
				if name := slot(p); name != "" {
					if have, ok := sent[name]; ok && !bytes.Equal(have, p.Message.Encode()) {
						t.Errorf("two different messages for %s", name)
					}
					sent[name] = p.Message.Encode()
				}
			}
		})
	}
}

// TestLeftAttempt: a hospital that has joined the second attempt, dies, and is
// then shown a log that ends in the first with t votes for it, opens nothing: it
// has renounced that attempt, durably. The naive twin, whose memory of the later
// attempt is in its process, opens (TestEverySchedule finds what that costs).
func TestLeftAttempt(t *testing.T) {
	h, ctx := start(t, needed)
	dead := h.HaltAt(victim, "renounce/after-promise")
	must(t, h.StartAll())
	id := submit(t, h, rounds, "secret-certificate")
	died(t, ctx, h, dead)
	if h.CutAttempt(victim, id, 2) == nil {
		t.Fatal("there was no second attempt")
	}
	h.ShowVotes(victim, id)
	must(t, h.Start(victim))
	must(t, h.Until(ctx, "the refusal", func(_ []federation.Post, notes []federation.Note) bool {
		return slices.ContainsFunc(notes, func(n federation.Note) bool { return n.Site == victim && n.Text == "not opened" })
	}))
	if sentBy(h, victim)[consilium.KindOpening] != 0 {
		t.Error("it opens an attempt that it had left")
	}
	entries, err := h.Trail(victim, id)
	must(t, err)
	for _, e := range entries {
		if e.Type == "opening" {
			t.Errorf("the trail has an opening: %s", strings.TrimSpace(string(e.Body)))
		}
	}
}

// TestNextStateBeforeRejection: a hospital that has opened the sum and taken the next
// state, while the others were given a false sum and rejected it, opens the second
// attempt like everybody else. It contributes to neither, so that nothing but the
// gate brings its vault back to the round. If its memory of that died with the
// attempt, the vault would refuse the sums of a round that it has closed, and who
// lied would be rid of the hospital.
func TestNextStateBeforeRejection(t *testing.T) {
	const second = consilium.SiteID("hospital-02") // whom this coordinator tells of the sum
	h, ctx := start(t, sites)
	h.Excuse(second)
	h.PauseAt(1)
	must(t, h.StartAll())
	id := submit(t, h, rounds, "half-rejected")
	must(t, h.Until(ctx, "its opening", func(posts []federation.Post, _ []federation.Note) bool {
		return slices.ContainsFunc(posts, func(p federation.Post) bool { return p.Site == second && p.Message.Kind == consilium.KindOpening })
	}))
	h.Hold(second, true)
	must(t, h.Resume(ctx))
	var result federation.TallyResult
	must(t, json.Unmarshal(done(t, ctx, h, id), &result))
	if !slices.Equal(result.Who, []int64{1, 0, 1, 1, 1}) {
		t.Fatalf("%v contributed: the test shows nothing", result.Who)
	}
	onePromise(t, h)
	next, rejected := map[uint32]consilium.Digest{}, 0 // by attempt of round 1
	for _, p := range h.Posts() {
		switch p.Message.Kind {
		case consilium.KindWithdraw:
			t.Errorf("%s left the study", p.Site)
		case consilium.KindStateVote:
			v, err := consilium.ParseStateVote(p.Message.Body)
			must(t, err)
			if v.Round > 1 {
				continue
			}
			if v.Reject {
				rejected++
			} else if p.Site == second {
				next[v.Attempt] = v.Next
			}
		}
	}
	if rejected != sites-1 {
		t.Fatalf("%d hospitals rejected the first sum: the test shows nothing", rejected)
	}
	if len(next) != 2 || next[1] != next[2] {
		t.Errorf("the hospital voted for these next states, by attempt: %v", next)
	}
}
