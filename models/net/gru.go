package net

// gruFunction is a gated recurrent unit (Cho et al., EMNLP 2014) in the form of
// PyTorch and of ONNX with linear_before_reset: with gates r, z, n,
//
//	r = σ(W_r x + b_r + U_r h + c_r)
//	z = σ(W_z x + b_z + U_z h + c_z)
//	n = tanh(W_n x + b_n + r ∘ (U_n h + c_n))
//	h' = (1-z) ∘ n + z ∘ h
//
// from h = 0 over all steps. Its value is the last h, or every h if l.sequence.
func gruFunction[T real](f *function[T], l *layer, batch int) {
	mul := newMatmul[T]()
	steps, in1, h := l.in.width, l.in.channels, l.tensors[1].shape[0]
	g := 3 * h
	// Row batch·steps by gates; the backward pass turns them into slopes.
	gates := f.keep(batch * steps * g) // r, z, n
	fromState := f.keep(batch * steps * g)
	states := f.keep(batch * (steps + 1) * h) // states[r, 0] = 0
	slope := f.keep(batch * h)                // by the state before
	dGates := f.keep(batch * steps * g)       // by W x + b
	dState := f.keep(batch * steps * g)       // by U h + c
	row := func(r, t int) int { return (r*steps + t) * g }
	f.forward = func(out []T, in [][]T) {
		x, w, u, b, c := in[0], in[1], in[2], in[3], in[4]
		for r := range batch * steps {
			copy(gates[r*g:], b)
			copy(fromState[r*g:], c)
		}
		mul(false, false, batch*steps, g, in1, x, in1, w, g, 1, gates, g)
		for t := range steps {
			// The states of step t stand steps+1 states apart, its gates steps·g.
			mul(false, false, batch, g, h, states[t*h:], (steps+1)*h, u, g, 1, fromState[t*g:], steps*g)
			for r := range batch {
				a, s := gates[row(r, t):row(r, t)+g], fromState[row(r, t):row(r, t)+g]
				old := states[(r*(steps+1)+t)*h:]
				next := states[(r*(steps+1)+t+1)*h:]
				for j := range h {
					a[j] = logistic1(a[j] + s[j])
					a[h+j] = logistic1(a[h+j] + s[h+j])
					a[2*h+j] = hyperbolic(a[2*h+j] + T(a[j]*s[2*h+j]))
					next[j] = T((1-a[h+j])*a[2*h+j]) + T(a[h+j]*old[j])
				}
			}
		}
		for r := range batch {
			if l.sequence {
				copy(out[r*steps*h:(r+1)*steps*h], states[(r*(steps+1)+1)*h:])
			} else {
				copy(out[r*h:(r+1)*h], states[(r*(steps+1)+steps)*h:])
			}
		}
	}
	f.backward = func(grads, in [][]T, _, dout []T) {
		w, u := in[1], in[2]
		clear(slope)
		for t := steps - 1; t >= 0; t-- {
			for r := range batch {
				d := slope[r*h : (r+1)*h]
				switch {
				case l.sequence:
					for j, v := range dout[(r*steps+t)*h : (r*steps+t+1)*h] {
						d[j] += v
					}
				case t == steps-1:
					copy(d, dout[r*h:(r+1)*h])
				}
				at := row(r, t)
				a, s := gates[at:at+g], fromState[at:at+g]
				da, ds := dGates[at:at+g], dState[at:at+g]
				old := states[(r*(steps+1)+t)*h:]
				for j := range h {
					dn := T(d[j]*(1-a[h+j])) * (1 - T(a[2*h+j]*a[2*h+j]))
					dz := T(d[j]*(old[j]-a[2*h+j])) * T(a[h+j]*(1-a[h+j]))
					dr := T(dn*s[2*h+j]) * T(a[j]*(1-a[j]))
					da[j], da[h+j], da[2*h+j] = dr, dz, dn
					ds[j], ds[h+j], ds[2*h+j] = dr, dz, T(dn*a[j])
					d[j] *= a[h+j] // what passes beside the gates
				}
			}
			mul(false, true, batch, h, g, dState[t*g:], steps*g, u, g, 1, slope, h)
		}
		if grads[0] != nil {
			mul(false, true, batch*steps, in1, g, dGates, g, w, g, 0, grads[0], in1)
		}
		if !f.apart {
			f.rows(grads, in, dout, 0, batch)
		}
	}
	f.rows = func(grads, in [][]T, _ []T, from, to int) {
		own, ownState := dGates[row(from, 0):row(to, 0)], dState[row(from, 0):row(to, 0)]
		mul(true, false, in1, g, (to-from)*steps, in[0][from*steps*in1:], in1, own, g, 0, grads[1], g)
		clear(grads[2])
		for r := from; r < to; r++ {
			mul(true, false, h, g, steps, states[r*(steps+1)*h:], h, dState[r*steps*g:], g, 1, grads[2], g)
		}
		clear(grads[3])
		addRows(grads[3], own)
		clear(grads[4])
		addRows(grads[4], ownState)
	}
}
