package studyfile

import (
	"strings"

	"gopkg.in/yaml.v3"

	"consilium"
)

// analysisKeys says which keys each type of analysis takes in a study file.
// `name` and `type` are everybody's.
var analysisKeys = map[string][]string{
	consilium.AnalysisDescribe:    {"variables", "by", "histogram", "quantiles"},
	consilium.AnalysisCrosstab:    {"rows", "columns", "strata"},
	consilium.AnalysisKaplanMeier: {"formula", "response", "by", "grid", "strata", "conf_type", "restricted"},
	consilium.AnalysisLogrank:     {"formula", "response", "by", "grid", "strata", "weights"},
	consilium.AnalysisGLM: {"formula", "family", "response", "terms", "no_intercept", "strata", "cluster", "robust", "offset",
		"ridge", "lasso", "penalty", "evaluate"},
	consilium.AnalysisCox: {"formula", "response", "terms", "strata", "cluster", "ties", "robust", "offset", "ridge", "lasso", "penalty", "baseline",
		"time_terms", "ph_check", "concordance"},
	consilium.AnalysisGWAS:  {"formula", "family", "response", "terms", "strata", "variants", "quality"},
	consilium.AnalysisTrain: {"formula", "response", "features", "model", "strategy", "holdout", "ties"},
}

var (
	analysisTypes = []string{consilium.AnalysisDescribe, consilium.AnalysisCrosstab, consilium.AnalysisKaplanMeier,
		consilium.AnalysisLogrank, consilium.AnalysisGLM, consilium.AnalysisCox, consilium.AnalysisGWAS, consilium.AnalysisTrain}
	families  = []string{"gaussian", "binomial", "poisson", "negative-binomial"}
	ties      = []string{"efron", "breslow"}
	baselines = []string{"stratified", "piecewise", "common"}
)

func (p *parser) analyses(o object) {
	one, many := o.get("analysis"), o.get("analyses")
	var list []*yaml.Node
	switch {
	case one != nil && many != nil:
		refuse(o.key("analysis"), "keep the list", "both analysis and analyses")
	case one != nil:
		if one.Kind != yaml.MappingNode {
			refuse(one, "use analyses: for a list", "spec.analysis is %s, want keys and values", kindName(one))
		}
		list = []*yaml.Node{one}
	case many != nil:
		if many.Kind != yaml.SequenceNode || len(many.Content) == 0 {
			refuse(many, "begin each analysis with a dash", "spec.analyses is %s, want a list of analyses", kindName(many))
		}
		list = many.Content
	default:
		refuse(o.node, "add analysis: {type: cox, formula: …}", "spec.analysis is missing")
	}
	names := map[string]int{}
	for _, n := range list {
		a := p.analysis(n)
		if line := names[a.Name]; line > 0 {
			refuse(n, "give each its own name:", "two analyses have the name %s, the first in line %d", a.Name, line)
		}
		names[a.Name] = n.Line
		p.file.Spec.Analyses = append(p.file.Spec.Analyses, a)
	}
}

