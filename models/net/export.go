package net

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"consilium/internal/canon"
)

// tensors lists the layers' tensors by their place in the flat parameters. A
// layer computes x·weight + bias; weight is [inputs, outputs], row by row.
func (n *network) tensors() []tensorRef {
	var out []tensorRef
	for i, l := range n.layers {
		if l.kind == dense {
			out = append(out, tensorRef{fmt.Sprintf("layers.%d.weight", i), l.weight, []int{l.in, l.out}},
				tensorRef{fmt.Sprintf("layers.%d.bias", i), l.bias, []int{l.out}})
		}
	}
	return out
}

type tensorRef struct {
	name  string
	at    int
	shape []int
}

func (t tensorRef) size() int {
	n := 1
	for _, d := range t.shape {
		n *= d
	}
	return n
}

// raw appends n weights from at, little-endian, in the model's type.
func (v view) raw(b []byte, at, n int) []byte {
	for i := at; i < at+n; i++ {
		if len(v.single) > 0 {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v.single[i]))
		} else {
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v.double[i]))
		}
	}
	return b
}

// safetensors writes the weights and the standardisation in the format of
// huggingface/safetensors: eight bytes of header length, a JSON header, data.
func (a *train) safetensors(v view) ([]byte, error) {
	type entry struct {
		DType   string `json:"dtype"`
		Shape   []int  `json:"shape"`
		Offsets [2]int `json:"data_offsets"`
	}
	header := map[string]any{}
	var data []byte
	add := func(name, dtype string, shape []int, bytes []byte) {
		header[name] = entry{dtype, shape, [2]int{len(data), len(data) + len(bytes)}}
		data = append(data, bytes...)
	}
	// Eight-byte values first, so that every tensor is aligned.
	for _, c := range []struct {
		name string
		at   int
	}{{"input.mean", inMean}, {"input.sd", inSD}} {
		var b []byte
		for j := range a.inputs {
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v.inputs[inLength*j+c.at]))
		}
		add(c.name, "F64", []int{len(a.inputs)}, b)
	}
	dtype := "F32"
	if a.net.double {
		dtype = "F64"
	}
	for _, t := range a.net.tensors() {
		add(t.name, dtype, t.shape, v.raw(nil, t.at, t.size()))
	}
	names, err := json.Marshal(a.inputNames())
	if err != nil {
		return nil, err
	}
	header["__metadata__"] = map[string]string{"format": "consilium/v1", "model": a.net.digest.String(), "inputs": string(names), "loss": a.net.spec.Loss}
	doc, err := canon.Marshal(header)
	if err != nil {
		return nil, err
	}
	for len(doc)%8 != 0 {
		doc = append(doc, ' ')
	}
	return append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(doc))), doc...), data...), nil
}

func (a *train) inputNames() []string {
	names := make([]string, len(a.inputs))
	for i, in := range a.inputs {
		names[i] = in.name
	}
	return names
}

// npy writes the flat parameters in NumPy's format 1.0.
func (a *train) npy(v view) []byte {
	descr := "<f4"
	if a.net.double {
		descr = "<f8"
	}
	header := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': (%d,), }", descr, a.net.params)
	const preamble = 10 // magic, version, header length
	header += strings.Repeat(" ", 63-(preamble+len(header))%64) + "\n"
	b := append([]byte("\x93NUMPY\x01\x00"), binary.LittleEndian.AppendUint16(nil, uint16(len(header)))...)
	return v.raw(append(b, header...), 0, a.net.params)
}

// ONNX element types and the versions that the file declares. Operator set 13
// has every operator used here; IR 7 is its companion.
const (
	onnxFloat  = 1
	onnxDouble = 11
	onnxIR     = 7
	onnxOpset  = 13
)

