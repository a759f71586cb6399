package worker

import (
	"slices"
	"testing"
)

// The search of binding_test.go, for more positions than fit: hospitals that keep
// every rule, in a smaller space.
//
//   - What a hospital sees is one attempt more than it has left for good, and what
//     it signed never to have opened ends before its first opening. So neither is kept
//     beside the binding; pack fails the test where that is not so.
//   - A vote binds nobody, so before a hospital leaves an attempt for good it has
//     voted in it, if it may: another vote can only make more openings possible.
//   - Votes of an attempt that every hospital has left open nothing any more.
//   - Which of the two sets is called A makes no difference, nor does the order of the
//     hospitals.
//
// TestReducedSearch holds the small search against the whole one where both end.

// pack is a hospital in 16 bits.
func (p player) pack(t testing.TB) uint64 {
	first, last, locked := uint32(0), uint32(0), uint64(0)
	for a := range uint32(searchAttempts) {
		if p.open[a] != 0 {
			if first == 0 {
				first = a + 1
			}
			last = a + 1
		}
	}
	signed := p.b.Renounced
	if first > 0 {
		signed = first - 1
	}
	if p.b.locked() {
		locked = 1
	}
	if uint32(p.sees) != p.b.Renounced+1 || uint32(p.signed) != signed || p.b.Opened != (first > 0) || p.b.locked() && p.b.Attempt != last {
		t.Fatalf("a hospital is not what its openings say: %+v", p)
	}
	k := uint64(p.b.Renounced)<<1 | locked
	for a := range searchAttempts {
		k = k<<4 | uint64(p.voted[a]&3)<<2 | uint64(p.open[a]&3)
	}
	return k
}

// unpack is the inverse of pack.
func (g *game) unpack(k uint64) player {
	var p player
	for a := searchAttempts - 1; a >= 0; a-- {
		p.open[a], p.voted[a] = name(k&3), name(k>>2&3)
		k >>= 4
	}
	locked := k&1 == 1
	p.b.Renounced = uint32(k >> 1)
	p.sees, p.signed = uint8(p.b.Renounced)+1, uint8(p.b.Renounced)
	for a := searchAttempts - 1; a >= 0; a-- {
		if p.open[a] != 0 {
			if locked && !p.b.locked() {
				p.b.Members, p.b.Attempt = g.members(p.open[a]), uint32(a+1)
			}
			p.b.Opened, p.signed = true, uint8(a)
		}
	}
	return p
}

func name(k uint64) byte {
	if k == 0 {
		return 0
	}
	return byte('A' - 1 + k)
}

// canonical names a position: dead votes dropped, hospitals in order, and of a
// position and its mirror image the smaller. Four hospitals fill the key.
func (g *game) canonical(t testing.TB, ps []player) uint64 {
	least := uint32(searchAttempts)
	for i := range ps {
		least = min(least, ps[i].b.Renounced)
	}
	var parts, mirror [4]uint64
	for i := range ps {
		p := ps[i]
		for a := range least {
			p.voted[a] = 0
		}
		parts[i] = p.pack(t)
		for a := range searchAttempts {
			p.voted[a], p.open[a] = other(p.voted[a]), other(p.open[a])
		}
		mirror[i] = p.pack(t)
	}
	join := func(list [4]uint64) (out uint64) {
		slices.Sort(list[:len(ps)])
		for _, k := range list[:len(ps)] {
			out = out<<16 | k
		}
		return out
	}
	return min(join(parts), join(mirror))
}

func other(set byte) byte {
	switch set {
	case 'A':
		return 'B'
	case 'B':
		return 'A'
	}
	return 0
}

// keys is a set of positions: open addressing, no zero key.
type keys struct {
	slots []uint64
	n     int
}

