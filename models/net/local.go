package net

import (
	"context"
	"encoding/binary"
	"math"

	"consilium"
	"consilium/models"
)

// local is a site's part of a training or evaluation round.
func local[T real](ctx context.Context, a *train, s *models.State, v view, memory []byte, t *table, rows *models.Rows, w models.Writer) ([]byte, error) {
	eval, err := evaluate[T](ctx, a, v, t)
	if err != nil {
		return nil, err
	}
	if s.Phase == phaseTrain {
		n := float64(t.count(false))
		var update, control []float64 // nil stands for zeros
		var clipped, diverged float64
		if n > 0 {
			var seed consilium.Digest
			if rows != nil {
				seed = rows.Seed
			}
			own, err := a.parseMemory(memory)
			if err != nil {
				return nil, err
			}
			moved, steps, err := descend[T](ctx, a, v, t, own, seed)
			if err != nil {
				return nil, err
			}
			// The site's share of all training rows scales its move, so the sum
			// over sites is the weighted mean. Clipping comes first: a share is
			// at most 1, so the block's clip then cuts nothing more.
			share := min(n/v.head[headRows], 1)
			c := a.strategy.clip
			if moved == nil {
				diverged = 1 // told in the sum; the update stays zero
			}
			if own != nil && moved != nil {
				control, memory = a.controls(v, own, moved, steps, share)
			}
			for i, d := range moved {
				if d > c || d < -c {
					clipped++
				}
				moved[i] = float64(share * max(-c, min(c, d)))
			}
			update = moved
		}
		if err := a.writeParameters(w, "update", update); err != nil {
			return nil, err
		}
		if a.strategy.name == "scaffold" {
			if err := a.writeParameters(w, "control", control); err != nil {
				return nil, err
			}
		}
		if err := write(w, []string{"weight"}, []float64{n, clipped, diverged}); err != nil {
			return nil, err
		}
	}
	if err := write(w, []string{"training", "holdout"}, eval[0], eval[1]); err != nil {
		return nil, err
	}
	return memory, nil
}

// writeParameters writes one value per parameter; nil is zeros.
func (a *train) writeParameters(w models.Writer, name string, values []float64) error {
	if values != nil {
		return write(w, []string{name}, values)
	}
	if err := w.Block(name); err != nil {
		return err
	}
	var zeros [4096]float64
	for left := a.net.params; left > 0; left -= min(left, len(zeros)) {
		if err := w.Write(zeros[:min(left, len(zeros))]); err != nil {
			return err
		}
	}
	return nil
}

// descend runs the local epochs of minibatch gradient descent on the training
// rows and returns how far the weights moved (nil if they left the numbers) and
// in how many steps. own is the site's control variate (scaffold) or nil.
func descend[T real](ctx context.Context, a *train, v view, t *table, own []float64, seed consilium.Digest) (moved []float64, steps int, err error) {
	var order []int
	for i, h := range t.holdout {
		if !h {
			order = append(order, i)
		}
	}
	inputs := t.inputs
	x := make([]T, len(order)*inputs)
	y := make([]T, len(order))
	for k, i := range order {
		for j := range inputs {
			x[k*inputs+j] = T(v.standardise(j, t.x[i*inputs+j]))
		}
		if a.net.loss == squared {
			y[k] = T((t.y[i] - v.head[headMean]) / v.head[headSD])
		} else {
			y[k] = T(t.y[i])
		}
		order[k] = k
	}
	m, err := take[T](a.net, a.strategy.batch, true)
	if err != nil {
		return nil, 0, err
	}
	load(v, m.params)
	start := append([]T(nil), m.params...)
	var correction []T // scaffold: c - c_i, added to every gradient
	if own != nil {
		correction = make([]T, len(own))
		for i := range correction {
			correction[i] = T(v.moments[i] - own[i])
		}
	}
	rate, mu := T(a.strategy.rate), T(a.strategy.mu)
	batch := a.strategy.batch
	for epoch := range a.strategy.epochs {
		src := newSource(consilium.DomainSeed.Digest([]byte("shuffle"), seed[:], []byte(a.spec.Name), u64(uint64(epoch))))
		src.shuffle(order)
		for from := 0; from < len(order); from += batch {
			if err := ctx.Err(); err != nil {
				return nil, 0, err
			}
			n := min(batch, len(order)-from)
			// Rows past the end keep weight 0: one compiled shape serves every
			// batch. They hold zeros, so nothing that is not a number can come
			// of them.
			clear(m.x)
			clear(m.y)
			clear(m.weight)
			for k, i := range order[from : from+n] {
				copy(m.x[k*inputs:], x[i*inputs:(i+1)*inputs])
				m.y[k] = y[i]
				m.weight[k] = T(1 / float64(n))
			}
			if err := m.run(); err != nil {
				return nil, 0, err
			}
			for i, g := range m.grads {
				if mu != 0 {
					g += T(mu * (m.params[i] - start[i]))
				}
				if correction != nil {
					g += correction[i]
				}
				m.params[i] -= T(rate * g)
			}
			steps++
		}
	}
	moved = make([]float64, len(start))
	for i, w := range m.params {
		moved[i] = float64(w) - float64(start[i])
		if math.IsNaN(moved[i]) || math.IsInf(moved[i], 0) {
			moved = nil
			break
		}
	}
	give(m)
	return moved, steps, nil
}

// memoryVersion is the first byte of a site's memory.
const memoryVersion = 1

// parseMemory reads the site's control variate: zeros before its first round,
// nil for strategies without one.
func (a *train) parseMemory(memory []byte) ([]float64, error) {
	if a.strategy.name != "scaffold" {
		return nil, nil
	}
	out := make([]float64, a.net.params)
	if len(memory) == 0 {
		return out, nil
	}
	if len(memory) != 1+8*len(out) || memory[0] != memoryVersion {
		return nil, consilium.ErrData.Withf("the site's memory of %d bytes is not of this model", len(memory))
	}
	for i := range out {
		out[i] = math.Float64frombits(binary.BigEndian.Uint64(memory[1+8*i:]))
	}
	return out, nil
}

// controlClip bounds one value of a control variate's change. A control
// variate is a mean gradient: the weights' move over steps·rate, and a move
// past strategy.clip is cut.
func (a *train) controlClip() float64 {
	return 2 * a.strategy.clip / (float64(a.strategy.epochs) * a.strategy.rate)
}

// controls updates the control variate (Karimireddy et al., ICML 2020,
// Algorithm 1, option II): c_i' = c_i - c + (x - y_i)/(steps·rate). It returns
// the share-weighted change for the sum, and the new memory, which takes the
// change as clipped and quantised, so that the sum of what the sites remember
// stays what was summed.
func (a *train) controls(v view, own, moved []float64, steps int, share float64) (change []float64, memory []byte) {
	change = make([]float64, len(own))
	memory = make([]byte, 1, 1+8*len(own))
	memory[0] = memoryVersion
	bound := a.controlClip()
	limit := float64(int(1)<<(a.strategy.bits-1) - 1)
	for i := range own {
		d := -moved[i]/(float64(steps)*a.strategy.rate) - v.moments[i]
		q := math.RoundToEven(float64(share*max(-bound, min(bound, d)))/bound*limit) * bound / limit
		change[i] = q
		memory = binary.BigEndian.AppendUint64(memory, math.Float64bits(own[i]+q/share))
	}
	return change, memory
}
