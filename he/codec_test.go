package he

import (
	"bytes"
	"errors"
	"io"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"consilium"
)

// tiny is a ring far too small to hide anything, for fuzzing the codec.
// Validate refuses it, so nothing but the unexported functions takes it.
var tiny = Profile{LogN: 6, Bits: 16, MaxN: 16, W: 20, Delta: 9, K: 2, Primes: []uint64{0xffffffffff001, 0x7fffffffff18001, 769}}

// encode packs random reduced residues the slow way, bit by bit.
func encode(p Profile, chunks int, r *rand.Rand) (b []byte, residues [][]uint64) {
	for range chunks {
		for _, q := range p.Primes {
			w := bits.Len64(q)
			v := make([]uint64, p.N())
			out := make([]byte, p.N()*w/8)
			for i := range v {
				v[i] = r.Uint64N(q)
				for k := range w {
					at := i*w + k
					out[at/8] |= byte(v[i]>>k&1) << (at % 8)
				}
			}
			b = append(b, out...)
			residues = append(residues, v)
		}
	}
	return b, residues
}

func TestCodecAgainstBits(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for width := 10; width <= 61; width++ {
		p := Profile{LogN: 7, Primes: []uint64{1<<width - 1}}
		b, want := encode(p, 1, r)
		buf := LimbBuffer(len(b))
		copy(buf, b)
		got := make([]uint64, p.N())
		if !UnpackLimb(got, buf, width, p.Primes[0]) {
			t.Fatalf("width %d: refused", width)
		}
		for i := range got {
			if got[i] != want[0][i] {
				t.Fatalf("width %d, residue %d: %#x, want %#x", width, i, got[i], want[0][i])
			}
		}
		again := make([]byte, len(b))
		PackLimb(again, got, width)
		if !bytes.Equal(again, b) {
			t.Fatalf("width %d: packs to other bytes", width)
		}
		// Every place must notice the first value that is not reduced.
		for i := range got {
			v := append([]uint64(nil), got...)
			v[i] = p.Primes[0]
			PackLimb(buf, v, width)
			if UnpackLimb(v, buf, width, p.Primes[0]) {
				t.Fatalf("width %d: residue %d equal to q accepted", width, i)
			}
		}
	}
}

func TestCheckIsStrict(t *testing.T) {
	p, err := Choose(100, 16, 3)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(5, 6))
	good, _ := encode(p, 1, r)
	want := func() consilium.Digest {
		h := NewCiphertextHash()
		h.Write(good)
		return h.Digest()
	}()
	for name, rd := range map[string]io.Reader{
		"whole":          bytes.NewReader(good),
		"byte by byte":   iotest.OneByteReader(bytes.NewReader(good)),
		"with its end":   iotest.DataErrReader(bytes.NewReader(good)),
		"in half pieces": iotest.HalfReader(bytes.NewReader(good)),
	} {
		if d, err := Check(p, 100, rd); err != nil || d != want {
			t.Errorf("%s: %v, %v", name, d, err)
		}
	}
	high := bytes.Clone(good)
	for i := range high {
		high[i] = 0xff
	}
	long := append(bytes.Clone(good), 0)
	for name, b := range map[string][]byte{"empty": nil, "one byte short": good[:len(good)-1], "one byte": good[:1], "one byte long": long, "all ones": high} {
		if _, err := Check(p, 100, bytes.NewReader(b)); !errors.Is(err, consilium.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		for _, r := range []func() io.Reader{
			func() io.Reader { return bytes.NewReader(b) }, func() io.Reader { return NewInput(bytes.NewReader(b)) }, func() io.Reader { return lend(b) },
		} {
			for _, readers := range [][]io.Reader{{r()}, {bytes.NewReader(good), r()}, {lend(good), r()}, {NewInput(bytes.NewReader(good)), r()}} {
				if err := Sum(p, 100, readers, io.Discard); !errors.Is(err, consilium.ErrInvalid) {
					t.Errorf("Sum with %s from %T: %v", name, r(), err)
				}
			}
		}
	}
	boom := errors.New("disk")
	if _, err := Check(p, 100, iotest.ErrReader(boom)); !errors.Is(err, boom) {
		t.Errorf("reader's error: %v", err)
	}
	bad := p
	bad.Delta++
	if _, err := Check(bad, 100, bytes.NewReader(good)); err == nil {
		t.Error("a profile outside the table is used")
	}
	if _, err := Check(p, 0, bytes.NewReader(good)); err == nil {
		t.Error("no lanes accepted")
	}
}

// lent is a vector in memory, as a Lender. Nothing behind it may be touched.
type lent []byte

var _ Lender = (*lent)(nil)

func lend(b []byte) *lent {
	l := lent(bytes.Clone(b))
	return &l
}

