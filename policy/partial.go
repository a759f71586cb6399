package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
)

// notCompiled says where and why a rule does not become kernels.
type notCompiled struct {
	at  string // file:line, or ""
	why string
}

func (e *notCompiled) Error() string {
	if e.at == "" {
		return e.why
	}
	return e.at + ": " + e.why
}

func refuse(loc *ast.Location, format string, args ...any) error {
	e := &notCompiled{why: fmt.Sprintf(format, args...)}
	if loc != nil && loc.File != "" {
		e.at = fmt.Sprintf("%s:%d", loc.File, loc.Row)
	}
	return e
}

// The row under question and, so that a plan serves every moment, the moment.
var (
	recordRef = ast.MustParseTerm("input.record")
	nowRef    = ast.MustParseTerm("input.now")
)

// partially evaluates query with the row, and the moment unless it is part of
// the input, unknown. Shallow inlining keeps the rules that are left as rules:
// inlined fully, six helpers of four bodies become 4 096 queries.
func partially(ctx context.Context, c *ast.Compiler, store storage.Store, query string, input ast.Value, now bool) (*rego.PartialQueries, error) {
	return partial(ctx, c, store, rego.Query(query), input, now)
}

func partial(ctx context.Context, c *ast.Compiler, store storage.Store, query func(*rego.Rego), input ast.Value, now bool) (*rego.PartialQueries, error) {
	prepared, err := rego.New(
		query, rego.Compiler(c), rego.Store(store), rego.ShallowInlining(true),
		rego.Capabilities(capabilities(coreBuiltins)), rego.StrictBuiltinErrors(true),
	).PrepareForPartial(ctx)
	if err != nil {
		return nil, err
	}
	unknowns := []*ast.Term{recordRef}
	if !now {
		unknowns = append(unknowns, nowRef)
	}
	var out *rego.PartialQueries
	err = metered(ctx, MaxPartial, func(ctx context.Context, limits ...rego.EvalOption) error {
		var err error
		out, err = prepared.Partial(ctx, append(limits, rego.EvalParsedInput(input), rego.EvalParsedUnknowns(unknowns))...)
		return err
	})
	return out, err
}

// translator turns what is left of a rule into a plan. What it does not know
// it refuses; it never guesses.
type translator struct {
	plan   *plan
	cols   map[string]int
	rules  map[string][]*ast.Rule // of the support modules, by reference
	done   map[string]node
	active map[string]bool
	read   map[int]bool // columns that the rule speaks of
	asking *asking      // of words; nil where OPA is not at hand
	guards []node       // what must hold for the plan to be about a row
	work   int
}

// translate adds the residual of one query to a plan.
func translate(p *plan, pq *rego.PartialQueries, a *asking) (node, error) {
	t := newTranslator(p, pq, a)
	n, err := t.queries(pq)
	if err != nil {
		return never, err
	}
	// A null in a column that the rule speaks of leaves the row out, also where
	// other conditions would do: what OPA makes of it depends on whether the cell
	// is null or absent, and on the order of the conditions.
	parts := append([]node{n}, t.guards...)
	for col := range p.cols {
		if t.read[col] {
			parts = append(parts, p.present(col))
		}
	}
	return p.all(parts...), nil
}

func newTranslator(p *plan, pq *rego.PartialQueries, a *asking) *translator {
	t := &translator{plan: p, cols: map[string]int{}, rules: map[string][]*ast.Rule{}, done: map[string]node{}, active: map[string]bool{},
		read: map[int]bool{}, asking: a}
	for i, c := range p.cols {
		t.cols[c.name] = i
	}
	for _, m := range pq.Support {
		for _, r := range m.Rules {
			key := m.Package.Path.Extend(r.Head.Ref()).String()
			t.rules[key] = append(t.rules[key], r)
		}
	}
	return t
}

