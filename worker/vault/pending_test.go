package vault

import (
	"errors"
	"testing"

	"consilium"
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
	if err := old.keepCohort(&study{id: id, cohort: cohort}, 3); err != nil {
		t.Fatal(err)
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
