package coordinator

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"consilium"
	"consilium/worker"
)

// program is one simulated federation's fate. It is all that a run depends on,
// and what a regression file holds.
type program struct {
	Seed    uint64 // of the order in which things happen
	Sites   int
	Rounds  int  // of every study, from 1
	Missing int  // of every study: wait, abort, continue (a learned one)
	Hostile int  // which hospital is, or 0
	Second  int  `json:",omitempty"` // another one: the studies are made for two then
	Liar    int  `json:",omitempty"` // which of the first nodes lies to hospitals, or 0
	Cancel  bool // at the end the team cancels what still runs
	Afresh  bool `json:",omitempty"` // and, if the roster has changed, the last one has to carry out a new study
	Ops     []op
}

// op is one thing that goes wrong, or is done, and how many steps of the
// federation follow it.
type op struct {
	Do    string
	A, B  int `json:",omitempty"`
	Steps int `json:",omitempty"`
}

// ops is everything that an operation may be. weight is how often it is drawn.
var ops = []struct {
	name   string
	weight int
	run    func(s *sim, a, b int)
}{
	{"run", 6, func(s *sim, a, b int) {}},
	{"submit", 3, func(s *sim, a, b int) {
		s.team.aim(s.nodeAt(b)) // it may be one that only believes that it leads
		s.submit(s.plans[a%len(s.plans)])
	}},
	{"status", 4, func(s *sim, a, b int) { s.ask(s.plans[a%len(s.plans)], b) }},
	{"pass", 3, func(s *sim, a, b int) {
		time.Sleep([]time.Duration{time.Second, 10 * time.Second, time.Minute, 130 * time.Second, 5 * time.Minute, time.Second, 10 * time.Second, time.Minute, 130 * time.Second, 5 * time.Minute, 80 * time.Hour}[a%11])
	}},
	{"kill node", 3, func(s *sim, a, b int) { s.killNode(s.nodeAt(a), b%200) }},
	{"start node", 3, func(s *sim, a, b int) { s.startNode(s.nodeAt(a)) }},
	{"kill leader", 3, func(s *sim, a, b int) {
		if l := s.log.leaders(); len(l) > 0 {
			s.killNode(l[len(l)-1].id, b%200)
		}
	}},
	{"elect", 3, func(s *sim, a, b int) { s.log.elect(s.nodeAt(a)) }},
	{"snapshot", 2, func(s *sim, a, b int) {
		if err := s.log.compact(s.nodeAt(a), uint64(b%4)); err != nil {
			s.violate("snapshot: %v", err)
		}
	}},
	{"kill site", 3, func(s *sim, a, b int) { s.killSite(s.siteAt(a).id) }},
	{"start site", 3, func(s *sim, a, b int) { s.startSite(s.siteAt(a).id) }},
	{"crash site", 3, func(s *sim, a, b int) {
		points := slices.Concat(worker.CrashPoints, worker.TroubleCrashPoints)
		h := s.siteAt(a)
		h.mu.Lock()
		h.halt = points[b%len(points)]
		h.mu.Unlock()
	}},
	{"drop", 3, func(s *sim, a, b int) { s.faults(a, func(f *linkFault) { f.drop += 1 + b%3 }) }},
	{"lose answer", 3, func(s *sim, a, b int) { s.faults(a, func(f *linkFault) { f.lose += 1 + b%3 }) }},
	{"duplicate", 3, func(s *sim, a, b int) { s.faults(a, func(f *linkFault) { f.twice += 1 + b%3 }) }},
	{"delay", 3, func(s *sim, a, b int) { s.faults(a, func(f *linkFault) { f.hold += 5 + b%80 }) }},
	{"replay", 3, func(s *sim, a, b int) { s.replay(a, b) }},
	{"cut", 3, func(s *sim, a, b int) { s.cutLink(a, b, true) }},
	{"mend", 3, func(s *sim, a, b int) { s.cutLink(a, b, false) }},
	{"split", 2, func(s *sim, a, b int) { // members reach a leader that reaches no other node
		if l := s.log.leaders(); len(l) > 0 {
			s.split(l[0].id)
		}
	}},
	{"isolate", 2, func(s *sim, a, b int) {
		for i := range s.ends() {
			s.cutLink(a, i, true)
		}
	}},
	{"log error", 3, func(s *sim, a, b int) {
		s.log.mu.Lock()
		defer s.log.mu.Unlock()
		s.log.disks[s.nodeAt(a)].fail = []diskFault{diskLost, diskKept}[b%2]
	}},
	{"blob error", 2, func(s *sim, a, b int) { s.nodes[s.nodeAt(a)].blobs.arm([]diskFault{diskLost, diskKept}[b%2]) }},
	{"site disk error", 3, func(s *sim, a, b int) { s.siteAt(a).fs.arm([]fileFault{fileLost, fileTorn, fileKept}[b%3]) }},
	{"clock", 3, func(s *sim, a, b int) {
		d := []time.Duration{-24 * time.Hour, -time.Minute, time.Minute, 3 * time.Minute, 24 * time.Hour}[b%5]
		if a %= 6; a < 3 {
			s.nodes[s.nodeAt(a)].skew = d
		} else {
			s.siteAt(a - 3).skew = d
		}
	}},
	{"hostile", 4, func(s *sim, a, b int) {
		for i, id := range s.p.hostile() {
			if h := s.sites[id]; b%3 == i || b%3 == 2 { // one of two, or both
				h.client.mu.Lock()
				h.client.trick = 1 + a%(tricks-1)
				h.client.mu.Unlock()
			}
		}
	}},
	{"liar", 4, func(s *sim, a, b int) { s.liar.arm(a, 1+b%3) }},
	{"decline", 1, func(s *sim, a, b int) { s.siteAt(a).declines = true }},
	{"nothing to contribute", 2, func(s *sim, a, b int) { s.siteAt(a).dry = uint32(b % 4) }},
	{"refuse", 1, func(s *sim, a, b int) { s.plans[a%len(s.plans)].refused = true }},
	{"coup", 3, func(s *sim, a, b int) { // another leads, and the one before does not notice
		l := s.log.leaders()
		if len(l) != 1 {
			return
		}
		s.split(l[0].id)
		if next := s.nodeAt(a); s.log.elect(next) {
			s.team.aim(next)
			p := s.plans[b%len(s.plans)]
			s.submit(p, func() { s.ask(p, slices.Index(s.log.order, l[0].id)) })
		}
	}},
	{"deposed", 2, func(s *sim, a, b int) { // one that does not notice is asked about a study that has ended meanwhile
		l := s.log.leaders()
		if len(l) != 1 {
			return
		}
		s.split(l[0].id)
		next := s.nodeAt(a)
		if !s.log.elect(next) {
			return
		}
		for i := range s.plans {
			p, live := s.plans[(b+i)%len(s.plans)], false
			l[0].node.fsm.read(func(st *State) { info, ok := st.Study(p.id); live = ok && !info.Phase.Ended() })
			if live {
				s.team.aim(next)
				s.cancel(p, time.Minute, func() { s.ask(p, slices.Index(s.log.order, next)) })
				return
			}
		}
	}},
	{"nodes", 2, func(s *sim, a, b int) { s.changeNodes(a, b) }},
	{"hospitals", 2, func(s *sim, a, b int) { s.changeHospitals(a, b) }},
	{"lose disk", 2, func(s *sim, a, b int) { s.loseDisk(s.nodeAt(a), b%2 == 0) }},
	{"cancel", 1, func(s *sim, a, b int) { s.cancel(s.plans[a%len(s.plans)], time.Minute) }},
}

