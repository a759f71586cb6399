//go:build unix

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"time"

	"consilium"
	"consilium/he/party"
	"consilium/internal/canon"
	"consilium/internal/federation"
	"consilium/internal/fixed"
	"consilium/internal/studyfile"
	"consilium/internal/table"
	"consilium/models"
	"consilium/models/net"
	"consilium/policy"
	"consilium/provenance"
	"consilium/worker/vault"
)

// A training study: rows of 30 numbers, visits of patients, at some hospitals; a
// network of about a hundred thousand weights, one pass over the rows a round.
const (
	features = 30
	visits   = 5 // rows of one patient
)

func trainingStudy(sites, hidden, rounds int) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `apiVersion: consilium/v1
kind: Study
metadata: {name: overhead}
spec:
  question: What does a round of training cost?
  data: {dataset: visits, patient: id}
  sites: {min: %d}
  columns:
    id: id
    event: flag
`, min(sites, 3))
	var names []string
	for i := range features {
		names = append(names, fmt.Sprintf("x%d", i))
		fmt.Fprintf(&b, "    x%d: {type: number, bounds: [-10, 10]}\n", i)
	}
	fmt.Fprintf(&b, `  seed: 1
  analysis:
    name: network
    type: train
    response: event
    features: [%s]
    model: {layers: [{dense: %d}, relu, {dense: %d}, relu, {dense: 1}], loss: logistic, dtype: float32}
    strategy: {name: fedavg, rounds: %d, local_epochs: 1, batch: 32, rate: 0.05, bits: 16}
    holdout: 0.1
  rounds: {max: %d, deadline: 10m}
`, string(bytes.Join(slicesOf(names), []byte(", "))), hidden, hidden+hidden*39/100, rounds, rounds+8)
	return b.Bytes()
}

func slicesOf(names []string) (out [][]byte) {
	for _, n := range names {
		out = append(out, []byte(n))
	}
	return out
}

// trainingTable draws the rows of all hospitals.
func trainingTable(sites, rows int) []byte {
	r := rand.New(rand.NewPCG(20261121, 7))
	var b bytes.Buffer
	b.WriteString("id,hospital,event")
	for i := range features {
		fmt.Fprintf(&b, ",x%d", i)
	}
	b.WriteByte('\n')
	line := []byte{}
	for s := range sites {
		for i := range rows {
			z, x := 0.0, [features]float64{}
			for k := range x {
				x[k] = math.Round(100*min(max(r.NormFloat64(), -9), 9)) / 100
				z += x[k] * float64(k%5-2) / 4
			}
			event := 0
			if r.Float64() < 1/(1+math.Exp(-z)) {
				event = 1
			}
			line = fmt.Appendf(line[:0], "%d-%d,h%d,%d", s, i/visits, s+1, event)
			for _, v := range x {
				line = append(line, ',')
				line = strconv.AppendFloat(line, v, 'f', -1, 64)
			}
			b.Write(append(line, '\n'))
		}
	}
	return b.Bytes()
}

// trainConfig is what a training process reads.
type trainConfig struct {
	Study, Table []byte
	Dir, Profile string
	Plain        bool
	Rounds       int // of training
}

// trained is what it answers.
type trained struct {
	Seconds []float64 // of each round
	CPU     []float64 // processor seconds of the whole process until each round closed
	Lanes   int       // of the longest vector
	Model   []byte    // digest of the last state; empty for the federation, whose state stays in its vaults
}

