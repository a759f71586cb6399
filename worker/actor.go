package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"consilium"
	"consilium/internal/hatch"
)

// actor drives one study. Its loop takes events into the replica and then does
// whatever the replica and the journal say is owed now; nothing is remembered
// only in the loop, so a restarted gate goes on where the old one died.
type actor struct {
	shelf boxShelf

	gate  *Gate
	study consilium.StudyID
	log   *slog.Logger

	mu      sync.Mutex // guards the next five
	queue   []*consilium.Event
	last    uint64 // the largest sequence number that was taken
	skip    uint64 // events before it came already: the log is being read again
	started bool
	reread  bool // the log was read again for this study
	wake    chan struct{}

	rep    *replica
	posted map[string]bool
	sec    *secrets
	shape  *hatch.Shape // of sec.Round, once the vault has started
	moved  bool         // the vault may not have sec.State
	now    *attempt     // what this process knows of the open attempt

	begun      bool                      // the vault of this process holds the study
	told       uint32                    // the last round that the vault was told about
	offer      *offer                    // the last closed round's state, for members that missed it
	badOffer   map[consilium.Digest]bool // blobs of sealed states that are not what t members certified
	verdict    *verdict                  // on the rejected attempt before the open one
	releasedAt time.Time
	result     *hatch.ReleaseReply
	failed     error // why this hospital takes no further part, if so
	left       bool  // and nothing is owed to the others about it any more

	trouble   string // what the study last waited for, as it was logged
	troubleAt time.Time

	held  time.Duration // how long this hospital begins nothing in this study; 0 if it may
	needs uint64        // bytes, once the vault has said

	doing atomic.Pointer[string] // for Gate.Studies; nil once the study has ended
	busy  atomic.Bool            // for Gate.Busy
}

func newActor(g *Gate, study consilium.StudyID) *actor {
	return &actor{
		gate: g, study: study,
		log:    g.log.With("study", string(study)),
		wake:   make(chan struct{}, 1),
		posted: map[string]bool{},
	}
}

// enqueue takes an event. It reports true, without taking it, if the
// study's beginning is missing: a hospital sees a study from when it is asked, and
// what came before is in the log.
func (a *actor) enqueue(ev *consilium.Event) (missed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ev.Seq < a.skip {
		return false
	}
	if !a.started && (ev.Kind == consilium.EventRenewing || ev.Kind == consilium.EventAdmitted) && !a.reread {
		a.reread = true
		return true
	}
	a.started, a.last = true, max(a.last, ev.Seq)
	a.queue = append(a.queue, ev)
	select {
	case a.wake <- struct{}{}:
	default:
	}
	return false
}

// again prepares for the log from its beginning.
func (a *actor) again() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.started {
		a.skip = a.last + 1
	}
}

func (a *actor) take() []*consilium.Event {
	a.mu.Lock()
	defer a.mu.Unlock()
	q := a.queue
	a.queue = nil
	return q
}

// errDisk marks a failure of the hospital's own journal: the gate stops and
// recovers from what is durable.
var errDisk = errors.New("the gate's own storage failed")

// run works until the study ends or ctx does. A failure of this study is
// logged and ends the hospital's part in it; only a failure of the gate's own
// storage ends the gate.
func (a *actor) run(ctx context.Context) error {
	var err error
	if a.sec, err = a.gate.secrets.load(a.study); err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	if a.sec.Memory > 0 {
		a.gate.memory.keep(a.study, a.sec.Memory)
	}
	defer a.gate.memory.release(a.study)
	signed, err := a.gate.journal.charters(a.study)
	if err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	a.rep = newReplica(a.study, a.gate.cfg.Site, a.gate.roster, signed...)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		for _, ev := range a.take() {
			if err := a.rep.observe(ev, a.gate.cfg.Now()); err != nil {
				a.log.Warn("event ignored", "seq", ev.Seq, "kind", ev.Kind.String(), "err", err)
			}
			if err := a.remember(ev); err != nil {
				return err
			}
		}
		next := time.Hour
		if live, wait := a.gate.replayed(); !live {
			next = wait
		} else {
			if a.rep.ended.Ended() {
				return a.finish(ctx)
			}
			if a.failed == nil {
				wait, err := a.advance(ctx)
				switch {
				case ctx.Err() != nil:
					return ctx.Err()
				case errors.Is(err, errDisk), errors.Is(err, hatch.ErrStorage):
					return err
				case retryable(err):
					a.waitsFor(err)
					wait = 500 * time.Millisecond
				case err != nil:
					a.failed = err
					a.log.Error("this hospital takes no further part in the study", "err", err)
				}
				if wait > 0 {
					next = wait
				}
			}
			if a.failed != nil && !a.left {
				err := a.leave(ctx, a.failed)
				switch {
				case ctx.Err() != nil:
					return ctx.Err()
				case errors.Is(err, errDisk):
					return err
				case retryable(err): // or the others wait for this hospital
					a.waitsFor(fmt.Errorf("withdrawal not posted: %w", err))
					next = 500 * time.Millisecond
				case err != nil:
					a.log.Warn("withdrawal not posted", "err", err)
					a.left = true
				default:
					a.left = true
				}
			}
		}
		a.busy.Store(a.contributed())
		switch {
		case a.failed != nil:
			a.doing.Store(&Left)
			a.giveBack()
		case a.rep.charter != nil && a.rep.position != 0:
			a.doing.Store(&Taking)
		default:
			a.doing.Store(&Watching)
			a.giveBack()
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.wake:
		case <-timer.C:
		}
	}
}

