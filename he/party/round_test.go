package party

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"consilium"
	"consilium/he"
)

// run is a whole round of n hospitals in which the first size contribute, and
// checks the opened sums against plain addition.
func run(t *testing.T, p he.Profile, lanes, n, size, threshold int, kind func(i int) int) {
	t.Helper()
	r := rand.New(rand.NewPCG(uint64(p.LogN), uint64(n)))
	f := newFederation(t, p, lanes, n, threshold)
	u := positions(size)
	for i, pos := range u {
		f.contribute(t, pos, fill(lanes, p.Bits, kind(i), r))
	}
	var openings []*OpeningShare
	for _, pos := range positions(n)[n-threshold:] {
		openings = append(openings, f.opening(t, u, pos))
	}
	got, err := f.open(u, openings, f.sum(t, u))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, got, f.plain(u))
}

// TestSumEqualsPlainSum: every profile, mixed extremes, more than one chunk.
func TestSumEqualsPlainSum(t *testing.T) {
	for _, p := range he.Profiles() {
		if raceEnabled && p.LogN > 12 && p.MaxN > 16 {
			continue // as the others of their ring; the race detector is slow
		}
		t.Run(fmt.Sprintf("logN%d/%dbit/max%d", p.LogN, p.Bits, p.MaxN), func(t *testing.T) {
			t.Parallel()
			run(t, p, p.ChunkLanes()+5, 3, 3, 3, func(i int) int { return i })
			run(t, p, p.ChunkLanes()-3, 3, 2, 3, func(i int) int { return 3 }) // tags across two chunks
		})
	}
}

// TestFullHouse fills a profile: as many hospitals as it holds, all lanes at
// their lowest, all at their highest, alternating, and random.
func TestFullHouse(t *testing.T) {
	type c struct{ n, bits, kind int }
	cases := []c{{5, 16, 3}, {13, 16, 3}, {16, 16, 0}, {16, 16, 1}, {16, 24, 1}, {16, 24, 2}}
	if !testing.Short() && !raceEnabled {
		cases = append(cases, c{64, 16, 1}, c{64, 24, 0}, c{128, 16, 1}, c{128, 24, 1})
	}
	if len(cases) > 6 {
		t.Run("two of a hundred members", func(t *testing.T) {
			t.Parallel()
			p, err := he.Choose(64, 16, 100)
			if err != nil {
				t.Fatal(err)
			}
			run(t, p, 64, 100, 2, consilium.Threshold(100, 25), func(i int) int { return i })
		})
	}
	for _, c := range cases {
		t.Run(fmt.Sprintf("n%d/%dbit/kind%d", c.n, c.bits, c.kind), func(t *testing.T) {
			t.Parallel()
			p, err := he.Choose(64, c.bits, c.n)
			if err != nil {
				t.Fatal(err)
			}
			threshold := consilium.Threshold(c.n, consilium.DefaultFaults(c.n, c.n))
			if c.n > 16 {
				// The dealers are few and the holders all: the sum of n
				// contributions is tested without n squared boxes below.
				fullSum(t, p, c.n, c.kind)
				return
			}
			run(t, p, 64, c.n, c.n, threshold, func(int) int { return c.kind })
		})
	}
}

