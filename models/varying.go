package models

import (
	"math"

	"consilium"
	"consilium/internal/det"
)

// Terms whose effect changes with time: a column x of the design enters as
// x·g(t) at every event time t, for everybody at risk then (R's tt()). Sums
// over risk sets cannot be carried from one event to the next, so that a
// hospital walks its rows at risk anew for each of its event times.

// addTimeTerms appends the columns of x·g(t).
func (c *coxSpec) addTimeTerms(spec *consilium.Spec, d *design, a *consilium.AnalysisSpec) error {
	if len(a.TimeTerms) == 0 {
		return nil
	}
	if c.common != nil || a.PHCheck != "" || a.Concordance {
		return consilium.ErrInvalid.Withf("timeTerms go with the baseline stratified by hospital, without phCheck and concordance")
	}
	c.varying = make([]string, len(d.columns))
	for _, t := range a.TimeTerms {
		if t.Func != "identity" && t.Func != "log" {
			return consilium.ErrInvalid.Withf("timeTerms: function %q%s; want identity or log", t.Func, suggest(t.Func, []string{"identity", "log"}))
		}
		own, err := newDesign(spec, []string{t.Term}, true)
		if err != nil {
			return err
		}
		known := false
		for _, have := range d.terms {
			known = known || len(own.terms) == 1 && have.name == own.terms[0].name
		}
		if !known {
			return consilium.ErrInvalid.Withf("timeTerms: %s is not among the terms; add it, since its change with time needs its effect to begin with", t.Term)
		}
		suffix := "*time"
		if t.Func == "log" {
			suffix = "*log(time)"
		}
		one := designTerm{name: own.terms[0].name + suffix}
		for _, col := range own.columns {
			col.name += suffix
			col.level, col.reference = "", ""
			for _, have := range d.columns {
				if have.name == col.name {
					return consilium.ErrInvalid.Withf("timeTerms: %s stands twice", t.Term)
				}
			}
			one.columns = append(one.columns, len(d.columns))
			d.columns = append(d.columns, col)
			c.varying = append(c.varying, t.Func)
		}
		d.terms = append(d.terms, one)
	}
	return nil
}

// coxStratumVarying is coxStratum where columns change with time.
func (g *regression) coxStratumVarying(l *localFit, s *stratum, x [][]float64, theta, start, stop, event []float64, residual [][]float64) error {
	p := len(x)
	z, mean := make([]float64, p), make([]float64, p)
	s1, d1 := make([]total, p), make([]total, p)
	s2, d2 := make([]total, packedLen(p)), make([]total, packedLen(p))
	at := make([]float64, p) // what multiplies each column at this time
	row := func(i int) float64 {
		eta := 0.0
		for a := range z {
			z[a] = float64(x[a][i] * at[a])
			eta += float64(theta[a] * z[a])
		}
		return eta
	}
	for first := 0; first < len(s.rows); {
		t := stop[s.rows[first]]
		end, deaths := first, 0
		for ; end < len(s.rows) && stop[s.rows[end]] == t; end++ {
			if event[s.rows[end]] == 1 {
				deaths++
			}
		}
		tied := s.rows[first:end]
		first = end
		if deaths == 0 {
			continue
		}
		for a, f := range g.cox.varying {
			at[a] = 1
			if f == "log" && !(t > 0) {
				return consilium.ErrData.Withf("column %s: an event at time 0 has no logarithm; use the function identity", g.cox.stop)
			}
			if f != "" {
				at[a] = timeValue(f, t)
			}
		}
		risk := s.rows[:end] // stop at or after t
		shift := math.Inf(-1)
		for _, i := range risk {
			if start == nil || start[i] < t {
				shift = math.Max(shift, row(i))
			}
		}
		var s0, d0 total
		clear(s1)
		clear(s2)
		clear(d1)
		clear(d2)
		add := func(t0 *total, t1, t2 []total, w float64) {
			t0.add(w)
			k := 0
			for a := range z {
				wz := float64(w * z[a])
				t1[a].add(wz)
				for b := 0; b <= a; b++ {
					t2[k].add(float64(wz * z[b]))
					k++
				}
			}
		}
		for _, i := range risk {
			if start == nil || start[i] < t {
				eta := row(i)
				add(&s0, s1, s2, det.Exp(eta-shift))
			}
		}
		for _, i := range tied {
			if event[i] != 1 {
				continue
			}
			eta := row(i)
			l.fit[0].add(eta - shift)
			add(&d0, d1, d2, det.Exp(eta-shift))
			for a := range z {
				l.score[a].add(z[a])
			}
		}
		for m := 0; m < deaths; m++ {
			share := 0.0
			if g.cox.efron {
				share = float64(m) / float64(deaths)
			}
			r0 := s0.value() - float64(share*d0.value())
			l.fit[0].add(-det.Log(r0))
			for a := range mean {
				mean[a] = (s1[a].value() - float64(share*d1[a].value())) / r0
				l.score[a].add(-mean[a])
			}
			if residual == nil {
				k := 0
				for a := range mean {
					for b := 0; b <= a; b++ {
						l.information[k].add((s2[k].value()-float64(share*d2[k].value()))/r0 - float64(mean[a]*mean[b]))
						k++
					}
				}
				continue
			}
			for _, i := range risk {
				if start != nil && start[i] >= t {
					continue
				}
				w := det.Exp(row(i)-shift) / r0
				own := stop[i] == t && event[i] == 1
				if own {
					w = float64(w * (1 - share))
				}
				for a := range mean {
					residual[a][i] -= float64(w * (z[a] - mean[a]))
					if own {
						residual[a][i] += (z[a] - mean[a]) / float64(deaths)
					}
				}
			}
		}
	}
	return nil
}
