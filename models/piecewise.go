package models

import (
	"context"
	"fmt"
	"math"
	"sort"

	"consilium"
	"consilium/internal/det"
	"consilium/internal/gram"
)

// familyPiecewise is a proportional hazards model whose baseline, shared by all
// hospitals, is constant between public cuts: a Poisson likelihood in the
// pieces. Hospitals add up score and information as for any glm, and no sum is
// over a risk set.
const familyPiecewise = "piecewise"

type pieces struct {
	cuts               []float64 // rising, above 0; the last piece has no end
	start, stop, event string
}

func (p *pieces) n() int { return len(p.cuts) + 1 }

// from and to are a piece's limits.
func (p *pieces) limits(b int) (from, to float64) {
	from, to = 0, math.Inf(1)
	if b > 0 {
		from = p.cuts[b-1]
	}
	if b < len(p.cuts) {
		to = p.cuts[b]
	}
	return from, to
}

func (p *pieces) name(b int) string {
	from, to := p.limits(b)
	if math.IsInf(to, 0) {
		return fmt.Sprintf("baseline after %v", from)
	}
	return fmt.Sprintf("baseline (%v, %v]", from, to)
}

// of is the piece that holds time t: (from, to].
func (p *pieces) of(t float64) int {
	return sort.Search(len(p.cuts), func(i int) bool { return p.cuts[i] >= t })
}

func newPiecewise(facts consilium.Facts, a *consilium.AnalysisSpec) (Analysis, error) {
	spec := facts.Spec
	for _, k := range []struct {
		set bool
		key string
	}{{a.Ties != "" && a.Ties != "efron", "ties"}, {len(a.TimeTerms) > 0, "timeTerms"}, {a.PHCheck != "", "phCheck"}, {a.Concordance, "concordance"}, {len(a.Strata) > 0, "strata"}, {a.Lasso != 0, "lasso"}, {a.Penalty != nil, "penalty"}} {
		if k.set {
			return nil, consilium.ErrInvalid.Withf("%s is not used with a piecewise baseline; leave it out", k.key)
		}
	}
	p := &pieces{cuts: a.Baseline.Cuts, start: a.Response.Start, stop: a.Response.Stop, event: a.Response.Event}
	if len(p.cuts) < 1 || len(p.cuts) > 200 {
		return nil, consilium.ErrInvalid.Withf("baseline: %d cuts, want 1 to 200", len(p.cuts))
	}
	for b := range p.cuts {
		from, to := p.limits(b)
		if !(to > from) || math.IsInf(to, 0) {
			return nil, consilium.ErrInvalid.Withf("baseline: the cuts must be above 0 and rise")
		}
		if err := checkWidth(facts, p.stop, to-from, "baseline: a piece of"); err != nil {
			return nil, err
		}
	}
	if err := needRidge(a); err != nil {
		return nil, err
	}
	d, err := newDesign(spec, a.Terms, true)
	if err != nil {
		return nil, err
	}
	if d.site {
		return nil, consilium.ErrInvalid.Withf("terms: site cannot be a term of a model with a common baseline; the default baseline (stratified by hospital) allows for it")
	}
	g := &regression{facts: facts, spec: a, d: d, family: familyPiecewise, pieces: p, ridge: a.Ridge}
	if err := g.setCluster(a); err != nil {
		return nil, err
	}
	g.reads = want{numeric: unique(append([]string{p.start, p.stop, p.event}, d.numeric...)...), factors: unique(d.factors...)}
	return g, nil
}

// The first round's block "pieces": events, time at risk and patients at risk
// of each piece.
const piecesLen = 3

func (g *regression) piecesTally(data *frame) []float64 {
	p := g.pieces
	n := p.n()
	t := make([]total, 2*n)
	out := make([]float64, piecesLen*n)
	seen := map[[2]int32]bool{}
	for i := 0; i < data.n; i++ {
		g.eachPiece(data, i, func(b int, exposure, event float64) {
			t[b].add(event)
			t[n+b].add(exposure)
			if who := [2]int32{data.patient[i], int32(b)}; !seen[who] {
				seen[who] = true
				out[2*n+b]++
			}
		})
	}
	copy(out, values(t))
	return out
}

// eachPiece visits the pieces that a row was at risk in.
func (g *regression) eachPiece(data *frame, i int, visit func(b int, exposure, event float64)) {
	p := g.pieces
	begin, stop := 0.0, data.num[p.stop][i]
	if p.start != "" {
		begin = data.num[p.start][i]
	}
	last := p.of(stop)
	for b := 0; b <= last; b++ {
		from, to := p.limits(b)
		if b == last {
			to = stop
		}
		exposure := to - math.Max(from, begin)
		event := 0.0
		if b == last {
			event = data.num[p.event][i]
		}
		if exposure > 0 || event > 0 {
			visit(b, math.Max(exposure, 0), event)
		}
	}
}

// firstPieces starts at the fit without terms, which has a closed form.
func (g *regression) firstPieces(f *fit, o Opened, round uint32) (*State, error) {
	n := g.pieces.n()
	v, err := o.take("pieces", piecesLen*n)
	if err != nil {
		return nil, err
	}
	for b := 0; b < n; b++ {
		switch {
		case v[2*n+b] < float64(g.facts.MinCohort) && !g.facts.Permitted(PermitTail):
			return failed(round, failPiece, b), nil
		case v[b] < 1 || !(v[n+b] > 0):
			return failed(round, failPieceEvents, b), nil
		}
		f.theta[b] = det.Log(v[b] / v[n+b])
	}
	copy(f.prev, f.theta)
	return g.save(f, phaseFit, round)
}

