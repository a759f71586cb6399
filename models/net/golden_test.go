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
		{"fedavg", "float32", "7c4a2002f6e8149142814058e19e312181f7fcfc1b1cc2c548af543744ca7a1e"},
		{"fedadam", "float64", "66020b97a9708fc8adc6b5df27c6b7e7abafeb4dcd7e3fc5b88adfa194b73095"},
		{"fedyogi", "float32", "c95c6183515d6091aa66fcf182ed378dbb3526f42380ebf74906c10482dd0993"},
		{"scaffold", "float32", "ce8bb218e52c4b459f5b9cf63633914e76e9b635ff3d23ba7035df6dea0a0916"},
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
