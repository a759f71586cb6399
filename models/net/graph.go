package net

import (
	"fmt"
	"slices"
	"sync"

	_ "go4.org/unsafe/assume-no-moving-gc" // gorgonia's Go version gate; this release knows the Go we build with
	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"consilium"
)

// real is the type that a model is trained in.
type real interface{ float32 | float64 }

// dtypeOf is gorgonia's name for T.
func dtypeOf[T real]() tensor.Dtype {
	var v T
	if _, ok := any(v).(float32); ok {
		return tensor.Float32
	}
	return tensor.Float64
}

// machine is one compiled graph with its own memory. A graph keeps the values
// of its nodes, so a machine serves one caller at a time; several callers
// take several machines.
//
// The parameters and their gradients are one flat slice each. The graph's
// tensors are views of them, so the optimiser is a loop over two slices and
// nothing is copied on the way to the encryption.
type machine[T real] struct {
	net     *network
	batch   int
	program *executor[T]
	params  []T // weights and biases, layer after layer
	grads   []T // of the cost by params; nil in a machine that only predicts
	x       []T // batch × inputs
	y       []T // batch × targets: the response; nil in a machine that only predicts
	weight  []T // batch × weights: 0 switches a row off; nil in a machine that only predicts
	out     []T // batch × outputs: logits (values, for a squared loss; log hazards, for cox) of the last run
	cost    []T // one value
	taps    []func(from, to int)
	layers  []*function[T]
}

// newMachine compiles net for batches of the given size. With train it also
// compiles the cost sum(weight · loss) and its gradient.
//
// Callers hold compile: building two gorgonia graphs at once races.
func newMachine[T real](net *network, batch int, train bool) (m *machine[T], err error) {
	defer func() {
		if r := recover(); r != nil {
			m, err = nil, fmt.Errorf("gorgonia refuses model %s: %v", net.digest.Short(), r)
		}
	}()
	if batch < 1 || batch > maxBatch {
		return nil, fmt.Errorf("batch of %d rows, want 1 to %d", batch, maxBatch)
	}
	m = &machine[T]{net: net, batch: batch}
	m.params = make([]T, net.params)
	m.x = make([]T, batch*net.inputs)
	g := gorgonia.NewGraph()
	leaves := map[*gorgonia.Node][]T{}
	leaf := func(name string, s []T, shape ...int) *gorgonia.Node {
		n := variable(g, name, s, shape...)
		leaves[n] = s
		return n
	}
	b := builder{}
	h := leaf("x", m.x, batch, net.inputs)
	var learn gorgonia.Nodes
	var views [][]T // of the gradients
	if train {
		m.grads = make([]T, net.params)
	}
	for i := range net.layers {
		l := &net.layers[i]
		in := gorgonia.Nodes{h}
		// Nothing before the first layer with parameters learns.
		f := newFunction[T](i, l, batch, train && len(learn) > 0)
		m.layers = append(m.layers, f)
		for _, t := range l.tensors {
			n, to := t.size(), t.at+t.size()
			w := leaf(fmt.Sprintf("layers.%d.%s", i, t.name), m.params[t.at:to:to], t.shape...)
			in, learn = append(in, w), append(learn, w)
			if train {
				views = append(views, m.grads[t.at:t.at+n:to])
			}
		}
		h = b.do(gorgonia.ApplyOp(newValue(f), in...))
	}
	var cost *gorgonia.Node
	var slopes gorgonia.Nodes
	if train {
		m.y = make([]T, batch*net.targets())
		m.weight = make([]T, batch*net.weights())
		cost = b.do(gorgonia.ApplyOp(newValue(newLoss[T](net, batch)), h, leaf("y", m.y, batch, net.targets()), leaf("weight", m.weight, batch, net.weights())))
		if slopes, err = gorgonia.Grad(cost, learn...); err != nil {
			return nil, fmt.Errorf("gorgonia's gradient: %w", err)
		}
		if len(slopes) != len(learn) {
			return nil, fmt.Errorf("gorgonia gives %d gradients for %d tensors", len(slopes), len(learn))
		}
	}
	if m.program, err = newExecutor(g, leaves); err != nil {
		return nil, err
	}
	if train {
		m.tap()
	}
	m.out = m.program.values[h]
	if len(m.out) != batch*net.outputs {
		return nil, fmt.Errorf("gorgonia gives %d outputs, want %d", len(m.out), batch*net.outputs)
	}
	if train {
		m.cost = m.program.values[cost]
		for i, d := range slopes {
			from, into := m.program.values[d], views[i]
			if len(from) != len(into) {
				return nil, fmt.Errorf("gorgonia's gradient of %s has %d values, want %d", learn[i].Name(), len(from), len(into))
			}
			m.program.steps = append(m.program.steps, step{"gradient of " + learn[i].Name(), func() error { copy(into, from); return nil }})
		}
	}
	return m, nil
}

