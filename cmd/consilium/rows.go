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
	"strings"
	"time"

	"consilium"
	"consilium/internal/durable"
	"consilium/internal/pinned"
	"consilium/internal/table"
	"consilium/provenance"
	"consilium/worker/vault"
)

// What a hospital does with single rows, apart from studies: re-derive them,
// hand a patient the proof of the patient's own, erase a patient. All of it
// happens in the vault's process; the parent sees counts, and receipts.

// clerkReply is the child's one answer.
type clerkReply struct {
	Tables   []tableReport   `json:"tables,omitempty"`
	Receipts [][]byte        `json:"receipts,omitempty"`
	Erased   *erasure        `json:"erased,omitempty"`
	Replayed *vault.Replayed `json:"replayed,omitempty"`
	Error    string          `json:"error"`
	Code     consilium.Code  `json:"code"`
}

// tableReport is one table held against the ledger.
type tableReport struct {
	Name       string   `json:"name"`
	Verified   int      `json:"verified"`
	Erased     int      `json:"erased"`
	Altered    int      `json:"altered"`
	Missing    int      `json:"missing"`
	Added      int      `json:"added"`
	Superseded int      `json:"superseded"`
	Batches    int      `json:"batches"`
	Bad        []string `json:"bad"` // batches that do not verify, and what a stream's chain shows
}

func (t *tableReport) whole() bool {
	return t.Altered+t.Missing+t.Added+t.Superseded == 0 && len(t.Bad) == 0
}

// erasure is what was destroyed.
type erasure struct {
	Key    bool `json:"key"`    // the patient's salt key
	Leaves int  `json:"leaves"` // that are hashes of nothing now
	Rows   int  `json:"rows"`   // taken out of tables
	Files  int  `json:"files"`  // of devices
}

func (s *vaultSettings) clerical(ctx context.Context, e *env) error {
	lock, err := vault.Prepare(s.Dir)
	if err := greet(e, err); err != nil {
		return err
	}
	defer lock.Close()
	a, err := s.clerk(e)
	var reply clerkReply
	if err == nil {
		switch s.Task {
		case "rows":
			reply.Tables, err = a.reports(ctx)
		case "receipt":
			reply.Receipts, err = a.receipts(ctx)
		case "erase":
			reply.Erased, err = a.erase()
		}
	}
	if err != nil {
		reply = clerkReply{Erased: reply.Erased, Error: table.Local(durable.Full(err)), Code: consilium.CodeOf(err)}
	}
	return errors.Join(writeFrame(e.stdout, reply), err)
}

// clerk runs one task in a vault of its own. With an error there may be a reply:
// what was done before it. mark, which may be nil, stands from before the vault
// begins, and not where it never did.
func (h *hospital) clerk(ctx context.Context, task string, set func(*vaultSettings), mark *erasureMark) (*clerkReply, error) {
	settings, err := h.settings(task)
	if err != nil {
		return nil, err
	}
	set(settings)
	lock, err := durable.Prepare(filepath.Join(h.config.Data, deskDir), "worker-desk")
	if errors.Is(err, durable.ErrLocked) {
		return nil, &consilium.Error{Code: consilium.ErrUnavailable.Code, Msg: "the worker is running", Next: "stop it first: the vault has one process"}
	}
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := mark.set(); err != nil {
		return nil, err
	}
	c, err := startVault(ctx, settings, h.config.Isolation, io.Discard, h.log)
	if err != nil {
		return nil, errors.Join(err, mark.undo())
	}
	defer c.kill()
	defer context.AfterFunc(ctx, c.kill)()
	var reply clerkReply
	if err := readFrame(c.out, &reply); err != nil {
		<-c.ended
		return nil, errors.Join(context.Cause(ctx), fmt.Errorf("the vault: %w", err), c.err)
	}
	if reply.Error != "" {
		return &reply, &consilium.Error{Code: reply.Code, Msg: reply.Error}
	}
	return &reply, nil
}

// source is one table or stream with its rows.
type source struct {
	name   string
	stream provenance.ID
	rec    provenance.Record
	wrong  []string
}

