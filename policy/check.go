package policy

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Problem is one thing that keeps a policy from being used, for whoever wrote
// it.
type Problem struct {
	File       string `json:"file"`
	Line       int    `json:"line"` // 0 where none is known
	Rule       string `json:"rule"` // what was broken, in a word
	Message    string `json:"message"`
	Suggestion string `json:"suggestion"`
}

func (p Problem) String() string {
	at := p.File
	if p.Line > 0 {
		at = fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	s := fmt.Sprintf("%s: %s: %s", at, p.Rule, p.Message)
	if p.Suggestion != "" {
		s += "\n    " + p.Suggestion
	}
	return s
}

// Check finds what keeps a bundle from being used, as far as it can be found at
// once, and what Compile accepts and a board cannot mean: a denial without code,
// message or article. An empty list means that Compile accepts the bundle.
func Check(b Bundle) []Problem {
	var out []Problem
	if err := recovering(func() error { check(b, &out); return nil }); err != nil {
		out = append(out, Problem{"policy", 0, "gate", firstLine(err), "remove what was written last until it passes: the rule engine cannot read this policy"})
	}
	return out
}

// check fills found as it goes, so that what was found before a panic of the rule
// engine is not lost.
func check(b Bundle, found *[]Problem) {
	var out []Problem
	add := func(file string, line int, rule, message, suggestion string) {
		p := Problem{file, line, rule, message, suggestion}
		if !slices.Contains(out, p) {
			out = append(out, p)
			*found = out
		}
	}
	all, err := allSchemas()
	if err != nil {
		add("schema", 0, "schema", err.Error(), "")
		return
	}
	ids, err := b.boards()
	if err != nil {
		file, msg := split(err.Error())
		add(file, 0, "layout", msg, "a policy holds board/ID/board.json, board/ID/NAME.rego and, where the board keeps its own, law/law.json")
	}
	for _, id := range ids {
		name := "board/" + id + "/board.json"
		if v, err := b.readJSON(all, name, "board"); err != nil {
			msg := strings.TrimPrefix(err.Error(), name+": ")
			add(name, jsonLine(b.files[name], msg), "form", msg, jsonHint(msg))
		} else if v.(map[string]any)["board"] != id {
			add(name, jsonLine(b.files[name], `"board"`), "form", "names another board than its directory", `write "board": "`+id+`"`)
		}
	}
	if _, err := b.readJSON(all, "law/law.json", "law"); err != nil {
		msg := strings.TrimPrefix(err.Error(), "law/law.json: ")
		add("law/law.json", jsonLine(b.files["law/law.json"], msg), "form", msg, jsonHint(msg))
	}
	for _, name := range b.Paths() {
		m := overlayPath.FindStringSubmatch(name)
		if m == nil || !strings.HasSuffix(name, ".rego") {
			continue
		}
		if err := lintSource(b.files[name]); err != nil {
			line, msg := cutLine(err.Error())
			add(name, line, "limits", msg, lintHint(msg))
			continue
		}
		mod, err := parse(name, b.files[name], capabilities(boardBuiltins))
		if err != nil {
			var list ast.Errors
			if !errors.As(err, &list) {
				add(name, 0, "language", firstLine(err), "")
			}
			for _, e := range list {
				add(name, lineOf(e.Location), "language", e.Message, regoHint(e))
			}
			continue
		}
		if err := lintOverlay(mod, m[1]); err != nil {
			line, msg := cutLine(err.Error())
			add(name, line, "limits", msg, lintHint(msg))
			continue
		}
		warnings := warn(mod)
		alone, err := newCompiler(capabilities(boardBuiltins))
		if err != nil {
			add("schema", 0, "schema", err.Error(), "")
			continue
		}
		alone.Compile(map[string]*ast.Module{name: mod.Copy()})
		for _, e := range alone.Errors {
			line := lineOf(e.Location)
			if hint := fieldHint(e); hint == "" {
				add(name, line, "language", e.Message, regoHint(e))
			} else if !slices.ContainsFunc(warnings, func(w Problem) bool { return w.Line == line && w.Rule == "field" }) {
				add(name, line, "field", "no question has "+strings.TrimPrefix(e.Message, "undefined ref: "), hint)
			}
		}
		for _, w := range warnings {
			add(name, w.Line, w.Rule, w.Message, w.Suggestion)
		}
	}
	if len(out) == 0 {
		if _, err := compile(b, DefaultTimeout); err != nil {
			file, msg := split(err.Error())
			add(file, 0, "gate", msg, "")
		}
	}
}

func split(s string) (file, msg string) {
	if f, m, ok := strings.Cut(s, ": "); ok && strings.Contains(f, "/") && !strings.Contains(f, " ") {
		return f, m
	}
	return "policy", s
}

func lineOf(l *ast.Location) int {
	if l == nil {
		return 0
	}
	return l.Row
}

var lineForm = regexp.MustCompile(`^line (\d+): (.*)$`)

func cutLine(s string) (int, string) {
	if m := lineForm.FindStringSubmatch(s); m != nil {
		n, err := strconv.Atoi(m[1])
		if err == nil {
			return n, m[2]
		}
	}
	return 0, s
}

// jsonLine finds the line that an error about a JSON document names: of the
// field that it quotes, or of the last step of the place.
func jsonLine(src []byte, msg string) int {
	var words []string
	for _, m := range regexp.MustCompile(`"([^"]+)"`).FindAllStringSubmatch(msg, -1) {
		words = append(words, `"`+m[1]+`"`)
	}
	place, _, _ := strings.Cut(msg, ":")
	steps := strings.Split(place, "/")
	for i := len(steps) - 1; i > 0; i-- {
		words = append(words, `"`+steps[i]+`"`)
	}
	for _, w := range words {
		for i, line := range strings.Split(string(src), "\n") {
			if strings.Contains(line, w) {
				return i + 1
			}
		}
	}
	return 0
}

func jsonHint(msg string) string {
	switch {
	case strings.Contains(msg, "is missing"):
		return "every field must be there; write null, false or an empty list where there is nothing to say"
	case strings.Contains(msg, "did you mean"):
		return "correct the name"
	case strings.Contains(msg, "unknown field"):
		return "remove it; docs/writing-policy.md lists the fields"
	case strings.Contains(msg, "stands twice"):
		return "keep one of the two"
	case strings.Contains(msg, "want a date"):
		return "write dates as 2026-11-21"
	}
	return ""
}

func lintHint(msg string) string {
	switch {
	case strings.Contains(msg, "imports rego.v2 and data.law only"):
		return "remove the import: a policy reads its question, the dated law and its own rules"
	case strings.Contains(msg, "would stand for the built-in"):
		return "give the rule another name, such as is_" + strings.Fields(msg)[3]
	case strings.Contains(msg, "nothing uses the rule"):
		return "correct the name, or remove the rule"
	case strings.Contains(msg, "package"):
		return "the package follows from the directory: board/ID/… is package consilium.board.ID"
	case strings.Contains(msg, "rego.v2"):
		return "put `import rego.v2` under the package line"
	case strings.Contains(msg, "default"):
		return "a board can deny and leave out, never allow: remove the default"
	case strings.Contains(msg, "own rules"):
		return "what a rule may read: input.… (the question), data.law.… (the dated law), and rules of the same file"
	case strings.Contains(msg, "`obligations contains"):
		return `for example: obligations contains "report_to_board" if { … }`
	case strings.Contains(msg, "`row_include if"):
		return `for example: row_include if { input.record.status == "active" }`
	case strings.Contains(msg, "contains"):
		return `for example: deny contains {"code": "BOARD-X", "message": "…", "article": ""} if { … }`
	}
	return ""
}

func regoHint(e *ast.Error) string {
	m := e.Message
	switch {
	case strings.Contains(m, "undefined function"):
		name := strings.TrimPrefix(m, "undefined function ")
		return name + " is not on the list of functions that a board may use: " + strings.Join([]string{"count", "max", "min", "startswith", "object.get"}, ", ") + ", comparisons and `in`"
	case strings.Contains(m, "recursive"):
		return "a rule may not use itself, not even through others"
	case strings.Contains(m, "unsafe"):
		return "a name stands here that nothing gives a value: a spelling mistake, or `some x in …` is missing above"
	case strings.Contains(m, "var") && strings.Contains(m, "unused"), strings.Contains(m, "declared"):
		return "remove what is not used"
	case strings.Contains(m, "`if` keyword"), strings.Contains(m, "`contains` keyword"):
		return "write `… if { … }`; for a list of reasons `deny contains {…} if { … }`"
	case strings.Contains(m, "unexpected"):
		return "look for a missing bracket, quotation mark or comma here or in the line above"
	}
	return ""
}

// warn finds what compiles and yet cannot be meant.
func warn(m *ast.Module) []Problem {
	var out []Problem
	for _, r := range m.Rules {
		if r.Head.Ref()[:1].String() != "deny" || r.Head.Key == nil {
			continue
		}
		o, ok := r.Head.Key.Value.(ast.Object)
		if !ok {
			out = append(out, Problem{Line: r.Location.Row, Rule: "reason", Message: "a denial without a code",
				Suggestion: `deny contains {"code": "BOARD-X", "message": "why, in words", "article": "the law, or empty"} if { … }`})
			continue
		}
		for _, k := range []string{"code", "message", "article"} {
			if o.Get(ast.StringTerm(k)) == nil {
				out = append(out, Problem{Line: r.Location.Row, Rule: "reason", Message: fmt.Sprintf("a denial without %q", k), Suggestion: `a reason has "code", "message" and "article"; the article may be ""`})
			}
		}
	}
	return append(out, unknownFields(m)...)
}

// unknownFields finds references to fields that no question has.
func unknownFields(m *ast.Module) []Problem {
	all, err := allSchemas()
	if err != nil {
		return nil
	}
	var out []Problem
	ast.WalkRefs(m, func(r ast.Ref) bool {
		if v, ok := r[0].Value.(ast.Var); !ok || v != "input" || len(r) < 2 {
			return false
		}
		var tops []*schema
		for _, p := range Points() {
			tops = append(tops, all["input:"+string(p)])
		}
		if bad, hint := all.missing(tops, r[1:]); bad != "" {
			line := lineOf(r[0].Location)
			out = append(out, Problem{Line: line, Rule: "field", Message: fmt.Sprintf("no question has %s", bad), Suggestion: hint})
		}
		return false
	})
	return out
}

// missing follows a reference through the schemas; it names the first step that
// none of them has.
func (all schemas) missing(at []*schema, ref ast.Ref) (string, string) {
	path := "input"
	for _, t := range ref {
		var next []*schema
		known := map[string]*schema{}
		s, isName := t.Value.(ast.String)
		open := false
		for _, x := range at {
			for x != nil && x.Ref != "" {
				x = all[x.Ref]
			}
			switch {
			case x == nil:
			case x.Values != nil:
				open, next = true, append(next, x.Values)
			case x.Items != nil:
				open, next = true, append(next, x.Items)
			case x.Properties != nil:
				for k, v := range x.Properties {
					known[k] = v
				}
				if isName {
					if c := x.Properties[string(s)]; c != nil {
						next = append(next, c)
					}
				} else {
					open = true
					for _, c := range x.Properties {
						next = append(next, c)
					}
				}
			}
		}
		if isName {
			path += "." + string(s)
		} else {
			path += "[…]"
		}
		if len(next) == 0 && !open {
			if len(known) == 0 {
				return path, "this holds nothing inside"
			}
			hint := strings.TrimSpace(nearest(string(s), known))
			if hint == "" {
				hint = "there are " + strings.Join(sortedKeys(known), ", ")
			}
			return path, hint
		}
		at = next
	}
	return "", ""
}
