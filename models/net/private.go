package net

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"consilium"
	"consilium/internal/dp"
	"consilium/models"
)

// private is training under privacy.dp: gradient descent in which every round
// opens one noisy sum of patients' clipped gradients (M. Abadi et al., Deep
// Learning with Differential Privacy, CCS 2016; with noise that hospitals add in
// shares, P. Kairouz, Z. Liu and T. Steinke, ICML 2021, and N. Agarwal, P. Kairouz
// and Z. Liu, NeurIPS 2021).
//
// # What is opened
//
// counts of rows, patients and events, once; a gradient in every round; and at
// the end counts of patients by score. Each is a release of models.Noise, and the
// budget of the study bounds all of them together: the vectors are composed
// adaptively, by their Rényi divergences. Nothing else is opened. What does not
// fit into these three, or is no sum over patients, is refused by newPrivate.
//
// # Why one gradient a round
//
// With several local steps a patient would move the point at which all later
// gradients are taken, so that clipping each gradient bounds nothing: either every
// local step has noise of its own, which the others' noise cannot share, or the
// whole step of a hospital is clipped, which protects the hospital at many times
// the noise. A round therefore takes one gradient of all rows at the shared
// weights. It is the sum over hospitals that has noise, once, and a patient is
// in it once.
//
// All rows, not a sample: drawing patients (Poisson, in secret) buys work and not
// privacy at a given number of rounds, and the patients of a rare disease fit into
// one batch.
//
// What follows from opened sums costs nothing more: the steps of fedadam and
// fedyogi, class weights, and the mean of the weights of the later half of the
// rounds, which is the model (B. Polyak and A. Juditsky 1992).
type private struct {
	counts, gradient, scores *models.Noise
	scales                   [][2]float64 // middle and unit of each scale, public
	answer                   [2]float64   // of the response of a squared loss
}

// maxPrivateParams bounds a private model: the norm of a patient's gradient is
// at least 512 integers, and rounding adds up to half the root of their number.
const maxPrivateParams = 1 << 16

// reach is how many units of a public scale its bounds are away from the middle:
// as if the bounds of a column were three standard deviations wide to each side.
const reach = 3

// scoreCells are the cells of a private evaluation: logits from -4 to 4 in steps
// of 1/2, anomaly scores from 2^-8 to 2^8 by doubling. Fewer than bins: noise
// adds up over cells.
const scoreCells = 16

// privateStrategy fills in what privacy leaves open of a strategy and refuses
// what does not go with it.
func privateStrategy(s *consilium.Strategy) (strategy, error) {
	if s == nil {
		s = &consilium.Strategy{}
	}
	bad := func(key, why string) (strategy, error) {
		return strategy{}, consilium.ErrInvalid.Withf("privacy.dp: strategy.%s: %s; leave it out, or train without privacy.dp", key, why)
	}
	switch {
	case s.Name == "scaffold":
		return bad("name scaffold", "every round would open its control variates too; use fedavg, fedadam or fedyogi")
	case s.Name == "fedprox", s.Mu != 0:
		return bad("name fedprox", "a round takes one step from the shared model, which nothing needs to hold near it; use fedavg, fedadam or fedyogi")
	case s.LocalEpochs > 1:
		return bad("local_epochs", "a round takes one gradient: a patient would move the points at which later ones are taken")
	case s.Batch != 0:
		return bad("batch", "a round takes one gradient of all rows")
	case s.Patience != 0 || s.MinDelta != 0:
		return bad("patience", "every round would open a loss; choose the number of rounds")
	case s.Bits != 0:
		return bad("bits", "sums are exact integers")
	}
	one := *s
	one.LocalEpochs = 1
	if d, ok := privateDefaults[cmp.Or(one.Name, "fedavg")]; ok {
		if one.Rate == 0 {
			one.Rate = d.rate
		}
		if one.ServerRate == 0 {
			one.ServerRate = d.serverRate
		}
	}
	v, err := newStrategy(&one)
	v.batch, v.bits, v.kind = 0, 0, consilium.Exact
	return v, err
}

