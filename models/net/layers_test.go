package net

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"strings"
	"testing"

	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"consilium"
)

// naive is one row's way through a network, each layer as its definition says,
// place by place: no windows side by side, no matrix products.
func naive(n *network, params, row []float64) []float64 {
	at := row
	for li := range n.layers {
		l := &n.layers[li]
		param := func(k int, index ...int) float64 {
			t := l.tensors[k]
			i := 0
			for d, x := range index {
				i = i*t.shape[d] + x
			}
			return params[t.at+i]
		}
		in := func(y, x, c int) float64 { return at[(y*l.in.width+x)*l.in.channels+c] }
		next := make([]float64, l.out.size())
		put := func(y, x, c int, v float64) { next[(y*l.out.width+x)*l.out.channels+c] = v }
		switch l.kind {
		case dense:
			for o := range next {
				next[o] = param(1, o)
				for i, v := range at {
					next[o] += v * param(0, i, o)
				}
			}
		case relu, tanh, sigmoid:
			for i, v := range at {
				next[i] = map[kind]func(float64) float64{
					relu: func(v float64) float64 { return math.Max(v, 0) }, tanh: math.Tanh,
					sigmoid: func(v float64) float64 { return 1 / (1 + math.Exp(-v)) },
				}[l.kind](v)
			}
		case conv:
			for y := range l.out.height {
				for x := range l.out.width {
					for u := range l.out.channels {
						sum := param(1, u)
						for ky := range l.kernel[0] {
							for kx := range l.kernel[1] {
								yy, xx := y*l.stride[0]+ky-l.pad[0], x*l.stride[1]+kx-l.pad[1]
								if yy < 0 || xx < 0 || yy >= l.in.height || xx >= l.in.width {
									continue
								}
								for c := range l.in.channels {
									sum += in(yy, xx, c) * param(0, (ky*l.kernel[1]+kx)*l.in.channels+c, u)
								}
							}
						}
						put(y, x, u, sum)
					}
				}
			}
		case maxpool:
			for y := range l.out.height {
				for x := range l.out.width {
					for c := range l.out.channels {
						best := math.Inf(-1)
						for ky := range l.kernel[0] {
							for kx := range l.kernel[1] {
								best = math.Max(best, in(y*l.stride[0]+ky, x*l.stride[1]+kx, c))
							}
						}
						put(y, x, c, best)
					}
				}
			}
		case average:
			for c := range l.in.channels {
				for y := range l.in.height {
					for x := range l.in.width {
						next[c] += in(y, x, c) / float64(l.in.height*l.in.width)
					}
				}
			}
		case gru:
			h := l.tensors[1].shape[0]
			state := make([]float64, h)
			sig := func(v float64) float64 { return 1 / (1 + math.Exp(-v)) }
			for t := range l.in.width {
				old := append([]float64(nil), state...)
				fromInput := func(gate, j int) float64 {
					s := param(2, gate*h+j)
					for c := range l.in.channels {
						s += in(0, t, c) * param(0, c, gate*h+j)
					}
					return s
				}
				fromState := func(gate, j int) float64 {
					s := param(3, gate*h+j)
					for i, v := range old {
						s += v * param(1, i, gate*h+j)
					}
					return s
				}
				for j := range h {
					r := sig(fromInput(0, j) + fromState(0, j))
					z := sig(fromInput(1, j) + fromState(1, j))
					state[j] = (1-z)*math.Tanh(fromInput(2, j)+r*fromState(2, j)) + z*old[j]
					if l.sequence {
						put(0, t, j, state[j])
					}
				}
			}
			if !l.sequence {
				copy(next, state)
			}
		}
		at = next
	}
	return at
}

