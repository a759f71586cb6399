package provenance

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"consilium"
	"consilium/internal/hybrid"
)

// Vectors of the did:key specification (W3C CCG did-method-key, test-vectors/ed25519-x25519.json).
func TestDIDKeyVectors(t *testing.T) {
	for seed, want := range []string{
		"did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp",
		"did:key:z6MkjchhfUsD6mmvni8mCdXHw216Xrm9bQe2mBH1P5RDjVJG",
		"did:key:z6MknGc3ocHs3zdPiJbnaaqDi58NGb4pk1Sp9WxWufuXSdxf",
	} {
		s := make([]byte, 32)
		s[31] = byte(seed)
		var k consilium.PublicKey
		copy(k[:], ed25519.NewKeyFromSeed(s).Public().(ed25519.PublicKey))
		if got := DIDKey(k); got != want {
			t.Errorf("seed %d: %s, want %s", seed, got, want)
		}
		if got, err := ParseDIDKey(want); err != nil || !bytes.Equal(got[:], k[:32]) {
			t.Errorf("seed %d: %x %v", seed, got, err)
		}
	}
	for _, bad := range []string{"", "did:key:z", "did:key:z0OIl", "did:web:example.org", "did:key:z6LSeu9HkTHSfLLeUs2nnzUSNedgDUevfNQgQjQC23ZCit6F"} {
		if _, err := ParseDIDKey(bad); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}

const day = 86400

var epoch = time.Unix(1_700_000_000, 0)

func consentFor(scopes ...string) Consent {
	return Consent{Site: "amsterdam", Form: "CGD research 3.1", Level: LevelArea, Scopes: scopes, Purposes: []string{"DUO:0000007", "DUO:0000006"},
		Diseases: []string{"MONDO:0018305"}, Explicit: true, Informed: true, GivenBy: GivenBySelf, Given: epoch.Unix(), From: epoch.Unix(), Until: epoch.Unix() + 100*day}
}

type consentHouse struct {
	*hospital
	cfg     ConsentConfig
	cs      *Consents
	now     time.Time
	patient *hybrid.Key
	p       Pseudonym
}

func newConsentHouse(t *testing.T) *consentHouse {
	t.Helper()
	c := &consentHouse{hospital: newHospital(t), now: epoch, patient: newHospitalKey(t), p: pseudonym(t, "p1")}
	c.cfg = ConsentConfig{Dir: t.TempDir(), KEK: GenerateKEK(), Site: "amsterdam", Signer: c.key, Now: func() time.Time { return c.now }}
	c.reopen()
	return c
}

func (c *consentHouse) reopen() {
	c.t.Helper()
	var err error
	if c.cs, err = OpenConsents(c.cfg); err != nil {
		c.t.Fatal(err)
	}
}

func (c *consentHouse) add(docs ...*SignedDoc) {
	c.t.Helper()
	var entries []ConsentEntry
	for _, d := range docs {
		entries = append(entries, ConsentEntry{Patient: c.p, Doc: d})
	}
	if _, err := c.cs.Add(c.t.Context(), c.ledger, entries...); err != nil {
		c.t.Fatal(err)
	}
	c.verify()
}

// verify reads the ledger up to its end and holds the store against it.
func (c *consentHouse) verify() {
	c.t.Helper()
	c.append(c.record("flush")) // so that a checkpoint covers what came before
	g := c.gate(nil)
	if _, err := g.Update(c.t.Context(), c.ledger); err != nil {
		c.t.Fatal(err)
	}
	if err := c.cs.Verify(g); err != nil {
		c.t.Fatal(err)
	}
}

func (c *consentHouse) sign(con Consent) *SignedDoc {
	c.t.Helper()
	d, err := SignConsent(c.patient, con, c.p)
	if err != nil {
		c.t.Fatal(err)
	}
	return d
}

func (c *consentHouse) withdraw(s consilium.Signer, w Withdrawal) *SignedDoc {
	c.t.Helper()
	w.Site = "amsterdam"
	d, err := SignWithdrawal(s, w, c.p)
	if err != nil {
		c.t.Fatal(err)
	}
	return d
}

func (c *consentHouse) status(at int64) ConsentStatus {
	c.t.Helper()
	cl, err := c.cs.Claims(c.p, time.Unix(at, 0))
	if err != nil {
		c.t.Fatal(err)
	}
	return cl.Status
}

func TestConsentOverTime(t *testing.T) {
	c := newConsentHouse(t)
	if _, err := c.cs.Claims(c.p, epoch); !errors.Is(err, consilium.ErrLedger) {
		t.Errorf("answered before it was held against the ledger: %v", err)
	}
	doc := c.sign(consentFor("general", "genetic"))
	c.add(doc)
	t0 := epoch.Unix()
	want := func(at int64, s ConsentStatus) {
		t.Helper()
		if got := c.status(at); got != s {
			t.Errorf("day %d: %s, want %s", (at-t0)/day, got, s)
		}
	}
	want(t0-1, ConsentNotYet)
	want(t0, ConsentActive)
	want(t0+100*day-1, ConsentActive)
	want(t0+100*day, ConsentExpired)
	cl, err := c.cs.Claims(c.p, epoch)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(cl.Scopes, []string{"general", "genetic"}) || cl.Consent != doc.Digest() || !cl.Explicit || cl.Signer != DIDKey(c.patient.Public()) || cl.GivenBy != GivenBySelf {
		t.Errorf("claims %+v", cl)
	}
	if cl, err := c.cs.Claims(pseudonym(t, "p2"), epoch); err != nil || cl.Status != ConsentNone {
		t.Errorf("somebody else: %+v %v", cl, err)
	}

	// One scope goes on day 10, all of it on day 20: what was so before stays so.
	c.now = epoch.Add(10 * day * time.Second)
	c.add(c.withdraw(c.patient, Withdrawal{Consent: doc.Digest(), Scopes: []string{"genetic"}, At: c.now.Unix()}))
	c.now = epoch.Add(20 * day * time.Second)
	c.add(c.withdraw(c.patient, Withdrawal{At: c.now.Unix() + 50*day})) // dated ahead: counts when it came
	for round := 0; round < 2; round++ {
		want(t0+19*day, ConsentActive)
		want(t0+20*day, ConsentWithdrawn)
		for at, n := range map[int64]int{9: 2, 10: 1} {
			if cl, err := c.cs.Claims(c.p, time.Unix(t0+at*day, 0)); err != nil || len(cl.Scopes) != n {
				t.Errorf("day %d: scopes %v, %v", at, cl.Scopes, err)
			}
		}
		c.reopen() // and from disk
		c.verify()
	}
	// A new consent counts again; the withdrawal of all came before it.
	again := consentFor("general")
	again.Given, again.From, again.Until = t0+30*day, t0+30*day, 0
	c.now = epoch.Add(30 * day * time.Second)
	c.add(c.sign(again))
	want(t0+25*day, ConsentWithdrawn)
	want(t0+31*day, ConsentActive)
	// The hospital may write down what the patient says at the desk.
	c.now = epoch.Add(40 * day * time.Second)
	c.add(c.withdraw(c.key, Withdrawal{At: c.now.Unix()}))
	want(t0+39*day, ConsentActive)
	want(t0+40*day, ConsentWithdrawn)
	// The hospital's next identity key does not undo what the last one wrote.
	g := c.gate(nil)
	if _, err := g.Update(t.Context(), c.ledger); err != nil {
		t.Fatal(err)
	}
	c.cfg.Signer = newHospitalKey(t)
	c.reopen()
	if err := c.cs.Verify(g); err != nil {
		t.Fatal(err)
	}
	want(t0+40*day, ConsentWithdrawn)
}

// A withdrawal counts at once, a consent only when the ledger has it.
func TestUnloggedDocuments(t *testing.T) {
	c := newConsentHouse(t)
	doc := c.sign(consentFor("general"))
	c.add(doc)
	broken := brokenAppender{}
	if _, err := c.cs.Add(t.Context(), broken, ConsentEntry{c.p, c.withdraw(c.patient, Withdrawal{At: epoch.Unix()})}); err == nil {
		t.Fatal("logged into a broken ledger")
	}
	if s := c.status(epoch.Unix()); s != ConsentWithdrawn {
		t.Errorf("an unlogged withdrawal: %s", s)
	}
	later := consentFor("general")
	later.Given = epoch.Unix() + day
	if _, err := c.cs.Add(t.Context(), broken, ConsentEntry{c.p, c.sign(later)}); err == nil {
		t.Fatal("logged into a broken ledger")
	}
	c.reopen()
	c.verify()
	if s := c.status(epoch.Unix() + 2*day); s != ConsentWithdrawn {
		t.Errorf("an unlogged consent: %s", s)
	}
	if err := c.cs.Relog(t.Context(), c.ledger); err != nil {
		t.Fatal(err)
	}
	c.verify()
	if s := c.status(epoch.Unix() + 2*day); s != ConsentActive {
		t.Errorf("after logging: %s", s)
	}
}

type brokenAppender struct{}

func (brokenAppender) AppendAll(context.Context, [][]byte) ([]uint64, error) {
	return nil, errors.New("no ledger")
}

// Slipped in, changed, moved or taken away: each shows.
func TestConsentStoreAttacks(t *testing.T) {
	c := newConsentHouse(t)
	doc := c.sign(consentFor("general"))
	c.add(doc)
	file := filepath.Join(c.cfg.Dir, consentFile)
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c.add(c.withdraw(c.patient, Withdrawal{At: epoch.Unix()}))
	after, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	g := c.gate(nil)
	if _, err := g.Update(t.Context(), c.ledger); err != nil {
		t.Fatal(err)
	}
	open := func(b []byte) (*Consents, error) {
		t.Helper()
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		cs, err := OpenConsents(c.cfg)
		if err != nil {
			return nil, err
		}
		return cs, cs.Verify(g)
	}
	// The withdrawal is cut off: the naive twin, which believes the file, uses
	// the patient's data.
	cs, err := open(before)
	if !errors.Is(err, consilium.ErrLedger) {
		t.Errorf("a cut store: %v", err)
	}
	if _, err := cs.Claims(c.p, epoch); err == nil {
		t.Error("a cut store answers")
	}
	cs.verified = true
	for _, d := range cs.docs {
		d.logged = true
	}
	if cl, err := cs.Claims(c.p, epoch); err != nil || cl.Status != ConsentActive {
		t.Errorf("the naive twin noticed: %+v %v", cl, err)
	}
	for i := 0; i < len(after); i += 97 {
		bad := bytes.Clone(after)
		bad[i] ^= 4
		if _, err := open(bad); err == nil {
			t.Errorf("byte %d may change", i)
		}
	}
	swapped := append(bytes.Clone(after[len(before):]), after[:len(before)]...)
	if _, err := open(swapped); err == nil {
		t.Error("documents may change places")
	}
	// A last document that was half written was never acknowledged: it goes.
	if cs, err = open(append(bytes.Clone(after), 0, 0, 1)); err != nil || cs.Len() != 2 {
		t.Errorf("a torn tail: %v", err)
	}
	// Whoever holds the key-encryption key, but cannot sign for the hospital,
	// slips in a consent after the withdrawal.
	slipped := consentFor("general")
	slipped.Given = epoch.Unix() + day
	forger, err := OpenConsents(c.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := forger.Add(t.Context(), brokenAppender{}, ConsentEntry{c.p, c.sign(slipped)}); err == nil {
		t.Fatal("logged")
	}
	c.reopen()
	if err := c.cs.Verify(g); err != nil {
		t.Fatal(err)
	}
	if s := c.status(epoch.Unix() + 2*day); s != ConsentWithdrawn {
		t.Errorf("a consent that was slipped in counts: %s", s)
	}
}

func TestConsentDocumentsAreChecked(t *testing.T) {
	c := newConsentHouse(t)
	add := func(p Pseudonym, d *SignedDoc) error {
		_, err := c.cs.Add(t.Context(), c.ledger, ConsentEntry{p, d})
		return err
	}
	doc := c.sign(consentFor("general"))
	if err := add(pseudonym(t, "p2"), doc); err == nil {
		t.Error("filed under another patient")
	}
	elsewhere := consentFor("general")
	elsewhere.Site = "zurich"
	if err := add(c.p, c.sign(elsewhere)); err == nil {
		t.Error("given to another hospital")
	}
	forged, err := ParseSignedDoc([]byte(strings.Replace(string(doc.Encode()), `"explicit":true`, `"explicit":false`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	if err := add(c.p, forged); !errors.Is(err, consilium.ErrSignature) {
		t.Errorf("a changed document: %v", err)
	}
	if err := add(c.p, nil); err == nil {
		t.Error("no document")
	}
	if err := add(c.p, doc); err != nil {
		t.Fatal(err)
	}
	if err := add(c.p, doc); err == nil {
		t.Error("the same document twice")
	}
	if err := add(c.p, c.withdraw(newHospitalKey(t), Withdrawal{At: epoch.Unix()})); !errors.Is(err, consilium.ErrForbidden) {
		t.Errorf("a stranger's withdrawal: %v", err)
	}
	// One half of the hybrid signature is not enough.
	for _, i := range []int{3, 70} {
		half := SignedDoc{Consent: doc.Consent, domain: doc.domain, payload: doc.payload, signature: doc.signature, token: doc.token}
		half.signature[i] ^= 1
		if err := half.Verify(); !errors.Is(err, consilium.ErrSignature) {
			t.Errorf("byte %d of the signature may change", i)
		}
	}
	for name, edit := range map[string]func(*Consent){
		"no scope":          func(c *Consent) { c.Scopes = nil },
		"no purpose":        func(c *Consent) { c.Purposes = nil },
		"unknown giver":     func(c *Consent) { c.GivenBy = "neighbour" },
		"unknown level":     func(c *Consent) { c.Level = "" },
		"ends before start": func(c *Consent) { c.Until = c.From },
		"studies of area":   func(c *Consent) { c.Studies = []string{"x"} },
		"no form":           func(c *Consent) { c.Form = "" },
		"bad site":          func(c *Consent) { c.Site = "No Site" },
		"never given":       func(c *Consent) { c.Given = 0 },
	} {
		con := consentFor("general")
		edit(&con)
		if _, err := SignConsent(c.patient, con, c.p); !errors.Is(err, consilium.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := OpenConsents(ConsentConfig{Site: "amsterdam"}); err == nil {
		t.Error("a store without the hospital's key")
	}
}

// What the ledger holds of consents names nobody: not the patient, not the
// document.
func TestLedgerHoldsNoConsent(t *testing.T) {
	c := newConsentHouse(t)
	doc := c.sign(consentFor("general"))
	c.add(doc)
	digest := doc.Digest()
	secrets := [][]byte{c.p[:], []byte(c.p.String()), []byte(digest.String()), digest[:], []byte(doc.Consent.Subject.String()), []byte("MONDO")}
	for _, f := range c.files() {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range secrets {
			if bytes.Contains(b, s) {
				t.Errorf("%s holds %q", f, s)
			}
		}
	}
	b, err := os.ReadFile(filepath.Join(c.cfg.Dir, consentFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range secrets {
		if bytes.Contains(b, s) {
			t.Errorf("the store holds %q in the clear", s)
		}
	}
}

func TestConsentErasure(t *testing.T) {
	c := newConsentHouse(t)
	c.add(c.sign(consentFor("general")), c.sign(consentFor("genetic")))
	other := pseudonym(t, "p2")
	d, err := SignConsent(c.patient, consentFor("general"), other)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.cs.Add(t.Context(), c.ledger, ConsentEntry{other, d}); err != nil {
		t.Fatal(err)
	}
	if n, err := c.cs.Erase(t.Context(), c.ledger, c.p); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	for round := 0; round < 2; round++ {
		c.verify()
		if s := c.status(epoch.Unix()); s != ConsentNone {
			t.Errorf("after erasure: %s", s)
		}
		if cl, err := c.cs.Claims(other, epoch); err != nil || cl.Status != ConsentActive {
			t.Errorf("somebody else: %+v %v", cl, err)
		}
		c.reopen()
	}
}

// Two desks read the same store, and both write. The naive twin cuts the file at
// the length that it has read, and the first desk's acknowledged document is gone;
// ours writes nothing and says so.
func TestTwoDesks(t *testing.T) {
	c := newConsentHouse(t)
	c.add(c.sign(consentFor("general")))
	second, err := OpenConsents(c.cfg)
	if err != nil {
		t.Fatal(err)
	}
	third, err := OpenConsents(c.cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.add(c.sign(consentFor("genetic"))) // acknowledged
	file := filepath.Join(c.cfg.Dir, consentFile)
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if second.size >= int64(len(before)) {
		t.Error("the naive twin would lose nothing")
	}
	if _, err := second.Add(t.Context(), c.ledger, ConsentEntry{c.p, c.sign(consentFor("hiv"))}); !errors.Is(err, consilium.ErrUnavailable) {
		t.Errorf("the second desk wrote: %v", err)
	}
	if _, err := third.Erase(t.Context(), c.ledger, c.p); !errors.Is(err, consilium.ErrUnavailable) {
		t.Errorf("the third desk erased: %v", err)
	}
	if after, err := os.ReadFile(file); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file has changed: %v", err)
	}
	c.reopen()
	c.verify()
	if c.cs.Len() != 2 {
		t.Errorf("%d documents", c.cs.Len())
	}
	// Half a frame that a crash left is no document: it goes.
	if err := os.WriteFile(file, append(before, before[:len(before)/3]...), 0o600); err != nil {
		t.Fatal(err)
	}
	c.reopen()
	c.add(c.sign(consentFor("hiv")))
	// A file that has lost something since it was read takes nothing more.
	if err := os.WriteFile(file, before[:len(before)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.cs.Add(t.Context(), c.ledger, ConsentEntry{c.p, c.sign(consentFor("mental"))}); !errors.Is(err, consilium.ErrLedger) {
		t.Errorf("written behind a hole: %v", err)
	}
}

// A vault opens the store without the hospital's secret: it reads, it writes
// nothing.
func TestConsentReadOnly(t *testing.T) {
	c := newConsentHouse(t)
	c.add(c.sign(consentFor("general")))
	cfg := c.cfg
	cfg.Signer, cfg.Key = nil, c.key.Public()
	var err error
	if c.cs, err = OpenConsents(cfg); err != nil {
		t.Fatal(err)
	}
	c.verify()
	if s := c.status(epoch.Unix()); s != ConsentActive {
		t.Errorf("status %s", s)
	}
	if _, err := c.cs.Add(t.Context(), c.ledger); !errors.Is(err, consilium.ErrForbidden) {
		t.Errorf("Add: %v", err)
	}
	if _, err := c.cs.Erase(t.Context(), c.ledger, c.p); !errors.Is(err, consilium.ErrForbidden) {
		t.Errorf("Erase: %v", err)
	}
}

// TestRefusalWithoutConsent: what a patient takes back is told whether or not
// there was a consent that it ends.
func TestRefusalWithoutConsent(t *testing.T) {
	c := newConsentHouse(t)
	at := c.now.Unix()
	claims := func(after int64) Claims {
		t.Helper()
		cl, err := c.cs.Claims(c.p, time.Unix(at+after, 0))
		if err != nil {
			t.Fatal(err)
		}
		return cl
	}
	w, err := SignWithdrawal(c.key, Withdrawal{Site: "amsterdam", At: at + 10}, c.p)
	if err != nil {
		t.Fatal(err)
	}
	c.now = time.Unix(at+10, 0)
	c.add(w)
	if cl := claims(20); cl.Status != ConsentNone || cl.Refused != at+10 {
		t.Errorf("%+v", cl)
	}
	if cl := claims(9); cl.Refused != 0 {
		t.Errorf("before it was made: %+v", cl)
	}
	g, err := SignWithdrawal(c.key, Withdrawal{Site: "amsterdam", At: at + 30, Scopes: []string{"genetic"}}, c.p)
	if err != nil {
		t.Fatal(err)
	}
	c.now = time.Unix(at+30, 0)
	c.add(g)
	if cl := claims(40); cl.Refused != at+10 || !slices.Equal(cl.RefusedScopes, []string{"genetic"}) {
		t.Errorf("%+v", cl)
	}
}
