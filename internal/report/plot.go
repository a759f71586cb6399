package report

import (
	"encoding/json"
	"fmt"
	"html/template"
	"math"
	"strconv"
	"strings"
)

// svg collects one drawing. Everything that is not a number goes through esc.
type svg struct{ b strings.Builder }

func (s *svg) f(format string, args ...any) { fmt.Fprintf(&s.b, format, args...) }

func esc(s string) string { return template.HTMLEscapeString(s) }

// px is a coordinate with a tenth of a pixel. What no scale can place stays off
// the page.
func px(v float64) string {
	if !(math.Abs(v) < 1e5) {
		v = -1e5
	}
	return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64)
}

func (s *svg) open(id, kind, title, desc string, w, h float64) {
	s.f(`<svg class="plot %s" id="%s" viewBox="0 0 %s %s" role="img" aria-labelledby="%s-t %s-d"><title id="%s-t">%s</title><desc id="%s-d">%s</desc>`,
		kind, id, px(w), px(h), id, id, id, esc(title), id, esc(desc))
}

func (s *svg) text(class string, x, y float64, anchor, text string) {
	s.f(`<text class="%s" x="%s" y="%s" text-anchor="%s">%s</text>`, class, px(x), px(y), anchor, esc(text))
}

func (s *svg) line(class string, x1, y1, x2, y2 float64) {
	s.f(`<line class="%s" x1="%s" y1="%s" x2="%s" y2="%s"/>`, class, px(x1), px(y1), px(x2), px(y2))
}

func (s *svg) done() template.HTML {
	s.f(`</svg>`)
	return template.HTML(s.b.String())
}

// scale maps a range onto pixels.
type scale struct {
	lo, hi, from, to float64
	log              bool
}

func (c scale) at(v float64) float64 {
	lo, hi := c.lo, c.hi
	if c.log {
		lo, hi, v = math.Log(lo), math.Log(hi), math.Log(v)
	}
	return c.from + (v-lo)/(hi-lo)*(c.to-c.from)
}

// ticks are at most n round values from lo to hi.
func ticks(lo, hi float64, n int) []float64 {
	if !(hi > lo) || math.IsInf(hi-lo, 0) {
		return []float64{lo}
	}
	step := math.Pow(10, math.Floor(math.Log10((hi-lo)/float64(n))))
	for _, m := range []float64{1, 2, 2.5, 5, 10, 20} {
		if (hi-lo)/(step*m) <= float64(n) {
			step *= m
			break
		}
	}
	var out []float64
	first := math.Ceil(lo/step - 1e-9)
	// Counted, since a large first would not change by adding 1.
	for k := 0; k <= n; k++ {
		if v := (first+float64(k))*step + 0; v <= hi+step*1e-9 { // -0 and 0 are one mark
			out = append(out, v)
		}
	}
	return out
}

// logTicks are round values of a logarithmic axis.
func logTicks(lo, hi float64) []float64 {
	var out []float64
	digits := []float64{1, 2, 5}
	if math.Log10(hi/lo) > 3 {
		digits = []float64{1}
	}
	for e := math.Floor(math.Log10(lo)); e <= math.Ceil(math.Log10(hi)); e++ {
		for _, d := range digits {
			if v := d * math.Pow(10, e); v >= lo*(1-1e-9) && v <= hi*(1+1e-9) {
				out = append(out, v)
			}
		}
	}
	return out
}

