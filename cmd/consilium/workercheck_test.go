package main

import (
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"consilium/policy"
	"consilium/provenance"
)

// found runs one check of the preflight.
func found(run func(*preflight)) map[string]finding {
	p := &preflight{}
	run(p)
	out := map[string]finding{}
	for _, f := range p.found {
		out[f.Check] = f
	}
	return out
}

// TestPreflightPolicies: the rules that the program carries are not a policy of
// the board, and one bundle in force does not hide another whose law ran out.
func TestPreflightPolicies(t *testing.T) {
	h := &hospital{}
	h.config.Policies = t.TempDir()
	check := func() map[string]finding { return found(func(p *preflight) { p.policies(h) }) }
	if f := check()["policies"]; f.OK || !strings.Contains(f.Found, "none of the board's") {
		t.Errorf("an empty directory: %+v", f)
	}
	b, ok := policy.DefaultBundle().File("law/law.json")
	if !ok {
		t.Fatal("the default policy has no law")
	}
	as := func(name, day string) {
		write(t, filepath.Join(h.config.Policies, name, "law", "law.json"), regexp.MustCompile(`"asOf": *"[^"]*"`).ReplaceAllString(string(b), `"asOf": "`+day+`"`))
	}
	as("fresh", "2099-01-01")
	if f := check(); len(f) != 1 || !f["policies"].OK || !strings.HasPrefix(f["policies"].Found, "1 installed, 1 ") {
		t.Errorf("one fresh bundle: %+v", f)
	}
	as("old", "2020-01-01")
	if f := check(); f["policy old"].OK || f["policy old"].Next == "" || !f["policies"].OK || !strings.HasPrefix(f["policies"].Found, "2 installed, 1 ") {
		t.Errorf("one of two has run out: %+v", f)
	}
}

// TestPreflightWitness: an answer over HTTP is not a witness.
func TestPreflightWitness(t *testing.T) {
	key, err := provenance.NewWitnessKey("witness.example")
	if err != nil {
		t.Fatal(err)
	}
	w, err := provenance.OpenWitness(provenance.WitnessConfig{Key: key, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	real := httptest.NewServer(w)
	defer real.Close()
	for name, c := range map[string]struct {
		http.HandlerFunc
		ok bool
	}{
		"the witness":  {w.ServeHTTP, true},
		"another page": {func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "welcome") }, false},
		"a log-in page": {func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, real.URL+r.URL.Path, http.StatusFound)
		}, false},
		"another method": {func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusMethodNotAllowed) }, false},
	} {
		s := httptest.NewServer(c.HandlerFunc)
		if err := (&preflight{}).oneWitness(t.Context(), s.URL+"/"); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		s.Close()
	}
	// A proxy of the environment is not asked: the ledger's own client would reach it.
	t.Setenv("HTTP_PROXY", real.URL)
	if err := (&preflight{}).oneWitness(t.Context(), "http://witness.invalid"); err == nil {
		t.Error("a name that is nobody's is a witness")
	}
}

// TestPrivateFiles: every file with a secret is refused while others may read it,
// the certificate's key too.
func TestPrivateFiles(t *testing.T) {
	kit := filepath.Join(t.TempDir(), "kit")
	must(t, "provision", "site", "--dir", kit, "--federation", testName, "--id", "site-1", "--country", "US", "--regimes", "HIPAA")
	must(t, "provision", "renew", "--dir", kit)
	n := 0
	err := filepath.WalkDir(filepath.Join(kit, kitKeys), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".key" {
			return err
		}
		n++
		if _, err := readPrivate(path); err != nil {
			t.Error(err)
		}
		for _, mode := range []fs.FileMode{0o640, 0o604, 0o660} {
			if err := os.Chmod(path, mode); err != nil {
				return err
			}
			if _, err := readPrivate(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
				t.Errorf("%s with mode %o: %v", d.Name(), mode, err)
			}
		}
		return nil
	})
	if err != nil || n < 6 {
		t.Fatalf("%d keys, %v", n, err)
	}
}

