package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"consilium"
	"consilium/internal/durable"
	"consilium/internal/hybrid"
	"consilium/internal/table"
	"consilium/internal/trail"
	"consilium/policy"
	"consilium/provenance"
	"consilium/worker/vault"
)

// The consent desk: where a patient, or who acts for the patient, signs. The
// documents rest sealed at the hospital; the ledger gets salted digests.

// consentDesk opens the hospital's store of consents.
func (h *hospital) consentDesk() (*provenance.Consents, []byte, error) {
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
	var patient, patients, keys, form, level, studies, scopes, purposes, diseases, countries, givenBy, from, until, objections, answers *string
	h, err := consentHospital(e, args, func(def func(name, usage string) *string) func() error {
		patient = def("patient", "the hospital's own patient `number`")
		patients = def("patients", "instead, a `file` with one number on each line")
		keys = def("keys", "`directory` for the patients' key files; a patient takes the file along")
		form = def("form", "name and version of the `form` that was explained")
		level = def("level", "general, area or project")
		studies = def("studies", "names of studies, for level project")
		scopes = def("scopes", "categories of data: general, genetic, …")
		purposes = def("purposes", "DUO codes")
		diseases = def("diseases", "MONDO codes; none means not limited")
		countries = def("countries", "to which results may go beside the hospital's own")
		givenBy = def("given-by", "self, parent or guardian")
		from = def("from", "first `day`; default now")
		until = def("until", "last `day`; default until withdrawn")
		objections = def("objections", "what the patient objects to, for example anonymisation")
		answers = def("answers", "what holds of the conversation: explicit,informed,assent")
		return func() error {
			if (*patient == "") == (*patients == "") {
				return usagef("name --patient NUMBER or --patients FILE")
			}
			if *keys == "" || *form == "" || *level == "" || *scopes == "" || *purposes == "" || *givenBy == "" {
				return usagef("--keys, --form, --level, --scopes, --purposes and --given-by are needed")
			}
			return nil
		}
	})
	if err != nil {
		return err
	}
	numbers := []string{*patient}
	if *patients != "" {
		if numbers, err = readLines(*patients); err != nil {
			return err
		}
	}
	now := time.Now().Unix()
	c := provenance.Consent{Site: h.site, Form: *form, Level: *level, Studies: split(*studies), Scopes: split(*scopes), Purposes: split(*purposes),
		Diseases: split(*diseases), Countries: split(*countries), GivenBy: *givenBy, Objections: split(*objections), Given: now}
	if c.From, err = day("from", *from, now); err != nil {
		return err
	}
	if c.Until, err = day("until", *until, 0); err != nil {
		return err
	}
	for _, a := range split(*answers) {
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
	store, alias, err := h.consentDesk()
	if err != nil {
		return err
	}
	var entries []provenance.ConsentEntry
	for _, id := range numbers {
		name := provenance.Pseudonym(table.Pseudonym(alias, id))
		key, err := patientKey(*keys, name, true)
		if err != nil {
			return err
		}
		doc, err := provenance.SignConsent(key, c, name)
		if err != nil {
			return fmt.Errorf("consent: %w", err)
		}
		entries = append(entries, provenance.ConsentEntry{Patient: name, Doc: doc})
	}
	if err := h.enter(ctx, store, entries); err != nil {
		return err
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"consents": len(entries)})
	}
	fmt.Fprintf(e.stdout, "%d consents entered; the hospital's ledger holds their salted digests\n", len(entries))
	return nil
}

// enter puts documents into the store and waits until the ledger's witness has
// cosigned them.
func (h *hospital) enter(ctx context.Context, store *provenance.Consents, entries []provenance.ConsentEntry) error {
	quietLedger()
	ctx, cancel := whileRoom(ctx, h.config.Data)
	defer cancel()
	ctx, cancel = context.WithTimeout(ctx, publishWithin)
	defer cancel()
	if err := h.enterNow(ctx, store, entries); err != nil {
		return noRoom(ctx, h.config.Data, err)
	}
	return nil
}

func (h *hospital) enterNow(ctx context.Context, store *provenance.Consents, entries []provenance.ConsentEntry) error {
	ledger, done, err := writer(ctx, h.kit, &h.config)
	if err != nil {
		return err
	}
	_, err = store.Add(ctx, ledger, entries...)
	if err == nil {
		// One more entry, awaited, covers those before it.
		var note []byte
		note, err = provenance.SignRecord(h.kit.signer, &provenance.AuditRecord{Type: provenance.RecordAccess, Time: time.Now().UnixMilli(), Actor: string(h.site), Outcome: "published"})
		if err == nil {
			var at uint64
			if at, err = ledger.Append(ctx, note); err == nil {
				_, err = ledger.Await(ctx, at)
			}
		}
	}
	return errors.Join(err, done())
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
	var patient, keys, scopes *string
	h, err := consentHospital(e, args, func(def func(name, usage string) *string) func() error {
		patient = def("patient", "the hospital's own patient `number`")
		keys = def("keys", "`directory` with the patient's key file; without it the hospital signs for a patient who says so at the desk")
		scopes = def("scopes", "categories of data to withdraw; default all")
		return func() error {
			if *patient == "" {
				return usagef("--patient NUMBER is needed")
			}
			return nil
		}
	})
	if err != nil {
		return err
	}
	store, alias, err := h.consentDesk()
	if err != nil {
		return err
	}
	name := provenance.Pseudonym(table.Pseudonym(alias, *patient))
	var signer consilium.Signer = h.kit.signer
	if *keys != "" {
		if signer, err = patientKey(*keys, name, false); err != nil {
			return err
		}
	}
	doc, err := provenance.SignWithdrawal(signer, provenance.Withdrawal{Site: h.site, Scopes: split(*scopes), At: time.Now().Unix()}, name)
	if err != nil {
		return err
	}
	if err := h.enter(ctx, store, []provenance.ConsentEntry{{Patient: name, Doc: doc}}); err != nil {
		return err
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(map[string]any{"withdrawal": doc.Digest()})
	}
	fmt.Fprintln(e.stdout, "withdrawn: the patient's rows are left out from the next use on; what was already summed cannot be taken out of the sum")
	return nil
}

