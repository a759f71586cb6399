package models

import (
	"math"
	"math/bits"
	"sort"

	"consilium/internal/det"
	"consilium/internal/gram"
)

// Where nothing but likelihood, score and information is wanted, the sums over
// risk sets are turned round. A row adds its products once, weighted by the
// hazard that it met, Σ_t S2(t)/S0(t) = Σ_i w_i z_i z_i' Λ_i, and its score is its
// martingale residual's, Σ_i (d_i - w_i Λ_i) z_i (Therneau and Grambsch, section 4).
// The means' products come off: one for each time, since the D deaths of one time, by
// Efron, are together, with S the risk set's sum, T that of the tied rows, r_m the risks and s_m
// the shares that have left,
//
//	Σ_m (S - s_m T)(S - s_m T)'/r_m² = a (S - κT)(S - κT)' + (c - κb) TT'
//
// with a = Σ 1/r_m², b = Σ s_m/r_m², c = Σ s_m²/r_m² and κ = b/a.
//
// A step goes over the rows twice, since a row's hazard is known when all risk
// sets are: for the weights and the sums of blocks of rows, and for all the rest. Between
// them is what needs no column. What does not change from step to step, the order of the
// rows and who dies when, is found once.

// history is one risk-set history. Its rows stand by falling stop time, and turned
// within their pieces (gram.Turn); what fills up the last piece has weight zero. A row is
// named by its place.
type history struct {
	columns *columns
	rows    int
	centre  []float64    // the columns' means
	dead    []gram.Marks // by piece
	// moves are the rows in the order in which they enter the risk set and leave it
	// (^row), as far as a death follows, turned within their pieces too; nil: they enter as they
	// stand, and stay.
	moves  []int32
	times  []gram.Marks // of every piece of moves: the last before the deaths of a time
	before []int32      // times in the pieces before. Times are numbered by place.
	ties   []tie        // times with more than one death, rising
	tied   []tiedRow    // by Efron: their deaths, by falling time
	// Where rows enter late:
	falling []int32 // the times by falling time
	until   []int32 // of each row: how many times are after its stop
	since   []int32 // of each row: how many are after its start
}

type tie struct {
	time, deaths int32
	from, to     int32 // in tied
}

type tiedRow struct{ row, tie int32 }

// absent is a move that fills up a piece.
const absent = math.MinInt32

const (
	roomWeight  = iota // by row
	roomRate           // by time: one over the summed weight at risk
	roomHazard         // by time, where some are tied
	roomMeans          // by time, where some are tied: the weight of its means' products
	roomExposed        // by row, where rows enter late
	roomPooled         // by time, where rows enter late
	roomBases          // by block
	roomAfter          // by piece
	roomLen
)

// rooms are for what a step needs by row or by time. Histories are walked one after the
// other, in the same rooms.
type rooms [roomLen][]float64

// use returns room for n values, which hold anything.
func (r *rooms) use(which, n int) []float64 {
	if cap(r[which]) < n {
		r[which] = make([]float64, n)
	}
	return r[which][:n]
}

// whole rounds n rows up to whole pieces.
func whole(n int) int { return (n + pieceRows - 1) / pieceRows * pieceRows }

func mark(m []gram.Marks, place int) {
	m[place/pieceRows][place%pieceRows/gram.Lanes] |= 1 << (place % gram.Lanes)
}

