package net

import (
	"fmt"
	"hash"
	"hash/fnv"

	"github.com/chewxy/hm"
	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// function is a differentiable function of flat slices: a layer or a loss. A
// graph holds it as one gorgonia operation, which gorgonia differentiates by
// applying gradient and part below.
//
// gorgonia's own convolutions, recurrent cells and reductions are not used:
// some have wrong gradients, some write to their inputs, and all allocate anew
// in every step. A function works in memory that it owns, so it belongs to one
// machine and is called by one goroutine at a time.
type function[T real] struct {
	name string         // unique in its graph
	in   []tensor.Shape // of the inputs
	out  tensor.Shape   // of the value; empty for a scalar
	diff []bool         // the inputs that have a gradient

	// forward writes the value into out.
	forward func(out []T, in [][]T)
	// backward writes the gradient by every input with diff into its slice of
	// grads (nil for the others). It is called after forward, with the same
	// inputs and the value that forward gave, so it may use what forward kept.
	backward func(grads, in [][]T, out, dout []T)
	// rows writes the part of the gradient by the parameters (every input but the
	// first) that rows from (included) to to have. It is called after backward,
	// with the same inputs, and reads nothing of other rows. A layer without
	// parameters has none.
	rows func(grads, in [][]T, dout []T, from, to int)
	// apart: backward leaves the parameters' gradients out, since rows is asked
	// for them.
	apart bool

	scratch [][]T // memory that holds something of the rows; cleared with the machine
}

// keep allocates memory that the function owns.
func (f *function[T]) keep(n int) []T {
	s := make([]T, n)
	f.scratch = append(f.scratch, s)
	return s
}

func typeOf[T real](s tensor.Shape) hm.Type {
	if len(s) == 0 {
		return dtypeOf[T]()
	}
	return gorgonia.TensorType{Dims: len(s), Of: dtypeOf[T]()}
}

// inside is what the operations of a function share.
type inside[T real] struct {
	label  string
	inputs []tensor.Shape
	output tensor.Shape
}

func (o inside[T]) Arity() int { return len(o.inputs) }

func (o inside[T]) Type() hm.Type {
	var list []hm.Type
	for _, s := range o.inputs {
		list = append(list, typeOf[T](s))
	}
	return hm.NewFnType(append(list, typeOf[T](o.output))...)
}

func (o inside[T]) InferShape(given ...gorgonia.DimSizer) (tensor.Shape, error) {
	if len(given) != len(o.inputs) {
		return nil, fmt.Errorf("%s: %d inputs, want %d", o.label, len(given), len(o.inputs))
	}
	for i, d := range given {
		if s, ok := d.(tensor.Shape); ok && !s.Eq(o.inputs[i]) {
			return nil, fmt.Errorf("%s: input %d has shape %v, want %v", o.label, i, s, o.inputs[i])
		}
	}
	return o.output.Clone(), nil
}

func (o inside[T]) ReturnsPtr() bool     { return false }
func (o inside[T]) CallsExtern() bool    { return false }
func (o inside[T]) OverwritesInput() int { return -1 }
func (o inside[T]) String() string       { return o.label }
func (o inside[T]) WriteHash(h hash.Hash) {
	fmt.Fprintf(h, "consilium %s %v %v", o.label, o.inputs, o.output)
}

func (o inside[T]) Hashcode() uint32 {
	h := fnv.New32a()
	o.WriteHash(h)
	return h.Sum32()
}

// slices are the inputs' values, checked.
func (o inside[T]) slices(inputs []gorgonia.Value) ([][]T, error) {
	if len(inputs) != len(o.inputs) {
		return nil, fmt.Errorf("%s: %d inputs, want %d", o.label, len(inputs), len(o.inputs))
	}
	out := make([][]T, len(inputs))
	for i, v := range inputs {
		s, err := sliceOf[T](v, o.inputs[i].TotalSize())
		if err != nil {
			return nil, fmt.Errorf("%s, input %d: %w", o.label, i, err)
		}
		out[i] = s
	}
	return out, nil
}

// sliceOf is a value's memory; a scalar is copied.
func sliceOf[T real](v gorgonia.Value, n int) ([]T, error) {
	if v == nil {
		return nil, fmt.Errorf("no value")
	}
	var s []T
	switch d := v.Data().(type) {
	case []T:
		s = d
	case T:
		s = []T{d}
	}
	if len(s) != n {
		return nil, fmt.Errorf("a value of %T with %d numbers, want %d of %v", v.Data(), len(s), n, dtypeOf[T]())
	}
	return s, nil
}

// fresh makes a value and returns its memory. A scalar's is separate: put
// carries it over.
func fresh[T real](s tensor.Shape) (gorgonia.Value, []T) {
	if len(s) == 0 {
		var zero T
		switch any(zero).(type) {
		case float32:
			return gorgonia.NewF32(0), make([]T, 1)
		default:
			return gorgonia.NewF64(0), make([]T, 1)
		}
	}
	b := make([]T, s.TotalSize())
	return tensor.New(tensor.Of(dtypeOf[T]()), tensor.WithShape(s...), tensor.WithBacking(b)), b
}

func put[T real](v gorgonia.Value, s []T) gorgonia.Value {
	switch p := v.(type) {
	case *gorgonia.F32:
		*p = gorgonia.F32(s[0])
	case *gorgonia.F64:
		*p = gorgonia.F64(s[0])
	}
	return v
}

// kernel is an operation of ours, as the executor calls it: on memory that was
// laid out when the graph was compiled.
type kernel[T real] interface {
	gorgonia.Op
	bind(out []T, in [][]T) func()
}

// do runs a kernel the way gorgonia's own machines do.
func do[T real](k kernel[T], o inside[T], into gorgonia.Value, inputs []gorgonia.Value) (gorgonia.Value, error) {
	in, err := o.slices(inputs)
	if err != nil {
		return nil, err
	}
	v, out := fresh[T](o.output)
	if into != nil && len(o.output) > 0 {
		if out, err = sliceOf[T](into, o.output.TotalSize()); err != nil {
			return nil, fmt.Errorf("%s: %w", o.label, err)
		}
		v = into
	}
	k.bind(out, in)()
	return put(v, out), nil
}

// value is the operation that computes a function.
type value[T real] struct {
	inside[T]
	f *function[T]
}

func newValue[T real](f *function[T]) value[T] {
	return value[T]{inside[T]{f.name, f.in, f.out}, f}
}

func (o value[T]) bind(out []T, in [][]T) func() { return func() { o.f.forward(out, in) } }

func (o value[T]) Do(inputs ...gorgonia.Value) (gorgonia.Value, error) {
	return do(o, o.inside, nil, inputs)
}

func (o value[T]) UsePreallocDo(into gorgonia.Value, inputs ...gorgonia.Value) (gorgonia.Value, error) {
	return do(o, o.inside, into, inputs)
}

// DiffWRT implements gorgonia.SDOp.
func (o value[T]) DiffWRT(int) []bool { return o.f.diff }

// SymDiff implements gorgonia.SDOp: one node computes all gradients side by
// side, and one part takes out each.
func (o value[T]) SymDiff(inputs gorgonia.Nodes, output, grad *gorgonia.Node) (gorgonia.Nodes, error) {
	g := newGradient(o.f)
	all, err := gorgonia.ApplyOp(g, append(append(gorgonia.Nodes{}, inputs...), output, grad)...)
	if err != nil {
		return nil, err
	}
	out := make(gorgonia.Nodes, len(inputs))
	for i, n := range g.sizes {
		if n == 0 {
			continue
		}
		p := part[T]{inside[T]{fmt.Sprintf("%s, gradient by input %d", o.f.name, i), []tensor.Shape{g.output}, o.f.in[i]}, g.at[i]}
		if out[i], err = gorgonia.ApplyOp(p, all); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// gradient computes a function's gradients into one vector: at[i] is where
// that by input i begins, sizes[i] its length, 0 if there is none.
type gradient[T real] struct {
	inside[T]
	f         *function[T]
	at, sizes []int
}

func newGradient[T real](f *function[T]) gradient[T] {
	g := gradient[T]{f: f, at: make([]int, len(f.in)), sizes: make([]int, len(f.in))}
	total := 0
	for i, d := range f.diff {
		if d {
			g.at[i], g.sizes[i] = total, f.in[i].TotalSize()
			total += g.sizes[i]
		}
	}
	g.inside = inside[T]{f.name + ", gradient", append(append([]tensor.Shape{}, f.in...), f.out, f.out), tensor.Shape{total}}
	return g
}

func (o gradient[T]) bind(out []T, in [][]T) func() {
	grads := make([][]T, len(o.f.in))
	for i, n := range o.sizes {
		if n > 0 {
			grads[i] = out[o.at[i] : o.at[i]+n : o.at[i]+n]
		}
	}
	n := len(o.f.in)
	return func() { o.f.backward(grads, in[:n], in[n], in[n+1]) }
}

func (o gradient[T]) Do(inputs ...gorgonia.Value) (gorgonia.Value, error) {
	return do(o, o.inside, nil, inputs)
}

func (o gradient[T]) UsePreallocDo(into gorgonia.Value, inputs ...gorgonia.Value) (gorgonia.Value, error) {
	return do(o, o.inside, into, inputs)
}

// part takes one gradient out of the vector of all.
type part[T real] struct {
	inside[T]
	at int
}

func (o part[T]) bind(out []T, in [][]T) func() {
	from := in[0][o.at : o.at+len(out)]
	return func() { copy(out, from) }
}

func (o part[T]) Do(inputs ...gorgonia.Value) (gorgonia.Value, error) {
	return do(o, o.inside, nil, inputs)
}

func (o part[T]) UsePreallocDo(into gorgonia.Value, inputs ...gorgonia.Value) (gorgonia.Value, error) {
	return do(o, o.inside, into, inputs)
}
