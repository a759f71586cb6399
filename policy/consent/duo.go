package consent

import (
	"fmt"
	"slices"
	"strings"
)

// Code is a Data Use Ontology code with what it needs beside it.
type Code struct {
	ID   string   // "DUO:0000022"
	Args []string // countries, institutions, users, projects, MONDO ids, or one date

	done bool
}

// settled codes were turned into something else that is checked (a time, a
// place), or were compared with the study, and need not reach the row rules.
func (c Code) settled() bool { return c.done }

// Study is what the matching asks of a study.
type Study struct {
	Disease      string   // MONDO id, or ""
	Ancestors    []string // of the disease, itself not included
	Uses         []string // DUO codes that the study states: investigations and undertakings
	Commercial   bool
	ForProfit    bool
	Countries    []string // in which anything is processed or received
	Institutions []string
	Users        []string
	Project      string
	Research     bool
	Now          int64 // Unix seconds
}

func (s *Study) states(id string) bool { return slices.Contains(s.Uses, id) }

// Match holds a study against the codes of a consent by the ontology's matching
// table and says why it does not fit; nothing means that it fits. area is the
// disease of a disease-specific consent.
func Match(codes []Code, area string, s *Study) []string {
	var bad []string
	no := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	if !s.Research {
		return []string{"the study is not research"}
	}
	ancestry := s.states("DUO:0000033")
	disease := func(args []string) bool {
		if s.Disease == "" {
			return false
		}
		if len(args) == 0 {
			args = []string{area}
		}
		return slices.ContainsFunc(args, func(a string) bool { return a != "" && (a == s.Disease || slices.Contains(s.Ancestors, a)) })
	}
	covered, specific := false, false
	for _, c := range codes {
		switch c.ID {
		case "DUO:0000004", "DUO:0000042": // NRES, GRU
			covered = true
		case "DUO:0000006": // HMB
			covered = covered || s.Disease != "" && !ancestry
		case "DUO:0000007": // DS
			specific = specific || disease(c.Args)
			covered = covered || disease(c.Args) && !ancestry
		case "DUO:0000011": // POA
			covered = covered || ancestry
		}
	}
	if !covered {
		no("no permission among the consent's codes covers the study")
	}
	one := func(list, allowed []string) bool {
		return len(list) > 0 && !slices.ContainsFunc(list, func(x string) bool { return !slices.Contains(allowed, x) })
	}
	for _, c := range codes {
		switch c.ID {
		case "DUO:0000004", "DUO:0000042", "DUO:0000006", "DUO:0000007", "DUO:0000011", "DUO:0000043":
		case "DUO:0000012": // RS: the type must be one that the study states
			if !one(c.Args, s.Uses) {
				no("the consent is for research of a type that the study does not state (RS)")
			}
		case "DUO:0000015": // NMDS
			if s.states("DUO:0000031") && !specific {
				no("method development outside the consent's disease (NMDS)")
			}
		case "DUO:0000016": // GSO
			if !s.states("DUO:0000038") {
				no("the consent is for genetic studies only (GSO)")
			}
		case "DUO:0000018": // NPUNCU
			if s.Commercial || s.ForProfit {
				no("neither for profit nor commercial (NPUNCU)")
			}
		case "DUO:0000045": // NPU
			if s.ForProfit || s.Commercial {
				no("not for those who work for profit (NPU)")
			}
		case "DUO:0000046": // NCU
			if s.Commercial {
				no("not for commercial use (NCU)")
			}
		case "DUO:0000044": // NPOA
			if ancestry {
				no("no research on populations or ancestry (NPOA)")
			}
		case "DUO:0000019", "DUO:0000020", "DUO:0000021", "DUO:0000029": // PUB, COL, IRB, RTN
			if !s.states(c.ID) {
				no("the study does not undertake what the consent asks for (%s)", c.ID)
			}
		case "DUO:0000022": // GS
			if !one(s.Countries, c.Args) {
				no("outside the places that the consent names (GS)")
			}
		case "DUO:0000028": // IS
			if !one(s.Institutions, c.Args) {
				no("outside the institutions that the consent names (IS)")
			}
		case "DUO:0000026": // US
			if !one(s.Users, c.Args) {
				no("users that the consent does not name (US)")
			}
		case "DUO:0000027": // PS
			if !slices.Contains(c.Args, s.Project) || s.Project == "" {
				no("another project than the consent names (PS)")
			}
		case "DUO:0000025": // TS
			if len(c.Args) != 1 {
				no("a limit of time without a date (TS)")
			} else if _, until, err := instant(c.Args[0]); err != nil || s.Now >= until {
				no("the time that the consent names has passed (TS)")
			}
		case "DUO:0000024": // MOR: nothing may be published before the date
			if len(c.Args) != 1 {
				no("a moratorium without a date (MOR)")
			} else if from, _, err := instant(c.Args[0]); err != nil || s.Now < from {
				no("publication is not permitted yet (MOR)")
			}
		default:
			no("%s is unknown, deprecated or no code of a consent", clip(c.ID))
		}
	}
	return bad
}

// FromDUO makes a Form of codes alone, as data sets carry them.
func FromDUO(codes []Code, given string) *Form {
	f := &Form{Source: "DUO", Status: StatusActive, Base: true, Until: Never, Uses: codes, Area: "any", GivenBy: given}
	if len(codes) == 0 {
		f.deny("no code at all")
	}
	for i := range f.Uses {
		c := &f.Uses[i]
		switch c.ID {
		case "DUO:0000007":
			if len(c.Args) != 1 || !strings.HasPrefix(c.Args[0], "MONDO:") {
				f.deny("disease-specific consent (DS) needs one MONDO code")
			} else {
				f.Area = c.Args[0]
			}
		case "DUO:0000025":
			if len(c.Args) == 1 {
				if _, until, err := instant(c.Args[0]); err == nil {
					f.Until = min(f.Until, until)
				}
			}
			c.done = true
		case "DUO:0000012", "DUO:0000022", "DUO:0000024", "DUO:0000026", "DUO:0000027", "DUO:0000028":
			c.done = true // Match compares the words; the row rules know codes only
		}
	}
	return f
}