// newHistory lays out one stratum; at has room for a number for each row of the table.
func (c *coxSpec) newHistory(data *frame, columns []source, rows, at []int) *history {
	s := c.stratum(data, rows)
	n := len(s.rows)
	stop, event := pick(data.num[c.stop], s.rows), pick(data.num[c.event], s.rows)
	h := &history{rows: n, dead: make([]gram.Marks, whole(n)/pieceRows)}
	places := make([]int, whole(n))
	for i := range places {
		p := gram.Turn(i)
		if places[p] = -1; i >= n {
			continue
		}
		if places[p] = s.rows[i]; event[i] == 1 {
			mark(h.dead, p)
		}
	}
	h.columns = lay(columns, len(places), places)
	h.centre = h.columns.means(n)
	var start []float64
	var out []int // rows by falling start time
	if c.start != "" {
		start = pick(data.num[c.start], s.rows)
		for r, i := range s.rows {
			at[i] = r
		}
		out = make([]int, n)
		for k, i := range s.starts {
			out[k] = at[i]
		}
	}
	var moves, after, deaths []int32 // the last two by falling time
	var times []float64
	type group struct{ tie, from, to int32 }
	var groups []group // of tied rows
	entered, left, moved := 0, 0, 0
	for from := 0; from < n; {
		to, d := from, int32(0)
		for ; to < n && stop[to] == stop[from]; to++ {
			if event[to] == 1 {
				d++
			}
		}
		if d == 0 {
			from = to
			continue
		}
		for ; entered < to; entered++ {
			if moved++; start != nil {
				moves = append(moves, int32(gram.Turn(entered)))
			}
		}
		for ; left < len(out) && start[out[left]] >= stop[from]; left++ {
			moves = append(moves, ^int32(gram.Turn(out[left])))
			moved++
		}
		if d > 1 && c.efron {
			g := group{int32(len(after)), int32(len(h.tied)), 0}
			for i := from; i < to; i++ {
				if event[i] == 1 {
					h.tied = append(h.tied, tiedRow{row: int32(gram.Turn(i))})
				}
			}
			g.to = int32(len(h.tied))
			groups = append(groups, g)
		}
		after, deaths = append(after, int32(gram.Turn(moved-1))), append(deaths, d)
		times = append(times, stop[from])
		from = to
	}
	if start == nil {
		h.times = make([]gram.Marks, len(h.dead))
	} else {
		h.moves = make([]int32, whole(moved))
		for i := range h.moves {
			if h.moves[gram.Turn(i)] = absent; i < moved {
				h.moves[gram.Turn(i)] = moves[i]
			}
		}
		h.times = make([]gram.Marks, len(h.moves)/pieceRows)
	}
	for _, p := range after {
		mark(h.times, int(p))
	}
	h.before = make([]int32, len(h.times)+1)
	for k := range h.times {
		h.before[k+1] = h.before[k] + int32(h.times[k].Count())
	}
	number := make([]int32, len(after)) // of each time, by place
	for k, p := range after {
		m := &h.times[p/pieceRows]
		number[k] = h.before[p/pieceRows]
		for g := range p % pieceRows / gram.Lanes {
			number[k] += int32(bits.OnesCount8(m[g]))
		}
		number[k] += int32(bits.OnesCount8(m[p%pieceRows/gram.Lanes] & (1<<(p%gram.Lanes) - 1)))
	}
	own := 0
	for k, d := range deaths {
		if d == 1 {
			continue
		}
		t := tie{time: number[k], deaths: d}
		if c.efron {
			t.from, t.to = groups[own].from, groups[own].to
			own++
		}
		h.ties = append(h.ties, t)
	}
	sort.Slice(h.ties, func(a, b int) bool { return h.ties[a].time < h.ties[b].time })
	for k, t := range h.ties {
		for i := range h.tied[t.from:t.to] {
			h.tied[int(t.from)+i].tie = int32(k)
		}
	}
	if start != nil {
		h.falling = number
		h.until, h.since = make([]int32, whole(n)), make([]int32, whole(n))
		for i := range n {
			h.until[gram.Turn(i)] = int32(sort.Search(len(times), func(k int) bool { return times[k] <= stop[i] }))
			h.since[gram.Turn(i)] = int32(sort.Search(len(times), func(k int) bool { return times[k] <= start[i] }))
		}
	}
	return h
}

// means are those of the columns over n rows; what fills up the panels is zero.
// Where they are beyond all numbers they are zero: only digits are lost.
func (c *columns) means(n int) []float64 {
	sum := newSums(c.p)
	inStretches(c.n, c.p, sum, func() func(stretch, from, to int, blocks []float64) {
		lanes := make([]float64, gram.Lanes*c.p)
		return func(_, from, to int, blocks []float64) {
			for ; from < to; from += blockRows {
				clear(lanes)
				for row := from; row < min(from+blockRows, to); row += gram.Lanes {
					for i, v := range c.from(row)[:len(lanes)] {
						lanes[i] += v
					}
				}
				for a := range c.p {
					blocks[a] = gram.Sum(lanes[a*gram.Lanes:][:gram.Lanes])
				}
				blocks = blocks[c.p:]
			}
		}
	})
	out := make([]float64, c.p)
	for a := range out {
		if out[a] = sum.total(a).value() / float64(n); !(math.Abs(out[a]) <= math.MaxFloat64) {
			out[a] = 0
		}
	}
	return out
}

// coxStep is a hospital's Newton step.
func (g *regression) coxStep(p *prepared, f *fit) *localFit {
	l := g.newLocal(coxFitLen)
	for _, h := range p.histories {
		h.step(l, p, f)
	}
	if p.sets != nil {
		p.sets.step(l, f)
	}
	return l
}

