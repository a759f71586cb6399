package vault

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"consilium"
	"consilium/internal/hatch"
	"consilium/internal/table"
	"consilium/policy"
)

// TestSmallestCell plants a count of three in each place where a result can
// publish one.
func TestSmallestCell(t *testing.T) {
	facts := consilium.Facts{Spec: &consilium.Spec{}, MinCohort: 11}
	with := func(permits ...string) consilium.Facts {
		f := facts
		f.Permits = permits
		return f
	}
	group := func(inside string) string {
		return `{"variables": [{"name": "inherit", "groups": [{"name": "all", "levels": {}, ` + inside + `}]}]}`
	}
	for _, c := range []struct {
		name  string
		doc   string
		facts consilium.Facts
		want  int64
	}{
		{"a level", group(`"n": 60, "counts": [{"level": "A", "count": 57}, {"level": "B", "count": 3}]`), facts, 3},
		{"a level, permitted", group(`"n": 60, "counts": [{"level": "B", "count": 3}]`), with("small-cells"), policy.Never},
		{"a masked level", group(`"n": 60, "counts": [{"level": "A", "count": 57}, {"level": "B", "count": null}]`), facts, 57},
		{"a cell of a histogram", group(`"n": 60, "histogram": {"breaks": [1, 2], "counts": [3], "below": 20, "above": 20}`), facts, 3},
		{"below a histogram", group(`"n": 60, "histogram": {"breaks": [1, 2], "counts": [20], "below": 3, "above": 20}`), facts, 3},
		{"above a histogram", group(`"n": 60, "histogram": {"breaks": [1, 2], "counts": [20], "below": 20, "above": 3}`), facts, 3},
		{"missing values", group(`"n": 60, "missing": 3`), facts, 3},
		{"a small group", group(`"n": 3`), facts, 3},
		{"a table", `{"counts": [[20, 30], [3, null]]}`, facts, 3},
		{"a table of one analysis among several", `{"analyses": [{"patients": 60}, {"counts": [[3]]}]}`, facts, 3},
		{"an object inside of counts", `{"counts": {"A": {"of": [3]}}}`, facts, 3},
		{"the tail of a curve", `{"groups": [{"n": 60, "curve": {"n_risk": [60, 3]}}]}`, facts, 3},
		{"the tail of a curve, permitted", `{"groups": [{"n": 3, "curve": {"n_risk": [3, 3]}}]}`, with("km-tail"), policy.Never},
		{"a group of a test under another's permit", `{"groups": [{"n": 3, "observed": 1}]}`, with("km-tail"), 3},
		{"a fraction", `{"counts": [[0.5]]}`, facts, 0},
		{"nothing", `{"coef": 3, "excluded_rows": {"missing": 3}, "dp": {"noise_sd": {"counts": 3}}}`, facts, policy.Never},
		{"no document", `{"counts": [[3]`, facts, 0},
	} {
		if got := smallestCell([]byte(c.doc), c.facts); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// TestPublished: whoever adds a field with small whole numbers to a result must
// say here, or in published, whether they count patients.
func TestPublished(t *testing.T) {
	// What stands there, and why it may be small.
	known := map[string]string{
		"n_event": "of a curve: ruled by n_risk", "n_censor": "of a curve: ruled by n_risk", "events": "opened by every study in its first round",
		"df": "degrees of freedom", "iterations": "", "dispersion": "", "lower": "limits and bounds", "upper": "", "surv": "a share", "breaks": "from the study file",
		"inputs": "of a network", "units": "", "clip": "", "localEpochs": "", "serverRate": "",
	}
	b, err := os.ReadFile("../../internal/report/testdata/result.json")
	if err != nil {
		t.Fatal(err)
	}
	var doc any
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	met := map[string]bool{}
	var walk func(v any, key string, inside []string)
	walk = func(v any, key string, inside []string) {
		switch x := v.(type) {
		case map[string]any:
			for k, sub := range x {
				walk(sub, k, append(slices.Clone(inside), k))
			}
		case []any:
			for _, sub := range x {
				walk(sub, key, inside)
			}
		case float64:
			if x < 1 || x > 10 || x != float64(int64(x)) {
				return
			}
			met[key] = true
			if slices.ContainsFunc(inside, func(k string) bool { return published[k] != "" || notPublished[k] }) {
				return
			}
			if _, ok := known[key]; !ok {
				t.Errorf("%s holds %v: does it count patients?", strings.Join(inside, "."), x)
			}
		}
	}
	walk(doc.(map[string]any)["result"], "result", nil)
	if !met["n_risk"] || !met["df"] {
		t.Error("the sample holds no small numbers: the test shows nothing")
	}
}

// TestReleaseFacts: what the rules about a release are told, at a vault that has
// started again since its last round.
func TestReleaseFacts(t *testing.T) {
	dir := t.TempDir()
	book, err := openCohortBook(filepath.Join(dir, "cohorts"))
	if err != nil {
		t.Fatal(err)
	}
	budget, err := openBudgetBook(filepath.Join(dir, "budget"))
	if err != nil {
		t.Fatal(err)
	}
	id := func(s string) consilium.StudyID {
		return consilium.NewStudyID(consilium.DomainSpec.Digest([]byte(s)))
	}
	people := func(n int) (out []policy.Member) {
		for i := range n {
			m := consilium.DomainCohort.Digest(fmt.Appendf(nil, "%d", i))
			out = append(out, policy.Member(m[:]))
		}
		return out
	}
	question := consilium.DomainLineage.Digest([]byte("q"))
	opened := func(study string, n int) openedCohort {
		return openedCohort{OpenedCohort: policy.OpenedCohort{Study: id(study), Question: question, Patients: people(n)}, Dataset: "cgd"}
	}
	spec := &consilium.Spec{Data: consilium.DataRef{Dataset: "cgd"}}
	st := &study{id: id("now"), spec: spec, facts: consilium.Facts{Spec: spec, MinCohort: 11}, position: 2,
		submission: &consilium.Submission{SpecBytes: []byte(`{"levels": ["a"]}`)},
		charter:    &consilium.Charter{Members: []consilium.Member{{Site: "harvard"}, {Site: "zurich"}, {Site: "utah"}}}}
	v := &Vault{cfg: Config{Site: "zurich", Budget: &Budget{Epsilon: 1.6, Delta: 1e-6}, Log: slog.New(slog.DiscardHandler)}, book: book, budget: budget,
		tables: map[string]*dataset{"cgd": {rows: &table.Table{IDs: []string{"p-1", "p-2"}}}}}
	doc := []byte(`{"patients": 30, "counts": [[12]], "sites": {"contributors": ["harvard", "zurich"]}}`)
	all := []consilium.Position{1, 2, 3}

	if err := book.add(opened("before", 30)); err != nil {
		t.Fatal(err)
	}
	if _, err := v.releaseFacts(st, doc, all); err == nil {
		t.Error("a contributor whose book holds no cohort of the study can say that nothing was opened before")
	}
	if f, err := v.releaseFacts(st, doc, []consilium.Position{1, 3}); err != nil || len(f.Prior) != 0 {
		t.Errorf("a hospital that did not contribute: %+v, %v", f, err)
	}
	if err := book.add(opened("now", 29)); err != nil {
		t.Fatal(err)
	}
	f, err := v.releaseFacts(st, doc, all)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(f.Prior, []policy.Prior{{Difference: 1}}) {
		t.Errorf("after a restart the difference of one patient is not seen: %+v", f.Prior)
	}
	if f.Patients != 30 || f.SmallestCell != 12 || f.ContainsRecords || f.DP || f.EpsilonBudgetMicro != 0 {
		t.Errorf("facts %+v", f)
	}

	// A sum of one hospital is that hospital's own figure, and a result names
	// hospitals nowhere but in its list.
	if f, err := v.releaseFacts(st, doc, all[1:2]); err != nil || !f.ContainsRecords {
		t.Errorf("one contributor: %+v, %v", f, err)
	}
	if f, err := v.releaseFacts(st, []byte(`{"patients": 30, "terms": [{"name": "utah"}]}`), all); err != nil || !f.ContainsRecords {
		t.Errorf("a hospital's own figure: %+v, %v", f, err)
	}
	st.submission.SpecBytes = []byte(`{"levels": ["utah"]}`)
	if f, err := v.releaseFacts(st, []byte(`{"patients": 30, "terms": [{"name": "utah"}]}`), all); err != nil || f.ContainsRecords {
		t.Errorf("a level that the study file declares: %+v, %v", f, err)
	}

	// A patient's number; and a table that nobody can look into any more.
	if f, err := v.releaseFacts(st, []byte(`{"patients": 30, "terms": [{"name": "p-2"}]}`), all); err != nil || !f.ContainsRecords {
		t.Errorf("a patient's number: %+v, %v", f, err)
	}
	tables := v.tables
	v.tables = map[string]*dataset{}
	if f, err := v.releaseFacts(st, doc, all); err != nil || !f.ContainsRecords {
		t.Errorf("a table that is gone: %+v, %v", f, err)
	}
	v.tables = tables

	// The budget: what was spent, rounded against the asker.
	spec.Privacy.DP = &consilium.DP{Epsilon: 1, Delta: 1e-6, Clip: 1}
	d := oneDebit(t, "now", 1)
	if err := budget.spend(d, nil, *v.cfg.Budget); err != nil {
		t.Fatal(err)
	}
	if f, err = v.releaseFacts(st, doc, all); err != nil || !f.DP || f.EpsilonBudgetMicro != 1_600_000 || f.EpsilonSpentMicro < 900_000 || f.EpsilonSpentMicro > 1_000_001 {
		t.Errorf("facts %+v, %v", f, err)
	}
	v.cfg.Budget.Epsilon = 0.5 // the hospital has lowered it since
	if f, err = v.releaseFacts(st, doc, all); err != nil || f.EpsilonSpentMicro <= f.EpsilonBudgetMicro {
		t.Errorf("a budget that is spent: %+v, %v", f, err)
	}
	v.cfg.Budget.Epsilon = 1e300
	if _, err = v.releaseFacts(st, doc, all); err == nil {
		t.Error("a budget that does not fit its millionths passes")
	}
}

// TestReleaseAfterRestart: a vault that has started since the last round closed,
// and has read no row, looks for its patients' numbers in the result all the same.
// One of them is a word of the document here. The same hospital without that
// patient releases.
func TestReleaseAfterRestart(t *testing.T) {
	for name, c := range map[string]struct {
		rows  [][2]string
		allow bool
	}{
		"no number is a word": {someAges(24), true},
		"a number is a word":  {append(someAges(23), [2]string{"mean", "66"}), false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHospital(t, c.rows, nil)
			v := h.open()
			s := h.start(v)
			round := uint32(1)
			for ; !s.Done; round++ {
				s = h.round(v, round, s.State)
			}
			release := func(v *Vault) hatch.ReleaseReply {
				t.Helper()
				r, err := v.Release(t.Context(), hatch.ReleaseRequest{Study: h.study, Contributors: everyone(), Rounds: round - 1})
				if err != nil {
					t.Fatal(err)
				}
				return r
			}
			before := release(v)
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
			v = h.open()
			h.start(v)
			if _, err := v.Adopt(t.Context(), hatch.AdoptRequest{Study: h.study, Round: round - 1, State: s.State}); err != nil {
				t.Fatal(err)
			}
			for when, r := range map[string]hatch.ReleaseReply{"before": before, "after": release(v)} {
				if r.Allow != c.allow || !c.allow && !strings.Contains(r.Code, "ANONYMOUS") {
					t.Errorf("%s the restart: allowed %v, %s %s", when, r.Allow, r.Code, r.Reason)
				}
			}
		})
	}
}
