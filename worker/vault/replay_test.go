package vault

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"consilium"
	"consilium/internal/hatch"
	"consilium/models"
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
	if err != nil || !strings.HasPrefix(r.Rounds[0].State, "not seen") || !strings.HasPrefix(r.Rounds[1].State, "adopted") {
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
