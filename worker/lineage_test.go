package worker

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"testing"
	"time"

	"consilium"
	"consilium/internal/durable"
)

func question(cohort string, a consilium.AnalysisSpec) *consilium.Spec {
	var columns []consilium.Column
	for _, name := range []string{"id", "age", "treat", "status", "time", "weight", "height", "bmi.class"} {
		columns = append(columns, consilium.Column{Name: name, Type: consilium.TypeNumber})
	}
	a.Name = "main"
	return &consilium.Spec{Data: consilium.DataRef{Dataset: "cgd", Patient: "id"}, Cohort: cohort, Columns: columns,
		Derive: []consilium.Derived{{Name: "bmi", Expr: "weight / (height/100)^2"}, {Name: "fat", Expr: "bmi > 30"}}, Analyses: []consilium.AnalysisSpec{a}}
}

// asText is the naive twin: the lineage as the text of cohort, type and
// response.
func asText(s *consilium.Spec) string {
	b, _ := json.Marshal([]any{s.Data.Dataset, s.Cohort, s.Analyses[0].Type, s.Analyses[0].Response, s.Analyses[0].Rows, s.Analyses[0].Columns, s.Analyses[0].Variables})
	return string(b)
}

// TestLineage: what opens sums of the same rows and a common column is
// related, however it is spelled; the twin takes every one of these for
// another question.
func TestLineage(t *testing.T) {
	first := question("age >= 18", consilium.AnalysisSpec{Type: consilium.AnalysisCrosstab, Rows: "treat", Columns: "status"})
	for name, second := range map[string]*consilium.Spec{
		"rows and columns swapped":      question("age >= 18", consilium.AnalysisSpec{Type: consilium.AnalysisCrosstab, Rows: "status", Columns: "treat"}),
		"another type":                  question("age >= 18", consilium.AnalysisSpec{Type: consilium.AnalysisGLM, Response: &consilium.Response{Column: "status"}, Terms: []string{"age"}}),
		"a covariate":                   question("age >= 18", consilium.AnalysisSpec{Type: consilium.AnalysisGLM, Response: &consilium.Response{Column: "time"}, Terms: []string{"log(age)", "age:treat"}}),
		"blanks in the cohort":          question("age  >=\n18", consilium.AnalysisSpec{Type: consilium.AnalysisDescribe, Variables: []string{"treat"}}),
		"a respelled cohort":            question("!(age < 18)", consilium.AnalysisSpec{Type: consilium.AnalysisCrosstab, Rows: "treat", Columns: "status"}),
		"a respelled cohort, described": question("18 <= age && true", consilium.AnalysisSpec{Type: consilium.AnalysisDescribe, Variables: []string{"status"}}),
	} {
		a, b := lineageOf(first), lineageOf(second)
		a.Rows = consilium.DomainRowSet.Digest([]byte("these rows"))
		b.Rows = a.Rows // the same rows of this hospital
		if !a.meets(b) || !b.meets(a) {
			t.Errorf("%s: not related", name)
		}
		if asText(first) == asText(second) {
			t.Errorf("%s: the twin sees it too: it is not broken", name)
		}
	}
	for name, second := range map[string]*consilium.Spec{
		"other rows":   question("age < 18", consilium.AnalysisSpec{Type: consilium.AnalysisCrosstab, Rows: "treat", Columns: "status"}),
		"other column": question("age >= 18", consilium.AnalysisSpec{Type: consilium.AnalysisDescribe, Variables: []string{"weight"}}),
	} {
		if lineageOf(first).meets(lineageOf(second)) {
			t.Errorf("%s: related", name)
		}
	}
	derived := question("age >= 18", consilium.AnalysisSpec{Type: consilium.AnalysisDescribe, Variables: []string{"fat"}})
	plain := question("age >= 18", consilium.AnalysisSpec{Type: consilium.AnalysisDescribe, Variables: []string{"height"}})
	if !lineageOf(derived).meets(lineageOf(plain)) {
		t.Error("a derived column hides what it is derived from")
	}
}

