package report

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"strings"
)

//go:embed page.html
var pageSource string

//go:embed style.css
var styleSource string

// Extras is what the caller knows beside result.json. All of it is optional.
type Extras struct {
	Title    string        // default: the study's name
	Question string        // default: the result's question
	TimeUnit string        // of survival times, for example days
	Sites    []Contributor // default: the result's lists of site ids
	Problems []Problem     // what went wrong, in the order it happened
	Tables   []Table       // comparisons, for example with a reference
	Audit    []Fact        // lines of the audit summary, after the run's own
	Files    []string      // names of files beside the report
}

// Contributor is one hospital and what became of its part.
type Contributor struct {
	Name    string // as people call it
	Country string
	Regime  string // the law it works under
	Status  string // contributed, excluded, declined, …
	Detail  string // why, or ""
}

// Problem is something that went wrong and what came of it.
type Problem struct{ What, Where, Outcome string }

// Fact is one line of the audit summary.
type Fact struct{ Name, Value string }

// Table is a table of text.
type Table struct {
	Caption string
	Head    []string
	Rows    [][]string
}

// document is result.json as far as the page shows it.
type document struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Result     json.RawMessage `json:"result"`
	Run        runPart         `json:"run"`
}

type runPart struct {
	Software  string      `json:"software"`
	Rounds    json.Number `json:"rounds"`
	BytesUp   json.Number `json:"bytes_up"`
	BytesDown json.Number `json:"bytes_down"`
	Seconds   json.Number `json:"seconds"`
	Audit     struct {
		Checkpoint string `json:"checkpoint"`
		Verified   *bool  `json:"verified"`
	} `json:"audit"`
}

type resultPart struct {
	Study    string `json:"study"`
	Question string `json:"question"`
	Charter  string `json:"charter"`
	Sites    struct {
		Enrolled     json.Number `json:"enrolled"`
		Contributed  json.Number `json:"contributed"`
		Contributors []string    `json:"contributors"`
		Excluded     []string    `json:"excluded"`
	} `json:"sites"`
	MinCohort   json.Number       `json:"min_cohort"`
	Permits     []string          `json:"permits"`
	Analyses    []json.RawMessage `json:"analyses"`
	Assumptions []string          `json:"assumptions"`
	Warnings    []string          `json:"warnings"`
}

// page is what the template sees.
type page struct {
	Style        template.CSS
	Title        string
	Question     string
	Charter      string
	Enrolled     string
	Contributed  string
	Cards        []Fact
	Sites        []Contributor
	Sections     []*section
	Problems     []Problem
	Tables       []Table
	Assumptions  []string
	Warnings     []string
	Audit        []Fact
	Files        []string
	Software     string
	AnySections  bool
	MinCohort    string
	Permits      string
	ShowDetail   bool
	ShowRegime   bool
	SingleResult bool
}

var tmpl = template.Must(template.New("page").Parse(pageSource))

// Write renders the whole of result.json (both halves) with the caller's extras.
func Write(w io.Writer, resultJSON []byte, x Extras) error {
	var doc document
	if err := json.Unmarshal(resultJSON, &doc); err != nil {
		return fmt.Errorf("report: result.json: %w", err)
	}
	if doc.Kind != "Result" || len(doc.Result) == 0 {
		return fmt.Errorf("report: result.json has kind %q, want Result", doc.Kind)
	}
	var r resultPart
	if err := json.Unmarshal(doc.Result, &r); err != nil {
		return fmt.Errorf("report: result.json: %w", err)
	}
	analyses := r.Analyses
	single := analyses == nil
	if single {
		analyses = []json.RawMessage{doc.Result}
	}
	p := &page{Style: template.CSS(styleSource), Title: first(x.Title, r.Study, "Study result"), Question: first(x.Question, r.Question),
		Charter: r.Charter, Enrolled: r.Sites.Enrolled.String(), Contributed: r.Sites.Contributed.String(),
		Problems: x.Problems, Tables: x.Tables, Files: x.Files, Software: doc.Run.Software,
		MinCohort: r.MinCohort.String(), Permits: strings.Join(r.Permits, ", "), SingleResult: single}
	if !single { // else they are the section's own
		p.Assumptions, p.Warnings = r.Assumptions, r.Warnings
	}
	for i, raw := range analyses {
		s, err := newSection(raw, i, x.TimeUnit)
		if err != nil {
			return fmt.Errorf("report: analysis %d: %w", i+1, err)
		}
		p.Sections = append(p.Sections, s)
	}
	p.Sites = x.Sites
	if p.Sites == nil {
		for _, s := range r.Sites.Contributors {
			p.Sites = append(p.Sites, Contributor{Name: s, Status: "contributed"})
		}
		for _, s := range r.Sites.Excluded {
			p.Sites = append(p.Sites, Contributor{Name: s, Status: "excluded"})
		}
	}
	for _, s := range p.Sites {
		p.ShowDetail = p.ShowDetail || s.Detail != ""
		p.ShowRegime = p.ShowRegime || s.Regime != "" || s.Country != ""
	}
	p.cards(doc.Run)
	p.audit(doc.Run, r, x.Audit)
	var b bytes.Buffer
	if err := tmpl.Execute(&b, p); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	_, err := w.Write(b.Bytes())
	return err
}

func first(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}

func (p *page) cards(run runPart) {
	add := func(name, value string) {
		if value != "" {
			p.Cards = append(p.Cards, Fact{name, value})
		}
	}
	if p.Contributed != "" {
		v := p.Contributed
		if p.Enrolled != "" && p.Enrolled != p.Contributed {
			v += " of " + p.Enrolled
		}
		add("hospitals contributed", v)
	}
	best := func(get func(*section) *json.Number) string {
		text, most := "", -1.0
		for _, s := range p.Sections {
			if n := get(s); n != nil {
				if v, err := n.Float64(); err == nil && v > most {
					text, most = group(n.String()), v
				}
			}
		}
		return text
	}
	add("patients", best(func(s *section) *json.Number { return s.Patients }))
	add("rows", best(func(s *section) *json.Number { return s.Rows }))
	add("events", best(func(s *section) *json.Number { return s.Events }))
	add("encrypted rounds", run.Rounds.String())
}

func (p *page) audit(run runPart, r resultPart, more []Fact) {
	add := func(name, value string) {
		if value != "" {
			p.Audit = append(p.Audit, Fact{name, value})
		}
	}
	if v := run.Audit.Verified; v != nil {
		if *v {
			add("Audit trail", "verified")
		} else {
			add("Audit trail", "NOT verified")
		}
	}
	add("Checkpoint", run.Audit.Checkpoint)
	add("Charter", r.Charter)
	add("Least patients in a published cell", p.MinCohort)
	add("Exceptions that the board permitted", p.Permits)
	if s := run.Seconds.String(); s != "" {
		add("Duration", short(run.Seconds, 3)+" s")
	}
	if run.BytesUp != "" || run.BytesDown != "" {
		add("Sent and received by the hospitals", size(run.BytesUp)+" and "+size(run.BytesDown))
	}
	add("Software", run.Software)
	p.Audit = append(p.Audit, more...)
}

// size writes bytes for people, in powers of 1000.
func size(n json.Number) string {
	v, err := n.Float64()
	if err != nil {
		return "–"
	}
	units := []string{"bytes", "kB", "MB", "GB", "TB"}
	i := 0
	for v >= 1000 && i < len(units)-1 {
		v /= 1000
		i++
	}
	return sig(v, 3) + " " + units[i]
}
