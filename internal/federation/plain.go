package federation

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"consilium"
	"consilium/internal/fixed"
	"consilium/internal/studyfile"
	"consilium/internal/table"
	"consilium/models"
	"consilium/models/net"
)

// PlainSite is one hospital's table in the open, for comparisons.
type PlainSite struct {
	ID   consilium.SiteID
	CSV  []byte
	Drop func(patient string, line int) bool // rows to leave out, or nil
}

// Summer adds the hospitals' vectors of one round, lane by lane.
type Summer func(ctx context.Context, round uint32, layout consilium.Layout, vectors [][]int32) ([]int64, error)

// PlainSum adds in the open.
func PlainSum(_ context.Context, _ uint32, layout consilium.Layout, vectors [][]int32) ([]int64, error) {
	sums := make([]int64, layout.Lanes())
	for _, v := range vectors {
		if err := fixed.Add(sums, v); err != nil {
			return nil, err
		}
	}
	return sums, nil
}

// Plain runs a study's analyses over open tables, in plain sums: the same
// local steps, the same integers, the same updates as the federation, and none
// of its protection. It is what the encrypted result is held against.
func Plain(ctx context.Context, facts consilium.Facts, sites []PlainSite, rowPatients bool) (*models.Result, error) {
	return PlainWith(ctx, facts, sites, rowPatients, PlainSum)
}

// PlainWith is Plain with another way to add.
func PlainWith(ctx context.Context, facts consilium.Facts, sites []PlainSite, rowPatients bool, sum Summer) (*models.Result, error) {
	analysis, err := models.New(facts, learned())
	if err != nil {
		return nil, err
	}
	rows := make([]*models.Rows, len(sites))
	for i, s := range sites {
		if rows[i], err = PlainRows(facts.Spec, s, consilium.Position(i+1), rowPatients); err != nil {
			return nil, fmt.Errorf("%s: %w", s.ID, err)
		}
	}
	state, err := analysis.Start(facts)
	if err != nil {
		return nil, err
	}
	memories := make([][]byte, len(sites))
	for round := uint32(1); !state.Done; round++ {
		layout, err := analysis.Layout(state)
		if err != nil {
			return nil, err
		}
		var vectors [][]int32
		var positions []consilium.Position
		for i := range sites {
			w, err := fixed.NewWriter(layout)
			if err != nil {
				return nil, err
			}
			rows[i].Seed = net.RoundSeed(facts.Spec.Seed, sites[i].ID, round)
			// In the open the noise of differential privacy follows from the study's
			// seed, so that it can be repeated; a vault seeds it with a secret.
			rows[i].Noise = consilium.DomainNoise.Digest(rows[i].Seed[:])
			if memories[i], err = analysis.Local(ctx, state, memories[i], rows[i], w); err != nil {
				return nil, fmt.Errorf("%s: %w", sites[i].ID, err)
			}
			lanes, err := w.Lanes()
			if err != nil {
				return nil, err
			}
			vectors = append(vectors, lanes)
			positions = append(positions, consilium.Position(i+1))
		}
		sums, err := sum(ctx, round, layout, vectors)
		if err != nil {
			return nil, err
		}
		values, err := fixed.Open(layout, sums, len(sites))
		if err != nil {
			return nil, err
		}
		if state, err = analysis.Update(state, models.Opened{Round: round, Contributors: positions, Values: values}); err != nil {
			return nil, err
		}
	}
	return analysis.Result(state)
}

// Try takes the first local step at every site and reports the first row that
// fails it: an interval that ends before it starts, a logarithm of zero. The
// error comes with the site and the row, from 0, or -1 if no single row is at
// fault.
func Try(ctx context.Context, facts consilium.Facts, sites []PlainSite, rowPatients bool) (site, row int, err error) {
	analysis, err := models.New(facts, learned())
	if err != nil {
		return -1, -1, err
	}
	state, err := analysis.Start(facts)
	if err != nil {
		return -1, -1, err
	}
	layout, err := analysis.Layout(state)
	if err != nil {
		return -1, -1, err
	}
	step := func(i int, rows *models.Rows) error {
		w, err := fixed.NewWriter(layout)
		if err != nil {
			return err
		}
		rows.Seed = net.RoundSeed(facts.Spec.Seed, sites[i].ID, 1)
		rows.Noise = consilium.DomainNoise.Digest(rows.Seed[:])
		_, err = analysis.Local(ctx, state, nil, rows, w)
		return err
	}
	for i, s := range sites {
		rows, err := PlainRows(facts.Spec, s, consilium.Position(i+1), rowPatients)
		if err != nil {
			return i, -1, err
		}
		fault := step(i, rows)
		if fault == nil {
			continue
		}
		batch := &rows.Batches[0]
		all := batch.Selected
		for r := range all {
			if !all[r] {
				continue
			}
			batch.Selected = make([]bool, len(all))
			batch.Selected[r] = true
			if err := step(i, rows); err != nil {
				return i, r, err
			}
		}
		return i, -1, fault
	}
	return -1, -1, nil
}

// PlainRows reads one open table as a vault would, without ledger and policy.
func PlainRows(spec *consilium.Spec, s PlainSite, position consilium.Position, rowPatients bool) (*models.Rows, error) {
	t, err := table.Read(bytes.NewReader(s.CSV), table.Options{Spec: spec, Key: make([]byte, 32), File: string(s.ID), RowPatients: rowPatients})
	if err != nil {
		return nil, err
	}
	selected, err := table.Cohort(spec, t.Record)
	if err != nil {
		return nil, err
	}
	out := &models.Rows{Site: position}
	var seed [8]byte
	binary.BigEndian.PutUint64(seed[:], spec.Seed)
	ordinals := map[string]int32{}
	batch := models.Batch{Selected: selected}
	for i, id := range t.IDs {
		o, ok := ordinals[id]
		if !ok {
			o = int32(len(ordinals))
			ordinals[id] = o
		}
		h := consilium.DomainHoldout.Digest(seed[:], []byte(s.ID), []byte(id))
		batch.Patient = append(batch.Patient, o)
		batch.Holdout = append(batch.Holdout, float64(binary.BigEndian.Uint64(h[:])>>11)/(1<<53))
		if s.Drop != nil && s.Drop(id, t.Lines[i]) {
			batch.Selected[i] = false
		}
	}
	out.Patients = len(ordinals)
	if batch.Record, err = table.Derive(spec, t.Record, batch.Selected); err != nil {
		return nil, err
	}
	out.Batches = []models.Batch{batch}
	return out, nil
}

// PlainStudy runs a study file over one person's table, one hospital for each
// value of a column, as `simulate` does, but in plain sums.
func PlainStudy(ctx context.Context, study, csv []byte, column string) (*models.Result, error) {
	file, err := studyfile.ParseWith(study, studyfile.Options{Simulate: true})
	if err != nil {
		return nil, err
	}
	parts, err := table.Split(csv, column)
	if err != nil {
		return nil, err
	}
	facts := consilium.Facts{Spec: file.Spec, MinCohort: file.Spec.Privacy.MinCohort, Permits: file.Spec.Privacy.Permits}
	var sites []PlainSite
	for _, p := range parts {
		facts.Sites = append(facts.Sites, p.ID)
		sites = append(sites, PlainSite{ID: p.ID, CSV: p.CSV})
	}
	return Plain(ctx, facts, sites, file.RowPatients)
}
