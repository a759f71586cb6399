package coordinator

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"testing"

	"consilium"
	"consilium/internal/canon"
)

// world is a federation without cryptography: apply never verifies a
// signature, so messages here carry none. Two replicas take every command and
// must stay byte-equal.
type world struct {
	t      testing.TB
	s      *State
	twin   *State
	index  uint64
	now    int64
	sites  []consilium.SiteID
	opts   options
	events []consilium.Event
	log    []Command
	marks  []uint64 // index of each command of log

	sub     []byte
	subD    consilium.Digest
	study   consilium.StudyID
	spec    *consilium.Spec
	specB   []byte
	check   bool              // compare the twins after each command
	drafted map[string][]byte // charters made from the draft, by confirmation
	spoil   bool              // in random schedules: the first aggregate is rejected
	current *consilium.Roster // in force
}

type options struct {
	n, min, faults int
	missing        string
	learned        bool
	rounds         int            // rounds.max; default 25
	operators      map[int]string // of sites by position; default one each
	token          string
	only           []consilium.SiteID
}

const secondMs = 1000

func dig(parts ...any) consilium.Digest {
	return consilium.DomainBlob.Digest([]byte(fmt.Sprint(parts...)))
}

func pubkey(name string) (k consilium.PublicKey) {
	d := dig("key", name)
	copy(k[:], d[:])
	return k
}

func sealkey(parts ...any) (k consilium.SealingKey) {
	d := dig(parts...)
	copy(k[:], d[:])
	return k
}

func newWorld(t testing.TB, o options) *world {
	t.Helper()
	if o.missing == "" {
		o.missing = "wait"
	}
	if o.token == "" {
		o.token = "token-1"
	}
	w := &world{t: t, s: NewState(), twin: NewState(), now: 1_800_000_000_000, opts: o, check: true, drafted: map[string][]byte{}}
	r := consilium.Roster{
		APIVersion: consilium.APIVersion, Kind: "Roster", Name: "test", Version: 1, NotBefore: 1, NotAfter: 4_000_000_000,
		Board: consilium.Board{Name: "board", Threshold: 2},
	}
	for i := 1; i <= 3; i++ {
		id := fmt.Sprintf("ethics-%d", i)
		r.Board.Members = append(r.Board.Members, consilium.BoardMember{ID: id, Key: pubkey(id)})
	}
	for i := 1; i <= o.n; i++ {
		id := consilium.SiteID(fmt.Sprintf("h%02d", i))
		op := string(id)
		if name := o.operators[i]; name != "" {
			op = name
		}
		w.sites = append(w.sites, id)
		r.Sites = append(r.Sites, consilium.Site{ID: id, Name: string(id), Operator: op, Country: "NL", Key: pubkey(string(id))})
	}
	r.Researchers = []consilium.Researcher{{ID: "team", Name: "team", Country: "NL", Key: pubkey("team"), Sealing: sealkey("team")},
		{ID: "rivals", Name: "rivals", Country: "NL", Key: pubkey("rivals"), Sealing: sealkey("rivals")}}
	w.current = &r
	w.must(w.roster())
	return w
}

func (w *world) roster() *RosterSet {
	payload, err := canon.Marshal(w.current)
	if err != nil {
		w.t.Fatal(err)
	}
	return &RosterSet{Payload: payload}
}

// successor is the next roster: without some hospitals, with new keys for
// others, and with others that were not there.
func (w *world) successor(drop, rekey, add []consilium.SiteID) *RosterSet {
	r := *w.current
	_, r.Previous = w.s.Roster()
	r.Version++
	r.Sites = nil
	for _, s := range w.current.Sites {
		if slices.Contains(drop, s.ID) {
			continue
		}
		if slices.Contains(rekey, s.ID) {
			s.Key = pubkey(fmt.Sprint(s.ID, " ", r.Version))
		}
		r.Sites = append(r.Sites, s)
	}
	for _, id := range add {
		r.Sites = append(r.Sites, consilium.Site{ID: id, Name: string(id), Operator: string(id), Country: "NL", Key: pubkey(string(id))})
		if !slices.Contains(w.sites, id) {
			w.sites = append(w.sites, id)
		}
	}
	w.current = &r
	return w.roster()
}

