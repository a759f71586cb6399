package policy

import (
	"encoding/json"
	"fmt"
	"slices"

	"consilium"
	"consilium/internal/canon"
)

// What `simulate` assumes for anybody's table. A simulation is one person's
// trial of the software on a table that already lies in one place, so these
// facts are invented; they are listed in the result and admit nothing in a
// federation, where every hospital files its own.

// defaultDay is when everything assumed began.
const defaultDay = "2000-01-01"

// DefaultCountry is where simulated hospitals, coordinators and teams are.
const DefaultCountry = "US"

// DefaultRegimes are the regime ids of simulated hospitals.
func DefaultRegimes() []string { return []string{"HIPAA", "COMMON_RULE"} }

// DefaultTeam is the id of a simulation's team: the data use agreement of
// DefaultSite names it as the recipient.
const DefaultTeam = "team"

// DefaultPurpose is research on no named disease.
func DefaultPurpose() consilium.Purpose {
	return consilium.Purpose{DUO: []string{"DUO:0000042"}, Class: "scientific_research"}
}

// Assumptions says in sentences what the defaults stand for.
func Assumptions() []string {
	return []string{
		"law: every site is taken for a US hospital under HIPAA and the Common Rule that shares a limited data set under a data use agreement",
		"purpose: scientific research (DUO:0000042, general research use) where the study file names none",
		"legal: the study has no end before 2100, its protocol justifies every declared column, working copies are deleted within a month of its end",
		"consent: every patient is taken to have consented to this study, personally and explicitly, for every category of data that it declares",
	}
}

// Permits lists the exceptions that the core rules know and a board may grant,
// ascending.
func Permits() []string {
	var law struct {
		Permits map[string]string `json:"permits"`
	}
	b, ok := DefaultBundle().File("law/law.json")
	if !ok || json.Unmarshal(b, &law) != nil {
		panic("policy: the embedded law does not parse")
	}
	return sortedKeys(law.Permits)
}

// DefaultBoard is the core with a board that grants permits and nothing else:
// what a simulation assumes of a study that asks for exceptions.
func DefaultBoard(permits []string) Bundle {
	b, err := canon.Marshal(map[string]any{
		"apiVersion": consilium.APIVersion, "kind": "BoardPolicy", "board": "simulation", "permits": permits,
		"minCohort": 1, "minSites": 1, "assessments": []any{},
	})
	if err != nil {
		panic("policy: " + err.Error()) // strings only
	}
	return DefaultBundle().With("board/simulation/board.json", b)
}

// legalBlock is the legal block of a study file.
type legalBlock struct {
	Start              string           `json:"start"`
	End                string           `json:"end"`
	Protocol           string           `json:"protocol"`
	ProtocolColumns    []string         `json:"protocolColumns"`
	Commercial         bool             `json:"commercial"`
	Safeguards         legalSafeguards  `json:"safeguards"`
	IdentifiableReason string           `json:"identifiableReason"`
	Retention          []legalRetention `json:"retention"`
	Assessment         string           `json:"assessment"`
}

type legalSafeguards struct {
	Pseudonymised      bool `json:"pseudonymised"`
	Minimised          bool `json:"minimised"`
	AccessLogged       bool `json:"accessLogged"`
	NoReidentification bool `json:"noReidentification"`
}

type legalRetention struct {
	Object    string  `json:"object"`
	DeleteBy  *string `json:"deleteBy"`
	KeepUntil *string `json:"keepUntil"`
}

// DefaultLegal is the legal block for a specification. It holds no clock
// time, so that the same simulation has the same bytes every day.
func DefaultLegal(spec *consilium.Spec) json.RawMessage {
	columns := []string{}
	for _, c := range spec.Columns {
		columns = append(columns, c.Name)
	}
	working, evidence := "2100-02-01", "2110-01-01"
	b, err := canon.Marshal(legalBlock{
		Start: defaultDay, End: "2100-01-01", Protocol: "simulation", ProtocolColumns: columns,
		Safeguards: legalSafeguards{true, true, true, true},
		Retention: []legalRetention{
			{Object: "working_copies", DeleteBy: &working},
			{Object: "evidence", KeepUntil: &evidence},
		},
	})
	if err != nil {
		panic("policy: " + err.Error()) // strings and booleans only
	}
	return b
}

// AssumeTags gives every identifier and date column of spec that has no tag
// the one that its type implies, and returns what it assumed. Dates get C,
// other identifiers R (45 CFR 164.514(b)(2)).
func AssumeTags(spec *consilium.Spec) []string {
	var out []string
	for i := range spec.Columns {
		c := &spec.Columns[i]
		if c.Tag != "" || c.Name == spec.Data.Patient {
			continue
		}
		switch c.Type {
		case consilium.TypeDate:
			c.Tag = "C"
		case consilium.TypeID:
			c.Tag = "R"
		default:
			continue
		}
		out = append(out, fmt.Sprintf("columns: %s is taken for identifier tag %s", c.Name, c.Tag))
	}
	return out
}

// DefaultSite is the document that a simulated hospital files. country must
// be DefaultCountry; another one would need another law.
func DefaultSite(id consilium.SiteID) (*SiteFacts, error) {
	const day = defaultDay
	doc := map[string]any{
		"apiVersion": consilium.APIVersion, "kind": "SiteFacts", "site": id, "country": DefaultCountry, "regimes": DefaultRegimes(),
		"body": "private", "consent": "required", "categories": categories, "drop": []string{},
		"hipaa": map[string]any{
			"status": "covered_entity", "path": "lds", "coordinator": "named",
			"dua": map[string]any{
				"signed": day, "uses": "research", "users": []string{DefaultTeam}, "noFurtherUse": true, "safeguards": true,
				"report": true, "agents": true, "noIdentifyContact": true,
			},
			"waiver": nil, "authorization": nil, "expert": nil, "actualKnowledge": false, "disclosuresLogged": true,
		},
		"commonRule": map[string]any{
			"assurance": "simulated", "irb": "simulated", "determination": "46.104(d)(4)(iii)", "decided": day, "publiclyAvailable": false,
			"recordedWithoutIdentity": false, "noContact": true, "noReidentification": true, "origin": "care", "federal": false,
			"waiverCriteria": false, "consentDocumented": false,
		},
		"privacyAct": nil, "confidentiality": nil, "dataSecurity": nil, "state": nil, "gdpr": nil, "nl": nil, "dk": nil, "hra": nil, "zhIdg": nil,
	}
	b, err := canon.Marshal(doc)
	if err != nil {
		return nil, err
	}
	return ParseSiteFacts(b)
}

// DefaultSubject is a patient who consented to this study: what a simulation
// assumes, and a fair start for tests.
func DefaultSubject(patient [16]byte, spec *consilium.Spec, now int64) Subject {
	s := Subject{
		Patient: patient, Status: "active", Explicit: true, Evidence: true, Purposes: []string{"DUO:0000042"}, Area: "any",
		ValidFrom: now - 86400, ValidTo: Never, WithdrawnAt: Never, GivenBy: "self", IsAdultNow: true, CitizenOrLPR: true,
		HRAGeneral: true, HRAGenetic: true, HRAInformed: true, OptedOutAt: Never,
	}
	if spec.Purpose.Disease != "" {
		s.Area, s.Purposes = spec.Purpose.Disease, []string{"DUO:0000007"}
	}
	for _, c := range spec.Columns {
		category := c.Category
		if category == "" {
			category = "general"
		}
		if !slices.Contains(s.Categories, category) {
			s.Categories = append(s.Categories, category)
		}
	}
	slices.Sort(s.Categories)
	return s
}
