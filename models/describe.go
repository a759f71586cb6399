package models

import (
	"fmt"
	"math"
	"sort"

	"consilium"
	"consilium/internal/det"
)

// described is one variable of a describe analysis.
type described struct {
	name   string
	levels []string  // factor
	breaks []float64 // numeric: histogram edges, left-closed cells
	centre float64   // public: sums are taken around it
}

// width is the number of counted cells of one group.
func (d *described) width() int {
	if d.levels != nil {
		return len(d.levels)
	}
	if d.breaks == nil {
		return 0
	}
	return len(d.breaks) + 1 // below, cells, above
}

// cell is the counted cell of a value.
func (d *described) cell(v float64) int {
	return sort.Search(len(d.breaks), func(i int) bool { return d.breaks[i] > v })
}

// newDescribe makes summaries by public groups. Missing values are counted per
// variable and do not remove the row from the others.
func newDescribe(facts consilium.Facts, a *consilium.AnalysisSpec) (Analysis, error) {
	spec := facts.Spec
	if len(a.Variables) == 0 {
		return nil, consilium.ErrInvalid.Withf("variables: at least one")
	}
	// by: [site] compares the hospitals' means and publishes none of them: each
	// adds its own squared sum over its count.
	bySite := len(a.By) == 1 && a.By[0] == "site"
	groups := a.By
	if bySite {
		groups = nil
	}
	by, err := newGrouping(spec, "by", groups)
	if err != nil {
		return nil, err
	}
	var vars []*described
	var numeric, factors []string
	for _, name := range a.Variables {
		d := &described{name: name}
		c, declared := spec.Column(name)
		switch {
		case len(unique(append([]string{name}, a.By...)...)) != len(a.By)+1:
			return nil, consilium.ErrInvalid.Withf("variables: %s also groups", name)
		case declared && (c.Type == consilium.TypeLevels || c.Type == consilium.TypeFlag):
			d.levels, _ = factorLevels(spec, name)
			factors = append(factors, name)
		case isNumeric(spec, name):
			numeric = append(numeric, name)
			if declared && c.Bounds != nil {
				d.centre = c.Bounds[0] + float64(0.5*(c.Bounds[1]-c.Bounds[0]))
			}
		default:
			return nil, consilium.ErrInvalid.Withf("variables: %s", unknownColumn(spec, name))
		}
		for _, other := range vars {
			if other.name == name {
				return nil, consilium.ErrInvalid.Withf("variables: %s stands twice", name)
			}
		}
		vars = append(vars, d)
	}
	var hist []string
	for name := range a.Histogram {
		hist = append(hist, name)
	}
	sort.Strings(hist)
	for _, name := range hist {
		b := a.Histogram[name]
		var d *described
		for _, v := range vars {
			if v.name == name {
				d = v
			}
		}
		if d == nil || d.levels != nil {
			return nil, consilium.ErrInvalid.Withf("histogram: %s is not a numeric variable of this analysis%s", name, suggest(name, a.Variables))
		}
		if len(b) < 2 || len(b) > 5000 {
			return nil, consilium.ErrInvalid.Withf("histogram: %s has %d edges, want 2 to 5000", name, len(b))
		}
		for i := range b {
			if b[i] != b[i] || math.IsInf(b[i], 0) || i > 0 && !(b[i] > b[i-1]) {
				return nil, consilium.ErrInvalid.Withf("histogram: the edges of %s do not rise", name)
			}
		}
		d.breaks = b
	}
	for _, q := range a.Quantiles {
		if !(q > 0 && q < 1) {
			return nil, consilium.ErrInvalid.Withf("quantiles: %v, want above 0 and below 1", q)
		}
	}
	if len(a.Quantiles) > 0 && len(hist) == 0 {
		return nil, consilium.ErrInvalid.Withf("quantiles are read off a histogram: declare its edges under histogram")
	}
	s := &single{facts: facts, spec: a, levels: by.n}
	for i, d := range vars {
		// n, missing, patients; sum and sum of squares around the centre.
		s.blocks = append(s.blocks, exactBlock(fmt.Sprintf("moments-%d", i), 5*by.n))
		if bySite {
			s.blocks = append(s.blocks, exactBlock(fmt.Sprintf("hospitals-%d", i), 2))
		}
		if d.width() > 0 {
			s.blocks = append(s.blocks, exactBlock(fmt.Sprintf("cells-%d", i), by.n*d.width()), exactBlock(fmt.Sprintf("patients-%d", i), by.n*d.width()))
		}
	}
	s.local = func(rows *Rows) ([][]float64, error) {
		f, err := readFrame(spec, rows, want{numeric: numeric, factors: unique(append(append([]string{}, factors...), by.columns...)...), keep: true})
		if err != nil {
			return nil, err
		}
		f.dropUngrouped(by)
		for _, d := range vars {
			for _, x := range f.num[d.name] {
				if math.Abs(x-d.centre) >= largest {
					return nil, tooLarge("variable " + d.name)
				}
			}
		}
		out := [][]float64{cohortBlock(f, rows, 0, by.patients(f))}
		for _, d := range vars {
			l := d.local(f, by)
			if bySite {
				l = append(l[:1:1], append([][]float64{d.hospital(l[0])}, l[1:]...)...)
			}
			out = append(out, l...)
		}
		return out, nil
	}
	s.scale = func() ([]float64, float64, error) {
		var out []float64
		norm2 := 0.0
		for _, d := range vars {
			half := 1.0
			if d.levels == nil {
				c, declared := spec.Column(d.name)
				if !declared || c.Bounds == nil || !(c.Bounds[1] > c.Bounds[0]) {
					return nil, 0, consilium.ErrInvalid.Withf("privacy.dp: column %s needs bounds, which decide how much noise hides one patient", d.name)
				}
				half = float64(0.5 * (c.Bounds[1] - c.Bounds[0]))
			}
			if bySite {
				return nil, 0, consilium.ErrInvalid.Withf("by: site has no differentially private form here")
			}
			m := ones(5 * by.n)
			for k := 0; k < by.n; k++ {
				m[3*by.n+k], m[4*by.n+k] = half, float64(half*half)
			}
			out = append(out, m...)
			out = append(out, ones(2*by.n*d.width())...)
			norm2 += 4 // counted, as a patient, sum and sum of squares
			if d.width() > 0 {
				norm2 += 2
			}
		}
		return out, norm2, nil
	}
	s.render = func(v map[string][]float64) (any, error) { return renderDescribe(facts, a, by, vars, v), nil }
	return s, nil
}

