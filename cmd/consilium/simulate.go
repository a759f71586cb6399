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
		return usagef("--study, --data, --site-column and --out are all needed")
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
		return fmt.Errorf("%s: %w", *study, err)
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
		return nil, err
	}
	s := &simulation{file: file, now: time.Now()}
	s.assumed = append(append([]string{}, file.Assumptions...), policy.AssumeTags(file.Spec)...)
	if len(file.Spec.Legal) == 0 || string(file.Spec.Legal) == "{}" || string(file.Spec.Legal) == "null" {
		file.Spec.Legal = policy.DefaultLegal(file.Spec)
	}
	s.assumed = append(s.assumed, policy.Assumptions()...)
	if err := table.Check(file.Spec); err != nil {
		return nil, err
	}
	if err := models.Check(file.Spec, learned()); err != nil {
		return nil, err
	}
	if s.sites, err = table.Split(csv, column); err != nil {
		return nil, err
	}
	if n := len(s.sites); n < file.Spec.Sites.Min || n > consilium.MaxSites {
		return nil, consilium.ErrData.Withf("the column %s has %d distinct values, the study wants %d to %d hospitals", column, n, file.Spec.Sites.Min, consilium.MaxSites)
	}
	if file.Payload, err = canon.Marshal(file.Spec); err != nil {
		return nil, err
	}
	if _, err := consilium.ParseSpec(file.Payload); err != nil {
		return nil, err
	}
	return s, nil
}

// policy is the policy in dir, or the core rules with a board that grants
// what the study asks for.
func (s *simulation) policy(dir string) (*policy.Engine, error) {
	if dir != "" {
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
	known := policy.Permits()
	for _, p := range asked {
		if !slices.Contains(known, p) {
			return nil, fmt.Errorf("privacy.permits: no board can grant %q; exceptions are %s", p, strings.Join(known, ", "))
		}
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
	// Every row is checked before anything starts: a wrong cell is the table's
	// owner's to mend, and here the owner is reading.
	spec := s.file.Spec
	dataset := vault.Dataset{Name: spec.Data.Dataset, Patient: spec.Data.Patient, Columns: spec.Columns, RowPatients: s.file.RowPatients}
	o := federation.Options{
		Name: "simulation", Dir: dir, Coordinators: nodes, Volatile: true, Policies: []*policy.Engine{engine},
		Country: policy.DefaultCountry, TeamCountry: policy.DefaultCountry, Assume: s.assumed, Log: p.log,
	}
	for _, site := range s.sites {
		if err := checkTable(site, spec, s.file.RowPatients); err != nil {
			return nil, err
		}
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

// checkTable reads one hospital's part of the table and says what is wrong,
// with the value: the reader owns the table.
func checkTable(site table.Site, spec *consilium.Spec, rowPatients bool) error {
	_, err := federation.PlainRows(spec, federation.PlainSite{ID: site.ID, CSV: site.CSV}, 1, rowPatients)
	if err != nil {
		return consilium.ErrData.With(errors.New(site.Label + ": " + table.Local(err)))
	}
	return nil
}
