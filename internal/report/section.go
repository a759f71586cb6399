package report

import (
	"encoding/json"
	"fmt"
	"html/template"
	"math"
	"slices"
	"sort"
	"strings"
)

// section is one analysis on the page.
type section struct {
	ID       string
	Type     string
	Name     string
	Heading  string
	Lead     string // one sentence that says what came out
	Patients *json.Number
	Rows     *json.Number
	Events   *json.Number
	Left     []Fact // rows left out, by reason
	Terms    *terms
	Plots    []template.HTML
	Tables   []grid
	Facts    []Fact
	Error    *fault
	Assumed  []string
	Warned   []string
	Hidden   []string // suppressed
}

type fault struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Next    string `json:"next"`
}

// terms is the table of a fitted model.
type terms struct {
	Effect string // hazard ratio, odds ratio, …
	Robust bool
	Stat   string // z or t
	Rows   []termRow
}

type termRow struct {
	Name, Detail                        string
	Coef, SE, RobustSE, Stat, P, Effect string
	Lower, Upper                        string
	XCoef, XSE, XP, XLower, XUpper      string // exact texts
	XEffect                             string
}

// grid is a table of numbers with row and column heads.
type grid struct {
	Caption string
	Kind    string
	Corner  string
	Head    []string
	Rows    []gridRow
	Note    string
}

type gridRow struct {
	Name  string
	Cells []gridCell
}

type gridCell struct{ Text, Exact string }

type termJSON struct {
	Name      string       `json:"name"`
	Column    string       `json:"column"`
	Level     string       `json:"level"`
	Reference string       `json:"reference"`
	Coef      *json.Number `json:"coef"`
	SE        *json.Number `json:"se"`
	RobustSE  *json.Number `json:"robust_se"`
	Z         *json.Number `json:"z"`
	T         *json.Number `json:"t"`
	P         *json.Number `json:"p"`
	ExpCoef   *json.Number `json:"exp_coef"`
	Lower     *json.Number `json:"lower"`
	Upper     *json.Number `json:"upper"`
}

type curveJSON struct {
	Time    []json.Number  `json:"time"`
	NRisk   []*json.Number `json:"n_risk"`
	NEvent  []*json.Number `json:"n_event"`
	NCensor []*json.Number `json:"n_censor"`
	Surv    []*json.Number `json:"surv"`
	Lower   []*json.Number `json:"lower"`
	Upper   []*json.Number `json:"upper"`
}

type testJSON struct {
	Statistic *json.Number `json:"statistic"`
	DF        *json.Number `json:"df"`
	DF2       *json.Number `json:"df2"`
	P         *json.Number `json:"p"`
	Corrected *testJSON    `json:"corrected"` // for continuity
	Odds      *json.Number `json:"odds_ratio"`
	Lower     *json.Number `json:"lower"`
	Upper     *json.Number `json:"upper"`
}

type groupJSON struct {
	Name        string       `json:"name"`
	N           *json.Number `json:"n"`
	Events      *json.Number `json:"events"`
	Curve       curveJSON    `json:"curve"`
	Median      *json.Number `json:"median"`
	MedianLower *json.Number `json:"median_lower"`
	MedianUpper *json.Number `json:"median_upper"`
	Observed    *json.Number `json:"observed"`
	Expected    *json.Number `json:"expected"`
}

type splitJSON struct {
	Rows     *json.Number `json:"rows"`
	Patients *json.Number `json:"patients"`
	Events   *json.Number `json:"events"`
	Loss     *json.Number `json:"loss"`
	AUC      *json.Number `json:"auc"`
	Brier    *json.Number `json:"brier"`
	R2       *json.Number `json:"r2"`
	MAE      *json.Number `json:"mae"`
	C        *json.Number `json:"c_index"`
}

type axisJSON struct {
	Column string   `json:"column"`
	Levels []string `json:"levels"`
}

type variableJSON struct {
	Name   string `json:"name"`
	Kind   string `json:"kind"`
	Groups []struct {
		Name      string       `json:"name"`
		N         *json.Number `json:"n"`
		Missing   *json.Number `json:"missing"`
		Mean      *json.Number `json:"mean"`
		SD        *json.Number `json:"sd"`
		Histogram *struct {
			Breaks []json.Number  `json:"breaks"`
			Counts []*json.Number `json:"counts"`
		} `json:"histogram"`
		Quantiles []struct {
			P     json.Number  `json:"p"`
			Lower *json.Number `json:"lower"`
			Upper *json.Number `json:"upper"`
		} `json:"quantiles"`
		Counts []struct {
			Level string       `json:"level"`
			Count *json.Number `json:"count"`
		} `json:"counts"`
	} `json:"groups"`
}

