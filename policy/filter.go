package policy

import (
	"context"
	"maps"
	"math/bits"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"

	"consilium"
)

// MaxDistinct bounds the tuples that one memoised filter asks the rules
// about; each takes some hundred microseconds.
const MaxDistinct = 1 << 16

// FilterRows decides row by row which patients' rows may be read at in.Now,
// the moment of reading. The rules are evaluated as far as they go without a row,
// once for a study, and what is left is compiled to kernels over the columns
// (PathVectorised). Rules that do not compile are asked once for each distinct
// tuple of control facts (PathMemoised; Why says where the compiler gave up);
// more than MaxDistinct of those, and the answer is a denial that names the file
// and line.
//
// A null, an unknown value and any failure leave rows out; a failure of the
// rules themselves leaves all of them out and says so in Decision.
func (e *Engine) FilterRows(ctx context.Context, in Input, subjects arrow.Record) (RowDecision, error) {
	p := e.p.Load()
	n := int(subjects.NumRows())
	failed := func(d Decision, digest consilium.Digest) RowDecision {
		return RowDecision{Decision: p.seal(d, digest), Allowed: make([]bool, n), In: n, Out: n}
	}
	if !isControl(subjects) {
		return failed(deny(PointRows, CodeInput, "the control table has another schema"), consilium.Digest{}), nil
	}
	// The base question is checked once, with a record that fits.
	in.Record = nobody()
	q, bad := p.pose(PointRows, in)
	if bad != nil {
		return failed(*bad, q.digest), nil
	}
	ask := &rowQuestion{posed: q}
	// What does not depend on a row is asked once, of OPA itself; so are rules
	// that fail, take too long or contradict themselves.
	frame, ok := p.recall(&q)
	if !ok {
		doc, bad := ask.document(p)
		if bad != nil {
			return failed(*bad, q.digest), nil
		}
		var err error
		if frame, err = e.askFresh(ctx, p, &q, doc); err != nil {
			return RowDecision{}, err
		}
	}
	if isFailure(frame) {
		return failed(frame, q.digest), nil
	}
	words, err := tableWords(subjects)
	if err != nil {
		return failed(deny(PointRows, CodeInput, "%s", firstLine(err)), q.digest), nil
	}
	found, bad, err := p.program(ctx, ask, words)
	switch {
	case err != nil:
		return RowDecision{}, err
	case bad != nil:
		return failed(*bad, q.digest), nil
	}
	var out RowDecision
	var d *Decision
	switch {
	case found.bad != nil:
		return failed(deny(PointRows, CodeError, "%s", firstLine(found.bad)), q.digest), nil
	case found.program != nil:
		b, why, bad := p.ready(ctx, found.program, ask)
		switch {
		case ctx.Err() != nil:
			return RowDecision{}, ctx.Err()
		case bad != nil:
			return failed(deny(PointRows, CodeError, "%s", firstLine(bad)), q.digest), nil
		case b == nil:
			out, d, err = e.memoised(ctx, p, ask, subjects, why)
		default:
			out, d, err = vectorised(ctx, found.program, b, in.Now, subjects)
		}
	default:
		out, d, err = e.memoised(ctx, p, ask, subjects, found.why)
	}
	if err != nil {
		return RowDecision{}, err
	}
	if d != nil {
		return failed(*d, q.digest), nil
	}
	out.Decision = p.seal(Decision{Point: PointRows, Allow: true, MinCohort: frame.MinCohort, Permits: frame.Permits}, q.digest)
	return out, nil
}

// rowQuestion is a question about rows, with a record that stands for nobody.
type rowQuestion struct {
	posed
	doc map[string]any // read when it is first needed: not at all where everything is remembered
}

// document is what the rules read.
func (r *rowQuestion) document(p *compiled) (map[string]any, *Decision) {
	if r.doc != nil {
		return r.doc, nil
	}
	doc, bad := p.check(PointRows, r.bytes, r.now)
	if bad == nil {
		r.doc = doc
	}
	return doc, bad
}

func isFailure(d Decision) bool {
	switch d.Code() {
	case CodeError, CodeTimeout, CodeShape, CodeUndefined:
		return true
	}
	return false
}

// withoutRow is what a row question says beside row and moment.
func withoutRow(doc map[string]any) map[string]any {
	out := make(map[string]any, len(doc))
	for k, v := range doc {
		if k != "record" && k != "now" {
			out[k] = v
		}
	}
	return out
}

