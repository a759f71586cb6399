package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"consilium"
	"consilium/examples/cgd"
	"consilium/internal/client"
	"consilium/internal/federation"
	"consilium/internal/fixed"
	"consilium/internal/report"
	"consilium/internal/studyfile"
	"consilium/models"
)

// smallStudy makes a study file of the demonstration from its template.
func smallStudy(name, question, class, analysis, deadline string) (*studyfile.File, error) {
	src := strings.NewReplacer("NAME", name, "QUESTION", question, "CLASS", class, "ANALYSIS", analysis, "DEADLINE", deadline).
		Replace(string(cgd.Read("template.yaml")))
	f, err := studyfile.ParseWith([]byte(src), studyfile.Options{})
	if err != nil {
		return nil, fmt.Errorf("study %s: %w", name, err)
	}
	return f, nil
}

func glmStudy(name, question, family, formula, deadline string) (*studyfile.File, error) {
	return smallStudy(name, question, "scientific_research", fmt.Sprintf("type: glm\n    family: %s\n    formula: %q", family, formula), deadline)
}

// goWrong breaks things on purpose. It uses a federation of its own: after the
// trial's questions the hospitals would refuse every cohort that differs by one
// patient from those, which is one of the things to be shown.
func (d *demo) goWrong(ctx context.Context) error {
	d.p.say("4. Things go wrong on purpose, in a second federation of the same hospitals.")
	asked, err := glmStudy("odds-four", "Which patients had an infection?", "binomial", "any ~ treat + sex + age + inherit", "2m")
	if err != nil {
		return err
	}
	height, err := glmStudy("height-antibiotics", "Are patients on antibiotics taller?", "gaussian", "height ~ propylac", "2m")
	if err != nil {
		return err
	}
	weight, err := glmStudy("weight-steroids", "Are patients on steroids heavier?", "gaussian", "weight ~ steroids", "2m")
	if err != nil {
		return err
	}
	again, err := glmStudy("odds-four-again", "Which patients had an infection?", "binomial", "any ~ treat + sex + age + inherit", "2m")
	if err != nil {
		return err
	}
	market, err := smallStudy("marketing", "Whom could we sell something?", "commercial_marketing", "type: describe\n    variables: [age]", "2m")
	if err != nil {
		return err
	}
	f, sites, err := d.open(ctx, "wrong", asked)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := d.refusedPurpose(ctx, f, market); err != nil {
		return err
	}
	if err := d.goneHospital(ctx, f, sites); err != nil {
		return err
	}
	d.p.say("  A question with four covariates, over all 128 patients: later its repetition will be refused.")
	out, err := f.Run(ctx, asked.Payload, d.engine.Digest(), d.p.event)
	if err != nil {
		return err
	}
	if err := outcomeError(out); err != nil {
		return err
	}
	if err := d.alteredRecord(ctx, f, sites, height); err != nil {
		return err
	}
	if err := d.withdrawal(ctx, f, sites, weight, asked, again); err != nil {
		return err
	}
	return d.lyingCoordinator(ctx, sites)
}

// refusedPurpose submits a study that the board does not allow.
func (d *demo) refusedPurpose(ctx context.Context, f *federation.Federation, file *studyfile.File) error {
	d.p.say("  A study whose purpose the board does not allow.")
	out, err := f.Run(ctx, file.Payload, d.engine.Digest(), d.p.event)
	if err != nil {
		return err
	}
	why := refusalText(out.Reason)
	refused := out.Phase == consilium.PhaseRefused && errors.Is(outcomeError(out), consilium.ErrStudyRefused)
	d.expect(refused && strings.Contains(why, "("), "refused before any hospital was asked, with rule and article: %s", why)
	d.problems = append(d.problems, report.Problem{What: "A study for commercial marketing", Where: "admission", Outcome: why})
	return nil
}

