package net

import (
	"fmt"
	"math"
	"runtime"
	"sync"
	"testing"

	"consilium"
)

func layers(list ...any) []consilium.Layer {
	var out []consilium.Layer
	for _, l := range list {
		switch l := l.(type) {
		case int:
			out = append(out, consilium.Layer{Kind: "dense", Units: l})
		case string:
			out = append(out, consilium.Layer{Kind: l})
		case consilium.Layer:
			out = append(out, l)
		}
	}
	return out
}

func mustNet(t testing.TB, inputs int, loss string, list ...any) *network {
	t.Helper()
	n, err := newNetwork(&consilium.ModelSpec{Layers: layers(list...), Loss: loss, DType: "float64"}, inputs, "")
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// oracle is the same network written out by hand in float64: forward pass,
// cost and gradient of sum(weight · loss).
func oracle(n *network, params, x, y, weight []float64) (out []float64, cost float64, grads []float64) {
	grads = make([]float64, n.params)
	for r := range weight {
		values := [][]float64{x[r*n.inputs : (r+1)*n.inputs]}
		for _, l := range n.layers {
			in := values[len(values)-1]
			next := make([]float64, l.out.size())
			for o := range next {
				switch l.kind {
				case dense:
					next[o] = params[l.tensors[1].at+o]
					for i, v := range in {
						next[o] += v * params[l.tensors[0].at+i*len(next)+o]
					}
				case relu:
					next[o] = math.Max(in[o], 0)
				case tanh:
					next[o] = math.Tanh(in[o])
				case sigmoid:
					next[o] = 1 / (1 + math.Exp(-in[o]))
				}
			}
			values = append(values, next)
		}
		z := values[len(values)-1][0]
		out = append(out, z)
		var dz float64
		if n.loss == logistic {
			cost += weight[r] * (math.Max(z, 0) - y[r]*z + math.Log1p(math.Exp(-math.Abs(z))))
			dz = weight[r] * (1/(1+math.Exp(-z)) - y[r])
		} else {
			cost += weight[r] * (z - y[r]) * (z - y[r])
			dz = weight[r] * 2 * (z - y[r])
		}
		d := []float64{dz}
		for k := len(n.layers) - 1; k >= 0; k-- {
			l := n.layers[k]
			in, res := values[k], values[k+1]
			back := make([]float64, l.in.size())
			for o, g := range d {
				switch l.kind {
				case dense:
					grads[l.tensors[1].at+o] += g
					for i, v := range in {
						grads[l.tensors[0].at+i*len(d)+o] += g * v
						back[i] += g * params[l.tensors[0].at+i*len(d)+o]
					}
				case relu:
					if in[o] > 0 {
						back[o] = g
					}
				case tanh:
					back[o] = g * (1 - res[o]*res[o])
				case sigmoid:
					back[o] = g * res[o] * (1 - res[o])
				}
			}
			d = back
		}
	}
	return out, cost, grads
}

// fill puts a reproducible problem into a machine and returns it in float64,
// as the machine's type rounds it.
func fill[T real](m *machine[T], scale float64) (params, x, y, weight []float64) {
	src := newSource(consilium.DomainSeed.Digest([]byte("test")))
	set := func(s []T, f func() float64) []float64 {
		out := make([]float64, len(s))
		for i := range s {
			s[i] = T(f())
			out[i] = float64(s[i])
		}
		return out
	}
	params = set(m.params, func() float64 { return scale * src.uniform() })
	x = set(m.x, func() float64 { return 2 * src.uniform() })
	if m.y != nil {
		y = set(m.y, func() float64 { return float64(src.intn(2)) })
		weight = set(m.weight, func() float64 { return math.Abs(src.uniform()) })
	}
	return params, x, y, weight
}

var shapesUnderTest = []struct {
	loss   string
	inputs int
	layers []any
}{
	{"logistic", 3, []any{1}},
	{"squared", 3, []any{1}},
	{"logistic", 1, []any{1}},
	{"logistic", 5, []any{4, "relu", 1}},
	{"logistic", 5, []any{4, "tanh", 1}},
	{"logistic", 5, []any{4, "sigmoid", 1}},
	{"squared", 8, []any{16, "relu", 1}},
	{"squared", 2, []any{1, "tanh", 3, "sigmoid", 1}},
	{"logistic", 7, []any{9, "relu", 6, "tanh", 5, "sigmoid", 1}},
	{"logistic", 8, []any{4, 3, 1}},
}

// The gradient of every layer and loss against central differences of the
// graph's own cost, and against the oracle; and a run must not write to
// parameters or inputs.
func TestGradients(t *testing.T) {
	for _, c := range shapesUnderTest {
		for _, batch := range []int{1, 2, 7} {
			name := fmt.Sprintf("%s %d %v batch %d", c.loss, c.inputs, c.layers, batch)
			n := mustNet(t, c.inputs, c.loss, c.layers...)
			m, err := newMachine[float64](n, batch, true)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			params, x, y, weight := fill(m, 1)
			for range 2 { // the second run reuses the machine
				if err := m.run(); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				same := func(what string, a, b []float64) {
					for i := range a {
						if a[i] != b[i] {
							t.Fatalf("%s: the run overwrote %s[%d]", name, what, i)
						}
					}
				}
				same("parameters", m.params, params)
				same("inputs", m.x, x)
				same("responses", m.y, y)
				same("weights of rows", m.weight, weight)
			}
			grads := append([]float64(nil), m.grads...)
			out, cost, want := oracle(n, params, x, y, weight)
			if got := m.cost[0]; !near(got, cost, 1e-10) {
				t.Errorf("%s: cost %v, by hand %v", name, got, cost)
			}
			for i := range out {
				if !near(m.out[i], out[i], 1e-10) {
					t.Errorf("%s: output %v, by hand %v", name, m.out[i], out[i])
				}
			}
			for i := range grads {
				if !near(grads[i], want[i], 1e-10) {
					t.Errorf("%s: gradient %d is %v, by hand %v", name, i, grads[i], want[i])
				}
				const h = 1e-6
				at := func(v float64) float64 {
					m.params[i] = v
					if err := m.run(); err != nil {
						t.Fatal(err)
					}
					return m.cost[0]
				}
				// Central differences err by h² times the third derivative and by
				// 1e-16/h of rounding: 1e-7 covers both.
				if d := (at(params[i]+h) - at(params[i]-h)) / (2 * h); !near(d, grads[i], 1e-7) {
					t.Errorf("%s: gradient %d is %v, differences give %v", name, i, grads[i], d)
				}
				m.params[i] = params[i]
			}
		}
	}
}

func TestSinglePrecision(t *testing.T) {
	for _, c := range shapesUnderTest {
		n := mustNet(t, c.inputs, c.loss, c.layers...)
		m, err := newMachine[float32](n, 8, true)
		if err != nil {
			t.Fatal(err)
		}
		params, x, y, weight := fill(m, 1)
		if err := m.run(); err != nil {
			t.Fatal(err)
		}
		out, _, grads := oracle(n, params, x, y, weight)
		for i := range out {
			if !near(float64(m.out[i]), out[i], 1e-5*(1+math.Abs(out[i]))) {
				t.Errorf("%s %v: output %v, by hand %v", c.loss, c.layers, m.out[i], out[i])
			}
		}
		for i := range grads {
			if !near(float64(m.grads[i]), grads[i], 1e-5*(1+math.Abs(grads[i]))) {
				t.Errorf("%s %v: gradient %v, by hand %v", c.loss, c.layers, m.grads[i], grads[i])
			}
		}
		for i := range params {
			if float64(m.params[i]) != params[i] {
				t.Fatalf("%s %v: the run overwrote parameter %d", c.loss, c.layers, i)
			}
		}
	}
}

// The logistic loss at scores where the textbook formula overflows, and at
// z = 0, where that with |z| has the wrong derivative.
func TestLogisticLossEverywhere(t *testing.T) {
	n := mustNet(t, 1, "logistic", 1)
	m, err := newMachine[float64](n, 1, true)
	if err != nil {
		t.Fatal(err)
	}
	m.params[0] = 1
	m.weight[0] = 1
	for _, z := range []float64{0, 1e-300, -1e-300, 0.5, -0.5, 20, -20, 700, -700, 800, -800, 1e6, -1e6} {
		for _, y := range []float64{0, 1} {
			m.x[0], m.y[0] = z, y
			if err := m.run(); err != nil {
				t.Fatal(err)
			}
			cost, slope := logLoss(z, y), risk(z)-y
			if got := m.cost[0]; !near(got, cost, 1e-12*(1+math.Abs(cost))) {
				t.Errorf("z %v y %v: loss %v, want %v", z, y, got, cost)
			}
			if got := m.grads[1]; !near(got, slope, 1e-12) {
				t.Errorf("z %v y %v: derivative %v, want %v", z, y, got, slope)
			}
		}
	}
}

// A row of weight 0 does not change cost or gradient, whatever it holds.
func TestPartialBatch(t *testing.T) {
	n := mustNet(t, 4, "logistic", 6, "tanh", 1)
	whole, err := newMachine[float64](n, 3, true)
	if err != nil {
		t.Fatal(err)
	}
	padded, err := newMachine[float64](n, 8, true)
	if err != nil {
		t.Fatal(err)
	}
	params, x, y, weight := fill(whole, 1)
	fill(padded, 1)
	copy(padded.params, params)
	copy(padded.x, x)
	copy(padded.y, y)
	copy(padded.weight, weight)
	clear(padded.weight[3:])
	if err := whole.run(); err != nil {
		t.Fatal(err)
	}
	if err := padded.run(); err != nil {
		t.Fatal(err)
	}
	for i := range whole.grads {
		if !near(whole.grads[i], padded.grads[i], 1e-14) {
			t.Errorf("gradient %d: %v with padding, %v without", i, padded.grads[i], whole.grads[i])
		}
	}
}

// A machine that is given back holds no row and no weight.
func TestGiveWipes(t *testing.T) {
	n := mustNet(t, 4, "logistic", 6, "tanh", 1)
	m, err := take[float64](n, 5, true)
	if err != nil {
		t.Fatal(err)
	}
	fill(m, 1)
	if err := m.run(); err != nil {
		t.Fatal(err)
	}
	give(m)
	again, err := take[float64](n, 5, true)
	if err != nil {
		t.Fatal(err)
	}
	if again != m {
		t.Fatal("the machine was compiled again")
	}
	for _, s := range [][]float64{m.params, m.grads, m.x, m.y, m.weight, m.out} {
		for _, v := range s {
			if v != 0 {
				t.Fatal("a value of the last caller is still there")
			}
		}
	}
}

// One machine, many steps: memory must not grow.
func TestMemoryIsFlat(t *testing.T) {
	n := mustNet(t, 8, "logistic", 16, "relu", 1)
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	step := func() {
		m, err := take[float32](n, 16, true)
		if err != nil {
			t.Fatal(err)
		}
		fill(m, 1)
		for range 5 {
			if err := m.run(); err != nil {
				t.Fatal(err)
			}
		}
		give(m)
	}
	for range 20 {
		step()
	}
	before := heap()
	for range 300 {
		step()
	}
	// 300 rounds that kept only their rows would keep 150 KiB; one graph each,
	// tens of MiB.
	if after := heap(); after > before+64<<10 {
		t.Errorf("the heap grew from %d to %d bytes over 300 rounds", before, after)
	}
}

// Many hospitals in one process: machines are built and run side by side, and
// each gets the gradient that it would get alone. With -race.
func TestSideBySide(t *testing.T) {
	n := mustNet(t, 6, "logistic", 7, "relu", 1)
	want := make([]float64, n.params)
	var once sync.Once
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 5 {
				m, err := take[float64](n, 4+i%3, true)
				if err != nil {
					t.Error(err)
					return
				}
				src := newSource(consilium.DomainSeed.Digest([]byte("side by side")))
				for k := range m.params {
					m.params[k] = src.uniform()
				}
				for k := range 4 * n.inputs {
					m.x[k] = src.uniform()
				}
				for k := range 4 {
					m.weight[k] = 1
				}
				if err := m.run(); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				once.Do(func() { copy(want, m.grads) })
				for k := range want {
					if !near(want[k], m.grads[k], 1e-14) {
						t.Errorf("gradient %d: %v, another machine says %v", k, m.grads[k], want[k])
					}
				}
				mu.Unlock()
				give(m)
			}
		}()
	}
	wg.Wait()
}
