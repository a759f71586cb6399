package net

import (
	"errors"
	"fmt"
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

// errDiverged ends a step at a weight that is not a number.
var errDiverged = errors.New("diverged")

// step moves the shared weights by the opened sum and returns the Euclidean
// norm of the move. There is no server that could do it alone: every hospital
// makes this step for itself from the same sum. It returns a problem's code
// where no step can be made.
//
// The weights move while the sum is read, in the one order that it has.
func (a *train) step(v view, o models.Stream) (norm float64, problem int, err error) {
	weight := o.Values["weight"]
	switch {
	case weight[2] > 0:
		return 0, problemDiverged, nil
	case !(weight[0] > 0):
		return 0, problemRows, nil
	}
	// The sites scaled by their share of all training rows. If a contributor
	// set is smaller than that of the first round, the shares do not add up to
	// 1 and the mean is over those who came.
	scale := v.head[headRows] / weight[0]
	v.head[headClipped] += weight[1]
	eta := a.strategy.serverRate
	p := a.net.params
	next := 0
	err = o.Each("update", func(update []float64) error {
		if len(update) > p-next {
			return errLength
		}
		for k, u := range update {
			i := next + k
			d := float64(u * scale)
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
			before := v.weight(i)
			v.setWeight(i, before+move)
			after := v.weight(i)
			if math.IsNaN(after) || math.IsInf(after, 0) {
				return errDiverged
			}
			norm += float64((after - before) * (after - before))
		}
		next += len(update)
		return nil
	})
	if err == nil && next != p {
		err = errLength
	}
	if err == nil && a.strategy.name == "scaffold" {
		err = v.addControl(p, o)
	}
	if errors.Is(err, errDiverged) {
		return 0, problemDiverged, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("opened sum: %w", err)
	}
	return math.Sqrt(norm), 0, nil
}

var errLength = errors.New("not one value for each parameter")

// addControl moves the shared control variate by the opened sum.
func (v view) addControl(p int, o models.Stream) error {
	next := 0
	err := o.Each("control", func(control []float64) error {
		if len(control) > p-next {
			return errLength
		}
		for k, c := range control {
			v.moments[next+k] += c
		}
		next += len(control)
		return nil
	})
	if err == nil && next != p {
		err = errLength
	}
	return err
}
