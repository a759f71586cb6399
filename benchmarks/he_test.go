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
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/tuneinsight/lattigo/v5/core/rlwe"
	"github.com/tuneinsight/lattigo/v5/he/hefloat"
	"github.com/tuneinsight/lattigo/v5/he/heint"
	"github.com/tuneinsight/lattigo/v5/mhe"
	"github.com/tuneinsight/lattigo/v5/ring"
	"github.com/tuneinsight/lattigo/v5/utils/sampling"

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
	vector  consilium.Digest
}

func newRound(b testing.TB, lanes, n int) *round {
	b.Helper()
	p, err := he.Choose(lanes, 16, n)
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
	r.vector = party.VectorDigest(r.group, r.lanes)
	return r
}

func (r *round) at(pos int) consilium.At {
	return consilium.At{Charter: r.charter, Round: 1, Attempt: 1, Position: consilium.Position(pos)}
}

func (r *round) contribute(b testing.TB, pos int, w io.Writer) *party.Dealing {
	seed, err := party.NewSeed(make([]byte, 32), r.at(pos), r.vector)
	if err != nil {
		b.Fatal(err)
	}
	src := party.Lanes(r.lanes)
	d, err := party.Contribute(context.Background(), &party.Encryption{Profile: r.p, Lanes: len(r.lanes), At: r.at(pos), Threshold: threshold,
		Vector: r.vector, Holders: r.holders, Group: r.group, Seed: seed, Source: &src}, w)
	if err != nil {
		b.Fatal(err)
	}
	return d
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
			for b.Loop() {
				r.contribute(b, 1, io.Discard)
			}
			perParam(b, params)
			b.ReportMetric(float64(r.p.Size(params))/params, "B/param")
		})
	}
}

