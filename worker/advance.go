package worker

import (
	"context"
	"fmt"
	"time"

	"consilium"
	"consilium/he/party"
	"consilium/internal/hatch"
)

// advance does everything that is owed now and returns how long it may be
// left alone; 0 means until the next event.
func (a *actor) advance(ctx context.Context) (time.Duration, error) {
	if err := a.gate.Stale(); err != nil {
		switch {
		case a.rep.enrols[a.gate.cfg.Site] != nil || a.rep.charter != nil:
			return 0, err
		case a.asked():
			return 0, a.decline(ctx, consilium.Digest{}, string(consilium.ErrStale.Code), consilium.ErrStale.Msg)
		}
		return 0, nil
	}
	if a.rep.mixed != nil && a.rep.charter == nil {
		return 0, a.rep.mixed
	}
	a.held = 0
	if a.rep.charter == nil {
		err := a.enrol(ctx)
		return a.held, err
	}
	if epoch := a.rep.charter.Epoch; a.sec.epochOf() > epoch || a.hasLeft(epoch) {
		a.log.Warn("the log is behind this hospital, which has left the epoch", "epoch", epoch)
		return time.Minute, nil
	}
	if err := a.cross(); err != nil {
		return 0, err
	}
	if a.rep.position == 0 {
		return 0, nil // a charter without this hospital
	}
	if a.rep.charter.Members[a.rep.position-1].Key != a.gate.cfg.Signer.Public() {
		return 0, nil // it was a member with another key, and waits for the next epoch
	}
	if a.sec.Group == nil {
		return 0, consilium.ErrStale.Withf("the group key of this study is gone from the hospital's disk")
	}
	if err := a.start(ctx); err != nil {
		return 0, err
	}
	if a.rep.round == nil {
		return 0, nil
	}
	if wait, err := a.reachRound(ctx); err != nil || wait > 0 {
		return wait, err
	}
	rd := a.rep.round
	if rd.closed {
		return a.afterClose(ctx, rd)
	}
	if rd.rejected {
		return 0, nil // the leader opens the one retry or aborts
	}
	if err := a.prepare(); err != nil {
		return 0, err
	}
	if err := a.join(ctx); err != nil {
		return 0, err
	}
	// Looking into a rejected sum holds nothing up: what somebody withholds from
	// it must not stop this hospital's part in the attempt that is open.
	var look time.Duration
	if err := a.blame(ctx); retryable(err) {
		a.log.Warn("looking into the rejected sum: will try again", "err", err)
		look = 2 * time.Second
	} else if err != nil {
		return 0, err
	}
	if err := a.contribute(ctx); err != nil {
		return 0, err
	}
	wait, err := a.acknowledge(ctx)
	if err != nil {
		return 0, err
	}
	wait = soonest(wait, look)
	if err := a.vote(ctx); err != nil {
		return 0, err
	}
	if err := a.openSum(ctx); err != nil {
		return 0, err
	}
	u, err := a.update(ctx)
	if err != nil {
		return 0, err
	}
	w, err := a.leaveState(ctx)
	return soonest(soonest(soonest(wait, u), w), a.held), err
}

// afterClose does what a closed round asks for until the next one opens, and
// the release when the analysis has ended.
func (a *actor) afterClose(ctx context.Context, rd *round) (time.Duration, error) {
	if wait, err := a.settle(ctx, rd); err != nil || wait > 0 {
		return wait, err
	}
	wait, err := a.leaveState(ctx)
	if err != nil || !rd.done {
		return wait, err
	}
	group, err := party.ParseGroupKey(a.sec.Group)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errDisk, err)
	}
	w, err := a.release(ctx, group)
	return soonest(wait, w), err
}

func soonest(a, b time.Duration) time.Duration {
	switch {
	case a == 0:
		return b
	case b == 0:
		return a
	}
	return min(a, b)
}

