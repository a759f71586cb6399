//go:build linux && !race

package policy

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"consilium"
)

// hostile are overlays that try to make the engine fail open, run for ever or
// fill the memory. Each is refused when the bundle is compiled (says), or denies
// every question with one of the engine's codes, or is harmless and decided.
var hostile = []struct {
	name, rules, says string
	codes             string // of the decision, if the bundle compiles; "" when it may allow
}{
	{"network", `deny contains {"code": "X"} if http.send({"method": "get", "url": "http://localhost"})`, "undefined function http.send", ""},
	{"random", `deny contains {"code": "X"} if rand.intn("x", 2) == 1`, "undefined function", ""},
	{"clock", `deny contains {"code": "X"} if time.now_ns() > 0`, "undefined function", ""},
	{"environment", `deny contains {"code": "X"} if opa.runtime().env.HOME`, "undefined function", ""},
	{"walk", `deny contains {"code": "X"} if walk(input, [p, v])`, "undefined function", ""},
	{"format", `deny contains {"code": sprintf("%1000000000d", [1])}`, "undefined function", ""},
	{"concatenation", `deny contains {"code": concat("", [input.study.name, input.study.name])}`, "undefined function", ""},
	{"template", `deny contains {"code": $"{input.study.name}{input.study.name}"}`, "template", ""},
	{"json bomb", `deny contains {"code": json.unmarshal("[1]")}`, "undefined function", ""},
	{"units", `deny contains {"code": "X"} if units.parse("1e1000000") > 1`, "undefined function", ""},
	{"shift", `deny contains {"code": "X"} if bits.lsh(1, 2000000) > 1`, "undefined function", ""},
	{"graph", `deny contains {"code": "X"} if graph.reachable({}, {})`, "undefined function", ""},
	{"unions", `deny contains {"code": "X"} if object.union_n([input, input])`, "undefined function", ""},
	{"range", `deny contains {"code": "X"} if numbers.range(1, 1000000000)[_] == 0`, "undefined function", ""},
	{"regex", `deny contains {"code": "X"} if regex.match("(a|aa)+$", input.study.name)`, "undefined function", ""},
	{"addresses", `deny contains {"code": "X"} if net.cidr_expand("0.0.0.0/0")[_]`, "undefined function", ""},
	{"split", `deny contains {"code": "X"} if split(input.study.name, "")[_]`, "undefined function", ""},
	{"arithmetic", `deny contains {"code": "X"} if 1 + 1 == 3`, "undefined function", ""},
	{"recursion", "a if b\n\nb if a\n\ndeny contains {\"code\": \"X\"} if a", "recursi", ""},
	{"huge number", `deny contains {"code": "X"} if input.now < 1e999999999`, "number too big", ""},
	{"long number", `deny contains {"code": "X"} if input.now < 1` + strings.Repeat("0", 10000), "plain digits", ""},
	{"deep brackets", `deny contains {"code": ` + strings.Repeat("[", 30000) + strings.Repeat("]", 30000) + `}`, "nested deeper", ""},
	{"large file", "x := \"" + strings.Repeat("a", MaxModuleSize) + "\"", "at most", ""},
	{"long sum", `x := ` + strings.Repeat("1|", 20000) + "1", "terms", ""},
	{"long reference", `x := input` + strings.Repeat(".a", 20000), "terms", ""},
	{"many rules", strings.Repeat("x if input.now > 1\n\n", 2000), "rules in one file", ""},
	{"longer body", "x if {\n" + strings.Repeat("\tinput.now > 1\n", 3000) + "}", "terms", ""},
	{"long body", "x if {\n" + strings.Repeat("\tinput.now > 1\n", 400) + "}", "conditions in one body", ""},
	{"longer else chain", "x if input.now > 1\n" + strings.Repeat("else if input.now > 1\n", 2000), "terms", ""},
	{"else chain", "x if input.now > 1\n" + strings.Repeat("else if input.now > 1\n", 600), "rules in one file", ""},
	{"doubling rules", doubling("a%d := [a%d, a%d]"), "is a collection that the overlay makes", ""},
	{"doubling objects", doubling(`a%d := {"x": a%d, "y": a%d}`), "is a collection that the overlay makes", ""},
	{"doubling locals", "x if {\n\tv0 := [1]\n" + locals() + "\tcount(v30) > 0\n}", "is a collection that the overlay makes", ""},
	{"doubling functions", "f(x) := [x, x]\n\ny := f(f(f(f(f(1)))))\n\nz := [y, y]", "is a collection that the overlay makes", ""},
	{"nested comprehensions", "a := [x | some x in input.study.columns]\n\nb := [a | some x in input.study.columns]\n\ndeny contains {\"code\": \"X\"} if count(b) > 1", "is a collection that the overlay makes", ""},
	{"comparison of lists", "a := [x | some x in input.study.columns]\n\nb := [x | some x in input.study.columns]\n\ndeny contains {\"code\": \"X\"} if a == b", "as a whole", ""},
	{"endless product", "deny contains {\"code\": \"X\"} if count([1 | " + product(9) + "]) > 5", "", CodeTimeout},
	{"endless product of a set", "deny contains {\"code\": \"X\"} if count({[a0, a1, a2, a3, a4, a5, a6, a7, a8] | " + product(9) + "}) > 5", "", CodeTimeout},
	{"endless product of an object", "deny contains {\"code\": \"X\"} if count({[a0, a1, a2, a3, a4, a5, a6, a7, a8]: 1 | " + product(9) + "}) > 5", "", CodeTimeout},
	{"endless denials", "deny contains {\"code\": a0, \"message\": [a1, a2, a3, a4, a5, a6, a7, a8]} if {\n\t" + strings.ReplaceAll(product(9), "; ", "\n\t") + "\n}", "", CodeTimeout},
	{"endless duties", "obligations contains [a0, a1, a2, a3, a4, a5, a6, a7, a8] if {\n\t" + strings.ReplaceAll(product(9), "; ", "\n\t") + "\n}", "", CodeTimeout},
	{"endless row rule", "row_include if count([1 | some a in input.record.purposes; " + product(9) + "]) > 5", "", CodeTimeout},
	{"endless every", "deny contains {\"code\": \"X\"} if every a in input.study.columns { every b in input.study.columns { every c in input.study.columns { every d in input.study.columns { every e in input.study.columns { every f in input.study.columns { every g in input.study.columns { every h in input.study.columns { a != b; c != d; e != f; g != h } } } } } } } }", "", ""},
	{"the question as a message", "deny contains {\"code\": \"X\", \"message\": [input, input, input, input, input, input, input, input], \"article\": [input, input]} if some a in input.study.columns", "", CodeShape},
	{"the question many times", "deny contains {\"code\": [a, b, c], \"message\": [input, input, input, input]} if {\n\tsome a in input.study.columns\n\tsome b in input.study.columns\n\tsome c in input.study.columns\n}", "", CodeShape},
	{"a denial of another form", `deny contains 7`, "", CodeError},
	{"two values", "row_include := true if input.now > 1\n\nrow_include := false if input.now > 2", "row_include", ""},
	{"allowing", "allow := true\n\nreasons := set()", "nothing uses the rule allow", ""},
	{"another package", "import data.consilium.law", "an overlay imports", ""},
	{"other rules' names", "deny contains x if some x in data.consilium.decision.reasons", "an overlay reads", ""},
	{"helpers that multiply", multiply(12, 8), "", ""},
}