// dropUngrouped leaves out the rows whose group is missing, and counts them.
func (f *frame) dropUngrouped(by *grouping) {
	before := f.n
	f.keep(func(i int) bool {
		for _, c := range by.columns {
			if f.code[c][i] < 0 {
				return false
			}
		}
		return true
	})
	f.missing += int64(before - f.n)
}

// hospital is what one hospital adds for the comparison of hospitals: that it
// has values, and its squared sum (around the public centre) over its count.
func (d *described) hospital(m []float64) []float64 {
	if d.levels != nil || m[0] == 0 {
		return []float64{0, 0}
	}
	return []float64{1, float64(m[3]*m[3]) / m[0]}
}

func (d *described) local(f *frame, by *grouping) [][]float64 {
	g, w := by.n, d.width()
	m := make([]total, 5*g)
	cells, patients := make([]float64, g*w), make([]float64, g*w)
	type mark struct {
		cell    int
		patient int32
	}
	inCell, inGroup := map[mark]bool{}, map[mark]bool{}
	for i := 0; i < f.n; i++ {
		k := by.of(f, i)
		var cell int
		var x float64
		if d.levels != nil {
			cell = int(f.code[d.name][i])
			if cell < 0 {
				m[g+k].add(1)
				continue
			}
		} else {
			if x = f.num[d.name][i]; x != x {
				m[g+k].add(1)
				continue
			}
			cell = d.cell(x)
			c := x - d.centre
			m[3*g+k].add(c)
			m[4*g+k].add(float64(c * c))
		}
		m[k].add(1)
		if p := (mark{k, f.patient[i]}); !inGroup[p] {
			inGroup[p] = true
			m[2*g+k].add(1)
		}
		if w == 0 {
			continue
		}
		at := k*w + cell
		cells[at]++
		if p := (mark{at, f.patient[i]}); !inCell[p] {
			inCell[p] = true
			patients[at]++
		}
	}
	out := [][]float64{values(m)}
	if w > 0 {
		out = append(out, cells, patients)
	}
	return out
}

