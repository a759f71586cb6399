package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"consilium"
	"consilium/internal/durable"
	"consilium/internal/hatch"
	"consilium/internal/table"
	"consilium/models"
	"consilium/policy"
	"consilium/provenance"
	"consilium/provenance/chain"
)

// Dataset binds a study's dataset name to a table of this hospital. Its
// columns are the hospital's own dictionary: what the ledger's leaves cover.
// A study may declare any part of them.
type Dataset struct {
	Name        string
	Path        string // CSV file
	Patient     string // the dictionary column that tells patients apart
	Columns     []consilium.Column
	Bind        map[string]string // dictionary column -> header of the file, where they differ
	RowPatients bool              // the table has no patient column; every row is a patient
	Stream      provenance.ID     // of the ledger batches
}

// Config makes a vault.
type Config struct {
	Site      consilium.SiteID
	Dir       string // the vault's own directory
	Datasets  []Dataset
	Pseudonym []byte // key of the patient pseudonyms, at least 32 bytes
	KEK       *provenance.KEK
	LedgerDir string // the hospital's own ledger, read only
	Witnesses provenance.WitnessPolicy
	Anchors   *chain.Watch                   // demanded of the ledger before a row is used; nil demands none
	BoardKeys map[string]consilium.PublicKey // pinned; the roster is checked against them
	Threshold int
	Facts     *policy.SiteFacts // what this hospital has filed: documents, grounds, agreements
	Policies  func(consilium.Digest) (*policy.Engine, error)
	Register  func(patient string) Register // the hospital's own register, by its own patient number
	Learned   map[string]models.Constructor // analysis types that models does not own
	Keep      time.Duration                 // how long replays are kept; zero means DefaultKeepReplays, negative not at all
	Budget    *Budget                       // of privacy, over all tables; nil means DefaultBudget, zero that nothing may be spent
	Assume    []string                      // assumptions to be listed in every result, for simulate
	Now       func() time.Time
	Log       *slog.Logger
}

// Vault implements hatch.Vault.
type Vault struct {
	cfg       Config
	dir       *durable.Dir
	book      *cohortBook
	budget    *budgetBook
	salts     *provenance.Salts
	batches   *provenance.BatchDir
	consents  *consentStore
	decisions *policy.Audit
	replays   *replays

	mu      sync.Mutex // guards the rest
	ledger  *ledgerGate
	tables  map[string]*dataset
	studies map[consilium.StudyID]*study
}

var _ hatch.Vault = (*Vault)(nil)

// Open recovers a vault from its directory.
func Open(cfg Config) (*Vault, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Keep == 0 {
		cfg.Keep = DefaultKeepReplays
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case cfg.KEK == nil, cfg.Facts == nil, cfg.Register == nil, cfg.LedgerDir == "", cfg.Policies == nil, len(cfg.BoardKeys) == 0, cfg.Threshold < 1:
		return nil, errors.New("vault: key-encryption key, facts, register, ledger, policies and board keys are all needed: a vault without one of them would let rows through")
	case len(cfg.Pseudonym) < 32:
		return nil, fmt.Errorf("vault: pseudonym key of %d bytes, want at least 32", len(cfg.Pseudonym))
	}
	dir, err := Prepare(cfg.Dir)
	if err != nil {
		return nil, err
	}
	v := &Vault{cfg: cfg, dir: dir, tables: map[string]*dataset{}, studies: map[consilium.StudyID]*study{}}
	fail := func(err error) (*Vault, error) {
		v.Close()
		return nil, err
	}
	if v.book, err = openCohortBook(filepath.Join(cfg.Dir, "cohorts")); err != nil {
		return fail(err)
	}
	if err = v.openDecisions(); err != nil {
		return fail(err)
	}
	if v.budget, err = openBudgetBook(filepath.Join(cfg.Dir, "budget")); err != nil {
		return fail(err)
	}
	if v.replays, err = openReplays(cfg.Dir, cfg.Keep, cfg.Now); err != nil {
		return fail(err)
	}
	if v.salts, err = provenance.OpenSalts(filepath.Join(cfg.Dir, "salts"), cfg.KEK); err != nil {
		return fail(err)
	}
	if v.batches, err = provenance.OpenBatchDir(filepath.Join(cfg.Dir, "batches"), cfg.KEK); err != nil {
		return fail(err)
	}
	return v, nil
}

// stored marks what kept the vault from making something durable. A record that
// is too large will never fit and is a matter of its study.
func stored(err error) error {
	if err == nil || errors.Is(err, consilium.ErrTooLarge) {
		return err
	}
	return fmt.Errorf("%w: %w", hatch.ErrStorage, durable.Full(err))
}

