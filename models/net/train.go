package net

import (
	"context"
	"fmt"
	"math"

	"consilium"
	"consilium/models"
)

// train is the analysis.
type train struct {
	facts    consilium.Facts
	spec     *consilium.AnalysisSpec
	inputs   []input
	scales   []scale
	response field // the event of a partial likelihood, or the label of a reconstruction; no name: none
	start    field // of a partial likelihood; no name: everybody enters at the beginning
	stop     field // of a partial likelihood
	net      *network
	strategy strategy
	holdout  float64
	private  *private // nil without privacy.dp
}

var _ models.Constructor = New
var _ models.Streamed = (*train)(nil)

// New makes the analysis of type train. It refuses keys that training does
// not use, unknown layers and shapes that do not fit, before anything is
// allocated.
func New(facts consilium.Facts, spec *consilium.AnalysisSpec) (models.Analysis, error) {
	a, err := newTrain(facts, spec)
	if err != nil {
		return nil, err
	}
	return a, nil
}

func newTrain(facts consilium.Facts, spec *consilium.AnalysisSpec) (*train, error) {
	if facts.Spec == nil || spec == nil {
		return nil, consilium.ErrInvalid.Withf("train: no study specification")
	}
	if spec.Type != consilium.AnalysisTrain {
		return nil, consilium.ErrInvalid.Withf("analysis %s is of type %s, want train", spec.Name, quote(spec.Type))
	}
	if err := checkKeys(spec); err != nil {
		return nil, err
	}
	a := &train{facts: facts, spec: spec, holdout: spec.Holdout}
	var err error
	if a.inputs, err = expand(facts.Spec, spec.Features, spec.Response, spec.Model != nil && spec.Model.Missing == "indicator"); err != nil {
		return nil, err
	}
	if a.net, err = newNetwork(spec.Model, len(a.inputs), spec.Ties); err != nil {
		return nil, err
	}
	a.scales = newScales(a.inputs, a.net.input)
	if err := a.readResponse(); err != nil {
		return nil, err
	}
	underDP := facts.Spec.Privacy.DP != nil
	if underDP {
		a.strategy, err = privateStrategy(spec.Strategy)
	} else {
		a.strategy, err = newStrategy(spec.Strategy)
	}
	if err != nil {
		return nil, err
	}
	if underDP {
		if a.private, err = newPrivate(a); err != nil {
			return nil, err
		}
	}
	if n := a.net.footprint(a.strategy.batch); n > maxFootprint {
		return nil, consilium.ErrInvalid.Withf("analysis %s: a batch of %d rows takes %d values of memory in this model, at most %d: lower strategy.batch, or use fewer units", spec.Name, a.strategy.batch, n, maxFootprint)
	}
	if n := a.stateBytes(); n > maxState {
		return nil, consilium.ErrInvalid.Withf("analysis %s: with strategy %s a model of %d parameters has a state of %d bytes, at most %d: use fewer units, float32, or fedavg without patience", spec.Name, a.strategy.name, a.net.params, n, maxState)
	}
	if need := a.strategy.needs(); facts.Spec.Rounds.Max < need {
		return nil, consilium.ErrInvalid.Withf("analysis %s needs %d rounds (%d of training, one before and the rest after), rounds.max is %d",
			spec.Name, need, a.strategy.rounds, facts.Spec.Rounds.Max)
	}
	return a, nil
}

