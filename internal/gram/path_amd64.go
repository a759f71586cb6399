//go:build amd64 && !purego

package gram

import (
	"unsafe"

	"golang.org/x/sys/cpu"
)

var (
	fast   = cpu.X86.HasAVX2
	useZMM = fast && cpu.X86.HasAVX512F && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL
)

// The arguments of the kernels. Distances are in bytes.

type tile struct {
	steps int
	t     *float64
	tStep int
	z     *float64
	zStep int
	acc   *float64
	row   int // from one row, or pair of rows, of acc to the next
	ahead *float64
}

type scaling struct {
	steps int
	w, z  *float64
	zStep int
	t     *float64
	tStep int
}

type standardising struct {
	groups                      int
	raw                         *float64
	step, columns               int
	centre, inverse, beta, mean *float64
	eta, z                      *float64
	zStep                       int
}

// kernel is a block's room for arguments.
type kernel struct {
	tile    tile
	scaling scaling
}

type sweeping struct {
	groups int
	x, y   *float64
	left   int // lanes were left to the definition
}

type sweepingLogistic struct {
	groups                    int
	eta, y, w, r, ll, pearson *float64
	left                      int
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

type transposing struct {
	groups int
	from   *float64
	step   int
	to     *float64
	toStep int
}

type summing struct {
	groups   int
	from, to *float64
}

type fetching struct {
	groups int
	from   *float64
	step   int
}

type entering struct {
	rows int
	set  *RiskSet
	z, w *float64
	sums *float64
}

type dying struct {
	deaths     int
	set        *RiskSet
	z          *float64
	sums       *float64 // fall: the weights
	after, own *uint8
	risk       *float64
	share      *float64
	means      *float64
}

func (s *Standard) fast(groups int, eta, z, raw []float64, width, zWidth, first int) {
	if !fast {
		s.portable(groups, eta, z, raw, width, zWidth, first)
		return
	}
	a := standardising{groups: groups, raw: &raw[0], step: 32 * width, columns: len(s.Centre), centre: &s.Centre[0], inverse: &s.Inverse[0], zStep: 32 * zWidth}
	if eta != nil {
		a.eta, a.beta = &eta[0], &s.Beta[0]
	}
	if z != nil {
		a.z, a.mean = &z[first*Lanes], &s.Mean[0]
	}
	switch {
	case z == nil:
		standardEta(&a)
	case eta == nil:
		standardValues(&a)
	default:
		standardBoth(&a)
	}
}

func transpose(to, from []float64, groups, toStep, fromStep int) {
	if !fast {
		portableTranspose(to, from, groups, toStep, fromStep)
		return
	}
	transpositions(&transposing{groups, &from[0], 8 * fromStep, &to[0], 8 * toStep})
}

func fetch(panel []float64, groups, width int) {
	if fast {
		fetches(&fetching{groups, &panel[0], 32 * width})
	}
}

func addUp(to, from []float64, groups int) {
	if !fast {
		portableAddUp(to, from, groups)
		return
	}
	_, _ = to[4*groups-1], from[32*groups-2*Lanes+Lanes-1]
	summings(&summing{groups, &from[0], &to[0]})
}

func exp(y, x []float64) bool {
	a := sweeping{groups: len(x) / 4, x: &x[0], y: &y[0]}
	exps(&a)
	return a.left != 0
}

func log(y, x []float64) bool {
	a := sweeping{groups: len(x) / 4, x: &x[0], y: &y[0]}
	logs(&a)
	return a.left != 0
}

func logistic(w, r, ll, pearson, eta, y []float64) bool {
	a := sweepingLogistic{len(w) / 4, &eta[0], &y[0], &w[0], &r[0], &ll[0], &pearson[0], 0}
	logistics(&a)
	return a.left != 0
}

func totals(t *Totals, a, b, c, d []float64) {
	totals4(&totalling{len(a) / 4, &a[0], &b[0], &c[0], &d[0], &t.Hi, &t.Lo})
}

func addEach(hi, lo, v []float64) { additions(&adding{len(v) / 4, &hi[0], &lo[0], &v[0]}) }

func enter(s *RiskSet, sums, z *Chunk, w []float64) {
	enters(&entering{len(w), s, &z[0], &w[0], &sums[0]})
}

func single(s *RiskSet, means []float64, sums, z *Chunk, after, own []uint8, risk []float64) {
	singles(&dying{deaths: len(risk), set: s, z: &z[0], sums: &sums[0], after: &after[0], own: &own[0], risk: &risk[0], means: &means[0]})
}

func fall(s *RiskSet, z *Chunk, w []float64, own []uint8) {
	falls(&dying{deaths: len(own), set: s, z: &z[0], sums: &w[0], own: &own[0]})
}

func settle(s *RiskSet, means, sum, risk, share []float64) {
	settles(&dying{deaths: len(risk), set: s, sums: &sum[0], risk: &risk[0], share: &share[0], means: &means[0]})
}

// tiles adds whole groups of rows, a group of weighted columns at a time.
func (b *Block) tiles(steps int, z, w, r, ahead []float64) {
	if !fast {
		b.portableTiles(steps, z, w, r)
		return
	}
	next := &z[0] // fetching what is there costs nothing
	var left int
	if len(ahead) > 0 {
		next, left = &ahead[0], len(ahead)
	}
	rows, most := b.rows(), 2
	if useZMM {
		most = 4
	}
	// In the block and not on the stack, from which a call through a table lets
	// arguments escape.
	k := &b.kernel
	k.scaling = scaling{steps: steps, w: &w[0], zStep: 32 * b.width, t: &b.t[0]}
	k.tile = tile{steps: steps, t: &b.t[0], zStep: 32 * b.width}
	run := func(kernel func(*tile)) {
		k.tile.ahead = next
		kernel(&k.tile)
		if left > 8*steps {
			left -= 8 * steps
			next = (*float64)(unsafe.Add(unsafe.Pointer(next), 64*steps))
		}
	}
	for a := 0; a < rows; a += most {
		n := min(most, rows-a)
		even := n + n%2
		k.tile.tStep, k.scaling.tStep = 32*even, 32*even
		if c := min(n, b.p-a); c > 0 {
			k.scaling.z = &z[Lead+a*Lanes]
			scales[c-1](&k.scaling)
		}
		last := a + n - 1 // the last column that these rows need
		if last >= b.p {
			for g := range steps {
				copy(b.t[(g*even+n-1)*Lanes:][:Lanes], r[g*Lanes:])
			}
			last = b.p - 1
		}
		if !useZMM {
			k.tile.row = 8 * (b.at(1, 0) - b.at(0, 0))
			for c := 0; c <= last; c += 4 {
				k.tile.z, k.tile.acc = &z[Lead+c*Lanes], &b.acc[b.at(a, c)]
				run(half[n-1][min(4, last-c+1)-1])
			}
			continue
		}
		if n < even { // the row beside the last one: its products are nobody's
			for g := range steps {
				clear(b.t[(g*even+n)*Lanes:][:Lanes])
			}
		}
		// From the column before the first, whose neighbour the first is, to the last
		// one that an even row needs.
		last = min(a+even-2, b.p-1)
		alone := -1
		if last+1 == b.width { // its neighbour would stand past the panel; only the last row asks for it
			alone, last = last, last-1
		}
		k.tile.row = 64 * (b.width + 1)
		for c := -1; c <= last; c += 8 {
			k.tile.z, k.tile.acc = &z[Lead+c*Lanes], &b.acc[(a/2*(b.width+1)+c+1)*2*Lanes]
			run(wide[even/2-1][min(8, last-c+1)-1])
		}
		if alone >= 0 {
			k.tile.z, k.tile.acc = &z[Lead+alone*Lanes], &b.acc[b.at(a, alone)]
			run(half[0][0])
		}
	}
	*k = kernel{} // it keeps nothing alive
}