// privateDefaults are rates for one step a round.
var privateDefaults = map[string]struct{ rate, serverRate float64 }{
	"fedavg":  {5, 1},
	"fedadam": {1, 0.1},
	"fedyogi": {1, 0.1},
}

func newPrivate(a *train) (*private, error) {
	d := a.facts.Spec.Privacy.DP
	if !(d.Clip > 0 && d.Clip <= 1e6) {
		return nil, consilium.ErrInvalid.Withf("privacy.dp: clip %v, want above 0: the number of rows that a patient counts for at most", d.Clip)
	}
	if a.net.loss == partial {
		return nil, consilium.ErrInvalid.Withf("privacy.dp: the loss cox is no sum over patients: taking one away changes what all others of the risk set add; use a flag for an event within a time and the loss logistic, or an analysis of type cox with a piecewise baseline")
	}
	if a.net.params > maxPrivateParams {
		return nil, consilium.ErrInvalid.Withf("privacy.dp: a model of %d parameters, at most %d: every one of them gets noise of its own; use fewer units", a.net.params, maxPrivateParams)
	}
	p := &private{}
	var err error
	if p.scales, err = a.publicScales(); err != nil {
		return nil, err
	}
	p.answer = [2]float64{0, 1}
	if a.net.loss == squared {
		if p.answer, err = a.publicScale(a.response); err != nil {
			return nil, err
		}
	}
	rounds := a.strategy.rounds
	if p.counts, err = models.NewNoise(a.facts, a.spec.Name, headEvents+2, a.countNorm(d.Clip), 1); err != nil {
		return nil, err
	}
	if p.gradient, err = models.NewNoise(a.facts, a.spec.Name, a.net.params, float64(d.Clip*a.strategy.clip), 1); err != nil {
		return nil, err
	}
	p.scores, err = models.NewNoise(a.facts, a.spec.Name, 2*a.scoreLength(), a.scoreNorm(), models.EvaluationParts(rounds))
	return p, err
}

// publicScale is the middle and the unit of a column, by its declared bounds.
func (a *train) publicScale(f field) ([2]float64, error) {
	b := [2]float64{0, 1}
	if f.kind != consilium.TypeLevels {
		if _, ok := a.facts.Spec.Column(f.name); !ok {
			return b, consilium.ErrInvalid.Withf("privacy.dp: the derived column %s has no bounds: put it into the table, with bounds", f.name)
		}
		var err error
		if b, err = models.PublicBounds(a.facts.Spec, f.name); err != nil {
			return b, err
		}
	}
	return [2]float64{float64(0.5 * (b[0] + b[1])), (b[1] - b[0]) / (2 * reach)}, nil
}

// publicScales are those of the inputs. A channel's bounds are those of all its
// columns.
func (a *train) publicScales() ([][2]float64, error) {
	out := make([][2]float64, len(a.scales))
	for c, s := range a.scales {
		if s.binary {
			out[c] = [2]float64{0.5, 0.5}
			continue
		}
		low, high := math.Inf(1), math.Inf(-1)
		for j := c; j < len(a.inputs); j += len(a.scales) {
			in := [2]float64{0.5, 0.5 / reach}
			if !a.inputs[j].binary() {
				var err error
				if in, err = a.publicScale(a.inputs[j].field); err != nil {
					return nil, err
				}
			}
			half := float64(reach * in[1])
			low, high = min(low, in[0]-half), max(high, in[0]+half)
		}
		out[c] = [2]float64{float64(0.5 * (low + high)), (high - low) / (2 * reach)}
	}
	return out, nil
}

// Releases implements models.Releaser.
func (a *train) Releases(s *models.State) []dp.Release {
	if a.private == nil {
		return nil
	}
	n, _ := a.private.at(s.Phase)
	return []dp.Release{n.Release()}
}

