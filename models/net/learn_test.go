package net

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"consilium"
	"consilium/models"
)

func refused(t testing.TB, name string, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: not refused", name)
		return
	}
	text := err.Error()
	var p *models.Problem
	if errors.As(err, &p) {
		text += "; " + p.Next
	}
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%s: %q does not say %q", name, text, w)
		}
	}
}

// waves is a generated study of series: a slow wave is class 0, a fast one
// class 1, with noise, missing values, and unequal hospitals and classes.
func waves(t testing.TB, steps, channels int) (consilium.Facts, *consilium.AnalysisSpec, []*models.Rows) {
	t.Helper()
	spec := &consilium.Spec{Seed: 3, Rounds: consilium.Rounds{Max: 100}, Data: consilium.DataRef{Dataset: "waves", Patient: "id"},
		Columns: []consilium.Column{{Name: "id", Type: consilium.TypeID}, {Name: "fast", Type: consilium.TypeFlag}}}
	at := map[string]int{"id": 0, "fast": 1}
	a := &consilium.AnalysisSpec{Name: "waves", Type: consilium.AnalysisTrain, Response: &consilium.Response{Column: "fast"}, Holdout: 0.25}
	for s := range steps {
		for c := range channels {
			name := fmt.Sprintf("t%d_c%d", s, c)
			at[name] = len(at)
			a.Features = append(a.Features, name)
			spec.Columns = append(spec.Columns, consilium.Column{Name: name, Type: consilium.TypeNumber})
		}
	}
	a.Model = &consilium.ModelSpec{Input: series(steps, channels), Layers: layers(conv1d(4, 3, 0, "same"), "relu", consilium.Layer{Kind: "average"}, 1), Loss: "logistic", DType: "float32"}
	a.Strategy = &consilium.Strategy{Name: "fedavg", Rounds: 12, LocalEpochs: 3}
	src := newSource(consilium.DomainSeed.Digest([]byte("waves")))
	facts := consilium.Facts{Spec: spec, MinCohort: 5}
	var rows []*models.Rows
	for site, n := range []int{30, 25, 18, 40} {
		var lines [][]string
		for i := range n {
			fast := src.intn(10) < 3+site
			period := 9.0
			if fast {
				period = 4
			}
			phase := 3 * src.uniform()
			line := []string{fmt.Sprintf("%d-%d", site, i), "0"}
			if fast {
				line[1] = "1"
			}
			for s := range steps {
				for c := range channels {
					v := 100*float64(c+1) + float64(c+3)*(math.Sin(2*math.Pi*(float64(s)/period+phase))+0.3*src.uniform())
					cell := strconv.FormatFloat(v, 'f', 4, 64) // as every processor writes it
					if src.intn(40) == 0 {
						cell = ""
					}
					line = append(line, cell)
				}
			}
			lines = append(lines, line)
		}
		facts.Sites = append(facts.Sites, consilium.SiteID("s"+strconv.Itoa(site)))
		rows = append(rows, rowsOf(t, spec, lines, at))
	}
	return facts, a, rows
}

// Series are learned by convolutions and by recurrent units; each channel has
// one standardisation.
func TestSeries(t *testing.T) {
	facts, spec, rows := waves(t, 24, 2)
	for _, c := range []struct {
		layers   []any
		strategy consilium.Strategy
	}{
		{[]any{conv1d(8, 5, 0, "same"), "relu", pool(2, 0), conv1d(8, 3, 0, ""), "relu", consilium.Layer{Kind: "average"}, 1}, consilium.Strategy{Name: "fedadam", Rounds: 25, LocalEpochs: 3}},
		{[]any{recurrent(8, false), 1}, consilium.Strategy{Name: "fedadam", Rounds: 40, LocalEpochs: 4, Rate: 0.3}},
	} {
		spec.Model.Layers = layers(c.layers...)
		strategy := c.strategy
		spec.Strategy = &strategy
		o := simulate(t, facts, spec, rows).Outcome
		t.Logf("%v: training AUC %s, holdout AUC %s, loss %s from %s", c.layers, show(o.Training.AUC), show(o.Holdout.AUC), show(o.Training.Loss), show(o.Curves.TrainingLoss[0]))
		if *o.Training.AUC < 0.9 || *o.Holdout.AUC < 0.8 {
			t.Errorf("%v: training AUC %s, holdout AUC %s", c.layers, show(o.Training.AUC), show(o.Holdout.AUC))
		}
		if len(o.Inputs) != 2 || !near(o.Inputs[0].Mean, 100, 1) || !near(o.Inputs[1].Mean, 200, 1) || *o.Inputs[0].Missing < 20 {
			t.Errorf("channels %+v", o.Inputs)
		}
		if len(o.Calibration) == 0 {
			t.Error("no calibration")
		}
		for _, cell := range o.Calibration {
			if cell.Patients < 5 {
				t.Errorf("a cell of %d patients is published", cell.Patients)
			}
		}
	}
}