func opNamed(name string) func(s *sim, a, b int) {
	for i := range ops {
		if ops[i].name == name {
			return ops[i].run
		}
	}
	return nil
}

// nodeAt is the i-th coordinator's machine.
func (s *sim) nodeAt(i int) consilium.NodeID { return s.log.order[i%len(s.log.order)] }

// split takes a node from the others; members still reach it.
func (s *sim) split(id consilium.NodeID) {
	at := slices.Index(s.log.order, id)
	for i := range s.log.order {
		s.cutLink(at, i, true)
	}
}

// ends lists who is at an end of a link: nodes, hospitals, the team.
func (s *sim) ends() []string {
	var out []string
	for _, id := range s.log.order {
		out = append(out, string(id))
	}
	for _, id := range sortedSiteIDs(s.sites) {
		out = append(out, string(id))
	}
	return append(out, "team")
}

func (s *sim) faults(a int, f func(*linkFault)) {
	ends := s.ends()
	fault := s.net.fault(ends[a%len(ends)])
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	f(fault)
}

func (s *sim) cutLink(a, b int, cut bool) {
	ends := s.ends()
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	key := pair(ends[a%len(s.log.order)], ends[b%len(ends)])
	if cut && key[0] != key[1] {
		s.net.cuts[key] = true
	} else {
		delete(s.net.cuts, key)
	}
}

