package main

import (
	"bufio"
	"context"
	"encoding/base64"
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
	"consilium/internal/archive"
	"consilium/internal/canon"
	"consilium/internal/durable"
	"consilium/internal/hybrid"
	"consilium/internal/pinned"
	"consilium/internal/table"
	"consilium/internal/trail"
	"consilium/policy"
	"consilium/provenance"
	"consilium/worker/vault"
)

// The consent desk: where a patient, or who acts for the patient, signs. The
// documents rest sealed at the hospital; the ledger gets salted digests.

const (
	consentDeskDir = "consent-desk" // whose lock is the right to write the store
	deskBusy       = 30 * time.Second
)

// consentDesk opens the hospital's store of consents to write into it. There is
// one writer at a time, from before it reads the store until done is called: a
// second one that read the same store would write over what the first has
// acknowledged. It waits for its turn.
func (h *hospital) consentDesk(ctx context.Context) (store *provenance.Consents, alias []byte, done func(), err error) {
	var lock *durable.Dir
	for deadline := time.Now().Add(deskBusy); ; {
		lock, err = durable.Prepare(filepath.Join(h.config.Data, consentDeskDir), "worker-consents")
		if !errors.Is(err, durable.ErrLocked) {
			break
		}
		if time.Now().After(deadline) {
			return nil, nil, nil, &consilium.Error{Code: consilium.ErrUnavailable.Code, Msg: "another desk is entering a document", Next: "wait until it is done, and run this again", Err: err}
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, nil, nil, ctx.Err()
		}
	}
	if err != nil {
		return nil, nil, nil, err
	}
	if store, alias, err = h.consents(); err != nil {
		lock.Close()
		return nil, nil, nil, err
	}
	return store, alias, func() { lock.Close() }, nil
}

// consents opens the store to read it.
func (h *hospital) consents() (*provenance.Consents, []byte, error) {
	kekBytes, err := readSecret(h.config.Keys, kekFile)
	if err != nil {
		return nil, nil, err
	}
	kek, err := provenance.ParseKEK(kekBytes)
	if err != nil {
		return nil, nil, err
	}
	alias, err := readSecret(h.config.Keys, pseudonymFile)
	if err != nil {
		return nil, nil, err
	}
	dir := vault.ConsentDir(h.config.vaultDir())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	c, err := provenance.OpenConsents(provenance.ConsentConfig{Dir: dir, KEK: kek, Site: h.site, Signer: h.kit.signer})
	return c, alias, err
}

// consentFlags are what every consent command needs.
func consentHospital(e *env, args []string, more func(define func(name, usage string) *string) func() error) (*hospital, error) {
	flags := e.flags()
	path := flags.String("config", "", "the worker's config `file`")
	check := more(func(name, usage string) *string { return flags.String(name, "", usage) })
	rest, err := e.parse(flags, args)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, usagef("unexpected %q", rest[0])
	}
	if err := check(); err != nil {
		return nil, err
	}
	return openHospital(*path, e.stderr)
}

func split(s string) []string {
	if s == "" {
		return []string{}
	}
	out := strings.Split(s, ",")
	for i := range out {
		out[i] = strings.TrimSpace(out[i])
	}
	return out
}

// day reads a date flag; "" is otherwise.
func day(name, s string, otherwise int64) (int64, error) {
	if s == "" {
		return otherwise, nil
	}
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		return 0, usagef("--%s %q: want a date like 2026-01-31", name, s)
	}
	return t.Unix(), nil
}

