package policy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
)

// testColumns are of every kind, some twice.
var testColumns = []column{{"t", kindText}, {"u", kindText}, {"l", kindList}, {"m", kindList}, {"i", kindInt}, {"j", kindInt}, {"f", kindFlag}, {"g", kindFlag}}

// testRule is a row rule alone, without the law.
type testRule struct {
	c     *ast.Compiler
	store storage.Store
	query rego.PreparedEvalQuery
}

func newTestRule(t testing.TB, src string) (*testRule, error) {
	t.Helper()
	m, err := ast.ParseModuleWithOpts("rule.rego", src, ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: capabilities(append(slices.Clone(coreBuiltins), "lower"))})
	if err != nil {
		return nil, err
	}
	r := &testRule{c: ast.NewCompiler().WithCapabilities(capabilities(append(slices.Clone(coreBuiltins), "lower"))), store: inmem.NewFromObject(map[string]any{
		"table": map[string]any{"a": []any{"a", "b"}, "b": []any{"c"}}, "tree": map[string]any{"a": true, "b": false},
	})}
	if r.c.Compile(map[string]*ast.Module{"rule.rego": m}); r.c.Failed() {
		return nil, r.c.Errors
	}
	r.query, err = prepare("data.p.include", r.c, r.store)
	return r, err
}

var testKnown = map[string]any{"study": map[string]any{"purpose": "a", "words": []any{"a", "b"}, "n": 5}}

func (r *testRule) compile(t testing.TB, cols []column) (*plan, node, error) {
	t.Helper()
	p := newPlan(cols)
	input, err := ast.InterfaceToValue(testKnown)
	if err != nil {
		t.Fatal(err)
	}
	pq, err := partially(context.Background(), r.c, r.store, "data.p.include = true", input, false)
	if err != nil {
		return nil, never, err
	}
	n, err := translate(p, pq, &asking{context.Background(), r.c, r.store, input, false, map[int][]string{2: {"a", "b", "c"}, 3: {"a", "b", "c"}}})
	return p, n, err
}

// plain asks OPA about one row; a failure of the rule counts as leaving it
// out.
func (r *testRule) plain(t testing.TB, record map[string]any, now int64) bool {
	t.Helper()
	v, err := ast.InterfaceToValue(map[string]any{"study": testKnown["study"], "record": record, "now": now})
	if err != nil {
		t.Fatal(err)
	}
	rs, err := r.query.Eval(context.Background(), rego.EvalParsedInput(v))
	return err == nil && len(rs) == 1 && rs[0].Expressions[0].Value == true
}

