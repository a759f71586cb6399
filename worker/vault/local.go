package vault

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"slices"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/fixed"
	"consilium/internal/hatch"
	"consilium/internal/table"
	"consilium/models"
	"consilium/models/net"
	"consilium/policy"
	"consilium/provenance"
)

// people are the patients behind a table's rows.
type people struct {
	of      []int32                // ordinal of each row's patient
	names   []provenance.Pseudonym // by ordinal
	numbers []string               // by ordinal: the hospital's own patient numbers
	holdout []float64              // by row: uniform in [0, 1), equal for a patient's rows
}

// newPeople numbers the patients in the order of their first row. The holdout
// split hashes the hospital's own patient number under the study's seed, so it
// is the same in every run; it never leaves the vault.
func newPeople(d *dataset, st *study) *people {
	p := &people{}
	ordinal := map[string]int32{}
	col := d.rows.Record.Column(d.rows.Record.Schema().FieldIndices(provenance.PatientColumn)[0]).(*array.FixedSizeBinary)
	var seed [8]byte
	binary.BigEndian.PutUint64(seed[:], st.spec.Seed)
	draw := map[int32]float64{}
	for i, id := range d.rows.IDs {
		o, ok := ordinal[id]
		if !ok {
			o = int32(len(ordinal))
			ordinal[id] = o
			p.names = append(p.names, provenance.Pseudonym(col.Value(i)))
			p.numbers = append(p.numbers, id)
			h := consilium.DomainHoldout.Digest(seed[:], []byte(st.site.ID), []byte(id))
			draw[o] = float64(binary.BigEndian.Uint64(h[:])>>11) / (1 << 53)
		}
		p.of = append(p.of, o)
		p.holdout = append(p.holdout, draw[o])
	}
	return p
}

// usable is what came of verification and policy for one moment.
type usable struct {
	selected []bool
	excluded models.Excluded
	rowSet   consilium.Digest
	patients []policy.Member // who is in the cohort
	contents []policy.Member // and with which rows
	ledger   consilium.Digest
	decision consilium.Digest
	records  []hatch.Record
	rows     int
	people   int
}

// use reads a study's rows and decides, now, which of them may be used. Rows
// come from the buffers that the analysis will read.
func (v *Vault) use(ctx context.Context, st *study, round uint32) (*usable, error) {
	if err := v.stopped(st, policy.PointRows); err != nil {
		return nil, err
	}
	if st.data == nil {
		d, err := v.load(st.spec.Data.Dataset)
		if err != nil {
			return nil, err
		}
		if st.record, err = project(d, st.spec); err != nil {
			return nil, err
		}
		st.data, st.people = d, newPeople(d, st)
	}
	verified, anchored, err := v.verify(ctx, st)
	if err != nil {
		return nil, err
	}
	u := &usable{ledger: consilium.DomainBatch.Digest(verified.Checkpoint.Raw)}
	if u.records, err = integrityRecords(st.id, verified); err != nil {
		return nil, err
	}
	permit, err := v.permit(ctx, st, verified.Checkpoint.Raw)
	if err != nil {
		return nil, err
	}
	cohort, err := table.Cohort(st.spec, st.record)
	if err != nil {
		return nil, err
	}
	n := int(st.record.NumRows())
	u.selected = make([]bool, n)
	contents := make([][]byte, len(st.people.names)) // of who has a row in the cohort, by ordinal
	rowSet := make([]byte, 0, n*len(consilium.Digest{}))
	for i := range n {
		switch {
		case !verified.Rows[0][i]:
			u.excluded.Integrity++
		case !permit.allowed[st.people.of[i]]:
			u.excluded.Consent++
		case !cohort[i]:
			u.excluded.Cohort++
		default:
			leaf, ok := verified.Leaf(0, i)
			if !ok {
				return nil, consilium.ErrLedger.Withf("a verified row has no leaf")
			}
			u.selected[i] = true
			u.rows++
			rowSet = append(rowSet, leaf[:]...)
			contents[st.people.of[i]] = append(contents[st.people.of[i]], leaf[:]...)
		}
	}
	u.rowSet = consilium.DomainRowSet.Digest([]byte(st.spec.Data.Dataset), rowSet)
	u.patients, u.contents = make([]policy.Member, 0, len(contents)), make([]policy.Member, 0, len(contents))
	for o, leaves := range contents {
		if len(leaves) == 0 {
			continue
		}
		u.people++
		name := st.people.names[o]
		who := consilium.DomainCohort.Digest(name[:])
		rows := consilium.DomainCohort.Digest(name[:], leaves)
		u.patients = append(u.patients, policy.Member(who[:]))
		u.contents = append(u.contents, policy.Member(rows[:]))
	}
	byValue := func(a, b policy.Member) int { return bytes.Compare(a[:], b[:]) }
	slices.SortFunc(u.patients, byValue)
	slices.SortFunc(u.contents, byValue)
	if u.decision, err = permit.decision.Digest(); err != nil {
		return nil, err
	}
	dec, err := decisionRecord(permit.decision)
	if err != nil {
		return nil, err
	}
	chosen, err := permit.rows.Digest()
	if err != nil {
		return nil, err
	}
	log, _ := v.decisions.Head()
	said := map[string]any{
		"dataset": st.spec.Data.Dataset, "round": round, "rowSet": v.salt(st, u.rowSet), "decision": u.decision, "policy": st.submission.Policy,
		"roots": verified.Roots, "patients": v.salt(st, chosen), "reasons": permit.rows.Reasons,
		"path": permit.rows.Path, "log": log,
	}
	if anchored != nil {
		said["anchor"] = map[string]any{"epoch": anchored.Newest.Epoch, "block": anchored.Newest.Block.String(), "number": anchored.Newest.Number, "entries": anchored.Size}
	}
	use, err := record("use", said)
	if err != nil {
		return nil, err
	}
	u.records = append(u.records, dec, use)
	return u, nil
}

