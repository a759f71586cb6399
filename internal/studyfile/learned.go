package studyfile

import (
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"consilium"
)

var (
	layerKinds = []string{"dense", "relu", "tanh", "sigmoid", "conv1d", "conv2d", "maxpool", "average", "gru"}
	losses     = []string{"logistic", "squared", "cox", "reconstruction"}
	dtypes     = []string{"float32", "float64"}
	missings   = []string{"mean", "indicator", "drop"}
	paddings   = []string{"valid", "same"}
	strategies = []string{"fedavg", "fedprox", "fedadam", "fedyogi", "scaffold"}
)

// layerSize is the key that the short form {dense: 16} means; other layers
// have none.
var layerSize = map[string]string{"dense": "units", "conv1d": "units", "conv2d": "units", "gru": "units", "maxpool": "kernel"}

// features reads a list of columns; a word with braces stands for several.
func (p *parser) features(n *yaml.Node, what string) []string {
	if n.Kind != yaml.SequenceNode {
		return p.terms(n, what)
	}
	var out []string
	plain := &yaml.Node{Kind: n.Kind, Line: n.Line, Column: n.Column}
	for _, c := range n.Content {
		if c.Kind != yaml.ScalarNode || !strings.Contains(c.Value, "{") {
			plain.Content = append(plain.Content, c)
			continue
		}
		for _, name := range braces(c, c.Value) {
			plain.Content = append(plain.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: name, Line: c.Line, Column: c.Column})
		}
	}
	if len(plain.Content) == len(n.Content) {
		return p.terms(n, what)
	}
	// A series or an image: columns in the order in which they are written.
	for _, c := range plain.Content {
		out = append(out, p.columnRef(c, str(c, what), false))
	}
	return out
}

// maxBraces bounds what one word with braces stands for.
const maxBraces = 1 << 14

// braces expands a word as a shell does: t{1..3}_{hr,spo2} is t1_hr, t1_spo2,
// t2_hr, … Numbers keep the zeros in front of the first: {01..12}.
func braces(n *yaml.Node, word string) []string {
	const next = "write for example hr_{1..60}, or t{1..60}_{hr,spo2}"
	open := strings.IndexByte(word, '{')
	if open < 0 {
		return []string{word}
	}
	end := strings.IndexByte(word[open:], '}')
	if end < 0 {
		refuse(n, next, "%s: a brace is not closed", clip(word))
	}
	body := word[open+1 : open+end]
	var list []string
	if from, to, ok := strings.Cut(body, ".."); ok {
		a, err1 := strconv.ParseUint(from, 10, 31)
		b, err2 := strconv.ParseUint(to, 10, 31)
		if err1 != nil || err2 != nil || a > b || b-a >= maxBraces {
			refuse(n, next, "%s: {%s} is not a range of at most %d numbers", clip(word), clip(body), maxBraces)
		}
		for i := a; i <= b; i++ {
			s := strconv.FormatUint(i, 10)
			if strings.HasPrefix(from, "0") && len(s) < len(from) {
				s = strings.Repeat("0", len(from)-len(s)) + s
			}
			list = append(list, s)
		}
	} else {
		list = strings.Split(body, ",")
	}
	rest := braces(n, word[open+end+1:])
	if len(list)*len(rest) > maxBraces {
		refuse(n, next, "%s stands for more than %d names", clip(word), maxBraces)
	}
	var out []string
	for _, s := range list {
		for _, r := range rest {
			out = append(out, word[:open]+s+r)
		}
	}
	return out
}