// queries is true where one of the residual's queries is.
func (t *translator) queries(pq *rego.PartialQueries) (node, error) {
	var ways []node
	for _, q := range pq.Queries {
		n, err := t.body(q, scope{})
		if err != nil {
			return never, err
		}
		ways = append(ways, n)
	}
	return t.plan.any(ways...), nil
}

// value is what a term stands for while a row is unknown.
type value struct {
	what  uint8
	konst ast.Value
	col   int
	node  node  // of a rule
	elem  *elem // a word of a list
}

const (
	isKonst uint8 = iota + 1
	isCol
	isMoment
	isRule
	isElem
)

// elem is a word of a list column that a body speaks of. The body holds if
// one word meets all its conditions.
type elem struct {
	col   int
	keys  []string
	preds []func(string) bool
	owner *group
}

// group collects the words of one body.
type group struct{ elems []*elem }

type scope struct {
	vars  map[ast.Var]value
	group *group
}

func (t *translator) body(b ast.Body, outer scope) (node, error) {
	s := scope{vars: maps.Clone(outer.vars), group: &group{}}
	if s.vars == nil {
		s.vars = map[ast.Var]value{}
	}
	parts := make([]node, 0, len(b))
	for _, e := range b {
		n, err := t.expr(e, s)
		if err != nil {
			return never, err
		}
		parts = append(parts, n)
	}
	for _, e := range s.group.elems {
		preds := e.preds
		parts = append(parts, t.plan.entry(e.col, "some word ("+strings.Join(e.keys, " and ")+")", func(words []string) bool {
			return slices.ContainsFunc(words, func(w string) bool {
				return !slices.ContainsFunc(preds, func(f func(string) bool) bool { return !f(w) })
			})
		}))
	}
	return t.plan.all(parts...), nil
}

func (t *translator) expr(e *ast.Expr, s scope) (node, error) {
	if t.work++; t.work > maxNodes || t.plan.full() {
		return never, refuse(e.Location, "%v", errPlanTooLarge)
	}
	if len(e.With) > 0 {
		return never, refuse(e.Location, "`with` in a row rule")
	}
	if e.Negated {
		positive := *e
		positive.Negated = false
		// What a negation binds is its own.
		n, err := t.body(ast.Body{&positive}, s)
		return t.plan.not(n), err
	}
	switch terms := e.Terms.(type) {
	case *ast.SomeDecl:
		return always, nil
	case *ast.Every:
		return t.every(terms, s, e.Location)
	case *ast.Not:
		n, err := t.body(terms.Body, s)
		return t.plan.not(n), err
	case *ast.LogicalOr:
		l, err := t.body(terms.Lhs, s)
		if err != nil {
			return never, err
		}
		r, err := t.body(terms.Rhs, s)
		return t.plan.any(l, r), err
	case *ast.Term:
		v, bound, err := t.value(terms, s, e.Location)
		if err != nil {
			return never, err
		}
		if !bound {
			return never, refuse(e.Location, "%s has no value", terms)
		}
		return t.truth(v, e.Location)
	case []*ast.Term:
		return t.call(e, terms, s)
	}
	return never, refuse(e.Location, "%s cannot be decided by columns", clip(e.String()))
}

// truth is a value standing alone: false is all that is not true.
func (t *translator) truth(v value, loc *ast.Location) (node, error) {
	switch v.what {
	case isKonst:
		if v.konst.Compare(ast.Boolean(false)) == 0 {
			return never, nil
		}
		return always, nil
	case isCol:
		if t.plan.cols[v.col].kind == kindFlag {
			return t.plan.flag(v.col, true), nil
		}
		return t.plan.present(v.col), nil
	case isMoment:
		return always, nil
	case isRule:
		return v.node, nil
	}
	return never, refuse(loc, "a word stands alone")
}

