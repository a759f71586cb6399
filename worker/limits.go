package worker

import (
	"fmt"
	"sync"
	"time"

	"consilium"
)

// A hospital's machine is shared with its daily work. Its operator bounds what
// studies may take of it: how much memory all of them together, at which hours a
// local step may begin, and whether anything new may begin at all. None of the
// three touches a promise: what was contributed is acknowledged, voted on, opened
// and closed at any hour, so that no other hospital waits for what is done already.

// Limits are a gate's. The zero value limits nothing.
type Limits struct {
	// Memory bounds, in bytes, what the studies that this hospital takes part in
	// are estimated to need of it together. A study waits for its enrolment until
	// it fits, in the order of the log, which is the same at every hospital; one
	// that never fits is declined.
	Memory uint64
	// Closed is how long it takes from now until local steps may begin; 0 means that
	// they may. nil: at any time.
	Closed func(now time.Time) time.Duration
}

// capacity hands out memory to studies.
type capacity struct {
	mu     sync.Mutex
	limit  uint64
	held   map[consilium.StudyID]uint64
	queued map[consilium.StudyID]uint64 // place in the log
}

func newCapacity(limit uint64) *capacity {
	return &capacity{limit: limit, held: map[consilium.StudyID]uint64{}, queued: map[consilium.StudyID]uint64{}}
}

// take asks for bytes in the name of a study that stands at a place of the log.
// It reports whether it has them; if not, the study keeps its place. A study that
// could never have them is an error.
func (c *capacity) take(study consilium.StudyID, place, bytes uint64) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.limit == 0 {
		return true, nil
	}
	if _, ok := c.held[study]; ok {
		return true, nil
	}
	if bytes > c.limit {
		delete(c.queued, study)
		return false, consilium.ErrTooLarge.Withf("the study needs about %d MiB here, the hospital gives all studies %d MiB", bytes>>20, c.limit>>20)
	}
	used := bytes
	for _, b := range c.held {
		used += b
	}
	for other, p := range c.queued {
		if other != study && p < place { // nobody overtakes: a large study would never begin
			used = c.limit + 1
		}
	}
	if used > c.limit {
		c.queued[study] = place
		return false, nil
	}
	delete(c.queued, study)
	c.held[study] = bytes
	return true, nil
}

// keep gives a study that had enrolled before a restart what it had.
func (c *capacity) keep(study consilium.StudyID, bytes uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.limit > 0 {
		c.held[study] = bytes
	}
}

// release takes back what a study had, and its place.
func (c *capacity) release(study consilium.StudyID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.held, study)
	delete(c.queued, study)
}

// giveBack returns what a study has of the hospital's memory, and its place in the
// queue, once the study goes on without this hospital: it was declined, or chartered
// with others while it waited or after it had enrolled. Another epoch may ask again.
// What the vault has begun it holds until the study ends.
func (a *actor) giveBack() {
	if live, _ := a.gate.replayed(); !live || a.begun || a.sec.epochOf() > a.rep.making() {
		return // or the log does not show yet how the study stands
	}
	if _, declined := a.gate.journal.promise(a.study, a.rep.enrolSlot("decline")); declined || a.rep.charter != nil {
		a.gate.memory.release(a.study)
	}
}

// again is how often a study that is held looks whether it may go on.
const again = 500 * time.Millisecond

// Pause keeps this hospital from enrolling and from beginning a local step,
// until it is called with false. Everything begun goes on.
func (g *Gate) Pause(paused bool) {
	if g.paused.Swap(paused) != paused {
		g.log.Info("pause", "paused", paused)
	}
}

// Busy counts the open rounds to which this hospital has contributed. A paused
// gate with none can be stopped without anybody waiting for it.
func (g *Gate) Busy() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for _, a := range g.actors {
		if a.busy.Load() {
			n++
		}
	}
	return n
}

// hold is how long this hospital begins nothing; 0 if it may.
func (g *Gate) hold() time.Duration {
	if g.paused.Load() {
		return again
	}
	if g.cfg.Limits.Closed == nil {
		return 0
	}
	return min(g.cfg.Limits.Closed(g.cfg.Now()), time.Minute)
}

// Hours is a schedule: local steps may begin between From and To, in minutes
// after midnight of Zone, on the given days; To before From runs past midnight and
// belongs to the day on which it began.
type Hours struct {
	From, To int
	Days     [7]bool // by time.Weekday
	Zone     *time.Location
}

// Check refuses a schedule that never opens.
func (h *Hours) Check() error {
	switch {
	case h.From < 0 || h.From >= 24*60 || h.To < 0 || h.To > 24*60 || h.From == h.To:
		return fmt.Errorf("a schedule from minute %d to %d of the day; use two different times from 00:00 to 24:00", h.From, h.To)
	case h.Days == [7]bool{}:
		return fmt.Errorf("a schedule on no day; name at least one")
	case h.Zone == nil:
		return fmt.Errorf("a schedule without a time zone")
	}
	return nil
}

// Closed is how long it takes until the schedule opens; 0 while it is open.
func (h *Hours) Closed(now time.Time) time.Duration {
	local := now.In(h.Zone)
	best := time.Duration(-1)
	for day := -1; day <= 8; day++ {
		at := func(minute int) time.Time {
			return time.Date(local.Year(), local.Month(), local.Day()+day, 0, minute, 0, 0, h.Zone)
		}
		from, to := at(h.From), at(h.To)
		if h.To < h.From {
			to = time.Date(local.Year(), local.Month(), local.Day()+day+1, 0, h.To, 0, 0, h.Zone)
		}
		if !h.Days[from.Weekday()] {
			continue
		}
		if !now.Before(from) && now.Before(to) {
			return 0
		}
		if wait := from.Sub(now); wait > 0 && (best < 0 || wait < best) {
			best = wait
		}
	}
	return best
}
