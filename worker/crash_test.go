package worker_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"consilium"
	"consilium/internal/federation"
	"consilium/internal/trail"
	"consilium/worker"
)

const (
	sites  = 5 // t = 4: the study goes on without one hospital
	needed = 4 // t = 4: nothing happens without every single one
	rounds = 2
)

// victim is the hospital that crashes: neither the first, which publishes, nor
// the one that the lies are about, nor the colluder.
const victim = consilium.SiteID("hospital-03")

func start(t *testing.T, n int) (*federation.Hostile, context.Context) {
	t.Helper()
	var ids []consilium.SiteID
	for i := range n {
		ids = append(ids, consilium.SiteID(fmt.Sprintf("hospital-%02d", i+1)))
	}
	h, err := federation.NewHostile(t.TempDir(), ids)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(func() {
		cancel()
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			for _, n := range h.Notes() {
				if n.Err != "" {
					t.Logf("%s: %s: %s", n.Site, n.Text, n.Err)
				}
			}
		}
	})
	return h, ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func submit(t *testing.T, h *federation.Hostile, rounds int, lie string) consilium.StudyID {
	t.Helper()
	id, err := h.Submit("study", rounds, lie)
	must(t, err)
	return id
}

// died waits until a gate has reached its crash point, and ends it there.
func died(t *testing.T, ctx context.Context, h *federation.Hostile, dead <-chan struct{}) {
	t.Helper()
	select {
	case <-dead:
	case <-ctx.Done():
		t.Fatal("the crash point was not reached")
	}
	must(t, h.Stop(victim))
}

// bystander is neither of those either.
const bystander = consilium.SiteID("hospital-04")

// hold stops the bystander of five before it votes, or opens, until the victim has
// died: the others, one fewer than t, cannot close the round before the victim comes
// to the point where it dies.
func hold(t *testing.T, ctx context.Context, h *federation.Hostile, point string) (release func()) {
	t.Helper()
	at := "vote/before-promise"
	if strings.HasPrefix(point, "open/") {
		at = "open/before-lock"
	}
	dead := h.HaltAt(bystander, at)
	return func() {
		t.Helper()
		select {
		case <-dead:
		case <-ctx.Done():
			t.Fatal("the bystander did not come to " + at)
		}
		must(t, h.Stop(bystander))
		must(t, h.Start(bystander))
	}
}

func done(t *testing.T, ctx context.Context, h *federation.Hostile, id consilium.StudyID) []byte {
	t.Helper()
	phase, err := h.Wait(ctx, id)
	must(t, err)
	if phase != consilium.PhaseDone {
		t.Fatalf("the study ended as %s", phase)
	}
	b, err := h.Result(id)
	must(t, err)
	return b
}

// slot names what a statement may be made once for; "" for advice, of which
// there may be more.
func slot(p federation.Post) string {
	m := p.Message
	switch m.Kind {
	case consilium.KindAck, consilium.KindComplaint:
		return ""
	case consilium.KindAnswer:
		return fmt.Sprintf("%s %s %s %x", p.Site, m.Study, m.Kind, m.Body[:42+32+2]) // one for each dealing and holder
	case consilium.KindHeader, consilium.KindVote, consilium.KindOpening, consilium.KindStateVote, consilium.KindSealedState,
		consilium.KindRenounce, consilium.KindSuspect, consilium.KindShow:
		round, attempt := binary.BigEndian.Uint32(m.Body[32:]), binary.BigEndian.Uint32(m.Body[36:])
		return fmt.Sprintf("%s %s %s %d/%d", p.Site, m.Study, m.Kind, round, attempt)
	}
	return fmt.Sprintf("%s %s %s", p.Site, m.Study, m.Kind)
}

// onePromise fails when a hospital ever sent two different messages for one
// slot, or openings over two sets of members in one round.
func onePromise(t *testing.T, h *federation.Hostile) {
	t.Helper()
	sent := map[string][]byte{}
	opened := map[string]string{}
	for _, p := range h.Posts() {
		name := slot(p)
		if name == "" {
			continue
		}
		b := p.Message.Encode()
		if have, ok := sent[name]; ok && !bytes.Equal(have, b) {
			t.Errorf("two different messages for %s", name)
		}
		sent[name] = b
		if p.Message.Kind == consilium.KindOpening {
			o, err := consilium.ParseOpening(p.Message.Body)
			must(t, err)
			key := fmt.Sprintf("%s %s %d", p.Site, p.Message.Study, o.Round)
			members := fmt.Sprint(h.Members(o.Set))
			if have, ok := opened[key]; ok && have != members {
				t.Errorf("%s opened %s and %s in round %d", p.Site, have, members, o.Round)
			}
			opened[key] = members
		}
	}
}

