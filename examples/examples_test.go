// Package examples_test runs the examples that make their own table, as their
// pages say, and holds what the pages expect.
package examples_test

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"consilium/internal/federation"
)

var expectation = regexp.MustCompile(`(?m)^\| (\S+), (\S+) \| (\S+) \|$`)

func TestLearned(t *testing.T) {
	for _, e := range []struct{ dir, study, column string }{
		{"learning", "flares.yaml", "hospital"}, {"wearable", "attacks.yaml", "hospital"}, {"coldchain", "excursions.yaml", "pharmacy"},
	} {
		t.Run(e.dir, func(t *testing.T) {
			t.Parallel()
			page, err := os.ReadFile(filepath.Join(e.dir, "README.md"))
			if err != nil {
				t.Fatal(err)
			}
			for _, said := range []string{"**generated**", "go run ./examples/" + e.dir + " > ", "--study examples/" + e.dir + "/" + e.study, "--site-column " + e.column} {
				if !strings.Contains(string(page), said) {
					t.Errorf("the page does not say %q", said)
				}
			}
			study, err := os.ReadFile(filepath.Join(e.dir, e.study))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(study), "GENERATED") {
				t.Error("the study does not say that its table is generated")
			}
			var csv, problems bytes.Buffer
			cmd := exec.CommandContext(t.Context(), "go", "run", "./"+e.dir)
			cmd.Stdout, cmd.Stderr = &csv, &problems
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v\n%s", err, problems.Bytes())
			}
			res, err := federation.PlainStudy(t.Context(), study, csv.Bytes(), e.column)
			if err != nil {
				t.Fatal(err)
			}
			if res.Problem != nil {
				t.Fatal(res.Problem)
			}
			hold(t, string(page), res.JSON)
		})
	}
}

// hold compares the page's table with a result.
func hold(t *testing.T, page string, result []byte) {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(result, &doc); err != nil {
		t.Fatal(err)
	}
	list := []any{doc}
	if many, ok := doc["analyses"].([]any); ok {
		list = many
	}
	rows := expectation.FindAllStringSubmatch(page, -1)
	if len(rows) < 4 {
		t.Errorf("the page expects %d numbers", len(rows))
	}
	for _, r := range rows {
		var at any
		for _, a := range list {
			if a := a.(map[string]any); a["name"] == r[1] {
				at = a
			}
		}
		for _, key := range strings.Split(r[2], ".") {
			switch v := at.(type) {
			case map[string]any:
				at = v[key]
			case []any:
				if i, err := strconv.Atoi(key); err == nil && i < len(v) {
					at = v[i]
				} else {
					at = nil
				}
			default:
				at = nil
			}
		}
		want, err := strconv.ParseFloat(r[3], 64)
		if err != nil {
			t.Errorf("%s: %v", r[0], err)
		}
		got, ok := at.(float64)
		// Counts are exact. The tables are made with the standard library's
		// functions, whose last bits may differ between processors.
		tolerance := 0.0
		if want != math.Trunc(want) {
			tolerance = 0.02
		} else if strings.Contains(r[2], "round") {
			tolerance = 8
		}
		if !ok || math.Abs(got-want) > tolerance {
			t.Errorf("%s, %s: %v, the page says %v", r[1], r[2], at, want)
		}
	}
}
