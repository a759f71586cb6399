package models

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/dp"
)

// sequence runs the analyses of a study over one cohort: exact ones side by
// side, since their blocks add up in one vector and rounds are what costs;
// then each learned one in a phase of its own.
type sequence struct {
	names  []string
	parts  []Analysis
	phases [][]int // indices of parts
}

// New builds the analysis of a study from what the charter froze. extra
// supplies the constructors of types that this package does not own
// (consilium.AnalysisTrain).
func New(facts consilium.Facts, extra map[string]Constructor) (Analysis, error) {
	if facts.Spec == nil || len(facts.Spec.Analyses) == 0 {
		return nil, consilium.ErrInvalid.Withf("the study has no analysis")
	}
	s := &sequence{}
	var exact []int
	var learned [][]int
	for i := range facts.Spec.Analyses {
		a := &facts.Spec.Analyses[i]
		build, own := constructors[a.Type]
		if !own {
			var ok bool
			if build, ok = extra[a.Type]; !ok {
				return nil, consilium.ErrInvalid.Withf("analysis %s: type %q is unknown%s", a.Name, a.Type, suggest(a.Type, typeNames(extra)))
			}
		}
		if own {
			if err := checkKeys(a); err != nil {
				return nil, fmt.Errorf("analysis %s: %w", a.Name, err)
			}
		}
		part, err := build(facts, a)
		if err != nil {
			return nil, fmt.Errorf("analysis %s: %w", a.Name, err)
		}
		if own && facts.Spec.Privacy.DP != nil {
			if part, err = newPrivate(facts, a, part); err != nil {
				return nil, fmt.Errorf("analysis %s: %w", a.Name, err)
			}
		}
		if _, ok := part.(Releaser); !ok && facts.Spec.Privacy.DP != nil {
			return nil, consilium.ErrInvalid.Withf("privacy.dp: analysis %s of type %s has no differentially private form", a.Name, a.Type)
		}
		s.names, s.parts = append(s.names, a.Name), append(s.parts, part)
		if own {
			exact = append(exact, i)
		} else {
			learned = append(learned, []int{i})
		}
	}
	if len(exact) > 0 {
		s.phases = append(s.phases, exact)
	}
	s.phases = append(s.phases, learned...)
	if d := facts.Spec.Privacy.DP; d != nil {
		// Each calibrated its own part: this is the whole.
		if e := dp.Epsilon(s.AllReleases(), d.Delta); !(e <= d.Epsilon) || len(s.AllReleases()) != dpReleases(facts.Spec) {
			return nil, consilium.ErrInvalid.Withf("privacy.dp: the analyses together cost epsilon %v of %v", e, d.Epsilon)
		}
	}
	return s, nil
}

// constructors of the types of this package.
var constructors map[string]Constructor

func init() {
	constructors = map[string]Constructor{
		consilium.AnalysisDescribe:    newDescribe,
		consilium.AnalysisCrosstab:    newCrosstab,
		consilium.AnalysisKaplanMeier: newKaplanMeier,
		consilium.AnalysisLogrank:     newLogrank,
		consilium.AnalysisGLM:         newGLM,
		consilium.AnalysisCox:         newCox,
		consilium.AnalysisGWAS:        newGWAS,
	}
}

func typeNames(extra map[string]Constructor) []string {
	out := []string{consilium.AnalysisTrain}
	for k := range constructors {
		out = append(out, k)
	}
	for k := range extra {
		out = append(out, k)
	}
	return out
}

// Start implements Analysis.
func (q *sequence) Start(f consilium.Facts) (*State, error) {
	states := make([]*State, len(q.parts))
	for i, p := range q.parts {
		s, err := p.Start(f)
		if err != nil {
			return nil, fmt.Errorf("analysis %s: %w", q.names[i], err)
		}
		states[i] = s
	}
	return q.join(&State{}, states)
}

