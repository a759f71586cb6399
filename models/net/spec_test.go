package net

import (
	"errors"
	"maps"
	"reflect"
	"strings"
	"testing"

	"consilium"
	"consilium/models"
)

// Each wrong study ends in one clear error that names the place and a way on.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*consilium.Spec, *consilium.AnalysisSpec)
		want   string
	}{
		{"no layers", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Model.Layers = nil }, "model.layers is empty"},
		{"no model", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Model = nil }, "model.layers is empty"},
		{"misspelt layer", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Model.Layers[1].Kind = "rleu" }, "did you mean relu?"},
		{"code as a layer", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Model.Layers[1].Kind = "exec(\"rm\")" }, "want dense, relu, tanh, sigmoid, conv1d"},
		{"activation first", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Model.Layers = layers("relu", 1) }, "follows a layer of another kind"},
		{"two activations", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Model.Layers = layers(4, "relu", "relu", 1) }, "follows a layer of another kind"},
		{"activation last", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Model.Layers = layers(1, "sigmoid") }, "last layer"},
		{"two outputs", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Model.Layers = layers(4, "relu", 2) }, "last layer is dense 2"},
		{"no units", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Model.Layers = layers(0, "relu", 1) }, "units 0"},
		{"negative units", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Model.Layers = layers(-1, "relu", 1) }, "units -1"},
		{"too wide", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Model.Layers = layers(1<<30, "relu", 1) }, "units 1073741824"},
		{"too large", func(_ *consilium.Spec, a *consilium.AnalysisSpec) {
			a.Model.Layers = layers(maxUnits, maxUnits, maxUnits, 1)
		}, "parameters"},
		{"too deep", func(_ *consilium.Spec, a *consilium.AnalysisSpec) {
			a.Model.Layers = make([]consilium.Layer, 1000)
		}, "1000 layers"},
		{"units on relu", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Model.Layers[1].Units = 3 }, "takes no units"},
		{"loss", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Model.Loss = "logisitc" }, "did you mean logistic?"},
		{"later loss", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Model.Loss = "cox" }, "a time and an event"},
		{"dtype", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Model.DType = "float16" }, "float32"},
		{"no features", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Features = nil }, "features is empty"},
		{"unknown feature", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Features[0] = "treet" }, "did you mean treat?"},
		{"repeated feature", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Features[0] = "sex" }, "stands twice"},
		{"identifier", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Features[0] = "id" }, "patient identifiers"},
		{"the answer", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Features[0] = "any" }, "its own answer"},
		{"the hospital", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Features[0] = "site" }, "leave it out"},
		{"no response", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Response = nil }, "response: {column"},
		{"times", func(_ *consilium.Spec, a *consilium.AnalysisSpec) {
			a.Response = &consilium.Response{Stop: "fu", Event: "any"}
		}, "response: {column"},
		{"levels squared", func(_ *consilium.Spec, a *consilium.AnalysisSpec) {
			a.Response.Column, a.Model.Loss, a.Features = "sex", "squared", []string{"age"}
		}, "two levels"},
		{"terms", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Terms = []string{"age"} }, "does not use terms"},
		{"family", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Family = "binomial" }, "model.loss"},
		{"strategy", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Strategy.Name = "fedavgg" }, "did you mean fedavg?"},
		{"bits", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Strategy.Bits = 32 }, "16 or 24"},
		{"rate", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Strategy.Rate = -1 }, "strategy.rate"},
		{"clip", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Strategy.Clip = -1 }, "strategy.clip"},
		{"batch", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Strategy.Batch = 1 << 20 }, "strategy.batch"},
		{"mu", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Strategy.Mu = 1 }, "fedprox only"},
		{"rounds", func(s *consilium.Spec, _ *consilium.AnalysisSpec) { s.Rounds.Max = 31 }, "needs 32 rounds"},
		{"type", func(_ *consilium.Spec, a *consilium.AnalysisSpec) { a.Type = "cox" }, "want train"},
	} {
		s, a := trialSpec(), trialAnalysis()
		c.change(s, a)
		_, err := New(consilium.Facts{Spec: s, Sites: []consilium.SiteID{"one"}}, a)
		if !errors.Is(err, consilium.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if _, err := New(consilium.Facts{}, nil); !errors.Is(err, consilium.ErrInvalid) {
		t.Errorf("nothing at all: %v", err)
	}
}

// The digest names layers, loss, type and inputs, and nothing else.
func TestDigest(t *testing.T) {
	base := consilium.ModelSpec{Layers: layers(4, "relu", 1), Loss: "logistic", DType: "float32"}
	of := func(m consilium.ModelSpec, inputs int) consilium.Digest {
		n, err := newNetwork(&m, inputs, "")
		if err != nil {
			t.Fatal(err)
		}
		return n.digest
	}
	seen := map[consilium.Digest]string{of(base, 3): "base"}
	implied := base
	implied.DType = ""
	if of(implied, 3) != of(base, 3) {
		t.Error("the default type has another digest")
	}
	more := func(name string, m consilium.ModelSpec, inputs int) {
		d := of(m, inputs)
		if other, ok := seen[d]; ok {
			t.Errorf("%s has the digest of %s", name, other)
		}
		seen[d] = name
	}
	more("inputs", base, 4)
	v := base
	v.Layers = layers(5, "relu", 1)
	more("units", v, 3)
	v.Layers = layers(4, "tanh", 1)
	more("activation", v, 3)
	v = base
	v.Loss = "squared"
	more("loss", v, 3)
	v = base
	v.DType = "float64"
	more("type", v, 3)
}

// First weights depend on seed, name and model, lie within their bounds, and
// have zero biases.
func TestInitialWeights(t *testing.T) {
	facts, spec, _ := trial(t)
	start := func() *models.State {
		a, err := newTrain(facts, spec)
		if err != nil {
			t.Fatal(err)
		}
		s, err := a.Start(facts)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	spec.Model.Layers = layers(16, "relu", 1)
	one, again := start(), start()
	for i := range one.F32 {
		if one.F32[i] != again.F32[i] {
			t.Fatal("the same study starts from other weights")
		}
	}
	var largest float32
	for i, w := range one.F32 {
		limit := float32(0.8660255) // sqrt(6/8) before the relu
		switch {
		case i >= 8*16 && i < 9*16 || i == len(one.F32)-1:
			limit = 0 // biases
		case i >= 9*16:
			limit = 0.5940886 // sqrt(6/17)
		default:
			largest = max(largest, w)
		}
		if w > limit || w < -limit {
			t.Errorf("weight %d is %v, want within %v", i, w, limit)
		}
	}
	if largest < 0.8 {
		t.Errorf("the largest of 128 weights is %v", largest)
	}
	facts.Spec.Seed = 2
	if other := start(); other.F32[0] == one.F32[0] {
		t.Error("the seed does not matter")
	}
}

// The generator: known first values (so that a change of it is seen), bounds,
// and every order of a small list about equally often.
func TestSource(t *testing.T) {
	s := newSource(consilium.Digest{})
	// AES-256 of the zero block under the zero key, as in McGrew and Viega, The
	// Galois/Counter Mode of Operation, test case 13 (their H).
	if a, b := s.uint64(), s.uint64(); a != 0xdc95c078a2408989 || b != 0xad48a21492842087 {
		t.Errorf("first values %x %x", a, b)
	}
	for range 1000 {
		if v := s.uniform(); !(v >= -1 && v < 1) {
			t.Fatalf("%v outside [-1, 1)", v)
		}
	}
	counts := map[[3]int]int{}
	for range 6000 {
		list := []int{0, 1, 2}
		s.shuffle(list)
		counts[[3]int(list)]++
	}
	for order, n := range counts {
		// Expected 1000, standard deviation 28.9: six of those.
		if n < 827 || n > 1173 {
			t.Errorf("order %v came %d times of 6000", order, n)
		}
	}
	if len(counts) != 6 {
		t.Errorf("%d orders of three", len(counts))
	}
}

// TestEveryKey sets each field that an analysis can have: training reads it, or
// refuses it by name. A field that is added later is refused until it is read.
func TestEveryKey(t *testing.T) {
	read := map[string]bool{}
	for i := range reflect.TypeFor[consilium.AnalysisSpec]().NumField() {
		var a consilium.AnalysisSpec
		f := reflect.ValueOf(&a).Elem().Field(i)
		key, _, _ := strings.Cut(reflect.TypeOf(a).Field(i).Tag.Get("json"), ",")
		switch f.Kind() {
		case reflect.String:
			f.SetString("x")
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Int:
			f.SetInt(1)
		case reflect.Float64:
			f.SetFloat(0.5)
		case reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
		case reflect.Map:
			f.Set(reflect.MakeMap(f.Type()))
			f.SetMapIndex(reflect.ValueOf("x"), reflect.Zero(f.Type().Elem()))
		case reflect.Pointer:
			f.Set(reflect.New(f.Type().Elem()))
		default:
			t.Fatalf("%s is a %v", key, f.Kind())
		}
		err := checkKeys(&a)
		if err == nil {
			read[key] = true
		} else if !strings.Contains(err.Error(), "does not use "+key+":") {
			t.Errorf("%s: %v", key, err)
		}
	}
	want := map[string]bool{"name": true, "type": true, "response": true, "ties": true, "features": true, "model": true, "strategy": true, "holdout": true}
	if !maps.Equal(read, want) {
		t.Errorf("training takes %v, want %v", read, want)
	}
	for key := range hints {
		if _, ok := reflect.TypeFor[consilium.AnalysisSpec]().FieldByNameFunc(func(name string) bool { return strings.EqualFold(name, key) }); !ok {
			t.Errorf("a hint for %s, which no analysis has", key)
		}
	}
}
