package coordinator

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/seal"
	"consilium/worker"
)

// TestRealSequences plays a few sequences with nothing in the place of
// anything but the vaults: Raft, its disks, gRPC over TLS, the gates with theirs.
// What is killed and started again when follows from the seed and from how far
// the log is; the clock is the machine's, so nothing here depends on it.
func TestRealSequences(t *testing.T) {
	for seed := range uint64(2) {
		rng := rand.New(rand.NewPCG(seed, 7))
		c := newCluster(t, 3, 3+int(seed), false, false)
		ctx := limit(t, 4*time.Minute)
		team, err := seal.Generate()
		if err != nil {
			t.Fatal(err)
		}
		c.roster.Researchers[0].Sealing = team.Public()
		c.payload = mustCanon(t, c.roster)
		signed := &consilium.Signed{Payload: c.payload}
		board := map[string]consilium.PublicKey{}
		for _, m := range c.roster.Board.Members {
			sig, err := c.keys["board/"+m.ID].Sign(consilium.DomainRoster, c.payload)
			if err != nil {
				t.Fatal(err)
			}
			signed.Signatures = append(signed.Signatures, consilium.Countersign{By: m.ID, Signature: sig})
			board[m.ID] = m.Key
		}
		s := &sim{p: &program{}, rounds: 2, start: time.Now(), trace: func(string, ...any) {}, sites: map[consilium.SiteID]*simSite{}, sums: map[string][]consilium.SiteID{}}
		s.prepare(t, &program{})
		plan := s.plans[0]
		c.consult = 1 // its first answer is not what is tried here
		c.runAll()
		dir := t.TempDir()
		startSite := func(id consilium.SiteID) {
			h := s.sites[id]
			gctx, stop := context.WithCancel(ctx)
			secret := dig("secret", id)
			gate, err := worker.Open(worker.Config{Site: id, Dir: filepath.Join(dir, string(id)), Signer: c.keys["site/"+string(id)], Secret: secret[:],
				Roster: signed, BoardKeys: board, Threshold: 2, Coordinator: c.client("site/"+string(id), ""), Vault: newSimVault(s, h), Ledger: simLedger{},
				Log: slog.New(&traceHandler{s: s, id: string(id)})})
			if err != nil {
				t.Fatal(err)
			}
			h.gate, h.stop, h.done = gate, stop, make(chan error, 1)
			go func() { h.done <- gate.Run(gctx) }()
		}
		stopSite := func(id consilium.SiteID) {
			if h := s.sites[id]; h.gate != nil {
				h.stop()
				<-h.done
				h.gate.Close()
				h.gate = nil
			}
		}
		for i := range c.roster.Sites {
			id := c.roster.Sites[i].ID
			s.slots = append(s.slots, id)
			s.sites[id] = &simSite{id: id}
			startSite(id)
		}
		if err := c.client("researcher/team", "").Post(ctx, c.sign("researcher/team", consilium.KindSubmission, plan.id, plan.body)); err != nil {
			t.Fatal(err)
		}
		body, err := canon.Marshal(&consilium.Approval{APIVersion: consilium.APIVersion, Kind: "Approval", Study: plan.id, Spec: consilium.SpecDigest(plan.spec),
			Policy: plan.policy, NotBefore: 1, NotAfter: 4_000_000_000})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range c.roster.Board.Members {
			if err := c.client("board/"+m.ID, "").Post(ctx, c.sign("board/"+m.ID, consilium.KindApproval, plan.id, body)); err != nil {
				t.Fatal(err)
			}
		}
		events := func() (most uint64) {
			for _, n := range c.alive() {
				size, _ := n.events.len()
				most = max(most, size)
			}
			return most
		}
		phase := func() (p consilium.Phase) {
			for _, n := range c.alive() {
				n.fsm.read(func(st *State) {
					if i, ok := st.Study(plan.id); ok && i.Phase > p {
						p = i.Phase
					}
				})
			}
			return p
		}
		for target := uint64(4); !phase().Ended(); target += uint64(4 + rng.IntN(10)) {
			for events() < target && !phase().Ended() {
				if err := pause(ctx, 5*time.Millisecond); err != nil {
					t.Fatalf("seed %d: %d events: %v", seed, events(), err)
				}
			}
			id := c.roster.Sites[rng.IntN(len(c.roster.Sites))].ID
			switch rng.IntN(3) {
			case 0:
				n := c.leader(ctx).ID()
				c.kill(n)
				c.run(n)
			case 1:
				n := c.alive()[rng.IntN(len(c.alive()))].ID()
				c.kill(n)
				c.run(n)
			case 2:
				stopSite(id)
				startSite(id)
			}
		}
		if p := phase(); p != consilium.PhaseDone {
			t.Errorf("seed %d: the study is %s", seed, p)
		}
		var all []consilium.Event
		for _, b := range c.settle(ctx, int(events())) {
			ev, err := consilium.ParseEvent(b)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, *ev)
		}
		if err := faithful(all); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		if err := s.violated(); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		for id := range s.sites {
			stopSite(id)
		}
		c.stop()
		os.RemoveAll(dir)
	}
}