// join packs the parts' states and moves past phases that are done.
func (q *sequence) join(s *State, states []*State) (*State, error) {
	for int(s.Phase) < len(q.phases) {
		open := false
		for _, i := range q.phases[s.Phase] {
			open = open || !states[i].Done
		}
		if open {
			break
		}
		s.Phase++
	}
	s.Done = int(s.Phase) == len(q.phases)
	s.Parts = states
	return s, nil
}

func joinParts(parts [][]byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(parts)))
	for _, p := range parts {
		b = binary.BigEndian.AppendUint64(b, uint64(len(p)))
		b = append(b, p...)
	}
	return b
}

func splitParts(b []byte, want int) ([][]byte, error) {
	if len(b) < 4 || binary.BigEndian.Uint32(b) != uint32(want) {
		return nil, fmt.Errorf("state: want %d nested parts", want)
	}
	b = b[4:]
	out := make([][]byte, want)
	for i := range out {
		if len(b) < 8 || binary.BigEndian.Uint64(b) > uint64(len(b)-8) {
			return nil, errors.New("state: nested part too short")
		}
		n := binary.BigEndian.Uint64(b)
		out[i], b = b[8:8+n], b[8+n:]
	}
	if len(b) != 0 {
		return nil, errors.New("state: bytes after the nested parts")
	}
	return out, nil
}

func (q *sequence) split(s *State) ([]*State, error) {
	if int(s.Phase) > len(q.phases) || s.Done != (int(s.Phase) == len(q.phases)) || len(s.F64) != 0 || len(s.F32) != 0 {
		return nil, errors.New("state: not of this study's analyses")
	}
	out := make([]*State, len(q.parts))
	if s.Parts != nil {
		if len(s.Parts) != len(q.parts) || len(s.Sub) != 0 {
			return nil, errors.New("state: not of this study's analyses")
		}
		for i, p := range s.Parts {
			// Long states are not copied: a streamed analysis changes one in Advance
			// alone. The others are short, and each call has a copy of its own.
			if _, ok := q.parts[i].(Streamed); !ok {
				var err error
				if p, err = ParseState(p.Append(nil)); err != nil {
					return nil, fmt.Errorf("analysis %s: %w", q.names[i], err)
				}
			}
			out[i] = p
		}
		return out, nil
	}
	parts, err := splitParts(s.Sub, len(q.parts))
	if err != nil {
		return nil, err
	}
	for i, p := range parts {
		if out[i], err = ParseState(p); err != nil {
			return nil, fmt.Errorf("analysis %s: %w", q.names[i], err)
		}
	}
	return out, nil
}

// active lists the parts that take part in the round of s.
func (q *sequence) active(s *State) ([]*State, []int, error) {
	states, err := q.split(s)
	if err != nil {
		return nil, nil, err
	}
	if s.Done {
		return nil, nil, errors.New("state: the analyses are done")
	}
	var out []int
	for _, i := range q.phases[s.Phase] {
		if !states[i].Done {
			out = append(out, i)
		}
	}
	return states, out, nil
}

// Layout implements Analysis: the parts' blocks, named analysis/block.
func (q *sequence) Layout(s *State) (consilium.Layout, error) {
	states, active, err := q.active(s)
	if err != nil {
		return consilium.Layout{}, err
	}
	var out consilium.Layout
	for _, i := range active {
		l, err := q.parts[i].Layout(states[i])
		if err != nil {
			return out, fmt.Errorf("analysis %s: %w", q.names[i], err)
		}
		for _, b := range l.Blocks {
			b.Name = q.names[i] + "/" + b.Name
			out.Blocks = append(out.Blocks, b)
		}
	}
	return out, out.Validate()
}

type prefixWriter struct {
	Writer
	prefix string
}

func (p prefixWriter) Block(name string) error { return p.Writer.Block(p.prefix + name) }

