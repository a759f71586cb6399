package vault

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"testing"

	"consilium"
	"consilium/internal/durable"
	"consilium/internal/hatch"
	"consilium/models"
	"consilium/models/net"
)

// newTrainer is a hospital of a study that trains an autoencoder of one input
// through two layers of so many units: units·(units+4)+1 parameters.
func newTrainer(t *testing.T, units int, dtype, strategy string) *hospital {
	t.Helper()
	h := newHospital(t, someAges(24), func(s *consilium.Spec) {
		s.Sites.Missing = "continue"
		s.Analyses = []consilium.AnalysisSpec{{Name: "ages", Type: consilium.AnalysisTrain, Features: []string{"age"}, Holdout: 0.25,
			Model: &consilium.ModelSpec{DType: dtype, Loss: "reconstruction", Layers: []consilium.Layer{
				{Kind: "dense", Units: units}, {Kind: "tanh"}, {Kind: "dense", Units: units}, {Kind: "tanh"}, {Kind: "dense", Units: 1}}},
			Strategy: &consilium.Strategy{Name: strategy, Rounds: 3, LocalEpochs: 1, Batch: 32, Rate: 0.01, Clip: 0.1, Bits: 16}}}
	})
	h.cfg.Learned = map[string]models.Constructor{consilium.AnalysisTrain: net.New}
	return h
}

// readState is the study's state, as the gate reads it.
func (h *hospital) readState(v hatch.Vault, s hatch.Shape) []byte {
	h.t.Helper()
	b, err := hatch.ReadState(h.t.Context(), v, h.study, &s)
	if err != nil {
		h.t.Fatal(err)
	}
	return b
}

// contribution is what the hospital's own vector is made of beside the update of
// a round of training: the exact blocks, which are few. The update itself is made up
// wherever it is needed, so that the test holds no vector.
func (h *hospital) contribution(v hatch.Vault, n uint32, state []byte, s hatch.Shape) (exact []int32) {
	h.t.Helper()
	r, err := v.Local(h.t.Context(), hatch.LocalRequest{Study: h.study, Round: n, State: state, Included: n - 1})
	if err != nil {
		h.t.Fatal(err)
	}
	from := 0
	if b := s.Layout.Blocks[0]; b.Kind != consilium.Exact {
		from = b.Length
	}
	if exact, err = v.Lanes(h.t.Context(), h.study, n, from, r.Lanes-from); err != nil {
		h.t.Fatal(err)
	}
	return exact
}

// handOver gives the vault the sums of a round, some thousands at a time: of six
// hospitals with the exact values of this one, and an update that is random.
// between is called before each call but the first; last changes the last one.
func (h *hospital) handOver(v hatch.Vault, n uint32, s hatch.Shape, exact []int32, between func(), last func([]int64)) error {
	h.t.Helper()
	lanes := s.Layout.Lanes()
	r := rand.New(rand.NewPCG(uint64(n), 1))
	buf := make([]int64, 1<<16)
	for at := 0; at < lanes; at += len(buf) {
		part := buf[:min(len(buf), lanes-at)]
		for i := range part {
			if k := at + i - (lanes - len(exact)); k >= 0 {
				part[i] = 6 * int64(exact[k])
			} else {
				part[i] = int64(r.IntN(6*2*32767+1) - 6*32767)
			}
		}
		if at > 0 && between != nil {
			between()
		}
		if at+len(part) == lanes && last != nil {
			last(part)
		}
		if err := v.Sums(h.t.Context(), h.study, n, at, part); err != nil {
			return err
		}
	}
	return nil
}

func (h *hospital) update(v hatch.Vault, n uint32) (hatch.Shape, error) {
	return v.Update(h.t.Context(), hatch.UpdateRequest{Study: h.study, Round: n, Contributors: everyone()})
}

// live is what the heap holds after a collection.
func live() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// watch samples the heap until stop is called, and returns the most that it held,
// with what was not collected yet.
func watch() (stop func() uint64) {
	var peak uint64
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		for {
			metrics.Read(sample)
			peak = max(peak, sample[0].Value.Uint64())
			select {
			case <-end:
				return
			default:
				runtime.Gosched()
			}
		}
	}()
	return func() uint64 { close(end); <-done; return peak }
}