type analysisJSON struct {
	Analysis    string                  `json:"analysis"`
	Name        string                  `json:"name"`
	Rows        *json.Number            `json:"rows"`
	Patients    *json.Number            `json:"patients"`
	Events      *json.Number            `json:"events"`
	Excluded    map[string]*json.Number `json:"excluded_rows"`
	Assumptions []string                `json:"assumptions"`
	Warnings    []string                `json:"warnings"`
	Suppressed  []json.RawMessage       `json:"suppressed"`
	Error       *fault                  `json:"error"`

	Terms       []termJSON          `json:"terms"`
	Family      string              `json:"family"`
	Ties        string              `json:"ties"`
	Loglik      []*json.Number      `json:"loglik"`
	Tests       map[string]testJSON `json:"tests"`
	Convergence *struct {
		Converged  bool        `json:"converged"`
		Iterations json.Number `json:"iterations"`
	} `json:"convergence"`

	Groups []groupJSON `json:"groups"`
	Grid   *struct {
		Step json.Number `json:"step"`
		Max  json.Number `json:"max"`
	} `json:"grid"`
	Chisq *json.Number `json:"chisq"`
	DF    *json.Number `json:"df"`
	P     *json.Number `json:"p"`

	Variables    []variableJSON   `json:"variables"`
	TableRows    *axisJSON        `json:"table_rows"`
	TableColumns *axisJSON        `json:"table_columns"`
	Counts       [][]*json.Number `json:"counts"`

	Training *splitJSON `json:"training"`
	Holdout  *splitJSON `json:"holdout"`
	Model    *struct {
		Loss       string      `json:"loss"`
		Inputs     json.Number `json:"inputs"`
		Parameters json.Number `json:"parameters"`
		Weights    string      `json:"weights"`
	} `json:"model"`
	Strategy *struct {
		Name   string      `json:"name"`
		Rounds json.Number `json:"rounds"`
	} `json:"strategy"`
	Curves *struct {
		TrainingLoss []*json.Number `json:"training_loss"`
		TrainingAUC  []*json.Number `json:"training_auc"`
		HoldoutLoss  []*json.Number `json:"holdout_loss"`
		HoldoutAUC   []*json.Number `json:"holdout_auc"`
	} `json:"curves"`
	BestRound   *json.Number `json:"best_round"`
	Calibration []struct {
		Split    string       `json:"split"`
		Expected *json.Number `json:"expected"`
		Observed *json.Number `json:"observed"`
	} `json:"calibration"`
	Thresholds []struct {
		Share       *json.Number `json:"share"`
		Score       *json.Number `json:"score"`
		Sensitivity *json.Number `json:"sensitivity"`
		FalseAlarms *json.Number `json:"false_alarms"`
	} `json:"thresholds"`
}

var headings = map[string]string{
	"cox": "Cox model", "glm": "Regression", "kaplan-meier": "Survival curves", "logrank": "Log-rank test",
	"gwas": "Scan of variants", "train": "Trained model", "describe": "Description", "crosstab": "Table",
}

var familyHeadings = map[string]string{"binomial": "Logistic regression", "poisson": "Poisson regression", "gaussian": "Linear regression",
	"negative-binomial": "Negative binomial regression"}

func newSection(raw json.RawMessage, i int, timeUnit string) (out *section, failure error) {
	var a analysisJSON
	if err := json.Unmarshal(raw, &a); err != nil {
		return nil, err
	}
	s := &section{ID: fmt.Sprintf("analysis-%d", i+1), Type: a.Analysis, Name: first(a.Name, a.Analysis), Heading: first(familyHeadings[a.Family], headings[a.Analysis], a.Analysis),
		Patients: a.Patients, Rows: a.Rows, Events: a.Events, Error: a.Error, Assumed: a.Assumptions, Warned: a.Warnings}
	for _, reason := range []struct{ key, text string }{{"missing", "a value was missing"}, {"consent", "no consent"}, {"integrity", "not in the ledger"},
		{"cohort", "outside the cohort"}} {
		if n := a.Excluded[reason.key]; n != nil && value(n) > 0 {
			s.Left = append(s.Left, Fact{reason.text, group(n.String())})
		}
	}
	for _, raw := range a.Suppressed {
		var item struct{ Item, Reason string }
		var text string
		if json.Unmarshal(raw, &item) == nil && item.Item != "" {
			text = item.Item + ": " + item.Reason
		} else if json.Unmarshal(raw, &text) != nil {
			continue
		}
		s.Hidden = append(s.Hidden, text)
	}
	if a.Error != nil {
		return s, nil
	}
	if a.Analysis == "gwas" {
		s.Heading = headings["gwas"]
	}
	defer func() {
		if failure == nil {
			failure = s.exact(raw)
		}
	}()
	switch {
	case len(a.Terms) > 0:
		s.model(&a)
	case a.Analysis == "kaplan-meier":
		s.survival(&a, timeUnit)
	case a.Analysis == "logrank":
		s.logrank(&a)
	case a.Analysis == "train":
		s.train(&a)
	case a.Analysis == "describe":
		s.describe(&a)
	case a.Analysis == "crosstab":
		s.crosstab(&a)
	}
	return s, nil
}

