package net

import (
	"fmt"

	"consilium"
)

type kind uint8

const (
	dense kind = iota + 1
	relu
	tanh
	sigmoid
	conv
	maxpool
	average
	gru
)

// kinds are the layers that a specification may name.
var kinds = map[string]kind{"dense": dense, "relu": relu, "tanh": tanh, "sigmoid": sigmoid,
	"conv1d": conv, "conv2d": conv, "maxpool": maxpool, "average": average, "gru": gru}

var kindNames = []string{"dense", "relu", "tanh", "sigmoid", "conv1d", "conv2d", "maxpool", "average", "gru"}

// shape is what one row looks like between two layers: numbers without an
// order (rank 1), steps × channels (rank 2), or height × width × channels
// (rank 3). In memory the channels of one place stand side by side, so a row
// is flat already and a dense layer may follow anything.
type shape struct {
	rank          int
	height, width int // rank 2: height 1, width is the number of steps
	channels      int
}

func flat(n int) shape { return shape{1, 1, 1, n} }

func (s shape) size() int { return s.height * s.width * s.channels }

func (s shape) String() string {
	switch s.rank {
	case 2:
		return fmt.Sprintf("%d steps of %d channels", s.width, s.channels)
	case 3:
		return fmt.Sprintf("%d × %d pixels of %d channels", s.height, s.width, s.channels)
	}
	return fmt.Sprintf("%d values", s.channels)
}

// layer is one validated layer.
type layer struct {
	kind    kind
	in, out shape
	tensors []tensorRef // its parameters; see parameters

	kernel, stride, pad [2]int // conv and maxpool: along height and width
	sequence            bool   // gru: the state after every step, not only the last
}

// tensorRef is one tensor in the flat parameters.
type tensorRef struct {
	name  string // "weight", "bias", …, within its layer
	at    int
	shape []int
	fans  [2]int // how many values one output is made from and one input goes to; {0, 0}: starts at zero
}

func (t tensorRef) size() int {
	n := 1
	for _, d := range t.shape {
		n *= d
	}
	return n
}

// newLayer validates layer i for rows of shape in. Every number is bounded
// before it is multiplied by another.
func newLayer(i int, l consilium.Layer, in shape) (layer, error) {
	bad := func(format string, args ...any) (layer, error) {
		return layer{}, consilium.ErrInvalid.Withf("model.layers[%d] %s", i, fmt.Sprintf(format, args...))
	}
	k, ok := kinds[l.Kind]
	if !ok {
		return bad("%s: %s", quote(l.Kind), suggest(l.Kind, kindNames))
	}
	takes := map[kind]string{dense: "u", conv: "uksp", maxpool: "ks", gru: "uq"}[k]
	for _, f := range []struct {
		set  bool
		code byte
		name string
	}{{l.Units != 0, 'u', "units"}, {l.Kernel != 0, 'k', "kernel"}, {l.Stride != 0, 's', "stride"}, {l.Padding != "", 'p', "padding"}, {l.Sequence, 'q', "sequence"}} {
		if f.set && !containsByte(takes, f.code) {
			return bad("%s takes no %s", l.Kind, f.name)
		}
	}
	v := layer{kind: k, in: in, out: in, sequence: l.Sequence, kernel: [2]int{1, 1}, stride: [2]int{1, 1}}
	if containsByte(takes, 'u') && (l.Units < 1 || l.Units > maxUnits) {
		return bad("%s: units %d, want 1 to %d", l.Kind, l.Units, maxUnits)
	}
	switch want := map[string]int{"conv1d": 2, "gru": 2, "conv2d": 3}[l.Kind]; {
	case want != 0 && in.rank != want:
		return bad("%s reads %s, and %v reach it: %s", l.Kind, rankNames[want], in, rankHint(want, in))
	case (k == maxpool || k == average) && in.rank == 1:
		return bad("%s reads steps or an image, and %v reach it: %s", l.Kind, in, rankHint(2, in))
	}
	switch k {
	case dense:
		v.out = flat(l.Units)
		v.tensors = []tensorRef{{name: "weight", shape: []int{in.size(), l.Units}, fans: [2]int{in.size(), l.Units}}, {name: "bias", shape: []int{l.Units}}}
	case average:
		v.out = flat(in.channels)
	case gru:
		h := l.Units
		v.out = flat(h)
		if l.Sequence {
			v.out = shape{2, 1, in.width, h}
		}
		// Gates in the order reset, update, new, as in PyTorch.
		v.tensors = []tensorRef{{name: "weight_ih", shape: []int{in.channels, 3 * h}, fans: [2]int{in.channels, h}}, {name: "weight_hh", shape: []int{h, 3 * h}, fans: [2]int{h, h}},
			{name: "bias_ih", shape: []int{3 * h}}, {name: "bias_hh", shape: []int{3 * h}}}
	case conv, maxpool:
		if err := v.window(i, l); err != nil {
			return layer{}, err
		}
	case relu, tanh, sigmoid:
	}
	if v.out.size() > maxActivations {
		return bad("%s gives %v for each row, more than %d: use fewer units or a longer stride", l.Kind, v.out, maxActivations)
	}
	return v, nil
}

