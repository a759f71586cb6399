package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"consilium"
	"consilium/internal/canon"
)

// again asks what is remembered and holds it against the rules, asked anew.
func (e *Engine) again(t testing.TB, point Point, in Input) (Decision, bool) {
	t.Helper()
	got, recalled, err := e.DecideAgain(t.Context(), point, in)
	if err != nil {
		t.Fatal(err)
	}
	want, err := e.Decide(t.Context(), point, in)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s at %d, recalled %v:\n%+v\nwhere the rules say\n%+v", point, in.Now, recalled, got, want)
	}
	return got, recalled
}

// eager is a memory that forgets one thing of the question: the twin whose stale
// answers the tests below must catch.
type eager struct {
	key  func(*compiled, *posed, Input) string
	list map[string]Decision
}

func (m *eager) decide(t testing.TB, e *Engine, point Point, in Input) Decision {
	t.Helper()
	p := e.p.Load()
	q, bad := p.pose(point, in)
	if bad != nil {
		return *bad
	}
	key := m.key(p, &q, in)
	if d, ok := m.list[key]; ok {
		return d
	}
	d, err := e.Decide(t.Context(), point, in)
	if err != nil {
		t.Fatal(err)
	}
	m.list[key] = d
	return d
}

func newEager(key func(p *compiled, q *posed, in Input) string) *eager {
	return &eager{key, map[string]Decision{}}
}

// TestRecallVectors: every third vector of the law is answered by the rules that note the
// moment as by those that do not, is recalled when it is asked again, and its answer
// is the rules' at both ends of the time for which it is remembered.
func TestRecallVectors(t *testing.T) {
	all := engines{}
	files := readVectors(t)
	tried, ends, turns := 0, 0, 0
	for _, name := range sortedKeys(files) {
		f := files[name]
		if f.Point == PointRows {
			continue // asked with FilterRows
		}
		for i := 0; i < len(f.Cases); i += 3 {
			c := &f.Cases[i]
			e := all.of(t, c)
			point, in, err := ParseQuestion(question(t, f, c))
			if err != nil {
				continue // which the schema refuses
			}
			e.again(t, point, in)
			d, recalled := e.again(t, point, in)
			if stale := d.Has(CodeLawDataStale) || d.Has(CodeInput); recalled == (stale || isFailure(d)) {
				t.Errorf("%s: %s: asked twice, recalled %v: %s", name, c.ID, recalled, Explain(d))
			}
			tried++
			p := e.p.Load()
			q, _ := p.pose(point, in)
			kept, ok := p.answers.list[q.key]
			if !ok || i%2 != 0 {
				continue
			}
			for _, now := range []int64{kept.span.from, kept.span.until - 1} {
				at := in
				if at.Now = now; now < p.staleAt && now > 0 {
					if _, recalled := e.again(t, point, at); !recalled {
						t.Errorf("%s: %s: asked anew at %d, within %v", name, c.ID, now, kept.span)
					}
					ends++
				}
			}
			for _, now := range []int64{kept.span.from - 1, kept.span.until} {
				at := in
				if at.Now = now; now < p.staleAt && now > 0 {
					after, recalled := e.again(t, point, at)
					if recalled {
						t.Errorf("%s: %s: recalled at %d, outside %v", name, c.ID, now, kept.span)
					}
					if after.Allow != d.Allow {
						turns++
					}
				}
			}
		}
	}
	t.Logf("%d questions, %d ends of spans, %d at which the answer turned", tried, ends, turns)
	if tried < 200 || ends < 20 || turns < 5 {
		t.Error("too few: the test shows little")
	}
}

