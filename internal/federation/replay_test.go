package federation_test

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"consilium"
	"consilium/internal/federation"
	"consilium/policy"
	"consilium/worker/vault"
)

// TestReplayPastGap: a hospital is cut off while rounds close without it, comes
// back and finishes. Its replay goes on behind the gap: every step and state of its
// own from then on is the same, and so is the result. With SCAFFOLD it falls after
// its vector of round 2 was sent: that round is opened with it, and what it
// remembers from then on is what it computed there, though it saw no sum.
//
// From round 2 on five of six hospitals are there, which is what it takes to sum,
// to open and to close: so who takes part does not depend on anybody's pace. Time
// begins to pass with round 2: no deadline leaves anybody out before.
func TestReplayPastGap(t *testing.T) {
	for _, c := range []struct {
		strategy string
		falls    []string // crash points in turn
		gap      uint32   // the first round that it does not see closing
	}{
		{"fedavg", []string{"close/before-secret"}, 2},
		{"scaffold", []string{"close/before-secret", "contribute/after-upload"}, 2},
	} {
		t.Run(c.strategy, func(t *testing.T) {
			t.Parallel()
			const back = 4 // the round with which the victim is there again
			file := riskNetwork(t, map[string]string{
				"missing: wait": "missing: continue",
				"name: fedadam, rounds: 30, local_epochs: 2": "name: " + c.strategy + ", rounds: 4, local_epochs: 1",
				", server_rate: 0.05":                        "",
				"{dense: 16}":                                "{dense: 3}",
				"deadline: 2m":                               "deadline: 1s",
			})
			engine, err := policy.Compile(policy.DemoBundle())
			if err != nil {
				t.Fatal(err)
			}
			const victim, reserve = consilium.SiteID("zurich"), consilium.SiteID("mott")
			var sites []federation.SiteOptions
			for _, s := range trial(t, file.Spec, "cgd_patient.csv", "site") {
				if slices.Contains([]consilium.SiteID{"nih", "amsterdam", "scripps", "texas-childrens", victim, reserve}, s.ID) {
					sites = append(sites, s)
				}
			}
			begun := time.Now()
			var passes atomic.Bool
			f, err := federation.Start(t.Context(), federation.Options{
				Name: "cgd.example", Dir: t.TempDir(), Coordinators: 1, Volatile: true, Policies: []*policy.Engine{engine}, Country: "NL", TeamCountry: "NL", Sites: sites,
				Now: func() time.Time {
					if passes.Load() {
						return time.Now()
					}
					return begun
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()

			// fall lets a hospital die at one crash point after the other, brought back
			// after each but the last.
			fall := func(id consilium.SiteID, first <-chan struct{}, then ...string) error {
				for dead := first; ; then = then[1:] {
					select {
					case <-dead:
					case <-t.Context().Done():
						return t.Context().Err()
					}
					if len(then) == 0 {
						f.Site(id).Stop()
						return nil
					}
					dead = f.Site(id).HaltAt(then[0])
					if err := f.Site(id).Restart(); err != nil {
						return err
					}
				}
			}
			victimDead, reserveDead := f.Site(victim).HaltAt(c.falls[0]), f.Site(reserve).HaltAt("close/before-secret")
			relieved := make(chan error, 1)
			go func() {
				// The reserve is not in round 2 until the victim has fallen; it leaves
				// between rounds 3 and 4, whose opening ends what the victim misses.
				err := fall(victim, victimDead, c.falls[1:]...)
				if err == nil {
					err = fall(reserve, reserveDead, "close/after-secret", "close/after-secret", "close/before-secret")
				}
				if err == nil {
					err = f.Site(victim).Start()
				}
				relieved <- err
			}()
			round := uint32(0)
			in := map[uint32]bool{} // rounds with the victim's vector in the set
			out, err := f.Run(t.Context(), file.Payload, engine.Digest(), func(ev *consilium.Event) {
				switch ev.Kind {
				case consilium.EventOpened:
					o, err := consilium.ParseRoundOpened(ev.Body)
					if err != nil {
						t.Error(err)
						return
					}
					round = o.Round
					if round == 2 {
						passes.Store(true)
					}
				case consilium.EventMessage:
					m, err := consilium.ParseMessage(ev.Body)
					if err != nil || m.Kind != consilium.KindHeader {
						return
					}
					in[round] = in[round] || m.By == string(victim)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if out.Phase != consilium.PhaseDone {
				t.Fatalf("%s: %s", out.Phase, out.Reason)
			}
			if err := <-relieved; err != nil {
				t.Fatal(err)
			}
			r, err := f.Site(victim).Replay(t.Context(), out.Study)
			if err != nil {
				t.Fatal(err)
			}
			if !r.Same || len(r.Rounds) != 6 {
				t.Errorf("%d rounds; the result: %s", len(r.Rounds), r.Why)
			}
			for _, x := range r.Rounds {
				t.Logf("round %d: vector %s, state %s", x.Round, x.Vector, x.State)
				contributed := c.strategy == "scaffold" && x.Round == c.gap
				if in[x.Round] != (contributed || x.Round < c.gap || x.Round >= back) {
					t.Errorf("round %d: the victim contributed: %v", x.Round, in[x.Round])
				}
				switch {
				case x.Round >= back:
					if x.Vector != vault.ReplaySame || x.State != vault.ReplaySame {
						t.Errorf("round %d: vector %s, state %s", x.Round, x.Vector, x.State)
					}
				case x.Round >= c.gap:
					if (x.Vector == vault.ReplaySame) != contributed || x.Vector == vault.ReplayDiffers || x.State == vault.ReplaySame || x.State == vault.ReplayDiffers {
						t.Errorf("round %d was missed: vector %s, state %s", x.Round, x.Vector, x.State)
					}
				}
			}
		})
	}
}
