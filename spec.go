package consilium

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
)

// Spec is the canonical study specification: what a study file says after its
// sugar (formula, defaults) is resolved. Researchers sign it, boards approve
// it, charters freeze it. It travels as RFC 8785 JSON.
type Spec struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"` // "Study"
	Name       string          `json:"name"`
	Question   string          `json:"question"` // one plain sentence for boards and patients
	Purpose    Purpose         `json:"purpose"`
	Legal      json.RawMessage `json:"legal"` // facts that policy's schema describes; an object
	Data       DataRef         `json:"data"`
	Sites      SiteRule        `json:"sites"`
	Columns    []Column        `json:"columns"`
	Cohort     string          `json:"cohort"` // CEL over declared columns; "" means every row
	Derive     []Derived       `json:"derive"`
	Seed       uint64          `json:"seed"`
	Analyses   []AnalysisSpec  `json:"analyses"`
	Privacy    Privacy         `json:"privacy"`
	Rounds     Rounds          `json:"rounds"`
}

// Purpose says what the data are used for.
type Purpose struct {
	DUO     []string `json:"duo"`     // Data Use Ontology codes, for example DUO:0000007
	Disease string   `json:"disease"` // MONDO id, for example MONDO:0018305
	Class   string   `json:"class"`   // scientific_research, commercial_marketing, insurance, …: a closed list of policy
}

// DataRef names the table that each hospital binds to one of its own.
type DataRef struct {
	Dataset string `json:"dataset"`
	Patient string `json:"patient"` // the column that tells patients apart
}

// SiteRule says how few hospitals may answer, how many are assumed dishonest,
// and what happens when one goes missing after the contributors are frozen.
type SiteRule struct {
	Min     int      `json:"min"`     // min_sites, in distinct operators; at least Faults + 2
	Faults  int      `json:"faults"`  // f; 0 means the default of DefaultFaults
	Missing string   `json:"missing"` // wait, abort or continue
	Only    []SiteID `json:"only"`    // empty: every hospital of the roster is asked
}

// Column declares one column of the study's table.
type Column struct {
	Name     string      `json:"name"`
	Type     ColumnType  `json:"type"`
	Levels   []string    `json:"levels,omitempty"` // TypeLevels: first is the reference
	Unit     string      `json:"unit,omitempty"`   // UCUM
	Bounds   *[2]float64 `json:"bounds,omitempty"` // inclusive; a value outside is an error at its site
	Missing  []string    `json:"missing,omitempty"`
	Category string      `json:"category,omitempty"` // consent category: general, genetic, mental, …; "" means general
	Tag      string      `json:"tag,omitempty"`      // identifier tag of HIPAA 164.514(b)(2), A to R; "" means none
}

// ColumnType is how a column's cells are read.
type ColumnType string

const (
	TypeID      ColumnType = "id"      // patient identifier; replaced by a keyed pseudonym before anything reads it
	TypeNumber  ColumnType = "number"  // float64
	TypeInteger ColumnType = "integer" // int64, exactly representable as float64
	TypeFlag    ColumnType = "flag"    // 0 or 1
	TypeLevels  ColumnType = "levels"  // one of Levels
	TypeDate    ColumnType = "date"    // ISO 8601 date; days since 1970-01-01
)

// Derived is a numeric column computed from others by an arithmetic
// expression.
type Derived struct {
	Name string `json:"name"`
	Expr string `json:"expr"`
}

// Privacy holds the disclosure rules that the study asks for; policy may
// only raise them.
type Privacy struct {
	MinCohort int      `json:"minCohort"` // k: least patients of a risk set or published cell
	Permits   []string `json:"permits"`   // named exceptions that the board must grant, for example km-tail
	DP        *DP      `json:"dp"`
}

// DP asks for differential privacy.
type DP struct {
	Epsilon float64 `json:"epsilon"`
	Delta   float64 `json:"delta"`
	Clip    float64 `json:"clip"` // rows that a patient counts for at most
}

// Rounds bounds an analysis.
type Rounds struct {
	Max       int     `json:"max"`
	Tolerance float64 `json:"tolerance"` // Newton step in standard errors
	Deadline  int64   `json:"deadline"`  // seconds that a round waits for contributions
}

// Analysis types.
const (
	AnalysisDescribe    = "describe"
	AnalysisCrosstab    = "crosstab"
	AnalysisKaplanMeier = "kaplan-meier"
	AnalysisLogrank     = "logrank"
	AnalysisGLM         = "glm"
	AnalysisCox         = "cox"
	AnalysisGWAS        = "gwas"
	AnalysisTrain       = "train"
)

