package vault

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/hatch"
	"consilium/internal/hybrid"
	"consilium/internal/seal"
	"consilium/internal/table"
	"consilium/models"
	"consilium/policy"
	"consilium/provenance"
)

// hospital is one with all that its vault needs: a table in a witnessed ledger,
// signed consents, and a chartered study of six hospitals, of which it is the
// first.
type hospital struct {
	t       *testing.T
	cfg     Config
	key     *hybrid.Key
	ledger  *provenance.Ledger
	log     *provenance.NoteKey    // the ledger's
	patient map[string]*hybrid.Key // by the hospital's own number
	consent map[string]consilium.Digest

	study      consilium.StudyID
	submission []byte
	approval   []byte
	roster     []byte
	charter    []byte
}

// nobody is a roster's key that no test signs with.
func nobody(t *testing.T, name string) consilium.PublicKey {
	t.Helper()
	seed := consilium.DomainEnrol.Digest([]byte(name))
	key, err := hybrid.FromSeed(seed[:])
	if err != nil {
		t.Fatal(err)
	}
	return key.Public()
}

// someAges are the patients of a hospital whose numbers say nothing.
func someAges(n int) (out [][2]string) {
	for i := range n {
		out = append(out, [2]string{fmt.Sprintf("p-%02d", i), fmt.Sprint(20 + 2*i)})
	}
	return out
}

