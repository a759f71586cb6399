package policy

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
)

// Vector is one line of a board's table of examples: a question, said as what
// differs from a base question, and the answer that must come out.
type Vector struct {
	Line    int      `json:"line"`
	ID      string   `json:"id"`
	Point   Point    `json:"point"`
	Base    string   `json:"base"`    // name of the base question
	Changes []string `json:"changes"` // "study.legal.commercial = true"
	Allow   bool     `json:"allow"`
	Codes   []string `json:"codes"` // of a denial, exactly, ascending
}

// vectorHeader is the first line of a table.
var vectorHeader = []string{"id", "point", "base", "changes", "expect", "codes"}

// ParseVectors reads a table: CSV with the header id,point,base,changes,
// expect,codes. changes are separated by semicolons, codes by blanks; lines that
// begin with # are comments. Errors name the line.
func ParseVectors(r io.Reader) ([]Vector, error) {
	c := csv.NewReader(r)
	c.Comment, c.TrimLeadingSpace, c.FieldsPerRecord = '#', true, -1
	var out []Vector
	for first := true; ; first = false {
		rec, err := c.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("vectors: %w", err)
		}
		line, _ := c.FieldPos(0)
		for i := range rec {
			rec[i] = strings.TrimSpace(rec[i])
		}
		if first {
			if !slices.Equal(rec, vectorHeader) {
				return nil, fmt.Errorf("vectors: line %d: the first line must be %s", line, strings.Join(vectorHeader, ","))
			}
			continue
		}
		if len(rec) != len(vectorHeader) {
			return nil, fmt.Errorf("vectors: line %d: %d cells, want %d; put a cell that holds a comma between double quotes", line, len(rec), len(vectorHeader))
		}
		v := Vector{Line: line, ID: rec[0], Point: Point(rec[1]), Base: rec[2], Codes: strings.Fields(rec[5])}
		slices.Sort(v.Codes)
		for _, ch := range strings.Split(rec[3], ";") {
			if ch = strings.TrimSpace(ch); ch != "" {
				v.Changes = append(v.Changes, ch)
			}
		}
		switch rec[4] {
		case "allow":
			v.Allow = true
		case "deny":
		default:
			return nil, fmt.Errorf("vectors: line %d: expect is %q: write allow or deny", line, clip(rec[4]))
		}
		switch {
		case v.ID == "":
			return nil, fmt.Errorf("vectors: line %d: no id", line)
		case !slices.Contains(Points(), v.Point):
			return nil, fmt.Errorf("vectors: line %d: point %q: write one of %s", line, clip(rec[1]), join(Points()))
		case v.Allow != (len(v.Codes) == 0):
			return nil, fmt.Errorf("vectors: line %d: codes belong to a denial, and a denial to codes", line)
		case slices.ContainsFunc(out, func(o Vector) bool { return o.ID == v.ID }):
			return nil, fmt.Errorf("vectors: line %d: %q stands twice", line, clip(v.ID))
		}
		out = append(out, v)
	}
	if len(out) == 0 {
		return nil, errors.New("vectors: none; write at least one that allows and one that denies")
	}
	return out, nil
}

func join[T ~string](list []T) string {
	var out []string
	for _, x := range list {
		out = append(out, string(x))
	}
	return strings.Join(out, ", ")
}

// Question makes the vector's encoded question out of its base document.
func (v *Vector) Question(base []byte) ([]byte, int64, error) {
	doc, err := decode(base)
	if err != nil {
		return nil, 0, err
	}
	all, ok := doc.(map[string]any)
	if !ok {
		return nil, 0, errors.New("the base is not an object")
	}
	for _, c := range v.Changes {
		if err := Change(all, c); err != nil {
			return nil, 0, err
		}
	}
	return pick(all, v.Point)
}

var (
	changeForm = regexp.MustCompile(`^([A-Za-z0-9_.-]+)\s*(=|\+=|-=)\s*(.*)$`)
	dayForm    = regexp.MustCompile(`^\d{4}-\d\d-\d\d$`)
)

