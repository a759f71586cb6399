package worker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/hybrid"
	"consilium/internal/seal"
)

// replica is one study as this hospital can prove it: rebuilt from events,
// every statement checked against the signature of who is said to have made it.
// The coordinator's own events are proposals; what they claim is recomputed.
//
// A replica changes only in observe, which has no side effect.
type replica struct {
	id     consilium.StudyID
	self   consilium.SiteID
	roster *consilium.Roster

	submission *consilium.Submission
	submitted  []byte // payload
	submitter  *consilium.Message
	spec       *consilium.Spec

	approval   *consilium.Approval
	approved   []byte // payload
	approvers  map[string]consilium.Signature
	counted    bool // the board's threshold, when this hospital first enrolled
	admitted   bool
	admittedAt uint64 // place in the log
	mixed      error  // why the draft is of another release, if it is

	known    map[uint32]*consilium.Charter         // by epoch: charters that this hospital has signed, by its journal
	charters map[consilium.Digest][]byte           // payloads that the log showed, signed by whomever
	prior    *epoch                                // the one before, while or since another is made
	renewal  *consilium.Renewal                    // that asked for this epoch, or nil in the first
	departs  map[consilium.Position]bool           // who has left prior, by its positions
	fixed    map[consilium.SiteID]consilium.Digest // row sets of the contributors of the last closed round

	enrols  map[consilium.SiteID]*consilium.Enrol
	draft   *consilium.Charter
	drafted []byte
	reveals map[consilium.Position]*consilium.Reveal
	signed  map[consilium.Position]*consilium.Message // KindCharter messages

	charter   *consilium.Charter
	chartered []byte
	digest    consilium.Digest // H(E)
	position  consilium.Position

	sealing  map[consilium.Digest]sealingKey // every header's next sealing key, by header digest
	round    *round
	prev     *round                              // the round that closed before it
	included uint32                              // the last closed round with this hospital in its set
	offered  map[uint32][]*consilium.SealedState // by round, in the order of the log, one of each member
	volume   uint64                              // bytes of one contribution, over all closed rounds
	lastDone bool
	gone     map[consilium.SiteID]bool // that have withdrawn

	releases  map[consilium.Position]*consilium.Release
	published *consilium.Publish
	ended     consilium.Phase
	reason    string
}

// epoch is one that the study has left, or is about to leave.
type epoch struct {
	charter  *consilium.Charter
	digest   consilium.Digest
	position consilium.Position
	verified bool   // this hospital followed it; otherwise it knows the bytes that its digest names
	last     *round // of the closed rounds, or nil
}

type sealingKey struct {
	position consilium.Position
	key      consilium.SealingKey
}

// round is one attempt of one round.
type round struct {
	sealing     *seal.Key // the own one for this round's boxes, once it was needed; forgotten with its bytes
	sealingName string

	opened   *consilium.RoundOpened
	since    time.Time     // by this hospital's clock
	wait     time.Duration // until the deadline, as the coordinator gave it
	headers  map[consilium.Position]*signedHeader
	proposed *consilium.Contributors
	set      consilium.Digest
	votes    map[consilium.Position]consilium.Digest
	openings map[consilium.Position]*consilium.Opening
	summed   *consilium.Summed
	states   map[consilium.Position]*consilium.StateVote

	complaints map[consilium.Position][]consilium.Position // by dealer: who complained
	answers    []*consilium.Answer                         // of dealers, in the order of the log
	renounced  map[consilium.Position]uint32               // in all attempts of the round: up to which
	present    []consilium.Position                        // whose openings had come when t rejected the sum, ascending
	suspects   map[consilium.Position]*consilium.Suspect   // of this attempt, which was rejected
	shows      map[consilium.Position]*consilium.Show      // likewise
	spoilt     *round                                      // the attempt before, if its sum was rejected

	closed   bool
	signers  []consilium.Position // of the certified next state: the first t in the log, ascending
	rejected bool
	next     consilium.Digest
	done     bool
}