// Images: a bright corner is found by a small convolutional network.
func TestImages(t *testing.T) {
	spec := &consilium.Spec{Seed: 1, Rounds: consilium.Rounds{Max: 100}, Data: consilium.DataRef{Dataset: "scans", Patient: "id"},
		Columns: []consilium.Column{{Name: "id", Type: consilium.TypeID}, {Name: "spot", Type: consilium.TypeFlag}}}
	at := map[string]int{"id": 0, "spot": 1}
	a := &consilium.AnalysisSpec{Name: "scans", Type: consilium.AnalysisTrain, Response: &consilium.Response{Column: "spot"}, Holdout: 0.3,
		Model:    &consilium.ModelSpec{Input: image(8, 8, 1), Layers: layers(conv2d(4, 3, 0, "same"), "relu", pool(2, 0), conv2d(4, 3, 0, ""), "relu", pool(2, 0), 1), Loss: "logistic"},
		Strategy: &consilium.Strategy{Name: "fedavg", Rounds: 15, Rate: 0.1}}
	for y := range 8 {
		for x := range 8 {
			name := fmt.Sprintf("p%d_%d", y, x)
			at[name] = len(at)
			a.Features = append(a.Features, name)
			spec.Columns = append(spec.Columns, consilium.Column{Name: name, Type: consilium.TypeNumber})
		}
	}
	src := newSource(consilium.DomainSeed.Digest([]byte("scans")))
	facts := consilium.Facts{Spec: spec, MinCohort: 5}
	var rows []*models.Rows
	for site := range 3 {
		var lines [][]string
		for i := range 60 {
			spot := src.intn(2)
			line := []string{fmt.Sprintf("%d-%d", site, i), strconv.Itoa(spot)}
			cy, cx := 1+src.intn(5), 1+src.intn(5)
			for y := range 8 {
				for x := range 8 {
					v := src.uniform()
					if spot == 1 && y-cy >= 0 && y-cy < 2 && x-cx >= 0 && x-cx < 2 {
						v += 2.5
					}
					line = append(line, strconv.FormatFloat(v, 'g', -1, 64))
				}
			}
			lines = append(lines, line)
		}
		facts.Sites = append(facts.Sites, consilium.SiteID("s"+strconv.Itoa(site)))
		rows = append(rows, rowsOf(t, spec, lines, at))
	}
	o := simulate(t, facts, a, rows).Outcome
	t.Logf("training AUC %s, holdout AUC %s", show(o.Training.AUC), show(o.Holdout.AUC))
	if *o.Training.AUC < 0.95 || *o.Holdout.AUC < 0.9 {
		t.Errorf("training AUC %s, holdout AUC %s", show(o.Training.AUC), show(o.Holdout.AUC))
	}
}

