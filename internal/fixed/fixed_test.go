package fixed

import (
	"errors"
	"maps"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"consilium"
)

func exact(n int) consilium.Layout {
	return consilium.Layout{Blocks: []consilium.Block{{Name: "x", Kind: consilium.Exact, Length: n}}}
}

func lanes(t *testing.T, l consilium.Layout, values ...float64) []int32 {
	t.Helper()
	w, err := NewWriter(l)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Block(l.Blocks[0].Name); err != nil {
		t.Fatal(err)
	}
	if err := w.Write(values); err != nil {
		t.Fatal(err)
	}
	out, err := w.Lanes()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// scaled is v·2^64 rounded to the nearest integer, ties to even, by arithmetic
// without limits: the model that quantise must equal.
func scaled(v float64) *big.Int {
	r := new(big.Rat)
	r.SetFloat64(v)
	r.Mul(r, new(big.Rat).SetInt(new(big.Int).Lsh(big.NewInt(1), FracBits)))
	q, m := new(big.Int), new(big.Int)
	q.DivMod(r.Num(), r.Denom(), m) // floor
	switch m.Lsh(m, 1).Cmp(r.Denom()) {
	case 1:
		q.Add(q, big.NewInt(1))
	case 0:
		if q.Bit(0) == 1 {
			q.Add(q, big.NewInt(1))
		}
	}
	return q
}

// rounded is x·2^-64 as float64 by math/big.
func rounded(x *big.Int) float64 {
	r := new(big.Rat).SetFrac(x, new(big.Int).Lsh(big.NewInt(1), FracBits))
	f, _ := r.Float64()
	return f
}

func TestGoldenLanes(t *testing.T) {
	const z = -1 << 15
	top := func(v ...int32) []int32 { return v }
	for _, c := range []struct {
		v    float64
		want []int32
	}{
		{0, top(z, z, z, z, z, z, z, 0)},
		{math.Copysign(0, -1), top(z, z, z, z, z, z, z, 0)},
		{1, top(z, z, z, z, z+1, z, z, 0)},
		{-1, top(z, z, z, z, 32767, 32767, 32767, -1)},
		{0.5, top(z, z, z, 0, z, z, z, 0)},
		{0x1p-64, top(z+1, z, z, z, z, z, z, 0)},
		{-0x1p-64, top(32767, 32767, 32767, 32767, 32767, 32767, 32767, -1)},
		{0x1p-65, top(z, z, z, z, z, z, z, 0)},   // a half goes to even: 0
		{0x3p-65, top(z+2, z, z, z, z, z, z, 0)}, // 1.5 goes to even: 2
		{math.Nextafter(0x1p-65, 1), top(z+1, z, z, z, z, z, z, 0)},
		{math.SmallestNonzeroFloat64, top(z, z, z, z, z, z, z, 0)},
		{0x1.23456789abcdep3, top(z, z+0x5e6f, z+0x3c4d, z+0x1a2b, z+9, z, z, 0)},
		{math.Nextafter(1<<62, 0), top(z, z, z, z, z+0xfe00, 32767, 32767, 0x3fff)},
		{-math.Nextafter(1<<62, 0), top(z, z, z, z, z+0x200, z, z, -0x4000)},
	} {
		if got := lanes(t, exact(1), c.v); !slices.Equal(got, c.want) {
			t.Errorf("%b: lanes %v, want %v", c.v, got, c.want)
		}
	}
	learned := consilium.Layout{Blocks: []consilium.Block{{Name: "w", Kind: consilium.Learned16, Length: 7, Clip: 0.5}}}
	got := lanes(t, learned, 0, 0.5, -0.5, 9, -9, 0.25, -1e-9)
	if want := []int32{0, 32767, -32767, 32767, -32767, 16384, 0}; !slices.Equal(got, want) {
		t.Errorf("learned16: lanes %v, want %v", got, want)
	}
	learned.Blocks[0] = consilium.Block{Name: "w", Kind: consilium.Learned24, Length: 3, Clip: 2}
	if got, want := lanes(t, learned, 2, -3, 1), []int32{8388607, -8388607, 4194304}; !slices.Equal(got, want) {
		t.Errorf("learned24: lanes %v, want %v", got, want)
	}
}

func TestRefuses(t *testing.T) {
	for _, c := range []struct {
		v    float64
		kind consilium.BlockKind
		want string
	}{
		{math.NaN(), consilium.Exact, "fixed: block b, value 1: NaN is not below 2^62 in magnitude; look for a diverging fit or a column in too small a unit"},
		{math.Inf(1), consilium.Exact, "fixed: block b, value 1: +Inf is not below 2^62"},
		{1 << 62, consilium.Exact, "fixed: block b, value 1: 4.611686018427388e+18 is not below 2^62"},
		{-(1 << 62), consilium.Exact, "fixed: block b, value 1: -4.611686018427388e+18 is not below 2^62"},
		{math.NaN(), consilium.Learned16, "fixed: block b, value 1: NaN is not a number that can be sent; the training diverged, lower the rate"},
		{math.Inf(-1), consilium.Learned24, "fixed: block b, value 1: -Inf is not a number that can be sent"},
	} {
		l := consilium.Layout{Blocks: []consilium.Block{{Name: "b", Kind: c.kind, Length: 2}}}
		if c.kind != consilium.Exact {
			l.Blocks[0].Clip = 1
		}
		w, err := NewWriter(l)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.Block("b"), w.Write([]float64{0.5})); err != nil {
			t.Fatal(err)
		}
		err = w.Write([]float64{c.v})
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%v: error %v, want %s", c.v, err, c.want)
		}
		if _, again := w.Lanes(); again == nil {
			t.Errorf("%v: the vector could be taken after the refusal", c.v)
		}
	}
}

