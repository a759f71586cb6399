package policy

import (
	"maps"

	"github.com/open-policy-agent/opa/v1/ast"
)

// orderedTimes finds the times of a record at which every rule looks only to
// compare them with input.now: for those, before, at and after is all that a
// memoised answer depends on. It reads the compiled rules, where every operand is
// a variable that was given one value; whatever has another form counts as
// another use.
func orderedTimes(modules map[string]*ast.Module) map[string]bool {
	out := map[string]bool{}
	for _, c := range cells() {
		if c.time != nil {
			out[c.name] = true
		}
	}
	clear := func(name string) { delete(out, name) }
	for _, m := range modules {
		for _, r := range m.Rules {
			ast.WalkRules(r, func(r *ast.Rule) bool {
				uses := timeUses(r)
				for name, other := range uses {
					switch {
					case name == "" && other:
						maps.DeleteFunc(out, func(string, bool) bool { return true })
					case other:
						clear(name)
					}
				}
				return false
			})
		}
	}
	return out
}

// timeUses says of each time that a rule reads whether it is used otherwise
// than in a comparison with input.now. "" stands for a record or an input that is
// used as a whole.
func timeUses(r *ast.Rule) map[string]bool {
	uses := map[string]bool{}
	names := map[ast.Var]string{} // variables that hold a time
	moments := map[ast.Var]bool{} // variables that hold input.now
	compared := map[*ast.Term]bool{}
	timeOf := func(t *ast.Term) (string, bool) {
		switch x := t.Value.(type) {
		case ast.Var:
			name, ok := names[x]
			return name, ok
		case ast.Ref:
			if len(x) == 3 && x.HasPrefix(recordRef.Value.(ast.Ref)) {
				if name, ok := x[2].Value.(ast.String); ok {
					return string(name), true
				}
			}
		}
		return "", false
	}
	isMoment := func(t *ast.Term) bool {
		v, ok := t.Value.(ast.Var)
		return ok && moments[v] || t.Value.Compare(nowRef.Value) == 0
	}
	ast.WalkExprs(r, func(e *ast.Expr) bool {
		terms, ok := e.Terms.([]*ast.Term)
		if !ok || len(terms) != 3 {
			return false
		}
		switch terms[0].String() {
		case "eq", "assign":
			if v, ok := terms[1].Value.(ast.Var); ok {
				if ref, ok := terms[2].Value.(ast.Ref); ok {
					if isMoment(terms[2]) {
						moments[v] = true
						compared[terms[2]] = true
					} else if name, ok := timeOf(terms[2]); ok && ref != nil {
						names[v] = name
						compared[terms[2]], compared[terms[1]] = true, true
					}
				}
			}
		}
		return false
	})
	ast.WalkExprs(r, func(e *ast.Expr) bool {
		terms, ok := e.Terms.([]*ast.Term)
		if !ok || len(terms) != 3 {
			return false
		}
		switch terms[0].String() {
		case "eq", "equal", "neq", "lt", "lte", "gt", "gte":
			for i := range 2 {
				if _, ok := timeOf(terms[1+i]); ok && isMoment(terms[2-i]) {
					compared[terms[1+i]] = true
				}
			}
		}
		return false
	})
	ast.WalkTerms(r, func(t *ast.Term) bool {
		if compared[t] {
			return true
		}
		if name, ok := timeOf(t); ok {
			uses[name] = true
			return true
		}
		x, ok := t.Value.(ast.Ref)
		if !ok {
			return false
		}
		input := ast.InputRootDocument.Value.(ast.Var)
		if head, ok := x[0].Value.(ast.Var); !ok || head != input {
			return false
		}
		// input, input[x], input.record and input.record[x] are the whole.
		if len(x) == 1 {
			uses[""] = true
		} else if part, ok := x[1].Value.(ast.String); !ok {
			uses[""] = true
		} else if string(part) == "record" {
			if len(x) == 2 {
				uses[""] = true
			} else if _, ok := x[2].Value.(ast.String); !ok {
				uses[""] = true
			}
		}
		return false
	})
	// A bare `input` is a variable.
	ast.WalkTerms(r, func(t *ast.Term) bool {
		if ref, ok := t.Value.(ast.Ref); ok {
			for _, inner := range ref[1:] {
				if v, ok := inner.Value.(ast.Var); ok && v == ast.InputRootDocument.Value.(ast.Var) {
					uses[""] = true
				}
			}
			return true
		}
		if v, ok := t.Value.(ast.Var); ok && v == ast.InputRootDocument.Value.(ast.Var) {
			uses[""] = true
		}
		return false
	})
	return uses
}
