package vault

import (
	"context"
	"slices"

	"consilium"
	"consilium/internal/canon"
	"consilium/policy"
)

// openedCohort is a study's cohort at this hospital as the overlap rule
// compares it.
func (v *Vault) openedCohort(st *study, u *usable) *openedCohort {
	return &openedCohort{
		OpenedCohort: policy.OpenedCohort{Study: st.id, Question: questionOf(st.spec), Columns: policy.UsedColumns(st.spec), Patients: u.patients},
		Dataset:      st.spec.Data.Dataset, Contents: u.contents, About: st.about(),
	}
}

// questionOf names what a study asks, apart from its name, seed and numbers of
// rounds: two studies of one question open the same sums.
func questionOf(spec *consilium.Spec) consilium.Digest {
	b, err := canon.Marshal(map[string]any{"dataset": spec.Data.Dataset, "cohort": spec.Cohort, "derive": spec.Derive, "analyses": spec.Analyses})
	if err != nil {
		panic("vault: a parsed specification encodes: " + err.Error())
	}
	return consilium.DomainLineage.Digest(b)
}

// decideCohort asks the site's rules once more, now with the cohort that came of
// reading the rows beside those that this hospital has helped to open, and records
// the answer before any row is used: the difference of two sums over nearly the
// same patients would be the few patients' values.
//
// The second return is what refuses, or nil. An overlap keeps its own sentinel,
// which names the earlier study for this hospital's log alone.
func (v *Vault) decideCohort(ctx context.Context, st *study, next *openedCohort) (policy.Decision, error, error) {
	var who, rows []policy.OpenedCohort
	for _, c := range v.book.others(st.id) {
		who = append(who, c.OpenedCohort)
		if c.Dataset == next.Dataset {
			c.OpenedCohort.Patients = c.Contents
			rows = append(rows, c.OpenedCohort)
		}
	}
	same := next.OpenedCohort
	same.Patients = next.Contents
	in, err := v.question(st)
	if err != nil {
		return policy.Decision{}, nil, err
	}
	in.Site = v.cfg.Facts
	in.Cohort = &policy.CohortFacts{Differences: append(policy.Differences(who, next.OpenedCohort), policy.Differences(rows, same)...)}
	slices.Sort(in.Cohort.Differences)
	in.Cohort.Differences = slices.Compact(in.Cohort.Differences)
	d, err := v.decide(ctx, st, policy.PointSite, in)
	if err != nil {
		return policy.Decision{}, nil, err
	}
	// The rule as code, with the k that all hospitals of the study share: should
	// the two ever differ, the stricter one holds.
	dp := st.spec.Privacy.DP != nil
	why := policy.Overlap(who, next.OpenedCohort, st.k(), st.permits(), dp)
	if why == nil {
		why = policy.Overlap(rows, same, st.k(), st.permits(), dp)
	}
	if why == nil {
		return d, d.Err(), nil
	}
	if d.Allow {
		// The rule as written lets it pass: the log holds what was done.
		d.Allow, d.Reasons = false, []policy.Reason{{Code: "COHORT_OVERLAP", Message: "the cohort differs from an earlier one by too few patients, by the comparison in code",
			Kind: policy.Policy, Regime: "ENGINE"}}
		if err := v.recordDecision(st, policy.AuditEntry{Point: policy.PointSite, Input: in, Decision: d}); err != nil {
			return policy.Decision{}, nil, err
		}
	}
	return d, why, nil
}

func (st *study) k() int {
	if st.decided != nil {
		return max(st.decided.MinCohort, st.spec.Privacy.MinCohort)
	}
	return max(st.facts.MinCohort, st.spec.Privacy.MinCohort)
}

func (st *study) permits() []string {
	if st.decided != nil {
		return st.decided.Permits
	}
	return st.facts.Permits
}

// priors lists by how many patients this hospital's cohort differs from those
// of earlier studies of the same question. The cohort is the one that the book
// holds of this study since before its first opening: the vault may have started
// again since then, and a contributor without a cohort is an error.
func (v *Vault) priors(st *study, contributors []consilium.Position) ([]policy.Prior, error) {
	out := []policy.Prior{}
	mine, ok := v.book.of(st.id)
	switch {
	case ok:
	case st.given != nil:
		mine = st.given.Cohort
	case slices.Contains(contributors, st.position):
		return nil, consilium.ErrInvalid.Withf("%s contributed to the study and its book of opened cohorts does not hold it: restore the vault's directory; nothing is released until then", v.cfg.Site)
	default:
		return out, nil
	}
	in := map[policy.Member]bool{}
	for _, p := range mine.Patients {
		in[p] = true
	}
	for _, c := range v.book.others(st.id) {
		if c.Question != mine.Question {
			continue
		}
		common := 0
		for _, p := range c.Patients {
			if in[p] {
				common++
			}
		}
		out = append(out, policy.Prior{Difference: int64(len(c.Patients) + len(in) - 2*common)})
	}
	return out, nil
}
