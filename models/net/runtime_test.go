package net

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"consilium"
	"consilium/models"
)

// onnxPython names the Python that has onnx, onnxruntime, safetensors and numpy.
const onnxPython = "CONSILIUM_ONNX_PYTHON"

// Exported models of every kind of layer and loss, opened by ONNX's checker and by a
// real runtime, predict what the trained network does.
func TestONNXRuntime(t *testing.T) {
	python := os.Getenv(onnxPython)
	if python == "" {
		t.Skipf("%s names no Python with onnx, onnxruntime and safetensors; .ci/run makes one", onnxPython)
	}
	dir := t.TempDir()
	n := 0
	// double is false where onnxruntime has no kernel in double precision.
	add := func(name string, facts consilium.Facts, spec *consilium.AnalysisSpec, rows []*models.Rows, double bool) {
		for _, dtype := range []string{"float32", "float64"} {
			if dtype == "float64" && !double {
				continue
			}
			spec.Model.DType = dtype
			spec.Strategy = &consilium.Strategy{Rounds: 2, Rate: 0.05}
			exportCase(t, filepath.Join(dir, name+"-"+dtype), facts, spec, rows)
			n++
		}
	}
	facts, spec, rows := trial(t)
	spec.Model.Layers = layers(6, "relu", 5, "tanh", 4, "sigmoid", 1)
	spec.Model.Missing = "indicator"
	add("logistic", facts, spec, rows, true)
	spec.Model.Missing = ""
	spec.Model.Loss, spec.Response.Column = "squared", "fu"
	add("squared", facts, spec, rows, true)
	facts, spec, rows = survivalTrial(t, true)
	spec.Model.Layers = layers(5, "tanh", 1)
	add("cox", facts, spec, rows, true)
	facts, spec, rows = waves(t, 12, 2)
	facts.MinCohort = 1
	for i, list := range [][]any{
		{conv1d(4, 5, 0, "same"), "relu", pool(3, 2), conv1d(3, 2, 2, ""), "tanh", 1},
		{conv1d(4, 3, 2, ""), "sigmoid", consilium.Layer{Kind: "average"}, 1},
		{conv1d(4, 3, 0, ""), recurrent(5, false), 3, "relu", 1},
	} {
		spec.Model.Layers = layers(list...)
		add("series"+strconv.Itoa(i), facts, spec, rows, false)
	}
	for i, list := range [][]any{{recurrent(5, true), recurrent(4, false), 1}, {recurrent(3, true), consilium.Layer{Kind: "average"}, 1}} {
		spec.Model.Layers = layers(list...)
		add("gru"+strconv.Itoa(i), facts, spec, rows, false)
	}
	spec.Response = nil
	spec.Model = &consilium.ModelSpec{Input: series(12, 2), Layers: layers(conv1d(3, 3, 0, "same"), "tanh", 4, 24), Loss: "reconstruction"}
	add("reconstruction", facts, spec, rows, false)
	spec.Model = &consilium.ModelSpec{Layers: layers(4, "tanh", 24), Loss: "reconstruction"}
	add("autoencoder", facts, spec, rows, true)
	spec.Response = &consilium.Response{Column: "fast"}
	for i, list := range [][]any{
		{conv2d(4, 3, 0, "same"), "relu", pool(2, 0), conv2d(3, 2, 0, ""), "tanh", 1},
		{conv2d(4, 3, 2, "same"), "relu", consilium.Layer{Kind: "average"}, 1},
	} {
		spec.Model = &consilium.ModelSpec{Input: image(4, 6, 1), Layers: layers(list...), Loss: "logistic"}
		add("image"+strconv.Itoa(i), facts, spec, rows, false)
	}
	out, err := exec.CommandContext(t.Context(), python, "testdata/opened.py", dir, strconv.Itoa(n)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// exportCase trains a model and writes what a reader of its files is held to.
func exportCase(t *testing.T, dir string, facts consilium.Facts, spec *consilium.AnalysisSpec, rows []*models.Rows) {
	t.Helper()
	run := simulate(t, facts, spec, rows)
	a, err := newTrain(facts, spec)
	if err != nil {
		t.Fatal(err)
	}
	v, err := a.view(run.State)
	if err != nil {
		t.Fatal(err)
	}
	tab, err := a.read(Pool(rows))
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		DType     string                 `json:"dtype"`
		Tolerance float64                `json:"tolerance"`
		Features  [][]*float64           `json:"features"`
		Outputs   map[string][][]float64 `json:"outputs"`
		Tensors   [][]any                `json:"tensors"`
	}
	c.DType, c.Tolerance, c.Outputs = spec.Model.DType, 1e-10, map[string][][]float64{}
	if c.DType == "float32" {
		c.Tolerance = 2e-6
	}
	for i := range tab.rows() {
		row := tab.x[i*tab.inputs : (i+1)*tab.inputs]
		if k := i % tab.inputs; !a.inputs[k].absent {
			row[k] = math.NaN()
		}
		var list []*float64
		for _, x := range row {
			list = append(list, number(x))
		}
		c.Features = append(c.Features, list)
	}
	each := func(i int, out []float64) {
		add := func(name string, values ...float64) { c.Outputs[name] = append(c.Outputs[name], values) }
		switch a.net.loss {
		case logistic:
			add("risk", risk(out[0]))
		case squared:
			add("value", out[0]*v.head[headSD]+v.head[headMean])
		case partial:
			add("log_hazard", out[0])
		case reconstruction:
			row := tab.x[i*tab.inputs : (i+1)*tab.inputs]
			add("score", a.distance(v, row, func(j int) float64 { return out[j] }))
			var back []float64
			for j, z := range out {
				back = append(back, z*v.scale(j)[inSD]+v.scale(j)[inMean])
			}
			add("reconstruction", back...)
		}
	}
	if c.DType == "float64" {
		err = predict(context.Background(), a, v, tab, each)
	} else {
		err = predict(context.Background(), a, v, tab, func(i int, out []float32) {
			wide := make([]float64, len(out))
			for j, z := range out {
				wide[j] = float64(z)
			}
			each(i, wide)
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range a.net.tensors() {
		c.Tensors = append(c.Tensors, []any{r.name, r.shape})
	}
	doc, err := json.Marshal(c)
	if err != nil {
		t.Fatal(fmt.Errorf("%s: %w", dir, err))
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"case.json": doc}
	for name, b := range run.Result.Files {
		files[name] = b
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
