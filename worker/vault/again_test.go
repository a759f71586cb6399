package vault

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"consilium"
	"consilium/internal/hatch"
	"consilium/internal/hybrid"
	"consilium/policy"
)

// TestRoundsAskAgain: every round has the decisions about columns, rows and cohort in
// the log, whether the rules were asked or had answered the same before; what comes
// between two rounds is seen by the next one: a patient fewer, rows that somebody has
// written to, and the board's stop, which no remembered permission outlives.
func TestRoundsAskAgain(t *testing.T) {
	h := newHospital(t, someAges(24), nil)
	v := h.open()
	s := h.start(v)
	before := len(v.logged(t))
	local := func(n uint32) (hatch.LocalReply, error) {
		return v.Local(t.Context(), hatch.LocalRequest{Study: h.study, Round: n, State: s.State, Audit: true})
	}
	first, err := local(1)
	if err != nil {
		t.Fatal(err)
	}
	second, err := local(1)
	if err != nil {
		t.Fatal(err)
	}
	if first.RowSet != second.RowSet || first.Ledger != second.Ledger {
		t.Error("the same rows, used twice, are others")
	}
	log := v.logged(t)[before:]
	want := []struct {
		point policy.Point
		path  string
	}{{policy.PointColumns, "rego"}, {policy.PointRows, policy.PathVectorised}, {policy.PointSite, "rego"},
		{policy.PointColumns, "recalled"}, {policy.PointRows, policy.PathVectorised}, {policy.PointSite, "recalled"}}
	if len(log) != len(want) {
		t.Fatalf("%d decisions in two rounds", len(log))
	}
	for i, w := range want {
		if log[i].Decision.Point != w.point || log[i].Path != w.path || !log[i].Decision.Allow {
			t.Errorf("line %d: %s by %s", i, log[i].Decision.Point, log[i].Path)
		}
	}
	// A patient who left is another cohort and another question.
	h.withdraw("p-03")
	third, err := local(1)
	if err != nil {
		t.Fatal(err)
	}
	if third.RowSet == second.RowSet {
		t.Error("the rows of who withdrew are used")
	}
	// Somebody writes to the table in memory.
	st := v.studies[h.study]
	age := st.data.rows.Record.Column(st.data.rows.Record.Schema().FieldIndices("age")[0]).Data().Buffers()[1].Bytes()
	age[8*5] ^= 1
	u, err := v.use(t.Context(), st, 1)
	if err != nil {
		t.Fatal(err)
	}
	if u.selected[5] || u.excluded.Integrity != 1 {
		t.Errorf("an altered row is used: %+v", u.excluded)
	}
	age[8*5] ^= 1
	if u, err = v.use(t.Context(), st, 1); err != nil || !u.selected[5] {
		t.Errorf("a row that is as it was is left out: %v", err)
	}
	// The board stops the study.
	seed := consilium.DomainEnrol.Digest([]byte("board"))
	board, err := hybrid.FromSeed(seed[:])
	if err != nil {
		t.Fatal(err)
	}
	payload, err := policy.Stop{Studies: []consilium.StudyID{h.study}, Reason: "a complaint"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	sig, err := board.Sign(consilium.DomainStop, payload)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := json.Marshal(consilium.Signed{Payload: payload, Signatures: []consilium.Countersign{{By: "member-1", Signature: sig}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(StopDir(h.cfg.Dir), "stop-1.json"), doc, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := local(1); !errors.Is(err, consilium.ErrPolicy) {
		t.Errorf("a stopped study goes on: %v", err)
	}
}
