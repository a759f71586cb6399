// Command coldchain writes temperatures of refrigerated drug shipments that
// never took place, as their loggers would have told four hospital pharmacies.
// Everything is GENERATED from a fixed seed.
//
//	go run ./examples/coldchain > shipments.csv
//	consilium simulate --study examples/coldchain/excursions.yaml --data shipments.csv --site-column pharmacy --out out
//
// README.md says what is in the table and what to expect.
package main

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
)

// steps is how many temperatures a shipment has: one every half hour for a
// day.
const steps = 48

func main() {
	w := bufio.NewWriter(os.Stdout)
	if err := generate(w); err == nil {
		if err = w.Flush(); err == nil {
			return
		}
	}
	os.Exit(1)
}

// generate draws shipments: a compressor that goes on and off around 5 °C, the
// day's warmth, and a short peak when a door opens. About one in thirteen has an
// excursion: the cooling slowly fails, the box slowly freezes, or the compressor no
// longer cycles. Boxes differ more from one another than most excursions from
// their own box, and few leave 2 to 8 °C: a limit finds them late or never.
func generate(w io.Writer) error {
	r := rand.New(rand.NewPCG(20261121, 3))
	if _, err := fmt.Fprint(w, "shipment,pharmacy,excursion"); err != nil {
		return err
	}
	for t := range steps {
		if _, err := fmt.Fprintf(w, ",t%02d", t+1); err != nil {
			return err
		}
	}
	id := 0
	for site, n := range []int{1300, 1100, 900, 700} {
		for range n {
			id++
			kind := r.IntN(40) // 0 failing, 1 freezing, 2 stuck
			excursion := 0
			if kind < 3 {
				excursion = 1
			}
			if _, err := fmt.Fprintf(w, "\nS%05d,pharmacy-%c,%d", id, 'a'+site, excursion); err != nil {
				return err
			}
			phase := 2 * math.Pi * r.Float64()
			level := 5 + 0.7*r.NormFloat64()
			day := 0.3 + 0.6*r.Float64()
			door := r.IntN(steps)
			start := 12 + r.IntN(16)
			for t := range steps {
				cycle := 0.8 * math.Sin(2*math.Pi*float64(t)/6+phase)
				v := level - day*math.Cos(2*math.Pi*float64(t)/steps) + 0.15*r.NormFloat64()
				if t == door || t == door+1 {
					v += 0.6
				}
				if late := float64(t - start); t >= start {
					switch kind {
					case 0:
						v += 0.05 * late
					case 1:
						v -= 0.06 * late
					case 2:
						cycle = 0
					}
				}
				if r.IntN(200) == 0 {
					if _, err := fmt.Fprint(w, ","); err != nil { // the logger missed one
						return err
					}
					continue
				}
				if _, err := fmt.Fprintf(w, ",%.1f", v+cycle); err != nil {
					return err
				}
			}
		}
	}
	_, err := fmt.Fprintln(w)
	return err
}