// contributed reports whether the others count on this hospital in the open
// round: it has promised a contribution to it.
func (a *actor) contributed() bool {
	rd := a.rep.round
	if rd == nil || rd.closed || rd.rejected || a.failed != nil || a.rep.ended.Ended() {
		return false
	}
	_, ok := a.gate.journal.promise(a.study, a.slot("header", rd.opened))
	return ok
}

// retryable tells what may come right by itself from what may not.
func retryable(err error) bool {
	return errors.Is(err, consilium.ErrUnavailable) || errors.Is(err, consilium.ErrNotLeader) ||
		errors.Is(err, consilium.ErrBlobMissing) || shutOut(err) || errors.Is(err, context.DeadlineExceeded)
}

// waitsFor logs what the study waits for: when it changes, and once a minute.
func (a *actor) waitsFor(err error) {
	if err.Error() == a.trouble && time.Since(a.troubleAt) < time.Minute {
		return
	}
	a.trouble, a.troubleAt = err.Error(), time.Now()
	a.log.Warn("will try again", "err", err)
}

// leave posts why this hospital stops, so that the others do not wait for it.
func (a *actor) leave(ctx context.Context, why error) error {
	if a.rep.submission == nil || a.rep.round == nil && a.rep.enrols[a.gate.cfg.Site] == nil {
		return nil
	}
	w := &consilium.Withdraw{Study: a.study, Reason: publicReason(why)}
	return a.promise(ctx, "withdraw", consilium.KindWithdraw, func() ([]byte, error) {
		return w.Encode(), a.note(0, "withdraw", map[string]any{"reason": w.Reason})
	})
}

// publicReason keeps a hospital's inner errors inside: outward go the code and
// the sentinel's own text.
func publicReason(err error) string {
	var e *consilium.Error
	if errors.As(err, &e) {
		return string(e.Code) + ": " + e.Msg
	}
	return "an error at the hospital; its log says more"
}

// note writes one entry of the trail, durable on return. A hospital that
// cannot write down what it does stops doing it: the gate ends as it does
// without its journal, and leaves no study for it.
func (a *actor) note(round uint32, kind string, body any) error {
	if err := a.gate.trail.Write(a.study, round, kind, body); err != nil {
		return fmt.Errorf("%w: the trail: %w", errDisk, err)
	}
	return nil
}

// promise makes a statement once: the first time it builds, signs and
// journals it; every time it makes sure that the coordinator has these very
// bytes.
func (a *actor) promise(ctx context.Context, slot string, kind consilium.MessageKind, build func() ([]byte, error)) error {
	if a.posted[slot] {
		return nil
	}
	ctx, end := a.step(ctx, kind.String())
	m, err := a.promised(slot, kind, build)
	if err == nil {
		err = a.post(ctx, slot, m)
	}
	end(err)
	return err
}

// step begins a span of what this hospital does now.
func (a *actor) step(ctx context.Context, name string) (context.Context, func(error)) {
	var round, attempt uint32
	if a.rep != nil && a.rep.round != nil {
		round, attempt = a.rep.round.opened.Round, a.rep.round.opened.Attempt
	}
	return a.gate.cfg.Trace.Step(ctx, a.study, round, attempt, name)
}

