package studyfile

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"consilium"
	"consilium/internal/canon"
)

// Defaults that a study file gets when it is silent. They are part of the
// specification: Show writes them out and the team signs them.
const (
	DefaultMinCohort   = 11                    // least patients in a published cell: the rule of CMS's cell suppression policy
	DefaultMaxRounds   = 25                    // Newton converges in six to eight
	DefaultTrainRounds = 30                    // of a strategy that names none
	DefaultTolerance   = 1e-9                  // of a Newton step, in standard errors
	DefaultDeadline    = 120                   // seconds
	DefaultClass       = "scientific_research" // of the purpose
)

// DefaultMissing are the markers of a missing value where a column names none:
// an empty cell, and what R writes.
var DefaultMissing = []string{"", "NA"}

// Options changes what a study file may leave out.
type Options struct {
	// Simulate fills question, purpose, legal, data and sites where the file is
	// silent, and lists each in File.Assumptions. A study that is submitted must
	// say them itself.
	Simulate bool
	Purpose  *consilium.Purpose // Simulate: the purpose of a file without one
	Legal    json.RawMessage    // Simulate: the legal block of a file without one, a JSON object
}

// File is a parsed study file.
type File struct {
	Spec    *consilium.Spec
	Payload []byte // the specification's RFC 8785 bytes
	// Assumptions says in sentences what Simulate filled in.
	Assumptions []string
	// RowPatients is set by Simulate when no column tells patients apart: the
	// table's rows are then patients, and data.patient names no column of it.
	RowPatients bool
}

// Parse reads a study file and returns its specification with the canonical
// bytes that are signed. The error holds an *Error with line and column.
func Parse(src []byte) (*consilium.Spec, []byte, error) {
	f, err := ParseWith(src, Options{})
	if err != nil {
		return nil, nil, err
	}
	return f.Spec, f.Payload, nil
}

// ParseWith is Parse with options.
func ParseWith(src []byte, o Options) (f *File, err error) {
	defer catch(&err)
	p := &parser{o: o, file: &File{Spec: &consilium.Spec{APIVersion: consilium.APIVersion, Kind: "Study"}}}
	p.root(document(src))
	// The gate that everybody else uses, over the very bytes that will be signed.
	payload, err := canon.Marshal(p.file.Spec)
	if err != nil {
		return nil, errStudy.With(err)
	}
	if p.file.Spec, err = consilium.ParseSpec(payload); err != nil {
		return nil, errStudy.With(err)
	}
	p.file.Payload = payload
	return p.file, nil
}

type parser struct {
	o     Options
	file  *File
	names []string // columns that analyses may name, in order, with "site" last
}

func (p *parser) assume(format string, args ...any) {
	p.file.Assumptions = append(p.file.Assumptions, fmt.Sprintf(format, args...))
}

func (p *parser) root(n *yaml.Node) {
	o := asObject(n, "the study", "apiVersion", "kind", "metadata", "spec")
	for _, w := range []struct{ key, want string }{{"apiVersion", consilium.APIVersion}, {"kind", "Study"}} {
		v := o.get(w.key)
		if v == nil {
			refuse(o.node, "begin the file with "+w.key+": "+w.want, "%s is missing", w.key)
		}
		if got := str(v, w.key); got != w.want {
			refuse(v, "write "+w.key+": "+w.want, "%s is %q", w.key, clip(got))
		}
	}
	m := o.get("metadata")
	if m == nil {
		refuse(o.node, "write metadata: {name: my-study}", "metadata is missing")
	}
	meta := asObject(m, "metadata", "name")
	name := meta.get("name")
	if name == nil {
		refuse(m, "write metadata: {name: my-study}", "metadata.name is missing")
	}
	p.file.Spec.Name = p.label(name, "metadata.name")
	s := o.get("spec")
	if s == nil {
		refuse(o.node, "put question, data, sites, columns and analysis under it", "spec is missing")
	}
	p.spec(s)
}

