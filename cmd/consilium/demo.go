package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"consilium"
	"consilium/examples/cgd"
	"consilium/internal/client"
	"consilium/internal/federation"
	"consilium/internal/report"
	"consilium/internal/studyfile"
	"consilium/internal/table"
	"consilium/models"
	"consilium/models/net"
	"consilium/policy"
	"consilium/provenance"
	"consilium/worker/vault"
)

// demo tells one story: thirteen hospitals, one rare disease, three questions,
// and what happens when something goes wrong on purpose.
type demo struct {
	e        *env
	p        *progress
	dir      string // scratch
	out      string
	doc      []byte // result.json, once it is written
	engine   *policy.Engine
	now      func() time.Time
	truth    tree
	bad      []string // places of the reference results that are not there
	compared comparisons
	pooled   float64  // p of the treatment in the Cox model over all hospitals
	expected []string // what was expected to happen and did
	missed   []string // what was expected and did not
	problems []report.Problem
	results  []*finished
}

func runDemo(ctx context.Context, e *env, args []string) error {
	fs := e.flags()
	out := fs.String("out", "consilium-demo", "`directory` for result.json, report.html and audit")
	rest, err := e.parse(fs, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usagef("unexpected %q", rest[0])
	}
	d := &demo{e: e, p: newProgress(e), out: *out}
	if d.dir, err = os.MkdirTemp("", "consilium-demo-"); err != nil {
		return err
	}
	defer os.RemoveAll(d.dir)
	if d.engine, err = policy.Compile(policy.DemoBundle()); err != nil {
		return err
	}
	var assumed string
	if d.now, assumed = lawClock(d.engine); assumed != "" {
		d.p.say("%s", assumed)
	}
	if d.truth, err = parseTree(cgd.Read("truth.json"), &d.bad); err != nil {
		return err
	}
	if err := d.answer(ctx); err != nil {
		return err
	}
	if err := d.goWrong(ctx); err != nil {
		return err
	}
	if err := d.write(ctx); err != nil {
		return err
	}
	return d.verdict()
}

// expect notes whether something that had to happen did.
func (d *demo) expect(ok bool, format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	if ok {
		d.expected = append(d.expected, what)
		d.p.say("    as it must: %s", what)
		return
	}
	d.missed = append(d.missed, what)
	d.p.say("    NOT AS IT MUST: %s", what)
}

// hospitals are the thirteen of the trial, each with its part of the tables
// and what it has filed.
func (d *demo) hospitals(datasets map[string][]consilium.Column) ([]federation.SiteOptions, error) {
	facts, err := policy.ParseSiteFactsList(cgd.Read("sites.json"))
	if err != nil {
		return nil, err
	}
	rows, err := csv.NewReader(bytes.NewReader(cgd.Read("sites.csv"))).ReadAll()
	if err != nil {
		return nil, err
	}
	parts := map[string]map[string][]byte{} // dataset -> label -> table
	for name, file := range map[string]string{"cgd": "cgd.csv", "cgd-patient": "cgd_patient.csv"} {
		split, err := table.Split(cgd.Read(file), "center")
		if err != nil {
			return nil, err
		}
		parts[name] = map[string][]byte{}
		for _, s := range split {
			parts[name][s.Label] = s.CSV
		}
	}
	given := d.now().Add(-24 * time.Hour).Unix()
	var out []federation.SiteOptions
	for _, r := range rows[1:] {
		label, id := r[0], consilium.SiteID(r[1])
		i := slices.IndexFunc(facts, func(f *policy.SiteFacts) bool { return f.Site == id })
		if i < 0 {
			return nil, fmt.Errorf("no facts for %s", id)
		}
		o := federation.SiteOptions{
			ID: id, Name: label, Operator: string(id), Country: facts[i].Country, Facts: facts[i], CSV: map[string][]byte{},
			// All patients of a trial of 1989 are adults by now.
			Register: func(string) vault.Register { return vault.Register{Adult: true, CitizenOrLPR: true} },
			Consent: func(site consilium.SiteID, _ string) *provenance.Consent {
				return &provenance.Consent{
					Site: site, Form: "CGD research consent, version 2", Level: provenance.LevelArea, Scopes: []string{"general", "genetic"},
					Purposes: []string{"DUO:0000007"}, Diseases: []string{"MONDO:0018305"}, Explicit: true, Informed: true,
					GivenBy: provenance.GivenBySelf, Given: given, From: given,
				}
			},
		}
		for _, name := range []string{"cgd", "cgd-patient"} {
			if columns := datasets[name]; columns != nil {
				o.CSV[name] = parts[name][label]
				o.Datasets = append(o.Datasets, vault.Dataset{Name: name, Patient: "id", Columns: columns})
			}
		}
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b federation.SiteOptions) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return out, nil
}