// value says what a term is. A variable that has no value yet is not bound.
func (t *translator) value(term *ast.Term, s scope, loc *ast.Location) (v value, bound bool, err error) {
	if term.Location != nil && term.Location.File != "" {
		loc = term.Location
	}
	switch x := term.Value.(type) {
	case ast.Var:
		v, ok := s.vars[x]
		return v, ok, nil
	case ast.Ref:
		return t.ref(x, s, loc)
	case ast.Null, ast.Boolean, ast.Number, ast.String:
		return value{what: isKonst, konst: term.Value}, true, nil
	case *ast.Array, ast.Set, ast.Object:
		if term.IsGround() && plainValue(term) {
			return value{what: isKonst, konst: term.Value}, true, nil
		}
	}
	return value{}, false, refuse(loc, "%s is made from the row", clip(term.String()))
}

// plainValue reports whether a ground term holds values only: a reference is
// ground too.
func plainValue(t *ast.Term) bool {
	plain := true
	ast.WalkTerms(t, func(t *ast.Term) bool {
		switch t.Value.(type) {
		case ast.Null, ast.Boolean, ast.Number, ast.String, *ast.Array, ast.Set, ast.Object:
			return false
		}
		plain = false
		return true
	})
	return plain
}

func (t *translator) ref(r ast.Ref, s scope, loc *ast.Location) (value, bool, error) {
	switch {
	case r.Equal(nowRef.Value.(ast.Ref)):
		return value{what: isMoment}, true, nil
	case r.HasPrefix(recordRef.Value.(ast.Ref)) && (len(r) == 3 || len(r) == 4):
		name, ok := r[2].Value.(ast.String)
		if !ok {
			return value{}, false, refuse(loc, "%s: name the column", r)
		}
		col, ok := t.cols[string(name)]
		if !ok {
			return value{}, false, refuse(loc, "%s: there is no such column", r)
		}
		t.read[col] = true
		if len(r) == 3 {
			return value{what: isCol, col: col}, true, nil
		}
		// Some word of a list: the index must be nobody else's.
		index, ok := r[3].Value.(ast.Var)
		if _, used := s.vars[index]; !ok || used || t.plan.cols[col].kind != kindList {
			return value{}, false, refuse(loc, "%s: a word is found by `some word in input.record.%s` only", r, name)
		}
		s.vars[index] = value{} // any use of it is refused
		e := &elem{col: col, owner: s.group}
		s.group.elems = append(s.group.elems, e)
		return value{what: isElem, elem: e}, true, nil
	case r[0].Value.Compare(ast.Var("data")) == 0:
		n, err := t.rule(r, loc)
		return value{what: isRule, node: n}, true, err
	}
	return value{}, false, refuse(loc, "%s cannot be decided by columns", r)
}

// rule translates a rule that partial evaluation left, once. Its only value
// must be true.
func (t *translator) rule(r ast.Ref, loc *ast.Location) (node, error) {
	key := r.String()
	if n, ok := t.done[key]; ok {
		return n, nil
	}
	rules, ok := t.rules[key]
	if !ok || t.active[key] {
		return never, refuse(loc, "%s cannot be decided by columns", key)
	}
	t.active[key] = true
	defer delete(t.active, key)
	var ways []node
	for _, rule := range rules {
		at := rule.Location
		if at == nil || at.File == "" {
			at = loc
		}
		h := rule.Head
		if rule.Else != nil || len(h.Args) > 0 || h.RuleKind() != ast.SingleValue || h.Value == nil {
			return never, refuse(at, "%s is not a plain condition", key)
		}
		if rule.Default && h.Value.Value.Compare(ast.Boolean(false)) == 0 {
			continue
		}
		if h.Value.Value.Compare(ast.Boolean(true)) != 0 {
			return never, refuse(at, "%s has another value than true", key)
		}
		n, err := t.body(rule.Body, scope{})
		if err != nil {
			return never, err
		}
		ways = append(ways, n)
	}
	t.done[key] = t.plan.any(ways...)
	return t.done[key], nil
}

// decidable are the operators that kernels know.
var decidable = map[string]bool{
	"eq": true, "assign": true, "equal": true, "neq": true, "lt": true, "lte": true, "gt": true, "gte": true,
	"internal.member_2": true, "startswith": true,
}

