package federation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"consilium"
	"consilium/he"
	"consilium/he/party"
)

// blames lists what a hospital's trail says of some type, in order.
func (h *Hostile) blames(t *testing.T, id consilium.SiteID, study consilium.StudyID, kind string) []string {
	t.Helper()
	entries, err := h.Trail(id, study)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if e.Type == kind {
			out = append(out, string(e.Body))
		}
	}
	return out
}

// play runs a study of two rounds in which a trick is played.
func play(t *testing.T, n int, trick string) (*Hostile, context.Context, consilium.StudyID) {
	t.Helper()
	t.Parallel()
	h, ctx := hostile(t, n)
	if err := h.StartAll(); err != nil {
		t.Fatal(err)
	}
	id, err := h.Submit(trick, 2, trick)
	if err != nil {
		t.Fatal(err)
	}
	return h, ctx, id
}

func finished(t *testing.T, h *Hostile, ctx context.Context, id consilium.StudyID) {
	t.Helper()
	if phase, err := h.Wait(ctx, id); err != nil || phase != consilium.PhaseDone {
		t.Fatal(phase, err)
	}
}

// sent counts what a hospital posted of a kind.
func (h *Hostile) sent(id consilium.SiteID, kind consilium.MessageKind) int {
	n := 0
	for _, p := range h.Posts() {
		if p.Site == id && p.Message.Kind == kind {
			n++
		}
	}
	return n
}

// everybody but the colluder must say something in its trail.
func (h *Hostile) allSay(t *testing.T, id consilium.StudyID, kind, what string) {
	t.Helper()
	for _, site := range h.ids[:len(h.ids)-1] {
		if !slices.ContainsFunc(h.blames(t, site, id, kind), func(e string) bool { return strings.Contains(e, what) }) {
			t.Errorf("the trail of %s has no %s with %q: %q", site, kind, what, h.blames(t, site, id, kind))
		}
	}
}

// TestFalseOpening: with two shares more than t a false one is told apart, the
// sum opens without it, and its author is named. The naive twin, which takes
// the first t shares that come, does not open.
func TestFalseOpening(t *testing.T) {
	h, ctx, id := play(t, 7, "false-opening")
	finished(t, h, ctx, id)
	wantResult(t, h, id, tallyOf(7, 2, upTo(7)))
	named := 0
	for _, site := range h.ids {
		if slices.ContainsFunc(h.blames(t, site, id, "false-opening"), func(e string) bool { return strings.Contains(e, string(h.colluder())) }) {
			named++
		}
		for _, e := range h.blames(t, site, id, "false-opening") {
			if !strings.Contains(e, string(h.colluder())) {
				t.Errorf("%s names somebody innocent: %s", site, e)
			}
		}
	}
	// Hospitals that had t sound shares before the false one came never saw it.
	t.Logf("%d of %d hospitals met the false share", named, len(h.ids))
}

// TestFalseSumInTheOpen: the contributions are signed, the sum is not. Who can
// have the contributions adds them again and goes on; the coordinator is named.
// The twin that believes the sum is TestLies/dropped, in which the same false sum
// ends the attempt, because the contributions are withheld.
func TestFalseSumInTheOpen(t *testing.T) {
	h, ctx, id := play(t, 5, "false-sum-in-the-open")
	finished(t, h, ctx, id)
	wantResult(t, h, id, tallyOf(5, 2, upTo(5)))
	said := 0
	for _, site := range h.ids {
		said += len(h.blames(t, site, id, "false-sum"))
	}
	if need := consilium.Threshold(5, 1); said < need {
		t.Errorf("%d trails name the false sum, %d are to", said, need)
	}
}