type signedHeader struct {
	digest consilium.Digest
	header *consilium.Header
	body   []byte
}

// newReplica starts a study's replica. signed are the charters that this
// hospital signed before, by its own journal: when it did, it had checked them, and
// all that they name, under the roster of that time.
func newReplica(id consilium.StudyID, self consilium.SiteID, roster *consilium.Roster, signed ...*consilium.Charter) *replica {
	r := &replica{
		id: id, self: self, roster: roster,
		approvers: map[string]consilium.Signature{},
		known:     map[uint32]*consilium.Charter{},
		charters:  map[consilium.Digest][]byte{},
		gone:      map[consilium.SiteID]bool{},
	}
	for _, c := range signed {
		r.known[c.Epoch] = c
	}
	r.newEpoch()
	return r
}

// newEpoch forgets what belongs to one charter.
func (r *replica) newEpoch() {
	r.enrols = map[consilium.SiteID]*consilium.Enrol{}
	r.draft, r.drafted = nil, nil
	r.reveals = map[consilium.Position]*consilium.Reveal{}
	r.signed = map[consilium.Position]*consilium.Message{}
	r.charter, r.chartered, r.digest, r.position = nil, nil, consilium.Digest{}, 0
	r.sealing = map[consilium.Digest]sealingKey{}
	r.round, r.prev = nil, nil
	r.offered = map[uint32][]*consilium.SealedState{}
	r.releases = map[consilium.Position]*consilium.Release{}
}

// making is the epoch whose charter is in force or being made.
func (r *replica) making() uint32 {
	if r.prior == nil {
		return 1
	}
	return r.prior.charter.Epoch + 1
}

// keyOf is the key under which a hospital speaks in this epoch. A charter that
// this hospital signed says it, whatever rosters came later: what a hospital
// said before it was revoked counts as it did then.
func (r *replica) keyOf(site consilium.SiteID) (consilium.PublicKey, bool) {
	c := r.charter
	if c == nil {
		c = r.known[r.making()]
	}
	if c != nil {
		if p, ok := c.Position(site); ok {
			return c.Members[p-1].Key, true
		}
	}
	s, ok := r.roster.Site(site)
	if !ok {
		return consilium.PublicKey{}, false
	}
	return s.Key, true
}

// vouched reports whether this hospital has signed a charter for which ok
// holds.
func (r *replica) vouched(ok func(*consilium.Charter) bool) bool {
	for _, c := range r.known {
		if ok(c) {
			return true
		}
	}
	return false
}

// errForged marks an event that no honest federation would hold. It is logged
// and otherwise ignored: the coordinator must not be able to stop a hospital
// by inserting one.
var errForged = errors.New("not what an honest federation logs")

// observe takes one event. now is this hospital's clock.
func (r *replica) observe(ev *consilium.Event, now time.Time) error {
	if r.ended.Ended() {
		return nil
	}
	switch ev.Kind {
	case consilium.EventMessage:
		m, err := consilium.ParseMessage(ev.Body)
		if err != nil {
			return err
		}
		if m.Study != r.id {
			return fmt.Errorf("%w: a message of study %s", errForged, m.Study)
		}
		return r.message(m)
	case consilium.EventAdmitted:
		r.admitted, r.admittedAt = true, ev.Seq
	case consilium.EventDrafted:
		return r.takeDraft(ev.Body)
	case consilium.EventChartered:
		if len(r.charters) < maxCharters {
			r.charters[consilium.CharterDigest(ev.Body)] = ev.Body
		}
		return r.takeCharter(ev.Body)
	case consilium.EventRenewing:
		return r.renew(ev.Body)
	case consilium.EventOpened:
		return r.open(ev.Body, now, ev.Time)
	case consilium.EventProposed:
		return r.propose(ev.Body)
	case consilium.EventSummed:
		s, err := consilium.ParseSummed(ev.Body)
		if err != nil {
			return err
		}
		if r.round == nil || r.round.proposed == nil || s.Set != r.round.set {
			return fmt.Errorf("%w: a sum over a set that is not proposed", errForged)
		}
		r.round.summed = s
	case consilium.EventRefused:
		r.ended, r.reason = consilium.PhaseRefused, reasonText(ev.Body)
	case consilium.EventAborted:
		r.ended, r.reason = consilium.PhaseAborted, reasonText(ev.Body)
	case consilium.EventCancelled:
		r.ended, r.reason = consilium.PhaseCancelled, reasonText(ev.Body)
	case consilium.EventDone:
		r.ended = consilium.PhaseDone
	}
	// Certified, closed, waiting, resumed and releasing say nothing that the
	// hospital does not derive from votes itself.
	return nil
}