// effectName is what exp(coef), or coef, is called.
func effectName(a *analysisJSON) string {
	switch {
	case a.Analysis == "cox":
		return "hazard ratio"
	case a.Family == "binomial":
		return "odds ratio"
	case a.Family == "poisson" || a.Family == "negative-binomial":
		return "rate ratio"
	}
	return "difference"
}

func (s *section) model(a *analysisJSON) {
	t := &terms{Effect: effectName(a), Stat: "z"}
	s.Terms = t
	for i := range a.Terms {
		r := &a.Terms[i]
		row := termRow{Name: r.Name, Coef: shortP(r.Coef, 3), SE: shortP(r.SE, 3), P: pValue(r.P), Lower: shortP(r.Lower, 3), Upper: shortP(r.Upper, 3),
			XCoef: exact(r.Coef), XSE: exact(r.SE), XP: exact(r.P), XLower: exact(r.Lower), XUpper: exact(r.Upper)}
		row.Detail = termDetail(r)
		stat := r.Z
		if r.T != nil {
			t.Stat, stat = "t", r.T
		}
		row.Stat = shortP(stat, 3)
		if r.RobustSE != nil {
			t.Robust = true
			row.RobustSE = shortP(r.RobustSE, 3)
		}
		effect := r.Coef
		if t.Effect != "difference" {
			effect = r.ExpCoef
		}
		row.Effect, row.XEffect = shortP(effect, 3), exact(effect)
		t.Rows = append(t.Rows, row)
	}
	s.Plots = append(s.Plots, forest(s.ID, a.Terms, t.Effect))
	for i := range a.Terms {
		r := &a.Terms[i]
		if r.Name == "(Intercept)" || r.Lower == nil || r.Upper == nil {
			continue
		}
		effect := r.Coef
		if t.Effect != "difference" {
			effect = r.ExpCoef
		}
		what := r.Name
		switch {
		case r.Level != "" && r.Reference != "" && !strings.Contains(r.Name, "*"):
			what = fmt.Sprintf("%s %s against %s", r.Column, r.Level, r.Reference)
		case t.Effect != "difference" && r.Column != "" && r.Level == "":
			what = "one unit more of " + r.Name
		}
		s.Lead = fmt.Sprintf("%s: %s %s (95%% confidence interval %s to %s), %s.", what, t.Effect, shortP(effect, 3), shortP(r.Lower, 3), shortP(r.Upper, 3), pSentence(r.P))
		break
	}
	if len(a.Loglik) == 2 {
		if a.Loglik[0] != nil {
			s.Facts = append(s.Facts, Fact{"Log-likelihood, without terms", shortP(a.Loglik[0], 8)})
		}
		s.Facts = append(s.Facts, Fact{"Log-likelihood, fitted", shortP(a.Loglik[1], 8)})
	}
	for _, name := range []struct{ key, text string }{{"lrt", "Likelihood ratio test"}, {"wald", "Wald test"}, {"score", "Score test"}, {"f", "F test"}} {
		if test, ok := a.Tests[name.key]; ok {
			df := shortP(test.DF, 4)
			if test.DF2 != nil {
				df += " and " + shortP(test.DF2, 4)
			}
			s.Facts = append(s.Facts, Fact{name.text, fmt.Sprintf("%s on %s df, %s", shortP(test.Statistic, 4), df, pSentence(test.P))})
		}
	}
	if a.Ties != "" {
		s.Facts = append(s.Facts, Fact{"Ties", strings.ToUpper(a.Ties[:1]) + a.Ties[1:]})
	}
	if c := a.Convergence; c != nil {
		text := "converged"
		if !c.Converged {
			text = "did not converge"
		}
		s.Facts = append(s.Facts, Fact{"Iterations", c.Iterations.String() + ", " + text})
	}
}