// TestCheckKnowsWhatStopsTheWorker: a configuration with which the worker does not
// start does not pass its check.
func TestCheckKnowsWhatStopsTheWorker(t *testing.T) {
	kit := filepath.Join(t.TempDir(), "kit")
	must(t, "provision", "site", "--dir", kit, "--federation", testName, "--id", "site-1", "--country", "US", "--regimes", "HIPAA")
	path := filepath.Join(kit, kitConfig)
	whole := mustRead(t, path)
	health := "health: 127.0.0.1:9480"
	for _, c := range []struct{ more, says string }{
		{`limits: {hours: {from: "20:00", to: "20:00"}}`, "two different times"},
		{`limits: {hours: {from: "24:00", to: "06:00"}}`, "two different times"},
		{`limits: {hours: {from: "20:00", to: "25:00"}}`, `"25:00"`},
		{`limits: {hours: {from: "20:00"}}`, "hours and minutes"},
		{`limits: {hours: {from: "20:00", to: "06:00", days: []}}`, "at least one"},
		{`limits: {hours: {from: "20:00", to: "06:00", zone: Europe/Atlantis}}`, "Europe/Zurich"},
		{`limits: {memory_mb: 2000000000000}`, "MiB"},
		{`tracing: {ratio: 2}`, "from 0 to 1"},
		{`tracing: {ratio: .nan}`, "from 0 to 1"},
		{`tracing: {otlp: "127.0.0.1:4318"}`, "not an http or https URL"},
		{"health: 9480", "host:port"},
	} {
		text := whole + "\n" + c.more + "\n"
		if strings.HasPrefix(c.more, "health") {
			text = strings.Replace(whole, health, c.more, 1)
		}
		write(t, path, text)
		out, stderr, code := try(t.Context(), "worker", "check", "--config", path)
		if code != exitFailed || !strings.Contains(out, "FAILS  configuration") || !strings.Contains(out, c.says) {
			t.Errorf("%s: the check says %d %s%s", c.more, code, out, stderr)
		}
		if _, stderr, code := try(t.Context(), "worker", "--config", path); code != exitFailed || !strings.Contains(stderr, c.says) {
			t.Errorf("%s: the worker says %d %s", c.more, code, stderr)
		}
	}
	// The file of spans is looked at and not made.
	h := &hospital{path: path}
	dir := t.TempDir()
	for _, c := range []struct {
		file string
		ok   bool
	}{{filepath.Join(dir, "spans.json"), true}, {filepath.Join(dir, "none", "spans.json"), false}, {dir, false}} {
		h.config.Tracing.File = c.file
		if f := found(func(p *preflight) { p.spans(h) })["tracing"]; f.OK != c.ok || !c.ok && f.Next == "" {
			t.Errorf("%s: %+v", c.file, f)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("the check leaves %v, %v", left, err)
	}
}

// TestHoursOfTheManual reads the schedule that operating.md shows.
func TestHoursOfTheManual(t *testing.T) {
	_, rest, ok := strings.Cut(mustRead(t, "../../docs/operating.md"), "\n    limits:\n")
	shown, _, more := strings.Cut(rest, "\n\n")
	if !ok || !more {
		t.Fatal("operating.md shows no limits:")
	}
	kit := filepath.Join(t.TempDir(), "kit")
	must(t, "provision", "site", "--dir", kit, "--federation", testName, "--id", "site-1", "--country", "US", "--regimes", "HIPAA")
	path := filepath.Join(kit, kitConfig)
	write(t, path, mustRead(t, path)+"limits:\n"+shown+"\n")
	var c workerConfig
	if err := readConfig(path, "Worker", &c); err != nil {
		t.Fatal(err)
	}
	l, err := c.Limits.limits(path)
	if err != nil || l.Memory != 4096<<20 {
		t.Fatalf("%+v %v", l, err)
	}
	zone, err := time.LoadLocation("Europe/Zurich")
	if err != nil {
		t.Fatal(err)
	}
	monday := time.Date(2026, 11, 23, 12, 0, 0, 0, zone)
	if got := l.Closed(monday); got != 8*time.Hour {
		t.Errorf("on Monday at noon it is closed for %s", got)
	}
	if got := l.Closed(monday.Add(9 * time.Hour)); got != 0 {
		t.Errorf("on Monday at nine in the evening it is closed for %s", got)
	}
	write(t, path, strings.Replace(mustRead(t, path), "zone:", "zonne:", 1))
	if err := readConfig(path, "Worker", &c); err == nil || !strings.Contains(err.Error(), "did you mean zone") {
		t.Errorf("a misspelt key of hours: %v", err)
	}
}

// TestHoursConfig: equal times are no schedule, and not one from midnight on.
func TestHoursConfig(t *testing.T) {
	day := func(from, to string) *limitsConfig {
		return &limitsConfig{Hours: &hoursConfig{From: from, To: to, Zone: "UTC"}}
	}
	noon := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		from, to string
		closed   time.Duration // at noon; below 0: refused
	}{{"08:00", "18:00", 0}, {"20:00", "06:00", 8 * time.Hour}, {"00:00", "24:00", 0}, {"20:00", "20:00", -1}, {"00:00", "00:00", -1}, {"24:00", "24:00", -1}, {"", "", -1}} {
		l, err := day(c.from, c.to).limits("config.yaml")
		if (err != nil) != (c.closed < 0) {
			t.Errorf("%s to %s: %v", c.from, c.to, err)
		} else if err == nil && l.Closed(noon) != c.closed {
			t.Errorf("%s to %s: closed for %s at noon", c.from, c.to, l.Closed(noon))
		}
	}
}