func reasonText(b []byte) string {
	if len(b) > consilium.MaxReasonSize {
		b = b[:consilium.MaxReasonSize]
	}
	return string(b)
}

// message checks who signed m and takes it.
func (r *replica) message(m *consilium.Message) error {
	switch m.Kind {
	case consilium.KindSubmission:
		return r.takeSubmission(m)
	case consilium.KindApproval:
		return r.takeApproval(m)
	case consilium.KindCancel:
		return nil // the coordinator ends the study; nothing is permitted by it
	}
	if m.Kind == consilium.KindDepart {
		return r.takeDepart(m)
	}
	site := consilium.SiteID(m.By)
	key, ok := r.keyOf(site)
	if !ok {
		return fmt.Errorf("%w: %s by %q, who is not a hospital of the roster", errForged, m.Kind, m.By)
	}
	if err := hybrid.Verify(key, m.Kind.Domain(), m.Body, &m.Signature); err != nil {
		return fmt.Errorf("%s by %s: %w", m.Kind, m.By, err)
	}
	switch m.Kind {
	case consilium.KindEnrol:
		e, err := consilium.ParseEnrol(m.Body)
		if err != nil {
			return err
		}
		if e.Study != r.id {
			return fmt.Errorf("%w: an enrolment for study %s", errForged, e.Study)
		}
		if r.prior == nil && !e.Previous.IsZero() || r.prior != nil && e.Previous != r.prior.digest {
			return fmt.Errorf("%w: an enrolment of %s for another epoch", errForged, m.By)
		}
		if _, ok := r.enrols[site]; !ok {
			r.enrols[site] = e
		}
		return nil
	case consilium.KindDecline:
		return nil
	case consilium.KindWithdraw:
		w, err := consilium.ParseWithdraw(m.Body)
		if err != nil {
			return err
		}
		if w.Study != r.id {
			return fmt.Errorf("%w: a withdrawal from study %s", errForged, w.Study)
		}
		r.gone[site] = true
		return nil
	case consilium.KindReveal:
		v, err := consilium.ParseReveal(m.Body)
		if err != nil {
			return err
		}
		if r.draft == nil || v.Draft != consilium.CharterDigest(r.drafted) || len(v.Boxes) != len(r.draft.Members) {
			return fmt.Errorf("%w: a reveal for another draft", errForged)
		}
		p, ok := r.draft.Position(site)
		if !ok {
			return fmt.Errorf("%w: a reveal by a stranger to the draft", errForged)
		}
		if r.reveals[p] == nil {
			r.reveals[p] = v
		}
		return nil
	case consilium.KindCharter:
		if r.draft == nil {
			return fmt.Errorf("%w: a charter signature before a draft", errForged)
		}
		p, ok := r.draft.Position(site)
		if !ok {
			return fmt.Errorf("%w: a charter signature by a stranger to the draft", errForged)
		}
		r.signed[p] = m
		return nil
	}
	if r.charter == nil {
		return fmt.Errorf("%w: %s before the charter", errForged, m.Kind)
	}
	p, ok := r.charter.Position(site)
	if !ok {
		return fmt.Errorf("%w: %s by %s, who is not a member", errForged, m.Kind, m.By)
	}
	return r.roundMessage(m, p)
}

