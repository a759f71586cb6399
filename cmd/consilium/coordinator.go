package main

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"consilium"
	"consilium/coordinator"
	"consilium/policy"
)

// shelf finds an installed policy by its digest: every directory below dir is
// one bundle. It looks again when a study names one that it does not have, so
// a policy is installed without a restart.
type shelf struct {
	dir string

	mu      sync.Mutex
	engines map[consilium.Digest]*policy.Engine
	names   map[string]consilium.Digest // what is installed, by directory
	failed  map[string]error            // by directory
}

// openShelf compiles what is installed. A bundle that does not compile stops
// the node at its start, not in the middle of a study.
func openShelf(dir string) (*shelf, error) {
	s := &shelf{dir: dir}
	if err := s.scan(); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(s.failed)) {
		return nil, fmt.Errorf("policy %s: %w; correct it or remove it", filepath.Join(dir, name), s.failed[name])
	}
	return s, nil
}

func (s *shelf) scan() error {
	list, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("policies: %w; make the directory and put the board's policies into it", err)
	}
	def := policy.Default()
	s.engines, s.failed = map[consilium.Digest]*policy.Engine{def.Digest(): def}, map[string]error{}
	s.names = map[string]consilium.Digest{}
	for _, d := range list {
		if !d.IsDir() {
			continue
		}
		b, err := policy.ReadBundle(os.DirFS(filepath.Join(s.dir, d.Name())))
		if err != nil {
			s.failed[d.Name()] = err
			continue
		}
		engine, err := policy.Compile(b)
		if err != nil {
			s.failed[d.Name()] = err
			continue
		}
		s.engines[engine.Digest()] = engine
		s.names[d.Name()] = engine.Digest()
	}
	return nil
}

func (s *shelf) find(d consilium.Digest) (*policy.Engine, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.engines[d]; ok {
		return e, nil
	}
	if err := s.scan(); err != nil {
		return nil, err
	}
	if e, ok := s.engines[d]; ok {
		return e, nil
	}
	return nil, consilium.ErrPolicy.Withf("policy %s is not installed here; install the bundle that the board published under policies", d.Short())
}

func runCoordinator(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	path := flags.String("config", "", "config `file`")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usagef("unexpected %q", rest[0])
	}
	var c coordinatorConfig
	if err := readConfig(*path, "Coordinator", &c); err != nil {
		return err
	}
	log, err := logger(*path, c.Log, e.stderr)
	if err != nil {
		return err
	}
	k, err := openKit(c.Keys, c.Roster, c.Board, "coordinator/"+c.ID)
	if err != nil {
		return err
	}
	note, err := readNoteKey(c.Keys, ledgerFile)
	if err != nil {
		return err
	}
	policies, err := openShelf(c.Policies)
	if err != nil {
		return err
	}
	me, ok := k.roster.Coordinator(consilium.NodeID(c.ID))
	if !ok {
		return consilium.ErrUnauthenticated.Withf("the roster has no coordinator %q", c.ID)
	}
	listen := map[string]string{}
	if c.Listen != "" {
		listen[me.Address] = c.Listen
	}
	if c.ListenRaft != "" {
		listen[me.Raft] = c.ListenRaft
	}
	decisions := coordinator.NewDecisions(c.Data, k.signer.Seed())
	defer decisions.Close()
	n, err := coordinator.Open(ctx, coordinator.Config{
		ID: me.ID, Book: k.book, Certificate: k.cert, Signer: k.signer, NoteKey: note, Dir: c.Data,
		Listen: func(address string) (net.Listener, error) {
			if other, ok := listen[address]; ok {
				address = other
			}
			return net.Listen("tcp", address)
		},
		Admission: coordinator.PolicyAdmission(me.ID, policies.find, decisions, time.Now), Metrics: c.Health, Logger: log,
		Timing: coordinator.Timing{Heartbeat: c.Timing.Heartbeat, Commit: c.Timing.Commit, Drain: c.Timing.Drain},
	})
	if err != nil {
		return err
	}
	log.Info("coordinator runs", "node", c.ID, "members", me.Address, "nodes", me.Raft, "roster", k.roster.Version)
	watching, stop := context.WithCancel(ctx)
	defer stop()
	group, gctx := errgroup.WithContext(watching)
	group.Go(func() error {
		return watchRoster(gctx, c.Roster, rosterEvery, log, func(next *consilium.Signed, r *consilium.Roster) error {
			if r.Version == k.book.Roster().Version {
				return errSameRoster
			}
			return n.UpdateRoster(next)
		})
	})
	group.Go(func() error {
		defer stop()
		return n.Run(ctx)
	})
	return group.Wait()
}
