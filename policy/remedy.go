package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"consilium/internal/canon"
)

// Remedy is the smallest set of changes to a denied question that was found to
// admit it. It says what the papers would have to state; whether that is true is
// for people to find out.
type Remedy struct {
	Decision Decision `json:"decision"` // as asked
	Changes  []Edit   `json:"changes"`  // empty where none was found, or none is needed
	Admitted bool     `json:"admitted"` // with the changes, every reason is gone
	Left     []Reason `json:"left"`     // reasons that no change of the kind tried here lifts
	Tried    int      `json:"tried"`    // evaluations
}

// Edit is one change.
type Edit struct {
	Path  string   `json:"path"` // "study.legal.safeguards.minimised"
	From  any      `json:"from"`
	To    any      `json:"to"`
	Words string   `json:"words"`
	Lifts []string `json:"lifts"` // the reasons that this change alone lifts, by code
	Law   []string `json:"law"`   // their articles
}

// MaxRemedyTries bounds the evaluations of one search.
const MaxRemedyTries = 3000

// placeholder is what a document's name becomes in a trial.
const placeholder = "NAME OF THE DOCUMENT"

// Remedy decides an encoded question and, if it is denied, searches for the
// smallest change of what its document states that would admit it. where limits
// the search to paths that begin so ("study.", "site.", "record."); empty means
// the study's legal block, purpose, permits and bounds.
func (e *Engine) Remedy(ctx context.Context, question []byte, where ...string) (Remedy, error) {
	point, in, err := ParseQuestion(question)
	if err != nil {
		return Remedy{}, err
	}
	if len(where) == 0 {
		where = []string{"study.legal.", "study.purpose.", "study.permits", "study.min_sites", "study.min_cohort"}
	}
	s := &search{e: e, point: point, now: in.Now}
	doc, err := decode(question)
	if err != nil {
		return Remedy{}, err
	}
	s.doc = doc.(map[string]any) // ParseQuestion read it as one
	r := Remedy{Changes: []Edit{}, Left: []Reason{}}
	if r.Decision, err = s.ask(ctx, nil); err != nil || r.Decision.Allow {
		r.Admitted = err == nil
		r.Tried = s.tried
		return r, err
	}
	before := reasonCodes(r.Decision)
	// What each single change lifts.
	type single struct {
		edit  Edit
		lifts []string
		clean bool // it adds no reason of its own
	}
	var useful []single
	all, err := allSchemas()
	if err != nil {
		return Remedy{}, err
	}
	for _, c := range s.candidates(all, r.Decision, where) {
		d, err := s.ask(ctx, []Edit{c})
		if errors.Is(err, errTries) {
			break
		}
		if err != nil {
			return Remedy{}, err
		}
		after := reasonCodes(d)
		var lifts []string
		for _, code := range before {
			if !slices.Contains(after, code) {
				lifts = append(lifts, code)
			}
		}
		if len(lifts) > 0 && !slices.Contains(after, CodeInput) {
			clean := !slices.ContainsFunc(after, func(code string) bool { return !slices.Contains(before, code) })
			useful = append(useful, single{c, lifts, clean})
		}
	}
	slices.SortStableFunc(useful, func(a, b single) int {
		if a.clean != b.clean {
			if a.clean {
				return -1
			}
			return 1
		}
		return len(b.lifts) - len(a.lifts)
	})
	// The smallest set whose lifts together cover the reasons, checked as a
	// whole: first sets of one, then of two, and so on.
	liftable := map[string]bool{}
	for _, u := range useful {
		for _, c := range u.lifts {
			liftable[c] = true
		}
	}
	goal := slices.DeleteFunc(slices.Clone(before), func(c string) bool { return !liftable[c] })
	var best []single
	var found bool
	nodes := 0 // sets looked at without asking, which is quick and still bounded
	var try func(chosen []single, from int, size int) error
	try = func(chosen []single, from, size int) error {
		if found {
			return nil
		}
		if nodes++; nodes > 200*MaxRemedyTries {
			return errTries
		}
		covered := map[string]bool{}
		var edits []Edit
		for _, c := range chosen {
			edits = append(edits, c.edit)
			for _, code := range c.lifts {
				covered[code] = true
			}
		}
		if len(chosen) == size {
			for _, code := range goal {
				if !covered[code] {
					return nil
				}
			}
			d, err := s.ask(ctx, edits)
			if err != nil {
				return err
			}
			after := reasonCodes(d)
			for _, code := range after {
				if !slices.Contains(before, code) || liftable[code] {
					return nil
				}
			}
			best, found = slices.Clone(chosen), true
			return nil
		}
		// The next change must lift the first reason that is not covered yet, so
		// that each set is looked at in one order only.
		next := ""
		for _, code := range goal {
			if !covered[code] {
				next = code
				break
			}
		}
		for _, u := range useful {
			if next != "" && !slices.Contains(u.lifts, next) || slices.ContainsFunc(chosen, func(c single) bool { return c.edit.Path == u.edit.Path }) {
				continue
			}
			if err := try(append(chosen, u), from, size); err != nil {
				return err
			}
		}
		return nil
	}
	for size := 1; size <= min(8, len(useful)) && !found && len(goal) > 0; size++ {
		if err := try(nil, 0, size); err != nil && !errors.Is(err, errTries) {
			return Remedy{}, err
		} else if err != nil {
			break
		}
	}
	r.Tried = s.tried
	// In the order of the reasons that they lift.
	rank := func(u single) int {
		return slices.IndexFunc(r.Decision.Reasons, func(x Reason) bool { return slices.Contains(u.lifts, x.Code) })
	}
	slices.SortStableFunc(best, func(a, b single) int { return rank(a) - rank(b) })
	covered := map[string]bool{}
	for _, b := range best {
		b.edit.Lifts = b.lifts
		for _, reason := range r.Decision.Reasons {
			if slices.Contains(b.lifts, reason.Code) && reason.Article != "" && !slices.Contains(b.edit.Law, reason.Article) {
				b.edit.Law = append(b.edit.Law, reason.Article)
			}
		}
		b.edit.Law = orEmpty(b.edit.Law)
		for _, c := range b.lifts {
			covered[c] = true
		}
		r.Changes = append(r.Changes, b.edit)
	}
	for _, reason := range r.Decision.Reasons {
		if !covered[reason.Code] {
			r.Left = append(r.Left, reason)
		}
	}
	r.Admitted = found && len(r.Left) == 0
	return r, nil
}

