package provenance

import (
	"slices"
	"testing"
)

func kinds(v *Verified) []FindingKind {
	var out []FindingKind
	for _, f := range v.Findings {
		out = append(out, f.Kind)
	}
	return out
}

func TestRowsToldApart(t *testing.T) {
	h := newHospital(t)
	h.anchor(testRows())
	g := h.gate(nil)
	edit := func(f func([]row) []row) []row { return f(slices.Clone(testRows())) }
	for name, c := range map[string]struct {
		rows  []row
		want  Counts
		kinds []FindingKind
		bad   []int // rows that may not be read
	}{
		"untouched": {rows: testRows(), want: Counts{Verified: 7}},
		"altered value": {rows: edit(func(r []row) []row { r[3].age = 45; return r }),
			want: Counts{Verified: 6, Altered: 1}, kinds: []FindingKind{FindAltered}, bad: []int{3}},
		"altered to null": {rows: edit(func(r []row) []row { r[6].sex = ""; return r }),
			want: Counts{Verified: 6, Altered: 1}, kinds: []FindingKind{FindAltered}, bad: []int{6}},
		"missing in the middle of a patient": {rows: edit(func(r []row) []row { return slices.Delete(r, 1, 2) }),
			want: Counts{Verified: 6, Missing: 1}, kinds: []FindingKind{FindMissing}},
		"missing first": {rows: edit(func(r []row) []row { return r[1:] }),
			want: Counts{Verified: 6, Missing: 1}, kinds: []FindingKind{FindMissing}},
		"added to a known patient": {rows: edit(func(r []row) []row { return slices.Insert(r, 1, row{"p1", 12, "male", true, 999}) }),
			want: Counts{Verified: 7, Added: 1}, kinds: []FindingKind{FindAdded}, bad: []int{1}},
		"added patient": {rows: edit(func(r []row) []row { return append(r, row{"p9", 12, "male", true, 999}) }),
			want: Counts{Verified: 7, Added: 1}, kinds: []FindingKind{FindAdded}, bad: []int{7}},
		"duplicated": {rows: edit(func(r []row) []row { return append(r, r[3]) }),
			want: Counts{Verified: 7, Added: 1}, kinds: []FindingKind{FindAdded}, bad: []int{7}},
		"reordered within a patient": {rows: edit(func(r []row) []row { r[0], r[1] = r[1], r[0]; return r }),
			want: Counts{Verified: 7, Reordered: 1}, kinds: []FindingKind{FindReordered}},
		"first moved to the end": {rows: edit(func(r []row) []row { return append(r[1:], r[0]) }),
			want: Counts{Verified: 7, Reordered: 1}, kinds: []FindingKind{FindReordered}},
		"given to another patient": {rows: edit(func(r []row) []row { r[3].patient = "p4"; return r }),
			want: Counts{Verified: 6, Missing: 1, Added: 1}, kinds: []FindingKind{FindAdded, FindMissing}, bad: []int{3}},
		"altered, missing and added at once": {rows: edit(func(r []row) []row {
			r[3].status = true
			return append(slices.Delete(r, 0, 1), row{"p4", 25.5, "male", false, 401})
		}), want: Counts{Verified: 5, Altered: 1, Missing: 1, Added: 1}, kinds: []FindingKind{FindAltered, FindAdded, FindMissing}, bad: []int{2, 6}},
		"empty": {rows: nil, want: Counts{Missing: 7}, kinds: slices.Repeat([]FindingKind{FindMissing}, 7)},
	} {
		t.Run(name, func(t *testing.T) {
			h := *h
			h.t = t
			v := h.verify(g, record(t, c.rows))
			c.want.Decoys = DefaultMinLeaves - 7
			if v.Counts != c.want {
				t.Errorf("counts %+v, want %+v", v.Counts, c.want)
			}
			if !slices.Equal(kinds(v), c.kinds) {
				t.Errorf("findings %v, want %v", kinds(v), c.kinds)
			}
			for r, ok := range v.Rows[0] {
				if ok == slices.Contains(c.bad, r) {
					t.Errorf("row %d: %v", r, v.Class[0][r])
				}
				if _, leaf := v.Leaf(0, r); leaf != ok {
					t.Errorf("row %d: leaf %v", r, leaf)
				}
			}
		})
	}
}
