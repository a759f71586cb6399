package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"consilium/internal/pinned"
	"consilium/internal/wire"
	"consilium/policy"
)

// TestBadInput gives the commands what goes wrong in practice. Each ends in
// one error of one line that names the place and the next step.
func TestBadInput(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped: -short")
	}
	k := provisionAll(t)
	start(t, "witness runs", "ledger", "witness", "--config", k.config("board-1"))
	team := k.kit(policy.DefaultTeam)
	study := func(t *testing.T, old, new string) string {
		path := filepath.Join(t.TempDir(), "study.yaml")
		write(t, path, testStudy)
		edit(t, path, old, new)
		return path
	}
	table := func(t *testing.T, old, new string) []string {
		edit(t, filepath.Join(k.kit(site(0)), "cohort.csv"), old, new)
		t.Cleanup(func() { write(t, filepath.Join(k.kit(site(0)), "cohort.csv"), k.tables[site(0)]) })
		return []string{"ledger", "anchor", "--config", k.config(site(0))}
	}
	config := func(t *testing.T, id, old, new string, command ...string) []string {
		b, err := os.ReadFile(k.config(id))
		if err != nil {
			t.Fatal(err)
		}
		edit(t, k.config(id), old, new)
		t.Cleanup(func() { write(t, k.config(id), string(b)) })
		return append(command, "--config", k.config(id))
	}
	// keep puts a file back after the test.
	keep := func(t *testing.T, path string) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			write(t, path, string(b))
			os.Chmod(path, info.Mode())
		})
	}
	certificate := func(t *testing.T, id string, validity time.Duration) {
		cert, err := wire.NewCertificate(id, validity)
		if err != nil {
			t.Fatal(err)
		}
		certPEM, keyPEM, err := wire.EncodeCertificate(cert)
		if err != nil {
			t.Fatal(err)
		}
		for name, b := range map[string][]byte{tlsCertFile: certPEM, tlsKeyFile: keyPEM} {
			path := filepath.Join(k.kit(id), kitKeys, name)
			keep(t, path)
			write(t, path, string(b))
		}
	}
	cards := func(t *testing.T) string {
		dir := t.TempDir()
		copyTree(t, filepath.Join(k.dir, "cards"), filepath.Join(dir, "cards"))
		return filepath.Join(dir, "cards")
	}
	firstRow := strings.SplitN(k.tables[site(0)], "\n", 3)[1]
	cells := strings.Split(firstRow, ",")
	for name, c := range map[string]struct {
		args func(t *testing.T) []string
		code int
		want []string
	}{
		"study file: unknown key": {func(t *testing.T) []string {
			return []string{"study", "submit", "--study", study(t, "min_cohort: 11", "min_cohrt: 11"), "--kit", team}
		}, exitFailed, []string{"line 26", "min_cohrt", "did you mean min_cohort"}},
		"study file: unknown column": {func(t *testing.T) []string {
			return []string{"study", "submit", "--study", study(t, "treat + age\"", "treat + agee\""), "--kit", team}
		}, exitFailed, []string{"line 25", "agee", "did you mean age"}},
		"study file: not YAML": {func(t *testing.T) []string {
			return []string{"study", "check", study(t, "  seed: 7", "  seed: [7")}
		}, exitFailed, []string{"line ", "not YAML", "check the indentation"}},
		"table: wrong type": {func(t *testing.T) []string {
			return table(t, firstRow, strings.Join([]string{cells[0], cells[1], "old", cells[3]}, ","))
		}, exitFailed, []string{"cohort.csv:2", "age", "old", "number"}},
		"table: out of bounds": {func(t *testing.T) []string {
			return table(t, firstRow, strings.Join([]string{cells[0], cells[1], "200", cells[3]}, ","))
		}, exitFailed, []string{"cohort.csv:2", "age", "200", "120"}},
		"table: unknown level": {func(t *testing.T) []string {
			return table(t, firstRow, strings.Join([]string{cells[0], "surgery", cells[2], cells[3]}, ","))
		}, exitFailed, []string{"cohort.csv:2", "treat", "surgery", "placebo"}},
		"table: missing column": {func(t *testing.T) []string {
			return config(t, site(0), "bind: {treat: arm}", "bind: {treat: armm}", "ledger", "anchor")
		}, exitFailed, []string{"armm", "arm"}},
		"table: no file": {func(t *testing.T) []string {
			return config(t, site(0), "path: cohort.csv", "path: other.csv", "ledger", "anchor")
		}, exitFailed, []string{"other.csv", "configuration"}},
		"config: unknown key": {func(t *testing.T) []string {
			return config(t, site(0), "witness:", "witnes:", "worker")
		}, exitFailed, []string{"line 13", "witnes", "did you mean witness"}},
		"config: unknown key of a dataset": {func(t *testing.T) []string {
			return config(t, site(0), "  patient: id", "  pacient: id", "worker")
		}, exitFailed, []string{"line 21", "pacient", "did you mean patient"}},
		"config: half a privacy budget": {func(t *testing.T) []string {
			return config(t, site(0), "privacy: {epsilon: 10, delta: 1e-6}", "privacy: {epsilon: 10}", "worker")
		}, exitFailed, []string{"privacy", "delta between 0 and 1"}},
		"config: a privacy budget below nothing": {func(t *testing.T) []string {
			return config(t, site(0), "privacy: {epsilon: 10, delta: 1e-6}", "privacy: {epsilon: -1, delta: 1e-6}", "worker")
		}, exitFailed, []string{"privacy", "epsilon of at least 0"}},
		"config: unknown column type": {func(t *testing.T) []string {
			return config(t, site(0), "response: flag", "response: flagg", "worker")
		}, exitFailed, []string{"line 27", "flagg", "did you mean flag"}},
		"config: wrong kind": {func(t *testing.T) []string {
			return []string{"coordinator", "--config", k.config("board-1")}
		}, exitFailed, []string{"line 3", "kind \"Witness\"", "begin with"}},
		"config: wrong value": {func(t *testing.T) []string {
			return config(t, "c1", "heartbeat: 500ms", "heartbeat: soon", "coordinator")
		}, exitFailed, []string{"line ", "soon", "correct the value"}},
		"facts: missing": {func(t *testing.T) []string {
			keep(t, filepath.Join(k.kit(site(0)), "facts.json"))
			os.Remove(filepath.Join(k.kit(site(0)), "facts.json"))
			return []string{"worker", "--config", k.config(site(0))}
		}, exitFailed, []string{"facts.json", "facts.example.json"}},
		"worker: not anchored": {func(t *testing.T) []string {
			return []string{"worker", "--config", k.config(site(4))}
		}, exitFailed, []string{"cohort", "consilium ledger anchor"}},
		"certificate: expired": {func(t *testing.T) []string {
			certificate(t, policy.DefaultTeam, -time.Minute)
			return []string{"study", "list", "--kit", team}
		}, exitFailed, []string{"certificate", "valid from", "provision renew"}},
		"certificate: forged": {func(t *testing.T) []string {
			certificate(t, policy.DefaultTeam, time.Hour)
			return []string{"study", "list", "--kit", team}
		}, exitFailed, []string{"does not accept the certificate", "install the next roster"}},
		"certificate: another member's": {func(t *testing.T) []string {
			for _, name := range []string{tlsCertFile, tlsKeyFile} {
				path := filepath.Join(team, kitKeys, name)
				keep(t, path)
				b, err := os.ReadFile(filepath.Join(k.kit("board-2"), kitKeys, name))
				if err != nil {
					t.Fatal(err)
				}
				write(t, path, string(b))
			}
			return []string{"study", "list", "--kit", team}
		}, exitFailed, []string{"pinned for board/board-2", "use the keys of this kit"}},
		"key: readable by others": {func(t *testing.T) []string {
			path := filepath.Join(team, kitKeys, identityFile)
			keep(t, path)
			if err := os.Chmod(path, 0o644); err != nil {
				t.Fatal(err)
			}
			return []string{"study", "list", "--kit", team}
		}, exitFailed, []string{identityFile, "chmod 600"}},
		"roster: duplicate site": {func(t *testing.T) []string {
			dir := cards(t)
			must(t, "provision", "site", "--dir", filepath.Join(t.TempDir(), "kit"), "--federation", testName, "--id", "site-6", "--country", "US", "--regimes", "HIPAA,COMMON_RULE")
			b, err := os.ReadFile(filepath.Join(dir, "site-1.json"))
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "site-9.json"), string(b))
			return []string{"provision", "roster", "--cards", dir, "--name", testName, "--threshold", "2", "--out", filepath.Join(t.TempDir(), "r.json")}
		}, exitFailed, []string{"site/site-1 stands twice", "site-1.json", "site-9.json", "fingerprint"}},
		"roster: the same key under two ids": {func(t *testing.T) []string {
			dir := cards(t)
			b, err := os.ReadFile(filepath.Join(dir, "site-1.json"))
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "site-9.json"), strings.Replace(string(b), `"id": "site-1"`, `"id": "site-9"`, 1))
			return []string{"provision", "roster", "--cards", dir, "--name", testName, "--threshold", "2", "--out", filepath.Join(t.TempDir(), "r.json")}
		}, exitFailed, []string{"same key"}},
		"roster: a card that is none": {func(t *testing.T) []string {
			dir := cards(t)
			write(t, filepath.Join(dir, "x.json"), `{"kind": "Card"`)
			return []string{"provision", "roster", "--cards", dir, "--name", testName, "--threshold", "2", "--out", filepath.Join(t.TempDir(), "r.json")}
		}, exitFailed, []string{"x.json", "card.json of the kit"}},
		"roster: most coordinators replaced at once": {func(t *testing.T) []string {
			dir := cards(t)
			for _, id := range []string{"c1", "c2"} {
				if err := os.Remove(filepath.Join(dir, id+".json")); err != nil {
					t.Fatal(err)
				}
			}
			next := []string{"provision", "roster", "--cards", dir, "--name", testName, "--threshold", "2", "--previous", filepath.Join(k.dir, "roster.json"), "--out", filepath.Join(t.TempDir(), "r.json")}
			must(t, append(slices.Clone(next), "--fresh-cluster")...)
			return next
		}, exitFailed, []string{"keeps 1 of the 3 coordinators", "in several rosters"}},
		"roster: changed after signing": {func(t *testing.T) []string {
			path := filepath.Join(team, kitRoster)
			keep(t, path)
			signed, _, err := pinned.ParseRoster(path)
			if err != nil {
				t.Fatal(err)
			}
			signed.Payload = []byte(strings.Replace(string(signed.Payload), `"threshold":2`, `"threshold":1`, 1))
			if err := writeSigned(path, signed); err != nil {
				t.Fatal(err)
			}
			return []string{"study", "list", "--kit", team}
		}, exitFailed, []string{"board pinned in this kit has not signed it", "ask the board"}},
		"roster: another board": {func(t *testing.T) []string {
			return []string{"provision", "install", "--roster", filepath.Join(team, kitRoster), "--dir", team, "--board", "0000 1111"}
		}, exitFailed, []string{"fingerprint", "do not install it"}},
		"kit: made twice": {func(t *testing.T) []string {
			return []string{"provision", "team", "--dir", team, "--federation", testName, "--id", "team", "--country", "US"}
		}, exitFailed, []string{"holds a kit already", "another directory"}},
		"policy: not installed": {func(t *testing.T) []string {
			return []string{"policy", "check", filepath.Join(k.dir, "nowhere")}
		}, exitFailed, []string{"nowhere"}},
		"archive: none": {func(t *testing.T) []string {
			return []string{"study", "audit", t.TempDir()}
		}, exitFailed, []string{"manifest.json"}},
	} {
		t.Run(name, func(t *testing.T) {
			args := append(c.args(t), "--json")
			cmd := exec.Command(program(t), args...)
			var stdout, stderr strings.Builder
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			err := cmd.Run()
			code := 0
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				code = exit.ExitCode()
			} else if err != nil {
				t.Fatal(err)
			}
			wantFailure(t, code, stdout.String())
			text := strings.TrimSpace(stderr.String())
			if code != c.code || strings.Count(text, "\n") != 0 || !strings.HasPrefix(text, "consilium ") {
				t.Errorf("%s: exit code %d, want %d, and one line:\n%s", strings.Join(args, " "), code, c.code, text)
			}
			for _, w := range c.want {
				if !strings.Contains(text, w) {
					t.Errorf("the error does not say %q: %s", w, text)
				}
			}
		})
	}
	t.Run("full disk", func(t *testing.T) { fullDisk(t, k) })
}