func (a *anchorer) sources() ([]source, error) {
	var out []source
	for _, d := range a.Datasets {
		t, err := a.read(d)
		if err != nil {
			return nil, err
		}
		out = append(out, source{name: d.Name, stream: d.Stream, rec: t.Record})
	}
	for i := range a.Streams {
		rec, wrong, err := a.Streams[i].read(a.Pseudonym)
		if err != nil {
			return nil, err
		}
		out = append(out, source{a.Streams[i].Name, a.Streams[i].Stream, rec, wrong})
	}
	return out, nil
}

func (a *anchorer) verify(ctx context.Context, s *source) (*provenance.Verified, []provenance.Batch, error) {
	list, err := a.batches.List()
	if err != nil {
		return nil, nil, err
	}
	list = ofStream(list, s.stream)
	v, err := a.gate.Verify(ctx, provenance.DirView(a.LedgerDir), provenance.Input{Stream: s.stream, Batches: list, Records: []provenance.Record{s.rec}, Salts: a.salts})
	return v, list, err
}

func (a *anchorer) reports(ctx context.Context) ([]tableReport, error) {
	all, err := a.sources()
	if err != nil {
		return nil, err
	}
	out := []tableReport{}
	for i := range all {
		v, _, err := a.verify(ctx, &all[i])
		if err != nil {
			return nil, err
		}
		n := v.Counts
		t := tableReport{Name: all[i].name, Verified: n.Verified, Erased: n.Erased, Altered: n.Altered, Missing: n.Missing, Added: n.Added,
			Superseded: n.Superseded, Batches: len(v.Batches), Bad: append([]string{}, all[i].wrong...)}
		for _, b := range v.Batches {
			if !b.OK {
				t.Bad = append(t.Bad, fmt.Sprintf("batch %s: %s", b.ID, b.Reason))
			}
		}
		out = append(out, t)
	}
	return out, nil
}

func (h *hospital) verifyRows(ctx context.Context) ([]tableReport, error) {
	r, err := h.clerk(ctx, "rows", func(*vaultSettings) {}, nil)
	if err != nil {
		return nil, err
	}
	return r.Tables, nil
}

// showTables prints the reports, and is an error where a table is not what is
// anchored.
func showTables(e *env, tables []tableReport) error {
	var bad []string
	for i := range tables {
		t := &tables[i]
		if !e.json {
			fmt.Fprintf(e.stdout, "%s: verified %d, erased %d", t.Name, t.Verified, t.Erased)
			for _, x := range []struct {
				n    int
				what string
			}{{t.Altered, "altered"}, {t.Missing, "missing"}, {t.Added, "not anchored"}, {t.Superseded, "replaced by a correction"}} {
				if x.n > 0 {
					fmt.Fprintf(e.stdout, ", %s %d", x.what, x.n)
				}
			}
			fmt.Fprintf(e.stdout, ", in %d batches\n", t.Batches)
			for _, b := range t.Bad {
				fmt.Fprintf(e.stdout, "  %s\n", b)
			}
		}
		if !t.whole() {
			bad = append(bad, t.Name)
		}
	}
	if len(bad) > 0 {
		return &consilium.Error{Code: consilium.ErrLedger.Code, Msg: strings.Join(bad, ", ") + ": not what is anchored",
			Next: "anchor corrections with `consilium ledger anchor`; what nobody corrected needs an explanation"}
	}
	return nil
}

// receipts makes one for each anchored row of a patient.
func (a *anchorer) receipts(ctx context.Context) ([][]byte, error) {
	all, err := a.sources()
	if err != nil {
		return nil, err
	}
	patient := provenance.Pseudonym(table.Pseudonym(a.Pseudonym, a.Patient))
	out := [][]byte{}
	found := false
	for i := range all {
		if a.Dataset != "" && all[i].name != a.Dataset {
			continue
		}
		found = true
		v, list, err := a.verify(ctx, &all[i])
		if err != nil {
			return nil, err
		}
		patients, err := provenance.PatientsOf(all[i].rec)
		if err != nil {
			return nil, err
		}
		for r, p := range patients {
			if p != patient || !v.Rows[0][r] {
				continue
			}
			receipt, err := a.receipt(ctx, list, all[i].rec, r, patient)
			if err != nil {
				return nil, err
			}
			out = append(out, receipt)
		}
	}
	switch {
	case !found:
		return nil, consilium.ErrInvalid.Withf("no table %s; the tables are those under datasets: and streams:", a.Dataset)
	case len(out) == 0:
		return nil, consilium.ErrData.Withf("no anchored row of this patient verifies; check the number, and `consilium ledger verify --rows`")
	}
	return out, nil
}