// do applies one command to both replicas.
func (w *world) do(op Op) ([]consilium.Event, *Rejection) {
	w.t.Helper()
	w.index++
	cmd := Command{At: w.now, Op: op}
	if w.check {
		again, err := DecodeCommand(EncodeCommand(cmd))
		if err != nil {
			w.t.Fatalf("command does not decode: %v", err)
		}
		before := w.s.Snapshot()
		ev, r := w.s.Apply(w.index, cmd)
		ev2, r2 := w.twin.Apply(w.index, again)
		after := w.s.Snapshot()
		if !bytes.Equal(after, w.twin.Snapshot()) || len(ev) != len(ev2) || (r == nil) != (r2 == nil) {
			w.t.Fatalf("two replicas of one log differ after %T", op)
		}
		if r != nil && !bytes.Equal(before, after) {
			w.t.Fatalf("a rejected %T changed the state: %v", op, r)
		}
		w.keep(cmd, ev, r)
		return ev, r
	}
	ev, r := w.s.Apply(w.index, cmd)
	w.keep(cmd, ev, r)
	return ev, r
}

func (w *world) keep(cmd Command, ev []consilium.Event, r *Rejection) {
	if r == nil {
		w.log = append(w.log, cmd)
		w.marks = append(w.marks, w.index)
	}
	w.events = append(w.events, ev...)
}

func (w *world) must(op Op) []consilium.Event {
	w.t.Helper()
	ev, r := w.do(op)
	if r != nil {
		w.t.Fatalf("%T: %v", op, r)
	}
	return ev
}

func (w *world) message(kind consilium.MessageKind, by string, body []byte) *Post {
	m := consilium.Message{Kind: kind, Study: w.study, By: by, Body: body}
	return &Post{Message: m.Encode()}
}