// reachRound brings this hospital's key and state to the open round: through
// what it computed itself, or, if it missed a closing, through the sealed state
// that another member left, checked against the t signatures that certified its
// digest.
func (a *actor) reachRound(ctx context.Context) (time.Duration, error) {
	want := a.rep.round.opened.Round
	if c := a.rep.charter; a.sec.State == nil && a.sec.Round == want && c.Handover != nil && want == c.FirstRound() {
		if wait, err := a.takeOver(ctx); err != nil || wait > 0 {
			return wait, err
		}
	}
	for a.sec.Round < want {
		group, err := party.ParseGroupKey(a.sec.Group)
		if err != nil {
			return 0, fmt.Errorf("%w: %w", errDisk, err)
		}
		if prev := a.rep.prev; a.sec.Round == want-1 && prev != nil && prev.opened.Round == a.sec.Round {
			if wait, err := a.settle(ctx, prev); err != nil || wait > 0 {
				return wait, err
			}
			if err := a.turn(ctx, group, a.sec.Next); err != nil {
				return 0, err
			}
			continue
		}
		// Rounds closed while this hospital was away: their states are gone
		// with their keys, only the last one is needed.
		if err := a.ratchet(group, nil); err != nil {
			return 0, err
		}
	}
	if a.sec.Round > want || a.sec.State == nil {
		// What we know comes from events that the log has not given us again
		// yet: it is slow, or it was cut back. Nothing is owed until it goes on.
		a.log.Warn("the log is behind this hospital", "round", want, "closed", a.sec.Round-1)
		return time.Minute, nil
	}
	return 0, nil
}

// turn moves on to the next round with its state.
func (a *actor) turn(ctx context.Context, group *party.GroupKey, state []byte) error {
	round := a.sec.Round
	shape, err := a.gate.cfg.Vault.Adopt(ctx, hatch.AdoptRequest{Study: a.study, Round: round, State: state})
	if err != nil {
		return err
	}
	if err := a.ratchet(group, state); err != nil {
		return err
	}
	a.shape, a.moved, a.now, a.verdict = &shape, false, nil, nil
	a.dropSpool()
	return nil
}

// ratchet replaces the group key by the next round's and drops the sealing
// keys that no later round uses. What was, is gone from the disk as far as a
// file system forgets.
func (a *actor) ratchet(group *party.GroupKey, state []byte) error {
	a.gate.cfg.Crash("close/before-secret")
	salt := group.Salt(consilium.DomainState)
	next := group.Ratchet()
	a.sec.Group, a.sec.Round, a.sec.State, a.sec.Next, a.sec.Dealt = next.Secret(), next.Round(), state, nil, nil
	a.sec.Salt = salt[:]
	a.forgetSealing()
	if err := a.gate.secrets.save(a.study, a.sec); err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	a.gate.cfg.Crash("close/after-secret")
	return nil
}

// forgetSealing keeps the key that the open round deals to and those of
// headers that a later round may name.
func (a *actor) forgetSealing() {
	rd := a.rep.round
	if rd == nil || rd.opened.Round != a.sec.Round {
		return
	}
	used := rd.opened.Sealing[a.rep.position-1]
	for name := range a.sec.Sealing {
		switch {
		case name == charterKey && used.IsZero(), name == used.String():
		default:
			if own := rd.headers[a.rep.position]; own != nil && name == own.digest.String() {
				continue
			}
			delete(a.sec.Sealing, name)
			if p := a.rep.prev; p != nil && p.sealingName == name {
				p.sealing = nil
			}
		}
	}
}

// prepare makes the working memory of the open attempt.
func (a *actor) prepare() error {
	o := a.rep.round.opened
	if a.now != nil && a.now.round == o.Round && a.now.attempt == o.Attempt {
		return nil
	}
	group, err := party.ParseGroupKey(a.sec.Group)
	if err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	n, err := newAttempt(a.rep, a.shape, group)
	if err != nil {
		return err
	}
	a.now = n
	return nil
}
