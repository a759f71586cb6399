package party

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestNoForeignDecoder reads the source: what these packages take from the
// lattice library is its rings, primes and transforms, never anything that
// decodes bytes. Its decoders trust lengths that they read and end the process
// on a hostile message, which recover cannot catch.
func TestNoForeignDecoder(t *testing.T) {
	const library = "github.com/tuneinsight/lattigo"
	allowed := []string{"NewRing", "SubRing"} // of its package ring
	decoders := []string{"UnmarshalBinary", "UnmarshalText", "UnmarshalJSON", "GobDecode", "ReadFrom"}
	used := map[string]bool{}
	for _, dir := range []string{".", "..", "../../internal/vec"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", dir, len(files), err)
		}
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			name := ""
			for _, spec := range f.Imports {
				p, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				if !strings.HasPrefix(p, library) {
					if p == "encoding/gob" || p == "encoding/json" || p == "reflect" {
						t.Errorf("%s imports %s: bytes are decoded by hand here", path, p)
					}
					continue
				}
				if dir != "." || !strings.HasSuffix(p, "/ring") || spec.Name != nil {
					t.Errorf("%s imports %s", path, p)
				}
				name = "ring"
			}
			ast.Inspect(f, func(n ast.Node) bool {
				s, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if slices.Contains(decoders, s.Sel.Name) {
					t.Errorf("%s calls %s", path, s.Sel.Name)
				}
				if x, ok := s.X.(*ast.Ident); ok && name != "" && x.Name == name && x.Obj == nil {
					used[s.Sel.Name] = true
					if !slices.Contains(allowed, s.Sel.Name) {
						t.Errorf("%s uses ring.%s", path, s.Sel.Name)
					}
				}
				return true
			})
		}
	}
	for _, a := range allowed {
		if !used[a] {
			t.Errorf("ring.%s is not used: the test reads the wrong files", a)
		}
	}
}
