package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"consilium"
	"consilium/internal/canon"
)

// Point is a place where policy is asked.
type Point string

// The points of a study's life.
const (
	PointStudy      Point = "study"      // admission of a study; the leader's answer is advisory
	PointSite       Point = "site"       // admission at one hospital; holds every study rule again
	PointColumns    Point = "columns"    // which declared columns may be read
	PointRows       Point = "rows"       // which patients' rows may be read
	PointTransfer   Point = "transfer"   // whether one artefact may go to one recipient
	PointRelease    Point = "release"    // whether an opened result may go to the team
	PointWithdrawal Point = "withdrawal" // what a withdrawal, objection or erasure asks for
)

// Points lists every point in a fixed order.
func Points() []Point {
	return []Point{PointStudy, PointSite, PointColumns, PointRows, PointTransfer, PointRelease, PointWithdrawal}
}

// Kind says whether a reason is the law's or a house rule.
type Kind string

const (
	Law    Kind = "LAW"    // the text of an act or of an agency's rule
	Policy Kind = "POLICY" // a rule of this software, of the board or of guidance
)

// Codes of denials that the engine itself makes. A rule's codes stand in
// law/rules.json.
const (
	CodeUndefined    = "POLICY_UNDEFINED" // the rules gave no answer
	CodeError        = "POLICY_ERROR"     // a rule failed while it was evaluated
	CodeTimeout      = "POLICY_TIMEOUT"   // the time limit passed
	CodeShape        = "POLICY_SHAPE"     // the answer was not of the decision's form
	CodeInput        = "INPUT_SHAPE"      // the question was not of the schema's form
	CodeLawDataStale = "LAW_DATA_STALE"   // the dated law is older than its own limit
	CodeStopped      = "STOPPED"          // a member of the board has stopped the study, the policy or everything
	CodeRowNull      = "ROW_NULL"         // a control cell of a row is null
	CodeRowValue     = "ROW_VALUE"        // a control cell of a row holds a value that no rule knows
)

// Reason says why a decision denies.
type Reason struct {
	Code    string `json:"code"`
	Message string `json:"message"` // for people; never holds a value of a record
	Article string `json:"article"` // "" for a house rule
	Kind    Kind   `json:"kind"`
	Regime  string `json:"regime"` // a regime id, "*" for rules of every regime, BOARD or ENGINE
}

func (r Reason) String() string {
	s := r.Code + ": " + r.Message
	if r.Article != "" {
		s += " (" + string(r.Kind) + ", " + r.Article + ")"
	} else {
		s += " (" + string(r.Kind) + ")"
	}
	return s
}

// Action is what happens to a column.
type Action string

const (
	Keep Action = "keep"
	Drop Action = "drop"
)

// ColumnDecision is the answer for one declared column.
type ColumnDecision struct {
	Name   string   `json:"name"`
	Action Action   `json:"action"`
	Codes  []string `json:"codes"` // rules that dropped it, ascending
}

// Decision is policy's recorded answer. The zero Decision denies.
type Decision struct {
	Point        Point            `json:"point"`
	Allow        bool             `json:"allow"`
	Reasons      []Reason         `json:"reasons"`     // empty exactly when Allow
	Obligations  []string         `json:"obligations"` // what the caller must also do, ascending
	MinCohort    int              `json:"minCohort"`   // k in force, the strictest of core, study and boards
	Permits      []string         `json:"permits"`     // named exceptions that the board granted and the study asked for
	Columns      []ColumnDecision `json:"columns"`     // points site and columns, in declared order
	PolicyDigest consilium.Digest `json:"policyDigest"`
	InputDigest  consilium.Digest `json:"inputDigest"`
}

// clone shares nothing with d.
func (d Decision) clone() Decision {
	d.Reasons, d.Obligations, d.Permits = slices.Clone(d.Reasons), slices.Clone(d.Obligations), slices.Clone(d.Permits)
	d.Columns = slices.Clone(d.Columns)
	for i := range d.Columns {
		d.Columns[i].Codes = slices.Clone(d.Columns[i].Codes)
	}
	return d
}

// Encode is the decision's one encoding (RFC 8785).
func (d Decision) Encode() ([]byte, error) {
	d.Reasons = orEmpty(d.Reasons)
	d.Obligations = orEmpty(d.Obligations)
	d.Permits = orEmpty(d.Permits)
	d.Columns = orEmpty(d.Columns)
	for i := range d.Columns {
		d.Columns[i].Codes = orEmpty(d.Columns[i].Codes)
	}
	return canon.Marshal(d)
}

// Digest names the decision by its encoding.
func (d Decision) Digest() (consilium.Digest, error) {
	b, err := d.Encode()
	if err != nil {
		return consilium.Digest{}, err
	}
	return consilium.DomainDecision.Digest(b), nil
}

// ParseDecision is the inverse of Encode; it accepts canonical bytes only.
func ParseDecision(b []byte) (Decision, error) {
	var d Decision
	if err := canon.Check(b); err != nil {
		return Decision{}, fmt.Errorf("decision: %w", err)
	}
	if err := strict(b, &d); err != nil {
		return Decision{}, fmt.Errorf("decision: %w", err)
	}
	if d.Allow != (len(d.Reasons) == 0) || !slices.Contains(Points(), d.Point) {
		return Decision{}, errors.New("decision: unknown point, or a denial without a reason, or an approval with one")
	}
	return d, nil
}

// Err is nil for an approval, else a consilium.ErrPolicy that names every
// reason.
func (d Decision) Err() error {
	if d.Allow {
		return nil
	}
	var b bytes.Buffer
	for i, r := range d.Reasons {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(r.String())
	}
	if len(d.Reasons) == 0 {
		b.WriteString("no decision was made")
	}
	return consilium.ErrPolicy.Withf("%s", b.String())
}

// Code is the first reason's code, or "" for an approval.
func (d Decision) Code() string {
	switch {
	case d.Allow:
		return ""
	case len(d.Reasons) == 0:
		return CodeUndefined
	}
	return d.Reasons[0].Code
}

// Has reports whether some reason has the code.
func (d Decision) Has(code string) bool {
	return slices.ContainsFunc(d.Reasons, func(r Reason) bool { return r.Code == code })
}

// Dropped lists the names of the columns that may not be read.
func (d Decision) Dropped() []string {
	var out []string
	for _, c := range d.Columns {
		if c.Action != Keep {
			out = append(out, c.Name)
		}
	}
	return out
}

// deny makes the engine's own refusal.
func deny(p Point, code, format string, args ...any) Decision {
	return Decision{Point: p, Reasons: []Reason{{Code: code, Message: fmt.Sprintf(format, args...), Kind: Policy, Regime: "ENGINE"}}}
}

func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// strict refuses unknown fields and anything after the value.
func strict(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("bytes after the JSON value")
	}
	return nil
}
