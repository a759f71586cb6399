package main

import (
	"strings"
	"testing"
)

// TestSummaryKeepsBarsApart: a number that was held to a wider bar is not counted
// under the narrow one, and neither is its difference.
func TestSummaryKeepsBarsApart(t *testing.T) {
	var cs comparisons
	cs.add("a", 1, 1+1e-12)
	cs.add("b", 1, 1)
	cs.within(aloneTolerance, "alone", 1, 1+5e-9)
	s := cs.summary()
	for _, want := range []string{"2 numbers compared with R and", "1.0e-12 (a); the bar is 1e-09", "1 numbers of single hospitals", "5.0e-09 (alone); the bar is 1e-08"} {
		if !strings.Contains(s, want) {
			t.Errorf("no %q in %s", want, s)
		}
	}
	if len(cs.failed()) != 0 {
		t.Error(cs.failed())
	}
}
