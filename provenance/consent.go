package provenance

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"crypto/rand"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/hybrid"
	"consilium/provenance/sdjwt"
	"consilium/provenance/status"
)

// Who gave a consent.
const (
	GivenBySelf     = "self"
	GivenByParent   = "parent"
	GivenByGuardian = "guardian"
	GivenByProxy    = "proxy" // whom an adult patient asked to
)

// How wide a consent is.
const (
	LevelProject = "project" // for the studies it names
	LevelArea    = "area"    // for the diseases or purposes it names
	LevelGeneral = "general" // for research
)

// Consent is what a patient, or who acts for the patient, signs. It travels as
// RFC 8785 JSON and stays at the hospital; the ledger holds a salted digest.
// Whether it permits a study is policy's question, not answered here.
type Consent struct {
	APIVersion string              `json:"apiVersion"`
	Kind       string              `json:"kind"` // "Consent"
	ID         ID                  `json:"id"`
	Subject    consilium.Digest    `json:"subject"` // ConsentSubject of ID, Site and the patient's pseudonym
	Site       consilium.SiteID    `json:"site"`
	Form       string              `json:"form"`      // name and version of the form that was explained
	Evidence   consilium.Digest    `json:"evidence"`  // of the signed form or recording; zero if the signature here is all
	Level      string              `json:"level"`     // project, area or general
	Studies    []string            `json:"studies"`   // names, for level project
	Scopes     []string            `json:"scopes"`    // categories: general, genetic, mental, hiv, substance, sexual, …
	Purposes   []string            `json:"purposes"`  // DUO codes
	Diseases   []string            `json:"diseases"`  // MONDO codes; empty means not limited
	Countries  []string            `json:"countries"` // to which results may go beside the hospital's own; ISO 3166 or EEA
	Explicit   bool                `json:"explicit"`
	Informed   bool                `json:"informed"`
	GivenBy    string              `json:"givenBy"`
	Assent     bool                `json:"assent"`     // of a minor
	Objections []string            `json:"objections"` // what the patient objects to, for example anonymisation
	Given      int64               `json:"given"`      // Unix seconds
	From       int64               `json:"from"`
	Until      int64               `json:"until"` // 0 means until withdrawn
	Key        consilium.PublicKey `json:"key"`   // who signed and may withdraw
}

// Withdrawal ends a consent. It takes effect when the hospital has it.
type Withdrawal struct {
	APIVersion string              `json:"apiVersion"`
	Kind       string              `json:"kind"` // "Withdrawal"
	ID         ID                  `json:"id"`
	Subject    consilium.Digest    `json:"subject"`
	Site       consilium.SiteID    `json:"site"`
	Consent    consilium.Digest    `json:"consent"` // SignedDoc.Digest; zero withdraws every consent of the patient
	Scopes     []string            `json:"scopes"`  // empty withdraws all of it
	At         int64               `json:"at"`      // Unix seconds
	Key        consilium.PublicKey `json:"key"`
}

// ConsentSubject commits to a patient: without the pseudonym, which never
// leaves the hospital, nobody can tell whose document it is.
func ConsentSubject(id ID, site consilium.SiteID, p Pseudonym) consilium.Digest {
	return consilium.DomainSubject.Digest(id[:], []byte(site), p[:])
}

func checkList(what string, list []string) error {
	if list == nil {
		return fmt.Errorf("%s: want a list, it may be empty", what)
	}
	if len(list) > 256 {
		return fmt.Errorf("%s: %d, at most 256", what, len(list))
	}
	for i, s := range list {
		if s == "" || len(s) > 128 {
			return fmt.Errorf("%s: %q", what, clip(s))
		}
		if i > 0 && list[i-1] >= s {
			return fmt.Errorf("%s: not in ascending order at %q", what, clip(s))
		}
	}
	return nil
}

const maxTime = 1 << 40 // Unix seconds: the year 36812

