package models

import (
	"context"
	"errors"
	"fmt"
	"math"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/det"
)

// gwas is a scan of variants: a null model of the response on the covariates,
// and then for every variant the score test of adding it (Rao), with the
// quality filters of the field. Genotypes are counts 0, 1, 2 of one allele.
//
// The first round counts genotypes, beside the null model's first step; the
// last one sums, for every variant that passed, its score and how it goes with
// the covariates: q + 2 numbers. A missing genotype counts as the mean of the
// called ones over all hospitals, twice the allele's frequency.
type gwas struct {
	g       *regression
	quality consilium.Quality
}

const (
	gwasFit = iota // the null model, with genotype counts in its first round
	gwasScan
	gwasDone
)

// genotypes is the length of a variant's counts: 0, 1, 2; patients with 1 or 2
// of the allele, patients with 0 or 1 (carriers of the other one).
const genotypes = 5

// maxVariants bounds the columns of one scan.
const maxVariants = 1 << 20

func newGWAS(facts consilium.Facts, a *consilium.AnalysisSpec) (Analysis, error) {
	if a.Family != "binomial" && a.Family != "gaussian" {
		return nil, consilium.ErrInvalid.Withf("family %q%s; want binomial or gaussian", a.Family, suggest(a.Family, []string{"binomial", "gaussian"}))
	}
	if len(a.Variants) == 0 || len(a.Variants) > maxVariants {
		return nil, consilium.ErrInvalid.Withf("variants: %d columns, want 1 to %d", len(a.Variants), maxVariants)
	}
	if len(unique(a.Variants...)) != len(a.Variants) {
		return nil, consilium.ErrInvalid.Withf("variants: a column stands twice")
	}
	for _, v := range a.Variants {
		c, ok := facts.Spec.Column(v)
		if !ok {
			return nil, consilium.ErrInvalid.Withf("variants: %s", unknownColumn(facts.Spec, v))
		}
		if c.Type != consilium.TypeInteger || c.Bounds == nil || *c.Bounds != [2]float64{0, 2} {
			return nil, consilium.ErrInvalid.Withf("variants: column %s must be an integer with bounds [0, 2], the count of one allele", v)
		}
	}
	null := *a
	null.Variants, null.Quality, null.Type = nil, nil, consilium.AnalysisGLM
	made, err := newGLM(facts, &null)
	if err != nil {
		return nil, err
	}
	g := made.(*regression)
	for _, v := range a.Variants {
		if contains(g.d.numeric, v) || a.Response != nil && a.Response.Column == v {
			return nil, consilium.ErrInvalid.Withf("variants: %s is also in the null model", v)
		}
	}
	g.spec = a
	w := &gwas{g: g}
	if a.Quality != nil {
		w.quality = *a.Quality
	}
	if q := w.quality; !(q.MAF >= 0 && q.MAF < 0.5 && q.HWE >= 0 && q.HWE < 1 && q.CallRate >= 0 && q.CallRate <= 1) {
		return nil, consilium.ErrInvalid.Withf("quality: maf %v, hwe %v, callRate %v; want 0 to below 0.5, 0 to below 1, 0 to 1", q.MAF, q.HWE, q.CallRate)
	}
	return w, nil
}

// gwasState is the null fit and what was opened about the variants.
type gwasState struct {
	fit    *State
	counts []float64 // genotypes by variant
	sums   []float64 // of those that passed: score, sum of squares, q with the covariates
}

func (w *gwas) load(s *State) (*gwasState, error) {
	parts, err := splitParts(s.Sub, 1)
	if err != nil {
		return nil, err
	}
	out := &gwasState{}
	if out.fit, err = ParseState(parts[0]); err != nil {
		return nil, err
	}
	t := &tape{f: s.F64, reading: true}
	t.list(&out.counts)
	t.list(&out.sums)
	if t.short || t.at != len(t.f) || len(out.counts) != 0 && len(out.counts) != genotypes*len(w.g.spec.Variants) {
		return nil, errors.New("state: not of this scan")
	}
	return out, nil
}

func (w *gwas) save(o *gwasState, phase, round uint32) (*State, error) {
	t := &tape{}
	t.list(&o.counts)
	t.list(&o.sums)
	if t.short {
		return nil, errors.New("state: a vector has the wrong length")
	}
	return &State{Phase: phase, Iteration: round, Done: phase == gwasDone, F64: t.f, Sub: joinParts([][]byte{o.fit.Append(nil)})}, nil
}

