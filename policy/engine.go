package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"

	"consilium"
	"consilium/internal/canon"
)

// Limits of one evaluation.
const (
	// DefaultTimeout ends an evaluation. A core decision takes a few
	// milliseconds; the margin is for loaded machines, since a timeout denies.
	DefaultTimeout = 5 * time.Second
	// MaxInput bounds the canonical input of a decision, in bytes.
	MaxInput = 1 << 20
	// parallel evaluations of one engine, so that a burst of questions does
	// not multiply the memory that one may take.
	parallel = 4
)

// Rule is one line of the table of rules.
type Rule struct {
	Code    string  `json:"code"`
	Regime  string  `json:"regime"` // a regime id, or "*" for every hospital
	Points  []Point `json:"points"`
	Kind    Kind    `json:"kind"`
	Article string  `json:"article"`
	Message string  `json:"message"`
	Source  string  `json:"source"`
	Mark    string  `json:"mark"` // read, secondary, memory (unverified) or policy
}

// compiled is one immutable policy.
type compiled struct {
	bundle     Bundle
	digest     consilium.Digest
	rules      []Rule
	order      map[string]int
	regimes    []string
	boards     []string
	overlays   []string // boards with rules
	rowRules   []string // boards with row_include
	staleAt    int64    // Unix seconds from which the dated law denies
	asOf       int64
	query      rego.PreparedEvalQuery
	compiler   *ast.Compiler
	storage    storage.Store  // of store
	store      map[string]any // what the rules see as data
	timeout    time.Duration
	ordered    map[string]bool          // times of which rules see only the order against the moment
	rowQueries []rego.PreparedEvalQuery // of rowRules
	programs   programs                 // of the row rules, by study
	modules    map[string]*ast.Module   // as written
	watchOnce  sync.Once                // guards watched
	watched    *rego.PreparedEvalQuery  // query, noting what is compared with the moment; nil: see watchedQuery
	answers    answered                 // that still hold
}

// Engine answers questions under one policy at a time. It is safe for
// concurrent use; Replace swaps the policy for later questions.
type Engine struct {
	p     atomic.Pointer[compiled]
	slots chan struct{}
}

var allSchemas = sync.OnceValues(loadSchemas)

// Default is the engine of DefaultBundle: the core rules and no board.
func Default() *Engine {
	e, err := Compile(DefaultBundle())
	if err != nil {
		panic("policy: the embedded rules do not compile: " + err.Error())
	}
	return e
}

// Compile makes an engine without checking signatures. It is for boards that
// write a policy, for simulations, and for callers that compare Digest with
// one that the board has signed.
func Compile(b Bundle) (*Engine, error) { return CompileLimited(b, DefaultTimeout) }

// CompileLimited is Compile with another time limit for each evaluation.
func CompileLimited(b Bundle, timeout time.Duration) (*Engine, error) {
	p, err := compile(b, timeout)
	if err != nil {
		return nil, consilium.ErrPolicy.Withf("policy bundle %s: %w", b.Digest().Short(), err)
	}
	e := &Engine{slots: make(chan struct{}, parallel)}
	e.p.Store(p)
	return e, nil
}

// Replace verifies, compiles and swaps in another bundle. Evaluations that
// are under way end under the old one; a failure leaves the old one.
func (e *Engine) Replace(b Bundle, t Trust) error {
	if err := t.Verify(b); err != nil {
		return err
	}
	p, err := compile(b, e.p.Load().timeout)
	if err != nil {
		return consilium.ErrPolicy.Withf("policy bundle %s: %w", b.Digest().Short(), err)
	}
	e.p.Store(p)
	return nil
}

// Digest names the policy in force.
func (e *Engine) Digest() consilium.Digest { return e.p.Load().digest }

// Bundle is the policy in force.
func (e *Engine) Bundle() Bundle { return e.p.Load().bundle }

// Rules is the table of rules, in its order.
func (e *Engine) Rules() []Rule { return slices.Clone(e.p.Load().rules) }

// Regimes lists the regime ids that have rules, ascending.
func (e *Engine) Regimes() []string { return slices.Clone(e.p.Load().regimes) }

