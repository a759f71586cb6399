package epcis

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// node is an element of the one tree that both syntaxes are read into: that of
// the XML binding, with attributes as children. A name outside EPCIS stands as
// {namespace}local.
type node struct {
	name string
	text string
	kids []*node

	closed bool // XML: an element stands in it, so that text after it is layout
}

const rdfsComment = "{http://www.w3.org/2000/01/rdf-schema#}comment"

// fields that the hash leaves out of every event (CBV 2.0 §8.9.2).
var unhashed = map[string]bool{"recordTime": true, "eventID": true, "errorDeclaration": true, "type": true,
	"comment": true, rdfsComment: true, "rdfs:comment": true}

func parseXML(doc []byte) (events []*node, ignore map[string]bool, err error) {
	d := xml.NewDecoder(bytes.NewReader(doc))
	var root *node
	var stack []*node
	for {
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, nil, err
		}
		switch t := tok.(type) {
		case xml.Directive:
			return nil, nil, errors.New("a document type declaration is not accepted")
		case xml.StartElement:
			n := &node{name: qualified(t.Name)}
			for _, a := range t.Attr {
				if a.Name.Space == "xmlns" || a.Name.Local == "xmlns" {
					continue
				}
				n.kids = append(n.kids, &node{name: qualified(a.Name), text: expand(strings.TrimSpace(a.Value))})
			}
			if len(stack) > 0 {
				top := stack[len(stack)-1]
				top.kids, top.closed = append(top.kids, n), true
			} else if root != nil {
				return nil, nil, errors.New("two root elements")
			} else {
				root = n
			}
			if stack = append(stack, n); len(stack) > maxDepth {
				return nil, nil, errors.New("nested too deep")
			}
		case xml.EndElement:
			n := stack[len(stack)-1]
			n.text = expand(strings.TrimSpace(n.text))
			stack = stack[:len(stack)-1]
		case xml.CharData:
			if len(stack) > 0 && !stack[len(stack)-1].closed {
				stack[len(stack)-1].text += string(t)
			}
		}
	}
	if root == nil {
		return nil, nil, errors.New("no root element")
	}
	ignore = map[string]bool{}
	list := root.find("EventList", ignore)
	if list == nil {
		return nil, nil, errors.New("no EventList")
	}
	for _, e := range list.kids {
		e.unwrap()
		events = append(events, e)
	}
	return events, ignore, nil
}

func qualified(n xml.Name) string {
	if n.Space == "" {
		return n.Local
	}
	return "{" + n.Space + "}" + n.Local
}

// find looks for an element. What a document around it asks to ignore, for
// example fields that a repository adds, goes into ignore: extensions only,
// since the standard's own fields always count.
func (n *node) find(name string, ignore map[string]bool) (found *node) {
	for _, k := range n.kids {
		switch {
		case strings.HasSuffix(k.name, "}ignoreFields"):
			for _, f := range k.kids {
				if strings.HasPrefix(f.name, "{") {
					ignore[f.name] = true
				}
			}
		case k.name == name:
			found = k
		case found == nil:
			found = k.find(name, ignore)
		}
	}
	return found
}

// unwrap takes out the extension elements of EPCIS 1.2, which only group.
func (n *node) unwrap() {
	var out []*node
	for _, k := range n.kids {
		k.unwrap()
		if k.name == "extension" || k.name == "baseExtension" {
			out = append(out, k.kids...)
		} else {
			out = append(out, k)
		}
	}
	n.kids = out
}

// expand spells out the two prefixes of GS1's own vocabularies in a value.
func expand(v string) string {
	if rest, ok := strings.CutPrefix(v, "gs1:"); ok {
		return gs1Voc + rest
	}
	if rest, ok := strings.CutPrefix(v, "cbv:"); ok {
		return cbvVoc + rest
	}
	return v
}

const (
	gs1Voc = "https://gs1.org/voc/"
	cbvVoc = "https://ref.gs1.org/cbv/"
)

// bare is a term of the standard's JSON-LD context, which stands for an
// address of the vocabulary that its place names.
var bare = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

func vocabulary(parent, name string) string {
	switch name {
	case "bizStep":
		return cbvVoc + "BizStep-"
	case "disposition", "set", "unset":
		return cbvVoc + "Disp-"
	case "component":
		return cbvVoc + "Comp-"
	case "exception":
		return gs1Voc
	case "type":
		switch parent {
		case "bizTransactionList":
			return cbvVoc + "BTT-"
		case "sourceList", "destinationList":
			return cbvVoc + "SDT-"
		case "sensorReport":
			return gs1Voc
		}
	}
	return ""
}

type jsonReader struct {
	prefixes map[string]string
}

func parseJSON(doc []byte) (events []*node, ignore map[string]bool, err error) {
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	v, err := decodeValue(d, 0)
	if err != nil {
		return nil, nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, nil, errors.New("bytes after the document")
	}
	root, ok := v.(*object)
	if !ok {
		return nil, nil, errors.New("want a JSON object")
	}
	r := &jsonReader{prefixes: map[string]string{"rdfs": "http://www.w3.org/2000/01/rdf-schema#", "cbvmda": "urn:epcglobal:cbv:mda:"}}
	r.context(root.get("@context"))
	list, around, err := eventList(root)
	if err != nil {
		return nil, nil, err
	}
	ignore = map[string]bool{}
	for _, o := range around {
		r.ignored(o, ignore)
	}
	for i, e := range list {
		o, ok := e.(*object)
		if !ok {
			return nil, nil, fmt.Errorf("event %d is no object", i+1)
		}
		typ, _ := o.get("type").(string)
		n := &node{name: typ}
		if n.kids, err = r.members(o, ""); err != nil {
			return nil, nil, fmt.Errorf("event %d: %w", i+1, err)
		}
		events = append(events, n)
	}
	return events, ignore, nil
}

