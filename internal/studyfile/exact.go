package studyfile

import (
	"strings"

	"gopkg.in/yaml.v3"

	"consilium"
)

var (
	timeFunctions = []string{"identity", "log"}
	confTypes     = []string{"log-log", "log", "plain"}
)

// exactKeys reads the keys of exact analyses beyond response, terms and groups.
func (p *parser) exactKeys(o object, a *consilium.AnalysisSpec) {
	if v := o.get("penalty"); v != nil {
		a.Penalty = p.penalty(v, a.Name+".penalty")
	}
	if v := o.get("time_terms"); v != nil {
		what := a.Name + ".time_terms"
		if v.Kind != yaml.MappingNode || len(v.Content) == 0 {
			refuse(v, "write {treat: log}", "%s is %s, want terms and their functions of time", what, kindName(v))
		}
		for i := 0; i < len(v.Content); i += 2 {
			p.columnRef(v.Content[i], v.Content[i].Value, false)
			a.TimeTerms = append(a.TimeTerms, consilium.TimeTerm{Term: v.Content[i].Value, Func: p.word(v.Content[i+1], what, timeFunctions)})
		}
	}
	if v := o.get("ph_check"); v != nil {
		a.PHCheck = p.word(v, a.Name+".ph_check", timeFunctions)
	}
	a.Concordance = o.flag("concordance")
	if v := o.get("evaluate"); v != nil {
		if a.Evaluate = whole(v, a.Name+".evaluate"); a.Evaluate < 2 {
			refuse(v, "it is the number of cells of fitted probability, for example 20", "%s.evaluate is %d, want at least 2", a.Name, a.Evaluate)
		}
	}
	if v := o.get("conf_type"); v != nil {
		a.ConfType = p.word(v, a.Name+".conf_type", confTypes)
	}
	if v := o.get("restricted"); v != nil {
		if a.Restricted = num(v, a.Name+".restricted"); !(a.Restricted > 0) {
			refuse(v, "it is the horizon of the restricted mean, within the grid", "%s.restricted is %v, want above 0", a.Name, a.Restricted)
		}
	}
	if v := o.get("weights"); v != nil {
		q := asObject(v, a.Name+".weights", "rho", "gamma")
		a.Weights = &consilium.Weights{Rho: q.num("rho", 0), Gamma: q.num("gamma", 0)}
		if !(a.Weights.Rho >= 0 && a.Weights.Gamma >= 0) {
			refuse(v, "{rho: 1} is Peto's test", "%s.weights are below 0", a.Name)
		}
	}
	if v := o.get("variants"); v != nil {
		a.Variants = p.variants(v, a.Name+".variants")
	}
	if v := o.get("quality"); v != nil {
		q := asObject(v, a.Name+".quality", "maf", "hwe", "call_rate")
		a.Quality = &consilium.Quality{MAF: q.num("maf", 0), HWE: q.num("hwe", 0), CallRate: q.num("call_rate", 0)}
		if y := a.Quality; !(y.MAF >= 0 && y.MAF < 0.5 && y.HWE >= 0 && y.HWE < 1 && y.CallRate >= 0 && y.CallRate <= 1) {
			refuse(v, "write for example {maf: 0.01, hwe: 1e-6, call_rate: 0.95}", "%s.quality is out of range", a.Name)
		}
	}
}

func (p *parser) penalty(n *yaml.Node, what string) *consilium.Penalty {
	o := asObject(n, what, "alpha", "lambda", "steps", "ratio", "raw")
	out := &consilium.Penalty{Alpha: o.num("alpha", 1), Ratio: o.num("ratio", 0), Raw: o.flag("raw")}
	if v := o.get("steps"); v != nil {
		out.Steps = whole(v, what+".steps")
	}
	if v := o.get("lambda"); v != nil {
		if v.Kind == yaml.ScalarNode {
			out.Lambda = []float64{num(v, what+".lambda")}
		} else {
			out.Lambda = nums(v, what+".lambda")
		}
		for i := range out.Lambda {
			if !(out.Lambda[i] > 0) || i > 0 && out.Lambda[i] >= out.Lambda[i-1] {
				refuse(v, "list them from the largest to the smallest", "%s.lambda: %v, want values above 0 that fall", what, out.Lambda[i])
			}
		}
	}
	if !(out.Alpha >= 0 && out.Alpha <= 1) {
		refuse(n, "1 is the lasso, 0 ridge", "%s.alpha is %v, want 0 to 1", what, out.Alpha)
	}
	return out
}

// variants reads a list of columns, or one pattern such as rs* that stands for
// every declared column which begins so. What is signed names them all.
func (p *parser) variants(n *yaml.Node, what string) []string {
	if n.Kind != yaml.ScalarNode {
		return p.columnList(n, what, false)
	}
	s := str(n, what)
	prefix, ok := strings.CutSuffix(s, "*")
	if !ok {
		return []string{p.columnRef(n, s, false)}
	}
	var out []string
	for _, c := range p.file.Spec.Columns {
		if strings.HasPrefix(c.Name, prefix) {
			out = append(out, c.Name)
		}
	}
	if len(out) == 0 {
		refuse(n, "declare the genotypes under columns: {rs123: {type: integer, bounds: [0, 2]}}", "%s: no declared column begins with %s", what, clip(prefix))
	}
	return out
}

// showExact writes what exactKeys reads.
func showExact(m block, a *consilium.AnalysisSpec) {
	if q := a.Penalty; q != nil {
		o := mapping()
		o.set("alpha", number(q.Alpha))
		if len(q.Lambda) > 0 {
			o.set("lambda", numbers(q.Lambda))
		}
		if q.Steps != 0 {
			o.set("steps", number(float64(q.Steps)))
		}
		if q.Ratio != 0 {
			o.set("ratio", number(q.Ratio))
		}
		if q.Raw {
			o.set("raw", truth(true))
		}
		m.set("penalty", o.inline())
	}
	if len(a.TimeTerms) > 0 {
		o := mapping()
		for _, t := range a.TimeTerms {
			o.set(t.Term, text(t.Func))
		}
		m.set("time_terms", o.inline())
	}
	if a.PHCheck != "" {
		m.set("ph_check", text(a.PHCheck))
	}
	if a.Concordance {
		m.set("concordance", truth(true))
	}
	if a.Evaluate != 0 {
		m.set("evaluate", number(float64(a.Evaluate)))
	}
	if a.ConfType != "" {
		m.set("conf_type", text(a.ConfType))
	}
	if a.Restricted != 0 {
		m.set("restricted", number(a.Restricted))
	}
	if a.Weights != nil {
		o := mapping()
		o.set("rho", number(a.Weights.Rho))
		o.set("gamma", number(a.Weights.Gamma))
		m.set("weights", o.inline())
	}
	if len(a.Variants) > 0 {
		m.set("variants", texts(a.Variants))
	}
	if q := a.Quality; q != nil {
		o := mapping()
		o.set("maf", number(q.MAF))
		o.set("hwe", number(q.HWE))
		o.set("call_rate", number(q.CallRate))
		m.set("quality", o.inline())
	}
}
