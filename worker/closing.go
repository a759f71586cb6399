package worker

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"consilium"
	"consilium/he/party"
	"consilium/internal/blob"
	"consilium/internal/hatch"
	"consilium/internal/seal"
	"consilium/provenance"
)

// rankDelay is how long each further member waits before it does what one
// member is enough for: leaving the sealed state, publishing the result.
const rankDelay = 3 * time.Second

// settle brings this hospital past a closed round: the certified next state,
// which it computed itself or takes from the sealed state that another member
// left, is durable in secrets.Next, and the vault knows. A positive duration
// means that the sealed state is not there yet.
func (a *actor) settle(ctx context.Context, rd *round) (time.Duration, error) {
	group, err := party.ParseGroupKey(a.sec.Group)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errDisk, err)
	}
	if a.sec.Next != nil && group.Salted(consilium.DomainState, a.sec.Next) != rd.next {
		a.log.Error("this hospital's state is not the certified one", "round", rd.opened.Round)
		a.sec.Next = nil
	}
	if a.sec.Next == nil {
		state, err := a.anyState(ctx, group, rd)
		if err != nil {
			return 0, err
		}
		if state == nil {
			return 2 * time.Second, nil
		}
		a.log.Info("caught up from the sealed state", "round", rd.opened.Round)
		a.sec.Next = state
		if err := a.gate.secrets.save(a.study, a.sec); err != nil {
			return 0, fmt.Errorf("%w: %w", errDisk, err)
		}
	}
	if a.told < rd.opened.Round {
		if _, in := rd.proposed.Has(a.rep.position); in {
			if err := a.gate.cfg.Vault.Opened(ctx, a.study, rd.opened.Round); err != nil {
				return 0, err
			}
		}
		a.told = rd.opened.Round
	}
	return 0, a.prepareOffer(rd, group)
}

// offer is a certified state that this hospital may have to leave, sealed to
// the group of its round, for members that missed the round.
type offer struct {
	at      consilium.At
	next    consilium.Digest
	sealed  []byte
	since   time.Time
	signers []consilium.Position
	slot    string
}

// prepareOffer seals the state while the round's key still exists.
func (a *actor) prepareOffer(rd *round, group *party.GroupKey) error {
	if a.offer != nil && a.offer.at.Round == rd.opened.Round || a.enoughOffers(rd.opened.Round) {
		return nil
	}
	o := &offer{
		at:   consilium.At{Charter: a.rep.digest, Round: rd.opened.Round, Attempt: rd.opened.Attempt, Position: a.rep.position},
		next: rd.next, since: a.gate.cfg.Now(), slot: a.slot("sealed", rd.opened), signers: rd.signers,
	}
	var err error
	o.sealed, err = group.SealState(o.at, a.sec.Next)
	a.offer = o
	return err
}

// enoughOffers reports whether f + 1 members have left their sealed state: one
// of them is honest, whatever the others left.
func (a *actor) enoughOffers(round uint32) bool {
	return len(a.rep.offered[round]) > a.rep.charter.Faults
}

// anyState is the certified state out of the first sealed one that opens to it.
// A damaged one is passed over: who left it is named, and the digest that t
// members signed decides. nil means that none is there yet.
func (a *actor) anyState(ctx context.Context, group *party.GroupKey, rd *round) ([]byte, error) {
	var last error
	for _, o := range a.rep.offered[rd.opened.Round] {
		if o.Next != rd.next || a.badOffer[o.Blob] {
			continue
		}
		state, err := a.fetchState(ctx, group, o)
		switch {
		case err == nil:
			return state, nil
		case retryable(err) || ctx.Err() != nil:
			last = err // the coordinator may find it yet; meanwhile the next one
		default:
			by := a.rep.charter.Members[o.Position-1].Site
			a.log.Warn("bad sealed state", "round", o.Round, "by", string(by), "err", err)
			if a.badOffer == nil {
				a.badOffer = map[consilium.Digest]bool{}
			}
			a.badOffer[o.Blob] = true
			if err := a.note(o.Round, "bad-state", map[string]any{"by": by}); err != nil {
				return nil, err
			}
		}
	}
	return nil, last
}

