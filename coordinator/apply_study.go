package coordinator

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"consilium"
	"consilium/internal/canon"
)

// setRoster puts a later version of the roster in force. Live studies keep
// what they took from the roster before it until their next epoch, which begins
// where it concerns their members.
//
// Versions may be left out: two that are installed while nobody leads come as one,
// and so does what a node that was down finds when it starts. That the board
// signed each is the node's to check (wire.Book), not the log's.
func (a *apply) setRoster(op *RosterSet) *Rejection {
	next, err := consilium.ParseRoster(op.Payload)
	if err != nil {
		return reject(consilium.ErrInvalid, "%w", err)
	}
	digest := consilium.RosterDigest(op.Payload)
	if a.roster != nil {
		if digest == a.rosterDigest {
			return nil
		}
		if next.Version <= a.roster.Version || next.Version == a.roster.Version+1 && next.Previous != a.rosterDigest {
			return reject(consilium.ErrStale, "roster version %d does not follow version %d in force", next.Version, a.roster.Version)
		}
	}
	before := a.State.roster
	a.State.roster, a.State.rosterPayload, a.State.rosterDigest = next, bytes.Clone(op.Payload), digest
	for _, st := range a.live() {
		a.rosterChanged(st, before)
	}
	return nil
}

// statement names what a message says, whatever its signature: the same
// statement signed twice is one.
func statement(m *consilium.Message) consilium.Digest {
	return m.Kind.Domain().Digest([]byte(m.By), m.Body)
}

// A handler checks a message and returns what accepting it changes, or nil if
// it adds nothing to what is known. Checks come before changes by construction.
type handler func(a *apply, st *study, m *consilium.Message, op *Post) (commit func(), r *Rejection)

var handlers = map[consilium.MessageKind]handler{
	consilium.KindApproval:    (*apply).approval,
	consilium.KindEnrol:       (*apply).enrol,
	consilium.KindDecline:     (*apply).decline,
	consilium.KindReveal:      (*apply).reveal,
	consilium.KindCharter:     (*apply).charter,
	consilium.KindHeader:      (*apply).header,
	consilium.KindAck:         (*apply).ack,
	consilium.KindComplaint:   (*apply).complaint,
	consilium.KindVote:        (*apply).vote,
	consilium.KindOpening:     (*apply).opening,
	consilium.KindRenounce:    (*apply).renounce,
	consilium.KindStateVote:   (*apply).stateVote,
	consilium.KindSealedState: (*apply).sealedState,
	consilium.KindRelease:     (*apply).release,
	consilium.KindPublish:     (*apply).publish,
	consilium.KindWithdraw:    (*apply).withdraw,
	consilium.KindCancel:      (*apply).cancel,
	consilium.KindAnswer:      (*apply).answer,
	consilium.KindSuspect:     (*apply).suspect,
	consilium.KindShow:        (*apply).show,
	consilium.KindDepart:      (*apply).depart,
}

// post takes a member's message.
func (a *apply) post(op *Post) *Rejection {
	m, err := consilium.ParseMessage(op.Message)
	if err != nil {
		return reject(consilium.ErrInvalid, "%w", err)
	}
	if (op.Upload != nil) != (m.Kind == consilium.KindHeader) {
		return reject(consilium.ErrInvalid, "a %s with or without an upload", m.Kind)
	}
	if (op.Blob != nil) != (m.Kind == consilium.KindSealedState || m.Kind == consilium.KindPublish || m.Kind == consilium.KindShow) {
		return reject(consilium.ErrInvalid, "a %s with or without a blob", m.Kind)
	}
	if m.Kind == consilium.KindSubmission {
		return a.submit(m, op)
	}
	st, r := a.find(m.Study)
	if r != nil {
		return r
	}
	if st.seen[statement(m)] {
		return nil // the same statement again: the same answer
	}
	if st.size+uint64(len(op.Message)) > MaxStudySize {
		return reject(consilium.ErrTooLarge, "the study's messages have reached %d bytes", MaxStudySize)
	}
	commit, r := handlers[m.Kind](a, st, m, op)
	if r != nil || commit == nil {
		return r
	}
	a.record(st, m, op)
	commit()
	a.advance(st)
	return nil
}

// record makes a message an event.
func (a *apply) record(st *study, m *consilium.Message, op *Post) {
	a.emit(st, consilium.EventMessage, bytes.Clone(op.Message))
	st.seen[statement(m)] = true
}

