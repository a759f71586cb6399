package policy

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

//go:embed schema/*.json
var schemaFiles embed.FS

// Never is the instant of what does not happen or does not end: the largest
// integer that RFC 8785 JSON carries exactly.
const Never = int64(1)<<53 - 1

// schema is the subset of JSON Schema that the documents of this package
// use. Everything that is not in the subset fails when the schemas are read,
// so no keyword is ever silently without effect.
//
// Every property of an object is required and no other is accepted: absence
// must be said (null, false, ""), since rules that meet a missing field would
// not fire.
//
// The exception is a property marked x-absent: null, whose absence reads as
// null: a part of a document that only some laws ask for. The rules of those
// laws deny on null.
//
// Two formats change the value: "date" turns an ISO 8601 date into Unix
// seconds at 00:00 UTC, "until" does the same and turns null into Never. So
// rules only ever compare integers with integers; Rego orders strings above
// every number, and a date kept as a string would lie in the future for ever.
type schema struct {
	Type       schemaTypes        `json:"type,omitempty"`
	Ref        string             `json:"$ref,omitempty"`
	Nullable   bool               `json:"nullable,omitempty"` // with $ref: null is accepted
	Properties map[string]*schema `json:"properties,omitempty"`
	Values     *schema            `json:"values,omitempty"` // of an object that is a map
	Items      *schema            `json:"items,omitempty"`
	Enum       []string           `json:"enum,omitempty"`
	Pattern    string             `json:"pattern,omitempty"`
	Format     string             `json:"format,omitempty"` // date, until
	Minimum    *int64             `json:"minimum,omitempty"`
	Maximum    *int64             `json:"maximum,omitempty"`
	MaxLength  int                `json:"maxLength,omitempty"` // of strings; 512 where absent
	MaxItems   int                `json:"maxItems,omitempty"`  // of arrays and maps; 1024 where absent
	Unique     bool               `json:"uniqueItems,omitempty"`
	Audit      string             `json:"x-audit,omitempty"` // keep, hash or drop; drop where absent
	Absent     string             `json:"x-absent,omitempty"`
	Comment    string             `json:"description,omitempty"`

	pattern *regexp.Regexp
}

type schemaTypes []string

func (t *schemaTypes) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*t = schemaTypes{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(t))
}

// schemas holds every definition by "file#name".
type schemas map[string]*schema

