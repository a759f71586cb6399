package net

import (
	"fmt"
	"runtime"
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
	net    *network
	batch  int
	vm     gorgonia.VM
	params []T // weights and biases, layer after layer
	grads  []T // of the cost by params; nil in a machine that only predicts
	x      []T // batch × inputs
	y      []T // batch × outputs: the response; nil in a machine that only predicts
	weight []T // batch × outputs: 0 switches a row off; nil in a machine that only predicts
	out    []T // batch × outputs: logits (or values, for a squared loss) of the last run
	cost   gorgonia.Value
}

// newMachine compiles net for batches of the given size. With train it also
// compiles the cost sum(weight · loss) and its gradient.
//
// Callers hold compile: building two gorgonia graphs at once races.
func newMachine[T real](net *network, batch int, train bool) (m *machine[T], err error) {
	// Building runs in this goroutine, so a panic of gorgonia's can be caught.
	// One in RunAll cannot: see the package comment.
	defer func() {
		if r := recover(); r != nil {
			m, err = nil, fmt.Errorf("gorgonia refuses model %s: %v", net.digest.Short(), r)
		}
	}()
	if batch < 1 || batch > maxBatch {
		return nil, fmt.Errorf("batch of %d rows, want 1 to %d", batch, maxBatch)
	}
	dt := dtypeOf[T]()
	m = &machine[T]{net: net, batch: batch}
	m.params = make([]T, net.params)
	m.x = make([]T, batch*net.inputs)
	m.out = make([]T, batch*net.outputs)
	ones := make([]T, batch)
	for i := range ones {
		ones[i] = 1
	}
	g := gorgonia.NewGraph()
	matrix := func(name string, backing []T, rows, cols int) *gorgonia.Node {
		v := tensor.New(tensor.Of(dt), tensor.WithShape(rows, cols), tensor.WithBacking(backing))
		return gorgonia.NewMatrix(g, dt, gorgonia.WithShape(rows, cols), gorgonia.WithName(name), gorgonia.WithValue(v))
	}
	b := builder{}
	h := matrix("x", m.x, batch, net.inputs)
	// A bias enters as ones·b, a product: gorgonia's broadcast would reshape
	// the parameter, which aliases it (a later operation in place would then
	// overwrite the weights).
	one := matrix("one", ones, batch, 1)
	var learn []*gorgonia.Node
	var views [][2]int // offset and length in params
	var shapes [][2]int
	for i, l := range net.layers {
		switch l.kind {
		case dense:
			w := matrix(fmt.Sprintf("w%d", i), m.params[l.weight:l.weight+l.in*l.out:l.weight+l.in*l.out], l.in, l.out)
			c := matrix(fmt.Sprintf("b%d", i), m.params[l.bias:l.bias+l.out:l.bias+l.out], 1, l.out)
			learn = append(learn, w, c)
			views = append(views, [2]int{l.weight, l.in * l.out}, [2]int{l.bias, l.out})
			shapes = append(shapes, [2]int{l.in, l.out}, [2]int{1, l.out})
			h = b.do(gorgonia.Add(b.do(gorgonia.Mul(h, w)), b.do(gorgonia.Mul(one, c))))
		case relu:
			h = b.do(gorgonia.Rectify(h))
		case tanh:
			h = b.do(gorgonia.Tanh(h))
		case sigmoid:
			h = b.do(gorgonia.Sigmoid(h))
		}
	}
	if b.err != nil {
		return nil, b.err
	}
	if want := (tensor.Shape{batch, net.outputs}); !h.Shape().Eq(want) {
		return nil, fmt.Errorf("gorgonia gives the output shape %v, want %v", h.Shape(), want)
	}
	out := gorgonia.Value(tensor.New(tensor.Of(dt), tensor.WithShape(batch, net.outputs), tensor.WithBacking(m.out)))
	gorgonia.Read(h, &out)
	if train {
		m.y = make([]T, batch*net.outputs)
		m.weight = make([]T, batch*net.outputs)
		m.grads = make([]T, net.params)
		y := matrix("y", m.y, batch, net.outputs)
		weight := matrix("weight", m.weight, batch, net.outputs)
		var loss *gorgonia.Node
		switch net.loss {
		case logistic:
			// relu(z) - y·z + softplus(-|z|) with -|z| = z - 2·relu(z): no
			// exponential of a positive number, and the derivative is right
			// at z = 0 too, where that of |z| is not.
			r := b.do(gorgonia.Rectify(h))
			low := b.do(gorgonia.Sub(h, b.do(gorgonia.Add(r, r))))
			loss = b.do(gorgonia.Add(b.do(gorgonia.Sub(r, b.do(gorgonia.HadamardProd(y, h)))), b.do(gorgonia.Softplus(low))))
		case squared:
			d := b.do(gorgonia.Sub(h, y))
			loss = b.do(gorgonia.HadamardProd(d, d))
		}
		cost := b.do(gorgonia.Sum(b.do(gorgonia.HadamardProd(weight, loss))))
		if b.err != nil {
			return nil, b.err
		}
		gorgonia.Read(cost, &m.cost)
		grads, err := gorgonia.Grad(cost, learn...)
		if err != nil {
			return nil, fmt.Errorf("gorgonia's gradient: %w", err)
		}
		if len(grads) != len(learn) {
			return nil, fmt.Errorf("gorgonia gives %d gradients for %d tensors", len(grads), len(learn))
		}
		for i, d := range grads {
			if got := d.Shape().TotalSize(); got != views[i][1] {
				return nil, fmt.Errorf("gorgonia's gradient of %s has %d values, want %d", learn[i].Name(), got, views[i][1])
			}
			o := views[i][0]
			into := new(gorgonia.Value)
			*into = tensor.New(tensor.Of(dt), tensor.WithShape(shapes[i][0], shapes[i][1]), tensor.WithBacking(m.grads[o:o+views[i][1]:o+views[i][1]]))
			gorgonia.Read(d, into)
		}
	}
	vm := gorgonia.NewTapeMachine(g)
	// The finaliser only matters to CUDA; it keeps 261 KiB of every machine
	// from ever being collected.
	runtime.SetFinalizer(vm, nil)
	m.vm = vm
	return m, nil
}

// builder keeps the first error of a chain of graph operations.
type builder struct{ err error }

func (b *builder) do(n *gorgonia.Node, err error) *gorgonia.Node {
	if b.err == nil && err != nil {
		b.err = fmt.Errorf("gorgonia: %w", err)
	}
	if b.err != nil && n == nil {
		panic(b.err) // caught in newMachine; gorgonia does not accept a nil node
	}
	return n
}

// run computes out, and in a training machine cost and grads, from x, y,
// weight and params.
func (m *machine[T]) run() error {
	m.vm.Reset()
	if err := m.vm.RunAll(); err != nil {
		return fmt.Errorf("gorgonia: %w", err)
	}
	return nil
}

// wipe removes every row from the machine before it is kept for later. The
// graph's nodes also hold the last batch's intermediate values; a run on zeros
// replaces those.
func (m *machine[T]) wipe() error {
	for _, s := range [][]T{m.params, m.x, m.y, m.weight} {
		clear(s)
	}
	if err := m.run(); err != nil {
		return err
	}
	m.vm.Reset()
	return nil
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
	if m.wipe() != nil {
		return // dropped: the next caller compiles another
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
