//go:build sample

package report

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"testing"

	"github.com/apache/arrow/go/v17/arrow/array"

	"consilium"
	"consilium/internal/canon"
	"consilium/internal/fixed"
	"consilium/internal/studyfile"
	"consilium/internal/table"
	"consilium/models"
	"consilium/models/net"
)

// The sample results under testdata come from the CGD trial, computed in the
// open (no encryption) by the same analyses:
//
//	go test -tags sample -run TestMakeSample ./internal/report
const episodes = `apiVersion: consilium/v1
kind: Study
metadata: {name: cgd-interferon}
spec:
  question: Does gamma interferon reduce serious infections in chronic granulomatous disease?
  purpose: {duo: [DUO:0000007], disease: MONDO:0018305}
  data: {dataset: cgd, patient: id}
  sites: {min: 5}
  columns:
    id: id
    treat: [placebo, rIFN-g]
    sex: [male, female]
    age: {type: number, unit: a, bounds: [0, 120]}
    inherit: [X-linked, autosomal]
    steroids: flag
    propylac: flag
    tstart: {type: integer, unit: d, bounds: [0, 10000]}
    tstop: {type: integer, unit: d, bounds: [0, 10000]}
    status: flag
  analysis:
    name: infections
    type: cox
    formula: "Surv(tstart, tstop, status) ~ treat + sex + age + inherit + steroids + propylac + strata(site) + cluster(id)"
`

const patients = `apiVersion: consilium/v1
kind: Study
metadata: {name: cgd-patients}
spec:
  question: Does gamma interferon reduce serious infections in chronic granulomatous disease?
  purpose: {duo: [DUO:0000007], disease: MONDO:0018305}
  data: {dataset: cgd, patient: id}
  sites: {min: 5}
  privacy: {permits: [km-tail, small-levels]}
  columns:
    id: id
    treat: [placebo, rIFN-g]
    sex: [male, female]
    age: {type: number, unit: a, bounds: [0, 120]}
    inherit: [X-linked, autosomal]
    steroids: flag
    propylac: flag
    tstop: {type: integer, unit: d, bounds: [0, 10000]}
    status: flag
    fu: {type: number, unit: d, bounds: [1, 10000]}
    ninf: {type: integer, bounds: [0, 100]}
  analyses:
    - {name: infection-free, type: kaplan-meier, formula: "Surv(tstop, status) ~ treat", grid: {step: 30, max: 420}}
    - {name: arms-compared, type: logrank, formula: "Surv(tstop, status) ~ treat + strata(site)"}
    - {name: odds, type: glm, family: binomial, formula: "status ~ treat + sex + age + inherit + propylac"}
    - {name: rate, type: glm, family: poisson, formula: "ninf ~ treat + age + inherit + offset(log(fu))"}
    - {name: baseline, type: describe, variables: [age, sex], by: [treat], histogram: {age: [0, 10, 20, 30, 40, 50]}}
    - {name: arms, type: crosstab, rows: treat, columns: status, strata: [site]}
    - name: risk
      type: train
      response: status
      features: [treat, sex, age, inherit, steroids, propylac]
      model: {layers: [{dense: 8}, relu, {dense: 1}], loss: logistic}
      strategy: {name: fedavg, rounds: 20, rate: 0.1}
      holdout: 0.25
`

