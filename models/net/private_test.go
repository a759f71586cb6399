package net

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"consilium"
	"consilium/internal/dp"
	"consilium/models"
)

// privateTrial is the trial under a budget, with the bounds of its dictionary.
func privateTrial(t testing.TB, epsilon float64) (consilium.Facts, *consilium.AnalysisSpec, []*models.Rows) {
	t.Helper()
	facts, spec, rows := trial(t)
	for i := range facts.Spec.Columns {
		switch c := &facts.Spec.Columns[i]; c.Name {
		case "age":
			c.Bounds = &[2]float64{0, 60}
		case "height":
			c.Bounds = &[2]float64{50, 210}
		case "weight":
			c.Bounds = &[2]float64{0, 120}
		}
	}
	facts.Spec.Sites = consilium.SiteRule{Min: 10, Faults: 1}
	facts.Spec.Privacy.DP = &consilium.DP{Epsilon: epsilon, Delta: 1e-6, Clip: 1}
	facts.Spec.Analyses = []consilium.AnalysisSpec{*spec}
	return facts, &facts.Spec.Analyses[0], rows
}

// privateWaves is a study of series of which patients have up to n windows.
func privateWaves(t testing.TB, epsilon float64, n int) (consilium.Facts, *consilium.AnalysisSpec, []*models.Rows) {
	t.Helper()
	facts, spec, rows := waves(t, 8, 2)
	for i := range facts.Spec.Columns {
		if c := &facts.Spec.Columns[i]; c.Type == consilium.TypeNumber {
			c.Bounds = &[2]float64{90, 110}
			if strings.HasSuffix(c.Name, "c1") {
				c.Bounds = &[2]float64{190, 210}
			}
		}
	}
	for _, r := range rows {
		b := &r.Batches[0]
		r.Patients = 0
		for i := range b.Patient {
			if r.Patients == 0 || i%n == 0 || i%7 == 0 {
				r.Patients++
			}
			b.Patient[i] = int32(r.Patients - 1)
			b.Holdout[i] = float64((r.Patients*37)%100) / 100
		}
	}
	facts.Spec.Sites = consilium.SiteRule{Min: 3, Faults: 1}
	facts.Spec.Privacy.DP = &consilium.DP{Epsilon: epsilon, Delta: 1e-6, Clip: 1}
	spec.Strategy = &consilium.Strategy{Name: "fedadam", Rounds: 6}
	facts.Spec.Analyses = []consilium.AnalysisSpec{*spec}
	return facts, &facts.Spec.Analyses[0], rows
}

func drawNoise(rows []*models.Rows, n uint64) {
	for i, r := range rows {
		var b [16]byte
		binary.BigEndian.PutUint64(b[:], n)
		binary.BigEndian.PutUint64(b[8:], uint64(i))
		r.Noise = consilium.DomainNoise.Digest(b[:])
	}
}

// TestRowGradients: what a batch says of some of its rows has the bits of a
// machine that sees these rows alone, one at a time and several, for every layer
// and loss that is a sum over rows.
func TestRowGradients(t *testing.T) {
	t.Run("float32", rowGradients[float32])
	t.Run("float64", rowGradients[float64])
}

func rowGradients[T real](t *testing.T) {
	const batch = 7
	for i, c := range structured {
		n := structuredNet(t, i, map[bool]string{true: "float32", false: "float64"}[dtypeOf[T]() == dtypeOf[float32]()])
		if n.loss == partial {
			continue
		}
		m, err := newMachine[T](n, batch, true)
		if err != nil {
			t.Fatal(err)
		}
		fillStructured(m)
		m.apart(true)
		if err := m.run(); err != nil {
			t.Fatal(err)
		}
		for from := range batch {
			for to := from + 1; to <= batch; to++ {
				one, err := newMachine[T](n, to-from, true)
				if err != nil {
					t.Fatal(err)
				}
				copy(one.params, m.params)
				copy(one.x, m.x[from*n.inputs:])
				copy(one.y, m.y[from*n.targets():])
				copy(one.weight, m.weight[from*n.weights():])
				if err := one.run(); err != nil {
					t.Fatal(err)
				}
				m.rows(from, to)
				for k := range one.grads {
					if m.grads[k] != one.grads[k] {
						t.Fatalf("%s %v: rows %d to %d: gradient %d is %v, of these rows alone %v", c.loss, c.layers, from, to-1, k, m.grads[k], one.grads[k])
					}
				}
			}
		}
	}
}

// sumsOf is a hospital's sum of a phase, before noise.
func sumsOf(t testing.TB, a *train, phase uint32, v view, tab *table) []int64 {
	t.Helper()
	sums := make([]int64, a.privateLength(phase))
	var err error
	switch {
	case phase == phasePrepare:
		a.privateCounts(tab, sums)
	case phase == phaseTrain && a.net.double:
		err = privateGradient[float64](t.Context(), a, v, tab, sums)
	case phase == phaseTrain:
		err = privateGradient[float32](t.Context(), a, v, tab, sums)
	case a.net.double:
		err = privateScores[float64](t.Context(), a, v, tab, sums)
	default:
		err = privateScores[float32](t.Context(), a, v, tab, sums)
	}
	if err != nil {
		t.Fatal(err)
	}
	return sums
}

