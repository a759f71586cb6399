package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const deskBoard = `{"apiVersion": "consilium/v1", "kind": "BoardPolicy", "board": "bones", "permits": ["km-tail"], "minCohort": 11, "minSites": 5, "assessments": []}`

const deskRules = `package consilium.board.bones

import rego.v2

deny contains {"code": "BOARD-BONES-PROFIT", "message": "not for profit", "article": ""} if {
	input.study.legal.commercial
}

deny contains {"code": "BOARD-BONES-MANY", "message": "too many analyses", "article": ""} if {
	count(input.study.analyses) > 3
}
`

func deskBundle(rules string) Bundle {
	return DefaultBundle().With("board/bones/board.json", []byte(deskBoard)).With("board/bones/rules.rego", []byte(rules))
}

// TestCheck: each mistake is told with its line, in a word, and with what to do.
func TestCheck(t *testing.T) {
	if p := Check(deskBundle(deskRules)); len(p) > 0 {
		t.Fatalf("a good policy: %v", p)
	}
	if p := Check(DemoBundle()); len(p) > 0 {
		t.Fatalf("the demonstration's policy: %v", p)
	}
	rules := func(old, new string) Bundle {
		s := strings.Replace(deskRules, old, new, 1)
		if s == deskRules {
			t.Fatalf("%q is not in the rules", old)
		}
		return deskBundle(s)
	}
	board := func(old, new string) Bundle {
		s := strings.Replace(deskBoard, old, new, 1)
		if s == deskBoard {
			t.Fatalf("%q is not in the form", old)
		}
		return deskBundle(deskRules).With("board/bones/board.json", []byte(s))
	}
	for _, c := range []struct {
		name       string
		b          Bundle
		line       int
		rule       string
		message    string
		suggestion string
	}{
		{"a field that no question has", rules("legal.commercial", "legal.comercial"), 6, "field", "input.study.legal.comercial", "commercial"},
		{"a field inside a word", rules("legal.commercial", "name.first"), 6, "field", "input.study.name.first", "nothing inside"},
		{"a part that no question has", rules("input.study.legal", "input.trial.legal"), 6, "field", "input.trial", "there are"},
		{"a function that is not allowed", rules("count(input", "upper(input"), 10, "language", "undefined function", "may use"},
		{"the network", rules("input.study.legal.commercial", `http.send({"method": "get", "url": "x"})`), 6, "language", "undefined function", "may use"},
		{"the clock", rules("input.study.legal.commercial", "time.now_ns() > 0"), 6, "language", "undefined function", "may use"},
		{"a name without a value", rules("legal.commercial", "legal.commercial == which"), 6, "language", "unsafe", "spelling"},
		{"another language", rules("import rego.v2\n", ""), 1, "limits", "rego.v2", "import rego.v2"},
		{"another package", rules("board.bones", "board.others"), 0, "limits", "package", "directory"},
		{"the law's own package", rules("consilium.board.bones", "consilium.law"), 0, "limits", "package", "directory"},
		{"a default that permits", rules("import rego.v2\n", "import rego.v2\n\ndefault row_include := true\n"), 5, "limits", "default", "never allow"},
		{"facts replaced", rules("legal.commercial", `legal.commercial with input.study as {}`), 6, "limits", "with", ""},
		{"another board's rules", rules("input.study.legal.commercial", "data.consilium.board.x.y"), 6, "limits", "own rules", "may read"},
		{"a bracket is missing", rules("{\n\tinput", "\n\tinput"), 0, "language", "", ""},
		{"a reason without a code", rules(`"code": "BOARD-BONES-PROFIT", `, ""), 5, "reason", `"code"`, "article"},
		{"a reason without an article", rules(`, "article": ""`, ""), 5, "reason", `"article"`, "article"},
		{"a word for a reason", rules(`{"code": "BOARD-BONES-PROFIT", "message": "not for profit", "article": ""}`, `"no"`), 5, "reason", "without a code", "deny contains"},
		{"a rule that uses itself", rules("\tinput.study.legal.commercial", "\tx\n}\n\nx if {\n\tx"), 0, "language", "recursive", "itself"},
		{"a field of the form is missing", board(`, "minSites": 5`, ""), 0, "form", `"minSites"`, "every field"},
		{"a field of the form is misspelt", board("minSites", "minSite"), 1, "form", `did you mean "minSites"`, "correct"},
		{"a permit twice", board(`["km-tail"]`, `["km-tail", "km-tail"]`), 1, "form", "twice", "one of the two"},
		{"another board's form", board(`"board": "bones"`, `"board": "flesh"`), 1, "form", "another board", `"bones"`},
		{"a denial misspelt", rules("deny contains", "denny contains"), 5, "limits", `nothing uses the rule denny (did you mean "deny"?)`, "correct the name"},
		{"a helper that nothing uses", rules("deny contains", "profit if input.study.legal.commercial\n\ndeny contains"), 5, "limits", "nothing uses the rule profit", "remove"},
		{"two helpers that use each other only", rules("deny contains", "a if b\n\nb if input.study.legal.commercial\n\ndeny contains"), 5, "limits", "nothing uses the rule a", "remove"},
		{"an import", rules("import rego.v2\n", "import rego.v2\n\nimport data.other\n"), 5, "limits", "data.other", "remove the import"},
		{"duties in another form", rules("deny contains", "obligations := {\"x\"}\n\ndeny contains"), 5, "limits", "obligations contains", "for example: obligations contains"},
		{"a field about a mandate", board(`"minSites"`, `"mandateSites": 1, "minSites"`), 1, "form", "unknown field", "remove it"},
		{"no form", deskBundle(deskRules).Without("board/bones/board.json"), 0, "layout", "board.json", "board/ID"},
		{"the core changed", deskBundle(deskRules).With("rego/site.rego", []byte("package consilium.law\n")), 0, "layout", "differs", ""},
	} {
		list := Check(c.b)
		if len(list) == 0 {
			t.Errorf("%s: nothing found", c.name)
			continue
		}
		if _, err := Compile(c.b); err == nil && list[0].Rule != "reason" {
			t.Errorf("%s: found, and yet it compiles", c.name)
		}
		if !slices.ContainsFunc(list, func(p Problem) bool {
			return (c.line == 0 || p.Line == c.line) && p.Rule == c.rule && strings.Contains(p.Message, c.message) && strings.Contains(p.Suggestion, c.suggestion)
		}) {
			t.Errorf("%s: %v", c.name, list)
		}
	}
}