func (p *parser) analysis(n *yaml.Node) consilium.AnalysisSpec {
	if n.Kind != yaml.MappingNode {
		refuse(n, "write {type: cox, formula: …}", "an analysis is %s, want keys and values", kindName(n))
	}
	all := []string{"name", "type"}
	for _, t := range analysisTypes {
		for _, k := range analysisKeys[t] {
			if !contains(all, k) {
				all = append(all, k)
			}
		}
	}
	var a consilium.AnalysisSpec
	o := asObject(n, "analysis", all...)
	t := o.get("type")
	if t == nil {
		refuse(n, "types are "+strings.Join(analysisTypes, ", "), "analysis.type is missing")
	}
	a.Type = str(t, "analysis.type")
	keys, ok := analysisKeys[a.Type]
	if !ok {
		refuse(t, suggest(a.Type, analysisTypes, "type"), "unknown analysis type %s", clip(a.Type))
	}
	for i := 0; i < len(n.Content); i += 2 {
		if k := n.Content[i]; k.Value != "name" && k.Value != "type" && !contains(keys, k.Value) {
			refuse(k, "its keys are "+strings.Join(keys, ", "), "an analysis of type %s takes no %s", a.Type, k.Value)
		}
	}
	a.Name = a.Type
	if v := o.get("name"); v != nil {
		a.Name = p.label(v, "analysis.name")
	}
	o.what = a.Name

	p.formula(o, &a)
	if v := o.get("response"); v != nil {
		a.Response = p.response(v)
	}
	if v := o.get("terms"); v != nil {
		a.Terms = p.terms(v, a.Name+".terms")
	}
	a.NoIntercept = a.NoIntercept || o.flag("no_intercept")
	if v := o.get("strata"); v != nil {
		a.Strata = p.columnList(v, a.Name+".strata", true)
	}
	if v := o.get("cluster"); v != nil {
		a.Cluster = p.columnRef(v, str(v, a.Name+".cluster"), true)
	}
	if v := o.get("ties"); v != nil {
		a.Ties = p.word(v, a.Name+".ties", ties)
	}
	if v := o.get("family"); v != nil {
		a.Family = p.word(v, a.Name+".family", families)
	}
	a.Robust = o.flag("robust")
	if v := o.get("offset"); v != nil {
		a.Offset = p.offset(v, a.Name+".offset")
	}
	for _, pen := range []struct {
		key string
		to  *float64
	}{{"ridge", &a.Ridge}, {"lasso", &a.Lasso}} {
		*pen.to = o.num(pen.key, 0)
		if *pen.to < 0 {
			refuse(o.get(pen.key), "", "%s.%s is %v, want 0 or above", a.Name, pen.key, *pen.to)
		}
	}
	if v := o.get("baseline"); v != nil {
		a.Baseline = p.baseline(v, a.Name+".baseline")
	}
	if v := o.get("by"); v != nil {
		if v.Kind == yaml.ScalarNode {
			a.By = []string{p.columnRef(v, str(v, a.Name+".by"), true)}
		} else {
			a.By = p.columnList(v, a.Name+".by", true)
		}
	}
	if v := o.get("grid"); v != nil {
		a.Grid = p.grid(v, a.Name+".grid")
	}
	if v := o.get("variables"); v != nil {
		a.Variables = p.columnList(v, a.Name+".variables", false)
	}
	if v := o.get("histogram"); v != nil {
		a.Histogram = p.histogram(v, a.Name+".histogram")
	}
	if v := o.get("quantiles"); v != nil {
		a.Quantiles = nums(v, a.Name+".quantiles")
		for i, q := range a.Quantiles {
			if !(q > 0 && q < 1) {
				refuse(v.Content[i], "0.5 is the median", "%s.quantiles has %v, want values between 0 and 1", a.Name, q)
			}
		}
	}
	for _, ref := range []struct {
		key string
		to  *string
	}{{"rows", &a.Rows}, {"columns", &a.Columns}} {
		if v := o.get(ref.key); v != nil {
			*ref.to = p.columnRef(v, str(v, a.Name+"."+ref.key), true)
		}
	}
	if v := o.get("features"); v != nil {
		a.Features = p.features(v, a.Name+".features")
	}
	if v := o.get("model"); v != nil {
		a.Model = p.model(v, a.Name+".model")
	}
	if v := o.get("strategy"); v != nil {
		a.Strategy = p.strategy(v, a.Name+".strategy")
	}
	if v := o.get("holdout"); v != nil {
		a.Holdout = num(v, a.Name+".holdout")
		if !(a.Holdout >= 0 && a.Holdout < 1) {
			refuse(v, "it is the share of patients kept for testing, for example 0.2", "%s.holdout is %v, want 0 to below 1", a.Name, a.Holdout)
		}
	}
	p.exactKeys(o, &a)
	p.complete(o, &a)
	return a
}

