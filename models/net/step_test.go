package net

import (
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"consilium"
)

// BenchmarkStep is one step of training of a network 30-64-64-1 in float32 on
// one core (-cpu 1): forward, backward and the weights' update.
func BenchmarkStep(b *testing.B) {
	for _, batch := range []int{32, 256} {
		b.Run(strconv.Itoa(batch), func(b *testing.B) {
			net, err := newNetwork(&consilium.ModelSpec{Layers: []consilium.Layer{{Kind: "dense", Units: 64}, {Kind: "relu"}, {Kind: "dense", Units: 64}, {Kind: "relu"},
				{Kind: "dense", Units: 1}}, Loss: "logistic", DType: "float32"}, 30, "")
			if err != nil {
				b.Fatal(err)
			}
			m, err := take[float32](net, batch, true)
			if err != nil {
				b.Fatal(err)
			}
			r := rand.New(rand.NewPCG(1, 2))
			for _, s := range [][]float32{m.params, m.x} {
				for i := range s {
					s[i] = float32(r.NormFloat64() / 8)
				}
			}
			for i := range m.y {
				m.y[i], m.weight[i] = float32(i%2), 1
			}
			least := time.Duration(1 << 62)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				at := time.Now()
				if err := m.run(); err != nil {
					b.Fatal(err)
				}
				for i, g := range m.grads {
					m.params[i] -= 0.01 / float32(batch) * g
				}
				least = min(least, time.Since(at))
			}
			b.ReportMetric(float64(least.Nanoseconds())/1000, "least-µs/step")
		})
	}
}