// leaveState hands over the sealed state when it is this hospital's turn: the
// members that signed the state go one after the other until f + 1 have done it.
func (a *actor) leaveState(ctx context.Context) (time.Duration, error) {
	o := a.offer
	if o == nil || a.enoughOffers(o.at.Round) {
		return 0, nil
	}
	wait, ok := a.turnOf(o.signers, o.since, a.rep.charter.Faults+1)
	if !ok || wait > 0 {
		return max(wait, 0), nil
	}
	if _, done := a.gate.journal.promise(a.study, o.slot); done {
		return 0, a.promise(ctx, o.slot, consilium.KindSealedState, nil)
	}
	d, err := a.putBlob(ctx, o.sealed)
	if err != nil {
		return 0, err
	}
	return 0, a.promise(ctx, o.slot, consilium.KindSealedState, func() ([]byte, error) {
		s := &consilium.SealedState{At: o.at, Next: o.next, Blob: d}
		return s.Encode(), nil
	})
}

// turnOf is how long this hospital lets members of lower rank go before it; the
// first few go at once.
func (a *actor) turnOf(members []consilium.Position, since time.Time, first int) (time.Duration, bool) {
	i := slices.Index(members, a.rep.position)
	if i < 0 {
		return 0, false
	}
	return since.Add(time.Duration(max(i-first+1, 0)) * rankDelay).Sub(a.gate.cfg.Now()), true
}

// A state holds what was opened and what follows from it: of each summed lane,
// which took more than two bytes of a contribution, a few numbers of eight. So a
// sealed state is bounded by what the hospitals contributed, which this hospital
// knows from headers that t members voted for, and not by who left it.
const (
	leastState = 16 << 20
	mostState  = 1 << 31
)

// stateLimit is the length of the longest sealed state that this hospital reads.
func (a *actor) stateLimit() int64 {
	limit := uint64(leastState) + 16*min(a.rep.volume, mostState) + 2*uint64(len(a.sec.State)) + party.StateOverhead
	return int64(min(limit, mostState))
}

// fetchState reads a sealed state and checks it against the certified digest.
func (a *actor) fetchState(ctx context.Context, group *party.GroupKey, offer *consilium.SealedState) ([]byte, error) {
	src, err := a.gate.cfg.Coordinator.Fetch(ctx, offer.Blob, 0, 0)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	limit := a.stateLimit()
	sealed, err := io.ReadAll(io.LimitReader(src, limit+1))
	if err != nil {
		return nil, consilium.ErrUnavailable.With(err)
	}
	if int64(len(sealed)) > limit {
		return nil, consilium.ErrInvalid.Withf("a sealed state of round %d of more than %d bytes", offer.Round, limit)
	}
	if blob.Sum(sealed) != offer.Blob {
		return nil, otherBytes(offer.Blob)
	}
	at := offer.At
	at.Position = a.rep.position
	state, err := group.OpenState(at, sealed)
	if err != nil {
		return nil, err
	}
	if group.Salted(consilium.DomainState, state) != offer.Next {
		return nil, consilium.ErrInvalid.Withf("the sealed state of round %d is not the certified one", offer.Round)
	}
	return state, nil
}

