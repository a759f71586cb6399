package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"consilium"
	"consilium/internal/hybrid"
	"consilium/internal/table"
	"consilium/policy"
	"consilium/policy/consent"
	"consilium/provenance"
)

// A consent that another system holds (a FHIR server, a register with Data Use
// Ontology codes, a wallet) is read by policy/consent, which says what of this
// hospital's data it permits, and entered as a consent of our own form, with the
// document's SHA-256 as its evidence: the row rules then decide as for any other.
// What cannot be said in that form is left out, so that less is permitted.

// consentSource is one way in which a consent comes.
type consentSource struct {
	flag, typ string
	parse     func([]byte) (*consent.Form, error)
}

var consentSources = []consentSource{
	{"fhir", provenance.TypImported, consent.ParseFHIR},
	{"duo", provenance.TypImported, consent.ParseDUO},
	{"credential", provenance.TypImportedVC, consent.ParseCredential},
}

// imported is what came of a document.
type imported struct {
	Source  string           `json:"source"`
	Issuer  string           `json:"issuer"` // whose signature it bears, or ""
	Word    string           `json:"word"`   // on whose word it was taken instead
	Sum     consilium.Digest `json:"sha256"` // of the file
	Entry   *consent.Entry   `json:"entry"`
	Entered consilium.Digest `json:"entered"`
	Duties  *duties          `json:"duties,omitempty"` // of a refusal, which is a withdrawal of everything
}

func runConsentImport(ctx context.Context, e *env, args []string) error {
	flags := e.flags()
	config := flags.String("config", "", "the worker's config `file`")
	patient := flags.String("patient", "", "the hospital's own patient `number`")
	reference := flags.String("reference", "", "how the document names the patient; default Patient/NUMBER in FHIR")
	organisation := flags.String("organisation", "", "how FHIR documents name this hospital, for example `Organization/f001`")
	issuers := flags.String("issuer", "", "`DIDs` (did:key, did:jwk) whose signatures on such documents this hospital trusts")
	word := flags.String("on-word", "", "without a signature: the `name` of who compared the document with its source")
	answers := flags.String("answers", "", "what the document shows of the conversation: explicit,informed")
	cardDir := flags.String("card", "", "`folder` of the patient's card; an empty one becomes a new card to take along")
	keys := flags.String("keys", "", "instead, a `directory` for the card's key")
	impairment := flags.String("impairment", "", "if the document refuses, the `id` of the document that erasing would seriously impair the research (GDPR Art. 17(3)(d))")
	files := map[string]*string{}
	for _, s := range consentSources {
		files[s.flag] = flags.String(s.flag, "", map[string]string{"fhir": "`file` with a FHIR Consent, release 4 or 5, or a JWS of one", "duo": "`file` with Data Use Ontology codes, or a JWS of them",
			"credential": "`file` with a W3C verifiable credential as a JWT"}[s.flag])
	}
	rest, err := e.parse(flags, args)
	if err != nil {
		return err
	}
	var from *consentSource
	for i := range consentSources {
		if *files[consentSources[i].flag] != "" {
			if from != nil {
				return usagef("one document at a time: --%s or --%s", from.flag, consentSources[i].flag)
			}
			from = &consentSources[i]
		}
	}
	switch {
	case len(rest) > 0 || from == nil || *patient == "":
		return usagef("--config FILE, --patient NUMBER and one of --fhir FILE, --duo FILE and --credential FILE are needed")
	case (*cardDir == "") == (*keys == ""):
		return usagef("--card FOLDER or --keys DIRECTORY is needed: the key with which the patient can take it back")
	}
	h, err := openHospital(*config, e.stderr)
	if err != nil {
		return err
	}
	if err := h.checkImpairment(*impairment); err != nil {
		return err
	}
	raw, err := readBounded(*files[from.flag], consent.MaxDocument)
	if err != nil {
		return err
	}
	out := imported{Sum: sha256.Sum256(raw), Word: *word}
	form, err := out.read(from, raw, split(*issuers))
	if err != nil {
		return err
	}
	out.Source = form.Source
	if want := cmp.Or(*reference, "Patient/"+*patient); from.flag != "duo" && form.Patient != want {
		return consilium.ErrInvalid.Withf("the document is about %q, and not about %s; if that is this patient, say so with --reference", form.Patient, want)
	}
	now := time.Now().Unix()
	if out.Entry, err = form.Entry(h.consentRequest(now, *organisation)); err != nil {
		return &consilium.Error{Code: consilium.ErrInvalid.Code, Msg: "the document cannot be entered", Next: "ask the patient, and enter the answer with `consent issue` or `consent withdraw`", Err: err}
	}
	store, alias, leave, err := h.consentDesk(ctx)
	if err != nil {
		return err
	}
	defer leave()
	name := provenance.Pseudonym(table.Pseudonym(alias, *patient))
	if !out.Entry.Refusal && store.TookBack(name) {
		return &consilium.Error{Code: consilium.ErrForbidden.Code, Msg: "this patient took a consent back here: a document of another system does not undo that",
			Next: "ask the patient, and enter the answer with `consent issue`"}
	}
	doc, card, err := h.importedDocument(store, &out, name, now, *answers, *cardDir, *keys)
	if err != nil {
		return err
	}
	if err := h.enter(ctx, store, []provenance.ConsentEntry{{Patient: name, Doc: doc}}); err != nil {
		return err
	}
	if card != nil && doc.Consent != nil {
		if err := card.keep(doc); err != nil {
			return err
		}
	}
	out.Entered = doc.Digest()
	if out.Entry.Refusal {
		if out.Duties, err = h.dutiesOf(ctx, store, doc, name, alias, *impairment); err != nil {
			return err
		}
	}
	if e.json {
		return json.NewEncoder(e.stdout).Encode(out)
	}
	out.show(e.stdout)
	if out.Duties != nil {
		out.Duties.show(e.stdout, *patient)
	}
	return nil
}

