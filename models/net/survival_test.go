package net

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"os"
	"sort"
	"strconv"
	"testing"

	"consilium"
	"consilium/models"
)

// survivalTrial is the trial with times: one row a patient, or the intervals
// between infections.
func survivalTrial(t testing.TB, intervals bool) (consilium.Facts, *consilium.AnalysisSpec, []*models.Rows) {
	t.Helper()
	file, by := "../../examples/cgd/cgd_patient.csv", "site"
	if intervals {
		file, by = "../../examples/cgd/cgd.csv", "center"
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	at := map[string]int{}
	for i, h := range lines[0] {
		at[h] = i
	}
	spec := trialSpec()
	spec.Columns = append(spec.Columns[:9], consilium.Column{Name: "tstop", Type: consilium.TypeNumber}, consilium.Column{Name: "status", Type: consilium.TypeFlag})
	response := &consilium.Response{Stop: "tstop", Event: "status"}
	if intervals {
		spec.Columns = append(spec.Columns, consilium.Column{Name: "tstart", Type: consilium.TypeNumber})
		response.Start = "tstart"
	}
	a := &consilium.AnalysisSpec{Name: "risk", Type: consilium.AnalysisTrain, Response: response,
		Features: []string{"treat", "sex", "age", "inherit", "steroids", "propylac"},
		Model:    &consilium.ModelSpec{Layers: layers(1), Loss: "cox", DType: "float64"}, Strategy: &consilium.Strategy{Bits: 24, Batch: 64}}
	bySite := map[string][][]string{}
	for _, l := range lines[1:] {
		bySite[l[at[by]]] = append(bySite[l[at[by]]], l)
	}
	var names []string
	for s := range bySite {
		names = append(names, s)
	}
	sort.Strings(names)
	facts := consilium.Facts{Spec: spec, MinCohort: 11}
	var rows []*models.Rows
	for i, s := range names {
		facts.Sites = append(facts.Sites, consilium.SiteID("s"+strconv.Itoa(i)))
		rows = append(rows, rowsOf(t, spec, bySite[s], at))
	}
	return facts, a, rows
}

// truth reads R's answer: survival 3.5-3, see models/testdata/README.md.
func truth(t testing.TB, key string) (coef, loglik []float64, counts map[string]float64) {
	t.Helper()
	b, err := os.ReadFile("../testdata/truth.json")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]json.RawMessage{}
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	var one struct {
		Coef            any
		Loglik, Loglik0 float64
		Counts          map[string]float64 `json:"concordance_counts"`
	}
	if err := json.Unmarshal(all[key], &one); err != nil {
		t.Fatal(err)
	}
	switch c := one.Coef.(type) {
	case float64:
		coef = []float64{c}
	case []any:
		for _, x := range c {
			coef = append(coef, x.(float64))
		}
	default:
		t.Fatalf("truth.json has no %s", key)
	}
	return coef, []float64{one.Loglik0, one.Loglik}, one.Counts
}

// DeepSurv without a hidden layer is Cox's model stratified by hospital: at the
// coefficients that R gives, the hospitals' losses add up to R's log partial
// likelihood and their gradients to zero.
func TestDeepSurvIsCox(t *testing.T) {
	for _, c := range []struct {
		key       string
		intervals bool
		ties      string
		features  []string
	}{
		{"cox_multi_strat_site_efron", false, "", nil}, {"cox_multi_strat_site_breslow", false, "breslow", nil}, {"cox_treat_strat_site_efron", false, "efron", []string{"treat"}},
		{"ag_multi_strat_site_efron", true, "", nil}, {"ag_multi_strat_site_breslow", true, "breslow", nil},
	} {
		facts, spec, rows := survivalTrial(t, c.intervals)
		spec.Ties = c.ties
		if c.features != nil {
			spec.Features = c.features
		}
		coef, loglik, counts := truth(t, c.key)
		a, err := newTrain(facts, spec)
		if err != nil {
			t.Fatal(err)
		}
		s, err := a.Start(facts)
		if err != nil {
			t.Fatal(err)
		}
		if s, err = a.round(context.Background(), s, 1, make([][]byte, len(rows)), rows); err != nil {
			t.Fatal(err)
		}
		for at, want := range loglik {
			v, err := a.view(s)
			if err != nil {
				t.Fatal(err)
			}
			for j := range a.inputs {
				v.setWeight(j, float64(at)*coef[j]*v.scale(j)[inSD])
			}
			total, slope := 0.0, make([]float64, a.net.params)
			var pairs [3]float64
			for _, r := range rows {
				tab, err := a.read(r)
				if err != nil {
					t.Fatal(err)
				}
				e := newExamples[float64](a, v, tab)
				m, err := newMachine[float64](a.net, 64, true)
				if err != nil {
					t.Fatal(err)
				}
				load(v, m.params)
				order := make([]int, e.n)
				for i := range order {
					order[i] = i
				}
				e.load(m, order)
				if err := m.run(); err != nil {
					t.Fatal(err)
				}
				total += float64(e.n) * m.cost[0]
				for i, g := range m.grads {
					slope[i] += float64(e.n) * g
				}
				out, err := evaluate[float64](context.Background(), a, phaseTrain, v, tab)
				if err != nil {
					t.Fatal(err)
				}
				for k := range pairs {
					pairs[k] += out[0][evalConcordant+k]
				}
			}
			if !near(total, -want, 1e-9) {
				t.Errorf("%s: the loss is %v, R's likelihood %v", c.key, total, want)
			}
			if at == 0 {
				continue
			}
			for i, g := range slope[:len(coef)] {
				if !near(g, 0, 1e-6) {
					t.Errorf("%s: the gradient by %s is %v at R's estimate", c.key, a.inputs[i].name, g)
				}
			}
			// A model of two risks has as many concordant pairs as R counts.
			if len(coef) == 1 && (pairs[0] != counts["concordant"] || pairs[1] != counts["discordant"] || pairs[2] != counts["tied.x"]) {
				t.Errorf("%s: pairs %v, R counts %v", c.key, pairs, counts)
			}
		}
	}
}

