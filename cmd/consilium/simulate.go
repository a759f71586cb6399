package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/federation"
	"consilium/internal/studyfile"
	"consilium/internal/table"
	"consilium/models"
	"consilium/policy"
	"consilium/provenance"
	"consilium/worker/vault"
)

// simulateOptions is what simulate fills in where a study file is silent.
func simulateOptions() studyfile.Options {
	purpose := policy.DefaultPurpose()
	return studyfile.Options{Simulate: true, Purpose: &purpose}
}

func runSimulate(ctx context.Context, e *env, args []string) error {
	fs := e.flags()
	study := fs.String("study", "", "study `file`")
	data := fs.String("data", "", "CSV `file` with a header")
	column := fs.String("site-column", "", "`column` of the table that tells hospitals apart")
	out := fs.String("out", "", "`directory` for result.json, report.html and audit")
	policies := fs.String("policy", "", "`directory` with a board's policy; the default is the core rules alone")
	nodes := fs.Int("coordinators", 1, "coordinator nodes: 1, 3 or 5")
	rest, err := e.parse(fs, args)
	if err != nil {
		return err
	}
	switch {
	case len(rest) > 0:
		return usagef("unexpected %q", rest[0])
	case *study == "" || *data == "" || *column == "" || *out == "":
		return usagef("--study, --data, --site-column and --out are all needed; draft a study with `consilium study new --from DATA.csv`")
	case *nodes != 1 && *nodes != 3 && *nodes != 5:
		return usagef("--coordinators is %d, want 1, 3 or 5", *nodes)
	}
	src, err := os.ReadFile(*study)
	if err != nil {
		return err
	}
	csv, err := os.ReadFile(*data)
	if err != nil {
		return err
	}
	sim, err := newSimulation(src, csv, *column)
	if err != nil {
		return locate(err, *study, *data)
	}
	if err := sim.try(ctx, *data); err != nil {
		return err
	}
	engine, err := sim.policy(*policies)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	p := newProgress(e)
	res, err := sim.run(ctx, engine, *nodes, p)
	if err != nil {
		return err
	}
	if err := res.write(ctx, *out); err != nil {
		return err
	}
	p.say("%s", filepath.Join(*out, "report.html"))
	if e.json {
		doc, err := res.document()
		if err != nil {
			return err
		}
		if _, err := e.stdout.Write(append(doc, '\n')); err != nil {
			return err
		}
	} else if err := res.show(e.stdout); err != nil {
		return err
	}
	return res.problem()
}

// simulation is one person's table taken apart into hospitals.
type simulation struct {
	file    *studyfile.File
	sites   []table.Site
	assumed []string
	now     time.Time
}

func newSimulation(study, csv []byte, column string) (*simulation, error) {
	file, err := studyfile.ParseWith(study, simulateOptions())
	if err != nil {
		return nil, &studyError{err}
	}
	s := &simulation{file: file, now: time.Now()}
	spec := file.Spec
	s.assumed = append(append([]string{}, file.Assumptions...), policy.AssumeTags(spec)...)
	if len(spec.Legal) == 0 || string(spec.Legal) == "{}" || string(spec.Legal) == "null" {
		spec.Legal = policy.DefaultLegal(spec)
	}
	s.assumed = append(s.assumed, policy.Assumptions()...)
	if err := table.Check(spec); err != nil {
		return nil, &studyError{err}
	}
	if err := models.Check(spec, learned()); err != nil {
		return nil, &studyError{err}
	}
	if err := checkPermits(spec); err != nil {
		return nil, &studyError{err}
	}
	if column == spec.Data.Patient {
		return nil, usagef("--site-column %s names the column that tells patients apart (data.patient): every patient would be a hospital of its own; name the column that tells hospitals apart", column)
	}
	if s.sites, err = table.Split(csv, column); err != nil {
		return nil, err
	}
	if n := len(s.sites); n < spec.Sites.Min || n > consilium.MaxSites {
		return nil, consilium.ErrData.Withf("the column %s has %d distinct values, the study wants %d to %d hospitals; name another column, or lower sites.min (at least 3)",
			column, n, spec.Sites.Min, consilium.MaxSites)
	}
	// Every cell is read, and every derived value computed, before anything
	// starts: a wrong one is the table's owner's to mend, and here the owner is
	// reading. The whole table, so that lines are those of the file.
	if _, err := federation.PlainRows(spec, federation.PlainSite{CSV: csv}, 1, file.RowPatients); err != nil {
		return nil, err
	}
	if file.Payload, err = canon.Marshal(spec); err != nil {
		return nil, err
	}
	if _, err := consilium.ParseSpec(file.Payload); err != nil {
		return nil, &studyError{err}
	}
	return s, nil
}

// plain are the study's facts and the hospitals' tables in the open.
func (s *simulation) plain() (consilium.Facts, []federation.PlainSite) {
	facts := consilium.Facts{Spec: s.file.Spec, MinCohort: s.file.Spec.Privacy.MinCohort, Permits: s.file.Spec.Privacy.Permits}
	var list []federation.PlainSite
	for _, site := range s.sites {
		facts.Sites = append(facts.Sites, site.ID)
		list = append(list, federation.PlainSite{ID: site.ID, CSV: site.CSV})
	}
	return facts, list
}