// only keeps the rows of a table for which keep says so.
func (t *table) only(keep func(i int) bool) *table {
	out := &table{inputs: t.inputs, ordinals: t.ordinals}
	for i := range t.y {
		if keep(i) {
			out.x = append(out.x, t.x[i*t.inputs:(i+1)*t.inputs]...)
			out.y, out.holdout, out.patient = append(out.y, t.y[i]), append(out.holdout, t.holdout[i]), append(out.patient, t.patient[i])
		}
	}
	return out
}

func started(t testing.TB, facts consilium.Facts, spec *consilium.AnalysisSpec) (*train, *models.State, view) {
	t.Helper()
	a, err := newTrain(facts, spec)
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.Start(facts)
	if err != nil {
		t.Fatal(err)
	}
	v, err := a.view(s)
	if err != nil {
		t.Fatal(err)
	}
	v.head[headRows], v.head[headEvents] = 90, 30 // as if round 1 had opened them
	return a, s, v
}

// TestPatientGradients holds a hospital's sum against an oracle that takes every
// row through a network of its own, adds up a patient's, clips by the formula,
// and rounds.
func TestPatientGradients(t *testing.T) {
	facts, spec, rows := privateWaves(t, 1, 3)
	spec.Model.Layers, spec.Model.DType = layers(conv1d(3, 3, 0, "same"), "tanh", recurrent(3, false), 1), "float64"
	spec.Model.Balanced = true
	facts.Spec.Privacy.DP.Clip = 2
	for _, clip := range []float64{0.05, 1, 50} {
		spec.Strategy.Clip = clip
		a, _, v := started(t, facts, spec)
		tab, err := a.read(rows[0])
		if err != nil {
			t.Fatal(err)
		}
		got := sumsOf(t, a, phaseTrain, v, tab)
		e := newExamples[float64](a, v, tab)
		m, err := newMachine[float64](a.net, 1, true)
		if err != nil {
			t.Fatal(err)
		}
		load(v, m.params)
		patients := map[int32][]float64{}
		k := 0
		for i, held := range tab.holdout {
			if held {
				continue
			}
			p := tab.patient[i]
			if patients[p] == nil {
				patients[p] = make([]float64, a.net.params)
			}
			e.fill(m, []int{k}, 1)
			k++
			if err := m.run(); err != nil {
				t.Fatal(err)
			}
			for j, g := range m.grads {
				patients[p][j] += g
			}
		}
		unit := a.private.gradient.SD() / math.Sqrt(a.private.gradient.Release().Mu)
		want := make([]float64, a.net.params)
		cut := 0
		for _, x := range patients {
			norm := 0.0
			for _, g := range x {
				norm += g * g
			}
			shrink := min(1, 2*clip/math.Sqrt(norm))
			if shrink < 1 {
				cut++
			}
			for j, g := range x {
				want[j] += g * shrink / unit
			}
		}
		if cut > 0 && clip == 50 || cut < len(patients) && clip == 0.05 {
			t.Errorf("clip %v: %d of %d patients are clipped", clip, cut, len(patients))
		}
		for j := range want {
			// Rounded by half a unit, and clipped at a norm that leaves room for it.
			if math.Abs(float64(got[j])-want[j]) > 0.5*float64(len(patients))+0.02*math.Abs(want[j]) {
				t.Errorf("clip %v: value %d is %d units, want %v", clip, j, got[j], want[j])
			}
		}
	}
}