func termDetail(r *termJSON) string {
	if r.Level != "" && r.Reference != "" && !strings.Contains(r.Name, "*") {
		return r.Level + " against " + r.Reference
	}
	return ""
}

func (s *section) survival(a *analysisJSON, unit string) {
	s.Plots = append(s.Plots, survivalPlot(s.ID, a, unit, s.Hidden))
	t := grid{Caption: "Patients, events and median time", Kind: "groups", Corner: "group", Head: []string{"patients", "events", "median time", "95% confidence interval"}}
	var lead []string
	at := readable(a.Groups)
	for i := range a.Groups {
		g := &a.Groups[i]
		ci := "–"
		if g.MedianLower != nil || g.MedianUpper != nil {
			ci = open(g.MedianLower, "") + " to " + open(g.MedianUpper, "∞")
		}
		t.Rows = append(t.Rows, gridRow{Name: label(g.Name), Cells: []gridCell{
			{whole(g.N), exact(g.N)}, {whole(g.Events), exact(g.Events)}, {open(g.Median, "not reached"), exact(g.Median)}, {ci, ""}}})
		if v := survivalAt(&g.Curve, at); v != nil {
			lead = append(lead, fmt.Sprintf("%s %s%%", label(g.Name), sig(100*value(v), 3)))
		}
	}
	if len(lead) > 0 {
		s.Lead = fmt.Sprintf("Estimated to be without an event at time %s: %s.", sig(at, 4), strings.Join(lead, "; "))
	}
	s.Tables = append(s.Tables, t)
}

// readable is the last time at which every group still has a tenth of its
// patients at risk: later estimates rest on hardly anybody.
func readable(groups []groupJSON) float64 {
	at := math.Inf(1)
	for i := range groups {
		c := &groups[i].Curve
		end := math.NaN()
		for k := range c.Time {
			if value(nth(c.NRisk, k)) >= 0.1*value(nth(c.NRisk, 0)) && survivalAt(c, value(&c.Time[k])) != nil {
				end = value(&c.Time[k])
			}
		}
		at = min(at, end) // NaN if a group has no curve
	}
	return at
}

// survivalAt is a curve's value at one of its times, or nil.
func survivalAt(c *curveJSON, t float64) *json.Number {
	for k := range c.Time {
		if value(&c.Time[k]) == t {
			return nth(c.Surv, k)
		}
	}
	return nil
}

func open(n *json.Number, none string) string {
	if n == nil {
		if none == "" {
			return "–"
		}
		return none
	}
	return shortP(n, 4)
}

func whole(n *json.Number) string {
	if n == nil {
		return "–"
	}
	return group(n.String())
}

// label makes treat:placebo read treat placebo; no group is everybody.
func label(name string) string {
	if name == "" {
		return "all patients"
	}
	return name
}

func (s *section) logrank(a *analysisJSON) {
	t := grid{Caption: "Events observed, and expected if the groups did not differ", Kind: "groups", Corner: "group", Head: []string{"patients", "observed", "expected"}}
	for i := range a.Groups {
		g := &a.Groups[i]
		t.Rows = append(t.Rows, gridRow{Name: label(g.Name), Cells: []gridCell{
			{whole(g.N), exact(g.N)}, {whole(g.Observed), exact(g.Observed)}, {shortP(g.Expected, 4), exact(g.Expected)}}})
	}
	s.Tables = append(s.Tables, t)
	s.Lead = fmt.Sprintf("χ² = %s on %s degree%s of freedom, %s.", shortP(a.Chisq, 4), shortP(a.DF, 4), plural(value(a.DF)), pSentence(a.P))
}

func plural(v float64) string {
	if v == 1 {
		return ""
	}
	return "s"
}