// compile makes a policy of a bundle. What makes OPA's compiler panic is no
// policy.
func compile(b Bundle, timeout time.Duration) (p *compiled, err error) {
	err = recovering(func() (err error) {
		p, err = compileBundle(b, timeout)
		return err
	})
	return p, err
}

func compileBundle(b Bundle, timeout time.Duration) (*compiled, error) {
	all, err := allSchemas()
	if err != nil {
		return nil, err
	}
	ids, err := b.boards()
	if err != nil {
		return nil, err
	}
	p := &compiled{bundle: b, digest: b.Digest(), boards: ids, timeout: timeout, order: map[string]int{}}
	store, err := p.data(all)
	if err != nil {
		return nil, err
	}
	core, board := capabilities(coreBuiltins), capabilities(boardBuiltins)
	modules := map[string]*ast.Module{}
	own, err := coreModules()
	if err != nil {
		return nil, err
	}
	for _, name := range b.Paths() {
		if !strings.HasSuffix(name, ".rego") {
			continue
		}
		m := overlayPath.FindStringSubmatch(name)
		if m == nil {
			modules[name] = own[name]
			continue
		}
		if err := lintSource(b.files[name]); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		mod, err := parse(name, b.files[name], board)
		if err != nil {
			return nil, err
		}
		if err := lintOverlay(mod, m[1]); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		// The compiler does not see through what may be null; this does.
		if bad := unknownFields(mod); len(bad) > 0 {
			return nil, fmt.Errorf("%s:%d: %s: %s", name, bad[0].Line, bad[0].Message, bad[0].Suggestion)
		}
		// Compiled alone first, with the narrower list of built-ins.
		alone, err := newCompiler(board)
		if err != nil {
			return nil, err
		}
		alone.Compile(map[string]*ast.Module{name: mod.Copy()})
		if alone.Failed() {
			return nil, withHints(alone.Errors)
		}
		if !slices.Contains(p.overlays, m[1]) {
			p.overlays = append(p.overlays, m[1])
		}
		for _, r := range mod.Rules {
			if r.Head.Ref().String() == "row_include" && !slices.Contains(p.rowRules, m[1]) {
				p.rowRules = append(p.rowRules, m[1])
			}
		}
		modules[name] = mod
	}
	store["overlays"], store["row_overlays"] = list(p.overlays), list(p.rowRules)
	c, err := newCompiler(core)
	if err != nil {
		return nil, err
	}
	c.Compile(modules)
	if c.Failed() {
		return nil, withHints(c.Errors)
	}
	p.modules = modules
	if err := p.finish(c, store); err != nil {
		return nil, err
	}
	if err := p.gateBundle(); err != nil {
		return nil, err
	}
	return p, nil
}

func parse(name string, src []byte, caps *ast.Capabilities) (*ast.Module, error) {
	m, err := ast.ParseModuleWithOpts(name, string(src), ast.ParserOptions{Capabilities: caps, RegoVersion: ast.RegoV1})
	if err == nil && m == nil {
		err = fmt.Errorf("%s is empty", name)
	}
	return m, err
}

// coreModules parses the embedded rules once. Every bundle holds exactly
// these, and the compiler works on copies.
var coreModules = sync.OnceValues(func() (map[string]*ast.Module, error) {
	out := map[string]*ast.Module{}
	b := DefaultBundle()
	for _, name := range b.Paths() {
		if !strings.HasSuffix(name, ".rego") {
			continue
		}
		var err error
		if out[name], err = parse(name, b.files[name], capabilities(coreBuiltins)); err != nil {
			return nil, err
		}
	}
	return out, nil
})

// decisionQuery is the one query that answers every point.
const decisionQuery = "data.consilium.decision.decision"

// finish prepares the queries.
func (p *compiled) finish(c *ast.Compiler, store map[string]any) error {
	p.store, p.compiler = store, c
	p.storage = inmem.NewFromObjectWithOpts(store, inmem.OptRoundTripOnWrite(false), inmem.OptReturnASTValuesOnRead(true))
	var err error
	if p.query, err = prepare(decisionQuery, c, p.storage); err != nil {
		return err
	}
	p.ordered, p.rowQueries = orderedTimes(c.Modules), nil
	for _, id := range p.rowRules {
		q, err := prepare(fmt.Sprintf("data.consilium.board[%q].row_include", id), c, p.storage)
		if err != nil {
			return err
		}
		p.rowQueries = append(p.rowQueries, q)
	}
	return nil
}

