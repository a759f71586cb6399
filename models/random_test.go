package models

import (
	"fmt"
	"math"
	"math/rand"
	"sort"
	"strconv"
	"testing"

	"consilium"
)

// The naive twin: the pooled computation on one table, written without any of
// the package's numerics (no centring, no compensated sums, risk sets by
// looking at every row for every event).

type pooledRow struct {
	site        int
	start, stop float64
	event       float64
	y           float64
	offset      float64
	x           []float64
	patient     int
	stratum     int
}

// gauss solves a x = b; false if singular.
func gauss(a [][]float64, b []float64) ([]float64, bool) {
	n := len(b)
	m := make([][]float64, n)
	for i := range m {
		m[i] = append(append([]float64{}, a[i]...), b[i])
	}
	for c := 0; c < n; c++ {
		p := c
		for r := c; r < n; r++ {
			if math.Abs(m[r][c]) > math.Abs(m[p][c]) {
				p = r
			}
		}
		if math.Abs(m[p][c]) < 1e-10 {
			return nil, false
		}
		m[c], m[p] = m[p], m[c]
		for r := 0; r < n; r++ {
			if r != c {
				f := m[r][c] / m[c][c]
				for k := c; k <= n; k++ {
					m[r][k] -= f * m[c][k]
				}
			}
		}
	}
	x := make([]float64, n)
	for i := range x {
		x[i] = m[i][n] / m[i][i]
	}
	return x, true
}

func inverseOf(a [][]float64) ([][]float64, bool) {
	n := len(a)
	out := newMatrix(n)
	for j := 0; j < n; j++ {
		e := make([]float64, n)
		e[j] = 1
		x, ok := gauss(a, e)
		if !ok {
			return nil, false
		}
		for i := range x {
			out[i][j] = x[i]
		}
	}
	return out, true
}

// climb maximises by Newton with halving; false if singular or without end.
func climb(p int, f func(beta []float64) (ll float64, u []float64, info [][]float64)) (beta []float64, info [][]float64, ll float64, ok bool) {
	beta = make([]float64, p)
	ll, u, info := f(beta)
	for it := 0; it < 200; it++ {
		step, fine := gauss(info, u)
		if !fine {
			return nil, nil, 0, false
		}
		next := make([]float64, p)
		size := 0.0
		for scale := 1.0; ; scale /= 2 {
			size = 0
			for j := range next {
				next[j] = beta[j] + scale*step[j]
				size = math.Max(size, math.Abs(scale*step[j]))
			}
			l2, u2, i2 := f(next)
			if l2 >= ll-1e-10*(1+math.Abs(ll)) || scale < 1e-12 {
				ll, u, info = l2, u2, i2
				break
			}
		}
		beta = append([]float64{}, next...)
		for _, b := range beta {
			if math.Abs(b) > 400 {
				return nil, nil, 0, false
			}
		}
		if size < 1e-11 {
			return beta, info, ll, true
		}
	}
	return nil, nil, 0, false
}

func naiveCox(rows []pooledRow, p int, efron bool) func([]float64) (float64, []float64, [][]float64) {
	return func(beta []float64) (float64, []float64, [][]float64) {
		ll, u, info := 0.0, make([]float64, p), newMatrix(p)
		eta := func(r *pooledRow) float64 { return dot(beta, r.x) }
		done := map[string]bool{}
		for i := range rows {
			e := &rows[i]
			key := fmt.Sprint(e.site, e.stratum, e.stop)
			if e.event != 1 || done[key] {
				continue
			}
			done[key] = true
			var risk, dead []*pooledRow
			for k := range rows {
				r := &rows[k]
				if r.site != e.site || r.stratum != e.stratum || r.stop < e.stop || !(r.start < e.stop) {
					continue
				}
				risk = append(risk, r)
				if r.event == 1 && r.stop == e.stop {
					dead = append(dead, r)
				}
			}
			for _, r := range dead {
				ll += eta(r)
				for j := range u {
					u[j] += r.x[j]
				}
			}
			for m := range dead {
				share := 0.0
				if efron {
					share = float64(m) / float64(len(dead))
				}
				s0, s1, s2 := 0.0, make([]float64, p), newMatrix(p)
				add := func(r *pooledRow, w float64) {
					w *= math.Exp(eta(r))
					s0 += w
					for j := range s1 {
						s1[j] += w * r.x[j]
						for k := range s1 {
							s2[j][k] += w * r.x[j] * r.x[k]
						}
					}
				}
				for _, r := range risk {
					add(r, 1)
				}
				for _, r := range dead {
					add(r, -share)
				}
				ll -= math.Log(s0)
				for j := range u {
					u[j] -= s1[j] / s0
					for k := range u {
						info[j][k] += s2[j][k]/s0 - s1[j]/s0*s1[k]/s0
					}
				}
			}
		}
		return ll, u, info
	}
}

