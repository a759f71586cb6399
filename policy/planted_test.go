package policy

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
)

// plantedRules is an overlay in which every condition decides about some rows.
const plantedRules = `package consilium.board.x

import rego.v2

row_include if {
	input.record.status in {"active", "none"}
	not excluded
	timely
	covered
}

excluded if input.record.objected

excluded if input.record.given_by == "representative"

timely if {
	input.record.valid_from <= input.now
	input.now < input.record.valid_to
}

timely if input.record.withdrawn_at == input.now

covered if {
	"general" in input.record.categories
	not "mental" in input.record.categories
}

covered if startswith(input.record.area, "MONDO:0018")
`

// TestPlantedOverGrants breaks the compiler's work in every way that one step
// allows, and the kernels in the ways that kernels go wrong. The gate catches each.
func TestPlantedOverGrants(t *testing.T) {
	e, err := Compile(overlay(plantedRules).With("board/x/rules.rego", []byte(plantedRules)))
	if err != nil {
		t.Fatal(err)
	}
	p := e.p.Load()
	known, now, err := p.trialQuestion()
	if err != nil {
		t.Fatal(err)
	}
	rp, err := p.compileRows(t.Context(), known, trialWords())
	if err != nil {
		t.Fatal(err)
	}
	b, err := rp.bind(t.Context(), p, known, now)
	if err != nil {
		t.Fatal(err)
	}
	base, err := newBase(withNow(known, now))
	if err != nil {
		t.Fatal(err)
	}
	board := len(rp.rules) - 1
	if rp.rules[board].code != codeRowBoard || b.rule[board][0] != 0 {
		t.Fatal("the board's rule is not compiled")
	}
	gate := func(b *bound, run runner) error {
		return gateTable(rp.rules, b, run, now, bundleGate, p.askBoards(t.Context(), base), func(code string) bool { return code == codeRowBoard })
	}
	if err := gate(b, b.run); err != nil {
		t.Fatal(err)
	}
	root := b.roots[0][b.rule[board][1]]
	tried, over := 0, 0
	plant := func(what string, n node, change func(*planNode)) {
		t.Helper()
		broken := *b
		q := *rp.plan
		q.nodes = slices.Clone(q.nodes)
		q.nodes[n].kids = slices.Clone(q.nodes[n].kids)
		change(&q.nodes[n])
		broken.plans = append([]*plan{&q}, b.plans[1:]...)
		err := gate(&broken, broken.run)
		var o *overGrant
		switch tried++; {
		case err == nil:
			t.Errorf("%s at step %d %+v is not caught", what, n, rp.plan.nodes[n])
		case errors.As(err, &o):
			over++
		}
	}
	// The nulls that literals leave out are left out by opPresent again, so
	// breaking that alone changes nothing; both together are planted below.
	for _, n := range rp.plan.needed([]node{root}) {
		m := rp.plan.nodes[n]
		if m.op != opPresent {
			plant("always true", n, func(x *planNode) { *x = planNode{op: opTrue} })
			plant("never true", n, func(x *planNode) { *x = planNode{op: opFalse} })
		}
		switch m.op {
		case opAnd, opOr:
			for i, k := range m.kids {
				if rp.plan.nodes[k].op == opPresent {
					continue
				}
				plant("one part forgotten", n, func(x *planNode) { x.kids = slices.Delete(x.kids, i, i+1) })
			}
			plant("and for or", n, func(x *planNode) { x.op = opAnd + opOr - x.op })
		case opFlag:
			plant("flag turned", n, func(x *planNode) { x.flag = !x.flag })
		case opEntry:
			plant("look-up turned", n, func(x *planNode) { f := x.pred; x.pred = func(v []string) bool { return !f(v) } })
		case opLess, opLessEq:
			plant("sides exchanged", n, func(x *planNode) { x.left, x.right = x.right, x.left })
			plant("< for <=", n, func(x *planNode) { x.op = opLess + opLessEq - x.op })
		case opEqual:
			plant("!= for ==", n, func(x *planNode) { x.op = opUnequal })
			plant("<= for ==", n, func(x *planNode) { x.op = opLessEq })
		}
	}
	for what, run := range map[string]runner{
		"nulls read as what lies behind them": func(cols []arrow.Array, n int, now int64) (*answers, error) {
			a, err := b.run(unmasked(cols), n, now)
			return a, err
		},
		"offset forgotten": func(cols []arrow.Array, n int, now int64) (*answers, error) {
			moved := slices.Clone(cols)
			for i, c := range cols {
				moved[i] = fromStart(c, n)
			}
			return b.run(moved, n, now)
		},
		"another moment": func(cols []arrow.Array, n int, now int64) (*answers, error) { return b.run(cols, n, now-2) },
		"the last rows left as they were": func(cols []arrow.Array, n int, now int64) (*answers, error) {
			a, err := b.run(cols, n, now)
			if err == nil {
				a.ok[board][len(a.ok[board])-1] = ^uint64(0)
			}
			return a, err
		},
		"one row too many": func(cols []arrow.Array, n int, now int64) (*answers, error) {
			a, err := b.run(cols, n, now)
			if err == nil {
				for i := range n {
					if !a.ok[board].get(i) {
						a.ok[board][i/64] |= 1 << (i % 64)
						break
					}
				}
			}
			return a, err
		},
	} {
		if err := gate(b, run); err == nil {
			t.Errorf("%s: not caught", what)
		} else if o := (*overGrant)(nil); errors.As(err, &o) {
			over++
		}
		tried++
	}
	t.Logf("%d faults planted, %d of them over-grant", tried, over)
	if over < 20 {
		t.Errorf("%d of %d planted faults over-grant: the test shows little", over, tried)
	}
	// A program that the gate refused decides nothing.
	in := testInput(t, "utah", nil)
	bad := &rowOutcome{bad: &overGrant{codeRowBoard, 1}}
	in.Record = nobody()
	q, _ := p.pose(PointRows, in)
	if _, denied, err := p.program(t.Context(), &rowQuestion{posed: q}, trialWords()); denied != nil || err != nil {
		t.Fatal(denied, err)
	}
	for k := range maps.Clone(p.programs.list) {
		p.programs.list[k] = bad
	}
	spec, _ := testSpec(t, nil)
	out, err := e.FilterRows(t.Context(), in, SubjectRecord([]Subject{DefaultSubject([16]byte{1}, spec, testNow)}))
	if err != nil || out.Decision.Code() != CodeError || out.Count() != 0 || !strings.Contains(out.Decision.Reasons[0].Message, "the bundle is refused") {
		t.Errorf("%v %+v", err, out)
	}
}

