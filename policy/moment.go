package policy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/types"
)

// The rules are pure: the same policy, question and moment get the same answer.
// They read the moment, input.now, only to compare it. An evaluation in which
// every comparison that was made comes out as before takes the same course and
// gives the same answer, so an answer holds for as long as none of them turns:
// until the next date that the rules looked at, and not a second longer.
//
// To know which dates these were, the rules are compiled a second time with each
// comparison with input.now made by a built-in of our own, which compares just as
// OPA's does and notes from when and until when its answer holds. A policy
// that reads the moment in any other way is asked anew each time.

// span is the moments from which up to which, exclusive, an answer holds, in Unix
// seconds.
type span struct{ from, until int64 }

// allMoments are those that the schema of questions knows.
var allMoments = span{0, math.MaxInt64}

func (s span) holds(now int64) bool { return s.from <= now && now < s.until }

// cross narrows s, which holds now, by a comparison that turns at t.
func (s *span) cross(now, t int64) {
	if now < t {
		s.until = min(s.until, t)
	} else {
		s.from = max(s.from, t)
	}
}

// watch notes the comparisons with the moment of one evaluation, which is one
// goroutine's.
type watch struct {
	now  int64
	span span
}

type watchKey struct{}

// noted makes a comparison of the moment with x and notes when it turns. A
// comparison with what is no number does not: OPA orders values of different types
// by their types.
func (w *watch) noted(op string, now ast.Number, x ast.Value) bool {
	c := now.Compare(x)
	if n, ok := x.(ast.Number); ok {
		switch t, whole := n.Int64(); {
		case !whole || t == math.MaxInt64:
			w.span = span{w.now, w.now + 1}
		case op == "lte" || op == "gt": // now <= t turns after t
			w.span.cross(w.now, t+1)
		default:
			w.span.cross(w.now, t)
		}
	}
	switch op {
	case "lt":
		return c < 0
	case "lte":
		return c <= 0
	case "gt":
		return c > 0
	}
	return c >= 0
}

// turned is an operator with its operands exchanged.
var turned = map[string]string{"lt": "gt", "lte": "gte", "gt": "lt", "gte": "lte"}

// momentBuiltin names the built-in for an operator with the moment on the left.
func momentBuiltin(op string) string { return "consilium.moment." + op }

// momentType is of all of them: any two values, a truth value.
var momentType = types.NewFunction(types.Args(types.A, types.A), types.B)

// momentFunctions are the built-ins.
func momentFunctions() []func(*rego.Rego) {
	var out []func(*rego.Rego)
	for op := range turned {
		out = append(out, rego.Function2(&rego.Function{Name: momentBuiltin(op), Decl: momentType},
			func(b rego.BuiltinContext, now, x *ast.Term) (*ast.Term, error) {
				w, _ := b.Context.Value(watchKey{}).(*watch)
				n, ok := now.Value.(ast.Number)
				if !ok || w == nil {
					return nil, errors.New("a comparison with the moment that nobody notes")
				}
				if t, ok := n.Int64(); !ok || t != w.now {
					return nil, errors.New("a comparison with another moment than the question's")
				}
				return ast.BooleanTerm(w.noted(op, n, x.Value)), nil
			}))
	}
	return out
}

// watched compiles modules so that every comparison with the moment is noted. It
// fails if the moment is read in any other way.
func watched(modules map[string]*ast.Module) (*ast.Compiler, error) {
	if len(modules) == 0 {
		return nil, errors.New("no rules")
	}
	out := map[string]*ast.Module{}
	for name, m := range modules {
		out[name] = m.Copy()
		if at := noteMoments(out[name]); at != "" {
			return nil, fmt.Errorf("%s: %s", name, at)
		}
	}
	c, err := newCompiler(momentCapabilities())
	if err != nil {
		return nil, err
	}
	c.Compile(out)
	if c.Failed() {
		return nil, c.Errors
	}
	return c, nil
}

func momentCapabilities() *ast.Capabilities {
	caps := capabilities(coreBuiltins)
	for op := range turned {
		caps.Builtins = append(caps.Builtins, &ast.Builtin{Name: momentBuiltin(op), Decl: momentType})
	}
	return caps
}

// noteMoments rewrites the comparisons with input.now in a module as written, and
// names what else reads the moment, or could: input as a whole is read by name.
func noteMoments(m *ast.Module) (other string) {
	noted := map[*ast.Term]bool{}
	ast.WalkExprs(m, func(e *ast.Expr) bool {
		terms, ok := e.Terms.([]*ast.Term)
		if !ok || len(terms) != 3 {
			return false
		}
		op, now, x := terms[0].String(), terms[1], terms[2]
		back, known := turned[op]
		if now.Value.Compare(nowRef.Value) != 0 {
			op, now, x = back, x, now
		}
		if known && now.Value.Compare(nowRef.Value) == 0 {
			noted[now] = true
			e.Terms = []*ast.Term{ast.NewTerm(ast.MustParseRef(momentBuiltin(op))).SetLocation(terms[0].Location), now, x}
		}
		return false
	})
	input := ast.InputRootDocument.Value.(ast.Var)
	found := func(what fmt.Stringer) bool {
		if other == "" {
			other = "reads " + what.String()
		}
		return true
	}
	var look *ast.GenericVisitor
	look = ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.Term:
			return noted[x]
		case ast.Var:
			return x == input && found(x)
		case ast.Ref:
			if len(x) == 0 || x[0].Value.Compare(input) != 0 {
				return false
			}
			part, ok := ast.String(""), false
			if len(x) > 1 {
				part, ok = x[1].Value.(ast.String)
			}
			if !ok || part == "now" {
				return found(x)
			}
			for _, t := range x[2:] {
				look.Walk(t)
			}
			return true
		case *ast.Head: // of which the visitor leaves out the reference
			for _, t := range x.Reference {
				look.Walk(t)
			}
		}
		return false
	})
	look.Walk(m)
	return other
}

// watchedQuery is p's query as watched compiles it, made when it is first asked.
// nil: the rules read the moment in another way than to compare it.
func (p *compiled) watchedQuery() *rego.PreparedEvalQuery {
	p.watchOnce.Do(func() {
		// A failure here is no failure of the policy: it is asked anew each time.
		err := recovering(func() error {
			c, err := watched(p.modules)
			if err != nil {
				return err
			}
			q, err := prepare(decisionQuery, c, p.storage, append(momentFunctions(), rego.Capabilities(momentCapabilities()))...)
			if err == nil {
				p.watched = &q
			}
			return err
		})
		if err != nil {
			slog.Info("answers are not remembered under this policy", "policy", p.digest.Short(), "why", firstLine(err))
		}
	})
	return p.watched
}

// watching hands a watch to the built-ins.
func watching(ctx context.Context, w *watch) context.Context {
	return context.WithValue(ctx, watchKey{}, w)
}