func (w *world) submission() *Post {
	types := consilium.AnalysisCox
	if w.opts.learned {
		types = consilium.AnalysisTrain
	}
	w.spec = &consilium.Spec{
		APIVersion: consilium.APIVersion, Kind: "Study", Name: "cgd", Question: "Does it help?",
		Data:    consilium.DataRef{Dataset: "cgd", Patient: "id"},
		Sites:   consilium.SiteRule{Min: w.opts.min, Faults: w.opts.faults, Missing: w.opts.missing, Only: w.opts.only},
		Columns: []consilium.Column{{Name: "id", Type: consilium.TypeID}}, Legal: []byte("{}"),
		Analyses: []consilium.AnalysisSpec{{Name: "main", Type: types}},
		Privacy:  consilium.Privacy{MinCohort: 11}, Rounds: consilium.Rounds{Max: cmp.Or(w.opts.rounds, 25), Tolerance: 1e-9, Deadline: 120},
	}
	var err error
	if w.specB, err = canon.Marshal(w.spec); err != nil {
		w.t.Fatal(err)
	}
	w.sub, err = canon.Marshal(&consilium.Submission{
		APIVersion: consilium.APIVersion, Kind: "Submission", Team: "team", Token: w.opts.token, SpecBytes: w.specB,
		Policy: dig("policy"), NotAfter: w.now/1000 + 24*3600,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.subD = consilium.DomainSubmission.Digest(w.sub)
	w.study = consilium.NewStudyID(w.subD)
	return w.message(consilium.KindSubmission, "team", w.sub)
}

func (w *world) approval(member string) *Post {
	b, err := canon.Marshal(&consilium.Approval{
		APIVersion: consilium.APIVersion, Kind: "Approval", Study: w.study, Spec: consilium.SpecDigest(w.specB), Policy: dig("policy"),
		NotBefore: 1_700_000_000, NotAfter: 1_900_000_000,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.message(consilium.KindApproval, "board/"+member, b)
}

func (w *world) by(p consilium.Position) string { return string(w.sites[p-1]) }

// site is the hospital at a position of the charter.
func (w *world) site(p consilium.Position) string {
	if st := w.s.studies[w.study]; st != nil && st.charter != nil && int(p) <= len(st.charter.Members) {
		return string(st.charter.Members[p-1].Site)
	}
	return w.by(p)
}

func (w *world) enrolment(p consilium.Position) *Post {
	_, roster := w.s.Roster()
	e := consilium.Enrol{Study: w.study, Submission: w.subD, Roster: roster, Sealing: sealkey("charter", p), Nonce: dig("nonce", p),
		Commitment: dig("commitment", p), Decision: dig("decision", p)}
	if st := w.s.studies[w.study]; st != nil {
		e.Previous = st.priorDigest
	}
	return w.message(consilium.KindEnrol, w.by(p), e.Encode())
}

// departing is by name: positions are of the epoch before.
func (w *world) departing(by string) *Post {
	v := consilium.Depart{Charter: dig("no charter"), Round: 1, Position: 1}
	if st := w.s.studies[w.study]; st != nil && st.prior != nil {
		v.Charter, v.Round, v.State = st.priorDigest, st.round+1, st.state
		if p, ok := st.prior.Position(consilium.SiteID(by)); ok {
			v.Position = p
		}
	}
	return w.message(consilium.KindDepart, by, v.Encode())
}

func (w *world) declination(p consilium.Position) *Post {
	d := consilium.Decline{Study: w.study, Submission: w.subD, Decision: dig("decision", p), Code: "GDPR-6", Reason: "no ground"}
	return w.message(consilium.KindDecline, w.by(p), d.Encode())
}

func (w *world) revealing(p consilium.Position) *Post {
	draft, _ := w.s.Draft(w.study)
	v := consilium.Reveal{Draft: consilium.CharterDigest(draft)}
	if draft != nil {
		for i := 0; i < w.members(); i++ {
			v.Boxes = append(v.Boxes, consilium.SealedBox{To: consilium.Position(i + 1), Sealed: []byte("box")})
		}
	}
	return w.message(consilium.KindReveal, w.site(p), v.Encode())
}

func (w *world) signature(p consilium.Position, confirmation any) *Post {
	draft, _ := w.s.Draft(w.study)
	key := fmt.Sprint(consilium.CharterDigest(draft), confirmation)
	if b := w.drafted[key]; b != nil {
		return w.message(consilium.KindCharter, w.site(p), b)
	}
	c, err := consilium.ParseDraft(draft)
	if err != nil {
		w.t.Fatal(err)
	}
	c.Confirmation = dig("confirmation", confirmation)
	b, err := canon.Marshal(c)
	if err != nil {
		w.t.Fatal(err)
	}
	w.drafted[key] = b
	return w.message(consilium.KindCharter, w.site(p), b)
}

func (w *world) st() *study {
	st := w.s.studies[w.study]
	if st == nil {
		w.t.Fatalf("study has ended: %+v", w.s.ended[w.study].info)
	}
	return st
}

func (w *world) at(p consilium.Position) consilium.At {
	st := w.s.studies[w.study]
	if st == nil {
		return consilium.At{Charter: w.s.ended[w.study].info.Charter, Round: 1, Attempt: 1, Position: p}
	}
	return consilium.At{Charter: st.charterDigest, Round: max(st.round, 1), Attempt: max(st.attempt, 1), Position: p}
}

func (w *world) members() int {
	if st := w.s.studies[w.study]; st != nil && st.charter != nil {
		return len(st.charter.Members)
	}
	return w.opts.n
}

// contribution makes the header of p with some salt.
func (w *world) contribution(p consilium.Position, salt any) *Post {
	return w.contributionAt(w.at(p), salt, "layout")
}

func (w *world) contributionAt(at consilium.At, salt any, layout string) *Post {
	n := w.members()
	id := fmt.Sprint(at.Position, "/", at.Round, "/", at.Attempt, "/", salt)
	h := consilium.Header{At: at, Layout: dig(layout), Vector: dig("vector", id), RowSet: dig("rows", at.Position), Decision: dig("decision"),
		Ledger: dig("ledger"), Ciphertext: dig("ciphertext", id), Size: 4096, NextSealing: sealkey(id), Check: []byte("v")}
	if st := w.s.studies[w.study]; st != nil {
		h.State, h.Sealing = st.state, consilium.SealingDigest(st.sealing)
	}
	for i := 0; i < n; i++ {
		h.Boxes = append(h.Boxes, dig("box", id, i))
		h.Commitments = append(h.Commitments, dig("share", id, i))
	}
	post := w.message(consilium.KindHeader, w.site(at.Position), h.Encode())
	post.Upload = &Upload{Ciphertext: BlobRef{dig("blob", id), 4096}, Boxes: BlobRef{dig("boxes", id), uint64(100 * n)},
		LogN: 11, Bits: 16, Capacity: 16, Lanes: 80}
	return post
}

// headerOf is the recorded header of p in the open attempt.
func (w *world) headerOf(p consilium.Position) consilium.Digest {
	if k := w.st().contributions[p-1]; k != nil {
		return k.header
	}
	return dig("no header")
}

func (w *world) acking(p consilium.Position, dealers ...consilium.Position) *Post {
	a := consilium.Ack{At: w.at(p)}
	for _, d := range dealers {
		a.Good = append(a.Good, consilium.Contributor{Position: d, Header: w.headerOf(d)})
	}
	return w.message(consilium.KindAck, w.site(p), a.Encode())
}

func (w *world) complaining(p, dealer consilium.Position) *Post {
	c := consilium.Complaint{At: w.at(p), Header: w.headerOf(dealer), Reason: "the box does not open"}
	return w.message(consilium.KindComplaint, w.site(p), c.Encode())
}

// answering is a dealer's answer to a complaint.
func (w *world) answering(dealer, to consilium.Position) *Post {
	v := consilium.Answer{At: w.at(dealer), Header: w.headerOf(dealer), To: to, Sealed: []byte("share")}
	return w.message(consilium.KindAnswer, w.site(dealer), v.Encode())
}

// before is the attempt before the open one.
func (w *world) before(p consilium.Position) consilium.At {
	at := w.at(p)
	at.Attempt = max(at.Attempt-1, 1)
	return at
}

func (w *world) suspecting(p consilium.Position, accused ...consilium.Position) *Post {
	v := consilium.Suspect{At: w.before(p), Set: dig("rejected set"), Accused: accused}
	return w.message(consilium.KindSuspect, w.site(p), v.Encode())
}

func (w *world) showing(p consilium.Position) *Post {
	v := consilium.Show{At: w.before(p), Set: dig("rejected set"), Blob: dig("shown", p)}
	post := w.message(consilium.KindShow, w.site(p), v.Encode())
	post.Blob = &BlobRef{v.Blob, 77}
	return post
}

func (w *world) voting(p consilium.Position, set consilium.Digest) *Post {
	v := consilium.Vote{At: w.at(p), Set: set}
	return w.message(consilium.KindVote, w.site(p), v.Encode())
}

func (w *world) openingOf(p consilium.Position, set consilium.Digest) *Post {
	v := consilium.Opening{At: w.at(p), Set: set, Sealed: []byte("share")}
	return w.message(consilium.KindOpening, w.site(p), v.Encode())
}

func (w *world) renouncing(p consilium.Position) *Post {
	v := consilium.Renounce{At: w.at(p)}
	return w.message(consilium.KindRenounce, w.site(p), v.Encode())
}

func (w *world) stating(p consilium.Position, next any, done, rejected bool) *Post {
	v := consilium.StateVote{At: w.at(p), Set: w.set(), Next: dig("state", next), Done: done, Reject: rejected}
	if rejected {
		v.Next = consilium.Digest{}
	}
	return w.message(consilium.KindStateVote, w.site(p), v.Encode())
}

func (w *world) set() consilium.Digest {
	if st := w.s.studies[w.study]; st != nil && st.charterPayload != nil {
		return st.setDigest()
	}
	return dig("no set")
}

func (w *world) sum() *RecordSum {
	return &RecordSum{Study: w.study, Set: w.set(), Blob: BlobRef{dig("sum", w.set()), 5000}}
}

func (w *world) sealing(p consilium.Position) *Post {
	at, next := w.at(p), consilium.Digest{}
	if st := w.s.studies[w.study]; st != nil {
		next = st.state
		if st.phase != consilium.PhaseReleasing && at.Round > 1 {
			at.Round--
			at.Attempt = st.closedAttempt
		}
	}
	v := consilium.SealedState{At: at, Next: next, Blob: dig("sealed", at.Round, p)}
	post := w.message(consilium.KindSealedState, w.site(p), v.Encode())
	post.Blob = &BlobRef{v.Blob, 99}
	return post
}

func (w *world) releasing(p consilium.Position, result any, code string) *Post {
	v := consilium.Release{At: w.at(p), Result: dig("result", result), Decision: dig("decision", p), Allow: code == "", Code: code}
	return w.message(consilium.KindRelease, w.site(p), v.Encode())
}

func (w *world) publishing(p consilium.Position, result any) *Post {
	v := consilium.Publish{At: w.at(p), Result: dig("result", result), Blob: dig("envelope", p)}
	post := w.message(consilium.KindPublish, w.site(p), v.Encode())
	post.Blob = &BlobRef{v.Blob, 1234}
	return post
}

func (w *world) withdrawing(by string) *Post {
	v := consilium.Withdraw{Study: w.study, Reason: "consent withdrawn"}
	return w.message(consilium.KindWithdraw, by, v.Encode())
}

func (w *world) cancelling(by string) *Post {
	v := consilium.Cancel{Study: w.study, Reason: "superseded"}
	return w.message(consilium.KindCancel, by, v.Encode())
}

// Stages of a study, for tests that start in the middle.

func (w *world) admit() {
	w.must(w.submission())
	w.must(w.approval("ethics-1"))
	w.must(w.approval("ethics-2"))
	w.must(&Decide{Study: w.study, Allow: true, Record: []byte(`{"allow":true}`)})
}

func (w *world) all() []consilium.Position {
	out := make([]consilium.Position, w.members())
	for i := range out {
		out[i] = consilium.Position(i + 1)
	}
	return out
}

func (w *world) each(f func(p consilium.Position) *Post) {
	w.t.Helper()
	for _, p := range w.all() {
		w.must(f(p))
	}
}

func (w *world) start() {
	w.admit()
	w.each(w.enrolment)
	w.each(w.revealing)
	w.each(func(p consilium.Position) *Post { return w.signature(p, 0) })
}

func (w *world) contribute(ps ...consilium.Position) {
	for _, p := range ps {
		w.must(w.contribution(p, 0))
	}
}

func (w *world) ackAll(dealers ...consilium.Position) {
	for _, p := range w.all() {
		if st := w.s.studies[w.study]; st == nil || st.phase != consilium.PhaseContributing || st.withdrawn[p-1] {
			continue
		}
		w.must(w.acking(p, dealers...))
	}
}

func (w *world) voteAll() {
	set := w.set()
	for _, p := range w.all() {
		if w.st().phase == consilium.PhaseCertifying && !w.st().withdrawn[p-1] {
			w.must(w.voting(p, set))
		}
	}
}

func (w *world) openAll() {
	set := w.set()
	for _, p := range w.all() {
		if w.st().phase == consilium.PhaseOpening && !w.st().withdrawn[p-1] {
			w.must(w.openingOf(p, set))
		}
	}
	w.must(w.sum())
}

func (w *world) stateAll(next any, done, rejected bool) {
	for _, p := range w.all() {
		st := w.s.studies[w.study]
		if st != nil && st.phase == consilium.PhaseUpdating && !st.withdrawn[p-1] {
			w.must(w.stating(p, next, done, rejected))
		}
	}
}

func (w *world) round(next any, done bool, ps ...consilium.Position) {
	w.contribute(ps...)
	w.ackAll(ps...)
	w.voteAll()
	w.openAll()
	w.stateAll(next, done, false)
}

func (w *world) finish() {
	t := w.st().charter.Threshold
	for _, p := range w.all()[:t] {
		w.must(w.releasing(p, "r", ""))
	}
	w.must(w.publishing(1, "r"))
}

func (w *world) tick(seconds int64) []consilium.Event {
	w.now += seconds * secondMs
	return w.must(&Tick{})
}

func (w *world) info() StudyInfo {
	i, _ := w.s.Study(w.study)
	return i
}

func (w *world) phase(want consilium.Phase) {
	w.t.Helper()
	if i := w.info(); i.Phase != want {
		w.t.Fatalf("study is %s (%s), want %s", i.Phase, i.Reason, want)
	}
}

func kinds(evs []consilium.Event) string {
	var b []byte
	for i, ev := range evs {
		if i > 0 {
			b = append(b, ' ')
		}
		b = append(b, ev.Kind.String()...)
	}
	return string(b)
}

// faithful checks, from the events alone, what no study may ever do. It knows
// nothing of the state machine.
func faithful(events []consilium.Event) error {
	studies := map[consilium.StudyID]*witness{}
	for i, ev := range events {
		if ev.Seq != uint64(i) {
			return fmt.Errorf("event %d has number %d", i, ev.Seq)
		}
		if i > 0 && ev.Time < events[i-1].Time {
			return fmt.Errorf("event %d goes back in time", i)
		}
		w := studies[ev.Study]
		if w == nil {
			w = &witness{exact: true, signed: map[consilium.SiteID]consilium.Digest{}}
			studies[ev.Study] = w
		}
		if err := w.take(ev); err != nil {
			return fmt.Errorf("event %d (%s): %w", i, ev.Kind, err)
		}
	}
	return nil
}

type witness struct {
	ended     bool
	exact     bool
	signed    map[consilium.SiteID]consilium.Digest // the charter that each hospital signed
	charter   *consilium.Charter
	digest    consilium.Digest
	at        consilium.RoundOpened
	headers   map[consilium.Position]consilium.Digest
	proposed  *consilium.Contributors
	votes     map[consilium.Position]consilium.Digest
	states    map[consilium.Position]consilium.StateVote
	certified map[uint32][]consilium.SiteID // by round, in whatever epoch
	first     []consilium.SiteID
	before    *consilium.Charter // of the epoch before
	beforeD   consilium.Digest
	renewal   *consilium.Renewal
	departed  map[consilium.SiteID]bool
	openers   map[consilium.SiteID]uint32 // the last round in which each opened
	done      map[uint64]consilium.Digest // certified set by round and attempt
	allows    map[consilium.Position]consilium.Digest
	published consilium.Digest
	closed    bool

	renounced                map[consilium.Position]uint32 // of this round
	certifiedIn, certifiedAt uint32
}

func (w *witness) take(ev consilium.Event) error {
	if w.ended {
		return fmt.Errorf("after the end")
	}
	switch ev.Kind {
	case consilium.EventMessage:
		m, err := consilium.ParseMessage(ev.Body)
		if err != nil {
			return err
		}
		return w.message(m)
	case consilium.EventChartered:
		c, err := consilium.ParseCharter(ev.Body)
		if err != nil {
			return err
		}
		switch {
		case c.Epoch == 1 && w.before == nil:
			w.certified, w.openers = map[uint32][]consilium.SiteID{}, map[consilium.SiteID]uint32{}
		case w.before == nil || w.charter != nil:
			return fmt.Errorf("epoch %d without a departure from the one before", c.Epoch)
		default:
			if err := c.Succeeds(w.before, w.beforeD); err != nil {
				return err
			}
			if n, q := len(w.departed), len(w.before.Members)-w.before.Threshold+w.before.Faults+1; n < q {
				return fmt.Errorf("epoch %d after %d departures, %d are needed", c.Epoch, n, q)
			}
			first := c.Handover.Round
			if c.Handover.State != w.renewal.State || first != w.at.Round && first != w.at.Round+1 || first == w.at.Round+1 && !w.closed {
				return fmt.Errorf("epoch %d begins with round %d after round %d", c.Epoch, first, w.at.Round)
			}
			// What was certified for that round never opens.
			delete(w.certified, first)
			if len(w.certified) == 0 {
				w.first = nil
			}
			w.at.Round, w.at.Attempt, w.closed = first-1, 0, true
			w.certifiedIn, w.certifiedAt = 0, 0
		}
		w.charter, w.digest = c, consilium.CharterDigest(ev.Body)
		for i := range c.Members {
			if w.signed[c.Members[i].Site] != w.digest {
				return fmt.Errorf("%s has not signed the charter", c.Members[i].Site)
			}
		}
		w.done, w.allows = map[uint64]consilium.Digest{}, map[consilium.Position]consilium.Digest{}
	case consilium.EventRenewing:
		v, err := consilium.ParseRenewal(ev.Body)
		if err != nil {
			return err
		}
		if w.charter != nil {
			w.before, w.beforeD, w.charter, w.departed = w.charter, w.digest, nil, map[consilium.SiteID]bool{}
		}
		if w.before == nil || v.Charter != w.beforeD {
			return fmt.Errorf("a renewal of another charter")
		}
		w.renewal = v
	case consilium.EventOpened:
		o, err := consilium.ParseRoundOpened(ev.Body)
		if err != nil {
			return err
		}
		if w.at.Round != 0 && o.Round == w.at.Round+1 && !w.closed {
			return fmt.Errorf("round %d opens while %d is open", o.Round, w.at.Round)
		}
		if o.Round != w.at.Round {
			w.renounced = map[consilium.Position]uint32{}
		}
		w.at, w.closed = *o, false
		w.headers, w.proposed = map[consilium.Position]consilium.Digest{}, nil
		w.votes, w.states = map[consilium.Position]consilium.Digest{}, map[consilium.Position]consilium.StateVote{}
	case consilium.EventProposed:
		u, err := consilium.ParseContributors(ev.Body)
		if err != nil {
			return err
		}
		if w.proposed != nil {
			return fmt.Errorf("two proposals in one attempt")
		}
		if u.Round != w.at.Round || u.Attempt != w.at.Attempt || u.Charter != w.digest {
			return fmt.Errorf("a proposal for another attempt")
		}
		for _, m := range u.Members {
			if w.headers[m.Position] != m.Header {
				return fmt.Errorf("position %d is proposed with a header it did not send", m.Position)
			}
		}
		if n := w.charter.Operators(u.Positions()); n < w.charter.MinSites {
			return fmt.Errorf("%d operators proposed, min_sites %d", n, w.charter.MinSites)
		}
		w.release()
		ps := w.names(u.Positions())
		if before := w.certified[w.at.Round]; before != nil && !slices.Equal(before, ps) {
			return fmt.Errorf("round %d is bound to %v, %v is proposed", w.at.Round, before, ps)
		}
		if w.exact && w.first != nil && !slices.Equal(w.first, ps) {
			return fmt.Errorf("the contributors are frozen as %v, %v is proposed", w.first, ps)
		}
		w.proposed = u
	case consilium.EventCertified:
		d, n := w.proposed.Digest(), 0
		for _, v := range w.votes {
			if v == d {
				n++
			}
		}
		if n < w.charter.Threshold || !bytes.Equal(d[:], ev.Body) {
			return fmt.Errorf("%d votes", n)
		}
		key := uint64(w.at.Round)<<32 | uint64(w.at.Attempt)
		if _, twice := w.done[key]; twice {
			return fmt.Errorf("two certified sets in one attempt")
		}
		w.done[key] = d
		ps := w.names(w.proposed.Positions())
		w.release()
		w.certifiedIn, w.certifiedAt = w.at.Round, w.at.Attempt
		if before := w.certified[w.at.Round]; before != nil && !slices.Equal(before, ps) {
			return fmt.Errorf("round %d certified for %v and for %v", w.at.Round, before, ps)
		}
		w.certified[w.at.Round] = ps
		if w.first == nil {
			w.first = ps
		}
		if w.exact && !slices.Equal(w.first, ps) {
			return fmt.Errorf("exact contributors change from %v to %v", w.first, ps)
		}
	case consilium.EventClosed:
		n := 0
		for _, v := range w.states {
			if bytes.Equal(v.Next[:], ev.Body) && !v.Reject {
				n++
			}
		}
		if n < w.charter.Threshold {
			return fmt.Errorf("closed on %d equal states", n)
		}
		w.closed = true
	case consilium.EventDone:
		n := 0
		for _, r := range w.allows {
			if r == w.published {
				n++
			}
		}
		if n < w.charter.Threshold || !w.closed {
			return fmt.Errorf("done with %d releases", n)
		}
		if k := w.charter.Operators(w.proposed.Positions()); k < w.charter.MinSites {
			return fmt.Errorf("done on %d operators", k)
		}
		w.ended = true
	case consilium.EventAborted, consilium.EventCancelled, consilium.EventRefused:
		w.ended = true
	}
	return nil
}

// release forgets a certificate that can never be opened: members that
// promised never to open its attempt release it.
func (w *witness) release() {
	released := 0
	for _, a := range w.renounced {
		if a >= w.certifiedAt {
			released++
		}
	}
	if w.certifiedIn == w.at.Round && released >= len(w.charter.Members)-w.charter.Threshold+w.charter.Faults+1 {
		delete(w.certified, w.at.Round)
		if len(w.certified) == 0 {
			w.first = nil
		}
	}
}

func (w *witness) message(m *consilium.Message) error {
	position := func() consilium.Position {
		if w.charter == nil {
			return 0
		}
		p, _ := w.charter.Position(consilium.SiteID(m.By))
		return p
	}
	switch m.Kind {
	case consilium.KindSubmission:
		s, err := consilium.ParseSubmission(m.Body)
		if err != nil {
			return err
		}
		spec, err := consilium.ParseSpec(s.SpecBytes)
		if err != nil {
			return err
		}
		w.exact = spec.Sites.Missing != "continue" || spec.Analyses[0].Type != consilium.AnalysisTrain
	case consilium.KindCharter:
		w.signed[consilium.SiteID(m.By)] = consilium.CharterDigest(m.Body)
	case consilium.KindHeader:
		h, err := consilium.ParseHeader(m.Body)
		if err != nil {
			return err
		}
		if _, twice := w.headers[position()]; twice {
			return fmt.Errorf("%s is counted twice in round %d attempt %d", m.By, h.Round, h.Attempt)
		}
		if h.Round != w.at.Round || h.Attempt != w.at.Attempt || h.State != w.at.State {
			return fmt.Errorf("a contribution to another attempt")
		}
		w.headers[position()] = consilium.HeaderDigest(m.Body)
	case consilium.KindVote:
		v, err := consilium.ParseVote(m.Body)
		if err != nil {
			return err
		}
		if _, twice := w.votes[position()]; twice {
			return fmt.Errorf("%s voted twice", m.By)
		}
		w.votes[position()] = v.Set
	case consilium.KindRenounce:
		v, err := consilium.ParseRenounce(m.Body)
		if err != nil {
			return err
		}
		w.renounced[position()] = max(w.renounced[position()], v.Attempt)
	case consilium.KindDepart:
		v, err := consilium.ParseDepart(m.Body)
		if err != nil {
			return err
		}
		if w.before == nil || v.Charter != w.beforeD || v.Round != w.renewal.Round {
			return fmt.Errorf("%s departs from another epoch or round", m.By)
		}
		if w.openers[consilium.SiteID(m.By)] >= v.Round {
			return fmt.Errorf("%s departs and has opened", m.By)
		}
		w.departed[consilium.SiteID(m.By)] = true
	case consilium.KindOpening:
		v, err := consilium.ParseOpening(m.Body)
		if err != nil {
			return err
		}
		w.openers[consilium.SiteID(m.By)] = v.Round
		if w.renounced[position()] >= v.Attempt {
			return fmt.Errorf("%s opens what it renounced", m.By)
		}
	case consilium.KindStateVote:
		v, err := consilium.ParseStateVote(m.Body)
		if err != nil {
			return err
		}
		if _, twice := w.states[position()]; twice {
			return fmt.Errorf("%s stated two states", m.By)
		}
		w.states[position()] = *v
	case consilium.KindRelease:
		v, err := consilium.ParseRelease(m.Body)
		if err != nil {
			return err
		}
		if v.Allow {
			w.allows[position()] = v.Result
		}
	case consilium.KindPublish:
		v, err := consilium.ParsePublish(m.Body)
		if err != nil {
			return err
		}
		w.published = v.Result
	}
	return nil
}

func (w *witness) names(ps []consilium.Position) []consilium.SiteID {
	var out []consilium.SiteID
	for _, p := range ps {
		out = append(out, w.charter.Members[p-1].Site)
	}
	return out
}

func (w *world) verify() {
	w.t.Helper()
	if err := faithful(w.events); err != nil {
		w.t.Fatal(err)
	}
	// The right edge is that of a tree over the events.
	size, _ := w.s.Edge()
	if size != uint64(len(w.events)) {
		w.t.Fatalf("the audit log has %d leaves, %d events were returned", size, len(w.events))
	}
}