// AnalysisSpec is one analysis in canonical keys. Which keys a type uses is
// checked by models.
type AnalysisSpec struct {
	Name        string               `json:"name"`
	Type        string               `json:"type"`
	Response    *Response            `json:"response,omitempty"`
	Terms       []string             `json:"terms,omitempty"` // see ParseTerm
	NoIntercept bool                 `json:"noIntercept,omitempty"`
	Strata      []string             `json:"strata,omitempty"` // columns, or "site"
	Cluster     string               `json:"cluster,omitempty"`
	Ties        string               `json:"ties,omitempty"` // efron or breslow
	Family      string               `json:"family,omitempty"`
	Robust      bool                 `json:"robust,omitempty"`
	Offset      *Offset              `json:"offset,omitempty"`
	Ridge       float64              `json:"ridge,omitempty"`
	Lasso       float64              `json:"lasso,omitempty"`
	Penalty     *Penalty             `json:"penalty,omitempty"` // ridge, lasso and elastic net along a path
	Baseline    *Baseline            `json:"baseline,omitempty"`
	TimeTerms   []TimeTerm           `json:"timeTerms,omitempty"`
	PHCheck     string               `json:"phCheck,omitempty"` // cox: test of proportional hazards against identity or log time
	Concordance bool                 `json:"concordance,omitempty"`
	Evaluate    int                  `json:"evaluate,omitempty"` // binomial glm: cells of the histograms of fitted probabilities
	By          []string             `json:"by,omitempty"`
	Grid        *Grid                `json:"grid,omitempty"`
	ConfType    string               `json:"confType,omitempty"`   // kaplan-meier: log-log, log or plain
	Restricted  float64              `json:"restricted,omitempty"` // kaplan-meier: horizon of the restricted mean
	Weights     *Weights             `json:"weights,omitempty"`    // logrank
	Variants    []string             `json:"variants,omitempty"`   // gwas: genotype columns
	Quality     *Quality             `json:"quality,omitempty"`    // gwas
	Variables   []string             `json:"variables,omitempty"`
	Histogram   map[string][]float64 `json:"histogram,omitempty"`
	Quantiles   []float64            `json:"quantiles,omitempty"`
	Rows        string               `json:"rows,omitempty"`
	Columns     string               `json:"columns,omitempty"`
	Features    []string             `json:"features,omitempty"`
	Model       *ModelSpec           `json:"model,omitempty"`
	Strategy    *Strategy            `json:"strategy,omitempty"`
	Holdout     float64              `json:"holdout,omitempty"` // share of patients, in [0, 1)
}

// Response is what an analysis explains: a column, a time with an event, or a
// (start, stop] interval with an event.
type Response struct {
	Column string `json:"column,omitempty"`
	Start  string `json:"start,omitempty"`
	Stop   string `json:"stop,omitempty"` // also the plain follow-up time
	Event  string `json:"event,omitempty"`
}

// Offset enters the linear predictor with coefficient 1.
type Offset struct {
	Column string `json:"column"`
	Log    bool   `json:"log,omitempty"`
}

// Penalty asks for penalised estimates at every lambda of a path, with
// glmnet's objective: -loglik/n + lambda ((1-alpha)/2 |b|² + alpha |b|_1),
// where b are the coefficients of the standardised columns unless Raw.
type Penalty struct {
	Alpha  float64   `json:"alpha"`
	Lambda []float64 `json:"lambda,omitempty"` // falling; empty: Steps values from the least that leaves no term, down to Ratio of it
	Steps  int       `json:"steps,omitempty"`
	Ratio  float64   `json:"ratio,omitempty"`
	Raw    bool      `json:"raw,omitempty"`
}

// TimeTerm lets the effect of a term change with time: the term times Func of
// the time of each event.
type TimeTerm struct {
	Term string `json:"term"`
	Func string `json:"func"` // identity or log
}

// Weights are Fleming and Harrington's: S(t-)^Rho (1 - S(t-))^Gamma.
type Weights struct {
	Rho   float64 `json:"rho"`
	Gamma float64 `json:"gamma"`
}

// Quality leaves variants out of a gwas.
type Quality struct {
	MAF      float64 `json:"maf"`      // least minor allele frequency
	HWE      float64 `json:"hwe"`      // least p of the exact Hardy-Weinberg test
	CallRate float64 `json:"callRate"` // least share of called genotypes
}

