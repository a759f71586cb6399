package policy

import (
	"fmt"
	"math/bits"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
)

// bitset holds one bit for each row; bits past the last row are 0.
type bitset []uint64

func newBitset(n int) bitset { return make(bitset, (n+63)/64) }

func (b bitset) get(i int) bool { return b[i/64]>>(i%64)&1 == 1 }

func (b bitset) count() int {
	n := 0
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

// blockWords words of a block are evaluated together: all nodes of a usual
// rule then stay in the first-level cache.
const blockWords = 32

// operandVector is a column as kernels read it. Slots of null rows may hold
// anything, an index outside of the dictionary included.
type operandVector struct {
	valid  []byte // validity bitmap, nil when no row is null
	offset int    // of the first row in valid, and in flags
	ints   []int64
	flags  []byte  // bitmap
	codes  indices // of texts and lists
	values [][]string
	null   []bool // by code: the dictionary holds a null
}

// indices into a dictionary, in one of the widths.
type indices struct {
	i8  []int8
	i16 []int16
	i32 []int32
	i64 []int64
	u8  []uint8
	u16 []uint16
	u32 []uint32
	u64 []uint64
}

// vector reads one column of n rows, or says that it has another type. Buffers
// that are shorter than they claim to be are refused here, so that the loops
// below need not look.
func vector(c column, a arrow.Array, n int) (v operandVector, err error) {
	refuse := func(format string, args ...any) (operandVector, error) {
		return operandVector{}, fmt.Errorf("column %s: %s: %w", c.name, fmt.Sprintf(format, args...), errTable)
	}
	if a.Len() != n {
		return refuse("%d rows, want %d", a.Len(), n)
	}
	v.offset = a.Data().Offset()
	// The bitmap counts, whatever the array says about the number of its nulls.
	if v.valid = a.NullBitmapBytes(); len(v.valid) == 0 {
		v.valid = nil
	} else if len(v.valid)*8 < v.offset+n {
		return refuse("its validity bitmap is too short")
	}
	switch x := a.(type) {
	case *array.Int64:
		if c.kind != kindInt || len(x.Int64Values()) != n {
			return refuse("is %s", a.DataType())
		}
		v.ints = x.Int64Values()
	case *array.Boolean:
		if c.kind != kindFlag {
			return refuse("is %s", a.DataType())
		}
		if b := x.Data().Buffers(); len(b) > 1 && b[1] != nil {
			v.flags = b[1].Bytes()
		}
		if n > 0 && len(v.flags)*8 < v.offset+n {
			return refuse("its values are too short")
		}
	case *array.String:
		if c.kind != kindText && c.kind != kindList {
			return refuse("is %s", a.DataType())
		}
		v.encode(c.kind, x)
	case *array.Dictionary:
		words, ok := x.Dictionary().(*array.String)
		if !ok || c.kind != kindText && c.kind != kindList {
			return refuse("is %s", a.DataType())
		}
		switch i := x.Indices().(type) {
		case *array.Int8:
			v.codes.i8 = i.Int8Values()
		case *array.Int16:
			v.codes.i16 = i.Int16Values()
		case *array.Int32:
			v.codes.i32 = i.Int32Values()
		case *array.Int64:
			v.codes.i64 = i.Int64Values()
		case *array.Uint8:
			v.codes.u8 = i.Uint8Values()
		case *array.Uint16:
			v.codes.u16 = i.Uint16Values()
		case *array.Uint32:
			v.codes.u32 = i.Uint32Values()
		case *array.Uint64:
			v.codes.u64 = i.Uint64Values()
		}
		if v.codes.len() != n {
			return refuse("its indices are too short")
		}
		v.values, v.null = make([][]string, words.Len()), make([]bool, words.Len())
		for i := range v.values {
			if v.null[i] = words.IsNull(i); !v.null[i] {
				v.values[i] = entryOf(c.kind, words.Value(i))
			}
		}
	default:
		return refuse("is %s", a.DataType())
	}
	return v, nil
}

// entryOf is a cell's value as predicates see it.
func entryOf(k kind, s string) []string {
	if k == kindList {
		return strings.Fields(s)
	}
	return []string{s}
}

// encode makes the dictionary of a plain column.
func (v *operandVector) encode(k kind, a *array.String) {
	n := a.Len()
	v.codes.i32 = make([]int32, n)
	known := map[string]int32{}
	for i := range n {
		if a.IsNull(i) {
			v.codes.i32[i] = -1
			continue
		}
		s := a.Value(i)
		code, ok := known[s]
		if !ok {
			code = int32(len(v.values))
			known[strings.Clone(s)] = code
			v.values, v.null = append(v.values, entryOf(k, strings.Clone(s))), append(v.null, false)
		}
		v.codes.i32[i] = code
	}
}

func (c *indices) len() int {
	return len(c.i8) + len(c.i16) + len(c.i32) + len(c.i64) + len(c.u8) + len(c.u16) + len(c.u32) + len(c.u64)
}

// at is the index of row i.
func (c *indices) at(i int) (uint64, bool) {
	switch {
	case c.i32 != nil:
		return uint64(c.i32[i]), true
	case c.u32 != nil:
		return uint64(c.u32[i]), true
	case c.i8 != nil:
		return uint64(c.i8[i]), true
	case c.i16 != nil:
		return uint64(c.i16[i]), true
	case c.i64 != nil:
		return uint64(c.i64[i]), true
	case c.u8 != nil:
		return uint64(c.u8[i]), true
	case c.u16 != nil:
		return uint64(c.u16[i]), true
	case c.u64 != nil:
		return c.u64[i], true
	}
	return 0, false
}

// validWord is 64 rows of the validity, from row on.
func (v *operandVector) validWord(row int) uint64 {
	if v.valid == nil {
		return ^uint64(0)
	}
	return word(v.valid, v.offset+row)
}

// word is 64 bits of a bitmap from bit at on; bits past its end are 0.
func word(b []byte, at int) uint64 {
	i, shift := at/8, at%8
	if i+9 <= len(b) {
		w := uint64(b[i]) | uint64(b[i+1])<<8 | uint64(b[i+2])<<16 | uint64(b[i+3])<<24 |
			uint64(b[i+4])<<32 | uint64(b[i+5])<<40 | uint64(b[i+6])<<48 | uint64(b[i+7])<<56
		return w>>shift | uint64(b[i+8])<<(64-shift)
	}
	var w uint64
	for j := 0; j < 9 && i+j < len(b); j++ {
		if s := j*8 - shift; s >= 0 {
			w |= uint64(b[i+j]) << s
		} else {
			w |= uint64(b[i+j]) >> -s
		}
	}
	return w
}

// run evaluates the roots over the rows of a table. It gives one bitset for
// each root; a row whose cell is null, outside of its dictionary or a null of the
// dictionary has no literal about that cell true.
func (p *plan) run(cols []arrow.Array, n int, now int64, roots []node) (out []bitset, err error) {
	if len(cols) != len(p.cols) {
		return nil, errTable
	}
	order := p.needed(roots)
	read := map[int]*operandVector{}
	want := func(c int) error {
		if c < 0 || read[c] != nil {
			return nil
		}
		v, err := vector(p.cols[c], cols[c], n)
		read[c] = &v
		return err
	}
	for _, id := range order {
		m := &p.nodes[id]
		var err error
		switch m.op {
		case opEntry, opFlag, opPresent:
			err = want(m.col)
		case opLess, opLessEq, opEqual, opUnequal:
			if err = want(m.left.col); err == nil {
				err = want(m.right.col)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	steps := p.steps(order, read, now)
	out = make([]bitset, len(roots))
	for i := range out {
		out[i] = newBitset(n)
	}
	at := make([]int, len(p.nodes)) // node -> its step
	for i, id := range order {
		at[id] = i
	}
	scratch := make([]uint64, len(order)*blockWords)
	block := func(i int) []uint64 { return scratch[i*blockWords : (i+1)*blockWords] }
	for from := 0; from < n; from += blockWords * 64 {
		rows := min(blockWords*64, n-from)
		words := (rows + 63) / 64
		for i := range steps {
			s := &steps[i]
			dst := block(i)[:words]
			switch s.op {
			case opAnd:
				copy(dst, block(at[s.kids[0]])[:words])
				for _, k := range s.kids[1:] {
					for j, w := range block(at[k])[:words] {
						dst[j] &= w
					}
				}
			case opOr:
				copy(dst, block(at[s.kids[0]])[:words])
				for _, k := range s.kids[1:] {
					for j, w := range block(at[k])[:words] {
						dst[j] |= w
					}
				}
			default:
				s.literal(dst, from, rows)
			}
		}
		for i, r := range roots {
			copy(out[i][from/64:], block(at[r])[:words])
		}
	}
	// Bits past the last row are nobody's.
	if tail := n % 64; tail > 0 {
		for i := range out {
			out[i][len(out[i])-1] &= 1<<tail - 1
		}
	}
	return out, nil
}

// step is a node bound to a table.
type step struct {
	op        nodeOp
	kids      []node
	v, w      *operandVector // the columns of a literal
	lut       []uint8
	flip      uint64 // of flags: what is wanted, inverted
	a, b      int64  // the numbers of a comparison
	constant  bool   // of a comparison without a column
	leftIsCol bool
}

// steps binds nodes to columns and looks every dictionary entry up once.
func (p *plan) steps(order []node, read map[int]*operandVector, now int64) []step {
	out := make([]step, len(order))
	scalar := func(o operand) int64 {
		if o.col == isNow {
			return now
		}
		return o.value
	}
	for i, id := range order {
		m := &p.nodes[id]
		s := step{op: m.op, kids: m.kids}
		switch m.op {
		case opEntry:
			s.v = read[m.col]
			s.lut = make([]uint8, len(s.v.values))
			for j, value := range s.v.values {
				if !s.v.null[j] && m.pred(value) {
					s.lut[j] = 1
				}
			}
		case opFlag:
			s.v = read[m.col]
			if !m.flag {
				s.flip = ^uint64(0)
			}
		case opPresent:
			s.v = read[m.col]
			if s.v.values != nil || s.v.codes.len() > 0 {
				s.lut = make([]uint8, len(s.v.values))
				for j := range s.lut {
					if !s.v.null[j] {
						s.lut[j] = 1
					}
				}
			}
		case opLess, opLessEq, opEqual, opUnequal:
			l, r := m.left, m.right
			switch {
			case l.col >= 0 && r.col >= 0:
				s.v, s.w = read[l.col], read[r.col]
			case l.col >= 0:
				s.v, s.b, s.leftIsCol = read[l.col], scalar(r), true
			case r.col >= 0:
				s.v, s.a = read[r.col], scalar(l)
			default:
				s.constant = compared(m.op, scalar(l), scalar(r))
			}
		}
		out[i] = s
	}
	return out
}

// literal evaluates a literal for rows of a block.
func (s *step) literal(dst []uint64, from, rows int) {
	switch s.op {
	case opTrue, opFalse:
		fill(dst, s.op == opTrue)
		return
	case opFlag:
		for j := range dst {
			at := from + j*64
			dst[j] = (word(s.v.flags, s.v.offset+at) ^ s.flip) & s.v.validWord(at)
		}
		return
	case opPresent:
		if s.lut == nil {
			for j := range dst {
				dst[j] = s.v.validWord(from + j*64)
			}
			return
		}
		s.v.codes.look(s.lut, dst, from, rows)
	case opEntry:
		s.v.codes.look(s.lut, dst, from, rows)
	default:
		if s.v == nil {
			fill(dst, s.constant)
			return
		}
		s.compare(dst, from, rows)
		if s.w != nil {
			for j := range dst {
				dst[j] &= s.w.validWord(from + j*64)
			}
		}
	}
	if s.v.valid != nil {
		for j := range dst {
			dst[j] &= s.v.validWord(from + j*64)
		}
	}
}

func fill(dst []uint64, v bool) {
	var w uint64
	if v {
		w = ^w
	}
	for j := range dst {
		dst[j] = w
	}
}

// compare writes the answers of an integer comparison. less is exact for all
// integers: the borrow of a subtraction with the sign bits turned.
func (s *step) compare(dst []uint64, from, rows int) {
	if s.w != nil {
		s.comparePair(dst, from, rows)
		return
	}
	values, op := s.v.ints[from:from+rows], s.op
	switch {
	case op == opEqual || op == opUnequal:
		c := s.a
		if s.leftIsCol {
			c = s.b
		}
		var flip uint64
		if op == opUnequal {
			flip = ^uint64(0)
		}
		for j := range dst {
			var w uint64
			for i, v := range values[j*64 : min(j*64+64, len(values))] {
				w |= equal(v, c) << (i & 63)
			}
			dst[j] = w ^ flip
		}
	case s.leftIsCol == (op == opLess):
		// v < b, or not v < a for a <= v.
		c, flip := s.b, uint64(0)
		if !s.leftIsCol {
			c, flip = s.a, ^uint64(0)
		}
		turned := uint64(c) ^ 1<<63
		for j := range dst {
			var w uint64
			for i, v := range values[j*64 : min(j*64+64, len(values))] {
				_, borrow := bits.Sub64(uint64(v)^1<<63, turned, 0)
				w |= borrow << (i & 63)
			}
			dst[j] = w ^ flip
		}
	default:
		// a < v, or not b < v for v <= b.
		c, flip := s.a, uint64(0)
		if s.leftIsCol {
			c, flip = s.b, ^uint64(0)
		}
		turned := uint64(c) ^ 1<<63
		for j := range dst {
			var w uint64
			for i, v := range values[j*64 : min(j*64+64, len(values))] {
				_, borrow := bits.Sub64(turned, uint64(v)^1<<63, 0)
				w |= borrow << (i & 63)
			}
			dst[j] = w ^ flip
		}
	}
}

func equal(a, b int64) uint64 {
	d := uint64(a ^ b)
	return 1 ^ (d|-d)>>63
}

func (s *step) comparePair(dst []uint64, from, rows int) {
	x, y := s.v.ints[from:from+rows], s.w.ints[from:from+rows]
	for j := range dst {
		var w uint64
		for i := j * 64; i < min(j*64+64, rows); i++ {
			if compared(s.op, x[i], y[i]) {
				w |= 1 << (i & 63)
			}
		}
		dst[j] = w
	}
}

func (c *indices) look(lut []uint8, dst []uint64, from, rows int) {
	switch {
	case c.i32 != nil:
		look(c.i32[from:from+rows], lut, dst)
	case c.u32 != nil:
		look(c.u32[from:from+rows], lut, dst)
	case c.i8 != nil:
		look(c.i8[from:from+rows], lut, dst)
	case c.i16 != nil:
		look(c.i16[from:from+rows], lut, dst)
	case c.i64 != nil:
		look(c.i64[from:from+rows], lut, dst)
	case c.u8 != nil:
		look(c.u8[from:from+rows], lut, dst)
	case c.u16 != nil:
		look(c.u16[from:from+rows], lut, dst)
	case c.u64 != nil:
		look(c.u64[from:from+rows], lut, dst)
	default:
		fill(dst, false)
	}
}

// look gathers one bit for each index; an index outside of the table is 0.
func look[I int8 | int16 | int32 | int64 | uint8 | uint16 | uint32 | uint64](idx []I, lut []uint8, dst []uint64) {
	for j := range dst {
		var w uint64
		for i, v := range idx[j*64 : min(j*64+64, len(idx))] {
			if u := uint64(v); u < uint64(len(lut)) {
				w |= uint64(lut[u]) << (i & 63)
			}
		}
		dst[j] = w
	}
}
