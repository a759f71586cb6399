package policy

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
)

// survivors are conditions that no vector can miss, with the reason. A
// condition that is not listed and that no vector misses fails the test.
var survivors = map[string]string{
	"rego/decision.rego:71 allow without gt(count(in_force), 0)":           "no question reaches it: TestRules shows that every point has rules for everyone; it holds should a table of rules ever lack them",
	"rego/decision.rego:78 obligations without neq(input.point, \"rows\")": "a filter has nobody who could take on a duty; no board of the tables asks for one there",
}

// mutant is the core with one condition changed.
type mutant struct {
	file   string
	module func() *ast.Module // parsed when it is tried: all of them at once would fill the memory
	where  string
	code   string   // of the rule `ok["code"]` or `keep["code"]` that it is in, or ""
	near   []string // codes whose rules reach this one, which are the likeliest to notice
}

// mutants changes every expression of every rule body, one at a time, those
// inside `every` included: it is left out, and it is negated.
// Only those that pick chooses by their number are made; the others stay empty.
func mutants(t testing.TB, files []string, pick func(int) bool) []mutant {
	t.Helper()
	caps := capabilities(coreBuiltins)
	b := DefaultBundle()
	var out []mutant
	reach := reaches(t)
	for _, name := range files {
		src, _ := b.File(name)
		parse := func() *ast.Module {
			m, err := ast.ParseModuleWithOpts(name, string(src), ast.ParserOptions{Capabilities: caps, RegoVersion: ast.RegoV1})
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		for i, b := range bodies(parse()) {
			for j, e := range *b.body {
				if _, some := e.Terms.(*ast.SomeDecl); some || e.IsAssignment() {
					continue // what it binds is used below it
				}
				text := e.String()
				if text == "true" {
					continue // the body of a bare definition
				}
				for _, how := range []string{"without", "negated"} {
					if !pick(len(out)) {
						out = append(out, mutant{})
						continue
					}
					change := func() *ast.Module {
						m := parse()
						at := bodies(m)[i]
						e := (*at.body)[j]
						rest := slices.Clone(*at.body)
						if how == "without" {
							rest = slices.Delete(rest, j, j+1)
						} else if n, not := e.Terms.(*ast.Not); not && len(n.Body) == 1 {
							rest[j] = n.Body[0]
						} else {
							rest[j] = ast.NewExpr(&ast.Not{Body: ast.NewBody(e), Location: e.Location}).SetLocation(e.Location)
						}
						if len(rest) == 0 {
							rest = ast.NewBody(ast.NewExpr(ast.BooleanTerm(true)))
						}
						for k := range rest {
							rest[k].Index = k
						}
						*at.body = rest
						return m
					}
					head := b.rule.Head.Ref()
					out = append(out, mutant{file: name, module: change, where: fmt.Sprintf("%s:%d %s %s %s", name, e.Location.Row, head, how, text),
						code: codeOf(b.rule), near: reach[fmt.Sprint(head[0])]})
				}
			}
		}
	}
	return out
}

// reaches says for every helper rule which codes' rules refer to it, directly
// or through other helpers.
func reaches(t testing.TB) map[string][]string {
	t.Helper()
	modules, err := coreModules()
	if err != nil {
		t.Fatal(err)
	}
	uses := map[string]map[string]bool{} // helper -> the heads that mention it
	for _, m := range modules {
		for _, r := range m.Rules {
			head := fmt.Sprint(r.Head.Ref()[0])
			if c := codeOf(r); c != "" {
				head = "=" + c
			}
			mention := func(name string) {
				if uses[name] == nil {
					uses[name] = map[string]bool{}
				}
				uses[name][head] = true
			}
			ast.WalkTerms(r, func(x *ast.Term) bool {
				switch v := x.Value.(type) {
				case ast.Ref:
					mention(fmt.Sprint(v[0]))
					if len(v) > 1 {
						if s, ok := v[1].Value.(ast.String); ok {
							mention(string(s))
						}
					}
				case ast.Var:
					mention(string(v))
				}
				return false
			})
		}
	}
	out := map[string][]string{}
	for name := range uses {
		seen, codes := map[string]bool{name: true}, map[string]bool{}
		todo := []string{name}
		for len(todo) > 0 {
			n := todo[0]
			todo = todo[1:]
			for head := range uses[n] {
				if c, ok := strings.CutPrefix(head, "="); ok {
					codes[c] = true
				} else if !seen[head] {
					seen[head] = true
					todo = append(todo, head)
				}
			}
		}
		out[name] = sortedKeys(codes)
	}
	return out
}

type ruleBody struct {
	rule *ast.Rule
	body *ast.Body
}

// bodies lists every body of a module in a fixed order.
func bodies(m *ast.Module) []ruleBody {
	var out []ruleBody
	for _, r := range m.Rules {
		if r.Default {
			continue
		}
		out = append(out, ruleBody{r, &r.Body})
		ast.WalkExprs(r, func(e *ast.Expr) bool {
			if ev, ok := e.Terms.(*ast.Every); ok {
				out = append(out, ruleBody{r, &ev.Body})
			}
			return false
		})
	}
	return out
}

// codeOf is the code that a rule gives evidence for.
func codeOf(r *ast.Rule) string {
	if ref := r.Head.Ref(); len(ref) == 2 && (ref[:1].String() == "ok" || ref[:1].String() == "keep") {
		if s, ok := ref[1].Value.(ast.String); ok {
			return string(s)
		}
	}
	return ""
}

// unchanged is the name of a change that changes nothing.
const unchanged = "nothing changed"

// survives asks a changed policy. Changing the tree after it was parsed can make
// something that the evaluator was never meant to see; it then panics.
func survives(t testing.TB, e *Engine, point Point, q []byte) (d Decision, ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	return e.ask(t.Context(), t, point, q), true
}

// TestMutations changes one condition of the core at a time and expects some
// vector to notice: a condition that no vector needs is not tested, or not
// needed. By default some conditions are tried; all of them when
// CONSILIUM_MUTATIONS is all, which takes minutes, and every n-th from the i-th
// on when it is i/n.
func TestMutations(t *testing.T) {
	// Most of what a try allocates is garbage at its end.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	var files []string
	for _, name := range DefaultBundle().Paths() {
		if strings.HasSuffix(name, ".rego") {
			files = append(files, name)
		}
	}
	first, step := 0, 61
	switch v := os.Getenv("CONSILIUM_MUTATIONS"); v {
	case "":
	case "all":
		step = 1
	default:
		if _, err := fmt.Sscanf(v, "%d/%d", &first, &step); err != nil || step < 1 || first < 1 || first > step {
			t.Fatalf("CONSILIUM_MUTATIONS is %q: want all or, say, 1/4", v)
		}
		first--
	}
	all := mutants(t, files, func(i int) bool { return i%step == first })
	vectors := readVectors(t)
	compiled := engines{}
	type asked struct {
		f    *vectorFile
		c    *vectorCase
		q    []byte
		base *Engine
	}
	byCode := map[string][]*asked{}
	var every []*asked
	var allowed []*asked
	for _, name := range sortedKeys(vectors) {
		f := vectors[name]
		for i := range f.Cases {
			c := &f.Cases[i]
			a := &asked{f, c, question(t, f, c), compiled.of(t, c)}
			own := slices.Clone(c.Codes)
			for _, col := range c.Dropped {
				own = append(own, col...)
			}
			for _, code := range own {
				byCode[code] = append(byCode[code], a)
			}
			if len(c.Codes) == 0 {
				allowed = append(allowed, a)
			}
			every = append(every, a)
		}
	}
	// A vector that fails already would notice everything. By default TestVectors
	// says so.
	for _, a := range every {
		if step == 61 {
			break
		}
		if err := a.c.check(a.base.ask(t.Context(), t, a.f.Point, a.q)); err != nil {
			t.Fatalf("%s: %v; the vectors must pass first", a.c.ID, err)
		}
	}
	parsed := map[string]*ast.Module{}
	for _, name := range DemoBundle().Paths() {
		if strings.HasSuffix(name, ".rego") {
			src, _ := DemoBundle().File(name)
			m, err := ast.ParseModuleWithOpts(name, string(src), ast.ParserOptions{Capabilities: capabilities(coreBuiltins), RegoVersion: ast.RegoV1})
			if err != nil {
				t.Fatal(err)
			}
			parsed[name] = m
		}
	}
	// The same way through without a change: nobody may notice anything.
	all = append(all, mutant{file: "rego/site.rego", module: func() *ast.Module { return parsed["rego/site.rego"] }, where: unchanged})
	try := func(m mutant) (noticed, refused bool) {
		modules := maps.Clone(parsed)
		modules[m.file] = m.module()
		c := ast.NewCompiler().WithCapabilities(capabilities(coreBuiltins))
		c.Compile(modules)
		if c.Failed() {
			return false, true // the change is not a policy at all
		}
		// The likeliest to notice come first.
		var list []*asked
		seen := map[*asked]bool{}
		add := func(more []*asked) {
			for _, a := range more {
				if !seen[a] {
					seen[a] = true
					list = append(list, a)
				}
			}
		}
		add(byCode[m.code])
		for _, code := range m.near {
			if m.code == "" {
				add(byCode[code])
			}
		}
		add(allowed)
		add(every)
		variants := map[*Engine]*Engine{}
		for _, a := range list {
			if variants[a.base] == nil {
				p := a.base.p.Load().variant()
				if err := p.finish(c, p.store); err != nil {
					return true, false
				}
				e := &Engine{slots: make(chan struct{}, 1)}
				e.p.Store(p)
				variants[a.base] = e
			}
			if d, ok := survives(t, variants[a.base], a.f.Point, a.q); !ok || a.c.check(d) != nil {
				return true, false
			}
		}
		return false, false
	}
	type outcome struct{ noticed, refused bool }
	outcomes := make([]outcome, len(all))
	next := make(chan int)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for i := range next {
				outcomes[i].noticed, outcomes[i].refused = try(all[i])
			}
		})
	}
	for i, m := range all {
		if i%step == first || m.where == unchanged {
			next <- i
		}
	}
	close(next)
	workers.Wait()
	tried, killed, refused := 0, 0, 0
	for i, m := range all {
		switch o := outcomes[i]; {
		case m.where == unchanged:
			if o.noticed || o.refused {
				t.Error("a change that is none is noticed: the test shows nothing")
			}
		case i%step != first:
		case o.refused:
			tried, refused = tried+1, refused+1
		case o.noticed:
			tried, killed = tried+1, killed+1
		default:
			tried++
			if why := survivors[m.where]; why == "" {
				t.Errorf("no vector notices: %s", m.where)
			} else {
				t.Logf("survives: %s: %s", m.where, why)
			}
		}
	}
	t.Logf("%d of %d changed conditions tried: %d noticed by a vector, %d refused by the compiler", tried, len(all)-1, killed, refused)
	if tried < 20 {
		t.Error("too few conditions: the test shows nothing")
	}
}

// variant is a copy for another compilation: what was remembered of the rules as
// they are is left behind.
func (p *compiled) variant() *compiled {
	return &compiled{bundle: p.bundle, digest: p.digest, rules: p.rules, order: p.order, regimes: p.regimes, boards: p.boards, overlays: p.overlays,
		rowRules: p.rowRules, staleAt: p.staleAt, asOf: p.asOf, store: p.store, timeout: p.timeout}
}