func prepare(query string, c *ast.Compiler, store storage.Store, more ...func(*rego.Rego)) (rego.PreparedEvalQuery, error) {
	return rego.New(append([]func(*rego.Rego){
		rego.Query(query),
		rego.Compiler(c),
		rego.Store(store),
		rego.Capabilities(capabilities(coreBuiltins)),
		// Without this, an error inside `not` reads as "it does not hold".
		rego.StrictBuiltinErrors(true),
		rego.GenerateJSON(boundedJSON),
	}, more...)...).PrepareForEval(context.Background())
}

// data reads the bundle's documents: the store that the rules see.
func (p *compiled) data(all schemas) (map[string]any, error) {
	law, err := p.bundle.readJSON(all, "law/law.json", "law")
	if err != nil {
		return nil, err
	}
	rules, err := p.bundle.readJSON(all, "law/rules.json", "rules")
	if err != nil {
		return nil, err
	}
	var table struct{ Rules []Rule }
	b, err := plain(rules)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &table); err != nil {
		return nil, err
	}
	p.rules = table.Rules
	for i, r := range p.rules {
		if _, dup := p.order[r.Code]; dup {
			return nil, fmt.Errorf("law/rules.json: %s stands twice", r.Code)
		}
		p.order[r.Code] = i
		// A regime that only judges rows would let every study in.
		if r.Regime != "*" && slices.Contains(r.Points, PointSite) && !slices.Contains(p.regimes, r.Regime) {
			p.regimes = append(p.regimes, r.Regime)
		}
	}
	slices.Sort(p.regimes)
	for _, r := range p.rules {
		if r.Regime != "*" && !slices.Contains(p.regimes, r.Regime) {
			return nil, fmt.Errorf("law/rules.json: %s: regime %s has no rule for sites", r.Code, r.Regime)
		}
	}
	var dated struct {
		AsOf       int64
		MaxAgeDays int64
	}
	if b, err = plain(law); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &dated); err != nil {
		return nil, err
	}
	p.asOf = dated.AsOf
	p.staleAt = dated.AsOf + (dated.MaxAgeDays+1)*86400
	boards := []any{}
	for _, id := range p.boards {
		name := "board/" + id + "/board.json"
		v, err := p.bundle.readJSON(all, name, "board")
		if err != nil {
			return nil, err
		}
		if v.(map[string]any)["board"] != id {
			return nil, fmt.Errorf("%s: names another board", name)
		}
		boards = append(boards, v)
	}
	inForce, columns := p.index(rules.(map[string]any)["rules"].([]any))
	return map[string]any{
		"law": law, "in_force": inForce, "column_rules": columns, "regimes": list(p.regimes), "boards": boards,
	}, nil
}

// index sorts the table of rules by point and regime, and apart from them the
// rules whose only point is columns: those are asked for every column.
func (p *compiled) index(table []any) (inForce, columns map[string]any) {
	inForce, columns = map[string]any{}, map[string]any{}
	into := func(m map[string]any, key string) map[string]any {
		if m[key] == nil {
			m[key] = map[string]any{}
		}
		return m[key].(map[string]any)
	}
	for i, r := range p.rules {
		if slices.Equal(r.Points, []Point{PointColumns}) {
			into(columns, r.Regime)[r.Code] = table[i]
			continue
		}
		for _, point := range r.Points {
			into(into(inForce, string(point)), r.Regime)[r.Code] = table[i]
		}
	}
	return inForce, columns
}

func list(s []string) []any {
	out := make([]any, len(s))
	for i, x := range s {
		out[i] = x
	}
	return out
}

// answer is the form that the rules' result must have.
type answer struct {
	Allow       *bool               `json:"allow"`
	Reasons     []Reason            `json:"reasons"`
	Obligations []string            `json:"obligations"`
	MinCohort   *int                `json:"min_cohort"`
	Permits     []string            `json:"permits"`
	Columns     map[string][]string `json:"columns"`
}