// training compares rounds of a whole federation (vaults with ledgers, policies
// and consents, gates with journals, encryption) with the same training in the
// open through the twin of the coordinator: rows from memory, float32 vectors.
// Both are one process with three nodes over loopback and disks.
func (j *job) training(ctx context.Context) error {
	cfg := trainConfig{Study: trainingStudy(j.sites, j.hidden, j.rounds), Table: trainingTable(j.sites, j.rows), Rounds: j.rounds}
	profile := cmp.Or(j.profile, filepath.Join(j.dir, "training.cpu"))
	profiles := [2]string{profile, profile + ".open"}
	var best [2][]float64
	var cpu [2]float64
	var all [2]trained
	for i := range j.repeats {
		for _, plain := range []bool{false, true} {
			if j.binary[plain] == "" {
				b, err := build(ctx, j.dir, plain)
				if err != nil {
					return err
				}
				j.binary[plain] = b
			}
			k := 0
			cfg.Plain, cfg.Profile = plain, ""
			if plain {
				k = 1
			}
			if i == 0 {
				cfg.Profile = profiles[k]
			}
			t, err := j.train(ctx, cfg)
			if err != nil {
				return fmt.Errorf("training, plain %v: %w", plain, err)
			}
			if best[k] == nil {
				best[k] = slices.Clone(t.Seconds)
			}
			if len(t.Seconds) != len(best[k]) || len(t.Seconds) != len(best[0]) {
				return fmt.Errorf("%d rounds, others took %d", len(t.Seconds), len(best[0]))
			}
			for r, s := range t.Seconds {
				best[k][r] = min(best[k][r], s)
			}
			if n := len(t.CPU); i == 0 || t.CPU[n-1]-t.CPU[0] < cpu[k] {
				cpu[k] = t.CPU[n-1] - t.CPU[0]
			}
			all[k] = *t
		}
	}
	// The first round counts rows and the first process of each warms the disk.
	rounds := len(best[0]) - 1
	sum := func(s []float64) (out float64) {
		for _, x := range s[1:] {
			out += x
		}
		return out / float64(rounds)
	}
	fmt.Fprintf(j.out, "%d sites, %d rows each, %d parameters, one epoch, batch 32; %d rounds, each the fastest of %d\n", j.sites, j.rows, all[1].Lanes, rounds, j.repeats)
	fmt.Fprintf(j.out, "a round    federation %.3f s (%.2f s of processor), in the open %.3f s (%.2f s of processor); ratio %.2f (%.2f of processor time)\n",
		sum(best[0]), cpu[0]/float64(rounds), sum(best[1]), cpu[1]/float64(rounds), sum(best[0])/sum(best[1]), cpu[0]/cpu[1])
	parts, err := breakdown(ctx, j.binary[false], profiles[0])
	if err != nil {
		return err
	}
	open, err := breakdown(ctx, j.binary[true], profiles[1])
	if err != nil {
		return err
	}
	for i, p := range parts {
		fmt.Fprintf(j.out, "%-34s %8.1f ms of processor a round, in the open %8.1f\n", p.name, p.ms/float64(j.rounds-1), open[i].ms/float64(j.rounds-1))
	}
	return nil
}

// train runs one training process.
func (j *job) train(ctx context.Context, cfg trainConfig) (*trained, error) {
	dir, err := os.MkdirTemp(j.dir, "train-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	cfg.Dir = dir
	path := filepath.Join(dir, "train.gob")
	if err := save(path, cfg); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, j.binary[cfg.Plain], "-train", path)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, err
	}
	var t trained
	return &t, load(path+".out", &t)
}

// runTraining is a training process.
func runTraining(ctx context.Context, path string) error {
	var cfg trainConfig
	if err := load(path, &cfg); err != nil {
		return err
	}
	purpose := policy.DefaultPurpose()
	file, err := studyfile.ParseWith(cfg.Study, studyfile.Options{Simulate: true, Purpose: &purpose})
	if err != nil {
		return err
	}
	parts, err := table.Split(cfg.Table, "hospital")
	if err != nil {
		return err
	}
	policy.AssumeTags(file.Spec)
	file.Spec.Legal = policy.DefaultLegal(file.Spec)
	if file.Payload, err = canon.Marshal(file.Spec); err != nil {
		return err
	}
	t, err := &trained{}, error(nil)
	if cfg.Plain {
		err = trainInTheOpen(ctx, cfg, file.Spec, parts, t)
	} else {
		err = trainFederation(ctx, cfg, file, parts, t)
	}
	if err != nil {
		return err
	}
	return save(path+".out", t)
}

// clock takes the times of a study's rounds from its events.
type clock struct {
	t       *trained
	opened  int64
	last    int    // the round whose end ends the profile: what follows the last one is none of a round
	profile string // of the second round to the last
	file    *os.File
}

