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
}

func renderKM(facts consilium.Facts, a *consilium.AnalysisSpec, by *grouping, grid *timeGrid, v map[string][]float64) any {
	w := grid.cells + 1
	k := float64(facts.MinCohort)
	out := struct {
		head
		Grid     consilium.Grid `json:"grid"`
		ConfType string         `json:"conf_type"`
		Groups   []curveGroup   `json:"groups"`
	}{head: newHead(a, v["cohort"], true), Grid: consilium.Grid{Step: grid.step, Max: grid.max}, ConfType: "log-log"}
	out.Assumptions = append(out.Assumptions, fmt.Sprintf("times are rounded up to the next multiple of %v", grid.step))
	for g := 0; g < by.n; g++ {
		r := curveGroup{Name: by.name(g), Levels: by.values(g), Curve: curve{Time: []float64{}, NRisk: []float64{}, NEvent: []float64{}, NCensor: []float64{},
			Surv: []float64{}, StdErr: []*float64{}, Lower: []*float64{}, Upper: []*float64{}, CumHaz: []float64{}}}
		events, censored := v["events"][g*w:(g+1)*w], v["censored"][g*w:(g+1)*w]
		n := atRisk(events, censored, v["beyond"][g])
		if size := v["cohort"][cohortFixed+g]; size < k && !facts.Permitted(PermitTail) {
			out.Suppressed = append(out.Suppressed, suppressed{"curve " + r.Name, fmt.Sprintf("fewer than %d patients", facts.MinCohort)})
			out.Groups = append(out.Groups, r)
			continue
		}
		total := 0.0
		for _, e := range events {
			total += e
		}
		size := n[0]
		r.N, r.Events = &size, &total
		surv, variance, hazard := 1.0, 0.0, 0.0
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
			variance += d / float64(n[i]*(n[i]-d)) // infinite once nobody is left
			se := math.Sqrt(variance)
			c.Time = append(c.Time, float64(float64(i)*grid.step))
			c.NRisk, c.NEvent, c.NCensor = append(c.NRisk, n[i]), append(c.NEvent, d), append(c.NCensor, censored[i])
			c.Surv, c.CumHaz = append(c.Surv, surv), append(c.CumHaz, hazard)
			lower, upper := math.NaN(), math.NaN()
			switch {
			case surv == 1:
				lower, upper = 1, 1
			case surv > 0:
				x := det.Log(-det.Log(surv))
				half := float64(normal95*se) / det.Log(surv)
				lower, upper = det.Exp(-det.Exp(x-half)), det.Exp(-det.Exp(x+half))
			}
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
		out.Groups = append(out.Groups, r)
	}
	return out
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