// An autoencoder that has seen ordinary series finds the others, with and
// without labels; labels change nothing that it learns.
func TestReconstruction(t *testing.T) {
	facts, spec, rows := waves(t, 12, 1)
	// Ordinary are the slow waves; of the fast ones every third stays.
	for _, r := range rows {
		b := &r.Batches[0]
		fast := b.Record.Column(0).(interface{ Value(int) bool })
		n := 0
		for i := range b.Selected {
			if fast.Value(i) {
				n++
				b.Selected[i] = n%3 == 0
			}
		}
	}
	spec.Model = &consilium.ModelSpec{Layers: layers(6, "tanh", 2, 6, "tanh", 12), Loss: "reconstruction", DType: "float32"}
	spec.Strategy = &consilium.Strategy{Name: "fedadam", Rounds: 60, LocalEpochs: 4}
	facts.MinCohort = 3
	labelled := simulate(t, facts, spec, rows)
	o := labelled.Outcome
	t.Logf("training score %s from %s, AUC %s, holdout AUC %s, thresholds %+v", show(o.Training.Loss), show(o.Curves.TrainingLoss[0]), show(o.Training.AUC), show(o.Holdout.AUC), o.Thresholds)
	if *o.Training.AUC < 0.75 || !(*o.Training.Loss < 0.7**o.Curves.TrainingLoss[0]) {
		t.Errorf("AUC %s, score %s from %s", show(o.Training.AUC), show(o.Training.Loss), show(o.Curves.TrainingLoss[0]))
	}
	if len(o.Thresholds) == 0 || o.Thresholds[0].Share < 0.5 || o.Thresholds[0].Sensitivity == nil {
		t.Errorf("thresholds %+v", o.Thresholds)
	}
	spec.Response = nil
	plain := simulate(t, facts, spec, rows)
	if !bytes.Equal(plain.Result.Files["weights.npy"], labelled.Result.Files["weights.npy"]) {
		t.Error("labels changed what an autoencoder learns")
	}
	if plain.Outcome.Training.AUC != nil || plain.Outcome.Events != nil || plain.Outcome.Thresholds[0].Sensitivity != nil {
		t.Error("an AUC without labels")
	}
	// Where the training rows are not told, shares of them do not tell them either.
	facts.MinCohort, spec.Holdout = 15, 0.05
	o = simulate(t, facts, spec, rows).Outcome
	if o.Training.Rows != nil || len(o.Thresholds) == 0 {
		t.Fatalf("training rows %v, %d thresholds: nothing is tried", o.Training.Rows, len(o.Thresholds))
	}
	for _, c := range o.Thresholds {
		if !near(math.Round(c.Share*200), c.Share*200, 1e-9) {
			t.Errorf("of at most 400 training rows a share of %v is told", c.Share)
		}
	}
}

// A step with rate zero, and a hospital without rows, move nothing.
func TestNothingMoves(t *testing.T) {
	facts, spec, rows := waves(t, 9, 2)
	for _, name := range []string{"fedavg", "fedprox", "scaffold", "fedadam"} {
		spec.Strategy = &consilium.Strategy{Name: name, Rounds: 3}
		a, err := newTrain(facts, spec)
		if err != nil {
			t.Fatal(err)
		}
		s, err := a.Start(facts)
		if err != nil {
			t.Fatal(err)
		}
		ctx := context.Background()
		memory := make([][]byte, len(rows))
		if s, err = a.round(ctx, s, 1, memory, rows); err != nil {
			t.Fatal(err)
		}
		before := s.Append(nil)
		weights := append([]float32(nil), s.F32...)
		a.strategy.rate = 0
		if name == "scaffold" {
			continue // its control variates divide by the rate; newStrategy refuses 0
		}
		after, err := a.round(ctx, s, 2, memory, rows)
		if err != nil {
			t.Fatal(err)
		}
		for i, w := range after.F32 {
			if w != weights[i] {
				t.Fatalf("%s: a rate of zero moved weight %d", name, i)
			}
		}
		if !bytes.Equal(before, s.Append(nil)) {
			t.Errorf("%s: the round changed its own state", name)
		}
		v, err := a.view(s)
		if err != nil {
			t.Fatal(err)
		}
		none, _ := a.read(nil)
		moved, _, err := descend[float32](ctx, a, v, none, nil, consilium.Digest{})
		if err != nil {
			t.Fatal(err)
		}
		for i, d := range moved {
			if d != 0 {
				t.Fatalf("%s: no rows moved weight %d", name, i)
			}
		}
	}
}

