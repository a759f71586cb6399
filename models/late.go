package models

import "consilium/internal/gram"

// Where rows enter late they also leave the risk set, and what stays is the difference of
// sums that may be far larger. Such walks keep every rounding error, move after move:
// a column each, on all processors.

// lateRisks is risks.
func (k *walk) lateRisks(fit *total) {
	var sum total
	log := newLogProduct()
	ties := 0
	risk := make([]float64, pieceRows)
	for piece := range k.times {
		at := k.numbers(piece)
		for i := piece * pieceRows; i < (piece+1)*pieceRows; i++ {
			place := gram.Turn(i)
			switch row := k.moves[place]; {
			case row == absent:
			case row < 0:
				sum.add(-k.w[^row])
			default:
				sum.add(k.w[row])
			}
			if n := at[place%pieceRows]; n >= 0 {
				risk[n] = sum.value()
			}
		}
		first := int(k.before[piece])
		ties = k.atTimes(first, risk[:int(k.before[piece+1])-first], ties, &log)
	}
	s := log.sum()
	fit.add(-s.hi)
	fit.add(-s.lo)
}

// numbers are those of the times in a piece of moves, by place; -1 where there is none.
func (k *walk) numbers(piece int) (out [pieceRows]int) {
	n := 0
	for i := range out {
		if out[i] = -1; k.times[piece][i/gram.Lanes]>>(i%gram.Lanes)&1 == 1 {
			out[i] = n
			n++
		}
	}
	return out
}

// lateExposures is expose.
func (k *walk) lateExposures() {
	n := len(k.falling)
	pooled := k.use(roomPooled, n+1) // over the last i times, that is the earliest
	pooled[0] = 0
	var sum total
	for i := 1; i <= n; i++ {
		sum.add(k.hazard[k.falling[n-i]])
		pooled[i] = sum.value()
	}
	k.exposed = k.use(roomExposed, k.n)
	inParallel(k.n, func(from, to int) {
		for r := from; r < to; r++ {
			k.exposed[r] = float64(k.w[r] * (pooled[n-int(k.until[r])] - pooled[n-int(k.since[r])]))
		}
	})
}

// latePieces is how many pieces of moves are walked before their products are summed.
const latePieces = stretchRows / pieceRows

// lateMeans takes the products of means over risk sets off.
func (k *walk) lateMeans(information sums) {
	width := len(information.hi)
	of := make([]total, k.p)
	out := make([]float64, latePieces*k.p*pieceRows)
	off := make([]float64, latePieces*pieceRows/blockRows*width)
	for first := 0; first < len(k.times); first += latePieces {
		last := min(first+latePieces, len(k.times))
		inColumns(k.p, func(a int) {
			centre, inverse, sum := k.centre[a], k.std.Inverse[a], of[a]
			raw := k.columns.raw
			for piece := first; piece < last; piece++ {
				at := k.numbers(piece)
				to := out[((piece-first)*k.p+a)*pieceRows:][:pieceRows]
				for i := piece * pieceRows; i < (piece+1)*pieceRows; i++ {
					place := gram.Turn(i)
					if row := int(k.moves[place]); row != absent {
						w := 0.0
						if row < 0 {
							row = ^row
							w = -k.w[row]
						} else {
							w = k.w[row]
						}
						sum.add(float64(w * float64((raw[gram.At(row, a, k.p)]-centre)*inverse)))
					}
					if n := at[place%pieceRows]; n >= 0 {
						to[n] = float64(sum.value() * k.rate[int(k.before[piece])+n])
					}
				}
			}
			of[a] = sum
		})
		blocks := (last - first + blockRows/pieceRows - 1) / (blockRows / pieceRows)
		clear(off[:blocks*width])
		inTasks(blocks, func() func(int) {
			means := k.newMeans()
			return func(b int) {
				from := first + b*blockRows/pieceRows
				means.begin(from * pieceRows)
				means.products.Reset()
				for piece := from; piece < min(from+blockRows/pieceRows, last); piece++ {
					means.add(out[(piece-first)*k.p*pieceRows:][:k.p*pieceRows], int(k.before[piece]), int(k.before[piece+1]))
				}
				means.takeOff(off[b*width : (b+1)*width])
			}
		})
		for b := range blocks {
			information.add(off[b*width : (b+1)*width])
		}
	}
}
