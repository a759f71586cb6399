package federation

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"consilium"
	"consilium/he/party"
	"consilium/worker"
)

// tallyEpochs is what a study over changing hospitals must give: who lists, for
// each round, the hospitals that contribute, as places among all that were ever
// members, and members how many of these there were by then.
func tallyEpochs(members []int, who [][]int) TallyResult {
	st := tallyState{}
	for r, n := range members {
		sums := make([]int64, n+4)
		for _, i := range who[r] {
			for k, v := range tallyLanes(st, n, consilium.Position(i+1), tallyValues(i)) {
				sums[k] += int64(v)
			}
		}
		st = tallyState{Round: uint32(r + 1), Who: sums[:n], Sums: append(st.Sums, sums[n:])}
	}
	return st
}

// TestEpochs: the next roster revokes a hospital, gives another one a new key and
// takes in a third between two rounds of a learned study. The study goes on in
// epoch 2 from the certified state, which the newcomer gets from the others, and
// its result is that of the plain integers over exactly these hospitals.
func TestEpochs(t *testing.T) {
	for _, c := range []struct {
		name             string
		drop, rekey, add []consilium.SiteID
		members          []int
		who              [][]int
	}{
		{"revoked", []consilium.SiteID{"hospital-03"}, nil, nil, []int{6, 6, 6}, [][]int{upTo(6), {0, 1, 3, 4, 5}, {0, 1, 3, 4, 5}}},
		{"new-key", nil, []consilium.SiteID{"hospital-03"}, nil, []int{6, 6, 6}, [][]int{upTo(6), upTo(6), upTo(6)}},
		{"added", nil, nil, []consilium.SiteID{"hospital-99"}, []int{6, 7, 7}, [][]int{upTo(6), upTo(7), upTo(7)}},
		{"all-three", []consilium.SiteID{"hospital-02"}, []consilium.SiteID{"hospital-05"}, []consilium.SiteID{"hospital-00"},
			[]int{6, 7, 7}, [][]int{upTo(6), {0, 2, 3, 4, 5, 6}, {0, 2, 3, 4, 5, 6}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h, ctx := hostile(t, 6)
			h.RenewAfter(1)
			if err := h.StartAll(); err != nil {
				t.Fatal(err)
			}
			id, err := h.Submit("epochs", 3, learnedStudy)
			if err != nil {
				t.Fatal(err)
			}
			if err := h.Renew(ctx, c.drop, c.rekey, c.add); err != nil {
				t.Fatal(err)
			}
			if phase, err := h.Wait(ctx, id); err != nil || phase != consilium.PhaseDone {
				t.Fatal(phase, err)
			}
			wantResult(t, h, id, tallyEpochs(c.members, c.who))
			for _, s := range c.rekey {
				if h.sent(s, consilium.KindDepart) != 0 {
					t.Errorf("%s leaves an epoch in which it had another key", s)
				}
			}
			for _, s := range append(c.rekey, c.add...) {
				if n := h.sent(s, consilium.KindHeader); n < 2 {
					t.Errorf("%s contributed %d times; it is in rounds 2 and 3", s, n)
				}
			}
		})
	}
}

