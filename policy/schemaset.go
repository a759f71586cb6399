package policy

import (
	"strings"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
)

// compilerSchemas gives the schemas of the questions to OPA's compiler, so that
// a rule that reads a field that no question has, or compares a number with a
// text, does not load. A rule is not told apart by the point that it is for: it
// may read what any point's question holds.
//
// The compiler follows names given to parts of the question and items of lists,
// and does not look inside what may be null; unknownFields does that, for whole
// references. Neither knows what the check at run time knows: bounds, patterns, and
// that a number does not order beside a text.
var compilerSchemas = sync.OnceValues(func() (*ast.SchemaSet, error) {
	all, err := allSchemas()
	if err != nil {
		return nil, err
	}
	parts := map[string]any{}
	for _, p := range Points() {
		for name, s := range all["input:"+string(p)].Properties {
			parts[name] = all.standard(s)
		}
	}
	set := ast.NewSchemaSet()
	set.Put(ast.SchemaRootRef, map[string]any{"type": "object", "properties": parts, "additionalProperties": false})
	return set, nil
})

// standard writes a definition as JSON Schema as the rules meet it: dates are
// numbers by then, and what may be null says so.
func (all schemas) standard(s *schema) map[string]any {
	nullable := s.Nullable
	for s.Ref != "" {
		s = all[s.Ref]
		nullable = nullable || s.Nullable
	}
	out := map[string]any{}
	switch s.Type[0] {
	case "object":
		out["type"] = "object"
		if s.Properties != nil {
			fields := map[string]any{}
			for name, p := range s.Properties {
				fields[name] = all.standard(p)
			}
			out["properties"], out["additionalProperties"] = fields, false
		}
	case "array":
		out["type"], out["items"] = "array", all.standard(s.Items)
	case "string":
		out["type"] = "string"
		if s.Format != "" {
			out["type"] = "integer" // Unix seconds: see walk
		}
	default:
		out["type"] = s.Type[0]
	}
	// null where the value may be null; a date "until" never is, see walk.
	if nullable || len(s.Type) == 2 && s.Format != "until" {
		return map[string]any{"anyOf": []any{out, map[string]any{"type": "null"}}}
	}
	return out
}

// newCompiler is OPA's compiler with the questions' schemas. Schemas that a
// module names in its own METADATA stay without effect: a board could loosen the
// check of its rules with them.
func newCompiler(caps *ast.Capabilities) (*ast.Compiler, error) {
	set, err := compilerSchemas()
	if err != nil {
		return nil, err
	}
	return ast.NewCompiler().WithCapabilities(caps).WithStrict(true).WithSchemas(set), nil
}

// withHints adds to the compiler's complaints about fields that do not exist
// the nearest that do.
func withHints(list ast.Errors) ast.Errors {
	out := make(ast.Errors, len(list))
	for i, e := range list {
		out[i] = e
		if hint := fieldHint(e); hint != "" {
			c := *e
			c.Message += ": " + hint
			out[i] = &c
		}
	}
	return out
}

// fieldHint proposes the nearest field for one that does not exist, or names
// those that do.
func fieldHint(e *ast.Error) string {
	d, ok := e.Details.(*ast.RefErrInvalidDetail)
	if !ok || d.Pos >= len(d.Ref) || len(d.OneOf) == 0 {
		return ""
	}
	bad, ok := d.Ref[d.Pos].Value.(ast.String)
	if !ok {
		return ""
	}
	known := map[string]*schema{}
	for _, v := range d.OneOf {
		if s, ok := v.(ast.String); ok {
			known[string(s)] = nil
		}
	}
	if hint := strings.TrimSpace(nearest(string(bad), known)); hint != "" {
		return hint
	}
	return "there are " + strings.Join(sortedKeys(known), ", ")
}
