package consilium_test

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"consilium"
)

// TestErrorTable holds docs/errors.md against the sentinels: every code once
// in the source and once in the table.
func TestErrorTable(t *testing.T) {
	src, err := os.ReadFile("errors.go")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	codes := regexp.MustCompile(`&Error\{Code: "([^"]+)", Msg: "([^"]+)"`).FindAllStringSubmatch(string(src), -1)
	seen := map[string]bool{}
	for _, m := range codes {
		if seen[m[1]] {
			t.Errorf("code %s stands twice", m[1])
		}
		seen[m[1]] = true
		if n := strings.Count(string(doc), "| `"+m[1]+"` | "+m[2]+" |"); n != 1 {
			t.Errorf("docs/errors.md has %d rows for %s", n, m[1])
		}
	}
	if len(codes) < 20 {
		t.Fatalf("only %d codes found", len(codes))
	}
}

func TestErrorIdentity(t *testing.T) {
	wrapped := fmt.Errorf("round 3: %w", consilium.ErrLocked.Withf("positions %v", []int{1, 2}))
	if !errors.Is(wrapped, consilium.ErrLocked) || errors.Is(wrapped, consilium.ErrFrozen) {
		t.Error("errors.Is does not follow the code")
	}
	if consilium.CodeOf(wrapped) != "round.locked" || consilium.CodeOf(errors.New("x")) != "internal" {
		t.Error("CodeOf")
	}
}