// BenchmarkCoordinator is Sum over 16 contributions; ns/param counts one
// parameter of one contribution.
func BenchmarkCoordinator(b *testing.B) {
	r := newRound(b, params, hospitals)
	var buf bytes.Buffer
	r.contribute(b, 1, &buf)
	for _, procs := range []int{1, runtime.NumCPU()} {
		b.Run(fmt.Sprintf("procs=%d", procs), func(b *testing.B) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			for b.Loop() {
				readers := make([]io.Reader, hospitals)
				for i := range readers {
					readers[i] = bytes.NewReader(buf.Bytes())
				}
				if err := he.Sum(r.p, params, readers, io.Discard); err != nil {
					b.Fatal(err)
				}
			}
			perParam(b, params*hospitals)
		})
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

// opened is a small federation's aggregate and openings, to measure Open: 3 of
// 3 hospitals, since the cost of a coefficient does not depend on their number.
func opened(b testing.TB, lanes int) (*party.Decryption, []byte, *round) {
	const n = 3
	r := newRound(b, lanes, n)
	set := &consilium.Contributors{Charter: r.charter, Round: 1, Attempt: 1}
	var bodies [][]byte
	var dealings []*party.Dealing
	var readers []io.Reader
	for i := range n {
		var buf bytes.Buffer
		seed, err := party.NewSeed(make([]byte, 32), r.at(i+1), r.vector)
		if err != nil {
			b.Fatal(err)
		}
		src := party.Lanes(r.lanes)
		d, err := party.Contribute(context.Background(), &party.Encryption{Profile: r.p, Lanes: lanes, At: r.at(i + 1), Threshold: n,
			Vector: r.vector, Holders: r.holders, Group: r.group, Seed: seed, Source: &src}, &buf)
		if err != nil {
			b.Fatal(err)
		}
		h := &consilium.Header{}
		if err := d.Header(h); err != nil {
			b.Fatal(err)
		}
		bodies, dealings, readers = append(bodies, h.Encode()), append(dealings, d), append(readers, &buf)
		set.Members = append(set.Members, consilium.Contributor{Position: consilium.Position(i + 1), Header: consilium.HeaderDigest(bodies[i])})
	}
	in := &party.Decryption{Profile: r.p, Lanes: lanes, Threshold: n, Members: n, Set: set, Group: r.group}
	for holder := range n {
		var shares []*party.KeyShare
		for dealer := range n {
			s, err := party.OpenBox(r.p, lanes, n, n, r.at(dealer+1), bodies[dealer], consilium.Position(holder+1), dealings[dealer].Boxes[holder], r.keys[holder])
			if err != nil {
				b.Fatal(err)
			}
			shares = append(shares, s)
		}
		o, err := party.NewOpeningShare(set, consilium.Position(holder+1), shares)
		if err != nil {
			b.Fatal(err)
		}
		in.Openings = append(in.Openings, o)
	}
	var sum bytes.Buffer
	if err := he.Sum(r.p, lanes, readers, &sum); err != nil {
		b.Fatal(err)
	}
	return in, sum.Bytes(), r
}

// BenchmarkReceiver is Open: reconstruction, decryption and all checks.
func BenchmarkReceiver(b *testing.B) {
	in, sum, r := opened(b, params)
	for _, procs := range []int{1, runtime.NumCPU()} {
		b.Run(fmt.Sprintf("procs=%d", procs), func(b *testing.B) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			for b.Loop() {
				n := 0
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
			}
			perParam(b, params)
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

// limits measures, per parameter of the default profile and on one processor,
// what the construction itself asks for.
func limits(b testing.TB, p he.Profile) (ntt, intt, stream, hash, copied, read float64) {
	r, err := ring.NewRing(p.N(), p.Primes)
	if err != nil {
		b.Fatal(err)
	}
	poly := r.NewPoly()
	per := float64(p.ChunkLanes())
	ntt = best(func() { r.NTTLazy(poly, poly) }) / per
	intt = best(func() { r.INTTLazy(poly, poly) }) / per
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	// Eight bytes for each residue of a_j and for each error.
	buf := make([]byte, 8*p.N()*(len(p.Primes)+1))
	ctr := cipher.NewCTR(block, make([]byte, 16))
	stream = best(func() { ctr.XORKeyStream(buf, buf) }) / per
	bytes := make([]byte, p.ChunkSize())
	hash = best(func() { sha256.Sum256(bytes) }) / per
	out := make([]byte, p.ChunkSize())
	copied = best(func() { copy(out, bytes) }) / per
	// Reading a coordinator's input once from memory that no cache holds.
	big := make([]byte, 64<<20)
	for i := range big {
		big[i] = byte(i)
	}
	read = best(func() {
		for i := 0; i+len(out) <= len(big); i += len(out) {
			copy(out, big[i:])
		}
	}) / float64(len(big)) * float64(p.ChunkSize()) / per
	return
}

// BenchmarkRatios is the table of the page in one run: ours against the
// physical limits and the peers, as ratios, each on one processor.
func BenchmarkRatios(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	r := newRound(b, params, hospitals)
	in, sum, _ := opened(b, params)
	var cipherBytes bytes.Buffer
	r.contribute(b, 1, &cipherBytes)
	for b.Loop() {
		ntt, intt, stream, hash, copied, read := limits(b, r.p)
		fixed := best(func() { oneChunk(b, r) })
		worker := (best(func() { r.contribute(b, 1, io.Discard) }) - fixed) / (params - float64(r.p.ChunkLanes()))
		receiver := best(func() {
			if err := party.Open(context.Background(), in, bytes.NewReader(sum), party.SinkFunc(func([]int64) error { return nil })); err != nil {
				b.Fatal(err)
			}
		}) / params
		coordinator := best(func() {
			readers := make([]io.Reader, hospitals)
			for i := range readers {
				readers[i] = bytes.NewReader(cipherBytes.Bytes())
			}
			if err := he.Sum(r.p, params, readers, io.Discard); err != nil {
				b.Fatal(err)
			}
		}) / params / hospitals
		plain := plainSum(hospitals)
		b.ReportMetric(worker, "worker-ns/param")
		b.ReportMetric(worker/(ntt+stream+copied), "worker/limit")
		// The ciphertext and, at two bytes a parameter, the vector are hashed.
		b.ReportMetric(worker/(ntt+stream+copied+1.75*hash), "worker/limit+hashes")
		b.ReportMetric(receiver, "receiver-ns/param")
		b.ReportMetric(receiver/(intt+stream+copied), "receiver/limit")
		b.ReportMetric(coordinator, "coordinator-ns/param")
		b.ReportMetric(coordinator/read, "coordinator/read")
		b.ReportMetric(coordinator/plain, "coordinator/plain-sum")
		b.ReportMetric(ntt+stream+copied, "limit-ns/param")
		b.ReportMetric(hash, "sha256-ns/param")
	}
}

// oneChunk is a contribution of one chunk: what does not grow with the
// vector, dominated by the dealing, and the first chunk.
func oneChunk(b testing.TB, r *round) {
	short := *r
	short.lanes = r.lanes[:1]
	short.vector = party.VectorDigest(r.group, short.lanes)
	short.contribute(b, 1, io.Discard)
}

// plainSum is the floor without any encryption: n vectors of float32 added.
func plainSum(n int) float64 {
	acc, v := make([]float32, params), make([]float32, params)
	return best(func() {
		for range n {
			for i, x := range v {
				acc[i] += x
			}
		}
	}) / params / float64(n)
}

// BenchmarkPlain is a plain float32 sum, for the table.
func BenchmarkPlain(b *testing.B) {
	for b.Loop() {
		b.ReportMetric(plainSum(hospitals), "ns/param")
		b.ReportMetric(4, "B/param")
	}
}

// BenchmarkCKKS is what NVFLARE and TenSEAL set by default for federated
// averaging: CKKS, N = 8192, coefficient moduli of 60, 40 and 40 bits, of which
// SEAL keeps the last for keys; public-key encryption, 4096 floats to a
// ciphertext.
func BenchmarkCKKS(b *testing.B) {
	lit := hefloat.ParametersLiteral{LogN: 13, LogQ: []int{60, 40}, LogP: []int{40}, LogDefaultScale: 40}
	p, err := hefloat.NewParametersFromLiteral(lit)
	if err != nil {
		b.Fatal(err)
	}
	kgen := rlwe.NewKeyGenerator(p)
	sk, pk := kgen.GenKeyPairNew()
	ecd, enc, dec, eval := hefloat.NewEncoder(p), rlwe.NewEncryptor(p, pk), rlwe.NewDecryptor(p, sk), hefloat.NewEvaluator(p, nil)
	values := make([]float64, p.MaxSlots())
	for i := range values {
		values[i] = float64(i%1000) / 1000
	}
	per := float64(len(values))
	for b.Loop() {
		var ct *rlwe.Ciphertext
		worker := best(func() {
			pt := hefloat.NewPlaintext(p, p.MaxLevel())
			if err := ecd.Encode(values, pt); err != nil {
				b.Fatal(err)
			}
			if ct, err = enc.EncryptNew(pt); err != nil {
				b.Fatal(err)
			}
		}) / per
		size := float64(ct.BinarySize()) / per
		acc := ct.CopyNew()
		coordinator := best(func() {
			if err := eval.Add(acc, ct, acc); err != nil {
				b.Fatal(err)
			}
		}) / per
		receiver := best(func() {
			pt := dec.DecryptNew(acc)
			if err := ecd.Decode(pt, values); err != nil {
				b.Fatal(err)
			}
		}) / per
		b.ReportMetric(worker, "worker-ns/param")
		b.ReportMetric(coordinator, "coordinator-ns/param")
		b.ReportMetric(receiver, "receiver-ns/param")
		b.ReportMetric(size, "B/param")
	}
}

// BenchmarkTextbook is lattigo's own threshold protocol over BGV: a collective
// public key, one ciphertext of 26-bit slots for each hospital, and a key
// switch share of each hospital for the sum, flooded with noise of 2^20 only,
// which is less than its security needs and flatters it.
func BenchmarkTextbook(b *testing.B) {
	const parties = 3
	p, err := heint.NewParametersFromLiteral(heint.ParametersLiteral{LogN: 13, LogQ: []int{60}, PlaintextModulus: 0x3ee0001})
	if err != nil {
		b.Fatal(err)
	}
	prng, err := sampling.NewKeyedPRNG([]byte("benchmark"))
	if err != nil {
		b.Fatal(err)
	}
	ckg := mhe.NewPublicKeyGenProtocol(p)
	crp := ckg.SampleCRP(prng)
	kgen := rlwe.NewKeyGenerator(p)
	var sks []*rlwe.SecretKey
	sum := ckg.AllocateShare()
	for i := range parties {
		sks = append(sks, kgen.GenSecretKeyNew())
		share := ckg.AllocateShare()
		ckg.GenShare(sks[i], crp, &share)
		ckg.AggregateShares(share, sum, &sum)
	}
	pk := rlwe.NewPublicKey(p)
	ckg.GenPublicKey(sum, crp, pk)
	ecd, enc, eval := heint.NewEncoder(p), rlwe.NewEncryptor(p, pk), heint.NewEvaluator(p, nil)
	cks, err := mhe.NewKeySwitchProtocol(p, ring.DiscreteGaussian{Sigma: 1 << 20, Bound: 6 << 20})
	if err != nil {
		b.Fatal(err)
	}
	zero := rlwe.NewSecretKey(p)
	values := make([]uint64, p.MaxSlots())
	for i := range values {
		values[i] = uint64(i % 65536)
	}
	per := float64(len(values))
	for b.Loop() {
		var ct *rlwe.Ciphertext
		worker := best(func() {
			pt := heint.NewPlaintext(p, p.MaxLevel())
			if err := ecd.Encode(values, pt); err != nil {
				b.Fatal(err)
			}
			if ct, err = enc.EncryptNew(pt); err != nil {
				b.Fatal(err)
			}
		}) / per
		acc := ct.CopyNew()
		coordinator := best(func() {
			if err := eval.Add(acc, ct, acc); err != nil {
				b.Fatal(err)
			}
		}) / per
		share := cks.AllocateShare(acc.Level())
		shareNs := best(func() { cks.GenShare(sks[0], zero, acc, &share) }) / per
		receiver := best(func() {
			out := rlwe.NewCiphertext(p, 1, acc.Level())
			cks.KeySwitch(acc, share, out)
			pt := rlwe.NewDecryptor(p, zero).DecryptNew(out)
			got := make([]uint64, len(values))
			if err := ecd.Decode(pt, got); err != nil {
				b.Fatal(err)
			}
		}) / per
		b.ReportMetric(worker+shareNs, "worker-ns/param")
		b.ReportMetric(coordinator, "coordinator-ns/param")
		b.ReportMetric(receiver, "receiver-ns/param")
		b.ReportMetric(float64(ct.BinarySize()+share.BinarySize())/per, "B/param")
	}
}