func (r *replica) takeSubmission(m *consilium.Message) error {
	if r.submission != nil {
		return nil
	}
	s, err := consilium.ParseSubmission(m.Body)
	if err != nil {
		return err
	}
	if err := canon.Check(m.Body); err != nil {
		return err
	}
	if consilium.NewStudyID(consilium.DomainSubmission.Digest(m.Body)) != r.id {
		return fmt.Errorf("%w: the submission does not have this study's id", errForged)
	}
	if digest := consilium.DomainSubmission.Digest(m.Body); !r.vouched(func(c *consilium.Charter) bool { return c.Submission == digest }) {
		team, ok := r.roster.Researcher(s.Team)
		if !ok || m.By != string(s.Team) {
			return fmt.Errorf("%w: submitted by %q", errForged, m.By)
		}
		if err := hybrid.Verify(team.Key, consilium.DomainSubmission, m.Body, &m.Signature); err != nil {
			return err
		}
	}
	spec, err := consilium.ParseSpec(s.SpecBytes)
	if err != nil {
		return err
	}
	r.submission, r.submitted, r.submitter, r.spec = s, m.Body, m, spec
	return nil
}

func (r *replica) takeApproval(m *consilium.Message) error {
	if r.submission == nil {
		return fmt.Errorf("%w: an approval before the submission", errForged)
	}
	a, err := consilium.ParseApproval(m.Body)
	if err != nil {
		return err
	}
	if a.Study != r.id || a.Spec != consilium.SpecDigest(r.submission.SpecBytes) || a.Policy != r.submission.Policy {
		return fmt.Errorf("%w: an approval of something else", errForged)
	}
	if r.approval != nil && !bytes.Equal(m.Body, r.approved) {
		return fmt.Errorf("%w: two different approvals", errForged)
	}
	if digest := consilium.DomainApproval.Digest(m.Body); r.vouched(func(c *consilium.Charter) bool { return c.Approval == digest }) {
		r.approval, r.approved, r.counted = a, m.Body, true
		return nil
	}
	for _, member := range r.roster.Board.Members {
		if m.By != "board/"+member.ID {
			continue
		}
		if err := hybrid.Verify(member.Key, consilium.DomainApproval, m.Body, &m.Signature); err != nil {
			return err
		}
		r.approval, r.approved = a, m.Body
		r.approvers[member.ID] = m.Signature
		return nil
	}
	return fmt.Errorf("%w: an approval by %q, who is not of the board", errForged, m.By)
}

// boardApproved reports whether the board's threshold has signed and the
// approval is in force.
func (r *replica) boardApproved(now time.Time) bool {
	return r.approval != nil && (r.counted || len(r.approvers) >= r.roster.Board.Threshold) &&
		now.Unix() >= r.approval.NotBefore && now.Unix() < r.approval.NotAfter
}