// open starts a federation of the thirteen hospitals over loopback, with
// coordinators on disk.
func (d *demo) open(ctx context.Context, name string, studies ...*studyfile.File) (*federation.Federation, []federation.SiteOptions, error) {
	datasets := map[string][]consilium.Column{}
	for _, s := range studies {
		for _, c := range s.Spec.Columns {
			list := datasets[s.Spec.Data.Dataset]
			if !slices.ContainsFunc(list, func(have consilium.Column) bool { return have.Name == c.Name }) {
				datasets[s.Spec.Data.Dataset] = append(list, c)
			}
		}
	}
	sites, err := d.hospitals(datasets)
	if err != nil {
		return nil, nil, err
	}
	f, err := federation.Start(ctx, federation.Options{
		Name: "cgd-" + name, Dir: filepath.Join(d.dir, name), Coordinators: 3, Loopback: true, Policies: []*policy.Engine{d.engine},
		Country: "NL", TeamCountry: "NL", Sites: sites, Now: d.now, Log: d.p.log,
	})
	return f, sites, err
}

func demoStudy(name string) (*studyfile.File, error) {
	f, err := studyfile.ParseWith(cgd.Read(name+".yaml"), studyfile.Options{})
	if err != nil {
		return nil, fmt.Errorf("%s.yaml: %w", name, err)
	}
	return f, nil
}

// answer runs the three studies and holds their results against the pooled
// table.
func (d *demo) answer(ctx context.Context) error {
	recurrent, err := demoStudy("interferon-recurrent")
	if err != nil {
		return err
	}
	first, err := demoStudy("interferon-first")
	if err != nil {
		return err
	}
	network, err := demoStudy("risk-network")
	if err != nil {
		return err
	}
	d.p.say("Thirteen hospitals treated 128 children and adults with chronic granulomatous disease. None has enough patients to answer alone.")
	d.p.say("Each makes its keys, anchors its records in its own ledger, witnessed by the ethics board, and takes its patients' signed consents.")
	f, sites, err := d.open(ctx, "trial", recurrent, first, network)
	if err != nil {
		return err
	}
	defer f.Close()
	leader, err := f.Leader(ctx)
	if err != nil {
		return err
	}
	d.p.say("Three coordinators replicate one log over mutual TLS 1.3 (X25519MLKEM768); %s leads.", leader)

	d.p.say("1. %s", recurrent.Spec.Question)
	if err := d.recurrent(ctx, f, sites, recurrent); err != nil {
		return err
	}
	d.p.say("2. %s", first.Spec.Question)
	if err := d.first(ctx, f, sites, first); err != nil {
		return err
	}
	d.p.say("3. %s", network.Spec.Question)
	if err := d.network(ctx, f, sites, network); err != nil {
		return err
	}
	return d.alone(sites)
}

// plain computes a study over the open tables: the reference for bit-identity.
func (d *demo) plain(ctx context.Context, spec *consilium.Spec, sites []federation.SiteOptions, drop map[consilium.SiteID]string) (*models.Result, error) {
	facts := consilium.Facts{Spec: spec, MinCohort: spec.Privacy.MinCohort, Permits: spec.Privacy.Permits}
	var tables []federation.PlainSite
	for _, s := range sites {
		facts.Sites = append(facts.Sites, s.ID)
		p := federation.PlainSite{ID: s.ID, CSV: s.CSV[spec.Data.Dataset]}
		if id, ok := drop[s.ID]; ok {
			p.Drop = func(patient string, _ int) bool { return patient == id }
		}
		tables = append(tables, p)
	}
	return federation.Plain(ctx, facts, tables, false)
}