func TestMakeSample(t *testing.T) {
	var analyses []json.RawMessage
	sites := []consilium.SiteID{}
	for _, part := range []struct{ study, file, column string }{{episodes, "cgd.csv", "center"}, {patients, "cgd_patient.csv", "center"}} {
		spec, _, err := studyfile.Parse([]byte(part.study))
		if err != nil {
			t.Fatal(err)
		}
		src, err := os.ReadFile("../../examples/cgd/" + part.file)
		if err != nil {
			t.Fatal(err)
		}
		split, err := table.Split(src, part.column)
		if err != nil {
			t.Fatal(err)
		}
		facts := consilium.Facts{Spec: spec, MinCohort: spec.Privacy.MinCohort, Permits: spec.Privacy.Permits}
		for _, s := range split {
			facts.Sites = append(facts.Sites, s.ID)
		}
		sites = facts.Sites
		var rows []*models.Rows
		for i, s := range split {
			rows = append(rows, load(t, spec, s, consilium.Position(i+1)))
		}
		a, err := models.New(facts, map[string]models.Constructor{consilium.AnalysisTrain: net.New})
		if err != nil {
			t.Fatal(err)
		}
		state, err := a.Start(facts)
		if err != nil {
			t.Fatal(err)
		}
		for round := uint32(1); !state.Done; round++ {
			layout, err := a.Layout(state)
			if err != nil {
				t.Fatal(err)
			}
			sums := make([]int64, layout.Lanes())
			var all []consilium.Position
			for i := range rows {
				w, err := fixed.NewWriter(layout)
				if err != nil {
					t.Fatal(err)
				}
				rows[i].Seed = net.RoundSeed(spec.Seed, facts.Sites[i], round)
				if _, err := a.Local(context.Background(), state, nil, rows[i], w); err != nil {
					t.Fatal(err)
				}
				lanes, err := w.Lanes()
				if err != nil {
					t.Fatal(err)
				}
				if err := fixed.Add(sums, lanes); err != nil {
					t.Fatal(err)
				}
				all = append(all, rows[i].Site)
			}
			values, err := fixed.Open(layout, sums, len(rows))
			if err != nil {
				t.Fatal(err)
			}
			if state, err = a.Update(state, models.Opened{Round: round, Contributors: all, Values: values}); err != nil {
				t.Fatal(err)
			}
		}
		res, err := a.Result(state)
		if err != nil {
			t.Fatal(err)
		}
		var many struct{ Analyses []json.RawMessage }
		if err := json.Unmarshal(res.JSON, &many); err != nil {
			t.Fatal(err)
		}
		if many.Analyses == nil {
			many.Analyses = []json.RawMessage{res.JSON}
		}
		analyses = append(analyses, many.Analyses...)
	}
	doc, err := canon.Marshal(map[string]any{
		"apiVersion": consilium.APIVersion, "kind": "Result",
		"result": map[string]any{
			"study": "cgd-interferon", "question": "Does gamma interferon reduce serious infections in chronic granulomatous disease?",
			"charter":  consilium.DomainCharter.Digest([]byte("sample")),
			"sites":    map[string]any{"enrolled": 13, "contributed": 13, "contributors": sites, "excluded": []string{}},
			"analyses": analyses, "min_cohort": 11, "permits": []string{"km-tail"}, "dp": nil, "assumptions": []string{}, "warnings": []string{}, "suppressed": []string{},
		},
		"run": map[string]any{"software": "consilium (sample)", "rounds": 28, "bytes_up": 181000000, "bytes_down": 203000000, "seconds": 21.4,
			"audit": map[string]any{"checkpoint": consilium.DomainArchive.Digest([]byte("sample")), "verified": true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := json.Indent(&b, doc, "", " "); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("testdata/result.json", append(b.Bytes(), '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// load reads a site as its vault would, without ledger and policy.
func load(t *testing.T, spec *consilium.Spec, s table.Site, at consilium.Position) *models.Rows {
	tab, err := table.Read(bytes.NewReader(s.CSV), table.Options{Spec: spec, Key: []byte("sample key of 16"), File: string(s.ID)})
	if err != nil {
		t.Fatal(table.Local(err))
	}
	selected, err := table.Cohort(spec, tab.Record)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := table.Derive(spec, tab.Record, selected)
	if err != nil {
		t.Fatal(err)
	}
	b := models.Batch{Record: rec, Selected: selected}
	ordinal := map[string]int32{}
	for i, id := range tab.IDs {
		o, ok := ordinal[id]
		if !ok {
			o = int32(len(ordinal))
			ordinal[id] = o
		}
		b.Patient = append(b.Patient, o)
		p := rec.Column(0).(*array.FixedSizeBinary).Value(i)
		d := consilium.DomainHoldout.Digest(p)
		b.Holdout = append(b.Holdout, float64(d[0])/256)
	}
	return &models.Rows{Site: at, Batches: []models.Batch{b}, Patients: len(ordinal)}
}