func naiveGLM(rows []pooledRow, p int, family string) func([]float64) (float64, []float64, [][]float64) {
	return func(beta []float64) (float64, []float64, [][]float64) {
		ll, u, info := 0.0, make([]float64, p), newMatrix(p)
		for i := range rows {
			r := &rows[i]
			eta := dot(beta, r.x) + r.offset
			var mu, w float64
			switch family {
			case "binomial":
				mu = 1 / (1 + math.Exp(-eta))
				w = mu * (1 - mu)
				ll += r.y*eta - math.Log(1+math.Exp(eta))
			case "poisson":
				mu = math.Exp(eta)
				w = mu
				g, _ := math.Lgamma(r.y + 1)
				ll += r.y*eta - mu - g
			default:
				mu, w = eta, 1
				ll -= (r.y - eta) * (r.y - eta) / 2
			}
			for j := range u {
				u[j] += (r.y - mu) * r.x[j]
				for k := range u {
					info[j][k] += w * r.x[j] * r.x[k]
				}
			}
		}
		return ll, u, info
	}
}

func close9(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 1e-8*math.Max(1e-3, math.Abs(want)) {
		t.Errorf("%s: federation %.15g, pooled %.15g", what, got, want)
	}
}

// TestRandomFederations compares 200 random federations with the naive twin:
// hospitals of one row, without events, without a level, with missing values.
func TestRandomFederations(t *testing.T) {
	levels := []string{"low", "mid", "high"}
	spec := &consilium.Spec{Data: consilium.DataRef{Dataset: "d", Patient: "id"},
		Columns: []consilium.Column{
			{Name: "id", Type: consilium.TypeID}, {Name: "dose", Type: consilium.TypeLevels, Levels: levels},
			{Name: "age", Type: consilium.TypeNumber}, {Name: "flag", Type: consilium.TypeFlag},
			{Name: "t0", Type: consilium.TypeNumber}, {Name: "t1", Type: consilium.TypeNumber, Unit: "d"}, {Name: "event", Type: consilium.TypeFlag},
			{Name: "bin", Type: consilium.TypeFlag}, {Name: "count", Type: consilium.TypeInteger}, {Name: "cont", Type: consilium.TypeNumber},
			{Name: "expo", Type: consilium.TypeNumber}, {Name: "grp", Type: consilium.TypeLevels, Levels: []string{"a", "b"}},
		},
		Privacy: consilium.Privacy{MinCohort: 3}, Rounds: consilium.Rounds{Max: 60, Tolerance: 1e-9, Deadline: 60}}
	names := []string{"site", "id", "dose", "age", "flag", "t0", "t1", "event", "bin", "count", "cont", "expo", "grp"}
	terms := []string{"dose", "age", "flag"}
	surv := &consilium.Response{Start: "t0", Stop: "t1", Event: "event"}
	analyses := []consilium.AnalysisSpec{
		{Name: "cox", Type: consilium.AnalysisCox, Response: surv, Terms: terms, Cluster: "id"},
		{Name: "cox-b", Type: consilium.AnalysisCox, Response: surv, Terms: terms, Ties: "breslow", Strata: []string{"grp"}},
		{Name: "logit", Type: consilium.AnalysisGLM, Family: "binomial", Response: &consilium.Response{Column: "bin"}, Terms: terms, Robust: true},
		{Name: "pois", Type: consilium.AnalysisGLM, Family: "poisson", Response: &consilium.Response{Column: "count"}, Terms: terms, Offset: &consilium.Offset{Column: "expo", Log: true}},
		{Name: "lin", Type: consilium.AnalysisGLM, Family: "gaussian", Response: &consilium.Response{Column: "cont"}, Terms: append(append([]string{}, terms...), "dose:age")},
		{Name: "logit-site", Type: consilium.AnalysisGLM, Family: "binomial", Response: &consilium.Response{Column: "bin"}, Terms: []string{"age", "flag", "site"}},
		{Name: "pois-site", Type: consilium.AnalysisGLM, Family: "poisson", Response: &consilium.Response{Column: "count"}, Terms: []string{"age", "flag"}, Strata: []string{"site"}},
		{Name: "lin-site", Type: consilium.AnalysisGLM, Family: "gaussian", Response: &consilium.Response{Column: "cont"}, Terms: []string{"age", "flag", "site"}, Robust: true},
		{Name: "km", Type: consilium.AnalysisKaplanMeier, Response: &consilium.Response{Stop: "t1", Event: "event"}, By: []string{"grp"}, Grid: &consilium.Grid{Step: 30, Max: 400}},
		{Name: "lr", Type: consilium.AnalysisLogrank, Response: surv, By: []string{"dose"}},
	}
	spec.Analyses = analyses
	answered := map[string]int{}
	problems := map[string]int{}
	for seed := int64(1); seed <= 200; seed++ {
		rnd := rand.New(rand.NewSource(seed))
		tab := &table{names: names}
		sites := 3 + rnd.Intn(10)
		id := 0
		for s := 0; s < sites; s++ {
			n := 1 + rnd.Intn(25)
			if rnd.Intn(3) == 0 {
				n = 1
			}
			quiet := rnd.Intn(5) == 0
			short := rnd.Intn(4) == 0 // a level is missing here
			for i := 0; i < n; i++ {
				if i == 0 || rnd.Intn(4) > 0 {
					id++
				}
				dose := rnd.Intn(3)
				if short {
					dose = rnd.Intn(2)
				}
				age, flag := 40+10*rnd.NormFloat64(), rnd.Intn(2)
				effect := 0.4*float64(dose) + 0.02*(age-40) - 0.5*float64(flag) + 0.1*float64(s%3)
				start := 0.0
				if rnd.Intn(3) == 0 {
					start = float64(rnd.Intn(20))
				}
				stop := start + 1 + math.Floor(rnd.ExpFloat64()*150*math.Exp(-effect))
				event := rnd.Intn(3)
				if event > 0 && !quiet {
					event = 1
				} else {
					event = 0
				}
				bin := 0
				if rnd.Float64() < 1/(1+math.Exp(-effect)) && !quiet {
					bin = 1
				}
				count := 0
				for l := math.Exp(-0.5 + effect); rnd.Float64() < l/(1+l); {
					count++
				}
				expo := 0.5 + rnd.Float64()
				cell := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
				row := []string{fmt.Sprint("s", s), fmt.Sprint(id), levels[dose], cell(age), fmt.Sprint(flag), cell(start), cell(stop), fmt.Sprint(event),
					fmt.Sprint(bin), fmt.Sprint(count), cell(2*effect + rnd.NormFloat64()), cell(expo), []string{"a", "b"}[rnd.Intn(2)]}
				for c := 2; c < len(row); c++ {
					if rnd.Intn(60) == 0 {
						row[c] = "NA"
					}
				}
				tab.rows = append(tab.rows, row)
			}
		}
		f := newFederation(t, spec, split(t, spec, tab, "site", "id"))
		r, err := f.run()
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		out := decode(t, r)["analyses"].([]any)
		for i, a := range analyses {
			got := out[i].(map[string]any)
			if e, ok := got["error"]; ok {
				problems[get(e, "code").(string)]++
				checkProblem(t, seed, &a, tab, get(e, "code").(string))
				continue
			}
			answered[a.Name]++
			compareNaive(t, seed, &a, tab, got)
		}
		if t.Failed() {
			t.Fatalf("seed %d differs", seed)
		}
	}
	t.Logf("answered: %v; refused: %v", answered, problems)
	for _, a := range analyses {
		if answered[a.Name] < 60 {
			t.Errorf("%s was answered in %d of 200 federations: the test says too little", a.Name, answered[a.Name])
		}
	}
	for _, code := range []string{"analysis.level"} {
		if problems[code] == 0 {
			t.Errorf("no federation led to %s", code)
		}
	}
}

