package models

import (
	"errors"
	"fmt"
	"math"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/det"
)

// ExcludedRows says, in a result, why rows were left out.
type excludedRows struct {
	Missing   int64 `json:"missing"`
	Consent   int64 `json:"consent"`
	Integrity int64 `json:"integrity"`
	Cohort    int64 `json:"cohort"`
}

type suppressed struct {
	Item   string `json:"item"`
	Reason string `json:"reason"`
}

type test struct {
	Statistic float64  `json:"statistic"`
	DF        float64  `json:"df"`
	DF2       *float64 `json:"df2,omitempty"`
	P         float64  `json:"p"`
}

type term struct {
	Name      string   `json:"name"`
	Column    string   `json:"column,omitempty"`
	Level     string   `json:"level,omitempty"`
	Reference string   `json:"reference,omitempty"`
	Coef      float64  `json:"coef"`
	SE        float64  `json:"se"`
	RobustSE  *float64 `json:"robust_se,omitempty"`
	Z         *float64 `json:"z,omitempty"`
	T         *float64 `json:"t,omitempty"`
	P         *float64 `json:"p"`
	ExpCoef   *float64 `json:"exp_coef,omitempty"`
	Lower     *float64 `json:"lower"`
	Upper     *float64 `json:"upper"`
}

type convergence struct {
	Converged  bool `json:"converged"`
	Iterations int  `json:"iterations"`
}

// head is what every analysis's result begins with.
type head struct {
	Analysis    string       `json:"analysis"`
	Name        string       `json:"name"`
	Rows        int64        `json:"rows"`
	Patients    int64        `json:"patients"`
	Events      *int64       `json:"events,omitempty"`
	Excluded    excludedRows `json:"excluded_rows"`
	Assumptions []string     `json:"assumptions"`
	Warnings    []string     `json:"warnings"`
	Suppressed  []suppressed `json:"suppressed"`
	DP          *struct{}    `json:"dp"`
}

func newHead(a *consilium.AnalysisSpec, cohort []float64, events bool) head {
	h := head{Analysis: a.Type, Name: a.Name, Rows: int64(cohort[cohortRows]), Patients: int64(cohort[cohortPatients]),
		Excluded: excludedRows{Missing: int64(cohort[cohortMissing]), Consent: int64(cohort[cohortConsent]),
			Integrity: int64(cohort[cohortIntegrity]), Cohort: int64(cohort[cohortOutside])},
		Assumptions: []string{}, Warnings: []string{}, Suppressed: []suppressed{}}
	if events {
		e := int64(cohort[cohortEvents])
		h.Events = &e
	}
	return h
}

// problemResult is the result of an analysis that the data cannot answer.
func problemResult(a *consilium.AnalysisSpec, p *Problem) (*Result, error) {
	b, err := canon.Marshal(struct {
		Analysis    string       `json:"analysis"`
		Name        string       `json:"name"`
		Error       *Problem     `json:"error"`
		Assumptions []string     `json:"assumptions"`
		Warnings    []string     `json:"warnings"`
		Suppressed  []suppressed `json:"suppressed"`
	}{a.Type, a.Name, p, []string{}, []string{}, []suppressed{}})
	if err != nil {
		return nil, err
	}
	return &Result{JSON: b, Problem: p}, nil
}

