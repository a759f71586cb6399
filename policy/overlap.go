package policy

import (
	"slices"

	"consilium"
)

// Member is a patient of an opened cohort: the site's own salted pseudonym.
type Member [16]byte

// OpenedCohort is what a hospital remembers of every cohort that it has
// opened.
type OpenedCohort struct {
	Study    consilium.StudyID `json:"study"`
	Question consilium.Digest  `json:"question"` // what was asked, without names
	Columns  []string          `json:"columns"`  // read by the question, the patient id apart
	Patients []Member          `json:"patients"` // any order
}

// PermitRepeat is the permit by which a board accepts cohorts that differ by
// few patients.
const PermitRepeat = "repeat-cohort"

// Overlap refuses, before round 1, a cohort that differs by 1 to k-1 patients
// from an earlier one over some of the same columns: sums are exact, so the
// difference of the two openings is the sum over those few patients, and with
// one patient it is that patient's values.
//
// The same cohort again tells nothing new and is allowed, and so is one that
// differs by k or more. Noise (dp) and the board's permit repeat-cohort lift the
// rule. The error matches consilium.ErrOverlap and names neither number nor
// patients.
//
// It compares cohorts in pairs. Three cohorts of which no two are close can
// still single out a patient by inclusion and exclusion; only noise or the
// board's count of releases protect against that.
func Overlap(ledger []OpenedCohort, next OpenedCohort, k int, permits []string, dp bool) error {
	if k < 1 {
		return consilium.ErrOverlap.Withf("k is %d: a cohort cannot be compared", k)
	}
	if dp || slices.Contains(permits, PermitRepeat) {
		return nil
	}
	for i := range ledger {
		if d, ok := difference(&ledger[i], &next); ok && d > 0 && d < int64(k) {
			e := consilium.ErrOverlap.Withf("study %s opened nearly the same patients over some of the same columns; the difference would show the few by whom they differ", ledger[i].Study)
			e.Next = "wait until the cohorts differ by more, ask about other columns, use differential privacy, or ask the board for the permit " + PermitRepeat
			return e
		}
	}
	return nil
}

// Differences is by how many patients next differs from each cohort of the
// ledger that it shares a column with, ascending and each number once: what a
// hospital's decision is asked about (CohortFacts).
func Differences(ledger []OpenedCohort, next OpenedCohort) []int64 {
	var out []int64
	for i := range ledger {
		if d, ok := difference(&ledger[i], &next); ok {
			out = append(out, d)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// difference counts the patients in one of two cohorts and not in the other.
// A cohort whose columns are not known may share every column; two without a
// common column are not compared.
func difference(a, b *OpenedCohort) (int64, bool) {
	if len(a.Columns) > 0 && len(b.Columns) > 0 &&
		!slices.ContainsFunc(a.Columns, func(c string) bool { return slices.Contains(b.Columns, c) }) {
		return 0, false
	}
	in := make(map[Member]uint8, len(a.Patients))
	for _, p := range a.Patients {
		in[p] |= 1
	}
	for _, p := range b.Patients {
		in[p] |= 2
	}
	d := int64(0)
	for _, who := range in {
		if who != 3 {
			d++
		}
	}
	return d, true
}
