package provenance

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"consilium"
	"consilium/internal/hybrid"
	"consilium/provenance/did"
	"consilium/provenance/guardian"
	"consilium/provenance/sdjwt"
	"consilium/provenance/status"
)

func (c *consentHouse) issue(key *hybrid.Key, con Consent) *SignedDoc {
	c.t.Helper()
	d, err := IssueConsent(c.key, key, con, c.p, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return d
}

func (c *consentHouse) tryAdd(d *SignedDoc) error {
	_, err := c.cs.Add(c.t.Context(), c.ledger, ConsentEntry{c.p, d})
	return err
}

func (c *consentHouse) at(day int) { c.now = epoch.Add(time.Duration(day) * 24 * time.Hour) }

func TestConsentCredential(t *testing.T) {
	c := newConsentHouse(t)
	con := consentFor("general", "hiv")
	doc := c.issue(c.patient, con)
	if got := len(doc.Encode()); got > 20_000 {
		t.Errorf("%d bytes", got)
	}
	again, err := ParseSignedDoc(doc.Encode())
	if err != nil || again.Digest() != doc.Digest() || again.Consent.Subject != ConsentSubject(again.Consent.ID, "amsterdam", c.p) {
		t.Fatal(err)
	}
	// The same facts as of the signed form: policy sees one shape.
	own := c.sign(con)
	for _, d := range []*SignedDoc{doc, own} {
		x := *d.Consent
		x.ID, x.Subject = ID{}, consilium.Digest{}
		if y := *doc.Consent; x.Form != y.Form || !slices.Equal(x.Scopes, y.Scopes) || x.Until != y.Until || x.From != y.From || x.Given != y.Given || x.Key != y.Key || x.Level != y.Level {
			t.Errorf("%+v", x)
		}
	}
	c.add(doc)
	if cl, err := c.cs.Claims(c.p, epoch); err != nil || cl.Status != ConsentActive || cl.Consent != doc.Digest() || !slices.Equal(cl.Scopes, []string{"general", "hiv"}) {
		t.Errorf("%+v %v", cl, err)
	}
	c.reopen()
	c.verify()
	if s := c.status(epoch.Unix()); s != ConsentActive {
		t.Errorf("from disk: %s", s)
	}
	c.add(c.withdraw(c.patient, Withdrawal{Consent: doc.Digest(), At: epoch.Unix() + day}))
	if s := c.status(epoch.Unix() + 2*day); s != ConsentWithdrawn {
		t.Errorf("%s", s)
	}

	// Shown to a researcher: in force, without saying for what data.
	shown, err := sdjwt.Present(doc.Credential(), func(n string) bool { return n == "purposes" }, c.patient, sdjwt.Binding{Audience: "team", Nonce: "n"}, epoch)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := sdjwt.Parse(shown)
	if err != nil {
		t.Fatal(err)
	}
	v, err := tok.Verify(sdjwt.Options{Issuer: did.Hybrid(c.key.Public()), VCT: VCTConsent, Now: epoch, HybridOnly: true, Binding: &sdjwt.Binding{Audience: "team", Nonce: "n"}})
	if err != nil || v.Claims["purposes"] == nil || v.Claims["scopes"] != nil {
		t.Errorf("%v %v", v, err)
	}
	// That presentation is for the team. At a hospital's desk it is no consent.
	if d, err := ParseSignedDoc([]byte(shown)); err == nil {
		t.Errorf("a part of a consent reads as %+v", d.Consent)
	}
}

func TestConsentCredentialAttacks(t *testing.T) {
	c := newConsentHouse(t)
	con := consentFor("general")
	offer, err := OfferConsent(c.key, con, c.patient.Public(), c.p, nil)
	if err != nil {
		t.Fatal(err)
	}
	// The hospital alone cannot consent for the patient. The naive twin, which
	// believes the issuer, would take the offer for a consent.
	if _, err := ParseSignedDoc([]byte(offer)); err == nil {
		t.Error("an offer counts as a consent")
	}
	bare, _ := sdjwt.Parse(offer)
	if _, err := bare.Verify(sdjwt.Options{Issuer: did.Hybrid(c.key.Public()), VCT: VCTConsent, Now: epoch, HybridOnly: true}); err != nil {
		t.Errorf("the naive twin noticed: %v", err)
	}
	if _, err := AcceptConsent(offer, c.key, epoch); !errors.Is(err, consilium.ErrForbidden) {
		t.Errorf("the hospital accepts for the patient: %v", err)
	}
	shown, err := sdjwt.Present(offer, nil, c.key, sdjwt.Binding{Audience: ConsentAudience("amsterdam"), Nonce: "x"}, epoch)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := ParseSignedDoc([]byte(shown))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.tryAdd(forged); err == nil {
		t.Error("signed by the hospital in the patient's place")
	}
	// The patient alone cannot write what the hospital never explained.
	self, err := IssueConsent(c.patient, c.patient, con, c.p, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.tryAdd(self); !errors.Is(err, consilium.ErrInvalid) {
		t.Errorf("issued by the patient: %v", err)
	}
	// For another hospital, about another patient, expired on arrival, changed.
	elsewhere := con
	elsewhere.Site = "zurich"
	if err := c.tryAdd(c.issue(c.patient, elsewhere)); err == nil {
		t.Error("given to another hospital")
	}
	if _, err := c.cs.Add(t.Context(), c.ledger, ConsentEntry{pseudonym(t, "p2"), c.issue(c.patient, con)}); err == nil {
		t.Error("filed under another patient")
	}
	c.at(200)
	if err := c.tryAdd(c.issue(c.patient, con)); err == nil {
		t.Error("expired before it came")
	}
	c.at(0)
	raw := c.issue(c.patient, con).Encode()
	for i := 0; i < len(raw); i += 53 {
		b := bytes.Clone(raw)
		if b[i] ^= 2; bytes.Equal(b, raw) {
			continue
		}
		if d, err := ParseSignedDoc(b); err == nil && c.tryAdd(d) == nil {
			t.Fatalf("byte %d may change", i)
		}
	}
}

// guarded makes a patient's first key event with the next key split among three.
func (c *consentHouse) guarded() (*SignedDoc, []guardian.Share) {
	c.t.Helper()
	var next consilium.Digest
	shares, err := guardian.Deal(2, 3, func(seed []byte) (consilium.Digest, error) {
		k, err := hybrid.FromSeed(seed)
		if err == nil {
			next = NextKey(k.Public())
		}
		return next, err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	e, err := SignKeyEvent(c.patient, KeyEvent{Site: "amsterdam", Type: KeyInception, Next: next, Guardians: 3, Threshold: 2, At: c.now.Unix()}, c.p, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return e, shares
}

func recoverKey(t *testing.T, shares []guardian.Share) *hybrid.Key {
	t.Helper()
	seed, err := guardian.Recover(shares, func(seed []byte, next consilium.Digest) error {
		k, err := hybrid.FromSeed(seed)
		if err == nil && NextKey(k.Public()) != next {
			err = consilium.ErrSignature
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	k, err := hybrid.FromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeyLossAndTheft(t *testing.T) {
	c := newConsentHouse(t)
	first, shares := c.guarded()
	doc := c.issue(c.patient, consentFor("general"))
	c.add(first, doc)

	// Day 10: the card is stolen. The thief cannot install a key of his own …
	c.at(10)
	thief := newHospitalKey(t)
	for _, typ := range []string{KeyRotation, KeyRecovery} {
		e, err := SignKeyEvent(thief, KeyEvent{Site: "amsterdam", Type: typ, Next: NextKey(newHospitalKey(t).Public()), At: c.now.Unix()}, c.p, first)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.tryAdd(e); !errors.Is(err, consilium.ErrForbidden) {
			t.Errorf("the thief's %s: %v", typ, err)
		}
		// The naive twin takes whoever the present key names.
		if e.KeyEvent.Prev != first.Digest() || e.Verify() != nil {
			t.Error("the attack is not what it says")
		}
	}
	// … nor begin the line anew …
	again, err := SignKeyEvent(thief, KeyEvent{Site: "amsterdam", Type: KeyInception, Next: NextKey(newHospitalKey(t).Public()), At: c.now.Unix()}, c.p, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.tryAdd(again); !errors.Is(err, consilium.ErrForbidden) {
		t.Errorf("a second beginning: %v", err)
	}
	// … but with the patient's key he widens the consent.
	wide := consentFor("general", "genetic")
	wide.Given, wide.From, wide.Until = c.now.Unix(), c.now.Unix(), 0
	stolen := c.issue(c.patient, wide)
	c.add(stolen)
	if cl, _ := c.cs.Claims(c.p, c.now); !slices.Contains(cl.Scopes, "genetic") {
		t.Error("the thief's consent does not count, though nobody has noticed yet")
	}

	// Day 20: noticed. Two of three guardians give the next key back.
	c.at(20)
	next := recoverKey(t, shares[1:])
	rec, err := SignKeyEvent(next, KeyEvent{Site: "amsterdam", Type: KeyRecovery, Next: NextKey(newHospitalKey(t).Public()), Since: epoch.Unix() + 9*day, At: c.now.Unix()}, c.p, first)
	if err != nil {
		t.Fatal(err)
	}
	c.add(rec)
	for round := 0; round < 2; round++ {
		if cl, err := c.cs.Claims(c.p, c.now); err != nil || cl.Status != ConsentActive || cl.Consent != doc.Digest() || slices.Contains(cl.Scopes, "genetic") {
			t.Errorf("after the recovery: %+v %v", cl, err)
		}
		c.reopen()
		c.verify()
	}
	if e := c.cs.LastKeyEvent(c.p); e == nil || e.KeyEvent.Key != next.Public() {
		t.Error("another key is the current one")
	}
	// The old key is dead, the new one speaks for what the old one gave.
	later := consentFor("general")
	later.Given, later.From, later.Until = c.now.Unix(), c.now.Unix(), 0
	if err := c.tryAdd(c.issue(c.patient, later)); !errors.Is(err, consilium.ErrForbidden) {
		t.Errorf("the old key consents: %v", err)
	}
	if err := c.tryAdd(c.withdraw(c.patient, Withdrawal{At: c.now.Unix()})); !errors.Is(err, consilium.ErrForbidden) {
		t.Errorf("the old key withdraws: %v", err)
	}
	c.add(c.withdraw(next, Withdrawal{Consent: doc.Digest(), At: c.now.Unix()}))
	if s := c.status(c.now.Unix()); s != ConsentWithdrawn {
		t.Errorf("the new key's withdrawal: %s", s)
	}
	if c.cs.May(c.p, c.patient.Public(), PowerSee, nil, c.now.Unix()) || !c.cs.May(c.p, next.Public(), PowerSee, nil, c.now.Unix()) {
		t.Error("who may look")
	}
}

func TestPlannedRotationIsAnEvent(t *testing.T) {
	c := newConsentHouse(t)
	first, shares := c.guarded()
	c.add(first)
	c.at(1)
	next := recoverKey(t, shares[:2])
	rot, err := SignKeyEvent(next, KeyEvent{Site: "amsterdam", Type: KeyRotation, Next: NextKey(newHospitalKey(t).Public()), At: c.now.Unix()}, c.p, first)
	if err != nil {
		t.Fatal(err)
	}
	c.add(rot)
	// Two successors of one event: the second does not fit.
	if err := c.tryAdd(rot); err == nil {
		t.Error("the same event twice")
	}
	for name, edit := range map[string]func(*KeyEvent){
		"no next":        func(e *KeyEvent) { e.Next = consilium.Digest{} },
		"itself":         func(e *KeyEvent) { e.Next = NextKey(next.Public()) },
		"since":          func(e *KeyEvent) { e.Since = 5 },
		"one guardian":   func(e *KeyEvent) { e.Guardians, e.Threshold = 3, 1 },
		"unknown type":   func(e *KeyEvent) { e.Type = "gift" },
		"inception late": func(e *KeyEvent) { e.Type = KeyInception },
	} {
		e := KeyEvent{Site: "amsterdam", Type: KeyRotation, Next: NextKey(c.patient.Public()), At: c.now.Unix()}
		edit(&e)
		if _, err := SignKeyEvent(next, e, c.p, first); !errors.Is(err, consilium.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func (c *consentHouse) mandate(s consilium.Signer, m Mandate) *SignedDoc {
	c.t.Helper()
	m.Site = "amsterdam"
	d, err := SignMandate(s, m, c.p)
	if err != nil {
		c.t.Fatal(err)
	}
	return d
}

func TestParentOfAMinor(t *testing.T) {
	c := newConsentHouse(t)
	parent := newHospitalKey(t)
	con := consentFor("general")
	con.GivenBy, con.Until = GivenByParent, 0
	if err := c.tryAdd(c.issue(parent, con)); !errors.Is(err, consilium.ErrForbidden) {
		t.Errorf("a parent without papers: %v", err)
	}
	// Somebody signs the mandate himself.
	if err := c.tryAdd(c.mandate(newHospitalKey(t), Mandate{Role: RoleParent, Holder: parent.Public(), Powers: []string{PowerConsent}, From: epoch.Unix(), Until: epoch.Unix() + 50*day})); !errors.Is(err, consilium.ErrForbidden) {
		t.Errorf("a mandate by a stranger: %v", err)
	}
	m := c.mandate(c.key, Mandate{Role: RoleParent, Holder: parent.Public(), Powers: []string{PowerConsent, PowerWithdraw}, From: epoch.Unix(), Until: epoch.Unix() + 50*day})
	c.add(m, c.issue(parent, con))
	if cl, err := c.cs.Claims(c.p, epoch); err != nil || cl.Status != ConsentActive || cl.GivenBy != GivenByParent || cl.Mandate != m.Digest() || cl.Until != epoch.Unix()+50*day {
		t.Errorf("%+v %v", cl, err)
	}
	// Of age: the parent's consent ends by itself, and gives no more.
	if s := c.status(epoch.Unix() + 50*day); s != ConsentExpired {
		t.Errorf("of age: %s", s)
	}
	c.at(51)
	con.Given, con.From = c.now.Unix(), c.now.Unix()
	if err := c.tryAdd(c.issue(parent, con)); !errors.Is(err, consilium.ErrForbidden) {
		t.Errorf("a parent of an adult: %v", err)
	}
	if _, err := SignMandate(c.key, Mandate{Site: "amsterdam", Role: RoleParent, Holder: parent.Public(), Powers: []string{PowerConsent}, From: 1}, c.p); err == nil {
		t.Error("a parent for ever")
	}
}

func TestProxy(t *testing.T) {
	c := newConsentHouse(t)
	proxy := newHospitalKey(t)
	c.add(c.issue(c.patient, consentFor("general")))
	// A proxy for general data only, who may also withdraw.
	m := c.mandate(c.patient, Mandate{Role: RoleProxy, Holder: proxy.Public(), Powers: []string{PowerConsent, PowerWithdraw}, Scopes: []string{"general"}, From: epoch.Unix()})
	c.add(m)
	con := consentFor("general", "genetic")
	con.GivenBy, con.Given, con.From = GivenByProxy, epoch.Unix()+1, epoch.Unix()+1
	c.now = epoch.Add(time.Second)
	if err := c.tryAdd(c.issue(proxy, con)); !errors.Is(err, consilium.ErrForbidden) {
		t.Errorf("beyond the mandate: %v", err)
	}
	con.Scopes = []string{"general"}
	given := c.issue(proxy, con)
	c.add(given)
	if cl, _ := c.cs.Claims(c.p, c.now); cl.GivenBy != GivenByProxy || cl.Consent != given.Digest() {
		t.Errorf("%+v", cl)
	}
	c.at(1)
	c.add(c.withdraw(proxy, Withdrawal{Consent: given.Digest(), At: c.now.Unix()}))
	// The patient ends the mandate; what was done under it stays done.
	c.at(2)
	c.add(c.withdraw(c.patient, Withdrawal{Consent: m.Digest(), At: c.now.Unix()}))
	c.at(3)
	con.Given, con.From = c.now.Unix(), c.now.Unix()
	if err := c.tryAdd(c.issue(proxy, con)); !errors.Is(err, consilium.ErrForbidden) {
		t.Errorf("after the mandate: %v", err)
	}
	if cl, _ := c.cs.Claims(c.p, c.now); cl.Status != ConsentActive || cl.GivenBy != GivenBySelf {
		t.Errorf("%+v", cl)
	}
	// Nobody but the patient names a proxy.
	other := newHospitalKey(t)
	if err := c.tryAdd(c.mandate(other, Mandate{Role: RoleProxy, Holder: proxy.Public(), Powers: []string{PowerConsent}, From: epoch.Unix()})); !errors.Is(err, consilium.ErrForbidden) {
		t.Errorf("a proxy of nobody: %v", err)
	}
}

func TestConsentStatusList(t *testing.T) {
	c := newConsentHouse(t)
	entries, err := c.cs.NewStatus(3)
	if err != nil {
		t.Fatal(err)
	}
	var docs []*SignedDoc
	for i := range entries {
		d, err := IssueConsent(c.key, c.patient, consentFor("general", "genetic"), c.p, &entries[i])
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, d)
	}
	c.add(docs...)
	read := func() *status.Published {
		t.Helper()
		token, err := c.cs.PublishStatus(time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		p, err := status.Open(token, did.Hybrid(c.key.Public()), c.now)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	want := func(set ...bool) {
		t.Helper()
		p := read()
		for i, w := range set {
			if got, err := p.Set(entries[i]); err != nil || got != w {
				t.Errorf("consent %d: %v %v, want %v", i, got, err, w)
			}
		}
	}
	want(false, false, false)
	c.at(1)
	c.add(c.withdraw(c.patient, Withdrawal{Consent: docs[0].Digest(), Scopes: []string{"genetic"}, At: c.now.Unix()}))
	want(true, false, false)
	c.add(c.withdraw(c.patient, Withdrawal{Consent: docs[1].Digest(), At: c.now.Unix()}))
	want(true, true, false)
	before, err := os.ReadFile(filepath.Join(c.cfg.Dir, statusFile))
	if err != nil {
		t.Fatal(err)
	}
	// Erased documents stay revoked, and their places are not given again.
	if _, err := c.cs.Erase(t.Context(), c.ledger, c.p); err != nil {
		t.Fatal(err)
	}
	c.verify()
	want(true, true, true)
	c.reopen()
	// Before the store was held against the ledger, no list is signed.
	if _, err := c.cs.PublishStatus(time.Hour); !errors.Is(err, consilium.ErrLedger) {
		t.Errorf("from an unverified store: %v", err)
	}
	c.verify()
	want(true, true, true)
	// The patient's copy of an erased consent does not bring it back.
	if err := c.tryAdd(docs[2]); !errors.Is(err, consilium.ErrForbidden) {
		t.Errorf("an erased credential came again: %v", err)
	}
	// Somebody removes the file of kept bits, or puts an earlier copy back: then
	// nobody knows which place was the erased consent's, and no list is signed.
	file := filepath.Join(c.cfg.Dir, statusFile)
	kept, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"removed": nil, "an earlier copy": before, "cut": kept[:len(kept)/2], "empty": {}} {
		if b == nil {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		c.reopen()
		c.verify()
		if _, err := c.cs.PublishStatus(time.Hour); !errors.Is(err, consilium.ErrLedger) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.WriteFile(file, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	c.reopen()
	c.verify()
	want(true, true, true)
}

// A withdrawal is cut off the store's file. The naive twin, a list of what is in
// the file, says that the consent still stands; ours is not signed.
func TestStatusOfACutStore(t *testing.T) {
	c := newConsentHouse(t)
	entries, err := c.cs.NewStatus(1)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := IssueConsent(c.key, c.patient, consentFor("general"), c.p, &entries[0])
	if err != nil {
		t.Fatal(err)
	}
	c.add(doc)
	file := filepath.Join(c.cfg.Dir, consentFile)
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c.at(1)
	c.add(c.withdraw(c.patient, Withdrawal{At: c.now.Unix()}))
	if err := os.WriteFile(file, before, 0o600); err != nil {
		t.Fatal(err)
	}
	c.reopen()
	if len(c.cs.docs) != 1 || (&standing{docs: c.cs.docs}).over(0, c.now.Unix()) {
		t.Error("the naive twin noticed")
	}
	if _, err := c.cs.PublishStatus(time.Hour); !errors.Is(err, consilium.ErrLedger) {
		t.Errorf("signed all the same: %v", err)
	}
	g := c.gate(nil)
	if _, err := g.Update(t.Context(), c.ledger); err != nil {
		t.Fatal(err)
	}
	if err := c.cs.Verify(g); err == nil {
		t.Error("the cut store verifies")
	}
	if _, err := c.cs.PublishStatus(time.Hour); !errors.Is(err, consilium.ErrLedger) {
		t.Errorf("signed after the ledger contradicted: %v", err)
	}
}

// The thief of a card names himself a proxy before he is noticed, so as to stay
// one after the card was replaced. The naive twin, which asks who signed a
// mandate only when it comes, lets him.
func TestMandateOfAThief(t *testing.T) {
	c := newConsentHouse(t)
	first, shares := c.guarded()
	honest := newHospitalKey(t)
	c.add(first, c.issue(c.patient, consentFor("general")))
	c.at(5)
	early := c.mandate(c.patient, Mandate{Role: RoleProxy, Holder: honest.Public(), Powers: []string{PowerConsent, PowerSee, PowerWithdraw}, From: c.now.Unix()})
	c.add(early)
	// Day 10: the card is stolen.
	c.at(10)
	thief := newHospitalKey(t)
	all := []string{PowerConsent, PowerSee, PowerWithdraw}
	theft := c.mandate(c.patient, Mandate{Role: RoleProxy, Holder: thief.Public(), Powers: all, From: c.now.Unix()})
	wide := consentFor("general", "genetic")
	wide.GivenBy, wide.Given, wide.From, wide.Until = GivenByProxy, c.now.Unix(), c.now.Unix(), 0
	stolen := c.issue(thief, wide)
	c.add(theft, stolen)
	if cl, _ := c.cs.Claims(c.p, c.now); cl.Consent != stolen.Digest() {
		t.Error("the attack is not what it says")
	}
	// Day 20: the card is replaced; the old one is not believed from day 9 on.
	c.at(20)
	next := recoverKey(t, shares[:2])
	rec, err := SignKeyEvent(next, KeyEvent{Site: "amsterdam", Type: KeyRecovery, Next: NextKey(newHospitalKey(t).Public()), Since: epoch.Unix() + 9*day, At: c.now.Unix()}, c.p, first)
	if err != nil {
		t.Fatal(err)
	}
	c.add(rec)
	naive := func(m *Mandate, at int64) bool { return m.Holder == thief.Public() && at >= m.From }
	if !naive(theft.Mandate, c.now.Unix()) {
		t.Error("the naive twin noticed")
	}
	if cl, err := c.cs.Claims(c.p, c.now); err != nil || slices.Contains(cl.Scopes, "genetic") || cl.GivenBy != GivenBySelf {
		t.Errorf("the thief's consent counts: %+v %v", cl, err)
	}
	hist, err := c.cs.History(c.p, c.now)
	if err != nil || slices.ContainsFunc(hist, func(cl Claims) bool { return cl.Consent == stolen.Digest() }) {
		t.Errorf("it stands in the history: %v", err)
	}
	for _, power := range all {
		if c.cs.May(c.p, thief.Public(), power, []string{"general"}, c.now.Unix()) {
			t.Errorf("the thief may %s", power)
		}
		if !c.cs.May(c.p, honest.Public(), power, []string{"general"}, c.now.Unix()) {
			t.Errorf("the proxy from before the theft may not %s", power)
		}
	}
	if _, ok := c.cs.MandateOf(c.p, thief.Public(), c.now.Unix()); ok {
		t.Error("his mandate is found")
	}
	again := wide
	again.Given, again.From = c.now.Unix(), c.now.Unix()
	if err := c.tryAdd(c.issue(thief, again)); !errors.Is(err, consilium.ErrForbidden) {
		t.Errorf("he consents again: %v", err)
	}
	own := consentFor("general")
	own.Given, own.From, own.Until = c.now.Unix(), c.now.Unix(), 0
	mine := c.issue(next, own)
	c.add(mine)
	if err := c.tryAdd(c.withdraw(thief, Withdrawal{Consent: mine.Digest(), At: c.now.Unix()})); !errors.Is(err, consilium.ErrForbidden) {
		t.Errorf("he withdraws: %v", err)
	}
}

// A representative for some data acts for these only.
func TestMandateScopes(t *testing.T) {
	c := newConsentHouse(t)
	proxy := newHospitalKey(t)
	c.add(c.issue(c.patient, consentFor("general", "genetic")))
	c.add(c.mandate(c.patient, Mandate{Role: RoleProxy, Holder: proxy.Public(), Powers: []string{PowerSee, PowerWithdraw}, Scopes: []string{"genetic"}, From: epoch.Unix()}))
	c.at(1)
	for name, scopes := range map[string][]string{"everything": nil, "other data": {"general"}, "more": {"general", "genetic"}} {
		if err := c.tryAdd(c.withdraw(proxy, Withdrawal{Scopes: scopes, At: c.now.Unix()})); !errors.Is(err, consilium.ErrForbidden) {
			t.Errorf("withdraws %s: %v", name, err)
		}
		if c.cs.May(c.p, proxy.Public(), PowerSee, scopes, c.now.Unix()) {
			t.Errorf("sees %s", name)
		}
	}
	if !c.cs.May(c.p, proxy.Public(), PowerSee, []string{"genetic"}, c.now.Unix()) || c.cs.May(c.p, proxy.Public(), PowerConsent, []string{"genetic"}, c.now.Unix()) {
		t.Error("what the mandate covers")
	}
	c.add(c.withdraw(proxy, Withdrawal{Scopes: []string{"genetic"}, At: c.now.Unix()}))
	if cl, _ := c.cs.Claims(c.p, c.now.Add(time.Second)); cl.Status != ConsentActive || !slices.Equal(cl.Scopes, []string{"general"}) {
		t.Errorf("%+v", cl)
	}
	if _, ok := c.cs.MandateOf(c.p, proxy.Public(), c.now.Unix()); !ok {
		t.Error("a mandate for some data is not found, so nobody could end it")
	}
	c.reopen()
	if c.cs.May(c.p, c.patient.Public(), PowerSee, nil, c.now.Unix()) {
		t.Error("before the store was held against the ledger")
	}
}

func TestMembership(t *testing.T) {
	board, member := newHospitalKey(t), newHospitalKey(t)
	l, _ := status.NewList(0)
	entry := status.NewEntry("urn:list", 7)
	m := Membership{Role: MemberResearcher, ID: "team-1", Name: "A. Researcher", Institution: "University", Country: "NL", Attributes: map[string]string{"ethics": "2026-17", "training": "GCP"}}
	tok, err := IssueMembership(board, m, member.Public(), epoch, epoch.Add(time.Hour), &entry)
	if err != nil {
		t.Fatal(err)
	}
	b := sdjwt.Binding{Audience: "consilium:site:amsterdam", Nonce: "7"}
	shown, err := sdjwt.Present(tok, func(n string) bool { return n == "training" }, member, b, epoch)
	if err != nil {
		t.Fatal(err)
	}
	publish := func(by *hybrid.Key, l *status.List, from, until time.Time) string {
		t.Helper()
		token, err := status.Sign(by, status.Published{ID: "urn:list", Purpose: status.Revocation, From: from, Until: until, List: l})
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	list := publish(board, l, epoch, epoch.Add(time.Hour))
	issuers := []did.Key{did.Hybrid(board.Public())}
	got, key, err := VerifyMembership(shown, issuers, b, epoch, []string{list})
	if err != nil || key != member.Public() || got.ID != "team-1" || got.Attributes["training"] != "GCP" || got.Attributes["ethics"] != "" {
		t.Fatalf("%+v %v", got, err)
	}
	if strings.Contains(shown, "2026-17") {
		t.Error("shows what was not chosen")
	}
	bad := func(name string, shown string, issuers []did.Key, b sdjwt.Binding, now time.Time, lists ...string) {
		t.Helper()
		if _, _, err := VerifyMembership(shown, issuers, b, now, lists); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	bad("no list", shown, issuers, b, epoch)
	bad("expired", shown, issuers, b, epoch.Add(2*time.Hour), list)
	bad("a stranger's", shown, []did.Key{did.Hybrid(member.Public())}, b, epoch, list)
	bad("another audience", shown, issuers, sdjwt.Binding{Audience: "x", Nonce: "7"}, epoch, list)
	bad("replayed", shown, issuers, sdjwt.Binding{Audience: b.Audience, Nonce: "8"}, epoch, list)
	// A list of somebody else's, and one from before the revocation: the naive
	// twin, which reads a list without asking whose it is and until when it
	// counts, finds the credential good in both.
	clean, _ := status.NewList(0)
	for name, token := range map[string]string{
		"a list of the member's own":  publish(member, clean, epoch, epoch.Add(time.Hour)),
		"a list from before":          publish(board, clean, epoch.Add(-2*time.Hour), epoch.Add(-time.Hour)),
		"a list of another time":      publish(board, clean, epoch.Add(time.Hour), epoch.Add(2*time.Hour)),
		"a list that is no list":      "e30.e30.e30",
		"a list under another's name": strings.Replace(list, "e", "f", 1),
	} {
		bad(name, shown, issuers, b, epoch, token)
	}
	l.Set(7, true)
	bad("revoked", shown, issuers, b, epoch, publish(board, l, epoch, epoch.Add(time.Hour)))
	if _, err := IssueMembership(board, m, member.Public(), epoch, epoch, nil); err == nil {
		t.Error("without an end")
	}
}
