package coordinator

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"consilium"
)

// Every stage of a study survives a snapshot, byte for byte.
func TestSnapshotOfEveryPhase(t *testing.T) {
	for _, stage := range stages {
		w := newWorld(t, options{n: 4, min: 3})
		w.submission()
		stage.build(w)
		b := w.s.Snapshot()
		s, err := Restore(b)
		if err != nil {
			t.Fatalf("%s: %v", stage.name, err)
		}
		if !bytes.Equal(s.Snapshot(), b) {
			t.Fatalf("%s: another state", stage.name)
		}
		if fmt.Sprint(s.Pending()) != fmt.Sprint(w.s.Pending()) || fmt.Sprint(s.Studies()) != fmt.Sprint(w.s.Studies()) {
			t.Fatalf("%s: another view", stage.name)
		}
	}
}

// Truncated, extended and changed snapshots are refused or mean exactly what
// they say; a state from them never panics.
func TestRestoreIsTotal(t *testing.T) {
	w := newWorld(t, options{n: 3, min: 3})
	w.start()
	w.contribute(1, 2, 3)
	w.ackAll(1, 2, 3)
	b := w.s.Snapshot()
	for cut := 0; cut < len(b); cut += 1 + len(b)/60 {
		if _, err := Restore(b[:cut]); err == nil {
			t.Fatalf("a snapshot cut at %d of %d was restored", cut, len(b))
		}
	}
	if _, err := Restore(append(bytes.Clone(b), 0)); err == nil {
		t.Fatal("a snapshot with a byte too many was restored")
	}
	rng := rand.New(rand.NewPCG(5, 6))
	for i := 0; i < 150; i++ {
		c := bytes.Clone(b)
		for k := rng.IntN(3); k >= 0; k-- {
			c[rng.IntN(len(c))] ^= 1 << rng.IntN(8)
		}
		exercise(t, c)
	}
}

// exercise restores bytes and, if they are a state, uses it.
func exercise(t *testing.T, b []byte) {
	s, err := Restore(b)
	if err != nil {
		return
	}
	if !bytes.Equal(s.Snapshot(), b) {
		t.Fatal("accepted and encoded otherwise")
	}
	s.Pending()
	s.Studies()
	s.LiveBlobs()
	s.Root()
	for _, st := range s.live() {
		s.Submission(st.id)
		s.Events(st.id, 0)
	}
	s.Locate(dig("x"))
	s.Apply(s.index+1, Command{At: maxTime, Op: &Tick{}})
	s.Apply(s.index+2, Command{At: maxTime, Op: &Tick{}})
}

func FuzzRestore(f *testing.F) {
	for _, stage := range stages {
		w := newWorld(f, options{n: 3, min: 3})
		w.check = false
		w.submission()
		if stage.name == "submitted" || stage.name == "cancelled" {
			stage.build(w)
			f.Add(w.s.Snapshot())
		}
	}
	f.Add(NewState().Snapshot())
	f.Fuzz(exercise)
}

// Decoding a command is total, and what is accepted encodes to the same bytes
// and can be applied to any state.
func FuzzCommand(f *testing.F) {
	for _, cmd := range sampleCommands(f) {
		f.Add(EncodeCommand(cmd))
	}
	w := newWorld(f, options{n: 3, min: 3})
	w.check = false
	w.start()
	snapshot := w.s.Snapshot()
	f.Fuzz(func(t *testing.T, b []byte) {
		cmd, err := DecodeCommand(b)
		if err != nil {
			return
		}
		if !bytes.Equal(EncodeCommand(cmd), b) {
			t.Fatal("accepted and encoded otherwise")
		}
		s, err := Restore(snapshot)
		if err != nil {
			t.Fatal(err)
		}
		s.Apply(s.index+1, cmd)
	})
}

func sampleCommands(t testing.TB) []Command {
	w := newWorld(t, options{n: 3, min: 3})
	w.check = false
	w.start()
	w.round(1, true, 1, 2, 3)
	w.finish()
	out := append([]Command(nil), w.log...)
	return append(out, Command{At: 1, Op: &Collect{Blobs: []consilium.Digest{dig(1), dig(2)}}}, Command{At: 2, Op: &Decide{Study: "x", Record: []byte("{}")}})
}

func TestCommandCodec(t *testing.T) {
	for _, cmd := range sampleCommands(t) {
		b := EncodeCommand(cmd)
		again, err := DecodeCommand(b)
		if err != nil || !bytes.Equal(EncodeCommand(again), b) {
			t.Fatalf("%T: %v", cmd.Op, err)
		}
		for cut := 0; cut < len(b); cut += 1 + len(b)/50 {
			if _, err := DecodeCommand(b[:cut]); err == nil {
				t.Fatalf("%T cut at %d decodes", cmd.Op, cut)
			}
		}
		if _, err := DecodeCommand(append(bytes.Clone(b), 0)); err == nil {
			t.Fatalf("%T with a byte too many decodes", cmd.Op)
		}
	}
	if _, err := DecodeCommand([]byte{2, 1, 0, 0, 0, 0, 0, 0, 0, 0}); err == nil {
		t.Fatal("a command of another version decodes")
	}
	if _, r := NewState().Apply(1, Command{At: -1, Op: &Tick{}}); r == nil {
		t.Fatal("a command before 1970")
	}
	if _, r := NewState().Apply(1, Command{}); r == nil {
		t.Fatal("a command that does nothing known")
	}
	if r := (*Rejection)(nil); r.AsError() != nil {
		t.Fatal("a nil rejection is an error")
	}
}