// mask hides the counts of cells with 1 to k-1 patients, and the next smallest
// where a single hidden one could be had by subtraction.
func mask(counts, patients []float64, k float64) []*float64 {
	out := make([]*float64, len(counts))
	hidden, sum := 0, 0.0
	for i := range counts {
		if patients[i] > 0 && patients[i] < k {
			hidden++
			sum += patients[i]
			continue
		}
		out[i] = &counts[i]
	}
	for hidden > 0 && (hidden == 1 || sum < k) {
		best := -1
		for i := range counts {
			if out[i] != nil && patients[i] > 0 && (best < 0 || patients[i] < patients[best]) {
				best = i
			}
		}
		if best < 0 {
			break
		}
		out[best] = nil
		hidden++
		sum += patients[best]
	}
	return out
}

// hiddenGroups says which groups of a result are withheld: those of 1 to k-1
// patients, and one more where the sizes of the others would give one back.
func hiddenGroups(rows, patients []float64, k float64) []bool {
	out := make([]bool, len(rows))
	for g, n := range mask(rows, patients, k) {
		out[g] = n == nil
	}
	return out
}

// small is why something is hidden.
func small(facts consilium.Facts) string {
	return fmt.Sprintf("fewer than %d patients, or the difference would show them", facts.MinCohort)
}

type histogram struct {
	Breaks []float64  `json:"breaks"`
	Counts []*float64 `json:"counts"`
	Below  *float64   `json:"below"`
	Above  *float64   `json:"above"`
}

// quantile brackets a quantile: it lies in [lower, upper).
type quantile struct {
	P     float64  `json:"p"`
	Lower *float64 `json:"lower"`
	Upper *float64 `json:"upper"`
}

type levelCount struct {
	Level string   `json:"level"`
	Count *float64 `json:"count"`
}

type describedGroup struct {
	Name      string            `json:"name"`
	Levels    map[string]string `json:"levels"`
	N         *float64          `json:"n"`
	Missing   *float64          `json:"missing"`
	Mean      *float64          `json:"mean,omitempty"`
	Var       *float64          `json:"var,omitempty"`
	SD        *float64          `json:"sd,omitempty"`
	Histogram *histogram        `json:"histogram,omitempty"`
	Quantiles []quantile        `json:"quantiles,omitempty"`
	Counts    []levelCount      `json:"counts,omitempty"`
}

type ttest struct {
	T     float64    `json:"t"`
	DF    float64    `json:"df"`
	P     float64    `json:"p"`
	Lower *float64   `json:"lower"`
	Upper *float64   `json:"upper"`
	Means [2]float64 `json:"means"`
}

type anova struct {
	F  float64    `json:"f"`
	DF [2]float64 `json:"df"`
	SS [2]float64 `json:"ss"`
	P  float64    `json:"p"`
}

type describedVariable struct {
	Name    string           `json:"name"`
	Kind    string           `json:"kind"` // number or levels
	Groups  []describedGroup `json:"groups"`
	Welch   *ttest           `json:"welch,omitempty"`
	Student *ttest           `json:"student,omitempty"`
	ANOVA   *anova           `json:"anova,omitempty"`
}

