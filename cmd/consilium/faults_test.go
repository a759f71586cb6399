package main

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"consilium"
)

// stormy is a running federation whose every wire is a proxy.
type stormy struct {
	*running
	links *links

	mu   sync.Mutex
	pids map[int]string // which node a process is; vaults have no socket
	want []byte         // the result of an undisturbed run
}

func storm(t *testing.T) *stormy {
	t.Helper()
	s := &stormy{pids: map[int]string{}}
	k := provisionAll(t)
	s.links = newLinks(t, func(pid int) string {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.pids[pid]
	})
	for id := range k.health {
		card, err := parseCard(filepath.Join(k.kit(id), kitCard))
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(k.config(id), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		// The keys stand in the file already, without a value.
		b, err := os.ReadFile(k.config(id))
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		text := string(b)
		for key, address := range map[string]string{"listen": card.Coordinator.Address, "listen_raft": card.Coordinator.Raft} {
			line := key + ": " + s.links.proxy(address, id) + "\n"
			if i := strings.Index("\n"+text, "\n"+key+":"); i >= 0 {
				end := i + strings.IndexByte(text[i:], '\n') + 1
				text = text[:i] + line + text[end:]
			} else {
				text += line
			}
		}
		write(t, k.config(id), text)
	}
	s.running = bringWith(t, k)
	// Rounds that close without a hospital, which then catches up.
	edit(t, s.study, "faults: 2, ", "")
	for id, p := range s.nodes {
		s.know(id, p)
	}
	for id, p := range s.workers {
		s.know(id, p)
	}
	first := s.submit(t, s.study)
	s.done(first)
	s.want = s.result(t, first, filepath.Join(s.dir, "first"))
	return s
}

func (s *stormy) know(id string, p *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pids[p.cmd.Process.Pid] = id
}

// again starts a node or a hospital that has ended.
func (s *stormy) again(id string) {
	if _, ok := s.health[id]; ok {
		s.nodes[id] = s.startNode(s.t, id)
		s.know(id, s.nodes[id])
		return
	}
	s.workers[id] = s.startSite(s.t, id)
	s.know(id, s.workers[id])
}

func (s *stormy) process(id string) *process {
	if p := s.nodes[id]; p != nil {
		return p
	}
	return s.workers[id]
}

// who finds a victim: the leader, a follower, a hospital or its vault.
func (s *stormy) who(role string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()
	switch role {
	case "leader", "follower":
		leader, err := s.leader(ctx)
		if err != nil {
			s.t.Fatalf("no leader: %v", err)
		}
		if role == "leader" {
			return leader
		}
		for id := range s.nodes {
			if id != leader {
				return id
			}
		}
	}
	return "site-2"
}

// vaultNow is the process of a hospital's present vault.
func (s *stormy) vaultNow(id string) int {
	s.t.Helper()
	log := s.workers[id].log.String()
	at := strings.LastIndex(log, "worker runs")
	m := vaultPattern.FindStringSubmatch(log[max(at, 0):])
	if m == nil {
		s.t.Fatalf("no vault of %s in its log", id)
	}
	pid, err := strconv.Atoi(m[1])
	if err != nil {
		s.t.Fatal(err)
	}
	return pid
}

// pauseFor is how long a stopped process or a held wire stays so: longer than any
// heartbeat, shorter than a round's deadline.
const pauseFor = 2 * time.Second

// fault does something to a federation, and undoes it.
type fault struct {
	name string
	do   func(s *stormy)
}

func killed(role string) fault {
	return fault{"SIGKILL " + role, func(s *stormy) {
		id := s.who(role)
		if role == "vault" {
			syscall.Kill(s.vaultNow(id), syscall.SIGKILL) // its gate starts another
			return
		}
		s.process(id).kill()
		s.again(id)
	}}
}

func frozen(role string) fault {
	return fault{"SIGSTOP " + role, func(s *stormy) {
		id := s.who(role)
		pid := s.process(id).cmd.Process.Pid
		if role == "vault" {
			pid = s.vaultNow(id)
		}
		syscall.Kill(pid, syscall.SIGSTOP)
		time.AfterFunc(pauseFor, func() { syscall.Kill(pid, syscall.SIGCONT) })
	}}
}

// wire holds or cuts what role says and hears.
func severed(name, role string, r rule) fault {
	return fault{name + " " + role, func(s *stormy) {
		id := s.who(role)
		s.links.isolate(id, r)
		time.AfterFunc(pauseFor, func() { s.links.isolate(id, rule{}) })
	}}
}

// moment is a place in a study's life.
type moment struct {
	round uint32
	phase string // enrolling, contributing, certifying, opening, updating, releasing
}

// plan is what is done when; a study runs through it.
type plan map[moment]fault

// endure runs a study under a plan and wants it done, every fault taken, and the
// bytes of the undisturbed run.
func (s *stormy) endure(t *testing.T, name string, p plan) {
	t.Helper()
	began := time.Now()
	id := s.submit(t, s.study)
	left := plan{}
	for m, f := range p {
		left[m] = f
	}
	round := uint32(0)
	at := func(phase string) {
		m := moment{round, phase}
		if f, ok := left[m]; ok {
			delete(left, m)
			t.Logf("%s: round %d, %s, after %.1f s: %s", name, m.round, m.phase, time.Since(began).Seconds(), f.name)
			f.do(s)
		}
	}
	s.watch(id, func(ev *consilium.Event) error {
		switch ev.Kind {
		case consilium.EventOpened:
			if o, err := consilium.ParseRoundOpened(ev.Body); err == nil {
				round = o.Round
			}
		case consilium.EventProposed:
			at("certifying")
		case consilium.EventCertified:
			at("opening")
		case consilium.EventReleasing:
			at("releasing")
		case consilium.EventMessage:
			m, err := consilium.ParseMessage(ev.Body)
			if err != nil {
				return err
			}
			switch m.Kind {
			case consilium.KindEnrol:
				at("enrolling")
			case consilium.KindHeader:
				at("contributing")
			case consilium.KindStateVote:
				at("updating")
			case consilium.KindDecline, consilium.KindWithdraw:
				t.Errorf("%s: %s %s %q", name, m.By, m.Kind, m.Body)
			}
		case consilium.EventDone:
			return errSeen
		case consilium.EventAborted, consilium.EventRefused, consilium.EventCancelled:
			t.Errorf("%s: %s %s", name, ev.Kind, ev.Body)
			return errSeen
		}
		return nil
	})
	t.Logf("%s: done after %.1f s", name, time.Since(began).Seconds())
	if t.Failed() {
		t.FailNow()
	}
	for m, f := range left {
		t.Errorf("%s: round %d, %s never came, %s was not tried", name, m.round, m.phase, f.name)
	}
	if got := s.result(t, id, filepath.Join(s.dir, "out-"+id)); !bytes.Equal(got, s.want) {
		t.Errorf("%s: the result differs from that of the undisturbed run:\n%s\n%s", name, got, s.want)
	}
}

// TestFaults runs one study through a kill, a stop, a partition or a held wire in
// each of its phases. CONSILIUM_FAULTS=all runs the whole table: every victim,
// signal and phase, slow hospitals, full disks, damaged files and restarts;
// CONSILIUM_FAULTS=disk full disks alone.
func TestFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped: -short")
	}
	s := storm(t)
	s.endure(t, "a bit of everything", plan{
		{0, "enrolling"}:    killed("leader"),
		{1, "contributing"}: killed("vault"),
		{2, "certifying"}:   frozen("follower"),
		{3, "opening"}:      killed("gate"),
		{4, "updating"}:     severed("partition of the", "leader", rule{cut: true}),
		{5, "contributing"}: severed("held wires of the", "leader", rule{held: true}),
		{6, "releasing"}:    killed("follower"),
	})
	t.Run("pause", func(t *testing.T) { paused(t, s) })
	switch os.Getenv("CONSILIUM_FAULTS") {
	case "all":
	case "disk":
		t.Run("full disk", func(t *testing.T) { full(t, s) })
		fallthrough
	default:
		s.stopAll()
		return
	}
	for _, role := range []string{"leader", "follower", "gate", "vault"} {
		for _, f := range []fault{killed(role), frozen(role)} {
			s.endure(t, f.name, plan{
				{0, "enrolling"}: f, {1, "contributing"}: f, {2, "certifying"}: f, {3, "opening"}: f, {4, "updating"}: f, {6, "releasing"}: f,
			})
		}
	}
	for _, role := range []string{"leader", "follower", "gate"} {
		s.endure(t, "partition of the "+role, plan{
			{1, "contributing"}: severed("partition of the", role, rule{cut: true}), {3, "certifying"}: severed("partition of the", role, rule{cut: true}),
			{5, "opening"}: severed("held wires of the", role, rule{held: true}),
		})
	}
	s.endure(t, "a hospital on 200 kB/s", plan{{0, "enrolling"}: {"slow", func(s *stormy) { s.links.isolate("site-4", rule{rate: 200 << 10}) }}})
	s.links.isolate("site-4", rule{})
	s.endure(t, "everything at once", plan{{2, "contributing"}: {"all killed", func(s *stormy) {
		for _, p := range s.nodes {
			p.cmd.Process.Kill()
		}
		for _, p := range s.workers {
			p.cmd.Process.Kill()
		}
		for _, id := range s.everybody() {
			<-s.process(id).done
		}
		for _, id := range s.everybody() {
			s.again(id)
		}
	}}})
	s.endure(t, "a rolling restart", plan{{2, "contributing"}: {"rolling", func(s *stormy) {
		for _, id := range s.everybody() {
			s.process(id).stop()
			s.again(id)
		}
	}}})
	t.Run("damaged files", func(t *testing.T) { damaged(t, s) })
	t.Run("full disk", func(t *testing.T) { full(t, s) })
	s.stopAll()
}