// complete fills what a type needs and names what is missing.
func (p *parser) complete(o object, a *consilium.AnalysisSpec) {
	need := func(ok bool, key, next string) {
		if !ok {
			refuse(o.node, next, "%s has no %s", a.Name, key)
		}
	}
	survival := func() {
		need(a.Response != nil, "response", formulaExample)
		if a.Response.Stop == "" {
			at := o.key("response")
			if o.get("formula") != nil {
				at = o.key("formula")
			}
			refuse(at, "write Surv(time, event) or response: {time: …, event: …}", "%s needs a time and an event", a.Name)
		}
	}
	switch a.Type {
	case consilium.AnalysisCox:
		survival()
		if a.NoIntercept {
			refuse(o.key("formula"), "leave - 1 out", "a Cox model has no intercept to take away")
		}
		if a.Ties == "" {
			a.Ties = "efron"
		}
		// One baseline hazard per hospital is the default: a shared one publishes
		// risk sets, from which records can be recovered.
		if len(a.Strata) == 0 && (a.Baseline == nil || a.Baseline.Kind == "stratified") {
			a.Strata = []string{"site"}
		}
	case consilium.AnalysisKaplanMeier, consilium.AnalysisLogrank:
		survival()
		if a.Type == consilium.AnalysisLogrank {
			need(len(a.By) > 0, "groups", "write by: [treat] or a formula with a term")
		}
	case consilium.AnalysisGLM:
		need(a.Family != "", "family", "families are "+strings.Join(families, ", "))
		need(a.Response != nil, "response", "write formula: \"y ~ a + b\"")
		if a.Response.Column == "" {
			refuse(o.node, "name one column", "the response of a glm is one column, not a time and an event")
		}
	case consilium.AnalysisGWAS:
		need(a.Response != nil && a.Response.Column != "", "response", "write formula: \"y ~ age + sex\"")
		need(len(a.Variants) > 0, "variants", "list the genotype columns, or write a pattern such as rs*")
		if a.Family == "" {
			a.Family = "binomial"
		}
	case consilium.AnalysisTrain:
		need(a.Response != nil || a.Model != nil && a.Model.Loss == "reconstruction", "response", "name the column that the model predicts")
		need(len(a.Features) > 0, "features", "list the columns that the model sees")
		need(a.Model != nil, "model", "write model: {layers: [{dense: 16}, relu, {dense: 1}], loss: logistic}")
		if a.Strategy == nil {
			a.Strategy = &consilium.Strategy{Name: strategies[0]}
		}
		// The number of rounds bounds what is opened: it stands in what is signed.
		if a.Strategy.Rounds == 0 {
			a.Strategy.Rounds = DefaultTrainRounds
		}
	case consilium.AnalysisCrosstab:
		need(a.Rows != "" && a.Columns != "", "rows and columns", "name a column for each")
	case consilium.AnalysisDescribe:
		need(len(a.Variables) > 0, "variables", "list the columns to describe")
	}
}

// formula turns `formula:` into canonical keys.
func (p *parser) formula(o object, a *consilium.AnalysisSpec) {
	n := o.get("formula")
	if n == nil {
		return
	}
	what := a.Name + ".formula"
	src := str(n, what)
	f, ferr := parseFormula(src)
	if ferr != nil {
		refuse(within(n, ferr.at), ferr.next, "%s: %s", what, ferr.msg)
	}
	for _, m := range f.columns {
		p.columnRef(within(n, m.at), m.name, true)
	}
	clash := func(used bool, keys ...string) {
		for _, k := range keys {
			if used && o.get(k) != nil {
				refuse(o.key(k), "keep one of them", "%s says %s already", what, k)
			}
		}
	}
	clash(true, "response")
	clash(len(f.strata) > 0, "strata")
	clash(f.cluster != "", "cluster")
	clash(f.offset != nil, "offset")
	keys := analysisKeys[a.Type]
	only := func(used bool, key string) {
		if used && !contains(keys, key) {
			refuse(n, "leave it out", "%s: an analysis of type %s takes no %s", what, a.Type, key)
		}
	}
	only(len(f.strata) > 0, "strata")
	only(f.cluster != "", "cluster")
	only(f.offset != nil, "offset")
	a.Response, a.Strata, a.Cluster, a.Offset = f.response, f.strata, f.cluster, f.offset
	a.NoIntercept = f.noIntercept
	switch a.Type {
	case consilium.AnalysisKaplanMeier, consilium.AnalysisLogrank:
		clash(len(f.terms) > 0, "by")
		for _, t := range f.terms {
			if term, err := consilium.ParseTerm(t); err != nil || len(term.Factors) != 1 || term.Factors[0].Func != "" {
				refuse(n, "name columns only, joined by +", "%s: %s cannot make groups", what, t)
			}
		}
		a.By = f.terms
	case consilium.AnalysisTrain:
		clash(len(f.terms) > 0, "features")
		a.Features = f.terms
	default:
		clash(true, "terms")
		a.Terms = f.terms
	}
}