// Decide answers one question. The decision is always usable: whatever goes
// wrong is a denial with a code. The error says only that there was no such
// point or that ctx ended, so that nothing should be recorded.
func (e *Engine) Decide(ctx context.Context, point Point, in Input) (Decision, error) {
	if !slices.Contains(Points(), point) {
		return Decision{}, fmt.Errorf("policy: unknown point %q", clip(string(point)))
	}
	p := e.p.Load()
	if point == PointRows && in.Record == nil {
		return Decision{}, errors.New("policy: rows are asked with FilterRows")
	}
	doc, digest, bad := p.document(point, in)
	if bad != nil {
		return p.seal(*bad, digest), nil
	}
	d, err := e.evaluate(ctx, p, &p.query, point, doc)
	if err != nil {
		return Decision{}, err
	}
	return p.seal(d, digest), nil
}

func (p *compiled) seal(d Decision, input consilium.Digest) Decision {
	d.PolicyDigest, d.InputDigest = p.digest, input
	return d
}

// document validates the question and returns what the rules read.
func (p *compiled) document(point Point, in Input) (map[string]any, consilium.Digest, *Decision) {
	b, err := in.encode(point)
	if err != nil {
		d := deny(point, CodeInput, "%v", err)
		return nil, consilium.Digest{}, &d
	}
	return p.read(point, b, in.Now)
}

// read checks an encoded question.
func (p *compiled) read(point Point, b []byte, now int64) (map[string]any, consilium.Digest, *Decision) {
	digest, bad := p.readable(point, b)
	if bad != nil {
		return nil, digest, bad
	}
	doc, bad := p.check(point, b, now)
	return doc, digest, bad
}

// readable names an encoded question and bounds it.
func (p *compiled) readable(point Point, b []byte) (consilium.Digest, *Decision) {
	digest := consilium.DomainDecision.Digest([]byte("input"), b)
	if len(b) > MaxInput {
		d := deny(point, CodeInput, "the question has %d bytes, at most %d", len(b), MaxInput)
		return digest, &d
	}
	return digest, nil
}

// check holds a question against the schema and the dated law against the moment.
func (p *compiled) check(point Point, b []byte, now int64) (map[string]any, *Decision) {
	refuse := func(code, format string, args ...any) *Decision {
		d := deny(point, code, format, args...)
		return &d
	}
	all, err := allSchemas()
	if err != nil {
		return nil, refuse(CodeError, "%v", err)
	}
	v, err := decode(b)
	if err == nil {
		v, err = all.check("input:"+string(point), v)
	}
	if err != nil {
		return nil, refuse(CodeInput, "%s", strings.TrimPrefix(err.Error(), "input:"))
	}
	if now >= p.staleAt {
		return nil, refuse(CodeLawDataStale, "the dated law is of %s and has run out: ask the board for a newer bundle",
			time.Unix(p.asOf, 0).UTC().Format(time.DateOnly))
	}
	return v.(map[string]any), nil
}

// evaluate asks the rules. Only the caller's own ctx ending is an error.
func (e *Engine) evaluate(ctx context.Context, p *compiled, query *rego.PreparedEvalQuery, point Point, doc map[string]any) (Decision, error) {
	select {
	case e.slots <- struct{}{}:
		defer func() { <-e.slots }()
	case <-ctx.Done():
		return Decision{}, ctx.Err()
	}
	v, err := ast.InterfaceToValue(doc)
	if err != nil {
		return deny(point, CodeError, "%s", firstLine(err)), nil
	}
	return p.ask(ctx, query, point, v)
}

// ask evaluates the rules about one question within the limits.
func (p *compiled) ask(ctx context.Context, query *rego.PreparedEvalQuery, point Point, v ast.Value) (Decision, error) {
	var rs rego.ResultSet
	err := metered(ctx, p.timeout, func(ctx context.Context, limits ...rego.EvalOption) error {
		var err error
		rs, err = query.Eval(ctx, append(limits, rego.EvalParsedInput(v))...)
		return err
	})
	return p.outcome(ctx, point, rs, err)
}