// TestRecallDates: an answer is not recalled past a date that the rules looked at.
// A memory that keys by the question alone lets the study run on.
func TestRecallDates(t *testing.T) {
	e := demoEngine(t)
	twin := newEager(func(_ *compiled, q *posed, _ Input) string { return q.key.String() })
	in := testInput(t, "amsterdam", func(s *consilium.Spec) {
		var legal map[string]any
		if err := json.Unmarshal(s.Legal, &legal); err != nil {
			t.Fatal(err)
		}
		legal["end"] = time.Unix(testNow+2*86400, 0).UTC().Format(time.DateOnly)
		s.Legal, _ = canon.Marshal(legal)
	})
	if d, recalled := e.again(t, PointSite, in); !d.Allow || recalled {
		t.Fatal(Explain(d), recalled)
	}
	twin.decide(t, e, PointSite, in)
	if d, recalled := e.again(t, PointSite, in); !d.Allow || !recalled {
		t.Fatal(Explain(d), recalled)
	}
	p := e.p.Load()
	q, _ := p.pose(PointSite, in)
	end := p.answers.list[q.key].span.until
	in.Now = end - 1
	if d, recalled := e.again(t, PointSite, in); !d.Allow || !recalled {
		t.Error("a second before the first date: ", Explain(d), recalled)
	}
	stale := false
	for in.Now = end; in.Now < p.staleAt; {
		d, recalled := e.again(t, PointSite, in)
		if recalled {
			t.Errorf("recalled at %d, past a date", in.Now)
		}
		if stale = stale || !d.Allow; stale {
			if !twin.decide(t, e, PointSite, in).Allow {
				t.Error("the twin asks anew: the test shows nothing")
			}
			break
		}
		in.Now = p.answers.list[q.key].span.until
	}
	if !stale {
		t.Error("no date ends the study before the dated law does: the test shows nothing")
	}
	// The dated law's own end is looked at before the memory is.
	in = testInput(t, "amsterdam", nil)
	in.Now = p.staleAt - 1
	e.again(t, PointSite, in)
	in.Now = p.staleAt
	if d, recalled := e.again(t, PointSite, in); d.Code() != CodeLawDataStale || recalled {
		t.Error(Explain(d), recalled)
	}
}

// TestRecallQuestion: what changes between two rounds is asked anew, each part of
// the question alone; memories that forget that part answer as before.
func TestRecallQuestion(t *testing.T) {
	e := demoEngine(t)
	// forgets makes the twin whose key lacks what forget takes away.
	forgets := func(forget func(*Input)) *eager {
		return newEager(func(p *compiled, _ *posed, in Input) string {
			forget(&in)
			q, bad := p.pose(PointSite, in)
			if bad != nil {
				t.Fatal(bad)
			}
			return q.key.String()
		})
	}
	for name, c := range map[string]struct {
		change func(*Input)
		twin   *eager
	}{
		"cohort": {func(in *Input) { in.Cohort = &CohortFacts{Differences: []int64{3}} },
			forgets(func(in *Input) { in.Cohort = nil })},
		"roster": {func(in *Input) {
			f := *in.Federation
			f.Sites = slices.Clone(f.Sites)
			for i := range f.Sites {
				if f.Sites[i].ID == string(in.Site.Site) {
					f.Sites[i].Country = "XX"
				}
			}
			in.Federation = &f
		}, forgets(func(in *Input) { in.Federation = nil })},
		"what the hospital filed": {func(in *Input) {
			var doc map[string]any
			if err := json.Unmarshal(in.Site.JSON(), &doc); err != nil {
				t.Fatal(err)
			}
			doc["categories"] = []string{"hiv"}
			b, err := canon.Marshal(doc)
			if err != nil {
				t.Fatal(err)
			}
			if in.Site, err = ParseSiteFacts(b); err != nil {
				t.Fatal(err)
			}
		}, forgets(func(in *Input) { in.Site = nil })},
		"study": {func(in *Input) { in.Study.Purpose.Class = "marketing" },
			forgets(func(in *Input) { in.Study = nil })},
	} {
		t.Run(name, func(t *testing.T) {
			before := testInput(t, "amsterdam", nil)
			before.Cohort = &CohortFacts{Differences: []int64{0}}
			if d, _ := e.again(t, PointSite, before); !d.Allow {
				t.Fatal(Explain(d))
			}
			c.twin.decide(t, e, PointSite, before)
			after := testInput(t, "amsterdam", nil)
			after.Cohort = &CohortFacts{Differences: []int64{0}}
			c.change(&after)
			if d, recalled := e.again(t, PointSite, after); d.Allow || recalled {
				t.Error(Explain(d), recalled)
			}
			if !c.twin.decide(t, e, PointSite, after).Allow {
				t.Error("the twin refuses: the test shows nothing")
			}
			if d, recalled := e.again(t, PointSite, before); !d.Allow || !recalled {
				t.Error("what did not change: ", Explain(d), recalled)
			}
		})
	}
}

