package models

import (
	"testing"

	"consilium"
)

// TestEvaluationOfFewPatients: twelve rows of two patients, spread over the
// cells so that every cell counts both again, are not twelve patients. Counting
// cell by cell, as is right where every patient has one row, would tell them
// apart.
func TestEvaluationOfFewPatients(t *testing.T) {
	const cells, k = 12, 11
	v := make([]float64, evaluateLen(cells))
	for c := range 6 { // two patients, a row each in six cells
		v[c], v[cells+c], v[2*cells+c] = 1, 1, 2
		v[3*cells+c] = 0.1
	}
	v[cells-1], v[2*cells-1], v[3*cells-1] = 10, 10, 20 // and twenty others in the last
	facts := consilium.Facts{MinCohort: k}
	hide := func(string, string) {}
	if e := renderEvaluation(facts, cells, v, false, hide); len(e.Calibration) != 1 || *e.Calibration[0].N != 32 {
		t.Errorf("a stretch of two patients is told: %+v", e.Calibration)
	}
	if e := renderEvaluation(facts, cells, v, true, hide); len(e.Calibration) != 2 {
		t.Errorf("the twin, which adds cells up, does not fall: %+v", e.Calibration)
	}
}