// readResponse finds what the loss compares the network with.
func (a *train) readResponse() error {
	r := a.spec.Response
	columns := a.facts.Spec
	var err error
	if a.net.loss == partial {
		if r == nil || r.Stop == "" || r.Event == "" || r.Column != "" {
			return consilium.ErrInvalid.Withf("analysis %s: the loss cox explains a time and an event: response: {time: …, event: …}", a.spec.Name)
		}
		if r.Start != "" {
			if a.start, err = findField(columns, "response.start", r.Start); err != nil {
				return err
			}
		}
		if a.stop, err = findField(columns, "response.time", r.Stop); err != nil {
			return err
		}
		for _, f := range []field{a.start, a.stop} {
			if f.kind == consilium.TypeLevels || f.kind == consilium.TypeFlag {
				return consilium.ErrInvalid.Withf("response: %s of type %s is not a time", f.name, f.kind)
			}
		}
		if a.response, err = findField(columns, "response.event", r.Event); err != nil {
			return err
		}
		if a.response.kind != consilium.TypeFlag && a.response.kind != consilium.TypeInteger {
			return consilium.ErrInvalid.Withf("response.event %s is of type %s: want a flag", a.response.name, a.response.kind)
		}
		return nil
	}
	if r == nil && a.net.loss == reconstruction {
		return nil
	}
	if r == nil || r.Column == "" || r.Start != "" || r.Stop != "" || r.Event != "" {
		return consilium.ErrInvalid.Withf("analysis %s: the loss %s explains one column: response: {column: …}", a.spec.Name, a.spec.Model.Loss)
	}
	if a.response, err = findField(columns, "response", r.Column); err != nil {
		return err
	}
	if a.response.kind == consilium.TypeLevels && (a.net.loss == squared || len(a.response.levels) != 2) {
		return consilium.ErrInvalid.Withf("response %s has %d levels: want two levels and the logistic loss", r.Column, len(a.response.levels))
	}
	return nil
}

// classes reports whether the response is an event or a class.
func (a *train) classes() bool { return a.net.loss != squared && a.response.name != "" }

// holds reports whether the holdout is evaluated: a loss of fewer than k
// patients would describe them.
func (a *train) holds(v view) bool {
	return v.head[headPatients+1] >= float64(max(a.facts.MinCohort, 1))
}

// Rounds is the number of rounds that a training study takes, for `study
// check`, at most.
func Rounds(spec *consilium.AnalysisSpec) (int, error) {
	s, err := newStrategy(spec.Strategy)
	if err != nil {
		return 0, err
	}
	return s.needs(), nil
}

// needs is how many rounds the study takes at most: one for counts and
// moments, those of training, one to evaluate, and with patience one more to
// evaluate the best model if it is not the last.
func (s strategy) needs() int {
	if s.patience > 0 {
		return s.rounds + 3
	}
	return s.rounds + 2
}

// Start draws the first weights from the study's seed, the analysis's name
// and the model's digest.
func (a *train) Start(consilium.Facts) (*models.State, error) {
	s := &models.State{Phase: phasePrepare}
	weights := a.net.initial(consilium.DomainSeed.Digest([]byte("initial weights"), u64(a.facts.Spec.Seed), []byte(a.spec.Name), a.net.digest[:]))
	s.F64 = make([]float64, headLength+inLength*len(a.scales)+a.momentLength())
	if !a.net.double {
		s.F32 = make([]float32, len(weights))
		for i, w := range weights {
			s.F32[i] = float32(w)
		}
		weights = nil
	}
	if a.copies() > 1 {
		s.F64, s.F32 = extend(s.F64, weights, weights), append(s.F32, s.F32...)
	} else {
		s.F64 = extend(s.F64, weights)
	}
	v, err := a.view(s)
	if err != nil {
		return nil, err
	}
	v.head[headSD] = 1
	v.head[headBestLoss] = math.Inf(1)
	for j := range a.scales {
		v.inputs[inLength*j+inSD] = 1
	}
	if a.private != nil {
		v.head[headMean], v.head[headSD] = a.private.answer[0], a.private.answer[1]
		v.head[headBestLoss] = 0 // headSignal
		for j, s := range a.private.scales {
			in := v.inputs[inLength*j:]
			in[inMean], in[inSD], in[inKnown] = s[0], s[1], 1 // nobody counts who has one
		}
	}
	if a.strategy.name == "fedadam" || a.strategy.name == "fedyogi" {
		second := v.moments[a.net.params:]
		for i := range second {
			second[i] = adaptivity * adaptivity
		}
	}
	return s, nil
}

// Lengths of the prepare phase's blocks.
const (
	countLength  = 10 // rows, patients, events (training, holdout each); left out for a missing value; consent, integrity, cohort
	answerLength = 2  // sum and sum of squares of the response among training rows
	momentWidth  = 5  // per scale: values, sum, sum of squares, patients known (training); missing values (both splits)
)

