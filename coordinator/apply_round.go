package coordinator

import (
	"fmt"
	"slices"

	"consilium"
)

// open starts an attempt of a round.
func (a *apply) open(st *study, round, attempt uint32) {
	n := len(st.charter.Members)
	if attempt > 1 {
		for _, k := range st.contributions {
			if k != nil {
				st.stale = append(st.stale, k.upload.Ciphertext, k.upload.Boxes)
			}
		}
		if st.sum != nil {
			st.stale = append(st.stale, *st.sum)
		}
	}
	if round != st.round {
		st.renounced, st.everOpened = make([]uint32, n), make([]bool, n)
	}
	st.suspected = make([]bool, n)
	st.round, st.attempt = round, attempt
	st.contributions = make([]*contribution, n)
	st.acks = make([][]consilium.Position, n)
	st.votes = make([]consilium.Digest, n)
	st.opened = make([]bool, n)
	st.outcomes = make([]outcome, n)
	st.complaints, st.set, st.sum = nil, nil, nil
	a.enter(st, consilium.PhaseContributing, st.spec.deadline)
	o := consilium.RoundOpened{Charter: st.charterDigest, Round: round, Attempt: attempt, State: st.state, Deadline: st.deadline, Sealing: st.sealing}
	a.emit(st, consilium.EventOpened, o.Encode())
}

// retry opens the next attempt of the round, or ends the study if there were
// too many.
func (a *apply) retry(st *study, why string) {
	if st.attempt >= MaxAttempts {
		a.abort(st, fmt.Sprintf("round %d: no contributor set in %d attempts; %s", st.round, st.attempt, why))
		return
	}
	for _, p := range st.required() {
		if st.withdrawn[p-1] {
			a.abort(st, fmt.Sprintf("round %d cannot be repeated: %s has withdrawn; %s", st.round, st.names([]consilium.Position{p}), why))
			return
		}
	}
	a.open(st, st.round, st.attempt+1)
}

// here checks that a statement is its author's own and about the open attempt.
func (a *apply) here(st *study, m *consilium.Message, at consilium.At) (consilium.Position, *Rejection) {
	p, r := a.member(st, m)
	if r != nil {
		return 0, r
	}
	if st.charterPayload == nil {
		return 0, wrongPhase(st, m.Kind)
	}
	if at.Charter != st.charterDigest || at.Position != p {
		return 0, reject(consilium.ErrInvalid, "a statement under another charter or position")
	}
	switch {
	case at.Round < st.round, at.Round == st.round && at.Attempt < st.attempt:
		return 0, reject(consilium.ErrRoundClosed, "round %d attempt %d; open is round %d attempt %d", at.Round, at.Attempt, st.round, st.attempt)
	case at.Round > st.round, at.Attempt > st.attempt:
		return 0, reject(consilium.ErrWrongPhase, "round %d attempt %d is not open yet", at.Round, at.Attempt)
	}
	return p, nil
}

// inRound is here for statements that end with the round.
func (a *apply) inRound(st *study, m *consilium.Message, at consilium.At) (consilium.Position, *Rejection) {
	p, r := a.here(st, m, at)
	if r == nil && st.phase == consilium.PhaseReleasing {
		r = reject(consilium.ErrRoundClosed, "round %d was the last", st.round)
	}
	return p, r
}

