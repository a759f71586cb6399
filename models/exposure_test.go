package models

import (
	"math"
	"sort"

	"consilium/internal/det"
	"consilium/internal/gram"
)

// The definition of a Cox model's Newton step, in the open: what history.go must equal
// to the last bit. Rows are numbered in time here, by falling stop. They are summed in blocks of
// 1024, and a block's products as package gram defines them, of rows in the order in
// which they stand in their pieces; running sums are what stands before the block,
// with all errors kept, and gram's sums along the runs of its pieces. Where rows enter late
// they leave too, and running sums keep every error, row after row.

// exposure is one risk-set history.
type exposure struct {
	n        int
	z        [][]float64 // columns less their means
	eta, w   []float64
	death    []bool
	times    []eventTime // by falling time
	efron    bool
	moves    []int     // rows in the order they enter, ^row where they leave; nil: as they stand
	s0, rate []float64 // of each time: the weight at risk, and one over it
	met      []float64
}

// eventTime is a moment at which somebody dies.
type eventTime struct {
	after    int   // the last move before it
	dead     []int // rows
	at       float64
	h, less  float64
	weight   float64
	kappa, c float64
}

// standing puts what stands at rows, or moves, into the order of a turned panel.
func standing(v []float64) []float64 {
	out := make([]float64, whole(len(v)))
	for i, x := range v {
		out[gram.Turn(i)] = x
	}
	return out
}

// running are sums along v, in time; base is what is before each block.
func running(v, base []float64) []float64 {
	out := make([]float64, len(v))
	var carry float64
	for piece := 0; piece < len(v); piece += pieceRows {
		if piece%blockRows == 0 {
			carry = base[piece/blockRows]
		}
		const run = pieceRows / gram.Lanes
		var p [pieceRows]float64
		var r [gram.Lanes]float64
		for i := range pieceRows {
			if piece+i < len(v) {
				r[i/run] += v[piece+i]
			}
			p[i] = r[i/run]
		}
		h := (r[0] + r[1]) + (r[2] + r[3])
		o := [gram.Lanes]float64{0, r[0], r[0] + r[1], r[0] + (r[1] + r[2]), h, h + r[4], h + (r[4] + r[5]), h + (r[4] + (r[5] + r[6]))}
		for i := 0; i < pieceRows && piece+i < len(v); i++ {
			out[piece+i] = (carry + o[i/run]) + p[i]
		}
		carry += h + ((r[4] + r[5]) + (r[6] + r[7]))
	}
	return out
}

// bases are what is summed of v before each block.
func bases(v []float64) []float64 {
	v = standing(v)
	var out []float64
	var sum total
	for from := 0; from < len(v); from += blockRows {
		out = append(out, sum.value())
		sum.add(gram.Sum(v[from:min(from+blockRows, len(v))]))
	}
	return out
}

// coxExposure adds one stratum's likelihood, score and information. Columns come as they
// stand in the table.
func (g *regression) coxExposure(l *localFit, s *stratum, x [][]float64, f *fit, start, stop, event []float64) {
	n, p := len(s.rows), len(x)
	e := &exposure{n: n, efron: g.cox.efron, death: make([]bool, n), z: make([][]float64, p)}
	low, high := 0.0, 0.0 // of the linear predictor, by the columns' spans
	e.eta = make([]float64, n)
	for a := range x {
		v := pick(x[a], s.rows)
		var sum total
		turned := standing(v)
		for from := 0; from < len(turned); from += blockRows {
			sum.add(gram.Sum(turned[from:min(from+blockRows, len(turned))]))
		}
		centre, inverse, beta := sum.value()/float64(n), 1/f.scale[a], f.theta[a]
		e.z[a] = make([]float64, n)
		for i := range v {
			e.z[a][i] = float64((v[i] - centre) * inverse)
			e.eta[i] += float64(beta * e.z[a][i])
		}
		lo, hi := math.Inf(1), math.Inf(-1) // over all strata
		for _, v := range x[a] {
			lo, hi = math.Min(lo, v), math.Max(hi, v)
		}
		lo, hi = float64(beta*float64((lo-centre)*inverse)), float64(beta*float64((hi-centre)*inverse))
		low += math.Min(lo, hi)
		high += math.Max(lo, hi)
	}
	if !(low >= -farthest && high <= farthest) {
		most := math.Inf(-1)
		for _, v := range e.eta {
			most = math.Max(most, v)
		}
		for i := range e.eta {
			e.eta[i] -= most
		}
	}
	e.w = make([]float64, n)
	for i, v := range e.eta {
		e.w[i] = det.Exp(v)
		e.death[i] = event[s.rows[i]] == 1
	}
	e.find(s, start, stop)

	// The likelihood: the linear predictors of those who die, by their places.
	var died []total
	turned, place := standing(e.eta), make([]int, whole(n))
	for i := range place {
		place[gram.Turn(i)] = i
	}
	for from := 0; from < len(turned); from += pieceRows {
		var some []float64
		for i := from; i < from+pieceRows; i++ {
			if place[i] < n && e.death[place[i]] {
				some = append(some, turned[i])
			}
		}
		if from%stretchRows == 0 {
			died = append(died, total{})
		}
		died[len(died)-1].add(gram.Sum(some))
	}
	for _, t := range died {
		l.fit[0].join(t)
	}
	moves := n
	if e.moves != nil {
		moves = len(e.moves)
	}
	e.risks(&l.fit[0], moves)
	e.exposures(stop, start, s)

	residual := make([]float64, n)
	for i := range residual {
		if residual[i] = -e.met[i]; e.death[i] {
			residual[i] = 1 - e.met[i]
		}
	}
	own := append(append([]total(nil), l.information...), l.score...)
	met, res := standing(e.met), standing(residual)
	z := make([][]float64, p)
	for a := range z {
		z[a] = standing(e.z[a])
	}
	means := e.meanProducts(moves)
	for b := 0; b*blockRows < len(met); b++ {
		sums := blockSums(z, met, res, b*blockRows, min((b+1)*blockRows, len(met)))
		if e.moves == nil {
			for i := range means[b] {
				sums[i] -= means[b][i]
			}
		}
		for i, v := range sums {
			own[i].add(v)
		}
	}
	if e.moves != nil {
		for _, m := range means {
			for i, v := range m {
				own[i].add(0 - v)
			}
		}
	}
	copy(l.information, own)
	copy(l.score, own[packedLen(p):])
}

