package federation_test

import (
	"fmt"
	"math"
	"slices"
	"sort"
)

// A second, naive way to the same numbers: the textbook formulas on the pooled
// rows, written for reading and with nothing in common with the models.

type naiveRow struct {
	site, id    string
	start, stop float64
	event       bool
	arm         int // 0, 1, 2
	sex         bool
	age, y      float64 // NaN if missing
	count       float64
	fu          float64
}

// patient is who a row belongs to: numbers are the hospital's own.
func (r *naiveRow) patient() string { return r.site + "/" + r.id }

// design is the model matrix and the names of its columns.
func design(rows []naiveRow, terms []string, intercept bool) (x [][]float64, names []string) {
	if intercept {
		names = append(names, "(Intercept)")
	}
	for _, t := range terms {
		switch t {
		case "arm":
			names = append(names, "arm:B", "arm:C")
		default:
			names = append(names, t)
		}
	}
	flag := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	for i := range rows {
		r := &rows[i]
		var v []float64
		if intercept {
			v = append(v, 1)
		}
		for _, t := range terms {
			switch t {
			case "arm":
				v = append(v, flag(r.arm == 1), flag(r.arm == 2))
			case "sex":
				v = append(v, flag(r.sex))
			case "age":
				v = append(v, r.age)
			case "age^2":
				v = append(v, r.age*r.age)
			default:
				panic(t)
			}
		}
		x = append(x, v)
	}
	return x, names
}

// invert is the inverse of a symmetric positive definite matrix by Gauss and
// Jordan with pivots, scaled to a unit diagonal first. It reports false where
// a pivot says that a column follows from others.
func invert(a [][]float64) ([][]float64, bool) {
	n := len(a)
	d := make([]float64, n)
	for i := range d {
		if !(a[i][i] > 0) || math.IsInf(a[i][i], 0) {
			return nil, false
		}
		d[i] = math.Sqrt(a[i][i])
	}
	m := make([][]float64, n)
	for i := range m {
		m[i] = make([]float64, 2*n)
		for k := range n {
			m[i][k] = a[i][k] / d[i] / d[k]
		}
		m[i][n+i] = 1
	}
	for c := range n {
		p := c
		for i := c; i < n; i++ {
			if math.Abs(m[i][c]) > math.Abs(m[p][c]) {
				p = i
			}
		}
		if math.Abs(m[p][c]) < 1e-9 {
			return nil, false
		}
		m[c], m[p] = m[p], m[c]
		pivot := m[c][c]
		for k := range m[c] {
			m[c][k] /= pivot
		}
		for i := range n {
			if f := m[i][c]; i != c && f != 0 {
				for k := range m[i] {
					m[i][k] -= f * m[c][k]
				}
			}
		}
	}
	out := make([][]float64, n)
	for i := range out {
		out[i] = make([]float64, n)
		for k := range n {
			out[i][k] = m[i][n+k] / d[i] / d[k]
		}
	}
	return out, true
}

func apply(a [][]float64, v []float64) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		for k := range v {
			out[i] += a[i][k] * v[k]
		}
	}
	return out
}

// fit is a maximum of a likelihood, or ok false if there is none in reach.
type fit struct {
	ok          bool
	beta        []float64
	cov         [][]float64
	null, atMax float64
}

// climb is Newton's method with halved steps. curve gives the log-likelihood,
// its gradient and the information.
func climb(n int, curve func(beta []float64) (float64, []float64, [][]float64)) fit {
	f := fit{beta: make([]float64, n)}
	ll, grad, info := curve(f.beta)
	f.null = ll
	for range 60 {
		inv, ok := invert(info)
		if !ok {
			return f
		}
		step := apply(inv, grad)
		small, far := true, false
		for i := range step {
			small = small && math.Abs(step[i]) <= 1e-11*math.Sqrt(inv[i][i])
			far = far || math.Abs(f.beta[i]/math.Sqrt(inv[i][i])) < 0.05 && math.Abs(f.beta[i]) > 8
		}
		if small {
			f.ok, f.cov, f.atMax = !far, inv, ll
			return f
		}
		for range 40 {
			next := make([]float64, n)
			for i := range next {
				next[i] = f.beta[i] + step[i]
				step[i] /= 2
			}
			l, g, h := curve(next)
			if l >= ll-1e-9*math.Abs(ll) {
				f.beta, ll, grad, info = next, l, g, h
				break
			}
		}
	}
	return f
}

func square(n int) [][]float64 {
	m := make([][]float64, n)
	for i := range m {
		m[i] = make([]float64, n)
	}
	return m
}

// deaths lists the different event times of rows, ascending.
func deaths(rows []naiveRow) []float64 {
	var out []float64
	for i := range rows {
		if rows[i].event {
			out = append(out, rows[i].stop)
		}
	}
	sort.Float64s(out)
	return slices.Compact(out)
}

