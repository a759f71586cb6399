package net

import (
	"math"

	"consilium/models"
)

// Constants of the adaptive strategies, as in Reddi et al., Adaptive Federated
// Optimization, ICLR 2021, Algorithm 2 and section 5.
const (
	beta1      = 0.9
	beta2      = 0.99
	adaptivity = 1e-3 // tau; the second moment starts at tau²
)

// step moves the shared weights by the opened sum and returns the Euclidean
// norm of the move. There is no server that could do it alone: every hospital
// makes this step for itself from the same sum. It returns a problem's code
// where no step can be made.
func (a *train) step(v view, o models.Opened) (norm float64, problem int) {
	weight := o.Values["weight"]
	switch {
	case weight[2] > 0:
		return 0, problemDiverged
	case !(weight[0] > 0):
		return 0, problemRows
	}
	// The sites scaled by their share of all training rows. If a contributor
	// set is smaller than that of the first round, the shares do not add up to
	// 1 and the mean is over those who came.
	scale := v.head[headRows] / weight[0]
	v.head[headClipped] += weight[1]
	eta := a.strategy.serverRate
	p := a.net.params
	update := o.Values["update"]
	for i := range p {
		d := float64(update[i] * scale)
		var move float64
		switch a.strategy.name {
		case "fedadam", "fedyogi":
			m := float64(beta1*v.moments[i]) + float64((1-beta1)*d)
			second := v.moments[p+i]
			dd := float64(d * d)
			if a.strategy.name == "fedadam" {
				second = float64(beta2*second) + float64((1-beta2)*dd)
			} else if second > dd {
				second -= float64((1 - beta2) * dd)
			} else if second < dd {
				second += float64((1 - beta2) * dd)
			}
			v.moments[i], v.moments[p+i] = m, second
			move = float64(eta*m) / (math.Sqrt(second) + adaptivity)
		default:
			move = float64(eta * d)
		}
		if a.strategy.name == "scaffold" {
			v.moments[i] += o.Values["control"][i]
		}
		before := v.weight(i)
		v.setWeight(i, before+move)
		after := v.weight(i)
		if math.IsNaN(after) || math.IsInf(after, 0) {
			return 0, problemDiverged
		}
		norm += float64((after - before) * (after - before))
	}
	return math.Sqrt(norm), 0
}