// goneHospital takes a hospital away after it enrolled and before it uploads. The
// others wait for it until the study's deadline, which is short so that nobody else
// waits long; on a machine where thirteen hospitals cannot enrol within it, it
// becomes longer.
func (d *demo) goneHospital(ctx context.Context, f *federation.Federation, sites []federation.SiteOptions) error {
	d.p.say("  A hospital enrols and is gone before its first upload.")
	harvard := f.Site("harvard")
	var file *studyfile.File
	var out *client.Outcome
	// As slow as this machine has been so far.
	for deadline := max(4*time.Second, (time.Since(d.p.started) / 8).Truncate(time.Second)); ; deadline *= 4 {
		// Columns of its own: the hospitals would refuse a later question of thirteen
		// over a column of this one, which ends with twelve.
		var err error
		if file, err = glmStudy("count-follow-up", "Do infections become more with the time of follow-up?", "poisson", "ninf ~ log(fu)", deadline.String()); err != nil {
			return err
		}
		dead := harvard.HaltAt("contribute/before-promise")
		if out, err = f.Run(ctx, file.Payload, d.engine.Digest(), d.p.event); err != nil {
			return err
		}
		stopped := false
		select {
		case <-dead:
			stopped = true
			harvard.Stop()
			if err := harvard.Start(); err != nil {
				return err
			}
		default:
		}
		if stopped && out.Phase == consilium.PhaseDone {
			break
		}
		if deadline > time.Minute {
			return fmt.Errorf("harvard stopped: %t, and the study ended as %s: %s", stopped, out.Phase, out.Reason)
		}
		d.p.say("  (%s were too short for the others here; once more with four times that.)", deadline)
	}
	if err := outcomeError(out); err != nil {
		return err
	}
	res, err := parseTree(out.Envelope.Result, &d.bad)
	if err != nil {
		return err
	}
	left := res.at("sites", "excluded").list()
	named := len(left) == 1 && left[0].text() == "harvard"
	rest := slices.DeleteFunc(slices.Clone(sites), func(s federation.SiteOptions) bool { return s.ID == "harvard" })
	plain, err := d.plain(ctx, file.Spec, rest, nil)
	if err != nil {
		return err
	}
	same, where := identical(out.Envelope.Result, plain.JSON)
	d.expect(named && same, "the round was opened without Harvard, the result names it, and equals the pooled result of the other twelve%s", ifNot(same, " (first difference at "+where+")"))
	d.problems = append(d.problems, report.Problem{What: "A hospital was gone before its first upload", Where: "harvard", Outcome: "left out of the sum and named in the result"})
	return nil
}

// alteredRecord changes one cell in one hospital's file.
func (d *demo) alteredRecord(ctx context.Context, f *federation.Federation, sites []federation.SiteOptions, file *studyfile.File) error {
	d.p.say("  Somebody alters one record at Scripps after it was anchored.")
	scripps := f.Site("scripps")
	path := filepath.Join(scripps.Dir(), "cgd-patient.csv")
	original, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	altered, patient, err := alter(original)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, altered, 0o600); err != nil {
		return err
	}
	if err := scripps.Restart(); err != nil {
		return err
	}
	started := time.Now()
	out, err := f.Run(ctx, file.Payload, d.engine.Digest(), d.p.event)
	if err != nil {
		return err
	}
	fin, err := finish(ctx, f, out, time.Since(started))
	if err != nil {
		return err
	}
	res, err := parseTree(out.Envelope.Result, &d.bad)
	if err != nil {
		return err
	}
	excluded := res.at("excluded_rows", "integrity").num()
	findings := 0
	for _, s := range fin.archive.Sites {
		for _, l := range s.Trail.Links {
			var e struct {
				Type string
				Body struct {
					Findings []struct{ Kind string }
				}
			}
			if l.Entry != nil && json.Unmarshal(l.Entry, &e) == nil && e.Type == "integrity" && s.Trail.Site == "scripps" {
				for _, x := range e.Body.Findings {
					if x.Kind == "altered" {
						findings++
					}
				}
			}
		}
	}
	plain, err := d.plain(ctx, file.Spec, sites, map[consilium.SiteID]string{"scripps": patient})
	if err != nil {
		return err
	}
	same, where := identical(out.Envelope.Result, plain.JSON)
	d.expect(excluded == 1 && findings > 0 && same, "the altered record was left out (%.0f), Scripps' audit trail names it, and the result equals the pooled result without it%s", excluded, ifNot(same, " (first difference at "+where+")"))
	d.problems = append(d.problems, report.Problem{What: "One record was altered after it was anchored", Where: "scripps", Outcome: "found by the ledger check, left out, named in the audit trail; the result equals the pooled result without it"})
	if err := os.WriteFile(path, original, 0o600); err != nil {
		return err
	}
	return scripps.Restart()
}

// alter changes the height of the first patient of a table.
func alter(csv []byte) ([]byte, string, error) {
	lines := strings.Split(string(csv), "\n")
	if len(lines) < 3 {
		return nil, "", errors.New("the table has no rows")
	}
	header := strings.Split(strings.ReplaceAll(lines[0], `"`, ""), ",")
	cells := strings.Split(lines[1], ",")
	h, id := slices.Index(header, "height"), slices.Index(header, "id")
	if h < 0 || id < 0 || len(cells) != len(header) {
		return nil, "", errors.New("the table has no plain height column")
	}
	var v float64
	if _, err := fmt.Sscan(cells[h], &v); err != nil {
		return nil, "", err
	}
	cells[h] = fmt.Sprint(v + 10)
	lines[1] = strings.Join(cells, ",")
	return []byte(strings.Join(lines, "\n")), strings.Trim(cells[id], `"`), nil
}

