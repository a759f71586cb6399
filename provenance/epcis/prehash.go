package epcis

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// field is one place of the common order, with the order of what is in it.
type field struct {
	name string
	in   []field
}

func fields(names ...string) []field {
	out := make([]field, len(names))
	for i, n := range names {
		out[i].name = n
	}
	return out
}

var quantity = []field{{"quantityElement", fields("epcClass", "quantity", "uom")}}

// order is the common order of an event's fields (CBV 2.0 §8.9.2, table).
var order = []field{
	{name: "eventTime"}, {name: "eventTimeZoneOffset"}, {name: "certificationInfo"},
	{"epcList", fields("epc")}, {name: "parentID"}, {"inputEPCList", fields("epc")}, {"childEPCs", fields("epc")},
	{"quantityList", quantity}, {"childQuantityList", quantity}, {"inputQuantityList", quantity},
	{"outputEPCList", fields("epc")}, {"outputQuantityList", quantity},
	{name: "action"}, {name: "transformationID"}, {name: "bizStep"}, {name: "disposition"},
	{"persistentDisposition", fields("set", "unset")}, {"readPoint", fields("id")}, {"bizLocation", fields("id")},
	{"sensorElementList", []field{{"sensorElement", []field{
		{"sensorMetadata", fields("time", "startTime", "endTime", "deviceID", "deviceMetadata", "rawData", "dataProcessingMethod", "bizRules")},
		{"sensorReport", fields("type", "exception", "deviceID", "deviceMetadata", "rawData", "dataProcessingMethod", "time", "microorganism",
			"chemicalSubstance", "value", "component", "stringValue", "booleanValue", "hexBinaryValue", "uriValue", "minValue", "maxValue",
			"meanValue", "sDev", "percRank", "percValue", "uom", "coordinateReferenceSystem")},
	}}}},
}

// prehash writes an event's canonical text.
func prehash(event *node, ignore map[string]bool) (string, error) {
	top := &node{}
	for _, k := range event.kids {
		if !unhashed[k.name] && !ignore[k.name] {
			top.kids = append(top.kids, k)
		}
	}
	text, err := inOrder(top, order, true)
	if err != nil {
		return "", err
	}
	return "eventType=" + event.name + text + rest(top.kids), nil
}

// inOrder writes what the order names and takes it out of n. An extension
// within a field follows that field's own parts; those of the event itself
// come last of all, by rest.
func inOrder(n *node, order []field, top bool) (string, error) {
	var out strings.Builder
	var extensions []*node
	if !top {
		n.kids = slices.DeleteFunc(n.kids, func(k *node) bool {
			if strings.HasPrefix(k.name, "{") {
				extensions = append(extensions, k)
				return true
			}
			return false
		})
	}
	for _, f := range order {
		var values []string
		var left []*node
		for _, k := range n.kids {
			if k.name != f.name {
				left = append(left, k)
				continue
			}
			v, err := one(k, f)
			if err != nil {
				return "", err
			}
			if v != "" {
				values = append(values, v)
			}
			if len(k.kids) > 0 { // what the order does not know
				k.text = ""
				left = append(left, k)
			}
		}
		n.kids = left
		slices.Sort(values)
		out.WriteString(strings.Join(values, ""))
	}
	out.WriteString(rest(extensions))
	return out.String(), nil
}

func one(k *node, f field) (string, error) {
	text := ""
	if k.text != "" {
		lower := strings.ToLower(k.name)
		if strings.Contains(lower, "time") && !strings.Contains(lower, "offset") {
			t, err := moment(k.text)
			if err != nil {
				return "", fmt.Errorf("%s: %w", k.name, err)
			}
			text = "=" + t.Format("2006-01-02T15:04:05.000Z")
		} else {
			text = "=" + canonical(k.text)
		}
	}
	if f.in != nil {
		inner, err := inOrder(k, f.in, false)
		if err != nil {
			return "", err
		}
		text += inner
	}
	if text == "" {
		return "", nil
	}
	return k.name + text, nil
}

// rest writes what no order names, sorted.
func rest(nodes []*node) string {
	values := make([]string, 0, len(nodes))
	for _, k := range nodes {
		text := ""
		if k.text != "" {
			text = "=" + canonical(k.text)
		}
		switch k.name {
		case "bizTransaction", "source", "destination":
			values = append(values, rest(k.kids)+k.name+text) // its type comes first
		default:
			values = append(values, k.name+text+rest(k.kids))
		}
	}
	slices.Sort(values)
	return strings.Join(values, "")
}

// moment reads an xsd:dateTimeStamp, in UTC and rounded to milliseconds.
func moment(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is no date and time with a zone, as 2026-01-02T15:04:05Z", clip(s))
	}
	t = t.UTC().Round(time.Millisecond)
	if y := t.Year(); y < 1 || y > 9999 {
		return time.Time{}, errors.New("a year outside 1 to 9999")
	}
	return t, nil
}

// urns are the vocabularies of CBV 1.2 under their present addresses.
var urns = strings.NewReplacer("urn:epcglobal:cbv:bizstep:", cbvVoc+"BizStep-", "urn:epcglobal:cbv:disp:", cbvVoc+"Disp-",
	"urn:epcglobal:cbv:btt:", cbvVoc+"BTT-", "urn:epcglobal:cbv:sdt:", cbvVoc+"SDT-", "urn:epcglobal:cbv:er:", cbvVoc+"ER-")

// canonical is a value's one spelling.
func canonical(v string) string {
	v = number(urns.Replace(v))
	if link, ok := digitalLink(v); ok {
		return link
	}
	return v
}

var decimal = regexp.MustCompile(`^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$`)

// number strips what does not change a number: zeros in front and behind, a
// plus sign. The reference reads numbers as float64 and prints the shortest
// text that reads back, and whole ones in full.
func number(v string) string {
	if !decimal.MatchString(v) {
		return v
	}
	f, err := strconv.ParseFloat(v, 64)
	if err != nil || math.IsInf(f, 0) {
		return v
	}
	if f == math.Trunc(f) {
		n, _ := new(big.Float).SetFloat64(f).Int(nil)
		return n.String()
	}
	if math.Abs(f) < 1e-4 {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	return strconv.FormatFloat(f, 'f', -1, 64)
}
