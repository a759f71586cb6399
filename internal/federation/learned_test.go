package federation_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"consilium"
	"consilium/examples/cgd"
	"consilium/internal/federation"
	"consilium/internal/studyfile"
	"consilium/policy"
)

// TestScaffoldSurvivesRestarts: a hospital's control variate is its own state.
// One that dies after its upload, before it counts the sum, and while it closes
// a round, comes back with the one that counts: the study ends with the bits of
// plain sums that nothing interrupted.
func TestScaffoldSurvivesRestarts(t *testing.T) {
	study := string(cgd.Read("risk-network.yaml"))
	for from, to := range map[string]string{
		"name: fedadam, rounds: 30, local_epochs: 2": "name: scaffold, rounds: 4, local_epochs: 2",
		", server_rate: 0.05":                        "",
		"{dense: 16}":                                "{dense: 3}",
	} {
		if !strings.Contains(study, from) {
			t.Fatalf("the study has no %q", from)
		}
		study = strings.Replace(study, from, to, 1)
	}
	file, err := studyfile.ParseWith([]byte(study), studyfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	engine, err := policy.Compile(policy.DemoBundle())
	if err != nil {
		t.Fatal(err)
	}
	const victim = consilium.SiteID("zurich")
	var sites []federation.SiteOptions
	for _, s := range trial(t, file.Spec, "cgd_patient.csv", "site") {
		if slices.Contains([]consilium.SiteID{"nih", "amsterdam", "scripps", victim, "mott"}, s.ID) {
			sites = append(sites, s)
		}
	}
	f, err := federation.Start(t.Context(), federation.Options{
		Name: "cgd.example", Dir: t.TempDir(), Coordinators: 1, Volatile: true, Policies: []*policy.Engine{engine}, Country: "NL", TeamCountry: "NL", Sites: sites,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fallen := 0
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for _, point := range []string{"contribute/after-upload", "close/before-secret", "contribute/after-upload", "update/before-promise", "contribute/before-promise", "close/after-secret"} {
			select {
			case <-f.Site(victim).HaltAt(point):
			case <-t.Context().Done():
				return
			}
			fallen++
			if err := f.Site(victim).Restart(); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	out, err := f.Run(t.Context(), file.Payload, engine.Digest(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if out.Phase != consilium.PhaseDone {
		t.Fatalf("%s: %s", out.Phase, out.Reason)
	}
	<-finished
	if fallen != 6 {
		t.Errorf("%s fell %d times, want 6", victim, fallen)
	}
	facts := consilium.Facts{Spec: file.Spec, MinCohort: 11}
	var plain []federation.PlainSite
	for _, s := range sites {
		facts.Sites = append(facts.Sites, s.ID)
	}
	slices.Sort(facts.Sites)
	for _, id := range facts.Sites {
		for _, s := range sites {
			if s.ID == id {
				plain = append(plain, federation.PlainSite{ID: id, CSV: s.CSV["cgd-patient"]})
			}
		}
	}
	want, err := federation.Plain(t.Context(), facts, plain, false)
	if err != nil {
		t.Fatal(err)
	}
	type model struct {
		Model  struct{ Weights string }
		Curves json.RawMessage
	}
	var got, open model
	if err := json.Unmarshal(out.Envelope.Result, &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(want.JSON, &open); err != nil {
		t.Fatal(err)
	}
	if got.Model.Weights == "" || !reflect.DeepEqual(got, open) {
		t.Errorf("after the restarts the model is %s, in plain sums %s", got.Model.Weights, open.Model.Weights)
	}
}
