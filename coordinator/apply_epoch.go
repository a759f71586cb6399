package coordinator

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"consilium"
)

// A study goes into another epoch when a member leaves it, when the roster
// drops a member or gives it another key, or, in a learned study, when the
// roster names a hospital that the study asks and that was not there before. The
// round in flight is finished first if its set was certified; otherwise, and if
// it cannot be finished, N-t+f+1 members must leave the epoch without having
// opened in it. Hospitals count for themselves (consilium.Charter.Succeeds); what
// stands here asks them and keeps order.

// leaves records that a hospital takes no further part, for good. It reports
// false if that ended the study.
func (a *apply) leaves(st *study, site consilium.SiteID, how string) bool {
	if i, found := slices.BinarySearch(st.left, site); !found {
		st.left = slices.Insert(slices.Clone(st.left), i, site)
	}
	c := st.charter
	if st.charterPayload == nil {
		c = st.prior
	}
	if c == nil {
		return true
	}
	if p, ok := c.Position(site); ok && slices.Contains(st.frozen, p) {
		a.abort(st, how+" from an exact study: its part cannot be taken out of sums that are open")
		return false
	}
	return true
}

// rosterChanged holds a study against a new roster.
func (a *apply) rosterChanged(st *study, before *consilium.Roster) {
	if before == nil || st.phase == consilium.PhaseReleasing {
		return
	}
	if st.charterPayload == nil {
		// An enrolment under the roster before it, which hospitals no longer use.
		// Whoever has signed a charter signs no other one after the same epoch.
		if st.prior != nil && st.unsigned() {
			a.renew(st, st.round+1)
			a.advance(st)
		}
		return
	}
	var why []string
	for i := range st.charter.Members {
		m := &st.charter.Members[i]
		s, ok := a.roster.Site(m.Site)
		switch {
		case st.withdrawn[i]:
		case !ok:
			st.withdrawn[i] = true
			how := fmt.Sprintf("roster version %d revokes %s", a.roster.Version, m.Site)
			why = append(why, how)
			if !a.leaves(st, m.Site, how) {
				return
			}
		case s.Key != m.Key || s.Operator != m.Operator:
			why = append(why, fmt.Sprintf("roster version %d gives %s another key or operator", a.roster.Version, m.Site))
		}
	}
	for i := range a.roster.Sites {
		s := &a.roster.Sites[i]
		_, old := before.Site(s.ID)
		_, member := st.charter.Position(s.ID)
		if !old && !member && st.mayJoin(s.ID) {
			why = append(why, fmt.Sprintf("roster version %d adds %s", a.roster.Version, s.ID))
		}
	}
	if len(why) > 0 {
		st.renewal = strings.Join(why, "; ")
		a.advance(st)
	}
}

// mayJoin reports whether a hospital of the roster may be asked to enrol in
// the study's next epoch.
func (st *study) mayJoin(site consilium.SiteID) bool {
	if len(st.spec.only) > 0 && !slices.Contains(st.spec.only, site) || slices.Contains(st.left, site) {
		return false
	}
	if !st.spec.exact {
		return true
	}
	c := st.charter
	if st.charterPayload == nil {
		c = st.prior
	}
	_, member := c.Position(site)
	return member
}

// unsigned reports whether nobody has signed the charter that is being made.
func (st *study) unsigned() bool {
	return !slices.ContainsFunc(st.signed, func(d consilium.Digest) bool { return !d.IsZero() })
}

// canLeave reports whether enough members can still say that they have opened
// nothing in the open round.
func (a *apply) canLeave(st *study) bool {
	n := 0
	for i := range st.charter.Members {
		m := &st.charter.Members[i]
		if s, ok := a.roster.Site(m.Site); ok && s.Key == m.Key && !st.withdrawn[i] && !st.everOpened[i] {
			n++
		}
	}
	return n >= st.charter.ReleaseQuorum()
}

// stepRenewal asks the members to leave the epoch, once that is wanted and
// the open round is not about to be finished.
func (a *apply) stepRenewal(st *study) bool {
	if st.renewal == "" || st.charterPayload == nil || st.phase == consilium.PhaseReleasing || !a.canLeave(st) {
		return false
	}
	untouched := st.phase <= consilium.PhaseCertifying && !slices.Contains(st.everOpened, true)
	if !untouched && st.late == lateNot {
		return false
	}
	a.renew(st, st.round)
	return true
}

