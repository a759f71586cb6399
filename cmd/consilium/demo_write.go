package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"consilium"
	"consilium/internal/archive"
	"consilium/internal/canon"
	"consilium/internal/export"
	"consilium/internal/report"
)

// write makes result.json, report.html and audit/ from the three studies, and
// checks that the archive verifies and that it stops verifying when one byte
// changes.
func (d *demo) write(ctx context.Context) error {
	if err := os.MkdirAll(d.out, 0o755); err != nil {
		return err
	}
	audit := filepath.Join(d.out, "audit")
	if err := os.RemoveAll(audit); err != nil {
		return err
	}
	var analyses []any
	var runs []runInfo
	var sites any
	var assumptions []any
	files := []string{}
	facts := []report.Fact{}
	for _, fin := range d.results {
		var doc map[string]any
		if err := json.Unmarshal(fin.outcome.Envelope.Result, &doc); err != nil {
			return err
		}
		name := fmt.Sprint(doc["study"])
		dir := filepath.Join(audit, name)
		if err := archive.Write(dir, fin.archive, string(fin.team.ID), fin.team.Signer); err != nil {
			return err
		}
		s, err := archive.Verify(dir, archive.Options{})
		if err != nil {
			return fmt.Errorf("the archive just written does not verify: %w", err)
		}
		fin.run.Audit = auditInfo{Verified: true, Events: s.Events, Checkpoint: s.Root.String(), Size: s.Size}
		runs = append(runs, fin.run)
		facts = append(facts, report.Fact{Name: name, Value: fmt.Sprintf("%d events with proofs, %d hybrid signatures, %d rounds certified by at least %d of %d hospitals, release allowed by %d, %d recorded uses of rows",
			s.Events, s.Signatures, len(s.Rounds), s.Threshold, len(s.Enrolled), len(s.Released), s.Uses)})
		sites = doc["sites"]
		if list, ok := doc["analyses"].([]any); ok {
			analyses = append(analyses, list...)
		} else {
			analyses = append(analyses, doc)
		}
		if list, ok := doc["assumptions"].([]any); ok {
			assumptions = append(assumptions, list...)
		}
		for _, f := range fin.outcome.Envelope.Files {
			if err := os.WriteFile(filepath.Join(d.out, f.Name), f.Content, 0o644); err != nil {
				return err
			}
			files = append(files, f.Name)
		}
	}
	if assumptions == nil {
		assumptions = []any{}
	}
	all, err := canon.Marshal(map[string]any{"analyses": analyses})
	if err != nil {
		return err
	}
	tables, err := export.Files(all)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		if err := os.WriteFile(filepath.Join(d.out, name), tables[name], 0o644); err != nil {
			return err
		}
		files = append(files, name)
	}
	total := runInfo{Software: software()}
	total.Study, total.Charter = d.results[0].run.Study, d.results[0].run.Charter
	for _, r := range runs {
		total.Rounds += r.Rounds
		total.BytesUp += r.BytesUp
		total.BytesDown += r.BytesDown
		total.Seconds += r.Seconds
		total.Audit.Events += r.Audit.Events
		total.Audit.Checkpoint, total.Audit.Size, total.Audit.Verified = r.Audit.Checkpoint, r.Audit.Size, true
	}
	doc, err := canon.Marshal(map[string]any{
		"apiVersion": consilium.APIVersion, "kind": "Result",
		"result": map[string]any{
			"study": "cgd-demo", "question": "Does gamma interferon reduce serious infections in chronic granulomatous disease?",
			"sites": sites, "analyses": analyses, "assumptions": assumptions,
		},
		"run": total,
	})
	if err != nil {
		return err
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, doc, "", " "); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(d.out, "result.json"), pretty.Bytes(), 0o644); err != nil {
		return err
	}
	var page bytes.Buffer
	err = report.Write(&page, doc, report.Extras{Title: "Thirteen hospitals, one rare disease", TimeUnit: "days", Problems: d.problems, Audit: facts, Files: files})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(d.out, "report.html"), page.Bytes(), 0o644); err != nil {
		return err
	}
	d.doc = doc
	return d.tamper(audit)
}

// tamper changes one byte of a copy of the archive at a time.
func (d *demo) tamper(audit string) error {
	name := fmt.Sprint(filepath.Base(audit))
	copyDir := filepath.Join(d.dir, name+"-tampered")
	var study string
	list, err := os.ReadDir(audit)
	if err != nil || len(list) == 0 {
		return errors.Join(err, errors.New("no archive"))
	}
	study = list[0].Name()
	if err := os.CopyFS(copyDir, os.DirFS(filepath.Join(audit, study))); err != nil {
		return err
	}
	entries, err := os.ReadDir(copyDir)
	if err != nil {
		return err
	}
	caught, named := 0, 0
	for _, f := range entries {
		path := filepath.Join(copyDir, f.Name())
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		at := len(b) / 2
		b[at] ^= 1
		if err := os.WriteFile(path, b, 0o644); err != nil {
			return err
		}
		_, err = archive.Verify(copyDir, archive.Options{})
		var m *archive.Misfit
		if err != nil {
			caught++
		}
		if errors.As(err, &m) && strings.HasSuffix(path, m.File) {
			named++
		}
		b[at] ^= 1
		if err := os.WriteFile(path, b, 0o644); err != nil {
			return err
		}
	}
	_, err = archive.Verify(copyDir, archive.Options{})
	d.expect(err == nil && caught == len(entries) && named == len(entries), "the archive verifies offline, and stops verifying, naming the file, when one byte of any of its %d files changes", len(entries))
	return nil
}