// model reads layers such as relu, {dense: 16}, {conv1d: 8, kernel: 5} or
// {kind: dense, units: 16}.
func (p *parser) model(n *yaml.Node, what string) *consilium.ModelSpec {
	o := asObject(n, what, "input", "layers", "loss", "dtype", "missing", "class_weights")
	m := &consilium.ModelSpec{Layers: []consilium.Layer{}, DType: "float64"}
	if v := o.get("input"); v != nil {
		q := asObject(v, what+".input", "steps", "height", "width", "channels")
		m.Input = &consilium.InputShape{Steps: q.whole("steps", 0), Height: q.whole("height", 0), Width: q.whole("width", 0), Channels: q.whole("channels", 1)}
	}
	l := o.get("layers")
	if l == nil || l.Kind != yaml.SequenceNode || len(l.Content) == 0 {
		refuse(o.key("layers"), "write layers: [{dense: 16}, relu, {dense: 1}]", "%s has no list of layers", what)
	}
	for _, c := range l.Content {
		m.Layers = append(m.Layers, p.layer(c, what+".layers"))
	}
	loss := o.get("loss")
	if loss == nil {
		refuse(o.node, "losses are "+strings.Join(losses, ", "), "%s has no loss", what)
	}
	m.Loss = p.word(loss, what+".loss", losses)
	if d := o.get("dtype"); d != nil {
		m.DType = p.word(d, what+".dtype", dtypes)
	}
	if d := o.get("missing"); d != nil {
		if m.Missing = p.word(d, what+".missing", missings); m.Missing == "mean" {
			m.Missing = "" // the default has one spelling in what is signed
		}
	}
	if w := o.get("class_weights"); w != nil {
		if w.Kind == yaml.ScalarNode {
			m.Balanced = p.word(w, what+".class_weights", []string{"balanced"}) != ""
		} else {
			m.ClassWeights = nums(w, what+".class_weights")
		}
	}
	return m
}

func (p *parser) layer(c *yaml.Node, what string) consilium.Layer {
	var layer consilium.Layer
	if c.Kind == yaml.ScalarNode {
		layer.Kind = p.word(c, what, layerKinds)
	} else {
		q := asObject(c, what, append([]string{"kind", "units", "kernel", "stride", "padding", "sequence"}, layerKinds...)...)
		var short []string
		for _, k := range layerKinds {
			if q.get(k) != nil {
				short = append(short, k)
			}
		}
		switch {
		case len(short) == 1 && q.get("kind") == nil:
			layer.Kind = short[0]
			size := layerSize[layer.Kind]
			if size == "" {
				refuse(c, "write "+layer.Kind+" alone", "%s: %s takes no number", what, layer.Kind)
			}
			if q.get(size) != nil {
				refuse(q.key(size), "write it once", "%s: {%s: …} already says its %s", what, layer.Kind, size)
			}
			v := whole(q.get(short[0]), what+"."+short[0])
			if size == "units" {
				layer.Units = v
			} else {
				layer.Kernel = v
			}
		case len(short) == 0 && q.get("kind") != nil:
			layer.Kind = p.word(q.get("kind"), what+".kind", layerKinds)
		default:
			refuse(c, "write {dense: 16}, {conv1d: 8, kernel: 5} or {kind: dense, units: 16}", "%s: not one layer", what)
		}
		for _, f := range []struct {
			key string
			to  *int
		}{{"units", &layer.Units}, {"kernel", &layer.Kernel}, {"stride", &layer.Stride}} {
			if v := q.get(f.key); v != nil {
				*f.to = whole(v, what+"."+f.key)
			}
		}
		if v := q.get("padding"); v != nil {
			if layer.Padding = p.word(v, what+".padding", paddings); layer.Padding == "valid" {
				layer.Padding = ""
			}
		}
		layer.Sequence = q.flag("sequence")
	}
	size := layerSize[layer.Kind]
	switch {
	case size == "units" && layer.Units < 1:
		refuse(c, "write for example {"+layer.Kind+": 16}", "%s: a %s layer needs its number of units", what, layer.Kind)
	case size != "units" && layer.Units != 0:
		refuse(c, "leave them out", "%s: %s takes no units", what, layer.Kind)
	case (strings.HasPrefix(layer.Kind, "conv") || layer.Kind == "maxpool") && layer.Kernel < 1:
		refuse(c, "write for example {conv1d: 8, kernel: 5} or {maxpool: 2}", "%s: a %s layer needs a kernel, the width of its window", what, layer.Kind)
	}
	return layer
}