// Baseline chooses Cox's baseline hazard.
type Baseline struct {
	Kind string    `json:"kind"` // stratified, piecewise or common
	Cuts []float64 `json:"cuts,omitempty"`
	Grid *Grid     `json:"grid,omitempty"`
}

// Grid is a public time grid: Step, 2·Step, … up to Max.
type Grid struct {
	Step float64 `json:"step"`
	Max  float64 `json:"max"`
}

// ModelSpec is a learned model as a list of layers; it is data, never code.
type ModelSpec struct {
	Input        *InputShape `json:"input,omitempty"` // how the features of a row are laid out; nil: side by side, in no order
	Layers       []Layer     `json:"layers"`
	Loss         string      `json:"loss"`                   // logistic, squared, cox or reconstruction
	DType        string      `json:"dtype"`                  // float32 or float64
	Missing      string      `json:"missing,omitempty"`      // of a feature: mean (the default), indicator or drop
	Balanced     bool        `json:"balanced,omitempty"`     // logistic: both classes weigh the same in training
	ClassWeights []float64   `json:"classWeights,omitempty"` // logistic: of rows without and with the event
}

// InputShape says that the features of a row are a series or an image, in the
// order of the features: step by step, or row by row of pixels, the channels
// of one place side by side.
type InputShape struct {
	Steps    int `json:"steps,omitempty"`
	Height   int `json:"height,omitempty"`
	Width    int `json:"width,omitempty"`
	Channels int `json:"channels"`
}

// Layer is one layer. Which fields a kind uses is checked by models/net.
type Layer struct {
	Kind     string `json:"kind"`               // dense, relu, tanh, sigmoid, conv1d, conv2d, maxpool, average, gru
	Units    int    `json:"units,omitempty"`    // dense, conv1d, conv2d, gru
	Kernel   int    `json:"kernel,omitempty"`   // conv1d, conv2d, maxpool: width of the window
	Stride   int    `json:"stride,omitempty"`   // of the window; 0 means 1, or the kernel for maxpool
	Padding  string `json:"padding,omitempty"`  // conv1d, conv2d: valid (the default) or same
	Sequence bool   `json:"sequence,omitempty"` // gru: the state after every step, not only the last
}

// Strategy is how local training becomes a global model.
type Strategy struct {
	Name        string  `json:"name"` // fedavg, fedprox, fedadam, fedyogi, scaffold
	Rounds      int     `json:"rounds"`
	LocalEpochs int     `json:"localEpochs"`
	Batch       int     `json:"batch"`
	Rate        float64 `json:"rate"`
	ServerRate  float64 `json:"serverRate,omitempty"`
	Mu          float64 `json:"mu,omitempty"`
	Clip        float64 `json:"clip"`               // largest magnitude of one parameter's update; under privacy.dp the largest norm of one row's gradient
	Bits        int     `json:"bits"`               // 16 or 24
	Patience    int     `json:"patience,omitempty"` // rounds without a better loss before training stops; 0: never
	MinDelta    float64 `json:"minDelta,omitempty"` // by how much a loss must fall to be better
}

// ParseSpec decodes and validates payload.
func ParseSpec(payload []byte) (*Spec, error) {
	var s Spec
	if err := strictJSON(payload, &s); err != nil {
		return nil, fmt.Errorf("study: %w", err)
	}
	if err := s.Validate(); err != nil {
		return nil, fmt.Errorf("study: %w", err)
	}
	return &s, nil
}

// SpecDigest names a specification by the exact bytes of its payload.
func SpecDigest(payload []byte) Digest { return DomainSpec.Digest(payload) }

