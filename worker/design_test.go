package worker_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"consilium/worker"
)

// TestDesign: the tables of DESIGN.md have one line for every crash point, and no
// other. TestCrashPoints and TestTroubleCrashPoints kill a gate at each.
func TestDesign(t *testing.T) {
	page, err := os.ReadFile("DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	point := regexp.MustCompile("^\\|[^|]*\\| `([a-z-]+/[a-z-]+)` \\|")
	for _, l := range strings.Split(string(page), "\n") {
		if m := point.FindStringSubmatch(l); m != nil {
			have = append(have, m[1])
		}
	}
	want := slices.Concat(worker.CrashPoints, worker.TroubleCrashPoints, worker.EpochCrashPoints)
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		t.Errorf("DESIGN.md has %q, the gate %q", have, want)
	}
}