// takeDraft checks a drafted charter member by member against the enrolments
// that this hospital verified, and the numbers against the rules that protect
// it. A hospital never signs a charter that fails here.
func (r *replica) takeDraft(payload []byte) error {
	if r.charter != nil {
		return fmt.Errorf("%w: a draft after the charter", errForged)
	}
	if err := canon.Check(payload); err != nil {
		return err
	}
	c, err := consilium.ParseDraft(payload)
	if err != nil {
		return r.otherRelease(payload, err)
	}
	if r.submission == nil || r.approval == nil {
		return fmt.Errorf("%w: a draft before submission and approval", errForged)
	}
	if own := r.known[c.Epoch]; own != nil {
		// This hospital has signed the charter of this epoch: that one or none.
		unconfirmed := *own
		unconfirmed.Confirmation = consilium.Digest{}
		if b, err := canon.Marshal(&unconfirmed); err != nil || !bytes.Equal(b, payload) || c.Epoch != r.making() {
			return fmt.Errorf("%w: this hospital has signed another charter of epoch %d", errForged, c.Epoch)
		}
		r.draft, r.drafted = c, payload
		return nil
	}
	team, ok := r.roster.Researcher(r.submission.Team)
	if !ok {
		return fmt.Errorf("%w: no team", errForged)
	}
	faults := r.spec.Sites.Faults
	if faults == 0 {
		faults = consilium.DefaultFaults(len(c.Members), r.spec.Sites.Min)
	}
	if r.prior != nil {
		if err := r.succeeds(c); err != nil {
			return fmt.Errorf("%w: %w", errForged, err)
		}
		faults = consilium.SuccessorFaults(r.prior.charter, r.spec.Sites.Faults, len(c.Members))
	}
	switch {
	case c.Study != r.id || c.Epoch != r.making(),
		c.Submission != consilium.DomainSubmission.Digest(r.submitted),
		c.Spec != consilium.SpecDigest(r.submission.SpecBytes),
		c.Policy != r.submission.Policy,
		c.Approval != consilium.DomainApproval.Digest(r.approved),
		c.Team != r.submission.Team || c.TeamKey != team.Sealing:
		return fmt.Errorf("%w: the draft is of something else", errForged)
	case c.Faults != faults, c.Threshold != consilium.Threshold(len(c.Members), faults), c.MinSites != r.spec.Sites.Min:
		return fmt.Errorf("%w: f %d, t %d, min_sites %d are not what the study asks for", errForged, c.Faults, c.Threshold, c.MinSites)
	}
	for i := range c.Members {
		m := &c.Members[i]
		site, ok := r.roster.Site(m.Site)
		e := r.enrols[m.Site]
		if !ok || e == nil {
			return fmt.Errorf("%w: %s is drafted and has not enrolled", errForged, m.Site)
		}
		if only := r.spec.Sites.Only; len(only) > 0 && !slices.Contains(only, m.Site) {
			return fmt.Errorf("%w: %s is drafted and the study does not ask it", errForged, m.Site)
		}
		if m.Operator != site.Operator || m.Key != site.Key || m.Sealing != e.Sealing || m.Nonce != e.Nonce ||
			m.Commitment != e.Commitment || m.Decision != e.Decision || e.Roster != c.Roster || e.Submission != c.Submission {
			return fmt.Errorf("%w: the draft misstates %s", errForged, m.Site)
		}
	}
	if r.draft != nil && !bytes.Equal(payload, r.drafted) {
		return fmt.Errorf("%w: two different drafts", errForged)
	}
	r.draft, r.drafted = c, payload
	return nil
}

// otherRelease notes a draft of another release, so that this hospital leaves the
// study and says why, instead of being waited for. Two releases may round
// differently: they must not compute one study together.
func (r *replica) otherRelease(payload []byte, err error) error {
	var head struct {
		Protocol int `json:"protocol"`
	}
	if json.Unmarshal(payload, &head) != nil || head.Protocol == consilium.ProtocolVersion {
		return err
	}
	r.mixed = &consilium.Error{Code: consilium.ErrInvalid.Code, Msg: fmt.Sprintf("the study is drafted in protocol %d, this hospital's release speaks %d", head.Protocol, consilium.ProtocolVersion),
		Next: "install one release at all hospitals and coordinators, and submit the study again"}
	return r.mixed
}

// takeCharter accepts the enrolment certificate when every member has signed
// exactly these bytes.
func (r *replica) takeCharter(payload []byte) error {
	if r.charter != nil {
		return nil
	}
	if r.draft == nil {
		return fmt.Errorf("%w: a charter before its draft", errForged)
	}
	c, err := consilium.ParseCharter(payload)
	if err != nil {
		return err
	}
	again := *c
	again.Confirmation = consilium.Digest{}
	b, err := canon.Marshal(&again)
	if err != nil {
		return err
	}
	if !bytes.Equal(b, r.drafted) {
		return fmt.Errorf("%w: the charter is not its draft", errForged)
	}
	for i := range c.Members {
		m := r.signed[consilium.Position(i+1)]
		if m == nil || !bytes.Equal(m.Body, payload) {
			return fmt.Errorf("%w: %s has not signed this charter", errForged, c.Members[i].Site)
		}
	}
	r.charter, r.chartered, r.digest = c, payload, consilium.CharterDigest(payload)
	r.position, _ = c.Position(r.self)
	return nil
}

