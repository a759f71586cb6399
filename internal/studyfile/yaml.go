package studyfile

import (
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"consilium"
)

// maxSize bounds a study file. Real ones are below ten kilobytes.
const maxSize = 1 << 20

// Error is what is wrong with a study file, where, and what to do.
type Error struct {
	Line, Column int // from 1; 0 if the file as a whole is meant
	Msg          string
	Next         string // or ""
}

func (e *Error) Error() string {
	s := e.Msg
	if e.Next != "" {
		s += "; " + e.Next
	}
	if e.Line == 0 {
		return s
	}
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, s)
}

// errStudy has the code of consilium.ErrInvalid with words for this file.
var errStudy = &consilium.Error{Code: consilium.ErrInvalid.Code, Msg: "study file"}

// refusal unwinds the parser to its one exit.
type refusal struct{ *Error }

func refuse(n *yaml.Node, next, format string, args ...any) {
	e := &Error{Msg: fmt.Sprintf(format, args...), Next: next}
	if n != nil {
		e.Line, e.Column = n.Line, n.Column
	}
	panic(refusal{e})
}

// catch turns a refusal into the error of the exported function.
func catch(err *error) {
	switch r := recover().(type) {
	case nil:
	case refusal:
		*err = errStudy.With(r.Error)
	default:
		panic(r)
	}
}

var yamlLine = regexp.MustCompile(`^yaml: line (\d+): (.*)$`)

// document parses exactly one YAML document without aliases, anchors, tags or
// repeated keys, and returns its root.
func document(src []byte) *yaml.Node {
	if len(src) > maxSize {
		refuse(nil, "", "the file has %d bytes, at most %d", len(src), maxSize)
	}
	dec := yaml.NewDecoder(strings.NewReader(string(src)))
	var doc yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		refuse(nil, "start from `consilium study new --from DATA.csv`", "no study in the file")
	} else if err != nil {
		notYAML(err)
	}
	var more yaml.Node
	if err := dec.Decode(&more); err == nil {
		refuse(&more, "keep one study per file", "a second document")
	} else if !errors.Is(err, io.EOF) {
		notYAML(err)
	}
	if len(doc.Content) != 1 {
		refuse(nil, "", "no study in the file")
	}
	plain(doc.Content[0], 0)
	return doc.Content[0]
}

func notYAML(err error) {
	e := &Error{Msg: "not YAML: " + strings.TrimPrefix(err.Error(), "yaml: "), Next: "check the indentation and quotes"}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		e.Column = 1
		e.Msg = "not YAML: " + m[2]
		if strings.Contains(m[2], "cannot start any token") {
			e.Next = "indent with spaces, not tabs, and put text that begins with %, @ or a backquote in quotes"
		}
	}
	panic(refusal{e})
}

func plain(n *yaml.Node, depth int) {
	if depth > 32 {
		refuse(n, "", "nested deeper than any study file needs")
	}
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		refuse(n, "write the value out: what is signed must be readable in one place", "anchors and aliases are not allowed")
	}
	if n.Style&yaml.TaggedStyle != 0 {
		refuse(n, "leave the tag out", "the tag %s is not allowed", clip(n.Tag))
	}
	if n.Kind == yaml.MappingNode {
		seen := map[string]*yaml.Node{}
		for i := 0; i < len(n.Content); i += 2 {
			k := n.Content[i]
			if k.Kind != yaml.ScalarNode {
				refuse(k, "", "a key must be a plain word")
			}
			if first := seen[k.Value]; first != nil {
				refuse(k, "keep one of them", "key %s stands twice, first in line %d", clip(k.Value), first.Line)
			}
			seen[k.Value] = k
		}
	}
	for _, c := range n.Content {
		plain(c, depth+1)
	}
}

// object is a mapping whose keys are taken one by one; what is left over is
// unknown.
type object struct {
	node  *yaml.Node
	what  string
	known []string
	at    map[string]int // key to the index of its value in node.Content
}

// asObject opens n, whose only allowed keys are known.
func asObject(n *yaml.Node, what string, known ...string) object {
	if n.Kind != yaml.MappingNode {
		refuse(n, "write "+what+": {"+strings.Join(known[:min(2, len(known))], ": …, ")+": …}", "%s is %s, want keys and values", what, kindName(n))
	}
	o := object{node: n, what: what, known: known, at: map[string]int{}}
	for i := 0; i < len(n.Content); i += 2 {
		k := n.Content[i]
		if !contains(known, k.Value) {
			if strings.ContainsAny(k.Value, "~()") {
				refuse(k, "put the formula in double quotes", "%s: a comma splits a formula inside { }", what)
			}
			refuse(k, suggest(k.Value, known, "key"), "unknown key %s under %s", clip(k.Value), what)
		}
		o.at[k.Value] = i + 1
	}
	return o
}

// get returns the value of key, or nil when it is absent or null.
func (o object) get(key string) *yaml.Node {
	i, ok := o.at[key]
	if !ok || isNull(o.node.Content[i]) {
		return nil
	}
	return o.node.Content[i]
}

