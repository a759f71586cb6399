package policy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/open-policy-agent/opa/v1/rego"

	"consilium"
)

// Rows that a program is tried on: when a bundle is loaded, on an invented
// study under every regime; and again for each study that is compiled, since what
// is known of a study decides what is left of the rules.
const (
	bundleGate = 1000
	studyGate  = 320
	// gateTime bounds the trial of a bundle. It takes a fraction of a second;
	// the margin is for rules that take long on every row.
	gateTime = 20 * time.Second
)

// overGrant says that kernels let a row in that OPA leaves out.
type overGrant struct {
	code string
	row  int
}

func (e *overGrant) Error() string {
	return fmt.Sprintf("%s: the compiled rule lets generated row %d in, which the rule as written leaves out: the bundle is refused", e.code, e.row)
}

// asker answers about one record as the rules are written: the codes of the
// rules that leave it out, or why the rules fail.
type asker func(record map[string]any) (missing []string, failure, err error)

// gate compares a program with OPA on generated rows: whole ones, some with a
// null, at an offset in their table. One row that the program lets in and OPA
// leaves out, under any rule, is an *overGrant; a whole row that the program
// leaves out and OPA lets in is an error too. All rules are asked about one row
// in ten, the boards' row rules, which are the only ones not tested with this
// software, about every row.
func (p *compiled) gate(ctx context.Context, rp *rowProgram, b *bound, known map[string]any, now int64, rows int) error {
	base, err := newBase(withNow(known, now))
	if err != nil {
		return err
	}
	whole := func(record map[string]any) ([]string, error, error) {
		d, err := p.row(ctx, base, record)
		if err != nil || !isFailure(d) {
			return codesOf(d), nil, err
		}
		return nil, errors.New(d.Reasons[0].String()), nil
	}
	if err := gateTable(rp.rules, b, b.run, now, max(rows/10, 16), whole, func(string) bool { return true }); err != nil || len(p.rowRules) == 0 {
		return err
	}
	return gateTable(rp.rules, b, b.run, now, rows, p.askBoards(ctx, base), func(code string) bool { return code == codeRowBoard })
}

// askBoards asks the boards' row rules alone.
func (p *compiled) askBoards(ctx context.Context, base base) asker {
	return func(record map[string]any) ([]string, error, error) {
		v, err := base.with(record)
		if err != nil {
			return nil, nil, err
		}
		for _, q := range p.rowQueries {
			var rs rego.ResultSet
			err := metered(ctx, p.timeout, func(ctx context.Context, limits ...rego.EvalOption) error {
				var err error
				rs, err = q.Eval(ctx, append(limits, rego.EvalParsedInput(v))...)
				return err
			})
			if ctx.Err() != nil {
				return nil, nil, ctx.Err()
			}
			if err != nil {
				return nil, fmt.Errorf("row_include: %s", firstLine(err)), nil
			}
			if len(rs) != 1 || len(rs[0].Expressions) != 1 || rs[0].Expressions[0].Value != true {
				return []string{codeRowBoard}, nil, nil
			}
		}
		return nil, nil, nil
	}
}

// generated asks about rows near and far from those that most rules accept.
func generated(now int64, rows int, consts constants, ask asker) ([]gateRow, error) {
	rng := rand.New(rand.NewPCG(uint64(now), uint64(rows)))
	var asked []gateRow
	var best gateRow
	for tries := 0; len(asked) < rows && tries < 8*rows; tries++ {
		g := newGateRow(rng, now)
		if best.record != nil && rng.IntN(4) > 0 {
			// There single conditions decide.
			g = best.near(rng, consts)
		}
		r, code := g.subject.record()
		if code != "" {
			continue
		}
		g.record, g.null = r.value(), -1
		if rng.IntN(5) == 0 {
			g.null = rng.IntN(len(cells()))
			g.record[cells()[g.null].name] = nil
		}
		missing, failure, err := ask(g.record)
		if err != nil {
			return nil, err
		}
		if failure != nil {
			if g.null >= 0 {
				continue // no rule is asked about a null
			}
			return nil, fmt.Errorf("generated row %d: %w", len(asked), failure)
		}
		g.missing = missing
		if g.null < 0 && (best.record == nil || len(missing) < len(best.missing) || len(missing) == len(best.missing) && rng.IntN(2) == 0) {
			best = g
		}
		asked = append(asked, g)
	}
	return asked, nil
}

// runner decides a table: bound.run.
type runner func(cols []arrow.Array, n int, now int64) (*answers, error)

