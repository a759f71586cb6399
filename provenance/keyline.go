package provenance

import (
	"errors"
	"fmt"
	"slices"

	"consilium"
)

// A patient's key is replaced in the open: every key names the digest of the
// one after it before it is ever used (pre-rotation, as KERI does). Who steals
// the key in use can sign with it until that is noticed, but cannot make himself
// the successor; the next key rests split among guardians (package guardian).

// Types of key events.
const (
	KeyInception = "inception" // the first key
	KeyRotation  = "rotation"  // the next key takes over
	KeyRecovery  = "recovery"  // the same, after a loss: the guardians gave the next key back
)

// KeyEvent is an entry of a patient's line of keys. The new key signs it.
type KeyEvent struct {
	APIVersion string              `json:"apiVersion"`
	Kind       string              `json:"kind"` // "KeyEvent"
	ID         ID                  `json:"id"`
	Subject    consilium.Digest    `json:"subject"` // ConsentSubject
	Site       consilium.SiteID    `json:"site"`
	Type       string              `json:"type"`
	Seq        uint32              `json:"seq"`
	Prev       consilium.Digest    `json:"prev"`      // of the event before; zero for the first
	Key        consilium.PublicKey `json:"key"`       // counts from here on
	Next       consilium.Digest    `json:"next"`      // NextKey of the one after it
	Guardians  int                 `json:"guardians"` // among how many the next key is split; 0 for none
	Threshold  int                 `json:"threshold"`
	Since      int64               `json:"since"` // recovery: from when on the old key is not believed; 0: from this event
	At         int64               `json:"at"`    // Unix seconds
}

// NextKey is the digest by which an event names the key after it.
func NextKey(k consilium.PublicKey) consilium.Digest { return consilium.DomainNextKey.Digest(k[:]) }

func (e *KeyEvent) validate() error {
	switch {
	case e.APIVersion != consilium.APIVersion || e.Kind != "KeyEvent":
		return fmt.Errorf("apiVersion %q kind %q", clip(e.APIVersion), clip(e.Kind))
	case e.ID.IsZero() || e.Subject.IsZero() || e.Key.IsZero() || e.Next.IsZero():
		return errors.New("id, subject, key and next are all needed")
	case e.Type != KeyInception && e.Type != KeyRotation && e.Type != KeyRecovery:
		return fmt.Errorf("type %q: want inception, rotation or recovery", clip(e.Type))
	case (e.Type == KeyInception) != (e.Seq == 0) || (e.Seq == 0) != e.Prev.IsZero():
		return errors.New("the first event, and no other, is an inception and has no event before it")
	case e.Guardians < 0 || e.Guardians > 20 || e.Threshold < 0 || e.Threshold > e.Guardians || e.Guardians > 0 && e.Threshold < 2:
		return fmt.Errorf("%d of %d guardians", e.Threshold, e.Guardians)
	case e.At <= 0 || e.At > maxTime || e.Since < 0 || e.Since > e.At || e.Since != 0 && e.Type != KeyRecovery:
		return errors.New("at and since are Unix seconds; since is for a recovery, and not after it")
	case NextKey(e.Key) == e.Next:
		return errors.New("the next key is the present one")
	}
	_, err := consilium.ParseSiteID(string(e.Site))
	return err
}

// SignKeyEvent completes e and signs it with the key that it installs. after is
// the event before it, nil for an inception.
func SignKeyEvent(s consilium.Signer, e KeyEvent, p Pseudonym, after *SignedDoc) (*SignedDoc, error) {
	e.APIVersion, e.Kind, e.Key = consilium.APIVersion, "KeyEvent", s.Public()
	if e.ID.IsZero() {
		e.ID = NewID()
	}
	e.Subject = ConsentSubject(e.ID, e.Site, p)
	if after != nil {
		if after.KeyEvent == nil {
			return nil, consilium.ErrInvalid.Withf("key event: it follows no key event")
		}
		e.Seq, e.Prev = after.KeyEvent.Seq+1, after.Digest()
	}
	if err := e.validate(); err != nil {
		return nil, consilium.ErrInvalid.Withf("key event: %w", err)
	}
	return signDoc(s, consilium.DomainKeyEvent, &e)
}

// follows checks that e may come after last (nil for none).
func (e *KeyEvent) follows(last *SignedDoc) error {
	switch {
	case last == nil && e.Seq != 0:
		return consilium.ErrForbidden.Withf("key event: there is no key to replace")
	case last == nil:
		return nil
	case e.Seq == 0 || e.Prev != last.Digest() || e.Seq != last.KeyEvent.Seq+1:
		return consilium.ErrForbidden.Withf("key event: it does not follow the last one")
	case NextKey(e.Key) != last.KeyEvent.Next:
		return consilium.ErrForbidden.Withf("key event: not the key that was named in advance")
	}
	return nil
}