func (c *clock) event(ev *consilium.Event) {
	switch ev.Kind {
	case consilium.EventOpened:
		c.opened = ev.Time
	case consilium.EventClosed:
		c.t.Seconds = append(c.t.Seconds, float64(ev.Time-c.opened)/1000)
		c.t.CPU = append(c.t.CPU, processor().Seconds())
		switch n := len(c.t.Seconds); {
		case n == 1 && c.profile != "":
			if f, err := os.Create(c.profile); err == nil && pprof.StartCPUProfile(f) == nil {
				c.file = f
			}
		case c.file != nil && n == c.last:
			c.stop()
		}
	}
}

func (c *clock) stop() {
	if c.file != nil {
		pprof.StopCPUProfile()
		c.file.Close()
		c.file = nil
		if f, err := os.Create(c.profile + ".allocs"); err == nil {
			pprof.Lookup("allocs").WriteTo(f, 0)
			f.Close()
		}
	}
}

// trainFederation runs the study as internal/federation does for the
// demonstration, over TCP and disks.
func trainFederation(ctx context.Context, cfg trainConfig, file *studyfile.File, parts []table.Site, t *trained) error {
	spec, engine, now := file.Spec, policy.Default(), time.Now()
	o := federation.Options{Name: "overhead", Dir: cfg.Dir, Coordinators: nodeCount, Loopback: true, Policies: []*policy.Engine{engine},
		Country: policy.DefaultCountry, TeamCountry: policy.DefaultCountry}
	dataset := vault.Dataset{Name: spec.Data.Dataset, Patient: spec.Data.Patient, Columns: spec.Columns}
	subject := policy.DefaultSubject([16]byte{}, spec, now.Unix())
	for _, p := range parts {
		facts, err := policy.DefaultSite(p.ID)
		if err != nil {
			return err
		}
		o.Sites = append(o.Sites, federation.SiteOptions{ID: p.ID, Name: p.Label, Operator: string(p.ID), Country: policy.DefaultCountry, Facts: facts,
			Datasets: []vault.Dataset{dataset}, CSV: map[string][]byte{dataset.Name: p.CSV},
			Register: func(string) vault.Register { return vault.Register{Adult: true, CitizenOrLPR: true} },
			Consent: func(site consilium.SiteID, _ string) *provenance.Consent {
				c := &provenance.Consent{Site: site, Form: "load", Level: provenance.LevelGeneral, Scopes: slices.Clone(subject.Categories), Purposes: slices.Clone(subject.Purposes),
					Explicit: true, Informed: true, GivenBy: provenance.GivenBySelf, Given: now.Add(-24 * time.Hour).Unix(), From: now.Add(-24 * time.Hour).Unix()}
				if subject.Area != "any" && subject.Area != "" {
					c.Level, c.Diseases = provenance.LevelArea, []string{subject.Area}
				}
				return c
			}})
	}
	f, err := federation.Start(ctx, o)
	if err != nil {
		return err
	}
	defer f.Close()
	c := clock{t: t, profile: cfg.Profile, last: cfg.Rounds}
	defer c.stop()
	out, err := f.Run(ctx, file.Payload, engine.Digest(), c.event)
	if err != nil {
		return err
	}
	if out.Phase != consilium.PhaseDone {
		return fmt.Errorf("the study ended %s: %s", out.Phase, out.Reason)
	}
	return nil
}

