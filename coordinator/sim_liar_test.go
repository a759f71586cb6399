package coordinator

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"consilium"
	"consilium/internal/wire"
)

// simLiar is a dishonest node. To honest hospitals that follow it, it shows another
// log than there is: it withholds events, names another blob as the sum, and
// proposes another set of contributors, for which the hostile hospitals then vote
// and whose votes and openings it hands on to those who see it, while it tells them
// that theirs are recorded. What must hold all the same is in opening.
type simLiar struct {
	s *sim

	mu     sync.Mutex
	kind   int
	left   int // events that it still lies about
	told   int // lies
	sets   map[consilium.Digest]*simSet
	forged map[consilium.Digest]*simSet // by the digest of the true set, what is shown instead
	opened map[string][]*simSet         // by study and round: sets that anybody opened
}

// simSet is a set of contributors that hospitals were shown.
type simSet struct {
	*consilium.Contributors
	charter *consilium.Charter
	sites   []consilium.SiteID
	forged  bool
	openers map[string]bool
	said    []*consilium.Message // votes and openings for a forged one
}

// What a liar does.
const (
	lieSet = iota
	lieWithhold
	lieSum
	lies
)

func newSimLiar(s *sim) *simLiar {
	return &simLiar{s: s, sets: map[consilium.Digest]*simSet{}, forged: map[consilium.Digest]*simSet{}, opened: map[string][]*simSet{}}
}

// arm makes the liar lie about some events.
func (l *simLiar) arm(kind, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kind, l.left = kind%lies, n
}

// know remembers a set that the log proposes. l.mu is held.
func (l *simLiar) know(n *Node, ev *consilium.Event) *simSet {
	u, err := consilium.ParseContributors(ev.Body)
	if err != nil {
		return nil
	}
	if set := l.sets[u.Digest()]; set != nil {
		return set
	}
	var charter *consilium.Charter
	var digest consilium.Digest
	n.fsm.read(func(st *State) { charter, digest, _ = st.Charter(ev.Study) })
	if charter == nil || digest != u.Charter {
		return nil // of an epoch that is over
	}
	return l.add(u, charter, false)
}

func (l *simLiar) add(u *consilium.Contributors, charter *consilium.Charter, forged bool) *simSet {
	set := &simSet{Contributors: u, charter: charter, forged: forged, openers: map[string]bool{}}
	for _, p := range u.Positions() {
		set.sites = append(set.sites, charter.Members[p-1].Site)
	}
	l.sets[u.Digest()] = set
	return set
}

// show is what a hospital gets to see of an event at a node: the event, another in
// its place, or nothing; and before it what the liar hands on.
func (l *simLiar) show(n *Node, c *simClient, ev *consilium.Event) (out []*consilium.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var set *simSet
	if ev.Kind == consilium.EventProposed {
		set = l.know(n, ev)
	}
	if l.s.p.Liar == 0 || n.cfg.ID != simNodes[(l.s.p.Liar-1)%len(simNodes)] || c.id.Role != wire.RoleSite || slices.Contains(l.s.p.hostile(), consilium.SiteID(c.id.Name)) {
		return []*consilium.Event{ev}
	}
	for _, d := range sortedDigests(l.sets) {
		if set := l.sets[d]; set.forged && set.charter.Study == ev.Study {
			for _, m := range set.said {
				out = append(out, &consilium.Event{Seq: ev.Seq, Time: ev.Time, Study: ev.Study, Kind: consilium.EventMessage, Body: m.Encode()})
			}
		}
	}
	shown := *ev
	switch {
	case set != nil && l.forged[set.Digest()] != nil:
		shown.Body = l.forged[set.Digest()].Encode()
	case l.left == 0:
	case l.kind == lieWithhold:
		l.left--
		l.told++
		return out
	case l.kind == lieSet && set != nil && len(set.Members) > 1:
		l.left--
		l.told++
		u := *set.Contributors
		out := l.told % len(u.Members)
		u.Members = slices.Delete(slices.Clone(u.Members), out, out+1)
		other := l.add(&u, set.charter, true)
		l.forged[set.Digest()] = other
		for _, id := range l.s.p.hostile() {
			if p, in := set.charter.Position(id); in {
				v := &consilium.Vote{At: consilium.At{Charter: u.Charter, Round: u.Round, Attempt: u.Attempt, Position: p}, Set: u.Digest()}
				other.said = append(other.said, l.s.sign(l.s.sites[id].client, consilium.KindVote, ev.Study, v.Encode()))
			}
		}
		shown.Body = u.Encode()
		l.s.trace("%s shows %s to %s instead of %s", n.cfg.ID, other.sites, c.name, set.sites)
	case l.kind == lieSum && ev.Kind == consilium.EventSummed:
		if sum, err := consilium.ParseSummed(ev.Body); err == nil {
			l.left--
			l.told++
			sum.Blob = dig("not the sum")
			shown.Body = sum.Encode()
		}
	}
	return append(out, &shown)
}

// takes reports whether a statement is about a set that only the liar's victims
// were shown: it keeps it and says that it is recorded.
func (l *simLiar) takes(m *consilium.Message) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	var digest consilium.Digest
	switch m.Kind {
	case consilium.KindVote:
		if v, err := consilium.ParseVote(m.Body); err == nil {
			digest = v.Set
		}
	case consilium.KindOpening:
		if v, err := consilium.ParseOpening(m.Body); err == nil {
			digest = v.Set
		}
	}
	set := l.sets[digest]
	if set == nil {
		return false
	}
	if m.Kind == consilium.KindOpening {
		l.opening(set, m)
	}
	if set.forged {
		set.said = append(set.said, m)
	}
	return set.forged
}

// opening is what holds whoever lies: no hospital opens a sum of too few, and of
// one round no two sets have as many openings as it takes, those that hostile
// hospitals could make included.
func (l *simLiar) opening(set *simSet, m *consilium.Message) {
	honest := !slices.Contains(l.s.p.hostile(), consilium.SiteID(m.By))
	if k := set.charter.Operators(set.Positions()); honest && k < set.charter.MinSites {
		l.s.violate("%s opens a sum of %d hospitals, min_sites is %d", m.By, k, set.charter.MinSites)
	}
	key := fmt.Sprint(m.Study, "/", set.Round)
	if len(set.openers) == 0 {
		l.opened[key] = append(l.opened[key], set)
	}
	set.openers[m.By] = true
	var open []string
	for _, other := range l.opened[key] {
		n := len(other.openers)
		for _, id := range l.s.p.hostile() {
			if _, in := other.charter.Position(id); in && !other.openers[string(id)] {
				n++
			}
		}
		if names := fmt.Sprint(other.sites); n >= other.charter.Threshold && !slices.Contains(open, names) {
			open = append(open, names)
		}
	}
	if len(open) > 1 {
		l.s.violate("two sums of round %d of %s can be opened: over %s", set.Round, l.s.short(m.Study), strings.Join(open, " and "))
	}
}

func sortedDigests(m map[consilium.Digest]*simSet) []consilium.Digest {
	out := make([]consilium.Digest, 0, len(m))
	for d := range m {
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b consilium.Digest) int {
		x, y := m[a], m[b]
		if x.Round != y.Round {
			return int(x.Round) - int(y.Round)
		}
		return int(x.Attempt) - int(y.Attempt)
	})
	return out
}