// TestPrivateTrainingSensitivity: leaving out any one patient, whatever its rows
// and whatever the weights, changes a hospital's integers by exactly that patient's
// own vector, of at most the norms that the accountant was told.
//
// The naive twins: rows that are clipped one by one let a patient with many
// through several times; a sum of floating-point gradients does not even change
// by what the patient adds.
func TestPrivateTrainingSensitivity(t *testing.T) {
	src := newSource(consilium.DomainSeed.Digest([]byte("hostile")))
	for _, c := range []struct {
		loss  string
		dtype string
		list  []any
	}{
		{"logistic", "float32", []any{conv1d(3, 3, 0, "same"), "relu", pool(2, 0), recurrent(3, true), 4, "tanh", 1}},
		{"squared", "float64", []any{recurrent(3, false), 1}},
		{"reconstruction", "float32", []any{5, "sigmoid", 16}},
	} {
		facts, spec, rows := privateWaves(t, 1, 100) // some with more windows than a batch
		spec.Model.Layers, spec.Model.Loss, spec.Model.DType = layers(c.list...), c.loss, c.dtype
		a, s, v := started(t, facts, spec)
		for trial := range 6 {
			tab, err := a.read(rows[trial%len(rows)])
			if err != nil {
				t.Fatal(err)
			}
			for range 400 { // more rows of patients that are there
				i := src.intn(tab.rows())
				tab.x = append(tab.x, tab.x[i*tab.inputs:(i+1)*tab.inputs]...)
				tab.y, tab.patient, tab.holdout = append(tab.y, tab.y[i]), append(tab.patient, tab.patient[i]), append(tab.holdout, tab.holdout[i])
			}
			scale := []float64{0, 1, 1, 30, 1e4, 1e30}[trial]
			for i := range a.net.params {
				v.setWeight(i, scale*src.uniform())
			}
			if trial > 0 { // rows that no table could hold
				for range 20 {
					tab.x[src.intn(len(tab.x))] = []float64{1e300, -1e300, math.Inf(1), math.NaN(), 1e9}[src.intn(5)]
				}
			}
			for _, phase := range []uint32{phasePrepare, phaseTrain, phaseEvaluate} {
				s.Phase = phase
				noise, name := a.private.at(phase)
				most := noise.Release()
				whole := sumsOf(t, a, phase, v, tab)
				largest := 0.0
				for p := range int32(tab.ordinals) {
					rest := sumsOf(t, a, phase, v, tab.only(func(i int) bool { return tab.patient[i] != p }))
					own := sumsOf(t, a, phase, v, tab.only(func(i int) bool { return tab.patient[i] == p }))
					var l1, l2 float64
					for i := range whole {
						d := float64(whole[i] - rest[i])
						if d != float64(own[i]) {
							t.Fatalf("%s, %s: without patient %d value %d changes by %v, of the patient alone it is %v", c.loss, name, p, i, d, own[i])
						}
						l1, l2 = l1+math.Abs(d), l2+d*d
					}
					if l1 > most.L1 || math.Sqrt(l2) > most.L2 {
						t.Fatalf("%s, %s: a patient adds norms %v and %v, the accountant counts %v and %v", c.loss, name, l1, math.Sqrt(l2), most.L1, most.L2)
					}
					largest = max(largest, math.Sqrt(l2))
				}
				if trial == 1 && phase != phaseTrain && largest < most.L2/4 {
					t.Errorf("%s, %s: the largest contribution is %v of %v: the noise is larger than it need be", c.loss, name, largest, most.L2)
				}
			}
		}
	}

	// The twins, on a patient with ten windows.
	facts, spec, rows := privateWaves(t, 1, 100)
	spec.Strategy.Clip = 0.01
	a, _, v := started(t, facts, spec)
	tab, err := a.read(rows[0])
	if err != nil {
		t.Fatal(err)
	}
	first := tab.only(func(i int) bool { return tab.patient[i] == tab.patient[0] })
	for first.rows() < 10 {
		first.x = append(first.x, first.x[:first.inputs]...)
		first.y, first.patient, first.holdout = append(first.y, first.y[0]), append(first.patient, first.patient[0]), append(first.holdout, first.holdout[0])
	}
	for i := range first.holdout {
		first.holdout[i] = false
	}
	alone := *first
	alone.patient, alone.ordinals = make([]int32, first.rows()), first.rows()
	for i := range alone.patient {
		alone.patient[i] = int32(i) // every row a patient of its own
	}
	square := func(x []int64) (s float64) {
		for _, k := range x {
			s += float64(k) * float64(k)
		}
		return s
	}
	most := a.private.gradient.Release().L2
	if twin := math.Sqrt(square(sumsOf(t, a, phaseTrain, v, &alone))); twin < 2*most {
		t.Errorf("clipping row by row: a patient adds %v of %v", twin, most)
	}
	if own := math.Sqrt(square(sumsOf(t, a, phaseTrain, v, first))); own > most {
		t.Errorf("a patient of ten windows adds %v of %v", own, most)
	}
	e := newExamples[float32](a, v, tab)
	gradient := func(n int) []float32 {
		m, err := newMachine[float32](a.net, e.n, true)
		if err != nil {
			t.Fatal(err)
		}
		load(v, m.params)
		var list []int
		for i := range n {
			list = append(list, i)
		}
		e.fill(m, list, 1)
		if err := m.run(); err != nil {
			t.Fatal(err)
		}
		return m.grads
	}
	all, less, one := gradient(e.n), gradient(e.n-1), make([]float32, a.net.params)
	m, err := newMachine[float32](a.net, 1, true)
	if err != nil {
		t.Fatal(err)
	}
	load(v, m.params)
	e.fill(m, []int{e.n - 1}, 1)
	if err := m.run(); err != nil {
		t.Fatal(err)
	}
	copy(one, m.grads)
	off := 0
	for i := range all {
		if all[i]-less[i] != one[i] {
			off++
		}
	}
	if off == 0 {
		t.Error("floating-point sums change by what a row adds: then integers are not needed")
	}
}

