//go:build unix

package benchmarks

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"syscall"
	"testing"
	"time"

	"consilium"
	"consilium/he"
	"consilium/he/party"
	"consilium/internal/seal"
)

// What one encrypted round costs, beside the textbook protocol, beside CKKS as
// other federations set it, beside a plain float32 sum, and beside the
// machine's own limits: the transforms, cipher stream and copies that no
// implementation of this construction can do without. Everything runs in one
// process, so the ratios hold on any machine.
//
// Metrics: in Worker, Coordinator, Receiver and Dealing ns/param is wall clock;
// everything else is processor time on one processor. B/param is what travels.

const (
	params    = 1<<19 - he.TagLanes // 16-bit lanes: eight chunks
	hospitals = 16
	threshold = 11
)

type round struct {
	p       he.Profile
	charter consilium.Digest
	group   *party.GroupKey
	keys    []*seal.Key
	holders []consilium.SealingKey
	lanes   []int32
	salt    [32]byte
	vector  consilium.Digest
	again   *party.Fingerprint // of lanes
}

func newRound(b testing.TB, lanes, n int) *round { return newRoundOf(b, lanes, 16, n) }

func newRoundOf(b testing.TB, lanes, bits, n int) *round {
	b.Helper()
	p, err := he.Choose(lanes, bits, n)
	if err != nil {
		b.Fatal(err)
	}
	r := &round{p: p, charter: consilium.DomainCharter.Digest([]byte("benchmark"))}
	var charter consilium.Charter
	var contributions []*party.Contribution
	for i := range n {
		k, err := seal.Generate()
		if err != nil {
			b.Fatal(err)
		}
		c, err := party.NewContribution()
		if err != nil {
			b.Fatal(err)
		}
		m := consilium.Member{Site: consilium.SiteID(fmt.Sprintf("site-%03d", i))}
		m.Commitment = c.Commitment("", m.Site, m.Nonce)
		charter.Members = append(charter.Members, m)
		contributions = append(contributions, c)
		r.keys, r.holders = append(r.keys, k), append(r.holders, k.Public())
	}
	if r.group, err = party.Combine(r.charter, &charter, contributions); err != nil {
		b.Fatal(err)
	}
	r.lanes = make([]int32, lanes)
	for i := range r.lanes {
		r.lanes[i] = int32(i*2654435761>>7)%32768 - 1
	}
	if r.salt, err = party.VectorSalt(make([]byte, 32), "study", 1); err != nil {
		b.Fatal(err)
	}
	r.digest(b)
	return r
}

// digest is what a hospital does with its vector before its first attempt: the digest
// that it journals, and the fingerprint by which Contribute knows the vector again.
func (r *round) digest(b testing.TB) {
	f, err := party.NewFingerprint(r.salt)
	if err != nil {
		b.Fatal(err)
	}
	f.Write(r.lanes)
	r.vector, r.again = f.Digest(), f
}

func (r *round) at(pos int) consilium.At {
	return consilium.At{Charter: r.charter, Round: 1, Attempt: 1, Position: consilium.Position(pos)}
}

func (r *round) contribute(b testing.TB, pos int, w io.Writer) *party.Dealing {
	return r.contributeT(b, pos, threshold, w)
}

func (r *round) contributeT(b testing.TB, pos, t int, w io.Writer) *party.Dealing {
	seed, err := party.NewSeed(make([]byte, 32), r.at(pos), r.vector)
	if err != nil {
		b.Fatal(err)
	}
	src := party.Lanes(r.lanes)
	d, err := party.Contribute(context.Background(), &party.Encryption{Profile: r.p, Lanes: len(r.lanes), At: r.at(pos), Threshold: t,
		Salt: r.salt, Vector: r.vector, Holders: r.holders, Group: r.group, Seed: seed, Source: &src, Fingerprint: r.again}, w)
	if err != nil {
		b.Fatal(err)
	}
	return d
}

// least is the shortest of many runs, wall clock: with two processors against
// one, how well both are used, whoever else is at work.
type least time.Duration

func (l *least) run(f func()) {
	start := time.Now()
	f()
	if d := time.Since(start); *l == 0 || d < time.Duration(*l) {
		*l = least(d)
	}
}

