package net

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// ONNX element types and the versions that the file declares. Operator set 13
// has every operator used here; IR 7 is its companion.
const (
	onnxFloat  = 1
	onnxInt64  = 7
	onnxDouble = 11
	onnxIR     = 7
	onnxOpset  = 13
)

// onnxGraph writes one ONNX graph. Field numbers are those of onnx.proto3.
type onnxGraph struct {
	double  bool
	nodes   []byte
	tensors []byte
	names   int
}

func pbBytes(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

func pbInt(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func (g *onnxGraph) elem() uint64 {
	if g.double {
		return onnxDouble
	}
	return onnxFloat
}

// attribute is one attribute of a node: an int64 or a list of them.
type attribute struct {
	name string
	list []int
	one  bool
}

func ints(name string, list ...int) attribute { return attribute{name: name, list: list} }

func whole(name string, v int) attribute { return attribute{name, []int{v}, true} }

func (a attribute) encode() []byte {
	const typeInt, typeInts = 2, 7
	b := pbBytes(nil, 1, []byte(a.name))
	if a.one {
		return pbInt(pbInt(b, 3, uint64(a.list[0])), 20, typeInt)
	}
	for _, v := range a.list {
		b = pbInt(b, 8, uint64(v))
	}
	return pbInt(b, 20, typeInts)
}

// node adds an operation and returns the name of its first output.
func (g *onnxGraph) node(op string, inputs []string, attributes ...attribute) string {
	return g.named(op, g.fresh(), inputs, attributes...)
}

func (g *onnxGraph) fresh() string {
	g.names++
	return fmt.Sprintf("t%d", g.names)
}

// named is node with a name for the outputs, separated by commas; an empty one
// is not wanted.
func (g *onnxGraph) named(op, outputs string, inputs []string, attributes ...attribute) string {
	var n []byte
	for _, in := range inputs {
		n = pbBytes(n, 1, []byte(in))
	}
	var first string
	for _, out := range strings.Split(outputs, ",") {
		n = pbBytes(n, 2, []byte(out))
		if first == "" {
			first = out
		}
	}
	n = pbBytes(n, 3, []byte(first))
	n = pbBytes(n, 4, []byte(op))
	for _, a := range attributes {
		n = pbBytes(n, 5, a.encode())
	}
	g.nodes = pbBytes(g.nodes, 1, n)
	return first
}

func (g *onnxGraph) tensor(name string, elem uint64, shape []int, raw []byte) string {
	var t []byte
	for _, d := range shape {
		t = pbInt(t, 1, uint64(d))
	}
	t = pbInt(t, 2, elem)
	t = pbBytes(t, 8, []byte(name))
	g.tensors = pbBytes(g.tensors, 5, pbBytes(t, 9, raw))
	return name
}

// constant adds a tensor of the model's type.
func (g *onnxGraph) constant(name string, shape []int, values ...float64) string {
	var raw []byte
	for _, x := range values {
		if g.double {
			raw = binary.LittleEndian.AppendUint64(raw, math.Float64bits(x))
		} else {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(float32(x)))
		}
	}
	return g.tensor(name, g.elem(), shape, raw)
}

// list adds a tensor of int64: a shape or axes.
func (g *onnxGraph) list(values ...int) string {
	var raw []byte
	for _, v := range values {
		raw = binary.LittleEndian.AppendUint64(raw, uint64(v))
	}
	return g.tensor(g.fresh(), onnxInt64, []int{len(values)}, raw)
}

// reshape lays rows out as the given shape; the rows stay as they are.
func (g *onnxGraph) reshape(at string, shape ...int) string {
	return g.node("Reshape", []string{at, g.list(append([]int{0}, shape...)...)})
}

// onnx writes the whole model, standardisation included, as ONNX: input
// "features" [rows, inputs] in the units of the study, NaN where missing. The
// output is "risk", "value" (in the units of the response) or "log_hazard"
// [rows, 1]; of a reconstruction "score" [rows, 1] and "reconstruction" [rows,
// inputs].
func (a *train) onnx(v view) []byte {
	g := &onnxGraph{double: a.net.double}
	n := len(a.inputs)
	mean, sd := make([]float64, n), make([]float64, n)
	for j := range mean {
		in := v.scale(j)
		mean[j], sd[j] = in[inMean], in[inSD]
	}
	g.constant("input.mean", []int{1, n}, mean...)
	g.constant("input.sd", []int{1, n}, sd...)
	missing := g.named("IsNaN", "missing", []string{"features"})
	g.named("Where", "filled", []string{missing, "input.mean", "features"})
	g.named("Sub", "centred", []string{"filled", "input.mean"})
	standardised := g.named("Div", "standardised", []string{"centred", "input.sd"})
	at := standardised
	for i := range a.net.layers {
		at = a.onnxLayer(g, v, i, at)
	}
	type out struct {
		name  string
		width int
	}
	var outputs []out
	switch a.net.loss {
	case logistic:
		outputs = []out{{g.named("Sigmoid", "risk", []string{at}), 1}}
	case squared:
		g.constant("response.mean", []int{1, 1}, v.head[headMean])
		g.constant("response.sd", []int{1, 1}, v.head[headSD])
		g.named("Mul", "scaled", []string{at, "response.sd"})
		outputs = []out{{g.named("Add", "value", []string{"scaled", "response.mean"}), 1}}
	case partial:
		outputs = []out{{g.named("Identity", "log_hazard", []string{at}), 1}}
	case reconstruction:
		known := g.node("Cast", []string{g.node("Not", []string{missing})}, whole("to", int(g.elem())))
		d := g.node("Mul", []string{g.node("Sub", []string{at, standardised}), known})
		axes := g.list(1)
		sum := g.node("ReduceSum", []string{g.node("Mul", []string{d, d}), axes})
		count := g.node("Max", []string{g.node("ReduceSum", []string{known, axes}), g.constant("one", []int{1, 1}, 1)})
		outputs = []out{{g.named("Div", "score", []string{sum, count}), 1}}
		g.named("Mul", "spread", []string{at, "input.sd"})
		outputs = append(outputs, out{g.named("Add", "reconstruction", []string{"spread", "input.mean"}), n})
	}
	graph := pbBytes(g.nodes, 2, []byte("consilium"))
	graph = append(graph, g.tensors...)
	value := func(name string, cols int) []byte {
		rows := pbBytes(nil, 1, pbBytes(nil, 2, []byte("rows")))
		shape := pbBytes(rows, 1, pbInt(nil, 1, uint64(cols)))
		typ := pbBytes(nil, 1, pbBytes(pbInt(nil, 1, g.elem()), 2, shape))
		return pbBytes(pbBytes(nil, 1, []byte(name)), 2, typ)
	}
	graph = pbBytes(graph, 11, value("features", n))
	for _, o := range outputs {
		graph = pbBytes(graph, 12, value(o.name, o.width))
	}
	m := pbInt(nil, 1, onnxIR)
	m = pbBytes(m, 2, []byte("consilium"))
	m = pbBytes(m, 7, graph)
	m = pbBytes(m, 8, pbInt(pbBytes(nil, 1, nil), 2, onnxOpset))
	for _, p := range [][2]string{{"inputs", strings.Join(a.inputNames(), "\n")}, {"model", a.net.digest.String()}, {"response", a.response.name}} {
		m = pbBytes(m, 14, pbBytes(pbBytes(nil, 1, []byte(p[0])), 2, []byte(p[1])))
	}
	return m
}

// onnxLayer adds layer i, whose input and output are flat rows: ONNX wants the
// channels of an image before its height and width, and the steps of a series
// before its rows.
func (a *train) onnxLayer(g *onnxGraph, v view, i int, at string) string {
	l := &a.net.layers[i]
	weights := func(k int) string {
		t := l.tensors[k]
		return g.tensor(fmt.Sprintf("layers.%d.%s", i, t.name), g.elem(), t.shape, v.raw(nil, t.at, t.size()))
	}
	next := fmt.Sprintf("layer%d", i)
	sides := func(s shape) []int { // without channels
		if s.rank == 3 {
			return []int{s.height, s.width}
		}
		return []int{s.width}
	}
	// windows runs op on channels first.
	windows := func(op string, inputs []string, attributes ...attribute) string {
		first, last := []int{0, 2, 1}, []int{0, 2, 1}
		k, s, p := l.kernel[1:], l.stride[1:], []int{l.pad[1], l.pad[1]}
		if l.in.rank == 3 {
			first, last = []int{0, 3, 1, 2}, []int{0, 2, 3, 1}
			k, s, p = l.kernel[:], l.stride[:], []int{l.pad[0], l.pad[1], l.pad[0], l.pad[1]}
		}
		x := g.node("Transpose", []string{g.reshape(at, append(sides(l.in), l.in.channels)...)}, ints("perm", first...))
		y := g.node(op, append([]string{x}, inputs...), append(attributes, ints("kernel_shape", k...), ints("strides", s...), ints("pads", p...))...)
		return g.named("Reshape", next, []string{g.node("Transpose", []string{y}, ints("perm", last...)), g.list(0, l.out.size())})
	}
	switch l.kind {
	case dense:
		return g.named("Gemm", next, []string{at, weights(0), weights(1)})
	case relu:
		return g.named("Relu", next, []string{at})
	case tanh:
		return g.named("Tanh", next, []string{at})
	case sigmoid:
		return g.named("Sigmoid", next, []string{at})
	case conv:
		t, c, u := l.tensors[0], l.in.channels, l.out.channels
		places := l.kernel[0] * l.kernel[1]
		turned := make([]float64, 0, t.size())
		for unit := range u {
			for ch := range c {
				for p := range places {
					turned = append(turned, v.weight(t.at+(p*c+ch)*u+unit))
				}
			}
		}
		w := g.constant(fmt.Sprintf("layers.%d.weight", i), append([]int{u, c}, l.kernel[3-l.in.rank:]...), turned...)
		return windows("Conv", []string{w, weights(1)})
	case maxpool:
		return windows("MaxPool", nil)
	case average:
		var axes []int
		for k := range sides(l.in) {
			axes = append(axes, k+1)
		}
		x := g.reshape(at, append(sides(l.in), l.in.channels)...)
		return g.named("ReduceMean", next, []string{x}, ints("axes", axes...), whole("keepdims", 0))
	case gru:
		return a.onnxGRU(g, v, i, at, next)
	}
	panic(fmt.Sprintf("net: layer %d of kind %d has no ONNX form", i, l.kind)) // newLayer knows every kind
}

// onnxGRU adds a gru: ONNX has the gates in the order update, reset, hidden,
// and its weights the other way round.
func (a *train) onnxGRU(g *onnxGraph, v view, i int, at, next string) string {
	l := &a.net.layers[i]
	h := l.tensors[1].shape[0]
	order := [3]int{1, 0, 2}
	turned := func(k int) string {
		t := l.tensors[k]
		var out []float64
		for _, gate := range order {
			for unit := range h {
				for r := range t.shape[0] {
					out = append(out, v.weight(t.at+r*3*h+gate*h+unit))
				}
			}
		}
		return g.constant(fmt.Sprintf("layers.%d.%s", i, t.name), []int{1, 3 * h, t.shape[0]}, out...)
	}
	var bias []float64
	for k := 2; k < 4; k++ {
		for _, gate := range order {
			for unit := range h {
				bias = append(bias, v.weight(l.tensors[k].at+gate*h+unit))
			}
		}
	}
	x := g.node("Transpose", []string{g.reshape(at, l.in.width, l.in.channels)}, ints("perm", 1, 0, 2))
	in := []string{x, turned(0), turned(1), g.constant(fmt.Sprintf("layers.%d.bias", i), []int{1, 6 * h}, bias...)}
	attributes := []attribute{whole("hidden_size", h), whole("linear_before_reset", 1)}
	if !l.sequence {
		last := g.fresh()
		g.named("GRU", ","+last, in, attributes...)
		return g.named("Squeeze", next, []string{last, g.list(0)})
	}
	all := g.node("GRU", in, attributes...) // steps × 1 × rows × units
	byRow := g.node("Transpose", []string{g.node("Squeeze", []string{all, g.list(1)})}, ints("perm", 1, 0, 2))
	return g.named("Reshape", next, []string{byRow, g.list(0, l.out.size())})
}