// header records that a hospital contributed to the open attempt. It holds
// only digests: a majority of nodes stored the bytes before this command was
// proposed, so a new leader can always read them.
//
// Another header of the same hospital fails with ErrConflictingContribution:
// counting both would count that cohort twice.
func (a *apply) header(st *study, m *consilium.Message, op *Post) (func(), *Rejection) {
	h, err := consilium.ParseHeader(m.Body)
	if err != nil {
		return nil, reject(consilium.ErrInvalid, "%w", err)
	}
	p, r := a.inRound(st, m, h.At)
	if r != nil {
		return nil, r
	}
	n := len(st.charter.Members)
	u := *op.Upload
	req := st.required()
	switch {
	case st.contributions[p-1] != nil:
		return nil, reject(consilium.ErrConflictingContribution, "%s, round %d attempt %d", m.By, h.Round, h.Attempt)
	case st.phase != consilium.PhaseContributing:
		return nil, reject(consilium.ErrRoundClosed, "the contributors of round %d attempt %d are proposed", h.Round, h.Attempt)
	case req != nil && !slices.Contains(req, p):
		// To its author the round is closed, which is no fault of its own: it
		// goes on voting and opening as a member.
		return nil, reject(consilium.ErrRoundClosed, "%w", consilium.ErrFrozen.Withf("%s is not among the contributors of the earlier sums", m.By))
	case req == nil && st.late >= lateGrace && st.charter.Operators(st.candidates()) >= st.charter.MinSites:
		return nil, reject(consilium.ErrRoundClosed, "the deadline of round %d has passed", h.Round)
	case h.State != st.state:
		return nil, reject(consilium.ErrInvalid, "the contribution builds on another state")
	case h.Sealing != consilium.SealingDigest(st.sealing):
		return nil, reject(consilium.ErrInvalid, "the contribution is dealt by other sealing keys than the round named")
	case len(h.Boxes) != n:
		return nil, reject(consilium.ErrInvalid, "%d boxes for %d hospitals", len(h.Boxes), n)
	case h.Size == 0 || u.Ciphertext.Size != h.Size || u.Ciphertext.Digest.IsZero() || u.Boxes.Digest.IsZero():
		return nil, reject(consilium.ErrInvalid, "the stored bytes are not those of the header")
	case u.Boxes.Size == 0 || u.Boxes.Size%uint64(n) != 0 || u.Boxes.Size/uint64(n) > consilium.MaxBoxSize:
		return nil, reject(consilium.ErrInvalid, "%d bytes are not %d boxes of equal length", u.Boxes.Size, n)
	case u.LogN == 0 || u.Bits == 0 || u.Lanes == 0 || int(u.Capacity) < n:
		return nil, reject(consilium.ErrInvalid, "the parameter set does not hold sums of %d hospitals", n)
	}
	if r := a.stored(u.Ciphertext, u.Boxes); r != nil {
		return nil, r
	}
	return func() {
		a.keep(u.Ciphertext, u.Boxes)
		st.contributions[p-1] = &contribution{
			header: consilium.HeaderDigest(m.Body), layout: h.Layout, ciphertext: h.Ciphertext, boxes: h.Boxes, upload: u,
		}
	}, nil
}

// stored refuses blobs that were collected a moment ago: the majority that
// held them when the command was proposed may hold them no more.
func (a *apply) stored(blobs ...BlobRef) *Rejection {
	for _, b := range blobs {
		if slices.Contains(a.collected, b.Digest) {
			return reject(consilium.ErrBlobMissing, "%s was collected", b.Digest.Short())
		}
	}
	return nil
}

// ack records which dealings a hospital found sound. It may say so in several
// messages; each adds to what it said before.
func (a *apply) ack(st *study, m *consilium.Message, _ *Post) (func(), *Rejection) {
	v, err := consilium.ParseAck(m.Body)
	if err != nil {
		return nil, reject(consilium.ErrInvalid, "%w", err)
	}
	p, r := a.inRound(st, m, v.At)
	if r != nil {
		return nil, r
	}
	if st.phase != consilium.PhaseContributing {
		return nil, reject(consilium.ErrRoundClosed, "the contributors of round %d attempt %d are proposed", v.Round, v.Attempt)
	}
	good := slices.Clone(st.acks[p-1])
	for _, g := range v.Good {
		if int(g.Position) > len(st.contributions) || st.contributions[g.Position-1] == nil || st.contributions[g.Position-1].header != g.Header {
			return nil, reject(consilium.ErrInvalid, "no contribution %s of position %d", g.Header.Short(), g.Position)
		}
		if st.unanswered(p, g.Position) {
			return nil, reject(consilium.ErrConflictingMessage, "%s has complained about this dealing", m.By)
		}
		if !slices.Contains(good, g.Position) {
			good = append(good, g.Position)
		}
	}
	if len(good) == len(st.acks[p-1]) {
		return nil, nil
	}
	slices.Sort(good)
	return func() { st.acks[p-1] = good }, nil
}