func (l *least) report(b *testing.B, n int) {
	b.ReportMetric(float64(*l)/float64(n), "least-ns/param")
}

// perParam reports the time of b.N runs over the given parameters.
func perParam(b *testing.B, n int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/param")
}

// BenchmarkWorker is Contribute: keys, encryption, tags, digests, dealing and
// sealing to 16 hospitals.
func BenchmarkWorker(b *testing.B) {
	r := newRound(b, params, hospitals)
	for _, procs := range []int{1, runtime.NumCPU()} {
		b.Run(fmt.Sprintf("procs=%d", procs), func(b *testing.B) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			var l least
			for b.Loop() {
				l.run(func() { r.contribute(b, 1, io.Discard) })
			}
			perParam(b, params)
			l.report(b, params)
			b.ReportMetric(float64(r.p.Size(params))/params, "B/param")
		})
	}
}

// lent is a vector in memory, as a he.Lender.
type lent []byte

func (l *lent) Next(n int) ([]byte, error) {
	if n > len(*l) {
		return nil, io.ErrUnexpectedEOF
	}
	b := (*l)[:n:n]
	*l = (*l)[n:]
	return b, nil
}

func (l *lent) Read(b []byte) (int, error) {
	if len(*l) == 0 {
		return 0, io.EOF
	}
	n := copy(b, *l)
	*l = (*l)[n:]
	return n, nil
}

// BenchmarkCoordinator is Sum over 16 contributions in memory: the addition alone, and
// with the digest of each, as a node runs it. ns/param counts one parameter of one
// contribution.
func BenchmarkCoordinator(b *testing.B) {
	r := newRound(b, params, hospitals)
	var buf bytes.Buffer
	r.contribute(b, 1, &buf)
	for _, kind := range []struct {
		name string
		of   func([]byte) io.Reader
	}{
		{"addition", func(b []byte) io.Reader { l := lent(b); return &l }},
		{"digests-and-addition", func(b []byte) io.Reader { return he.NewInput(bytes.NewReader(b)) }},
	} {
		for _, procs := range []int{1, runtime.NumCPU()} {
			b.Run(fmt.Sprintf("%s/procs=%d", kind.name, procs), func(b *testing.B) {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
				for b.Loop() {
					readers := make([]io.Reader, hospitals)
					for i := range readers {
						readers[i] = kind.of(buf.Bytes())
					}
					if err := he.Sum(r.p, params, readers, io.Discard); err != nil {
						b.Fatal(err)
					}
				}
				perParam(b, params*hospitals)
			})
		}
	}
	b.Run("check", func(b *testing.B) {
		for b.Loop() {
			if _, err := he.Check(r.p, params, bytes.NewReader(buf.Bytes())); err != nil {
				b.Fatal(err)
			}
		}
		perParam(b, params)
	})
}

// dealt is what a whole federation made in one round: who opens what.
type dealt struct {
	set      *consilium.Contributors
	bodies   [][]byte
	dealings []*party.Dealing
	sum      []byte
	n, t     int
}

// dealAll contributes r's vector from each of n hospitals and sums.
func dealAll(b testing.TB, r *round, n, t int) *dealt {
	f := &dealt{set: &consilium.Contributors{Charter: r.charter, Round: 1, Attempt: 1}, n: n, t: t}
	var readers []io.Reader
	for i := range n {
		var buf bytes.Buffer
		buf.Grow(int(r.p.Size(len(r.lanes))))
		d := r.contributeT(b, i+1, t, &buf)
		h := &consilium.Header{}
		if err := d.Header(h); err != nil {
			b.Fatal(err)
		}
		f.bodies, f.dealings, readers = append(f.bodies, h.Encode()), append(f.dealings, d), append(readers, &buf)
		f.set.Members = append(f.set.Members, consilium.Contributor{Position: consilium.Position(i + 1), Header: consilium.HeaderDigest(f.bodies[i])})
	}
	var sum bytes.Buffer
	sum.Grow(int(r.p.Size(len(r.lanes))))
	if err := he.Sum(r.p, len(r.lanes), readers, &sum); err != nil {
		b.Fatal(err)
	}
	f.sum = sum.Bytes()
	return f
}