// blockSums are the sums of a block as gram defines them.
func blockSums(z [][]float64, w, r []float64, from, to int) (out []float64) {
	for a := range z {
		for c := 0; c <= a; c++ {
			v := make([]float64, to-from)
			for i := range v {
				v[i] = float64(float64(w[from+i]*z[a][from+i]) * z[c][from+i])
			}
			out = append(out, gram.Sum(v))
		}
	}
	for a := 0; a < len(z) && r != nil; a++ {
		v := make([]float64, to-from)
		for i := range v {
			v[i] = float64(r[from+i] * z[a][from+i])
		}
		out = append(out, gram.Sum(v))
	}
	return out
}

// find lists the times of deaths and, where rows enter late, the moves up to the last.
func (e *exposure) find(s *stratum, start, stop []float64) {
	at := map[int]int{}
	for r, i := range s.rows {
		at[i] = r
	}
	in, out := 0, 0
	for from := 0; from < e.n; {
		t := eventTime{at: stop[s.rows[from]]}
		to := from
		for ; to < e.n && stop[s.rows[to]] == t.at; to++ {
			if e.death[to] {
				t.dead = append(t.dead, to)
			}
		}
		if from = to; t.dead == nil {
			continue
		}
		if t.after = to - 1; start != nil {
			for ; in < to; in++ {
				e.moves = append(e.moves, in)
			}
			for ; out < len(s.starts) && start[s.starts[out]] >= t.at; out++ {
				e.moves = append(e.moves, ^at[s.starts[out]])
			}
			t.after = len(e.moves) - 1
		}
		e.times = append(e.times, t)
	}
	if start != nil && e.moves == nil {
		e.moves = []int{}
	}
}

// along are the sums over the risk set, after each move, of what rows weigh times v.
func (e *exposure) along(v []float64) []float64 {
	if e.moves == nil {
		x := make([]float64, e.n)
		for i := range x {
			x[i] = float64(e.w[i] * v[i])
		}
		return running(x, bases(x))
	}
	out := make([]float64, len(e.moves))
	var sum total
	for m, i := range e.moves {
		if i < 0 {
			sum.add(-float64(e.w[^i] * v[^i]))
		} else {
			sum.add(float64(e.w[i] * v[i]))
		}
		out[m] = sum.value()
	}
	return out
}

// byPlace are the times in the order in which the moves before them stand, by pieces.
func (e *exposure) byPlace(moves int) [][]int {
	out := make([][]int, whole(moves)/pieceRows)
	for k, t := range e.times {
		at := gram.Turn(t.after)
		out[at/pieceRows] = append(out[at/pieceRows], k)
	}
	for _, ks := range out {
		sort.Slice(ks, func(a, b int) bool { return gram.Turn(e.times[ks[a]].after) < gram.Turn(e.times[ks[b]].after) })
	}
	return out
}