func (a *anchorer) receipt(ctx context.Context, list []provenance.Batch, rec provenance.Record, row int, patient provenance.Pseudonym) ([]byte, error) {
	err := consilium.ErrLedger.Withf("no batch holds the row")
	for _, b := range list {
		if len(b.Manifest.LeavesOf(patient)) == 0 {
			continue
		}
		r, rerr := a.gate.Receipt(ctx, provenance.DirView(a.LedgerDir), b, rec, row, a.salts)
		if rerr != nil {
			err = consilium.ErrLedger.With(rerr)
			continue
		}
		return r.Marshal()
	}
	return nil, err
}

func runLedgerReceipt(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	path := flags.String("config", "", "the worker's config `file`")
	patient := flags.String("patient", "", "the hospital's own patient `number`")
	dataset := flags.String("dataset", "", "only rows of this table or `stream`")
	out := flags.String("out", "", "new `directory` for the receipts, one file a row")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 || *patient == "" || *out == "" {
		return usagef("--config FILE, --patient NUMBER and --out DIR are needed")
	}
	h, err := openHospital(*path, e.stderr)
	if err != nil {
		return err
	}
	r, err := h.clerk(ctx, "receipt", func(s *vaultSettings) { s.Patient, s.Dataset = *patient, *dataset }, nil)
	if err != nil {
		return err
	}
	if err := os.Mkdir(*out, 0o700); err != nil {
		return fmt.Errorf("%w; name a directory that does not exist yet", err)
	}
	for i, b := range r.Receipts {
		if err := durable.WriteFile(filepath.Join(*out, fmt.Sprintf("receipt-%d.json", i+1)), b, 0o600); err != nil {
			return err
		}
	}
	roster, err := os.ReadFile(h.config.Roster)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(*out, "roster.json"), roster, 0o644); err != nil {
		return err
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"receipts": len(r.Receipts)})
	}
	fmt.Fprintf(e.stdout, "%d receipts in %s; they are the patient's own data\ncheck one anywhere, offline: consilium ledger verify --receipt %s --roster %s\n",
		len(r.Receipts), *out, filepath.Join(*out, "receipt-1.json"), filepath.Join(*out, "roster.json"))
	return nil
}

// verifyReceipt checks one receipt against a roster.
func verifyReceipt(e *env, path, rosterPath, boardPath string) error {
	if rosterPath == "" {
		return usagef("--receipt needs --roster FILE, the federation's signed roster")
	}
	roster, err := pinned.OpenRoster(rosterPath, boardPath)
	if err != nil {
		return err
	}
	witnesses, err := provenance.WitnessesOf(roster.Roster)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	r, err := provenance.ParseReceipt(b)
	if err != nil {
		return consilium.ErrLedger.Withf("%s: %w", path, err)
	}
	cp, err := provenance.ParseCheckpoint([]byte(r.Checkpoint))
	if err != nil {
		return consilium.ErrLedger.Withf("%s: %w", path, err)
	}
	for i := range roster.Sites {
		s := &roster.Sites[i]
		if name, err := provenance.LogName(s.Ledger); err != nil || name != cp.Origin {
			continue
		}
		facts, err := r.Verify(provenance.ReceiptPolicy{Ledger: s.Ledger, Sites: []consilium.PublicKey{s.Key}, Witnesses: witnesses})
		if err != nil {
			return fmt.Errorf("%s does not verify: %w", path, err)
		}
		return showReceipt(e, s, facts, roster)
	}
	return consilium.ErrLedger.Withf("%s is of the ledger %s, which is of no hospital in the roster", path, cp.Origin)
}

