package consent

import (
	"fmt"
	"slices"
	"strings"

	"consilium/policy"
)

// Never is the end of what does not end.
const Never = policy.Never

// Limits of a document.
const (
	MaxDocument = 1 << 20
	maxDepth    = 8
	maxRules    = 512
)

// Status of a document.
type Status string

const (
	StatusNone      Status = "none"      // no consent, or none that was ever in force
	StatusActive    Status = "active"    // in force within its time
	StatusWithdrawn Status = "withdrawn" // ended by the patient or the registrar
)

// Form is what every source becomes. The zero Form denies.
type Form struct {
	Source  string // FHIR R4, FHIR R5, DUO, W3C
	Status  Status
	Base    bool // permit where no rule matches
	From    int64
	Until   int64 // Unix seconds, the first that is too late; Never without end
	Rules   []Rule
	Uses    []Code // DUO codes of the document; nil where the source has none
	Area    string // MONDO id that it is limited to, "any", or "" where it does not say
	Denied  string // why the document as a whole denies, or ""
	GivenBy string // none, self, parent or representative

	Patient string // reference that the document gives to the patient, or ""

	research bool // the document as a whole is a consent to research
	branches int  // numbers given out
}

// Rule is one provision with its outer ones. Every criterion must be met; the
// values of one criterion are alternatives; an empty one is met by all.
type Rule struct {
	Permit bool
	Branch int // provisions of one outermost provision and one path share it
	Depth  int
	When   []span
	Match  []criterion
}

type span struct{ from, until int64 } // Unix seconds, [from, until)

type criterion struct {
	kind   string   // purpose, actor, action, category, label, code, other
	values []string // whatever no table knows can neither be met nor ruled out
}

// unread stands among the values of a criterion for one that cannot be compared:
// without a code or a name, or of another system of codes.
const unread = "?"

// Item is one thing that a study would read: a column with its category and,
// if the hospital states them, the codes of what it measures.
type Item struct {
	Name     string
	Category string   // general, genetic, mental, …
	Codes    []string // "system|code", empty if not stated
}

// Request is what a study asks of one patient at one moment.
type Request struct {
	Now     int64
	Purpose string   // v3-ActReason code; HRESCH for research
	Actors  []string // references of all who read: as a rule the hospital itself
	Actions []string // consentaction codes; use and access where empty
	Items   []Item
	Study   Study // for Data Use Ontology codes
}

// Answer says which items are permitted.
type Answer struct {
	Permitted []string          // names, in the request's order
	Reasons   map[string]string // of the others
}

type fit int

const (
	no fit = iota
	unknown
	yes
)

// Decide answers item by item. An item that is not in Permitted is denied.
func (f *Form) Decide(r *Request) Answer {
	a := Answer{Reasons: map[string]string{}}
	if len(f.Rules) > maxRules {
		f = &Form{Denied: "too many rules"}
	}
	for i := range r.Items {
		if why, _ := f.item(r, &r.Items[i]); why != "" {
			a.Reasons[r.Items[i].Name] = why
		} else {
			a.Permitted = append(a.Permitted, r.Items[i].Name)
		}
	}
	return a
}

// item is "" or why the item is denied. purpose: what permits it names the
// purpose that is asked for.
func (f *Form) item(r *Request, it *Item) (why string, purpose bool) {
	switch {
	case f.Denied != "":
		return f.Denied, false
	case f.Status != StatusActive:
		return "the consent is not active: " + string(f.Status), false
	case r.Now < f.From || r.Now >= f.Until:
		return "the consent does not hold at this time", false
	}
	if f.Uses != nil {
		if bad := Match(f.Uses, f.Area, &r.Study); len(bad) > 0 {
			return bad[0], false
		}
	}
	// Of each branch, the deepest rule that may speak.
	speaks := map[int]*Rule{}
	for i := range f.Rules {
		rule := &f.Rules[i]
		m := rule.fits(r, it)
		if rule.Permit && m != yes || m == no {
			continue
		}
		if old := speaks[rule.Branch]; old == nil || rule.Depth > old.Depth || rule.Depth == old.Depth && !rule.Permit {
			speaks[rule.Branch] = rule
		}
	}
	permitted := f.Base
	for _, rule := range speaks {
		if !rule.Permit {
			return "a provision denies it", false
		}
		permitted = true
		purpose = purpose || slices.ContainsFunc(rule.Match, func(c criterion) bool { return c.kind == "purpose" })
	}
	if !permitted {
		return "no provision permits it", false
	}
	return "", purpose
}