// Training may be taken up again after any round: from the encoded state and
// the hospitals' encoded memories, by a process that knows nothing else.
func TestResume(t *testing.T) {
	for _, name := range []string{"scaffold", "fedyogi"} {
		facts, spec, rows := waves(t, 9, 2)
		spec.Strategy = &consilium.Strategy{Name: name, Rounds: 5, Patience: 5}
		type point struct {
			state  []byte
			memory [][]byte
		}
		var points []point
		a, err := newTrain(facts, spec)
		if err != nil {
			t.Fatal(err)
		}
		s, err := a.Start(facts)
		if err != nil {
			t.Fatal(err)
		}
		memory := make([][]byte, len(rows))
		for round := uint32(1); !s.Done; round++ {
			points = append(points, point{s.Append(nil), append([][]byte(nil), memory...)})
			if s, err = a.round(context.Background(), s, round, memory, rows); err != nil {
				t.Fatal(err)
			}
		}
		want, err := a.finish(s)
		if err != nil {
			t.Fatal(err)
		}
		for k, p := range points {
			facts, spec2, rows := waves(t, 9, 2)
			spec2.Strategy = &consilium.Strategy{Name: name, Rounds: 5, Patience: 5}
			again, err := newTrain(facts, spec2)
			if err != nil {
				t.Fatal(err)
			}
			s, err := models.ParseState(p.state)
			if err != nil {
				t.Fatal(err)
			}
			for round := uint32(k + 1); !s.Done; round++ {
				if s, err = again.round(context.Background(), s, round, p.memory, rows); err != nil {
					t.Fatal(err)
				}
			}
			got, err := again.finish(s)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.State.Append(nil), want.State.Append(nil)) || !bytes.Equal(got.Result.JSON, want.Result.JSON) {
				t.Errorf("%s: taken up after round %d, training ends elsewhere", name, k)
			}
		}
	}
}

// With patience the best model of the curve is the result, however long
// training went on after it.
func TestPatience(t *testing.T) {
	facts, spec, rows := trial(t)
	spec.Holdout = 0.3
	// A network that learns its few training rows by heart.
	spec.Model = &consilium.ModelSpec{Layers: layers(64, "relu", 64, "relu", 1), Loss: "logistic", DType: "float32"}
	spec.Strategy = &consilium.Strategy{Name: "fedavg", Rounds: 60, LocalEpochs: 5, Rate: 0.3, Patience: 4}
	run := simulate(t, facts, spec, rows)
	o := run.Outcome
	if o.BestRound == nil {
		t.Fatal("no best round")
	}
	best := *o.BestRound
	n := len(o.Curves.HoldoutLoss)
	if n >= 60 || n != best+4+1 || len(o.Curves.UpdateNorm) != n-1 {
		t.Errorf("best after %d rounds, %d points of the curve, %d steps", best, n, len(o.Curves.UpdateNorm))
	}
	for r, l := range o.Curves.HoldoutLoss {
		if *l < *o.Curves.HoldoutLoss[best] {
			t.Errorf("round %d has loss %v, the best of round %d %v", r, *l, best, *o.Curves.HoldoutLoss[best])
		}
	}
	if *o.Holdout.Loss != *o.Curves.HoldoutLoss[best] {
		t.Errorf("the result has holdout loss %v, the best round %v", *o.Holdout.Loss, *o.Curves.HoldoutLoss[best])
	}
	// The same model as training for exactly as many rounds.
	spec.Strategy.Patience, spec.Strategy.Rounds = 0, max(best, 1)
	if short := simulate(t, facts, spec, rows); best > 0 && !bytes.Equal(short.Result.Files["weights.npy"], run.Result.Files["weights.npy"]) {
		t.Error("the weights are not those of the best round")
	}
	// Still getting better at the end: the last model, without another round.
	spec.Strategy = &consilium.Strategy{Name: "fedavg", Rounds: 3, LocalEpochs: 1, Rate: 0.01, Patience: 2}
	o = simulate(t, facts, spec, rows).Outcome
	if *o.BestRound != 3 || len(o.Curves.HoldoutLoss) != 4 {
		t.Errorf("best after %d of 3 rounds, %d points", *o.BestRound, len(o.Curves.HoldoutLoss))
	}
	// A delta that nothing reaches: stops at once, with the first weights.
	spec.Strategy = &consilium.Strategy{Name: "fedavg", Rounds: 20, Patience: 2, MinDelta: 100}
	o = simulate(t, facts, spec, rows).Outcome
	if *o.BestRound != 0 || len(o.Curves.HoldoutLoss) != 3 {
		t.Errorf("best after %d rounds, %d points", *o.BestRound, len(o.Curves.HoldoutLoss))
	}
}