// Prepare takes a vault's directory for this process, and makes it if it is not
// there. The directory of stops is made with it, once: one that is missing later
// was taken away, and nothing is read until it is back.
func Prepare(dir string) (*durable.Dir, error) {
	if _, err := os.Stat(filepath.Join(dir, "VERSION")); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(StopDir(dir), 0o700); err != nil {
			return nil, err
		}
	}
	return durable.Prepare(dir, "worker-vault")
}

// Close releases the directory.
func (v *Vault) Close() error {
	var errs []error
	for _, st := range v.studies {
		st.drop()
	}
	if v.book != nil {
		errs = append(errs, v.book.close())
	}
	if v.decisions != nil {
		errs = append(errs, v.decisions.Close())
	}
	if v.replays != nil {
		errs = append(errs, v.replays.closeAll())
	}
	if v.budget != nil {
		errs = append(errs, v.budget.close())
	}
	return errors.Join(append(errs, v.dir.Close())...)
}

// verifyRoster checks a roster against the pinned board.
func (v *Vault) parseRoster(payload []byte) (*consilium.Roster, *consilium.Site, error) {
	roster, err := consilium.ParseRoster(payload)
	if err != nil {
		return nil, nil, consilium.ErrInvalid.With(err)
	}
	for id, key := range v.cfg.BoardKeys {
		found := false
		for _, m := range roster.Board.Members {
			found = found || m.ID == id && m.Key == key
		}
		if !found {
			return nil, nil, consilium.ErrSignature.Withf("the roster's board is not the one this hospital was provisioned with: member %s", id)
		}
	}
	site, ok := roster.Site(v.cfg.Site)
	if !ok {
		return nil, nil, consilium.ErrUnauthenticated.Withf("%s is not in the roster", v.cfg.Site)
	}
	return roster, site, nil
}

// dataset is a loaded table with its dictionary.
type dataset struct {
	def  Dataset
	spec *consilium.Spec // the dictionary, as the table reader wants it
	rows *table.Table

	verified provenance.Again
}

func (v *Vault) definition(name string) (Dataset, error) {
	for _, d := range v.cfg.Datasets {
		if d.Name == name {
			return d, nil
		}
	}
	names := make([]string, len(v.cfg.Datasets))
	for i, d := range v.cfg.Datasets {
		names[i] = d.Name
	}
	return Dataset{}, consilium.ErrData.Withf("%s binds no table to dataset %q, only to %q; add it under datasets in the worker's configuration", v.cfg.Site, name, names)
}

// dictionary is the specification that reads a dataset's own columns.
func (d Dataset) dictionary() *consilium.Spec {
	s := &consilium.Spec{Data: consilium.DataRef{Dataset: d.Name, Patient: d.Patient}, Columns: d.Columns}
	return s
}

// load reads a dataset's table, once: all rounds of all studies see the same
// buffers, and each of them verifies these buffers again.
func (v *Vault) load(name string) (*dataset, error) {
	if d, ok := v.tables[name]; ok {
		return d, nil
	}
	def, err := v.definition(name)
	if err != nil {
		return nil, err
	}
	d := &dataset{def: def, spec: def.dictionary()}
	if d.rows, err = readTable(def, d.spec, v.cfg.Pseudonym); err != nil {
		return nil, err
	}
	v.tables[name] = d
	return d, nil
}

// Reload forgets loaded tables and consents, so that the next use reads the
// files again. A study that has started keeps its rows: without differential
// privacy they are frozen.
func (v *Vault) Reload() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tables = map[string]*dataset{}
}

// Forget drops an ended study.
func (v *Vault) Forget(_ context.Context, id consilium.StudyID) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if st := v.studies[id]; st != nil {
		st.drop()
	}
	delete(v.studies, id)
	v.budget.end(id)
	return errors.Join(v.replays.close(id), v.replays.sweep(), forgetMemory(v.cfg.Dir, id), v.forgetCohort(id))
}

// verifyApproval checks that the board's payloads fit each other. Their
// signatures were checked by the gate, which holds the keys' roster.
func parseStudy(submission, approval []byte) (*consilium.Submission, *consilium.Approval, *consilium.Spec, error) {
	sub, err := consilium.ParseSubmission(submission)
	if err != nil {
		return nil, nil, nil, consilium.ErrInvalid.With(err)
	}
	app, err := consilium.ParseApproval(approval)
	if err != nil {
		return nil, nil, nil, consilium.ErrInvalid.With(err)
	}
	spec, err := consilium.ParseSpec(sub.SpecBytes)
	if err != nil {
		return nil, nil, nil, consilium.ErrInvalid.With(err)
	}
	if app.Spec != consilium.SpecDigest(sub.SpecBytes) || app.Policy != sub.Policy {
		return nil, nil, nil, consilium.ErrInvalid.Withf("the approval is of another study")
	}
	return sub, app, spec, nil
}