// label reads a name of a-z, 0-9 and inner hyphens.
func (p *parser) label(n *yaml.Node, what string) string {
	s := str(n, what)
	if _, err := consilium.ParseSiteID(s); err != nil {
		refuse(n, "use a-z, 0-9 and inner hyphens, at most 63 characters", "%s is %q", what, clip(s))
	}
	return s
}

func (p *parser) spec(n *yaml.Node) {
	o := asObject(n, "spec", "question", "purpose", "legal", "data", "sites", "columns", "cohort", "derive", "seed",
		"analysis", "analyses", "privacy", "rounds")
	s := p.file.Spec

	s.Question = strings.TrimSpace(o.str("question", ""))
	if s.Question == "" {
		if !p.o.Simulate {
			refuse(o.key("question"), "add one plain sentence that boards and patients can read", "spec.question is missing")
		}
		s.Question = "Simulation of " + s.Name + " (the study file asks no question)."
		p.assume("question: the study file asks none")
	}
	p.purpose(o)
	p.legal(o)
	p.columns(o)
	p.data(o)
	p.sites(o)
	p.cohort(o)
	p.derive(o)
	p.seed(o)
	for i := range s.Columns {
		p.names = append(p.names, s.Columns[i].Name)
	}
	for _, d := range s.Derive {
		p.names = append(p.names, d.Name)
	}
	p.names = append(p.names, "site")
	p.privacy(o)
	p.analyses(o)
	p.rounds(o)
}

func (p *parser) purpose(o object) {
	s := p.file.Spec
	n := o.get("purpose")
	if n == nil {
		if !p.o.Simulate {
			refuse(o.key("purpose"), "write for example purpose: {duo: [DUO:0000007], disease: MONDO:0018305}", "spec.purpose is missing")
		}
		s.Purpose = consilium.Purpose{DUO: []string{}, Class: DefaultClass}
		if p.o.Purpose != nil {
			s.Purpose = *p.o.Purpose
			if s.Purpose.DUO == nil {
				s.Purpose.DUO = []string{}
			}
		}
		p.assume("purpose: %s, data use codes [%s], disease %q", s.Purpose.Class, strings.Join(s.Purpose.DUO, ", "), s.Purpose.Disease)
		return
	}
	q := asObject(n, "purpose", "duo", "disease", "class")
	s.Purpose.DUO = q.strs("duo")
	for i, code := range s.Purpose.DUO {
		if !ontologyID(code, "DUO", 7) {
			refuse(q.get("duo").Content[i], "write DUO: and seven digits, as in https://github.com/EBISPOT/DUO", "purpose.duo %q", clip(code))
		}
	}
	if s.Purpose.DUO == nil {
		s.Purpose.DUO = []string{}
	}
	s.Purpose.Disease = q.str("disease", "")
	if d := s.Purpose.Disease; d != "" && !ontologyID(d, "MONDO", 7) {
		refuse(q.get("disease"), "write MONDO: and seven digits", "purpose.disease %q", clip(d))
	}
	s.Purpose.Class = q.str("class", DefaultClass)
}

// ontologyID accepts PREFIX:0000000.
func ontologyID(s, prefix string, digits int) bool {
	rest, ok := strings.CutPrefix(s, prefix+":")
	if !ok || len(rest) != digits {
		return false
	}
	return strings.Trim(rest, "0123456789") == ""
}

// legal passes the block of facts through; policy's schema describes it.
func (p *parser) legal(o object) {
	s := p.file.Spec
	n := o.get("legal")
	if n == nil {
		s.Legal = json.RawMessage("{}")
		if p.o.Simulate && len(p.o.Legal) > 0 {
			s.Legal = p.o.Legal
			p.assume("legal: %s", p.o.Legal)
		}
		return
	}
	if n.Kind != yaml.MappingNode {
		refuse(n, "", "spec.legal is %s, want keys and values", kindName(n))
	}
	b, err := canon.Marshal(value(n))
	if err != nil {
		refuse(n, "", "spec.legal: %v", err)
	}
	s.Legal = b
}

