package net

import (
	"context"
	"encoding/binary"
	"math"
	"slices"

	"consilium"
	"consilium/models"
)

// local is a site's part of a training or evaluation round.
func local[T real](ctx context.Context, a *train, s *models.State, v view, memory []byte, t *table, rows *models.Rows, w models.Writer) ([]byte, error) {
	eval, err := evaluate[T](ctx, a, s.Phase, v, t)
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

// examples are the training rows as a machine takes them: inputs, targets and
// weights of each row side by side.
type examples[T real] struct {
	n            int
	x, y, weight []T
}

// classWeights are those of rows without and with the event.
func (a *train) classWeights(v view) [2]float64 {
	m := &a.net.spec
	switch {
	case len(m.ClassWeights) == 2:
		return [2]float64{m.ClassWeights[0], m.ClassWeights[1]}
	case m.Balanced: // both classes together weigh as much as all rows
		n, events := v.head[headRows], v.head[headEvents]
		if a.private != nil { // noisy: both classes have at least one row
			events = max(1, min(events, n-1))
			n = max(n, 2)
		}
		return [2]float64{n / (2 * (n - events)), n / (2 * events)}
	}
	return [2]float64{1, 1}
}

func newExamples[T real](a *train, v view, t *table) *examples[T] {
	e := &examples[T]{}
	classes := a.classWeights(v)
	var start, stop []int
	if a.net.loss == partial {
		start, stop = timeRanks(t)
	}
	for i, held := range t.holdout {
		if held {
			continue
		}
		e.n++
		known := 0
		row := t.x[i*t.inputs : (i+1)*t.inputs]
		for j, x := range row {
			e.x = append(e.x, T(v.standardise(j, x)))
			if !math.IsNaN(x) {
				known++
			}
		}
		switch a.net.loss {
		case logistic:
			e.y, e.weight = append(e.y, T(t.y[i])), append(e.weight, T(classes[int(t.y[i])]))
		case squared:
			e.y, e.weight = append(e.y, T((t.y[i]-v.head[headMean])/v.head[headSD])), append(e.weight, 1)
		case partial:
			e.y, e.weight = append(e.y, T(start[i]), T(stop[i]), T(t.y[i])), append(e.weight, 1)
		case reconstruction:
			e.y = append(e.y, e.x[len(e.x)-len(row):]...)
			for _, x := range row {
				w := T(0)
				if !math.IsNaN(x) {
					w = T(1 / float64(known))
				}
				e.weight = append(e.weight, w)
			}
		}
	}
	return e
}

// timeRanks numbers a hospital's times from 1, the same number for equal ones;
// rows that enter at the beginning enter at 0. A partial likelihood reads no more
// than the order, and single precision would tie times that differ.
func timeRanks(t *table) (start, stop []int) {
	times := append(append([]float64{}, t.start...), t.stop...)
	slices.Sort(times)
	times = slices.Compact(times)
	if len(times) > 0 && math.IsInf(times[0], -1) {
		times = times[1:]
	}
	rank := func(x float64) int {
		i, found := slices.BinarySearch(times, x)
		if !found {
			return 0
		}
		return i + 1
	}
	for i := range t.stop {
		start, stop = append(start, rank(t.start[i])), append(stop, rank(t.stop[i]))
	}
	return start, stop
}

// load fills a machine with the examples of one batch. Rows past the end keep
// weight 0: one compiled shape serves every batch. They hold zeros, so nothing
// that is not a number can come of them.
func (e *examples[T]) load(m *machine[T], list []int) { e.fill(m, list, float64(len(list))) }

// fill is load with what the weights are divided by.
func (e *examples[T]) fill(m *machine[T], list []int, by float64) {
	clear(m.x)
	clear(m.y)
	clear(m.weight)
	inputs, targets, weights := m.net.inputs, m.net.targets(), m.net.weights()
	for k, i := range list {
		copy(m.x[k*inputs:], e.x[i*inputs:(i+1)*inputs])
		copy(m.y[k*targets:], e.y[i*targets:(i+1)*targets])
		for j, w := range e.weight[i*weights : (i+1)*weights] {
			m.weight[k*weights+j] = T(float64(w) / by)
		}
	}
}

// descend runs the local epochs of minibatch gradient descent on the training
// rows and returns how far the weights moved (nil if they left the numbers) and
// in how many steps. own is the site's control variate (scaffold) or nil.
func descend[T real](ctx context.Context, a *train, v view, t *table, own []float64, seed consilium.Digest) (moved []float64, steps int, err error) {
	e := newExamples[T](a, v, t)
	order := make([]int, e.n)
	for k := range order {
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
			e.load(m, order[from:min(from+batch, len(order))])
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
