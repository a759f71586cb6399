package studyfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"consilium"
	"consilium/internal/canon"
)

// full is a study file with most of the sugar.
const full = `apiVersion: consilium/v1
kind: Study
metadata: {name: cgd-interferon}
spec:
  question: Does gamma interferon reduce serious infections?
  purpose: {duo: [DUO:0000007], disease: MONDO:0018305}
  legal: {gdpr: {basis: "6(1)(e)", since: 2026-01-31}, waiver: true, version: 3}
  data: {dataset: cgd, patient: id}
  sites: {missing: wait}
  columns:
    id: {type: id}
    treat: [placebo, rIFN-g]
    sex: {levels: [male, female]}
    inherit: {levels: [X-linked, autosomal]}
    age: {type: number, unit: a, bounds: [0, 120], missing: ["", NA]}
    height: number
    weight: {type: number}
    steroids: {type: flag}
    tstart: integer
    tstop: {type: integer, bounds: [0, 10000]}
    status: flag
    infected: flag
    count: integer
    fu: number
  cohort: {where: "age >= 1"}
  derive: {bmi: "weight / (height/100)^2"}
  seed: 7
  analyses:
    - type: cox
      formula: "Surv(tstart, tstop, status) ~ treat*age + sex + log(bmi) + age^2 + strata(site) + cluster(id)"
      ties: efron
    - name: curves
      type: kaplan-meier
      formula: Surv(tstop, status) ~ treat
      grid: {step: 30, max: 360}
    - name: counts
      type: glm
      family: poisson
      formula: count ~ treat + offset(log(fu)) - 1
    - name: table
      type: crosstab
      rows: treat
      columns: infected
      strata: [site]
    - name: baseline
      type: describe
      variables: [age, sex]
      histogram: {age: [0, 20, 40]}
      quantiles: [0.25, 0.5]
    - name: net
      type: train
      response: infected
      features: [treat, age]
      model: {layers: [{dense: 8}, relu, {kind: dense, units: 1}], loss: logistic}
      strategy: {name: fedprox, rounds: 40, local_epochs: 2, batch: 16, rate: 0.1, mu: 0.01}
      holdout: 0.2
  privacy: {min_cohort: 11, min_sites: 5, permits: [km-tail], dp: null}
  rounds: {deadline: 1m30s}
`

