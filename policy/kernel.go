package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A row rule as column kernels. A plan is a graph of and, or and literals over
// the columns of a table; it has no other way to say "not" than literals, so
// every node can be read as "certainly true" and a null makes every literal
// about its cell, positive or negated, false. That is Kleene's logic: negation is
// pushed down to the literals, where a null stays unknown, and what is not
// certainly true leaves the row out.
//
// If this went wrong: a literal true on a null lets rows in that nobody
// decided about. The gate compares every plan with OPA before it is used.

type kind uint8

const (
	kindText kind = iota
	kindList      // words, joined by blanks in the table
	kindInt
	kindFlag
)

// column is one control column as a rule sees it.
type column struct {
	name string
	kind kind
}

type node int32

type nodeOp uint8

const (
	opTrue    nodeOp = iota
	opFalse          // never
	opAnd            // of kids
	opOr             // of kids
	opEntry          // pred of the value of a text or list column
	opFlag           // a flag column is value != 0
	opLess           // left < right
	opLessEq         // left <= right
	opEqual          // left = right
	opUnequal        // left != right
	opPresent        // a cell is not null
)

// operand of a comparison: an integer column, the moment of reading, or a
// number.
type operand struct {
	col   int // index of a column; isNow or isNumber
	value int64
}

const (
	isNow    = -1
	isNumber = -2
)

type planNode struct {
	op          nodeOp
	kids        []node
	col         int
	pred        func([]string) bool // opEntry: of the words of a list, or the one text
	key         string              // opEntry: equal keys are equal predicates
	flag        bool
	left, right operand
	not         node // the negation, once made; -1 before
}

// plan is a rule for one table. Nodes stand after their kids.
type plan struct {
	cols  []column
	nodes []planNode
	byKey map[string]node
	limit int
	words map[int][]string // that conditions speak of, by column
	every map[int]bool     // list columns with conditions on every word
}

// maxNodes bounds what a residual may grow into.
const maxNodes = 20_000

var errPlanTooLarge = fmt.Errorf("the rule grows to more than %d steps", maxNodes)

func newPlan(cols []column) *plan {
	p := &plan{cols: cols, byKey: map[string]node{}, limit: maxNodes, words: map[int][]string{}, every: map[int]bool{}}
	p.add(planNode{op: opTrue}, "T")
	p.add(planNode{op: opFalse}, "F")
	return p
}

const (
	always node = 0
	never  node = 1
)

// add returns the node with this key, made once.
func (p *plan) add(n planNode, key string) node {
	if have, ok := p.byKey[key]; ok {
		return have
	}
	n.not = -1
	id := node(len(p.nodes))
	p.nodes, p.byKey[key] = append(p.nodes, n), id
	return id
}

func (p *plan) full() bool { return len(p.nodes) > p.limit }

// all is true where every kid is; none at all is true.
func (p *plan) all(kids ...node) node { return p.join(opAnd, always, never, kids) }

// any is true where some kid is; none at all is false.
func (p *plan) any(kids ...node) node { return p.join(opOr, never, always, kids) }

func (p *plan) join(op nodeOp, neutral, absorbing node, kids []node) node {
	flat := make([]node, 0, len(kids))
	for _, k := range kids {
		switch {
		case k == absorbing:
			return absorbing
		case k == neutral:
		case p.nodes[k].op == op:
			flat = append(flat, p.nodes[k].kids...)
		default:
			flat = append(flat, k)
		}
	}
	slices.Sort(flat)
	flat = p.merge(op, slices.Compact(flat))
	switch {
	case slices.Contains(flat, absorbing):
		return absorbing
	case len(flat) == 0:
		return neutral
	case len(flat) == 1:
		return flat[0]
	}
	return p.add(planNode{op: op, kids: flat}, fmt.Sprint(op, flat))
}

