package fixed

import (
	"fmt"
	"math"
	"math/big"
	"math/bits"

	"consilium"
)

// FracBits is the number of fractional bits of an Exact value.
const FracBits = 64

// MaxExact bounds an Exact value: magnitudes at or above it are refused.
const MaxExact = float64(1 << 62)

const (
	digitBits = 16
	digitBias = 1 << (digitBits - 1)
	topDigit  = consilium.ExactLanes - 1
)

// Writer quantises one site's vector, block by block in the layout's order. It
// implements the Writer that analyses write to. It is not safe for concurrent
// use.
type Writer struct {
	layout consilium.Layout
	vector Vector
	next   int // blocks begun
	left   int // values that the open block still takes
	err    error
}

// NewWriter returns a Writer for one vector of the given shape.
func NewWriter(layout consilium.Layout) (*Writer, error) {
	if err := layout.Validate(); err != nil {
		return nil, err
	}
	return &Writer{layout: layout, vector: newVector(layout)}, nil
}

// Block begins the layout's next block, which must have the given name. The
// block before it must be full.
func (w *Writer) Block(name string) error {
	if w.err != nil {
		return w.err
	}
	switch {
	case w.left > 0:
		b := w.layout.Blocks[w.next-1]
		return w.fail("block %s: %d of %d values written when block %s begins", b.Name, b.Length-w.left, b.Length, name)
	case w.next == len(w.layout.Blocks):
		return w.fail("block %s: the layout has no more blocks", name)
	case w.layout.Blocks[w.next].Name != name:
		return w.fail("block %s: the layout's next block is %s", name, w.layout.Blocks[w.next].Name)
	}
	w.left = w.layout.Blocks[w.next].Length
	w.next++
	return nil
}

// Write appends values to the open block.
func (w *Writer) Write(values []float64) error {
	b, err := w.open(len(values))
	if err != nil {
		return err
	}
	if b.Kind == consilium.Exact {
		for i, v := range values {
			hi, lo, err := quantise(v)
			if err != nil {
				return w.fail("block %s, value %d: %w", b.Name, b.Length-w.left+i, err)
			}
			digits := digits(hi, lo)
			w.vector.add(digits[:]...)
		}
	} else {
		limit := learnedMax(b.Kind)
		for i, v := range values {
			q, err := learn(v, b.Clip, limit)
			if err != nil {
				return w.fail("block %s, value %d: %w", b.Name, b.Length-w.left+i, err)
			}
			w.vector.add(q)
		}
	}
	w.left -= len(values)
	return nil
}

// Write32 is Write for single-precision values, which convert exactly.
func (w *Writer) Write32(values []float32) error {
	var buf [256]float64
	for len(values) > 0 {
		n := min(len(values), len(buf))
		for i, v := range values[:n] {
			buf[i] = float64(v)
		}
		if err := w.Write(buf[:n]); err != nil {
			return err
		}
		values = values[n:]
	}
	return nil
}

// Lanes is Vector as a slice.
func (w *Writer) Lanes() ([]int32, error) {
	v, err := w.Vector()
	if err != nil {
		return nil, err
	}
	out := make([]int32, v.Len())
	v.Copy(out, 0)
	return out, nil
}

// Vector returns the finished vector. It fails if a value was refused or a
// block is not full. The caller owns it; the Writer is spent.
func (w *Writer) Vector() (*Vector, error) {
	switch {
	case w.err != nil:
		return nil, w.err
	case w.left > 0:
		b := w.layout.Blocks[w.next-1]
		return nil, w.fail("block %s: only %d of %d values written", b.Name, b.Length-w.left, b.Length)
	case w.next < len(w.layout.Blocks):
		return nil, w.fail("block %s was not written", w.layout.Blocks[w.next].Name)
	}
	w.err = fmt.Errorf("fixed: the vector is already taken")
	v := w.vector
	w.vector = Vector{}
	return &v, nil
}

func (w *Writer) open(n int) (*consilium.Block, error) {
	if w.err != nil {
		return nil, w.err
	}
	if w.next == 0 {
		return nil, w.fail("a value before the first block")
	}
	b := &w.layout.Blocks[w.next-1]
	if n > w.left {
		return nil, w.fail("block %s: more than its %d values", b.Name, b.Length)
	}
	return b, nil
}

// fail remembers the first error, so that a caller which ignored it cannot
// send a vector with a hole.
func (w *Writer) fail(format string, args ...any) error {
	w.err = fmt.Errorf("fixed: "+format, args...)
	return w.err
}