// step adds one history's likelihood, score and information.
func (h *history) step(l *localFit, p *prepared, f *fit) {
	k := &walk{history: h, rooms: &p.rooms, std: standard(f, f.theta), p: h.columns.p, n: h.columns.n}
	k.std.Centre = h.centre // the model does not change when a column moves by a constant
	k.shift = k.largest(p)
	k.w = k.use(roomWeight, k.n)
	k.weigh(&l.fit[0])
	k.risks(&l.fit[0])
	k.expose()
	k.products(l)
}

// walk is one step over a history.
type walk struct {
	*history
	*rooms
	std   *gram.Standard
	p, n  int // columns, and rows with those that fill up
	shift float64

	w       []float64 // of rows
	bases   []float64 // of each block: what was summed before it, of every column and of the weights
	rate    []float64 // by time: one over the risk set's weight
	hazard  []float64 // by time: the sum of one over the risk, over its deaths
	means   []float64 // by time: the weight of its means' products; nil: one
	tie     []tieSums
	after   []float64 // of each piece: the hazard at all times in pieces behind it
	exposed []float64 // where rows enter late: their weight times the hazard that they met
}

// tieSums are what the deaths of one time say together.
type tieSums struct {
	less  float64 // of the hazard, for those who die
	kappa float64
	rest  float64 // the weight of the tied rows' own products
}

// farthest is how far from zero the linear predictors may be without being moved: risk
// is between exp(-farthest) and exp(farthest).
const farthest = 300

// largest is what linear predictors are moved by: nothing, if the columns' spans say
// that all are near zero, else their largest.
func (k *walk) largest(p *prepared) float64 {
	low, high := 0.0, 0.0
	for a, b := range k.std.Beta {
		x := float64(b * float64((p.low[a]-k.centre[a])*k.std.Inverse[a]))
		y := float64(b * float64((p.high[a]-k.centre[a])*k.std.Inverse[a]))
		low += math.Min(x, y)
		high += math.Max(x, y)
	}
	if low >= -farthest && high <= farthest {
		return 0
	}
	most := math.Inf(-1)
	z, eta := make([]float64, k.p*pieceRows), make([]float64, pieceRows)
	for from := 0; from < k.n; from += pieceRows {
		clear(eta)
		k.std.Both(eta, z, k.columns.from(from), pieceRows)
		for i, v := range eta {
			if gram.Turn(from+i) < k.rows {
				most = math.Max(most, v)
			}
		}
	}
	return most
}

// weigh finds the rows' weights, the sums of blocks and the linear
// predictors of those who die.
func (k *walk) weigh(fit *total) {
	died := make([]total, (k.n+stretchRows-1)/stretchRows)
	width := k.p + 1
	k.bases = k.use(roomBases, (k.n+blockRows-1)/blockRows*width)
	k.inStretches(k.n, func() func(from, to int) {
		z, eta := make([]float64, k.p*pieceRows), make([]float64, pieceRows)
		block := gram.NewBlock(k.p, false, true)
		return func(from, to int) {
			died := &died[from/stretchRows]
			for ; from < to; from += blockRows {
				block.Reset()
				end := min(from+blockRows, to)
				for row := from; row < end; row += pieceRows {
					clear(eta)
					k.std.Both(eta, z, k.columns.from(row), pieceRows)
					for i := range eta {
						eta[i] -= k.shift
					}
					w := k.w[row : row+pieceRows]
					gram.Exp(w, eta)
					for i := k.rows; i < row+pieceRows; i++ {
						w[gram.Turn(i)-row] = 0
					}
					if k.moves == nil {
						block.Add(z, w, w, k.columns.ahead(row+pieceRows))
					}
					n := 0
					for g, m := range k.dead[row/pieceRows] {
						for ; m != 0; m &= m - 1 {
							eta[n] = eta[g*gram.Lanes+bits.TrailingZeros8(m)] // places rise: n is not behind
							n++
						}
					}
					died.add(gram.Sum(eta[:n]))
				}
				if k.moves == nil {
					sums := k.bases[from/blockRows*width:][:width]
					block.Sums(sums)
					sums[k.p] = gram.Sum(k.w[from:end])
				}
			}
		}
	})
	for _, d := range died {
		fit.join(d)
	}
	if k.moves != nil {
		return
	}
	sum := newSums(width)
	for b := 0; b < len(k.times)*pieceRows; b += blockRows {
		base := k.bases[b/blockRows*width:][:width]
		before := make([]float64, width)
		for a := range before {
			before[a] = sum.total(a).value()
		}
		sum.add(base)
		copy(base, before)
	}
}