// builder keeps the first error of a chain of graph operations.
type builder struct{ err error }

func (b *builder) do(n *gorgonia.Node, err error) *gorgonia.Node {
	if b.err == nil && err != nil {
		b.err = fmt.Errorf("gorgonia: %w", err)
	}
	if b.err != nil {
		panic(b.err) // caught in newMachine; gorgonia does not accept a nil node
	}
	return n
}

// run computes out, and in a training machine cost and grads, from x, y,
// weight and params.
func (m *machine[T]) run() error { return m.program.run() }

// tap binds every layer's rows to its place in the gradients. Taps are in every
// graph: rows that are clipped one by one go through the same layers.
func (m *machine[T]) tap() {
	for i, f := range m.layers {
		at := slices.IndexFunc(m.program.taps, func(t tap[T]) bool { return t.f == f })
		if at < 0 || f.rows == nil {
			continue
		}
		t := m.program.taps[at]
		grads := make([][]T, len(t.in))
		for k, p := range m.net.layers[i].tensors {
			grads[k+1] = m.grads[p.at : p.at+p.size() : p.at+p.size()]
		}
		m.taps = append(m.taps, func(from, to int) { f.rows(grads, t.in, t.dout, from, to) })
	}
}

// apart says whether gradients are asked for by rows, and not of the whole
// batch.
func (m *machine[T]) apart(on bool) {
	for _, f := range m.layers {
		f.apart = on
	}
}

// rows writes to grads the gradient of what rows from to to-1 of the last run
// have of the cost. Its bits depend on these rows alone.
func (m *machine[T]) rows(from, to int) {
	for _, t := range m.taps {
		t(from, to)
	}
}

// wipe removes every row from the machine before it is kept for later.
func (m *machine[T]) wipe() {
	m.apart(false)
	for _, s := range [][]T{m.params, m.grads, m.x, m.y, m.weight} {
		clear(s)
	}
	m.program.wipe()
}

// machineKey names interchangeable machines.
type machineKey struct {
	net   consilium.Digest
	batch int
	dtype tensor.Dtype
	train bool
}

// Idle machines are kept for reuse: at most idlePerKey of one kind (a
// simulation runs many hospitals in one process) and idleTotal in all.
const (
	idlePerKey = 16
	idleTotal  = 64
	// idleParams bounds the model of a kept machine. A machine holds its model's
	// length several times over, and between two local steps a round is opened.
	idleParams = 1 << 20
)

var (
	compile sync.Mutex // building graphs in parallel races inside gorgonia

	// idleMu guards idle and idleCount.
	idleMu    sync.Mutex
	idle      = map[machineKey][]any{}
	idleCount int
)

// take returns an idle machine or compiles one. Its slices hold zeros.
func take[T real](net *network, batch int, train bool) (*machine[T], error) {
	key := machineKey{net.digest, batch, dtypeOf[T](), train}
	idleMu.Lock()
	if list := idle[key]; len(list) > 0 {
		m := list[len(list)-1].(*machine[T])
		idle[key] = list[:len(list)-1]
		idleCount--
		idleMu.Unlock()
		return m, nil
	}
	idleMu.Unlock()
	compile.Lock()
	defer compile.Unlock()
	return newMachine[T](net, batch, train)
}

// give hands a machine back. A machine whose run failed is not given back.
func give[T real](m *machine[T]) {
	m.wipe()
	if m.net.params > idleParams {
		return
	}
	key := machineKey{m.net.digest, m.batch, dtypeOf[T](), m.grads != nil}
	idleMu.Lock()
	defer idleMu.Unlock()
	if idleCount >= idleTotal {
		clear(idle)
		idleCount = 0
	}
	if len(idle[key]) < idlePerKey {
		idle[key] = append(idle[key], m)
		idleCount++
	}
}
