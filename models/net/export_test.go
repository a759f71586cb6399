package net

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"consilium"
	"consilium/internal/canon"
)

// fields splits one protobuf message into its fields; varints become eight
// bytes.
func fields(t *testing.T, b []byte) map[protowire.Number][][]byte {
	t.Helper()
	out := map[protowire.Number][][]byte{}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			t.Fatal("broken tag")
		}
		b = b[n:]
		switch typ {
		case protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				t.Fatal("broken varint")
			}
			out[num] = append(out[num], binary.BigEndian.AppendUint64(nil, v))
			b = b[n:]
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				t.Fatal("broken bytes")
			}
			out[num] = append(out[num], v)
			b = b[n:]
		default:
			t.Fatalf("field %d of type %d", num, typ)
		}
	}
	return out
}

// runONNX is a small reader and interpreter of the operators that the writer
// uses, straight from onnx.proto3 and the operators' definitions.
func runONNX(t *testing.T, model []byte, x [][]float64) (output string, out []float64) {
	t.Helper()
	m := fields(t, model)
	if v := binary.BigEndian.Uint64(m[1][0]); v != 7 {
		t.Fatalf("IR version %d", v)
	}
	g := fields(t, m[7][0])
	type matrix struct {
		rows, cols int
		v          []float64
	}
	values := map[string]matrix{}
	for _, b := range g[5] {
		f := fields(t, b)
		size, dims := 1, []int{}
		for _, d := range f[1] {
			dims = append(dims, int(binary.BigEndian.Uint64(d)))
			size *= dims[len(dims)-1]
		}
		c := matrix{1, size, nil}
		if len(dims) == 2 {
			c.rows, c.cols = dims[0], dims[1]
		}
		raw := f[9][0]
		for i := range size {
			if binary.BigEndian.Uint64(f[2][0]) == onnxDouble {
				c.v = append(c.v, math.Float64frombits(binary.LittleEndian.Uint64(raw[8*i:])))
			} else {
				c.v = append(c.v, float64(math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))))
			}
		}
		values[string(f[8][0])] = c
	}
	in := matrix{rows: len(x), cols: len(x[0])}
	for _, r := range x {
		in.v = append(in.v, r...)
	}
	values[string(fields(t, g[11][0])[1][0])] = in
	for _, b := range g[1] {
		f := fields(t, b)
		var args []matrix
		for _, name := range f[1] {
			v, ok := values[string(name)]
			if !ok {
				t.Fatalf("node %s reads %s, which nothing made", f[3][0], name)
			}
			args = append(args, v)
		}
		a := args[0]
		each := func(op func(i, j int) float64, like matrix) matrix {
			r := matrix{like.rows, like.cols, make([]float64, len(like.v))}
			for i := range r.rows {
				for j := range r.cols {
					r.v[i*r.cols+j] = op(i, j)
				}
			}
			return r
		}
		at := func(m matrix, i, j int) float64 { // broadcast rows and columns of 1
			return m.v[min(i, m.rows-1)*m.cols+min(j, m.cols-1)]
		}
		var r matrix
		switch op := string(f[4][0]); op {
		case "IsNaN":
			r = each(func(i, j int) float64 {
				if math.IsNaN(at(a, i, j)) {
					return 1
				}
				return 0
			}, a)
		case "Where":
			r = each(func(i, j int) float64 {
				if at(a, i, j) != 0 {
					return at(args[1], i, j)
				}
				return at(args[2], i, j)
			}, a)
		case "Sub":
			r = each(func(i, j int) float64 { return at(a, i, j) - at(args[1], i, j) }, a)
		case "Div":
			r = each(func(i, j int) float64 { return at(a, i, j) / at(args[1], i, j) }, a)
		case "Mul":
			r = each(func(i, j int) float64 { return at(a, i, j) * at(args[1], i, j) }, a)
		case "Add":
			r = each(func(i, j int) float64 { return at(a, i, j) + at(args[1], i, j) }, a)
		case "Relu":
			r = each(func(i, j int) float64 { return math.Max(at(a, i, j), 0) }, a)
		case "Tanh":
			r = each(func(i, j int) float64 { return math.Tanh(at(a, i, j)) }, a)
		case "Sigmoid":
			r = each(func(i, j int) float64 { return 1 / (1 + math.Exp(-at(a, i, j))) }, a)
		case "Gemm":
			w := args[1]
			if a.cols != w.rows || args[2].cols != w.cols {
				t.Fatalf("Gemm of %d columns with %d rows", a.cols, w.rows)
			}
			r = matrix{a.rows, w.cols, make([]float64, a.rows*w.cols)}
			for i := range r.rows {
				for j := range r.cols {
					s := at(args[2], 0, j)
					for k := range w.rows {
						s += at(a, i, k) * at(w, k, j)
					}
					r.v[i*r.cols+j] = s
				}
			}
		default:
			t.Fatalf("operator %s", op)
		}
		values[string(f[2][0])] = r
	}
	output = string(fields(t, g[12][0])[1][0])
	return output, values[output].v
}