// testTable generates rows with nulls behind other rows, in dictionaries of
// several widths that hold nulls and values twice, and as plain text.
func testTable(rng *rand.Rand, n int) (rows []map[string]any, whole []bool, cols []arrow.Array) {
	before := rng.IntN(100)
	total := before + n
	mem := memory.DefaultAllocator
	all := make([]map[string]any, total)
	ok := make([]bool, total)
	for i := range all {
		all[i], ok[i] = map[string]any{}, true
	}
	words := []string{"a", "b", "c", "", "A"}
	lists := []string{"", "a", "b", "a b", "c a", "b b"}
	for _, c := range testColumns {
		null := make([]bool, total)
		for i := range null {
			if null[i] = rng.IntN(12) == 0; null[i] {
				all[i][c.name], ok[i] = nil, false
			}
		}
		var a arrow.Array
		switch c.kind {
		case kindText, kindList:
			from := words
			if c.kind == kindList {
				from = lists
			}
			picked := make([]string, total)
			for i := range picked {
				picked[i] = from[rng.IntN(len(from))]
				if !null[i] {
					all[i][c.name] = picked[i]
					if c.kind == kindList {
						l := []any{}
						for _, w := range strings.Fields(picked[i]) {
							l = append(l, w)
						}
						all[i][c.name] = l
					}
				}
			}
			if rng.IntN(3) == 0 {
				b := array.NewStringBuilder(mem)
				for i, s := range picked {
					if null[i] {
						b.AppendNull()
					} else {
						b.Append(s)
					}
				}
				a = b.NewArray()
				break
			}
			// A dictionary with everything twice and a null, whose indices of null
			// rows point anywhere.
			db := array.NewStringBuilder(mem)
			db.AppendNull()
			for range 2 {
				for _, s := range from {
					db.Append(s)
				}
			}
			dict := db.NewArray()
			valid := make([]byte, (total+7)/8)
			index := func(i int) int {
				if null[i] {
					return []int{0, 100, -1, 1}[rng.IntN(4)]
				}
				return 1 + slices.Index(from, picked[i]) + rng.IntN(2)*len(from)
			}
			var idx arrow.Array
			if rng.IntN(2) == 0 {
				b := array.NewInt8Builder(mem)
				for i := range total {
					x := index(i)
					if null[i] && x == 0 { // a null of the dictionary
						valid[i/8] |= 1 << (i % 8)
					}
					b.Append(int8(x))
				}
				idx = b.NewArray()
			} else {
				b := array.NewUint32Builder(mem)
				for i := range total {
					b.Append(uint32(index(i)))
				}
				idx = b.NewArray()
			}
			for i := range total {
				if !null[i] {
					valid[i/8] |= 1 << (i % 8)
				}
			}
			data := array.NewData(idx.DataType(), total, []*memory.Buffer{memory.NewBufferBytes(valid), idx.Data().Buffers()[1]}, nil, array.UnknownNullCount, 0)
			a = array.NewDictionaryArray(&arrow.DictionaryType{IndexType: idx.DataType(), ValueType: arrow.BinaryTypes.String}, array.MakeFromData(data), dict)
		case kindInt:
			b := array.NewInt64Builder(mem)
			for i := range total {
				x := []int64{0, 4, 5, 6, -1, Never, -Never, 99, 100, 101, 1<<63 - 1, -1 << 63}[rng.IntN(12)]
				if null[i] {
					b.AppendNull()
					continue
				}
				b.Append(x)
				all[i][c.name] = x
			}
			a = b.NewArray()
		case kindFlag:
			b := array.NewBooleanBuilder(mem)
			for i := range total {
				x := rng.IntN(2) == 0
				if null[i] {
					b.AppendNull()
					continue
				}
				b.Append(x)
				all[i][c.name] = x
			}
			a = b.NewArray()
		}
		cols = append(cols, array.NewSlice(a, int64(before), int64(total)))
	}
	return all[before:], ok[before:], cols
}

const ruleHead = "package p\n\nimport rego.v1\n\n"

// checkRule compares kernels with OPA. It returns how many rows are in.
func checkRule(t testing.TB, src string, p *plan, n node, r *testRule, rng *rand.Rand, rows int) int {
	t.Helper()
	const now = 100
	records, whole, cols := testTable(rng, rows)
	got, err := p.run(cols, rows, now, []node{n})
	if err != nil {
		t.Fatalf("%s\n%v", src, err)
	}
	in := 0
	for i, record := range records {
		want := r.plain(t, record, now)
		switch have := got[0].get(i); {
		case have && !want:
			t.Fatalf("over-grant on %v (whole %t):\n%s", record, whole[i], src)
		case !have && want && whole[i]:
			t.Fatalf("left out %v:\n%s", record, src)
		}
		// The same row with its nulls absent.
		if got[0].get(i) && !whole[i] {
			for k, v := range record {
				if v == nil {
					delete(record, k)
				}
			}
			if !r.plain(t, record, now) {
				t.Fatalf("over-grant on %v, cells absent:\n%s", record, src)
			}
		}
		if got[0].get(i) {
			in++
		}
	}
	return in
}

