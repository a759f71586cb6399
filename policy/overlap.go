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
	mine := make(map[Member]bool, len(next.Patients))
	for _, p := range next.Patients {
		mine[p] = true
	}
	for i := range ledger {
		old := &ledger[i]
		// A cohort whose columns are not known may share every column.
		if len(old.Columns) > 0 && len(next.Columns) > 0 &&
			!slices.ContainsFunc(old.Columns, func(c string) bool { return slices.Contains(next.Columns, c) }) {
			continue
		}
		theirs := make(map[Member]bool, len(old.Patients))
		common := 0
		for _, p := range old.Patients {
			if !theirs[p] && mine[p] {
				common++
			}
			theirs[p] = true
		}
		if d := len(mine) + len(theirs) - 2*common; d > 0 && d < k {
			e := consilium.ErrOverlap.Withf("study %s opened nearly the same patients over some of the same columns; the difference would show the few by whom they differ", old.Study)
			e.Next = "wait until the cohorts differ by more, ask about other columns, use differential privacy, or ask the board for the permit " + PermitRepeat
			return e
		}
	}
	return nil
}