// Class weights by hand: one full-batch step of a logistic model moves along
// the weighted gradient.
func TestClassWeights(t *testing.T) {
	facts, spec, rows := waves(t, 3, 1)
	spec.Holdout = 0
	step := func(m consilium.ModelSpec) (weights []float64, o *Outcome, events, n float64) {
		m.Layers, m.Loss, m.DType = layers(1), "logistic", "float64"
		spec.Model = &m
		spec.Strategy = &consilium.Strategy{Rounds: 1, LocalEpochs: 1, Batch: 256, Rate: 0.5, Bits: 24, Clip: 8}
		r := simulate(t, facts, spec, rows)
		a, err := newTrain(facts, spec)
		if err != nil {
			t.Fatal(err)
		}
		v, err := a.view(r.State)
		if err != nil {
			t.Fatal(err)
		}
		s, _ := a.Start(facts)
		first, _ := a.view(s)
		events, n = v.head[headEvents], v.head[headRows]
		w := a.classWeights(v)
		want := append([]float64(nil), first.double...)
		for _, site := range rows {
			tab, err := a.read(site)
			if err != nil {
				t.Fatal(err)
			}
			for i := range tab.rows() {
				x := []float64{v.standardise(0, tab.x[3*i]), v.standardise(1, tab.x[3*i+1]), v.standardise(2, tab.x[3*i+2])}
				z := first.double[3]
				for j := range x {
					z += x[j] * first.double[j]
				}
				d := w[int(tab.y[i])] * (1/(1+math.Exp(-z)) - tab.y[i]) / n
				for j := range x {
					want[j] -= 0.5 * d * x[j]
				}
				want[3] -= 0.5 * d
			}
		}
		for j := range want {
			if !near(v.double[j], want[j], 4e-6) { // half of 8/2^23 for each of four hospitals, and twice that
				t.Errorf("weight %d is %v, by hand %v", j, v.double[j], want[j])
			}
		}
		return v.double, r.Outcome, events, n
	}
	plain, o, _, _ := step(consilium.ModelSpec{})
	if o.Model.ClassWeights != nil {
		t.Error("weights that were not used are published")
	}
	balanced, o, events, n := step(consilium.ModelSpec{Balanced: true})
	want := []float64{n / (2 * (n - events)), n / (2 * events)}
	if len(o.Model.ClassWeights) != 2 || o.Model.ClassWeights[0] != want[0] || o.Model.ClassWeights[1] != want[1] {
		t.Errorf("balanced weights %v, want %v", o.Model.ClassWeights, want)
	}
	own, _, _, _ := step(consilium.ModelSpec{ClassWeights: []float64{1, 7}})
	if balanced[3] == plain[3] || own[3] == balanced[3] {
		t.Error("class weights change nothing")
	}
	for _, m := range []consilium.ModelSpec{{ClassWeights: []float64{1}}, {ClassWeights: []float64{1, math.NaN()}}, {ClassWeights: []float64{0, 1}}, {Balanced: true, ClassWeights: []float64{1, 2}}} {
		m.Layers, m.Loss = layers(1), "logistic"
		if _, err := newNetwork(&m, 3, ""); err == nil {
			t.Errorf("%+v is accepted", m)
		}
	}
}

