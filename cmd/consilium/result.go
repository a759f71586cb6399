package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"consilium"
	"consilium/internal/archive"
	"consilium/internal/canon"
	"consilium/internal/client"
	"consilium/internal/export"
	"consilium/internal/federation"
	"consilium/internal/report"
)

// finished is a study that ended, with all that is written about it.
type finished struct {
	outcome *client.Outcome
	archive *archive.Contents
	team    *client.Team
	run     runInfo
	extras  report.Extras
}

// runInfo is the half of result.json that differs from run to run.
type runInfo struct {
	Study     consilium.StudyID `json:"study"`
	Charter   string            `json:"charter"`
	Software  string            `json:"software"`
	Rounds    int               `json:"rounds"`
	BytesUp   uint64            `json:"bytes_up"`   // ciphertexts and box bundles that hospitals uploaded
	BytesDown uint64            `json:"bytes_down"` // aggregates that each hospital fetched
	Seconds   float64           `json:"seconds"`
	Audit     auditInfo         `json:"audit"`
}

type auditInfo struct {
	Checkpoint string `json:"checkpoint"` // root of the coordinators' audit log, hexadecimal
	Size       uint64 `json:"size"`
	Events     int    `json:"events"`
	Verified   bool   `json:"verified"`
}

// software names this build.
func software() string {
	v := "consilium"
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" && info.Main.Version != "(devel)" {
			v += " " + info.Main.Version
		}
		v += " " + info.GoVersion
	}
	return v
}

// finish gathers what is written about an ended study. A study without a
// result is an error with the reason.
func finish(ctx context.Context, f *federation.Federation, out *client.Outcome, took time.Duration) (*finished, error) {
	if err := outcomeError(out); err != nil {
		return nil, err
	}
	c, err := f.Collect(ctx, out)
	if err != nil {
		return nil, err
	}
	return newFinished(f.Team, out, c, took), nil
}

func newFinished(team *client.Team, out *client.Outcome, c *archive.Contents, took time.Duration) *finished {
	fin := &finished{outcome: out, archive: c, team: team}
	fin.run = runInfo{Study: out.Study, Software: software(), Seconds: took.Seconds()}
	members := 0
	for _, ev := range out.Events {
		switch ev.Kind {
		case consilium.EventChartered:
			fin.run.Charter = consilium.CharterDigest(ev.Body).String()
			if c, err := consilium.ParseCharter(ev.Body); err == nil {
				members = len(c.Members)
			}
		case consilium.EventClosed:
			fin.run.Rounds++
		case consilium.EventSummed:
			if s, err := consilium.ParseSummed(ev.Body); err == nil {
				fin.run.BytesDown += s.Size * uint64(members)
			}
		case consilium.EventMessage:
			m, err := consilium.ParseMessage(ev.Body)
			if err != nil || m.Kind != consilium.KindHeader {
				continue
			}
			if h, err := consilium.ParseHeader(m.Body); err == nil {
				fin.run.BytesUp += h.Size
			}
		}
	}
	return fin
}

// outcomeError says why a study has no result.
func outcomeError(out *client.Outcome) error {
	switch out.Phase {
	case consilium.PhaseDone:
		return nil
	case consilium.PhaseRefused:
		return consilium.ErrStudyRefused.Withf("%s", refusalText(out.Reason))
	case consilium.PhaseCancelled:
		return consilium.ErrStudyAborted.Withf("cancelled: %s", out.Reason)
	}
	if strings.HasPrefix(out.Reason, "release refused by") { // hospitals' decisions, each with its rule
		return consilium.ErrStudyRefused.Withf("%s", out.Reason)
	}
	return consilium.ErrStudyAborted.Withf("%s%s", out.Reason, declines(out.Events))
}

