package coordinator

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"consilium"
	"consilium/internal/canon"
)

func TestWholeLife(t *testing.T) {
	w := newWorld(t, options{n: 5, min: 3})
	w.start()
	w.phase(consilium.PhaseContributing)
	w.round(1, false, 1, 2, 3, 4, 5)
	w.must(w.sealing(1))
	first := w.st().sealing
	w.round(2, true, 1, 2, 3, 4, 5)
	w.phase(consilium.PhaseReleasing)
	w.must(w.sealing(2))
	w.finish()
	w.phase(consilium.PhaseDone)
	w.verify()
	i := w.info()
	if i.Result != dig("envelope", consilium.Position(1)) || i.Round != 2 || i.Contributed != 5 || i.Members != 5 || i.Ended == 0 || len(i.Sites) != 5 {
		t.Fatalf("%+v", i)
	}
	if i.FirstSeq != 0 || i.LastSeq != uint64(len(w.events)-1) || i.Events != len(w.events) {
		t.Fatalf("events %d to %d, %d", i.FirstSeq, i.LastSeq, i.Events)
	}
	if w.s.Events(w.study, 0) != nil || len(w.s.LiveBlobs()) != 1 {
		t.Fatal("an ended study keeps more than its result")
	}
	// Round 2 dealt to the keys that the headers of round 1 published.
	for _, ev := range w.events {
		if o, err := consilium.ParseRoundOpened(ev.Body); ev.Kind == consilium.EventOpened && err == nil && o.Round == 2 {
			if !slices.Equal(o.Sealing, first) || slices.Contains(o.Sealing, consilium.Digest{}) || o.State != dig("state", 1) {
				t.Fatal("round 2 opened with other sealing keys or state")
			}
		}
	}
}

func code(t *testing.T, r *Rejection, want *consilium.Error) {
	t.Helper()
	if r == nil || !errors.Is(r.AsError(), want) {
		t.Fatalf("rejected with %v, want %s", r, want.Code)
	}
}

func TestSubmissionToken(t *testing.T) {
	w := newWorld(t, options{n: 3, min: 3})
	w.must(w.submission())
	id := w.study
	if ev := w.must(w.submission()); len(ev) != 0 {
		t.Fatal("the same submission is two studies")
	}
	w.opts.missing = "abort" // another specification under the same token
	_, r := w.do(w.submission())
	code(t, r, consilium.ErrStudyExists)
	// The token stays taken after the study has ended.
	w.study = id
	w.must(w.cancelling("team"))
	_, r = w.do(w.submission())
	code(t, r, consilium.ErrStudyExists)
	w.opts.token = "another"
	w.must(w.submission())
	w.verify()
}

func TestSubmissionRefused(t *testing.T) {
	w := newWorld(t, options{n: 3, min: 4})
	_, r := w.do(w.submission())
	code(t, r, consilium.ErrBelowMinimum)
	w.opts.min, w.opts.only = 3, []consilium.SiteID{"h01", "h02", "nowhere"}
	_, r = w.do(w.submission())
	code(t, r, consilium.ErrInvalid)
	w.opts.only = nil
	good := w.submission()
	m, _ := consilium.ParseMessage(good.Message)
	_, r = w.do(w.message(m.Kind, "rivals", m.Body))
	code(t, r, consilium.ErrForbidden)
	w.now += 25 * 3600 * secondMs
	_, r = w.do(good)
	code(t, r, consilium.ErrStale)
	spaced := bytes.Replace(m.Body, []byte(`,"`), []byte(`, "`), 1)
	w.study = consilium.NewStudyID(consilium.DomainSubmission.Digest(spaced))
	_, r = w.do(w.message(m.Kind, "team", spaced))
	code(t, r, consilium.ErrInvalid)
	_, r = NewState().Apply(1, Command{At: w.now, Op: w.submission()})
	code(t, r, consilium.ErrWrongPhase)
	w.check = false
	w.s = NewState()
	_, r = w.do(&RosterSet{Payload: []byte("{}")})
	code(t, r, consilium.ErrInvalid)
}

