package net

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"

	"consilium"
	"consilium/internal/canon"
	"consilium/models"
)

// Outcome is the result of a training study, as it stands in result.json.
// Numbers that are not defined (an AUC with one class) or that are too small
// to publish are null; the latter are named in Suppressed.
type Outcome struct {
	Analysis     string             `json:"analysis"` // "train"
	Name         string             `json:"name"`
	Rows         *int64             `json:"rows"`     // training and holdout
	Patients     *int64             `json:"patients"` // training and holdout
	Events       *int64             `json:"events"`   // rows with response 1; null for a squared loss
	ExcludedRows ExcludedRows       `json:"excluded_rows"`
	Training     Split              `json:"training"` // of the final model
	Holdout      Split              `json:"holdout"`
	Model        Model              `json:"model"`
	Strategy     consilium.Strategy `json:"strategy"`
	BestRound    *int               `json:"best_round,omitempty"` // with patience: after how many rounds of training the model was the best, which is the one given
	Response     ResponseScale      `json:"response"`
	Inputs       []Input            `json:"inputs"`
	Curves       Curves             `json:"curves"`
	Calibration  []CalibrationCell  `json:"calibration,omitempty"` // logistic: of the final model
	Thresholds   []Threshold        `json:"thresholds,omitempty"`  // reconstruction: anomaly scores of the training rows
	ClippedShare *float64           `json:"clipped_share"`         // of all values of all updates, cut by strategy.clip; null under privacy.dp, which does not count it
	Assumptions  []string           `json:"assumptions"`
	Suppressed   []Suppressed       `json:"suppressed"`
	Warnings     []string           `json:"warnings"`
	DP           *models.Spent      `json:"dp,omitempty"` // what was spent; its noise is of one count, of one value of the mean gradient, and of one count of scores
}

// Suppressed names a number that is left out, and why.
type Suppressed struct {
	Item   string `json:"item"`
	Reason string `json:"reason"`
}

// ExcludedRows counts what was left out, over all hospitals.
type ExcludedRows struct {
	Missing   *int64 `json:"missing"` // no response, or with model.missing drop no value of a feature
	Consent   *int64 `json:"consent"`
	Integrity *int64 `json:"integrity"`
	Cohort    *int64 `json:"cohort"`
}

// Split describes the training or the holdout rows under the final model.
type Split struct {
	Rows     *int64 `json:"rows"`
	Patients *int64 `json:"patients"`
	Events   *int64 `json:"events"`
	Metrics
}

// Metrics of one model on one split. AUC and Brier belong to the logistic
// loss, R2 and MAE to the squared one, on the standardised response, C to cox,
// Loss alone (and AUC where rows have a label) to reconstruction.
type Metrics struct {
	Loss  *float64 `json:"loss"` // mean per row: negative log-likelihood, squared error, or anomaly score; cox: negative log partial likelihood per event
	AUC   *float64 `json:"auc"`  // from counts on the grid of scores, ties counted half
	Brier *float64 `json:"brier"`
	// AUCNoise is the standard deviation that the noise of differential privacy
	// gives the AUC.
	AUCNoise *float64 `json:"auc_noise_sd,omitempty"`
	R2       *float64 `json:"r2"`
	MAE      *float64 `json:"mae"`
	C        *float64 `json:"c_index"` // Harrell's, over pairs of rows of one hospital
}

// CalibrationCell compares predicted with observed risk over a stretch of risks
// with at least k patients. Patients is a least number where patients have
// several rows.
type CalibrationCell struct {
	Split    string   `json:"split"` // training or holdout
	Lower    float64  `json:"lower"` // risks
	Upper    float64  `json:"upper"`
	Patients int64    `json:"patients"`
	Expected *float64 `json:"expected"` // mean risk
	Observed *float64 `json:"observed"` // share of rows with the event
}

// Threshold is an anomaly score that about a share of the training rows stays
// below: a cell's edge of the public grid, with at least k patients above it.
type Threshold struct {
	Share       float64  `json:"share"` // of training rows below
	Score       float64  `json:"score"`
	Sensitivity *float64 `json:"sensitivity"` // share of rows with the label above the score, on the holdout if there is one
	FalseAlarms *float64 `json:"false_alarms"`
}

