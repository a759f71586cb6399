package models

import (
	"context"
	"math"
	"sync"

	"consilium"
	"consilium/internal/gram"
)

// Kept is what the analyses of a study made of one hospital's rows, so that the
// rounds that follow do not read the table again: the columns of a regression in
// the order and layout in which a Newton step sweeps over them. It says nothing
// about the state of a study, and losing it changes no bit of any result.
//
// Whoever hands the same Kept to Local again vouches that the rows are the same:
// records, selection and patients.
type Kept struct {
	mu sync.Mutex
	of map[*regression]*prepared
}

// KeptBytes estimates the memory that the analyses of a study keep for every row of
// a hospital's table, in bytes.
func KeptBytes(facts consilium.Facts, extra map[string]Constructor) (uint64, error) {
	a, err := New(facts, extra)
	if err != nil {
		return 0, err
	}
	bytes := 0
	for _, part := range a.(*sequence).parts {
		switch part := part.(type) {
		case *regression:
			bytes += part.keptBytes()
		case *penalised:
			bytes += part.g.keptBytes()
		case *gwas:
			bytes += part.g.keptBytes()
		}
	}
	return uint64(bytes), nil
}

func (g *regression) keptBytes() int {
	if !g.sweeps(phaseFit) {
		return 0
	}
	panels := 8 * g.p()
	if g.cox == nil {
		return panels + 2*8 // response and offset
	}
	// Weights, what a step needs by time, and who dies with whom, where every row dies, in
	// pairs; where rows enter late, two moves and the times that a row sees.
	bytes := panels + 8 + 3*8 + 8 + 8
	if g.cox.start != "" {
		bytes += 2*4 + 8 + 3*4 + 8
	}
	// Strata of more than a piece are filled up to whole ones: one of 129 rows keeps almost twice
	// its columns. Smaller ones stand in pieces together (sets).
	if len(g.cox.strata) > 0 {
		bytes += panels
	}
	return bytes
}

func (k *Kept) get(g *regression) *prepared {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.of[g]
}

func (k *Kept) put(g *regression, p *prepared) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.of == nil {
		k.of = map[*regression]*prepared{}
	}
	k.of[g] = p
}

// prepared is a hospital's rows as a regression sweeps over them.
type prepared struct {
	mu        sync.Mutex // one sweep at a time
	n         int
	columns   *columns // by the rows of the table; nil for Cox
	low, high []float64
	y         []float64
	offset    []float64 // nil: all zero
	events    float64
	histories []*history // Cox: the strata of more than a piece
	sets      *sets      // and the others; nil if there are none
	rooms     rooms      // of the histories
}

// columns are a design in panels (package gram), as they stand in the table.
type columns struct {
	n, p int
	raw  []float64
}

// source is one column of the design before it is laid out.
type source struct {
	values []float64
	codes  []int32 // of a level, if values is nil
	level  int32
}