// complained reports whether a hospital complained about a dealer.
func (st *study) complained(by, dealer consilium.Position) bool {
	return slices.ContainsFunc(st.complaints, func(c complaint) bool { return c.by == by && c.dealer == dealer })
}

// unanswered reports whether it did and got no answer.
func (st *study) unanswered(by, dealer consilium.Position) bool {
	return slices.Contains(st.complaints, complaint{by: by, dealer: dealer})
}

// complaint records that a dealing is bad. It takes back the complaining
// hospital's acknowledgement.
func (a *apply) complaint(st *study, m *consilium.Message, _ *Post) (func(), *Rejection) {
	v, err := consilium.ParseComplaint(m.Body)
	if err != nil {
		return nil, reject(consilium.ErrInvalid, "%w", err)
	}
	p, r := a.inRound(st, m, v.At)
	if r != nil {
		return nil, r
	}
	if st.phase != consilium.PhaseContributing && st.phase != consilium.PhaseCertifying {
		return nil, reject(consilium.ErrRoundClosed, "the contributors of round %d attempt %d are certified", v.Round, v.Attempt)
	}
	i := slices.IndexFunc(st.contributions, func(k *contribution) bool { return k != nil && k.header == v.Header })
	dealer := consilium.Position(i + 1)
	switch {
	case i < 0:
		return nil, reject(consilium.ErrInvalid, "no contribution %s", v.Header.Short())
	case dealer == p:
		return nil, reject(consilium.ErrInvalid, "a complaint about one's own dealing")
	case st.complained(p, dealer):
		return nil, reject(consilium.ErrConflictingMessage, "%s has complained about this dealing", m.By)
	case !st.votes[p-1].IsZero() && st.inSet(dealer):
		return nil, reject(consilium.ErrConflictingMessage, "%s has voted for a set with this dealing", m.By)
	}
	return func() {
		st.complaints = append(slices.Clone(st.complaints), complaint{by: p, dealer: dealer})
		st.acks[p-1] = slices.DeleteFunc(slices.Clone(st.acks[p-1]), func(q consilium.Position) bool { return q == dealer })
	}, nil
}

func (st *study) inSet(p consilium.Position) bool {
	return slices.ContainsFunc(st.set, func(c consilium.Contributor) bool { return c.Position == p })
}

// objects reports whether p complained about a member of the proposed set and
// got no answer.
func (st *study) objects(p consilium.Position) bool {
	return slices.ContainsFunc(st.complaints, func(c complaint) bool { return c.by == p && !c.answered && st.inSet(c.dealer) })
}

// vote counts a hospital's one vote of the attempt.
func (a *apply) vote(st *study, m *consilium.Message, _ *Post) (func(), *Rejection) {
	v, err := consilium.ParseVote(m.Body)
	if err != nil {
		return nil, reject(consilium.ErrInvalid, "%w", err)
	}
	p, r := a.inRound(st, m, v.At)
	if r != nil {
		return nil, r
	}
	switch {
	case st.phase == consilium.PhaseContributing:
		return nil, wrongPhase(st, m.Kind)
	case !st.votes[p-1].IsZero():
		return nil, reject(consilium.ErrConflictingVote, "%s, round %d attempt %d", m.By, v.Round, v.Attempt)
	case v.Set != st.setDigest():
		return nil, reject(consilium.ErrInvalid, "a vote for a set that is not proposed")
	case st.objects(p), st.renounced[p-1] >= st.attempt:
		return nil, reject(consilium.ErrConflictingMessage, "%s has objected to this set or renounced the attempt", m.By)
	}
	return func() { st.votes[p-1] = v.Set }, nil
}

// renounce records a promise not to open in this round up to an attempt.
func (a *apply) renounce(st *study, m *consilium.Message, _ *Post) (func(), *Rejection) {
	v, err := consilium.ParseRenounce(m.Body)
	if err != nil {
		return nil, reject(consilium.ErrInvalid, "%w", err)
	}
	at := v.At
	if at.Round == st.round && at.Attempt < st.attempt {
		at.Attempt = st.attempt // an earlier attempt of the open round is in order here
	}
	p, r := a.inRound(st, m, at)
	if r != nil {
		return nil, r
	}
	if st.everOpened[p-1] {
		return nil, reject(consilium.ErrConflictingMessage, "%s has opened in this round", m.By)
	}
	if st.renounced[p-1] >= v.Attempt {
		return nil, nil
	}
	return func() { st.renounced[p-1] = v.Attempt }, nil
}