// Model names what was trained.
type Model struct {
	Input        *consilium.InputShape `json:"input,omitempty"`
	Layers       []consilium.Layer     `json:"layers"`
	Loss         string                `json:"loss"`
	DType        string                `json:"dtype"`
	Missing      string                `json:"missing,omitempty"`
	ClassWeights []float64             `json:"class_weights,omitempty"` // as used
	Inputs       int                   `json:"inputs"`
	Parameters   int                   `json:"parameters"`
	Digest       consilium.Digest      `json:"digest"`  // of the specification
	Weights      consilium.Digest      `json:"weights"` // of weights.safetensors
}

// ResponseScale says what the model predicts. Mean and SD are those of a
// squared loss, which is trained on the standardised response.
type ResponseScale struct {
	Column string   `json:"column"`
	Event  string   `json:"event"` // the level that counts as 1, or ""
	Mean   *float64 `json:"mean"`
	SD     *float64 `json:"sd"`
}

// Input is one value of the input vector, or one channel of a series or image:
// the network reads (x - Mean) / SD, and 0 where x is missing. Flags and levels
// have 0.5 and 0.5 whatever the data.
type Input struct {
	Name    string  `json:"name"`
	Mean    float64 `json:"mean"`
	SD      float64 `json:"sd"`
	Missing *int64  `json:"missing"` // values that are missing
}

// Curves hold one point per model: the first before any training, then one
// after each round.
type Curves struct {
	TrainingLoss []*float64 `json:"training_loss"`
	TrainingAUC  []*float64 `json:"training_auc"` // R² for a squared loss, C for cox
	HoldoutLoss  []*float64 `json:"holdout_loss"`
	HoldoutAUC   []*float64 `json:"holdout_auc"`
	UpdateNorm   []float64  `json:"update_norm"` // Euclidean norm of each round's step; one point less
}

// ParseOutcome reads a result's JSON.
func ParseOutcome(b []byte) (*Outcome, error) {
	var o Outcome
	if err := json.Unmarshal(b, &o); err != nil {
		return nil, fmt.Errorf("train result: %w", err)
	}
	if o.Analysis != consilium.AnalysisTrain {
		return nil, fmt.Errorf("train result: analysis %s", quote(o.Analysis))
	}
	return &o, nil
}

func number(x float64) *float64 {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return nil
	}
	return &x
}

// Result describes the finished model.
func (a *train) Result(s *models.State) (*models.Result, error) {
	if s != nil && s.Phase == phaseFailed {
		return a.failure(s)
	}
	v, err := a.view(s)
	if err != nil {
		return nil, err
	}
	if !s.Done {
		return nil, consilium.ErrWrongPhase.Withf("training is not finished")
	}
	o := a.outcome(v)
	files := map[string][]byte{}
	if files["weights.safetensors"], err = a.safetensors(v); err != nil {
		return nil, err
	}
	files["weights.npy"] = a.npy(v)
	files["model.onnx"] = a.onnx(v)
	files["curves.csv"] = o.curvesCSV(a.second())
	o.Model.Weights = consilium.DomainModel.Digest([]byte("weights"), files["weights.safetensors"])
	doc, err := canon.Marshal(o)
	if err != nil {
		return nil, err
	}
	return &models.Result{JSON: doc, Files: files}, nil
}