// line is a patient's keys in order, each with the documents for which it
// speaks: those that came after its event and before the next. The order of the
// store decides, not the clock, which may tell the same second twice.
type line []span

type span struct {
	doc   *storedDoc
	at    int   // place of the event among the patient's documents
	until int64 // from this arrival on, Unix seconds, it is not believed either; 0: no such time
}

// keyLine reads a patient's events. Only events that the ledger has count, and
// one that does not follow is passed over.
func keyLine(docs []*storedDoc) line {
	var l line
	for i, d := range docs {
		e := d.doc.KeyEvent
		if e == nil || !d.logged || d.erased {
			continue
		}
		var last *SignedDoc
		if len(l) > 0 {
			last = l[len(l)-1].doc.doc
		}
		if e.follows(last) != nil {
			continue
		}
		if len(l) > 0 {
			l[len(l)-1].until = e.Since
		}
		l = append(l, span{doc: d, at: i})
	}
	return l
}

// speaks reports whether a document at a place among the patient's, that
// arrived then, counts under key. Before the first event every key of the desk
// does.
func (l line) speaks(key consilium.PublicKey, at int, arrived int64) bool {
	if len(l) == 0 {
		return true
	}
	for i, s := range l {
		if s.doc.doc.KeyEvent.Key != key || s.until != 0 && arrived >= s.until {
			continue
		}
		if at > s.at && (i == len(l)-1 || at < l[i+1].at) {
			return true
		}
	}
	first := l[0]
	return at < first.at && !(first.doc.doc.KeyEvent.Key == key && first.until != 0 && arrived >= first.until)
}

// current is the key that speaks now; false before the first event.
func (l line) current() (consilium.PublicKey, bool) {
	if len(l) == 0 {
		return consilium.PublicKey{}, false
	}
	return l[len(l)-1].doc.doc.KeyEvent.Key, true
}

// Roles of a mandate.
const (
	RoleProxy    = "proxy"    // the adult patient asked this person
	RoleParent   = "parent"   // of a minor
	RoleGuardian = "guardian" // appointed by a court
)

// Powers of a mandate.
const (
	PowerConsent  = "consent"
	PowerWithdraw = "withdraw"
	PowerSee      = "see" // who used what
)

// Mandate lets somebody act for a patient. A proxy's is signed by the patient;
// a parent's or guardian's by the hospital, which saw the papers. A withdrawal
// that names it ends it.
type Mandate struct {
	APIVersion string              `json:"apiVersion"`
	Kind       string              `json:"kind"` // "Mandate"
	ID         ID                  `json:"id"`
	Subject    consilium.Digest    `json:"subject"`
	Site       consilium.SiteID    `json:"site"`
	Role       string              `json:"role"`
	Holder     consilium.PublicKey `json:"holder"` // the key of who acts
	Powers     []string            `json:"powers"`
	Scopes     []string            `json:"scopes"`   // categories of data; empty means all
	Evidence   consilium.Digest    `json:"evidence"` // of the papers seen; zero for a proxy
	From       int64               `json:"from"`     // Unix seconds
	Until      int64               `json:"until"`    // for a parent the day the child is of age; 0 means until withdrawn
	Key        consilium.PublicKey `json:"key"`      // who signed
}

func (m *Mandate) validate() error {
	switch {
	case m.APIVersion != consilium.APIVersion || m.Kind != "Mandate":
		return fmt.Errorf("apiVersion %q kind %q", clip(m.APIVersion), clip(m.Kind))
	case m.ID.IsZero() || m.Subject.IsZero() || m.Key.IsZero() || m.Holder.IsZero():
		return errors.New("id, subject, holder and key are all needed")
	case m.Role != RoleProxy && m.Role != RoleParent && m.Role != RoleGuardian:
		return fmt.Errorf("role %q: want proxy, parent or guardian", clip(m.Role))
	case m.Role == RoleParent && m.Until == 0:
		return errors.New("until: a parent acts until the child is of age; name the day")
	case len(m.Powers) == 0:
		return errors.New("powers: at least one of consent, see and withdraw")
	case m.From <= 0 || m.From > maxTime || m.Until < 0 || m.Until > maxTime || m.Until != 0 && m.Until <= m.From:
		return errors.New("from and until are Unix seconds, until after from")
	case m.Holder == m.Key:
		return errors.New("nobody gives a mandate to himself")
	}
	for _, p := range m.Powers {
		if p != PowerConsent && p != PowerWithdraw && p != PowerSee {
			return fmt.Errorf("power %q: want consent, see or withdraw", clip(p))
		}
	}
	if err := checkList("powers", m.Powers); err != nil {
		return err
	}
	if err := checkList("scopes", m.Scopes); err != nil {
		return err
	}
	_, err := consilium.ParseSiteID(string(m.Site))
	return err
}

