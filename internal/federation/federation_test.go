package federation_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"consilium"
	"consilium/examples/cgd"
	"consilium/internal/archive"
	"consilium/internal/canon"
	"consilium/internal/federation"
	"consilium/internal/hybrid"
	"consilium/internal/studyfile"
	"consilium/internal/table"
	"consilium/policy"
	"consilium/provenance"
	"consilium/worker/vault"
)

// riskNetwork is the learning study on the trial, changed: each key stands in its file
// and becomes its value.
func riskNetwork(t *testing.T, changes map[string]string) *studyfile.File {
	t.Helper()
	study := string(cgd.Read("risk-network.yaml"))
	for from, to := range changes {
		if !strings.Contains(study, from) {
			t.Fatalf("the study has no %q", from)
		}
		study = strings.Replace(study, from, to, 1)
	}
	file, err := studyfile.ParseWith([]byte(study), studyfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return file
}

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
	crateRules(t, dir)
	lyingMaker(t, dir, string(f.Team.ID), f.Team.Signer)
	holdDecisions(t, f, len(summary.Rounds), summary.Threshold)
	stopAll(t, f, file.Payload, engine.Digest())
}

// TestRevokedHospital: the next roster revokes a hospital while a network is
// being trained by thirteen, with every component there is. The study goes on in
// epoch 2 without it and ends with a result, which says so; the archive verifies.
func TestRevokedHospital(t *testing.T) {
	file := riskNetwork(t, map[string]string{"missing: wait": "missing: continue", "rounds: 30": "rounds: 4"})
	engine, err := policy.Compile(policy.DemoBundle())
	if err != nil {
		t.Fatal(err)
	}
	f, err := federation.Start(t.Context(), federation.Options{
		Name: "cgd.example", Dir: t.TempDir(), Coordinators: 3, Volatile: true, Loopback: true, Policies: []*policy.Engine{engine}, Country: "NL", TeamCountry: "NL",
		Sites: trial(t, file.Spec, "cgd_patient.csv", "center"),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const revoked = consilium.SiteID("zurich")
	id, err := f.Submit(t.Context(), file.Payload, engine.Digest())
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Approve(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	var charters []*consilium.Charter
	revoking := make(chan error, 1)
	out, err := f.Team.Wait(t.Context(), id, func(ev *consilium.Event) {
		switch ev.Kind {
		case consilium.EventClosed: // of round 1
			once.Do(func() { go func() { revoking <- f.Revoke(revoked) }() })
		case consilium.EventChartered:
			c, err := consilium.ParseCharter(ev.Body)
			if err != nil {
				t.Error(err)
			}
			charters = append(charters, c)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-revoking; err != nil {
		t.Fatal(err)
	}
	if out.Phase != consilium.PhaseDone {
		t.Fatalf("%s: %s", out.Phase, out.Reason)
	}
	if len(charters) != 2 || len(charters[0].Members) != 13 || len(charters[1].Members) != 12 || charters[1].Epoch != 2 || charters[1].FirstRound() < 2 {
		t.Fatalf("charters: %+v", charters)
	}
	var res struct {
		Sites struct {
			Enrolled, Contributed int
			Left                  []consilium.SiteID
		}
		Patients int
	}
	if err := json.Unmarshal(out.Envelope.Result, &res); err != nil {
		t.Fatal(err)
	}
	if res.Sites.Enrolled != 12 || res.Sites.Contributed != 12 || !slices.Equal(res.Sites.Left, []consilium.SiteID{revoked}) {
		t.Errorf("the result says %+v", res)
	}
	contents, err := f.Collect(t.Context(), out)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "audit")
	if err := archive.Write(dir, contents, string(f.Team.ID), f.Team.Signer); err != nil {
		t.Fatal(err)
	}
	summary, err := archive.Verify(dir, archive.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(summary.Enrolled) != 12 || len(summary.Released) < summary.Threshold {
		t.Errorf("summary: %+v", summary)
	}
}

// crateRules holds the archive's description against the rules of RO-Crate 1.2
// (§ Metadata Document, Root Data Entity, Data Entities): flat JSON-LD, one
// descriptor that points to the root, every file a part of it, no reference
// without its entity.
func crateRules(t *testing.T, dir string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "ro-crate-metadata.json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Context string           `json:"@context"`
		Graph   []map[string]any `json:"@graph"`
	}
	if err := json.Unmarshal(b, &doc); err != nil || doc.Context != "https://w3id.org/ro/crate/1.2/context" {
		t.Fatalf("%v, context %q", err, doc.Context)
	}
	entities := map[string]map[string]any{}
	for _, e := range doc.Graph {
		id, _ := e["@id"].(string)
		if id == "" || e["@type"] == nil || entities[id] != nil {
			t.Errorf("entity %q has no id or type, or stands twice", id)
		}
		entities[id] = e
	}
	refs := func(v any) (out []string) {
		list, ok := v.([]any)
		if !ok {
			list = []any{v}
		}
		for _, x := range list {
			if m, ok := x.(map[string]any); ok && len(m) == 1 {
				if id, ok := m["@id"].(string); ok {
					out = append(out, id)
					continue
				}
			}
			if _, nested := x.(map[string]any); nested {
				t.Errorf("%v is nested: the graph must be flat", x)
			}
		}
		return out
	}
	descriptor := entities["ro-crate-metadata.json"]
	if descriptor["@type"] != "CreativeWork" || !slices.Equal(refs(descriptor["about"]), []string{"./"}) || !slices.Equal(refs(descriptor["conformsTo"]), []string{"https://w3id.org/ro/crate/1.2"}) {
		t.Errorf("descriptor: %v", descriptor)
	}
	root := entities["./"]
	if root["@type"] != "Dataset" {
		t.Errorf("root: %v", root)
	}
	for _, must := range []string{"name", "description", "datePublished", "license"} {
		if root[must] == nil || root[must] == "" {
			t.Errorf("the root has no %s", must)
		}
	}
	if _, err := time.Parse(time.RFC3339, root["datePublished"].(string)); err != nil {
		t.Error(err)
	}
	parts := refs(root["hasPart"])
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.Name() == "ro-crate-metadata.json" || f.Name() == "extra.json" {
			continue
		}
		e := entities[f.Name()]
		if !slices.Contains(parts, f.Name()) || e["@type"] != "File" || e["description"] == "" {
			t.Errorf("%s is no part of the crate: %v", f.Name(), e)
		}
		if info, err := f.Info(); err == nil && e["contentSize"] != nil && e["contentSize"] != strconv.FormatInt(info.Size(), 10) {
			t.Errorf("%s: contentSize %v, it has %d", f.Name(), e["contentSize"], info.Size())
		}
	}
	for id, e := range entities {
		for key, v := range e {
			for _, to := range refs(v) {
				if entities[to] == nil && key != "conformsTo" {
					t.Errorf("%s: %s points to %s, which is not described", id, key, to)
				}
			}
		}
	}
	var contents struct {
		Approvals, Releases []any
		Enrolment           []struct{ Signature *uint64 }
		Rounds              []struct {
			Contributions           []any
			Votes, Openings, Agreed []uint64
		}
	}
	if b, err = os.ReadFile(filepath.Join(dir, "contents.json")); err != nil || json.Unmarshal(b, &contents) != nil {
		t.Fatal(err)
	}
	if len(contents.Enrolment) != 13 || len(contents.Approvals) == 0 || len(contents.Releases) == 0 || len(contents.Rounds) < 6 {
		t.Errorf("contents: %d enrolled, %d approvals, %d releases, %d rounds", len(contents.Enrolment), len(contents.Approvals), len(contents.Releases), len(contents.Rounds))
	}
	for i, m := range contents.Enrolment {
		if m.Signature == nil {
			t.Errorf("hospital %d has not signed the charter", i)
		}
	}
	for i, r := range contents.Rounds {
		if len(r.Contributions) != 13 || len(r.Votes) < 9 || len(r.Openings) < 9 || len(r.Agreed) < 9 {
			t.Errorf("round %d: %d contributions, %d votes, %d openings, %d agreed", i+1, len(r.Contributions), len(r.Votes), len(r.Openings), len(r.Agreed))
		}
	}
}

// lyingMaker is the archive's own maker, who changes what people read and
// signs the manifest again. The signed events say otherwise. A check of the
// manifest alone, the naive twin, is content.
func lyingMaker(t *testing.T, dir, by string, signer consilium.Signer) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, "extra.json")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"contents.json", "spec.json", "charter.json", "ro-crate-metadata.json"} {
		path := filepath.Join(dir, name)
		honest, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		manifestPath := filepath.Join(dir, "manifest.json")
		manifest, err := os.ReadFile(manifestPath)
		if err != nil {
			t.Fatal(err)
		}
		lie := bytes.Clone(honest)
		at := bytes.IndexAny(lie, "123456789")
		lie[at] = '1' + (lie[at]-'0')%9
		var signed consilium.Signed
		var m map[string]any
		if err := errors.Join(json.Unmarshal(manifest, &signed), json.Unmarshal(signed.Payload, &m)); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(lie)
		m["files"].(map[string]any)[name] = hex.EncodeToString(sum[:])
		payload, err := canon.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		sig, err := signer.Sign(consilium.DomainArchive, payload)
		if err != nil {
			t.Fatal(err)
		}
		again, err := canon.Marshal(&consilium.Signed{Payload: payload, Signatures: []consilium.Countersign{{By: by, Signature: sig}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.WriteFile(path, lie, 0o644), os.WriteFile(manifestPath, again, 0o644)); err != nil {
			t.Fatal(err)
		}
		var misfit *archive.Misfit
		if _, err := archive.Verify(dir, archive.Options{}); !errors.As(err, &misfit) || misfit.File != name {
			t.Errorf("a lie in %s: %v", name, err)
		}
		if hybrid.Verify(signer.Public(), consilium.DomainArchive, payload, &sig) != nil {
			t.Error("the naive twin noticed")
		}
		if err := errors.Join(os.WriteFile(path, honest, 0o644), os.WriteFile(manifestPath, manifest, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := archive.Verify(dir, archive.Options{}); err != nil {
		t.Error(err)
	}
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