// AllReleases implements models.Releaser.
func (a *train) AllReleases() []dp.Release {
	if a.private == nil {
		return nil
	}
	out := []dp.Release{a.private.counts.Release()}
	for range a.strategy.rounds {
		out = append(out, a.private.gradient.Release())
	}
	return append(out, a.private.scores.Release())
}

// at is the noise of a phase and the name of what it opens.
func (p *private) at(phase uint32) (*models.Noise, string) {
	switch phase {
	case phasePrepare:
		return p.counts, "counts"
	case phaseTrain:
		return p.gradient, "gradient"
	}
	return p.scores, "scores"
}

func (a *train) privateLength(phase uint32) int {
	switch phase {
	case phasePrepare:
		return headEvents + 2
	case phaseTrain:
		return a.net.params
	}
	return 2 * a.scoreLength()
}

func (a *train) privateLayout(phase uint32) consilium.Layout {
	_, name := a.private.at(phase)
	return consilium.Layout{Blocks: []consilium.Block{{Name: name, Kind: consilium.Exact, Length: a.privateLength(phase)}}}
}

// privateLocal writes a hospital's noisy sum.
func (a *train) privateLocal(ctx context.Context, s *models.State, v view, t *table, rows *models.Rows, w models.Writer) error {
	var secret consilium.Digest
	if rows != nil {
		secret = rows.Noise
	}
	sums := make([]int64, a.privateLength(s.Phase))
	var err error
	switch {
	case s.Phase == phasePrepare:
		a.privateCounts(t, sums)
	case s.Phase == phaseTrain && a.net.double:
		err = privateGradient[float64](ctx, a, v, t, sums)
	case s.Phase == phaseTrain:
		err = privateGradient[float32](ctx, a, v, t, sums)
	case a.net.double:
		err = privateScores[float64](ctx, a, v, t, sums)
	default:
		err = privateScores[float32](ctx, a, v, t, sums)
	}
	if err != nil {
		return err
	}
	noise, name := a.private.at(s.Phase)
	noisy, err := noise.Add(sums, secret, fmt.Sprintf("%s/%s/%d", a.spec.Name, name, s.Iteration))
	if err != nil {
		return err
	}
	return write(w, []string{name}, noisy)
}

// byPatient lists rows by the ordinals of their patients.
func byPatient(who []int32, ordinals int) [][]int {
	out := make([][]int, ordinals)
	for i, p := range who {
		out[p] = append(out[p], i)
	}
	return slices.DeleteFunc(out, func(rows []int) bool { return len(rows) == 0 })
}

// privateCounts: a patient counts once, and with as many rows and events as the
// clip lets through.
func (a *train) privateCounts(t *table, sums []int64) {
	clip := a.facts.Spec.Privacy.DP.Clip
	x, room := make([]float64, len(sums)), make([]int64, len(sums))
	for _, rows := range byPatient(t.patient, t.ordinals) {
		clear(x)
		h := split(t.holdout[rows[0]])
		x[headPatients+h] = 1
		x[headRows+h] = min(float64(len(rows)), clip)
		if a.classes() {
			events := 0.0
			for _, i := range rows {
				events += t.y[i]
			}
			x[headEvents+h] = min(events, clip)
		}
		a.private.counts.Clip(x, room, sums)
	}
}

func (a *train) countNorm(clip float64) float64 {
	square := 1 + float64(clip*clip)
	if a.classes() {
		square += float64(clip * clip)
	}
	return math.Sqrt(square)
}