// paused holds one hospital back in its enrolment, then in mid-study, and lets it
// go on: the study waits for it, and ends as the undisturbed one did.
func paused(t *testing.T, s *stormy) {
	const id = "site-1"
	config := s.config(id)
	must(t, "worker", "pause", "--config", config)
	s.says(s.workers[id], "msg=pause")
	study := s.submit(t, s.study)
	others, enrolled, drained := 0, false, false
	s.watch(study, func(ev *consilium.Event) error {
		if ev.Kind == consilium.EventDone {
			return errSeen
		}
		if ev.Kind == consilium.EventAborted {
			t.Errorf("%s", ev.Body)
			return errSeen
		}
		m, err := consilium.ParseMessage(ev.Body)
		if ev.Kind != consilium.EventMessage || err != nil {
			return nil
		}
		switch m.Kind {
		case consilium.KindEnrol:
			if m.By == id {
				enrolled = true
				if others != testSites-1 {
					t.Errorf("the paused hospital enrols after %d others", others)
				}
				return nil
			}
			if others++; others == testSites-1 {
				must(t, "worker", "drain", "--config", config) // nothing of it is open
				must(t, "worker", "resume", "--config", config)
			}
		case consilium.KindHeader:
			if h, err := consilium.ParseHeader(m.Body); err == nil && h.Round == 2 && m.By == id && !drained {
				drained = true
				// It has contributed: the drain waits for the round, and the round after
				// waits for the hospital.
				must(t, "worker", "drain", "--config", config, "--wait", "1m")
				s.workers[id].stop()
				s.again(id)
				must(t, "worker", "resume", "--config", config)
			}
		}
		return nil
	})
	if !enrolled || !drained {
		t.Errorf("enrolled %v, drained %v", enrolled, drained)
	}
	if got := s.result(t, study, filepath.Join(s.dir, "paused")); !bytes.Equal(got, s.want) {
		t.Error("the result differs")
	}
}