// within is the position of byte at in a scalar, where YAML keeps it.
func within(n *yaml.Node, at int) *yaml.Node {
	out := &yaml.Node{Line: n.Line, Column: n.Column}
	switch n.Style {
	case 0:
		out.Column += at
	case yaml.DoubleQuotedStyle, yaml.SingleQuotedStyle:
		out.Column += at + 1
	}
	return out
}

// columnRef checks that name is declared, and returns it.
func (p *parser) columnRef(n *yaml.Node, name string, siteToo bool) string {
	names := p.names
	if !siteToo {
		names = names[:len(names)-1]
	}
	if !contains(names, name) {
		refuse(n, suggest(name, names, "column"), "column %s is not declared", clip(name))
	}
	return name
}

func (p *parser) columnList(n *yaml.Node, what string, siteToo bool) []string {
	out := strs(n, what)
	for i, name := range out {
		p.columnRef(n.Content[i], name, siteToo)
		if contains(out[:i], name) {
			refuse(n.Content[i], "name it once", "%s names %s twice", what, name)
		}
	}
	return out
}

// terms reads a list of terms; a*b is expanded as in a formula.
func (p *parser) terms(n *yaml.Node, what string) []string {
	f := &formulaParser{f: &formula{}, seen: map[string]bool{}}
	for i, s := range strs(n, what) {
		at := n.Content[i]
		before := len(f.f.columns)
		if err := f.oneTerm(s); err != nil {
			refuse(within(at, err.at), err.next, "%s: %s", what, err.msg)
		}
		for _, m := range f.f.columns[before:] {
			p.columnRef(within(at, m.at), m.name, true)
		}
	}
	f.order()
	return f.f.terms
}

func (p *parser) word(n *yaml.Node, what string, known []string) string {
	s := str(n, what)
	if !contains(known, s) {
		refuse(n, suggest(s, known, ""), "%s is %q", what, clip(s))
	}
	return s
}

// response reads a column, {time, event} or {start, stop, event}.
func (p *parser) response(n *yaml.Node) *consilium.Response {
	if n.Kind == yaml.ScalarNode {
		return &consilium.Response{Column: p.columnRef(n, str(n, "response"), false)}
	}
	const next = "write a column, {time: …, event: …} or {start: …, stop: …, event: …}"
	o := asObject(n, "response", "column", "time", "start", "stop", "event")
	var r consilium.Response
	for _, f := range []struct {
		key string
		to  *string
	}{{"column", &r.Column}, {"start", &r.Start}, {"stop", &r.Stop}, {"time", &r.Stop}, {"event", &r.Event}} {
		v := o.get(f.key)
		if v == nil {
			continue
		}
		if *f.to != "" {
			refuse(v, next, "response has both stop and time")
		}
		*f.to = p.columnRef(v, str(v, "response."+f.key), false)
	}
	switch {
	case r.Column != "" && r.Start == "" && r.Stop == "" && r.Event == "":
	case r.Column == "" && r.Stop != "" && r.Event != "":
	default:
		refuse(n, next, "response is incomplete")
	}
	return &r
}