// columnTypes are the words for a column's type.
var columnTypes = []string{string(consilium.TypeID), string(consilium.TypeNumber), string(consilium.TypeInteger),
	string(consilium.TypeFlag), string(consilium.TypeLevels), string(consilium.TypeDate)}

func (p *parser) columns(o object) {
	n := o.get("columns")
	if n == nil {
		refuse(o.key("columns"), "declare every column that the study uses, for example age: {type: number, bounds: [0, 120]}", "spec.columns is missing")
	}
	if n.Kind != yaml.MappingNode {
		refuse(n, "write columns: {age: {type: number}, …}", "spec.columns is %s, want keys and values", kindName(n))
	}
	s := p.file.Spec
	s.Columns = make([]consilium.Column, 0, len(n.Content)/2)
	for i := 0; i < len(n.Content); i += 2 {
		v := n.Content[i+1]
		for _, name := range braces(n.Content[i], n.Content[i].Value) {
			key := *n.Content[i]
			key.Value = name
			p.newName(&key, "column")
			s.Columns = append(s.Columns, p.column(&key, v))
		}
	}
}

// newName checks the name of a column or of a derived one.
func (p *parser) newName(key *yaml.Node, what string) {
	name := key.Value
	if name == "site" {
		refuse(key, "leave it out: site always means the hospital, and a term or strata(site) may use it", "the name site is reserved")
	}
	if f, err := consilium.ParseTerm(name); err != nil || len(f.Factors) != 1 || f.Factors[0].Func != "" {
		refuse(key, "use letters, digits, dots and underscores, beginning with a letter; a hospital binds its own headers to it",
			"%s %q is not a name", what, clip(name))
	}
	if _, ok := p.file.Spec.Column(name); ok {
		refuse(key, "choose another name", "%s %s is declared twice", what, name)
	}
}

func (p *parser) column(key, v *yaml.Node) consilium.Column {
	c := consilium.Column{Name: key.Value}
	what := "columns." + key.Value
	var missing *yaml.Node
	typeNode := v
	switch v.Kind {
	case yaml.ScalarNode: // age: number
		c.Type = consilium.ColumnType(str(v, what))
	case yaml.SequenceNode: // treat: [placebo, drug]
		c.Type = consilium.TypeLevels
		c.Levels = strs(v, what)
	default:
		q := asObject(v, what, "type", "levels", "unit", "bounds", "missing", "category", "tag")
		c.Levels = q.strs("levels")
		if t := q.get("type"); t != nil {
			typeNode = t
			c.Type = consilium.ColumnType(str(t, what+".type"))
		} else if c.Levels != nil {
			c.Type = consilium.TypeLevels
		} else {
			refuse(v, "add type: "+strings.Join(columnTypes, ", ")+", or levels: […]", "%s has no type", what)
		}
		if b := q.get("bounds"); b != nil {
			list := nums(b, what+".bounds")
			if len(list) != 2 || list[0] > list[1] {
				refuse(b, "write [lowest, highest]", "%s.bounds has no lowest and highest value", what)
			}
			c.Bounds = &[2]float64{list[0], list[1]}
			if c.Type != consilium.TypeNumber && c.Type != consilium.TypeInteger {
				refuse(q.key("bounds"), "leave them out", "%s of type %s takes no bounds", what, clip(string(c.Type)))
			}
		}
		c.Unit = q.str("unit", "")
		c.Category = q.str("category", "")
		c.Tag = q.str("tag", "")
		if c.Tag != "" && !(len(c.Tag) == 1 && c.Tag[0] >= 'A' && c.Tag[0] <= 'R') {
			refuse(q.get("tag"), "write the letter A to R of 45 CFR 164.514(b)(2)(i)", "%s.tag is %q", what, clip(c.Tag))
		}
		missing = q.get("missing")
	}
	if !contains(columnTypes, string(c.Type)) {
		refuse(typeNode, suggest(string(c.Type), columnTypes, "type"), "%s has the unknown type %s", what, clip(string(c.Type)))
	}
	if c.Type == consilium.TypeLevels {
		if len(c.Levels) < 2 {
			refuse(v, "write levels: [reference, other]", "%s has %d levels, want at least two", what, len(c.Levels))
		}
		for i, l := range c.Levels {
			if l == "" || strings.TrimSpace(l) != l || contains(c.Levels[:i], l) {
				refuse(v, "name each level once, without blanks around it", "%s: level %q is empty, padded or stands twice", what, clip(l))
			}
		}
	} else if c.Levels != nil {
		refuse(v, "leave the levels or the type out", "%s of type %s takes no levels", what, c.Type)
	}
	switch {
	case missing != nil:
		c.Missing = strs(missing, what+".missing")
		for _, m := range c.Missing {
			if contains(c.Levels, m) {
				refuse(missing, "let it be one or the other", "%s: %q is both a level and a missing value", what, clip(m))
			}
		}
	case c.Type == consilium.TypeID: // a row without a patient is always an error
	default:
		for _, m := range DefaultMissing {
			if !contains(c.Levels, m) {
				c.Missing = append(c.Missing, m)
			}
		}
	}
	return c
}

