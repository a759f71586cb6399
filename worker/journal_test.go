package worker

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"consilium"
	"consilium/internal/durable"
)

const oldStudy consilium.StudyID = "s-aaaaaaaaaaaaaaaa"

// fillJournal writes one record of each kind.
func fillJournal(t *testing.T, j *journal) {
	t.Helper()
	ended := consilium.StudyID("s-bbbbbbbbbbbbbbbb")
	for _, err := range []error{
		j.setPromise(oldStudy, "vote/1/1", []byte("a vote")),
		j.setBinding(oldStudy, 1, 1, binding{Members: []consilium.Position{1, 2, 3}, Attempt: 2, Renounced: 1, Opened: true}),
		j.setFrozen(oldStudy, &frozen{Round: 1, Members: []consilium.Position{1, 2, 3}, RowSets: []consilium.Digest{{1}, {2}, {3}}}),
		j.setVector(oldStudy, 1, vector{Vector: consilium.Digest{4}, Rows: consilium.Digest{5}}),
		j.setOpened(openedSum{Study: oldStudy, Lineage: lineage{Cohort: consilium.Digest{6}, Rows: consilium.Digest{7}, Columns: []string{"age"}}, Faults: 1, Sites: []consilium.SiteID{"a", "b", "c"}}),
		j.setPromise(ended, "enrol", []byte("an enrolment")),
		j.setFrozen(ended, &frozen{Round: 1}),
		j.thaw(ended),
		j.setEnded(ended),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestOldJournal: a gate reads what older releases promised. The file is never
// written again, only joined by those of newer versions.
func TestOldJournal(t *testing.T) {
	const old = "testdata/old/journal-1"
	b, err := os.ReadFile(old)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "journal")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	j, err := openJournal(durable.OS, path)
	if err != nil {
		t.Fatal(err)
	}
	defer j.close()
	if m, ok := j.promise(oldStudy, "vote/1/1"); !ok || string(m) != "a vote" {
		t.Error("the promise is lost")
	}
	if err := j.setPromise(oldStudy, "vote/1/1", []byte("another vote")); err == nil {
		t.Error("the slot is free again")
	}
	if b := j.binding(oldStudy, 1, 1); !b.locked() || b.Attempt != 2 || b.Renounced != 1 || !b.Opened || len(b.Members) != 3 {
		t.Errorf("the binding is %+v", b)
	}
	if f := j.freeze(oldStudy); f == nil || f.Round != 1 || len(f.Members) != 3 || f.RowSets[2] != (consilium.Digest{3}) {
		t.Errorf("the frozen set is %+v", f)
	}
	if v, ok := j.vectorOf(oldStudy, 1); !ok || v.Vector != (consilium.Digest{4}) || v.Rows != (consilium.Digest{5}) {
		t.Errorf("the vector is %+v", v)
	}
	l := lineage{Rows: consilium.Digest{7}, Columns: []string{"age"}}
	if s := j.sums(l, "another"); len(s) != 1 || s[0].Faults != 1 || len(s[0].Sites) != 3 {
		t.Errorf("the opened sums are %+v", s)
	}
	if !j.hasEnded("s-bbbbbbbbbbbbbbbb") {
		t.Error("an ended study lives")
	}
	// What is written now is the same bytes: a newer form has a number of its own.
	again := filepath.Join(t.TempDir(), "journal")
	k, err := openJournal(durable.OS, again)
	if err != nil {
		t.Fatal(err)
	}
	fillJournal(t, k)
	if err := k.close(); err != nil {
		t.Fatal(err)
	}
	if now, err := os.ReadFile(again); err != nil || !bytes.Equal(now, b) {
		t.Error("the journal is written otherwise now: give the new form a version, and read both")
	}
}