// function translates a function for its arguments; its only value must be
// true.
func (t *translator) function(name string, operands []*ast.Term, s scope, loc *ast.Location) (node, error) {
	if t.active[name] {
		return never, refuse(loc, "%s calls itself", name)
	}
	t.active[name] = true
	defer delete(t.active, name)
	var ways []node
	for _, rule := range t.rules[name] {
		h := rule.Head
		if rule.Else != nil || rule.Default || len(operands) < len(h.Args) || len(operands) > len(h.Args)+1 || h.Value == nil ||
			h.Value.Value.Compare(ast.Boolean(true)) != 0 {
			return never, refuse(loc, "%s is not a plain condition", name)
		}
		inner := scope{vars: map[ast.Var]value{}}
		parts := []node{}
		for i, a := range h.Args {
			v, bound, err := t.value(operands[i], s, loc)
			if err != nil {
				return never, err
			}
			x, ok := a.Value.(ast.Var)
			if _, twice := inner.vars[x]; !bound || !ok || twice || v.what == isElem || v.what == 0 {
				return never, refuse(loc, "%s has arguments that are no plain cells", name)
			}
			n, err := t.bind(a, v, inner, loc)
			if err != nil {
				return never, err
			}
			parts = append(parts, n)
		}
		n, err := t.body(rule.Body, inner)
		if err != nil {
			return never, err
		}
		ways = append(ways, t.plan.all(append(parts, n)...))
	}
	n := t.plan.any(ways...)
	if extra := len(t.rules[name][0].Head.Args); len(operands) > extra {
		out := operands[extra]
		v, bound, err := t.value(out, s, loc)
		switch {
		case err != nil:
			return never, err
		case !bound:
			return t.bind(out, value{what: isRule, node: n}, s, loc)
		}
		return t.compare(opEqual, value{what: isRule, node: n}, v, s, loc)
	}
	return n, nil
}

func (t *translator) call(e *ast.Expr, terms []*ast.Term, s scope) (node, error) {
	op := terms[0].String()
	if _, ok := t.rules[op]; ok {
		return t.function(op, terms[1:], s, e.Location)
	}
	if len(terms) != 3 || !decidable[op] {
		return never, refuse(e.Location, "%s cannot be decided by columns", op)
	}
	l, lok, err := t.value(terms[1], s, e.Location)
	if err != nil {
		return never, err
	}
	r, rok, err := t.value(terms[2], s, e.Location)
	if err != nil {
		return never, err
	}
	if op == "eq" || op == "assign" {
		switch {
		case !lok && !rok:
			return never, refuse(e.Location, "two variables without a value")
		case !lok:
			return t.bind(terms[1], r, s, e.Location)
		case !rok:
			return t.bind(terms[2], l, s, e.Location)
		}
	}
	if !lok || !rok || l.what == 0 || r.what == 0 {
		return never, refuse(e.Location, "a variable without a value")
	}
	switch op {
	case "eq", "equal", "assign":
		return t.compare(opEqual, l, r, s, e.Location)
	case "neq":
		return t.compare(opUnequal, l, r, s, e.Location)
	case "lt":
		return t.compare(opLess, l, r, s, e.Location)
	case "lte":
		return t.compare(opLessEq, l, r, s, e.Location)
	case "gt":
		return t.compare(opLess, r, l, s, e.Location)
	case "gte":
		return t.compare(opLessEq, r, l, s, e.Location)
	case "internal.member_2":
		return t.member(l, r, s, e.Location)
	case "startswith":
		prefix, ok := r.konst.(ast.String)
		if r.what == isKonst && ok {
			return t.text(l, s, fmt.Sprintf("starts %q", string(prefix)), func(w string) bool { return strings.HasPrefix(w, string(prefix)) }, e.Location)
		}
	}
	return never, refuse(e.Location, "%s cannot be decided by columns", op)
}