// TestRecallPolicy: another bundle begins with no memory. A memory beside the
// engine would go on with the old policy's answers.
func TestRecallPolicy(t *testing.T) {
	e, err := Compile(overlay(""))
	if err != nil {
		t.Fatal(err)
	}
	stricter, err := compile(overlay(head+"deny contains {\"code\": \"NO\"} if input.study.min_cohort > 0\n"), DefaultTimeout)
	if err != nil {
		t.Fatal(err)
	}
	twin := newEager(func(_ *compiled, q *posed, _ Input) string { return q.key.String() })
	in := testInput(t, "amsterdam", nil)
	for range 2 {
		if d, _ := e.again(t, PointSite, in); d.Has("NO") {
			t.Fatal(Explain(d))
		}
	}
	if twin.decide(t, e, PointSite, in).Has("NO") {
		t.Fatal("the twin")
	}
	e.p.Store(stricter)
	if d, recalled := e.again(t, PointSite, in); !d.Has("NO") || recalled {
		t.Error(Explain(d), recalled)
	}
	if twin.decide(t, e, PointSite, in).Has("NO") {
		t.Error("the twin asks the new policy: the test shows nothing")
	}
}

// TestRecallRows: the part of a question about rows that no row changes is recalled,
// and each part of it is asked anew when it changes; so are the rows themselves.
func TestRecallRows(t *testing.T) {
	e := demoEngine(t)
	in := testInput(t, "amsterdam", nil)
	spec, _ := testSpec(t, nil)
	subject := DefaultSubject([16]byte{1}, spec, testNow)
	filter := func(in Input, s Subject) RowDecision {
		t.Helper()
		out, err := e.FilterRows(t.Context(), in, SubjectRecord([]Subject{s}))
		if err != nil {
			t.Fatal(err)
		}
		// The same by OPA, row by row, without any memory.
		one := in
		r, code := s.record()
		if code != "" {
			t.Fatal(code)
		}
		one.Record = &r
		d, err := e.Decide(t.Context(), PointRows, one)
		if err != nil {
			t.Fatal(err)
		}
		if got := out.Count() == 1; got != d.Allow {
			t.Errorf("at %d: in is %v where the rules say %v: %s", in.Now, got, d.Allow, Explain(d))
		}
		return out
	}
	subject.ValidTo = testNow + 50
	if out := filter(in, subject); out.Count() != 1 {
		t.Fatalf("%+v", out)
	}
	for now := int64(testNow + 45); now < testNow+55; now++ {
		later := in
		later.Now = now
		if got, want := filter(later, subject).Count(), 1; got == want != (now < subject.ValidTo) {
			t.Errorf("%d rows at %d, the consent ends at %d", got, now, subject.ValidTo)
		}
	}
	gone := subject
	gone.Status, gone.WithdrawnAt = "withdrawn", testNow
	if filter(in, gone).Count() != 0 {
		t.Error("a withdrawn row is in")
	}
	in.Study.Legal = []byte(`{}`)
	if out, err := e.FilterRows(t.Context(), in, SubjectRecord([]Subject{subject})); err != nil || out.Decision.Code() != CodeInput || out.Count() != 0 {
		t.Errorf("%v %+v", err, out)
	}
}

