package durable_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"consilium"
	"consilium/internal/durable"
)

func TestWriteFileReplacesWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, want := range []string{"old", "new and longer", ""} {
		if err := durable.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(path); string(got) != want {
			t.Fatalf("read %q, want %q", got, want)
		}
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v", info.Mode())
	}
}

// At every operation that can fail, the file holds the old bytes or the new
// ones, and no temporary file is left by a process that lives on.
func TestWriteFileFaults(t *testing.T) {
	for _, op := range []string{"open", "write", "sync", "rename", "syncdir"} {
		for _, cause := range []error{errPower, syscall.ENOSPC} {
			dir := t.TempDir()
			path := filepath.Join(dir, "f")
			if err := durable.WriteFile(path, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			f := &faulty{FS: durable.OS, fail: once(op, 1, 0.5, cause)}
			err := durable.WriteFileFS(f, path, []byte("new"), 0o600)
			if !errors.Is(err, cause) {
				t.Fatalf("%s: error %v", op, err)
			}
			if errors.Is(err, consilium.ErrDiskFull) != (cause == syscall.ENOSPC) {
				t.Fatalf("%s: %v: disk full or not?", op, err)
			}
			got, _ := os.ReadFile(path)
			if string(got) != "old" && !(op == "syncdir" && string(got) == "new") {
				t.Fatalf("%s: file holds %q", op, got)
			}
			if entries, _ := os.ReadDir(dir); len(entries) != 1 {
				t.Fatalf("%s: %d files left", op, len(entries))
			}
		}
	}
}

// TestWriteFileAfterKill: processes that are killed before they give a file its
// name, all with this process id, leave what no later one trips over, and what is
// gone once the directory is taken again. A directory of another depth is not
// looked into.
func TestWriteFileAfterKill(t *testing.T) {
	dir := t.TempDir()
	d, err := durable.Prepare(dir, "worker")
	if err != nil {
		t.Fatal(err)
	}
	below := filepath.Join(dir, "secrets")
	deep := filepath.Join(below, "deep")
	if err := os.MkdirAll(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	// The names that a process with this id gave under the naive rule.
	for _, in := range []string{dir, below, deep} {
		for i := range 200 {
			if err := os.WriteFile(filepath.Join(in, fmt.Sprintf("%s%d-%d", durable.TempPrefix, os.Getpid(), i)), []byte("half"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := durable.WriteFile(filepath.Join(in, "f"), []byte("new"), 0o600); err != nil {
			t.Errorf("after a kill: %v", err)
		}
	}
	d.Close()
	if d, err = durable.Prepare(dir, "worker"); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for in, want := range map[string]int{dir: 0, below: 0, deep: 200} {
		left, err := filepath.Glob(filepath.Join(in, durable.TempPrefix+"*"))
		if err != nil || len(left) != want {
			t.Errorf("%d files are left unfinished in %s, %v", len(left), in, err)
		}
		if b, _ := os.ReadFile(filepath.Join(in, "f")); string(b) != "new" {
			t.Errorf("%s/f holds %q", in, b)
		}
	}
}

func TestWriteFileSyncsInOrder(t *testing.T) {
	f := &faulty{FS: durable.OS}
	if err := durable.WriteFileFS(f, filepath.Join(t.TempDir(), "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(f.ops); got != "[open write sync rename syncdir]" {
		t.Fatalf("operations %s: a name must not be durable before its bytes", got)
	}
}

type rec struct {
	kind uint8
	data string
}

func replay(t *testing.T, j *durable.Journal) []rec {
	t.Helper()
	var out []rec
	if err := j.Replay(func(kind uint8, data []byte) error {
		out = append(out, rec{kind, string(data)})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func fill(t *testing.T, path string, n int) []rec {
	t.Helper()
	j, err := durable.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	var want []rec
	for i := 0; i < n; i++ {
		r := rec{uint8(i), fmt.Sprintf("record %d %s", i, bytes.Repeat([]byte{'x'}, 37*i))}
		if err := j.Append(r.kind, []byte(r.data)); err != nil {
			t.Fatal(err)
		}
		want = append(want, r)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return want
}

func same(t *testing.T, got, want []rec) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("replayed %d records, want %d:\n%v\n%v", len(got), len(want), got, want)
	}
}

func TestJournalKeepsOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	want := fill(t, path, 20)
	j, err := durable.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	same(t, replay(t, j), want)
	if err := j.Append(9, nil); err != nil {
		t.Fatal(err)
	}
	same(t, replay(t, j), append(want, rec{9, ""}))
	if j.Len() != 21 {
		t.Fatalf("%d records", j.Len())
	}
}

// Cut at every byte: Open finds exactly the records that were whole, and takes
// new ones.
func TestJournalTornAtEveryByte(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	want := fill(t, path, 6)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ends := []int{12}
	for _, r := range want {
		ends = append(ends, ends[len(ends)-1]+21+len(r.data))
	}
	for cut := ends[0]; cut <= len(whole); cut++ {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := durable.Open(path)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		n := 0
		for n < len(want) && ends[n+1] <= cut {
			n++
		}
		same(t, replay(t, j), want[:n])
		if err := j.Append(77, []byte("after")); err != nil {
			t.Fatal(err)
		}
		j.Close()
		if j, err = durable.Open(path); err != nil {
			t.Fatal(err)
		}
		same(t, replay(t, j), append(append([]rec(nil), want[:n]...), rec{77, "after"}))
		j.Close()
	}
	for cut := 0; cut < ends[0]; cut++ {
		os.WriteFile(path, whole[:cut], 0o600)
		if _, err := durable.Open(path); !errors.Is(err, durable.ErrCorrupt) {
			t.Fatalf("a journal with %d bytes of header opens: %v", cut, err)
		}
	}
}

// A last record whose sectors were not all written is torn even though the
// file has its full length.
func TestJournalUnwrittenSectors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	want := fill(t, path, 3)
	j, err := durable.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Append(5, bytes.Repeat([]byte{'y'}, 3000)); err != nil {
		t.Fatal(err)
	}
	j.Close()
	b, _ := os.ReadFile(path)
	clear(b[1024:1536])
	os.WriteFile(path, b, 0o600)
	if j, err = durable.Open(path); err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	same(t, replay(t, j), want)
}

// A flipped bit in any acknowledged record is refused, never cut off. That
// includes the length of a record, which would otherwise look like a torn
// tail and take every later record with it.
func TestJournalDamageIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	fill(t, path, 5)
	whole, _ := os.ReadFile(path)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < len(whole); i++ {
		b := bytes.Clone(whole)
		b[i] ^= 1 << rng.IntN(8)
		os.WriteFile(path, b, 0o600)
		j, err := durable.Open(path)
		if err == nil {
			j.Close()
			t.Fatalf("byte %d changed and the journal opens", i)
		}
		if i >= 12 && !errors.Is(err, durable.ErrCorrupt) {
			t.Fatalf("byte %d: %v", i, err)
		}
		if after, _ := os.ReadFile(path); !bytes.Equal(after, b) {
			t.Fatalf("byte %d: a damaged journal was changed", i)
		}
	}
	// The naive twin takes the first bad record for the end: one flipped bit
	// in the first record and it silently forgets all five.
	b := bytes.Clone(whole)
	b[35] ^= 1
	if n := naiveCount(b); n != 0 {
		t.Fatalf("the naive twin keeps %d records", n)
	}
	// Swapped and dropped records do not pass as a journal either.
	for _, cut := range [][2]int{{12, 12 + 21 + 9}} {
		b := append(bytes.Clone(whole[:cut[0]]), whole[cut[1]:]...)
		os.WriteFile(path, b, 0o600)
		if _, err := durable.Open(path); !errors.Is(err, durable.ErrCorrupt) {
			t.Fatalf("a record was taken out and the journal opens: %v", err)
		}
	}
}

// naiveCount recovers as a log that trusts the first bad checksum to be the
// end of the file.
func naiveCount(b []byte) int {
	n := 0
	for off := 12; off+21 <= len(b); n++ {
		size := int(b[off])<<24 | int(b[off+1])<<16 | int(b[off+2])<<8 | int(b[off+3])
		end := off + 21 + size
		if end > len(b) || !bytes.HasPrefix(b[off+21:end], []byte(fmt.Sprintf("record %d ", n))) {
			break
		}
		off = end
	}
	return n
}

func TestJournalDiskFull(t *testing.T) {
	for _, op := range []string{"write", "sync"} {
		path := filepath.Join(t.TempDir(), "j")
		want := fill(t, path, 3)
		f := &faulty{FS: durable.OS}
		j, err := durable.OpenFS(f, path)
		if err != nil {
			t.Fatal(err)
		}
		f.fail = once(op, 1, 0.6, syscall.ENOSPC)
		if err := j.Append(1, []byte("does not fit")); !errors.Is(err, consilium.ErrDiskFull) {
			t.Fatalf("%s: %v", op, err)
		}
		same(t, replay(t, j), want)
		if err := j.Append(2, []byte("fits")); err != nil {
			t.Fatalf("%s: after space was freed: %v", op, err)
		}
		j.Close()
		if j, err = durable.Open(path); err != nil {
			t.Fatal(err)
		}
		same(t, replay(t, j), append(want, rec{2, "fits"}))
		j.Close()
	}
}

// After an error whose effect is unknown the journal takes nothing more: the
// failed record may be found on the next Open or not.
func TestJournalBroken(t *testing.T) {
	for _, op := range []string{"write", "sync"} {
		path := filepath.Join(t.TempDir(), "j")
		want := fill(t, path, 2)
		f := &faulty{FS: durable.OS}
		j, err := durable.OpenFS(f, path)
		if err != nil {
			t.Fatal(err)
		}
		f.fail = once(op, 1, 0.3, errPower)
		if err := j.Append(1, []byte("lost or not")); !errors.Is(err, errPower) {
			t.Fatal(err)
		}
		if err := j.Append(2, []byte("next")); !errors.Is(err, errPower) {
			t.Fatalf("%s: a journal of unknown content takes a record: %v", op, err)
		}
		j.Close()
		if j, err = durable.Open(path); err != nil {
			t.Fatal(err)
		}
		got := replay(t, j)
		if len(got) == 3 && op == "sync" {
			got = got[:2]
		}
		same(t, got, want)
		j.Close()
	}
}

// Random crashes: whatever was acknowledged is there after recovery, in
// order, and at most the one record under way besides.
func TestJournalRandomCrashes(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 9))
	for run := 0; run < 200; run++ {
		path := filepath.Join(t.TempDir(), "j")
		f := &faulty{FS: durable.OS}
		j, err := durable.OpenFS(f, path)
		if err != nil {
			t.Fatal(err)
		}
		kill := 1 + rng.IntN(12)
		f.fail = once([]string{"write", "sync"}[rng.IntN(2)], kill, rng.Float64(), errPower)
		var acked []rec
		var under rec
		for i := 0; ; i++ {
			under = rec{uint8(i), string(bytes.Repeat([]byte{byte('a' + i)}, rng.IntN(1500)))}
			if err := j.Append(under.kind, []byte(under.data)); err != nil {
				break
			}
			acked = append(acked, under)
		}
		j.Close()
		j, err = durable.Open(path)
		if err != nil {
			t.Fatalf("run %d: %v", run, err)
		}
		got := replay(t, j)
		if len(got) == len(acked)+1 {
			same(t, got, append(acked, under))
		} else {
			same(t, got, acked)
		}
		j.Close()
	}
}

func TestJournalRewrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	want := fill(t, path, 4)
	f := &faulty{FS: durable.OS}
	j, err := durable.OpenFS(f, path)
	if err != nil {
		t.Fatal(err)
	}
	f.fail = once("write", 1, 0.5, syscall.ENOSPC)
	keep := []durable.Record{{Kind: 3, Data: []byte("kept")}}
	if err := j.Rewrite(keep); !errors.Is(err, consilium.ErrDiskFull) {
		t.Fatal(err)
	}
	same(t, replay(t, j), want)
	f.fail = nil
	if err := j.Rewrite(keep); err != nil {
		t.Fatal(err)
	}
	if err := j.Append(4, []byte("more")); err != nil {
		t.Fatal(err)
	}
	j.Close()
	if j, err = durable.Open(path); err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	same(t, replay(t, j), []rec{{3, "kept"}, {4, "more"}})
}

func TestJournalLimits(t *testing.T) {
	j, err := durable.Open(filepath.Join(t.TempDir(), "j"))
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Append(1, make([]byte, durable.MaxRecord+1)); err == nil {
		t.Fatal("a record over the limit was taken")
	}
	stop := errors.New("stop")
	j.Append(1, nil)
	if err := j.Replay(func(uint8, []byte) error { return stop }); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	j.Close()
	if err := j.Append(1, nil); err == nil {
		t.Fatal("a closed journal took a record")
	}
}

func FuzzJournalOpen(f *testing.F) {
	path := filepath.Join(f.TempDir(), "seed")
	j, err := durable.Open(path)
	if err != nil {
		f.Fatal(err)
	}
	j.Append(1, []byte("one"))
	j.Append(2, bytes.Repeat([]byte{0}, 600))
	j.Close()
	b, _ := os.ReadFile(path)
	f.Add(b)
	f.Add(b[:len(b)-3])
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "j")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := durable.Open(path)
		if err != nil {
			return
		}
		defer j.Close()
		first := replay(t, j)
		if err := j.Append(1, []byte("more")); err != nil {
			t.Fatal(err)
		}
		same(t, replay(t, j), append(first, rec{1, "more"}))
	})
}