// Missing values: an input of their own, or no row at all.
func TestMissing(t *testing.T) {
	facts, spec, rows := trial(t)
	at := map[string]int{"id": 0, "treat": 1, "sex": 2, "age": 3, "height": 4, "weight": 5, "inherit": 6, "steroids": 7, "propylac": 8, "any": 9, "fu": 10}
	rows[0] = rowsOf(t, facts.Spec, [][]string{
		{"a", "placebo", "", "10", "", "30", "X-linked", "0", "1", "1", "5"},
		{"b", "rIFN-g", "male", "11", "150", "40", "X-linked", "0", "1", "0", "6"},
	}, at)
	spec.Holdout = 0
	spec.Strategy = &consilium.Strategy{Rounds: 1}
	spec.Model.Missing = "indicator"
	a, err := newTrain(facts, spec)
	if err != nil {
		t.Fatal(err)
	}
	tab, err := a.read(rows[0])
	if err != nil {
		t.Fatal(err)
	}
	if len(a.inputs) != 16 || a.inputs[3].name != "sex:missing" || tab.x[3] != 1 || tab.x[16+3] != 0 || !math.IsNaN(tab.x[2]) {
		t.Errorf("inputs %v, row %v", a.inputs, tab.x[:16])
	}
	o := simulate(t, facts, spec, rows).Outcome
	if o.Model.Inputs != 16 || o.Inputs[3].Mean != 0.5 || o.Inputs[3].SD != 0.5 {
		t.Errorf("%d inputs, sex:missing %+v", o.Model.Inputs, o.Inputs[3])
	}
	spec.Model.Missing = "drop"
	facts.MinCohort = 1
	if o = simulate(t, facts, spec, rows).Outcome; *o.ExcludedRows.Missing != 1 {
		t.Errorf("%d rows left out", *o.ExcludedRows.Missing)
	}
	spec.Model.Missing = "indicator"
	spec.Model.Input = series(8, 1)
	_, err = New(facts, spec)
	refused(t, "indicator in a series", err, "use mean or drop")
}

// A hospital whose rows are all left out, one with a single class, and a study
// with a single class.
func TestOddHospitals(t *testing.T) {
	facts, spec, rows := waves(t, 9, 1)
	none := *rows[1]
	none.Batches = append([]models.Batch(nil), none.Batches...)
	none.Batches[0].Selected = make([]bool, len(none.Batches[0].Selected))
	none.Excluded = models.Excluded{Consent: int64(len(none.Batches[0].Selected))}
	odd := append([]*models.Rows(nil), rows...)
	odd[1] = &none
	for _, name := range []string{"fedavg", "scaffold"} {
		spec.Strategy = &consilium.Strategy{Name: name, Rounds: 4}
		o := simulate(t, facts, spec, odd).Outcome
		if *o.ExcludedRows.Consent != 25 || *o.Rows != 30+18+40 {
			t.Errorf("%d rows, %d excluded", *o.Rows, *o.ExcludedRows.Consent)
		}
	}
	single := func(list []*models.Rows, from int) []*models.Rows {
		out := append([]*models.Rows(nil), list...)
		for i := from; i < len(out); i++ {
			c := *out[i]
			c.Batches = append([]models.Batch(nil), c.Batches...)
			b := &c.Batches[0]
			fast := b.Record.Column(0).(interface{ Value(int) bool })
			b.Selected = make([]bool, len(b.Selected))
			for k := range b.Selected {
				b.Selected[k] = !fast.Value(k)
			}
			out[i] = &c
		}
		return out
	}
	spec.Strategy = &consilium.Strategy{Rounds: 4}
	if o := simulate(t, facts, spec, single(rows, 1)).Outcome; !(*o.Training.Loss < *o.Curves.TrainingLoss[0]) {
		t.Error("three hospitals of one class stop the fourth")
	}
	_, err := Simulate(context.Background(), facts, spec, single(rows, 0))
	refused(t, "one class", err, "every training row has the same fast", "choose another response")
	_, err = Simulate(context.Background(), facts, spec, make([]*models.Rows, len(rows)))
	refused(t, "no rows", err, "fewer than 5 patients to train on", "widen the cohort")
	// A holdout of fewer patients than k is never evaluated: its loss would be
	// about them.
	facts.MinCohort = 20
	spec.Holdout = 0.05
	run := simulate(t, facts, spec, rows)
	if run.Outcome.Holdout.Loss != nil || run.Outcome.Holdout.Rows != nil {
		t.Error("a loss of a few holdout patients is published")
	}
	a, err := newTrain(facts, spec)
	if err != nil {
		t.Fatal(err)
	}
	v, err := a.view(run.State)
	if err != nil {
		t.Fatal(err)
	}
	if v.head[headPatients+1] == 0 || v.head[headPatients+1] >= 20 {
		t.Fatalf("%v holdout patients", v.head[headPatients+1])
	}
	for _, x := range v.final[1] {
		if x != 0 {
			t.Fatal("the hospitals' sums tell about a few holdout patients")
		}
	}
	if !strings.Contains(strings.Join(run.Outcome.Warnings, "\n"), "fewer than 20 patients") {
		t.Errorf("warnings %v", run.Outcome.Warnings)
	}
}