// TestEpochCrashes kills a hospital at every point of the way into another
// epoch, in studies in which every hospital is needed: the result is the same, and
// no slot ever holds two messages.
func TestEpochCrashes(t *testing.T) {
	points := append(slices.Clone(worker.EpochCrashPoints), "enrol/before-secret", "enrol/after-secret", "enrol/after-promise", "charter/before-secret", "charter/after-promise")
	for _, point := range points {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			const victim = consilium.SiteID("hospital-03")
			h, ctx := hostile(t, 4) // t = 4
			h.RenewAfter(1)
			if err := h.StartAll(); err != nil {
				t.Fatal(err)
			}
			id, err := h.Submit("epochs", 3, learnedStudy)
			if err != nil {
				t.Fatal(err)
			}
			if err := h.await(ctx, "the last round of the epoch", func() bool { return h.renewing != nil }); err != nil {
				t.Fatal(err)
			}
			dead := h.HaltAt(victim, point)
			if err := h.Renew(ctx, nil, []consilium.SiteID{"hospital-04"}, nil); err != nil {
				t.Fatal(err)
			}
			select {
			case <-dead:
			case <-ctx.Done():
				t.Fatal("the crash point was not reached")
			}
			if err := h.Stop(victim); err != nil {
				t.Fatal(err)
			}
			if err := h.Start(victim); err != nil {
				t.Fatal(err)
			}
			if phase, err := h.Wait(ctx, id); err != nil || phase != consilium.PhaseDone {
				t.Fatal(phase, err)
			}
			wantResult(t, h, id, tallyEpochs([]int{4, 4, 4}, [][]int{upTo(4), upTo(4), upTo(4)}))
			bodies := map[string]string{}
			for _, p := range h.Posts() {
				m := p.Message
				if p.Site != victim || m.Kind == consilium.KindAck {
					continue
				}
				slot, err := place(m)
				if err != nil {
					t.Fatal(err)
				}
				if have, ok := bodies[slot]; ok && have != string(m.Body) {
					t.Errorf("two different messages for %s", slot)
				}
				bodies[slot] = string(m.Body)
			}
		})
	}
}

// place names what a message may be said of once.
func place(m *consilium.Message) (string, error) {
	var at consilium.At
	switch m.Kind {
	case consilium.KindEnrol:
		e, err := consilium.ParseEnrol(m.Body)
		if err != nil {
			return "", err
		}
		return fmt.Sprint("enrol ", e.Previous), nil
	case consilium.KindCharter:
		c, err := consilium.ParseCharter(m.Body)
		if err != nil {
			return "", err
		}
		return fmt.Sprint("charter ", c.Previous), nil
	case consilium.KindReveal:
		v, err := consilium.ParseReveal(m.Body)
		if err != nil {
			return "", err
		}
		return fmt.Sprint("reveal ", v.Draft), nil
	case consilium.KindDepart:
		v, err := consilium.ParseDepart(m.Body)
		if err != nil {
			return "", err
		}
		return fmt.Sprint("depart ", v.Charter), nil
	case consilium.KindHeader:
		v, err := consilium.ParseHeader(m.Body)
		if err != nil {
			return "", err
		}
		at = v.At
	case consilium.KindVote:
		v, err := consilium.ParseVote(m.Body)
		if err != nil {
			return "", err
		}
		at = v.At
	case consilium.KindOpening:
		v, err := consilium.ParseOpening(m.Body)
		if err != nil {
			return "", err
		}
		at = v.At
	case consilium.KindStateVote:
		v, err := consilium.ParseStateVote(m.Body)
		if err != nil {
			return "", err
		}
		at = v.At
	case consilium.KindSealedState:
		v, err := consilium.ParseSealedState(m.Body)
		if err != nil {
			return "", err
		}
		at = v.At
	}
	return fmt.Sprint(m.Kind, " ", at), nil
}

