package coordinator

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	namedTest  = regexp.MustCompile("`(Test[A-Za-z0-9]+)`")
	namedStory = regexp.MustCompile(`([a-z-]+\.txt)`)
)

// TestDesign: every line of the tables that say what a crash means names a test or
// a story that there is.
func TestDesign(t *testing.T) {
	page, err := os.ReadFile("DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	var tests strings.Builder
	for _, dir := range []string{".", "../worker", "../internal/federation"} {
		if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			b, err := os.ReadFile(path)
			tests.Write(b)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	lines, column := 0, -1
	for _, l := range strings.Split(string(page), "\n") {
		cells := strings.Split(l, "|")
		switch {
		case !strings.HasPrefix(l, "|"):
			column = -1
		case strings.Contains(l, "a crash here means"):
			if column = len(cells) - 2; strings.TrimSpace(cells[column]) != "held by" {
				t.Errorf("the table %s has no last column of tests", l)
				column = -1
			}
		case column > 0 && !strings.HasPrefix(l, "|---"):
			lines++
			held, named := cells[column], 0
			for _, m := range namedTest.FindAllStringSubmatch(held, -1) {
				if named++; !strings.Contains(tests.String(), "func "+m[1]+"(") {
					t.Errorf("%s: there is no %s", strings.TrimSpace(cells[1]), m[1])
				}
			}
			for _, m := range namedStory.FindAllStringSubmatch(held, -1) {
				if _, err := os.Stat(filepath.Join("testdata", "rounds", m[1])); err != nil {
					t.Error(err)
				}
				named++
			}
			if named == 0 {
				t.Errorf("%s: nothing holds this line", strings.TrimSpace(cells[1]))
			}
		}
	}
	if lines < 25 {
		t.Errorf("%d lines of tables found", lines)
	}
}
