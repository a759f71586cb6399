package models

import (
	"fmt"
	"reflect"
	"sort"
	"strings"

	"consilium"
)

// keysOf lists the keys that each analysis type reads, besides name and type.
var keysOf = map[string][]string{
	consilium.AnalysisDescribe:    {"variables", "by", "histogram", "quantiles"},
	consilium.AnalysisCrosstab:    {"rows", "columns", "strata"},
	consilium.AnalysisKaplanMeier: {"response", "by", "grid", "confType", "restricted"},
	consilium.AnalysisLogrank:     {"response", "by", "strata", "grid", "weights"},
	consilium.AnalysisGLM:         {"response", "family", "terms", "noIntercept", "strata", "offset", "cluster", "robust", "ridge", "lasso", "penalty", "evaluate"},
	consilium.AnalysisCox: {"response", "terms", "strata", "cluster", "ties", "robust", "ridge", "lasso", "penalty", "baseline", "timeTerms",
		"phCheck", "concordance"},
	consilium.AnalysisGWAS: {"response", "family", "terms", "strata", "variants", "quality"},
}

// later are keys and values that a reader may expect and that are refused by
// name, because they are not built yet.
var later = map[string]map[string]string{
	consilium.AnalysisKaplanMeier: {"strata": "curves take groups under `by`"},
}

// Keys lists the keys that a specification sets, besides name and type, by
// their names in the canonical form and in its order. An empty list is not set.
func Keys(a *consilium.AnalysisSpec) []string {
	var out []string
	v := reflect.ValueOf(a).Elem()
	for i := range v.NumField() {
		key, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		f := v.Field(i)
		list := f.Kind() == reflect.Slice || f.Kind() == reflect.Map
		if key == "name" || key == "type" || f.IsZero() || list && f.Len() == 0 {
			continue
		}
		out = append(out, key)
	}
	return out
}

func checkKeys(a *consilium.AnalysisSpec) error {
	allowed := keysOf[a.Type]
	for _, k := range Keys(a) {
		if contains(allowed, k) {
			continue
		}
		if why, ok := later[a.Type][k]; ok {
			return consilium.ErrInvalid.Withf("key %s: %s", k, why)
		}
		return consilium.ErrInvalid.Withf("key %s is not used by %s%s; its keys are %s", k, a.Type, suggest(k, allowed), strings.Join(allowed, ", "))
	}
	return nil
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// Check reports the first thing in spec that no analysis could run on: an
// unknown type, a key that the type does not use, a column that is not
// declared or has the wrong type, a malformed term. It needs no data. Types
// that extra names are left to their own constructors.
func Check(spec *consilium.Spec, extra map[string]Constructor) error {
	_, err := New(consilium.Facts{Spec: spec, MinCohort: spec.Privacy.MinCohort, Permits: spec.Privacy.Permits}, extra)
	return err
}

// columnNames lists what a study file may refer to.
func columnNames(spec *consilium.Spec) []string {
	var out []string
	for _, c := range spec.Columns {
		out = append(out, c.Name)
	}
	for _, d := range spec.Derive {
		out = append(out, d.Name)
	}
	return out
}

// unknownColumn says what is wrong with a column that cannot be used as a
// number or factor.
func unknownColumn(spec *consilium.Spec, name string) string {
	if c, ok := spec.Column(name); ok {
		return fmt.Sprintf("column %s of type %s cannot be used here", name, c.Type)
	}
	return fmt.Sprintf("column %s is not declared%s", name, suggest(name, columnNames(spec)))
}

func needNumeric(spec *consilium.Spec, what, name string) error {
	if name == "" {
		return consilium.ErrInvalid.Withf("%s names no column", what)
	}
	if !isNumeric(spec, name) {
		return consilium.ErrInvalid.Withf("%s: %s; want a number", what, unknownColumn(spec, name))
	}
	return nil
}

func needFactor(spec *consilium.Spec, what, name string) error {
	if _, ok := factorLevels(spec, name); !ok {
		if c, found := spec.Column(name); found && c.Type == consilium.TypeInteger {
			return consilium.ErrInvalid.Withf("%s: column %s needs bounds that hold at most %d values", what, name, maxFactor)
		}
		return consilium.ErrInvalid.Withf("%s: %s; want levels, a flag or an integer with narrow bounds", what, unknownColumn(spec, name))
	}
	return nil
}

// needEvent accepts a flag, or an integer or two levels that stand for one.
func needEvent(spec *consilium.Spec, what, name string) error {
	c, ok := spec.Column(name)
	if !ok {
		return consilium.ErrInvalid.Withf("%s: %s", what, unknownColumn(spec, name))
	}
	if c.Type == consilium.TypeFlag || c.Type == consilium.TypeInteger && c.Bounds != nil && c.Bounds[0] == 0 && c.Bounds[1] == 1 {
		return nil
	}
	return consilium.ErrInvalid.Withf("%s: column %s must be a flag, or an integer with bounds [0, 1]; recode it in the table: 1 where the event happened, 0 where not", what, name)
}

// needResponse checks a time response; start says whether an entry time is
// accepted.
func needResponse(spec *consilium.Spec, r *consilium.Response, start bool) error {
	if r == nil || r.Stop == "" || r.Event == "" {
		return consilium.ErrInvalid.Withf("response: want a time with an event, as in response: {time: …, event: …}")
	}
	if r.Column != "" {
		return consilium.ErrInvalid.Withf("response: a column beside a time")
	}
	if r.Start != "" && !start {
		return consilium.ErrInvalid.Withf("response.start: entry times are not used by this type; analyse the first interval of each patient")
	}
	if r.Start != "" {
		if err := needNumeric(spec, "response.start", r.Start); err != nil {
			return err
		}
	}
	if err := needNumeric(spec, "response.stop", r.Stop); err != nil {
		return err
	}
	return needEvent(spec, "response.event", r.Event)
}

// suggest names the nearest of list as ": did you mean …?", or nothing.
func suggest(word string, list []string) string {
	best, at := 1+len(word)/3, ""
	if best < 2 {
		best = 2
	}
	sorted := append([]string(nil), list...)
	sort.Strings(sorted)
	for _, l := range sorted {
		if d := distance(strings.ToLower(word), strings.ToLower(l)); d <= best && (at == "" || d < best) {
			best, at = d, l
		}
	}
	if at == "" || at == word {
		return ""
	}
	return ": did you mean " + at + "?"
}

// distance is Levenshtein's.
func distance(a, b string) int {
	prev := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur := make([]int, len(b)+1)
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
		}
		prev = cur
	}
	return prev[len(b)]
}