var rankNames = map[int]string{2: "a series", 3: "an image"}

func rankHint(want int, in shape) string {
	switch {
	case in.rank == 1 && want == 3:
		return "declare model.input {height, width, channels}, and put dense and average after it"
	case in.rank == 1:
		return "declare model.input {steps, channels}, and put dense, average and a gru without sequence after it"
	case want == 2:
		return "use conv2d for an image"
	}
	return "use conv1d for a series"
}

// window places the windows of a convolution or pool.
func (v *layer) window(i int, l consilium.Layer) error {
	in := v.in
	size, stride := l.Kernel, l.Stride
	bad := func(format string, args ...any) error {
		return consilium.ErrInvalid.Withf("model.layers[%d] %s: %s", i, l.Kind, fmt.Sprintf(format, args...))
	}
	if size < 1 || size > maxUnits {
		return bad("kernel %d, want the width of its window", size)
	}
	if stride == 0 {
		stride = 1
		if v.kind == maxpool {
			stride = size
		}
	}
	if stride < 1 || stride > maxUnits {
		return bad("stride %d, want 1 or more", stride)
	}
	same := l.Padding == "same"
	if !same && l.Padding != "" && l.Padding != "valid" {
		return bad("padding %s: %s", quote(l.Padding), suggest(l.Padding, []string{"valid", "same"}))
	}
	if same && size%2 == 0 {
		return bad("padding same wants an odd kernel, which is as wide to the left as to the right; this one is %d", size)
	}
	places := func(n int) (out, pad int, err error) {
		if same {
			pad = size / 2
		}
		if size > n+2*pad {
			return 0, 0, bad("its kernel of %d is longer than what reaches it, %v: use a shorter kernel or less pooling before it", size, in)
		}
		return (n+2*pad-size)/stride + 1, pad, nil
	}
	v.out = in
	var err error
	v.kernel[1], v.stride[1] = size, stride
	if v.out.width, v.pad[1], err = places(in.width); err != nil {
		return err
	}
	if in.rank == 3 {
		v.kernel[0], v.stride[0] = size, stride
		if v.out.height, v.pad[0], err = places(in.height); err != nil {
			return err
		}
	}
	if v.kind == conv {
		v.out.channels = l.Units
		window := v.kernel[0] * v.kernel[1]
		if window > maxUnits || window*in.channels > maxParams {
			return bad("a window of %d × %d places and %d channels is too large", v.kernel[0], v.kernel[1], in.channels)
		}
		v.tensors = []tensorRef{{name: "weight", shape: []int{window * in.channels, l.Units}, fans: [2]int{window * in.channels, window * l.Units}}, {name: "bias", shape: []int{l.Units}}}
	}
	return nil
}

func containsByte(s string, c byte) bool {
	for i := range len(s) {
		if s[i] == c {
			return true
		}
	}
	return false
}
