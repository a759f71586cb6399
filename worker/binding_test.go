package worker

import (
	"encoding/binary"
	"slices"
	"testing"

	"consilium"
)

// The rule that keeps two different sums of one round from being opened is
// binding. The search plays every schedule of a dishonest coordinator with f
// colluding hospitals against N - f honest ones who keep to it: which attempt is
// shown to whom, in what order, with a log that ends early for some, which votes
// and which renouncements reach whom. Two sets, A (everybody) and B (everybody
// but one victim), three attempts. If t shares for A and t for B could ever come
// together, in whatever attempts, the difference would be the victim's vector.
//
// Every decision is made by the binding that the gate journals and asks; the
// search only schedules.

// player is one honest hospital: its durable binding and its votes.
type player struct {
	b      binding
	voted  [searchAttempts]byte // one vote of an attempt: 0, 'A' or 'B'
	open   [searchAttempts]byte // what left the hospital, which nothing takes back
	signed uint8                // up to which attempt it signed never to have opened and never to open
	sees   uint8                // the attempt that its log shows; it may be shown less again after a crash
}

const searchAttempts = 3

// flaws are rules that a naive hospital leaves out.
type flaws struct {
	noLock, forgetsRenouncing, lowQuorum, liesAboutOpening bool
	t                                                      int // 0: the charter's
}

type game struct {
	n, f, t, quorum int
	flaws           flaws
	a, b            []consilium.Position
	attempts        uint8
}

func (g *game) members(set byte) []consilium.Position {
	if set == 'A' {
		return g.a
	}
	return g.b
}

// votes counts those for a set in an attempt; colluders vote for everything.
func (g *game) votes(ps []player, attempt int, set byte) int {
	n := g.f
	for _, p := range ps {
		if p.voted[attempt] == set {
			n++
		}
	}
	return n
}

// both reports whether t shares are out for A and for B. The shares of one
// attempt belong to one set of keys.
func (g *game) both(ps []player) bool {
	best := func(set byte) int {
		most := 0
		for a := range searchAttempts {
			n := g.f
			for _, p := range ps {
				if p.open[a] == set {
					n++
				}
			}
			most = max(most, n)
		}
		return most
	}
	return best('A') >= g.t && best('B') >= g.t
}

// moves are all that hospital i may be brought to do next.
func (g *game) moves(ps []player, i int) []player {
	p := ps[i]
	var out []player
	// A new attempt is shown, or, after a crash, an old one.
	for a := uint8(1); a <= g.attempts; a++ {
		if a == p.sees {
			continue
		}
		q := p
		q.sees = a
		if !g.flaws.forgetsRenouncing {
			q.b = q.b.join(uint32(a))
		}
		if q.b.mayRenounce() || g.flaws.liesAboutOpening {
			q.signed = max(q.signed, a-1)
		}
		out = append(out, q)
	}
	a := int(p.sees) - 1
	for _, set := range []byte{'A', 'B'} {
		allowed := g.flaws.noLock || p.b.allows(uint32(p.sees), g.members(set)) == nil
		if allowed && p.voted[a] == 0 {
			q := p
			q.voted[a] = set
			out = append(out, q)
		}
		if allowed && p.open[a] == 0 && g.votes(ps, a, set) >= g.t {
			q := p
			q.open[a] = set
			q.b = q.b.lock(uint32(p.sees), g.members(set))
			out = append(out, q)
		}
	}
	// The coordinator passes on the renouncements of any of those who signed
	// one; more can only help to release, so it passes on all. Colluders sign
	// what they like.
	if p.b.locked() && p.b.Attempt < uint32(p.sees) {
		renounced := map[consilium.Position]uint32{}
		for k := range g.f {
			renounced[consilium.Position(g.n-k)] = searchAttempts
		}
		for k, o := range ps {
			if k == i {
				continue
			}
			if o.signed > 0 {
				renounced[consilium.Position(k+1)] = uint32(o.signed)
			}
		}
		if free, ok := p.b.release(renounced, g.quorum); ok {
			q := p
			q.b = free
			if !g.flaws.forgetsRenouncing {
				q.b = q.b.join(uint32(p.sees))
			}
			out = append(out, q)
		}
	}
	return out
}