// finite is v, or nil where there is no number to report.
func finite(v float64) *float64 {
	if v != v || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

// Result implements Analysis.
func (g *regression) Result(s *State) (*Result, error) {
	if s.Phase == phaseFailed {
		p, err := problem(s, g.facts.MinCohort, int(s.Iteration), g.name)
		if err != nil {
			return nil, err
		}
		return problemResult(g.spec, p)
	}
	f, err := g.load(s)
	if err != nil {
		return nil, err
	}
	q := g.q()
	beta, vcov, robust := g.raw(f)
	gaussian := g.family == "gaussian"
	n := f.cohort[cohortRows]
	df := n - float64(q) - g.sites(f.cohort)
	dispersion := 1.0
	if gaussian {
		dispersion = f.pearson / df
		for i := range vcov {
			for j := range vcov[i] {
				vcov[i][j] = float64(vcov[i][j] * dispersion)
			}
		}
	}
	type out struct {
		head
		Terms        []term             `json:"terms"`
		Vcov         [][]float64        `json:"vcov"`
		RobustVcov   [][]float64        `json:"robust_vcov,omitempty"`
		Loglik       [2]float64         `json:"loglik"`
		Tests        map[string]test    `json:"tests"`
		Convergence  convergence        `json:"convergence"`
		Ties         string             `json:"ties,omitempty"`
		Family       string             `json:"family,omitempty"`
		PHCheck      *phCheck           `json:"ph_check,omitempty"`
		Concordance  *concordanceResult `json:"concordance,omitempty"`
		Baseline     []baselineCurve    `json:"baseline,omitempty"`
		Evaluation   *evaluation        `json:"evaluation,omitempty"`
		Clusters     *int64             `json:"clusters,omitempty"`
		Deviance     *float64           `json:"deviance,omitempty"`
		NullDeviance *float64           `json:"null_deviance,omitempty"`
		DFResidual   *float64           `json:"df_residual,omitempty"`
		DFNull       *float64           `json:"df_null,omitempty"`
		AIC          *float64           `json:"aic,omitempty"`
		Dispersion   *float64           `json:"dispersion,omitempty"`
		Pearson      *float64           `json:"pearson_chisq,omitempty"`
		Theta        *float64           `json:"theta,omitempty"`
		ThetaSE      *float64           `json:"se_theta,omitempty"`
		Sigma        *float64           `json:"sigma,omitempty"`
		RSquared     *float64           `json:"r_squared,omitempty"`
		AdjRSquared  *float64           `json:"adj_r_squared,omitempty"`
	}
	if g.common() && len(f.fitted) == 0 {
		return nil, errors.New("state: nobody is in the fit")
	}
	if g.common() { // strata that take no part are not spoken about
		f.cohort[cohortRows], f.cohort[cohortPatients], f.cohort[cohortEvents] = f.fitted[fittedRows], f.fitted[fittedPatients], f.fitted[fittedEvents]
	}
	r := out{head: newHead(g.spec, f.cohort, !gaussian), Vcov: vcov, RobustVcov: robust, Tests: map[string]test{},
		Convergence: convergence{Converged: true, Iterations: int(f.steps)}}
	crit := normal95
	if gaussian && !g.robust {
		crit = det.StudentQuantile(0.05, df)
	}
	for k := range beta {
		t := term{Name: g.name(failEstimable, k), Coef: beta[k], SE: math.Sqrt(vcov[k][k])}
		if j := k - (q - g.p()); j >= 0 {
			c := &g.d.columns[j]
			t.Column, t.Level, t.Reference = c.source, c.level, c.reference
		}
		se := t.SE
		if g.robust {
			se = math.Sqrt(robust[k][k])
			t.RobustSE = finite(se)
		}
		if z := beta[k] / se; finite(z) != nil {
			p := twoSided(z)
			if gaussian && !g.robust {
				t.T = &z
				p = det.StudentTail(z, df)
			} else {
				t.Z = &z
			}
			t.P = &p
			lower, upper := beta[k]-float64(crit*se), beta[k]+float64(crit*se)
			if k < g.base() && g.pieces != nil {
				t.Column = "baseline"
			}
			if !gaussian {
				t.ExpCoef = finite(det.Exp(beta[k]))
				lower, upper = det.Exp(lower), det.Exp(upper)
			}
			t.Lower, t.Upper = finite(lower), finite(upper)
		}
		r.Terms = append(r.Terms, t)
	}
	chi := func(name string, stat float64, df int) {
		if df > 0 && finite(stat) != nil {
			r.Tests[name] = test{Statistic: stat, DF: float64(df), P: det.ChiSquareTail(stat, df)}
		}
	}
	// The Wald test leaves the intercept out.
	tested := vcov
	if g.robust {
		tested = robust
	}
	off := q - g.p()
	sub := newMatrix(g.p())
	for i := range sub {
		copy(sub[i], tested[off+i][off:])
	}
	wald, invertible := 0.0, false
	if g.p() > 0 {
		wald, invertible = quadratic(beta[off:], sub)
	}
	if g.family == familyCox || g.pieces != nil {
		r.Loglik = [2]float64{f.ll0, f.rawLL}
		if g.cox != nil {
			r.Ties = "breslow"
			if g.cox.efron {
				r.Ties = "efron"
			}
		}
		if g.ridge == 0 {
			chi("lrt", float64(2*(f.rawLL-f.ll0)), g.p())
			chi("score", f.score0, g.p())
		}
		if invertible {
			chi("wald", wald, g.p())
		}
		if g.pieces != nil {
			r.Assumptions = append(r.Assumptions, "one baseline hazard for all hospitals, constant between the cuts; its coefficients are log hazards per unit of time where every column is zero")
		} else if g.common() {
			r.Baseline = g.baselineCurves(f)
			for _, s := range g.cox.common.leftOut(f) {
				r.Suppressed = append(r.Suppressed, suppressed{"stratum " + s, fmt.Sprintf("fewer than %d patients, or fewer than %d of a level, leave with the event, or without it; its rows are not in the fit", g.facts.MinCohort, minLevelPatients)})
			}
			how := fmt.Sprintf("one baseline hazard for all hospitals; times are rounded up to the next multiple of %v, entries down", g.cox.common.grid.step)
			if g.cox.common.join {
				how += fmt.Sprintf(", and cells are joined until in each nobody or at least %d patients have the event, and nobody or at least %d leave without", g.facts.MinCohort, g.facts.MinCohort)
				if !g.facts.Permitted(PermitSmallLevels) && len(g.d.checks) > 0 {
					how += fmt.Sprintf(" (of every level nobody or at least %d)", minLevelPatients)
				}
			}
			r.Assumptions = append(r.Assumptions, how)
			if n := len(f.deadly()); g.cox.common.join && n < fewStretches {
				r.Warnings = append(r.Warnings, fmt.Sprintf("times are known as one of %d stretches, whose events count as simultaneous: coefficients are nearer to zero than on exact times; the default baseline (stratified by hospital) and piecewise know more", n))
			}
		} else {
			r.Assumptions = append(r.Assumptions, "stratified by hospital: every hospital has its own baseline hazard")
		}
		if g.phCheck != "" {
			if r.PHCheck = g.phResult(f); r.PHCheck == nil {
				r.Warnings = append(r.Warnings, "the test of proportional hazards has no answer: the information is singular")
			}
		}
		if g.concordance {
			r.Concordance = renderConcordance(g.final(f, blockConcordance))
			r.Assumptions = append(r.Assumptions, "concordance compares patients of the same hospital and stratum only")
		}
	} else {
		g.glmResult(f, n, df, dispersion, &r.Loglik, func(name string, v float64) {
			p := finite(v)
			switch name {
			case "deviance":
				r.Deviance = p
			case "null_deviance":
				r.NullDeviance = p
			case "aic":
				r.AIC = p
			case "sigma":
				r.Sigma = p
			case "r_squared":
				r.RSquared = p
			case "adj_r_squared":
				r.AdjRSquared = p
			}
		})
		r.Family, r.DFResidual, r.Dispersion, r.Pearson = g.family, &df, &dispersion, &f.pearson
		dfNull := n
		if g.intercept || g.absorb {
			dfNull--
		}
		r.DFNull = &dfNull
		model := int(dfNull - df)
		switch {
		case g.ridge > 0:
		case gaussian:
			if fit, res := *r.NullDeviance-*r.Deviance, *r.Deviance; model > 0 && res > 0 {
				stat := (fit / float64(model)) / (res / df)
				r.Tests["f"] = test{Statistic: stat, DF: float64(model), DF2: &df, P: det.FTail(stat, float64(model), df)}
			}
		default:
			chi("lrt", *r.NullDeviance-*r.Deviance, model)
		}
		if invertible {
			chi("wald", wald, g.p())
		}
		if g.family == familyNegBin {
			theta := det.Exp(f.tau)
			r.Theta, r.ThetaSE = finite(theta), finite(float64(theta*f.tauSE))
			r.Assumptions = append(r.Assumptions, "errors of the coefficients take theta as known, as MASS has them; the deviances are at the estimated theta")
		}
		if g.evaluate > 0 {
			r.Evaluation = renderEvaluation(g.facts, g.evaluate, g.final(f, blockEvaluate), f.cohort[cohortRows] == f.cohort[cohortPatients], func(item, reason string) {
				r.Suppressed = append(r.Suppressed, suppressed{item, reason})
			})
			r.Assumptions = append(r.Assumptions, "evaluated on the rows that the model was fitted to: new patients will be predicted less well")
		}
		if g.absorb {
			r.Assumptions = append(r.Assumptions, "every hospital has an intercept of its own, which it estimates itself and does not send")
		}
	}
	if g.robust {
		c := int64(g.final(f, blockClusters)[0])
		r.Clusters = &c
		unit := "patient"
		if g.bySite {
			unit = "hospital"
		}
		r.Assumptions = append(r.Assumptions, "robust errors (sandwich) with the "+unit+" as cluster, without a small-sample factor; z, p, limits and the Wald test use them")
	}
	if g.ridge > 0 {
		r.Warnings = append(r.Warnings, "ridge estimates are shrunken: their errors are those of the penalised likelihood and p-values are not exact")
	}
	if f.floor == 1 {
		r.Warnings = append(r.Warnings, "the last step stopped shrinking above the tolerance, at the precision of the sums")
	}
	b, err := canon.Marshal(r)
	if err != nil {
		return nil, err
	}
	return &Result{JSON: b}, nil
}

// glmResult fills deviances and what follows from them.
func (g *regression) glmResult(f *fit, n, df, dispersion float64, loglik *[2]float64, set func(string, float64)) {
	k := n - df // coefficients, the profiled ones included
	switch g.family {
	case "gaussian":
		rss, null := f.pearson, float64(-2*f.nullLL)
		ll := func(rss float64) float64 {
			if rss <= 0 {
				return 0
			}
			return float64(-0.5 * n * (det.Log(float64(2*math.Pi)*rss/n) + 1))
		}
		*loglik = [2]float64{ll(null), ll(rss)}
		set("deviance", rss)
		set("null_deviance", null)
		set("aic", float64(2*(k+1))-float64(2*loglik[1]))
		set("sigma", math.Sqrt(dispersion))
		if null > 0 {
			set("r_squared", 1-rss/null)
			dfNull := n
			if g.intercept || g.absorb {
				dfNull--
			}
			set("adj_r_squared", 1-(rss/df)/(null/dfNull))
		}
	case familyNegBin:
		*loglik = [2]float64{f.nullLL, f.rawLL}
		set("deviance", f.deviance)
		set("null_deviance", f.nullDeviance)
		set("aic", float64(2*(k+1))-float64(2*f.rawLL))
	default:
		*loglik = [2]float64{f.nullLL, f.rawLL}
		set("deviance", float64(2*(f.saturated-f.rawLL)))
		set("null_deviance", float64(2*(f.saturated-f.nullLL)))
		set("aic", float64(2*k)-float64(2*f.rawLL))
	}
}
