package net

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"consilium"
	"consilium/internal/canon"
	"consilium/models"
)

// Bounds of a model, checked before gorgonia sees a shape.
const (
	maxLayers      = 64
	maxUnits       = 1 << 14
	maxParams      = consilium.MaxValues - 1<<12 // beside them a round has a few exact values
	maxInputs      = 1 << 14
	maxBatch       = 1 << 12
	maxActivations = 1 << 22       // values of one layer for one row
	maxFootprint   = 1 << 28       // values of all layers for one batch, with their slopes
	maxState       = 1<<31 - 1<<24 // bytes of a state: a longer one could not be handed to a hospital that missed a round
)

// network is a validated model for a number of inputs.
type network struct {
	layers  []layer
	input   shape
	inputs  int
	outputs int
	params  int
	loss    lossKind
	efron   bool // ties of the partial likelihood
	double  bool // float64
	digest  consilium.Digest
	spec    consilium.ModelSpec // as validated, with the default dtype filled in
}

// modelVersion is the meaning of a model specification: what the layers
// compute and how they are initialised. It is part of the model's digest.
const modelVersion = 1

// newNetwork validates a model for the given number of inputs: whitelisted
// layers, every shape known, the outputs that the loss wants. It allocates no
// parameters.
func newNetwork(m *consilium.ModelSpec, inputs int, ties string) (*network, error) {
	if m == nil || len(m.Layers) == 0 {
		return nil, consilium.ErrInvalid.Withf("model.layers is empty: want for example dense 16, relu, dense 1")
	}
	if len(m.Layers) > maxLayers {
		return nil, consilium.ErrInvalid.Withf("model.layers has %d layers, at most %d", len(m.Layers), maxLayers)
	}
	if inputs < 1 || inputs > maxInputs {
		return nil, consilium.ErrInvalid.Withf("features: %d input values after levels are expanded, want 1 to %d", inputs, maxInputs)
	}
	n := &network{inputs: inputs, spec: *m}
	n.spec.Layers = append([]consilium.Layer(nil), m.Layers...)
	var ok bool
	if n.loss, ok = losses[m.Loss]; !ok {
		return nil, consilium.ErrInvalid.Withf("model.loss %s: %s", quote(m.Loss), suggest(m.Loss, lossNames))
	}
	switch {
	case n.loss == partial:
		if ties == "" {
			ties = "efron"
		}
		if ties != "efron" && ties != "breslow" {
			return nil, consilium.ErrInvalid.Withf("ties %s: %s", quote(ties), suggest(ties, []string{"efron", "breslow"}))
		}
		n.efron = ties == "efron"
	case ties != "":
		return nil, consilium.ErrInvalid.Withf("ties are of event times, and the loss %s has none: leave them out, or use the loss cox", m.Loss)
	}
	switch m.DType {
	case "", "float32":
		n.spec.DType = "float32"
	case "float64":
		n.double = true
	default:
		return nil, consilium.ErrInvalid.Withf("model.dtype %s: %s", quote(m.DType), suggest(m.DType, []string{"float32", "float64"}))
	}
	if err := checkData(m, n.loss); err != nil {
		return nil, err
	}
	var err error
	if n.input, err = inputShape(m.Input, inputs); err != nil {
		return nil, err
	}
	at := n.input
	for i, l := range m.Layers {
		v, err := newLayer(i, l, at)
		if err != nil {
			return nil, err
		}
		if v.activation() && (i == 0 || n.layers[i-1].activation()) {
			return nil, consilium.ErrInvalid.Withf("model.layers[%d] %s: an activation follows a layer of another kind", i, l.Kind)
		}
		for k := range v.tensors {
			v.tensors[k].at = n.params
			n.params += v.tensors[k].size() // at most 2^27 and 2^28 more
			if n.params > maxParams {
				return nil, consilium.ErrInvalid.Withf("model has more than %d parameters at layer %d", maxParams, i)
			}
		}
		n.layers = append(n.layers, v)
		at = v.out
	}
	want := 1
	if n.loss == reconstruction {
		want = inputs
	}
	last := m.Layers[len(m.Layers)-1]
	if v := n.layers[len(n.layers)-1]; v.kind != dense || at.size() != want {
		why := "the loss applies its own link"
		if n.loss == reconstruction {
			why = "one for each of the inputs, which the network gives back"
		}
		return nil, consilium.ErrInvalid.Withf("the last layer is %s: want dense with units %d (%s)", describeLayer(last), want, why)
	}
	n.outputs = want
	doc, err := canon.Marshal(struct {
		Version int                 `json:"version"`
		Inputs  int                 `json:"inputs"`
		Ties    string              `json:"ties,omitempty"`
		Model   consilium.ModelSpec `json:"model"`
	}{modelVersion, inputs, ties, n.spec})
	if err != nil {
		return nil, err
	}
	n.digest = consilium.DomainModel.Digest([]byte("specification"), doc)
	return n, nil
}

func (l *layer) activation() bool { return l.kind == relu || l.kind == tanh || l.kind == sigmoid }

