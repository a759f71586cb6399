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
	doc, _, _ := p.document(PointRows, in)
	if _, err := p.program(t.Context(), in, withoutRow(doc), trialWords()); err != nil {
		t.Fatal(err)
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
