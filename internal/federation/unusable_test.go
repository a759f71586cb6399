package federation_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/federation"
	"consilium/internal/studyfile"
	"consilium/internal/table"
	"consilium/policy"
	"consilium/provenance"
	"consilium/worker/vault"
)

const unusableStudy = `apiVersion: consilium/v1
kind: Study
metadata: {name: unusable}
spec:
  question: Does the treatment delay the event?
  purpose: {duo: [DUO:0000042]}
  data: {dataset: cohort, patient: id}
  sites: {min: 3}
  columns:
    id: {type: id}
    arm: [a, b]
    age: {type: number, bounds: [0, 120]}
    start: {type: number, bounds: [0, 1000]}
    stop: {type: number, bounds: [0, 1000]}
    event: flag
  analysis: {type: cox, formula: "Surv(start, stop, event) ~ arm + age"}
  rounds: {max: 25, tolerance: 1e-9, deadline: 1m}
`

// A hospital whose rows fit its own declaration but not the study declines
// when it is asked, before any charter names it: it is left out, the others
// answer, and nothing of the row leaves the hospital with the refusal.
func TestUnusableRows(t *testing.T) {
	file, err := studyfile.ParseWith([]byte(unusableStudy), studyfile.Options{Simulate: true})
	if err != nil {
		t.Fatal(err)
	}
	file.Spec.Legal = policy.DefaultLegal(file.Spec)
	if file.Payload, err = canon.Marshal(file.Spec); err != nil {
		t.Fatal(err)
	}
	const value = "977.0625" // of the cell that must stay home
	text := "site,id,arm,age,start,stop,event\n"
	good := []string{"north", "south", "east"}
	for s, name := range good {
		for i := range 12 {
			text += fmt.Sprintf("%s,p%d,%s,%d,0,%d,%d\n", name, i, []string{"a", "b"}[i%2], 30+(7*i+3*s)%40, 10+(13*i+5*s)%90, (i+i/2+s)%2)
		}
	}
	row := func(site, bad string) {
		for i := range 12 {
			text += fmt.Sprintf("%s,p%d,%s,%d,0,%d,%d\n", site, i, []string{"a", "b"}[i%2], 40+i, 10+i, i%2)
		}
		text += site + "," + bad + "\n"
	}
	bad := map[consilium.SiteID]bool{"bounds": true, "level": true, "column": true, "interval": true}
	row("bounds", "q,a,"+value+",0,5,1")
	row("level", "q,zeta"+value+",50,0,5,1")
	row("column", "q,a,50,0,5,1")
	row("interval", "q,a,50,"+value+",5,1") // starts after it ends: only the analysis knows
	parts, err := table.Split([]byte(text), "site")
	if err != nil {
		t.Fatal(err)
	}
	engine := policy.Default()
	o := federation.Options{Name: "unusable.example", Dir: t.TempDir(), Coordinators: 1, Volatile: true, Policies: []*policy.Engine{engine},
		Country: policy.DefaultCountry, TeamCountry: policy.DefaultCountry}
	spec := file.Spec
	for _, p := range parts {
		facts, err := policy.DefaultSite(p.ID)
		if err != nil {
			t.Fatal(err)
		}
		own := slices.Clone(spec.Columns) // what the hospital declares of its table
		for i := range own {
			switch {
			case p.ID == "bounds" && own[i].Name == "age":
				own[i].Bounds = &[2]float64{0, 1000}
			case p.ID == "level" && own[i].Name == "arm":
				own[i].Levels = []string{"a", "b", "zeta" + value}
			}
		}
		if p.ID == "column" {
			own = slices.DeleteFunc(own, func(c consilium.Column) bool { return c.Name == "age" })
		}
		o.Sites = append(o.Sites, federation.SiteOptions{
			ID: p.ID, Name: p.Label, Operator: string(p.ID), Country: policy.DefaultCountry, Facts: facts,
			Datasets: []vault.Dataset{{Name: spec.Data.Dataset, Patient: spec.Data.Patient, Columns: own}},
			CSV:      map[string][]byte{spec.Data.Dataset: p.CSV},
			Register: func(string) vault.Register { return vault.Register{Adult: true, CitizenOrLPR: true} },
			Consent: func(site consilium.SiteID, _ string) *provenance.Consent {
				return &provenance.Consent{Site: site, Form: "test", Level: provenance.LevelGeneral, Scopes: []string{"general"}, Purposes: []string{"DUO:0000042"},
					Explicit: true, Informed: true, GivenBy: provenance.GivenBySelf, Given: 1700000000, From: 1700000000}
			},
		})
	}
	f, err := federation.Start(t.Context(), o)
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
	contents, err := f.Collect(t.Context(), out)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range contents.Sites {
		if _, left := bad[e.Trail.Site]; left && len(e.Trail.Links) == 0 {
			t.Errorf("%s: an empty trail", e.Trail.Site)
		}
	}
	sent, err := json.Marshal(contents.Sites)
	if err != nil {
		t.Fatal(err)
	}
	// Whatever became public or stands in a log that others may be shown.
	public := map[string][]byte{"trails": sent, "result": out.Envelope.Result}
	declined := map[consilium.SiteID]bool{}
	for _, ev := range out.Events {
		public[fmt.Sprintf("event %d", ev.Seq)] = ev.Body
		m, err := consilium.ParseMessage(ev.Body)
		if err != nil || m.Kind != consilium.KindDecline {
			continue
		}
		d, err := consilium.ParseDecline(m.Body)
		if err != nil {
			t.Fatal(err)
		}
		site := consilium.SiteID(m.By[strings.LastIndexByte(string(m.By), '/')+1:])
		declined[site] = true
		if d.Code != string(consilium.ErrData.Code) || d.Reason != consilium.ErrData.Msg {
			t.Errorf("%s declined with %q: %q", site, d.Code, d.Reason)
		}
	}
	for id := range bad {
		if !declined[id] {
			t.Errorf("%s did not decline", id)
		}
		b, err := os.ReadFile(filepath.Join(f.Site(id).Dir(), "vault", "decisions.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		public[string(id)+"'s decisions"] = b
	}
	if len(declined) != len(bad) {
		t.Errorf("declined: %v", declined)
	}
	for what, b := range public {
		if bytes.Contains(b, []byte(value)) || bytes.Contains(b, []byte("zeta")) {
			t.Errorf("%s holds the value: %q", what, b)
		}
	}
	facts := consilium.Facts{Spec: spec, MinCohort: 11}
	var open []federation.PlainSite
	for _, p := range parts {
		if _, left := bad[p.ID]; !left {
			facts.Sites = append(facts.Sites, p.ID)
			open = append(open, federation.PlainSite{ID: p.ID, CSV: p.CSV})
		}
	}
	res, err := federation.Plain(t.Context(), facts, open, false)
	if err != nil {
		t.Fatal(err)
	}
	sameAnswer(t, out.Envelope.Result, res.JSON)
}