// pool collects the complete rows of an analysis, with dummies for dose.
func pool(tab *table, a *consilium.AnalysisSpec) (rows []pooledRow, names int, ok bool) {
	col := func(r []string, name string) (float64, bool) {
		v, err := strconv.ParseFloat(r[tab.index(name)], 64)
		return v, err == nil
	}
	site := map[string]int{}
	patients := map[string]int{}
	absorb := contains(a.Terms, "site") || a.Type == consilium.AnalysisGLM && contains(a.Strata, "site")
	type pending struct {
		r pooledRow
		s int
	}
	var kept []pending
	for _, r := range tab.rows {
		var p pooledRow
		fine := true
		num := func(name string) float64 {
			v, ok := col(r, name)
			fine = fine && ok
			return v
		}
		if a.Response.Stop != "" {
			if a.Response.Start != "" {
				p.start = num(a.Response.Start)
			} else {
				p.start = -1
			}
			p.stop, p.event = num(a.Response.Stop), num(a.Response.Event)
		} else {
			p.y = num(a.Response.Column)
		}
		if a.Offset != nil {
			p.offset = math.Log(num(a.Offset.Column))
		}
		if a.Type == consilium.AnalysisGLM && !absorb {
			p.x = append(p.x, 1)
		}
		for _, term := range a.Terms {
			dose := map[string]int{"low": 0, "mid": 1, "high": 2}
			d, known := dose[r[tab.index("dose")]]
			switch term {
			case "dose", "dose:age":
				fine = fine && known
				w := 1.0
				if term == "dose:age" {
					w = num("age")
				}
				for l := 1; l < 3; l++ {
					v := 0.0
					if d == l {
						v = w
					}
					p.x = append(p.x, v)
				}
			case "site":
			default:
				p.x = append(p.x, num(term))
			}
		}
		for _, s := range append(append([]string{}, a.Strata...), a.By...) {
			if s == "site" {
				continue
			}
			v := r[tab.index(s)]
			fine = fine && v != "NA"
			p.stratum = 10*p.stratum + map[string]int{"a": 0, "b": 1, "low": 0, "mid": 1, "high": 2}[v]
		}
		if !fine {
			continue
		}
		s := r[0]
		if _, seen := site[s]; !seen {
			site[s] = len(site)
		}
		p.site = site[s]
		key := s + "/" + r[1]
		if _, seen := patients[key]; !seen {
			patients[key] = len(patients)
		}
		p.patient = patients[key]
		kept = append(kept, pending{p, p.site})
	}
	for _, k := range kept {
		if absorb { // explicit dummies of every hospital, last
			d := make([]float64, len(site))
			d[k.s] = 1
			names = len(k.r.x)
			k.r.x = append(k.r.x, d...)
		} else {
			names = len(k.r.x)
		}
		rows = append(rows, k.r)
	}
	return rows, names, true
}