// withdrawal lets a patient withdraw: a different question runs without the
// patient, the same question is refused, and the naive twin shows why.
func (d *demo) withdrawal(ctx context.Context, f *federation.Federation, sites []federation.SiteOptions, other, asked, again *studyfile.File) error {
	d.p.say("  A patient at Amsterdam withdraws the consent.")
	amsterdam := f.Site("amsterdam")
	i := slices.IndexFunc(sites, func(s federation.SiteOptions) bool { return s.ID == "amsterdam" })
	patient, err := firstPatient(sites[i].CSV["cgd-patient"])
	if err != nil {
		return err
	}
	if err := amsterdam.Withdraw(ctx, patient); err != nil {
		return err
	}
	out, err := f.Run(ctx, other.Payload, d.engine.Digest(), d.p.event)
	if err != nil {
		return err
	}
	if err := outcomeError(out); err != nil {
		return err
	}
	res, err := parseTree(out.Envelope.Result, &d.bad)
	if err != nil {
		return err
	}
	plain, err := d.plain(ctx, other.Spec, sites, map[consilium.SiteID]string{"amsterdam": patient})
	if err != nil {
		return err
	}
	same, where := identical(out.Envelope.Result, plain.JSON)
	d.expect(res.at("patients").num() == 127 && same, "a different question ran without the patient, over %.0f patients, equal to the pooled result without the patient%s", res.at("patients").num(), ifNot(same, " (first difference at "+where+")"))

	d.p.say("  The question that was answered before is asked again, now without the patient.")
	repeated, err := f.Run(ctx, again.Payload, d.engine.Digest(), d.p.event)
	if err != nil {
		return err
	}
	refusedBy := declinedWith(repeated, string(consilium.ErrOverlap.Code))
	d.expect(repeated.Phase != consilium.PhaseDone && slices.Contains(refusedBy, "amsterdam"), "the repetition was refused by %s (%s)", strings.Join(refusedBy, ", "), consilium.ErrOverlap.Msg)
	seen, err := d.naiveDifference(ctx, sites[i], asked.Spec, patient)
	if err != nil {
		return err
	}
	d.expect(seen.matches, "the naive twin answers it, and the difference of the two sums is the patient: %s", seen.text)
	d.problems = append(d.problems,
		report.Problem{What: "A patient withdrew the consent", Where: "amsterdam", Outcome: "the next, different question ran without the patient"},
		report.Problem{What: "An answered question was asked again without that patient", Where: strings.Join(refusedBy, ", "), Outcome: "refused: the difference of the two sums would have been the patient's own values (" + seen.text + ")"})
	return nil
}

// lyingCoordinator lets a coordinator of its own try to get one hospital's
// values out of the thirteen: their gates are the real ones, their vaults hold
// small numbers.
func (d *demo) lyingCoordinator(ctx context.Context, sites []federation.SiteOptions) error {
	ids := make([]consilium.SiteID, len(sites))
	for i, s := range sites {
		ids[i] = s.ID
	}
	for _, lie := range []string{"alone", "second-attempt"} {
		r, err := federation.RunHostile(ctx, filepath.Join(d.dir, "hostile-"+lie), lie, ids...)
		if err != nil {
			return fmt.Errorf("%s: %w", lie, err)
		}
		d.p.say("  A coordinator lies: %s.", r.Tells)
		reasons := map[string]int{}
		for _, s := range r.Sites {
			for _, t := range s.Trail {
				reasons[t]++
			}
		}
		var why []string
		for t, n := range reasons {
			why = append(why, fmt.Sprintf("%s (%d)", t, n))
		}
		slices.Sort(why)
		d.expect(!r.Opened && r.Refused == r.Asked && r.Asked == len(ids), "%d of %d hospitals refused and nothing was opened; their trails say: %s", r.Refused, r.Asked, strings.Join(why, ", "))
		d.problems = append(d.problems, report.Problem{What: "A coordinator lied: " + r.Tells, Where: "coordinator", Outcome: fmt.Sprintf("%d of %d hospitals refused; nothing was opened", r.Refused, r.Asked)})
	}
	return nil
}

func firstPatient(csv []byte) (string, error) {
	lines := strings.Split(string(csv), "\n")
	if len(lines) < 2 {
		return "", errors.New("the table has no rows")
	}
	return strings.Trim(strings.Split(lines[1], ",")[0], `"`), nil
}

// declinedWith lists the hospitals that declined or left a study with a code.
func declinedWith(out *client.Outcome, code string) []string {
	var list []string
	for _, ev := range out.Events {
		if ev.Kind != consilium.EventMessage {
			continue
		}
		m, err := consilium.ParseMessage(ev.Body)
		if err != nil {
			continue
		}
		switch m.Kind {
		case consilium.KindDecline:
			if v, err := consilium.ParseDecline(m.Body); err == nil && v.Code == code {
				list = append(list, m.By)
			}
		case consilium.KindWithdraw:
			if v, err := consilium.ParseWithdraw(m.Body); err == nil && strings.HasPrefix(v.Reason, code) {
				list = append(list, m.By)
			}
		}
	}
	slices.Sort(list)
	return list
}