// find returns a live study.
func (a *apply) find(id consilium.StudyID) (*study, *Rejection) {
	if st := a.studies[id]; st != nil {
		return st, nil
	}
	if e := a.ended[id]; e != nil {
		return nil, reject(consilium.ErrStudyEnded, "%s: %s", e.info.Phase, e.info.Reason)
	}
	return nil, reject(consilium.ErrUnknownStudy, "%s", id)
}

func wrongPhase(st *study, m consilium.MessageKind) *Rejection {
	phase := st.phase
	if st.waiting {
		phase = consilium.PhaseWaiting
	}
	return reject(consilium.ErrWrongPhase, "%s while the study is %s", m, phase)
}

// submit records a new study. The same submission again is the same study.
func (a *apply) submit(m *consilium.Message, op *Post) *Rejection {
	digest := consilium.DomainSubmission.Digest(m.Body)
	if m.Study != consilium.NewStudyID(digest) {
		return reject(consilium.ErrInvalid, "the study id does not follow from the submission")
	}
	sub, err := consilium.ParseSubmission(m.Body)
	if err == nil {
		err = canon.Check(m.Body)
	}
	if err == nil {
		err = canon.Check(sub.SpecBytes)
	}
	if err != nil {
		return reject(consilium.ErrInvalid, "%w", err)
	}
	if string(sub.Team) != m.By {
		return reject(consilium.ErrForbidden, "%q submits for %q", m.By, sub.Team)
	}
	key := tokenKey{sub.Team, sub.Token}
	if id, ok := a.tokens[key]; ok {
		if info, _ := a.Study(id); info.Submission == digest {
			return nil
		}
		return reject(consilium.ErrStudyExists, "token %q names study %s", sub.Token, id)
	}
	spec, err := consilium.ParseSpec(sub.SpecBytes)
	if err != nil {
		return reject(consilium.ErrInvalid, "%w", err)
	}
	if a.roster == nil {
		return reject(consilium.ErrWrongPhase, "no roster is in force")
	}
	if _, ok := a.roster.Researcher(sub.Team); !ok {
		return reject(consilium.ErrForbidden, "%s is not a team of the roster", sub.Team)
	}
	if a.now/1000 >= sub.NotAfter {
		return reject(consilium.ErrStale, "the submission has expired")
	}
	if len(a.studies) >= MaxLive {
		return reject(consilium.ErrTooLarge, "%d studies run already", len(a.studies))
	}
	facts := factsOf(spec, sub)
	asked, r := a.ask(facts)
	if r != nil {
		return r
	}
	st := &study{
		id: m.Study, submission: digest, team: sub.Team, token: sub.Token, name: spec.Name, spec: facts, asked: asked,
		submitted: a.now, seen: map[consilium.Digest]bool{}, phase: consilium.PhaseSubmitted, epoch: 1,
	}
	st.deadline = min(sub.NotAfter, maxTime/1000) * 1000
	a.studies[st.id] = st
	a.tokens[key] = st.id
	a.record(st, m, op)
	return nil
}

func factsOf(spec *consilium.Spec, sub *consilium.Submission) specFacts {
	f := specFacts{
		digest: consilium.SpecDigest(sub.SpecBytes), policy: sub.Policy, notAfter: sub.NotAfter,
		min: spec.Sites.Min, faults: spec.Sites.Faults, only: slices.Clone(spec.Sites.Only),
		deadline: min(spec.Rounds.Deadline, maxDeadline/1000) * 1000, rounds: spec.Rounds.Max,
	}
	f.missing = map[string]uint8{"wait": missingWait, "abort": missingAbort, "continue": missingContinue}[spec.Sites.Missing]
	f.exact = spec.FixedContributors()
	return f
}

// ask lists the hospitals that a study asks, as the roster in force has them.
func (a *apply) ask(f specFacts) ([]asked, *Rejection) {
	var out []asked
	for i := range a.roster.Sites {
		s := &a.roster.Sites[i]
		if len(f.only) == 0 || slices.Contains(f.only, s.ID) {
			out = append(out, asked{id: s.ID, operator: s.Operator, key: s.Key})
		}
	}
	sort.Slice(out, func(i, k int) bool { return out[i].id < out[k].id })
	for _, id := range f.only {
		if _, ok := a.roster.Site(id); !ok {
			return nil, reject(consilium.ErrInvalid, "sites.only: %s is not in the roster", id)
		}
	}
	if n := operators(out); n < f.min {
		return nil, reject(consilium.ErrBelowMinimum, "the study asks hospitals of %d operators, min_sites is %d", n, f.min)
	}
	return out, nil
}

