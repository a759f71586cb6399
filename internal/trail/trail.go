// Package trail promises that a hospital's record of what it decided, used,
// contributed, opened and released cannot be changed in the middle: every entry
// names the digest of the one before it, the hospital signs the last, and an
// entry is durable before the action that it announces.
package trail

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/durable"
	"consilium/internal/hybrid"
)

// Entry is one line of a hospital's trail. Body is canonical JSON without
// personal data. Prev is the digest of the entry before it, of any study.
type Entry struct {
	Seq   uint64            `json:"seq"`
	Time  int64             `json:"time"` // Unix milliseconds, this hospital's clock
	Site  consilium.SiteID  `json:"site"`
	Study consilium.StudyID `json:"study"`
	Round uint32            `json:"round"`
	Type  string            `json:"type"`
	Body  json.RawMessage   `json:"body"`
	Prev  consilium.Digest  `json:"prev"`
}

// Signed is the trail of one hospital up to a moment, with its signature over
// the digest of the last entry.
type Signed struct {
	Site      consilium.SiteID    `json:"site"`
	Links     []Link              `json:"links"`
	Head      consilium.Digest    `json:"head"`
	Signature consilium.Signature `json:"signature"`
}

// Link is an entry's exact bytes, or only its digest where it belongs to
// another study than the one that the trail is shown for.
type Link struct {
	Entry  []byte           `json:"entry,omitempty"`
	Digest consilium.Digest `json:"digest"`
}

const recordEntry uint8 = 1

// Writer appends to a hospital's trail. It is safe for concurrent use.
type Writer struct {
	mu     sync.Mutex
	log    *durable.Journal
	site   consilium.SiteID
	signer consilium.Signer
	now    func() time.Time
	links  []Link
	study  []consilium.StudyID // of each link
	head   consilium.Digest
}

// Open recovers the trail of a site at path. A break in the chain is an error: nothing
// is appended to a trail that somebody has changed.
func Open(path string, site consilium.SiteID, signer consilium.Signer, now func() time.Time) (*Writer, error) {
	return OpenFS(durable.OS, path, site, signer, now)
}

// OpenFS is Open on a given file system.
func OpenFS(fsys durable.FS, path string, site consilium.SiteID, signer consilium.Signer, now func() time.Time) (*Writer, error) {
	log, err := durable.OpenFS(fsys, path)
	if err != nil {
		return nil, err
	}
	t := &Writer{log: log, site: site, signer: signer, now: now}
	err = log.Replay(func(kind uint8, data []byte) error {
		if kind != recordEntry {
			return fmt.Errorf("trail: record of unknown kind %d", kind)
		}
		var e Entry
		if err := json.Unmarshal(data, &e); err != nil {
			return err
		}
		if e.Prev != t.head || e.Seq != uint64(len(t.links)) {
			return fmt.Errorf("trail: entry %d does not follow", e.Seq)
		}
		t.keep(e.Study, data)
		return nil
	})
	if err != nil {
		log.Close()
		return nil, err
	}
	return t, nil
}

func (t *Writer) keep(study consilium.StudyID, data []byte) {
	t.head = consilium.DomainTrail.Digest(data)
	t.links = append(t.links, Link{Entry: bytes.Clone(data), Digest: t.head})
	t.study = append(t.study, study)
}

// Write appends one entry; it is durable on return. body is a json.RawMessage
// in canonical form or any value that encodes to JSON.
func (t *Writer) Write(study consilium.StudyID, round uint32, kind string, body any) error {
	raw, ok := body.(json.RawMessage)
	if !ok {
		b, err := canon.Marshal(body)
		if err != nil {
			return err
		}
		raw = b
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	b, err := canon.Marshal(&Entry{
		Seq: uint64(len(t.links)), Time: t.now().UnixMilli(), Site: t.site, Study: study, Round: round, Type: kind, Body: raw, Prev: t.head,
	})
	if err != nil {
		return err
	}
	if err := t.log.Append(recordEntry, b); err != nil {
		return err
	}
	t.keep(study, b)
	return nil
}

// Head is the digest of the last entry.
func (t *Writer) Head() consilium.Digest {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.head
}

// Last is the newest entry of a kind, of any study.
func (t *Writer) Last(kind string) (e Entry, ok bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := len(t.links) - 1; i >= 0; i-- {
		e = Entry{}
		if err := json.Unmarshal(t.links[i].Entry, &e); err != nil {
			return Entry{}, false, fmt.Errorf("trail: entry %d: %w", i, err)
		}
		if e.Type == kind {
			return e, true, nil
		}
	}
	return Entry{}, false, nil
}

// Entries are all entries from the first, of every study.
func (t *Writer) Entries() ([]Entry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]Entry, len(t.links))
	for i, l := range t.links {
		if err := json.Unmarshal(l.Entry, &out[i]); err != nil {
			return nil, fmt.Errorf("trail: entry %d: %w", i, err)
		}
	}
	return out, nil
}

// Export signs the head and returns the chain with the entries of one study.
func (t *Writer) Export(study consilium.StudyID) (*Signed, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := &Signed{Site: t.site, Head: t.head}
	for i, l := range t.links {
		if t.study[i] != study {
			l.Entry = nil
		}
		out.Links = append(out.Links, l)
	}
	sig, err := t.signer.Sign(consilium.DomainTrail, t.head[:])
	if err != nil {
		return nil, err
	}
	out.Signature = sig
	return out, nil
}

// Close releases the file.
func (t *Writer) Close() error { return t.log.Close() }

// Verify checks a signed trail against the hospital's key: every entry that is
// shown has its digest, names the digest before it and belongs to the study, and
// the hospital signed the last digest. It returns the entries of the study.
func (s *Signed) Verify(key consilium.PublicKey, study consilium.StudyID) ([]Entry, error) {
	var prev consilium.Digest
	var out []Entry
	for i, l := range s.Links {
		if l.Entry != nil {
			if consilium.DomainTrail.Digest(l.Entry) != l.Digest {
				return nil, fmt.Errorf("trail of %s: entry %d does not have its digest", s.Site, i)
			}
			if err := canon.Check(l.Entry); err != nil {
				return nil, fmt.Errorf("trail of %s: entry %d: %w", s.Site, i, err)
			}
			var e Entry
			d := json.NewDecoder(bytes.NewReader(l.Entry))
			d.DisallowUnknownFields()
			if err := d.Decode(&e); err != nil {
				return nil, fmt.Errorf("trail of %s: entry %d: %w", s.Site, i, err)
			}
			if e.Prev != prev || e.Seq != uint64(i) || e.Site != s.Site || e.Study != study {
				return nil, fmt.Errorf("trail of %s: entry %d does not follow the one before it", s.Site, i)
			}
			out = append(out, e)
		}
		prev = l.Digest
	}
	if prev != s.Head {
		return nil, errors.New("trail of " + string(s.Site) + ": the signed head is not the last entry")
	}
	if err := hybrid.Verify(key, consilium.DomainTrail, s.Head[:], &s.Signature); err != nil {
		return nil, fmt.Errorf("trail of %s: %w", s.Site, err)
	}
	return out, nil
}