// salt hides a digest of rows under the hospital's pseudonym key.
func (v *Vault) salt(st *study, d consilium.Digest) consilium.Digest {
	return consilium.DomainRowSet.Digest([]byte("vault"), v.cfg.Pseudonym, []byte(st.id), d[:])
}

// Local implements hatch.Vault.
func (v *Vault) Local(ctx context.Context, r hatch.LocalRequest) (hatch.LocalReply, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	st, err := v.find(r.Study)
	if err != nil {
		return hatch.LocalReply{}, err
	}
	state, err := st.take(r.State, r.Held)
	if err != nil {
		return hatch.LocalReply{}, err
	}
	if !r.Audit {
		st.state, st.round = state, r.Round
	}
	layout, err := st.analysis.Layout(state)
	if err != nil {
		return hatch.LocalReply{}, err
	}
	u, err := v.use(ctx, st, r.Round)
	if err != nil {
		return hatch.LocalReply{}, err
	}
	cohort := v.openedCohort(st, u)
	if _, why, err := v.decideCohort(ctx, st, cohort); err != nil {
		return hatch.LocalReply{}, err
	} else if why != nil {
		return hatch.LocalReply{}, why
	}
	// Before the analysis sees a row: if we crash here, a patient is told of a
	// study that was about to read, and never the other way round.
	if err := v.book.reads(*cohort); err != nil {
		return hatch.LocalReply{}, err
	}
	if err := st.keep(u); err != nil {
		return hatch.LocalReply{}, err
	}
	rows := &models.Rows{
		Site: st.places[st.position-1], Seed: net.RoundSeed(st.spec.Seed, st.site.ID, r.Round), Patients: len(st.people.names), Excluded: u.excluded,
		Batches: []models.Batch{{Record: st.kept.record, Selected: st.kept.selected, Patient: st.people.of, Holdout: st.people.holdout}},
		Kept:    st.kept.made,
	}
	w, err := fixed.NewWriter(layout)
	if err != nil {
		return hatch.LocalReply{}, err
	}
	if st.spec.Privacy.DP != nil {
		rowSet := v.salt(st, u.rowSet)
		if !r.Audit { // which releases nothing
			if err := v.pay(st, state, r.Round, rowSet); err != nil {
				return hatch.LocalReply{}, err
			}
		}
		rows.Noise = v.noise(st, r.Round, rowSet)
	}
	// The log, not this process, knows which round was last opened with this
	// hospital in its set.
	st.memory.settle(r.Included)
	memory, err := st.analysis.Local(ctx, state, st.memory.opened, rows, w)
	if err != nil {
		return hatch.LocalReply{}, err
	}
	lanes, err := w.Vector()
	if err != nil {
		return hatch.LocalReply{}, err
	}
	if !r.Audit {
		if err := v.remember(st, r, state, layout, u, cohort, lanes, memory); err != nil {
			return hatch.LocalReply{}, err
		}
	}
	st.lanes, st.made = lanes, r.Round
	return hatch.LocalReply{Contribute: true, Lanes: lanes.Len(), RowSet: u.rowSet, Decision: u.decision, Ledger: u.ledger, Records: u.records}, nil
}