// fullSum adds n real contributions, but takes the key from the seeds: all of
// the bulk layer at full size without the n² boxes.
func fullSum(t *testing.T, p he.Profile, n, kind int) {
	const lanes = 64
	f := newFederation(t, p, lanes, n, n)
	r := rand.New(rand.NewPCG(1, uint64(n)))
	s, u := make([]int64, p.N()), positions(n)
	e, err := engineFor(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, pos := range u {
		v := fill(lanes, p.Bits, kind, r)
		in := f.encryption(t, pos, v)
		addKey(s, in)
		f.vectors[pos-1] = v
		var buf bytes.Buffer
		rk, d := e.newKey(keyOf(in)), &Dealing{}
		if err := e.encryptStream(context.Background(), in, rk, d, &buf); err != nil {
			t.Fatal(err)
		}
		f.cipher[pos-1] = buf.Bytes()
		f.headers[pos-1] = &consilium.Header{Ciphertext: d.Ciphertext}
		f.bodies[pos-1] = []byte{byte(pos)}
	}
	var bound int64
	for _, x := range s {
		bound = max(bound, x, -x)
	}
	if bound > sumBound(n) {
		t.Fatalf("|S| = %d, the bound for %d is %d", bound, n, sumBound(n))
	}
	elements := make([]uint64, p.Elements())
	for i := range elements {
		elements[i] = packKey(s, i)
	}
	got := make([]int64, p.N())
	if !unpackKey(got, elements, sumBound(n)) {
		t.Fatal("the summed key does not unpack")
	}
	equal(t, got, s)
	var sums []int64
	in := &Decryption{Profile: p, Lanes: lanes, Set: f.set(u), Group: f.group}
	drain := in.newDrainer(e)
	drain.out = func(v []int64) error { sums = append(sums, v...); return nil }
	if err := in.openStream(context.Background(), e, e.newKey(got), bytes.NewReader(f.sum(t, u)), drain); err != nil {
		t.Fatal(err)
	}
	equal(t, sums, f.plain(u))
}

func keyOf(in *Encryption) []int64 {
	e, err := engineFor(in.Profile)
	if err != nil {
		panic(err)
	}
	return e.roundKey(in)
}

func addKey(sum []int64, in *Encryption) {
	for i, x := range keyOf(in) {
		sum[i] += x
	}
}

// TestSummedKeyAt100: at a hundred hospitals the summed key stays within its
// bound and ten bits.
func TestSummedKeyAt100(t *testing.T) {
	const n = 100
	p, err := he.Choose(8, 16, n)
	if err != nil {
		t.Fatal(err)
	}
	f := newFederation(t, p, 8, n, 3)
	s := make([]int64, p.N())
	for trial := range 20 {
		clear(s)
		for _, pos := range positions(n) {
			f.attempt = uint32(trial + 1)
			addKey(s, f.encryption(t, pos, make([]int32, 8)))
		}
		for c, x := range s {
			if max(x, -x) > sumBound(n) || max(x, -x) >= 512 {
				t.Fatalf("trial %d, coefficient %d: %d", trial, c, x)
			}
		}
	}
}

// TestEverySubsetOpensTheSame: any t of the holders give the same sum.
func TestEverySubsetOpensTheSame(t *testing.T) {
	const n, threshold, lanes = 5, 4, 20
	p, err := he.Choose(lanes, 16, n)
	if err != nil {
		t.Fatal(err)
	}
	f := newFederation(t, p, lanes, n, threshold)
	r := rand.New(rand.NewPCG(9, 9))
	u := []consilium.Position{1, 3, 4, 5}
	for _, pos := range u {
		f.contribute(t, pos, fill(lanes, 16, 3, r))
	}
	agg := f.sum(t, u)
	var all []*OpeningShare
	for _, pos := range positions(n) { // position 2 contributed nothing and opens all the same
		all = append(all, f.opening(t, u, pos))
	}
	for mask := range 1 << n {
		var some []*OpeningShare
		for i, o := range all {
			if mask>>i&1 == 1 {
				some = append([]*OpeningShare{o}, some...) // any order
			}
		}
		got, err := f.open(u, some, agg)
		if len(some) < threshold {
			if err == nil || errors.Is(err, consilium.ErrAggregateRejected) {
				t.Fatalf("%d shares: %v", len(some), err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("subset %b: %v", mask, err)
		}
		equal(t, got, f.plain(u))
	}
}

// TestLongVectors: above the buffer's size the aggregate is read twice, must be
// able to, and a sink sees nothing of one that is rejected.
func TestLongVectors(t *testing.T) {
	p := mustProfile(t, 11, 16, 16)
	lanes := 3*p.ChunkLanes() + 7
	f := newFederation(t, p, lanes, 3, 3)
	r := rand.New(rand.NewPCG(3, 1))
	u := positions(3)
	for _, pos := range u {
		f.contribute(t, pos, fill(lanes, 16, 3, r))
	}
	agg := f.sum(t, u)
	in := &Decryption{Profile: p, Lanes: lanes, Threshold: 3, Members: 3, Set: f.set(u), Group: f.group, buffer: 100}
	for _, pos := range u {
		in.Openings = append(in.Openings, f.opening(t, u, pos))
	}
	var got []int64
	sink := SinkFunc(func(v []int64) error { got = append(got, v...); return nil })
	seeker := bytes.NewReader(append([]byte("head"), agg...))
	if _, err := seeker.Seek(4, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if err := Open(context.Background(), in, seeker, sink); err != nil {
		t.Fatal(err)
	}
	equal(t, got, f.plain(u))
	got = nil
	if err := Open(context.Background(), in, io.MultiReader(bytes.NewReader(agg)), sink); err == nil || len(got) > 0 {
		t.Errorf("a reader that cannot go back: %v", err)
	}
	bad := bytes.Clone(agg)
	bad[len(bad)-1] ^= 0x80 // in the last chunk
	err := Open(context.Background(), in, bytes.NewReader(bad), sink)
	rejected(t, "a long vector with a bad end", got, err)
	full := errors.New("sink")
	if err := Open(context.Background(), in, bytes.NewReader(agg), SinkFunc(func([]int64) error { return full })); !errors.Is(err, full) {
		t.Errorf("the sink's error: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Open(ctx, in, bytes.NewReader(agg), sink); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestRefusesWhatDoesNotFit: one contributor or one bit too many, a lane out
// of range, a source that is short, long or another vector.
func TestRefusesWhatDoesNotFit(t *testing.T) {
	p, _ := he.Choose(10, 16, 3)
	f := newFederation(t, p, 10, 3, 3)
	good := fill(10, 16, 2, nil)
	try := func(name string, change func(*Encryption)) {
		t.Helper()
		in := f.encryption(t, 1, good)
		change(in)
		if _, err := Contribute(context.Background(), in, &bytes.Buffer{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	with := func(v []int32) func(*Encryption) {
		return func(in *Encryption) { src := Lanes(v); in.Source = &src; in.Vector = VectorDigest(in.Salt, v) }
	}
	changed := func(i int, x int32) []int32 {
		v := append([]int32(nil), good...)
		v[i] = x
		return v
	}
	try("a lane above", with(changed(3, 1<<15)))
	try("a lane below", with(changed(9, -1<<15-1)))
	try("the largest int32", with(changed(0, 1<<31-1)))
	try("the smallest int32", with(changed(0, -1<<31)))
	try("a short source", with(good[:9]))
	try("a long source", with(append(append([]int32(nil), good...), 1)))
	try("no source", func(in *Encryption) { in.Source = nil })
	try("another vector", func(in *Encryption) { src := Lanes(changed(3, 0)); in.Source = &src })
	try("17 hospitals", func(in *Encryption) { in.Holders = append(in.Holders, make([]consilium.SealingKey, 14)...) })
	try("threshold 1", func(in *Encryption) { in.Threshold = 1 })
	try("threshold 4 of 3", func(in *Encryption) { in.Threshold = 4 })
	try("position 0", func(in *Encryption) { in.At.Position = 0 })
	try("position 4", func(in *Encryption) { in.At.Position = 4 })
	try("another round", func(in *Encryption) { in.At.Round = 2 })
	try("an unlisted profile", func(in *Encryption) { in.Profile.K++ })
	try("an empty sealing key", func(in *Encryption) {
		in.Holders = append([]consilium.SealingKey(nil), in.Holders...)
		in.Holders[2] = consilium.SealingKey{}
		for i := range in.Holders[2] {
			in.Holders[2][i] = 0xff
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Contribute(ctx, f.encryption(t, 1, good), &bytes.Buffer{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	try("the same as before, changed by nothing but an offset", with(changed(0, 1<<15)))
}

// TestMasksDiffer: a_j differs in every context, and no key comes twice.
func TestMasksDiffer(t *testing.T) {
	p, _ := he.Choose(10, 16, 3)
	q, _ := he.Choose(10, 16, 100)
	at := consilium.At{Charter: consilium.DomainCharter.Digest([]byte("a")), Round: 1, Attempt: 1, Position: 1}
	other := at
	seen := map[string]string{}
	add := func(name string, p he.Profile, at consilium.At, state consilium.Digest, chunk int) {
		var s stream
		s.open(maskBlock(p.Encode(), at, state, chunk), 0)
		v := make([]uint64, 8)
		s.uniform(v, p.Primes[0], 52)
		if was, ok := seen[fmt.Sprint(v)]; ok {
			t.Errorf("%s has the a_j of %s", name, was)
		}
		seen[fmt.Sprint(v)] = name
	}
	add("base", p, at, consilium.Digest{}, 0)
	add("chunk 1", p, at, consilium.Digest{}, 1)
	add("state", p, at, consilium.Digest{1}, 0)
	add("profile", q, at, consilium.Digest{}, 0)
	other.Round = 2
	add("round", p, other, consilium.Digest{}, 0)
	other.Round, other.Attempt = 1, 2
	add("attempt", p, other, consilium.Digest{}, 0)
	other.Attempt, other.Charter = 1, consilium.DomainCharter.Digest([]byte("b"))
	add("charter", p, other, consilium.Digest{}, 0)
	other = at
	other.Position = 2
	var s1, s2 stream
	s1.open(maskBlock(p.Encode(), at, consilium.Digest{}, 0), 0)
	s2.open(maskBlock(p.Encode(), other, consilium.Digest{}, 0), 0)
	if s1.uint64() != s2.uint64() {
		t.Error("two hospitals of one attempt have different a_j")
	}

	// A cloned machine: the same random bytes, another attempt or vector.
	clone := bytes.Repeat([]byte{1}, 64)
	keys := map[[32]byte]bool{}
	for _, a := range []uint32{1, 2} {
		for _, v := range []string{"v", "w"} {
			at.Attempt = a
			s, err := newSeed(append([]byte(nil), clone...), at, consilium.DomainVector.Digest([]byte(v)))
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range []he.Profile{p, q} {
				keys[s.sub(p, at, "key")] = true
			}
		}
	}
	if len(keys) != 8 {
		t.Errorf("%d keys of 8 contexts", len(keys))
	}
	a, err := NewSeed(identity, at, consilium.Digest{})
	b, err2 := NewSeed(identity, at, consilium.Digest{})
	if err != nil || err2 != nil || a.equal(&b.secret) {
		t.Error("two seeds of one context are equal")
	}
}

// TestResiduesAreConsistent: what encrypt puts into each limb is one integer.
func TestResiduesAreConsistent(t *testing.T) {
	for _, p := range he.Profiles() {
		e, err := engineFor(p)
		if err != nil {
			t.Fatal(err)
		}
		e = portableEngine(e)
		s := e.newSlot(false)
		r := rand.New(rand.NewPCG(2, 3))
		for i := range s.lanes {
			s.lanes[i] = r.Uint32N(1 << p.Bits)
			if i%1000 < 2*p.K {
				s.lanes[i] = uint32(i/p.K%2) * (1<<p.Bits - 1) // whole coefficients empty and full
			}
		}
		for i := range s.noise {
			s.noise[i] = int64(i%83) - 41
		}
		e.pack(s)
		want := make([]*big.Int, p.N())
		for c := range want {
			x := new(big.Int)
			for l := p.K - 1; l >= 0; l-- {
				x.Lsh(x, uint(p.W)).Add(x, big.NewInt(int64(s.lanes[c*p.K+l])))
			}
			want[c] = x.Lsh(x, uint(p.Delta)).Add(x, big.NewInt(s.noise[c]))
		}
		d := e.newSlot(true)
		for i := range e.limbs {
			l := &e.limbs[i]
			l.residues(d.res[i], s.packed, e.words)
			q, m := new(big.Int).SetUint64(l.q), new(big.Int)
			for c := range want {
				if got := d.res[i][c]; got >= 2*l.q || got%l.q != m.Mod(want[c], q).Uint64() {
					t.Fatalf("logN %d, %d bits, max %d, limb %d, coefficient %d: %d, want %d", p.LogN, p.Bits, p.MaxN, i, c, got, m)
				}
			}
		}
		if !e.unpack(d, 41) {
			t.Fatalf("logN %d, %d bits, max %d: rejected", p.LogN, p.Bits, p.MaxN)
		}
		for i, u := range d.lanes {
			if u != s.lanes[i] {
				t.Fatalf("logN %d, %d bits, max %d, lane %d: %d, want %d", p.LogN, p.Bits, p.MaxN, i, u, s.lanes[i])
			}
		}
		if e.unpack(d, 40) {
			t.Fatal("noise above the bound accepted")
		}
	}
}

// TestVectors holds the expansion of a_j and one whole dealing to what is
// written in testdata, so that another implementation can be checked and none
// of ours changes unnoticed. Boxes, salts and masks differ in every run; the
// encrypted vector and the shares of the key do not.
func TestVectors(t *testing.T) {
	type element struct{ First, Last, SHA256 string }
	type file struct {
		Charter, State, Profile string
		Round, Attempt          uint32
		Mask                    []element // chunk by chunk, limb by limb
		Group, Seed             string
		Lanes                   []int32
		Key                     []int64 // first coefficients
		Ciphertext              consilium.Digest
		Vector                  consilium.Digest
		Commitment              consilium.Digest // of position 3 to a salt and share of zeros
		Shares                  []string         // SHA-256 of each share, without its masks
		Tags                    [2]uint64
		Confirmation            consilium.Digest
		CiphertextStart         string
	}
	p, err := he.Choose(10, 16, 3)
	if err != nil {
		t.Fatal(err)
	}
	f := newFederation(t, p, 10, 3, 3)
	f.charter = consilium.DomainCharter.Digest([]byte("test vector"))
	f.state = consilium.DomainState.Digest([]byte("test vector"))
	f.group = testGroup("test vector")
	lanes := []int32{0, 1, -1, 32767, -32768, 100, -100, 7, 8, 9}
	in := f.encryption(t, 2, lanes)
	if in.Seed, err = newSeed(bytes.Repeat([]byte{3}, 64), in.At, in.Vector); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	d, err := Contribute(context.Background(), in, &buf)
	if err != nil {
		t.Fatal(err)
	}
	got := file{Charter: f.charter.String(), State: f.state.String(), Profile: hex.EncodeToString(p.Encode()), Round: 1, Attempt: 1,
		Group: hex.EncodeToString(f.group.Secret()), Seed: hex.EncodeToString(in.Seed.Secret()), Lanes: lanes, Key: keyOf(in)[:16],
		Ciphertext: d.Ciphertext, Vector: in.Vector, Confirmation: f.group.Confirmation(),
		CiphertextStart: hex.EncodeToString(buf.Bytes()[:64]),
		Commitment:      commitment(in.At, 3, make([]byte, he.SaltSize+p.ShareSize()))}
	for _, p := range []he.Profile{p, mustProfile(t, 13, 24, 16)} {
		for chunk := range 2 {
			for i, q := range p.Primes {
				var s stream
				s.open(maskBlock(p.Encode(), in.At, f.state, chunk), uint64(i))
				v := make([]uint64, p.N())
				s.uniform(v, q, big.NewInt(0).SetUint64(q).BitLen())
				h := sha256.Sum256(appendF(nil, v))
				got.Mask = append(got.Mask, element{fmt.Sprintf("%#x", v[0]), fmt.Sprintf("%#x", v[len(v)-1]), hex.EncodeToString(h[:])})
			}
		}
	}
	for i, k := range f.keys {
		plain, err := k.Open(consilium.DomainBox, boxContext(in.At, consilium.Position(i+1)), d.Boxes[i])
		if err != nil {
			t.Fatal(err)
		}
		h := sha256.Sum256(plain[he.SaltSize:][:p.Elements()*he.ElementSize])
		got.Shares = append(got.Shares, hex.EncodeToString(h[:]))
	}
	tg := newTagger(p, f.group, in.At)
	u := make([]uint32, len(lanes))
	for i, m := range lanes {
		u[i] = uint32(m + 1<<15)
	}
	tg.add(u)
	got.Tags = tg.sum()
	b, err := json.MarshalIndent(got, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, '\n')
	name := filepath.Join("testdata", "dealing.json")
	if os.Getenv("UPDATE_VECTORS") != "" {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, want) {
		t.Errorf("not the vectors of %s (UPDATE_VECTORS=1 writes them anew, which is a change of protocol):\n%s", name, b)
	}
}

func mustProfile(t testing.TB, logN, bits, maxN int) he.Profile {
	t.Helper()
	for _, p := range he.Profiles() {
		if p.LogN == logN && p.Bits == bits && p.MaxN == maxN {
			return p
		}
	}
	t.Fatal("no such profile")
	return he.Profile{}
}

// TestAudit: a hospital can tell from its journal that it sent what it should.
func TestAudit(t *testing.T) {
	f, _ := small5(t)
	in := f.encryption(t, 2, f.vectors[1])
	var buf bytes.Buffer
	d, err := Contribute(context.Background(), in, &buf)
	if err != nil {
		t.Fatal(err)
	}
	var h consilium.Header
	if err := d.Header(&h); err != nil {
		t.Fatal(err)
	}
	again := func() *Encryption {
		c := *in
		src := Lanes(f.vectors[1])
		c.Source = &src
		return &c
	}
	seed, err := ParseSeed(in.Seed.Secret())
	if err != nil {
		t.Fatal(err)
	}
	c := again()
	c.Seed = seed
	if err := Audit(context.Background(), c, &h); err != nil {
		t.Error(err)
	}
	c = again()
	c.Seed = f.encryption(t, 2, f.vectors[1]).Seed
	if err := Audit(context.Background(), c, &h); err == nil {
		t.Error("another seed gives the same ciphertext")
	}
	bad := h
	bad.Ciphertext[0]++
	if err := Audit(context.Background(), again(), &bad); err == nil {
		t.Error("another ciphertext passes")
	}
	bad = h
	bad.Attempt++
	if err := Audit(context.Background(), again(), &bad); err == nil {
		t.Error("another attempt passes")
	}
	// One seed twice: the same ciphertext, but no salt and no mask again.
	d2, err := Contribute(context.Background(), again(), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if d2.Ciphertext != d.Ciphertext || d2.Commitments[0] == d.Commitments[0] {
		t.Error("masks or salts are used twice")
	}
}

// TestErrorsEndThePipeline: a source or a writer that fails in the middle of a
// long vector ends Contribute with its error, and nothing hangs.
func TestErrorsEndThePipeline(t *testing.T) {
	p := mustProfile(t, 11, 16, 16)
	lanes := 10 * p.ChunkLanes()
	f := newFederation(t, p, lanes, 3, 3)
	v := make([]int32, lanes)
	boom := errors.New("boom")
	for _, at := range []int{0, 1, p.ChunkLanes(), lanes / 2, lanes - 1} {
		in := f.encryption(t, 1, v)
		in.Source = &failing{v: v[:at], err: boom}
		if _, err := Contribute(context.Background(), in, io.Discard); !errors.Is(err, boom) {
			t.Errorf("source fails at %d: %v", at, err)
		}
	}
	for after := range 11 {
		n := 0
		_, err := Contribute(context.Background(), f.encryption(t, 1, v), writerFunc(func(b []byte) (int, error) {
			if n++; n > after {
				return 0, boom
			}
			return len(b), nil
		}))
		if !errors.Is(err, boom) {
			t.Errorf("writer fails after %d chunks: %v", after, err)
		}
	}
}

type failing struct {
	v   []int32
	err error
}

func (s *failing) Read(lanes []int32) (int, error) {
	if len(s.v) == 0 {
		return 0, s.err
	}
	n := copy(lanes, s.v)
	s.v = s.v[n:]
	return n, nil
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