// TestPrivateTrainingSpends: what a study costs is within its budget, wastes
// little of it, and is debited round by round as it is opened.
func TestPrivateTrainingSpends(t *testing.T) {
	for _, epsilon := range []float64{0.5, 1, 4, 8} {
		for _, rounds := range []int{1, 5, 30} {
			facts, spec, _ := privateTrial(t, epsilon)
			spec.Strategy = &consilium.Strategy{Rounds: rounds}
			whole, err := models.New(facts, map[string]models.Constructor{consilium.AnalysisTrain: New})
			if err != nil {
				t.Fatal(err)
			}
			all, err := models.Releases(facts, map[string]models.Constructor{consilium.AnalysisTrain: New})
			if err != nil {
				t.Fatal(err)
			}
			if e := dp.Epsilon(all, 1e-6); e > epsilon || e < 0.85*epsilon || len(all) != rounds+2 {
				t.Errorf("%d releases of epsilon %v cost %v", len(all), epsilon, e)
			}
			s, err := whole.Start(facts)
			if err != nil {
				t.Fatal(err)
			}
			var opened []dp.Release
			for !s.Done {
				r, err := models.RoundReleases(whole, s)
				if err != nil {
					t.Fatal(err)
				}
				opened = append(opened, r...)
				l, err := whole.Layout(s)
				if err != nil {
					t.Fatal(err)
				}
				o := models.Opened{Contributors: []consilium.Position{1, 2}, Values: map[string][]float64{}}
				for _, b := range l.Blocks {
					o.Values[b.Name] = make([]float64, b.Length)
					for i := range o.Values[b.Name] {
						o.Values[b.Name][i] = 40
					}
				}
				if s, err = whole.Update(s, o); err != nil {
					t.Fatal(err)
				}
			}
			if fmt.Sprint(opened) != fmt.Sprint(all) {
				t.Errorf("rounds are debited for %v, the study lists %v", opened, all)
			}
		}
	}
}

// TestPrivateTrainingAnswers: with a generous budget a private model does as well
// as one without, everything that a result says of it is near what is so, and with
// a hopeless budget it says that nothing was learned.
func TestPrivateTrainingAnswers(t *testing.T) {
	for _, c := range []struct {
		loss, dtype string
		list        []any
	}{
		{"logistic", "float32", []any{conv1d(4, 3, 0, "same"), "tanh", consilium.Layer{Kind: "average"}, 4, "tanh", 1}},
		{"reconstruction", "float64", []any{6, "tanh", 16}},
		{"squared", "float32", []any{6, "tanh", 1}},
	} {
		facts, spec, rows := privateWaves(t, 1e6, 3)
		spec.Model.Layers, spec.Model.Loss, spec.Model.DType = layers(c.list...), c.loss, c.dtype
		spec.Strategy = &consilium.Strategy{Name: "fedadam", Rounds: 60}
		drawNoise(rows, 1)
		if c.loss == "squared" { // the last value of the second channel from the others
			spec.Response = &consilium.Response{Column: "t7_c1"}
			spec.Features = spec.Features[:15]
			spec.Model.Input = nil
		}
		facts.Spec.Privacy.DP.Clip = 3
		run := simulate(t, facts, spec, rows)
		o := run.Outcome
		training, holdout, err := Evaluate(t.Context(), facts, spec, run.State, rows)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: training %s %s %s, without noise %s %s %s; holdout %s %s", c.loss, show(o.Training.Loss), show(o.Training.AUC), show(o.Training.R2),
			show(training.Loss), show(training.AUC), show(training.R2), show(o.Holdout.AUC), show(holdout.AUC))
		if o.DP == nil || o.DP.Epsilon != 1e6 || o.DP.Releases != 62 || o.DP.HonestLeft != 2 {
			t.Errorf("%s: the result says it spent %+v", c.loss, o.DP)
		}
		if o.ExcludedRows != (ExcludedRows{}) || o.Inputs[0].Missing != nil || o.Inputs[0].Mean != 100 {
			t.Errorf("%s: %+v, %+v", c.loss, o.ExcludedRows, o.Inputs[0])
		}
		if !strings.Contains(strings.Join(o.Warnings, " "), "noise") || strings.Contains(strings.Join(o.Warnings, " "), "cannot be told") {
			t.Errorf("%s: %v", c.loss, o.Warnings)
		}
		switch c.loss {
		case "logistic":
			if *training.AUC < 0.8 || !near(*o.Training.AUC, *training.AUC, 0.06) || !near(*o.Training.Brier, *training.Brier, 0.05) || !near(*o.Training.Loss, *training.Loss, 0.1) {
				t.Errorf("logistic: %+v, without noise %+v", o.Training, training)
			}
		case "squared":
			if !(*training.R2 > 0) || !near(*o.Training.R2, *training.R2, 0.1) {
				t.Errorf("squared: R² %s, without noise %s", show(o.Training.R2), show(training.R2))
			}
		case "reconstruction":
			if len(o.Thresholds) == 0 || !(*training.Loss < 0.6) {
				t.Errorf("reconstruction: %d thresholds, loss %s", len(o.Thresholds), show(training.Loss))
			}
		}
	}
	facts, spec, rows := privateTrial(t, 0.5)
	o := simulate(t, facts, spec, rows).Outcome
	if !strings.Contains(strings.Join(o.Warnings, " "), "cannot be told from the noise") {
		t.Errorf("under hopeless noise: %v", o.Warnings)
	}
}