// Local implements Analysis.
func (q *sequence) Local(ctx context.Context, s *State, memory []byte, rows *Rows, w Writer) ([]byte, error) {
	states, active, err := q.active(s)
	if err != nil {
		return nil, err
	}
	mem := make([][]byte, len(q.parts))
	if len(memory) > 0 {
		if mem, err = splitParts(memory, len(q.parts)); err != nil {
			return nil, err
		}
	}
	kept := false
	for _, i := range active {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		m, err := q.parts[i].Local(ctx, states[i], mem[i], rows, prefixWriter{w, q.names[i] + "/"})
		if err != nil {
			return nil, fmt.Errorf("analysis %s: %w", q.names[i], err)
		}
		mem[i] = m
	}
	for _, m := range mem {
		kept = kept || len(m) > 0
	}
	if !kept {
		return nil, nil
	}
	return joinParts(mem), nil
}

// of is the part of an opened sum that is one analysis's.
func (q *sequence) of(i int, o Opened) Opened {
	mine := Opened{Round: o.Round, Contributors: o.Contributors, Values: map[string][]float64{}}
	for name, v := range o.Values {
		if short, ok := strings.CutPrefix(name, q.names[i]+"/"); ok {
			mine.Values[short] = v
		}
	}
	return mine
}

// Update implements Analysis.
func (q *sequence) Update(s *State, o Opened) (*State, error) {
	states, active, err := q.active(s)
	if err != nil {
		return nil, err
	}
	for _, i := range active {
		if states[i], err = q.parts[i].Update(states[i], q.of(i, o)); err != nil {
			return nil, fmt.Errorf("analysis %s: %w", q.names[i], err)
		}
	}
	return q.join(&State{Phase: s.Phase, Iteration: s.Iteration + 1}, states)
}

// Advance implements Streamed. Analyses that are not streamed get their blocks
// whole.
func (q *sequence) Advance(s *State, o Stream) (*State, error) {
	states, active, err := q.active(s)
	if err != nil {
		return nil, err
	}
	for _, i := range active {
		mine := Stream{Opened: q.of(i, o.Opened), Each: func(block string, piece func([]float64) error) error {
			return o.Each(q.names[i]+"/"+block, piece)
		}}
		if part, ok := q.parts[i].(Streamed); ok {
			states[i], err = part.Advance(states[i], mine)
		} else {
			states[i], err = updateWhole(q.parts[i], states[i], mine)
		}
		if err != nil {
			return nil, fmt.Errorf("analysis %s: %w", q.names[i], err)
		}
	}
	return q.join(&State{Phase: s.Phase, Iteration: s.Iteration + 1}, states)
}

func updateWhole(a Analysis, s *State, o Stream) (*State, error) {
	layout, err := a.Layout(s)
	if err != nil {
		return nil, err
	}
	whole, err := o.Whole(layout)
	if err != nil {
		return nil, err
	}
	return a.Update(s, whole)
}

// Result implements Analysis: of one analysis its own object, of several
// {"analyses": […]}, in the study's order.
func (q *sequence) Result(s *State) (*Result, error) {
	states, err := q.split(s)
	if err != nil {
		return nil, err
	}
	if !s.Done {
		return nil, errors.New("state: the analyses are not done")
	}
	out := &Result{Files: map[string][]byte{}}
	var all []json.RawMessage
	for i, p := range q.parts {
		r, err := p.Result(states[i])
		if err != nil {
			return nil, fmt.Errorf("analysis %s: %w", q.names[i], err)
		}
		if len(q.parts) == 1 {
			return r, nil
		}
		all = append(all, r.JSON)
		for name, b := range r.Files {
			out.Files[q.names[i]+"-"+name] = b
		}
		if r.Problem != nil && out.Problem == nil {
			p := *r.Problem
			p.Message = q.names[i] + ": " + p.Message
			out.Problem = &p
		}
	}
	b, err := canon.Marshal(map[string]any{"analyses": all})
	if err != nil {
		return nil, err
	}
	out.JSON = b
	return out, nil
}
