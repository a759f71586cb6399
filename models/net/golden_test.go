package net

import (
	"testing"

	"consilium"
	"consilium/models"
)

// First weights and the server's steps have the same bits on every processor:
// these digests were made on amd64 and must come out with GOAMD64=v1 and v3,
// GODEBUG=cpu.fma=off and arm64 alike. Whoever changes the arithmetic, the
// generator or the layout of states on purpose changes them, and modelVersion.
func TestGolden(t *testing.T) {
	for _, c := range []struct{ strategy, dtype, want string }{
		{"fedavg", "float32", "d2c6a083b96471d15e090f6564495568a634158f2e256e5a79f3f6d7d30f08b7"},
		{"fedadam", "float64", "a405c446bbf1281262762a2ad6ea67e8f25e30a561cfe778600681bd175d02f6"},
		{"fedyogi", "float32", "66ca8a33869a30daea065878e80b91848470a7c63ed514b411c370e35079ff73"},
		{"scaffold", "float32", "1b880c85846d255c418d57a0cc89423fbf44739ca4509c375ca82f27f64afa9c"},
	} {
		facts, spec, _ := trial(t)
		spec.Model.DType = c.dtype
		spec.Strategy = &consilium.Strategy{Name: c.strategy, Rounds: 4}
		a, err := newTrain(facts, spec)
		if err != nil {
			t.Fatal(err)
		}
		s, err := a.Start(facts)
		if err != nil {
			t.Fatal(err)
		}
		src := newSource(consilium.DomainSeed.Digest([]byte("golden")))
		for round := uint32(1); !s.Done; round++ {
			layout, err := a.Layout(s)
			if err != nil {
				t.Fatal(err)
			}
			o := models.Opened{Round: round, Values: map[string][]float64{}}
			for _, b := range layout.Blocks {
				values := make([]float64, b.Length)
				for i := range values {
					switch b.Name {
					case "counts":
						values[i] = float64(20 + src.intn(80))
					case "update", "control":
						values[i] = 0.01 * src.uniform()
					case "weight":
						values[i] = float64(50+src.intn(10)) * float64(1-min(i, 1)) // nothing clipped, nobody diverged
					case "training", "holdout":
						values[i] = 3 + src.uniform()
						if i == evalBad {
							values[i] = 0
						}
					default:
						values[i] = 100 + float64(50*src.uniform())
					}
				}
				o.Values[b.Name] = values
			}
			if s, err = a.Update(s, o); err != nil {
				t.Fatal(err)
			}
		}
		if s.Phase == phaseFailed {
			t.Fatalf("%s: the study failed: %v", c.strategy, s.F64)
		}
		r, err := a.Result(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := consilium.DomainState.Digest(s.Append(nil), r.JSON, r.Files["model.onnx"]).String(); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.strategy, c.dtype, got, c.want)
		}
	}
}

// Whole trainings have the same bits on every processor, the local steps
// included: products of matrices, recurrences, risk sets and evaluations.
func TestGoldenTraining(t *testing.T) {
	for _, c := range []struct {
		name  string
		spec  consilium.ModelSpec
		times bool
		want  string
	}{
		{"series", consilium.ModelSpec{Input: series(12, 2), Layers: layers(conv1d(6, 3, 0, "same"), "relu", pool(2, 0), recurrent(5, true), recurrent(4, false), 4, "tanh", 1), Loss: "logistic", DType: "float32"}, false,
			"27a01a5ada9979252cfb9d15d1bdb26f92948b3008852be9778e1031dc6626d3"},
		{"image", consilium.ModelSpec{Input: image(4, 6, 1), Layers: layers(conv2d(5, 3, 0, ""), "sigmoid", consilium.Layer{Kind: "average"}, 1), Loss: "logistic", DType: "float64", Balanced: true}, false,
			"0ec69c506c8c48f45616b651ee693a0b200c81bd0c8b91edb034cf8f03a92d2c"},
		{"autoencoder", consilium.ModelSpec{Layers: layers(70, "tanh", 3, 70, "relu", 24), Loss: "reconstruction", DType: "float32"}, false,
			"61006a47674b408cd9e6b92768bac801440a32ef00162374bffdc984465cbf80"},
		{"survival", consilium.ModelSpec{Layers: layers(9, "tanh", 1), Loss: "cox", DType: "float64"}, true,
			"0d7a90820d8f4fb138823abd1b2c9c43df73d8c1b078218a2c87ee5dda1552ab"},
	} {
		facts, spec, rows := waves(t, 12, 2)
		if c.times {
			facts, spec, rows = survivalTrial(t, true)
			spec.Holdout = 0.3
		}
		spec.Model = &c.spec
		spec.Strategy = &consilium.Strategy{Name: "scaffold", Rounds: 4, LocalEpochs: 2, Rate: 0.02}
		r := simulate(t, facts, spec, rows)
		if got := consilium.DomainState.Digest(r.State.Append(nil), r.Result.JSON).String(); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