// bySite splits the positions of rows by hospital.
func bySite(rows []naiveRow) map[string][]int {
	out := map[string][]int{}
	for i := range rows {
		out[rows[i].site] = append(out[rows[i].site], i)
	}
	return out
}

// naiveCox fits Cox's model stratified by hospital; robust are the standard
// errors over patients where cluster asks for them.
func naiveCox(rows []naiveRow, x [][]float64, efron, cluster bool) (f fit, robust []float64) {
	n := len(x[0])
	// terms walks over the factors of the partial likelihood: for each event
	// time of each hospital and each of its d events the weighted risk set.
	terms := func(beta []float64, visit func(dead, risk []int, w map[int]float64)) {
		for _, at := range bySite(rows) {
			var sub []naiveRow
			for _, i := range at {
				sub = append(sub, rows[i])
			}
			for _, t := range deaths(sub) {
				var dead, risk []int
				for _, i := range at {
					if rows[i].start < t && t <= rows[i].stop {
						risk = append(risk, i)
						if rows[i].event && rows[i].stop == t {
							dead = append(dead, i)
						}
					}
				}
				for l := range dead {
					w := map[int]float64{}
					for _, i := range risk {
						eta := 0.0
						for k := range beta {
							eta += beta[k] * x[i][k]
						}
						w[i] = math.Exp(eta)
					}
					if efron {
						for _, i := range dead {
							w[i] *= 1 - float64(l)/float64(len(dead))
						}
					}
					visit(dead[l:l+1], risk, w)
				}
			}
		}
	}
	mean := func(risk []int, w map[int]float64) (float64, []float64) {
		s0, s1 := 0.0, make([]float64, n)
		for _, i := range risk {
			s0 += w[i]
			for k := range s1 {
				s1[k] += w[i] * x[i][k]
			}
		}
		for k := range s1 {
			s1[k] /= s0
		}
		return s0, s1
	}
	// Columns are centred: a constant shift of a covariate changes nothing.
	center := make([]float64, n)
	for i := range x {
		for k := range center {
			center[k] += x[i][k] / float64(len(x))
		}
	}
	moved := make([][]float64, len(x))
	for i := range x {
		moved[i] = make([]float64, n)
		for k := range center {
			moved[i][k] = x[i][k] - center[k]
		}
	}
	x = moved
	f = climb(n, func(beta []float64) (float64, []float64, [][]float64) {
		ll, grad, info := 0.0, make([]float64, n), square(n)
		terms(beta, func(dead, risk []int, w map[int]float64) {
			s0, m := mean(risk, w)
			for k := range beta {
				ll += beta[k] * x[dead[0]][k]
				grad[k] += x[dead[0]][k] - m[k]
			}
			ll -= math.Log(s0)
			for _, i := range risk {
				for k := range m {
					for l := range m {
						info[k][l] += w[i] / s0 * (x[i][k] - m[k]) * (x[i][l] - m[l])
					}
				}
			}
		})
		return ll, grad, info
	})
	if !f.ok || !cluster {
		return f, nil
	}
	residual := map[string][]float64{}
	of := func(i int) []float64 {
		p := rows[i].patient()
		if residual[p] == nil {
			residual[p] = make([]float64, n)
		}
		return residual[p]
	}
	terms(f.beta, func(dead, risk []int, w map[int]float64) {
		s0, m := mean(risk, w)
		u := of(dead[0])
		for k := range u {
			u[k] += x[dead[0]][k]
		}
		for _, i := range risk {
			v := of(i)
			for k := range v {
				v[k] -= w[i] / s0 * (x[i][k] - m[k])
			}
		}
	})
	// Every event's own mean is the average over its ties; of the sum over
	// ties each event takes an equal part.
	for _, at := range bySite(rows) {
		var sub []naiveRow
		for _, i := range at {
			sub = append(sub, rows[i])
		}
		for _, t := range deaths(sub) {
			var dead []int
			total := make([]float64, n)
			for _, i := range at {
				if rows[i].event && rows[i].stop == t {
					dead = append(dead, i)
				}
			}
			terms(f.beta, func(d, risk []int, w map[int]float64) {
				if rows[d[0]].site == rows[dead[0]].site && rows[d[0]].stop == t {
					_, m := mean(risk, w)
					for k := range total {
						total[k] += m[k] / float64(len(dead))
					}
				}
			})
			for _, i := range dead {
				u := of(i)
				for k := range u {
					u[k] -= total[k]
				}
			}
		}
	}
	b := square(n)
	for _, u := range residual {
		for k := range u {
			for l := range u {
				b[k][l] += u[k] * u[l]
			}
		}
	}
	for k := range n {
		v := apply(b, f.cov[k])
		s := 0.0
		for l := range v {
			s += f.cov[k][l] * v[l]
		}
		robust = append(robust, math.Sqrt(s))
	}
	return f, robust
}

