package worker

import (
	"slices"
	"testing"

	"consilium"
)

// The same question across the boundary of two epochs: can t shares for one set
// come together under the old charter and t for another under the new one, in the
// same round? The coordinator chooses who is shown what and when, f hospitals
// collude under both charters, and the new one has everybody, or everybody but the
// victim, or newcomers besides, who were bound to nothing. Bindings are the gate's;
// what leaves an epoch is journalled and checked as here (hasLeft, succeeds).

// migrant is one honest hospital in two epochs.
type migrant struct {
	old, new binding
	voted    [2]byte // in two attempts of the old epoch
	open     [2]byte
	votedNew byte // in one attempt of the new epoch
	openNew  byte
	left     bool // it has departed
	signed   bool // the next charter
	newcomer bool
}

// crossing is a game over the boundary.
type crossing struct {
	n, f      int  // of the old charter
	victim    bool // the victim, hospital 2, goes on as well
	newcomers int
	flaws     boundary
}

// boundary are rules that a naive hospital leaves out.
type boundary struct {
	noCount     bool // it signs the next charter without counting departures
	onePerFewer bool // it counts one departure fewer
	departsOpen bool // it departs though it has opened
	opensAfter  bool // it opens under a charter that it has left
}

func (c *crossing) quorum() int {
	t := consilium.Threshold(c.n, c.f)
	q := (&consilium.Charter{Threshold: t, Faults: c.f, Members: make([]consilium.Member, c.n)}).ReleaseQuorum()
	if c.flaws.onePerFewer {
		q--
	}
	return q
}

// goes reports whether a hospital is in the new charter. Hospital 0 is the
// victim.
func (c *crossing) goes(i int, m *migrant) bool { return i > 0 || c.victim || m.newcomer }

func (c *crossing) size() int {
	n := c.n + c.newcomers
	if !c.victim {
		n--
	}
	return n
}

func (c *crossing) thresholdNew() int { return consilium.Threshold(c.size(), c.f) }

var bothSets = []struct {
	name    byte
	members []consilium.Position
}{{'A', []consilium.Position{1, 2, 3, 4, 5}}, {'B', []consilium.Position{1, 3, 4, 5}}}

func (c *crossing) moves(ms []migrant, i int) []migrant {
	m := ms[i]
	var out []migrant
	count := func(f func(*migrant) bool) int {
		n := c.f
		for k := range ms {
			if f(&ms[k]) {
				n++
			}
		}
		return n
	}
	t := consilium.Threshold(c.n, c.f)
	if !m.newcomer && (!m.left && !m.signed || c.flaws.opensAfter) {
		for a := range m.open {
			for _, s := range bothSets {
				set, members := s.name, s.members
				if m.old.join(uint32(a+1)).allows(uint32(a+1), members) != nil {
					continue
				}
				if m.voted[a] == 0 {
					q := m
					q.old = q.old.join(uint32(a + 1))
					q.voted[a] = set
					out = append(out, q)
				}
				if m.open[a] == 0 && count(func(o *migrant) bool { return o.voted[a] == set }) >= t {
					q := m
					q.old = q.old.join(uint32(a+1)).lock(uint32(a+1), members)
					q.open[a] = set
					out = append(out, q)
				}
			}
		}
	}
	if !m.newcomer && !m.left && (!m.old.Opened || c.flaws.departsOpen) {
		q := m
		q.left = true
		out = append(out, q)
	}
	// Departures are signatures: those who colluded sign what they like.
	ready := c.flaws.noCount || count(func(o *migrant) bool { return o.left }) >= c.quorum()
	if ready && c.goes(i, &m) && !m.signed {
		q := m
		q.signed = true
		out = append(out, q)
	}
	complete := true
	for k := range ms {
		complete = complete && (!c.goes(k, &ms[k]) || ms[k].signed)
	}
	if complete && m.signed {
		for _, s := range bothSets {
			set, members := s.name, s.members
			if !c.victim && set == 'A' || m.new.allows(1, members) != nil {
				continue // the victim is in no set of a charter without it
			}
			if m.votedNew == 0 {
				q := m
				q.votedNew = set
				out = append(out, q)
			}
			if m.openNew == 0 && count(func(o *migrant) bool { return o.votedNew == set }) >= c.thresholdNew() {
				q := m
				q.openNew, q.new = set, q.new.lock(1, members)
				out = append(out, q)
			}
		}
	}
	return out
}