// loadSchemas reads the embedded definitions. A mistake in them is a mistake
// of the program.
func loadSchemas() (schemas, error) {
	all := schemas{}
	entries, err := schemaFiles.ReadDir("schema")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		b, err := schemaFiles.ReadFile("schema/" + e.Name())
		if err != nil {
			return nil, err
		}
		var defs map[string]*schema
		if err := strict(b, &defs); err != nil {
			return nil, fmt.Errorf("schema/%s: %w", e.Name(), err)
		}
		for name, s := range defs {
			if _, dup := all[name]; dup {
				return nil, fmt.Errorf("schema/%s: %s stands twice", e.Name(), name)
			}
			all[name] = s
		}
	}
	for name, s := range all {
		if err := s.prepare(all, name); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (s *schema) prepare(all schemas, at string) error {
	if s == nil {
		return fmt.Errorf("schema %s: empty", at)
	}
	if s.Ref != "" {
		if all[s.Ref] == nil || len(s.Type) > 0 {
			return fmt.Errorf("schema %s: bad reference %q", at, s.Ref)
		}
		return nil
	}
	if len(s.Type) == 0 || len(s.Type) > 2 || len(s.Type) == 2 && s.Type[1] != "null" {
		return fmt.Errorf("schema %s: type: want one, or one and null", at)
	}
	if s.Pattern != "" {
		p, err := regexp.Compile("^(?:" + s.Pattern + ")$")
		if err != nil {
			return fmt.Errorf("schema %s: %w", at, err)
		}
		s.pattern = p
	}
	switch s.Type[0] {
	case "object":
		if (s.Properties == nil) == (s.Values == nil) {
			return fmt.Errorf("schema %s: an object has properties or values", at)
		}
		for name, p := range s.Properties {
			if err := p.prepare(all, at+"/"+name); err != nil {
				return err
			}
		}
		if s.Values != nil {
			return s.Values.prepare(all, at+"/*")
		}
	case "array":
		return s.Items.prepare(all, at+"/-")
	case "string", "boolean", "integer":
	default:
		return fmt.Errorf("schema %s: unknown type %q", at, s.Type[0])
	}
	switch s.Format {
	case "", "date", "until":
	default:
		return fmt.Errorf("schema %s: unknown format %q", at, s.Format)
	}
	if s.Absent != "" && (s.Absent != "null" || len(s.Type) != 2 && !s.Nullable) {
		return fmt.Errorf("schema %s: x-absent: want null, of a property that may be null", at)
	}
	switch s.Audit {
	case "", "keep", "hash", "drop":
	default:
		return fmt.Errorf("schema %s: x-audit %q", at, s.Audit)
	}
	return nil
}

// check validates v, as decoded by decode, against the definition and returns
// it with its dates as Unix seconds. The error names the place, not the value.
func (all schemas) check(name string, v any) (any, error) {
	s := all[name]
	if s == nil {
		return nil, fmt.Errorf("no schema %q", name)
	}
	return all.walk(s, v, name)
}

func (all schemas) walk(s *schema, v any, at string) (any, error) {
	if s.Ref != "" {
		if v == nil && s.Nullable {
			return nil, nil
		}
		return all.walk(all[s.Ref], v, at)
	}
	if v == nil {
		if s.Format == "until" {
			return json.Number(fmt.Sprint(Never)), nil
		}
		if len(s.Type) == 2 {
			return nil, nil
		}
		return nil, fmt.Errorf("%s is null", at)
	}
	maxItems := s.MaxItems
	if maxItems == 0 {
		maxItems = 1024
	}
	switch s.Type[0] {
	case "object":
		m, ok := v.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s: want an object", at)
		}
		out := make(map[string]any, len(m))
		if s.Values != nil {
			if len(m) > maxItems {
				return nil, fmt.Errorf("%s: more than %d entries", at, maxItems)
			}
			for _, k := range sortedKeys(m) {
				if !utf8.ValidString(k) || len(k) > 128 {
					return nil, fmt.Errorf("%s: a key is too long or not UTF-8", at)
				}
				w, err := all.walk(s.Values, m[k], at+"/"+k)
				if err != nil {
					return nil, err
				}
				out[k] = w
			}
			return out, nil
		}
		for _, k := range sortedKeys(m) {
			if s.Properties[k] == nil {
				return nil, fmt.Errorf("%s: unknown field %q%s", at, clip(k), nearest(k, s.Properties))
			}
		}
		for _, k := range sortedKeys(s.Properties) {
			child, present := m[k]
			if !present && s.Properties[k].Absent == "null" {
				out[k] = nil
				continue
			}
			if !present {
				return nil, fmt.Errorf("%s: field %q is missing", at, k)
			}
			w, err := all.walk(s.Properties[k], child, at+"/"+k)
			if err != nil {
				return nil, err
			}
			out[k] = w
		}
		return out, nil
	case "array":
		l, ok := v.([]any)
		if !ok {
			return nil, fmt.Errorf("%s: want a list", at)
		}
		if len(l) > maxItems {
			return nil, fmt.Errorf("%s: more than %d items", at, maxItems)
		}
		out := make([]any, len(l))
		for i, x := range l {
			w, err := all.walk(s.Items, x, fmt.Sprintf("%s/%d", at, i))
			if err != nil {
				return nil, err
			}
			if s.Unique && slices.ContainsFunc(out[:i], func(y any) bool { return y == w }) {
				return nil, fmt.Errorf("%s: item %d stands twice", at, i)
			}
			out[i] = w
		}
		return out, nil
	case "boolean":
		if _, ok := v.(bool); !ok {
			return nil, fmt.Errorf("%s: want true or false", at)
		}
		return v, nil
	case "integer":
		n, ok := v.(json.Number)
		if !ok {
			return nil, fmt.Errorf("%s: want an integer", at)
		}
		i, err := n.Int64()
		if err != nil || i > Never || i < -Never || fmt.Sprint(i) != n.String() {
			return nil, fmt.Errorf("%s: want an integer of at most 2^53-1 in plain digits", at)
		}
		if s.Minimum != nil && i < *s.Minimum || s.Maximum != nil && i > *s.Maximum {
			return nil, fmt.Errorf("%s: out of its range", at)
		}
		return v, nil
	case "string":
		str, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("%s: want a string", at)
		}
		limit := s.MaxLength
		if limit == 0 {
			limit = 512
		}
		if len(str) > limit || !utf8.ValidString(str) {
			return nil, fmt.Errorf("%s: longer than %d bytes or not UTF-8", at, limit)
		}
		if s.Enum != nil && !slices.Contains(s.Enum, str) {
			return nil, fmt.Errorf("%s: %q is not one of %s", at, clip(str), strings.Join(s.Enum, ", "))
		}
		if s.pattern != nil && !s.pattern.MatchString(str) {
			return nil, fmt.Errorf("%s: %q does not have the form %s", at, clip(str), s.Pattern)
		}
		if s.Format != "" {
			t, err := time.Parse(time.DateOnly, str)
			if err != nil {
				return nil, fmt.Errorf("%s: want a date like 2026-11-21", at)
			}
			return json.Number(fmt.Sprint(t.Unix())), nil
		}
		return str, nil
	}
	return nil, fmt.Errorf("%s: unknown type", at)
}