// outer is the sandwich's meat from numbers per row.
func outer(rows []pooledRow, q int, residual func(r *pooledRow) []float64) [][]float64 {
	sums := map[int][]float64{}
	for i := range rows {
		v := residual(&rows[i])
		c := rows[i].patient
		if sums[c] == nil {
			sums[c] = make([]float64, q)
		}
		for j := range v {
			sums[c][j] += v[j]
		}
	}
	m := newMatrix(q)
	for _, s := range sums {
		for i := range s {
			for j := range s {
				m[i][j] += s[i] * s[j]
			}
		}
	}
	return m
}

func compareNaive(t *testing.T, seed int64, a *consilium.AnalysisSpec, tab *table, got map[string]any) {
	t.Helper()
	what := func(s string, i int) string { return fmt.Sprintf("seed %d %s %s %d", seed, a.Name, s, i) }
	rows, p, _ := pool(tab, a)
	if got["rows"].(float64) != float64(len(rows)) {
		t.Errorf("%s: %v rows, pooled %d", what("rows", 0), got["rows"], len(rows))
		return
	}
	switch a.Type {
	case consilium.AnalysisKaplanMeier:
		for g := 0; g < 2; g++ {
			c := get(got, "groups", g, "curve")
			for i, at := range vec(get(c, "time")) {
				s := 1.0
				for k := 0; float64(k)*30 <= at; k++ {
					n, d := 0.0, 0.0
					for _, r := range rows {
						if r.stratum != g {
							continue
						}
						cell := math.Ceil(r.stop / 30)
						if cell >= float64(k) {
							n++
						}
						if cell == float64(k) {
							d += r.event
						}
					}
					if n > 0 {
						s *= 1 - d/n
					}
				}
				close9(t, what("surv", i), vec(get(c, "surv"))[i], s)
			}
		}
	case consilium.AnalysisLogrank:
		o, e := make([]float64, 3), make([]float64, 3)
		for i := range rows {
			r := &rows[i]
			if r.event != 1 {
				continue
			}
			n, by := 0.0, make([]float64, 3)
			for k := range rows {
				s := &rows[k]
				if s.site == r.site && s.stop >= r.stop && s.start < r.stop {
					n++
					by[s.stratum]++
				}
			}
			o[r.stratum]++
			for g := range e {
				e[g] += by[g] / n
			}
		}
		for g := range o {
			close9(t, what("expected", g), get(got, "groups", g, "expected").(float64), e[g])
			close9(t, what("observed", g), get(got, "groups", g, "observed").(float64), o[g])
		}
	case consilium.AnalysisCox:
		beta, info, ll, ok := climb(p, naiveCox(rows, p, a.Ties != "breslow"))
		if !ok {
			t.Errorf("%s: an answer where the pooled fit has none", what("coef", 0))
			return
		}
		inv, _ := inverseOf(info)
		for j := range beta {
			close9(t, what("coef", j), terms(got, "coef")[j], beta[j])
			close9(t, what("se", j), terms(got, "se")[j], math.Sqrt(inv[j][j]))
		}
		close9(t, what("loglik", 1), vec(got["loglik"])[1], ll)
		if a.Cluster != "" {
			// The influence of a patient by the definition: the score at the
			// maximum with the patient's rows weighted, by a small difference.
			robust := multiply(multiply(inv, numericMeat(rows, p, beta, a.Ties != "breslow")), inv)
			for j := range beta {
				w := math.Sqrt(robust[j][j])
				if g := terms(got, "robust_se")[j]; math.Abs(g-w) > 1e-5*w {
					t.Errorf("%s: federation %v, pooled %v", what("robust_se", j), g, w)
				}
			}
		}
	case consilium.AnalysisGLM:
		rows, q := finiteSites(rows, p, a.Family)
		beta, info, ll, ok := climb(q, naiveGLM(rows, q, a.Family))
		if !ok {
			t.Errorf("%s: an answer where the pooled fit has none", what("coef", 0))
			return
		}
		inv, _ := inverseOf(info)
		sigma := 1.0
		if a.Family == "gaussian" {
			sigma = -2 * ll / (float64(len(rows)) - float64(q))
		}
		for j := 0; j < p; j++ {
			close9(t, what("coef", j), terms(got, "coef")[j], beta[j])
			close9(t, what("se", j), terms(got, "se")[j], math.Sqrt(sigma*inv[j][j]))
		}
		if a.Family != "gaussian" {
			close9(t, what("loglik", 1), vec(got["loglik"])[1], ll)
		} else {
			close9(t, what("rss", 1), got["deviance"].(float64), -2*ll)
		}
		if a.Robust {
			meat := outer(rows, q, func(r *pooledRow) []float64 {
				eta := dot(beta, r.x) + r.offset
				mu := eta
				if a.Family == "binomial" {
					mu = 1 / (1 + math.Exp(-eta))
				}
				v := make([]float64, q)
				for j := range v {
					v[j] = (r.y - mu) * r.x[j]
				}
				return v
			})
			robust := multiply(multiply(inv, meat), inv)
			for j := 0; j < p; j++ {
				close9(t, what("robust_se", j), terms(got, "robust_se")[j], math.Sqrt(robust[j][j]))
			}
		}
	}
}

