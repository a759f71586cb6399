package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// shown is as much of an analysis's result as a terminal shows.
type shown struct {
	Name     string   `json:"name"`
	Analysis string   `json:"analysis"`
	Rows     *float64 `json:"rows"`
	Patients *float64 `json:"patients"`
	Events   *float64 `json:"events"`
	Terms    []struct {
		Name     string   `json:"name"`
		Coef     float64  `json:"coef"`
		SE       float64  `json:"se"`
		RobustSE *float64 `json:"robust_se"`
		P        float64  `json:"p"`
		Exp      *float64 `json:"exp_coef"`
		Lower    float64  `json:"lower"`
		Upper    float64  `json:"upper"`
	} `json:"terms"`
	Groups []struct {
		Name     string   `json:"name"`
		N        *float64 `json:"n"`
		Events   *float64 `json:"events"`
		Median   *float64 `json:"median"`
		Observed *float64 `json:"observed"`
		Expected *float64 `json:"expected"`
	} `json:"groups"`
	Chisq    *float64                              `json:"chisq"`
	P        *float64                              `json:"p"`
	Training *splitMetrics                         `json:"training"`
	Holdout  *splitMetrics                         `json:"holdout"`
	Excluded map[string]int64                      `json:"excluded_rows"`
	Error    *struct{ Code, Message, Next string } `json:"error"`
	Warnings []string                              `json:"warnings"`
	Hidden   []struct{ Item, Reason string }       `json:"suppressed"`
}

// told is a number, or that it is withheld.
func told(format string, v *float64) string {
	if v == nil {
		return "withheld"
	}
	return fmt.Sprintf(format, *v)
}

// showResult prints the `result` half of result.json as tables.
func showResult(w io.Writer, result []byte) error {
	var doc struct {
		shown
		Question string `json:"question"`
		Analyses []shown
		Sites    struct {
			Enrolled    int
			Contributed int
			Excluded    []string
		}
	}
	if err := json.Unmarshal(result, &doc); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n%s\n%d of %d enrolled hospitals contributed", doc.Question, doc.Sites.Contributed, doc.Sites.Enrolled)
	if len(doc.Sites.Excluded) > 0 {
		fmt.Fprintf(w, "; without %s", strings.Join(doc.Sites.Excluded, ", "))
	}
	fmt.Fprintln(w)
	list := doc.Analyses
	if len(list) == 0 {
		list = []shown{doc.shown}
	}
	for _, a := range list {
		if a.Error != nil {
			fmt.Fprintf(w, "\n%s (%s): no estimates\n  %s; %s\n", a.Name, a.Analysis, a.Error.Message, a.Error.Next)
			continue
		}
		fmt.Fprintf(w, "\n%s (%s): %s rows, %s patients", a.Name, a.Analysis, told("%.0f", a.Rows), told("%.0f", a.Patients))
		if a.Events != nil { // a model of numbers has none
			fmt.Fprintf(w, ", %.0f events", *a.Events)
		}
		fmt.Fprintln(w)
		for _, x := range [][2]string{{"missing", "a missing value"}, {"cohort", "not in the cohort"}, {"consent", "no consent or no permission"}, {"integrity", "not as in the ledger"}} {
			if n := a.Excluded[x[0]]; n > 0 {
				fmt.Fprintf(w, "  %d rows left out: %s\n", n, x[1])
			}
		}
		t := tabwriter.NewWriter(w, 2, 0, 2, ' ', tabwriter.AlignRight)
		if len(a.Terms) > 0 {
			fmt.Fprintln(t, "\tcoef\tse\trobust se\texp\t95% interval\tp\t")
			for _, x := range a.Terms {
				robust, exp, interval := "", "", fmt.Sprintf("%.4g to %.4g", x.Lower, x.Upper)
				if x.RobustSE != nil {
					robust = fmt.Sprintf("%.6f", *x.RobustSE)
				}
				if x.Exp != nil {
					exp = fmt.Sprintf("%.4f", *x.Exp)
				}
				fmt.Fprintf(t, "%s\t%.6f\t%.6f\t%s\t%s\t%s\t%.3g\t\n", x.Name, x.Coef, x.SE, robust, exp, interval, x.P)
			}
		}
		for _, g := range a.Groups {
			fmt.Fprintf(t, "%s\tn %s\t", g.Name, told("%.0f", g.N))
			if g.N == nil {
				fmt.Fprintln(t)
			} else if a.Analysis == "logrank" {
				fmt.Fprintf(t, "observed %s\texpected %s\t\n", told("%.0f", g.Observed), told("%.3f", g.Expected))
			} else {
				median := "not reached"
				if g.Median != nil {
					median = fmt.Sprintf("%.4g", *g.Median)
				}
				fmt.Fprintf(t, "events %s\tmedian %s\t\n", told("%.0f", g.Events), median)
			}
		}
		if err := t.Flush(); err != nil {
			return err
		}
		if a.Chisq != nil && a.P != nil {
			fmt.Fprintf(w, "  chi-square %.6f, p = %.3g\n", *a.Chisq, *a.P)
		}
		for _, split := range []struct {
			name string
			m    *splitMetrics
		}{{"training", a.Training}, {"holdout", a.Holdout}} {
			if text := split.m.text(); text != "" {
				fmt.Fprintf(w, "  %s %s\n", split.name, text)
			}
		}
		for _, s := range a.Warnings {
			fmt.Fprintf(w, "  note: %s\n", s)
		}
		for _, h := range a.Hidden {
			fmt.Fprintf(w, "  withheld: %s: %s\n", h.Item, h.Reason)
		}
	}
	fmt.Fprintln(w)
	return nil
}

// splitMetrics is how a trained model does on the training or the holdout rows.
type splitMetrics struct {
	Loss *float64
	AUC  *float64
	R2   *float64
	C    *float64 `json:"c_index"`
}

func (m *splitMetrics) text() string {
	if m == nil || m.Loss == nil {
		return ""
	}
	out := fmt.Sprintf("loss %.3f", *m.Loss)
	for _, x := range []struct {
		name string
		v    *float64
	}{{"AUC", m.AUC}, {"R²", m.R2}, {"concordance", m.C}} {
		if x.v != nil {
			out = fmt.Sprintf("%s %.3f, %s", x.name, *x.v, out)
		}
	}
	return out
}
