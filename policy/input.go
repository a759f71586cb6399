package policy

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"consilium"
	"consilium/internal/canon"
)

// Input is one question. Which parts a point needs:
//
//	study       Study, Federation
//	site        Study, Federation, Site; Cohort once the rows have been read
//	columns     Study, Federation, Site
//	transfer    Study, Federation, Site, Artefact
//	release     Study, Federation, Site, Release
//	withdrawal  Site, Event
//	rows        Study, Federation, Site (FilterRows adds the record)
//
// A missing part, or one too many, denies with INPUT_SHAPE.
type Input struct {
	Now        int64 // Unix seconds of the asking hospital's own clock
	Study      *Study
	Federation *Federation
	Site       *SiteFacts
	Cohort     *CohortFacts // of point site
	Artefact   *Artefact
	Release    *ReleaseFacts
	Event      *Event
	Record     *Record
}

// Study is what a specification says, as the rules see it.
type Study struct {
	ID        string           `json:"id"`
	Spec      consilium.Digest `json:"spec"`
	Name      string           `json:"name"`
	Dataset   string           `json:"dataset"`
	Purpose   StudyPurpose     `json:"purpose"`
	Columns   []StudyColumn    `json:"columns"`
	Analyses  []StudyAnalysis  `json:"analyses"`
	MinSites  int              `json:"min_sites"`
	MinCohort int              `json:"min_cohort"`
	Permits   []string         `json:"permits"`
	DP        bool             `json:"dp"`
	Legal     json.RawMessage  `json:"legal"`
}

// StudyPurpose is the specification's purpose.
type StudyPurpose struct {
	DUO     []string `json:"duo"`
	Disease string   `json:"disease"`
	Class   string   `json:"class"`
}

// StudyColumn is one declared column.
type StudyColumn struct {
	Name     string `json:"name"`
	Type     string `json:"type"`
	Category string `json:"category"`
	Tag      string `json:"tag"`
	Upper    int64  `json:"upper"` // the upper bound, rounded up; Never without bounds
	Used     bool   `json:"used"`
	Patient  bool   `json:"patient"`
}

// StudyAnalysis is one analysis.
type StudyAnalysis struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// NewStudy reads a specification. id may be empty before a study is
// submitted; payload is the specification's exact bytes.
func NewStudy(id consilium.StudyID, payload []byte) (*Study, error) {
	spec, err := consilium.ParseSpec(payload)
	if err != nil {
		return nil, consilium.ErrInvalid.With(err)
	}
	return studyOf(id, consilium.SpecDigest(payload), spec), nil
}

func studyOf(id consilium.StudyID, digest consilium.Digest, spec *consilium.Spec) *Study {
	s := &Study{
		ID: string(id), Spec: digest, Name: spec.Name, Dataset: spec.Data.Dataset,
		Purpose:  StudyPurpose{DUO: orEmpty(spec.Purpose.DUO), Disease: spec.Purpose.Disease, Class: spec.Purpose.Class},
		MinSites: spec.Sites.Min, MinCohort: spec.Privacy.MinCohort, Permits: orEmpty(spec.Privacy.Permits),
		DP: spec.Privacy.DP != nil, Legal: spec.Legal, Columns: []StudyColumn{}, Analyses: []StudyAnalysis{},
	}
	used := UsedColumns(spec)
	for _, c := range spec.Columns {
		category := c.Category
		if category == "" {
			category = "general"
		}
		upper := Never
		if c.Bounds != nil && c.Bounds[1] < float64(Never) {
			upper = int64(math.Ceil(c.Bounds[1]))
		}
		s.Columns = append(s.Columns, StudyColumn{
			Name: c.Name, Type: string(c.Type), Category: category, Tag: c.Tag, Upper: upper,
			Used: slices.Contains(used, c.Name), Patient: c.Name == spec.Data.Patient,
		})
	}
	for _, a := range spec.Analyses {
		s.Analyses = append(s.Analyses, StudyAnalysis{Name: a.Name, Type: a.Type})
	}
	return s
}