func runConsentIssue(ctx context.Context, e *env, args []string) error {
	var q consentAnswers
	var patient, patients, keys, cardDir *string
	h, err := consentHospital(e, args, func(def func(name, usage string) *string) func() error {
		patient = def("patient", "the hospital's own patient `number`")
		patients = def("patients", "instead, a `file` with one number on each line")
		cardDir = def("card", "`folder` of the card of who decides; an empty one becomes a new card to take along")
		keys = def("keys", "with --patients, a `directory` for the cards' keys")
		flags := map[string]*string{
			"form": &q.form, "level": &q.level, "studies": &q.studies, "scopes": &q.scopes, "purposes": &q.purposes, "diseases": &q.diseases,
			"countries": &q.countries, "given-by": &q.givenBy, "from": &q.from, "until": &q.until, "objections": &q.objections, "answers": &q.answers,
		}
		values := map[string]*string{}
		for _, f := range [][2]string{
			{"form", "name and version of the `form` that was explained"}, {"level", "general, area or project"}, {"studies", "names of studies, for level project"},
			{"scopes", "categories of data: general, genetic, …"}, {"purposes", "DUO codes"}, {"diseases", "MONDO codes; none means not limited"},
			{"countries", "to which results may go beside the hospital's own"}, {"given-by", "self, parent, guardian or proxy"}, {"from", "first `day`; default now"},
			{"until", "last `day`: a consent for a time; default until withdrawn"}, {"objections", "what the patient objects to, for example anonymisation"},
			{"answers", "what holds of the conversation: explicit,informed,assent"}} {
			values[f[0]] = def(f[0], f[1])
		}
		return func() error {
			for name, v := range values {
				*flags[name] = *v
			}
			switch {
			case (*patient == "") == (*patients == ""):
				return usagef("name --patient NUMBER or --patients FILE")
			case *patients != "" && *keys == "", *cardDir != "" && (*keys != "" || *patients != ""):
				return usagef("--card is for one patient, --keys for a list")
			case *patient != "" && *keys == "" && *cardDir == "":
				return usagef("--card FOLDER is needed: the patient's card, or an empty folder for a new one")
			}
			return nil
		}
	})
	if err != nil {
		return err
	}
	if q.form == "" || q.level == "" || q.scopes == "" || q.purposes == "" || q.givenBy == "" {
		if *patients != "" {
			return usagef("for a list, --form, --level, --scopes, --purposes and --given-by are needed")
		}
		if err := q.complete(&asker{in: bufio.NewScanner(e.stdin), out: e.stderr}); err != nil {
			return err
		}
	}
	numbers := []string{*patient}
	if *patients != "" {
		if numbers, err = readLines(*patients); err != nil {
			return err
		}
	}
	now := time.Now().Unix()
	c := provenance.Consent{Site: h.site, Form: q.form, Level: q.level, Studies: split(q.studies), Scopes: split(q.scopes), Purposes: split(q.purposes),
		Diseases: split(q.diseases), Countries: split(q.countries), GivenBy: q.givenBy, Objections: split(q.objections), Given: now}
	if c.From, err = day("from", q.from, now); err != nil {
		return err
	}
	if c.Until, err = day("until", q.until, 0); err != nil {
		return err
	}
	if q.until != "" {
		c.Until += 24 * 3600 // the last day counts
	}
	for _, a := range split(q.answers) {
		switch a {
		case "explicit":
			c.Explicit = true
		case "informed":
			c.Informed = true
		case "assent":
			c.Assent = true
		default:
			return usagef("--answers: %q; %s", a, suggestion(a, []string{"explicit", "informed", "assent"}))
		}
	}
	store, alias, leave, err := h.consentDesk(ctx)
	if err != nil {
		return err
	}
	defer leave()
	places, err := store.NewStatus(len(numbers))
	if err != nil {
		return err
	}
	var entries []provenance.ConsentEntry
	var card *patientCard
	for i, id := range numbers {
		name := provenance.Pseudonym(table.Pseudonym(alias, id))
		var key *hybrid.Key
		if *cardDir != "" {
			if card, err = openCard(*cardDir, h.site, name); err == nil {
				key = card.key
			}
		} else {
			key, err = patientKey(*keys, name, true)
		}
		if err != nil {
			return err
		}
		doc, err := provenance.IssueConsent(h.kit.signer, key, c, name, &places[i])
		if err != nil {
			return fmt.Errorf("consent: %w", err)
		}
		entries = append(entries, provenance.ConsentEntry{Patient: name, Doc: doc})
	}
	if err := h.enter(ctx, store, entries); err != nil {
		return err
	}
	if card != nil {
		if err := card.keep(entries[0].Doc); err != nil {
			return err
		}
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"consents": len(entries)})
	}
	fmt.Fprintf(e.stdout, "%d consents entered; the hospital's ledger holds their salted digests\n", len(entries))
	if card != nil {
		fmt.Fprintf(e.stdout, "The patient takes the folder %s along: it is the consent card.\n", card.dir)
	}
	return nil
}