// isControl accepts the columns of SubjectSchema in their order; texts may be
// plain or in a dictionary.
func isControl(r arrow.Record) bool {
	want := SubjectSchema().Fields()
	if int(r.NumCols()) != len(want) {
		return false
	}
	for i, f := range r.Schema().Fields() {
		if f.Name != want[i].Name {
			return false
		}
		t := f.Type
		if d, ok := t.(*arrow.DictionaryType); ok {
			if want[i].Type.ID() != arrow.DICTIONARY && want[i].Type.ID() != arrow.STRING {
				return false
			}
			t = d.ValueType
		}
		w := want[i].Type
		if d, ok := w.(*arrow.DictionaryType); ok {
			w = d.ValueType
		}
		if !arrow.TypeEqual(t, w) {
			return false
		}
	}
	return true
}

// program finds or makes the program of a study. Only the caller's own ctx
// ending is an error; a question that cannot be read is a denial.
func (p *compiled) program(ctx context.Context, ask *rowQuestion, words map[int][]string) (*rowOutcome, *Decision, error) {
	key := ask.key // of everything but the moment
	if key.IsZero() {
		key = ask.digest
	}
	have := p.programs.find(key)
	if have != nil {
		if have.bad != nil || covers(have.words, words, have.every) {
			return have, nil, nil
		}
		words = union(have.words, words)
	}
	doc, bad := ask.document(p)
	if bad != nil {
		return nil, bad, nil
	}
	o, err := p.makeProgram(ctx, withoutRow(doc), ask.now, studyGate, words)
	if err != nil {
		return nil, nil, err
	}
	p.programs.keep(key, o)
	return o, nil, nil
}

// makeProgram compiles the rules for a question and tries the program on rows.
func (p *compiled) makeProgram(ctx context.Context, known map[string]any, now int64, rows int, words map[int][]string) (*rowOutcome, error) {
	words = union(words, trialWords())
	out := &rowOutcome{words: words}
	rp, err := p.compileRows(ctx, known, words)
	var b *bound
	if err == nil {
		b, err = rp.bind(ctx, p, known, now)
	}
	if rp != nil {
		out.every = maps.Clone(rp.plan.every)
		if rp.moment != nil {
			maps.Copy(out.every, rp.moment.every)
		}
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case isNotCompiled(err):
		out.why = firstLine(err)
		return out, nil
	case err != nil:
		out.bad = err
		return out, nil
	}
	err = p.gate(ctx, rp, b, known, now, rows)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if out.bad = err; err == nil {
		rp.passed(b)
		out.program = rp
	}
	return out, nil
}

// ready binds a study's program to a moment and tries what was compiled for it. A
// program that is nil with why given does not compile at this moment.
func (p *compiled) ready(ctx context.Context, rp *rowProgram, ask *rowQuestion) (b *bound, why string, bad error) {
	if b := rp.boundAt(ask.now); b != nil {
		return b, "", nil
	}
	doc, denied := ask.document(p)
	if denied != nil {
		return nil, "", denied.Err()
	}
	known := withoutRow(doc)
	b, err := rp.bind(ctx, p, known, ask.now)
	switch {
	case isNotCompiled(err):
		return nil, firstLine(err), nil
	case err != nil:
		return nil, "", err
	case b.tried:
		return b, "", nil
	}
	// Only the rules that look at the moment were compiled anew, and they are tried
	// as at first.
	if err := p.gate(ctx, rp, b, known, ask.now, studyGate); err != nil {
		return nil, "", err
	}
	rp.passed(b)
	return b, "", nil
}

// vectorised decides a table by kernels. A denial is returned apart.
func vectorised(ctx context.Context, rp *rowProgram, b *bound, now int64, subjects arrow.Record) (RowDecision, *Decision, error) {
	if ctx.Err() != nil {
		return RowDecision{}, nil, ctx.Err()
	}
	n := int(subjects.NumRows())
	got, err := b.run(subjects.Columns()[1:], n, now)
	if err != nil {
		d := deny(PointRows, CodeError, "%s", firstLine(err))
		return RowDecision{}, &d, nil
	}
	// A row without a patient is nobody's.
	patient := subjects.Column(0)
	for i := range n {
		if patient.IsNull(i) {
			got.full[i/64] &^= 1 << (i % 64)
		}
	}
	out := RowDecision{Allowed: make([]bool, n), In: n, Path: PathVectorised}
	counts := map[string]int{}
	whole, allowed := newBitset(n), newBitset(n)
	for i := range whole {
		whole[i] = got.full[i] & got.well[i]
	}
	copy(allowed, whole)
	for i, ok := range got.ok {
		left := 0
		for j, w := range ok {
			left += bits.OnesCount64(whole[j] &^ w)
			allowed[j] &= w
		}
		if left > 0 {
			counts[rp.rules[i].code] += left
		}
	}
	if nulls := n - got.full.count(); nulls > 0 {
		counts[CodeRowNull] = nulls
	}
	if odd := got.full.count() - whole.count(); odd > 0 {
		counts[CodeRowValue] = odd
	}
	for i := range n {
		out.Allowed[i] = allowed.get(i)
	}
	out.Out = n - allowed.count()
	for _, code := range sortedKeys(counts) {
		out.Reasons = append(out.Reasons, Count{Code: code, Rows: counts[code]})
	}
	return out, nil, nil
}

