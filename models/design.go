package models

import (
	"math"
	"strings"

	"consilium"
	"consilium/internal/det"
)

// part is one factor of a design column: a numeric column, possibly
// transformed, or the indicator of one level.
type part struct {
	column string
	fn     string // "", log, sqrt, pow
	power  float64
	level  int // -1: numeric
}

// column is one column of the design matrix.
type column struct {
	name      string // as in the result: age, treat:rIFN-g, treat:rIFN-g*age
	parts     []part
	source    string // the only source column, or ""
	level     string
	reference string
}

// indicator reports whether the column is 0 or 1 by levels and flags alone.
func (c *column) indicator(spec *consilium.Spec) bool {
	for _, p := range c.parts {
		if p.level >= 0 {
			continue
		}
		if d, ok := spec.Column(p.column); !ok || d.Type != consilium.TypeFlag {
			return false
		}
	}
	return true
}

// design is the model matrix that a study file describes. Levels and their
// order come from the study, never from data.
type design struct {
	spec    *consilium.Spec
	columns []column
	numeric []string // source columns
	factors []string
	site    bool // a term "site": profiled at each hospital
	terms   []designTerm
	checks  []levelCheck
}

// designTerm is a term of the study and its columns.
type designTerm struct {
	name    string
	columns []int
}

// levelCheck is a set of rows of which at least minLevelPatients patients are
// needed: a level of a factor, or a combination that has a column of its own.
type levelCheck struct {
	what  string
	parts []part
	value float64 // of a flag
}

// minLevelPatients is the fewest patients that a model's level needs: the
// coefficient of a level of one or two is nearly their data.
const minLevelPatients = 3

// newDesign expands terms as R does: a factor is coded by contrasts with its
// reference where the term without it is in the model, else by all levels.
// intercept is true when the model has one, also an unnamed one (Cox).
func newDesign(spec *consilium.Spec, terms []string, intercept bool) (*design, error) {
	d := &design{spec: spec}
	var parsed []consilium.Term
	present := map[string]bool{}
	key := func(fs []consilium.Factor, skip int) string {
		var names []string
		for i, f := range fs {
			if i != skip {
				names = append(names, f.String())
			}
		}
		// Order within a term does not matter: a:b is b:a.
		for i := range names {
			for j := i; j > 0 && names[j] < names[j-1]; j-- {
				names[j], names[j-1] = names[j-1], names[j]
			}
		}
		return strings.Join(names, ":")
	}
	for _, s := range terms {
		t, err := consilium.ParseTerm(s)
		if err != nil {
			return nil, consilium.ErrInvalid.With(err)
		}
		if present[key(t.Factors, -1)] {
			return nil, consilium.ErrInvalid.Withf("term %s stands twice", s)
		}
		present[key(t.Factors, -1)] = true
		if len(t.Factors) == 1 && t.Factors[0] == (consilium.Factor{Column: "site"}) {
			d.site = true
			continue
		}
		for _, f := range t.Factors {
			if f.Column == "site" {
				return nil, consilium.ErrInvalid.Withf("term %s: site may only be a term of its own (an interaction would publish each hospital's own effect)", s)
			}
			if _, isFactor := levelsColumn(spec, f.Column); !isFactor && !isNumeric(spec, f.Column) {
				return nil, consilium.ErrInvalid.Withf("term %s: %s", s, unknownColumn(spec, f.Column))
			} else if isFactor && f.Func != "" {
				return nil, consilium.ErrInvalid.Withf("term %s: %s has levels, so %s of it has no meaning", s, f.Column, f.Func)
			}
		}
		parsed = append(parsed, t)
	}
	hasIntercept := intercept || d.site
	for _, t := range parsed {
		cols := []column{{}}
		for i, f := range t.Factors {
			var choices []part
			levels, isFactor := levelsColumn(spec, f.Column)
			if !isFactor {
				choices = []part{{column: f.Column, fn: f.Func, power: f.Power, level: -1}}
				d.numeric = unique(append(d.numeric, f.Column)...)
			} else {
				margin := key(t.Factors, i)
				contrast := present[margin]
				if margin == "" {
					contrast = hasIntercept
					hasIntercept = true // without an intercept, the first factor has all levels
				}
				first := 0
				if contrast {
					first = 1
				}
				for l := first; l < len(levels); l++ {
					choices = append(choices, part{column: f.Column, level: l})
				}
				d.factors = unique(append(d.factors, f.Column)...)
			}
			var next []column
			for _, ch := range choices { // the first factor varies fastest, as in R
				for _, c := range cols {
					next = append(next, column{parts: append(append([]part{}, c.parts...), ch)})
				}
			}
			cols = next
		}
		one := designTerm{name: t.String()}
		for k := range cols {
			one.columns = append(one.columns, len(d.columns)+k)
		}
		d.terms = append(d.terms, one)
		d.columns = append(d.columns, cols...)
	}
	for i := range d.columns {
		d.columns[i].describe(spec)
	}
	for _, name := range d.factors {
		levels, _ := levelsColumn(spec, name)
		for l, text := range levels {
			d.checks = append(d.checks, levelCheck{what: name + ":" + text, parts: []part{{column: name, level: l}}})
		}
	}
	for _, name := range d.numeric {
		if c, ok := spec.Column(name); ok && c.Type == consilium.TypeFlag {
			for v := 0.0; v < 2; v++ {
				d.checks = append(d.checks, levelCheck{what: name + ":" + [2]string{"0", "1"}[int(v)], parts: []part{{column: name, level: -1}}, value: v})
			}
		}
	}
	for i := range d.columns {
		if c := &d.columns[i]; len(c.parts) > 1 && c.indicator(spec) {
			d.checks = append(d.checks, levelCheck{what: c.name, parts: c.parts, value: 1})
		}
	}
	return d, nil
}