// bind gives a variable its value. A cell must be there to be one.
func (t *translator) bind(term *ast.Term, v value, s scope, loc *ast.Location) (node, error) {
	s.vars[term.Value.(ast.Var)] = v
	switch v.what {
	case isCol:
		return t.plan.present(v.col), nil
	case isRule:
		return v.node, nil // whose only value is true
	}
	return always, nil
}

// text is a condition on a text cell or on a word of a list.
func (t *translator) text(v value, s scope, key string, pred func(string) bool, loc *ast.Location) (node, error) {
	switch {
	case v.what == isCol && t.plan.cols[v.col].kind == kindText:
		return t.plan.entry(v.col, key, func(x []string) bool { return pred(x[0]) }), nil
	case v.what == isElem && v.elem.owner == s.group:
		v.elem.keys, v.elem.preds = append(v.elem.keys, key), append(v.elem.preds, pred)
		return always, nil
	}
	return never, refuse(loc, "a text is needed")
}

// sample is any value of a column's type: types alone decide how values of
// different types compare.
func sample(k kind) ast.Value {
	switch k {
	case kindText:
		return ast.String("")
	case kindList:
		return ast.NewArray()
	case kindInt:
		return ast.Number("0")
	}
	return ast.Boolean(false)
}

func sameType(k kind, v ast.Value) bool {
	switch v.(type) {
	case ast.String:
		return k == kindText
	case *ast.Array:
		return k == kindList
	case ast.Number:
		return k == kindInt
	case ast.Boolean:
		return k == kindFlag
	}
	return false
}

func (t *translator) compare(op nodeOp, l, r value, s scope, loc *ast.Location) (node, error) {
	if l.what == isKonst && r.what == isKonst {
		return konstant(ordered(op, l.konst.Compare(r.konst))), nil
	}
	if l.what == isRule || r.what == isRule {
		rule, other := l, r
		if r.what == isRule {
			rule, other = r, l
		}
		if op == opEqual && other.what == isKonst && other.konst.Compare(ast.Boolean(true)) == 0 {
			return rule.node, nil
		}
		return never, refuse(loc, "a condition is compared with something else than true")
	}
	if l.what == isElem || r.what == isElem {
		word, other, turned := l, r, false
		if r.what == isElem {
			word, other, turned = r, l, true
		}
		if other.what != isKonst {
			return never, refuse(loc, "a word of a list is compared with a column")
		}
		if w, ok := other.konst.(ast.String); ok {
			t.plan.words[word.elem.col] = append(t.plan.words[word.elem.col], string(w))
		}
		return t.text(word, s, fmt.Sprintf("%d %t %s", op, turned, other.konst), func(w string) bool {
			c := ast.String(w).Compare(other.konst)
			if turned {
				c = -c
			}
			return ordered(op, c)
		}, loc)
	}
	if l.what == isKonst {
		return t.compareKonst(op, r, l.konst, true, loc)
	}
	if r.what == isKonst {
		return t.compareKonst(op, l, r.konst, false, loc)
	}
	x, okx := t.integer(l)
	y, oky := t.integer(r)
	if okx && oky {
		return t.plan.compare(op, x, y), nil
	}
	return never, refuse(loc, "two columns are compared that are not both integers")
}

func konstant(v bool) node {
	if v {
		return always
	}
	return never
}

// ordered turns a comparison of two values into an answer.
func ordered(op nodeOp, c int) bool {
	switch op {
	case opLess:
		return c < 0
	case opLessEq:
		return c <= 0
	case opEqual:
		return c == 0
	}
	return c != 0
}

func (t *translator) integer(v value) (operand, bool) {
	switch {
	case v.what == isMoment:
		return operand{col: isNow}, true
	case v.what == isCol && t.plan.cols[v.col].kind == kindInt:
		return operand{col: v.col}, true
	}
	return operand{}, false
}