// TestEpochSkipped: an exact study loses a hospital that contributed to nothing.
// One that stays signs the charter of epoch 2, dies before it is in it, and comes
// back when epoch 3 is being made: what it froze is in the positions of epoch 1, whose
// last member is beyond the end of epoch 2.
func TestEpochSkipped(t *testing.T) {
	t.Parallel()
	const gone, late = consilium.SiteID("hospital-01"), consilium.SiteID("hospital-03")
	h, ctx := hostile(t, 4)
	h.Excuse(gone)
	h.RenewAfter(1)
	if err := h.StartAll(); err != nil {
		t.Fatal(err)
	}
	id, err := h.Submit("skipped", 2, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.await(ctx, "the last round of the epoch", func() bool { return h.renewing != nil }); err != nil {
		t.Fatal(err)
	}
	c := h.course(id)
	h.mu.Lock()
	c.frozen = nil // positions of the epoch that ends
	h.mu.Unlock()
	dead := h.HaltAt(late, "epoch/before-journal")
	if err := h.Renew(ctx, []consilium.SiteID{gone}, nil, nil); err != nil {
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
	h.mu.Lock()
	c.renew(2, h.Sites())
	h.mu.Unlock()
	if err := h.Start(late); err != nil {
		t.Fatal(err)
	}
	if phase, err := h.Wait(ctx, id); err != nil || phase != consilium.PhaseDone {
		t.Fatal(phase, err)
	}
	if c.charter.Epoch != 3 || len(c.charter.Members) != 3 {
		t.Fatalf("epoch %d of %d hospitals", c.charter.Epoch, len(c.charter.Members))
	}
	rest := []int{1, 2, 3}
	wantResult(t, h, id, tallyEpochs([]int{4, 4}, [][]int{rest, rest}))
}

// TestEpochInFlight: a round whose contributions were out when the epoch ended is
// repeated in the next one, for fewer hospitals: that is allowed because nobody
// opens it under the old charter any more. The naive twin is a hospital that goes
// on opening there after it has left, or that takes the new charter without counting
// who has left: from the two sums of the one round it loses its values exactly.
func TestEpochInFlight(t *testing.T) {
	h, ctx := hostile(t, 6)
	if err := h.StartAll(); err != nil {
		t.Fatal(err)
	}
	id, err := h.Submit("in-flight", 2, "epoch-in-flight")
	if err != nil {
		t.Fatal(err)
	}
	c := h.course(id)
	if err := h.await(ctx, "the contributions", func() bool { return c.round == 1 && len(c.uploads) == 6 }); err != nil {
		t.Fatal(err)
	}
	// What naive hospitals would hold, and the contributions of epoch 1.
	h.mu.Lock()
	uploads, charter, digest := c.uploads, c.charter, c.digest
	whole := c.setOf(c.expected()...)
	whole.Charter = digest
	h.mu.Unlock()
	twin := steal(t, h, c)
	if err := h.Stop(h.victim()); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	c.renew(1, h.others(h.victim()))
	h.mu.Unlock()
	if phase, err := h.Wait(ctx, id); err != nil || phase != consilium.PhaseDone {
		t.Fatal(phase, err)
	}
	// The victim was away and is left out.
	rest := slices.DeleteFunc(upTo(6), func(i int) bool { return i == 1 })
	want := tallyEpochs([]int{6, 6}, [][]int{rest, rest})
	wantResult(t, h, id, want)
	// Every statement under the old charter after the departure would be a second
	// sum of the round. There is none.
	for _, p := range h.Posts() {
		if p.Message.Kind == consilium.KindOpening {
			if o, err := consilium.ParseOpening(p.Message.Body); err != nil || o.Charter == digest {
				t.Fatalf("%s opens under the charter that it has left (%v)", p.Site, err)
			}
		}
	}
	// The twin opens both.
	twin.c = &course{h: h, charter: charter, uploads: uploads}
	var parts []*upload
	for _, m := range whole.Members {
		parts = append(parts, uploads[m.Position])
	}
	sum, err := twin.open(t, whole, parts)
	if err != nil {
		t.Fatal(err)
	}
	stolen := make([]int64, 4)
	for k := range stolen {
		stolen[k] = sum[6+k] - want.Sums[0][k]
	}
	if fmt.Sprint(stolen) != fmt.Sprint(tallyValues(1)) {
		t.Errorf("the difference of the two sums is %v, the victim's values are %v: the twin is not broken", stolen, tallyValues(1))
	}
}

// TestLogBehindEpoch: a coordinator that shows a hospital, after a crash, a log
// that ends before the epoch began gets nothing more under the old charter out of it.
func TestLogBehindEpoch(t *testing.T) {
	const who = consilium.SiteID("hospital-03")
	h, ctx := hostile(t, 6)
	h.RenewAfter(1)
	if err := h.StartAll(); err != nil {
		t.Fatal(err)
	}
	id, err := h.Submit("epochs", 3, learnedStudy)
	if err != nil {
		t.Fatal(err)
	}
	h.PauseAt(2)
	if err := h.Renew(ctx, nil, nil, []consilium.SiteID{"hospital-99"}); err != nil {
		t.Fatal(err)
	}
	if err := h.await(ctx, "round 2", func() bool { return h.paused != nil }); err != nil {
		t.Fatal(err)
	}
	if err := h.Stop(who); err != nil {
		t.Fatal(err)
	}
	rest := h.Cut(who, id, consilium.EventRenewing)
	c := h.course(id)
	h.mu.Lock()
	before := len(h.posts)
	o := consilium.RoundOpened{Charter: c.priorD, Round: 2, Attempt: 1, State: c.draft.Handover.State, Deadline: h.now().Add(time.Hour).UnixMilli(), Sealing: make([]consilium.Digest, 6)}
	h.tell(id, consilium.EventOpened, o.Encode(), who)
	h.mu.Unlock()
	if err := h.Start(who); err != nil {
		t.Fatal(err)
	}
	behind := func(_ []Post, notes []Note) bool {
		return slices.ContainsFunc(notes, func(n Note) bool {
			return n.Site == who && n.Text == "the log is behind this hospital, which has left the epoch"
		})
	}
	if err := h.Until(ctx, "the hospital to notice", behind); err != nil {
		t.Fatal(err)
	}
	for _, p := range h.Posts()[before:] {
		if p.Site == who {
			t.Errorf("%s says %s under a charter that it has left", who, p.Message.Kind)
		}
	}
	// The whole log again: it goes on.
	if err := h.Stop(who); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	h.views[who] = h.views[who][:len(h.views[who])-1]
	h.mu.Unlock()
	h.Show(who, rest)
	if err := h.Start(who); err != nil {
		t.Fatal(err)
	}
	if err := h.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	if phase, err := h.Wait(ctx, id); err != nil || phase != consilium.PhaseDone {
		t.Fatal(phase, err)
	}
	wantResult(t, h, id, tallyEpochs([]int{6, 7, 7}, [][]int{upTo(6), upTo(7), upTo(7)}))
}

// TestHandoverIsChecked: a newcomer takes the state of the epoch before only if
// the digest that was certified there, and the salt handed over with it, say so.
func TestHandoverIsChecked(t *testing.T) {
	c := &consilium.Charter{Study: "s-abcdefghijklmnop", Epoch: 2, Handover: &consilium.Handover{Round: 4}}
	var all []*party.Contribution
	for i := range 3 {
		s, err := party.NewContribution()
		if err != nil {
			t.Fatal(err)
		}
		m := consilium.Member{Site: consilium.SiteID(fmt.Sprintf("site-%d", i)), Nonce: consilium.DomainEnrol.Digest([]byte{byte(i)})}
		m.Commitment = s.Commitment(c.Study, m.Site, m.Nonce)
		c.Members, all = append(c.Members, m), append(all, s)
	}
	group, err := party.Combine(consilium.DomainCharter.Digest([]byte("draft")), c, all)
	if err != nil || group.Round() != 4 {
		t.Fatal(err, "the first round of the epoch is 4")
	}
	salt, state := [32]byte{1, 2, 3}, []byte("weights")
	certified := consilium.DomainState.Digest(salt[:], state)
	at := consilium.At{Round: 4, Attempt: 1, Position: 2}
	sealed, err := group.SealHandover(at, salt, state)
	if err != nil || len(sealed) != len(state)+party.HandoverOverhead {
		t.Fatal(err, len(sealed))
	}
	if s, b, err := group.OpenHandover(at, certified, sealed); err != nil || s != salt || string(b) != string(state) {
		t.Fatal(s, b, err)
	}
	for name, try := range map[string]func() error{
		"another state": func() error {
			b, err := group.SealHandover(at, salt, []byte("crafted"))
			if err == nil {
				_, _, err = group.OpenHandover(at, certified, b)
			}
			return err
		},
		"another salt": func() error {
			b, err := group.SealHandover(at, [32]byte{9}, state)
			if err == nil {
				_, _, err = group.OpenHandover(at, certified, b)
			}
			return err
		},
		"a state of the round": func() error {
			b, err := group.SealState(at, append(salt[:], state...))
			if err == nil {
				_, _, err = group.OpenHandover(at, certified, b)
			}
			return err
		},
		"another round": func() error {
			at := at
			at.Round++
			_, _, err := group.OpenHandover(at, certified, sealed)
			return err
		},
		"cut": func() error { _, _, err := group.OpenHandover(at, certified, sealed[:40]); return err },
	} {
		if try() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