func TestParseVectors(t *testing.T) {
	const head = "id,point,base,changes,expect,codes\n"
	v, err := ParseVectors(strings.NewReader(head + "# a comment\na,study,us,\"study.min_sites = 8; study.permits += x\",deny,B A\nb,rows,us,,allow,\n"))
	if err != nil || len(v) != 2 || v[0].Line != 3 || fmt.Sprint(v[0].Codes) != "[A B]" || len(v[0].Changes) != 2 || !v[1].Allow {
		t.Fatalf("%+v, %v", v, err)
	}
	for name, c := range map[string]struct{ src, want string }{
		"no header":        {"a,study,us,,allow,\n", "line 1"},
		"empty":            {head, "none"},
		"an unknown point": {head + "a,stduy,us,,allow,\n", "line 2: point"},
		"neither":          {head + "a,study,us,,maybe,\n", "allow or deny"},
		"codes of allowed": {head + "a,study,us,,allow,X\n", "codes belong"},
		"denied by what":   {head + "a,study,us,,deny,\n", "codes belong"},
		"twice":            {head + "a,study,us,,allow,\na,study,us,,allow,\n", "line 3"},
		"a comma":          {head + "a,study,us,x = 1, y = 2,allow,\n", "double quotes"},
		"no id":            {head + ",study,us,,allow,\n", "no id"},
	} {
		if _, err := ParseVectors(strings.NewReader(c.src)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	base := ExampleQuestions()["us"]
	for change, want := range map[string]string{
		"study.min_sits = 3":                    `did you mean "min_sites"`,
		"trial = 3":                             "has no trial",
		"study.columns.99.used = true":          "count from 0",
		"study.name.x = 1":                      "nothing inside",
		"study.name += 1":                       "not a list",
		"study.legal.protocolColumns -= nobody": "does not hold it",
		"study":                                 "write path = value",
		"now = 2026-13-01":                      "no such day",
	} {
		if _, _, err := (&Vector{Point: PointStudy, Changes: []string{change}}).Question(base); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", change, err)
		}
	}
}

// TestRunVectors: failing examples say how, and what no example reaches is
// named.
func TestRunVectors(t *testing.T) {
	e, err := Compile(deskBundle(deskRules))
	if err != nil {
		t.Fatal(err)
	}
	run := func(src string) ([]VectorResult, Coverage) {
		t.Helper()
		v, err := ParseVectors(strings.NewReader("id,point,base,changes,expect,codes\n" + src))
		if err != nil {
			t.Fatal(err)
		}
		r, c, err := e.RunVectors(t.Context(), v, ExampleQuestions())
		if err != nil {
			t.Fatal(err)
		}
		return r, c
	}
	const fine = "x,study,us,study.legal.assessment = none; study.federation = 0,allow,\n"
	r, _ := run(fine)
	if r[0].Pass || !strings.Contains(r[0].Problem, "not well formed") {
		t.Errorf("%+v", r[0])
	}
	// The base study relies on an assessment that this board did not file.
	r, c := run("a,release,us,,allow,\nb,release,us,study.legal.commercial = true,deny,BOARD-BONES-PROFIT\nc,release,us,,deny,X\nd,release,us,study.legal.commercial = true,allow,\ne,release,nowhere,,allow,\n")
	for i, want := range []string{"", "", "allowed, expected a denial by X", "denied by BOARD-BONES-PROFIT", "no base question"} {
		if r[i].Pass != (want == "") || !strings.Contains(r[i].Problem, want) {
			t.Errorf("%d: %+v", i, r[i].Problem)
		}
	}
	if c.Complete() || len(c.Codes) != 2 || c.Codes[0].Code != "BOARD-BONES-MANY" || c.Codes[0].Denied != 0 || c.Codes[1].Denied != 2 || c.Codes[1].Allowed != 2 {
		t.Errorf("%+v", c)
	}
	if f := c.Files[0]; f.File != "board/bones/rules.rego" || f.Percent == 100 {
		t.Errorf("%+v", f)
	}
}

// TestQuestions: a question reads back as it was written, and nothing else does.
func TestQuestions(t *testing.T) {
	for name, base := range ExampleQuestions() {
		for point := range questionParts {
			b, _, err := (&Vector{Point: point}).Question(base)
			if err != nil {
				t.Fatal(err)
			}
			p, in, err := ParseQuestion(b)
			if err != nil || p != point {
				t.Errorf("%s at %s: %v", name, point, err)
				continue
			}
			if again, err := in.Encode(p); err != nil || !bytes.Equal(again, b) {
				t.Errorf("%s at %s: does not encode to the same bytes", name, point)
			}
		}
	}
	for _, bad := range []string{``, `{}`, `{"point":"study","now":1,"study":{}}`, `{"point":"nowhere","now":1}`, `{"point":"study","now":1,"more":1}`} {
		if _, _, err := ParseQuestion([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", bad)
		}
	}
}

// TestReplayQuestions: the same policy answers a log bit for bit; another policy's
// differences are listed; a log that was changed, a question that was, and the
// wrong key are noticed.
func TestReplayQuestions(t *testing.T) {
	e, err := Compile(deskBundle(deskRules))
	if err != nil {
		t.Fatal(err)
	}
	key := bytes.Repeat([]byte{7}, 32)
	path := filepath.Join(t.TempDir(), "log")
	log, err := OpenAudit(path, key)
	if err != nil {
		t.Fatal(err)
	}
	known, other := NewQuestions(key), NewQuestions(bytes.Repeat([]byte{8}, 32))
	for i, change := range []string{"study.min_sites = 8", "study.legal.commercial = true", "study.min_sites = 99"} {
		b, _, err := (&Vector{Point: PointRelease, Changes: []string{change}}).Question(ExampleQuestions()["us"])
		if err != nil {
			t.Fatal(err)
		}
		p, in, err := ParseQuestion(b)
		if err != nil {
			t.Fatal(err)
		}
		d, err := e.Decide(t.Context(), p, in)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := log.Append(AuditEntry{Time: int64(i + 1), Node: "here", Point: p, Input: in, Decision: d}); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(known.Add(b), other.Add(b)); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed, err := e.Replay(t.Context(), bytes.NewReader(src), key, known.Find)
	if err != nil || len(changed) != 0 {
		t.Fatalf("%+v, %v", changed, err)
	}
	stricter, err := Compile(deskBundle(strings.Replace(deskRules, "> 3", "> 1", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if changed, err = stricter.Replay(t.Context(), bytes.NewReader(src), key, known.Find); err != nil || len(changed) != 3 || changed[0].After.Allow {
		t.Fatalf("%+v, %v", changed, err)
	}
	if changed, _ = e.Replay(t.Context(), bytes.NewReader(src), key, other.Find); len(changed) != 3 || changed[0].Unproven == "" {
		t.Errorf("questions under another key: %+v", changed)
	}
	// One decision turned from a denial into a permission.
	var rec map[string]any
	lines := bytes.Split(bytes.TrimSpace(src), []byte{'\n'})
	if err := json.Unmarshal(lines[1], &rec); err != nil {
		t.Fatal(err)
	}
	d := rec["decision"].(map[string]any)
	d["allow"], d["reasons"] = true, []any{}
	forged, err := plain(rec)
	if err != nil {
		t.Fatal(err)
	}
	lines[1] = forged
	bad := append(bytes.Join(lines, []byte{'\n'}), '\n')
	if _, _, err := VerifyAudit(bytes.NewReader(bad)); err == nil {
		t.Error("a changed line goes unnoticed in the chain")
	}
	if changed, err = e.Replay(t.Context(), bytes.NewReader(bad), key, known.Find); err != nil || len(changed) != 1 || changed[0].Seq != 2 {
		t.Errorf("a changed decision: %+v, %v", changed, err)
	}
}

// TestRemedy plants one to four faults into questions that are allowed and
// expects a remedy of at most as many changes, which must admit them.
func TestRemedy(t *testing.T) {
	e := demoEngine(t)
	fault := func(point Point, base string, changes ...string) ([]byte, Remedy) {
		t.Helper()
		src := bytes.ReplaceAll(ExampleQuestions()[base], []byte(`"`+ExampleAssessment+`"`), []byte(`"cgd-2026-1"`))
		b, _, err := (&Vector{Point: point, Changes: changes}).Question(src)
		if err != nil {
			t.Fatal(err)
		}
		r, err := e.Remedy(t.Context(), b, "study.", "site.", "record.", "release.")
		if err != nil {
			t.Fatal(err)
		}
		return b, r
	}
	for _, c := range []struct {
		point   Point
		base    string
		changes []string
	}{
		{PointStudy, "us", []string{"study.legal.commercial = true"}},
		{PointStudy, "us", []string{"study.legal.assessment = \"\""}},
		{PointStudy, "us", []string{"study.legal.protocolColumns -= age", "study.legal.end = 2026-01-05", "study.purpose.duo = []"}},
		{PointStudy, "us", []string{"study.legal.retention = []", "study.min_sites = 30"}},
		{PointStudy, "us", []string{"study.permits += small-cells"}},
		{PointStudy, "us", []string{"study.purpose.disease = MONDO:0004992"}},
		{PointSite, "nl", []string{"site.gdpr.dpia.approved = false", "site.gdpr.notice.given = null", "site.nl.wgbo.coded = false", "site.gdpr.record.purposes = \"\""}},
		{PointSite, "nl", []string{"study.legal.safeguards.minimised = false"}},
		{PointSite, "uk", []string{"site.uk.noDamage = false", "site.uk.dpia = \"\""}},
		{PointSite, "us", []string{"site.hipaa.dua.report = false"}},
		{PointRows, "us", []string{"record.deceased = true"}},
		{PointRows, "us", []string{"record.withdrawn_at = 2026-01-01"}},
		{PointRows, "us", []string{"record.categories -= genetic"}},
	} {
		b, r := fault(c.point, c.base, c.changes...)
		if r.Decision.Allow {
			t.Errorf("%v: the fault is none", c.changes)
			continue
		}
		if !r.Admitted || len(r.Changes) == 0 || len(r.Changes) > len(c.changes) {
			t.Errorf("%v: %s", c.changes, r)
			continue
		}
		// What is proposed does admit it, decided anew.
		doc, err := decode(b)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range r.Changes {
			put(doc, strings.Split(x.Path, "."), x.To)
		}
		q, err := plain(doc)
		if err != nil {
			t.Fatal(err)
		}
		p, in, err := ParseQuestion(q)
		if err != nil {
			t.Fatalf("%v: %v", c.changes, err)
		}
		if d, err := e.Decide(t.Context(), p, in); err != nil || !d.Allow {
			t.Errorf("%v: with %v: %s, %v", c.changes, r.Changes, Explain(d), err)
		}
	}
	// What cannot be helped by paper is said to be so.
	if _, r := fault(PointRelease, "us", "release.containsRecords = true", "study.legal.commercial = true"); len(r.Changes) != 2 || !r.Admitted {
		t.Errorf("%s", r)
	}
	b, _, _ := (&Vector{Point: PointStudy, Changes: []string{"federation.sites = []"}}).Question(ExampleQuestions()["us"])
	if r, err := e.Remedy(t.Context(), b); err != nil || r.Admitted || !slices.ContainsFunc(r.Left, func(x Reason) bool { return x.Code == "QUORUM" }) || !strings.Contains(r.String(), "No change") {
		t.Errorf("%s, %v", r, err)
	}
	if _, r := fault(PointStudy, "us"); !r.Admitted || len(r.Changes) != 0 {
		t.Errorf("a question that is allowed: %s", r)
	}
}