// Validate checks what does not depend on an analysis type.
func (s *Spec) Validate() error {
	switch {
	case s.APIVersion != APIVersion || s.Kind != "Study":
		return fmt.Errorf("apiVersion %q kind %q: want %s Study", clip(s.APIVersion), clip(s.Kind), APIVersion)
	case s.Question == "":
		return errors.New("question is empty: one plain sentence that boards and patients can read")
	case s.Data.Dataset == "" || s.Data.Patient == "":
		return errors.New("data.dataset and data.patient are needed")
	case s.Sites.Faults < 0:
		return errors.New("sites.faults is negative")
	case s.Sites.Min < 3:
		return fmt.Errorf("sites.min %d: at least 3, so that one dishonest hospital never leaves a single other one alone", s.Sites.Min)
	case s.Sites.Faults > 0 && s.Sites.Min < s.Sites.Faults+2:
		return fmt.Errorf("sites.min %d: at least faults + 2 = %d", s.Sites.Min, s.Sites.Faults+2)
	case s.Privacy.MinCohort < 1:
		return errors.New("privacy.min_cohort is below 1")
	case s.Rounds.Max < 1 || s.Rounds.Max > 100000:
		return fmt.Errorf("rounds.max %d: want 1 to 100000", s.Rounds.Max)
	case !(s.Rounds.Tolerance > 0):
		return errors.New("rounds.tolerance: want above 0")
	case s.Rounds.Deadline < 1:
		return errors.New("rounds.deadline: want at least one second")
	case len(s.Analyses) == 0:
		return errors.New("no analysis")
	}
	if err := checkLabel("study name", s.Name); err != nil {
		return err
	}
	switch s.Sites.Missing {
	case "wait", "abort", "continue":
	default:
		return fmt.Errorf("sites.missing %q: want wait, abort or continue", clip(s.Sites.Missing))
	}
	columns := map[string]bool{}
	for i := range s.Columns {
		c := &s.Columns[i]
		if columns[c.Name] || !isName(c.Name) || c.Name == "site" {
			return fmt.Errorf("column %q: an empty, repeated or reserved name", clip(c.Name))
		}
		columns[c.Name] = true
		if err := c.validate(); err != nil {
			return fmt.Errorf("column %s: %w", c.Name, err)
		}
	}
	p, ok := s.Column(s.Data.Patient)
	if !ok || p.Type != TypeID {
		return fmt.Errorf("data.patient %q: declare it as a column of type id", clip(s.Data.Patient))
	}
	for _, d := range s.Derive {
		if columns[d.Name] || !isName(d.Name) || d.Name == "site" {
			return fmt.Errorf("derive %q: an empty, repeated or reserved name", clip(d.Name))
		}
		columns[d.Name] = true
	}
	names := map[string]bool{}
	for _, a := range s.Analyses {
		if err := checkLabel("analysis name", a.Name); err != nil {
			return err
		}
		if names[a.Name] {
			return fmt.Errorf("analysis %s stands twice", a.Name)
		}
		names[a.Name] = true
		if !(a.Holdout >= 0 && a.Holdout < 1) {
			return fmt.Errorf("analysis %s: holdout %v, want 0 to below 1", a.Name, a.Holdout)
		}
	}
	return nil
}

func (c *Column) validate() error {
	switch c.Type {
	case TypeID, TypeFlag, TypeDate:
		if c.Bounds != nil {
			return fmt.Errorf("type %s takes no bounds", c.Type)
		}
	case TypeNumber, TypeInteger:
	case TypeLevels:
		if len(c.Levels) < 2 {
			return errors.New("levels: want at least two, the first is the reference")
		}
		seen := map[string]bool{}
		for _, l := range c.Levels {
			if l == "" || seen[l] {
				return fmt.Errorf("level %q is empty or stands twice", clip(l))
			}
			seen[l] = true
		}
	default:
		return fmt.Errorf("unknown type %q", clip(string(c.Type)))
	}
	if c.Type != TypeLevels && len(c.Levels) != 0 {
		return fmt.Errorf("type %s takes no levels", c.Type)
	}
	if b := c.Bounds; b != nil && !(b[0] <= b[1] && !math.IsInf(b[0], 0) && !math.IsInf(b[1], 0)) {
		return fmt.Errorf("bounds [%v, %v] are empty", b[0], b[1])
	}
	return nil
}

// Column finds a declared column by name.
func (s *Spec) Column(name string) (*Column, bool) {
	for i := range s.Columns {
		if s.Columns[i].Name == name {
			return &s.Columns[i], true
		}
	}
	return nil, false
}

// Analysis finds an analysis by name.
func (s *Spec) Analysis(name string) (*AnalysisSpec, bool) {
	for i := range s.Analyses {
		if s.Analyses[i].Name == name {
			return &s.Analyses[i], true
		}
	}
	return nil, false
}

// isName accepts what study files may call a column: a letter or underscore,
// then letters, digits, dots and underscores.
func isName(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for i, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_':
		case i > 0 && (c >= '0' && c <= '9' || c == '.'):
		default:
			return false
		}
	}
	return true
}
