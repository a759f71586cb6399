package coordinator

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"testing"

	"consilium"
)

// What keeps two different sums of one round from being opened is a rule of
// hospitals and a number: t. The search below plays every schedule of a
// dishonest coordinator with f colluding hospitals against honest ones, for two
// contributor sets A (everybody) and B (everybody but one victim), over two
// attempts. If both could be opened, the difference would be the victim's part.

// hospital is what an honest hospital has done in a round.
type hospital struct {
	vote [2]byte // in each attempt: 0, 'A' or 'B'
	open [2]byte
}

// rules are what honest hospitals keep to, and the threshold.
type rules struct {
	n, f, t int
	lock    bool // vote and open only for the members of the round's first opening; a later attempt renounces earlier ones
}

// bothOpen searches all schedules and reports whether t opening shares come
// together for A and for B.
func bothOpen(r rules) bool {
	honest := r.n - r.f
	start := make([]hospital, honest)
	seen := map[string]bool{}
	queue := [][]hospital{start}
	certified := func(hs []hospital, attempt int, set byte) bool {
		votes := r.f // colluders vote for everything
		for _, h := range hs {
			if h.vote[attempt] == set {
				votes++
			}
		}
		return votes >= r.t
	}
	shares := func(hs []hospital, set byte) int {
		// Shares of one attempt belong to one set of keys.
		best := 0
		for attempt := 0; attempt < 2; attempt++ {
			n := r.f
			for _, h := range hs {
				if h.open[attempt] == set {
					n++
				}
			}
			best = max(best, n)
		}
		return best
	}
	for len(queue) > 0 {
		hs := queue[0]
		queue = queue[1:]
		if shares(hs, 'A') >= r.t && shares(hs, 'B') >= r.t {
			return true
		}
		for i := range hs {
			for attempt := 0; attempt < 2; attempt++ {
				for _, set := range []byte{'A', 'B'} {
					h := hs[i]
					if r.lock {
						if locked := h.open[0] | h.open[1]; locked != 0 && locked != set {
							continue
						}
						if attempt == 0 && (h.vote[1] != 0 || h.open[1] != 0) {
							continue // it has joined the later attempt
						}
					}
					var next []hospital
					if h.vote[attempt] == 0 {
						v := h
						v.vote[attempt] = set
						next = append(next, v)
					}
					if h.open[attempt] == 0 && certified(hs, attempt, set) {
						o := h
						o.open[attempt] = set
						next = append(next, o)
					}
					for _, h := range next {
						all := slices.Clone(hs)
						all[i] = h
						// Hospitals are interchangeable here.
						slices.SortFunc(all, func(a, b hospital) int {
							return slices.Compare(append(a.vote[:], a.open[:]...), append(b.vote[:], b.open[:]...))
						})
						key := fmt.Sprint(all)
						if !seen[key] {
							seen[key] = true
							queue = append(queue, all)
						}
					}
				}
			}
		}
	}
	return false
}

func TestNoTwoSumsOfOneRound(t *testing.T) {
	for n := 3; n <= 5; n++ {
		good := rules{n: n, f: 1, t: consilium.Threshold(n, 1), lock: true}
		if bothOpen(good) {
			t.Errorf("N %d, t %d: two sums of one round can be opened", n, good.t)
		}
		// Without the lock two attempts suffice, whatever t is.
		naive := good
		naive.lock = false
		if !bothOpen(naive) {
			t.Errorf("N %d: the search does not find the attack on hospitals without a lock", n)
		}
	}
}

// twoCertificates reports whether f equivocating hospitals and a coordinator
// that shows different sets to different hospitals can get t votes each for
// two sets in one attempt. Every split of the honest votes is tried.
func twoCertificates(n, f, t int) bool {
	honest := n - f
	splits := 1
	for i := 0; i < honest; i++ {
		splits *= 3
	}
	for s := 0; s < splits; s++ {
		a, b := f, f
		for i, x := 0, s; i < honest; i, x = i+1, x/3 {
			switch x % 3 {
			case 1:
				a++
			case 2:
				b++
			}
		}
		if a >= t && b >= t {
			return true
		}
	}
	return false
}