func showReceipt(e *env, s *consilium.Site, f *provenance.ReceiptFacts, roster *pinned.Roster) error {
	if e.json {
		values := map[string]any{}
		for _, v := range f.Values {
			if v.Null {
				values[v.Column.Name] = nil
			} else {
				values[v.Column.Name] = v.Text
			}
		}
		return json.NewEncoder(e.stdout).Encode(map[string]any{"site": s.ID, "origin": f.Origin, "batch": f.Header.Batch, "size": f.Checkpoint.Size,
			"cosigned": f.Checkpoint.Time.UTC().Format(time.RFC3339), "values": values, "board": roster.Pinned})
	}
	fmt.Fprintf(e.stdout, "%s committed to this row; batch %s of its ledger, cosigned %s\n", s.Name, f.Header.Batch, f.Checkpoint.Time.UTC().Format(time.RFC3339))
	for _, v := range f.Values {
		text := v.Text
		if v.Null {
			text = "(missing)"
		}
		fmt.Fprintf(e.stdout, "  %s: %s", v.Column.Name, text)
		if v.Column.Unit != "" && !v.Null {
			fmt.Fprintf(e.stdout, " %s", v.Column.Unit)
		}
		fmt.Fprintln(e.stdout)
	}
	if !roster.Pinned {
		fmt.Fprintln(e.stdout, roster.Unpinned())
	}
	return nil
}

// erase destroys a patient's key and rows, and says what it destroyed, with an
// error too. The key goes before the manifests'
// names: if we crash here, the leaves are stubs already, and the next run
// finishes.
func (a *anchorer) erase() (*erasure, error) {
	patient := provenance.Pseudonym(table.Pseudonym(a.Pseudonym, a.Patient))
	out := &erasure{}
	failed := func(err error) (*erasure, error) {
		if !a.Remove {
			out.Rows, out.Files = 0, 0 // were counted
		}
		return out, err
	}
	var held []string
	for _, d := range a.Datasets {
		n, err := a.eraseRows(d, patient)
		if err != nil {
			return failed(err)
		}
		if out.Rows += n; n > 0 {
			held = append(held, d.Name)
		}
	}
	for i := range a.Streams {
		n, err := a.eraseDevices(&a.Streams[i])
		out.Files += n
		if err != nil {
			return failed(err)
		}
		if n > 0 {
			held = append(held, a.Streams[i].Name)
		}
	}
	if len(held) > 0 && !a.Remove {
		return &erasure{}, &consilium.Error{Code: consilium.ErrData.Code, Msg: strings.Join(held, ", ") + " still holds rows of this patient",
			Next: "delete them at their source and run this again, or give --rows: they are then taken out of the files"}
	}
	var err error
	if out.Key, err = a.salts.Erase(patient); err != nil {
		return out, err
	}
	if out.Leaves, err = a.batches.Erase(patient); err != nil {
		return out, err
	}
	return out, nil
}

// eraseRows counts a patient's rows in a table and, if asked, writes it
// without them.
func (a *anchorer) eraseRows(d vault.Dataset, patient provenance.Pseudonym) (int, error) {
	if d.RowPatients {
		return 0, nil // its rows are numbered, not the hospital's patients
	}
	t, err := a.read(d)
	if err != nil {
		return 0, err
	}
	drop := map[int]bool{} // lines
	n := 0
	src, err := os.ReadFile(d.Path)
	if err != nil {
		return 0, err
	}
	lines := strings.SplitAfter(string(src), "\n")
	for i, id := range t.IDs {
		if table.Pseudonym(a.Pseudonym, id) != patient {
			continue
		}
		n++
		end := len(lines) + 1
		if i+1 < len(t.Lines) {
			end = t.Lines[i+1]
		}
		for l := t.Lines[i]; l < end; l++ {
			drop[l] = true
		}
	}
	if n == 0 || !a.Remove {
		return n, nil
	}
	var left strings.Builder
	for i, l := range lines {
		if !drop[i+1] {
			left.WriteString(l)
		}
	}
	return n, durable.WriteFile(d.Path, []byte(left.String()), 0o600)
}