// replay delivers an old statement once more, from wherever it lay.
func (s *sim) replay(a, b int) {
	s.net.mu.Lock()
	if len(s.net.done) == 0 {
		s.net.mu.Unlock()
		return
	}
	// Two answers may come at one instant: whose is first does not matter.
	slices.SortStableFunc(s.net.done, func(a, b simCopy) int { return strings.Compare(a.from+a.what, b.from+b.what) })
	c := s.net.done[a%len(s.net.done)]
	s.net.mu.Unlock()
	to := s.nodeAt(b)
	s.task(time.Minute, func(ctx context.Context) { s.net.call(ctx, c.id, "old-"+c.from, to, c.what, c.run) })
}

// ask asks every node in turn for a study's status, and for its result.
func (s *sim) ask(p *simPlan, b int) {
	nodes := s.log.order
	s.task(time.Minute, func(ctx context.Context) {
		for i := range nodes {
			to := nodes[(b+i)%len(nodes)]
			c := &simClient{n: s.net, id: s.team.id, name: "team", key: s.team.key, nodes: func() []consilium.NodeID { return nodes }, target: to}
			s.record(simInput{token: p.token, study: p.label, op: opStatus}, func() (out simOutput, err error) {
				err = c.do(ctx, "status "+p.label, func(ctx context.Context, n *Node) error {
					st, err := n.server.Status(ctx, c.id, p.id)
					if err == nil {
						out = simOutput{found: true, rank: rankOf(st.Phase, st.Round)}
					}
					return err
				})
				return out, err
			})
			blob, ok := s.resultOf(p.id)
			if !ok {
				continue
			}
			c.aim(to)
			s.record(simInput{token: p.token, study: p.label, op: opResult}, func() (simOutput, error) {
				rc, err := c.Fetch(ctx, blob, 0, 0)
				if err != nil {
					return simOutput{}, err
				}
				defer rc.Close()
				b, err := io.ReadAll(rc)
				return simOutput{found: len(b) > 0}, err
			})
		}
	})
}

// resultOf is the digest of a study's result, as it can be known: from any
// publication that a hospital has made.
func (s *sim) resultOf(id consilium.StudyID) (d consilium.Digest, ok bool) {
	r := s.ahead()
	if r == nil {
		return d, false
	}
	r.node.fsm.read(func(st *State) {
		if i, known := st.Study(id); known && !i.Result.IsZero() {
			d, ok = i.Result, true
		}
	})
	return d, ok
}

// gentle reports whether a program holds nothing that may end a study: members
// are honest and want it, and clocks are right.
func (p *program) gentle() bool {
	return p.Hostile == 0 && p.Liar == 0 && !slices.ContainsFunc(p.Ops, func(o op) bool {
		return slices.Contains([]string{"clock", "decline", "nothing to contribute", "refuse", "cancel", "deposed", "nodes", "hospitals", "lose disk"}, o.Do)
	})
}

// hostile lists the hospitals that are: as many as the studies are made for.
func (p *program) hostile() (out []consilium.SiteID) {
	for _, i := range []int{p.Hostile, p.Second} {
		if i > 0 && i <= p.Sites {
			out = append(out, simSiteID(i))
		}
	}
	return out
}

