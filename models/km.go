package models

import (
	"fmt"
	"math"

	"consilium"
	"consilium/internal/det"
)

// newKaplanMeier makes survival curves on a public grid: times are rounded up
// to the grid, and the curve equals R's survfit on those times.
func newKaplanMeier(facts consilium.Facts, a *consilium.AnalysisSpec) (Analysis, error) {
	spec := facts.Spec
	if err := needResponse(spec, a.Response, false); err != nil {
		return nil, err
	}
	by, err := newGrouping(spec, "by", a.By)
	if err != nil {
		return nil, err
	}
	stop, event := a.Response.Stop, a.Response.Event
	grid, err := newTimeGrid(facts, a.Grid, stop)
	if err != nil {
		return nil, err
	}
	if kinds := []string{"log-log", "log", "plain"}; a.ConfType != "" && !contains(kinds, a.ConfType) {
		return nil, consilium.ErrInvalid.Withf("confType %q%s; want log-log, log or plain", a.ConfType, suggest(a.ConfType, kinds))
	}
	if a.Restricted != 0 && !(a.Restricted > 0 && a.Restricted <= float64(float64(grid.cells)*grid.step)) {
		return nil, consilium.ErrInvalid.Withf("restricted %v: want a time above 0 and within the grid", a.Restricted)
	}
	w := grid.cells + 1
	if by.n*w > 1<<20 {
		return nil, consilium.ErrInvalid.Withf("grid: %d groups on %d cells are too many", by.n, w)
	}
	s := &single{facts: facts, spec: a, levels: by.n,
		blocks: []consilium.Block{exactBlock("events", by.n*w), exactBlock("censored", by.n*w), exactBlock("beyond", by.n)}}
	s.local = func(rows *Rows) ([][]float64, error) {
		f, err := readFrame(spec, rows, want{numeric: unique(stop, event), factors: by.columns})
		if err != nil {
			return nil, err
		}
		events, censored, beyond, total, err := grid.counts(f, stop, event, by.n, func(i int) int { return by.of(f, i) })
		if err != nil {
			return nil, err
		}
		return [][]float64{cohortBlock(f, rows, total, by.patients(f)), events, censored, beyond}, nil
	}
	s.scale = func() ([]float64, float64, error) { return ones(by.n * (2*w + 1)), 1, nil } // the cell that it leaves in
	s.render = func(v map[string][]float64) (any, error) { return renderKM(facts, a, by, grid, v), nil }
	return s, nil
}

type curve struct {
	Time    []float64  `json:"time"`
	NRisk   []float64  `json:"n_risk"`
	NEvent  []float64  `json:"n_event"`
	NCensor []float64  `json:"n_censor"`
	Surv    []float64  `json:"surv"`
	StdErr  []*float64 `json:"std_err"` // of log surv (Greenwood)
	Lower   []*float64 `json:"lower"`
	Upper   []*float64 `json:"upper"`
	CumHaz  []float64  `json:"cumhaz"`
	StdHaz  []float64  `json:"std_chaz"` // of cumhaz (Aalen)
}

type curveGroup struct {
	Name        string            `json:"name"`
	Levels      map[string]string `json:"levels"`
	N           *float64          `json:"n"`
	Events      *float64          `json:"events"`
	Curve       curve             `json:"curve"`
	Median      *float64          `json:"median"`
	MedianLower *float64          `json:"median_lower"`
	MedianUpper *float64          `json:"median_upper"`
	RMean       *float64          `json:"rmean,omitempty"`
	RMeanSE     *float64          `json:"rmean_se,omitempty"`
}

