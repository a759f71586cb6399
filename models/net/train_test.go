package net

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"runtime"
	"slices"
	"testing"

	"consilium"
	"consilium/internal/fixed"
	"consilium/models"
)

// The trial across 13 hospitals, beside the same model on the pooled table and
// at each hospital alone.
func TestTrial(t *testing.T) {
	facts, spec, rows := trial(t)
	spec.Model.Layers = layers(16, "relu", 1)
	spec.Strategy = &consilium.Strategy{Name: "fedadam", Rounds: 40}
	fed := simulate(t, facts, spec, rows)
	pooled, err := Pooled(context.Background(), facts, spec, rows)
	if err != nil {
		t.Fatal(err)
	}
	singles, err := Singles(context.Background(), facts, spec, rows)
	if err != nil {
		t.Fatal(err)
	}
	o := fed.Outcome
	if n := len(o.Curves.TrainingLoss); n != 41 {
		t.Fatalf("%d points of the curve, want 41", n)
	}
	if *o.Rows != 128 || *o.Patients != 128 || *o.Events != 44 {
		t.Errorf("%d rows, %d patients, %d events", *o.Rows, *o.Patients, *o.Events)
	}
	if *o.Training.AUC < 0.75 || !(*o.Training.Loss < *o.Curves.TrainingLoss[0]-0.1) {
		t.Errorf("training AUC %.3f, loss %.3f from %.3f", *o.Training.AUC, *o.Training.Loss, *o.Curves.TrainingLoss[0])
	}
	if *o.Curves.TrainingLoss[0] != *pooled.Outcome.Curves.TrainingLoss[0] && !near(*o.Curves.TrainingLoss[0], *pooled.Outcome.Curves.TrainingLoss[0], 1e-9) {
		t.Error("the pooled twin starts from other weights")
	}
	if len(o.Warnings) != 0 {
		t.Errorf("warnings: %v", o.Warnings)
	}
	t.Logf("federated: training AUC %s loss %s, holdout AUC %s loss %s", show(o.Training.AUC), show(o.Training.Loss), show(o.Holdout.AUC), show(o.Holdout.Loss))
	p := pooled.Outcome
	t.Logf("pooled:    training AUC %s loss %s, holdout AUC %s loss %s", show(p.Training.AUC), show(p.Training.Loss), show(p.Holdout.AUC), show(p.Holdout.Loss))
	trained := 0
	for _, s := range singles {
		if s.Run == nil {
			if s.Reason == "" {
				t.Errorf("%s cannot train and does not say why", s.Site)
			}
			t.Logf("%s alone: %s", s.Site, s.Reason)
			continue
		}
		trained++
		t.Logf("%s alone, on everybody's rows: training AUC %s loss %s, holdout AUC %s loss %s",
			s.Site, show(s.Training.AUC), show(s.Training.Loss), show(s.Holdout.AUC), show(s.Holdout.Loss))
		// Why they federate: nobody alone does as well on everybody's patients.
		if *s.Training.AUC >= *o.Training.AUC {
			t.Errorf("%s alone reaches AUC %.3f on everybody's rows, the federation %.3f", s.Site, *s.Training.AUC, *o.Training.AUC)
		}
	}
	if trained < 8 {
		t.Errorf("only %d hospitals can train alone", trained)
	}
}

// The same study gives the same bytes, whatever the number of processors.
func TestRepeatable(t *testing.T) {
	facts, spec, rows := trial(t)
	for _, name := range []string{"fedavg", "scaffold"} {
		for _, dtype := range []string{"float32", "float64"} {
			spec.Strategy = &consilium.Strategy{Name: name, Rounds: 3}
			spec.Model.DType = dtype
			var first []byte
			for _, procs := range []int{1, 2, 4} {
				old := runtime.GOMAXPROCS(procs)
				r := simulate(t, facts, spec, rows)
				runtime.GOMAXPROCS(old)
				got := r.State.Append(nil)
				if first == nil {
					first = got
				}
				if !bytes.Equal(first, got) {
					t.Errorf("%s %s: other bits with GOMAXPROCS=%d", name, dtype, procs)
				}
			}
		}
	}
}

