package policy

import (
	"context"
	"fmt"
	"slices"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
)

// Some conditions say something of every word of a list, through functions
// that partial evaluation leaves alone: `every code in input.record.purposes {
// held(code) }`. Which words occur is known from the dictionaries, so for each of
// them the condition is evaluated as far as it goes, like a rule of its own. A
// program is made for a set of words; a word outside of it leaves its row out, and
// a table that holds one gets another program.

// asking is what partial evaluation needs to answer about a word.
type asking struct {
	ctx      context.Context // of the one compilation that asks
	compiler *ast.Compiler
	store    storage.Store
	input    ast.Value
	now      bool             // the moment is part of the input
	words    map[int][]string // by list column, ascending
}

// maxWords bounds the words of a column for which a program is made.
const maxWords = 256

// every translates `every word in list { … }`.
func (t *translator) every(e *ast.Every, s scope, loc *ast.Location) (node, error) {
	v, bound, err := t.value(e.Domain, s, loc)
	if err != nil {
		return never, err
	}
	if !bound || v.what != isCol || t.plan.cols[v.col].kind != kindList || t.asking == nil {
		return never, refuse(loc, "`every` runs over something else than the words of a list")
	}
	word, ok := e.Value.Value.(ast.Var)
	if !ok {
		return never, refuse(loc, "`every` without a name for the word")
	}
	words := t.asking.words[v.col]
	if len(words) > maxWords {
		return never, refuse(loc, "`every` about more than %d different words", maxWords)
	}
	t.plan.every[v.col] = true
	// Not part of the condition, which may stand under a negation.
	t.guards = append(t.guards, t.plan.entry(v.col, fmt.Sprintf("only %q", words), func(list []string) bool {
		return !slices.ContainsFunc(list, func(w string) bool { _, ok := slices.BinarySearch(words, w); return !ok })
	}))
	var parts []node
	for _, w := range words {
		body, err := t.ofWord(e, word, w, s, loc)
		if err != nil {
			return never, err
		}
		pq, err := partialBody(t.asking, body)
		if t.asking.ctx.Err() != nil {
			return never, t.asking.ctx.Err()
		}
		if err != nil {
			return never, refuse(loc, "`every` about %q: %s", w, firstLine(err))
		}
		inner := newTranslator(t.plan, pq, t.asking)
		inner.work = t.work
		holds, err := inner.queries(pq)
		if err != nil {
			return never, err
		}
		t.work, t.guards = inner.work, append(t.guards, inner.guards...)
		for col := range inner.read {
			t.read[col] = true
		}
		has := t.plan.entry(v.col, fmt.Sprintf("has %q", w), func(list []string) bool { return slices.Contains(list, w) })
		parts = append(parts, t.plan.any(t.plan.not(has), holds))
	}
	return t.plan.all(parts...), nil
}

// ofWord is an every's body about one word.
func (t *translator) ofWord(e *ast.Every, word ast.Var, w string, s scope, loc *ast.Location) (ast.Body, error) {
	open := ""
	out, err := ast.TransformVars(e.Body.Copy(), func(x ast.Var) (ast.Value, error) {
		if x == word {
			return ast.String(w), nil
		}
		if e.Key != nil && x.Compare(e.Key.Value) == 0 {
			open = "the position of a word"
		}
		if outer, ok := s.vars[x]; ok {
			if outer.what != isKonst {
				open = "another column"
				return x, nil
			}
			return outer.konst, nil
		}
		return x, nil
	})
	if err != nil {
		return nil, err
	}
	body, ok := out.(ast.Body)
	if !ok || open != "" {
		return nil, refuse(loc, "what `every` asks of a word depends on %s too", open)
	}
	return body, nil
}

func partialBody(a *asking, body ast.Body) (*rego.PartialQueries, error) {
	return partial(a.ctx, a.compiler, a.store, rego.ParsedQuery(body), a.input, a.now)
}

// tableWords lists the words of the list columns of a control table that rules
// may know.
func tableWords(subjects arrow.Record) (map[int][]string, error) {
	vectors, err := controlVectors(subjects)
	if err != nil {
		return nil, err
	}
	out := map[int][]string{}
	for j, c := range cells() {
		if c.list == nil {
			continue
		}
		seen := map[string]bool{}
		for _, list := range vectors[j].values {
			for _, w := range list {
				if seen[w] {
					continue
				}
				s := unknownSubject()
				*c.list(&s) = []string{w}
				if _, code := s.record(); code == "" {
					seen[w] = true
				}
			}
		}
		out[j] = sortedKeys(seen)
	}
	return out, nil
}

// union adds words to words.
func union(a, b map[int][]string) map[int][]string {
	out := map[int][]string{}
	for _, m := range []map[int][]string{a, b} {
		for col, words := range m {
			out[col] = append(slices.Clone(out[col]), words...)
			slices.Sort(out[col])
			out[col] = slices.Compact(out[col])
		}
	}
	return out
}

// covers reports whether a program made for have decides about want, in the
// columns where it matters.
func covers(have, want map[int][]string, every map[int]bool) bool {
	for col := range every {
		for _, w := range want[col] {
			if _, ok := slices.BinarySearch(have[col], w); !ok {
				return false
			}
		}
	}
	return true
}
