package policy

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/open-policy-agent/opa/v1/ast"

	"consilium"
)

// The ways in which rows are decided.
const (
	PathVectorised = "vectorised" // by column kernels, compiled from what partial evaluation leaves of the rules
	PathMemoised   = "memoised"   // by OPA, once for each distinct tuple of control facts
)

// codeRowBoard is the reason of rows that a board's row rule leaves out.
const codeRowBoard = "ROW_BOARD"

// rowRule is one reason why a row may be left out, with the conditions of
// which all must hold.
type rowRule struct {
	code    string
	queries []string
}

// rowRulesFor lists the rules in force for rows at a hospital: what
// decision.rego's in_force selects, and the boards' row rules.
func (p *compiled) rowRulesFor(regimes []string) []rowRule {
	var out []rowRule
	for _, r := range p.rules {
		if slices.Contains(r.Points, PointRows) && (r.Regime == "*" || slices.Contains(regimes, r.Regime)) {
			out = append(out, rowRule{r.Code, []string{fmt.Sprintf("data.consilium.law.ok[%q] = true", r.Code)}})
		}
	}
	slices.SortFunc(out, func(a, b rowRule) int { return p.order[a.code] - p.order[b.code] })
	if len(p.rowRules) > 0 {
		b := rowRule{code: codeRowBoard}
		for _, id := range p.rowRules {
			b.queries = append(b.queries, fmt.Sprintf("data.consilium.board[%q].row_include = true", id))
		}
		out = append(out, b)
	}
	return out
}

// rowProgram is the row rules of one study at one hospital, evaluated as far
// as they go without a row and compiled to kernels.
type rowProgram struct {
	rules []rowRule
	plan  *plan
	roots []node           // by rule; later for the rules that need the moment
	later []int            // rules whose residual is small only when the moment is known
	well  node             // every cell holds a value that rules know
	full  node             // no cell is null
	words map[int][]string // that the program is made for

	mu     sync.Mutex // guards the rest
	now    int64
	moment *plan // of later, for now
	at     []node
	tried  bool // moment has passed the gate
}

// control is the control table's columns as rules see them.
var control = sync.OnceValue(func() []column {
	var out []column
	for _, c := range cells() {
		k := kindFlag
		switch {
		case c.text != nil:
			k = kindText
		case c.list != nil:
			k = kindList
		case c.time != nil:
			k = kindInt
		}
		out = append(out, column{c.name, k})
	}
	return out
})

// compileRows makes the program of a question: its document without record
// and moment. A rule that does not compile is an error that isNotCompiled tells
// apart.
func (p *compiled) compileRows(ctx context.Context, known map[string]any, words map[int][]string) (*rowProgram, error) {
	rp := &rowProgram{words: words, rules: p.rowRulesFor(regimesOf(known)), plan: newPlan(control())}
	input, err := ast.InterfaceToValue(known)
	if err != nil {
		return nil, err
	}
	for i, r := range rp.rules {
		n, err := p.compileRule(ctx, rp.plan, r, input, false, words)
		if isNotCompiled(err) {
			// The rules about recipients look at when assessments hold and become
			// small once that is known.
			rp.later, n = append(rp.later, i), never
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.code, err)
		}
		rp.roots = append(rp.roots, n)
	}
	rp.full, rp.well = rp.plan.wellFormed()
	return rp, nil
}