// verifiedConsents opens the store as the vault does: held against the ledger.
func (h *hospital) verifiedConsents(ctx context.Context) (*provenance.Consents, []byte, error) {
	store, alias, err := h.consentDesk()
	if err != nil {
		return nil, nil, err
	}
	site, _ := h.kit.roster.Site(h.site)
	g, err := provenance.NewGate(provenance.GateConfig{Ledger: site.Ledger, Site: site.Key, Witnesses: provenance.SingleWitness(h.kit.roster.Board.Witness, "").AnyAge()})
	if err != nil {
		return nil, nil, err
	}
	if _, err := g.Update(ctx, provenance.DirView(h.config.ledgerDir())); err != nil {
		return nil, nil, err
	}
	return store, alias, store.Verify(g)
}

func runConsentShow(ctx context.Context, e *env, args []string) error {
	var patient *string
	h, err := consentHospital(e, args, func(def func(name, usage string) *string) func() error {
		patient = def("patient", "the hospital's own patient `number`")
		return func() error {
			if *patient == "" {
				return usagef("--patient NUMBER is needed")
			}
			return nil
		}
	})
	if err != nil {
		return err
	}
	store, alias, err := h.verifiedConsents(ctx)
	if err != nil {
		return err
	}
	list, err := store.History(provenance.Pseudonym(table.Pseudonym(alias, *patient)), time.Now())
	if err != nil {
		return err
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(list)
	}
	if len(list) == 0 {
		fmt.Fprintln(e.stdout, "no consent")
	}
	for _, c := range list {
		fmt.Fprintf(e.stdout, "%s since %s, form %s, given by %s\n", c.Status, when(c.From), c.Form, c.GivenBy)
		fmt.Fprintf(e.stdout, "  data: %s; purposes: %s; diseases: %s\n", strings.Join(c.Scopes, ", "), strings.Join(c.Purposes, ", "), orAny(c.Diseases))
		if c.Until != 0 {
			fmt.Fprintf(e.stdout, "  until %s\n", when(c.Until))
		}
		if c.Withdrawn != 0 {
			fmt.Fprintf(e.stdout, "  withdrawn %s\n", when(c.Withdrawn))
		}
	}
	return nil
}

func orAny(s []string) string {
	if len(s) == 0 {
		return "any"
	}
	return strings.Join(s, ", ")
}

func when(unix int64) string { return time.Unix(unix, 0).UTC().Format("2006-01-02 15:04") }

// access is one use of a patient's rows.
type access struct {
	Study    consilium.StudyID `json:"study"`
	Columns  []string          `json:"columns"`
	Released string            `json:"released"` // when this hospital allowed the result out, or ""
	Rounds   uint32            `json:"rounds"`
	First    string            `json:"first"` // when the rows were first read for it
}

// runConsentAccesses tells a patient which studies used the patient's rows:
// from the book of opened cohorts, with the times of the signed trail.
func runConsentAccesses(_ context.Context, e *env, args []string) error {
	var patient *string
	h, err := consentHospital(e, args, func(def func(name, usage string) *string) func() error {
		patient = def("patient", "the hospital's own patient `number`")
		return func() error {
			if *patient == "" {
				return usagef("--patient NUMBER is needed")
			}
			return nil
		}
	})
	if err != nil {
		return err
	}
	alias, err := readSecret(h.config.Keys, pseudonymFile)
	if err != nil {
		return err
	}
	name := table.Pseudonym(alias, *patient)
	who := consilium.DomainCohort.Digest(name[:])
	me := policy.Member(who[:])
	list := []access{}
	err = h.replayCopy(filepath.Join(h.config.vaultDir(), "cohorts"), func(path string) error {
		log, err := durable.Open(path)
		if err != nil {
			return err
		}
		defer log.Close()
		return log.Replay(func(_ uint8, data []byte) error {
			var c policy.OpenedCohort
			if err := json.Unmarshal(data, &c); err != nil {
				return err
			}
			if slices.Contains(c.Patients, me) {
				list = append(list, access{Study: c.Study, Columns: c.Columns})
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	for i := range list {
		signed, err := h.trailOf(list[i].Study)
		if err != nil {
			return err
		}
		entries, err := signed.Verify(h.kit.signer.Public(), list[i].Study)
		if err != nil {
			return err
		}
		for _, t := range entries {
			switch t.Type {
			case "use":
				if list[i].First == "" {
					list[i].First = when(t.Time / 1000)
				}
				list[i].Rounds = max(list[i].Rounds, t.Round)
			case "release":
				list[i].Released = when(t.Time / 1000)
			}
		}
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(list)
	}
	if len(list) == 0 {
		fmt.Fprintln(e.stdout, "no study has used this patient's rows")
	}
	for _, a := range list {
		fmt.Fprintf(e.stdout, "%s  first read %s, %d rounds, columns %s\n", a.Study, a.First, a.Rounds, strings.Join(a.Columns, ", "))
		if a.Released != "" {
			fmt.Fprintf(e.stdout, "  result released %s\n", a.Released)
		}
	}
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