func (r *replica) open(body []byte, now time.Time, eventTime int64) error {
	o, err := consilium.ParseRoundOpened(body)
	if err != nil {
		return err
	}
	if r.charter == nil || o.Charter != r.digest || len(o.Sealing) != len(r.charter.Members) {
		return fmt.Errorf("%w: a round of another charter", errForged)
	}
	last := r.round
	switch {
	case last == nil && o.Attempt == 1 && r.begins(o):
	case last != nil && o.Round == last.opened.Round && o.Attempt == last.opened.Attempt+1 && o.State == last.opened.State && !last.closed:
	case last != nil && last.closed && !last.done && o.Round == last.opened.Round+1 && o.Attempt == 1 && o.State == last.next:
	default:
		return fmt.Errorf("%w: round %d attempt %d does not follow", errForged, o.Round, o.Attempt)
	}
	if last != nil && last.closed {
		r.prev = last
	}
	renounced := map[consilium.Position]uint32{}
	var spoilt *round
	if last != nil && !last.closed {
		renounced = last.renounced
		if last.rejected {
			spoilt = last
			spoilt.spoilt = nil
		}
	}
	r.round = &round{
		complaints: map[consilium.Position][]consilium.Position{}, renounced: renounced, spoilt: spoilt,
		suspects: map[consilium.Position]*consilium.Suspect{}, shows: map[consilium.Position]*consilium.Show{},
		opened: o, since: now, wait: max(time.Duration(o.Deadline-eventTime)*time.Millisecond, 0),
		headers:  map[consilium.Position]*signedHeader{},
		votes:    map[consilium.Position]consilium.Digest{},
		openings: map[consilium.Position]*consilium.Opening{},
		states:   map[consilium.Position]*consilium.StateVote{},
	}
	return nil
}

func (r *replica) at(p consilium.Position) consilium.At { return r.atRound(r.round, p) }

func (r *replica) atRound(rd *round, p consilium.Position) consilium.At {
	return consilium.At{Charter: r.digest, Round: rd.opened.Round, Attempt: rd.opened.Attempt, Position: p}
}

// accused is the list of suspects that t members signed, if there is one.
func (rd *round) accused(threshold int) []consilium.Position {
	for _, s := range rd.suspects {
		n := 0
		for _, o := range rd.suspects {
			if slices.Equal(s.Accused, o.Accused) {
				n++
			}
		}
		if n >= threshold {
			return s.Accused
		}
	}
	return nil
}

