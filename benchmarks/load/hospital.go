//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"consilium"
	"consilium/internal/wire"
)

// hospital is one site without a vault and without journals: it says and checks
// in every round what a worker's gate does, for all its studies at once.
type hospital struct {
	c    *cluster
	name string
	id   consilium.SiteID
	wire *wire.Client
	book *wire.Book
	dir  string // for sums that are too long for memory

	mu     sync.Mutex // guards actors
	actors map[consilium.StudyID]*actor
	group  *errgroup.Group
	ctx    context.Context
	stop   context.CancelFunc
}

// join connects a hospital and lets it follow the log.
func (c *cluster) join(ctx context.Context, id consilium.SiteID, dir string) (*hospital, error) {
	name := "site/" + string(id)
	w, err := c.client(name)
	if err != nil {
		return nil, err
	}
	book, err := c.book()
	if err != nil {
		return nil, err
	}
	h := &hospital{c: c, name: name, id: id, wire: w, book: book, dir: dir, actors: map[consilium.StudyID]*actor{}}
	ctx, h.stop = context.WithCancel(ctx)
	h.group, h.ctx = errgroup.WithContext(ctx)
	h.group.Go(func() error {
		return w.Follow(h.ctx, 0, func(ev *consilium.Event) error {
			h.mu.Lock()
			a := h.actors[ev.Study]
			h.mu.Unlock()
			if a != nil {
				a.queue.put(ev)
			}
			return nil
		})
	})
	return h, nil
}

// take makes the hospital part of a study that is about to be submitted.
func (h *hospital) take(p *proposal, w work) *actor {
	a := newActor(h, p, w)
	h.mu.Lock()
	h.actors[p.id] = a
	h.mu.Unlock()
	h.group.Go(func() error {
		if err := a.run(h.ctx); err != nil {
			a.fail(fmt.Errorf("%s: %w", h.id, err))
		}
		h.mu.Lock()
		delete(h.actors, p.id)
		h.mu.Unlock()
		close(a.ended)
		return nil
	})
	return a
}

// leave ends everything that the hospital does.
func (h *hospital) leave() error {
	h.stop()
	if err := h.group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", h.id, err)
	}
	return nil
}

// post ignores what became pointless: others were enough.
func (h *hospital) post(ctx context.Context, kind consilium.MessageKind, study consilium.StudyID, body []byte) error {
	m, err := h.c.signed(h.name, kind, study, body)
	if err != nil {
		return err
	}
	if err := h.wire.Post(ctx, m); err != nil && !late(err) {
		return err
	}
	return nil
}

func late(err error) bool {
	return errors.Is(err, consilium.ErrWrongPhase) || errors.Is(err, consilium.ErrRoundClosed) || errors.Is(err, consilium.ErrStudyEnded)
}

// queue hands events to one goroutine. Who follows the log must not wait for a
// study that is busy with an upload.
type queue struct {
	mu     sync.Mutex
	events []*consilium.Event
	ready  chan struct{}
}

func (q *queue) put(ev *consilium.Event) {
	q.mu.Lock()
	q.events = append(q.events, ev)
	q.mu.Unlock()
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

func (q *queue) take() []*consilium.Event {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := q.events
	q.events = nil
	return out
}

// run handles events until the study ends.
func (a *actor) run(ctx context.Context) error {
	alarm := time.NewTimer(time.Hour)
	defer alarm.Stop()
	a.alarm = alarm
	for {
		for _, ev := range a.queue.take() {
			done, err := a.on(ctx, ev)
			if err != nil || done {
				return err
			}
		}
		select {
		case <-a.queue.ready:
		case <-alarm.C:
			a.early = true
			if err := a.acknowledge(ctx); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