// State survives its encoding between any two rounds, and a round repeated
// from it gives the same lanes.
func TestStateEncoding(t *testing.T) {
	facts, spec, rows := trial(t)
	spec.Strategy = &consilium.Strategy{Name: "fedyogi", Rounds: 2}
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
		b := s.Append(nil)
		again, err := models.ParseState(b)
		if err != nil {
			t.Fatal(err)
		}
		one, err := a.round(context.Background(), s, round, memory, rows)
		if err != nil {
			t.Fatal(err)
		}
		two, err := a.round(context.Background(), again, round, memory, rows)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(one.Append(nil), two.Append(nil)) {
			t.Fatalf("round %d differs after the state was encoded", round)
		}
		if !bytes.Equal(b, s.Append(nil)) {
			t.Fatalf("round %d changed its own state", round)
		}
		s = one
	}
	// A state of another shape is an error everywhere, never a panic.
	for _, bad := range []*models.State{nil, {}, {Phase: 1}, {Phase: 99, F64: s.F64, F32: s.F32}, {Phase: 2, F64: s.F64[1:], F32: s.F32},
		{Phase: 1, Iteration: 1 << 31, F64: s.F64, F32: s.F32}, {Phase: phaseFailed, Done: true}, {Phase: phaseFailed, Done: true, F64: []float64{99, 0}},
		{Phase: phaseFailed, Done: true, F64: []float64{problemFeature, 1e300}}} {
		if _, err := a.Layout(bad); err == nil {
			t.Errorf("Layout accepts %+v", bad)
		}
		if _, err := a.Update(bad, models.Opened{}); err == nil {
			t.Errorf("Update accepts %+v", bad)
		}
		if _, err := a.Result(bad); err == nil {
			t.Errorf("Result accepts %+v", bad)
		}
		if _, err := a.Local(context.Background(), bad, nil, rows[0], nil); err == nil {
			t.Errorf("Local accepts %+v", bad)
		}
	}
}

// One full-batch step per round: the weighted mean of the hospitals' steps is
// the pooled step, so federated equals pooled but for quantisation.
func TestOneStepEqualsPooled(t *testing.T) {
	facts, spec, rows := trial(t)
	spec.Model.DType = "float64"
	spec.Strategy = &consilium.Strategy{Name: "fedavg", Rounds: 5, LocalEpochs: 1, Batch: 256, Rate: 0.5, Bits: 24}
	fed := simulate(t, facts, spec, rows)
	pooled, err := Pooled(context.Background(), facts, spec, rows)
	if err != nil {
		t.Fatal(err)
	}
	a, err := newTrain(facts, spec)
	if err != nil {
		t.Fatal(err)
	}
	v, err := a.view(fed.State)
	if err != nil {
		t.Fatal(err)
	}
	w, err := a.view(pooled.State)
	if err != nil {
		t.Fatal(err)
	}
	// Each of 14 quantised values is off by at most half of 2^-23 per round;
	// five rounds, and a factor of 10 for how a step depends on the weights.
	tolerance := 10 * 5 * 14 * 0.5 / (1 << 23)
	for i := range a.net.params {
		if !near(v.weight(i), w.weight(i), tolerance) {
			t.Errorf("parameter %d: %v federated, %v pooled", i, v.weight(i), w.weight(i))
		}
	}
}

