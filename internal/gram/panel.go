package gram

// Columns stand in panels: groups of Lanes rows, and in each group one column
// after the other, Lanes values each. A sweep over the rows reads memory once
// from its beginning to its end, and four rows of a column are one register.
// Columns that fill up the width, and rows that fill up the last group, hold
// numbers that nobody reads.

// Lanes is the rows of a group.
const Lanes = 4

// Width is the columns of a panel with room for p: whole groups of four.
func Width(p int) int { return (p + 3) &^ 3 }

// Len is the values of a panel of n rows.
func Len(n, width int) int { return (n + Lanes - 1) / Lanes * Lanes * width }

// At is the place of row i of column a.
func At(i, a, width int) int { return i/Lanes*Lanes*width + a*Lanes + i%Lanes }

// Standard says how columns are read: (v - Centre)·Inverse - Mean, each
// operation rounded. Beta are the coefficients of the linear predictor.
type Standard struct {
	Centre, Inverse, Mean, Beta []float64
}

// Linear adds Σ_a Beta_a·(v_a - Centre_a)·Inverse_a to eta, column after column,
// for whole groups of rows: len(eta) is a multiple of Lanes.
func (s *Standard) Linear(eta, raw []float64, width int) {
	s.sweep(eta, nil, raw, width, 0, 0)
}

// Values writes standardised columns to the panel z of another width, from its
// column first on.
func (s *Standard) Values(z, raw []float64, rows, width, zWidth, first int) {
	s.sweep(nil, z, raw, width, zWidth, first, rows)
}

// Both does both in one pass, for a mean of zero.
func (s *Standard) Both(eta, z, raw []float64, width, zWidth, first int) {
	s.sweep(eta, z, raw, width, zWidth, first)
}

func (s *Standard) sweep(eta, z, raw []float64, width, zWidth, first int, rows ...int) {
	n := len(eta)
	if len(rows) > 0 {
		n = rows[0]
	}
	p := len(s.Centre)
	if n == 0 || p == 0 {
		return
	}
	groups := (n + Lanes - 1) / Lanes
	_ = raw[(groups-1)*Lanes*width+p*Lanes-1]
	if eta != nil {
		_ = eta[groups*Lanes-1]
		_ = s.Beta[p-1]
	}
	if z != nil {
		_ = z[(groups-1)*Lanes*zWidth+(first+p)*Lanes-1]
		if eta == nil {
			_ = s.Mean[p-1]
		}
	}
	if first+p > zWidth && z != nil || p > width {
		panic("gram: more columns than the panel is wide")
	}
	_ = s.Inverse[p-1]
	s.fast(groups, eta, z, raw, width, zWidth, first)
}

// portable is the definition of sweep.
func (s *Standard) portable(groups int, eta, z, raw []float64, width, zWidth, first int) {
	for g := range groups {
		for a, c := range s.Centre {
			from := raw[(g*width+a)*Lanes:][:Lanes]
			for l, v := range from {
				x := float64((v - c) * s.Inverse[a])
				if eta != nil {
					eta[g*Lanes+l] += float64(s.Beta[a] * x)
				}
				if z != nil && eta == nil {
					x -= s.Mean[a]
				}
				if z != nil {
					z[(g*zWidth+first+a)*Lanes+l] = x
				}
			}
		}
	}
}

// Fetch begins to bring the first four columns of a panel's groups into the cache.
func Fetch(panel []float64, groups, width int) {
	if groups = min(groups, (len(panel)+Lanes*width-1)/(Lanes*width)); groups > 0 {
		fetch(panel, groups, width)
	}
}

// Transpose turns groups of four vectors of four values each, from a distance
// of fromStep values to the next group to one of toStep.
func Transpose(to, from []float64, groups, toStep, fromStep int) {
	if groups == 0 {
		return
	}
	_, _ = to[(groups-1)*toStep+15], from[(groups-1)*fromStep+15]
	transpose(to, from, groups, toStep, fromStep)
}

func portableTranspose(to, from []float64, groups, toStep, fromStep int) {
	for g := range groups {
		t, f := to[g*toStep:][:16], from[g*fromStep:][:16]
		for i := range 4 {
			for j := range 4 {
				t[4*i+j] = f[4*j+i]
			}
		}
	}
}