// identical reports whether the released result says, to the last bit, what
// the same analyses say in plain sums. Counts of rows that policy left out are
// the federation's own.
func identical(released, plain []byte) (bool, string) {
	var a, b map[string]any
	if json.Unmarshal(released, &a) != nil || json.Unmarshal(plain, &b) != nil {
		return false, "not JSON"
	}
	var walk func(path string, x, y any) string
	walk = func(path string, x, y any) string {
		switch y := y.(type) {
		case map[string]any:
			x, ok := x.(map[string]any)
			if !ok {
				return path
			}
			for _, k := range mapKeys(y) {
				if k == "excluded_rows" || k == "assumptions" {
					continue
				}
				if bad := walk(path+"/"+k, x[k], y[k]); bad != "" {
					return bad
				}
			}
		case []any:
			x, ok := x.([]any)
			if !ok || len(x) != len(y) {
				return path
			}
			for i := range y {
				if bad := walk(fmt.Sprintf("%s/%d", path, i), x[i], y[i]); bad != "" {
					return bad
				}
			}
		default:
			if x != y {
				return path
			}
		}
		return ""
	}
	bad := walk("", a, b)
	return bad == "", bad
}

func mapKeys(m map[string]any) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// conclude keeps a study's result and checks it against the plain sums.
func (d *demo) conclude(ctx context.Context, f *federation.Federation, out *client.Outcome, spec *consilium.Spec, sites []federation.SiteOptions, took time.Duration) (tree, error) {
	fin, err := finish(ctx, f, out, took)
	if err != nil {
		return tree{}, err
	}
	if err := fin.problem(); err != nil {
		return tree{}, err
	}
	d.results = append(d.results, fin)
	plain, err := d.plain(ctx, spec, sites, nil)
	if err != nil {
		return tree{}, err
	}
	same, where := identical(out.Envelope.Result, plain.JSON)
	d.expect(same, "the encrypted result equals the same computation in plain sums to the last bit%s", ifNot(same, " (first difference at "+where+")"))
	return parseTree(out.Envelope.Result, &d.bad)
}

func ifNot(ok bool, s string) string {
	if ok {
		return ""
	}
	return s
}

// recurrent answers the main question while the leading coordinator is killed
// in the middle of a round.
func (d *demo) recurrent(ctx context.Context, f *federation.Federation, sites []federation.SiteOptions, file *studyfile.File) error {
	killed := make(chan struct{})
	var victim, next consilium.NodeID
	var failure error
	armed := false
	started := time.Now()
	out, err := f.Run(ctx, file.Payload, d.engine.Digest(), func(ev *consilium.Event) {
		d.p.event(ev)
		if ev.Kind == consilium.EventMessage && d.p.round == 2 && !armed {
			armed = true
			go func() {
				defer close(killed)
				if victim, failure = f.Leader(ctx); failure != nil {
					return
				}
				if failure = f.KillNode(victim); failure != nil {
					return
				}
				if next, failure = f.Leader(ctx); failure == nil {
					failure = f.StartNode(victim)
				}
			}()
		}
	})
	if err != nil {
		return err
	}
	if !armed {
		return errors.New("the study ended before its second round")
	}
	<-killed
	if failure != nil {
		return fmt.Errorf("killing the leader: %w", failure)
	}
	d.expect(out.Phase == consilium.PhaseDone, "coordinator %s, the leader, was killed in the middle of round 2; %s took over and nothing was lost", victim, next)
	d.problems = append(d.problems, report.Problem{What: "The leading coordinator was killed in the middle of a round", Where: string(victim), Outcome: "another took over; the result is the same to the last bit"})
	res, err := d.conclude(ctx, f, out, file.Spec, sites, time.Since(started))
	if err != nil {
		return err
	}
	compareModel(&d.compared, "recurrent", res, d.truth.at("ag_multi_strat_site_efron"))
	d.cox("Every infection (Andersen-Gill, Efron, strata: hospital, robust)", res, d.truth.at("ag_multi_strat_site_efron"))
	return nil
}

// cox shows coefficients beside R's.
func (d *demo) cox(title string, got, want tree) {
	d.p.table(title, func(w io.Writer) {
		fmt.Fprintln(w, "term\tconsilium\tR, pooled\tdifference\tse\tR\t")
		for i, t := range got.at("terms").list() {
			se, rse := t.at("se").num(), want.at("se", i).num()
			if want.has("robust_se") {
				se, rse = t.at("robust_se").num(), want.at("robust_se", i).num()
			}
			a, b := t.at("coef").num(), want.at("coef", i).num()
			fmt.Fprintf(w, "%s\t%.12f\t%.12f\t%.0e\t%.9f\t%.9f\t\n", t.at("name").text(), a, b, math.Abs(a-b)/math.Abs(b), se, rse)
		}
	})
}