// A whole federation by hand: the oracle's gradients, plain descent, weighted
// means, no quantisation.
func TestFedAvgByHand(t *testing.T) {
	facts, spec, rows := trial(t)
	spec.Model.DType = "float64"
	spec.Strategy = &consilium.Strategy{Name: "fedprox", Rounds: 3, LocalEpochs: 2, Batch: 4, Rate: 0.1, Mu: 0.5, Bits: 24}
	a, err := newTrain(facts, spec)
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.Start(facts)
	if err != nil {
		t.Fatal(err)
	}
	memory := make([][]byte, len(rows))
	if s, err = a.round(context.Background(), s, 1, memory, rows); err != nil {
		t.Fatal(err)
	}
	v, _ := a.view(s)
	shared := append([]float64(nil), v.double...)
	for round := uint32(2); round < 5; round++ {
		total := make([]float64, len(shared))
		var all float64
		for i, r := range rows {
			tab, err := a.read(r)
			if err != nil {
				t.Fatal(err)
			}
			var x [][]float64
			var y []float64
			for k := range tab.rows() {
				if tab.holdout[k] {
					continue
				}
				row := make([]float64, tab.inputs)
				for j := range row {
					row[j] = v.standardise(j, tab.x[k*tab.inputs+j])
				}
				x, y = append(x, row), append(y, tab.y[k])
			}
			if len(y) == 0 {
				continue
			}
			w := append([]float64(nil), shared...)
			order := make([]int, len(y))
			for k := range order {
				order[k] = k
			}
			seed := RoundSeed(facts.Spec.Seed, facts.Sites[i], round)
			for epoch := range 2 {
				newSource(consilium.DomainSeed.Digest([]byte("shuffle"), seed[:], []byte("risk"), u64(uint64(epoch)))).shuffle(order)
				for from := 0; from < len(order); from += 4 {
					part := order[from:min(from+4, len(order))]
					var bx, by, bw []float64
					for _, k := range part {
						bx, by, bw = append(bx, x[k]...), append(by, y[k]), append(bw, 1/float64(len(part)))
					}
					_, _, g := oracle(a.net, w, bx, by, bw)
					for k := range w {
						w[k] -= 0.1 * (g[k] + 0.5*(w[k]-shared[k]))
					}
				}
			}
			n := float64(len(y))
			all += n
			for k := range w {
				total[k] += n * (w[k] - shared[k])
			}
		}
		for k := range shared {
			shared[k] += total[k] / all
		}
		if s, err = a.round(context.Background(), s, round, memory, rows); err != nil {
			t.Fatal(err)
		}
		got, _ := a.view(s)
		for k := range shared {
			if !near(got.double[k], shared[k], 1e-5) { // 3 rounds of 13 roundings to 2^-23
				t.Fatalf("round %d: parameter %d is %v, by hand %v", round, k, got.double[k], shared[k])
			}
		}
	}
}

// Every strategy learns, in both types and both widths.
func TestStrategies(t *testing.T) {
	facts, spec, rows := trial(t)
	for _, name := range []string{"fedavg", "fedprox", "fedadam", "fedyogi", "scaffold"} {
		for _, bits := range []int{16, 24} {
			spec.Strategy = &consilium.Strategy{Name: name, Rounds: 15, Bits: bits}
			spec.Model.DType = map[int]string{16: "float32", 24: "float64"}[bits]
			o := simulate(t, facts, spec, rows).Outcome
			if !(*o.Training.Loss < *o.Curves.TrainingLoss[0]-0.1) || *o.Training.AUC < 0.65 {
				t.Errorf("%s, %d bits: loss %.3f from %.3f, AUC %.3f", name, bits, *o.Training.Loss, *o.Curves.TrainingLoss[0], *o.Training.AUC)
			}
			if o.Strategy.Name != name || o.Strategy.Bits != bits || o.Strategy.ServerRate == 0 {
				t.Errorf("%s: the result names the strategy %+v", name, o.Strategy)
			}
		}
	}
}

// The server's steps against the papers' formulas, written out once more.
func TestServerSteps(t *testing.T) {
	facts, spec, _ := trial(t)
	for _, name := range []string{"fedadam", "fedyogi", "fedavg"} {
		spec.Model.DType = "float64"
		spec.Strategy = &consilium.Strategy{Name: name, ServerRate: 0.3}
		a, err := newTrain(facts, spec)
		if err != nil {
			t.Fatal(err)
		}
		s, err := a.Start(facts)
		if err != nil {
			t.Fatal(err)
		}
		v, _ := a.view(s)
		v.head[headRows] = 50
		src := newSource(consilium.DomainSeed.Digest([]byte("steps")))
		p := a.net.params
		w := append([]float64(nil), v.double...)
		m, second := make([]float64, p), make([]float64, p)
		for i := range second {
			second[i] = 1e-6
		}
		for range 5 {
			update := make([]float64, p)
			for i := range update {
				update[i] = 0.1 * src.uniform()
			}
			// Half of the training rows came: the mean is over those.
			if _, code, err := a.step(v, models.Opened{Values: map[string][]float64{"update": update, "weight": {25, 0, 0}}}.Stream()); code != 0 || err != nil {
				t.Fatalf("problem %d, %v", code, err)
			}
			for i, u := range update {
				d := 2 * u
				switch name {
				case "fedadam":
					m[i] = 0.9*m[i] + 0.1*d
					second[i] = 0.99*second[i] + 0.01*d*d
					w[i] += 0.3 * m[i] / (math.Sqrt(second[i]) + 1e-3)
				case "fedyogi":
					m[i] = 0.9*m[i] + 0.1*d
					sign := 0.0
					if second[i] > d*d {
						sign = 1
					} else if second[i] < d*d {
						sign = -1
					}
					second[i] -= 0.01 * d * d * sign
					w[i] += 0.3 * m[i] / (math.Sqrt(second[i]) + 1e-3)
				default:
					w[i] += 0.3 * d
				}
				if !near(v.double[i], w[i], 1e-12) {
					t.Fatalf("%s: weight %d is %v, the formula gives %v", name, i, v.double[i], w[i])
				}
			}
		}
	}
}

