package net

import (
	"fmt"
	"math"

	"gorgonia.org/tensor"

	"consilium/internal/det"
)

// newFunction is layer i for batches of the given size. Its inputs are the
// values of the layer before it, batch × l.in.size(), and its parameters.
// Without wantInput there is no gradient by the first: nothing before it
// learns.
func newFunction[T real](i int, l *layer, batch int, wantInput bool) *function[T] {
	f := &function[T]{
		name: fmt.Sprintf("layer %d", i), in: []tensor.Shape{{batch, l.in.size()}}, diff: []bool{wantInput}, out: tensor.Shape{batch, l.out.size()},
	}
	for _, t := range l.tensors {
		s := tensor.Shape(t.shape)
		f.in, f.diff = append(f.in, s.Clone()), append(f.diff, true)
	}
	switch l.kind {
	case dense:
		denseFunction(f, l, batch)
	case relu, tanh, sigmoid:
		activation(f, l.kind)
	case conv:
		convFunction(f, l, batch)
	case maxpool:
		maxpoolFunction(f, l, batch)
	case average:
		averageFunction(f, l, batch)
	case gru:
		gruFunction(f, l, batch)
	}
	return f
}

// denseFunction is x·W + b.
func denseFunction[T real](f *function[T], l *layer, batch int) {
	mul := newMatmul[T]()
	n, m := l.in.size(), l.out.size()
	f.forward = func(out []T, in [][]T) {
		for r := range batch {
			copy(out[r*m:], in[2])
		}
		mul(false, false, batch, m, n, in[0], n, in[1], m, 1, out, m)
	}
	f.backward = func(grads, in [][]T, _, dout []T) {
		if grads[0] != nil {
			mul(false, true, batch, n, m, dout, m, in[1], m, 0, grads[0], n)
		}
		if !f.apart {
			f.rows(grads, in, dout, 0, batch)
		}
	}
	f.rows = func(grads, in [][]T, dout []T, from, to int) {
		dout = dout[from*m : to*m]
		mul(true, false, n, m, to-from, in[0][from*n:], n, dout, m, 0, grads[1], m)
		clear(grads[2])
		addRows(grads[2], dout)
	}
}

// addRows adds every row of list to sum.
func addRows[T real](sum, list []T) {
	for ; len(list) > 0; list = list[len(sum):] {
		for j, v := range list[:len(sum)] {
			sum[j] += v
		}
	}
}

func activation[T real](f *function[T], k kind) {
	switch k {
	case relu:
		f.forward = func(out []T, in [][]T) {
			for i, v := range in[0] {
				out[i] = max(v, 0)
			}
		}
		f.backward = func(grads, in [][]T, _, dout []T) {
			if grads[0] == nil {
				return
			}
			for i, v := range in[0] {
				if v > 0 {
					grads[0][i] = dout[i]
				} else {
					grads[0][i] = 0
				}
			}
		}
	case tanh:
		f.forward = func(out []T, in [][]T) {
			for i, v := range in[0] {
				out[i] = hyperbolic(v)
			}
		}
		f.backward = func(grads, _ [][]T, out, dout []T) {
			for i := range grads[0] {
				grads[0][i] = dout[i] * (1 - T(out[i]*out[i]))
			}
		}
	case sigmoid:
		f.forward = func(out []T, in [][]T) {
			for i, v := range in[0] {
				out[i] = logistic1(v)
			}
		}
		f.backward = func(grads, _ [][]T, out, dout []T) {
			for i := range grads[0] {
				grads[0][i] = dout[i] * T(out[i]*(1-out[i]))
			}
		}
	}
}

// hyperbolic is tanh with the same bits on every processor.
func hyperbolic[T real](v T) T {
	e := det.Expm1(-2 * math.Abs(float64(v))) // in [-1, 0]
	t := -e / (2 + e)
	if v < 0 {
		t = -t
	}
	return T(t)
}

// logistic1 is 1/(1+exp(-v)) without an exponential of a positive number.
func logistic1[T real](v T) T {
	e := det.Exp(-math.Abs(float64(v)))
	if v < 0 {
		return T(e / (1 + e))
	}
	return T(1 / (1 + e))
}

