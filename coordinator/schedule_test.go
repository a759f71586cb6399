package coordinator

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"consilium"
)

// anything makes one random command: mostly what an honest member would do
// next, sometimes a second, different statement, a wrong set, a complaint, a
// withdrawal, a tick or a repeated command.
func (w *world) anything(rng *rand.Rand) Op {
	n := w.members()
	p := consilium.Position(1 + rng.IntN(n))
	q := consilium.Position(1 + rng.IntN(n))
	salt := 0
	if rng.IntN(6) == 0 {
		salt = rng.IntN(3)
	}
	set := w.set()
	if rng.IntN(12) == 0 {
		set = dig("other set", rng.IntN(2))
	}
	if len(w.log) > 0 && rng.IntN(20) == 0 {
		return w.log[rng.IntN(len(w.log))].Op // a leader repeats itself
	}
	if rng.IntN(250) == 0 {
		id := w.sites[rng.IntN(len(w.sites))]
		_, there := w.current.Site(id)
		switch {
		case !there:
			return w.successor(nil, nil, []consilium.SiteID{id})
		case rng.IntN(3) == 0 && len(w.sites) < 9:
			return w.successor(nil, nil, []consilium.SiteID{consilium.SiteID(fmt.Sprintf("h%02d", len(w.sites)+1))})
		case rng.IntN(2) == 0:
			return w.successor(nil, []consilium.SiteID{id}, nil)
		}
		return w.successor([]consilium.SiteID{id}, nil, nil)
	}
	switch x := rng.IntN(1000); {
	case x < 2:
		return w.withdrawing(w.site(p))
	case x < 4:
		if rng.IntN(8) == 0 {
			return w.cancelling("team")
		}
		return w.cancelling("rivals")
	case x < 9:
		return w.complainAbout(p, q)
	case x < 13:
		return w.renouncing(p)
	case x < 20:
		if st := w.s.studies[w.study]; st != nil && len(st.complaints) > 0 {
			c := st.complaints[rng.IntN(len(st.complaints))]
			return w.answering(c.dealer, c.by)
		}
		return &Tick{}
	case x < 22:
		return w.suspecting(p, q)
	case x < 24:
		return w.showing(p)
	case x < 120:
		w.now += int64(rng.IntN(60)) * secondMs
		return &Tick{}
	case x < 150:
		for _, k := range w.s.Pending() {
			if k.Kind == WorkCollect {
				return &Collect{Blobs: k.Blobs}
			}
		}
		return &Tick{}
	}
	st := w.s.studies[w.study]
	if st == nil {
		return w.contribution(p, salt)
	}
	switch st.phase {
	case consilium.PhaseSubmitted:
		if rng.IntN(2) == 0 {
			return &Decide{Study: w.study, Allow: rng.IntN(60) > 0, Record: []byte("{}")}
		}
		return w.approval(fmt.Sprintf("ethics-%d", 1+rng.IntN(3)))
	case consilium.PhaseAdmitted, consilium.PhaseEnrolling:
		switch {
		case st.draft == nil && rng.IntN(15) == 0:
			return w.declination(p)
		case st.draft == nil && st.prior != nil && rng.IntN(2) == 0:
			return w.departing(string(w.sites[rng.IntN(len(w.sites))]))
		case st.draft == nil:
			return w.enrolment(consilium.Position(1 + rng.IntN(len(w.sites))))
		case rng.IntN(2) == 0:
			return w.revealing(p)
		}
		return w.signature(p, 0)
	case consilium.PhaseContributing:
		if rng.IntN(3) == 0 {
			return w.contribution(p, salt)
		}
		return w.acking(p, w.contributed()...)
	case consilium.PhaseCertifying:
		return w.voting(p, set)
	case consilium.PhaseOpening:
		if rng.IntN(4) == 0 {
			return w.sum()
		}
		return w.openingOf(p, set)
	case consilium.PhaseUpdating:
		next, reject := st.round, rng.IntN(60) == 0
		if w.spoil && st.round == 1 && st.rejected == 0 {
			reject = true // the first aggregate goes wrong, for everybody
		}
		if rng.IntN(100) == 0 {
			next = 999
		}
		return w.stating(p, next, st.round >= 3, reject)
	case consilium.PhaseReleasing:
		if rng.IntN(3) == 0 {
			return w.publishing(p, "r")
		}
		code := ""
		if rng.IntN(60) == 0 {
			code = "NO"
		}
		return w.releasing(p, "r", code)
	}
	return &Tick{}
}

func (w *world) complainAbout(p, dealer consilium.Position) *Post {
	c := consilium.Complaint{At: w.at(p), Header: w.known(dealer), Reason: "bad box"}
	return w.message(consilium.KindComplaint, w.site(p), c.Encode())
}

func randomOptions(rng *rand.Rand) options {
	o := options{n: 3 + rng.IntN(5), min: 3, missing: []string{"wait", "abort", "continue"}[rng.IntN(3)], learned: rng.IntN(2) == 0}
	if rng.IntN(3) == 0 && o.n > 3 {
		o.operators = map[int]string{1: "holding", 2: "holding"}
	}
	return o
}

// schedule plays random commands against one state and returns the first
// thing that must never happen, if it happened.
func schedule(t *testing.T, seed uint64, steps int, check bool) (*world, error) {
	rng := rand.New(rand.NewPCG(seed, 77))
	w := newWorld(t, randomOptions(rng))
	w.check, w.spoil = check, seed%4 == 3
	w.must(w.submission())
	for i := 0; i < steps; i++ {
		if rng.IntN(150) == 0 { // a new leader starts from a snapshot
			w.s = w.copy()
		}
		w.do(w.anything(rng))
		if w.s.studies[w.study] == nil {
			steps = min(steps, i+10) // a few more after the end
		}
	}
	return w, faithful(w.events)
}