// Scaffold's shared control variate is the share-weighted sum of what the
// hospitals remember, also after a round in which one of them was missing.
func TestScaffoldControls(t *testing.T) {
	facts, spec, rows := trial(t)
	spec.Model.DType = "float64"
	spec.Strategy = &consilium.Strategy{Name: "scaffold", Rounds: 4}
	a, err := newTrain(facts, spec)
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.Start(facts)
	if err != nil {
		t.Fatal(err)
	}
	memory := make([][]byte, len(rows))
	ctx := context.Background()
	share := make([]float64, len(rows))
	var total float64
	for i, r := range rows {
		tab, err := a.read(r)
		if err != nil {
			t.Fatal(err)
		}
		share[i] = float64(tab.count(false))
		total += share[i]
	}
	for round := uint32(1); round <= 5; round++ {
		now := append([]*models.Rows(nil), rows...)
		if round == 3 {
			now[4] = nil
		}
		if s, err = a.round(ctx, s, round, memory, now); err != nil {
			t.Fatal(err)
		}
	}
	v, err := a.view(s)
	if err != nil {
		t.Fatal(err)
	}
	largest := 0.0
	for i := range a.net.params {
		var sum float64
		for k, m := range memory {
			if m == nil {
				t.Fatalf("%s remembers nothing", facts.Sites[k])
			}
			sum += share[k] / total * math.Float64frombits(binary.BigEndian.Uint64(m[1+8*i:]))
		}
		largest = max(largest, math.Abs(sum))
		if !near(sum, v.moments[i], 1e-12) {
			t.Fatalf("control %d: hospitals remember %v, the shared one is %v", i, sum, v.moments[i])
		}
	}
	if largest < 1e-3 {
		t.Error("the control variates never moved")
	}
	if _, err := a.Local(ctx, &models.State{Phase: phaseTrain, Iteration: 0, F64: s.F64[:len(s.F64)-4*curveLength], F32: s.F32}, []byte{1, 2, 3}, rows[1], nil); err == nil {
		t.Error("a memory of three bytes is accepted")
	}
}

// Holdout rows teach nothing: other responses and features there leave every
// weight as it is.
func TestHoldoutIsHeldOut(t *testing.T) {
	facts, spec, rows := trial(t)
	spec.Strategy = &consilium.Strategy{Rounds: 3}
	one := simulate(t, facts, spec, rows)
	// Drop the holdout rows altogether.
	var fewer []*models.Rows
	held := 0
	for _, r := range rows {
		c := *r
		b := c.Batches[0]
		b.Selected = append([]bool(nil), b.Selected...)
		for i, h := range b.Holdout {
			if h < spec.Holdout {
				b.Selected[i] = false
				held++
			}
		}
		c.Batches = []models.Batch{b}
		fewer = append(fewer, &c)
	}
	if held < 10 {
		t.Fatalf("%d holdout rows", held)
	}
	two := simulate(t, facts, spec, fewer)
	if !bytes.Equal(one.Result.Files["weights.safetensors"], two.Result.Files["weights.safetensors"]) {
		t.Error("the holdout rows changed the weights")
	}
	if two.Outcome.Holdout.AUC != nil || two.Outcome.Holdout.Loss != nil {
		t.Error("a holdout of no rows has metrics")
	}
}