// SignMandate completes m and signs it.
func SignMandate(s consilium.Signer, m Mandate, p Pseudonym) (*SignedDoc, error) {
	m.APIVersion, m.Kind, m.Key = consilium.APIVersion, "Mandate", s.Public()
	if m.ID.IsZero() {
		m.ID = NewID()
	}
	m.Subject = ConsentSubject(m.ID, m.Site, p)
	m.Powers, m.Scopes = sorted(m.Powers), sorted(m.Scopes)
	if err := m.validate(); err != nil {
		return nil, consilium.ErrInvalid.Withf("mandate: %w", err)
	}
	return signDoc(s, consilium.DomainMandate, &m)
}

// roleOf is the role that lets somebody give a consent of this kind.
var roleOf = map[string]string{GivenByParent: RoleParent, GivenByGuardian: RoleGuardian, GivenByProxy: RoleProxy}

// standing is a patient's documents at one moment with what decides who may
// act: the line of the patient's keys, and the hospital's own.
type standing struct {
	docs     []*storedDoc // in the order in which they came
	line     line         // over docs
	hospital consilium.PublicKey
}

// inForce reports whether the document at a place is a mandate that lets key act
// at a moment. Withdrawals of the mandate count however they came.
//
// Who signed it is asked again each time, not only when it came: after a
// recovery, what the thief of the old key signed since the theft is no mandate.
// Otherwise he would name himself a proxy before he is noticed, and stay one.
func (s *standing) inForce(place int, key consilium.PublicKey, at int64) bool {
	d := s.docs[place]
	m := d.doc.Mandate
	if m == nil || d.erased || m.Holder != key || at < m.From || at < d.received || m.Until != 0 && at >= m.Until {
		return false
	}
	if m.Key != s.hospital && !s.line.speaks(m.Key, place, d.received) {
		return false
	}
	digest := d.doc.Digest()
	for _, o := range s.docs {
		if w := o.doc.Withdrawal; w != nil && !o.erased && w.Consent == digest && min(w.At, o.received) <= at {
			return false
		}
	}
	return true
}

// holds is inForce for one power over all of scopes. No scopes means every
// scope: a mandate that is limited to some does not reach so far.
func (s *standing) holds(place int, key consilium.PublicKey, power string, scopes []string, at int64) bool {
	if !s.inForce(place, key, at) {
		return false
	}
	m := s.docs[place].doc.Mandate
	if !slices.Contains(m.Powers, power) {
		return false
	}
	if len(m.Scopes) == 0 {
		return true
	}
	return len(scopes) > 0 && !slices.ContainsFunc(scopes, func(x string) bool { return !slices.Contains(m.Scopes, x) })
}

// mandateFor finds the mandate under which a consent was given, among those
// that the ledger has.
func (s *standing) mandateFor(d *storedDoc) *storedDoc {
	con := d.doc.Consent
	for i, m := range s.docs {
		if m.logged && m.doc.Mandate != nil && m.doc.Mandate.Role == roleOf[con.GivenBy] && s.holds(i, con.Key, PowerConsent, con.Scopes, d.received) {
			return m
		}
	}
	return nil
}

// fitsLocked checks a document against those that are there: no document
// twice, and each by somebody who may.
func (c *Consents) fitsLocked(d *storedDoc, batch []*storedDoc) error {
	digest := d.doc.Digest()
	var docs []*storedDoc
	for _, o := range append(slices.Clone(c.byOwner[d.patient]), batch...) {
		if o == d {
			break // what comes behind it in the batch comes later
		}
		if o.patient != d.patient || o.erased {
			continue
		}
		if o.doc.Digest() == digest {
			return consilium.ErrInvalid.Withf("consent: the document is already there")
		}
		docs = append(docs, o)
	}
	line := stagedLine(docs)
	now := &standing{docs: docs, line: line, hospital: c.key}
	switch {
	case d.doc.Consent != nil:
		if err := c.freeLocked(d); err != nil {
			return err
		}
		return c.mayConsent(d, now)
	case d.doc.Withdrawal != nil:
		return c.mayWithdraw(d, now)
	case d.doc.KeyEvent != nil:
		var last *SignedDoc
		if len(line) > 0 {
			last = line[len(line)-1].doc.doc
		} else {
			// The first event must come from the key that the patient used so far:
			// otherwise it would be the way to take a patient's consents over.
			for i := len(docs) - 1; i >= 0; i-- {
				if con := docs[i].doc.Consent; con != nil && con.GivenBy == GivenBySelf {
					if con.Key != d.doc.KeyEvent.Key {
						return consilium.ErrForbidden.Withf("key event: the patient has used another key; renew the consent first")
					}
					break
				}
			}
		}
		return d.doc.KeyEvent.follows(last)
	}
	m := d.doc.Mandate
	if m.Key == c.key {
		return nil
	}
	if m.Role != RoleProxy {
		return consilium.ErrForbidden.Withf("mandate: the hospital signs for a %s, having seen the papers", m.Role)
	}
	if !now.isPatient(m.Key) {
		return consilium.ErrForbidden.Withf("mandate: signed by neither the patient nor the hospital")
	}
	return nil
}

