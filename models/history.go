package models

import (
	"math"
	"runtime"
	"slices"
	"sort"
	"sync"

	"consilium/internal/gram"
)

// Where nothing but likelihood, score and information is wanted, the sums over
// risk sets are turned round: a row adds its products once, weighted by the
// hazard it was exposed to, Σ_t S2(t)/S0(t) = Σ_i w_i z_i z_i' Λ_i, and the
// means' products come off at the end. What does not change from step to step,
// the order of the rows and who dies when, is found once.

// history is one risk-set history, its rows by falling stop time.
type history struct {
	columns *columns
	// moves are the rows in the order in which they enter the risk set and leave it
	// (^row), as far as a death follows; nil: they enter as they stand, and stay.
	moves  []int32
	nMoves int
	// Times with deaths, falling. Deaths are numbered in the order they are met.
	first []int32 // of each time's deaths, and their number at the end
	after []int32 // the last move before the deaths of a time
	dead  []int32 // the row of each death
	own   []int32 // its move
	share []float64
	// after and own within their chunks of moves
	afterIn, ownIn []uint8
	until          []int32 // of each row: the first time that is not after its stop
	since          []int32 // of each row: how many of the earliest times are not after its start; nil: none

	// The columns' means, in the coordinates of one fit.
	mean, scale, centre []float64

	room [roomLen][]float64 // for what a step needs by row or by death
}

const (
	roomEta = iota
	roomWeight
	roomExposed
	roomRisk
	roomLog
	roomHazard
	roomTied
	roomSigned
	roomLen
)

// use returns room for n values, which hold anything.
func (h *history) use(which, n int) []float64 {
	if cap(h.room[which]) < n {
		h.room[which] = make([]float64, n)
	}
	return h.room[which][:n]
}

// newHistory lays out one stratum.
func (c *coxSpec) newHistory(data *frame, columns []source, rows []int) *history {
	s := c.stratum(data, rows)
	n := len(s.rows)
	stop, event := pick(data.num[c.stop], s.rows), pick(data.num[c.event], s.rows)
	h := &history{columns: lay(columns, n, s.rows)}
	var start []float64
	var out []int32 // rows by falling start time
	if c.start != "" {
		start = pick(data.num[c.start], s.rows)
		at := make([]int32, data.n)
		for r, i := range s.rows {
			at[i] = int32(r)
		}
		out = make([]int32, n)
		for k, i := range s.starts {
			out[k] = at[i]
		}
	}
	var times []float64
	in, gone := 0, 0
	for from := 0; from < n; {
		to, deaths := from, 0
		for ; to < n && stop[to] == stop[from]; to++ {
			if event[to] == 1 {
				deaths++
			}
		}
		t := stop[from]
		if deaths == 0 {
			from = to
			continue
		}
		h.first = append(h.first, int32(len(h.dead)))
		for ; in < to; in++ {
			if event[in] == 1 && in >= from {
				h.dead = append(h.dead, int32(in))
				h.own = append(h.own, int32(h.nMoves))
			}
			h.move(start != nil, int32(in))
		}
		for ; gone < len(out) && start[out[gone]] >= t; gone++ {
			h.move(true, ^out[gone])
		}
		h.after = append(h.after, int32(h.nMoves-1))
		for m := range deaths {
			share := 0.0
			if c.efron {
				share = float64(m) / float64(deaths)
			}
			h.share = append(h.share, share)
		}
		times = append(times, t)
		from = to
	}
	h.first = append(h.first, int32(len(h.dead)))
	within := func(moves []int32) []uint8 {
		in := make([]uint8, len(moves))
		for k, m := range moves {
			in[k] = uint8(m % gram.ChunkRows)
		}
		return in
	}
	h.afterIn, h.ownIn = within(h.after), within(h.own)
	h.until = make([]int32, n)
	at := 0
	for r, t := range stop { // rows fall in time, as the times do
		for at < len(times) && times[at] > t {
			at++
		}
		h.until[r] = int32(at)
	}
	if start != nil {
		h.since = make([]int32, n)
		for r, t := range start {
			h.since[r] = int32(len(times) - sort.Search(len(times), func(k int) bool { return times[k] <= t }))
		}
	}
	return h
}

