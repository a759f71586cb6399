package vault

import (
	"path/filepath"
	"slices"
	"testing"

	"consilium"
	"consilium/internal/hatch"
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

// TestRehearsalIsRead: a study whose first step was rehearsed on the rows of a
// patient has read them, whether the hospital then takes part or not. The book says
// so before the rehearsal, and the trail with the answer. A patient who is not in
// the cohort was not read.
func TestRehearsalIsRead(t *testing.T) {
	for name, c := range map[string]struct {
		derive string
		allow  bool
	}{"admitted": {"1.0 / age", true}, "declined by the rehearsal": {"1.0 / (age - 20.0)", false}} { // who is youngest is 20
		t.Run(name, func(t *testing.T) {
			h := newHospital(t, someAges(24), func(s *consilium.Spec) {
				s.Derive = []consilium.Derived{{Name: "x", Expr: c.derive}}
				s.Cohort = "age < 65.0"
			})
			v := h.open()
			r, err := h.admit(v)
			if err != nil || r.Allow != c.allow {
				t.Fatalf("%+v, %v", r, err)
			}
			if used := slices.ContainsFunc(r.Records, func(r hatch.Record) bool { return r.Type == "use" }); !used {
				t.Error("the trail is not told of the use")
			}
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
			for number, want := range map[string]int{"p-00": 1, "p-22": 1, "p-23": 0} {
				got, err := Reads(filepath.Join(h.cfg.Dir, "cohorts"), h.member(number))
				if err != nil || len(got) != want || want == 1 && (got[0].Study != h.study || got[0].About.Name != "interferon") {
					t.Errorf("%s is told of %+v, %v", number, got, err)
				}
			}
		})
	}
	// A book that cannot be written is read by nobody.
	h := newHospital(t, someAges(24), nil)
	v := h.open()
	if err := v.book.close(); err != nil {
		t.Fatal(err)
	}
	if r, err := h.admit(v); err == nil {
		t.Errorf("rows are rehearsed on and nobody is told: %+v", r)
	}
}