// mask keeps what the schema's x-audit allows to stand in the audit log,
// replaces what it says to hash by hash's answer and drops the rest.
func (all schemas) mask(s *schema, v any, hash func(any) string) (any, bool) {
	audit := s.Audit
	if s.Ref != "" {
		if v == nil {
			return nil, audit == "keep"
		}
		if audit == "" {
			return all.mask(all[s.Ref], v, hash)
		}
	}
	switch audit {
	case "keep":
		return v, true
	case "hash":
		return hash(v), true
	case "drop":
		return nil, false
	}
	switch t := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, child := range t {
			c := s.Values
			if s.Properties != nil {
				c = s.Properties[k]
			}
			if c == nil {
				continue
			}
			if w, ok := all.mask(c, child, hash); ok {
				out[k] = w
			}
		}
		return out, len(out) > 0
	case []any:
		out := []any{}
		for _, child := range t {
			if w, ok := all.mask(s.Items, child, hash); ok {
				out = append(out, w)
			}
		}
		return out, len(out) > 0
	}
	return nil, false
}

// decode reads one JSON value with exact numbers and refuses duplicate keys,
// which different readers would resolve differently.
func decode(b []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	v, err := decodeValue(dec, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("bytes after the JSON value")
	}
	return v, nil
}

const maxDepth = 32

func decodeValue(dec *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxDepth)
	}
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	d, ok := tok.(json.Delim)
	if !ok {
		return tok, nil
	}
	switch d {
	case '{':
		m := map[string]any{}
		for dec.More() {
			k, err := dec.Token()
			if err != nil {
				return nil, err
			}
			key := k.(string) // inside an object the decoder only yields string keys
			if _, dup := m[key]; dup {
				return nil, fmt.Errorf("field %q stands twice", clip(key))
			}
			if m[key], err = decodeValue(dec, depth+1); err != nil {
				return nil, err
			}
		}
		_, err := dec.Token()
		return m, err
	case '[':
		l := []any{}
		for dec.More() {
			v, err := decodeValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			l = append(l, v)
		}
		_, err := dec.Token()
		return l, err
	}
	return nil, fmt.Errorf("unexpected %v", d)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

// nearest proposes the known field that differs from k by at most two
// characters.
func nearest(k string, known map[string]*schema) string {
	best, at := "", 3
	for _, name := range sortedKeys(known) {
		if d := distance(k, name); d < at {
			best, at = name, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// distance is the Levenshtein distance of two short names.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diag, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diag+cost)
		}
	}
	return row[len(b)]
}
