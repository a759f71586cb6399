package coordinator

import (
	"fmt"
	"slices"
	"strings"

	"consilium"
)

// tick lets due deadlines happen. A deadline ends or delays; nothing is
// permitted because time passed.
func (a *apply) tick() {
	for _, st := range a.live() {
		if st.deadline == 0 || a.now < st.deadline {
			continue
		}
		st.deadline = 0
		switch {
		case st.waiting:
			a.abort(st, "stalled: "+st.reason)
			continue
		case st.phase == consilium.PhaseSubmitted:
			a.abort(st, "the submission expired before the study was admitted")
			continue
		}
		st.late++
		a.advance(st)
	}
}

// advance derives what follows from the state of a study until nothing does.
func (a *apply) advance(st *study) {
	for a.studies[st.id] == st && a.step(st) {
	}
}

// step derives one event or change, and reports whether it did.
func (a *apply) step(st *study) bool {
	if a.stepRenewal(st) {
		return true
	}
	switch st.phase {
	case consilium.PhaseAdmitted, consilium.PhaseEnrolling:
		return a.stepEnrolling(st)
	case consilium.PhaseContributing:
		return a.stepContributing(st)
	case consilium.PhaseCertifying:
		return a.stepCertifying(st)
	case consilium.PhaseOpening:
		return a.stepOpening(st)
	case consilium.PhaseUpdating:
		return a.stepUpdating(st)
	case consilium.PhaseReleasing:
		return a.stepReleasing(st)
	}
	return false
}

// miss waits for what is missing, or ends the study where it says so.
func (a *apply) miss(st *study, reason string) bool {
	if st.waiting {
		return false
	}
	if st.spec.missing == missingAbort {
		a.abort(st, reason)
	} else {
		a.wait(st, reason)
	}
	return true
}

func (a *apply) stepEnrolling(st *study) bool {
	if st.draft == nil {
		answered := !slices.ContainsFunc(st.asked, func(s asked) bool { return s.enrol == nil && !s.declined })
		if !answered && st.late == lateNot {
			return false
		}
		if missing := st.notReady(); missing != "" {
			return st.late > lateNot && a.miss(st, missing)
		}
		a.makeDraft(st)
		return true
	}
	if st.late == lateNot {
		return false
	}
	missing := st.positions(func(p consilium.Position) bool { return !st.revealed[p-1] })
	what := "the part of the group key"
	if len(missing) == 0 {
		missing = st.positions(func(p consilium.Position) bool { return st.signed[p-1].IsZero() })
		what = "the signature of the charter"
	}
	return a.miss(st, fmt.Sprintf("%s is missing from %s", what, st.names(missing)))
}

// complainers counts the active members that complained about a dealer, and
// those of them to whom it has not answered.
func (st *study) complainers(dealer consilium.Position) (all, unanswered int) {
	for _, c := range st.complaints {
		if c.dealer == dealer && !st.withdrawn[c.by-1] {
			all++
			if !c.answered {
				unanswered++
			}
		}
	}
	return all, unanswered
}

// hopeless reports whether a contribution can no longer be proposed in this
// attempt. More than f complaints hold at least one honest one, answered or
// not. And from the deadline on a dealer that did not answer leaves the set;
// only where the set is bound does it stay, as long as t hospitals can open it.
func (st *study) hopeless(dealer consilium.Position) bool {
	all, unanswered := st.complainers(dealer)
	if all > st.charter.Faults {
		return true
	}
	return unanswered > 0 && st.late > lateNot && (st.required() == nil || st.active()-unanswered < st.charter.Threshold)
}

// disputed reports whether a dealer may still answer a complaint.
func (st *study) disputed(dealer consilium.Position) bool {
	_, unanswered := st.complainers(dealer)
	return unanswered > 0 && st.late == lateNot
}

// complaintsText says who complained about whom: the log knows the pair, not
// which of the two is at fault.
func (st *study) complaintsText(dealers []consilium.Position) string {
	var out []string
	for _, c := range st.complaints {
		if slices.Contains(dealers, c.dealer) {
			text := fmt.Sprintf("%s complained about the dealing of %s", st.charter.Members[c.by-1].Site, st.charter.Members[c.dealer-1].Site)
			if !c.answered {
				text += ", which did not answer"
			}
			out = append(out, text)
		}
	}
	return strings.Join(out, "; ")
}