// TestAccused: a sum that opens with nobody's shares, and one share that is off
// the others' polynomial: t hospitals accuse its author, it shows what it had
// received, that is not what it opened, and the second attempt does without it.
// Every contributor audits itself, and nobody else shows anything.
func TestAccused(t *testing.T) {
	h, ctx, id := play(t, 7, "accused")
	finished(t, h, ctx, id)
	wantResult(t, h, id, tallyOf(7, 2, upTo(7)))
	if err := h.Settle(ctx, id); err != nil {
		t.Log(err) // the study has ended; the gates have too
	}
	suspects, guilty := 0, 0
	for _, site := range h.ids {
		audits := h.blames(t, site, id, "audit")
		vault := h.sites[site].vault
		vault.mu.Lock()
		if len(audits) > vault.audits {
			t.Errorf("%s: %d audits, its vault was asked for %d", site, len(audits), vault.audits)
		}
		vault.mu.Unlock()
		for _, e := range audits {
			if !strings.Contains(e, `"sound":true`) {
				t.Errorf("%s: %s", site, e)
			}
		}
		suspects += len(h.blames(t, site, id, "suspect"))
		for _, e := range h.blames(t, site, id, "blame") {
			if !strings.Contains(e, string(h.colluder())) || !strings.Contains(e, `"guilty":true`) {
				t.Errorf("%s blames somebody innocent: %s", site, e)
			}
			guilty++
		}
		if n := h.sent(site, consilium.KindShow); n > 0 && site != h.colluder() {
			t.Errorf("%s shows its shares without being accused", site)
		}
	}
	if need := consilium.Threshold(7, 1); suspects < need {
		t.Errorf("%d hospitals name suspects, %d are to", suspects, need)
	}
	if h.sent(h.colluder(), consilium.KindShow) == 0 || guilty == 0 {
		t.Errorf("the accused showed its shares %d times, %d verdicts", h.sent(h.colluder(), consilium.KindShow), guilty)
	}
}

// TestFalseComplaint: more hospitals complain about a sound dealing than may be
// dishonest. The dealer answers f of them and no more, everybody finds the
// answer sound, and the round goes on with it.
func TestFalseComplaint(t *testing.T) {
	h, ctx, id := play(t, 5, "false-complaint")
	finished(t, h, ctx, id)
	wantResult(t, h, id, tallyOf(5, 2, upTo(5)))
	if n := h.sent(h.victim(), consilium.KindAnswer); n != 1 {
		t.Errorf("%d answers, f is 1: with t-1-f more the dealer gives its key away", n)
	}
	for _, site := range h.ids {
		if h.sent(site, consilium.KindComplaint) != 0 {
			t.Errorf("%s finds a sound answer false", site)
		}
	}
}

// TestBadBox: a box that does not open, and a false answer: every hospital
// complains about that dealer, and none votes for a set with it.
func TestBadBox(t *testing.T) {
	h, ctx, id := play(t, 5, "bad-box")
	if err := h.WaitLie(ctx, id); err != nil {
		t.Fatal(err)
	}
	for _, site := range h.ids[:4] {
		if h.sent(site, consilium.KindComplaint) == 0 {
			t.Errorf("%s does not complain", site)
		}
		if h.sent(site, consilium.KindVote) != 0 || h.sent(site, consilium.KindOpening) != 0 {
			t.Errorf("%s votes for a set with a false dealing", site)
		}
	}
	h.allSay(t, id, "refused-set", "invalid")
}

// TestPoisonedState: a damaged sealed state that is left first does not make a
// hospital that missed the round leave the study: it names who left it and takes
// the next one. The naive twin reads the first and has nothing.
func TestPoisonedState(t *testing.T) { poisoned(t, "poisoned-state", []byte("damaged")) }

// TestBloatedState: nor does one that is longer than the state can be, of which
// the hospital reads no more than that. The naive twin reads all that it is given.
func TestBloatedState(t *testing.T) { poisoned(t, "bloated-state", make([]byte, 40_000_000)) }

