package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"consilium"
	"consilium/internal/canon"
)

// simRoster is one version of the roster, signed by the board.
type simRoster struct {
	signed *consilium.Signed
	parsed *consilium.Roster
	nodes  []consilium.NodeID
	keys   map[consilium.SiteID]string // the names of the hospitals' identity keys
}

// coordinator and site are the entries of a roster.
func (f *simFederation) coordinator(id consilium.NodeID) consilium.Coordinator {
	return consilium.Coordinator{ID: id, Country: "NL", Address: string(id), Raft: string(id) + "-raft",
		Key: f.keys["coordinator/"+string(id)].Public(), Ledger: f.notes[id].Verifier()}
}

func (f *simFederation) site(id consilium.SiteID) consilium.Site {
	return consilium.Site{ID: id, Name: string(id), Operator: string(id), Country: "NL", Regimes: []string{}, Key: f.keys[siteKey(id, 0)].Public()}
}

// sign is the board's part.
func (f *simFederation) sign(r *consilium.Roster) (*simRoster, error) {
	payload, err := canon.Marshal(r)
	if err != nil {
		return nil, err
	}
	out := &simRoster{signed: &consilium.Signed{Payload: payload}, keys: map[consilium.SiteID]string{}}
	for _, m := range r.Board.Members {
		sig, err := f.keys["board/"+m.ID].Sign(consilium.DomainRoster, payload)
		if err != nil {
			return nil, err
		}
		out.signed.Signatures = append(out.signed.Signatures, consilium.Countersign{By: m.ID, Signature: sig})
	}
	if out.parsed, err = consilium.ParseRoster(payload); err != nil {
		return nil, err
	}
	for i := range r.Coordinators {
		out.nodes = append(out.nodes, r.Coordinators[i].ID)
	}
	for i := range r.Sites {
		for k := range simKeys {
			if name := siteKey(r.Sites[i].ID, k); f.keys[name].Public() == r.Sites[i].Key {
				out.keys[r.Sites[i].ID] = name
			}
		}
	}
	return out, nil
}

// latest is the roster that the board has published last.
func (s *sim) latest() *simRoster { return s.rosters[len(s.rosters)-1] }

// members lists the nodes that shall form the cluster and have not lost their
// disks.
func (s *sim) members() []consilium.NodeID {
	return slices.DeleteFunc(slices.Clone(s.latest().nodes), func(id consilium.NodeID) bool { return s.nodes[id].lost })
}

// publish makes the next roster. Every machine installs it in its own time.
func (s *sim) publish(change func(*consilium.Roster)) {
	before := s.latest()
	next := *before.parsed
	next.Version++
	next.Previous = consilium.RosterDigest(before.signed.Payload)
	next.Coordinators, next.Sites = slices.Clone(next.Coordinators), slices.Clone(next.Sites)
	change(&next)
	if err := next.KeepsCoordinators(before.parsed); err != nil {
		s.trace("the board does not sign: %v", err)
		return
	}
	if !s.survives(func(id consilium.NodeID) bool { _, stays := next.Coordinator(id); return !stays }) {
		s.trace("the board waits until the roster before is carried out")
		return
	}
	r, err := s.fed.sign(&next)
	if err != nil {
		s.violate("roster version %d: %v", next.Version, err)
		return
	}
	s.rosters = append(s.rosters, r)
	for _, id := range r.nodes {
		if s.nodes[id] == nil {
			s.machine(id, len(s.rosters))
		}
	}
	for i := range r.parsed.Sites {
		if id := r.parsed.Sites[i].ID; s.sites[id] == nil {
			s.hospital(id, len(s.rosters))
		}
	}
	soon := func() time.Time {
		return time.Now().Add([]time.Duration{0, 0, 200 * time.Millisecond, 5 * time.Second, 3 * time.Minute}[s.rng.IntN(5)])
	}
	for _, id := range s.log.order {
		s.nodes[id].install = soon()
	}
	for _, id := range sortedSiteIDs(s.sites) {
		s.sites[id].install = soon()
	}
	s.trace("roster version %d: nodes %v, hospitals %v", next.Version, r.nodes, r.keys)
}