// first answers five questions about the first infection over one cohort; one
// hospital stops after its upload and comes back later.
func (d *demo) first(ctx context.Context, f *federation.Federation, sites []federation.SiteOptions, file *studyfile.File) error {
	zurich := f.Site("zurich")
	dead := zurich.HaltAt("contribute/after-upload")
	back := make(chan error, 1)
	closed := make(chan struct{})
	var once bool
	go func() {
		select {
		case <-ctx.Done():
			back <- ctx.Err()
		case <-dead:
			select {
			case <-ctx.Done():
				back <- ctx.Err()
			case <-closed:
				zurich.Stop()
				back <- zurich.Start()
			}
		}
	}()
	started := time.Now()
	out, err := f.Run(ctx, file.Payload, d.engine.Digest(), func(ev *consilium.Event) {
		d.p.event(ev)
		if ev.Kind == consilium.EventClosed && !once {
			once = true
			close(closed)
		}
	})
	if err != nil {
		return err
	}
	if err := outcomeError(out); err != nil {
		return err
	}
	if err := <-back; err != nil {
		return fmt.Errorf("zurich: %w", err)
	}
	d.expect(out.Phase == consilium.PhaseDone, "Zurich stopped after its upload; the others opened the round with its contribution, waited for it in the next, and it caught up from the sealed state")
	d.problems = append(d.problems, report.Problem{What: "A hospital stopped after its upload and came back later", Where: "zurich", Outcome: "the round was opened with its contribution; it caught up from the sealed state; the result is the same to the last bit"})
	res, err := d.conclude(ctx, f, out, file.Spec, sites, time.Since(started))
	if err != nil {
		return err
	}
	list := res.at("analyses").list()
	if len(list) != 5 {
		return fmt.Errorf("%d analyses in the result, want 5", len(list))
	}
	by := map[string]tree{}
	for _, a := range list {
		by[a.at("name").text()] = a
	}
	d.pooled = by["first"].at("terms", 0, "p").num()
	compareModel(&d.compared, "first", by["first"], d.truth.at("cox_treat_strat_site_efron"))
	compareModel(&d.compared, "odds", by["odds"], d.truth.at("logistic_multi"))
	compareModel(&d.compared, "rate", by["rate"], d.truth.at("poisson_multi"))
	lr := d.truth.at("logrank_strat_site")
	d.compared.add("log-rank chi-square", by["compare"].at("chisq").num(), lr.at("chisq").num())
	d.compared.add("log-rank p", by["compare"].at("p").num(), lr.at("p").num())
	for i, g := range by["compare"].at("groups").list() {
		d.compared.add("log-rank observed", g.at("observed").num(), lr.at("observed", i).num())
		d.compared.add("log-rank expected", g.at("expected").num(), lr.at("expected", i).num())
	}
	if err := d.curves(by["curves"]); err != nil {
		return err
	}
	d.cox("First infection (Cox, Efron, strata: hospital)", by["first"], d.truth.at("cox_treat_strat_site_efron"))
	hr := math.Exp(by["first"].at("terms", 0, "coef").num())
	d.p.say("    hazard ratio %.3f; the trial as published (N Engl J Med 1991): 67%% lower risk of infection, a hazard ratio near 0.33", hr)
	d.cox("At least one infection (logistic)", by["odds"], d.truth.at("logistic_multi"))
	d.cox("Infections per day of follow-up (Poisson)", by["rate"], d.truth.at("poisson_multi"))
	d.p.say("    log-rank, stratified by hospital: chi-square %.9f (R %.9f), p = %.3g; published: P = 0.0006", by["compare"].at("chisq").num(), lr.at("chisq").num(), by["compare"].at("p").num())
	return nil
}

