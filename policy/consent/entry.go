package consent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Entry is what a hospital's consent store can say of a document: a consent that
// covers whole categories for a time, or a refusal. It says less than the document
// wherever the two differ, and never more.
type Entry struct {
	Refusal  bool              // the document was taken back, or permits no whole category
	Scopes   []string          // categories of which every column is permitted, ascending
	Purposes []string          // DUO codes, those that restrict included
	Diseases []string          // MONDO codes; none means not limited
	From     int64             // Unix seconds
	Until    int64             // Unix seconds, the first that is too late; Never without end
	GivenBy  string            // self, parent or representative
	Reasons  map[string]string // of the columns that are not permitted
}

// Entry states a document for the store, as of r.Now, whose Items are all columns of
// the hospital. Which study will ask is not known yet: the codes of use are kept, for
// the row rules to hold each study against them. It ends where any provision begins
// or ends to count; then the document is imported again. An error is a document that
// cannot be entered: it denies because it cannot be read, was never in force, or is
// about something else than research.
func (f *Form) Entry(r *Request) (*Entry, error) {
	e := &Entry{Scopes: []string{}, Purposes: []string{}, Diseases: []string{}, GivenBy: f.GivenBy, From: max(f.From, r.Now), Until: f.Until}
	switch {
	case f.Status == StatusWithdrawn: // whatever else of it cannot be read
		e.Refusal = true
		return e, nil
	case f.Denied != "":
		return nil, fmt.Errorf("%s: nothing is entered; ask the patient", f.Denied)
	case f.Status != StatusActive:
		return nil, errors.New("the document was never in force: nothing is entered")
	case e.From >= f.Until:
		return nil, errors.New("the document has ended: nothing is entered")
	}
	g, at := *f, *r
	g.Uses, at.Now = nil, e.From
	// Who will read is not known yet: no denial is ruled out by whom it names.
	g.Rules = slices.Clone(f.Rules)
	for i := range g.Rules {
		if !g.Rules[i].Permit {
			g.Rules[i].Match = slices.DeleteFunc(slices.Clone(g.Rules[i].Match), func(c criterion) bool { return c.kind == "actor" })
		}
	}
	for i := range f.Rules {
		for _, s := range f.Rules[i].When {
			for _, edge := range []int64{s.from, s.until} {
				if edge > e.From {
					e.Until = min(e.Until, edge)
				}
			}
		}
	}
	e.Reasons = map[string]string{}
	denied, research := map[string]bool{}, true
	for i := range at.Items {
		why, purpose := g.item(&at, &at.Items[i])
		if why != "" {
			denied[at.Items[i].Category] = true
			e.Reasons[at.Items[i].Name] = why
			continue
		}
		research = research && (purpose || f.research)
	}
	for _, it := range at.Items {
		if !denied[it.Category] && !slices.Contains(e.Scopes, it.Category) {
			e.Scopes = append(e.Scopes, it.Category)
		}
	}
	slices.Sort(e.Scopes)
	if len(e.Scopes) == 0 {
		// Less than a document says that permits single columns, and never "not
		// asked", which a hospital's rules may take for leave.
		e.Refusal = true
		return e, nil
	}
	switch {
	case f.Uses != nil:
		for i := range f.Uses {
			c := &f.Uses[i]
			switch {
			case c.ID == "DUO:0000025" && c.dated(): // its date is the end above
			case !slices.Contains(e.Purposes, c.ID):
				e.Purposes = append(e.Purposes, c.ID)
			}
		}
		slices.Sort(e.Purposes)
		if f.Area != "any" && f.Area != "" {
			e.Diseases = []string{f.Area}
		}
	case research && widens(r.Purpose, "HRESCH"):
		e.Purposes = []string{"DUO:0000042"}
	default:
		return nil, errors.New("the document does not say that what it permits is research: nothing is entered")
	}
	if len(e.Purposes) == 0 {
		return nil, errors.New("the document names no use: nothing is entered")
	}
	return e, nil
}

// dated reports whether a limit of time names a moment that is understood. One that
// is not stays among the purposes, where the row rules deny it.
func (c *Code) dated() bool {
	if len(c.Args) != 1 {
		return false
	}
	_, _, err := instant(c.Args[0])
	return err == nil
}

// ParseDUO reads the codes that a register of data sets or a consent form carries
// for one patient:
//
//	{"codes": [{"id": "DUO:0000007", "args": ["MONDO:0018305"]}], "givenBy": "self"}
func ParseDUO(doc []byte) (*Form, error) {
	if len(doc) > MaxDocument {
		return nil, fmt.Errorf("DUO: %d bytes, at most %d", len(doc), MaxDocument)
	}
	if err := unique(json.NewDecoder(bytes.NewReader(doc)), 0); err != nil {
		return nil, fmt.Errorf("DUO: %w", err)
	}
	var d struct {
		Codes []struct {
			ID   string   `json:"id"`
			Args []string `json:"args"`
		} `json:"codes"`
		GivenBy string `json:"givenBy"`
	}
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return nil, fmt.Errorf("DUO: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("DUO: bytes after the document")
	}
	if !slices.Contains([]string{"self", "parent", "representative"}, d.GivenBy) {
		return nil, fmt.Errorf("DUO: givenBy %q, want self, parent or representative", clip(d.GivenBy))
	}
	var codes []Code
	for _, c := range d.Codes {
		if !strings.HasPrefix(c.ID, "DUO:") || len(c.ID) != 11 {
			return nil, fmt.Errorf("DUO: %q is no code", clip(c.ID))
		}
		codes = append(codes, Code{ID: c.ID, Args: c.Args})
	}
	return FromDUO(codes, d.GivenBy), nil
}