// key names a position of the game. Hospitals are interchangeable in it.
func key(ps []player) string {
	parts := make([]uint64, len(ps))
	for i, p := range ps {
		k := uint64(len(p.b.Members))<<3 | uint64(p.b.Attempt)
		k = k<<3 | uint64(p.b.Renounced)
		k <<= 1
		if p.b.Opened {
			k |= 1
		}
		for a := range searchAttempts {
			k = k<<4 | uint64(p.voted[a]&3)<<2 | uint64(p.open[a]&3) // 'A' and 'B' differ in their low bits
		}
		parts[i] = k<<4 | uint64(p.signed)<<2 | uint64(p.sees)
	}
	slices.Sort(parts)
	out := make([]byte, 0, 8*len(parts))
	for _, k := range parts {
		out = binary.BigEndian.AppendUint64(out, k)
	}
	return string(out)
}

// search plays every schedule. It returns the number of positions, and
// whether both sets can be opened.
func (g *game) search(limit int) (int, bool) {
	honest := make([]player, g.n-g.f)
	for i := range honest {
		honest[i].sees = 1
	}
	seen := map[string]bool{key(honest): true}
	queue := [][]player{honest}
	for len(queue) > 0 {
		ps := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if g.both(ps) {
			return len(seen), true
		}
		for i := range ps {
			for _, q := range g.moves(ps, i) {
				next := slices.Clone(ps)
				next[i] = q
				if k := key(next); !seen[k] {
					seen[k] = true
					if len(seen) > limit {
						return len(seen), false
					}
					queue = append(queue, next)
				}
			}
		}
	}
	return len(seen), false
}

func newGame(n int, fl flaws) *game {
	g := &game{n: n, f: 1, t: consilium.Threshold(n, 1), flaws: fl, attempts: searchAttempts}
	if n == 5 {
		g.attempts = 2 // three would be some 10^8 positions
	}
	if fl.t > 0 {
		g.t = fl.t
	}
	c := &consilium.Charter{Threshold: g.t, Faults: g.f, Members: make([]consilium.Member, n)}
	g.quorum = c.ReleaseQuorum()
	if fl.lowQuorum {
		g.quorum = n - g.t
	}
	for p := 1; p <= n; p++ {
		g.a = append(g.a, consilium.Position(p))
		if p != 2 {
			g.b = append(g.b, consilium.Position(p))
		}
	}
	return g
}

// TestEverySchedule: no schedule opens two sets; and without any one of the
// rules one does.
func TestEverySchedule(t *testing.T) {
	const limit = 2_000_000
	for n := 3; n <= 5; n++ {
		seen, both := newGame(n, flaws{}).search(limit)
		if both {
			t.Errorf("N %d: two sets of one round can be opened", n)
		}
		if seen > limit {
			t.Errorf("N %d: the search was cut short at %d positions", n, limit)
		}
		t.Logf("N %d: %d positions, all of them", n, seen)
	}
	for name, c := range map[string]struct {
		n int
		f flaws
	}{
		"no lock":                                {4, flaws{noLock: true}},
		"a renouncement fewer releases the lock": {5, flaws{lowQuorum: true}},
		"hospitals that opened renounce":         {4, flaws{liesAboutOpening: true}},
		"a renouncement is forgotten in a crash": {4, flaws{forgetsRenouncing: true}},
		"the old threshold":                      {5, flaws{t: 3}},
	} {
		if _, both := newGame(c.n, c.f).search(limit); !both {
			t.Errorf("%s, N %d: the search does not find the attack: the twin is not broken", name, c.n)
		}
	}
}