func (c *Consent) validate() error {
	switch {
	case c.APIVersion != consilium.APIVersion || c.Kind != "Consent":
		return fmt.Errorf("apiVersion %q kind %q", clip(c.APIVersion), clip(c.Kind))
	case c.ID.IsZero() || c.Subject.IsZero() || c.Key.IsZero():
		return errors.New("id, subject and key are all needed")
	case c.Form == "" || len(c.Form) > 256:
		return errors.New("form: want 1 to 256 characters")
	case c.Level != LevelProject && c.Level != LevelArea && c.Level != LevelGeneral:
		return fmt.Errorf("level %q: want project, area or general", clip(c.Level))
	case (c.Level == LevelProject) != (len(c.Studies) > 0):
		return errors.New("studies: name them exactly where the level is project")
	case len(c.Scopes) == 0 || len(c.Purposes) == 0:
		return errors.New("scopes and purposes: at least one each")
	case c.GivenBy != GivenBySelf && c.GivenBy != GivenByParent && c.GivenBy != GivenByGuardian && c.GivenBy != GivenByProxy:
		return fmt.Errorf("givenBy %q: want self, parent, guardian or proxy", clip(c.GivenBy))
	case c.Given <= 0 || c.From <= 0 || c.From > maxTime || c.Given > maxTime || c.Until < 0 || c.Until > maxTime:
		return errors.New("given, from and until are Unix seconds")
	case c.Until != 0 && c.Until <= c.From:
		return errors.New("until is not after from")
	}
	if _, err := consilium.ParseSiteID(string(c.Site)); err != nil {
		return err
	}
	for _, l := range []struct {
		what string
		list []string
	}{{"studies", c.Studies}, {"scopes", c.Scopes}, {"purposes", c.Purposes}, {"diseases", c.Diseases}, {"countries", c.Countries}, {"objections", c.Objections}} {
		if err := checkList(l.what, l.list); err != nil {
			return err
		}
	}
	return nil
}

func (w *Withdrawal) validate() error {
	switch {
	case w.APIVersion != consilium.APIVersion || w.Kind != "Withdrawal":
		return fmt.Errorf("apiVersion %q kind %q", clip(w.APIVersion), clip(w.Kind))
	case w.ID.IsZero() || w.Subject.IsZero() || w.Key.IsZero():
		return errors.New("id, subject and key are all needed")
	case w.At <= 0 || w.At > maxTime:
		return errors.New("at is in Unix seconds")
	}
	if _, err := consilium.ParseSiteID(string(w.Site)); err != nil {
		return err
	}
	return checkList("scopes", w.Scopes)
}

// SignedDoc is a consent, a withdrawal, a key event or a mandate with its
// signature: exactly one of the four is set. A consent is a credential
// (consentvc.go), or a document of our own form as all the others are.
type SignedDoc struct {
	Consent    *Consent
	Withdrawal *Withdrawal
	KeyEvent   *KeyEvent
	Mandate    *Mandate

	domain    consilium.Domain
	payload   []byte // of a credential: the whole presentation
	signature consilium.Signature
	token     *sdjwt.Token // of a credential
	status    *status.Entry

	digest atomic.Pointer[consilium.Digest] // of the payload, once asked for
	signer atomic.Pointer[string]           // DIDKey of a consent's key, likewise
}

func sorted(list []string) []string {
	out := slices.Clone(list)
	slices.Sort(out)
	return append([]string{}, slices.Compact(out)...)
}

// SignConsent completes c (API version, kind, key, a fresh ID where it is zero,
// lists in order), sets its subject for the patient p and signs it.
func SignConsent(s consilium.Signer, c Consent, p Pseudonym) (*SignedDoc, error) {
	c.APIVersion, c.Kind, c.Key = consilium.APIVersion, "Consent", s.Public()
	if c.ID.IsZero() {
		c.ID = NewID()
	}
	c.Subject = ConsentSubject(c.ID, c.Site, p)
	for _, l := range []*[]string{&c.Studies, &c.Scopes, &c.Purposes, &c.Diseases, &c.Countries, &c.Objections} {
		*l = sorted(*l)
	}
	if err := c.validate(); err != nil {
		return nil, consilium.ErrInvalid.Withf("consent: %w", err)
	}
	return signDoc(s, consilium.DomainConsent, &c)
}

// SignWithdrawal completes w and signs it: by who gave the consent, or by the
// hospital for a patient who says so at the desk.
func SignWithdrawal(s consilium.Signer, w Withdrawal, p Pseudonym) (*SignedDoc, error) {
	w.APIVersion, w.Kind, w.Key = consilium.APIVersion, "Withdrawal", s.Public()
	if w.ID.IsZero() {
		w.ID = NewID()
	}
	w.Subject = ConsentSubject(w.ID, w.Site, p)
	w.Scopes = sorted(w.Scopes)
	if err := w.validate(); err != nil {
		return nil, consilium.ErrInvalid.Withf("withdrawal: %w", err)
	}
	return signDoc(s, consilium.DomainWithdrawal, &w)
}

func signDoc(s consilium.Signer, domain consilium.Domain, v any) (*SignedDoc, error) {
	payload, err := canon.Marshal(v)
	if err != nil {
		return nil, err
	}
	sig, err := s.Sign(domain, payload)
	if err != nil {
		return nil, err
	}
	return ParseSignedDoc(encodeLines(domain, payload, &sig))
}

// Encode is the document's one encoding: domain, payload and signature in
// three lines, or a credential's presentation.
func (d *SignedDoc) Encode() []byte {
	if d.token != nil {
		return bytes.Clone(d.payload)
	}
	return encodeLines(d.domain, d.payload, &d.signature)
}

