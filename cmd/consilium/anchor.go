package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"consilium"
	"consilium/internal/durable"
	"consilium/internal/table"
	"consilium/provenance"
	"consilium/worker/vault"
)

// Anchoring has two ends, as the worker has: the child reads rows, salts and
// manifests and drafts batches; the parent signs their headers and writes the
// ledger. A batch is kept before its header is logged: after a crash between
// the two the header is found and logged at the next anchoring, while a logged
// header without its batch would be an accusation that nobody can answer.

// step is what the child says.
type step struct {
	Dataset string         `json:"dataset"`
	Known   [][]byte       `json:"known"`   // first: the ledger entries of all kept batches
	Payload []byte         `json:"payload"` // a batch header to sign
	Kept    bool           `json:"kept"`    // the signed batch is on disk
	Done    bool           `json:"done"`    // with the dataset
	Rows    int            `json:"rows"`    // of the dataset, or of the batch
	New     int            `json:"new"`     // rows that were not anchored before
	Changed int            `json:"changed"` // anchored rows that these replace
	Gone    int            `json:"gone"`    // anchored rows that the table no longer holds, and nothing replaces
	Wrong   []string       `json:"wrong"`   // what a stream's own chain shows: gaps, forks, forged batches
	Error   string         `json:"error"`
	Code    consilium.Code `json:"code"`
}

// signedEntry is the parent's answer: the signed header as a ledger entry, or
// nothing to go on.
type signedEntry struct {
	Entry []byte `json:"entry"`
}

// anchorer is the child's end.
type anchorer struct {
	*vaultSettings
	e       *env
	salts   *provenance.Salts
	batches *provenance.BatchDir
	gate    *provenance.Gate
}

func (s *vaultSettings) anchor(ctx context.Context, e *env) error {
	lock, err := vault.Prepare(s.Dir)
	if err := greet(e, err); err != nil {
		return err
	}
	defer lock.Close()
	if err := s.anchorAll(ctx, e); err != nil {
		err = durable.Full(err)
		return errors.Join(writeFrame(e.stdout, step{Error: table.Local(err), Code: consilium.CodeOf(err)}), err)
	}
	return nil
}

// clerk opens what the tasks on rows need.
func (s *vaultSettings) clerk(e *env) (*anchorer, error) {
	kek, err := provenance.ParseKEK(s.KEK)
	if err != nil {
		return nil, err
	}
	a := &anchorer{vaultSettings: s, e: e}
	if a.salts, err = provenance.OpenSalts(filepath.Join(s.Dir, "salts"), kek); err != nil {
		return nil, err
	}
	if a.batches, err = provenance.OpenBatchDir(filepath.Join(s.Dir, "batches"), kek); err != nil {
		return nil, err
	}
	a.gate, err = provenance.NewGate(provenance.GateConfig{Ledger: s.Ledger, Site: s.SiteKey, Witnesses: s.Witnesses.AnyAge()})
	return a, err
}

func (s *vaultSettings) anchorAll(ctx context.Context, e *env) error {
	a, err := s.clerk(e)
	if err != nil {
		return err
	}
	list, err := a.batches.List()
	if err != nil {
		return err
	}
	known := step{Known: [][]byte{}}
	for _, b := range list {
		known.Known = append(known.Known, b.Header.Entry())
	}
	var ok signedEntry
	if err := errors.Join(writeFrame(e.stdout, known), readFrame(e.stdin, &ok)); err != nil {
		return err
	}
	for _, d := range s.Datasets {
		if err := a.dataset(ctx, d); err != nil {
			return err
		}
	}
	for i := range s.Streams {
		rec, wrong, err := s.Streams[i].read(s.Pseudonym)
		if err != nil {
			return err
		}
		if err := a.put(ctx, s.Streams[i].Name, s.Streams[i].Stream, rec, wrong, true); err != nil {
			return err
		}
	}
	return nil
}

// dataset anchors the rows that no batch holds yet. What is anchored keeps its
// leaves: an analysis compares cohorts by them.
func (a *anchorer) dataset(ctx context.Context, d vault.Dataset) error {
	t, err := a.read(d)
	if err != nil {
		return err
	}
	return a.put(ctx, d.Name, d.Stream, t.Record, nil, false)
}