// convFunction slides a window over steps or pixels and multiplies what it
// covers by W. Windows of one row are laid out side by side (im2col), so that the
// work is a matrix product; places beyond the edge count as zero.
func convFunction[T real](f *function[T], l *layer, batch int) {
	mul := newMatmul[T]()
	n, m := l.in.size(), l.out.size()
	places, window, units := l.out.height*l.out.width, l.kernel[0]*l.kernel[1]*l.in.channels, l.out.channels
	columns := f.keep(places * window) // what no window covers stays zero
	slopes := columns
	if f.diff[0] {
		slopes = f.keep(places * window)
	}
	spans := l.spans()
	f.forward = func(out []T, in [][]T) {
		for r := range batch {
			x, y := in[0][r*n:(r+1)*n], out[r*m:(r+1)*m]
			for _, s := range spans {
				copy(columns[s.column:s.column+s.count], x[s.row:])
			}
			for p := range places {
				copy(y[p*units:], in[2])
			}
			mul(false, false, places, units, window, columns, window, in[1], units, 1, y, units)
		}
	}
	f.backward = func(grads, in [][]T, _, dout []T) {
		if !f.apart {
			f.rows(grads, in, dout, 0, batch)
		}
		if grads[0] == nil {
			return
		}
		for r := range batch {
			mul(false, true, places, window, units, dout[r*m:(r+1)*m], units, in[1], units, 0, slopes, window)
			dx := grads[0][r*n : (r+1)*n]
			clear(dx)
			for _, s := range spans {
				for i, v := range slopes[s.column : s.column+s.count] {
					dx[s.row+i] += v
				}
			}
		}
	}
	f.rows = func(grads, in [][]T, dout []T, from, to int) {
		clear(grads[1])
		clear(grads[2])
		addRows(grads[2], dout[from*m:to*m])
		for r := from; r < to; r++ {
			x := in[0][r*n : (r+1)*n]
			for _, s := range spans {
				copy(columns[s.column:s.column+s.count], x[s.row:])
			}
			mul(true, false, window, units, places, columns, window, dout[r*m:(r+1)*m], units, 1, grads[1], units)
		}
	}
}

// span is a stretch of values that a window covers: count of them from column
// in the windows laid out side by side, and from row in the layer's input.
type span struct{ column, row, count int }

// spans lists what all windows cover within the edges.
func (l *layer) spans() []span {
	var out []span
	c, width := l.in.channels, l.kernel[0]*l.kernel[1]*l.in.channels
	for oy := range l.out.height {
		for ox := range l.out.width {
			base := (oy*l.out.width + ox) * width
			for ky := range l.kernel[0] {
				y := oy*l.stride[0] + ky - l.pad[0]
				if y < 0 || y >= l.in.height {
					continue
				}
				left := ox*l.stride[1] - l.pad[1]
				from, to := max(left, 0), min(left+l.kernel[1], l.in.width)
				if from < to {
					out = append(out, span{base + (ky*l.kernel[1]+from-left)*c, (y*l.in.width + from) * c, (to - from) * c})
				}
			}
		}
	}
	return out
}

// maxpoolFunction keeps the largest value of each channel under a window, the
// first of equal ones.
func maxpoolFunction[T real](f *function[T], l *layer, batch int) {
	n, m, c := l.in.size(), l.out.size(), l.in.channels
	from := make([]int32, batch*m) // where each largest value stood
	f.forward = func(out []T, in [][]T) {
		for r := range batch {
			x, y, at := in[0][r*n:(r+1)*n], out[r*m:(r+1)*m], from[r*m:(r+1)*m]
			o := 0
			for oy := range l.out.height {
				for ox := range l.out.width {
					for ch := range c {
						best := -1
						for ky := range l.kernel[0] {
							row := ((oy*l.stride[0]+ky)*l.in.width+ox*l.stride[1])*c + ch
							for kx := range l.kernel[1] {
								if i := row + kx*c; best < 0 || x[i] > x[best] {
									best = i
								}
							}
						}
						y[o], at[o] = x[best], int32(best)
						o++
					}
				}
			}
		}
	}
	f.backward = func(grads, _ [][]T, _, dout []T) {
		clear(grads[0])
		for r := range batch {
			for o, i := range from[r*m : (r+1)*m] {
				grads[0][r*n+int(i)] += dout[r*m+o]
			}
		}
	}
}

// averageFunction is the mean of each channel over all places.
func averageFunction[T real](f *function[T], l *layer, batch int) {
	n, c := l.in.size(), l.in.channels
	share := T(1) / T(l.in.height*l.in.width)
	f.forward = func(out []T, in [][]T) {
		for r := range batch {
			y := out[r*c : (r+1)*c]
			clear(y)
			addRows(y, in[0][r*n:(r+1)*n])
			for i := range y {
				y[i] *= share
			}
		}
	}
	f.backward = func(grads, _ [][]T, _, dout []T) {
		for r := range batch {
			for i := range n {
				grads[0][r*n+i] = share * dout[r*c+i%c]
			}
		}
	}
}