// row reads one row as Standard does.
func (k *walk) row(row int, visit func(a int, v float64)) {
	at := k.columns.raw[gram.At(row, 0, k.p):]
	for a, c := range k.centre {
		visit(a, float64((at[a*gram.Lanes]-c)*k.std.Inverse[a]))
	}
}

// inStretches runs the visitor of every processor over stretches of n rows.
func (k *walk) inStretches(n int, visitor func() func(from, to int)) {
	inTasks((n+stretchRows-1)/stretchRows, func() func(int) {
		visit := visitor()
		return func(s int) { visit(s*stretchRows, min((s+1)*stretchRows, n)) }
	})
}

// risks finds the summed weight at risk at every time, and adds its part of the
// log partial likelihood.
func (k *walk) risks(fit *total) {
	times := int(k.before[len(k.times)])
	k.rate = k.use(roomRate, times+pieceRows)
	clear(k.rate[times:])
	k.hazard = k.rate
	if len(k.ties) > 0 {
		k.hazard, k.means, k.tie = k.use(roomHazard, times+pieceRows), k.use(roomMeans, times+pieceRows), make([]tieSums, len(k.ties))
		clear(k.hazard[times:])
	}
	if k.moves != nil {
		k.lateRisks(fit)
		return
	}
	logs := make([]total, (k.n+stretchRows-1)/stretchRows)
	k.inStretches(k.n, func() func(from, to int) {
		out, ones := make([]float64, pieceRows), make([]float64, pieceRows)
		for i := range ones {
			ones[i] = 1
		}
		return func(from, to int) {
			var scan gram.Scan
			var carry [1]float64
			scan.Carry = carry[:]
			log := newLogProduct()
			ties := k.tiesFrom(from)
			for row := from; row < to; row += pieceRows {
				if row%blockRows == 0 {
					carry[0] = k.bases[row/blockRows*(k.p+1)+k.p]
				}
				piece := row / pieceRows
				first, end := int(k.before[piece]), int(k.before[piece+1])
				scan.Step(out, k.w[row:row+pieceRows], ones, ones, &k.times[piece])
				ties = k.atTimes(first, out[:end-first], ties, &log)
			}
			logs[from/stretchRows] = log.sum()
		}
	})
	for _, s := range logs {
		fit.add(-s.hi)
		fit.add(-s.lo)
	}
}

// atTimes takes the times from one on, at which the risk sets weigh so much, and goes on
// through the tied ones.
func (k *walk) atTimes(first int, risk []float64, ties int, log *logProduct) int {
	rate := k.rate[first:][:len(risk)]
	for i, s := range risk {
		rate[i] = 1 / s
	}
	log.multiplyAll(risk)
	if k.means == nil {
		return ties
	}
	end := first + len(risk)
	copy(k.hazard[first:end], k.rate[first:])
	for i := first; i < end; i++ {
		k.means[i] = 1
	}
	for ; ties < len(k.ties) && int(k.ties[ties].time) < end; ties++ {
		k.settle(ties, risk[int(k.ties[ties].time)-first], log)
	}
	return ties
}

// tiesFrom is the first tied time in the piece of a move or behind it.
func (k *walk) tiesFrom(move int) int {
	first := k.before[move/pieceRows]
	return sort.Search(len(k.ties), func(i int) bool { return k.ties[i].time >= first })
}

// settle takes the deaths of one time at which the risk set weighs s; one is counted.
func (k *walk) settle(number int, s float64, log *logProduct) {
	t := &k.ties[number]
	if t.to == t.from { // Breslow
		k.hazard[t.time], k.means[t.time] = breslow(s, int(t.deaths), k.rate[t.time], log)
		return
	}
	tied := 0.0
	for _, r := range k.tied[t.from:t.to] {
		tied += k.w[r.row]
	}
	k.hazard[t.time], k.means[t.time], k.tie[number] = efron(s, tied, int(t.deaths), k.rate[t.time], log)
}

// breslow is what the deaths of one time say, at which the risk set weighs s and rate is 1/s:
// their hazard, and the weight of the mean's products. One death is counted already.
func breslow(s float64, deaths int, rate float64, log *logProduct) (hazard, mean float64) {
	for range deaths - 1 {
		log.multiply(s)
	}
	return float64(float64(deaths) * rate), float64(deaths)
}