func (r *replica) roundMessage(m *consilium.Message, p consilium.Position) error {
	rd := r.round
	if rd == nil {
		return fmt.Errorf("%w: %s before round 1", errForged, m.Kind)
	}
	// here accepts the current attempt only. Late statements of a closed
	// attempt change nothing.
	here := func(at consilium.At) error {
		if at != r.at(p) {
			return fmt.Errorf("%w: %s for round %d attempt %d position %d", errForged, m.Kind, at.Round, at.Attempt, at.Position)
		}
		return nil
	}
	switch m.Kind {
	case consilium.KindHeader:
		h, err := consilium.ParseHeader(m.Body)
		if err != nil {
			return err
		}
		if err := here(h.At); err != nil {
			return err
		}
		d := consilium.HeaderDigest(m.Body)
		if rd.headers[p] == nil {
			rd.headers[p] = &signedHeader{d, h, m.Body}
			r.sealing[d] = sealingKey{p, h.NextSealing}
		}
	case consilium.KindVote:
		v, err := consilium.ParseVote(m.Body)
		if err != nil {
			return err
		}
		if err := here(v.At); err != nil {
			return err
		}
		if have, ok := rd.votes[p]; ok && have != v.Set {
			return fmt.Errorf("%w: %s voted twice", errForged, m.By)
		}
		rd.votes[p] = v.Set
	case consilium.KindOpening:
		o, err := consilium.ParseOpening(m.Body)
		if err != nil {
			return err
		}
		if err := here(o.At); err != nil {
			return err
		}
		if rd.openings[p] == nil {
			rd.openings[p] = o
		}
	case consilium.KindStateVote:
		v, err := consilium.ParseStateVote(m.Body)
		if err != nil {
			return err
		}
		if err := here(v.At); err != nil {
			return err
		}
		if rd.states[p] == nil {
			rd.states[p] = v
			r.count()
		}
	case consilium.KindSealedState:
		s, err := consilium.ParseSealedState(m.Body)
		if err != nil {
			return err
		}
		if s.Charter != r.digest || s.Position != p {
			return fmt.Errorf("%w: a sealed state of another charter", errForged)
		}
		if !slices.ContainsFunc(r.offered[s.Round], func(o *consilium.SealedState) bool { return o.Position == p }) {
			r.offered[s.Round] = append(r.offered[s.Round], s)
		}
	case consilium.KindComplaint:
		c, err := consilium.ParseComplaint(m.Body)
		if err != nil {
			return err
		}
		if err := here(c.At); err != nil {
			return err
		}
		for dealer, sh := range rd.headers {
			if sh.digest == c.Header && dealer != p && !slices.Contains(rd.complaints[dealer], p) {
				rd.complaints[dealer] = append(rd.complaints[dealer], p)
			}
		}
	case consilium.KindAnswer:
		v, err := consilium.ParseAnswer(m.Body)
		if err != nil {
			return err
		}
		if err := here(v.At); err != nil {
			return err
		}
		sh := rd.headers[p]
		if sh == nil || sh.digest != v.Header || int(v.To) > len(r.charter.Members) {
			return fmt.Errorf("%w: an answer of %s about another dealing", errForged, m.By)
		}
		if !slices.ContainsFunc(rd.answers, func(a *consilium.Answer) bool { return a.Position == p && a.To == v.To }) {
			rd.answers = append(rd.answers, v)
		}
	case consilium.KindRenounce:
		v, err := consilium.ParseRenounce(m.Body)
		if err != nil {
			return err
		}
		if v.Charter != r.digest || v.Position != p || v.Round != rd.opened.Round {
			return fmt.Errorf("%w: a renouncement of another charter or round", errForged)
		}
		rd.renounced[p] = max(rd.renounced[p], v.Attempt)
	case consilium.KindSuspect:
		v, err := consilium.ParseSuspect(m.Body)
		if err != nil {
			return err
		}
		sp := rd.spoilt
		if sp == nil || v.At != r.atRound(sp, p) || v.Set != sp.set || len(v.Accused) > r.charter.MaxAccused() {
			return fmt.Errorf("%w: suspects of %s for round %d attempt %d", errForged, m.By, v.Round, v.Attempt)
		}
		if sp.suspects[p] == nil {
			sp.suspects[p] = v
		}
	case consilium.KindShow:
		v, err := consilium.ParseShow(m.Body)
		if err != nil {
			return err
		}
		sp := rd.spoilt
		if sp == nil || v.At != r.atRound(sp, p) || v.Set != sp.set {
			return fmt.Errorf("%w: shares shown by %s for round %d attempt %d", errForged, m.By, v.Round, v.Attempt)
		}
		if sp.shows[p] == nil {
			sp.shows[p] = v
		}
	case consilium.KindRelease:
		v, err := consilium.ParseRelease(m.Body)
		if err != nil {
			return err
		}
		if v.Charter != r.digest || v.Position != p {
			return fmt.Errorf("%w: a release of another charter", errForged)
		}
		if r.releases[p] == nil {
			r.releases[p] = v
		}
	case consilium.KindPublish:
		v, err := consilium.ParsePublish(m.Body)
		if err != nil {
			return err
		}
		if v.Charter != r.digest || v.Position != p {
			return fmt.Errorf("%w: a publication of another charter", errForged)
		}
		if r.published == nil {
			r.published = v
		}
	}
	// Acknowledgements advise the leader.
	return nil
}