// newHospital makes one over rows of patient and age. change alters the study,
// which describes the ages, before it is submitted.
func newHospital(t *testing.T, rows [][2]string, change func(*consilium.Spec)) *hospital {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	h := &hospital{t: t, patient: map[string]*hybrid.Key{}, consent: map[string]consilium.Digest{}}
	var err error
	h.key, err = hybrid.Generate()
	must(err)
	engine, err := policy.Compile(policy.DefaultBoard([]string{}))
	must(err)
	facts, err := policy.DefaultSite("h0")
	must(err)

	bounds := [2]float64{0, 120}
	spec := &consilium.Spec{
		APIVersion: consilium.APIVersion, Kind: "Study", Name: "interferon", Question: "How old are they?", Purpose: policy.DefaultPurpose(),
		Data: consilium.DataRef{Dataset: "cgd", Patient: "id"}, Sites: consilium.SiteRule{Min: 5, Missing: "wait"},
		Columns: []consilium.Column{{Name: "id", Type: consilium.TypeID, Tag: "R"}, {Name: "age", Type: consilium.TypeNumber, Bounds: &bounds}},
		Seed:    1, Derive: []consilium.Derived{}, Analyses: []consilium.AnalysisSpec{{Name: "ages", Type: consilium.AnalysisDescribe, Variables: []string{"age"}}},
		Privacy: consilium.Privacy{MinCohort: 11, Permits: []string{}}, Rounds: consilium.Rounds{Max: 25, Tolerance: 1e-9, Deadline: 120},
	}
	columns := spec.Columns
	if change != nil {
		change(spec)
	}
	spec.Legal = policy.DefaultLegal(spec)
	payload, err := canon.Marshal(spec)
	must(err)

	// The ledger, and the witness that cosigns it.
	h.log, err = provenance.NewLogKey("vault.test/h0")
	must(err)
	board, err := provenance.NewWitnessKey("vault.test/board")
	must(err)
	witness, err := provenance.OpenWitness(provenance.WitnessConfig{Key: board, Dir: t.TempDir(), Logs: []string{h.log.Verifier()}})
	must(err)
	server := httptest.NewServer(witness)
	t.Cleanup(server.Close)
	witnesses := provenance.SingleWitness(board.Verifier(), server.URL)
	h.ledger, err = provenance.OpenLedger(t.Context(), provenance.LedgerConfig{Dir: filepath.Join(dir, "ledger"), Key: h.log, Site: h.key.Public(), Witnesses: witnesses})
	must(err)
	t.Cleanup(func() { h.ledger.Close() })

	// The federation on paper.
	sealing, err := seal.Generate()
	must(err)
	now := time.Now()
	boardKey := nobody(t, "board")
	roster := &consilium.Roster{
		APIVersion: consilium.APIVersion, Kind: "Roster", Name: "vault.test", Version: 1, NotBefore: now.Add(-time.Hour).Unix(), NotAfter: now.Add(time.Hour).Unix(),
		Board:        consilium.Board{Name: "board", Threshold: 1, Members: []consilium.BoardMember{{ID: "member-1", Key: boardKey}}},
		Coordinators: []consilium.Coordinator{{ID: "c1", Country: policy.DefaultCountry, Key: nobody(t, "c1")}},
		Researchers:  []consilium.Researcher{{ID: policy.DefaultTeam, Country: policy.DefaultCountry, Key: nobody(t, "team"), Sealing: sealing.Public()}},
	}
	charter := &consilium.Charter{APIVersion: consilium.APIVersion, Kind: "Charter", Protocol: consilium.ProtocolVersion, Epoch: 1, KEM: consilium.KEMX25519MLKEM768,
		Spec: consilium.SpecDigest(payload), Policy: engine.Digest(), Team: policy.DefaultTeam, TeamKey: sealing.Public(), Faults: 1, MinSites: 5, Threshold: consilium.Threshold(6, 1)}
	for i := range 6 {
		id := fmt.Sprintf("h%d", i)
		key := h.key.Public()
		if i > 0 {
			key = nobody(t, id)
		}
		roster.Sites = append(roster.Sites, consilium.Site{ID: consilium.SiteID(id), Operator: id, Country: policy.DefaultCountry, Regimes: policy.DefaultRegimes(), Key: key, Ledger: h.log.Verifier()})
		any := consilium.DomainEnrol.Digest([]byte(id))
		charter.Members = append(charter.Members, consilium.Member{Site: consilium.SiteID(id), Operator: id, Key: key, Sealing: sealing.Public(), Nonce: any, Commitment: any, Decision: any})
	}
	h.roster, err = canon.Marshal(roster)
	must(err)
	h.submission, err = canon.Marshal(&consilium.Submission{APIVersion: consilium.APIVersion, Kind: "Submission", Team: policy.DefaultTeam, Token: "once",
		SpecBytes: payload, Policy: engine.Digest(), NotAfter: roster.NotAfter})
	must(err)
	h.study = consilium.NewStudyID(consilium.DomainSubmission.Digest(h.submission))
	h.approval, err = canon.Marshal(&consilium.Approval{APIVersion: consilium.APIVersion, Kind: "Approval", Study: h.study, Spec: charter.Spec, Policy: engine.Digest(),
		NotBefore: roster.NotBefore, NotAfter: roster.NotAfter})
	must(err)
	charter.Study, charter.Submission, charter.Approval = h.study, consilium.DomainSubmission.Digest(h.submission), consilium.DomainApproval.Digest(h.approval)
	charter.Roster, charter.Confirmation = consilium.RosterDigest(h.roster), charter.Submission
	h.charter, err = canon.Marshal(charter)
	must(err)

	// The table, anchored, and a consent of each patient.
	csv := "id,age\n"
	for _, r := range rows {
		csv += r[0] + "," + r[1] + "\n"
	}
	must(os.WriteFile(filepath.Join(dir, "cgd.csv"), []byte(csv), 0o600))
	h.cfg = Config{
		Site: "h0", Dir: filepath.Join(dir, "vault"), Pseudonym: bytes.Repeat([]byte{7}, 32), KEK: provenance.GenerateKEK(), LedgerDir: filepath.Join(dir, "ledger"),
		Datasets:  []Dataset{{Name: "cgd", Path: filepath.Join(dir, "cgd.csv"), Patient: "id", Columns: columns, Stream: provenance.NewID()}},
		Witnesses: witnesses, BoardKeys: map[string]consilium.PublicKey{"member-1": boardKey}, Threshold: 1, Facts: facts,
		Policies: func(consilium.Digest) (*policy.Engine, error) { return engine, nil },
		Register: func(string) Register { return Register{Adult: true, CitizenOrLPR: true} },
		Learned:  map[string]models.Constructor{consilium.AnalysisTrain: newRecall}, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	v := h.open()
	draft, err := v.Draft("cgd", h.ledger.Origin())
	must(err)
	signed, err := provenance.SignHeader(h.key, draft.Payload())
	must(err)
	_, err = h.ledger.Append(t.Context(), signed.Entry())
	must(err)
	must(v.Keep(draft, signed))
	must(v.Close())
	var entries []provenance.ConsentEntry
	for _, r := range rows {
		key, err := hybrid.Generate()
		must(err)
		doc, err := provenance.IssueConsent(h.key, key, provenance.Consent{Site: "h0", Form: "test", Level: provenance.LevelGeneral, Scopes: []string{"general"},
			Purposes: policy.DefaultPurpose().DUO, Explicit: true, Informed: true, GivenBy: provenance.GivenBySelf, Given: 1700000000, From: 1700000000}, h.name(r[0]), nil)
		must(err)
		h.patient[r[0]], h.consent[r[0]] = key, doc.Digest()
		entries = append(entries, provenance.ConsentEntry{Patient: h.name(r[0]), Doc: doc})
	}
	h.enter(entries...)
	return h
}

// name is a patient's pseudonym.
func (h *hospital) name(number string) provenance.Pseudonym {
	return provenance.Pseudonym(table.Pseudonym(bytes.Repeat([]byte{7}, 32), number))
}

// member is a patient as the book of cohorts has one.
func (h *hospital) member(number string) policy.Member {
	name := h.name(number)
	d := consilium.DomainCohort.Digest(name[:])
	return policy.Member(d[:])
}

// enter puts consents into the desk's store and the ledger, and waits until they
// are cosigned.
func (h *hospital) enter(entries ...provenance.ConsentEntry) {
	h.t.Helper()
	dir := ConsentDir(h.cfg.Dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		h.t.Fatal(err)
	}
	desk, err := provenance.OpenConsents(provenance.ConsentConfig{Dir: dir, KEK: h.cfg.KEK, Site: "h0", Signer: h.key, Now: time.Now})
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := desk.Add(h.t.Context(), h.ledger, entries...); err != nil {
		h.t.Fatal(err)
	}
	rec, err := provenance.SignRecord(h.key, &provenance.AuditRecord{Type: provenance.RecordAccess, Time: time.Now().UnixMilli(), Actor: "h0", Outcome: "published"})
	if err != nil {
		h.t.Fatal(err)
	}
	at, err := h.ledger.Append(h.t.Context(), rec)
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.ledger.Await(h.t.Context(), at); err != nil {
		h.t.Fatal(err)
	}
}

// withdraw lets a patient take the consent back.
func (h *hospital) withdraw(number string) {
	h.t.Helper()
	doc, err := provenance.SignWithdrawal(h.patient[number], provenance.Withdrawal{Site: "h0", Consent: h.consent[number], At: time.Now().Unix()}, h.name(number))
	if err != nil {
		h.t.Fatal(err)
	}
	h.enter(provenance.ConsentEntry{Patient: h.name(number), Doc: doc})
}

// open starts the hospital's vault, as a process that knows what is on disk.
func (h *hospital) open() *Vault {
	h.t.Helper()
	v, err := Open(h.cfg)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { v.Close() })
	return v
}