// Start implements Analysis.
func (w *gwas) Start(f consilium.Facts) (*State, error) {
	s, err := w.g.Start(f)
	if err != nil {
		return nil, err
	}
	return w.save(&gwasState{fit: s}, gwasFit, 0)
}

// perVariant is the values of one variant in the last round.
func (w *gwas) perVariant() int { return 2 + w.g.q() }

// Layout implements Analysis.
func (w *gwas) Layout(s *State) (consilium.Layout, error) {
	o, err := w.load(s)
	if err != nil {
		return consilium.Layout{}, err
	}
	switch s.Phase {
	case gwasFit:
		l, err := w.g.Layout(o.fit)
		if err == nil && len(o.counts) == 0 {
			l.Blocks = append(l.Blocks, exactBlock("genotypes", genotypes*len(w.g.spec.Variants)))
		}
		return l, err
	case gwasScan:
		return consilium.Layout{Blocks: []consilium.Block{exactBlock("variants", w.perVariant()*len(w.passed(o)))}}, nil
	}
	return consilium.Layout{}, errors.New("state: the scan is done")
}

// variantFrame reads the covariates' rows, and one variant at a time.
func (w *gwas) variants(rows *Rows, data *frame, visit func(v int, genotype []float64)) error {
	g := w.g
	const chunk = 256
	for at := 0; at < len(g.spec.Variants); at += chunk {
		names := g.spec.Variants[at:min(at+chunk, len(g.spec.Variants))]
		reads := want{numeric: unique(append(append([]string{}, g.reads.numeric...), names...)...), factors: g.reads.factors, keep: true}
		f, err := readFrame(g.facts.Spec, rows, reads)
		if err != nil {
			return err
		}
		var kept []int // the rows of the null model, in its order
		for i := 0; i < f.n; i++ {
			whole := true
			for _, name := range g.reads.numeric {
				whole = whole && f.num[name][i] == f.num[name][i]
			}
			for _, name := range g.reads.factors {
				whole = whole && f.code[name][i] >= 0
			}
			if whole {
				kept = append(kept, i)
			}
		}
		if len(kept) != data.n {
			return fmt.Errorf("variants: %d rows of %d", len(kept), data.n)
		}
		x := make([]float64, data.n)
		for k, name := range names {
			for i, r := range kept {
				x[i] = f.num[name][r]
				if v := x[i]; v == v && v != 0 && v != 1 && v != 2 {
					return consilium.ErrData.Withf("column %s: a genotype that is not 0, 1 or 2", name)
				}
			}
			visit(at+k, x)
		}
	}
	return nil
}