func operators(sites []asked) int {
	seen := map[string]bool{}
	for i := range sites {
		seen[sites[i].operator] = true
	}
	return len(seen)
}

// approval counts a board member's signature. All members sign the same
// bytes: the charter names them by one digest.
func (a *apply) approval(st *study, m *consilium.Message, _ *Post) (func(), *Rejection) {
	if st.phase != consilium.PhaseSubmitted {
		return nil, wrongPhase(st, m.Kind)
	}
	member, ok := strings.CutPrefix(m.By, "board/")
	if !ok || !slices.ContainsFunc(a.roster.Board.Members, func(b consilium.BoardMember) bool { return b.ID == member }) {
		return nil, reject(consilium.ErrForbidden, "%q is not of the board", m.By)
	}
	ap, err := consilium.ParseApproval(m.Body)
	if err == nil {
		err = canon.Check(m.Body)
	}
	if err != nil {
		return nil, reject(consilium.ErrInvalid, "%w", err)
	}
	if ap.Study != st.id || ap.Spec != st.spec.digest || ap.Policy != st.spec.policy {
		return nil, reject(consilium.ErrInvalid, "the approval is of another study, specification or policy")
	}
	// Hospitals judge validity by their own clocks; an expired approval is
	// refused here only to say so early.
	if a.now/1000 >= ap.NotAfter {
		return nil, reject(consilium.ErrStale, "the approval has expired")
	}
	digest := consilium.DomainApproval.Digest(m.Body)
	if !st.approval.IsZero() && digest != st.approval {
		return nil, reject(consilium.ErrConflictingMessage, "the board has begun to sign another approval of this study; sign the same one")
	}
	return func() {
		st.approval = digest
		i := sort.SearchStrings(st.approvers, member)
		st.approvers = slices.Insert(slices.Clone(st.approvers), i, member)
	}, nil
}

// approved reports whether the board in force has approved the study, k of n.
func (s *State) approved(st *study) bool {
	n := 0
	for _, b := range s.roster.Board.Members {
		if slices.Contains(st.approvers, b.ID) {
			n++
		}
	}
	return n >= s.roster.Board.Threshold
}

// decide records the leader's advisory decision on an approved study and asks
// the hospitals.
func (a *apply) decide(op *Decide) *Rejection {
	st, r := a.find(op.Study)
	if r != nil {
		return r
	}
	if st.phase != consilium.PhaseSubmitted {
		if op.Allow {
			return nil // a second leader decided the same
		}
		return reject(consilium.ErrWrongPhase, "the study was admitted before")
	}
	if !a.approved(st) {
		return reject(consilium.ErrWrongPhase, "the board has not approved the study")
	}
	if len(op.Record) > consilium.MaxDocumentSize {
		return reject(consilium.ErrTooLarge, "a decision record of %d bytes, at most %d", len(op.Record), consilium.MaxDocumentSize)
	}
	record := bytes.Clone(op.Record)
	if !op.Allow {
		a.end(st, consilium.PhaseRefused, consilium.EventRefused, record, "the study policy refuses", nil)
		return nil
	}
	team, ok := a.roster.Researcher(st.team)
	if !ok {
		a.abort(st, fmt.Sprintf("the team %s has left the roster", st.team))
		return nil
	}
	// The roster may have changed since the submission.
	asked, r := a.ask(st.spec)
	if r != nil {
		a.abort(st, r.Error())
		return nil
	}
	st.asked, st.roster, st.teamKey = asked, a.rosterDigest, team.Sealing
	a.emit(st, consilium.EventAdmitted, record)
	a.enter(st, consilium.PhaseAdmitted, st.spec.deadline)
	return nil
}

func (st *study) askedSite(by string) *asked {
	i := sort.Search(len(st.asked), func(i int) bool { return st.asked[i].id >= consilium.SiteID(by) })
	if i < len(st.asked) && string(st.asked[i].id) == by {
		return &st.asked[i]
	}
	return nil
}