// offset reads a column, {log: column} or {column: …, log: true}.
func (p *parser) offset(n *yaml.Node, what string) *consilium.Offset {
	if n.Kind == yaml.ScalarNode {
		return &consilium.Offset{Column: p.columnRef(n, str(n, what), false)}
	}
	o := asObject(n, what, "log", "column")
	var f consilium.Offset
	if v := o.get("column"); v != nil {
		f.Column = p.columnRef(v, str(v, what+".column"), false)
		f.Log = o.flag("log")
		return &f
	}
	v := o.get("log")
	if v == nil {
		refuse(n, "write offset: {log: followup}", "%s names no column", what)
	}
	return &consilium.Offset{Column: p.columnRef(v, str(v, what+".log"), false), Log: true}
}

func (p *parser) grid(n *yaml.Node, what string) *consilium.Grid {
	o := asObject(n, what, "step", "max")
	g := &consilium.Grid{Step: o.num("step", 0), Max: o.num("max", 0)}
	if !(g.Step > 0 && g.Max >= g.Step && g.Max/g.Step <= 1e5) {
		refuse(n, "write for example grid: {step: 30, max: 360}, in the unit of the time column", "%s has step %v and max %v", what, g.Step, g.Max)
	}
	return g
}

func (p *parser) baseline(n *yaml.Node, what string) *consilium.Baseline {
	if n.Kind == yaml.ScalarNode {
		kind := p.word(n, what, baselines)
		if kind != "stratified" {
			refuse(n, "write piecewise: {cuts: […]} or common: {grid: {step: …, max: …}}", "%s %s needs its bins", what, kind)
		}
		return &consilium.Baseline{Kind: kind}
	}
	o := asObject(n, what, "kind", "cuts", "grid", "piecewise", "common")
	b := &consilium.Baseline{}
	var cuts, grid *yaml.Node
	switch {
	case o.get("piecewise") != nil:
		b.Kind = "piecewise"
		cuts = asObject(o.get("piecewise"), what+".piecewise", "cuts").get("cuts")
	case o.get("common") != nil:
		b.Kind = "common"
		grid = asObject(o.get("common"), what+".common", "grid").get("grid")
	case o.get("kind") != nil:
		b.Kind = p.word(o.get("kind"), what+".kind", baselines)
		cuts, grid = o.get("cuts"), o.get("grid")
	default:
		refuse(n, "kinds are "+strings.Join(baselines, ", "), "%s has no kind", what)
	}
	if (cuts != nil) != (b.Kind == "piecewise") || (grid != nil) != (b.Kind == "common") {
		refuse(n, "piecewise takes cuts, common takes a grid, stratified takes neither", "%s of kind %s", what, b.Kind)
	}
	if cuts != nil {
		b.Cuts = increasing(cuts, what+".cuts", 1)
	}
	if grid != nil {
		b.Grid = p.grid(grid, what+".grid")
	}
	return b
}

// increasing reads at least least numbers, each above the one before.
func increasing(n *yaml.Node, what string, least int) []float64 {
	list := nums(n, what)
	if len(list) < least {
		refuse(n, "", "%s has %d numbers, want at least %d", what, len(list), least)
	}
	for i := 1; i < len(list); i++ {
		if list[i] <= list[i-1] {
			refuse(n.Content[i], "sort them", "%s: %v does not follow %v", what, list[i], list[i-1])
		}
	}
	return list
}

func (p *parser) histogram(n *yaml.Node, what string) map[string][]float64 {
	if n.Kind != yaml.MappingNode || len(n.Content) == 0 {
		refuse(n, "write {age: [0, 20, 40, 60]}", "%s is %s, want columns and their breaks", what, kindName(n))
	}
	out := map[string][]float64{}
	for i := 0; i < len(n.Content); i += 2 {
		name := p.columnRef(n.Content[i], n.Content[i].Value, false)
		out[name] = increasing(n.Content[i+1], what+"."+name, 2)
	}
	return out
}
