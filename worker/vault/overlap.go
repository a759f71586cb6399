package vault

import (
	"context"
	"encoding/json"
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
		why = d.Err()
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
// of earlier studies of the same question.
func (v *Vault) priors(st *study) []policy.Prior {
	out := []policy.Prior{}
	if st.cohort == nil {
		return out
	}
	mine := map[policy.Member]bool{}
	for _, p := range st.cohort.Patients {
		mine[p] = true
	}
	for _, c := range v.book.others(st.id) {
		if c.Question != st.cohort.Question {
			continue
		}
		common := 0
		for _, p := range c.Patients {
			if mine[p] {
				common++
			}
		}
		out = append(out, policy.Prior{Difference: int64(len(c.Patients) + len(mine) - 2*common)})
	}
	return out
}

// smallestCell is the smallest count above 0 that a result publishes about
// patients: cells of tables, level counts, and numbers at risk on a curve. What
// models masked is not there any more; what the board permitted by name does not
// count.
func smallestCell(doc []byte, facts consilium.Facts) int64 {
	var v any
	if json.Unmarshal(doc, &v) != nil {
		return 0 // not a document: the smallest there is
	}
	least := policy.Never
	counts := map[string]bool{"counts": !facts.Permitted("small-cells"), "n_risk": !facts.Permitted("km-tail")}
	var walk func(v any, counting bool)
	walk = func(v any, counting bool) {
		switch x := v.(type) {
		case map[string]any:
			for k, sub := range x {
				walk(sub, counts[k])
			}
		case []any:
			for _, sub := range x {
				walk(sub, counting)
			}
		case float64:
			if counting && x > 0 && int64(x) < least {
				least = int64(x)
			}
		}
	}
	walk(v, false)
	return least
}