// strategy leaves a key that is absent at zero (but rounds): the trainer fills
// it and shows its value in the result.
func (p *parser) strategy(n *yaml.Node, what string) *consilium.Strategy {
	o := asObject(n, what, "name", "rounds", "local_epochs", "batch", "rate", "server_rate", "mu", "clip", "bits", "patience", "min_delta")
	s := &consilium.Strategy{Name: "fedavg"}
	if v := o.get("name"); v != nil {
		s.Name = p.word(v, what+".name", strategies)
	}
	for _, f := range []struct {
		key string
		to  *int
	}{{"rounds", &s.Rounds}, {"local_epochs", &s.LocalEpochs}, {"batch", &s.Batch}, {"bits", &s.Bits}, {"patience", &s.Patience}} {
		if v := o.get(f.key); v != nil {
			if *f.to = whole(v, o.path(f.key)); *f.to < 1 {
				refuse(v, "", "%s is %d, want at least 1", o.path(f.key), *f.to)
			}
		}
	}
	for _, f := range []struct {
		key string
		to  *float64
	}{{"rate", &s.Rate}, {"server_rate", &s.ServerRate}, {"mu", &s.Mu}, {"clip", &s.Clip}, {"min_delta", &s.MinDelta}} {
		if v := o.get(f.key); v != nil {
			if *f.to = num(v, o.path(f.key)); !(*f.to > 0) && f.key != "mu" || *f.to < 0 {
				refuse(v, "", "%s is %v, want above 0", o.path(f.key), *f.to)
			}
		}
	}
	if s.Bits != 0 && s.Bits != 16 && s.Bits != 24 {
		refuse(o.get("bits"), "16 is the default", "%s is %d, want 16 or 24", o.path("bits"), s.Bits)
	}
	if s.MinDelta > 0 && s.Patience == 0 {
		refuse(o.key("min_delta"), "add patience: after how many rounds without a better loss training stops", "%s has min_delta and no patience", what)
	}
	return s
}

// showModel writes what model reads.
func showModel(m *consilium.ModelSpec) *yaml.Node {
	q := mapping()
	if in := m.Input; in != nil {
		s := mapping()
		for _, f := range []struct {
			key string
			v   int
		}{{"steps", in.Steps}, {"height", in.Height}, {"width", in.Width}, {"channels", in.Channels}} {
			if f.v != 0 {
				s.set(f.key, number(float64(f.v)))
			}
		}
		q.set("input", s.inline())
	}
	layers := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
	for _, l := range m.Layers {
		size := l.Units
		if layerSize[l.Kind] == "kernel" {
			size = l.Kernel
		}
		if size == 0 {
			layers.Content = append(layers.Content, text(l.Kind))
			continue
		}
		one := mapping()
		one.set(l.Kind, number(float64(size)))
		if layerSize[l.Kind] != "kernel" && l.Kernel != 0 {
			one.set("kernel", number(float64(l.Kernel)))
		}
		if l.Stride != 0 {
			one.set("stride", number(float64(l.Stride)))
		}
		if l.Padding != "" {
			one.set("padding", text(l.Padding))
		}
		if l.Sequence {
			one.set("sequence", truth(true))
		}
		layers.Content = append(layers.Content, one.node)
	}
	q.set("layers", layers)
	q.set("loss", text(m.Loss))
	q.set("dtype", text(m.DType))
	if m.Missing != "" {
		q.set("missing", text(m.Missing))
	}
	if m.Balanced {
		q.set("class_weights", text("balanced"))
	}
	if len(m.ClassWeights) > 0 {
		q.set("class_weights", numbers(m.ClassWeights))
	}
	return q.node
}

// showStrategy writes what strategy reads.
func showStrategy(s *consilium.Strategy) *yaml.Node {
	q := mapping()
	q.set("name", text(s.Name))
	for _, f := range []struct {
		key string
		v   float64
	}{{"rounds", float64(s.Rounds)}, {"local_epochs", float64(s.LocalEpochs)}, {"batch", float64(s.Batch)}, {"rate", s.Rate},
		{"server_rate", s.ServerRate}, {"mu", s.Mu}, {"clip", s.Clip}, {"bits", float64(s.Bits)}, {"patience", float64(s.Patience)}, {"min_delta", s.MinDelta}} {
		if f.v != 0 {
			q.set(f.key, number(f.v))
		}
	}
	return q.inline()
}
