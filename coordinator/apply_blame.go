package coordinator

import (
	"slices"

	"consilium"
)

// Blame is the hospitals' to judge: what is answered and shown is sealed to
// their group. The coordinators keep order and count who has answered.

// answer records that a dealer answered a complaint.
func (a *apply) answer(st *study, m *consilium.Message, _ *Post) (func(), *Rejection) {
	v, err := consilium.ParseAnswer(m.Body)
	if err != nil {
		return nil, reject(consilium.ErrInvalid, "%w", err)
	}
	p, r := a.inRound(st, m, v.At)
	if r != nil {
		return nil, r
	}
	i := slices.IndexFunc(st.complaints, func(c complaint) bool { return c.by == v.To && c.dealer == p })
	switch {
	case st.phase != consilium.PhaseContributing && st.phase != consilium.PhaseCertifying:
		return nil, reject(consilium.ErrRoundClosed, "the contributors of round %d attempt %d are certified", v.Round, v.Attempt)
	case st.contributions[p-1] == nil || st.contributions[p-1].header != v.Header:
		return nil, reject(consilium.ErrInvalid, "no contribution %s of %s", v.Header.Short(), m.By)
	case i < 0:
		return nil, reject(consilium.ErrInvalid, "position %d has not complained about %s", v.To, m.By)
	case st.complaints[i].answered:
		return nil, reject(consilium.ErrConflictingMessage, "%s has answered position %d", m.By, v.To)
	}
	return func() {
		st.complaints = slices.Clone(st.complaints)
		st.complaints[i].answered = true
	}, nil
}

// afterReject checks that a statement is about the attempt that was rejected
// just before the open one.
func (a *apply) afterReject(st *study, m *consilium.Message, at consilium.At) (consilium.Position, *Rejection) {
	p, r := a.member(st, m)
	if r != nil {
		return 0, r
	}
	switch {
	case st.charterPayload == nil:
		return 0, wrongPhase(st, m.Kind)
	case at.Charter != st.charterDigest || at.Position != p:
		return 0, reject(consilium.ErrInvalid, "a statement under another charter or position")
	case st.phase == consilium.PhaseReleasing || at.Round < st.round:
		return 0, reject(consilium.ErrRoundClosed, "round %d has closed", at.Round)
	case st.rejected == 0 || at.Round != st.round || int(at.Attempt) != st.rejected || at.Attempt+1 != st.attempt:
		return 0, reject(consilium.ErrWrongPhase, "round %d attempt %d was not just rejected", at.Round, at.Attempt)
	}
	return p, nil
}

// suspect records whose opening shares a member finds odd.
func (a *apply) suspect(st *study, m *consilium.Message, _ *Post) (func(), *Rejection) {
	v, err := consilium.ParseSuspect(m.Body)
	if err != nil {
		return nil, reject(consilium.ErrInvalid, "%w", err)
	}
	p, r := a.afterReject(st, m, v.At)
	if r != nil {
		return nil, r
	}
	switch last := v.Accused[len(v.Accused)-1]; {
	case int(last) > len(st.charter.Members):
		return nil, reject(consilium.ErrInvalid, "position %d of %d members", last, len(st.charter.Members))
	case len(v.Accused) > st.charter.MaxAccused():
		return nil, reject(consilium.ErrInvalid, "%d hospitals are accused, at most %d may show their shares", len(v.Accused), st.charter.MaxAccused())
	case st.suspected[p-1]:
		return nil, reject(consilium.ErrConflictingMessage, "%s has named its suspects", m.By)
	}
	return func() {
		st.suspected = slices.Clone(st.suspected)
		st.suspected[p-1] = true
	}, nil
}

// show records where an accused hospital's shares are.
func (a *apply) show(st *study, m *consilium.Message, op *Post) (func(), *Rejection) {
	v, err := consilium.ParseShow(m.Body)
	if err != nil {
		return nil, reject(consilium.ErrInvalid, "%w", err)
	}
	p, r := a.afterReject(st, m, v.At)
	if r != nil {
		return nil, r
	}
	switch {
	case op.Blob.Digest != v.Blob || v.Blob.IsZero():
		return nil, reject(consilium.ErrInvalid, "the stored bytes are not those that the message names")
	case slices.ContainsFunc(st.shown, func(s sealedState) bool { return s.by == p }):
		return nil, reject(consilium.ErrConflictingMessage, "%s has shown its shares", m.By)
	}
	if r := a.stored(*op.Blob); r != nil {
		return nil, r
	}
	return func() {
		a.keep(*op.Blob)
		st.shown = append(slices.Clone(st.shown), sealedState{p, *op.Blob})
	}, nil
}