// trainInTheOpen runs the same local steps and updates at hospitals that have
// neither ledger, policy, journal nor keys of rounds.
func trainInTheOpen(ctx context.Context, cfg trainConfig, spec *consilium.Spec, parts []table.Site, t *trained) error {
	c, err := newCluster(cfg.Dir, len(parts), true)
	if err != nil {
		return err
	}
	if err := c.startHere(ctx); err != nil {
		return err
	}
	facts := consilium.Facts{Spec: spec, MinCohort: spec.Privacy.MinCohort, Permits: spec.Privacy.Permits}
	for _, p := range parts {
		facts.Sites = append(facts.Sites, p.ID)
	}
	d, err := c.desk()
	if err != nil {
		return err
	}
	var hospitals []*hospital
	for i := range parts {
		h, err := c.join(ctx, siteID(i+1), cfg.Dir)
		if err != nil {
			return err
		}
		defer h.leave()
		hospitals = append(hospitals, h)
	}
	p, err := c.propose(len(parts), len(parts)-1, uint32(spec.Rounds.Max), 600)
	if err != nil {
		return err
	}
	var first *trainer
	clock := clock{t: t, profile: cfg.Profile, last: cfg.Rounds}
	defer clock.stop()
	d.each = clock.event
	var failed error
	_, _, err = d.run(ctx, p, hospitals, func(pos consilium.Position) work {
		w, err := newTrainer(facts, parts[pos-1], pos)
		if err != nil {
			failed = err
		}
		if pos == 1 {
			first = w
		}
		return w
	})
	if err := errors.Join(failed, err); err != nil {
		return err
	}
	t.Lanes, t.Model = first.longest, first.digest[:]
	_, err = c.stop()
	return err
}

// trainer is a hospital's work in a training study in the open.
type trainer struct {
	facts    consilium.Facts
	id       consilium.SiteID
	analysis models.Analysis
	state    *models.State
	memory   []byte
	next     []byte
	rows     *models.Rows
	layout   consilium.Layout
	vector   []int32
	opened   []int32
	longest  int
	digest   consilium.Digest
}

func newTrainer(facts consilium.Facts, part table.Site, p consilium.Position) (*trainer, error) {
	w := &trainer{facts: facts, id: part.ID}
	var err error
	if w.analysis, err = models.New(facts, map[string]models.Constructor{
		consilium.AnalysisTrain: func(f consilium.Facts, s *consilium.AnalysisSpec) (models.Analysis, error) { return net.New(f, s) },
	}); err != nil {
		return nil, err
	}
	if w.rows, err = federation.PlainRows(facts.Spec, federation.PlainSite{ID: part.ID, CSV: part.CSV}, p, false); err != nil {
		return nil, err
	}
	w.state, err = w.analysis.Start(facts)
	return w, err
}

func (w *trainer) local(ctx context.Context, _ consilium.StudyID, round uint32) error {
	var err error
	if w.layout, err = w.analysis.Layout(w.state); err != nil {
		return err
	}
	out, err := fixed.NewWriter(w.layout)
	if err != nil {
		return err
	}
	w.rows.Seed = net.RoundSeed(w.facts.Spec.Seed, w.id, round)
	w.rows.Noise = consilium.DomainNoise.Digest(w.rows.Seed[:])
	if w.next, err = w.analysis.Local(ctx, w.state, w.memory, w.rows, out); err != nil {
		return err
	}
	if w.vector, err = out.Lanes(); err != nil {
		return err
	}
	w.longest, w.opened = max(w.longest, len(w.vector)), w.opened[:0]
	return nil
}

func (w *trainer) lanes() int { return len(w.vector) }
func (w *trainer) bits() int  { return w.layout.Bits() }
func (w *trainer) source() party.Source {
	l := party.Lanes(w.vector)
	return &l
}

func (w *trainer) sums(_ int, sums []int64) error {
	for _, x := range sums {
		w.opened = append(w.opened, int32(x))
	}
	return nil
}

func (w *trainer) update(_ context.Context, round uint32, members []consilium.Position) ([]byte, bool, error) {
	sums := make([]int64, len(w.opened))
	for i, x := range w.opened {
		sums[i] = int64(x)
	}
	values, err := fixed.Open(w.layout, sums, len(members))
	if err != nil {
		return nil, false, err
	}
	if w.state, err = w.analysis.Update(w.state, models.Opened{Round: round, Contributors: members, Values: values}); err != nil {
		return nil, false, err
	}
	w.memory = w.next
	b := w.state.Append(nil)
	w.digest = consilium.DomainState.Digest(b)
	return binary.BigEndian.AppendUint32(nil, round), w.state.Done, nil
}