func (h *history) move(listed bool, m int32) {
	if listed {
		h.moves = append(h.moves, m)
	}
	h.nMoves++
}

// centres are the columns' means over the rows. Score and information do not
// change when a covariate moves by a constant; near its centre the second
// moments keep their digits.
func (h *history) centres(f *fit) []float64 {
	if slices.Equal(h.mean, f.mean) && slices.Equal(h.scale, f.scale) && h.centre != nil {
		return h.centre
	}
	c := h.columns
	out := make([]float64, c.p)
	std := standard(f, nil, nil)
	groups := (c.p + 3) / 4
	workers := min(runtime.GOMAXPROCS(0), groups)
	inColumns(workers, func(worker int) {
		// Four columns side by side, each in the order of the rows, and all of this
		// processor's while a block of rows is in the cache.
		type four struct{ centre, inverse, sum [4]float64 }
		mine := make([]four, groups)
		for k := worker; k < groups; k += workers {
			copy(mine[k].centre[:], std.Centre[4*k:])
			copy(mine[k].inverse[:], std.Inverse[4*k:])
		}
		for from := 0; from < c.n; from += blockRows {
			to := min(from+blockRows, c.n)
			for k := worker; k < groups; k += workers {
				f := mine[k]
				for i := from; i < to; i++ {
					v := c.raw[gram.At(i, 4*k, c.width):]
					_ = v[3*gram.Lanes]
					f.sum[0] += float64((v[0] - f.centre[0]) * f.inverse[0])
					f.sum[1] += float64((v[gram.Lanes] - f.centre[1]) * f.inverse[1])
					f.sum[2] += float64((v[2*gram.Lanes] - f.centre[2]) * f.inverse[2])
					f.sum[3] += float64((v[3*gram.Lanes] - f.centre[3]) * f.inverse[3])
				}
				mine[k].sum = f.sum
			}
		}
		for k := worker; k < groups; k += workers {
			for l := 0; l < 4 && 4*k+l < c.p; l++ {
				out[4*k+l] = mine[k].sum[l] / float64(c.n)
			}
		}
	})
	h.mean, h.scale, h.centre = slices.Clone(f.mean), slices.Clone(f.scale), out
	return out
}

// coxStep is a hospital's Newton step.
func (g *regression) coxStep(p *prepared, f *fit) *localFit {
	l := g.newLocal(coxFitLen)
	for _, h := range p.histories {
		h.step(l, f)
	}
	return l
}

// step adds one history's likelihood, score and information.
func (h *history) step(l *localFit, f *fit) {
	c := h.columns
	n := c.n
	std := standard(f, f.theta, nil)
	eta, w := h.use(roomEta, up(n)), h.use(roomWeight, up(n))
	shift := math.Inf(-1)
	var mu sync.Mutex
	inParallel(n, func(from, to int) {
		clear(eta[from:up(to)])
		std.Linear(eta[from:up(to)], c.from(from), c.width)
		most := math.Inf(-1)
		for _, v := range eta[from:to] {
			if v > most {
				most = v
			}
		}
		mu.Lock()
		shift = math.Max(shift, most)
		mu.Unlock()
	})
	inParallel(n, func(from, to int) {
		for r := from; r < to; r++ {
			eta[r] -= shift
		}
		gram.Exp(w[from:to], eta[from:to])
	})
	eta, w = eta[:n], w[:n]
	risk := h.risks(w)
	if len(risk) == 0 {
		return
	}
	exposed := h.use(roomExposed, n)
	h.exposures(exposed, w, risk)
	std.Mean = h.centres(f)
	h.products(l, std, eta, w, exposed, risk)
}