func TestPrepare(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	d, err := durable.Prepare(dir, "worker", "journal: what this hospital promised.")
	if err != nil {
		t.Fatal(err)
	}
	id := d.ID()
	if len(id) != 32 {
		t.Fatalf("id %q", id)
	}
	for _, name := range []string{"VERSION", "LOCK", "README", "node-id"} {
		if _, err := os.Stat(d.Join(name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := durable.Prepare(dir, "worker"); !errors.Is(err, durable.ErrLocked) {
		t.Fatalf("a directory in use was given twice: %v", err)
	}
	d.Close()
	if _, err := durable.Prepare(dir, "coordinator"); err == nil {
		t.Fatal("a worker's directory was given to a coordinator")
	}
	if d, err = durable.Prepare(dir, "worker"); err != nil {
		t.Fatal(err)
	}
	if d.ID() != id {
		t.Fatal("the directory's name changed")
	}
	d.Close()
	os.Remove(filepath.Join(dir, "node-id"))
	if _, err := durable.Prepare(dir, "worker"); err == nil {
		t.Fatal("a directory that lost its name was given a new one")
	}
	other := t.TempDir()
	os.WriteFile(filepath.Join(other, "thesis.doc"), nil, 0o600)
	if _, err := durable.Prepare(other, "worker"); err == nil {
		t.Fatal("somebody's directory was taken")
	}
	if _, err := durable.Prepare(t.TempDir(), "two words"); err == nil {
		t.Fatal("a kind of two words was taken")
	}
}

// A process that dies before VERSION stands leaves a directory that the next
// one finishes.
func TestPrepareAfterCrash(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "LOCK"), nil, 0o600)
	os.WriteFile(filepath.Join(dir, ".tmp-1-1"), []byte("half"), 0o600)
	os.WriteFile(filepath.Join(dir, "node-id"), []byte("00112233445566778899aabbccddeeff\n"), 0o600)
	d, err := durable.Prepare(dir, "worker")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.ID() != "00112233445566778899aabbccddeeff" {
		t.Fatal(d.ID())
	}
}