// Layout is the shape of the round that s asks for.
func (a *train) Layout(s *models.State) (consilium.Layout, error) {
	if _, err := a.view(s); err != nil {
		return consilium.Layout{}, err
	}
	if a.private != nil {
		return a.privateLayout(s.Phase), nil
	}
	exact := func(name string, n int) consilium.Block {
		return consilium.Block{Name: name, Kind: consilium.Exact, Length: n}
	}
	switch s.Phase {
	case phasePrepare:
		return consilium.Layout{Blocks: []consilium.Block{exact("counts", countLength), exact("response", answerLength),
			exact("moments", momentWidth*len(a.scales))}}, nil
	case phaseTrain:
		blocks := []consilium.Block{{Name: "update", Kind: a.strategy.kind, Length: a.net.params, Clip: a.strategy.clip}}
		if a.strategy.name == "scaffold" {
			blocks = append(blocks, consilium.Block{Name: "control", Kind: a.strategy.kind, Length: a.net.params, Clip: a.controlClip()})
		}
		return consilium.Layout{Blocks: append(blocks, exact("weight", 3), exact("training", a.evalLength(s.Phase)), exact("holdout", a.evalLength(s.Phase)))}, nil
	default:
		return consilium.Layout{Blocks: []consilium.Block{exact("training", a.evalLength(s.Phase)), exact("holdout", a.evalLength(s.Phase))}}, nil
	}
}

// Local is one site's part of a round.
func (a *train) Local(ctx context.Context, s *models.State, memory []byte, rows *models.Rows, w models.Writer) ([]byte, error) {
	v, err := a.view(s)
	if err != nil {
		return nil, err
	}
	if s.Done {
		return nil, consilium.ErrWrongPhase.Withf("training is finished")
	}
	t, err := a.read(rows)
	if err != nil {
		return nil, err
	}
	if a.private != nil {
		return memory, a.privateLocal(ctx, s, v, t, rows, w)
	}
	if s.Phase == phasePrepare {
		return memory, a.prepare(t, rows, w)
	}
	if a.net.double {
		return local[float64](ctx, a, s, v, memory, t, rows, w)
	}
	return local[float32](ctx, a, s, v, memory, t, rows, w)
}

// prepare writes counts and moments.
func (a *train) prepare(t *table, rows *models.Rows, w models.Writer) error {
	counts := make([]float64, countLength)
	answer := make([]float64, answerLength)
	moments := make([]float64, momentWidth*len(a.scales))
	known := make([][]bool, len(a.scales)) // by patient
	for c := range known {
		known[c] = make([]bool, t.ordinals)
	}
	for i, y := range t.y {
		h := split(t.holdout[i])
		counts[headRows+h]++
		if a.classes() {
			counts[headEvents+h] += y
		}
		if h == 0 {
			answer[0] += y
			answer[1] += float64(y * y)
		}
		for j := range a.inputs {
			c := j % len(a.scales)
			m := moments[momentWidth*c:]
			x := t.x[i*t.inputs+j]
			switch {
			case math.IsNaN(x):
				m[4]++
			case h == 0:
				m[0]++
				m[1] += x
				m[2] += float64(x * x)
				if p := t.patient[i]; !known[c][p] {
					known[c][p] = true
					m[3]++
				}
			}
		}
	}
	for h, p := range t.patients {
		counts[headPatients+h] = float64(p)
	}
	counts[headLeft] = float64(t.left)
	if rows != nil {
		counts[headExcluded], counts[headExcluded+1], counts[headExcluded+2] =
			float64(rows.Excluded.Consent), float64(rows.Excluded.Integrity), float64(rows.Excluded.Cohort)
	}
	return write(w, []string{"counts", "response", "moments"}, counts, answer, moments)
}

func write(w models.Writer, names []string, blocks ...[]float64) error {
	for i, name := range names {
		if err := w.Block(name); err != nil {
			return err
		}
		if err := w.Write(blocks[i]); err != nil {
			return err
		}
	}
	return nil
}

// Update makes the next state from the opened sum. It adds, multiplies,
// divides and takes square roots, each rounded on its own, so its bits are
// the same on every processor.
func (a *train) Update(s *models.State, o models.Opened) (*models.State, error) {
	if err := a.ready(s, o.Values, false); err != nil {
		return nil, err
	}
	return a.next(clone(s), o.Stream())
}

