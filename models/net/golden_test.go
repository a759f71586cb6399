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
		{"fedavg", "float32", "5d9c4403894be8368f4eaf485ac7b0bf616c54fd327085b403395ef1a51eb35b"},
		{"fedadam", "float64", "4076dcc22b35d9fb1c2a63b31b0ebe6d69ecf11a694d8c028573118990016cb0"},
		{"fedyogi", "float32", "158a45f6f83209d0a02cd460d2f45d0b81cb2e13324ec386f3c6134f7f1365e1"},
		{"scaffold", "float32", "3a6125e6ffec65947a743a192b058e33fb75de0c7854a2e3b09f9df408518c6d"},
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