func (a *train) outcome(v view) *Outcome {
	o := &Outcome{Analysis: consilium.AnalysisTrain, Name: a.spec.Name, Strategy: a.strategy.spec(), Assumptions: []string{},
		Suppressed: []Suppressed{}, Warnings: []string{}}
	o.Model = Model{Input: a.net.spec.Input, Layers: a.net.spec.Layers, Loss: a.net.spec.Loss, DType: a.net.spec.DType, Missing: a.net.spec.Missing,
		Inputs: a.net.inputs, Parameters: a.net.params, Digest: a.net.digest}

	// A count of 1 to k-1 patients or rows would single people out. Where one
	// split's count is small, the other's is left out too, or it would follow
	// from the total.
	k := float64(max(a.facts.MinCohort, 1))
	// Under differential privacy counts are noise around a patient's.
	small := func(n float64) bool { return a.private == nil && n > 0 && n < k }
	count := func(name string, n float64, hide bool) *int64 {
		if hide {
			o.Suppressed = append(o.Suppressed, Suppressed{name, fmt.Sprintf("it, or a number that follows from it, counts fewer than %v patients or rows", k)})
			return nil
		}
		i := int64(n)
		return &i
	}
	h := v.head
	told := true // all counts of the splits: full digits of what is measured do not tell one that is hidden
	pair := func(name string, at int, total, one, two **int64) {
		hide := small(h[at]) || small(h[at+1])
		told = told && !hide
		*total = count(name, h[at]+h[at+1], small(h[at]+h[at+1]))
		*one = count("training."+name, h[at], hide)
		*two = count("holdout."+name, h[at+1], hide)
	}
	pair("rows", headRows, &o.Rows, &o.Training.Rows, &o.Holdout.Rows)
	pair("patients", headPatients, &o.Patients, &o.Training.Patients, &o.Holdout.Patients)
	hidden := false // counts of events, and what would tell them
	if a.classes() {
		// Events and their complement.
		hide := false
		for s := range 2 {
			hide = hide || small(h[headEvents+s]) || small(h[headRows+s]-h[headEvents+s])
		}
		hidden, told = hide, told && !hide
		all, n := h[headEvents]+h[headEvents+1], h[headRows]+h[headRows+1]
		o.Events = count("events", all, small(all) || small(n-all))
		o.Training.Events = count("training.events", h[headEvents], hide)
		o.Holdout.Events = count("holdout.events", h[headEvents+1], hide)
	}
	for i, e := range []struct {
		name string
		to   **int64
		n    float64
	}{{"missing", &o.ExcludedRows.Missing, h[headLeft]}, {"consent", &o.ExcludedRows.Consent, h[headExcluded]},
		{"integrity", &o.ExcludedRows.Integrity, h[headExcluded+1]}, {"cohort", &o.ExcludedRows.Cohort, h[headExcluded+2]}} {
		// What integrity excludes is a finding about a table, not about people,
		// and an audit must see it however small.
		*e.to = count("excluded_rows."+e.name, e.n, i != 2 && small(e.n))
	}
	for j, in := range a.scales {
		p := v.inputs[inLength*j:]
		o.Inputs = append(o.Inputs, Input{Name: in.name, Mean: p[inMean], SD: p[inSD],
			Missing: count("inputs."+in.name+".missing", p[inMiss], small(p[inMiss]))})
		if p[inKnown] == 0 {
			o.Warnings = append(o.Warnings, "no training row has a value of "+in.name+": the model does not use it")
		}
	}
	o.Response.Column = a.response.name
	if a.response.kind == consilium.TypeLevels {
		o.Response.Event = a.response.levels[1]
	}
	if a.net.loss == squared {
		o.Response.Mean, o.Response.SD = number(h[headMean]), number(h[headSD])
	}

	o.assume(a, v)
	if w := a.classWeights(v); w != [2]float64{1, 1} {
		// Balanced ones would tell the count of events.
		if a.net.spec.Balanced && hidden {
			o.Suppressed = append(o.Suppressed, Suppressed{"model.class_weights", fmt.Sprintf("they follow from a count of fewer than %v patients or rows", k)})
		} else {
			o.Model.ClassWeights = w[:]
		}
	}
	points := len(v.curve) / curveLength
	for i := range points {
		p := v.curve[curveLength*i:]
		o.Curves.TrainingLoss = append(o.Curves.TrainingLoss, number(p[0]))
		o.Curves.TrainingAUC = append(o.Curves.TrainingAUC, number(p[1]))
		o.Curves.HoldoutLoss = append(o.Curves.HoldoutLoss, number(p[3]))
		o.Curves.HoldoutAUC = append(o.Curves.HoldoutAUC, number(p[4]))
		if i < points-1 {
			o.Curves.UpdateNorm = append(o.Curves.UpdateNorm, p[6])
		}
	}
	o.Training.Metrics, o.Holdout.Metrics = a.named(v.final[0]), a.named(v.final[1])
	fell := o.Training.Loss == nil || a.private != nil || *o.Training.Loss < v.curve[0]
	if !told {
		o.coarsen(h)
	}
	if a.strategy.patience > 0 {
		best := int(h[headBest])
		o.BestRound = &best
	}
	switch a.net.loss {
	case logistic:
		if told {
			o.Calibration = append(a.calibration(v, 0), a.calibration(v, 1)...)
		} else {
			o.Suppressed = append(o.Suppressed, Suppressed{"calibration", fmt.Sprintf("a count of fewer than %v patients or rows follows from it", k)})
		}
	case reconstruction:
		if o.Thresholds = a.thresholds(v, !told); !told {
			for i := range o.Thresholds {
				share := &o.Thresholds[i].Share
				*share = *models.Coarse(share, h[headRows])
			}
		}
	}
	if !fell {
		o.Warnings = append(o.Warnings, "the training loss did not fall: try another strategy.rate, or more rounds")
	}
	switch {
	case a.holdout > 0 && !a.holds(v):
		o.Warnings = append(o.Warnings, fmt.Sprintf("the holdout has fewer than %v patients, so nothing is said about it: raise holdout, or ask more hospitals", k))
	case a.holdout > 0 && a.net.loss != reconstruction && o.Holdout.AUC == nil && o.Holdout.R2 == nil && o.Holdout.C == nil:
		o.Warnings = append(o.Warnings, "the holdout rows have no "+strings.ToUpper(a.second())+": they are all alike")
	}
	sent := float64(points-1) * float64(a.net.params) * float64(len(a.facts.Sites))
	clipped := 0.0
	if sent > 0 {
		clipped = h[headClipped] / sent
	}
	if a.private == nil {
		o.ClippedShare = &clipped
	}
	if clipped > 0.01 {
		o.Warnings = append(o.Warnings, "more than 1% of the updates' values were cut by strategy.clip: raise it, or lower strategy.rate")
	}
	if a.private != nil {
		o.tellNoise(a, v)
	}
	return o
}