// fullDisk anchors on a file system without room, makes room and finds that
// everything acknowledged is there and the work goes on.
func fullDisk(t *testing.T, k *kits) {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("skipped: needs root on Linux to mount a small file system")
	}
	data := filepath.Join(k.kit(site(1)), "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	mount := func(size int) error {
		args := []string{"-t", "tmpfs", "-o", fmt.Sprintf("size=%dk", size), "tmpfs", data}
		if size > 300 {
			args = []string{"-o", fmt.Sprintf("remount,size=%dk", size), data}
		}
		out, err := exec.Command("mount", args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err := mount(300); err != nil {
		t.Skipf("skipped: needs to mount a small file system: %v", err)
	}
	t.Cleanup(func() { exec.Command("umount", "-l", data).Run() })
	anchor := func() (string, error) {
		out, err := exec.Command(program(t), "ledger", "anchor", "--config", k.config(site(1))).CombinedOutput()
		return string(out), err
	}
	// Something else fills the disk, wholly and but for a little.
	filler := filepath.Join(data, "filler")
	for _, left := range []int{0, 20} {
		write(t, filler, strings.Repeat("x", (300-left)<<10))
		text, err := anchor()
		if err == nil || !strings.Contains(text, "no space left") || !strings.Contains(text, "free space and restart") || strings.Count(strings.TrimSpace(text), "\n") != 0 {
			t.Fatalf("%d KiB left: %v\n%s", left, err, text)
		}
	}
	if err := mount(65536); err != nil {
		t.Fatal(err)
	}
	if text, err := anchor(); err != nil {
		t.Fatalf("after making room: %v\n%s", err, text)
	}
	if s := must(t, "ledger", "verify", "--config", k.config(site(1))); !strings.Contains(s, "entries verify") {
		t.Error(s)
	}
}