// finiteSites leaves out the hospitals whose own intercept is infinite (no
// events, or nothing but), with their dummies.
func finiteSites(rows []pooledRow, p int, family string) ([]pooledRow, int) {
	q := len(rows[0].x)
	if q == p || family == "gaussian" {
		return rows, q
	}
	sum, n := map[int]float64{}, map[int]float64{}
	for _, r := range rows {
		sum[r.site] += r.y
		n[r.site]++
	}
	var keep []pooledRow
	var good []int
	for s := 0; s < q-p; s++ {
		if sum[s] > 0 && !(family == "binomial" && sum[s] == n[s]) {
			good = append(good, s)
		}
	}
	for _, r := range rows {
		x := append([]float64{}, r.x[:p]...)
		in := false
		for _, s := range good {
			x = append(x, r.x[p+s])
			in = in || r.x[p+s] == 1
		}
		if in {
			r.x = x
			keep = append(keep, r)
		}
	}
	return keep, p + len(good)
}

// numericMeat finds every patient's score residual by weighting the patient's
// rows a little more and less in the pooled score.
func numericMeat(rows []pooledRow, p int, beta []float64, efron bool) [][]float64 {
	weighted := func(patient int, w float64) []float64 {
		u := make([]float64, p)
		weight := func(r *pooledRow) float64 {
			if r.patient == patient {
				return w
			}
			return 1
		}
		done := map[string]bool{}
		for i := range rows {
			e := &rows[i]
			key := fmt.Sprint(e.site, " ", e.stop)
			if e.event != 1 || done[key] {
				continue
			}
			done[key] = true
			var risk, dead []*pooledRow
			total := 0.0
			for k := range rows {
				r := &rows[k]
				if r.site == e.site && r.stop >= e.stop && r.start < e.stop {
					risk = append(risk, r)
					if r.event == 1 && r.stop == e.stop {
						dead = append(dead, r)
						total += weight(r)
					}
				}
			}
			for _, r := range dead {
				for j := range u {
					u[j] += weight(r) * r.x[j]
				}
			}
			for m := range dead {
				share := 0.0
				if efron {
					share = float64(m) / float64(len(dead))
				}
				s0, s1 := 0.0, make([]float64, p)
				for _, r := range risk {
					v := weight(r) * math.Exp(dot(beta, r.x))
					if r.event == 1 && r.stop == e.stop {
						v *= 1 - share
					}
					s0 += v
					for j := range s1 {
						s1[j] += v * r.x[j]
					}
				}
				for j := range u {
					u[j] -= total / float64(len(dead)) * s1[j] / s0
				}
			}
		}
		return u
	}
	ids := map[int]bool{}
	for _, r := range rows {
		ids[r.patient] = true
	}
	var order []int
	for id := range ids {
		order = append(order, id)
	}
	sort.Ints(order)
	m := newMatrix(p)
	for _, id := range order {
		const h = 1e-4
		up, down := weighted(id, 1+h), weighted(id, 1-h)
		for i := range m {
			for j := range m {
				m[i][j] += (up[i] - down[i]) / (2 * h) * (up[j] - down[j]) / (2 * h)
			}
		}
	}
	return m
}

