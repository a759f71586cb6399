package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"
	_ "time/tzdata"

	"consilium"
	"consilium/internal/durable"
)

// TestCapacity: whatever comes and goes, the studies that were let in never need
// more than the limit; nobody overtakes; and two hospitals that see the same log
// let the same studies in, so that none of them holds what another waits for.
func TestCapacity(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		const limit = 100
		c, other := newCapacity(limit), newCapacity(limit)
		need := map[consilium.StudyID]uint64{}
		var waiting, in []consilium.StudyID
		for place := range uint64(40) {
			id := consilium.StudyID(fmt.Sprintf("s-%02d", place))
			need[id] = 1 + r.Uint64N(limit)
			waiting = append(waiting, id)
			if len(in) > 0 && r.IntN(2) == 0 {
				i := r.IntN(len(in))
				c.release(in[i])
				other.release(in[i])
				in = append(in[:i:i], in[i+1:]...)
			}
			ask := func(c *capacity, order []int) (got []consilium.StudyID) {
				for range 2 { // twice: who asks first must not matter
					for _, i := range order {
						var p uint64
						fmt.Sscanf(string(waiting[i]), "s-%d", &p)
						if ok, err := c.take(waiting[i], p, need[waiting[i]]); err != nil {
							t.Fatal(err)
						} else if _, held := c.held[waiting[i]]; ok != held {
							t.Fatal("a study was let in and holds nothing")
						}
					}
				}
				for _, id := range waiting {
					if _, ok := c.held[id]; ok {
						got = append(got, id)
					}
				}
				return got
			}
			straight := make([]int, len(waiting))
			for i := range straight {
				straight[i] = i
			}
			a, b := ask(c, straight), ask(other, straight)
			if fmt.Sprint(a) != fmt.Sprint(b) {
				t.Fatalf("two hospitals differ: %v and %v", a, b)
			}
			for i, id := range a {
				if id != waiting[i] {
					t.Fatalf("%s overtook %s", id, waiting[i])
				}
			}
			in, waiting = append(in, a...), waiting[len(a):]
			var sum uint64
			for _, id := range in {
				sum += need[id]
			}
			if sum > limit {
				t.Fatalf("%d of %d given out", sum, limit)
			}
		}
	}
	c := newCapacity(10)
	if _, err := c.take("s", 1, 11); !errors.Is(err, consilium.ErrTooLarge) {
		t.Errorf("a study that never fits: %v", err)
	}
	if ok, err := newCapacity(0).take("s", 1, 1<<60); !ok || err != nil {
		t.Error("no limit limits")
	}
}

// TestGiveBack: what a study has of the memory, or its place, goes back when the
// study goes on without this hospital, and not before that is certain.
func TestGiveBack(t *testing.T) {
	without, with := &consilium.Charter{Epoch: 1}, &consilium.Charter{Epoch: 2}
	for name, c := range map[string]struct {
		queued   bool // or held
		declined bool
		notLive  bool
		begun    bool
		rep      replica
		sec      secrets
		let      bool // the next one is let in
	}{
		"waiting":                            {queued: true},
		"waited, chartered without us":       {queued: true, rep: replica{charter: without}, let: true},
		"enrolled":                           {},
		"enrolled, chartered without us":     {rep: replica{charter: without}, let: true},
		"fitted, then declined":              {declined: true, let: true},
		"left out of a later epoch":          {rep: replica{charter: with, prior: &epoch{charter: without}}, let: true},
		"left out of it, still in the vault": {begun: true, rep: replica{charter: with, prior: &epoch{charter: without}}},
		"a log that is being replayed":       {notLive: true, rep: replica{charter: without}},
		"a log that ends before our epoch":   {rep: replica{charter: without}, sec: secrets{Epoch: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			j, err := openJournal(durable.OS, filepath.Join(t.TempDir(), "journal"))
			if err != nil {
				t.Fatal(err)
			}
			defer j.close()
			if c.declined {
				if err := j.setPromise("two", "decline", []byte("a decline")); err != nil {
					t.Fatal(err)
				}
			}
			g := &Gate{journal: j, memory: newCapacity(10), live: !c.notLive, last: time.Now().Add(time.Hour)}
			if c.queued {
				g.memory.keep("one", 8)
			}
			if ok, err := g.memory.take("two", 2, 9); err != nil || ok == c.queued {
				t.Fatal(ok, err)
			}
			a := &actor{gate: g, study: "two", rep: &c.rep, sec: &c.sec, begun: c.begun}
			a.giveBack()
			if ok, err := g.memory.take("three", 3, 2); err != nil || ok != c.let {
				t.Errorf("the next one is let in: %v, %v", ok, err)
			}
		})
	}
}