// Change applies one change to a document: `path = value` replaces, `path +=
// value` and `path -= value` add to a list and take from it. A value is JSON, or
// a word taken as it stands; a date for now, event.at and the times of a record
// becomes Unix seconds.
func Change(doc map[string]any, change string) error {
	m := changeForm.FindStringSubmatch(change)
	if m == nil {
		return fmt.Errorf("change %q: write path = value, path += value or path -= value", clip(change))
	}
	var value any
	if v, err := decode([]byte(m[3])); err == nil {
		value = v
	} else {
		value = strings.Trim(m[3], `"`)
	}
	path := strings.Split(m[1], ".")
	if s, ok := value.(string); ok && dayForm.MatchString(s) && isInstant(m[1]) {
		t, err := time.Parse(time.DateOnly, s)
		if err != nil {
			return fmt.Errorf("change %q: no such day", clip(change))
		}
		value = json.Number(strconv.FormatInt(t.Unix(), 10))
	}
	var at any = doc
	for i, name := range path {
		last := i == len(path)-1
		switch d := at.(type) {
		case map[string]any:
			child, ok := d[name]
			// A part that only some laws ask for may be missing and be added.
			if !ok && !(last && m[2] == "=" && nearestKey(name, d) == "") {
				return fmt.Errorf("change %q: there is no %s%s", clip(change), strings.Join(path[:i+1], "."), nearestKey(name, d))
			}
			if !ok && i == 0 {
				return fmt.Errorf("change %q: a question has no %s", clip(change), name)
			}
			if last {
				v, err := changed(child, m[2], value)
				if err != nil {
					return fmt.Errorf("change %q: %w", clip(change), err)
				}
				d[name] = v
			}
			at = child
		case []any:
			k, err := strconv.Atoi(name)
			if err != nil || k < 0 || k >= len(d) {
				return fmt.Errorf("change %q: %s is a list of %d; count from 0", clip(change), strings.Join(path[:i], "."), len(d))
			}
			if last {
				v, err := changed(d[k], m[2], value)
				if err != nil {
					return fmt.Errorf("change %q: %w", clip(change), err)
				}
				d[k] = v
			}
			at = d[k]
		default:
			return fmt.Errorf("change %q: %s holds nothing inside", clip(change), strings.Join(path[:i], "."))
		}
	}
	return nil
}

func isInstant(path string) bool {
	return path == "now" || path == "event.at" || slices.Contains([]string{"record.valid_from", "record.valid_to", "record.withdrawn_at", "record.opted_out_at"}, path)
}

func changed(old any, op string, value any) (any, error) {
	if op == "=" {
		return value, nil
	}
	list, ok := old.([]any)
	if !ok {
		return nil, errors.New("not a list")
	}
	same := func(x any) bool { return fmt.Sprint(x) == fmt.Sprint(value) }
	if op == "+=" {
		return append(slices.Clone(list), value), nil
	}
	if !slices.ContainsFunc(list, same) {
		return nil, errors.New("the list does not hold it")
	}
	return slices.DeleteFunc(slices.Clone(list), same), nil
}