// min_sites counts operators, not hospitals: two hospitals of one operator
// are one.
func TestOperatorsCountOnce(t *testing.T) {
	w := newWorld(t, options{n: 5, min: 4, operators: map[int]string{1: "holding", 2: "holding"}})
	w.start()
	w.contribute(1, 2, 3, 4) // four hospitals, three operators
	w.ackAll(1, 2, 3, 4)
	w.tick(120)
	w.phase(consilium.PhaseWaiting)
	w.contribute(5)
	w.ackAll(1, 2, 3, 4, 5)
	w.phase(consilium.PhaseCertifying)
	w.verify()
}

func TestRosterFollows(t *testing.T) {
	w := newWorld(t, options{n: 3, min: 3})
	r, digest := w.s.Roster()
	if ev := w.must(&RosterSet{Payload: w.s.RosterPayload()}); len(ev) != 0 {
		t.Fatal("the same roster again")
	}
	next := *r
	next.Version, next.Previous = 2, dig("another")
	b, _ := canon.Marshal(&next)
	_, rej := w.do(&RosterSet{Payload: b})
	code(t, rej, consilium.ErrStale)
	// A study keeps the roster under which it was admitted.
	w.admit()
	old := w.enrolment(1)
	next.Previous = digest
	b, _ = canon.Marshal(&next)
	w.must(&RosterSet{Payload: b})
	w.must(old)
	_, rej = w.do(w.enrolment(2))
	code(t, rej, consilium.ErrStale)
	// Versions 3 and 4 were installed while nobody led: 4 comes without 3, and
	// nothing older after it.
	next.Version, next.Previous = 4, dig("version 3")
	b, _ = canon.Marshal(&next)
	w.must(&RosterSet{Payload: b})
	next.Version, next.Previous = 3, digest
	b, _ = canon.Marshal(&next)
	_, rej = w.do(&RosterSet{Payload: b})
	code(t, rej, consilium.ErrStale)
}

// More than f complaints take a dealing out even where t others found it
// sound, answered or not. With fewer the dealer has until the deadline to
// answer, and leaves the set if it does not.
func TestComplaints(t *testing.T) {
	for _, c := range []struct {
		complaints int
		answered   bool
		want       int // members of the set
	}{{1, true, 9}, {1, false, 8}, {2, true, 8}, {2, false, 8}} {
		w := newWorld(t, options{n: 9, min: 3, faults: 1}) // t = 6
		w.start()
		w.contribute(w.all()...)
		for p := consilium.Position(1); int(p) <= c.complaints; p++ {
			w.must(w.complaining(p, 9))
		}
		for p := consilium.Position(9); p >= 1; p-- {
			dealers := w.all()
			if int(p) <= c.complaints {
				dealers = dealers[:8]
			}
			if w.st().phase == consilium.PhaseContributing {
				w.must(w.acking(p, dealers...))
			}
		}
		if c.complaints == 1 {
			w.phase(consilium.PhaseContributing) // it waits for the dealer
			if c.answered {
				w.must(w.answering(9, 1))
				if _, r := w.do(w.answering(9, 2)); r == nil {
					t.Error("an answer to nobody's complaint is recorded")
				}
			} else {
				w.tick(120)
			}
		}
		w.phase(consilium.PhaseCertifying)
		if got := w.st().setPositions(); len(got) != c.want {
			t.Fatalf("%d complaints, answered %v: proposed %v, want %d", c.complaints, c.answered, got, c.want)
		}
		w.verify()
	}
}