// Large products run in several goroutines; series and recurrences too give the
// same bytes for any number of processors.
func TestRepeatableLayers(t *testing.T) {
	facts, spec, rows := waves(t, 24, 2)
	spec.Strategy = &consilium.Strategy{Name: "scaffold", Rounds: 2, Batch: 32}
	for _, list := range [][]any{
		{600, "relu", 500, "tanh", 1},
		{conv1d(16, 5, 0, "same"), "relu", recurrent(12, true), recurrent(6, false), 1},
	} {
		spec.Model.Layers = layers(list...)
		var first []byte
		for _, procs := range []int{1, 2, 7} {
			old := runtime.GOMAXPROCS(procs)
			r := simulate(t, facts, spec, rows)
			runtime.GOMAXPROCS(old)
			got := r.State.Append(nil)
			if first == nil {
				first = got
			}
			if !bytes.Equal(first, got) {
				t.Errorf("%v: other bits with GOMAXPROCS=%d", list, procs)
			}
		}
	}
}

// A model that runs away is told in the sums, and ends with what to do.
func TestRunsAway(t *testing.T) {
	facts, spec, rows := waves(t, 9, 1)
	spec.Response = nil
	spec.Model = &consilium.ModelSpec{Layers: layers(4, 4, 9), Loss: "reconstruction", DType: "float32"}
	spec.Strategy = &consilium.Strategy{Rounds: 30, Rate: 100, Clip: 1e6, ServerRate: 100}
	_, err := Simulate(context.Background(), facts, spec, rows)
	refused(t, "rate 100", err, "training diverged in round", "lower strategy.rate")
}

// What `study check` prints of a training study: columns, rounds, and the layouts
// of every kind of round.
func TestDisclosure(t *testing.T) {
	facts, spec, _ := waves(t, 9, 2)
	spec.Strategy = &consilium.Strategy{Name: "scaffold", Rounds: 6, Patience: 3}
	facts.Spec.Analyses = []consilium.AnalysisSpec{*spec}
	list, err := models.Describe(facts, map[string]models.Constructor{consilium.AnalysisTrain: New})
	if err != nil {
		t.Fatal(err)
	}
	d := list[0]
	if d.Rounds != 9 || len(d.Columns) != 19 || d.Columns[0] != "fast" || len(d.Layouts) != 3 || d.Result == "" {
		t.Errorf("%d rounds, columns %v, %d layouts, result %q", d.Rounds, d.Columns, len(d.Layouts), d.Result)
	}
	said := strings.Join(d.Sends, "\n")
	for _, want := range []string{"counts of rows", "per channel", "6 rounds how far", "control variate", "counts of scores per class", "least cohort"} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q:\n%s", want, said)
		}
	}
}
