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
		{"fedavg", "float32", "f72db2a509980772fa79778cd16dfd94fe92a3888dde23c50e03812ebdbc527c"},
		{"fedadam", "float64", "6e634db927ec2055db4bd11124d2b442df87c4f8b665d43b3a5b1e57a9575749"},
		{"fedyogi", "float32", "5e51f1f8acce9bd6807f2d359b0baaae51cdca4d1960439074e1feb1dd8abbb0"},
		{"scaffold", "float32", "6004261d260ea87f7a99cfab279f3f1d4bb87996d2e6a0151644a0de55d6ce60"},
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