// naiveCost is the cost of a batch by the definition of its loss.
func naiveCost(n *network, params, x, y, weight []float64) float64 {
	rows := len(x) / n.inputs
	var out [][]float64
	for r := range rows {
		out = append(out, naive(n, params, x[r*n.inputs:(r+1)*n.inputs]))
	}
	cost := 0.0
	for r := range rows {
		switch n.loss {
		case logistic:
			cost += weight[r] * (math.Log1p(math.Exp(-math.Abs(out[r][0]))) + math.Max(out[r][0], 0) - y[r]*out[r][0])
		case squared:
			cost += weight[r] * (out[r][0] - y[r]) * (out[r][0] - y[r])
		case reconstruction:
			for j, z := range out[r] {
				i := r*n.outputs + j
				cost += weight[i] * (z - y[i]) * (z - y[i])
			}
		}
	}
	if n.loss != partial {
		return cost
	}
	// Efron's approximation, event time by event time; Breslow's has no ties to
	// spread.
	done := map[float64]bool{}
	for r := range rows {
		t := y[3*r+1]
		if weight[r] == 0 || y[3*r+2] == 0 || done[t] {
			continue
		}
		done[t] = true
		var all, dead, sum, w float64
		d := 0
		for i := range rows {
			if weight[i] == 0 {
				continue
			}
			e := math.Exp(out[i][0])
			if y[3*i] < t && t <= y[3*i+1] {
				all += e
			}
			if y[3*i+1] == t && y[3*i+2] == 1 {
				dead, sum, w, d = dead+e, sum+weight[i]*out[i][0], w+weight[i], d+1
			}
		}
		cost -= sum
		for k := range d {
			share := 0.0
			if n.efron {
				share = float64(k) / float64(d)
			}
			cost += w / float64(d) * math.Log(all-share*dead)
		}
	}
	return cost
}

func series(steps, channels int) *consilium.InputShape {
	return &consilium.InputShape{Steps: steps, Channels: channels}
}

func image(height, width, channels int) *consilium.InputShape {
	return &consilium.InputShape{Height: height, Width: width, Channels: channels}
}

func conv1d(units, kernel, stride int, padding string) consilium.Layer {
	return consilium.Layer{Kind: "conv1d", Units: units, Kernel: kernel, Stride: stride, Padding: padding}
}

func conv2d(units, kernel, stride int, padding string) consilium.Layer {
	return consilium.Layer{Kind: "conv2d", Units: units, Kernel: kernel, Stride: stride, Padding: padding}
}

func pool(kernel, stride int) consilium.Layer {
	return consilium.Layer{Kind: "maxpool", Kernel: kernel, Stride: stride}
}

func recurrent(units int, sequence bool) consilium.Layer {
	return consilium.Layer{Kind: "gru", Units: units, Sequence: sequence}
}

// structured are models with every kind of layer, alone and together.
var structured = []struct {
	loss, ties string
	input      *consilium.InputShape
	inputs     int
	layers     []any
}{
	{"logistic", "", series(9, 2), 18, []any{conv1d(3, 3, 0, ""), 1}},
	{"logistic", "", series(9, 2), 18, []any{conv1d(3, 3, 2, "same"), "relu", 1}},
	{"squared", "", series(10, 1), 10, []any{conv1d(2, 4, 3, ""), "tanh", conv1d(2, 1, 0, ""), 1}},
	{"logistic", "", series(12, 2), 24, []any{conv1d(4, 5, 0, "same"), "relu", pool(2, 0), conv1d(3, 3, 0, ""), "sigmoid", "average", 1}},
	{"logistic", "", series(7, 3), 21, []any{pool(3, 2), 4, "tanh", 1}},
	{"logistic", "", series(6, 2), 12, []any{recurrent(3, false), 1}},
	{"squared", "", series(5, 2), 10, []any{recurrent(3, true), recurrent(2, false), 3, "relu", 1}},
	{"logistic", "", series(8, 1), 8, []any{conv1d(3, 3, 2, ""), "relu", recurrent(4, true), "average", 1}},
	{"logistic", "", image(6, 5, 1), 30, []any{conv2d(2, 3, 0, ""), "relu", 1}},
	{"logistic", "", image(7, 6, 2), 84, []any{conv2d(3, 3, 2, "same"), "tanh", pool(2, 1), conv2d(2, 1, 0, ""), "average", 1}},
	{"reconstruction", "", nil, 5, []any{3, "tanh", 5}},
	{"reconstruction", "", series(8, 1), 8, []any{conv1d(2, 3, 2, "same"), "relu", 2, 8}},
	{"cox", "", nil, 4, []any{3, "tanh", 1}},
	{"cox", "breslow", nil, 4, []any{1}},
	{"cox", "", series(4, 2), 8, []any{recurrent(2, false), 1}},
}

