package models

import (
	"math"
	"slices"
	"sort"

	"consilium/internal/gram"
)

// A stratum of a Cox model that is no longer than a piece is walked in one go: its weights,
// risk sets and products, with the algebra of history.go, while it is in the first
// cache. Matched sets of two to five rows would each be a piece of their own there; here
// as many as a piece holds stand in it together, and share one standardisation and one
// sum of products. Running sums begin again with every stratum, and are plain.

// sets are the small strata of a hospital. Rows stand as in time, by falling stop; a
// stratum's rows after its last death (the earliest) are left out, and so are strata without
// one: they change nothing. Pieces begin with a group of rows; eight of them are a block.
type sets struct {
	columns *columns // less their stratum's means
	pieces  []piece  // and where the last one ends
	moments []moment
	dead    []uint8 // of each group, a bit a row
	efron   bool
	// Where rows enter late: the moments of its piece at which a row is at risk. Nothing is
	// subtracted then, so that nothing is lost.
	since, until []uint8
}

// piece is where one begins.
type piece struct{ row, moment int32 }

// moment is a time with deaths, falling within its stratum.
type moment struct {
	to     uint8 // the rows of the piece up to those who die
	deaths uint8
	first  bool // of a stratum, whose rows begin where the moment before ends
}

// add appends a stratum to the last piece, or to another one, and returns its rows' places in
// table, -1 for what fills up a group.
func (s *sets) add(c *coxSpec, data *frame, places, rows []int) []int {
	stop, start, event := data.num[c.stop], data.num[c.start], data.num[c.event]
	rows = slices.Clone(rows)
	sort.SliceStable(rows, func(a, b int) bool { return stop[rows[a]] > stop[rows[b]] })
	last := -1
	for i, r := range rows {
		if event[r] == 1 {
			last = i
		}
	}
	if last < 0 {
		return places
	}
	for last+1 < len(rows) && stop[rows[last+1]] == stop[rows[last]] {
		last++
	}
	rows = rows[:last+1]
	if k := len(s.pieces); k == 0 || len(places)-int(s.pieces[k-1].row)+len(rows) > pieceRows {
		places = s.fill(places)
		s.pieces = append(s.pieces, piece{int32(len(places)), int32(len(s.moments))})
	}
	at := s.pieces[len(s.pieces)-1]
	base, times := len(places)-int(at.row), len(s.moments)
	var died []int
	for from := 0; from < len(rows); {
		to, deaths := from, 0
		for ; to < len(rows) && stop[rows[to]] == stop[rows[from]]; to++ {
			if event[rows[to]] == 1 {
				deaths++
				died = append(died, len(places))
			}
			places = append(places, rows[to])
		}
		if from = to; deaths > 0 {
			s.moments = append(s.moments, moment{uint8(base + to), uint8(deaths), len(s.moments) == times})
		}
	}
	for len(s.dead) < (len(places)+gram.Lanes-1)/gram.Lanes {
		s.dead = append(s.dead, 0)
	}
	for _, i := range died {
		s.dead[i/gram.Lanes] |= 1 << (i % gram.Lanes)
	}
	if start == nil {
		return places
	}
	own := s.moments[times:]
	first := times - int(at.moment) // in the piece
	for len(s.since) < len(places)-len(rows) {
		s.since, s.until = append(s.since, 0), append(s.until, 0)
	}
	for i, r := range rows {
		since := sort.Search(len(own), func(k int) bool { return int(own[k].to) > base+i })
		until := sort.Search(len(own), func(k int) bool { return stop[rows[int(own[k].to)-1-base]] <= start[r] })
		s.since, s.until = append(s.since, uint8(first+since)), append(s.until, uint8(first+max(since, until)))
	}
	return places
}

func (s *sets) fill(places []int) []int {
	for len(places)%gram.Lanes != 0 {
		places = append(places, -1)
	}
	return places
}

// finish lays the rows out.
func (s *sets) finish(columns []source, places []int) {
	places = s.fill(places)
	s.pieces = append(s.pieces, piece{int32(len(places)), int32(len(s.moments))})
	s.columns = lay(columns, len(places), places)
	// They are kept: what they grew into is not.
	s.pieces, s.moments, s.dead = slices.Clone(s.pieces), slices.Clone(s.moments), slices.Clone(s.dead)
	s.since, s.until = slices.Clone(s.since), slices.Clone(s.until)
	for k := range s.pieces[1:] {
		s.centre(k)
	}
}

// strata visits the strata of a piece: their rows in it, and their moments.
func (s *sets) strata(k int, visit func(from, to int, moments []moment)) {
	own := s.moments[s.pieces[k].moment:s.pieces[k+1].moment]
	for from := 0; len(own) > 0; {
		n := 1
		for n < len(own) && !own[n].first {
			n++
		}
		to := int(own[n-1].to)
		visit(from, to, own[:n])
		from, own = to, own[n:]
	}
}

