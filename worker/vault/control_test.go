package vault

import (
	"testing"
	"time"

	"consilium/provenance"
)

// TestControlTable: the table that the row rules read is kept while nothing of what
// it was made from changes, and made anew when a consent is withdrawn, expires or
// begins, when the register says something else of one patient and when the ledger
// grows. Beside it a vault that goes on with the last round's table lets the row in.
func TestControlTable(t *testing.T) {
	h := newHospital(t, someAges(24), nil)
	// Two patients give another consent each: one for a day, one from tomorrow.
	now := time.Now()
	const ends, begins, objects, leaves = "p-03", "p-04", "p-05", "p-06"
	again := func(number string, from, until int64) {
		h.withdraw(number)
		doc, err := provenance.IssueConsent(h.key, h.patient[number], provenance.Consent{Site: "h0", Form: "test", Level: provenance.LevelGeneral, Scopes: []string{"general"},
			Purposes: []string{"DUO:0000042"}, Explicit: true, Informed: true, GivenBy: provenance.GivenBySelf, Given: now.Unix() + 1, From: from, Until: until}, h.name(number), nil)
		if err != nil {
			t.Fatal(err)
		}
		h.enter(provenance.ConsentEntry{Patient: h.name(number), Doc: doc})
	}
	again(ends, now.Unix()+1, now.Unix()+300)
	again(begins, now.Unix()+600, 0)
	at := now.Add(2 * time.Second)
	register := map[string]Register{}
	h.cfg.Now = func() time.Time { return at }
	h.cfg.Register = func(number string) Register {
		if r, ok := register[number]; ok {
			return r
		}
		return Register{Adult: true, CitizenOrLPR: true}
	}
	v := h.open()
	h.start(v)
	st := v.studies[h.study]
	in := func(number string) bool {
		t.Helper()
		u, err := v.use(t.Context(), st, 1)
		if err != nil {
			t.Fatal(err)
		}
		for i, id := range st.data.rows.IDs {
			if id == number {
				return u.selected[i]
			}
		}
		t.Fatalf("no patient %s", number)
		return false
	}
	for _, c := range []struct {
		name, patient string
		change        func()
		after         bool
		dates         bool // which the rules see without another table
	}{
		{"a consent ends", ends, func() { at = now.Add(300 * time.Second) }, false, true},
		{"a consent begins", begins, func() { at = now.Add(600 * time.Second) }, true, false},
		{"a consent is withdrawn", leaves, func() { h.withdraw(leaves) }, false, false},
		{"the register says another thing", objects, func() { register[objects] = Register{Adult: true, CitizenOrLPR: true, Part2: true} }, false, false},
		{"the register says it no more", objects, func() { delete(register, objects) }, true, false},
	} {
		if in(c.patient) == c.after {
			t.Fatalf("%s: in already is %v", c.name, c.after)
		}
		before := st.control
		if in(c.patient) == c.after || st.control != before {
			t.Errorf("%s: made anew while nothing has changed", c.name)
		}
		c.change()
		if in(c.patient) != c.after || st.control == before {
			t.Errorf("%s: kept, in is %v", c.name, !c.after)
		}
		// The twin asks the rules with the table of the round before.
		stale := *st.control
		stale.table = before.table
		fresh := st.control
		st.control = &stale
		if got := in(c.patient); got == c.after != c.dates {
			t.Errorf("%s: the twin sees it: the test shows nothing", c.name)
		}
		st.control = fresh
	}
	// What the ledger alone says: an erasure leaves no consent behind.
	before := st.control
	desk, err := provenance.OpenConsents(provenance.ConsentConfig{Dir: ConsentDir(h.cfg.Dir), KEK: h.cfg.KEK, Site: "h0", Signer: h.key, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := desk.Erase(t.Context(), h.ledger, h.name("p-07")); err != nil {
		t.Fatal(err)
	}
	h.enter()
	if in("p-07") || st.control == before {
		t.Error("an erased consent counts")
	}
	// And one entry of it makes the table anew, whatever it says.
	before = st.control
	h.enter()
	if in("p-08"); st.control == before {
		t.Error("the ledger has grown and the table was kept")
	}
	if in("p-08"); st.control == before || string(st.control.ledger) == string(before.ledger) {
		t.Error("the table does not say of which ledger it is")
	}
}