// renew asks for the next epoch, which begins with a round; or, where it is
// being made already, asks again.
func (a *apply) renew(st *study, first uint32) {
	blobs := st.blobs()
	if st.charterPayload != nil {
		if first > st.round { // nobody has opened in the round after this one
			st.everOpened = make([]bool, len(st.charter.Members))
		}
		st.prior, st.priorPayload, st.priorDigest = st.charter, st.charterPayload, st.charterDigest
		st.departed = make([]bool, len(st.charter.Members))
		st.epoch++
		st.tries = 0
		if st.frozenIn >= first { // by a certificate under which nothing opens any more
			st.frozen, st.frozenIn = nil, 0
		}
		st.round, st.attempt = first-1, 0
	}
	st.tries++
	st.draft, st.charterPayload, st.charter, st.charterDigest = nil, nil, nil, consilium.Digest{}
	st.revealed, st.signed, st.withdrawn, st.sealing, st.releases = nil, nil, nil, nil, nil
	st.pinned, st.rejected = nil, 0
	st.contributions, st.acks, st.votes, st.opened, st.outcomes, st.renounced, st.suspected = nil, nil, nil, nil, nil, nil, nil
	st.complaints, st.set, st.sum, st.stale, st.sealed, st.shown = nil, nil, nil, nil, nil, nil
	a.discard(blobs)
	team, ok := a.roster.Researcher(st.team)
	if !ok {
		a.abort(st, fmt.Sprintf("the team %s has left the roster", st.team))
		return
	}
	st.roster, st.teamKey, st.asked = a.rosterDigest, team.Sealing, a.askAgain(st)
	a.enter(st, consilium.PhaseEnrolling, st.spec.deadline)
	r := consilium.Renewal{Charter: st.priorDigest, Round: st.round + 1, State: st.state, Roster: st.roster, Try: st.tries, Reason: clip(st.renewal)}
	a.emit(st, consilium.EventRenewing, r.Encode())
}

func clip(s string) string { return s[:min(len(s), consilium.MaxReasonSize)] }

// askAgain lists the hospitals that may enrol in the next epoch. Those that
// may not, and were asked before, stay in the list as having declined, so that
// they see how the study ends.
func (a *apply) askAgain(st *study) []asked {
	var out []asked
	for i := range a.roster.Sites {
		s := &a.roster.Sites[i]
		may := st.mayJoin(s.ID)
		if may || st.askedSite(string(s.ID)) != nil {
			out = append(out, asked{id: s.ID, operator: s.Operator, key: s.Key, declined: !may})
		}
	}
	sort.Slice(out, func(i, k int) bool { return out[i].id < out[k].id })
	return out
}

// notReady says what the next epoch's draft waits for, or "".
func (st *study) notReady() string {
	if st.prior == nil {
		return ""
	}
	n := 0
	for _, gone := range st.departed {
		if gone {
			n++
		}
	}
	if q := st.prior.ReleaseQuorum(); n < q {
		return fmt.Sprintf("%d of %d hospitals have left epoch %d without having opened round %d", n, q, st.prior.Epoch, st.round+1)
	}
	var silent []string
	for _, p := range st.frozen {
		site := st.prior.Members[p-1].Site
		if s := st.askedSite(string(site)); s == nil || s.enrol == nil {
			silent = append(silent, string(site))
		}
	}
	if len(silent) > 0 {
		return "the contributors of the earlier sums have not enrolled again: " + strings.Join(silent, ", ")
	}
	return ""
}

// depart records that a member has left the epoch before.
func (a *apply) depart(st *study, m *consilium.Message, _ *Post) (func(), *Rejection) {
	v, err := consilium.ParseDepart(m.Body)
	if err != nil {
		return nil, reject(consilium.ErrInvalid, "%w", err)
	}
	if st.prior == nil || st.charterPayload != nil {
		return nil, wrongPhase(st, m.Kind)
	}
	p, ok := st.prior.Position(consilium.SiteID(m.By))
	if !ok {
		return nil, reject(consilium.ErrNotMember, "%s was not in epoch %d", m.By, st.prior.Epoch)
	}
	site, ok := a.roster.Site(consilium.SiteID(m.By))
	switch {
	case !ok || site.Key != st.prior.Members[p-1].Key:
		return nil, reject(consilium.ErrNotMember, "%s was in epoch %d with another key", m.By, st.prior.Epoch)
	case v.Charter != st.priorDigest || v.Position != p:
		return nil, reject(consilium.ErrInvalid, "a statement under another charter or position")
	case v.Round != st.round+1 || v.State != st.state:
		return nil, reject(consilium.ErrInvalid, "a departure before round %d; the next epoch begins with round %d", v.Round, st.round+1)
	case st.everOpened[p-1]:
		return nil, reject(consilium.ErrConflictingMessage, "%s has opened in round %d", m.By, v.Round)
	case st.departed[p-1]:
		return nil, reject(consilium.ErrConflictingMessage, "%s has left epoch %d", m.By, st.prior.Epoch)
	}
	return func() {
		st.departed = slices.Clone(st.departed)
		st.departed[p-1] = true
	}, nil
}

// beginEpoch opens the first round of a charter.
func (a *apply) beginEpoch(st *study) {
	first := st.charter.FirstRound()
	if st.prior != nil {
		var frozen []consilium.Position
		for _, p := range st.frozen {
			if q, ok := st.charter.Position(st.prior.Members[p-1].Site); ok {
				frozen = append(frozen, q)
			}
		}
		slices.Sort(frozen)
		st.frozen = frozen
		st.renewal, st.closedAttempt = "", 1 // the attempt that a handed over state names
	}
	a.open(st, first, 1)
	if st.roster != a.rosterDigest { // it changed while the charter was signed
		a.rosterChanged(st, a.roster)
	}
}
