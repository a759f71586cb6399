package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"

	"consilium"
	"consilium/internal/canon"
)

// Transfer is one artefact with what was decided about it.
type Transfer struct {
	Artefact Artefact
	Decision Decision
}

// DecideTransfers asks PointTransfer about every artefact in list, under one
// policy and with everything else as in says, up to the first denial. The last of
// the answers is that denial, or a permission. Each answer is Decide's; only the
// reading of the question is shared, which in a federation of 50 hospitals is nine
// tenths of the time of 100 questions that differ in one recipient.
func (e *Engine) DecideTransfers(ctx context.Context, in Input, list []Artefact) ([]Transfer, error) {
	if len(list) == 0 {
		return nil, errors.New("policy: no transfer to decide")
	}
	p := e.p.Load()
	in.Artefact = &list[0]
	doc, digest, bad := p.document(PointTransfer, in)
	if bad != nil {
		return []Transfer{{list[0], p.seal(*bad, digest)}}, nil
	}
	all, err := allSchemas()
	if err != nil {
		return nil, err
	}
	questions, err := in.aboutEach(list)
	if err != nil {
		return nil, err
	}
	var out []Transfer
	for i := range list {
		question, one := doc, in
		one.Artefact = &list[i]
		var d Decision
		if i > 0 {
			question, err = all.about(doc, &list[i])
		}
		if err != nil {
			d = deny(PointTransfer, CodeInput, "%v", err)
			if _, _, bad := p.document(PointTransfer, one); bad != nil {
				d = *bad
			}
		} else if d, err = e.evaluate(ctx, p, &p.query, PointTransfer, question); err != nil {
			return nil, err
		}
		d = p.seal(d, consilium.DomainDecision.Digest([]byte("input"), questions[i]))
		if out = append(out, Transfer{list[i], d}); !d.Allow {
			break
		}
	}
	return out, nil
}

// aboutEach encodes the same question about each artefact. Artefact is the first
// member of a canonical question, so that all of them share the rest.
func (in Input) aboutEach(list []Artefact) ([][]byte, error) {
	var rest []byte
	out := make([][]byte, len(list))
	for i := range list {
		a, err := canon.Marshal(&list[i])
		if err != nil {
			return nil, err
		}
		head := append([]byte(`{"artefact":`), a...)
		if i == 0 {
			in.Artefact = &list[0]
			whole, err := in.encode(PointTransfer)
			if err != nil {
				return nil, err
			}
			var ok bool
			if rest, ok = bytes.CutPrefix(whole, head); !ok {
				return nil, errors.New("policy: a question about a transfer does not begin with its artefact")
			}
		}
		out[i] = append(head, rest...)
	}
	return out, nil
}

// AppendTransfers writes what DecideTransfers answered to the question entry, one
// record each, durable together.
func (a *Audit) AppendTransfers(entry AuditEntry, all []Transfer) ([]AuditRecord, error) {
	if len(all) == 0 {
		return nil, nil
	}
	list := make([]Artefact, len(all))
	for i := range all {
		list[i] = all[i].Artefact
	}
	questions, err := entry.Input.aboutEach(list)
	if err != nil {
		return nil, err
	}
	entry.Point, entry.Input.Artefact, entry.Rows = PointTransfer, &list[0], nil
	first, err := a.record(&entry)
	if err != nil {
		return nil, err
	}
	var kept map[string]json.RawMessage
	if err := json.Unmarshal(first.InputMasked, &kept); err != nil {
		return nil, err
	}
	schemas, err := allSchemas()
	if err != nil {
		return nil, err
	}
	recs := make([]AuditRecord, len(all))
	for i := range all {
		rec := first
		rec.Decision, rec.PolicyDigest, rec.InputMAC = all[i].Decision, all[i].Decision.PolicyDigest, a.mac("input", questions[i])
		if i > 0 {
			if rec.InputMasked, err = a.maskedAbout(schemas, kept, &list[i]); err != nil {
				return nil, err
			}
		}
		recs[i] = rec
	}
	return recs, a.chain(recs)
}

// maskedAbout is a masked question with another artefact. Of one that does not fit
// the schema nothing is kept, as in masked.
func (a *Audit) maskedAbout(all schemas, kept map[string]json.RawMessage, about *Artefact) (json.RawMessage, error) {
	b, err := canon.Marshal(about)
	if err != nil {
		return nil, err
	}
	v, err := decode(b)
	if err != nil {
		return nil, err
	}
	if _, err := all.check("artefactMessage", v); err != nil || len(kept) == 0 {
		return json.RawMessage("{}"), nil
	}
	out := maps.Clone(kept)
	delete(out, "artefact")
	m, ok := all.mask(all["artefactMessage"], v, a.maskedField)
	if ok {
		if out["artefact"], err = canon.Marshal(m); err != nil {
			return nil, err
		}
	}
	return canon.Marshal(out)
}

// about is doc with another artefact, checked like the first.
func (all schemas) about(doc map[string]any, a *Artefact) (map[string]any, error) {
	b, err := canon.Marshal(a)
	if err != nil {
		return nil, err
	}
	v, err := decode(b)
	if err != nil {
		return nil, err
	}
	if v, err = all.check("artefactMessage", v); err != nil {
		return nil, err
	}
	out := maps.Clone(doc)
	out["artefact"] = v
	return out, nil
}