// enter puts documents into the store and waits until the ledger's witnesses
// have cosigned them.
func (h *hospital) enter(ctx context.Context, store *provenance.Consents, entries []provenance.ConsentEntry) error {
	return h.write(ctx, func(ctx context.Context, ledger ledgerWriter) error {
		_, err := store.Add(ctx, ledger, entries...)
		return err
	})
}

// enterOnce is enter for a document that a command which failed may have entered
// already: a letter is the same bytes each time. What is stored and not in the ledger
// is logged now.
func (h *hospital) enterOnce(ctx context.Context, store *provenance.Consents, name provenance.Pseudonym, doc *provenance.SignedDoc) error {
	stored, logged := store.Holds(name, doc.Digest())
	if stored {
		if err := h.verify(ctx, store); err != nil {
			return err
		}
		stored, logged = store.Holds(name, doc.Digest())
	}
	switch {
	case !stored:
		return h.enter(ctx, store, []provenance.ConsentEntry{{Patient: name, Doc: doc}})
	case !logged:
		return h.write(ctx, func(ctx context.Context, ledger ledgerWriter) error { return store.Relog(ctx, ledger) })
	}
	return nil
}

// write lets fn write into the ledger, and waits until a checkpoint that the
// witnesses have cosigned covers it.
func (h *hospital) write(ctx context.Context, fn func(context.Context, ledgerWriter) error) error {
	quietLedger()
	ctx, cancel := whileRoom(ctx, h.config.Data)
	defer cancel()
	ctx, cancel = context.WithTimeout(ctx, publishWithin)
	defer cancel()
	if err := h.writeNow(ctx, fn); err != nil {
		return noRoom(ctx, h.config.Data, err)
	}
	return nil
}

func (h *hospital) writeNow(ctx context.Context, fn func(context.Context, ledgerWriter) error) error {
	ledger, done, err := writer(ctx, h.kit, &h.config)
	if err != nil {
		return err
	}
	if err = fn(ctx, ledger); err == nil {
		err = h.published(ctx, ledger)
	}
	return errors.Join(err, done())
}

// published waits until the witnesses have cosigned all that was written: one more
// entry, awaited, covers those before it.
func (h *hospital) published(ctx context.Context, ledger ledgerWriter) error {
	note, err := provenance.SignRecord(h.kit.signer, &provenance.AuditRecord{Type: provenance.RecordAccess, Time: time.Now().UnixMilli(), Actor: string(h.site), Outcome: "published"})
	if err != nil {
		return err
	}
	at, err := ledger.Append(ctx, note)
	if err != nil {
		return err
	}
	_, err = ledger.Await(ctx, at)
	return err
}