// unmasked is what a kernel sees that does not look at validity.
func unmasked(cols []arrow.Array) []arrow.Array {
	out := slices.Clone(cols)
	for i, c := range cols {
		if d, ok := c.(*array.Dictionary); ok {
			out[i] = array.NewDictionaryArray(d.DataType(), unmasked([]arrow.Array{d.Indices()})[0], d.Dictionary())
			continue
		}
		d := c.Data()
		out[i] = array.MakeFromData(array.NewData(d.DataType(), d.Len(), append([]*memory.Buffer{nil}, d.Buffers()[1:]...), nil, 0, d.Offset()))
	}
	return out
}

// fromStart is a slice whose offset was forgotten.
func fromStart(c arrow.Array, n int) arrow.Array {
	if d, ok := c.(*array.Dictionary); ok {
		return array.NewDictionaryArray(d.DataType(), fromStart(d.Indices(), n), d.Dictionary())
	}
	d := c.Data()
	return array.MakeFromData(array.NewData(d.DataType(), n, d.Buffers(), nil, array.UnknownNullCount, 0))
}

// TestLaterMoments: rules that are compiled for a moment are tried beside OPA at
// each moment before they decide, not at the first alone.
func TestLaterMoments(t *testing.T) {
	e, err := Compile(DemoBundle())
	if err != nil {
		t.Fatal(err)
	}
	p := e.p.Load()
	known, now, err := p.trialQuestion()
	if err != nil {
		t.Fatal(err)
	}
	o, err := p.makeProgram(t.Context(), known, now, studyGate, nil)
	if err != nil || o.program == nil {
		t.Fatalf("%v, %+v", err, o)
	}
	rp := o.program
	if len(rp.later) == 0 {
		t.Fatal("no rule needs the moment: the test shows nothing")
	}
	at := func(now int64) *rowQuestion {
		return &rowQuestion{posed: posed{point: PointRows, now: now}, doc: withNow(known, now)}
	}
	if b, err := rp.bind(t.Context(), p, known, now); err != nil || !b.tried {
		t.Errorf("the first moment was not tried: %v", err)
	}
	b, err := rp.bind(t.Context(), p, known, now+3600)
	if err != nil {
		t.Fatal(err)
	}
	if b.tried {
		t.Fatal("what was compiled for another moment decides untried")
	}
	if b, why, bad := p.ready(t.Context(), rp, at(now+3600)); b == nil || bad != nil {
		t.Fatalf("%v, %s", bad, why)
	}
	if b, err := rp.bind(t.Context(), p, known, now+3600); err != nil || !b.tried {
		t.Errorf("a moment that was tried is tried again: %v", err)
	}
	// The compiler goes wrong at the next moment, for one of its rules.
	caught := 0
	for i := range rp.later {
		if _, err := rp.bind(t.Context(), p, known, now+7200); err != nil {
			t.Fatal(err)
		}
		broken := *rp.moment
		broken.nodes = slices.Clone(broken.nodes)
		broken.nodes[rp.at[i]] = planNode{op: opTrue}
		rp.moment, rp.tried = &broken, false
		b, _, bad := p.ready(t.Context(), rp, at(now+7200))
		var over *overGrant
		if b == nil && errors.As(bad, &over) {
			caught++
		} else {
			t.Logf("%s lets every generated row in anyway", rp.rules[rp.later[i]].code)
		}
		rp.moment = nil
	}
	if caught == 0 {
		t.Error("nothing that is wrong at a later moment is caught")
	}
}