func renderDescribe(facts consilium.Facts, a *consilium.AnalysisSpec, by *grouping, vars []*described, v map[string][]float64) any {
	k := float64(facts.MinCohort)
	if facts.Permitted(PermitSmallCells) {
		k = 0
	}
	out := struct {
		head
		Variables []describedVariable `json:"variables"`
	}{head: newHead(a, v["cohort"], false)}
	for i, d := range vars {
		r := describedVariable{Name: d.name, Kind: "number"}
		if d.levels != nil {
			r.Kind = "levels"
		}
		m := v[fmt.Sprintf("moments-%d", i)]
		cells, patients := v[fmt.Sprintf("cells-%d", i)], v[fmt.Sprintf("patients-%d", i)]
		var ns, means, variances []float64
		whole := true
		here := hiddenGroups(m[:by.n], m[2*by.n:3*by.n], k)
		for g := 0; g < by.n; g++ {
			n, missing, sum, sumsq := m[g], m[by.n+g], m[3*by.n+g], m[4*by.n+g]
			q := describedGroup{Name: by.name(g), Levels: by.values(g)}
			hide := func(item, reason string) {
				out.Suppressed = append(out.Suppressed, suppressed{item + " in " + q.Name, reason})
			}
			if here[g] {
				hide(d.name, small(facts))
				r.Groups = append(r.Groups, q)
				whole = false
				continue
			}
			// Missing values are a cell of the table like any other: one that is
			// hidden may not be had from the others and n.
			w := d.width()
			count, people := append([]float64(nil), cells[g*w:(g+1)*w]...), append([]float64(nil), patients[g*w:(g+1)*w]...)
			if w == 0 {
				count, people = []float64{n}, []float64{m[2*by.n+g]}
			}
			shown := mask(append(count, missing), append(people, missing), k)
			if q.Missing = shown[len(shown)-1]; q.Missing != nil {
				q.N = finite(n)
			} else {
				hide("number of values of "+d.name+", and of missing ones,", small(facts))
				whole = false
			}
			shown = shown[:len(shown)-1]
			if w > 0 {
				hidden := 0
				for _, c := range shown {
					if c == nil {
						hidden++
					}
				}
				if hidden > 0 {
					hide(fmt.Sprintf("%d counts of %s", hidden, d.name), small(facts))
				}
			}
			if d.levels != nil {
				for l, text := range d.levels {
					q.Counts = append(q.Counts, levelCount{text, shown[l]})
				}
				r.Groups = append(r.Groups, q)
				continue
			}
			if n > 0 {
				shift := sum / n
				mean := d.centre + shift
				q.Mean = &mean
				if n > 1 {
					variance := math.Max(0, (sumsq-float64(shift*sum))/(n-1))
					sd := math.Sqrt(variance)
					q.Var, q.SD = &variance, &sd
					ns, means, variances = append(ns, n), append(means, mean), append(variances, variance)
				} else {
					whole = false
				}
				if q.N == nil {
					q.Mean, q.Var, q.SD = Coarse(q.Mean, n), Coarse(q.Var, n), Coarse(q.SD, n)
				}
			} else {
				whole = false
			}
			if w > 0 {
				q.Histogram = &histogram{Breaks: d.breaks, Counts: shown[1 : w-1], Below: shown[0], Above: shown[w-1]}
				if n > 0 {
					var withheld int
					if q.Quantiles, withheld = quantiles(a.Quantiles, cells[g*w:(g+1)*w], people, shown, d.breaks, m[2*by.n+g], k); withheld > 0 {
						hide(fmt.Sprintf("%d quantiles of %s", withheld, d.name), fmt.Sprintf("fewer than %d patients lie below or above", facts.MinCohort))
					}
				}
			}
			r.Groups = append(r.Groups, q)
		}
		if d.levels == nil && whole && len(by.columns) == 1 && len(ns) == by.n && by.n > 1 {
			compareMeans(&r, ns, means, variances)
		}
		if h := v[fmt.Sprintf("hospitals-%d", i)]; h != nil && d.levels == nil && whole && h[0] > 1 && m[0] > h[0] {
			n, sum, sumsq := m[0], m[3], m[4]
			between, within := h[1]-float64(sum*sum)/n, sumsq-h[1]
			if df1, df2 := h[0]-1, n-h[0]; within > 0 {
				f := (between / df1) / (within / df2)
				r.ANOVA = &anova{F: f, DF: [2]float64{df1, df2}, SS: [2]float64{between, within}, P: det.FTail(f, df1, df2)}
			}
		}
		out.Variables = append(out.Variables, r)
	}
	return out
}