func (s *section) train(a *analysisJSON) {
	loss := ""
	if a.Model != nil {
		loss = a.Model.Loss
	}
	second, what := "AUC", "loss"
	switch loss {
	case "squared":
		second = "R²"
	case "cox":
		second = "C"
	case "reconstruction":
		what = "anomaly score"
	}
	if c := a.Curves; c != nil {
		s.Plots = append(s.Plots,
			trainingPlot(s.ID+"-loss", "Loss after each round", "loss", []series{{"training", c.TrainingLoss}, {"holdout", c.HoldoutLoss}}, 0, math.NaN()))
		if loss != "reconstruction" || slices.ContainsFunc(c.TrainingAUC, func(n *json.Number) bool { return n != nil }) {
			s.Plots = append(s.Plots,
				trainingPlot(s.ID+"-auc", second+" after each round", strings.ToLower(second), []series{{"training", c.TrainingAUC}, {"holdout", c.HoldoutAUC}}, math.NaN(), 1))
		}
	}
	for _, split := range []string{"training", "holdout"} {
		var points []unitPoint
		for _, c := range a.Calibration {
			if c.Split == split && c.Observed != nil && c.Expected != nil {
				points = append(points, unitPoint{c.Expected, c.Observed})
			}
		}
		if len(points) > 0 {
			s.Plots = append(s.Plots, unitPlot(s.ID+"-calibration-"+split, "Calibration, "+split+" rows", "predicted risk", "share with the event", points, false))
		}
	}
	t := grid{Caption: "The final model", Kind: "splits", Corner: "on"}
	type metric struct {
		name string
		get  func(*splitJSON) *json.Number
	}
	metrics := []metric{{"patients", func(p *splitJSON) *json.Number { return p.Patients }}, {"rows", func(p *splitJSON) *json.Number { return p.Rows }},
		{"events", func(p *splitJSON) *json.Number { return p.Events }}, {what, func(p *splitJSON) *json.Number { return p.Loss }}}
	switch loss {
	case "squared":
		metrics = append(metrics, metric{"R²", func(p *splitJSON) *json.Number { return p.R2 }}, metric{"mean absolute error", func(p *splitJSON) *json.Number { return p.MAE }})
	case "cox":
		metrics = append(metrics, metric{"C", func(p *splitJSON) *json.Number { return p.C }})
	case "reconstruction":
		metrics = append(metrics, metric{"AUC", func(p *splitJSON) *json.Number { return p.AUC }})
	default:
		metrics = append(metrics, metric{"AUC", func(p *splitJSON) *json.Number { return p.AUC }}, metric{"Brier score", func(p *splitJSON) *json.Number { return p.Brier }})
	}
	for _, m := range metrics {
		t.Head = append(t.Head, m.name)
	}
	for _, p := range []struct {
		name  string
		split *splitJSON
	}{{"training patients", a.Training}, {"holdout patients", a.Holdout}} {
		if p.split == nil {
			continue
		}
		row := gridRow{Name: p.name}
		for i, m := range metrics {
			n := m.get(p.split)
			text := shortP(n, 3)
			if i < 3 {
				text = whole(n)
			}
			row.Cells = append(row.Cells, gridCell{text, exact(n)})
		}
		t.Rows = append(t.Rows, row)
	}
	s.Tables = append(s.Tables, t)
	if len(a.Thresholds) > 0 {
		t := grid{Caption: "Anomaly scores of the training rows", Kind: "thresholds", Corner: "share below", Head: []string{"score", "labelled rows above", "other rows above"}}
		for _, c := range a.Thresholds {
			t.Rows = append(t.Rows, gridRow{Name: shortP(c.Share, 3), Cells: []gridCell{{shortP(c.Score, 4), exact(c.Score)},
				{shortP(c.Sensitivity, 3), exact(c.Sensitivity)}, {shortP(c.FalseAlarms, 3), exact(c.FalseAlarms)}}})
		}
		s.Tables = append(s.Tables, t)
	}
	if h := a.Holdout; h != nil && h.AUC != nil {
		s.Lead = fmt.Sprintf("On patients that it did not see in training, the model has an AUC of %s.", shortP(h.AUC, 3))
	} else if h != nil && h.C != nil {
		s.Lead = fmt.Sprintf("On patients that it did not see in training, the model has a concordance of %s within hospitals.", shortP(h.C, 3))
	}
	if a.BestRound != nil {
		s.Facts = append(s.Facts, Fact{"Best after", a.BestRound.String() + " rounds"})
	}
	if m := a.Model; m != nil {
		s.Facts = append(s.Facts, Fact{"Parameters", group(m.Parameters.String())}, Fact{"Inputs", m.Inputs.String()})
		if m.Weights != "" {
			s.Facts = append(s.Facts, Fact{"Digest of the weights", m.Weights})
		}
	}
	if st := a.Strategy; st != nil {
		s.Facts = append(s.Facts, Fact{"Strategy", st.Name + ", " + st.Rounds.String() + " rounds"})
	}
}