// memoised asks the rules once for each distinct tuple of control facts.
// Times that no rule looks at but to compare them with the moment enter a tuple
// as before, at or after it.
func (e *Engine) memoised(ctx context.Context, p *compiled, ask *rowQuestion, subjects arrow.Record, why string) (RowDecision, *Decision, error) {
	doc, bad := ask.document(p)
	if bad != nil {
		return RowDecision{}, bad, nil
	}
	base, err := newBase(doc)
	if err != nil {
		d := deny(PointRows, CodeInput, "%s", firstLine(err))
		return RowDecision{}, &d, nil
	}
	n := int(subjects.NumRows())
	out := RowDecision{Allowed: make([]bool, n), In: n, Out: n, Path: PathMemoised, Why: why}
	counts := map[string]int{}
	known := map[string]Decision{}
	vectors, err := controlVectors(subjects)
	if err != nil {
		d := deny(PointRows, CodeInput, "%s", firstLine(err))
		return out, &d, nil
	}
	for i := range n {
		r, code := readRecord(subjects, vectors, i, ask.now, p.ordered)
		if code != "" {
			counts[code]++
			continue
		}
		key := r.key()
		d, ok := known[key]
		if !ok {
			if len(known) >= MaxDistinct {
				d := deny(PointRows, CodeError, "more than %d different tuples of control facts, and the rules do not compile to kernels: %s", MaxDistinct, why)
				return out, &d, nil
			}
			if d, err = e.row(ctx, p, base, r.value()); err != nil {
				return out, nil, err
			}
			known[key] = d
		}
		if isFailure(d) {
			return out, &d, nil
		}
		if d.Allow {
			out.Allowed[i] = true
			out.Out--
		}
		for _, code := range codesOf(d) {
			counts[code]++
		}
	}
	for _, code := range sortedKeys(counts) {
		out.Reasons = append(out.Reasons, Count{Code: code, Rows: counts[code]})
	}
	out.Distinct = len(known)
	return out, nil, nil
}

// codesOf lists a decision's codes, each once.
func codesOf(d Decision) []string {
	seen := map[string]bool{}
	for _, r := range d.Reasons {
		seen[r.Code] = true
	}
	return sortedKeys(seen)
}

// controlVectors reads the columns of a control table.
func controlVectors(subjects arrow.Record) ([]operandVector, error) {
	var out []operandVector
	for j, c := range control() {
		v, err := vector(c, subjects.Column(j+1), int(subjects.NumRows()))
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// readRecord reads one row of the control table, or says why it is out. Times
// of which rules see only the order against the moment are reduced to that.
func readRecord(rec arrow.Record, vectors []operandVector, i int, now int64, ordered map[string]bool) (Record, string) {
	s := unknownSubject()
	if rec.Column(0).IsNull(i) {
		return Record{}, CodeRowNull
	}
	for j, c := range cells() {
		v := &vectors[j]
		if v.validWord(i)&1 == 0 {
			return Record{}, CodeRowNull
		}
		switch {
		case c.time != nil:
			t := v.ints[i]
			if ordered[c.name] && t >= -Never && t <= Never {
				t = max(min(t, now+1), now-1)
			}
			*c.time(&s) = t
		case c.flag != nil:
			*c.flag(&s) = word(v.flags, v.offset+i)&1 == 1
		default:
			code, ok := v.codes.at(i)
			if !ok || code >= uint64(len(v.values)) || v.null[code] {
				return Record{}, CodeRowNull
			}
			if c.list != nil {
				*c.list(&s) = v.values[code]
			} else {
				*c.text(&s) = strings.Clone(v.values[code][0])
			}
		}
	}
	return s.record()
}
