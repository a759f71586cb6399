package provenance

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"consilium"
	"consilium/provenance/status"
)

// The status list is what a hospital publishes so that others, to whom a
// patient shows a consent, see whether it still stands. The hospital's own vault
// does not use it: it has the withdrawals themselves, at once.
//
// A bit is set by any withdrawal that touches the consent, also of one category
// only: what is left is shown by a new credential. Bits are never cleared, and
// outlive the erasure of the documents.

const statusFile = "status"

// StatusListID is the name that entries give to a hospital's list.
func StatusListID(site consilium.SiteID) string { return "urn:consilium:status:" + string(site) }

// keptBits are the bits that are set for good. Those of withdrawn consents can
// be made again from the store; those of erased ones are nowhere else. Erased
// names, by their references in the ledger, the documents whose bits are in, so
// that a file that was lost or put back to an earlier copy shows.
type keptBits struct {
	List   string             `json:"list"`
	Erased []consilium.Digest `json:"erased"`

	bits *status.List
}

// statusLocked reads the kept bits. Without a file none are kept.
func (c *Consents) statusLocked() (*keptBits, error) {
	if c.cfg.Dir == "" && c.bits != nil {
		return c.bits, nil
	}
	k := &keptBits{}
	var b []byte
	err := fs.ErrNotExist
	if c.cfg.Dir != "" {
		b, err = os.ReadFile(filepath.Join(c.cfg.Dir, statusFile))
	}
	if errors.Is(err, fs.ErrNotExist) {
		k.bits, err = status.NewList(0)
		return k, err
	}
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(b))
		d.DisallowUnknownFields()
		if err = d.Decode(k); err == nil {
			k.bits, err = status.Decode(k.List)
		}
	}
	if err != nil {
		return nil, consilium.ErrLedger.Withf("consents: %s: %w; restore it from a backup", statusFile, err)
	}
	return k, nil
}

// completeLocked checks that the bits of every document that the ledger calls
// erased are kept. Otherwise a published list would call them good again.
func (c *Consents) completeLocked(k *keptBits) error {
	have := make(map[consilium.Digest]bool, len(k.Erased))
	for _, ref := range k.Erased {
		have[ref] = true
	}
	for ref, t := range c.refs {
		if t == RecordErasure && !have[ref] {
			return consilium.ErrLedger.Withf("consents: the file %s does not know of an erasure that the ledger holds; restore its newest copy: without it an erased consent would count again", statusFile)
		}
	}
	return nil
}

func (c *Consents) keepStatusLocked(k *keptBits) error {
	if c.cfg.Dir == "" {
		c.bits = k
		return nil
	}
	if k.Erased == nil {
		k.Erased = []consilium.Digest{}
	}
	k.List = k.bits.Encode()
	b, err := json.Marshal(k)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(c.cfg.Dir, statusFile), b)
}

// freeLocked refuses a credential whose place in the list is revoked, or that
// of another one: a copy of a consent that was erased, or shown again.
func (c *Consents) freeLocked(d *storedDoc) error {
	e := d.doc.Status()
	if e == nil || e.List != StatusListID(c.cfg.Site) {
		return nil
	}
	for _, o := range c.docs {
		if x := o.doc.Status(); x != nil && x.List == e.List && x.Index == e.Index {
			return consilium.ErrInvalid.Withf("consent: a credential with this place in the status list is there already")
		}
	}
	k, err := c.statusLocked()
	if err != nil {
		return err
	}
	i, err := e.Position()
	if err != nil {
		return consilium.ErrInvalid.With(err)
	}
	if set, err := k.bits.Get(i); err != nil || set {
		return consilium.ErrForbidden.Withf("consent: this credential was revoked, or erased; sign a new one")
	}
	return nil
}

// NewStatus draws the places of n new credentials.
func (c *Consents) NewStatus(n int) ([]status.Entry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, err := c.statusLocked()
	if err != nil {
		return nil, err
	}
	taken := map[string]bool{}
	for _, d := range c.docs {
		if e := d.doc.Status(); e != nil {
			taken[e.Index] = true
		}
	}
	id := StatusListID(c.cfg.Site)
	out := make([]status.Entry, n)
	for i := range out {
		at, err := l.bits.Draw(func(i int) bool {
			set, _ := l.bits.Get(i)
			return set || taken[status.NewEntry(id, i).Index]
		})
		if err != nil {
			return nil, err
		}
		out[i] = status.NewEntry(id, at)
		taken[out[i].Index] = true
	}
	return out, nil
}

// setLocked sets the bits of credentials.
func (c *Consents) setLocked(k *keptBits, docs []*storedDoc) error {
	for _, d := range docs {
		e := d.doc.Status()
		if e == nil || e.List != StatusListID(c.cfg.Site) {
			continue
		}
		i, err := e.Position()
		if err == nil {
			err = k.bits.Set(i, true)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// PublishStatus signs the hospital's status list as it stands. It is valid for
// a while only, so that an old one cannot hide a withdrawal for long. Verify must
// have succeeded: a list made from a store that lacks a withdrawal would vouch,
// with the hospital's signature, for what was taken back.
func (c *Consents) PublishStatus(valid time.Duration) (string, error) {
	if c.cfg.Signer == nil {
		return "", consilium.ErrForbidden.Withf("consents: opened without the hospital's key")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.verified {
		return "", consilium.ErrLedger.Withf("consents: not held against the ledger yet")
	}
	k, err := c.statusLocked()
	if err != nil {
		return "", err
	}
	if err := c.completeLocked(k); err != nil {
		return "", err
	}
	now := c.cfg.Now()
	var gone []*storedDoc
	for p := range c.byOwner {
		s := c.standing(p)
		for place, d := range s.docs {
			if d.doc.Consent != nil && s.over(place, now.Unix()) {
				gone = append(gone, d)
			}
		}
	}
	if err := c.setLocked(k, gone); err != nil {
		return "", err
	}
	if err := c.keepStatusLocked(k); err != nil {
		return "", err
	}
	return status.Sign(c.cfg.Signer, status.Published{ID: StatusListID(c.cfg.Site), Purpose: status.Revocation, From: now, Until: now.Add(valid), List: k.bits})
}

// over reports whether the consent at a place counts no more, for good: taken
// back, in whole or in part, erased, signed with a key that was stolen, or given
// under a mandate that never was or that has ended for a patient of age.
func (s *standing) over(place int, at int64) bool {
	d := s.docs[place]
	con := d.doc.Consent
	if d.erased {
		return true
	}
	digest := d.doc.Digest()
	for _, o := range s.docs {
		if w := o.doc.Withdrawal; w != nil && (w.Consent == digest || w.Consent.IsZero() && con.Given <= min(w.At, o.received)) {
			return true
		}
	}
	if !d.logged {
		return false // it does not count yet; a bit would be for good
	}
	if con.GivenBy == GivenBySelf {
		if !s.line.speaks(con.Key, place, d.received) {
			return true
		}
	} else if m := s.mandateFor(d); m == nil || m.doc.Mandate.Role != RoleProxy && m.doc.Mandate.Until != 0 && at >= m.doc.Mandate.Until {
		return true
	}
	return false
}
