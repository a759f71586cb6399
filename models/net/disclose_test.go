package net

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"consilium"
	"consilium/internal/fixed"
	"consilium/models"
)

// Whoever sees the opened sums of a study reads the outcome of a single holdout
// patient off the cell that its score falls into: the naive twin, with a least
// cohort of one, gives it away in every round. With a least cohort the holdout of
// few patients is not evaluated at all.
func TestLonelyHoldout(t *testing.T) {
	facts, spec, rows := waves(t, 9, 1)
	spec.Strategy = &consilium.Strategy{Rounds: 3}
	for patient := range 12 {
		var outcome int
		for i, r := range rows {
			for k := range r.Batches[0].Holdout {
				r.Batches[0].Holdout[k] = 0.9
				if i == 2 && k == patient {
					r.Batches[0].Holdout[k] = 0
					outcome = 0
					if r.Batches[0].Record.Column(0).(interface{ Value(int) bool }).Value(k) {
						outcome = 1
					}
				}
			}
		}
		for _, c := range []struct {
			k     int
			falls bool
		}{{1, true}, {5, false}} {
			facts.MinCohort = c.k
			e := openedHoldout(t, facts, spec, rows)
			guess := -1
			for class := range 2 {
				for _, n := range e[evalHist+class*bins : evalHist+(class+1)*bins] {
					if n == 1 {
						guess = class
					}
				}
			}
			if c.falls && guess != outcome {
				t.Errorf("the twin without a least cohort hides patient %d: guess %d, outcome %d", patient, guess, outcome)
			}
			if !c.falls && guess >= 0 {
				t.Errorf("the outcome of patient %d alone in the holdout stands in the sums", patient)
			}
		}
	}
}

// openedHoldout is the sum over hospitals of the second round's holdout block.
func openedHoldout(t *testing.T, facts consilium.Facts, spec *consilium.AnalysisSpec, rows []*models.Rows) []float64 {
	t.Helper()
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
	layout, err := a.Layout(s)
	if err != nil {
		t.Fatal(err)
	}
	sums := make([]int64, layout.Lanes())
	for _, r := range rows {
		w, err := fixed.NewWriter(layout)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Local(context.Background(), s, nil, r, w); err != nil {
			t.Fatal(err)
		}
		lanes, err := w.Lanes()
		if err != nil {
			t.Fatal(err)
		}
		if err := fixed.Add(sums, lanes); err != nil {
			t.Fatal(err)
		}
	}
	values, err := fixed.Open(layout, sums, len(rows))
	if err != nil {
		t.Fatal(err)
	}
	return values["holdout"]
}

// A wearable's patient has many windows, spread over cells of risk. Who adds up
// patients cell by cell, as the naive twin does, publishes what one patient's
// windows say as if it were about many; the larger cell is all that is certain.
func TestManyWindowsOfOnePatient(t *testing.T) {
	facts, spec, rows := waves(t, 9, 1)
	spec.Strategy = &consilium.Strategy{Rounds: 2}
	a, err := newTrain(facts, spec)
	if err != nil {
		t.Fatal(err)
	}
	run := simulate(t, facts, spec, rows)
	v, err := a.view(run.State)
	if err != nil {
		t.Fatal(err)
	}
	// One patient with a window in each of ten cells; everybody else, many, in
	// the last.
	e := v.final[0]
	clear(e)
	c := e[evalHist+2*bins:]
	for i := range 10 {
		c[i], c[2*cells+i], c[3*cells+i] = 1, 1, 0.05*float64(i)
	}
	c[cells-1], c[3*cells-1], c[4*cells-1] = 60, 30, 55
	e[evalRows] = 70
	v.head[headRows], v.head[headPatients] = 70, 31
	naive := 0.0
	for i := range 10 {
		naive += c[2*cells+i]
	}
	if naive < float64(facts.MinCohort) {
		t.Error("the naive twin does not publish the patient's cells")
	}
	for _, cell := range a.calibration(v, 0) {
		if cell.Upper <= 0.5 {
			t.Errorf("cells from %v to %v are published: they are about one patient", cell.Lower, cell.Upper)
		}
	}
	// One row a patient: cells add up.
	v.head[headPatients] = 70
	if list := a.calibration(v, 0); len(list) < 2 || list[0].Patients < int64(facts.MinCohort) || list[0].Upper > 0.5 {
		t.Errorf("calibration %+v", list)
	}
	// No cell is known to hold k patients: all cells are one, about all of them.
	clear(e)
	for i := range cells {
		c[i], c[2*cells+i], c[3*cells+i] = 4, 2, 4*(float64(i)+0.5)/cells
	}
	e[evalRows], v.head[headRows], v.head[headPatients] = 80, 80, 31
	if list := a.calibration(v, 0); len(list) != 1 || list[0].Lower != 0 || list[0].Upper != 1 || list[0].Patients != 31 || !near(*list[0].Expected, 0.5, 1e-12) {
		t.Errorf("calibration where no stretch is fit: %+v", list)
	}
}