func structuredNet(t testing.TB, i int, dtype string) *network {
	t.Helper()
	c := structured[i]
	n, err := newNetwork(&consilium.ModelSpec{Input: c.input, Layers: layers(c.layers...), Loss: c.loss, DType: dtype}, c.inputs, c.ties)
	if err != nil {
		t.Fatalf("%v: %v", c.layers, err)
	}
	return n
}

// fillStructured is fill, with targets and weights as the loss wants them: ties
// and late entries for cox, and a row that does not exist.
func fillStructured[T real](m *machine[T]) (params, x, y, weight []float64) {
	fill(m, 0.7)
	src := newSource(consilium.DomainSeed.Digest([]byte("structured")))
	switch m.net.loss {
	case partial:
		for r := range m.batch {
			stop := 1 + src.intn(4)
			m.y[3*r], m.y[3*r+1], m.y[3*r+2] = T(src.intn(stop)), T(stop), T(src.intn(4)/2)
			m.weight[r] = 0.25
		}
	case reconstruction:
		for i := range m.y {
			m.y[i] = T(src.uniform())
		}
	}
	for i := range m.net.weights() {
		m.weight[len(m.weight)-1-i] = 0
	}
	wide := func(s []T) []float64 {
		out := make([]float64, len(s))
		for i, v := range s {
			out[i] = float64(v)
		}
		return out
	}
	return wide(m.params), wide(m.x), wide(m.y), wide(m.weight)
}

