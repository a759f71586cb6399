package policy

import (
	"fmt"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Limits of one overlay module. They bound what parser and compiler do, which
// nothing can stop once they run, and, with the allow-list of built-ins, what one
// step of an evaluation can take: see limits.go.
const (
	MaxModuleSize = 64 << 10
	maxNesting    = 32     // of brackets
	maxRules      = 512    // of one module, else included
	maxTerms      = 10_000 // of one rule
	maxBody       = 256    // conditions of one body
	maxWidth      = 64     // elements of a collection that is not constant
	maxDigits     = 20     // of a number
)

// lintSource looks at a module before it is parsed.
func lintSource(src []byte) error {
	if len(src) > MaxModuleSize {
		return fmt.Errorf("%d bytes, at most %d", len(src), MaxModuleSize)
	}
	line, depth := 1, 0
	for i := 0; i < len(src); i++ {
		switch src[i] {
		case '\n':
			line++
		case '#':
			for i+1 < len(src) && src[i+1] != '\n' {
				i++
			}
		case '"', '`':
			quote := src[i]
			for i++; i < len(src) && src[i] != quote; i++ {
				if src[i] == '\\' && quote == '"' {
					i++
				} else if src[i] == '\n' {
					line++
				}
			}
		case '(', '[', '{':
			if depth++; depth > maxNesting {
				return fmt.Errorf("line %d: brackets nested deeper than %d", line, maxNesting)
			}
		case ')', ']', '}':
			depth--
		}
	}
	return nil
}

// lintSize refuses overlays that could make large values or long steps: a
// collection holds what the question or the law holds and constants, never
// another collection that the overlay made, or forty rules would make a value
// with 2^40 parts.
func lintSize(m *ast.Module) error {
	rules := 0
	for _, r := range m.Rules {
		for rule := r; rule != nil; rule = rule.Else {
			rules++
		}
		terms := 0
		ast.WalkTerms(r, func(*ast.Term) bool { terms++; return false })
		if terms > maxTerms {
			return fmt.Errorf("line %d: a rule of %d terms, at most %d", r.Location.Row, terms, maxTerms)
		}
	}
	if rules > maxRules {
		return fmt.Errorf("%d rules in one file, at most %d", rules, maxRules)
	}
	var bad error
	fail := func(loc *ast.Location, format string, args ...any) {
		if bad == nil {
			row := 1
			if loc != nil {
				row = loc.Row
			}
			bad = fmt.Errorf("line %d: %s", row, fmt.Sprintf(format, args...))
		}
	}
	made := madeNames(m)
	// within reports whether a term is or holds a collection that the overlay
	// made elsewhere.
	within := func(t *ast.Term) string {
		name := ""
		ast.WalkTerms(t, func(t *ast.Term) bool {
			switch x := t.Value.(type) {
			case ast.Var:
				if made[string(x)] > 0 {
					name = string(x)
				}
			case ast.Ref:
				// A part of a flat collection is no collection.
				if v, ok := x[0].Value.(ast.Var); ok && (made[string(v)] == nestedName || made[string(v)] == flatName && len(x) == 1) {
					name = string(v)
				} else if ok && v == ast.DefaultRootDocument.Value.(ast.Var) && len(x) > 1 && x[1].Value.Compare(ast.String("law")) != 0 {
					name = x.String()
				}
				return true
			}
			return name != ""
		})
		return name
	}
	collection := func(t *ast.Term, parts ...*ast.Term) {
		if !t.IsGround() && len(parts) > maxWidth {
			fail(t.Location, "a collection of %d elements that are no constants, at most %d", len(parts), maxWidth)
		}
		for _, p := range parts {
			if name := within(p); name != "" {
				fail(t.Location, "a collection holds %s, which is a collection that the overlay makes: use its elements one by one", name)
			}
			switch p.Value.(type) {
			case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension:
				fail(t.Location, "a comprehension within a collection")
			}
		}
	}
	ast.WalkTerms(m, func(t *ast.Term) bool {
		switch x := t.Value.(type) {
		case ast.Number:
			if s := string(x); len(s) > maxDigits || strings.ContainsAny(s, "eE") {
				fail(t.Location, "%s: write numbers in at most %d plain digits", clip(s), maxDigits)
			}
		case *ast.Array:
			var parts []*ast.Term
			x.Foreach(func(t *ast.Term) { parts = append(parts, t) })
			collection(t, parts...)
		case ast.Set:
			var parts []*ast.Term
			x.Foreach(func(t *ast.Term) { parts = append(parts, t) })
			collection(t, parts...)
		case ast.Object:
			var parts []*ast.Term
			x.Foreach(func(k, v *ast.Term) { parts = append(parts, k, v) })
			collection(t, parts...)
		case *ast.ArrayComprehension:
			collection(t, x.Term)
		case *ast.SetComprehension:
			collection(t, x.Term)
		case *ast.ObjectComprehension:
			collection(t, x.Key, x.Value)
		case ast.Call:
			lintCall(x, within, fail)
		}
		return bad != nil
	})
	ast.WalkBodies(m, func(b ast.Body) bool {
		if len(b) > maxBody {
			fail(b.Loc(), "%d conditions in one body, at most %d", len(b), maxBody)
		}
		return false
	})
	ast.WalkExprs(m, func(e *ast.Expr) bool {
		if terms, ok := e.Terms.([]*ast.Term); ok {
			lintCall(terms, within, fail)
		}
		return bad != nil
	})
	for _, r := range m.Rules {
		for rule := r; rule != nil; rule = rule.Else {
			h := rule.Head
			if h.Key != nil {
				if name := within(h.Key); name != "" {
					fail(h.Location, "a rule collects %s, which is a collection that the overlay makes", name)
				}
				if _, ok := h.Key.Value.(*ast.ArrayComprehension); ok {
					fail(h.Location, "a rule collects comprehensions")
				}
			}
		}
	}
	return bad
}

// lintCall refuses comparisons of collections that the overlay makes, and the
// least and largest of lists: each is one step, however long.
func lintCall(terms []*ast.Term, within func(*ast.Term) string, fail func(*ast.Location, string, ...any)) {
	if len(terms) < 2 {
		return
	}
	op := terms[0].String()
	for i, t := range terms[1:] {
		switch op {
		case "equal", "neq", "lt", "lte", "gt", "gte", "max", "min", "internal.member_2", "internal.member_3":
			_, list := t.Value.(*ast.ArrayComprehension)
			_, object := t.Value.(*ast.ObjectComprehension)
			_, set := t.Value.(*ast.SetComprehension)
			if list || object || set && op != "max" && op != "min" && !strings.HasPrefix(op, "internal.") {
				fail(t.Location, "%s looks through a whole comprehension: write the condition inside it", op)
			}
			name := within(t)
			if name != "" && (!strings.HasPrefix(op, "internal.") || i == 0) {
				fail(t.Location, "%s compares %s, which is a collection that the overlay makes, as a whole", op, name)
			}
		case "eq":
			if _, ok := t.Value.(ast.Var); !ok && !t.IsGround() {
				switch t.Value.(type) {
				case ast.Ref:
				default:
					fail(t.Location, "= takes a collection apart: use := and some … in")
				}
			}
		}
	}
}

const (
	flatName   = 1 // a collection whose elements are none
	nestedName = 2
)

// madeNames finds the names of rules and variables that may hold a collection
// made by the module, whatever rule a variable is in.
func madeNames(m *ast.Module) map[string]int {
	made := map[string]int{}
	grade := func(t *ast.Term) int {
		switch x := t.Value.(type) {
		case *ast.Array, ast.Set, ast.Object:
			g := flatName
			ast.WalkTerms(t, func(u *ast.Term) bool {
				switch u.Value.(type) {
				case *ast.Array, ast.Set, ast.Object:
					if u != t {
						g = nestedName
					}
				}
				return false
			})
			return g
		case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension:
			return flatName
		case ast.Var:
			return made[string(x)]
		case ast.Ref:
			if v, ok := x[0].Value.(ast.Var); ok && (len(x) == 1 || made[string(v)] == nestedName) {
				return made[string(v)]
			}
		case ast.Call:
			if len(x) > 0 {
				if r, ok := x[0].Value.(ast.Ref); ok {
					if v, ok := r[0].Value.(ast.Var); ok {
						return made[string(v)]
					}
				}
			}
		}
		return 0
	}
	for range len(m.Rules) + maxBody {
		changed := false
		set := func(name string, g int) {
			if g > made[name] {
				made[name], changed = g, true
			}
		}
		for _, r := range m.Rules {
			for rule := r; rule != nil; rule = rule.Else {
				h := rule.Head
				name := h.Ref()[:1].String()
				switch {
				case h.RuleKind() == ast.MultiValue:
					set(name, flatName)
					if h.Key != nil && grade(h.Key) > 0 {
						set(name, nestedName)
					}
				case len(h.Ref()) > 1:
					set(name, flatName)
					if h.Value != nil && grade(h.Value) > 0 {
						set(name, nestedName)
					}
				case h.Value != nil:
					set(name, grade(h.Value))
				}
			}
		}
		ast.WalkExprs(m, func(e *ast.Expr) bool {
			switch terms := e.Terms.(type) {
			case []*ast.Term:
				if op := terms[0].String(); len(terms) == 3 && (op == "assign" || op == "eq") {
					for i := range 2 {
						if v, ok := terms[1+i].Value.(ast.Var); ok {
							set(string(v), grade(terms[2-i]))
						}
					}
				}
			case *ast.SomeDecl:
				for _, s := range terms.Symbols {
					call, ok := s.Value.(ast.Call)
					if !ok || len(call) < 3 || grade(call[len(call)-1]) != nestedName {
						continue
					}
					for _, t := range call[1 : len(call)-1] {
						if v, ok := t.Value.(ast.Var); ok {
							set(string(v), nestedName)
						}
					}
				}
			case *ast.Every:
				if grade(terms.Domain) == nestedName {
					if v, ok := terms.Value.Value.(ast.Var); ok {
						set(string(v), nestedName)
					}
				}
			}
			return false
		})
		if !changed {
			break
		}
	}
	return made
}