func (s *keys) add(k uint64) bool {
	if 4*s.n >= 3*len(s.slots) {
		old := s.slots
		s.slots, s.n = make([]uint64, max(1<<12, 2*len(old))), 0
		for _, o := range old {
			if o != 0 {
				s.add(o)
			}
		}
	}
	for i := k * 0x9e3779b97f4a7c15 >> 20; ; i++ {
		switch slot := &s.slots[i&uint64(len(s.slots)-1)]; *slot {
		case k:
			return false
		case 0:
			*slot = k
			s.n++
			return true
		}
	}
}

// reduced plays every schedule that matters. It returns the number of positions
// and whether both sets can be opened.
func (g *game) reduced(t testing.TB) (int, bool) {
	honest := make([]player, g.n-g.f)
	for i := range honest {
		honest[i].sees = 1
	}
	if len(honest) > 4 {
		t.Fatalf("%d honest hospitals: four fit a key", len(honest))
	}
	const mark = 1 << 63 // so that no key is zero; pack leaves the top bit of each hospital free
	var seen keys
	first := g.canonical(t, honest)
	seen.add(first | mark)
	queue := []uint64{first}
	ps, next := make([]player, len(honest)), make([]player, len(honest))
	for len(queue) > 0 {
		k := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		for i := range ps {
			ps[i] = g.unpack(k & 0xffff)
			k >>= 16
		}
		if g.both(ps) {
			return seen.n, true
		}
		for i := range ps {
			if i > 0 && ps[i].pack(t) == ps[i-1].pack(t) {
				continue // the same hospital again
			}
			for _, q := range g.moves(ps, i) {
				if q.sees < ps[i].sees {
					continue // an older log moves it to nothing: allows refuses, as pack's invariant says
				}
				if q.sees > ps[i].sees && g.mayVote(ps[i]) {
					continue // it votes first
				}
				copy(next, ps)
				next[i] = q
				if k := g.canonical(t, next); seen.add(k | mark) {
					queue = append(queue, k)
				}
			}
		}
	}
	return seen.n, false
}

// mayVote reports whether a hospital still has a vote in the attempt that it
// sees.
func (g *game) mayVote(p player) bool {
	return p.voted[p.sees-1] == 0 && (p.b.allows(uint32(p.sees), g.a) == nil || p.b.allows(uint32(p.sees), g.b) == nil)
}

// TestReducedSearch: where the whole search ends, the reduced one finds the same;
// and it finds the attack on every naive hospital that its reductions fit.
func TestReducedSearch(t *testing.T) {
	const limit = 2_000_000
	for n := 3; n <= 5; n++ {
		g := newGame(n, flaws{})
		whole, both := g.search(limit)
		few, found := g.reduced(t)
		if whole > limit || both || found || few >= whole {
			t.Errorf("N %d: %d positions and %v, reduced %d and %v", n, whole, both, few, found)
		}
		t.Logf("N %d, %d attempts: %d positions, reduced to %d", n, g.attempts, whole, few)
	}
	for name, c := range map[string]struct {
		n int
		f flaws
	}{
		"a renouncement fewer releases the lock": {5, flaws{lowQuorum: true}},
		"the old threshold":                      {5, flaws{t: 3}},
	} {
		g := newGame(c.n, c.f)
		if _, both := g.reduced(t); !both {
			t.Errorf("%s: the reduced search does not find the attack", name)
		}
	}
}

// TestEveryScheduleOfFive: N = 5 with three attempts, whole. Nothing hangs on the
// number of attempts; see binding.
func TestEveryScheduleOfFive(t *testing.T) {
	g := newGame(5, flaws{})
	g.attempts = searchAttempts
	n, both := g.reduced(t)
	if both {
		t.Error("two sets of one round can be opened")
	}
	t.Logf("%d positions, all of them", n)
	for name, f := range map[string]flaws{"a renouncement fewer releases the lock": {lowQuorum: true}, "the old threshold": {t: 3}} {
		g := newGame(5, f)
		g.attempts = searchAttempts
		if _, both := g.reduced(t); !both {
			t.Errorf("%s: the search does not find the attack: the twin is not broken", name)
		}
	}
}
