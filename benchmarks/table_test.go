//go:build unix

package benchmarks

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"fmt"
	"io"
	"math/bits"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tuneinsight/lattigo/v5/ring"

	"consilium"
	"consilium/he"
	"consilium/he/party"
	"consilium/internal/hybrid"
	"consilium/internal/seal"
	"consilium/internal/vec"
)

// limits are what the construction itself asks for, in nanoseconds for a
// parameter of the default profile on one processor. The first three are the
// page's denominator; the next are what this program runs in their place where
// the processor has vector instructions, and equal to them where it does not.
type limits struct {
	ntt, intt, aes          float64 // lattigo's transforms, the standard library's AES-CTR
	copied                  float64 // the encrypted vector, from and to memory
	ownNTT, ownINTT, ownAES float64
	hash, ownHash           float64 // SHA-256 of the encrypted vector; the tree hash of it
	read                    float64 // the encrypted vector, from memory that no cache holds, in one run
	readers                 float64 // the same through sixteen readers in step, a polynomial each
	files                   float64 // the same from sixteen files that the system holds in memory
	aesKeys                 float64 // share of aes that expands a_j alone; the rest is for errors
}

func measureLimits(b testing.TB, p he.Profile) limits {
	r, err := ring.NewRing(p.N(), p.Primes)
	if err != nil {
		b.Fatal(err)
	}
	poly := r.NewPoly()
	per := float64(p.ChunkLanes())
	var l limits
	l.ntt = best(func() { r.NTTLazy(poly, poly) }) / per
	l.intt = best(func() { r.INTTLazy(poly, poly) }) / per
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	// Eight bytes for each residue of a_j and for each error.
	l.aesKeys = float64(len(p.Primes)) / float64(len(p.Primes)+1)
	buf := make([]byte, 8*p.N()*(len(p.Primes)+1))
	ctr := cipher.NewCTR(block, make([]byte, 16))
	l.aes = best(func() { ctr.XORKeyStream(buf, buf) }) / per
	l.ownNTT, l.ownINTT, l.ownAES = l.ntt, l.intt, l.aes
	if vec.Enabled {
		l.ownNTT, l.ownINTT = 0, 0
		for i, q := range p.Primes {
			s := r.SubRings[i]
			plain := func(v []uint64) []uint64 {
				out := make([]uint64, len(v))
				s.IMForm(v, out)
				return out
			}
			own := vec.NewRing(q, plain(s.RootsForward), plain(s.RootsBackward), plain([]uint64{s.NInv, 0, 0, 0, 0, 0, 0, 0})[0])
			x := make([]uint64, p.N())
			l.ownNTT += best(func() { own.Forward(x) }) / per
			clear(x)
			l.ownINTT += best(func() { own.Inverse(x, 0) }) / per
		}
		var a vec.AES
		a.Expand(&[32]byte{})
		l.ownAES = best(func() {
			for part := range (len(buf)) / 8192 {
				a.Stream(buf[:8192], 0, uint64(part))
			}
		}) / per
	}
	chunk := make([]byte, p.ChunkSize())
	l.hash = best(func() { sha256.Sum256(chunk) }) / per
	// Sixteen contributions lie apart: no cache holds them.
	big := make([]byte, 128<<20)
	for i := range big {
		big[i] = byte(i)
	}
	scratch := make([]byte, 8192)
	l.read = best(func() {
		for i := 0; i+len(scratch) <= len(big); i += len(scratch) {
			copy(scratch, big[i:])
		}
	}) / float64(len(big)) * float64(p.ChunkSize()) / per
	limb := make([]byte, p.LimbSize(0))
	l.readers = best(func() {
		readers := make([]*bytes.Reader, hospitals)
		for i := range readers {
			readers[i] = bytes.NewReader(big[len(big)/hospitals*i : len(big)/hospitals*(i+1)])
		}
		for range len(big) / hospitals / len(limb) {
			for _, r := range readers {
				if _, err := io.ReadFull(r, limb); err != nil {
					b.Fatal(err)
				}
			}
		}
	}) / float64(len(big)) * float64(p.ChunkSize()) / per
	dir := contributions(b, hospitals, big[:len(big)/hospitals])
	l.files = best(func() {
		files := openAll(b, dir, hospitals)
		defer closeAll(files)
		for range len(big) / hospitals / len(limb) {
			for _, f := range files {
				if _, err := io.ReadFull(f, limb); err != nil {
					b.Fatal(err)
				}
			}
		}
	}) / float64(len(big)) * float64(p.ChunkSize()) / per
	// The digest of several chunks, as Contribute makes it: from the second cache.
	l.ownHash = best(func() {
		h := he.NewCiphertextHash()
		for range 8 {
			h.Write(chunk)
		}
		h.Digest()
	}) / 8 / per
	half := len(big) / 2
	l.copied = best(func() { copy(big[:half], big[half:]) }) / float64(half) * float64(p.ChunkSize()) / per
	return l
}