// answering checks that a hospital may still answer the request to enrol.
func (a *apply) answering(st *study, m *consilium.Message) (*asked, *Rejection) {
	site := st.askedSite(m.By)
	if site == nil {
		return nil, reject(consilium.ErrNotMember, "%s is not asked to take part", m.By)
	}
	if st.phase != consilium.PhaseAdmitted && st.phase != consilium.PhaseEnrolling || st.draft != nil {
		return nil, wrongPhase(st, m.Kind)
	}
	if site.enrol != nil || site.declined {
		return nil, reject(consilium.ErrConflictingMessage, "%s has answered already", m.By)
	}
	return site, nil
}

func (a *apply) enrol(st *study, m *consilium.Message, _ *Post) (func(), *Rejection) {
	site, r := a.answering(st, m)
	if r != nil {
		return nil, r
	}
	e, err := consilium.ParseEnrol(m.Body)
	if err != nil {
		return nil, reject(consilium.ErrInvalid, "%w", err)
	}
	if e.Study != st.id || e.Submission != st.submission {
		return nil, reject(consilium.ErrInvalid, "an enrolment in another study")
	}
	if e.Previous != st.priorDigest {
		// Of an epoch that is over: a hospital that was added reads the log from its
		// beginning and may answer before it has read on. It answers again then.
		return nil, reject(consilium.ErrWrongPhase, "an enrolment after charter %s; the epoch before has %s", e.Previous.Short(), st.priorDigest.Short())
	}
	if e.Roster != st.roster {
		return nil, reject(consilium.ErrStale, "the hospital uses roster %s, the study was admitted under %s", e.Roster.Short(), st.roster.Short())
	}
	if e.Sealing.IsZero() || e.Nonce.IsZero() || e.Commitment.IsZero() || e.Decision.IsZero() {
		return nil, reject(consilium.ErrInvalid, "sealing key, nonce, commitment and decision are all needed")
	}
	return func() {
		site.enrol = &enrolment{e.Sealing, e.Nonce, e.Commitment, e.Decision}
		st.phase = consilium.PhaseEnrolling
	}, nil
}

func (a *apply) decline(st *study, m *consilium.Message, _ *Post) (func(), *Rejection) {
	site, r := a.answering(st, m)
	if r != nil {
		return nil, r
	}
	d, err := consilium.ParseDecline(m.Body)
	if err != nil {
		return nil, reject(consilium.ErrInvalid, "%w", err)
	}
	if d.Study != st.id || d.Submission != st.submission {
		return nil, reject(consilium.ErrInvalid, "an answer to another study")
	}
	return func() {
		site.declined = true
		st.phase = consilium.PhaseEnrolling
		if st.prior == nil {
			return
		}
		if p, ok := st.prior.Position(site.id); ok && slices.Contains(st.frozen, p) {
			a.abort(st, fmt.Sprintf("%s declined to go on in an exact study (%s): its part cannot be taken out of sums that are open", site.id, d.Code))
		}
	}, nil
}

// makeDraft freezes who takes part. Positions follow the order of site ids,
// so nobody can choose a Shamir point.
func (a *apply) makeDraft(st *study) {
	c := &consilium.Charter{
		APIVersion: consilium.APIVersion, Kind: "Charter", Protocol: consilium.ProtocolVersion, Study: st.id, Epoch: st.epoch,
		Submission: st.submission, Spec: st.spec.digest, Policy: st.spec.policy, Approval: st.approval, Roster: st.roster,
		Team: st.team, TeamKey: st.teamKey, KEM: consilium.KEMX25519MLKEM768, MinSites: st.spec.min,
	}
	var enrolled []asked
	var declined, silent []string
	for _, s := range st.asked {
		switch {
		case s.enrol != nil:
			enrolled = append(enrolled, s)
			c.Members = append(c.Members, consilium.Member{
				Site: s.id, Operator: s.operator, Key: s.key, Sealing: s.enrol.sealing, Nonce: s.enrol.nonce,
				Commitment: s.enrol.commitment, Decision: s.enrol.decision,
			})
		case s.declined:
			declined = append(declined, string(s.id))
		default:
			silent = append(silent, string(s.id))
		}
	}
	if st.prior != nil {
		c.Previous, c.Handover = st.priorDigest, &consilium.Handover{Round: st.round + 1, State: st.state}
	}
	n := len(enrolled)
	if k := operators(enrolled); n < 3 || k < st.spec.min {
		reason := fmt.Sprintf("too few sites: %d enrolled from %d operators, min_sites is %d", n, k, st.spec.min)
		if len(declined) > 0 {
			reason += "; declined: " + strings.Join(declined, ", ")
		}
		if len(silent) > 0 {
			reason += "; no answer: " + strings.Join(silent, ", ")
		}
		a.abort(st, reason)
		return
	}
	c.Faults = st.spec.faults
	switch {
	case st.prior != nil:
		c.Faults = consilium.SuccessorFaults(st.prior, st.spec.faults, n)
	case c.Faults == 0:
		c.Faults = consilium.DefaultFaults(n, st.spec.min)
	}
	c.Threshold = consilium.Threshold(n, c.Faults)
	payload, err := canon.Marshal(c)
	if err == nil {
		_, err = consilium.ParseDraft(payload)
	}
	if err == nil && st.prior != nil {
		err = c.Succeeds(st.prior, st.priorDigest)
	}
	if err != nil {
		a.abort(st, "no charter can be made: "+err.Error())
		return
	}
	st.draft, st.charter = payload, c
	st.revealed = make([]bool, n)
	st.signed = make([]consilium.Digest, n)
	st.withdrawn = make([]bool, n)
	st.sealing = make([]consilium.Digest, n)
	st.releases = make([]release, n)
	a.emit(st, consilium.EventDrafted, payload)
	a.enter(st, consilium.PhaseEnrolling, st.spec.deadline)
}