// key returns the node of the key itself, for errors; the mapping if absent.
func (o object) key(key string) *yaml.Node {
	if i, ok := o.at[key]; ok {
		return o.node.Content[i-1]
	}
	return o.node
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

func (o object) path(key string) string { return o.what + "." + key }

func (o object) str(key, def string) string {
	n := o.get(key)
	if n == nil {
		return def
	}
	return str(n, o.path(key))
}

func (o object) strs(key string) []string {
	n := o.get(key)
	if n == nil {
		return nil
	}
	return strs(n, o.path(key))
}

func (o object) num(key string, def float64) float64 {
	n := o.get(key)
	if n == nil {
		return def
	}
	return num(n, o.path(key))
}

func (o object) whole(key string, def int) int {
	n := o.get(key)
	if n == nil {
		return def
	}
	return whole(n, o.path(key))
}

func (o object) flag(key string) bool {
	n := o.get(key)
	if n == nil {
		return false
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!bool" {
		return n.Value == "true" || n.Value == "True" || n.Value == "TRUE"
	}
	refuse(n, "write true or false", "%s is %s", o.path(key), kindName(n))
	return false
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a block of keys"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		if isNull(n) {
			return "empty"
		}
		return strconv.Quote(clip(n.Value))
	}
	return "something else"
}

func str(n *yaml.Node, what string) string {
	if n.Kind != yaml.ScalarNode || isNull(n) {
		refuse(n, "", "%s is %s, want text", what, kindName(n))
	}
	return n.Value
}

func strs(n *yaml.Node, what string) []string {
	if n.Kind != yaml.SequenceNode {
		refuse(n, "write ["+kindWord(n)+"]", "%s is %s, want a list", what, kindName(n))
	}
	out := make([]string, len(n.Content))
	for i, c := range n.Content {
		out[i] = str(c, what)
	}
	return out
}

// kindWord is a scalar's text for a suggestion, else an ellipsis.
func kindWord(n *yaml.Node) string {
	if n.Kind == yaml.ScalarNode && !isNull(n) {
		return clip(n.Value)
	}
	return "…"
}

func num(n *yaml.Node, what string) float64 {
	if n.Kind == yaml.ScalarNode {
		if v, err := strconv.ParseFloat(n.Value, 64); err == nil && !math.IsInf(v, 0) && !math.IsNaN(v) && !strings.ContainsAny(n.Value, "xX_") {
			return v
		}
	}
	refuse(n, "", "%s is %s, want a number", what, kindName(n))
	return 0
}

func nums(n *yaml.Node, what string) []float64 {
	if n.Kind != yaml.SequenceNode {
		refuse(n, "write ["+kindWord(n)+"]", "%s is %s, want a list of numbers", what, kindName(n))
	}
	out := make([]float64, len(n.Content))
	for i, c := range n.Content {
		out[i] = num(c, what)
	}
	return out
}

func whole(n *yaml.Node, what string) int {
	if n.Kind == yaml.ScalarNode {
		if v, err := strconv.ParseInt(n.Value, 10, 32); err == nil {
			return int(v)
		}
	}
	refuse(n, "", "%s is %s, want a whole number", what, kindName(n))
	return 0
}

// seconds reads a duration such as 90s, 2m or 1h30m.
func seconds(n *yaml.Node, what string) int64 {
	const next = "write for example 90s, 2m or 1h30m"
	if n.Kind != yaml.ScalarNode {
		refuse(n, next, "%s is %s, want a duration", what, kindName(n))
	}
	d, err := time.ParseDuration(n.Value)
	switch {
	case err != nil:
		refuse(n, next, "%s is %s, want a duration with its unit", what, kindName(n))
	case d < time.Second || d%time.Second != 0:
		refuse(n, next, "%s is %s, want whole seconds, at least one", what, kindName(n))
	}
	return int64(d / time.Second)
}

// value turns a free block into what encoding/json understands.
func value(n *yaml.Node) any {
	switch n.Kind {
	case yaml.MappingNode:
		m := make(map[string]any, len(n.Content)/2)
		for i := 0; i < len(n.Content); i += 2 {
			m[n.Content[i].Value] = value(n.Content[i+1])
		}
		return m
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, c := range n.Content {
			list[i] = value(c)
		}
		return list
	}
	switch n.ShortTag() {
	case "!!null":
		return nil
	case "!!bool":
		var b bool
		if err := n.Decode(&b); err != nil {
			refuse(n, "write true or false", "%s is not a truth value", kindName(n))
		}
		return b
	case "!!int", "!!float":
		// RFC 8785 numbers are doubles: a longer one would change its value.
		v := num(n, "the number")
		if v == math.Trunc(v) && math.Abs(v) > 1<<53 {
			refuse(n, "put it in quotes", "%s has more digits than a JSON number keeps", kindName(n))
		}
		return v
	}
	return n.Value // text, and dates as they are written
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// clip keeps text short enough for an error message.
func clip(s string) string {
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return s
}