// read verifies a document's signature and parses it. What bears none is taken on
// the word of somebody who is named.
func (i *imported) read(from *consentSource, raw []byte, issuers []string) (*consent.Form, error) {
	doc := bytes.TrimSpace(raw)
	switch signed := !bytes.HasPrefix(doc, []byte("{")); {
	case signed:
		var err error
		if doc, i.Issuer, err = provenance.VerifyImported(string(doc), from.typ, issuers, time.Now()); err != nil {
			return nil, err
		}
		i.Word = ""
	case from.typ == provenance.TypImportedVC:
		return nil, consilium.ErrSignature.Withf("a credential comes with its signature, as a JWT")
	case i.Word == "":
		return nil, consilium.ErrSignature.Withf("the document bears no signature: bring a JWS of it and --issuer, or name who compared it with its source (--on-word)")
	}
	return from.parse(doc)
}

// consentRequest asks about every column of this hospital's tables, for research,
// by the hospital itself.
func (h *hospital) consentRequest(now int64, organisation string) *consent.Request {
	r := &consent.Request{Now: now, Purpose: "HRESCH"}
	if organisation != "" {
		r.Actors = []string{organisation}
	}
	for _, d := range h.datasets {
		for _, c := range d.Columns {
			if c.Name != d.Patient {
				r.Items = append(r.Items, consent.Item{Name: d.Name + "." + c.Name, Category: cmp.Or(c.Category, "general")})
			}
		}
	}
	return r
}

// importedDocument is the consent, or the refusal, that the store takes.
func (h *hospital) importedDocument(store *provenance.Consents, i *imported, name provenance.Pseudonym, now int64, answers, cardDir, keys string) (*provenance.SignedDoc, *patientCard, error) {
	en := i.Entry
	if en.Refusal {
		doc, err := provenance.SignWithdrawal(h.kit.signer, provenance.Withdrawal{Site: h.site, At: now, Scopes: []string{}}, name)
		return doc, nil, err
	}
	if en.GivenBy != provenance.GivenBySelf {
		return nil, nil, &consilium.Error{Code: consilium.ErrForbidden.Code, Msg: "the document was given by somebody for the patient",
			Next: "enter the mandate with `consent mandate`, and the consent with `consent issue`"}
	}
	c := provenance.Consent{Site: h.site, Form: "imported " + i.Source + ", " + i.vouched(), Evidence: i.Sum, Level: provenance.LevelGeneral, Studies: []string{}, Scopes: en.Scopes,
		Purposes: en.Purposes, Diseases: en.Diseases, Countries: []string{}, GivenBy: provenance.GivenBySelf, Objections: []string{}, Given: now, From: en.From}
	if len(en.Diseases) > 0 {
		c.Level = provenance.LevelArea
	}
	if en.Until != consent.Never {
		c.Until = en.Until
	}
	for _, a := range split(answers) {
		switch a {
		case "explicit":
			c.Explicit = true
		case "informed":
			c.Informed = true
		default:
			return nil, nil, usagef("--answers: %q; %s", a, suggestion(a, []string{"explicit", "informed"}))
		}
	}
	var card *patientCard
	var key *hybrid.Key
	var err error
	if cardDir != "" {
		if card, err = openCard(cardDir, h.site, name); err == nil {
			key = card.key
		}
	} else {
		key, err = patientKey(keys, name, true)
	}
	if err != nil {
		return nil, nil, err
	}
	places, err := store.NewStatus(1)
	if err != nil {
		return nil, nil, err
	}
	doc, err := provenance.IssueConsent(h.kit.signer, key, c, name, &places[0])
	return doc, card, err
}

// vouched says who stands for the document.
func (i *imported) vouched() string {
	s := "signed by " + i.Issuer
	if i.Issuer == "" {
		s = "on the word of " + i.Word
	}
	if len(s) > 200 {
		s = s[:200]
	}
	return strings.ToValidUTF8(s, "?")
}

func (i *imported) show(w io.Writer) {
	en := i.Entry
	if en.Refusal {
		fmt.Fprintf(w, "%s, %s: it permits no whole category of data; entered as a refusal of every use\n", i.Source, i.vouched())
		return
	}
	fmt.Fprintf(w, "%s, %s: entered for %s, with the uses %s\n", i.Source, i.vouched(), strings.Join(en.Scopes, ", "), strings.Join(en.Purposes, ", "))
	if len(en.Diseases) > 0 {
		fmt.Fprintf(w, "  for %s only\n", strings.Join(en.Diseases, ", "))
	}
	if en.Until != policy.Never {
		fmt.Fprintf(w, "  until %s; import it again then, if it still holds\n", when(en.Until))
	}
	var left []string
	for name, why := range en.Reasons {
		left = append(left, name+": "+why)
	}
	slices.Sort(left)
	for _, s := range left {
		fmt.Fprintln(w, "  left out with its category: "+s)
	}
}