// risks returns the summed weights at risk at every death, less the share of its
// ties that has left (Efron).
func (h *history) risks(w []float64) []float64 {
	out := h.use(roomRisk, len(h.dead))
	var s0 total
	m := 0
	for k, last := range h.after {
		if h.moves == nil {
			for ; m <= int(last); m++ {
				s0.add(w[m])
			}
		} else {
			for ; m <= int(last); m++ {
				if r := h.moves[m]; r >= 0 {
					s0.add(w[r])
				} else {
					s0.add(-w[^r])
				}
			}
		}
		from, to := h.first[k], h.first[k+1]
		d0 := 0.0
		for _, r := range h.dead[from:to] {
			d0 += w[r]
		}
		s := s0.value()
		for d := from; d < to; d++ {
			out[d] = s - float64(h.share[d]*d0)
		}
	}
	return out
}

// likelihood adds the log partial likelihood.
func (h *history) likelihood(fit *total, eta, risk []float64) {
	logs := h.use(roomLog, len(risk))
	inParallel(len(risk), func(from, to int) { gram.Log(logs[from:to], risk[from:to]) })
	for k := range h.after {
		from, to := h.first[k], h.first[k+1]
		for _, r := range h.dead[from:to] {
			fit.add(eta[r])
		}
		for _, v := range logs[from:to] {
			fit.add(-v)
		}
	}
}

// exposures writes every row's weight times the hazard that it met.
func (h *history) exposures(out, w, risk []float64) {
	n := len(h.after)
	// The hazard at a time for a row at risk, and how much less (Efron) for one
	// that dies then.
	at, tied := h.use(roomLog, n), h.use(roomTied, n)
	inParallel(n, func(from, to int) {
		for k := from; k < to; k++ {
			all, own := 0.0, 0.0
			for d := h.first[k]; d < h.first[k+1]; d++ {
				v := 1 / risk[d]
				all += v
				if h.share[d] != 0 {
					v = (1 - h.share[d]) / risk[d]
				}
				own += v
			}
			at[k], tied[k] = all, own-all
		}
	})
	hazard := h.use(roomHazard, n+1) // over the last k times, that is the earliest
	hazard[0] = 0
	var sum total
	for k := 1; k <= n; k++ {
		sum.add(at[n-k])
		hazard[k] = sum.value()
	}
	met := func(r int) float64 {
		v := hazard[n-int(h.until[r])]
		if h.since != nil {
			v -= hazard[h.since[r]]
		}
		return v
	}
	inParallel(len(out), func(from, to int) {
		for r := from; r < to; r++ {
			out[r] = float64(w[r] * met(r))
		}
	})
	for k, less := range tied {
		if less != 0 {
			for _, r := range h.dead[h.first[k]:h.first[k+1]] {
				out[r] = float64(w[r] * (met(int(r)) + less))
			}
		}
	}
}

// waveDeaths is how many deaths' means are held at a time.
const waveDeaths = 8 * blockRows