// merge makes one literal of all literals about the same text or list column:
// one look-up in a dictionary answers them together.
func (p *plan) merge(op nodeOp, kids []node) []node {
	byCol := map[int][]node{}
	for _, k := range kids {
		if n := &p.nodes[k]; n.op == opEntry {
			byCol[n.col] = append(byCol[n.col], k)
		}
	}
	out := kids[:0:0]
	for _, k := range kids {
		n := &p.nodes[k]
		group := byCol[n.col]
		if n.op != opEntry || len(group) < 2 {
			out = append(out, k)
			continue
		}
		if group[0] != k {
			continue // stands with the first of its group
		}
		preds, keys := make([]func([]string) bool, len(group)), make([]string, len(group))
		for i, g := range group {
			preds[i], keys[i] = p.nodes[g].pred, p.nodes[g].key
		}
		word, want := " and ", false
		if op == opOr {
			word, want = " or ", true
		}
		out = append(out, p.entry(n.col, "("+strings.Join(keys, word)+")", func(v []string) bool {
			for _, f := range preds {
				if f(v) == want {
					return want
				}
			}
			return !want
		}))
	}
	return out
}

// entry is a literal about one value of a text or list column.
func (p *plan) entry(col int, key string, pred func([]string) bool) node {
	return p.add(planNode{op: opEntry, col: col, pred: pred, key: key}, fmt.Sprintf("E%d %s", col, key))
}

func (p *plan) flag(col int, want bool) node {
	return p.add(planNode{op: opFlag, col: col, flag: want}, fmt.Sprintf("B%d %t", col, want))
}

func (p *plan) present(col int) node {
	return p.add(planNode{op: opPresent, col: col}, fmt.Sprintf("P%d", col))
}

// compare is a literal about integers. Two numbers are compared at once.
func (p *plan) compare(op nodeOp, left, right operand) node {
	if left.col == isNumber && right.col == isNumber {
		if compared(op, left.value, right.value) {
			return always
		}
		return never
	}
	return p.add(planNode{op: op, col: -1, left: left, right: right}, fmt.Sprintf("C%d %v %v", op, left, right))
}

func compared(op nodeOp, a, b int64) bool {
	switch op {
	case opLess:
		return a < b
	case opLessEq:
		return a <= b
	case opEqual:
		return a == b
	}
	return a != b
}

// not is true where n is certainly false.
func (p *plan) not(n node) node {
	if have := p.nodes[n].not; have >= 0 {
		return have
	}
	m := p.nodes[n]
	var out node
	switch m.op {
	case opTrue:
		out = never
	case opFalse:
		out = always
	case opPresent:
		out = never // a missing cell makes nothing true
	case opAnd, opOr:
		kids := make([]node, len(m.kids))
		for i, k := range m.kids {
			kids[i] = p.not(k)
		}
		if m.op == opAnd {
			out = p.any(kids...)
		} else {
			out = p.all(kids...)
		}
	case opEntry:
		pred := m.pred
		out = p.entry(m.col, "not "+m.key, func(v []string) bool { return !pred(v) })
	case opFlag:
		out = p.flag(m.col, !m.flag)
	case opLess:
		out = p.compare(opLessEq, m.right, m.left)
	case opLessEq:
		out = p.compare(opLess, m.right, m.left)
	case opEqual:
		out = p.compare(opUnequal, m.left, m.right)
	case opUnequal:
		out = p.compare(opEqual, m.left, m.right)
	}
	p.nodes[n].not = out
	if m.op != opPresent && p.nodes[out].not < 0 {
		p.nodes[out].not = n
	}
	return out
}

// needed lists the nodes that roots rest on, in the order of evaluation.
func (p *plan) needed(roots []node) []node {
	seen := make([]bool, len(p.nodes))
	var mark func(n node)
	mark = func(n node) {
		if !seen[n] {
			seen[n] = true
			for _, k := range p.nodes[n].kids {
				mark(k)
			}
		}
	}
	for _, r := range roots {
		mark(r)
	}
	var out []node
	for i, s := range seen {
		if s {
			out = append(out, node(i))
		}
	}
	return out
}

var errTable = errors.New("the control table has another form")
