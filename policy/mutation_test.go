package policy

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
)

// survivors are conditions that no vector can miss, with the reason. A
// condition that is not listed and that no vector misses fails the test.
var survivors = map[string]string{}

// mutant is the core with one condition left out.
type mutant struct {
	file   string
	module *ast.Module
	where  string
	code   string // of the rule `ok["code"]` or `keep["code"]` that it is in, or ""
}

// mutants leaves out every expression of every rule body, one at a time, those
// inside `every` included.
func mutants(t testing.TB, files []string) []mutant {
	t.Helper()
	caps := capabilities(coreBuiltins)
	b := DefaultBundle()
	var out []mutant
	for _, name := range files {
		src, _ := b.File(name)
		parse := func() *ast.Module {
			m, err := ast.ParseModuleWithOpts(name, string(src), ast.ParserOptions{Capabilities: caps, RegoVersion: ast.RegoV1})
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		total := len(bodies(parse()))
		for i := range total {
			n := len(*bodies(parse())[i].body)
			for j := range n {
				m := parse()
				at := bodies(m)[i]
				e := (*at.body)[j]
				if _, some := e.Terms.(*ast.SomeDecl); some || e.IsAssignment() {
					continue // what it binds is used below it
				}
				text := e.String()
				if text == "true" {
					continue // the body of a bare definition
				}
				rest := slices.Delete(slices.Clone(*at.body), j, j+1)
				if len(rest) == 0 {
					rest = ast.NewBody(ast.NewExpr(ast.BooleanTerm(true)))
				}
				for k := range rest {
					rest[k].Index = k
				}
				*at.body = rest
				out = append(out, mutant{file: name, module: m, where: fmt.Sprintf("%s:%d %s without %s", name, e.Location.Row, at.rule.Head.Ref(), text), code: codeOf(at.rule)})
			}
		}
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

// TestMutations leaves out one condition of the core at a time and expects
// some vector to notice: a condition that no vector needs is not tested, or not
// needed. Some thirty of the conditions that give evidence for a code are tried;
// all of them, helpers included, when CONSILIUM_MUTATIONS is all, which takes
// minutes.
func TestMutations(t *testing.T) {
	files := []string{"rego/study.rego", "rego/site.rego", "rego/eu.rego", "rego/us.rego", "rego/ch.rego", "rego/facts.rego"}
	all := mutants(t, files)
	step := 1
	if os.Getenv("CONSILIUM_MUTATIONS") != "all" {
		step = 9
		all = slices.DeleteFunc(all, func(m mutant) bool { return m.code == "" })
	}
	vectors := readVectors(t)
	compiled := engines{}
	type asked struct {
		f *vectorFile
		c *vectorCase
		q []byte
	}
	byCode := map[string][]asked{}
	var every []asked
	for _, name := range sortedKeys(vectors) {
		f := vectors[name]
		for i := range f.Cases {
			c := &f.Cases[i]
			a := asked{f, c, question(t, f, c)}
			own := slices.Clone(c.Codes)
			for _, col := range c.Dropped {
				own = append(own, col...)
			}
			for _, code := range own {
				byCode[code] = append(byCode[code], a)
			}
			every = append(every, a)
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
	tried, killed := 0, 0
	for i, m := range all {
		if i%step != 0 {
			continue
		}
		tried++
		modules := map[string]*ast.Module{}
		for name, p := range parsed {
			modules[name] = p
		}
		modules[m.file] = m.module
		c := ast.NewCompiler().WithCapabilities(capabilities(coreBuiltins))
		c.Compile(modules)
		if c.Failed() {
			killed++ // the condition cannot be left out at all
			continue
		}
		list := every
		if m.code != "" {
			list = byCode[m.code]
		}
		noticed := false
		variants := map[string]*Engine{}
		for _, a := range list {
			base := compiled.of(t, a.c)
			key := base.Digest().String()
			if variants[key] == nil {
				p := *base.p.Load()
				if err := p.finish(c, p.store); err != nil {
					noticed = true
					break
				}
				e := &Engine{slots: make(chan struct{}, 1)}
				e.p.Store(&p)
				variants[key] = e
			}
			if a.c.check(variants[key].ask(t.Context(), t, a.f.Point, a.q)) != nil {
				noticed = true
				break
			}
		}
		if noticed {
			killed++
		} else if why := survivors[m.where]; why == "" {
			t.Errorf("no vector notices: %s", m.where)
		}
	}
	t.Logf("%d of %d conditions tried, %d noticed", tried, len(all), killed)
	if tried < 20 {
		t.Error("too few conditions: the test shows nothing")
	}
}
