package worker

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"consilium"
	"consilium/he/party"
	"consilium/internal/canon"
	"consilium/internal/hatch"
	"consilium/internal/seal"
)

// charterKey is where secrets.Sealing keeps the sealing key of the enrolment.
const charterKey = "charter"

// asked reports whether the board lets the study ask this hospital.
func (a *actor) asked() bool {
	r := a.rep
	if r.submission == nil || !r.admitted || !r.boardApproved(a.gate.cfg.Now()) {
		return false
	}
	only := r.spec.Sites.Only
	return len(only) == 0 || slices.Contains(only, a.gate.cfg.Site)
}

// pastTry reports whether this hospital has committed itself to a later try of the
// enrolment than the log is at: history is still being replayed, or a coordinator
// hides what came since. The later commitment's secret is neither given up for a try
// that is over nor revealed in it.
func (a *actor) pastTry() bool {
	have := a.sec.Enrol
	if have == nil {
		return false
	}
	var epoch, try uint32
	if v := a.rep.renewal; v != nil {
		epoch, try = a.rep.making(), v.Try
	}
	return have.Epoch > epoch || have.Epoch == epoch && have.Try > try
}

// enrol brings a study from its submission to its charter.
func (a *actor) enrol(ctx context.Context) error {
	r := a.rep
	if !a.asked() {
		return nil
	}
	if a.pastTry() {
		return nil
	}
	if v := r.renewal; v != nil && v.Roster != a.gate.rosterD {
		a.log.Info("the next epoch is made under another roster than this hospital has", "roster", v.Roster.Short())
		return nil
	}
	if ok, err := a.depart(ctx); err != nil || !ok {
		return err
	}
	decline, enrol := r.enrolSlot("decline"), r.enrolSlot("enrol")
	if a.posted[decline] || r.gone[a.gate.cfg.Site] {
		return nil
	}
	if _, declined := a.gate.journal.promise(a.study, decline); declined {
		return a.promise(ctx, decline, consilium.KindDecline, nil)
	}
	if charter := epochPrefix(r.making()) + "charter"; r.renewal != nil {
		if _, signed := a.gate.journal.promise(a.study, charter); signed {
			// This hospital has signed this epoch's charter and signs no other.
			return a.promise(ctx, charter, consilium.KindCharter, nil)
		}
	}
	if _, enrolled := a.gate.journal.promise(a.study, enrol); !enrolled {
		if r.renewal == nil {
			if a.held = a.gate.hold(); a.held > 0 {
				return nil // the others go on, and wait for us until their deadline
			}
		}
		if a.needs > 0 {
			// It did not fit the last time. The decision is taken again when it does.
			if ok, err := a.gate.memory.take(a.study, r.admittedAt, a.needs); err != nil || !ok {
				a.held = again
				return err
			}
		}
		log, err := a.gate.decisionLog()
		if err != nil {
			return err
		}
		reply, err := a.gate.cfg.Vault.Admit(ctx, hatch.AdmitRequest{
			Study: a.study, Submission: r.submitted, Approval: r.approved, Roster: a.gate.cfg.Roster.Payload, Log: log,
		})
		if err != nil {
			return err
		}
		if err := a.record(0, reply.Records); err != nil {
			return err
		}
		if !reply.Allow {
			return a.decline(ctx, reply.Decision, reply.Code, reply.Reason)
		}
		a.needs = max(reply.Memory, 1)
		switch ok, err := a.gate.memory.take(a.study, r.admittedAt, a.needs); {
		case err != nil:
			a.log.Warn("no memory for the study", "err", err)
			return a.decline(ctx, reply.Decision, string(consilium.ErrTooLarge.Code), consilium.ErrTooLarge.Msg)
		case !ok:
			a.log.Info("the study waits for memory", "bytes", a.needs)
			a.held = again
			return nil
		}
		if err := a.makeEnrolSecret(); err != nil {
			return err
		}
		return a.stale(a.promise(ctx, enrol, consilium.KindEnrol, func() ([]byte, error) {
			return a.enrolment(reply.Decision)
		}))
	}
	if err := a.promise(ctx, enrol, consilium.KindEnrol, nil); err != nil {
		return a.stale(err)
	}
	if r.draft == nil {
		return nil
	}
	p, ok := r.draft.Position(a.gate.cfg.Site)
	if !ok {
		return nil // left out: the study runs without this hospital
	}
	if signed := r.known[r.making()] != nil; !signed && (r.draft.Members[p-1].Key != a.gate.cfg.Signer.Public() || r.draft.Roster != a.gate.rosterD) {
		return fmt.Errorf("%w: the draft names another roster or key for this hospital", errForged)
	}
	if err := a.checkLineage(memberSites(r.draft, nil)); err != nil {
		return err
	}
	if err := a.reveal(ctx); err != nil {
		return err
	}
	if len(r.reveals) < len(r.draft.Members) {
		return nil
	}
	return a.signCharter(ctx, p)
}

