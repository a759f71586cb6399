package net

import "gorgonia.org/tensor"

type lossKind uint8

const (
	logistic lossKind = iota + 1
	squared
	partial        // Cox's partial likelihood
	reconstruction // squared distance of the network's values from its inputs
)

var losses = map[string]lossKind{"logistic": logistic, "squared": squared, "cox": partial, "reconstruction": reconstruction}

var lossNames = []string{"logistic", "squared", "cox", "reconstruction"}

// targets and weights are how many numbers of either a row has.
func (n *network) targets() int {
	switch n.loss {
	case partial:
		return 3 // start, stop, event
	case reconstruction:
		return n.outputs
	}
	return 1
}

func (n *network) weights() int {
	if n.loss == reconstruction {
		return n.outputs // a missing value has weight 0
	}
	return 1
}

// newLoss is the cost of a batch: of its network's values, its targets and its
// weights. A row of weight 0 does not exist.
func newLoss[T real](n *network, batch int) *function[T] {
	f := &function[T]{name: "loss", in: []tensor.Shape{{batch, n.outputs}, {batch, n.targets()}, {batch, n.weights()}}, diff: []bool{true, false, false}, out: tensor.Shape{}}
	slope := f.keep(batch * n.outputs)
	switch n.loss {
	case logistic:
		f.forward = func(out []T, in [][]T) {
			cost := 0.0
			for i, z := range in[0] {
				w := in[2][i]
				cost += float64(float64(w) * logLoss(float64(z), float64(in[1][i])))
				slope[i] = T(w * (logistic1(z) - in[1][i]))
			}
			out[0] = T(cost)
		}
	case squared, reconstruction:
		f.forward = func(out []T, in [][]T) {
			cost := 0.0
			for i, z := range in[0] {
				w, d := in[2][i], z-in[1][i]
				cost += float64(float64(w) * float64(T(d*d)))
				slope[i] = T(2*w) * d
			}
			out[0] = T(cost)
		}
	case partial:
		risk := newRiskSets(batch)
		f.forward = func(out []T, in [][]T) {
			risk.reset()
			for i := range batch {
				if in[2][i] != 0 {
					y := in[1][3*i:]
					risk.add(i, float64(y[0]), float64(y[1]), y[2] == 1, float64(in[0][i]), float64(in[2][i]))
				}
			}
			clear(slope)
			out[0] = T(risk.likelihood(n.efron, func(i int, d float64) { slope[i] = T(d) }))
		}
	}
	f.backward = func(grads, _ [][]T, _, dout []T) {
		for i, v := range slope {
			grads[0][i] = T(v * dout[0])
		}
	}
	return f
}
