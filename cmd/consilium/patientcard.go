package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"consilium"
	"consilium/internal/durable"
	"consilium/internal/hybrid"
	"consilium/provenance"
	"consilium/provenance/sdjwt"
)

// A patient's card is a folder, on a stick or a telephone, that the desk makes
// and the patient takes along. The key is inside it and is never spoken of: who
// has the card can decide, and a lost card is replaced at the desk or with the
// help of guardians.

const (
	cardFile     = "card.json"
	cardConsents = "consents"
	cardNote     = "READ ME.txt"
)

const cardText = `This folder is your consent card for %s.

It lets you decide what your medical records may be used for, and see what they
were used for. Keep it as you keep a house key, and give it to nobody.

  What you have allowed        consilium consent show --card FOLDER
  Taking it back at home       consilium consent withdraw --card FOLDER
  Taking it back in person     say so at the hospital; you need nothing with you
  You have lost this folder    tell the hospital; bring two of your guardians'
                               letters if you have named guardians
`

// patientCard is what the folder's card.json holds.
type patientCard struct {
	APIVersion string               `json:"apiVersion"`
	Kind       string               `json:"kind"` // "PatientCard"
	Site       consilium.SiteID     `json:"site"`
	Patient    provenance.Pseudonym `json:"patient"` // the owner's own, at this hospital; on no other paper
	Secret     []byte               `json:"secret"`

	dir string
	key *hybrid.Key
}

// openCard reads a card; with site, a folder without one becomes a new card.
func openCard(dir string, site consilium.SiteID, p provenance.Pseudonym) (*patientCard, error) {
	path := filepath.Join(dir, cardFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && site != "" {
		key, err := hybrid.Generate()
		if err != nil {
			return nil, err
		}
		return newCard(dir, site, p, key)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &consilium.Error{Code: consilium.ErrInvalid.Code, Msg: "there is no consent card in " + dir, Next: "name the folder that the hospital gave you"}
	}
	if err != nil {
		return nil, err
	}
	c := &patientCard{dir: dir}
	if err := strictJSON(b, c); err != nil || c.APIVersion != consilium.APIVersion || c.Kind != "PatientCard" {
		return nil, &consilium.Error{Code: consilium.ErrInvalid.Code, Msg: path + " is damaged, or no consent card", Next: "ask the hospital for a new one"}
	}
	if site != "" && (c.Site != site || c.Patient != p) {
		return nil, &consilium.Error{Code: consilium.ErrInvalid.Code, Msg: "this card belongs to another patient or another hospital", Next: "use the right card, or an empty folder for a new one"}
	}
	if c.key, err = hybrid.FromSeed(c.Secret); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func newCard(dir string, site consilium.SiteID, p provenance.Pseudonym, key *hybrid.Key) (*patientCard, error) {
	c := &patientCard{APIVersion: consilium.APIVersion, Kind: "PatientCard", Site: site, Patient: p, Secret: key.Seed(), dir: dir, key: key}
	b, err := json.MarshalIndent(c, "", " ")
	if err != nil {
		return nil, err
	}
	if err := writeNew(filepath.Join(dir, cardFile), append(b, '\n'), 0o600); err != nil {
		return nil, err
	}
	return c, durable.WriteFile(filepath.Join(dir, cardNote), fmt.Appendf(nil, cardText, site), 0o644)
}

// keep puts a copy of a consent on the card.
func (c *patientCard) keep(doc *provenance.SignedDoc) error {
	if doc.Credential() == "" {
		return nil
	}
	dir := filepath.Join(c.dir, cardConsents)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, doc.Digest().Short()+".sd-jwt"), doc.Encode(), 0o600)
}

// consents reads the copies on the card.
func (c *patientCard) consents() ([]*provenance.SignedDoc, error) {
	entries, err := os.ReadDir(filepath.Join(c.dir, cardConsents))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []*provenance.SignedDoc
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".sd-jwt") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(c.dir, cardConsents, e.Name()))
		if err != nil {
			return nil, err
		}
		if len(b) > sdjwt.MaxSize {
			return nil, fmt.Errorf("%s: too large for a consent", e.Name())
		}
		d, err := provenance.ParseSignedDoc(b)
		if err != nil || d.Consent == nil {
			return nil, fmt.Errorf("%s: damaged; the hospital has the original: %w", e.Name(), err)
		}
		out = append(out, d)
	}
	sort.Slice(out, func(i, k int) bool { return out[i].Consent.Given > out[k].Consent.Given })
	return out, nil
}