// curves holds the Kaplan-Meier curves against a naive computation over the
// pooled table on the same public grid.
func (d *demo) curves(got tree) error {
	rows, err := csv.NewReader(bytes.NewReader(cgd.Read("cgd_patient.csv"))).ReadAll()
	if err != nil {
		return err
	}
	step := got.at("grid", "step").num()
	end := got.at("grid", "max").num()
	col := func(name string) int { return slices.Index(rows[0], name) }
	d.p.table(fmt.Sprintf("Free of infection (Kaplan-Meier on a public grid of months of 30 days; R's daily curve at day %.0f)", end), func(w io.Writer) {
		fmt.Fprintln(w, "arm\tmonth 3\tmonth 6\tmonth 9\tmonth 12\tR, daily, month 12\t")
		for _, g := range got.at("groups").list() {
			arm := g.at("levels", "treat").text()
			times := g.at("curve", "time").list()
			surv := 1.0
			fmt.Fprintf(w, "%s\t", arm)
			for i, t := range times {
				end := t.num()
				var risk, events float64
				for _, r := range rows[1:] {
					if r[col("treat")] != arm {
						continue
					}
					var at, status float64
					fmt.Sscan(r[col("tstop")], &at)
					fmt.Sscan(r[col("status")], &status)
					at = math.Ceil(at/step) * step
					if at > end-step/2 {
						risk++
						if at < end+step/2 {
							events += status
						}
					}
				}
				if risk > 0 {
					surv *= 1 - events/risk
				}
				if end > 0 {
					d.compared.add(fmt.Sprintf("%s at risk at %.2f", arm, end), g.at("curve", "n_risk", i).num(), risk)
					d.compared.add(fmt.Sprintf("%s infections at %.2f", arm, end), g.at("curve", "n_event", i).num(), events)
					d.compared.add(fmt.Sprintf("%s free of infection at %.2f", arm, end), g.at("curve", "surv", i).num(), surv)
				}
				if m := math.Round(end / step); m > 0 && math.Mod(m, 3) == 0 {
					fmt.Fprintf(w, "%.4f\t", g.at("curve", "surv", i).num())
				}
			}
			daily := d.truth.at("km_first_infection_by_treat", "curves", "treat="+arm)
			last := math.NaN()
			for i, t := range daily.at("time").list() {
				if t.num() <= end {
					last = daily.at("surv", i).num()
				}
			}
			fmt.Fprintf(w, "%.4f\t\n", last)
		}
	})
	return nil
}

// network trains over the hospitals and compares with the pooled table and
// with each hospital alone.
func (d *demo) network(ctx context.Context, f *federation.Federation, sites []federation.SiteOptions, file *studyfile.File) error {
	started := time.Now()
	out, err := f.Run(ctx, file.Payload, d.engine.Digest(), d.p.event)
	if err != nil {
		return err
	}
	res, err := d.conclude(ctx, f, out, file.Spec, sites, time.Since(started))
	if err != nil {
		return err
	}
	spec := file.Spec
	facts := consilium.Facts{Spec: spec, MinCohort: spec.Privacy.MinCohort, Permits: spec.Privacy.Permits}
	var rows []*models.Rows
	for i, s := range sites {
		facts.Sites = append(facts.Sites, s.ID)
		r, err := federation.PlainRows(spec, federation.PlainSite{ID: s.ID, CSV: s.CSV[spec.Data.Dataset]}, consilium.Position(i+1), false)
		if err != nil {
			return err
		}
		rows = append(rows, r)
	}
	pooled, err := net.Pooled(ctx, facts, &spec.Analyses[0], rows)
	if err != nil {
		return err
	}
	alone, err := net.Singles(ctx, facts, &spec.Analyses[0], rows)
	if err != nil {
		return err
	}
	best, cannot := -1, 0
	for i, a := range alone {
		if a.Run == nil {
			cannot++
			continue
		}
		if best < 0 || number(a.Training.AUC) > number(alone[best].Training.AUC) {
			best = i
		}
	}
	if best < 0 {
		return errors.New("no hospital could train alone")
	}
	fed := res.at("training")
	// The result tells no more digits than its hidden counts allow: judge the
	// hospital's own model with as many.
	n := fed.at("rows").num()
	auc, loss := models.Coarse(alone[best].Training.AUC, n), models.Coarse(alone[best].Training.Loss, n)
	d.p.table("Risk of infection, a network of "+fmt.Sprint(int(res.at("model", "parameters").num()))+" weights, "+fmt.Sprint(out.Charter.Threshold)+" of 13 hospitals open each round", func(w io.Writer) {
		fmt.Fprintln(w, "trained on\ttraining AUC\ttraining loss\t")
		fmt.Fprintf(w, "thirteen hospitals, encrypted\t%.2f\t%.2f\t\n", fed.at("auc").num(), fed.at("loss").num())
		fmt.Fprintf(w, "the pooled table, same seed\t%.2f\t%.2f\t\n", number(pooled.Outcome.Training.AUC), number(pooled.Outcome.Training.Loss))
		fmt.Fprintf(w, "best single hospital (%s), judged on everybody\t%.2f\t%.2f\t\n", alone[best].Site, number(auc), number(loss))
	})
	d.p.say("    %d of 13 hospitals cannot train alone; the holdout of %.0f patients is too small to claim anything from, and is in the report", cannot, res.at("holdout", "patients").num())
	d.expect(fed.at("auc").num() > number(auc), "the federated network beats the best single hospital on everybody's training rows")
	return nil
}