// TestRandomSchedules plays hundreds of federations with equivocating,
// complaining, leaving and repeating members. The judge knows only the events.
func TestRandomSchedules(t *testing.T) {
	ends := map[consilium.Phase]int{}
	attempts, waits, certified, epochs, carried := 0, 0, 0, 0, 0
	for seed := uint64(0); seed < 120; seed++ {
		w, err := schedule(t, seed, 500, seed%75 == 0)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		w.verify()
		ends[w.info().Phase]++
		later := false
		for _, ev := range w.events {
			switch ev.Kind {
			case consilium.EventChartered:
				if c, _ := consilium.ParseCharter(ev.Body); c.Epoch > 1 {
					epochs++
					later = true
				}
			case consilium.EventDone:
				if later {
					carried++
				}
			case consilium.EventCertified:
				certified++
			case consilium.EventWaiting:
				waits++
			case consilium.EventOpened:
				if o, _ := consilium.ParseRoundOpened(ev.Body); o.Attempt > 1 {
					attempts++
				}
			}
		}
	}
	t.Logf("ends %v, %d certified sets, %d further attempts, %d waits, %d further epochs, %d studies done in one", ends, certified, attempts, waits, epochs, carried)
	if epochs < 20 || carried < 5 || ends[consilium.PhaseDone] < 20 || ends[consilium.PhaseAborted] < 20 || attempts < 20 || waits < 20 {
		t.Fatal("the schedules do not reach what they are meant to test")
	}
}

// Bugs that a hurried hand could plant. The judge of the schedules must find
// every one; if it does not, it is the judge that is broken.
func TestPlantedBugsAreFound(t *testing.T) {
	kind := func(k consilium.MessageKind, bug func(good handler) handler) func() func() {
		return func() func() {
			good := handlers[k]
			handlers[k] = bug(good)
			return func() { handlers[k] = good }
		}
	}
	before := func(do func(st *study)) func(handler) handler {
		return func(good handler) handler {
			return func(a *apply, st *study, m *consilium.Message, op *Post) (func(), *Rejection) {
				do(st)
				return good(a, st, m, op)
			}
		}
	}
	bugs := map[string]func() func(){
		"a second header of a hospital replaces the first": kind(consilium.KindHeader, before(func(st *study) {
			if st.phase == consilium.PhaseContributing {
				st.contributions = make([]*contribution, len(st.contributions))
			}
		})),
		"a second vote is counted": kind(consilium.KindVote, before(func(st *study) {
			if i := len(st.votes); i > 0 && st.phase == consilium.PhaseCertifying {
				st.votes = make([]consilium.Digest, i)
				st.seen = map[consilium.Digest]bool{}
			}
		})),
		"one vote fewer certifies":  kind(consilium.KindVote, before(func(st *study) { fewer(st) })),
		"one state fewer closes":    kind(consilium.KindStateVote, before(func(st *study) { fewer(st) })),
		"one release fewer is done": kind(consilium.KindPublish, before(func(st *study) { fewer(st) })),
		"the frozen contributors are forgotten": kind(consilium.KindHeader, before(func(st *study) {
			st.frozen, st.pinned = nil, nil
		})),
		"the members of a rejected attempt may change": kind(consilium.KindAck, before(func(st *study) {
			if !st.spec.exact {
				st.pinned = nil
			}
		})),
		"an epoch begins after one departure fewer": kind(consilium.KindDepart, func(good handler) handler {
			return func(a *apply, st *study, m *consilium.Message, op *Post) (func(), *Rejection) {
				if st.prior != nil && st.prior.Threshold == consilium.Threshold(len(st.prior.Members), st.prior.Faults) {
					c := *st.prior
					c.Threshold++
					st.prior = &c
				}
				return good(a, st, m, op)
			}
		}),
		"min_sites is ignored": kind(consilium.KindHeader, before(func(st *study) {
			if st.charter != nil {
				c := *st.charter
				c.MinSites = 1
				st.charter = &c
			}
		})),
	}
	for name, install := range bugs {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			defer install()()
			for seed := uint64(0); seed < 400; seed++ {
				if _, err := schedule(t, seed, 400, false); err != nil {
					t.Logf("found at seed %d: %v", seed, err)
					return
				}
			}
			t.Fatal("nobody noticed")
		})
	}
}

func fewer(st *study) {
	if st.charter != nil && st.charter.Threshold == consilium.Threshold(len(st.charter.Members), st.charter.Faults) {
		c := *st.charter
		c.Threshold--
		st.charter = &c
	}
}

// TestReplay: the same log gives the same bytes, from the start, from any
// snapshot, and when old entries come again.
func TestReplay(t *testing.T) {
	for seed := uint64(0); seed < 20; seed++ {
		w, err := schedule(t, 1000+seed, 300, false)
		if err != nil {
			t.Fatal(err)
		}
		s := NewState()
		var half []byte
		for i, cmd := range w.log {
			s.Apply(w.marks[i], cmd)
			if i == len(w.log)/2 {
				half = s.Snapshot()
			}
		}
		want := w.s.Snapshot()
		if !bytes.Equal(s.Snapshot(), want) {
			t.Fatalf("seed %d: a replay gives another state", seed)
		}
		r, err := Restore(half)
		if err != nil {
			t.Fatal(err)
		}
		for i, cmd := range w.log { // from the start again: the first half is old
			ev, rej := r.Apply(w.marks[i], cmd)
			if i <= len(w.log)/2 && (len(ev) > 0 || rej != nil) {
				t.Fatalf("seed %d: an old entry did something", seed)
			}
		}
		if !bytes.Equal(r.Snapshot(), want) {
			t.Fatalf("seed %d: a replay over a snapshot gives another state", seed)
		}
	}
}