// promised returns the slot's message, building and journalling it first if
// there is none.
func (a *actor) promised(slot string, kind consilium.MessageKind, build func() ([]byte, error)) (*consilium.Message, error) {
	if b, ok := a.gate.journal.promise(a.study, slot); ok {
		m, err := consilium.ParseMessage(b)
		if err != nil {
			return nil, fmt.Errorf("%w: slot %s: %w", errDisk, slot, err)
		}
		return m, nil
	}
	body, err := build()
	if err != nil {
		return nil, err
	}
	sig, err := a.gate.cfg.Signer.Sign(kind.Domain(), body)
	if err != nil {
		return nil, err
	}
	m := &consilium.Message{Kind: kind, Study: a.study, By: string(a.gate.cfg.Site), Body: body, Signature: sig}
	if err := a.gate.journal.setPromise(a.study, slot, m.Encode()); err != nil {
		return nil, fmt.Errorf("%w: %w", errDisk, err)
	}
	if point, ok := promiseMade[kind]; ok {
		a.gate.cfg.Crash(point)
	}
	return m, nil
}

// promiseMade names the crash point between a journalled promise and its
// sending.
var promiseMade = map[consilium.MessageKind]string{
	consilium.KindEnrol:     "enrol/after-promise",
	consilium.KindCharter:   "charter/after-promise",
	consilium.KindHeader:    "contribute/after-promise",
	consilium.KindVote:      "vote/after-promise",
	consilium.KindOpening:   "open/after-promise",
	consilium.KindStateVote: "update/after-promise",
	consilium.KindRenounce:  "renounce/after-promise",
	consilium.KindComplaint: "complaint/after-promise",
	consilium.KindAnswer:    "answer/after-promise",
	consilium.KindSuspect:   "suspect/after-promise",
	consilium.KindShow:      "show/after-promise",
	consilium.KindRelease:   "release/after-promise",
	consilium.KindDepart:    "depart/after-promise",
}

// postTime is how long a statement is tried before the hospital looks again at what
// else it owes: nothing that one statement waits for may hold up a round.
const postTime = time.Minute

func (a *actor) post(ctx context.Context, slot string, m *consilium.Message) error {
	ctx, cancel := context.WithTimeout(ctx, postTime)
	defer cancel()
	err := a.gate.cfg.Coordinator.Post(ctx, m)
	if late(err) {
		// The study went on without this statement: it was in time or it was
		// not needed.
		a.log.Info("statement came late", "slot", slot, "err", err)
		err = nil
	}
	if err == nil {
		a.posted[slot] = true
	}
	return err
}

// slowly is how long bytes are sent before the hospital looks again: as long as the
// slowest link that a coordinator puts up with needs for them, 64 kB a second after
// two minutes (internal/wire, streamTimeout). That is one try at one node: the next
// call begins at another one.
func slowly(size uint64) time.Duration { return 2*time.Minute + time.Duration(size>>16)*time.Second }

// putBlob stores what a statement will name.
func (a *actor) putBlob(ctx context.Context, b []byte) (consilium.Digest, error) {
	ctx, cancel := context.WithTimeout(ctx, slowly(uint64(len(b))))
	defer cancel()
	return a.gate.cfg.Coordinator.PutBlob(ctx, bytes.NewReader(b), uint64(len(b)))
}

func late(err error) bool {
	return errors.Is(err, consilium.ErrRoundClosed) || errors.Is(err, consilium.ErrWrongPhase) || errors.Is(err, consilium.ErrStudyEnded)
}

// finish forgets a study that is over. What was promised stays promised: an
// ended study takes no more statements.
func (a *actor) finish(ctx context.Context) error {
	if err := a.note(0, "ended", map[string]any{"phase": a.rep.ended.String(), "reason": a.rep.reason}); err != nil {
		return err
	}
	if err := a.anchorTrail(ctx); err != nil {
		a.log.Warn("trail not anchored", "err", err)
	}
	if err := a.gate.cfg.Vault.Forget(ctx, a.study); err != nil {
		a.log.Warn("vault did not forget", "err", err)
	}
	if err := a.gate.secrets.drop(a.study); err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	a.dropSpool()
	if err := a.gate.journal.setEnded(a.study); err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	a.doing.Store(nil)
	a.busy.Store(false)
	a.log.Info("study ended", "phase", a.rep.ended.String(), "reason", a.rep.reason)
	return nil
}