// TestCrashPoints kills a gate at every named point, opens it again from its
// directory with a fresh vault, and wants the study to end with the very result
// of a run without a crash. All four hospitals are needed for everything, so
// what was promised before the crash must be sent after it.
func TestCrashPoints(t *testing.T) {
	h, ctx := start(t, needed)
	must(t, h.StartAll())
	want := done(t, ctx, h, submit(t, h, rounds, ""))
	onePromise(t, h)
	for _, point := range worker.CrashPoints {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			h, ctx := start(t, needed)
			dead := h.HaltAt(victim, point)
			must(t, h.StartAll())
			id := submit(t, h, rounds, "")
			died(t, ctx, h, dead)
			before := sentBy(h, victim)
			must(t, h.Start(victim))
			if got := done(t, ctx, h, id); !bytes.Equal(got, want) {
				t.Errorf("the result is %s, without a crash it is %s", got, want)
			}
			// The hospital said everything that it had to say, after all.
			must(t, h.Until(ctx, "the end at "+string(victim), func(_ []federation.Post, notes []federation.Note) bool {
				return slices.ContainsFunc(notes, func(n federation.Note) bool { return n.Site == victim && n.Text == "study ended" })
			}))
			for _, kind := range announced[point] {
				if before[kind] > 0 {
					t.Errorf("%s was sent before the crash at %s", kind, point)
				}
			}
			onePromise(t, h)
			entries, err := h.Trail(victim, id)
			must(t, err)
			if len(entries) == 0 || entries[len(entries)-1].Type != "ended" {
				t.Error("the trail does not end with the study")
			}
		})
	}
}

// TestLostState: a vault whose update ends in the middle has no state. The gate
// hands over the one that the round began with, and the sums again, in the first
// round and in later ones, and the study ends as without it.
func TestLostState(t *testing.T) {
	h, ctx := start(t, needed)
	must(t, h.StartAll())
	want := done(t, ctx, h, submit(t, h, rounds, ""))
	for _, lost := range []int{1, 3} {
		h, ctx := start(t, needed)
		must(t, h.StartAll())
		left := h.Lose(victim, lost)
		if got := done(t, ctx, h, submit(t, h, rounds, "")); !bytes.Equal(got, want) {
			t.Errorf("the result is %s, without a loss it is %s", got, want)
		}
		if left() != 0 {
			t.Error("no update was lost: the test shows nothing")
		}
		onePromise(t, h)
		if sentBy(h, victim)[consilium.KindWithdraw] != 0 {
			t.Error("the hospital left the study")
		}
	}
}

// announced says what must not have left the hospital when it comes to a
// crash point for the first time.
var announced = map[string][]consilium.MessageKind{
	"enrol/before-secret": {consilium.KindEnrol}, "enrol/after-secret": {consilium.KindEnrol}, "enrol/after-promise": {consilium.KindEnrol},
	"charter/before-secret": {consilium.KindCharter}, "charter/after-promise": {consilium.KindCharter},
	"contribute/before-spool": {consilium.KindHeader}, "contribute/before-promise": {consilium.KindHeader}, "contribute/after-promise": {consilium.KindHeader},
	"vote/before-promise": {consilium.KindVote}, "vote/after-promise": {consilium.KindVote},
	"open/before-lock": {consilium.KindOpening}, "open/before-promise": {consilium.KindOpening}, "open/after-promise": {consilium.KindOpening},
	"update/in-sums": {consilium.KindStateVote}, "update/before-secret": {consilium.KindStateVote}, "update/before-promise": {consilium.KindStateVote}, "update/after-promise": {consilium.KindStateVote},
	"release/after-promise": {consilium.KindRelease},
}

func sentBy(h *federation.Hostile, id consilium.SiteID) map[consilium.MessageKind]int {
	out := map[consilium.MessageKind]int{}
	for _, p := range h.Posts() {
		if p.Site == id {
			out[p.Message.Kind]++
		}
	}
	return out
}

// TestCrashThenLie: a hospital that dies with its lock durable and its opening
// not sent, or with nothing but its vote durable, and is then asked for the
// same round without one hospital, opens no second set.
func TestCrashThenLie(t *testing.T) {
	for _, point := range []string{"vote/after-promise", "open/before-lock", "open/before-promise", "open/after-promise"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			h, ctx := start(t, sites)
			dead, release := h.HaltAt(victim, point), hold(t, ctx, h, point)
			must(t, h.StartAll())
			id := submit(t, h, rounds, "second-attempt")
			died(t, ctx, h, dead)
			release()
			must(t, h.Start(victim))
			must(t, h.WaitLie(ctx, id))
			r, err := h.Report(id)
			must(t, err)
			if r.Opened || r.Refused != sites {
				t.Fatalf("%+v", r)
			}
			for _, s := range r.Sites {
				if !slices.ContainsFunc(s.Trail, func(e string) bool { return strings.HasPrefix(e, "refused-set: round.locked") }) {
					t.Errorf("the trail of %s does not name the lock: %q", s.Site, s.Trail)
				}
			}
			onePromise(t, h)
		})
	}
}