// ParseSignedDoc is the inverse of Encode. It checks the form, not the
// signature.
func ParseSignedDoc(b []byte) (*SignedDoc, error) {
	if bytes.HasPrefix(b, []byte("ey")) { // base64url of {"
		return parseConsentCredential(string(b))
	}
	d := &SignedDoc{}
	var err error
	if d.domain, d.payload, d.signature, err = parseLines(b, consilium.DomainConsent, consilium.DomainWithdrawal, consilium.DomainKeyEvent, consilium.DomainMandate); err != nil {
		return nil, fmt.Errorf("consent: %w", err)
	}
	switch d.domain {
	case consilium.DomainConsent:
		d.Consent = &Consent{}
		if err = strictJSON(d.payload, d.Consent); err == nil {
			err = d.Consent.validate()
		}
	case consilium.DomainWithdrawal:
		d.Withdrawal = &Withdrawal{}
		if err = strictJSON(d.payload, d.Withdrawal); err == nil {
			err = d.Withdrawal.validate()
		}
	case consilium.DomainKeyEvent:
		d.KeyEvent = &KeyEvent{}
		if err = strictJSON(d.payload, d.KeyEvent); err == nil {
			err = d.KeyEvent.validate()
		}
	default:
		d.Mandate = &Mandate{}
		if err = strictJSON(d.payload, d.Mandate); err == nil {
			err = d.Mandate.validate()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("consent: %w", err)
	}
	return d, nil
}

// Digest names the document. It is computed once: the rows of every round of a
// study ask for it, and a document with its signature is some kilobytes.
func (d *SignedDoc) Digest() consilium.Digest {
	if p := d.digest.Load(); p != nil {
		return *p
	}
	name := d.domain.Digest(d.payload)
	d.digest.Store(&name)
	return name
}

// didKey names the key of a consent.
func (d *SignedDoc) didKey() string {
	if p := d.signer.Load(); p != nil {
		return *p
	}
	name := DIDKey(d.Consent.Key)
	d.signer.Store(&name)
	return name
}

// Signer is the key that the document names: who speaks.
func (d *SignedDoc) Signer() consilium.PublicKey {
	switch {
	case d.Consent != nil:
		return d.Consent.Key
	case d.Withdrawal != nil:
		return d.Withdrawal.Key
	case d.KeyEvent != nil:
		return d.KeyEvent.Key
	}
	return d.Mandate.Key
}

// Verify checks the signature of a document of our own form against the key
// in it. A credential needs its issuer's key too: VerifyCredential.
func (d *SignedDoc) Verify() error {
	if d.token != nil {
		return consilium.ErrSignature.Withf("a credential is verified with its issuer's key")
	}
	return hybrid.Verify(d.Signer(), d.domain, d.payload, &d.signature)
}

func (d *SignedDoc) subject() (ID, consilium.SiteID, consilium.Digest) {
	switch {
	case d.Consent != nil:
		return d.Consent.ID, d.Consent.Site, d.Consent.Subject
	case d.Withdrawal != nil:
		return d.Withdrawal.ID, d.Withdrawal.Site, d.Withdrawal.Subject
	case d.KeyEvent != nil:
		return d.KeyEvent.ID, d.KeyEvent.Site, d.KeyEvent.Subject
	}
	return d.Mandate.ID, d.Mandate.Site, d.Mandate.Subject
}

// ConsentEntry is a document with the patient it is about.
type ConsentEntry struct {
	Patient Pseudonym
	Doc     *SignedDoc
}

// ConsentConfig describes a hospital's store of consents.
type ConsentConfig struct {
	Dir    string // "" keeps it in memory
	KEK    *KEK   // needed with Dir
	Site   consilium.SiteID
	Signer consilium.Signer    // the hospital: signs what goes into the ledger; a vault may leave it nil and only read
	Key    consilium.PublicKey // the hospital's; zero takes the Signer's
	Now    func() time.Time
}

// Appender is the part of a Ledger that consents need.
type Appender interface {
	AppendAll(ctx context.Context, entries [][]byte) ([]uint64, error)
}

// Consents is a hospital's append-only store of consents and withdrawals. The
// documents rest sealed; the ledger holds salted digests of them, so that a
// document that was slipped in, changed or taken away shows. It answers no
// question before Verify held it against the ledger. It is safe for concurrent
// use.
type Consents struct {
	cfg ConsentConfig
	key consilium.PublicKey

	mu       sync.RWMutex // guards all below
	docs     []*storedDoc
	byOwner  map[Pseudonym][]*storedDoc
	verified bool
	size     int64                           // bytes of the file that are whole
	refs     map[consilium.Digest]RecordType // of the ledger, as of Verify; never changed
	bits     *keptBits                       // of a store in memory
}

type storedDoc struct {
	patient  Pseudonym
	salt     consilium.Digest
	received int64 // Unix seconds, by the hospital's clock
	doc      *SignedDoc
	ref      consilium.Digest
	logged   bool // the ledger has it; set by Verify
	erased   bool // the ledger says it was erased
}

const consentFile = "consents"

// maxFrame bounds a sealed document.
const maxFrame = MaxEntrySize + 1024

// OpenConsents loads and verifies every document. A last one that was only
// half written, so never acknowledged, is dropped; anything else that does not
// verify is an error.
func OpenConsents(cfg ConsentConfig) (*Consents, error) {
	c := &Consents{cfg: cfg, key: cfg.Key, byOwner: map[Pseudonym][]*storedDoc{}}
	if c.cfg.Now == nil {
		c.cfg.Now = time.Now
	}
	if c.key.IsZero() && cfg.Signer != nil {
		c.key = cfg.Signer.Public()
	}
	if c.key.IsZero() {
		return nil, consilium.ErrInvalid.Withf("consents: no key of the hospital")
	}
	if _, err := consilium.ParseSiteID(string(cfg.Site)); err != nil {
		return nil, consilium.ErrInvalid.With(err)
	}
	if cfg.Dir == "" {
		return c, nil
	}
	if cfg.KEK == nil {
		return nil, consilium.ErrInvalid.Withf("consents: no key-encryption key")
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("consents: %w", err)
	}
	b, err := os.ReadFile(filepath.Join(cfg.Dir, consentFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("consents: %w", err)
	}
	docs, whole, err := parseConsentFile(cfg.KEK, b)
	if err != nil {
		return nil, consilium.ErrLedger.Withf("consents: %w", err)
	}
	errs := make([]error, len(docs))
	parallel(len(docs), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			errs[i] = c.check(docs[i])
		}
	})
	for i, err := range errs {
		if err != nil {
			return nil, consilium.ErrLedger.Withf("consents: document %d: %w", i, err)
		}
		c.add(docs[i])
	}
	c.size = whole
	return c, nil
}

