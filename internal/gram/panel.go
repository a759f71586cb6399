package gram

// Len is the values of a panel of n rows and p columns. Rows that fill up the last
// group hold numbers that nobody reads.
func Len(n, p int) int { return Up(n) * p }

// At is the place of row i of column a in a panel of p columns.
func At(i, a, p int) int { return i/Lanes*Lanes*p + a*Lanes + i%Lanes }

// Standard says how columns are read: (v - Centre)·Inverse, each operation rounded.
// Beta are the coefficients of the linear predictor.
type Standard struct {
	Centre, Inverse, Beta []float64
}

// Values writes the first rows of a panel, at most a piece, to the columns of the
// piece z, and what fills up the last group.
func (s *Standard) Values(z, raw []float64, rows int) { s.sweep(nil, z, raw, rows) }

// Both does so and adds Σ_a Beta_a·z_a to eta, column after column; eta has whole groups of rows.
func (s *Standard) Both(eta, z, raw []float64, rows int) {
	if rows == 0 || len(s.Centre) == 0 {
		return
	}
	_, _ = s.Beta[len(s.Centre)-1], eta[Up(rows)-1]
	s.sweep(eta, z, raw, rows)
}

func (s *Standard) sweep(eta, z, raw []float64, rows int) {
	p := len(s.Centre)
	if rows == 0 || p == 0 {
		return
	}
	if rows > PieceRows {
		panic("gram: more rows than a piece has")
	}
	_, _, _ = s.Inverse[p-1], raw[Len(rows, p)-1], z[(p-1)*PieceRows+Up(rows)-1]
	s.fast(Up(rows)/Lanes, eta, z, raw)
}

// portable is the definition of sweep.
func (s *Standard) portable(groups int, eta, z, raw []float64) {
	for g := range groups {
		for a, c := range s.Centre {
			from, to := raw[(g*len(s.Centre)+a)*Lanes:][:Lanes], z[a*PieceRows+g*Lanes:][:Lanes]
			for l, v := range from {
				x := float64((v - c) * s.Inverse[a])
				to[l] = x
				if eta != nil {
					eta[g*Lanes+l] += float64(s.Beta[a] * x)
				}
			}
		}
	}
}