func (s *section) describe(a *analysisJSON) {
	for i := range a.Variables {
		v := &a.Variables[i]
		t := grid{Caption: v.Name, Kind: "variable", Corner: "group", Head: []string{"patients", "missing"}}
		if v.Kind == "number" {
			t.Head = append(t.Head, "mean", "standard deviation")
		}
		for gi := range v.Groups {
			g := &v.Groups[gi]
			row := gridRow{Name: label(g.Name), Cells: []gridCell{{whole(g.N), exact(g.N)}, {whole(g.Missing), exact(g.Missing)}}}
			if v.Kind == "number" {
				row.Cells = append(row.Cells, gridCell{shortP(g.Mean, 4), exact(g.Mean)}, gridCell{shortP(g.SD, 4), exact(g.SD)})
			}
			for _, q := range g.Quantiles {
				if gi == 0 {
					t.Head = append(t.Head, sig(100*value(&q.P), 4)+"% quantile")
				}
				text := shortP(q.Lower, 4)
				if exact(q.Lower) != exact(q.Upper) {
					text += " to " + shortP(q.Upper, 4)
				}
				row.Cells = append(row.Cells, gridCell{text, exact(q.Lower)})
			}
			for _, c := range g.Counts {
				if gi == 0 {
					t.Head = append(t.Head, c.Level)
				}
				row.Cells = append(row.Cells, gridCell{masked(c.Count), exact(c.Count)})
			}
			if h := g.Histogram; h != nil {
				for b := 0; b+1 < len(h.Breaks) && b < len(h.Counts); b++ {
					if gi == 0 {
						t.Head = append(t.Head, short(h.Breaks[b], 4)+" to "+short(h.Breaks[b+1], 4))
					}
					row.Cells = append(row.Cells, gridCell{masked(h.Counts[b]), exact(h.Counts[b])})
				}
			}
			t.Rows = append(t.Rows, row)
		}
		if hasMasked(t.Rows) {
			t.Note = "A dot stands for a count that is withheld because it is small or would show a small one."
		}
		s.Tables = append(s.Tables, t)
	}
}

func hasMasked(rows []gridRow) bool {
	for _, r := range rows {
		for _, c := range r.Cells {
			if c.Text == withheldCount {
				return true
			}
		}
	}
	return false
}

const withheldCount = "·"

// masked shows a count that is withheld as a dot.
func masked(n *json.Number) string {
	if n == nil {
		return withheldCount
	}
	return whole(n)
}

func (s *section) crosstab(a *analysisJSON) {
	if a.TableRows == nil || a.TableColumns == nil {
		return
	}
	t := grid{Caption: a.TableRows.Column + " by " + a.TableColumns.Column, Kind: "counts", Corner: a.TableRows.Column + " \\ " + a.TableColumns.Column, Head: a.TableColumns.Levels}
	for i, level := range a.TableRows.Levels {
		row := gridRow{Name: level}
		for j := range a.TableColumns.Levels {
			var n *json.Number
			if i < len(a.Counts) && j < len(a.Counts[i]) {
				n = a.Counts[i][j]
			}
			row.Cells = append(row.Cells, gridCell{masked(n), exact(n)})
		}
		t.Rows = append(t.Rows, row)
	}
	s.Tables = append(s.Tables, t)
	names := make([]string, 0, len(a.Tests))
	for name := range a.Tests {
		names = append(names, name)
	}
	sort.Strings(names)
	words := map[string]string{"chisq": "χ² test", "chisq_yates": "χ² test with Yates's correction", "fisher": "Fisher's exact test", "mantel_haenszel": "Mantel-Haenszel test"}
	for _, name := range names {
		test := a.Tests[name]
		text := chiSquare(&test)
		if test.Corrected != nil {
			text += "; corrected for continuity " + chiSquare(test.Corrected)
		}
		if test.Odds != nil {
			text += fmt.Sprintf("; odds ratio %s (%s to %s)", shortP(test.Odds, 3), shortP(test.Lower, 3), shortP(test.Upper, 3))
		}
		s.Facts = append(s.Facts, Fact{first(words[name], name), text})
	}
}

// chiSquare is a test's statistic, if it has one, and its p.
func chiSquare(t *testJSON) string {
	if t.Statistic == nil {
		return pSentence(t.P)
	}
	return "χ² = " + shortP(t.Statistic, 4) + ", " + pSentence(t.P)
}