// resetPeak makes the system forget the most memory that this process had, and
// returns what it has; 0 where the system does not say.
func resetPeak() uint64 {
	if os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) != nil {
		return 0
	}
	return residentPeak()
}

// residentPeak is the most memory that this process had since.
func residentPeak() uint64 {
	b, _ := os.ReadFile("/proc/self/status")
	for _, l := range strings.Split(string(b), "\n") {
		var kib uint64
		if n, _ := fmt.Sscanf(l, "VmHWM: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return 0
}

// dial is the vault as a gate calls it, over a pipe.
func dial(t *testing.T, v hatch.Vault) *hatch.Pipe {
	toVault, fromGate := io.Pipe()
	toGate, fromVault := io.Pipe()
	var both sync.WaitGroup
	both.Go(func() {
		if err := hatch.Serve(context.WithoutCancel(t.Context()), toVault, fromVault, v); err != nil {
			t.Error(err)
		}
		fromVault.Close()
	})
	p := hatch.Dial(fromGate)
	both.Go(func() { p.Run(toGate) })
	t.Cleanup(func() {
		fromGate.Close()
		both.Wait()
	})
	return p
}

// discard reads a state as a gate does, and keeps its digest.
func (h *hospital) discard(v hatch.Vault, s hatch.Shape) consilium.Digest {
	h.t.Helper()
	d := sha256.New()
	for at := 0; at < s.Size; {
		b, err := v.State(h.t.Context(), h.study, at, min(s.Size-at, hatch.WholeState))
		if err != nil {
			h.t.Fatal(err)
		}
		d.Write(b)
		at += len(b)
	}
	return consilium.Digest(d.Sum(nil))
}

// TestVaultMemory: while a round of training is opened, from the first sums to the
// next state that the gate has read and hands back, the vault holds less than 1.3
// times the parameter vector, in the type of the model, and 16 MiB for buffers, rows
// and policy. CONSILIUM_VAULT_UNITS sets another size: 9998 units are a hundred
// million parameters.
func TestVaultMemory(t *testing.T) {
	if raceEnabled {
		return // it changes what memory holds
	}
	units := 2500 // six million parameters
	if s := os.Getenv("CONSILIUM_VAULT_UNITS"); s != "" {
		var err error
		if units, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	for _, dtype := range []string{"float32", "float64"} {
		t.Run(dtype, func(t *testing.T) {
			const allowance = 16 << 20
			h := newTrainer(t, units, dtype, "fedavg")
			v := h.open()
			p := dial(t, v)
			base := live()
			s := h.start(v)
			s = h.round(v, 1, h.readState(v, s))
			exact := h.contribution(v, 2, h.readState(v, s), s)
			vector := uint64(4 * s.Layout.Blocks[0].Length)
			if dtype == "float64" {
				vector *= 2
			}
			if s.Size < int(vector) {
				t.Fatalf("a state of %d bytes for parameters of %d", s.Size, vector)
			}
			over := func(n uint64) float64 { return float64(int64(n-base)) / float64(vector) }
			t.Logf("%d parameters of %s; with the round's vector: %.3f", s.Layout.Blocks[0].Length, dtype, over(live()))
			if err := v.Opening(t.Context(), h.study, 2); err != nil {
				t.Fatal(err)
			}
			debug.FreeOSMemory()
			low := resetPeak()
			stop := watch()
			if err := h.handOver(p, 2, s, exact, nil, nil); err != nil {
				t.Fatal(err)
			}
			t.Logf("with the sums handed over: %.3f", over(live()))
			next, err := h.update(p, 2)
			if err != nil {
				t.Fatal(err)
			}
			d := h.discard(p, next)
			peak := stop()
			if high := residentPeak(); high > 0 {
				t.Logf("resident: %.3f, of which %.3f before", float64(high)/float64(vector), float64(low)/float64(vector))
			}
			if v.studies[h.study].state.Size() != next.Size || d.IsZero() {
				t.Fatal("not the state")
			}
			t.Logf("at most, from the first sums to the state read: %.3f", over(peak))
			if limit := base + vector*13/10 + allowance; peak > limit {
				t.Errorf("%.2f of the parameter vector: %d bytes above the limit", over(peak), peak-limit)
			}
			if now := live(); now < base+vector {
				t.Errorf("%.2f of the vector is live, and the state is as long as it: nothing was measured", over(now))
			}
			runtime.KeepAlive(v)
		})
	}
}

// TestStreamedUpdate: rounds whose sums are spooled and whose states are made in
// place lead to the states that a replay makes from whole sums, and the same at
// every hospital.
func TestStreamedUpdate(t *testing.T) {
	strategies := []string{"fedavg", "fedadam", "scaffold"}
	if raceEnabled {
		strategies = strategies[:1]
	}
	for _, strategy := range strategies {
		t.Run(strategy, func(t *testing.T) {
			h := newTrainer(t, 1100, "float32", strategy)
			v := h.open()
			s := h.start(v)
			for n := uint32(1); !s.Done; n++ {
				before := h.readState(v, s)
				long := s.Layout.Lanes() > memorySums
				if long != (n > 1 && n < 5) {
					t.Fatalf("round %d of %d lanes", n, s.Layout.Lanes())
				}
				if !long {
					s = h.round(v, n, before)
					continue
				}
				// Sums as they were sent, not made up: a replay takes the steps again.
				reply, err := v.Local(t.Context(), hatch.LocalRequest{Study: h.study, Round: n, State: before, Included: n - 1})
				if err != nil {
					t.Fatal(err)
				}
				s = h.close(v, n, reply.Lanes)
			}
			r, err := v.Release(t.Context(), hatch.ReleaseRequest{Study: h.study, Contributors: everyone()})
			if err != nil {
				t.Fatal(err)
			}
			if !r.Allow {
				t.Logf("release: %s %s", r.Code, r.Reason)
			}
			replayed, err := v.Replay(t.Context(), h.study)
			if err != nil {
				t.Fatal(err)
			}
			if len(replayed.Rounds) != 5 {
				t.Fatalf("%d rounds: %s", len(replayed.Rounds), replayed.Why)
			}
			for _, round := range replayed.Rounds {
				if round.Vector != ReplaySame || round.State != ReplaySame {
					t.Errorf("round %d: vector %s, state %s", round.Round, round.Vector, round.State)
				}
			}
			if !replayed.Same {
				t.Errorf("the result: %s", replayed.Why)
			}
		})
	}
}

// brokenFile fails to read from a byte on, once so many bytes were read.
type brokenFile struct {
	sumsFile
	left int
}

func (f *brokenFile) ReadAt(b []byte, off int64) (int, error) {
	if f.left -= len(b); f.left < 0 {
		return 0, errors.New("input/output error")
	}
	return f.sumsFile.ReadAt(b, off)
}

// alteredFile gives other bytes than were written to it, once so many were read.
type alteredFile struct {
	sumsFile
	left int
}

func (f *alteredFile) ReadAt(b []byte, off int64) (int, error) {
	n, err := f.sumsFile.ReadAt(b, off)
	if f.left -= len(b); f.left < 0 && n > 0 {
		b[n/2] ^= 1
	}
	return n, err
}

// TestSumsReadAgain: whatever is read of the file of the sums, in whatever pieces and how
// often, is what was written to it.
func TestSumsReadAgain(t *testing.T) {
	const lanes = memorySums + 3*sumsBuffer/8 + 5
	s, err := newOpenedSums(t.TempDir(), lanes)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	sums := make([]int64, lanes)
	for i := range sums {
		sums[i] = int64(int16(i * 40503))
	}
	for from, n := 0, 1; from < lanes; from += n {
		n = min(from%7919+1, lanes-from)
		if err := s.add(from, sums[from:from+n]); err != nil {
			t.Fatal(err)
		}
	}
	layout := consilium.Layout{Blocks: []consilium.Block{{Name: "first", Kind: consilium.Exact, Length: 3}, {Name: "update", Kind: consilium.Learned16, Length: lanes - 24, Clip: 1}}}
	if layout.Lanes() != lanes {
		t.Fatalf("%d lanes", layout.Lanes())
	}
	if _, err := s.open(layout, 2); err != nil {
		t.Fatal(err)
	}
	held := s.file
	for _, at := range []int{0, 1, sumsBuffer/4 - 1, sumsBuffer / 4, 100_003, lanes - 20_000} {
		for _, n := range []int{1, sumsBuffer / 4, 20_000} {
			s.file = held
			got := make([]int32, n)
			if err := s.read(got, at); err != nil {
				t.Fatal(err)
			}
			for i, x := range got {
				if int64(x) != sums[at+i] {
					t.Fatalf("lane %d is %d, want %d", at+i, x, sums[at+i])
				}
			}
			far := make([]int32, 1) // so that a piece that was checked is not at hand
			if err := s.read(far, (at+lanes/2)%lanes); err != nil {
				t.Fatal(err)
			}
			s.file = &alteredFile{held, 0}
			if err := s.read(got, at); !errors.Is(err, hatch.ErrStorage) {
				t.Errorf("%d lanes from %d of an altered file: %v", n, at, err)
			}
		}
	}
}

// TestHalfAnUpdate: an update that does not end, for whatever reason, leaves the
// state that the round began with, or none. It never leaves half of one.
func TestHalfAnUpdate(t *testing.T) {
	h := newTrainer(t, 1100, "float32", "fedavg")
	v := h.open()
	s := h.round(v, 1, h.readState(v, h.start(v)))
	before := h.readState(v, s)
	exact := h.contribution(v, 2, before, s)
	sums := func(v *Vault, between func(), last func([]int64)) error {
		return h.handOver(v, 2, s, exact, between, last)
	}
	st := v.studies[h.study]
	untouched := func(why string) {
		t.Helper()
		if st.state == nil || !st.state.Is(before) || st.round != 2 {
			t.Fatalf("%s: the state has changed", why)
		}
	}

	// Refused before anything changes: a last lane that no six hospitals sum to, a
	// sum that is not whole, a contributor who is none, and a file with other bytes
	// than were written to it.
	if err := sums(v, nil, func(p []int64) { p[len(p)-1] = 1 << 30 }); err != nil {
		t.Fatal(err)
	}
	if _, err := h.update(v, 2); err == nil || !strings.Contains(err.Error(), "no 6 contributions sum to this") {
		t.Errorf("error %v", err)
	}
	untouched("an impossible last lane")
	calls := 0
	stop := errors.New("stop")
	if err := sums(v, func() {
		if calls++; calls == 10 {
			untouched("in the middle of the sums")
			if _, err := h.update(v, 2); !errors.Is(err, consilium.ErrInvalid) {
				t.Errorf("an update by a part of the sums: %v", err)
			}
		}
	}, nil); err != nil {
		t.Fatal(stop, err)
	}
	if _, err := v.Update(t.Context(), hatch.UpdateRequest{Study: h.study, Round: 2, Contributors: []consilium.Position{1, 2, 3, 4, 5, 7}}); err == nil {
		t.Error("a seventh of six hospitals")
	}
	untouched("a contributor who is none")
	if err := sums(v, nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := st.sums.file.(*os.File).WriteAt([]byte{1, 0, 0, 0}, 4000); err != nil {
		t.Fatal(err)
	}
	if _, err := h.update(v, 2); !errors.Is(err, hatch.ErrStorage) {
		t.Errorf("other bytes on the disk: %v", err)
	}
	untouched("other bytes on the disk")

	all := 4 * s.Layout.Lanes()
	// The disk fails in the middle of the step, when half of the state is the next
	// one's, or gives other bytes than those that were checked.
	half := st.state
	for what, bad := range map[string]func(sumsFile) sumsFile{
		"fails":             func(f sumsFile) sumsFile { return &brokenFile{f, all + 4*len(exact) + all/2} },
		"gives other bytes": func(f sumsFile) sumsFile { return &alteredFile{f, all + 4*len(exact) + all/2} },
	} {
		if st.state == nil {
			if _, err := v.Adopt(t.Context(), hatch.AdoptRequest{Study: h.study, Round: 1, State: before}); err != nil {
				t.Fatal(err)
			}
		}
		if err := sums(v, nil, nil); err != nil {
			t.Fatal(err)
		}
		half = st.state
		st.sums.file = bad(st.sums.file)
		if _, err := h.update(v, 2); !errors.Is(err, hatch.ErrStorage) {
			t.Errorf("a disk that %s: %v", what, err)
		}
		if half.Is(before) {
			t.Fatalf("a disk that %s: the step did not begin: the test shows nothing", what)
		}
		if st.state != nil {
			t.Fatalf("a disk that %s: half of a state stayed", what)
		}
	}
	for what, err := range map[string]error{
		"State":   second(v.State(t.Context(), h.study, 0, 1)),
		"Sums":    v.Sums(t.Context(), h.study, 2, 0, []int64{0}),
		"Update":  second(h.update(v, 2)),
		"Release": second(v.Release(t.Context(), hatch.ReleaseRequest{Study: h.study, Contributors: everyone()})),
		"Adopt by its name": second(v.Adopt(t.Context(), hatch.AdoptRequest{Study: h.study, Round: 1,
			Held: consilium.DomainState.Digest(before)})),
	} {
		if !errors.Is(err, consilium.ErrUnavailable) && !errors.Is(err, consilium.ErrBlobMissing) {
			t.Errorf("%s without a state: %v", what, err)
		}
	}

	// The gate hands the state over again, and the sums: what follows is what a
	// vault makes that was never disturbed, and one that died in the middle.
	if _, err := v.Adopt(t.Context(), hatch.AdoptRequest{Study: h.study, Round: 1, State: before}); err != nil {
		t.Fatal(err)
	}
	untouched("the state handed over again")
	if err := sums(v, nil, nil); err != nil {
		t.Fatal(err)
	}
	next, err := h.update(v, 2)
	if err != nil {
		t.Fatal(err)
	}
	want := h.discard(v, next)
	if half.Is(h.readState(v, next)) {
		t.Fatal("the step had ended: the test shows nothing")
	}
	// The naive twin, which goes on with what is there, comes to another state.
	st.state, st.round = half, 2
	if err := sums(v, nil, nil); err != nil {
		t.Fatal(err)
	}
	if twin, err := h.update(v, 2); err == nil && h.discard(v, twin) == want {
		t.Fatal("half of an update, taken once more, is the whole: the test shows nothing")
	}
	for _, pieces := range []int{1, 15, 1 << 30} { // then the vault's process dies
		crash := errors.New("crash")
		n := 0
		func() {
			defer func() {
				if r := recover(); r != nil && r != crash {
					panic(r)
				}
			}()
			st.state, _ = models.Parse(st.analysis, before)
			st.round = 2
			if err := sums(v, func() {
				if n++; n == pieces {
					panic(crash)
				}
			}, nil); err != nil {
				t.Fatal(err)
			}
			st.sums.file = &brokenFile{st.sums.file, all + 4*len(exact) + all/2}
			_, _ = h.update(v, 2)
		}()
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		list, err := os.ReadDir(h.cfg.Dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if strings.HasPrefix(e.Name(), durable.TempPrefix) {
				t.Errorf("%s is left", e.Name())
			}
		}
		v = h.open()
		st = nil
		h.start(v)
		if _, err := v.Adopt(t.Context(), hatch.AdoptRequest{Study: h.study, Round: 1, State: before}); err != nil {
			t.Fatal(err)
		}
		st = v.studies[h.study]
		if err := sums(v, nil, nil); err != nil {
			t.Fatal(err)
		}
		if next, err = h.update(v, 2); err != nil {
			t.Fatal(err)
		}
		if h.discard(v, next) != want {
			t.Errorf("after a crash at piece %d another state", pieces)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestSumsLeft: a vault removes what a crash between making its file of sums and
// taking the name away has left.
func TestSumsLeft(t *testing.T) {
	h := newHospital(t, someAges(24), nil)
	h.open().Close()
	left := filepath.Join(h.cfg.Dir, durable.TempPrefix+"sums-1")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.open()
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}