// TestMissedRounds: a hospital that was away while two rounds opened and closed
// takes the sealed state, votes and opens in the third; and it does so even if
// it dies in the middle of catching up.
func TestMissedRounds(t *testing.T) {
	for _, point := range []string{"", "close/before-secret", "close/after-secret"} {
		t.Run("crash at "+point, func(t *testing.T) {
			t.Parallel()
			h, ctx := start(t, sites)
			h.Excuse(victim)
			h.PauseAt(3)
			dead := h.HaltAt(victim, "contribute/before-spool")
			must(t, h.StartAll())
			id := submit(t, h, 3, "")
			died(t, ctx, h, dead)
			must(t, h.Until(ctx, "round 3", func(posts []federation.Post, _ []federation.Note) bool {
				return slices.ContainsFunc(posts, func(p federation.Post) bool {
					return p.Message.Kind == consilium.KindHeader && binary.BigEndian.Uint32(p.Message.Body[32:]) == 3
				})
			}))
			if point != "" {
				dead = h.HaltAt(victim, point)
			}
			must(t, h.Start(victim))
			if point != "" {
				died(t, ctx, h, dead)
				must(t, h.Start(victim))
			}
			must(t, h.Until(ctx, "the opening of round 3", func(posts []federation.Post, _ []federation.Note) bool {
				return slices.ContainsFunc(posts, func(p federation.Post) bool {
					return p.Site == victim && p.Message.Kind == consilium.KindOpening && binary.BigEndian.Uint32(p.Message.Body[32:]) == 3
				})
			}))
			must(t, h.Resume(ctx))
			done(t, ctx, h, id)
			onePromise(t, h)
			if !slices.ContainsFunc(h.Notes(), func(n federation.Note) bool { return n.Site == victim && n.Text == "caught up from the sealed state" }) {
				t.Error("the hospital did not catch up from the sealed state")
			}
			if sentBy(h, victim)[consilium.KindWithdraw] != 0 {
				t.Error("the hospital left the study")
			}
		})
	}
}

// TestLogBehind: a coordinator that shows a restarted hospital only the
// beginning of the log gets nothing from it, and the hospital does not leave
// the study for it either: it goes on when the log does.
func TestLogBehind(t *testing.T) {
	h, ctx := start(t, needed) // its end needs this hospital, too
	h.PauseAt(2)
	must(t, h.StartAll())
	id := submit(t, h, rounds, "")
	// All of them: one that came while the log is cut would stand before what was cut.
	must(t, h.Until(ctx, "the openings of round 2", func(posts []federation.Post, _ []federation.Note) bool {
		opened := map[consilium.SiteID]bool{}
		for _, p := range posts {
			if p.Message.Kind == consilium.KindOpening && binary.BigEndian.Uint32(p.Message.Body[32:]) == 2 {
				opened[p.Site] = true
			}
		}
		return len(opened) == needed
	}))
	must(t, h.Stop(victim))
	rest := h.Cut(victim, id, consilium.EventClosed)
	must(t, h.Start(victim))
	must(t, h.Until(ctx, "the hospital to see that", func(_ []federation.Post, notes []federation.Note) bool {
		return slices.ContainsFunc(notes, func(n federation.Note) bool { return n.Site == victim && n.Text == "the log is behind this hospital" })
	}))
	h.Show(victim, rest)
	must(t, h.Resume(ctx))
	done(t, ctx, h, id)
	if sentBy(h, victim)[consilium.KindRelease] == 0 {
		t.Error("the hospital did not go on")
	}
	onePromise(t, h)
	if sentBy(h, victim)[consilium.KindWithdraw] != 0 {
		t.Error("the hospital left the study")
	}
}

// copyOf copies a hospital's directory.
func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	must(t, os.CopyFS(to, os.DirFS(dir)))
	return to
}

// restore puts a copy back in the place of a hospital's directory.
func restore(t *testing.T, dir, from string) {
	t.Helper()
	must(t, os.RemoveAll(dir))
	must(t, os.CopyFS(dir, os.DirFS(from)))
}