// acknowledged reports whether m found dealer's dealing sound. A dealer holds
// its own.
func (st *study) acknowledged(m, dealer consilium.Position) bool {
	return m == dealer || slices.Contains(st.acks[m-1], dealer)
}

// shape is what contributions must share to be summed.
type shape struct {
	layout     consilium.Digest
	size       uint64
	logN, bits uint8
	capacity   uint16
	lanes      uint64
}

func (k *contribution) shape() shape {
	u := k.upload
	return shape{k.layout, u.Ciphertext.Size, u.LogN, u.Bits, u.Capacity, u.Lanes}
}

// candidates lists the members whose contributions may be proposed: not
// withdrawn, not hopeless, and of the shape that most share, on a tie the one
// of the lowest position. A dishonest hospital that comes first with a strange
// shape shuts nobody out.
func (st *study) candidates() []consilium.Position {
	all := st.positions(func(p consilium.Position) bool { return st.contributions[p-1] != nil && !st.hopeless(p) })
	var best []consilium.Position
	for i, p := range all {
		sh := st.contributions[p-1].shape()
		if slices.ContainsFunc(all[:i], func(q consilium.Position) bool { return st.contributions[q-1].shape() == sh }) {
			continue
		}
		group := slices.DeleteFunc(slices.Clone(all), func(q consilium.Position) bool { return st.contributions[q-1].shape() != sh })
		if len(group) > len(best) {
			best = group
		}
	}
	return best
}

// covered counts the active members that found every dealing of a set sound.
func (st *study) covered(set []consilium.Position) int {
	return len(st.positions(func(m consilium.Position) bool {
		return !slices.ContainsFunc(set, func(p consilium.Position) bool { return !st.acknowledged(m, p) })
	}))
}

// choose returns the contributor set to propose now, or nil.
//
// Before the deadline: everybody who is expected has contributed, and t
// members found every dealing sound. After it: the same with those who came.
// After the grace: those whose dealings t members each found sound. A round
// that is bound to a set takes exactly that set, at any time.
func (st *study) choose() []consilium.Position {
	set := st.candidates()
	if slices.ContainsFunc(set, st.disputed) {
		return nil // the dealer answers, or leaves the set at the deadline
	}
	if req := st.required(); req != nil {
		if !slices.Equal(set, req) {
			return nil
		}
	} else if st.late == lateNot {
		if len(st.positions(func(p consilium.Position) bool { return st.contributions[p-1] == nil })) > 0 {
			return nil
		}
	}
	if st.covered(set) < st.charter.Threshold {
		if st.required() != nil || st.late < lateWaiting {
			return nil
		}
		set = slices.DeleteFunc(set, func(p consilium.Position) bool {
			return len(st.positions(func(m consilium.Position) bool { return st.acknowledged(m, p) })) < st.charter.Threshold
		})
	}
	if len(set) == 0 || st.charter.Operators(set) < st.charter.MinSites {
		return nil
	}
	return set
}

func (a *apply) stepContributing(st *study) bool {
	if set := st.choose(); set != nil {
		for _, p := range set {
			st.set = append(st.set, consilium.Contributor{Position: p, Header: st.contributions[p-1].header})
		}
		a.enter(st, consilium.PhaseCertifying, st.spec.deadline)
		a.emit(st, consilium.EventProposed, st.contributors().Encode())
		return true
	}
	contributed := st.positions(func(p consilium.Position) bool { return st.contributions[p-1] != nil })
	bad := slices.DeleteFunc(slices.Clone(contributed), func(p consilium.Position) bool { return !st.hopeless(p) })
	if req := st.required(); req != nil {
		missing := slices.DeleteFunc(slices.Clone(req), func(p consilium.Position) bool { return slices.Contains(contributed, p) })
		switch {
		case len(bad) > 0:
			a.retry(st, st.complaintsText(bad))
			return true
		case len(missing) > 0 && st.late >= lateGrace:
			return a.miss(st, "no contribution from "+st.names(missing))
		case len(missing) == 0 && len(st.candidates()) < len(req):
			a.retry(st, "the contributions do not have one shape")
			return true
		}
	} else if st.late >= lateGrace && st.charter.Operators(st.candidates()) < st.charter.MinSites {
		if st.charter.Operators(contributed) >= st.charter.MinSites && len(bad) > 0 {
			a.retry(st, st.complaintsText(bad))
			return true
		}
		return a.miss(st, fmt.Sprintf("too few sites: contributions from %d operators, min_sites is %d; none from %s",
			st.charter.Operators(contributed), st.charter.MinSites,
			st.names(st.positions(func(p consilium.Position) bool { return st.contributions[p-1] == nil }))))
	}
	switch {
	case st.late == lateGrace && st.deadline == 0:
		// The deadline has passed and enough are here, but not yet
		// acknowledged by t: one more deadline for that.
		st.deadline = a.now + st.spec.deadline
	case st.late >= lateWaiting && !st.waiting:
		return a.miss(st, fmt.Sprintf("fewer than %d hospitals acknowledged the contributions of %s", st.charter.Threshold, st.names(contributed)))
	}
	return false
}

