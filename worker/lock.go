package worker

import (
	"context"
	"fmt"
	"maps"

	"consilium"
)

// join leaves every earlier attempt of the open round for good, durably, before
// this hospital says anything in the new one: a log that ends earlier, shown to
// it after a crash, moves it to nothing any more. Then it tells the others, if it
// has never opened in the round; and if enough of them say so, its own lock is
// released.
func (a *actor) join(ctx context.Context) error {
	r, o := a.rep, a.rep.round.opened
	b := a.gate.journal.binding(a.study, a.rep.charter.Epoch, o.Round)
	if joined := b.join(o.Attempt); joined.Renounced != b.Renounced {
		a.gate.cfg.Crash("join/before-binding")
		if err := a.gate.journal.setBinding(a.study, a.rep.charter.Epoch, o.Round, joined); err != nil {
			return fmt.Errorf("%w: %w", errDisk, err)
		}
		b = joined
	}
	if b.locked() && b.Attempt < o.Attempt {
		return a.releaseLock(b)
	}
	if o.Attempt == 1 || !b.mayRenounce() {
		return nil
	}
	at := r.at(r.position)
	at.Attempt--
	return a.renounce(ctx, at, "a new attempt was opened")
}

// releaseLock takes the lock of the round off when the others' signatures show
// that what it was for can never be opened. What this hospital's ledger of opened
// sums says stays: a sum that was nearly opened counts against later studies.
func (a *actor) releaseLock(b binding) error {
	r, o := a.rep, a.rep.round.opened
	others := maps.Clone(r.round.renounced)
	delete(others, r.position)
	free, ok := b.release(others, r.charter.ReleaseQuorum())
	if !ok {
		return nil
	}
	if err := a.note(o.Round, "lock-released", map[string]any{
		"attempt": b.Attempt, "members": memberSites(r.charter, b.Members), "renounced": len(others),
	}); err != nil {
		return err
	}
	// The frozen set goes first. If we crash in between, the lock still holds
	// and the same renouncements take it off again; the next opening freezes anew.
	if f := a.gate.journal.freeze(a.study); f != nil && f.Round == o.Round {
		if err := a.gate.journal.thaw(a.study); err != nil {
			return fmt.Errorf("%w: %w", errDisk, err)
		}
		a.gate.cfg.Crash("release-lock/after-thaw")
	}
	if err := a.gate.journal.setBinding(a.study, a.rep.charter.Epoch, o.Round, free.join(o.Attempt)); err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	a.log.Info("the lock of the round is released", "round", o.Round, "attempt", o.Attempt)
	return nil
}

// renounce promises that this hospital has not opened in the round up to an
// attempt and never will. The binding that makes it true is durable before.
func (a *actor) renounce(ctx context.Context, at consilium.At, why string) error {
	name := fmt.Sprintf("%srenounce/%d/%d", epochPrefix(a.rep.charter.Epoch), at.Round, at.Attempt)
	if a.posted[name] {
		return nil
	}
	b := a.gate.journal.binding(a.study, a.rep.charter.Epoch, at.Round)
	if !b.mayRenounce() {
		return nil
	}
	if b.Renounced < at.Attempt {
		if err := a.gate.journal.setBinding(a.study, a.rep.charter.Epoch, at.Round, b.join(at.Attempt+1)); err != nil {
			return fmt.Errorf("%w: %w", errDisk, err)
		}
	}
	return a.promise(ctx, name, consilium.KindRenounce, func() ([]byte, error) {
		m := &consilium.Renounce{At: at}
		return m.Encode(), a.note(at.Round, "renounce", map[string]any{"attempt": at.Attempt, "reason": why})
	})
}