func (p *parser) data(o object) {
	s := p.file.Spec
	var patient *yaml.Node
	if n := o.get("data"); n != nil {
		q := asObject(n, "data", "dataset", "patient")
		s.Data.Dataset = q.str("dataset", "")
		s.Data.Patient = q.str("patient", "")
		patient = q.get("patient")
	} else if !p.o.Simulate {
		refuse(o.key("data"), "write data: {dataset: name, patient: column}: each hospital binds the name to a table of its own", "spec.data is missing")
	}
	if s.Data.Dataset == "" {
		if !p.o.Simulate {
			refuse(o.get("data"), "name the table that each hospital binds", "data.dataset is missing")
		}
		s.Data.Dataset = s.Name
		p.assume("data.dataset: %s, the name of the study", s.Name)
	}
	var ids []string
	for i := range s.Columns {
		if s.Columns[i].Type == consilium.TypeID {
			ids = append(ids, s.Columns[i].Name)
		}
	}
	switch {
	case s.Data.Patient != "":
		c, ok := s.Column(s.Data.Patient)
		if !ok {
			all := make([]string, len(s.Columns))
			for i := range s.Columns {
				all[i] = s.Columns[i].Name
			}
			refuse(patient, suggest(s.Data.Patient, all, "column"), "data.patient %s is not a declared column", clip(s.Data.Patient))
		}
		if c.Type != consilium.TypeID {
			refuse(patient, fmt.Sprintf("declare %s: {type: id}", c.Name), "data.patient %s is a column of type %s", c.Name, c.Type)
		}
	case !p.o.Simulate:
		refuse(o.get("data"), "name the column that tells patients apart and declare it with type: id", "data.patient is missing")
	case len(ids) == 1:
		s.Data.Patient = ids[0]
		p.assume("data.patient: %s, the only column of type id", ids[0])
	case len(ids) > 1:
		refuse(o.key("data"), "write data: {patient: "+ids[0]+"}", "data.patient is missing and %s are all of type id", strings.Join(ids, ", "))
	default:
		name := "row"
		for n := 2; ; n++ {
			if _, taken := s.Column(name); !taken {
				break
			}
			name = "row" + strconv.Itoa(n)
		}
		s.Data.Patient = name
		s.Columns = append(s.Columns, consilium.Column{Name: name, Type: consilium.TypeID})
		p.file.RowPatients = true
		p.assume("data.patient: no column of type id is declared, so every row counts as one patient")
	}
}