// TestRolledBackEnrolment: a directory from before the charter, or an empty
// one, in the middle of a study: the hospital sees that the log knows more than
// its journal, says so and takes no further part.
func TestRolledBackEnrolment(t *testing.T) {
	for _, empty := range []bool{true, false} {
		t.Run(fmt.Sprintf("empty %v", empty), func(t *testing.T) {
			t.Parallel()
			h, ctx := start(t, sites)
			dead, release := h.HaltAt(victim, "enrol/after-promise"), hold(t, ctx, h, "vote/after-promise")
			must(t, h.StartAll())
			id := submit(t, h, rounds, "")
			died(t, ctx, h, dead)
			old := copyOf(t, h.Dir(victim))
			if empty {
				old = t.TempDir()
			}
			dead = h.HaltAt(victim, "vote/after-promise")
			must(t, h.Start(victim))
			died(t, ctx, h, dead)
			release()
			restore(t, h.Dir(victim), old)
			must(t, h.Start(victim))
			must(t, h.Until(ctx, "the withdrawal", func(posts []federation.Post, _ []federation.Note) bool {
				return slices.ContainsFunc(posts, func(p federation.Post) bool { return p.Site == victim && p.Message.Kind == consilium.KindWithdraw })
			}))
			must(t, h.Settle(ctx, id))
			if n := sentBy(h, victim); n[consilium.KindOpening] != 0 || n[consilium.KindVote] != 0 {
				t.Errorf("after the roll-back the hospital sent %v", n)
			}
			entries, err := h.Trail(victim, id)
			must(t, err)
			if !slices.ContainsFunc(entries, func(e trail.Entry) bool { return e.Type == "withdraw" && strings.Contains(string(e.Body), "stale") }) {
				t.Error("the trail does not say that the journal is old")
			}
		})
	}
}

// TestRolledBackLock: a directory from before the lock, restored after the
// round was opened. The log holds the opening under the hospital's own
// signature: it notices, votes for nothing, withdraws, and after a restart it
// declines the next study too.
func TestRolledBackLock(t *testing.T) {
	h, ctx := start(t, sites)
	dead, release := h.HaltAt(victim, "vote/after-promise"), hold(t, ctx, h, "vote/after-promise")
	must(t, h.StartAll())
	id := submit(t, h, rounds, "second-attempt")
	died(t, ctx, h, dead)
	release()
	old := copyOf(t, h.Dir(victim))
	dead = h.HaltAt(victim, "contribute/before-promise") // of attempt 2
	must(t, h.Start(victim))
	died(t, ctx, h, dead)
	restore(t, h.Dir(victim), old)
	must(t, h.Start(victim))
	says := func(kind consilium.MessageKind) func([]federation.Post, []federation.Note) bool {
		return func(posts []federation.Post, _ []federation.Note) bool {
			return slices.ContainsFunc(posts, func(p federation.Post) bool { return p.Site == victim && p.Message.Kind == kind })
		}
	}
	must(t, h.Until(ctx, "the withdrawal", says(consilium.KindWithdraw)))
	must(t, h.Settle(ctx, id))
	for _, p := range h.Posts() {
		if v, err := consilium.ParseVote(p.Message.Body); p.Site == victim && p.Message.Kind == consilium.KindVote && err == nil && v.Attempt == 2 {
			t.Error("the hospital votes for the second set")
		}
	}
	must(t, h.Stop(victim))
	must(t, h.Start(victim))
	_, err := h.Submit("next", rounds, "")
	must(t, err)
	must(t, h.Until(ctx, "the refusal of the next study", says(consilium.KindDecline)))
}

// TestHiddenRollback: the same directory, and a coordinator that hides what the
// hospital said. This hospital does what it must not, as one of the f would;
// the others' locks keep the second set shut.
func TestHiddenRollback(t *testing.T) {
	h, ctx := start(t, sites)
	dead, release := h.HaltAt(victim, "vote/after-promise"), hold(t, ctx, h, "vote/after-promise")
	must(t, h.StartAll())
	id := submit(t, h, rounds, "second-attempt")
	died(t, ctx, h, dead)
	release()
	old := copyOf(t, h.Dir(victim))
	dead = h.HaltAt(victim, "contribute/before-promise") // of attempt 2
	must(t, h.Start(victim))
	died(t, ctx, h, dead)
	restore(t, h.Dir(victim), old)
	h.Hide(victim, id)
	must(t, h.Start(victim))
	must(t, h.WaitLie(ctx, id))
	r, err := h.Report(id)
	must(t, err)
	if r.Opened || r.Refused != sites {
		t.Fatalf("%+v", r)
	}
	voted := 0
	for _, p := range h.Posts() {
		if v, err := consilium.ParseVote(p.Message.Body); p.Message.Kind == consilium.KindVote && err == nil && v.Attempt == 2 {
			voted++
			if p.Site != victim {
				t.Errorf("%s votes for the second set", p.Site)
			}
		}
	}
	if voted == 0 {
		t.Error("the rolled-back hospital did not vote for the second set: the test shows nothing")
	}
}