func regimesOf(known map[string]any) []string {
	site, _ := known["site"].(map[string]any)
	list, _ := site["regimes"].([]any)
	var out []string
	for _, r := range list {
		if s, ok := r.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// compileRule adds the conditions of one rule to a plan. now: the moment is in
// the input.
func (p *compiled) compileRule(ctx context.Context, to *plan, r rowRule, input ast.Value, now bool, words map[int][]string) (node, error) {
	var all []node
	for _, q := range r.queries {
		pq, err := partially(ctx, p.compiler, p.storage, q, input, now)
		if err != nil {
			if ctx.Err() != nil {
				return never, ctx.Err()
			}
			return never, refuse(nil, "%s: %s", r.code, firstLine(err))
		}
		n, err := translate(to, pq, &asking{ctx, p.compiler, p.storage, input, now, words})
		if err != nil {
			return never, err
		}
		all = append(all, n)
	}
	return to.all(all...), nil
}

// wellFormed says of a row that no cell is null, and that every cell holds a
// value that Subject.record accepts.
func (p *plan) wellFormed() (full, well node) {
	var present, known []node
	for i, c := range cells() {
		present = append(present, p.present(i))
		switch {
		case c.text != nil, c.list != nil:
			known = append(known, p.entry(i, "known", func(v []string) bool {
				s := unknownSubject()
				if c.list != nil {
					*c.list(&s) = v
				} else {
					*c.text(&s) = v[0]
				}
				_, code := s.record()
				return code == ""
			}))
		case c.time != nil:
			known = append(known, p.compare(opLessEq, operand{col: isNumber, value: -Never}, operand{col: i}),
				p.compare(opLessEq, operand{col: i}, operand{col: isNumber, value: Never}))
		}
	}
	return p.all(present...), p.all(known...)
}

// unknownSubject fits the schema and stands for no patient.
func unknownSubject() Subject { return Subject{Status: "none", GivenBy: "none"} }

// bound is a program at one moment: for each rule, where its answer stands.
type bound struct {
	plans []*plan
	roots [][]node
	rule  [][2]int // by rule: plan and root
	words map[int][]string
	tried bool // nothing of it is used before it was tried beside OPA
}

// bind completes a program with the rules that need the moment. What was compiled
// for a moment has to pass the gate before it decides anything.
func (rp *rowProgram) bind(ctx context.Context, p *compiled, known map[string]any, now int64) (*bound, error) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	if len(rp.later) > 0 && (rp.moment == nil || rp.now != now) {
		input, err := ast.InterfaceToValue(withNow(known, now))
		if err != nil {
			return nil, err
		}
		moment, at := newPlan(control()), []node{}
		for _, i := range rp.later {
			n, err := p.compileRule(ctx, moment, rp.rules[i], input, true, rp.words)
			if err != nil {
				return nil, err
			}
			at = append(at, n)
		}
		rp.moment, rp.at, rp.now, rp.tried = moment, at, now, false
	}
	return rp.bound(), nil
}

// boundAt is the program bound to a moment, if it is and has passed the gate.
func (rp *rowProgram) boundAt(now int64) *bound {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	if !rp.tried || len(rp.later) > 0 && rp.now != now {
		return nil
	}
	return rp.bound()
}

// bound lists where the rules' answers stand. The caller holds mu.
func (rp *rowProgram) bound() *bound {
	b := &bound{words: rp.words, plans: []*plan{rp.plan}, roots: [][]node{append(slices.Clone(rp.roots), rp.full, rp.well)}, tried: rp.tried}
	next := 0
	for i := range rp.rules {
		if j := slices.Index(rp.later, i); j >= 0 {
			b.rule = append(b.rule, [2]int{1, j})
			continue
		}
		b.rule = append(b.rule, [2]int{0, next})
		next++
	}
	if len(rp.later) > 0 {
		b.plans, b.roots = append(b.plans, rp.moment), append(b.roots, rp.at)
	}
	return b
}

// passed notes that a program has passed the gate as it is bound now.
func (rp *rowProgram) passed(b *bound) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	rp.tried = len(rp.later) == 0 || rp.moment == b.plans[1]
}

func withNow(known map[string]any, now int64) map[string]any {
	out := make(map[string]any, len(known)+1)
	for k, v := range known {
		out[k] = v
	}
	out["now"] = now
	return out
}

// answers are a program's bits for a table.
type answers struct {
	full, well bitset
	ok         []bitset // by rule
}

func (b *bound) run(cols []arrow.Array, n int, now int64) (*answers, error) {
	var parts [][]bitset
	for i, p := range b.plans {
		bits, err := p.run(cols, n, now, b.roots[i])
		if err != nil {
			return nil, err
		}
		parts = append(parts, bits)
	}
	last := len(parts[0])
	out := &answers{full: parts[0][last-2], well: parts[0][last-1]}
	for _, at := range b.rule {
		out.ok = append(out.ok, parts[at[0]][at[1]])
	}
	return out, nil
}

// maxPrograms is how many studies' programs an engine remembers.
const maxPrograms = 256

// programs remembers what a policy's row rules became for each study.
type programs struct {
	mu   sync.Mutex
	list map[consilium.Digest]*rowOutcome
}

// rowOutcome is a program, or why there is none.
type rowOutcome struct {
	program *rowProgram
	words   map[int][]string // that it was made for
	every   map[int]bool     // columns where that matters; nil: everywhere
	why     string           // not compiled: memoised instead
	bad     error            // the gate found rows that the program lets in and OPA does not
}

func (c *programs) find(key consilium.Digest) *rowOutcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.list[key]
}

func (c *programs) keep(key consilium.Digest, o *rowOutcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.list == nil || len(c.list) >= maxPrograms {
		c.list = map[consilium.Digest]*rowOutcome{}
	}
	c.list[key] = o
}
