package federation_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"consilium"
	"consilium/examples/cgd"
	"consilium/internal/archive"
	"consilium/internal/federation"
	"consilium/internal/studyfile"
	"consilium/internal/table"
	"consilium/policy"
	"consilium/provenance"
	"consilium/worker/vault"
)

// trial makes the thirteen hospitals of the trial, each with its own rows.
func trial(t testing.TB, spec *consilium.Spec, file, column string) []federation.SiteOptions {
	t.Helper()
	parts, err := table.Split(cgd.Read(file), column)
	if err != nil {
		t.Fatal(err)
	}
	facts, err := policy.ParseSiteFactsList(cgd.Read("sites.json"))
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]*policy.SiteFacts{}
	for _, f := range facts {
		byName[string(f.Site)] = f
	}
	names := map[string]string{}
	rows, err := csv.NewReader(bytes.NewReader(cgd.Read("sites.csv"))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows[1:] {
		names[r[0]] = r[1]
		names[r[1]] = r[1]
	}
	var out []federation.SiteOptions
	for _, p := range parts {
		id := consilium.SiteID(names[p.Label])
		f := byName[string(id)]
		if f == nil {
			t.Fatalf("no facts for %q", p.Label)
		}
		out = append(out, federation.SiteOptions{
			ID: id, Name: p.Label, Operator: string(id), Country: f.Country, Facts: f,
			Datasets: []vault.Dataset{{Name: spec.Data.Dataset, Patient: spec.Data.Patient, Columns: spec.Columns}},
			CSV:      map[string][]byte{spec.Data.Dataset: p.CSV},
			Register: func(string) vault.Register { return vault.Register{Adult: true, CitizenOrLPR: true} },
			Consent: func(site consilium.SiteID, _ string) *provenance.Consent {
				return &provenance.Consent{
					Site: site, Form: "research consent 1", Level: provenance.LevelGeneral, Scopes: []string{"general", "genetic"}, Purposes: []string{"DUO:0000007"},
					Diseases: []string{"MONDO:0018305"}, Explicit: true, Informed: true, GivenBy: provenance.GivenBySelf, Given: time.Now().Add(-time.Hour).Unix(), From: time.Now().Add(-time.Hour).Unix(),
				}
			},
		})
	}
	return out
}

// TestTrial answers the trial's question with thirteen hospitals and every
// component, and holds the result against R's, against the same computation in
// plain sums bit for bit, and the archive against tampering.
func TestTrial(t *testing.T) {
	file, err := studyfile.ParseWith(cgd.Read("interferon-recurrent.yaml"), studyfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	engine, err := policy.Compile(policy.DemoBundle())
	if err != nil {
		t.Fatal(err)
	}
	sites := trial(t, file.Spec, "cgd.csv", "center")
	f, err := federation.Start(t.Context(), federation.Options{
		Name: "cgd.example", Dir: t.TempDir(), Coordinators: 3, Volatile: true, Policies: []*policy.Engine{engine}, Country: "NL", TeamCountry: "NL",
		Sites: sites,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out, err := f.Run(t.Context(), file.Payload, engine.Digest(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if out.Phase != consilium.PhaseDone {
		t.Fatalf("%s: %s", out.Phase, out.Reason)
	}
	type fit struct {
		Rows, Patients, Events int
		Terms                  []struct {
			Coef     float64
			RobustSE float64 `json:"robust_se"`
		}
		Loglik []float64
	}
	var got fit
	if err := json.Unmarshal(out.Envelope.Result, &got); err != nil {
		t.Fatal(err)
	}
	var truth map[string]json.RawMessage
	if err := json.Unmarshal(cgd.Read("truth.json"), &truth); err != nil {
		t.Fatal(err)
	}
	var want struct {
		Coef     []float64
		RobustSE []float64 `json:"robust_se"`
		Loglik   float64
	}
	if err := json.Unmarshal(truth["ag_multi_strat_site_efron"], &want); err != nil {
		t.Fatal(err)
	}
	near := func(what string, a, b float64) {
		if math.Abs(a-b) > 1e-9*math.Abs(b) {
			t.Errorf("%s: %v, R has %v", what, a, b)
		}
	}
	if got.Rows != 203 || got.Patients != 128 || got.Events != 76 || len(got.Terms) != len(want.Coef) || len(want.Coef) != 6 || len(got.Loglik) != 2 {
		t.Fatalf("%d rows, %d patients, %d events, %d terms", got.Rows, got.Patients, got.Events, len(got.Terms))
	}
	for i, term := range got.Terms {
		near("coefficient", term.Coef, want.Coef[i])
		near("robust error", term.RobustSE, want.RobustSE[i])
	}
	near("log-likelihood", got.Loglik[1], want.Loglik)

	facts := consilium.Facts{Spec: file.Spec, MinCohort: 11}
	var plain []federation.PlainSite
	for _, s := range f.Roster.Sites {
		facts.Sites = append(facts.Sites, s.ID)
	}
	slices.Sort(facts.Sites)
	for _, id := range facts.Sites {
		for _, s := range sites {
			if s.ID == id {
				plain = append(plain, federation.PlainSite{ID: id, CSV: s.CSV["cgd"]})
			}
		}
	}
	res, err := federation.Plain(t.Context(), facts, plain, false)
	if err != nil {
		t.Fatal(err)
	}
	var same fit
	if err := json.Unmarshal(res.JSON, &same); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, same) {
		t.Errorf("the encrypted result differs from the plain sums: %+v, %+v", got, same)
	}

	contents, err := f.Collect(t.Context(), out)
	if err != nil {
		t.Fatal(err)
	}
	if len(contents.Sites) != 13 {
		t.Errorf("%d trails, want 13", len(contents.Sites))
	}
	dir := filepath.Join(t.TempDir(), "audit")
	if err := archive.Write(dir, contents, string(f.Team.ID), f.Team.Signer); err != nil {
		t.Fatal(err)
	}
	summary, err := archive.Verify(dir, archive.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(summary.Enrolled) != 13 || len(summary.Released) < summary.Threshold || len(summary.Rounds) < 6 || summary.Uses < 13 || !bytes.Equal(summary.Result, out.Envelope.Result) {
		t.Errorf("summary: %+v", summary)
	}
	tamper(t, dir)
	holdDecisions(t, f, len(summary.Rounds), summary.Threshold)
	stopAll(t, f, file.Payload, engine.Digest())
}

// tamper flips bits all over an archive: each must be noticed in its file.
func tamper(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []int{0, len(b) / 3, len(b) - 1} {
			b[at] ^= 0x20
			if err := os.WriteFile(path, b, 0o644); err != nil {
				t.Fatal(err)
			}
			var m *archive.Misfit
			if _, err := archive.Verify(dir, archive.Options{}); !errors.As(err, &m) || m.File != e.Name() {
				t.Errorf("%s, byte %d: %v", e.Name(), at, err)
			}
			b[at] ^= 0x20
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Verify(dir, archive.Options{}); err == nil {
			t.Errorf("the archive verifies without %s", e.Name())
		}
		if err := os.Rename(path+".away", path); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "extra.json"), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Verify(dir, archive.Options{}); err == nil {
		t.Error("the archive verifies with a file that its manifest does not list")
	}
}
