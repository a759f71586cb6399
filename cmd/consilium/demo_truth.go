package main

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
)

// tolerance is how far a federated number may be from R's on the pooled
// table, relatively.
const tolerance = 1e-9

// aloneTolerance is the bar of one hospital's own fit: on so few rows R's coxph
// stops up to 3e-9 short of the maximum.
const aloneTolerance = 1e-8

// comparison is one number beside its reference.
type comparison struct {
	What string  `json:"what"`
	Got  float64 `json:"got"`
	Want float64 `json:"want"`
	Diff float64 `json:"difference"` // relative
	Bar  float64 `json:"bar"`
}

func (c comparison) ok() bool { return c.Diff <= c.Bar }

// comparisons collects what was compared; it fails the demonstration if one
// is off.
type comparisons struct{ list []comparison }

func (cs *comparisons) add(what string, got, want float64) { cs.within(tolerance, what, got, want) }

// within is add with a bar of its own.
func (cs *comparisons) within(bar float64, what string, got, want float64) {
	d := math.Abs(got - want)
	if s := math.Max(math.Abs(got), math.Abs(want)); s > 0 {
		d /= s
	}
	if math.IsNaN(d) {
		d = math.Inf(1)
	}
	cs.list = append(cs.list, comparison{what, got, want, d, bar})
}

// held counts the numbers that were held to a bar, and finds the worst of them.
func (cs *comparisons) held(bar float64) (n int, worst comparison) {
	for _, x := range cs.list {
		if x.Bar != bar {
			continue
		}
		n++
		if x.Diff >= worst.Diff {
			worst = x
		}
	}
	return n, worst
}

// summary says what was compared, each bar by itself.
func (cs *comparisons) summary() string {
	n, worst := cs.held(tolerance)
	s := fmt.Sprintf("%d numbers compared with R and with naive pooled computations; the largest relative difference is %.1e (%s); the bar is %.0e", n, worst.Diff, worst.What, tolerance)
	if n, worst := cs.held(aloneTolerance); n > 0 {
		s += fmt.Sprintf("\nand %d numbers of single hospitals with R's; the largest relative difference is %.1e (%s); the bar is %.0e", n, worst.Diff, worst.What, aloneTolerance)
	}
	return s
}

func (cs *comparisons) failed() (out []comparison) {
	for _, x := range cs.list {
		if !x.ok() {
			out = append(out, x)
		}
	}
	return out
}

// tree is a decoded JSON document that is asked by path; a missing place is
// an error of the demonstration, noted once.
type tree struct {
	v    any
	path string
	bad  *[]string
}

func parseTree(b []byte, bad *[]string) (tree, error) {
	var v any
	err := json.Unmarshal(b, &v)
	return tree{v, "", bad}, err
}

func (t tree) at(path ...any) tree {
	for _, p := range path {
		next := tree{nil, fmt.Sprintf("%s/%v", t.path, p), t.bad}
		switch k := p.(type) {
		case string:
			if m, ok := t.v.(map[string]any); ok {
				next.v = m[k]
			}
		case int:
			if l, ok := t.v.([]any); ok && k < len(l) {
				next.v = l[k]
			} else if k == 0 {
				next.v = t.v // R writes a vector of one as a number
			}
		}
		t = next
	}
	return t
}

func (t tree) num() float64 {
	if f, ok := t.v.(float64); ok {
		return f
	}
	*t.bad = append(*t.bad, strings.TrimPrefix(t.path, "/")+" is not there")
	return math.NaN()
}

func (t tree) text() string {
	s, _ := t.v.(string)
	return s
}

func (t tree) list() []tree {
	l, ok := t.v.([]any)
	if !ok {
		return nil
	}
	out := make([]tree, len(l))
	for i, v := range l {
		out[i] = tree{v, fmt.Sprintf("%s/%d", t.path, i), t.bad}
	}
	return out
}

func (t tree) has(key string) bool {
	m, ok := t.v.(map[string]any)
	return ok && m[key] != nil
}

// compareModel holds a fitted model against R's: every coefficient, error and
// covariance, the log-likelihoods and the tests that both have.
func compareModel(cs *comparisons, what string, got, want tree) {
	for i, term := range got.at("terms").list() {
		name := what + " " + term.at("name").text()
		cs.add(name+" coef", term.at("coef").num(), want.at("coef", i).num())
		cs.add(name+" se", term.at("se").num(), want.at("se", i).num())
		if want.has("robust_se") {
			cs.add(name+" robust se", term.at("robust_se").num(), want.at("robust_se", i).num())
		}
		cs.add(name+" p", term.at("p").num(), want.at("p", i).num())
	}
	if want.has("vcov") && !want.has("robust_se") {
		for i, row := range got.at("vcov").list() {
			for k, v := range row.list() {
				cs.add(fmt.Sprintf("%s vcov[%d][%d]", what, i, k), v.num(), want.at("vcov", i, k).num())
			}
		}
	}
	if want.has("loglik0") {
		cs.add(what+" null loglik", got.at("loglik", 0).num(), want.at("loglik0").num())
	}
	if want.has("loglik") {
		cs.add(what+" loglik", got.at("loglik", 1).num(), want.at("loglik").num())
	}
}