func frameContext(i int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(i)) }

// parseConsentFile reads frames: length, then the sealed document, bound to
// its place in the file.
func parseConsentFile(kek *KEK, b []byte) (docs []*storedDoc, whole int64, err error) {
	for len(b) > 0 {
		if len(b) < 4 {
			break
		}
		n := binary.BigEndian.Uint32(b)
		if n > maxFrame {
			return nil, 0, fmt.Errorf("document %d of %d bytes", len(docs), n)
		}
		if uint64(len(b)) < 4+uint64(n) {
			break
		}
		plain, err := kek.open(consilium.DomainConsent, frameContext(len(docs)), b[4:4+n])
		if err != nil {
			return nil, 0, fmt.Errorf("document %d %w", len(docs), err)
		}
		d, err := parseStored(plain)
		if err != nil {
			return nil, 0, fmt.Errorf("document %d: %w", len(docs), err)
		}
		docs = append(docs, d)
		whole += 4 + int64(n)
		b = b[4+n:]
	}
	return docs, whole, nil
}

const storedVersion = 1

func (d *storedDoc) encode() []byte {
	w := enc{}
	w.u8(storedVersion)
	w.raw(d.patient[:])
	w.digest(d.salt)
	w.u64(uint64(d.received))
	w.bytes(d.doc.Encode())
	return w.b
}

func parseStored(b []byte) (*storedDoc, error) {
	d := dec{b: b}
	if v := d.u8(); d.err == nil && v != storedVersion {
		d.fail("version %d", v)
	}
	s := &storedDoc{patient: Pseudonym(d.id()), salt: d.digest(), received: int64(d.u64())}
	raw := d.bytes(MaxEntrySize)
	if err := d.done("stored consent"); err != nil {
		return nil, err
	}
	if s.received <= 0 || s.received > maxTime {
		return nil, fmt.Errorf("stored consent: received at %d", s.received)
	}
	var err error
	if s.doc, err = ParseSignedDoc(raw); err != nil {
		return nil, err
	}
	digest := s.doc.Digest()
	s.ref = consilium.DomainSubject.Digest(s.salt[:], digest[:])
	return s, nil
}

// check holds a document against its patient, the hospital and its signature.
func (c *Consents) check(d *storedDoc) error {
	id, site, subject := d.doc.subject()
	if site != c.cfg.Site {
		return fmt.Errorf("given to %s, this is %s", clip(string(site)), c.cfg.Site)
	}
	if d.patient.IsZero() || subject != ConsentSubject(id, site, d.patient) {
		return errors.New("about another patient")
	}
	if d.doc.token != nil {
		return d.doc.VerifyCredential([]consilium.PublicKey{c.key}, time.Unix(d.received, 0))
	}
	return d.doc.Verify()
}

