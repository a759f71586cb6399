package federation

import (
	"bytes"
	"context"
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"consilium"
	"consilium/internal/hybrid"
	"consilium/internal/table"
	"consilium/provenance"
	"consilium/worker/vault"
)

// desk opens the hospital's consent desk: the store with the hospital's
// signature, which the vault only reads.
func (s *Site) desk() (*provenance.Consents, error) {
	dir := vault.ConsentDir(filepath.Join(s.dir, "vault"))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return provenance.OpenConsents(provenance.ConsentConfig{Dir: dir, KEK: s.kek, Site: s.o.ID, Signer: s.key, Now: s.f.o.Now})
}

// enterConsents lets every patient of every table sign the consent that the
// options give, and enters the documents.
func (s *Site) enterConsents(ctx context.Context) error {
	if s.o.Consent == nil {
		return nil
	}
	var entries []provenance.ConsentEntry
	for _, d := range s.o.Datasets {
		ids, err := patientNumbers(d)
		if err != nil {
			return err
		}
		for _, id := range ids {
			if s.patients[id] != nil {
				continue
			}
			c := s.o.Consent(s.o.ID, id)
			if c == nil {
				continue
			}
			key, err := hybrid.Generate()
			if err != nil {
				return err
			}
			p := &patient{key: key, name: provenance.Pseudonym(table.Pseudonym(s.alias, id))}
			doc, err := provenance.IssueConsent(s.key, key, *c, p.name, nil)
			if err != nil {
				return fmt.Errorf("consent of patient %s: %w", id, err)
			}
			p.consent = doc.Digest()
			s.patients[id] = p
			entries = append(entries, provenance.ConsentEntry{Patient: p.name, Doc: doc})
		}
	}
	if len(entries) == 0 {
		return nil
	}
	desk, err := s.desk()
	if err != nil {
		return err
	}
	_, err = desk.Add(ctx, s.ledger, entries...)
	return err
}

// Withdraw lets a patient, by the hospital's own number, withdraw the consent.
// It holds from the vault's next use of the rows on.
func (s *Site) Withdraw(ctx context.Context, id string) error {
	p := s.patients[id]
	if p == nil {
		return fmt.Errorf("patient %s has given no consent at %s", id, s.o.ID)
	}
	doc, err := provenance.SignWithdrawal(p.key, provenance.Withdrawal{Site: s.o.ID, Consent: p.consent, At: s.f.o.Now().Unix()}, p.name)
	if err != nil {
		return err
	}
	desk, err := s.desk()
	if err != nil {
		return err
	}
	if _, err := desk.Add(ctx, s.ledger, provenance.ConsentEntry{Patient: p.name, Doc: doc}); err != nil {
		return err
	}
	return s.publish(ctx)
}

// publish waits until the ledger's newest entry is cosigned.
func (s *Site) publish(ctx context.Context) error {
	entry, err := provenance.SignRecord(s.key, &provenance.AuditRecord{Type: provenance.RecordAccess, Time: s.f.o.Now().UnixMilli(), Actor: string(s.o.ID), Outcome: "published"})
	if err != nil {
		return err
	}
	i, err := s.ledger.Append(ctx, entry)
	if err != nil {
		return err
	}
	_, err = s.ledger.Await(ctx, i)
	return err
}

// patientNumbers lists the patients of a table, as the hospital numbers them,
// each once, in the order of their first row.
func patientNumbers(d vault.Dataset) ([]string, error) {
	b, err := os.ReadFile(d.Path)
	if err != nil {
		return nil, err
	}
	rows, err := csv.NewReader(bytes.NewReader(b)).ReadAll()
	if err != nil || len(rows) == 0 {
		return nil, consilium.ErrData.Withf("%s: %v", d.Path, err)
	}
	if d.RowPatients {
		return rowPatients(d, b)
	}
	name := d.Patient
	if bound, ok := d.Bind[name]; ok {
		name = bound
	}
	col := slices.Index(rows[0], name)
	if col < 0 {
		return nil, consilium.ErrData.Withf("%s: no column %q", d.Path, name)
	}
	var out []string
	seen := map[string]bool{}
	for _, r := range rows[1:] {
		if !seen[r[col]] {
			seen[r[col]] = true
			out = append(out, r[col])
		}
	}
	return out, nil
}

// rowPatients lists the numbers that the table reader gives to a table whose
// every row is a patient.
func rowPatients(d vault.Dataset, b []byte) ([]string, error) {
	t, err := table.Read(bytes.NewReader(b), table.Options{
		Spec: &consilium.Spec{Data: consilium.DataRef{Dataset: d.Name, Patient: d.Patient}, Columns: d.Columns}, Bind: d.Bind,
		Key: make([]byte, 32), File: d.Path, RowPatients: true,
	})
	if err != nil {
		return nil, err
	}
	return t.IDs, nil
}
