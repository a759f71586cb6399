package net

import (
	"fmt"
	"math"
	"strings"

	"consilium"
	"consilium/internal/canon"
)

// Bounds of a model, checked before gorgonia sees a shape.
const (
	maxLayers = 64
	maxUnits  = 1 << 14
	maxParams = 1 << 26
	maxInputs = 1 << 14
	maxBatch  = 1 << 12
)

type kind uint8

const (
	dense kind = iota + 1
	relu
	tanh
	sigmoid
)

var kinds = map[string]kind{"dense": dense, "relu": relu, "tanh": tanh, "sigmoid": sigmoid}

type lossKind uint8

const (
	logistic lossKind = iota + 1
	squared
)

// layer is one validated layer. A dense layer computes x·W + b, with W of
// in × out row by row at weight and b of out at bias in the flat parameters.
type layer struct {
	kind         kind
	in, out      int
	weight, bias int
}

// network is a validated model for a number of inputs.
type network struct {
	layers  []layer
	inputs  int
	outputs int
	params  int
	loss    lossKind
	double  bool // float64
	digest  consilium.Digest
	spec    consilium.ModelSpec // as validated, with the default dtype filled in
}

// modelVersion is the meaning of a model specification: what the layers
// compute and how they are initialised. It is part of the model's digest.
const modelVersion = 1

// newNetwork validates a model for the given number of inputs: whitelisted
// layers, every shape known, one output. It allocates no parameters.
func newNetwork(m *consilium.ModelSpec, inputs int) (*network, error) {
	if m == nil || len(m.Layers) == 0 {
		return nil, consilium.ErrInvalid.Withf("model.layers is empty: want for example dense 16, relu, dense 1")
	}
	if len(m.Layers) > maxLayers {
		return nil, consilium.ErrInvalid.Withf("model.layers has %d layers, at most %d", len(m.Layers), maxLayers)
	}
	if inputs < 1 || inputs > maxInputs {
		return nil, consilium.ErrInvalid.Withf("features: %d input values after levels are expanded, want 1 to %d", inputs, maxInputs)
	}
	n := &network{inputs: inputs, spec: consilium.ModelSpec{Loss: m.Loss, DType: m.DType}}
	switch m.Loss {
	case "logistic":
		n.loss = logistic
	case "squared":
		n.loss = squared
	case "cross-entropy", "cox":
		return nil, consilium.ErrInvalid.Withf("model.loss %s is not available in this version: use logistic or squared", m.Loss)
	default:
		return nil, consilium.ErrInvalid.Withf("model.loss %s: %s", quote(m.Loss), suggest(m.Loss, []string{"logistic", "squared"}))
	}
	switch m.DType {
	case "", "float32":
		n.spec.DType = "float32"
	case "float64":
		n.double = true
	default:
		return nil, consilium.ErrInvalid.Withf("model.dtype %s: %s", quote(m.DType), suggest(m.DType, []string{"float32", "float64"}))
	}
	width := inputs
	for i, l := range m.Layers {
		k, ok := kinds[l.Kind]
		if !ok {
			return nil, consilium.ErrInvalid.Withf("model.layers[%d] %s: %s", i, quote(l.Kind), suggest(l.Kind, []string{"dense", "relu", "tanh", "sigmoid"}))
		}
		v := layer{kind: k, in: width, out: width}
		if k == dense {
			if l.Units < 1 || l.Units > maxUnits {
				return nil, consilium.ErrInvalid.Withf("model.layers[%d] dense: units %d, want 1 to %d", i, l.Units, maxUnits)
			}
			v.out = l.Units
			v.weight = n.params
			v.bias = v.weight + v.in*v.out
			n.params = v.bias + v.out // at most 2^14 · 2^14 + 2^14 more, no overflow
			if n.params > maxParams {
				return nil, consilium.ErrInvalid.Withf("model has more than %d parameters at layer %d", maxParams, i)
			}
			width = v.out
		} else {
			if l.Units != 0 {
				return nil, consilium.ErrInvalid.Withf("model.layers[%d] %s takes no units", i, l.Kind)
			}
			if i == 0 || n.layers[i-1].kind != dense {
				return nil, consilium.ErrInvalid.Withf("model.layers[%d] %s: an activation follows a dense layer", i, l.Kind)
			}
		}
		n.layers = append(n.layers, v)
		n.spec.Layers = append(n.spec.Layers, l)
	}
	if last := n.layers[len(n.layers)-1]; last.kind != dense || last.out != 1 {
		return nil, consilium.ErrInvalid.Withf("the last layer is %s: want dense with units 1 (the loss applies its own link)", describeLayer(m.Layers[len(m.Layers)-1]))
	}
	n.outputs = 1
	doc, err := canon.Marshal(struct {
		Version int                 `json:"version"`
		Inputs  int                 `json:"inputs"`
		Model   consilium.ModelSpec `json:"model"`
	}{modelVersion, inputs, n.spec})
	if err != nil {
		return nil, err
	}
	n.digest = consilium.DomainModel.Digest([]byte("specification"), doc)
	return n, nil
}

func describeLayer(l consilium.Layer) string {
	if l.Units != 0 {
		return fmt.Sprintf("%s %d", l.Kind, l.Units)
	}
	return l.Kind
}

// checkKeys refuses the keys of an analysis that training does not use.
func checkKeys(a *consilium.AnalysisSpec) error {
	unused := []struct {
		set       bool
		key, hint string
	}{
		{len(a.Terms) > 0, "terms", "list plain columns under features; use derive for transformations"},
		{a.NoIntercept, "no_intercept", "every dense layer has a bias"},
		{len(a.Strata) > 0, "strata", ""},
		{a.Cluster != "", "cluster", ""},
		{a.Ties != "", "ties", ""},
		{a.Family != "", "family", "use model.loss: logistic or squared"},
		{a.Robust, "robust", ""},
		{a.Offset != nil, "offset", ""},
		{a.Ridge != 0, "ridge", "strategy.mu holds local training near the shared model (fedprox)"},
		{a.Lasso != 0, "lasso", ""},
		{a.Baseline != nil, "baseline", ""},
		{len(a.By) > 0, "by", ""},
		{a.Grid != nil, "grid", ""},
		{len(a.Variables) > 0, "variables", "use features"},
		{len(a.Histogram) > 0, "histogram", ""},
		{len(a.Quantiles) > 0, "quantiles", ""},
		{a.Rows != "", "rows", ""},
		{a.Columns != "", "columns", "use features"},
	}
	for _, u := range unused {
		if u.set {
			hint := u.hint
			if hint == "" {
				hint = "it takes model, response, features, strategy and holdout"
			}
			return consilium.ErrInvalid.Withf("analysis %s: train does not use %s: %s", a.Name, u.key, hint)
		}
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
		mu: s.Mu, clip: s.Clip, bits: s.Bits}
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
		ServerRate: s.serverRate, Mu: s.mu, Clip: s.clip, Bits: s.bits}
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