// TestRecallMoments: random rules about the moment, asked at random moments of their
// neighbourhood.
func TestRecallMoments(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 11))
	var rules strings.Builder
	rules.WriteString(head)
	ops := []string{"<", "<=", ">", ">="}
	for i := range 12 {
		condition := func() string {
			at := fmt.Sprint(testNow + r.Int64N(400))
			switch r.IntN(5) {
			case 0:
				return "input.now " + ops[r.IntN(4)] + " " + at
			case 1:
				return at + " " + ops[r.IntN(4)] + " input.now"
			case 2:
				return "not input.now " + ops[r.IntN(4)] + " " + at
			case 3:
				return fmt.Sprintf("some t in [%s, %d]\n\tinput.now %s t", at, testNow+r.Int64N(400), ops[r.IntN(4)])
			}
			return fmt.Sprintf("input.study.min_cohort > 1000\n\tinput.now %s %s.5", ops[r.IntN(4)], at)
		}
		fmt.Fprintf(&rules, "deny contains {\"code\": \"R%d\"} if {\n\t%s\n\t%s\n}\n", i, condition(), condition())
	}
	rules.WriteString("deny contains {\"code\": \"TEXT\"} if input.now < \"2020-01-01\"\n")
	e, err := Compile(overlay(rules.String()))
	if err != nil {
		t.Fatalf("%v\n%s", err, rules.String())
	}
	if e.p.Load().watchedQuery() == nil {
		t.Fatal("nothing is remembered: the test shows nothing")
	}
	recalled, answers := 0, map[string]bool{}
	now := int64(testNow)
	for range 150 {
		in := testInput(t, "amsterdam", nil)
		now += r.Int64N(16) - 4
		if r.IntN(20) == 0 {
			now = testNow - 20 + r.Int64N(440)
		}
		in.Now = now
		d, ok := e.again(t, PointSite, in)
		if ok {
			recalled++
		}
		answers[fmt.Sprint(codes(d))] = true
	}
	t.Logf("%d of 150 recalled, %d different answers", recalled, len(answers))
	if recalled < 10 || len(answers) < 5 {
		t.Error("the test shows little")
	}
}