// centre takes their means off a piece's strata: the model does not change when a column moves
// by a constant. Where a mean is beyond all numbers it stays: only digits are lost.
func (s *sets) centre(k int) {
	row, c := int(s.pieces[k].row), s.columns
	s.strata(k, func(from, to int, _ []moment) {
		for a := range c.p {
			sum := 0.0
			for i := from; i < to; i++ {
				sum += c.raw[gram.At(row+i, a, c.p)]
			}
			mean := sum / float64(to-from)
			for i := from; i < to && math.Abs(mean) <= math.MaxFloat64; i++ {
				c.raw[gram.At(row+i, a, c.p)] -= mean
			}
		}
	})
}

// step adds their likelihood, score and information.
func (s *sets) step(l *localFit, f *fit) {
	p, n := s.columns.p, (len(s.pieces)-1)*pieceRows
	triangle := packedLen(p)
	sum := newSums(triangle + p)
	fits := make([]total, (n+stretchRows-1)/stretchRows)
	std := standard(f, f.theta)
	std.Centre = make([]float64, p)
	inStretches(n, triangle+p, sum, func() func(stretch, from, to int, blocks []float64) {
		k := s.newWalk(std)
		return func(stretch, from, to int, blocks []float64) {
			k.died, k.log = total{}, newLogProduct()
			for ; from < to; blocks = blocks[triangle+p:] {
				k.block.Reset()
				for end := min(from+blockRows, to); from < end; from += pieceRows {
					k.piece(from / pieceRows)
				}
				k.block.Sums(blocks)
			}
			log := k.log.sum()
			fits[stretch] = k.died
			fits[stretch].add(-log.hi)
			fits[stretch].add(-log.lo)
		}
	})
	for _, t := range fits {
		l.fit[0].join(t)
	}
	for i := range l.information {
		l.information[i].join(sum.total(i))
	}
	for i := range l.score {
		l.score[i].join(sum.total(triangle + i))
	}
}

// setWalk is one processor's part of a step, and its room.
type setWalk struct {
	*sets
	std   *gram.Standard
	block *gram.Block
	died  total // the linear predictors of those who die
	log   logProduct

	z, out, own        []float64 // columns of a piece: of rows, of moments, of ties
	eta, w, e, r       []float64 // by row
	hazard, rate, mean []float64 // by moment: as in walk
	rest               []float64 // by tie
	zero               []float64
	ties               []setTie
}

// setTie is a moment with several deaths, by Efron, among some rows of the piece.
type setTie struct {
	tieSums
	moment, from, to int
}

func (s *sets) newWalk(std *gram.Standard) *setWalk {
	p := s.columns.p
	k := &setWalk{sets: s, std: std, block: gram.NewBlock(p, true, true)}
	for _, v := range []*[]float64{&k.z, &k.out, &k.own} {
		*v = make([]float64, p*pieceRows)
	}
	for _, v := range []*[]float64{&k.eta, &k.w, &k.e, &k.r, &k.hazard, &k.rate, &k.mean, &k.rest, &k.zero} {
		*v = make([]float64, pieceRows)
	}
	return k
}

// dies reports whether a row of the table of pieces does.
func (s *sets) dies(row int) bool { return s.dead[row/gram.Lanes]>>(row%gram.Lanes)&1 == 1 }

// piece adds one to the block.
func (k *setWalk) piece(number int) {
	at, next := k.pieces[number], k.pieces[number+1]
	row, n := int(at.row), int(next.row-at.row)
	eta, e, r := k.eta[:n], k.e[:n], k.r[:n]
	clear(eta)
	clear(e) // and of what fills up the last group
	clear(r)
	k.std.Both(eta, k.z, k.columns.from(row), n)
	k.strata(number, func(from, to int, _ []moment) {
		most := slices.Max(eta[from:to])
		for i := from; i < to; i++ {
			eta[i] -= most // a stratum's likelihood does not change
		}
	})
	gram.Exp(k.w[:n], eta)
	k.ties = k.ties[:0]
	first := 0
	k.strata(number, func(from, to int, moments []moment) {
		k.risks(row, first, from, moments)
		k.residuals(row, first, from, to, moments)
		first += len(moments)
	})
	k.block.Add(k.z, e, r, k.columns.ahead(int(next.row)))
	k.means(number, first)
}

// atRisk reports whether a row of the piece that is at row is, at a moment of its stratum.
func (k *setWalk) atRisk(row, i, moment int) bool {
	return int(k.since[row+i]) <= moment && moment < int(k.until[row+i])
}

