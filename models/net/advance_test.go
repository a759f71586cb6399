package net

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"consilium"
	"consilium/models"
)

// pieces is an opened sum as a stream of uneven pieces, in one buffer that is
// overwritten.
func pieces(l consilium.Layout, o models.Opened, fail error) models.Stream {
	out := models.Stream{Opened: models.Opened{Round: o.Round, Contributors: o.Contributors, Values: map[string][]float64{}}}
	learned := map[string]bool{}
	for _, b := range l.Blocks {
		if learned[b.Name] = b.Kind != consilium.Exact; !learned[b.Name] {
			out.Values[b.Name] = slices.Clone(o.Values[b.Name])
		}
	}
	out.Each = func(name string, piece func([]float64) error) error {
		if !learned[name] {
			return fmt.Errorf("no learned block %s", name)
		}
		buf := make([]float64, 13)
		for at, n := 0, 1; at < len(o.Values[name]); n = n%len(buf) + 3 {
			part := buf[:copy(buf[:min(n, len(buf))], o.Values[name][at:])]
			if at += len(part); fail != nil && at > len(o.Values[name])/2 {
				return fail
			}
			if err := piece(part); err != nil {
				return err
			}
			clear(buf)
		}
		return nil
	}
	return out
}

// Advance makes, in the memory of the state that it is given, the very state that
// Update makes beside it.
func TestAdvance(t *testing.T) {
	for _, strategy := range []consilium.Strategy{
		{Name: "fedavg"}, {Name: "fedprox", Mu: 0.1}, {Name: "fedadam"}, {Name: "fedyogi"}, {Name: "scaffold"}, {Name: "fedavg", Patience: 1},
	} {
		for _, dtype := range []string{"float32", "float64"} {
			for _, end := range []string{"", "wild", "diverged", "nobody", "beyond"} {
				facts, spec, _ := trial(t)
				spec.Model.DType = dtype
				s := strategy
				s.Rounds = 4
				spec.Strategy = &s
				a, err := newTrain(facts, spec)
				if err != nil {
					t.Fatal(err)
				}
				advance(t, a, fmt.Sprint(strategy.Name, " ", strategy.Patience, " ", dtype, " ", end), end)
			}
		}
	}
}

func advance(t *testing.T, a *train, name, end string) {
	t.Helper()
	s, err := a.Start(a.facts)
	if err != nil {
		t.Fatal(err)
	}
	src := newSource(consilium.DomainSeed.Digest([]byte("advance")))
	for round := uint32(1); !s.Done; round++ {
		layout, err := a.Layout(s)
		if err != nil {
			t.Fatal(err)
		}
		o := models.Opened{Round: round, Contributors: []consilium.Position{1, 2, 3}, Values: map[string][]float64{}}
		for _, b := range layout.Blocks {
			v := make([]float64, b.Length)
			for i := range v {
				switch b.Name {
				case "update", "control":
					v[i] = 0.02*src.uniform() - 0.01
				case "weight":
					v[i] = float64(50) * float64(1-min(i, 1))
				case "training", "holdout":
					if v[i] = 3 + src.uniform(); i == evalBad {
						v[i] = 0
					}
				default:
					v[i] = float64(100 + src.intn(50))
				}
			}
			o.Values[b.Name] = v
		}
		if s.Phase == phaseTrain && s.Iteration == 2 {
			switch end {
			case "wild":
				o.Values["training"][evalBad] = 1
			case "diverged":
				o.Values["weight"][2] = 1
			case "nobody":
				o.Values["weight"][0] = 0
			case "beyond": // the weights leave the numbers half way through the sum
				o.Values["update"][len(o.Values["update"])/2] = math.MaxFloat64
			}
		}
		before := s.Append(nil)
		want, err := a.Update(s, o)
		if err != nil {
			t.Fatal(err)
		}
		if !s.Is(before) {
			t.Fatalf("%s, round %d: Update changed the state that it was given", name, round)
		}
		mine, err := models.ParseState(before)
		if err != nil {
			t.Fatal(err)
		}
		got, err := a.Advance(mine, pieces(layout, o, nil))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Append(nil), want.Append(nil)) {
			t.Fatalf("%s, round %d: Advance makes another state than Update", name, round)
		}
		if s.Phase == phaseTrain && want.Phase == phaseTrain {
			// A sum that breaks off is an error, and so is one that is short or long.
			broken := errors.New("the disk")
			mine, _ := models.ParseState(before)
			if _, err := a.Advance(mine, pieces(layout, o, broken)); !errors.Is(err, broken) {
				t.Fatalf("%s: error %v", name, err)
			}
			if mine.Is(before) {
				t.Fatalf("%s: half of a sum did not reach the state, so the test shows nothing", name)
			}
			for _, by := range []int{-1, 1} {
				wrong := models.Opened{Values: map[string][]float64{}}
				for k, v := range o.Values {
					wrong.Values[k] = v
				}
				wrong.Values["update"] = make([]float64, a.net.params+by)
				mine, _ := models.ParseState(before)
				if _, err := a.Advance(mine, pieces(layout, wrong, nil)); err == nil {
					t.Fatalf("%s: an update of %d values for %d parameters", name, a.net.params+by, a.net.params)
				}
			}
		}
		s = want
	}
	if failed := s.Phase == phaseFailed; failed != (end != "") {
		t.Errorf("%s: failed %v", name, failed)
	}
}