// release decides on the opened result, signs the decision, and takes its
// turn at handing the result to the team.
func (a *actor) release(ctx context.Context, group *party.GroupKey) (time.Duration, error) {
	r, rd := a.rep, a.rep.round
	if a.result == nil {
		// The vault may have an older state, if another process opened the last
		// round.
		if _, err := a.gate.cfg.Vault.Adopt(ctx, hatch.AdoptRequest{Study: a.study, Round: rd.opened.Round, State: a.sec.Next}); err != nil {
			return 0, err
		}
		reply, err := a.gate.cfg.Vault.Release(ctx, hatch.ReleaseRequest{Study: a.study, Contributors: rd.proposed.Positions(), Rounds: rd.opened.Round})
		if err != nil {
			return 0, err
		}
		a.result = &reply
	}
	envelope, err := resultEnvelope(a.result)
	if err != nil {
		return 0, err
	}
	digest := group.Salted(consilium.DomainResult, envelope)
	if _, ok := a.gate.journal.promise(a.study, "release"); !ok {
		if err := a.record(rd.opened.Round, a.result.Records); err != nil {
			return 0, err
		}
	}
	err = a.promise(ctx, "release", consilium.KindRelease, func() ([]byte, error) {
		m := &consilium.Release{At: r.at(r.position), Result: digest, Decision: a.result.Decision, Allow: a.result.Allow}
		if !m.Allow {
			m.Code, m.Reason = cut(a.result.Code, 128), cut(a.result.Reason, consilium.MaxReasonSize)
			if m.Code == "" {
				m.Code = string(consilium.ErrPolicy.Code)
			}
		}
		return m.Encode(), a.note(rd.opened.Round, "release", map[string]any{
			"result": digest, "decision": m.Decision, "allow": m.Allow, "code": m.Code,
		})
	})
	if err != nil {
		return 0, err
	}
	agreed, signers := r.released()
	if signers == nil || r.published != nil {
		return 0, nil
	}
	if agreed != digest {
		a.log.Error("this hospital's result is not the released one")
		return 0, nil
	}
	if a.releasedAt.IsZero() {
		a.releasedAt = a.gate.cfg.Now()
	}
	wait, ok := a.turnOf(signers, a.releasedAt, 1)
	if !ok || wait > 0 {
		return max(wait, 0), nil
	}
	if _, done := a.gate.journal.promise(a.study, "publish"); done {
		return 0, a.promise(ctx, "publish", consilium.KindPublish, nil)
	}
	// The salt goes along, so that the team can check the digest that t
	// hospitals signed.
	salt := group.Salt(consilium.DomainResult)
	sealed, err := seal.Seal(r.charter.TeamKey, consilium.DomainTeamEnvelope, r.digest[:], append(salt[:], envelope...))
	if err != nil {
		return 0, err
	}
	d, err := a.putBlob(ctx, sealed)
	if err != nil {
		return 0, err
	}
	return 0, a.promise(ctx, "publish", consilium.KindPublish, func() ([]byte, error) {
		m := &consilium.Publish{At: r.at(r.position), Result: digest, Blob: d}
		return m.Encode(), nil
	})
}

// resultEnvelope is what the team receives: the result and its files in one
// encoding, so that t hospitals sign the same bytes.
func resultEnvelope(reply *hatch.ReleaseReply) ([]byte, error) {
	env := consilium.ResultEnvelope{Result: reply.Result}
	names := make([]string, 0, len(reply.Files))
	for name := range reply.Files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		env.Files = append(env.Files, consilium.ResultFile{Name: name, Content: reply.Files[name]})
	}
	return env.Encode()
}

// anchorTrail enters the head of this hospital's trail into its own ledger:
// from then on no entry of the trail can be changed unnoticed.
func (a *actor) anchorTrail(ctx context.Context) error {
	entry, err := provenance.SignRecord(a.gate.cfg.Signer, &provenance.AuditRecord{
		Type: provenance.RecordAccess, Time: a.gate.cfg.Now().UnixMilli(), Actor: string(a.gate.cfg.Site), Study: a.study, Outcome: "trail",
		Digests: map[string]consilium.Digest{"trail": a.gate.trail.Head()},
	})
	if err != nil {
		return err
	}
	_, err = a.gate.cfg.Ledger.Append(ctx, entry)
	return err
}
