package provenance

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"consilium"
)

func TestReceipt(t *testing.T) {
	h := newHospital(t)
	h.append(h.record("before"))
	b := h.anchor(testRows())
	h.append(h.record("after"))
	g := h.gate(nil)
	rec := record(t, testRows())
	if _, err := g.Receipt(t.Context(), h.ledger, b, rec, 3, h.salts); err == nil {
		t.Error("a receipt of a ledger that nobody read")
	}
	if _, err := g.Update(t.Context(), h.ledger); err != nil {
		t.Fatal(err)
	}
	policy := ReceiptPolicy{Ledger: h.log.Verifier(), Sites: []consilium.PublicKey{newHospitalKey(t).Public(), h.key.Public()}, Witnesses: h.policy()}
	for row := range testRows() {
		r, err := g.Receipt(t.Context(), DirView(h.dir), b, rec, row, h.salts)
		if err != nil {
			t.Fatal(err)
		}
		enc, err := r.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseReceipt(enc)
		if err != nil {
			t.Fatal(err)
		}
		f, err := again.Verify(policy)
		if err != nil {
			t.Fatal(err)
		}
		if f.Origin != h.log.Name() || f.Header.Batch != b.Header.Header.Batch || f.Checkpoint.Size != 3 {
			t.Errorf("facts %+v", f)
		}
		if row == 3 {
			if f.Values[1].Text != "44" || f.Values[1].Column.Unit != "a" || f.Values[2].Text != "female" || f.Values[3].Text != "false" || f.Values[4].Text != "1970-11-27" {
				t.Errorf("values %+v", f.Values)
			}
			rng := rand.New(rand.NewPCG(7, 8))
			for i := 0; i < 400; i++ {
				bad := bytes.Clone(enc)
				at := rng.IntN(len(bad))
				bad[at] ^= byte(1 + rng.IntN(127))
				r, err := ParseReceipt(bad)
				if err != nil {
					continue
				}
				if _, err := r.Verify(policy); err == nil {
					t.Errorf("byte %d (%q) may change", at, enc[max(0, at-20):at+1])
				}
			}
		}
	}
	r, err := g.Receipt(t.Context(), DirView(h.dir), b, rec, 3, h.salts)
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*Receipt, *ReceiptPolicy){
		"no hospital":      func(_ *Receipt, p *ReceiptPolicy) { p.Sites = nil },
		"another hospital": func(_ *Receipt, p *ReceiptPolicy) { p.Sites = p.Sites[:1] },
		"another witness":  func(_ *Receipt, p *ReceiptPolicy) { p.Witnesses = SingleWitness(witnessKeys(t, 1)[0].Verifier(), "") },
		"months for years": func(r *Receipt, _ *ReceiptPolicy) {
			r.Columns = append([]Column{}, r.Columns...)
			r.Columns[1].Unit = "mo"
		},
		"another leaf":  func(r *Receipt, _ *ReceiptPolicy) { r.Leaf++ },
		"another salt":  func(r *Receipt, _ *ReceiptPolicy) { r.Salt[0]++ },
		"another entry": func(r *Receipt, _ *ReceiptPolicy) { r.Entry-- },
	} {
		bad, p := *r, policy
		edit(&bad, &p)
		if _, err := bad.Verify(p); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	altered := testRows()
	altered[3].age = 45
	if _, err := g.Receipt(t.Context(), h.ledger, b, record(t, altered), 3, h.salts); err == nil {
		t.Error("a receipt for a row that was changed")
	}
	if _, err := h.salts.Erase(pseudonym(t, "p2")); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Receipt(t.Context(), h.ledger, b, rec, 3, h.salts); err == nil {
		t.Error("a receipt for an erased patient")
	}
}