// remember makes durable what a contribution leaves at this hospital: what a replay
// compares with, whose rows went into it, and what the site remembers.
func (v *Vault) remember(st *study, r hatch.LocalRequest, state *models.State, layout consilium.Layout, u *usable, cohort *openedCohort, lanes *fixed.Vector, memory []byte) error {
	if keepable(state, layout) {
		l := localReplay{Round: r.Round, RowSet: u.rowSet, Vector: vectorDigest(lanes), State: stateDigest(state), Included: &r.Included, Remembered: len(st.memory.opened) > 0}
		if err := v.replays.add(st.id, replayLocal, l); err != nil {
			return err
		}
	}
	if err := v.keepCohort(st, r.Round, cohort); err != nil {
		return err
	}
	return st.memory.put(r.Round, memory)
}

// pay takes what a round costs off the hospital's privacy budget, once for each
// set of rows. A study that could not be paid to its end, beside what others have
// spent and will, does not begin.
func (v *Vault) pay(st *study, state *models.State, round uint32, rowSet consilium.Digest) error {
	releases, err := models.RoundReleases(st.analysis, state)
	if err != nil {
		return err
	}
	whole, err := models.Releases(st.facts, v.cfg.Learned)
	if err != nil {
		return err
	}
	return v.budget.spend(debit{Study: st.id, Round: round, Dataset: st.spec.Data.Dataset, RowSet: rowSet, State: stateDigest(state), Releases: releases}, whole, v.cfg.Budget.orDefault())
}

// kept is what a study keeps of its rows from round to round, for as long as the
// same ones may be used.
type kept struct {
	rowSet   consilium.Digest
	selected []bool
	record   arrow.Record // with the derived columns
	made     *models.Kept
}

// keep begins anew unless every row and every choice is that of the last round.
// Rows are verified, permitted and chosen in every round all the same: what is
// kept was made from bytes that re-derived to the leaves of this row set.
func (st *study) keep(u *usable) error {
	if st.kept != nil && st.kept.rowSet == u.rowSet && slices.Equal(st.kept.selected, u.selected) {
		return nil
	}
	st.kept = nil
	derived, err := table.Derive(st.spec, st.record, u.selected)
	if err != nil {
		return err
	}
	st.kept = &kept{rowSet: u.rowSet, selected: u.selected, record: derived, made: new(models.Kept)}
	return nil
}

// noise seeds the noise of differential privacy: a secret, so that nobody else
// can take the noise away; of the round and its rows and never of the attempt, so
// that no repetition averages it out.
func (v *Vault) noise(st *study, round uint32, rowSet consilium.Digest) consilium.Digest {
	var r [4]byte
	binary.BigEndian.PutUint32(r[:], round)
	return consilium.DomainNoise.Digest(v.cfg.Pseudonym, []byte(st.id), r[:], rowSet[:])
}

// Lanes implements hatch.Vault.
func (v *Vault) Lanes(_ context.Context, id consilium.StudyID, round uint32, offset, count int) ([]int32, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	st, err := v.find(id)
	if err != nil {
		return nil, err
	}
	have := 0
	if st.lanes != nil {
		have = st.lanes.Len()
	}
	if st.made != round || offset < 0 || count < 0 || offset > have || count > have-offset {
		return nil, consilium.ErrInvalid.Withf("lanes %d to %d of round %d: the vault has %d of round %d", offset, offset+count, round, have, st.made)
	}
	out := make([]int32, count)
	if count > 0 {
		st.lanes.Copy(out, offset)
	}
	return out, nil
}