func TestWriterOrder(t *testing.T) {
	l := consilium.Layout{Blocks: []consilium.Block{
		{Name: "a", Kind: consilium.Exact, Length: 2}, {Name: "b", Kind: consilium.Learned16, Length: 1, Clip: 1},
	}}
	for _, c := range []struct {
		name string
		do   func(*Writer) error
		want string
	}{
		{"wrong block", func(w *Writer) error { return w.Block("b") }, "fixed: block b: the layout's next block is a"},
		{"no block", func(w *Writer) error { return w.Write([]float64{1}) }, "fixed: a value before the first block"},
		{"too many", func(w *Writer) error { return errors.Join(w.Block("a"), w.Write(make([]float64, 3))) }, "fixed: block a: more than its 2 values"},
		{"too few", func(w *Writer) error { return errors.Join(w.Block("a"), w.Write32(make([]float32, 1)), w.Block("b")) },
			"fixed: block a: 1 of 2 values written when block b begins"},
		{"missing block", func(w *Writer) error {
			err := errors.Join(w.Block("a"), w.Write32(make([]float32, 2)))
			_, lanes := w.Lanes()
			return errors.Join(err, lanes)
		}, "fixed: block b was not written"},
		{"short last", func(w *Writer) error {
			err := errors.Join(w.Block("a"), w.Write32(make([]float32, 2)), w.Block("b"))
			_, lanes := w.Lanes()
			return errors.Join(err, lanes)
		}, "fixed: block b: only 0 of 1 values written"},
		{"one more block", func(w *Writer) error {
			return errors.Join(w.Block("a"), w.Write32(make([]float32, 2)), w.Block("b"), w.Write32(make([]float32, 1)), w.Block("c"))
		}, "fixed: block c: the layout has no more blocks"},
	} {
		w, err := NewWriter(l)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.do(w); err == nil || err.Error() != c.want {
			t.Errorf("%s: error %v, want %s", c.name, err, c.want)
		}
	}
	if _, err := NewWriter(consilium.Layout{}); err == nil {
		t.Error("an empty layout was accepted")
	}
}

func TestOpenRefuses(t *testing.T) {
	l := exact(1)
	valid := make([]int64, 8)
	for _, c := range []struct {
		name string
		sums []int64
		n    int
	}{
		{"no contribution", valid, 0}, {"too many contributions", valid, consilium.MaxSites + 1},
		{"short", valid[:7], 3}, {"long", make([]int64, 9), 3},
		{"lane above", []int64{0, 0, 3*32767 + 1, 0, 0, 0, 0, 0}, 3}, {"lane below", []int64{0, 0, 0, 0, 0, 0, 0, -3*32768 - 1}, 3},
		{"lane of int64's end", []int64{math.MinInt64, 0, 0, 0, 0, 0, 0, 0}, 3},
	} {
		if v, err := Open(l, c.sums, c.n); err == nil {
			t.Errorf("%s: opened to %v", c.name, v)
		}
		if _, err := Integers(l, c.sums, c.n); err == nil {
			t.Errorf("%s: integers", c.name)
		}
	}
	if err := Add(make([]int64, 2), make([]int32, 3)); err == nil {
		t.Error("lanes of another length were added")
	}
	learned := consilium.Layout{Blocks: []consilium.Block{{Name: "w", Kind: consilium.Learned16, Length: 1, Clip: 1}}}
	if _, err := Open(learned, []int64{-3 * 32768}, 3); err == nil {
		t.Error("a learned sum below its clip was opened")
	}
}