// forest draws the effect and interval of every term but the intercept. A term
// without an interval has no point.
func forest(id string, list []termJSON, effect string) template.HTML {
	type item struct {
		t         *termJSON
		effect    *json.Number
		v, lo, hi float64
	}
	ratio := effect != "difference"
	var items []item
	lo, hi := math.Inf(1), math.Inf(-1)
	for i := range list {
		t := &list[i]
		e := t.Coef
		if ratio {
			e = t.ExpCoef
		}
		it := item{t: t, effect: e, v: value(e), lo: value(t.Lower), hi: value(t.Upper)}
		if t.Name == "(Intercept)" || math.IsNaN(it.v) || math.IsNaN(it.lo) || math.IsNaN(it.hi) || ratio && !(it.lo > 0) {
			continue
		}
		lo, hi = min(lo, it.lo), max(hi, it.hi)
		items = append(items, it)
	}
	var s svg
	const plot, right, row, top = 380.0, 190.0, 34.0, 34.0
	left := 190.0
	for _, it := range items { // names are shown whole: the drawing grows with the longest
		left = max(left, 7.4*float64(len([]rune(it.t.Name)))+24)
	}
	h := top + row*float64(max(1, len(items))) + 48
	s.open(id+"-forest", "forest", "Forest plot", fmt.Sprintf("The %s of each term with its 95%% confidence interval; the table below has the same numbers.", effect), left+plot+right, h)
	if len(items) == 0 {
		s.text("label", left, top+18, "start", "No term has a confidence interval.")
		return s.done()
	}
	neutral := 0.0
	x := scale{from: left + 8, to: left + plot - 8}
	var marks []float64
	if ratio {
		neutral = 1
		// Very wide intervals are cut, with an arrow, so that the others stay readable.
		lo, hi = max(min(lo, 0.5), 1.0/64), min(max(hi, 2), 64)
		x.log, x.lo, x.hi = true, lo*0.9, hi*1.1
		marks = logTicks(x.lo, x.hi)
	} else {
		lo, hi = min(lo, 0), max(hi, 0)
		if lo == hi {
			lo, hi = -1, 1
		}
		pad := (hi - lo) * 0.05
		x.lo, x.hi = lo-pad, hi+pad
		marks = ticks(x.lo, x.hi, 6)
	}
	bottom := top + row*float64(len(items))
	s.text("head", 0, top-14, "start", "term")
	s.text("head", left+plot+right, top-14, "end", effect+" (95% CI)")
	for i := range items {
		if i%2 == 0 {
			s.f(`<rect class="band" x="0" y="%s" width="%s" height="%s"/>`, px(top+row*float64(i)), px(left+plot+right), px(row))
		}
	}
	for _, m := range marks {
		s.line("tick", x.at(m), top, x.at(m), bottom)
		s.text("axis", x.at(m), bottom+18, "middle", axisNumber(m))
	}
	s.line("neutral", x.at(neutral), top-6, x.at(neutral), bottom+4)
	if ratio {
		s.text("axis", x.at(neutral)-10, bottom+38, "end", "← lower")
		s.text("axis", x.at(neutral)+10, bottom+38, "start", "higher →")
	}
	for i, it := range items {
		y := top + row*(float64(i)+0.5)
		s.f(`<g class="point" data-term="%s" data-effect="%s" data-lower="%s" data-upper="%s">`, esc(it.t.Name), exact(it.effect), exact(it.t.Lower), exact(it.t.Upper))
		s.f(`<title>%s: %s (%s to %s)</title>`, esc(it.t.Name), sig(it.v, 4), sig(it.lo, 4), sig(it.hi, 4))
		s.text("label", 0, y+5, "start", it.t.Name)
		from, to := max(it.lo, x.lo), min(it.hi, x.hi)
		if from < to {
			s.line("ci", x.at(from), y, x.at(to), y)
		}
		if it.lo < x.lo {
			s.f(`<path class="arrow" d="M%s %sl8 -5v10z"/>`, px(x.at(x.lo)), px(y))
		}
		if it.hi > x.hi {
			s.f(`<path class="arrow" d="M%s %sl-8 -5v10z"/>`, px(x.at(x.hi)), px(y))
		}
		v := min(max(it.v, x.lo), x.hi)
		s.f(`<rect class="mark" x="%s" y="%s" width="10" height="10"/>`, px(x.at(v)-5), px(y-5))
		s.text("number", left+plot+right, y+5, "end", fmt.Sprintf("%s (%s to %s)", sig(it.v, 3), sig(it.lo, 3), sig(it.hi, 3)))
		s.f(`</g>`)
	}
	return s.done()
}

