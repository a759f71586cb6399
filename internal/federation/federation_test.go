package federation_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"log/slog"
	"os"
	"testing"
	"time"

	"consilium"
	"consilium/examples/cgd"
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

func TestTrial(t *testing.T) {
	file, err := studyfile.ParseWith(cgd.Read("interferon-recurrent.yaml"), studyfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	engine, err := policy.Compile(policy.DemoBundle())
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("CONSILIUM_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	started := time.Now()
	f, err := federation.Start(t.Context(), federation.Options{
		Name: "cgd.example", Dir: t.TempDir(), Coordinators: 3, Volatile: true, Policies: []*policy.Engine{engine}, Country: "NL", TeamCountry: "NL",
		Sites: trial(t, file.Spec, "cgd.csv", "center"), Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	t.Logf("started after %v", time.Since(started))
	out, err := f.Run(t.Context(), file.Payload, engine.Digest(), func(ev *consilium.Event) {
		if ev.Kind != consilium.EventMessage {
			t.Logf("%v %d %s %.300s", time.Since(started).Round(time.Millisecond), ev.Seq, ev.Kind, ev.Body)
			return
		}
		m, _ := consilium.ParseMessage(ev.Body)
		if m.Kind == consilium.KindDecline || m.Kind == consilium.KindWithdraw {
			t.Logf("%s %s %q", m.By, m.Kind, m.Body)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if out.Phase != consilium.PhaseDone {
		t.Fatalf("%s: %s", out.Phase, out.Reason)
	}
	var pretty bytes.Buffer
	json.Indent(&pretty, out.Envelope.Result, "", " ")
	t.Logf("%v %s", time.Since(started), pretty.Bytes())
}