// Update implements hatch.Vault.
//
// The sums were verified by the gate before the first of them came: noise, ranges
// and tags. Here all of them are held against the layout and the number of
// contributors before the state changes. Of a long vector the next state is made in
// the memory of the one before; from the first change on until the update has
// ended, the study has no state at all, so that nobody can go on with half of one.
// If we crash there, or fail, the gate hands over the state that the round began
// with, which it keeps until the round has closed, and opens the sum again.
func (v *Vault) Update(_ context.Context, r hatch.UpdateRequest) (hatch.Shape, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	st, err := v.findState(r.Study)
	if err != nil {
		return hatch.Shape{}, err
	}
	layout, err := st.analysis.Layout(st.state)
	if err != nil {
		return hatch.Shape{}, err
	}
	if r.Round != st.round || st.opened != r.Round || !st.sums.complete() || st.sums.want != layout.Lanes() {
		return hatch.Shape{}, consilium.ErrInvalid.Withf("the sums of round %d are not all here, or the vault is at round %d", r.Round, st.round)
	}
	places := make([]consilium.Position, len(r.Contributors))
	for i, p := range r.Contributors {
		if p < 1 || int(p) > len(st.places) {
			return hatch.Shape{}, consilium.ErrInvalid.Withf("a contributor at position %d of %d", p, len(st.places))
		}
		places[i] = st.places[p-1]
	}
	// If Update fails, the gate hands the sums over again.
	sums := st.sums
	st.sums = nil
	defer sums.close()
	sum, err := sums.open(layout, len(places))
	if err != nil {
		return hatch.Shape{}, err
	}
	opened := models.Stream{Opened: models.Opened{Round: r.Round, Contributors: places}, Each: sum.Each}
	if opened.Values, err = sum.Exact(); err != nil {
		return hatch.Shape{}, err
	}
	next, err := st.advance(layout, opened, sums.file != nil)
	if err != nil {
		return hatch.Shape{}, err
	}
	if keepable(next, layout) {
		kept, err := v.replays.addSums(st.id, r.Round, sums, func(n int) { st.tidier.pass(n, next.Size()) })
		if err != nil {
			return hatch.Shape{}, err
		}
		if err := v.replays.add(st.id, replayUpdate, updateReplay{r.Round, places, kept, stateDigest(next)}); err != nil {
			return hatch.Shape{}, err
		}
	}
	st.state, st.round = next, r.Round+1
	return st.shape()
}

// advance makes the next state: with long in the memory of the study's own, which
// is then gone.
func (st *study) advance(layout consilium.Layout, o models.Stream, long bool) (*models.State, error) {
	if a, ok := st.analysis.(models.Streamed); ok && long {
		state := st.state
		st.state = nil
		return a.Advance(state, o)
	}
	whole, err := o.Whole(layout)
	if err != nil {
		return nil, err
	}
	return st.analysis.Update(st.state, whole)
}

// integrityRecords names what the ledger check found. Rows appear by salted
// names only.
func integrityRecords(id consilium.StudyID, verified *provenance.Verified) ([]hatch.Record, error) {
	if len(verified.Findings) == 0 {
		return nil, nil
	}
	type finding struct {
		Kind string           `json:"kind"`
		Name consilium.Digest `json:"name"`
	}
	var list []finding
	for _, f := range verified.Findings {
		list = append(list, finding{f.Kind.String(), f.Name})
	}
	rec, err := record("integrity", map[string]any{"findings": list})
	if err != nil {
		return nil, err
	}
	return []hatch.Record{rec}, nil
}

// assemble merges what an analysis says with what the vault adds and lists
// the assumptions.
func assemble(analysis json.RawMessage, extra map[string]any, assume []string) ([]byte, error) {
	var doc map[string]any
	if err := json.Unmarshal(analysis, &doc); err != nil {
		return nil, err
	}
	for k, v := range extra {
		if _, said := doc[k]; said && k == "dp" {
			continue // the analysis says how it was spent, too
		}
		doc[k] = v
	}
	list := []any{}
	if have, ok := doc["assumptions"].([]any); ok {
		list = append(list, have...)
	}
	for _, a := range assume {
		list = append(list, a)
	}
	doc["assumptions"] = list
	return canon.Marshal(doc)
}