func (a *apply) stepCertifying(st *study) bool {
	votes := 0
	for _, v := range st.votes {
		if !v.IsZero() {
			votes++
		}
	}
	t := st.charter.Threshold
	if votes >= t {
		if st.spec.exact && st.frozen == nil {
			st.frozen, st.frozenIn = st.setPositions(), st.round
		}
		// From the first certification on, hospitals may have opened and are
		// locked: later attempts of the round are for the same members.
		st.pinned = st.setPositions()
		d := st.setDigest()
		a.enter(st, consilium.PhaseOpening, st.spec.deadline)
		a.emit(st, consilium.EventCertified, d[:])
		return true
	}
	// Until the deadline an objection may still be answered by its dealer.
	objecting := st.positions(func(p consilium.Position) bool {
		return st.votes[p-1].IsZero() && (st.objects(p) && st.late > lateNot || st.renounced[p-1] >= st.attempt)
	})
	var gone []consilium.Position
	for _, c := range st.set {
		if st.withdrawn[c.Position-1] {
			gone = append(gone, c.Position)
		}
	}
	can := len(st.positions(func(p consilium.Position) bool { return st.votes[p-1].IsZero() })) - len(objecting)
	if unreachable := votes+can < t; unreachable || st.late > lateNot && len(objecting)+len(gone) > 0 {
		var why []string
		if len(objecting) > 0 {
			why = append(why, st.names(objecting)+" objected")
		}
		if len(gone) > 0 {
			why = append(why, st.names(gone)+" withdrew")
		}
		if len(why) > 0 {
			a.retry(st, strings.Join(why, "; "))
			return true
		}
	}
	if st.late > lateNot {
		return a.miss(st, fmt.Sprintf("%d of %d votes for the contributors; none from %s", votes, t,
			st.names(st.positions(func(p consilium.Position) bool { return st.votes[p-1].IsZero() }))))
	}
	return false
}

func (a *apply) stepOpening(st *study) bool {
	opened := 0
	for _, o := range st.opened {
		if o {
			opened++
		}
	}
	if opened >= st.charter.Threshold && st.sum != nil {
		a.enter(st, consilium.PhaseUpdating, st.spec.deadline)
		return true
	}
	if st.released() {
		// Nobody can ever open this attempt: the members that are locked to it
		// are free, and the round begins again with whoever contributes.
		st.pinned = nil
		if st.frozenIn == st.round {
			st.frozen, st.frozenIn = nil, 0
		}
		a.retry(st, "the lock is released: "+st.names(st.positions(func(p consilium.Position) bool { return st.renounced[p-1] >= st.attempt }))+" renounced")
		return true
	}
	if st.late > lateNot {
		if opened < st.charter.Threshold {
			return a.miss(st, fmt.Sprintf("%d of %d opening shares; none from %s", opened, st.charter.Threshold,
				st.names(st.positions(func(p consilium.Position) bool { return !st.opened[p-1] }))))
		}
		return a.miss(st, "the coordinator has not yet added up the contributions")
	}
	return false
}

// released reports whether N - t + f + 1 members promised never to open this
// attempt. At least N - t + 1 of them are honest, so t shares never come
// together. A member that withdrew has promised as well as any other.
func (st *study) released() bool {
	n := 0
	for _, r := range st.renounced {
		if r >= st.attempt {
			n++
		}
	}
	return n >= st.charter.ReleaseQuorum()
}

