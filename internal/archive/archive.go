// Package archive promises that a finished study can be checked later by
// anybody, offline, from one directory: who asked, who approved, who took part,
// which contributor sets were certified and opened, who agreed to the result,
// what every hospital recorded about its own use of records, and that none of
// it was changed since. Verify names the first thing that does not fit.
//
// It does not prove that a hospital's rows were true, nor that a hospital
// recorded everything: only that what it recorded is what it signed and anchored
// in its own witnessed ledger.
package archive

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/hybrid"
	"consilium/internal/trail"
)

// Names of the files of an archive.
const (
	manifestFile   = "manifest.json"
	rosterFile     = "roster.json"
	eventsFile     = "events.json"
	checkpointFile = "checkpoint.txt"
	resultFile     = "result.bin"
	studyFile      = "study.json"
)

// Contents is what an archive holds.
type Contents struct {
	Roster     *consilium.Signed
	Study      consilium.StudyID
	Events     []*consilium.Event
	Inclusion  [][]consilium.Digest // of each event in the coordinators' audit log
	Checkpoint []byte               // of that log, covering all events
	Envelope   []byte               // the released result, as signed; nil if the study did not end with one
	Salt       []byte               // of the result's digest
	Sites      []SiteRecord
}

// SiteRecord is what one hospital adds: its trail, and the proof that the
// trail's head stands in its own witnessed ledger.
type SiteRecord struct {
	Trail      *trail.Signed      `json:"trail"`
	Entry      []byte             `json:"entry"` // of the ledger: names the trail's head at the study's end
	Index      uint64             `json:"index"`
	Inclusion  []consilium.Digest `json:"inclusion"`
	Checkpoint []byte             `json:"checkpoint"`
	Anchors    []Anchored         `json:"anchors,omitempty"` // of the ledger, where the hospital has any
}

// Anchored is an anchor of a hospital's ledger, with the proof that the ledger
// at the record's checkpoint continues what was anchored.
type Anchored struct {
	Anchor      json.RawMessage    `json:"anchor"`
	Consistency []consilium.Digest `json:"consistency"`
}

// savedEvent is one event with its proof.
type savedEvent struct {
	Event     []byte             `json:"event"`
	Inclusion []consilium.Digest `json:"inclusion"`
}

// manifest lists every file. The archive's maker signs it.
type manifest struct {
	APIVersion string              `json:"apiVersion"`
	Kind       string              `json:"kind"` // "Archive"
	Study      consilium.StudyID   `json:"study"`
	Files      map[string]string   `json:"files"` // name -> SHA-256, hexadecimal
	By         string              `json:"by"`
	Key        consilium.PublicKey `json:"key"`
}

// Write makes the archive in dir, which must be empty or not exist, signed by
// its maker.
func Write(dir string, c *Contents, by string, signer consilium.Signer) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) > 0 {
		return errors.Join(err, fmt.Errorf("%s is not empty: an archive is written once", dir))
	}
	files := map[string][]byte{checkpointFile: c.Checkpoint}
	if len(c.Events) != len(c.Inclusion) {
		return fmt.Errorf("%d events, %d inclusion proofs", len(c.Events), len(c.Inclusion))
	}
	saved := make([]savedEvent, len(c.Events))
	for i, ev := range c.Events {
		saved[i] = savedEvent{ev.Encode(), c.Inclusion[i]}
	}
	put := func(name string, v any) error {
		b, err := canon.Marshal(v)
		files[name] = b
		return err
	}
	if err := errors.Join(put(eventsFile, saved), put(rosterFile, c.Roster), put(studyFile, c.Study)); err != nil {
		return err
	}
	derived, err := derive(c)
	if err != nil {
		return err
	}
	for name, b := range derived {
		files[name] = b
	}
	if err := put(softwareFile, thisSoftware()); err != nil {
		return err
	}
	if c.Envelope != nil {
		files[resultFile] = append(append([]byte{}, c.Salt...), c.Envelope...)
	}
	for i := range c.Sites {
		if err := put("site-"+string(c.Sites[i].Trail.Site)+".json", &c.Sites[i]); err != nil {
			return err
		}
	}
	if files[crateFile], err = crate(c, by, files); err != nil {
		return err
	}
	m := manifest{APIVersion: consilium.APIVersion, Kind: "Archive", Study: c.Study, Files: map[string]string{}, By: by, Key: signer.Public()}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		sum := sha256.Sum256(files[name])
		m.Files[name] = hex.EncodeToString(sum[:])
		if err := os.WriteFile(filepath.Join(dir, name), files[name], 0o644); err != nil {
			return err
		}
	}
	payload, err := canon.Marshal(&m)
	if err != nil {
		return err
	}
	sig, err := signer.Sign(consilium.DomainArchive, payload)
	if err != nil {
		return err
	}
	doc, err := canon.Marshal(&consilium.Signed{Payload: payload, Signatures: []consilium.Countersign{{By: by, Signature: sig}}})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, manifestFile), doc, 0o644)
}