// Advance is Update in the memory of s (models.Streamed).
func (a *train) Advance(s *models.State, o models.Stream) (*models.State, error) {
	if err := a.ready(s, o.Values, true); err != nil {
		return nil, err
	}
	return a.next(s, o)
}

// ready refuses what no update is made from: a state of another model, one that is
// done, or an opened block of another length or with a value that is no number. Of a
// stream only Exact blocks are at hand; the others are sums of integers, each checked.
func (a *train) ready(s *models.State, opened map[string][]float64, stream bool) error {
	if _, err := a.view(s); err != nil {
		return err
	}
	if s.Done {
		return consilium.ErrWrongPhase.Withf("training is finished")
	}
	layout, err := a.Layout(s)
	if err != nil {
		return err
	}
	for _, b := range layout.Blocks {
		if stream && b.Kind != consilium.Exact {
			continue
		}
		if err := checkBlock(b, opened); err != nil {
			return err
		}
	}
	return nil
}

// checkBlock refuses a block of another length, or with a value that is not a
// number.
func checkBlock(b consilium.Block, all map[string][]float64) error {
	values, ok := all[b.Name]
	if !ok || len(values) != b.Length {
		return fmt.Errorf("opened block %s has %d values, want %d", b.Name, len(values), b.Length)
	}
	for _, x := range values {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return fmt.Errorf("opened block %s holds a value that is not a number", b.Name)
		}
	}
	return nil
}

// next makes the next state of n, in n.
func (a *train) next(n *models.State, o models.Stream) (*models.State, error) {
	v, err := a.view(n)
	if err != nil {
		return nil, err
	}
	if a.private != nil {
		return a.privateUpdate(n, v, o.Opened)
	}
	switch n.Phase {
	case phasePrepare:
		code, index, err := a.prepared(v, o.Opened)
		if err != nil {
			return nil, err
		}
		if code != 0 {
			return failed(n.Iteration, code, index), nil
		}
		n.Phase = phaseTrain
	case phaseTrain:
		return a.trained(n, v, o)
	case phaseEvaluate:
		return a.evaluated(n, v, o.Opened), nil
	}
	return n, nil
}

// trained makes the next state of a round of training: its evaluation is of
// the model before the step.
func (a *train) trained(n *models.State, v view, o models.Stream) (*models.State, error) {
	if wild(o.Opened) {
		return failed(n.Iteration, problemDiverged, 0), nil
	}
	point := a.point(o.Opened)
	if a.strategy.patience > 0 {
		if loss := a.watched(v, point); loss < v.head[headBestLoss]-a.strategy.minDelta {
			v.head[headBest], v.head[headBestLoss] = float64(n.Iteration), loss
			v.keepBest()
		} else if float64(n.Iteration)-v.head[headBest] >= float64(a.strategy.patience) {
			v.restore()
			v.head[headRestored] = 1
			n.Phase = phaseEvaluate
			n.F64 = extend(n.F64, point[:])
			return n, nil
		}
	}
	norm, code, err := a.step(v, o)
	if err != nil {
		return nil, err
	}
	if code != 0 {
		return failed(n.Iteration, code, 0), nil
	}
	point[curveLength-1] = norm
	n.F64 = extend(n.F64, point[:])
	n.Iteration++
	if int(n.Iteration) == a.strategy.rounds {
		n.Phase = phaseEvaluate
	}
	return n, nil
}

// extend appends to a state's list.
func extend(f []float64, values ...[]float64) []float64 {
	for _, v := range values {
		if len(f)+len(v) > cap(f) {
			f = append(make([]float64, 0, models.Room(len(f)+len(v))), f...)
		}
		f = append(f, v...)
	}
	return f
}

// evaluated ends the study, unless an earlier model was better and strategy.patience
// asks for the best: then that one is evaluated once more.
func (a *train) evaluated(n *models.State, v view, o models.Opened) *models.State {
	if wild(o) {
		return failed(n.Iteration, problemDiverged, 0)
	}
	if v.head[headRestored] == 0 {
		point := a.point(o)
		again := false
		if a.strategy.patience > 0 {
			if loss := a.watched(v, point); loss < v.head[headBestLoss]-a.strategy.minDelta {
				v.head[headBest], v.head[headBestLoss] = float64(n.Iteration), loss
			} else {
				v.restore()
				v.head[headRestored] = 1
				again = true
			}
		}
		n.F64 = extend(n.F64, point[:]) // from here on v is of the old slice
		if again {
			return n
		}
	}
	n.F64 = extend(n.F64, o.Values["training"], o.Values["holdout"])
	n.Done = true
	return n
}