// products adds likelihood, score and information. The rows are gone through in
// waves that stay in the cache: their own products, weighted by the hazard that
// they met, and the walks over the risk sets, four columns at a time, which leave
// the means at every death. The products of one wave's means are summed while the next
// is walked, and come off at the end.
func (h *history) products(l *localFit, std *gram.Standard, eta, w, exposed, risk []float64) {
	c := h.columns
	moved := w
	if h.moves != nil {
		moved = h.use(roomSigned, h.nMoves)
		inParallel(h.nMoves, func(from, to int) {
			for m := from; m < to; m++ {
				if r := h.moves[m]; r >= 0 {
					moved[m] = w[r]
				} else {
					moved[m] = -w[^r]
				}
			}
		})
	}
	walkers := make([]*walker, c.width/4)
	for k := range walkers {
		walkers[k] = newWalker(h, 4*k, std, moved, risk, l.score)
	}
	width, deaths := packedLen(c.p), len(risk)
	information := newSums(width)
	for i, t := range l.information {
		information.hi[i], information.lo[i] = t.hi, t.lo
	}
	minus := make([]float64, pieceRows)
	for i := range minus {
		minus[i] = -1
	}
	var panels [2][]float64
	for k := range panels {
		panels[k] = make([]float64, gram.Lead+gram.Len(min(waveDeaths, deaths), c.width))
	}
	means := make([]float64, (deaths+blockRows-1)/blockRows*width) // sums of all their blocks
	var own []float64                                              // sums of a wave's blocks of rows
	done := 0                                                      // blocks of rows
	all := (c.n + blockRows - 1) / blockRows
	waves := (deaths + waveDeaths - 1) / waveDeaths
	for wave := range waves + 1 {
		from, to := min(wave*waveDeaths, deaths), min((wave+1)*waveDeaths, deaths)
		// The rows of the next wave are gone through in this one, so that the walkers,
		// which read a part of every line, find them in the cache.
		walks, until := 0, all
		if wave < waves {
			walks = len(walkers)
			if next := min(to+waveDeaths, deaths); h.moves == nil && next < deaths {
				time := sort.Search(len(h.after), func(k int) bool { return int(h.first[k+1]) >= next })
				until = min(all, int(h.after[time])/blockRows+1)
			} else {
				until = min(all, (wave+2)*((all+waves-1)/waves))
			}
		}
		rows := max(until-done, 0)
		if len(own) < rows*width {
			own = make([]float64, rows*width)
		}
		before, blocks := 0, 0 // deaths of the wave before
		if wave > 0 {
			before = from - (wave-1)*waveDeaths
			blocks = (before + blockRows - 1) / blockRows
		}
		old := panels[(wave+1)%2]
		likelihood := 0
		if wave == 0 {
			likelihood = 1
		}
		inTasks(likelihood+walks+rows+blocks, func() func(int) {
			block := gram.NewBlock(c.p, false)
			z := make([]float64, gram.Lead+gram.Len(pieceRows, c.width))
			return func(task int) {
				if task < likelihood {
					h.likelihood(&l.fit[0], eta, risk)
					return
				}
				if task -= likelihood; task < walks {
					walkers[task].walk(to, panels[wave%2][gram.Lead:])
					return
				}
				block.Reset()
				if task -= walks; task < rows {
					b := done + task
					for from, end := b*blockRows, min((b+1)*blockRows, c.n); from < end; from += pieceRows {
						k := min(pieceRows, end-from)
						std.Values(z[gram.Lead:], c.from(from), k, c.width, c.width, 0)
						block.Add(z, exposed[from:from+k], nil, c.ahead(from+k))
					}
					block.Sums(own[task*width : (task+1)*width])
					return
				}
				task -= rows
				for r, end := task*blockRows, min((task+1)*blockRows, before); r < end; r += pieceRows {
					block.Add(old[r*c.width:], minus[:min(pieceRows, end-r)], nil, nil)
				}
				b := (wave-1)*waveDeaths/blockRows + task
				block.Sums(means[b*width : (b+1)*width])
			}
		})
		for b := range rows {
			information.add(own[b*width : (b+1)*width])
		}
		done += rows
	}
	for ; len(means) > 0; means = means[width:] {
		information.add(means[:width])
	}
	for i := range l.information {
		l.information[i] = information.total(i)
	}
	for _, w := range walkers {
		w.end(l.score)
	}
}

// walker carries four columns' sums over the risk set from move to move.
type walker struct {
	h          *history
	column     int
	std        *gram.Standard
	set        gram.RiskSet
	w, risk    []float64
	from, to   int // the chunk of moves in memory
	rows, sums gram.Chunk
	panel      gram.Chunk
	means      []float64
	time       int // the next one
	death      int // the next one
	fallen     int // deaths that were added to the tied rows
}

