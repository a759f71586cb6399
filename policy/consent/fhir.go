package consent

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The parts of HL7 FHIR Consent that are read. Release 4: one root provision
// with a type; release 5: a decision and a list of provisions without types,
// each level of nesting turning the answer around.
type fhirConsent struct {
	ResourceType      string          `json:"resourceType"`
	Status            string          `json:"status"`
	Scope             *concept        `json:"scope"`
	Category          []concept       `json:"category"`
	PolicyRule        *concept        `json:"policyRule"`
	Decision          string          `json:"decision"`
	Period            *fhirPeriod     `json:"period"`
	Provision         json.RawMessage `json:"provision"`
	ModifierExtension json.RawMessage `json:"modifierExtension"`
	ImplicitRules     string          `json:"implicitRules"`
	Patient           *reference      `json:"patient"`
	Subject           *reference      `json:"subject"`
	Performer         []reference     `json:"performer"`
	Grantor           []reference     `json:"grantor"`
}

type concept struct {
	Coding []coding `json:"coding"`
}

type coding struct {
	System string `json:"system"`
	Code   string `json:"code"`
}

type reference struct {
	Reference string `json:"reference"`
}

type fhirPeriod struct {
	Start string `json:"start"`
	End   string `json:"end"`
}

type fhirActor struct {
	Role      *concept   `json:"role"`
	Reference *reference `json:"reference"`
}

type fhirProvision struct {
	Type              string            `json:"type"`
	Period            *fhirPeriod       `json:"period"`
	Actor             []fhirActor       `json:"actor"`
	Action            []concept         `json:"action"`
	SecurityLabel     []coding          `json:"securityLabel"`
	Purpose           []coding          `json:"purpose"`
	Class             []coding          `json:"class"`
	ResourceType      []coding          `json:"resourceType"`
	DocumentType      []coding          `json:"documentType"`
	Code              []concept         `json:"code"`
	DataPeriod        *fhirPeriod       `json:"dataPeriod"`
	Data              []json.RawMessage `json:"data"`
	Expression        json.RawMessage   `json:"expression"`
	ModifierExtension json.RawMessage   `json:"modifierExtension"`
	Provision         []fhirProvision   `json:"provision"`
}

// ParseFHIR reads a Consent resource of release 4 or 5. An error means that the
// bytes are no such resource; a resource that says something this package cannot
// read comes back as a Form that denies and says why.
func ParseFHIR(doc []byte) (*Form, error) {
	if len(doc) > MaxDocument {
		return nil, fmt.Errorf("consent: %d bytes, at most %d", len(doc), MaxDocument)
	}
	var c fhirConsent
	if err := json.Unmarshal(doc, &c); err != nil {
		return nil, fmt.Errorf("consent: %w", err)
	}
	if c.ResourceType != "Consent" {
		return nil, fmt.Errorf("consent: resourceType %q, want Consent", clip(c.ResourceType))
	}
	f := &Form{Status: StatusNone, Until: Never, GivenBy: "self"}
	switch c.Status {
	case "active":
		f.Status = StatusActive
	case "inactive", "rejected", "not-done":
		f.Status = StatusWithdrawn
	case "draft", "proposed", "entered-in-error":
	default:
		f.deny("status %q: whether the consent was ever in force cannot be told", clip(c.Status))
	}
	if err := f.known(doc); err != nil {
		return nil, err
	}
	f.categories(c.Category)
	if len(c.ModifierExtension) > 0 || c.ImplicitRules != "" {
		f.deny("a modifier extension or implicit rules change the meaning in a way that is not known")
	}
	f.GivenBy = givenBy(&c)
	if p := cmp.Or(c.Patient, c.Subject); p != nil {
		f.Patient = p.Reference
	}
	if c.Period != nil {
		s, err := c.Period.span()
		if err != nil {
			return nil, err
		}
		f.From, f.Until = s.from, s.until
	}
	var err error
	if trimmed := strings.TrimSpace(string(c.Provision)); c.Decision != "" || strings.HasPrefix(trimmed, "[") {
		err = f.release5(&c)
	} else {
		err = f.release4(&c)
	}
	if err != nil {
		return nil, err
	}
	if len(f.Rules) > maxRules {
		f.deny("more than %d provisions", maxRules)
	}
	return f, nil
}