// Coarse rounds a mean, spread or share over n rows, of which some count is
// hidden, to three digits and to steps of at least 2/n: the full digits of a mean
// of whole numbers tell n, as the denominator of the fraction that they are.
func Coarse(v *float64, n float64) *float64 {
	if v == nil {
		return nil
	}
	least := math.Max(2/n, float64(math.Abs(*v)/1000))
	step := 1.0
	for step > least {
		step = float64(step / 10)
	}
	for i := 0; step < least; i++ { // 1, 2, 5, 10
		step = float64(step * [3]float64{2, 2.5, 2}[i%3])
	}
	if step < 1 {
		parts := math.Round(1 / step)
		return finite(math.Round(float64(*v*parts)) / parts)
	}
	return finite(float64(math.Round(*v/step) * step))
}

// quantiles tells each quantile as the stretch of histogram cells that holds it:
// cells are joined until each stretch is about at least k patients, and the
// hidden counts in it, if any, are of at least k together. It withholds a
// quantile that has fewer than k patients on one side.
func quantiles(ps, cells, patients []float64, shown []*float64, breaks []float64, people, k float64) (out []quantile, withheld int) {
	stretches := join(len(cells), func(from, to int) bool {
		hidden := 0.0
		for c := from; c < to; c++ {
			if shown[c] == nil {
				hidden += patients[c]
			}
		}
		return sumOf(patients, from, to) >= k && (hidden == 0 || hidden >= k)
	})
	n := sumOf(cells, 0, len(cells))
	for _, p := range ps {
		if stretches == nil || float64(p*people) < k || float64((1-p)*people) < k {
			out = append(out, quantile{P: p})
			withheld++
			continue
		}
		out = append(out, bracket(p, n, cells, breaks, stretches))
	}
	return out, withheld
}

// bracket finds the stretch that holds the quantile of R's type 1 (the smallest
// value whose share of values at or below it reaches p).
func bracket(p, n float64, cells, breaks []float64, stretches [][2]int) quantile {
	need := math.Ceil(float64(p*n) - 1e-9)
	q := quantile{P: p}
	sum := 0.0
	for _, s := range stretches {
		if sum += sumOf(cells, s[0], s[1]); sum >= need {
			if s[0] > 0 {
				q.Lower = &breaks[s[0]-1]
			}
			if s[1] <= len(breaks) {
				q.Upper = &breaks[s[1]-1]
			}
			return q
		}
	}
	return q
}

// compareMeans adds the t-tests of two groups, or the analysis of variance.
func compareMeans(r *describedVariable, n, mean, variance []float64) {
	all, grand := 0.0, 0.0
	for g := range n {
		all += n[g]
		grand += float64(n[g] * mean[g])
	}
	grand /= all
	within, between := 0.0, 0.0
	for g := range n {
		within += float64((n[g] - 1) * variance[g])
		d := mean[g] - grand
		between += float64(float64(n[g]*d) * d)
	}
	if !(within > 0) {
		return
	}
	k := float64(len(n))
	if len(n) > 2 {
		f := (between / (k - 1)) / (within / (all - k))
		r.ANOVA = &anova{F: f, DF: [2]float64{k - 1, all - k}, SS: [2]float64{between, within}, P: det.FTail(f, k-1, all-k)}
		return
	}
	test := func(se, df float64) *ttest {
		d := mean[0] - mean[1]
		t := d / se
		crit := det.StudentQuantile(0.05, df)
		return &ttest{T: t, DF: df, P: det.StudentTail(t, df), Lower: finite(d - float64(crit*se)), Upper: finite(d + float64(crit*se)), Means: [2]float64{mean[0], mean[1]}}
	}
	a, b := variance[0]/n[0], variance[1]/n[1]
	s := a + b
	r.Welch = test(math.Sqrt(s), float64(s*s)/(float64(a*a)/(n[0]-1)+float64(b*b)/(n[1]-1)))
	df := all - 2
	r.Student = test(math.Sqrt(float64((within/df)*(1/n[0]+1/n[1]))), df)
}