func newWalker(h *history, column int, std *gram.Standard, w, risk []float64, score []total) *walker {
	four := func(v []float64) []float64 {
		out := make([]float64, 4)
		copy(out, v[min(column, len(v)):])
		return out
	}
	k := &walker{h: h, column: column, w: w, risk: risk,
		std:   &gram.Standard{Centre: four(std.Centre), Inverse: four(std.Inverse), Mean: four(std.Mean)},
		means: make([]float64, 4*min(waveDeaths, up(len(risk))))}
	var hi, lo [4]float64
	for l := 0; l < 4 && column+l < len(score); l++ {
		hi[l], lo[l] = score[column+l].hi, score[column+l].lo
	}
	k.set.Begin(hi, lo)
	return k
}

func (k *walker) end(score []total) {
	hi, lo := k.set.Score()
	for l := 0; l < 4 && k.column+l < len(score); l++ {
		score[k.column+l] = total{hi[l], lo[l]}
	}
}

// load brings the next chunk of moves in and moves its rows.
func (k *walker) load() {
	h, c := k.h, k.h.columns
	k.from, k.to = k.to, min(k.to+gram.ChunkRows, h.nMoves)
	n := k.to - k.from
	if h.moves == nil {
		k.std.Values(k.panel[:], c.from(k.from)[gram.Lanes*k.column:], n, c.width, 4, 0)
		gram.Transpose(k.rows[:], k.panel[:], up(n)/4, 16, 16)
		// The next chunk comes while this one is walked.
		if next := c.from(k.to); len(next) > 0 {
			gram.Fetch(next[gram.Lanes*k.column:], gram.ChunkRows/gram.Lanes, c.width)
		}
	} else {
		for m, r := range h.moves[k.from:k.to] {
			if r < 0 {
				r = ^r
			}
			v := c.raw[gram.At(int(r), k.column, c.width):]
			for l := range 4 {
				k.rows[4*m+l] = float64((v[l*gram.Lanes]-k.std.Centre[l])*k.std.Inverse[l]) - k.std.Mean[l]
			}
		}
	}
	k.set.Enter(&k.sums, &k.rows, k.w[k.from:k.to])
}

// walk goes on up to the given death and writes the means at the deaths on the
// way to its columns of the panel, from the panel's first row on.
func (k *walker) walk(until int, panel []float64) {
	h := k.h
	begin := k.death
	for k.death < until {
		first, end := int(h.first[k.time]), int(h.first[k.time+1])
		if int(h.after[k.time]) >= k.to {
			// The risk set is complete in a later chunk. Rows that die then and stand
			// in this one are taken now.
			to := k.fallen
			for to < end && int(h.own[to]) < k.to {
				to++
			}
			k.fall(to)
			k.load()
			continue
		}
		means := k.means[4*(k.death-begin):]
		if end-first == 1 && k.fallen == first {
			n := 1
			for k.death+n < until && int(h.after[k.time+n]) < k.to && h.first[k.time+n+1]-h.first[k.time+n] == 1 {
				n++
			}
			k.set.Single(means, &k.sums, &k.rows, h.afterIn[k.time:k.time+n], h.ownIn[first:first+n], k.risk[first:first+n])
			k.time, k.death, k.fallen = k.time+n, k.death+n, k.fallen+n
			continue
		}
		k.fall(end)
		to := min(until, end)
		k.set.Settle(means, k.sums[4*int(h.afterIn[k.time]):], k.risk[k.death:to], h.share[k.death:to])
		if k.death = to; to == end {
			k.set.Settled()
			k.time++
		}
	}
	gram.Transpose(panel[gram.Lanes*k.column:], k.means, up(k.death-begin)/4, 4*h.columns.width, 16)
}

// fall takes the rows of deaths, up to one, that die at the next time.
func (k *walker) fall(to int) {
	if k.fallen < to {
		k.set.Fall(&k.rows, k.w[k.from:k.to], k.h.ownIn[k.fallen:to])
		k.fallen = to
	}
}