func gateTable(rules []rowRule, b *bound, run runner, now int64, rows int, ask asker, compared func(string) bool) error {
	asked, err := generated(now, rows, constantsOf(b.plans, b.words, now), ask)
	if err != nil {
		return err
	}
	if len(asked) < (rows+1)/2 {
		return fmt.Errorf("the rules failed on so many generated rows that only %d of %d could be compared", len(asked), rows)
	}
	table := gateRecord(asked, rand.New(rand.NewPCG(uint64(rows), 1)))
	got, err := run(table.Columns()[1:], len(asked), now)
	if err != nil {
		return err
	}
	for i, g := range asked {
		if full := got.full.get(i); full != (g.null < 0) || full && !got.well.get(i) {
			return &overGrant{CodeRowNull, i}
		}
		// A reason that the program has no rule for.
		for _, code := range g.missing {
			if compared(code) && !slices.ContainsFunc(rules, func(r rowRule) bool { return r.code == code }) {
				return &overGrant{code, i}
			}
		}
		for j, r := range rules {
			if !compared(r.code) {
				continue
			}
			missing := slices.Contains(g.missing, r.code)
			switch ok := got.ok[j].get(i); {
			case ok && missing:
				return &overGrant{r.code, i}
			case !ok && !missing && g.null < 0:
				return fmt.Errorf("%s: the compiled rule leaves generated row %d out, which the rule as written lets in", r.code, i)
			}
		}
	}
	return nil
}

// gateRow is a generated row with OPA's answer.
type gateRow struct {
	subject Subject
	record  map[string]any
	null    int // index of the cell that is null, or -1
	missing []string
}

func newGateRow(rng *rand.Rand, now int64) gateRow {
	return gateRow{subject: subjectOf(generate(rng, now))}
}

// subjectOf is the subject that a record is read from.
func subjectOf(r Record) Subject {
	s := unknownSubject()
	m := r.value()
	for _, c := range cells() {
		switch v := m[c.name].(type) {
		case string:
			*c.text(&s) = v
		case []any:
			words := []string{}
			for _, w := range v {
				words = append(words, w.(string))
			}
			*c.list(&s) = words
		case int64:
			*c.time(&s) = v
		case bool:
			*c.flag(&s) = v
		}
	}
	return s
}

// trialWords are the words of generated rows.
var trialWords = sync.OnceValue(func() map[int][]string {
	rng := rand.New(rand.NewPCG(1, 1))
	out := map[int][]string{}
	for range 200 {
		s := subjectOf(generate(rng, 0))
		for j, c := range cells() {
			if c.list != nil {
				out = union(out, map[int][]string{j: *c.list(&s)})
			}
		}
	}
	return out
})

// constants are the values that a plan's conditions turn at.
type constants struct {
	ints  []int64
	words map[int][]string // by column
}

// words is what a program is made for: about others it knows nothing.
func constantsOf(plans []*plan, words map[int][]string, now int64) constants {
	c := constants{ints: []int64{0, now, Never, -Never}, words: map[int][]string{}}
	for _, p := range plans {
		for col, of := range p.words {
			for _, w := range of {
				if _, ok := slices.BinarySearch(words[col], w); ok || !p.every[col] {
					c.words[col] = append(c.words[col], w)
				}
			}
		}
		for _, n := range p.nodes {
			if n.op < opLess || n.op > opUnequal {
				continue
			}
			for _, o := range []operand{n.left, n.right} {
				if o.col == isNumber {
					c.ints = append(c.ints, o.value)
				}
			}
		}
	}
	return c
}

// near changes one or two cells.
func (g gateRow) near(rng *rand.Rand, c constants) gateRow {
	out := gateRow{subject: g.subject}
	all := cells()
	other := newGateRow(rng, 0)
	for range 1 + rng.IntN(2) {
		at := rng.IntN(len(all))
		cell, words := all[at], c.words[at]
		switch {
		case cell.text != nil && len(words) > 0 && rng.IntN(2) == 0:
			*cell.text(&out.subject) = words[rng.IntN(len(words))]
		case cell.list != nil && len(words) > 0 && rng.IntN(2) == 0:
			l, w := slices.Clone(*cell.list(&out.subject)), words[rng.IntN(len(words))]
			if i := slices.Index(l, w); i >= 0 {
				l = slices.Delete(l, i, i+1)
			} else {
				l = append(l, w)
			}
			*cell.list(&out.subject) = l
		case cell.text != nil:
			*cell.text(&out.subject) = *cell.text(&other.subject)
		case cell.list != nil:
			*cell.list(&out.subject) = *cell.list(&other.subject)
		case cell.flag != nil:
			*cell.flag(&out.subject) = !*cell.flag(&out.subject)
		case cell.time != nil:
			t := c.ints[rng.IntN(len(c.ints))] + int64(rng.IntN(3)-1)
			*cell.time(&out.subject) = max(min(t, Never), -Never)
		}
	}
	return out
}