// checkData validates what a model says of missing values and classes.
func checkData(m *consilium.ModelSpec, loss lossKind) error {
	switch m.Missing {
	case "", "mean", "indicator", "drop":
	default:
		return consilium.ErrInvalid.Withf("model.missing %s: %s", quote(m.Missing), suggest(m.Missing, []string{"mean", "indicator", "drop"}))
	}
	if m.Missing == "indicator" && (m.Input != nil || loss == reconstruction) {
		return consilium.ErrInvalid.Withf("model.missing indicator adds inputs, and the inputs of this model have a fixed order: use mean or drop")
	}
	if !m.Balanced && len(m.ClassWeights) == 0 {
		return nil
	}
	switch {
	case loss != logistic:
		return consilium.ErrInvalid.Withf("model.class_weights belong to the loss logistic, not to %s", m.Loss)
	case m.Balanced && len(m.ClassWeights) > 0:
		return consilium.ErrInvalid.Withf("model.class_weights: balanced, or two numbers")
	case !m.Balanced && len(m.ClassWeights) != 2:
		return consilium.ErrInvalid.Withf("model.class_weights has %d numbers, want two: of rows without and with the event", len(m.ClassWeights))
	}
	for _, w := range m.ClassWeights {
		if !(w > 0 && w <= 1e4) {
			return consilium.ErrInvalid.Withf("model.class_weights %v, want above 0 and at most 10000", w)
		}
	}
	return nil
}

// inputShape lays the inputs out.
func inputShape(s *consilium.InputShape, inputs int) (shape, error) {
	if s == nil {
		return flat(inputs), nil
	}
	bad := func(format string, args ...any) (shape, error) {
		return shape{}, consilium.ErrInvalid.Withf("model.input "+format, args...)
	}
	for _, d := range []int{s.Steps, s.Height, s.Width, s.Channels} {
		if d < 0 || d > maxInputs {
			return bad("has a side of %d, want 1 to %d", d, maxInputs)
		}
	}
	out := shape{2, 1, s.Steps, s.Channels}
	switch {
	case s.Steps > 0 && s.Height == 0 && s.Width == 0:
	case s.Steps == 0 && s.Height > 0 && s.Width > 0:
		out = shape{3, s.Height, s.Width, s.Channels}
	default:
		return bad("wants steps, or height and width")
	}
	if s.Channels < 1 {
		return bad("channels %d, want 1 or more", s.Channels)
	}
	if out.height*out.width > maxInputs || out.size() != inputs {
		return bad("is %v, together %d values, and features make %d: list a feature for each", out, out.size(), inputs)
	}
	return out, nil
}

// footprint is about how many values a machine for batches of this size holds.
func (n *network) footprint(batch int) int {
	each := n.inputs
	for i := range n.layers {
		l := &n.layers[i]
		each += 3 * l.out.size()
		if l.kind == gru {
			each += l.in.width * 13 * l.tensors[1].shape[0]
		}
	}
	return each * batch
}

func describeLayer(l consilium.Layer) string {
	if l.Units != 0 {
		return fmt.Sprintf("%s %d", l.Kind, l.Units)
	}
	return l.Kind
}

// keys are those that training reads, besides name and type.
var keys = []string{"response", "ties", "features", "model", "strategy", "holdout"}

// hints say what to write in place of a key that training does not read.
var hints = map[string]string{
	"terms":       "list plain columns under features; use derive for transformations",
	"noIntercept": "every dense layer has a bias",
	"family":      "use model.loss: logistic, squared, cox or reconstruction",
	"ridge":       "strategy.mu holds local training near the shared model (fedprox)",
	"variables":   "use features",
	"columns":     "use features",
	"weights":     "use model.class_weights",
	"evaluate":    "every result has the AUC or C, and with the loss logistic the calibration",
	"concordance": "with the loss cox every result has C",
}

// checkKeys refuses the keys of an analysis that training does not use.
func checkKeys(a *consilium.AnalysisSpec) error {
	for _, key := range models.Keys(a) {
		if slices.Contains(keys, key) {
			continue
		}
		hint := hints[key]
		if hint == "" {
			hint = "its keys are " + strings.Join(keys, ", ")
		}
		return consilium.ErrInvalid.Withf("analysis %s: train does not use %s: %s", a.Name, key, hint)
	}
	return nil
}

// strategy is a validated training plan with its defaults filled in.
type strategy struct {
	name       string
	rounds     int
	epochs     int
	batch      int
	rate       float64
	serverRate float64
	mu         float64
	clip       float64
	kind       consilium.BlockKind
	bits       int
	patience   int
	minDelta   float64
}

// Defaults of a strategy, chosen on small cohorts: with 128 patients at 13
// hospitals and a network of 8 inputs, 16 relu units and 1 output, fedavg comes
// to a training AUC of 0.77 and fedadam to 0.80 in 30 rounds (means over ten
// holdout salts and seeds). A local step of one update must not outrun clip:
// the result says which share of all values was cut.
const (
	defaultRounds = 30
	defaultBatch  = 16
	defaultClip   = 1.0
	defaultBits   = 16
	defaultMu     = 0.1
)