// eraseDevices does the same with what a patient's devices delivered.
func (a *anchorer) eraseDevices(s *streamSource) (int, error) {
	if s.Kind != streamWearable {
		return 0, nil
	}
	list, err := s.devices()
	if err != nil {
		return 0, err
	}
	worn := map[provenance.ID]bool{}
	var keep deviceList
	keep.Devices = []deviceEntry{}
	for _, d := range list.Devices {
		if d.Patient == a.Patient {
			worn[d.Device] = true
		} else {
			keep.Devices = append(keep.Devices, d)
		}
	}
	var files []string
	err = s.deliveries(func(name string, b []byte) error {
		d, err := provenance.ParseDeviceBatch(b)
		if err == nil && worn[d.Batch.Device] {
			files = append(files, name)
		}
		return err
	})
	if err != nil || len(worn) == 0 || !a.Remove {
		return len(files), err
	}
	for i, f := range files {
		if err := os.Remove(filepath.Join(s.Path, f)); err != nil {
			return i, err
		}
	}
	// The list goes last: a crash before it leaves a device without deliveries.
	b, err := json.MarshalIndent(&keep, "", " ")
	if err != nil {
		return len(files), err
	}
	return len(files), durable.WriteFile(s.Devices, append(b, '\n'), 0o600)
}

const erasureFile = "erasure-to-record"

// erasureMark is a file that stands from before an erasure begins until the ledger
// has the record of it: if we crash in between, the next run finds nothing left to
// erase, and records what this one did. So it stands only where the vault may have
// begun: a mark of a run that came to nothing would make the next one sign the record
// of an erasure that never was.
type erasureMark struct {
	path   string
	before bool // it stood when this run began
}

func (m *erasureMark) set() error {
	if m == nil {
		return nil
	}
	_, err := os.Stat(m.path)
	if m.before = err == nil; m.before {
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.WriteFile(m.path, nil, 0o600)
}

// undo takes back what set did.
func (m *erasureMark) undo() error {
	if m == nil || m.before {
		return nil
	}
	return os.Remove(m.path)
}

func runLedgerErase(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	path := flags.String("config", "", "the worker's config `file`")
	patient := flags.String("patient", "", "the hospital's own patient `number`")
	rows := flags.Bool("rows", false, "also take the patient's rows out of the tables, and the deliveries of the patient's devices")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 || *patient == "" {
		return usagef("--config FILE and --patient NUMBER are needed")
	}
	quietLedger()
	h, err := openHospital(*path, e.stderr)
	if err != nil {
		return err
	}
	mark := &erasureMark{path: filepath.Join(h.config.Data, erasureFile)}
	r, err := h.clerk(ctx, "erase", func(s *vaultSettings) { s.Patient, s.Remove = *patient, *rows }, mark)
	if err != nil {
		if r != nil && (r.Erased == nil || *r.Erased == (erasure{})) {
			err = errors.Join(err, mark.undo()) // nothing was
		}
		return err
	}
	x := r.Erased
	// A mistyped number erases nobody, and no signed record says that it did.
	if mark.before || *x != (erasure{}) {
		if err := h.recordErasure(ctx); err != nil {
			return err
		}
	}
	if err := os.Remove(mark.path); err != nil {
		return err
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(x)
	}
	if *x == (erasure{}) {
		fmt.Fprintln(e.stdout, "there is nothing of this patient to erase; is the number right?")
		if mark.before {
			fmt.Fprintln(e.stdout, "an erasure that was interrupted before is recorded in the ledger now")
		}
		return nil
	}
	fmt.Fprintf(e.stdout, "the patient's salt key is destroyed; %d leaves are hashes of nothing now, %d rows and %d deliveries were removed\n", x.Leaves, x.Rows, x.Files)
	fmt.Fprintln(e.stdout, "backups, snapshots and copies of the tables are yours to erase; signed consents are erased with `consilium consent erase`")
	return nil
}

// recordErasure says in the ledger that there was an erasure, not whose: the
// next anchoring publishes it if the witness does not answer now.
func (h *hospital) recordErasure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, publishWithin)
	defer cancel()
	ledger, done, err := writer(ctx, h.kit, &h.config)
	if err != nil {
		return fmt.Errorf("erased, but not recorded: %w; run the command again", err)
	}
	note, err := provenance.SignRecord(h.kit.signer, &provenance.AuditRecord{Type: provenance.RecordErasure, Time: time.Now().UnixMilli(), Actor: string(h.site), Outcome: "erased"})
	if err == nil {
		var at uint64
		if at, err = ledger.Append(ctx, note); err == nil {
			_, err = ledger.Await(ctx, at)
		}
	}
	if err = errors.Join(err, done()); err != nil {
		return fmt.Errorf("erased, but not recorded: %w; run the command again", err)
	}
	return nil
}