// gateRecord writes rows with nulls, behind other rows, with a dictionary that
// holds more than they use.
func gateRecord(rows []gateRow, rng *rand.Rand) arrow.Record {
	before := 1 + rng.IntN(70)
	subjects := make([]Subject, 0, before+len(rows))
	for range before {
		subjects = append(subjects, subjectOf(generate(rng, 1_700_000_000)))
	}
	for _, g := range rows {
		subjects = append(subjects, g.subject)
	}
	whole := SubjectRecord(subjects)
	cols := slices.Clone(whole.Columns())
	for j := range cells() {
		bitmap := make([]byte, (len(subjects)+7)/8)
		for i := range subjects {
			if i < before || rows[i-before].null != j {
				bitmap[i/8] |= 1 << (i % 8)
			}
		}
		data := cols[j+1].Data()
		buffers := slices.Clone(data.Buffers())
		buffers[0] = memory.NewBufferBytes(bitmap)
		if d, ok := cols[j+1].(*array.Dictionary); ok {
			cols[j+1] = array.NewDictionaryArray(d.DataType(), array.MakeFromData(
				array.NewData(d.Indices().DataType(), len(subjects), buffers, nil, array.UnknownNullCount, 0)), d.Dictionary())
			continue
		}
		cols[j+1] = array.MakeFromData(array.NewData(data.DataType(), len(subjects), buffers, nil, array.UnknownNullCount, 0))
	}
	return array.NewRecord(whole.Schema(), cols, int64(len(subjects))).NewSlice(int64(before), int64(len(subjects)))
}

// gateBundle tries the row rules on an invented study at a hospital under
// every regime.
func (p *compiled) gateBundle() error {
	ctx, cancel := context.WithTimeout(context.Background(), gateTime)
	defer cancel()
	known, now, err := p.trialQuestion()
	if err != nil {
		return err
	}
	rows := studyGate
	if len(p.rowRules) > 0 {
		rows = bundleGate
	}
	o, err := p.makeProgram(ctx, known, now, rows, nil)
	if err != nil || errors.Is(o.bad, context.DeadlineExceeded) {
		return fmt.Errorf("row_include: the row rules could not be tried within %s", gateTime)
	}
	if o.program != nil || o.bad != nil || len(p.rowRules) == 0 {
		return o.bad
	}
	// Rules that do not compile must at least not fail.
	base, err := newBase(withNow(known, now))
	if err != nil {
		return err
	}
	_, err = generated(now, studyGate, constantsOf(nil, nil, now), p.askBoards(ctx, base))
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("row_include: %d rows could not be tried within %s", studyGate, gateTime)
	}
	return err
}

// trialQuestion is a valid question about rows on the day of the dated law,
// with all regimes in force.
func (p *compiled) trialQuestion() (map[string]any, int64, error) {
	site, err := DefaultSite("trial")
	if err != nil {
		return nil, 0, err
	}
	bounds := [2]float64{0, 89}
	spec := &consilium.Spec{
		APIVersion: consilium.APIVersion, Kind: "Study", Name: "trial", Question: "Are rows decided as they are written?",
		Purpose: consilium.Purpose{DUO: []string{"DUO:0000007"}, Disease: "MONDO:0018305", Class: "scientific_research"},
		Data:    consilium.DataRef{Dataset: "trial", Patient: "id"}, Sites: consilium.SiteRule{Min: 3, Missing: "wait"},
		Columns: []consilium.Column{
			{Name: "id", Type: consilium.TypeID}, {Name: "age", Type: consilium.TypeInteger, Bounds: &bounds},
			{Name: "inherit", Type: consilium.TypeFlag, Category: "genetic"},
		},
		Analyses: []consilium.AnalysisSpec{{Name: "first", Type: consilium.AnalysisDescribe, Variables: []string{"age", "inherit"}}},
		Privacy:  consilium.Privacy{MinCohort: 11}, Rounds: consilium.Rounds{Max: 1, Tolerance: 1, Deadline: 60}, Seed: 1,
	}
	study := studyOf("", consilium.Digest{}, spec)
	study.Legal = DefaultLegal(spec)
	in := Input{Now: p.asOf, Study: study, Site: site, Record: nobody(), Federation: &Federation{
		Sites:        []FederationSite{{ID: "trial", Country: DefaultCountry, Operator: "trial", Regimes: DefaultRegimes()}},
		Coordinators: []FederationNode{{"c1", DefaultCountry}}, Team: FederationNode{DefaultTeam, DefaultCountry},
	}}
	doc, _, bad := p.document(PointRows, in)
	if bad != nil {
		return nil, 0, fmt.Errorf("the row rules cannot be tried: %s", bad.Reasons[0])
	}
	known := withoutRow(doc)
	known["site"].(map[string]any)["regimes"] = list(p.regimes)
	return known, in.Now, nil
}
