package party

import (
	"bytes"
	"crypto/aes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"consilium/he"
	"consilium/internal/vec"
)

// portable is b as the standard library's cipher, whatever the processor.
func portable(t testing.TB, key [32]byte) *block {
	std, err := aes.NewCipher(key[:])
	if err != nil {
		t.Fatal(err)
	}
	return &block{std: std}
}

// portableEngine is e without vector instructions.
func portableEngine(e *engine) *engine {
	return &engine{p: e.p, limbs: e.limbs, words: e.words, crtWords: e.crtWords, modulus: e.modulus, lanes: new(sync.Pool), kept: new(sync.Pool)}
}

// TestWideIsPortable: where the processor has vector instructions, both engines
// make the same bytes and open them to the same lanes, for every profile and
// at the extremes of lanes and noise. Elsewhere the portable engine is held
// against itself, so that the test runs everywhere.
func TestWideIsPortable(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 11))
	wides, narrows := 0, 0
	for _, p := range he.Profiles() {
		fast, err := engineFor(p)
		if err != nil {
			t.Fatal(err)
		}
		slow := portableEngine(fast)
		if fast.wide != nil {
			wides++
		}
		var key [32]byte
		key[0] = byte(p.LogN)
		masks, errors := portable(t, key), portable(t, [32]byte{9})
		s := make([]int64, p.N())
		for i := range s {
			s[i] = r.Int64N(2*int64(tailCut)+1) - int64(tailCut)
		}
		a, b := fast.newSlot(false), slow.newSlot(false)
		for kind := range 3 {
			for i := range a.lanes {
				a.lanes[i] = []uint32{0, 1<<p.Bits - 1, r.Uint32N(1 << p.Bits)}[kind]
			}
			copy(b.lanes, a.lanes)
			fast.encrypt(a, fast.newKey(s), newBlock(&[32]byte{9}), newBlock(&key), kind)
			slow.encrypt(b, slow.newKey(s), errors, masks, kind)
			if !bytes.Equal(a.bytes, b.bytes) {
				t.Fatalf("logN %d, %d bits, max %d: the engines make different ciphertexts", p.LogN, p.Bits, p.MaxN)
			}
			if fast.wide != nil && fast.wide.narrow {
				n := fast.newSlots(1, false)[0]
				for i, u := range b.lanes {
					binary.LittleEndian.PutUint16(n.narrow[2*i:], uint16(u)-1<<15)
				}
				fast.encrypt(n, fast.newKey(s), newBlock(&[32]byte{9}), newBlock(&key), kind)
				if !bytes.Equal(n.bytes, b.bytes) {
					t.Fatalf("logN %d, %d bits, max %d: other ciphertexts from lanes of 16 bits", p.LogN, p.Bits, p.MaxN)
				}
				narrows++
			}
			x, y := fast.newSlot(true), slow.newSlot(true)
			open := func(what string, bytes []byte, bound int64) {
				t.Helper()
				copy(x.bytes, bytes)
				copy(y.bytes, bytes)
				ok := fast.decrypt(x, fast.newKey(s), newBlock(&key), bound)
				if ok != slow.decrypt(y, slow.newKey(s), masks, bound) {
					t.Fatalf("logN %d, %d bits, max %d, %s: one engine accepts", p.LogN, p.Bits, p.MaxN, what)
				}
				for i, u := range y.lanes {
					if ok && x.lanes[i] != u {
						t.Fatalf("logN %d, %d bits, max %d, %s: lane %d is %d, want %d", p.LogN, p.Bits, p.MaxN, what, i, x.lanes[i], u)
					}
				}
			}
			open("as made", a.bytes, int64(tailCut))
			for i, u := range a.lanes {
				if x.lanes[i] != u {
					t.Fatalf("logN %d: lane %d is %d, want %d", p.LogN, i, x.lanes[i], u)
				}
			}
			open("noise bound of 2", a.bytes, 2)
			broken := bytes.Clone(a.bytes)
			broken[len(broken)/2] ^= 1
			open("one bit changed", broken, int64(tailCut))
			for i := range broken {
				broken[i] = 0xff
			}
			open("not reduced", broken, int64(tailCut))
		}
	}
	if vec.Enabled && narrows == 0 {
		t.Error("no profile sends lanes of 16 bits")
	}
	if vec.Enabled && wides != 18 {
		// All but those of logN 14, which need more words than a vector holds
		// and which Choose never takes.
		t.Errorf("the vector engine serves %d profiles", wides)
	}
}