func (s *stormy) everybody() (out []string) {
	for id := range s.nodes {
		out = append(out, id)
	}
	for id := range s.workers {
		out = append(out, id)
	}
	return out
}

// damaged flips one byte in a file of a node and of a hospital that are stopped.
// A hospital refuses to start, and with the true bytes back the study goes on to
// the same result. A node that does not refuse has its events from the replicated
// log again, and keeps the damaged file.
func damaged(t *testing.T, s *stormy) {
	type place struct{ id, file string }
	follower := s.who("follower")
	for _, p := range []place{{"site-3", "gate/journal"}, {"site-3", "gate/trail"}, {"site-3", "vault/cohorts"}, {follower, "events.log"}} {
		s.endure(t, p.file+" is damaged", plan{{2, "contributing"}: {"damaged " + p.file, func(s *stormy) {
			s.process(p.id).stop()
			path := filepath.Join(s.kit(p.id), "data", filepath.FromSlash(p.file))
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			changed := bytes.Clone(whole)
			changed[len(changed)/2] ^= 0x20
			if err := os.WriteFile(path, changed, 0o600); err != nil {
				t.Fatal(err)
			}
			kind, runs := "worker", 2*time.Minute
			if _, ok := s.health[p.id]; ok {
				kind, runs = "coordinator", 15*time.Second // which may mend the file, and goes on
			}
			ctx, cancel := context.WithTimeout(t.Context(), runs)
			defer cancel()
			out, err := exec.CommandContext(ctx, program(t), kind, "--config", s.config(p.id)).CombinedOutput()
			if kind == "coordinator" && ctx.Err() != nil {
				s.again(p.id) // on the damaged file
				return
			}
			if err == nil || ctx.Err() != nil {
				t.Errorf("%s with a damaged %s runs: %v\n%s", p.id, p.file, err, tail(string(out), 1000))
			}
			if err := os.WriteFile(path, whole, 0o600); err != nil {
				t.Fatal(err)
			}
			s.again(p.id)
		}}})
	}
}

