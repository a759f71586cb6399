package federation_test

import (
	"encoding/json"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"consilium"
	"consilium/internal/dp"
	"consilium/internal/durable"
	"consilium/internal/federation"
	"consilium/policy"
)

// TestScaffoldSurvivesRestarts: a hospital's control variate is its own state.
// One that dies after its upload, before it counts the sum, and while it closes
// a round, comes back with the one that counts: the study ends with the bits of
// plain sums that nothing interrupted.
func TestScaffoldSurvivesRestarts(t *testing.T) {
	file := riskNetwork(t, map[string]string{
		"sites: {min: 5, missing: wait}":             "sites: {min: 5, faults: 2, missing: wait}", // nobody is left behind
		"name: fedadam, rounds: 30, local_epochs: 2": "name: scaffold, rounds: 4, local_epochs: 2",
		", server_rate: 0.05":                        "",
		"{dense: 16}":                                "{dense: 3}",
	})
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
	finished, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(finished)
		for _, point := range []string{"contribute/after-upload", "close/before-secret", "contribute/after-upload", "update/before-promise", "contribute/before-promise", "close/after-secret"} {
			select {
			case <-f.Site(victim).HaltAt(point):
			case <-over:
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
	close(over)
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

// TestPrivateTrainingSurvivesRestarts: a hospital of a private training that dies
// before and after it promised its noisy vector comes back with the same one: the
// gate would take no other. Its budget is debited once a round, for all that the
// study said it would cost and no more.
func TestPrivateTrainingSurvivesRestarts(t *testing.T) {
	file := riskNetwork(t, map[string]string{
		"name: fedadam, rounds: 30, local_epochs: 2, batch: 16, rate: 0.1, server_rate: 0.05, clip: 1, bits: 16": "name: fedadam, rounds: 3",
		"sites: {min: 5, missing: wait}": "sites: {min: 5, faults: 2, missing: wait}",
		"privacy: {min_cohort: 11}":      "privacy: {min_cohort: 11, dp: {epsilon: 8, delta: 1e-6, clip: 1}}",
		"{dense: 16}":                    "{dense: 3}",
	})
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
	dir := t.TempDir()
	f, err := federation.Start(t.Context(), federation.Options{
		Name: "cgd.example", Dir: dir, Coordinators: 1, Volatile: true, Policies: []*policy.Engine{engine}, Country: "NL", TeamCountry: "NL", Sites: sites,
	})
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	defer func() {
		if !closed {
			f.Close()
		}
	}()
	finished, over := make(chan struct{}), make(chan struct{})
	fallen := 0
	go func() {
		defer close(finished)
		for _, point := range []string{"contribute/before-spool", "contribute/before-promise", "contribute/after-upload", "update/before-promise"} {
			select {
			case <-f.Site(victim).HaltAt(point):
			case <-over:
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
	close(over)
	if err != nil {
		t.Fatal(err)
	}
	if out.Phase != consilium.PhaseDone {
		t.Fatalf("%s: %s", out.Phase, out.Reason)
	}
	<-finished
	if fallen != 4 {
		t.Errorf("%s fell %d times, want 4", victim, fallen)
	}
	var res struct {
		DP    *struct{ Releases int }
		Sites struct{ Contributed int }
	}
	if err := json.Unmarshal(out.Envelope.Result, &res); err != nil {
		t.Fatal(err)
	}
	if res.DP == nil || res.DP.Releases != 5 || res.Sites.Contributed != 5 {
		t.Errorf("%+v: %s", res, out.Envelope.Result)
	}
	home := f.Site(victim).Dir()
	closed = true
	f.Close()
	book, err := durable.Open(filepath.Join(home, "vault", "budget"))
	if err != nil {
		t.Fatal(err)
	}
	defer book.Close()
	var rounds []uint32
	var spent []dp.Release
	if err := book.Replay(func(_ uint8, data []byte) error {
		var d struct {
			Round    uint32
			Releases []dp.Release
		}
		if err := json.Unmarshal(data, &d); err != nil {
			return err
		}
		rounds, spent = append(rounds, d.Round), append(spent, d.Releases...)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(rounds, []uint32{1, 2, 3, 4, 5}) || len(spent) != 5 {
		t.Errorf("debits of rounds %v, %d releases", rounds, len(spent))
	}
	if e := dp.Epsilon(spent, 1e-6); e > 8 || e < 7 {
		t.Errorf("epsilon %v is spent of 8", e)
	}
}