// recovered is what the difference of two sums says about one patient.
type recovered struct {
	text    string
	matches bool
}

// naiveDifference is the naive twin: somebody who sums the same first round
// with and without one patient, and subtracts. At coefficients of zero the
// logistic score of one row is x·(y - 1/2): the covariates come back as they are.
func (d *demo) naiveDifference(ctx context.Context, site federation.SiteOptions, spec *consilium.Spec, patient string) (*recovered, error) {
	facts := consilium.Facts{Spec: spec, Sites: []consilium.SiteID{site.ID}, MinCohort: 1}
	sum := func(drop func(string, int) bool) (map[string][]float64, error) {
		analysis, err := models.New(facts, learned())
		if err != nil {
			return nil, err
		}
		rows, err := federation.PlainRows(spec, federation.PlainSite{ID: site.ID, CSV: site.CSV[spec.Data.Dataset], Drop: drop}, 1, false)
		if err != nil {
			return nil, err
		}
		state, err := analysis.Start(facts)
		if err != nil {
			return nil, err
		}
		layout, err := analysis.Layout(state)
		if err != nil {
			return nil, err
		}
		w, err := fixed.NewWriter(layout)
		if err != nil {
			return nil, err
		}
		if _, err := analysis.Local(ctx, state, nil, rows, w); err != nil {
			return nil, err
		}
		lanes, err := w.Lanes()
		if err != nil {
			return nil, err
		}
		sums := make([]int64, len(lanes))
		if err := fixed.Add(sums, lanes); err != nil {
			return nil, err
		}
		return fixed.Open(layout, sums, 1)
	}
	with, err := sum(nil)
	if err != nil {
		return nil, err
	}
	without, err := sum(func(id string, _ int) bool { return id == patient })
	if err != nil {
		return nil, err
	}
	row, err := openRow(site.CSV[spec.Data.Dataset], patient)
	if err != nil {
		return nil, err
	}
	// The cohort block counts patients by level: its difference names the
	// patient's levels without any algebra. A number comes back as the ratio of
	// two differences of the score, in the public unit of the first round: ages
	// with bounds 0 to 89 travel in units of 16 years.
	const ageUnit, ageTerm = 16, 3
	levels := levelsFromCounts(with, without)
	score, other := with["answer/score"], without["answer/score"]
	if len(score) <= ageTerm || len(other) != len(score) || score[0] == other[0] {
		return nil, errors.New("the first round has no score to subtract")
	}
	age := math.Round((score[ageTerm] - other[ageTerm]) / (score[0] - other[0]) * ageUnit)
	parts := []string{fmt.Sprintf("age %.0f", age)}
	matches := age == row.age
	for _, want := range []string{"treat " + row.treat, "sex " + row.sex, "inherit " + row.inherit} {
		matches = matches && slices.Contains(levels, want)
	}
	return &recovered{text: strings.Join(append(levels, parts...), ", "), matches: matches}, nil
}

// levelsFromCounts reads the differing patient's levels off the counts that
// open the first round's vector: rows, patients, events, five more, then the
// patients of each level of each categorical term.
func levelsFromCounts(with, without map[string][]float64) []string {
	labels := []string{"", "", "any infection", "", "", "", "", "", "treat placebo", "treat rIFN-g", "sex male", "sex female", "inherit X-linked", "inherit autosomal"}
	var out []string
	for i, label := range labels {
		a, b := with["answer/cohort"], without["answer/cohort"]
		if label != "" && i < len(a) && i < len(b) && a[i]-b[i] == 1 {
			out = append(out, label)
		}
	}
	return out
}

// openPatient is one row of the open table, to check what was recovered.
type openPatient struct {
	treat, sex, inherit string
	age                 float64
}

func openRow(table []byte, patient string) (*openPatient, error) {
	lines := strings.Split(string(table), "\n")
	header := strings.Split(strings.ReplaceAll(lines[0], `"`, ""), ",")
	at := func(cells []string, name string) string { return strings.Trim(cells[slices.Index(header, name)], `"`) }
	for _, line := range lines[1:] {
		cells := strings.Split(line, ",")
		if len(cells) != len(header) || at(cells, "id") != patient {
			continue
		}
		p := &openPatient{treat: at(cells, "treat"), sex: at(cells, "sex"), inherit: at(cells, "inherit")}
		_, err := fmt.Sscan(at(cells, "age"), &p.age)
		return p, err
	}
	return nil, fmt.Errorf("no patient %s", patient)
}