// changeNodes adds, drops and replaces coordinators: at most five, at least
// three, and a majority of those before stays.
func (s *sim) changeNodes(a, b int) {
	have := len(s.latest().nodes)
	add := func(r *consilium.Roster) {
		if i := len(s.log.order) + 1 + len(r.Coordinators) - have; i <= simMachines {
			r.Coordinators = append(r.Coordinators, s.fed.coordinator(simNodeID(i)))
		}
	}
	drop := func(r *consilium.Roster) {
		i := b % have
		if lost := slices.IndexFunc(r.Coordinators, func(c consilium.Coordinator) bool { m := s.nodes[c.ID]; return m != nil && m.lost }); lost >= 0 {
			i = lost // the board replaces what is gone first
		}
		r.Coordinators = slices.Delete(r.Coordinators, i, i+1)
	}
	if len(s.log.order) >= simMachines && have <= 3 {
		return
	}
	s.publish(func(r *consilium.Roster) {
		switch a % 5 {
		case 0, 1: // a node replaced
			if have == 3 || a%2 == 0 {
				add(r)
			}
			if len(r.Coordinators) > 3 {
				drop(r)
			}
		case 2: // three to five
			for have+2 > len(r.Coordinators) && len(r.Coordinators) < 5 && len(s.log.order)+len(r.Coordinators)-have < simMachines {
				add(r)
			}
		case 3: // and back
			for len(r.Coordinators) > 3 && len(r.Coordinators) > have-2 {
				drop(r)
				have = len(r.Coordinators)
			}
		case 4: // one more
			if have < 5 {
				add(r)
			}
		}
	})
}

// changeHospitals adds a hospital, revokes one or gives one another key.
func (s *sim) changeHospitals(a, b int) {
	r := s.latest()
	at := b % len(r.parsed.Sites)
	id := r.parsed.Sites[at].ID
	switch a % 3 {
	case 0:
		i := slices.IndexFunc(s.slots, func(id consilium.SiteID) bool { return s.sites[id] == nil })
		if i < 0 {
			return
		}
		s.publish(func(r *consilium.Roster) { r.Sites = append(r.Sites, s.fed.site(s.slots[i])) })
		s.sites[s.slots[i]].again = s.sites[s.slots[i]].install
	case 1:
		if len(r.parsed.Sites) <= 3 {
			return
		}
		s.publish(func(r *consilium.Roster) { r.Sites = slices.Delete(r.Sites, at, at+1) })
	case 2:
		k := int(r.keys[id][len(r.keys[id])-1]-'0') + 1
		if k == simKeys {
			return
		}
		s.publish(func(r *consilium.Roster) { r.Sites[at].Key = s.fed.keys[siteKey(id, k)].Public() })
	}
}

// ends reports whether a node may end by itself for this reason: the roster has
// dropped it, or it came back without its disk.
func (m *simNode) ends(cause error) bool {
	return errors.Is(cause, errLeft) || m.lost && errors.Is(cause, consilium.ErrStale)
}

// tendNode is what a coordinator's operator does.
func (s *sim) tendNode(m *simNode, now time.Time) {
	if n := m.node; n != nil {
		if cause := context.Cause(n.halt); cause != nil && m.ends(cause) {
			m.left = m.left || errors.Is(cause, errLeft)
			if r := n.raftNode(); r != nil && r.State() == raft.Leader {
				r.LeadershipTransfer()
			}
			s.trace("%s ended: %v", m.id, cause)
			s.killNode(m.id, 0)
			return
		}
	}
	if m.roster >= len(s.rosters) || now.Before(m.install) || m.left {
		return
	}
	if m.node == nil { // what it starts with next; a version may be skipped
		m.roster = len(s.rosters)
		return
	}
	err := m.node.UpdateRoster(s.rosters[m.roster].signed)
	switch {
	case err == nil:
		m.roster++
	case errors.Is(err, consilium.ErrUnavailable): // the version before is not carried out yet
		m.install = now.Add(time.Second)
	default:
		s.violate("%s refuses roster version %d: %v", m.id, m.roster+1, err)
	}
}

// empty reports whether a node's directory holds no log.
func (c *simLog) empty(id consilium.NodeID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.disks[id]
	return d.last() == 0 && d.term == 0
}

// holdsDisk reports whether a server of a configuration still has the directory
// with which it joined.
func (s *sim) holdsDisk(id raft.ServerID) bool {
	m := s.nodes[nodeOf(id)]
	return serverID(m.id, m.incarnation()) == id && !m.lost
}