func (g *regression) piecesLocal(ctx context.Context, data *frame, x [][]float64, f *fit, phase uint32) (*localFit, error) {
	eta := g.linear(f, x, data.n)
	if phase == phaseFinal {
		return g.piecesResiduals(ctx, data, x, f, eta)
	}
	l := g.newLocal(coxFitLen + 1)
	n, p := g.pieces.n(), len(x)
	// A block's sums: of the columns, weighted by all of a row's pieces; of each piece's
	// weights and residuals; and of its weighted columns.
	own := packedLen(p) + p
	width := own + n*(2+p)
	sum := newSums(width)
	fits := make([]total, (data.n+stretchRows-1)/stretchRows)
	far := make([]bool, len(fits))
	inStretches(data.n, width, sum, func() func(stretch, from, to int, blocks []float64) {
		all, z := gram.NewBlock(p, true, true), make([]float64, p*pieceRows)
		room := make([]float64, (3+2*n)*pieceRows)
		row := func(k int) []float64 { return room[k*pieceRows:][:pieceRows] }
		ll, w, r := row(0), row(1), row(2)
		pieces := make([]*gram.Block, n)
		for b := range pieces {
			pieces[b] = gram.NewBlock(p, false, true)
		}
		return func(stretch, from, to int, blocks []float64) {
			for ; from < to && ctx.Err() == nil; blocks = blocks[width:] {
				all.Reset()
				for _, b := range pieces {
					b.Reset()
				}
				of := blocks[own:width]
				clear(of)
				for end := min(from+blockRows, to); from < end; {
					k := min(pieceRows, end-from)
					clear(room)
					for i := range k {
						g.eachPiece(data, from+i, func(b int, exposure, event float64) {
							at := eta[from+i] + f.theta[b]
							if math.Abs(at) > 500 {
								far[stretch] = true
								return
							}
							v := float64(exposure * det.Exp(at))
							row(3 + 2*b)[i], row(4 + 2*b)[i] = v, event-v
							ll[i] += float64(event*at) - v
							w[i] += v
							r[i] += event - v
						})
					}
					for a := range x {
						copy(z[a*pieceRows:][:k], x[a][from:])
					}
					fits[stretch].add(gram.Sum(ll[:k]))
					all.Add(z, w[:k], r[:k], nil)
					for b := range pieces {
						v := row(3 + 2*b)[:k]
						of[b] += gram.Sum(v)
						of[n+b] += gram.Sum(row(4 + 2*b)[:k])
						pieces[b].Add(z, v, v, nil)
					}
					from += k
				}
				all.Sums(blocks)
				for b := range pieces {
					pieces[b].Sums(of[2*n+b*p:][:p])
				}
			}
		}
	})
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for k := range fits {
		l.fit[0].join(fits[k])
		if far[k] {
			out := g.newLocal(coxFitLen + 1)
			out.fit[1] = total{hi: 1}
			return out, nil
		}
	}
	for b := range n {
		l.information[packedLen(b+1)-1], l.score[b] = sum.total(own+b), sum.total(own+n+b)
	}
	for a := range p {
		l.score[n+a] = sum.total(packedLen(p) + a)
		at := l.information[packedLen(n+a):]
		for b := range n {
			at[b] = sum.total(own + 2*n + b*p + a)
		}
		for c := 0; c <= a; c++ {
			at[n+c] = sum.total(packedLen(a) + c)
		}
	}
	return l, nil
}

// piecesResiduals adds up the products of the clusters' residuals.
func (g *regression) piecesResiduals(ctx context.Context, data *frame, x [][]float64, f *fit, eta []float64) (*localFit, error) {
	l := g.newLocal(coxFitLen + 1)
	n := g.pieces.n()
	residual := make([][]float64, g.q())
	for k := range residual {
		residual[k] = make([]float64, data.n)
	}
	for i := range data.n {
		if i%4096 == 0 {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
		}
		sum := 0.0 // over the row's pieces
		g.eachPiece(data, i, func(b int, exposure, event float64) {
			at := eta[i] + f.theta[b]
			if math.Abs(at) > 500 {
				l.fit[1] = total{hi: 1}
				return
			}
			residual[b][i] = event - float64(exposure*det.Exp(at))
			sum += residual[b][i]
		})
		for a := range x {
			residual[n+a][i] = float64(sum * x[a][i])
		}
	}
	if l.fit[1].hi != 0 {
		out := g.newLocal(coxFitLen + 1)
		out.fit[1] = total{hi: 1}
		return out, nil
	}
	g.clusterMeat(l, data, residual)
	return l, nil
}

// checkPieceTimes refuses times and events that mean nothing.
func (g *regression) checkPieceTimes(data *frame) (events float64, err error) {
	c := &coxSpec{start: g.pieces.start, stop: g.pieces.stop, event: g.pieces.event}
	if err := c.checkTimes(data); err != nil {
		return 0, err
	}
	for i, t := range data.num[c.stop] {
		if t == 0 && data.num[c.event][i] == 1 {
			return 0, consilium.ErrData.Withf("column %s: an event at time 0 has no time at risk; a piecewise baseline needs times above 0", c.stop)
		}
		if c.start != "" && data.num[c.start][i] < 0 {
			return 0, consilium.ErrData.Withf("column %s: a time below 0", c.start)
		}
	}
	return c.eventsOf(data), nil
}