func readLines(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []string
	in := bufio.NewScanner(f)
	for in.Scan() {
		if s := strings.TrimSpace(in.Text()); s != "" && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out, in.Err()
}

// patientKey reads a patient's key file, or makes it. Its name is the
// pseudonym, so that a directory of key files names nobody.
func patientKey(dir string, name provenance.Pseudonym, make bool) (*hybrid.Key, error) {
	file := name.String() + ".key"
	seed, err := readSecret(dir, file)
	if errors.Is(err, fs.ErrNotExist) && make {
		key, err := hybrid.Generate()
		if err != nil {
			return nil, err
		}
		return key, writeNew(filepath.Join(dir, file), []byte(base64.StdEncoding.EncodeToString(key.Seed())+"\n"), 0o600)
	}
	if err != nil {
		return nil, err
	}
	return hybrid.FromSeed(seed)
}

func runConsentWithdraw(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	config := flags.String("config", "", "the worker's config `file`; without it the card writes a letter to the hospital")
	patient := flags.String("patient", "", "the hospital's own patient `number`")
	cardDir := flags.String("card", "", "`folder` of the consent card of who takes it back")
	keys := flags.String("keys", "", "`directory` with the patient's key file, from a list of patients")
	scopes := flags.String("scopes", "", "categories of data to withdraw; default all")
	letter := flags.String("letter", "", "`file` that a patient wrote at home with the card")
	out := flags.String("out", "", "at home, the letter's `file`; default in the card's folder")
	impairment := flags.String("impairment", "", "`id` of the document that erasing would seriously impair the research (GDPR Art. 17(3)(d))")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usagef("unexpected %q", rest[0])
	}
	if *config == "" {
		if *cardDir == "" {
			return usagef("name your consent card: --card FOLDER")
		}
		return e.withdrawAtHome(*cardDir, split(*scopes), *out)
	}
	if *patient == "" {
		return usagef("--patient NUMBER is needed")
	}
	h, err := openHospital(*config, e.stderr)
	if err != nil {
		return err
	}
	if err := h.checkImpairment(*impairment); err != nil {
		return err
	}
	store, alias, leave, err := h.consentDesk(ctx)
	if err != nil {
		return err
	}
	defer leave()
	name := provenance.Pseudonym(table.Pseudonym(alias, *patient))
	// Without card or letter the hospital signs for a patient who says so at the
	// desk: nobody needs anything to take a consent back.
	var signer consilium.Signer = h.kit.signer
	switch {
	case *cardDir != "":
		card, err := openCard(*cardDir, "", name)
		if err != nil {
			return err
		}
		signer = card.key
	case *keys != "":
		if signer, err = patientKey(*keys, name, false); err != nil {
			return err
		}
	}
	var doc *provenance.SignedDoc
	if *letter != "" {
		b, err := os.ReadFile(*letter)
		if err != nil {
			return err
		}
		if doc, err = provenance.ParseSignedDoc(b); err != nil || doc.Withdrawal == nil {
			return &consilium.Error{Code: consilium.ErrInvalid.Code, Msg: *letter + " is no withdrawal", Next: "ask for it again, or withdraw here for the patient", Err: err}
		}
	} else if doc, err = provenance.SignWithdrawal(signer, provenance.Withdrawal{Site: h.site, Scopes: split(*scopes), At: time.Now().Unix()}, name); err != nil {
		return err
	}
	if err := h.enterOnce(ctx, store, name, doc); err != nil {
		return err
	}
	d, err := h.dutiesOf(ctx, store, doc, name, alias, *impairment)
	if err != nil {
		return err
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(d)
	}
	if len(d.Kept) > 0 {
		fmt.Fprintln(e.stdout, "withdrawn in part: studies that ask for what was withdrawn leave the patient's rows out from the next use on; what was already summed cannot be taken out of the sum")
		d.show(e.stdout, *patient)
		return nil
	}
	fmt.Fprintln(e.stdout, "withdrawn: the patient's rows are left out from the next use on; what was already summed cannot be taken out of the sum")
	d.show(e.stdout, *patient)
	return nil
}

// withdrawAtHome writes what the patient sends to the hospital, by any way: it
// is signed, and nobody else can use it for anything.
func (e *env) withdrawAtHome(dir string, scopes []string, out string) error {
	card, err := openCard(dir, "", provenance.Pseudonym{})
	if err != nil {
		return err
	}
	doc, err := provenance.SignWithdrawal(card.key, provenance.Withdrawal{Site: card.Site, Scopes: scopes, At: time.Now().Unix()}, card.Patient)
	if err != nil {
		return err
	}
	if out == "" {
		out = filepath.Join(dir, "withdrawal "+time.Now().Format(time.DateOnly)+".txt")
	}
	if err := durable.WriteFile(out, doc.Encode(), 0o600); err != nil {
		return err
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"withdrawal": doc.Digest(), "file": out})
	}
	fmt.Fprintf(e.stdout, "Your withdrawal is in the file\n  %s\nSend it to %s, or bring it. It holds from the moment the hospital has it.\nYou can also just say so there: you need neither this file nor your card.\n", out, card.Site)
	return nil
}