// efron is the same where those who die, who weigh tied, leave the risk set one after the other.
func efron(s, tied float64, deaths int, rate float64, log *logProduct) (hazard, mean float64, t tieSums) {
	hazard, less, a, b, c := rate, 0.0, 1.0, 0.0, 0.0 // of the first, at which nobody has left
	for m := 1; m < deaths; m++ {
		share := float64(m) / float64(deaths)
		risk := s - float64(share*tied)
		log.multiply(risk)
		v := 1 / risk
		hazard += v
		less += float64(share * v)
		u := float64(s * v)
		u = float64(u * u)
		a += u
		b += float64(share * u)
		c += float64(float64(share*share) * u)
	}
	kappa := b / a
	return hazard, a, tieSums{less: less, kappa: kappa, rest: c - float64(kappa*b)}
}

// expose finds the hazard that rows met.
func (k *walk) expose() {
	if k.moves != nil {
		k.lateExposures()
		return
	}
	k.after = k.use(roomAfter, len(k.times))
	var sum total
	for piece := len(k.times) - 1; piece >= 0; piece-- {
		k.after[piece] = sum.value()
		sum.add(gram.Sum(k.hazard[k.before[piece]:k.before[piece+1]]))
	}
}

// products adds score and information.
func (k *walk) products(l *localFit) {
	triangle := packedLen(k.p)
	sum := newSums(triangle + k.p)
	for i, t := range l.information {
		sum.hi[i], sum.lo[i] = t.hi, t.lo
	}
	for i, t := range l.score {
		sum.hi[triangle+i], sum.lo[triangle+i] = t.hi, t.lo
	}
	inStretches(k.n, triangle+k.p, sum, func() func(stretch, from, to int, blocks []float64) {
		block := gram.NewBlock(k.p, true, true)
		z, e, r := make([]float64, k.p*pieceRows), make([]float64, pieceRows), make([]float64, pieceRows)
		means := k.newMeans()
		return func(_, from, to int, blocks []float64) {
			tied := sort.Search(len(k.tied), func(i int) bool { return int(k.tied[i].row)/pieceRows >= from/pieceRows })
			if k.moves == nil {
				means.begin(from)
			}
			for from < to {
				block.Reset()
				if k.moves == nil {
					means.block(from)
				}
				for end := min(from+blockRows, to); from < end; from += pieceRows {
					k.std.Values(z, k.columns.from(from), pieceRows)
					tied = k.residuals(e, r, from, tied)
					block.Add(z, e, r, k.columns.ahead(from+pieceRows))
					if k.moves == nil {
						means.piece(z, from)
					}
				}
				block.Sums(blocks)
				if k.moves == nil {
					means.takeOff(blocks)
				}
				blocks = blocks[triangle+k.p:]
			}
		}
	})
	if k.moves != nil {
		k.lateMeans(sums{sum.hi[:triangle], sum.lo[:triangle]})
	}
	for i := range l.information {
		l.information[i] = sum.total(i)
	}
	for i := range l.score {
		l.score[i] = sum.total(triangle + i)
	}
}

// residuals writes what a piece of rows was exposed to, and its martingale residuals,
// and goes on through the tied rows.
func (k *walk) residuals(e, r []float64, from, tied int) int {
	piece := from / pieceRows
	dead, w := &k.dead[piece], k.w[from:from+pieceRows]
	if k.moves == nil {
		gram.Expose(e, r, w, k.hazard[k.before[piece]:], &k.times[piece], dead, k.after[piece])
	} else {
		for i, v := range k.exposed[from : from+pieceRows] {
			e[i] = v
			if r[i] = -v; dead[i/gram.Lanes]>>(i%gram.Lanes)&1 == 1 {
				r[i] = 1 - v
			}
		}
	}
	for ; tied < len(k.tied) && int(k.tied[tied].row) < from+pieceRows; tied++ {
		t := k.tied[tied]
		i := int(t.row) - from
		e[i] -= float64(w[i] * k.tie[t.tie].less)
		r[i] = 1 - e[i]
	}
	return tied
}

// meanProducts sums the products of means over risk sets.
type meanProducts struct {
	*walk
	products     *gram.Block
	scan         gram.Scan
	ties         int
	last         int // the number of the first time behind the block
	out, z, sums []float64
	ones, rest   []float64
	own          []float64 // a row
}

