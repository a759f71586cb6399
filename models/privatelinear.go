package models

import (
	"math"

	"consilium"
	"consilium/internal/det"
)

// newPrivateLinear is linear regression from one release of its normal
// equations, in columns that are centred and scaled by their declared bounds.
func newPrivateLinear(facts consilium.Facts, g *regression) (*single, error) {
	spec, a := facts.Spec, g.spec
	if g.absorb || g.robust || g.glm.offset != "" || g.evaluate > 0 {
		return nil, consilium.ErrInvalid.Withf("privacy.dp: a linear model without site, offset, robust errors")
	}
	y, err := PublicBounds(spec, a.Response.Column)
	if err != nil {
		return nil, err
	}
	yc, yh := float64(0.5*(y[0]+y[1])), float64(0.5*(y[1]-y[0]))
	p, q := g.p(), g.q()
	centre, half, err := publicRange(spec, g.d, g.intercept)
	if err != nil {
		return nil, err
	}
	if !g.intercept {
		yh, yc = math.Max(math.Abs(yc-yh), math.Abs(yc+yh)), 0
	}
	s := &single{facts: facts, spec: a, levels: len(g.d.checks),
		blocks: []consilium.Block{exactBlock("xx", packedLen(q)), exactBlock("xy", q), exactBlock("yy", 1)}}
	s.name = g.name
	s.local = func(rows *Rows) ([][]float64, error) {
		f, err := readFrame(spec, rows, g.reads)
		if err != nil {
			return nil, err
		}
		x, err := g.d.matrix(f, centre, half)
		if err != nil {
			return nil, err
		}
		xx, xy, yy := make([]total, packedLen(q)), make([]total, q), total{}
		z := make([]float64, q)
		off := g.base()
		for i := 0; i < f.n; i++ {
			if off == 1 {
				z[0] = 1
			}
			for j := range x {
				z[off+j] = x[j][i]
			}
			v := (f.num[a.Response.Column][i] - yc) / yh
			k := 0
			for r := range z {
				xy[r].add(float64(z[r] * v))
				for c := 0; c <= r; c++ {
					xx[k].add(float64(z[r] * z[c]))
					k++
				}
			}
			yy.add(float64(v * v))
		}
		return [][]float64{cohortBlock(f, rows, 0, g.d.levelCounts(f)), values(xx), values(xy), {yy.value()}}, nil
	}
	s.scale = func() ([]float64, float64, error) {
		// Every coordinate of z and y is at most one in magnitude; levels beyond
		// the first cost one count each.
		return ones(packedLen(q) + q + 1), float64(packedLen(q)+q+1) + float64(max(len(g.d.checks)-1, 0)), nil
	}
	solve := func(v map[string][]float64) ([]float64, [][]float64, float64, int) {
		inv, bad := invert(unpack(v["xx"], q), 1e-9)
		if bad >= 0 {
			return nil, nil, 0, bad
		}
		theta := apply(inv, v["xy"])
		return theta, inv, v["yy"][0] - dot(theta, v["xy"]), -1
	}
	s.judge = func(v map[string][]float64) (int, int) {
		if v["cohort"][cohortRows] <= float64(q) {
			return failDegrees, 0
		}
		if _, _, rss, bad := solve(v); bad >= 0 {
			return failNoise, bad
		} else if !(rss > 0) {
			return failNoise, 0
		}
		return 0, 0
	}
	s.render = func(v map[string][]float64) (any, error) {
		theta, inv, rss, _ := solve(v)
		df := v["cohort"][cohortRows] - float64(q)
		sigma2 := rss / df
		type out struct {
			head
			Family     string  `json:"family"`
			Terms      []term  `json:"terms"`
			Sigma      float64 `json:"sigma"`
			DFResidual float64 `json:"df_residual"`
		}
		r := out{head: newHead(a, v["cohort"], false), Family: "gaussian", Sigma: float64(yh * math.Sqrt(sigma2)), DFResidual: df}
		crit := det.StudentQuantile(0.05, df)
		off := g.base()
		for k := 0; k < q; k++ {
			// y = yc + yh (t0 + Σ t_j (x_j - c_j)/h_j)
			weights := make([]float64, q)
			t := term{Name: g.name(failEstimable, k)}
			if k < off {
				weights[0] = 1
				t.Coef = yc
				for j := 0; j < p; j++ {
					weights[off+j] = -(centre[j] / half[j])
				}
			} else {
				c := &g.d.columns[k-off]
				t.Column, t.Level, t.Reference = c.source, c.level, c.reference
				weights[k] = 1 / half[k-off]
			}
			t.Coef += float64(yh * dot(weights, theta))
			t.SE = float64(yh * math.Sqrt(float64(sigma2*dot(weights, apply(inv, weights)))))
			if z := t.Coef / t.SE; finite(z) != nil {
				pv := det.StudentTail(z, df)
				t.T, t.P = &z, &pv
				t.Lower, t.Upper = finite(t.Coef-float64(crit*t.SE)), finite(t.Coef+float64(crit*t.SE))
			}
			r.Terms = append(r.Terms, t)
		}
		return r, nil
	}
	return s, nil
}