// UsedColumns lists the declared columns that an analysis, the cohort or a
// derived column reads, in declared order. Expressions are read word by word, so
// a column whose name merely occurs in one counts as used.
func UsedColumns(spec *consilium.Spec) []string {
	read := map[string]bool{}
	derived := map[string]string{}
	for _, d := range spec.Derive {
		derived[d.Name] = d.Expr
	}
	var add func(names ...string)
	words := func(expr string) {
		start := -1
		for i := 0; i <= len(expr); i++ {
			if i < len(expr) && isWord(expr[i]) {
				if start < 0 {
					start = i
				}
				continue
			}
			if start >= 0 {
				add(expr[start:i])
				start = -1
			}
		}
	}
	add = func(names ...string) {
		for _, n := range names {
			if n == "" || read[n] {
				continue
			}
			read[n] = true
			if e, ok := derived[n]; ok {
				words(e)
			}
		}
	}
	words(spec.Cohort)
	for i := range spec.Analyses {
		a := &spec.Analyses[i]
		if r := a.Response; r != nil {
			add(r.Column, r.Start, r.Stop, r.Event)
		}
		for _, t := range a.Terms {
			words(t)
		}
		if a.Offset != nil {
			add(a.Offset.Column)
		}
		for _, l := range [][]string{a.Strata, a.By, a.Variables, a.Features, {a.Cluster, a.Rows, a.Columns}} {
			for _, n := range l {
				words(n)
			}
		}
		for n := range a.Histogram {
			add(n)
		}
	}
	var out []string
	for _, c := range spec.Columns {
		if read[c.Name] {
			out = append(out, c.Name)
		}
	}
	return out
}

func isWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '.'
}

// Federation is who takes part, as the roster says.
type Federation struct {
	Sites        []FederationSite `json:"sites"`
	Coordinators []FederationNode `json:"coordinators"`
	Team         FederationNode   `json:"team"`
}

// FederationSite is one hospital that the study asks.
type FederationSite struct {
	ID       string   `json:"id"`
	Country  string   `json:"country"`
	Operator string   `json:"operator"`
	Regimes  []string `json:"regimes"`
}

// FederationNode is a coordinator node or a team.
type FederationNode struct {
	ID      string `json:"id"`
	Country string `json:"country"`
}

// NewFederation lists whom a study of team concerns: every coordinator node,
// and the hospitals that it asks (only, or all of the roster's when only is
// empty).
func NewFederation(r *consilium.Roster, team consilium.ResearcherID, only []consilium.SiteID) (*Federation, error) {
	f := &Federation{Sites: []FederationSite{}, Coordinators: []FederationNode{}}
	t, ok := r.Researcher(team)
	if !ok {
		return nil, consilium.ErrUnauthenticated.Withf("team %s is not in the roster", team)
	}
	f.Team = FederationNode{ID: string(t.ID), Country: t.Country}
	for _, id := range only {
		if _, ok := r.Site(id); !ok {
			return nil, consilium.ErrInvalid.Withf("the study asks %s, which is not in the roster", id)
		}
	}
	for _, s := range r.Sites {
		if len(only) == 0 || slices.Contains(only, s.ID) {
			f.Sites = append(f.Sites, FederationSite{ID: string(s.ID), Country: s.Country, Operator: s.Operator, Regimes: orEmpty(s.Regimes)})
		}
	}
	for _, c := range r.Coordinators {
		f.Coordinators = append(f.Coordinators, FederationNode{ID: string(c.ID), Country: c.Country})
	}
	return f, nil
}

// SiteFacts is what one hospital files. The rules read every field; Go code
// reads only these.
type SiteFacts struct {
	Site    consilium.SiteID
	Country string
	Regimes []string

	doc json.RawMessage
}

