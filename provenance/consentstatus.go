package provenance

import (
	"errors"
	"fmt"
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

// statusLocked reads the bits that are set for good.
func (c *Consents) statusLocked() (*status.List, error) {
	if c.cfg.Dir == "" {
		if c.bits == nil {
			var err error
			if c.bits, err = status.NewList(0); err != nil {
				return nil, err
			}
		}
		return c.bits, nil
	}
	b, err := os.ReadFile(filepath.Join(c.cfg.Dir, statusFile))
	if errors.Is(err, fs.ErrNotExist) {
		return status.NewList(0)
	}
	if err != nil {
		return nil, fmt.Errorf("consents: %w", err)
	}
	l, err := status.Decode(string(b))
	if err != nil {
		return nil, fmt.Errorf("consents: %s: %w", statusFile, err)
	}
	return l, nil
}

func (c *Consents) keepStatusLocked(l *status.List) error {
	if c.cfg.Dir == "" {
		return nil
	}
	return writeFile(filepath.Join(c.cfg.Dir, statusFile), []byte(l.Encode()))
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
		at, err := l.Draw(func(i int) bool {
			set, _ := l.Get(i)
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

// setLocked sets the bits of credentials in l.
func (c *Consents) setLocked(l *status.List, docs []*storedDoc) error {
	for _, d := range docs {
		e := d.doc.Status()
		if e == nil || e.List != StatusListID(c.cfg.Site) {
			continue
		}
		i, err := e.Position()
		if err == nil {
			err = l.Set(i, true)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// PublishStatus signs the hospital's status list as it stands. It is valid for
// a while only, so that an old one cannot hide a withdrawal for long.
func (c *Consents) PublishStatus(valid time.Duration) (string, error) {
	if c.cfg.Signer == nil {
		return "", consilium.ErrForbidden.Withf("consents: opened without the hospital's key")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	l, err := c.statusLocked()
	if err != nil {
		return "", err
	}
	var gone []*storedDoc
	for _, docs := range c.byOwner {
		line := stagedLine(docs)
		for place, d := range docs {
			con := d.doc.Consent
			if con == nil {
				continue
			}
			end := con.GivenBy == GivenBySelf && !line.speaks(con.Key, place, d.received)
			digest := d.doc.Digest()
			for _, o := range docs {
				w := o.doc.Withdrawal
				end = end || w != nil && (w.Consent == digest || w.Consent.IsZero() && con.Given <= min(w.At, o.received))
			}
			if end {
				gone = append(gone, d)
			}
		}
	}
	if err := c.setLocked(l, gone); err != nil {
		return "", err
	}
	if err := c.keepStatusLocked(l); err != nil {
		return "", err
	}
	now := c.cfg.Now()
	return status.Sign(c.cfg.Signer, status.Published{ID: StatusListID(c.cfg.Site), Purpose: status.Revocation, From: now, Until: now.Add(valid), List: l})
}