// The threshold at work: with t = ceil((n+f+2)/2) no two sets of one attempt
// are both certified. The naive twin has the old bound 2t >= n + f, and loses
// wherever n + f is even.
func TestNoTwoCertificates(t *testing.T) {
	lost := 0
	for n := 3; n <= 9; n++ {
		for f := 1; f <= n-2; f++ {
			good := consilium.Threshold(n, f)
			if twoCertificates(n, f, good) {
				t.Errorf("N %d f %d t %d: two sets are certified", n, f, good)
			}
			old := (n + f + 1) / 2
			if got := twoCertificates(n, f, old); got != ((n+f)%2 == 0) {
				t.Errorf("N %d f %d: the old threshold %d: found %v", n, f, old, got)
			} else if got && n <= 5 && f == 1 {
				lost++
			}
		}
	}
	if lost == 0 {
		t.Error("the search finds no attack on the old threshold for N up to 5")
	}
}

// TestEverySmallSchedule plays every sequence of a few commands against the
// state machine from a proposed set on, and asks the judge of events after each.
func TestEverySmallSchedule(t *testing.T) {
	for n := 3; n <= 5; n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) { everySmallSchedule(t, n) })
	}
}

// everySmallSchedule begins two votes before the certificate.
func everySmallSchedule(t *testing.T, n int) {
	w := newWorld(t, options{n: n, min: 3, learned: true, missing: "continue"})
	w.check = false
	w.start()
	w.contribute(w.all()...)
	w.ackAll(w.all()...)
	last := consilium.Position(n)
	for p := consilium.Position(1); int(p) <= w.st().charter.Threshold-2; p++ {
		w.must(w.voting(p, w.set()))
	}
	w.phase(consilium.PhaseCertifying)
	set := w.set()
	ops := []func(w *world) Op{
		func(w *world) Op { return w.voting(last-1, set) },
		func(w *world) Op { return w.voting(last, set) },
		func(w *world) Op { return w.voting(last, dig("another set")) },
		func(w *world) Op { return w.complainAbout(last, 2) },
		func(w *world) Op { return w.answerTo(2, last) },
		func(w *world) Op { return w.renouncing(2) },
		func(w *world) Op { return w.renouncing(3) },
		func(w *world) Op { return w.renouncing(last) },
		func(w *world) Op { return w.contribution(1, "again") },
		func(w *world) Op { return w.openingOf(1, set) },
		func(w *world) Op { return w.sum() },
		func(w *world) Op { return w.withdrawing(w.site(last)) },
		func(w *world) Op { return &Tick{} },
	}
	const depth = 4
	nodes := 0
	visited := map[[32]byte]bool{}
	base := w.events
	var search func(snapshot []byte, events []consilium.Event, index uint64, left int)
	search = func(snapshot []byte, events []consilium.Event, index uint64, left int) {
		nodes++
		if err := faithful(events); err != nil {
			t.Fatalf("%s: %v", kinds(events[len(base):]), err)
		}
		if left == 0 {
			return
		}
		for _, op := range ops {
			s, err := Restore(snapshot)
			if err != nil {
				t.Fatal(err)
			}
			v := &world{t: t, s: s, opts: w.opts, sites: w.sites, study: w.study, subD: w.subD, sub: w.sub, now: s.now}
			cmd := op(v)
			at := s.now
			if _, ok := cmd.(*Tick); ok {
				at += 120 * secondMs
			}
			ev, r := s.Apply(index+1, Command{At: at, Op: cmd})
			if r != nil || len(ev) == 0 {
				continue
			}
			next := s.Snapshot()
			key := sha256.Sum256(append(next, byte(left)))
			if visited[key] {
				continue
			}
			visited[key] = true
			search(next, append(slices.Clone(events), ev...), index+1, left-1)
		}
	}
	search(w.s.Snapshot(), base, w.index, depth)
	if nodes < 150 {
		t.Fatalf("only %d states were seen", nodes)
	}
	t.Logf("%d states", nodes)
}

// answerTo is a dealer's answer, whether there was a complaint or not.
func (w *world) answerTo(dealer, to consilium.Position) *Post {
	v := consilium.Answer{At: w.at(dealer), Header: w.known(dealer), To: to, Sealed: []byte("share")}
	return w.message(consilium.KindAnswer, w.site(dealer), v.Encode())
}