// doubling writes forty rules of which each holds the one before twice.
func doubling(form string) string {
	var b strings.Builder
	b.WriteString("a0 := [1]\n\n")
	for i := 1; i < 40; i++ {
		fmt.Fprintf(&b, form+"\n\n", i, i-1, i-1)
	}
	b.WriteString("deny contains {\"code\": a39}\n")
	return b.String()
}

func locals() string {
	var b strings.Builder
	for i := 1; i <= 30; i++ {
		fmt.Fprintf(&b, "\tv%d := [v%d, v%d]\n", i, i-1, i-1)
	}
	return b.String()
}

// product is n loops over the declared columns, each with another name.
func product(n int) string {
	var parts []string
	for i := range n {
		parts = append(parts, fmt.Sprintf("some a%d in input.study.columns", i))
	}
	return strings.Join(parts, "; ")
}

// multiply is a row rule over helpers of several bodies each: inlined, it is
// bodies^helpers conjunctions.
func multiply(helpers, bodies int) string {
	var b strings.Builder
	b.WriteString("row_include if {\n")
	for i := range helpers {
		fmt.Fprintf(&b, "\th%d\n", i)
	}
	b.WriteString("}\n\n")
	for i := range helpers {
		for j := range bodies {
			fmt.Fprintf(&b, "h%d if input.record.valid_from != %d\n\n", i, i*100+j)
		}
	}
	return b.String()
}

// TestHostilePolicies runs in a process that may use 2 GiB and 120 seconds of
// processor time and no more: a policy that takes more kills it, and the test
// fails.
func TestHostilePolicies(t *testing.T) {
	const marker = "CONSILIUM_HOSTILE"
	if os.Getenv(marker) == "" {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestHostilePolicies$", "-test.v")
		cmd.Env = append(os.Environ(), marker+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		} else if strings.Count(string(out), "--- PASS: TestHostilePolicies/") != len(hostile) {
			t.Fatalf("not every policy was tried:\n%s", out)
		}
		return
	}
	for what, limit := range map[int]uint64{syscall.RLIMIT_DATA: 2 << 30, syscall.RLIMIT_CPU: 120} {
		if err := syscall.Setrlimit(what, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
			t.Fatal(err)
		}
	}
	in := testInput(t, "utah", func(s *consilium.Spec) {
		for i := range 30 {
			c := s.Columns[2]
			c.Name = fmt.Sprintf("more%d", i)
			s.Columns = append(s.Columns, c)
		}
		s.Legal = DefaultLegal(s)
	})
	spec, _ := testSpec(t, nil)
	rows := SubjectRecord([]Subject{DefaultSubject([16]byte{1}, spec, testNow)})
	for _, c := range hostile {
		t.Run(c.name, func(t *testing.T) {
			src := "package consilium.board.x\n\nimport rego.v2\n\n" + c.rules + "\n"
			e, err := CompileLimited(overlay(src), 2*time.Second)
			if c.says != "" {
				if err == nil || !errors.Is(err, consilium.ErrPolicy) || !strings.Contains(err.Error(), c.says) {
					t.Fatalf("compiled, or refused with %v", err)
				}
				return
			}
			if err != nil {
				t.Logf("refused: %.200v", err)
				return
			}
			d, err := e.Decide(t.Context(), PointSite, in)
			if err != nil {
				t.Fatal(err)
			}
			out, err := e.FilterRows(t.Context(), in, rows)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s %s %s", d.Code(), out.Decision.Code(), out.Path)
			// Which limit is met first depends on how busy the machine is.
			if c.codes != "" && !isFailure(d) && !isFailure(out.Decision) {
				t.Errorf("decided %q and %q, want %s\n%s", d.Code(), out.Decision.Code(), c.codes, Explain(d))
			}
			// Whatever it did, the core's denials stand.
			bad := in
			study := *in.Study
			study.Purpose.Class = "insurance"
			bad.Study = &study
			if d, err := e.Decide(t.Context(), PointSite, bad); err != nil || d.Allow {
				t.Errorf("the core's denial is gone: %v", err)
			}
		})
	}
}
