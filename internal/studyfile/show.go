package studyfile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"time"

	"gopkg.in/yaml.v3"

	"consilium"
)

// Show writes a specification as a study file in canonical keys: nothing is
// left to a default, nothing is sugar. Parsing what Show wrote gives the same
// bytes to sign.
func Show(s *consilium.Spec) ([]byte, error) {
	if err := s.Validate(); err != nil {
		return nil, errStudy.With(err)
	}
	spec := mapping()
	spec.set("question", text(s.Question))
	purpose := mapping()
	purpose.set("duo", texts(s.Purpose.DUO))
	if s.Purpose.Disease != "" {
		purpose.set("disease", text(s.Purpose.Disease))
	}
	purpose.set("class", text(s.Purpose.Class))
	spec.set("purpose", purpose.inline())
	legal, err := freeform(s.Legal)
	if err != nil {
		return nil, errStudy.With(fmt.Errorf("legal: %w", err))
	}
	spec.set("legal", legal)
	data := mapping()
	data.set("dataset", text(s.Data.Dataset))
	data.set("patient", text(s.Data.Patient))
	spec.set("data", data.inline())
	sites := mapping()
	sites.set("min", number(float64(s.Sites.Min)))
	if s.Sites.Faults != 0 {
		sites.set("faults", number(float64(s.Sites.Faults)))
	}
	sites.set("missing", text(s.Sites.Missing))
	if len(s.Sites.Only) > 0 {
		only := make([]string, len(s.Sites.Only))
		for i, id := range s.Sites.Only {
			only[i] = string(id)
		}
		sites.set("only", texts(only))
	}
	spec.set("sites", sites.inline())
	columns := mapping()
	for i := range s.Columns {
		columns.set(s.Columns[i].Name, showColumn(&s.Columns[i]))
	}
	spec.set("columns", columns.node)
	if s.Cohort != "" {
		cohort := mapping()
		cohort.set("where", text(s.Cohort))
		spec.set("cohort", cohort.inline())
	}
	if len(s.Derive) > 0 {
		derive := mapping()
		for _, d := range s.Derive {
			derive.set(d.Name, text(d.Expr))
		}
		spec.set("derive", derive.node)
	}
	spec.set("seed", &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.FormatUint(s.Seed, 10)})
	list := &yaml.Node{Kind: yaml.SequenceNode}
	for i := range s.Analyses {
		list.Content = append(list.Content, showAnalysis(&s.Analyses[i]))
	}
	spec.set("analyses", list)
	privacy := mapping()
	privacy.set("min_cohort", number(float64(s.Privacy.MinCohort)))
	privacy.set("permits", texts(s.Privacy.Permits))
	if dp := s.Privacy.DP; dp != nil {
		m := mapping()
		m.set("epsilon", number(dp.Epsilon))
		m.set("delta", number(dp.Delta))
		m.set("clip", number(dp.Clip))
		privacy.set("dp", m.node)
	} else {
		privacy.set("dp", &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"})
	}
	spec.set("privacy", privacy.inline())
	rounds := mapping()
	rounds.set("max", number(float64(s.Rounds.Max)))
	rounds.set("tolerance", number(s.Rounds.Tolerance))
	rounds.set("deadline", text((time.Duration(s.Rounds.Deadline) * time.Second).String()))
	spec.set("rounds", rounds.inline())

	root := mapping()
	root.set("apiVersion", text(s.APIVersion))
	root.set("kind", text(s.Kind))
	meta := mapping()
	meta.set("name", text(s.Name))
	root.set("metadata", meta.inline())
	root.set("spec", spec.node)

	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(root.node); err != nil {
		return nil, errStudy.With(err)
	}
	if err := enc.Close(); err != nil {
		return nil, errStudy.With(err)
	}
	return b.Bytes(), nil
}

// block builds a mapping whose keys stay in the order they are set.
type block struct{ node *yaml.Node }

func mapping() block { return block{&yaml.Node{Kind: yaml.MappingNode}} }

func (b block) set(key string, v *yaml.Node) { b.node.Content = append(b.node.Content, text(key), v) }

func (b block) inline() *yaml.Node {
	b.node.Style = yaml.FlowStyle
	return b.node
}

// text is a string, quoted where YAML would read something else.
func text(s string) *yaml.Node {
	var n yaml.Node
	n.SetString(s)
	if n.Style&yaml.LiteralStyle != 0 { // a block scalar has no column positions
		n.Style = yaml.DoubleQuotedStyle
	}
	return &n
}

func texts(list []string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
	for _, s := range list {
		n.Content = append(n.Content, text(s))
	}
	return n
}

func number(v float64) *yaml.Node {
	s := strconv.FormatFloat(v, 'g', -1, 64)
	tag := "!!float"
	if v == float64(int64(v)) && v < 1e15 && v > -1e15 {
		s, tag = strconv.FormatInt(int64(v), 10), "!!int"
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: s}
}