func (k *walk) newMeans() *meanProducts {
	m := &meanProducts{walk: k, products: gram.NewBlock(k.p, true, false), scan: gram.Scan{Carry: make([]float64, k.p)},
		out: make([]float64, k.p*pieceRows), sums: make([]float64, packedLen(k.p)), ones: make([]float64, pieceRows)}
	for i := range m.ones {
		m.ones[i] = 1
	}
	if len(k.tied) > 0 {
		m.z, m.rest, m.own = make([]float64, k.p*pieceRows), make([]float64, pieceRows), make([]float64, k.p)
	}
	return m
}

func (m *meanProducts) begin(move int) { m.ties = m.tiesFrom(move) }

// block begins one.
func (m *meanProducts) block(move int) {
	m.products.Reset()
	copy(m.scan.Carry, m.bases[move/blockRows*(m.p+1):])
	m.last = int(m.before[min((move+blockRows)/pieceRows, len(m.times))])
}

// piece takes the moves of one.
func (m *meanProducts) piece(z []float64, move int) {
	piece := move / pieceRows
	first, end := int(m.before[piece]), int(m.before[piece+1])
	if first == m.last {
		return // nobody dies behind it in this block
	}
	m.scan.Step(m.out, z, m.w[move:move+pieceRows], m.rate[first:], &m.times[piece])
	m.add(m.out, first, end)
}

// add adds the products of times from one to another, whose risk sets' sums, times their
// rates, are the rows of out.
func (m *meanProducts) add(out []float64, first, end int) {
	weights := m.ones[:end-first]
	if m.means != nil {
		weights = m.means[first:end]
	}
	rest := 0
	for ; m.ties < len(m.walk.ties) && int(m.walk.ties[m.ties].time) < end; m.ties++ {
		t := &m.walk.ties[m.ties]
		if t.from == t.to {
			continue
		}
		clear(m.own)
		for _, r := range m.tied[t.from:t.to] {
			w := m.w[r.row]
			m.row(int(r.row), func(a int, v float64) { m.own[a] += float64(w * v) })
		}
		s := &m.tie[m.ties]
		for a, v := range m.own {
			v = float64(v * m.rate[t.time])
			out[a*pieceRows+int(t.time)-first] -= float64(s.kappa * v)
			m.z[a*pieceRows+rest] = v
		}
		m.rest[rest] = s.rest
		rest++
	}
	m.products.Add(out, weights, nil, nil)
	m.products.Add(m.z, m.rest[:rest], nil, nil)
}

// takeOff subtracts the block's products.
func (m *meanProducts) takeOff(from []float64) {
	m.products.Sums(m.sums)
	for i, v := range m.sums {
		from[i] -= v
	}
}

// logProduct is the logarithm of a product: of the product of the factors' mantissas,
// and of the sum of their exponents.
type logProduct struct {
	mantissa [4]float64
	exponent int64
	factors  int
	done     total
}

func newLogProduct() logProduct { return logProduct{mantissa: [4]float64{1, 1, 1, 1}} }

func (p *logProduct) multiply(v float64) {
	one := [1]float64{v}
	p.multiplyAll(one[:])
}

func (p *logProduct) multiplyAll(vs []float64) {
	const one, mantissa = 1023 << 52, 1<<52 - 1
	m, exponent := p.mantissa, p.exponent
	for _, v := range vs {
		b := math.Float64bits(v)
		e := int64(b >> 52)
		if e == 0 || e >= 2047 { // no normal number above 0
			p.done.add(det.Log(v))
			continue
		}
		exponent += e - 1023
		// The next of the four in turn: their chains of products run side by side.
		m[0], m[1], m[2], m[3] = m[1], m[2], m[3], float64(m[0]*math.Float64frombits(b&mantissa|one))
		if p.factors++; p.factors == 800 { // the product of all is below 2^800
			p.mantissa, p.exponent = m, exponent
			p.flush()
			m, exponent = p.mantissa, 0
		}
	}
	p.mantissa, p.exponent = m, exponent
}

func (p *logProduct) flush() {
	m := &p.mantissa
	p.done.add(det.Log(float64(float64(m[0]*m[1]) * float64(m[2]*m[3]))))
	// Log 2 in two parts (fdlibm). The first has 32 bits, and the exponent of 800 factors 20: exact.
	p.done.add(float64(float64(p.exponent) * 6.93147180369123816490e-01))
	p.done.add(float64(float64(p.exponent) * 1.90821492927058770002e-10))
	*m, p.exponent, p.factors = [4]float64{1, 1, 1, 1}, 0, 0
}

func (p *logProduct) sum() total {
	p.flush()
	return p.done
}
