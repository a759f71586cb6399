package party

import (
	"bytes"
	"context"
	"io"
	"runtime"
	"sync/atomic"
	"testing"

	"consilium"
	"consilium/he"
)

// live is what the heap holds after a collection.
func live() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// weights is a float32 vector in memory as a source, quantised on the way; it
// notes the live heap half way.
type weights struct {
	v    []float32
	at   int
	peak *atomic.Uint64
}

func (w *weights) Read(lanes []int32) (int, error) {
	n := min(len(lanes), len(w.v)-w.at)
	if n == 0 {
		return 0, io.EOF
	}
	if w.at <= len(w.v)/2 && w.at+n > len(w.v)/2 {
		w.peak.Store(live())
	}
	for i, x := range w.v[w.at : w.at+n] {
		lanes[i] = int32(x * 32767)
	}
	w.at += n
	return n, nil
}

// TestWorkerMemory: with its parameter vector in memory as float32, four bytes
// a parameter, a worker that encrypts it, and one that opens a sum into it,
// hold less than 1.3 times the vector. The vector here has eight million
// parameters; what is held beside it does not grow with it. (A vector of at
// most 2^24 lanes may be buffered once more on opening; the streaming path,
// which longer ones take, is the one that is measured.)
func TestWorkerMemory(t *testing.T) {
	if raceEnabled {
		return // it changes what memory holds
	}
	// Every processor has a chunk of a megabyte in flight, and one waits.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	const lanes = 1 << 23
	p := mustProfile(t, 13, 16, 16)
	f := newFederation(t, p, lanes, 3, 3)
	before := live()
	v := make([]float32, lanes)
	for i := range v {
		v[i] = float32(i%2001-1000) / 1000
	}
	h := NewVectorHash(f.salt(t, 1))
	buf := make([]int32, 4096)
	var peak atomic.Uint64
	for s := (&weights{v: v, peak: &peak}); ; {
		n, err := s.Read(buf)
		if err == io.EOF {
			break
		}
		h.Write(buf[:n])
	}
	in := f.encryption(t, 1, nil)
	in.Vector, in.Source = h.Digest(), &weights{v: v, peak: &peak}
	var sum counter
	if _, err := Contribute(context.Background(), in, &sum); err != nil {
		t.Fatal(err)
	}
	if uint64(sum) != p.Size(lanes) {
		t.Fatalf("%d bytes, want %d", sum, p.Size(lanes))
	}
	limit := before + lanes*4*13/10
	t.Logf("encrypting: %.3f of the vector", float64(peak.Load()-before)/(4*lanes))
	if got := peak.Load(); got > limit {
		t.Errorf("encrypting: %.2f of the vector is live", float64(got-before)/(4*lanes))
	}

	// Opening: one contribution is a sum of one. Its bytes are made again
	// wherever they are read, so that they take no memory.
	e, err := engineFor(p)
	if err != nil {
		t.Fatal(err)
	}
	rk := e.newKey(keyOf(in))
	pr, pw := io.Pipe()
	go func() {
		in.Source = &weights{v: v, peak: &peak}
		pw.CloseWithError(e.encryptStream(context.Background(), in, rk, &Dealing{}, pw))
	}()
	out := &Decryption{Profile: p, Lanes: lanes, Group: f.group,
		Set: &consilium.Contributors{Charter: f.charter, Round: 1, Attempt: 1, Members: make([]consilium.Contributor, 1)}}
	d, at, opened := out.newDrainer(e), 0, uint64(0)
	d.out = func(sums []int64) error {
		if at <= lanes/2 && at+len(sums) > lanes/2 {
			opened = live()
		}
		for i, s := range sums {
			v[at+i] = float32(s) / 32767
		}
		at += len(sums)
		return nil
	}
	if err := out.openStream(context.Background(), e, rk, pr, d); err != nil {
		t.Fatal(err)
	}
	t.Logf("opening, with the encrypting side: %.3f of the vector", float64(opened-before)/(4*lanes))
	// The encrypting side lives in this process too: its share is taken off.
	if opened > limit+(peak.Load()-before-4*lanes) {
		t.Errorf("opening: %.2f of the vector is live", float64(opened-before)/(4*lanes))
	}
	runtime.KeepAlive(v)
}

// counter counts bytes.
type counter uint64

func (c *counter) Write(b []byte) (int, error) { *c += counter(len(b)); return len(b), nil }

// TestCoordinatorMemory: a sum over sixteen contributions holds less than four
// chunks a site, whatever the length of the vectors.
func TestCoordinatorMemory(t *testing.T) {
	if raceEnabled {
		return
	}
	const chunks = 20
	p := mustProfile(t, 13, 16, 16)
	lanes := chunks*p.ChunkLanes() - he.TagLanes
	chunk := make([]byte, p.ChunkSize()) // of zeros: residues that are reduced
	before := live()
	var peak uint64
	var readers []io.Reader
	for i := range 16 {
		parts := make([]io.Reader, chunks)
		for j := range parts {
			parts[j] = bytes.NewReader(chunk)
		}
		r := io.MultiReader(parts...)
		if i == 0 {
			r = &noting{r: r, at: int64(chunks * len(chunk) / 2), note: func() { peak = live() }}
		}
		readers = append(readers, r)
	}
	if err := he.Sum(p, lanes, readers, io.Discard); err != nil {
		t.Fatal(err)
	}
	if limit := before + 16*4*uint64(len(chunk)); peak == 0 || peak > limit {
		t.Errorf("%d bytes are live, four chunks a site are %d", peak-before, limit-before)
	}
}

// noting calls note once, when at bytes have passed.
type noting struct {
	r    io.Reader
	at   int64
	note func()
}

func (n *noting) Read(b []byte) (int, error) {
	k, err := n.r.Read(b)
	if was := n.at; was > 0 {
		if n.at -= int64(k); n.at <= 0 {
			n.note()
		}
	}
	return k, err
}
