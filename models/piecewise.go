package models

import (
	"context"
	"fmt"
	"math"
	"sort"

	"consilium"
	"consilium/internal/det"
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
	l := g.newLocal(coxFitLen + 1)
	n, p := g.pieces.n(), len(x)
	eta := g.linear(f, x, data.n)
	var residual [][]float64
	if phase == phaseFinal {
		residual = make([][]float64, g.q())
		for k := range residual {
			residual[k] = make([]float64, data.n)
		}
	}
	for i := 0; i < data.n; i++ {
		if i%4096 == 0 {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
		}
		sumR, sumW := 0.0, 0.0 // over the row's pieces
		g.eachPiece(data, i, func(b int, exposure, event float64) {
			at := eta[i] + f.theta[b]
			if math.Abs(at) > 500 {
				l.fit[1] = total{hi: 1}
				return
			}
			w := float64(exposure * det.Exp(at))
			l.fit[0].add(float64(event*at) - w)
			r := event - w
			sumR += r
			sumW += w
			if residual != nil {
				residual[b][i] = r
				return
			}
			l.score[b].add(r)
			l.information[packedLen(b+1)-1].add(w)
			for a := 0; a < p; a++ {
				l.information[packedLen(n+a)+b].add(float64(w * x[a][i]))
			}
		})
		for a := 0; a < p; a++ {
			if residual != nil {
				residual[n+a][i] = float64(sumR * x[a][i])
				continue
			}
			l.score[n+a].add(float64(sumR * x[a][i]))
			wx := float64(sumW * x[a][i])
			for c := 0; c <= a; c++ {
				l.information[packedLen(n+a)+n+c].add(float64(wx * x[c][i]))
			}
		}
	}
	if l.fit[1].hi != 0 {
		out := g.newLocal(coxFitLen + 1)
		out.fit[1] = total{hi: 1}
		return out, nil
	}
	if residual != nil {
		g.clusterMeat(l, data, residual)
	}
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