// opening records a hospital's opening share for the certified set.
func (a *apply) opening(st *study, m *consilium.Message, _ *Post) (func(), *Rejection) {
	v, err := consilium.ParseOpening(m.Body)
	if err != nil {
		return nil, reject(consilium.ErrInvalid, "%w", err)
	}
	p, r := a.inRound(st, m, v.At)
	if r != nil {
		return nil, r
	}
	switch {
	case st.phase != consilium.PhaseOpening && st.phase != consilium.PhaseUpdating:
		return nil, wrongPhase(st, m.Kind)
	case st.opened[p-1]:
		return nil, reject(consilium.ErrConflictingMessage, "%s has opened, round %d attempt %d", m.By, v.Round, v.Attempt)
	case v.Set != st.setDigest():
		return nil, reject(consilium.ErrInvalid, "an opening of a set that is not certified")
	case st.renounced[p-1] >= st.attempt:
		return nil, reject(consilium.ErrConflictingMessage, "%s has renounced this attempt", m.By)
	}
	return func() { st.opened[p-1], st.everOpened[p-1] = true, true }, nil
}

// recordSum records the aggregate of the certified set.
func (a *apply) recordSum(op *RecordSum) *Rejection {
	st, r := a.find(op.Study)
	if r != nil {
		return r
	}
	if st.phase != consilium.PhaseOpening && st.phase != consilium.PhaseUpdating {
		return reject(consilium.ErrWrongPhase, "no certified set waits for its sum")
	}
	if op.Set != st.setDigest() {
		return reject(consilium.ErrRoundClosed, "another set is certified")
	}
	if st.sum != nil {
		if *st.sum == op.Blob {
			return nil
		}
		return reject(consilium.ErrConflictingMessage, "another sum of this set is recorded")
	}
	if op.Blob.Digest.IsZero() || op.Blob.Size == 0 {
		return reject(consilium.ErrInvalid, "a sum without bytes")
	}
	if r := a.stored(op.Blob); r != nil {
		return r
	}
	a.keep(op.Blob)
	blob := op.Blob
	st.sum = &blob
	s := consilium.Summed{Set: op.Set, Blob: blob.Digest, Size: blob.Size}
	a.emit(st, consilium.EventSummed, s.Encode())
	a.advance(st)
	return nil
}

// stateVote records what a hospital says follows from the sum.
func (a *apply) stateVote(st *study, m *consilium.Message, _ *Post) (func(), *Rejection) {
	v, err := consilium.ParseStateVote(m.Body)
	if err != nil {
		return nil, reject(consilium.ErrInvalid, "%w", err)
	}
	p, r := a.inRound(st, m, v.At)
	if r != nil {
		return nil, r
	}
	switch {
	case st.phase != consilium.PhaseUpdating:
		return nil, wrongPhase(st, m.Kind)
	case st.outcomes[p-1].cast:
		return nil, reject(consilium.ErrConflictingVote, "%s, round %d attempt %d", m.By, v.Round, v.Attempt)
	case v.Set != st.setDigest():
		return nil, reject(consilium.ErrInvalid, "a statement about a set that is not certified")
	}
	return func() { st.outcomes[p-1] = outcome{true, v.Next, v.Done, v.Reject} }, nil
}

