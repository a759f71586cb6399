package vault

import (
	"path/filepath"
	"testing"

	"consilium"
	"consilium/policy"
)

// A study reads the rows of a patient, uploads and is aborted before anything is
// opened. The naive twin, the list of opened cohorts, does not know of it; the
// patient is told.
func TestReadAndAborted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cohorts")
	b, err := openCohortBook(path)
	if err != nil {
		t.Fatal(err)
	}
	id := func(s string) consilium.StudyID {
		return consilium.NewStudyID(consilium.DomainSubmission.Digest([]byte(s)))
	}
	cohort := func(study string, who ...policy.Member) openedCohort {
		return openedCohort{OpenedCohort: policy.OpenedCohort{Study: id(study), Columns: []string{"age"}, Patients: who}, Contents: who, About: About{Name: study}}
	}
	ann, ben, eve := policy.Member{1}, policy.Member{2}, policy.Member{3}
	for _, c := range []openedCohort{cohort("aborted", ann), cohort("opened", ann, ben), cohort("aborted", ann), cohort("aborted", ann, eve)} {
		if err := b.reads(c); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.add(cohort("opened", ann, ben)); err != nil {
		t.Fatal(err)
	}
	if err := b.close(); err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		who  policy.Member
		want []string
	}{"in both": {ann, []string{"aborted", "opened"}}, "in one": {ben, []string{"opened"}}, "of a later round": {eve, []string{"aborted"}}, "in none": {policy.Member{9}, nil}} {
		got, err := Reads(path, x.who)
		if err != nil || len(got) != len(x.want) {
			t.Fatalf("%s: %+v %v", name, got, err)
		}
		for i, r := range got {
			if r.Study != id(x.want[i]) || r.About.Name != x.want[i] {
				t.Errorf("%s: %+v", name, r)
			}
		}
	}
	// What was only read is no sum that another study's may be subtracted from.
	if b, err = openCohortBook(path); err != nil {
		t.Fatal(err)
	}
	defer b.close()
	if naive := b.others(id("another")); len(naive) != 1 || naive[0].Study != id("opened") {
		t.Errorf("%+v", naive)
	}
}