// After a rejected aggregate members may name suspects of that attempt, once
// and not more than t - 1 - f, and the accused may show their shares.
func TestSuspects(t *testing.T) {
	w := newWorld(t, options{n: 7, min: 3}) // f = 1, t = 5
	w.start()
	w.contribute(w.all()...)
	w.ackAll(w.all()...)
	w.voteAll()
	w.openAll()
	if _, r := w.do(w.suspecting(1, 7)); r == nil {
		t.Error("suspects before anything was rejected")
	}
	w.stateAll(0, false, true)
	w.phase(consilium.PhaseContributing)
	if w.st().attempt != 2 {
		t.Fatal("no second attempt")
	}
	w.must(w.suspecting(1, 7))
	for name, op := range map[string]*Post{"second list": w.suspecting(1, 6), "too many": w.suspecting(2, 3, 4, 5, 6), "stranger": w.suspecting(2, 8)} {
		if _, r := w.do(op); r == nil {
			t.Errorf("%s is recorded", name)
		}
	}
	show := w.showing(7)
	w.must(show)
	if loc, ok := w.s.Locate(show.Blob.Digest); !ok || loc.Study != w.study {
		t.Error("what is shown cannot be found")
	}
	w.s = w.copy()
	w.round(1, false, w.all()...)
	if _, ok := w.s.Locate(show.Blob.Digest); ok {
		t.Error("what was shown outlives its round")
	}
	w.verify()
}

// Suspects are about the attempt that was rejected, not about the last one: when
// the second attempt is not certified, nothing can be said about it in the third.
func TestSuspectsOfTheRejectedAttempt(t *testing.T) {
	w := newWorld(t, options{n: 7, min: 3})
	w.start()
	w.contribute(w.all()...)
	w.ackAll(w.all()...)
	w.voteAll()
	w.openAll()
	w.stateAll(0, false, true)
	w.contribute(w.all()...)
	w.ackAll(w.all()...)
	w.phase(consilium.PhaseCertifying)
	for _, p := range w.all() {
		if p != 2 {
			w.must(w.complaining(p, 2))
		}
	}
	w.tick(w.st().deadline/secondMs - w.now/secondMs + 1) // no answer came
	if st := w.st(); st.attempt != 3 {
		t.Fatalf("attempt %d", st.attempt)
	}
	_, r := w.do(w.suspecting(1, 7))
	code(t, r, consilium.ErrWrongPhase)
	_, r = w.do(w.showing(7))
	code(t, r, consilium.ErrWrongPhase)
	w.s = w.copy()
	w.verify()
}

// N - t + f + 1 renouncements release a certified round that nobody opened,
// and it begins again with whoever contributes; one fewer does not, nor those of
// hospitals that have opened.
func TestLockRelease(t *testing.T) {
	for n := 4; n <= 7; n++ {
		w := newWorld(t, options{n: n, min: 3})
		w.start()
		w.contribute(w.all()...)
		w.ackAll(w.all()...)
		w.voteAll()
		w.phase(consilium.PhaseOpening)
		c := w.st().charter
		quorum := n - c.Threshold + c.Faults + 1
		w.must(w.openingOf(1, w.set()))
		if _, r := w.do(w.renouncing(1)); r == nil {
			t.Fatal("a hospital that opened renounces")
		}
		for p := consilium.Position(2); int(p) <= quorum; p++ {
			w.must(w.renouncing(p))
		}
		w.phase(consilium.PhaseOpening)
		if quorum+1 > n {
			continue
		}
		w.must(w.renouncing(consilium.Position(quorum + 1)))
		w.phase(consilium.PhaseContributing)
		if st := w.st(); st.attempt != 2 || st.required() != nil {
			t.Fatalf("N %d: attempt %d, bound to %v", n, st.attempt, st.required())
		}
		// The second attempt may be over fewer.
		rest := w.all()[:n-1]
		if n-1 >= c.Threshold {
			w.contribute(rest...)
			w.ackAll(rest...)
			w.tick(120)
			w.phase(consilium.PhaseCertifying)
			if got := w.st().setPositions(); !slices.Equal(got, rest) {
				t.Fatalf("N %d: proposed %v", n, got)
			}
		}
		if err := faithful(w.events); err != nil {
			t.Fatal(err)
		}
	}
}

