package worker

import (
	"encoding/json"
	"slices"
	"strings"

	"consilium"
)

// lineage is what a study's sums are about, as far as a hospital can tell:
// over which rows, and of which columns. Two sums about the same rows and a
// common column, over contributor sets that differ by few hospitals, give those
// hospitals' own sums of that column as their difference.
//
// The same rows are the same text of the cohort, or the same rows of this
// hospital's table whatever the text: a cohort that is spelled otherwise selects
// the same rows here. A cohort that differs by few patients is the vault's to
// refuse, which compares them. Columns count however they are used: as response,
// covariate, stratum, group, or inside a derived column.
type lineage struct {
	Cohort  consilium.Digest `json:"cohort"` // of dataset and cohort expression
	Rows    consilium.Digest `json:"rows"`   // of this hospital's rows, salted with its secret; zero if it had none in the sum
	Columns []string         `json:"columns"`
}

func lineageOf(spec *consilium.Spec) lineage {
	cohort := strings.Join(strings.Fields(spec.Cohort), " ")
	return lineage{
		Cohort:  consilium.DomainLineage.Digest([]byte(spec.Data.Dataset), []byte(cohort)),
		Columns: usedColumns(spec),
	}
}

// usedColumns lists the declared columns that any analysis names, ascending.
// It looks at identifiers and not at what an analysis makes of them, so a new
// type of analysis cannot escape it; a name too many only refuses more.
func usedColumns(spec *consilium.Spec) []string {
	b, err := json.Marshal(spec.Analyses)
	if err != nil {
		panic("worker: a parsed specification encodes: " + err.Error())
	}
	used := map[string]bool{}
	names := identifiers(string(b), map[string]bool{})
	for again := true; again; { // derived columns may use derived ones
		again = false
		for _, d := range spec.Derive {
			if names[d.Name] && !used[d.Name] {
				used[d.Name] = true
				identifiers(d.Expr, names)
				again = true
			}
		}
	}
	var out []string
	for _, c := range spec.Columns {
		if names[c.Name] {
			out = append(out, c.Name)
		}
	}
	slices.Sort(out)
	return out
}

// identifiers adds the names in a text to a set. A name may hold dots; its
// parts count as well.
func identifiers(text string, into map[string]bool) map[string]bool {
	for _, word := range strings.FieldsFunc(text, func(r rune) bool {
		return !(r == '_' || r == '.' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z')
	}) {
		into[word] = true
		for _, part := range strings.Split(word, ".") {
			into[part] = true
		}
	}
	return into
}

// meets reports whether two lineages have rows and a column in common. Where
// no column is known everything is common.
func (l lineage) meets(o lineage) bool {
	sameRows := l.Cohort == o.Cohort || !l.Rows.IsZero() && l.Rows == o.Rows
	if !sameRows {
		return false
	}
	if len(l.Columns) == 0 || len(o.Columns) == 0 {
		return true
	}
	return slices.ContainsFunc(l.Columns, func(c string) bool { return slices.Contains(o.Columns, c) })
}

func (l lineage) equal(o lineage) bool {
	return l.Cohort == o.Cohort && l.Rows == o.Rows && slices.Equal(l.Columns, o.Columns)
}

// lineage is the study's, with the rows of this hospital once it has computed
// its first vector.
func (a *actor) lineage() lineage {
	l := lineageOf(a.rep.spec)
	if r := a.rep.round; r != nil {
		if v, ok := a.gate.journal.vectorOf(a.study, r.opened.Round); ok {
			l.Rows = v.Rows
		}
	}
	return l
}

// checkLineage refuses a contributor set that differs from an opened one of
// a related lineage by at least one and fewer than f + 2 hospitals.
func (a *actor) checkLineage(sites []consilium.SiteID) error {
	if a.rep.spec.Privacy.DP != nil {
		return nil
	}
	for _, o := range a.gate.journal.sums(a.lineage(), a.study) {
		d := difference(sites, o.Sites)
		faults := o.Faults
		if c := a.rep.draft; c != nil {
			faults = max(faults, c.Faults)
		}
		if d > 0 && d < faults+2 {
			return consilium.ErrOverlap.Withf("the hospitals differ by %d from those of study %s, which opened sums of the same rows: the difference would be their own sums; at least %d must differ", d, o.Study, faults+2)
		}
	}
	return nil
}

// rememberSum enters an opened contributor set into the hospital's ledger of
// opened sums.
func (a *actor) rememberSum(u *consilium.Contributors) error {
	return a.gate.journal.setOpened(openedSum{Study: a.study, Lineage: a.lineage(), Faults: a.rep.charter.Faults, Sites: memberSites(a.rep.charter, u.Positions())})
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
