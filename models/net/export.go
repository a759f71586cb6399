package net

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"consilium/internal/canon"
)

// tensors lists the layers' tensors by their place in the flat parameters. A
// dense layer computes x·weight + bias, with weight as [inputs, outputs]. The
// weight of a convolution is [height, width, channels, units] of its window, in
// one dimension [width, channels, units]. Those of a gru are [inputs, 3·units]
// and [units, 3·units], with the gates reset, update, new side by side.
func (n *network) tensors() []tensorRef {
	var out []tensorRef
	for i := range n.layers {
		l := &n.layers[i]
		for _, t := range l.tensors {
			t.name = fmt.Sprintf("layers.%d.%s", i, t.name)
			if l.kind == conv && len(t.shape) == 2 {
				t.shape = []int{l.kernel[0], l.kernel[1], l.in.channels, l.out.channels}
				if l.in.rank == 2 {
					t.shape = t.shape[1:]
				}
			}
			out = append(out, t)
		}
	}
	return out
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
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v.scale(j)[c.at]))
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

// curvesCSV writes the curves as a table.
func (o *Outcome) curvesCSV(second string) []byte {
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