// generate draws a program.
func generate(seed uint64) *program {
	rng := rand.New(rand.NewPCG(seed, 99))
	p := &program{Seed: seed, Sites: []int{3, 3, 3, 3, 3, 3, 4, 4, 5}[rng.IntN(9)], Rounds: []int{1, 1, 1, 1, 2, 2, 3}[rng.IntN(7)], Missing: rng.IntN(3)}
	if rng.IntN(3) == 0 {
		p.Hostile = 1 + rng.IntN(p.Sites)
	}
	total := 0
	for i := range ops {
		total += ops[i].weight
	}
	p.Cancel = rng.IntN(2) == 0
	p.Afresh = rng.IntN(3) == 0
	// What goes wrong goes wrong in any phase: the study gets that far first.
	if rng.IntN(5) == 0 { // another study beside it
		p.Ops = append(p.Ops, op{Do: "submit", A: 2, Steps: rng.IntN(100)})
	}
	p.Ops = append(p.Ops, op{Do: "submit", Steps: rng.IntN(100 + 100*p.Sites)})
	if p.Hostile > 0 {
		if rng.IntN(8) == 0 {
			p.Sites = 6
			p.Second = p.Hostile%p.Sites + 1
		}
		p.Ops[0].Steps /= 2
		p.Ops = append(p.Ops, op{Do: "hostile", A: rng.IntN(64), Steps: rng.IntN(50)})
	}
	if rng.IntN(12) == 0 || p.Second > 0 && rng.IntN(2) == 0 {
		p.Liar = 1 + rng.IntN(len(simNodes))
		p.Ops[0].Steps /= 2
		p.Ops = append(p.Ops, op{Do: "liar", A: rng.IntN(64), B: rng.IntN(64), Steps: rng.IntN(200)})
	}
	for range 3 + rng.IntN(18) {
		x := rng.IntN(total)
		for i := range ops {
			if x -= ops[i].weight; x < 0 {
				if ops[i].name == "hostile" && p.Hostile == 0 || ops[i].name == "liar" && p.Liar == 0 {
					break
				}
				p.Ops = append(p.Ops, op{Do: ops[i].name, A: rng.IntN(64), B: rng.IntN(64), Steps: rng.IntN(50)})
				break
			}
		}
	}
	return p
}

// simulate runs a program in a bubble and returns the first thing that must never
// happen.
func simulate(t *testing.T, p *program, cover *coverage, trace func(string, ...any)) (err error) {
	simFederationOf(t, p.Sites)
	synctest.Test(t, func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, p.Seed) // keys too follow from the program
		s := newSim(t, p)
		s.cover = cover
		if trace != nil {
			s.traces = true
			s.trace = func(format string, args ...any) {
				trace("%8.3fs  "+format, append([]any{time.Since(s.start).Seconds()}, args...)...)
			}
		}
		defer s.close()
		s.prepare(t, p)
		for _, id := range p.hostile() {
			s.sites[id].hostile = true
		}
		for _, id := range simNodes {
			s.startNode(id)
		}
		s.log.elect(simNodes[0])
		for _, id := range sortedSiteIDs(s.sites) {
			s.startSite(id)
		}
		for i, o := range p.Ops {
			run := opNamed(o.Do)
			if run == nil {
				s.violate("operation %d: %q is unknown", i, o.Do)
				break
			}
			s.trace("-- %d: %s %d %d", i, o.Do, o.A, o.B)
			s.rng = rand.New(rand.NewPCG(p.Seed, uint64(o.A)<<32|uint64(o.B)<<16|uint64(o.Steps)))
			if o.Do != "run" && o.Do != "submit" && o.Do != "status" {
				s.last = o.Do
			}
			synctest.Wait()
			run(s, o.A, o.B)
			s.run(o.Steps, 20*time.Second)
			s.stored()
			if s.violated() != nil {
				break
			}
		}
		if s.violated() == nil {
			s.rng = rand.New(rand.NewPCG(p.Seed, 2))
			s.finish(p)
		}
		err = s.violated()
		if cover != nil {
			cover.ends(s)
		}
	})
	return err
}

// shrinkLimit bounds the search for a shorter program.
const shrinkLimit = time.Minute