// TestRowConstructs: what compiles decides like OPA; what does not says where.
func TestRowConstructs(t *testing.T) {
	for _, c := range []struct {
		rule    string
		refused string // or "" if it compiles
	}{
		{`include if input.record.t == "a"`, ""},
		{`include if "a" == input.record.t`, ""},
		{`include if input.record.t != "a"`, ""},
		{`include if input.record.t < "b"`, ""},
		{`include if input.record.t == 1`, ""},
		{`include if input.record.t > 1`, ""},
		{`include if input.record.t != null`, ""},
		{`include if input.record.i > "z"`, ""},
		{`include if input.record.i < "z"`, ""},
		{`include if input.record.i < 5`, ""},
		{`include if input.record.i <= 5`, ""},
		{`include if input.record.i > 5`, ""},
		{`include if input.record.i >= 5`, ""},
		{`include if 5 < input.record.i`, ""},
		{`include if 5 >= input.record.i`, ""},
		{`include if input.record.i == 5`, ""},
		{`include if input.record.i != 5`, ""},
		{`include if input.record.i < input.record.j`, ""},
		{`include if input.record.i <= input.record.j`, ""},
		{`include if input.record.i == input.record.j`, ""},
		{`include if input.record.i < input.now`, ""},
		{`include if input.now < input.record.i`, ""},
		{`include if input.now <= input.record.i`, ""},
		{`include if input.now > 99`, ""},
		{`include if input.now == 99`, ""},
		{`include if input.record.i == input.study.n`, ""},
		{`include if input.record.i in {4, 5, "x", 5.5}`, "not an integer"},
		{`include if input.record.i in {4, 5, "x"}`, ""},
		{`include if input.record.i in [4, 99]`, ""},
		{`include if input.record.i < 5.5`, "not an integer"},
		{`include if input.record.f`, ""},
		{`include if input.record.t`, ""},
		{`include if input.record.f == false`, ""},
		{`include if input.record.f != true`, ""},
		{`include if input.record.f == "false"`, ""},
		{`include if input.record.f in {true, 1}`, ""},
		{`include if not input.record.f`, ""},
		{`include if not input.record.t`, ""},
		{`include if not input.record.t == "a"`, ""},
		{`include if not input.record.t in {"a", "b"}`, ""},
		{`include if not input.record.i < 5`, ""},
		{`include if not input.record.i == "5"`, ""},
		{`include if input.record.t in {"a", "b", 1}`, ""},
		{`include if input.record.t in {"x": "a", "y": "c"}`, ""},
		{`include if input.record.t in data.table[input.study.purpose]`, ""},
		{`include if input.record.t in data.table.missing`, ""},
		{`include if "a" in input.record.l`, ""},
		{`include if not "a" in input.record.l`, ""},
		{`include if 1 in input.record.l`, ""},
		{"include if {\n\tsome w in input.study.words\n\tw in input.record.l\n}", ""},
		{"include if every w in input.study.words { w in input.record.l }", ""},
		{"include if {\n\tsome w in input.record.l\n\tw in input.study.words\n}", ""},
		{"include if every w in input.record.l { w in input.study.words }", ""},
		{"include if not good\n\ngood if every w in input.record.l { held(w) }\n\nheld(w) if w in input.study.words\n\nheld(w) if {\n\tw == \"c\"\n\tinput.record.i < input.now\n}", ""},
		{"include if every w in input.record.l { held(w) }\n\nheld(w) if {\n\tw == \"a\"\n\tinput.record.f\n}", ""},
		{"include if every w in input.record.l { w == input.record.t }", ""},
		{"include if every k, w in input.record.l { k < 1; w == \"a\" }", "position"},
		{"include if every w in input.record.l { input.now > 5; w == \"a\" }", ""},
		{"include if {\n\tsome w in input.record.l\n\tw != \"a\"\n\tstartswith(w, \"b\")\n}", ""},
		{"include if {\n\tsome w in input.record.l\n\tw == \"a\"\n\tsome v in input.record.m\n\tv == \"b\"\n}", ""},
		{"include if {\n\tsome w in input.record.l\n\tsome v in input.record.m\n\tv == w\n}", "column"},
		{`include if startswith(input.record.t, "a")`, ""},
		{`include if startswith(input.record.i, "a")`, "text is needed"},
		{`include if lower(input.record.t) == "a"`, "lower"},
		{`include if count(input.record.l) > 1`, "count"},
		{`include if count({w | some w in input.record.l}) > 1`, "made from the row"},
		{`include if input.record.l == ["a"]`, "list"},
		{`include if input.record.t == input.record.u`, "two columns"},
		{`include if input.record.missing == 1`, "no such column"},
		{`include if input.record.t.x == 1`, "word is found by"},
		{`include if data.tree[input.record.t]`, ""},
		{"include if ok\n\nok if input.record.t == \"a\"\n\nok if input.record.f", ""},
		{"include if not ok\n\nok if input.record.t == \"a\"\n\nok if input.record.f", ""},
		{"include if not not_ok\n\nnot_ok if not ok\n\nok if {\n\tinput.record.t == \"a\"\n\tnot input.record.i > 5\n}", ""},
		{"default ok := false\n\nok if input.record.f\n\ninclude if ok", ""},
		{"default ok := false\n\nok if input.record.f\n\ninclude if not ok", ""},
		{"default ok := true\n\nok := false if input.record.f\n\ninclude if ok", "another value"},
		{"kind := \"x\" if input.record.f\n\ninclude if kind == \"x\"", "another value"},
		{"ok(x) if x == \"a\"\n\nok(x) if x == \"b\"\n\ninclude if ok(input.record.t)", ""},
		{"ok(x, y) if x < y\n\ninclude if not ok(input.record.i, input.now)", ""},
		{"ok if input.record.f\n\nelse := false if input.record.g\n\ninclude if ok", "cannot be decided"},
		{"deny contains 1 if input.record.f\n\ninclude if count(deny) == 0", "plain condition"},
		{`include if {` + "\n\tx := input.record.t\n\tx == \"a\"\n}", ""},
		{`include if {` + "\n\tx := [input.record.t, 1]\n\tx[0] == \"a\"\n}", ""},
		{`include if object.get(input.record, "t", "a") == "a"`, "input.record cannot"},
		{`include if input.record == {}`, "cannot be decided"},
		{`include := true`, ""},
		{`include := false`, ""},
		{`other := true`, ""},
	} {
		src := ruleHead + c.rule + "\n"
		r, err := newTestRule(t, src)
		if err != nil {
			t.Fatalf("%s: %v", c.rule, err)
		}
		p, n, err := r.compile(t, testColumns)
		if c.refused != "" {
			if err == nil || !isNotCompiled(err) || !strings.Contains(err.Error(), c.refused) || !strings.HasPrefix(err.Error(), "rule.rego:") {
				t.Errorf("%s\nrefused with %v, want %q and a line", c.rule, err, c.refused)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s\ndoes not compile: %v", c.rule, err)
			continue
		}
		checkRule(t, src, p, n, r, rand.New(rand.NewPCG(1, uint64(len(src)))), 400)
	}
	// Under rego.v2, negation and or are other nodes of the language.
	for _, rule := range []string{
		`include if not input.record.t in {"a"}`, "include if {\n\tnot input.record.f\n\tinput.record.i < 5\n}",
		"include if not ok\n\nok if {\n\tinput.record.f\n\tnot input.record.g\n}",
	} {
		src := strings.Replace(ruleHead, "rego.v1", "rego.v2", 1) + rule + "\n"
		r, err := newTestRule(t, src)
		if err != nil {
			t.Fatal(err)
		}
		p, n, err := r.compile(t, testColumns)
		if err != nil {
			t.Errorf("%s\ndoes not compile: %v", rule, err)
			continue
		}
		checkRule(t, src, p, n, r, rand.New(rand.NewPCG(2, 2)), 400)
	}
}

// randomRule writes a rule from the language's conditions, helpers and
// negations, of the rest also such that do not compile.
func randomRule(rng *rand.Rand) string {
	var b strings.Builder
	version := []string{"rego.v1", "rego.v2"}[rng.IntN(2)]
	fmt.Fprintf(&b, "package p\n\nimport %s\n\n", version)
	pick := func(s ...string) string { return s[rng.IntN(len(s))] }
	konst := func() string { return pick(`"a"`, `"b"`, `""`, "5", "0", "99", "true", "false", "null", `["a"]`) }
	col := func() string { return "input.record." + testColumns[rng.IntN(len(testColumns))].name }
	op := func() string { return pick("==", "!=", "<", "<=", ">", ">=") }
	helpers := rng.IntN(4)
	cond := func(helper int) string {
		var c string
		switch rng.IntN(13) {
		case 12:
			return "every w in input.record." + pick("l", "m") + " { w " + op() + " " + konst() + " }"
		case 0, 1, 2:
			c = col() + " " + op() + " " + konst()
		case 3:
			c = konst() + " " + op() + " " + col()
		case 4:
			c = col() + " in " + pick(`{"a", "b"}`, `["a", 5]`, "{4, 5}", `{"x": "a"}`, "{true}", "set()")
		case 5:
			c = konst() + " in input.record." + pick("l", "m")
		case 6:
			c = pick("input.record.i", "input.record.j", "input.now") + " " + op() + " " + pick("input.record.j", "input.now", "input.study.n")
		case 7:
			c = col()
		case 8:
			c = "startswith(" + pick("input.record.t", "input.record.u") + `, "a")`
		case 9:
			c = "some w in input.record.l\n\tw " + op() + " " + konst()
			return c
		case 10:
			c = col() + " " + op() + " " + col()
		default:
			if helper > 0 {
				c = fmt.Sprintf("h%d", rng.IntN(helper))
			} else {
				c = "input.record.f"
			}
		}
		if rng.IntN(4) == 0 {
			c = "not " + c
		}
		return c
	}
	rule := func(name string, helper int) {
		for range 1 + rng.IntN(3) {
			fmt.Fprintf(&b, "%s if {\n", name)
			for range 1 + rng.IntN(4) {
				fmt.Fprintf(&b, "\t%s\n", cond(helper))
			}
			b.WriteString("}\n\n")
		}
	}
	for i := range helpers {
		if rng.IntN(4) == 0 {
			fmt.Fprintf(&b, "default h%d := false\n\n", i)
		}
		rule(fmt.Sprintf("h%d", i), i)
	}
	rule("include", helpers)
	return b.String()
}

func checkRandom(t testing.TB, seed uint64, rows int) (compiled, some bool) {
	rng := rand.New(rand.NewPCG(seed, 17))
	src := randomRule(rng)
	r, err := newTestRule(t, src)
	if err != nil {
		return false, false // one name for two words, or unsafe: no rule
	}
	p, n, err := r.compile(t, testColumns)
	if err != nil {
		if !isNotCompiled(err) {
			t.Fatalf("%v:\n%s", err, src)
		}
		return false, false
	}
	in := checkRule(t, src, p, n, r, rng, rows)
	return true, in > 0 && in < rows
}

// TestWordsGiveUp: a rule about each word of a list, whose time is over before its
// words are tried, is not a rule that kernels cannot say: that would have it asked
// row by row, for as long again.
func TestWordsGiveUp(t *testing.T) {
	r, err := newTestRule(t, "package p\n\ninclude if every w in input.record.l { w in input.study.words }\n")
	if err != nil {
		t.Fatal(err)
	}
	input, err := ast.InterfaceToValue(testKnown)
	if err != nil {
		t.Fatal(err)
	}
	for _, over := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		pq, err := partially(ctx, r.c, r.store, "data.p.include = true", input, false)
		if err != nil {
			t.Fatal(err)
		}
		if over {
			cancel()
		}
		_, err = translate(newPlan(testColumns), pq, &asking{ctx, r.c, r.store, input, false, map[int][]string{2: {"a", "b", "c"}}})
		if cancel(); over != errors.Is(err, context.Canceled) || !over && err != nil {
			t.Errorf("over %v: %v", over, err)
		}
	}
}

// TestRandomRowRules: no generated rule lets in a generated row that OPA
// leaves out, with nulls or without.
func TestRandomRowRules(t *testing.T) {
	compiled, telling := 0, 0
	for seed := range uint64(400) {
		ok, some := checkRandom(t, seed, 60)
		if ok {
			compiled++
		}
		if some {
			telling++
		}
	}
	if compiled < 100 || telling < 50 {
		t.Errorf("%d of 400 rules compile, %d decide both ways: the test shows little", compiled, telling)
	}
}

// FuzzRowRule tries rules and rows from anywhere.
func FuzzRowRule(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) { checkRandom(t, seed, 60) })
}