// levelsColumn is factorLevels for model terms, where flags and integers are
// numbers.
func levelsColumn(spec *consilium.Spec, name string) ([]string, bool) {
	if c, ok := spec.Column(name); ok && c.Type == consilium.TypeLevels {
		return c.Levels, true
	}
	return nil, false
}

func (c *column) describe(spec *consilium.Spec) {
	var names []string
	for _, p := range c.parts {
		if p.level >= 0 {
			levels, _ := levelsColumn(spec, p.column)
			names = append(names, p.column+":"+levels[p.level])
			if len(c.parts) == 1 {
				c.source, c.level = p.column, levels[p.level]
				if p.level != 0 {
					c.reference = levels[0]
				}
			}
			continue
		}
		names = append(names, consilium.Factor{Column: p.column, Func: p.fn, Power: p.power}.String())
		if len(c.parts) == 1 {
			c.source = p.column
		}
	}
	c.name = strings.Join(names, "*")
}

func (p part) value(f *frame, row int) float64 {
	if p.level >= 0 {
		if f.code[p.column][row] == int32(p.level) {
			return 1
		}
		return 0
	}
	v := f.num[p.column][row]
	switch p.fn {
	case "log":
		return det.Log(v)
	case "sqrt":
		return math.Sqrt(v)
	case "pow":
		out := v
		for k := 1; k < int(p.power); k++ {
			out = float64(out * v)
		}
		return out
	}
	return v
}