// refusalText makes a decision record readable.
func refusalText(record string) string {
	var d struct {
		Reasons []struct{ Code, Message, Article, Kind string }
	}
	if json.Unmarshal([]byte(record), &d) != nil || len(d.Reasons) == 0 {
		return record
	}
	var b bytes.Buffer
	for i, r := range d.Reasons {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s: %s (%s", r.Code, r.Message, r.Kind)
		if r.Article != "" {
			b.WriteString(", " + r.Article)
		}
		b.WriteString(")")
	}
	return b.String()
}

// declines lists who did not take part, and why.
func declines(events []*consilium.Event) string {
	var b bytes.Buffer
	for _, ev := range events {
		if ev.Kind != consilium.EventMessage {
			continue
		}
		m, err := consilium.ParseMessage(ev.Body)
		if err != nil {
			continue
		}
		switch m.Kind {
		case consilium.KindDecline:
			if d, err := consilium.ParseDecline(m.Body); err == nil {
				fmt.Fprintf(&b, "\n  %s declined: %s %s", m.By, d.Code, d.Reason)
			}
		case consilium.KindWithdraw:
			if d, err := consilium.ParseWithdraw(m.Body); err == nil {
				fmt.Fprintf(&b, "\n  %s left: %s", m.By, d.Reason)
			}
		}
	}
	return b.String()
}

// document is result.json.
func (f *finished) document() ([]byte, error) {
	return canon.Marshal(map[string]any{
		"apiVersion": consilium.APIVersion, "kind": "Result", "result": json.RawMessage(f.outcome.Envelope.Result), "run": f.run,
	})
}

// problem is the error that an analysis ended with, if it did.
func (f *finished) problem() error { return resultProblem(f.outcome.Envelope.Result) }

func resultProblem(result []byte) error {
	type failure struct {
		Name  string
		Error *struct{ Code, Message, Next string }
	}
	var doc struct {
		failure
		Analyses []failure
	}
	if err := json.Unmarshal(result, &doc); err != nil {
		return err
	}
	for _, a := range append([]failure{doc.failure}, doc.Analyses...) {
		if a.Error != nil {
			return &consilium.Error{Code: consilium.Code(a.Error.Code), Msg: a.Name + ": " + a.Error.Message, Next: a.Error.Next}
		}
	}
	return nil
}

// write makes result.json, report.html, the files of the result and audit/ in
// dir, and verifies the archive that it wrote.
func (f *finished) write(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	audit := filepath.Join(dir, "audit")
	if err := os.RemoveAll(audit); err != nil {
		return err
	}
	if err := archive.Write(audit, f.archive, string(f.team.ID), f.team.Signer); err != nil {
		return err
	}
	summary, err := archive.Verify(audit, archive.Options{})
	if err != nil {
		return fmt.Errorf("the archive just written does not verify: %w", err)
	}
	f.run.Audit = auditInfo{Verified: true, Events: summary.Events, Checkpoint: summary.Root.String(), Size: summary.Size}
	doc, err := f.document()
	if err != nil {
		return err
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, doc, "", " "); err != nil {
		return err
	}
	pretty.WriteByte('\n')
	if err := os.WriteFile(filepath.Join(dir, "result.json"), pretty.Bytes(), 0o644); err != nil {
		return err
	}
	x := f.extras
	for _, file := range f.outcome.Envelope.Files {
		if err := os.WriteFile(filepath.Join(dir, file.Name), file.Content, 0o644); err != nil {
			return err
		}
		x.Files = append(x.Files, file.Name)
	}
	tables, err := export.Files(f.outcome.Envelope.Result)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		if slices.Contains(x.Files, name) {
			continue // the analysis brought a file of this name itself
		}
		if err := os.WriteFile(filepath.Join(dir, name), tables[name], 0o644); err != nil {
			return err
		}
		x.Files = append(x.Files, name)
	}
	x.Audit = append(x.Audit,
		report.Fact{Name: "events in the audit log, each with its proof", Value: fmt.Sprint(summary.Events)},
		report.Fact{Name: "signatures checked, each Ed25519 and ML-DSA-65", Value: fmt.Sprint(summary.Signatures)},
		report.Fact{Name: "rounds opened, each certified by at least", Value: fmt.Sprintf("%d of %d hospitals", summary.Threshold, len(summary.Enrolled))},
		report.Fact{Name: "release allowed by", Value: fmt.Sprintf("%d hospitals", len(summary.Released))},
		report.Fact{Name: "uses of records that hospitals recorded", Value: fmt.Sprint(summary.Uses)},
	)
	for _, fd := range summary.Findings {
		x.Audit = append(x.Audit, report.Fact{Name: "ledger finding at " + string(fd.Site), Value: fd.Kind + " record " + fd.Name.Short()})
	}
	var page bytes.Buffer
	if err := report.Write(&page, doc, x); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "report.html"), page.Bytes(), 0o644)
}

// show prints a result for people.
func (f *finished) show(w io.Writer) error { return showResult(w, f.outcome.Envelope.Result) }