// alone says what each hospital could have said by itself.
func (d *demo) alone(sites []federation.SiteOptions) error {
	file, err := demoStudy("interferon-first")
	if err != nil {
		return err
	}
	spec := *file.Spec
	spec.Analyses = spec.Analyses[:1]
	spec.Privacy.MinCohort = 1
	spec.Privacy.Permits = []string{"small-levels", "small-cells"}
	var fit, inR, significant, significantInR int
	least := math.Inf(1)
	d.p.table("What a hospital could have said alone (the same Cox model on its own rows)", func(w io.Writer) {
		fmt.Fprintln(w, "hospital\tpatients\tcoef\tse\tp\t")
		for _, s := range sites {
			want := d.truth.at("single_site_cox", string(s.ID))
			facts := consilium.Facts{Spec: &spec, Sites: []consilium.SiteID{s.ID}, MinCohort: 1, Permits: spec.Privacy.Permits}
			res, err := federation.Plain(context.Background(), facts, []federation.PlainSite{{ID: s.ID, CSV: s.CSV[spec.Data.Dataset]}}, false)
			if err != nil {
				d.missed = append(d.missed, fmt.Sprintf("%s alone: %v", s.ID, err))
				continue
			}
			n := int(want.at("n").num())
			estimable, _ := want.at("cox_estimable").v.(bool)
			if estimable {
				inR++
				if want.at("p").num() < 0.05 {
					significantInR++
				}
			}
			if res.Problem != nil {
				fmt.Fprintf(w, "%s\t%d\tcannot be estimated\t\t\t\n", s.ID, n)
				if estimable {
					d.missed = append(d.missed, fmt.Sprintf("%s alone: R can, we cannot: %v", s.ID, res.Problem))
				}
				continue
			}
			got, err := parseTree(res.JSON, &d.bad)
			if err != nil || !estimable {
				d.missed = append(d.missed, fmt.Sprintf("%s alone: an estimate where R has none", s.ID))
				continue
			}
			fit++
			term := got.at("terms", 0)
			p := term.at("p").num()
			least = min(least, p)
			if p < 0.05 {
				significant++
			}
			d.compared.within(aloneTolerance, string(s.ID)+" alone coef", term.at("coef").num(), want.at("coef").num())
			d.compared.within(aloneTolerance, string(s.ID)+" alone se", term.at("se").num(), want.at("se").num())
			fmt.Fprintf(w, "%s\t%d\t%.4f\t%.4f\t%.3f\t\n", s.ID, n, term.at("coef").num(), term.at("se").num(), p)
		}
	})
	d.expect(fit == inR && significant == significantInR, "%d of %d can be fitted at all, and %d of those with p < 0.05, as in R", fit, len(sites), significant)
	d.expect(d.pooled < least, "together they reach p = %.4f, less than any of them alone", d.pooled)
	return nil
}

func number[T float64 | *float64](v T) float64 {
	switch x := any(v).(type) {
	case float64:
		return x
	case *float64:
		if x != nil {
			return *x
		}
	}
	return math.NaN()
}

// verdict ends the demonstration: an error if anything did not come out.
func (d *demo) verdict() error {
	if !d.e.json {
		fmt.Fprintf(d.e.stdout, "\n%s\n", d.compared.summary())
		t := tabwriter.NewWriter(d.e.stdout, 2, 0, 2, ' ', 0)
		for _, s := range d.expected {
			fmt.Fprintf(t, "  came out\t%s\n", s)
		}
		for _, s := range d.missed {
			fmt.Fprintf(t, "  DID NOT\t%s\n", s)
		}
		t.Flush()
		fmt.Fprintf(d.e.stdout, "\n%s, %s and %s; `consilium study audit %s` verifies them offline\n",
			filepath.Join(d.out, "result.json"), filepath.Join(d.out, "report.html"), filepath.Join(d.out, "audit"), filepath.Join(d.out, "audit"))
	}
	var bad []string
	for _, c := range d.compared.failed() {
		bad = append(bad, fmt.Sprintf("%s: %v, reference %v, difference %.1e", c.What, c.Got, c.Want, c.Diff))
	}
	bad = append(append(bad, d.missed...), d.bad...)
	if len(bad) > 0 {
		return fmt.Errorf("%d things did not come out:\n  %s", len(bad), strings.Join(bad, "\n  "))
	}
	if d.e.json {
		_, err := d.e.stdout.Write(append(d.doc, '\n'))
		return err
	}
	return nil
}