func poisoned(t *testing.T, trick string, begins []byte) {
	t.Helper()
	h, ctx := hostile(t, 5)
	late := h.ids[2]
	h.Excuse(late)
	h.PauseAt(3)
	dead := h.HaltAt(late, "contribute/before-spool")
	if err := h.StartAll(); err != nil {
		t.Fatal(err)
	}
	id, err := h.Submit("poisoned", 3, trick)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-dead:
	case <-ctx.Done():
		t.Fatal("the crash point was not reached")
	}
	if err := h.Stop(late); err != nil {
		t.Fatal(err)
	}
	if err := h.await(ctx, "round 3", func() bool { c := h.courses[id]; return c.round == 3 && len(c.uploads) > 0 }); err != nil {
		t.Fatal(err)
	}
	if err := h.Start(late); err != nil {
		t.Fatal(err)
	}
	if err := h.await(ctx, "the opening of round 3", func() bool {
		return slices.ContainsFunc(h.posts, func(p Post) bool {
			o, err := consilium.ParseOpening(p.Message.Body)
			return p.Site == late && p.Message.Kind == consilium.KindOpening && err == nil && o.Round == 3
		})
	}); err != nil {
		t.Fatal(err)
	}
	if err := h.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	finished(t, h, ctx, id)
	bad := h.blames(t, late, id, "bad-state")
	if len(bad) == 0 || !strings.Contains(bad[0], string(h.colluder())) {
		t.Errorf("nobody is named for the damaged state: %q", bad)
	}
	if h.sent(late, consilium.KindWithdraw) != 0 {
		t.Error("the hospital left the study")
	}
	if long := len(begins) > 1<<20; long != slices.ContainsFunc(h.Notes(), func(n Note) bool {
		return n.Site == late && n.Text == "bad sealed state" && strings.Contains(n.Err, "of more than")
	}) {
		t.Errorf("a state of %d bytes: too long is %v", len(begins), !long)
	}
	// The twin: the first sealed state in the log is all that it would read.
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ev := range h.log {
		m, err := consilium.ParseMessage(ev.Body)
		if ev.Kind != consilium.EventMessage || err != nil || m.Kind != consilium.KindSealedState {
			continue
		}
		s, err := consilium.ParseSealedState(m.Body)
		if err != nil {
			t.Fatal(err)
		}
		if m.By != string(h.colluder()) || !bytes.HasPrefix(h.blobs[s.Blob], begins) {
			t.Error("the first sealed state is sound: the twin is not broken")
		}
		return
	}
	t.Error("no sealed state was left")
}

// TestLockRelease: one hospital has opened an attempt whose votes nobody else
// saw. The others renounce it when they join the next; N-t+f+1 signatures take
// the lock off, and the round ends over other contributors.
func TestLockRelease(t *testing.T) {
	h, ctx, id := play(t, 4, "secret-certificate") // t = 4: nothing without the locked one
	finished(t, h, ctx, id)
	wantResult(t, h, id, tallyOf(4, 2, upTo(3)))
	if n := len(h.blames(t, h.victim(), id, "lock-released")); n != 1 {
		t.Errorf("the lock was released %d times", n)
	}
	for _, site := range h.others(h.victim()) {
		if h.sent(site, consilium.KindRenounce) == 0 {
			t.Errorf("%s did not renounce the attempt that it left", site)
		}
	}
	if h.sent(h.victim(), consilium.KindRenounce) != 0 {
		t.Error("a hospital that had opened renounces")
	}
}