// TestGateNeedsRows: rules that fail on nearly every generated row were not
// compared, and a reason that the program has no rule for is an over-grant.
func TestGateNeedsRows(t *testing.T) {
	e, err := Compile(DemoBundle())
	if err != nil {
		t.Fatal(err)
	}
	p := e.p.Load()
	known, now, err := p.trialQuestion()
	if err != nil {
		t.Fatal(err)
	}
	rp, err := p.compileRows(t.Context(), known, trialWords())
	if err != nil {
		t.Fatal(err)
	}
	b, err := rp.bind(t.Context(), p, known, now)
	if err != nil {
		t.Fatal(err)
	}
	all := func(string) bool { return true }
	fails := func(record map[string]any) ([]string, error, error) {
		for _, v := range record {
			if v == nil {
				return nil, errors.New("no"), nil
			}
		}
		return []string{"NOT_A_RULE"}, nil, nil
	}
	var over *overGrant
	if err := gateTable(rp.rules, b, b.run, now, 40, fails, all); !errors.As(err, &over) || over.code != "NOT_A_RULE" {
		t.Errorf("a reason without a rule: %v", err)
	}
	// No row can be asked about at all.
	none := func(rows int) error {
		return gateTable(rp.rules, b, b.run, now, rows, func(record map[string]any) ([]string, error, error) {
			record["status"] = nil
			return nil, nil, errors.New("never")
		}, all)
	}
	if err := none(40); err == nil {
		t.Error("a gate that compared nothing passes")
	}
}