// try takes the first step of the analyses in the open: a row that they
// cannot use would make its hospital leave the study, which then waits and goes
// on without it, while here its owner can mend it.
func (s *simulation) try(ctx context.Context, data string) error {
	facts, list := s.plain()
	site, row, err := federation.Try(ctx, facts, list, s.file.RowPatients)
	if err == nil || site < 0 {
		return err
	}
	where := fmt.Sprintf("%s, hospital %s", data, s.sites[site].Label)
	if row >= 0 {
		where = fmt.Sprintf("%s:%d", data, s.sites[site].Lines[row])
	}
	return consilium.ErrData.Withf("%s: %s; correct the table, or leave such rows out with `cohort: {where: …}`", where, strings.TrimPrefix(err.Error(), consilium.ErrData.Msg+": "))
}

// checkPermits refuses an exception that no board can grant.
func checkPermits(spec *consilium.Spec) error {
	known := policy.Permits()
	for _, p := range spec.Privacy.Permits {
		if !slices.Contains(known, p) {
			return fmt.Errorf("privacy.permits: no board can grant %q; exceptions are %s", p, strings.Join(known, ", "))
		}
	}
	return nil
}

// studyError is a fault of the study file, as others are of the table.
type studyError struct{ error }

func (e *studyError) Unwrap() error { return e.error }

// locate says which file is meant and, of a table, what it holds there: the
// reader owns it.
func locate(err error, study, data string) error {
	var s *studyError
	if errors.As(err, &s) {
		text := err.Error()
		for _, of := range []*consilium.Error{consilium.ErrData, consilium.ErrInvalid} {
			text = strings.ReplaceAll(text, of.Msg+": ", "")
		}
		return consilium.ErrInvalid.With(fmt.Errorf("%s: %s", study, text))
	}
	var cell *table.Error
	if errors.As(err, &cell) && cell.File == "" {
		cell.File = data
		return consilium.ErrData.With(errors.New(strings.TrimPrefix(table.Local(cell), consilium.ErrData.Msg+": ")))
	}
	return err
}

// policy is the policy in dir, or the core rules with a board that grants
// what the study asks for.
func (s *simulation) policy(dir string) (*policy.Engine, error) {
	if dir != "" {
		if st, err := os.Stat(dir); err != nil || !st.IsDir() {
			return nil, usagef("--policy %s is not a directory; it holds board/NAME/board.json and, if you like, law/law.json", dir)
		}
		b, err := policy.ReadBundle(os.DirFS(dir))
		if err != nil {
			return nil, fmt.Errorf("--policy %s: %w", dir, err)
		}
		return policy.Compile(b)
	}
	asked := s.file.Spec.Privacy.Permits
	if len(asked) == 0 {
		return policy.Default(), nil
	}
	s.assumed = append(s.assumed, "board: it grants the exceptions that the study asks for: "+strings.Join(asked, ", "))
	return policy.Compile(policy.DefaultBoard(asked))
}

// run builds the federation and answers the study.
func (s *simulation) run(ctx context.Context, engine *policy.Engine, nodes int, p *progress) (*finished, error) {
	dir, err := os.MkdirTemp("", "consilium-simulate-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	spec := s.file.Spec
	dataset := vault.Dataset{Name: spec.Data.Dataset, Patient: spec.Data.Patient, Columns: spec.Columns, RowPatients: s.file.RowPatients}
	o := federation.Options{
		Name: "simulation", Dir: dir, Coordinators: nodes, Volatile: true, Policies: []*policy.Engine{engine},
		Country: policy.DefaultCountry, TeamCountry: policy.DefaultCountry, Assume: s.assumed, Log: p.log,
	}
	for _, site := range s.sites {
		facts, err := policy.DefaultSite(site.ID)
		if err != nil {
			return nil, err
		}
		o.Sites = append(o.Sites, federation.SiteOptions{
			ID: site.ID, Name: site.Label, Operator: string(site.ID), Country: policy.DefaultCountry, Facts: facts,
			Datasets: []vault.Dataset{dataset}, CSV: map[string][]byte{dataset.Name: site.CSV},
			Register: func(string) vault.Register { return vault.Register{Adult: true, CitizenOrLPR: true} },
			Consent:  s.consent,
		})
	}
	p.say("%d hospitals, %s", len(o.Sites), spec.Name)
	if hint := s.hint(); hint != "" {
		p.say("%s", hint)
	}
	started := time.Now()
	f, err := federation.Start(ctx, o)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out, err := f.Run(ctx, s.file.Payload, engine.Digest(), p.event)
	if err != nil {
		return nil, err
	}
	return finish(ctx, f, out, time.Since(started))
}

// hint is what to say where nearly every row is a hospital of its own: it
// works, but most likely the column names patients, and the protocol's work
// grows with the square of the hospitals.
func (s *simulation) hint() string {
	rows := 0
	for _, site := range s.sites {
		rows += site.Rows
	}
	if len(s.sites) <= 20 || rows >= 2*len(s.sites) {
		return ""
	}
	return fmt.Sprintf("%d hospitals for %d rows: does --site-column tell hospitals apart, or patients? It will take minutes.", len(s.sites), rows)
}

// consent is the consent that simulate generates for every patient; the
// result lists it among its assumptions.
func (s *simulation) consent(site consilium.SiteID, _ string) *provenance.Consent {
	subject := policy.DefaultSubject([16]byte{}, s.file.Spec, s.now.Unix())
	c := &provenance.Consent{
		Site: site, Form: "simulated", Level: provenance.LevelGeneral, Scopes: slices.Clone(subject.Categories), Purposes: slices.Clone(subject.Purposes),
		Explicit: true, Informed: true, GivenBy: provenance.GivenBySelf, Given: s.now.Add(-24 * time.Hour).Unix(), From: s.now.Add(-24 * time.Hour).Unix(),
	}
	if subject.Area != "any" && subject.Area != "" {
		c.Level, c.Diseases = provenance.LevelArea, []string{subject.Area}
	}
	return c
}