// matrix computes the design matrix by columns, each as (x - centre) / scale.
func (d *design) matrix(f *frame, centre, scale []float64) ([][]float64, error) {
	out, faults := make([][]float64, len(d.columns)), make([]error, len(d.columns))
	inColumns(len(d.columns), func(j int) { out[j], faults[j] = d.values(f, j, centre[j], scale[j]) })
	for _, err := range faults {
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// values computes column j of the design matrix.
func (d *design) values(f *frame, j int, centre, scale float64) ([]float64, error) {
	x := make([]float64, f.n)
	if c := &d.columns[j]; len(c.parts) == 1 && c.parts[0].fn == "" {
		// Finite as they are; scales are powers of two, whose reciprocals are exact.
		inverse := 1 / scale
		if part := c.parts[0]; part.level < 0 {
			for i, v := range f.num[part.column] {
				x[i] = float64((v - centre) * inverse)
			}
		} else {
			values := [2]float64{float64(-centre * inverse), float64((1 - centre) * inverse)}
			for i, code := range f.code[part.column] {
				if x[i] = values[0]; code == int32(part.level) {
					x[i] = values[1]
				}
			}
		}
		return x, nil
	}
	for i := range x {
		v := 1.0
		for _, p := range d.columns[j].parts {
			v = float64(v * p.value(f, i))
		}
		if math.IsInf(v, 1) {
			return nil, tooLarge("term " + d.columns[j].name)
		}
		if v != v || math.IsInf(v, 0) {
			return nil, consilium.ErrData.Withf("term %s has no value for some row (a logarithm needs values above 0, a square root at least 0); restrict the cohort or declare bounds", d.columns[j].name)
		}
		x[i] = (v - centre) / scale
	}
	return x, nil
}

// levelCounts counts the patients of each check.
func (d *design) levelCounts(f *frame) []float64 {
	out := make([]float64, len(d.checks))
	for k, c := range d.checks {
		out[k] = f.patientsWith(func(i int) bool { return c.holds(f, i) })
	}
	return out
}

// holds reports whether a row is in the set.
func (c *levelCheck) holds(f *frame, i int) bool {
	if len(c.parts) == 1 && c.parts[0].level < 0 {
		return f.num[c.parts[0].column][i] == c.value
	}
	for _, p := range c.parts {
		if p.value(f, i) == 0 {
			return false
		}
	}
	return true
}

// publicScale is a power of two near the spread of each column, from the
// bounds that the study declares; 1 without them. The first round works in
// it, the later ones in the spread that the first one measured.
func (d *design) publicScale() []float64 {
	out := make([]float64, len(d.columns))
	for j := range d.columns {
		m := 1.0
		known := true
		for _, p := range d.columns[j].parts {
			if p.level >= 0 {
				continue
			}
			c, ok := d.spec.Column(p.column)
			if ok && c.Type == consilium.TypeFlag {
				continue
			}
			if !ok || c.Bounds == nil {
				known = false
				continue
			}
			b := math.Max(math.Abs(c.Bounds[0]), math.Abs(c.Bounds[1]))
			switch p.fn {
			case "log":
				b = math.Max(math.Abs(det.Log(b)), 1)
			case "sqrt":
				b = math.Sqrt(b)
			case "pow":
				v := b
				for k := 1; k < int(p.power); k++ {
					b = float64(b * v)
				}
			}
			m = float64(m * b)
		}
		out[j] = 1
		if known && m > 1 {
			out[j] = powerOfTwo(float64(m / 4))
		} else if known && m > 0 {
			out[j] = powerOfTwo(m)
		}
	}
	return out
}

// powerOfTwo is the power of two at or below v, within 2^±200, so that
// dividing by it is exact.
func powerOfTwo(v float64) float64 {
	if !(v > 0x1p-200) {
		return 0x1p-200
	}
	if v > 0x1p200 {
		return 0x1p200
	}
	_, e := math.Frexp(v)
	return math.Ldexp(1, e-1)
}

// largest bounds a value of a design column, in units of its public scale: past
// it a sum of squares over a table leaves the 62 bits before the point.
const largest = 0x1p28

// checkSize names the term that cannot be summed.
func (d *design) checkSize(x [][]float64) error {
	for j, col := range x {
		for _, v := range col {
			if !(math.Abs(v) < largest) {
				return tooLarge("term " + d.columns[j].name)
			}
		}
	}
	return nil
}

func tooLarge(what string) error {
	return consilium.ErrData.Withf("%s: a value that is too large to be summed; declare bounds for its columns, use a larger unit, or correct the row", what)
}
