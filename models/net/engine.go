package net

import (
	"fmt"

	"gonum.org/v1/gonum/graph"
	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// executor runs a gorgonia graph in the caller's goroutine, every node into
// memory of its own that is laid out once. gorgonia's tape machine starts a
// goroutine for every run, in which a panic ends the process; here it is an
// error. Nothing is allocated in a run, and no operation may write to its
// inputs.
type executor[T real] struct {
	steps  []step
	values map[*gorgonia.Node][]T
	taps   []tap[T] // of every function that has a gradient
	clears [][]T    // everything that a run leaves behind
}

// tap is where a function's gradient reads from.
type tap[T real] struct {
	f    *function[T]
	in   [][]T
	dout []T
}

type step struct {
	name string
	run  func() error
}

// newExecutor lays the graph out. leaves are its inputs' memory.
func newExecutor[T real](g *gorgonia.ExprGraph, leaves map[*gorgonia.Node][]T) (*executor[T], error) {
	sorted, err := gorgonia.Sort(g)
	if err != nil {
		return nil, fmt.Errorf("gorgonia: %w", err)
	}
	e := &executor[T]{values: make(map[*gorgonia.Node][]T, len(sorted))}
	boxed := map[*gorgonia.Node]gorgonia.Value{} // as gorgonia's own operations want them
	for i := len(sorted) - 1; i >= 0; i-- {      // gorgonia sorts from the roots to the leaves
		n := sorted[i]
		if s, ok := leaves[n]; ok {
			e.values[n], boxed[n] = s, n.Value()
			continue
		}
		children := graph.NodesOf(g.From(n.ID()))
		if len(children) == 0 { // a constant
			s, err := sliceOf[T](n.Value(), n.Shape().TotalSize())
			if err != nil {
				return nil, fmt.Errorf("%s: %w", n.Name(), err)
			}
			e.values[n], boxed[n] = s, n.Value()
			continue
		}
		in := make([][]T, len(children))
		box := make([]gorgonia.Value, len(children))
		for k, c := range children {
			child := c.(*gorgonia.Node)
			if in[k] = e.values[child]; in[k] == nil {
				return nil, fmt.Errorf("%s: its input %s has no value", n.Name(), child.Name())
			}
			box[k] = boxed[child]
		}
		v, out := fresh[T](n.Shape())
		e.values[n], boxed[n] = out, v
		e.clears = append(e.clears, out)
		name := n.Op().String()
		switch op := n.Op().(type) {
		case kernel[T]:
			run := op.bind(out, in)
			e.steps = append(e.steps, step{name, func() error { run(); return nil }})
			switch o := op.(type) {
			case value[T]:
				e.clears = append(e.clears, o.f.scratch...)
			case gradient[T]:
				n := len(o.f.in)
				e.taps = append(e.taps, tap[T]{o.f, in[:n], in[n+1]})
			}
		case gorgonia.UsePreallocDoer:
			if n.IsScalar() {
				return nil, fmt.Errorf("%s: a scalar of an operation that is not ours", name)
			}
			e.steps = append(e.steps, step{name, func() error {
				got, err := op.UsePreallocDo(v, box...)
				if err != nil || got == v {
					return err
				}
				s, err := sliceOf[T](got, len(out))
				if err == nil {
					copy(out, s)
				}
				return err
			}})
		default:
			return nil, fmt.Errorf("%s: an operation that cannot be given its memory", name)
		}
	}
	return e, nil
}

// run computes every node. A panic of an operation is an error that names it;
// the executor's values are then of no use.
func (e *executor[T]) run() (err error) {
	at := 0
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the engine failed in %s: %v", e.steps[at].name, r)
		}
	}()
	for at = range e.steps {
		if err := e.steps[at].run(); err != nil {
			return fmt.Errorf("gorgonia, %s: %w", e.steps[at].name, err)
		}
	}
	return nil
}

// wipe overwrites what the last run left.
func (e *executor[T]) wipe() {
	for _, s := range e.clears {
		clear(s)
	}
}

// variable makes a leaf of the graph whose memory is s.
func variable[T real](g *gorgonia.ExprGraph, name string, s []T, shape ...int) *gorgonia.Node {
	v := tensor.New(tensor.Of(dtypeOf[T]()), tensor.WithShape(shape...), tensor.WithBacking(s))
	return gorgonia.NewTensor(g, dtypeOf[T](), len(shape), gorgonia.WithShape(shape...), gorgonia.WithName(name), gorgonia.WithValue(v))
}
