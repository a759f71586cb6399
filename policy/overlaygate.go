package policy

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
)

// tryRows asks every board's row rule about generated patients, once with
// their times and once with the times reduced to before, at and after the
// moment of reading, which is how FilterRows asks. A rule that answers
// differently compares times with something else, and its answer for one
// patient would be used for another; such a bundle is refused.
func (p *compiled) tryRows() error {
	if len(p.rowRules) == 0 {
		return nil
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 120 {
		now := int64(1_500_000_000) + rng.Int64N(600_000_000)
		r := generate(rng, now)
		raw, err := p.boardRow(now, r)
		if err != nil {
			return err
		}
		reduced, err := p.boardRow(now, r.at(now))
		if err != nil {
			return err
		}
		for _, id := range p.rowRules {
			if raw[id] != reduced[id] {
				return fmt.Errorf("board/%s: row_include depends on more of a time than its order against input.now (generated patient %d): compare times with input.now only", id, i)
			}
		}
	}
	return nil
}

func (p *compiled) boardRow(now int64, r Record) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), p.timeout)
	defer cancel()
	b, err := newBase(map[string]any{"point": "rows", "now": now})
	if err != nil {
		return nil, err
	}
	v, err := b.with(r)
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, id := range p.rowRules {
		q, ok := p.rowQueries[id]
		if !ok {
			return nil, fmt.Errorf("board/%s: no row rule", id)
		}
		rs, err := recovering(func() (rego.ResultSet, error) { return q.Eval(ctx, rego.EvalParsedInput(v)) })
		if err != nil {
			return nil, fmt.Errorf("board/%s: row_include: %s", id, firstLine(err))
		}
		out[id] = len(rs) == 1 && len(rs[0].Expressions) == 1 && rs[0].Expressions[0].Value == true
	}
	return out, nil
}

// prepareRows prepares a query for each board's row rule.
func (p *compiled) prepareRows(c *ast.Compiler, store map[string]any) error {
	p.rowQueries = map[string]rego.PreparedEvalQuery{}
	for _, id := range p.rowRules {
		q, err := prepare(fmt.Sprintf("data.consilium.board[%q].row_include", id), c, store)
		if err != nil {
			return err
		}
		p.rowQueries[id] = q
	}
	return nil
}

// generate makes an arbitrary record with times near and far from now.
func generate(rng *rand.Rand, now int64) Record {
	when := func() int64 {
		switch rng.IntN(6) {
		case 0:
			return now
		case 1:
			return Never
		case 2:
			return 0
		case 3:
			return rng.Int64N(4_000_000_000)
		case 4:
			return now - 1 - rng.Int64N(1000)
		default:
			return now + 1 + rng.Int64N(1000)
		}
	}
	flag := func() bool { return rng.IntN(2) == 0 }
	pick := func(s ...string) string { return s[rng.IntN(len(s))] }
	some := func(s ...string) []string {
		out := []string{}
		for _, x := range s {
			if flag() {
				out = append(out, x)
			}
		}
		return out
	}
	return Record{
		Status: pick("none", "active", "active", "withdrawn"), Explicit: flag(), Evidence: flag(),
		Categories: some("general", "genetic", "mental"), Purposes: some("DUO:0000004", "DUO:0000006", "DUO:0000007", "DUO:0000042", "DUO:0000045"),
		Area: pick("", "any", "MONDO:0018305", "MONDO:0003778"), ValidFrom: when(), ValidTo: when(), WithdrawnAt: when(), Objected: flag(),
		GivenBy: pick("none", "self", "self", "parent", "representative"), IsAdultNow: flag(), Deceased: flag(), MNObjected: flag(), Part2: flag(),
		Psychotherapy: flag(), CitizenOrLPR: flag(), WGBOObjected: flag(), HRAGeneral: flag(), HRAGenetic: flag(), HRAProject: flag(),
		HRAInformed: flag(), HRADissent: flag(), Part2Consent: flag(), NHSOptOut: flag(), OptedOutAt: when(),
	}
}