// compareKonst compares a cell, or the moment, with a value; turned: the value
// stands on the left.
func (t *translator) compareKonst(op nodeOp, v value, k ast.Value, turned bool, loc *ast.Location) (node, error) {
	what := kindInt // the moment
	if v.what == isCol {
		what = t.plan.cols[v.col].kind
	}
	if !sameType(what, k) {
		c := sample(what).Compare(k)
		if turned {
			c = -c
		}
		n := konstant(ordered(op, c))
		if v.what == isCol {
			n = t.plan.all(n, t.plan.present(v.col))
		}
		return n, nil
	}
	switch what {
	case kindText:
		t.plan.words[v.col] = append(t.plan.words[v.col], string(k.(ast.String)))
		return t.plan.entry(v.col, fmt.Sprintf("%d %t %s", op, turned, k), func(x []string) bool {
			c := ast.String(x[0]).Compare(k)
			if turned {
				c = -c
			}
			return ordered(op, c)
		}), nil
	case kindFlag:
		want := bool(k.(ast.Boolean))
		switch op {
		case opEqual:
			return t.plan.flag(v.col, want), nil
		case opUnequal:
			return t.plan.flag(v.col, !want), nil
		}
		return never, refuse(loc, "truth values are put in order")
	case kindInt:
		n, ok := k.(ast.Number).Int64()
		if !ok {
			return never, refuse(loc, "%s is not an integer of 64 bits", k)
		}
		x, _ := t.integer(v)
		if y := (operand{col: isNumber, value: n}); turned {
			return t.plan.compare(op, y, x), nil
		} else {
			return t.plan.compare(op, x, y), nil
		}
	}
	return never, refuse(loc, "a list is compared as a whole")
}

// elements lists the values that `in` looks through.
func elements(v ast.Value) []ast.Value {
	var out []ast.Value
	switch x := v.(type) {
	case *ast.Array:
		x.Foreach(func(t *ast.Term) { out = append(out, t.Value) })
	case ast.Set:
		x.Foreach(func(t *ast.Term) { out = append(out, t.Value) })
	case ast.Object:
		x.Foreach(func(_, t *ast.Term) { out = append(out, t.Value) })
	}
	return out
}

func (t *translator) member(l, r value, s scope, loc *ast.Location) (node, error) {
	switch {
	case l.what == isKonst && r.what == isCol && t.plan.cols[r.col].kind == kindList:
		word, ok := l.konst.(ast.String)
		if !ok {
			return never, nil
		}
		t.plan.words[r.col] = append(t.plan.words[r.col], string(word))
		return t.plan.entry(r.col, fmt.Sprintf("has %q", string(word)), func(words []string) bool {
			return slices.Contains(words, string(word))
		}), nil
	case r.what != isKonst:
		return never, refuse(loc, "`in` looks through a column that is no list")
	}
	values := elements(r.konst)
	if l.what == isElem || l.what == isCol && t.plan.cols[l.col].kind == kindText {
		var texts []string
		for _, v := range values {
			if x, ok := v.(ast.String); ok {
				texts = append(texts, string(x))
			}
		}
		slices.Sort(texts)
		if col := l.col; l.what == isCol {
			t.plan.words[col] = append(t.plan.words[col], texts...)
		} else {
			t.plan.words[l.elem.col] = append(t.plan.words[l.elem.col], texts...)
		}
		return t.text(l, s, fmt.Sprintf("in %q", texts), func(w string) bool {
			_, found := slices.BinarySearch(texts, w)
			return found
		}, loc)
	}
	ways := make([]node, 0, len(values))
	for _, v := range values {
		n, err := t.compare(opEqual, l, value{what: isKonst, konst: v}, s, loc)
		if err != nil {
			return never, err
		}
		ways = append(ways, n)
	}
	return t.plan.any(ways...), nil
}

// isNotCompiled reports whether a rule failed to become kernels for a reason
// that its author can read, not because something broke.
func isNotCompiled(err error) bool {
	var e *notCompiled
	return errors.As(err, &e)
}