// The exported model, read by another reader, predicts what the trained one
// does, from raw features with missing ones.
func TestONNX(t *testing.T) {
	for _, c := range []struct{ loss, dtype, response, output string }{
		{"logistic", "float32", "any", "risk"}, {"logistic", "float64", "any", "risk"},
		{"squared", "float32", "fu", "value"}, {"squared", "float64", "fu", "value"},
	} {
		facts, spec, rows := trial(t)
		spec.Model = &consilium.ModelSpec{Layers: layers(6, "relu", 5, "tanh", 4, "sigmoid", 1), Loss: c.loss, DType: c.dtype}
		spec.Response.Column = c.response
		spec.Strategy = &consilium.Strategy{Rounds: 2, Rate: 0.05}
		r := simulate(t, facts, spec, rows)
		a, err := newTrain(facts, spec)
		if err != nil {
			t.Fatal(err)
		}
		v, err := a.view(r.State)
		if err != nil {
			t.Fatal(err)
		}
		tab, err := a.read(Pool(rows))
		if err != nil {
			t.Fatal(err)
		}
		var x [][]float64
		var flat, weights []float64
		for i := range tab.rows() {
			row := append([]float64(nil), tab.x[i*tab.inputs:(i+1)*tab.inputs]...)
			row[i%tab.inputs] = math.NaN()
			x = append(x, row)
			for j, value := range row {
				flat = append(flat, v.standardise(j, value))
			}
			weights = append(weights, 1)
		}
		params := make([]float64, a.net.params)
		load(v, params)
		want, _, _ := oracle(a.net, params, flat, make([]float64, len(x)), weights)
		name, got := runONNX(t, r.Result.Files["model.onnx"], x)
		if name != c.output || len(got) != len(want) {
			t.Fatalf("output %s of %d rows", name, len(got))
		}
		scale, tolerance := 1.0, 1e-12
		if c.dtype == "float32" {
			tolerance = 1e-6 // the means and deviations are rounded to float32
		}
		for i, z := range want {
			p := risk(z)
			if c.loss == "squared" {
				scale = v.head[headSD]
				p = z*scale + v.head[headMean]
			}
			if !near(got[i], p, tolerance*(1+scale)) {
				t.Errorf("%s %s: row %d predicts %v, want %v", c.loss, c.dtype, i, got[i], p)
			}
		}
	}
}

func TestWeightFiles(t *testing.T) {
	facts, spec, rows := trial(t)
	for _, dtype := range []string{"float32", "float64"} {
		spec.Model.DType = dtype
		spec.Strategy = &consilium.Strategy{Rounds: 2}
		r := simulate(t, facts, spec, rows)
		a, err := newTrain(facts, spec)
		if err != nil {
			t.Fatal(err)
		}
		v, err := a.view(r.State)
		if err != nil {
			t.Fatal(err)
		}
		size := map[string]int{"float32": 4, "float64": 8}[dtype]
		number := func(b []byte, i int) float64 {
			if size == 4 {
				return float64(math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:])))
			}
			return math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:]))
		}

		b := r.Result.Files["weights.safetensors"]
		n := binary.LittleEndian.Uint64(b)
		if (8+n)%8 != 0 {
			t.Errorf("the data start at byte %d", 8+n)
		}
		var header map[string]json.RawMessage
		if err := json.Unmarshal(b[8:8+n], &header); err != nil {
			t.Fatal(err)
		}
		data := b[8+n:]
		covered := 0
		for name, raw := range header {
			if name == "__metadata__" {
				continue
			}
			var e struct {
				DType   string `json:"dtype"`
				Shape   []int  `json:"shape"`
				Offsets []int  `json:"data_offsets"`
			}
			if err := json.Unmarshal(raw, &e); err != nil {
				t.Fatal(err)
			}
			covered += e.Offsets[1] - e.Offsets[0]
			if e.Offsets[1] > len(data) {
				t.Fatalf("%s ends at %d of %d", name, e.Offsets[1], len(data))
			}
			if name == "layers.0.weight" {
				if fmt.Sprint(e.Shape) != "[8 16]" || e.DType != map[int]string{4: "F32", 8: "F64"}[size] {
					t.Errorf("%s: %v %s", name, e.Shape, e.DType)
				}
				for i := range 8 * 16 {
					if number(data[e.Offsets[0]:], i) != v.weight(i) {
						t.Fatalf("%s: value %d", name, i)
					}
				}
			}
		}
		if covered != len(data) {
			t.Errorf("tensors cover %d of %d bytes", covered, len(data))
		}
		if d := consilium.DomainModel.Digest([]byte("weights"), b); d != r.Outcome.Model.Weights {
			t.Error("the result names other weights")
		}

		npy := r.Result.Files["weights.npy"]
		if !bytes.HasPrefix(npy, []byte("\x93NUMPY\x01\x00")) {
			t.Fatal("no NumPy magic")
		}
		h := 10 + int(binary.LittleEndian.Uint16(npy[8:]))
		if h%64 != 0 || npy[h-1] != '\n' || !strings.Contains(string(npy[10:h]), fmt.Sprintf("'shape': (%d,)", a.net.params)) {
			t.Errorf("NumPy header %q", npy[10:h])
		}
		if len(npy)-h != size*a.net.params {
			t.Errorf("%d bytes of weights", len(npy)-h)
		}
		for i := range a.net.params {
			if number(npy[h:], i) != v.weight(i) {
				t.Fatalf("NumPy value %d", i)
			}
		}

		if err := canon.Check(r.Result.JSON); err != nil {
			t.Error(err)
		}
		csv := strings.Split(strings.TrimSpace(string(r.Result.Files["curves.csv"])), "\n")
		if len(csv) != 4 || csv[0] != "round,training_loss,training_auc,holdout_loss,holdout_auc,update_norm" {
			t.Errorf("curves.csv: %q", csv)
		}
	}
}