// TestRejectedKeystream: a value of the keystream that is not below the prime
// is skipped, and everything after it moves up by one, in both engines. With
// the default primes that happens too rarely to be met, so a prime is replaced: by
// one that fills half of its width, whose first tile is always rejected, and, in a
// ring of several blocks, by one of which about one value of a polynomial is, so
// that blocks which are done already come again.
func TestRejectedKeystream(t *testing.T) {
	first := mustProfile(t, 11, 16, 16)
	first.Primes = []uint64{0x8000000022001} // 52 bits, 1 mod 2^12, just above 2^51
	if n := drawnAgain(t, first, 1); vec.Enabled && n != 1 {
		t.Errorf("%d polynomials were drawn again", n)
	}
	later := mustProfile(t, 13, 16, 16)
	later.Primes = []uint64{0x1ffeffffff70001, later.Primes[1], later.Primes[2]} // 1 mod 2^14; one value of 8192 is not below it
	if n := drawnAgain(t, later, 16); vec.Enabled && n < 4 {
		t.Errorf("%d of 16 polynomials were drawn again", n)
	}
}

// drawnAgain encrypts and opens under some keys with both engines, and says under
// how many a value of the keystream was rejected.
func drawnAgain(t *testing.T, p he.Profile, keys byte) int {
	t.Helper()
	e, err := newEngine(p)
	if err != nil {
		t.Fatal(err)
	}
	slow := *e
	e.wide = newWide(e)
	if vec.Enabled && e.wide == nil {
		t.Fatal("no vector engine")
	}
	s := make([]int64, p.N())
	for i := range s {
		s[i] = int64(i%7) - 3
	}
	again := 0
	for k := range keys {
		a, b := e.newSlot(false), slow.newSlot(false)
		key := [32]byte{1, k}
		e.encrypt(a, e.newKey(s), newBlock(&key), newBlock(&key), 0)
		slow.encrypt(b, slow.newKey(s), portable(t, key), portable(t, key), 0)
		if !bytes.Equal(a.bytes, b.bytes) {
			t.Fatal("the engines make different ciphertexts")
		}
		if a.mask != nil {
			again++
		}
		x, y := e.newSlot(true), slow.newSlot(true)
		copy(x.bytes, a.bytes)
		copy(y.bytes, a.bytes)
		if !e.decrypt(x, e.newKey(s), newBlock(&key), int64(tailCut)) || !slow.decrypt(y, slow.newKey(s), portable(t, key), int64(tailCut)) {
			t.Fatal("does not open")
		}
	}
	return again
}

// TestStreamsAgree: the keystream of one key and nonce is the standard
// library's, whichever engine makes it.
func TestStreamsAgree(t *testing.T) {
	key := [32]byte{3}
	var a, b stream
	a.open(newBlock(&key), 1<<63+5)
	b.open(portable(t, key), 1<<63+5)
	for i := range 3 * streamBlock / 8 {
		if x, y := a.uint64(), b.uint64(); x != y {
			t.Fatalf("word %d: %#x and %#x", i, x, y)
		}
	}
}

// TestNoAllocationPerChunk: a vector of a hundred chunks allocates no more often than one
// of four, and neither do its opening in one reading and in two, though nothing that an
// earlier call left is there any more.
func TestNoAllocationPerChunk(t *testing.T) {
	if !vec.Enabled || raceEnabled {
		// The standard library's counter mode allocates for every key, and the
		// race detector for itself.
		return
	}
	p := mustProfile(t, 11, 16, 16)
	count := func(chunks int) (sent, once, twice float64) {
		lanes := p.ChunkLanes()*chunks - he.TagLanes
		f := newFederation(t, p, lanes, 3, 2)
		u := positions(3)
		for _, pos := range u {
			f.contribute(t, pos, make([]int32, lanes))
		}
		in := f.encryption(t, 1, f.vectors[0])
		cold := func(f func() error) float64 {
			return testing.AllocsPerRun(3, func() {
				runtime.GC() // twice, and no pool has anything
				runtime.GC()
				if err := f(); err != nil {
					t.Fatal(err)
				}
			})
		}
		sent = cold(func() error {
			src := Lanes(f.vectors[0])
			in.Source = &src
			_, err := Contribute(t.Context(), in, io.Discard)
			return err
		})
		sum := f.sum(t, u)
		out := &Decryption{Profile: p, Lanes: lanes, Threshold: 2, Members: 3, Set: f.set(u), Group: f.group}
		for _, holder := range u {
			out.Openings = append(out.Openings, f.opening(t, u, holder))
		}
		open := func() error {
			return Open(t.Context(), out, bytes.NewReader(sum), SinkFunc(func([]int64) error { return nil }))
		}
		once = cold(open)
		out.buffer = 1
		twice = cold(open)
		return sent, once, twice
	}
	sent4, once4, twice4 := count(4)
	sent100, once100, twice100 := count(100)
	t.Logf("100 chunks take %.0f, %.0f and %.0f allocations, 4 take %.0f, %.0f and %.0f", sent100, once100, twice100, sent4, once4, twice4)
	// The channels of the pipeline may grow a goroutine's stack or a wait queue.
	if sent100 > sent4+12 || once100 > once4+12 || twice100 > twice4+12 {
		t.Error("a chunk allocates")
	}
}