// lost reports whether both sets are open, one on each side.
func (c *crossing) lost(ms []migrant) bool {
	shares := func(f func(*migrant) bool) int {
		n := c.f
		for i := range ms {
			if f(&ms[i]) {
				n++
			}
		}
		return n
	}
	t := consilium.Threshold(c.n, c.f)
	for _, pair := range [][2]byte{{'A', 'B'}, {'B', 'A'}} {
		for a := range ms[0].open {
			if shares(func(m *migrant) bool { return m.open[a] == pair[0] }) >= t && shares(func(m *migrant) bool { return m.openNew == pair[1] }) >= c.thresholdNew() {
				return true
			}
		}
	}
	return false
}

// key names a position: three bytes and some for each hospital.
func (c *crossing) key(ms []migrant) (out [6]uint32) {
	for i := range ms {
		m := &ms[i]
		k := uint32(len(m.old.Members))<<2 | m.old.Attempt
		k = k<<2 | m.old.Renounced
		for _, b := range []byte{m.voted[0], m.voted[1], m.open[0], m.open[1], m.votedNew, m.openNew} {
			k = k<<2 | uint32(b&3)
		}
		for _, b := range []bool{m.old.Opened, m.left, m.newcomer, m.signed} {
			k <<= 1
			if b {
				k |= 1
			}
		}
		out[i] = k
	}
	slices.Sort(out[1:len(ms)]) // all but the victim are alike
	return out
}

func (c *crossing) search(limit int) (int, bool) {
	start := make([]migrant, c.n-c.f+c.newcomers)
	for i := c.n - c.f; i < len(start); i++ {
		start[i].newcomer = true
	}
	seen := map[[6]uint32]struct{}{c.key(start): {}}
	stack := [][]migrant{start}
	for len(stack) > 0 {
		ms := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if c.lost(ms) {
			return len(seen), true
		}
		for i, m := range ms {
			for _, q := range c.moves(ms, i) {
				ms[i] = q
				k := c.key(ms)
				if _, ok := seen[k]; !ok {
					seen[k] = struct{}{}
					if len(seen) > limit {
						return len(seen), false
					}
					stack = append(stack, slices.Clone(ms))
				}
				ms[i] = m
			}
		}
	}
	return len(seen), false
}

// TestEveryEpochSchedule: no schedule opens a round on both sides of a boundary
// for two sets; and without any one of the rules one does.
func TestEveryEpochSchedule(t *testing.T) {
	const limit = 3_000_000
	for _, c := range []crossing{{n: 3, f: 1, victim: true}, {n: 4, f: 1, victim: true}, {n: 4, f: 1}, {n: 4, f: 1, newcomers: 1}, {n: 5, f: 1}} {
		seen, lost := c.search(limit)
		if lost {
			t.Errorf("%+v: the round is opened for two sets", c)
		}
		if seen > limit {
			t.Errorf("%+v: the search was cut short at %d positions", c, limit)
		}
		t.Logf("N %d, the victim goes on: %v, %d newcomers: %d positions, all of them", c.n, c.victim, c.newcomers, seen)
	}
	for name, c := range map[string]crossing{
		"nobody counts who has left":           {n: 4, f: 1, flaws: boundary{noCount: true}},
		"one departure fewer":                  {n: 4, f: 1, flaws: boundary{onePerFewer: true}},
		"hospitals that opened depart":         {n: 4, f: 1, flaws: boundary{departsOpen: true}},
		"hospitals open in an epoch they left": {n: 4, f: 1, flaws: boundary{opensAfter: true}},
	} {
		if _, lost := c.search(limit); !lost {
			t.Errorf("%s: the search does not find the attack: the twin is not broken", name)
		}
	}
}