// stale takes it that the coordinators have another roster by now: they ask
// again under that one.
func (a *actor) stale(err error) error {
	if a.rep.renewal == nil || !errors.Is(err, consilium.ErrStale) {
		return err
	}
	a.log.Info("the enrolment in the next epoch came under another roster", "err", err)
	return nil
}

func (a *actor) decline(ctx context.Context, decision consilium.Digest, code, reason string) error {
	a.log.Info("study declined", "code", code, "reason", reason)
	return a.promise(ctx, a.rep.enrolSlot("decline"), consilium.KindDecline, func() ([]byte, error) {
		d := &consilium.Decline{Study: a.study, Submission: consilium.DomainSubmission.Digest(a.rep.submitted), Decision: decision,
			Code: cut(code, 128), Reason: cut(reason, consilium.MaxReasonSize)}
		return d.Encode(), a.note(0, "decline", map[string]any{"code": d.Code, "reason": d.Reason, "decision": decision})
	})
}

func cut(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

// makeEnrolSecret makes what the enrolment commits to, durably, before the
// commitment is sent. If we crash before the promise, Open finds the secret and
// uses it.
func (a *actor) makeEnrolSecret() error {
	e := &enrolSecret{}
	if v := a.rep.renewal; v != nil {
		e.Epoch, e.Try = a.rep.making(), v.Try
	}
	if have := a.sec.Enrol; have != nil && have.Epoch == e.Epoch && have.Try == e.Try {
		return nil
	}
	a.gate.cfg.Crash("enrol/before-secret")
	key, err := seal.Generate()
	if err != nil {
		return err
	}
	kb, err := key.Bytes()
	if err != nil {
		return err
	}
	c, err := party.NewContribution()
	if err != nil {
		return err
	}
	if _, err := io.ReadFull(rand.Reader, e.Nonce[:]); err != nil {
		return err
	}
	e.Contribution = c.Secret()
	if e.Epoch == 0 {
		a.sec.Sealing[charterKey] = kb
	} else {
		e.Key = kb
	}
	a.sec.Enrol, a.sec.Memory = e, max(a.sec.Memory, a.needs)
	if err := a.gate.secrets.save(a.study, a.sec); err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	a.gate.cfg.Crash("enrol/after-secret")
	return nil
}

// enrolKey is the sealing key of the enrolment that is under way.
func (a *actor) enrolKey() (*seal.Key, error) {
	e := a.sec.Enrol
	if e == nil {
		return nil, consilium.ErrStale.Withf("the secret of this hospital's enrolment is gone")
	}
	if e.Epoch > 0 {
		return seal.Parse(e.Key)
	}
	return seal.Parse(a.sec.Sealing[charterKey])
}

func (a *actor) enrolment(decision consilium.Digest) ([]byte, error) {
	key, err := a.enrolKey()
	if err != nil {
		return nil, err
	}
	c, err := party.ParseContribution(a.sec.Enrol.Contribution)
	if err != nil {
		return nil, err
	}
	e := &consilium.Enrol{
		Study: a.study, Submission: consilium.DomainSubmission.Digest(a.rep.submitted), Roster: a.gate.rosterD,
		Sealing: key.Public(), Nonce: a.sec.Enrol.Nonce,
		Commitment: c.Commitment(a.study, a.gate.cfg.Site, a.sec.Enrol.Nonce), Decision: decision,
	}
	if a.rep.prior != nil {
		e.Previous = a.rep.prior.digest
	}
	return e.Encode(), a.note(0, "enrol", map[string]any{
		"team": a.rep.submission.Team, "submission": e.Submission, "decision": decision, "spec": consilium.SpecDigest(a.rep.submission.SpecBytes), "policy": a.rep.submission.Policy,
	})
}

// reveal hands every member this hospital's contribution to the group key.
// All commitments are in the draft by now, so no member can choose its own
// after seeing another's.
func (a *actor) reveal(ctx context.Context) error {
	return a.promise(ctx, a.rep.enrolSlot("reveal"), consilium.KindReveal, func() ([]byte, error) {
		if a.sec.Enrol == nil {
			return nil, consilium.ErrStale.Withf("the secret of this hospital's enrolment is gone")
		}
		draft := consilium.CharterDigest(a.rep.drafted)
		m := &consilium.Reveal{Draft: draft}
		for i, member := range a.rep.draft.Members {
			box, err := seal.Seal(member.Sealing, consilium.DomainSealedReveal, revealContext(draft, a.gate.cfg.Site, member.Site), a.sec.Enrol.Contribution)
			if err != nil {
				return nil, err
			}
			m.Boxes = append(m.Boxes, consilium.SealedBox{To: consilium.Position(i + 1), Sealed: box})
		}
		return m.Encode(), nil
	})
}

func revealContext(draft consilium.Digest, from, to consilium.SiteID) []byte {
	d := consilium.DomainSealedReveal.Digest(draft[:], []byte(from), []byte(to))
	return d[:]
}

// signCharter computes the group key from every member's contribution and
// signs the charter with its confirmation. Members that computed another key
// would sign other bytes, and the study would not start.
func (a *actor) signCharter(ctx context.Context, p consilium.Position) error {
	return a.promise(ctx, epochPrefix(a.rep.making())+"charter", consilium.KindCharter, func() ([]byte, error) {
		r := a.rep
		draft := consilium.CharterDigest(r.drafted)
		key, err := a.enrolKey()
		if err != nil {
			return nil, err
		}
		contributions := make([]*party.Contribution, len(r.draft.Members))
		for i, m := range r.draft.Members {
			box := r.reveals[consilium.Position(i+1)].Boxes[p-1]
			b, err := key.Open(consilium.DomainSealedReveal, revealContext(draft, m.Site, a.gate.cfg.Site), box.Sealed)
			if err != nil {
				return nil, consilium.ErrInvalid.Withf("the reveal of %s does not open", m.Site)
			}
			if contributions[i], err = party.ParseContribution(b); err != nil {
				return nil, err
			}
		}
		group, err := party.Combine(draft, r.draft, contributions)
		if err != nil {
			return nil, err
		}
		charter := *r.draft
		charter.Confirmation = group.Confirmation()
		if err := charter.Validate(); err != nil {
			return nil, consilium.ErrInvalid.With(err)
		}
		payload, err := canon.Marshal(&charter)
		if err != nil {
			return nil, err
		}
		a.gate.cfg.Crash("charter/before-secret")
		if a.sec.Enrol.Epoch > 0 {
			a.sec.Enrol.Group = group.Secret() // the epoch before is not over until all have signed
		} else {
			a.sec.Group, a.sec.Round = group.Secret(), 1
		}
		if err := a.gate.secrets.save(a.study, a.sec); err != nil {
			return nil, fmt.Errorf("%w: %w", errDisk, err)
		}
		return payload, a.note(0, "charter", map[string]any{"charter": consilium.CharterDigest(payload)})
	})
}

// start prepares the vault once the charter stands, and destroys what only
// the enrolment needed.
func (a *actor) start(ctx context.Context) error {
	if a.shape != nil {
		return nil
	}
	r := a.rep
	if r.position == 0 {
		return nil
	}
	roll, err := r.roll()
	if err != nil {
		return err
	}
	log, err := a.gate.decisionLog()
	if err != nil {
		return err
	}
	if a.begun = true; a.sec.Memory > 0 {
		a.gate.memory.keep(a.study, a.sec.Memory)
	}
	shape, err := a.gate.cfg.Vault.Start(ctx, hatch.StartRequest{
		Study: a.study, Charter: r.chartered, Submission: r.submitted, Approval: r.approved, Roster: a.gate.cfg.Roster.Payload, Position: r.position, Sites: roll, Log: log,
	})
	if err != nil {
		return err
	}
	switch {
	case a.sec.State == nil && a.sec.Round == 1:
		if a.sec.State, err = hatch.ReadState(ctx, a.gate.cfg.Vault, a.study, &shape); err != nil {
			return err
		}
		a.sec.Enrol = nil
		if err := a.gate.secrets.save(a.study, a.sec); err != nil {
			return fmt.Errorf("%w: %w", errDisk, err)
		}
	case a.sec.State == nil:
		// We crashed while catching up with rounds that closed without us, or
		// were not in the epoch before: reachRound goes on and finds the state.
	case a.sec.Round > 1:
		if shape, err = a.gate.cfg.Vault.Adopt(ctx, hatch.AdoptRequest{Study: a.study, Round: a.sec.Round - 1, State: a.sec.State}); err != nil {
			return err
		}
	}
	a.shape, a.moved = &shape, false
	return a.handOver()
}

// record writes the vault's records to the trail, before what they announce.
func (a *actor) record(round uint32, records []hatch.Record) error {
	for _, rec := range records {
		if err := a.note(round, rec.Type, json.RawMessage(rec.JSON)); err != nil {
			return err
		}
	}
	return nil
}

// memberSites lists the sites of some positions, or of all, ascending.
func memberSites(c *consilium.Charter, positions []consilium.Position) []consilium.SiteID {
	var out []consilium.SiteID
	if positions == nil {
		for i := range c.Members {
			out = append(out, c.Members[i].Site)
		}
		return sortedSites(out)
	}
	for _, p := range positions {
		if m := c.Member(p); m != nil {
			out = append(out, m.Site)
		}
	}
	return sortedSites(out)
}