// Somebody who contributes first in a strange shape shuts nobody out.
func TestStrangeShape(t *testing.T) {
	w := newWorld(t, options{n: 5, min: 3})
	w.start()
	w.must(w.contributionAt(w.at(1), 0, "strange"))
	w.contribute(2, 3, 4, 5)
	w.ackAll(1, 2, 3, 4, 5)
	w.phase(consilium.PhaseCertifying)
	if got := w.st().setPositions(); !slices.Equal(got, []consilium.Position{2, 3, 4, 5}) {
		t.Fatalf("proposed %v", got)
	}
}

// A contribution that came just before the deadline is not lost because its
// acknowledgements come just after it.
func TestGraceAfterDeadline(t *testing.T) {
	w := newWorld(t, options{n: 5, min: 3})
	w.start()
	w.contribute(1, 2, 3)
	w.ackAll(1, 2, 3)
	w.contribute(4)
	w.tick(120)
	w.phase(consilium.PhaseContributing)
	w.ackAll(1, 2, 3, 4)
	w.phase(consilium.PhaseCertifying)
	if got := w.st().setPositions(); len(got) != 4 {
		t.Fatalf("proposed %v", got)
	}
	// Where they never come, the round goes on without it.
	w = newWorld(t, options{n: 5, min: 3})
	w.start()
	w.contribute(1, 2, 3)
	w.ackAll(1, 2, 3)
	w.contribute(4)
	w.tick(120)
	w.tick(120)
	w.phase(consilium.PhaseCertifying)
	if got := w.st().setPositions(); len(got) != 3 {
		t.Fatalf("proposed %v", got)
	}
}

func TestHeaderIsChecked(t *testing.T) {
	w := newWorld(t, options{n: 3, min: 3})
	w.start()
	bad := map[string]func(p *Post){
		"ciphertext size":   func(p *Post) { p.Upload.Ciphertext.Size++ },
		"no ciphertext":     func(p *Post) { p.Upload.Ciphertext.Digest = consilium.Digest{} },
		"boxes not equal":   func(p *Post) { p.Upload.Boxes.Size++ },
		"no boxes":          func(p *Post) { p.Upload.Boxes.Size = 0 },
		"boxes too large":   func(p *Post) { p.Upload.Boxes.Size = 3 * (consilium.MaxBoxSize + 1) },
		"capacity":          func(p *Post) { p.Upload.Capacity = 2 },
		"no parameter set":  func(p *Post) { p.Upload.LogN = 0 },
		"a blob besides":    func(p *Post) { p.Blob = &BlobRef{dig("x"), 1} },
		"trailing bytes":    func(p *Post) { p.Message = append(p.Message, 0) },
		"truncated message": func(p *Post) { p.Message = p.Message[:len(p.Message)-1] },
	}
	for name, spoil := range bad {
		p := w.contribution(1, 0)
		spoil(p)
		if _, r := w.do(p); r == nil || r.Err.Code != consilium.ErrInvalid.Code {
			t.Errorf("%s: %v", name, r)
		}
	}
	// Two boxes for three hospitals, and another hospital's position.
	two := newWorld(t, options{n: 4, min: 3})
	two.start()
	_, r := w.do(func() *Post {
		m, _ := consilium.ParseMessage(two.contribution(1, 0).Message)
		p := w.message(m.Kind, "h01", m.Body)
		p.Upload = two.contribution(1, 0).Upload
		return p
	}())
	code(t, r, consilium.ErrInvalid)
	at := w.at(1)
	at.Position = 2
	m, _ := consilium.ParseMessage(w.contributionAt(at, 0, "layout").Message)
	p := w.message(m.Kind, "h01", m.Body)
	p.Upload = w.contribution(1, 0).Upload
	_, r = w.do(p)
	code(t, r, consilium.ErrInvalid)
}