// quantise returns v in units of 2^-64, rounded to nearest even, as 128-bit
// two's complement.
func quantise(v float64) (hi, lo uint64, err error) {
	// The negated comparison also catches NaN.
	if !(math.Abs(v) < MaxExact) {
		return 0, 0, fmt.Errorf("%v is not below 2^62 in magnitude; look for a diverging fit or a column in too small a unit", v)
	}
	u := math.Float64bits(v)
	exp := int(u >> 52 & 0x7ff)
	mant := u & (1<<52 - 1)
	if exp == 0 {
		exp = 1 // subnormal
	} else {
		mant |= 1 << 52
	}
	// v = mant · 2^(exp-1075), so in units of 2^-64 it is mant · 2^shift.
	shift := exp - 1075 + FracBits
	switch {
	case shift >= 64:
		hi = mant << (shift - 64)
	case shift > 0:
		hi, lo = mant>>(64-shift), mant<<shift
	case shift > -64:
		lo = mant >> -shift
		rest := mant << (64 + shift) // the bits shifted out, left-aligned; 0 for shift = 0
		if shift == 0 {
			rest = 0
		}
		const half = 1 << 63
		if rest > half || rest == half && lo&1 == 1 {
			lo++ // cannot carry: lo < 2^53
		}
	}
	// shift <= -64: mant < 2^53, so v is below 2^-11 units and rounds to 0.
	if u>>63 == 1 {
		var borrow uint64
		lo, borrow = bits.Sub64(0, lo, 0)
		hi, _ = bits.Sub64(0, hi, borrow)
	}
	return hi, lo, nil
}

func digits(hi, lo uint64) [consilium.ExactLanes]int32 {
	return [...]int32{
		int32(uint16(lo)) - digitBias, int32(uint16(lo>>16)) - digitBias,
		int32(uint16(lo>>32)) - digitBias, int32(uint16(lo>>48)) - digitBias,
		int32(uint16(hi)) - digitBias, int32(uint16(hi>>16)) - digitBias,
		int32(uint16(hi>>32)) - digitBias, int32(int16(hi >> 48))}
}

// learnedMax is the largest lane of a Learned value: 2^15-1 or 2^23-1. The
// range is symmetric, so that clipping is.
func learnedMax(k consilium.BlockKind) float64 {
	if k == consilium.Learned24 {
		return 1<<23 - 1
	}
	return 1<<15 - 1
}

func learn(v, clip, limit float64) (int32, error) {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return 0, fmt.Errorf("%v is not a number that can be sent; the training diverged, lower the rate", v)
	}
	v = max(-clip, min(clip, v))
	// Division, product and rounding are each one IEEE 754 operation; there is no
	// addition that a compiler could fuse with the product.
	return int32(math.RoundToEven(v / clip * limit)), nil
}

// Add adds one vector of lanes to sums, which must be as long.
func Add(sums []int64, lanes []int32) error {
	if len(sums) != len(lanes) {
		return fmt.Errorf("fixed: %d lanes onto a sum of %d", len(lanes), len(sums))
	}
	for i, v := range lanes {
		sums[i] += int64(v)
	}
	return nil
}

// Open turns the summed lanes of n contributions back into values by block
// name. Each value of an Exact block is the exact sum, rounded once to float64
// (to nearest even). Each value of a Learned block is the sum of the quantised
// values. Sums fit 32 bits, and whoever keeps many of them keeps them so.
func Open[S int32 | int64](layout consilium.Layout, sums []S, n int) (map[string][]float64, error) {
	if err := check(layout, sums, n); err != nil {
		return nil, err
	}
	out := make(map[string][]float64, len(layout.Blocks))
	for _, b := range layout.Blocks {
		values := make([]float64, b.Length)
		openBlock(values, b, sums, n)
		out[b.Name] = values
		sums = sums[lanesOf(b):]
	}
	return out, nil
}

// openBlock opens as many values of a block as there is room for.
func openBlock[S int32 | int64](values []float64, b consilium.Block, sums []S, n int) {
	if b.Kind == consilium.Exact {
		for i := range values {
			w2, w1, w0 := combine(sums, int64(n))
			values[i] = toFloat(w2, w1, w0)
			sums = sums[consilium.ExactLanes:]
		}
		return
	}
	limit := learnedMax(b.Kind)
	for i := range values {
		// The sum is below 2^30: exact in float64. Two roundings, in a fixed order.
		values[i] = float64(float64(sums[i])*b.Clip) / limit
	}
}