// stagedLine is keyLine over documents that may not be logged yet.
func stagedLine(docs []*storedDoc) line {
	staged := make([]*storedDoc, len(docs))
	for i, d := range docs {
		s := *d
		s.logged = true
		staged[i] = &s
	}
	return keyLine(staged)
}

// isPatient reports whether key speaks for the patient now: the current key
// of the line, or without a line one that gave a consent.
func (s *standing) isPatient(key consilium.PublicKey) bool {
	if current, ok := s.line.current(); ok {
		return key == current
	}
	for _, o := range s.docs {
		if con := o.doc.Consent; con != nil && !o.erased && con.GivenBy == GivenBySelf && con.Key == key {
			return true
		}
	}
	return false
}

func (c *Consents) mayConsent(d *storedDoc, s *standing) error {
	con := d.doc.Consent
	if con.GivenBy == GivenBySelf {
		if current, ok := s.line.current(); ok && con.Key != current {
			return consilium.ErrForbidden.Withf("consent: signed with a key that was replaced")
		}
		return nil
	}
	for i, m := range s.docs {
		if m.doc.Mandate != nil && m.doc.Mandate.Role == roleOf[con.GivenBy] && s.holds(i, con.Key, PowerConsent, con.Scopes, d.received) {
			return nil
		}
	}
	return consilium.ErrForbidden.Withf("consent: given by a %s without a mandate that holds today for these data; enter the mandate first", con.GivenBy)
}

func (c *Consents) mayWithdraw(d *storedDoc, s *standing) error {
	w := d.doc.Withdrawal
	if w.Key == c.key || s.isPatient(w.Key) {
		return nil
	}
	for i, o := range s.docs {
		con := o.doc.Consent
		// Who gave a consent may take it back; a key that was replaced may not.
		if con != nil && con.GivenBy != GivenBySelf && con.Key == w.Key && (w.Consent.IsZero() || w.Consent == o.doc.Digest()) {
			return nil
		}
		if s.holds(i, w.Key, PowerWithdraw, w.Scopes, d.received) {
			return nil
		}
	}
	return consilium.ErrForbidden.Withf("withdrawal: signed by neither who gave the consent nor the hospital; a representative takes back only what the mandate covers")
}

// May reports whether a key has a power over a patient's documents at a
// moment, for all of scopes: the patient's own has all, a representative's what
// a mandate in the ledger says. Before Verify succeeded, nobody has any.
func (c *Consents) May(p Pseudonym, key consilium.PublicKey, power string, scopes []string, at int64) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if !c.verified {
		return false
	}
	s := c.standing(p)
	if s.isPatient(key) {
		return true
	}
	for i, d := range s.docs {
		if d.logged && s.holds(i, key, power, scopes, at) {
			return true
		}
	}
	return false
}

// standing is what the ledger confirms of a patient's documents.
func (c *Consents) standing(p Pseudonym) *standing {
	docs := c.byOwner[p]
	return &standing{docs: docs, line: keyLine(docs), hospital: c.key}
}

// LastKeyEvent is the newest event of a patient's line; nil without one.
func (c *Consents) LastKeyEvent(p Pseudonym) *SignedDoc {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if l := stagedLine(c.byOwner[p]); len(l) > 0 {
		return l[len(l)-1].doc.doc
	}
	return nil
}

// MandateOf finds the mandate that a key has for a patient at a moment, the
// newest first.
func (c *Consents) MandateOf(p Pseudonym, key consilium.PublicKey, at int64) (consilium.Digest, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	docs := c.byOwner[p]
	s := &standing{docs: docs, line: stagedLine(docs), hospital: c.key}
	for i := len(docs) - 1; i >= 0; i-- {
		if s.inForce(i, key, at) {
			return docs[i].doc.Digest(), true
		}
	}
	return consilium.Digest{}, false
}