// Blobs become garbage when nothing needs them, and a blob that was collected
// a moment ago is not referred to: the majority may have deleted it.
func TestGarbage(t *testing.T) {
	w := newWorld(t, options{n: 3, min: 3})
	w.start()
	w.contribute(1, 2, 3)
	k := w.st().contributions[0]
	for _, d := range []consilium.Digest{k.ciphertext, k.upload.Ciphertext.Digest, k.upload.Boxes.Digest, k.boxes[1]} {
		loc, ok := w.s.Locate(d)
		if !ok || loc.Study != w.study {
			t.Fatal("a live blob is not found")
		}
		if d == k.boxes[1] && (loc.Offset != 100 || loc.Length != 100 || loc.Blob != k.upload.Boxes) {
			t.Fatalf("a box at %+v", loc)
		}
	}
	if n := len(w.s.LiveBlobs()); n != 6 {
		t.Fatalf("%d live blobs", n)
	}
	w.ackAll(1, 2, 3)
	w.voteAll()
	w.openAll()
	_, r := w.do(&Collect{Blobs: []consilium.Digest{k.upload.Boxes.Digest}})
	code(t, r, consilium.ErrInvalid)
	w.stateAll(1, false, false)
	var garbage []consilium.Digest
	for _, work := range w.s.Pending() {
		if work.Kind == WorkCollect {
			garbage = work.Blobs
		}
	}
	if len(garbage) != 7 || len(w.s.LiveBlobs()) != 0 {
		t.Fatalf("%d blobs to collect, %d live", len(garbage), len(w.s.LiveBlobs()))
	}
	_, r = w.do(&Collect{Blobs: append(slices.Clone(garbage), garbage[0])})
	code(t, r, consilium.ErrInvalid)
	w.must(&Collect{Blobs: garbage[:3]})
	p := w.contribution(1, 0)
	p.Upload.Ciphertext.Digest = garbage[0]
	_, r = w.do(p)
	code(t, r, consilium.ErrBlobMissing)
	p.Upload.Ciphertext.Digest = garbage[4] // not collected yet: saved
	w.must(p)
	if _, ok := w.s.Locate(garbage[4]); !ok {
		t.Fatal("lost")
	}
	_, r = w.do(&Collect{Blobs: garbage[4:5]})
	code(t, r, consilium.ErrInvalid)
	w.must(w.cancelling("team"))
	w.must(&Collect{Blobs: garbage[4:5]})
}

func TestSumIsRecordedOnce(t *testing.T) {
	w := newWorld(t, options{n: 3, min: 3})
	w.start()
	w.contribute(1, 2, 3)
	w.ackAll(1, 2, 3)
	w.voteAll()
	work := w.s.Pending()[0]
	if work.Kind != WorkSum || len(work.Parts) != 3 || work.Set != w.set() || work.Parts[2].Position != 3 {
		t.Fatalf("%+v", work)
	}
	_, r := w.do(&RecordSum{Study: w.study, Set: w.set()})
	code(t, r, consilium.ErrInvalid)
	w.must(w.sum())
	if ev := w.must(w.sum()); len(ev) != 0 {
		t.Fatal("summed twice")
	}
	_, r = w.do(&RecordSum{Study: w.study, Set: w.set(), Blob: BlobRef{dig("other"), 1}})
	code(t, r, consilium.ErrConflictingMessage)
}

// A leader whose clock runs behind or ahead moves deadlines, never anything
// else; the coordinator's clock does not go back.
func TestClock(t *testing.T) {
	w := newWorld(t, options{n: 3, min: 3})
	w.start()
	now := w.s.Now()
	w.now -= 3600 * secondMs
	w.contribute(1)
	if w.s.Now() != now || w.events[len(w.events)-1].Time != now {
		t.Fatal("time went back")
	}
	w.now += 2 * 3600 * secondMs // two hours ahead: late, but nothing was asked of time
	w.contribute(2)
	w.phase(consilium.PhaseContributing)
	w.tick(0)
	w.phase(consilium.PhaseWaiting)
}

