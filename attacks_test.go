package consilium_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestAttackTable: every test that docs/attacks.md names exists, and so does
// every lie.
func TestAttackTable(t *testing.T) {
	page, err := os.ReadFile("docs/attacks.md")
	if err != nil {
		t.Fatal(err)
	}
	var code strings.Builder
	err = filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		b, err := os.ReadFile(path)
		code.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)`").FindAllStringSubmatch(string(page), -1)
	if len(names) < 50 {
		t.Fatalf("only %d tests are named", len(names))
	}
	for _, n := range names {
		if !strings.Contains(code.String(), "func "+n[1]+"(") {
			t.Errorf("docs/attacks.md names %s, which is no test", n[1])
		}
	}
	for _, list := range regexp.MustCompile("`TestLies` \\(([a-z, -]+)\\)").FindAllStringSubmatch(string(page), -1) {
		for _, lie := range strings.Split(list[1], ", ") {
			if !strings.Contains(code.String(), `name: "`+lie+`"`) {
				t.Errorf("docs/attacks.md names the lie %q, which nobody tells", lie)
			}
		}
	}
}