func nearestKey(name string, m map[string]any) string {
	best, at := "", 3
	for _, k := range sortedKeys(m) {
		if d := distance(name, k); d < at {
			best, at = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// VectorResult is one line's outcome.
type VectorResult struct {
	Vector   Vector   `json:"vector"`
	Pass     bool     `json:"pass"`
	Problem  string   `json:"problem"` // "" when it passes
	Decision Decision `json:"decision"`
	Question []byte   `json:"-"`
}

// FileCoverage says which lines of a board's module no vector reached.
type FileCoverage struct {
	File       string  `json:"file"`
	Percent    float64 `json:"percent"`
	NotCovered []int   `json:"not_covered"`
}

// CodeCoverage says how often the vectors met one of the board's own codes.
type CodeCoverage struct {
	Code    string `json:"code"`
	Denied  int    `json:"denied"`  // vectors that it denies
	Allowed int    `json:"allowed"` // vectors that it does not deny, at a point where one is denied by it
}

// Coverage is what the vectors reach of the boards' rules.
type Coverage struct {
	Files []FileCoverage `json:"files"`
	Codes []CodeCoverage `json:"codes"`
}

// Complete reports whether every line and every code was reached from both
// sides.
func (c Coverage) Complete() bool {
	return !slices.ContainsFunc(c.Files, func(f FileCoverage) bool { return len(f.NotCovered) > 0 }) &&
		!slices.ContainsFunc(c.Codes, func(k CodeCoverage) bool { return k.Denied == 0 || k.Allowed == 0 })
}

// RunVectors decides every vector under the policy in force. bases holds the
// base questions by name.
func (e *Engine) RunVectors(ctx context.Context, vectors []Vector, bases map[string][]byte) ([]VectorResult, Coverage, error) {
	p := e.p.Load()
	cov := cover.New()
	var out []VectorResult
	for _, v := range vectors {
		r := VectorResult{Vector: v}
		base, ok := bases[v.Base]
		if !ok {
			r.Problem = fmt.Sprintf("no base question %q; there are %s", clip(v.Base), strings.Join(sortedKeys(bases), ", "))
			out = append(out, r)
			continue
		}
		b, now, err := v.Question(base)
		if err != nil {
			r.Problem = err.Error()
			out = append(out, r)
			continue
		}
		if r.Decision, err = e.traced(ctx, v.Point, b, now, cov); err != nil {
			return nil, Coverage{}, err
		}
		r.Question = b
		got := reasonCodes(r.Decision)
		switch {
		case slices.Equal(got, v.Codes):
			r.Pass = true
		case r.Decision.Has(CodeInput):
			r.Problem = "the question is not well formed: " + r.Decision.Reasons[0].Message
		case len(got) == 0:
			r.Problem = "allowed, expected a denial by " + strings.Join(v.Codes, " ")
		case v.Allow:
			r.Problem = "denied by " + strings.Join(got, " ") + ", expected to be allowed"
		default:
			r.Problem = "denied by " + strings.Join(got, " ") + ", expected by " + strings.Join(v.Codes, " ")
		}
		out = append(out, r)
	}
	return out, p.coverage(cov, out), nil
}

func reasonCodes(d Decision) []string {
	out := []string{}
	for _, r := range d.Reasons {
		if !slices.Contains(out, r.Code) {
			out = append(out, r.Code)
		}
	}
	slices.Sort(out)
	return out
}

func (p *compiled) coverage(cov *cover.Cover, results []VectorResult) Coverage {
	modules := map[string]*ast.Module{}
	var codes []string
	for _, name := range p.bundle.Paths() {
		if overlayPath.MatchString(name) && strings.HasSuffix(name, ".rego") {
			if m, err := parse(name, p.bundle.files[name], capabilities(boardBuiltins)); err == nil {
				modules[name] = m
				codes = append(codes, denialCodes(m)...)
			}
		}
	}
	out := Coverage{Files: []FileCoverage{}, Codes: []CodeCoverage{}}
	report := cov.Report(modules)
	for _, name := range sortedKeys(modules) {
		f := FileCoverage{File: name, Percent: 100, NotCovered: []int{}}
		if r := report.Files[name]; r != nil {
			f.Percent = r.Coverage
			for _, rng := range r.NotCovered {
				for row := rng.Start.Row; row <= rng.End.Row; row++ {
					if !slices.Contains(f.NotCovered, row) {
						f.NotCovered = append(f.NotCovered, row)
					}
				}
			}
		}
		out.Files = append(out.Files, f)
	}
	slices.Sort(codes)
	for _, code := range slices.Compact(codes) {
		k := CodeCoverage{Code: code}
		var at []Point
		for _, r := range results {
			if r.Decision.Has(code) {
				k.Denied++
				at = append(at, r.Decision.Point)
			}
		}
		for _, r := range results {
			if !r.Decision.Has(code) && slices.Contains(at, r.Decision.Point) {
				k.Allowed++
			}
		}
		out.Codes = append(out.Codes, k)
	}
	return out
}

// denialCodes lists the codes that a module's deny rules spell out.
func denialCodes(m *ast.Module) []string {
	var out []string
	for _, r := range m.Rules {
		if r.Head.Ref()[:1].String() != "deny" || r.Head.Key == nil {
			continue
		}
		if o, ok := r.Head.Key.Value.(ast.Object); ok {
			if t := o.Get(ast.StringTerm("code")); t != nil {
				if s, ok := t.Value.(ast.String); ok {
					out = append(out, string(s))
				}
			}
		}
	}
	return out
}
