package models

import (
	"cmp"
	"slices"

	"consilium/internal/det"
	"consilium/internal/gram"
)

// coxSmall is the definition, in the open, of what sets.go adds, to the last bit: strata one
// after the other, each risk set summed row by row from its beginning; and as the rows of a
// block, for eight pieces at a time, those of the strata, of their means over risk sets and of
// what is tied.
func (g *regression) coxSmall(l *localFit, groups [][]int, x [][]float64, f *fit, start, stop, event []float64) {
	p := len(x)
	information, score := make([]total, packedLen(p)), make([]total, p)
	z := make([][]float64, p) // of a block, and the weights of products and score
	var w, r []float64
	put := func(row []float64, weight, residual float64) {
		for a := range z {
			v := 0.0
			if row != nil {
				v = row[a]
			}
			z[a] = append(z[a], v)
		}
		w, r = append(w, weight), append(r, residual)
	}
	pad := func() {
		for len(w)%gram.Lanes != 0 {
			put(nil, 0, 0)
		}
	}
	type mean struct {
		z      []float64
		weight float64
	}
	var means, ties []mean // of a piece
	endPiece := func() {
		pad()
		for _, ms := range [][]mean{means, ties} {
			for _, m := range ms {
				put(m.z, -m.weight, 0)
			}
			pad()
		}
		means, ties = nil, nil
	}
	pieces, inPiece := 0, 0
	var died total
	log := newLogProduct()
	endBlock := func() {
		if len(w) > 0 {
			for i, v := range blockSums(z, w, r, 0, len(w)) {
				if i < len(information) {
					information[i].add(v)
				} else {
					score[i-len(information)].add(v)
				}
			}
		}
		for a := range z {
			z[a] = nil
		}
		w, r = nil, nil
	}
	endStretch := func() {
		s := log.sum()
		died.add(-s.hi)
		died.add(-s.lo)
		l.fit[0].join(died)
		died, log = total{}, newLogProduct()
	}
	for _, rows := range groups {
		rows = slices.Clone(rows)
		slices.SortStableFunc(rows, func(a, b int) int { return cmp.Compare(stop[b], stop[a]) })
		var times []float64 // falling
		for _, i := range rows {
			if event[i] == 1 && !slices.Contains(times, stop[i]) {
				times = append(times, stop[i])
			}
		}
		if times == nil {
			continue
		}
		rows = slices.DeleteFunc(rows, func(i int) bool { return stop[i] < times[len(times)-1] })
		if pieces == 0 || inPiece+len(rows) > pieceRows {
			if pieces > 0 {
				endPiece()
				if pieces%(blockRows/pieceRows) == 0 {
					endBlock()
				}
				if pieces%(stretchRows/pieceRows) == 0 {
					endStretch()
				}
			}
			pieces, inPiece = pieces+1, 0
		}
		inPiece += len(rows)
		n := len(rows)
		own, eta, weight := make([][]float64, n), make([]float64, n), make([]float64, n)
		for i := range own {
			own[i] = make([]float64, p)
		}
		for a := range x {
			sum := 0.0
			for _, i := range rows {
				sum += x[a][i]
			}
			for k, i := range rows {
				own[k][a] = float64((x[a][i] - sum/float64(n)) * (1 / f.scale[a]))
				eta[k] += float64(f.theta[a] * own[k][a])
			}
		}
		most := slices.Max(eta)
		for k := range eta {
			weight[k] = det.Exp(eta[k] - most)
		}
		at := func(k int, t float64) bool { return stop[rows[k]] >= t && (start == nil || start[rows[k]] < t) }
		hazard, less := make([]float64, len(times)), make([]float64, len(times))
		for m, t := range times {
			s, tied, deaths := 0.0, 0.0, 0
			for k, i := range rows {
				if at(k, t) {
					s += weight[k]
				}
				if stop[i] == t && event[i] == 1 {
					tied += weight[k]
					deaths++
					died.add(eta[k] - most)
				}
			}
			rate := 1 / s
			h, a, b, c := 0.0, 0.0, 0.0, 0.0
			for d := range deaths {
				share := 0.0
				if g.cox.efron {
					share = float64(d) / float64(deaths)
				}
				risk := s - float64(share*tied)
				log.multiply(risk)
				h += 1 / risk
				less[m] += float64(share * (1 / risk))
				v := float64(s * (1 / risk))
				if v = float64(v * v); share == 0 {
					v = 1
				}
				a += v
				b += float64(share * v)
				c += float64(float64(share*share) * v)
			}
			if !g.cox.efron {
				h = float64(float64(deaths) * rate)
			}
			hazard[m] = h
			kappa := b / a
			of := mean{z: make([]float64, p), weight: a}
			tie := mean{z: make([]float64, p), weight: c - float64(kappa*b)}
			for col := range p {
				s1, t1 := 0.0, 0.0
				for k, i := range rows {
					if at(k, t) {
						s1 += float64(weight[k] * own[k][col])
					}
					if stop[i] == t && event[i] == 1 {
						t1 += float64(weight[k] * own[k][col])
					}
				}
				tie.z[col] = float64(t1 * rate)
				of.z[col] = float64(s1 * rate)
				if deaths > 1 && g.cox.efron {
					of.z[col] -= float64(kappa * tie.z[col])
				}
			}
			if means = append(means, of); deaths > 1 && g.cox.efron {
				ties = append(ties, tie)
			}
		}
		for k, i := range rows {
			met, own1 := 0.0, 0.0
			for m := len(times) - 1; m >= 0; m-- {
				if at(k, times[m]) {
					met += hazard[m]
				}
				if times[m] == stop[i] && event[i] == 1 {
					own1 = less[m]
				}
			}
			e := float64(weight[k]*met) - float64(weight[k]*own1)
			put(own[k], e, event[i]-e)
		}
	}
	endPiece()
	endBlock()
	endStretch()
	for i := range information {
		l.information[i].join(information[i])
	}
	for i := range score {
		l.score[i].join(score[i])
	}
}
