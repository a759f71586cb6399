package policy

import (
	"strings"
	"testing"
)

// TestSchemasAtLoad: a rule about a field that does not exist never fires, so
// a board that misspells one has no rule. It does not load, with the place and the
// field that was meant.
func TestSchemasAtLoad(t *testing.T) {
	head := "package consilium.board.bones\n\nimport rego.v2\n\n" // four lines
	deny := `deny contains {"code": "B", "message": "m", "article": ""} if `
	for _, c := range []struct {
		name, rule string
		line, says string // "" where the rule loads
	}{
		{"as it is", deny + `input.study.purpose.class == "insurance"`, "", ""},
		{"misspelt", deny + `input.study.purpos.class == "insurance"`, "rules.rego:5", `did you mean "purpose"?`},
		{"under a name", deny + "{\n\tp := input.study.purpose\n\tp.clas == \"insurance\"\n}", "rules.rego:7", `did you mean "class"?`},
		{"in a list", deny + "{\n\tsome c in input.study.columns\n\tc.catgory == \"genetic\"\n}", "rules.rego:7", `did you mean "category"?`},
		{"deep in a hospital's facts", deny + `input.site.gdpr.dpia.aproved == false`, "rules.rego:5", `did you mean "approved"?`},
		{"of a row", "row_include if input.record.decease == false", "rules.rego:5", `did you mean "deceased"?`},
		{"nothing like it", deny + "input.study.zzzzzz", "rules.rego:5", "there are analyses"},
		{"inside a text", deny + "input.study.name.first", "rules.rego:5", "nothing inside"},
		{"a number and a text", deny + `input.study.min_sites == "five"`, "rules.rego:5", "match error"},
		{"what may be null", deny + "input.site.hipaa == null", "", ""},
		{"a schema of its own", "# METADATA\n# schemas:\n#   - input: {\"type\": \"object\", \"properties\": {\"study\": {\"type\": \"object\"}}}\n" +
			deny + `input.study.purpos.class == "insurance"`, "rules.rego:8", `did you mean "purpose"?`},
	} {
		b := deskBundle(head + c.rule + "\n")
		_, err := Compile(b)
		if c.line == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.line) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: want %s and %s: %v", c.name, c.line, c.says, err)
		}
		if len(Check(b)) == 0 {
			t.Errorf("%s: the check finds nothing", c.name)
		}
	}
}

// TestCompilerSchemas: every field that a question's schema has is there for
// the compiler, or rules about it would not load.
func TestCompilerSchemas(t *testing.T) {
	all, err := allSchemas()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	var walk func(s *schema, std map[string]any, at string)
	walk = func(s *schema, std map[string]any, at string) {
		n++
		for s.Ref != "" {
			s = all[s.Ref]
		}
		if either, ok := std["anyOf"].([]any); ok {
			std = either[0].(map[string]any)
		}
		if std["type"] == nil {
			t.Errorf("%s: no type", at)
		}
		for name, p := range s.Properties {
			sub, ok := std["properties"].(map[string]any)[name].(map[string]any)
			if !ok {
				t.Errorf("%s/%s: not known to the compiler", at, name)
				continue
			}
			walk(p, sub, at+"/"+name)
		}
		if s.Items != nil {
			walk(s.Items, std["items"].(map[string]any), at+"/-")
		}
	}
	for _, p := range Points() {
		s := all["input:"+string(p)]
		walk(s, all.standard(s), string(p))
	}
	if n < 200 {
		t.Errorf("%d fields", n)
	}
}
