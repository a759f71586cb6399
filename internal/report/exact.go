package report

import (
	"encoding/json"
	"fmt"
	"html/template"
	"math"
)

// exactJSON are the parts of exact analyses beyond coefficients and groups.
type exactJSON struct {
	PHCheck *struct {
		Transform string   `json:"transform"`
		Terms     []phJSON `json:"terms"`
		Global    *phJSON  `json:"global"`
	} `json:"ph_check"`
	Concordance *struct {
		Concordance *json.Number `json:"concordance"`
		SE          *json.Number `json:"se"`
	} `json:"concordance"`
	Theta      *json.Number `json:"theta"`
	SETheta    *json.Number `json:"se_theta"`
	Evaluation *struct {
		AUC         *json.Number     `json:"auc"`
		Brier       *json.Number     `json:"brier"`
		ROC         [][2]json.Number `json:"roc"`
		Calibration []struct {
			Lower    json.Number  `json:"lower"`
			Upper    json.Number  `json:"upper"`
			N        *json.Number `json:"n"`
			Observed *json.Number `json:"observed"`
			Expected *json.Number `json:"expected"`
		} `json:"calibration"`
	} `json:"evaluation"`
	Names []string `json:"names"`
	Path  []struct {
		Lambda  json.Number   `json:"lambda"`
		Nonzero json.Number   `json:"nonzero"`
		Coef    []json.Number `json:"coef"`
		BIC     *json.Number  `json:"bic"`
	} `json:"path"`
	Chosen   int `json:"chosen"`
	Variants []struct {
		Name  string       `json:"name"`
		Freq  json.Number  `json:"freq"`
		Beta  *json.Number `json:"beta"`
		SE    *json.Number `json:"se"`
		Chisq *json.Number `json:"chisq"`
		P     *json.Number `json:"p"`
	} `json:"variants"`
	Tested   *json.Number `json:"tested"`
	LambdaGC *json.Number `json:"lambda_gc"`
	DP       *struct {
		Epsilon json.Number `json:"epsilon"`
		Delta   json.Number `json:"delta"`
	} `json:"dp"`
}

type phJSON struct {
	Name  string       `json:"name"`
	Chisq *json.Number `json:"chisq"`
	DF    *json.Number `json:"df"`
	P     *json.Number `json:"p"`
}

// exact adds what an analysis tells beyond its own heading.
func (s *section) exact(raw json.RawMessage) error {
	var a exactJSON
	if err := json.Unmarshal(raw, &a); err != nil {
		return err
	}
	if a.DP != nil {
		s.Facts = append(s.Facts, Fact{"Differential privacy", fmt.Sprintf("epsilon %s, delta %s for each patient, over the whole study", a.DP.Epsilon, a.DP.Delta)})
	}
	if a.Theta != nil {
		s.Facts = append(s.Facts, Fact{"Theta", fmt.Sprintf("%s (standard error %s)", shortP(a.Theta, 4), shortP(a.SETheta, 3))})
	}
	if c := a.Concordance; c != nil && c.Concordance != nil {
		s.Facts = append(s.Facts, Fact{"Concordance within hospitals", fmt.Sprintf("%s (standard error %s)", shortP(c.Concordance, 4), shortP(c.SE, 3))})
	}
	if c := a.PHCheck; c != nil {
		t := grid{Caption: "Are the hazards proportional? Change of each effect with " + map[string]string{"log": "log time"}[c.Transform] + map[string]string{"identity": "time"}[c.Transform],
			Kind: "ph", Corner: "term", Head: []string{"χ²", "df", "p"}}
		rows := c.Terms
		if c.Global != nil {
			rows = append(rows, *c.Global)
		}
		for i := range rows {
			t.Rows = append(t.Rows, gridRow{Name: rows[i].Name, Cells: []gridCell{{shortP(rows[i].Chisq, 3), exact(rows[i].Chisq)}, {shortP(rows[i].DF, 3), ""}, {pValue(rows[i].P), exact(rows[i].P)}}})
		}
		s.Tables = append(s.Tables, t)
	}
	if e := a.Evaluation; e != nil {
		var roc, cal []unitPoint
		for i := range e.ROC {
			roc = append(roc, unitPoint{&e.ROC[i][0], &e.ROC[i][1]})
		}
		for i := range e.Calibration {
			if c := &e.Calibration[i]; c.Observed != nil && c.Expected != nil {
				cal = append(cal, unitPoint{c.Expected, c.Observed})
			}
		}
		s.Plots = append(s.Plots, unitPlot(s.ID+"-roc", "ROC curve", "false positive rate", "true positive rate", roc, true),
			unitPlot(s.ID+"-calibration", "Calibration", "fitted probability", "share with the event", cal, false))
		s.Facts = append(s.Facts, Fact{"AUC", shortP(e.AUC, 4)}, Fact{"Brier score", shortP(e.Brier, 4)})
	}
	if len(a.Path) > 0 {
		t := grid{Caption: "Coefficients along the path of penalties", Kind: "path", Corner: "lambda", Head: append(append([]string{}, a.Names...), "terms", "BIC")}
		for i := range a.Path {
			p := &a.Path[i]
			name := sig(value(&p.Lambda), 4)
			if i == a.Chosen && len(a.Path) > 1 {
				name += " (least BIC)"
			}
			row := gridRow{Name: name}
			for k := range p.Coef {
				row.Cells = append(row.Cells, gridCell{shortP(&p.Coef[k], 3), exact(&p.Coef[k])})
			}
			row.Cells = append(row.Cells, gridCell{p.Nonzero.String(), ""}, gridCell{shortP(p.BIC, 5), exact(p.BIC)})
			t.Rows = append(t.Rows, row)
		}
		s.Tables = append(s.Tables, t)
	}
	if a.Tested != nil {
		s.variants(&a)
	}
	return nil
}