var errTries = errors.New("too many trials")

type search struct {
	e     *Engine
	point Point
	now   int64
	doc   map[string]any
	tried int
}

// ask decides the question with the edits made.
func (s *search) ask(ctx context.Context, edits []Edit) (Decision, error) {
	if s.tried++; s.tried > MaxRemedyTries {
		return Decision{}, errTries
	}
	b, err := canon.Marshal(s.doc)
	if err != nil {
		return Decision{}, err
	}
	v, err := decode(b)
	if err != nil {
		return Decision{}, err
	}
	for _, e := range edits {
		put(v, strings.Split(e.Path, "."), e.To)
	}
	if b, err = canon.Marshal(v); err != nil {
		return Decision{}, err
	}
	return s.e.traced(ctx, s.point, b, s.now, nil)
}

func put(at any, path []string, value any) {
	switch d := at.(type) {
	case map[string]any:
		if len(path) == 1 {
			d[path[0]] = value
		} else {
			put(d[path[0]], path[1:], value)
		}
	case []any:
		i, err := strconv.Atoi(path[0])
		if err != nil || i >= len(d) {
			return
		}
		if len(path) == 1 {
			d[i] = value
		} else {
			put(d[i], path[1:], value)
		}
	}
}

// candidates lists single changes by the form of each field: the other truth
// value, the other words of a list of words, a document where none is named, a
// day on either side, and for what is compared with other facts those facts.
func (s *search) candidates(all schemas, d Decision, where []string) []Edit {
	var out []Edit
	add := func(path string, from, to any, words string) {
		a, e1 := canon.Marshal(from)
		b, e2 := canon.Marshal(to)
		if e1 == nil && e2 == nil && string(a) != string(b) {
			out = append(out, Edit{Path: path, From: from, To: to, Words: words})
		}
	}
	within := func(path string) bool {
		return slices.ContainsFunc(where, func(w string) bool { return strings.HasPrefix(path, w) || strings.HasPrefix(w, path+".") })
	}
	day := func(offset int) string { return time.Unix(s.now, 0).UTC().AddDate(0, 0, offset).Format(time.DateOnly) }
	p := s.e.p.Load()
	law, _ := p.store["law"].(map[string]any)
	var walk func(sc *schema, v any, path string)
	walk = func(sc *schema, v any, path string) {
		for sc != nil && sc.Ref != "" {
			sc = all[sc.Ref]
		}
		// A part that is not there at all is for people to write.
		if sc == nil || v == nil && sc.Format == "" || path != "" && !within(path) {
			return
		}
		switch t := v.(type) {
		case map[string]any:
			for _, k := range sortedKeys(t) {
				child := sc.Values
				if sc.Properties != nil {
					child = sc.Properties[k]
				}
				walk(child, t[k], strings.TrimPrefix(path+"."+k, "."))
			}
			return
		case []any:
			for i, x := range t {
				if _, plain := x.(string); !plain {
					walk(sc.Items, x, fmt.Sprintf("%s.%d", path, i))
				}
			}
		}
		if !slices.ContainsFunc(where, func(w string) bool { return strings.HasPrefix(path, w) || path == strings.TrimSuffix(w, ".") }) {
			return
		}
		name := inWords(path)
		switch {
		case path == "study.legal.protocolColumns":
			// Declared columns that the protocol does not name yet.
			list := slices.Clone(v.([]any))
			var missing []string
			study, _ := s.doc["study"].(map[string]any)
			columns, _ := study["columns"].([]any)
			for _, c := range columns {
				if m, ok := c.(map[string]any); ok && !slices.Contains(list, m["name"]) {
					list, missing = append(list, m["name"]), append(missing, fmt.Sprint(m["name"]))
				}
			}
			add(path, v, list, "have the protocol justify the columns "+strings.Join(missing, ", ")+", or leave them out of the study")
		case path == "study.legal.assessment":
			for _, id := range p.assessments() {
				add(path, v, id, "name the board's identifiability assessment "+id)
			}
		case path == "study.legal.retention":
			if list, ok := v.([]any); ok {
				kept := slices.DeleteFunc(slices.Clone(list), func(x any) bool {
					m, _ := x.(map[string]any)
					return m["object"] == "working_copies"
				})
				add(path, v, append(kept, map[string]any{"object": "working_copies", "deleteBy": day(3650), "keepUntil": nil}), "say by when working copies are deleted, and that they are not kept longer")
			}
		case path == "study.permits":
			if list, ok := v.([]any); ok {
				granted := slices.DeleteFunc(slices.Clone(list), func(x any) bool { return !slices.Contains(d.Permits, fmt.Sprint(x)) })
				add(path, v, granted, "do without the exceptions that the board does not grant")
			}
		case path == "study.purpose.duo":
			add(path, v, []any{"DUO:0000042"}, "state a purpose of the Data Use Ontology, for example general research (DUO:0000042)")
			add(path, v, []any{"DUO:0000007"}, "state disease-specific research (DUO:0000007)")
		case path == "study.purpose.class":
			for _, c := range words(law["purposeClasses"]) {
				add(path, v, c, "the purpose is "+strings.ReplaceAll(c, "_", " "))
			}
		case path == "study.purpose.disease":
			diseases, _ := law["diseases"].(map[string]any)
			for _, c := range sortedKeys(diseases) {
				name := ""
				if m, ok := diseases[c].(map[string]any); ok {
					name = fmt.Sprint(m["name"])
				}
				add(path, v, c, "the study is about "+name+" ("+c+")")
			}
		case path == "study.min_sites":
			for n := 2; n <= 16; n++ {
				add(path, v, json.Number(strconv.Itoa(n)), fmt.Sprintf("ask for at least %d hospitals", n))
			}
		case path == "study.min_cohort":
			add(path, v, json.Number(strconv.Itoa(d.MinCohort)), fmt.Sprintf("set the least cohort to %d", d.MinCohort))
		case len(sc.Enum) > 0:
			for _, w := range sc.Enum {
				add(path, v, w, name+" is "+w)
			}
		case sc.Type[0] == "boolean":
			if b, ok := v.(bool); ok {
				yes := map[bool]string{true: "holds", false: "does not hold"}[!b]
				add(path, v, !b, name+" "+yes)
			}
		case sc.Format != "":
			for _, o := range []int{-30, 30, 3650} {
				add(path, v, day(o), name+": "+day(o))
			}
		case sc.Type[0] == "string" && (sc.pattern != nil && sc.pattern.MatchString(placeholder)):
			if v == "" {
				add(path, v, placeholder, "name the document: "+name)
			} else if sc.pattern.MatchString("") {
				add(path, v, "", name+": none")
			}
		case sc.Type[0] == "array" && sc.Items != nil:
			item := sc.Items
			for item.Ref != "" {
				item = all[item.Ref]
			}
			if list, ok := v.([]any); ok && len(item.Enum) > 0 {
				for _, w := range item.Enum {
					if !slices.Contains(list, any(w)) {
						add(path, v, append(slices.Clone(list), w), name+" holds "+w+" too")
					}
				}
			}
		case sc.Type[0] == "integer":
			for _, n := range []int64{0, 1, s.now - 86400, s.now + 86400, Never} {
				add(path, v, json.Number(strconv.FormatInt(n, 10)), name+": "+strconv.FormatInt(n, 10))
			}
		}
		if sc.Comment != "" {
			for i := range out {
				if out[i].Path == path && !strings.Contains(out[i].Words, sc.Comment) && len(sc.Enum) == 0 {
					out[i].Words += " (" + sc.Comment + ")"
				}
			}
		}
	}
	walk(all["input:"+string(s.point)], s.doc, "")
	return out
}