// ParseSiteFacts checks a document against the schema. The error names the
// place and, for an unknown field, the nearest right one.
func ParseSiteFacts(b []byte) (*SiteFacts, error) {
	if len(b) > MaxInput {
		return nil, consilium.ErrTooLarge.Withf("site facts of %d bytes", len(b))
	}
	all, err := allSchemas()
	if err != nil {
		return nil, err
	}
	v, err := decode(b)
	if err == nil {
		_, err = all.check("site", v)
	}
	if err != nil {
		return nil, consilium.ErrInvalid.Withf("site facts: %w", err)
	}
	f := &SiteFacts{}
	var head struct {
		Site    consilium.SiteID `json:"site"`
		Country string           `json:"country"`
		Regimes []string         `json:"regimes"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, consilium.ErrInvalid.Withf("site facts: %w", err)
	}
	f.Site, f.Country, f.Regimes = head.Site, head.Country, head.Regimes
	if f.doc, err = canon.Marshal(json.RawMessage(b)); err != nil {
		return nil, consilium.ErrInvalid.Withf("site facts: %w", err)
	}
	return f, nil
}

// ParseSiteFactsList reads a list of documents, one for each hospital.
func ParseSiteFactsList(b []byte) ([]*SiteFacts, error) {
	var raw []json.RawMessage
	if err := strict(b, &raw); err != nil {
		return nil, consilium.ErrInvalid.Withf("site facts: %w", err)
	}
	var out []*SiteFacts
	for i, r := range raw {
		f, err := ParseSiteFacts(r)
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", i+1, err)
		}
		if slices.ContainsFunc(out, func(g *SiteFacts) bool { return g.Site == f.Site }) {
			return nil, consilium.ErrInvalid.Withf("site facts: %s stands twice", f.Site)
		}
		out = append(out, f)
	}
	return out, nil
}

// JSON is the document in canonical form.
func (f *SiteFacts) JSON() []byte { return slices.Clone(f.doc) }

// MarshalJSON writes the whole document.
func (f *SiteFacts) MarshalJSON() ([]byte, error) { return f.doc, nil }

// UnmarshalJSON reads the whole document with ParseSiteFacts's rules.
func (f *SiteFacts) UnmarshalJSON(b []byte) error {
	g, err := ParseSiteFacts(b)
	if err != nil {
		return err
	}
	*f = *g
	return nil
}

// CheckLegal validates the legal block of a study file against the schema.
func CheckLegal(legal []byte) error {
	all, err := allSchemas()
	if err != nil {
		return err
	}
	v, err := decode(legal)
	if err == nil {
		_, err = all.check("legal", v)
	}
	if err != nil {
		return consilium.ErrInvalid.Withf("%w", err)
	}
	return nil
}

// Artefact classes that leave a hospital.
const (
	ClassCiphertext   = "ciphertext_update" // an encrypted vector, to a coordinator
	ClassKeyShare     = "key_share"         // sealed to one hospital, carried by a coordinator
	ClassOpeningShare = "opening_share"     // sealed to the group, carried by a coordinator
	ClassAggregate    = "aggregate"         // an opened sum
	ClassRoundState   = "round_state"       // what follows from opened sums
	ClassSealedState  = "sealed_state"      // a state sealed to the group, carried by a coordinator
	ClassResult       = "anonymous_result"  // a released result, to the team
)

// Artefact is one kind of message for one recipient.
type Artefact struct {
	Class              string `json:"class"`
	To                 string `json:"to"`   // id in the federation
	Role               string `json:"role"` // site, coordinator or team
	KeySharesReachable int    `json:"keySharesReachable"`
	Threshold          int    `json:"threshold"` // t of the charter
}

// ReleaseFacts describes an opened result.
type ReleaseFacts struct {
	Patients           int64   `json:"patients"`
	Contributors       int     `json:"contributors"`
	SmallestCell       int64   `json:"smallestCell"` // smallest published or derivable count above 0; Never when there is none
	DP                 bool    `json:"dp"`
	EpsilonSpentMicro  int64   `json:"epsilonSpentMicro"` // in millionths
	EpsilonBudgetMicro int64   `json:"epsilonBudgetMicro"`
	Prior              []Prior `json:"prior"` // earlier releases of the same question
	ContainsRecords    bool    `json:"containsRecords"`
}

// Prior is an earlier release of the same question.
type Prior struct {
	Difference int64 `json:"difference"` // patients by which the cohorts differ
}

// CohortFacts is what came of reading the rows, beside what was opened before.
type CohortFacts struct {
	Differences []int64 `json:"differences"` // of Differences; ascending, each once
}

// Event kinds.
const (
	EventWithdrawal = "withdrawal"
	EventObjection  = "objection"
	EventErasure    = "erasure"
)

// Event is what a patient declares.
type Event struct {
	Kind                 string `json:"kind"`
	At                   int64  `json:"at"`
	ConsentWasSoleGround bool   `json:"consentWasSoleGround"`
	ImpairmentDocumented string `json:"impairmentDocumented"`
}

// NewEvent is what the rules are asked when a patient declares something at a
// hospital. impairment is the id of the document that erasure would seriously
// impair the research (GDPR Art. 17(3)(d)), or "". Whether consent was the only
// ground follows from what the hospital filed; where it filed no other ground it was.
// An event that does not fit the schema is an error: the rules would refuse the whole
// question, and say no more.
func NewEvent(kind string, facts *SiteFacts, at int64, impairment string) (*Event, error) {
	var doc struct {
		Consent string  `json:"consent"`
		GDPR    *ground `json:"gdpr"`
		UK      *ground `json:"uk"`
	}
	if err := json.Unmarshal(facts.doc, &doc); err != nil {
		return nil, err
	}
	e := &Event{Kind: kind, At: at, ImpairmentDocumented: impairment, ConsentWasSoleGround: doc.Consent != "where_given"}
	if eu, uk := slices.Contains(facts.Regimes, "GDPR"), slices.Contains(facts.Regimes, "UKGDPR"); eu || uk {
		// Under each law that holds there must be another ground.
		e.ConsentWasSoleGround = eu && !doc.GDPR.beside() || uk && !doc.UK.beside()
	}
	all, err := allSchemas()
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	v, err := decode(b)
	if err == nil {
		_, err = all.check("event", v)
	}
	if err != nil {
		return nil, consilium.ErrInvalid.Withf("%w", err)
	}
	return e, nil
}

// ground is on what a hospital uses records of health, GDPR Art. 6 and 9.
type ground struct {
	Art6 string `json:"art6"`
	Art9 string `json:"art9"`
}

// beside reports a ground beside consent, in both articles.
func (g *ground) beside() bool {
	return g != nil && g.Art9 != "" && g.Art9 != "9.2.a" && slices.ContainsFunc(strings.Split(g.Art6, ","), func(s string) bool { return s != "" && s != "6.1.a" })
}

// encode is the question's one encoding. Parts that are nil are left out and
// then missed by the schema of a point that needs them.
func (in Input) encode(p Point) ([]byte, error) {
	m := map[string]any{"point": p, "now": in.Now}
	if in.Study != nil {
		s := *in.Study
		s.Purpose.DUO, s.Permits = orEmpty(s.Purpose.DUO), orEmpty(s.Permits)
		s.Columns, s.Analyses = orEmpty(s.Columns), orEmpty(s.Analyses)
		if len(s.Legal) == 0 {
			s.Legal = json.RawMessage("null")
		}
		m["study"] = s
	}
	if in.Federation != nil {
		m["federation"] = in.Federation
	}
	if in.Site != nil {
		m["site"] = in.Site
	}
	if in.Cohort != nil {
		c := *in.Cohort
		c.Differences = orEmpty(c.Differences)
		m["cohort"] = c
	}
	if in.Artefact != nil {
		m["artefact"] = in.Artefact
	}
	if in.Release != nil {
		r := *in.Release
		r.Prior = orEmpty(r.Prior)
		m["release"] = r
	}
	if in.Event != nil {
		m["event"] = in.Event
	}
	if in.Record != nil {
		m["record"] = in.Record
	}
	return canon.Marshal(m)
}