// verifiedConsents opens the store as the vault does: held against the ledger.
func (h *hospital) verifiedConsents(ctx context.Context) (*provenance.Consents, []byte, error) {
	store, alias, err := h.consents()
	if err != nil {
		return nil, nil, err
	}
	return store, alias, h.verify(ctx, store)
}

// verify holds the store against the hospital's ledger as its witness saw it.
func (h *hospital) verify(ctx context.Context, store *provenance.Consents) error {
	site, _ := h.kit.roster.Site(h.site)
	witnesses, err := provenance.WitnessesOf(h.kit.roster)
	if err != nil {
		return err
	}
	g, err := provenance.NewGate(provenance.GateConfig{Ledger: site.Ledger, Site: site.Key, Witnesses: witnesses.AnyAge()})
	if err != nil {
		return err
	}
	if _, err := g.Update(ctx, provenance.DirView(h.config.ledgerDir())); err != nil {
		return err
	}
	return store.Verify(g)
}

func runConsentShow(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	config := flags.String("config", "", "the worker's config `file`")
	patient := flags.String("patient", "", "the hospital's own patient `number`")
	cardDir := flags.String("card", "", "`folder` of the consent card of who asks; without --config, shows the copies on it")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	desk := *patient != "" && *config != ""
	if len(rest) > 0 || !desk && (*cardDir == "" || *patient != "" || *config != "") {
		return usagef("name your consent card: --card FOLDER; at the hospital, --config FILE and --patient NUMBER")
	}
	var list []provenance.Claims
	if !desk {
		card, err := openCard(*cardDir, "", provenance.Pseudonym{})
		if err != nil {
			return err
		}
		docs, err := card.consents()
		if err != nil {
			return err
		}
		for _, d := range docs {
			list = append(list, d.Claims(time.Now()))
		}
	} else {
		h, err := openHospital(*config, e.stderr)
		if err != nil {
			return err
		}
		store, alias, err := h.verifiedConsents(ctx)
		if err != nil {
			return err
		}
		name := provenance.Pseudonym(table.Pseudonym(alias, *patient))
		if list, err = store.History(name, time.Now()); err != nil {
			return err
		}
		if *cardDir != "" {
			var scopes []string
			for _, c := range list {
				scopes = append(scopes, c.Scopes...)
			}
			if err := h.maySee(ctx, *cardDir, name, scopes); err != nil {
				return err
			}
		}
	}
	if e.json {
		if list == nil {
			list = []provenance.Claims{}
		}
		return json.NewEncoder(e.stdout).Encode(list)
	}
	if len(list) == 0 {
		fmt.Fprintln(e.stdout, "There is no consent: the records are used for no study that needs one.")
	}
	for i := range list {
		fmt.Fprintln(e.stdout, claimsText(&list[i]))
	}
	if !desk && len(list) > 0 {
		fmt.Fprintln(e.stdout, "These are the copies on your card. What was taken back since, the hospital knows.")
	}
	return nil
}

func when(unix int64) string { return time.Unix(unix, 0).UTC().Format("2006-01-02 15:04") }

// access is one use of a patient's rows, as the hospital states it.
type access struct {
	Study    consilium.StudyID `json:"study"`
	Columns  []string          `json:"columns"`
	About    vault.About       `json:"about"`
	Released string            `json:"released"` // when this hospital allowed the result out, or ""
	Rounds   uint32            `json:"rounds"`
	First    string            `json:"first"` // when the rows were first read for it

	ended bool // at this hospital
}

