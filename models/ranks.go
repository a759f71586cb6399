package models

import (
	"math"

	"consilium/internal/det"
)

// rankTest compares the ranks of an ordered column between the rows of a
// table: Wilcoxon's test of two rows (the normal approximation with ties and
// continuity correction, R's wilcox.test(exact = FALSE)), Kruskal and Wallis'
// of more (kruskal.test).
type rankTest struct {
	Statistic float64  `json:"statistic"` // W of the first row, or H
	DF        *float64 `json:"df,omitempty"`
	P         float64  `json:"p"`
}

// rankTests reads a table whose columns rise. It returns nothing where all
// values are equal.
func rankTests(t [][]float64) (wilcoxon, kruskal *rankTest) {
	r, c, n := margins(t)
	var sums []total
	for range r {
		sums = append(sums, total{})
	}
	below, ties := 0.0, total{}
	for j := range c {
		rank := below + float64(0.5*(c[j]+1))
		below += c[j]
		ties.add(float64(float64(c[j]*c[j])*c[j]) - c[j])
		for i := range t {
			sums[i].add(float64(t[i][j] * rank))
		}
	}
	cubes := float64(float64(n*n)*n) - n
	rest := 1 - ties.value()/cubes
	if !(n > 1) || !(rest > 0) {
		return nil, nil
	}
	if len(r) == 2 {
		w := sums[0].value() - float64(0.5*float64(r[0]*(r[0]+1)))
		z := w - float64(0.5*float64(r[0]*r[1]))
		sigma := math.Sqrt(float64(float64(float64(r[0]*r[1])/12) * float64((n+1)*rest)))
		switch {
		case z > 0:
			z -= 0.5
		case z < 0:
			z += 0.5
		}
		wilcoxon = &rankTest{Statistic: w, P: math.Min(1, twoSided(z/sigma))}
	}
	h := total{}
	for i := range r {
		s := sums[i].value()
		h.add(float64(s*s) / r[i])
	}
	stat := (float64(12*h.value())/float64(n*(n+1)) - float64(3*(n+1))) / rest
	df := float64(len(r) - 1)
	kruskal = &rankTest{Statistic: stat, DF: &df, P: det.ChiSquareTail(stat, len(r)-1)}
	return wilcoxon, kruskal
}