// ignored is find's rule for JSON.
func (r *jsonReader) ignored(o *object, ignore map[string]bool) {
	for _, m := range o.members {
		if _, local, ok := strings.Cut(m.name, ":"); !ok || local != "ignoreFields" {
			continue
		}
		list, _ := m.value.([]any)
		for _, f := range list {
			if s, ok := f.(string); ok && strings.HasPrefix(r.name(s), "{") {
				ignore[r.name(s)] = true
			}
		}
	}
}

// eventList finds the events of a document, a query document or an event, and
// the objects around them.
func eventList(root *object) (events []any, around []*object, err error) {
	if typ, _ := root.get("type").(string); strings.HasSuffix(typ, "Event") {
		return []any{root}, nil, nil
	}
	at := root
	around = []*object{root}
	for _, name := range []string{"epcisBody", "queryResults", "resultsBody"} {
		if list, ok := at.get("eventList").([]any); ok {
			return list, around, nil
		}
		next, ok := at.get(name).(*object)
		if !ok {
			break
		}
		at, around = next, append(around, next)
	}
	if list, ok := at.get("eventList").([]any); ok {
		return list, around, nil
	}
	if one := at.get("event"); one != nil {
		return []any{one}, around, nil
	}
	return nil, nil, errors.New("no eventList in epcisBody, nor in queryResults")
}

// context collects the prefixes that a document declares.
func (r *jsonReader) context(v any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			r.context(e)
		}
	case *object:
		for _, m := range v.members {
			if s, ok := m.value.(string); ok && !strings.HasPrefix(m.name, "@") {
				r.prefixes[m.name] = s
			}
		}
	}
}

func (r *jsonReader) name(key string) string {
	if prefix, local, ok := strings.Cut(key, ":"); ok {
		if ns, ok := r.prefixes[prefix]; ok {
			return "{" + ns + "}" + local
		}
	}
	return key
}

// items names what a list holds in XML; JSON leaves the name out.
var items = map[string]string{"epcList": "epc", "inputEPCList": "epc", "outputEPCList": "epc", "childEPCs": "epc",
	"quantityList": "quantityElement", "inputQuantityList": "quantityElement", "outputQuantityList": "quantityElement",
	"childQuantityList": "quantityElement", "bizTransactionList": "bizTransaction", "sourceList": "source",
	"destinationList": "destination", "sensorElementList": "sensorElement"}

func (r *jsonReader) members(o *object, parent string) ([]*node, error) {
	var kids []*node
	for _, m := range o.members {
		if m.name == "@context" || m.name == "rdfs:comment" || m.name == "comment" {
			continue
		}
		if item, ok := items[m.name]; ok {
			list, ok := m.value.([]any)
			if !ok {
				return nil, fmt.Errorf("%s is no list", m.name)
			}
			n := &node{name: m.name}
			for _, e := range list {
				k, err := r.value(item, m.name, e)
				if err != nil {
					return nil, err
				}
				n.kids = append(n.kids, k)
			}
			kids = append(kids, n)
			continue
		}
		if list, ok := m.value.([]any); ok {
			for _, e := range list {
				k, err := r.value(r.name(m.name), parent, e)
				if err != nil {
					return nil, err
				}
				kids = append(kids, k)
			}
			continue
		}
		k, err := r.value(r.name(m.name), parent, m.value)
		if err != nil {
			return nil, err
		}
		kids = append(kids, k)
	}
	return kids, nil
}

func (r *jsonReader) value(name, parent string, v any) (*node, error) {
	n := &node{name: name}
	switch v := v.(type) {
	case *object:
		within := name
		if name == "bizTransaction" || name == "source" || name == "destination" {
			within = parent
		}
		kids, err := r.members(v, within)
		if err != nil {
			return nil, err
		}
		// In XML the party or document is the element's own text.
		for _, k := range kids {
			if within == parent && k.name == name || k.name == "#text" {
				n.text = k.text
			} else {
				n.kids = append(n.kids, k)
			}
		}
	case string:
		n.text = v
		if voc := vocabulary(parent, name); voc != "" && bare.MatchString(v) {
			n.text = voc + v
		}
		n.text = expand(n.text)
	case json.Number:
		n.text = v.String()
	case bool:
		n.text = fmt.Sprint(v)
	case nil:
	default:
		return nil, fmt.Errorf("%s: a list in a list", clip(name))
	}
	if (name == "readPoint" || name == "bizLocation") && n.text != "" {
		n.text, n.kids = "", append(n.kids, &node{name: "id", text: n.text})
	}
	return n, nil
}

// object keeps a JSON object's members in order; a name that stands twice is
// refused, since readers differ in which one they take.
type object struct{ members []member }

type member struct {
	name  string
	value any
}

func (o *object) get(name string) any {
	for _, m := range o.members {
		if m.name == name {
			return m.value
		}
	}
	return nil
}

func decodeValue(d *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, errors.New("nested too deep")
	}
	tok, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch tok {
	case json.Delim('{'):
		o := &object{}
		seen := map[string]bool{}
		for d.More() {
			key, err := d.Token()
			if err != nil {
				return nil, err
			}
			name := key.(string) // the decoder lets nothing else stand here
			if seen[name] {
				return nil, fmt.Errorf("%q stands twice in one object", clip(name))
			}
			seen[name] = true
			v, err := decodeValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			o.members = append(o.members, member{name, v})
		}
		_, err := d.Token()
		return o, err
	case json.Delim('['):
		list := []any{}
		for d.More() {
			v, err := decodeValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := d.Token()
		return list, err
	}
	return tok, nil
}