// variants shows a scan: the plot, and the variants with the least p.
func (s *section) variants(a *exactJSON) {
	s.Plots = append(s.Plots, manhattan(s.ID+"-scan", a))
	threshold := 0.05 / math.Max(1, value(a.Tested))
	s.Facts = append(s.Facts, Fact{"Variants tested", whole(a.Tested)}, Fact{"Genomic control λ", shortP(a.LambdaGC, 4)})
	t := grid{Caption: "Variants below 0.05 over the number of tests", Kind: "variants", Corner: "variant", Head: []string{"frequency", "beta", "standard error", "χ²", "p"}}
	for i := range a.Variants {
		v := &a.Variants[i]
		if v.P == nil || value(v.P) > threshold {
			continue
		}
		t.Rows = append(t.Rows, gridRow{Name: v.Name, Cells: []gridCell{{shortP(&v.Freq, 3), exact(&v.Freq)}, {shortP(v.Beta, 3), exact(v.Beta)}, {shortP(v.SE, 3), exact(v.SE)},
			{shortP(v.Chisq, 4), exact(v.Chisq)}, {pValue(v.P), exact(v.P)}}})
	}
	s.Lead = fmt.Sprintf("%d of %s variants lie below p = %s.", len(t.Rows), whole(a.Tested), sig(threshold, 3))
	if len(t.Rows) > 0 {
		s.Tables = append(s.Tables, t)
	}
}

// unitPoint is a point of the unit square, in the result's own digits.
type unitPoint struct{ x, y *json.Number }

// unitPlot draws points of the unit square with its diagonal.
func unitPlot(id, title, across, up string, points []unitPoint, joined bool) template.HTML {
	var s svg
	const left, size, top = 64.0, 240.0, 34.0
	s.open(id, "unit", title, "One point per cell of fitted probability; the diagonal is chance, or perfect calibration.", left+size+16, top+size+52)
	s.text("head", 0, 16, "start", title)
	x, y := scale{lo: 0, hi: 1, from: left, to: left + size}, scale{lo: 0, hi: 1, from: top + size, to: top}
	for _, m := range []float64{0, 0.25, 0.5, 0.75, 1} {
		s.line("tick", left, y.at(m), left+size, y.at(m))
		s.text("axis", left-8, y.at(m)+4, "end", axisNumber(m))
		s.text("axis", x.at(m), top+size+20, "middle", axisNumber(m))
	}
	s.line("frame", left, top+size, left+size, top+size)
	s.line("tick", x.at(0), y.at(0), x.at(1), y.at(1))
	s.text("axis-name", left+size/2, top+size+42, "middle", across)
	s.text("axis-name", left, top-6, "start", up)
	s.f(`<g class="curve c0">`)
	for i, p := range points {
		if joined && i > 0 {
			s.line("step", x.at(value(points[i-1].x)), y.at(value(points[i-1].y)), x.at(value(p.x)), y.at(value(p.y)))
		}
		s.f(`<circle class="at" cx="%s" cy="%s" r="2.6" data-x="%s" data-y="%s"/>`, px(x.at(value(p.x))), px(y.at(value(p.y))), exact(p.x), exact(p.y))
	}
	s.f(`</g>`)
	return s.done()
}

// manhattan draws -log10 p of every variant in the study's order.
func manhattan(id string, a *exactJSON) template.HTML {
	var s svg
	const left, width, top, height = 64.0, 560.0, 34.0, 210.0
	s.open(id, "manhattan", "Every variant", "One point per variant, in the order of the study; higher is less likely by chance.", left+width+16, top+height+52)
	s.text("head", 0, 16, "start", "Every variant")
	line := -math.Log10(0.05 / math.Max(1, value(a.Tested)))
	most := line
	for i := range a.Variants {
		if p := a.Variants[i].P; p != nil && value(p) > 0 {
			most = max(most, -math.Log10(value(p)))
		}
	}
	x := scale{lo: 0, hi: float64(max(1, len(a.Variants))), from: left, to: left + width}
	y := scale{lo: 0, hi: most * 1.05, from: top + height, to: top}
	for _, m := range ticks(0, most*1.05, 5) {
		s.line("tick", left, y.at(m), left+width, y.at(m))
		s.text("axis", left-8, y.at(m)+4, "end", axisNumber(m))
	}
	s.line("frame", left, top+height, left+width, top+height)
	s.line("reference", left, y.at(line), left+width, y.at(line))
	s.text("axis-name", left, top-6, "start", "-log10 p; the line is 0.05 over the number of tests")
	s.f(`<g class="curve c0">`)
	for i := range a.Variants {
		v := &a.Variants[i]
		if v.P == nil {
			continue
		}
		at := most
		if p := value(v.P); p > 0 {
			at = -math.Log10(p)
		}
		s.f(`<circle class="at" cx="%s" cy="%s" r="2.6" data-variant="%s" data-p="%s"><title>%s: p = %s</title></circle>`,
			px(x.at(float64(i)+0.5)), px(y.at(at)), esc(v.Name), exact(v.P), esc(v.Name), sig(value(v.P), 3))
	}
	s.f(`</g>`)
	return s.done()
}