// TestRecallOtherUses: rules that read the moment otherwise than to compare it, or
// could, are found, in every place where a rule may stand, and are asked anew each time.
func TestRecallOtherUses(t *testing.T) {
	for _, rule := range []string{
		"p if input.now < 5", "p if 5 >= input.now", "p if not input.now > 5", "p if {some t in input.study.x; t <= input.now}",
		"p if {every t in input.list {t < input.now}}", "p contains x if {some x in input.l; x < input.now}", "p := {x | some x in input.l; input.now >= x}",
		"p if input.study.now == 3", `p if input["study"].x`, "f(t) if t < input.now\np if f(input.study.t)", "p if input.now < input.study.a + 5",
		"p if {input.study.a or input.now < 5}", "p if input.study.x\nelse if input.now < 3",
	} {
		m, err := parse("p.rego", []byte(head+rule), nil)
		if err != nil {
			t.Fatalf("%s: %v", rule, err)
		}
		m = m.Copy()
		if other := noteMoments(m); other != "" {
			t.Errorf("%s: %s", rule, other)
		}
		if strings.Contains(rule, "input.now") != strings.Contains(m.String(), "consilium.moment.") {
			t.Errorf("%s: became %s", rule, m)
		}
	}
	for _, rule := range []string{
		"p if input.now == 5", "p if input.now != 5", "p if input.now", "p := input.now", "p if {x := input.now; x < 5}", "p if input.now + 1 < 5", "p if count([input.now]) > 0",
		"p if input.now in {5}", "p if f(input.now)\nf(x) if x < 5", "p if {some k; input[k] == 5}", "p if {x := input; x.now < 5}", "p if count(input) > 3",
		"p contains input.now", "p[input.now] := 5", "p := {input.now: 5}", "p.q[input.now] := true", "p if {some x in input; x == 5}", `p if input["now"] == 5`,
		"p if input.now < input.now", "p := [y | y := input.now]", "p if input.l[input.now]", "p if not input.now == 5", "p if {every x in [input.now] {x < 5}}",
		"p if {input.study.a or input.now == 5}", "p if input.study.x\nelse := input.now", "p if (input.now < 5) == true", "p := $\"{input.now}\"",
		"p if {k := \"now\"; input[k] < 5}", "p if object.get(input, \"now\", 0) < 5", "p if q with input.now as 3", "p if q with input as {\"now\": 3}",
		"f(input.now) := 3", "p if {[a, b] = [input.now, 3]; a < b}",
	} {
		m, err := parse("p.rego", []byte(head+rule), ast.CapabilitiesForThisVersion())
		if err != nil {
			t.Fatalf("%s: %v", rule, err)
		}
		if other := noteMoments(m.Copy()); other == "" {
			t.Errorf("%s: taken for a comparison", rule)
		}
	}
	for _, imports := range []string{"import input.now as moment\np if moment < 5", "import input as everything\np if everything.now < 5"} {
		m, err := parse("p.rego", []byte(head+imports), nil)
		if err != nil {
			t.Fatal(err)
		}
		if noteMoments(m.Copy()) == "" {
			t.Errorf("%s: taken for a comparison", imports)
		}
	}
	// Such a policy decides as before, and says once why nothing of it is remembered.
	said := watchLog(t)
	e, err := Compile(overlay(head + "deny contains {\"code\": \"ODD\"} if input.now == " + fmt.Sprint(testNow+1) + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(3) {
		in := testInput(t, "amsterdam", nil)
		in.Now += i
		for range 2 {
			if d, recalled := e.again(t, PointSite, in); recalled || d.Has("ODD") != (i == 1) {
				t.Error(Explain(d), recalled)
			}
		}
	}
	want := "level=INFO msg=\"answers are not remembered under this policy\" policy=" + e.Digest().Short() + " why=\"board/x/rules.rego: reads input.now\"\n"
	if said.String() != want {
		t.Errorf("the log says %q, want %q", said, want)
	}
	e = demoEngine(t) // of which answers are remembered
	e.again(t, PointSite, testInput(t, "amsterdam", nil))
	if said.String() != want {
		t.Errorf("and %q", said)
	}
}

// watchLog collects what is logged until the test ends, without its time.
func watchLog(t *testing.T) *bytes.Buffer {
	var out bytes.Buffer
	before, to, flags := slog.Default(), log.Writer(), log.Flags()
	t.Cleanup(func() {
		slog.SetDefault(before)
		// slog led package log into the handler that is gone.
		log.SetOutput(to)
		log.SetFlags(flags)
	})
	slog.SetDefault(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})))
	return &out
}

// TestMasksAreBounded: masked inputs are remembered up to so many bytes, whatever
// their number, and forgotten all at once.
func TestMasksAreBounded(t *testing.T) {
	var m masks
	big, name := make([]byte, MaxInput/2), func(i int) consilium.Digest { return consilium.DomainDecision.Digest([]byte(fmt.Sprint(i))) }
	held := func() (n int) {
		for _, x := range m.list {
			n += maskCost + len(x[0]) + len(x[1])
		}
		return n
	}
	most, forgot := 0, 0
	for i := range 100 {
		before := len(m.list)
		m.keep(name(i), big, big[i:])
		m.keep(name(i), big, big[i:]) // as two that ask at once
		if len(m.list) < before {
			forgot++
		}
		if _, ok := m.find(name(i)); !ok {
			t.Fatalf("%d is not kept", i)
		}
		most = max(most, held())
		if m.size != held() {
			t.Fatalf("after %d: %d bytes are counted, %d held", i, m.size, held())
		}
	}
	if most > maxMasks || most < maxMasks/2 || forgot == 0 {
		t.Errorf("at most %d bytes were held, forgotten %d times", most, forgot)
	}
	m.keep(name(-1), make([]byte, maxMasks), nil)
	if _, ok := m.find(name(-1)); ok {
		t.Error("one that is larger than all is kept")
	}
	for i := range 2 * maxMasks / maskCost {
		if m.keep(name(i), nil, nil); m.size > maxMasks || len(m.list) > maxMasks/maskCost {
			t.Fatalf("%d small ones are kept", len(m.list))
		}
	}
}