// naiveGLM fits a generalised linear model with the canonical link. For
// gaussian the covariance has the usual estimate of the variance.
func naiveGLM(family string, x [][]float64, y, offset []float64) fit {
	n := len(x[0])
	sigma := 1.0
	f := climb(n, func(beta []float64) (float64, []float64, [][]float64) {
		ll, grad, info := 0.0, make([]float64, n), square(n)
		for i := range x {
			eta := offset[i]
			for k := range beta {
				eta += beta[k] * x[i][k]
			}
			var mu, v float64
			switch family {
			case "gaussian":
				mu, v = eta, 1
				ll -= (y[i] - mu) * (y[i] - mu) / 2
			case "binomial":
				mu = 1 / (1 + math.Exp(-eta))
				v = mu * (1 - mu)
				ll += y[i]*eta - math.Max(eta, 0) - math.Log1p(math.Exp(-math.Abs(eta)))
			case "poisson":
				mu = math.Exp(eta)
				v = mu
				ll += y[i]*eta - mu
			}
			for k := range grad {
				grad[k] += (y[i] - mu) * x[i][k]
				for l := range grad {
					info[k][l] += v * x[i][k] * x[i][l]
				}
			}
		}
		return ll, grad, info
	})
	if f.ok && family == "gaussian" {
		sigma = -2 * f.atMax / float64(len(x)-n)
		for k := range f.cov {
			for l := range f.cov {
				f.cov[k][l] *= sigma
			}
		}
	}
	return f
}

// withSites adds an indicator of every hospital, in place of an intercept. A
// hospital whose own effect would be infinite is left out with its rows.
func withSites(family string, rows []naiveRow, x [][]float64, y, offset []float64) (xs [][]float64, ys, os []float64) {
	sites := bySite(rows)
	var names []string
	for s, at := range sites {
		sum := 0.0
		for _, i := range at {
			sum += y[i]
		}
		if family == "gaussian" || sum > 0 && (family != "binomial" || sum < float64(len(at))) {
			names = append(names, s)
		}
	}
	slices.Sort(names)
	for k, s := range names {
		for _, i := range sites[s] {
			v := append(slices.Clone(x[i]), make([]float64, len(names))...)
			v[len(x[i])+k] = 1
			xs, ys, os = append(xs, v), append(ys, y[i]), append(os, offset[i])
		}
	}
	return xs, ys, os
}

// naiveLogrank is the test of arms, stratified by hospital.
func naiveLogrank(rows []naiveRow) (chisq float64, df int, observed, expected []float64) {
	const g = 3
	observed, expected = make([]float64, g), make([]float64, g)
	v := square(g)
	for _, at := range bySite(rows) {
		var sub []naiveRow
		for _, i := range at {
			sub = append(sub, rows[i])
		}
		for _, t := range deaths(sub) {
			n, d := make([]float64, g), make([]float64, g)
			for _, r := range sub {
				if r.start < t && t <= r.stop {
					n[r.arm]++
					if r.event && r.stop == t {
						d[r.arm]++
					}
				}
			}
			all, dead := n[0]+n[1]+n[2], d[0]+d[1]+d[2]
			for i := range g {
				observed[i] += d[i]
				expected[i] += dead * n[i] / all
				for k := range g {
					if all < 2 {
						continue
					}
					c := -n[i] * n[k] / all / all
					if i == k {
						c += n[i] / all
					}
					v[i][k] += c * dead * (all - dead) / (all - 1)
				}
			}
		}
	}
	var with []int
	for i := range g {
		if v[i][i] > 1e-12 {
			with = append(with, i)
		}
	}
	if len(with) < 2 {
		return 0, 0, observed, expected
	}
	with = with[1:]
	sub, diff := square(len(with)), make([]float64, len(with))
	for a, i := range with {
		diff[a] = observed[i] - expected[i]
		for b, k := range with {
			sub[a][b] = v[i][k]
		}
	}
	inv, ok := invert(sub)
	if !ok {
		return math.NaN(), len(with), observed, expected
	}
	for a, s := range apply(inv, diff) {
		chisq += s * diff[a]
	}
	return chisq, len(with), observed, expected
}

// step is a cell of a survival curve.
type stepCell struct{ time, risk, events, surv float64 }

// naiveCurve is the product-limit curve of one arm with times rounded up to
// the grid.
func naiveCurve(rows []naiveRow, arm int, step, end float64) []stepCell {
	surv := 1.0
	var out []stepCell
	for t := 0.0; t <= end; t += step {
		c := stepCell{time: t}
		for _, r := range rows {
			if r.arm != arm {
				continue
			}
			at := math.Ceil(r.stop/step) * step
			if at >= t {
				c.risk++
			}
			if at == t && r.event {
				c.events++
			}
		}
		if c.risk > 0 {
			surv *= 1 - c.events/c.risk
		}
		c.surv = surv
		out = append(out, c)
	}
	return out
}

// near compares with a relative tolerance that the naive sums keep.
func near(what string, got, want float64) error {
	if math.Abs(got-want) <= 1e-7*math.Abs(want)+1e-9 {
		return nil
	}
	return fmt.Errorf("%s is %v, the naive computation says %v", what, got, want)
}