// TestPrivateTrainingRepeats: the same secrets give the same bits, for any number
// of threads and whatever order rows stand in; other secrets give others.
func TestPrivateTrainingRepeats(t *testing.T) {
	facts, spec, rows := privateWaves(t, 4, 3)
	digest := func() consilium.Digest {
		r := simulate(t, facts, spec, rows)
		return consilium.DomainState.Digest(r.State.Append(nil), r.Result.JSON)
	}
	first := digest()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	if digest() != first {
		t.Error("one thread gives another result")
	}
	runtime.GOMAXPROCS(7)
	if digest() != first {
		t.Error("seven threads give another result")
	}
	for _, r := range rows { // patients in another order: each keeps the order of its rows
		whole := r.Batches[0]
		r.Batches = nil
		for p := r.Patients - 1; p >= 0; p-- {
			b := whole
			b.Selected = make([]bool, len(whole.Selected))
			for i, who := range whole.Patient {
				b.Selected[i] = int(who) == p
			}
			r.Batches = append(r.Batches, b)
		}
	}
	if digest() != first {
		t.Error("the patients in another order give another result")
	}
	drawNoise(rows, 5)
	if digest() == first {
		t.Error("other secrets give the same result")
	}
}

// opened is a round's sum as a coalition sees it: everybody's integers, and the
// noise of the honest minimum (the others know their own).
func openedByCoalition(t testing.TB, a *train, s *models.State, v view, rows []*models.Rows, noisy bool) []float64 {
	t.Helper()
	noise, name := a.private.at(s.Phase)
	unit := noise.SD() / math.Sqrt(noise.Release().Mu)
	honest := models.NewSpent(a.facts, nil).HonestLeft
	out := make([]float64, a.privateLength(s.Phase))
	for i, r := range rows {
		tab, err := a.read(r)
		if err != nil {
			t.Fatal(err)
		}
		sums := sumsOf(t, a, s.Phase, v, tab)
		values := make([]float64, len(sums))
		for k, x := range sums {
			values[k] = float64(x) * unit
		}
		if noisy && i < honest {
			if values, err = noise.Add(sums, r.Noise, fmt.Sprintf("%s/%d", name, s.Iteration)); err != nil {
				t.Fatal(err)
			}
		}
		for k, x := range values {
			out[k] += x
		}
	}
	return out
}