func axisNumber(v float64) string {
	if math.Abs(v) >= 1e9 {
		return sig(v, 3)
	}
	return minus(strconv.FormatFloat(math.Round(v*1e9)/1e9, 'g', 6, 64))
}

// maxMarks bounds the points that are drawn one by one; a curve on a finer grid
// is a line without marks.
const maxMarks = 5000

// survivalPlot draws Kaplan-Meier curves with bands and the numbers at risk.
func survivalPlot(id string, a *analysisJSON, unit string, hidden []string) template.HTML {
	last := 0.0
	points := 0
	for _, g := range a.Groups {
		points += len(g.Curve.Time)
		for i := range g.Curve.Time {
			last = max(last, value(&g.Curve.Time[i]))
		}
	}
	if a.Grid != nil {
		last = max(last, value(&a.Grid.Max))
	}
	if !(last > 0) {
		last = 1
	}
	var s svg
	const left, plot, top, height = 150.0, 570.0, 14.0, 330.0
	width := left + plot + 40
	riskTop := top + height + 66
	total := riskTop + 22*float64(len(a.Groups)) + 10
	s.open(id+"-km", "km", "Kaplan-Meier curves", "Estimated share of patients without an event over time, by group, with 95% confidence bands and the number at risk below.", width, total)
	x := scale{lo: 0, hi: last, from: left, to: left + plot}
	y := scale{lo: 0, hi: 1, from: top + height, to: top}
	for v := 0; v <= 100; v += 20 {
		at := y.at(float64(v) / 100)
		s.line("tick", left, at, left+plot, at)
		s.text("axis", left-10, at+4, "end", fmt.Sprintf("%d%%", v))
	}
	marks := timeTicks(a, last)
	for _, m := range marks {
		s.line("stub", x.at(m), top+height, x.at(m), top+height+5)
		s.text("axis", x.at(m), top+height+20, "middle", axisNumber(m))
	}
	s.line("frame", left, top+height, left+plot, top+height)
	name := "time"
	if unit != "" {
		name = unit
	}
	s.text("axis-name", left+plot/2, top+height+40, "middle", name)
	s.f(`<text class="axis-name" text-anchor="middle" transform="translate(%s %s) rotate(-90)">without an event</text>`, px(left-56), px(top+height/2))

	for i := range a.Groups {
		g := &a.Groups[i]
		c := &g.Curve
		s.f(`<g class="curve c%d" data-group="%s" data-points="%d">`, i%6, esc(g.Name), len(c.Time))
		var line, upper strings.Builder
		var lower []string
		prev, prevLo, prevUp := 1.0, 1.0, 1.0
		at := 0.0
		fmt.Fprintf(&line, "M%s %s", px(x.at(0)), px(y.at(1)))
		fmt.Fprintf(&upper, "M%s %s", px(x.at(0)), px(y.at(1)))
		lower = append(lower, px(x.at(0))+" "+px(y.at(1)))
		banded := true
		for k := range c.Time {
			t := value(&c.Time[k])
			if k < len(c.Surv) {
				v := value(c.Surv[k])
				fmt.Fprintf(&line, "H%s", px(x.at(t)))
				if !math.IsNaN(v) && v != prev {
					fmt.Fprintf(&line, "V%s", px(y.at(v)))
					prev = v
				}
			}
			if banded && k < len(c.Lower) && k < len(c.Upper) {
				lo, up := value(c.Lower[k]), value(c.Upper[k])
				if math.IsNaN(lo) || math.IsNaN(up) {
					banded = false // the band ends where it is not defined
					continue
				}
				at = x.at(t)
				fmt.Fprintf(&upper, "H%s", px(at))
				lower = append(lower, px(at)+" "+px(y.at(prevLo)))
				if up != prevUp {
					fmt.Fprintf(&upper, "V%s", px(y.at(up)))
				}
				if lo != prevLo {
					lower = append(lower, px(at)+" "+px(y.at(lo)))
				}
				prevLo, prevUp = lo, up
			}
		}
		for k := len(lower) - 1; k >= 0; k-- {
			upper.WriteString("L" + lower[k])
		}
		s.f(`<path class="ciband" d="%sZ"/><path class="step" d="%s"/>`, upper.String(), line.String())
		if points <= maxMarks {
			for k := range c.Time {
				if k >= len(c.Surv) || c.Surv[k] == nil {
					continue
				}
				s.f(`<circle class="at" cx="%s" cy="%s" r="2.6" data-time="%s" data-surv="%s"><title>%s, time %s: %s%%, %s at risk</title></circle>`,
					px(x.at(value(&c.Time[k]))), px(y.at(value(c.Surv[k]))), c.Time[k].String(), exact(c.Surv[k]), esc(label(g.Name)),
					axisNumber(value(&c.Time[k])), sig(100*value(c.Surv[k]), 3), whole(nth(c.NRisk, k)))
			}
		}
		s.f(`</g>`)
	}
	// The legend stands where the curves leave room: bottom left.
	for i := range a.Groups {
		ly := top + height - 18*float64(len(a.Groups)-i)
		s.f(`<g class="legend c%d"><line class="step" x1="%s" y1="%s" x2="%s" y2="%s"/>`, i%6, px(left+14), px(ly), px(left+44), px(ly))
		s.text("label", left+52, ly+4, "start", label(a.Groups[i].Name))
		s.f(`</g>`)
	}
	s.text("head", 0, riskTop-10, "start", "number at risk")
	for i := range a.Groups {
		g := &a.Groups[i]
		ry := riskTop + 12 + 22*float64(i)
		s.f(`<g class="risk c%d" data-group="%s">`, i%6, esc(g.Name))
		s.f(`<rect class="swatch" x="0" y="%s" width="10" height="10"/>`, px(ry-9))
		s.text("label", 16, ry, "start", shorten(label(g.Name), 17))
		cut := withheld(g, hidden)
		for _, m := range marks {
			text, raw := atRisk(&g.Curve, m, cut)
			s.f(`<text class="number" x="%s" y="%s" text-anchor="middle" data-time="%s" data-risk="%s">%s</text>`, px(x.at(m)), px(ry), axisNumber(m), raw, text)
		}
		s.f(`</g>`)
	}
	return s.done()
}