// Whatever a model's specification says, it is refused with a message or can be
// compiled and run; it never panics.
func FuzzModel(f *testing.F) {
	for i := range structured {
		n := structuredNet(f, i, "float32")
		b, err := json.Marshal(n.spec)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, uint16(n.inputs))
	}
	f.Add([]byte(`{"layers":[{"kind":"conv1d","units":16384,"kernel":16384,"stride":-1}],"loss":"cox","input":{"steps":16384,"channels":16384}}`), uint16(3))
	f.Fuzz(func(t *testing.T, b []byte, inputs uint16) {
		var m consilium.ModelSpec
		if json.Unmarshal(b, &m) == nil {
			anyModel(t, &m, int(inputs))
		}
	})
}

// Random lists of layers, most of them wrong in some place.
func TestRandomModels(t *testing.T) {
	src := newSource(consilium.DomainSeed.Digest([]byte("random models")))
	sound := 0
	for range 3000 {
		number := func() int {
			if src.intn(20) == 0 {
				return []int{-1, 0, maxUnits, 1 << 40}[src.intn(4)]
			}
			return 1 + src.intn(4)
		}
		inputs := 1 + src.intn(24)
		m := &consilium.ModelSpec{Loss: lossNames[src.intn(len(lossNames))]}
		switch steps := number(); src.intn(3) {
		case 0:
			m.Input = series(steps, 1)
			if steps > 0 && steps < 100 {
				m.Input = series(steps*4, 1)
				inputs = steps * 4
			}
		case 1:
			if side := number(); side > 0 && side < 100 && steps > 0 && steps < 100 {
				m.Input = image(2*side, 2*steps, 1)
				inputs = 4 * side * steps
			}
		}
		for range 1 + src.intn(4) {
			l := consilium.Layer{Kind: kindNames[src.intn(len(kindNames))]}
			switch kinds[l.Kind] {
			case dense:
				l.Units = number()
			case gru:
				l.Units, l.Sequence = number(), src.intn(2) == 0
			case conv:
				l.Units, l.Kernel, l.Stride, l.Padding = number(), number(), number(), []string{"", "same"}[src.intn(2)]
			case maxpool:
				l.Kernel = number()
			}
			m.Layers = append(m.Layers, l)
		}
		last := 1
		if m.Loss == "reconstruction" {
			last = inputs
		}
		m.Layers = append(m.Layers, consilium.Layer{Kind: "dense", Units: last})
		if anyModel(t, m, inputs) {
			sound++
		}
	}
	if sound < 100 {
		t.Errorf("only %d of the random models are sound", sound)
	}
}

// anyModel holds what is true of every specification: it is refused with a
// message, or it can be compiled and run.
func anyModel(t *testing.T, m *consilium.ModelSpec, inputs int) (sound bool) {
	t.Helper()
	n, err := newNetwork(m, inputs, "")
	if err != nil {
		if strings.TrimSpace(err.Error()) == "" {
			t.Error("refused without a word")
		}
		return false
	}
	if n.footprint(2) > 1<<18 || n.params > 1<<18 {
		return true // sound, and too large for a test
	}
	compile.Lock()
	mach, err := newMachine[float32](n, 2, true)
	compile.Unlock()
	if err != nil {
		t.Fatalf("%+v: %v", m, err)
	}
	fill(mach, 0.5)
	if err := mach.run(); err != nil {
		t.Fatalf("%+v: %v", m, err)
	}
	return true
}