// risks finds what each time says, and adds the likelihood.
func (e *exposure) risks(fit *total, moves int) {
	one := make([]float64, e.n)
	for i := range one {
		one[i] = 1
	}
	s0 := e.along(one)
	e.s0, e.rate = make([]float64, len(e.times)), make([]float64, len(e.times))
	var logs []logProduct
	for piece, ks := range e.byPlace(moves) {
		if len(logs) == 0 || piece*pieceRows%stretchRows == 0 && e.moves == nil {
			logs = append(logs, newLogProduct())
		}
		log := &logs[len(logs)-1]
		for _, k := range ks {
			e.s0[k] = s0[e.times[k].after]
			e.rate[k] = 1 / e.s0[k]
			log.multiply(e.s0[k])
		}
		for _, k := range ks {
			t := &e.times[k]
			d := float64(len(t.dead))
			t.h, t.weight = e.rate[k], 1
			if len(t.dead) == 1 {
				continue
			}
			left := 0.0
			for _, i := range t.dead {
				left += e.w[i]
			}
			if !e.efron {
				t.h, t.weight = float64(d*e.rate[k]), d
				left = 0
			}
			b, c := 0.0, 0.0
			for m := 1.0; m < d; m++ {
				share := 0.0
				if e.efron {
					share = m / d
				}
				r := e.s0[k] - float64(share*left)
				log.multiply(r)
				if !e.efron {
					continue
				}
				v := 1 / r
				u := float64(e.s0[k] * v)
				u = float64(u * u)
				t.h += v
				t.less += float64(share * v)
				t.weight += u
				b += float64(share * u)
				c += float64(float64(share*share) * u)
			}
			if e.efron {
				t.kappa = b / t.weight
				t.c = c - float64(t.kappa*b)
			}
		}
	}
	for _, log := range logs {
		s := log.sum()
		fit.add(-s.hi)
		fit.add(-s.lo)
	}
}

// exposures finds what rows weigh times the hazard that they met.
func (e *exposure) exposures(stop, start []float64, s *stratum) {
	e.met = make([]float64, e.n)
	n := len(e.times) // by falling time
	if e.moves != nil {
		hazard := make([]float64, n+1) // over the last k times
		var sum total
		for k := 1; k <= n; k++ {
			sum.add(e.times[n-k].h)
			hazard[k] = sum.value()
		}
		upTo := func(t float64) int { return n - sort.Search(n, func(k int) bool { return e.times[k].at <= t }) }
		for i := range e.met {
			e.met[i] = float64(e.w[i] * (hazard[upTo(stop[s.rows[i]])] - hazard[upTo(start[s.rows[i]])]))
		}
	} else {
		// Backwards: pieces from the last to the first, and within them as running does.
		h := make([]float64, whole(e.n))
		for _, t := range e.times {
			h[t.after] = t.h
		}
		var sum total
		pieces := e.byPlace(e.n)
		for piece := len(pieces) - 1; piece >= 0; piece-- {
			after := sum.value()
			var parts []float64
			for _, k := range pieces[piece] {
				parts = append(parts, e.times[k].h)
			}
			sum.add(gram.Sum(parts))
			const run = pieceRows / gram.Lanes
			var p [pieceRows]float64
			var r [gram.Lanes]float64
			for i := pieceRows - 1; i >= 0; i-- {
				r[i/run] += h[piece*pieceRows+i]
				p[i] = r[i/run]
			}
			high := (r[7] + r[6]) + (r[5] + r[4])
			o := [gram.Lanes]float64{(r[3] + (r[2] + r[1])) + high, (r[3] + r[2]) + high, r[3] + high, high, r[7] + (r[6] + r[5]), r[7] + r[6], r[7], 0}
			for i := range p {
				if at := piece*pieceRows + i; at < e.n {
					e.met[at] = float64(e.w[at] * ((o[i/run] + after) + p[i]))
				}
			}
		}
	}
	for _, t := range e.times {
		if len(t.dead) > 1 && e.efron {
			for _, i := range t.dead {
				e.met[i] -= float64(e.w[i] * t.less)
			}
		}
	}
}

// meanProducts are the sums, for each block of moves, of the products of means: of each piece's
// times, in the order of their places, and then of the deaths tied at them. Each of the
// two begins with the first partial sum.
func (e *exposure) meanProducts(moves int) [][]float64 {
	p := len(e.z)
	s1 := make([][]float64, p)
	for a := range s1 {
		s1[a] = e.along(e.z[a])
	}
	pieces := e.byPlace(moves)
	var out [][]float64
	for piece := 0; piece < len(pieces); piece += blockRows / pieceRows {
		rows, weights := make([][]float64, p), []float64{}
		pad := func() { // to whole groups
			for len(weights)%gram.Lanes != 0 {
				weights = append(weights, 0)
				for a := range rows {
					rows[a] = append(rows[a], 0)
				}
			}
		}
		for _, ks := range pieces[piece:min(piece+blockRows/pieceRows, len(pieces))] {
			tied, rest := make([][]float64, p), []float64{}
			for _, k := range ks {
				t := &e.times[k]
				weights = append(weights, t.weight)
				efron := e.efron && len(t.dead) > 1
				for a := range rows {
					m := float64(s1[a][t.after] * e.rate[k])
					if efron {
						own := 0.0
						for _, i := range t.dead {
							own += float64(e.w[i] * e.z[a][i])
						}
						own = float64(own * e.rate[k])
						m -= float64(t.kappa * own)
						tied[a] = append(tied[a], own)
					}
					rows[a] = append(rows[a], m)
				}
				if efron {
					rest = append(rest, t.c)
				}
			}
			pad()
			for a := range rows {
				rows[a] = append(rows[a], tied[a]...)
			}
			weights = append(weights, rest...)
			pad()
		}
		out = append(out, blockSums(rows, weights, nil, 0, len(weights)))
	}
	return out
}
