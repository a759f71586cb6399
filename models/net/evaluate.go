package net

import (
	"context"
	"math"

	"consilium/internal/det"
	"consilium/models"
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
//	logistic: rows, sum of losses, sum of squared errors of the risk, wild
//	          rows, counts of class 0 by bin, counts of class 1 by bin; in the
//	          last round also rows of class 0 and 1, patients and the sum of the
//	          risk, by cell of risk
//	squared:  rows, sum of squared errors, sum of absolute errors, wild rows,
//	          sum of y, sum of y² (all on the standardised scale)
//	cox:      rows, negative log partial likelihood within the hospital,
//	          events, wild rows, concordant, discordant and tied pairs within
//	          the hospital
//	reconstruction: rows, sum of scores, nothing, wild rows, counts by bin of
//	          the score's logarithm to base 2 of rows without the label, and
//	          of rows with it; in the last round also patients by bin
//
// A row is wild if its score is not a number or beyond all bounds. It is sent
// as a count, not raised as an error: a hospital that stayed away would only
// make the others wait.
const (
	evalRows       = 0
	evalLoss       = 1
	evalError      = 2
	evalEvents     = 2
	evalBad        = 3
	evalHist       = 4
	evalSum        = 4
	evalSum2       = 5
	evalConcordant = 4 // discordant and tied follow
)

// cells of risk, of equal width, in which predicted and observed risk are
// compared.
const cells = 20

// maxScore bounds what one row adds to the summed losses, so that no sum
// leaves the range of an exact block.
const maxScore = 1 << 20

func (a *train) evalLength(phase uint32) int {
	switch a.net.loss {
	case logistic:
		if phase == phaseEvaluate {
			return evalHist + 2*bins + 4*cells
		}
		return evalHist + 2*bins
	case reconstruction:
		if phase == phaseEvaluate {
			return evalHist + 3*bins
		}
		return evalHist + 2*bins
	case partial:
		return evalConcordant + 3
	}
	return evalSum2 + 1
}

// evalBatch is the number of rows that go through the network at once when it
// only predicts.
const evalBatch = 64

// passBatch is evalBatch, or less where a network is too large for it.
func (a *train) passBatch() int {
	batch := evalBatch
	for batch > 1 && a.net.footprint(batch) > maxFootprint {
		batch /= 2
	}
	return batch
}

// predict gives every row's outputs to each, in order.
func predict[T real](ctx context.Context, a *train, v view, t *table, each func(row int, out []T)) error {
	if t.rows() == 0 {
		return nil
	}
	batch := a.passBatch()
	m, err := take[T](a.net, batch, false)
	if err != nil {
		return err
	}
	load(v, m.params)
	for from := 0; from < t.rows(); from += batch {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(batch, t.rows()-from)
		clear(m.x)
		for i := range n {
			for j := range t.inputs {
				m.x[i*t.inputs+j] = T(v.standardise(j, t.x[(from+i)*t.inputs+j]))
			}
		}
		if err := m.run(); err != nil {
			return err
		}
		for i := range n {
			each(from+i, m.out[i*a.net.outputs:(i+1)*a.net.outputs])
		}
	}
	give(m)
	return nil
}

// evaluate computes one evaluation block per split of the model in v.
func evaluate[T real](ctx context.Context, a *train, phase uint32, v view, t *table) (out [2][]float64, err error) {
	for s := range out {
		out[s] = make([]float64, a.evalLength(phase))
	}
	holds := a.holds(v)
	seen := map[[3]int32]bool{} // split, bin or cell, patient
	first := func(i, cell int) float64 {
		who := [3]int32{int32(split(t.holdout[i])), int32(cell), t.patient[i]}
		if seen[who] {
			return 0
		}
		seen[who] = true
		return 1
	}
	var sets [2]*riskSets
	var concord [2]survival
	for s := range sets {
		sets[s] = newRiskSets(0)
	}
	err = predict(ctx, a, v, t, func(i int, values []T) {
		s := split(t.holdout[i])
		if s == 1 && !holds {
			return
		}
		e := out[s]
		y, z := t.y[i], float64(values[0])
		if a.net.loss == reconstruction {
			z = a.distance(v, t.x[i*t.inputs:(i+1)*t.inputs], func(j int) float64 { return float64(values[j]) })
		}
		if !(math.Abs(z) < maxScore) {
			e[evalBad]++
			return
		}
		e[evalRows]++
		switch a.net.loss {
		case squared:
			y = max(-maxScore, min(maxScore, (y-v.head[headMean])/v.head[headSD]))
			d := z - y
			e[evalLoss] += float64(d * d)
			e[evalError] += math.Abs(d)
			e[evalSum] += y
			e[evalSum2] += float64(y * y)
		case logistic:
			e[evalLoss] += logLoss(z, y)
			p := risk(z)
			d := p - y
			e[evalError] += float64(d * d)
			e[evalHist+int(y)*bins+bin(z)]++
			if phase == phaseEvaluate {
				c, at := e[evalHist+2*bins:], min(int(p*cells), cells-1)
				c[int(y)*cells+at]++
				c[2*cells+at] += first(i, at)
				c[3*cells+at] += p
			}
		case partial:
			e[evalEvents] += y
			sets[s].add(i, t.start[i], t.stop[i], y == 1, z, 1)
			concord[s].add(t.start[i], t.stop[i], y, z)
		case reconstruction:
			e[evalLoss] += z
			at := bin(log2(z))
			e[evalHist+int(y)*bins+at]++
			if phase == phaseEvaluate {
				e[evalHist+2*bins+at] += first(i, at)
			}
		}
	})
	if err != nil || a.net.loss != partial {
		return out, err
	}
	for s := range sets {
		out[s][evalLoss] = sets[s].likelihood(a.net.efron, nil)
		c := models.Concordance(concord[s].start, concord[s].stop, concord[s].event, concord[s].score)
		copy(out[s][evalConcordant:], []float64{c.Concordant, c.Discordant, c.Tied})
	}
	return out, nil
}

// survival collects what a concordance is made of.
type survival struct{ start, stop, event, score []float64 }

func (s *survival) add(start, stop, event, score float64) {
	s.start, s.stop = append(s.start, start), append(s.stop, stop)
	s.event, s.score = append(s.event, event), append(s.score, score)
}

// distance is the anomaly score of one row: the mean squared difference of
// what the network gives back from what it was given, over the inputs that are
// known, on the standardised scale.
func (a *train) distance(v view, row []float64, value func(j int) float64) float64 {
	sum, known := 0.0, 0.0
	for j, x := range row {
		if !math.IsNaN(x) {
			d := value(j) - v.standardise(j, x)
			sum += float64(d * d)
			known++
		}
	}
	if known == 0 {
		return 0
	}
	if mean := sum / known; !(mean >= maxScore) {
		return mean // or not a number
	}
	return maxScore - 1
}

// ln2 is the natural logarithm of 2.
const ln2 = math.Ln2

// log2 is the logarithm to base 2, far below every bin for 0.
func log2(x float64) float64 {
	if x <= 0 {
		return math.Inf(-1)
	}
	return det.Log(x) / ln2
}

// metrics turns a summed evaluation block into loss, a second and a third
// number: AUC and Brier score, R² and mean absolute error, C and nothing, or
// AUC and nothing. What no row or only one class defines is NaN.
func (a *train) metrics(e []float64) (loss, second, third float64) {
	n := e[evalRows]
	if n == 0 {
		return math.NaN(), math.NaN(), math.NaN()
	}
	switch a.net.loss {
	case logistic:
		return e[evalLoss] / n, auc(e[evalHist:evalHist+bins], e[evalHist+bins:evalHist+2*bins]), e[evalError] / n
	case reconstruction:
		return e[evalLoss] / n, auc(e[evalHist:evalHist+bins], e[evalHist+bins:evalHist+2*bins]), math.NaN()
	case partial:
		c := e[evalConcordant:]
		pairs := c[0] + c[1] + c[2]
		loss, second = e[evalLoss]/e[evalEvents], (c[0]+float64(c[2]/2))/pairs
		if !(e[evalEvents] > 0) {
			loss = math.NaN()
		}
		if !(pairs > 0) {
			second = math.NaN()
		}
		return loss, second, math.NaN()
	}
	loss, third = e[evalLoss]/n, e[evalError]/n
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