func (rule *Rule) fits(r *Request, it *Item) fit {
	all := yes
	for _, s := range rule.When {
		if r.Now < s.from || r.Now >= s.until {
			return no
		}
	}
	for i := range rule.Match {
		all = min(all, rule.Match[i].fits(r, it))
	}
	return all
}

func (c *criterion) fits(r *Request, it *Item) fit {
	if len(c.values) == 0 {
		return yes
	}
	best := no
	for _, v := range c.values {
		switch c.kind {
		case "purpose":
			best = max(best, purposeFit(v, r.Purpose))
		case "actor":
			best = max(best, c.named(v, r.Actors, isOrganization(v)))
		case "action":
			asked := r.Actions
			if len(asked) == 0 {
				asked = []string{"use", "access"}
			}
			best = max(best, c.named(v, asked, slices.Contains(knownActions, v)))
		case "category":
			switch {
			case v == it.Category:
				best = yes
			case !slices.Contains(policy.Categories(), v):
				best = max(best, unknown)
			}
		case "label":
			best = max(best, labelFit(v, it.Category))
		case "code":
			best = max(best, codeFit(v, it))
		default:
			best = max(best, unknown)
		}
	}
	return best
}

// named compares one value of a criterion with all that the request names: it is
// met only where the criterion's values name every one of them, and ruled out only
// where the value is one that can be told from them.
func (c *criterion) named(v string, asked []string, known bool) fit {
	switch {
	case len(asked) == 0:
		return unknown
	case slices.Contains(asked, v):
		if slices.ContainsFunc(asked, func(a string) bool { return !slices.Contains(c.values, a) }) {
			return unknown
		}
		return yes
	case known:
		return no
	}
	return unknown
}

// Subject states the answer as the row rules read it. Categories holds those of
// the request of which every item is permitted; a category with a single denied
// item is left out whole, since rules know categories and not columns.
//
// A document that denies as a whole, or that cannot be read, is a consent that
// covers nothing; it is never "no consent", which a hospital's rules may take for a
// patient who was not asked.
func (f *Form) Subject(patient [16]byte, r *Request) policy.Subject {
	s := policy.Subject{Patient: patient, Status: "none", GivenBy: "none", ValidTo: Never, WithdrawnAt: Never, OptedOutAt: Never}
	switch {
	case f.Denied != "":
		s.Status, s.Evidence = "active", true
		return s
	case f.Status == StatusNone, f.Status == "":
		return s
	}
	s.Status, s.GivenBy, s.Evidence = string(f.Status), f.GivenBy, true
	s.ValidFrom, s.ValidTo = f.From, f.Until
	if f.Status == StatusWithdrawn {
		s.WithdrawnAt = f.From
		return s
	}
	s.Area = f.Area
	denied, research := map[string]bool{}, true
	for i := range r.Items {
		why, purpose := f.item(r, &r.Items[i])
		if why != "" {
			denied[r.Items[i].Category] = true
		}
		research = research && (why != "" || purpose || f.research)
	}
	for _, it := range r.Items {
		if !denied[it.Category] && !slices.Contains(s.Categories, it.Category) {
			s.Categories = append(s.Categories, it.Category)
		}
	}
	slices.Sort(s.Categories)
	for _, u := range f.Uses {
		if !u.settled() {
			s.Purposes = append(s.Purposes, u.ID)
		}
	}
	if f.Uses == nil && len(s.Categories) > 0 && research && widens(r.Purpose, "HRESCH") {
		// The document is about research, or the provisions that permit name it.
		s.Purposes, s.Area = []string{"DUO:0000042"}, "any"
	}
	return s
}

func (f *Form) deny(format string, args ...any) {
	if f.Denied == "" {
		f.Denied = fmt.Sprintf(format, args...)
	}
}

func clip(s string) string {
	if len(s) > 60 {
		s = s[:60] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}