// TestGradientInversion: whoever knows all other patients subtracts them from a
// round's sum and reads the last one's row off the gradient of the first layer,
// whose columns are the row times its slopes (Geiping et al., NeurIPS 2020,
// proposition 3.1). Without privacy that is what fedavg with one local step opens;
// under a budget what comes out tells yes from no no better than a coin.
func TestGradientInversion(t *testing.T) {
	facts, spec, rows := privateTrial(t, 4)
	spec.Model.DType = "float64"
	target := func(rows []*models.Rows, site, k int) (without []*models.Rows) {
		without = append([]*models.Rows(nil), rows...)
		one := *rows[site]
		b := one.Batches[0]
		b.Selected = append([]bool(nil), b.Selected...)
		b.Selected[k] = false
		one.Batches = []models.Batch{b}
		without[site] = &one
		return without
	}
	// invert reads the standardised inputs off the gradient of a first layer.
	invert := func(a *train, gradient []float64) []float64 {
		units := a.net.layers[0].out.size()
		bias := gradient[a.net.inputs*units:][:units]
		out := make([]float64, a.net.inputs)
		length := 0.0
		for _, b := range bias {
			length += b * b
		}
		for j := range out {
			for u, b := range bias {
				out[j] += gradient[j*units+u] * b / length
			}
		}
		return out
	}
	score := func(a *train, v view, gradient []float64, r *models.Rows, k int) (right, all int) {
		tab, err := a.read(r)
		if err != nil {
			t.Fatal(err)
		}
		x := invert(a, gradient)
		for j := range a.inputs {
			if truth := v.standardise(j, tab.x[k*tab.inputs+j]); a.inputs[j].binary() {
				all++
				if (x[j] > 0) == (truth > 0) {
					right++
				}
			}
		}
		return right, all
	}

	// The twin: a study without privacy, one local step on all rows.
	open := facts
	plain := *facts.Spec
	plain.Privacy.DP = nil
	open.Spec = &plain
	own := *spec
	own.Strategy = &consilium.Strategy{Name: "fedavg", Rounds: 1, LocalEpochs: 1, Batch: 64, Rate: 1, Bits: 24}
	a, s, v := started(t, open, &own)
	s.Phase = phaseTrain
	v.head[headRows] = 128
	private, err := newTrain(facts, spec)
	if err != nil {
		t.Fatal(err)
	}
	for j, c := range private.private.scales { // as if round 1 had opened them
		v.inputs[inLength*j+inMean], v.inputs[inLength*j+inSD] = c[0], c[1]
	}
	update := func(rows []*models.Rows) []float64 { // as opened
		sum := make([]float64, a.net.params)
		for i, r := range rows {
			tab, err := a.read(r)
			if err != nil {
				t.Fatal(err)
			}
			moved, _, err := descend[float64](t.Context(), a, v, tab, nil, RoundSeed(1, facts.Sites[i], 2))
			if err != nil {
				t.Fatal(err)
			}
			// share of all rows times the mean gradient, in 24 bits
			for k, m := range moved {
				sum[k] += math.RoundToEven(m*float64(tab.count(false))/128*(1<<23-1)) / (1<<23 - 1)
			}
		}
		return sum
	}
	type victim struct{ site, row int }
	var victims []victim
	for site, r := range rows {
		tab, err := a.read(r)
		if err != nil {
			t.Fatal(err)
		}
		for k, held := range tab.holdout {
			if !held && k < 2 {
				victims = append(victims, victim{site, k})
			}
		}
	}
	whole := update(rows)
	right, all := 0, 0
	for _, w := range victims {
		less := update(target(rows, w.site, w.row))
		d := make([]float64, len(whole))
		for i := range d {
			d[i] = whole[i] - less[i]
		}
		r, n := score(a, v, d, rows[w.site], w.row)
		right, all = right+r, all+n
	}
	if right != all || all < 80 {
		t.Errorf("the twin: %d of %d flags of %d patients are read off the sums", right, all, len(victims))
	}

	// Under the budget, at the same weights; every victim under a draw of its own.
	a, s, v = started(t, facts, spec)
	s.Phase = phaseTrain
	right, all = 0, 0
	for seed := range uint64(3 * len(victims)) {
		drawNoise(rows, seed)
		w := victims[int(seed)%len(victims)]
		whole, less := openedByCoalition(t, a, s, v, rows, true), openedByCoalition(t, a, s, v, target(rows, w.site, w.row), false)
		for i := range whole {
			whole[i] -= less[i]
		}
		r, n := score(a, v, whole, rows[w.site], w.row)
		right, all = right+r, all+n
	}
	share := float64(right) / float64(all)
	if share > 0.5+5*0.5/math.Sqrt(float64(all)) {
		t.Errorf("%v of %d flags are read off the noisy sums", share, all)
	}
	t.Logf("%v of %d flags are read off the noisy sums, a coin has 0.5", share, all)
}

// TestPrivateTrainingMembership asks whether one patient is in the cohort, by the
// best linear test over all rounds of a training, knowing all others and the
// noise of all but the honest minimum: without noise the answer is certain, under
// the budget no better than the budget allows.
func TestPrivateTrainingMembership(t *testing.T) {
	const epsilon, n = 0.5, 100
	facts, spec, rows := privateTrial(t, epsilon)
	spec.Model.Layers = layers(4, "tanh", 1)
	spec.Strategy = &consilium.Strategy{Rounds: 6}
	a, err := newTrain(facts, spec)
	if err != nil {
		t.Fatal(err)
	}
	absent := append([]*models.Rows(nil), rows...)
	one := *rows[0]
	b := one.Batches[0]
	b.Selected = append([]bool(nil), b.Selected...)
	victim := 0
	for b.Holdout[victim] < spec.Holdout {
		victim++
	}
	b.Selected[victim] = false
	one.Batches = []models.Batch{b}
	absent[0] = &one
	// statistic is the log likelihood ratio of a Gaussian, which Skellam noise of
	// this size is; above 0 the patient is in.
	statistic := func(world []*models.Rows, seed uint64, noisy bool) float64 {
		drawNoise(world, seed)
		s, err := a.Start(facts)
		if err != nil {
			t.Fatal(err)
		}
		sum := 0.0
		for !s.Done {
			v, err := a.view(s)
			if err != nil {
				t.Fatal(err)
			}
			noise, name := a.private.at(s.Phase)
			opened := openedByCoalition(t, a, s, v, world, noisy)
			known := openedByCoalition(t, a, s, v, absent, false)
			with := openedByCoalition(t, a, s, v, rows, false)
			for i, x := range opened {
				c := with[i] - known[i]
				sum += c * (x - known[i] - c/2) / (noise.SD() * noise.SD())
			}
			if s, err = a.Update(s, models.Opened{Contributors: make([]consilium.Position, len(rows)), Values: map[string][]float64{name: opened}}); err != nil {
				t.Fatal(err)
			}
		}
		return sum
	}
	if !(statistic(rows, 0, false) > 0) || !(statistic(absent, 0, false) < 0) {
		t.Error("the twin without noise: the answer is not certain")
	}
	right := 0.0
	for seed := range uint64(n) {
		if statistic(rows, 2*seed, true) > 0 {
			right++
		}
		if statistic(absent, 2*seed+1, true) <= 0 {
			right++
		}
	}
	right /= 2 * n
	// Five standard errors on top.
	if most := math.Exp(epsilon)/(1+math.Exp(epsilon)) + 5*math.Sqrt(0.25/(2*n)); right > most {
		t.Errorf("the attacker is right %v of the time, the budget allows %v", right, most)
	}
	t.Logf("the attacker is right %v of the time", right)
}

