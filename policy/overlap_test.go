package policy

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"consilium"
)

func members(from, to int) []Member {
	var out []Member
	for i := from; i < to; i++ {
		out = append(out, Member{byte(i), byte(i >> 8), 1})
	}
	return out
}

func TestOverlap(t *testing.T) {
	asked := consilium.DomainSpec.Digest([]byte("q"))
	first := OpenedCohort{Study: "s1", Question: asked, Columns: []string{"treat", "age"}, Patients: members(0, 100)}
	for _, c := range []struct {
		name    string
		next    OpenedCohort
		k       int
		permits []string
		dp      bool
		refused bool
	}{
		{"the same cohort again", OpenedCohort{Columns: first.Columns, Patients: members(0, 100)}, 11, nil, false, false},
		{"one patient withdrawn", OpenedCohort{Columns: first.Columns, Patients: members(1, 100)}, 11, nil, false, true},
		{"one patient more", OpenedCohort{Columns: first.Columns, Patients: members(0, 101)}, 11, nil, false, true},
		{"one patient exchanged", OpenedCohort{Columns: first.Columns, Patients: members(1, 101)}, 11, nil, false, true},
		{"ten fewer", OpenedCohort{Columns: first.Columns, Patients: members(10, 100)}, 11, nil, false, true},
		{"eleven fewer", OpenedCohort{Columns: first.Columns, Patients: members(11, 100)}, 11, nil, false, false},
		{"five fewer and five others", OpenedCohort{Columns: first.Columns, Patients: members(5, 105)}, 11, nil, false, true},
		{"six fewer and six others", OpenedCohort{Columns: first.Columns, Patients: members(6, 106)}, 11, nil, false, false},
		{"one shared column", OpenedCohort{Columns: []string{"age", "sex"}, Patients: members(1, 100)}, 11, nil, false, true},
		{"other columns", OpenedCohort{Columns: []string{"height", "sex"}, Patients: members(1, 100)}, 11, nil, false, false},
		{"columns unknown", OpenedCohort{Patients: members(1, 100)}, 11, nil, false, true},
		{"permitted", OpenedCohort{Columns: first.Columns, Patients: members(1, 100)}, 11, []string{"km-tail", PermitRepeat}, false, false},
		{"another permit", OpenedCohort{Columns: first.Columns, Patients: members(1, 100)}, 11, []string{"km-tail"}, false, true},
		{"noise", OpenedCohort{Columns: first.Columns, Patients: members(1, 100)}, 11, nil, true, false},
		{"k of 1", OpenedCohort{Columns: first.Columns, Patients: members(1, 100)}, 1, nil, false, false},
		{"no k", OpenedCohort{Columns: first.Columns, Patients: members(0, 100)}, 0, nil, false, true},
		{"repeated entries count once", OpenedCohort{Columns: first.Columns, Patients: append(members(1, 100), members(1, 20)...)}, 11, nil, false, true},
	} {
		err := Overlap([]OpenedCohort{{Study: "s0", Columns: []string{"treat"}, Patients: members(500, 600)}, first}, c.next, c.k, c.permits, c.dp)
		if (err != nil) != c.refused || err != nil && !errors.Is(err, consilium.ErrOverlap) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if err := Overlap(nil, first, 11, nil, false); err != nil {
		t.Errorf("a first cohort: %v", err)
	}
}

// TestOverlapTwin: what the rule prevents. Without it, the difference of the
// first sums of two openings is the withdrawn patient's row.
func TestOverlapTwin(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	rows := make([][3]int, 100)
	for i := range rows {
		rows[i] = [3]int{rng.IntN(2), rng.IntN(90), rng.IntN(2)}
	}
	sum := func(rows [][3]int) (out [3]int) {
		for _, r := range rows {
			for j, v := range r {
				out[j] += v
			}
		}
		return out
	}
	all, without := sum(rows), sum(rows[1:])
	var stolen [3]int
	for j := range stolen {
		stolen[j] = all[j] - without[j]
	}
	if stolen != rows[0] {
		t.Fatal("the naive twin does not give the patient away: the attack shows nothing")
	}
	cols := []string{"treat", "age", "steroids"}
	if err := Overlap([]OpenedCohort{{Study: "s", Columns: cols, Patients: members(0, 100)}}, OpenedCohort{Columns: cols, Patients: members(1, 100)}, 11, nil, false); err == nil {
		t.Error("the second opening is allowed")
	}
}

// TestCohortDecision: the site's decision refuses exactly what Overlap refuses,
// with a code and an article, and its record is a line of the decision log that
// shows no number of patients.
func TestCohortDecision(t *testing.T) {
	e := demoEngine(t)
	in := testInput(t, "amsterdam", nil)
	old := []OpenedCohort{{Study: "s", Columns: []string{"a"}, Patients: members(0, 100)}, {Study: "other", Columns: []string{"b"}, Patients: members(0, 99)}}
	for _, gone := range []int{0, 1, 10, 11, 50} {
		next := OpenedCohort{Columns: []string{"a"}, Patients: members(gone, 100)}
		q := in
		q.Cohort = &CohortFacts{Differences: Differences(old, next)}
		if len(q.Cohort.Differences) != 1 || q.Cohort.Differences[0] != int64(gone) {
			t.Fatalf("%d gone: differences %v", gone, q.Cohort.Differences)
		}
		d, err := e.Decide(t.Context(), PointSite, q)
		if err != nil {
			t.Fatal(err)
		}
		refused := Overlap(old, next, d.MinCohort, d.Permits, false) != nil
		if d.Allow == refused || refused && (len(d.Reasons) != 1 || d.Reasons[0].Code != "COHORT_OVERLAP" || d.Reasons[0].Article == "") {
			t.Errorf("%d gone: allow %v, Overlap refuses: %v: %v", gone, d.Allow, refused, d.Reasons)
		}
		a, err := OpenAudit(filepath.Join(t.TempDir(), "log"), auditKey)
		if err != nil {
			t.Fatal(err)
		}
		rec, err := a.Append(AuditEntry{Time: q.Now, Node: "amsterdam", Point: PointSite, Input: q, Decision: d})
		if err != nil || rec.Decision.Has("COHORT_OVERLAP") != refused || bytes.Contains(rec.InputMasked, []byte("differences")) {
			t.Errorf("%d gone: %v, record %s", gone, err, rec.InputMasked)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		enc, err := q.Encode(PointSite)
		if err != nil {
			t.Fatal(err)
		}
		if p, back, err := ParseQuestion(enc); err != nil || p != PointSite || back.Cohort == nil {
			t.Errorf("%d gone: the question does not come back: %v", gone, err)
		}
	}
}