// member returns the position of a message's author in the draft or charter.
func (a *apply) member(st *study, m *consilium.Message) (consilium.Position, *Rejection) {
	if st.charter == nil {
		if st.askedSite(m.By) == nil {
			return 0, reject(consilium.ErrNotMember, "%s is not asked to take part", m.By)
		}
		return 0, wrongPhase(st, m.Kind)
	}
	p, ok := st.charter.Position(consilium.SiteID(m.By))
	if !ok {
		return 0, reject(consilium.ErrNotMember, "%s is not enrolled", m.By)
	}
	if st.withdrawn[p-1] {
		return 0, reject(consilium.ErrNotMember, "%s has withdrawn", m.By)
	}
	return p, nil
}

func (a *apply) reveal(st *study, m *consilium.Message, _ *Post) (func(), *Rejection) {
	p, r := a.member(st, m)
	if r != nil {
		return nil, r
	}
	if st.charterPayload != nil {
		return nil, wrongPhase(st, m.Kind)
	}
	v, err := consilium.ParseReveal(m.Body)
	if err != nil {
		return nil, reject(consilium.ErrInvalid, "%w", err)
	}
	if v.Draft != consilium.CharterDigest(st.draft) || len(v.Boxes) != len(st.charter.Members) {
		return nil, reject(consilium.ErrInvalid, "a reveal for another draft")
	}
	if st.revealed[p-1] {
		return nil, reject(consilium.ErrConflictingMessage, "%s has revealed already", m.By)
	}
	return func() { st.revealed[p-1] = true }, nil
}

// charter takes a member's signature on the final charter: the draft with the
// confirmation that the member computed.
func (a *apply) charter(st *study, m *consilium.Message, _ *Post) (func(), *Rejection) {
	p, r := a.member(st, m)
	if r != nil {
		return nil, r
	}
	if st.charterPayload != nil || slices.Contains(st.revealed, false) {
		return nil, wrongPhase(st, m.Kind)
	}
	digest := consilium.CharterDigest(m.Body)
	if !slices.Contains(st.signed, digest) { // the same bytes were checked before
		if err := st.confirms(m.Body); err != nil {
			return nil, reject(consilium.ErrInvalid, "%w", err)
		}
	}
	if !st.signed[p-1].IsZero() {
		return nil, reject(consilium.ErrConflictingMessage, "%s has signed another charter", m.By)
	}
	return func() {
		st.signed[p-1] = digest
		for i, other := range st.signed {
			if !other.IsZero() && other != st.signed[p-1] {
				a.abort(st, fmt.Sprintf("%s and %s computed different group keys", st.charter.Members[i].Site, m.By))
				return
			}
		}
		if !slices.Contains(st.signed, consilium.Digest{}) {
			st.charterPayload, st.charterDigest = bytes.Clone(m.Body), digest
			st.charter, _ = consilium.ParseCharter(st.charterPayload) // it parsed for the first signature
			a.emit(st, consilium.EventChartered, st.charterPayload)
			a.beginEpoch(st)
		}
	}, nil
}