func numbers(list []float64) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
	for _, v := range list {
		n.Content = append(n.Content, number(v))
	}
	return n
}

func truth(v bool) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(v)}
}

// freeform writes JSON as YAML with sorted keys.
func freeform(raw json.RawMessage) (*yaml.Node, error) {
	if len(raw) == 0 {
		return mapping().inline(), nil
	}
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, err
	}
	var convert func(v any) *yaml.Node
	convert = func(v any) *yaml.Node {
		switch v := v.(type) {
		case map[string]any:
			keys := make([]string, 0, len(v))
			for k := range v {
				keys = append(keys, k)
			}
			sort.Strings(keys)
			m := mapping()
			for _, k := range keys {
				m.set(k, convert(v[k]))
			}
			if len(keys) == 0 {
				return m.inline()
			}
			return m.node
		case []any:
			n := &yaml.Node{Kind: yaml.SequenceNode}
			for _, x := range v {
				n.Content = append(n.Content, convert(x))
			}
			if len(v) == 0 {
				n.Style = yaml.FlowStyle
			}
			return n
		case string:
			return text(v)
		case float64:
			return number(v)
		case bool:
			return truth(v)
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
	}
	return convert(v), nil
}

func showColumn(c *consilium.Column) *yaml.Node {
	m := mapping()
	m.set("type", text(string(c.Type)))
	if c.Levels != nil {
		m.set("levels", texts(c.Levels))
	}
	if c.Unit != "" {
		m.set("unit", text(c.Unit))
	}
	if c.Bounds != nil {
		m.set("bounds", numbers(c.Bounds[:]))
	}
	if c.Type != consilium.TypeID || c.Missing != nil {
		m.set("missing", texts(c.Missing))
	}
	if c.Category != "" {
		m.set("category", text(c.Category))
	}
	if c.Tag != "" {
		m.set("tag", text(c.Tag))
	}
	return m.inline()
}

func showGrid(g *consilium.Grid) *yaml.Node {
	m := mapping()
	m.set("step", number(g.Step))
	m.set("max", number(g.Max))
	return m.inline()
}

func showAnalysis(a *consilium.AnalysisSpec) *yaml.Node {
	m := mapping()
	m.set("name", text(a.Name))
	m.set("type", text(a.Type))
	if a.Family != "" {
		m.set("family", text(a.Family))
	}
	if r := a.Response; r != nil {
		switch {
		case r.Column != "":
			m.set("response", text(r.Column))
		default:
			q := mapping()
			if r.Start != "" {
				q.set("start", text(r.Start))
				q.set("stop", text(r.Stop))
			} else {
				q.set("time", text(r.Stop))
			}
			q.set("event", text(r.Event))
			m.set("response", q.inline())
		}
	}
	for _, f := range []struct {
		key  string
		list []string
	}{{"terms", a.Terms}, {"strata", a.Strata}, {"by", a.By}, {"variables", a.Variables}, {"features", a.Features}} {
		if len(f.list) > 0 {
			m.set(f.key, texts(f.list))
		}
	}
	if a.NoIntercept {
		m.set("no_intercept", truth(true))
	}
	for _, f := range []struct{ key, word string }{{"cluster", a.Cluster}, {"ties", a.Ties}, {"rows", a.Rows}, {"columns", a.Columns}} {
		if f.word != "" {
			m.set(f.key, text(f.word))
		}
	}
	if a.Robust {
		m.set("robust", truth(true))
	}
	if o := a.Offset; o != nil {
		if o.Log {
			q := mapping()
			q.set("log", text(o.Column))
			m.set("offset", q.inline())
		} else {
			m.set("offset", text(o.Column))
		}
	}
	if a.Ridge != 0 {
		m.set("ridge", number(a.Ridge))
	}
	if a.Lasso != 0 {
		m.set("lasso", number(a.Lasso))
	}
	showExact(m, a)
	if b := a.Baseline; b != nil {
		q := mapping()
		q.set("kind", text(b.Kind))
		if b.Cuts != nil {
			q.set("cuts", numbers(b.Cuts))
		}
		if b.Grid != nil {
			q.set("grid", showGrid(b.Grid))
		}
		m.set("baseline", q.inline())
	}
	if a.Grid != nil {
		m.set("grid", showGrid(a.Grid))
	}
	if len(a.Histogram) > 0 {
		keys := make([]string, 0, len(a.Histogram))
		for k := range a.Histogram {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		q := mapping()
		for _, k := range keys {
			q.set(k, numbers(a.Histogram[k]))
		}
		m.set("histogram", q.node)
	}
	if len(a.Quantiles) > 0 {
		m.set("quantiles", numbers(a.Quantiles))
	}
	if a.Model != nil {
		m.set("model", showModel(a.Model))
	}
	if a.Strategy != nil {
		m.set("strategy", showStrategy(a.Strategy))
	}
	if a.Holdout != 0 {
		m.set("holdout", number(a.Holdout))
	}
	return m.node
}