// givenBy is self where the one who gives is the patient or is not named.
func givenBy(c *fhirConsent) string {
	who := append(append([]reference{}, c.Performer...), c.Grantor...)
	patient := c.Patient
	if patient == nil {
		patient = c.Subject
	}
	for _, w := range who {
		if patient == nil || w.Reference != patient.Reference {
			return "representative"
		}
	}
	return "self"
}

func (f *Form) release5(c *fhirConsent) error {
	f.Source = "FHIR R5"
	switch c.Decision {
	case "permit":
		f.Base = true
	case "deny":
	default:
		f.deny("decision: neither permit nor deny")
	}
	var list []fhirProvision
	if len(c.Provision) > 0 {
		if err := json.Unmarshal(c.Provision, &list); err != nil {
			return fmt.Errorf("consent: provision: %w", err)
		}
	}
	for i := range list {
		if err := f.flatten(&list[i], nil, nil, 1, func(_ *fhirProvision, depth int) (bool, bool) {
			return f.Base == (depth%2 == 0), true
		}); err != nil {
			return err
		}
	}
	return nil
}

func (f *Form) release4(c *fhirConsent) error {
	f.Source = "FHIR R4"
	base := ""
	if c.PolicyRule != nil {
		for _, k := range c.PolicyRule.Coding {
			switch k.Code {
			case "OPTIN", "OPTINR":
				base = join(base, "permit")
			case "OPTOUT", "OPTOUTE":
				base = join(base, "deny")
			}
		}
	}
	if c.Scope != nil {
		for _, k := range c.Scope.Coding {
			if k.Code != "research" && k.Code != "patient-privacy" {
				f.deny("the consent is about %s, not about research or privacy", clip(k.Code))
			}
		}
		if len(c.Scope.Coding) > 0 && !slices.ContainsFunc(c.Scope.Coding, func(k coding) bool { return k.Code != "research" }) {
			f.research = true
		}
	}
	var root fhirProvision
	if len(c.Provision) > 0 {
		if err := json.Unmarshal(c.Provision, &root); err != nil {
			return fmt.Errorf("consent: provision: %w", err)
		}
	}
	if root.Type != "" {
		base = join(base, root.Type)
	} else if root.narrows() {
		f.deny("the outermost provision names conditions and no type: whether it limits the consent or is an exception to it cannot be told")
	}
	switch base {
	case "permit":
		f.Base = true
	case "deny":
	case "":
		f.deny("neither a policy rule nor the outermost provision says permit or deny")
	default:
		f.deny("policy rule and outermost provision contradict each other")
	}
	if err := f.unreadable(&root); err != nil {
		return err
	}
	// The root's own conditions bound everything that is permitted.
	root0 := root
	root0.Provision = nil
	when, match, err := f.criteria(&root0)
	if err != nil {
		return err
	}
	if f.Base && (len(when) > 0 || len(match) > 0) {
		f.Base = false
		f.Rules = append(f.Rules, Rule{Permit: true, Branch: 0, When: when, Match: match})
	}
	for i := range root.Provision {
		if err := f.flatten(&root.Provision[i], when, match, 1, func(p *fhirProvision, _ int) (bool, bool) {
			return p.Type == "permit", p.Type == "permit" || p.Type == "deny"
		}); err != nil {
			return err
		}
	}
	return nil
}

func join(a, b string) string {
	if a == "" || a == b {
		return b
	}
	return "conflict"
}

// narrows reports whether a provision has a condition of its own.
func (p *fhirProvision) narrows() bool {
	return p.Period != nil || len(p.Actor)+len(p.Action)+len(p.SecurityLabel)+len(p.Purpose)+len(p.Class)+len(p.ResourceType)+
		len(p.DocumentType)+len(p.Code)+len(p.Data) > 0 || p.DataPeriod != nil || len(p.Expression) > 0
}

func (f *Form) unreadable(p *fhirProvision) error {
	switch {
	case len(p.ModifierExtension) > 0:
		f.deny("a provision has a modifier extension")
	case len(p.Expression) > 0:
		f.deny("a provision has an expression")
	case len(p.Data) > 0:
		f.deny("a provision refers to single data")
	}
	return nil
}

