package fixed

import "consilium"

// Vector is one site's finished lanes. It takes two bytes a lane where the
// layout's lanes have 16 bits, and four otherwise: a learned vector is long,
// and whoever made it still holds the model.
type Vector struct {
	narrow []int16
	wide   []int32
	is16   bool
}

func newVector(layout consilium.Layout) Vector {
	if layout.Bits() == 16 {
		return Vector{narrow: make([]int16, 0, layout.Lanes()), is16: true}
	}
	return Vector{wide: make([]int32, 0, layout.Lanes())}
}

// add appends lanes, each within the layout's bits.
func (v *Vector) add(lanes ...int32) {
	if !v.is16 {
		v.wide = append(v.wide, lanes...)
		return
	}
	for _, x := range lanes {
		v.narrow = append(v.narrow, int16(x))
	}
}

// Len is the number of lanes.
func (v *Vector) Len() int { return len(v.narrow) + len(v.wide) }

// Copy fills dst with the lanes from offset on; all of them exist.
func (v *Vector) Copy(dst []int32, offset int) {
	if !v.is16 {
		copy(dst, v.wide[offset:offset+len(dst)])
		return
	}
	for i, x := range v.narrow[offset : offset+len(dst)] {
		dst[i] = int32(x)
	}
}