// What does and does not enter: a site without rows, a nil one, unselected
// rows, missing features, missing responses, repeated rows of one patient,
// several batches.
func TestRowsAsTheyCome(t *testing.T) {
	spec := trialSpec()
	at := map[string]int{"id": 0, "treat": 1, "sex": 2, "age": 3, "height": 4, "weight": 5, "inherit": 6, "steroids": 7, "propylac": 8, "any": 9, "fu": 10}
	r := rowsOf(t, spec, [][]string{
		{"a", "placebo", "male", "10", "", "30", "X-linked", "0", "1", "1", "5"},
		{"a", "placebo", "male", "11", "150", "", "X-linked", "0", "1", "0", "6"},
		{"b", "rIFN-g", "", "NA", "160", "50", "autosomal", "", "0", "", "7"}, // no response
		{"c", "rIFN-g", "female", "30", "170", "60", "autosomal", "1", "0", "0", "8"},
		{"d", "rIFN-g", "female", "31", "171", "61", "autosomal", "1", "0", "1", "9"}, // not selected
	}, at)
	r.Batches[0].Selected[4] = false
	r.Excluded = models.Excluded{Consent: 3, Integrity: 2, Cohort: 1}
	facts := consilium.Facts{Spec: spec, Sites: []consilium.SiteID{"one", "two", "three"}, MinCohort: 1}
	a := trialAnalysis()
	a.Holdout = 0
	train, err := newTrain(facts, a)
	if err != nil {
		t.Fatal(err)
	}
	s, err := train.Start(facts)
	if err != nil {
		t.Fatal(err)
	}
	empty := &models.Rows{}
	all := []*models.Rows{r, nil, empty}
	s, err = train.round(context.Background(), s, 1, make([][]byte, 3), all)
	if err != nil {
		t.Fatal(err)
	}
	v, err := train.view(s)
	if err != nil {
		t.Fatal(err)
	}
	want := []float64{3, 0, 2, 0, 1, 0, 1, 3, 2, 1}
	for i, w := range want {
		if v.head[i] != w {
			t.Errorf("count %d is %v, want %v", i, v.head[i], w)
		}
	}
	// age: 10, 11, 30 known; mean 17, population variance (49+36+169)/3.
	age := v.inputs[inLength*2:]
	if age[inKnown] != 3 || !near(age[inMean], 17, 1e-12) || !near(age[inSD], math.Sqrt(254.0/3), 1e-12) || age[inMiss] != 0 {
		t.Errorf("age: %v", age[:inLength])
	}
	height := v.inputs[inLength*3:]
	if height[inKnown] != 2 || height[inMean] != 160 || height[inSD] != 10 || height[inMiss] != 1 {
		t.Errorf("height: %v", height[:inLength])
	}
	if treat := v.inputs[:inLength]; treat[inMean] != 0.5 || treat[inSD] != 0.5 {
		t.Errorf("a level is scaled by data: %v", treat)
	}
	if v.standardise(3, math.NaN()) != 0 || v.standardise(3, 170) != 1 || v.standardise(0, 1) != 1 || v.standardise(0, 0) != -1 {
		t.Error("standardisation")
	}
	// The empty sites send zeros and weight 0.
	layout, err := train.Layout(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []*models.Rows{nil, empty} {
		w, err := fixed.NewWriter(layout)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := train.Local(context.Background(), s, nil, e, w); err != nil {
			t.Fatal(err)
		}
		lanes, err := w.Lanes()
		if err != nil {
			t.Fatal(err)
		}
		sums := make([]int64, len(lanes))
		if err := fixed.Add(sums, lanes); err != nil {
			t.Fatal(err)
		}
		values, err := fixed.Open(layout, sums, 1)
		if err != nil {
			t.Fatal(err)
		}
		for name, list := range values {
			for _, x := range list {
				if x != 0 {
					t.Errorf("an empty site sends %v in block %s", x, name)
				}
			}
		}
	}
	// Split over two batches, the same rows give the same sums.
	b := r.Batches[0]
	cut := func(from, to int) models.Batch {
		return models.Batch{Record: b.Record.NewSlice(int64(from), int64(to)), Selected: b.Selected[from:to], Patient: b.Patient[from:to], Holdout: b.Holdout[from:to]}
	}
	two := *r
	two.Batches = []models.Batch{cut(0, 2), cut(2, 5)}
	start, _ := train.Start(facts)
	again, err := train.round(context.Background(), start, 1, make([][]byte, 3), []*models.Rows{&two, nil, nil})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.Append(nil), s.Append(nil)) {
		t.Error("two batches are not one")
	}
}

