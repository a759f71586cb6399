package worker

import (
	"slices"

	"consilium"
	"consilium/internal/canon"
)

// lineages names what kinds of sums a study opens: two sums of one lineage,
// over contributor sets that differ by few hospitals, give those hospitals'
// own sums as their difference. A lineage is the table, the cohort and one
// analysis's type and response: changing a covariate, a name or a seed does not
// leave it. Learned models under differential privacy have none.
func lineages(spec *consilium.Spec) ([]consilium.Digest, error) {
	var out []consilium.Digest
	for i := range spec.Analyses {
		an := &spec.Analyses[i]
		// Every described variable has sums of its own: one more on the list
		// does not make them others.
		variables := an.Variables
		if len(variables) == 0 {
			variables = []string{""}
		}
		for _, v := range variables {
			b, err := canon.Marshal(map[string]any{
				"dataset": spec.Data.Dataset, "cohort": spec.Cohort, "type": an.Type, "response": an.Response,
				"rows": an.Rows, "columns": an.Columns, "variable": v, "by": an.By,
			})
			if err != nil {
				return nil, err
			}
			out = append(out, consilium.DomainLineage.Digest(b))
		}
	}
	return out, nil
}

// checkLineage refuses a contributor set that differs from an opened one of
// the same lineage by at least one and fewer than f + 2 hospitals.
func (a *actor) checkLineage(sites []consilium.SiteID) error {
	if a.rep.spec.Privacy.DP != nil {
		return nil
	}
	lines, err := lineages(a.rep.spec)
	if err != nil {
		return err
	}
	for _, l := range lines {
		for _, o := range a.gate.journal.sums(l, a.study) {
			d := difference(sites, o.Sites)
			faults := o.Faults
			if c := a.rep.draft; c != nil {
				faults = max(faults, c.Faults)
			}
			if d > 0 && d < faults+2 {
				return consilium.ErrOverlap.Withf("the hospitals differ by %d from those of study %s, which opened the same sums: the difference would be their own sums; at least %d must differ", d, o.Study, faults+2)
			}
		}
	}
	return nil
}

// rememberSum enters an opened contributor set into the hospital's ledger of
// opened sums.
func (a *actor) rememberSum(u *consilium.Contributors) error {
	lines, err := lineages(a.rep.spec)
	if err != nil {
		return err
	}
	for _, l := range lines {
		if err := a.gate.journal.setOpened(openedSum{Study: a.study, Lineage: l, Faults: a.rep.charter.Faults, Sites: memberSites(a.rep.charter, u.Positions())}); err != nil {
			return err
		}
	}
	return nil
}

// difference is the size of the symmetric difference.
func difference(a, b []consilium.SiteID) int {
	n := 0
	for _, s := range a {
		if !slices.Contains(b, s) {
			n++
		}
	}
	for _, s := range b {
		if !slices.Contains(a, s) {
			n++
		}
	}
	return n
}