func renderKM(facts consilium.Facts, a *consilium.AnalysisSpec, by *grouping, grid *timeGrid, v map[string][]float64) any {
	w := grid.cells + 1
	k := float64(facts.MinCohort)
	out := struct {
		head
		Grid       consilium.Grid `json:"grid"`
		ConfType   string         `json:"conf_type"`
		Restricted float64        `json:"restricted,omitempty"`
		Groups     []curveGroup   `json:"groups"`
	}{head: newHead(a, v["cohort"], true), Grid: consilium.Grid{Step: grid.step, Max: grid.max}, ConfType: a.ConfType, Restricted: a.Restricted}
	if out.ConfType == "" {
		out.ConfType = "log-log"
	}
	out.Assumptions = append(out.Assumptions, fmt.Sprintf("times are rounded up to the next multiple of %v", grid.step))
	sizes := v["cohort"][cohortFixed:]
	hidden := hiddenGroups(sizes, sizes, k)
	for g := 0; g < by.n; g++ {
		r := curveGroup{Name: by.name(g), Levels: by.values(g), Curve: curve{Time: []float64{}, NRisk: []float64{}, NEvent: []float64{}, NCensor: []float64{},
			Surv: []float64{}, StdErr: []*float64{}, Lower: []*float64{}, Upper: []*float64{}, CumHaz: []float64{}, StdHaz: []float64{}}}
		events, censored := v["events"][g*w:(g+1)*w], v["censored"][g*w:(g+1)*w]
		n := atRisk(events, censored, v["beyond"][g])
		if hidden[g] && !facts.Permitted(PermitTail) {
			out.Suppressed = append(out.Suppressed, suppressed{"curve " + r.Name, small(facts)})
			out.Groups = append(out.Groups, r)
			continue
		}
		total := 0.0
		for _, e := range events {
			total += e
		}
		size := n[0]
		r.N, r.Events = &size, &total
		surv, variance, hazard, aalen := 1.0, 0.0, 0.0, 0.0
		c := &r.Curve
		for i := 0; i < w; i++ {
			if n[i] == 0 {
				break
			}
			if n[i] < k && !facts.Permitted(PermitTail) {
				out.Suppressed = append(out.Suppressed, suppressed{fmt.Sprintf("curve %s from %v", r.Name, float64(float64(i)*grid.step)),
					fmt.Sprintf("fewer than %d at risk", facts.MinCohort)})
				break
			}
			d := events[i]
			surv = float64(surv * (n[i] - d) / n[i])
			hazard += d / n[i]
			aalen += d / float64(n[i]*n[i])
			variance += d / float64(n[i]*(n[i]-d)) // infinite once nobody is left
			se := math.Sqrt(variance)
			c.Time = append(c.Time, float64(float64(i)*grid.step))
			c.NRisk, c.NEvent, c.NCensor = append(c.NRisk, n[i]), append(c.NEvent, d), append(c.NCensor, censored[i])
			c.Surv, c.CumHaz, c.StdHaz = append(c.Surv, surv), append(c.CumHaz, hazard), append(c.StdHaz, math.Sqrt(aalen))
			lower, upper := limits(out.ConfType, surv, se)
			if surv == 0 {
				se = math.NaN()
			}
			c.StdErr = append(c.StdErr, finite(se))
			c.Lower, c.Upper = append(c.Lower, finite(lower)), append(c.Upper, finite(upper))
		}
		value := func(p []*float64) []float64 {
			q := make([]float64, len(p))
			for i := range p {
				if q[i] = math.NaN(); p[i] != nil {
					q[i] = *p[i]
				}
			}
			return q
		}
		r.Median = median(c.Time, c.Surv)
		r.MedianLower, r.MedianUpper = median(c.Time, value(c.Lower)), median(c.Time, value(c.Upper))
		if a.Restricted > 0 {
			if r.RMean, r.RMeanSE = restrictedMean(c, a.Restricted); r.RMean == nil {
				out.Suppressed = append(out.Suppressed, suppressed{"restricted mean of " + r.Name, "the curve ends before it"})
			}
		}
		out.Groups = append(out.Groups, r)
	}
	return out
}

// limits are pointwise 95% limits of a survival probability; se is Greenwood's
// of its logarithm (R's survfit, conf.type).
func limits(kind string, surv, se float64) (lower, upper float64) {
	switch {
	case !(surv > 0):
		return math.NaN(), math.NaN()
	case kind == "plain":
		half := float64(float64(normal95*se) * surv)
		return math.Max(surv-half, 0), math.Min(surv+half, 1)
	case kind == "log":
		x, half := det.Log(surv), float64(normal95*se)
		return det.Exp(x - half), math.Min(det.Exp(x+half), 1)
	case surv == 1:
		return 1, 1
	}
	x := det.Log(-det.Log(surv))
	half := float64(normal95*se) / det.Log(surv)
	return det.Exp(-det.Exp(x - half)), det.Exp(-det.Exp(x + half))
}

// restrictedMean is the area under a curve up to a horizon, with Greenwood's
// error (R's survfit, rmean); nil where the curve was cut off before and
// patients remain.
func restrictedMean(c *curve, horizon float64) (mean, se *float64) {
	n := len(c.Time)
	if n == 0 {
		return nil, nil
	}
	last := n - 1
	left := c.NRisk[last] - c.NEvent[last] - c.NCensor[last]
	if c.Time[last] < horizon && left > 0 {
		return nil, nil
	}
	areas := make([]float64, n) // between a time and the next one
	var area, variance total
	for i := range areas {
		to := horizon
		if i+1 < n && c.Time[i+1] < horizon {
			to = c.Time[i+1]
		}
		if from := c.Time[i]; from < to {
			areas[i] = float64((to - from) * c.Surv[i])
		}
		area.add(areas[i])
	}
	rest := total{}
	for i := n - 1; i >= 0; i-- {
		rest.add(areas[i])
		if d := c.NEvent[i]; c.NRisk[i] > d {
			a := rest.value()
			variance.add(float64(float64(a*a)*d) / float64(c.NRisk[i]*(c.NRisk[i]-d)))
		}
	}
	return finite(area.value()), finite(math.Sqrt(variance.value()))
}

// median is the first time at which the curve is at or below one half; where
// it stays at one half, the middle of that stretch, as in R.
func median(time, surv []float64) *float64 {
	const same = 1.5e-8
	for i, s := range surv {
		if s > 0.5+same || s != s {
			continue
		}
		m := time[i]
		if math.Abs(s-0.5) < same {
			for j := i + 1; j < len(surv); j++ {
				if surv[j] < 0.5-same {
					m = float64(0.5 * (time[i] + time[j]))
					break
				}
			}
		}
		return &m
	}
	return nil
}