// survives reports whether a majority stays in every configuration that any disk
// holds, without the nodes that are lost and those that go.
func (s *sim) survives(goes func(consilium.NodeID) bool) bool {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	for _, id := range s.log.order {
		conf, _ := s.log.disks[id].conf()
		voters, gone := 0, 0
		for _, server := range conf {
			if server.Suffrage != raft.Voter {
				continue
			}
			voters++
			if goes(nodeOf(server.ID)) || !s.holdsDisk(server.ID) {
				gone++
			}
		}
		if voters > 0 && gone > (voters-1)/2 {
			return false
		}
	}
	return true
}

// loseDisk takes a node's disk away for good, if what is left is still a
// majority in every configuration that any disk holds. The node may come back with
// an empty one.
func (s *sim) loseDisk(id consilium.NodeID, again bool) {
	m := s.nodes[id]
	if m.lost || m.left || !s.survives(func(other consilium.NodeID) bool {
		_, stays := s.latest().parsed.Coordinator(other)
		return other == id || !stays
	}) {
		return
	}
	known := false
	s.log.mu.Lock()
	for _, other := range s.log.order {
		conf, _ := s.log.disks[other].conf()
		known = known || slices.ContainsFunc(conf, func(server raft.Server) bool { return nodeOf(server.ID) == id })
	}
	s.log.mu.Unlock()
	s.killNode(id, 0)
	s.log.mu.Lock()
	s.log.disks[id] = &simDisk{}
	s.log.mu.Unlock()
	m.disk++
	m.lost = known
	m.dir = fmt.Sprintf("%s-%d", m.dir, m.disk)
	m.blobs = &simBlobs{Store: newSimStore()}
	if again {
		s.startNode(id)
	}
}

// replaceLost lets the board replace what was lost.
func (s *sim) replaceLost() {
	for _, id := range s.latest().nodes {
		if !s.nodes[id].lost {
			continue
		}
		s.publish(func(r *consilium.Roster) {
			r.Coordinators = slices.DeleteFunc(r.Coordinators, func(c consilium.Coordinator) bool { return c.ID == id })
			if i := len(s.log.order) + 1; i <= simMachines+simSpare {
				r.Coordinators = append(r.Coordinators, s.fed.coordinator(simNodeID(i)))
			}
		})
	}
}

// reformed reports whether the newest roster is in force: every machine has it,
// and its nodes and no others vote.
func (s *sim) reformed() bool {
	for _, id := range s.log.order {
		if m := s.nodes[id]; !m.left && m.node != nil && m.roster < len(s.rosters) {
			return false
		}
	}
	for _, h := range s.sites {
		if h.roster < len(s.rosters) {
			return false
		}
	}
	for _, r := range s.log.leaders() {
		s.log.mu.Lock()
		conf, index := r.disk.conf()
		committed := index <= r.commit
		s.log.mu.Unlock()
		var have []consilium.NodeID
		for _, server := range conf {
			if server.Suffrage == raft.Voter {
				have = append(have, nodeOf(server.ID))
			}
		}
		slices.Sort(have)
		want := slices.Sorted(slices.Values(s.latest().nodes))
		if committed && slices.Equal(have, want) {
			return true
		}
	}
	return false
}

// afresh wants the federation as the last roster has it to carry out a study.
func (s *sim) afresh() {
	p := s.fresh
	for _, h := range s.sites {
		h.declines, h.dry = false, 0
	}
	s.team.aim(s.members()[0])
	s.submit(p)
	for range 60 {
		s.run(200, time.Hour)
		if s.violated() != nil {
			return
		}
		done := false
		s.ahead().node.fsm.read(func(st *State) {
			i, ok := st.Study(p.id)
			done = ok && i.Phase.Ended()
		})
		if done {
			break
		}
	}
	s.ahead().node.fsm.read(func(st *State) {
		if i, ok := st.Study(p.id); !ok || i.Phase != consilium.PhaseDone {
			s.violate("after all changes a new study is %s (%s)", i.Phase, i.Reason)
		}
	})
}

// mayLeave says whether an honest hospital may give a study up for this reason:
// the roster changed under it, or a node lied to it.
func (s *sim) mayLeave(id consilium.SiteID, why string) bool {
	if s.p.Liar > 0 {
		return true
	}
	return len(s.rosters) > 1 && slices.ContainsFunc([]string{
		consilium.ErrStale.Msg, consilium.ErrSignature.Msg, consilium.ErrUnauthenticated.Msg, consilium.ErrNotMember.Msg,
		"the draft names another roster", // a first enrolment that a new roster stops: docs/limits.md
	}, func(text string) bool { return strings.Contains(why, text) })
}