// The charter's signatures must agree, and a charter is its draft.
func TestCharterSignatures(t *testing.T) {
	w := newWorld(t, options{n: 3, min: 3})
	w.admit()
	w.each(w.enrolment)
	w.each(w.revealing)
	m, _ := consilium.ParseMessage(w.signature(1, 0).Message)
	c, _ := consilium.ParseCharter(m.Body)
	c.Threshold, c.Faults, c.MinSites = 3, 1, 3
	c.Members[0].Sealing = sealkey("swapped")
	b, _ := canon.Marshal(c)
	_, r := w.do(w.message(consilium.KindCharter, "h01", b))
	code(t, r, consilium.ErrInvalid)
	w.must(w.signature(1, 0))
	_, r = w.do(w.signature(1, "other"))
	code(t, r, consilium.ErrConflictingMessage)
	w.must(w.signature(2, "other"))
	w.phase(consilium.PhaseAborted)
	if reason := w.info().Reason; !strings.Contains(reason, "h01") || !strings.Contains(reason, "h02") {
		t.Fatal(reason)
	}
}

// The board signs one approval. Two members who sign different ones have not
// approved anything.
func TestApprovalsAreOneDocument(t *testing.T) {
	w := newWorld(t, options{n: 3, min: 3})
	w.must(w.submission())
	w.must(w.approval("ethics-1"))
	other, _ := canon.Marshal(&consilium.Approval{APIVersion: consilium.APIVersion, Kind: "Approval", Study: w.study,
		Spec: consilium.SpecDigest(w.specB), Policy: dig("policy"), NotBefore: 1, NotAfter: 1_900_000_000})
	_, r := w.do(w.message(consilium.KindApproval, "board/ethics-2", other))
	code(t, r, consilium.ErrConflictingMessage)
	wrong, _ := canon.Marshal(&consilium.Approval{APIVersion: consilium.APIVersion, Kind: "Approval", Study: w.study,
		Spec: dig("other spec"), Policy: dig("policy"), NotBefore: 1, NotAfter: 1_900_000_000})
	_, r = w.do(w.message(consilium.KindApproval, "board/ethics-2", wrong))
	code(t, r, consilium.ErrInvalid)
	_, r = w.do(w.approval("ethics-9"))
	code(t, r, consilium.ErrForbidden)
	if ev := w.must(w.approval("ethics-1")); len(ev) != 0 {
		t.Fatal("one member counts twice")
	}
	if work := w.s.Pending(); work[0].Kind == WorkDecide {
		t.Fatal("one of three members approves for the board")
	}
	w.must(w.approval("ethics-3"))
	if work := w.s.Pending(); work[0].Kind != WorkDecide {
		t.Fatalf("%+v", work)
	}
	payload, approvals, ok := w.s.Submission(w.study)
	if !ok || !bytes.Equal(payload, w.sub) || len(approvals) != 2 {
		t.Fatal("the decision does not see what was signed")
	}
}

// Five attempts of one round are the end.
func TestAttemptsAreBounded(t *testing.T) {
	w := newWorld(t, options{n: 3, min: 3})
	w.start()
	for i := 1; i <= MaxAttempts; i++ {
		w.contribute(1, 2, 3)
		if w.st().attempt != uint32(i) {
			t.Fatalf("attempt %d, want %d", w.st().attempt, i)
		}
		w.ackAll(1, 2, 3)
		w.must(w.complaining(2, 3))
		w.tick(120)
	}
	w.phase(consilium.PhaseAborted)
	if reason := w.info().Reason; !strings.Contains(reason, "h02") {
		t.Fatal(reason)
	}
	w.verify()
}