// Misfit is the first thing in an archive that does not fit.
type Misfit struct {
	File  string // in the archive
	Where string // event, round, site, …
	Err   error
}

func (m *Misfit) Error() string {
	s := m.File
	if m.Where != "" {
		s += ": " + m.Where
	}
	return s + ": " + m.Err.Error()
}

func (m *Misfit) Unwrap() error { return m.Err }

func misfit(file, where string, format string, args ...any) error {
	return &Misfit{file, where, fmt.Errorf(format, args...)}
}

// read loads an archive and holds every file against the signed manifest.
func read(dir string) (*Contents, *manifest, error) {
	doc, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if err != nil {
		return nil, nil, misfit(manifestFile, "", "%w", err)
	}
	var signed consilium.Signed
	if err := decode(doc, &signed); err != nil {
		return nil, nil, misfit(manifestFile, "", "%w", err)
	}
	var m manifest
	if err := decode(signed.Payload, &m); err != nil {
		return nil, nil, misfit(manifestFile, "payload", "%w", err)
	}
	if m.APIVersion != consilium.APIVersion || m.Kind != "Archive" || len(signed.Signatures) != 1 || signed.Signatures[0].By != m.By {
		return nil, nil, misfit(manifestFile, "", "not an archive of this version with one signature")
	}
	if err := hybrid.Verify(m.Key, consilium.DomainArchive, signed.Payload, &signed.Signatures[0].Signature); err != nil {
		return nil, nil, misfit(manifestFile, "signature", "%w", err)
	}
	files := map[string][]byte{}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || d.IsDir() || name == manifestFile {
			return err
		}
		want, ok := m.Files[filepath.ToSlash(name)]
		if !ok {
			return misfit(name, "", "the manifest does not list this file")
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != want {
			return misfit(name, "", "the bytes are not those that the manifest lists")
		}
		files[name] = b
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	names := make([]string, 0, len(m.Files))
	for name := range m.Files {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if files[name] == nil {
			return nil, nil, misfit(name, "", "the file is missing")
		}
	}
	c := &Contents{Checkpoint: files[checkpointFile], Roster: &consilium.Signed{}}
	if err := decode(files[rosterFile], c.Roster); err != nil {
		return nil, nil, misfit(rosterFile, "", "%w", err)
	}
	if err := decode(files[studyFile], &c.Study); err != nil {
		return nil, nil, misfit(studyFile, "", "%w", err)
	}
	if c.Study != m.Study {
		return nil, nil, misfit(studyFile, "", "another study than the manifest's")
	}
	var saved []savedEvent
	if err := decode(files[eventsFile], &saved); err != nil {
		return nil, nil, misfit(eventsFile, "", "%w", err)
	}
	for i, s := range saved {
		ev, err := consilium.ParseEvent(s.Event)
		if err != nil {
			return nil, nil, misfit(eventsFile, fmt.Sprintf("event %d of %d", i+1, len(saved)), "%w", err)
		}
		c.Events = append(c.Events, ev)
		c.Inclusion = append(c.Inclusion, s.Inclusion)
	}
	if b, ok := files[resultFile]; ok {
		if len(b) < 32 {
			return nil, nil, misfit(resultFile, "", "too short")
		}
		c.Salt, c.Envelope = b[:32], b[32:]
	}
	for _, name := range names {
		if ok, _ := filepath.Match("site-*.json", name); !ok {
			continue
		}
		var s SiteRecord
		if err := decode(files[name], &s); err != nil {
			return nil, nil, misfit(name, "", "%w", err)
		}
		if s.Trail == nil || name != "site-"+string(s.Trail.Site)+".json" {
			return nil, nil, misfit(name, "", "the trail is of another hospital")
		}
		c.Sites = append(c.Sites, s)
	}
	// What is derived from the rest is made again.
	derived, err := derive(c)
	if err != nil {
		return nil, nil, misfit(eventsFile, "", "%w", err)
	}
	if _, err := parseSoftware(files[softwareFile]); err != nil {
		return nil, nil, misfit(softwareFile, "", "%w", err)
	}
	if derived[crateFile], err = crate(c, m.By, files); err != nil {
		return nil, nil, misfit(crateFile, "", "%w", err)
	}
	for _, name := range []string{specFile, charterFile, contentsFile, crateFile} {
		if !bytes.Equal(files[name], derived[name]) {
			return nil, nil, misfit(name, "", "it does not say what the signed events say")
		}
	}
	return c, &m, nil
}

func decode(b []byte, v any) error {
	if len(b) == 0 {
		return errors.New("the file is missing")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return d.Decode(v)
}