var missingRules = []string{"wait", "abort", "continue"}

func (p *parser) sites(o object) {
	s := p.file.Spec
	s.Sites = consilium.SiteRule{Missing: "wait", Only: []consilium.SiteID{}}
	var at *yaml.Node
	if n := o.get("sites"); n != nil {
		q := asObject(n, "sites", "min", "faults", "missing", "only")
		at = q.get("min")
		s.Sites.Min = q.whole("min", 0)
		s.Sites.Faults = q.whole("faults", 0)
		if f := q.get("faults"); f != nil && s.Sites.Faults < 0 {
			refuse(f, "leave it out for the default", "sites.faults is negative")
		}
		s.Sites.Missing = q.str("missing", "wait")
		if !contains(missingRules, s.Sites.Missing) {
			refuse(q.get("missing"), suggest(s.Sites.Missing, missingRules, ""), "sites.missing is %q", clip(s.Sites.Missing))
		}
		if only := q.get("only"); only != nil {
			for i, v := range strs(only, "sites.only") {
				id := consilium.SiteID(p.label(only.Content[i], "sites.only"))
				for _, have := range s.Sites.Only {
					if have == id {
						refuse(only.Content[i], "name each hospital once", "sites.only names %s twice", v)
					}
				}
				s.Sites.Only = append(s.Sites.Only, id)
			}
		}
	}
	if n := o.get("privacy"); n != nil && n.Kind == yaml.MappingNode {
		for i := 0; i < len(n.Content); i += 2 {
			if n.Content[i].Value != "min_sites" {
				continue
			}
			v := n.Content[i+1]
			m := whole(v, "privacy.min_sites")
			if at != nil && m != s.Sites.Min {
				refuse(v, "they mean the same: keep sites.min", "privacy.min_sites is %d but sites.min is %d", m, s.Sites.Min)
			}
			s.Sites.Min, at = m, v
		}
	}
	if at == nil {
		if !p.o.Simulate {
			refuse(o.key("sites"), "write sites: {min: 5}: fewer hospitals are never summed", "sites.min is missing")
		}
		s.Sites.Min = max(3, s.Sites.Faults+2)
		p.assume("sites.min: %d", s.Sites.Min)
		return
	}
	if least := max(3, s.Sites.Faults+2); s.Sites.Min < least || s.Sites.Min > consilium.MaxSites {
		refuse(at, "with fewer, dishonest hospitals could leave one honest hospital alone in a sum",
			"sites.min is %d, want %d to %d", s.Sites.Min, least, consilium.MaxSites)
	}
	if n := len(s.Sites.Only); n > 0 && n < s.Sites.Min {
		refuse(at, "ask more hospitals", "sites.min is %d but sites.only names %d", s.Sites.Min, n)
	}
}

func (p *parser) cohort(o object) {
	n := o.get("cohort")
	if n == nil {
		return
	}
	if n.Kind != yaml.ScalarNode {
		n = asObject(n, "cohort", "where").get("where")
		if n == nil {
			return
		}
	}
	p.file.Spec.Cohort = strings.TrimSpace(str(n, "cohort.where"))
}

func (p *parser) derive(o object) {
	s := p.file.Spec
	s.Derive = []consilium.Derived{}
	n := o.get("derive")
	if n == nil {
		return
	}
	if n.Kind != yaml.MappingNode {
		refuse(n, `write derive: {bmi: "weight / (height/100)^2"}`, "spec.derive is %s, want keys and values", kindName(n))
	}
	for i := 0; i < len(n.Content); i += 2 {
		key, v := n.Content[i], n.Content[i+1]
		p.newName(key, "derived column")
		expr := strings.TrimSpace(str(v, "derive."+key.Value))
		if expr == "" {
			refuse(v, "", "derive.%s is empty", key.Value)
		}
		s.Derive = append(s.Derive, consilium.Derived{Name: key.Value, Expr: expr})
	}
}

