package vault

import (
	"encoding/json"

	"consilium"
	"consilium/policy"
)

// What a result says of patients, read from the very bytes that would be
// released: the models mask small counts, and this is the second, independent
// look.

// published names the fields of a result under which counts of patients or of
// their rows stand, everything inside of them included, with the exception that
// lets them be small. A result's other small numbers are listed in
// TestPublished: among them what a curve says at each step (n_event, n_censor),
// for which the rule is how many are at risk there, and the rows that each cause
// left out (excluded_rows), which every study opens by design (docs/analyses.md).
var published = map[string]string{
	"counts": "small-cells", "count": "small-cells", "below": "small-cells", "above": "small-cells", "n": "small-cells", "missing": "small-cells",
	"n_risk": "km-tail",
}

// notPublished are fields whose inside is not looked at.
var notPublished = map[string]bool{"excluded_rows": true, "dp": true}

// smallestCell is the smallest count above 0 that a result publishes about
// patients: cells of tables, level counts, sizes of groups, and numbers at risk on
// a curve. What models masked is not there any more; what the board permitted by
// name does not count.
func smallestCell(doc []byte, facts consilium.Facts) int64 {
	var v any
	if json.Unmarshal(doc, &v) != nil {
		return 0 // not a document: the smallest there is
	}
	least := policy.Never
	var walk func(v any, counting bool)
	walk = func(v any, counting bool) {
		switch x := v.(type) {
		case map[string]any:
			// Where whole curves may be small, so may the group that one is of.
			_, curve := x["curve"]
			for k, sub := range x {
				permit, listed := published[k]
				if curve && k == "n" {
					permit = "km-tail"
				}
				if !notPublished[k] {
					walk(sub, counting || listed && !facts.Permitted(permit))
				}
			}
		case []any:
			for _, sub := range x {
				walk(sub, counting)
			}
		case float64:
			if counting && x > 0 && int64(x) < least {
				least = int64(x)
			}
		}
	}
	walk(v, false)
	return least
}

// leastPatients is the number of patients of the smallest analysis that a
// result speaks of. An analysis that ended with a problem publishes its reason
// and no count, so it does not take part: one model that cannot be fitted must
// not withhold the others, and its team must learn why. Where all of them ended
// so nothing is published about any patient, and the least is policy.Never, as
// for a smallest cell that does not exist. Whatever has no such reason counts
// with the patients that it states, and with none if it states none.
func leastPatients(doc []byte) (int64, error) {
	type part struct {
		Patients int64                           `json:"patients"`
		Error    *struct{ Code, Message string } `json:"error"`
	}
	var counts struct {
		part
		Analyses []part `json:"analyses"`
	}
	if err := json.Unmarshal(doc, &counts); err != nil {
		return 0, err
	}
	list := counts.Analyses
	if len(list) == 0 {
		list = []part{counts.part}
	}
	least := policy.Never
	for _, a := range list {
		if a.Error == nil || a.Error.Code == "" {
			least = min(least, a.Patients)
		}
	}
	return least, nil
}

// identifies reports whether a result names what no sum can name: a hospital
// outside the list of who took part, or one of this hospital's patients. Texts
// that the study file declares (levels, names, the question) are public before
// the study begins. A table that cannot be read identifies: nobody has looked.
func (v *Vault) identifies(st *study, doc []byte) bool {
	var parts map[string]any
	if json.Unmarshal(doc, &parts) != nil {
		return true
	}
	var spec any
	if json.Unmarshal(st.submission.SpecBytes, &spec) != nil {
		return true
	}
	declared, named := map[string]bool{}, map[string]bool{}
	texts(spec, declared)
	delete(parts, "sites")
	texts(parts, named)
	for s := range declared {
		delete(named, s)
	}
	for i := range st.charter.Members {
		if named[string(st.charter.Members[i].Site)] {
			return true
		}
	}
	// A vault that started again since the last round has not read the rows.
	d := st.data
	if d == nil {
		var err error
		if d, err = v.load(st.spec.Data.Dataset); err != nil {
			v.cfg.Log.Error("the result cannot be held against the patients' numbers and is not released", "study", string(st.id), "err", err)
			return true
		}
	}
	for _, id := range d.rows.IDs {
		if named[id] {
			return true
		}
	}
	return false
}

// texts collects every string of a document, keys included.
func texts(v any, into map[string]bool) {
	switch x := v.(type) {
	case string:
		into[x] = true
	case []any:
		for _, sub := range x {
			texts(sub, into)
		}
	case map[string]any:
		for k, sub := range x {
			into[k] = true
			texts(sub, into)
		}
	}
}
