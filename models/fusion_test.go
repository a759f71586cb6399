package models

import (
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// shells imports math, det and the root package from source and gives every
// other package an empty shell: the types of our own arithmetic resolve
// without the rest.
type shells struct {
	fset *token.FileSet
	std  types.Importer
}

func (s shells) Import(path string) (*types.Package, error) {
	dir := map[string]string{"consilium": "..", "consilium/internal/det": "../internal/det"}[path]
	if path == "math" {
		return s.std.Import(path)
	}
	if dir == "" {
		p := types.NewPackage(path, path[strings.LastIndex(path, "/")+1:])
		p.MarkComplete()
		return p, nil
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	var files []*ast.File
	for _, n := range names {
		if strings.HasSuffix(n, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(s.fset, n, nil, 0)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	conf := types.Config{Importer: s, Error: func(error) {}}
	p, _ := conf.Check(path, s.fset, files, nil)
	return p, nil
}

// TestNoFusion reads the package's source: every floating-point product must
// be rounded by float64(…), or go straight into another product, a quotient,
// a comparison or a call, before it can meet a sum. Otherwise a compiler may
// fuse it on some processors, and hospitals would compute different bits.
func TestNoFusion(t *testing.T) {
	products := 0
	for _, dir := range []string{".", "../internal/det", "../internal/dp"} {
		bad, n := fusable(t, dir, nil)
		products += n
		for _, b := range bad {
			t.Errorf("%s: a product that is not rounded before a sum", b)
		}
	}
	if products < 150 {
		t.Errorf("only %d products seen: the check lost sight of the code", products)
	}
	// The naive twin: the same check finds what it should.
	bad, _ := fusable(t, "", map[string]string{"twin.go": `package twin
func f(a, b, c float64) float64 { d := a * b; d += b * c; e := a / 4; return d/c + e + float64(a*c) }`})
	if len(bad) != 3 {
		t.Errorf("the check found %d of the twin's 3 fusable products", len(bad))
	}
}

func fusable(t *testing.T, dir string, sources map[string]string) (bad []string, products int) {
	fset := token.NewFileSet()
	var files []*ast.File
	if sources == nil {
		names, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(names) == 0 {
			t.Fatalf("%s: %v", dir, err)
		}
		sources = map[string]string{}
		for _, n := range names {
			if strings.HasSuffix(n, "_test.go") {
				continue
			}
			b, err := os.ReadFile(n)
			if err != nil {
				t.Fatal(err)
			}
			sources[n] = string(b)
		}
	}
	for n, s := range sources {
		f, err := parser.ParseFile(fset, n, s, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
	conf := types.Config{Importer: shells{fset, importer.ForCompiler(fset, "source", nil)}, Error: func(error) {}}
	_, _ = conf.Check("x", fset, files, info) // errors about the shells are expected
	float := func(e ast.Expr) bool {
		tv, ok := info.Types[e]
		if !ok || tv.Value != nil || tv.Type == nil {
			return false
		}
		b, ok := tv.Type.Underlying().(*types.Basic)
		return ok && b.Info()&types.IsFloat != 0
	}
	for _, f := range files {
		var stack []ast.Node
		ast.Inspect(f, func(n ast.Node) bool {
			if n == nil {
				stack = stack[:len(stack)-1]
				return true
			}
			switch e := n.(type) {
			case *ast.AssignStmt:
				if e.Tok == token.MUL_ASSIGN && float(e.Lhs[0]) {
					bad = append(bad, fset.Position(n.Pos()).String())
				}
			case *ast.BinaryExpr:
				// Compilers turn a quotient by a power of two into a product.
				byConstant := false
				if e.Op == token.QUO {
					tv := info.Types[e.Y]
					byConstant = tv.Value != nil
				}
				if (e.Op == token.MUL || byConstant) && float(e) {
					products++
					if !rounded(stack, e) {
						bad = append(bad, fset.Position(n.Pos()).String())
					}
				}
			}
			stack = append(stack, n)
			return true
		})
	}
	return bad, products
}

// rounded walks outwards from a product through parentheses, signs, products
// and quotients to what consumes it.
func rounded(stack []ast.Node, e ast.Expr) bool {
	for i := len(stack) - 1; i >= 0; i-- {
		switch p := stack[i].(type) {
		case *ast.ParenExpr, *ast.UnaryExpr:
			continue
		case *ast.BinaryExpr:
			switch p.Op {
			case token.QUO, token.MUL:
				return true // a quotient by a variable cannot be fused; the rest is judged as the outer one
			case token.LSS, token.GTR, token.LEQ, token.GEQ, token.EQL, token.NEQ:
				return true
			}
			return false
		case *ast.CallExpr:
			id, ok := p.Fun.(*ast.Ident)
			return ok && id.Name == "float64"
		default:
			return false
		}
	}
	return false
}