func (r *replica) propose(body []byte) error {
	u, err := consilium.ParseContributors(body)
	if err != nil {
		return err
	}
	if r.round == nil || u.Charter != r.digest || u.Round != r.round.opened.Round || u.Attempt != r.round.opened.Attempt {
		return fmt.Errorf("%w: a set for another attempt", errForged)
	}
	if r.round.proposed != nil && r.round.set != u.Digest() {
		return fmt.Errorf("%w: two sets for one attempt", errForged)
	}
	r.round.proposed, r.round.set = u, u.Digest()
	return nil
}

// certified reports whether t members voted for the proposed set.
func (r *replica) certified() bool {
	if r.round == nil || r.round.proposed == nil {
		return false
	}
	n := 0
	for _, set := range r.round.votes {
		if set == r.round.set {
			n++
		}
	}
	return n >= r.charter.Threshold
}

// count closes the round when t members signed the same next state.
func (r *replica) count() {
	rd := r.round
	if rd.closed || rd.rejected || rd.proposed == nil {
		return
	}
	type outcome struct {
		next         consilium.Digest
		done, reject bool
	}
	tally := map[outcome]int{}
	for _, v := range rd.states {
		if v.Set != rd.set {
			continue
		}
		o := outcome{v.Next, v.Done, v.Reject}
		tally[o]++
		if tally[o] < r.charter.Threshold {
			continue
		}
		if o.reject {
			rd.rejected = true
			for p := range rd.openings {
				rd.present = append(rd.present, p)
			}
			slices.Sort(rd.present)
			return
		}
		rd.closed, rd.next, rd.done = true, o.next, o.done
		r.volume += rd.least()
		if _, in := rd.proposed.Has(r.position); in {
			r.included = rd.opened.Round
		}
		for p, s := range rd.states {
			if s.Set == rd.set && (outcome{s.Next, s.Done, s.Reject}) == o {
				rd.signers = append(rd.signers, p)
			}
		}
		slices.Sort(rd.signers)
		r.lastDone = o.done
		return
	}
}

// least is the size of the smallest contribution to the proposed set. They are
// all of one size, or those who voted for the set would not have.
func (rd *round) least() uint64 {
	least := uint64(0)
	for i, m := range rd.proposed.Members {
		sh := rd.headers[m.Position]
		if sh == nil || sh.digest != m.Header {
			return 0
		}
		if i == 0 || sh.header.Size < least {
			least = sh.header.Size
		}
	}
	return least
}

// released lists the members that allowed the release of one result, once t
// of them did.
func (r *replica) released() (consilium.Digest, []consilium.Position) {
	by := map[consilium.Digest][]consilium.Position{}
	for p, v := range r.releases {
		if v.Allow {
			by[v.Result] = append(by[v.Result], p)
		}
	}
	for d, list := range by {
		if len(list) >= r.charter.Threshold {
			sort.Slice(list, func(i, k int) bool { return list[i] < list[k] })
			return d, list
		}
	}
	return consilium.Digest{}, nil
}

// sealingKeys resolves the keys to deal to in the open round: from the
// charter, or from the header that the coordinator names, which this hospital
// verified when it came.
func (r *replica) sealingKeys() ([]consilium.SealingKey, error) {
	out := make([]consilium.SealingKey, len(r.charter.Members))
	for i, d := range r.round.opened.Sealing {
		if d.IsZero() {
			out[i] = r.charter.Members[i].Sealing
			continue
		}
		k, ok := r.sealing[d]
		if !ok || k.position != consilium.Position(i+1) {
			return nil, fmt.Errorf("%w: no header of %s published the sealing key", errForged, r.charter.Members[i].Site)
		}
		out[i] = k.key
	}
	return out, nil
}