// shrink looks for the shortest program that still goes wrong: without ranges
// of operations, then with fewer steps and smaller numbers.
func shrink(t *testing.T, p *program) (*program, error) {
	fails := func(q *program) error { return simulate(t, q, nil, nil) }
	best, why := p, fails(p)
	if why == nil {
		return p, nil
	}
	started := time.Now()
	try := func(q program) bool {
		if time.Since(started) > shrinkLimit {
			return false
		}
		if err := fails(&q); err != nil {
			best, why = &q, err
			return true
		}
		return false
	}
	for again := true; again; {
		again = false
		for size := len(best.Ops); size >= 1; size /= 2 {
			for at := 0; at+size <= len(best.Ops); {
				q := *best
				q.Ops = slices.Delete(slices.Clone(best.Ops), at, at+size)
				if !try(q) {
					at += size
				} else {
					again = true
				}
			}
		}
		for i := range best.Ops {
			for _, smaller := range []func(*op){func(o *op) { o.Steps = 0 }, func(o *op) { o.Steps /= 2 }, func(o *op) { o.B = 0 }, func(o *op) { o.A = 0 }} {
				q := *best
				q.Ops = slices.Clone(best.Ops)
				smaller(&q.Ops[i])
				if q.Ops[i] != best.Ops[i] && try(q) {
					again = true
				}
			}
		}
		for _, simpler := range []func(*program){func(q *program) { q.Hostile, q.Second = 0, 0 }, func(q *program) { q.Second = 0 }, func(q *program) { q.Liar = 0 }, func(q *program) {
			if q.Second == 0 {
				q.Sites = 3
			}
		}, func(q *program) { q.Missing = 0 }, func(q *program) { q.Rounds = 1 }} {
			q := *best
			simpler(&q)
			if (q.Hostile != best.Hostile || q.Second != best.Second || q.Liar != best.Liar || q.Sites != best.Sites || q.Missing != best.Missing || q.Rounds != best.Rounds) && q.Hostile <= q.Sites && try(q) {
				again = true
			}
		}
	}
	return best, why
}

func (p *program) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d, %d hospitals, %d rounds, missing: %s", p.Seed, p.Sites, p.Rounds, []string{"wait", "abort", "continue"}[p.Missing%3])
	if p.Cancel {
		b.WriteString(", cancelled at the end")
	}
	if p.Afresh {
		b.WriteString(", a new study after the end")
	}
	if p.Hostile > 0 {
		fmt.Fprintf(&b, ", hostile: %v", p.hostile())
	}
	if p.Liar > 0 {
		fmt.Fprintf(&b, ", %s lies", simNodes[(p.Liar-1)%len(simNodes)])
	}
	for i, o := range p.Ops {
		fmt.Fprintf(&b, "\n  %2d  %-22s %2d %2d  then %d steps", i, o.Do, o.A, o.B, o.Steps)
	}
	return b.String()
}

// coverage counts under which fault which statement met which phase.
type coverage struct {
	mu    sync.Mutex
	seen  map[string]map[string]map[string]int // phase, command, fault
	end   map[string]int
	steps int
}

func newCoverage() *coverage {
	return &coverage{seen: map[string]map[string]map[string]int{}, end: map[string]int{}}
}

// observe notes what a call is about to meet.
func (s *sim) observe(c *simCall) {
	kind, ok := strings.CutPrefix(c.what, "post ")
	if !ok {
		if kind, ok = strings.CutPrefix(c.what, "upload "); !ok {
			return
		}
		kind += " header"
	}
	if s.cover == nil {
		return
	}
	label, kind, _ := strings.Cut(kind, " ")
	phase := "none"
	if r := s.ahead(); r != nil {
		for _, p := range s.plans {
			if p.label == label {
				r.node.fsm.read(func(st *State) {
					if i, ok := st.Study(p.id); ok {
						phase = i.Phase.String()
					}
				})
			}
		}
	}
	s.cover.mu.Lock()
	defer s.cover.mu.Unlock()
	if s.cover.seen[phase] == nil {
		s.cover.seen[phase] = map[string]map[string]int{}
	}
	if s.cover.seen[phase][kind] == nil {
		s.cover.seen[phase][kind] = map[string]int{}
	}
	s.cover.seen[phase][kind][s.last]++
}

func (c *coverage) ends(s *sim) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.steps += s.steps
	if r := s.ahead(); r != nil {
		r.node.fsm.read(func(st *State) {
			for _, i := range st.Studies() {
				reason, _, _ := strings.Cut(i.Reason, ":")
				if i.Phase == consilium.PhaseAborted {
					c.end[i.Phase.String()+" ("+reason[:min(len(reason), 24)]+")"]++
				} else {
					c.end[i.Phase.String()]++
				}
			}
		})
	}
}