// anyFloat draws from all magnitudes that matter, ties included.
func anyFloat(r *rand.Rand) float64 {
	switch r.IntN(4) {
	case 0:
		return r.NormFloat64()
	case 1: // near the rounding floor, with ties
		return math.Ldexp(float64(r.Int64N(64)-32), -67)
	case 2:
		return math.Ldexp(2*r.Float64()-1, 62-r.IntN(4))
	default:
		return math.Ldexp(2*r.Float64()-1, r.IntN(140)-78)
	}
}

// The sum that Open returns is the exact sum of the quantised values, rounded
// once, whatever the number of sites: 128 values just below 2^62 included.
func TestSumsEqualBigArithmetic(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for trial := range 120 {
		n := 1 + r.IntN(consilium.MaxSites)
		if trial%10 == 0 {
			n = consilium.MaxSites
		}
		const width = 5
		l := exact(width)
		sums := make([]int64, l.Lanes())
		want := make([]*big.Int, width)
		for i := range want {
			want[i] = new(big.Int)
		}
		for range n {
			values := make([]float64, width)
			for i := range values {
				values[i] = anyFloat(r)
			}
			switch trial % 4 { // the extremes of the margin
			case 1:
				values[0] = math.Nextafter(1<<62, 0)
			case 2:
				values[0] = -math.Nextafter(1<<62, 0)
			}
			for i, v := range values {
				want[i].Add(want[i], scaled(v))
			}
			if err := Add(sums, lanes(t, l, values...)); err != nil {
				t.Fatal(err)
			}
		}
		got, err := Open(l, sums, n)
		if err != nil {
			t.Fatal(err)
		}
		integers, err := Integers(l, sums, n)
		if err != nil {
			t.Fatal(err)
		}
		for i := range want {
			if integers["x"][i].Cmp(want[i]) != 0 {
				t.Fatalf("n %d: integer %v, want %v", n, integers["x"][i], want[i])
			}
			if w := rounded(want[i]); math.Float64bits(got["x"][i]) != math.Float64bits(w) {
				t.Fatalf("n %d: opened %b, want %b", n, got["x"][i], w)
			}
		}
	}
}

// A sum that lies exactly between two floats, and a hair beside it: one
// rounding, not two.
func TestOneRounding(t *testing.T) {
	l := exact(1)
	for _, c := range []struct {
		parts []float64
		want  float64
	}{
		{[]float64{1 << 53, 1}, 1 << 53},
		{[]float64{1 << 53, 1, 0x1p-64}, 1<<53 + 2},
		{[]float64{1<<53 + 2, 1}, 1<<53 + 4},
		{[]float64{1<<53 + 2, 1, -0x1p-64}, 1<<53 + 2},
		{[]float64{-(1 << 53), -1, -0x1p-64}, -(1<<53 + 2)},
		{[]float64{1e18, 0x1p-64, -1e18}, 0x1p-64},
		{[]float64{0.1, 0.2, -0.3}, rounded(new(big.Int).Add(new(big.Int).Add(scaled(0.1), scaled(0.2)), scaled(-0.3)))},
	} {
		sums := make([]int64, 8)
		for _, v := range c.parts {
			if err := Add(sums, lanes(t, l, v)); err != nil {
				t.Fatal(err)
			}
		}
		got, err := Open(l, sums, len(c.parts))
		if err != nil {
			t.Fatal(err)
		}
		if got["x"][0] != c.want {
			t.Errorf("%v: %b, want %b", c.parts, got["x"][0], c.want)
		}
	}
}

// Learned sums: the sum of n clipped values is off by at most n half steps.
func TestLearnedSums(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, kind := range []consilium.BlockKind{consilium.Learned16, consilium.Learned24} {
		const clip = 0.37
		l := consilium.Layout{Blocks: []consilium.Block{
			{Name: "n", Kind: consilium.Exact, Length: 1}, {Name: "w", Kind: kind, Length: 100, Clip: clip},
		}}
		const n = 31
		sums := make([]int64, l.Lanes())
		want := make([]float64, 100)
		for range n {
			w, err := NewWriter(l)
			if err != nil {
				t.Fatal(err)
			}
			values := make([]float32, len(want))
			for i := range values {
				values[i] = float32(r.NormFloat64() * 0.2)
				want[i] += max(-clip, min(clip, float64(values[i])))
			}
			if err := errors.Join(w.Block("n"), w.Write([]float64{1}), w.Block("w"), w.Write32(values)); err != nil {
				t.Fatal(err)
			}
			lanes, err := w.Lanes()
			if err != nil {
				t.Fatal(err)
			}
			if err := Add(sums, lanes); err != nil {
				t.Fatal(err)
			}
		}
		got, err := Open(l, sums, n)
		if err != nil {
			t.Fatal(err)
		}
		if got["n"][0] != n {
			t.Errorf("count %v, want %d", got["n"][0], n)
		}
		// Half a step each, and a little for the float64 sums above.
		tolerance := n*0.5*clip/learnedMax(kind) + 1e-12
		for i := range want {
			if math.Abs(got["w"][i]-want[i]) > tolerance {
				t.Errorf("kind %d: %v, want %v within %v", kind, got["w"][i], want[i], tolerance)
			}
		}
	}
}