// assessments lists the ids of what the boards filed.
func (p *compiled) assessments() []string {
	var out []string
	boards, _ := p.store["boards"].([]any)
	for _, b := range boards {
		m, _ := b.(map[string]any)
		list, _ := m["assessments"].([]any)
		for _, a := range list {
			if am, ok := a.(map[string]any); ok {
				out = append(out, fmt.Sprint(am["id"]))
			}
		}
	}
	return out
}

func words(v any) []string {
	var out []string
	list, _ := v.([]any)
	for _, x := range list {
		out = append(out, fmt.Sprint(x))
	}
	return out
}

// inWords reads a path aloud: "study.legal.safeguards.noReidentification"
// becomes "legal, safeguards, no reidentification".
func inWords(path string) string {
	_, rest, _ := strings.Cut(path, ".")
	var b strings.Builder
	for i, r := range rest {
		switch {
		case r == '.':
			b.WriteString(", ")
		case r == '_':
			b.WriteByte(' ')
		case r >= 'A' && r <= 'Z':
			if i > 0 {
				b.WriteByte(' ')
			}
			b.WriteRune(r - 'A' + 'a')
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// String tells the remedy to a person.
func (r Remedy) String() string {
	var b strings.Builder
	b.WriteString(Explain(r.Decision))
	if r.Decision.Allow {
		return b.String()
	}
	switch {
	case r.Admitted:
		b.WriteString("It would be admitted with the least change found:\n")
	case len(r.Changes) > 0:
		b.WriteString("Part of it would be lifted by the least change found:\n")
	default:
		b.WriteString("No change of what this document states would admit it.\n")
	}
	for i, c := range r.Changes {
		fmt.Fprintf(&b, "  %d. %s\n     %s: %s -> %s\n     lifts %s", i+1, c.Words, c.Path, short(c.From), short(c.To), strings.Join(c.Lifts, ", "))
		if len(c.Law) > 0 {
			fmt.Fprintf(&b, " (%s)", strings.Join(c.Law, "; "))
		}
		b.WriteByte('\n')
	}
	if len(r.Left) > 0 && len(r.Changes) > 0 {
		b.WriteString("What then still refuses:\n")
		for _, l := range r.Left {
			fmt.Fprintf(&b, "  %s\n", l)
		}
	}
	if len(r.Changes) > 0 {
		b.WriteString("Only state what is true: a change on paper changes nothing in the world.\n")
	}
	return b.String()
}

func short(v any) string {
	b, err := canon.Marshal(v)
	if err != nil {
		return "?"
	}
	return clip200(string(b))
}