func (c *Consents) add(d *storedDoc) {
	c.docs = append(c.docs, d)
	c.byOwner[d.patient] = append(c.byOwner[d.patient], d)
}

// Add checks, stores and then logs documents. It returns their references in
// the ledger, in order. Documents that are stored but could not be logged stay:
// a withdrawal counts at once, a consent once Relog and Verify succeeded.
func (c *Consents) Add(ctx context.Context, ledger Appender, entries ...ConsentEntry) ([]consilium.Digest, error) {
	if c.cfg.Signer == nil {
		return nil, consilium.ErrForbidden.Withf("consents: opened without the hospital's key")
	}
	now := c.cfg.Now().Unix()
	docs := make([]*storedDoc, len(entries))
	errs := make([]error, len(entries))
	parallel(len(entries), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			if entries[i].Doc == nil {
				errs[i] = errors.New("no document")
				continue
			}
			d := &storedDoc{patient: entries[i].Patient, received: now, doc: entries[i].Doc}
			rand.Read(d.salt[:])
			digest := d.doc.Digest()
			d.ref = consilium.DomainSubject.Digest(d.salt[:], digest[:])
			docs[i], errs[i] = d, c.check(d)
		}
	})
	for i, err := range errs {
		if err != nil {
			return nil, consilium.ErrInvalid.Withf("consent %d: %w", i, err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	digests := map[consilium.Digest]bool{}
	for _, d := range docs {
		if err := c.fitsLocked(d, docs); err != nil {
			return nil, err
		}
		if digest := d.doc.Digest(); digests[digest] {
			return nil, consilium.ErrInvalid.Withf("consent: a document stands twice")
		} else {
			digests[digest] = true
		}
	}
	if err := c.appendFile(docs); err != nil {
		return nil, err
	}
	for _, d := range docs {
		c.add(d)
	}
	refs := make([]consilium.Digest, len(docs))
	for i, d := range docs {
		refs[i] = d.ref
	}
	return refs, c.log(ctx, ledger, docs)
}

func (c *Consents) appendFile(docs []*storedDoc) error {
	if c.cfg.Dir == "" {
		return nil
	}
	var out []byte
	for i, d := range docs {
		sealed, err := c.cfg.KEK.seal(consilium.DomainConsent, frameContext(len(c.docs)+i), d.encode())
		if err != nil {
			return fmt.Errorf("consents: %w", err)
		}
		out = append(binary.BigEndian.AppendUint32(out, uint32(len(sealed))), sealed...)
	}
	f, err := os.OpenFile(filepath.Join(c.cfg.Dir, consentFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("consents: %w", err)
	}
	// What an earlier failed write left beyond the whole frames goes first.
	if err = c.ours(f); err == nil {
		err = f.Truncate(c.size)
	}
	if err == nil {
		_, err = f.WriteAt(out, c.size)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil && c.size == 0 {
		err = syncDir(c.cfg.Dir)
	}
	if err != nil {
		return fmt.Errorf("consents: %w", err)
	}
	c.size += int64(len(out))
	return nil
}

// ours checks that the file is the one that was read, but for half a frame at
// its end. A whole frame there is a document that another process has written,
// and perhaps acknowledged, since.
func (c *Consents) ours(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() < c.size {
		return consilium.ErrLedger.Withf("the file has become shorter since it was read: %d of %d bytes; restore it from a backup", info.Size(), c.size)
	}
	rest := make([]byte, min(info.Size()-c.size, 4+maxFrame))
	if _, err := f.ReadAt(rest, c.size); err != nil {
		return err
	}
	if len(rest) >= 4 && int64(binary.BigEndian.Uint32(rest)) <= info.Size()-c.size-4 {
		return consilium.ErrUnavailable.Withf("another process has written to the store since it was read; nothing was written now: run the command again")
	}
	return nil
}

func (c *Consents) oursOnDisk() error {
	if c.cfg.Dir == "" {
		return nil
	}
	f, err := os.Open(filepath.Join(c.cfg.Dir, consentFile))
	if err != nil {
		return err
	}
	return errors.Join(c.ours(f), f.Close())
}

// log writes the references of docs into the ledger, one record for up to
// MaxRefs of a kind.
func (c *Consents) log(ctx context.Context, ledger Appender, docs []*storedDoc) error {
	var entries [][]byte
	for _, t := range []RecordType{RecordKey, RecordMandate, RecordConsent, RecordWithdrawal} {
		var refs []consilium.Digest
		for _, d := range docs {
			if d.kind() == t {
				refs = append(refs, d.ref)
			}
		}
		for chunk := range slices.Chunk(refs, MaxRefs) {
			e, err := SignRecord(c.cfg.Signer, &AuditRecord{Type: t, Time: c.cfg.Now().UnixMilli(), Refs: chunk})
			if err != nil {
				return err
			}
			entries = append(entries, e)
		}
	}
	if len(entries) == 0 {
		return nil
	}
	if _, err := ledger.AppendAll(ctx, entries); err != nil {
		return fmt.Errorf("consents: stored, but not logged: %w", err)
	}
	return nil
}

func (d *storedDoc) kind() RecordType {
	switch {
	case d.doc.Consent != nil:
		return RecordConsent
	case d.doc.Withdrawal != nil:
		return RecordWithdrawal
	case d.doc.KeyEvent != nil:
		return RecordKey
	}
	return RecordMandate
}

// Holds says of a document about p whether it rests here, and whether the ledger has
// it, as of the last Verify. One that was erased does not rest here.
func (c *Consents) Holds(p Pseudonym, doc consilium.Digest) (stored, logged bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, d := range c.byOwner[p] {
		if !d.erased && d.doc.Digest() == doc {
			return true, d.logged
		}
	}
	return false, false
}

// Relog logs what the last Verify did not find in the ledger, as after a crash
// between storing and logging.
func (c *Consents) Relog(ctx context.Context, ledger Appender) error {
	if c.cfg.Signer == nil {
		return consilium.ErrForbidden.Withf("consents: opened without the hospital's key")
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	if !c.verified {
		return consilium.ErrLedger.Withf("consents: verify them first")
	}
	var docs []*storedDoc
	for _, d := range c.docs {
		if !d.logged && !d.erased {
			docs = append(docs, d)
		}
	}
	return c.log(ctx, ledger, docs)
}

// Verify holds the store against the ledger as g saw it last. A document that
// is logged and gone, perhaps a withdrawal, fails it: nobody can tell whose it
// was, so no question is answered until it is restored.
func (c *Consents) Verify(g *Gate) error {
	refs, seen := g.ledgerRefs()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.verified, c.refs = false, refs
	if seen == nil {
		return consilium.ErrLedger.Withf("consents: the ledger was not read yet")
	}
	have := make(map[consilium.Digest]RecordType, len(c.docs))
	for _, d := range c.docs {
		have[d.ref] = d.kind()
		t, ok := refs[d.ref]
		d.logged, d.erased = ok && t == d.kind(), ok && t == RecordErasure
	}
	missing := 0
	for ref, t := range refs {
		if t != RecordErasure && have[ref] != t {
			missing++
		}
	}
	if missing > 0 {
		return consilium.ErrLedger.Withf("consents: %d documents that the ledger lists are gone from the store; restore them from a backup", missing)
	}
	c.verified = true
	return nil
}

// Erase logs the erasure and then removes every document about p.
func (c *Consents) Erase(ctx context.Context, ledger Appender, p Pseudonym) (int, error) {
	if c.cfg.Signer == nil {
		return 0, consilium.ErrForbidden.Withf("consents: opened without the hospital's key")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	gone := c.byOwner[p]
	if len(gone) == 0 {
		return 0, nil
	}
	var refs []consilium.Digest
	for _, d := range gone {
		refs = append(refs, d.ref)
	}
	var entries [][]byte
	for chunk := range slices.Chunk(refs, MaxRefs) {
		e, err := SignRecord(c.cfg.Signer, &AuditRecord{Type: RecordErasure, Time: c.cfg.Now().UnixMilli(), Refs: chunk})
		if err != nil {
			return 0, err
		}
		entries = append(entries, e)
	}
	if err := c.oursOnDisk(); err != nil {
		return 0, fmt.Errorf("consents: %w", err)
	}
	// An erased credential must not come back to life in the status list.
	bits, err := c.statusLocked()
	if err == nil {
		bits.Erased = append(bits.Erased, refs...)
		if err = c.setLocked(bits, gone); err == nil {
			err = c.keepStatusLocked(bits)
		}
	}
	if err != nil {
		return 0, err
	}
	// Logged first: if we crash before the file is rewritten, the documents are
	// known as erased and count for nothing; Erase again removes them.
	if _, err := ledger.AppendAll(ctx, entries); err != nil {
		return 0, fmt.Errorf("consents: %w", err)
	}
	var kept []*storedDoc
	for _, d := range c.docs {
		if d.patient != p {
			kept = append(kept, d)
		}
	}
	if c.cfg.Dir != "" {
		var out []byte
		for i, d := range kept {
			sealed, err := c.cfg.KEK.seal(consilium.DomainConsent, frameContext(i), d.encode())
			if err != nil {
				return 0, fmt.Errorf("consents: %w", err)
			}
			out = append(binary.BigEndian.AppendUint32(out, uint32(len(sealed))), sealed...)
		}
		if err := writeFile(filepath.Join(c.cfg.Dir, consentFile), out); err != nil {
			return 0, fmt.Errorf("consents: %w", err)
		}
		c.size = int64(len(out))
	}
	c.docs = kept
	delete(c.byOwner, p)
	return len(gone), nil
}

// ConsentStatus is where a patient's consent stands.
type ConsentStatus string

const (
	ConsentNone      ConsentStatus = "none"
	ConsentActive    ConsentStatus = "active"
	ConsentWithdrawn ConsentStatus = "withdrawn"
	ConsentExpired   ConsentStatus = "expired"
	ConsentNotYet    ConsentStatus = "not-yet"
)

// Claims are the facts of one patient's consent at a moment, flat, for policy
// to judge.
type Claims struct {
	Status     ConsentStatus    `json:"status"`
	Consent    consilium.Digest `json:"consent"` // of the document; zero for none
	Signer     string           `json:"signer"`  // did:key of who gave it
	Form       string           `json:"form"`
	Evidence   consilium.Digest `json:"evidence"`
	Level      string           `json:"level"`
	Studies    []string         `json:"studies"`
	Scopes     []string         `json:"scopes"` // without those withdrawn
	Purposes   []string         `json:"purposes"`
	Diseases   []string         `json:"diseases"`
	Countries  []string         `json:"countries"`
	Explicit   bool             `json:"explicit"`
	Informed   bool             `json:"informed"`
	GivenBy    string           `json:"given_by"`
	Assent     bool             `json:"assent"`
	Objections []string         `json:"objections"`
	Given      int64            `json:"given"` // Unix seconds
	From       int64            `json:"from"`
	Until      int64            `json:"until"`     // 0 means until withdrawn
	Withdrawn  int64            `json:"withdrawn"` // 0 means not
	Mandate    consilium.Digest `json:"mandate"`   // under which a representative gave it; zero where the patient did

	// What the patient took back whichever consent it was part of, and whether or
	// not there was one: a refusal of uses that need none.
	Refused       int64    `json:"refused"`       // Unix seconds of the last withdrawal of everything; 0 for none
	RefusedScopes []string `json:"refusedScopes"` // categories that such a withdrawal names
}

// Claims answers for one patient at a moment: the active consent given last,
// or, without one, why the last is not active. A patient without documents has
// status none. Before Verify succeeded, it is an error.
func (c *Consents) Claims(p Pseudonym, at time.Time) (Claims, error) {
	w := Always()
	return c.ClaimsWhile(p, at, &w)
}

// Period is the moments from which up to which, exclusive, claims are as they are, in
// Unix seconds, while neither the store nor the ledger changes.
type Period struct{ From, Until int64 }

// Always is the period of claims that no date bounds.
func Always() Period { return Period{math.MinInt64, math.MaxInt64} }

// Holds reports whether a moment lies within.
func (p Period) Holds(t int64) bool { return p.From <= t && t < p.Until }

// before compares the moment t with a date, and notes when that turns.
func (p *Period) before(t, date int64) bool {
	if t < date {
		p.Until = min(p.Until, date)
		return true
	}
	p.From = max(p.From, date)
	return false
}

// ClaimsWhile is Claims; it narrows period to the moments at which the answer is
// the same, so that who asks about many patients need not ask again before one of
// their dates comes.
func (c *Consents) ClaimsWhile(p Pseudonym, at time.Time, period *Period) (Claims, error) {
	all, err := c.history(p, at, period)
	if err != nil {
		return Claims{}, err
	}
	cl := current(all)
	c.refusals(p, at.Unix(), &cl, period)
	return cl, nil
}

// refusals adds what a patient withdrew from every consent.
func (c *Consents) refusals(p Pseudonym, t int64, cl *Claims, period *Period) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	cl.RefusedScopes = []string{}
	for _, d := range c.byOwner[p] {
		w := d.doc.Withdrawal
		if w == nil || d.erased || !w.Consent.IsZero() {
			continue
		}
		switch when := min(w.At, d.received); {
		case period.before(t, when):
		case len(w.Scopes) == 0:
			cl.Refused = max(cl.Refused, when)
		default:
			cl.RefusedScopes = append(cl.RefusedScopes, w.Scopes...)
		}
	}
	slices.Sort(cl.RefusedScopes)
	cl.RefusedScopes = slices.Compact(cl.RefusedScopes)
}

// TookBack reports whether the store holds a withdrawal of the patient's, from one
// consent or from all, whether or not the ledger has it yet; after Erase it holds none. A document of another
// system does not undo that.
func (c *Consents) TookBack(p Pseudonym) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.ContainsFunc(c.byOwner[p], func(d *storedDoc) bool { return d.doc.Withdrawal != nil })
}

// current is the claims that answer for a patient.
func current(all []Claims) Claims {
	for _, cl := range all {
		if cl.Status == ConsentActive {
			return cl
		}
	}
	for _, cl := range all { // one that starts later does not hide a withdrawal
		if cl.Status != ConsentNotYet {
			return cl
		}
	}
	if len(all) > 0 {
		return all[0]
	}
	return Claims{Status: ConsentNone, Studies: []string{}, Scopes: []string{}, Purposes: []string{}, Diseases: []string{}, Countries: []string{}, Objections: []string{}}
}

// claims states a consent as it was given: active, nothing withdrawn.
func (d *SignedDoc) claims() Claims {
	con := d.Consent
	return Claims{Status: ConsentActive, Consent: d.Digest(), Signer: d.didKey(), Form: con.Form, Evidence: con.Evidence,
		Level: con.Level, Studies: con.Studies, Purposes: con.Purposes, Diseases: con.Diseases, Countries: con.Countries,
		Explicit: con.Explicit, Informed: con.Informed, GivenBy: con.GivenBy, Assent: con.Assent, Objections: con.Objections,
		Given: con.Given, From: con.From, Until: con.Until, Scopes: slices.Clone(con.Scopes)}
}

// Claims states a consent's own words at a moment, for its owner: a copy knows
// no withdrawal. A document of another kind has status none.
func (d *SignedDoc) Claims(at time.Time) Claims {
	if d.Consent == nil {
		return Claims{Status: ConsentNone}
	}
	cl := d.claims()
	switch t := at.Unix(); {
	case t < cl.From || t < cl.Given:
		cl.Status = ConsentNotYet
	case cl.Until != 0 && t >= cl.Until:
		cl.Status = ConsentExpired
	}
	return cl
}

// History lists the claims of every consent of a patient as they stand at a
// moment, the one given last first.
func (c *Consents) History(p Pseudonym, at time.Time) ([]Claims, error) {
	w := Always()
	return c.history(p, at, &w)
}

func (c *Consents) history(p Pseudonym, at time.Time, period *Period) ([]Claims, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if !c.verified {
		return nil, consilium.ErrLedger.Withf("consents: not held against the ledger yet")
	}
	t := at.Unix()
	s := c.standing(p)
	docs, line := s.docs, s.line
	var out []Claims
	for place, d := range docs {
		con := d.doc.Consent
		// A consent counts once the ledger has it: what was slipped into the store
		// has no entry that the hospital signed.
		if con == nil || !d.logged || d.erased {
			continue
		}
		cl := d.doc.claims()
		// A key that was lost or stolen gives no consent any more, and who is not
		// the patient needs a mandate that held.
		if con.GivenBy == GivenBySelf {
			if !line.speaks(con.Key, place, d.received) {
				continue
			}
		} else {
			m := s.mandateFor(d)
			if m == nil {
				continue
			}
			cl.Mandate = m.doc.Digest()
			// What a parent gave holds for a child (GDPR recital 65): when the
			// mandate ends, the patient decides.
			if until := m.doc.Mandate.Until; m.doc.Mandate.Role != RoleProxy && until != 0 && (cl.Until == 0 || until < cl.Until) {
				cl.Until = until
			}
		}
		withdrawn := int64(math.MaxInt64)
		for _, o := range docs {
			w := o.doc.Withdrawal
			// Who may withdraw was settled by Add, under the keys of that day. Here
			// every withdrawal counts: a hospital's new key must not undo one.
			if w == nil || o.erased || !(w.Consent == cl.Consent || w.Consent.IsZero()) {
				continue
			}
			// It takes effect when it was made, or when the hospital got it if the
			// document claims a later time; one for all consents does not end those
			// given after it.
			when := min(w.At, o.received)
			if w.Consent.IsZero() && con.Given > when || period.before(t, when) {
				continue
			}
			if len(w.Scopes) == 0 {
				withdrawn = min(withdrawn, when)
				continue
			}
			cl.Scopes = slices.DeleteFunc(cl.Scopes, func(s string) bool { return slices.Contains(w.Scopes, s) })
			if len(cl.Scopes) == 0 {
				withdrawn = min(withdrawn, when)
			}
		}
		switch {
		case withdrawn != math.MaxInt64:
			cl.Status, cl.Withdrawn = ConsentWithdrawn, withdrawn
		case period.before(t, con.From) || period.before(t, con.Given):
			cl.Status = ConsentNotYet
		case cl.Until != 0 && !period.before(t, cl.Until):
			cl.Status = ConsentExpired
		}
		out = append(out, cl)
	}
	slices.SortStableFunc(out, func(a, b Claims) int {
		switch {
		case a.Given > b.Given:
			return -1
		case a.Given < b.Given:
			return 1
		}
		return bytes.Compare(b.Consent[:], a.Consent[:])
	})
	return out, nil
}

// Len is the number of documents.
func (c *Consents) Len() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.docs)
}

func (c *Consents) String() string { return "Consents(" + strings.ToLower(string(c.cfg.Site)) + ")" }