func FuzzExact(f *testing.F) {
	for _, v := range []float64{0, 1, -1, 0.1, 0x1p-65, 0x3p-65, 1e18, -0x1p62, math.NaN()} {
		f.Add(v, -v)
	}
	f.Fuzz(func(t *testing.T, a, b float64) {
		l := exact(1)
		sums := make([]int64, 8)
		want := new(big.Int)
		for _, v := range []float64{a, b} {
			w, _ := NewWriter(l)
			if err := w.Block("x"); err != nil {
				t.Fatal(err)
			}
			err := w.Write([]float64{v})
			if ok := math.Abs(v) < 0x1p62; ok != (err == nil) {
				t.Fatalf("%v: %v", v, err)
			} else if !ok {
				return
			}
			lanes, err := w.Lanes()
			if err != nil {
				t.Fatal(err)
			}
			for _, lane := range lanes {
				if lane < -1<<15 || lane >= 1<<15 {
					t.Fatalf("%v: lane %d", v, lane)
				}
			}
			if err := Add(sums, lanes); err != nil {
				t.Fatal(err)
			}
			want.Add(want, scaled(v))
		}
		got, err := Open(l, sums, 2)
		if err != nil {
			t.Fatal(err)
		}
		if w := rounded(want); got["x"][0] != w {
			t.Fatalf("%b + %b: %b, want %b", a, b, got["x"][0], w)
		}
	})
}

func BenchmarkWriteExact(b *testing.B) {
	l := exact(4096)
	values := make([]float64, 4096)
	for i := range values {
		values[i] = float64(i) * 1.1
	}
	b.SetBytes(8 * 4096)
	for b.Loop() {
		w, _ := NewWriter(l)
		_ = w.Block("x")
		_ = w.Write(values)
	}
}

// TestVector: what a vector says of its lanes piece by piece is what Lanes says
// of them at once, at the ends of every kind's range; and sums open alike from
// 32 and from 64 bits.
func TestVector(t *testing.T) {
	for _, kinds := range [][]consilium.BlockKind{{consilium.Exact, consilium.Learned16}, {consilium.Exact, consilium.Learned24}} {
		var layout consilium.Layout
		for i, k := range kinds {
			b := consilium.Block{Name: string(rune('a' + i)), Kind: k, Length: 5}
			if k != consilium.Exact {
				b.Clip = 1
			}
			layout.Blocks = append(layout.Blocks, b)
		}
		write := func() *Writer {
			w, err := NewWriter(layout)
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range layout.Blocks {
				values := []float64{0, -1, 1, 0.3, -0.7}
				if b.Kind == consilium.Exact {
					values = []float64{0, -math.Nextafter(MaxExact, 0), math.Nextafter(MaxExact, 0), 0.1, -123456.789}
				}
				if err := errors.Join(w.Block(b.Name), w.Write(values)); err != nil {
					t.Fatal(err)
				}
			}
			return w
		}
		lanes, err := write().Lanes()
		if err != nil {
			t.Fatal(err)
		}
		w := write()
		v, err := w.Vector()
		if err != nil || v.Len() != len(lanes) || len(lanes) != layout.Lanes() {
			t.Fatalf("%d lanes, %v", v.Len(), err)
		}
		for at := range lanes {
			for n := range len(lanes) - at {
				got := make([]int32, n)
				if v.Copy(got, at); !slices.Equal(got, lanes[at:at+n]) {
					t.Fatalf("lanes %d to %d differ", at, at+n)
				}
			}
		}
		if _, err := w.Vector(); err == nil {
			t.Error("a vector is taken twice")
		}
		sums, wide := make([]int32, len(lanes)), make([]int64, len(lanes))
		for i, x := range lanes {
			sums[i], wide[i] = 3*x, 3*int64(x)
		}
		one, err := Open(layout, sums, 3)
		two, err2 := Open(layout, wide, 3)
		if err != nil || err2 != nil || !maps.EqualFunc(one, two, slices.Equal[[]float64]) {
			t.Errorf("sums of 32 and 64 bits open differently: %v, %v", err, err2)
		}
	}
}