// put anchors the rows of rec that no batch of the stream holds. A table's
// owner corrects it: a patient's new rows replace those of the same patient that
// are gone. A row that is gone without one, of a patient who has no new row,
// stays missing, and every audit says so: otherwise one new row would hide any
// number of deleted ones. Nobody corrects what a device or a trading partner reported: what is gone
// from a stream stays missing.
func (a *anchorer) put(ctx context.Context, name string, stream provenance.ID, rec provenance.Record, wrong []string, reported bool) error {
	n := int(rec.NumRows())
	list, err := a.batches.List()
	if err != nil {
		return err
	}
	var last *provenance.SignedHeader
	for _, b := range list {
		if b.Header.Header.Stream == stream && (last == nil || b.Header.Header.Seq > last.Header.Seq) {
			last = b.Header
		}
	}
	fresh := make([]bool, n)
	var gone []provenance.LeafRef
	if last == nil {
		for i := range fresh {
			fresh[i] = true
		}
	} else {
		in := provenance.Input{Stream: stream, Batches: ofStream(list, stream), Records: []provenance.Record{rec}, Salts: a.salts}
		v, err := a.gate.Verify(ctx, provenance.DirView(a.LedgerDir), in)
		if err != nil {
			return err
		}
		for i := range fresh {
			fresh[i] = !v.Rows[0][i]
		}
		for _, f := range v.Findings {
			if (f.Kind == provenance.FindMissing || f.Kind == provenance.FindAltered) && f.Leaf >= 0 {
				gone = append(gone, provenance.LeafRef{Batch: f.Batch, Leaf: uint32(f.Leaf)})
			}
		}
	}
	gone, lost, err := replaced(rec, fresh, gone, list)
	if err != nil {
		return err
	}
	done := step{Dataset: name, Done: true, Rows: n, Changed: len(gone), Gone: lost, Wrong: wrong}
	if reported {
		done.Gone, done.Changed = lost+len(gone), 0
		// What came in between earlier batches makes one batch all the same.
		if rec, err = provenance.SelectRows(rec, fresh); err != nil {
			return err
		}
		n, gone = int(rec.NumRows()), nil
		fresh = slices.Repeat([]bool{true}, n)
	}
	for from := 0; from < n; {
		if !fresh[from] {
			from++
			continue
		}
		to := from
		for to < n && fresh[to] && to-from < provenance.MaxBatchLeaves {
			to++
		}
		now := time.Now()
		draft, err := provenance.NewBatch(rec.NewSlice(int64(from), int64(to)), a.salts, provenance.BatchOptions{
			Origin: a.Origin, Stream: stream, After: last, From: now.Add(-time.Second).Unix(), To: now.Unix(), Supersedes: gone,
		})
		if err != nil {
			return err
		}
		gone = nil // the first batch replaces them
		var reply signedEntry
		if err := errors.Join(writeFrame(a.e.stdout, step{Dataset: name, Payload: draft.Payload, Rows: to - from}), readFrame(a.e.stdin, &reply)); err != nil {
			return err
		}
		if last, err = provenance.ParseSignedHeader(reply.Entry); err != nil {
			return err
		}
		if last.Header.Root != draft.Header.Root {
			return consilium.ErrLedger.Withf("the signed header is of another batch")
		}
		if err := a.batches.Put(provenance.Batch{Header: last, Manifest: draft.Manifest}); err != nil {
			return err
		}
		if err := errors.Join(writeFrame(a.e.stdout, step{Dataset: name, Kept: true}), readFrame(a.e.stdin, &reply)); err != nil {
			return err
		}
		done.New += to - from
		from = to
	}
	return writeFrame(a.e.stdout, done)
}

// replaced parts the leaves that are gone into those of patients who have a
// fresh row, which replaces them, and the number of the others.
func replaced(rec provenance.Record, fresh []bool, gone []provenance.LeafRef, list []provenance.Batch) (mine []provenance.LeafRef, lost int, err error) {
	if len(gone) == 0 {
		return nil, 0, nil
	}
	patients, err := provenance.PatientsOf(rec)
	if err != nil {
		return nil, 0, err
	}
	renewed := map[provenance.Pseudonym]bool{}
	for i, p := range patients {
		if fresh[i] {
			renewed[p] = true
		}
	}
	manifests := map[provenance.ID]*provenance.Manifest{}
	for _, b := range list {
		manifests[b.Header.Header.Batch] = b.Manifest
	}
	for _, g := range gone {
		if m := manifests[g.Batch]; m != nil {
			if p, ok := m.PatientOf(g.Leaf); ok && renewed[p] {
				mine = append(mine, g)
				continue
			}
		}
		lost++
	}
	return mine, lost, nil
}