// table prints, for each phase and statement, under how many kinds of fault
// they met.
func (c *coverage) table() string {
	var b strings.Builder
	faults := map[string]bool{}
	cells, filled := 0, 0
	for _, phase := range sortedKeys(c.seen) {
		fmt.Fprintf(&b, "%s\n", phase)
		for _, kind := range sortedKeys(c.seen[phase]) {
			n := 0
			for f, k := range c.seen[phase][kind] {
				faults[f] = true
				n += k
			}
			cells++
			filled += len(c.seen[phase][kind])
			fmt.Fprintf(&b, "  %-13s %8d times, under %2d faults\n", kind, n, len(c.seen[phase][kind]))
		}
	}
	fmt.Fprintf(&b, "%d pairs of phase and statement, %d of %d triples with a fault; %d steps\nends:", cells, filled, cells*len(faults), c.steps)
	ends := sortedKeys(c.end)
	sort.SliceStable(ends, func(i, k int) bool { return c.end[ends[i]] > c.end[ends[k]] })
	for _, e := range ends {
		fmt.Fprintf(&b, " %s %d,", e, c.end[e])
	}
	return strings.TrimSuffix(b.String(), ",")
}

var (
	simCount   = flag.Int("sim.count", 60, "how many sequences TestSimulation plays")
	simFirst   = flag.Uint64("sim.first", 1, "the first sequence's seed")
	simEvery   = flag.Uint64("sim.every", 1, "the step between seeds, to share them among processes")
	simOn      = flag.Bool("sim.on", false, "name what goes wrong, without shrinking, and go on")
	simShrink  = flag.Bool("sim.shrink", true, "look for the shortest program that goes wrong")
	simProgram = flag.String("sim.file", "", "play the program in this file and print what happens")
	simSeed    = flag.Uint64("sim.seed", 0, "play this one seed and print what happens")
)

// TestSimulation plays generated sequences. What goes wrong is shrunk and
// printed; put the printed program into testdata/simulation once it is mended.
func TestSimulation(t *testing.T) {
	if *simSeed != 0 || *simProgram != "" {
		p := generate(*simSeed)
		if *simProgram != "" {
			p = readProgram(t, *simProgram)
		}
		t.Log(p)
		if err := simulate(t, p, nil, t.Logf); err != nil {
			t.Error(err)
		}
		return
	}
	cover := newCoverage()
	for i := range *simCount {
		p := generate(*simFirst + uint64(i)**simEvery)
		if err := simulate(t, p, cover, nil); err != nil {
			if *simOn {
				t.Errorf("seed %d: %v", p.Seed, err)
				continue
			}
			if !*simShrink {
				t.Fatalf("seed %d: %v", p.Seed, err)
			}
			t.Logf("seed %d: %v", p.Seed, err)
			small, why := shrink(t, p)
			if why == nil {
				small, why = p, err
			}
			b, _ := json.MarshalIndent(small, "", "\t")
			t.Fatalf("seed %d: %v\nshrunk to\n%v\nwhich gives: %v\n%s", p.Seed, err, small, why, b)
		}
	}
	t.Logf("%d sequences\n%s", *simCount, cover.table())
}

// TestSimulationRepeats: a program is all that a run depends on. What bytes
// the keys have differs from run to run; what happens, in which order and when,
// does not.
func TestSimulationRepeats(t *testing.T) {
	for seed := range uint64(8) {
		var runs [2][]string
		for i := range runs {
			simulate(t, generate(7000+seed), nil, func(format string, args ...any) {
				if line := fmt.Sprintf(format, args...); !strings.Contains(line, "  log ") && !strings.Contains(line, simDir()) {
					runs[i] = append(runs[i], line)
				}
			})
		}
		for i := range max(len(runs[0]), len(runs[1])) {
			if i >= len(runs[0]) || i >= len(runs[1]) || runs[0][i] != runs[1][i] {
				t.Errorf("seed %d: the runs part at step %d of %d and %d", 7000+seed, i, len(runs[0]), len(runs[1]))
				for _, r := range runs {
					t.Log(strings.Join(r[max(0, min(i, len(r))-3):min(i+3, len(r))], "\n"))
				}
				break
			}
		}
	}
}

// TestSimulationRegressions plays what once went wrong.
func TestSimulationRegressions(t *testing.T) {
	files, err := filepath.Glob("testdata/simulation/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".json"), func(t *testing.T) {
			p := readProgram(t, path)
			if err := simulate(t, p, nil, nil); err != nil {
				t.Errorf("%v\n%v", err, p)
			}
		})
	}
}

func readProgram(t *testing.T, path string) *program {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var p program
	if err := json.Unmarshal(b, &p); err != nil {
		t.Fatal(err)
	}
	return &p
}