// TestRespelledStudy: the ledger of opened sums refuses the question in other
// words without one hospital, takes it with the same ones, and forgets nothing
// when it is opened again from the disk.
func TestRespelledStudy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, err := openJournal(durable.OS, path)
	if err != nil {
		t.Fatal(err)
	}
	rows := consilium.DomainRowSet.Digest([]byte("these rows"))
	sites := []consilium.SiteID{"a", "b", "c", "d", "e"}
	l := lineageOf(question("age >= 18", consilium.AnalysisSpec{Type: consilium.AnalysisDescribe, Variables: []string{"status"}}))
	l.Rows = rows
	if err := j.setOpened(openedSum{Study: "first", Lineage: l, Faults: 1, Sites: sites}); err != nil {
		t.Fatal(err)
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	if j, err = openJournal(durable.OS, path); err != nil {
		t.Fatal(err)
	}
	defer j.close()
	if err := j.setVector("second", 1, vector{Rows: rows}); err != nil {
		t.Fatal(err)
	}
	a := &actor{gate: &Gate{journal: j}, study: "second", rep: &replica{
		spec:  question("!(age < 18)", consilium.AnalysisSpec{Type: consilium.AnalysisCrosstab, Rows: "status", Columns: "treat"}),
		round: &round{opened: &consilium.RoundOpened{Round: 1}},
	}}
	if err := a.checkLineage(sites[:4]); err == nil {
		t.Error("the same question without one hospital is opened")
	}
	if err := a.checkLineage(sites[:3]); err == nil {
		t.Error("the same question without two hospitals is opened, f + 2 is three")
	}
	if err := a.checkLineage(sites[:2]); err != nil {
		t.Errorf("three hospitals fewer: %v", err)
	}
	if err := a.checkLineage(sites); err != nil {
		t.Errorf("the same hospitals: %v", err)
	}
}

// FuzzJournal: a journal with any records is opened or refused, and never
// takes the gate down; what is opened once opens again the same.
func FuzzJournal(f *testing.F) {
	for _, v := range []any{
		promiseRecord{"s", "vote/1/1", []byte("m")}, bindingRecord{Study: "s", Round: 1, binding: binding{Members: []consilium.Position{1, 2}, Attempt: 1, Opened: true}},
		frozenRecord{"s", frozen{Round: 1, Members: []consilium.Position{1}}}, openedSum{Study: "s"}, endedRecord{"s"}, vectorRecord{"s", 1, vector{}},
		epochRecord{Study: "s", Epoch: 2, Frozen: &frozen{Round: 1}}, staleRecord{"why"}, saltRecord{consilium.Digest{1}},
	} {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		for kind := recordPromise; kind <= recordSalt; kind++ {
			f.Add(kind, b)
		}
	}
	f.Add(uint8(99), []byte("{"))
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		j := newJournal()
		if err := j.replay(kind, data); err != nil {
			return
		}
		j.binding("s", 1, 1).allows(1, []consilium.Position{1, 2})
		j.sums(lineage{}, "other")
		if f := j.freeze("s"); f != nil && len(f.RowSets) == 0 && bytes.Equal(data, nil) {
			t.Error("frozen by nothing")
		}
	})
}

// FuzzReplica: whatever bodies a coordinator puts into its events, observing
// them neither panics nor changes what is certified.
func FuzzReplica(f *testing.F) {
	f.Add(uint8(1), []byte{})
	f.Add(uint8(6), (&consilium.RoundOpened{Round: 1, Attempt: 1}).Encode())
	f.Add(uint8(4), []byte(`{"apiVersion":"consilium/v1","kind":"Charter"}`))
	f.Add(uint8(1), (&consilium.Message{Kind: consilium.KindVote, Study: "s", By: "a"}).Encode())
	f.Fuzz(func(t *testing.T, kind uint8, body []byte) {
		r := newReplica("s", "a", &consilium.Roster{Sites: []consilium.Site{{ID: "a"}}})
		r.charter = &consilium.Charter{Threshold: 3, Faults: 1, Members: make([]consilium.Member, 5)}
		fresh := func(attempt uint32) *round {
			return &round{opened: &consilium.RoundOpened{Round: 1, Attempt: attempt}, headers: map[consilium.Position]*signedHeader{},
				votes: map[consilium.Position]consilium.Digest{}, openings: map[consilium.Position]*consilium.Opening{},
				states: map[consilium.Position]*consilium.StateVote{}, complaints: map[consilium.Position][]consilium.Position{},
				renounced: map[consilium.Position]uint32{}, suspects: map[consilium.Position]*consilium.Suspect{}, shows: map[consilium.Position]*consilium.Show{}}
		}
		r.round = fresh(2)
		r.round.spoilt = fresh(1)
		r.observe(&consilium.Event{Study: "s", Kind: consilium.EventKind(kind), Body: body}, time.Time{})
		// And what a dishonest member signs.
		for k := consilium.KindHeader; k <= consilium.KindShow; k++ {
			r.roundMessage(&consilium.Message{Kind: k, By: "a", Body: body}, 1)
		}
		if r.certified() || r.round.closed || r.round.spoilt.accused(3) != nil {
			t.Error("one member decides for t")
		}
	})
}