// risks takes the moments of a stratum, numbered in the piece from first on.
func (k *setWalk) risks(row, first, from int, moments []moment) {
	s, i := 0.0, from
	for j, m := range moments {
		j += first
		before, tied := i, 0.0
		for ; i < int(m.to); i++ {
			if s += k.w[i]; k.dies(row + i) {
				k.died.add(k.eta[i])
				tied += k.w[i]
			}
		}
		if k.since != nil {
			s = 0
			for i := from; i < int(m.to); i++ {
				if k.atRisk(row, i, j) {
					s += k.w[i]
				}
			}
		}
		k.rate[j] = 1 / s
		k.log.multiply(s)
		k.hazard[j], k.mean[j] = k.rate[j], 1
		if m.deaths > 1 && k.efron {
			t := setTie{moment: j, from: before, to: int(m.to)}
			k.hazard[j], k.mean[j], t.tieSums = efron(s, tied, int(m.deaths), k.rate[j], &k.log)
			k.ties = append(k.ties, t)
		} else if m.deaths > 1 {
			k.hazard[j], k.mean[j] = breslow(s, int(m.deaths), k.rate[j], &k.log)
		}
	}
}

// residuals writes what a stratum's rows were exposed to, and their martingale residuals.
func (k *setWalk) residuals(row, first, from, to int, moments []moment) {
	met, j := 0.0, len(moments)-1
	for i := to - 1; i >= from; i-- {
		if k.since != nil {
			met = 0
			for j := int(k.until[row+i]) - 1; j >= int(k.since[row+i]); j-- {
				met += k.hazard[j]
			}
		} else {
			for ; j >= 0 && int(moments[j].to) > i; j-- {
				met += k.hazard[first+j]
			}
		}
		k.e[i] = float64(k.w[i] * met)
	}
	for q := len(k.ties) - 1; q >= 0 && k.ties[q].moment >= first; q-- {
		for i := k.ties[q].from; i < k.ties[q].to; i++ {
			if k.dies(row + i) {
				k.e[i] -= float64(k.w[i] * k.ties[q].less)
			}
		}
	}
	for i := from; i < to; i++ {
		if k.r[i] = -k.e[i]; k.dies(row + i) {
			k.r[i] = 1 - k.e[i]
		}
	}
}

// means takes the products of the piece's means over risk sets off.
func (k *setWalk) means(number, n int) {
	row, moments := int(k.pieces[number].row), k.moments[k.pieces[number].moment:][:n]
	if k.since == nil {
		k.runningSums(moments)
	} else {
		k.lateSums(row, moments)
	}
	for a := range k.columns.p {
		z, out := k.z[a*pieceRows:][:pieceRows], k.out[a*pieceRows:][:pieceRows]
		for q, t := range k.ties {
			s := 0.0
			for i := t.from; i < t.to; i++ {
				if k.dies(row + i) {
					s += float64(k.w[i] * z[i])
				}
			}
			s = float64(s * k.rate[t.moment])
			out[t.moment] -= float64(t.kappa * s)
			k.own[a*pieceRows+q] = s
		}
	}
	for j := range n {
		k.mean[j] = -k.mean[j]
	}
	k.block.Add(k.out, k.mean[:n], k.zero[:n], nil)
	for q, t := range k.ties {
		k.rest[q] = -t.rest
	}
	k.block.Add(k.own, k.rest[:len(k.ties)], k.zero[:len(k.ties)], nil)
}

// runningSums writes the means over risk sets.
func (k *setWalk) runningSums(moments []moment) {
	for a := range k.columns.p {
		z, out := k.z[a*pieceRows:][:pieceRows], k.out[a*pieceRows:][:pieceRows]
		s, i := 0.0, 0
		for j, m := range moments {
			if m.first {
				s = 0
			}
			for ; i < int(m.to); i++ {
				s += float64(k.w[i] * z[i])
			}
			out[j] = float64(s * k.rate[j])
		}
	}
}

// lateSums writes the means over risk sets where rows enter late.
func (k *setWalk) lateSums(row int, moments []moment) {
	var rows [pieceRows]uint8 // at risk
	from, to := 0, 0
	for j, m := range moments {
		if m.first {
			from = to
		}
		to = int(m.to)
		n := 0
		for i := from; i < to; i++ {
			if k.atRisk(row, i, j) {
				rows[n] = uint8(i)
				n++
			}
		}
		for a := range k.columns.p {
			z, s := k.z[a*pieceRows:][:pieceRows], 0.0
			for _, i := range rows[:n] {
				s += float64(k.w[i] * z[i])
			}
			k.out[a*pieceRows+j] = float64(s * k.rate[j])
		}
	}
}
