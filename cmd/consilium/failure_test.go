package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"consilium"
)

// wantFailure holds what a command that failed with --json printed: one
// object with code, message and next step; or the result whose analysis ended
// with a problem, which has the same three.
func wantFailure(t *testing.T, code int, stdout string) {
	t.Helper()
	var doc struct {
		Code, Message, Next string
		Exit                int
		Result              *struct {
			Error    *struct{ Code, Message, Next string }
			Analyses []struct {
				Error *struct{ Code, Message, Next string }
			}
		}
	}
	dec := json.NewDecoder(strings.NewReader(stdout))
	if err := dec.Decode(&doc); err != nil {
		t.Fatalf("stdout is not JSON: %v\n%s", err, stdout)
	}
	if dec.More() {
		t.Fatalf("more than one object:\n%s", stdout)
	}
	if r := doc.Result; r != nil {
		problem := r.Error
		for _, a := range r.Analyses {
			if a.Error != nil {
				problem = a.Error
			}
		}
		if code != exitFailed || problem == nil || problem.Code == "" || problem.Message == "" || problem.Next == "" {
			t.Errorf("exit %d and a result without a problem", code)
		}
		return
	}
	if doc.Code == "" || doc.Message == "" || doc.Next == "" || doc.Exit != code {
		t.Errorf("exit %d, printed %s", code, stdout)
	}
}

// TestEveryCommandFailsInJSON: whatever the command, a failure with --json is
// an object, also where the flags themselves are wrong.
func TestEveryCommandFailsInJSON(t *testing.T) {
	nowhere := filepath.Join(t.TempDir(), "nothing")
	for _, c := range commands() {
		for _, args := range [][]string{{"--no-such-flag", "--json"}, {"--json", "--no-such-flag"}, {"--json", "stray", "stray", "stray"}} {
			code, stdout, _ := consiliumRun(append(strings.Fields(c.name), args...)...)
			if code == exitDone {
				t.Errorf("%s %s: done", c.name, args)
				continue
			}
			wantFailure(t, code, stdout)
		}
	}
	for _, args := range [][]string{
		{"nonsense", "--json"}, {"study", "--json"}, {"study", "check", nowhere, "--json"}, {"study", "new", "--json", "--from", nowhere},
		{"study", "audit", "--json", nowhere}, {"worker", "--config", nowhere, "--json"}, {"study", "list", "--json", "--kit", nowhere},
		{"policy", "check", "--json", nowhere}, {"simulate", "--json", "--study", nowhere, "--data", nowhere, "--site-column", "s", "--out", nowhere},
	} {
		code, stdout, stderr := consiliumRun(args...)
		if code == exitDone {
			t.Errorf("%s: done", args)
			continue
		}
		wantFailure(t, code, stdout)
		if !strings.Contains(stderr, "; ") {
			t.Errorf("%s names no next step: %s", args, stderr)
		}
	}
}

// TestFailureOf: codes, exit codes and next steps of what commands return.
func TestFailureOf(t *testing.T) {
	_, missing := os.Open(filepath.Join(t.TempDir(), "no"))
	for _, c := range []struct {
		err         error
		interrupted bool
		want        failure
	}{
		{usagef("--sites is 2"), false, failure{Code: "usage", Message: "--sites is 2", Next: "`consilium study x -h` lists the flags", Exit: exitUsage}},
		{missing, false, failure{Code: "file", Message: missing.Error(), Next: "correct the path", Exit: exitFailed}},
		{fmt.Errorf("list: %w", consilium.ErrUnavailable.Withf("c1 is away")), false,
			failure{Code: "coordinator.unavailable", Message: "list: no majority of coordinators answers: c1 is away", Next: "retry; nothing acknowledged is lost", Exit: exitIncomplete}},
		{consilium.ErrStudyAborted.Withf("too few sites; none from a"), false,
			failure{Code: "study.aborted", Message: "the study was aborted: too few sites; none from a", Next: "settle what the reason names and submit the study again", Exit: exitFailed}},
		{errors.New("config: no key; write one"), false, failure{Code: "internal", Message: "config: no key", Next: "write one", Exit: exitFailed}},
		{consilium.ErrLedger.With(context.Canceled), true,
			failure{Code: "interrupted", Message: "interrupted", Next: "a submitted study goes on; repeat the command", Exit: exitIncomplete}},
		{consilium.ErrPolicy.Withf("BOARD-1"), false,
			failure{Code: "policy", Message: "policy refuses: BOARD-1", Next: "change the study, or ask the board: the rule and its article are named", Exit: exitRefused}},
	} {
		c.want.Command = "study x"
		if got := describe("study x", c.err, c.interrupted); got != c.want {
			t.Errorf("%v:\n got %+v\nwant %+v", c.err, got, c.want)
		}
	}
}

// TestInterrupted: a command that is interrupted while a federation works ends
// with one line, whatever broke off inside.
func TestInterrupted(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"study.yaml": simulateStudy, "data.csv": simulateTable(nil)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	// The first progress line comes when the hospitals start.
	stderr := &onWrite{do: cancel}
	var stdout bytes.Buffer
	code := run(ctx, []string{"simulate", "--study", filepath.Join(dir, "study.yaml"), "--data", filepath.Join(dir, "data.csv"), "--site-column", "site",
		"--out", filepath.Join(dir, "out")}, strings.NewReader(""), &stdout, stderr)
	lines := strings.Split(strings.TrimSpace(stderr.b.String()), "\n")
	if code != exitIncomplete || stdout.Len() > 0 || len(lines) != 2 || lines[1] != "consilium simulate: interrupted; run it again" {
		t.Errorf("exit %d\n%s\n%s", code, stdout.String(), stderr.b.String())
	}
}

// onWrite does something at the first write.
type onWrite struct {
	b  bytes.Buffer
	do func()
}

func (w *onWrite) Write(b []byte) (int, error) {
	if w.do != nil {
		w.do()
		w.do = nil
	}
	return w.b.Write(b)
}