// sources reads the columns of the design. What is computed is new memory; what
// is a column of the table is not.
func (d *design) sources(f *frame) ([]source, error) {
	out, faults := make([]source, len(d.columns)), make([]error, len(d.columns))
	inColumns(len(out), func(j int) {
		if c := &d.columns[j]; len(c.parts) == 1 && c.parts[0].fn == "" {
			if part := c.parts[0]; part.level < 0 {
				out[j].values = f.num[part.column]
			} else {
				out[j].codes, out[j].level = f.code[part.column], int32(part.level)
			}
			return
		}
		out[j].values, faults[j] = d.values(f, j, 0, 1)
	})
	for _, err := range faults {
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// span is the smallest and the largest value.
func (s *source) span() (low, high float64) {
	if s.values == nil {
		return 0, 1
	}
	low, high = math.Inf(1), math.Inf(-1)
	for _, v := range s.values {
		if v < low {
			low = v
		}
		if v > high {
			high = v
		}
	}
	return low, high
}

// lay puts the given rows of the columns into panels, in that order, zeros where a row
// is below 0; nil means all n as they come.
func lay(s []source, n int, rows []int) *columns {
	c := &columns{n: n, p: len(s)}
	c.raw = make([]float64, gram.Len(n, c.p))
	// Rows in another order come from all over a column, which alone may stay in the
	// cache: a column is put in order first, and some of them are laid out together.
	some := len(s)
	if rows != nil {
		some = min(some, 8)
	}
	ordered := make([]source, some)
	for first := 0; first < len(s); first += some {
		these := s[first:min(first+some, len(s))]
		if rows != nil {
			for k := range these {
				these[k].pick(&ordered[k], rows)
			}
			these = ordered[:len(these)]
		}
		inParallel(n, func(from, to int) {
			for ; from < to; from += pieceRows {
				for k := range these {
					these[k].lay(c.raw[gram.At(from, first+k, c.p):], c.p, from, min(from+pieceRows, to))
				}
			}
		})
	}
	return c
}

// pick writes the column's values at the given rows to another's memory.
func (s *source) pick(to *source, rows []int) {
	if len(to.values) < len(rows) {
		to.values = make([]float64, len(rows))
	}
	inParallel(len(rows), func(from, end int) {
		out := to.values[from:end]
		if s.values != nil {
			for i, r := range rows[from:end] {
				if out[i] = 0; r >= 0 {
					out[i] = s.values[r]
				}
			}
			return
		}
		for i, r := range rows[from:end] {
			if out[i] = 0; r >= 0 && s.codes[r] == s.level {
				out[i] = 1
			}
		}
	})
}

// lay writes rows of a column to their places in panels of some width.
func (s *source) lay(panel []float64, width, from, to int) {
	at := func(k int) int { return k/gram.Lanes*gram.Lanes*width + k%gram.Lanes }
	if s.values != nil {
		for k, v := range s.values[from:to] {
			panel[at(k)] = v
		}
		return
	}
	for k, code := range s.codes[from:to] {
		if code == s.level {
			panel[at(k)] = 1
		}
	}
}

// sweeps reports whether a round is a sweep over prepared rows, and no other way
// of reading them is needed.
func (g *regression) sweeps(phase uint32) bool {
	if phase != phaseFirst && phase != phaseFit || g.pieces != nil || g.common() {
		return false
	}
	if g.cox != nil {
		return g.cox.varying == nil
	}
	return g.family != familyNegBin && !g.absorb
}

// prepare lays the rows out.
func (g *regression) prepare(data *frame) (*prepared, error) {
	s, err := g.d.sources(data)
	if err != nil {
		return nil, err
	}
	p := &prepared{n: data.n, low: make([]float64, len(s)), high: make([]float64, len(s))}
	inColumns(len(s), func(j int) { p.low[j], p.high[j] = s[j].span() })
	if g.cox == nil {
		if p.y, p.offset, p.events, err = g.glmData(data); err != nil {
			return nil, err
		}
		if g.glm.offset == "" {
			p.offset = nil
		}
		p.columns = lay(s, data.n, nil)
		return p, nil
	}
	if err := g.cox.checkTimes(data); err != nil {
		return nil, err
	}
	p.events = g.cox.eventsOf(data)
	var small sets
	var places []int
	at := make([]int, data.n)
	for _, rows := range g.cox.groups(data) {
		if len(rows) <= pieceRows {
			places = small.add(g.cox, data, places, rows)
		} else {
			p.histories = append(p.histories, g.cox.newHistory(data, s, rows, at))
		}
	}
	if len(places) > 0 {
		small.efron = g.cox.efron
		small.finish(s, places)
		p.sets = &small
	}
	return p, nil
}

// checkSize names the term that cannot be summed, as design.checkSize does: the
// largest values of a column are where its smallest and largest stand.
func (p *prepared) checkSize(d *design, f *fit) error {
	for j := range d.columns {
		for _, v := range []float64{p.low[j], p.high[j]} {
			if x := (v - f.mean[j]) / f.scale[j]; p.n > 0 && !(math.Abs(x) < largest) {
				return tooLarge("term " + d.columns[j].name)
			}
		}
	}
	return nil
}

// sweepLocal writes the vector of a round that is a sweep.
func (g *regression) sweepLocal(ctx context.Context, phase uint32, f *fit, rows *Rows, w Writer) error {
	p := rows.Kept.get(g)
	var data *frame
	if p == nil || phase == phaseFirst {
		var err error
		if data, err = readFrame(g.facts.Spec, rows, g.reads); err != nil {
			return err
		}
	}
	if p == nil {
		var err error
		if p, err = g.prepare(data); err != nil {
			return err
		}
		rows.Kept.put(g, p)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.checkSize(g.d, f); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	var l *localFit
	name := "fit"
	switch {
	case g.cox != nil:
		l = g.coxStep(p, f)
	case phase == phaseFirst:
		name = "start"
		l = g.newLocal(glmStartLen)
		weight, working := make([]float64, p.n), make([]float64, p.n)
		g.glmStart(l, p.y, p.offset, weight, working)
		g.glmMoments(l, p, f, weight, working)
	default:
		l = g.glmStep(p, f)
	}
	if phase == phaseFirst {
		if err := write(w, "cohort", cohortBlock(data, rows, p.events, g.d.levelCounts(data))); err != nil {
			return err
		}
		if g.p() > 0 {
			m, err := g.d.moments(data, f)
			if err != nil {
				return err
			}
			if err := write(w, "moments", m); err != nil {
				return err
			}
		}
	}
	if err := write(w, name, values(l.fit)); err != nil {
		return err
	}
	if err := write(w, "score", values(l.score)); err != nil {
		return err
	}
	return write(w, "information", values(l.information))
}

// standard reads columns in the coordinates of a fit.
func standard(f *fit, beta []float64) *gram.Standard {
	s := &gram.Standard{Centre: f.mean, Inverse: make([]float64, len(f.scale)), Beta: beta}
	for j, v := range f.scale {
		s.Inverse[j] = 1 / v // scales are powers of two
	}
	return s
}

// moments sums every column and its square, in the rows' order.
func (d *design) moments(data *frame, f *fit) ([]float64, error) {
	s, err := d.sources(data)
	if err != nil {
		return nil, err
	}
	p := len(s)
	m := make([]total, 2*p)
	std := standard(f, nil)
	inColumns((p+1)/2, func(pair int) { // two columns and their squares are four sums
		var sum gram.Totals
		var v [4][blockRows]float64
		for from := 0; from < data.n; from += blockRows {
			n := min(blockRows, data.n-from)
			for k := 0; k < 2 && 2*pair+k < p; k++ {
				j := 2*pair + k
				for i := range n {
					x := 0.0
					if s[j].values != nil {
						x = s[j].values[from+i]
					} else if s[j].codes[from+i] == s[j].level {
						x = 1
					}
					x = float64((x - std.Centre[j]) * std.Inverse[j])
					v[2*k][i], v[2*k+1][i] = x, float64(x*x)
				}
			}
			sum.Add(v[0][:n], v[1][:n], v[2][:n], v[3][:n])
		}
		for k := 0; k < 2 && 2*pair+k < p; k++ {
			m[2*pair+k] = total{sum.Hi[2*k], sum.Lo[2*k]}
			m[p+2*pair+k] = total{sum.Hi[2*k+1], sum.Lo[2*k+1]}
		}
	})
	return values(m), nil
}