// ofStream leaves the batches of one table: a hospital's tables are streams of
// their own in one ledger.
func ofStream(list []provenance.Batch, stream provenance.ID) []provenance.Batch {
	return slices.DeleteFunc(slices.Clone(list), func(b provenance.Batch) bool { return b.Header.Header.Stream != stream })
}

func (a *anchorer) read(d vault.Dataset) (*table.Table, error) {
	f, err := os.Open(d.Path)
	if err != nil {
		return nil, consilium.ErrData.Withf("dataset %s: %w; correct its path in the worker's configuration", d.Name, err)
	}
	defer f.Close()
	return table.Read(f, table.Options{
		Spec: &consilium.Spec{Data: consilium.DataRef{Dataset: d.Name, Patient: d.Patient}, Columns: d.Columns},
		Bind: d.Bind, Key: a.Pseudonym, File: d.Path, RowPatients: d.RowPatients,
	})
}

// publishWithin bounds how long a command waits for the witness.
const publishWithin = 30 * time.Second

// runLedgerAnchor is the parent's end.
func runLedgerAnchor(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	path := flags.String("config", "", "the worker's config `file`")
	every := flags.Duration("every", 0, "go on until the process is stopped, anchoring what has come at this `interval`")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usagef("unexpected %q", rest[0])
	}
	if *every < 0 || *every > 0 && *every < time.Second {
		return usagef("--every %v: at least 1s", *every)
	}
	quietLedger()
	h, err := openHospital(*path, e.stderr)
	if err != nil {
		return err
	}
	if len(h.datasets)+len(h.streamed) == 0 {
		return configError(*path, nil, "bind at least one table under datasets: or streams:", "there is nothing to anchor")
	}
	for {
		err := h.anchorOnce(ctx, e, *every > 0)
		if *every == 0 {
			return err
		}
		if err != nil {
			fmt.Fprintln(e.stderr, "consilium:", err) // the next round tries again
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(*every):
		}
	}
}

// anchorOnce anchors what is new and says so. A stream whose own chain is
// broken is an error, after all that is whole has been anchored.
func (h *hospital) anchorOnce(ctx context.Context, e *env, quiet bool) error {
	ctx, cancel := whileRoom(ctx, h.config.Data)
	defer cancel()
	done, note, err := h.anchor(ctx)
	if err != nil {
		return noRoom(ctx, h.config.Data, err)
	}
	if e.json {
		if err := json.NewEncoder(e.stdout).Encode(map[string]any{"datasets": done, "checkpoint": string(note)}); err != nil {
			return err
		}
	}
	var wrong []string
	for _, x := range done {
		wrong = append(wrong, x.Wrong...)
		if e.json || quiet && x.New == 0 && x.Gone == 0 && x.Changed == 0 {
			continue
		}
		fmt.Fprintf(e.stdout, "%s: %d rows, %d of them newly anchored", x.Dataset, x.Rows, x.New)
		if x.Changed > 0 {
			fmt.Fprintf(e.stdout, "; they replace %d earlier ones of the same patients", x.Changed)
		}
		if x.Gone > 0 {
			fmt.Fprintf(e.stdout, "; %d anchored rows are gone from the table, and every audit names them", x.Gone)
		}
		fmt.Fprintln(e.stdout)
	}
	if !e.json && !quiet {
		fmt.Fprintln(e.stdout, "the witness has cosigned the ledger")
	}
	if len(wrong) > 0 {
		return &consilium.Error{Code: consilium.ErrLedger.Code, Msg: strings.Join(wrong, "; "), Next: "what is whole is anchored; a gap closes when its batches arrive"}
	}
	return nil
}