// Every layer and loss: outputs and cost against the definitions, gradients
// against central differences of the definitions, and nothing that a run may
// not touch is touched.
func TestLayers(t *testing.T) {
	for i, c := range structured {
		for _, batch := range []int{4, 7} {
			name := fmt.Sprintf("%s %v batch %d", c.loss, c.layers, batch)
			n := structuredNet(t, i, "float64")
			m, err := newMachine[float64](n, batch, true)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			params, x, y, weight := fillStructured(m)
			for range 2 {
				if err := m.run(); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
			for _, pair := range []struct {
				what string
				a, b []float64
			}{{"parameters", m.params, params}, {"inputs", m.x, x}, {"targets", m.y, y}, {"weights of rows", m.weight, weight}} {
				for k := range pair.a {
					if pair.a[k] != pair.b[k] {
						t.Fatalf("%s: the run overwrote %s[%d]", name, pair.what, k)
					}
				}
			}
			if want := naiveCost(n, params, x, y, weight); !near(m.cost[0], want, 1e-12*(1+math.Abs(want))) {
				t.Errorf("%s: cost %v, by definition %v", name, m.cost[0], want)
			}
			for r := range batch {
				for o, want := range naive(n, params, x[r*n.inputs:(r+1)*n.inputs]) {
					if got := m.out[r*n.outputs+o]; !near(got, want, 1e-12) {
						t.Errorf("%s: row %d gives %v, by definition %v", name, r, got, want)
					}
				}
			}
			moved := 0.0
			for k := range params {
				const h = 1e-5
				at := func(d float64) float64 {
					old := params[k]
					params[k] += d
					v := naiveCost(n, params, x, y, weight)
					params[k] = old
					return v
				}
				// Fourth-order differences: h⁴ of the fifth derivative and 1e-16/h.
				d := (8*(at(h)-at(-h)) - (at(2*h) - at(-2*h))) / (12 * h)
				if !near(d, m.grads[k], 1e-8) {
					t.Errorf("%s: gradient %d is %v, differences give %v", name, k, m.grads[k], d)
				}
				moved += math.Abs(d)
			}
			if !(moved > 1e-3) {
				t.Errorf("%s: the gradient is zero everywhere", name)
			}
			single, err := newMachine[float32](structuredNet(t, i, "float32"), batch, true)
			if err != nil {
				t.Fatal(err)
			}
			p32, x32, y32, w32 := fillStructured(single)
			if err := single.run(); err != nil {
				t.Fatal(err)
			}
			if want := naiveCost(n, p32, x32, y32, w32); !near(float64(single.cost[0]), want, 1e-5*(1+math.Abs(want))) {
				t.Errorf("%s: cost %v in single precision, by definition %v", name, single.cost[0], want)
			}
			for k, g := range single.grads {
				if !near(float64(g), m.grads[k], 2e-5*(1+math.Abs(m.grads[k]))) {
					t.Errorf("%s: gradient %d is %v in single precision, %v in double", name, k, g, m.grads[k])
				}
			}
		}
	}
}

// The models are gorgonia graphs: gorgonia's own machine, which knows nothing of
// ours, computes the same cost and the same gradients.
func TestTapeMachineAgrees(t *testing.T) {
	for i, c := range structured {
		n := structuredNet(t, i, "float64")
		m, err := newMachine[float64](n, 3, true)
		if err != nil {
			t.Fatal(err)
		}
		params, x, y, weight := fillStructured(m)
		if err := m.run(); err != nil {
			t.Fatal(err)
		}
		g := gorgonia.NewGraph()
		h := variable(g, "x", x, 3, n.inputs)
		var learn gorgonia.Nodes
		var b builder
		for li := range n.layers {
			l := &n.layers[li]
			in := gorgonia.Nodes{h}
			f := newFunction[float64](li, l, 3, len(learn) > 0)
			for _, p := range l.tensors {
				w := variable(g, fmt.Sprint(li, p.name), params[p.at:p.at+p.size()], p.shape...)
				in, learn = append(in, w), append(learn, w)
			}
			h = b.do(gorgonia.ApplyOp(newValue(f), in...))
		}
		cost := b.do(gorgonia.ApplyOp(newValue(newLoss[float64](n, 3)), h, variable(g, "y", y, 3, n.targets()), variable(g, "w", weight, 3, n.weights())))
		slopes, err := gorgonia.Grad(cost, learn...)
		if err != nil {
			t.Fatal(err)
		}
		values := make([]gorgonia.Value, len(slopes))
		for k, s := range slopes {
			gorgonia.Read(s, &values[k])
		}
		var total gorgonia.Value
		gorgonia.Read(cost, &total)
		vm := gorgonia.NewTapeMachine(g)
		if err := vm.RunAll(); err != nil {
			t.Fatalf("%v: %v", c.layers, err)
		}
		if got := total.Data().(float64); got != m.cost[0] {
			t.Errorf("%v: gorgonia's machine says %v, ours %v", c.layers, got, m.cost[0])
		}
		at := 0
		for k, v := range values {
			for _, d := range v.Data().([]float64) {
				if d != m.grads[at] {
					t.Errorf("%v: gradient %d of %s is %v in gorgonia's machine, %v in ours", c.layers, at, learn[k].Name(), d, m.grads[at])
				}
				at++
			}
		}
		vm.Close()
	}
}

// broken is an operation that panics when it runs.
func broken(n int) *function[float64] {
	return &function[float64]{name: "broken", in: []tensor.Shape{{n, 1}}, out: tensor.Shape{n, 1}, diff: []bool{true},
		forward: func([]float64, [][]float64) { panic("index out of range") }}
}

// A panic of the engine while it runs is an error that names the operation,
// and the process goes on.
func TestPanicIsContained(t *testing.T) {
	g := gorgonia.NewGraph()
	x := []float64{1, 2}
	leaf := variable(g, "x", x, 2, 1)
	var b builder
	b.do(gorgonia.ApplyOp(newValue(broken(2)), leaf))
	e, err := newExecutor(g, map[*gorgonia.Node][]float64{leaf: x})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.run(); err == nil || !strings.Contains(err.Error(), "the engine failed in broken: index out of range") {
		t.Errorf("the panic became %v", err)
	}
}

// The naive twin: gorgonia's own machine runs the graph in a goroutine of its
// own, and the same panic ends the process.
func TestPanicEndsTheTwin(t *testing.T) {
	if os.Getenv("CONSILIUM_TWIN") != "" {
		g := gorgonia.NewGraph()
		var b builder
		b.do(gorgonia.ApplyOp(newValue(broken(2)), variable(g, "x", []float64{1, 2}, 2, 1)))
		defer func() { recover(); os.Exit(0) }() // never reached: the panic is elsewhere
		_ = gorgonia.NewTapeMachine(g).RunAll()
		os.Exit(0)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestPanicEndsTheTwin$")
	cmd.Env = append(os.Environ(), "CONSILIUM_TWIN=1")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "index out of range") {
		t.Errorf("gorgonia's machine survived its panic: %v\n%s", err, out)
	}
}

// Impossible shapes: each message names the layer and what to do.
func TestImpossibleShapes(t *testing.T) {
	for _, c := range []struct {
		input  *consilium.InputShape
		loss   string
		layers []any
		want   string
	}{
		{nil, "logistic", []any{conv1d(3, 3, 0, ""), 1}, "model.layers[0] conv1d reads a series, and 12 values reach it: declare model.input"},
		{series(12, 1), "logistic", []any{conv2d(3, 3, 0, ""), 1}, "conv2d reads an image, and 12 steps of 1 channels reach it: use conv1d"},
		{image(3, 4, 1), "logistic", []any{recurrent(3, false), 1}, "gru reads a series"},
		{nil, "logistic", []any{pool(2, 0), 1}, "maxpool reads steps or an image"},
		{series(12, 1), "logistic", []any{4, "relu", consilium.Layer{Kind: "average"}, 1}, "average reads steps or an image, and 4 values"},
		{series(12, 1), "logistic", []any{pool(4, 0), conv1d(2, 4, 0, ""), 1}, "model.layers[1] conv1d: its kernel of 4 is longer than what reaches it, 3 steps"},
		{series(12, 1), "logistic", []any{conv1d(2, 0, 0, ""), 1}, "kernel 0"},
		{series(12, 1), "logistic", []any{conv1d(2, 4, 0, "same"), 1}, "odd kernel"},
		{series(12, 1), "logistic", []any{conv1d(2, 3, -1, ""), 1}, "stride -1"},
		{series(12, 1), "logistic", []any{conv1d(2, 3, 0, "sam"), 1}, "did you mean same?"},
		{series(12, 1), "logistic", []any{conv1d(0, 3, 0, ""), 1}, "conv1d: units 0"},
		{series(12, 1), "logistic", []any{conv1d(1<<13, 3, 0, ""), conv1d(1<<14, 3, 0, ""), 1}, "parameters at layer 1"},
		{series(5, 2), "logistic", []any{1}, "5 steps of 2 channels, together 10 values, and features make 12"},
		{series(0, 2), "logistic", []any{1}, "wants steps, or height and width"},
		{series(12, 0), "logistic", []any{1}, "channels 0"},
		{series(-12, -1), "logistic", []any{1}, "side of -12"},
		{&consilium.InputShape{Steps: 3, Height: 2, Width: 2, Channels: 1}, "logistic", []any{1}, "wants steps, or height and width"},
		{image(1<<14, 1<<14, 1), "logistic", []any{1}, "features make 12"},
		{series(12, 1), "logistic", []any{consilium.Layer{Kind: "relu", Kernel: 3}, 1}, "relu takes no kernel"},
		{series(12, 1), "logistic", []any{consilium.Layer{Kind: "dense", Units: 3, Sequence: true}, 1}, "dense takes no sequence"},
		{series(12, 1), "logistic", []any{recurrent(3, false), recurrent(3, false), 1}, "model.layers[1] gru reads a series, and 3 values reach it"},
		{nil, "reconstruction", []any{3, "relu", 11}, "the last layer is dense 11: want dense with units 12"},
		{series(12, 1), "logistic", []any{recurrent(1, false)}, "the last layer is gru 1: want dense with units 1"},
	} {
		_, err := newNetwork(&consilium.ModelSpec{Input: c.input, Layers: layers(c.layers...), Loss: c.loss}, 12, "")
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.layers, err, c.want)
		}
	}
}