// Local implements Analysis.
func (w *gwas) Local(ctx context.Context, s *State, memory []byte, rows *Rows, out Writer) ([]byte, error) {
	o, err := w.load(s)
	if err != nil {
		return nil, err
	}
	g := w.g
	if s.Phase == gwasFit {
		if _, err := g.Local(ctx, o.fit, memory, rows, out); err != nil {
			return nil, err
		}
		if len(o.counts) > 0 {
			return nil, nil
		}
	}
	data, err := readFrame(g.facts.Spec, rows, g.reads)
	if err != nil {
		return nil, err
	}
	if s.Phase == gwasFit {
		counts := make([]float64, genotypes*len(g.spec.Variants))
		seen := make([]int8, data.ordinals) // 1: carries the allele, 2: the other one
		err := w.variants(rows, data, func(v int, x []float64) {
			c := counts[genotypes*v : genotypes*(v+1)]
			clear(seen)
			for i, a := range x {
				if a != a {
					continue
				}
				c[int(a)]++
				p := &seen[data.patient[i]]
				if a > 0 && *p&1 == 0 {
					*p |= 1
					c[3]++
				}
				if a < 2 && *p&2 == 0 {
					*p |= 2
					c[4]++
				}
			}
		})
		if err != nil {
			return nil, err
		}
		return nil, write(out, "genotypes", counts)
	}
	f, err := g.load(o.fit)
	if err != nil {
		return nil, err
	}
	x, err := g.d.matrix(data, f.mean, f.scale)
	if err != nil {
		return nil, err
	}
	y, offset, _, err := g.glmData(data)
	if err != nil {
		return nil, err
	}
	eta := g.linear(f, x, data.n)
	r, weight := make([]float64, data.n), make([]float64, data.n)
	for i := range eta {
		eta[i] += offset[i]
		if g.intercept {
			eta[i] += f.theta[0]
		}
	}
	degenerate := false
	if g.absorb && data.n > 0 {
		var own float64
		own, degenerate = profile(g.family, y, eta)
		for i := range eta {
			eta[i] += own
		}
	}
	for i := range eta {
		if degenerate {
			break
		}
		mu, v, _ := member(g.family, y[i], eta[i])
		r[i], weight[i] = y[i]-mu, v
	}
	mean := g.weightedMeans(x, weight)
	passed := w.passed(o)
	index := map[int]int{}
	for k, v := range passed {
		index[v] = k
	}
	m, off := w.perVariant(), g.base()
	sums := make([]total, m*len(passed))
	err = w.variants(rows, data, func(v int, geno []float64) {
		k, ok := index[v]
		if !ok {
			return
		}
		t := sums[m*k : m*(k+1)]
		fill := float64(2 * w.frequency(o, v))
		own := total{} // the hospital's weighted mean, where it has an intercept of its own
		centre := 0.0
		if g.absorb {
			all := total{}
			for i, a := range geno {
				if a != a {
					a = fill
				}
				own.add(float64(weight[i] * a))
				all.add(weight[i])
			}
			if all.value() > 0 {
				centre = own.value() / all.value()
			}
		}
		for i, a := range geno {
			if a != a {
				a = fill
			}
			t[0].add(float64(r[i] * a))
			a -= centre
			wa := float64(weight[i] * a)
			t[1].add(float64(wa * a))
			if off == 1 {
				t[2].add(wa)
			}
			for j := range x {
				t[2+off+j].add(float64(wa * (x[j][i] - mean[j])))
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return nil, write(out, "variants", values(sums))
}

// frequency of the counted allele among the called genotypes.
func (w *gwas) frequency(o *gwasState, v int) float64 {
	c := o.counts[genotypes*v : genotypes*(v+1)]
	called := c[0] + c[1] + c[2]
	if called == 0 {
		return 0
	}
	return (c[1] + float64(2*c[2])) / float64(2*called)
}

// Why a variant is left out.
const (
	passes = iota
	rareAllele
	outOfEquilibrium
	badlyCalled
	fewCarriers
)

// verdict judges a variant by the counts of all hospitals. Fewer than k
// carriers of either allele: its score would describe them.
func (w *gwas) verdict(o *gwasState, v int, rows float64) int {
	c := o.counts[genotypes*v : genotypes*(v+1)]
	called := c[0] + c[1] + c[2]
	q := w.frequency(o, v)
	switch {
	case rows > 0 && called/rows < w.quality.CallRate:
		return badlyCalled
	case math.Min(q, 1-q) < w.quality.MAF:
		return rareAllele
	case math.Min(c[3], c[4]) < float64(w.g.facts.MinCohort):
		return fewCarriers
	case w.quality.HWE > 0 && hardyWeinberg(c[0], c[1], c[2]) < w.quality.HWE:
		return outOfEquilibrium
	}
	return passes
}

func (w *gwas) rows(o *gwasState) float64 {
	f, err := w.g.load(o.fit)
	if err != nil {
		return 0
	}
	return f.cohort[cohortRows]
}

// passed lists the variants that are scanned.
func (w *gwas) passed(o *gwasState) []int {
	var out []int
	rows := w.rows(o)
	for v := range w.g.spec.Variants {
		if w.verdict(o, v, rows) == passes {
			out = append(out, v)
		}
	}
	return out
}

// hardyWeinberg is the exact test's p-value: the probability of all numbers of
// heterozygotes that are no likelier than this one, given the alleles
// (Wigginton, Cutler and Abecasis 2005).
func hardyWeinberg(homA, het, homB float64) float64 {
	n := homA + het + homB
	rare := float64(2*math.Min(homA, homB)) + het
	if n == 0 {
		return 1
	}
	// Probabilities relative to a likely number of heterozygotes, by recurrence.
	mid := math.Floor(float64(rare*(float64(2*n)-rare)) / float64(2*n))
	if math.Mod(mid, 2) != math.Mod(rare, 2) {
		mid++
	}
	p := map[int]float64{int(mid): 1}
	sum := total{hi: 1}
	h, a, b := mid, float64(0.5*(rare-mid)), n-mid-float64(0.5*(rare-mid))
	for at := 1.0; h > 1; {
		at = float64(at*float64(h*(h-1))) / float64(4*float64((a+1)*(b+1)))
		h, a, b = h-2, a+1, b+1
		p[int(h)] = at
		sum.add(at)
	}
	h, a, b = mid, float64(0.5*(rare-mid)), n-mid-float64(0.5*(rare-mid))
	for at := 1.0; h <= rare-2; {
		at = float64(float64(at*4)*float64(a*b)) / float64((h+2)*(h+1))
		h, a, b = h+2, a-1, b-1
		p[int(h)] = at
		sum.add(at)
	}
	own := p[int(het)]
	tail := total{}
	for k := int(math.Mod(rare, 2)); k <= int(rare); k += 2 {
		if v := p[k]; v <= float64(own*(1+1e-9)) {
			tail.add(v)
		}
	}
	return math.Min(1, tail.value()/sum.value())
}

// Update implements Analysis.
func (w *gwas) Update(s *State, o Opened) (*State, error) {
	st, err := w.load(s)
	if err != nil {
		return nil, err
	}
	round := s.Iteration + 1
	switch s.Phase {
	case gwasFit:
		if len(st.counts) == 0 {
			if st.counts, err = o.take("genotypes", genotypes*len(w.g.spec.Variants)); err != nil {
				return nil, err
			}
		}
		if st.fit, err = w.g.Update(st.fit, o); err != nil {
			return nil, err
		}
		switch {
		case st.fit.Phase == phaseFailed:
			return st.fit, nil
		case !st.fit.Done:
			return w.save(st, gwasFit, round)
		case len(w.passed(st)) == 0:
			return failed(round, failVariants, 0), nil
		}
		return w.save(st, gwasScan, round)
	case gwasScan:
		if st.sums, err = o.take("variants", w.perVariant()*len(w.passed(st))); err != nil {
			return nil, err
		}
		return w.save(st, gwasDone, round)
	}
	return nil, errors.New("state: the scan is done")
}

type variantResult struct {
	Name     string   `json:"name"`
	Freq     float64  `json:"freq"` // of the counted allele; coarse where HWE is null
	CallRate float64  `json:"call_rate"`
	HWE      *float64 `json:"hwe"`   // null where it would give small counts of genotypes away
	Score    *float64 `json:"score"` // with its variance
	Variance *float64 `json:"variance"`
	Beta     *float64 `json:"beta"` // one step from the null model, score over variance
	SE       *float64 `json:"se"`
	Chisq    *float64 `json:"chisq"`
	P        *float64 `json:"p"`
}

// few reports whether one of the genotypes, or a missing one, is of 1 to k-1
// patients: frequency, call rate and the exact test together give these counts.
func (w *gwas) few(c []float64, rows float64) bool {
	if w.g.facts.Permitted(PermitSmallCells) {
		return false
	}
	for _, n := range []float64{c[0], c[1], c[2], rows - (c[0] + c[1] + c[2])} {
		if n > 0 && n < float64(w.g.facts.MinCohort) {
			return true
		}
	}
	return false
}

// steps rounds a share of `of` to steps of 1, 2 or 5 in a power of ten, each at
// least k of them wide.
func (w *gwas) steps(share, of float64) float64 {
	parts := 1.0 // of one whole
	for i := 0; ; i++ {
		next := float64(parts * []float64{2, 2.5, 2}[i%3]) // 1, 2, 5, 10, 20, 50, …
		if float64(next*float64(w.g.facts.MinCohort)) > of {
			break
		}
		parts = next
	}
	return math.Round(float64(share*parts)) / parts
}

// Result implements Analysis.
func (w *gwas) Result(s *State) (*Result, error) {
	g := w.g
	if s.Phase == phaseFailed {
		p, err := problem(s, g.facts.MinCohort, int(s.Iteration), g.name)
		if err != nil {
			return nil, err
		}
		return problemResult(g.spec, p)
	}
	o, err := w.load(s)
	if err != nil {
		return nil, err
	}
	f, err := g.load(o.fit)
	if err != nil {
		return nil, err
	}
	if s.Phase != gwasDone {
		return nil, errors.New("state: the scan is not done")
	}
	rows := f.cohort[cohortRows]
	type left struct {
		MAF      int `json:"maf"`
		HWE      int `json:"hwe"`
		CallRate int `json:"call_rate"`
		Carriers int `json:"carriers"`
	}
	out := struct {
		head
		Family   string          `json:"family"`
		Tested   int             `json:"tested"`
		Left     left            `json:"left_out"`
		Lambda   *float64        `json:"lambda_gc"` // median chi-square over its expectation
		Variants []variantResult `json:"variants"`
	}{head: newHead(g.spec, f.cohort, g.family != "gaussian"), Family: g.family, Variants: []variantResult{}}
	for v := range g.spec.Variants {
		switch w.verdict(o, v, rows) {
		case rareAllele:
			out.Left.MAF++
		case outOfEquilibrium:
			out.Left.HWE++
		case badlyCalled:
			out.Left.CallRate++
		case fewCarriers:
			out.Left.Carriers++
		}
	}
	if n := out.Left.Carriers; n > 0 {
		out.Suppressed = append(out.Suppressed, suppressed{fmt.Sprintf("%d variants", n), fmt.Sprintf("fewer than %d carriers of one allele", g.facts.MinCohort)})
	}
	sigma2 := 1.0
	if g.family == "gaussian" {
		sigma2 = f.pearson / (rows - float64(g.q()) - g.sites(f.cohort))
	}
	// The information's inverse stands at the estimate before the last step; the
	// steps have stopped moving.
	inv := unpack(f.vcov, g.q())
	m := w.perVariant()
	var stats []float64
	coarsened := 0
	passed := w.passed(o)
	for k, v := range passed {
		t := o.sums[m*k : m*(k+1)]
		c := o.counts[genotypes*v : genotypes*(v+1)]
		r := variantResult{Name: g.spec.Variants[v], Freq: w.frequency(o, v), CallRate: (c[0] + c[1] + c[2]) / rows}
		few := w.few(c, rows)
		if few {
			coarsened++
			per := float64(2 * rows) // alleles
			r.Freq, r.CallRate = w.steps(r.Freq, per), w.steps(r.CallRate, rows)
		} else {
			r.HWE = finite(hardyWeinberg(c[0], c[1], c[2]))
		}
		cross := t[2:]
		score, variance := t[0]/sigma2, (t[1]-dot(cross, apply(inv, cross)))/sigma2
		if variance > float64(collinear*t[1])/sigma2 {
			chisq := float64(score*score) / variance
			p := det.ChiSquareTail(chisq, 1)
			r.Score, r.Variance, r.Beta, r.SE, r.Chisq, r.P = finite(score), finite(variance), finite(score/variance), finite(1/math.Sqrt(variance)), finite(chisq), &p
			stats = append(stats, chisq)
			if few && g.p() == 0 {
				// Without covariates the variance is a function of the counts alone.
				r.Score, r.Variance, r.Beta, r.SE = nil, nil, nil, nil
			}
		} else {
			out.Warnings = append(out.Warnings, r.Name+" follows from the covariates, so that nothing can be tested")
		}
		out.Variants = append(out.Variants, r)
	}
	out.Tested = len(passed)
	if coarsened > 0 {
		out.Suppressed = append(out.Suppressed, suppressed{fmt.Sprintf("exact frequency, call rate and Hardy-Weinberg p of %d variants", coarsened),
			fmt.Sprintf("fewer than %d patients have one of the genotypes, or none called; all of them passed the filters", g.facts.MinCohort)})
	}
	if n := len(stats); n > 0 {
		order := make([]int, n)
		for i := range order {
			order[i] = i
		}
		sortBy(order, func(i, j int) bool { return stats[i] < stats[j] })
		median := stats[order[n/2]]
		if n%2 == 0 {
			median = float64(0.5 * (median + stats[order[n/2-1]]))
		}
		out.Lambda = finite(float64(median / 0.4549364231195728))
	}
	out.Assumptions = append(out.Assumptions, "score tests beside one null model; missing genotypes count as the mean of the called ones; beta is one Newton step from the null model")
	if g.absorb {
		out.Assumptions = append(out.Assumptions, "every hospital has an intercept of its own, which it estimates itself and does not send")
	}
	b, err := canon.Marshal(out)
	if err != nil {
		return nil, err
	}
	return &Result{JSON: b}, nil
}

func (w *gwas) disclose(d *Disclosure) error {
	if err := w.g.disclose(d); err != nil {
		return err
	}
	n := len(w.g.spec.Variants)
	d.Columns = unique(append(d.Columns, w.g.spec.Variants...)...)
	d.Rounds++
	d.Layouts = append(d.Layouts, consilium.Layout{Blocks: []consilium.Block{exactBlock("variants", w.perVariant()*n)}})
	d.Sends = append(d.Sends, fmt.Sprintf("in the first round, for each of %d variants, how many of its patients carry none, one or two of the counted allele", n),
		fmt.Sprintf("in the last round, for each variant with at least %d carriers of either allele that passes the quality filters, its score, its sum of squares and %d sums with the covariates", w.g.facts.MinCohort, w.g.q()))
	d.Result = "per variant: allele frequency, call rate, Hardy-Weinberg p, score test; counts of the whole study"
	return nil
}