// opening opens all boxes of one holder, from 0, and sums the shares.
func (f *dealt) opening(b testing.TB, r *round, holder int) *party.OpeningShare {
	var shares []*party.KeyShare
	for dealer := range f.n {
		s, err := party.OpenBox(r.p, len(r.lanes), f.n, f.t, r.at(dealer+1), f.bodies[dealer], consilium.Position(holder+1), f.dealings[dealer].Boxes[holder], r.keys[holder])
		if err != nil {
			b.Fatal(err)
		}
		shares = append(shares, s)
	}
	o, err := party.NewOpeningShare(f.set, consilium.Position(holder+1), shares)
	if err != nil {
		b.Fatal(err)
	}
	return o
}

// opened is a small federation's aggregate and openings, to measure Open: 3 of
// 3 hospitals, since the cost of a coefficient does not depend on their number.
func opened(b testing.TB, lanes int) (*party.Decryption, []byte, *round) {
	return openedOf(b, lanes, 16)
}

func openedOf(b testing.TB, lanes, bits int) (*party.Decryption, []byte, *round) {
	return openRound(b, newRoundOf(b, lanes, bits, 3), 3)
}

func openRound(b testing.TB, r *round, n int) (*party.Decryption, []byte, *round) {
	f := dealAll(b, r, n, n)
	in := &party.Decryption{Profile: r.p, Lanes: len(r.lanes), Threshold: n, Members: n, Set: f.set, Group: r.group}
	for holder := range n {
		in.Openings = append(in.Openings, f.opening(b, r, holder))
	}
	return in, f.sum, r
}

// BenchmarkReceiver is Open: reconstruction, decryption and all checks.
func BenchmarkReceiver(b *testing.B) {
	in, sum, r := opened(b, params)
	for _, procs := range []int{1, runtime.NumCPU()} {
		b.Run(fmt.Sprintf("procs=%d", procs), func(b *testing.B) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			var l least
			for b.Loop() {
				n, start := 0, time.Now()
				err := party.Open(context.Background(), in, bytes.NewReader(sum), party.SinkFunc(func(v []int64) error {
					if n == 0 && v[0] != 3*int64(r.lanes[0]) {
						return fmt.Errorf("first sum %d", v[0])
					}
					n += len(v)
					return nil
				}))
				if err != nil || n != params {
					b.Fatal(n, err)
				}
				if d := time.Since(start); l == 0 || d < time.Duration(l) {
					l = least(d)
				}
			}
			perParam(b, params)
			l.report(b, params)
		})
	}
}

// BenchmarkDealing is the cost of a contribution that does not grow with the
// vector: sharing and sealing the key, and opening one box.
func BenchmarkDealing(b *testing.B) {
	for _, n := range []int{16, 50} {
		r := newRound(b, 70000, n)
		b.Run(fmt.Sprintf("deal/n=%d", n), func(b *testing.B) {
			for b.Loop() {
				r.contribute(b, 1, io.Discard)
			}
			b.ReportMetric(float64(r.p.BundleSize(n)), "bundle-B")
		})
		d := r.contribute(b, 1, io.Discard)
		h := &consilium.Header{}
		if err := d.Header(h); err != nil {
			b.Fatal(err)
		}
		body := h.Encode()
		b.Run(fmt.Sprintf("open-box/n=%d", n), func(b *testing.B) {
			for b.Loop() {
				if _, err := party.OpenBox(r.p, 70000, n, threshold, r.at(1), body, 2, d.Boxes[1], r.keys[1]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// best is the least processor time of a few runs, in nanoseconds: the machine
// without its noise and without whoever else uses it. Short functions run often
// enough for the clock's microseconds.
func best(f func()) float64 {
	f()
	start := cpuTime()
	f()
	times := 1 + int(time.Millisecond/max(cpuTime()-start, time.Microsecond))
	shortest := time.Duration(1 << 62)
	for range 7 {
		start := cpuTime()
		for range times {
			f()
		}
		shortest = min(shortest, cpuTime()-start)
	}
	return float64(shortest.Nanoseconds()) / float64(times)
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// oneChunk is a contribution of one chunk: what does not grow with the
// vector, dominated by the dealing, and the first chunk.
func oneChunk(b testing.TB, r *round) {
	short := *r
	short.lanes = r.lanes[:1]
	short.digest(b)
	short.contribute(b, 1, io.Discard)
}