// small puts a node or a hospital on a disk of its own, with room for what is there
// and for a study, and starts it again.
func (s *stormy) small(t *testing.T, id string) {
	s.process(id).stop()
	data := filepath.Join(s.kit(id), "data")
	kept := data + ".kept"
	if err := os.Rename(data, kept); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	size := int64(64 << 20)
	if err := filepath.WalkDir(kept, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size() + 4<<10
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+strconv.FormatInt(size, 10), "tmpfs", data).CombinedOutput(); err != nil {
		t.Skipf("skipped: needs to mount a small file system: %v %s", err, out)
	}
	t.Cleanup(func() { exec.Command("umount", "-l", data).Run() })
	if err := os.CopyFS(data, os.DirFS(kept)); err != nil {
		t.Fatal(err)
	}
	s.again(id)
}

// full lets the disk of a hospital, a follower, then the leader fill in mid-study. The
// process ends with the reason, a leader after it has handed over; with room again it
// goes on to the same result.
func full(t *testing.T, s *stormy) {
	if os.Geteuid() != 0 {
		t.Skip("skipped: needs root on Linux to mount a small file system")
	}
	s.small(t, "site-5")
	for id := range s.health { // who leads is settled when the disk fills
		s.small(t, id)
	}
	for _, role := range []string{"site-5", "follower", "leader"} {
		s.endure(t, "the disk of "+role+" is full", plan{{1, "contributing"}: {"full", func(s *stormy) {
			id := role
			if role != "site-5" {
				id = s.who(role)
			}
			filler := filepath.Join(s.kit(id), "data", "filler")
			f, err := os.Create(filler)
			if err != nil {
				t.Fatal(err)
			}
			for b := make([]byte, 1<<20); ; {
				if _, err := f.Write(b); err != nil {
					if len(b) == 1 {
						break
					}
					b = b[:len(b)/2]
				}
			}
			f.Close()
			p := s.process(id)
			select {
			case <-p.done:
				if log := p.log.String(); !strings.Contains(log, "no space left") || strings.Contains(log, "goroutine ") {
					t.Errorf("%s ended without the reason: %s", id, tail(log, 1000))
				}
			case <-time.After(2 * time.Minute):
				t.Errorf("%s goes on without a disk", id)
				p.kill()
			}
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			s.again(id)
		}}})
	}
}

// TestWires: the proxies do what the tests above believe of them.
func TestWires(t *testing.T) {
	l := newLinks(t, func(pid int) string {
		if pid == os.Getpid() {
			return "me"
		}
		return ""
	})
	address := freePort(t)
	real := l.proxy(address, "there")
	server, err := (&echo{}).listen(real)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if err := server.ask(address, 30*time.Second); err != nil {
		t.Fatalf("an open wire: %v", err)
	}
	l.set("me", "there", rule{cut: true})
	if err := server.ask(address, time.Second); err == nil {
		t.Error("a cut wire carries")
	}
	l.set("me", "there", rule{held: true})
	if err := server.ask(address, time.Second); err == nil {
		t.Error("a held wire carries")
	}
	l.set("me", "there", rule{})
	l.set("you", "there", rule{cut: true})
	if err := server.ask(address, 30*time.Second); err != nil {
		t.Errorf("somebody else's wire is cut, and mine with it: %v", err)
	}
}