// TestLockHolds: without the renouncements the same second set stays shut. The
// naive twin, which has no lock, has opened both: their difference is the
// colluder's part here, and would be the victim's with the places changed.
func TestLockHolds(t *testing.T) {
	h, ctx, id := play(t, 4, "withheld-renouncements")
	if err := h.WaitLie(ctx, id); err != nil {
		t.Fatal(err)
	}
	r, err := h.Report(id)
	if err != nil {
		t.Fatal(err)
	}
	if r.Opened {
		t.Fatalf("%+v", r)
	}
	if !slices.ContainsFunc(h.blames(t, h.victim(), id, "refused-set"), func(e string) bool { return strings.Contains(e, "round.locked") }) {
		t.Error("the locked hospital does not name its lock")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.courses[id]
	m, err := consilium.ParseMessage(c.kept["opening"])
	if err != nil {
		t.Fatal(err)
	}
	if o, err := consilium.ParseOpening(m.Body); err != nil || len(h.blobs) == 0 || bytes.Equal(o.Set[:], make([]byte, 32)) {
		t.Fatal("no opening of the first set")
	}
	naive := steal(t, h, c)
	less := naive.sum(t, c.without(h.colluder())...)
	all := make([]int64, 4+4)
	for i := range 4 {
		for k, v := range tallyLanes(tallyState{}, 4, consilium.Position(i+1), tallyValues(i)) {
			all[k] += int64(v)
		}
	}
	if got := minus(all, less)[4:]; fmt.Sprint(got) != fmt.Sprint(wide(tallyValues(3))) {
		t.Errorf("two sets give %v: the twin is not broken", got)
	}
}

// TestTwoKeyLists: seven hospitals, the last three collude, t is 6. The
// coordinator tells the victim of other sealing keys of three honest hospitals than
// it tells these: the victim's boxes for them are sound and do not open. None of
// them complains, since the header names the list that its dealer was told, and no
// share is published. The naive twins complain and answer, f times and no more: with
// the three shares of the colluders that is t, the victim's round key, and with
// its contribution the victim's vector alone.
func TestTwoKeyLists(t *testing.T) {
	t.Parallel()
	const n, faults = 7, 3
	h, ctx := hostile(t, n)
	h.rule = consilium.SiteRule{Min: faults + 2, Faults: faults, Missing: "wait"}
	c, err := h.tellLie(ctx, "two-key-lists")
	if err != nil {
		t.Fatal(err)
	}
	if c.charter.Threshold != 2*faults || c.charter.Faults != faults || len(c.framed()) != faults {
		t.Fatalf("t %d, f %d", c.charter.Threshold, c.charter.Faults)
	}
	for _, site := range h.ids {
		if n := h.sent(site, consilium.KindComplaint); n != 0 {
			t.Errorf("%s complains %d times about what the coordinator did", site, n)
		}
	}
	if n := h.sent(h.victim(), consilium.KindAnswer); n != 0 {
		t.Errorf("the victim publishes %d of its shares", n)
	}
	for _, p := range c.framed() {
		site := c.charter.Members[p-1].Site
		if !slices.ContainsFunc(h.blames(t, site, c.id, "other-keys"), func(e string) bool { return strings.Contains(e, string(h.victim())) }) {
			t.Errorf("the trail of %s does not keep what the victim was told", site)
		}
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	colluder := c.place(h.colluder())
	set := c.setOf(c.place(h.victim()), colluder)
	parts := []*upload{c.uploads[c.place(h.victim())], c.uploads[colluder]}
	lanes := parts[0].shape.Lanes
	p, err := he.Choose(lanes, parts[0].shape.Bits, n)
	if err != nil {
		t.Fatal(err)
	}
	naive := steal(t, h, c)
	group, err := party.ParseGroupKey(naive.group)
	if err != nil {
		t.Fatal(err)
	}
	// answer is what a dealer that answers whoever complains sends to one of them.
	answer := func(u *upload, to consilium.Position) *party.KeyShare {
		l, err := h.steal(c.charter.Members[u.header.Position-1].Site, c.id)
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := party.Answer(&party.Encryption{Profile: p, At: u.header.At, Threshold: c.charter.Threshold, Holders: make([]consilium.SealingKey, n), Group: group},
			l.Dealt["header/1/2"], u.message.Body, to)
		if err != nil {
			t.Fatal(err)
		}
		s, err := party.CheckAnswer(p, lanes, n, c.charter.Threshold, group, u.message.Body, to, sealed)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	box := func(u *upload, q consilium.Position) (*party.KeyShare, error) {
		return party.OpenBox(p, lanes, n, c.charter.Threshold, u.header.At, u.message.Body, q, h.blobs[u.header.Boxes[q-1]], naive.keys[q-1])
	}
	// Of the victim's key the coalition has three shares, and three answers; of
	// a colluder's it has all.
	var openings []*party.OpeningShare
	for _, q := range append(c.framed(), n-2, n-1, n) {
		var shares []*party.KeyShare
		for _, u := range parts {
			s, err := box(u, q)
			if u == parts[0] && (err == nil) != (q > n-faults) {
				t.Fatalf("the victim's box for position %d: %v", q, err)
			}
			if err != nil {
				s = answer(u, q)
			}
			shares = append(shares, s)
		}
		o, err := party.NewOpeningShare(set, q, shares)
		if err != nil {
			t.Fatal(err)
		}
		openings = append(openings, o)
	}
	sum, err := sumUploads(n, parts)
	if err != nil {
		t.Fatal(err)
	}
	open := func(openings []*party.OpeningShare) (got []int64, err error) {
		err = party.Open(context.Background(), &party.Decryption{Profile: p, Lanes: lanes, Threshold: c.charter.Threshold, Members: n, State: c.state,
			Set: set, Group: group, Openings: openings}, bytes.NewReader(sum), party.SinkFunc(func(v []int64) error { got = append(got, v...); return nil }))
		return got, err
	}
	got, err := open(openings)
	if err != nil {
		t.Fatalf("the twin is not broken: %v", err)
	}
	own := wide(tallyLanes(tallyState{}, n, colluder, tallyValues(n-1)))
	if want := wide(tallyLanes(tallyState{}, n, 2, tallyValues(1))); !slices.Equal(minus(got, own), want) {
		t.Errorf("the twin gives %v, the victim's vector is %v", minus(got, own), want)
	}
	if _, err := open(openings[1:]); err == nil {
		t.Error("fewer than t shares open the key")
	}
}

// TestDamagedSum: one wrong byte in the sum that the coordinator gives out is a
// sum that is missing. The hospitals ask again and go on; the naive twin takes it
// for its own failure and leaves the study.
func TestDamagedSum(t *testing.T) {
	h, ctx, id := play(t, 5, "damaged-sum")
	finished(t, h, ctx, id)
	wantResult(t, h, id, tallyOf(5, 2, upTo(5)))
	damaged := 0
	for _, site := range h.ids {
		if h.sent(site, consilium.KindWithdraw) != 0 {
			t.Errorf("%s leaves the study", site)
		}
		if h.courses[id].kept["damaged "+string(site)] != nil {
			damaged++
		}
	}
	if need := consilium.Threshold(5, 1); damaged < need {
		t.Errorf("%d hospitals got a damaged sum, %d are to", damaged, need)
	}
}

// TestAuditOfOtherRows: a hospital whose permitted rows changed after it
// contributed does not find its own contribution unsound: there is nothing to
// compare with. It says that its rows changed. The naive twin compares and blames
// its own disk.
func TestAuditOfOtherRows(t *testing.T) {
	t.Parallel()
	h, ctx := hostile(t, 7)
	changed := h.ids[2]
	// Three of seven wait, so that the round does not go on before the rows have changed.
	held := map[consilium.SiteID]<-chan struct{}{}
	for _, s := range h.ids[3:6] {
		held[s] = h.HaltAt(s, "open/before-lock")
	}
	if err := h.StartAll(); err != nil {
		t.Fatal(err)
	}
	id, err := h.Submit("accused", 2, "accused")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.await(ctx, "the opening", func() bool {
		return slices.ContainsFunc(h.posts, func(p Post) bool { return p.Site == changed && p.Message.Kind == consilium.KindOpening })
	}); err != nil {
		t.Fatal(err)
	}
	h.Change(changed, []int32{1, 2, 3, 4})
	for s, dead := range held {
		select {
		case <-dead:
		case <-ctx.Done():
			t.Fatalf("%s does not come to its opening", s)
		}
		if err := errors.Join(h.Stop(s), h.Start(s)); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.await(ctx, "the withdrawal", func() bool {
		return slices.ContainsFunc(h.posts, func(p Post) bool { return p.Site == changed && p.Message.Kind == consilium.KindWithdraw })
	}); err != nil {
		t.Fatal(err)
	}
	if audits := h.blames(t, changed, id, "audit"); len(audits) != 0 {
		t.Errorf("it audits what it has no more: %q", audits)
	}
	if why := h.blames(t, changed, id, "withdraw"); len(why) != 1 || !strings.Contains(why[0], string(consilium.ErrFrozen.Code)) {
		t.Errorf("it leaves because of %q, its rows have changed", why)
	}
	// The twin: the same seed over the new rows gives another contribution.
	own := tallyLanes(tallyState{}, 7, 3, tallyValues(2))
	if slices.Equal(own, tallyLanes(tallyState{}, 7, 3, []int32{1, 2, 3, 4})) {
		t.Error("the rows have not changed: the twin is not broken")
	}
}