// wild reports whether some hospital's model gave scores beyond all bounds.
func wild(o models.Opened) bool {
	return o.Values["training"][evalBad]+o.Values["holdout"][evalBad] > 0
}

// point is the curve's next point; its norm is zero.
func (a *train) point(o models.Opened) (p [curveLength]float64) {
	p[0], p[1], p[2] = a.metrics(o.Values["training"])
	p[3], p[4], p[5] = a.metrics(o.Values["holdout"])
	return p
}

// watched is the loss that early stopping watches: of the holdout, or of the
// training rows where there is none to speak of.
func (a *train) watched(v view, p [curveLength]float64) float64 {
	if a.holds(v) && !math.IsNaN(p[3]) {
		return p[3]
	}
	return p[0]
}

// prepared turns the sums of the first round into the standardisation, or
// says by a problem's code why nothing can be learned.
func (a *train) prepared(v view, o models.Opened) (code, index int, err error) {
	counts, answer, moments := o.Values["counts"], o.Values["response"], o.Values["moments"]
	for i, c := range counts {
		if c < 0 || c != math.Trunc(c) {
			return 0, 0, fmt.Errorf("opened block counts, value %d: %v is not a count", i, c)
		}
	}
	copy(v.head, counts)
	n, k := counts[headRows], max(a.facts.MinCohort, 1)
	events := counts[headEvents]
	switch {
	case counts[headPatients] < float64(k):
		return problemPatients, 0, nil
	case a.net.loss == logistic && (events == 0 || events == n):
		return problemConstant, 0, nil
	case a.net.loss == partial && events == 0:
		return problemEvents, 0, nil
	}
	mean, sd := meanSD(n, answer[0], answer[1])
	if a.net.loss == squared {
		if sd == 0 {
			return problemConstant, 0, nil
		}
		v.head[headMean], v.head[headSD] = mean, sd
	} else {
		v.head[headMean], v.head[headSD] = mean, 1
	}
	for j, def := range a.scales {
		m, in := moments[momentWidth*j:], v.inputs[inLength*j:]
		in[inKnown], in[inMiss] = m[0], m[4]
		if def.binary {
			// Public constants, not moments: the mean of a flag that is
			// published with the model would tell how few patients have it.
			in[inMean], in[inSD] = 0.5, 0.5
			continue
		}
		if m[3] > 0 && m[3] < float64(k) {
			return problemFeature, j, nil
		}
		in[inMean], in[inSD] = meanSD(m[0], m[1], m[2])
		// Where few values are missing, the digits of a mean of whole numbers
		// would tell how few, in the result and in the model's files. A network
		// learns as well from columns within half a spread of their centre and
		// within twice their spread.
		miss := float64(n*float64(len(a.inputs)/len(a.scales))) - m[0]
		if few := func(n float64) bool { return n > 0 && n < float64(k) }; few(miss) || few(m[4]) || few(m[4]-miss) {
			in[inMean], in[inSD] = rough(in[inMean], in[inSD])
		}
		if in[inSD] == 0 {
			in[inSD] = 1 // constant or never known: the input is 0 everywhere
		}
	}
	return 0, 0, nil
}

// rough rounds a spread down to a power of two, and the mean to a multiple of it.
func rough(mean, sd float64) (float64, float64) {
	if sd == 0 {
		return mean, 0 // a constant, whatever n is
	}
	_, e := math.Frexp(sd)
	sd = math.Ldexp(1, e-1)
	return float64(math.Round(mean/sd) * sd), sd
}

// meanSD returns mean and population standard deviation from sums; 0 and 0
// for no value. A variance below 1e-12 of the mean square is rounding.
func meanSD(n, sum, sum2 float64) (mean, sd float64) {
	if n <= 0 {
		return 0, 0
	}
	mean = sum / n
	square := sum2 / n
	variance := square - float64(mean*mean)
	if !(variance > float64(square*1e-12)) {
		return mean, 0
	}
	return mean, math.Sqrt(variance)
}