// strategyDefaults are those that depend on the strategy. A server rate of 1
// replaces the shared model by the weighted mean; the adaptive strategies take
// steps of about their rate, so their hospitals may move less in a round.
var strategyDefaults = map[string]struct {
	epochs     int
	rate       float64
	serverRate float64
}{
	"fedavg":   {5, 0.2, 1},
	"fedprox":  {5, 0.2, 1},
	"scaffold": {5, 0.2, 1},
	"fedadam":  {2, 0.1, 0.05},
	"fedyogi":  {2, 0.1, 0.05},
}

func newStrategy(s *consilium.Strategy) (strategy, error) {
	if s == nil {
		s = &consilium.Strategy{}
	}
	v := strategy{name: s.Name, rounds: s.Rounds, epochs: s.LocalEpochs, batch: s.Batch, rate: s.Rate, serverRate: s.ServerRate,
		mu: s.Mu, clip: s.Clip, bits: s.Bits, patience: s.Patience, minDelta: s.MinDelta}
	bad := func(format string, args ...any) (strategy, error) {
		return strategy{}, consilium.ErrInvalid.Withf("strategy."+format, args...)
	}
	names := []string{"fedavg", "fedprox", "fedadam", "fedyogi", "scaffold"}
	if v.name == "" {
		v.name = "fedavg"
	}
	defaults, ok := strategyDefaults[v.name]
	if !ok {
		return bad("name %s: %s", quote(v.name), suggest(v.name, names))
	}
	fill := func(p *int, d int) {
		if *p == 0 {
			*p = d
		}
	}
	fillF := func(p *float64, d float64) {
		if *p == 0 {
			*p = d
		}
	}
	fill(&v.rounds, defaultRounds)
	fill(&v.epochs, defaults.epochs)
	fill(&v.batch, defaultBatch)
	fill(&v.bits, defaultBits)
	fillF(&v.rate, defaults.rate)
	fillF(&v.clip, defaultClip)
	fillF(&v.serverRate, defaults.serverRate)
	if v.name == "fedprox" {
		fillF(&v.mu, defaultMu)
	} else if v.mu != 0 {
		return bad("mu is used by fedprox only, not by %s", v.name)
	}
	in := func(x, hi float64) bool { return x > 0 && x <= hi && !math.IsNaN(x) }
	switch {
	case v.rounds < 1 || v.rounds > 10000:
		return bad("rounds %d, want 1 to 10000", v.rounds)
	case v.epochs < 1 || v.epochs > 1000:
		return bad("localEpochs %d, want 1 to 1000", v.epochs)
	case v.batch < 1 || v.batch > maxBatch:
		return bad("batch %d, want 1 to %d", v.batch, maxBatch)
	case !in(v.rate, 100):
		return bad("rate %v, want above 0 and at most 100", v.rate)
	case !in(v.serverRate, 100):
		return bad("serverRate %v, want above 0 and at most 100", v.serverRate)
	case v.mu < 0 || v.mu > 1e6 || math.IsNaN(v.mu):
		return bad("mu %v, want 0 to 1e6", v.mu)
	case !in(v.clip, 1e6):
		return bad("clip %v, want above 0 and at most 1e6", v.clip)
	case v.patience < 0 || v.patience > v.rounds:
		return bad("patience %d, want 0 (never stop early) to the number of rounds, %d", v.patience, v.rounds)
	case !(v.minDelta >= 0 && v.minDelta <= 1e6):
		return bad("min_delta %v, want 0 to 1e6", v.minDelta)
	case v.minDelta > 0 && v.patience == 0:
		return bad("min_delta belongs to patience: after how many rounds without a better loss does training stop?")
	}
	switch v.bits {
	case 16:
		v.kind = consilium.Learned16
	case 24:
		v.kind = consilium.Learned24
	default:
		return bad("bits %d, want 16 or 24", v.bits)
	}
	return v, nil
}

// spec is the strategy with its defaults, for the result.
func (s strategy) spec() consilium.Strategy {
	return consilium.Strategy{Name: s.name, Rounds: s.rounds, LocalEpochs: s.epochs, Batch: s.batch, Rate: s.rate,
		ServerRate: s.serverRate, Mu: s.mu, Clip: s.clip, Bits: s.bits, Patience: s.patience, MinDelta: s.minDelta}
}

func quote(s string) string {
	if len(s) > 40 {
		s = s[:40] + "…"
	}
	return fmt.Sprintf("%q", s)
}

// suggest names the nearest right word and all others.
func suggest(got string, words []string) string {
	best, distance := "", len(got)/2+2
	for _, w := range words {
		if d := editDistance(strings.ToLower(got), w); d < distance {
			best, distance = w, d
		}
	}
	all := "want " + strings.Join(words, ", ")
	if best != "" && got != "" {
		return "did you mean " + best + "? (" + all + ")"
	}
	return all
}

// editDistance is Levenshtein's.
func editDistance(a, b string) int {
	if len(a) > 40 {
		a = a[:40]
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		prev := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := prev
			if a[i-1] != b[j-1] {
				cost = min(prev, row[j], row[j-1]) + 1
			}
			prev, row[j] = row[j], cost
		}
	}
	return row[len(b)]
}