// TestMemoryAfterRestart: a study that this hospital had enrolled in, and declined
// in the end, has its memory back after a restart until the log is read, and no
// longer.
func TestMemoryAfterRestart(t *testing.T) {
	dir := t.TempDir()
	g := &Gate{cfg: Config{Site: "hospital", Now: time.Now}, roster: &consilium.Roster{}, memory: newCapacity(10), log: slog.New(slog.NewTextHandler(io.Discard, nil)), last: time.Now().Add(time.Hour)}
	var err error
	if g.journal, err = openJournal(durable.OS, filepath.Join(dir, "journal")); err != nil {
		t.Fatal(err)
	}
	defer g.journal.close()
	if g.secrets, err = newSecretStore(durable.OS, filepath.Join(dir, "secrets")); err != nil {
		t.Fatal(err)
	}
	if err := g.secrets.save("two", &secrets{Memory: 9}); err != nil {
		t.Fatal(err)
	}
	if err := g.journal.setPromise("two", "decline", []byte("a decline")); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended, a := make(chan error), newActor(g, "two")
	go func() { ended <- a.run(ctx) }()
	for held := false; !held; time.Sleep(time.Millisecond) {
		g.memory.mu.Lock()
		_, held = g.memory.held["two"]
		g.memory.mu.Unlock()
	}
	if ok, err := g.memory.take("three", 3, 2); ok || err != nil {
		t.Errorf("the memory was given away before the log was read: %v, %v", ok, err)
	}
	g.mu.Lock()
	g.last = time.Time{} // the log has been silent for long
	g.mu.Unlock()
	a.wake <- struct{}{}
	for ok := false; !ok; time.Sleep(time.Millisecond) {
		if ok, err = g.memory.take("three", 3, 2); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	<-ended
}

// TestHours holds the schedule against a look at every minute of two weeks, over
// a change of the clocks.
func TestHours(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Zurich")
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []Hours{
		{From: 20 * 60, To: 6 * 60, Days: [7]bool{1: true, 2: true, 3: true, 4: true, 5: true}},
		{From: 9 * 60, To: 17*60 + 30, Days: [7]bool{0: true, 6: true}},
		{From: 0, To: 24 * 60, Days: [7]bool{3: true}},
		{From: 2 * 60, To: 3 * 60, Days: [7]bool{true, true, true, true, true, true, true}},
	} {
		h.Zone = zone
		if err := h.Check(); err != nil {
			t.Fatal(err)
		}
		open := func(at time.Time) bool { // the naive reading of the rule
			l := at.In(zone)
			m := l.Hour()*60 + l.Minute()
			if h.From < h.To {
				return h.Days[l.Weekday()] && m >= h.From && m < h.To
			}
			yesterday := (l.Weekday() + 6) % 7
			return h.Days[l.Weekday()] && m >= h.From || h.Days[yesterday] && m < h.To
		}
		start := time.Date(2026, 10, 19, 0, 0, 0, 0, zone) // the clocks go back on the 25th
		for m := range 14 * 24 * 60 {
			at := start.Add(time.Duration(m) * time.Minute)
			if l := at.In(zone); l.Month() == 10 && l.Day() == 25 && l.Hour() < 4 {
				continue // the hour that comes twice may be read either way
			}
			wait := h.Closed(at)
			if (wait == 0) != open(at) || wait < 0 {
				t.Fatalf("%+v at %v: closed for %v", h, at.In(zone), wait)
			}
			if next := at.Add(wait).In(zone); !open(next) && !(next.Month() == 10 && next.Day() == 25 && next.Hour() < 4) {
				t.Fatalf("%+v at %v: not open after %v", h, at, wait)
			}
		}
	}
	for _, bad := range []Hours{{}, {From: 1, To: 1, Days: [7]bool{true}, Zone: zone}, {From: 1, To: 2, Zone: zone}, {From: -1, To: 2, Days: [7]bool{true}, Zone: zone}, {From: 1, To: 2, Days: [7]bool{true}}} {
		if bad.Check() == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}