// accessStatement is what the hospital signs for a patient: these studies, and
// no others, used the patient's rows. Subject is ConsentSubject, so that the
// statement names nobody to whom it is not given.
type accessStatement struct {
	APIVersion string           `json:"apiVersion"`
	Kind       string           `json:"kind"` // "AccessStatement"
	ID         provenance.ID    `json:"id"`
	Subject    consilium.Digest `json:"subject"`
	Site       consilium.SiteID `json:"site"`
	At         int64            `json:"at"` // Unix seconds
	Accesses   []access         `json:"accesses"`
}

// accessProof is the statement with what it rests on: for every study the
// hospital's signed trail and the proof that its head is in the witnessed ledger.
type accessProof struct {
	Statement json.RawMessage       `json:"statement"` // the bytes that are signed
	Signature consilium.Signature   `json:"signature"`
	Records   []*archive.SiteRecord `json:"records"`
}

// mayAll refuses a card whose owner may not see the list: the patient may see
// all of it, a representative what the mandate covers, and a part is not shown as
// if it were the whole.
func (h *hospital) mayAll(ctx context.Context, dir string, name provenance.Pseudonym, list []access) error {
	var scopes []string
	for _, a := range list {
		scopes = append(scopes, a.About.Categories...)
	}
	return h.maySee(ctx, dir, name, scopes)
}

// maySee refuses a card whose owner may not see what is about these categories of
// data.
func (h *hospital) maySee(ctx context.Context, dir string, name provenance.Pseudonym, scopes []string) error {
	card, err := openCard(dir, "", provenance.Pseudonym{})
	if err != nil {
		return err
	}
	store, _, err := h.verifiedConsents(ctx)
	if err != nil {
		return err
	}
	if card.Site != h.site || card.Patient != name || !store.May(name, card.key.Public(), provenance.PowerSee, scopes, time.Now().Unix()) {
		return &consilium.Error{Code: consilium.ErrForbidden.Code, Msg: "the owner of this card may not see that for this patient", Next: "bring the patient's own card, or enter a mandate with the power see for these data"}
	}
	return nil
}

// runConsentAccesses tells a patient which studies used the patient's rows:
// from the vault's book of cohorts, with the times of the signed trail.
func runConsentAccesses(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	config := flags.String("config", "", "the worker's config `file`")
	patient := flags.String("patient", "", "the hospital's own patient `number`")
	proof := flags.String("proof", "", "`file` for the signed list with its proofs, for the patient to keep")
	check := flags.String("check", "", "instead, check such a `file` that a hospital gave you")
	rosterFile := flags.String("roster", "", "with --check, the federation's signed roster `file`")
	board := flags.String("board", "", "with --check, a kit's board.json `file`: check the roster against the board that you trust")
	cardDir := flags.String("card", "", "`folder` of the consent card of who asks; with --check, is the list about you?")
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	if *check != "" && *rosterFile != "" && len(rest) == 0 {
		return e.checkAccesses(*check, *rosterFile, *board, *cardDir)
	}
	if len(rest) > 0 || *patient == "" || *check != "" {
		return usagef("--config FILE and --patient NUMBER are needed; to check a list at home, --check FILE --roster FILE --card FOLDER")
	}
	h, err := openHospital(*config, e.stderr)
	if err != nil {
		return err
	}
	alias, err := readSecret(h.config.Keys, pseudonymFile)
	if err != nil {
		return err
	}
	name := provenance.Pseudonym(table.Pseudonym(alias, *patient))
	list, err := h.accesses(name)
	if err != nil {
		return err
	}
	if *cardDir != "" {
		if err := h.mayAll(ctx, *cardDir, name, list); err != nil {
			return err
		}
	}
	out := accessProof{Records: []*archive.SiteRecord{}}
	for i := range list {
		signed, err := h.trailOf(list[i].Study)
		if err != nil {
			return err
		}
		entries, err := signed.Verify(h.kit.signer.Public(), list[i].Study)
		if err != nil {
			return err
		}
		if err := list[i].read(entries); err != nil {
			return err
		}
		if *proof == "" {
			continue
		}
		rec, err := h.anchored(ctx, list[i].Study)
		if err != nil {
			return fmt.Errorf("%w; without --proof the list can be shown before", err)
		}
		rec.Trail = signed
		out.Records = append(out.Records, rec)
	}
	if *proof != "" {
		s := accessStatement{APIVersion: consilium.APIVersion, Kind: "AccessStatement", ID: provenance.NewID(), Site: h.site, At: time.Now().Unix(), Accesses: list}
		s.Subject = provenance.ConsentSubject(s.ID, h.site, name)
		if out.Statement, err = canon.Marshal(&s); err != nil {
			return err
		}
		if out.Signature, err = h.kit.signer.Sign(consilium.DomainAccess, out.Statement); err != nil {
			return err
		}
		b, err := json.Marshal(&out)
		if err != nil {
			return err
		}
		if err := durable.WriteFile(*proof, b, 0o600); err != nil {
			return err
		}
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(list)
	}
	showAccesses(e.stdout, list)
	if *proof != "" {
		fmt.Fprintf(e.stdout, "The hospital's signed list with its proofs is in %s.\n", *proof)
	}
	return nil
}