func (h *hospital) anchor(ctx context.Context) (done []step, checkpoint []byte, err error) {
	d, err := openDesk(ctx, h.kit, &h.config)
	if errors.Is(err, durable.ErrLocked) {
		return nil, nil, &consilium.Error{Code: consilium.ErrUnavailable.Code, Msg: "the worker is running", Next: "stop it, anchor, and start it again: it reads its tables once"}
	}
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	streams, err := h.streams()
	if err != nil {
		return nil, nil, err
	}
	drawn := false
	for _, name := range h.tables() {
		if _, ok := streams[name]; !ok {
			streams[name], drawn = provenance.NewID(), true
		}
	}
	if drawn {
		b, err := json.MarshalIndent(streams, "", " ")
		if err != nil {
			return nil, nil, err
		}
		if err := durable.WriteFile(h.streamsFile(), append(b, '\n'), 0o600); err != nil {
			return nil, nil, err
		}
	}
	settings, err := h.settings("anchor")
	if err != nil {
		return nil, nil, err
	}
	c, err := startVault(ctx, settings, h.config.Isolation, io.Discard, h.log)
	if err != nil {
		return nil, nil, err
	}
	defer c.kill()
	defer context.AfterFunc(ctx, c.kill)()
	next := func() (step, error) {
		var s step
		if err := readFrame(c.out, &s); err != nil {
			<-c.ended
			return s, errors.Join(context.Cause(ctx), fmt.Errorf("the vault: %w", err), c.err)
		}
		if s.Error != "" {
			return s, &consilium.Error{Code: s.Code, Msg: s.Error}
		}
		return s, nil
	}
	first, err := next()
	if err != nil {
		return nil, nil, err
	}
	last, err := d.relog(ctx, first.Known)
	if err == nil {
		err = h.recosigned(ctx, d)
	}
	if err != nil {
		return nil, nil, err
	}
	if err := writeFrame(c.in, signedEntry{}); err != nil {
		return nil, nil, err
	}
	for len(done) < len(h.tables()) {
		s, err := next()
		if err != nil {
			return nil, nil, err
		}
		if s.Done {
			done = append(done, s)
			continue
		}
		signed, err := provenance.SignHeader(h.kit.signer, s.Payload)
		if err != nil {
			return nil, nil, err
		}
		if err := writeFrame(c.in, signedEntry{signed.Entry()}); err != nil {
			return nil, nil, err
		}
		if kept, err := next(); err != nil || !kept.Kept {
			return nil, nil, errors.Join(err, errors.New("the vault has not kept a batch"))
		}
		if last, err = d.ledger().Append(ctx, signed.Entry()); err != nil {
			return nil, nil, err
		}
		if err := writeFrame(c.in, signedEntry{}); err != nil {
			return nil, nil, err
		}
	}
	waiting, cancel := context.WithTimeout(ctx, publishWithin)
	defer cancel()
	checkpoint, err = d.ledger().Await(waiting, last)
	return done, checkpoint, err
}

// recosigned has the ledger cosigned as it stands where the roster in force names
// other witnesses than those that cosigned it last: the vault believes no others.
func (h *hospital) recosigned(ctx context.Context, d *desk) error {
	raw, err := d.ledger().Checkpoint(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	cp, err := provenance.ParseCheckpoint(raw)
	if err != nil || cp.Size == 0 {
		return err
	}
	site, _ := h.kit.roster.Site(h.site)
	if _, err := provenance.VerifyCheckpoint(raw, provenance.CheckpointPolicy{Log: site.Ledger, Witnesses: d.policy.AnyAge()}, time.Now()); !errors.Is(err, provenance.ErrQuorum) {
		return nil // believed; or a trouble that the vault names
	}
	waiting, cancel := context.WithTimeout(ctx, publishWithin)
	defer cancel()
	return h.published(waiting, d.ledger())
}

// relog logs kept batches that a crash left out of the ledger, and returns the
// index of the last entry.
func (d *desk) relog(ctx context.Context, known [][]byte) (uint64, error) {
	var cp provenance.Checkpoint
	raw, err := d.ledger().Checkpoint(ctx)
	if err == nil {
		var c *provenance.Checkpoint
		if c, err = provenance.ParseCheckpoint(raw); err == nil {
			cp = *c
		}
	}
	// A ledger that was interrupted at its birth has published nothing yet.
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	if cp.Size == 0 && len(known) == 0 {
		return 0, nil
	}
	var entries [][]byte
	if cp.Size > 0 {
		if entries, err = d.ledger().Entries(ctx, 0, cp.Size, cp.Size); err != nil {
			return 0, err
		}
	}
	last := max(cp.Size, 1) - 1
	logged := map[string]bool{}
	for _, e := range entries {
		logged[string(e)] = true
	}
	added := false
	for _, k := range known {
		if !logged[string(k)] {
			if last, err = d.ledger().Append(ctx, slices.Clone(k)); err != nil {
				return 0, err
			}
			added = true
		}
	}
	if added {
		waiting, cancel := context.WithTimeout(ctx, publishWithin)
		defer cancel()
		_, err = d.ledger().Await(waiting, last)
	}
	return last, err
}