// TestNoRuleShadowsABuiltin: OPA lets a rule take a built-in's name, and then calls
// the rule where `<` is written. What finds comparisons with the moment finds them by
// name, so a policy with such a rule would decide otherwise when it is asked again,
// or about rows, than when it is asked once: it does not load.
func TestNoRuleShadowsABuiltin(t *testing.T) {
	deny := "\ndeny contains {\"code\": \"ODD\", \"message\": \"\", \"article\": \"\"} if "
	later := fmt.Sprint(testNow + 1000)
	for _, rule := range []string{
		"lt(a, b) if a == b" + deny + "not input.now < " + later,
		"lte(a, b) if a == b" + deny + "not input.now <= " + later,
		"gt(a, b) if a < b" + deny + "input.now > " + later,
		"gte(a, b) if a < b" + deny + "input.now >= " + later,
		"lt(a, b) if a == b" + deny + "not " + later + " < input.now", // turned round
		"gt(a, b) if a < b\nrow_include if input.now > " + later,
		"consilium.moment.lt(a, b) if a == b\nused if not consilium.moment.lt(1, 2)" + deny + "{used; not input.now < " + later + "}",
		"equal(a, b) if a != b" + deny + "input.study.min_sites == 3", "neq(a, b) if a == b" + deny + "input.study.min_sites != 3",
		"internal.member_2(a, b) if a != b" + deny + "3 in [5]", "object.get(a, b, c) := c if a == b" + deny + "object.get(1, 1, 1) == 1",
		"max := 3" + deny + "max == 3", "sum contains 3" + deny + "3 in sum",
	} {
		want := "would stand for the built-in"
		if _, err := Compile(overlay(head + rule)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", rule, err)
		}
		found := Check(overlay(head + rule))
		if len(found) != 1 || !strings.Contains(found[0].Message, want) || found[0].Line != 3 || found[0].Suggestion == "" {
			t.Errorf("%s: %v", rule, found)
		}
	}
	// The naive twin rewrites what it finds: OPA would call the rule, and it the built-in.
	m, err := parse("p.rego", []byte(head+"gt(a, b) if a < b"+deny+"input.now > "+later), nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := newCompiler(capabilities(boardBuiltins))
	if err != nil {
		t.Fatal(err)
	}
	c.Compile(map[string]*ast.Module{"p.rego": m.Copy()})
	if other := noteMoments(m); other != "" || !strings.Contains(m.String(), momentBuiltin("gt")) || c.Failed() ||
		!strings.Contains(c.Modules["p.rego"].String(), "data.consilium.board.x.gt(") {
		t.Errorf("the naive twin noticed: %s\n%s\n%s", other, m, c.Modules["p.rego"])
	}
	// From another file of the same board it would stand for the built-in as well.
	two := overlay(head+deny+"input.now > "+later).With("board/x/more.rego", []byte(head+"gt(a, b) if a < b"+deny+"gt(3, 2)"))
	if _, err := Compile(two); err == nil || !strings.Contains(err.Error(), "board/x/more.rego: line 3: a rule named gt") {
		t.Errorf("in another file: %v", err)
	}
	// Names within a rule take no built-in's place: OPA refuses the comparison.
	for _, rule := range []string{
		deny + "{lt := 3; lt == 3; input.now < " + later + "}", deny + "{some lt in [3]; lt == 3; input.now < " + later + "}",
		"f(lt) if {lt == 3; input.now < " + later + "}" + deny + "f(3)", "import data.law as lt" + deny + "input.now < " + later,
	} {
		if _, err := Compile(overlay(head + rule)); err == nil {
			t.Errorf("%s: loads", rule)
		}
	}
	own, err := coreModules()
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range own {
		for _, r := range m.Rules {
			if b := shadowed(r); b != "" {
				t.Errorf("%s: a rule stands for the built-in %s", name, b)
			}
		}
	}
}

// TestRecallFailures: what the rules failed at is asked again.
func TestRecallFailures(t *testing.T) {
	e := demoEngine(t)
	e.p.Load().timeout = time.Nanosecond
	for range 3 {
		d, recalled, err := e.DecideAgain(t.Context(), PointSite, testInput(t, "amsterdam", nil))
		if err != nil || recalled || d.Code() != CodeTimeout {
			t.Fatal(err, recalled, Explain(d))
		}
	}
	e = demoEngine(t)
	in := testInput(t, "amsterdam", nil)
	in.Site = nil
	for range 2 {
		if d, recalled := e.again(t, PointSite, in); d.Code() != CodeInput || recalled {
			t.Error(Explain(d), recalled)
		}
	}
}

// TestRecallShares: what a caller does with an answer changes no later one, and a
// full memory forgets rather than grows.
func TestRecallShares(t *testing.T) {
	e := demoEngine(t)
	in := testInput(t, "utah", nil)
	for range 3 {
		d, _ := e.again(t, PointColumns, in)
		for i := range d.Columns {
			d.Columns[i].Name, d.Columns[i].Action, d.Columns[i].Codes = "", Keep, nil
		}
		d.Permits, d.Reasons = append(d.Permits[:0], "x"), append(d.Reasons, Reason{Code: "X"})
	}
	var a answered
	for i := range 2*maxAnswers + 1 {
		q := posed{now: 5, key: consilium.DomainDecision.Digest(fmt.Append(nil, i))}
		a.keep(&q, Decision{}, span{5, 6})
		if _, ok := a.find(&q); !ok || len(a.list) > maxAnswers {
			t.Fatalf("%d: %v, %d kept", i, ok, len(a.list))
		}
		q.now = 6
		if _, ok := a.find(&q); ok {
			t.Fatal("past its time")
		}
	}
}

// TestRecallMask: what the log says of an input that it has masked before is what it
// would say of it for the first time, byte for byte.
func TestRecallMask(t *testing.T) {
	remembers, err := NewAudit(&inMemory{}, auditKey, 0, consilium.Digest{})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for round := range int64(3) {
		for _, site := range []string{"amsterdam", "utah"} {
			for _, point := range []Point{PointSite, PointColumns, PointRows, PointStudy} {
				for _, cohort := range []*CohortFacts{nil, {Differences: []int64{0, 40}}} {
					for _, now := range []int64{testNow + round, -round} {
						entry := AuditEntry{Time: now, Point: point, Input: testInput(t, site, nil)}
						entry.Input.Now, entry.Input.Cohort = now, cohort
						if point == PointStudy {
							entry.Input.Site = nil
						}
						got, err := remembers.record(&entry)
						if err != nil {
							t.Fatal(err)
						}
						want, err := (&Audit{key: auditKey}).record(&entry)
						if err != nil {
							t.Fatal(err)
						}
						if !reflect.DeepEqual(got, want) {
							t.Errorf("%s at %d: %s\nwhere a log that remembers nothing says\n%s", point, now, got.InputMasked, want.InputMasked)
						}
						seen[string(got.InputMasked)] = true
					}
				}
			}
		}
	}
	if len(seen) < 10 || len(remembers.masks.list) < 4 {
		t.Errorf("%d different inputs, %d remembered: the test shows little", len(seen), len(remembers.masks.list))
	}
}