// accesses lists the studies whose analysis read rows of the patient, whether a
// sum of them was opened or not.
func (h *hospital) accesses(name provenance.Pseudonym) ([]access, error) {
	who := consilium.DomainCohort.Digest(name[:])
	list := []access{}
	err := h.replayCopy(filepath.Join(h.config.vaultDir(), "cohorts"), func(path string) error {
		reads, err := vault.Reads(path, policy.Member(who[:]))
		for _, r := range reads {
			list = append(list, access{Study: r.Study, Columns: r.Columns, About: r.About})
		}
		return err
	})
	return list, err
}

// read takes the times from a hospital's verified trail. A release that the
// hospital refused is none.
func (a *access) read(entries []trail.Entry) error {
	a.First, a.Released, a.Rounds, a.ended = "", "", 0, false
	for _, t := range entries {
		switch t.Type {
		case "use":
			if a.First == "" {
				a.First = when(t.Time / 1000)
			}
			a.Rounds = max(a.Rounds, t.Round)
		case "release":
			var body struct {
				Allow *bool `json:"allow"`
			}
			if err := json.Unmarshal(t.Body, &body); err != nil || body.Allow == nil {
				return consilium.ErrInvalid.Withf("trail entry %d: a release that does not say whether it was allowed: %v", t.Seq, err)
			}
			if *body.Allow {
				a.Released = when(t.Time / 1000)
			}
		case "ended", "withdraw", "decline":
			a.ended = true
		case "enrol": // in another epoch, after it had declined one
			a.ended = false
		}
	}
	return nil
}

func showAccesses(w io.Writer, list []access) {
	if len(list) == 0 {
		fmt.Fprintln(w, "no study has used this patient's rows")
	}
	for _, a := range list {
		if a.About.Name != "" {
			fmt.Fprintf(w, "%s\n", a.About.Question)
			fmt.Fprintf(w, "  asked by %s, study %s, for %s\n", a.About.Team, a.About.Name, inWords(purposeWords, a.About.Purposes))
			fmt.Fprintf(w, "  used: %s\n", inWords(categoryWords, a.About.Categories))
		}
		if a.First == "" {
			fmt.Fprintf(w, "  %s  was about to read, and the worker ended before it recorded a use; columns %s\n", a.Study, strings.Join(a.Columns, ", "))
		} else if a.Rounds == 0 {
			fmt.Fprintf(w, "  %s  read %s, to see whether the study can use the rows; columns %s\n", a.Study, a.First, strings.Join(a.Columns, ", "))
		} else {
			fmt.Fprintf(w, "  %s  first read %s, %d rounds, columns %s\n", a.Study, a.First, a.Rounds, strings.Join(a.Columns, ", "))
		}
		if a.Released != "" {
			fmt.Fprintf(w, "  result released %s: numbers about groups, nothing about one person\n", a.Released)
		}
	}
}