// Integers returns the exact sums of all Exact blocks by name, in units of
// 2^-64. It is for checking Open against arithmetic without rounding.
func Integers(layout consilium.Layout, sums []int64, n int) (map[string][]*big.Int, error) {
	if err := check(layout, sums, n); err != nil {
		return nil, err
	}
	out := map[string][]*big.Int{}
	for _, b := range layout.Blocks {
		if b.Kind != consilium.Exact {
			sums = sums[b.Length:]
			continue
		}
		for range b.Length {
			x := new(big.Int)
			for d := topDigit; d >= 0; d-- {
				v := sums[d]
				if d < topDigit {
					v += int64(n) * digitBias
				}
				x.Lsh(x, digitBits)
				x.Add(x, big.NewInt(v))
			}
			out[b.Name] = append(out[b.Name], x)
			sums = sums[consilium.ExactLanes:]
		}
	}
	return out, nil
}

// check refuses what n valid contributions cannot sum to.
func check[S int32 | int64](layout consilium.Layout, sums []S, n int) error {
	if err := layout.Validate(); err != nil {
		return err
	}
	if err := checkNumber(n); err != nil {
		return err
	}
	if want := layout.Lanes(); len(sums) != want {
		return fmt.Errorf("fixed: %d summed lanes, the layout has %d", len(sums), want)
	}
	for _, b := range layout.Blocks {
		if err := checkLanes(b, 0, sums[:lanesOf(b)], n); err != nil {
			return err
		}
		sums = sums[lanesOf(b):]
	}
	return nil
}

func checkNumber(n int) error {
	if n < 1 || n > consilium.MaxSites {
		return fmt.Errorf("fixed: a sum of %d contributions, want 1 to %d", n, consilium.MaxSites)
	}
	return nil
}

// checkLanes is check for some lanes of a block, the first of which is lane at.
func checkLanes[S int32 | int64](b consilium.Block, at int, sums []S, n int) error {
	lo, hi := int64(-digitBias), int64(digitBias-1)
	if b.Kind != consilium.Exact {
		hi = int64(learnedMax(b.Kind))
		lo = -hi
	}
	for i, s := range sums {
		if v := int64(s); v < lo*int64(n) || v > hi*int64(n) {
			return fmt.Errorf("fixed: block %s, lane %d: no %d contributions sum to this", b.Name, at+i, n)
		}
	}
	return nil
}

// combine carries the eight digit sums of one value into a 192-bit two's
// complement integer.
func combine[S int32 | int64](sums []S, n int64) (w2, w1, w0 uint64) {
	var digit [topDigit]uint64
	var carry int64
	for d := range digit {
		v := int64(sums[d]) + n*digitBias + carry // not negative: check has bounded sums
		digit[d] = uint64(v) & (1<<digitBits - 1)
		carry = v >> digitBits
	}
	top := int64(sums[topDigit]) + carry
	w0 = digit[0] | digit[1]<<16 | digit[2]<<32 | digit[3]<<48
	w1 = digit[4] | digit[5]<<16 | digit[6]<<32 | uint64(top)<<48
	w2 = uint64(top >> digitBits)
	return w2, w1, w0
}

// toFloat rounds a 192-bit integer in units of 2^-64 to float64, to nearest
// even. Its magnitude is below 2^135, so the result is normal or zero.
func toFloat(w2, w1, w0 uint64) float64 {
	neg := w2>>63 == 1
	if neg {
		var borrow uint64
		w0, borrow = bits.Sub64(0, w0, 0)
		w1, borrow = bits.Sub64(0, w1, borrow)
		w2, _ = bits.Sub64(0, w2, borrow)
	}
	exp := -FracBits
	// Shift the highest set bit to the top of w2; what falls to the right of w2
	// matters only as "more than nothing".
	if w2 == 0 {
		w2, w1, w0 = w1, w0, 0
		exp -= 64
	}
	if w2 == 0 {
		w2, w1 = w1, 0
		exp -= 64
	}
	if w2 == 0 {
		return 0
	}
	if s := bits.LeadingZeros64(w2); s > 0 {
		w2 = w2<<s | w1>>(64-s)
		w1 = w1<<s | w0>>(64-s)
		w0 <<= s
		exp -= s
	}
	exp += 128
	mant := w2 >> 11
	rest := w2 << 53
	sticky := w1|w0 != 0
	const half = 1 << 63
	if rest > half || rest == half && (sticky || mant&1 == 1) {
		mant++ // 2^53 at most: still exact
	}
	v := math.Ldexp(float64(mant), exp+11)
	if neg {
		v = -v
	}
	return v
}