func (p *parser) seed(o object) {
	p.file.Spec.Seed = 1
	n := o.get("seed")
	if n == nil {
		return
	}
	v, err := strconv.ParseUint(n.Value, 10, 64)
	// RFC 8785 numbers are doubles.
	if n.Kind != yaml.ScalarNode || err != nil || v > 1<<53 {
		refuse(n, "", "spec.seed is %s, want a whole number from 0 to 2^53", kindName(n))
	}
	p.file.Spec.Seed = v
}

func (p *parser) privacy(o object) {
	s := p.file.Spec
	s.Privacy = consilium.Privacy{MinCohort: DefaultMinCohort, Permits: []string{}}
	n := o.get("privacy")
	if n == nil {
		return
	}
	q := asObject(n, "privacy", "min_cohort", "min_sites", "permits", "dp")
	s.Privacy.MinCohort = q.whole("min_cohort", DefaultMinCohort)
	if s.Privacy.MinCohort < 1 {
		refuse(q.get("min_cohort"), "the usual value is 11", "privacy.min_cohort is %d, want at least 1", s.Privacy.MinCohort)
	}
	if v := q.strs("permits"); v != nil {
		for i := range v {
			p.label(q.get("permits").Content[i], "privacy.permits")
			if contains(v[:i], v[i]) {
				refuse(q.get("permits").Content[i], "name it once", "privacy.permits names %s twice", v[i])
			}
		}
		s.Privacy.Permits = v
	}
	if d := q.get("dp"); d != nil {
		q := asObject(d, "privacy.dp", "epsilon", "delta", "clip")
		s.Privacy.DP = &consilium.DP{Epsilon: q.num("epsilon", 0), Delta: q.num("delta", 0), Clip: q.num("clip", 0)}
		if dp := s.Privacy.DP; !(dp.Epsilon > 0) || !(dp.Delta > 0 && dp.Delta < 1) || !(dp.Clip > 0) {
			refuse(d, "write for example dp: {epsilon: 2, delta: 1e-5, clip: 1}", "privacy.dp needs epsilon, delta (below 1) and clip, all above 0")
		}
	}
}

func (p *parser) rounds(o object) {
	s := p.file.Spec
	s.Rounds = consilium.Rounds{Max: DefaultMaxRounds, Tolerance: DefaultTolerance, Deadline: DefaultDeadline}
	// Training asks for its own number of rounds and two more: moments before,
	// evaluation after; with patience for a third, to evaluate the best model.
	need := 0
	for _, a := range s.Analyses {
		if a.Strategy != nil {
			need = max(need, a.Strategy.Rounds+2+min(a.Strategy.Patience, 1))
		}
	}
	s.Rounds.Max += need
	n := o.get("rounds")
	if n == nil {
		return
	}
	q := asObject(n, "rounds", "max", "tolerance", "deadline")
	s.Rounds.Max = q.whole("max", s.Rounds.Max)
	if s.Rounds.Max < 1 || s.Rounds.Max > 100000 {
		refuse(q.get("max"), "", "rounds.max is %d, want 1 to 100000", s.Rounds.Max)
	}
	if s.Rounds.Max < need {
		refuse(q.get("max"), "raise it", "rounds.max is %d, but the training needs %d: its own, and those before and after it", s.Rounds.Max, need)
	}
	s.Rounds.Tolerance = q.num("tolerance", DefaultTolerance)
	if !(s.Rounds.Tolerance > 0) || math.IsInf(s.Rounds.Tolerance, 0) {
		refuse(q.get("tolerance"), "the usual value is 1e-9", "rounds.tolerance is %v, want above 0", s.Rounds.Tolerance)
	}
	if d := q.get("deadline"); d != nil {
		s.Rounds.Deadline = seconds(d, "rounds.deadline")
	}
}