// sealedState records where laggards find the state that the last round
// certified.
func (a *apply) sealedState(st *study, m *consilium.Message, op *Post) (func(), *Rejection) {
	v, err := consilium.ParseSealedState(m.Body)
	if err != nil {
		return nil, reject(consilium.ErrInvalid, "%w", err)
	}
	p, r := a.member(st, m)
	if r != nil {
		return nil, r
	}
	last := st.round
	if st.phase != consilium.PhaseReleasing && last > 0 {
		last--
	}
	switch {
	case st.charterPayload == nil || v.Round > last:
		return nil, wrongPhase(st, m.Kind)
	case v.Charter != st.charterDigest || v.Position != p:
		return nil, reject(consilium.ErrInvalid, "a statement under another charter or position")
	case v.Round < last:
		return nil, reject(consilium.ErrRoundClosed, "round %d has closed since", last)
	case v.Attempt != st.closedAttempt || v.Next != st.state:
		return nil, reject(consilium.ErrInvalid, "not the state that round %d certified", last)
	case op.Blob.Digest != v.Blob || v.Blob.IsZero():
		return nil, reject(consilium.ErrInvalid, "the stored bytes are not those that the message names")
	case slices.ContainsFunc(st.sealed, func(s sealedState) bool { return s.by == p }):
		return nil, reject(consilium.ErrConflictingMessage, "%s has offered the state of round %d", m.By, last)
	}
	if r := a.stored(*op.Blob); r != nil {
		return nil, r
	}
	return func() {
		a.keep(*op.Blob)
		st.sealed = append(st.sealed, sealedState{p, *op.Blob})
	}, nil
}

// release records a hospital's decision on the opened result.
func (a *apply) release(st *study, m *consilium.Message, _ *Post) (func(), *Rejection) {
	v, err := consilium.ParseRelease(m.Body)
	if err != nil {
		return nil, reject(consilium.ErrInvalid, "%w", err)
	}
	p, r := a.here(st, m, v.At)
	if r != nil {
		return nil, r
	}
	switch {
	case st.phase != consilium.PhaseReleasing:
		return nil, wrongPhase(st, m.Kind)
	case st.releases[p-1].cast:
		return nil, reject(consilium.ErrConflictingMessage, "%s has decided on the release", m.By)
	case v.Allow && v.Result.IsZero():
		return nil, reject(consilium.ErrInvalid, "a release of nothing")
	}
	return func() { st.releases[p-1] = release{true, v.Allow, v.Result, v.Code} }, nil
}

// publish ends the study with its sealed result, once t hospitals allowed it.
func (a *apply) publish(st *study, m *consilium.Message, op *Post) (func(), *Rejection) {
	v, err := consilium.ParsePublish(m.Body)
	if err != nil {
		return nil, reject(consilium.ErrInvalid, "%w", err)
	}
	p, r := a.here(st, m, v.At)
	if r != nil {
		return nil, r
	}
	allowed := 0
	for _, rel := range st.releases {
		if rel.cast && rel.allow && rel.result == v.Result {
			allowed++
		}
	}
	own := st.releases[p-1]
	switch {
	case st.phase != consilium.PhaseReleasing || allowed < st.charter.Threshold:
		return nil, wrongPhase(st, m.Kind)
	case !own.allow || own.result != v.Result:
		return nil, reject(consilium.ErrForbidden, "%s did not allow this result", m.By)
	case op.Blob.Digest != v.Blob || v.Blob.IsZero():
		return nil, reject(consilium.ErrInvalid, "the stored bytes are not those that the message names")
	}
	if r := a.stored(*op.Blob); r != nil {
		return nil, r
	}
	return func() {
		a.keep(*op.Blob)
		body := v.Blob
		a.end(st, consilium.PhaseDone, consilium.EventDone, body[:], "", op.Blob)
	}, nil
}

// collect forgets garbage.
func (a *apply) collect(op *Collect) *Rejection {
	if len(op.Blobs) == 0 || len(op.Blobs) > MaxCollect {
		return reject(consilium.ErrInvalid, "%d blobs, want 1 to %d", len(op.Blobs), MaxCollect)
	}
	for i, d := range op.Blobs {
		if !slices.Contains(a.garbage, d) || slices.Contains(op.Blobs[:i], d) {
			return reject(consilium.ErrInvalid, "blob %s is not garbage", d.Short())
		}
	}
	a.garbage = slices.DeleteFunc(slices.Clone(a.garbage), func(d consilium.Digest) bool { return slices.Contains(op.Blobs, d) })
	collected := append(slices.Clone(a.collected), op.Blobs...)
	a.collected = collected[max(0, len(collected)-maxCollected):]
	return nil
}