// checkProblem asks the pooled table whether a refusal was right.
func checkProblem(t *testing.T, seed int64, a *consilium.AnalysisSpec, tab *table, code string) {
	t.Helper()
	rows, p, _ := pool(tab, a)
	events := 0.0
	for _, r := range rows {
		events += r.event + r.y
	}
	fit := func() bool {
		if a.Type == consilium.AnalysisCox {
			_, _, _, ok := climb(p, naiveCox(rows, p, a.Ties != "breslow"))
			return ok
		}
		rows, q := finiteSites(rows, p, a.Family)
		if len(rows) == 0 {
			return false
		}
		_, _, _, ok := climb(q, naiveGLM(rows, q, a.Family))
		return ok
	}
	right := false
	switch code {
	case "analysis.level":
		for _, name := range []string{"dose:low", "dose:mid", "dose:high", "flag:0", "flag:1"} {
			seen := map[string]bool{}
			for _, r := range tab.rows {
				if r[tab.index(name[:4])] == name[5:] {
					seen[r[0]+r[1]] = true
				}
			}
			// Rows with a missing value elsewhere may push a level below three.
			right = right || len(seen) < 8
		}
	case "analysis.patients", "analysis.rows":
		right = len(rows) < 3
	case "analysis.events":
		right = events == 0 || events == float64(len(rows))
	case "analysis.degrees":
		right = len(rows) <= len(rows[0].x)
	case "analysis.separation", "analysis.estimable", "analysis.convergence":
		right = !fit()
	case "analysis.compare":
		// Groups are compared through risk sets that they share at an event;
		// right if these do not connect all groups that were ever at risk.
		link := [3]int{0, 1, 2}
		present := [3]bool{}
		for i := range rows {
			if rows[i].event != 1 {
				continue
			}
			first := -1
			for k := range rows {
				if rows[k].site == rows[i].site && rows[k].stop >= rows[i].stop && rows[k].start < rows[i].stop {
					g := rows[k].stratum
					present[g] = true
					if first < 0 {
						first = g
					}
					for j, l := 0, link[g]; j < 3; j++ {
						if link[j] == l {
							link[j] = link[first]
						}
					}
				}
			}
		}
		ends := map[int]bool{}
		for g := range link {
			if present[g] {
				ends[link[g]] = true
			}
		}
		right = len(ends) != 1 || present == [3]bool{true, false, false} || present == [3]bool{false, true, false} || present == [3]bool{false, false, true}
	}
	if !right {
		t.Errorf("seed %d %s: refused with %s, but the pooled table has an answer", seed, a.Name, code)
	}
}