// checkAccesses verifies a list offline: the board's signatures on the roster,
// the hospital's signature under it, every study's trail, and that the trail's head stands in the
// hospital's witnessed ledger.
func (e *env) checkAccesses(file, rosterFile, boardFile, cardDir string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	roster, err := pinned.OpenRoster(rosterFile, boardFile)
	if err != nil {
		return err
	}
	var p accessProof
	if err := strictJSON(b, &p); err != nil {
		return consilium.ErrInvalid.Withf("%s: %w", file, err)
	}
	if slices.Contains(p.Records, nil) {
		return consilium.ErrInvalid.Withf("%s: a study without its proof", file)
	}
	var s accessStatement
	if err := errors.Join(canon.Check(p.Statement), strictJSON(p.Statement, &s)); err != nil || s.Kind != "AccessStatement" || s.APIVersion != consilium.APIVersion {
		return consilium.ErrInvalid.Withf("%s: no list of accesses: %w", file, err)
	}
	site, ok := roster.Site(s.Site)
	if !ok {
		return consilium.ErrUnauthenticated.Withf("%s is not in the roster", s.Site)
	}
	if err := hybrid.Verify(site.Key, consilium.DomainAccess, p.Statement, &p.Signature); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if cardDir != "" {
		card, err := openCard(cardDir, "", provenance.Pseudonym{})
		if err != nil {
			return err
		}
		if s.Subject != provenance.ConsentSubject(s.ID, s.Site, card.Patient) {
			return consilium.ErrForbidden.Withf("this list is about another patient than the card's")
		}
	}
	if len(p.Records) != len(s.Accesses) {
		return consilium.ErrInvalid.Withf("%s: %d studies and %d proofs", file, len(s.Accesses), len(p.Records))
	}
	for i := range s.Accesses {
		a, rec := s.Accesses[i], p.Records[i]
		if rec.Trail == nil || rec.Trail.Site != s.Site {
			return consilium.ErrSignature.Withf("study %s: the trail is of another hospital", a.Study)
		}
		entries, err := rec.Trail.Verify(site.Key, a.Study)
		if err != nil {
			return err
		}
		if err := archive.VerifyRecord(rec, site, roster.Roster); err != nil {
			return fmt.Errorf("study %s: %w", a.Study, err)
		}
		said := a
		if err := a.read(entries); err != nil {
			return err
		}
		if a.First != said.First || a.Released != said.Released || a.Rounds != said.Rounds {
			return consilium.ErrSignature.Withf("study %s: the list says other times than the signed trail", a.Study)
		}
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"site": s.Site, "at": s.At, "accesses": s.Accesses, "board": roster.Pinned})
	}
	if roster.Pinned {
		fmt.Fprintf(e.stdout, "Genuine: %s signed this list on %s, and its witnessed ledger holds the record of every study.\n", s.Site, when(s.At))
	} else {
		fmt.Fprintf(e.stdout, "Signed by what this roster calls %s on %s, with a witnessed record of every study. Whether the roster is genuine was not checked:\n%s.\n", s.Site, when(s.At), roster.Unpinned())
	}
	if cardDir != "" {
		fmt.Fprintln(e.stdout, "It is about you.")
	}
	showAccesses(e.stdout, s.Accesses)
	return nil
}

// replayCopy hands fn a copy of a journal: a running worker holds the file
// itself, and opening a journal may mend its end.
func (h *hospital) replayCopy(path string, fn func(copy string) error) error {
	b, err := os.ReadFile(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	dir, err := os.MkdirTemp("", "consilium-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "journal")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return durable.Full(err)
	}
	return fn(file)
}

// trailOf exports the hospital's signed trail of a study.
func (h *hospital) trailOf(study consilium.StudyID) (*trail.Signed, error) {
	out := &trail.Signed{Site: h.site}
	err := h.replayCopy(filepath.Join(h.config.gateDir(), "trail"), func(path string) error {
		t, err := trail.Open(path, h.site, h.kit.signer, time.Now)
		if err != nil {
			return err
		}
		defer t.Close()
		out, err = t.Export(study)
		return err
	})
	return out, err
}