func (l *lent) Next(n int) ([]byte, error) {
	if n > len(*l) {
		if len(*l) == 0 {
			return nil, io.EOF
		}
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

// TestInput: whatever it is read by and from, an Input gives every byte once and in
// order, names them all, and ends or fails as its reader does.
func TestInput(t *testing.T) {
	r := rand.New(rand.NewPCG(31, 31))
	disk := errors.New("disk")
	for _, size := range []int{0, 1, 56, 57, inputSize - 1, inputSize, inputSize + 1, 3*inputSize + 100} {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		h := NewCiphertextHash()
		h.Write(b)
		for name, from := range map[string]func() io.Reader{
			"whole":          func() io.Reader { return bytes.NewReader(b) },
			"in half pieces": func() io.Reader { return iotest.HalfReader(bytes.NewReader(b)) },
			"with its end":   func() io.Reader { return iotest.DataErrReader(bytes.NewReader(b)) },
			"then an error":  func() io.Reader { return io.MultiReader(bytes.NewReader(b), iotest.ErrReader(disk)) },
		} {
			end := io.EOF
			if name == "then an error" {
				end = disk
			}
			for range 20 {
				in := NewInput(from())
				var got []byte
				for {
					n := 1 + r.IntN(1<<r.IntN(18))
					part, err := in.Next(n)
					if r.IntN(3) == 0 && err == nil { // Read between
						more := make([]byte, r.IntN(5000))
						k, _ := in.Read(more)
						part = append(part, more[:k]...)
					}
					got = append(got, part...)
					if err == nil {
						continue
					}
					if left := size - len(got); left >= n || err != end && (err != io.ErrUnexpectedEOF || left == 0 || end != io.EOF) {
						t.Fatalf("%d bytes, %s: %d of %d left: %v", size, name, n, left, err)
					}
					rest, err := io.ReadAll(in)
					if got = append(got, rest...); err != nil && err != end {
						t.Fatalf("%d bytes, %s, at the end: %v", size, name, err)
					}
					break
				}
				if !bytes.Equal(got, b) {
					t.Fatalf("%d bytes, %s: other bytes", size, name)
				}
				if in.Digest() != h.Digest() {
					t.Fatalf("%d bytes, %s: another digest", size, name)
				}
			}
		}
	}
	// What the sum adds is what the digest names; a reader's own error comes through.
	p, b := tiny, []byte(nil)
	b, _ = encode(p, 5, r)
	in := NewInput(bytes.NewReader(b))
	var sum bytes.Buffer
	if err := p.sum(5, []io.Reader{in}, &sum); err != nil || !bytes.Equal(sum.Bytes(), b) {
		t.Errorf("a sum of one: %v, or other bytes", err)
	}
	h := NewCiphertextHash()
	h.Write(sum.Bytes())
	if in.Digest() != h.Digest() {
		t.Error("the digest is not of what was added")
	}
	for _, readers := range [][]io.Reader{
		{NewInput(io.MultiReader(bytes.NewReader(b[:len(b)/2]), iotest.ErrReader(disk)))},
		{NewInput(io.MultiReader(bytes.NewReader(b), iotest.ErrReader(disk)))},
		{lend(b), io.MultiReader(bytes.NewReader(b[:len(b)-1]), iotest.ErrReader(disk))},
	} {
		if err := p.sum(5, readers, io.Discard); !errors.Is(err, disk) {
			t.Errorf("a disk that fails: %v", err)
		}
	}
}

// TestSumIsModular compares with sums of residues one by one, for numbers of
// contributions around the point where 64 bits are full.
func TestSumIsModular(t *testing.T) {
	for name, reader := range map[string]func(i int, b []byte) io.Reader{
		"copied": func(_ int, b []byte) io.Reader { return bytes.NewReader(b) },
		"lent":   func(_ int, b []byte) io.Reader { return lend(b) },
		"input":  func(_ int, b []byte) io.Reader { return NewInput(bytes.NewReader(b)) },
		"some lent": func(i int, b []byte) io.Reader {
			if i%7 < 3 {
				return bytes.NewReader(b)
			}
			return lend(b)
		},
	} {
		t.Run(name, func(t *testing.T) { testSumIsModular(t, reader) })
	}
}

func testSumIsModular(t *testing.T, reader func(int, []byte) io.Reader) {
	r := rand.New(rand.NewPCG(7, 8))
	p := Profile{LogN: 6, MaxN: 128, Primes: []uint64{0x7fffffffff18001, 0xffffffffff001, 0xfffffffffffc001}}
	for _, n := range []int{1, 2, 3, 7, 15, 16, 17, 31, 33, 64, 100, 128} {
		const chunks = 3
		want := make([][]uint64, chunks*len(p.Primes))
		var readers []io.Reader
		for i := range n {
			b, v := encode(p, chunks, r)
			if i%2 == 1 { // the largest residues there are
				b = b[:0]
				for j := range v {
					q := p.Primes[j%len(p.Primes)]
					for k := range v[j] {
						v[j][k] = q - 1
					}
					out := make([]byte, p.N()/8*bits.Len64(q))
					PackLimb(out, v[j], bits.Len64(q))
					b = append(b, out...)
				}
			}
			readers = append(readers, reader(i, b))
			for j := range v {
				if want[j] == nil {
					want[j] = make([]uint64, p.N())
				}
				for k := range v[j] {
					want[j][k] = (want[j][k] + v[j][k]) % p.Primes[j%len(p.Primes)]
				}
			}
		}
		var out bytes.Buffer
		if err := p.sum(chunks, readers, &out); err != nil {
			t.Fatalf("n %d: %v", n, err)
		}
		b := out.Bytes()
		for j := range want {
			q := p.Primes[j%len(p.Primes)]
			size := p.LimbSize(j % len(p.Primes))
			buf := LimbBuffer(size)
			copy(buf, b)
			b = b[size:]
			got := make([]uint64, p.N())
			if !UnpackLimb(got, buf, bits.Len64(q), q) {
				t.Fatalf("n %d: the sum is not reduced", n)
			}
			for k := range got {
				if got[k] != want[j][k] {
					t.Fatalf("n %d, polynomial %d, residue %d: %d, want %d", n, j, k, got[k], want[j][k])
				}
			}
		}
		if len(b) != 0 {
			t.Fatalf("n %d: %d bytes left", n, len(b))
		}
	}
}

func TestSumLimits(t *testing.T) {
	p, _ := Choose(100, 16, 16)
	var readers []io.Reader
	for range 17 {
		readers = append(readers, bytes.NewReader(make([]byte, p.Size(100))))
	}
	if err := Sum(p, 100, readers, io.Discard); err == nil {
		t.Error("one contributor too many is summed")
	}
	if err := Sum(p, 100, nil, io.Discard); err == nil {
		t.Error("a sum of nothing")
	}
	full := errors.New("full")
	if err := Sum(p, 100, readers[:1], writerFunc(func([]byte) (int, error) { return 0, full })); !errors.Is(err, full) {
		t.Errorf("writer's error: %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// TestSumAllocatesPerCallOnly: a vector ten times as long must not cost more
// allocations.
func TestSumAllocatesPerCallOnly(t *testing.T) {
	p := tiny
	count := func(chunks int) float64 {
		b, _ := encode(p, chunks, rand.New(rand.NewPCG(1, 1)))
		return testing.AllocsPerRun(3, func() {
			if err := p.sum(chunks, []io.Reader{bytes.NewReader(b), bytes.NewReader(b), bytes.NewReader(b)}, io.Discard); err != nil {
				t.Fatal(err)
			}
		})
	}
	if a, b := count(2), count(200); b > a+3 {
		t.Errorf("%v allocations for 2 chunks, %v for 200", a, b)
	}
}

func TestBundle(t *testing.T) {
	p, _ := Choose(100, 16, 3)
	bundle := make([]byte, p.BundleSize(3))
	for i := range bundle {
		bundle[i] = byte(i * i)
	}
	boxes, err := p.SplitBundle(bundle, 3)
	if err != nil || len(boxes) != 3 || !bytes.Equal(bytes.Join(boxes, nil), bundle) {
		t.Fatalf("SplitBundle: %d boxes, %v", len(boxes), err)
	}
	h := &consilium.Header{Commitments: make([]consilium.Digest, 3), Size: p.Size(100), Check: make([]byte, p.CheckSize(3))}
	h.Position = 1
	for _, b := range boxes {
		h.Boxes = append(h.Boxes, consilium.DomainBox.Digest(b))
	}
	if err := p.VerifyBundle(bytes.NewReader(bundle), h); err != nil {
		t.Error(err)
	}
	if err := p.CheckHeader(h, 100, 3, 3); err != nil {
		t.Error(err)
	}
	bundle[p.BoxSize()]++
	if err := p.VerifyBundle(bytes.NewReader(bundle), h); err == nil || !strings.Contains(err.Error(), "position 2") {
		t.Errorf("a changed box: %v", err)
	}
	bundle[p.BoxSize()]--
	for _, n := range []int{0, p.BoxSize() - 1, len(bundle) - 1} {
		if err := p.VerifyBundle(bytes.NewReader(bundle[:n]), h); !errors.Is(err, consilium.ErrInvalid) {
			t.Errorf("%d bytes of a bundle: %v", n, err)
		}
	}
	if err := p.VerifyBundle(bytes.NewReader(append(bytes.Clone(bundle), 0)), h); !errors.Is(err, consilium.ErrInvalid) {
		t.Errorf("a bundle with a byte more: %v", err)
	}
	if err := p.VerifyBundle(bytes.NewReader(nil), &consilium.Header{}); !errors.Is(err, consilium.ErrInvalid) {
		t.Errorf("a header without boxes: %v", err)
	}
	for name, n := range map[string]int{"short": -1, "long": 1} {
		if _, err := p.SplitBundle(make([]byte, int(p.BundleSize(3))+n), 3); err == nil {
			t.Errorf("a %s bundle is split", name)
		}
	}
	for name, change := range map[string]func(*consilium.Header){
		"size":              func(h *consilium.Header) { h.Size++ },
		"a box less":        func(h *consilium.Header) { h.Boxes = h.Boxes[1:] },
		"commitments":       func(h *consilium.Header) { h.Commitments = nil },
		"a short check":     func(h *consilium.Header) { h.Check = h.Check[1:] },
		"a check unreduced": func(h *consilium.Header) { h.Check = bytes.Repeat([]byte{0xff}, len(h.Check)) },
		"a position":        func(h *consilium.Header) { h.Position = 4 },
	} {
		bad := *h
		change(&bad)
		if err := p.CheckHeader(&bad, 100, 3, 3); !errors.Is(err, consilium.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzCheck: what is accepted re-encodes to the same bytes, and Sum of one
// contribution is that contribution.
func FuzzCheck(f *testing.F) {
	good, _ := encode(tiny, 2, rand.New(rand.NewPCG(1, 2)))
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, len(good)))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := tiny.checkStream(2, bytes.NewReader(b))
		var out bytes.Buffer
		serr := tiny.sum(2, []io.Reader{bytes.NewReader(b)}, &out)
		if (err == nil) != (serr == nil) {
			t.Fatalf("Check: %v, Sum: %v", err, serr)
		}
		if err != nil {
			return
		}
		if len(b) != 2*tiny.ChunkSize() || !bytes.Equal(out.Bytes(), b) {
			t.Fatal("accepted bytes do not re-encode")
		}
		h := NewCiphertextHash()
		h.Write(b)
		if h.Digest() != d {
			t.Fatal("digest")
		}
	})
}

// FuzzUnpack: for every prime of the table the codec with vector instructions
// and the portable one read the same residues, give the same verdict, and what
// they accept re-encodes to the same bytes.
func FuzzUnpack(f *testing.F) {
	var primes []uint64
	for _, p := range profiles {
		primes = append(primes, p.Primes...)
	}
	f.Add([]byte{}, uint16(0))
	f.Add(bytes.Repeat([]byte{0xff}, 480), uint16(36))
	f.Add(bytes.Repeat([]byte{0x5a, 1}, 240), uint16(40))
	f.Fuzz(func(t *testing.T, b []byte, which uint16) {
		q := primes[int(which)%len(primes)]
		width := bits.Len64(q)
		src := LimbBuffer(8 * width)
		copy(src, b)
		one, two, sum := make([]uint64, 64), make([]uint64, 64), make([]uint64, 64)
		ok := UnpackLimb(one, src, width, q)
		if ok != unpack(two, src, width, q, false) || !slices.Equal(one, two) {
			t.Fatalf("%#x: the codecs disagree", q)
		}
		for i, x := range one {
			ok = ok && x < q
			sum[i] = x
		}
		if ok != UnpackLimb(one, src, width, q) {
			t.Fatalf("%#x: the verdict does not fit the residues", q)
		}
		if unpack(sum, src, width, q, true); sum[5] != 2*one[5] {
			t.Fatalf("%#x: adding", q)
		}
		again := make([]byte, len(src))
		PackLimb(again, one, width)
		if !bytes.Equal(again, src) {
			t.Fatalf("%#x: does not re-encode", q)
		}
	})
}

// FuzzBundle: no bundle and no header form makes these panic.
func FuzzBundle(f *testing.F) {
	p, _ := Choose(1, 16, 3)
	f.Add(make([]byte, p.BundleSize(3)), uint8(3))
	f.Add([]byte{}, uint8(0))
	f.Fuzz(func(t *testing.T, b []byte, n uint8) {
		boxes, err := p.SplitBundle(b, int(n))
		if err == nil && !bytes.Equal(bytes.Join(boxes, nil), b) {
			t.Fatal("boxes are not the bundle")
		}
		h := &consilium.Header{Boxes: make([]consilium.Digest, int(n)), Commitments: make([]consilium.Digest, int(n)), Check: b}
		if p.VerifyBundle(bytes.NewReader(b), h) == nil && n > 0 {
			t.Fatal("boxes with a zero digest")
		}
		_ = p.CheckHeader(h, 1, int(n), 3)
	})
}