// coarsen rounds what is measured of the splits, whose digits tell how many rows
// and events it is measured on: an AUC is a fraction over pairs of a row with and
// one without the event. The curves stand over the same rows.
func (o *Outcome) coarsen(head []float64) {
	splits := []struct {
		m      *Metrics
		curves [][]*float64
	}{{&o.Training.Metrics, [][]*float64{o.Curves.TrainingLoss, o.Curves.TrainingAUC}}, {&o.Holdout.Metrics, [][]*float64{o.Curves.HoldoutLoss, o.Curves.HoldoutAUC}}}
	for s, of := range splits {
		n := head[headRows+s]
		for _, v := range []**float64{&of.m.Loss, &of.m.AUC, &of.m.Brier, &of.m.R2, &of.m.MAE, &of.m.C} {
			*v = models.Coarse(*v, n)
		}
		for _, curve := range of.curves {
			for i := range curve {
				curve[i] = models.Coarse(curve[i], n)
			}
		}
	}
	o.Suppressed = append(o.Suppressed, Suppressed{"digits of what is measured of training and holdout", "a count that is hidden follows from them"})
}

// assume says how the model reads the data and how it was measured.
func (o *Outcome) assume(a *train, v view) {
	add := func(text string) { o.Assumptions = append(o.Assumptions, text) }
	middle := "mean of its training rows (a flag or level: as the middle between yes and no)"
	if a.private != nil {
		middle = "middle of its declared bounds (a flag or level: as the middle between yes and no)"
	}
	switch a.net.spec.Missing {
	case "drop":
		add("a row that lacks a feature is left out")
	case "indicator":
		add("a missing feature is read as the " + middle + ", and an input of its own says that it is missing")
	default:
		add("a missing feature is read as the " + middle)
	}
	if a.private == nil && a.net.input.rank > 1 {
		add("every channel is standardised by its own mean and standard deviation over all steps or pixels of the training rows")
	}
	if a.private == nil && (a.net.loss == logistic || a.net.loss == reconstruction && a.classes()) {
		add(fmt.Sprintf("the AUC counts two scores as tied when they fall into one bin of 1/%d of a logit (anomaly scores: of a doubling)", binScale))
	}
	if a.net.loss == logistic && a.classWeights(v) != [2]float64{1, 1} {
		add("training rows were weighted by class: the model's risks are those of a population with these weights, not of the hospitals' patients")
	}
	if a.net.loss == partial {
		add("the partial likelihood is stratified by hospital, and in training by batch: risk sets meet neither across hospitals nor across batches")
	}
	if a.strategy.patience > 0 {
		add("the round was chosen by the loss that is reported here, which is therefore a little too good")
	}
}

// second is the word for the curve's second number.
func (a *train) second() string {
	switch a.net.loss {
	case squared:
		return "r2"
	case partial:
		return "c"
	}
	return "auc"
}

// named spreads a model's three numbers over the fields of its loss. A loss
// over no rows has none.
func (a *train) named(e []float64) Metrics {
	loss, second, third := a.metrics(e)
	m := Metrics{Loss: number(loss)}
	switch a.net.loss {
	case logistic:
		m.AUC, m.Brier = number(second), number(third)
	case squared:
		m.R2, m.MAE = number(second), number(third)
	case partial:
		m.C = number(second)
	case reconstruction:
		m.AUC = number(second)
	}
	return m
}
