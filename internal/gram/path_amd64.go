//go:build amd64 && !purego

package gram

import (
	"math/bits"
	"unsafe"

	"golang.org/x/sys/cpu"
)

var (
	fast   = cpu.X86.HasAVX2
	useZMM = fast && cpu.X86.HasAVX512F && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL
)

// The arguments of the kernels. Distances are in bytes.

type tile struct {
	groups  int
	w, t, z *float64
	acc     *float64
	row     int // from one row of acc to the next
	ahead   *float64
}

// kernels are the tiles of one kind of registers: by rows and columns, and at the
// diagonal by rows.
type kernels struct {
	tiles   [][]func(*tile)
	corners []func(*tile)
}

type standardising struct {
	groups                int
	raw                   *float64
	step, columns         int
	centre, inverse, beta *float64
	eta, z                *float64
}

// kernel is what a block calls, in order, and room for the arguments: not on the stack,
// from which a call through a table lets them escape.
type kernel struct {
	wide, half []call
	tile       tile
}

// call is one tile over a group of rows: what it reads and writes, by number of values.
type call struct {
	run     func(*tile)
	w, t, z int
	acc     int
	row     int
	r       bool // t is the residual
	copied  int  // where the residual is copied to in the weighted columns first, or -1
}

type sweeping struct {
	registers int
	x, y      *float64
}

type sweepingLogistic struct {
	groups                    int
	eta, y, w, r, ll, pearson *float64
	product                   *[Lanes]float64
}

type scanning struct {
	columns      int
	z, w, u, out *float64
	carry        *float64
	marks        *Marks
	offsets      *[groups]int
}

type exposing struct {
	e, r, w, h  *float64
	times, dead *Marks
	offsets     *[groups]int
	after       *float64
}

type totalling struct {
	groups     int
	a, b, c, d *float64
	hi, lo     *[4]float64
}

type adding struct {
	groups    int
	hi, lo, v *float64
}

type summing struct {
	fours    int
	from, to *float64
}

type single struct {
	groups int
	v, sum *float64
}

type comparing struct {
	groups int
	v      *float64
	limit  float64
	beyond int
}

type subtracting struct {
	groups           int
	y, x, r, squares *float64
}

func (s *Standard) fast(groups int, eta, z, raw []float64) {
	if !fast {
		s.portable(groups, eta, z, raw)
		return
	}
	a := standardising{groups: groups, raw: &raw[0], step: 64 * len(s.Centre), columns: len(s.Centre), centre: &s.Centre[0], inverse: &s.Inverse[0], z: &z[0]}
	if eta != nil {
		a.eta, a.beta = &eta[0], &s.Beta[0]
	}
	switch {
	case useZMM && eta != nil:
		wideStandardBoth(&a)
	case useZMM:
		wideStandardValues(&a)
	case eta != nil:
		standardBoth(&a)
	default:
		standardValues(&a)
	}
}

func addUp(to, from []float64, fours int) {
	if !fast || fours == 0 {
		portableAddUp(to, from, fours)
		return
	}
	_, _ = to[4*fours-1], from[4*fours*Lanes-1]
	summings(&summing{fours, &from[0], &to[0]})
}

func sumOf(v []float64) (sum float64) {
	alone(&single{len(v) / Lanes, &v[0], &sum})
	return sum
}

func within(v []float64, limit float64) bool {
	a := comparing{len(v) / Lanes, &v[0], limit, 0}
	beyond(&a)
	return a.beyond == 0
}

func subtract(r, y, x []float64) (squares float64) {
	subtractions(&subtracting{len(r) / Lanes, &y[0], &x[0], &r[0], &squares})
	return squares
}

func exp(y, x []float64) int {
	if useZMM {
		if n := len(x) / 8; n > 0 {
			wideExps(&sweeping{n, &x[0], &y[0]})
		}
		return len(x) &^ 7
	}
	if n := len(x) / 4; n > 0 {
		exps(&sweeping{n, &x[0], &y[0]})
	}
	return len(x) &^ 3
}

func logistic(w, r, ll, pearson []float64, product *[Lanes]float64, eta, y []float64) {
	a := sweepingLogistic{len(w) / Lanes, &eta[0], &y[0], &w[0], &r[0], &ll[0], &pearson[0], product}
	if useZMM {
		wideLogistics(&a)
	} else {
		logistics(&a)
	}
}