// outcome turns what OPA returned into a decision.
func (p *compiled) outcome(ctx context.Context, point Point, rs rego.ResultSet, err error) (Decision, error) {
	switch {
	case ctx.Err() != nil:
		return Decision{}, ctx.Err()
	case errors.Is(err, errSteps) || errors.Is(err, errHeap):
		return deny(point, CodeTimeout, "%v", err), nil
	case errors.Is(err, context.DeadlineExceeded) || topdown.IsCancel(err):
		return deny(point, CodeTimeout, "the rules took longer than %s", p.timeout), nil
	case errors.Is(err, errAnswer):
		return deny(point, CodeShape, "%v", errAnswer), nil
	case err != nil:
		return deny(point, CodeError, "a rule failed: %s", firstLine(err)), nil
	}
	return p.result(point, rs), nil
}

// result accepts exactly one well-formed result.
func (p *compiled) result(point Point, rs rego.ResultSet) Decision {
	if len(rs) == 0 {
		return deny(point, CodeUndefined, "the rules give no answer")
	}
	if len(rs) != 1 || len(rs[0].Expressions) != 1 || len(rs[0].Bindings) != 0 {
		return deny(point, CodeShape, "the rules give more than one answer")
	}
	b, err := canon.Marshal(rs[0].Expressions[0].Value)
	if err != nil {
		return deny(point, CodeShape, "the rules' answer is not JSON")
	}
	var a answer
	if err := strict(b, &a); err != nil {
		return deny(point, CodeShape, "the rules' answer has another form: %s", firstLine(err))
	}
	if a.Allow == nil || a.MinCohort == nil || a.Reasons == nil || a.Obligations == nil || a.Permits == nil || a.Columns == nil ||
		*a.Allow != (len(a.Reasons) == 0) || *a.MinCohort < 1 || len(a.Reasons) > 1024 || len(a.Obligations) > 256 {
		return deny(point, CodeShape, "the rules' answer lacks a part or contradicts itself")
	}
	d := Decision{Point: point, Allow: *a.Allow, Reasons: a.Reasons, MinCohort: *a.MinCohort}
	for _, r := range a.Reasons {
		if r.Code == "" || len(r.Code) > 128 || len(r.Message) > 1024 || len(r.Article) > 512 || r.Kind != Law && r.Kind != Policy || r.Regime == "" {
			return deny(point, CodeShape, "a reason has another form")
		}
	}
	slices.SortFunc(d.Reasons, func(x, y Reason) int {
		if x.Kind != y.Kind {
			return strings.Compare(string(x.Kind), string(y.Kind)) // LAW before POLICY
		}
		if i, j := p.rank(x.Code), p.rank(y.Code); i != j {
			return i - j
		}
		return strings.Compare(x.Code+"\x00"+x.Message, y.Code+"\x00"+y.Message)
	})
	slices.Sort(a.Obligations)
	slices.Sort(a.Permits)
	d.Obligations, d.Permits = a.Obligations, a.Permits
	for name, codes := range a.Columns {
		slices.Sort(codes)
		c := ColumnDecision{Name: name, Action: Keep, Codes: codes}
		if len(codes) > 0 {
			c.Action = Drop
		}
		d.Columns = append(d.Columns, c)
	}
	slices.SortFunc(d.Columns, func(x, y ColumnDecision) int { return strings.Compare(x.Name, y.Name) })
	return d
}

// rank orders reasons by the table of rules; boards' come last.
func (p *compiled) rank(code string) int {
	if i, ok := p.order[code]; ok {
		return i
	}
	return len(p.rules)
}

func firstLine(err error) string {
	s, _, _ := strings.Cut(err.Error(), "\n")
	return clip200(s)
}

func clip200(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}

// Columns decides which declared columns may be read at a site. A decision
// that denies keeps none.
func (e *Engine) Columns(ctx context.Context, in Input) (Decision, error) {
	d, err := e.Decide(ctx, PointColumns, in)
	if err != nil {
		return Decision{}, err
	}
	if !d.Allow {
		d.Columns = nil
	}
	return d, nil
}