func (h *hospital) admit(v *Vault) (hatch.AdmitReply, error) {
	return v.Admit(h.t.Context(), hatch.AdmitRequest{Study: h.study, Submission: h.submission, Approval: h.approval, Roster: h.roster})
}

func (h *hospital) start(v *Vault) hatch.Shape {
	h.t.Helper()
	s, err := v.Start(h.t.Context(), hatch.StartRequest{Study: h.study, Charter: h.charter, Submission: h.submission, Approval: h.approval, Roster: h.roster, Position: 1})
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// everyone are the positions of the study's hospitals.
func everyone() []consilium.Position { return []consilium.Position{1, 2, 3, 4, 5, 6} }

// round computes and opens one round in which all hospitals have the rows of this
// one, and returns what follows.
func (h *hospital) round(v *Vault, n uint32, state []byte) hatch.Shape {
	h.t.Helper()
	reply, err := v.Local(h.t.Context(), hatch.LocalRequest{Study: h.study, Round: n, State: state, Included: n - 1})
	if err != nil {
		h.t.Fatal(err)
	}
	return h.close(v, n, reply.Lanes)
}

// close opens a computed round.
func (h *hospital) close(v *Vault, n uint32, count int) hatch.Shape {
	h.t.Helper()
	lanes, err := v.Lanes(h.t.Context(), h.study, n, 0, count)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := v.Opening(h.t.Context(), h.study, n); err != nil {
		h.t.Fatal(err)
	}
	sums := make([]int64, len(lanes))
	for i, x := range lanes {
		sums[i] = 6 * int64(x)
	}
	if err := v.Sums(h.t.Context(), h.study, n, 0, sums); err != nil {
		h.t.Fatal(err)
	}
	s, err := v.Update(h.t.Context(), hatch.UpdateRequest{Study: h.study, Round: n, Contributors: everyone()})
	if err != nil {
		h.t.Fatal(err)
	}
	if err := v.Opened(h.t.Context(), h.study, n); err != nil {
		h.t.Fatal(err)
	}
	return s
}

// recall is a learned analysis of which a test can see everything: it sums the
// patients' number over three rounds, and a site adds how often it was opened
// before, as a control variate depends on the rounds before.
type recall struct{}

func newRecall(consilium.Facts, *consilium.AnalysisSpec) (models.Analysis, error) {
	return recall{}, nil
}

func (recall) Start(consilium.Facts) (*models.State, error) {
	return &models.State{F64: []float64{0}}, nil
}

func (recall) Layout(*models.State) (consilium.Layout, error) {
	return consilium.Layout{Blocks: []consilium.Block{{Name: "sum", Kind: consilium.Exact, Length: 2}}}, nil
}

func (recall) Local(_ context.Context, _ *models.State, memory []byte, rows *models.Rows, w models.Writer) ([]byte, error) {
	n := 0
	for _, in := range rows.Batches[0].Selected {
		if in {
			n++
		}
	}
	if err := w.Block("sum"); err != nil {
		return nil, err
	}
	return append(bytes.Clone(memory), byte(n)), w.Write([]float64{float64(n), float64(len(memory))})
}

func (recall) Update(s *models.State, o models.Opened) (*models.State, error) {
	return &models.State{Iteration: s.Iteration + 1, F64: []float64{s.F64[0] + o.Values["sum"][0]}, Done: s.Iteration == 2}, nil
}

func (recall) Result(s *models.State) (*models.Result, error) {
	b, err := canon.Marshal(map[string]any{"patients": 144, "total": s.F64[0]})
	return &models.Result{JSON: b}, err
}

// TestHospital: the hospital of the other tests is admitted and comes to a result
// that its rules let out.
func TestHospital(t *testing.T) {
	h := newHospital(t, someAges(24), nil)
	v := h.open()
	if r, err := h.admit(v); err != nil || !r.Allow {
		t.Fatalf("%+v, %v", r, err)
	}
	s := h.start(v)
	for n := uint32(1); !s.Done; n++ {
		s = h.round(v, n, s.State)
	}
	r, err := v.Release(t.Context(), hatch.ReleaseRequest{Study: h.study, Contributors: everyone()})
	if err != nil || !r.Allow || !bytes.Contains(r.Result, []byte(`"mean":43`)) {
		t.Fatalf("%+v, %v", r, err)
	}
}