func totals(t *Totals, a, b, c, d []float64) {
	totals4(&totalling{len(a) / 4, &a[0], &b[0], &c[0], &d[0], &t.Hi, &t.Lo})
}

func addEach(hi, lo, v []float64) { additions(&adding{len(v) / 4, &hi[0], &lo[0], &v[0]}) }

// offsets are the places, in bytes, of the rows of each group among those that are kept.
func (m *Marks) offsets() (out [groups]int) {
	n := 0
	for g, b := range m {
		out[g] = 8 * n
		n += bits.OnesCount8(b)
	}
	return out
}

func (s *Scan) fast(out, z, w, u []float64, marks *Marks) {
	if !useZMM {
		s.portable(out, z, w, u, marks)
		return
	}
	offsets := marks.offsets()
	scans(&scanning{len(s.Carry), &z[0], &w[0], &u[0], &out[0], &s.Carry[0], marks, &offsets})
}

func expose(e, r, w, h []float64, times, dead *Marks, after float64) {
	if !useZMM {
		portableExpose(e, r, w, h, times, dead, after)
		return
	}
	offsets := times.offsets()
	exposures(&exposing{&e[0], &r[0], &w[0], &h[0], times, dead, &offsets, &after})
}

// plan lists the tiles: four weighted columns at a time, or two of AVX2, with all
// before them. The residual goes with the last ones.
func (k *kernel) plan(b *Block) {
	if !fast {
		return
	}
	list := func(with *kernels, halves int) (calls []call) {
		most := len(with.corners)
		for h := 0; h < Lanes; h += Lanes / halves {
			// across is the products of weighted columns with some columns.
			across := func(rows, a, from, to int, c call) {
				tiles := with.tiles[rows-1]
				for from < to {
					parts := (to - from + len(tiles) - 1) / len(tiles)
					n := (to - from + parts - 1) / parts // of about equal size
					c.run, c.z, c.acc = tiles[n-1], from*PieceRows+h, b.at(a, from)+h
					calls = append(calls, c)
					c.copied = -1
					from += n
				}
			}
			for a := 0; a < b.p && b.products; a += most {
				n := min(most, b.p-a)
				band := call{w: h, t: h, row: a/4*4 + 4, copied: -1}
				corner := band
				corner.run, corner.z, corner.acc = with.corners[n-1], a*PieceRows+h, b.at(a, a)+h
				calls = append(calls, corner)
				if b.score && n < most && a > 0 {
					band.copied = n * PieceRows
					across(n+1, a, 0, a, band)
					across(1, b.p, a, b.p, call{t: h, r: true, copied: -1})
				} else {
					across(n, a, 0, a, band)
				}
			}
			if b.score && (!b.products || b.p%most == 0 || b.p < most) {
				across(1, b.p, 0, b.p, call{t: h, r: true, copied: -1})
			}
		}
		return calls
	}
	k.half = list(&half, 2)
	if useZMM {
		k.wide = list(&wide, 1)
	}
}

// tiles adds whole groups of rows.
func (b *Block) tiles(groups int, z, w, r, ahead []float64) {
	if !fast {
		b.portableTiles(groups, z, w, r)
		return
	}
	next := &z[0] // fetching what is there costs nothing
	var left int
	if len(ahead) > 0 {
		next, left = &ahead[0], len(ahead)
	}
	calls := b.kernel.wide
	if !useZMM {
		calls = b.kernel.half
	}
	k := &b.kernel.tile
	k.groups = groups
	for i := range calls {
		c := &calls[i]
		k.z, k.acc, k.row, k.ahead = &z[c.z], &b.acc[c.acc], 8*Lanes*c.row, next
		if c.r {
			k.t = &r[c.t]
		} else {
			k.w, k.t = &w[c.w], &b.t[c.t]
		}
		if c.copied >= 0 {
			copy(b.t[c.copied:], r[:groups*Lanes])
		}
		c.run(k)
		if left > 16*groups {
			left -= 16 * groups
			next = (*float64)(unsafe.Add(unsafe.Pointer(next), 128*groups))
		}
	}
	*k = tile{} // it keeps nothing alive
}
