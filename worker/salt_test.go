package worker

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"consilium"
	"consilium/internal/durable"
)

// saltDir is a gate's directory as far as its salt goes.
type saltDir struct {
	t   *testing.T
	dir string
}

func (d saltDir) salt() string { return filepath.Join(d.dir, "salt") }

// with opens the journal for one thing.
func (d saltDir) with(do func(*journal)) {
	d.t.Helper()
	j, err := openJournal(durable.OS, filepath.Join(d.dir, "journal"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer j.close()
	do(j)
}

// open starts a gate with an identity secret and returns its salt.
func (d saltDir) open(identity []byte) (salt []byte, err error) {
	d.t.Helper()
	d.with(func(j *journal) { salt, err = openSalt(d.salt(), identity, j) })
	return salt, err
}

// promised is a gate's directory in which something is promised.
func promised(t *testing.T) saltDir {
	t.Helper()
	d := saltDir{t, t.TempDir()}
	d.with(func(j *journal) { fillJournal(t, j) })
	return d
}

// TestSalt: rows are recognised after the identity key was replaced, and in a
// directory of a release that salted with it and did not name its salt.
func TestSalt(t *testing.T) {
	identity, next := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	old := promised(t)
	for _, key := range [][]byte{identity, next} {
		if b, err := old.open(key); err != nil || !bytes.Equal(b, identity) {
			t.Fatalf("%x: %v", b, err)
		}
	}
	fresh := saltDir{t, t.TempDir()}
	first, err := fresh.open(identity)
	if err != nil || bytes.Equal(first, identity) {
		t.Fatal("a new directory salts with the identity secret", err)
	}
	fresh.with(func(j *journal) { fillJournal(t, j) })
	if b, err := fresh.open(next); err != nil || !bytes.Equal(b, first) {
		t.Fatal("the salt changes with the identity key", err)
	}
	if err := os.WriteFile(fresh.salt(), first[:31], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := fresh.open(identity); err == nil {
		t.Error("a damaged salt is replaced in silence")
	}
}

// TestLostSalt: a directory whose salt was lost, or is another one, does not open,
// and stays as it is until the right file is back. The naive twin salts with the
// identity secret, and does not find the sum that it has opened about the same
// rows.
func TestLostSalt(t *testing.T) {
	identity := bytes.Repeat([]byte{1}, 32)
	d := saltDir{t, t.TempDir()}
	salt, err := d.open(identity)
	if err != nil {
		t.Fatal(err)
	}
	rows := func(salt []byte, spelled byte) lineage {
		return lineage{Cohort: consilium.Digest{spelled}, Rows: consilium.DomainRowSet.Digest([]byte("ledger"), salt, []byte("rows")), Columns: []string{"age"}}
	}
	d.with(func(j *journal) {
		if err := j.setOpened(openedSum{Study: oldStudy, Lineage: rows(salt, 1), Faults: 1, Sites: []consilium.SiteID{"a", "b", "c"}}); err != nil {
			t.Fatal(err)
		}
		if len(j.sums(rows(salt, 2), "another")) != 1 || len(j.sums(rows(identity, 2), "another")) != 0 {
			t.Error("the twin recognises the rows: it is not broken")
		}
	})
	if err := os.Remove(d.salt()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.open(identity); err == nil || !strings.Contains(err.Error(), "restore the file") {
		t.Errorf("a lost salt: %v", err)
	}
	if _, err := os.Stat(d.salt()); err == nil {
		t.Error("a salt was written")
	}
	if err := os.WriteFile(d.salt(), identity, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.open(identity); err == nil || !strings.Contains(err.Error(), "restore the file") {
		t.Errorf("another salt: %v", err)
	}
	if err := os.WriteFile(d.salt(), salt, 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := d.open(identity); err != nil || !bytes.Equal(b, salt) {
		t.Errorf("the right salt again: %v", err)
	}
	// Nothing was said under this one yet.
	idle := saltDir{t, t.TempDir()}
	if salt, err = idle.open(identity); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(idle.salt()); err != nil {
		t.Fatal(err)
	}
	if b, err := idle.open(identity); err != nil || bytes.Equal(b, identity) || bytes.Equal(b, salt) {
		t.Errorf("a lost salt that nothing was said under: %x, %v", b, err)
	}
	if _, err := idle.open(identity); err != nil {
		t.Errorf("the new one is not named: %v", err)
	}
}

// TestEmptyJournal: each kind of record counts but the one that names the salt.
func TestEmptyJournal(t *testing.T) {
	for name, c := range map[string]struct {
		set   func(*journal) error
		empty bool
	}{
		"nothing":   {func(*journal) error { return nil }, true},
		"a salt":    {func(j *journal) error { return j.nameSalt(saltName(nil)) }, true},
		"a promise": {func(j *journal) error { return j.setPromise(oldStudy, "enrol", nil) }, false},
		"a binding": {func(j *journal) error { return j.setBinding(oldStudy, 1, 1, binding{}) }, false},
		"an epoch":  {func(j *journal) error { return j.setEpoch(oldStudy, 2, nil) }, false},
		"frozen":    {func(j *journal) error { return j.setFrozen(oldStudy, &frozen{}) }, false},
		"a vector":  {func(j *journal) error { return j.setVector(oldStudy, 1, vector{}) }, false},
		"a sum":     {func(j *journal) error { return j.setOpened(openedSum{Study: oldStudy}) }, false},
		"an end":    {func(j *journal) error { return j.setEnded(oldStudy) }, false},
		"stale":     {func(j *journal) error { return j.setStale("a test") }, false},
	} {
		d := saltDir{t, t.TempDir()}
		d.with(func(j *journal) {
			if err := c.set(j); err != nil {
				t.Fatal(err)
			}
		})
		d.with(func(j *journal) {
			if j.empty() != c.empty {
				t.Errorf("%s: empty %v", name, j.empty())
			}
		})
	}
}