// The format of snapshots must not change unnoticed: nodes of two releases
// share one log. If this fails, raise snapshotVersion and read the old form too.
func TestSnapshotFormat(t *testing.T) {
	w := newWorld(t, options{n: 3, min: 3})
	w.start()
	w.round(1, false, 1, 2, 3)
	sum := sha256.Sum256(w.s.Snapshot())
	const want = "2a2286aa8fdf1689"
	if got := fmt.Sprintf("%x", sum[:8]); got != want {
		t.Fatalf("snapshot digest %s, want %s", got, want)
	}
}

// What older releases wrote is read: a snapshot of version 2 and the log that
// led to it, a study whose aggregate was rejected. The files of testdata/old are
// never written again, only joined by those of newer versions.
func TestOldFormats(t *testing.T) {
	const snapshot, commands = "testdata/old/snapshot-2", "testdata/old/commands-1"
	b, err := os.ReadFile(snapshot)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Restore(b)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(commands)
	if err != nil {
		t.Fatal(err)
	}
	again := NewState()
	for i := uint64(1); len(log) > 0; i++ {
		n := binary.BigEndian.Uint32(log)
		entry := log[4 : 4+n]
		log = log[4+n:]
		cmd, err := DecodeCommand(entry)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(EncodeCommand(cmd), entry) {
			t.Errorf("command %d is encoded otherwise now", i)
		}
		if _, r := again.Apply(i, cmd); r != nil {
			t.Errorf("command %d: %v", i, r)
		}
	}
	if got, want := s.Snapshot(), again.Snapshot(); !bytes.Equal(got, want) {
		t.Error("the old snapshot and the old log give different states")
	}
	b[len(snapshotMagic)+3] = 1
	if _, err := Restore(b); err == nil {
		t.Error("a snapshot of a version that nobody can read was restored")
	}
}

// A snapshot of the release before epochs, written by it: the same study goes
// on in this one, in its first epoch.
func TestSnapshotWithoutEpochs(t *testing.T) {
	f, err := os.Open("testdata/snapshot-v2.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	old, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Restore(old)
	if err != nil {
		t.Fatal(err)
	}
	info := s.Studies()[0]
	if info.Phase != consilium.PhaseEnrolling || info.Members != 1 || len(info.Sites) != 3 || s.live()[0].epoch != 1 {
		t.Fatalf("the study is %+v", info)
	}
	again, err := Restore(s.Snapshot())
	if err != nil || !bytes.Equal(again.Snapshot(), s.Snapshot()) {
		t.Fatal("what an old snapshot restores to does not survive a new one", err)
	}
	if _, r := s.Apply(s.Index()+1, Command{At: s.Now(), Op: &Tick{}}); r != nil {
		t.Fatal(r)
	}
	if _, err := Restore(bytes.Replace(old, []byte{0, 0, 0, 2}, []byte{0, 0, 0, 1}, 1)); err == nil {
		t.Fatal("a snapshot of version 1 is read")
	}
	if _, err := Restore(append(bytes.Clone(old), 0)); err == nil {
		t.Fatal("an old snapshot with a byte too many is read")
	}
}

// The right edge against another implementation of RFC 6962, after every
// event.
func TestEdgeAgainstTlog(t *testing.T) {
	w := newWorld(t, options{n: 4, min: 3})
	w.start()
	w.round(1, true, 1, 2, 3, 4)
	w.finish()
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(ix []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(ix))
		for i, x := range ix {
			out[i] = stored[x]
		}
		return out, nil
	})
	s := NewState()
	if root, _ := tlog.TreeHash(0, nil); tlog.Hash(s.Root()) != root {
		t.Fatal("the empty tree")
	}
	n := int64(0)
	for i, cmd := range w.log {
		ev, _ := s.Apply(w.marks[i], cmd)
		for k := range ev {
			h, err := tlog.StoredHashes(n, ev[k].Encode(), reader)
			if err != nil {
				t.Fatal(err)
			}
			stored = append(stored, h...)
			n++
		}
		want, err := tlog.TreeHash(n, reader)
		if err != nil {
			t.Fatal(err)
		}
		if size, _ := s.Edge(); size != uint64(n) || tlog.Hash(s.Root()) != want {
			t.Fatalf("root of %d leaves differs", n)
		}
	}
}
