package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/rego"

	"consilium"
	"consilium/internal/canon"
)

// questionParts names what a point's question holds beside point and now.
var questionParts = map[Point][]string{
	PointStudy: {"study", "federation"}, PointSite: {"study", "federation", "site", "cohort"}, PointColumns: {"study", "federation", "site"},
	PointRows: {"study", "federation", "site", "record"}, PointTransfer: {"study", "federation", "site", "artefact"},
	PointRelease: {"study", "federation", "site", "release"}, PointWithdrawal: {"site", "event"},
}

// Encode is the question's one encoding (RFC 8785): what is logged by its keyed
// digest, and what ParseQuestion reads again.
func (in Input) Encode(p Point) ([]byte, error) { return in.encode(p) }

// ParseQuestion is the inverse of Input.Encode. Any JSON encoding of a question
// is read; one that would not encode to the same question again is refused.
func ParseQuestion(b []byte) (Point, Input, error) {
	if len(b) > MaxInput {
		return "", Input{}, consilium.ErrTooLarge.Withf("a question of %d bytes, at most %d", len(b), MaxInput)
	}
	var q struct {
		Point      Point         `json:"point"`
		Now        int64         `json:"now"`
		Study      *Study        `json:"study"`
		Federation *Federation   `json:"federation"`
		Site       *SiteFacts    `json:"site"`
		Cohort     *CohortFacts  `json:"cohort"`
		Artefact   *Artefact     `json:"artefact"`
		Release    *ReleaseFacts `json:"release"`
		Event      *Event        `json:"event"`
		Record     *Record       `json:"record"`
	}
	if err := strict(b, &q); err != nil {
		return "", Input{}, consilium.ErrInvalid.Withf("question: %w", err)
	}
	if !slices.Contains(Points(), q.Point) {
		return "", Input{}, consilium.ErrInvalid.Withf("question: unknown point %q", clip(string(q.Point)))
	}
	in := Input{Now: q.Now, Study: q.Study, Federation: q.Federation, Site: q.Site, Cohort: q.Cohort, Artefact: q.Artefact, Release: q.Release, Event: q.Event, Record: q.Record}
	again, err := in.encode(q.Point)
	if err != nil {
		return "", Input{}, consilium.ErrInvalid.Withf("question: %w", err)
	}
	var same json.RawMessage = b
	first, err := canon.Marshal(same)
	if err != nil {
		return "", Input{}, consilium.ErrInvalid.Withf("question: %w", err)
	}
	if !bytes.Equal(first, again) {
		return "", Input{}, consilium.ErrInvalid.Withf("question: a field is missing; every one must be there")
	}
	return q.Point, in, nil
}

// traced decides an encoded question and records in cov, which may be nil, which
// expressions were met.
func (e *Engine) traced(ctx context.Context, point Point, b []byte, now int64, cov *cover.Cover) (Decision, error) {
	p := e.p.Load()
	doc, digest, bad := p.read(point, b, now)
	if bad != nil {
		return p.seal(*bad, digest), nil
	}
	d, err := e.evaluate(ctx, p, &p.query, point, doc)
	if err != nil {
		return Decision{}, err
	}
	if cov != nil && d.Code() != CodeTimeout {
		// The traced run is for the coverage alone; its answer is thrown away.
		limited, cancel := context.WithTimeout(ctx, 4*p.timeout)
		defer cancel()
		if err := recovering(func() error {
			_, err := p.query.Eval(limited, rego.EvalInput(doc), rego.EvalQueryTracer(cov))
			return err
		}); err != nil && ctx.Err() != nil {
			return Decision{}, ctx.Err()
		}
	}
	return p.seal(d, digest), nil
}

// pick makes the question of a point out of a document that may hold more
// parts than the point asks for.
func pick(all map[string]any, point Point) ([]byte, int64, error) {
	parts, ok := questionParts[point]
	if !ok {
		return nil, 0, fmt.Errorf("unknown point %q", clip(string(point)))
	}
	n, ok := all["now"].(json.Number)
	if !ok {
		return nil, 0, errors.New("now: want Unix seconds or a date")
	}
	now, err := n.Int64()
	if err != nil {
		return nil, 0, errors.New("now: want Unix seconds or a date")
	}
	m := map[string]any{"point": string(point), "now": n}
	for _, part := range parts {
		if v, ok := all[part]; ok {
			m[part] = v
		}
	}
	b, err := canon.Marshal(m)
	return b, now, err
}