// Rows that break the vault's promise are refused, and nothing panics.
func TestBrokenRows(t *testing.T) {
	facts, spec, rows := trial(t)
	a, err := newTrain(facts, spec)
	if err != nil {
		t.Fatal(err)
	}
	good := rows[0].Batches[0]
	other := rows[1].Batches[0]
	wrongLevels := trialSpec()
	wrongLevels.Columns[1].Levels = []string{"rIFN-g", "placebo"}
	at := map[string]int{"id": 0, "treat": 1, "sex": 2, "age": 3, "height": 4, "weight": 5, "inherit": 6, "steroids": 7, "propylac": 8, "any": 9, "fu": 10}
	line := [][]string{{"a", "placebo", "male", "10", "140", "30", "X-linked", "0", "1", "1", "5"}}
	huge := [][]string{{"a", "placebo", "male", "10", "1e200", "30", "X-linked", "0", "1", "1", "5"}}
	wrongType := trialSpec()
	wrongType.Columns[3].Type = consilium.TypeNumber
	short := good
	short.Selected = short.Selected[1:]
	negative := good
	negative.Patient = make([]int32, len(good.Patient))
	negative.Patient[0] = -1
	far := good
	far.Patient = make([]int32, len(good.Patient))
	far.Patient[0] = 1000
	split := good
	split.Holdout = make([]float64, len(good.Holdout))
	split.Holdout[0] = math.NaN()
	missing := other
	missing.Record = missing.Record.NewSlice(0, 0)
	for name, r := range map[string]*models.Rows{
		"levels in another order": rowsOf(t, wrongLevels, line, at),
		"another type":            rowsOf(t, wrongType, line, at),
		"a huge value":            rowsOf(t, trialSpec(), huge, at),
		"short selection":         {Batches: []models.Batch{short}, Patients: rows[0].Patients},
		"negative ordinal":        {Batches: []models.Batch{negative}, Patients: rows[0].Patients},
		"far ordinal":             {Batches: []models.Batch{far}, Patients: rows[0].Patients},
		"holdout not a number":    {Batches: []models.Batch{split}, Patients: rows[0].Patients},
		"record cut short":        {Batches: []models.Batch{missing}, Patients: rows[1].Patients},
		"no patients":             {Batches: []models.Batch{good}, Patients: -1},
	} {
		if _, err := a.read(r); !errors.Is(err, consilium.ErrData) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Studies that cannot give a model end with a problem in the result, in no
// error that others could read, and never in NaN.
func TestProblems(t *testing.T) {
	facts, spec, rows := trial(t)
	want := func(name, code string, facts consilium.Facts, spec *consilium.AnalysisSpec, rows []*models.Rows) {
		t.Helper()
		_, err := Simulate(context.Background(), facts, spec, rows)
		var p *models.Problem
		if !errors.As(err, &p) || string(p.Code) != code || p.Next == "" {
			t.Errorf("%s: %v, want %s", name, err, code)
		}
	}
	few := facts
	few.MinCohort = 128
	want("fewer patients than k", "analysis.patients", few, spec, rows)
	want("nobody", "analysis.patients", facts, spec, make([]*models.Rows, len(rows)))
	one := facts
	one.Sites, one.MinCohort = facts.Sites[4:5], 1
	healthy := 0
	for i, s := range facts.Sites {
		if s == "harvard" {
			healthy = i
		}
	}
	want("no event", "analysis.events", one, spec, rows[healthy:healthy+1])
	wild := *spec
	wild.Strategy = &consilium.Strategy{Rate: 100, ServerRate: 100, Clip: 1e6, Rounds: 50}
	wild.Response = &consilium.Response{Column: "fu"}
	wild.Model = &consilium.ModelSpec{Layers: layers(16, "relu", 1), Loss: "squared"}
	want("divergence", "analysis.diverged", facts, &wild, rows)
}

// Cancelling a study stops a round.
func TestCancel(t *testing.T) {
	facts, spec, rows := trial(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Simulate(ctx, facts, spec, rows); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// The AUC from counts against the definition over all pairs of grid scores.
func TestAUC(t *testing.T) {
	src := newSource(consilium.DomainSeed.Digest([]byte("auc")))
	for range 50 {
		zero, one := make([]float64, bins), make([]float64, bins)
		var z0, z1 []int
		for range 1 + src.intn(40) {
			z := bin(12 * src.uniform())
			zero[z]++
			z0 = append(z0, z)
			z = bin(12*src.uniform() + 1)
			one[z]++
			z1 = append(z1, z)
		}
		var wins float64
		for _, a := range z1 {
			for _, b := range z0 {
				if a > b {
					wins++
				} else if a == b {
					wins += 0.5
				}
			}
		}
		if got, want := auc(zero, one), wins/float64(len(z0)*len(z1)); !near(got, want, 1e-12) {
			t.Fatalf("AUC %v, over pairs %v", got, want)
		}
	}
	if !math.IsNaN(auc(make([]float64, bins), make([]float64, bins))) {
		t.Error("an AUC of nobody")
	}
	for _, c := range []struct {
		z    float64
		want int
	}{{-1e9, 0}, {-8, 0}, {-7.875, 1}, {-7.8751, 0}, {0, 64}, {-1e-9, 63}, {7.99, 127}, {8, 127}, {1e9, 127}} {
		if got := bin(c.z); got != c.want {
			t.Errorf("score %v in bin %d, want %d", c.z, got, c.want)
		}
	}
}

// Publishing the mean of a flag with the model tells how many patients have it:
// the naive twin recovers the count; the real scaling is the same for all.
func TestFlagMeansWouldTell(t *testing.T) {
	facts, spec, rows := trial(t)
	spec.Holdout = 0
	spec.Strategy = &consilium.Strategy{Rounds: 1}
	o := simulate(t, facts, spec, rows).Outcome
	a, err := newTrain(facts, spec)
	if err != nil {
		t.Fatal(err)
	}
	tab, err := a.read(Pool(rows))
	if err != nil {
		t.Fatal(err)
	}
	const steroids = 6
	var count, naive float64
	for i := range tab.rows() {
		count += tab.x[i*tab.inputs+steroids]
	}
	naive = count / float64(*o.Rows) // what a published mean would be
	if math.Round(naive*float64(*o.Rows)) != count || count >= float64(facts.MinCohort) {
		t.Fatalf("the naive twin does not recover a small count: %v of %v", naive, count)
	}
	if in := o.Inputs[steroids]; in.Name != "steroids" || in.Mean != 0.5 || in.SD != 0.5 {
		t.Errorf("the result publishes %+v", in)
	}
}

// A split's small count does not follow from the other's and the total.
func TestSmallCountsStayHidden(t *testing.T) {
	facts, spec, rows := trial(t)
	spec.Strategy = &consilium.Strategy{Rounds: 1}
	o := simulate(t, facts, spec, rows).Outcome
	if o.Events == nil || *o.Events != 44 {
		t.Fatal("the total should be published")
	}
	if o.Holdout.Events != nil || o.Training.Events != nil {
		t.Errorf("holdout events %v, training events %v: fewer than k stand in the holdout", o.Holdout.Events, o.Training.Events)
	}
	var items []string
	for _, s := range o.Suppressed {
		items = append(items, s.Item)
	}
	if want := []string{"training.events", "holdout.events", "digits of what is measured of training and holdout", "calibration"}; !slices.Equal(items, want) {
		t.Errorf("suppressed: %q, want %q", items, want)
	}
}

// An AUC is a fraction over pairs of a row with and one without the event: its
// digits tell how many have it, and the shares of a calibration add up to them.
// The naive twin publishes both in full.
func TestDigitsWouldTell(t *testing.T) {
	facts, spec, rows := trial(t)
	spec.Strategy = &consilium.Strategy{Rounds: 2}
	run := simulate(t, facts, spec, rows)
	o := run.Outcome
	a, err := newTrain(facts, spec)
	if err != nil {
		t.Fatal(err)
	}
	v, err := a.view(run.State)
	if err != nil {
		t.Fatal(err)
	}
	if o.Training.Events != nil {
		t.Fatal("training.events is not hidden, so that there is nothing to tell")
	}
	n, events := v.head[headRows], v.head[headEvents]
	// The holdout has 1 to k-1 of the events.
	from, to := float64(*o.Events)-float64(facts.MinCohort-1), float64(*o.Events)-1
	// agree lists the counts for which some AUC rounds to what is published.
	agree := func(auc, error float64) (list []float64) {
		for e := from; e <= to; e++ {
			pairs := 2 * e * (n - e)
			if math.Abs(math.Round(auc*pairs)/pairs-auc) <= error {
				list = append(list, e)
			}
		}
		return list
	}
	if list := agree(*a.named(v.final[0]).AUC, 1e-12); !slices.Equal(list, []float64{events}) {
		t.Errorf("the naive twin leaves %v, there are %v", list, events)
	}
	if list := agree(*o.Training.AUC, 0.01); len(list) != int(to-from)+1 {
		t.Errorf("the AUC %v leaves %v events only", *o.Training.AUC, list)
	}
	for _, curve := range [][]*float64{o.Curves.TrainingAUC, o.Curves.HoldoutAUC, {o.Training.AUC, o.Training.Brier, o.Training.Loss, o.Holdout.AUC, o.Holdout.Brier, o.Holdout.Loss}} {
		for _, x := range curve {
			if x != nil && !near(math.Round(*x*50), *x*50, 1e-9) {
				t.Errorf("%v is published of 102 and 26 rows", *x)
			}
		}
	}
	sum := 0.0
	for _, c := range a.calibration(v, 0) {
		sum += *c.Observed * float64(c.Patients)
	}
	if math.Round(sum) != events {
		t.Errorf("the naive twin's calibration adds up to %v, there are %v", sum, events)
	}
	if o.Calibration != nil {
		t.Errorf("published: %+v", o.Calibration)
	}
}

// The mean of whole numbers is a fraction over those that are known: where few
// are missing its digits tell how few. The naive twin standardises by it.
func TestMeansWouldTell(t *testing.T) {
	facts, spec, _ := trial(t)
	spec.Holdout = 0
	a, err := newTrain(facts, spec)
	if err != nil {
		t.Fatal(err)
	}
	age := slices.IndexFunc(a.scales, func(s scale) bool { return s.name == "age" })
	prepare := func(missing float64) []float64 {
		counts, moments := make([]float64, countLength), make([]float64, momentWidth*len(a.scales))
		counts[headRows], counts[headPatients], counts[headEvents] = 128, 128, 44
		for j := range a.scales {
			copy(moments[momentWidth*j:], []float64{128, 1873, 40001, 128, 0})
		}
		copy(moments[momentWidth*age:], []float64{128 - missing, 1873, 40001, 128 - missing, missing})
		s, err := a.Start(facts)
		if err != nil {
			t.Fatal(err)
		}
		v, err := a.view(s)
		if err != nil {
			t.Fatal(err)
		}
		if code, _, err := a.prepared(v, models.Opened{Values: map[string][]float64{"counts": counts, "response": {44, 44}, "moments": moments}}); code != 0 || err != nil {
			t.Fatal(code, err)
		}
		return v.inputs[inLength*age : inLength*(age+1)]
	}
	recovered := func(mean float64) (list []int) {
		for n := 118; n <= 127; n++ { // 1 to 10 are missing
			if near(math.Round(mean*float64(n)), mean*float64(n), 1e-9) {
				list = append(list, 128-n)
			}
		}
		return list
	}
	if list := recovered(1873. / 125); !slices.Equal(list, []int{3}) {
		t.Errorf("the naive twin leaves %v missing, 3 are", list)
	}
	if in := prepare(3); in[inMean] != 16 || in[inSD] != 8 {
		t.Errorf("standardised by %v and %v", in[inMean], in[inSD])
	}
	for _, missing := range []float64{0, 11} {
		if in := prepare(missing); in[inMean] != 1873/(128-missing) {
			t.Errorf("%v missing: standardised by %v", missing, in[inMean])
		}
	}
}

// What `study check` prints has the layouts of all three kinds of rounds.
func TestDisclose(t *testing.T) {
	facts, spec, _ := trial(t)
	for _, name := range []string{"fedavg", "scaffold", "fedadam"} {
		spec.Strategy = &consilium.Strategy{Name: name, Rounds: 7, Bits: 24}
		a, err := newTrain(facts, spec)
		if err != nil {
			t.Fatal(err)
		}
		var d models.Disclosure
		if err := a.Disclose(&d); err != nil {
			t.Fatal(err)
		}
		if d.Rounds != 9 || len(d.Layouts) != 3 || len(d.Columns) != 9 || d.Result == "" {
			t.Errorf("%s: %+v", name, d)
		}
		learned := 0
		for _, l := range d.Layouts {
			if err := l.Validate(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			for _, b := range l.Blocks {
				if b.Kind != consilium.Exact {
					learned++
				}
			}
		}
		if want := map[string]int{"fedavg": 1, "fedadam": 1, "scaffold": 2}[name]; learned != want {
			t.Errorf("%s: %d learned blocks, want %d", name, learned, want)
		}
		if n, err := Rounds(spec); err != nil || n != d.Rounds {
			t.Errorf("%s: Rounds gives %d, %v", name, n, err)
		}
	}
}
