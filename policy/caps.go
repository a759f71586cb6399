package policy

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
)

// coreBuiltins are all that the core rules call. It is an allow-list: a
// context deadline does not stop every built-in (bits.lsh runs on for seconds),
// several of the others read the clock, the network or the environment, and a
// new release of OPA may add more. None of these depends on anything but its
// arguments.
var coreBuiltins = []string{
	"assign", "concat", "count", "eq", "equal", "gt", "gte", "internal.member_2", "internal.member_3", "lt", "lte", "max", "min",
	"minus", "mul", "neq", "object.get", "plus", "startswith", "sum",
}

// boardBuiltins are what an overlay may call: nothing that makes a value
// larger than its arguments, so that the input's size bounds the memory that
// one step can take.
var boardBuiltins = []string{
	"assign", "count", "eq", "equal", "gt", "gte", "internal.member_2", "internal.member_3", "lt", "lte", "max", "min", "neq",
	"object.get", "startswith",
}

// capabilities is this OPA's own list cut down to names, without network.
func capabilities(names []string) *ast.Capabilities {
	caps := ast.CapabilitiesForThisVersion()
	kept := caps.Builtins[:0:0]
	for _, b := range caps.Builtins {
		if slices.Contains(names, b.Name) {
			kept = append(kept, b)
		}
	}
	caps.Builtins = kept
	caps.AllowNet = []string{}
	return caps
}

// builtinHeads maps the first name of every built-in that a policy may call, and of
// those that note the moment, to one that it begins.
var builtinHeads = sync.OnceValue(func() map[string]string {
	out := map[string]string{}
	for _, b := range momentCapabilities().Builtins {
		first, _, _ := strings.Cut(b.Name, ".")
		if have, ok := out[first]; !ok || b.Name < have {
			out[first] = b.Name
		}
	}
	return out
})

// shadowed names a built-in for which a rule would stand. OPA calls the rule, also
// where an operator is written, and whatever here knows a built-in by its name takes
// it for the built-in still.
func shadowed(r *ast.Rule) string { return builtinHeads()[ruleName(r)] }

// lintOverlay refuses what a board's module may not hold, before it is
// compiled together with the core: another package, another version of the
// language, rules of another name or form or with the name of a built-in,
// references to anything but the input, the dated law and the module's own rules.
func lintOverlay(m *ast.Module, board string) error {
	own := "data.consilium.board." + board
	if board != strings.ReplaceAll(board, "-", "_") {
		own = fmt.Sprintf("data.consilium.board[%q]", board)
	}
	if m.Package.Path.String() != own {
		return fmt.Errorf("package %s: want %s", m.Package.Path, strings.TrimPrefix(own, "data."))
	}
	v2 := false
	for _, imp := range m.Imports {
		switch imp.Path.String() {
		case "rego.v2":
			v2 = true
		case "data.law":
		default:
			return fmt.Errorf("line %d: import %s: an overlay imports rego.v2 and data.law only", imp.Location.Row, imp.Path)
		}
	}
	if !v2 {
		return fmt.Errorf("line 1: `import rego.v2` is missing: without it, `not` of something missing is true")
	}
	for _, r := range m.Rules {
		if r.Default {
			if r.Head.Name.String() != "row_include" || !r.Head.Value.Equal(ast.BooleanTerm(false)) {
				return fmt.Errorf("line %d: the only default is `default row_include := false`", r.Location.Row)
			}
		}
		if b := shadowed(r); b != "" {
			return fmt.Errorf("line %d: a rule named %s would stand for the built-in %s", r.Location.Row, ruleName(r), b)
		}
		ref := r.Head.Ref()
		switch name := ref[:1].String(); name {
		case "deny", "obligations":
			if len(ref) != 1 || r.Head.RuleKind() != ast.MultiValue {
				return fmt.Errorf("line %d: write `%s contains … if …`", r.Location.Row, name)
			}
		case "row_include":
			if len(ref) != 1 || r.Head.RuleKind() != ast.SingleValue || len(r.Head.Args) > 0 {
				return fmt.Errorf("line %d: write `row_include if …`", r.Location.Row)
			}
		}
	}
	var bad error
	ast.WalkRefs(m, func(r ast.Ref) bool {
		if bad != nil || len(r) == 0 {
			return true
		}
		if v, ok := r[0].Value.(ast.Var); ok && v == ast.DefaultRootDocument.Value.(ast.Var) {
			if r.Equal(m.Package.Path) || len(r) >= 2 && r[1].Value.Compare(ast.String("law")) == 0 {
				return false
			}
			row := 1
			if r[0].Location != nil {
				row = r[0].Location.Row
			}
			bad = fmt.Errorf("line %d: %s: an overlay reads input, data.law and its own rules", row, r)
		}
		return false
	})
	if bad != nil {
		return bad
	}
	ast.WalkWiths(m, func(w *ast.With) bool {
		bad = fmt.Errorf("line %d: `with` replaces facts: not in a rule", w.Location.Row)
		return true
	})
	if bad != nil {
		return bad
	}
	if err := lintSize(m); err != nil {
		return err
	}
	return lintUsed(m)
}

// read are the rules of an overlay that the core reads.
var read = []string{"deny", "obligations", "row_include"}

// lintUsed refuses a rule that decides nothing: `denny contains …` compiles, and
// would be signed, and would deny nobody.
func lintUsed(m *ast.Module) error {
	uses := map[string]map[string]bool{} // rule -> names that it mentions
	for _, r := range m.Rules {
		name := ruleName(r)
		if uses[name] == nil {
			uses[name] = map[string]bool{}
		}
		ast.WalkTerms(r, func(t *ast.Term) bool {
			switch v := t.Value.(type) {
			case ast.Var:
				uses[name][string(v)] = true
			case ast.Ref:
				if head, ok := v[0].Value.(ast.Var); ok {
					uses[name][string(head)] = true
				}
			}
			return false
		})
	}
	used, todo := map[string]bool{}, slices.Clone(read)
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		if used[name] {
			continue
		}
		used[name] = true
		todo = append(todo, sortedKeys(uses[name])...)
	}
	for _, r := range m.Rules {
		if name := ruleName(r); !used[name] {
			known := map[string]any{}
			for _, n := range read {
				known[n] = nil
			}
			return fmt.Errorf("line %d: nothing uses the rule %s%s: a policy is read by deny, obligations and row_include", r.Location.Row, name, nearestKey(name, known))
		}
	}
	return nil
}

// ruleName is the name that other rules refer to.
func ruleName(r *ast.Rule) string {
	if v, ok := r.Head.Ref()[0].Value.(ast.Var); ok {
		return string(v)
	}
	return r.Head.Ref().String()
}