// privateGradient adds up the clipped gradients of the training patients: of each
// the sum over its rows, at the shared weights, to the norm of `clip` rows of norm
// strategy.clip.
//
// One pass computes the slopes of many rows at once, layer by layer; no layer mixes
// rows, so that a patient's gradient follows from its rows' slopes (what ghost
// clipping makes use of: Lee and Kifer, PoPETs 2021; Li et al., ICLR 2022). The gradient
// itself is formed, where ghost clipping forms its norm alone, because each
// patient's is rounded to integers before it is added. Its bits depend on the
// patient's rows alone: a patient that fits into a batch is never divided, one that
// does not begins a batch.
func privateGradient[T real](ctx context.Context, a *train, v view, t *table, sums []int64) error {
	e := newExamples[T](a, v, t)
	var who []int32 // of every example
	for i, held := range t.holdout {
		if !held {
			who = append(who, t.patient[i])
		}
	}
	batch := a.passBatch()
	m, err := take[T](a.net, batch, true)
	if err != nil {
		return err
	}
	load(v, m.params)
	m.apart(true)
	x, room := make([]float64, len(sums)), make([]int64, len(sums))
	type stretch struct {
		from, to int
		last     bool // of its patient
	}
	var list []int
	var parts []stretch
	flush := func() error {
		if err := ctx.Err(); err != nil || len(list) == 0 {
			return err
		}
		e.fill(m, list, 1)
		if err := m.run(); err != nil {
			return err
		}
		for _, p := range parts {
			m.rows(p.from, p.to)
			for i, g := range m.grads {
				x[i] += float64(g)
			}
			if p.last {
				a.private.gradient.Clip(x, room, sums)
				clear(x)
			}
		}
		list, parts = list[:0], parts[:0]
		return nil
	}
	for _, rows := range byPatient(who, t.ordinals) {
		if len(list)+len(rows) > batch {
			if err := flush(); err != nil {
				return err
			}
		}
		for len(rows) > 0 {
			n := min(len(rows), batch-len(list))
			parts = append(parts, stretch{len(list), len(list) + n, n == len(rows)})
			list, rows = append(list, rows[:n]...), rows[n:]
			if len(rows) > 0 {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	give(m)
	return nil
}

// scoreLength is what is counted of one split. A squared loss counts patients and
// sums squared errors, responses and their squares, each in units of its largest
// value; the others count patients by class and score.
func (a *train) scoreLength() int {
	if a.net.loss == squared {
		return 4
	}
	return 2 * scoreCells
}

func (a *train) scoreNorm() float64 {
	if a.net.loss == squared {
		return 2 // of four values of at most one
	}
	return 1
}

// scoreCell is the place of a score on the coarse grid.
func (a *train) scoreCell(z float64) int {
	at := float64((z + 4) * 2)
	if a.net.loss == reconstruction {
		at = log2(z) + 8
	}
	if math.IsNaN(at) {
		return 0
	}
	return int(math.Floor(min(max(at, 0), scoreCells-1)))
}

// privateScores counts every patient once: one with several rows by their shares.
func privateScores[T real](ctx context.Context, a *train, v view, t *table, sums []int64) error {
	n := a.scoreLength()
	groups := byPatient(t.patient, t.ordinals)
	share := make([]float64, t.rows())
	for _, rows := range groups {
		for _, i := range rows {
			share[i] = 1 / float64(len(rows))
		}
	}
	each := make([]struct {
		at    int
		value [4]float64
	}, t.rows())
	err := predict(ctx, a, v, t, func(i int, values []T) {
		z, to := float64(values[0]), &each[i]
		switch a.net.loss {
		case squared:
			y := max(-reach, min(reach, (t.y[i]-v.head[headMean])/v.head[headSD]))
			d := math.Abs(z - y)
			if !(d <= reach) {
				d = reach
			}
			to.value = [4]float64{1, float64(d*d) / (reach * reach), y / reach, float64(y*y) / (reach * reach)}
		case reconstruction:
			z = a.distance(v, t.x[i*t.inputs:(i+1)*t.inputs], func(j int) float64 { return float64(values[j]) })
			fallthrough
		default:
			to.at = int(t.y[i])*scoreCells + a.scoreCell(z)
		}
	})
	if err != nil {
		return err
	}
	x, room := make([]float64, len(sums)), make([]int64, len(sums))
	for _, rows := range groups {
		clear(x)
		for _, i := range rows {
			own := x[n*split(t.holdout[i]):]
			if a.net.loss != squared {
				own[each[i].at] += share[i]
				continue
			}
			for k, c := range each[i].value {
				own[k] += float64(share[i] * c)
			}
		}
		a.private.scores.Clip(x, room, sums)
	}
	return nil
}

// privateUpdate makes the next state from an opened noisy sum.
func (a *train) privateUpdate(n *models.State, v view, o models.Opened) (*models.State, error) {
	switch n.Phase {
	case phasePrepare:
		for i, c := range o.Values["counts"] {
			v.head[i] = max(0, math.RoundToEven(c))
		}
		v.head[headRows] = max(v.head[headRows], 1)
		if v.head[headPatients] < float64(max(a.facts.MinCohort, 1)) {
			return failed(n.Iteration, problemPatients, 0), nil
		}
		n.Phase = phaseTrain
	case phaseTrain:
		return a.privateStep(n, v, o)
	case phaseEvaluate:
		return a.privateEvaluated(n, v, o), nil
	}
	return n, nil
}

// Places in the head that only a private study uses.
const (
	headSites  = headBest     // whose noise is in the evaluation
	headSignal = headBestLoss // sum over rounds: the squared length of the opened gradient, over what noise alone would have
)

// privateStep moves the weights against the mean gradient. Of the later half of
// the rounds it keeps the mean of the weights.
func (a *train) privateStep(n *models.State, v view, o models.Opened) (*models.State, error) {
	gradient := o.Values["gradient"]
	update := make([]float64, len(gradient))
	square := 0.0
	for i, g := range gradient {
		square += float64(g * g)
		update[i] = float64(-a.strategy.rate*g) / v.head[headRows]
	}
	sd := a.private.gradient.SDOf(len(o.Contributors))
	v.head[headSignal] += square / float64(float64(sd*sd)*float64(len(gradient)))
	norm, code, err := a.step(v, models.Opened{Values: map[string][]float64{"update": update, "weight": {v.head[headRows], 0, 0}}}.Stream())
	if err != nil {
		return nil, err
	}
	if code != 0 {
		return failed(n.Iteration, code, 0), nil
	}
	first := uint32(a.strategy.rounds / 2)
	if n.Iteration >= first {
		v.average(float64(n.Iteration - first + 1))
	}
	if n.Iteration++; int(n.Iteration) == a.strategy.rounds {
		v.restore()
		n.Phase = phaseEvaluate
	}
	// From here on v is of the old slice.
	point := [curveLength]float64{0: math.NaN(), 1: math.NaN(), 2: math.NaN(), 3: math.NaN(), 4: math.NaN(), 5: math.NaN(), curveLength - 1: norm}
	n.F64 = extend(n.F64, point[:])
	return n, nil
}

// average takes the weights into the mean of count of them.
func (v view) average(count float64) {
	for i, w := range v.double {
		v.best[i] += (w - v.best[i]) / count
	}
	for i, w := range v.single {
		v.best32[i] = float32(float64(v.best32[i]) + (float64(w)-float64(v.best32[i]))/count)
	}
}

// privateEvaluated ends the study: it spreads the noisy counts over the blocks of
// an evaluation, so that metrics, calibration and thresholds are read from them.
func (a *train) privateEvaluated(n *models.State, v view, o models.Opened) *models.State {
	v.head[headSites] = float64(len(o.Contributors))
	length := a.scoreLength()
	for s, name := range []string{"training", "holdout"} {
		e := make([]float64, a.evalLength(phaseEvaluate))
		if s == 0 || a.holds(v) {
			a.spread(e, o.Values["scores"][s*length:(s+1)*length])
		}
		o.Values[name] = e
	}
	point := a.point(o)
	n.F64 = extend(n.F64, point[:], o.Values["training"], o.Values["holdout"])
	n.Done = true
	return n
}

// spread writes noisy counts to an evaluation's block. Scores stand in the middle
// of their cells.
func (a *train) spread(e, noisy []float64) {
	if a.net.loss == squared {
		e[evalRows], e[evalError] = max(0, noisy[0]), math.NaN() // no absolute errors
		e[evalLoss] = max(0, float64(reach*reach*noisy[1]))
		e[evalSum], e[evalSum2] = float64(reach*noisy[2]), float64(reach*reach*noisy[3])
		return
	}
	for y := range 2 {
		for c, count := range nonNegative(noisy[y*scoreCells : (y+1)*scoreCells]) {
			e[evalRows] += count
			if a.net.loss == reconstruction {
				at := 8 * c // a doubling has eight bins
				e[evalLoss] += float64(count * math.Ldexp(math.Sqrt2, c-8))
				e[evalHist+y*bins+at+4] += count
				e[evalHist+2*bins+at+4] += count
				continue
			}
			z := float64(c)/2 - 3.75
			p := risk(z)
			d := p - float64(y)
			e[evalLoss] += float64(count * logLoss(z, float64(y)))
			e[evalError] += float64(count * float64(d*d))
			e[evalHist+y*bins+bin(z)] += count
			cell := e[evalHist+2*bins:]
			at := min(int(float64(p*cells)), cells-1)
			cell[y*cells+at] += count
			cell[2*cells+at] += count
			cell[3*cells+at] += float64(count * p)
		}
	}
}

// nonNegative is the nearest list of numbers of at least zero with the same sum
// (zeros if that is below zero): counts are known to be that, and saying so costs
// no privacy.
func nonNegative(noisy []float64) []float64 {
	sum := 0.0
	for _, x := range noisy {
		sum += x
	}
	out := make([]float64, len(noisy))
	if !(sum > 0) {
		return out
	}
	sorted := slices.Clone(noisy)
	slices.Sort(sorted)
	slices.Reverse(sorted)
	// The largest k of them stay, all lowered by the same amount.
	top, lower := 0.0, 0.0
	for k, x := range sorted {
		top += x
		if by := (top - sum) / float64(k+1); x > by {
			lower = by
		}
	}
	for i, x := range noisy {
		out[i] = max(0, x-lower)
	}
	return out
}

// least is how many patients a published cell is about at the least: k, and
// under privacy enough to be told from noise.
func (a *train) least(v view) float64 {
	k := float64(max(a.facts.MinCohort, 1))
	if a.private != nil {
		k = max(k, float64(4*a.private.scores.SDOf(int(v.head[headSites]))))
	}
	return k
}

// noiseOfAUC is the standard deviation that noise alone gives an AUC: by its
// derivatives by the counts, of which each has noise of its own.
func (a *train) noiseOfAUC(v view, split int) float64 {
	e := v.final[split]
	zero, one := e[evalHist:evalHist+bins], e[evalHist+bins:evalHist+2*bins]
	n0, n1 := 0.0, 0.0
	for i := range zero {
		n0, n1 = n0+zero[i], n1+one[i]
	}
	if !(n0 > 0 && n1 > 0) {
		return math.NaN()
	}
	area := auc(zero, one)
	square, below, above := 0.0, 0.0, n1
	for c := range scoreCells {
		z, o := 0.0, 0.0
		for i := range bins / scoreCells {
			at := c*bins/scoreCells + i
			if a.net.loss == logistic { // the cells stand in the middle half of the bins
				at = bins/4 + c*bins/2/scoreCells + i/2
				if i%2 == 1 {
					continue
				}
			}
			z, o = z+zero[at], o+one[at]
		}
		above -= o
		byOne := ((below+z/2)/n0 - area) / n1
		byZero := ((above+o/2)/n1 - area) / n0
		square += float64(byOne*byOne) + float64(byZero*byZero)
		below += z
	}
	return float64(a.private.scores.SDOf(int(v.head[headSites])) * math.Sqrt(square))
}

// faint reports whether the gradients of all rounds together cannot be told
// from noise: their squared length exceeds that of noise by less than three
// standard deviations of it.
func (a *train) faint(v view) bool {
	d, rounds := float64(a.net.params), float64(a.strategy.rounds)
	return !(v.head[headSignal]/rounds-1 > 3*math.Sqrt(2/float64(d*rounds)))
}

// tellNoise says in a result what was spent, and what nobody counted.
func (o *Outcome) tellNoise(a *train, v view) {
	p := a.private
	n := v.head[headRows]
	spent := models.NewSpent(a.facts, map[string]float64{"counts": p.counts.SD(), "gradient": p.gradient.SD() / n, "scores": p.scores.SD()})
	o.DP = &spent
	o.ExcludedRows = ExcludedRows{}
	for i := range o.Inputs {
		o.Inputs[i].Missing = nil
	}
	for s, m := range []*Metrics{&o.Training.Metrics, &o.Holdout.Metrics} {
		if a.net.loss == squared || m.AUC == nil {
			continue
		}
		// An AUC is between 0 and 1 whatever the data: above a quarter of that the
		// noise says more than the scores.
		sd := a.noiseOfAUC(v, s)
		if sd < 0.25 {
			m.AUCNoise = number(sd)
			continue
		}
		m.AUC = nil
		o.Suppressed = append(o.Suppressed, Suppressed{[2]string{"training", "holdout"}[s] + ".auc", "the noise of differential privacy is larger than what it could tell"})
	}
	add := func(text string) { o.Assumptions = append(o.Assumptions, text) }
	if a.net.input.rank > 1 {
		add("every channel is scaled by the widest bounds of its columns")
	}
	switch a.net.loss {
	case logistic:
		add("the AUC counts two scores as tied when they fall into one cell of half a logit")
	case reconstruction:
		add("the AUC counts two scores as tied when they fall into one cell of a doubling")
	case squared:
		add(fmt.Sprintf("errors and responses beyond %v units of the response's scale count as that", reach))
	}
	add("every patient's gradient was clipped before it was added, and the model is the mean of the weights of the later half of the rounds")
	add("a patient counts once in the evaluation, one with several rows by their shares, with scores in the middle of their cells")
	warnings := []string{"every count, and every number about training and holdout, carries the noise that was added for privacy"}
	if a.faint(v) {
		warnings = append(warnings, "the gradients cannot be told from the noise: the model has learned next to nothing; raise privacy.dp.epsilon, use a smaller model or fewer rounds, or ask more hospitals")
	}
	o.Warnings = append(warnings, o.Warnings...)
}

// disclosePrivate is Disclose under privacy.dp.
func (a *train) disclosePrivate(d *models.Disclosure) {
	p := a.facts.Spec.Privacy.DP
	d.Sends = []string{
		fmt.Sprintf("once, counts of patients, rows and events (at most %v rows of each), of training and holdout", p.Clip),
		fmt.Sprintf("in each of %d rounds the sum over its training patients of the gradient by the network's %d parameters, of each patient clipped to the norm %v",
			a.strategy.rounds, a.net.params, float64(p.Clip*a.strategy.clip)),
	}
	if a.net.loss == squared {
		d.Sends = append(d.Sends, "at the end, of training and holdout, the number of patients and the sums of their squared errors, responses and squared responses")
	} else {
		d.Sends = append(d.Sends, fmt.Sprintf("at the end, of training and holdout, counts of patients by class in %d cells of scores", scoreCells))
	}
	d.Sends = append(d.Sends, "each patient's contribution is clipped, and noise is added at the hospital before anything leaves it; inputs are scaled by their declared bounds; rows that were left out are not counted")
	d.Result = "the network's weights, and counts and measures of its final evaluation; differentially private for patients"
}
