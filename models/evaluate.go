package models

import (
	"fmt"
	"math"

	"consilium"
)

// maxEvaluate bounds the cells of the histograms of fitted probabilities.
const maxEvaluate = 1000

// evaluateLen: per cell of [0, 1] the rows without and with the event, the
// patients and the summed probability; then the summed squared error.
func evaluateLen(cells int) int { return 4*cells + 1 }

func evaluateLocal(cells int, data *frame, y, eta []float64) []total {
	out := make([]total, evaluateLen(cells))
	seen := map[[2]int32]bool{}
	for i := range y {
		mu, _, _ := member("binomial", y[i], eta[i])
		c := min(int(math.Floor(float64(mu*float64(cells)))), cells-1)
		if y[i] == 1 {
			out[cells+c].add(1)
		} else {
			out[c].add(1)
		}
		if who := [2]int32{int32(c), data.patient[i]}; !seen[who] {
			seen[who] = true
			out[2*cells+c].add(1)
		}
		out[3*cells+c].add(mu)
		d := y[i] - mu
		out[4*cells].add(float64(d * d))
	}
	return out
}

type calibrationCell struct {
	Lower    float64  `json:"lower"`
	Upper    float64  `json:"upper"`
	N        *float64 `json:"n"`
	Observed *float64 `json:"observed"` // share with the event
	Expected *float64 `json:"expected"` // mean fitted probability
}

// evaluation of a binomial model on the rows that it was fitted to.
type evaluation struct {
	AUC         *float64          `json:"auc"`       // pairs within one cell count one half
	AUCLower    *float64          `json:"auc_lower"` // if all of them were discordant, concordant
	AUCUpper    *float64          `json:"auc_upper"`
	Brier       *float64          `json:"brier"`
	ROC         [][2]float64      `json:"roc"` // false and true positive rate at every cell's lower edge
	Calibration []calibrationCell `json:"calibration"`
}

// renderEvaluation joins neighbouring cells until each is about at least k
// patients, so that a published point never describes fewer (see Stretches).
func renderEvaluation(facts consilium.Facts, cells int, v []float64, once bool, hide func(item, reason string)) *evaluation {
	k := float64(facts.MinCohort)
	if facts.Permitted(PermitSmallCells) {
		k = 1
	}
	type bin struct{ from, to, no, yes, p float64 }
	var bins []bin
	for _, s := range Stretches(v[2*cells:3*cells], k, once) {
		bins = append(bins, bin{float64(s[0]), float64(s[1]), sumOf(v, s[0], s[1]), sumOf(v[cells:], s[0], s[1]), sumOf(v[3*cells:], s[0], s[1])})
	}
	joined := cells - len(bins)
	if joined > 0 && k > 1 {
		hide(fmt.Sprintf("%d cells of fitted probabilities", joined), fmt.Sprintf("joined with their neighbours, so that none is about fewer than %d patients", facts.MinCohort))
	}
	n0, n1 := 0.0, 0.0
	for _, b := range bins {
		n0, n1 = n0+b.no, n1+b.yes
	}
	e := &evaluation{ROC: [][2]float64{{0, 0}}, Calibration: []calibrationCell{}}
	// Whole cells are compared: the AUC uses every one of them, since it is one number.
	below, certain, within := 0.0, 0.0, 0.0
	for c := 0; c < cells; c++ {
		certain += float64(v[cells+c] * below)
		within += float64(v[cells+c] * v[c])
		below += v[c]
	}
	pairs := float64(n0 * n1)
	e.AUC = finite((certain + float64(within/2)) / pairs)
	e.AUCLower, e.AUCUpper = finite(certain/pairs), finite((certain+within)/pairs)
	e.Brier = finite(v[4*cells] / (n0 + n1))
	fp, tp := 0.0, 0.0
	for i := len(bins) - 1; i >= 0; i-- {
		fp, tp = fp+bins[i].no, tp+bins[i].yes
		e.ROC = append(e.ROC, [2]float64{fp / n0, tp / n1})
	}
	for _, b := range bins {
		n := b.no + b.yes
		e.Calibration = append(e.Calibration, calibrationCell{Lower: b.from / float64(cells), Upper: b.to / float64(cells), N: finite(n),
			Observed: finite(b.yes / n), Expected: finite(b.p / n)})
	}
	return e
}