// contributions are n files of the same bytes, in a directory that goes with the benchmark.
func contributions(b testing.TB, n int, body []byte) string {
	dir := b.TempDir()
	for i := range n {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), body, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

func openAll(b testing.TB, dir string, n int) (files []*os.File) {
	for i := range n {
		f, err := os.Open(filepath.Join(dir, strconv.Itoa(i)))
		if err != nil {
			b.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// ours measures the three roles. Every contribution of the sum is in memory of
// its own, for the addition, and in a file of its own, for what a node does with them.
func ours(b testing.TB, bitsPerLane, lanes int) costs {
	r := newRoundOf(b, lanes, bitsPerLane, hospitals)
	var whole bytes.Buffer
	whole.Grow(int(r.p.Size(lanes)))
	r.contribute(b, 1, &whole)
	fixed := best(func() { oneChunk(b, r) })
	c := costs{bytes: float64(r.p.Size(lanes)) / float64(lanes)}
	c.worker = (best(func() {
		whole.Reset()
		r.contribute(b, 1, &whole)
	}) - fixed) / float64(lanes-r.p.ChunkLanes())
	c.digest = best(func() { r.digest(b) }) / float64(lanes)
	each := make([][]byte, hospitals)
	for i := range each {
		each[i] = bytes.Clone(whole.Bytes())
	}
	c.coordinator = best(func() {
		readers := make([]io.Reader, hospitals)
		for i := range readers {
			l := lent(each[i])
			readers[i] = &l
		}
		if err := he.Sum(r.p, lanes, readers, io.Discard); err != nil {
			b.Fatal(err)
		}
	}) / float64(lanes) / hospitals
	clear(each)
	dir, h := contributions(b, hospitals, whole.Bytes()), he.NewCiphertextHash()
	h.Write(whole.Bytes())
	digest := h.Digest()
	c.node = best(func() {
		files := openAll(b, dir, hospitals)
		defer closeAll(files)
		inputs, readers := make([]*he.Input, hospitals), make([]io.Reader, hospitals)
		for i, f := range files {
			inputs[i] = he.NewInput(f)
			readers[i] = inputs[i]
		}
		if err := he.Sum(r.p, lanes, readers, io.Discard); err != nil {
			b.Fatal(err)
		}
		for _, in := range inputs {
			if in.Digest() != digest {
				b.Fatal("another digest")
			}
		}
	}) / float64(lanes) / hospitals
	in, sum, _ := openedOf(b, lanes, bitsPerLane)
	c.receiver = best(func() {
		if err := party.Open(context.Background(), in, bytes.NewReader(sum), party.SinkFunc(func([]int64) error { return nil })); err != nil {
			b.Fatal(err)
		}
	}) / float64(lanes)
	return c
}

// BenchmarkTable is the table of docs/performance.md in one run, on one
// processor: ours against the limits and the peers. It prints the table; the
// metrics are the ratios that have goals.
func BenchmarkTable(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for b.Loop() {
		p, err := he.Choose(params, 16, hospitals)
		if err != nil {
			b.Fatal(err)
		}
		l := measureLimits(b, p)
		// 2^22 lanes: the sixteen contributions together are 180 MB, and what does not
		// grow with the vector is a quarter of the worker's time.
		own, wide := ours(b, 16, 1<<22-he.TagLanes), ours(b, 24, 44*6<<13-he.TagLanes)
		a, c, plain := textbook(b), ckks(b), plainSum(hospitals)

		lattigo := l.ntt + l.aes + l.copied
		vector := l.ownNTT + l.ownAES + l.copied
		back, vectorBack := l.intt+l.aes*l.aesKeys+l.copied, l.ownINTT+l.ownAES*l.aesKeys+l.copied

		var t strings.Builder
		row := func(name string, v ...any) {
			fmt.Fprintf(&t, "| %s |", name)
			for _, x := range v {
				switch x := x.(type) {
				case float64:
					fmt.Fprintf(&t, " %.*f |", max(0, min(3, 3-bits.Len(uint(x))/3)), x)
				default:
					fmt.Fprintf(&t, " %v |", x)
				}
			}
			t.WriteByte('\n')
		}
		t.WriteString("\n| | worker | addition, per contribution | receiver | bytes |\n|---|---|---|---|---|\n")
		for _, x := range []struct {
			name string
			c    costs
		}{{"ours, 16 bits", own}, {"ours, 24 bits", wide}, {"(A) textbook BGV", a}, {"(B) CKKS [60,40,40]", c}, {"(C) plain float32", plain}} {
			row(x.name, x.c.worker, x.c.coordinator, x.c.receiver, x.c.bytes)
		}
		row("(A) / ours", a.worker/own.worker, a.coordinator/own.coordinator, a.receiver/own.receiver, a.bytes/own.bytes)
		row("(B) / ours", c.worker/own.worker, c.coordinator/own.coordinator, c.receiver/own.receiver, c.bytes/own.bytes)
		fmt.Fprintf(&t, "\nbefore the first attempt of a round, digest and fingerprint: %.2f and %.2f at 16 and 24 bits\n", own.digest, wide.digest)
		fmt.Fprintf(&t, "what a node runs, files read, digested and added, per contribution: %.3f and %.3f at 16 and 24 bits\n", own.node, wide.node)
		t.WriteString("\n| (D) limit | transforms | AES-CTR | copy | sum | SHA-256 |\n|---|---|---|---|---|---|\n")
		row("worker, lattigo and standard library", l.ntt, l.aes, l.copied, lattigo, l.hash)
		row("worker, what it runs itself", l.ownNTT, l.ownAES, l.copied, vector, l.ownHash)
		row("receiver, lattigo and standard library", l.intt, l.aes*l.aesKeys, l.copied, back, "")
		row("receiver, what it runs itself", l.ownINTT, l.ownAES*l.aesKeys, l.copied, vectorBack, "")
		row("coordinator, reading in one run", "", "", "", l.read, "")
		row("coordinator, reading sixteen in step", "", "", "", l.readers, "")
		row("coordinator, reading sixteen files in step", "", "", "", l.files, l.ownHash)
		// b.Log would cut it short.
		fmt.Print(t.String(), "\n")

		b.ReportMetric(own.bytes, "B/param")
		b.ReportMetric(wide.bytes, "B/param-24bit")
		b.ReportMetric(own.worker, "worker-ns/param")
		b.ReportMetric(own.worker/lattigo, "worker/limit")
		b.ReportMetric(own.worker/(vector+l.ownHash), "worker/own-limit+hash")
		b.ReportMetric(own.worker/vector, "worker/own-limit")
		b.ReportMetric(own.receiver, "receiver-ns/param")
		b.ReportMetric(own.receiver/back, "receiver/limit")
		b.ReportMetric(own.receiver/vectorBack, "receiver/own-limit")
		b.ReportMetric(own.coordinator/l.read, "addition/read-one-run")
		b.ReportMetric(own.coordinator/l.readers, "addition/read")
		b.ReportMetric(own.node/l.files, "node/read-files")
		b.ReportMetric(own.node/(l.files+l.ownHash), "node/read-files+hash")
		b.ReportMetric(c.worker/own.worker, "CKKS/worker")
		b.ReportMetric(a.worker/own.worker, "textbook/worker")
		b.ReportMetric(c.bytes/own.bytes, "CKKS/bytes")
		b.ReportMetric(a.bytes/own.bytes, "textbook/bytes")
	}
}

// BenchmarkLinear is the whole of Contribute on one processor, from ten
// thousand parameters to ten million, and what a parameter of a whole chunk
// costs beyond the first, which comes with the sharing and sealing of one key.
func BenchmarkLinear(b *testing.B) {
	for _, n := range []int{1e4, 1e5, 1e6, 1e7} {
		r := newRound(b, n, hospitals)
		b.Run(fmt.Sprintf("%.0e", float64(n)), func(b *testing.B) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
			for b.Loop() {
				fixed := best(func() { oneChunk(b, r) })
				all := few(func() { r.contribute(b, 1, io.Discard) })
				b.ReportMetric(all/float64(n), "cpu-ns/param")
				if more := (r.p.Chunks(n) - 1) * r.p.ChunkLanes(); more > 0 {
					b.ReportMetric((all-fixed)/float64(more), "chunk-ns/param")
				}
				b.ReportMetric(float64(r.p.Size(n))/float64(n), "B/param")
			}
		})
	}
}

// few is best of three single runs, for what takes long.
func few(f func()) float64 {
	shortest := time.Duration(1 << 62)
	for range 3 {
		start := cpuTime()
		f()
		shortest = min(shortest, cpuTime()-start)
	}
	return float64(shortest.Nanoseconds())
}

// BenchmarkResNet is a round of 25.6 million parameters from three hospitals:
// each digests its vector, encrypts it and deals its key; the coordinator sums;
// one hospital opens. cpu-s is all of it on all processors, wall-s how long it
// took.
func BenchmarkResNet(b *testing.B) {
	const lanes = 25_600_000
	r := newRound(b, lanes, 3)
	for b.Loop() {
		start, clock := cpuTime(), time.Now()
		for range 3 {
			r.digest(b)
		}
		in, sum, _ := openRound(b, r, 3)
		n := 0
		err := party.Open(context.Background(), in, bytes.NewReader(sum), party.SinkFunc(func(v []int64) error {
			if v[0] != 3*int64(r.lanes[n]) {
				return fmt.Errorf("sum %d is %d", n, v[0])
			}
			n += len(v)
			return nil
		}))
		if err != nil || n != lanes {
			b.Fatal(n, err)
		}
		b.ReportMetric((cpuTime() - start).Seconds(), "cpu-s")
		b.ReportMetric(time.Since(clock).Seconds(), "wall-s")
	}
}

// BenchmarkCox is one hospital's part in a round of 28 numbers, exact, at 13
// hospitals, as package worker performs it: its key sealed to all, its five
// signatures, everybody else's verified, all boxes opened, the sum opened. The
// operations by public key are counted and timed one by one beside it.
func BenchmarkCox(b *testing.B) {
	const n, t, numbers = 13, 9, 28
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	lanes := numbers * consilium.ExactLanes
	r := newRound(b, lanes, n)
	ids := make([]*hybrid.Key, n)
	for i := range ids {
		var err error
		if ids[i], err = hybrid.Generate(); err != nil {
			b.Fatal(err)
		}
	}
	sign := func(by int, body []byte) consilium.Signature {
		s, err := ids[by].Sign(consilium.DomainHeader, body)
		if err != nil {
			b.Fatal(err)
		}
		return s
	}
	type signed struct {
		by   int
		body []byte
		sig  consilium.Signature
	}
	serial := 0
	verify := func(list []signed) {
		for _, m := range list {
			if err := hybrid.Verify(ids[m.by].Public(), consilium.DomainHeader, m.body, &m.sig); err != nil {
				b.Fatal(err)
			}
		}
	}
	// What the others send besides headers: votes, openings, state votes.
	messages := func(size int) (out []signed) {
		for i := 1; i < n; i++ {
			serial++
			body := append(make([]byte, size), byte(serial), byte(serial>>8), byte(serial>>16))
			out = append(out, signed{i, body, sign(i, body)})
		}
		return out
	}
	for b.Loop() {
		// Unit costs, on bytes of the sizes that travel.
		box := make([]byte, he.SaltSize+r.p.ShareSize())
		sealed, err := seal.Seal(r.holders[0], consilium.DomainBox, nil, box)
		if err != nil {
			b.Fatal(err)
		}
		fresh := messages(r.p.OpeningSize())
		verify(messages(80)) // keys are unpacked once
		unit := map[string]float64{
			"seal": best(func() { seal.Seal(r.holders[0], consilium.DomainBox, nil, box) }),
			"open": best(func() { r.keys[0].Open(consilium.DomainBox, nil, sealed) }),
			"key":  best(func() { seal.Generate() }),
			"sign": best(func() { serial++; sign(0, fmt.Appendf(nil, "%d", serial)) }),
		}
		start := cpuTime()
		verify(fresh) // each once: what was verified is remembered
		unit["verify"] = float64((cpuTime() - start).Nanoseconds()) / float64(len(fresh))

		const seals, opens, keys, signs, verifies = n, n, 1, 5, 4 * (n - 1)
		public := seals*unit["seal"] + opens*unit["open"] + keys*unit["key"] + signs*unit["sign"] + verifies*unit["verify"]

		least := 0.0
		for range 3 {
			// The others' part, not measured.
			f := dealAll(b, r, n, t)
			var headers []signed
			for i := 1; i < n; i++ {
				headers = append(headers, signed{i, f.bodies[i], sign(i, f.bodies[i])})
			}
			votes, openings, states := messages(80), messages(r.p.OpeningSize()), messages(80)
			var sealedOpenings [][]byte
			for i := range t {
				o, err := f.opening(b, r, i).Seal(r.group)
				if err != nil {
					b.Fatal(err)
				}
				sealedOpenings = append(sealedOpenings, o)
			}
			runtime.GC()

			start := cpuTime()
			var own bytes.Buffer
			r.digest(b)
			next, err := seal.Generate()
			if err != nil {
				b.Fatal(err)
			}
			d := r.contributeT(b, 1, t, &own)
			h := &consilium.Header{NextSealing: next.Public()}
			if err := d.Header(h); err != nil {
				b.Fatal(err)
			}
			sign(0, h.Encode())
			verify(headers)
			o := f.opening(b, r, 0) // opens the thirteen boxes
			sign(0, []byte("ack"))
			sign(0, []byte("vote"))
			verify(votes)
			mine, err := o.Seal(r.group)
			if err != nil {
				b.Fatal(err)
			}
			sign(0, mine)
			verify(openings)
			in := &party.Decryption{Profile: r.p, Lanes: lanes, Threshold: t, Members: n, Set: f.set, Group: r.group}
			for i, s := range sealedOpenings {
				o, err := party.UnsealOpening(r.p, r.group, r.at(i+1), f.set.Digest(), s)
				if err != nil {
					b.Fatal(err)
				}
				in.Openings = append(in.Openings, o)
			}
			if err := party.Open(context.Background(), in, bytes.NewReader(f.sum), party.SinkFunc(func([]int64) error { return nil })); err != nil {
				b.Fatal(err)
			}
			sign(0, []byte("state"))
			verify(states)
			took := float64((cpuTime() - start).Nanoseconds())
			if least == 0 || took < least {
				least = took
			}
		}
		b.ReportMetric(least/1e6, "round-cpu-ms")
		b.ReportMetric(public/1e6, "public-key-ms")
		b.ReportMetric(least/public, "round/public-key")
		b.ReportMetric(unit["verify"]/1e3, "verify-us")
		b.ReportMetric(unit["sign"]/1e3, "sign-us")
		b.ReportMetric(unit["seal"]/1e3, "seal-us")
		b.ReportMetric(unit["open"]/1e3, "open-us")
	}
}
