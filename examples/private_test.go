package examples_test

import (
	"encoding/binary"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"consilium"
	"consilium/internal/federation"
	"consilium/internal/studyfile"
	"consilium/internal/table"
	"consilium/models"
	"consilium/models/net"
)

// registry is the generated registry, some times as large, as its hospitals hold
// it, with the study of flares under differential privacy.
func registry(t *testing.T, times int) (consilium.Facts, []*models.Rows) {
	t.Helper()
	study, err := os.ReadFile(filepath.Join("learning", "flares-private.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	csv, err := exec.CommandContext(t.Context(), "go", "run", "./learning", strconv.Itoa(times)).Output()
	if err != nil {
		t.Fatal(err)
	}
	file, err := studyfile.ParseWith(study, studyfile.Options{Simulate: true})
	if err != nil {
		t.Fatal(err)
	}
	parts, err := table.Split(csv, "hospital")
	if err != nil {
		t.Fatal(err)
	}
	facts := consilium.Facts{Spec: file.Spec, MinCohort: file.Spec.Privacy.MinCohort}
	var rows []*models.Rows
	for i, p := range parts {
		facts.Sites = append(facts.Sites, p.ID)
		r, err := federation.PlainRows(file.Spec, federation.PlainSite{ID: p.ID, CSV: p.CSV}, consilium.Position(i+1), file.RowPatients)
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, r)
	}
	return facts, rows
}

// TestPrivateCurve prints what privacy costs a network, for the table in
// docs/analyses.md: the AUC on patients that it did not see, over draws of the
// noise, and by how much the AUC that the result tells is off. CONSILIUM_CURVE=all
// takes all of it, minutes; without it the test takes one point.
func TestPrivateCurve(t *testing.T) {
	all := os.Getenv("CONSILIUM_CURVE") == "all"
	epsilons, sizes, draws := []float64{16}, []int{1}, 3
	if all {
		epsilons, sizes, draws = []float64{1, 2, 4, 8, 16, 1e6}, []int{1, 10}, 20
	}
	for _, times := range sizes {
		facts, rows := registry(t, times)
		spec := &facts.Spec.Analyses[0]
		last := 0.0
		for _, epsilon := range epsilons {
			facts.Spec.Privacy.DP.Epsilon = epsilon
			var sum, square, off float64
			told := 0
			for draw := range uint64(draws) {
				for _, r := range rows {
					var b [8]byte
					binary.BigEndian.PutUint64(b[:], draw)
					r.Noise = consilium.DomainNoise.Digest(b[:])
				}
				run, err := net.Simulate(t.Context(), facts, spec, rows)
				if err != nil {
					t.Fatal(err)
				}
				_, holdout, err := net.Evaluate(t.Context(), facts, spec, run.State, rows)
				if err != nil {
					t.Fatal(err)
				}
				area := *holdout.AUC
				sum, square = sum+area, square+area*area
				if said := run.Outcome.Holdout.AUC; said != nil {
					told++
					off += (*said - area) * (*said - area)
				}
			}
			n := float64(draws)
			mean := sum / n
			t.Logf("| %d | %g | %.2f | %.2f | %.2f (%d of %d) |", 900*times, epsilon, mean, math.Sqrt(max(0, square/n-mean*mean)), math.Sqrt(off/float64(max(told, 1))), told, draws)
			if epsilon >= 16 && mean < 0.7 || all && mean < last-0.05 {
				t.Errorf("%d patients, epsilon %g: an AUC of %.3f, with less budget %.3f", 900*times, epsilon, mean, last)
			}
			last = mean
		}
	}
}