// tally finds the outcome that most hospitals state, and who states another.
// On a tie the one of the lowest position wins; below t that names nobody
// guilty, it only describes the split.
func (st *study) tally() (best outcome, votes int, dissent []consilium.Position) {
	for _, o := range st.outcomes {
		if !o.cast {
			continue
		}
		n := 0
		for _, other := range st.outcomes {
			if other == o {
				n++
			}
		}
		if n > votes {
			best, votes = o, n
		}
	}
	for i, o := range st.outcomes {
		if o.cast && o != best {
			dissent = append(dissent, consilium.Position(i+1))
		}
	}
	return best, votes, dissent
}

func (a *apply) stepUpdating(st *study) bool {
	best, votes, dissent := st.tally()
	t := st.charter.Threshold
	silent := st.positions(func(p consilium.Position) bool { return !st.outcomes[p-1].cast })
	switch {
	case votes >= t && best.reject:
		if st.rejected != 0 {
			a.abort(st, fmt.Sprintf("spoiled: the aggregate of round %d was rejected twice; contributors: %s", st.round, st.names(st.setPositions())))
		} else {
			st.rejected = int(st.attempt)
			a.retry(st, "the aggregate was rejected")
		}
		return true
	case votes >= t:
		a.closeRound(st, best)
		return true
	case votes+len(silent) < t:
		a.abort(st, fmt.Sprintf("divergent: no %d hospitals agree on the state after round %d; %d agree, against them %s", t, st.round, votes, st.names(dissent)))
		return true
	case st.late > lateNot:
		return a.miss(st, fmt.Sprintf("%d of %d equal statements about the next state; none from %s", votes, t, st.names(silent)))
	}
	return false
}

// closeRound ends the round with the state that t hospitals certified and
// opens the next, or the release.
func (a *apply) closeRound(st *study, o outcome) {
	blobs := st.blobs()
	for _, c := range st.set {
		st.sealing = slices.Clone(st.sealing)
		st.sealing[c.Position-1] = c.Header
	}
	st.state, st.closedAttempt = o.next, st.attempt
	st.pinned, st.rejected = nil, 0
	st.contributions = make([]*contribution, len(st.contributions))
	st.sum, st.stale, st.sealed, st.shown = nil, nil, nil, nil
	a.discard(blobs)
	next := o.next
	if o.done {
		a.enter(st, consilium.PhaseReleasing, st.spec.deadline)
		a.emit(st, consilium.EventClosed, next[:])
		a.emit(st, consilium.EventReleasing, nil)
		return
	}
	if st.waiting { // resumed before it closes
		a.enter(st, st.phase, 0)
	}
	a.emit(st, consilium.EventClosed, next[:])
	if int(st.round) >= st.spec.rounds {
		// What the board approved is so many sums and no more, whatever an
		// analysis would like.
		a.abort(st, fmt.Sprintf("round %d was the last that the study declares (rounds.max) and its analysis has not ended", st.round))
		return
	}
	if st.renewal != "" {
		a.renew(st, st.round+1)
		return
	}
	a.open(st, st.round+1, 1)
}

func (a *apply) stepReleasing(st *study) bool {
	t, n := st.charter.Threshold, len(st.charter.Members)
	var refused []string
	best, gone := 0, 0
	silent := st.positions(func(p consilium.Position) bool { return !st.releases[p-1].cast })
	for i, r := range st.releases {
		switch {
		case r.cast && !r.allow:
			refused = append(refused, fmt.Sprintf("%s (%s)", st.charter.Members[i].Site, r.code))
		case !r.cast && st.withdrawn[i]:
			gone++
		case r.cast:
			same := 0
			for _, other := range st.releases {
				if other.cast && other.allow && other.result == r.result {
					same++
				}
			}
			best = max(best, same)
		}
	}
	switch {
	case len(refused) > 0 && len(refused)+gone > n-t:
		a.abort(st, "release refused by "+strings.Join(refused, ", "))
		return true
	case best+len(silent) < t:
		a.abort(st, fmt.Sprintf("divergent: no %d hospitals agree on the result; %d agree", t, best))
		return true
	case st.late > lateNot && best < t:
		return a.miss(st, fmt.Sprintf("%d of %d releases; none from %s", best, t, st.names(silent)))
	case st.late > lateNot:
		return a.miss(st, "no hospital that allowed the release has handed over the result")
	}
	return false
}
