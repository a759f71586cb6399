package net

import (
	"context"
	"math"
)

// The public grid of scores on which classes are counted: logits from -8 to 8
// in steps of 1/8, the first and last bin open. An AUC from these counts takes
// two scores within a bin as tied; the order within one is never seen.
const (
	bins     = 128
	binScale = 8 // bins per unit of the logit: exact in binary
	binFirst = -8
)

// bin is the score's place in the grid.
func bin(z float64) int {
	return int(math.Floor(min(max((z-binFirst)*binScale, 0), bins-1)))
}

// Blocks of an evaluation, one per split.
//
//	logistic: rows, sum of losses, sum of squared errors of the risk,
//	          rows whose score is not finite, counts of class 0 by bin,
//	          counts of class 1 by bin
//	squared:  rows, sum of squared errors, sum of absolute errors,
//	          rows whose score is not finite, sum of y, sum of y² (all on the
//	          standardised scale)
const (
	evalRows  = 0
	evalLoss  = 1
	evalError = 2
	evalBad   = 3
	evalHist  = 4
	evalSum   = 4
	evalSum2  = 5
)

func (a *train) evalLength() int {
	if a.net.loss == logistic {
		return evalHist + 2*bins
	}
	return evalSum2 + 1
}

// evalBatch is the number of rows that go through the network at once when it
// only predicts.
const evalBatch = 64

// evaluate computes one evaluation block per split of the model in v.
func evaluate[T real](ctx context.Context, a *train, v view, t *table) (out [2][]float64, err error) {
	for s := range out {
		out[s] = make([]float64, a.evalLength())
	}
	if t.rows() == 0 {
		return out, nil
	}
	m, err := take[T](a.net, evalBatch, false)
	if err != nil {
		return out, err
	}
	load(v, m.params)
	for from := 0; from < t.rows(); from += evalBatch {
		if err := ctx.Err(); err != nil {
			return out, err
		}
		n := min(evalBatch, t.rows()-from)
		clear(m.x)
		for i := range n {
			for j := range t.inputs {
				m.x[i*t.inputs+j] = T(v.standardise(j, t.x[(from+i)*t.inputs+j]))
			}
		}
		if err := m.run(); err != nil {
			return out, err
		}
		for i := range n {
			e := out[split(t.holdout[from+i])]
			y, z := t.y[from+i], float64(m.out[i])
			if math.IsNaN(z) || math.IsInf(z, 0) {
				// Sent as a count, not raised as an error: a hospital that stayed
				// away would only make the others wait.
				e[evalBad]++
				continue
			}
			e[evalRows]++
			if a.net.loss == squared {
				y = (y - v.head[headMean]) / v.head[headSD]
				d := z - y
				e[evalLoss] += float64(d * d)
				e[evalError] += math.Abs(d)
				e[evalSum] += y
				e[evalSum2] += float64(y * y)
				continue
			}
			e[evalLoss] += logLoss(z, y)
			d := risk(z) - y
			e[evalError] += float64(d * d)
			e[evalHist+int(y)*bins+bin(z)]++
		}
	}
	give(m)
	return out, nil
}

// metrics turns a summed evaluation block into loss, a second and a third
// number: AUC and Brier score, or R² and mean absolute error. What no row or
// only one class defines is NaN.
func (a *train) metrics(e []float64) (loss, second, third float64) {
	n := e[evalRows]
	if n == 0 {
		return math.NaN(), math.NaN(), math.NaN()
	}
	loss, third = e[evalLoss]/n, e[evalError]/n
	if a.net.loss == logistic {
		return loss, auc(e[evalHist:evalHist+bins], e[evalHist+bins:]), third
	}
	total := e[evalSum2] - float64(e[evalSum]*e[evalSum])/n
	if !(total > 0) {
		return loss, math.NaN(), third
	}
	return loss, 1 - e[evalLoss]/total, third
}

// auc is the chance that a row of class 1 scores higher than one of class 0,
// ties counted half (Hanley and McNeil, Radiology 1982;143:29-36).
func auc(zero, one []float64) float64 {
	var below, n0, n1, wins float64
	for i := range zero {
		wins += float64(one[i] * (below + zero[i]/2))
		below += zero[i]
		n1 += one[i]
	}
	n0 = below
	if n0 == 0 || n1 == 0 {
		return math.NaN()
	}
	return wins / float64(n0*n1)
}
