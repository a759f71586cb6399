package vault

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"consilium"
	"consilium/internal/durable"
	"consilium/internal/hatch"
	"consilium/models"
	"consilium/models/net"
)

// TestRetention: a replay goes at the study's own date for working copies, or at
// the hospital's limit, whichever comes first; and one that names no date goes at
// once.
func TestRetention(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	legal := func(retention string) *consilium.Spec {
		return &consilium.Spec{Legal: json.RawMessage(`{"retention": [` + retention + `]}`)}
	}
	day := func(s string) string {
		return fmt.Sprintf(`{"object": "working_copies", "deleteBy": %q, "keepUntil": null}`, s)
	}
	for name, c := range map[string]struct {
		spec *consilium.Spec
		keep time.Duration
		age  time.Duration // of the last record
		kept bool
	}{
		"in time":                    {legal(day("2026-07-01")), 240 * time.Hour, time.Hour, true},
		"the study's date":           {legal(day("2026-06-01")), 240 * time.Hour, time.Hour, false},
		"the earlier of two":         {legal(day("2027-06-01") + "," + day("2026-05-01")), 240 * time.Hour, time.Hour, false},
		"the hospital's limit":       {legal(day("2026-07-01")), 240 * time.Hour, 241 * time.Hour, false},
		"no date":                    {legal(`{"object": "evidence", "deleteBy": null, "keepUntil": "2100-01-01"}`), 240 * time.Hour, time.Hour, false},
		"a date that cannot be read": {legal(day("soon")), 240 * time.Hour, time.Hour, false},
		"no legal block":             {&consilium.Spec{}, 240 * time.Hour, time.Hour, false},
	} {
		dir := t.TempDir()
		r, err := openReplays(dir, c.keep, func() time.Time { return now })
		if err != nil {
			t.Fatal(err)
		}
		if err := r.add("s-1", replayStart, startedReplay{DeleteBy: deleteBy(c.spec)}); err != nil {
			t.Fatal(err)
		}
		if err := r.sweep(); err != nil { // a live study is not swept
			t.Fatal(err)
		}
		if _, err := os.Stat(r.path("s-1")); err != nil {
			t.Errorf("%s: gone while the study runs", name)
		}
		if err := r.closeAll(); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(r.path("s-1"), now.Add(-c.age), now.Add(-c.age)); err != nil {
			t.Fatal(err)
		}
		if _, err := openReplays(dir, c.keep, func() time.Time { return now }); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(r.path("s-1")); (err == nil) != c.kept {
			t.Errorf("%s: kept %v", name, err == nil)
		}
	}
	r, err := openReplays(t.TempDir(), -1, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	if err := r.add("s-1", replayStart, startedReplay{DeleteBy: now.Add(time.Hour).Unix()}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(r.path("s-1")); err == nil {
		t.Error("a hospital that keeps nothing keeps something")
	}
}

// TestNothingToReplay: a replay that cannot go on gives a reason that holds for
// this hospital, and one of nothing is none.
func TestNothingToReplay(t *testing.T) {
	h := newHospital(t, someAges(24), func(s *consilium.Spec) {
		s.Analyses[0] = consilium.AnalysisSpec{Name: "ages", Type: consilium.AnalysisTrain}
		s.Sites.Missing = "continue"
	})
	v := h.open()
	if _, err := v.Replay(t.Context(), h.study); !errors.Is(err, consilium.ErrUnknownStudy) {
		t.Fatalf("a study of which nothing is kept: %v", err)
	}
	why := func(rounds int) string {
		t.Helper()
		r, err := v.Replay(t.Context(), h.study)
		if err != nil || r.Same || r.Result != nil || len(r.Rounds) != rounds {
			t.Fatalf("%+v, %v", r, err)
		}
		return r.Why
	}
	s := h.start(v)
	if got := why(0); !strings.Contains(got, "round 1 is kept: the study ended before") {
		t.Errorf("it began and no more: %s", got)
	}
	// Taken in by an epoch that begins with round 3.
	state, err := models.ParseState(s.State)
	if err != nil {
		t.Fatal(err)
	}
	state.Iteration = 1
	if _, err := v.Adopt(t.Context(), hatch.AdoptRequest{Study: h.study, Round: 2, State: state.Append(nil)}); err != nil {
		t.Fatal(err)
	}
	if got := why(2); !strings.Contains(got, "round 3 is kept: the study ended before") {
		t.Errorf("it came later: %s", got)
	}
	r, err := v.Replay(t.Context(), h.study)
	if err != nil || !strings.Contains(r.Rounds[0].State, "not seen: this hospital was not in the study when the round closed") || !strings.HasPrefix(r.Rounds[1].State, "adopted") {
		t.Errorf("round 1 was missed, round 2 adopted: %+v, %v", r, err)
	}
	// A replay without its beginning.
	other := consilium.NewStudyID(consilium.DomainSubmission.Digest([]byte("other")))
	if err := v.replays.add(other, replayAdopt, adoptReplay{1, s.State}); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Replay(t.Context(), other); !errors.Is(err, consilium.ErrInvalid) {
		t.Errorf("a replay without a beginning: %v", err)
	}
	// Above the limit, which is the limit of what is kept.
	small, large := consilium.Layout{Blocks: []consilium.Block{{Length: 1}}}, consilium.Layout{Blocks: []consilium.Block{{Length: maxKept + 1}}}
	if keepable(state, large) || !keepable(state, small) {
		t.Error("the limit is another one")
	}
	// A gap that ends without a state to go on from.
	if got := notKept(1, 2, state, small); !strings.Contains(got, "was not in the study") {
		t.Error(got)
	}
	if got := returned(map[uint32]*replayedRound{2: {update: &updateReplay{}}, 3: {adopt: &adoptReplay{}}}, 1); got != 0 {
		t.Errorf("goes on at round %d, whose state before is unknown", got)
	}
	for _, last := range []uint32{0, 1, 9} {
		if got := notKept(1, last, state, large); !strings.Contains(got, fmt.Sprint("more than ", maxKept)) {
			t.Error(got)
		}
	}
}

// wide is recall with vectors of which nothing is kept.
type wide struct{ recall }

func (wide) Layout(*models.State) (consilium.Layout, error) {
	return consilium.Layout{Blocks: []consilium.Block{{Name: "sum", Kind: consilium.Exact, Length: maxKept + 1}}}, nil
}

// TestReplayOfWhatIsNotKept: a hospital that may well have taken part in rounds of
// which nothing is kept, for they were too large or of a size that is not known, is
// not said to have been away.
func TestReplayOfWhatIsNotKept(t *testing.T) {
	for _, c := range []struct {
		name   string
		makes  func(consilium.Facts, *consilium.AnalysisSpec) (models.Analysis, error)
		states []string
		why    string
	}{
		{"too large", func(consilium.Facts, *consilium.AnalysisSpec) (models.Analysis, error) { return wide{}, nil }, nil, "nothing of round 1 is kept: it is of more than"},
		{"of unknown size", newRecall, []string{"not seen: ", "nothing is kept of it: ", "nothing is kept of it: ", "adopted: "}, "nothing of round 5 is kept: the study ended before"},
	} {
		h := newHospital(t, someAges(24), func(s *consilium.Spec) {
			s.Analyses[0] = consilium.AnalysisSpec{Name: "ages", Type: consilium.AnalysisTrain}
			s.Sites.Missing = "continue"
		})
		h.cfg.Learned = map[string]models.Constructor{consilium.AnalysisTrain: c.makes}
		v := h.open()
		state, err := models.ParseState(h.start(v).State)
		if err != nil {
			t.Fatal(err)
		}
		state.Iteration = 1
		if _, err := v.Adopt(t.Context(), hatch.AdoptRequest{Study: h.study, Round: 4, State: state.Append(nil)}); err != nil {
			t.Fatal(err)
		}
		r, err := v.Replay(t.Context(), h.study)
		if err != nil || len(r.Rounds) != len(c.states) || !strings.HasPrefix(r.Why, c.why) {
			t.Fatalf("%s: %+v, %v", c.name, r, err)
		}
		for i, want := range c.states {
			if !strings.HasPrefix(r.Rounds[i].State, want) {
				t.Errorf("%s: round %d: %s, want %s", c.name, i+1, r.Rounds[i].State, want)
			}
		}
	}
}

// TestReplayPastGap: a hospital that missed rounds is not accused of what it did
// honestly. What it remembers (SCAFFOLD's control variate) is settled by the log: by
// the last round opened with it in the set, whether it saw that round close or
// not. Where a replay cannot know what was remembered it says so, and neither
// that the vector is the same nor that it differs.
func TestReplayPastGap(t *testing.T) {
	const last = 8 // the first round prepares, the last one evaluates
	for _, c := range []struct {
		name     string
		computes bool   // round 4
		back     uint32 // with the state after this round
		included uint32 // as the log has it then
	}{
		{"missed the close", true, 4, 4},
		{"missed the close and a round", true, 5, 4},
		{"came too late", true, 5, 3},
		{"missed two rounds", false, 5, 3},
	} {
		for _, strategy := range []string{"fedavg", "scaffold"} {
			t.Run(c.name+"/"+strategy, func(t *testing.T) {
				h := newHospital(t, someAges(24), func(s *consilium.Spec) {
					s.Sites.Missing = "continue"
					s.Analyses = []consilium.AnalysisSpec{{Name: "ages", Type: consilium.AnalysisTrain, Features: []string{"age"}, Holdout: 0.25,
						Model:    &consilium.ModelSpec{DType: "float32", Loss: "reconstruction", Layers: []consilium.Layer{{Kind: "dense", Units: 2}, {Kind: "tanh"}, {Kind: "dense", Units: 1}}},
						Strategy: &consilium.Strategy{Name: strategy, Rounds: last - 2, LocalEpochs: 1, Batch: 8, Rate: 0.01, Clip: 0.1, Bits: 16}}}
				})
				h.cfg.Learned = map[string]models.Constructor{consilium.AnalysisTrain: net.New}
				// The study goes on without it: the states of the rounds that it misses.
				others := *h
				home := t.TempDir()
				others.cfg.Dir = filepath.Join(home, filepath.Base(h.cfg.Dir))
				if err := os.CopyFS(home, os.DirFS(filepath.Dir(h.cfg.Dir))); err != nil {
					t.Fatal(err)
				}
				o := others.open()
				there := others.start(o)
				for n := uint32(1); n <= c.back; n++ {
					there = others.round(o, n, there.State)
				}

				v := h.open()
				s := h.start(v)
				included := uint32(0)
				for n := uint32(1); !s.Done; n++ {
					local := hatch.LocalRequest{Study: h.study, Round: n, State: s.State, Included: included}
					if n == 4 {
						if c.computes {
							if _, err := v.Local(t.Context(), local); err != nil {
								t.Fatal(err)
							}
						}
						var err error
						if s, err = v.Adopt(t.Context(), hatch.AdoptRequest{Study: h.study, Round: c.back, State: there.State}); err != nil {
							t.Fatal(err)
						}
						n, included = c.back, c.included
						continue
					}
					reply, err := v.Local(t.Context(), local)
					if err != nil {
						t.Fatal(err)
					}
					s, included = h.close(v, n, reply.Lanes), n
				}
				if _, err := v.Release(t.Context(), hatch.ReleaseRequest{Study: h.study, Contributors: everyone()}); err != nil {
					t.Fatal(err)
				}

				// vectors are what a replay says of rounds in turn; "" is not looked at.
				vectors := func(what string, v *Vault, want func(n uint32) string) {
					t.Helper()
					r, err := v.Replay(t.Context(), h.study)
					if err != nil || !r.Same || len(r.Rounds) != last {
						t.Fatalf("%s: %+v, %v", what, r, err)
					}
					for _, x := range r.Rounds {
						state := ReplaySame
						if x.Round >= 4 && x.Round < c.back {
							state = "not seen"
						} else if x.Round == c.back {
							state = "adopted"
						}
						if w := want(x.Round); !strings.HasPrefix(x.Vector, w) || !strings.HasPrefix(x.State, state) {
							t.Errorf("%s, round %d: vector %s, want %s; state %s, want %s", what, x.Round, x.Vector, w, x.State, state)
						}
					}
				}
				honest := func(n uint32) string {
					if n > c.back || n < 4 || n == 4 && c.computes {
						return ReplaySame
					}
					return "not "
				}
				vectors("honest", v, honest)
				if err := v.Close(); err != nil {
					t.Fatal(err)
				}

				whole, err := os.ReadFile(v.replays.path(h.study))
				if err != nil {
					t.Fatal(err)
				}
				// changed replays records of own vectors that somebody has written to.
				changed := func(what string, change func(l map[string]any) (kept bool), want func(n uint32) string) {
					t.Helper()
					path := v.replays.path(h.study)
					if err := os.WriteFile(path, whole, 0o600); err != nil {
						t.Fatal(err)
					}
					log, err := durable.Open(path)
					if err != nil {
						t.Fatal(err)
					}
					var records []durable.Record
					err = log.Replay(func(kind uint8, data []byte) error {
						r := durable.Record{Kind: kind, Data: append([]byte{}, data...)}
						if kind == replayLocal {
							var l map[string]any
							if err := json.Unmarshal(data, &l); err != nil {
								return err
							}
							if !change(l) {
								return nil
							}
							var err error
							if r.Data, err = json.Marshal(l); err != nil {
								return err
							}
						}
						records = append(records, r)
						return nil
					})
					if err := errors.Join(err, log.Rewrite(records), log.Close()); err != nil {
						t.Fatal(err)
					}
					again := h.open()
					vectors(what, again, want)
					if err := again.Close(); err != nil {
						t.Fatal(err)
					}
				}
				// after is what is said of the rounds of training behind the gap.
				after := func(scaffold string) func(uint32) string {
					return func(n uint32) string {
						if strategy == "scaffold" && n > c.back && n < last {
							return scaffold
						}
						return honest(n)
					}
				}
				counts := after("not known: ")
				if !c.computes { // the round that counted was seen to its end
					counts = honest
				}
				changed("of an older release", func(l map[string]any) bool {
					delete(l, "included")
					delete(l, "remembered")
					return true
				}, counts)
				changed("the step that counted is gone", func(l map[string]any) bool { return l["round"] != float64(c.included) }, func(n uint32) string {
					if n == c.included {
						return "not "
					}
					if strategy == "scaffold" && c.included < 4 && n == 4 && c.computes {
						return "not known: "
					}
					return after("not known: ")(n)
				})
				other := consilium.DomainVector.Digest([]byte("another"))
				changed("another vector behind the gap", func(l map[string]any) bool {
					if l["round"] == float64(c.back+1) {
						l["vector"] = other
					}
					return true
				}, func(n uint32) string {
					if n == c.back+1 {
						return ReplayDiffers
					}
					return after("not known: ")(n)
				})
			})
		}
	}
}
