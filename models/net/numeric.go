package net

import (
	"math"

	"consilium/internal/det"
)

// risk is 1 / (1 + exp(-z)) without an exponential of a positive number.
func risk(z float64) float64 {
	e := det.Exp(-math.Abs(z))
	if z < 0 {
		return e / (1 + e)
	}
	return 1 / (1 + e)
}

// logLoss is the negative log-likelihood of y in {0, 1} at logit z:
// max(z, 0) - y·z + log(1 + exp(-|z|)). It is finite for every finite z.
func logLoss(z, y float64) float64 {
	return max(z, 0) - float64(y*z) + det.Log1p(det.Exp(-math.Abs(z)))
}