// confirms says why a charter is not the draft with a confirmation, or nil.
func (st *study) confirms(payload []byte) error {
	c, err := consilium.ParseCharter(payload)
	if err != nil {
		return err
	}
	c.Confirmation = consilium.Digest{}
	if b, err := canon.Marshal(c); err != nil || !bytes.Equal(b, st.draft) || canon.Check(payload) != nil {
		return errors.New("the charter is not the draft with a confirmation")
	}
	return nil
}

// withdraw takes a hospital out, for good.
func (a *apply) withdraw(st *study, m *consilium.Message, _ *Post) (func(), *Rejection) {
	w, err := consilium.ParseWithdraw(m.Body)
	if err != nil {
		return nil, reject(consilium.ErrInvalid, "%w", err)
	}
	if w.Study != st.id {
		return nil, reject(consilium.ErrInvalid, "a withdrawal from another study")
	}
	if st.charter == nil {
		site := st.askedSite(m.By)
		if site == nil {
			return nil, reject(consilium.ErrNotMember, "%s is not asked to take part", m.By)
		}
		if st.phase == consilium.PhaseSubmitted {
			return nil, wrongPhase(st, m.Kind)
		}
		if site.declined {
			return nil, reject(consilium.ErrConflictingMessage, "%s has declined already", m.By)
		}
		return func() {
			site.enrol, site.declined = nil, true
			st.phase = consilium.PhaseEnrolling
			a.leaves(st, site.id, fmt.Sprintf("%s withdrew", site.id))
		}, nil
	}
	p, r := a.member(st, m)
	if r != nil {
		return nil, r
	}
	return func() { a.remove(st, p) }, nil
}

// remove takes p out for good. The study ends where it cannot go on without it,
// and otherwise goes on in another epoch, whose key p does not have.
func (a *apply) remove(st *study, p consilium.Position) {
	st.withdrawn[p-1] = true
	site := st.charter.Members[p-1].Site
	if !a.leaves(st, site, fmt.Sprintf("%s withdrew", site)) {
		return
	}
	rest := st.positions(func(consilium.Position) bool { return true })
	switch {
	case st.charterPayload == nil && st.prior == nil:
		a.abort(st, fmt.Sprintf("%s withdrew before the charter was signed", site))
	case st.charterPayload == nil && !st.unsigned():
		a.abort(st, fmt.Sprintf("%s withdrew while the charter of epoch %d was being signed", site, st.epoch))
	case st.charterPayload == nil:
		a.renew(st, st.round+1)
	case st.charter.Operators(rest) < st.charter.MinSites && st.phase != consilium.PhaseReleasing:
		a.abort(st, fmt.Sprintf("too few sites: %s withdrew, hospitals of %d operators remain, min_sites is %d", site, st.charter.Operators(rest), st.charter.MinSites))
	case st.phase == consilium.PhaseReleasing || !a.canLeave(st):
		switch {
		case len(rest) < st.charter.Threshold:
			a.abort(st, fmt.Sprintf("%s withdrew: %d hospitals remain, %d are needed to open", site, len(rest), st.charter.Threshold))
		case slices.Contains(st.pinned, p) && (st.phase == consilium.PhaseContributing || st.phase == consilium.PhaseCertifying):
			a.abort(st, fmt.Sprintf("%s withdrew from a round whose contributors are fixed", site))
		case st.phase != consilium.PhaseReleasing:
			st.renewal = fmt.Sprintf("%s withdrew", site)
		}
	default:
		st.renewal = fmt.Sprintf("%s withdrew", site)
	}
}

// cancel ends a study at its team's request.
func (a *apply) cancel(st *study, m *consilium.Message, _ *Post) (func(), *Rejection) {
	if m.By != string(st.team) {
		return nil, reject(consilium.ErrForbidden, "%q is not the study's team", m.By)
	}
	v, err := consilium.ParseCancel(m.Body)
	if err != nil {
		return nil, reject(consilium.ErrInvalid, "%w", err)
	}
	if v.Study != st.id {
		return nil, reject(consilium.ErrInvalid, "a cancellation of another study")
	}
	return func() {
		a.end(st, consilium.PhaseCancelled, consilium.EventCancelled, []byte(v.Reason), v.Reason, nil)
	}, nil
}
