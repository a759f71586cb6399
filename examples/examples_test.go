// Package examples_test runs the examples that make their own table, as their
// pages say, and holds what the pages expect.
package examples_test

import (
	"bytes"
	"encoding/json"
	"fmt"
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
			if n := len(expectation.FindAllString(string(page), -1)); n < 4 {
				t.Errorf("the page expects %d numbers", n)
			}
			for _, m := range misses(string(page), res.JSON) {
				t.Error(m)
			}
		})
	}
}

// TestMisses: every number of a page is held, each as exactly as the pages say.
func TestMisses(t *testing.T) {
	page := "| net, best_round | 18 |\n| net, rounds | 18 |\n| net, auc | 0.78 |\n"
	for result, want := range map[string]int{
		`{"name":"net","best_round":26,"rounds":18,"auc":0.799}`: 0,
		`{"name":"net","best_round":18,"rounds":19,"auc":0.78}`:  1,
		`{"name":"net","best_round":27,"rounds":18,"auc":0.81}`:  2,
		`{"name":"net","rounds":18}`:                             2,
		`{"name":"other"}`:                                       3,
	} {
		if got := misses(page, []byte(result)); len(got) != want {
			t.Errorf("%s: %q, want %d", result, got, want)
		}
	}
}

// misses compares the page's table with a result and lists what does not hold.
func misses(page string, result []byte) (out []string) {
	var doc map[string]any
	if err := json.Unmarshal(result, &doc); err != nil {
		return []string{err.Error()}
	}
	list := []any{doc}
	if many, ok := doc["analyses"].([]any); ok {
		list = many
	}
	for _, r := range expectation.FindAllStringSubmatch(page, -1) {
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
			out = append(out, fmt.Sprintf("%s: %v", r[0], err))
		}
		got, ok := at.(float64)
		// Counts are exact. The tables are made with the standard library's
		// functions, whose last bits may differ between processors, and with them
		// the round at which training stops.
		tolerance := 0.0
		if want != math.Trunc(want) {
			tolerance = 0.02
		} else if r[2] == "best_round" {
			tolerance = 8
		}
		if !ok || math.Abs(got-want) > tolerance {
			out = append(out, fmt.Sprintf("%s, %s: %v, the page says %v", r[1], r[2], at, want))
		}
	}
	return out
}