func nth(list []*json.Number, i int) *json.Number {
	if i < len(list) {
		return list[i]
	}
	return nil
}

func shorten(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

// withheld reports whether the tail of a curve was suppressed.
func withheld(g *groupJSON, hidden []string) bool {
	for _, h := range hidden {
		if strings.HasPrefix(h, "curve "+g.Name) {
			return true
		}
	}
	return false
}

// atRisk is the number at risk at a time of the grid; nobody is left after a
// curve that ran out, and nothing is said after one that was cut.
func atRisk(c *curveJSON, t float64, cut bool) (text, raw string) {
	for i := range c.Time {
		if v := value(&c.Time[i]); math.Abs(v-t) <= 1e-9*max(1, math.Abs(t)) {
			return whole(nth(c.NRisk, i)), exact(nth(c.NRisk, i))
		}
	}
	if n := len(c.Time); !cut && n > 0 && t > value(&c.Time[n-1]) {
		return "0", "0"
	}
	return "·", ""
}

// timeTicks are at most eight times of the public grid.
func timeTicks(a *analysisJSON, last float64) []float64 {
	if a.Grid == nil {
		return ticks(0, last, 7)
	}
	step := value(&a.Grid.Step)
	if !(step > 0) {
		return ticks(0, last, 7)
	}
	// The largest of 1, 2, 3, 6, 12, … grid steps that leaves few enough marks.
	every := 1.0
	for _, m := range []float64{1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 50, 60, 90, 100, 150, 180, 365, 500, 1000, 5000, 10000, 50000} {
		every = m
		if last/(step*m) <= 8 {
			break
		}
	}
	if last/(step*every) > 12 {
		return ticks(0, last, 7)
	}
	var out []float64
	for i := 0.0; i*step*every <= last*(1+1e-9); i++ {
		out = append(out, i*step*every)
	}
	return out
}

// series is one line of a training plot; a nil value is a gap.
type series struct {
	name   string
	values []*json.Number
}

// trainingPlot draws values by round, round 0 being before any training.
func trainingPlot(id, title, what string, list []series, floor, ceil float64) template.HTML {
	lo, hi, rounds := math.Inf(1), math.Inf(-1), 1
	drawn := list[:0:0]
	for _, l := range list {
		n := 0
		for i, v := range l.values {
			if v != nil {
				lo, hi = min(lo, value(v)), max(hi, value(v))
				rounds = max(rounds, i)
				n++
			}
		}
		if n > 0 {
			drawn = append(drawn, l)
		}
	}
	var s svg
	const left, plot, top, height = 64.0, 300.0, 34.0, 210.0
	s.open(id, "training", title, "One line per part of the patients; round 0 is before training.", left+plot+16, top+height+52)
	s.text("head", 0, 16, "start", title)
	if len(drawn) == 0 {
		s.text("label", left, top+20, "start", "No value is defined.")
		return s.done()
	}
	if hi == lo {
		lo, hi = lo-0.5, hi+0.5
	}
	pad := (hi - lo) * 0.08
	lo, hi = lo-pad, hi+pad
	if !math.IsNaN(floor) {
		lo = max(lo, floor)
	}
	if !math.IsNaN(ceil) {
		hi = min(hi, ceil)
	}
	x := scale{lo: 0, hi: float64(rounds), from: left, to: left + plot}
	y := scale{lo: lo, hi: hi, from: top + height, to: top}
	for _, m := range ticks(lo, hi, 5) {
		s.line("tick", left, y.at(m), left+plot, y.at(m))
		s.text("axis", left-8, y.at(m)+4, "end", axisNumber(m))
	}
	for _, m := range ticks(0, float64(rounds), 6) {
		if m != math.Trunc(m) {
			continue
		}
		s.line("stub", x.at(m), top+height, x.at(m), top+height+5)
		s.text("axis", x.at(m), top+height+20, "middle", axisNumber(m))
	}
	s.line("frame", left, top+height, left+plot, top+height)
	s.text("axis-name", left+plot/2, top+height+42, "middle", "round")
	for i, l := range drawn {
		s.f(`<g class="curve c%d" data-series="%s" data-what="%s">`, i, esc(l.name), esc(what))
		var d strings.Builder
		pen := "M"
		for k, v := range l.values {
			if v == nil {
				pen = "M"
				continue
			}
			fmt.Fprintf(&d, "%s%s %s", pen, px(x.at(float64(k))), px(y.at(value(v))))
			pen = "L"
		}
		s.f(`<path class="step" d="%s"/>`, d.String())
		for k, v := range l.values {
			if v == nil {
				continue
			}
			s.f(`<circle class="at" cx="%s" cy="%s" r="2.6" data-round="%d" data-value="%s"><title>%s, round %d: %s</title></circle>`,
				px(x.at(float64(k))), px(y.at(value(v))), k, exact(v), esc(l.name), k, sig(value(v), 4))
		}
		s.f(`</g>`)
		lx := left + plot - 150 + 84*float64(i)
		s.f(`<g class="legend c%d"><line class="step" x1="%s" y1="12" x2="%s" y2="12"/>`, i, px(lx), px(lx+18))
		s.text("label", lx+23, 16, "start", l.name)
		s.f(`</g>`)
	}
	return s.done()
}
