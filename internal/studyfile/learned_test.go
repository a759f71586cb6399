package studyfile

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"consilium"
)

const learnedStudy = `apiVersion: consilium/v1
kind: Study
metadata: {name: learned}
spec:
  question: Which hours come before an attack?
  purpose: {duo: [DUO:0000007], disease: MONDO:0018305, class: scientific_research}
  legal: {}
  data: {dataset: wearable, patient: id}
  sites: {min: 3}
  columns:
    id: id
    "t{01..12}_{hr,spo2}": {type: number, bounds: [0, 300]}
    attack: flag
    entry: {type: number}
    days: {type: number}
  analyses:
    - name: windows
      type: train
      response: attack
      features: ["t{01..12}_{hr,spo2}"]
      model:
        input: {steps: 12, channels: 2}
        layers: [{conv1d: 4, kernel: 3, stride: 2, padding: same}, relu, {maxpool: 2}, {gru: 3, sequence: true}, average, {dense: 1}]
        loss: logistic
        dtype: float32
        class_weights: balanced
      strategy: {name: scaffold, rounds: 20, patience: 4, min_delta: 0.001}
    - name: risk
      type: train
      response: {start: entry, time: days, event: attack}
      features: [t01_hr, t02_hr]
      ties: breslow
      model: {layers: [{dense: 1}], loss: cox, missing: indicator}
    - name: odd
      type: train
      features: ["t{01..02}_hr"]
      model: {layers: [{kind: dense, units: 2}], loss: reconstruction, missing: drop}
      strategy: {rounds: 20}
`

// Series, layers and strategies: what is signed names every column, and what
// Show writes has the same bytes.
func TestLearned(t *testing.T) {
	s, payload, err := Parse([]byte(learnedStudy))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Columns) != 1+24+3 || s.Columns[1].Name != "t01_hr" || s.Columns[2].Name != "t01_spo2" || s.Columns[24].Name != "t12_spo2" || s.Columns[24].Bounds == nil {
		t.Errorf("columns %v", s.Columns)
	}
	a := s.Analyses[0]
	if len(a.Features) != 24 || a.Features[3] != "t02_spo2" {
		t.Errorf("features %v", a.Features)
	}
	want := &consilium.ModelSpec{Input: &consilium.InputShape{Steps: 12, Channels: 2}, Loss: "logistic", DType: "float32", Balanced: true,
		Layers: []consilium.Layer{{Kind: "conv1d", Units: 4, Kernel: 3, Stride: 2, Padding: "same"}, {Kind: "relu"}, {Kind: "maxpool", Kernel: 2},
			{Kind: "gru", Units: 3, Sequence: true}, {Kind: "average"}, {Kind: "dense", Units: 1}}}
	if diff := cmp.Diff(want, a.Model); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(&consilium.Strategy{Name: "scaffold", Rounds: 20, Patience: 4, MinDelta: 0.001}, a.Strategy); diff != "" {
		t.Error(diff)
	}
	if r := s.Analyses[1]; r.Ties != "breslow" || r.Response.Start != "entry" || r.Model.Missing != "indicator" {
		t.Errorf("risk: %+v", r)
	}
	if s.Analyses[2].Response != nil {
		t.Error("a reconstruction has a response")
	}
	// The longest training has 30 rounds by default and two more.
	if s.Rounds.Max != DefaultMaxRounds+32 {
		t.Errorf("rounds.max %d", s.Rounds.Max)
	}
	shown, err := Show(s)
	if err != nil {
		t.Fatal(err)
	}
	_, again, err := Parse(shown)
	if err != nil {
		t.Fatalf("%v in\n%s", err, shown)
	}
	if !bytes.Equal(again, payload) {
		t.Errorf("Show changed what is signed:\n%s", shown)
	}
}

func TestLearnedRefusals(t *testing.T) {
	for _, c := range []struct{ from, to, want string }{
		{`"t{01..12}_{hr,spo2}": {type`, `"t{01..12_{hr,spo2}": {type`, "not a range"},
		{`"t{01..12}_{hr,spo2}": {type`, `"t{12..01}_{hr,spo2}": {type`, "not a range"},
		{`"t{01..12}_{hr,spo2}": {type`, `"t{1..9999999}": {type`, "not a range"},
		{`"t{01..12}_{hr,spo2}": {type`, `"t{1..999}_{1..999}": {type`, "more than 16384 names"},
		{`"t{01..12}_{hr,spo2}": {type`, `"t{01..12": {type`, "not closed"},
		{`features: ["t{01..12}_{hr,spo2}"]`, `features: ["t{01..13}_{hr,spo2}"]`, "column t13_hr is not declared"},
		{`{maxpool: 2}`, `maxpool`, "needs a kernel"},
		{`{maxpool: 2}`, `{maxpool: 2, kernel: 3}`, "already says its kernel"},
		{`{maxpool: 2}`, `{average: 2}`, "average takes no number"},
		{`{conv1d: 4, kernel: 3, stride: 2, padding: same}`, `{conv1d: 4, kernel: 3, padding: sme}`, "did you mean same?"},
		{`{conv1d: 4, kernel: 3, stride: 2, padding: same}`, `{conv1d: 4}`, "conv1d layer needs a kernel"},
		{`{conv1d: 4, kernel: 3, stride: 2, padding: same}`, `{conv1d: 4, dense: 3}`, "not one layer"},
		{`class_weights: balanced`, `class_weights: equal`, "class_weights"},
		{`patience: 4, min_delta`, `min_delta`, "min_delta and no patience"},
		{`missing: indicator`, `missing: median`, "missing"},
		{`loss: reconstruction`, `loss: logistic`, "odd has no response"},
	} {
		src := strings.Replace(learnedStudy, c.from, c.to, 1)
		if src == learnedStudy {
			t.Fatalf("%s is not in the study", c.from)
		}
		if _, _, err := Parse([]byte(src)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.to, err, c.want)
		}
	}
}
