package policy

import (
	"bytes"
	"reflect"
	"testing"

	"consilium"
)

// inMemory is a log that is nowhere.
type inMemory struct{ bytes.Buffer }

func (m *inMemory) Append(lines []byte) error { _, err := m.Write(lines); return err }

// TestDecideTransfers: the answers together are the answers one by one, and
// the first denial ends them with its own question.
func TestDecideTransfers(t *testing.T) {
	e := demoEngine(t)
	in := testInput(t, "utah", nil)
	var list []Artefact
	for _, c := range in.Federation.Coordinators {
		for _, class := range []string{ClassCiphertext, ClassKeyShare, ClassOpeningShare, ClassSealedState} {
			list = append(list, Artefact{Class: class, To: c.ID, Role: "coordinator", KeySharesReachable: 1, Threshold: 9})
		}
	}
	for _, s := range in.Federation.Sites {
		if s.ID != "utah" {
			list = append(list, Artefact{Class: ClassAggregate, To: s.ID, Role: "site", KeySharesReachable: 9, Threshold: 9})
		}
	}
	single := func(a Artefact) Decision {
		q := in
		q.Artefact = &a
		d, err := e.Decide(t.Context(), PointTransfer, q)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	together := func(list []Artefact) Decision {
		all, err := e.DecideTransfers(t.Context(), in, list)
		if err != nil {
			t.Fatal(err)
		}
		// Every one on the way is there, with its own question.
		for i, x := range all {
			if x.Artefact != list[i] || !reflect.DeepEqual(x.Decision, single(list[i])) {
				t.Errorf("%d: %+v", i, x)
			}
		}
		return all[len(all)-1].Decision
	}
	for i := range list {
		if want := single(list[i]); !want.Allow {
			t.Fatalf("%+v: %s", list[i], Explain(want))
		}
	}
	if got, want := together(list), single(list[len(list)-1]); !reflect.DeepEqual(got, want) {
		t.Errorf("all: %+v, alone the last is %+v", got, want)
	}
	for name, bad := range map[string]Artefact{
		"a stranger":     {Class: ClassAggregate, To: "elsewhere", Role: "site", KeySharesReachable: 9, Threshold: 9},
		"too many keys":  {Class: ClassKeyShare, To: list[0].To, Role: "coordinator", KeySharesReachable: 9, Threshold: 9},
		"no such role":   {Class: ClassAggregate, To: list[0].To, Role: "press", Threshold: 9},
		"no such class":  {Class: "rows", To: list[0].To, Role: "coordinator", Threshold: 9},
		"no threshold":   {Class: ClassAggregate, To: list[0].To, Role: "coordinator"},
		"a name too bad": {Class: ClassAggregate, To: "../x", Role: "site", Threshold: 9},
	} {
		for at := range 3 {
			mixed := append(append([]Artefact{}, list[:at]...), bad)
			mixed = append(mixed, list[at:]...)
			got, want := together(mixed), single(bad)
			if got.Allow || !reflect.DeepEqual(got, want) {
				t.Errorf("%s at %d: %+v, alone %+v", name, at, got, want)
			}
		}
	}
	// The log of them together is the log of them one by one.
	one, whole := &inMemory{}, &inMemory{}
	a, err := NewAudit(one, auditKey, 0, consilium.Digest{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewAudit(whole, auditKey, 0, consilium.Digest{})
	if err != nil {
		t.Fatal(err)
	}
	odd := append(append([]Artefact{}, list...), Artefact{Class: ClassAggregate, To: "../x", Role: "site", Threshold: 9})
	all, err := e.DecideTransfers(t.Context(), in, odd)
	if err != nil || len(all) != len(odd) {
		t.Fatal(len(all), err)
	}
	for i := range all {
		q := in
		q.Artefact = &odd[i]
		if _, err := a.Append(AuditEntry{Time: testNow, Node: "utah", Study: "s", Point: PointTransfer, Input: q, Decision: all[i].Decision}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.AppendTransfers(AuditEntry{Time: testNow, Node: "utah", Study: "s", Input: in}, all); err != nil {
		t.Fatal(err)
	}
	if one.String() != whole.String() || one.Len() == 0 {
		t.Error("transfers that are logged together are logged otherwise")
	}
	if all, err := e.DecideTransfers(t.Context(), in, nil); err == nil || len(all) > 0 {
		t.Error("no transfers were allowed")
	}
}