func TestParse(t *testing.T) {
	s, payload, err := Parse([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	if err := canon.Check(payload); err != nil {
		t.Errorf("the payload: %v", err)
	}
	if s.Name != "cgd-interferon" || s.Sites.Min != 5 || s.Seed != 7 || s.Cohort != "age >= 1" || s.Purpose.Class != "scientific_research" {
		t.Errorf("spec %+v", s)
	}
	if s.Rounds != (consilium.Rounds{Max: 67, Tolerance: 1e-9, Deadline: 90}) {
		t.Errorf("rounds %+v", s.Rounds)
	}
	if got, want := string(s.Legal), `{"gdpr":{"basis":"6(1)(e)","since":"2026-01-31"},"version":3,"waiver":true}`; got != want {
		t.Errorf("legal %s, want %s", got, want)
	}
	bounds := [2]float64{0, 120}
	if diff := cmp.Diff(s.Columns[4], consilium.Column{Name: "age", Type: "number", Unit: "a", Bounds: &bounds, Missing: []string{"", "NA"}}); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(s.Columns[1], consilium.Column{Name: "treat", Type: "levels", Levels: []string{"placebo", "rIFN-g"}, Missing: []string{"", "NA"}}); diff != "" {
		t.Error(diff)
	}
	want := []consilium.AnalysisSpec{
		{Name: "cox", Type: "cox", Response: &consilium.Response{Start: "tstart", Stop: "tstop", Event: "status"},
			Terms:  []string{"treat", "age", "sex", "log(bmi)", "age^2", "treat:age"},
			Strata: []string{"site"}, Cluster: "id", Ties: "efron"},
		{Name: "curves", Type: "kaplan-meier", Response: &consilium.Response{Stop: "tstop", Event: "status"}, By: []string{"treat"},
			Grid: &consilium.Grid{Step: 30, Max: 360}},
		{Name: "counts", Type: "glm", Family: "poisson", Response: &consilium.Response{Column: "count"}, Terms: []string{"treat"},
			NoIntercept: true, Offset: &consilium.Offset{Column: "fu", Log: true}},
		{Name: "table", Type: "crosstab", Rows: "treat", Columns: "infected", Strata: []string{"site"}},
		{Name: "baseline", Type: "describe", Variables: []string{"age", "sex"}, Histogram: map[string][]float64{"age": {0, 20, 40}},
			Quantiles: []float64{0.25, 0.5}},
		{Name: "net", Type: "train", Response: &consilium.Response{Column: "infected"}, Features: []string{"treat", "age"},
			Model: &consilium.ModelSpec{Layers: []consilium.Layer{{Kind: "dense", Units: 8}, {Kind: "relu"}, {Kind: "dense", Units: 1}},
				Loss: "logistic", DType: "float64"},
			Strategy: &consilium.Strategy{Name: "fedprox", Rounds: 40, LocalEpochs: 2, Batch: 16, Rate: 0.1, Mu: 0.01}, Holdout: 0.2},
	}
	if diff := cmp.Diff(want, s.Analyses); diff != "" {
		t.Error(diff)
	}
	again, err := consilium.ParseSpec(payload)
	if err != nil || !reflect.DeepEqual(again, s) {
		t.Errorf("the payload parses to something else: %v", err)
	}
}

// What Show writes has the same bytes to sign, and no sugar left.
func TestShow(t *testing.T) {
	s, payload, err := Parse([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	shown, err := Show(s)
	if err != nil {
		t.Fatal(err)
	}
	_, again, err := Parse(shown)
	if err != nil {
		t.Fatalf("%v\n%s", err, shown)
	}
	if !bytes.Equal(payload, again) {
		t.Errorf("Parse(Show(s)) differs:\n%s", cmp.Diff(string(payload), string(again)))
	}
	for _, want := range []string{
		"terms: [treat, age, sex, log(bmi), age^2, 'treat:age']", "response: {start: tstart, stop: tstop, event: status}",
		"strata: [site]", "cluster: id", "sites: {min: 5, missing: wait}", "rounds: {max: 67, tolerance: 1e-09, deadline: 1m30s}",
		"offset: {log: fu}", "no_intercept: true",
	} {
		if !strings.Contains(string(shown), want) {
			t.Errorf("not shown: %s\n%s", want, shown)
		}
	}
	if strings.Contains(string(shown), "formula") || strings.Contains(string(shown), "min_sites") {
		t.Errorf("sugar is left:\n%s", shown)
	}
}

// Every study that does not ask for strata is stratified by hospital, in
// words that are signed; one with a shared baseline is not.
func TestCoxDefaults(t *testing.T) {
	for _, c := range []struct{ extra, want string }{
		{"", "[site]"}, {"strata: [sex]", "[sex]"}, {"baseline: stratified", "[site]"},
		{"baseline: {piecewise: {cuts: [30, 60]}}", "[]"}, {"baseline: {common: {grid: {step: 30, max: 90}}}", "[]"},
	} {
		s, _, err := Parse([]byte(file(`analysis: {type: cox, response: {time: time, event: dead}, terms: [age], ` + c.extra + `}`)))
		if err != nil {
			t.Errorf("%s: %v", c.extra, err)
			continue
		}
		if got := fmt.Sprint(s.Analyses[0].Strata); got != c.want || s.Analyses[0].Ties != "efron" {
			t.Errorf("%s: strata %s, want %s; ties %s", c.extra, got, c.want, s.Analyses[0].Ties)
		}
	}
}

// file is a small valid study with one line replaced or added.
func file(lines ...string) string {
	keys := [][2]string{
		{"question", "Does it work?"}, {"purpose", "{duo: [DUO:0000042], disease: MONDO:0018305}"}, {"data", "{dataset: d, patient: id}"},
		{"sites", "{min: 3}"},
		{"columns", "{id: id, age: number, sex: [f, m], time: number, dead: flag, site2: [a, b]}"},
		{"analysis", `{type: cox, formula: "Surv(time, dead) ~ age + sex"}`},
	}
	for _, l := range lines {
		k, v, _ := strings.Cut(l, ":")
		found := false
		for i := range keys {
			if keys[i][0] == k {
				keys[i][1] = strings.TrimSpace(v)
				found = true
			}
		}
		if !found {
			keys = append(keys, [2]string{k, strings.TrimSpace(v)})
		}
	}
	var b strings.Builder
	b.WriteString("apiVersion: consilium/v1\nkind: Study\nmetadata: {name: small}\nspec:\n")
	for _, kv := range keys {
		if kv[1] != "-" {
			fmt.Fprintf(&b, "  %s: %s\n", kv[0], kv[1])
		}
	}
	return b.String()
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct{ src, want string }{
		{"", "no study in the file; start from `consilium study new --from DATA.csv`"},
		{"a: [", "line 1, column 1: not YAML: did not find expected node content; check the indentation and quotes"},
		{"- a", "line 1, column 1: the study is a list, want keys and values; write the study: {apiVersion: …, kind: …}"},
		{"kind: Study", "line 1, column 1: apiVersion is missing; begin the file with apiVersion: consilium/v1"},
		{"apiVersion: consilium/v2\nkind: Study", "line 1, column 13: apiVersion is \"consilium/v2\"; write apiVersion: consilium/v1"},
		{"apiVersion: consilium/v1\nkind: Job", "line 2, column 7: kind is \"Job\"; write kind: Study"},
		{file() + "---\na: b\n", "line 11, column 1: a second document; keep one study per file"},
		{file() + "---\na: [\n", "line 12, column 1: not YAML: did not find expected node content; check the indentation and quotes"},
		{"apiVersion: &x consilium/v1\nkind: *x", "line 1, column 13: anchors and aliases are not allowed; write the value out: what is signed must be readable in one place"},
		{file("seed: !!int 4"), "line 11, column 9: the tag !!int is not allowed; leave the tag out"},
		{file() + "  question: Twice?\n", "line 11, column 3: key question stands twice, first in line 5; keep one of them"},
		{file("quest: Hm?"), "line 11, column 3: unknown key quest under spec; did you mean question?"},
		{file("zzzzzz: 1"), "line 11, column 3: unknown key zzzzzz under spec; keys are question, purpose, legal, data, sites, columns, cohort, derive, seed, analysis, analyses, privacy, rounds"},
		{file("privacy: {minCohort: 11}"), "line 11, column 13: unknown key minCohort under privacy; did you mean min_cohort?"},
		{file("question: -"), "line 5, column 3: spec.question is missing; add one plain sentence that boards and patients can read"},
		{file("purpose: {duo: [DUO:7]}"), "line 6, column 19: purpose.duo \"DUO:7\"; write DUO: and seven digits, as in https://github.com/EBISPOT/DUO"},
		{file("purpose: {disease: flu}"), "line 6, column 22: purpose.disease \"flu\"; write MONDO: and seven digits"},
		{file("legal: [a]"), "line 11, column 10: spec.legal is a list, want keys and values"},
		{file("legal: {n: 12345678901234567890}"), "line 11, column 14: \"12345678901234567890\" has more digits than a JSON number keeps; put it in quotes"},
		{file("data: {dataset: d}"), "line 7, column 9: data.patient is missing; name the column that tells patients apart and declare it with type: id"},
		{file("data: {dataset: d, patient: idd}"), "line 7, column 31: data.patient idd is not a declared column; did you mean id?"},
		{file("data: {dataset: d, patient: age}"), "line 7, column 31: data.patient age is a column of type number; declare age: {type: id}"},
		{file("sites: {min: 2}"), "line 8, column 16: sites.min is 2, want 3 to 128; with fewer, dishonest hospitals could leave one honest hospital alone in a sum"},
		{file("sites: {min: 4, faults: 3}"), "line 8, column 16: sites.min is 4, want 5 to 128; with fewer, dishonest hospitals could leave one honest hospital alone in a sum"},
		{file("sites: {min: five}"), "line 8, column 16: sites.min is \"five\", want a whole number"},
		{file("sites: -"), "line 5, column 3: sites.min is missing; write sites: {min: 5}: fewer hospitals are never summed"},
		{file("sites: {min: 3, missing: waitt}"), "line 8, column 28: sites.missing is \"waitt\"; did you mean wait?"},
		{file("sites: {min: 3, only: [a, b]}"), "line 8, column 16: sites.min is 3 but sites.only names 2; ask more hospitals"},
		{file("sites: {min: 3, only: [a, B, c]}"), "line 8, column 29: sites.only is \"B\"; use a-z, 0-9 and inner hyphens, at most 63 characters"},
		{file("privacy: {min_sites: 4}"), "line 11, column 24: privacy.min_sites is 4 but sites.min is 3; they mean the same: keep sites.min"},
		{file("privacy: {min_cohort: 0}"), "line 11, column 25: privacy.min_cohort is 0, want at least 1; the usual value is 11"},
		{file("privacy: {dp: {epsilon: 1}}"), "line 11, column 17: privacy.dp needs epsilon, delta (below 1) and clip, all above 0; write for example dp: {epsilon: 2, delta: 1e-5, clip: 1}"},
		{file("columns: {id: id, age: numbr}"), "line 9, column 26: columns.age has the unknown type numbr; did you mean number?"},
		{file("columns: {id: id, age: {unit: a}}"), "line 9, column 26: columns.age has no type; add type: id, number, integer, flag, levels, date, or levels: […]"},
		{file("columns: {id: id, age: {type: number, bounds: [5, 1]}}"), "line 9, column 49: columns.age.bounds has no lowest and highest value; write [lowest, highest]"},
		{file("columns: {id: id, sex: {type: flag, bounds: [0, 1]}}"), "line 9, column 39: columns.sex of type flag takes no bounds; leave them out"},
		{file("columns: {id: id, sex: [f]}"), "line 9, column 26: columns.sex has 1 levels, want at least two; write levels: [reference, other]"},
		{file("columns: {id: id, sex: [f, f]}"), "line 9, column 26: columns.sex: level \"f\" is empty, padded or stands twice; name each level once, without blanks around it"},
		{file("columns: {id: id, sex: {levels: [f, NA], missing: [NA]}}"), "line 9, column 53: columns.sex: \"NA\" is both a level and a missing value; let it be one or the other"},
		{file("columns: {id: id, site: [a, b]}"), "line 9, column 21: the name site is reserved; leave it out: site always means the hospital, and a term or strata(site) may use it"},
		{file("columns: {id: id, 2nd: number}"), "line 9, column 21: column \"2nd\" is not a name; use letters, digits, dots and underscores, beginning with a letter; a hospital binds its own headers to it"},
		{file("derive: {age: \"1\"}"), "line 11, column 12: derived column age is declared twice; choose another name"},
		{file("rounds: {deadline: 2}"), "line 11, column 22: rounds.deadline is \"2\", want a duration with its unit; write for example 90s, 2m or 1h30m"},
		{file("rounds: {tolerance: 0}"), "line 11, column 23: rounds.tolerance is 0, want above 0; the usual value is 1e-9"},
		{file("rounds: {max: 1.5}"), "line 11, column 17: rounds.max is \"1.5\", want a whole number"},
		{file("seed: -1"), "line 11, column 9: spec.seed is \"-1\", want a whole number from 0 to 2^53"},
		{file("analysis: -"), "line 5, column 3: spec.analysis is missing; add analysis: {type: cox, formula: …}"},
		{file("analysis: {type: coxx}"), "line 10, column 20: unknown analysis type coxx; did you mean cox?"},
		{file("analysis: {type: cox, tiess: efron}"), "line 10, column 25: unknown key tiess under analysis; did you mean ties?"},
		{file("analysis: {type: glm, family: binomial, formula: dead ~ age, ties: efron}"), "line 10, column 64: an analysis of type glm takes no ties; its keys are formula, family, response, terms, no_intercept, strata, cluster, robust, offset, ridge, lasso, penalty, evaluate"},
		{file("analysis: {type: glm, formula: dead ~ age}"), "line 10, column 13: glm has no family; families are gaussian, binomial, poisson, negative-binomial"},
		{file("analysis: {type: glm, family: binomal, formula: dead ~ age}"), "line 10, column 33: glm.family is \"binomal\"; did you mean binomial?"},
		{file("analysis: {type: glm, family: binomial, formula: 'Surv(time, dead) ~ age'}"), "line 10, column 13: the response of a glm is one column, not a time and an event; name one column"},
		{file(`analysis: {type: cox, formula: "Surv(time, dead) ~ agee"}`), "line 10, column 54: column agee is not declared; did you mean age?"},
		{file(`analysis: {type: cox, formula: Surv(time, dead) ~ agee}`), "line 10, column 45: analysis: a comma splits a formula inside { }; put the formula in double quotes"},
		{file(`analysis: {type: cox, formula: "dead ~ age"}`), "line 10, column 25: cox needs a time and an event; write Surv(time, event) or response: {time: …, event: …}"},
		{file(`analysis: {type: cox, formula: "Surv(time, dead) ~ age - 1"}`), "line 10, column 25: a Cox model has no intercept to take away; leave - 1 out"},
		{file(`analysis: {type: cox, formula: "Surv(time, dead) ~ age + strata(sex)", strata: [site]}`), "line 10, column 74: cox.formula says strata already; keep one of them"},
		{file(`analysis: {type: logrank, formula: "Surv(time, dead) ~ log(age)"}`), "line 10, column 38: logrank.formula: log(age) cannot make groups; name columns only, joined by +"},
		{file(`analysis: {type: kaplan-meier, formula: "Surv(time, dead) ~ sex + cluster(id)"}`), "line 10, column 43: kaplan-meier.formula: an analysis of type kaplan-meier takes no cluster; leave it out"},
		{file("analysis: {type: describe, variables: [agge]}"), "line 10, column 42: column agge is not declared; did you mean age?"},
		{file("analysis: {type: describe, variables: age}"), "line 10, column 41: describe.variables is \"age\", want a list; write [age]"},
		{file("analysis: {type: describe, variables: [age], quantiles: [50]}"), "line 10, column 60: describe.quantiles has 50, want values between 0 and 1; 0.5 is the median"},
		{file("analysis: {type: describe, variables: [age], histogram: {age: [0, 0]}}"), "line 10, column 69: describe.histogram.age: 0 does not follow 0; sort them"},
		{file("analysis: {type: kaplan-meier, response: {time: time, event: dead}, grid: {step: 0, max: 3}}"), "line 10, column 77: kaplan-meier.grid has step 0 and max 3; write for example grid: {step: 30, max: 360}, in the unit of the time column"},
		{file("analysis: {type: train, response: dead, features: [age], model: {layers: [{dense: 4}, gelu], loss: logistic}}"), "line 10, column 89: train.model.layers is \"gelu\"; did you mean relu?"},
		{file("analysis: {type: train, response: dead, features: [age], model: {layers: [dense], loss: logistic}}"), "line 10, column 77: train.model.layers: a dense layer needs its number of units; write for example {dense: 16}"},
		{file("analysis: {type: train, response: dead, features: [age], model: {layers: [{dense: 1}], loss: logistic}, strategy: {local_epoch: 2}}"), "line 10, column 118: unknown key local_epoch under train.strategy; did you mean local_epochs?"},
		{file("analyses: [{type: cox, formula: 'Surv(time, dead) ~ age'}]"), "line 10, column 3: both analysis and analyses; keep the list"},
		{file("analysis: -", "analyses: [{type: describe, variables: [age]}, {type: describe, variables: [sex]}]"), "line 10, column 50: two analyses have the name describe, the first in line 10; give each its own name:"},
	} {
		_, _, err := Parse([]byte(c.src))
		if err == nil {
			t.Errorf("accepted, want %q\n%s", c.want, c.src)
			continue
		}
		if got, want := err.Error(), "study file: "+c.want; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if !errors.Is(err, consilium.ErrInvalid) {
			t.Errorf("%v is not invalid", err)
		}
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%v has no position", err)
		}
	}
}

func TestFormula(t *testing.T) {
	for _, c := range []struct{ src, want string }{
		{"y ~ a", `{"column":"y"} [a]`},
		{"y ~ 1", `{"column":"y"} []`},
		{"y ~ a + b:a + a*b", `{"column":"y"} [a b b:a]`},
		{"y ~ a*b*c", `{"column":"y"} [a b c a:b a:c b:c a:b:c]`},
		{"y ~ a:b + a", `{"column":"y"} [a a:b]`},
		{"y ~ I(a^2) + a^3 + log(a):sqrt(b)", `{"column":"y"} [a^2 a^3 log(a):sqrt(b)]`},
		{"y ~ a + 0", `{"column":"y"} [a] no intercept`},
		{"y ~ a - 1", `{"column":"y"} [a] no intercept`},
		{"y ~ -1 + a", `{"column":"y"} [a] no intercept`},
		{"y~a+offset(b)", `{"column":"y"} [a] offset b`},
		{"y~a+offset(log(b))", `{"column":"y"} [a] offset log b`},
		{"Surv(t, d) ~ a.b + x_1 + strata(s, site) + cluster(id)", `{"event":"d","stop":"t"} [a.b x_1] strata [s site] cluster id`},
		{"Surv(a,b,c)~1", `{"event":"c","start":"a","stop":"b"} []`},
		{"y ~ log + strata", `{"column":"y"} [log strata]`}, // names without brackets are columns
	} {
		f, err := parseFormula(c.src)
		if err != nil {
			t.Errorf("%s: at %d: %s; %s", c.src, err.at, err.msg, err.next)
			continue
		}
		response, _ := canon.Marshal(f.response)
		got := string(response) + " " + fmt.Sprint(f.terms)
		if f.noIntercept {
			got += " no intercept"
		}
		if f.offset != nil {
			got += " offset "
			if f.offset.Log {
				got += "log "
			}
			got += f.offset.Column
		}
		if f.strata != nil {
			got += " strata " + fmt.Sprint(f.strata)
		}
		if f.cluster != "" {
			got += " cluster " + f.cluster
		}
		if got != c.want {
			t.Errorf("%s:\n got  %s\n want %s", c.src, got, c.want)
		}
	}
	for _, c := range []struct {
		src  string
		at   int
		want string
	}{
		{"", 0, "the formula ends early: a column or Surv( ); " + formulaExample},
		{"~ a", 0, "no response before the ~; " + formulaExample},
		{"y", 1, "the formula ends early: the response ends here; a ~ must follow; " + formulaExample},
		{"y ~", 3, "no terms after the ~; write 1 for no terms"},
		{"cbind(a, b) ~ c", 0, "cbind( ) is not supported; use one row per patient with a flag as the response"},
		{"Survv(a, b) ~ c", 0, "Survv( ) is not a response; it is a column, Surv(time, event) or Surv(start, stop, event); did you mean Surv?"},
		{"Surv(a) ~ c", 0, "Surv has 1 columns: want (time, event) or (start, stop, event); " + formulaExample},
		{"Surv(a, b == 1) ~ c", 10, "a comparison cannot stand in a formula; an event is a flag column of 0 and 1: recode it in the table"},
		{"y ~ a % b", 6, `"%" has no meaning in a formula; ` + formulaExample},
		{"y ~ .", 4, "the dot for all columns is not allowed; name every term: what is signed must be readable"},
		{"y ~ a + (b + c)", 8, "brackets around terms are not supported; write the terms out: a + b + a:b"},
		{"y ~ factor(a)", 4, "factor( ) is not supported; declare the column with levels, the first is the reference"},
		{"y ~ logg(a)", 4, "logg( ) is not a function of a formula; did you mean log?"},
		{"y ~ ns(a, 3)", 4, "ns( ) is not a function of a formula; functions are Surv, strata, cluster, offset, log, sqrt"},
		{"y ~ a^b", 6, "a power is a whole number from 2 to 9; write for example age^2"},
		{"y ~ a^12", 6, "a power is a whole number from 2 to 9; write for example age^2"},
		{"y ~ a - b", 8, "only the intercept can be taken away (- 1); leave the term out instead"},
		{"y ~ a b", 6, `"b" is not expected here: terms are joined by + ; ` + formulaExample},
		{"y ~ a +", 7, "the formula ends early: a term; " + formulaExample},
		{"y ~ 2", 4, "the number 2 is not a term; " + formulaExample},
		{"y ~ a + strata(b", 16, "the formula ends early: strata( takes columns only; " + formulaExample},
		{"y ~ cluster(a) + cluster(b)", 17, "cluster stands twice; keep one of them"},
		{"y ~ strata(a, a)", 16, "strata names a twice; keep one of them"},
		{"y ~ é", 4, `"é" has no meaning in a formula; ` + formulaExample},
	} {
		_, err := parseFormula(c.src)
		if err == nil {
			t.Errorf("%s: accepted", c.src)
			continue
		}
		if got := err.msg + "; " + err.next; got != c.want {
			t.Errorf("%s: at %d:\n got  %s\n want %s", c.src, err.at, got, c.want)
		}
	}
}

func TestSimulateAssumptions(t *testing.T) {
	src := `apiVersion: consilium/v1
kind: Study
metadata: {name: my-table}
spec:
  columns: {age: number, sex: [f, m], time: number, dead: flag}
  analysis: {type: cox, formula: "Surv(time, dead) ~ age + sex"}
`
	if _, _, err := Parse([]byte(src)); err == nil {
		t.Fatal("a study without question, purpose, data and sites was accepted for submission")
	}
	f, err := ParseWith([]byte(src), Options{Simulate: true, Legal: json.RawMessage(`{"basis":"simulation"}`),
		Purpose: &consilium.Purpose{DUO: []string{"DUO:0000042"}, Class: "scientific_research"}})
	if err != nil {
		t.Fatal(err)
	}
	if !f.RowPatients || f.Spec.Data != (consilium.DataRef{Dataset: "my-table", Patient: "row"}) || f.Spec.Sites.Min != 3 {
		t.Errorf("%+v", f.Spec)
	}
	want := []string{
		"question: the study file asks none",
		"purpose: scientific_research, data use codes [DUO:0000042], disease \"\"",
		`legal: {"basis":"simulation"}`,
		"data.dataset: my-table, the name of the study",
		"data.patient: no column of type id is declared, so every row counts as one patient",
		"sites.min: 3",
	}
	if diff := cmp.Diff(want, f.Assumptions); diff != "" {
		t.Error(diff)
	}
	f, err = ParseWith([]byte(strings.Replace(src, "age: number", "age: number, pid: id", 1)), Options{Simulate: true})
	if err != nil || f.RowPatients || f.Spec.Data.Patient != "pid" {
		t.Errorf("the only id column was not taken: %v", err)
	}
}

// Whatever the bytes, Parse refuses with a position or gives a specification
// whose canonical form parses to the same bytes.
func FuzzParse(f *testing.F) {
	f.Add(full)
	f.Add(file())
	f.Add(file("legal: {a: [1, 2.5, null, true, {b: c}]}", "cohort: age > 3"))
	f.Add("a: &b\n  *b")
	f.Fuzz(func(t *testing.T, src string) {
		s, payload, err := Parse([]byte(src))
		if err != nil {
			if !errors.Is(err, consilium.ErrInvalid) {
				t.Fatalf("%v", err)
			}
			return
		}
		shown, err := Show(s)
		if err != nil {
			t.Fatal(err)
		}
		_, again, err := Parse(shown)
		if err != nil {
			t.Fatalf("%v\n%s", err, shown)
		}
		if !bytes.Equal(payload, again) {
			t.Fatalf("%s\n%s\n%s", payload, again, shown)
		}
	})
}

func FuzzFormula(f *testing.F) {
	f.Add("Surv(a, b, c) ~ d*e + log(f) + strata(site) + cluster(id) + offset(log(g)) - 1")
	f.Fuzz(func(t *testing.T, src string) {
		got, err := parseFormula(src)
		if err != nil {
			if err.at < 0 || err.at > len(src) {
				t.Fatalf("position %d of %d", err.at, len(src))
			}
			return
		}
		for _, term := range got.terms {
			if _, err := consilium.ParseTerm(term); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestExactKeys: the further keys of exact analyses, and that what is shown
// says the same.
func TestExactKeys(t *testing.T) {
	study := `apiVersion: consilium/v1
kind: Study
metadata: {name: keys}
spec:
  question: Do all keys arrive?
  purpose: {duo: [DUO:0000007], disease: MONDO:0018305}
  data: {dataset: d, patient: id}
  sites: {min: 5}
  columns:
    id: id
    treat: [a, b]
    age: number
    y: flag
    time: {type: number, unit: d}
    died: flag
    rs1: {type: integer, bounds: [0, 2]}
    rs2: {type: integer, bounds: [0, 2]}
  analyses:
    - {name: cox, type: cox, formula: "Surv(time, died) ~ treat + age", time_terms: {treat: log, age: identity}}
    - {name: ph, type: cox, formula: "Surv(time, died) ~ treat + age", ph_check: log, concordance: true}
    - {name: net, type: glm, family: binomial, formula: y ~ treat + age, penalty: {alpha: 0.5, lambda: [0.1, 0.01]}}
    - {name: path, type: glm, family: binomial, formula: y ~ treat + age, penalty: {steps: 30, ratio: 0.001, raw: true}}
    - {name: logit, type: glm, family: binomial, formula: y ~ treat + age, evaluate: 20}
    - {name: km, type: kaplan-meier, formula: "Surv(time, died) ~ treat", grid: {step: 30, max: 360}, conf_type: plain, restricted: 300}
    - {name: peto, type: logrank, formula: "Surv(time, died) ~ treat", weights: {rho: 1}}
    - {name: scan, type: gwas, formula: y ~ age, variants: "rs*", quality: {maf: 0.01, hwe: 1e-6, call_rate: 0.95}}
  privacy: {min_cohort: 11}
`
	s, payload, err := Parse([]byte(study))
	if err != nil {
		t.Fatal(err)
	}
	want := func(i int, change func(*consilium.AnalysisSpec)) {
		t.Helper()
		a := s.Analyses[i]
		change(&a)
		if diff := cmp.Diff(a, s.Analyses[i]); diff != "" {
			t.Error(diff)
		}
	}
	want(0, func(a *consilium.AnalysisSpec) {
		a.TimeTerms = []consilium.TimeTerm{{Term: "treat", Func: "log"}, {Term: "age", Func: "identity"}}
	})
	want(1, func(a *consilium.AnalysisSpec) { a.PHCheck, a.Concordance = "log", true })
	want(2, func(a *consilium.AnalysisSpec) {
		a.Penalty = &consilium.Penalty{Alpha: 0.5, Lambda: []float64{0.1, 0.01}}
	})
	want(3, func(a *consilium.AnalysisSpec) {
		a.Penalty = &consilium.Penalty{Alpha: 1, Steps: 30, Ratio: 0.001, Raw: true}
	})
	want(4, func(a *consilium.AnalysisSpec) { a.Evaluate = 20 })
	want(5, func(a *consilium.AnalysisSpec) { a.ConfType, a.Restricted = "plain", 300 })
	want(6, func(a *consilium.AnalysisSpec) { a.Weights = &consilium.Weights{Rho: 1} })
	want(7, func(a *consilium.AnalysisSpec) {
		a.Family, a.Variants, a.Quality = "binomial", []string{"rs1", "rs2"}, &consilium.Quality{MAF: 0.01, HWE: 1e-6, CallRate: 0.95}
	})
	shown, err := Show(s)
	if err != nil {
		t.Fatal(err)
	}
	_, again, err := Parse(shown)
	if err != nil || string(again) != string(payload) {
		t.Errorf("what is shown says something else: %v\n%s", err, shown)
	}
}
