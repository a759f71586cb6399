package vault

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"consilium"
	"consilium/internal/hatch"
	"consilium/policy"
)

// TestContributedCohortOutlivesTheVault: a vault that was started after the
// contribution books the cohort that was contributed, for that round alone, and
// nothing for a study that it computed nothing of.
func TestContributedCohortOutlivesTheVault(t *testing.T) {
	id := consilium.NewStudyID(consilium.DomainSubmission.Digest([]byte("study")))
	dir := t.TempDir()
	old := &Vault{cfg: Config{Dir: dir}}
	cohort := &openedCohort{OpenedCohort: policy.OpenedCohort{Study: id, Columns: []string{"age"}, Patients: []policy.Member{{1}, {2}}}, Dataset: "cgd"}
	st := &study{id: id}
	if err := old.keepCohort(st, 3, cohort); err != nil {
		t.Fatal(err)
	}
	if _, err := old.contributed(st, 4); !errors.Is(err, consilium.ErrInvalid) {
		t.Errorf("another round in the vault that computed this one: %v", err)
	}
	fresh := &Vault{cfg: Config{Dir: dir}}
	got, err := fresh.contributed(&study{id: id}, 3)
	if err != nil || len(got.Patients) != 2 || got.Dataset != "cgd" {
		t.Fatal(got, err)
	}
	if _, err := fresh.contributed(&study{id: id}, 4); !errors.Is(err, consilium.ErrInvalid) {
		t.Errorf("another round: %v", err)
	}
	if _, err := fresh.contributed(&study{id: consilium.NewStudyID(consilium.DomainSubmission.Digest([]byte("other")))}, 3); !errors.Is(err, consilium.ErrInvalid) {
		t.Errorf("another study: %v", err)
	}
	if err := fresh.forgetCohort(id); err != nil {
		t.Fatal(err)
	}
	if _, err := fresh.contributed(&study{id: id}, 3); !errors.Is(err, consilium.ErrInvalid) {
		t.Errorf("an ended study: %v", err)
	}
}

// TestAuditKeepsNothing: a hospital contributes, its vault starts again, a patient
// withdraws, and the hospital audits its contribution before it opens the round.
// What was contributed is what it books, remembers and replays. The naive twin, for
// which an audit is a contribution, books patients who are not those in the sum.
func TestAuditKeepsNothing(t *testing.T) {
	for name, c := range map[string]struct {
		audit, restart bool
		booked         int
	}{
		"an audit after a restart": {true, true, 24},
		"an audit":                 {true, false, 24},
		"the naive twin":           {false, true, 23},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHospital(t, someAges(24), func(s *consilium.Spec) {
				s.Analyses[0] = consilium.AnalysisSpec{Name: "ages", Type: consilium.AnalysisTrain}
				s.Sites.Missing = "continue"
			})
			v := h.open()
			s := h.start(v)
			local := func(audit bool) (hatch.LocalReply, []int32) {
				t.Helper()
				r, err := v.Local(t.Context(), hatch.LocalRequest{Study: h.study, Round: 1, State: s.State, Audit: audit})
				if err != nil {
					t.Fatal(err)
				}
				lanes, err := v.Lanes(t.Context(), h.study, 1, 0, r.Lanes)
				if err != nil {
					t.Fatal(err)
				}
				return r, lanes
			}
			first, contributed := local(false)
			if same, lanes := local(true); same.RowSet != first.RowSet || !slices.Equal(lanes, contributed) {
				t.Error("an audit over the same rows gives another vector")
			}
			if c.restart {
				if err := v.Close(); err != nil {
					t.Fatal(err)
				}
				v = h.open()
				h.start(v)
			}
			kept := func() map[string]string {
				out := map[string]string{}
				for _, dir := range []string{"contributed", "memory", "replays", "budget"} {
					b, err := os.ReadFile(filepath.Join(h.cfg.Dir, dir, string(h.study)))
					if dir == "budget" {
						b, err = os.ReadFile(filepath.Join(h.cfg.Dir, dir))
					}
					if err != nil {
						t.Fatal(err)
					}
					out[dir] = string(b)
				}
				return out
			}
			before := kept()
			h.withdraw("p-05")
			if other, _ := local(c.audit); other.RowSet == first.RowSet {
				t.Fatal("the rows are the same without the patient")
			}
			if same := maps.Equal(kept(), before); same != c.audit {
				t.Errorf("the files are the same: %v", same)
			}
			if err := v.Opening(t.Context(), h.study, 1); err != nil {
				t.Fatal(err)
			}
			if got, ok := v.book.of(h.study); !ok || len(got.Patients) != c.booked {
				t.Errorf("%d patients are booked, %d are to", len(got.Patients), c.booked)
			}
		})
	}
}
