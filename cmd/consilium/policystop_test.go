package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"consilium"
	"consilium/internal/pinned"
	"consilium/policy"
)

// TestPolicyStop: one member's command writes a file that a hospital with the
// pinned board takes, and that stops what it names and nothing else.
func TestPolicyStop(t *testing.T) {
	k := provisionAll(t)
	board, err := pinned.ReadBoard(filepath.Join(k.kit(site(0)), kitBoard))
	if err != nil {
		t.Fatal(err)
	}
	id := consilium.NewStudyID(consilium.DomainSubmission.Digest([]byte("one")))
	other := consilium.NewStudyID(consilium.DomainSubmission.Digest([]byte("two")))
	digest, err := consilium.ParseDigest(k.policy)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix() + 1
	for _, c := range []struct {
		name       string
		args       []string
		one, two   bool // whether each study stops under k's policy
		underOther bool // and the second under another policy
	}{
		{"a study", []string{"--study", string(id)}, true, false, false},
		{"a policy", []string{"--policy", k.policy}, true, true, false},
		{"everything", []string{"--all"}, true, true, true},
	} {
		dir := filepath.Join(t.TempDir(), "stops")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(dir, "stop.json")
		args := append([]string{"policy", "stop", "--board", k.kit("board-2"), "--reason", "a doubt about the assessment", "--out", out}, c.args...)
		said := must(t, args...)
		if !strings.Contains(said, "board-2 signed a stop in "+out) {
			t.Errorf("%s: it says %s", c.name, said)
		}
		stops, err := policy.ReadStops(dir, board.Keys)
		if err != nil || len(stops) != 1 {
			t.Fatalf("%s: %d stops, %v", c.name, len(stops), err)
		}
		for _, q := range []struct {
			study  consilium.StudyID
			policy consilium.Digest
			want   bool
		}{{id, digest, c.one}, {other, digest, c.two}, {other, consilium.Digest{1}, c.underOther}} {
			d := stops.Denial(policy.PointRows, q.study, q.policy, now)
			if (d != nil) != q.want || d != nil && (d.Code() != policy.CodeStopped || !strings.Contains(d.Reasons[0].Message, "a doubt")) {
				t.Errorf("%s: study %s under %s: %v", c.name, q.study, q.policy.Short(), d)
			}
		}
		// A stop that stands is not written over.
		if _, stderr, code := try(t.Context(), args...); code != exitFailed {
			t.Errorf("%s: written twice: %d %s", c.name, code, stderr)
		}
		// A reason that was changed afterwards stops everything until it is looked at.
		var doc consilium.Signed
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b, &doc); err != nil {
			t.Fatal(err)
		}
		doc.Payload = []byte(strings.Replace(string(doc.Payload), "a doubt", "no doubt", 1))
		if b, err = json.Marshal(doc); err != nil {
			t.Fatal(err)
		}
		write(t, out, string(b))
		if _, err := policy.ReadStops(dir, board.Keys); err == nil || !strings.Contains(err.Error(), "nothing is read until") {
			t.Errorf("%s: changed and believed: %v", c.name, err)
		}
	}
	// Two stops in one directory do not overwrite each other, and hold whatever the
	// hospital's clock says, unless a later day was asked for.
	dir := t.TempDir()
	t.Chdir(dir)
	must(t, "policy", "stop", "--board", k.kit("board-2"), "--reason", "one", "--study", string(id))
	must(t, "policy", "stop", "--board", k.kit("board-2"), "--reason", "two", "--study", string(other), "--from", "2100-01-01")
	stops, err := policy.ReadStops(dir, board.Keys)
	if err != nil || len(stops) != 2 {
		t.Fatalf("%d stops, %v", len(stops), err)
	}
	if stops.Denial(policy.PointRows, id, digest, 0) == nil {
		t.Error("a stop waits for the board's clock")
	}
	if stops.Denial(policy.PointRows, other, digest, now) != nil {
		t.Error("a stop for 2100 holds today")
	}
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"nothing named":     {[]string{"--board", k.kit("board-2"), "--reason", "x"}, exitUsage, "one of --study ID"},
		"another name":      {[]string{"--board", k.kit("board-2"), "--reason", "x", "--all"}, exitUsage, "end in .json"},
		"no reason":         {[]string{"--board", k.kit("board-2"), "--all"}, exitUsage, "--reason"},
		"no member":         {[]string{"--board", k.kit(site(0)), "--reason", "x", "--all"}, exitUsage, "not of a board member"},
		"no study":          {[]string{"--board", k.kit("board-2"), "--reason", "x", "--study", "one"}, exitFailed, "stud"},
		"no policy":         {[]string{"--board", k.kit("board-2"), "--reason", "x", "--policy", "one"}, exitFailed, "digest"},
		"a reason too long": {[]string{"--board", k.kit("board-2"), "--reason", strings.Repeat("x", 513), "--all"}, exitFailed, "512 bytes"},
	} {
		out := filepath.Join(t.TempDir(), "stop.json")
		if name == "another name" {
			out = filepath.Join(t.TempDir(), "halt")
		}
		_, stderr, code := try(t.Context(), append([]string{"policy", "stop", "--out", out}, c.args...)...)
		if code != c.code || !strings.Contains(stderr, c.says) {
			t.Errorf("%s: exit code %d: %s", name, code, stderr)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%s: a file was written", name)
		}
	}
}