// flatten turns a provision and what is nested in it into rules. A leaf makes a
// branch; so does each path to it.
func (f *Form) flatten(p *fhirProvision, when []span, match []criterion, depth int, permits func(*fhirProvision, int) (bool, bool)) error {
	if depth > maxDepth {
		f.deny("provisions nested deeper than %d", maxDepth)
		return nil
	}
	if len(f.Rules) > maxRules {
		return nil // ParseFHIR makes it deny
	}
	if err := f.unreadable(p); err != nil {
		return err
	}
	permit, ok := permits(p, depth)
	if !ok {
		f.deny("a nested provision says neither permit nor deny")
	}
	w, m, err := f.criteria(p)
	if err != nil {
		return err
	}
	when, match = append(append([]span{}, when...), w...), append(append([]criterion{}, match...), m...)
	rule := Rule{Permit: permit, Depth: depth, When: when, Match: match}
	if len(p.Provision) == 0 {
		f.branches++
		rule.Branch = f.branches
		f.Rules = append(f.Rules, rule)
		return nil
	}
	for i := range p.Provision {
		from := f.branches
		if err := f.flatten(&p.Provision[i], when, match, depth+1, permits); err != nil {
			return err
		}
		// On each new branch this provision speaks where nothing inside does.
		for b := from + 1; b <= f.branches; b++ {
			rule.Branch = b
			f.Rules = append(f.Rules, rule)
		}
	}
	return nil
}

func (f *Form) criteria(p *fhirProvision) ([]span, []criterion, error) {
	var when []span
	var match []criterion
	if p.Period != nil {
		s, err := p.Period.span()
		if err != nil {
			return nil, nil, err
		}
		when = append(when, s)
	}
	add := func(kind string, values []string) {
		if len(values) > 0 {
			match = append(match, criterion{kind, values})
		}
	}
	// A criterion's values are alternatives, and one that cannot be compared is
	// unread among them: it neither meets nor rules out.
	var actors, actions, labels, purposes, codes, other []string
	for _, a := range p.Actor {
		if a.Reference == nil || a.Reference.Reference == "" {
			actors = append(actors, unread) // a role, or somebody without a name
			continue
		}
		actors = append(actors, a.Reference.Reference)
	}
	for _, a := range p.Action {
		for _, k := range a.Coding {
			actions = append(actions, k.in(actionSystems))
		}
		if len(a.Coding) == 0 {
			actions = append(actions, unread)
		}
	}
	for _, k := range p.SecurityLabel {
		labels = append(labels, k.in(labelSystems))
	}
	for _, k := range p.Purpose {
		purposes = append(purposes, k.in(purposeSystems))
	}
	for _, c := range p.Code {
		for _, k := range c.Coding {
			codes = append(codes, k.System+"|"+k.Code)
		}
		if len(c.Coding) == 0 {
			codes = append(codes, unread)
		}
	}
	for _, l := range [][]coding{p.Class, p.ResourceType, p.DocumentType} {
		for _, k := range l {
			other = append(other, k.Code)
		}
	}
	if p.DataPeriod != nil {
		other = append(other, "dataPeriod")
	}
	add("actor", actors)
	add("action", actions)
	add("label", labels)
	add("purpose", purposes)
	add("code", codes)
	// What no item is compared with stands apart: it bounds all the others.
	add("other", other)
	return when, match, nil
}

// span reads a period; its end is inclusive, to the last moment that the
// written precision covers.
func (p *fhirPeriod) span() (span, error) {
	s := span{0, Never}
	if p.Start != "" {
		from, _, err := instant(p.Start)
		if err != nil {
			return s, err
		}
		s.from = from
	}
	if p.End != "" {
		_, until, err := instant(p.End)
		if err != nil {
			return s, err
		}
		s.until = until
	}
	return s, nil
}

// instant reads a FHIR dateTime: when what it names begins, and when it has
// ended.
func instant(s string) (from, until int64, err error) {
	for _, l := range []struct {
		layout string
		next   func(time.Time) time.Time
	}{
		{"2006", func(t time.Time) time.Time { return t.AddDate(1, 0, 0) }},
		{"2006-01", func(t time.Time) time.Time { return t.AddDate(0, 1, 0) }},
		{time.DateOnly, func(t time.Time) time.Time { return t.AddDate(0, 0, 1) }},
		{time.RFC3339, func(t time.Time) time.Time { return t.Add(time.Second) }},
	} {
		if t, err := time.Parse(l.layout, s); err == nil {
			return t.Unix(), l.next(t).Unix(), nil
		}
	}
	return 0, 0, fmt.Errorf("consent: %q is not a FHIR date", clip(s))
}