// Trained across the hospitals it comes to R's estimate: gradient descent in
// encrypted-size integers against Newton in R.
func TestDeepSurvConverges(t *testing.T) {
	facts, spec, rows := survivalTrial(t, false)
	spec.Strategy = &consilium.Strategy{Name: "fedavg", Rounds: 400, LocalEpochs: 1, Batch: 64, Rate: 2, Bits: 24, Clip: 8}
	facts.Spec.Rounds.Max = 500
	r := simulate(t, facts, spec, rows)
	coef, loglik, _ := truth(t, "cox_multi_strat_site_efron")
	a, err := newTrain(facts, spec)
	if err != nil {
		t.Fatal(err)
	}
	v, err := a.view(r.State)
	if err != nil {
		t.Fatal(err)
	}
	for j, want := range coef {
		if got := v.weight(j) / v.scale(j)[inSD]; !near(got, want, 2e-3) {
			t.Errorf("%s: %v, R %v", a.inputs[j].name, got, want)
		}
	}
	o := r.Outcome
	if got := *o.Training.Loss * float64(*o.Events); !near(got, -loglik[1], 1e-4) {
		t.Errorf("log partial likelihood %v, R %v", -got, loglik[1])
	}
	if o.Training.C == nil || *o.Training.C < 0.6 || o.Training.AUC != nil || o.Holdout.C != nil {
		t.Errorf("metrics %+v and %+v", o.Training.Metrics, o.Holdout.Metrics)
	}
}

// A hidden layer on top: the network fits the training patients better than the
// linear model, and says C.
func TestDeepSurvLearns(t *testing.T) {
	facts, spec, rows := survivalTrial(t, true)
	spec.Model.Layers = layers(8, "tanh", 1)
	spec.Strategy = &consilium.Strategy{Name: "fedadam", Rounds: 25}
	spec.Holdout = 0.3
	o := simulate(t, facts, spec, rows).Outcome
	if !(*o.Training.Loss < *o.Curves.TrainingLoss[0]) || *o.Training.C < 0.6 {
		t.Errorf("loss %v from %v, C %v", *o.Training.Loss, *o.Curves.TrainingLoss[0], *o.Training.C)
	}
	if o.Holdout.C == nil {
		t.Error("no C on the holdout")
	}
}

// No event anywhere, times that end before they start, and events that are
// none: each says what and where.
func TestDeepSurvBadInput(t *testing.T) {
	facts, spec, rows := survivalTrial(t, false)
	at := map[string]int{"id": 0, "treat": 1, "sex": 2, "age": 3, "height": 4, "weight": 5, "inherit": 6, "steroids": 7, "propylac": 8, "tstop": 9, "status": 10, "tstart": 11}
	var lines [][]string
	for i := range 20 {
		lines = append(lines, []string{strconv.Itoa(i), "placebo", "male", "10", "100", "30", "X-linked", "0", "1", "30", "0", "40"})
	}
	quiet := rowsOf(t, facts.Spec, lines, at)
	_, err := Simulate(context.Background(), facts, spec, append([]*models.Rows{quiet}, make([]*models.Rows, len(rows)-1)...))
	refused(t, "no event", err, "no training row has the event status", "choose another event")
	facts, spec, rows = survivalTrial(t, true)
	late := rowsOf(t, facts.Spec, lines, at)
	_, err = Simulate(context.Background(), facts, spec, append([]*models.Rows{late}, rows[1:]...))
	refused(t, "interval", err, "columns tstart and tstop: an interval does not end after it starts")
}
