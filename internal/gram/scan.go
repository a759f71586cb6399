package gram

import "math/bits"

// A piece of a risk set's rows stands turned: its eight runs of rows that follow each other
// in time are the lanes of its groups. Sums along the runs are then sums of registers.

// groups is those of a piece, and the rows of a run.
const groups = PieceRows / Lanes

// Turn is the place, in a panel whose pieces are turned, of the row that is i-th in
// time.
func Turn(i int) int { return i&^(PieceRows-1) | i%groups*Lanes | i/groups%Lanes }

// Scan is a walk along rows that enter a risk set: it sums columns and keeps the sums
// at some rows. By definition, with the rows of a piece numbered in time, x a row's
// product of weight and column, rounded, and all additions rounded in this order,
//
//	p_i = x_i at the first row of a run, else p_{i-1} + x_i
//	the sum at row i of run l is (Carry + o_l) + p_i
//
// where R_l is the p of run l's last row, and o_l the sum of the runs before: with
// h = (R_0 + R_1) + (R_2 + R_3), it is 0, R_0, R_0 + R_1, R_0 + (R_1 + R_2), h, and h
// plus the same of the second half. Carry then grows by h plus the second half's.
type Scan struct {
	Carry []float64 // of every column, before the piece that comes next
}

// Marks says which rows of a piece are kept, by place: bit l of byte g is lane l of
// group g.
type Marks [groups]uint8

// Count is the number of rows that are kept.
func (m *Marks) Count() int {
	n := 0
	for _, b := range m {
		n += bits.OnesCount8(b)
	}
	return n
}

// Step sums the columns of the piece z, rows weighted by w, and writes their sums at the
// rows of marks, each times the next number of u, to the columns of the piece out, one row behind the
// other in the order of their places; out may hold anything behind them, but numbers. It reads a whole
// piece: rows that fill it up have weight zero. u has room for a whole piece and holds
// numbers. out is not z.
func (s *Scan) Step(out, z, w, u []float64, marks *Marks) {
	if len(s.Carry) == 0 {
		return
	}
	p := len(s.Carry)
	_, _, _, _ = w[PieceRows-1], u[PieceRows-1], z[p*PieceRows-1], out[p*PieceRows-1]
	s.fast(out, z, w, u, marks)
}

// portable is the definition of Step.
func (s *Scan) portable(out, z, w, u []float64, marks *Marks) {
	for a := range s.Carry {
		from, to := z[a*PieceRows:][:PieceRows], out[a*PieceRows:][:PieceRows]
		var x [PieceRows]float64
		var r [Lanes]float64
		for g := range groups {
			for l := range r {
				r[l] += float64(w[g*Lanes+l] * from[g*Lanes+l])
				x[g*Lanes+l] = r[l]
			}
		}
		var before [Lanes]float64
		for h := 0; h < Lanes; h += 4 {
			before[h+1] = r[h]
			before[h+2] = r[h] + r[h+1]
			before[h+3] = r[h] + (r[h+1] + r[h+2])
		}
		low, high := (r[0]+r[1])+(r[2]+r[3]), (r[4]+r[5])+(r[6]+r[7])
		for l := 4; l < Lanes; l++ {
			before[l] += low
		}
		for l := range before {
			before[l] += s.Carry[a]
		}
		s.Carry[a] += low + high
		n := 0
		for g, m := range marks {
			for ; m != 0; m &= m - 1 {
				l := bits.TrailingZeros8(m)
				to[n] = float64((before[l] + x[g*Lanes+l]) * u[n])
				n++
			}
		}
		for ; n%Lanes != 0; n++ {
			to[n] = 0
		}
	}
}

// Expose writes what the rows of a turned piece met of a hazard h, whose parts stand at
// the rows of times, one behind the other in the order of their places: each row meets
// those from its own on in time, and after, which is behind the piece. e is that times the
// weight, and r, the residual, what is left of an event at the rows of dead. By
// definition, with x the parts, and zero elsewhere,
//
//	p_i = x_i at the last row of a run, else p_{i+1} + x_i
//	e_i = w_i·((after + o_l) + p_i), r_i = 1 - e_i if dead, else -e_i
//
// where o_l is the sum of the runs behind run l, added up as Scan's, but from the other end.
// h has room for a whole piece and holds numbers.
func Expose(e, r, w, h []float64, times, dead *Marks, after float64) {
	_, _, _, _ = e[PieceRows-1], r[PieceRows-1], w[PieceRows-1], h[PieceRows-1]
	expose(e, r, w, h, times, dead, after)
}

func portableExpose(e, r, w, h []float64, times, dead *Marks, after float64) {
	var x [PieceRows]float64
	n := 0
	for g, m := range times {
		for ; m != 0; m &= m - 1 {
			x[g*Lanes+bits.TrailingZeros8(m)] = h[n]
			n++
		}
	}
	var s, behind [Lanes]float64
	for g := groups - 1; g >= 0; g-- {
		for l := range s {
			s[l] += x[g*Lanes+l]
			x[g*Lanes+l] = s[l]
		}
	}
	for h := 0; h < Lanes; h += 4 {
		behind[h+2] = s[h+3]
		behind[h+1] = s[h+3] + s[h+2]
		behind[h] = s[h+3] + (s[h+2] + s[h+1])
	}
	high := (s[7] + s[6]) + (s[5] + s[4])
	for l := range 4 {
		behind[l] += high
	}
	for l := range behind {
		behind[l] += after
	}
	for g := range groups {
		for l := range behind {
			i := g*Lanes + l
			e[i] = float64(w[i] * (behind[l] + x[i]))
			if r[i] = -e[i]; dead[g]>>l&1 == 1 {
				r[i] = 1 - e[i]
			}
		}
	}
}