func TestPrivateTrainingRefusals(t *testing.T) {
	for text, edit := range map[string]func(f *consilium.Facts, a *consilium.AnalysisSpec){
		"no sum over patients": func(_ *consilium.Facts, a *consilium.AnalysisSpec) {
			a.Response = &consilium.Response{Stop: "fu", Event: "any"}
			a.Model.Loss = "cox"
		},
		"control variates":      func(_ *consilium.Facts, a *consilium.AnalysisSpec) { a.Strategy.Name = "scaffold" },
		"one step":              func(_ *consilium.Facts, a *consilium.AnalysisSpec) { a.Strategy.Name = "fedprox" },
		"one gradient: a patie": func(_ *consilium.Facts, a *consilium.AnalysisSpec) { a.Strategy.LocalEpochs = 2 },
		"gradient of all rows":  func(_ *consilium.Facts, a *consilium.AnalysisSpec) { a.Strategy.Batch = 16 },
		"would open a loss":     func(_ *consilium.Facts, a *consilium.AnalysisSpec) { a.Strategy.Patience = 3 },
		"exact integers":        func(_ *consilium.Facts, a *consilium.AnalysisSpec) { a.Strategy.Bits = 16 },
		"at most 65536":         func(_ *consilium.Facts, a *consilium.AnalysisSpec) { a.Model.Layers = layers(300, "relu", 300, 1) },
		"fu needs bounds":       func(_ *consilium.Facts, a *consilium.AnalysisSpec) { a.Features = append(a.Features, "fu") },
		"has no bounds": func(f *consilium.Facts, a *consilium.AnalysisSpec) {
			f.Spec.Derive = []consilium.Derived{{Name: "bmi", Expr: "weight / height"}}
			a.Features = append(a.Features, "bmi")
		},
		"leaves no honest": func(f *consilium.Facts, _ *consilium.AnalysisSpec) {
			f.Spec.Sites = consilium.SiteRule{Min: 3, Faults: 3}
		},
		"clip 0":          func(f *consilium.Facts, _ *consilium.AnalysisSpec) { f.Spec.Privacy.DP.Clip = 0 },
		"more noise than": func(f *consilium.Facts, _ *consilium.AnalysisSpec) { f.Spec.Privacy.DP.Epsilon = 0.02 },
	} {
		facts, spec, _ := privateTrial(t, 1)
		edit(&facts, spec)
		if _, err := New(facts, spec); !errors.Is(err, consilium.ErrInvalid) || !strings.Contains(err.Error(), text) {
			t.Errorf("%v, want it to say %q", err, text)
		}
	}
	// A squared loss without bounds of what it predicts.
	facts, spec, _ := privateTrial(t, 1)
	spec.Model.Loss, spec.Response.Column = "squared", "fu"
	_, err := New(facts, spec)
	refused(t, "squared", err, "fu needs bounds")
	// No secret, no vector.
	facts, spec, rows := privateTrial(t, 1)
	a, s, v := started(t, facts, spec)
	tab, err := a.read(rows[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, phase := range []uint32{phasePrepare, phaseTrain, phaseEvaluate} {
		s.Phase = phase
		refused(t, "without a secret", a.privateLocal(context.Background(), s, v, tab, rows[0], nil), "no secret")
	}
}

// TestNonNegative: the nearest list of counts, with the same sum.
func TestNonNegative(t *testing.T) {
	src := newSource(consilium.DomainSeed.Digest([]byte("counts")))
	for range 500 {
		x := make([]float64, 1+src.intn(20))
		sum := 0.0
		for i := range x {
			x[i] = 30 * src.uniform()
			sum += x[i]
		}
		got, total := nonNegative(x), 0.0
		distance := func(y []float64) (d float64) {
			for i := range y {
				d += (y[i] - x[i]) * (y[i] - x[i])
			}
			return d
		}
		for _, v := range got {
			if v < 0 {
				t.Fatalf("%v becomes %v", x, got)
			}
			total += v
		}
		if !near(total, max(0, sum), 1e-9) {
			t.Fatalf("a sum of %v becomes %v", sum, total)
		}
		if !(sum > 0) {
			continue
		}
		for range 20 { // no other one that is near is nearer
			other := append([]float64(nil), got...)
			i, j := src.intn(len(x)), src.intn(len(x))
			if i == j {
				continue
			}
			by := min(math.Abs(src.uniform()), other[i])
			other[i], other[j] = other[i]-by, other[j]+by
			if distance(other) < distance(got)-1e-9 {
				t.Fatalf("%v becomes %v, and %v is nearer", x, got, other)
			}
		}
	}
}

// TestNoiseOfAUC: the stated deviation is that of draws.
func TestNoiseOfAUC(t *testing.T) {
	for _, loss := range []string{"logistic", "reconstruction"} {
		facts, spec, rows := privateWaves(t, 60, 1)
		spec.Model.Loss = loss
		if loss == "reconstruction" {
			spec.Model.Layers = layers(6, "tanh", 16)
		}
		a, s, v := started(t, facts, spec)
		s.Phase = phaseEvaluate
		v.head[headSites] = float64(len(rows))
		exact := openedByCoalition(t, a, s, v, rows, false)
		length := a.scoreLength()
		for i := range exact[:length] { // a larger hospital, so that no count is below zero
			exact[i] = 40*exact[i] + 100
		}
		var square, sum, said float64
		const n = 400
		for seed := range uint64(n) {
			noisy := append([]float64(nil), exact...)
			for i, r := range rows {
				drawNoise(rows, 1000*seed+uint64(i))
				more, err := a.private.scores.Add(make([]int64, len(exact)), r.Noise, "draw")
				if err != nil {
					t.Fatal(err)
				}
				for k := range noisy {
					noisy[k] += more[k]
				}
			}
			e := make([]float64, a.evalLength(phaseEvaluate))
			a.spread(e, noisy[:length])
			v.final[0] = e
			_, area, _ := a.metrics(e)
			sum, square = sum+area, square+area*area
			said += a.noiseOfAUC(v, 0) / n
		}
		sd := math.Sqrt(square/n - sum/n*sum/n)
		if !near(said/sd, 1, 0.2) {
			t.Errorf("%s: an AUC is said to be off by %v, draws are by %v", loss, said, sd)
		}
	}
}

// A private training has the same bits on every processor.
func TestGoldenPrivate(t *testing.T) {
	const want = "3f8e2fe20277cc847b2b2b648f27cc4ec7c026d8c48fd214eb4f1d72df1f872b"
	facts, spec, rows := privateWaves(t, 4, 3)
	spec.Model.Layers = layers(conv1d(4, 3, 0, "same"), "relu", recurrent(3, false), 1)
	var all bytes.Buffer
	for _, name := range []string{"fedavg", "fedyogi"} {
		spec.Strategy = &consilium.Strategy{Name: name, Rounds: 4}
		r := simulate(t, facts, spec, rows)
		all.Write(r.State.Append(nil))
		all.Write(r.Result.JSON)
	}
	if got := consilium.DomainState.Digest(all.Bytes()).String(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// BenchmarkPrivateGradient compares, in one run, a hospital's clipped gradients
// of 512 patients with one plain pass over the same rows in batches of the same
// size: x_plain is the ratio of the least times.
func BenchmarkPrivateGradient(b *testing.B) {
	for _, c := range []struct {
		name string
		list []any
	}{
		{"small", []any{8, "tanh", 1}},
		{"dense", []any{64, "relu", 64, "relu", 1}},
		{"recurrent", []any{conv1d(8, 5, 0, "same"), "relu", recurrent(16, false), 1}},
	} {
		b.Run(c.name, func(b *testing.B) {
			facts, spec, rows := privateWaves(b, 4, 1)
			spec.Model.Layers = layers(c.list...)
			if c.name != "recurrent" {
				spec.Model.Input = nil
			}
			a, _, v := started(b, facts, spec)
			one, err := a.read(rows[0])
			if err != nil {
				b.Fatal(err)
			}
			tab := &table{inputs: one.inputs, ordinals: 512}
			for i := range 512 {
				k := i % one.rows()
				tab.x = append(tab.x, one.x[k*one.inputs:(k+1)*one.inputs]...)
				tab.y, tab.patient, tab.holdout = append(tab.y, one.y[k]), append(tab.patient, int32(i)), append(tab.holdout, false)
			}
			e := newExamples[float32](a, v, tab)
			least := [2]time.Duration{math.MaxInt64, math.MaxInt64}
			for b.Loop() {
				start := time.Now()
				m, err := take[float32](a.net, a.passBatch(), true)
				if err != nil {
					b.Fatal(err)
				}
				load(v, m.params)
				list := make([]int, a.passBatch())
				for from := 0; from < 512; from += len(list) {
					for i := range list {
						list[i] = from + i
					}
					e.load(m, list)
					if err := m.run(); err != nil {
						b.Fatal(err)
					}
				}
				give(m)
				least[0] = min(least[0], time.Since(start))
				start = time.Now()
				sumsOf(b, a, phaseTrain, v, tab)
				least[1] = min(least[1], time.Since(start))
			}
			b.ReportMetric(float64(least[1])/float64(least[0]), "x_plain")
			b.ReportMetric(float64(least[1].Microseconds())/512, "us/patient")
			b.ReportMetric(float64(a.net.params), "parameters")
		})
	}
}