// onnx writes the whole model, standardisation included, as ONNX: input
// "features" [rows, inputs] in the units of the study, NaN where missing; output
// "risk" (or "value" for a squared loss) [rows, 1]. Field numbers are those of
// onnx.proto3.
func (a *train) onnx(v view) []byte {
	elem := uint64(onnxFloat)
	if a.net.double {
		elem = onnxDouble
	}
	bin := func(b []byte, field protowire.Number, v []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
	}
	num := func(b []byte, field protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
	}
	var graph []byte
	node := func(op string, output string, inputs ...string) {
		var n []byte
		for _, in := range inputs {
			n = bin(n, 1, []byte(in))
		}
		n = bin(n, 2, []byte(output))
		n = bin(n, 3, []byte(output))
		graph = bin(graph, 1, bin(n, 4, []byte(op)))
	}
	var tensors []byte
	tensor := func(name string, shape []int, raw []byte) {
		var t []byte
		for _, d := range shape {
			t = num(t, 1, uint64(d))
		}
		t = num(t, 2, elem)
		t = bin(t, 8, []byte(name))
		tensors = bin(tensors, 5, bin(t, 9, raw))
	}
	constant := func(name string, values ...float64) {
		var raw []byte
		for _, x := range values {
			if a.net.double {
				raw = binary.LittleEndian.AppendUint64(raw, math.Float64bits(x))
			} else {
				raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(float32(x)))
			}
		}
		tensor(name, []int{1, len(values)}, raw)
	}
	mean, sd := make([]float64, len(a.inputs)), make([]float64, len(a.inputs))
	for j := range a.inputs {
		mean[j], sd[j] = v.inputs[inLength*j+inMean], v.inputs[inLength*j+inSD]
	}
	constant("input.mean", mean...)
	constant("input.sd", sd...)
	node("IsNaN", "missing", "features")
	node("Where", "filled", "missing", "input.mean", "features")
	node("Sub", "centred", "filled", "input.mean")
	node("Div", "standardised", "centred", "input.sd")
	refs, at := a.net.tensors(), "standardised"
	for i, l := range a.net.layers {
		next := "layer" + strconv.Itoa(i)
		switch l.kind {
		case dense:
			w, b := refs[0], refs[1]
			refs = refs[2:]
			tensor(w.name, w.shape, v.raw(nil, w.at, w.size()))
			tensor(b.name, b.shape, v.raw(nil, b.at, b.size()))
			node("Gemm", next, at, w.name, b.name)
		case relu:
			node("Relu", next, at)
		case tanh:
			node("Tanh", next, at)
		case sigmoid:
			node("Sigmoid", next, at)
		}
		at = next
	}
	output := "risk"
	if a.net.loss == logistic {
		node("Sigmoid", output, at)
	} else {
		output = "value"
		constant("response.mean", v.head[headMean])
		constant("response.sd", v.head[headSD])
		node("Mul", "scaled", at, "response.sd")
		node("Add", output, "scaled", "response.mean")
	}
	graph = bin(graph, 2, []byte("consilium"))
	graph = append(graph, tensors...)
	value := func(name string, cols int) []byte {
		rows := bin(nil, 1, bin(nil, 2, []byte("rows")))
		shape := bin(rows, 1, num(nil, 1, uint64(cols)))
		typ := bin(nil, 1, bin(num(nil, 1, elem), 2, shape))
		return bin(bin(nil, 1, []byte(name)), 2, typ)
	}
	graph = bin(graph, 11, value("features", len(a.inputs)))
	graph = bin(graph, 12, value(output, 1))
	m := num(nil, 1, onnxIR)
	m = bin(m, 2, []byte("consilium"))
	m = bin(m, 7, graph)
	m = bin(m, 8, num(bin(nil, 1, nil), 2, onnxOpset))
	for _, p := range [][2]string{{"inputs", strings.Join(a.inputNames(), "\n")}, {"model", a.net.digest.String()}, {"response", a.response.name}} {
		m = bin(m, 14, bin(bin(nil, 1, []byte(p[0])), 2, []byte(p[1])))
	}
	return m
}

// curvesCSV writes the curves as a table.
func (o *Outcome) curvesCSV(loss lossKind) []byte {
	second := "auc"
	if loss == squared {
		second = "r2"
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "round,training_loss,training_%s,holdout_loss,holdout_%s,update_norm\n", second, second)
	cell := func(p *float64) string {
		if p == nil {
			return ""
		}
		return strconv.FormatFloat(*p, 'g', -1, 64)
	}
	c := o.Curves
	for i := range c.TrainingLoss {
		var norm *float64
		if i < len(c.UpdateNorm) {
			norm = &c.UpdateNorm[i]
		}
		fmt.Fprintf(&b, "%d,%s,%s,%s,%s,%s\n", i, cell(c.TrainingLoss[i]), cell(c.TrainingAUC[i]), cell(c.HoldoutLoss[i]), cell(c.HoldoutAUC[i]), cell(norm))
	}
	return b.Bytes()
}
